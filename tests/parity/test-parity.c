/* SPDX-License-Identifier: MIT */
/*
 * test-parity.c: the small models of tests/parity/data against what Hugging Face transformers
 * computed of them: texts of 1, 8 and 300 tokens at once and token by token, sessions of many
 * lengths in one batch, after preemption, with shared openings, 64 tokens of greedy decoding,
 * int8 weights, and the values that the layers pass on.
 */
#include "tests/harness.h"

#include "kernels/isa.h"
#include "tests/parity/runner.h"
#include "tests/parity/values.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LONG 300u
#define GREEDY 64u

/*
 * int8 weights against the same as they are: each is off by up to 1/254 of its row's greatest one.
 * The layers of the f32 models, which make more of their input than those of bf16, make more of
 * that too.
 */
#define INT8_BOUND 2.5e-2
#define INT8_BOUND_F32 5e-2

/* bf16 models against transformers that compute in f32: prefill and cache may round to bf16. */
#define EXACT_BOUND 8e-3

static const struct runner_options plain;

/* What all tests need of a model; freed by text_close(). */
struct text {
	struct expected e;
	int32_t *tokens; /* LONG of them */
	int32_t *positions;
	uint64_t n_positions;
	float *logits; /* [n_positions, vocab] */
	uint64_t vocab;
	double bound;
};

static void text_open(struct text *t, const char *name)
{
	uint64_t n;

	expected_open(&t->e, name);
	t->tokens = expected_read(&t->e, "text.300", &n, NULL);
	assert_int_equal(n, LONG);
	t->positions = expected_read(&t->e, "positions", &t->n_positions, NULL);
	t->logits = expected_read(&t->e, "logits.300", &n, &t->vocab);
	assert_int_equal(n, t->n_positions);
	t->bound = t->e.bf16 ? PARITY_BF16_BOUND : PARITY_F32_BOUND;
}

static void text_close(struct text *t)
{
	free(t->logits);
	free(t->positions);
	free(t->tokens);
	expected_close(&t->e);
}

/*
 * Runs a test on each model, or on those of f32. A sanitizer looks for other things than the right
 * logits, which it takes minutes to compute: unless there is time, for it some models do.
 */
static void on_models(void (*test)(struct text *t), bool bf16_too)
{
	const uint32_t stride = harness_slowness() > 1 && !harness_long() ? 3 : 1;

	for (uint32_t i = 0; i < PARITY_MODELS; i += stride) {
		struct text t;

		text_open(&t, parity_models[i]);
		if (bf16_too || !t.e.bf16)
			test(&t);
		text_close(&t);
	}
}

static float *rows_new(uint64_t rows, uint64_t vocab)
{
	float *logits = malloc(rows * vocab * sizeof(*logits) + 1);

	assert_non_null(logits);
	memset(logits, 0xff, rows * vocab * sizeof(*logits));
	return logits;
}

/* --- Texts ---------------------------------------------------------------------------------- */

static void check_short_text(struct text *t, struct runner *r, const char *kind, uint32_t n)
{
	char text[20], name[20];
	uint64_t rows, columns;
	int32_t *tokens;
	float *right, *logits = rows_new(n, r->vocab);
	struct engine_session *s = runner_session(r, 1);

	snprintf(text, sizeof(text), "text.%u", n);
	snprintf(name, sizeof(name), "%s.%u", kind, n);
	tokens = expected_read(&t->e, text, &rows, NULL);
	assert_int_equal(rows, n);
	right = expected_read(&t->e, name, &rows, &columns);
	assert_int_equal(columns, r->vocab);
	runner_rows(r, s, tokens, n, n, logits);
	expected_near(&t->e, name, logits, right, rows * columns, t->bound);
	engine_session_close(s);
	free(logits);
	free(right);
	free(tokens);
}

/* The rows that are known, out of all of the long text. */
static void check_long_rows(const struct text *t, const char *what, const float *logits,
	const float *right, double bound)
{
	float *found = rows_new(t->n_positions, t->vocab);

	for (uint64_t i = 0; i < t->n_positions; i++)
		memcpy(found + i * t->vocab, logits + (uint64_t)t->positions[i] * t->vocab,
			t->vocab * sizeof(*found));
	expected_near(&t->e, what, found, right, t->n_positions * t->vocab, bound);
	free(found);
}

static void texts_at_once(struct text *t)
{
	float *logits = rows_new(LONG, t->vocab);
	struct engine_session *s;
	struct runner r;

	runner_open(&r, &t->e, &plain);
	check_short_text(t, &r, "logits", 1);
	check_short_text(t, &r, "logits", 8);
	s = runner_session(&r, 1);
	runner_rows(&r, s, t->tokens, LONG, LONG, logits);
	check_long_rows(t, "logits.300", logits, t->logits, t->bound);
	engine_session_close(s);
	runner_close(&r);
	free(logits);
}

static void test_texts_at_once(void **state)
{
	on_models(texts_at_once, true);
}

/* The other forms of the operators; this one is the test's own process. */
static void test_texts_on_each_instruction_set(void **state)
{
	const enum isa best = isa_selected();

	for (enum isa isa = ISA_BASE; isa < best; isa++) {
		isa_select(isa);
		on_models(texts_at_once, true);
	}
}

/* One token after the other, so that each comes from the cache for those after it. */
static void texts_by_token(struct text *t)
{
	float *logits = rows_new(LONG, t->vocab);
	struct engine_session *s;
	struct runner r;

	runner_open(&r, &t->e, &plain);
	s = runner_session(&r, 1);
	for (uint32_t i = 0; i < LONG; i++)
		runner_rows(&r, s, t->tokens + i, 1, 1, logits + i * t->vocab);
	check_long_rows(t, "logits.300 by token", logits, t->logits, t->bound);
	engine_session_close(s);
	runner_close(&r);
	free(logits);
}

static void test_texts_by_token(void **state)
{
	on_models(texts_by_token, true);
}

static void last_rows(const struct text *t, struct runner *r, uint64_t salt, float *logits)
{
	struct engine_session *s = runner_session(r, salt);

	runner_rows(r, s, t->tokens, LONG - 2, 0, NULL);
	for (uint32_t i = 0; i < 2; i++)
		runner_rows(r, s, t->tokens + LONG - 2 + i, 1, 1, logits + i * t->vocab);
	engine_session_close(s);
}

/* The first time kernel by kernel, then again until a graph has done it. */
static void texts_by_graphs(struct text *t)
{
	const uint64_t row = t->n_positions - 2;
	float *cold = rows_new(2, t->vocab), *again = rows_new(2, t->vocab);
	const uint64_t *replays;
	uint64_t salt = 0, until_ns;
	struct runner r;

	runner_open(&r, &t->e, &plain);
	replays = &r.graphs->stats.graph_hits;
	until_ns = runner_patience_ns();
	last_rows(t, &r, salt++, cold);
	while (shm_load_acquire(replays) < 2) {
		assert_true(clock_monotonic_ns() < until_ns);
		last_rows(t, &r, salt++, again);
		assert_memory_equal(again, cold, 2 * t->vocab * sizeof(*cold));
	}
	expected_near(
		&t->e, "by graphs", again, t->logits + row * t->vocab, 2 * t->vocab, t->bound);
	runner_close(&r);
	free(again);
	free(cold);
}

static void test_texts_by_graphs(void **state)
{
	on_models(texts_by_graphs, true);
}

/* Against the same weights with transformers computing in f32. */
static void bf16_is_closer_to_what_is_exact(struct text *t)
{
	uint64_t rows, columns;
	float *logits, *right;
	struct engine_session *s;
	struct runner r;

	if (!t->e.bf16)
		return;
	logits = rows_new(LONG, t->vocab);
	right = expected_read(&t->e, "exact.300", &rows, &columns);
	runner_open(&r, &t->e, &plain);
	s = runner_session(&r, 1);
	runner_rows(&r, s, t->tokens, LONG, LONG, logits);
	check_long_rows(t, "exact.300", logits, right, EXACT_BOUND);
	engine_session_close(s);
	runner_close(&r);
	free(right);
	free(logits);
}

static void test_bf16_is_closer_to_what_is_exact(void **state)
{
	on_models(bf16_is_closer_to_what_is_exact, true);
}

/* --- Sessions ------------------------------------------------------------------------------- */

#define BATCH 20u

/*
 * Sessions at places of the long text, of which they share nothing; all give their next token at
 * the same time.
 */
struct batch {
	struct engine_session *sessions[BATCH];
	struct ask_rows asks[BATCH];
	uint32_t at[BATCH]; /* tokens that the session has */
	float *right;	    /* [BATCH, vocab], of its next token */
	float *logits;	    /* likewise */
};

/* Lengths spread over those whose next token's logits are known. */
static void batch_fill(struct batch *b, const struct text *t, struct runner *r)
{
	b->logits = rows_new(BATCH, t->vocab);
	b->right = rows_new(BATCH, t->vocab);
	for (uint32_t i = 0; i < BATCH; i++) {
		const uint64_t row = 1 + i * (t->n_positions - 2) / (BATCH - 1);

		memcpy(b->right + i * t->vocab, t->logits + row * t->vocab,
			t->vocab * sizeof(*b->right));
		b->at[i] = (uint32_t)t->positions[row];
		b->sessions[i] = runner_session(r, i);
		ask_rows_submit(r, &b->asks[i], b->sessions[i], t->tokens, b->at[i], 0, NULL);
	}
	for (uint32_t i = 0; i < BATCH; i++)
		ask_rows_await(r, &b->asks[i]);
}

static void batch_step(struct batch *b, const struct text *t, struct runner *r)
{
	for (uint32_t i = 0; i < BATCH; i++)
		ask_rows_submit(r, &b->asks[i], b->sessions[i], t->tokens + b->at[i], 1, 1,
			b->logits + i * t->vocab);
	for (uint32_t i = 0; i < BATCH; i++)
		ask_rows_await(r, &b->asks[i]);
}

static void batch_free(struct batch *b)
{
	for (uint32_t i = 0; i < BATCH; i++)
		engine_session_close(b->sessions[i]);
	free(b->right);
	free(b->logits);
}

static uint64_t steps_of(const struct runner *r)
{
	struct engine_stats stats;

	engine_stats(r->engine, &stats);
	return stats.steps[MODEL_STEP_ROWS];
}

static void batches_of_many_lengths(struct text *t)
{
	struct batch b;
	struct runner r;
	uint64_t steps;

	runner_open(&r, &t->e, &plain);
	batch_fill(&b, t, &r);
	steps = steps_of(&r);
	batch_step(&b, t, &r);
	/* They were one. */
	assert_int_equal(steps_of(&r), steps + 1);
	expected_near(&t->e, "in a batch", b.logits, b.right, BATCH * t->vocab, t->bound);
	batch_free(&b);
	runner_close(&r);
}

static void test_batches_of_many_lengths(void **state)
{
	on_models(batches_of_many_lengths, true);
}

/* With deterministic = yes a row's bits do not depend on what else is computed with it. */
static void batches_equal_sessions_alone(struct text *t)
{
	const struct runner_options options = {.deterministic = true};
	float *alone = rows_new(1, t->vocab);
	struct batch b;
	struct runner r;

	runner_open(&r, &t->e, &options);
	batch_fill(&b, t, &r);
	batch_step(&b, t, &r);
	for (uint32_t i = 0; i < BATCH; i++) {
		struct engine_session *s = runner_session(&r, BATCH + i);

		runner_rows(&r, s, t->tokens, b.at[i], 0, NULL);
		runner_rows(&r, s, t->tokens + b.at[i], 1, 1, alone);
		assert_memory_equal(alone, b.logits + i * t->vocab, t->vocab * sizeof(*alone));
		engine_session_close(s);
	}
	batch_free(&b);
	runner_close(&r);
	free(alone);
}

static void test_batches_equal_sessions_alone(void **state)
{
	on_models(batches_equal_sessions_alone, true);
}

/* Two long texts and room for one and a half: each turn of one makes the other start again. */
static void texts_after_preemption(struct text *t)
{
	const struct runner_options options = {.kv_blocks = 30};
	const uint64_t last = t->n_positions - 1;
	int32_t *other = malloc(LONG * sizeof(*other));
	float *logits = rows_new(2, t->vocab);
	struct engine_session *s[2];
	struct engine_stats stats;
	struct runner r;

	/* Nothing to share, from the first token on. */
	for (uint32_t i = 0; i < LONG; i++)
		other[i] = t->tokens[LONG - 1 - i];
	runner_open(&r, &t->e, &options);
	s[0] = runner_session(&r, 1);
	s[1] = runner_session(&r, 1);
	runner_rows(&r, s[0], t->tokens, 298, 0, NULL);
	runner_rows(&r, s[1], other, 298, 0, NULL);
	for (uint32_t i = 0; i < 2; i++) {
		runner_rows(&r, s[0], t->tokens + 298 + i, 1, 1, logits + i * t->vocab);
		runner_rows(&r, s[1], other + 298 + i, 1, 0, NULL);
	}
	engine_stats(r.engine, &stats);
	assert_true(stats.kv.preemptions >= 2);
	expected_near(&t->e, "after preemption", logits, t->logits + (last - 1) * t->vocab,
		2 * t->vocab, t->bound);
	engine_session_close(s[0]);
	engine_session_close(s[1]);
	runner_close(&r);
	free(logits);
	free(other);
}

static void test_texts_after_preemption(void **state)
{
	on_models(texts_after_preemption, true);
}

/* The second session computes only what comes after the last full block of the first. */
static void texts_with_a_shared_opening(struct text *t)
{
	const uint64_t last = t->n_positions - 1;
	float *logits = rows_new(1, t->vocab);
	struct engine_session *s[2];
	struct engine_stats stats;
	uint64_t computed;
	struct runner r;

	runner_open(&r, &t->e, &plain);
	s[0] = runner_session(&r, 1);
	runner_rows(&r, s[0], t->tokens, 290, 0, NULL);
	engine_stats(r.engine, &stats);
	computed = stats.computed_tokens;
	s[1] = runner_session(&r, 1);
	runner_rows(&r, s[1], t->tokens, LONG, 1, logits);
	engine_stats(r.engine, &stats);
	assert_true(stats.kv.shared_tokens >= 288);
	assert_int_equal(stats.computed_tokens - computed, LONG - 288);
	expected_near(&t->e, "after a shared opening", logits, t->logits + last * t->vocab,
		t->vocab, t->bound);
	engine_session_close(s[0]);
	engine_session_close(s[1]);
	runner_close(&r);
	free(logits);
}

static void test_texts_with_a_shared_opening(void **state)
{
	on_models(texts_with_a_shared_opening, true);
}

/* --- Greedy decoding ------------------------------------------------------------------------ */

static int32_t greatest(const float *logits, uint64_t n)
{
	uint64_t at = 0;

	for (uint64_t i = 1; i < n; i++)
		at = logits[i] > logits[at] ? i : at;
	return (int32_t)at;
}

/* By this thread from full rows, and by the device; the second with graphs of exact lengths. */
static void greedy_tokens(struct text *t)
{
	const struct runner_options exact_lengths = {.bucket_tokens = 1};
	float *logits = rows_new(1, t->vocab);
	int32_t made[GREEDY], next;
	uint64_t n, n_right;
	int32_t *text = expected_read(&t->e, "text.8", &n, NULL);
	int32_t *right = expected_read(&t->e, "greedy", &n_right, NULL);
	struct engine_session *s;
	struct runner r;

	assert_int_equal(n_right, GREEDY);
	runner_open(&r, &t->e, &plain);
	s = runner_session(&r, 1);
	runner_rows(&r, s, text, (uint32_t)n, 1, logits);
	for (uint32_t i = 0; i < GREEDY; i++) {
		next = greatest(logits, t->vocab);
		assert_int_equal(next, right[i]);
		runner_rows(&r, s, &next, 1, 1, logits);
	}
	engine_session_close(s);
	runner_close(&r);
	runner_open(&r, &t->e, &exact_lengths);
	s = runner_session(&r, 1);
	runner_generate(&r, s, text, (uint32_t)n, GREEDY, made);
	assert_memory_equal(made, right, sizeof(made));
	engine_session_close(s);
	runner_close(&r);
	free(right);
	free(text);
	free(logits);
}

static void test_greedy_tokens(void **state)
{
	on_models(greedy_tokens, false);
}

/* --- Weights and layers --------------------------------------------------------------------- */

static void int8_is_near_what_it_was(struct text *t)
{
	const struct runner_options int8 = {.quant = WEIGHT_INT8};
	const struct runner_options *const options[] = {&plain, &int8};
	float *logits[2];

	for (uint32_t i = 0; i < 2; i++) {
		struct engine_session *s;
		struct runner r;

		logits[i] = rows_new(LONG, t->vocab);
		runner_open(&r, &t->e, options[i]);
		s = runner_session(&r, 1);
		runner_rows(&r, s, t->tokens, LONG, LONG, logits[i]);
		engine_session_close(s);
		runner_close(&r);
	}
	expected_near(&t->e, "int8", logits[1], logits[0], LONG * t->vocab,
		t->e.bf16 ? INT8_BOUND : INT8_BOUND_F32);
	free(logits[0]);
	free(logits[1]);
}

static void test_int8_is_near_what_it_was(void **state)
{
	on_models(int8_is_near_what_it_was, true);
}

static void values_of_layers(struct text *t)
{
	struct runner r;

	if (!expected_has(&t->e, "norm"))
		return;
	runner_open(&r, &t->e, &plain);
	values_check(&t->e, r.model);
	runner_close(&r);
}

static void test_values_of_layers(void **state)
{
	on_models(values_of_layers, false);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_texts_at_once),
		HARNESS_TEST(test_texts_on_each_instruction_set),
		HARNESS_TEST(test_texts_by_token),
		HARNESS_TEST(test_texts_by_graphs),
		HARNESS_TEST(test_bf16_is_closer_to_what_is_exact),
		HARNESS_TEST(test_batches_of_many_lengths),
		HARNESS_TEST(test_batches_equal_sessions_alone),
		HARNESS_TEST(test_texts_after_preemption),
		HARNESS_TEST(test_texts_with_a_shared_opening),
		HARNESS_TEST(test_greedy_tokens),
		HARNESS_TEST(test_int8_is_near_what_it_was),
		HARNESS_TEST(test_values_of_layers),
	};

	return harness_run("parity", tests, sizeof(tests) / sizeof(tests[0]));
}
