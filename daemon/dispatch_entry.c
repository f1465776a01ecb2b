/* SPDX-License-Identifier: MIT */
/* What happens to one submission until it runs or is refused. */
#include "daemon/dispatch_impl.h"
#include "daemon/validate.h"
#include "shm/failpoint.h"

/* So many entries ahead their cache lines are asked for: they lie in the client's cache. */
#define PREFETCH_ENTRIES 8

/* The times of one entry: the client's word for the submission is taken within reason. */
static uint64_t queued_since(uint64_t submit_ns, uint64_t now_ns)
{
	return submit_ns != 0 && submit_ns < now_ns ? now_ns - submit_ns : 0;
}

static void refuse(struct dispatch *d, struct channel *ch, const struct wire_sqe *sqe, int status,
	uint32_t arg, const char *subject, uint64_t now_ns)
{
	const struct wire_cqe cqe = {
		.user_data = sqe->user_data,
		.status = status,
		.flags = arg << WIRE_CQE_ARG_SHIFT,
	};

	channel_post(ch, &cqe);
	record_refused(d, ch, sqe, status, now_ns);
	count_error(d, status, subject, now_ns);
}

/* Runs a short operator here and now. */
static void run_inline(struct dispatch *d, struct channel *ch, const struct wire_sqe *sqe,
	const struct op_call *call, uint64_t now_ns)
{
	struct wire_cqe cqe = {
		.user_data = sqe->user_data,
		.queued_ns = queued_since(sqe->submit_ns, now_ns),
	};

	channel_note_inline(ch, sqe->user_data);
	FAILPOINT("dispatch.noted");
	call->op->cpu(call, 0, call->op->units(call));
	FAILPOINT("dispatch.executed");
	cqe.executed_ns = clock_now_ns(&d->o.clock) - now_ns;
	channel_post(ch, &cqe);
	/* Others in this batch may take long: what is done is shown at once. */
	channel_flush(ch);
	record_inline(d, ch, sqe, call, now_ns, now_ns + cqe.executed_ns);
	share_charge(ch->share, (int64_t)cqe.executed_ns);
	shm_count(&d->stats->inline_runs, 1);
	shm_count(&d->stats->busy_ns, cqe.executed_ns);
	count_operator(d, ch, call, 0, cqe.queued_ns, cqe.executed_ns);
}

/* Short operators, but never past what the channel has queued: its entries start in order. */
static bool runs_inline(const struct dispatch *d, const struct channel *ch, const struct slot *slot)
{
	return d->o.cost != NULL && slot->kind == SLOT_CALL && slot->pipeline == NULL &&
		!slot->capture && TAILQ_EMPTY(&ch->queue) &&
		cost_predict_ns(d->o.cost, &slot->call) <= d->o.inline_max_ns;
}

/* For a capture. */
static bool is_wish(const struct wire_sqe *sqe)
{
	return sqe->opcode == WIRE_OP_CAPTURE || sqe->opcode == WIRE_OP_SHAPE;
}

/* Fills the slot in with what the entry asks for. */
static int take_arguments(
	const struct channel *ch, const struct wire_sqe *sqe, struct slot *slot, uint32_t *ret_arg)
{
	slot->capture = is_wish(sqe);
	slot->call.op = NULL;
	slot->call.place = 0;
	if (sqe->opcode == WIRE_OP_CALL || sqe->opcode == WIRE_OP_CAPTURE) {
		slot->kind = SLOT_CALL;
		return validate_call(ch, sqe, &slot->call, &slot->pipeline, &slot->uses, ret_arg);
	}
	slot->pipeline = NULL;
	slot->uses.n = 0;
	slot->session = sqe->session;
	*ret_arg = 0;
	switch (sqe->opcode) {
	case WIRE_OP_SESSION:
		slot->kind = SLOT_SESSION;
		return validate_session(ch, sqe, &slot->order);
	case WIRE_OP_STEP:
		slot->kind = SLOT_STEP;
		return validate_step(ch, sqe, &slot->request, &slot->logits_offset, ret_arg);
	case WIRE_OP_GENERATE:
		slot->kind = SLOT_STEP;
		slot->logits_offset = WIRE_NOWHERE;
		return validate_generate(ch, sqe, &slot->request, ret_arg);
	case WIRE_OP_SHAPE:
		slot->kind = SLOT_SHAPE;
		return validate_shape(ch, sqe, &slot->session, &slot->shape, ret_arg);
	default:
		slot->kind = SLOT_COPY;
		return validate_copy(ch, sqe, &slot->copy, &slot->uses);
	}
}

/* What estimates know of it, and the graph cache. Copies are alike when they are about as long. */
static uint64_t slot_key(const struct slot *slot)
{
	if (slot->kind == SLOT_CALL && !slot->capture)
		return graphs_key(&slot->call);
	if (slot->kind == SLOT_COPY)
		return 1 + (uint64_t)__builtin_clzll(slot->copy.bytes | 1);
	return 0;
}

/* What is accepted has a chance to end in time. */
static int check_deadline(struct dispatch *d, const struct channel *ch, struct slot *slot,
	bool is_inline, uint64_t now_ns)
{
	const uint64_t needs_ns =
		is_inline ? cost_predict_ns(d->o.cost, &slot->call) : slot_needs_ns(d, slot);
	int r = slot_in_time(d, slot, needs_ns, now_ns);

	if (r < 0)
		shm_count(&ch->stats->expired, 1);
	return r;
}

/*
 * All but null operations and cancellations: refused, run inline, or put into a slot. False when it
 * must wait for a slot; then nothing has happened.
 */
static bool take_call(struct dispatch *d, struct channel *ch, const struct wire_sqe *sqe)
{
	const bool must_wait = is_wish(sqe) && ch->captures >= MAX_CAPTURES;
	struct slot *slot = must_wait ? NULL : slot_take(d, ch);
	uint32_t arg;

	if (slot == NULL)
		return false;
	/* The slot's memory serves for validation; most entries give it back at once. */
	struct op_call *call = &slot->call;
	int r = take_arguments(ch, sqe, slot, &arg);
	uint64_t now_ns = clock_now_ns(&d->o.clock);
	const bool is_inline = r == 0 && runs_inline(d, ch, slot);
	slot->key = r == 0 && !is_inline ? slot_key(slot) : 0;
	slot->deadline_ns = sqe->deadline_ns;
	if (r == 0 && sqe->deadline_ns != 0)
		r = check_deadline(d, ch, slot, is_inline, now_ns);
	ch->sq.cons++;
	if (r == 0 && !is_inline) {
		slot->user_data = sqe->user_data;
		slot->submit_ns = sqe->submit_ns;
		slot_enqueue(d, ch, slot, now_ns);
		record_taken(d, slot, sqe->trace_id, now_ns);
		return true;
	}
	TAILQ_INSERT_HEAD(&d->free_slots, slot, link);
	d->n_free++;
	if (r < 0)
		refuse(d, ch, sqe, r, arg, call->op != NULL ? call->op->name : entry_subject(sqe),
			now_ns);
	else
		run_inline(d, ch, sqe, call, now_ns);
	return true;
}

/* Null operations that came in one batch have waited equally long: counted in one go. */
static void count_same(struct dispatch *d, struct channel *ch)
{
	uint32_t bucket = hist_bucket(d->same_queued_ns, HIST_STATS_BITS);

	shm_count(&ch->stats->queue_hist[bucket], d->n_same);
	shm_count(&d->stats->queue_hist[bucket], d->n_same);
	shm_count(&d->stats->total_hist[bucket], d->n_same);
	if (d->n_null == 0)
		d->first_queued_ns = d->same_queued_ns;
	d->n_null += d->n_same;
	d->n_same = 0;
}

/*
 * Whether the user may submit so much. An entry that then has to wait comes again, but counts once.
 * Cancellations only take back.
 */
static int check_rate(
	struct dispatch *d, struct channel *ch, const struct wire_sqe *sqe, uint64_t now_ns)
{
	if (sqe->opcode == WIRE_OP_CANCEL)
		return 0;
	if (!share_submits(ch->share, d->o.max_rate_per_user, now_ns))
		return -GPUQ_ERATE;
	ch->rated = ch->sq.cons;
	return 0;
}

/* One entry, already in private memory. False when it must wait. */
static bool take_entry(
	struct dispatch *d, struct channel *ch, const struct wire_sqe *sqe, uint64_t now_ns)
{
	/* What was submitted before the drain is still served. */
	bool late = d->draining && (int64_t)(ch->sq.cons - ch->drain_at) >= 0;
	int r = late ? -GPUQ_EDRAIN : validate_entry(ch, sqe);

	if (r == 0 && d->o.max_rate_per_user > 0 && ch->sq.cons != ch->rated)
		r = check_rate(d, ch, sqe, now_ns);
	if (r == 0 && sqe->opcode != WIRE_OP_NULL && sqe->opcode != WIRE_OP_CANCEL)
		return take_call(d, ch, sqe);
	/* This completes the target and commits: the entry itself is not taken before that. */
	if (r == 0 && sqe->opcode == WIRE_OP_CANCEL)
		r = slot_cancel(d, ch, sqe->target);
	ch->sq.cons++;
	if (r < 0) {
		refuse(d, ch, sqe, r, 0, entry_subject(sqe), now_ns);
		return true;
	}
	const struct wire_cqe cqe = {
		.user_data = sqe->user_data,
		.queued_ns = queued_since(sqe->submit_ns, now_ns),
	};
	channel_post(ch, &cqe);
	if (cqe.queued_ns != d->same_queued_ns)
		count_same(d, ch);
	d->same_queued_ns = cqe.queued_ns;
	d->n_same++;
	return true;
}

/* The lines of an entry and of a completion that this pass will come to. */
static void prefetch(const struct channel *ch, uint32_t ahead)
{
	__builtin_prefetch(&ch->sqes[ring_slot(ch->sq.cons + ahead, ch->sq.entries)]);
	__builtin_prefetch(&ch->cqes[ring_slot(ch->cq.prod + ahead, ch->cq.entries)], 1);
}

/*
 * One was taken: null operations cost alike, the others what they took since `since_ns`, with the
 * null operations in front of them. Returns what that is for the next one.
 */
static uint64_t entry_spend(struct dispatch *d, const struct wire_sqe *sqe, uint64_t since_ns)
{
	uint64_t now_ns = since_ns;

	if (sqe->opcode != WIRE_OP_NULL)
		now_ns = clock_now_ns(&d->o.clock);
	const uint64_t units = 1 + (now_ns - since_ns) / BUDGET_UNIT_NS;
	d->budget -= units < d->budget ? (uint32_t)units : d->budget;
	return now_ns;
}

int dispatch_channel_pass(struct dispatch *d, struct channel *ch)
{
	/* The next entry's line comes with that of the index, not after it. */
	__builtin_prefetch(&ch->sqes[ring_slot(ch->sq.cons, ch->sq.entries)]);
	int available = ring_refresh(&ch->sq);
	struct wire_sqe sqe;
	int taken = 0;

	if (available <= 0)
		return available;
	/* Its client has just written there, too. */
	if (ch->look_again)
		__builtin_prefetch(&ch->cq.ring->cons);
	if (__builtin_expect(channel_hinted(ch), 0))
		return -EOWNERDEAD;
	if (__builtin_expect(d->paused, 0)) {
		ch->blocked = true;
		return 0;
	}
	const uint64_t now_ns = clock_now_ns(&d->o.clock);
	uint64_t at_ns = now_ns;
	ch->blocked = false;
	for (; taken < available && d->budget > 0; taken++) {
		int space = channel_has_space(ch);
		if (available - taken > PREFETCH_ENTRIES)
			prefetch(ch, PREFETCH_ENTRIES);
		if (space < 0) {
			/* Nobody else's. */
			d->n_same = d->n_null = 0;
			return space;
		}
		shm_copy_in(
			&sqe, &ch->sqes[ring_slot(ch->sq.cons, ch->sq.entries)], sizeof(sqe) / 8);
		FAILPOINT_OF("dispatch.copied", sqe.opcode);
		if (space == 0 || !take_entry(d, ch, &sqe, now_ns)) {
			ch->blocked = true;
			break;
		}
		at_ns = entry_spend(d, &sqe, at_ns);
	}
	if (taken == 0)
		return 0;
	channel_flush(ch);
	count_same(d, ch);
	if (d->n_null > 0)
		record_batch(d, ch, (uint32_t)taken, now_ns);
	if (ch->look_again)
		record_seen_of(d, ch, now_ns);
	ch->last_active_ns = now_ns;
	struct stats_channel *s = ch->stats;
	shm_count(&s->consumed, (uint64_t)taken);
	shm_count(&d->stats->consumed, (uint64_t)taken);
	shm_store_relaxed(&s->depth, (uint64_t)(available - taken));
	shm_store_relaxed(&s->last_active_ns, now_ns);
	return taken;
}
