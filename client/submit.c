/* SPDX-License-Identifier: MIT */
/*
 * submit.c: the hot path. gpuqd sees a token for each submission; what the caller gave with it
 * stays in the private table `flights`. So a completion is checked before it is believed, and a
 * call that is destroyed in flight is freed with its last completion. Never are more than
 * cq_entries in flight, so gpuqd always has room to complete.
 */
#include "client/client.h"
#include "shm/failpoint.h"
#include "shm/probe.h"
#include "shm/segment.h"

/* Why nothing can be submitted, when channel_shut() says so. */
static int refuse_shut(struct gpuq_channel *ch)
{
	if (channel_gone(ch))
		return channel_lost(ch);
	return fail_plain(-GPUQ_EDRAIN, gpuq_strerror(GPUQ_EDRAIN));
}

/* Nothing can be submitted, unless the channel has ended with gpuqd and a new one is there. */
static int revive(struct gpuq_channel *ch)
{
	struct gpuq *g = ch->gpuq;

	if (!g->automatic || !channel_gone(ch) || flights_busy(ch) + ch->n_kept > 0)
		return refuse_shut(ch);
	return reconnect_once(g) == 0 && !channel_shut(ch) ? 0 : refuse_shut(ch);
}

/* How many of n >= 1 can be submitted now, at least 1, or why none. */
static int room_for(struct gpuq_channel *ch, uint32_t n)
{
	if (!channel_owned(ch))
		return channel_refuse(ch);
	int r = __builtin_expect(channel_shut(ch), 0) ? revive(ch) : 0;
	if (r < 0)
		return r;
	if (n > ch->n_free)
		n = ch->n_free;
	if (n == 0)
		return fail_plain(-EAGAIN,
			"cq_entries submissions are in flight; take completions with gpuq_poll()");
	int space = ring_space(&ch->sq, n);
	if (space < 0)
		return channel_poison(ch);
	if (space == 0)
		return fail_plain(-EAGAIN,
			"the submission ring is full; poll, or wait with gpuq_wait_space()");
	return (uint32_t)space < n ? space : (int)n;
}

/*
 * What moves with every entry. A copy on the stack stays in registers, whereas the compiler must
 * assume that a store to an entry changes the channel.
 */
struct cursor {
	uint64_t index; /* of the ring */
	uint32_t n_free;
};

/* Writes one entry, not yet visible to gpuqd. */
static inline void push(struct gpuq_channel *ch, struct cursor *at, struct gpuq_call *call,
	uint64_t opcode, uint64_t args, const struct gpuq_submission *s, uint64_t now_ns)
{
	uint32_t slot = ch->free_slots[--at->n_free];
	uint64_t token = slot | at->index << 32;
	uint64_t deadline_ns = 0;

	if (s->timeout_ns != 0) {
		deadline_ns = now_ns + s->timeout_ns;
		/* One that would lie beyond the end of time never passes. */
		deadline_ns = deadline_ns < now_ns ? 0 : deadline_ns;
	}
	call->references++;
	ch->flights[slot] = (struct flight){token, s->user_data, call, at->index};
	/* Word by word: a copy from an array would go through memory twice. */
	uint64_t *words = (uint64_t *)&ch->sqes[ring_slot(at->index++, ch->sq.entries)];
	shm_store_relaxed(&words[0], opcode);
	shm_store_relaxed(&words[1], token);
	shm_store_relaxed(&words[2], args);
	shm_store_relaxed(&words[3], deadline_ns);
	shm_store_relaxed(&words[4], s->trace_id & ch->trace_mask);
	shm_store_relaxed(&words[5], now_ns);
	shm_store_relaxed(&words[6], ch->tail_word);
	shm_store_relaxed(&words[7], 0);
	_Static_assert(sizeof(struct wire_sqe) == 8 * sizeof(*words), "every word is written");
}

/* Makes the entries before the cursor visible. */
static inline void publish(struct gpuq_channel *ch, const struct cursor *at)
{
	ch->sq.prod = at->index;
	ch->n_free = at->n_free;
	FAILPOINT("client.entry");
	ring_publish(&ch->sq);
	FAILPOINT("client.published");
	if (ring_wake_wanted(&ch->sq)) {
		bell_ring_eventfd(ch->doorbell_fd);
		FAILPOINT("client.rung");
	}
}

int gpuq_submit(struct gpuq_channel *ch, const struct gpuq_submission *submissions, uint32_t n)
{
	if (n == 0)
		return 0;
	int room = room_for(ch, n);
	if (room < 0)
		return room;
	uint64_t now_ns = clock_now_ns(&ch->clock);
	struct cursor at = {ch->sq.prod, ch->n_free};
	int done = 0;
	for (; done < room; done++) {
		const struct gpuq_submission *s = &submissions[done];
		struct gpuq_call *call = s->call != NULL ? s->call : &ch->null_call;
		if (__builtin_expect(call->channel != ch, 0))
			break;
		push(ch, &at, call, call->opcode, call->args, s, now_ns);
	}
	if (done == 0)
		return fail_plain(-EINVAL, "the call was created for another channel");
	publish(ch, &at);
	PROBE3(submit, at.index, done, now_ns);
	return done;
}

/* The oldest submission in flight with this user_data, cancellations aside. */
static const struct flight *find_oldest(const struct gpuq_channel *ch, uint64_t user_data)
{
	const struct flight *oldest = NULL;

	for (uint32_t i = 0; i < ch->cq_entries; i++) {
		const struct flight *f = &ch->flights[i];
		if (f->token == FLIGHT_FREE || f->user_data != user_data ||
			f->call == &ch->cancel_call)
			continue;
		/* The distance to the next one: indices may wrap. */
		if (oldest == NULL || ch->sq.prod - f->index > ch->sq.prod - oldest->index)
			oldest = f;
	}
	return oldest;
}

int gpuq_cancel(struct gpuq_channel *ch, uint64_t target_user_data, uint64_t user_data)
{
	const struct gpuq_submission s = {.user_data = user_data};
	int room = room_for(ch, 1);

	if (room < 0)
		return room;
	const struct flight *target = find_oldest(ch, target_user_data);
	if (target == NULL)
		return fail_plain(-ENOENT, "nothing with this user_data is in flight");
	struct cursor at = {ch->sq.prod, ch->n_free};
	push(ch, &at, &ch->cancel_call, WIRE_OP_CANCEL, target->token, &s,
		clock_now_ns(&ch->clock));
	publish(ch, &at);
	return 0;
}

int gpuq_precapture(struct gpuq_channel *ch, struct gpuq_call *call, uint64_t user_data)
{
	const struct gpuq_submission s = {.user_data = user_data};
	int r = session_need_abi3(ch->gpuq, "captures");
	int room = r < 0 ? r : room_for(ch, 1);

	if (room < 0)
		return room;
	if (call == NULL || call->channel != ch)
		return fail_plain(-EINVAL, "no call of this channel was given");
	if (call->opcode != WIRE_OP_CALL)
		return fail_plain(-EOPNOTSUPP,
			"only operators and pipelines can be captured so; for steps of a model see "
			"gpuq_capture_create()");
	struct cursor at = {ch->sq.prod, ch->n_free};
	push(ch, &at, call, WIRE_OP_CAPTURE, call->args, &s, clock_now_ns(&ch->clock));
	publish(ch, &at);
	return 0;
}

/* Stops before an impossible completion; when that is the first, the channel ends. */
int submit_reap(struct gpuq_channel *ch, struct gpuq_completion *ret_completions, uint32_t n)
{
	struct cursor at = {ch->cq.cons, ch->n_free};
	uint32_t done = 0;

	for (; done < n; done++) {
		const uint64_t *words =
			(const uint64_t *)&ch->cqes[ring_slot(at.index, ch->cq_entries)];
		uint64_t token = shm_load_relaxed(&words[0]);
		uint32_t slot = (uint32_t)token;
		if (__builtin_expect(slot >= ch->cq_entries, 0))
			break;
		struct flight *f = &ch->flights[slot];
		if (__builtin_expect(f->token != token, 0))
			break;
		uint64_t status = shm_load_relaxed(&words[1]);
		ret_completions[done] = (struct gpuq_completion){
			.user_data = f->user_data,
			.status = (int32_t)status,
			.flags = (uint32_t)(status >> 32),
			.queued_ns = shm_load_relaxed(&words[2]),
			.executed_ns = shm_load_relaxed(&words[3]),
		};
		f->token = FLIGHT_FREE;
		ch->free_slots[at.n_free++] = (uint16_t)slot;
		at.index++;
		call_release(f->call);
	}
	ch->cq.cons = at.index;
	ch->n_free = at.n_free;
	FAILPOINT("client.copied");
	ring_release(&ch->cq);
	FAILPOINT("client.released");
	PROBE2(complete, at.index, done);
	if (__builtin_expect(done == 0, 0)) {
		channel_poison(ch);
		return channel_end(ch);
	}
	return (int)done;
}

uint32_t gpuq_in_flight(const struct gpuq_channel *ch)
{
	return flights_busy(ch) + ch->n_kept;
}
