/* SPDX-License-Identifier: MIT */
/*
 * attention_row.cuh: paged_attention for one row of a sequence, which is what decoding does, over
 * heads of 64 or 128 columns. It computes the very bits of attend() in paged_attention_cuda.cu, and
 * waits for memory less often: a thread has eight tokens' keys under way at once, and their values
 * while it makes the weights.
 *
 * A team of LANES lanes has every TEAMS-th token, eight columns each, as there. Sums over lanes are
 * made of halves: of the sums of 2 n tokens a lane gives away n and takes n, so that n additions
 * add what 2 n did, pairwise the same numbers; in the end each lane has one token's score.
 */
#ifndef GPUQ_KERNELS_ATTENTION_ROW_CUH
#define GPUQ_KERNELS_ATTENTION_ROW_CUH

#include "kernels/paged_attention/attention.cuh"

#define BATCH 8u /* tokens of a team whose scores are made at once */

template <typename T, uint32_t ITEMS, uint32_t LANES> struct row_attention {
	static constexpr uint32_t COLUMNS = LANES * EIGHT, TEAMS = THREADS / LANES;
	static constexpr uint32_t TOKENS = PART / TEAMS; /* of a team */
	static constexpr uint32_t OUTPUTS = ITEMS * COLUMNS;
	static constexpr uint32_t OWN = (OUTPUTS + THREADS - 1) / THREADS; /* a thread's */
	static constexpr uint32_t VECS = EIGHT / vec_elements<T>;
	static_assert(TOKENS <= 2 * BATCH && TOKENS % BATCH == 0 && PART % TEAMS == 0 &&
			TEAMS % KV_TOKENS == 0,
		"");
	static_assert(OUTPUTS <= ROOM, "room for the sums of a warp");

	/* A token's keys or values, as they were loaded. */
	struct loaded {
		vec<T> vecs[VECS];

		__device__ inline float at(uint32_t c) const
		{
			return vecs[c / vec_elements<T>].at(c % vec_elements<T>);
		}
	};

	struct attention_memory &m;
	const T *keys; /* of the thread's slot and columns in block 0 */
	uint64_t block_stride, to_values;
	uint32_t begin, end; /* positions that the row sees */
	float query[ITEMS][EIGHT];
	float scale;

	static __device__ inline uint32_t lane(void)
	{
		return threadIdx.x % LANES;
	}

	static __device__ inline uint32_t token(uint32_t k)
	{
		return threadIdx.x / LANES + k * TEAMS;
	}

	/* Where the weights of a token lie, one of each item. */
	__device__ inline float *weights(uint32_t t) const
	{
		return &m.scores[0][0] + t * ITEMS;
	}

	__device__ inline bool sees(uint32_t first, uint32_t t, int32_t block) const
	{
		return first + t >= begin && first + t < end && block >= 0;
	}

	__device__ inline struct loaded load(const T *from, int32_t block, bool seen) const
	{
		struct loaded l = {};

		if (seen) {
#pragma unroll
			for (uint32_t v = 0; v < VECS; v++)
				l.vecs[v] = vec_load(from + (uint64_t)block * block_stride +
					v * vec_elements<T>);
		}
		return l;
	}

	/* Of BATCH tokens' products with one query: the lane has token lane / (LANES / 8). */
	static __device__ inline float sum_lanes(float dots[BATCH])
	{
#pragma unroll
		for (uint32_t d = LANES / 2, n = BATCH / 2; d > 0; d /= 2, n /= 2) {
			const bool upper = (threadIdx.x & d) != 0;

			if (n == 0) {
				dots[0] += __shfl_xor_sync(ALL_LANES, dots[0], d);
				continue;
			}
#pragma unroll
			for (uint32_t i = 0; i < n; i++) {
				const float mine = upper ? dots[n + i] : dots[i];
				const float given = upper ? dots[i] : dots[n + i];

				dots[i] = mine + __shfl_xor_sync(ALL_LANES, given, d);
			}
		}
		return dots[0];
	}

	/* Of one of the team's tokens, for all items; *ret_k: which of them it is. */
	__device__ inline void make_scores(uint32_t first, const int32_t blocks[TOKENS],
		float scores[ITEMS], uint32_t *ret_k) const
	{
#pragma unroll
		for (uint32_t b = 0; b < TOKENS / BATCH; b++) {
			float dots[ITEMS][BATCH] = {};
			struct loaded key[BATCH];

#pragma unroll
			for (uint32_t k = 0; k < BATCH; k++) {
				const int32_t block = blocks[b * BATCH + k];

				key[k] =
					load(keys, block, sees(first, token(b * BATCH + k), block));
			}
#pragma unroll
			for (uint32_t k = 0; k < BATCH; k++) {
#pragma unroll
				for (uint32_t c = 0; c < EIGHT * ITEMS; c++)
					dots[c % ITEMS][k] = fmaf(query[c % ITEMS][c / ITEMS],
						key[k].at(c / ITEMS), dots[c % ITEMS][k]);
			}
#pragma unroll
			for (uint32_t i = 0; i < ITEMS; i++) {
				const float dot = sum_lanes(dots[i]);

				/* Rounded here, before anything is subtracted from it. */
				if (b == 0 || (threadIdx.x & 1) != 0)
					scores[i] = __fmul_rn(dot, scale);
			}
		}
		*ret_k = TOKENS == BATCH ? lane() : lane() / 2 + (lane() & 1) * BATCH;
	}

	/* Scores become weights, which all see then. False: the row sees nothing of the part. */
	__device__ inline bool make_weights(
		const float scores[ITEMS], uint32_t t, bool seen, float greatest[ITEMS]) const
	{
		const uint32_t warp = threadIdx.x / WARP;

#pragma unroll
		for (uint32_t i = 0; i < ITEMS; i++) {
			greatest[i] =
				lanes_max(seen ? fmaxf(-INFINITY, scores[i]) : -INFINITY, WARP);
			if (threadIdx.x % WARP == 0)
				m.greatest_of[warp][i] = greatest[i];
		}

		const bool any = __syncthreads_or(seen);

#pragma unroll
		for (uint32_t i = 0; i < ITEMS; i++) {
			for (uint32_t w = 0; w < WARPS; w++)
				greatest[i] = fmaxf(greatest[i], m.greatest_of[w][i]);
			weights(t)[i] = seen ? expf(scores[i] - greatest[i]) : 0;
		}
		__syncthreads();
		return any;
	}

	/* A warp for each item. */
	__device__ inline void make_total(bool any) const
	{
		const uint32_t i = threadIdx.x / WARP;
		float sum = 0;

		if (i >= ITEMS)
			return;
		for (uint32_t t = threadIdx.x % WARP; t < PART; t += WARP)
			sum += weights(t)[i];
		sum = lanes_sum(sum, WARP);
		if (threadIdx.x % WARP == 0)
			m.part_total[i] = any ? sum : 0;
	}

	/* Adds what the teams of a warp have and leaves it for the other warps. */
	__device__ inline void leave_sums(float sums[ITEMS][EIGHT]) const
	{
		uint32_t n = EIGHT / 2, at = lane() * EIGHT;

#pragma unroll
		for (uint32_t d = LANES; d < WARP; d *= 2, n /= 2) {
			const bool upper = (threadIdx.x & d) != 0;

			at += upper ? n : 0;
#pragma unroll
			for (uint32_t v = 0; v < ITEMS * EIGHT; v++) {
				const uint32_t i = v / EIGHT, c = v % EIGHT;

				if (c >= n)
					continue;
				const float mine = upper ? sums[i][n + c] : sums[i][c];
				const float given = upper ? sums[i][c] : sums[i][n + c];

				sums[i][c] = mine + __shfl_xor_sync(ALL_LANES, given, d);
			}
		}
		n = LANES == 8 ? 2 : 4;
#pragma unroll
		for (uint32_t v = 0; v < ITEMS * EIGHT; v++) {
			const uint32_t i = v / EIGHT, c = v % EIGHT;

			if (c < n)
				m.adding[threadIdx.x / WARP][i * COLUMNS + at + c] = sums[i][c];
		}
	}

	/* The values of tokens from..from+BATCH-1 of the team. */
	__device__ inline void load_values(uint32_t first, const int32_t blocks[TOKENS],
		uint32_t from, struct loaded value[BATCH]) const
	{
#pragma unroll
		for (uint32_t k = 0; k < BATCH; k++)
			value[k] = load(keys + to_values, blocks[from + k],
				sees(first, token(from + k), blocks[from + k]));
	}

	__device__ inline void add_values(
		const struct loaded value[BATCH], uint32_t from, float sums[ITEMS][EIGHT]) const
	{
#pragma unroll
		for (uint32_t k = 0; k < BATCH; k++) {
			__align__(16) float weight[ITEMS];

			if constexpr (ITEMS % 4 == 0) {
#pragma unroll
				for (uint32_t i = 0; i < ITEMS; i += 4)
					*(float4 *)&weight[i] =
						*(const float4 *)&weights(token(from + k))[i];
			} else {
				weight[0] = weights(token(from + k))[0];
			}
#pragma unroll
			for (uint32_t v = 0; v < ITEMS * EIGHT; v++) {
				float *sum = &sums[v / EIGHT][v % EIGHT];

				/* What is not seen may be anything, also NaN. */
				if (weight[v / EIGHT] != 0)
					*sum = fmaf(
						weight[v / EIGHT], value[k].at(v % EIGHT), *sum);
			}
		}
	}

	/*
	 * The part from position `first` on: the sums that are this thread's, and of each item the
	 * greatest score; totals are in m.part_total. False: the row sees nothing of it.
	 */
	__device__ inline bool attend_part(uint32_t first, const int32_t blocks[TOKENS],
		float greatest[ITEMS], float own[OWN]) const
	{
		struct loaded value[BATCH];
		float scores[ITEMS], sums[ITEMS][EIGHT] = {};
		int32_t own_block = -1;
		uint32_t own_k;

#pragma unroll
		for (uint32_t k = 0; k < TOKENS; k++) {
			if (lane() * EIGHT * sizeof(T) % LINE == 0 &&
				sees(first, token(k), blocks[k]))
				asm volatile("prefetch.global.L2 [%0];" ::"l"(
					keys + to_values + (uint64_t)blocks[k] * block_stride));
		}
		make_scores(first, blocks, scores, &own_k);
#pragma unroll
		for (uint32_t k = 0; k < TOKENS; k++)
			own_block = k == own_k ? blocks[k] : own_block;
		load_values(first, blocks, 0, value);

		const bool any = make_weights(
			scores, token(own_k), sees(first, token(own_k), own_block), greatest);

		make_total(any);
		add_values(value, 0, sums);
		if constexpr (TOKENS > BATCH) {
			load_values(first, blocks, BATCH, value);
			add_values(value, BATCH, sums);
		}
		leave_sums(sums);
		__syncthreads();
#pragma unroll
		for (uint32_t o = 0; o < OWN; o++) {
			const uint32_t c = o * THREADS + threadIdx.x;

			own[o] = 0;
			if (c < OUTPUTS)
				for (uint32_t w = 0; w < WARPS; w++)
					own[o] += m.adding[w][c];
		}
		return any;
	}

	/* The blocks of the team's tokens; -1: none. A lane finds one of each 16 tokens. */
	__device__ inline void find_blocks(const struct attention_task &task, const int32_t *table,
		int32_t row, uint32_t first, int32_t blocks[TOKENS]) const
	{
		const int32_t found = (int32_t)kv_find(
			task.kv, table, row, first / KV_TOKENS + threadIdx.x % PART_BLOCKS);

#pragma unroll
		for (uint32_t k = 0; k < TOKENS; k++)
			blocks[k] = __shfl_sync(ALL_LANES, found, token(k) / KV_TOKENS);
	}
};

/* --- Blocks of threads -------------------------------------------------------------------- */

/* All parts, one after the other. */
template <typename A>
__device__ inline void row_attend_all(const A &a, const struct attention_task &task,
	const int32_t *table, int32_t row, uint32_t items, float *y)
{
	constexpr uint32_t ITEMS = sizeof(a.query) / sizeof(a.query[0]);
	float sums[A::OWN] = {}, totals[ITEMS] = {}, greatest[ITEMS];

#pragma unroll
	for (uint32_t i = 0; i < ITEMS; i++)
		greatest[i] = -INFINITY;
#pragma unroll 1
	for (uint32_t first = a.begin / PART * PART; first < a.end; first += PART) {
		float of_part[ITEMS], own[A::OWN], keep[ITEMS], take[ITEMS];
		int32_t blocks[A::TOKENS];

		a.find_blocks(task, table, row, first, blocks);
		if (!a.attend_part(first, blocks, of_part, own))
			continue;
#pragma unroll
		for (uint32_t i = 0; i < ITEMS; i++)
			find_factors(&greatest[i], &totals[i], of_part[i], a.m.part_total[i],
				&keep[i], &take[i]);
#pragma unroll
		for (uint32_t o = 0; o < A::OWN * ITEMS; o++) {
			if ((o / ITEMS * THREADS + threadIdx.x) / A::COLUMNS == o % ITEMS)
				sums[o / ITEMS] = fold(sums[o / ITEMS], keep[o % ITEMS],
					own[o / ITEMS], take[o % ITEMS]);
		}
		__syncthreads(); /* totals are read */
	}
#pragma unroll
	for (uint32_t o = 0; o < A::OWN * ITEMS; o++) {
		const uint32_t c = o / ITEMS * THREADS + threadIdx.x, i = o % ITEMS;

		if (c / A::COLUMNS == i && i < items)
			y[a.m.items[i].query * A::COLUMNS + c % A::COLUMNS] =
				totals[i] == 0 ? 0 : sums[o / ITEMS] / totals[i];
	}
}

/* One part, left for the block that comes last. */
template <typename A>
__device__ inline void row_attend_split(const A &a, const struct attention_task &task,
	const int32_t *table, int32_t row, uint32_t items, float *parts, uint32_t split)
{
	constexpr uint32_t ITEMS = sizeof(a.query) / sizeof(a.query[0]);
	const uint32_t first = split * PART;
	float greatest[ITEMS], own[A::OWN];
	int32_t blocks[A::TOKENS];
	bool any = false;

	/* All threads find the same. */
	if (a.begin < first + PART && a.end > first) {
		a.find_blocks(task, table, row, first, blocks);
		any = a.attend_part(first, blocks, greatest, own);
	}
#pragma unroll
	for (uint32_t o = 0; o < A::OWN; o++) {
		const uint32_t c = o * THREADS + threadIdx.x, i = c / A::COLUMNS;

		if (any && i < items)
			part_of(task, parts, a.m.items[i], split)[2 + c % A::COLUMNS] = own[o];
	}
#pragma unroll
	for (uint32_t i = 0; i < ITEMS; i++) {
		if (threadIdx.x == 0 && i < items) {
			float *part = part_of(task, parts, a.m.items[i], split);

			part[0] = any ? greatest[i] : 0;
			part[1] = any ? a.m.part_total[i] : 0;
		}
	}
}

template <typename T, uint32_t ITEMS, uint32_t LANES>
__global__ void __launch_bounds__(THREADS, 2)
	attention_row(const __grid_constant__ struct attention_task task,
		struct cuda_scratch *scratch, const __grid_constant__ struct cuda_completion done)
{
	using A = row_attention<T, ITEMS, LANES>;
	__shared__ struct attention_memory memory;
	const uint32_t split = blockIdx.x % task.splits, place = blockIdx.x / task.splits;
	const uint64_t group = place % task.kv.groups, rest = place / task.kv.groups;
	const uint64_t n = rest / task.chunks, head = rest % task.chunks * task.chunk;
	const uint32_t items = (uint32_t)min((uint64_t)task.chunk, task.shared - head);
	const uint64_t query = n * task.heads + group * task.shared + head;
	struct item item;

	cuda_begin();

	const float *q = (const float *)arg_pointer(done.block, task.q);
	const int32_t *table = (const int32_t *)arg_pointer(done.block, task.table);
	const bool aligned = aligned_16(q, NULL);
	const double given = arg_f64(done.block, task.scale);
	A a = {.m = memory};

	find_span(task, done.block, n, &item);
#pragma unroll
	for (uint32_t i = 0; i < ITEMS; i++) {
		const struct eight e = eight_load(q + (query + i) * A::COLUMNS + A::lane() * EIGHT,
			i < items ? EIGHT : 0, aligned);

#pragma unroll
		for (uint32_t c = 0; c < EIGHT; c++)
			a.query[i][c] = e.v[c];
	}
	if (threadIdx.x < MAX_ITEMS) {
		memory.items[threadIdx.x].query = query + threadIdx.x;
		memory.items[threadIdx.x].there = threadIdx.x < items;
		memory.greatest[threadIdx.x] = -INFINITY;
	}
	a.scale = given != 0 ? (float)given : task.usual_scale;
	a.begin = (uint32_t)item.begin;
	a.end = (uint32_t)item.end;
	a.block_stride = 2 * task.kv.groups * KV_TOKENS * A::COLUMNS;
	a.to_values = task.kv.groups * KV_TOKENS * A::COLUMNS;
	a.keys = (const T *)arg_pointer(done.block, task.cache) +
		(group * KV_TOKENS + threadIdx.x / LANES % KV_TOKENS) * A::COLUMNS +
		A::lane() * EIGHT;
	__syncthreads();
	if (task.splits == 1) {
		row_attend_all(
			a, task, table, item.row, items, (float *)arg_pointer(done.block, task.y));
	} else {
		float *parts = (float *)arg_pointer(done.block, task.parts);

		row_attend_split(a, task, table, item.row, items, parts, split);
		if (came_last(memory, scratch, place, task.splits))
			join_splits(memory, task, parts, (float *)arg_pointer(done.block, task.y),
				0, task.parts_count);
	}
	cuda_complete(done);
}

#endif
