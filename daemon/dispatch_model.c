/* SPDX-License-Identifier: MIT */
/*
 * dispatch_model.c: sessions of language models. What a client asks of one waits in its channel's
 * queue like everything else, so that it starts in order. Then it is done at once, or it is the
 * engine's of the session's model until that has ended it.
 *
 * A session is known by its handle to the channel that opened it, and to nobody else. When its
 * model is removed by force its record stays, without an engine's session, until the client closes
 * it or ends.
 */
#include "daemon/dispatch_impl.h"
#include "daemon/validate.h"

#include <stdlib.h>

#define GENERATIONS 0x7fffu
#define WARM_NS (60ull * 1000000000u) /* a model is ready then, whatever is captured */

int model_tables_create(struct dispatch *d)
{
	const struct dispatch_options *o = &d->o;

	TAILQ_INIT(&d->serving);
	TAILQ_INIT(&d->free_sessions);
	d->session_serial = ledger_sessions(o->ledger, o->max_channels, o->max_in_flight);
	d->stepping = calloc(o->max_in_flight, sizeof(struct slot *));
	if (d->stepping == NULL)
		return -ENOMEM;
	if (o->max_models == 0)
		return 0;
	d->models = calloc(o->max_models, sizeof(struct known_model *));
	d->sessions = calloc(o->max_sessions, sizeof(*d->sessions));
	d->client_sessions = calloc(o->max_clients, sizeof(*d->client_sessions));
	if (d->models == NULL || d->sessions == NULL || d->client_sessions == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < o->max_sessions; i++)
		TAILQ_INSERT_TAIL(&d->free_sessions, &d->sessions[i], link);
	return 0;
}

void model_tables_destroy(struct dispatch *d)
{
	free(d->client_sessions);
	free(d->sessions);
	free(d->models);
	free(d->stepping);
}

/* --- Sessions ------------------------------------------------------------------------------ */

static struct model_session *session_find(
	const struct dispatch *d, const struct channel *ch, uint32_t handle)
{
	uint32_t place = handle & 0xffffu;
	struct model_session *s =
		place < d->o.max_sessions && d->sessions != NULL ? &d->sessions[place] : NULL;

	return s != NULL && s->handle == handle && s->channel == ch ? s : NULL;
}

/* A session of this channel that has an engine's, or why not. */
static int session_get(const struct dispatch *d, const struct channel *ch, uint32_t handle,
	struct model_session **ret)
{
	struct model_session *s = session_find(d, ch, handle);

	if (s == NULL)
		return -GPUQ_ESESSION;
	if (s->model == NULL)
		return -GPUQ_EMODEL;
	*ret = s;
	return 0;
}

static uint32_t user_sessions(const struct dispatch *d, uint32_t uid)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < d->o.max_sessions; i++) {
		const struct channel *ch = d->sessions[i].channel;
		n += ch != NULL && ch->uid == uid;
	}
	return n;
}

/* Whether a client may have one more. */
static int session_room(const struct dispatch *d, const struct channel *ch)
{
	if (d->models == NULL)
		return -GPUQ_EMODEL;
	if (TAILQ_EMPTY(&d->free_sessions) ||
		d->client_sessions[ch->client] >= d->o.max_sessions_per_client ||
		user_sessions(d, ch->uid) >= d->o.max_sessions_per_user)
		return -GPUQ_ELIMIT;
	return 0;
}

/* Gives an engine's session a record; returns its handle. There is room. */
static int session_add(struct dispatch *d, struct channel *ch, struct known_model *model,
	struct engine_session *session)
{
	struct model_session *s = TAILQ_FIRST(&d->free_sessions);
	const uint64_t serial = shm_load_relaxed(d->session_serial) + 1;
	const uint32_t place = (uint32_t)(s - d->sessions);

	/* Kept in the ledger: what a dead process handed out comes back as late as all others. */
	shm_store_relaxed(d->session_serial, serial);
	TAILQ_REMOVE(&d->free_sessions, s, link);
	*s = (struct model_session){
		.handle = (uint32_t)(serial % GENERATIONS + 1) << 16 | place,
		.channel = ch,
		.model = model,
		.session = session,
	};
	ch->n_sessions++;
	d->client_sessions[ch->client]++;
	model->n_sessions++;
	model->changed = true;
	count_session_opened(d, s);
	return (int)s->handle;
}

static void session_detach(struct model_session *s)
{
	engine_session_close(s->session);
	s->session = NULL;
	s->model->n_sessions--;
	s->model->changed = true;
	s->model = NULL;
}

static void session_end(struct dispatch *d, struct model_session *s)
{
	count_session_closed(d, s);
	if (s->model != NULL)
		session_detach(s);
	s->channel->n_sessions--;
	d->client_sessions[s->channel->client]--;
	s->channel = NULL;
	TAILQ_INSERT_TAIL(&d->free_sessions, s, link);
}

void model_sessions_close(struct dispatch *d, struct channel *ch)
{
	for (uint32_t i = 0; i < d->o.max_sessions && ch->n_sessions > 0; i++) {
		if (d->sessions[i].channel == ch)
			session_end(d, &d->sessions[i]);
	}
}

static struct known_model *model_find(const struct dispatch *d, uint32_t handle)
{
	uint32_t place = model_place(handle);
	struct known_model *m =
		d->models != NULL && place < d->o.max_models ? d->models[place] : NULL;

	return m != NULL && m->handle == handle ? m : NULL;
}

static int session_open(struct dispatch *d, struct channel *ch, uint32_t handle)
{
	struct engine_session *session;
	int r = session_room(d, ch);

	if (r < 0)
		return r;
	struct known_model *m = model_find(d, handle);
	if (m == NULL)
		return -GPUQ_EMODEL;
	r = engine_session_open(m->engine, &m->accounts[ch->client], ch->uid, &session);
	if (r < 0)
		return r;
	engine_session_weigh(session, ch->weight);
	return session_add(d, ch, m, session);
}

static int session_fork(struct dispatch *d, struct channel *ch, uint32_t handle)
{
	struct engine_session *session;
	struct model_session *s;
	int r = session_get(d, ch, handle, &s);

	if (r == 0)
		r = session_room(d, ch);
	if (r == 0)
		r = engine_session_fork(s->session, &session);
	return r < 0 ? r : session_add(d, ch, s->model, session);
}

static int session_truncate(
	struct dispatch *d, struct channel *ch, uint32_t handle, uint32_t tokens)
{
	struct model_session *s;
	int r = session_get(d, ch, handle, &s);

	if (r < 0)
		return r;
	s->model->changed = true;
	return engine_session_truncate(s->session, tokens);
}

static int session_close(struct dispatch *d, struct channel *ch, uint32_t handle)
{
	struct model_session *s = session_find(d, ch, handle);

	if (s == NULL)
		return -GPUQ_ESESSION;
	session_end(d, s);
	return 0;
}

int model_session_act(struct dispatch *d, const struct slot *slot)
{
	const struct wire_session *order = &slot->order;
	struct channel *ch = slot->channel;

	switch (order->action) {
	case WIRE_SESSION_OPEN:
		return session_open(d, ch, order->model);
	case WIRE_SESSION_FORK:
		return session_fork(d, ch, slot->session);
	case WIRE_SESSION_TRUNCATE:
		return session_truncate(d, ch, slot->session, order->tokens);
	default:
		return session_close(d, ch, slot->session);
	}
}

/* --- Requests ------------------------------------------------------------------------------ */

/* Where full rows go: how long they are only the model tells. */
static int place_logits(struct slot *slot, const struct known_model *m)
{
	const struct channel *ch = slot->channel;
	const uint64_t at = slot->logits_offset;
	uint64_t row_bytes = (uint64_t)m->vocab * sizeof(float);

	if (at == WIRE_NOWHERE)
		return 0;
	if (at > ch->arena_bytes || slot->request.rows > (ch->arena_bytes - at) / row_bytes) {
		slot->work.blame = 1 + GPUQ_MAX_INPUTS + 1;
		return -GPUQ_EBOUNDS;
	}
	slot->request.device_logits = ch->device_arena + at;
	return 0;
}

int model_launch(struct dispatch *d, struct slot *slot)
{
	struct engine_request *q = &slot->request;
	struct model_session *s;
	int r = session_get(d, slot->channel, slot->session, &s);

	if (r == 0)
		r = place_logits(slot, s->model);
	if (r < 0)
		return r;
	q->session = s->session;
	q->priority = slot->channel->priority;
	q->deadline_ns = slot->deadline_ns;
	r = engine_submit(s->model->engine, q);
	/* It has enough to do; the other sessions of its channel wait, too: the order is kept. */
	if (r == -GPUQ_ELIMIT)
		return -EAGAIN;
	if (r < 0)
		return r;
	slot->model = s->model;
	slot->model->in_flight++;
	slot->value = 1;
	count_session_asked(d, s, slot);
	return 0;
}

static void tell_when_unused(struct dispatch *d, struct known_model *m)
{
	if (!m->removed || m->in_flight > 0)
		return;
	TAILQ_REMOVE(&d->serving, m, polled);
	dispatch_tell_model(d, m, DISPATCH_MODEL_REMOVED);
}

int model_shape_work(struct dispatch *d, struct slot *slot)
{
	struct known_model *m = model_find(d, slot->session);
	uint32_t bad;

	if (m == NULL)
		return -GPUQ_EMODEL;
	int r = engine_precapture_init(m->engine, &slot->shape, &slot->call, &slot->work, &bad);
	if (r < 0)
		slot->work.blame = VALIDATE_BLAME_SHAPE + bad;
	slot->model = m;
	return r;
}

int model_shape_ended(struct dispatch *d, struct slot *slot, int status)
{
	struct known_model *m = slot->model;

	m->in_flight--;
	if (status == -ECANCELED && m->removed)
		status = -GPUQ_EMODEL;
	tell_when_unused(d, m);
	return status;
}

bool model_cancel(struct slot *slot)
{
	return engine_cancel(slot->model->engine, &slot->request);
}

static struct slot *slot_of(struct engine_request *q)
{
	return (struct slot *)((char *)q - offsetof(struct slot, request));
}

/* What the client is told of a request that has ended. */
static int status_of(const struct slot *slot)
{
	const struct engine_request *q = &slot->request;

	if (q->status == 0 && q->kind == ENGINE_GENERATE)
		return (int)q->n_made;
	/* Its session was taken away with the model. */
	if (q->status == -ECANCELED && slot->model->removed)
		return -GPUQ_EMODEL;
	return q->status;
}

static bool finish_requests(struct dispatch *d, struct known_model *m)
{
	struct engine_request *q;
	bool any = false;

	while ((q = engine_take_done(m->engine)) != NULL) {
		struct slot *slot = slot_of(q);
		const int status = status_of(slot);
		const bool ran = q->started_ns != 0;
		const uint64_t now_ns = clock_now_ns(&d->o.clock);
		const uint64_t end_ns = ran ? q->ended_ns : now_ns;
		struct model_session *s = session_find(d, slot->channel, slot->session);

		d->failed |= status == -GPUQ_EDEVICE;
		if (status == -GPUQ_ETOKEN)
			slot->work.blame = 1;
		if (status == -ETIMEDOUT || status == -GPUQ_EDEADLINE)
			shm_count(&slot->channel->stats->expired, 1);
		m->in_flight--;
		m->changed = true;
		if (s != NULL && s->model == m)
			count_session_answered(d, s, slot, status, end_ns);
		const struct times times = {ran ? q->started_ns : now_ns, end_ns, now_ns};
		slot_step_ended(d, slot, status, &times);
		any = true;
	}
	return any;
}

static void begin_warming(struct dispatch *d, struct known_model *m)
{
	engine_warm(m->engine, m->warm, m->n_warm, clock_now_ns(&d->o.clock) + WARM_NS);
	m->warming = true;
	m->in_flight++;
	d->n_warming++;
}

/* What it was to be captured for is captured: it is ready. */
static bool finish_warming(struct dispatch *d, struct known_model *m)
{
	if (!m->warming || engine_warming(m->engine))
		return false;
	m->warming = false;
	m->in_flight--;
	d->n_warming--;
	dispatch_tell_model(d, m, DISPATCH_MODEL_ADDED);
	tell_when_unused(d, m);
	return true;
}

bool model_run(struct dispatch *d)
{
	struct known_model *m, *next;
	bool progress = false;

	for (m = TAILQ_FIRST(&d->serving); m != NULL; m = next) {
		next = TAILQ_NEXT(m, polled);
		if (m->in_flight == 0)
			continue;
		progress |= engine_poll(m->engine);
		progress |= finish_warming(d, m);
		if (!finish_requests(d, m))
			continue;
		progress = true;
		tell_when_unused(d, m);
	}
	return progress;
}

static uint64_t earliest_ns(
	const struct dispatch *d, uint64_t (*moment_ns)(const struct engine *engine))
{
	const struct known_model *m;
	uint64_t earliest_ns = UINT64_MAX;

	TAILQ_FOREACH (m, &d->serving, polled) {
		uint64_t at_ns = m->in_flight > 0 ? moment_ns(m->engine) : UINT64_MAX;
		earliest_ns = at_ns < earliest_ns ? at_ns : earliest_ns;
	}
	return earliest_ns;
}

uint64_t model_wake_ns(const struct dispatch *d)
{
	return earliest_ns(d, engine_wake_ns);
}

uint64_t model_due_ns(const struct dispatch *d)
{
	return earliest_ns(d, engine_due_ns);
}

uint64_t model_oldest_ns(const struct dispatch *d)
{
	return earliest_ns(d, engine_oldest_ns);
}

/* --- Models -------------------------------------------------------------------------------- */

void model_added(struct dispatch *d, struct known_model *m)
{
	d->models[model_place(m->handle)] = m;
	TAILQ_INSERT_TAIL(&d->serving, m, polled);
	m->changed = true;
	if (m->n_warm > 0)
		begin_warming(d, m);
	else
		dispatch_tell_model(d, m, DISPATCH_MODEL_ADDED);
}

void model_removed(struct dispatch *d, struct known_model *m, bool force)
{
	if (m->n_sessions > 0 && !force) {
		dispatch_tell_model(d, m, DISPATCH_MODEL_BUSY);
		return;
	}
	m->removed = true;
	if (m->warming)
		engine_warm_end(m->engine);
	d->models[model_place(m->handle)] = NULL;
	for (uint32_t i = 0; i < d->o.max_sessions && m->n_sessions > 0; i++) {
		if (d->sessions[i].model == m)
			session_detach(&d->sessions[i]);
	}
	/* What waits for captures of it ends. */
	for (uint32_t i = 0; i < d->n_capturing; i++) {
		if (d->capturing[i]->kind == SLOT_SHAPE && d->capturing[i]->model == m)
			(void)graphs_cancel(d->o.graphs, &d->capturing[i]->work);
	}
	tell_when_unused(d, m);
}

void models_fail(struct dispatch *d)
{
	struct known_model *m;

	TAILQ_FOREACH (m, &d->serving, polled)
		engine_fail(m->engine);
}

static void publish(struct known_model *m)
{
	struct stats_model *s = m->stats;
	struct engine_stats e;

	engine_stats(m->engine, &e);
	shm_store_relaxed(&s->sessions, m->n_sessions);
	shm_store_relaxed(&s->kv_blocks, e.kv.blocks);
	shm_store_relaxed(&s->kv_free_blocks, e.kv.free_blocks);
	shm_store_relaxed(&s->kv_cached_blocks, e.kv.cached_blocks);
	shm_store_relaxed(&s->prompt_tokens, e.prompt_tokens);
	shm_store_relaxed(&s->computed_tokens, e.computed_tokens);
	shm_store_relaxed(&s->shared_tokens, e.kv.shared_tokens);
	shm_store_relaxed(&s->generated_tokens, e.generated_tokens);
	shm_store_relaxed(&s->steps,
		e.steps[MODEL_STEP_RESULT] + e.steps[MODEL_STEP_ROWS] + e.steps[MODEL_STEP_SAMPLE]);
	shm_store_relaxed(&s->rows, e.rows);
	shm_store_relaxed(&s->evictions, e.kv.evictions);
	shm_store_relaxed(&s->preemptions, e.kv.preemptions);
	_Static_assert(ENGINE_MAX_BATCH == STATS_MODEL_BATCHES, "one count for each");
	for (uint32_t i = 0; i < STATS_MODEL_BATCHES; i++)
		shm_store_relaxed(&s->batches[i], e.batches[i]);
	for (uint32_t i = 0; i < STATS_HIST_BUCKETS; i++) {
		shm_store_relaxed(&s->decode_hist[i], e.decode_hist[i]);
		shm_store_relaxed(&s->chunk_hist[i], e.chunk_hist[i]);
	}
}

void models_publish(struct dispatch *d)
{
	struct known_model *m;

	TAILQ_FOREACH (m, &d->serving, polled) {
		if (!m->changed)
			continue;
		m->changed = false;
		publish(m);
	}
}
