/* SPDX-License-Identifier: MIT */
/* Requests: from being queued to their answers and their end. */
#include "models/engine_impl.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <string.h>

/* --- Coming --------------------------------------------------------------------------------- */

static bool step_fits(const struct engine_request *r)
{
	return r->rows <= r->n_tokens && r->top_k <= MODEL_MAX_TOP_K &&
		r->n_ids <= ENGINE_MAX_IDS &&
		r->out_bytes >= r->rows * wire_row_bytes(r->top_k, r->n_ids) &&
		(r->device_logits == NULL || (r->top_k == 0 && r->n_ids == 0));
}

static bool generate_fits(const struct engine_request *r)
{
	return r->n_generate > 0 && r->out_bytes >= 8ull * r->n_generate;
}

static int check(const struct engine *e, const struct engine_request *r)
{
	const bool generates = r->kind == ENGINE_GENERATE;

	if (e->failed)
		return -GPUQ_EDEVICE;
	if (r->n_tokens == 0)
		return -GPUQ_ETOKEN;
	if (r->n_tokens > e->model->max_session_tokens)
		return -GPUQ_ECONTEXT;
	if (r->priority >= MSG_PRIORITIES || !(generates ? generate_fits(r) : step_fits(r)))
		return -GPUQ_EPARAM;
	return r->session->n_queued == ENGINE_MAX_QUEUED ? -GPUQ_ELIMIT : 0;
}

static void watch_deadline(struct engine *e, const struct engine_request *r)
{
	if (r->deadline_ns != 0 && r->deadline_ns < e->next_deadline_ns)
		e->next_deadline_ns = r->deadline_ns;
}

int engine_submit(struct engine *e, struct engine_request *r)
{
	struct engine_session *s = r->session;
	int err = check(e, r);

	if (err != 0)
		return err;
	r->next = NULL;
	r->arrival = e->arrivals++;
	r->canceled = false;
	r->status = 0;
	r->n_made = 0;
	r->started_ns = 0;
	r->device_ns = 0;
	if (s->first == NULL) {
		s->first = r;
		engine_session_activate(s);
	} else {
		s->last->next = r;
	}
	s->last = r;
	s->n_queued++;
	e->n_requests++;
	engine_session_unawait(s);
	watch_deadline(e, r);
	return 0;
}

/* --- Getting ready -------------------------------------------------------------------------- */

static bool copy_tokens(struct engine *e, const struct engine_request *r)
{
	e->step.looked_up += r->n_tokens;
	memcpy(e->tokens, r->tokens, r->n_tokens * sizeof(*e->tokens));
	for (uint32_t i = 0; i < r->n_tokens; i++) {
		if (e->tokens[i] < 0 || (uint32_t)e->tokens[i] >= e->model->vocab)
			return false;
	}
	return true;
}

static int append(struct engine_session *s, const int32_t *tokens, uint32_t n, uint32_t wanted)
{
	struct engine_step *step = &s->engine->step;
	struct kv_copy copy;
	int err = kv_append(s->kv, tokens, n, wanted, &copy);

	if (err == 0 && copy.from != KV_NONE)
		step->copies[step->n_copies++] = copy;
	return err;
}

static int start(struct engine_session *s)
{
	struct engine *e = s->engine;
	const struct engine_request *r = s->first;
	const uint32_t rows = r->kind == ENGINE_GENERATE ? 1 : r->rows;
	const uint32_t before = engine_session_tokens(s);
	int err = copy_tokens(e, r) ? 0 : -GPUQ_ETOKEN;

	/* Not in the middle of it. */
	if (err == 0 && r->kind == ENGINE_GENERATE &&
		(uint64_t)before + r->n_tokens + r->n_generate - 1 > e->model->max_session_tokens)
		err = -GPUQ_ECONTEXT;
	if (err == 0)
		err = append(s, e->tokens, r->n_tokens, rows > 0 ? rows : 1);
	if (err != 0)
		return err;
	if (r->kind == ENGINE_STEP && r->n_ids > 0)
		memcpy(s->ids, r->ids, r->n_ids * sizeof(s->ids[0]));
	s->before = before;
	s->next_row = before + r->n_tokens - rows;
	s->sampled = -1;
	s->ends = false;
	s->started = true;
	e->stats.prompt_tokens += r->n_tokens;
	return 0;
}

static int resume(struct engine_session *s)
{
	const uint32_t tokens = engine_session_tokens(s);
	const bool wants_rows = s->started && s->next_row < tokens;

	s->engine->step.looked_up += tokens;
	return kv_resume(s->kv, wants_rows ? tokens - s->next_row : 1);
}

static int append_sampled(struct engine_session *s)
{
	int err = append(s, &s->sampled, 1, 1);

	if (err == 0) {
		s->sampled = -1;
		s->next_row = engine_session_tokens(s) - 1;
	}
	return err;
}

/* --- Deadlines ------------------------------------------------------------------------------ */

void engine_expect(uint64_t *expected_ns, uint64_t took_ns)
{
	if (*expected_ns == 0)
		*expected_ns = took_ns;
	else if (took_ns > *expected_ns)
		*expected_ns += (took_ns - *expected_ns) / 8;
	else
		*expected_ns -= (*expected_ns - took_ns) / 8;
}

/* Refused without a new measurement: it is believed a little less, until one is tried. */
static void doubt(uint64_t *expected_ns)
{
	*expected_ns -= *expected_ns / 64;
}

/*
 * Whether a request can end before its deadline whose first answer needs so many tokens computed. A
 * text that may end by itself is only sure to need one step.
 */
static int in_time(struct engine *e, const struct engine_request *r, uint32_t tokens)
{
	const bool is_long = tokens > ENGINE_DECODE_TOKENS;
	const uint32_t more = r->kind == ENGINE_GENERATE && !r->stop ? r->n_generate - 1 : 0;
	const uint64_t first_ns = is_long ? tokens * e->expected_token_ns : e->expected_step_ns;
	const uint64_t now_ns = r->deadline_ns == 0 ? 0 : engine_now_ns(e);

	if (r->deadline_ns == 0 || now_ns + first_ns + more * e->expected_step_ns <= r->deadline_ns)
		return 0;
	doubt(&e->expected_step_ns);
	doubt(&e->expected_token_ns);
	return now_ns < r->deadline_ns ? -GPUQ_EDEADLINE : -ETIMEDOUT;
}

/* It waits, and what it waits for has not come. */
static bool is_without_room(const struct engine_session *s)
{
	return s->waits_for_room && s->room_changes == engine_room_changes(s->engine);
}

/* Starts it; only then is known what of it lies in the cache, and whether there is time. */
static int start_in_time(struct engine_session *s)
{
	const uint32_t n_copies = s->engine->step.n_copies;
	int err = start(s);

	/* With a block that is to be copied for it, it can no longer be taken back. */
	if (err != 0 || s->engine->step.n_copies != n_copies)
		return err;
	return in_time(s->engine, s->first, engine_session_tokens(s) - kv_committed(s->kv));
}

int engine_request_prepare(struct engine_session *s)
{
	int err;

	if (is_without_room(s))
		return 1;
	s->waits_for_room = false;
	err = session_is_preempted(s) ? resume(s) : 0;
	if (err == 0 && !s->started)
		err = start_in_time(s);
	else if (err == 0 && s->sampled >= 0)
		err = append_sampled(s);
	if (err == -ENOSPC && engine_others_have_blocks(s)) {
		s->waits_for_room = !engine_step_keeps_blocks_of(s);
		s->room_changes = engine_room_changes(s->engine);
		return 1;
	}
	if (err == -ENOSPC || err == -EDQUOT)
		err = -GPUQ_EKV;
	if (err == -EMSGSIZE)
		err = -GPUQ_ECONTEXT;
	if (err != 0)
		engine_request_end(s, s->first, err);
	return err;
}

/* --- Answers -------------------------------------------------------------------------------- */

static char *put(char *to, const void *from, uint64_t bytes)
{
	memcpy(to, from, bytes);
	return to + bytes;
}

/* Record `number` of the request: row `row` of the step. */
static void put_result(
	const struct engine *e, const struct engine_request *r, uint32_t number, uint32_t row)
{
	const struct engine_buffers *b = &e->buffers;
	const uint64_t k = e->model->top_k;
	const uint32_t n = r->top_k < k ? r->top_k : (uint32_t)k;
	const struct wire_row head = {
		.lse = b->stats[2 * row], .entropy = b->stats[2 * row + 1], .n_candidates = n};
	const float nothing = -INFINITY;
	const int32_t nobody = -1;
	char *to = (char *)r->out + number * wire_row_bytes(r->top_k, r->n_ids);

	to = put(to, &head, sizeof(head));
	to = put(to, b->candidates + row * k, n * sizeof(int32_t));
	for (uint32_t i = n; i < r->top_k; i++)
		to = put(to, &nobody, sizeof(nobody));
	to = put(to, b->values + row * k, n * sizeof(float));
	for (uint32_t i = n; i < r->top_k; i++)
		to = put(to, &nothing, sizeof(nothing));
	if (r->n_ids > 0)
		to = put(
			to, b->named + (uint64_t)row * e->step.shape.ids, r->n_ids * sizeof(float));
}

static bool is_end_of_text(const struct engine_model *m, int32_t token)
{
	for (uint32_t i = 0; i < m->eos_count; i++) {
		if (m->eos[i] == token)
			return true;
	}
	return false;
}

/* False: the sampler has given no token at all. */
static bool put_sampled(struct engine *e, struct engine_session *s, uint32_t row)
{
	struct engine_request *r = s->first;
	const int32_t token = e->buffers.sampled[row];
	char *out = r->out;

	if (token < 0 || (uint32_t)token >= e->model->vocab)
		return false;
	put(out + 4ull * r->n_made, &token, sizeof(token));
	put(out + 4ull * (r->n_generate + r->n_made), &e->buffers.logprob[row], sizeof(float));
	r->n_made++;
	e->stats.generated_tokens++;
	if (r->n_made == r->n_generate || (r->stop && is_end_of_text(e->model, token)))
		s->ends = true;
	else
		s->sampled = token;
	return true;
}

int engine_request_deliver(struct engine *e, const struct engine_part *part)
{
	struct engine_session *s = part->session;
	const struct engine_request *r = s->first;

	e->stats.rows += part->n_rows;
	if (part->n_rows == 0)
		return 0;
	if (r->kind == ENGINE_GENERATE)
		return put_sampled(e, s, part->first_row) ? 0 : -GPUQ_ETOKEN;
	const uint32_t first_wanted = s->before + r->n_tokens - r->rows;
	for (uint32_t i = 0; i < part->n_rows; i++)
		put_result(e, r, s->next_row - first_wanted + i, part->first_row + i);
	s->next_row += part->n_rows;
	return 0;
}

/* --- The end -------------------------------------------------------------------------------- */

/* Takes the request out of its session's queue. */
static void unlink_request(struct engine_session *s, struct engine_request *r)
{
	struct engine_request **place = &s->first, *before = NULL;

	while (*place != r) {
		before = *place;
		place = &before->next;
	}
	*place = r->next;
	if (s->last == r)
		s->last = before;
	s->n_queued--;
	if (s->first == NULL)
		engine_session_deactivate(s);
}

/*
 * The text is as before the request, started or not. What must be computed again for that is
 * computed later: blocks which the request was given back, but did not fill, help nobody till then.
 */
static void undo(struct engine_session *s)
{
	if (s->started)
		kv_truncate(s->kv, s->before);
	if (kv_committed(s->kv) < engine_session_tokens(s) && !session_is_preempted(s))
		kv_preempt(s->kv);
}

/* A session that has just decoded is likely to ask again soon. */
static void await(struct engine_session *s)
{
	struct engine_turn *turn = &s->engine->turns[s->decode_kind];

	s->awaited = s->decode_step != 0 && s->decode_step == turn->steps && !s->closing;
	turn->missing += s->awaited;
}

void engine_request_end(struct engine_session *s, struct engine_request *r, int status)
{
	struct engine *e = s->engine;

	if (r == s->first) {
		if (status != 0)
			undo(s);
		s->started = false;
		s->sampled = -1;
		s->alone = false;
	}
	unlink_request(s, r);
	if (s->first == NULL && status == 0)
		await(s);
	r->status = status;
	r->ended_ns = engine_now_ns(e);
	r->next = NULL;
	if (e->done_first == NULL)
		e->done_first = r;
	else
		e->done_last->next = r;
	e->done_last = r;
	e->n_requests--;
	e->n_ended++;
}

void engine_request_settle(struct engine_session *s, int status)
{
	struct engine_request *r = s->first;

	if (s->closing || r->canceled) {
		engine_request_end(s, r, -ECANCELED);
		if (s->closing)
			engine_session_release(s);
		return;
	}
	if (status != 0 || s->ends)
		engine_request_end(s, r, status);
	else
		watch_deadline(s->engine, r);
}

struct engine_request *engine_take_done(struct engine *e)
{
	struct engine_request *r = e->done_first;

	if (r != NULL)
		e->done_first = r->next;
	return r;
}

static bool is_queued(const struct engine_session *s, const struct engine_request *r)
{
	const struct engine_request *i = s->first;

	while (i != NULL && i != r)
		i = i->next;
	return i != NULL;
}

bool engine_cancel(struct engine *e, struct engine_request *r)
{
	struct engine_session *s = r->session;

	if (!is_queued(s, r))
		return false;
	if (r != s->first || (!s->in_step && !s->copying)) {
		engine_request_end(s, r, -ECANCELED);
		return true;
	}
	if (s->ends)
		return false;
	r->canceled = true;
	return true;
}

static void expire_session(struct engine *e, struct engine_session *s, uint64_t now_ns)
{
	struct engine_request *next, *r = s->first;

	if (s->in_step || s->copying)
		r = r->next;
	for (; r != NULL; r = next) {
		next = r->next;
		if (r->deadline_ns != 0 && now_ns >= r->deadline_ns)
			engine_request_end(s, r, -ETIMEDOUT);
		else
			watch_deadline(e, r);
	}
}

void engine_expire(struct engine *e, uint64_t now_ns)
{
	struct engine_session *next, *s;

	if (now_ns < e->next_deadline_ns)
		return;
	e->next_deadline_ns = UINT64_MAX;
	for (s = TAILQ_FIRST(&e->active); s != NULL; s = next) {
		next = TAILQ_NEXT(s, link);
		expire_session(e, s, now_ns);
	}
}
