/* SPDX-License-Identifier: MIT */
/*
 * argmax in CUDA: each part of a row finds its first element (kernels/cuda/rows.cuh). What it
 * takes is a launch, 1 us for the last block, and the bytes of x over the bandwidth.
 */
#include "kernels/cuda/codes.h"
#include "kernels/cuda/rows.cuh"

struct argmax_task {
	struct arg x, index, value;
	struct rows_cut cut;
	bool has_value;
};

static __device__ inline void write_first(const struct argmax_task &task,
	const struct device_args *block, uint32_t row, uint64_t first)
{
	((int32_t *)arg_pointer(block, task.index))[row] = key_index(first);
	if (task.has_value)
		((float *)arg_pointer(block, task.value))[row] = key_value(first);
}

template <typename T>
__global__ void BOUNDS(ROWS_THREADS) argmax_rows(const __grid_constant__ struct argmax_task task,
	struct cuda_scratch *scratch, const __grid_constant__ struct cuda_completion done)
{
	cuda_begin();
	const struct rows_part part = rows_part_of(task.cut);
	const T *x = (const T *)arg_pointer(done.block, task.x);
	const bool aligned = aligned_16(x, NULL) && task.cut.n % vec_elements<T> == 0;
	uint64_t *keys = (uint64_t *)scratch->partials + part.row * task.cut.parts;
	uint64_t first = block_greatest<ROWS_THREADS>(
		rows_thread_first(x + part.row * task.cut.n, part.begin, part.end, aligned));

	if (task.cut.parts > 1) {
		if (threadIdx.x == 0)
			keys[part.part] = first;
		if (rows_joined(scratch, task.cut, part.row) && threadIdx.x == 0) {
			for (uint32_t i = 0; i < task.cut.parts; i++)
				first = max(first, __ldcg(&keys[i]));
			write_first(task, done.block, part.row, first);
		}
	} else if (threadIdx.x == 0) {
		write_first(task, done.block, part.row, first);
	}
	cuda_complete(done);
}

static int launch(const struct device_kernel *kernel, const struct cuda_args *args,
	const struct cuda_target *to)
{
	const struct op_launch *op = (const struct op_launch *)kernel->shape;
	const struct tensor *x = &op->call.in[0], *out = op->call.out;
	const struct cuda_completion done = cuda_completion(kernel, args);
	struct argmax_task task = {};

	if (x->dims[0] == 0)
		return launch_nothing(kernel, args, to);
	if (x->dims[0] > INT_MAX)
		return -EOPNOTSUPP;
	task.x = arg_tensor(args, x, op->in[0]);
	task.index = arg_tensor(args, &out[0], op->out[0]);
	task.has_value = tensor_present(&out[1]);
	if (task.has_value)
		task.value = arg_tensor(args, &out[1], op->out[1]);
	task.cut = rows_cut(x->dims[0], x->dims[1], 2, ROWS_MAX_PARTS);
	return with_type(x->dtype, [&](auto type) {
		return run(to, argmax_rows<decltype(type)>, task.cut.rows * task.cut.parts,
			ROWS_THREADS, task, args->scratch, done);
	});
}

static int touch(void)
{
	const int err = machine_touch();

	return err != 0
		? err
		: touch_types([](auto type) { return touch_kernel(argmax_rows<decltype(type)>); });
}

const struct cuda_code argmax_cuda = {"argmax", launch, NULL, touch, NULL};
