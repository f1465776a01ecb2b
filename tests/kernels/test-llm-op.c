/* SPDX-License-Identifier: MIT */
/*
 * test-llm-op.c: what the language-model operators refuse and whom they blame, the values that
 * their descriptions promise for strange input, and that payload that changes while they run
 * keeps their results within bounds.
 */
#include "tests/harness.h"

#include "kernels/element.h"
#include "kernels/isa.h"
#include "kernels/linear/linear.h"
#include "kernels/ops.h"
#include "kernels/step_result/step_result.h"
#include "shm/atomics.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define OUT(i) (GPUQ_MAX_INPUTS + (i))
#define PARAM(i) (GPUQ_MAX_TENSORS + (i))

static struct tensor shaped(uint32_t dtype, uint32_t rank, uint64_t a, uint64_t b, uint64_t c)
{
	return (struct tensor){.dtype = dtype, .rank = rank, .dims = {a, b, c}};
}

static struct tensor inferred(uint32_t dtype)
{
	return (struct tensor){.dtype = dtype, .rank = UINT32_MAX};
}

static void assert_refuses(struct op_call call, int err, uint32_t blamed)
{
	const struct op_call given = call;
	uint32_t arg = 77;

	assert_int_equal(op_check(&call, &arg), -err);
	assert_int_equal(arg, blamed);
	assert_memory_equal(call.out, given.out, sizeof(given.out));
}

static void assert_accepts(struct op_call *call)
{
	uint32_t arg;

	assert_int_equal(op_check(call, &arg), 0);
}

static void run_on_each_isa(struct op_call *call, void (*check)(const struct op_call *call))
{
	const enum isa best = isa_selected();

	for (enum isa isa = ISA_BASE; isa < ISA_COUNT; isa++) {
		if (!isa_supported(isa))
			continue;
		isa_select(isa);
		call->op->cpu(call, 0, call->op->units(call));
		check(call);
	}
	isa_select(best);
	call->op->reference(call);
	check(call);
}

/* --- Refusals ------------------------------------------------------------------------------- */

static void test_embedding_refuses(void **state)
{
	const struct op_call good = {.op = &op_embedding,
		.in = {shaped(GPUQ_I32, 1, 3, 0, 0), shaped(GPUQ_BF16, 2, 5, 4, 0)},
		.out = {inferred(GPUQ_F32)}};
	struct op_call call = good;

	assert_accepts(&call);
	assert_true(call.out[0].dims[0] == 3 && call.out[0].dims[1] == 4);
	call = good;
	call.in[0].dtype = GPUQ_F32;
	assert_refuses(call, GPUQ_EDTYPE, 0);
	call = good;
	call.in[0].rank = 2;
	assert_refuses(call, GPUQ_ERANK, 0);
	call = good;
	call.in[1].rank = 3;
	assert_refuses(call, GPUQ_ERANK, 1);
	call = good;
	call.out[0].dtype = GPUQ_F16;
	assert_refuses(call, GPUQ_EDTYPE, OUT(0));
}

static void test_rmsnorm_refuses(void **state)
{
	const struct op_call good = {.op = &op_rmsnorm,
		.in = {shaped(GPUQ_BF16, 2, 3, 4, 0), shaped(GPUQ_BF16, 1, 4, 0, 0),
			shaped(GPUQ_BF16, 2, 3, 4, 0)},
		.out = {inferred(GPUQ_BF16), inferred(GPUQ_F32)},
		.params = {{.f64 = 1e-5}}};
	struct op_call call = good;

	assert_accepts(&call);
	call = good;
	call.in[1].dtype = GPUQ_F32;
	assert_refuses(call, GPUQ_EDTYPE, 1);
	call = good;
	call.in[1].dims[0] = 3;
	assert_refuses(call, GPUQ_ESHAPE, 1);
	call = good;
	call.in[2].dims[0] = 2;
	assert_refuses(call, GPUQ_ESHAPE, 2);
	call = good;
	call.in[2] = (struct tensor){0};
	assert_refuses(call, GPUQ_EMISSING, 2);
	call = good;
	call.out[1] = (struct tensor){0};
	assert_refuses(call, GPUQ_EMISSING, OUT(1));
	call = good;
	call.params[0].f64 = 0;
	assert_refuses(call, GPUQ_EPARAM, PARAM(0));
}

static void test_rope_and_swiglu_refuse(void **state)
{
	const struct op_call good = {.op = &op_rope,
		.in = {shaped(GPUQ_F16, 3, 2, 3, 8), shaped(GPUQ_I32, 1, 2, 0, 0)},
		.out = {inferred(GPUQ_F16)},
		.params = {{.f64 = 1e4}, {.i64 = 2}, {.f64 = 8}, {.f64 = 1}, {.f64 = 4},
			{.i64 = 8192}}};
	struct op_call call = good;

	assert_accepts(&call);
	call = good;
	call.in[0].dims[2] = 7;
	assert_refuses(call, GPUQ_ESHAPE, 0);
	call = good;
	call.in[1].dims[0] = 3;
	assert_refuses(call, GPUQ_ESHAPE, 1);
	call = good;
	call.params[1].i64 = 3;
	assert_refuses(call, GPUQ_EPARAM, PARAM(1));
	call = (struct op_call){.op = &op_swiglu,
		.in = {shaped(GPUQ_F16, 1, 5, 0, 0), shaped(GPUQ_F16, 1, 4, 0, 0)},
		.out = {inferred(GPUQ_F16)}};
	assert_refuses(call, GPUQ_ESHAPE, 1);
	call.in[1] = shaped(GPUQ_F32, 1, 5, 0, 0);
	assert_refuses(call, GPUQ_EDTYPE, 1);
	call.in[1] = (struct tensor){0};
	assert_refuses(call, GPUQ_ESHAPE, 0);
	call.in[0].dims[0] = 6;
	assert_accepts(&call);
	assert_int_equal(call.out[0].dims[0], 3);
}

static struct op_call step(uint64_t rows, uint64_t vocabulary, int64_t k)
{
	return (struct op_call){.op = &op_step_result,
		.in = {shaped(GPUQ_F32, 2, rows, vocabulary, 0)},
		.out = {inferred(GPUQ_F32), inferred(GPUQ_I32), inferred(GPUQ_F32)},
		.params = {{.f64 = 1}, {.i64 = k}}};
}

static void test_argmax_and_step_result_refuse(void **state)
{
	struct op_call call = step(2, 10, 11);

	assert_refuses(call, GPUQ_EPARAM, PARAM(1));
	assert_refuses(step(2, 5000, 1025), GPUQ_EPARAM, PARAM(1));
	assert_refuses(step(2, 0, 1), GPUQ_ESHAPE, 0);
	assert_refuses(step(1, 1ull << 31, 1), GPUQ_ESHAPE, 0);
	call = step(2, 10, 10);
	assert_accepts(&call);
	call = step(2, 10, 10);
	call.in[1] = shaped(GPUQ_I32, 1, 3, 0, 0);
	assert_refuses(call, GPUQ_EMISSING, OUT(STEP_NAMED));
	call.out[STEP_NAMED] = inferred(GPUQ_F32);
	assert_accepts(&call);
	call = step(2, 10, 10);
	call.out[STEP_NAMED] = inferred(GPUQ_F32);
	assert_refuses(call, GPUQ_EMISSING, 1);
	call.in[STEP_IDS] = shaped(GPUQ_I32, 2, 2, 3, 0);
	assert_accepts(&call);
	assert_true(call.out[STEP_NAMED].dims[0] == 2 && call.out[STEP_NAMED].dims[1] == 3);
	call.out[STEP_NAMED] = inferred(GPUQ_F32);
	call.in[STEP_IDS] = shaped(GPUQ_I32, 2, 3, 3, 0);
	assert_refuses(call, GPUQ_ESHAPE, STEP_IDS);
	call.in[STEP_IDS] = shaped(GPUQ_I32, 3, 2, 3, 1);
	assert_refuses(call, GPUQ_ERANK, STEP_IDS);
	call = step(2, 10, 10);
	call.in[STEP_TEMPERATURES] = shaped(GPUQ_F32, 1, 3, 0, 0);
	assert_refuses(call, GPUQ_ESHAPE, STEP_TEMPERATURES);
	call.in[STEP_TEMPERATURES] = shaped(GPUQ_F32, 2, 2, 1, 0);
	assert_refuses(call, GPUQ_ERANK, STEP_TEMPERATURES);
	call = (struct op_call){.op = &op_argmax,
		.in = {shaped(GPUQ_F32, 2, 3, 0, 0)},
		.out = {inferred(GPUQ_I32)}};
	assert_refuses(call, GPUQ_ESHAPE, 0);
}

static void test_linear_refuses(void **state)
{
	const struct op_call good = {.op = &op_linear,
		.in = {shaped(GPUQ_F32, 3, 2, 3, 4), shaped(GPUQ_I8, 2, 5, 12, 0),
			shaped(GPUQ_F32, 1, 5, 0, 0), shaped(GPUQ_BF16, 1, 5, 0, 0),
			shaped(GPUQ_F32, 2, 2, 5, 0)},
		.out = {inferred(GPUQ_F32)},
		.params = {[LINEAR_EPS] = {.f64 = 1e-6}}};
	struct op_call call = good;

	assert_accepts(&call);
	assert_true(call.out[0].dims[0] == 2 && call.out[0].dims[1] == 5);
	call = good;
	call.in[0] = shaped(GPUQ_F32, 1, 12, 0, 0);
	assert_refuses(call, GPUQ_ERANK, 0);
	call = good;
	call.in[0].dims[2] = 5;
	assert_refuses(call, GPUQ_ESHAPE, 1);
	call = good;
	call.in[LINEAR_SCALES] = (struct tensor){0};
	assert_refuses(call, GPUQ_EMISSING, LINEAR_SCALES);
	call = good;
	call.in[1].dtype = GPUQ_BF16;
	assert_refuses(call, GPUQ_EARGS, LINEAR_SCALES);
	call = good;
	call.in[LINEAR_BIAS].dims[0] = 4;
	assert_refuses(call, GPUQ_ESHAPE, LINEAR_BIAS);
	call = good;
	call.in[LINEAR_RESIDUAL].dims[0] = 3;
	assert_refuses(call, GPUQ_ESHAPE, LINEAR_RESIDUAL);
	call = good;
	call.out[0].dtype = GPUQ_F16;
	assert_refuses(call, GPUQ_EDTYPE, OUT(0));
	call = good;
	call.params[LINEAR_FIXED_ORDER].i64 = 2;
	assert_refuses(call, GPUQ_EPARAM, PARAM(LINEAR_FIXED_ORDER));
	call = good;
	call.params[LINEAR_EPS].f64 = 0;
	assert_refuses(call, GPUQ_EPARAM, PARAM(LINEAR_EPS));
}

static void test_linear_with_norm_and_gates_refuses(void **state)
{
	const struct op_call good = {.op = &op_linear,
		.in = {shaped(GPUQ_F32, 2, 2, 12, 0), shaped(GPUQ_I8, 3, 2, 5, 12),
			shaped(GPUQ_F32, 2, 2, 5, 0), shaped(GPUQ_F16, 2, 2, 5, 0),
			shaped(GPUQ_F32, 2, 2, 5, 0), shaped(GPUQ_BF16, 1, 12, 0, 0)},
		.out = {inferred(GPUQ_F32), inferred(GPUQ_F32)},
		.params = {[LINEAR_EPS] = {.f64 = 1e-6}}};
	struct op_call call = good;

	assert_accepts(&call);
	assert_true(call.out[0].rank == 2 && call.out[0].dims[0] == 2 && call.out[0].dims[1] == 5);
	assert_true(call.out[1].rank == 2 && call.out[1].dims[0] == 2 && call.out[1].dims[1] == 12);
	call = good;
	call.out[LINEAR_NORMED] = (struct tensor){0};
	assert_refuses(call, GPUQ_EMISSING, OUT(LINEAR_NORMED));
	call = good;
	call.in[LINEAR_NORM] = (struct tensor){0};
	assert_refuses(call, GPUQ_EMISSING, LINEAR_NORM);
	call = good;
	call.in[LINEAR_W].dims[0] = 3;
	assert_refuses(call, GPUQ_ESHAPE, LINEAR_W);
	call = good;
	call.in[LINEAR_W].rank = 4;
	call.in[LINEAR_W].dims[3] = 1;
	assert_refuses(call, GPUQ_ERANK, LINEAR_W);
	call = good;
	call.in[LINEAR_SCALES] = shaped(GPUQ_F32, 1, 5, 0, 0);
	assert_refuses(call, GPUQ_ERANK, LINEAR_SCALES);
	call = good;
	call.in[LINEAR_BIAS].dims[0] = 1;
	assert_refuses(call, GPUQ_ESHAPE, LINEAR_BIAS);
	call = good;
	call.in[LINEAR_RESIDUAL].dims[1] = 10;
	assert_refuses(call, GPUQ_ESHAPE, LINEAR_RESIDUAL);
	call = good;
	call.in[LINEAR_NORM].dims[0] = 11;
	assert_refuses(call, GPUQ_ESHAPE, LINEAR_NORM);
	call = good;
	call.in[LINEAR_NORM] = shaped(GPUQ_F32, 2, 1, 12, 0);
	assert_refuses(call, GPUQ_ERANK, LINEAR_NORM);
	call = good;
	call.in[LINEAR_X].dtype = GPUQ_BF16;
	assert_refuses(call, GPUQ_EDTYPE, LINEAR_NORM);
}

/* --- Rows alone and together ---------------------------------------------------------------- */

enum { TOGETHER = 37, OUTPUTS = 21, INNER = 2300 };

struct together {
	float x[TOGETHER * INNER], normed[TOGETHER * INNER];
	uint32_t w[2 * OUTPUTS * INNER]; /* of any type */
	float scales[2 * OUTPUTS], bias[2 * OUTPUTS], norm[INNER];
	float sums[TOGETHER * 2 * OUTPUTS]; /* before they are gated */
	float all[TOGETHER * OUTPUTS], alone[TOGETHER * OUTPUTS];
	bool has_norm, gated;
};

static void fill_together(struct together *t, uint32_t w_dtype)
{
	uint32_t bits = 7;

	for (int i = 0; i < TOGETHER * INNER; i++) {
		bits = bits * 1664525 + 1013904223;
		t->x[i] = (float)(int32_t)bits * 0x1p-31f;
	}
	/* A row whose squares overflow. */
	t->x[2 * INNER + 5] = 3e25f;
	for (int i = 0; i < 2 * OUTPUTS * INNER; i++) {
		bits = bits * 1664525 + 1013904223;
		if (w_dtype == GPUQ_I8)
			((int8_t *)t->w)[i] = (int8_t)(bits >> 24);
		else
			element_set(t->w, w_dtype, (uint64_t)i, (int32_t)bits * 0x1p-31);
	}
	for (int i = 0; i < 2 * OUTPUTS; i++) {
		t->scales[i] = 0.01f;
		t->bias[i] = 0.3f - 0.1f * (float)i;
	}
	for (int i = 0; i < INNER; i++)
		t->norm[i] = 0.5f + (float)(i % 7);
}

static void run_call(struct op_call *call)
{
	call->op->cpu(call, 0, call->op->units(call));
}

/* Rows first..first+n-1 into y. */
static void run_rows(struct together *t, uint32_t w_dtype, uint64_t first, uint64_t n, float *y)
{
	const uint32_t from = t->gated ? 0 : 1; /* dimensions that count */
	struct op_call call = {.op = &op_linear,
		.in = {shaped(GPUQ_F32, 2, n, INNER, 0)},
		.out = {inferred(GPUQ_F32)},
		.params = {{.i64 = 1}, {.f64 = 1e-6}}};
	const uint64_t dims[] = {2, OUTPUTS, INNER};

	call.in[LINEAR_W] = shaped(w_dtype, 3 - from, dims[from], dims[from + 1], INNER);
	if (w_dtype == GPUQ_I8)
		call.in[LINEAR_SCALES] =
			shaped(GPUQ_F32, 2 - from, dims[from], t->gated ? OUTPUTS : 0, 0);
	call.in[LINEAR_BIAS] = shaped(GPUQ_F32, 2 - from, dims[from], t->gated ? OUTPUTS : 0, 0);
	if (t->has_norm) {
		call.in[LINEAR_NORM] = shaped(GPUQ_F32, 1, INNER, 0, 0);
		call.out[LINEAR_NORMED] = inferred(GPUQ_F32);
	}
	assert_accepts(&call);
	call.in[LINEAR_X].data = t->x + first * INNER;
	call.in[LINEAR_W].data = t->w;
	call.in[LINEAR_SCALES].data = t->scales;
	call.in[LINEAR_BIAS].data = t->bias;
	call.in[LINEAR_NORM].data = t->norm;
	call.out[0].data = y;
	run_call(&call);
}

static void check_together(struct together *t, uint32_t w_dtype)
{
	for (uint64_t n = 1; n <= TOGETHER; n += n < 14 ? 1 : 23) {
		run_rows(t, w_dtype, 0, n, t->all);
		for (uint64_t row = 0; row < n; row++) {
			run_rows(t, w_dtype, row, 1, t->alone);
			assert_memory_equal(
				t->alone, t->all + row * OUTPUTS, OUTPUTS * sizeof(t->alone[0]));
		}
	}
}

/* rmsnorm, linear and swiglu one after the other, of n rows. */
static void run_apart(struct together *t, uint32_t w_dtype, uint64_t n, float *y)
{
	const uint64_t wide = 2 * OUTPUTS;
	struct op_call norm = {.op = &op_rmsnorm,
		.in = {shaped(GPUQ_F32, 2, n, INNER, 0), shaped(GPUQ_F32, 1, INNER, 0, 0)},
		.out = {inferred(GPUQ_F32)},
		.params = {{.f64 = 1e-6}}};
	struct op_call linear = {.op = &op_linear,
		.in = {norm.in[0], shaped(w_dtype, 2, wide, INNER, 0)},
		.out = {inferred(GPUQ_F32)},
		.params = {{.i64 = 1}, {.f64 = 1}}};
	struct op_call swiglu = {.op = &op_swiglu,
		.in = {shaped(GPUQ_F32, 2, n, wide, 0)},
		.out = {inferred(GPUQ_F32)}};

	if (w_dtype == GPUQ_I8)
		linear.in[LINEAR_SCALES] = shaped(GPUQ_F32, 1, wide, 0, 0);
	linear.in[LINEAR_BIAS] = shaped(GPUQ_F32, 1, wide, 0, 0);
	assert_accepts(&norm);
	assert_accepts(&linear);
	assert_accepts(&swiglu);
	norm.in[0].data = t->x;
	norm.in[1].data = t->norm;
	norm.out[0].data = linear.in[LINEAR_X].data = t->normed;
	linear.in[LINEAR_W].data = t->w;
	linear.in[LINEAR_SCALES].data = t->scales;
	linear.in[LINEAR_BIAS].data = t->bias;
	linear.out[0].data = swiglu.in[0].data = t->sums;
	swiglu.out[0].data = y;
	run_call(&norm);
	run_call(&linear);
	run_call(&swiglu);
}

static void check_apart(struct together *t, uint32_t w_dtype)
{
	const uint64_t counts[] = {1, 2, 3, TOGETHER};

	t->has_norm = t->gated = true;
	for (uint32_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		run_rows(t, w_dtype, 0, counts[i], t->all);
		run_apart(t, w_dtype, counts[i], t->alone);
		assert_memory_equal(t->all, t->alone, counts[i] * OUTPUTS * sizeof(t->all[0]));
	}
}

/* On each instruction set, with each type of weights. */
static void with_each_form(void (*check)(struct together *, uint32_t))
{
	struct together *t = calloc(1, sizeof(*t));
	const enum isa best = isa_selected();

	for (enum isa isa = ISA_BASE; isa < ISA_COUNT; isa++) {
		if (!isa_supported(isa))
			continue;
		isa_select(isa);
		for (uint32_t dtype = GPUQ_F32; dtype <= GPUQ_I8; dtype++) {
			fill_together(t, dtype);
			check(t, dtype);
		}
	}
	isa_select(best);
	free(t);
}

static void check_all_together(struct together *t, uint32_t w_dtype)
{
	check_together(t, w_dtype);
	t->has_norm = t->gated = true;
	check_together(t, w_dtype);
	t->has_norm = t->gated = false;
}

static void test_linear_in_fixed_order(void **state)
{
	with_each_form(check_all_together);
}

static void test_linear_is_its_parts_one_by_one(void **state)
{
	with_each_form(check_apart);
}

/* --- Strange values ------------------------------------------------------------------------- */

static void check_nothing_great(const struct op_call *call)
{
	const int32_t *index = call->out[0].data;
	const float *value = call->out[1].data;

	assert_true(index[0] == 0 && value[0] == -INFINITY);
	assert_true(index[1] == 0 && value[1] == -INFINITY);
	assert_true(index[2] == 1 && value[2] == 0 && !signbit(value[2]));
}

static void test_argmax_of_nothing_great(void **state)
{
	float x[] = {NAN, NAN, -INFINITY, -INFINITY, -INFINITY, NAN, NAN, -0.0f, 0.0f};
	int32_t index[3];
	float value[3];
	struct op_call call = {.op = &op_argmax,
		.in = {shaped(GPUQ_F32, 2, 3, 3, 0)},
		.out = {inferred(GPUQ_I32), inferred(GPUQ_F32)}};

	assert_accepts(&call);
	call.in[0].data = x;
	call.out[0].data = index;
	call.out[1].data = value;
	run_on_each_isa(&call, check_nothing_great);
}

static void check_strange_logits(const struct op_call *call)
{
	const float *stats = call->out[STEP_STATS].data;

	/* Two equal ones and two that are impossible; a NaN; nothing possible. */
	assert_true(fabsf(stats[0] - (1 + logf(2))) < 1e-5f);
	assert_true(fabsf(stats[1] - logf(2)) < 1e-5f);
	for (int i = 2; i < 6; i++)
		assert_true(isnan(stats[i]));
	assert_memory_equal(call->out[STEP_TOKENS].data, ((int32_t[]){1, 3, 0, 0, 1, 3, 0, 1, 2}),
		9 * sizeof(int32_t));
}

static void test_step_result_of_strange_logits(void **state)
{
	const float none = -INFINITY;
	float x[] = {none, 1, none, 1, 2, 1, NAN, 0, none, none, none, none};
	float values[9], stats[6];
	int32_t tokens[9];
	struct op_call call = step(3, 4, 3);

	assert_accepts(&call);
	call.in[0].data = x;
	call.out[STEP_VALUES].data = values;
	call.out[STEP_TOKENS].data = tokens;
	call.out[STEP_STATS].data = stats;
	run_on_each_isa(&call, check_strange_logits);
}

/* --- Payload that changes ------------------------------------------------------------------- */

enum { VOCABULARY = 3000, TOP = 40, NAMED = 16, RUNS = 300 };

static float racing_logits[VOCABULARY];
static int32_t racing_ids[NAMED];
static uint32_t racing_ends;

static void *scribble(void *unused)
{
	uint32_t bits = 1;

	while (shm_load_acquire_u32(&racing_ends) == 0) {
		for (int i = 0; i < VOCABULARY; i++) {
			bits = bits * 1664525 + 1013904223;
			shm_store_release_u32((uint32_t *)racing_logits + i, bits);
			shm_store_release_u32((uint32_t *)racing_ids + i % NAMED, bits);
		}
	}
	return unused;
}

static void assert_distinct_tokens(const int32_t *tokens)
{
	bool seen[VOCABULARY] = {false};

	for (int i = 0; i < TOP; i++) {
		assert_in_range(tokens[i], 0, VOCABULARY - 1);
		assert_false(seen[tokens[i]]);
		seen[tokens[i]] = true;
	}
}

static void race(void)
{
	struct op_call top = step(1, VOCABULARY, TOP);
	struct op_call max = {.op = &op_argmax,
		.in = {shaped(GPUQ_F32, 2, 1, VOCABULARY, 0)},
		.out = {inferred(GPUQ_I32)}};
	float values[TOP], stats[2], named[NAMED];
	int32_t tokens[TOP], index;

	top.in[1] = shaped(GPUQ_I32, 1, NAMED, 0, 0);
	top.out[STEP_NAMED] = inferred(GPUQ_F32);
	assert_accepts(&top);
	assert_accepts(&max);
	top.in[0].data = max.in[0].data = racing_logits;
	top.in[1].data = racing_ids;
	top.out[STEP_VALUES].data = values;
	top.out[STEP_TOKENS].data = tokens;
	top.out[STEP_STATS].data = stats;
	top.out[STEP_NAMED].data = named;
	max.out[0].data = &index;
	for (int i = 0; i < RUNS; i++) {
		top.op->cpu(&top, 0, 1);
		assert_distinct_tokens(tokens);
		max.op->cpu(&max, 0, 1);
		assert_in_range(index, 0, VOCABULARY - 1);
	}
}

static void test_changing_payload_stays_within_bounds(void **state)
{
#ifdef __SANITIZE_THREAD__
	harness_skip("races on purpose");
#else
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, scribble, NULL), 0);
	race();
	shm_store_release_u32(&racing_ends, 1);
	pthread_join(thread, NULL);
#endif
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_embedding_refuses),
		HARNESS_TEST(test_rmsnorm_refuses),
		HARNESS_TEST(test_rope_and_swiglu_refuse),
		HARNESS_TEST(test_argmax_and_step_result_refuse),
		HARNESS_TEST(test_linear_refuses),
		HARNESS_TEST(test_linear_with_norm_and_gates_refuses),
		HARNESS_TEST(test_linear_in_fixed_order),
		HARNESS_TEST(test_linear_is_its_parts_one_by_one),
		HARNESS_TEST(test_argmax_of_nothing_great),
		HARNESS_TEST(test_step_result_of_strange_logits),
		HARNESS_TEST(test_changing_payload_stays_within_bounds),
	};

	return harness_run("kernels-llm-op", tests, sizeof(tests) / sizeof(tests[0]));
}
