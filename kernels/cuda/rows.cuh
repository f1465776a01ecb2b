/* SPDX-License-Identifier: MIT */
/*
 * rows.cuh: what the operators share that look for the greatest elements of long rows, such as
 * logits. A row is cut into parts, so that few rows keep the machine busy; each is a block's, which
 * leaves what it has found in the scratch memory, and the row's last one puts that together.
 *
 * A key has the order of the elements: the greater one is first, of equal ones that with the lower
 * index. 0 is no element's key.
 */
#ifndef GPUQ_KERNELS_CUDA_ROWS_CUH
#define GPUQ_KERNELS_CUDA_ROWS_CUH

#include "kernels/cuda/arg.cuh"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/machine.h"

#define ROWS_THREADS 1024u
#define ROWS_MIN_PART 4096u /* elements; a multiple of every vector and of SAMPLE_GROUP */
#define ROWS_MAX_PARTS 32u
constexpr uint32_t ROWS_STEPS = 4; /* loads under way in a thread */

/* How rows of n elements are cut: block b takes part b % parts of row b / parts. */
struct rows_cut {
	uint64_t n, part; /* elements of a row, of a part */
	uint32_t rows, parts;
};

/* `room` floats of the scratch memory are for each part of a row that has several. */
static inline struct rows_cut rows_cut(uint64_t rows, uint64_t n, uint32_t room, uint32_t max_parts)
{
	const uint64_t wanted = machine_processors() / rows;
	uint64_t parts = blocks_of(n, ROWS_MIN_PART);

	parts = min(min(parts, (uint64_t)max_parts), CUDA_PARTIALS / room / rows);
	parts = min(parts, wanted);
	if (rows > CUDA_TICKETS || parts == 0)
		parts = 1;

	const uint64_t part = blocks_of(blocks_of(n, parts), ROWS_MIN_PART) * ROWS_MIN_PART;

	return (struct rows_cut){n, part, (uint32_t)rows, (uint32_t)blocks_of(n, part)};
}

/* The part of this block. */
struct rows_part {
	uint32_t row, part;
	uint64_t begin, end; /* in the row */
};

static __device__ inline struct rows_part rows_part_of(const struct rows_cut &cut)
{
	const uint32_t part = blockIdx.x % cut.parts;
	const uint64_t begin = part * cut.part;

	return (struct rows_part){
		blockIdx.x / cut.parts, part, begin, min(begin + cut.part, cut.n)};
}

/* True in the block that comes last of a row's, when all have left in scratch what they found. */
static __device__ inline bool rows_joined(
	struct cuda_scratch *scratch, const struct rows_cut &cut, uint32_t row)
{
	__shared__ bool last;

	__syncthreads();
	if (threadIdx.x == 0)
		last = cuda_last_of(&scratch->tickets[row], cut.parts);
	__syncthreads();
	return last;
}

/*
 * As rows_each(), V elements at a time, which are L. Code is new to its multiprocessor each time,
 * so f is there but V times.
 */
template <uint32_t V, typename L, typename T, typename At, typename F>
__device__ inline void rows_each_by(
	const T *row, uint64_t begin, uint64_t end, uint32_t thread, At at, F f)
{
	constexpr uint32_t STRIDE = ROWS_THREADS * V;

	for (uint64_t i = begin + thread * V; i < end;) {
		L loaded[ROWS_STEPS];

#pragma unroll
		for (uint32_t s = 0; s < ROWS_STEPS; s++)
			loaded[s] = *(const L *)(row + (i + s * STRIDE < end ? i + s * STRIDE : i));
#pragma unroll 1
		for (uint32_t s = 0; s < ROWS_STEPS && i < end; s++, i += STRIDE) {
#pragma unroll
			for (uint32_t e = 0; e < V; e++)
				f(at(loaded[0], e), i + e);
#pragma unroll
			for (uint32_t l = 1; l < ROWS_STEPS; l++)
				loaded[l - 1] = loaded[l];
		}
	}
}

/*
 * Calls f(value, index) of a thread's of elements begin..end-1, which ascend; each is one thread's.
 * `aligned`: rows begin where 16 bytes can be read.
 */
template <typename T, typename F>
__device__ inline void rows_each(const T *row, uint64_t begin, uint64_t end, bool aligned, F f,
	uint32_t thread = threadIdx.x)
{
	if (aligned)
		rows_each_by<vec_elements<T>, vec<T>>(
			row, begin, end, thread,
			[](const vec<T> &loaded, uint32_t e) { return loaded.at(e); }, f);
	else
		rows_each_by<1, T>(
			row, begin, end, thread,
			[](const T &loaded, uint32_t) { return to_float(loaded); }, f);
}

/* --- Keys --------------------------------------------------------------------------------- */

/* A NaN counts as -inf, zeros as positive. */
static __device__ inline uint64_t key_of(float value, uint64_t i)
{
	const uint32_t bits = __float_as_uint(isnan(value) ? -INFINITY : value + 0.0f);
	const uint32_t ordered = bits >> 31 != 0 ? ~bits : bits | 0x80000000u;

	return (uint64_t)ordered << 32 | (uint32_t)~i;
}

static __device__ inline float key_value(uint64_t key)
{
	const uint32_t ordered = (uint32_t)(key >> 32);

	return __uint_as_float(ordered >> 31 != 0 ? ordered & 0x7fffffffu : ~ordered);
}

static __device__ inline int32_t key_index(uint64_t key)
{
	return (int32_t) ~(uint32_t)key;
}

/* The first of the thread's elements begin..end-1; 0: it has none. */
template <typename T>
__device__ inline uint64_t rows_thread_first(
	const T *row, uint64_t begin, uint64_t end, bool aligned)
{
	float greatest = -INFINITY;
	int64_t index = -1;

	rows_each(row, begin, end, aligned, [&](float v, uint64_t i) {
		/* The first one counts whatever it is. */
		if (v > greatest || index < 0) {
			greatest = isnan(v) ? -INFINITY : v;
			index = (int64_t)i;
		}
	});
	return index < 0 ? 0 : key_of(greatest, (uint64_t)index);
}

#endif
