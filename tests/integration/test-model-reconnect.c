/* SPDX-License-Identifier: MIT */
/*
 * test-model-reconnect.c: what a client of language models has left when another gpuqd has taken
 * the place of its own: old sessions and calls are refused, also where a new session has the number
 * of an old one, and do nothing to anybody's text; everything can be made anew.
 *
 *	TEST_SEED=N   weights and texts; printed
 */
#include "tests/daemon/raw.h"
#include "tests/integration/classify.h"
#include "tests/integration/tiny-model.h"

#include <string.h>

#define PROMPT 40u
#define MADE 8u /* tokens */

/* All that a program may hold on to. */
struct held {
	struct gpuq_session *session, *other;
	struct gpuq_call *step, *generation, *capture;
	struct gpuq_pipeline *pipeline;
	struct classify job;
	int32_t prompt[PROMPT], made[MADE]; /* made: what the model says to it */
};

static struct gpuq_call *prepare_generation(struct gpuq_session *s, const int32_t *prompt)
{
	const struct gpuq_generate_options o = {.max_tokens = PROMPT, .max_generate = MADE};
	struct gpuq_call *call;

	assert_int_equal(gpuq_generate_create(s, &o, &call), 0);
	assert_int_equal(gpuq_generate_set(call, prompt, PROMPT, MADE, 1), 0);
	return call;
}

static void run_generation(struct client *c, struct gpuq_call *call, int32_t ret_made[MADE])
{
	const int32_t *tokens;
	const float *logprobs;

	const struct gpuq_completion done = tiny_run(c, call);
	tiny_expect_status(call, &done, MADE);
	assert_int_equal(gpuq_generate_result(call, &tokens, &logprobs), 0);
	memcpy(ret_made, tokens, MADE * sizeof(*tokens));
}

static void hold(struct held *h, struct client *c, struct random *rng)
{
	const struct gpuq_step_options options = {.max_tokens = PROMPT, .max_rows = 1, .top_k = 4};
	const struct gpuq_model_shape shape = {.batch = 1, .context = 64};

	tiny_text(rng, h->prompt, PROMPT);
	h->session = tiny_session_open(c);
	h->other = tiny_session_open(c);
	h->step = tiny_step_create(h->other, &options);
	const struct gpuq_completion done = tiny_run_step(c, h->step, h->prompt, PROMPT, 1);
	tiny_expect_status(h->step, &done, 0);
	h->generation = prepare_generation(h->session, h->prompt);
	run_generation(c, h->generation, h->made);
	assert_int_equal(gpuq_capture_create(c->ch, "tiny", &shape, &h->capture), 0);
	h->pipeline = classify_register(c->g, "classify");
	classify_create(&h->job, c->ch, h->pipeline, 4, 16, 8);
	classify_run(&h->job, rng);
}

static void expect_refused(struct client *c, struct gpuq_call *call, int status)
{
	const struct gpuq_completion done = tiny_run(c, call);

	tiny_expect_status(call, &done, status);
}

/* Each is told what it has lost, whatever is there under its number now. */
static void expect_lost(struct held *h, struct client *c)
{
	struct gpuq_session *fork;
	struct gpuq_call *call;

	assert_int_equal(gpuq_step_set(h->step, h->prompt, 1, 1), 0);
	expect_refused(c, h->step, -GPUQ_ESESSION);
	expect_refused(c, h->generation, -GPUQ_ESESSION);
	expect_refused(c, h->capture, -GPUQ_EMODEL);
	expect_refused(c, h->job.call, -GPUQ_EPIPELINE);
	assert_int_equal(gpuq_session_fork(h->session, &fork), -GPUQ_ESESSION);
	assert_int_equal(gpuq_session_truncate(h->session, 1), -GPUQ_ESESSION);
	/* So is what is made of it only now. */
	call = prepare_generation(h->session, h->prompt);
	expect_refused(c, call, -GPUQ_ESESSION);
	gpuq_call_destroy(call);
}

static void let_go(struct held *h)
{
	gpuq_call_destroy(h->step);
	gpuq_call_destroy(h->generation);
	gpuq_call_destroy(h->capture);
	gpuq_session_close(h->session);
	gpuq_session_close(h->other);
	classify_destroy(&h->job);
	gpuq_pipeline_destroy(h->pipeline);
}

static uint32_t sessions_now(struct gpuq *g)
{
	struct gpuq_model_info m;

	assert_int_equal(gpuq_model_find(g, "tiny", &m), 0);
	return m.sessions;
}

/* A text goes on as if nothing else had been, between the uses and the end of the old ones. */
static void check_anew(struct held *h, struct client *c, struct random *rng)
{
	const struct gpuq_generate_options rest = {.max_tokens = 1, .max_generate = MADE};
	struct gpuq_session *s = tiny_session_open(c), *second = tiny_session_open(c);
	struct gpuq_call *call = prepare_generation(s, h->prompt), *more, *same;
	int32_t made[MADE];
	struct held fresh;

	run_generation(c, call, made);
	assert_memory_equal(made, h->made, sizeof(made));
	expect_lost(h, c);
	let_go(h);
	/* The text of `second` is the same, but for all of that. */
	same = prepare_generation(second, h->prompt);
	run_generation(c, same, made);
	assert_memory_equal(made, h->made, sizeof(made));
	assert_int_equal(gpuq_generate_create(s, &rest, &more), 0);
	assert_int_equal(gpuq_generate_set(more, h->prompt, 1, MADE, 1), 0);
	run_generation(c, more, made);
	gpuq_call_destroy(more);
	assert_int_equal(gpuq_generate_create(second, &rest, &more), 0);
	assert_int_equal(gpuq_generate_set(more, h->prompt, 1, MADE, 1), 0);
	int32_t expected[MADE];
	run_generation(c, more, expected);
	assert_memory_equal(made, expected, sizeof(made));
	gpuq_call_destroy(more);
	gpuq_call_destroy(same);
	gpuq_call_destroy(call);
	gpuq_session_close(s);
	gpuq_session_close(second);
	hold(&fresh, c, rng);
	let_go(&fresh);
	raw_await(sessions_now(c->g) == 0);
}

static void when_asked_for(void **state)
{
	struct gpuq_session *s;
	struct tiny_world w;
	struct client c;
	struct held h;

	tiny_start(&w, false, NULL);
	tiny_client_open(&c);
	hold(&h, &c, &w.rng);
	tiny_replace(&w);
	raw_await(gpuq_alive(c.g) == -GPUQ_EGONE);
	assert_int_equal(gpuq_session_open(c.ch, "tiny", &s), -GPUQ_EGONE);
	assert_int_equal(gpuq_session_truncate(h.session, 1), -GPUQ_EGONE);
	if (gpuq_reconnect(c.g, PATIENCE_NS) < 0)
		fail_msg("gpuq_reconnect: %s", gpuq_error_detail());
	served_await(c.g, "tiny");
	check_anew(&h, &c, &w.rng);
	client_close(&c);
	tiny_stop(&w);
}

/* Whichever old call is submitted first makes the connection, and is refused. */
static void by_itself(void **state)
{
	const struct gpuq_options options = {.reconnect = true};
	struct tiny_world w;
	struct client c;
	struct held h;

	tiny_start(&w, false, NULL);
	assert_int_equal(gpuq_connect(&options, &c.g), 0);
	assert_int_equal(gpuq_channel_open(c.g, &tiny_channel, &c.ch), 0);
	for (uint32_t i = 0; i < 2; i++) {
		served_await(c.g, "tiny");
		hold(&h, &c, &w.rng);
		tiny_replace(&w);
		raw_await(gpuq_alive(c.g) == -GPUQ_EGONE);
		if (i == 0)
			expect_refused(&c, h.generation, -GPUQ_ESESSION);
		else
			assert_int_equal(gpuq_session_truncate(h.other, 1), -GPUQ_ESESSION);
		assert_int_equal(gpuq_epoch(c.g), 2 + i);
		served_await(c.g, "tiny");
		check_anew(&h, &c, &w.rng);
	}
	client_close(&c);
	tiny_stop(&w);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST_LONG(when_asked_for, 60),
		HARNESS_TEST_LONG(by_itself, 60),
	};

	return harness_run("integration-model-reconnect", tests, sizeof(tests) / sizeof(tests[0]));
}
