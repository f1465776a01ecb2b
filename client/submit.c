/* SPDX-License-Identifier: MIT */
/*
 * submit.c: the hot path. gpuqd sees a token for each submission; what the caller gave with it
 * stays in the private table `flights`. So a completion is checked before it is believed, and a
 * call that is destroyed in flight is freed with its last completion. Never are more than
 * cq_entries in flight, so gpuqd always has room to complete.
 */
#include "client/client.h"
#include "shm/segment.h"

/* Why nothing can be submitted, when channel_shut() says so. */
static int refuse_shut(struct gpuq_channel *ch)
{
	if (channel_gone(ch))
		return channel_lost(ch);
	return fail_plain(-GPUQ_EDRAIN, gpuq_strerror(GPUQ_EDRAIN));
}

/* How many of n >= 1 can be submitted now, at least 1, or why none. */
static int room_for(struct gpuq_channel *ch, uint32_t n)
{
	if (!channel_owned(ch))
		return channel_refuse(ch);
	if (__builtin_expect(channel_shut(ch), 0))
		return refuse_shut(ch);
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

/* Writes one entry, not yet visible to gpuqd. */
static inline void push(struct gpuq_channel *ch, struct gpuq_call *call, uint64_t args,
	const struct gpuq_submission *s, uint64_t now_ns)
{
	uint32_t slot = ch->free_slots[--ch->n_free];
	uint64_t serial = ch->serial++;
	uint64_t token = slot | serial << 32;
	uint64_t deadline_ns = 0;

	if (s->timeout_ns != 0) {
		deadline_ns = now_ns + s->timeout_ns;
		/* One that would lie beyond the end of time never passes. */
		deadline_ns = deadline_ns < now_ns ? 0 : deadline_ns;
	}
	call->references++;
	ch->flights[slot] = (struct flight){token, s->user_data, call, serial};
	const uint64_t words[] = {
		call->opcode,
		token,
		args,
		deadline_ns,
		s->trace_id & ch->trace_mask,
		now_ns,
		ch->tail_word,
		0,
	};
	_Static_assert(sizeof(words) == sizeof(struct wire_sqe), "a word for each field");
	shm_copy_out(&ch->sqes[ring_slot(ch->sq.prod, ch->sq.entries)], words, 8);
	ch->sq.prod++;
}

static inline void publish(struct gpuq_channel *ch)
{
	ring_publish(&ch->sq);
	if (ring_wake_wanted(&ch->sq))
		bell_ring_eventfd(ch->doorbell_fd);
}

int gpuq_submit(struct gpuq_channel *ch, const struct gpuq_submission *submissions, uint32_t n)
{
	if (n == 0)
		return 0;
	int room = room_for(ch, n);
	if (room < 0)
		return room;
	uint64_t now_ns = clock_now_ns(&ch->clock);
	int done = 0;
	for (; done < room; done++) {
		const struct gpuq_submission *s = &submissions[done];
		struct gpuq_call *call = s->call != NULL ? s->call : &ch->null_call;
		if (__builtin_expect(call->channel != ch, 0))
			break;
		push(ch, call, call->args, s, now_ns);
	}
	if (done == 0)
		return fail_plain(-EINVAL, "the call was created for another channel");
	publish(ch);
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
		if (oldest == NULL || f->serial < oldest->serial)
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
	push(ch, &ch->cancel_call, target->token, &s, clock_now_ns(&ch->clock));
	publish(ch);
	return 0;
}

/* Stops before an impossible completion; when that is the first, the channel ends. */
int submit_reap(struct gpuq_channel *ch, struct gpuq_completion *ret_completions, uint32_t n)
{
	uint32_t done = 0;

	for (; done < n; done++) {
		struct wire_cqe e;
		shm_copy_in(&e, &ch->cqes[ring_slot(ch->cq.cons, ch->cq_entries)],
			sizeof(e) / sizeof(uint64_t));
		uint32_t slot = (uint32_t)e.user_data;
		if (__builtin_expect(slot >= ch->cq_entries, 0))
			break;
		struct flight *f = &ch->flights[slot];
		if (__builtin_expect(f->token != e.user_data, 0))
			break;
		ret_completions[done] = (struct gpuq_completion){
			f->user_data, e.status, e.flags, e.queued_ns, e.executed_ns};
		f->token = FLIGHT_FREE;
		ch->free_slots[ch->n_free++] = (uint16_t)slot;
		ch->cq.cons++;
		call_release(f->call);
	}
	ring_release(&ch->cq);
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
