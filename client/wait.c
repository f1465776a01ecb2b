/* SPDX-License-Identifier: MIT */
/* wait.c: taking completions, and waiting for them without burning what others need. */
#include "client/client.h"
#include "shm/failpoint.h"
#include "shm/segment.h"
#include "shm/wait.h"

#include <poll.h>
#include <string.h>

/*
 * Lengths of the stages. A small operator completes within a few microseconds, and falling asleep
 * and being woken costs both sides about 10 us: spinning for a few times that pays for itself.
 * Yielding keeps latency low when CPUs are shared, and costs the others next to nothing; but a
 * wait that has not ended after one more such span is a long one, and sleeps.
 */
#define SPIN_NS 30000ull
#define YIELD_NS 60000ull
/*
 * Waits in a row are often of one length: for the steps of a language model, say. Where the last
 * long one ended this one is likely to end too, and the time around it is spent awake if there is
 * a CPU for that: a timer and a bell are late by up to 100 us each.
 */
#define DUE_NS 150000ull
/* A sleeper looks again after this, in case its bell was lost. */
#define SLICE_NS (200 * NS_PER_MS)
/* A bell that is merely late rings within this: its ringer was off the CPU. */
#define LATE_BELL_MS 50

static int take_kept(struct gpuq_channel *ch, struct gpuq_completion *ret_completions, uint32_t max)
{
	uint32_t n = ch->n_kept < max ? ch->n_kept : max;

	memcpy(ret_completions, &ch->kept[ch->kept_at], n * sizeof(*ret_completions));
	ch->kept_at += n;
	ch->n_kept -= n;
	return (int)n;
}

/*
 * Completions in the ring. When there is none and there never will be, ends the channel and
 * returns the error.
 */
static int look(struct gpuq_channel *ch)
{
	/* Its line comes with that of the index, not after it. */
	__builtin_prefetch(&ch->cqes[ring_slot(ch->cq.cons, ch->cq_entries)]);
	int n = ring_refresh(&ch->cq);

	if (__builtin_expect(n < 0, 0)) {
		channel_poison(ch);
		return channel_end(ch);
	}
	if (n > 0 || !__builtin_expect(channel_gone(ch), 0))
		return n;
	/* What was published before the end is visible after this; it counts. */
	shm_fence();
	n = ring_refresh(&ch->cq);
	return n > 0 ? n : channel_end(ch);
}

int gpuq_poll(struct gpuq_channel *ch, struct gpuq_completion *ret_completions, uint32_t max)
{
	if (!channel_owned(ch))
		return channel_refuse(ch);
	if (__builtin_expect(ch->n_kept != 0, 0))
		return take_kept(ch, ret_completions, max);
	int n = look(ch);
	if (n <= 0 || max == 0)
		return n < 0 ? n : 0;
	return submit_reap(ch, ret_completions, (uint32_t)n < max ? (uint32_t)n : max);
}

static bool may_spin(const struct gpuq_channel *ch)
{
	return shm_load_relaxed_u32(&ch->page->devices[ch->device].runnable) <= ch->spin_cpus;
}

/* Completions are there, or none will ever come. */
static bool worth_a_look(struct gpuq_channel *ch)
{
	__builtin_prefetch(&ch->cqes[ring_slot(ch->cq.cons, ch->cq_entries)]);
	return ring_refresh(&ch->cq) != 0 || channel_gone(ch);
}

/* Silences the bell, if it may ring. False when gpuqd has let go of it. */
static bool silence(struct gpuq_channel *ch)
{
	ch->bell_rung = false;
	return bell_drain_pipe(ch->bell_fd);
}

/* The slice is over and the bell has not rung, but there is work: was the bell lost? */
static void check_rescue(struct gpuq_channel *ch)
{
	struct pollfd p = {.fd = ch->bell_fd, .events = POLLIN};

	if (ring_refresh(&ch->cq) <= 0)
		return;
	if (poll(&p, 1, LATE_BELL_MS) > 0)
		ch->bell_rung = true;
	else
		ch->rescues++;
}

/*
 * Sleeps until the bell rings, `ns` at most; `early`: what is waited for goes on being waited for
 * awake then. The bell is silenced before the next sleep and not
 * after this one: nothing must stand between waking up and the completion.
 */
static void doze(struct gpuq_channel *ch, uint64_t ns, bool early)
{
	const struct timespec slice = {
		.tv_sec = (time_t)(ns / NS_PER_S),
		.tv_nsec = (long)(ns % NS_PER_S),
	};
	struct pollfd p = {.fd = ch->bell_fd, .events = POLLIN};

	if (ch->bell_rung && !silence(ch)) {
		(void)channel_lost(ch);
		return;
	}
	if (ring_sleep_prepare(&ch->cq, 1) != 0 || channel_gone(ch))
		return;
	FAILPOINT("client.wish");
	int r = ppoll(&p, 1, &slice, NULL);
	if (r == 0 && early)
		ch->bell_rung = true; /* it may, while nobody sleeps */
	else if (r == 0)
		check_rescue(ch);
	else if (r > 0 && (p.revents & POLLIN) != 0)
		ch->bell_rung = true;
	else if (r > 0)
		(void)channel_lost(ch);
}

/* When a wait ends. */
struct timer {
	uint64_t start_ns, timeout_ns;
};

static struct timer timer_start(const struct gpuq_channel *ch, uint64_t timeout_ns)
{
	return (struct timer){clock_now_ns(&ch->clock), timeout_ns};
}

static uint64_t timer_left_ns(const struct gpuq_channel *ch, const struct timer *t)
{
	uint64_t passed_ns = clock_now_ns(&ch->clock) - t->start_ns;

	return passed_ns < t->timeout_ns ? t->timeout_ns - passed_ns : 0;
}

static uint64_t shorter(uint64_t a_ns, uint64_t b_ns)
{
	return a_ns < b_ns ? a_ns : b_ns;
}

/* How long to sleep for what is likely to come about when the last long wait ended; 0: not now. */
static uint64_t doze_ns(const struct gpuq_channel *ch, uint64_t waited_ns)
{
	if (ch->usual_ns == 0 || waited_ns >= ch->usual_ns + DUE_NS || !may_spin(ch))
		return SLICE_NS;
	return waited_ns + DUE_NS < ch->usual_ns ? ch->usual_ns - DUE_NS - waited_ns : 0;
}

/* Waits until it is worth a look. 0 or -ETIMEDOUT. */
static int wait_until(struct gpuq_channel *ch, const struct timer *t)
{
	uint64_t spin_ns = shorter(SPIN_NS, t->timeout_ns);
	struct wait *w = &ch->wait;
	bool is_long = false;

	wait_reset(w);
	w->spin_ns = spin_ns;
	w->yield_ns = shorter(YIELD_NS, t->timeout_ns - spin_ns);
	while (!worth_a_look(ch)) {
		if (wait_round(w, may_spin(ch), &ch->clock))
			continue;
		uint64_t left_ns = timer_left_ns(ch, t);
		if (left_ns == 0)
			return fail_plain(-ETIMEDOUT,
				"nothing completed in time; everything stays in flight");
		const uint64_t ns = doze_ns(ch, t->timeout_ns - left_ns);
		is_long = true;
		if (ns > 0)
			doze(ch, shorter(left_ns, ns), ns < SLICE_NS);
	}
	if (is_long)
		ch->usual_ns = t->timeout_ns - timer_left_ns(ch, t);
	wait_done(w);
	return 0;
}

int gpuq_wait(struct gpuq_channel *ch, struct gpuq_completion *ret_completions, uint32_t max,
	uint64_t timeout_ns)
{
	int n = gpuq_poll(ch, ret_completions, max);

	if (n != 0)
		return n;
	if (max == 0)
		return fail_plain(-EINVAL, "max is 0: there is room for no completion");
	if (flights_busy(ch) == 0)
		return fail_plain(-ENODATA, gpuq_strerror(ENODATA));
	const struct timer t = timer_start(ch, timeout_ns);
	int r = wait_until(ch, &t);
	return r < 0 ? r : gpuq_poll(ch, ret_completions, max);
}

/* Moves up to `max` completions from the ring to where gpuq_poll() finds them first. */
static int keep(struct gpuq_channel *ch, uint32_t max)
{
	int n = look(ch);

	if (n <= 0)
		return n;
	if (ch->kept_at > 0) {
		memmove(ch->kept, &ch->kept[ch->kept_at], ch->n_kept * sizeof(*ch->kept));
		ch->kept_at = 0;
	}
	uint32_t room = ch->cq_entries - ch->n_kept;
	if (room > max)
		room = max;
	if (room == 0)
		return fail_plain(
			-ENOSPC, "no room to keep more completions; take them with gpuq_poll()");
	n = submit_reap(ch, &ch->kept[ch->n_kept], (uint32_t)n < room ? (uint32_t)n : room);
	if (n > 0)
		ch->n_kept += (uint32_t)n;
	return n;
}

int channel_settle(struct gpuq_channel *ch)
{
	int n;

	do
		n = keep(ch, UINT32_MAX);
	while (n > 0);
	return ch->cq.ring == &ch->ended_ring ? 0 : n;
}

/* 1: there is space; 0: not yet; or an error. */
static int have_space(struct gpuq_channel *ch, uint32_t entries, size_t bytes)
{
	int space = ring_space(&ch->sq, entries);

	if (space < 0)
		return channel_poison(ch);
	return (uint32_t)space >= entries && ch->n_free >= entries &&
		arena_largest(ch->arena) >= bytes;
}

int gpuq_wait_space(struct gpuq_channel *ch, uint32_t entries, size_t bytes, uint64_t timeout_ns)
{
	if (!channel_owned(ch))
		return channel_refuse(ch);
	if (entries > ch->sq.entries || bytes > arena_capacity(ch->arena))
		return fail(-GPUQ_ETOOBIG,
			"the channel can hold %u submissions and %llu bytes; open it with more",
			ch->sq.entries, (unsigned long long)arena_capacity(ch->arena));
	const struct timer t = timer_start(ch, timeout_ns);
	for (;;) {
		int r = have_space(ch, entries, bytes);
		if (r != 0)
			return r < 0 ? r : 0;
		r = keep(ch, UINT32_MAX);
		if (r < 0)
			return r;
		if (r > 0)
			continue;
		if (flights_busy(ch) == 0)
			return fail_plain(-ENOSPC,
				"nothing in flight could free a piece of the arena that is large "
				"enough; free something");
		r = wait_until(ch, &t);
		if (r < 0)
			return r;
	}
}

int call_room(struct gpuq_channel *ch)
{
	int r = gpuq_wait_space(ch, 1, 0, GPUQ_FOREVER);

	if (r == 0 && flights_busy(ch) + ch->n_kept >= ch->cq_entries)
		r = fail_plain(-ENOSPC,
			"no room to keep the completions of what is in flight; take some with "
			"gpuq_poll()");
	return r;
}

int call_wait(struct gpuq_channel *ch, const struct gpuq_call *call,
	struct gpuq_completion *ret_completion)
{
	const struct timer t = timer_start(ch, GPUQ_FOREVER);

	for (;;) {
		int r = keep(ch, 1);
		if (r < 0)
			return r;
		if (r > 0 && call->references == 1) {
			/* Its own is the last one that was kept. */
			*ret_completion = ch->kept[ch->kept_at + --ch->n_kept];
			return 0;
		}
		if (r == 0)
			r = wait_until(ch, &t);
		if (r < 0)
			return r;
	}
}

int gpuq_completion_fd(const struct gpuq_channel *ch)
{
	return ch->bell_fd;
}

int gpuq_arm(struct gpuq_channel *ch)
{
	if (!channel_owned(ch))
		return channel_refuse(ch);
	if (ch->n_kept != 0)
		return 1;
	if (!silence(ch))
		(void)channel_lost(ch);
	(void)ring_sleep_prepare(&ch->cq, 1);
	int n = look(ch);
	return n > 0 ? 1 : n;
}
