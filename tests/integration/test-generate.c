/* SPDX-License-Identifier: MIT */
/*
 * test-generate.c: texts that a model goes on with, through libgpuq-text's writer: a small model of
 * random weights, and a tokenizer with as many tokens.
 *
 *	TEST_SEED=N   weights; printed (writing.c)
 */
#include "tests/integration/children.h"
#include "shm/clock.h"
#include "tests/integration/writing.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define LENGTH WRITING_LENGTH

static const struct writing_model gpt2 = {.tokenizer = "gpt2", .max_tokens = 1024};

/* What the step itself says is the likeliest, token by token. */
static void test_greedy_is_the_likeliest(void **state)
{
	const struct gpuq_step_options options = {.max_tokens = 64, .max_rows = 1, .top_k = 1};
	struct gpuq_encoder *encoder;
	struct gpuq_session *session;
	struct gpuq_call *step;
	const uint32_t *ids;
	struct writing w;
	struct written_text t;

	writing_start(&w, &gpt2);
	writing_text(&w, (struct gpuq_writer_options){.ignore_end = true}, "Once upon a time", &t);
	assert_int_equal(t.n, LENGTH);
	assert_int_equal(gpuq_encoder_create(w.tokenizer, &encoder), 0);
	int64_t n = gpuq_encode(encoder, "Once upon a time", 16, 0, &ids);
	assert_int_equal(gpuq_session_open(w.client.ch, "small", &session), 0);
	assert_int_equal(gpuq_step_create(session, &options, &step), 0);
	for (uint32_t i = 0; i < LENGTH; i++) {
		const struct gpuq_submission s = {.call = step};
		struct gpuq_completion done;
		struct gpuq_row row;

		assert_int_equal(gpuq_step_set(step, (const int32_t *)ids, (uint32_t)n, 1), 0);
		assert_int_equal(gpuq_submit(w.client.ch, &s, 1), 1);
		assert_int_equal(gpuq_wait(w.client.ch, &done, 1, PATIENCE_NS), 1);
		assert_int_equal(done.status, 0);
		assert_int_equal(gpuq_step_row(step, 0, &row), 0);
		assert_int_equal(t.tokens[i], row.tokens[0]);
		ids = &t.tokens[i];
		n = 1;
	}
	gpuq_call_destroy(step);
	gpuq_session_close(session);
	gpuq_encoder_destroy(encoder);
	writing_stop(&w);
}

/* Also where each token needs the full row, and where a few do. */
static void test_a_seed_is_a_text(void **state)
{
	static const struct gpuq_sampling policies[] = {
		{.temperature = 1},
		{.temperature = 2, .top_k = 300},
		{.temperature = 0.8f, .top_p = 0.9f, .repetition_penalty = 1.2f},
	};
	struct writing w;
	struct written_text a, b, c;

	writing_start(&w, &gpt2);
	for (size_t i = 0; i < sizeof(policies) / sizeof(policies[0]); i++) {
		struct gpuq_writer_options o = {.sampling = policies[i], .ignore_end = true};

		o.sampling.seed = 5;
		writing_text(&w, o, "The cat", &a);
		writing_text(&w, o, "The cat", &b);
		o.sampling.seed = 6;
		writing_text(&w, o, "The cat", &c);
		assert_int_equal(a.n, LENGTH);
		assert_memory_equal(a.tokens, b.tokens, sizeof(a.tokens));
		assert_string_equal(a.bytes, b.bytes);
		assert_memory_not_equal(a.tokens, c.tokens, sizeof(a.tokens));
	}
	writing_stop(&w);
}

/* A prompt of more tokens than one request has, at once and in parts, with and without the row. */
static void test_long_prompts(void **state)
{
	static const uint32_t top_k[] = {0, 400};
	struct gpuq_writer_options o = {.ignore_end = true};
	char prompt[2000] = "";
	struct writing w;
	struct written_text a, b;

	for (size_t n = 0; n + 8 < sizeof(prompt); n += strlen(prompt + n))
		snprintf(prompt + n, sizeof(prompt) - n, " %zu", n);
	writing_start(&w, &gpt2);
	for (uint32_t i = 0; i < 2; i++) {
		o.sampling = (struct gpuq_sampling){.temperature = 1, .top_k = top_k[i]};
		struct gpuq_writer *writer = writing_open(&w, o);
		int64_t n = gpuq_writer_read(writer, prompt, 600, 0);
		n += gpuq_writer_read(writer, prompt + 600, 600, 0);
		assert_true(n > 512);
		writing_go_on(writer, &a);
		gpuq_writer_destroy(writer);
		prompt[1200] = '\0';
		writing_text(&w, o, prompt, &b);
		assert_memory_equal(a.tokens, b.tokens, sizeof(a.tokens));
	}
	writing_stop(&w);
}

static void test_ends(void **state)
{
	const struct gpuq_logit_bias likely = {WRITING_END, 1000};
	struct gpuq_writer_options o = {.ignore_end = true};
	struct gpuq_written written;
	struct writing w;
	struct written_text whole, t;
	char string[8] = "";

	writing_start(&w, &gpt2);
	const struct gpuq_logit_bias no_zero = writing_no_zero(&w);
	o.sampling = (struct gpuq_sampling){.n_biases = 1, .biases = &no_zero};
	writing_text(&w, o, "Once", &whole);
	/* A piece from the middle of the text, at whole characters. */
	size_t at = whole.length / 2;
	while (((unsigned char)whole.bytes[at] & 0xc0) == 0x80)
		at++;
	memcpy(string, whole.bytes + at, 4);
	const char *strings[] = {string};
	o.stops = strings;
	o.n_stops = 1;
	writing_text(&w, o, "Once", &t);
	assert_int_equal(t.length, (size_t)(strstr(whole.bytes, string) - whole.bytes));
	assert_memory_equal(t.bytes, whole.bytes, t.length);

	o = (struct gpuq_writer_options){.sampling = {.n_biases = 1, .biases = &likely}};
	struct gpuq_writer *writer = writing_open(&w, o);
	assert_int_equal(gpuq_writer_next(writer, &written), -EINVAL);
	assert_int_equal(gpuq_writer_read(writer, "a", 1, 0), 1);
	assert_int_equal(gpuq_writer_next(writer, &written), 1);
	assert_int_equal(written.token, WRITING_END);
	assert_int_equal(written.bytes, 0);
	assert_int_equal(gpuq_writer_end(writer), GPUQ_WRITER_END_TOKEN);
	assert_int_equal(gpuq_writer_next(writer, &written), 0);
	/* More text, and it goes on. */
	assert_int_equal(gpuq_writer_read(writer, "b", 1, 0), 1);
	assert_int_equal(gpuq_writer_end(writer), GPUQ_WRITER_GOES_ON);
	assert_int_equal(gpuq_writer_next(writer, &written), 1);
	gpuq_writer_destroy(writer);
	writing_stop(&w);
}

static void test_a_text_that_is_too_long(void **state)
{
	struct gpuq_written written;
	struct writing w;
	int r = 1;

	writing_start(&w, &gpt2);
	struct gpuq_writer *writer =
		writing_open(&w, (struct gpuq_writer_options){.ignore_end = true});
	for (uint32_t i = 0; i < 1000; i++)
		assert_int_equal(gpuq_writer_read(writer, "a", 1, 0), 1);
	for (uint32_t i = 0; i < 100 && r > 0; i++)
		r = gpuq_writer_next(writer, &written);
	assert_int_equal(r, -GPUQ_ECONTEXT);
	gpuq_writer_destroy(writer);
	writing_stop(&w);
}

/* --- Fused --------------------------------------------------------------------------------- */

/* The likeliest token is the same wherever it is looked for, and however many at once. */
static void test_fused_greedy_is_greedy(void **state)
{
	struct gpuq_writer_options o = {.ignore_end = true};
	struct written_text plain, fused;
	struct writing w;

	writing_start(&w, &gpt2);
	writing_text(&w, o, "Once upon a time", &plain);
	for (uint32_t n = 1; n <= 40; n += 13) {
		o.fused = n;
		writing_text(&w, o, "Once upon a time", &fused);
		assert_int_equal(fused.n, LENGTH);
		assert_memory_equal(fused.tokens, plain.tokens, sizeof(plain.tokens));
		assert_string_equal(fused.bytes, plain.bytes);
	}
	writing_stop(&w);
}

static void test_fused_seeds(void **state)
{
	struct gpuq_writer_options o = {
		.ignore_end = true, .fused = 1, .sampling = {.temperature = 1, .seed = 5}};
	struct written_text one, many, other;
	struct writing w;

	writing_start(&w, &gpt2);
	writing_text(&w, o, "The cat", &one);
	o.fused = 7;
	writing_text(&w, o, "The cat", &many);
	o.sampling.seed = 6;
	writing_text(&w, o, "The cat", &other);
	assert_memory_equal(one.tokens, many.tokens, sizeof(one.tokens));
	assert_memory_not_equal(one.tokens, other.tokens, sizeof(one.tokens));
	writing_stop(&w);
}

/* Whoever waits for the first token waits for that one only: also after more was read. */
static void test_fused_first_token_is_alone(void **state)
{
	const struct gpuq_writer_options o = {.ignore_end = true, .fused = 4};
	struct gpuq_written written;
	struct writing w;

	writing_start(&w, &gpt2);
	struct gpuq_writer *writer = writing_open(&w, o);
	for (uint32_t turn = 0; turn < 2; turn++) {
		assert_true(gpuq_writer_read(writer, "The cat", 7, 0) > 0);
		/* Requests have 1, 4 and 4; a request's time is its first token's. */
		for (uint32_t i = 0; i < 9; i++) {
			assert_int_equal(gpuq_writer_next(writer, &written), 1);
			assert_int_equal(written.executed_ns > 0, i == 0 || i % 4 == 1);
		}
	}
	gpuq_writer_destroy(writer);
	writing_stop(&w);
}

/* What the device made too much of is taken back when more is read. */
static void test_fused_text_is_interrupted(void **state)
{
	struct gpuq_writer_options o = {.ignore_end = true};
	struct written_text texts[2];
	struct gpuq_written written;
	struct writing w;

	writing_start(&w, &gpt2);
	for (uint32_t before = 1; before <= 8; before++) {
		for (uint32_t i = 0; i < 2; i++) {
			o.fused = i * 8;
			struct gpuq_writer *writer = writing_open(&w, o);
			assert_true(gpuq_writer_read(writer, "The cat", 7, 0) > 0);
			for (uint32_t n = 0; n < before; n++)
				assert_int_equal(gpuq_writer_next(writer, &written), 1);
			assert_true(gpuq_writer_read(writer, " and a dog", 10, 0) > 0);
			writing_go_on(writer, &texts[i]);
			gpuq_writer_destroy(writer);
		}
		assert_memory_equal(texts[0].tokens, texts[1].tokens, sizeof(texts[0].tokens));
	}
	writing_stop(&w);
}

static void expect_beyond(struct writing *w, const char *name, struct gpuq_sampling sampling)
{
	struct gpuq_writer *writer = NULL;
	const struct gpuq_writer_options o = {
		.model = "small", .tokenizer = w->tokenizer, .fused = 4, .sampling = sampling};

	assert_int_equal(gpuq_writer_create(w->client.ch, &o, &writer), -ENOTSUP);
	assert_non_null(strstr(gpuq_error_detail(), name));
}

static void test_fused_refusals(void **state)
{
	static const struct gpuq_logit_bias bias = {1, 1};
	struct writing w;

	writing_start(&w, &gpt2);
	expect_beyond(&w, "top_k", (struct gpuq_sampling){.temperature = 1, .top_k = 4});
	expect_beyond(&w, "top_p", (struct gpuq_sampling){.temperature = 1, .top_p = 0.5f});
	expect_beyond(&w, "min_p", (struct gpuq_sampling){.temperature = 1, .min_p = 0.5f});
	expect_beyond(&w, "typical_p", (struct gpuq_sampling){.temperature = 1, .typical_p = 0.5f});
	expect_beyond(&w, "repetition", (struct gpuq_sampling){.repetition_penalty = 2});
	expect_beyond(&w, "presence", (struct gpuq_sampling){.presence_penalty = 1});
	expect_beyond(&w, "frequency", (struct gpuq_sampling){.frequency_penalty = 1});
	expect_beyond(&w, "bias", (struct gpuq_sampling){.n_biases = 1, .biases = &bias});
	writing_stop(&w);
}

/* Up to the last token that the model allows, whatever a request may make. */
static void test_fused_text_that_is_too_long(void **state)
{
	const struct gpuq_writer_options plain = {.ignore_end = true};
	const struct gpuq_writer_options fused = {.ignore_end = true, .fused = 50};
	uint32_t counts[2] = {0};
	struct gpuq_written written;
	struct writing w;

	writing_start(&w, &gpt2);
	for (uint32_t i = 0; i < 2; i++) {
		struct gpuq_writer *writer = writing_open(&w, i == 0 ? plain : fused);
		int r;

		for (uint32_t n = 0; n < 960; n++)
			assert_int_equal(gpuq_writer_read(writer, "a", 1, 0), 1);
		while ((r = gpuq_writer_next(writer, &written)) > 0)
			counts[i]++;
		assert_int_equal(r, -GPUQ_ECONTEXT);
		gpuq_writer_destroy(writer);
	}
	assert_int_equal(counts[0], counts[1]);
	writing_stop(&w);
}

/* --- Cancelled ------------------------------------------------------------------------------- */

static bool cancel_from_third(void *context)
{
	uint32_t *asked = context;

	return ++*asked >= 3;
}

/* A text goes on where it was cancelled. */
static void test_cancelled(void **state)
{
	uint32_t asked = 0;
	struct gpuq_writer_options o = {.ignore_end = true};
	struct written_text whole;
	struct gpuq_written written;
	struct writing w;

	writing_start(&w, &gpt2);
	writing_text(&w, o, "The cat", &whole);
	o.cancelled = cancel_from_third;
	o.cancel_context = &asked;
	struct gpuq_writer *writer = writing_open(&w, o);
	assert_true(gpuq_writer_read(writer, "The cat", 7, 0) > 0);
	for (uint32_t i = 0; i < 2; i++) {
		const uint64_t start_ns = clock_monotonic_ns();
		assert_int_equal(gpuq_writer_next(writer, &written), 1);
		assert_int_equal(written.token, whole.tokens[i]);
		assert_in_range(written.executed_ns, 1, clock_monotonic_ns() - start_ns);
	}
	assert_int_equal(gpuq_writer_next(writer, &written), -ECANCELED);
	assert_int_equal(gpuq_writer_next(writer, &written), -ECANCELED);
	asked = 0;
	assert_int_equal(gpuq_writer_next(writer, &written), 1);
	assert_int_equal(written.token, whole.tokens[2]);
	asked = 0;
	/* Also in the middle of a long prompt. */
	for (uint32_t i = 0; i < 900; i++)
		assert_int_equal(gpuq_writer_read(writer, "a", 1, 0), 1);
	assert_int_equal(gpuq_writer_next(writer, &written), -ECANCELED);
	gpuq_writer_destroy(writer);
	writing_stop(&w);
}

/* --- Beside others ------------------------------------------------------------------------- */

/* Keeps the lanes full until it is told to stop. */
static void flood_main(struct child *child)
{
	struct random rng = {child->seed};
	struct client c;
	struct load load;

	client_open(&c, &writing_channel);
	load_create(&load, &c, JOB_SOFTMAX, 2000, LOAD_MAX, &rng);
	do {
		assert_true(load_submit(&load) >= 0);
		assert_true(load_take(&load, PATIENCE_NS) > 0);
		if (load.completed > LOAD_MAX)
			child_say_ready(child);
	} while (!child_should_stop(child));
	assert_int_equal(load_finish(&load), 0);
	load_destroy(&load);
	client_close(&c);
}

/* Operators that others keep queued do not keep a text from going on. */
static void test_beside_operators(void **state)
{
	const struct gpuq_writer_options o = {.ignore_end = true};
	struct child flood = {.run = flood_main, .seed = 1};
	struct written_text alone, beside;
	struct writing w;

	writing_start(&w, &gpt2);
	/* Its shapes are captured by then: cold ones have a lane of their own. */
	for (uint32_t i = 0; i < 8; i++)
		writing_text(&w, o, "The cat", &alone);
	child_start(&flood);
	child_await_ready(&flood);
	writing_text(&w, o, "The cat", &beside);
	child_stop(&flood);
	child_free(&flood);
	assert_memory_equal(beside.tokens, alone.tokens, sizeof(alone.tokens));
	writing_stop(&w);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_greedy_is_the_likeliest),
		HARNESS_TEST(test_a_seed_is_a_text),
		HARNESS_TEST(test_long_prompts),
		HARNESS_TEST(test_ends),
		HARNESS_TEST(test_a_text_that_is_too_long),
		HARNESS_TEST(test_fused_greedy_is_greedy),
		HARNESS_TEST(test_fused_seeds),
		HARNESS_TEST(test_fused_first_token_is_alone),
		HARNESS_TEST(test_fused_text_is_interrupted),
		HARNESS_TEST(test_fused_refusals),
		HARNESS_TEST(test_fused_text_that_is_too_long),
		HARNESS_TEST(test_cancelled),
		HARNESS_TEST(test_beside_operators),
	};

	return harness_run("generate", tests, sizeof(tests) / sizeof(tests[0]));
}
