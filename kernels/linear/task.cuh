/* SPDX-License-Identifier: MIT */
/* task.cuh: what linear's kernels are asked to do, and what becomes of the sums they find. */
#ifndef GPUQ_KERNELS_LINEAR_TASK_CUH
#define GPUQ_KERNELS_LINEAR_TASK_CUH

#include "kernels/cuda/arg.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/silu.cuh"
#include "kernels/rmsnorm/eights.cuh"

struct linear_task {
	struct arg x, w, scales, bias, residual, norm, eps, y;
	uint64_t rows, outputs, n;
	uint64_t w_rows;     /* the outputs, or twice as many where they are gated */
	double share;	     /* of an input's square in the norm's mean */
	uint32_t row_slices; /* blocks that share weights */
	uint32_t slices;     /* warps that share outputs */
	uint32_t block;	     /* outputs of a block, */
	uint32_t tile;	     /* and of a team of its warps at a time (ring.cuh) */
	uint32_t bias_dtype; /* 0: none */
	uint32_t norm_dtype; /* likewise, or x is normalised already */
	bool scaled, added, wide;
	bool early; /* weights, the norm's too, may be read before cuda_await() */
};

/* Outputs of a tile. */
template <bool GATED> constexpr uint32_t linear_wide = GATED ? MMA_OUTPUTS / 2 : MMA_OUTPUTS;

/*
 * A row of the weights times one of x, as IEEE 754 has it, whatever the terms are. `factor`: of the
 * norm, where x is not normalised yet.
 */
template <typename T, typename X>
__device__ __noinline__ float exact_sum(const struct linear_task &task,
	const struct device_args *block, uint64_t row, uint64_t w_row, double factor)
{
	const T *w = (const T *)arg_pointer(block, task.w) + w_row * task.n;
	const X *x = (const X *)arg_pointer(block, task.x) + row * task.n;
	double sum = 0;

	for (uint64_t i = 0; i < task.n; i++) {
		float v = to_float(x[i]);

		if (task.norm_dtype != 0)
			v = (float)(factor *
				rmsnorm_product(v,
					float_at(arg_pointer(block, task.norm), task.norm_dtype,
						i)));
		sum = fma((double)to_float(w[i]), (double)v, sum);
	}
	return (float)sum;
}

/*
 * What an output has besides its sums, of a row of the weights or of two; what there is not is not
 * looked at.
 */
struct linear_terms {
	float scales[2], biases[2], residual;
};

template <bool GATED>
__device__ inline struct linear_terms terms_of(const struct linear_task &task,
	const struct device_args *block, uint64_t row, uint64_t output)
{
	struct linear_terms terms = {};

#pragma unroll
	for (uint32_t i = 0; i < (GATED ? 2 : 1); i++) {
		const uint64_t w_row = i * task.outputs + output;

		if (task.scaled)
			terms.scales[i] = ((const float *)arg_pointer(block, task.scales))[w_row];
		if (task.bias_dtype != 0)
			terms.biases[i] =
				float_at(arg_pointer(block, task.bias), task.bias_dtype, w_row);
	}
	if (task.added)
		terms.residual = ((const float *)arg_pointer(
			block, task.residual))[row * task.outputs + output];
	return terms;
}

/*
 * What a row of the weights makes of a row of x, from the sum of products on. Here and below no
 * compiler may join a product with what is added: all forms have the same bits, and a gated output
 * those of its parts.
 */
template <typename T, typename X>
__device__ inline float finish_sum(const struct linear_task &task, const struct device_args *block,
	uint64_t row, uint64_t w_row, float sum, float scale, float bias, double factor)
{
	if (!isfinite(sum))
		sum = exact_sum<T, X>(task, block, row, w_row, factor);
	if (task.scaled)
		sum = __fmul_rn(sum, scale);
	return task.bias_dtype != 0 ? __fadd_rn(sum, bias) : sum;
}

/* `up`: of a gated output the sum of what is let through. */
template <typename T, typename X, bool GATED>
__device__ inline void write_output(const struct linear_task &task, const struct device_args *block,
	uint64_t row, uint64_t output, float sum, float up, const struct linear_terms &terms,
	double factor = 1)
{
	sum = finish_sum<T, X>(
		task, block, row, output, sum, terms.scales[0], terms.biases[0], factor);
	if (GATED)
		sum = __fmul_rn(silu(sum),
			finish_sum<T, X>(task, block, row, task.outputs + output, up,
				terms.scales[1], terms.biases[1], factor));
	if (task.added)
		sum = __fadd_rn(sum, terms.residual);
	store_output<X>(arg_pointer(block, task.y), row * task.outputs + output, sum, task.wide);
}

#endif
