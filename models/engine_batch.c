/* SPDX-License-Identifier: MIT */
/* Steps: who is in the next one, its launch, and what its end means for each session in it. */
#include "models/engine_impl.h"
#include "shm/probe.h"

#include <errno.h>
#include <string.h>

/* Between two decode steps of an engine, when its sessions are likely to go on. */
#define PAUSE_NS 100000000u

static uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* --- Who is ready --------------------------------------------------------------------------- */

static bool is_ready(const struct engine_session *s)
{
	return !s->in_step && !s->copying;
}

/* Few tokens are to be computed, as far as is known before they are looked for in the cache. */
static bool decodes(const struct engine_session *s)
{
	uint32_t left = engine_session_tokens(s) - kv_committed(s->kv);

	left += s->started ? s->sampled >= 0 : s->first->n_tokens;
	return left <= ENGINE_DECODE_TOKENS;
}

/* The engine has one buffer for full rows. */
static bool kind_is_free(const struct engine *e, enum model_step kind)
{
	return kind != MODEL_STEP_ROWS || e->rows.copying.count == 0;
}

static bool belongs(const struct engine_session *s, enum model_step kind, bool is_decode)
{
	return is_ready(s) && request_step(s->first) == kind && decodes(s) == is_decode;
}

static uint32_t count_decoding(const struct engine *e, enum model_step kind)
{
	const struct engine_session *s;
	uint32_t n = 0;

	TAILQ_FOREACH (s, &e->active, link)
		n += belongs(s, kind, true);
	return n;
}

static uint64_t window_end_ns(const struct engine *e, enum model_step kind)
{
	const struct engine_turn *turn = &e->turns[kind];

	return turn->ended_ns + turn->took_ns * e->options.gather_percent / 100;
}

/* Others are likely to ask in a moment. */
static bool is_gathering(
	const struct engine *e, enum model_step kind, uint32_t n_ready, uint64_t now_ns)
{
	return e->turns[kind].missing > 0 && n_ready < e->options.max_batch &&
		now_ns < window_end_ns(e, kind);
}

uint64_t engine_gather_end_ns(const struct engine *e)
{
	const uint64_t now_ns = engine_now_ns(e);
	uint64_t end_ns = 0;

	for (enum model_step kind = 0; kind < MODEL_STEPS; kind++) {
		const uint32_t n = count_decoding(e, kind);

		if (n > 0 && is_gathering(e, kind, n, now_ns) &&
			(end_ns == 0 || window_end_ns(e, kind) < end_ns))
			end_ns = window_end_ns(e, kind);
	}
	return end_ns;
}

/* --- The pace ------------------------------------------------------------------------------- */

static uint64_t served(const struct engine *e, enum model_step kind, bool is_decode)
{
	return e->turns[kind].served[is_decode];
}

static bool is_asked_to_decode(const struct engine *e)
{
	for (enum model_step kind = 0; kind < MODEL_STEPS; kind++) {
		if (count_decoding(e, kind) > 0)
			return true;
	}
	return false;
}

/* One of the last two steps was for decoding. */
static bool has_just_decoded(const struct engine *e)
{
	for (enum model_step kind = 0; kind < MODEL_STEPS; kind++) {
		const uint64_t last = served(e, kind, true);

		if (last > 0 && e->n_steps - last < 2)
			return true;
	}
	return false;
}

/* Another engine's steps say nothing of how long ago that was. */
static bool is_decoding(const struct engine *other, uint64_t now_ns)
{
	const struct engine_step *step = &other->step;

	return is_asked_to_decode(other) || (step->state != STEP_NONE && step->is_decode) ||
		(has_just_decoded(other) && now_ns < other->decoded_ns + PAUSE_NS);
}

/* The least that a decode step takes of those that a chunk would hold up; UINT64_MAX: none. */
static uint64_t least_decode_ns(const struct engine *e)
{
	const uint64_t now_ns = engine_now_ns(e);
	uint64_t least_ns = UINT64_MAX;
	const struct engine *i;

	LIST_FOREACH (i, &e->pace->engines, paced) {
		if (i->decode_ns < least_ns &&
			(i == e ? is_asked_to_decode(e) || has_just_decoded(e)
				: is_decoding(i, now_ns)))
			least_ns = i->decode_ns;
	}
	return least_ns;
}

uint32_t engine_chunk_tokens(const struct engine *e)
{
	const uint32_t percent = e->options.pace_percent, most = e->options.chunk_tokens;
	const uint64_t decode_ns = percent == 0 ? UINT64_MAX : least_decode_ns(e);
	uint32_t chunk = ENGINE_DECODE_TOKENS;
	uint64_t tokens;

	if (decode_ns == UINT64_MAX)
		return most;
	tokens = e->token_ns == 0 ? 0 : decode_ns * percent / 100 / e->token_ns;
	if (tokens >= most)
		return most;
	while (chunk * 2 <= tokens)
		chunk *= 2;
	return least(chunk, most);
}

/* --- Gathering a step ----------------------------------------------------------------------- */

/* Adds what fits of a session that is ready for it; false: nothing does. */
static bool add_part(struct engine *e, struct engine_session *s, uint32_t max_tokens)
{
	struct engine_step *step = &e->step;
	const uint32_t first = kv_committed(s->kv), tokens = engine_session_tokens(s);
	const uint32_t wanted = s->next_row > first ? s->next_row : first;
	const uint32_t rows_left = e->options.max_batch - step->n_rows;
	struct engine_part *part = &step->parts[step->n_parts];
	uint32_t end = least(tokens, first + (max_tokens - step->shape.tokens));

	end = least(end, wanted + rows_left);
	if (end <= first)
		return false;
	*part = (struct engine_part){
		.session = s,
		.first = first,
		.n_tokens = end - first,
		.first_row = step->n_rows,
		.n_rows = end > wanted ? end - wanted : 0,
	};
	engine_user_charge(e, s->user, step->is_decode, part->n_tokens);
	step->n_parts++;
	step->n_rows += part->n_rows;
	step->shape.tokens += part->n_tokens;
	s->in_step = true;
	s->ends = s->first->kind == ENGINE_STEP && end == tokens;
	return true;
}

static bool is_full(const struct engine *e, uint32_t max_tokens)
{
	const struct engine_step *step = &e->step;

	return step->n_parts == e->options.max_batch || step->n_rows == e->options.max_batch ||
		step->shape.tokens == max_tokens || step->n_copies == ENGINE_MAX_BATCH ||
		step->looked_up >= ENGINE_LOOKUP_TOKENS ||
		(step->n_parts > 0 && step->parts[0].session->alone);
}

/*
 * The place of a session's priority among those that a step is gathered from. 0 is that of those
 * passed over too often, whichever they are.
 */
static uint32_t rank(const struct engine *e, const struct engine_session *s, bool is_decode)
{
	const uint32_t priority = s->first->priority;

	return e->passed_over[is_decode][priority] >= ENGINE_MAX_PASSED_OVER ? 0 : 1 + priority;
}

/* The step goes, and leaves out priorities of which somebody is ready. */
static void count_passed_over(struct engine *e)
{
	const struct engine_step *step = &e->step;
	uint32_t *passed_over = e->passed_over[step->is_decode];
	uint32_t present = 0, waiting = 0;
	const struct engine_session *s;

	for (uint32_t i = 0; i < step->n_parts; i++)
		present |= 1u << step->parts[i].session->first->priority;
	TAILQ_FOREACH (s, &e->active, link) {
		if (is_ready(s) && decodes(s) == step->is_decode)
			waiting |= 1u << s->first->priority;
	}
	for (uint32_t p = 0; p < MSG_PRIORITIES; p++) {
		const uint32_t better = (1u << p) - 1;

		if ((present & 1u << p) != 0)
			passed_over[p] = 0;
		else if ((waiting & 1u << p) != 0 && (present & better) != 0)
			passed_over[p]++;
	}
}

/* The next one of a user, NULL: none is left. */
static struct engine_session *next_of(const struct engine *e, struct engine_user *u, uint32_t turn)
{
	const struct engine_step *step = &e->step;
	struct engine_session *s = u->next;

	while (s != NULL &&
		(rank(e, s, step->is_decode) != turn ||
			!belongs(s, step->shape.kind, step->is_decode) ||
			(s->alone && step->n_parts > 0)))
		s = TAILQ_NEXT(s, of_user);
	u->next = s;
	return s;
}

/* Of the user who has had least, the one who has waited for longest; it is not looked at again. */
static struct engine_session *take_next(struct engine *e, uint32_t turn)
{
	const bool is_decode = e->step.is_decode;
	struct engine_session *s, *best = NULL;
	struct engine_user *u;

	LIST_FOREACH (u, &e->users, link) {
		s = next_of(e, u, turn);
		if (s == NULL || (best != NULL && u->had[is_decode] > best->user->had[is_decode]))
			continue;
		if (best == NULL || u->had[is_decode] < best->user->had[is_decode] ||
			s->used < best->used)
			best = s;
	}
	if (best != NULL)
		best->user->next = TAILQ_NEXT(best, of_user);
	return best;
}

static void gather(struct engine *e, uint32_t turn, uint32_t max_tokens)
{
	struct engine_session *s;
	struct engine_user *u;

	LIST_FOREACH (u, &e->users, link)
		u->next = TAILQ_FIRST(&u->active);
	while (!is_full(e, max_tokens) && (s = take_next(e, turn)) != NULL) {
		if (engine_request_prepare(s) == 0)
			(void)add_part(e, s, max_tokens);
	}
}

static void finish_shape(struct engine *e)
{
	struct engine_step *step = &e->step;
	uint32_t tokens = 0, ids = 1;

	for (uint32_t i = 0; i < step->n_parts; i++) {
		const struct engine_part *part = &step->parts[i];
		const struct engine_request *r = part->session->first;
		const uint32_t end = part->first + part->n_tokens;

		tokens = end > tokens ? end : tokens;
		if (r->kind == ENGINE_STEP && r->n_ids > ids)
			ids = r->n_ids;
	}
	step->n_tokens = step->shape.tokens;
	step->shape.sessions = step->n_parts;
	step->shape.rows = step->n_rows > 0 ? step->n_rows : 1;
	step->is_plain = engine_round_sessions(e, &step->shape);
	step->shape.context = engine_context(e, tokens);
	step->shape.ids = engine_ids(ids);
}

/* --- Its tensors ---------------------------------------------------------------------------- */

static void fill_tokens(
	struct engine_buffers *b, const struct engine_part *part, uint32_t number, uint32_t at)
{
	const int32_t *tokens;

	(void)kv_tokens(part->session->kv, &tokens);
	memcpy(b->tokens + at, tokens + part->first, part->n_tokens * sizeof(*tokens));
	for (uint32_t i = 0; i < part->n_tokens; i++) {
		b->positions[at + i] = (int32_t)(part->first + i);
		b->rows[at + i] = (int32_t)number;
	}
}

/* Block 0 of the caches is nobody's, and stands for what is not there. */
static void fill_table(
	struct engine_buffers *b, const struct engine_part *part, uint32_t number, uint32_t columns)
{
	int32_t *row = b->table + (uint64_t)number * columns;
	const uint32_t *table;
	const uint32_t n = least(kv_table(part->session->kv, &table), columns);

	for (uint32_t i = 0; i < n; i++)
		row[i] = (int32_t)table[i] + 1;
	memset(row + n, 0, (columns - n) * sizeof(*row));
}

static void fill_row(struct engine *e, const struct engine_session *s, uint32_t row, uint32_t token,
	uint32_t position)
{
	struct engine_buffers *b = &e->buffers;
	const struct engine_request *r = s->first;
	const uint32_t n_ids = e->step.shape.ids;

	b->last[row] = (int32_t)token;
	b->temperatures[row] = r->temperature;
	if (r->kind == ENGINE_GENERATE) {
		b->seeds[2 * row] = (int64_t)r->seed;
		b->seeds[2 * row + 1] = position + 1;
		return;
	}
	for (uint32_t i = 0; i < n_ids; i++)
		b->ids[row * n_ids + i] = i < r->n_ids ? s->ids[i] : -1;
}

/* A token that is written to block 0, and its answer. */
static void fill_nobody(struct engine_buffers *b, uint32_t at, uint32_t columns, uint32_t n_ids)
{
	b->tokens[at] = b->positions[at] = 0;
	b->rows[at] = b->last[at] = (int32_t)at;
	b->temperatures[at] = 1;
	b->seeds[2 * at] = b->seeds[2 * at + 1] = 0;
	memset(b->table + (uint64_t)at * columns, 0, columns * sizeof(*b->table));
	for (uint32_t i = 0; i < n_ids; i++)
		b->ids[at * n_ids + i] = -1;
}

static void fill(struct engine *e)
{
	const struct engine_step *step = &e->step;
	const uint32_t columns = engine_table_columns(step->shape.context);
	uint32_t at = 0;

	/* A step without answers computes one that nobody reads. */
	if (step->n_rows == 0)
		fill_row(e, step->parts[0].session, 0, 0, 0);
	for (uint32_t i = 0; i < step->n_parts; i++) {
		const struct engine_part *part = &step->parts[i];
		const uint32_t skipped = part->n_tokens - part->n_rows;

		fill_tokens(&e->buffers, part, i, at);
		fill_table(&e->buffers, part, i, columns);
		for (uint32_t j = 0; j < part->n_rows; j++)
			fill_row(e, part->session, part->first_row + j, at + skipped + j,
				part->first + skipped + j);
		at += part->n_tokens;
	}
	for (; at < step->shape.tokens; at++)
		fill_nobody(&e->buffers, at, columns, step->shape.ids);
}

static uint32_t priority_of(const struct engine_step *step)
{
	uint32_t priority = UINT32_MAX;

	for (uint32_t i = 0; i < step->n_parts; i++)
		priority = least(priority, step->parts[i].session->first->priority);
	return priority;
}

/* --- Starting ------------------------------------------------------------------------------- */

/* Makes a step of what is ready; false: that is nothing, or all of it waits for blocks. */
static bool build(struct engine *e, enum model_step kind, bool is_decode)
{
	struct engine_step *step = &e->step;
	const uint32_t max_tokens = is_decode ? e->max_tokens : engine_chunk_tokens(e);

	step->shape = (struct engine_shape){.kind = kind};
	step->is_decode = is_decode;
	step->n_parts = step->n_rows = step->n_copies = 0;
	step->looked_up = 0;
	for (uint32_t turn = 0; turn <= MSG_PRIORITIES; turn++)
		gather(e, turn, max_tokens);
	if (step->n_parts == 0)
		return false;
	finish_shape(e);
	fill(e);
	engine_call_init(e, &step->shape, &step->call);
	engine_work_init(e, kind, &step->call, 0, &step->work);
	step->work.priority = priority_of(step);
	step->state = STEP_BUILT;
	if (step->n_copies > 0) {
		engine_copy_blocks(e);
		step->state = STEP_COPYING;
	}
	return true;
}

static bool start_decode(struct engine *e, uint64_t now_ns)
{
	uint32_t tried = 0;

	for (uint32_t n = 0; n < MODEL_STEPS; n++) {
		enum model_step best = MODEL_STEPS;

		for (enum model_step kind = 0; kind < MODEL_STEPS; kind++) {
			if ((tried & 1u << kind) == 0 &&
				(best == MODEL_STEPS ||
					served(e, kind, true) < served(e, best, true)))
				best = kind;
		}
		tried |= 1u << best;
		const uint32_t n_ready = kind_is_free(e, best) ? count_decoding(e, best) : 0;
		if (n_ready > 0 && !is_gathering(e, best, n_ready, now_ns) && build(e, best, true))
			return true;
	}
	return false;
}

/* Whether a chunk of a's kind comes before one of b's: those who wait for blocks hold up nobody. */
static bool is_next(
	const struct engine *e, const struct engine_session *a, const struct engine_session *b)
{
	const uint32_t first = rank(e, a, false), second = rank(e, b, false);

	if (first != second)
		return first < second;
	return served(e, request_step(a->first), false) < served(e, request_step(b->first), false);
}

/* The next session to be given a chunk, of kinds not in the mask. */
static struct engine_session *next_long(const struct engine *e, uint32_t mask)
{
	struct engine_session *s, *best = NULL;

	TAILQ_FOREACH (s, &e->active, link) {
		const enum model_step kind = request_step(s->first);

		if ((mask & 1u << kind) == 0 && kind_is_free(e, kind) && belongs(s, kind, false) &&
			(best == NULL || is_next(e, s, best)))
			best = s;
	}
	return best;
}

static bool start_chunk(struct engine *e)
{
	struct engine_session *s;
	uint32_t tried = 0;

	while ((s = next_long(e, tried)) != NULL) {
		const enum model_step kind = request_step(s->first);

		if (build(e, kind, false))
			return true;
		tried |= 1u << kind;
	}
	return false;
}

bool engine_start_step(struct engine *e)
{
	const uint64_t now_ns = engine_now_ns(e);

	if (TAILQ_EMPTY(&e->active))
		return false;
	return (e->last_was_decode && start_chunk(e)) || start_decode(e, now_ns) ||
		(!e->last_was_decode && start_chunk(e));
}

/* --- Running -------------------------------------------------------------------------------- */

static void count_launch(struct engine *e, uint64_t since_ns)
{
	const uint64_t now_ns = engine_now_ns(e);

	e->step.launch_ns = now_ns > since_ns ? now_ns - since_ns : 0;
	if (e->options.launch_hist != NULL)
		hist_add(e->options.launch_hist, HIST_STATS_BITS, e->step.launch_ns);
}

/* It is on the device; launching may have taken as long as a good part of it. */
static void launched(struct engine *e, uint64_t since_ns)
{
	struct engine_step *step = &e->step;
	const struct engine_shape *shape = &step->shape;
	struct engine_turn *turn = &e->turns[shape->kind];

	step->state = STEP_RUNNING;
	step->started_ns = since_ns;
	count_launch(e, since_ns);
	step->undisturbed = e->pace->running++ == 0;
	step->launch = ++e->pace->launches;
	e->last_was_decode = step->is_decode;
	e->n_steps++;
	e->stats.steps[shape->kind]++;
	e->stats.computed_tokens += step->n_tokens;
	turn->served[step->is_decode] = e->n_steps;
	if (step->is_decode) {
		turn->steps++;
		turn->missing = 0;
	}
	count_passed_over(e);
	for (uint32_t i = 0; i < step->n_parts; i++) {
		struct engine_session *s = step->parts[i].session;

		if (s->first->started_ns == 0)
			s->first->started_ns = step->started_ns;
		s->used = e->n_steps;
		s->decode_kind = shape->kind;
		s->decode_step = step->is_decode ? turn->steps : 0;
	}
	if (step->is_plain)
		engine_wish_next(e, shape, step->work.priority);
}

/* A step of several sessions may have failed because of one of them: each gets its own. */
static void settle_failed(struct engine *e, struct engine_session *s, int status)
{
	s->ends = false;
	if (e->step.n_parts == 1 || s->alone) {
		engine_request_settle(s, status);
		return;
	}
	s->alone = true;
	engine_request_settle(s, 0);
}

static void settle(struct engine *e, const struct engine_part *part, int status)
{
	struct engine_session *s = part->session;

	if (status == 0) {
		s->alone = false;
		kv_commit(s->kv, part->first + part->n_tokens);
		status = engine_request_deliver(e, part);
		if (!s->copying)
			engine_request_settle(s, status);
	} else {
		settle_failed(e, s, status);
	}
}

/* The step has ended, or will never be launched. */
static void finish(struct engine *e, int status)
{
	struct engine_step *step = &e->step;

	step->state = STEP_NONE;
	if (status == -GPUQ_EDEVICE) {
		engine_fail(e);
		return;
	}
	if (status == 0 && step->shape.kind == MODEL_STEP_ROWS)
		engine_copy_rows(e);
	for (uint32_t i = 0; i < step->n_parts; i++) {
		struct engine_session *s = step->parts[i].session;

		s->in_step = false;
		engine_session_put_behind(s);
		settle(e, &step->parts[i], status);
	}
}

/*
 * What other engines do to a decode step is not to become what they keep to: then chunks and the
 * steps beside them would make each other longer and longer.
 */
static void measure_decode(struct engine *e, uint64_t took_ns)
{
	const struct engine_step *step = &e->step;
	const bool undisturbed = step->undisturbed && step->launch == e->pace->launches;

	if (undisturbed || e->decode_ns == 0 || took_ns < e->decode_ns)
		e->decode_ns = took_ns;
}

static void measure(struct engine *e, uint64_t now_ns)
{
	const struct engine_step *step = &e->step;
	const uint64_t took_ns = now_ns - step->started_ns;
	struct engine_turn *turn = &e->turns[step->shape.kind];

	for (uint32_t i = 0; i < step->n_parts; i++)
		step->parts[i].session->first->device_ns +=
			took_ns * step->parts[i].n_tokens / step->n_tokens;
	if (!step->is_decode) {
		e->token_ns = took_ns / step->n_tokens + 1;
		engine_expect(&e->expected_token_ns, e->token_ns);
		hist_add(e->stats.chunk_hist, HIST_STATS_BITS, took_ns);
		return;
	}
	engine_expect(&e->expected_step_ns, took_ns);
	e->stats.batches[step->n_parts - 1]++;
	hist_add(e->stats.decode_hist, HIST_STATS_BITS, took_ns);
	turn->ended_ns = e->decoded_ns = now_ns;
	turn->took_ns = took_ns;
	measure_decode(e, took_ns);
}

static void record_step(const struct engine *e, int status, uint64_t now_ns)
{
	const struct engine_step *step = &e->step;
	const uint64_t launch_ns = step->launch_ns < UINT32_MAX ? step->launch_ns : UINT32_MAX;
	const struct recorder_event event = {
		.kind = RECORDER_STEP,
		.time_ns = now_ns,
		.channel = e->options.recorded_as,
		.ticket = step->is_decode,
		.what = (uint16_t)step->n_parts,
		.status = status,
		.words = {step->started_ns, step->n_tokens, step->work.graph_id,
			(step->work.replayed ? RECORDER_REPLAYED : 0) | launch_ns << 32},
	};

	PROBE6(step, e->options.recorded_as, step->is_decode, step->n_parts, step->n_tokens,
		step->started_ns, now_ns);
	recorder_put(e->options.recorder, &event);
}

static bool await_step(struct engine *e)
{
	struct engine_step *step = &e->step;
	const struct device_completion *c = step->work.completion;

	if (!device_done(c, step->work.args.value))
		return false;
	const int status = (int)c->status;
	e->pace->running--;
	const uint64_t now_ns = engine_now_ns(e);
	measure(e, now_ns);
	record_step(e, status, now_ns);
	(void)graphs_finish(e->options.graphs, &step->work, now_ns);
	finish(e, status);
	return true;
}

static bool launch(struct engine *e)
{
	const uint64_t since_ns = engine_now_ns(e);
	const int err = graphs_launch(e->options.graphs, &e->step.work);

	if (err == -EAGAIN)
		return false;
	if (err == 0)
		launched(e, since_ns);
	else
		finish(e, err);
	return true;
}

static bool has_block(const struct engine_session *s, uint32_t block)
{
	const uint32_t *table;
	const uint32_t n = s->kv == NULL ? 0 : kv_table(s->kv, &table);

	for (uint32_t i = 0; i < n; i++) {
		if (table[i] == block)
			return true;
	}
	return false;
}

/* Blocks whose copies failed hold nothing: their sessions are computed again. */
static void copies_failed(struct engine *e)
{
	for (uint32_t i = 0; i < e->options.max_sessions; i++) {
		struct engine_session *s = &e->sessions[i];

		for (uint32_t j = 0; j < e->step.n_copies; j++) {
			if (has_block(s, e->step.copies[j].to))
				kv_preempt(s->kv);
		}
	}
	finish(e, e->kv_copying.status);
}

bool engine_go_on(struct engine *e)
{
	struct engine_step *step = &e->step;

	if (step->state == STEP_COPYING) {
		if (engine_copy_blocks_go_on(e) != 1)
			return false;
		step->state = STEP_BUILT;
		if (e->kv_copying.status != 0) {
			copies_failed(e);
			return true;
		}
	}
	if (step->state == STEP_BUILT)
		return launch(e);
	return step->state == STEP_RUNNING && await_step(e);
}
