/* SPDX-License-Identifier: MIT */
/*
 * model.c: language models: questions and administration over the socket, sessions and their
 * steps through the channel. A step's argument block and the memory that it names are laid out
 * once; what a submission changes is written in place, while nothing of the call is in flight.
 */
#include "client/client.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct gpuq_session {
	struct gpuq_channel *channel;
	uint32_t handle;
	uint32_t vocab;
	struct gpuq_session *next, **link; /* in channel->sessions */
};

/* What a step or a generation has besides what every call has. */
struct model_call {
	bool generates;
	uint32_t vocab;
	uint32_t max_tokens, max_rows, max_ids, max_generate;
	union {
		struct wire_step *step;
		struct wire_generate *generate;
	}; /* the argument block, in the arena */
	int32_t *tokens, *ids;
	uint8_t *out;
	float *logits; /* NULL: not wanted */
	void *memory;  /* from gpuq_alloc(): all of these */
};

/* --- Names of arguments, for gpuq_explain() ------------------------------------------------ */

static const struct gpuq_op_info step_info = {
	.n_inputs = 2,
	.n_outputs = 2,
	.n_params = 6,
	.name = "step",
	.inputs = {{.name = "tokens"}, {.name = "ids"}},
	.outputs = {{.name = "out"}, {.name = "logits"}},
	.params = {{.name = "n_tokens"}, {.name = "rows"}, {.name = "top_k"}, {.name = "n_ids"},
		{.name = "temperature"}, {.name = "flags"}},
};

static const struct gpuq_op_info generate_info = {
	.n_inputs = 1,
	.n_outputs = 1,
	.n_params = 4,
	.name = "generate",
	.inputs = {{.name = "tokens"}},
	.outputs = {{.name = "out"}},
	.params = {{.name = "n_tokens"}, {.name = "n_generate"}, {.name = "temperature"},
		{.name = "flags"}},
};

static const struct gpuq_op_info capture_info = {
	.n_params = 6,
	.name = "capture",
	.params = {{.name = "kind"}, {.name = "tokens"}, {.name = "batch"}, {.name = "rows"},
		{.name = "ids"}, {.name = "context"}},
};

/* --- Models -------------------------------------------------------------------------------- */

static void read_model(struct gpuq_model_info *info, const struct msg_model *m)
{
	_Static_assert(sizeof(info->batches) == sizeof(m->batches), "all are copied");
	_Static_assert(sizeof(info->eos) == sizeof(m->eos), "all are copied");
	const uint32_t most_eos = sizeof(m->eos) / sizeof(m->eos[0]);

	*info = (struct gpuq_model_info){
		.index = m->index,
		.state = m->state,
		.status = m->status,
		.int8 = m->int8 != 0,
		.deterministic = m->deterministic != 0,
		.vocab = m->vocab,
		.hidden = m->hidden,
		.layers = m->layers,
		.heads = m->heads,
		.kv_heads = m->kv_heads,
		.head_dim = m->head_dim,
		.max_tokens = m->max_tokens,
		.n_eos = m->n_eos < most_eos ? m->n_eos : most_eos,
		.sessions = m->sessions,
		.max_sessions = m->max_sessions,
		.kv_blocks = m->kv_blocks,
		.kv_free_blocks = m->kv_free_blocks,
		.kv_cached_blocks = m->kv_cached_blocks,
		.bucket_tokens = m->bucket_tokens,
		.shapes = m->shapes,
		.shapes_captured = m->shapes_captured,
		.shapes_wished = m->shapes_wished,
		.bytes = m->bytes,
		.weight_bytes = m->weight_bytes,
		.cache_bytes = m->cache_bytes,
		.loaded_bytes = m->loaded_bytes,
		.total_bytes = m->total_bytes,
		.prompt_tokens = m->prompt_tokens,
		.computed_tokens = m->computed_tokens,
		.shared_tokens = m->shared_tokens,
		.generated_tokens = m->generated_tokens,
		.steps = m->steps,
		.rows = m->rows,
		.evictions = m->evictions,
		.preemptions = m->preemptions,
		.decode_p50_ns = m->decode_p50_ns,
		.decode_p99_ns = m->decode_p99_ns,
		.chunk_p50_ns = m->chunk_p50_ns,
		.chunk_p99_ns = m->chunk_p99_ns,
		.captured_batches = m->captured_batches,
	};
	memcpy(info->batches, m->batches, sizeof(info->batches));
	memcpy(info->eos, m->eos, sizeof(info->eos));
	discovery_copy_text(info->name, m->name, sizeof(info->name));
	discovery_copy_text(info->architecture, m->architecture, sizeof(info->architecture));
	discovery_copy_text(info->dir, m->dir, sizeof(info->dir));
	discovery_copy_text(info->why, m->why, sizeof(info->why));
}

/* By name, or by number when that is NULL. The answer's handle is 0 when there is none. */
static int ask(struct gpuq *g, const char *name, uint32_t index, struct session_message *ret_answer)
{
	struct msg_model_query query = {
		.h = {.type = MSG_MODEL_QUERY, .bytes = sizeof(query)},
		.index = index,
	};
	const uint16_t bytes =
		g->welcome.abi >= 4 ? sizeof(struct msg_model) : MSG_MODEL_BYTES_ABI3;
	const struct session_answer want = {MSG_MODEL, bytes, 0};
	int r = session_check(g);

	if (r == 0)
		r = session_need_abi3(g, "language models");
	if (r == 0 && name != NULL && (name[0] == '\0' || strlen(name) >= sizeof(query.name)))
		r = fail(-GPUQ_EMODEL, "\"%s\" cannot be a model's name", name);
	if (r < 0)
		return r;
	snprintf(query.name, sizeof(query.name), "%s", name != NULL ? name : "");
	return session_request(g, &query.h, want, ret_answer);
}

int gpuq_model_info(struct gpuq *g, uint32_t index, struct gpuq_model_info *ret_info)
{
	struct session_message answer;
	int r = ask(g, NULL, index, &answer);

	if (r < 0)
		return r;
	if (answer.model.handle == 0)
		return fail(-ENOENT, "gpuqd has %u models and none with number %u",
			answer.model.count, index);
	read_model(ret_info, &answer.model);
	return 0;
}

static int no_model(const char *name)
{
	return fail(-GPUQ_EMODEL,
		"gpuqd has no model \"%s\"; `gpuq models` lists them, and an administrator loads "
		"one with `gpuq load`",
		name);
}

int gpuq_model_find(struct gpuq *g, const char *name, struct gpuq_model_info *ret_info)
{
	struct session_message answer;
	int r = ask(g, name, 0, &answer);

	if (r < 0)
		return r;
	if (answer.model.handle == 0)
		return no_model(name);
	read_model(ret_info, &answer.model);
	return 0;
}

int gpuq_admin_load(struct gpuq *g, const struct gpuq_load_options *o)
{
	struct msg_admin_load m = {
		.h = {.type = MSG_ADMIN_LOAD, .bytes = sizeof(m)},
		.int8 = o->int8,
		.deterministic = o->deterministic,
	};

	if (o->name == NULL || strlen(o->name) >= sizeof(m.name))
		return fail(-EINVAL, "a model's name has at most %u bytes",
			(unsigned int)sizeof(m.name) - 1);
	if (o->dir == NULL)
		return fail_plain(-EINVAL, "no folder was given");
	snprintf(m.name, sizeof(m.name), "%s", o->name);
	int fd = open(o->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return fail(-errno, "%s: %s", o->dir, strerror(errno));
	int r = session_administrate(g, &m.h, fd, "language models");
	close(fd);
	return r;
}

int gpuq_admin_unload(struct gpuq *g, const char *name, bool force)
{
	struct msg_admin_unload m = {
		.h = {.type = MSG_ADMIN_UNLOAD, .bytes = sizeof(m)},
		.force = force,
	};

	if (strlen(name) >= sizeof(m.name))
		return no_model(name);
	snprintf(m.name, sizeof(m.name), "%s", name);
	return session_administrate(g, &m.h, -1, "language models");
}

/* --- Sessions ------------------------------------------------------------------------------ */

static void link_session(struct gpuq_session *s)
{
	struct gpuq_channel *ch = s->channel;

	s->next = ch->sessions;
	s->link = &ch->sessions;
	if (s->next != NULL)
		s->next->link = &s->next;
	ch->sessions = s;
}

void sessions_lose(struct gpuq_channel *ch)
{
	for (struct gpuq_session *s = ch->sessions; s != NULL; s = s->next)
		s->handle = STALE_HANDLE;
}

void sessions_free(struct gpuq_channel *ch)
{
	while (ch->sessions != NULL) {
		struct gpuq_session *s = ch->sessions;
		ch->sessions = s->next;
		free(s);
	}
}

/* First word of the submission entry. */
static uint64_t head_word(uint16_t opcode, uint32_t session)
{
	return opcode | (uint64_t)session << 32;
}

/*
 * The call that acts on sessions. The channel has one from the first session on, so that none is
 * left open for want of arena memory to close it with.
 */
static int prepare_order(
	struct gpuq_channel *ch, uint32_t session, const struct wire_session *order)
{
	int r = 0;

	if (ch->order == NULL)
		r = call_new(ch, WIRE_OP_SESSION, order, sizeof(*order), NULL, &ch->order);
	if (r < 0)
		return r;
	memcpy(ch->arena_base + (uint32_t)ch->order->args, order, sizeof(*order));
	ch->order->opcode = head_word(WIRE_OP_SESSION, session);
	return 0;
}

/* Why gpuqd would not. */
static int refused(const struct wire_session *order, int status)
{
	if (status == -GPUQ_ELIMIT)
		return fail(status,
			"no more sessions: max_sessions_per_client, max_sessions_per_user or "
			"max_sessions of gpuqd is reached; close some, or raise it");
	if (status == -EBUSY)
		return fail(
			status, "the session has requests under way; wait for their completions");
	if (status == -EINVAL && order->action == WIRE_SESSION_TRUNCATE)
		return fail(status, "the session's text has fewer than %u tokens", order->tokens);
	return fail_plain(status, gpuq_strerror(status));
}

/* Does it, and waits. Returns the completion's status, or an error. */
static int act(struct gpuq_channel *ch, uint32_t session, const struct wire_session *order)
{
	struct gpuq_submission s = {0};
	struct gpuq_completion c;

	if (!channel_owned(ch))
		return channel_refuse(ch);
	int r = session_need_abi3(ch->gpuq, "sessions");
	if (r == 0)
		r = prepare_order(ch, session, order);
	if (r == 0)
		r = call_room(ch);
	if (r < 0)
		return r;
	s.call = ch->order;
	r = gpuq_submit(ch, &s, 1);
	if (r > 0)
		r = call_wait(ch, s.call, &c);
	if (r < 0)
		return r;
	return c.status < 0 ? refused(order, c.status) : c.status;
}

/* Makes the session that gpuqd is asked for. */
static int make_session(struct gpuq_channel *ch, uint32_t from, const struct wire_session *order,
	uint32_t vocab, struct gpuq_session **ret_session)
{
	struct gpuq_session *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return fail_plain(-ENOMEM, "no memory for a session");
	int r = act(ch, from, order);
	if (r <= 0) {
		free(s);
		return r < 0 ? r : fail_plain(-GPUQ_EPROTO, "gpuqd sent no session's handle");
	}
	s->channel = ch;
	s->handle = (uint32_t)r;
	s->vocab = vocab;
	link_session(s);
	*ret_session = s;
	return 0;
}

/* Why a model that is known takes no sessions. */
static int not_ready(const struct msg_model *m)
{
	char name[GPUQ_NAME_MAX], why[sizeof(m->why)];

	discovery_copy_text(name, m->name, sizeof(name));
	discovery_copy_text(why, m->why, sizeof(why));
	if (m->state == MSG_MODEL_FAILED)
		return fail(-GPUQ_EMODEL, "model %s could not be loaded: %s", name, why);
	if (m->state == MSG_MODEL_UNLOADING)
		return fail(-GPUQ_EMODEL, "model %s is being unloaded", name);
	return fail(-GPUQ_EMODEL, "model %s is loading: %llu of %llu bytes are there; try again",
		name, (unsigned long long)m->loaded_bytes, (unsigned long long)m->total_bytes);
}

/* The model that the channel's thread wants to use. */
static int find_ready(
	const struct gpuq_channel *ch, const char *model, struct session_message *ret_answer)
{
	if (!channel_owned(ch))
		return channel_refuse(ch);
	int r = ask(ch->gpuq, model, 0, ret_answer);
	if (r < 0)
		return r;
	if (ret_answer->model.handle == 0)
		return no_model(model);
	return ret_answer->model.state == MSG_MODEL_READY ? 0 : not_ready(&ret_answer->model);
}

int gpuq_capture_create(struct gpuq_channel *ch, const char *model,
	const struct gpuq_model_shape *shape, struct gpuq_call **ret_call)
{
	struct session_message answer;
	int r = session_need_abi(ch->gpuq, 4, "captures of a model's steps");

	if (r == 0)
		r = find_ready(ch, model, &answer);
	if (r < 0)
		return r;
	const struct wire_shape block = {
		.model = answer.model.handle,
		.kind = shape->kind != 0 ? shape->kind : WIRE_SHAPE_CANDIDATES,
		.tokens = shape->tokens != 0 ? shape->tokens : shape->batch,
		.batch = shape->batch,
		.rows = shape->rows != 0 ? shape->rows : shape->batch,
		.ids = shape->ids,
		.context = shape->context,
	};
	return call_new(ch, WIRE_OP_SHAPE, &block, sizeof(block), &capture_info, ret_call);
}

int gpuq_session_open(struct gpuq_channel *ch, const char *model, struct gpuq_session **ret_session)
{
	struct session_message answer;
	int r = find_ready(ch, model, &answer);

	if (r < 0)
		return r;
	const struct wire_session order = {
		.action = WIRE_SESSION_OPEN, .model = answer.model.handle};
	return make_session(ch, 0, &order, answer.model.vocab, ret_session);
}

int gpuq_session_fork(struct gpuq_session *s, struct gpuq_session **ret_session)
{
	const struct wire_session order = {.action = WIRE_SESSION_FORK};

	return make_session(s->channel, s->handle, &order, s->vocab, ret_session);
}

int gpuq_session_truncate(struct gpuq_session *s, uint32_t tokens)
{
	const struct wire_session order = {.action = WIRE_SESSION_TRUNCATE, .tokens = tokens};

	return act(s->channel, s->handle, &order);
}

void gpuq_session_close(struct gpuq_session *s)
{
	const struct wire_session order = {.action = WIRE_SESSION_CLOSE};

	if (s == NULL)
		return;
	/* Fails when gpuqd or the session has ended, and then there is nothing to tell. */
	(void)act(s->channel, s->handle, &order);
	if (!channel_owned(s->channel))
		return;
	*s->link = s->next;
	if (s->next != NULL)
		s->next->link = s->link;
	free(s);
}

/* --- Calls --------------------------------------------------------------------------------- */

static uint64_t offset_of(const struct gpuq_channel *ch, const void *data)
{
	return (uint64_t)((const uint8_t *)data - ch->arena_base);
}

/* A call with its argument block, and `bytes` bytes of the arena. Filled in by the caller. */
static int create(struct gpuq_session *session, uint16_t opcode, size_t block_bytes, uint64_t bytes,
	const struct gpuq_op_info *info, struct gpuq_call **ret_call)
{
	static const uint64_t zeros[sizeof(struct wire_step) / sizeof(uint64_t)];
	struct gpuq_channel *ch = session->channel;
	struct model_call *m;
	struct gpuq_call *call;
	void *memory;

	if (!channel_owned(ch))
		return channel_refuse(ch);
	int r = gpuq_alloc(ch, bytes, &memory);
	if (r < 0)
		return r;
	m = calloc(1, sizeof(*m));
	r = m == NULL ? fail_plain(-ENOMEM, "no memory for a call")
		      : call_new(ch, opcode, zeros, block_bytes, info, &call);
	if (r < 0) {
		free(m);
		(void)gpuq_free(ch, memory);
		return r;
	}
	memset(memory, 0, bytes);
	m->memory = memory;
	m->vocab = session->vocab;
	m->step = (struct wire_step *)(ch->arena_base + (uint32_t)call->args);
	call->opcode = head_word(opcode, session->handle);
	call->model = m;
	*ret_call = call;
	return 0;
}

void model_call_free(struct gpuq_call *call)
{
	if (call->model == NULL)
		return;
	(void)arena_free(
		call->channel->arena, (uint32_t)offset_of(call->channel, call->model->memory));
	free(call->model);
}

/* The call is one of this kind, and may be changed now. */
static int check(const struct gpuq_call *call, bool generates)
{
	if (call->model == NULL || call->model->generates != generates)
		return fail(-EINVAL, "the call is not one of gpuq_%s_create()",
			generates ? "generate" : "step");
	if (!channel_owned(call->channel))
		return channel_refuse(call->channel);
	if (call->references > 1)
		return fail_plain(-EBUSY, "the call is in flight; wait for its completion");
	return 0;
}

static int too_many(const char *what, uint32_t n, uint32_t max)
{
	return fail(-EINVAL, "%u %s; the call was created for at most %u", n, what, max);
}

static uint64_t round8(uint64_t bytes)
{
	return (bytes + 7) & ~7ull;
}

int gpuq_step_create(struct gpuq_session *session, const struct gpuq_step_options *o,
	struct gpuq_call **ret_call)
{
	const uint64_t token_bytes = round8(4ull * o->max_tokens),
		       id_bytes = round8(4ull * o->max_ids);
	const uint64_t out_bytes = o->max_rows * wire_row_bytes(o->top_k, o->max_ids);
	const uint64_t logit_bytes = o->logits ? 4ull * o->max_rows * session->vocab : 0;
	struct gpuq_call *call;

	if (o->max_tokens == 0 || o->max_rows > o->max_tokens ||
		o->top_k > WIRE_STEP_MAX_CANDIDATES || o->max_ids > WIRE_STEP_MAX_IDS ||
		(o->logits && (o->top_k != 0 || o->max_ids != 0)))
		return fail(-EINVAL,
			"%u tokens, %u rows, %u candidates, %u ids%s: at least 1 token, no more "
			"rows than tokens, at most %u candidates and %u ids, and none of either "
			"with all logits",
			o->max_tokens, o->max_rows, o->top_k, o->max_ids,
			o->logits ? " and all logits" : "", WIRE_STEP_MAX_CANDIDATES,
			WIRE_STEP_MAX_IDS);
	int r = create(session, WIRE_OP_STEP, sizeof(struct wire_step),
		token_bytes + id_bytes + out_bytes + logit_bytes, &step_info, &call);
	if (r < 0)
		return r;
	struct model_call *m = call->model;
	m->max_tokens = o->max_tokens;
	m->max_rows = o->max_rows;
	m->max_ids = o->max_ids;
	m->tokens = m->memory;
	m->ids = (int32_t *)((uint8_t *)m->tokens + token_bytes);
	m->out = (uint8_t *)m->ids + id_bytes;
	m->logits = o->logits ? (float *)(m->out + out_bytes) : NULL;
	*m->step = (struct wire_step){
		.top_k = o->top_k,
		.tokens_offset = offset_of(session->channel, m->tokens),
		.ids_offset = offset_of(session->channel, m->ids),
		.out_offset = offset_of(session->channel, m->out),
		.logits_offset = o->logits ? offset_of(session->channel, m->logits) : WIRE_NOWHERE,
		.temperature = 1,
	};
	*ret_call = call;
	return 0;
}

int gpuq_step_set(struct gpuq_call *call, const int32_t *tokens, uint32_t n, uint32_t rows)
{
	int r = check(call, false);

	if (r < 0)
		return r;
	struct model_call *m = call->model;
	if (n > m->max_tokens)
		return too_many("tokens", n, m->max_tokens);
	if (rows > m->max_rows)
		return too_many("rows", rows, m->max_rows);
	if (n > 0)
		memcpy(m->tokens, tokens, n * sizeof(*tokens));
	m->step->n_tokens = n;
	m->step->rows = rows;
	return 0;
}

int gpuq_step_set_ids(struct gpuq_call *call, const int32_t *ids, uint32_t n)
{
	int r = check(call, false);

	if (r < 0)
		return r;
	struct model_call *m = call->model;
	if (n > m->max_ids)
		return too_many("ids", n, m->max_ids);
	/* None may be NULL. */
	if (n > 0)
		memcpy(m->ids, ids, n * sizeof(*ids));
	m->step->n_ids = n;
	return 0;
}

int gpuq_step_set_temperature(struct gpuq_call *call, float temperature)
{
	int r = check(call, false);

	if (r == 0)
		call->model->step->temperature = temperature;
	return r;
}

int gpuq_step_row(const struct gpuq_call *call, uint32_t row, struct gpuq_row *ret_row)
{
	const struct model_call *m = call->model;

	if (m == NULL || m->generates || row >= m->step->rows)
		return fail(-EINVAL, "the call has no row %u", row);
	const uint32_t top_k = m->step->top_k, n_ids = m->step->n_ids;
	const struct wire_row *head =
		(const struct wire_row *)(m->out + row * wire_row_bytes(top_k, n_ids));
	const int32_t *tokens = (const int32_t *)(head + 1);
	const float *values = (const float *)(tokens + top_k);

	*ret_row = (struct gpuq_row){
		.lse = head->lse,
		.entropy = head->entropy,
		.n_candidates = head->n_candidates < top_k ? head->n_candidates : top_k,
		.tokens = tokens,
		.values = values,
		.named = values + top_k,
		.logits = m->logits != NULL ? m->logits + (uint64_t)row * m->vocab : NULL,
	};
	return 0;
}

int gpuq_generate_create(struct gpuq_session *session, const struct gpuq_generate_options *o,
	struct gpuq_call **ret_call)
{
	const uint64_t token_bytes = round8(4ull * o->max_tokens);
	struct gpuq_call *call;

	if (o->max_tokens == 0 || o->max_generate == 0)
		return fail_plain(-EINVAL, "max_tokens and max_generate must be at least 1");
	int r = create(session, WIRE_OP_GENERATE, sizeof(struct wire_generate),
		token_bytes + 8ull * o->max_generate, &generate_info, &call);
	if (r < 0)
		return r;
	struct model_call *m = call->model;
	m->generates = true;
	m->max_tokens = o->max_tokens;
	m->max_generate = o->max_generate;
	m->tokens = m->memory;
	m->out = (uint8_t *)m->tokens + token_bytes;
	*m->generate = (struct wire_generate){
		.tokens_offset = offset_of(session->channel, m->tokens),
		.out_offset = offset_of(session->channel, m->out),
		.temperature = o->temperature,
		.flags = o->stop ? WIRE_GENERATE_STOP : 0,
	};
	*ret_call = call;
	return 0;
}

int gpuq_generate_set(struct gpuq_call *call, const int32_t *tokens, uint32_t n,
	uint32_t n_generate, uint64_t seed)
{
	int r = check(call, true);

	if (r < 0)
		return r;
	struct model_call *m = call->model;
	if (n > m->max_tokens)
		return too_many("tokens", n, m->max_tokens);
	if (n_generate > m->max_generate)
		return too_many("tokens to make", n_generate, m->max_generate);
	if (n > 0)
		memcpy(m->tokens, tokens, n * sizeof(*tokens));
	m->generate->n_tokens = n;
	m->generate->n_generate = n_generate;
	m->generate->seed = seed;
	return 0;
}

int gpuq_generate_result(
	const struct gpuq_call *call, const int32_t **ret_tokens, const float **ret_logprobs)
{
	const struct model_call *m = call->model;

	if (m == NULL || !m->generates)
		return fail_plain(-EINVAL, "the call is not one of gpuq_generate_create()");
	*ret_tokens = (const int32_t *)m->out;
	*ret_logprobs = (const float *)m->out + m->generate->n_generate;
	return 0;
}
