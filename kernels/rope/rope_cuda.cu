/* SPDX-License-Identifier: MIT */
/*
 * rope in CUDA: a block for each position finds the cosines and sines of up to PAIRS pairs, in
 * double, and turns all heads with them. What it takes is a launch and 1 us for those, or the bytes
 * of x and y over the bandwidth.
 */
#include "kernels/cuda/codes.h"
#include "kernels/cuda/element.cuh"
#include "kernels/rope/turn.cuh"

#define THREADS 256u
#define PAIRS 256u

struct rope_task {
	struct arg x, positions, y;
	struct turn_args turns;
	uint64_t heads, columns;
	bool wide;
};

template <typename T>
__global__ void BOUNDS(THREADS) rope_position(const __grid_constant__ struct rope_task task,
	const __grid_constant__ struct cuda_completion done)
{
	cuda_begin();
	__shared__ struct turn turns[PAIRS];
	const int32_t *positions = (const int32_t *)arg_pointer(done.block, task.positions);
	const T *x = (const T *)arg_pointer(done.block, task.x);
	char *y = arg_pointer(done.block, task.y);
	const struct turn_params params = turn_params_of(task.turns, done.block);
	const uint64_t from = blockIdx.x * task.heads * task.columns, half = task.columns / 2;
	const int32_t position = index_at(positions, blockIdx.x);

	for (uint64_t first = 0; first < half; first += PAIRS) {
		const uint64_t pairs = min(half - first, (uint64_t)PAIRS);

		__syncthreads();
		if (threadIdx.x < pairs)
			turns[threadIdx.x] = turn_of(position,
				turn_frequency(params, first + threadIdx.x, task.columns));
		__syncthreads();
		for (uint64_t i = threadIdx.x; i < task.heads * pairs; i += THREADS) {
			const uint64_t at = from + i / pairs * task.columns + first + i % pairs;
			float left = to_float(x[at]), right = to_float(x[at + half]);

			turn_pair(&left, &right, turns[i % pairs]);
			store_output<T>(y, at, left, task.wide);
			store_output<T>(y, at + half, right, task.wide);
		}
	}
	cuda_complete(done);
}

static_assert(THREADS >= PAIRS, "a thread for each pair");

static int launch(const struct device_kernel *kernel, const struct cuda_args *args,
	const struct cuda_target *to)
{
	const struct op_launch *op = (const struct op_launch *)kernel->shape;
	const struct tensor *x = &op->call.in[0], *y = &op->call.out[0];
	const struct cuda_completion done = cuda_completion(kernel, args);
	struct rope_task task = {};

	task.x = arg_tensor(args, x, op->in[0]);
	task.positions = arg_tensor(args, &op->call.in[1], op->in[1]);
	task.y = arg_tensor(args, y, op->out[0]);
	task.turns = turn_args_of(args, op);
	task.heads = x->dims[1];
	task.columns = x->dims[2];
	task.wide = y->dtype == GPUQ_F32;
	if (x->dims[0] == 0 || task.heads == 0 || task.columns == 0)
		return launch_nothing(kernel, args, to);
	if (x->dims[0] > INT_MAX)
		return -EOPNOTSUPP;
	return with_type(x->dtype, [&](auto type) {
		return run(to, rope_position<decltype(type)>, (uint32_t)x->dims[0], THREADS, task,
			done);
	});
}

static int touch(void)
{
	return touch_types([](auto type) { return touch_kernel(rope_position<decltype(type)>); });
}

const struct cuda_code rope_cuda = {"rope", launch, NULL, touch, NULL};
