/* SPDX-License-Identifier: MIT */
/*
 * rmsnorm in CUDA: a block for each row. Of a row of up to 8192 columns each element is read once;
 * longer ones are read again, from the cache. What it takes is a launch and two trips to memory
 * (3 us), or the bytes of all tensors over the bandwidth.
 *
 * Squares, their total and the quotients are doubles, so that no row needs another way.
 */
#include "kernels/cuda/arg.cuh"
#include "kernels/cuda/codes.h"
#include "kernels/rmsnorm/eights.cuh"

extern "C" {
#include "kernels/work.h"
}

#define KEPT 4u /* eights of a row that a thread keeps */

struct rmsnorm_task {
	struct arg x, weight, residual, y, sum, eps;
	uint64_t rows, n;
	double share; /* of a square in the mean */
	uint32_t weight_dtype;
	bool added; /* there is a residual */
	bool early; /* weights may be read before the kernels before this one have ended */
	bool y_wide, sum_wide;
};

/* One row; T is the type of x. */
template <typename T> struct rmsnorm_row {
	const T *x, *residual; /* NULL: there is none */
	char *sum;
	uint64_t n;
	bool sum_wide, x_aligned, residual_aligned, sum_aligned;

	/* What is normalised, as it was stored. */
	__device__ inline struct eight summed(uint64_t at) const
	{
		if (residual == NULL)
			return eight_load(x + at, n - at, x_aligned);
		return sum_wide ? eight_load((const float *)sum + at, n - at, sum_aligned)
				: eight_load((const T *)sum + at, n - at, sum_aligned);
	}

	/* The same for the first time. */
	__device__ inline struct eight add(uint64_t at) const
	{
		struct eight e = eight_load(x + at, n - at, x_aligned);

		if (residual == NULL)
			return e;
		const struct eight r = eight_load(residual + at, n - at, residual_aligned);

#pragma unroll
		for (uint32_t i = 0; i < EIGHT; i++) {
			e.v[i] += r.v[i];
			if (!sum_wide) {
				T rounded;

				from_float(&rounded, e.v[i]);
				e.v[i] = to_float(rounded);
			}
		}
		if (sum_wide)
			eight_store((float *)sum + at, e, n - at, sum_aligned);
		else
			eight_store((T *)sum + at, e, n - at, sum_aligned);
		return e;
	}
};

template <typename T>
__device__ inline struct rmsnorm_row<T> row_of(
	const struct rmsnorm_task &task, const struct device_args *block, uint64_t from) {
	struct rmsnorm_row<T> row = {
		.x = (const T *)arg_pointer(block, task.x), .n = task.n
	};

	row.x_aligned = eight_aligned(row.x, task.n);
	row.x += from;
	if (!task.added)
		return row;
	row.residual = (const T *)arg_pointer(block, task.residual);
	row.residual_aligned = eight_aligned(row.residual, task.n);
	row.residual += from;
	row.sum = arg_pointer(block, task.sum);
	row.sum_wide = task.sum_wide;
	row.sum_aligned = task.sum_wide ? eight_aligned((const float *)row.sum, task.n)
					: eight_aligned((const T *)row.sum, task.n);
	row.sum += from * (task.sum_wide ? sizeof(float) : sizeof(T));
	return row;
}

template <typename T>
__global__ void BOUNDS(RMSNORM_THREADS)
	rmsnorm_rows(const __grid_constant__ struct rmsnorm_task task,
		const __grid_constant__ struct cuda_completion done)
{
	const uint64_t from = blockIdx.x * task.n, step = RMSNORM_STEP;

	cuda_let_next();
	if (!task.early)
		cuda_await();

	const char *weight = arg_pointer(done.block, task.weight);
	struct eight weights[KEPT];

#pragma unroll
	for (uint32_t k = 0; k < KEPT; k++) {
		const uint64_t at = k * step + threadIdx.x * EIGHT;

		weights[k] = {};
		if (at < task.n)
			weights[k] = rmsnorm_weights(weight, task.weight_dtype, at, task.n);
	}
	cuda_await();

	const struct rmsnorm_row<T> row = row_of<T>(task, done.block, from);
	const eight_rows<T> y(arg_pointer(done.block, task.y), task.n, task.y_wide);
	const double eps = arg_f64(done.block, task.eps);
	struct rmsnorm_products products[KEPT];
	double squares = 0;

#pragma unroll
	for (uint32_t k = 0; k < KEPT; k++) {
		const uint64_t at = k * step + threadIdx.x * EIGHT;

		if (at < task.n) {
			const struct eight summed = row.add(at);

			squares += rmsnorm_squares(summed);
			products[k] = rmsnorm_multiply(summed, weights[k]);
		}
	}
	for (uint64_t at = KEPT * step + threadIdx.x * EIGHT; at < task.n; at += step)
		squares += rmsnorm_squares(row.add(at));

	const double factor = rmsnorm_factor(rmsnorm_total(squares), task.share, eps);

#pragma unroll
	for (uint32_t k = 0; k < KEPT; k++) {
		const uint64_t at = k * step + threadIdx.x * EIGHT;

		if (at < task.n)
			y.store(from + at, rmsnorm_apply(products[k], factor), task.n - at);
	}
	for (uint64_t at = KEPT * step + threadIdx.x * EIGHT; at < task.n; at += step)
		y.store(from + at,
			rmsnorm_apply(
				rmsnorm_multiply(row.summed(at),
					rmsnorm_weights(weight, task.weight_dtype, at, task.n)),
				factor),
			task.n - at);
	cuda_complete(done);
}

static int launch(const struct device_kernel *kernel, const struct cuda_args *args,
	const struct cuda_target *to)
{
	const struct op_launch *op = (const struct op_launch *)kernel->shape;
	const struct tensor *in = op->call.in, *out = op->call.out;
	const struct cuda_completion done = cuda_completion(kernel, args);
	struct rmsnorm_task task = {};

	task.x = arg_tensor(args, &in[0], op->in[0]);
	task.weight = arg_tensor(args, &in[1], op->in[1]);
	task.y = arg_tensor(args, &out[0], op->out[0]);
	task.added = tensor_present(&in[2]);
	if (task.added) {
		task.residual = arg_tensor(args, &in[2], op->in[2]);
		task.sum = arg_tensor(args, &out[1], op->out[1]);
	}
	task.eps = arg_param(args, &op->call.params[0], op->params[0]);
	task.rows = tensor_rows(&in[0]);
	task.n = tensor_columns(&in[0]);
	task.share = rmsnorm_share(task.n);
	task.weight_dtype = in[1].dtype;
	task.early = (op->constants & 1u << 1) != 0;
	task.y_wide = out[0].dtype == GPUQ_F32;
	task.sum_wide = out[1].dtype == GPUQ_F32;
	if (task.rows == 0 || task.n == 0)
		return launch_nothing(kernel, args, to);
	if (task.rows > INT_MAX)
		return -EOPNOTSUPP;
	return with_type(in[0].dtype, [&](auto type) {
		return run(to, rmsnorm_rows<decltype(type)>, (uint32_t)task.rows, RMSNORM_THREADS,
			task, done);
	});
}

static int touch(void)
{
	return touch_types([](auto type) { return touch_kernel(rmsnorm_rows<decltype(type)>); });
}

const struct cuda_code rmsnorm_cuda = {"rmsnorm", launch, NULL, touch, NULL};
