/* SPDX-License-Identifier: MIT */
/* tour.c: see tour.h. */
#include "tests/integration/tour.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SHORT_N 8u	  /* elements on which dispatch itself works */
#define WORKER_N 3000u	  /* of which a worker does */
#define LONG_N (1u << 18) /* for which a client falls asleep */
#define STEPS 30u	  /* of the pipeline: more than one message says */
#define BUFFER_BYTES (64u << 10)
#define IDLE_US 20000 /* in which gpuqd falls asleep */
#define PROMPT 4u

struct tour {
	const char *model;
	struct gpuq *g, *peer;
	struct gpuq_channel *ch;
	struct gpuq_buf *buf, *shared;
	struct gpuq_pipeline *pipeline;
	uint64_t serial;
};

bool tour_lost_device(int error)
{
	return error == -GPUQ_EDEVICE || error == -GPUQ_ELOST || error == -GPUQ_ESESSION ||
		error == -GPUQ_EMODEL || error == -GPUQ_ECAPTURE;
}

bool tour_lost_gpuqd(int error)
{
	return error == -GPUQ_EGONE || error == -ECONNREFUSED || error == -ENOENT ||
		error == -ECONNRESET;
}

/* --- Single things ------------------------------------------------------------------------- */

/* Waits for the completion of what was submitted last; its status. */
static int wait_one(struct tour *t, uint64_t user_data)
{
	struct gpuq_completion done;
	int r = gpuq_wait(t->ch, &done, 1, PATIENCE_NS);

	if (r < 0)
		return r;
	assert_int_equal(r, 1);
	assert_int_equal(done.user_data, user_data);
	assert_int_equal(gpuq_in_flight(t->ch), 0);
	return done.status;
}

static int run(struct tour *t, struct gpuq_call *call)
{
	const struct gpuq_submission s = {.call = call, .user_data = ++t->serial};
	int r = gpuq_submit(t->ch, &s, 1);

	return r < 0 ? r : wait_one(t, s.user_data);
}

/* Of equal inputs each output is 1/n. */
static void check_softmax(const float *y, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		assert_float_equal(y[i], 1.0 / n, 1e-5 / n);
}

static struct gpuq_tensor row(float *data, uint32_t n)
{
	return (struct gpuq_tensor){.data = data, .dtype = GPUQ_F32, .rank = 2, .dims = {1, n}};
}

/* A softmax, by an operator or a pipeline; or the wish to have it captured. */
static int run_softmax(struct tour *t, uint32_t n, struct gpuq_pipeline *p, bool capture)
{
	float *data;
	struct gpuq_call *call;
	int r = gpuq_alloc(t->ch, 2 * n * sizeof(float), (void **)&data);

	if (r < 0)
		return r;
	memset(data, 0, 2 * n * sizeof(float));
	const struct gpuq_tensor in = row(data, n), out = row(data + n, n);
	r = p != NULL ? gpuq_pipeline_call_create(t->ch, p, &in, 1, &out, 1, &call)
		      : gpuq_call_create(t->ch, "softmax", &in, 1, &out, 1, NULL, 0, &call);
	if (r < 0)
		return r;
	if (capture) {
		r = gpuq_precapture(t->ch, call, ++t->serial);
		r = r < 0 ? r : wait_one(t, t->serial);
	} else {
		r = run(t, call);
		if (r == 0)
			check_softmax(data + n, n);
	}
	gpuq_call_destroy(call);
	(void)gpuq_free(t->ch, data);
	return r;
}

/* --- The stages ---------------------------------------------------------------------------- */

static int stage_connect(struct tour *t)
{
	const struct gpuq_channel_options options = {
		.sq_entries = 16, .cq_entries = 64, .arena_bytes = 4u << 20};
	struct gpuq_device_info info;
	int r = gpuq_connect(NULL, &t->g);

	if (r == 0)
		r = gpuq_connect(NULL, &t->peer);
	if (r == 0)
		r = gpuq_device_info(t->g, 0, &info);
	return r < 0 ? r : gpuq_channel_open(t->g, &options, &t->ch);
}

static int stage_calls(struct tour *t)
{
	int r = run(t, NULL);

	if (r == 0)
		r = run_softmax(t, SHORT_N, NULL, false);
	if (r == 0)
		r = run_softmax(t, WORKER_N, NULL, false);
	if (r == 0)
		r = run_softmax(t, LONG_N, NULL, false);
	usleep(IDLE_US);
	if (r == 0)
		r = run_softmax(t, SHORT_N, NULL, false);
	return r;
}

/* Of two that are on their way together one is to be cancelled: both complete, once each. */
static int stage_cancel(struct tour *t)
{
	const struct gpuq_submission s = {.user_data = ++t->serial};
	struct gpuq_completion done[2];
	int n = gpuq_submit(t->ch, &s, 1), got = 0;

	if (n < 0)
		return n;
	int r = gpuq_cancel(t->ch, s.user_data, ++t->serial);
	/* The first may have been completed, but not been taken, so it is known here. */
	while (r == 0 && got < 2) {
		n = gpuq_wait(t->ch, &done[got], (uint32_t)(2 - got), PATIENCE_NS);
		r = n < 0 ? n : 0;
		got += n < 0 ? 0 : n;
	}
	for (int i = 0; i < got && r == 0; i++) {
		int status = done[i].status;
		r = status == -EALREADY || status == -ENOENT || status == -ECANCELED ? 0 : status;
	}
	return r;
}

static int stage_pipeline(struct tour *t)
{
	static char names[STEPS + 1][8];
	struct gpuq_pipeline_tensor tensors[STEPS + 1];
	struct gpuq_pipeline_step steps[STEPS];

	for (uint32_t i = 0; i <= STEPS; i++) {
		snprintf(names[i], sizeof(names[i]), "t%u", i);
		tensors[i] = (struct gpuq_pipeline_tensor){names[i],
			i == 0		     ? GPUQ_PIPELINE_INPUT
				: i == STEPS ? GPUQ_PIPELINE_OUTPUT
					     : GPUQ_PIPELINE_INNER,
			GPUQ_F32, 2, {1, SHORT_N}};
	}
	for (uint32_t i = 0; i < STEPS; i++)
		steps[i] = (struct gpuq_pipeline_step){
			.op = "softmax", .inputs = {names[i]}, .outputs = {names[i + 1]}};
	int r = gpuq_pipeline_create(
		t->g, 0, "tour", tensors, STEPS + 1, steps, STEPS, &t->pipeline);
	if (r == 0)
		r = run_softmax(t, SHORT_N, t->pipeline, false);
	if (r == 0)
		r = run_softmax(t, SHORT_N, t->pipeline, true);
	gpuq_pipeline_destroy(t->pipeline);
	t->pipeline = NULL;
	return r;
}

static int check_buffer(struct tour *t, const struct gpuq_buf *buf, uint8_t value)
{
	static uint8_t bytes[BUFFER_BYTES];
	int r = gpuq_buf_read(t->ch, buf, 0, bytes, sizeof(bytes));

	for (uint32_t i = 0; i < BUFFER_BYTES && r == 0; i++)
		assert_int_equal(bytes[i], value);
	return r;
}

static int stage_buffers(struct tour *t)
{
	static uint8_t bytes[BUFFER_BYTES];
	const struct gpuq_buf_options options = {.bytes = BUFFER_BYTES};
	struct gpuq_buf_export export;
	int r = gpuq_buf_alloc(t->g, &options, &t->buf);

	memset(bytes, 7, sizeof(bytes));
	if (r == 0)
		r = gpuq_buf_write(t->ch, t->buf, 0, bytes, sizeof(bytes));
	if (r == 0)
		r = check_buffer(t, t->buf, 7);
	if (r == 0)
		r = gpuq_buf_export(t->buf, &export);
	if (r == 0)
		close(export.fd);
	/* The other connection of this process. */
	if (r == 0)
		r = gpuq_buf_grant(t->buf, (uint32_t)getpid());
	if (r == 0)
		r = gpuq_buf_accept(t->peer, gpuq_buf_handle(t->buf), &t->shared);
	if (r == 0) {
		gpuq_buf_free(t->shared);
		gpuq_buf_free(t->buf);
		t->shared = t->buf = NULL;
	}
	return r;
}

static int generate(struct tour *t, struct gpuq_session *session, uint32_t *ret_n)
{
	static const int32_t prompt[PROMPT] = {1, 5, 9, 12};
	const struct gpuq_generate_options options = {.max_tokens = PROMPT, .max_generate = 3};
	struct gpuq_call *call;
	int r = gpuq_generate_create(session, &options, &call);

	if (r < 0)
		return r;
	r = gpuq_generate_set(call, prompt, PROMPT, 3, 1);
	if (r == 0)
		r = run(t, call);
	*ret_n = r > 0 ? (uint32_t)r : 0;
	gpuq_call_destroy(call);
	return r < 0 ? r : 0;
}

static int stage_sessions(struct tour *t)
{
	struct gpuq_session *session, *fork = NULL;
	uint32_t n = 0;
	int r = t->model != NULL ? gpuq_session_open(t->ch, t->model, &session) : -ENOENT;

	if (t->model == NULL)
		return 0;
	if (r < 0)
		return r;
	r = generate(t, session, &n);
	if (r == 0)
		assert_int_equal(n, 3);
	if (r == 0)
		r = gpuq_session_fork(session, &fork);
	if (r == 0)
		r = gpuq_session_truncate(fork, 2);
	gpuq_session_close(fork);
	gpuq_session_close(session);
	return r;
}

static int stage_close(struct tour *t)
{
	gpuq_channel_close(t->ch);
	t->ch = NULL;
	return gpuq_alive(t->g);
}

int tour(const char *model)
{
	static int (*const stages[])(struct tour *) = {stage_connect, stage_calls, stage_cancel,
		stage_pipeline, stage_buffers, stage_sessions, stage_close};
	struct tour t = {.model = model};
	int r = 0;

	for (size_t i = 0; i < sizeof(stages) / sizeof(stages[0]) && r == 0; i++)
		r = stages[i](&t);
	/* What is left goes with the connections. */
	gpuq_disconnect(t.peer);
	gpuq_disconnect(t.g);
	return r;
}
