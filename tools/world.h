/* SPDX-License-Identifier: MIT */
/*
 * world.h: what a running gpuqd holds, as the operating system and its own statistics see it. Who
 * looks before and after, with nobody connected, must find the same.
 */
#ifndef GPUQ_TOOLS_WORLD_H
#define GPUQ_TOOLS_WORLD_H

#include "shm/stats.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Of one process, from /proc. */
struct world_process {
	uint64_t fds, threads;
	uint64_t segments; /* mappings and descriptors of channel segments and buffers */
	uint64_t pss_kib;
};

struct world {
	struct world_process control, device;
	/* Statistics. */
	uint64_t clients, channels, segment_bytes;
	uint64_t dying; /* clients that have ended and of which something is left */
	uint64_t buffers, buffer_bytes, pipelines, sessions;
	uint64_t kv_used; /* blocks that are neither free nor kept for equal openings */
	uint64_t in_flight, queued, executing;
	uint64_t graph_bytes;
	uint64_t device_restarts, deaths, poisoned;
};

struct world world_read(pid_t control_pid, const struct stats *stats);

/*
 * Everything of which gpuqd must hold no more than before is back: all but graphs and the counters
 * of restarts, deaths and poisoned channels; memory up to slack_kib. Work may be less than before.
 */
bool world_is_back(const struct world *now, const struct world *before, uint64_t slack_kib);

/* One line for each process and for the statistics, without a newline at the end. */
void world_describe(const struct world *world, char *text, size_t size);

#endif
