/* SPDX-License-Identifier: MIT */
/*
 * paged_attention in CUDA. A block takes up to MAX_ITEMS query heads (items) that share a head of
 * keys: those of one row, or of several rows where a call has more rows than sequences, and reads
 * each key and value once for all of them. It does so in parts of 256 positions, at absolute
 * places: the scores of a part, their greatest and their exponentials, the weighted values; then
 * it adds the part to what it has. Where the call gives memory for that, a part is a block's of its
 * own, and the last one of a row adds them up, in the same order with the same roundings: so the
 * bits of a row depend neither on that nor on other rows.
 *
 * A team of lanes has a token, eight columns each. Where a block has one row of heads of a usual
 * size, attention_row.cuh does the same sooner. Caches of bf16 with several query heads to one of
 * keys go another way, attention_cores.cuh. What all that takes is in docs/cuda-notes.md; 8 items
 * cost about as many multiplications as the multiprocessors can do while memory is read, so prompts
 * are bound by these: 4 C H D for each row.
 */
#include "kernels/cuda/codes.h"
#include "kernels/cuda/eight.cuh"
#include "kernels/cuda/kv.cuh"
#include "kernels/cuda/mma.cuh"

extern "C" {
#include "kernels/paged_attention/paged_attention.h"
}

#define THREADS 256u
#define WARPS (THREADS / WARP)
#define MAX_ITEMS 8u
#define PART ATTENTION_PART
#define PART_BLOCKS (PART / KV_TOKENS)
#define LINE 128u /* bytes that memory delivers at once */
#define USUAL_PROCESSORS 132u
#define ROOM 512u	 /* floats of a warp in what is added up between warps */
#define JOINED 16u	 /* parts whose sums are under way at once */
#define CORES_ROOM 1056u /* likewise in attention_cores.cuh */

/* Tokens under way in a team, as registers allow. */
template <uint32_t ITEMS> constexpr uint32_t steps_for = ITEMS > 4 ? 2 : 4;

/* What is read before cuda_await() where nothing in the sequence writes it. */
#define EARLY (1u << ATTENTION_TABLE | 1u << ATTENTION_POSITIONS | 1u << ATTENTION_ROWS)

struct attention_task {
	struct arg q, cache, table, positions, rows, y, parts, scale, window;
	struct kv_shape kv;
	uint64_t n, heads, context;
	uint32_t tile;	 /* rows of a block */
	uint32_t shared; /* query heads of one head of keys */
	uint32_t chunk;	 /* of these, that a block takes */
	uint32_t chunks;
	uint32_t splits; /* blocks that share a tile; 1: one does all */
	uint32_t run;	 /* parts of each of them */
	uint32_t parts_count;
	uint32_t shift; /* log2 of the lanes of a team */
	float usual_scale;
	bool early; /* positions, rows and table may be read before cuda_await() */
};

struct item {
	uint64_t begin, end; /* positions that it sees */
	int32_t row;	     /* of the table */
	bool there;
	uint64_t query; /* which of all rows' heads */
};

/* Of the sums before a part and of its own; total 0: it sees nothing. */
struct __align__(16) part_factors
{
	float keep, take, total;
};

/* What the threads of a block share. */
struct __align__(16) attention_memory
{
	union {
		struct {
			float scores[MAX_ITEMS][PART]; /* then their weights */
			float adding[WARPS][ROOM];
			float sums[MAX_ITEMS][KV_MAX_COLUMNS];
		};
		struct part_factors factors[MAX_ITEMS][PART]; /* when parts are joined */
		float shares[WARPS][CORES_ROOM];	      /* attention_cores.cuh's */
	};
	float greatest[MAX_ITEMS], total[MAX_ITEMS];	       /* of the parts so far */
	float part_greatest[MAX_ITEMS], part_total[MAX_ITEMS]; /* total 0: it sees nothing of it */
	float keep[MAX_ITEMS], take[MAX_ITEMS]; /* factors of the sums so far and of the part's */
	float greatest_of[WARPS][MAX_ITEMS];	/* of warps */
	float total_of[WARPS][MAX_ITEMS];
	int64_t blocks[PART_BLOCKS];
	struct item items[MAX_ITEMS];
	bool last;
};

/* Items first..end-1 are of one row of the table; begin..until-1: what any of them sees. */
struct item_run {
	uint32_t first, end;
	uint64_t begin, until;
};

/* --- Items -------------------------------------------------------------------------------- */

/* As attention_span_of(), its index values read once. */
static __device__ inline void find_span(const struct attention_task &task,
	const struct device_args *block, uint64_t n, struct item *item)
{
	const int32_t position = index_at((const int32_t *)arg_pointer(block, task.positions), n);
	const uint64_t window = (uint64_t)arg_i64(block, task.window);
	uint64_t end;

	item->row = index_at((const int32_t *)arg_pointer(block, task.rows), n);
	item->begin = item->end = 0;
	if (position < 0 || item->row < 0 || (uint64_t)item->row >= task.kv.sequences)
		return;
	end = (uint64_t)position + 1;
	item->begin = window != 0 && end > window ? end - window : 0;
	end = min(min(end, task.context), task.kv.length * KV_TOKENS);
	item->end = end;
	if (item->begin >= end)
		item->begin = item->end = 0;
}

/* All of a block's, by the first threads; the rows' index values are read by one thread each. */
static __device__ inline void find_items(struct attention_memory &m,
	const struct attention_task &task, const struct device_args *block, uint64_t tile,
	uint64_t group, uint64_t chunk)
{
	const uint64_t row = tile * task.tile + threadIdx.x;

	if (threadIdx.x < MAX_ITEMS)
		m.items[threadIdx.x] = {0, 0, -1, false, 0};
	__syncthreads();
	if (threadIdx.x < task.tile && row < task.n) {
		struct item item = {};

		find_span(task, block, row, &item);
		item.there = true;
		for (uint32_t i = 0; i < task.chunk; i++) {
			const uint64_t head = chunk * task.chunk + i;

			item.query = row * task.heads + group * task.shared + head;
			if (head < task.shared)
				m.items[threadIdx.x * task.chunk + i] = item;
		}
	}
	if (threadIdx.x < MAX_ITEMS) {
		m.greatest[threadIdx.x] = -INFINITY;
		m.total[threadIdx.x] = 0;
	}
	for (uint32_t i = threadIdx.x; i < MAX_ITEMS * KV_MAX_COLUMNS; i += THREADS)
		m.sums[i / KV_MAX_COLUMNS][i % KV_MAX_COLUMNS] = 0;
	__syncthreads();
}

/* The run that begins with an item; all threads find the same. */
static __device__ inline struct item_run run_of(const struct attention_memory &m, uint32_t first)
{
	struct item_run run = {first, first, UINT64_MAX, 0};

	while (run.end < MAX_ITEMS && m.items[run.end].row == m.items[first].row) {
		const struct item &item = m.items[run.end++];

		if (item.begin == item.end)
			continue;
		run.begin = min(run.begin, item.begin);
		run.until = max(run.until, item.end);
	}
	return run;
}

static __device__ inline bool sees(const struct attention_memory &m, const struct item_run &run,
	uint32_t i, uint64_t first, uint32_t t)
{
	const struct item &item = m.items[i];

	return i >= run.first && i < run.end && first + t >= item.begin && first + t < item.end &&
		m.blocks[t / KV_TOKENS] >= 0;
}

/* --- A part ------------------------------------------------------------------------------- */

/* Where a thread reads: its team's tokens, its own columns. */
template <typename T, bool ALIGNED> struct reader {
	const T *cache;
	struct kv_shape kv;
	struct item_run run;
	uint64_t group, first;		     /* position of the part */
	uint32_t team, teams, column, valid; /* columns from there on, 0 to 8 */

	/* NULL for a token that nobody sees. */
	__device__ inline const T *find(
		const struct attention_memory &m, enum kv_part part, uint32_t t) const
	{
		const int64_t block = m.blocks[min(t, PART - 1) / KV_TOKENS];
		const bool wanted =
			t < PART && block >= 0 && first + t >= run.begin && first + t < run.until;

		if (!wanted || valid == 0)
			return NULL;
		return cache + kv_begin(kv, (uint64_t)block, part, group) +
			t % KV_TOKENS * kv.columns + column;
	}

	/* What will be loaded soon: one lane asks for a line of the cache. */
	__device__ inline void prefetch(
		const struct attention_memory &m, enum kv_part part, uint32_t t) const
	{
		const T *p = column * sizeof(T) % LINE == 0 ? find(m, part, t) : NULL;

		if (p != NULL)
			asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
	}

	/* Zeros for a token that nobody sees. */
	__device__ inline struct eight load(
		const struct attention_memory &m, enum kv_part part, uint32_t t) const
	{
		const T *p = find(m, part, t);
		struct eight e = {};

		if (p == NULL)
			return e;
		if constexpr (ALIGNED)
			return eight_load(p, EIGHT, true);
		else
			return eight_load(p, valid, false);
	}
};

/* The scores of all items for the part's tokens, also for those that they do not see. */
template <typename T, uint32_t ITEMS, bool ALIGNED>
__device__ inline void make_scores(struct attention_memory &m, const struct reader<T, ALIGNED> &r,
	const float *q, float scale, uint32_t shift)
{
	constexpr uint32_t STEPS = steps_for<ITEMS>;
	const uint64_t columns = r.kv.columns;
	struct eight query[ITEMS];

#pragma unroll
	for (uint32_t i = 0; i < ITEMS; i++)
		query[i] = eight_load(q + m.items[i].query * columns + r.column,
			m.items[i].there ? r.valid : 0,
			aligned_16(q, NULL) && columns % EIGHT == 0);
#pragma unroll 1
	for (uint32_t from = r.team; from < PART; from += STEPS * r.teams) {
		struct eight keys[STEPS];

#pragma unroll
		for (uint32_t s = 0; s < STEPS; s++)
			keys[s] = r.load(m, KV_KEYS, from + s * r.teams);
#pragma unroll
		for (uint32_t s = 0; s < STEPS; s++)
			r.prefetch(m, KV_VALUES, from + s * r.teams);
#pragma unroll
		for (uint32_t s = 0; s < STEPS; s++) {
			float dots[ITEMS] = {};

#pragma unroll
			for (uint32_t c = 0; c < ITEMS * EIGHT; c++)
				dots[c / EIGHT] = fmaf(query[c / EIGHT].v[c % EIGHT],
					keys[s].v[c % EIGHT], dots[c / EIGHT]);
			lanes_sums<ITEMS>(dots, 1u << shift);
			if (r.column != 0 || from + s * r.teams >= PART)
				continue;
#pragma unroll
			for (uint32_t i = 0; i < ITEMS; i++)
				m.scores[i][from + s * r.teams] = dots[i] * scale;
		}
	}
}

/* How the sums so far and those of a part become one: their factors. The part is not empty. */
static __device__ inline void find_factors(
	float *greatest, float *total, float of_part, float part_total, float *keep, float *take)
{
	const float both = fmaxf(*greatest, of_part);

	*keep = expf(*greatest - both);
	*take = expf(of_part - both);
	*total = fmaf(part_total, *take, *total * *keep);
	*greatest = both;
}

static __device__ inline float fold(float sum, float keep, float of_part, float take)
{
	return fmaf(of_part, take, sum * keep);
}

/* Scores become weights; a warp for each item. What an item does not see weighs 0. */
static __device__ inline void make_weights(
	struct attention_memory &m, const struct item_run &run, uint64_t first)
{
	const uint32_t i = threadIdx.x / WARP, lane = threadIdx.x % WARP;
	float greatest = -INFINITY, sum = 0;
	bool any = false;

	for (uint32_t t = lane; t < PART; t += WARP) {
		if (!sees(m, run, i, first, t))
			continue;
		greatest = fmaxf(greatest, m.scores[i][t]);
		any = true;
	}
	greatest = lanes_max(greatest, WARP);
	any = __any_sync(ALL_LANES, any);
	for (uint32_t t = lane; t < PART; t += WARP) {
		const float weight =
			sees(m, run, i, first, t) ? expf(m.scores[i][t] - greatest) : 0;

		m.scores[i][t] = weight;
		sum += weight;
	}
	sum = lanes_sum(sum, WARP);
	if (lane != 0)
		return;
	m.part_greatest[i] = greatest;
	m.part_total[i] = any ? sum : 0;
	m.keep[i] = 1;
	m.take[i] = 0;
	if (any)
		find_factors(&m.greatest[i], &m.total[i], greatest, sum, &m.keep[i], &m.take[i]);
}
static_assert(WARPS == MAX_ITEMS, "a warp for each item");

/* Adds up the weighted values, over teams and then warps, and gives each sum to emit(). */
template <typename T, uint32_t ITEMS, bool ALIGNED, typename Emit>
__device__ inline void add_values(
	struct attention_memory &m, const struct reader<T, ALIGNED> &r, uint32_t shift, Emit emit)
{
	constexpr uint32_t STEPS = steps_for<ITEMS>;
	const uint32_t width = EIGHT << shift, at_once = ROOM / width;
	struct eight sums[ITEMS] = {};

#pragma unroll 1
	for (uint32_t from = r.team; from < PART; from += STEPS * r.teams) {
		struct eight values[STEPS];

#pragma unroll
		for (uint32_t s = 0; s < STEPS; s++)
			values[s] = r.load(m, KV_VALUES, from + s * r.teams);
#pragma unroll
		for (uint32_t s = 0; s < STEPS; s++) {
			const uint32_t t = from + s * r.teams;

#pragma unroll
			for (uint32_t i = 0; i < ITEMS; i++) {
				const float weight = t < PART ? m.scores[i][t] : 0;

				/* What is not seen may be anything, also NaN. */
				if (weight == 0)
					continue;
#pragma unroll
				for (uint32_t c = 0; c < EIGHT; c++)
					sums[i].v[c] = fmaf(weight, values[s].v[c], sums[i].v[c]);
			}
		}
	}
	for (uint32_t d = 1u << shift; d < WARP; d *= 2) {
#pragma unroll
		for (uint32_t c = 0; c < ITEMS * EIGHT; c++)
			sums[c / EIGHT].v[c % EIGHT] +=
				__shfl_xor_sync(ALL_LANES, sums[c / EIGHT].v[c % EIGHT], d);
	}
	for (uint32_t done = 0; done < ITEMS; done += at_once) {
		__syncthreads();
#pragma unroll
		for (uint32_t c = 0; c < ITEMS * EIGHT; c++) {
			const uint32_t i = c / EIGHT;

			if (threadIdx.x % WARP >> shift == 0 && i >= done && i < done + at_once)
				m.adding[threadIdx.x / WARP][(i - done) * width + r.column +
					c % EIGHT] = sums[i].v[c % EIGHT];
		}
		__syncthreads();
		for (uint32_t c = threadIdx.x; c < min(at_once, ITEMS - done) * width;
			c += THREADS) {
			float sum = 0;

			for (uint32_t w = 0; w < WARPS; w++)
				sum += m.adding[w][c];
			if (c % width < r.kv.columns)
				emit(done + c / width, c % width, sum);
		}
	}
}

/* The part at r.first, for the items of a run. */
template <typename T, uint32_t ITEMS, bool ALIGNED, typename Emit>
__device__ inline void attend_part(struct attention_memory &m, const struct attention_task &task,
	const struct device_args *block, const struct reader<T, ALIGNED> &r, float scale, Emit emit)
{
	__syncthreads();
	if (threadIdx.x < PART_BLOCKS)
		m.blocks[threadIdx.x] =
			kv_find(task.kv, (const int32_t *)arg_pointer(block, task.table),
				m.items[r.run.first].row, r.first / KV_TOKENS + threadIdx.x);
	__syncthreads();
	make_scores<T, ITEMS, ALIGNED>(
		m, r, (const float *)arg_pointer(block, task.q), scale, task.shift);
	__syncthreads();
	make_weights(m, r.run, r.first);
	__syncthreads();
	add_values<T, ITEMS, ALIGNED>(m, r, task.shift, emit);
}

/* --- Blocks ------------------------------------------------------------------------------- */

/* Where an item's part lies: its greatest score, its total, its sums. */
static __device__ inline float *part_of(
	const struct attention_task &task, float *parts, const struct item &item, uint32_t part)
{
	return parts + (item.query * task.parts_count + part) * (task.kv.columns + 2);
}

/* This block's part of all items. */
template <typename T, uint32_t ITEMS, bool ALIGNED>
__device__ inline void attend_split(struct attention_memory &m, const struct attention_task &task,
	const struct device_args *block, struct reader<T, ALIGNED> r, float scale, uint32_t split)
{
	float *parts = (float *)arg_pointer(block, task.parts);

	r.first = (uint64_t)split * PART;
	for (uint32_t first = 0; first < MAX_ITEMS; first = r.run.end) {
		const uint32_t i = first + threadIdx.x;

		r.run = run_of(m, first);
		if (threadIdx.x < WARPS)
			m.part_total[threadIdx.x] = 0;
		if (r.run.begin < r.first + PART && r.run.until > r.first)
			attend_part<T, ITEMS, ALIGNED>(m, task, block, r, scale,
				[&](uint32_t at, uint32_t column, float sum) {
					if (at >= r.run.first && at < r.run.end &&
						m.items[at].there && m.part_total[at] != 0)
						part_of(task, parts, m.items[at],
							split)[2 + column] = sum;
				});
		__syncthreads();
		if (i < r.run.end && m.items[i].there) {
			part_of(task, parts, m.items[i], split)[0] = m.part_greatest[i];
			part_of(task, parts, m.items[i], split)[1] = m.part_total[i];
		}
		__syncthreads();
	}
}

/* At once, whatever happens to it: the compiler would wait for one part after the other. */
static __device__ inline float load_now(const float *from)
{
	float v;

	asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(v) : "l"(__cvta_generic_to_global(from)));
	return v;
}

/*
 * The factors of parts first..first+count-1 of all items, a warp for each: of the sums so far, of
 * the part's, and its total. Maxima are the same in any order, so each lane has a part.
 */
static __device__ inline void find_all_factors(struct attention_memory &m,
	const struct attention_task &task, float *parts, uint32_t first, uint32_t count,
	bool is_first)
{
	const uint32_t i = threadIdx.x / WARP, lane = threadIdx.x % WARP;
	/* What attend_part() leaves there is of this block's part. */
	float before = is_first ? -INFINITY : m.greatest[i];

	if (!m.items[i].there)
		return;
	for (uint32_t p = lane; p - lane < count; p += WARP) {
		const float *part = part_of(task, parts, m.items[i], first + min(p, count - 1));
		const float left = load_now(&part[0]), total = p < count ? load_now(&part[1]) : 0;
		const float greatest = total != 0 ? left : -INFINITY;
		float both = fmaxf(before, greatest), so_far;

		for (uint32_t d = 1; d < WARP; d *= 2) {
			const float other = __shfl_up_sync(ALL_LANES, both, d);

			both = lane >= d ? fmaxf(both, other) : both;
		}
		so_far = __shfl_up_sync(ALL_LANES, both, 1);
		so_far = lane == 0 ? before : so_far;
		before = __shfl_sync(ALL_LANES, both, WARP - 1);
		m.factors[i][p] = {expf(so_far - both), expf(greatest - both), total};
	}
	if (lane == 0)
		m.greatest[i] = before;
}

/*
 * Adds these parts of one column of an item. JOINED of them are under way at once, and there is one
 * way through: the code is new to the multiprocessor, which waits for its instructions too.
 */
static __device__ inline void add_parts(const struct attention_memory &m, uint32_t i,
	const float *at, uint64_t stride, uint32_t count, float *sum, float *total)
{
#pragma unroll 1
	for (uint32_t first = 0; first < count; first += JOINED) {
		float of_part[JOINED];

#pragma unroll
		for (uint32_t p = 0; p < JOINED; p++)
			of_part[p] = load_now(at + min(first + p, count - 1) * stride);
#pragma unroll
		for (uint32_t p = 0; p < JOINED; p++) {
			const struct part_factors &f = m.factors[i][first + p];
			const bool any = f.total != 0;

			*total = any ? fmaf(f.total, f.take, *total * f.keep) : *total;
			*sum = any ? fold(*sum, f.keep, of_part[p], f.take) : *sum;
		}
	}
}
static_assert(PART % JOINED == 0 && WARP % JOINED == 0, "factors of all that are looked at");

/* Adds up parts begin..end-1 of all items, as one block would have done. */
static __device__ inline void join_splits(struct attention_memory &m,
	const struct attention_task &task, float *parts, float *y, uint32_t begin, uint32_t end)
{
	const uint32_t columns = (uint32_t)task.kv.columns, all = task.tile * task.chunk * columns;

#pragma unroll 1
	for (uint32_t done = 0; done < all; done += THREADS) {
		const uint32_t c = done + threadIdx.x, i = c / columns;
		const bool there = c < all && m.items[i].there;
		float sum = 0, total = 0;

#pragma unroll 1
		for (uint32_t first = begin; first < end; first += PART) {
			const uint32_t count = min(PART, end - first);

			if (done == 0 || end - begin > PART) {
				__syncthreads();
				find_all_factors(m, task, parts, first, count, first == begin);
				__syncthreads();
			}
			if (there)
				add_parts(m, i,
					part_of(task, parts, m.items[i], first) + 2 + c % columns,
					columns + 2, count, &sum, &total);
		}
		if (there)
			y[m.items[i].query * columns + c % columns] = total == 0 ? 0 : sum / total;
	}
}

/* True in the last block of those that share a place, when all have left their parts. */
static __device__ inline bool came_last(
	struct attention_memory &m, struct cuda_scratch *scratch, uint32_t place, uint32_t splits)
{
	__syncthreads();
	if (threadIdx.x == 0)
		m.last = cuda_last_of(&scratch->tickets[place], splits);
	__syncthreads();
	return m.last;
}

/* All parts of all items. */
template <typename T, uint32_t ITEMS, bool ALIGNED>
__device__ inline void attend_all(struct attention_memory &m, const struct attention_task &task,
	const struct device_args *block, struct reader<T, ALIGNED> r, float scale)
{
	const uint64_t columns = task.kv.columns;
	float *y = (float *)arg_pointer(block, task.y);

	for (uint32_t first = 0; first < MAX_ITEMS; first = r.run.end) {
		r.run = run_of(m, first);
		for (r.first = r.run.begin / PART * PART; r.first < r.run.until; r.first += PART)
			attend_part<T, ITEMS, ALIGNED>(m, task, block, r, scale,
				[&](uint32_t i, uint32_t column, float sum) {
					m.sums[i][column] =
						fold(m.sums[i][column], m.keep[i], sum, m.take[i]);
				});
	}
	__syncthreads();
	for (uint64_t c = threadIdx.x; c < MAX_ITEMS * columns; c += THREADS) {
		const uint32_t i = (uint32_t)(c / columns);

		if (m.items[i].there)
			y[m.items[i].query * columns + c % columns] =
				m.total[i] == 0 ? 0 : m.sums[i][c % columns] / m.total[i];
	}
}

template <typename T, uint32_t ITEMS, bool ALIGNED>
__device__ inline void attend(struct attention_memory &m, const struct attention_task &task,
	const struct device_args *block, struct cuda_scratch *scratch)
{
	const uint32_t split = blockIdx.x % task.splits, place = blockIdx.x / task.splits;
	const uint64_t rest = place / task.kv.groups;
	const double given = arg_f64(block, task.scale);
	const float scale = given != 0 ? (float)given : task.usual_scale;
	struct reader<T, ALIGNED> r = {
		.cache = (const T *)arg_pointer(block, task.cache), .kv = task.kv
	};

	r.group = place % task.kv.groups;
	r.team = threadIdx.x >> task.shift;
	r.teams = THREADS >> task.shift;
	r.column = (threadIdx.x & ((1u << task.shift) - 1)) * EIGHT;
	r.valid = (uint32_t)(r.column < task.kv.columns
			? min(task.kv.columns - r.column, (uint64_t)EIGHT)
			: 0);
	find_items(m, task, block, rest / task.chunks, r.group, rest % task.chunks);
	if (task.splits == 1) {
		attend_all<T, ITEMS, ALIGNED>(m, task, block, r, scale);
		return;
	}
	attend_split<T, ITEMS, ALIGNED>(m, task, block, r, scale, split);
	if (came_last(m, scratch, place, task.splits))
		join_splits(m, task, (float *)arg_pointer(block, task.parts),
			(float *)arg_pointer(block, task.y), 0, task.parts_count);
}

template <typename T, uint32_t ITEMS>
__global__ void __launch_bounds__(THREADS, 2)
	attention(const __grid_constant__ struct attention_task task, struct cuda_scratch *scratch,
		const __grid_constant__ struct cuda_completion done)
{
	cuda_begin();
	__shared__ struct attention_memory memory;

	if (aligned_16(arg_pointer(done.block, task.cache), NULL) && task.kv.columns % EIGHT == 0)
		attend<T, ITEMS, true>(memory, task, done.block, scratch);
	else
		attend<T, ITEMS, false>(memory, task, done.block, scratch);
	cuda_complete(done);
}

#include "kernels/paged_attention/attention_row.cuh"
#include "kernels/paged_attention/attention_cores.cuh"

/* --- Launching ---------------------------------------------------------------------------- */

/* What attention_cores.cuh takes, whatever else is in the call: bits must not depend on that. */
static bool takes_cores(const struct attention_task *task, uint32_t dtype)
{
	return dtype == GPUQ_BF16 && task->shared > 1 &&
		(task->kv.columns == 64 || task->kv.columns == 128);
}

/*
 * As many blocks as run at once, as long as they take no more parts each than some: rows may be
 * much shorter than others.
 */
static void cut_runs(struct attention_task *task, uint64_t places)
{
	const uint64_t wanted = cores_resident(task->kv.columns) * USUAL_PROCESSORS / places;
	const uint64_t least = blocks_of(task->parts_count, CORES_RUN);
	const uint64_t splits = min(max(wanted, least), (uint64_t)task->parts_count);

	task->run = (uint32_t)blocks_of(task->parts_count, splits);
	task->splits = (uint32_t)blocks_of(task->parts_count, task->run);
}

/* How the call is cut into blocks; their number. */
static uint64_t cut(struct attention_task *task, const struct tensor *parts, bool cores)
{
	const uint64_t splits =
		tensor_present(parts) && parts->dims[0] == task->n ? parts->dims[2] : 1;
	uint64_t places;

	task->chunk = min(task->shared, MAX_ITEMS);
	task->chunks = (uint32_t)blocks_of(task->shared, task->chunk);
	/* Rows of one sequence come one after the other. */
	task->tile = task->n > task->kv.sequences && !cores ? MAX_ITEMS / task->chunk : 1;
	while (EIGHT << task->shift < task->kv.columns)
		task->shift++;
	places = blocks_of(task->n, task->tile) * task->chunks * task->kv.groups;
	task->parts_count = task->splits =
		splits > 1 && places <= CUDA_TICKETS && splits <= INT_MAX ? (uint32_t)splits : 1;
	task->run = 1;
	if (cores && task->splits > 1)
		cut_runs(task, places);
	return places * task->splits;
}

static struct attention_task make_task(const struct op_launch *op, const struct cuda_args *args)
{
	const struct tensor *in = op->call.in, *out = op->call.out;
	struct attention_task task = {};

	task.q = arg_tensor(args, &in[ATTENTION_Q], op->in[ATTENTION_Q]);
	task.cache = arg_tensor(args, &in[ATTENTION_CACHE], op->in[ATTENTION_CACHE]);
	task.table = arg_tensor(args, &in[ATTENTION_TABLE], op->in[ATTENTION_TABLE]);
	task.positions = arg_tensor(args, &in[ATTENTION_POSITIONS], op->in[ATTENTION_POSITIONS]);
	task.rows = arg_tensor(args, &in[ATTENTION_ROWS], op->in[ATTENTION_ROWS]);
	task.y = arg_tensor(args, &out[ATTENTION_Y], op->out[ATTENTION_Y]);
	if (tensor_present(&out[ATTENTION_PARTS]))
		task.parts = arg_tensor(args, &out[ATTENTION_PARTS], op->out[ATTENTION_PARTS]);
	task.scale =
		arg_param(args, &op->call.params[ATTENTION_SCALE], op->params[ATTENTION_SCALE]);
	task.window =
		arg_param(args, &op->call.params[ATTENTION_WINDOW], op->params[ATTENTION_WINDOW]);
	task.kv = kv_shape_of(&in[ATTENTION_TABLE], &in[ATTENTION_CACHE]);
	task.n = in[ATTENTION_Q].dims[0];
	task.heads = in[ATTENTION_Q].dims[1];
	task.context = in[ATTENTION_CONTEXT].dims[0];
	task.shared = (uint32_t)(task.heads / task.kv.groups);
	task.usual_scale = (float)(1 / sqrt((double)task.kv.columns));
	task.early = (op->constants & EARLY) == EARLY;
	return task;
}

typedef void (*form)(struct attention_task, struct cuda_scratch *, struct cuda_completion);

/* One row for a block goes a faster way where heads are of a usual size. */
template <typename T> static form form_for(const struct attention_task &task)
{
	const void *cache = arg_known(task.cache);
	const uint64_t columns = task.kv.columns;
	const bool usual = task.tile == 1 && cache != NULL && (uintptr_t)cache % 16 == 0;

	if (usual && columns == 64 && task.chunk <= 4)
		return task.chunk == 1 ? attention_row<T, 1, 8> : attention_row<T, 4, 8>;
	if (usual && columns == 128 && task.chunk <= 4)
		return task.chunk == 1 ? attention_row<T, 1, 16> : attention_row<T, 4, 16>;
	return task.tile * task.chunk <= 4 ? attention<T, 4> : attention<T, 8>;
}

/* By columns, 64 or 128, and heads of a block, up to 4 or more. */
static const form CORES_FORMS[2][2] = {{attention_cores<64, 4>, attention_cores<64, 8>},
	{attention_cores<128, 4>, attention_cores<128, 8>}};

static form cores_form_for(const struct attention_task &task)
{
	return CORES_FORMS[task.kv.columns == 64 ? 0 : 1][task.chunk <= 4 ? 0 : 1];
}

static int launch(const struct device_kernel *kernel, const struct cuda_args *args,
	const struct cuda_target *to)
{
	const struct op_launch *op = (const struct op_launch *)kernel->shape;
	const struct cuda_completion done = cuda_completion(kernel, args);
	const uint32_t dtype = op->call.in[ATTENTION_CACHE].dtype;
	struct attention_task task = make_task(op, args);
	const bool cores = takes_cores(&task, dtype);
	uint64_t blocks;

	if (task.n == 0 || task.heads == 0)
		return launch_nothing(kernel, args, to);
	if (task.n > INT_MAX || task.heads > INT_MAX)
		return -EOPNOTSUPP;
	blocks = cut(&task, &op->call.out[ATTENTION_PARTS], cores);
	if (blocks > INT_MAX)
		return -EOPNOTSUPP;
	if (cores)
		return run(to, cores_form_for(task), (uint32_t)blocks, THREADS, task, args->scratch,
			done);
	return with_type(dtype, [&](auto type) {
		return run(to, form_for<decltype(type)>(task), (uint32_t)blocks, THREADS, task,
			args->scratch, done);
	});
}

template <typename T> static int touch_type(void)
{
	static const form forms[] = {attention<T, 4>, attention<T, 8>, attention_row<T, 1, 8>,
		attention_row<T, 4, 8>, attention_row<T, 1, 16>, attention_row<T, 4, 16>};
	int err = 0;

	for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]) && err == 0; i++)
		err = touch_kernel(forms[i]);
	return err;
}

static int touch(void)
{
	int err = touch_types([](auto type) { return touch_type<decltype(type)>(); });

	for (size_t i = 0; i < 4 && err == 0; i++)
		err = touch_kernel(CORES_FORMS[i / 2][i % 2]);
	return err;
}

const struct cuda_code paged_attention_cuda = {"paged_attention", launch, NULL, touch, NULL};
