/* SPDX-License-Identifier: MIT */
/* Calls of the device that fail under an engine: everything ends, and says why. */
#include "tests/harness.h"

#include "tests/models/engine-rig.h"

#include <errno.h>
#include <stdio.h>

#define ASKS 8u

struct workload {
	struct engine_session *sessions[4];
	struct ask *asks[ASKS];
};

static void submit(struct engine_rig *rig, struct workload *w, uint32_t i, struct ask *a)
{
	w->asks[i] = a;
	a->done = false;
	if (engine_submit(rig->engine, &a->r) != 0) {
		a->done = true;
		a->r.status = -GPUQ_EDEVICE;
	}
}

static void await(struct engine_rig *rig, struct workload *w, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		(void)ask_await(rig, w->asks[i]);
}

/* Steps, chunks, full rows, and a block that is copied because a fork has it too. */
static void run(struct engine_rig *rig, struct workload *w)
{
	int32_t tokens[100];

	fake_count(tokens, 0, 100);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(
			engine_session_open(rig->engine, &rig->client, 1, &w->sessions[i]), 0);
	submit(rig, w, 0, ask_step(w->sessions[0], tokens, 10, 1));
	submit(rig, w, 1, ask_step(w->sessions[1], tokens + 1, 5, 5));
	submit(rig, w, 2, ask_logits(w->sessions[2], tokens + 2, 40, 6));
	await(rig, w, 3);
	(void)engine_session_fork(w->sessions[0], &w->sessions[3]);
	submit(rig, w, 3, ask_step(w->sessions[0], tokens, 2, 1));
	submit(rig, w, 4, ask_generate(w->sessions[1], tokens, 3, 4));
	submit(rig, w, 5, ask_logits(w->sessions[2], tokens, 2, 2));
	await(rig, w, 6);
	submit(rig, w, 6, ask_step(w->sessions[0], tokens, 3, 2));
	submit(rig, w, 7, ask_step(w->sessions[2], tokens, 2, 1));
	await(rig, w, 8);
}

/* Where nothing but one call has failed, all goes on as if that request had not been. */
static void check(struct engine_rig *rig, const struct workload *w, int fault)
{
	static const uint32_t session_of[ASKS] = {0, 1, 2, 0, 1, 2, 0, 2};
	int32_t text[3][FAKE_MAX_TEXT];
	uint32_t n[3] = {0, 0, 0}, failed = 0;

	for (uint32_t i = 0; i < ASKS; i++) {
		const uint32_t s = session_of[i];
		const int status = w->asks[i]->r.status;

		if (status == 0)
			n[s] = ask_check(w->asks[i], text[s], n[s]);
		else
			assert_true(status == fault || status == -GPUQ_EDEVICE);
		failed += status != 0;
	}
	/* A signal that cannot be given is a failure of the device, too. */
	if (engine_has_failed(rig->engine))
		return;
	assert_true(failed <= 4);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(engine_session_tokens(w->sessions[i]), n[i]);
}

static void with_fault(const char *call, uint32_t number, const char *error, int fault)
{
	struct workload w = {{NULL}, {NULL}};
	struct engine_rig *rig;
	char faults[64];

	snprintf(faults, sizeof(faults), "%s:%u=%s", call, number, error);
	rig = engine_rig_prepare(64, faults);
	if (rig == NULL)
		return;
	if (engine_create(&rig->options, &rig->engine) != 0) {
		assert_null(rig->engine);
		engine_rig_free(rig);
		return;
	}
	run(rig, &w);
	check(rig, &w, fault);
	for (uint32_t i = 0; i < 4; i++)
		engine_session_close(w.sessions[i]);
	engine_rig_free(rig);
	/* A copy that nobody could be told the end of may have run until now. */
	for (uint32_t i = 0; i < ASKS; i++)
		ask_free(w.asks[i]);
}

static void calls_that_fail_once(void **state)
{
	static const char *const calls[] = {
		"alloc", "stream_create", "launch", "exec_launch", "exec_create", "copy", "signal"};

	for (uint32_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		for (uint32_t n = 1; n <= 20; n++)
			with_fault(calls[i], n, "ENOMEM", -ENOMEM);
	}
}

static void devices_that_fail(void **state)
{
	static const char *const calls[] = {
		"launch", "exec_launch", "copy", "signal", "work", "capture_end"};

	for (uint32_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		for (uint32_t n = 1; n <= 10; n++)
			with_fault(calls[i], n, "GPUQ_EDEVICE", -GPUQ_EDEVICE);
	}
}

/* Who cannot have caused it gets an answer. */
static void a_failed_step_is_taken_apart(void **state)
{
	struct engine_rig *rig = engine_rig_prepare(64, "launch:1=ENOMEM");
	struct engine_session *s[3];
	struct ask *a[3];
	int32_t text[FAKE_MAX_TEXT], tokens[3] = {1, 2, 3};

	engine_rig_start(rig);
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(engine_session_open(rig->engine, &rig->client, 1, &s[i]), 0);
		a[i] = ask_step(s[i], tokens, i + 1, 1);
		ask_submit(rig, a[i]);
	}
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(ask_await(rig, a[i]), 0);
		assert_int_equal(ask_check(a[i], text, 0), i + 1);
	}
	/* One by one, and then together again. */
	assert_int_equal(fake_seen.steps, 3);
	for (uint32_t i = 0; i < 3; i++)
		ask_submit(rig, a[i]);
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(ask_await(rig, a[i]), 0);
		ask_free(a[i]);
		engine_session_close(s[i]);
	}
	assert_int_equal(fake_seen.steps, 4);
	engine_rig_free(rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(a_failed_step_is_taken_apart),
		HARNESS_TEST_LONG(calls_that_fail_once, 60),
		HARNESS_TEST_LONG(devices_that_fail, 60),
	};

	return harness_run("models-engine-faults", tests, sizeof(tests) / sizeof(tests[0]));
}
