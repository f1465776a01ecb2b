/* SPDX-License-Identifier: MIT */
/*
 * test-attention.c: what kv_append, paged_attention and both in one refuse, that hostile indices of
 * each kind reach nothing, that a row's result has nothing to do with other rows or with slots that
 * it does not see, and that payload that changes while they run keeps them within bounds.
 */
#include "tests/harness.h"

#include "kernels/element.h"
#include "kernels/isa.h"
#include "kernels/kv_attention/kv_attention.h"
#include "kernels/ops.h"
#include "tests/kernels/guard.h"
#include "tests/kernels/random.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

#define OUT(i) (GPUQ_MAX_INPUTS + (i))

/* Of most calls here: query heads are HEADS for each of GROUPS heads of keys. */
enum { TOKENS = 40, SEQUENCES = 3, LENGTH = 12, BLOCKS = 20, GROUPS = 2, HEADS = 3, COLUMNS = 40 };

static struct tensor shaped(uint32_t dtype, uint32_t rank, uint64_t a, uint64_t b, uint64_t c)
{
	return (struct tensor){.dtype = dtype, .rank = rank, .dims = {a, b, c}};
}

static struct tensor cache_of(uint32_t dtype, uint64_t blocks, uint64_t groups, uint64_t columns)
{
	return (struct tensor){
		.dtype = dtype, .rank = 5, .dims = {blocks, 2, groups, KV_TOKENS, columns}};
}

static struct op_call append_call(uint64_t tokens, uint32_t dtype)
{
	return (struct op_call){.op = &op_kv_append,
		.in = {shaped(GPUQ_F32, 2, tokens, (HEADS + 2) * GROUPS * COLUMNS, 0),
			shaped(GPUQ_I32, 1, tokens, 0, 0), shaped(GPUQ_I32, 1, tokens, 0, 0),
			shaped(GPUQ_I32, 2, SEQUENCES, LENGTH, 0),
			cache_of(dtype, BLOCKS, GROUPS, COLUMNS)},
		.out = {{.dtype = GPUQ_F32, .rank = UINT32_MAX}},
		.params = {{.f64 = 1e4}, {.i64 = 0}, {.f64 = 1}, {.f64 = 1}, {.f64 = 4},
			{.i64 = 8192}, {.f64 = 1e-5}}};
}

static struct op_call attention_call(uint64_t tokens, uint32_t dtype)
{
	return (struct op_call){.op = &op_paged_attention,
		.in = {shaped(GPUQ_F32, 3, tokens, GROUPS * HEADS, COLUMNS),
			cache_of(dtype, BLOCKS, GROUPS, COLUMNS),
			shaped(GPUQ_I32, 2, SEQUENCES, LENGTH, 0),
			shaped(GPUQ_I32, 1, tokens, 0, 0), shaped(GPUQ_I32, 1, tokens, 0, 0),
			shaped(GPUQ_U8, 1, LENGTH * KV_TOKENS, 0, 0)},
		.out = {{.dtype = GPUQ_F32, .rank = UINT32_MAX}}};
}

static void assert_accepts(struct op_call *call)
{
	uint32_t arg;

	assert_int_equal(op_check(call, &arg), 0);
}

static void assert_refuses(struct op_call call, int err, uint32_t blamed)
{
	uint32_t arg = 77;

	assert_int_equal(op_check(&call, &arg), -err);
	assert_int_equal(arg, blamed);
}

static void for_each_isa(void (*check)(void))
{
	const enum isa best = isa_selected();

	for (enum isa isa = ISA_BASE; isa < ISA_COUNT; isa++) {
		if (!isa_supported(isa))
			continue;
		isa_select(isa);
		check();
	}
	isa_select(best);
}

static void run(const struct op_call *call)
{
	call->op->cpu(call, 0, call->op->units(call));
}

/* --- Refusals ------------------------------------------------------------------------------- */

static void test_append_refuses(void **state)
{
	const struct op_call good = append_call(5, GPUQ_BF16);
	struct op_call call = good;

	assert_accepts(&call);
	assert_true(call.out[0].rank == 3 && call.out[0].dims[0] == 5);
	assert_true(call.out[0].dims[1] == GROUPS * HEADS && call.out[0].dims[2] == COLUMNS);
	call = good;
	call.in[APPEND_QKV].dims[1]--;
	assert_refuses(call, GPUQ_ESHAPE, APPEND_QKV);
	call.in[APPEND_QKV].dims[1] = 2 * GROUPS * COLUMNS; /* no query head */
	assert_refuses(call, GPUQ_ESHAPE, APPEND_QKV);
	call = good;
	call.in[APPEND_ROWS].dims[0] = 4;
	assert_refuses(call, GPUQ_ESHAPE, APPEND_ROWS);
	call = good;
	call.in[APPEND_TABLE].rank = 1;
	assert_refuses(call, GPUQ_ERANK, APPEND_TABLE);
	call = good;
	call.in[APPEND_CACHE].dims[3] = 8;
	assert_refuses(call, GPUQ_ESHAPE, APPEND_CACHE);
	call = good;
	call.in[APPEND_CACHE].dims[4] = COLUMNS + 1;
	assert_refuses(call, GPUQ_ESHAPE, APPEND_CACHE);
	call = good;
	call.in[APPEND_Q_NORM] = shaped(GPUQ_F32, 1, COLUMNS, 0, 0);
	assert_refuses(call, GPUQ_EMISSING, APPEND_K_NORM);
	call.in[APPEND_K_NORM] = shaped(GPUQ_BF16, 1, COLUMNS - 1, 0, 0);
	assert_refuses(call, GPUQ_ESHAPE, APPEND_K_NORM);
}

static void test_attention_refuses(void **state)
{
	const struct op_call good = attention_call(5, GPUQ_F16);
	struct op_call call = good;

	call.out[ATTENTION_PARTS] = (struct tensor){.dtype = GPUQ_F32, .rank = UINT32_MAX};
	call.in[ATTENTION_CONTEXT].dims[0] = 257;
	assert_accepts(&call);
	assert_int_equal(call.out[ATTENTION_PARTS].dims[2], 2);
	assert_int_equal(call.out[ATTENTION_PARTS].dims[3], COLUMNS + 2);
	call = good;
	call.in[ATTENTION_Q].dims[1] = 3; /* does not go into 2 heads of keys */
	assert_refuses(call, GPUQ_ESHAPE, ATTENTION_Q);
	call = good;
	call.in[ATTENTION_Q].dims[2] = 41;
	assert_refuses(call, GPUQ_ESHAPE, ATTENTION_CACHE);
	call = good;
	call.in[ATTENTION_CACHE].dims[1] = 1;
	assert_refuses(call, GPUQ_ESHAPE, ATTENTION_CACHE);
	call = good;
	call.in[ATTENTION_CACHE].dims[4] = call.in[ATTENTION_Q].dims[2] = KV_MAX_COLUMNS + 1;
	assert_refuses(call, GPUQ_ESHAPE, ATTENTION_CACHE);
	call = good;
	call.in[ATTENTION_POSITIONS].dims[0] = 6;
	assert_refuses(call, GPUQ_ESHAPE, ATTENTION_POSITIONS);
	call = good;
	call.in[ATTENTION_CONTEXT].rank = 0;
	assert_refuses(call, GPUQ_ERANK, ATTENTION_CONTEXT);
	call = good;
	call.params[ATTENTION_WINDOW].i64 = -1;
	assert_refuses(call, GPUQ_EPARAM, GPUQ_MAX_TENSORS + ATTENTION_WINDOW);
}

/* By which of its own arguments a call is wrong, whichever of the two operators finds that. */
static void test_both_refuse(void **state)
{
	struct op_call good = append_call(5, GPUQ_BF16), call;

	good.op = &op_kv_attention;
	good.in[KV_ATTENTION_CONTEXT] = shaped(GPUQ_U8, 1, 257, 0, 0);
	good.out[KV_ATTENTION_Q] = good.out[KV_ATTENTION_PARTS] = good.out[KV_ATTENTION_Y];
	call = good;
	assert_accepts(&call);
	assert_true(call.out[KV_ATTENTION_Y].rank == 3 && call.out[KV_ATTENTION_Q].rank == 3);
	assert_int_equal(call.out[KV_ATTENTION_Y].dims[1], GROUPS * HEADS);
	assert_int_equal(call.out[KV_ATTENTION_Q].dims[2], COLUMNS);
	assert_int_equal(call.out[KV_ATTENTION_PARTS].dims[2], 2);
	call = good;
	call.in[APPEND_QKV].dims[1] += COLUMNS; /* query heads do not go into 2 heads of keys */
	assert_refuses(call, GPUQ_ESHAPE, APPEND_QKV);
	call = good;
	call.in[APPEND_POSITIONS].dims[0] = 6;
	assert_refuses(call, GPUQ_ESHAPE, APPEND_POSITIONS);
	call = good;
	call.in[APPEND_CACHE].dims[4] = COLUMNS + 1;
	assert_refuses(call, GPUQ_ESHAPE, APPEND_CACHE);
	call = good;
	call.in[KV_ATTENTION_CONTEXT].rank = 2;
	assert_refuses(call, GPUQ_ERANK, KV_ATTENTION_CONTEXT);
	call = good;
	call.out[KV_ATTENTION_Q] = (struct tensor){0};
	assert_refuses(call, GPUQ_EMISSING, OUT(KV_ATTENTION_Q));
	call = good;
	call.params[KV_ATTENTION_WINDOW].i64 = -1;
	assert_refuses(call, GPUQ_EPARAM, GPUQ_MAX_TENSORS + KV_ATTENTION_WINDOW);
}

/* --- A call with data ----------------------------------------------------------------------- */

struct rig {
	struct op_call call;
	struct guard guards[GPUQ_MAX_INPUTS], output;
	struct random rng;
};

static void fill_floats(struct tensor *t, struct random *rng)
{
	uint64_t elements, bytes;

	tensor_size(t, &elements, &bytes);
	for (uint64_t i = 0; i < elements; i++)
		element_set(t->data, t->dtype, i, 2 * random_unit(rng) - 1);
}

/* Tables of blocks in any order, shared ones among them; the rest is for the test. */
static void rig_create(struct rig *rig, struct op_call call)
{
	const uint32_t table = call.op == &op_kv_append ? APPEND_TABLE : ATTENTION_TABLE;
	uint64_t elements, bytes;

	rig->rng.state = 7;
	assert_accepts(&call);
	for (uint32_t i = 0; i < call.op->n_inputs; i++) {
		struct tensor *t = &call.in[i];

		if (!tensor_present(t) || t->dtype == GPUQ_U8)
			continue;
		tensor_size(t, &elements, &bytes);
		guard_create(&rig->guards[i], bytes);
		t->data = guard_place(&rig->guards[i], bytes, GUARD_END, 0);
		if (t->dtype != GPUQ_I32)
			fill_floats(t, &rig->rng);
		else
			memset(t->data, 0, bytes);
	}
	for (uint32_t i = 0; i < SEQUENCES * LENGTH; i++)
		((int32_t *)call.in[table].data)[i] = (int32_t)random_below(&rig->rng, BLOCKS);
	tensor_size(&call.out[0], &elements, &bytes);
	guard_create(&rig->output, bytes);
	call.out[0].data = guard_place(&rig->output, bytes, GUARD_END, 0);
	rig->call = call;
}

static void rig_destroy(struct rig *rig)
{
	for (uint32_t i = 0; i < rig->call.op->n_inputs; i++) {
		if (rig->call.in[i].data != NULL)
			guard_destroy(&rig->guards[i]);
	}
	guard_destroy(&rig->output);
}

static int32_t *integers(struct rig *rig, uint32_t input)
{
	return rig->call.in[input].data;
}

/* --- Hostile indices ------------------------------------------------------------------------ */

static const int32_t bad_rows[] = {-1, SEQUENCES, INT32_MIN, INT32_MAX};
static const int32_t bad_positions[] = {-1, LENGTH *KV_TOKENS, INT32_MIN, INT32_MAX};
static const int32_t bad_blocks[] = {-1, BLOCKS, INT32_MIN, INT32_MAX};

static void assert_appends_nothing(struct rig *rig, const char *before)
{
	uint64_t elements, bytes;
	const struct tensor *cache = &rig->call.in[APPEND_CACHE];

	tensor_size(cache, &elements, &bytes);
	memset(rig->call.out[0].data, 0xff, GROUPS * HEADS * COLUMNS * sizeof(float));
	run(&rig->call);
	assert_memory_equal(cache->data, before, bytes);
	for (uint32_t i = 0; i < GROUPS * HEADS * COLUMNS; i++)
		assert_true(isfinite(((float *)rig->call.out[0].data)[i]));
}

static void check_append_hostile(void)
{
	static char before[BLOCKS * 2 * GROUPS * KV_TOKENS * COLUMNS * sizeof(float)];
	struct rig rig;

	rig_create(&rig, append_call(1, GPUQ_F32));
	memcpy(before, rig.call.in[APPEND_CACHE].data, sizeof(before));
	for (int i = 0; i < 4; i++) {
		integers(&rig, APPEND_ROWS)[0] = bad_rows[i];
		assert_appends_nothing(&rig, before);
		integers(&rig, APPEND_ROWS)[0] = 0;
		integers(&rig, APPEND_POSITIONS)[0] = bad_positions[i];
		assert_appends_nothing(&rig, before);
		integers(&rig, APPEND_POSITIONS)[0] = 0;
		integers(&rig, APPEND_TABLE)[0] = bad_blocks[i];
		assert_appends_nothing(&rig, before);
		integers(&rig, APPEND_TABLE)[0] = 0;
	}
	run(&rig.call);
	assert_memory_not_equal(rig.call.in[APPEND_CACHE].data, before, sizeof(before));
	rig_destroy(&rig);
}

static void test_append_of_hostile_indices(void **state)
{
	for_each_isa(check_append_hostile);
}

static void assert_all(const struct rig *rig, float value)
{
	for (uint32_t i = 0; i < GROUPS * HEADS * COLUMNS; i++)
		assert_true(((float *)rig->call.out[0].data)[i] == value);
}

static void fill_with(struct tensor *t, double value)
{
	uint64_t elements, bytes;

	tensor_size(t, &elements, &bytes);
	for (uint64_t i = 0; i < elements; i++)
		element_set(t->data, t->dtype, i, value);
}

/* Every value is 1, so whatever is seen gives ones, and nothing gives zeros. */
static void check_attention_hostile(void)
{
	struct rig rig;

	rig_create(&rig, attention_call(1, GPUQ_BF16));
	fill_with(&rig.call.in[ATTENTION_CACHE], 1);
	for (int i = 0; i < 4; i++) {
		integers(&rig, ATTENTION_POSITIONS)[0] = 40;
		integers(&rig, ATTENTION_ROWS)[0] = bad_rows[i];
		run(&rig.call);
		assert_all(&rig, 0);
		integers(&rig, ATTENTION_ROWS)[0] = 1;
		integers(&rig, ATTENTION_TABLE)[LENGTH + 1] = bad_blocks[i];
		run(&rig.call);
		assert_all(&rig, 1);
		integers(&rig, ATTENTION_POSITIONS)[0] = bad_positions[i];
		run(&rig.call);
		assert_all(&rig, bad_positions[i] < 0 ? 0 : 1);
	}
	for (uint32_t i = 0; i < LENGTH; i++)
		integers(&rig, ATTENTION_TABLE)[LENGTH + i] = bad_blocks[i % 4];
	integers(&rig, ATTENTION_POSITIONS)[0] = 40;
	run(&rig.call);
	assert_all(&rig, 0);
	rig_destroy(&rig);
}

static void test_attention_over_hostile_indices(void **state)
{
	for_each_isa(check_attention_hostile);
}

/* --- Rows have nothing to do with each other ------------------------------------------------ */

/* Prompts of two sequences and tokens of any: the rows of a tile differ in all that they can. */
static void fill_tokens(struct rig *rig)
{
	for (int32_t i = 0; i < TOKENS; i++) {
		integers(rig, ATTENTION_ROWS)[i] = i < 25 ? i / 20 : (i * 7) % SEQUENCES;
		integers(rig, ATTENTION_POSITIONS)[i] =
			i < 25 ? 50 + i : (i * 37) % (LENGTH * KV_TOKENS);
	}
}

static void check_row_alone(struct rig *rig, uint64_t n)
{
	const uint64_t elements = GROUPS * HEADS * COLUMNS;
	struct op_call call = rig->call;
	float alone[GROUPS * HEADS * COLUMNS];

	call.in[ATTENTION_Q].dims[0] = call.out[0].dims[0] = 1;
	call.in[ATTENTION_POSITIONS].dims[0] = call.in[ATTENTION_ROWS].dims[0] = 1;
	call.in[ATTENTION_Q].data = (float *)call.in[ATTENTION_Q].data + n * elements;
	call.in[ATTENTION_POSITIONS].data = integers(rig, ATTENTION_POSITIONS) + n;
	call.in[ATTENTION_ROWS].data = integers(rig, ATTENTION_ROWS) + n;
	call.out[0].data = alone;
	run(&call);
	assert_memory_equal(alone, (float *)rig->call.out[0].data + n * elements, sizeof(alone));
}

static void check_alone(void)
{
	static const uint32_t dtypes[] = {GPUQ_F32, GPUQ_F16, GPUQ_BF16};
	struct rig rig;

	for (uint32_t i = 0; i < 6; i++) {
		struct op_call call = attention_call(TOKENS, dtypes[i % 3]);

		call.params[ATTENTION_WINDOW].i64 = i < 3 ? 0 : 30;
		rig_create(&rig, call);
		fill_tokens(&rig);
		run(&rig.call);
		for (uint64_t n = 0; n < TOKENS; n++)
			check_row_alone(&rig, n);
		rig_destroy(&rig);
	}
}

static void test_row_alone_is_the_row_among_others(void **state)
{
	for_each_isa(check_alone);
}

/* --- Slots that nobody sees ----------------------------------------------------------------- */

/* Sequence 0 has the first blocks, in order: what is from its tokens' end on is NaN. */
static void check_unseen(void)
{
	struct rig rig;
	struct tensor *cache;
	const int32_t positions[] = {0, 1, 15, 16, 63, 64, 100};

	rig_create(&rig, attention_call(1, GPUQ_F32));
	cache = &rig.call.in[ATTENTION_CACHE];
	for (int32_t i = 0; i < LENGTH; i++)
		integers(&rig, ATTENTION_TABLE)[i] = i;
	for (uint32_t i = 0; i < sizeof(positions) / sizeof(positions[0]); i++) {
		const int32_t p = positions[i];
		const uint64_t block = (uint64_t)p / KV_TOKENS;

		fill_with(cache, NAN);
		for (uint64_t at = 0; at < (block + 1) * 2 * GROUPS * KV_TOKENS; at++) {
			const uint64_t token =
				at / (2 * GROUPS * KV_TOKENS) * KV_TOKENS + at % KV_TOKENS;

			for (uint64_t d = 0; token <= (uint64_t)p && d < COLUMNS; d++)
				((float *)cache->data)[at * COLUMNS + d] = 1;
		}
		integers(&rig, ATTENTION_POSITIONS)[0] = p;
		run(&rig.call);
		for (uint32_t d = 0; d < GROUPS * HEADS * COLUMNS; d++)
			assert_true(fabsf(((float *)rig.call.out[0].data)[d] - 1) < 1e-5f);
	}
	rig_destroy(&rig);
}

static void test_what_is_not_seen_does_not_matter(void **state)
{
	for_each_isa(check_unseen);
}

static void check_nan(void)
{
	struct rig rig;
	float *y;

	rig_create(&rig, attention_call(2, GPUQ_F32));
	integers(&rig, ATTENTION_POSITIONS)[0] = integers(&rig, ATTENTION_POSITIONS)[1] = 90;
	((float *)rig.call.in[ATTENTION_Q].data)[COLUMNS] = NAN; /* head 1 of row 0 */
	run(&rig.call);
	y = rig.call.out[0].data;
	for (uint32_t i = 0; i < 2 * GROUPS * HEADS * COLUMNS; i++)
		assert_true(isnan(y[i]) == (i / COLUMNS == 1));
	rig_destroy(&rig);
}

static void test_nan_spoils_one_head(void **state)
{
	for_each_isa(check_nan);
}

/* --- Payload that changes ------------------------------------------------------------------- */

static struct rig racing[2];
static uint32_t racing_ends;

static void scribble_on(struct tensor *t, uint32_t bits)
{
	uint64_t elements, bytes;

	tensor_size(t, &elements, &bytes);
	for (uint64_t i = 0; i < elements; i++) {
		bits = bits * 1664525 + 1013904223;
		/* Half of them make sense. */
		shm_store_release_u32(
			(uint32_t *)t->data + i, (bits & 0x100) != 0 ? bits : bits >> 28);
	}
}

static void *scribble(void *unused)
{
	uint32_t round = 0;

	while (shm_load_acquire_u32(&racing_ends) == 0) {
		for (uint32_t i = 0; i < 16; i++) {
			struct tensor *t = &racing[i / 8].call.in[i % 8];

			if (t->dtype == GPUQ_I32 || t->dtype == GPUQ_F32)
				scribble_on(t, round++);
		}
	}
	return unused;
}

static void check_race(void)
{
	pthread_t thread;

	shm_store_release_u32(&racing_ends, 0);
	rig_create(&racing[0], append_call(TOKENS, GPUQ_F32));
	rig_create(&racing[1], attention_call(TOKENS, GPUQ_F32));
	assert_int_equal(pthread_create(&thread, NULL, scribble, NULL), 0);
	for (int i = 0; i < 60; i++) {
		run(&racing[i % 2].call);
		assert_true(guard_intact(&racing[i % 2].output));
		assert_true(guard_intact(&racing[0].guards[APPEND_CACHE]));
	}
	shm_store_release_u32(&racing_ends, 1);
	pthread_join(thread, NULL);
	rig_destroy(&racing[0]);
	rig_destroy(&racing[1]);
}

static void test_changing_payload_stays_within_bounds(void **state)
{
#ifdef __SANITIZE_THREAD__
	harness_skip("races on purpose");
#else
	for_each_isa(check_race);
#endif
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_append_refuses),
		HARNESS_TEST(test_attention_refuses),
		HARNESS_TEST(test_both_refuse),
		HARNESS_TEST(test_append_of_hostile_indices),
		HARNESS_TEST(test_attention_over_hostile_indices),
		HARNESS_TEST(test_row_alone_is_the_row_among_others),
		HARNESS_TEST(test_what_is_not_seen_does_not_matter),
		HARNESS_TEST(test_nan_spoils_one_head),
		HARNESS_TEST(test_changing_payload_stays_within_bounds),
	};

	return harness_run("kernels-attention", tests, sizeof(tests) / sizeof(tests[0]));
}
