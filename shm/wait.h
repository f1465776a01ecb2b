/* SPDX-License-Identifier: MIT */
/*
 * wait.h: the three stages of waiting that both sides use: spin, then yield, then sleep.
 * Spinning pays only while every runnable party has a CPU of its own; with more parties than
 * CPUs a spinner keeps the very party it waits for from running.
 *
 *	struct wait w = wait_begin(spin_ns, yield_ns);
 *	for (;;) {
 *		while (!ready()) {
 *			if (!wait_round(&w, may_spin, &clock))
 *				sleep with a published wish
 *		}
 *		wait_done(&w);
 *	}
 *
 * may_spin is the count: parties <= CPUs. Without it the first stage is left out, or brief where
 * the caller sets that: dispatch does, since its peers may be running on another CPU just now, and
 * then a yield costs more than their next entry takes; clients do not, since those that happen to
 * yield less were seen to starve the others. The count cannot see everything
 * (parties pinned to the same CPU, other programs), so the wait also learns: when spinning has
 * failed a few times in a row and the answer came as soon as it yielded, it goes on without
 * spinning for a while.
 */
#ifndef GPUQ_SHM_WAIT_H
#define GPUQ_SHM_WAIT_H

#include "shm/atomics.h"
#include "shm/clock.h"

#include <sched.h>
#include <stdbool.h>

#define WAIT_CLOCK_ROUNDS 32 /* spins between two looks at the clock */
#define WAIT_BRIEF_ROUNDS 32 /* spins, about 1 us, where CPUs are fewer than parties */
#define WAIT_MAX_MISSES 4    /* so many failures in a row and spinning is given up */
#define WAIT_RETRY 64	     /* one in so many waits tries it again */

struct wait {
	uint64_t spin_ns, yield_ns; /* lengths of the stages */
	uint64_t since_ns;	    /* start of the present stage; 0: not started */
	uint32_t rounds;
	uint32_t brief_rounds; /* spins where CPUs are fewer than parties; 0 at first */
	uint32_t misses;       /* waits in a row that ended only after they stopped spinning */
	uint32_t skipped;      /* waits that have not tried since */
	bool yielding, spun;
};

static inline struct wait wait_begin(uint64_t spin_ns, uint64_t yield_ns)
{
	return (struct wait){.spin_ns = spin_ns, .yield_ns = yield_ns};
}

/* The next round begins again with the first stage: after a sleep. */
static inline void wait_reset(struct wait *w)
{
	w->since_ns = 0;
	w->rounds = 0;
	w->yielding = false;
	w->spun = false;
}

/* What was waited for has come; the next round belongs to another wait. */
static inline void wait_done(struct wait *w)
{
	if (!w->yielding)
		w->misses = 0;
	else if (w->rounds > 0 && w->misses < WAIT_MAX_MISSES)
		w->misses++;
	wait_reset(w);
}

/* Does spinning make sense for this wait? Asked once, in its first round. */
static inline bool wait_spins(struct wait *w)
{
	if (w->misses < WAIT_MAX_MISSES)
		return true;
	return ++w->skipped % WAIT_RETRY == 0;
}

/* One unsuccessful round: pauses or yields. False when it is time to sleep. */
static inline bool wait_round(struct wait *w, bool may_spin, const struct clock_line *clock)
{
	if (w->yielding) {
		sched_yield();
		uint64_t stages_ns = w->spun ? w->yield_ns : w->spin_ns + w->yield_ns;
		return clock_now_ns(clock) - w->since_ns < stages_ns;
	}
	bool spin = may_spin || w->rounds < w->brief_rounds;
	if (!spin || (w->rounds == 0 && !wait_spins(w))) {
		w->yielding = true;
		w->since_ns = clock_now_ns(clock);
		sched_yield();
		return true;
	}
	shm_pause();
	if (++w->rounds % WAIT_CLOCK_ROUNDS != 0)
		return true;
	uint64_t now_ns = clock_now_ns(clock);
	if (w->since_ns == 0)
		w->since_ns = now_ns;
	if (now_ns - w->since_ns >= w->spin_ns) {
		w->yielding = true;
		w->spun = true;
		w->since_ns = now_ns;
	}
	return true;
}

/*
 * CPUs that this process and its peers may use together, at least 1: those of the machine, cut to
 * the cgroup's cpuset and quota. Not the process's own affinity: who pins gpuqd to one CPU and its
 * clients to others has given each party a CPU.
 */
uint32_t wait_shared_cpus(void);

#endif
