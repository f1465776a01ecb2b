/* SPDX-License-Identifier: MIT */
/*
 * embedding in CUDA: a thread copies eight columns. What it takes is a launch, and the rows' bytes
 * over the bandwidth.
 */
#include "kernels/cuda/arg.cuh"
#include "kernels/cuda/codes.h"
#include "kernels/cuda/eight.cuh"

#define THREADS 256u

struct embedding_task {
	struct arg tokens, table, y;
	uint64_t rows, n;	 /* of the table */
	uint64_t count;		 /* tokens */
	uint32_t blocks_per_row; /* of y */
	bool wide;
};

template <typename T>
__global__ void BOUNDS(THREADS) embedding_rows(const __grid_constant__ struct embedding_task task,
	const __grid_constant__ struct cuda_completion done)
{
	cuda_begin();
	const int32_t *tokens = (const int32_t *)arg_pointer(done.block, task.tokens);
	const T *table = (const T *)arg_pointer(done.block, task.table);
	const eight_rows<T> y(arg_pointer(done.block, task.y), task.n, task.wide);
	const uint64_t row = blockIdx.x / task.blocks_per_row;
	const uint64_t column =
		((uint64_t)(blockIdx.x % task.blocks_per_row) * THREADS + threadIdx.x) * EIGHT;
	const int64_t token = index_at(tokens, row);
	struct eight e = {};

	if (column < task.n) {
		if (token >= 0 && token < (int64_t)task.rows)
			e = eight_load(table + token * task.n + column, task.n - column,
				eight_aligned(table, task.n));
		y.store(row * task.n + column, e, task.n - column);
	}
	cuda_complete(done);
}

static int launch(const struct device_kernel *kernel, const struct cuda_args *args,
	const struct cuda_target *to)
{
	const struct op_launch *op = (const struct op_launch *)kernel->shape;
	const struct tensor *in = op->call.in, *y = &op->call.out[0];
	const struct cuda_completion done = cuda_completion(kernel, args);
	struct embedding_task task = {};

	task.tokens = arg_tensor(args, &in[0], op->in[0]);
	task.table = arg_tensor(args, &in[1], op->in[1]);
	task.y = arg_tensor(args, y, op->out[0]);
	task.rows = in[1].dims[0];
	task.n = in[1].dims[1];
	task.count = in[0].dims[0];
	task.wide = y->dtype == GPUQ_F32;
	if (task.n == 0 || task.count == 0)
		return launch_nothing(kernel, args, to);

	const uint64_t per_row = blocks_of(task.n, THREADS * EIGHT);

	if (per_row > INT_MAX || task.count > INT_MAX / per_row)
		return -EOPNOTSUPP;
	task.blocks_per_row = (uint32_t)per_row;
	return with_type(in[1].dtype, [&](auto type) {
		return run(to, embedding_rows<decltype(type)>, (uint32_t)(task.count * per_row),
			THREADS, task, done);
	});
}

static int touch(void)
{
	return touch_types([](auto type) { return touch_kernel(embedding_rows<decltype(type)>); });
}

const struct cuda_code embedding_cuda = {"embedding", launch, NULL, touch, NULL};
