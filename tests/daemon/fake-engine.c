/* SPDX-License-Identifier: MIT */
/* The functions of models/engine.h that dispatch calls, without a model behind them. */
#include "tests/daemon/fake-engine.h"

#include "tests/harness.h"

#include "graphs/pipeline.h"
#include "shm/atomics.h"
#include "shm/clock.h"

#include <errno.h>
#include <string.h>

static void put(struct queue *q, struct engine_request *r)
{
	r->next = NULL;
	*q->end = r;
	q->end = &r->next;
}

static struct engine_request *take(struct queue *q)
{
	struct engine_request *r = q->first;

	if (r != NULL)
		q->first = r->next;
	if (q->first == NULL)
		q->end = &q->first;
	return r;
}

int engine_session_open(struct engine *e, struct kv_client *client, uint64_t salt,
	struct engine_session **ret_session)
{
	struct engine_session *s = e->sessions;

	while (s->client != NULL)
		s++;
	*s = (struct engine_session){.engine = e, .client = client};
	client->used_blocks++;
	e->salt = salt;
	shm_count(&e->n_open, 1);
	*ret_session = s;
	return 0;
}

void engine_session_weigh(struct engine_session *s, uint32_t weight)
{
}

int engine_session_fork(struct engine_session *from, struct engine_session **ret_session)
{
	if (from->n_queued > 0)
		return -EBUSY;
	int r = engine_session_open(from->engine, from->client, from->engine->salt, ret_session);
	(*ret_session)->n_tokens = from->n_tokens;
	return r;
}

int engine_session_truncate(struct engine_session *s, uint32_t tokens)
{
	if (s->n_queued > 0)
		return -EBUSY;
	if (tokens > s->n_tokens)
		return -EINVAL;
	s->n_tokens = tokens;
	return 0;
}

uint32_t engine_session_tokens(const struct engine_session *s)
{
	return s->n_tokens;
}

uint32_t engine_session_blocks(const struct engine_session *s)
{
	return (s->n_tokens + 15) / 16;
}

static void end(struct engine *e, struct engine_request *r, int status)
{
	r->status = status;
	r->started_ns = r->ended_ns = 1;
	r->session->n_queued--;
	shm_count(&e->n_queued, (uint64_t)-1);
	put(&e->done, r);
}

/* Ends all queued requests, or those of one session. */
static void end_all(struct engine *e, const struct engine_session *of, int status)
{
	struct queue kept = {NULL, &kept.first};
	struct engine_request *r;

	while ((r = take(&e->queued)) != NULL) {
		if (of == NULL || r->session == of)
			end(e, r, status);
		else
			put(&kept, r);
	}
	while ((r = take(&kept)) != NULL)
		put(&e->queued, r);
}

void engine_session_close(struct engine_session *s)
{
	end_all(s->engine, s, -ECANCELED);
	s->client->used_blocks--;
	s->client = NULL;
	shm_count(&s->engine->n_open, (uint64_t)-1);
}

int engine_submit(struct engine *e, struct engine_request *r)
{
	if (shm_load_relaxed(&e->failed) != 0)
		return -GPUQ_EDEVICE;
	if (r->session->n_queued == ENGINE_MAX_QUEUED)
		return -GPUQ_ELIMIT;
	r->session->n_queued++;
	shm_count(&e->n_queued, 1);
	put(&e->queued, r);
	return 0;
}

bool engine_cancel(struct engine *e, struct engine_request *r)
{
	if (r == e->queued.first)
		return false;
	for (struct engine_request **p = &e->queued.first; *p != NULL; p = &(*p)->next) {
		if (*p != r)
			continue;
		*p = r->next;
		if (r->next == NULL)
			e->queued.end = p;
		end(e, r, -ECANCELED);
		return true;
	}
	return false;
}

/* Tells what it was given: lse is how long the text was, the candidates are its first token. */
static int answer_step(struct engine_request *r)
{
	int32_t first;

	memcpy(&first, r->tokens, sizeof(first));
	if (first < 0)
		return -GPUQ_ETOKEN;
	for (uint32_t i = 0; i < r->rows; i++) {
		uint8_t *at = (uint8_t *)r->out + i * wire_row_bytes(r->top_k, r->n_ids);
		const struct wire_row row = {
			.lse = (float)r->session->n_tokens, .n_candidates = r->top_k};
		memcpy(at, &row, sizeof(row));
		for (uint32_t k = 0; k < r->top_k; k++)
			memcpy(at + sizeof(row) + 4ull * k, &first, sizeof(first));
		if (r->device_logits != NULL)
			((float *)r->device_logits)[i * VOCAB] = r->temperature;
	}
	r->session->n_tokens += r->n_tokens;
	return 0;
}

static int answer(struct engine_request *r)
{
	if (r->kind == ENGINE_STEP)
		return answer_step(r);
	for (uint32_t i = 0; i < r->n_generate; i++)
		((int32_t *)r->out)[i] = (int32_t)(r->seed + i);
	r->n_made = r->n_generate - r->stop;
	return 0;
}

bool engine_poll(struct engine *e)
{
	struct engine_request *r;
	bool any = false;

	while (shm_load_acquire(&e->hold) == 0 && (r = take(&e->queued)) != NULL) {
		end(e, r, answer(r));
		any = true;
	}
	return any;
}

struct engine_request *engine_take_done(struct engine *e)
{
	return take(&e->done);
}

uint64_t engine_due_ns(const struct engine *e)
{
	return UINT64_MAX;
}

uint64_t engine_oldest_ns(const struct engine *e)
{
	return UINT64_MAX;
}

uint64_t engine_wake_ns(const struct engine *e)
{
	return UINT64_MAX;
}

void engine_fail(struct engine *e)
{
	shm_store_relaxed(&e->failed, 1);
}

int engine_precapture_init(const struct engine *e, const struct engine_shape *shape,
	struct op_call *ret_call, struct graph_work *ret_work, uint32_t *ret_bad)
{
	const struct tensor x = {.dtype = GPUQ_F32, .rank = 1, .dims = {shape->context}};

	*ret_bad = 5;
	if (shape->context == 0)
		return -GPUQ_EPARAM;
	*ret_call = (struct op_call){.op = pipeline_op(e->pipeline), .in = {x}, .out = {x}};
	*ret_work = (struct graph_work){.call = ret_call, .pipeline = e->pipeline};
	return 0;
}

void engine_warm(
	struct engine *e, const struct engine_shape *shapes, uint32_t n, uint64_t deadline_ns)
{
	assert_int_equal(shapes[0].context, 64);
	assert_true(deadline_ns > clock_monotonic_ns());
	shm_store_release(&e->warming, n);
}

bool engine_warming(const struct engine *e)
{
	return shm_load_acquire(&e->warming) != 0;
}

void engine_warm_end(struct engine *e)
{
	shm_store_release(&e->warming, 0);
}

void engine_stats(const struct engine *e, struct engine_stats *ret_stats)
{
	*ret_stats = (struct engine_stats){.kv = {.blocks = 7}};
}
