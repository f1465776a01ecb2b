/* SPDX-License-Identifier: MIT */
/*
 * element.cuh: elements of float tensors in CUDA: one by one, or 16 bytes at a time. A tensor of a
 * client may be written while it is read, so nothing here depends on what a value is.
 */
#ifndef GPUQ_KERNELS_CUDA_ELEMENT_CUH
#define GPUQ_KERNELS_CUDA_ELEMENT_CUH

#include "shm/gpuq-types.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define WARP 32u
#define ALL_LANES 0xffffffffu

/*
 * For each kernel. With 1 block to a multiprocessor in sight the compiler does not save registers
 * by waiting for one load before it issues the next.
 */
#define BOUNDS(threads) __launch_bounds__(threads, 1)

/* Elements in 16 bytes. */
template <typename T> constexpr uint32_t vec_elements = 16 / sizeof(T);

static __device__ inline float to_float(float v)
{
	return v;
}

static __device__ inline float to_float(__half v)
{
	return __half2float(v);
}

static __device__ inline float to_float(__nv_bfloat16 v)
{
	return __bfloat162float(v);
}

/* Of a tensor that is of any float type. */
static __device__ inline float float_at(const char *data, uint32_t dtype, uint64_t i)
{
	if (dtype == GPUQ_F16)
		return to_float(((const __half *)data)[i]);
	if (dtype == GPUQ_BF16)
		return to_float(((const __nv_bfloat16 *)data)[i]);
	return ((const float *)data)[i];
}

static __device__ inline void from_float(float *to, float v)
{
	*to = v;
}

static __device__ inline void from_float(__half *to, float v)
{
	*to = __float2half_rn(v);
}

static __device__ inline void from_float(__nv_bfloat16 *to, float v)
{
	*to = __float2bfloat16_rn(v);
}

/*
 * 16 bytes as they were loaded; they become floats where they are used, not where they arrive.
 * Loads are unconditional, at addresses that are kept within the tensor: only then does the
 * compiler issue all of a thread's before it waits for the first.
 */
template <typename T> struct vec {
	uint4 bits;

	__device__ inline float at(uint32_t i) const;
};

template <> __device__ inline float vec<float>::at(uint32_t i) const
{
	const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};

	return __uint_as_float(words[i]);
}

template <> __device__ inline float vec<__half>::at(uint32_t i) const
{
	const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};

	return __half2float(__ushort_as_half((uint16_t)(words[i / 2] >> i % 2 * 16)));
}

template <> __device__ inline float vec<__nv_bfloat16>::at(uint32_t i) const
{
	const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};

	return __uint_as_float(i % 2 == 0 ? words[i / 2] << 16 : words[i / 2] & 0xffff0000u);
}

template <typename T> __device__ inline vec<T> vec_load(const T *p)
{
	return (vec<T>){*(const uint4 *)p};
}

static __device__ inline bool aligned_16(const void *a, const void *b)
{
	return (((uint64_t)a | (uint64_t)b) & 15) == 0;
}

/* Output i, rounded once: f32, or the type of the inputs. */
template <typename T>
__device__ inline void store_output(char *out, uint64_t i, float value, bool wide)
{
	if (wide)
		((float *)out)[i] = value;
	else
		from_float((T *)out + i, value);
}

/* A sum that keeps what its additions lose. */
struct total {
	float sum, lost;
};

static __device__ inline void total_add(struct total *t, float v)
{
	const float due = v - t->lost;
	const float sum = t->sum + due;
	const float error = (sum - t->sum) - due;

	t->sum = sum;
	/* Once the sum is infinite there is nothing to correct: inf - inf would spoil it. */
	t->lost = error - error == 0 ? error : 0;
}

/* Each sum over groups of `lanes` lanes, a power of two; in all of them. */
template <uint32_t COUNT> __device__ inline void lanes_sums(float v[COUNT], uint32_t lanes)
{
	for (uint32_t d = lanes / 2; d > 0; d /= 2) {
#pragma unroll
		for (uint32_t i = 0; i < COUNT; i++)
			v[i] += __shfl_xor_sync(ALL_LANES, v[i], d);
	}
}

static __device__ inline float lanes_sum(float v, uint32_t lanes)
{
	lanes_sums<1>(&v, lanes);
	return v;
}

/* Likewise the greatest that is a number. */
static __device__ inline float lanes_max(float v, uint32_t lanes)
{
	for (uint32_t d = lanes / 2; d > 0; d /= 2)
		v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, d));
	return v;
}

/* Calls f of a type that stands for the dtype: f(float()), f(__half()) or f(__nv_bfloat16()). */
template <typename F> static auto with_type(uint32_t dtype, F f)
{
	if (dtype == GPUQ_F16)
		return f(__half());
	if (dtype == GPUQ_BF16)
		return f(__nv_bfloat16());
	return f(float());
}

#endif
