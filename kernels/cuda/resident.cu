/* SPDX-License-Identifier: MIT */
/* resident.cu: the resident kernel, with the forms of operators that one block can do. */
#include "device/cuda/resident.cuh"
#include "kernels/cuda/dot_short.cuh"
#include "kernels/cuda/resident.cuh"
#include "kernels/gemv_batched/gemv_short.cuh"
#include "kernels/softmax/softmax_kept.cuh"

static_assert(SHORT_THREADS == CUDA_RESIDENT_THREADS, "a block of gemv_short");

/* What the threads of a block share, one form at a time. */
struct shared {
	__align__(16) struct short_memory short_rows;
};

/* Not inline: all types in one function would need more registers than there are. */
template <typename T>
static __device__ __noinline__ void serve_block(
	const struct cuda_command &command, uint32_t index, struct shared &shared)
{
	const void *task = command.task;
	const uint32_t shift = command.shift;

	switch (command.form) {
	case RESIDENT_GEMV_SHORT:
		gemv_short_block<T>(
			*(const struct gemv_task *)task, NULL, index, shared.short_rows);
		__syncthreads();
		break;
	case RESIDENT_DOT:
		dot_short_block<T, true, DOT_SHORT_ROWS>(
			*(const struct dot_task *)task, shift, NULL, index);
		break;
	case RESIDENT_DOT_VECS:
		dot_short_block<T, false, DOT_SHORT_ROWS>(
			*(const struct dot_task *)task, shift, NULL, index);
		break;
	case RESIDENT_SOFTMAX:
		softmax_kept_block<T, SOFTMAX_FEW, 0>(
			*(const struct softmax_task *)task, shift, NULL, index);
		break;
	case RESIDENT_SOFTMAX_MANY:
		softmax_kept_block<T, SOFTMAX_MANY, 0>(
			*(const struct softmax_task *)task, shift, NULL, index);
		break;
	case RESIDENT_SOFTMAX_ROW:
		softmax_kept_block<T, SOFTMAX_FEW, CUDA_RESIDENT_THREADS>(
			*(const struct softmax_task *)task, 0, NULL, index);
		break;
	case RESIDENT_SOFTMAX_ROW_MANY:
		softmax_kept_block<T, SOFTMAX_MANY, CUDA_RESIDENT_THREADS>(
			*(const struct softmax_task *)task, 0, NULL, index);
		break;
	}
}

static __global__ void BOUNDS(CUDA_RESIDENT_THREADS)
	resident(struct cuda_ring *ring, uint64_t *ended)
{
	__shared__ struct shared shared;

	cuda_reside(ring, ended, [&](const struct cuda_command &command) {
#pragma unroll 1
		for (uint32_t i = 0; i < command.blocks; i++) {
			if (command.dtype == GPUQ_F16)
				serve_block<__half>(command, i, shared);
			else if (command.dtype == GPUQ_BF16)
				serve_block<__nv_bfloat16>(command, i, shared);
			else
				serve_block<float>(command, i, shared);
		}
	});
}

const void *cuda_resident_kernel(void)
{
	return (const void *)resident;
}
