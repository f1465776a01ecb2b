/* SPDX-License-Identifier: MIT */
/*
 * world.h: what the gpuqd of a test holds: see tools/world.h. A test looks before and after, and
 * everything must have come back.
 */
#ifndef GPUQ_TESTS_INTEGRATION_WORLD_H
#define GPUQ_TESTS_INTEGRATION_WORLD_H

#include "tests/daemon/raw.h"
#include "tools/world.h"

struct world world_look(const struct harness_daemon *daemon);

/*
 * Waits (bounded) until world_is_back(); where others work meanwhile, the caller says how much of
 * it may be theirs. Fails the test, naming what is not back.
 */
void world_await(const struct harness_daemon *daemon, const struct world *before);

/* The same but for memory, of which something may stay. Returns what there is then. */
struct world world_await_rest(const struct harness_daemon *daemon, const struct world *before);

/* One line for each process and for the statistics. */
void world_print(const char *title, const struct world *world);

/* The device process as it is now: its pid, or 0 while there is none that is ready. */
pid_t world_device_pid(const struct harness_daemon *daemon);

/* Waits (bounded) for one that is ready and is not `last`. */
pid_t world_await_device(const struct harness_daemon *daemon, pid_t last);

#endif
