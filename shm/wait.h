/* SPDX-License-Identifier: MIT */
/*
 * wait.h: the three stages of waiting that both sides use: spin, then yield, then sleep.
 * Spinning pays only while every runnable party has a CPU of its own; with more parties than
 * CPUs a spinner keeps the very party it waits for from running.
 *
 *	struct wait w = wait_begin(spin_ns, yield_ns);
 *	while (!ready()) {
 *		if (!wait_round(&w, may_spin))
 *			sleep with a published wish, then begin again
 *	}
 */
#ifndef GPUQ_SHM_WAIT_H
#define GPUQ_SHM_WAIT_H

#include "shm/atomics.h"
#include "shm/clock.h"

#include <sched.h>
#include <stdbool.h>

#define WAIT_CLOCK_ROUNDS 32 /* spins between two looks at the clock */

struct wait {
	uint64_t spin_ns, yield_ns; /* lengths of the stages */
	uint64_t since_ns;	    /* start of the present stage; 0: not started */
	uint32_t rounds;
	bool yielding;
};

static inline struct wait wait_begin(uint64_t spin_ns, uint64_t yield_ns)
{
	return (struct wait){.spin_ns = spin_ns, .yield_ns = yield_ns};
}

/* The wait, once it is over, starts anew from the first stage. */
static inline void wait_reset(struct wait *w)
{
	w->since_ns = 0;
	w->rounds = 0;
	w->yielding = false;
}

/* One unsuccessful round: pauses or yields. False when it is time to sleep. */
static inline bool wait_round(struct wait *w, bool may_spin, const struct clock_line *clock)
{
	if (!w->yielding && may_spin) {
		shm_pause();
		if (++w->rounds % WAIT_CLOCK_ROUNDS != 0)
			return true;
		uint64_t now_ns = clock_now_ns(clock);
		if (w->since_ns == 0)
			w->since_ns = now_ns;
		if (now_ns - w->since_ns < w->spin_ns)
			return true;
		w->yielding = true;
		w->since_ns = now_ns;
		return true;
	}
	if (!w->yielding) {
		w->yielding = true;
		w->since_ns = clock_now_ns(clock);
	}
	sched_yield();
	return clock_now_ns(clock) - w->since_ns < w->yield_ns;
}

/* CPUs this process may use: its affinity, cut to the cgroup's quota, at least 1. */
uint32_t wait_usable_cpus(void);

#endif
