/* SPDX-License-Identifier: MIT */
/*
 * estimate.h: how long works take, by their exact shape, from those that have ended: for the shares
 * of users, and for deadlines that can no longer be met. A table of fixed size, in which a shape
 * may take another one's place. One thread uses it.
 */
#ifndef GPUQ_DAEMON_ESTIMATE_H
#define GPUQ_DAEMON_ESTIMATE_H

#include <stdint.h>

#define ESTIMATES 4096u /* a power of two */
#define ESTIMATE_DOUBTS 64u

struct estimate {
	uint64_t key;	    /* 0: unused */
	uint64_t device_ns; /* of the device; a mean in which older ones count less */
	uint64_t run_ns;    /* from its launch to its end; hardly any takes longer */
	uint32_t doubts;    /* since one has ended */
};

/* A work with this key has taken so long. Nothing is known of those with 0. */
void estimate_add(struct estimate *table, uint64_t key, uint64_t device_ns, uint64_t run_ns);

/* Time of the device that one is likely to take; `unknown_ns` when none has been seen. */
uint64_t estimate_device_ns(const struct estimate *table, uint64_t key, uint64_t unknown_ns);

/*
 * From its launch to its end hardly any takes longer; 0 when none has been seen, so that the first
 * one is tried.
 */
uint64_t estimate_run_ns(const struct estimate *table, uint64_t key);

/*
 * Something was not run since it would have taken too long. What is never run is never measured
 * again, so after ESTIMATE_DOUBTS of these without a run the estimate is believed a little less
 * each time, until one is tried. Where some run and many are refused it stays what was measured.
 */
void estimate_doubt(struct estimate *table, uint64_t key);

#endif
