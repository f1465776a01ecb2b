/* SPDX-License-Identifier: MIT */
/* What waits for workers, runs there, and ends. */
#include "daemon/dispatch_impl.h"

struct slot *slot_take(struct dispatch *d, struct channel *ch)
{
	/* The last slots are kept so that every channel can have one: nobody starves. */
	if (d->n_free == 0 || (ch->in_flight > 0 && d->n_free <= d->n_channels))
		return NULL;
	struct slot *slot = TAILQ_FIRST(&d->free_slots);
	TAILQ_REMOVE(&d->free_slots, slot, link);
	d->n_free--;
	return slot;
}

static void slot_release(struct dispatch *d, struct slot *slot)
{
	struct channel *ch = slot->channel;

	shm_store_release_u32(&slot->ledger->generation, 0);
	slot->channel = NULL;
	for (uint32_t i = 0; i < slot->uses.n; i++) {
		if (buffer_release(slot->uses.buffers[i]))
			dispatch_tell_buffer(d, slot->uses.buffers[i]);
	}
	TAILQ_INSERT_HEAD(&d->free_slots, slot, link);
	d->n_free++;
	d->slot_freed = true;
	ch->in_flight--;
	shm_store_relaxed(&ch->stats->in_flight, ch->in_flight);
}

void slot_enqueue(struct dispatch *d, struct channel *ch, struct slot *slot)
{
	slot->channel = ch;
	slot->value = 0;
	slot->completion->word = 0;
	buffer_hold(&slot->uses);
	/* Counts only once channel_flush() has committed the index behind it. */
	*slot->ledger = (struct ledger_entry){
		.user_data = slot->user_data,
		.seq = ch->sq.cons - 1,
		.cq_at = ch->cq.prod + LEDGER_NOT_COMPLETING,
		.channel = ch->number,
	};
	shm_store_release_u32(&slot->ledger->generation, ch->generation);
	ch->in_flight++;
	shm_store_relaxed(&ch->stats->in_flight, ch->in_flight);
	if (TAILQ_EMPTY(&ch->queue))
		TAILQ_INSERT_TAIL(&d->runnable[ch->priority], ch, run_link);
	TAILQ_INSERT_TAIL(&ch->queue, slot, link);
	d->n_queued++;
	d->n_deadlines += slot->deadline_ns != 0;
}

/* Takes a slot out of its channel's queue. */
static void slot_dequeue(struct dispatch *d, struct slot *slot)
{
	struct channel *ch = slot->channel;

	TAILQ_REMOVE(&ch->queue, slot, link);
	if (TAILQ_EMPTY(&ch->queue))
		TAILQ_REMOVE(&d->runnable[ch->priority], ch, run_link);
	d->n_queued--;
	d->n_deadlines -= slot->deadline_ns != 0;
}

void count_operator(struct dispatch *d, struct channel *ch, const struct op *op, int status,
	uint64_t queued_ns, uint64_t executed_ns)
{
	for (uint32_t i = 0; i < op_count; i++) {
		struct stats_op *s = &d->o.stats.ops[i];
		if (op_table[i] != op)
			continue;
		shm_count(&s->calls, 1);
		if (status < 0)
			shm_count(&s->failed, 1);
		else
			hist_add(s->execute_hist, HIST_STATS_BITS, executed_ns);
		break;
	}
	hist_add(ch->stats->queue_hist, HIST_STATS_BITS, queued_ns);
	if (status == 0)
		hist_add(ch->stats->execute_hist, HIST_STATS_BITS, executed_ns);
}

/* Completes an accepted entry and frees its slot. */
static void slot_complete(
	struct dispatch *d, struct slot *slot, int status, uint64_t start_ns, uint64_t end_ns)
{
	struct channel *ch = slot->channel;
	struct wire_cqe cqe = {
		.user_data = slot->user_data,
		.status = status,
		.executed_ns = end_ns - start_ns,
	};

	if (slot->submit_ns != 0 && slot->submit_ns < start_ns)
		cqe.queued_ns = start_ns - slot->submit_ns;
	if (ch->state == CHANNEL_OPEN) {
		slot->ledger->cq_at = ch->cq.prod;
		channel_post(ch, &cqe);
		channel_flush(ch);
	}
	count_operator(d, ch, slot->launch.call.op, status, cqe.queued_ns, cqe.executed_ns);
	slot_release(d, slot);
}

int slot_cancel(struct dispatch *d, struct channel *ch, uint64_t user_data)
{
	struct slot *slot;

	budget_spend(d, ch->in_flight / BUDGET_UNIT_SLOTS);
	TAILQ_FOREACH (slot, &ch->queue, link) {
		if (slot->user_data != user_data)
			continue;
		uint64_t now_ns = clock_now_ns(&d->o.clock);
		shm_count(&ch->stats->cancelled, 1);
		slot_dequeue(d, slot);
		slot_complete(d, slot, -ECANCELED, now_ns, now_ns);
		return 0;
	}
	for (uint32_t i = 0; i < d->n_executing; i++) {
		if (d->executing[i]->channel == ch && d->executing[i]->user_data == user_data)
			return -EALREADY;
	}
	return -ENOENT;
}

void slot_discard_queue(struct dispatch *d, struct channel *ch)
{
	struct slot *slot;

	while ((slot = TAILQ_FIRST(&ch->queue)) != NULL) {
		slot_dequeue(d, slot);
		slot_release(d, slot);
	}
}

/* A queued entry is too late to start: completes it. */
static void slot_expire(struct dispatch *d, struct slot *slot, uint64_t now_ns)
{
	shm_count(&slot->channel->stats->expired, 1);
	slot_dequeue(d, slot);
	slot_complete(d, slot, -ETIMEDOUT, now_ns, now_ns);
}

static bool slot_late(const struct slot *slot, uint64_t now_ns)
{
	return slot->deadline_ns != 0 && slot->deadline_ns <= now_ns;
}

void dispatch_expire(struct dispatch *d, uint64_t now_ns)
{
	for (uint32_t i = 0; i < d->o.max_in_flight && d->n_deadlines > 0; i++) {
		struct slot *slot = &d->slots[i];
		if (slot->channel != NULL && slot->value == 0 && slot_late(slot, now_ns))
			slot_expire(d, slot, now_ns);
	}
}

/* Gives the slot's call to a stream. False: none is free. */
static bool launch_call(struct dispatch *d, struct slot *slot)
{
	const struct op_call *call = &slot->launch.call;
	const struct device_kernel kernel = {
		.code = op_code(call->op),
		.shape = &slot->launch,
		.shape_bytes = sizeof(slot->launch),
		.signal = true,
		.units = call->op->units(call),
		.predicted_ns = slot->predicted_ns,
	};
	struct device_args args;

	if (d->n_free_streams == 0)
		return false;
	op_launch_init(&slot->launch, call);
	op_args(&args, call);
	args.completion = slot->completion;
	args.value = d->launches + 1;
	slot->stream = d->free_streams[d->n_free_streams - 1];
	if (device_launch(slot->stream, &kernel, &args) < 0)
		return false;
	slot->value = ++d->launches;
	d->n_free_streams--;
	return true;
}

/* Starts the first entry of a channel, or ends it when it is late. False: the device is full. */
static bool launch(struct dispatch *d, struct channel *ch)
{
	struct slot *slot = TAILQ_FIRST(&ch->queue);
	uint64_t now_ns = slot->deadline_ns != 0 ? clock_now_ns(&d->o.clock) : 0;
	if (slot_late(slot, now_ns)) {
		slot_expire(d, slot, now_ns);
		return true;
	}
	int r = slot_is_copy(slot) ? copy_launch(d, slot) : 0;
	if (!slot_is_copy(slot) && !launch_call(d, slot))
		return false;
	slot_dequeue(d, slot);
	if (r < 0) {
		now_ns = clock_now_ns(&d->o.clock);
		slot_complete(d, slot, r, now_ns, now_ns);
		return true;
	}
	d->executing[d->n_executing++] = slot;
	shm_count(&d->stats->worker_runs, 1);
	/* Channels of one priority take turns. */
	if (!TAILQ_EMPTY(&ch->queue)) {
		TAILQ_REMOVE(&d->runnable[ch->priority], ch, run_link);
		TAILQ_INSERT_TAIL(&d->runnable[ch->priority], ch, run_link);
	}
	return true;
}

/* The first priority with work, unless one behind it has been passed over for too long. */
static uint32_t next_priority(const struct dispatch *d)
{
	uint32_t first = MSG_PRIORITIES;

	for (uint32_t p = MSG_PRIORITIES; p-- > 0;) {
		if (TAILQ_EMPTY(&d->runnable[p]))
			continue;
		if (d->passed_over[p] >= MAX_PASSED_OVER)
			return p;
		first = p;
	}
	return first;
}

/* The first channel in its turn whose entry does not have to wait for a stream to copy in. */
static struct channel *next_channel(const struct dispatch *d, uint32_t priority)
{
	struct channel *ch;

	TAILQ_FOREACH (ch, &d->runnable[priority], run_link) {
		if (d->n_free_copy_streams > 0 || !slot_is_copy(TAILQ_FIRST(&ch->queue)))
			break;
	}
	return ch;
}

static bool launch_next(struct dispatch *d)
{
	uint32_t next = next_priority(d);
	struct channel *ch = next_channel(d, next);

	if (ch == NULL || !launch(d, ch))
		return false;
	d->passed_over[next] = 0;
	for (uint32_t p = next + 1; p < MSG_PRIORITIES; p++)
		d->passed_over[p] += !TAILQ_EMPTY(&d->runnable[p]);
	return true;
}

bool dispatch_run(struct dispatch *d)
{
	bool progress = false;

	for (uint32_t i = 0; i < d->n_executing; i++) {
		struct slot *slot = d->executing[i];
		if (!device_done(slot->completion, slot->value))
			continue;
		d->executing[i--] = d->executing[--d->n_executing];
		if (slot_is_copy(slot))
			copy_end(d, slot);
		else
			d->free_streams[d->n_free_streams++] = slot->stream;
		const struct device_completion *c = slot->completion;
		shm_count(&d->stats->busy_ns, c->ended_ns - c->started_ns);
		slot_complete(d, slot, 0, c->started_ns, c->ended_ns);
		progress = true;
	}
	while (d->n_queued > 0 && launch_next(d))
		progress = true;
	return progress;
}
