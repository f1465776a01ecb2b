/* SPDX-License-Identifier: MIT */
/*
 * dispatch-rig.h: a dispatcher in the test's own process, with channels whose client side the
 * test plays by hand, entry by entry, so that it can break every rule.
 */
#ifndef GPUQ_TESTS_DISPATCH_RIG_H
#define GPUQ_TESTS_DISPATCH_RIG_H

#include "daemon/dispatch.h"
#include "tests/harness.h"

#define RIG_CHANNELS 16u
#define RIG_IN_FLIGHT 64u
#define RIG_ENTRIES 16u
#define RIG_BUFFERS 4u
#define RIG_PIPELINES 8u
#define RIG_USERS 2u /* of buffers and sessions */
#define RIG_MODELS 2u
#define RIG_SESSIONS 6u /* of which one user may have */
#define RIG_CLIENT_SESSIONS 4u
#define RIG_USER_SESSIONS 5u
#define RIG_ARENA (1u << 20)
#define RIG_AGEING_NS 10000000u
#define RIG_EVENTS 1024u /* of the flight recorder */

struct rig {
	struct dispatch *dispatch;
	struct device *device;
	struct wire_page *page;
	struct stats stats;
	struct recorder recorders[RECORDER_RINGS];
	void *ledger;
	struct buffer_table *buffers;
	struct pipeline_table *pipelines;
	struct graphs *graphs;
	uint32_t max_in_flight_per_user, max_rate_per_user; /* of the next dispatcher; 0: any */
	const char *faults; /* of the next device: see device/fault.h */
	uint32_t workers;
	bool failed; /* DISPATCH_FAILED has come */
	/* Of channels that are opened, by their numbers; weight 0: 1. */
	uint32_t uids[RIG_CHANNELS], weights[RIG_CHANNELS], priorities[RIG_CHANNELS];
	struct cost_model cost;
	int wake_fd;
};

/* The client's side of one channel. */
struct rig_client {
	struct rig *rig;
	struct channel *channel; /* dispatch's: of it only the mapping is used */
	struct ring_producer sq;
	struct ring_consumer cq;
	struct wire_sqe *sqes;
	const struct wire_cqe *cqes;
	char *arena;
	uint32_t generation;
	int event_fd, pipe_fd;
	void *base;
	int fds[3]; /* what a second life of the channel is made of; see rig_reopen() */
	struct devlink_msg msg;
};

/* Starts the device, with two workers or so many, and the dispatcher. */
void rig_start(struct rig *rig);
void rig_start_workers(struct rig *rig, uint32_t workers);

/* Stops and frees them. The clients have been closed. */
void rig_stop(struct rig *rig);

/* A new dispatcher on the same ledger, as if the one before had died between two rounds. */
void rig_restart(struct rig *rig);

/* Opens a channel; both rings start at `start`. */
void rig_open(struct rig *rig, struct rig_client *c, uint32_t number, uint64_t start, uint32_t abi);

/*
 * Removes the channel, poisoned or not, from the dispatcher, waiting for what is in flight, and
 * frees it.
 */
void rig_close(struct rig_client *c);

/* After rig_restart(): gives the channel to the new dispatcher, which recovers it. */
void rig_reopen(struct rig_client *c);

/* Waits for an event. Fails the test after 10 s. */
struct dispatch_event rig_next_event(struct rig *rig);

/* Waits for an event of this type about this client (or NULL). Fails the test after 10 s. */
void rig_expect(struct rig *rig, enum dispatch_event_type type, const struct rig_client *c);

/* An entry with everything right but what the test changes. */
struct wire_sqe rig_entry(const struct rig_client *c, uint16_t opcode, uint64_t user_data);

/*
 * Writes a softmax call over f32 [n] and returns its entry. From arena offset `at` on lie the
 * argument block, x and y, without gaps.
 */
struct rig_softmax {
	struct wire_call call;
	struct wire_tensor x, y;
};
struct wire_sqe rig_softmax(struct rig_client *c, uint32_t at, uint64_t n, uint64_t user_data);

/* Checks all results of such a call. */
void rig_check_softmax(struct rig_client *c, const struct wire_sqe *sqe);

/* y = softmax(softmax(x)), of f32 [n], known to the graph cache. */
struct pipeline *rig_pipeline(struct rig *rig);

/* Writes an entry without publishing it; rig_publish() publishes and rings. */
void rig_write(struct rig_client *c, const struct wire_sqe *sqe);
void rig_publish(struct rig_client *c);

/* Both. */
void rig_submit(struct rig_client *c, const struct wire_sqe *sqe);

/* The next completion, waited for with sleep on the bell. Fails the test after 10 s. */
struct wire_cqe rig_complete(struct rig_client *c);

/* True when no completion is there. */
bool rig_quiet(struct rig_client *c);

#endif
