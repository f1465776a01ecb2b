/* SPDX-License-Identifier: MIT */
/*
 * eight.cuh: eight neighbours of a row as floats: 16 or 32 bytes, which is what a thread of an
 * operator that only reads and writes takes at a time.
 */
#ifndef GPUQ_KERNELS_CUDA_EIGHT_CUH
#define GPUQ_KERNELS_CUDA_EIGHT_CUH

#include "kernels/cuda/element.cuh"

#define EIGHT 8u

struct eight {
	float v[EIGHT];
};

/* Rows of n elements from here on can be read 16 bytes at a time, from each eighth element on. */
template <typename T> __device__ inline bool eight_aligned(const T *rows, uint64_t n)
{
	return aligned_16(rows, NULL) && n % vec_elements<T> == 0;
}

/* `valid` of them (more are as good as eight); zeros after them. */
template <typename T>
__device__ inline struct eight eight_load(const T *p, uint64_t valid, bool aligned)
{
	constexpr uint32_t V = vec_elements<T>;
	struct eight e;

	if (aligned && valid >= EIGHT) {
		vec<T> loaded[EIGHT / V];

#pragma unroll
		for (uint32_t i = 0; i < EIGHT / V; i++)
			loaded[i] = vec_load(p + i * V);
#pragma unroll
		for (uint32_t i = 0; i < EIGHT; i++)
			e.v[i] = loaded[i / V].at(i % V);
	} else {
#pragma unroll
		for (uint32_t i = 0; i < EIGHT; i++)
			e.v[i] = i < valid ? to_float(p[i]) : 0;
	}
	return e;
}

/* Rounds each once. */
template <typename T>
__device__ inline void eight_store(T *p, const struct eight &e, uint64_t valid, bool aligned)
{
	constexpr uint32_t V = vec_elements<T>;

	if (aligned && valid >= EIGHT) {
		vec<T> packed[EIGHT / V];

#pragma unroll
		for (uint32_t i = 0; i < EIGHT; i++)
			from_float((T *)packed + i, e.v[i]);
#pragma unroll
		for (uint32_t i = 0; i < EIGHT / V; i++)
			*(uint4 *)(p + i * V) = packed[i].bits;
	} else {
#pragma unroll
		for (uint32_t i = 0; i < EIGHT; i++) {
			if (i < valid)
				from_float(p + i, e.v[i]);
		}
	}
}

/* Rows of an output, of f32 or of the inputs' type. */
template <typename T> struct eight_rows {
	char *data;
	bool wide, aligned;

	__device__ inline eight_rows(char *at, uint64_t n, bool is_wide) : data(at), wide(is_wide)
	{
		aligned = is_wide ? eight_aligned((const float *)at, n)
				  : eight_aligned((const T *)at, n);
	}

	__device__ inline void store(uint64_t at, const struct eight &e, uint64_t valid) const
	{
		if (wide)
			eight_store((float *)data + at, e, valid, aligned);
		else
			eight_store((T *)data + at, e, valid, aligned);
	}
};

#endif
