/* SPDX-License-Identifier: MIT */
/* engine.c: an engine's making, its turns, its end; see engine.h. */
#include "models/engine_impl.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define END_PATIENCE_NS 200000000u /* for a step that a failed device may never end */

static bool options_make_sense(const struct engine_options *o)
{
	const struct engine_model *m = &o->model;

	return o->max_sessions > 0 && o->max_batch > 0 && o->max_batch <= ENGINE_MAX_BATCH &&
		o->chunk_tokens > 0 && o->chunk_tokens <= INT32_MAX && o->bucket_tokens > 0 &&
		m->vocab > 0 && m->vocab <= INT32_MAX && m->top_k > 0 &&
		m->top_k <= MODEL_MAX_TOP_K && m->kv_blocks < INT32_MAX &&
		m->max_session_tokens <= INT32_MAX - KV_BLOCK_TOKENS;
}

static int create_host(struct engine *e)
{
	const struct kv_options kv = {
		.blocks = e->model->kv_blocks,
		.max_user_blocks = e->options.max_user_blocks,
		.max_sessions = e->options.max_sessions,
		.max_session_tokens = e->model->max_session_tokens,
		.preempt = engine_preempt,
		.context = e,
	};

	e->sessions = calloc(e->options.max_sessions, sizeof(*e->sessions));
	e->tokens = calloc(e->model->max_session_tokens, sizeof(*e->tokens));
	e->all_users = calloc(e->options.max_sessions, sizeof(*e->all_users));
	if (e->sessions == NULL || e->tokens == NULL || e->all_users == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < e->options.max_sessions; i++) {
		LIST_INSERT_HEAD(&e->free_users, &e->all_users[i], open);
		e->sessions[i].engine = e;
		TAILQ_INSERT_TAIL(&e->unused, &e->sessions[i], link);
	}
	return kv_pool_create(&kv, &e->kv);
}

static int create_device(struct engine *e)
{
	struct device *device = e->options.device;
	int err = engine_buffers_create(e);

	if (err == 0)
		err = device_stream_create(device, DEVICE_PRIORITY_HIGH, &e->kv_copying.stream);
	if (err == 0)
		err = device_stream_create(device, DEVICE_PRIORITY_NORMAL, &e->rows.copying.stream);
	return err;
}

int engine_create(const struct engine_options *options, struct engine **ret_engine)
{
	struct engine *e;
	int err;

	if (!options_make_sense(options))
		return -EINVAL;
	e = calloc(1, sizeof(*e));
	if (e == NULL)
		return -ENOMEM;
	e->options = *options;
	e->model = &e->options.model;
	e->pace = options->pace != NULL ? options->pace : &e->own_pace;
	e->uid = (uint32_t)getuid();
	TAILQ_INIT(&e->active);
	TAILQ_INIT(&e->unused);
	LIST_INIT(&e->open_users);
	LIST_INIT(&e->free_users);
	LIST_INIT(&e->users);
	e->next_deadline_ns = UINT64_MAX;
	e->max_tokens = options->chunk_tokens > options->max_batch ? options->chunk_tokens
								   : options->max_batch;
	e->max_blocks = engine_table_columns(e->model->max_session_tokens);
	err = create_host(e);
	if (err == 0)
		err = create_device(e);
	if (err != 0) {
		engine_destroy(e);
		return err;
	}
	*ret_engine = e;
	return 0;
}

/* --- The end -------------------------------------------------------------------------------- */

static bool is_running(const struct engine *e)
{
	const struct graph_work *w = &e->step.work;

	return e->step.state == STEP_RUNNING && !device_done(w->completion, w->args.value);
}

/* The step's tensors are the device's until it has ended. */
static void await_step(struct engine *e)
{
	const struct timespec nap = {.tv_nsec = 200000};
	uint64_t until_ns = UINT64_MAX;

	if (e->step.state != STEP_RUNNING)
		return;
	/* What can be cancelled ends in any case. */
	const bool may_stay = !graphs_cancel(e->options.graphs, &e->step.work);
	while (is_running(e) && clock_monotonic_ns() < until_ns) {
		nanosleep(&nap, NULL);
		if (may_stay && until_ns == UINT64_MAX && device_check(e->options.device) != 0)
			until_ns = clock_monotonic_ns() + END_PATIENCE_NS;
	}
	if (!is_running(e))
		(void)graphs_finish(e->options.graphs, &e->step.work, engine_now_ns(e));
}

void engine_destroy(struct engine *e)
{
	if (e == NULL)
		return;
	await_step(e);
	engine_wishes_end(e);
	device_stream_destroy(e->kv_copying.stream);
	device_stream_destroy(e->rows.copying.stream);
	engine_buffers_destroy(e);
	for (uint32_t i = 0; e->kv != NULL && i < e->options.max_sessions; i++)
		kv_close(e->sessions[i].kv);
	kv_pool_destroy(e->kv);
	free(e->all_users);
	free(e->sessions);
	free(e->tokens);
	free(e);
}

void engine_fail(struct engine *e)
{
	e->failed = true;
	/* A step that runs may still be using its tensors: engine_destroy() looks at that. */
	if (e->step.state != STEP_RUNNING)
		e->step.state = STEP_NONE;
	e->rows.copying.count = 0;
	for (uint32_t i = 0; i < e->options.max_sessions; i++) {
		struct engine_session *s = &e->sessions[i];

		if (s->kv == NULL)
			continue;
		s->in_step = s->copying = false;
		while (s->first != NULL)
			engine_request_end(s, s->first, -GPUQ_EDEVICE);
		if (s->closing)
			engine_session_release(s);
	}
}

bool engine_has_failed(const struct engine *e)
{
	return e->failed;
}

/* --- Turns ---------------------------------------------------------------------------------- */

bool engine_poll(struct engine *e)
{
	bool progress = engine_wishes_go_on(e);

	if (!e->failed)
		progress |= engine_copy_rows_go_on(e);
	if (!e->failed)
		progress |= engine_go_on(e);
	if (e->failed)
		return progress;
	if (e->next_deadline_ns != UINT64_MAX)
		engine_expire(e, engine_now_ns(e));
	if (e->step.state == STEP_NONE && engine_start_step(e)) {
		(void)engine_go_on(e);
		progress = true;
	}
	return progress;
}

bool engine_busy(const struct engine *e)
{
	return e->n_requests > 0;
}

/* Copies that a stream has no room for are looked at again and again. */
static bool is_stuck(const struct engine_copying *c)
{
	return c->count > 0 && !c->signaled;
}

uint64_t engine_due_ns(const struct engine *e)
{
	const struct engine_step *step = &e->step;
	const uint64_t likely_ns =
		step->is_decode ? e->turns[step->shape.kind].took_ns : e->token_ns * step->n_tokens;

	return step->state != STEP_RUNNING || likely_ns == 0 ? UINT64_MAX
							     : step->started_ns + likely_ns;
}

static uint64_t since_ns(const struct engine_copying *c)
{
	return c->count > 0 ? c->began_ns : UINT64_MAX;
}

uint64_t engine_oldest_ns(const struct engine *e)
{
	const uint64_t blocks_ns = since_ns(&e->kv_copying), rows_ns = since_ns(&e->rows.copying);
	uint64_t oldest_ns = e->step.state == STEP_RUNNING ? e->step.started_ns : UINT64_MAX;

	if (blocks_ns < oldest_ns)
		oldest_ns = blocks_ns;
	return rows_ns < oldest_ns ? rows_ns : oldest_ns;
}

uint64_t engine_wake_ns(const struct engine *e)
{
	const enum engine_step_state state = e->step.state;
	uint64_t gathered_ns;

	if (e->failed || e->n_requests == 0)
		return UINT64_MAX;
	if (state == STEP_BUILT || is_stuck(&e->rows.copying) ||
		(state == STEP_COPYING && is_stuck(&e->kv_copying)))
		return 0;
	if (state != STEP_NONE)
		return e->next_deadline_ns;
	gathered_ns = engine_gather_end_ns(e);
	/* What is ready and has not started waits for blocks that full rows under way keep. */
	if (gathered_ns == 0)
		gathered_ns = e->rows.copying.count > 0 ? UINT64_MAX : 0;
	return gathered_ns < e->next_deadline_ns ? gathered_ns : e->next_deadline_ns;
}

void engine_stats(const struct engine *e, struct engine_stats *ret_stats)
{
	*ret_stats = e->stats;
	kv_pool_stats(e->kv, &ret_stats->kv);
}
