/* SPDX-License-Identifier: MIT */
/*
 * rig.h: one channel in a segment of its own, with a client and a dispatcher that are nothing but
 * rings and bells, to run as threads or as processes. The segment begins like a real one; the
 * start of the indices is free, so that they wrap early.
 */
#ifndef GPUQ_TESTS_RIG_H
#define GPUQ_TESTS_RIG_H

#include "shm/ring.h"

struct rig {
	uint8_t *base;
	struct wire_layout layout;
	uint32_t sq_entries, cq_entries;
	uint64_t start;
	int fd;
	int doorbell_fd;	   /* client to dispatcher: an eventfd, watched edge-triggered */
	int bell_read, bell_write; /* dispatcher to client: a pipe */
};

/* Fails the test when it cannot. */
void rig_open(struct rig *r, uint32_t sq_entries, uint32_t cq_entries, uint64_t start);
void rig_close(struct rig *r);

struct wire_ring *rig_ring(const struct rig *r, uint64_t offset);

/*
 * Send `total` submissions in batches of all sizes, and answer them; both sleep when they have
 * nothing to do. `want` is how many completions the client sleeps for. They return how many
 * entries were not what they should be, or -1 when a ring says that it is poisoned.
 */
int rig_client(const struct rig *r, uint64_t total, uint32_t want);
int rig_dispatch(const struct rig *r, uint64_t total);

/*
 * The same sides while somebody writes anything anywhere: a fixed number of rounds, no sleep.
 * After a refusal they start afresh, with indices of their own. They return how often an index
 * was refused, or -1 when a ring claimed more than it can hold.
 */
int rig_client_distrust(const struct rig *r, uint32_t rounds);
int rig_dispatch_distrust(const struct rig *r, uint32_t rounds);
void rig_scribble(const struct rig *r, uint32_t rounds);

#endif
