/* SPDX-License-Identifier: MIT */
/*
 * async.cuh: copies into shared memory that take no registers while they are under way. A thread
 * closes groups of its own ones and waits for the oldest; others see what they brought after a
 * barrier.
 */
#ifndef GPUQ_KERNELS_CUDA_ASYNC_CUH
#define GPUQ_KERNELS_CUDA_ASYNC_CUH

#include <stdint.h>

/*
 * 16 bytes, both on a boundary of as many. The cache is told that nobody will ask for these again,
 * so that other things stay there.
 */
static __device__ inline void async_copy(uint4 *to, const void *from)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
	uint64_t policy;

	asm("createpolicy.fractional.L2::evict_first.b64 %0;" : "=l"(policy));
	asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(
			     (uint32_t)__cvta_generic_to_shared(to)),
		     "l"(__cvta_generic_to_global(from)), "l"(policy)
		     : "memory");
#else
	*to = *(const uint4 *)from;
#endif
}

static __device__ inline void async_close(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
	asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Until no more than LEFT of the last groups are under way. */
template <uint32_t LEFT> static __device__ inline void async_wait(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
	asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
#endif
}

#endif
