/* SPDX-License-Identifier: MIT */
/*
 * synthetic.h: a statistics object with made-up traffic, as a gpuqd would leave it. The process
 * that makes it plays the daemon.
 */
#ifndef GPUQ_TESTS_SYNTHETIC_H
#define GPUQ_TESTS_SYNTHETIC_H

#include "shm/stats.h"

struct synthetic {
	struct stats stats;
	int fd;
	uint32_t clients, channels;
	char name[STATS_PATH_MAX]; /* of the object */
};

/*
 * One device, two operators, a model, and one or some of everything else; clients with the channels
 * dealt out to them. Client i is the process
 * 1000 + i, except that client 0 is this process. Returns 0 or a negative errno.
 */
int synthetic_create(
	struct synthetic *ret, const char *socket_path, uint32_t clients, uint32_t channels);

/*
 * Another `n` completions on each channel that is not parked: queued for queue_ns, executed for
 * execute_ns; and a heartbeat.
 */
void synthetic_traffic(struct synthetic *s, uint64_t n, uint64_t queue_ns, uint64_t execute_ns);

/* Removes the object. */
void synthetic_destroy(struct synthetic *s);

#endif
