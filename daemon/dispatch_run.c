/* SPDX-License-Identifier: MIT */
/* What waits for its turn, goes to the graph cache, a copy stream or an engine, and ends. */
#include "daemon/dispatch_impl.h"
#include "shm/failpoint.h"

/*
 * Whether a user may have another slot: as long as it has no more than some times as many as are
 * left. So one alone can have nearly all, many have about as many each, and who comes to full
 * queues finds some.
 */
static bool user_may_queue(const struct dispatch *d, const struct share *share)
{
	return d->n_free > d->n_channels &&
		share->in_flight < SLOTS_FOR_EACH_FREE * (d->n_free - d->n_channels);
}

struct slot *slot_take(struct dispatch *d, struct channel *ch)
{
	/* The last slots are kept so that every channel can have one: nobody starves. */
	if (d->n_free == 0 || (ch->in_flight > 0 && !user_may_queue(d, ch->share)))
		return NULL;
	/* Of a user that has as much as it may have at all, even its other channels wait. */
	if (d->o.max_in_flight_per_user > 0 && ch->share->in_flight >= d->o.max_in_flight_per_user)
		return NULL;
	struct slot *slot = TAILQ_FIRST(&d->free_slots);
	TAILQ_REMOVE(&d->free_slots, slot, link);
	d->n_free--;
	return slot;
}

static void slot_release(struct dispatch *d, struct slot *slot, uint64_t now_ns)
{
	struct channel *ch = slot->channel;

	shm_store_release_u32(&slot->ledger->generation, 0);
	slot->channel = NULL;
	for (uint32_t i = 0; i < slot->uses.n; i++) {
		if (buffer_release(slot->uses.buffers[i]))
			dispatch_tell_buffer(d, slot->uses.buffers[i]);
	}
	if (slot->pipeline != NULL && pipeline_release(slot->pipeline))
		dispatch_tell_pipeline(d, slot->pipeline);
	TAILQ_INSERT_HEAD(&d->free_slots, slot, link);
	d->n_free++;
	d->slot_freed = true;
	ch->in_flight--;
	ch->captures -= slot->capture;
	share_ended(ch->share, now_ns);
	shm_store_relaxed(&ch->stats->in_flight, ch->in_flight);
}

/* A channel with a queue waits for its turn, if it may have one. */
static void queue_channel(struct dispatch *d, struct channel *ch, uint64_t now_ns)
{
	if (ch->held)
		TAILQ_INSERT_TAIL(&d->held, ch, run_link);
	else
		share_queue(&d->shares, ch, now_ns);
}

static void unqueue_channel(struct dispatch *d, struct channel *ch)
{
	if (ch->held)
		TAILQ_REMOVE(&d->held, ch, run_link);
	else
		share_unqueue(&d->shares, ch);
}

void slot_hold_queue(struct dispatch *d, struct channel *ch, bool held)
{
	const bool queued = !TAILQ_EMPTY(&ch->queue);

	if (queued)
		unqueue_channel(d, ch);
	ch->held = held;
	ch->waits_cold = false;
	if (queued)
		queue_channel(d, ch, clock_now_ns(&d->o.clock));
}

void slot_enqueue(struct dispatch *d, struct channel *ch, struct slot *slot, uint64_t now_ns)
{
	slot->channel = ch;
	slot->value = 0;
	slot->charged_ns = 0;
	slot->work.blame = 0;
	*slot->completion = (struct device_completion){0};
	buffer_hold(&slot->uses);
	if (slot->pipeline != NULL)
		slot->pipeline->in_flight++;
	/* Counts only once channel_flush() has committed the index behind it. */
	*slot->ledger = (struct ledger_entry){
		.user_data = slot->user_data,
		.seq = ch->sq.cons - 1,
		.cq_at = ch->cq.prod + LEDGER_NOT_COMPLETING,
		.channel = ch->number,
	};
	shm_store_release_u32(&slot->ledger->generation, ch->generation);
	ch->in_flight++;
	ch->captures += slot->capture;
	shm_store_relaxed(&ch->stats->in_flight, ch->in_flight);
	share_began(ch->share, now_ns);
	if (TAILQ_EMPTY(&ch->queue))
		queue_channel(d, ch, now_ns);
	TAILQ_INSERT_TAIL(&ch->queue, slot, link);
	d->n_queued++;
	d->n_deadlines += slot->deadline_ns != 0;
}

/* Takes a slot out of its channel's queue. */
static void slot_dequeue(struct dispatch *d, struct slot *slot)
{
	struct channel *ch = slot->channel;
	const bool was_first = TAILQ_FIRST(&ch->queue) == slot;

	/* Nothing is known of the next one. */
	if (was_first && ch->waits_cold)
		share_requeue(&d->shares, ch, false);
	TAILQ_REMOVE(&ch->queue, slot, link);
	if (TAILQ_EMPTY(&ch->queue))
		unqueue_channel(d, ch);
	d->n_queued--;
	d->n_deadlines -= slot->deadline_ns != 0;
}

/* Completes an accepted entry and frees its slot. */
static void slot_complete(
	struct dispatch *d, struct slot *slot, int status, const struct times *times)
{
	struct channel *ch = slot->channel;
	struct wire_cqe cqe = {
		.user_data = slot->user_data,
		.status = status,
		.flags = status < 0 ? slot->work.blame << WIRE_CQE_ARG_SHIFT : 0,
		.executed_ns = times->end_ns - times->start_ns,
	};

	if (status == -GPUQ_EDEVICE && (slot->ledger->channel & LEDGER_STARTED) == 0)
		cqe.flags |= WIRE_CQE_NOT_STARTED;
	if (slot->submit_ns != 0 && slot->submit_ns < times->start_ns)
		cqe.queued_ns = times->start_ns - slot->submit_ns;
	if (ch->state == CHANNEL_OPEN) {
		slot->ledger->cq_at = ch->cq.prod;
		channel_post(ch, &cqe);
		channel_flush(ch);
		record_ended(d, slot, status, times);
		/* Who is answered is likely to go on at once, sooner than a doorbell is heard. */
		if (!ch->active)
			dispatch_activate(d, ch, times->now_ns);
	}
	if (status < 0)
		count_error(d, status, slot_subject(slot), times->end_ns);
	if (slot->pipeline != NULL)
		count_pipeline(d, slot->pipeline, status, cqe.executed_ns);
	if (!slot->capture && slot->kind != SLOT_SESSION)
		count_operator(d, ch, &slot->call, status, cqe.queued_ns, cqe.executed_ns);
	slot_release(d, slot, times->now_ns);
}

/* Likewise, of one that has not executed. */
static void slot_complete_unrun(struct dispatch *d, struct slot *slot, int status, uint64_t now_ns)
{
	slot_complete(d, slot, status, &(const struct times){now_ns, now_ns, now_ns});
}

static bool goes_to_cache(const struct slot *slot)
{
	return slot->kind == SLOT_CALL || slot->kind == SLOT_SHAPE;
}

/* Asks for the end of what has left the queue; false when it runs. */
static bool cancel_one(struct dispatch *d, struct slot *slot)
{
	if (slot->kind == SLOT_STEP)
		return model_cancel(slot);
	return goes_to_cache(slot) && graphs_cancel(d->o.graphs, &slot->work);
}

/* Likewise of what has left the queue: 0 when it had not started. */
static int cancel_given(struct dispatch *d, struct slot *const *slots, uint32_t n,
	const struct channel *ch, uint64_t user_data)
{
	for (uint32_t i = 0; i < n; i++) {
		struct slot *slot = slots[i];
		if (slot->channel != ch || slot->user_data != user_data)
			continue;
		if (!cancel_one(d, slot))
			return -EALREADY;
		shm_count(&ch->stats->cancelled, 1);
		return 0;
	}
	return -ENOENT;
}

int slot_cancel(struct dispatch *d, struct channel *ch, uint64_t user_data)
{
	struct slot *slot;

	TAILQ_FOREACH (slot, &ch->queue, link) {
		if (slot->user_data != user_data)
			continue;
		uint64_t now_ns = clock_now_ns(&d->o.clock);
		shm_count(&ch->stats->cancelled, 1);
		slot_dequeue(d, slot);
		slot_complete_unrun(d, slot, -ECANCELED, now_ns);
		return 0;
	}
	int r = cancel_given(d, d->executing, d->n_executing, ch, user_data);
	if (r != -ENOENT)
		return r;
	r = cancel_given(d, d->stepping, d->n_stepping, ch, user_data);
	if (r != -ENOENT)
		return r;
	return cancel_given(d, d->capturing, d->n_capturing, ch, user_data);
}

/* Asks for the end of what has been given away of a channel, or of all (NULL). */
static void cancel_all(
	struct dispatch *d, struct slot *const *slots, uint32_t n, const struct channel *ch)
{
	for (uint32_t i = 0; i < n; i++) {
		if (ch == NULL || slots[i]->channel == ch)
			(void)cancel_one(d, slots[i]);
	}
}

void dispatch_cancel_captures(struct dispatch *d)
{
	cancel_all(d, d->capturing, d->n_capturing, NULL);
}

void slot_discard_queue(struct dispatch *d, struct channel *ch)
{
	const uint64_t now_ns = clock_now_ns(&d->o.clock);
	struct slot *slot;

	while ((slot = TAILQ_FIRST(&ch->queue)) != NULL) {
		slot_dequeue(d, slot);
		slot_release(d, slot, now_ns);
	}
	cancel_all(d, d->executing, d->n_executing, ch);
	cancel_all(d, d->capturing, d->n_capturing, ch);
	cancel_all(d, d->stepping, d->n_stepping, ch);
}

void dispatch_lose_all(struct dispatch *d)
{
	uint64_t now_ns = clock_now_ns(&d->o.clock);

	models_fail(d);
	for (uint32_t i = 0; i < d->o.max_in_flight; i++) {
		struct slot *slot = &d->slots[i];
		if (slot->channel == NULL)
			continue;
		if (slot->value == 0)
			slot_dequeue(d, slot);
		slot_complete_unrun(d, slot, -GPUQ_EDEVICE, now_ns);
	}
	d->n_executing = d->n_capturing = d->n_stepping = 0;
}

uint64_t slot_needs_ns(const struct dispatch *d, const struct slot *slot)
{
	return estimate_run_ns(d->estimates, slot->key);
}

int slot_in_time(struct dispatch *d, const struct slot *slot, uint64_t needs_ns, uint64_t now_ns)
{
	if (slot->deadline_ns == 0)
		return 0;
	if (slot->deadline_ns <= now_ns)
		return -ETIMEDOUT;
	if (needs_ns <= slot->deadline_ns - now_ns)
		return 0;
	estimate_doubt(d->estimates, slot->key);
	return -GPUQ_EDEADLINE;
}

/* Completes a queued entry that is too late, or will be; false: it is neither. */
static bool slot_expire(struct dispatch *d, struct slot *slot, uint64_t now_ns)
{
	const int r = slot_in_time(d, slot, slot_needs_ns(d, slot), now_ns);

	if (r == 0)
		return false;
	shm_count(&slot->channel->stats->expired, 1);
	slot_dequeue(d, slot);
	slot_complete_unrun(d, slot, r, now_ns);
	return true;
}

void dispatch_expire(struct dispatch *d, uint64_t now_ns)
{
	for (uint32_t i = 0; i < d->o.max_in_flight && d->n_deadlines > 0; i++) {
		struct slot *slot = &d->slots[i];
		if (slot->channel != NULL && slot->value == 0 && slot->deadline_ns != 0)
			(void)slot_expire(d, slot, now_ns);
	}
}

/* The pointers that lie in the channel's arena: memory of the host. */
static uint32_t in_host(const struct channel *ch, const struct device_args *args)
{
	uint32_t mask = 0;

	for (uint32_t i = 0; i < DEVICE_MAX_POINTERS; i++) {
		uint64_t at = (uintptr_t)args->pointers[i] - (uintptr_t)ch->device_arena;
		mask |= (uint32_t)(at < ch->arena_bytes) << i;
	}
	return mask;
}

/* Gives the slot's work to the graph cache. -EAGAIN: there is no room now. */
static int launch_work(struct dispatch *d, struct slot *slot)
{
	const struct channel *ch = slot->channel;
	struct graph_work *w = &slot->work;

	w->completion = slot->completion;
	w->deadline_ns = slot->deadline_ns;
	w->priority = ch->priority;
	w->uid = ch->uid;
	w->args.completion = slot->completion;
	w->args.value = d->launches + 1;
	/* See dispatch_cancel_captures(): these had not left the queue. */
	if (slot->capture && (d->draining || d->paused))
		return -ECANCELED;
	int r = slot->capture ? graphs_precapture(d->o.graphs, w) : graphs_launch(d->o.graphs, w);
	if (r == 0)
		slot->value = ++d->launches;
	return r;
}

static int launch_call(struct dispatch *d, struct slot *slot)
{
	struct graph_work *w = &slot->work;

	w->call = &slot->call;
	w->key = slot->key;
	w->pipeline = slot->pipeline != NULL ? slot->pipeline->pipeline : NULL;
	op_args(&w->args, &slot->call);
	w->in_host = in_host(slot->channel, &w->args);
	return launch_work(d, slot);
}

static int launch_shape(struct dispatch *d, struct slot *slot)
{
	int r = model_shape_work(d, slot);

	if (r == 0)
		r = launch_work(d, slot);
	if (r == 0)
		slot->model->in_flight++;
	return r;
}

/* Keeps what has left the queue until it ends. */
static void keep(struct dispatch *d, struct slot *slot)
{
	if (slot->capture) {
		d->capturing[d->n_capturing++] = slot;
	} else if (slot->kind == SLOT_STEP) {
		slot->stepping_at = d->n_stepping;
		d->stepping[d->n_stepping++] = slot;
	} else {
		d->executing[d->n_executing++] = slot;
		shm_count(&d->stats->worker_runs, 1);
	}
}

void slot_step_ended(struct dispatch *d, struct slot *slot, int status, const struct times *times)
{
	struct slot *last = d->stepping[--d->n_stepping];

	d->stepping[slot->stepping_at] = last;
	last->stepping_at = slot->stepping_at;
	share_charge(slot->channel->share, (int64_t)slot->request.device_ns);
	slot_complete(d, slot, status, times);
}

/* Gives the slot away. -EAGAIN: there is no room now. */
static int slot_give(struct dispatch *d, struct slot *slot)
{
	switch (slot->kind) {
	case SLOT_COPY:
		return copy_launch(d, slot);
	case SLOT_STEP:
		return model_launch(d, slot);
	case SLOT_SHAPE:
		return launch_shape(d, slot);
	default:
		return launch_call(d, slot);
	}
}

/* What was launched is expected to take so much of the device. */
static void charge(struct dispatch *d, struct slot *slot)
{
	if (slot->capture || slot->kind == SLOT_STEP)
		return;
	slot->charged_ns = (int64_t)estimate_device_ns(d->estimates, slot->key, UNKNOWN_NS);
	share_charge(slot->channel->share, slot->charged_ns);
}

/* It has ended, and took so much of the device. */
static void measure(
	struct dispatch *d, struct slot *slot, int status, uint64_t device_ns, uint64_t now_ns)
{
	if (slot->capture)
		return;
	share_charge(slot->channel->share, (int64_t)device_ns - slot->charged_ns);
	if (status == 0)
		estimate_add(d->estimates, slot->key, device_ns, now_ns - slot->started_ns);
}

enum launched {
	LAUNCH_NO_ROOM, /* or there will never be any again */
	LAUNCH_ENDED,	/* late or refused; or its channel is held */
	LAUNCH_STARTED,
};

/* Starts the first entry of a channel, if it may start. */
static enum launched launch(struct dispatch *d, struct channel *ch, uint64_t now_ns)
{
	struct slot *slot = TAILQ_FIRST(&ch->queue);

	if (__builtin_expect(channel_hinted(ch), 0)) {
		dispatch_hold(d, ch);
		return LAUNCH_ENDED;
	}
	if (slot->deadline_ns != 0 && slot_expire(d, slot, now_ns))
		return LAUNCH_ENDED;
	shm_store_release_u32(&slot->ledger->channel, ch->number | LEDGER_STARTED);
	if (slot->kind == SLOT_SESSION) {
		slot_dequeue(d, slot);
		int status = model_session_act(d, slot);
		FAILPOINT_OF("dispatch.session", slot->order.action);
		const struct times times = {now_ns, now_ns, clock_now_ns(&d->o.clock)};
		slot_complete(d, slot, status, &times);
		return LAUNCH_STARTED;
	}
	int r = slot_give(d, slot);
	d->failed |= r == -GPUQ_EDEVICE;
	if (r == -EAGAIN) {
		shm_store_release_u32(&slot->ledger->channel, ch->number);
		share_requeue(&d->shares, ch, goes_to_cache(slot) && slot->work.no_cold_room);
	}
	if (r == -EAGAIN || d->failed)
		return LAUNCH_NO_ROOM;
	slot_dequeue(d, slot);
	if (r < 0) {
		slot_complete_unrun(d, slot, r, now_ns);
		return LAUNCH_ENDED;
	}
	slot->started_ns = now_ns;
	/* An engine launches when it sees fit. */
	record_given(d, slot, slot->kind == SLOT_STEP ? now_ns : count_launch(d, now_ns));
	keep(d, slot);
	FAILPOINT_OF("dispatch.launched", slot->kind);
	charge(d, slot);
	/* Channels of one user and priority take turns. */
	if (!TAILQ_EMPTY(&ch->queue))
		share_requeue(&d->shares, ch, false);
	return LAUNCH_STARTED;
}

/* The priorities that have room among cold works. */
static uint32_t cold_room(const struct dispatch *d)
{
	uint32_t mask = 0;

	for (uint32_t p = 0; p < MSG_PRIORITIES; p++) {
		if (d->shares.n_cold[p] > 0 && graphs_cold_room(d->o.graphs, p))
			mask |= 1u << p;
	}
	return mask;
}

/*
 * Starts something of a priority: of the first channel in its turn for which there is room. Those
 * for which there is none go behind the others, which so have their chance however many they are.
 */
static enum launched launch_of(struct dispatch *d, uint32_t priority, uint64_t now_ns)
{
	struct shares *s = &d->shares;

	shares_attempt(s);
	for (uint32_t i = 0; i < MAX_TRIES && !d->failed; i++) {
		struct channel *ch = shares_next(s, priority, (cold_room(d) & 1u << priority) != 0);
		if (ch == NULL)
			return LAUNCH_NO_ROOM;
		const enum launched r = launch(d, ch, now_ns);
		if (r == LAUNCH_STARTED)
			shares_served(s, ch);
		if (r != LAUNCH_NO_ROOM)
			return r;
	}
	return LAUNCH_NO_ROOM;
}

/* Starts what there is room for. True when something was started, or ended instead. */
static bool launch_all(struct dispatch *d)
{
	const uint64_t start_ns = clock_now_ns(&d->o.clock);
	uint64_t now_ns = start_ns;
	uint32_t full = 0, next;
	bool any = false;

	/* Many launches are no reason for others to wait: the next round goes on with them. */
	for (; d->n_queued > 0 && d->n_executing < MAX_EXECUTING &&
		(!any || now_ns - start_ns < ROUND_PART_NS);
		now_ns = clock_now_ns(&d->o.clock)) {
		next = shares_priority(&d->shares, full, cold_room(d), now_ns);
		if (next == MSG_PRIORITIES)
			break;
		const enum launched r = launch_of(d, next, now_ns);
		if (r == LAUNCH_STARTED)
			shares_launched(&d->shares, next, now_ns);
		if (r == LAUNCH_NO_ROOM)
			full |= 1u << next;
		else
			any = true;
	}
	return any;
}

static bool slot_ended(const struct slot *slot)
{
	return device_done(slot->completion, slot->value);
}

/* What was given away has come back. */
static void finish(struct dispatch *d, struct slot *slot, uint64_t now_ns)
{
	const struct device_completion *c = slot->completion;
	uint64_t behind_ns = 0, device_ns;
	int status = (int)c->status;

	if (slot->kind == SLOT_COPY)
		copy_end(d, slot);
	else
		behind_ns = graphs_finish(d->o.graphs, &slot->work, now_ns);
	uint64_t start_ns = c->started_ns, end_ns = c->ended_ns;
	/* Not every device can tell, and what was refused late has not run. */
	if (start_ns == 0 || slot->kind == SLOT_COPY) {
		start_ns = slot->started_ns;
		end_ns = now_ns;
	}
	/* Cancelled, late or refused while it waited: it had nothing of the device. */
	device_ns = status < 0 && c->started_ns == 0 ? 0 : end_ns - start_ns;
	/* While it waited for the work before it in its lane, that had the device. */
	if (device_ns > 0 && c->started_ns == 0 && behind_ns > start_ns)
		device_ns = end_ns - behind_ns;
	if (!slot->capture)
		shm_count(&d->stats->busy_ns, device_ns);
	measure(d, slot, status, device_ns, now_ns);
	if (status == -ETIMEDOUT)
		shm_count(&slot->channel->stats->expired, 1);
	d->failed |= status == -GPUQ_EDEVICE;
	if (slot->kind == SLOT_SHAPE)
		status = model_shape_ended(d, slot, status);
	FAILPOINT_OF("dispatch.ended", slot->kind);
	slot_complete(d, slot, status, &(const struct times){start_ns, end_ns, now_ns});
}

/*
 * Looks at so many of those given, the next ones in each round. Ends wake clients, which takes
 * long: many of them are no reason for others to wait.
 */
static bool finish_some(
	struct dispatch *d, struct slot **given, uint32_t *n_given, uint32_t *at, uint32_t looks)
{
	uint64_t first_ns = 0;

	for (; looks > 0 && *n_given > 0; looks--) {
		if (*at >= *n_given)
			*at = 0;
		struct slot *slot = given[*at];
		if (!slot_ended(slot)) {
			++*at;
			continue;
		}
		const uint64_t now_ns = clock_now_ns(&d->o.clock);
		if (first_ns == 0)
			first_ns = now_ns;
		else if (now_ns - first_ns > ROUND_PART_NS)
			break;
		given[*at] = given[--*n_given];
		finish(d, slot, now_ns);
	}
	return first_ns != 0;
}

uint64_t dispatch_oldest_ns(const struct dispatch *d)
{
	uint64_t oldest_ns = model_oldest_ns(d);

	for (uint32_t i = 0; i < d->n_executing; i++) {
		const uint64_t started_ns = d->executing[i]->started_ns;
		if (started_ns < oldest_ns)
			oldest_ns = started_ns;
	}
	return oldest_ns == UINT64_MAX ? 0 : oldest_ns;
}

bool dispatch_has_ended(const struct dispatch *d)
{
	for (uint32_t i = 0; i < d->n_executing; i++) {
		if (slot_ended(d->executing[i]))
			return true;
	}
	for (uint32_t i = 0; i < d->n_capturing; i++) {
		if (slot_ended(d->capturing[i]))
			return true;
	}
	return false;
}

static bool launch_steps(struct dispatch *d)
{
	return models_busy(d) && model_run(d);
}

static bool launch_calls(struct dispatch *d)
{
	return !d->failed && launch_all(d);
}

/*
 * Steps of models and calls share the lanes. Whoever got on lets the other go first, so that
 * neither takes every place that becomes free.
 */
static bool launch_both(struct dispatch *d)
{
	const bool first = d->models_first ? launch_steps(d) : launch_calls(d);
	const bool second = d->models_first ? launch_calls(d) : launch_steps(d);

	if (first)
		d->models_first = !d->models_first;
	return first || second;
}

bool dispatch_run(struct dispatch *d)
{
	/* Those that wait for captures may be many, and wait long: a few in each round. */
	const bool captures =
		finish_some(d, d->capturing, &d->n_capturing, &d->capturing_at, CAPTURES_AT_ONCE);
	const bool calls =
		finish_some(d, d->executing, &d->n_executing, &d->executing_at, d->n_executing);

	return launch_both(d) || captures || calls;
}
