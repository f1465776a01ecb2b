/* SPDX-License-Identifier: MIT */
/*
 * attention_cores.cuh: paged_attention on the tensor cores, for caches of bf16 over heads of 64 or
 * 128 columns where several query heads share one of keys.
 *
 * A block takes one row for up to eight query heads. Queries and weights are sums of three bf16s
 * (mma.cuh), keys and values are what they are, so that nothing is rounded to the type of the
 * cache. Keys and values are the products' outputs, 16 tokens or columns of them; a product's 8
 * rows are parts of heads, such that a lane has all parts of its head's sums (struct cores_heads).
 *
 * Keys and values come from memory into the registers where the cores want them, since any order of
 * inputs and outputs does. A warp has its own blocks of the cache of each part of 256 positions,
 * with a softmax of its own; the next ones are under way as soon as their registers are free. The
 * block adds up once in a part what its warps have.
 */
#ifndef GPUQ_KERNELS_ATTENTION_CORES_CUH
#define GPUQ_KERNELS_ATTENTION_CORES_CUH

#include "kernels/paged_attention/attention.cuh"

/* What a head has of the parts so far, for one column. */
struct so_far {
	float greatest, total, sum;
};

/* Tokens of a block of the cache that the row sees: begin, and how many. */
struct seen {
	uint32_t begin, count;

	__device__ inline bool has(uint32_t token) const
	{
		return token - begin < count;
	}
};

/*
 * Parts of up to eight heads as rows of products. The lanes of a quad (lane / 4) have two rows of
 * each tile of eight: of four heads one lane has the first two parts of its head in one tile and
 * the third in the other; of eight heads it has a part of two of them in each of three tiles.
 */
template <uint32_t HEADS> struct cores_heads {
	static constexpr uint32_t TILES = HEADS == 4 ? 2 : 3, OWN = HEADS / 4;

	/* The head, of which lane / 4 is a row in each tile. */
	static __device__ inline uint32_t of_row(void)
	{
		return threadIdx.x % WARP / 4 * HEADS / 8;
	}

	/* Two elements of that head, as the rows have them. */
	static __device__ inline void split_row(float low, float high, uint32_t words[TILES])
	{
		const bool odd = (threadIdx.x & 4) != 0;
		uint32_t parts[3];

		split_two<3>(low, high, parts);
#pragma unroll
		for (uint32_t t = 0; t < TILES; t++)
			words[t] = HEADS == 8 ? parts[t]
				: t == 0      ? parts[odd ? 1 : 0]
					      : (odd ? 0 : parts[2]);
	}

	/* Sums of the lane's own head number `own`; c: what it has of two outputs. */
	static __device__ inline float join(const float c[TILES][4], uint32_t output, uint32_t own)
	{
		const uint32_t i = 2 * output;
		const float second = HEADS == 8 ? c[1][i + own] : c[0][i + 1];
		const float third = HEADS == 8 ? c[2][i + own] : c[1][i];

		return fmaf(fmaf(third, 1 / MMA_PLACE, second), 1 / MMA_PLACE, c[0][i + own]);
	}

	/* The lane's own heads' elements of one output, as its rows of each tile have them. */
	static __device__ inline void split_own(const float v[OWN], uint32_t words[TILES])
	{
		if constexpr (HEADS == 8) {
			split_two<3>(v[0], v[1], words);
		} else {
			const float rest = without_upper_half(v[0]);

			words[0] = upper_halves(v[0], rest);
			words[1] = upper_halves(without_upper_half(rest), 0);
		}
	}
};

/* The greatest, or the sum, over the quads of a warp. */
static __device__ inline float quads_max(float v)
{
#pragma unroll
	for (uint32_t d = 4; d < WARP; d *= 2)
		v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, d));
	return v;
}

static __device__ inline float quads_sum(float v)
{
#pragma unroll
	for (uint32_t d = 4; d < WARP; d *= 2)
		v += __shfl_xor_sync(ALL_LANES, v, d);
	return v;
}

template <uint32_t COLUMNS, uint32_t HEADS, bool ALIGNED> struct cores_attention {
	using H = cores_heads<HEADS>;
	static constexpr uint32_t STEP = WARPS * KV_TOKENS; /* a block of the cache for each warp */
	static constexpr uint32_t CHUNKS = COLUMNS / 32;    /* a lane's, of 8 columns of a key */
	static constexpr uint32_t SPANS = COLUMNS / 64;	    /* likewise of a value */
	static constexpr uint32_t TILES = H::TILES, WIDTH = COLUMNS;
	static constexpr uint32_t OWN = HEADS * COLUMNS / THREADS; /* sums of a thread */
	static constexpr uint32_t STRIDE = COLUMNS + 4; /* of heads in what a warp leaves */
	static_assert(PART % STEP == 0 && HEADS * STRIDE <= CORES_ROOM, "");

	typedef __nv_bfloat16 element;

	/* A block of the cache, as a lane has it. */
	struct loaded {
		struct seen seen;
		uint32_t block;
		uint4 keys[2][CHUNKS], values[SPANS][4];
	};

	/* What a warp begins with: queries, and its first block of the cache. */
	struct first {
		struct eight query[CHUNKS];
		uint32_t step;
		int32_t found;
		struct loaded tokens;
	};

	/* What a warp has of a part: sums of 2 of the lane's columns in each. */
	struct share {
		float greatest[H::OWN], total[H::OWN]; /* total: of the lane's tokens */
		float sums[SPANS * 4][TILES][4];
	};

	struct attention_memory &m;
	int32_t position, row; /* of the block's row */
	const int32_t *table;
	const element *keys; /* in block 0, of the lane's first token */
	uint64_t block_stride;
	int64_t to_values;   /* from there to the lane's first value */
	uint32_t blocks;     /* of the cache */
	uint32_t begin, end; /* positions that the row sees */
	float scale;
	uint32_t query[TILES][2 * CHUNKS][2];

	static __device__ inline uint32_t warp(void)
	{
		return threadIdx.x / WARP;
	}

	static __device__ inline uint32_t quad(void)
	{
		return threadIdx.x % WARP / 4;
	}

	static __device__ inline uint32_t in_quad(void)
	{
		return threadIdx.x % 4;
	}

	/* The lane's tokens of values: 2 * in_quad() and the next one, and 8 further. */
	static __device__ inline uint32_t token_of(uint32_t i)
	{
		return i / 2 * 8 + in_quad() * 2 + i % 2;
	}

	/* The lane's columns of a head of queries or keys. */
	static __device__ inline void load_head(
		const float *head, bool there, struct eight columns[CHUNKS])
	{
		const bool aligned = aligned_16(head, NULL);

#pragma unroll
		for (uint32_t c = 0; c < CHUNKS; c++)
			columns[c] = eight_load(
				head + c * 32 + in_quad() * EIGHT, there ? EIGHT : 0, aligned);
	}

	/* q: the first of the block's heads. */
	static __device__ inline void load_query(
		const float *q, uint32_t items, struct eight columns[CHUNKS])
	{
		load_head(q + H::of_row() * COLUMNS, H::of_row() < items, columns);
	}

	__device__ inline void take_query(const struct eight columns[CHUNKS])
	{
#pragma unroll
		for (uint32_t i = 0; i < CHUNKS * 4; i++) {
			const float *two = &columns[i / 4].v[i % 4 * 2];
			uint32_t words[TILES];

			H::split_row(two[0], two[1], words);
#pragma unroll
			for (uint32_t t = 0; t < TILES; t++)
				query[t][i / 2][i % 2] = words[t];
		}
	}

	/* Eight columns; zeros where they are not wanted. */
	static __device__ inline uint4 load_eight(const element *from, bool wanted)
	{
		uint4 loaded = {};

		if constexpr (ALIGNED) {
			asm volatile(
				"{\n"
				".reg .pred wanted;\n"
				"setp.ne.u32 wanted, %5, 0;\n"
				"@wanted ld.global.v4.u32 {%0, %1, %2, %3}, [%4];\n"
				"}"
				: "+r"(loaded.x), "+r"(loaded.y), "+r"(loaded.z), "+r"(loaded.w)
				: "l"(__cvta_generic_to_global(from)), "r"((uint32_t)wanted));
		} else if (wanted) {
#pragma unroll
			for (uint32_t i = 0; i < EIGHT; i++)
				((element *)&loaded)[i] = from[i];
		}
		return loaded;
	}

	static __device__ inline uint32_t word(const uint4 &v, uint32_t i)
	{
		return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
	}

	/* What of a block's tokens from a position on the row may see. */
	__device__ inline struct seen range_of(uint32_t position) const
	{
		const uint32_t from = begin > position ? min(begin - position, KV_TOKENS) : 0;
		const uint32_t until = end > position ? min(end - position, KV_TOKENS) : 0;

		return {from, until > from ? until - from : 0};
	}

	static __device__ inline uint32_t position_of(uint32_t step)
	{
		return step + warp() * KV_TOKENS;
	}

	/* This warp's block of a step; what the row does not see is not looked up. */
	__device__ inline int32_t find(uint32_t step) const
	{
		const uint32_t position = position_of(step);

		return range_of(position).count > 0 ? index_at(table, position / KV_TOKENS) : 0;
	}

	/* Loads of the block that was found begin with its keys. */
	__device__ inline void load_keys(uint32_t step, int32_t found, struct loaded *l) const
	{
		const bool there = (uint32_t)found < blocks;
		const element *key;

		l->block = there ? (uint32_t)found : 0;
		l->seen = range_of(position_of(step));
		l->seen.count = there ? l->seen.count : 0;
		key = keys + (uint64_t)l->block * block_stride;
#pragma unroll
		for (uint32_t i = 0; i < 2 * CHUNKS; i++)
			l->keys[i / CHUNKS][i % CHUNKS] =
				load_eight(key + i / CHUNKS * 8 * COLUMNS + i % CHUNKS * 32,
					l->seen.has(i / CHUNKS * 8 + quad()));
	}

	__device__ inline void load_values(struct loaded *l) const
	{
		const element *value = keys + to_values + (uint64_t)l->block * block_stride;

#pragma unroll
		for (uint32_t i = 0; i < 4 * SPANS; i++)
			l->values[i / 4][i % 4] =
				load_eight(value + (i % 4 / 2 * 8 + i % 2) * COLUMNS + i / 4 * 64,
					l->seen.has(token_of(i % 4)));
	}

	__device__ inline void load_first(struct first *first) const
	{
		load_keys(first->step, first->found, &first->tokens);
		load_values(&first->tokens);
	}

	/* The lane's heads' scores of its two tokens, quad() and 8 further. */
	__device__ inline void make_scores(
		const uint4 key[2][CHUNKS], float scores[2][H::OWN]) const
	{
		float c[TILES][4] = {};

#pragma unroll
		for (uint32_t s = 0; s < 2 * CHUNKS; s++) {
			const uint32_t at = s % 2 * 2;
			const uint32_t a[4] = {word(key[0][s / 2], at), word(key[1][s / 2], at),
				word(key[0][s / 2], at + 1), word(key[1][s / 2], at + 1)};

#pragma unroll
			for (uint32_t t = 0; t < TILES; t++)
				mma_16(c[t], a, query[t][s]);
		}
#pragma unroll
		for (uint32_t i = 0; i < 2 * H::OWN; i++)
			scores[i % 2][i / 2] = __fmul_rn(H::join(c, i % 2, i / 2), scale);
	}

	/* Scores become weights beside the part's greatest so far; its sums follow that. */
	static __device__ inline void make_weights(
		float scores[2][H::OWN], const struct seen &seen, struct share *share)
	{
		const bool sees[2] = {seen.has(quad()), seen.has(8 + quad())};
		float keep[H::OWN];
		bool grown = false;

#pragma unroll
		for (uint32_t own = 0; own < H::OWN; own++) {
			const float before = share->greatest[own];
			float greatest = before, sum = 0;

#pragma unroll
			for (uint32_t i = 0; i < 2; i++)
				greatest = sees[i] ? fmaxf(greatest, scores[i][own]) : greatest;
			greatest = quads_max(greatest);
			keep[own] = greatest == before ? 1 : expf(before - greatest);
			grown = grown || greatest != before;
#pragma unroll
			for (uint32_t i = 0; i < 2; i++) {
				scores[i][own] = sees[i] ? expf(scores[i][own] - greatest) : 0;
				sum += scores[i][own];
			}
			share->greatest[own] = greatest;
			share->total[own] = share->total[own] * keep[own] + sum;
		}
		if (!__any_sync(ALL_LANES, grown))
			return;
#pragma unroll
		for (uint32_t i = 0; i < SPANS * 4 * TILES * 4; i++)
			share->sums[i / 4 / TILES][i / 4 % TILES][i % 4] *=
				keep[HEADS == 8 ? i % 2 : 0];
	}

	static __device__ inline void add_values(
		const float weights[2][H::OWN], const uint4 value[SPANS][4], struct share *share)
	{
		uint32_t b[TILES][2];

#pragma unroll
		for (uint32_t i = 0; i < 2; i++) {
			uint32_t words[TILES];

			H::split_own(weights[i], words);
#pragma unroll
			for (uint32_t t = 0; t < TILES; t++)
				b[t][i] = mma_turn(words[t]);
		}
#pragma unroll
		for (uint32_t i = 0; i < SPANS * 4; i++) {
			const uint4 *v = value[i / 4];
			const uint32_t w = i % 4;
			const uint32_t a[4] = {__byte_perm(word(v[0], w), word(v[1], w), 0x5410),
				__byte_perm(word(v[0], w), word(v[1], w), 0x7632),
				__byte_perm(word(v[2], w), word(v[3], w), 0x5410),
				__byte_perm(word(v[2], w), word(v[3], w), 0x7632)};

#pragma unroll
			for (uint32_t t = 0; t < TILES; t++)
				mma_16(share->sums[i][t], a, b[t]);
		}
	}

	/* Leaves what the warp has for the others. */
	__device__ inline void leave_share(const struct share &share) const
	{
#pragma unroll
		for (uint32_t own = 0; own < H::OWN; own++) {
			const uint32_t head = in_quad() * H::OWN + own;
			const float total = quads_sum(share.total[own]);
			float *to = m.shares[warp()] + head * STRIDE + quad() * EIGHT;

			if (quad() == 0) {
				m.greatest_of[warp()][head] = share.greatest[own];
				m.total_of[warp()][head] = total;
			}
#pragma unroll
			for (uint32_t i = 0; i < SPANS * 2; i++) {
				const auto *sums = &share.sums[i * 2];

				*(float4 *)(to + i / 2 * 64 + i % 2 * 4) = make_float4(
					H::join(sums[0], 0, own), H::join(sums[0], 1, own),
					H::join(sums[1], 0, own), H::join(sums[1], 1, own));
			}
		}
	}

	/* Takes what has been loaded; what follows is under way from then on. */
	__device__ inline void attend_step(
		uint32_t next, int32_t found, struct loaded *l, struct share *share) const
	{
		const struct seen seen = l->seen;
		float scores[2][H::OWN];

		make_scores(l->keys, scores);
		load_keys(next, found, l);
		make_weights(scores, seen, share);
		add_values(scores, l->values, share);
		load_values(l);
	}

	/*
	 * Adds what the warps have of one column, and this part to those before it. All lanes of a
	 * warp have columns of one head: each finds the factor of one warp's sums.
	 */
	__device__ inline void add_shares(uint32_t c, struct so_far *so_far) const
	{
		const uint32_t head = c / COLUMNS, w = threadIdx.x % WARPS;
		const float own_greatest = m.greatest_of[w][head], own_total = m.total_of[w][head];
		const float greatest = lanes_max(own_greatest, WARPS);
		/* A warp that sees nothing has no greatest score. */
		const float factor = own_total != 0 ? expf(own_greatest - greatest) : 0;
		const float total = lanes_sum(own_total * factor, WARPS);
		float sum = 0, keep, take;

#pragma unroll
		for (uint32_t i = 0; i < WARPS; i++)
			sum = fmaf(m.shares[i][head * STRIDE + c % COLUMNS],
				__shfl_sync(ALL_LANES, factor, i), sum);
		if (total == 0)
			return;
		find_factors(&so_far->greatest, &so_far->total, greatest, total, &keep, &take);
		so_far->sum = fold(so_far->sum, keep, sum, take);
	}

	static __device__ inline void clear(struct share *share)
	{
		*share = {};
#pragma unroll
		for (uint32_t own = 0; own < H::OWN; own++)
			share->greatest[own] = -INFINITY;
	}

	/*
	 * The parts from position `from` on. start(*this, &first) waits for its turn and loads what
	 * is in `first`; before that nothing but the table is read. emit(part): all have left what
	 * they have.
	 */
	template <typename Start, typename Emit>
	__device__ inline void attend(uint32_t from, Start start, Emit emit)
	{
		struct first first;
		struct share share;
		int32_t found;

		first.step = from;
		first.found = find(from);
		start(*this, &first);
		found = find(from + STEP);
		take_query(first.query);
#pragma unroll 1
		for (uint32_t part = from; part < end; part += PART) {
			clear(&share);
#pragma unroll 1
			for (uint32_t step = part; step < min(part + PART, end); step += STEP) {
				attend_step(step + STEP, found, &first.tokens, &share);
				found = find(step + 2 * STEP);
			}
			leave_share(share);
			__syncthreads();
			emit(part / PART);
			__syncthreads(); /* what the warps left has been added */
		}
	}
};

/* --- Blocks of threads -------------------------------------------------------------------- */

/* Which heads of which row a block takes, and which parts of what it sees. */
struct cores_place {
	uint32_t place, items, split;
	uint64_t n, group, query; /* the first of its query heads, among all rows' */
};

static __device__ inline struct cores_place cores_place_of(const struct attention_task &task)
{
	const uint32_t place = blockIdx.x / task.splits, groups = (uint32_t)task.kv.groups;
	const uint32_t rest = place / groups, head = rest % task.chunks * task.chunk;
	const uint64_t n = rest / task.chunks, group = place % groups;

	return (struct cores_place){.place = place,
		.items = min(task.chunk, task.shared - head),
		.split = blockIdx.x % task.splits,
		.n = n,
		.group = group,
		.query = n * task.heads + group * task.shared + head};
}

/* What the block has found of a part, left for the one that comes last. */
template <typename A>
__device__ inline void leave_part(const struct attention_task &task, float *parts,
	const struct cores_place &at, uint32_t part, const struct so_far &of_part, uint32_t c)
{
	const uint32_t i = c / A::WIDTH;
	float *to = parts + ((at.query + i) * task.parts_count + part) * (A::WIDTH + 2);

	if (i >= at.items)
		return;
	to[2 + c % A::WIDTH] = of_part.sum;
	if (c % A::WIDTH == 0) {
		to[0] = of_part.greatest;
		to[1] = of_part.total;
	}
}

/* The block's parts: added up, or each left by itself where the row has several blocks. */
template <typename A, typename Start>
__device__ inline void attend_run(A &a, const struct attention_task &task,
	const struct cores_place &at, float *parts, float *y, Start start)
{
	constexpr struct so_far NOTHING = {-INFINITY, 0, 0};
	const bool alone = task.splits == 1;
	const uint32_t first = alone ? 0 : at.split * task.run * PART;
	struct so_far so_far[A::OWN];

	if (!alone)
		a.end = min(a.end, first + task.run * PART);
#pragma unroll
	for (uint32_t o = 0; o < A::OWN; o++)
		so_far[o] = NOTHING;
	a.attend(max(first, a.begin / PART * PART), start, [&](uint32_t part) {
#pragma unroll
		for (uint32_t o = 0; o < A::OWN; o++) {
			a.add_shares(o * THREADS + threadIdx.x, &so_far[o]);
			if (alone)
				continue;
			leave_part<A>(task, parts, at, part, so_far[o], o * THREADS + threadIdx.x);
			so_far[o] = NOTHING;
		}
	});
#pragma unroll
	for (uint32_t o = 0; o < A::OWN; o++) {
		const uint32_t c = o * THREADS + threadIdx.x;

		if (alone && c < at.items * A::WIDTH)
			y[at.query * A::WIDTH + c] =
				so_far[o].total == 0 ? 0 : so_far[o].sum / so_far[o].total;
	}
}

template <uint32_t COLUMNS, uint32_t HEADS, bool ALIGNED, typename Start>
__device__ inline void attend_on_cores(struct attention_memory &m,
	const struct attention_task &task, const struct device_args *block,
	struct cuda_scratch *scratch, const struct cores_place &at, Start start)
{
	using A = cores_attention<COLUMNS, HEADS, ALIGNED>;
	const double given = arg_f64(block, task.scale);
	const uint64_t to_values = task.kv.groups * KV_TOKENS * COLUMNS;
	float *y = (float *)arg_pointer(block, task.y);
	float *parts = task.splits == 1 ? NULL : (float *)arg_pointer(block, task.parts);
	A a = {.m = m};
	struct item span;

	find_span(task, block, at.n, &span);
	a.position = span.position;
	a.row = span.row;
	a.table = (const int32_t *)arg_pointer(block, task.table) +
		(uint64_t)max(span.row, 0) * task.kv.length;
	a.keys = (const __nv_bfloat16 *)arg_pointer(block, task.cache) +
		at.group * KV_TOKENS * COLUMNS + A::quad() * COLUMNS + A::in_quad() * EIGHT;
	a.to_values = (int64_t)to_values + A::token_of(0) * (int32_t)COLUMNS +
		A::quad() * (int32_t)EIGHT - A::quad() * (int32_t)COLUMNS -
		A::in_quad() * (int32_t)EIGHT;
	a.block_stride = 2 * to_values;
	a.blocks = (uint32_t)min(task.kv.blocks, (uint64_t)1 << 31);
	a.begin = (uint32_t)span.begin;
	a.end = (uint32_t)span.end;
	a.scale = given != 0 ? (float)given : task.usual_scale;
	if (threadIdx.x < MAX_ITEMS) {
		m.items[threadIdx.x].query = at.query + threadIdx.x;
		m.items[threadIdx.x].there = threadIdx.x < at.items;
	}
	attend_run(a, task, at, parts, y, start);
	if (task.splits > 1 && came_last(m, scratch, at.place, task.splits))
		join_splits(m, task, parts, y, span.begin / PART, (span.end + PART - 1) / PART);
}

#endif
