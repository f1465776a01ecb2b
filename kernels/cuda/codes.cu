/* SPDX-License-Identifier: MIT */
/* What the module for CUDA can run, and what all of it asks about the machine. */
#include "kernels/cuda/codes.h"
#include "kernels/cuda/machine.h"

extern "C" const struct cuda_code *const cuda_codes[] = {
	&gemv_batched_cuda,
	&softmax_cuda,
	&price_vectors_cuda,
	&embedding_cuda,
	&rmsnorm_cuda,
	&rope_cuda,
	&swiglu_cuda,
	&argmax_cuda,
	&step_result_cuda,
	&sample_cuda,
	&linear_cuda,
	&kv_append_cuda,
	&paged_attention_cuda,
};
extern "C" const uint32_t cuda_codes_count = sizeof(cuda_codes) / sizeof(cuda_codes[0]);

static uint32_t processors = 1;

int machine_touch(void)
{
	int device, count;
	cudaError_t err = cudaGetDevice(&device);

	if (err == cudaSuccess)
		err = cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
	if (err == cudaSuccess)
		processors = (uint32_t)count;
	return cuda_error(err);
}

uint32_t machine_processors(void)
{
	return processors;
}
