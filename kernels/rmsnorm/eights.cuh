/* SPDX-License-Identifier: MIT */
/*
 * eights.cuh: what rmsnorm does with eight neighbours of a row. Thread i of RMSNORM_THREADS has
 * those from EIGHT i on and from each RMSNORM_STEP further; whoever adds up squares in this order,
 * then by rmsnorm_total(), has the bits of all others.
 */
#ifndef GPUQ_KERNELS_RMSNORM_EIGHTS_CUH
#define GPUQ_KERNELS_RMSNORM_EIGHTS_CUH

#include "kernels/cuda/eight.cuh"

#define RMSNORM_THREADS 256u
#define RMSNORM_STEP (RMSNORM_THREADS * EIGHT)

static __device__ inline double rmsnorm_squares(const struct eight &e)
{
	double squares = 0;

#pragma unroll
	for (uint32_t i = 0; i < EIGHT; i++)
		squares = fma((double)e.v[i], (double)e.v[i], squares);
	return squares;
}

static __device__ inline struct eight rmsnorm_weights(
	const char *weight, uint32_t dtype, uint64_t at, uint64_t n)
{
	if (dtype == GPUQ_F16)
		return eight_load((const __half *)weight + at, n - at,
			eight_aligned((const __half *)weight, n));
	if (dtype == GPUQ_BF16)
		return eight_load((const __nv_bfloat16 *)weight + at, n - at,
			eight_aligned((const __nv_bfloat16 *)weight, n));
	return eight_load(
		(const float *)weight + at, n - at, eight_aligned((const float *)weight, n));
}

/*
 * The sums of the first RMSNORM_THREADS threads together, in all threads of the block, which all
 * come here, and once in a kernel.
 */
static __device__ inline double rmsnorm_total(double squares)
{
	constexpr uint32_t WARPS = RMSNORM_THREADS / WARP;
	__shared__ __align__(16) double warps[WARPS];
	double all[WARPS];

	if (threadIdx.x < RMSNORM_THREADS) {
#pragma unroll
		for (uint32_t d = WARP / 2; d > 0; d /= 2)
			squares += __shfl_xor_sync(ALL_LANES, squares, d);
		if (threadIdx.x % WARP == 0)
			warps[threadIdx.x / WARP] = squares;
	}
	__syncthreads();
#pragma unroll
	for (uint32_t i = 0; i < WARPS; i++)
		all[i] = warps[i];
#pragma unroll
	for (uint32_t d = WARPS / 2; d > 0; d /= 2) {
#pragma unroll
		for (uint32_t i = 0; i < d; i++)
			all[i] += all[i + d];
	}
	return all[0];
}

/* What one square is of their mean. */
static inline double rmsnorm_share(uint64_t n)
{
	return 1 / (double)n;
}

/* NaN and infinities: a quotient of an infinity is NaN, and 0 times one is NaN too. */
static __device__ inline double rmsnorm_factor(double squares, double share, double eps)
{
	return rsqrt(squares * share + eps);
}

/*
 * An element times its weight: without an error, so that it need not wait for the factor, which is
 * all that is left to multiply by.
 */
static __device__ inline double rmsnorm_product(float summed, float weight)
{
	return (double)summed * (double)weight;
}

struct rmsnorm_products {
	double v[EIGHT];
};

static __device__ inline struct rmsnorm_products rmsnorm_multiply(
	const struct eight &summed, const struct eight &weights)
{
	struct rmsnorm_products products;

#pragma unroll
	for (uint32_t i = 0; i < EIGHT; i++)
		products.v[i] = rmsnorm_product(summed.v[i], weights.v[i]);
	return products;
}

static __device__ inline struct eight rmsnorm_apply(
	const struct rmsnorm_products &products, double factor)
{
	struct eight e;

#pragma unroll
	for (uint32_t i = 0; i < EIGHT; i++)
		e.v[i] = (float)(products.v[i] * factor);
	return e;
}

#endif
