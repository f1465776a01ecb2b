/* SPDX-License-Identifier: MIT */
/* Requests to an engine over a model, which this thread drives as dispatch would. */
#include "tests/parity/runner.h"

#include "tests/harness.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define PATIENCE_NS 15000000000ull
#define PLENTY_OF_BLOCKS 400u
#define SESSIONS 24u

void runner_open(struct runner *r, const struct expected *e, const struct runner_options *options)
{
	const struct model_options model = {
		.quant = options->quant,
		.deterministic = options->deterministic,
		.kv_blocks = options->kv_blocks == 0 ? PLENTY_OF_BLOCKS : options->kv_blocks,
	};
	struct engine_options engine = {
		.max_sessions = SESSIONS,
		.max_batch = SESSIONS,
		.chunk_tokens = RUNNER_CHUNK,
		.bucket_tokens = options->bucket_tokens == 0 ? 64 : options->bucket_tokens,
		.gather_percent = 10,
	};
	struct model_why why = {""};

	*r = (struct runner){.graphs = rig_prepare(NULL), .client = {.max_blocks = UINT32_MAX}};
	r->graphs->options.scratch_bytes = 8u << 20;
	rig_start(r->graphs);
	engine.device = r->graphs->options.device;
	engine.graphs = r->graphs->g;
	engine.clock = r->graphs->options.clock;
	if (model_load(engine.device, engine.graphs, e->dir_fd, &model, NULL, &r->model, &why) != 0)
		fail_msg("%s: %s", e->name, why.text);
	engine.model = engine_model_of(r->model);
	assert_int_equal(engine_create(&engine, &r->engine), 0);
	r->vocab = model_config(r->model)->vocab;
}

void runner_close(struct runner *r)
{
	struct engine_stats stats;

	engine_stats(r->engine, &stats);
	assert_int_equal(stats.sessions, 0);
	engine_destroy(r->engine);
	model_destroy(r->model);
	rig_free(r->graphs);
}

struct engine_session *runner_session(struct runner *r, uint64_t salt)
{
	struct engine_session *s;

	assert_int_equal(engine_session_open(r->engine, &r->client, salt, &s), 0);
	return s;
}

static void turn(struct runner *r)
{
	struct engine_request *done;

	if (!engine_poll(r->engine))
		sched_yield();
	while ((done = engine_take_done(r->engine)) != NULL)
		((struct ask_rows *)(void *)done)->done = true;
}

static void submit(struct runner *r, struct ask_rows *a)
{
	a->done = false;
	assert_int_equal(engine_submit(r->engine, &a->r), 0);
}

void ask_rows_submit(struct runner *r, struct ask_rows *a, struct engine_session *s,
	const int32_t *tokens, uint32_t n, uint32_t rows, float *logits)
{
	const uint64_t bytes = rows * wire_row_bytes(0, 0);

	*a = (struct ask_rows){.r = {.kind = ENGINE_STEP,
				       .session = s,
				       .tokens = tokens,
				       .n_tokens = n,
				       .temperature = 1,
				       .rows = rows,
				       .out_bytes = bytes,
				       .device_logits = logits}};
	a->out = malloc(bytes + 1);
	a->r.out = a->out;
	submit(r, a);
}

uint64_t runner_patience_ns(void)
{
	return clock_monotonic_ns() + PATIENCE_NS * harness_slowness();
}

static void await(struct runner *r, struct ask_rows *a)
{
	const uint64_t until_ns = runner_patience_ns();

	while (!a->done) {
		turn(r);
		assert_true(clock_monotonic_ns() < until_ns);
	}
	assert_int_equal(a->r.status, 0);
}

void ask_rows_await(struct runner *r, struct ask_rows *a)
{
	await(r, a);
	free(a->out);
}

void runner_rows(struct runner *r, struct engine_session *s, const int32_t *tokens, uint32_t n,
	uint32_t rows, float *logits)
{
	struct ask_rows a;

	ask_rows_submit(r, &a, s, tokens, n, rows, logits);
	ask_rows_await(r, &a);
}

void runner_generate(struct runner *r, struct engine_session *s, const int32_t *tokens, uint32_t n,
	uint32_t n_made, int32_t *made)
{
	const uint64_t bytes = n_made * (sizeof(int32_t) + sizeof(float));
	struct ask_rows a = {.r = {.kind = ENGINE_GENERATE,
				     .session = s,
				     .tokens = tokens,
				     .n_tokens = n,
				     .n_generate = n_made,
				     .out_bytes = bytes}};

	a.r.out = malloc(bytes);
	submit(r, &a);
	await(r, &a);
	assert_int_equal(a.r.n_made, n_made);
	memcpy(made, a.r.out, n_made * sizeof(*made));
	free(a.r.out);
}
