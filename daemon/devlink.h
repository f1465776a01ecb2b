/* SPDX-License-Identifier: MIT */
/*
 * devlink.h: what the control process and a device process of one gpuqd tell each other: over a
 * private SOCK_SEQPACKET socketpair, and in the ledger.
 *
 * The control process starts a device process (`gpuqd --device-process`) with these descriptors
 * open, and nothing else. It is the same executable, or, after a restart by an administrator, the
 * one that was in its place on disk then.
 *
 *   DEVLINK_FD_LINK     the socketpair
 *   DEVLINK_FD_PAGE     the daemon page, writable
 *   DEVLINK_FD_STATS    the statistics object, writable
 *   DEVLINK_FD_LEDGER   the ledger
 *   and standard error.
 *
 *   control                                    device
 *   struct devlink_start                ->     opens the device, calibrates
 *                                       <-     DEVLINK_READY, or DEVLINK_FAILED with a sentence
 *   DEVLINK_ADD + segment, eventfd, pipe ->
 *                                       <-     DEVLINK_ADDED: in the scan
 *   DEVLINK_REMOVE                      ->     no more entries are taken
 *                                       <-     DEVLINK_REMOVED: nothing in flight, unmapped
 *                                       <-     DEVLINK_POISONED: the channel broke the wire's rules
 *   DEVLINK_DRAIN                       ->     new entries are answered with -GPUQ_EDRAIN
 *                                       <-     DEVLINK_DRAINED: nothing in flight
 *   DEVLINK_PAUSE                       ->     no entries are taken any more: a successor will
 *                                       <-     DEVLINK_DRAINED: nothing in flight
 *   DEVLINK_PIPELINE + 1 descriptor     ->     a definition (struct wire_pipeline), checked
 *                                       <-     DEVLINK_PIPELINE: status, and text when negative
 *   DEVLINK_PIPELINE_REMOVE             ->
 *                                       <-     DEVLINK_PIPELINE_REMOVED: nothing uses it
 *   DEVLINK_BUFFER (bytes, form)        ->     nobody may use it yet; status -GPUQ_ELOST: it was
 *                                              lost with the process before
 *                                       <-     DEVLINK_BUFFER: status; + descriptor, or ipc
 *   DEVLINK_BUFFER_GRANT, _REVOKE       ->     a client may use it, or no longer
 *                                       <-     DEVLINK_BUFFER_GRANT, _REVOKE: from now on
 *   DEVLINK_BUFFER_REMOVE               ->
 *                                       <-     DEVLINK_BUFFER_REMOVED: nothing uses it, freed
 *   DEVLINK_MODEL + directory           ->     a model to be loaded; its name; `id` has
 *                                              DEVLINK_MODEL_...
 *                                       <-     DEVLINK_MODEL: it is, or status and text
 *   DEVLINK_MODEL_REMOVE                ->     id 1: its sessions end; 0: -EBUSY when it has any
 *                                       <-     DEVLINK_MODEL_REMOVED: status 0: it is gone
 *   DEVLINK_CAPTURE                     ->     captures stop or go on
 *   DEVLINK_EVICT                       ->     an executable, or all, are dropped
 *                                       <-     DEVLINK_PRESENT: one device that the machine has;
 *                                              all of them before DEVLINK_READY, when asked to
 *   DEVLINK_LOG                         ->     text: other levels of the log
 *   (close, or the end of sending)      ->     ends at once
 *
 * The control process never waits for an answer, and a device process that dies (EOF) is
 * replaced: the new one gets DEVLINK_ADD with `recover` set for every channel, reads the ledger,
 * completes what was in flight with -GPUQ_EDEVICE and goes on from the same indices.
 */
#ifndef GPUQ_DAEMON_DEVLINK_H
#define GPUQ_DAEMON_DEVLINK_H

#include "shm/wire.h"

#include <stdbool.h>

enum {
	DEVLINK_FD_LINK = 3,
	DEVLINK_FD_PAGE = 4,
	DEVLINK_FD_STATS = 5,
	DEVLINK_FD_LEDGER = 6,
};

/*
 * The first message: how to begin. Texts end with 0. A device process of another version than the
 * control process answers with DEVLINK_FAILED; so `version` changes whenever something here does,
 * in the ledger or in the statistics, and stays in front.
 */
#define DEVLINK_VERSION 3u
struct devlink_start {
	uint32_t version; /* DEVLINK_VERSION */
	uint32_t device;  /* slot in page and statistics */
	uint32_t workers; /* 0: as many as fit */
	uint32_t poll_us; /* how long dispatch polls before it sleeps */
	uint32_t max_channels, max_in_flight;
	uint32_t max_clients, max_buffers, max_pipelines;
	uint32_t max_models, max_sessions, max_sessions_per_client, max_sessions_per_user;
	uint32_t kv_blocks_per_client, kv_blocks_per_user, kv_bucket, prefill_chunk;
	uint64_t kv_bytes;
	uint32_t promote_uses, promote_window_ms, pinned; /* see graphs/graphs.h */
	uint64_t graph_bytes, scratch_bytes;
	uint32_t ageing_ms;				    /* see share.h */
	uint32_t max_in_flight_per_user, max_rate_per_user; /* 0: any */
	uint64_t graph_bytes_per_user;
	uint32_t resident;	  /* see struct device_options */
	uint32_t list_devices;	  /* 1: says what the machine has, before it is ready */
	char kind[GPUQ_NAME_MAX]; /* of device: "cpu", "cuda:0", "auto" */
	char hot_list[256];	  /* path; "": none */
	char faults[256];	  /* for tests; "": none */
	char log[128];		  /* levels of the log */
};

enum devlink_type {
	DEVLINK_READY = 2,
	DEVLINK_FAILED = 3,
	DEVLINK_ADD = 4,
	DEVLINK_ADDED = 5,
	DEVLINK_REMOVE = 6,
	DEVLINK_REMOVED = 7,
	DEVLINK_POISONED = 8,
	DEVLINK_DRAIN = 9,
	DEVLINK_DRAINED = 10,
	DEVLINK_PIPELINE = 11,
	DEVLINK_PIPELINE_REMOVE = 12,
	DEVLINK_PIPELINE_REMOVED = 13,
	DEVLINK_BUFFER = 14,
	DEVLINK_BUFFER_GRANT = 15,
	DEVLINK_BUFFER_REVOKE = 16,
	DEVLINK_BUFFER_REMOVE = 17,
	DEVLINK_BUFFER_REMOVED = 18,
	DEVLINK_CAPTURE = 19,
	DEVLINK_EVICT = 20,
	DEVLINK_PRESENT = 21,
	DEVLINK_MODEL = 22,
	DEVLINK_MODEL_REMOVE = 23,
	DEVLINK_MODEL_REMOVED = 24,
	DEVLINK_LOG = 25,
	DEVLINK_PAUSE = 26,
};

enum {
	DEVLINK_MODEL_INT8 = 1,
	DEVLINK_MODEL_DETERMINISTIC = 2,
};

#define DEVLINK_MAX_WARM 16u

/* A shape of a model's steps that is captured before the model is ready: see struct wire_shape. */
struct devlink_warm {
	uint32_t kind, batch, context;
};

/* Every other message has this one form; fields that a type does not use are zero. */
struct devlink_msg {
	uint32_t type;	  /* enum devlink_type */
	uint32_t channel; /* record in ledger, statistics and every table: 0 .. max_channels - 1 */
	uint32_t generation;
	uint32_t abi; /* of the channel's client */
	uint32_t sq_entries, cq_entries;
	uint64_t arena_bytes;
	uint64_t start;	       /* first index of both rings */
	uint32_t priority;     /* 0 first */
	uint32_t recover;      /* 1: the ledger holds this channel's state */
	uint32_t index, count; /* DEVLINK_PRESENT: which of how many */
	/* DEVLINK_ADD, _PIPELINE, _BUFFER...: whose it is. A record number and its generation. */
	uint32_t client, client_generation;
	uint32_t uid, weight; /* weight: DEVLINK_ADD; see share.h */
	uint32_t handle;      /* of a pipeline, a buffer or a model, as on the wire */
	int32_t status;
	uint32_t form;	/* enum msg_buffer_form */
	uint64_t bytes; /* of a definition or a buffer */
	uint64_t id;	/* DEVLINK_EVICT; DEVLINK_CAPTURE: 1 stops, 0 resumes */
	uint8_t ipc[64];
	char kind[GPUQ_NAME_MAX];
	char uuid[64];
	char driver[32];
	char name[128];
	char text[224];	 /* why: one sentence */
	uint32_t n_warm; /* DEVLINK_MODEL */
	struct devlink_warm warm[DEVLINK_MAX_WARM];
};

/*
 * The ledger: memory of the control process and the device process alone, in which dispatch notes
 * what it has accepted, so that its successor can finish the accounts.
 *
 *   struct ledger_channel [max_channels] | struct ledger_entry [max_in_flight] |
 *   uint64_t, the number of model sessions that were ever opened: their handles come from it |
 *   struct ledger_pulse
 *
 * Crash rule. Both ends of a channel's account move by one store: dispatch writes the pair
 * (sq_cons, cq_prod) into the commit record that is not current and then flips `which`.
 * Completions are written before the commit that covers them and published after it, so what is
 * published is committed. A successor takes the committed pair, publishes it, and
 *
 *   - answers with -GPUQ_EDEVICE the entry noted as inline when it was consumed
 *     (inline_seq < sq_cons) but not completed (inline_cq_at >= cq_prod);
 *   - likewise every noted ledger_entry with seq < sq_cons and cq_at >= cq_prod, and says of those
 *     without LEDGER_STARTED that they never started;
 *   - takes entries from sq_cons on: those that its predecessor had read beyond the commit were
 *     never executed.
 */
struct ledger_channel {
	struct {
		uint64_t sq_cons; /* entries accepted */
		uint64_t cq_prod; /* completions written */
	} commit[2];
	uint64_t which; /* the current commit record: 0 or 1 */
	/* The last entry that dispatch executed itself. */
	uint64_t inline_user_data;
	uint64_t inline_seq;   /* its index in the submission ring */
	uint64_t inline_cq_at; /* its completion's index */
};

/*
 * So far behind the last completion lies cq_at of an entry that is not completing yet. No index
 * can stand for that: all are used where indices wrap.
 */
#define LEDGER_NOT_COMPLETING (1ull << 62)

/* An entry that waits for a worker or runs on one. */
struct ledger_entry {
	uint64_t user_data;
	uint64_t seq;
	uint64_t cq_at;	     /* of its completion; before that, an index that is never reached */
	uint32_t channel;    /* its number; LEDGER_STARTED is set before anything of it runs */
	uint32_t generation; /* of the channel; 0: the record is free */
};
#define LEDGER_STARTED 0x80000000u

static inline bool ledger_entry_is_of(
	const struct ledger_entry *e, uint32_t channel, uint32_t generation)
{
	return e->generation == generation && (e->channel & ~LEDGER_STARTED) == channel;
}

/*
 * Signs of life, which the control process reads: words that change while all is well. It compares
 * them with what it saw before, on its own clock.
 */
struct ledger_pulse {
	uint64_t dispatch; /* changes at least every 100 ms, asleep or not */
	uint64_t link;	   /* likewise, every 500 ms */
	uint64_t oldest;   /* when what executes for longest was launched; 0: nothing executes */
	uint64_t reaping;  /* number of what is given back to the driver now; 0: nothing is */
};

static inline uint64_t ledger_bytes(uint32_t max_channels, uint32_t max_in_flight)
{
	return max_channels * sizeof(struct ledger_channel) +
		max_in_flight * sizeof(struct ledger_entry) + sizeof(uint64_t) +
		sizeof(struct ledger_pulse);
}

static inline uint64_t *ledger_sessions(void *ledger, uint32_t max_channels, uint32_t max_in_flight)
{
	struct ledger_entry *entries = (void *)((struct ledger_channel *)ledger + max_channels);

	return (uint64_t *)(entries + max_in_flight);
}

static inline struct ledger_pulse *ledger_pulse(
	void *ledger, uint32_t max_channels, uint32_t max_in_flight)
{
	return (struct ledger_pulse *)(ledger_sessions(ledger, max_channels, max_in_flight) + 1);
}

_Static_assert(sizeof(struct ledger_channel) == 64, "ledger_channel");
_Static_assert(sizeof(struct ledger_entry) == 32, "ledger_entry");
_Static_assert(sizeof(struct devlink_msg) <= 1024, "devlink_msg: copied for every message");

#endif
