/* SPDX-License-Identifier: MIT */
/*
 * dispatch_impl.h: the dispatcher's state, shared by its sources:
 *
 *   dispatch.c        the thread: mailbox, scan, parking, sleeping
 *   dispatch_entry.c  what happens to one submission until it runs or is refused
 *   dispatch_run.c    what waits for its turn, goes to the graph cache, and ends
 *   dispatch_count.c  what of all this the statistics tell
 *   dispatch_copy.c   what runs on copy streams instead
 *   dispatch_record.c what the flight recorder is told
 *   dispatch_model.c  sessions of language models, and what their engines have
 */
#ifndef GPUQ_DAEMON_DISPATCH_IMPL_H
#define GPUQ_DAEMON_DISPATCH_IMPL_H

#include "daemon/dispatch.h"
#include "daemon/estimate.h"
#include "daemon/mailbox.h"
#include "daemon/share.h"
#include "shm/proto.h"

#include <pthread.h>

/* What the graph cache can hold at once, captures aside. */
#define MAX_WORKS ((GRAPHS_MAX_LANES + 2) * GRAPHS_LANE_DEPTH + 2 * GRAPHS_COLD_QUEUE)
/* Copies at once, beside these. */
#define COPY_STREAMS 4u
#define MAX_EXECUTING (MAX_WORKS + COPY_STREAMS)
/* So many channels of one priority may find no room before the others of it wait too. */
#define MAX_TRIES 8u
/* See slot_take(). */
#define SLOTS_FOR_EACH_FREE 8u
/* Wishes for captures that a channel may have waiting: slots are everybody's. */
#define MAX_CAPTURES 8u
/* Captures that are looked at in one round. */
#define CAPTURES_AT_ONCE 16u
/* What a work is charged with whose shape has not been measured yet. */
#define UNKNOWN_NS 20000u
/* Launches of a round take so long, ends of works too, and then the one that was begun. */
#define ROUND_PART_NS 2000u

/* A session of a model, by the number in its handle. */
struct model_session {
	uint32_t handle;
	struct channel *channel;   /* NULL: the record is free */
	struct known_model *model; /* NULL: it was removed */
	struct engine_session *session;
	uint64_t asked_ns; /* when the prompt came whose first answer is awaited; 0: none is */
	TAILQ_ENTRY(model_session) link; /* among the free ones */
};
TAILQ_HEAD(model_session_queue, model_session);

struct dispatch {
	struct dispatch_options o;
	struct stats_device *stats;
	uint32_t n_session_records, n_pipeline_records; /* in the statistics */
	struct wire_page_device *page;
	struct ledger_pulse *pulse;
	uint32_t cpus;
	int epoll_fd;
	bool draining, drained_told, stop, started;
	bool paused; /* nothing is taken any more; the next process will */

	struct channel **channels; /* by number; NULL when absent */
	struct channel **active;   /* the scan */
	uint32_t n_active, n_channels;

	/* Accepted entries. */
	struct slot *slots;
	struct ledger_entry *ledger_entries; /* one for each slot */
	struct slot_queue free_slots;
	uint32_t n_free;
	struct shares shares;	   /* channels with a queue, to take turns */
	struct channel_queue held; /* likewise; not before it is known who lives */
	uint32_t scan_from;	   /* the place of the channel that is first in the next round */
	struct estimate *estimates;
	uint32_t n_queued, n_deadlines;	       /* of these, with a deadline */
	struct device_completion *completions; /* one for each slot */
	uint32_t workers;
	struct device_stream *copy_streams[COPY_STREAMS], *free_copy_streams[COPY_STREAMS];
	uint32_t n_copy_streams, n_free_copy_streams;
	struct slot *executing[MAX_EXECUTING];
	uint32_t n_executing, executing_at;
	struct slot **capturing; /* [max_in_flight] */
	uint32_t n_capturing, capturing_at;
	/* Language models. */
	struct known_model **models; /* [max_models], by the number in their handles; NULL: none */
	struct known_model_queue serving; /* these, and those removed that still have requests */
	struct model_session *sessions;	  /* [max_sessions] */
	struct model_session_queue free_sessions;
	uint32_t *client_sessions; /* [max_clients] */
	uint64_t *session_serial;  /* in the ledger */
	struct slot **stepping;	   /* [max_in_flight]; what engines have */
	uint32_t n_stepping;
	uint32_t n_warming; /* models that nobody has been told of yet */

	uint64_t in_flight; /* given away or queued, now and then brought up to date */
	bool failed;	    /* the device has, for good */
	bool models_first;  /* to take the next place in a lane */
	uint64_t launches;
	struct channel_queue waiting; /* for slots, outside the scan */
	bool slot_freed;	      /* they may go on */
	uint32_t budget;	      /* what is left of the present pass */
	uint32_t n_same; /* null operations of this pass that were queued equally long */
	uint64_t same_queued_ns;
	uint32_t n_null; /* all of this pass, and how long the first one was queued */
	uint64_t first_queued_ns;
	uint32_t seen_at; /* the next active channel whose client is looked at */

	uint64_t bells_ns, tick_ns, rescue_ns, expire_ns; /* when each was last done */
	uint32_t naps;					  /* since something was taken */
	uint64_t napped_at;				  /* what was taken before */
	uint64_t passes;

	struct mailbox in, out;
	pthread_t thread;
};

/*
 * What one channel may cost before the others get their turn: PASS_BUDGET units, of which an entry
 * costs one for each begun BUDGET_UNIT_NS, null operations always one. So a pass takes some 5 us
 * and its last entry. While channels of several users are active, that is what all channels of a
 * user may cost in a round, times its weight: what others do, one waits for no longer.
 */
#define PASS_BUDGET 128u
#define BUDGET_UNIT_NS 32u

/* --- dispatch.c --- */

/* Nothing uses the buffer or the pipeline any more, and it has been removed. */
void dispatch_tell_buffer(struct dispatch *d, struct buffer *buffer);
void dispatch_tell_pipeline(struct dispatch *d, struct known_pipeline *pipeline);
void dispatch_tell_model(
	struct dispatch *d, struct known_model *model, enum dispatch_event_type type);

/* Looks at its queue in each round from now on, until it has been idle for a while. */
void dispatch_activate(struct dispatch *d, struct channel *ch, uint64_t now_ns);

/*
 * The channel's client has ended, it seems: until that is proved, or for a second, nothing of it
 * is taken or started.
 */
void dispatch_hold(struct dispatch *d, struct channel *ch);

/* --- dispatch_entry.c --- */

/*
 * Takes entries of one channel, up to a budget. Returns how many, 0 when none is there or none
 * can be accepted now (ch->blocked), -GPUQ_EPOISONED, or -EOWNERDEAD: it is to be held.
 */
int dispatch_channel_pass(struct dispatch *d, struct channel *ch);

/* --- dispatch_run.c --- */

/* When something executed, the same twice when it did not; and now, for all who need to know. */
struct times {
	uint64_t start_ns, end_ns, now_ns;
};

/* A place for an accepted entry, or NULL when the channel must wait for one. */
struct slot *slot_take(struct dispatch *d, struct channel *ch);

/*
 * Puts an accepted entry, the one before ch->sq.cons, behind the others of its channel. Call, key,
 * user_data and times are filled in.
 */
void slot_enqueue(struct dispatch *d, struct channel *ch, struct slot *slot, uint64_t now_ns);

/* What the channel has queued starts no more, or may start again. */
void slot_hold_queue(struct dispatch *d, struct channel *ch, bool held);

/*
 * Cancels the channel's first entry with this user_data that has not started: 0, -EALREADY or
 * -ENOENT.
 */
int slot_cancel(struct dispatch *d, struct channel *ch, uint64_t user_data);

/*
 * Drops everything that the channel has queued, without completions; what has not started though
 * it left the queue ends soon.
 */
void slot_discard_queue(struct dispatch *d, struct channel *ch);

/*
 * 0: it may be in time, when it is started now and takes `needs_ns`. -ETIMEDOUT: it is too late
 * already; -GPUQ_EDEADLINE: it will be.
 */
int slot_in_time(struct dispatch *d, const struct slot *slot, uint64_t needs_ns, uint64_t now_ns);

/* How long a call or a copy takes that is given away now; 0 when that is not known. */
uint64_t slot_needs_ns(const struct dispatch *d, const struct slot *slot);

/* Completes what has ended and launches what fits. True when something happened. */
bool dispatch_run(struct dispatch *d);

/* Completes queued entries that are too late, or will be. Looks at every slot if one has any. */
void dispatch_expire(struct dispatch *d, uint64_t now_ns);

/* When what has been executing for longest was launched; 0: nothing executes. */
uint64_t dispatch_oldest_ns(const struct dispatch *d);

/* True when something has ended that dispatch_run() has not seen. */
bool dispatch_has_ended(const struct dispatch *d);

/* Asks all captures that are waited for to end soon. */
void dispatch_cancel_captures(struct dispatch *d);

/* The device has failed: everything in flight ends with -GPUQ_EDEVICE. */
void dispatch_lose_all(struct dispatch *d);

/* An engine has ended a request. */
void slot_step_ended(struct dispatch *d, struct slot *slot, int status, const struct times *times);

/* --- dispatch_count.c --- */

/* Counts a request's end in the statistics of device, channel and operator, if it has one. */
void count_operator(struct dispatch *d, struct channel *ch, const struct op_call *call, int status,
	uint64_t queued_ns, uint64_t executed_ns);

/* Likewise in those of a pipeline. */
void count_pipeline(
	struct dispatch *d, const struct known_pipeline *p, int status, uint64_t executed_ns);

/* Dispatch has given something to the device now, and began with that at start_ns. */
uint64_t count_launch(struct dispatch *d, uint64_t start_ns);

/* What an error is said to have happened to. */
const char *entry_subject(const struct wire_sqe *sqe);
const char *slot_subject(const struct slot *slot);

void count_error(struct dispatch *d, int status, const char *subject, uint64_t now_ns);

/* A session begins, has a request with the engine, has an answer, ends. */
void count_session_opened(struct dispatch *d, const struct model_session *s);
void count_session_asked(struct dispatch *d, struct model_session *s, const struct slot *slot);
void count_session_answered(struct dispatch *d, struct model_session *s, const struct slot *slot,
	int status, uint64_t end_ns);
void count_session_closed(struct dispatch *d, const struct model_session *s);

/* --- dispatch_record.c --- */

/* Of shm/recorder.h's kinds of events, one each. The slot has been enqueued. */
void record_taken(struct dispatch *d, const struct slot *slot, uint64_t trace_id, uint64_t now_ns);
void record_given(struct dispatch *d, const struct slot *slot, uint64_t end_ns);

/* Its completion was the last one posted. */
void record_ended(
	struct dispatch *d, const struct slot *slot, int status, const struct times *times);

/* Likewise, and its entry was the last one taken. */
void record_inline(struct dispatch *d, const struct channel *ch, const struct wire_sqe *sqe,
	const struct op_call *call, uint64_t start_ns, uint64_t end_ns);
void record_refused(struct dispatch *d, const struct channel *ch, const struct wire_sqe *sqe,
	int status, uint64_t now_ns);

/* After a pass with null operations. */
void record_batch(struct dispatch *d, const struct channel *ch, uint32_t taken, uint64_t now_ns);

void record_channel(struct dispatch *d, const struct channel *ch, bool ended);
void record_start(struct dispatch *d);

/* What clients have read meanwhile: of a few active channels in turn, or of this one. */
void record_seen(struct dispatch *d, uint64_t now_ns);
void record_seen_of(struct dispatch *d, struct channel *ch, uint64_t now_ns);

/* --- dispatch_copy.c --- */

int copy_streams_create(struct dispatch *d);
void copy_streams_destroy(struct dispatch *d);

/* Starts a copy. -EAGAIN: no stream is free; or another negative error. */
int copy_launch(struct dispatch *d, struct slot *slot);

/* It has ended. */
void copy_end(struct dispatch *d, struct slot *slot);

/* --- dispatch_model.c --- */

int model_tables_create(struct dispatch *d);
void model_tables_destroy(struct dispatch *d);

/* Does what a SLOT_SESSION asks for; its status. */
int model_session_act(struct dispatch *d, const struct slot *slot);

/* Gives a SLOT_STEP to its engine. -EAGAIN: its session has enough; or another negative error. */
int model_launch(struct dispatch *d, struct slot *slot);

/* model_run() may have something to do. */
static inline bool models_busy(const struct dispatch *d)
{
	return d->n_stepping > 0 || d->n_warming > 0;
}

/* Makes the work of a SLOT_SHAPE, or a negative error. Once it is given away the model has it. */
int model_shape_work(struct dispatch *d, struct slot *slot);

/* That has ended with this status: what the client is told. */
int model_shape_ended(struct dispatch *d, struct slot *slot, int status);

/* True: it ends soon with -ECANCELED. */
bool model_cancel(struct slot *slot);

/* Lets the engines go on, and completes what they have ended. True when something happened. */
bool model_run(struct dispatch *d);

/* When model_run() may have something to do that rings no bell; UINT64_MAX: never. */
uint64_t model_wake_ns(const struct dispatch *d);

/* When the first of the steps on the device is likely to end; see engine_due_ns(). */
uint64_t model_due_ns(const struct dispatch *d);

/* When what engines have had on the device for longest was launched; UINT64_MAX: nothing is. */
uint64_t model_oldest_ns(const struct dispatch *d);

/* The channel ends: what its sessions have comes back. */
void model_sessions_close(struct dispatch *d, struct channel *ch);

/* Commands of the link thread. */
void model_added(struct dispatch *d, struct known_model *m);
void model_removed(struct dispatch *d, struct known_model *m, bool force);

/* The device has failed. */
void models_fail(struct dispatch *d);

/* Writes the statistics of those in which something has changed. */
void models_publish(struct dispatch *d);

#endif
