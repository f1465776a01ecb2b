/* SPDX-License-Identifier: MIT */
/*
 * sample in CUDA: the greatest logit of each part of a row, then, in a second launch, the draws of
 * each part, of which the row's last block takes the best (kernels/cuda/rows.cuh); where a row is
 * one part, all in one launch. What decides about the token is computed as the forms for the CPU
 * do, with the same roundings one by one, so that all of them draw the same token of the same
 * logits.
 *
 * What it takes on an H200: two launches, 2 us for the last blocks, the bytes of the logits over
 * the bandwidth, and for 64 rows of 128256 some 30 us for 8 million draws of about 90 instructions.
 */
#include "kernels/cuda/codes.h"
#include "kernels/cuda/rows.cuh"

extern "C" {
#include "kernels/sample/sample.h"
}

#define EXP_MIN -150.0f	    /* exp() of this and less is 0 in f32 */
#define LN2_HIGH 0x1.63p-1f /* as exp.h has them */
#define LN2_LOW -0x1.bd0106p-13f
#define SQRT_HALF_BITS 0x3f3504f3
#define ROOM 6u /* floats in the scratch memory: a struct sample_part */

struct sample_task {
	struct arg logits, temperatures, seeds, token, logprob;
	struct rows_cut cut;
	bool has_logprob;
};

/* What the parts of a row leave; greatest by the first launch, the others by the second. */
struct sample_part {
	uint64_t greatest, best;
	double sum;
};
static_assert(sizeof(struct sample_part) == ROOM * sizeof(float), "room in the scratch memory");

static __device__ inline struct sample_part *parts_of(
	struct cuda_scratch *scratch, const struct rows_cut &cut, uint32_t row)
{
	return (struct sample_part *)scratch->partials + row * cut.parts;
}

/* --- Gumbel's distribution: as sample_cpu.c ------------------------------------------------- */

static __device__ inline float split(float x, int32_t *k)
{
	const int32_t bits = __float_as_int(x);

	*k = (bits - SQRT_HALF_BITS) >> 23;
	return __int_as_float(bits - (int32_t)((uint32_t)*k << 23));
}

static __device__ inline float times_add(float a, float b, float c)
{
	return __fadd_rn(__fmul_rn(a, b), c);
}

static __device__ inline float log_of(int32_t k, float f)
{
	const float n = (float)k, square = __fmul_rn(f, f);
	float q = -0.0763565153f;

	q = times_add(q, f, 0.127633259f);
	q = times_add(q, f, -0.131605834f);
	q = times_add(q, f, 0.142015532f);
	q = times_add(q, f, -0.166232988f);
	q = times_add(q, f, 0.200012341f);
	q = times_add(q, f, -0.250008225f);
	q = times_add(q, f, 0.333333313f);

	const float cubes = __fmul_rn(__fmul_rn(f, square), q);
	const float rest =
		__fsub_rn(__fadd_rn(cubes, __fmul_rn(n, LN2_LOW)), __fmul_rn(0.5f, square));

	return __fadd_rn(__fmul_rn(n, LN2_HIGH), __fadd_rn(f, rest));
}

static __device__ inline float unit_of(int32_t n)
{
	return __fmul_rn(__fadd_rn((float)n, 0.5f), 0x1p-31f);
}

static __device__ inline float gumbel(uint32_t r)
{
	const int32_t n = (int32_t)(r >> 1);
	int32_t k;
	float m = split(unit_of(INT32_MAX - n), &k);
	const float waited = -log_of(k, k == 0 ? -unit_of(n) : __fsub_rn(m, 1));

	m = split(waited, &k);
	return -log_of(k, __fsub_rn(m, 1));
}

/* philox() of sample.h, whose step multiplies 64 bits. */
static __device__ inline void draw_block(uint32_t counter[4], uint64_t key)
{
	uint32_t key0 = (uint32_t)key, key1 = (uint32_t)(key >> 32);

#pragma unroll
	for (int round = 0; round < PHILOX_ROUNDS; round++) {
		const uint32_t a = counter[0], b = counter[2];

		counter[0] = __umulhi(b, PHILOX_MULTIPLIER_1) ^ counter[1] ^ key0;
		counter[1] = b * PHILOX_MULTIPLIER_1;
		counter[2] = __umulhi(a, PHILOX_MULTIPLIER_0) ^ counter[3] ^ key1;
		counter[3] = a * PHILOX_MULTIPLIER_0;
		key0 += PHILOX_KEY_STEP_0;
		key1 += PHILOX_KEY_STEP_1;
	}
}

/* --- Rows --------------------------------------------------------------------------------- */

/* The key of a part's first logit. */
template <typename T>
__device__ inline uint64_t part_first(const struct sample_task &task,
	const struct device_args *block, const struct rows_part &part)
{
	const T *logits = (const T *)arg_pointer(block, task.logits);
	const bool aligned = aligned_16(logits, NULL) && task.cut.n % vec_elements<T> == 0;

	return block_greatest<ROWS_THREADS>(
		rows_thread_first(logits + part.row * task.cut.n, part.begin, part.end, aligned));
}

template <typename T>
__global__ void BOUNDS(ROWS_THREADS)
	sample_greatest(const __grid_constant__ struct sample_task task,
		struct cuda_scratch *scratch, const struct device_args *block)
{
	cuda_begin();
	const struct rows_part part = rows_part_of(task.cut);
	const uint64_t first = part_first<T>(task, block, part);

	if (threadIdx.x == 0)
		parts_of(scratch, task.cut, part.row)[part.part].greatest = first;
}

struct sample_row {
	uint64_t seed, step;
	float greatest, inverse_t;
	bool greedy;
};

template <typename T>
__device__ inline struct sample_row row_of(const struct sample_task &task,
	struct cuda_scratch *scratch, const struct device_args *block, const struct rows_part &part)
{
	const struct sample_part *parts = parts_of(scratch, task.cut, part.row);
	const float t = index_at((const float *)arg_pointer(block, task.temperatures), part.row);
	const uint64_t *seeds = (const uint64_t *)arg_pointer(block, task.seeds);
	/* As temperature.h says. */
	const float divisor = t >= 1e-30f && t <= 1e30f ? t : 1;
	uint64_t greatest = 0;

	if (task.cut.parts == 1)
		greatest = part_first<T>(task, block, part);
	else
		for (uint32_t i = 0; i < task.cut.parts; i++)
			greatest = max(greatest, __ldcg(&parts[i].greatest));
	return (struct sample_row){.seed = index_at(seeds, 2 * (uint64_t)part.row),
		.step = index_at(seeds, 2 * (uint64_t)part.row + 1),
		.greatest = key_value(greatest),
		.inverse_t = 1 / divisor,
		.greedy = t == 0};
}

static __device__ inline float scaled(const struct sample_row &r, float v)
{
	/* The difference of infinities would be a NaN. */
	if (v == r.greatest)
		return 0;
	return isnan(v) ? -INFINITY : __fmul_rn(__fsub_rn(v, r.greatest), r.inverse_t);
}

/* What a thread has found. */
struct sample_drawn {
	uint64_t best; /* key of a score */
	double sum;
};

/*
 * Tokens of a group that one block of the generator serves: `from` and those 16, 32 and 48
 * further.
 */
template <typename T>
__device__ inline void draw_tokens(const struct sample_row &r, const T *logits, uint64_t from,
	uint64_t end, struct sample_drawn *drawn)
{
	uint32_t words[4] = {(uint32_t)(from / SAMPLE_GROUP * SAMPLE_BLOCKS + from % SAMPLE_BLOCKS),
		0, (uint32_t)r.step, (uint32_t)(r.step >> 32)};
	float sum = 0;

	if (!r.greedy)
		draw_block(words, r.seed);
#pragma unroll
	for (uint32_t i = 0; i < 4; i++) {
		const uint64_t token = from + i * SAMPLE_BLOCKS;

		if (token >= end)
			continue;
		const float t = scaled(r, to_float(logits[token]));
		const float score = r.greedy ? t : __fadd_rn(t, gumbel(words[i]));

		sum += expf(fmaxf(t, EXP_MIN));
		if (score > -INFINITY)
			drawn->best = max(drawn->best, key_of(score, token));
	}
	drawn->sum += sum;
}

/* The row's token and its log-probability; by one thread. */
template <typename T>
__device__ inline void write_row(const struct sample_task &task, const struct device_args *block,
	const struct sample_row &r, uint32_t row, struct sample_drawn drawn)
{
	const T *logits = (const T *)arg_pointer(block, task.logits) + row * task.cut.n;
	const int32_t token = drawn.best == 0 ? 0 : key_index(drawn.best);

	((int32_t *)arg_pointer(block, task.token))[row] = token;
	if (task.has_logprob)
		((float *)arg_pointer(block, task.logprob))[row] = drawn.best == 0
			? NAN
			: (float)((double)scaled(r, to_float(logits[token])) - log(drawn.sum));
}

template <typename T>
__global__ void BOUNDS(ROWS_THREADS) sample_rows(const __grid_constant__ struct sample_task task,
	struct cuda_scratch *scratch, const __grid_constant__ struct cuda_completion done)
{
	cuda_begin();
	const struct rows_part part = rows_part_of(task.cut);
	const struct sample_row r = row_of<T>(task, scratch, done.block, part);
	const T *logits = (const T *)arg_pointer(done.block, task.logits) + part.row * task.cut.n;
	struct sample_part *parts = parts_of(scratch, task.cut, part.row);
	struct sample_drawn drawn = {0, 0};

	/* A half warp takes a group: its loads are neighbours. */
	for (uint64_t group = part.begin + threadIdx.x / SAMPLE_BLOCKS * SAMPLE_GROUP;
		group < part.end && r.greatest > -INFINITY;
		group += ROWS_THREADS / SAMPLE_BLOCKS * SAMPLE_GROUP)
		draw_tokens(r, logits, group + threadIdx.x % SAMPLE_BLOCKS, part.end, &drawn);
	drawn.best = block_greatest<ROWS_THREADS>(drawn.best);
	drawn.sum = block_total<ROWS_THREADS>(drawn.sum);
	if (task.cut.parts == 1) {
		if (threadIdx.x == 0)
			write_row<T>(task, done.block, r, part.row, drawn);
	} else {
		if (threadIdx.x == 0) {
			parts[part.part].best = drawn.best;
			parts[part.part].sum = drawn.sum;
		}
		if (rows_joined(scratch, task.cut, part.row) && threadIdx.x == 0) {
			drawn = {0, 0};
			for (uint32_t i = 0; i < task.cut.parts; i++) {
				drawn.best = max(drawn.best, __ldcg(&parts[i].best));
				drawn.sum += __ldcg(&parts[i].sum);
			}
			write_row<T>(task, done.block, r, part.row, drawn);
		}
	}
	cuda_complete(done);
}

/* --- Launching ---------------------------------------------------------------------------- */

static struct sample_task make_task(const struct op_launch *op, const struct cuda_args *args)
{
	const struct tensor *in = op->call.in, *out = op->call.out;
	struct sample_task task = {};

	task.logits = arg_tensor(args, &in[SAMPLE_LOGITS], op->in[SAMPLE_LOGITS]);
	task.temperatures = arg_tensor(args, &in[SAMPLE_TEMPERATURES], op->in[SAMPLE_TEMPERATURES]);
	task.seeds = arg_tensor(args, &in[SAMPLE_SEEDS], op->in[SAMPLE_SEEDS]);
	task.token = arg_tensor(args, &out[SAMPLE_TOKEN], op->out[SAMPLE_TOKEN]);
	task.has_logprob = tensor_present(&out[SAMPLE_LOGPROB]);
	if (task.has_logprob)
		task.logprob = arg_tensor(args, &out[SAMPLE_LOGPROB], op->out[SAMPLE_LOGPROB]);
	return task;
}

static int launch(const struct device_kernel *kernel, const struct cuda_args *args,
	const struct cuda_target *to)
{
	const struct op_launch *op = (const struct op_launch *)kernel->shape;
	const struct tensor *logits = &op->call.in[SAMPLE_LOGITS];
	const struct cuda_completion done = cuda_completion(kernel, args);
	struct sample_task task = make_task(op, args);

	if (logits->dims[0] == 0)
		return launch_nothing(kernel, args, to);
	if (logits->dims[0] > INT_MAX)
		return -EOPNOTSUPP;
	task.cut = rows_cut(logits->dims[0], logits->dims[1], ROOM, ROWS_MAX_PARTS);

	const uint32_t blocks = task.cut.rows * task.cut.parts;

	return with_type(logits->dtype, [&](auto type) {
		using T = decltype(type);
		int err = 0;

		if (task.cut.parts > 1)
			err = run(to, sample_greatest<T>, blocks, ROWS_THREADS, task, args->scratch,
				args->block);
		return err != 0
			? err
			: run(to, sample_rows<T>, blocks, ROWS_THREADS, task, args->scratch, done);
	});
}

template <typename T> static int touch_type(void)
{
	const int err = touch_kernel(sample_greatest<T>);

	return err != 0 ? err : touch_kernel(sample_rows<T>);
}

static int touch(void)
{
	const int err = machine_touch();

	return err != 0 ? err : touch_types([](auto type) { return touch_type<decltype(type)>(); });
}

const struct cuda_code sample_cuda = {"sample", launch, NULL, touch, NULL};
