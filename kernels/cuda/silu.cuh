/* SPDX-License-Identifier: MIT */
/* silu.cuh: the activation of swiglu. */
#ifndef GPUQ_KERNELS_CUDA_SILU_CUH
#define GPUQ_KERNELS_CUDA_SILU_CUH

/* As the form for the CPU: exp(-|g|) cannot overflow. */
static __device__ inline float silu(float g)
{
	const float e = expf(-fabsf(g));

	return g * ((g < 0 ? e : 1) / (e + 1));
}

#endif
