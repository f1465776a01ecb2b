/* SPDX-License-Identifier: MIT */
/*
 * swiglu in CUDA: a thread makes eight outputs. What it takes is a launch, and the bytes of all
 * tensors over the bandwidth.
 */
#include "kernels/cuda/arg.cuh"
#include "kernels/cuda/codes.h"
#include "kernels/cuda/eight.cuh"
#include "kernels/cuda/silu.cuh"

extern "C" {
#include "kernels/work.h"
}

#define THREADS 256u

struct swiglu_task {
	struct arg gate, up, y;
	uint64_t rows, n;     /* of y */
	uint64_t gate_stride; /* from row to row; 2 n where the second half of the gate is up */
	uint64_t eights;      /* in a row */
	bool apart, wide;
};

template <typename T>
__global__ void BOUNDS(THREADS) swiglu_rows(const __grid_constant__ struct swiglu_task task,
	const __grid_constant__ struct cuda_completion done)
{
	cuda_begin();
	const T *gates = (const T *)arg_pointer(done.block, task.gate);
	const T *ups = task.apart ? (const T *)arg_pointer(done.block, task.up) : gates + task.n;
	const eight_rows<T> y(arg_pointer(done.block, task.y), task.n, task.wide);
	const uint64_t unit = (uint64_t)blockIdx.x * THREADS + threadIdx.x;
	const uint64_t row = unit / task.eights, column = unit % task.eights * EIGHT;
	const uint64_t from = row * task.gate_stride + column, left = task.n - column;

	if (row < task.rows) {
		const struct eight g = eight_load(gates + from, left, eight_aligned(gates, task.n));
		const struct eight u = eight_load(ups + from, left, eight_aligned(ups, task.n));
		struct eight e;

#pragma unroll
		for (uint32_t i = 0; i < EIGHT; i++)
			e.v[i] = silu(g.v[i]) * u.v[i];
		y.store(row * task.n + column, e, left);
	}
	cuda_complete(done);
}

static int launch(const struct device_kernel *kernel, const struct cuda_args *args,
	const struct cuda_target *to)
{
	const struct op_launch *op = (const struct op_launch *)kernel->shape;
	const struct tensor *gate = &op->call.in[0], *up = &op->call.in[1], *y = &op->call.out[0];
	const struct cuda_completion done = cuda_completion(kernel, args);
	struct swiglu_task task = {};

	task.apart = tensor_present(up);
	task.gate = arg_tensor(args, gate, op->in[0]);
	if (task.apart)
		task.up = arg_tensor(args, up, op->in[1]);
	task.y = arg_tensor(args, y, op->out[0]);
	task.rows = tensor_rows(y);
	task.n = tensor_columns(y);
	task.gate_stride = tensor_columns(gate);
	task.eights = blocks_of(task.n, EIGHT);
	task.wide = y->dtype == GPUQ_F32;
	if (task.rows == 0 || task.n == 0)
		return launch_nothing(kernel, args, to);

	const uint64_t blocks = blocks_of(task.rows * task.eights, THREADS);

	if (blocks > INT_MAX)
		return -EOPNOTSUPP;
	return with_type(gate->dtype, [&](auto type) {
		return run(to, swiglu_rows<decltype(type)>, (uint32_t)blocks, THREADS, task, done);
	});
}

static int touch(void)
{
	return touch_types([](auto type) { return touch_kernel(swiglu_rows<decltype(type)>); });
}

const struct cuda_code swiglu_cuda = {"swiglu", launch, NULL, touch, NULL};
