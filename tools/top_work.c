/* SPDX-License-Identifier: MIT */
/* Rows of what gpuqd works at: operators, pipelines, graphs, models, sessions; and of errors. */
#include "tools/top_impl.h"

#include "client/gpuq.h"
#include "shm/proto.h"
#include "tools/step_shape.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* The same record in the snapshot before, or NULL. */
#define BEFORE(u, table, i)    \
	((u)->before == NULL   \
			? NULL \
			: top_row_of(&(u)->before->table, (u)->now->table.records[i], sizeof(*b)))

/* --- Language models ----------------------------------------------------------------------- */

static void llm_state(struct top_llm *row, const struct stats_model *m)
{
	switch (m->state) {
	case MSG_MODEL_LOADING:
		return top_set_state(row->state, &row->mark, "loading", TOP_WARN);
	case MSG_MODEL_READY:
		return top_set_state(row->state, &row->mark, "ready", TOP_PLAIN);
	case MSG_MODEL_FAILED:
		return top_set_state(row->state, &row->mark, "failed", TOP_BAD);
	default:
		return top_set_state(row->state, &row->mark, "unloading", TOP_WARN);
	}
}

static double kv_percent(const struct stats_model *m)
{
	const double idle = (double)m->kv_free_blocks + (double)m->kv_cached_blocks;

	return m->kv_blocks > 0 ? 100 * (1 - idle / (double)m->kv_blocks) : NAN;
}

void top_make_llm(const struct top_update *u, uint32_t i, struct top_llm *row)
{
	const struct stats_model *m = (const struct stats_model *)u->now->models.rows + i;
	const struct stats_model *b = BEFORE(u, models, i);

	if (b != NULL && b->handle != m->handle)
		b = NULL;
	*row = (struct top_llm){
		.sessions = m->sessions,
		.max_sessions = m->max_sessions,
		.bytes = m->bytes,
		.loaded_bytes = m->loaded_bytes,
		.total_bytes = m->total_bytes,
		.max_tokens = m->max_tokens,
		.kv_blocks = m->kv_blocks,
		.kv_free_blocks = m->kv_free_blocks,
		.kv_cached_blocks = m->kv_cached_blocks,
		.prompt_tokens = m->prompt_tokens,
		.computed_tokens = m->computed_tokens,
		.shared_tokens = m->shared_tokens,
		.generated_tokens = m->generated_tokens,
		.steps = m->steps,
		.rows = m->rows,
		.evictions = m->evictions,
		.preemptions = m->preemptions,
		.token_rate =
			top_rate(u, m->computed_tokens, b == NULL ? NULL : &b->computed_tokens),
		.step_rate = top_rate(u, m->steps, b == NULL ? NULL : &b->steps),
		.kv_percent = kv_percent(m),
		.first_token = top_latency_gain(
			m->first_token_hist, b == NULL ? NULL : b->first_token_hist),
		.gap = top_latency_gain(m->gap_hist, b == NULL ? NULL : b->gap_hist),
		.decode = top_latency_gain(m->decode_hist, b == NULL ? NULL : b->decode_hist),
		.chunk = top_latency_gain(m->chunk_hist, b == NULL ? NULL : b->chunk_hist),
	};
	llm_state(row, m);
	TAKE_TEXT(row->name, m->name);
	TAKE_TEXT(row->architecture, m->architecture);
}

/* --- Operators ----------------------------------------------------------------------------- */

void top_make_op(const struct top_update *u, uint32_t i, struct top_op *row)
{
	const struct stats_op *o = (const struct stats_op *)u->now->ops.rows + i;
	const struct stats_op *b = BEFORE(u, ops, i);

	*row = (struct top_op){
		.calls = o->calls,
		.failed = o->failed,
		.rate = top_rate(u, o->calls, b == NULL ? NULL : &b->calls),
		.execute = top_latency_gain(o->execute_hist, b == NULL ? NULL : b->execute_hist),
	};
	TAKE_TEXT(row->name, o->name);
}

/* --- Sessions ------------------------------------------------------------------------------ */

static const struct stats_model *model_of(const struct snapshot *s, uint32_t handle)
{
	const struct stats_model *m = s->models.rows;

	for (uint32_t i = 0; i < s->models.n; i++) {
		if (m[i].handle == handle)
			return &m[i];
	}
	return NULL;
}

void top_make_session(const struct top_update *u, uint32_t i, struct top_session *row)
{
	const struct stats_session *s = (const struct stats_session *)u->now->sessions.rows + i;
	const struct stats_session *b = BEFORE(u, sessions, i);
	const struct stats_client *client = top_client_of(u->now, s->client, s->client_generation);
	const struct stats_model *model = model_of(u->now, s->model);

	if (b != NULL && b->handle != s->handle)
		b = NULL;
	*row = (struct top_session){
		.pid = client == NULL ? TOP_UNKNOWN : client->pid,
		.channel = s->channel,
		.tokens = s->tokens,
		.kv_blocks = s->kv_blocks,
		.prompt_tokens = s->prompt_tokens,
		.answers = s->answers,
		.failed = s->failed,
		.first_token_ns = s->first_token_ns == 0 ? TOP_UNKNOWN : s->first_token_ns,
		.gap_ns = s->gap_ns == 0 ? TOP_UNKNOWN : s->gap_ns,
		.longest_ns = s->longest_ns == 0 ? TOP_UNKNOWN : s->longest_ns,
		.age_ns = top_age(u, s->opened_ns),
		.idle_ns = top_age(u, s->last_ns),
		.token_rate = top_rate(u, s->answers, b == NULL ? NULL : &b->answers),
	};
	snprintf(row->id, sizeof(row->id), "%x", s->handle);
	row->mark = row->token_rate > 0 ? TOP_GOOD : TOP_PLAIN;
	if (model != NULL)
		TAKE_TEXT(row->model, model->name);
	if (client != NULL) {
		TAKE_TEXT(row->name, client->name);
		top_user_name(client->uid, row->user, sizeof(row->user));
	}
}

/* --- Pipelines ----------------------------------------------------------------------------- */

void top_make_pipeline(const struct top_update *u, uint32_t i, struct top_pipeline *row)
{
	const struct stats_pipeline *p = (const struct stats_pipeline *)u->now->pipelines.rows + i;
	const struct stats_pipeline *b = BEFORE(u, pipelines, i);
	const struct stats_client *client = top_client_of(u->now, p->client, p->client_generation);

	if (b != NULL && b->handle != p->handle)
		b = NULL;
	*row = (struct top_pipeline){
		.handle = p->handle,
		.pid = client == NULL ? TOP_UNKNOWN : client->pid,
		.steps = p->steps,
		.calls = p->calls,
		.failed = p->failed,
		.rate = top_rate(u, p->calls, b == NULL ? NULL : &b->calls),
		.execute = top_latency_gain(p->execute_hist, b == NULL ? NULL : b->execute_hist),
	};
	TAKE_TEXT(row->name, p->name);
	if (client != NULL)
		TAKE_TEXT(row->client, client->name);
}

/* --- Graphs -------------------------------------------------------------------------------- */

static void graph_state(struct top_graph *row, uint32_t state)
{
	switch (state) {
	case MSG_GRAPH_COLD:
		return top_set_state(row->state, &row->mark, "cold", TOP_DIM);
	case MSG_GRAPH_QUEUED:
		return top_set_state(row->state, &row->mark, "queued", TOP_PLAIN);
	case MSG_GRAPH_CAPTURING:
		return top_set_state(row->state, &row->mark, "capturing", TOP_WARN);
	case MSG_GRAPH_CAPTURED:
		return top_set_state(row->state, &row->mark, "captured", TOP_GOOD);
	case MSG_GRAPH_DIRECT:
		return top_set_state(row->state, &row->mark, "direct", TOP_PLAIN);
	case MSG_GRAPH_FAILED:
		return top_set_state(row->state, &row->mark, "failed", TOP_BAD);
	default:
		return top_set_state(row->state, &row->mark, "?", TOP_BAD);
	}
}

void top_make_graph(const struct top_update *u, uint32_t i, struct top_graph *row)
{
	const struct stats_graph *g = (const struct stats_graph *)u->now->graphs.rows + i;
	const struct stats_graph *b = BEFORE(u, graphs, i);
	const bool captured = g->state == MSG_GRAPH_CAPTURED;

	if (b != NULL && b->id != g->id)
		b = NULL;
	*row = (struct top_graph){
		.id = g->id,
		.device = g->device,
		.kernels = g->kernels,
		.pinned = g->pinned,
		.uses = g->uses,
		.hits = g->hits,
		.bytes = captured ? g->bytes : TOP_UNKNOWN,
		.capture_ns = g->capture_ns == 0 ? TOP_UNKNOWN : g->capture_ns,
		.idle_ns = top_age(u, g->last_used_ns),
		.rate = top_rate(u, g->uses, b == NULL ? NULL : &b->uses),
		.hit_percent = g->uses == 0 ? NAN : 100 * (double)g->hits / (double)g->uses,
	};
	graph_state(row, g->state);
	TAKE_TEXT(row->definition, g->shape);
	if (!step_shape_text(row->definition, row->shape, sizeof(row->shape)))
		TAKE_TEXT(row->shape, g->shape);
	if (g->state == MSG_GRAPH_FAILED)
		TAKE_TEXT(row->reason, g->reason);
}

/* --- Errors -------------------------------------------------------------------------------- */

void top_make_error(const struct top_update *u, uint32_t i, struct top_error *row)
{
	const struct stats_error *e = (const struct stats_error *)u->now->errors.rows + i;
	const struct stats_error *b = BEFORE(u, errors, i);
	const char *name = gpuq_error_name(e->status), *sentence = gpuq_strerror(e->status);
	const bool control = u->now->errors.records[i] < STATS_ERRORS / 2;

	*row = (struct top_error){
		.count = e->count,
		.first_ns = top_age(u, e->first_ns),
		.last_ns = top_age(u, e->last_ns),
		.rate = top_rate(u, e->count, b == NULL ? NULL : &b->count),
	};
	row->mark = row->last_ns < TOP_RECENT_NS ? TOP_WARN : TOP_PLAIN;
	snprintf(row->source, sizeof(row->source), "%s", control ? "control" : "device");
	top_take_text(row->error, sizeof(row->error), name, strlen(name));
	TAKE_TEXT(row->subject, e->what);
	if (e->text[0] != '\0')
		TAKE_TEXT(row->text, e->text);
	else
		top_take_text(row->text, sizeof(row->text), sentence, strlen(sentence));
}
