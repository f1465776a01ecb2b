/* SPDX-License-Identifier: MIT */
/* neighbours.c: clients that behave; see neighbours.h. */
#include "tests/hostile/neighbours.h"

#include "tests/hostile/attack.h"
#include "tests/integration/client.h"

#include <string.h>

#define JOBS 8u
#define JOB_SIZE 16u
#define PROMPT_TOKENS 4u
#define MADE 8u

/* Operators of all kinds, whose every result is known. */
void neighbour_operators(struct child *child)
{
	struct random rng = {child->seed};
	struct client c;
	struct load load;

	client_open(&c, NULL);
	load_create(&load, &c, JOB_KINDS, JOB_SIZE, JOBS, &rng);
	child_say_ready(child);
	while (!child_should_stop(child)) {
		assert_true(load_submit(&load) >= 0);
		assert_true(load_take(&load, PATIENCE_NS) > 0);
		shm_store_release(&child->page->completed, load.completed);
	}
	assert_int_equal(load_finish(&load), 0);
	load_destroy(&load);
	client_close(&c);
}

/* What the model makes of one prompt, drawn with one seed. */
static uint32_t generate(struct gpuq_session *session, struct gpuq_channel *ch,
	struct gpuq_call *call, int32_t *ret_tokens)
{
	const int32_t prompt[PROMPT_TOKENS] = {3, 5, 7, 9};
	const struct gpuq_submission s = {.call = call};
	struct gpuq_completion done;
	const int32_t *made;
	const float *logprobs;

	assert_int_equal(gpuq_session_truncate(session, 0), 0);
	assert_int_equal(gpuq_generate_set(call, prompt, PROMPT_TOKENS, MADE, 1), 0);
	assert_int_equal(gpuq_submit(ch, &s, 1), 1);
	assert_int_equal(gpuq_wait(ch, &done, 1, PATIENCE_NS), 1);
	if (done.status < 0)
		fail_msg("generate: %s", gpuq_error_name(done.status));
	assert_int_equal(gpuq_generate_result(call, &made, &logprobs), 0);
	memcpy(ret_tokens, made, (uint32_t)done.status * sizeof(*made));
	return (uint32_t)done.status;
}

/* The same text again and again. */
void neighbour_texts(struct child *child)
{
	const struct gpuq_generate_options options = {
		.max_tokens = PROMPT_TOKENS, .max_generate = MADE};
	int32_t first[MADE], tokens[MADE];
	struct gpuq_session *session;
	struct gpuq_call *call;
	struct client c;

	client_open(&c, NULL);
	assert_int_equal(gpuq_session_open(c.ch, ATTACK_MODEL, &session), 0);
	assert_int_equal(gpuq_generate_create(session, &options, &call), 0);
	const uint32_t n = generate(session, c.ch, call, first);
	child_say_ready(child);
	while (!child_should_stop(child)) {
		assert_int_equal(generate(session, c.ch, call, tokens), n);
		assert_memory_equal(tokens, first, n * sizeof(*tokens));
		shm_count(&child->page->completed, 1);
	}
	gpuq_call_destroy(call);
	gpuq_session_close(session);
	client_close(&c);
}
