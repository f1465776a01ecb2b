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
#include "kernels/paged_attention/attention_cores.cuh"
#include "kernels/paged_attention/attention_row.cuh"

/* Tokens under way in a team, as registers allow. */
template <uint32_t ITEMS> constexpr uint32_t steps_for = ITEMS > 4 ? 2 : 4;

/* Items first..end-1 are of one row of the table; begin..until-1: what any of them sees. */
struct item_run {
	uint32_t first, end;
	uint64_t begin, until;
};

/* --- Items -------------------------------------------------------------------------------- */

/* All of a block's, by the first threads; the rows' index values are read by one thread each. */
static __device__ inline void find_items(struct attention_memory &m,
	const struct attention_task &task, const struct device_args *block, uint64_t tile,
	uint64_t group, uint64_t chunk)
{
	const uint64_t row = tile * task.tile + threadIdx.x;

	if (threadIdx.x < MAX_ITEMS)
		m.items[threadIdx.x] = {0, 0, -1, -1, false, 0};
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

template <uint32_t COLUMNS, uint32_t HEADS>
__global__ void __launch_bounds__(THREADS, cores_resident(COLUMNS))
	attention_cores(const __grid_constant__ struct attention_task task,
		struct cuda_scratch *scratch, const __grid_constant__ struct cuda_completion done)
{
	cuda_let_next();
	__shared__ struct attention_memory memory;
	const struct cores_place at = cores_place_of(task);

	if (!task.early)
		cuda_await();

	const auto start = [&](const auto &a, auto *first) {
		const float *q =
			(const float *)arg_pointer(done.block, task.q) + at.query * COLUMNS;

		cuda_await();
		a.load_query(q, at.items, first->query);
		a.load_first(first);
	};

	if (aligned_16(arg_pointer(done.block, task.cache), NULL))
		attend_on_cores<COLUMNS, HEADS, true>(memory, task, done.block, scratch, at, start);
	else
		attend_on_cores<COLUMNS, HEADS, false>(
			memory, task, done.block, scratch, at, start);
	cuda_complete(done);
}

/* --- Launching ---------------------------------------------------------------------------- */

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
	struct attention_task task = attention_task_of(op, args);
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
