/* SPDX-License-Identifier: MIT */
/*
 * step_result in CUDA. The blocks of a row (kernels/cuda/rows.cuh) make their parts' sums of
 * exponentials, and leave the first logit of each group: of some that a few threads have read. The
 * row's last block finds by these which groups can have one of the K first logits, and reads them
 * again.
 *
 * Some of the groups' first ones give a bound: K logits reach it, and a few times K others, so what
 * reaches it fits a small buffer, which is sorted. Where it does not fit, as in a row of equal
 * logits, the K-th first of all groups is the bound; and where that does not help either, further
 * readings find the very K-th first, by 8 bits of the keys in each.
 */
#include "kernels/cuda/codes.h"
#include "kernels/cuda/rows.cuh"

extern "C" {
#include "kernels/step_result/step_result.h"
}

#define EXP_MIN -150.0f /* exp() of this and less is 0 in f32 */
#define BUFFER 2048u	/* keys */
#define DIGITS 256u
#define FEW 16u /* exponentials that are added up in a float */
#define NO_BOUND 0
#define WARPS (ROWS_THREADS / WARP)
#define RANKED 512u   /* keys at most */
#define BOUND_KEYS 2u /* times K that a bound is found among */
#define MAX_DEPTH 8u  /* of them that a warp finds */
#define GROUP 8u      /* threads, where a row has several parts */
#define FIRSTS (ROWS_THREADS / GROUP)
#define OWN (ROWS_MAX_PARTS * FIRSTS / ROWS_THREADS) /* groups of a thread */

/* What a part leaves behind its groups' first: sums of exp(t) and t exp(t) beside its greatest. */
struct step_sums {
	float greatest, spoiled; /* spoiled: there is a NaN or +inf */
	double sum, weighted;
};
#define ROOM (FIRSTS + (uint32_t)(sizeof(struct step_sums) / sizeof(float)))
static_assert(FIRSTS % 2 == 0 && ROOM % 2 == 0, "doubles on their boundaries");

struct step_task {
	struct arg logits, ids, temperatures, temperature, values, tokens, stats, named;
	struct rows_cut cut;
	uint32_t k;
	uint64_t n_ids, ids_stride; /* 0: all rows have the same */
	bool has_ids, has_temperatures;
	bool early; /* temperatures may be read before cuda_await() */
};

/* What the threads of a block share. */
struct step_memory {
	uint64_t keys[BUFFER];
	uint64_t bound;
	uint32_t count;
	uint32_t n_groups;
	uint16_t groups[OWN * ROWS_THREADS]; /* that are read again */
	uint32_t bins[DIGITS];
	uint32_t digit, left, in_digit; /* of the key that is looked for */
	uint32_t seen[BUFFER / 32];
	double2 sums[WARPS]; /* of warps, */
	float greatest[WARPS];
	double temperature;
	float inverse_t, least; /* of what exp() is taken of: see EXP_MIN */
};

/* --- The K-th first ----------------------------------------------------------------------- */

/* Which digit the k-th greatest key has: by the first warp. False: there are fewer. */
static __device__ inline bool find_digit(struct step_memory &m, uint32_t k)
{
	constexpr uint32_t PER = DIGITS / WARP;

	if (threadIdx.x < WARP) {
		const uint32_t top = DIGITS - 1 - threadIdx.x * PER;
		uint32_t own = 0;

		for (uint32_t i = 0; i < PER; i++)
			own += m.bins[top - i];
		uint32_t upto = own;

		for (uint32_t d = 1; d < WARP; d *= 2) {
			const uint32_t before = __shfl_up_sync(ALL_LANES, upto, d);

			upto += threadIdx.x >= d ? before : 0;
		}
		if (threadIdx.x == WARP - 1 && upto < k)
			m.in_digit = 0;
		/* One lane at most. */
		if (upto >= k && upto - own < k) {
			uint32_t before = upto - own, i = 0;

			while (before + m.bins[top - i] < k)
				before += m.bins[top - i++];
			m.digit = top - i;
			m.left = k - before;
			m.in_digit = m.bins[top - i];
		}
	}
	__syncthreads();
	return m.in_digit != 0;
}

/*
 * A bound that k of the keys reach, all different, and no others; each(f) calls f of all of the
 * thread's keys, again and again. NO_BOUND when there are fewer than k, and whatever was found
 * when keys change meanwhile.
 */
template <typename Each>
__device__ inline uint64_t kth_first(struct step_memory &m, uint32_t k, Each each)
{
	uint64_t found = NO_BOUND;

#pragma unroll 1
	for (int shift = 56; shift >= 0; shift -= 8) {
		for (uint32_t i = threadIdx.x; i < DIGITS; i += ROWS_THREADS)
			m.bins[i] = 0;
		__syncthreads();
		each([&](uint64_t key) {
			if (shift == 56 || (key >> (shift + 8)) == (found >> (shift + 8)))
				atomicAdd(&m.bins[key >> shift & (DIGITS - 1)], key != 0 ? 1u : 0u);
		});
		__syncthreads();
		if (!find_digit(m, k))
			break;
		found |= (uint64_t)m.digit << shift;
		k = m.left;

		const bool exact = m.in_digit == k;

		__syncthreads();
		if (exact)
			break;
	}
	__syncthreads();
	return found;
}

/* --- The buffer --------------------------------------------------------------------------- */

/* Descending; zeros fill it up to a power of two. By bitonic merges. */
static __device__ inline void sort_keys(struct step_memory &m, uint32_t count)
{
	uint32_t size = 1;

	while (size < count)
		size *= 2;
	for (uint32_t i = count + threadIdx.x; i < size; i += ROWS_THREADS)
		m.keys[i] = 0;
	__syncthreads();
	for (uint32_t run = 2; run <= size; run *= 2) {
		for (uint32_t d = run / 2; d > 0; d /= 2) {
			for (uint32_t i = threadIdx.x; i < size / 2; i += ROWS_THREADS) {
				const uint32_t low = i / d * 2 * d + i % d, high = low + d;
				const uint64_t a = m.keys[low], b = m.keys[high];
				const bool descending = (low & run) == 0;

				if ((a < b) == descending) {
					m.keys[low] = b;
					m.keys[high] = a;
				}
			}
			__syncthreads();
		}
	}
}

/* A key of the buffer, and how many are greater: of several lanes each, which have the same. */
struct step_rank {
	uint64_t key; /* 0: the thread has none */
	uint32_t rank;
};

static __device__ __noinline__ struct step_rank rank_key(
	const struct step_memory &m, uint32_t count)
{
	uint32_t lanes = 1;
	struct step_rank r = {0, 0};

	while (lanes < WARP && count * lanes * 2 <= ROWS_THREADS)
		lanes *= 2;
	if (threadIdx.x / lanes < count)
		r.key = m.keys[threadIdx.x / lanes];
	for (uint32_t j = threadIdx.x % lanes; j < count; j += lanes)
		r.rank += m.keys[j] > r.key;
	for (uint32_t d = lanes / 2; d > 0; d /= 2)
		r.rank += __shfl_xor_sync(ALL_LANES, r.rank, d);
	return r;
}

/* Descending: few are sooner counted than sorted. None comes twice. */
static __device__ inline void rank_keys(struct step_memory &m, uint32_t count)
{
	const struct step_rank r = rank_key(m, count);

	__syncthreads();
	if (r.key != 0)
		m.keys[r.rank] = r.key;
	__syncthreads();
}

static __device__ inline void order_keys(struct step_memory &m, uint32_t count)
{
	if (count <= RANKED)
		rank_keys(m, count);
	else
		sort_keys(m, count);
}

/*
 * Logits that changed between two readings: fewer than k were found. Others from the beginning of
 * the row take their places, none twice.
 */
static __device__ void fill_missing(struct step_memory &m, uint32_t k)
{
	for (uint32_t i = threadIdx.x; i < BUFFER / 32; i += ROWS_THREADS)
		m.seen[i] = 0;
	__syncthreads();
	for (uint32_t i = threadIdx.x; i < m.count; i += ROWS_THREADS) {
		const uint32_t at = (uint32_t)key_index(m.keys[i]);

		if (at < BUFFER)
			atomicOr(&m.seen[at / 32], 1u << at % 32);
	}
	__syncthreads();
	/* 2 K places are enough, and K is at most half of BUFFER. */
	if (threadIdx.x == 0) {
		for (uint32_t at = 0; m.count < k; at++) {
			if ((m.seen[at / 32] >> at % 32 & 1) == 0)
				m.keys[m.count++] = key_of(-INFINITY, at);
		}
	}
	__syncthreads();
}
static_assert(2 * STEP_MAX_K <= BUFFER, "room for the K first and as many others");

/* --- Parts -------------------------------------------------------------------------------- */

/* A row. A group is what so many neighbouring threads read of a part. */
template <typename T> struct step_row {
	const T *logits;
	struct rows_cut cut;
	uint32_t lanes; /* of a group */
	bool aligned;

	/* Calls f(value, index) of a thread's of a part. */
	template <typename F>
	__device__ inline void each(uint32_t part, F f, uint32_t thread = threadIdx.x) const
	{
		const uint64_t begin = part * cut.part;

		rows_each(logits, begin, min(begin + cut.part, cut.n), aligned, f, thread);
	}

	/* The first lane's thread in its part. */
	__device__ inline uint32_t thread_of(uint32_t group) const
	{
		return group * lanes % ROWS_THREADS;
	}

	__device__ inline uint32_t part_of(uint32_t group) const
	{
		return group * lanes / ROWS_THREADS;
	}

	/* A key that a group's first one reaches, whichever it is; 0: a NaN is said to be first. */
	__device__ inline uint64_t group_key(float first, uint32_t group) const
	{
		constexpr uint32_t V = vec_elements<T>;
		const uint32_t begin = part_of(group) * (uint32_t)cut.part;
		const uint32_t rest = min((uint32_t)cut.part, (uint32_t)cut.n - begin) - 1;
		const uint32_t end = thread_of(group) + lanes;
		const uint32_t last = begin - 1 +
			(aligned ? (rest / (ROWS_THREADS * V) * ROWS_THREADS + end) * V
				 : rest / ROWS_THREADS * ROWS_THREADS + end);

		return isnan(first) ? 0 : key_of(first, last);
	}
};

/* The greatest of a thread's logits of a part; NaN: it has none. */
template <typename T>
__device__ inline float thread_first(const struct step_row<T> &row, uint32_t part)
{
	float greatest = NAN;

	row.each(part,
		[&](float v, uint64_t i) { greatest = fmaxf(greatest, fmaxf(v, -INFINITY)); });
	return greatest;
}

/* The greatest of all threads', after a barrier. */
static __device__ inline float block_first(struct step_memory &m, float first)
{
	first = lanes_max(first, WARP);
	if (threadIdx.x % WARP == 0)
		m.greatest[threadIdx.x / WARP] = first;
	__syncthreads();
	return lanes_max(m.greatest[threadIdx.x % WARP], WARP);
}

/* Both sums of all lanes of a warp, in all of them. */
static __device__ inline double2 lanes_both(double2 v)
{
#pragma unroll
	for (uint32_t d = WARP / 2; d > 0; d /= 2) {
		v.x += __shfl_xor_sync(ALL_LANES, v.x, d);
		v.y += __shfl_xor_sync(ALL_LANES, v.y, d);
	}
	return v;
}

/* What all threads have together, after a barrier. */
static __device__ inline void add_sums(
	struct step_memory &m, double sum, double weighted, bool spoiled, struct step_sums *sums)
{
	double2 both = lanes_both(make_double2(sum, weighted));

	if (threadIdx.x % WARP == 0)
		m.sums[threadIdx.x / WARP] = both;
	sums->spoiled = __syncthreads_or(spoiled) != 0 ? 1 : 0;
	both = lanes_both(m.sums[threadIdx.x % WARP]);
	sums->sum = both.x;
	sums->weighted = both.y;
}
static_assert(WARPS == WARP, "a lane for each warp");

/* All sums of a part, whose greatest logit is known. */
template <typename T>
__device__ inline struct step_sums part_sums(
	struct step_memory &m, const struct step_row<T> &row, uint32_t part, float greatest)
{
	const float base = isfinite(greatest) ? greatest : 0;
	const float inverse_t = m.inverse_t, least = m.least;
	struct step_sums sums = {.greatest = greatest};
	double sum = 0, weighted = 0;
	float few = 0, few_weighted = 0; /* of up to FEW */
	uint32_t count = 0;
	bool spoiled = false;

	row.each(part, [&](float v, uint64_t i) {
		const float t = fmaxf(v - base, least) * inverse_t, e = expf(t);

		few += e;
		few_weighted += t * e;
		if (++count % FEW == 0) {
			sum += (double)few;
			weighted += (double)few_weighted;
			few = few_weighted = 0;
		}
		spoiled = spoiled || isnan(v) || v == INFINITY;
	});
	add_sums(m, sum + (double)few, weighted + (double)few_weighted, spoiled, &sums);
	return sums;
}

/* Where a part leaves its groups' first ones, and its sums behind them. */
static __device__ inline float *left_by(
	const struct rows_cut &cut, struct cuda_scratch *scratch, uint32_t row, uint32_t part)
{
	return scratch->partials + (row * cut.parts + part) * ROOM;
}

/* The sums of all parts of a row, one of which each lane of a warp has. */
static __device__ inline struct step_sums join_sums(
	const struct rows_cut &cut, struct cuda_scratch *scratch, uint32_t row, double temperature)
{
	const uint32_t lane = threadIdx.x % WARP;
	const bool has = lane < cut.parts;
	const float *floats = left_by(cut, scratch, row, has ? lane : 0) + FIRSTS;
	const double *doubles = (const double *)(floats + 2);
	const float own = has ? __ldcg(&floats[0]) : -INFINITY;
	struct step_sums all = {.greatest = lanes_max(own, WARP),
		.spoiled = lanes_max(has ? __ldcg(&floats[1]) : 0, WARP)};
	const double shift = ((double)own - (double)all.greatest) / temperature;

	/* What is so far below adds nothing, nor does a part of -inf alone. */
	if (has && shift > EXP_MIN) {
		all.sum = exp(shift) * __ldcg(&doubles[0]);
		all.weighted = exp(shift) * __ldcg(&doubles[1]) + shift * all.sum;
	}

	const double2 both = lanes_both(make_double2(all.sum, all.weighted));

	all.sum = both.x;
	all.weighted = both.y;
	return all;
}

/* --- The first of a row ------------------------------------------------------------------- */

/* The greatest of a warp's keys, in all lanes. */
static __device__ inline uint64_t warp_greatest(uint64_t key)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
	const uint32_t high = (uint32_t)(key >> 32), top = __reduce_max_sync(ALL_LANES, high);

	return (uint64_t)top << 32 | __reduce_max_sync(ALL_LANES, high == top ? (uint32_t)key : 0);
#else
	for (uint32_t d = WARP / 2; d > 0; d /= 2)
		key = max(key, (uint64_t)__shfl_xor_sync(ALL_LANES, key, d));
	return key;
#endif
}

template <typename F> __device__ inline void each_own(const uint64_t own[OWN], F f)
{
#pragma unroll
	for (uint32_t o = 0; o < OWN; o++)
		f(own[o]);
}

/*
 * A bound that k of the groups' keys reach, and few others: by the first ones of each warp. 0 where
 * these are too few.
 */
static __device__ inline uint64_t threads_bound(
	struct step_memory &m, const uint64_t own[OWN], uint32_t k)
{
	const uint32_t depth = (BOUND_KEYS * k + WARPS - 1) / WARPS;
	uint64_t left = 0;

	if (depth > MAX_DEPTH)
		return NO_BOUND;
	each_own(own, [&](uint64_t key) { left = max(left, key); });
	for (uint32_t j = 0; j < depth; j++) {
		const uint64_t first = warp_greatest(left);

		if (left == first)
			left = 0;
		if (threadIdx.x % WARP == 0)
			m.keys[threadIdx.x / WARP * depth + j] = first;
	}
	__syncthreads();

	const struct step_rank r = rank_key(m, WARPS * depth);

	if (r.key != 0 && r.rank == k - 1)
		m.bound = r.key;
	__syncthreads();
	return m.bound;
}

/* Which groups may have logits that reach the bound; of equal ones no order is known. */
static __device__ inline void list_groups(
	struct step_memory &m, const uint64_t own[OWN], uint64_t bound)
{
#pragma unroll
	for (uint32_t o = 0; o < OWN; o++) {
		if (own[o] != 0 && own[o] >> 32 >= bound >> 32)
			m.groups[atomicAdd(&m.n_groups, 1u)] =
				(uint16_t)(o * ROWS_THREADS + threadIdx.x);
	}
	__syncthreads();
}

/* Calls f(value, index) of all logits of the groups listed. */
template <typename T, typename F>
__device__ inline void each_listed(const struct step_memory &m, const struct step_row<T> &row, F f)
{
	for (uint32_t i = threadIdx.x / row.lanes; i < m.n_groups; i += ROWS_THREADS / row.lanes) {
		const uint32_t group = m.groups[i];

		row.each(row.part_of(group), f, row.thread_of(group) + threadIdx.x % row.lanes);
	}
}

/* Puts those that reach the bound into the buffer, as many as fit. Returns how many there are. */
template <typename T>
__device__ inline uint32_t collect(
	struct step_memory &m, const struct step_row<T> &row, uint64_t bound)
{
	/* Whatever is below, which a NaN is not, has a key that is less. */
	const float value = bound == NO_BOUND ? -INFINITY : key_value(bound);

	if (threadIdx.x == 0)
		m.count = 0;
	__syncthreads();
	each_listed(m, row, [&](float v, uint64_t i) {
		if (v < value)
			return;
		const uint64_t key = key_of(v, i);

		if (key >= bound) {
			const uint32_t at = atomicAdd(&m.count, 1u);

			if (at < BUFFER)
				m.keys[at] = key;
		}
	});
	__syncthreads();
	return m.count;
}

/*
 * Leaves the row's first keys in the buffer, K at least, sorted. The first bound, by some of the
 * groups, does but for odd rows; the second is by all of them, the third by the logits themselves.
 * meanwhile() is what can be done while logits are read.
 */
template <typename T, typename F>
__device__ inline void find_first(struct step_memory &m, const struct step_row<T> &row,
	const uint64_t own[OWN], uint32_t k, F meanwhile)
{
	uint64_t bound = threads_bound(m, own, k);
	uint32_t count = BUFFER + 1;
	bool listed = false;

#pragma unroll 1
	for (uint32_t i = bound != NO_BOUND ? 0 : 1; i < 3 && count > BUFFER; i++) {
		if (i > 0)
			bound = kth_first(m, k, [&](auto f) {
				if (i == 1)
					each_own(own, f);
				else
					each_listed(m, row,
						[&](float v, uint64_t at) { f(key_of(v, at)); });
			});
		if (!listed) {
			list_groups(m, own, bound);
			meanwhile();
		}
		listed = true;
		count = collect(m, row, bound);
	}
	if (count < k) {
		fill_missing(m, k);
		count = k;
	}
	order_keys(m, min(count, BUFFER));
}

/* --- Rows --------------------------------------------------------------------------------- */

static __device__ inline void write_stats(
	float *stats, const struct step_sums &sums, double temperature)
{
	const bool strange = sums.spoiled != 0 || !isfinite(sums.greatest);
	const double logarithm = log(sums.sum);

	stats[0] = strange ? NAN : (float)(sums.greatest / temperature + logarithm);
	stats[1] = strange ? NAN : (float)(logarithm - sums.weighted / sums.sum);
}

/* The first K of the sorted buffer. */
static __device__ inline void write_first(const struct step_task &task,
	const struct device_args *block, const struct step_memory &m, uint32_t row)
{
	float *values = (float *)arg_pointer(block, task.values) + (uint64_t)row * task.k;
	int32_t *tokens = (int32_t *)arg_pointer(block, task.tokens) + (uint64_t)row * task.k;

	for (uint32_t i = threadIdx.x; i < task.k; i += ROWS_THREADS) {
		values[i] = key_value(m.keys[i]);
		tokens[i] = key_index(m.keys[i]);
	}
}

template <typename T>
__device__ inline void write_named(const struct step_task &task, const struct device_args *block,
	const T *logits, uint32_t row)
{
	const int32_t *ids = (const int32_t *)arg_pointer(block, task.ids) + row * task.ids_stride;
	float *named = (float *)arg_pointer(block, task.named) + row * task.n_ids;

	for (uint64_t i = threadIdx.x; i < task.n_ids; i += ROWS_THREADS) {
		const int64_t id = index_at(ids, i);

		named[i] = id >= 0 && id < (int64_t)task.cut.n ? to_float(logits[id]) : -INFINITY;
	}
}

static __device__ inline double temperature_of(
	const struct step_task &task, const struct device_args *block, uint32_t row)
{
	if (!task.has_temperatures)
		return arg_f64(block, task.temperature);
	const float t = index_at((const float *)arg_pointer(block, task.temperatures), row);

	/* As temperature.h says. */
	return t >= 1e-30f && t <= 1e30f ? t : 1;
}

/* What all threads need; seen after a barrier. One reading of the temperature: it may change. */
static __device__ inline void set_up(struct step_memory &m, const struct step_task &task,
	const struct device_args *block, uint32_t row)
{
	if (threadIdx.x == 0) {
		m.bound = NO_BOUND;
		m.n_groups = 0;
	}
	if (threadIdx.x == ROWS_THREADS - 1) {
		const double temperature = temperature_of(task, block, row);

		m.temperature = temperature;
		m.inverse_t = (float)(1 / temperature);
		m.least = (float)fmax(EXP_MIN * temperature, -3.4e38);
	}
}

/* A row's first logits and its statistics, by its groups' keys. */
template <typename T>
__device__ inline void finish_row(struct step_memory &m, const struct step_task &task,
	const struct device_args *block, struct cuda_scratch *scratch,
	const struct step_row<T> &row, uint32_t index, const uint64_t own[OWN],
	struct step_sums sums)
{
	find_first(m, row, own, task.k, [&] {
		/* By one of the warps that have the fewest groups to read. */
		if (threadIdx.x / WARP < WARPS - 1)
			return;
		if (task.cut.parts > 1)
			sums = join_sums(task.cut, scratch, index, m.temperature);
		if (threadIdx.x % WARP == 0)
			write_stats((float *)arg_pointer(block, task.stats) + 2 * (uint64_t)index,
				sums, m.temperature);
	});
	write_first(task, block, m, index);
}

template <typename T>
__global__ void BOUNDS(ROWS_THREADS) step_rows(const __grid_constant__ struct step_task task,
	struct cuda_scratch *scratch, const __grid_constant__ struct cuda_completion done)
{
	__shared__ struct step_memory m;
	const uint32_t index = blockIdx.x / task.cut.parts, part = blockIdx.x % task.cut.parts;
	const T *logits = (const T *)arg_pointer(done.block, task.logits);
	const struct step_row<T> row = {
		logits + index *task.cut.n, task.cut, task.cut.parts == 1 ? 1 : GROUP,
			aligned_16(logits, NULL) && task.cut.n % vec_elements<T> == 0
	};

	cuda_let_next();
	if (!task.early)
		cuda_await();
	set_up(m, task, done.block, index);
	cuda_await();

	const float first = lanes_max(thread_first(row, part), row.lanes);
	const struct step_sums sums = part_sums(m, row, part, block_first(m, first));
	uint64_t own[OWN] = {};
	bool last = true;

	if (part == 0 && task.has_ids)
		write_named(task, done.block, row.logits, index);
	if (task.cut.parts == 1) {
		own[0] = row.group_key(first, threadIdx.x);
	} else {
		float *left = left_by(task.cut, scratch, index, part);

		if (threadIdx.x % GROUP == 0)
			left[threadIdx.x / GROUP] = first;
		if (threadIdx.x == 0)
			*(struct step_sums *)(left + FIRSTS) = sums;
		last = rows_joined(scratch, task.cut, index);
		left = left_by(task.cut, scratch, index, 0);
#pragma unroll
		for (uint32_t o = 0; o < OWN; o++) {
			const uint32_t group = o * ROWS_THREADS + threadIdx.x;

			if (last && group < task.cut.parts * FIRSTS)
				own[o] = row.group_key(
					__ldcg(&left[group / FIRSTS * ROOM + group % FIRSTS]),
					group);
		}
	}
	if (last)
		finish_row(m, task, done.block, scratch, row, index, own, sums);
	cuda_complete(done);
}

/* --- Launching ---------------------------------------------------------------------------- */

static struct step_task make_task(const struct op_launch *op, const struct cuda_args *args)
{
	const struct tensor *in = op->call.in, *out = op->call.out;
	struct step_task task = {};

	task.logits = arg_tensor(args, &in[STEP_LOGITS], op->in[STEP_LOGITS]);
	task.values = arg_tensor(args, &out[STEP_VALUES], op->out[STEP_VALUES]);
	task.tokens = arg_tensor(args, &out[STEP_TOKENS], op->out[STEP_TOKENS]);
	task.stats = arg_tensor(args, &out[STEP_STATS], op->out[STEP_STATS]);
	task.temperature = arg_param(args, &op->call.params[0], op->params[0]);
	task.has_temperatures = tensor_present(&in[STEP_TEMPERATURES]);
	if (task.has_temperatures)
		task.temperatures =
			arg_tensor(args, &in[STEP_TEMPERATURES], op->in[STEP_TEMPERATURES]);
	task.early = !task.has_temperatures || (op->constants >> STEP_TEMPERATURES & 1) != 0;
	task.has_ids = tensor_present(&in[STEP_IDS]);
	if (task.has_ids) {
		task.ids = arg_tensor(args, &in[STEP_IDS], op->in[STEP_IDS]);
		task.named = arg_tensor(args, &out[STEP_NAMED], op->out[STEP_NAMED]);
		task.n_ids = out[STEP_NAMED].dims[1];
		task.ids_stride = in[STEP_IDS].rank == 2 ? task.n_ids : 0;
	}
	task.k = (uint32_t)out[STEP_VALUES].dims[1];
	return task;
}

static int launch(const struct device_kernel *kernel, const struct cuda_args *args,
	const struct cuda_target *to)
{
	const struct op_launch *op = (const struct op_launch *)kernel->shape;
	const struct tensor *logits = &op->call.in[STEP_LOGITS];
	const struct cuda_completion done = cuda_completion(kernel, args);
	struct step_task task = make_task(op, args);

	if (logits->dims[0] == 0)
		return launch_nothing(kernel, args, to);
	if (logits->dims[0] > INT_MAX)
		return -EOPNOTSUPP;
	task.cut = rows_cut(logits->dims[0], logits->dims[1], ROOM, ROWS_MAX_PARTS);
	return with_type(logits->dtype, [&](auto type) {
		return run(to, step_rows<decltype(type)>, task.cut.rows * task.cut.parts,
			ROWS_THREADS, task, args->scratch, done);
	});
}

static int touch(void)
{
	const int err = machine_touch();

	return err != 0
		? err
		: touch_types([](auto type) { return touch_kernel(step_rows<decltype(type)>); });
}

const struct cuda_code step_result_cuda = {"step_result", launch, NULL, touch, NULL};
