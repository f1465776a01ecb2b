/* SPDX-License-Identifier: MIT */
/* softmax_kept.cuh: softmax of rows that stay in registers, for whoever runs a block of it. */
#ifndef GPUQ_KERNELS_SOFTMAX_SOFTMAX_KEPT_CUH
#define GPUQ_KERNELS_SOFTMAX_SOFTMAX_KEPT_CUH

#include "kernels/cuda/arg.cuh"
#include "kernels/cuda/element.cuh"

#define SOFTMAX_FEW 8u /* elements of a row that a thread keeps */
#define SOFTMAX_MANY 32u

struct softmax_task {
	struct arg x, y, temperature;
	uint64_t rows, n;
	bool wide; /* y is f32 */
};

/* What the exponent is multiplied with. */
static __device__ inline float inverse_temperature(
	const struct softmax_task &task, const struct device_args *block)
{
	return (float)(1.0 / arg_f64(block, task.temperature));
}

/* --- Teams: COUNT threads, or (1 << shift) lanes where COUNT is 0 --------------------------- */

/* Calls `lanes`, lanes_max() or lanes_sum(), for the lanes of a team and then for its warps. */
template <uint32_t COUNT, typename Lanes>
__device__ inline float team_reduce(float v, uint32_t shift, float none, Lanes lanes)
{
	if constexpr (COUNT == 0) {
		return lanes(v, 1u << shift);
	} else {
		__shared__ float warps[WARP];

		v = lanes(v, WARP);
		if (threadIdx.x % WARP == 0)
			warps[threadIdx.x / WARP] = v;
		__syncthreads();
		v = lanes(
			threadIdx.x % WARP < COUNT / WARP ? warps[threadIdx.x % WARP] : none, WARP);
		__syncthreads();
		return v;
	}
}

template <uint32_t COUNT> __device__ inline float team_max(float v, uint32_t shift)
{
	return team_reduce<COUNT>(v, shift, -INFINITY, lanes_max);
}

template <uint32_t COUNT> __device__ inline float team_sum(float v, uint32_t shift)
{
	return team_reduce<COUNT>(v, shift, 0, lanes_sum);
}

/* --- Rows that stay in registers ---------------------------------------------------------- */

/*
 * The elements of a row that a thread has: groups of V of them, at distance `stride`. Beyond the
 * row they are -inf, which a maximum does not see, and a sum of exponentials only when it is NaN
 * anyway: in a row of -inf alone.
 */
template <typename T, uint32_t ITEMS>
__device__ inline void load_by_vec(
	float v[ITEMS], const T *row, uint32_t n, uint32_t lane, uint32_t lanes)
{
	constexpr uint32_t V = vec_elements<T>;
	vec<T> loaded[ITEMS / V];

#pragma unroll
	for (uint32_t i = 0; i < ITEMS / V; i++)
		loaded[i] = vec_load(row + min((lane + i * lanes) * V, n - V));
#pragma unroll
	for (uint32_t i = 0; i < ITEMS; i++)
		v[i] = (lane + i / V * lanes) * V < n ? loaded[i / V].at(i % V) : -INFINITY;
}

template <typename T, uint32_t ITEMS>
__device__ inline void load_by_element(
	float v[ITEMS], const T *row, uint32_t n, uint32_t lane, uint32_t lanes)
{
	T loaded[ITEMS];

#pragma unroll
	for (uint32_t i = 0; i < ITEMS; i++)
		loaded[i] = row[min(lane + i * lanes, n - 1)];
#pragma unroll
	for (uint32_t i = 0; i < ITEMS; i++)
		v[i] = lane + i * lanes < n ? to_float(loaded[i]) : -INFINITY;
}

/* Turns the scores of a team into probabilities. */
template <uint32_t ITEMS, uint32_t COUNT>
__device__ inline void normalise(float v[ITEMS], float inverse_t, uint32_t shift)
{
	float greatest = v[0], sum = 0;

#pragma unroll
	for (uint32_t i = 1; i < ITEMS; i++)
		greatest = fmaxf(greatest, v[i]);
	greatest = team_max<COUNT>(greatest, shift);
#pragma unroll
	for (uint32_t i = 0; i < ITEMS; i++) {
		v[i] = expf((v[i] - greatest) * inverse_t);
		sum += v[i];
	}
	sum = 1 / team_sum<COUNT>(sum, shift);
#pragma unroll
	for (uint32_t i = 0; i < ITEMS; i++)
		v[i] *= sum;
}

/* Four (f32) or eight neighbours at a time where they are aligned. */
template <typename T> __device__ inline void store_vec(T *to, const float *v)
{
	vec<T> packed;
	T *elements = (T *)&packed;

#pragma unroll
	for (uint32_t i = 0; i < vec_elements<T>; i++)
		from_float(&elements[i], v[i]);
	*(uint4 *)to = packed.bits;
}

/* V elements that lie next to each other in the row and in a thread. */
template <typename T, uint32_t V>
__device__ inline void store_group(char *y, uint64_t at, const float *v, bool wide, bool aligned)
{
	if (aligned && wide) {
#pragma unroll
		for (uint32_t i = 0; i < V; i += 4)
			store_vec((float *)y + at + i, v + i);
	} else if (aligned && V == vec_elements<T>) {
		store_vec((T *)y + at, v);
	} else {
#pragma unroll
		for (uint32_t i = 0; i < V; i++)
			store_output<T>(y, at + i, v[i], wide);
	}
}

/* What block `index` of a grid does. */
template <typename T, uint32_t ITEMS, uint32_t COUNT>
__device__ inline void softmax_kept_block(const struct softmax_task &task, uint32_t shift,
	const struct device_args *block, uint32_t index)
{
	constexpr uint32_t V = vec_elements<T>;
	const T *x = (const T *)arg_pointer(block, task.x);
	char *y = arg_pointer(block, task.y);
	const float inverse_t = inverse_temperature(task, block);
	const uint32_t lanes = COUNT == 0 ? 1u << shift : COUNT, lane = threadIdx.x & (lanes - 1);
	const uint32_t n = (uint32_t)task.n, team = threadIdx.x / lanes;
	const uint64_t row = (uint64_t)index * (blockDim.x / lanes) + team;
	const uint64_t begin = min(row, task.rows - 1) * n; /* teams beyond the last repeat it */
	const bool by_vec = aligned_16(x, NULL) && n % V == 0;
	const bool aligned = aligned_16(y, NULL);
	float v[ITEMS];

	if (by_vec)
		load_by_vec<T, ITEMS>(v, x + begin, n, lane, lanes);
	else
		load_by_element<T, ITEMS>(v, x + begin, n, lane, lanes);
	normalise<ITEMS, COUNT>(v, inverse_t, shift);
	if (by_vec && row < task.rows) {
#pragma unroll
		for (uint32_t i = 0; i < ITEMS / V; i++) {
			const uint32_t at = (lane + i * lanes) * V;

			if (at < n)
				store_group<T, V>(y, begin + at, &v[i * V], task.wide, aligned);
		}
	} else if (row < task.rows) {
#pragma unroll
		for (uint32_t i = 0; i < ITEMS; i++) {
			if (lane + i * lanes < n)
				store_output<T>(y, begin + lane + i * lanes, v[i], task.wide);
		}
	}
}

#endif
