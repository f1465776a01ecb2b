/* SPDX-License-Identifier: MIT */
/*
 * channel.h: one channel as the device process sees it: where its rings lie, how far dispatch
 * has read and written them, what is in flight. All of it is private memory; the client's
 * segment is only ever read through shm_copy_in() and ring.h, and every value that came from
 * there is checked after it was copied.
 */
#ifndef GPUQ_DAEMON_CHANNEL_H
#define GPUQ_DAEMON_CHANNEL_H

#include "daemon/buffer.h"
#include "daemon/devlink.h"
#include "daemon/pipelines.h"
#include "daemon/reaper.h"
#include "device/device.h"
#include "graphs/graphs.h"
#include "kernels/launch.h"
#include "models/engine.h"
#include "shm/ring.h"
#include "shm/robust.h"
#include "shm/stats.h"

#include <sys/queue.h>

/* A copy between arena and buffer. */
struct slot_copy {
	void *to;
	const void *from;
	uint64_t bytes;
};

struct known_model;
struct share;

enum slot_kind {
	SLOT_CALL,    /* of an operator or a pipeline, or a wish for its capture */
	SLOT_COPY,    /* between arena and buffer */
	SLOT_SESSION, /* of a model: `order` */
	SLOT_STEP,    /* of a model's session: `request` */
	SLOT_SHAPE,   /* a wish for the capture of a model's shape: `shape` */
};

/*
 * An accepted entry that waits for its turn, or was given to the graph cache, a copy stream or an
 * engine.
 */
struct slot {
	enum slot_kind kind;
	struct op_call call; /* op NULL: of no operator */
	struct graph_work work;
	struct slot_copy copy;
	struct buffer_uses uses;
	struct wire_session order;
	struct engine_request request;
	struct engine_shape shape;
	uint32_t session;		 /* handle; of SLOT_SHAPE: the model's */
	uint32_t stepping_at;		 /* its place among those that engines have */
	uint64_t logits_offset;		 /* in the arena; WIRE_NOWHERE: none */
	struct known_model *model;	 /* whose engine or pipeline has it */
	struct known_pipeline *pipeline; /* NULL: an operator or a copy */
	bool capture;			 /* only its graph is wanted */
	struct device_completion *completion;
	uint64_t value; /* what completion->word becomes at the end; 0: it waits for its turn */
	uint64_t started_ns;
	uint64_t key;		      /* of its shape, for estimates and graphs; 0: it has none */
	int64_t charged_ns;	      /* to its user for this; see share.h */
	struct device_stream *stream; /* of a copy */
	struct channel *channel;
	struct ledger_entry *ledger;
	uint64_t user_data, submit_ns, deadline_ns;
	bool reserved;		/* its ledger record still holds a dead process's note */
	TAILQ_ENTRY(slot) link; /* in the free list, or in its channel's queue */
};
TAILQ_HEAD(slot_queue, slot);

enum channel_state {
	CHANNEL_OPEN,
	CHANNEL_POISONED, /* broke a rule: nothing of it is read any more */
	CHANNEL_CLOSING,  /* to be removed when nothing is in flight */
};

struct channel {
	struct ring_consumer sq;
	struct ring_producer cq;
	const struct wire_sqe *sqes;
	struct wire_cqe *cqes;
	char *arena;
	char *device_arena; /* the same, as the device reaches it */
	uint64_t arena_bytes;
	struct ledger_channel *ledger;
	struct stats_channel *stats;
	struct stats_device *device_stats; /* of its device; set before anything is posted */
	enum channel_state state;
	uint32_t in_flight;  /* slots: queued or executing */
	uint32_t captures;   /* of these, wishes for captures */
	uint32_t n_sessions; /* of models */
	uint32_t failed;     /* completions with an error since the last flush */
	uint64_t counted;    /* completions before this one are in the statistics */
	uint32_t generation;
	uint32_t abi;
	uint64_t last_active_ns;
	uint64_t drain_at; /* while draining: entries from this one on are refused */
	bool active;	   /* in the scan */
	bool blocked;	   /* has entries that wait for a slot or for completion space */
	bool suspect;	   /* had entries and no doorbell at the last rescue poll */
	bool waiting;	   /* for slots to become free, outside the scan: to go on, or to end */
	bool held;	   /* on a hint that its client has ended: see dispatch_hold() */
	uint64_t held_ns;
	uint64_t seen;	 /* completions before this one were read, at the last look */
	bool look_again; /* since then work was completed that is recorded by itself */
	const struct wire_notice *notice; /* NULL: there is none, or it has lied */

	uint32_t number; /* its record in every table */
	uint32_t client, client_generation, uid;
	uint32_t weight;     /* of the user */
	struct share *share; /* of the user; dispatch's */
	uint64_t rated;	     /* index of the last entry that counts in the user's rate */
	const struct buffer_table *buffers;	/* set before anything is validated */
	const struct pipeline_table *pipelines; /* likewise */
	uint32_t priority;
	struct slot_queue queue; /* waits for a worker */
	bool waits_cold;	 /* with those whose first entry waits for room among cold works */
	TAILQ_ENTRY(channel) run_link;	/* among the channels of its priority with a queue */
	TAILQ_ENTRY(channel) wait_link; /* among those that wait for slots */
	void *base;
	uint64_t bytes;
	struct reaping reaping; /* at its end */
	int segment_fd, event_fd, pipe_fd;
};
TAILQ_HEAD(channel_queue, channel);

/*
 * Takes over a channel: maps the segment, reads the ledger when msg->recover is set, else starts
 * it. Owns the three descriptors from here on, also on failure.
 */
int channel_create(const struct devlink_msg *msg, const int fds[3], struct ledger_channel *ledger,
	struct stats_channel *stats, struct channel **ret_channel);

/* Unmaps and closes; slow for large segments. NULL is fine. */
void channel_destroy(struct channel *ch);

/* Writes a completion, not yet visible: see channel_flush(). Space was reserved before. */
static inline void channel_post(struct channel *ch, const struct wire_cqe *cqe)
{
	shm_copy_out(&ch->cqes[ring_slot(ch->cq.prod, ch->cq.entries)], cqe, sizeof(*cqe) / 8);
	ch->cq.prod++;
	ch->failed += cqe->status < 0;
}

/* Commits to the ledger, publishes both rings, and rings the client's bell if it wants that. */
void channel_flush(struct channel *ch);

/*
 * May another entry be accepted? Its completion must find space beside those of the entries in
 * flight. 1, 0, or -GPUQ_EPOISONED.
 */
static inline int channel_has_space(struct channel *ch)
{
	int space = ring_space(&ch->cq, ch->in_flight + 1);

	return space < 0 ? space : space > (int)ch->in_flight;
}

/* Its client has ended, it seems. */
static inline bool channel_hinted(const struct channel *ch)
{
	return ch->notice != NULL && robust_died(&ch->notice->owner);
}

/* Completions that the client has not read, by its own word. For statistics. */
uint64_t channel_unread(const struct channel *ch);

/* Notes in the ledger that dispatch itself executes the entry before sq.cons, and commits that. */
void channel_note_inline(struct channel *ch, uint64_t user_data);

/*
 * Completes with -GPUQ_EDEVICE what the process before had in flight. The channel's state is
 * CHANNEL_POISONED afterwards when the client's index does not allow that.
 */
void channel_recover(struct channel *ch, struct ledger_entry *entries, uint32_t n_entries);

#endif
