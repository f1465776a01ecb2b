/* SPDX-License-Identifier: MIT */
/*
 * world.h: what a running gpuqd holds, as the system and its statistics see it: descriptors,
 * threads, memory and slots of both its processes. A test looks before and after, and everything
 * must have come back.
 */
#ifndef GPUQ_TESTS_INTEGRATION_WORLD_H
#define GPUQ_TESTS_INTEGRATION_WORLD_H

#include "tests/daemon/raw.h"

/* Of one process. */
struct world_process {
	uint64_t fds, threads;
	uint64_t segments; /* mappings and descriptors of channel segments and buffers */
	uint64_t pss_kib;
};

struct world {
	struct world_process control, device;
	/* Statistics. */
	uint64_t clients, channels, segment_bytes;
	uint64_t in_flight, queued, executing;
	uint64_t device_restarts, deaths, poisoned;
};

struct world world_look(const struct harness_daemon *daemon);

/*
 * Waits (bounded) until everything of which gpuqd must hold no more than before is back: all but
 * the counters of restarts, deaths and poisoned channels. Work may be less than before; where
 * others work meanwhile, the caller says how much of it may be theirs. Fails the test, naming what
 * is not back.
 */
void world_await(const struct harness_daemon *daemon, const struct world *before);

/* One line for each process and for the statistics. */
void world_print(const char *title, const struct world *world);

/* The device process as it is now: its pid, or 0 while there is none that is ready. */
pid_t world_device_pid(const struct harness_daemon *daemon);

#endif
