/* SPDX-License-Identifier: MIT */
/*
 * eights.cuh: what rmsnorm does with eight neighbours of a row. Thread i of RMSNORM_THREADS has
 * those from EIGHT i on and from each RMSNORM_STEP further; whoever adds up squares in this order,
 * then by block_total(), has the bits of all others.
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

/* NaN and infinities: a quotient of an infinity is NaN, and 0 times one is NaN too. */
static __device__ inline double rmsnorm_factor(double squares, uint64_t n, double eps)
{
	return 1 / sqrt(squares / (double)n + eps);
}

static __device__ inline float rmsnorm_one(float summed, float weight, double factor)
{
	return (float)((double)summed * factor * (double)weight);
}

static __device__ inline struct eight rmsnorm_apply(
	const struct eight &summed, const struct eight &weights, double factor)
{
	struct eight e;

#pragma unroll
	for (uint32_t i = 0; i < EIGHT; i++)
		e.v[i] = rmsnorm_one(summed.v[i], weights.v[i], factor);
	return e;
}

#endif
