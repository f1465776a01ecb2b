/* SPDX-License-Identifier: MIT */
/* Sessions: opened, forked, cut, closed; their users; whose blocks go when there are none left. */
#include "models/engine_impl.h"

#include <assert.h>
#include <errno.h>

#define USER_SCALE (1u << 16) /* so that weights tell with single tokens */

static int typed(int err)
{
	if (err == -ENFILE)
		return -GPUQ_ELIMIT;
	return err == -EDQUOT ? -GPUQ_EKV : err;
}

/* --- Users ---------------------------------------------------------------------------------- */

/* Of a new session. There are no more users than sessions. */
static struct engine_user *user_of(struct engine *e, uint64_t salt)
{
	struct engine_user *u;

	LIST_FOREACH (u, &e->open_users, open) {
		if (u->salt == salt)
			return u;
	}
	u = LIST_FIRST(&e->free_users);
	LIST_REMOVE(u, open);
	*u = (struct engine_user){.salt = salt, .weight = 1};
	TAILQ_INIT(&u->active);
	LIST_INSERT_HEAD(&e->open_users, u, open);
	return u;
}

static void user_leave(struct engine *e, struct engine_user *u)
{
	if (--u->n_sessions > 0)
		return;
	LIST_REMOVE(u, open);
	LIST_INSERT_HEAD(&e->free_users, u, open);
}

static uint64_t greatest(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

void engine_session_activate(struct engine_session *s)
{
	struct engine *e = s->engine;
	struct engine_user *u = s->user;

	TAILQ_INSERT_TAIL(&e->active, s, link);
	if (TAILQ_EMPTY(&u->active))
		LIST_INSERT_HEAD(&e->users, u, link);
	TAILQ_INSERT_TAIL(&u->active, s, of_user);
}

void engine_session_deactivate(struct engine_session *s)
{
	struct engine_user *u = s->user;

	TAILQ_REMOVE(&s->engine->active, s, link);
	TAILQ_REMOVE(&u->active, s, of_user);
	if (TAILQ_EMPTY(&u->active))
		LIST_REMOVE(u, link);
}

void engine_session_put_behind(struct engine_session *s)
{
	TAILQ_REMOVE(&s->engine->active, s, link);
	TAILQ_INSERT_TAIL(&s->engine->active, s, link);
	TAILQ_REMOVE(&s->user->active, s, of_user);
	TAILQ_INSERT_TAIL(&s->user->active, s, of_user);
}

void engine_user_charge(struct engine *e, struct engine_user *u, bool is_decode, uint32_t tokens)
{
	const uint64_t saved = (uint64_t)e->max_tokens * USER_SCALE;
	uint64_t *turns_had = &e->turns_had[is_decode], *had = &u->had[is_decode];

	/* It had nothing to do, or could not do it: hardly any of those turns come back. */
	if (*turns_had > saved)
		*had = greatest(*had, *turns_had - saved);
	*turns_had = greatest(*turns_had, *had);
	*had += (uint64_t)tokens * USER_SCALE / u->weight;
}

void engine_session_weigh(struct engine_session *s, uint32_t weight)
{
	assert(weight > 0);
	s->user->weight = weight;
}

/* --- Sessions ------------------------------------------------------------------------------- */

/* A slot for a KV session. There is one for each. */
static struct engine_session *take_slot(
	struct engine *e, struct kv_session *kv, struct engine_user *user)
{
	struct engine_session *s = TAILQ_FIRST(&e->unused);

	TAILQ_REMOVE(&e->unused, s, link);
	s->user = user;
	user->n_sessions++;
	/* ids are written before they are read. */
	s->kv = kv;
	s->n_queued = 0;
	s->used = e->n_steps;
	s->in_step = s->copying = s->closing = s->alone = s->started = s->awaited = false;
	s->waits_for_room = false;
	s->decode_step = 0;
	s->sampled = -1;
	if (e->stats.sessions++ == 0)
		LIST_INSERT_HEAD(&e->pace->engines, e, paced);
	return s;
}

int engine_session_open(struct engine *e, struct kv_client *client, uint64_t salt,
	struct engine_session **ret_session)
{
	struct kv_session *kv;
	int err = e->failed ? -GPUQ_EDEVICE : kv_open(e->kv, client, salt, &kv);

	if (err == 0)
		*ret_session = take_slot(e, kv, user_of(e, salt));
	return typed(err);
}

int engine_session_fork(struct engine_session *s, struct engine_session **ret_session)
{
	struct kv_session *kv;
	int err = s->engine->failed ? -GPUQ_EDEVICE : 0;

	if (err == 0)
		err = s->first != NULL ? -EBUSY : kv_fork(s->kv, &kv);
	if (err == 0)
		*ret_session = take_slot(s->engine, kv, s->user);
	return typed(err);
}

int engine_session_truncate(struct engine_session *s, uint32_t tokens)
{
	if (s->first != NULL)
		return -EBUSY;
	if (tokens > engine_session_tokens(s))
		return -EINVAL;
	kv_truncate(s->kv, tokens);
	return 0;
}

uint32_t engine_session_tokens(const struct engine_session *s)
{
	const int32_t *tokens;

	return kv_tokens(s->kv, &tokens);
}

uint32_t engine_session_blocks(const struct engine_session *s)
{
	const uint32_t *table;

	return kv_table(s->kv, &table);
}

void engine_session_unawait(struct engine_session *s)
{
	struct engine_turn *turn = &s->engine->turns[s->decode_kind];

	if (s->awaited && s->decode_step == turn->steps)
		turn->missing--;
	s->awaited = false;
}

void engine_session_release(struct engine_session *s)
{
	struct engine *e = s->engine;

	engine_session_unawait(s);
	kv_close(s->kv);
	s->kv = NULL;
	user_leave(e, s->user);
	TAILQ_INSERT_HEAD(&e->unused, s, link);
	if (--e->stats.sessions == 0)
		LIST_REMOVE(e, paced);
}

void engine_session_close(struct engine_session *s)
{
	if (s == NULL)
		return;
	const bool under_way = s->in_step || s->copying;
	struct engine_request *r = under_way ? s->first->next : s->first;

	while (r != NULL) {
		struct engine_request *next = r->next;

		engine_request_end(s, r, -ECANCELED);
		r = next;
	}
	if (under_way)
		s->closing = true;
	else
		engine_session_release(s);
}

/* --- Blocks --------------------------------------------------------------------------------- */

static bool has_blocks(const struct engine_session *s)
{
	const uint32_t *table;

	return s->kv != NULL && kv_table(s->kv, &table) > 0;
}

bool engine_others_have_blocks(const struct engine_session *s)
{
	for (uint32_t i = 0; i < s->engine->options.max_sessions; i++) {
		const struct engine_session *other = &s->engine->sessions[i];

		if (other != s && has_blocks(other))
			return true;
	}
	return false;
}

/* Whether a is to lose its blocks rather than b. One that came first never does: it gets on. */
static bool goes_before(const struct engine_session *a, const struct engine_session *b)
{
	if (a->first == NULL || b->first == NULL)
		return a->first == NULL && (b->first != NULL || a->used < b->used);
	if (a->first->priority != b->first->priority)
		return a->first->priority > b->first->priority;
	return a->first->arrival > b->first->arrival;
}

static struct engine_session *session_of(struct engine *e, const struct kv_session *kv)
{
	uint32_t i = 0;

	while (e->sessions[i].kv != kv)
		i++;
	return &e->sessions[i];
}

static bool may_lose(const struct engine_session *victim, const struct engine_session *needy)
{
	return victim != needy && has_blocks(victim) && !victim->in_step &&
		goes_before(victim, needy);
}

bool engine_step_keeps_blocks_of(const struct engine_session *s)
{
	const struct engine_step *step = &s->engine->step;

	for (uint32_t i = 0; i < step->n_parts; i++) {
		if (goes_before(step->parts[i].session, s))
			return true;
	}
	return false;
}

/* What others keep makes it not worth while to take anything. */
static bool would_suffice(const struct engine_session *needy, uint32_t missing)
{
	const struct engine *e = needy->engine;
	const uint32_t *table;
	uint64_t blocks = 0;

	for (uint32_t i = 0; i < e->options.max_sessions; i++) {
		if (may_lose(&e->sessions[i], needy))
			blocks += kv_table(e->sessions[i].kv, &table);
	}
	return blocks >= missing;
}

bool engine_preempt(void *engine, const struct kv_session *needy, uint32_t missing)
{
	struct engine *e = engine;
	const struct engine_session *s = session_of(e, needy);
	struct engine_session *victim = NULL;

	if (!would_suffice(s, missing))
		return false;
	for (uint32_t i = 0; i < e->options.max_sessions; i++) {
		struct engine_session *other = &e->sessions[i];

		if (may_lose(other, s) && (victim == NULL || goes_before(other, victim)))
			victim = other;
	}
	kv_preempt(victim->kv);
	return true;
}
