/* SPDX-License-Identifier: MIT */
/* block.cuh: what the threads of a block find out together. */
#ifndef GPUQ_KERNELS_CUDA_BLOCK_CUH
#define GPUQ_KERNELS_CUDA_BLOCK_CUH

#include "kernels/cuda/element.cuh"

/*
 * The values of THREADS threads combined, always in the same order; in all of them. `none` changes
 * nothing. Each combination has shared memory of its own.
 */
template <uint32_t THREADS, typename V, typename Combine>
__device__ inline V block_combine(V v, V none, Combine combine)
{
	__shared__ V warps[THREADS / WARP];

#pragma unroll
	for (uint32_t d = WARP / 2; d > 0; d /= 2)
		v = combine(v, __shfl_xor_sync(ALL_LANES, v, d));
	if (threadIdx.x % WARP == 0)
		warps[threadIdx.x / WARP] = v;
	__syncthreads();
	v = threadIdx.x % WARP < THREADS / WARP ? warps[threadIdx.x % WARP] : none;
#pragma unroll
	for (uint32_t d = WARP / 2; d > 0; d /= 2)
		v = combine(v, __shfl_xor_sync(ALL_LANES, v, d));
	__syncthreads();
	return v;
}

template <uint32_t THREADS> __device__ inline double block_total(double v)
{
	return block_combine<THREADS>(v, 0.0, [](double a, double b) { return a + b; });
}

template <uint32_t THREADS> __device__ inline uint64_t block_greatest(uint64_t v)
{
	return block_combine<THREADS>(
		v, (uint64_t)0, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
}

#endif
