/* SPDX-License-Identifier: MIT */
/*
 * step_result in CUDA. Each part of a row (kernels/cuda/rows.cuh) finds its K first logits and its
 * sums of exponentials, and the row's last block puts them together.
 *
 * A part is read twice, the second time from the cache. The first time each thread finds the first
 * of its own logits. Some of those give a bound: K logits reach it, and a few times K others, so
 * the second time those that reach it fit a small buffer, which is sorted. Where they do not fit,
 * as in a row of equal logits, the K-th first of the threads' own is the bound; and where that does
 * not help either, further readings find the very K-th first, by 8 bits of the keys in each.
 */
#include "kernels/cuda/codes.h"
#include "kernels/cuda/rows.cuh"

extern "C" {
#include "kernels/step_result/step_result.h"
}

#define EXP_MIN -150.0f /* exp() of this and less is 0 in f32 */
#define BUFFER 2048u	/* keys; of all parts of a row together too */
#define DIGITS 256u
#define FEW 16u /* exponentials that are added up in a float */
#define NO_THRESHOLD 0
#define RANKED 512u   /* keys at most */
#define BOUND_KEYS 2u /* times K that a bound is found among */
#define MAX_DEPTH 8u  /* of them that a warp finds */

/* What a part leaves behind its keys: sums of exp(t) and t exp(t) beside its own greatest. */
struct step_sums {
	float greatest, spoiled; /* spoiled: there is a NaN or +inf */
	double sum, weighted;
};
#define SUMS_FLOATS (sizeof(struct step_sums) / sizeof(float))

struct step_task {
	struct arg logits, ids, temperatures, temperature, values, tokens, stats, named;
	struct rows_cut cut;
	uint32_t k;
	uint64_t n_ids, ids_stride; /* 0: all rows have the same */
	bool has_ids, has_temperatures;
};

/* What the threads of a block share. */
struct step_memory {
	uint64_t keys[BUFFER];
	uint32_t count;
	uint32_t bins[DIGITS];
	uint32_t digit, left, in_digit; /* of the key that is looked for */
	uint32_t seen[BUFFER / 32];
	double2 sums[ROWS_THREADS / WARP]; /* of warps */
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
 * thread's keys, again and again. NO_THRESHOLD when there are fewer than k, and whatever was found
 * when keys change meanwhile.
 */
template <typename Each>
__device__ inline uint64_t kth_first(struct step_memory &m, uint32_t k, Each each)
{
	uint64_t found = NO_THRESHOLD;

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

static __device__ inline void put_key(struct step_memory &m, uint64_t key)
{
	m.keys[atomicAdd(&m.count, 1u)] = key;
}

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

/* Descending, by how many are greater: few are sooner counted than sorted. None comes twice. */
static __device__ inline void rank_keys(struct step_memory &m, uint32_t count)
{
	uint32_t lanes = 1, rank = 0;

	while (lanes < WARP && count * lanes * 2 <= ROWS_THREADS)
		lanes *= 2;

	const uint32_t i = threadIdx.x / lanes;
	const uint64_t key = i < count ? m.keys[i] : 0;

	for (uint32_t j = threadIdx.x % lanes; j < count; j += lanes)
		rank += m.keys[j] > key;
	for (uint32_t d = lanes / 2; d > 0; d /= 2)
		rank += __shfl_xor_sync(ALL_LANES, rank, d);
	__syncthreads();
	if (i < count && threadIdx.x % lanes == 0)
		m.keys[rank] = key;
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
 * Logits that changed between two readings: fewer than `wanted` were found. Others from the
 * beginning of the part take their places, none twice.
 */
static __device__ void fill_missing(
	struct step_memory &m, const struct rows_part &part, uint32_t wanted)
{
	for (uint32_t i = threadIdx.x; i < BUFFER / 32; i += ROWS_THREADS)
		m.seen[i] = 0;
	__syncthreads();
	for (uint32_t i = threadIdx.x; i < m.count; i += ROWS_THREADS) {
		const uint64_t at = (uint64_t)key_index(m.keys[i]) - part.begin;

		if (at < BUFFER)
			atomicOr(&m.seen[at / 32], 1u << at % 32);
	}
	__syncthreads();
	/* 2 K places are enough, and K is at most half of BUFFER. */
	if (threadIdx.x == 0) {
		for (uint32_t at = 0; m.count < wanted; at++) {
			if ((m.seen[at / 32] >> at % 32 & 1) == 0)
				m.keys[m.count++] = key_of(-INFINITY, part.begin + at);
		}
	}
	__syncthreads();
}
static_assert(2 * STEP_MAX_K <= BUFFER, "room for the K first and as many others");

/* --- A bound ------------------------------------------------------------------------------ */

/* The greatest of a warp's keys, in all lanes. */
static __device__ inline uint64_t warp_greatest(uint64_t key)
{
	for (uint32_t d = WARP / 2; d > 0; d /= 2)
		key = max(key, (uint64_t)__shfl_xor_sync(ALL_LANES, key, d));
	return key;
}

/* How many of each list's first keys give a bound: together they are a few times k. */
static __device__ inline uint32_t bound_depth(uint32_t lists, uint32_t k)
{
	return min((BOUND_KEYS * k + lists - 1) / lists, k);
}

/* The k-th first of the buffer's keys; NO_THRESHOLD when there are fewer. */
static __device__ inline uint64_t buffer_bound(struct step_memory &m, uint32_t k)
{
	uint64_t bound = NO_THRESHOLD;

	if (m.count < k)
		return bound;
	order_keys(m, m.count);
	bound = m.keys[k - 1];
	__syncthreads();
	return bound;
}

/*
 * A bound that k of the threads' keys reach, and few others: by the first ones of each warp.
 * *ret_greatest is the greatest of the threads' keys.
 */
static __device__ inline uint64_t threads_bound(
	struct step_memory &m, uint64_t own, uint32_t k, uint64_t *ret_greatest)
{
	const uint32_t depth = bound_depth(ROWS_THREADS / WARP, k);
	uint64_t bound;

	if (threadIdx.x == 0)
		m.count = 0;
	__syncthreads();
	for (uint32_t j = 0; j < min(depth, MAX_DEPTH); j++) {
		const uint64_t first = warp_greatest(own);

		if (own == first && own != 0) {
			put_key(m, own);
			own = 0;
		}
	}
	__syncthreads();
	bound = depth <= MAX_DEPTH ? buffer_bound(m, k) : NO_THRESHOLD;
	if (bound == NO_THRESHOLD)
		order_keys(m, m.count);
	*ret_greatest = m.keys[0];
	__syncthreads();
	return bound;
}

/* --- Parts -------------------------------------------------------------------------------- */

/* A part's logits, and what they are divided by. */
template <typename T> struct step_part {
	struct rows_part part;
	const T *row;
	const double &temperature;
	bool aligned;

	template <typename F> __device__ inline void each(F f) const
	{
		rows_each(row, part.begin, part.end, aligned, f);
	}
};

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
static_assert(ROWS_THREADS == WARP * WARP, "a lane for each warp");

/* Puts the logits that reach the bound into the buffer, counts them, and makes the sums. */
template <typename T>
__device__ inline void collect(
	struct step_memory &m, const struct step_part<T> &p, uint64_t bound, struct step_sums *sums)
{
	/* Whatever is below, which a NaN is not, has a key that is less. */
	const float value = bound == NO_THRESHOLD ? -INFINITY : key_value(bound);
	const float base = isfinite(sums->greatest) ? sums->greatest : 0;
	const float inverse_t = (float)(1 / p.temperature);
	const float least = (float)fmax(EXP_MIN * p.temperature, -3.4e38);
	double sum = 0, weighted = 0;
	float few = 0, few_weighted = 0; /* of up to FEW */
	uint32_t count = 0;
	bool spoiled = false;

	if (threadIdx.x == 0)
		m.count = 0;
	__syncthreads();
	p.each([&](float v, uint64_t i) {
		const float t = fmaxf(v - base, least) * inverse_t, e = expf(t);

		few += e;
		few_weighted += t * e;
		if (++count % FEW == 0) {
			sum += (double)few;
			weighted += (double)few_weighted;
			few = few_weighted = 0;
		}
		spoiled = spoiled || isnan(v) || v == INFINITY;
		if (v < value)
			return;
		const uint64_t key = key_of(v, i);

		if (key >= bound) {
			const uint32_t at = atomicAdd(&m.count, 1u);

			if (at < BUFFER)
				m.keys[at] = key;
		}
	});
	add_sums(m, sum + (double)few, weighted + (double)few_weighted, spoiled, sums);
}

/* Leaves the part's first keys, K of them if it has as many, in the buffer, sorted. */
template <typename T>
__device__ inline struct step_sums find_first(
	struct step_memory &m, const struct step_part<T> &p, uint32_t k)
{
	const uint64_t own = rows_thread_first(p.row, p.part.begin, p.part.end, p.aligned);
	const uint32_t wanted = (uint32_t)min((uint64_t)k, p.part.end - p.part.begin);
	uint64_t greatest, bound = threads_bound(m, own, k, &greatest);
	struct step_sums sums = {.greatest = key_value(greatest)};

	if (bound == NO_THRESHOLD)
		bound = kth_first(m, k, [&](auto f) { f(own); });
	collect(m, p, bound, &sums);
	if (m.count > BUFFER) {
		bound = kth_first(m, k, [&](auto f) { f(own); });
		collect(m, p, bound, &sums);
	}
	if (m.count > BUFFER) {
		bound = kth_first(m, k,
			[&](auto f) { p.each([&](float v, uint64_t i) { f(key_of(v, i)); }); });
		collect(m, p, bound, &sums);
	}
	__syncthreads();
	if (threadIdx.x == 0)
		m.count = min(m.count, BUFFER);
	__syncthreads();
	if (m.count < wanted)
		fill_missing(m, p.part, wanted);
	order_keys(m, m.count);
	return sums;
}

/* --- Rows --------------------------------------------------------------------------------- */

static __device__ inline void write_stats(
	float *stats, const struct step_sums &sums, double temperature)
{
	const bool strange = sums.spoiled != 0 || !isfinite(sums.greatest);

	stats[0] = strange ? NAN : (float)(sums.greatest / temperature + log(sums.sum));
	stats[1] = strange ? NAN : (float)(log(sums.sum) - sums.weighted / sums.sum);
}

/* The first K of the sorted buffer. */
static __device__ inline void write_row(const struct step_task &task,
	const struct device_args *block, const struct step_memory &m, const struct step_sums &sums,
	uint32_t row, double temperature)
{
	float *values = (float *)arg_pointer(block, task.values) + (uint64_t)row * task.k;
	int32_t *tokens = (int32_t *)arg_pointer(block, task.tokens) + (uint64_t)row * task.k;

	for (uint32_t i = threadIdx.x; i < task.k; i += ROWS_THREADS) {
		values[i] = key_value(m.keys[i]);
		tokens[i] = key_index(m.keys[i]);
	}
	if (threadIdx.x == 0)
		write_stats((float *)arg_pointer(block, task.stats) + 2 * (uint64_t)row, sums,
			temperature);
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

/* Where a part leaves its first keys, and its sums behind them. */
static __device__ inline uint64_t *left_by(
	const struct step_task &task, struct cuda_scratch *scratch, uint32_t row, uint32_t part)
{
	const uint64_t floats = 2 * task.k + SUMS_FLOATS;

	return (uint64_t *)(scratch->partials + (row * task.cut.parts + part) * floats);
}

static __device__ inline void leave_part(const struct step_task &task, const struct step_memory &m,
	const struct step_sums &sums, uint64_t *keys)
{
	for (uint32_t i = threadIdx.x; i < task.k; i += ROWS_THREADS)
		keys[i] = i < m.count ? m.keys[i] : 0;
	if (threadIdx.x == 0)
		*(struct step_sums *)(keys + task.k) = sums;
}

/* The sums of all parts of a row, one of which each lane of the first warp has. */
static __device__ inline struct step_sums join_sums(const struct step_task &task,
	struct cuda_scratch *scratch, uint32_t row, double temperature)
{
	const bool has = threadIdx.x < task.cut.parts;
	const uint64_t *keys = left_by(task, scratch, row, has ? threadIdx.x : 0);
	const float *floats = (const float *)(keys + task.k);
	const double *doubles = (const double *)(keys + task.k + 1);
	const float own = has ? __ldcg(&floats[0]) : -INFINITY;
	struct step_sums all = {.greatest = lanes_max(own, WARP),
		.spoiled = lanes_max(has ? __ldcg(&floats[1]) : 0, WARP)};
	const double shift = ((double)own - (double)all.greatest) / temperature;

	/* What is so far below adds nothing, nor does a part of -inf alone. */
	if (has && shift > EXP_MIN) {
		all.sum = exp(shift) * __ldcg(&doubles[0]);
		all.weighted = exp(shift) * __ldcg(&doubles[1]) + shift * all.sum;
	}
	for (uint32_t d = WARP / 2; d > 0; d /= 2) {
		all.sum += __shfl_xor_sync(ALL_LANES, all.sum, d);
		all.weighted += __shfl_xor_sync(ALL_LANES, all.weighted, d);
	}
	return all;
}

/* Brings the first keys of all parts of a row together in the buffer, sorted. */
static __device__ inline void join_keys(struct step_memory &m, const struct step_task &task,
	struct cuda_scratch *scratch, uint32_t row)
{
	constexpr uint32_t OWN = BUFFER / ROWS_THREADS;
	const uint32_t parts = task.cut.parts, depth = bound_depth(parts, task.k);
	uint64_t own[OWN], bound;

	if (threadIdx.x == 0)
		m.count = 0;
#pragma unroll
	for (uint32_t o = 0; o < OWN; o++) {
		const uint32_t i = o * ROWS_THREADS + threadIdx.x;

		own[o] = i < parts * task.k
			? __ldcg(left_by(task, scratch, row, i / task.k) + i % task.k)
			: 0;
	}
	__syncthreads();
#pragma unroll
	for (uint32_t o = 0; o < OWN; o++) {
		if (own[o] != 0 && (o * ROWS_THREADS + threadIdx.x) % task.k < depth)
			put_key(m, own[o]);
	}
	__syncthreads();
	bound = max(buffer_bound(m, task.k), (uint64_t)1);
	if (threadIdx.x == 0)
		m.count = 0;
	__syncthreads();
#pragma unroll
	for (uint32_t o = 0; o < OWN; o++) {
		if (own[o] >= bound)
			put_key(m, own[o]);
	}
	__syncthreads();
	order_keys(m, m.count);
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

template <typename T>
__global__ void BOUNDS(ROWS_THREADS) step_rows(const __grid_constant__ struct step_task task,
	struct cuda_scratch *scratch, const __grid_constant__ struct cuda_completion done)
{
	cuda_begin();
	__shared__ struct step_memory memory;
	__shared__ double temperature;
	const struct rows_part part = rows_part_of(task.cut);
	const T *logits = (const T *)arg_pointer(done.block, task.logits);
	const T *row = logits + part.row * task.cut.n;

	/* One reading for all: it may change. Who needs it comes behind other barriers. */
	if (threadIdx.x == ROWS_THREADS - 1)
		temperature = temperature_of(task, done.block, part.row);

	const struct step_part<T> p = {
		part, row, temperature,
			aligned_16(logits, NULL) && task.cut.n % vec_elements<T> == 0
	};
	struct step_sums sums = find_first(memory, p, task.k);

	if (part.part == 0 && task.has_ids)
		write_named(task, done.block, row, part.row);
	if (task.cut.parts == 1) {
		write_row(task, done.block, memory, sums, part.row, temperature);
	} else {
		leave_part(task, memory, sums, left_by(task, scratch, part.row, part.part));
		if (rows_joined(scratch, task.cut, part.row)) {
			/* While the other warps wait for their keys. */
			if (threadIdx.x < WARP)
				sums = join_sums(task, scratch, part.row, temperature);
			join_keys(memory, task, scratch, part.row);
			write_row(task, done.block, memory, sums, part.row, temperature);
		}
	}
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
	task.cut = rows_cut(logits->dims[0], logits->dims[1], 2 * task.k + SUMS_FLOATS,
		min(ROWS_MAX_PARTS, BUFFER / task.k));
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
