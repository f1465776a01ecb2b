/* SPDX-License-Identifier: MIT */
/*
 * What the statistics tell of requests, errors and sessions. Everything here is a few plain stores:
 * dispatch does it for each request, whether somebody looks or not.
 */
#include "daemon/dispatch_impl.h"

void count_operator(struct dispatch *d, struct channel *ch, const struct op_call *call, int status,
	uint64_t queued_ns, uint64_t executed_ns)
{
	const uint32_t queued = hist_bucket(queued_ns, HIST_STATS_BITS);

	if (call->place > 0) {
		struct stats_op *s = &d->o.stats.ops[call->place - 1];
		shm_count(&s->calls, 1);
		if (status < 0)
			shm_count(&s->failed, 1);
		else
			hist_add(s->execute_hist, HIST_STATS_BITS, executed_ns);
	}
	shm_count(&ch->stats->queue_hist[queued], 1);
	shm_count(&d->stats->queue_hist[queued], 1);
	hist_add(d->stats->total_hist, HIST_STATS_BITS, queued_ns + executed_ns);
	if (status < 0)
		return;
	const uint32_t executed = hist_bucket(executed_ns, HIST_STATS_BITS);
	shm_count(&ch->stats->execute_hist[executed], 1);
	shm_count(&d->stats->execute_hist[executed], 1);
}

void count_pipeline(
	struct dispatch *d, const struct known_pipeline *p, int status, uint64_t executed_ns)
{
	const uint32_t place = pipeline_place(p->handle);
	struct stats_pipeline *s = &d->o.stats.pipelines[place];

	if (place >= d->n_pipeline_records)
		return;
	shm_count(&s->calls, 1);
	if (status < 0)
		shm_count(&s->failed, 1);
	else
		hist_add(s->execute_hist, HIST_STATS_BITS, executed_ns);
}

uint64_t count_launch(struct dispatch *d, uint64_t start_ns)
{
	const uint64_t now_ns = clock_now_ns(&d->o.clock);

	hist_add(d->stats->launch_hist, HIST_STATS_BITS, now_ns > start_ns ? now_ns - start_ns : 0);
	return now_ns;
}

/* --- Errors -------------------------------------------------------------------------------- */

const char *entry_subject(const struct wire_sqe *sqe)
{
	static const char *const names[] = {
		[WIRE_OP_NULL] = "null operation",
		[WIRE_OP_CALL] = "call",
		[WIRE_OP_CANCEL] = "cancellation",
		[WIRE_OP_COPY] = "copy",
		[WIRE_OP_CAPTURE] = "capture",
		[WIRE_OP_SESSION] = "session",
		[WIRE_OP_STEP] = "step",
		[WIRE_OP_GENERATE] = "generation",
		[WIRE_OP_SHAPE] = "capture",
	};

	if (sqe->opcode < sizeof(names) / sizeof(names[0]) && names[sqe->opcode] != NULL)
		return names[sqe->opcode];
	return "unknown entry";
}

const char *slot_subject(const struct slot *slot)
{
	static const char *const names[] = {
		[SLOT_CALL] = "call",
		[SLOT_COPY] = "copy",
		[SLOT_SESSION] = "session",
		[SLOT_STEP] = "step",
		[SLOT_SHAPE] = "capture",
	};

	if (slot->kind == SLOT_CALL && slot->call.op != NULL)
		return slot->call.op->name;
	return names[slot->kind];
}

void count_error(struct dispatch *d, int status, const char *subject, uint64_t now_ns)
{
	stats_count_error(&d->o.stats, STATS_ERRORS_OF_DEVICE, status, subject, NULL, now_ns);
}

/* --- Sessions ------------------------------------------------------------------------------ */

/* Its record, or NULL where the statistics have none. */
static struct stats_session *record(const struct dispatch *d, const struct model_session *s)
{
	const uint32_t place = (uint32_t)(s - d->sessions);

	return place < d->n_session_records ? &d->o.stats.sessions[place] : NULL;
}

void count_session_opened(struct dispatch *d, const struct model_session *s)
{
	struct stats_session *r = record(d, s);

	if (r == NULL)
		return;
	*r = (struct stats_session){
		.handle = s->handle,
		.model = s->model->handle,
		.channel = s->channel->number,
		.client = s->channel->client,
		.client_generation = s->channel->client_generation,
		.opened_ns = clock_now_ns(&d->o.clock),
		.tokens = engine_session_tokens(s->session),
	};
	shm_store_release_u32(&r->state, 1);
}

void count_session_closed(struct dispatch *d, const struct model_session *s)
{
	struct stats_session *r = record(d, s);

	if (r != NULL)
		shm_store_release_u32(&r->state, 0);
}

void count_session_asked(struct dispatch *d, struct model_session *s, const struct slot *slot)
{
	struct stats_session *r = record(d, s);
	const uint64_t now_ns = clock_now_ns(&d->o.clock);

	if (r == NULL)
		return;
	if (slot->request.n_tokens > 1)
		shm_count(&r->prompt_tokens, slot->request.n_tokens);
	/* The text goes on token by token: this is no prompt, and the answer before it counts. */
	if (s->asked_ns == 0 && (slot->request.n_tokens > 1 || shm_load_relaxed(&r->last_ns) == 0))
		s->asked_ns =
			slot->submit_ns != 0 && slot->submit_ns < now_ns ? slot->submit_ns : now_ns;
}

/* `n` tokens followed the one before them after gap_ns each. */
static void count_gaps(struct stats_model *m, struct stats_session *r, uint64_t gap_ns, uint32_t n)
{
	if (n == 0)
		return;
	shm_count(&m->gap_hist[hist_bucket(gap_ns, HIST_STATS_BITS)], n);
	shm_store_relaxed(&r->gap_ns, gap_ns);
	if (gap_ns > shm_load_relaxed(&r->longest_ns))
		shm_store_relaxed(&r->longest_ns, gap_ns);
}

/* `n` tokens are there. Those that the device drew by itself came at equal distances. */
static void count_tokens(
	struct model_session *s, struct stats_session *r, uint32_t n, uint64_t end_ns)
{
	struct stats_model *m = s->model->stats;
	const uint64_t since_ns = s->asked_ns != 0 ? s->asked_ns : shm_load_relaxed(&r->last_ns);
	const uint64_t took_ns = end_ns > since_ns ? end_ns - since_ns : 0;

	if (s->asked_ns != 0) {
		hist_add(m->first_token_hist, HIST_STATS_BITS, took_ns / n);
		shm_store_relaxed(&r->first_token_ns, took_ns / n);
		count_gaps(m, r, took_ns / n, n - 1);
	} else {
		count_gaps(m, r, took_ns / n, n);
	}
	s->asked_ns = 0;
	shm_store_relaxed(&r->last_ns, end_ns);
	shm_count(&r->answers, n);
}

void count_session_answered(struct dispatch *d, struct model_session *s, const struct slot *slot,
	int status, uint64_t end_ns)
{
	const struct engine_request *q = &slot->request;
	struct stats_session *r = record(d, s);

	if (r == NULL)
		return;
	const uint32_t n = q->kind == ENGINE_GENERATE ? q->n_made : q->rows > 0;
	if (status < 0)
		shm_count(&r->failed, 1);
	else if (n > 0)
		count_tokens(s, r, n, end_ns);
	shm_store_relaxed(&r->tokens, engine_session_tokens(s->session));
	shm_store_relaxed(&r->kv_blocks, engine_session_blocks(s->session));
}
