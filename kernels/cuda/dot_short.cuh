/* SPDX-License-Identifier: MIT */
/* dot_short.cuh: the short form of dot.cuh, for whoever runs a block of it. */
#ifndef GPUQ_KERNELS_CUDA_DOT_SHORT_CUH
#define GPUQ_KERNELS_CUDA_DOT_SHORT_CUH

#include "kernels/cuda/dot.cuh"
#include "kernels/cuda/element.cuh"

#define DOT_SHORT_BYTES 4096u /* of a row */
#define DOT_SHORT_ROWS 4u     /* of a lane, where they are many */

struct places {
	uint64_t row, vec, bias;
};

template <bool SHARED>
__device__ inline struct places places_of(const struct dot_task &task, uint32_t r)
{
	if (SHARED)
		return (struct places){r, 0, r};
	const uint32_t group = task.period != 0 ? r / task.period : 0;
	const uint32_t place = task.period != 0 ? r % task.period : r;

	return (struct places){.row = task.rows_repeat ? place : r,
		.vec = task.vec_by_place ? place : group,
		.bias = place};
}

/* The products of 16 bytes, in pairs. */
template <typename T> __device__ inline float vec_dot(const vec<T> &a, const vec<T> &b)
{
	float even = 0, odd = 0;

#pragma unroll
	for (uint32_t i = 0; i < vec_elements<T>; i += 2) {
		even = fmaf(a.at(i), b.at(i), even);
		odd = fmaf(a.at(i + 1), b.at(i + 1), odd);
	}
	return even + odd;
}

/* The bias is loaded with the rows but becomes a float at the end: nothing waits for it alone. */
template <typename T>
__device__ inline void store_dot(
	const struct dot_task &task, char *out, uint32_t r, float sum, T bias)
{
	store_output<T>(out, r, task.has_bias ? sum + to_float(bias) : sum, task.wide);
}

/* --- Short rows --------------------------------------------------------------------------- */

/* The rows of one lane; those beyond the last repeat it, and their sums are not stored. */
template <typename T, uint32_t ROWS> struct short_rows {
	const T *row[ROWS], *vec_at[ROWS];
	float sum[ROWS];
};

/* Adds 16 bytes of each row in a step. The vector that all share is loaded once. */
template <typename T, bool SHARED, uint32_t ROWS>
__device__ inline void short_by_vec(
	struct short_rows<T, ROWS> &rows, uint32_t n, uint32_t lane, uint32_t lanes)
{
	constexpr uint32_t V = vec_elements<T>;

	for (uint32_t i = lane * V; i < n; i += lanes * V) {
		vec<T> a[ROWS], b[ROWS];

#pragma unroll
		for (uint32_t r = 0; r < ROWS; r++) {
			a[r] = vec_load(rows.row[r] + i);
			if (!SHARED || r == 0)
				b[r] = vec_load(rows.vec_at[r] + i);
		}
#pragma unroll
		for (uint32_t r = 0; r < ROWS; r++)
			rows.sum[r] += vec_dot<T>(a[r], b[SHARED ? 0 : r]);
	}
}

/* The same one element at a time, for rows that are not aligned. */
template <typename T, uint32_t ROWS>
__device__ inline void short_by_element(
	struct short_rows<T, ROWS> &rows, uint32_t n, uint32_t lane, uint32_t lanes)
{
#pragma unroll 4
	for (uint32_t i = lane; i < n; i += lanes) {
#pragma unroll
		for (uint32_t r = 0; r < ROWS; r++)
			rows.sum[r] = fmaf(
				to_float(rows.row[r][i]), to_float(rows.vec_at[r][i]), rows.sum[r]);
	}
}

/* What block `index` of a grid does. A row is shared by 1 << shift lanes. */
template <typename T, bool SHARED, uint32_t ROWS>
__device__ inline void dot_short_block(const struct dot_task &task, uint32_t shift,
	const struct device_args *block, uint32_t index)
{
	const T *base = (const T *)arg_pointer(block, task.rows);
	const T *vecs = (const T *)arg_pointer(block, task.vecs);
	const T *biases = task.has_bias ? (const T *)arg_pointer(block, task.bias) : NULL;
	char *out = arg_pointer(block, task.out);
	const uint32_t lanes = 1u << shift, lane = threadIdx.x & (lanes - 1);
	const uint32_t teams = blockDim.x >> shift, n = (uint32_t)task.n;
	const uint32_t first = index * teams * ROWS + (threadIdx.x >> shift);
	struct short_rows<T, ROWS> rows;
	T bias[ROWS];

#pragma unroll
	for (uint32_t r = 0; r < ROWS; r++) {
		const uint32_t at = min(first + r * teams, (uint32_t)task.count - 1);
		const struct places places = places_of<SHARED>(task, at);

		rows.row[r] = base + places.row * n;
		rows.vec_at[r] = vecs + places.vec * n;
		rows.sum[r] = 0;
		if (task.has_bias)
			bias[r] = biases[places.bias];
	}
	if (aligned_16(base, vecs) && n % vec_elements<T> == 0)
		short_by_vec<T, SHARED, ROWS>(rows, n, lane, lanes);
	else
		short_by_element<T, ROWS>(rows, n, lane, lanes);
	lanes_sums<ROWS>(rows.sum, lanes);
#pragma unroll
	for (uint32_t r = 0; r < ROWS; r++) {
		if (lane == 0 && first + r * teams < task.count)
			store_dot<T>(task, out, first + r * teams, rows.sum[r], bias[r]);
	}
}

#endif
