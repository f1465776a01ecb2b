/* SPDX-License-Identifier: MIT */
/* Random calls of the operators over a paged cache; see attention_trial.h. */
#include "tests/kernels/attention_trial.h"
#include "kernels/kv_attention/kv_attention.h"

#include <math.h>

#define CACHE_ELEMENTS (LLM_RANDOM_BYTES / 4)

/* Sizes of a call; heads are query heads for each head of keys. */
struct sizes {
	uint64_t tokens, sequences, length, blocks, groups, heads, columns;
};

/* Common widths of heads, and any. */
static uint64_t random_columns(struct random *rng)
{
	static const uint64_t common[] = {8, 16, 32, 64, 80, 96, 112, 128, 256};

	if (random_below(rng, 2) == 0)
		return common[random_below(rng, sizeof(common) / sizeof(common[0]))];
	return 1 + random_below(rng, random_below(rng, 2) ? 40 : KV_MAX_COLUMNS);
}

static struct sizes random_sizes(struct random *rng)
{
	struct sizes s = {.columns = random_columns(rng)};
	uint64_t room;

	s.tokens = random_below(rng, random_below(rng, 3) ? 6 : 40);
	s.sequences = random_below(rng, random_below(rng, 3) ? 4 : 30);
	s.length = random_below(rng, random_below(rng, 3) ? 6 : 25);
	s.groups = 1 + random_below(rng, 3);
	s.heads = 1 + random_below(rng, random_below(rng, 20) ? 8 : 70);
	while (s.tokens * s.groups * s.heads * s.columns > 12000)
		s.tokens /= 2;
	while (s.groups * s.heads * s.columns > 12000)
		s.heads /= 2;
	/* One column more where it has to be even. */
	room = CACHE_ELEMENTS / (2 * s.groups * KV_TOKENS * (s.columns + 1));
	s.blocks = random_below(rng, (room < 30 ? room : 30) + 1);
	return s;
}

static struct tensor of(uint32_t dtype, uint32_t rank, uint64_t a, uint64_t b, uint64_t c)
{
	return (struct tensor){.dtype = dtype, .rank = rank, .dims = {a, b, c}};
}

static struct tensor cache_of(const struct sizes *s, uint32_t dtype)
{
	return (struct tensor){.dtype = dtype,
		.rank = 5,
		.dims = {s->blocks, 2, s->groups, KV_TOKENS, s->columns}};
}

static void shape_append(
	struct op_call *call, struct random *rng, uint32_t dtype, const struct sizes *s)
{
	static const uint32_t dtypes[] = {GPUQ_F32, GPUQ_F16, GPUQ_BF16};

	call->in[APPEND_QKV] =
		of(GPUQ_F32, 2, s->tokens, (s->groups * s->heads + 2 * s->groups) * s->columns, 0);
	call->in[APPEND_POSITIONS] = call->in[APPEND_ROWS] = of(GPUQ_I32, 1, s->tokens, 0, 0);
	call->in[APPEND_TABLE] = of(GPUQ_I32, 2, s->sequences, s->length, 0);
	call->in[APPEND_CACHE] = cache_of(s, dtype);
	call->params[ROPE_THETA].f64 = random_below(rng, 2) ? 500000 : 10000;
	call->params[ROPE_SCALING].i64 = (int64_t)random_below(rng, 3);
	call->params[ROPE_FACTOR].f64 = 8;
	call->params[ROPE_LOW_FREQ_FACTOR].f64 = 1;
	call->params[ROPE_HIGH_FREQ_FACTOR].f64 = 4;
	call->params[ROPE_ORIGINAL_LENGTH].i64 = 1 + (int64_t)random_below(rng, 10000);
	call->params[APPEND_EPS].f64 = exp2(-30 * random_unit(rng));
	if (random_below(rng, 2) == 0)
		return;
	call->in[APPEND_Q_NORM] = of(dtypes[random_below(rng, 3)], 1, s->columns, 0, 0);
	call->in[APPEND_K_NORM] = of(dtypes[random_below(rng, 3)], 1, s->columns, 0, 0);
}

void attention_shape_append(struct op_call *call, struct random *rng, uint32_t dtype)
{
	struct sizes s = random_sizes(rng);

	s.columns += s.columns % 2;
	shape_append(call, rng, dtype, &s);
}

/* A long text of few blocks that come again and again: devices split it into many parts. */
static void make_long(struct sizes *s, struct random *rng)
{
	s->length = 500 + random_below(rng, random_below(rng, 3) ? 1000 : 4000);
	s->tokens = s->sequences = 1;
	s->groups = 1;
	s->heads = 1 + random_below(rng, 3);
	s->columns = random_below(rng, 2) ? 64 : 1 + random_below(rng, 40);
	s->blocks = 20;
}

/* A row each of some sequences, over heads of usual sizes, which devices have forms for. */
static void make_decoding(struct sizes *s, struct random *rng)
{
	s->columns = random_below(rng, 2) ? 64 : 128;
	s->groups = 1 + random_below(rng, 2);
	s->heads = 1 + random_below(rng, random_below(rng, 2) ? 4 : 10);
	s->tokens = 1 + random_below(rng, random_below(rng, 3) ? 3 : 8);
	while (s->tokens * s->groups * s->heads * s->columns > 12000)
		s->tokens /= 2;
	s->sequences = s->tokens + random_below(rng, 2);
	s->length = 1 + random_below(rng, random_below(rng, 3) ? 20 : 60);
	s->blocks = CACHE_ELEMENTS / (2 * s->groups * KV_TOKENS * s->columns);
}

void attention_shape_both(struct op_call *call, struct random *rng, uint32_t dtype)
{
	const bool decoding = random_below(rng, 2) == 0;
	struct sizes s = random_sizes(rng);
	uint64_t tokens;

	s.columns += s.columns % 2;
	if (decoding)
		make_decoding(&s, rng);
	tokens = s.length * KV_TOKENS;
	shape_append(call, rng, decoding && random_below(rng, 3) ? GPUQ_BF16 : dtype, &s);
	call->in[KV_ATTENTION_CONTEXT] = of(
		GPUQ_U8, 1, random_below(rng, 4) ? tokens : random_below(rng, tokens + 100), 0, 0);
	if (random_below(rng, 3) == 0)
		call->params[KV_ATTENTION_WINDOW].i64 = 1 + (int64_t)random_below(rng, tokens + 10);
	if (random_below(rng, 2) == 0)
		call->out[KV_ATTENTION_PARTS].dtype = GPUQ_F32;
}

void attention_shape(struct op_call *call, struct random *rng, uint32_t dtype)
{
	struct sizes s = random_sizes(rng);
	uint64_t tokens;

	if (random_below(rng, 150) == 0)
		make_long(&s, rng);
	tokens = s.length * KV_TOKENS;
	call->in[ATTENTION_Q] = of(GPUQ_F32, 3, s.tokens, s.groups * s.heads, s.columns);
	call->in[ATTENTION_CACHE] = cache_of(&s, dtype);
	call->in[ATTENTION_TABLE] = of(GPUQ_I32, 2, s.sequences, s.length, 0);
	call->in[ATTENTION_POSITIONS] = call->in[ATTENTION_ROWS] = of(GPUQ_I32, 1, s.tokens, 0, 0);
	call->in[ATTENTION_CONTEXT] = of(
		GPUQ_U8, 1, random_below(rng, 4) ? tokens : random_below(rng, tokens + 100), 0, 0);
	call->params[ATTENTION_SCALE].f64 = random_below(rng, 2) ? 0 : 4 * random_unit(rng) - 2;
	if (random_below(rng, 3) == 0)
		call->params[ATTENTION_WINDOW].i64 = 1 + (int64_t)random_below(rng, tokens + 10);
	if (random_below(rng, 2) == 0)
		call->out[ATTENTION_PARTS].dtype = GPUQ_F32;
}

/* --- Indices -------------------------------------------------------------------------------- */

/* Below n, or now and then beside it or far away. */
static int32_t random_index(struct random *rng, uint64_t n)
{
	static const int32_t strange[] = {INT32_MIN, INT32_MAX, -1, -2, -16};
	const uint64_t kind = random_below(rng, 100);

	if (kind < sizeof(strange) / sizeof(strange[0]))
		return strange[kind];
	if (kind < 8 || n == 0)
		return (int32_t)(n + random_below(rng, 20));
	return (int32_t)random_below(rng, n);
}

/* A run: a prompt's positions follow each other, its rows are the same. */
static void fill_run(struct tensor *t, struct random *rng, uint64_t n, int32_t step)
{
	int32_t *values = t->data;

	for (uint64_t i = 0; i < t->dims[0]; i++) {
		if (i > 0 && random_below(rng, 10) > 0 && values[i - 1] < INT32_MAX)
			values[i] = values[i - 1] + step;
		else
			values[i] = random_index(rng, n);
	}
}

void attention_fill_indices(const struct op_call *call, struct tensor *t, struct random *rng)
{
	const bool attends = call->op == &op_paged_attention;
	const struct tensor *cache = &call->in[attends ? ATTENTION_CACHE : APPEND_CACHE];
	const struct tensor *table = &call->in[attends ? ATTENTION_TABLE : APPEND_TABLE];
	const struct tensor *rows = &call->in[attends ? ATTENTION_ROWS : APPEND_ROWS];

	/* What is new to one sequence, or to each of several. */
	const bool apart = call->op == &op_kv_attention && t->dims[0] <= table->dims[0];

	if (t != table) {
		fill_run(t, rng, t == rows ? table->dims[0] : table->dims[1] * KV_TOKENS,
			t == rows && !apart ? 0 : 1);
		return;
	}
	for (uint64_t i = 0; i < table->dims[0] * table->dims[1]; i++)
		((int32_t *)table->data)[i] = random_index(rng, cache->dims[0]);
}
