/* SPDX-License-Identifier: MIT */
/* gemv_short.cuh: gemv_batched of short rows, for whoever runs a block of it. */
#ifndef GPUQ_KERNELS_GEMV_BATCHED_GEMV_SHORT_CUH
#define GPUQ_KERNELS_GEMV_BATCHED_GEMV_SHORT_CUH

#include "kernels/cuda/arg.cuh"
#include "kernels/cuda/element.cuh"

#define SHORT 64u /* up to so many inputs a block has all of them at once */

struct gemv_task {
	struct arg x, w, bias, y;
	uint64_t batch, outputs, n;
	uint32_t row_tiles;
	bool has_bias;
	bool wide; /* y is f32 */
};

/*
 * A block has 32 rows and 32 outputs, in 64 tiles of 4 x 4. SLICES lanes share a tile: each adds
 * the products of some inputs, and in the end has two of its sums. What shared memory delivers to
 * registers is the limit, so tiles of 4 x 4: half as much for a product as 2 x 2.
 */
#define SHORT_SIDE 32u
#define SLICES 8u
#define SHORT_THREADS (SHORT_SIDE / 4 * SHORT_SIDE / 4 * SLICES)

/* The rows of x, then those of w; rows keep clear of each other's banks. */
struct short_memory {
	float of[2 * SHORT_SIDE][SHORT + 4];
};

/* Where a block's rows of either matrix begin, how many there are, and their inputs. */
template <typename T> struct short_inputs {
	const T *x, *w;
	uint32_t rows, outputs, n;
};

/* Brings what a thread loads, UNIT elements at a time; what is beyond the matrices is 0. */
template <typename T, bool VECTOR>
__device__ inline void short_bring(const struct short_inputs<T> &in, struct short_memory &memory)
{
	constexpr uint32_t UNIT = VECTOR ? vec_elements<T> : 1, ACROSS = SHORT / UNIT;
	constexpr uint32_t COUNT = 2 * SHORT_SIDE * ACROSS / SHORT_THREADS;
	vec<T> vecs[VECTOR ? COUNT : 1];
	T elements[VECTOR ? 1 : COUNT];

#pragma unroll
	for (uint32_t i = 0; i < COUNT; i++) {
		const uint32_t unit = threadIdx.x + i * SHORT_THREADS, row = unit / ACROSS;
		const uint32_t at = min(unit % ACROSS * UNIT, in.n - UNIT);
		const T *from = row < SHORT_SIDE
			? in.x + min(row, in.rows - 1) * in.n + at
			: in.w + min(row - SHORT_SIDE, in.outputs - 1) * in.n + at;

		if constexpr (VECTOR)
			vecs[i] = vec_load(from);
		else
			elements[i] = *from;
	}
#pragma unroll
	for (uint32_t i = 0; i < COUNT; i++) {
		const uint32_t unit = threadIdx.x + i * SHORT_THREADS, at = unit % ACROSS * UNIT;
		float *to = &memory.of[unit / ACROSS][at];

		if constexpr (VECTOR) {
#pragma unroll
			for (uint32_t e = 0; e < UNIT; e += 4)
				*(float4 *)&to[e] = at < in.n
					? make_float4(vecs[i].at(e), vecs[i].at(e + 1),
						  vecs[i].at(e + 2), vecs[i].at(e + 3))
					: make_float4(0, 0, 0, 0);
		} else {
			*to = at < in.n ? to_float(elements[i]) : 0;
		}
	}
}

/* Adds a lane's share of the products of a tile: sum 4 r + o is that of row r and output o. */
static __device__ inline void short_add(
	const struct short_memory &memory, uint32_t row, uint32_t output, float sums[16])
{
	const uint32_t slice = threadIdx.x % SLICES;

#pragma unroll
	for (uint32_t k = 0; k < SHORT; k += 4 * SLICES) {
		float x[4][4], w[4][4];

#pragma unroll
		for (uint32_t i = 0; i < 4; i++) {
			*(float4 *)x[i] = *(const float4 *)&memory.of[row + i][k + 4 * slice];
			*(float4 *)w[i] =
				*(const float4 *)&memory.of[SHORT_SIDE + output + i][k + 4 * slice];
		}
#pragma unroll
		for (uint32_t i = 0; i < 64; i++) {
			float *to = &sums[i / 4];

			*to = fmaf(x[i / 16][i % 4], w[i / 4 % 4][i % 4], *to);
		}
	}
}

/*
 * Adds up the lanes' sums; lane i of them then has sums 2 i and 2 i + 1, in sums[0] and [1]. LEFT:
 * so many are still to be added to as many others. (As one loop it is not always unrolled, and
 * then the sums are not in registers.)
 */
template <uint32_t LEFT = SLICES> static __device__ inline void short_join(float sums[16])
{
	constexpr uint32_t lanes = LEFT / 2;
	const bool upper = (threadIdx.x & lanes) != 0;

#pragma unroll
	for (uint32_t i = 0; i < LEFT; i++) {
		const float keep = upper ? sums[i + LEFT] : sums[i];
		const float give = upper ? sums[i] : sums[i + LEFT];

		sums[i] = keep + __shfl_xor_sync(ALL_LANES, give, lanes);
	}
	if constexpr (LEFT > 2)
		short_join<LEFT / 2>(sums);
}

/* What block `index` of a grid of SHORT_THREADS does. */
template <typename T>
__device__ inline void gemv_short_block(const struct gemv_task &task,
	const struct device_args *block, uint32_t index, struct short_memory &memory)
{
	const uint32_t tile = threadIdx.x / SLICES, slice = threadIdx.x % SLICES;
	const uint32_t tile_row = tile / 8 * 4, tile_output = tile % 8 * 4;
	const uint32_t first_row = index % task.row_tiles * SHORT_SIDE;
	const uint32_t first_output = index / task.row_tiles * SHORT_SIDE;
	const uint32_t row = first_row + tile_row + slice / 2;
	const uint32_t output = first_output + tile_output + slice % 2 * 2;
	const uint32_t n = (uint32_t)task.n, outputs = (uint32_t)task.outputs;
	const T *x = (const T *)arg_pointer(block, task.x);
	const T *w = (const T *)arg_pointer(block, task.w);
	const T *biases = task.has_bias ? (const T *)arg_pointer(block, task.bias) : NULL;
	char *y = arg_pointer(block, task.y);
	const struct short_inputs<T> in = {
		x + (uint64_t)first_row *n, w + (uint64_t)first_output *n,
			(uint32_t)task.batch - first_row, outputs - first_output, n
	};
	float sums[16] = {};
	T bias[2];

#pragma unroll
	for (uint32_t i = 0; i < 2; i++) {
		if (task.has_bias)
			bias[i] = biases[min(output + i, outputs - 1)];
	}
	if (aligned_16(x, w) && n % vec_elements<T> == 0)
		short_bring<T, true>(in, memory);
	else
		short_bring<T, false>(in, memory);
	__syncthreads();
	short_add(memory, tile_row, tile_output, sums);
	short_join(sums);
#pragma unroll
	for (uint32_t i = 0; i < 2; i++) {
		if (row < task.batch && output + i < outputs)
			store_output<T>(y, (uint64_t)row * outputs + output + i,
				task.has_bias ? sums[i] + to_float(bias[i]) : sums[i], task.wide);
	}
}

#endif
