/* SPDX-License-Identifier: MIT */
/*
 * client.h: what the files of the client library share: the connection, the channel with its
 * table of submissions in flight, the call, and the inline checks of the hot path.
 */
#ifndef GPUQ_CLIENT_CLIENT_H
#define GPUQ_CLIENT_CLIENT_H

#include "client/arena.h"
#include "client/gpuq.h"
#include "shm/clock.h"
#include "shm/proto.h"
#include "shm/ring.h"
#include "shm/robust.h"
#include "shm/wait.h"

#include <pthread.h>

#define NS_PER_MS 1000000ull
#define NS_PER_S 1000000000ull

/*
 * One word on a page of its own that the kernel empties in a forked child. It holds the address
 * of the owning thread's `thread_mark`, so one comparison answers both "another thread?" and
 * "another process?".
 */
struct guard {
	uint64_t owner;
};

/* Its address tells threads apart. initial-exec: no call to find it. */
extern __thread char thread_mark __attribute__((tls_model("initial-exec")));

static inline uintptr_t thread_self(void)
{
	return (uintptr_t)&thread_mark;
}

struct gpuq {
	int fd;
	const struct wire_page *page;
	struct guard *guard; /* not 0 in the process that connected */
	uint64_t gone;	     /* 0, or the gpuq_error that ended the connection; atomic */
	uint64_t timeout_ns; /* of one request */
	uint32_t shared_cpus;
	bool automatic;	      /* gpuq_submit() reconnects */
	pthread_mutex_t lock; /* serialises requests; guards everything below */
	uint32_t serial;
	struct msg_welcome welcome;
	char path[sizeof(((struct msg_welcome *)0)->socket_path)];
	char gone_text[MSG_TEXT_MAX];	 /* written before `gone` */
	const struct gpuq_op_info **ops; /* [welcome.n_ops], filled as they are asked for */
	struct known_op *known_ops;	 /* of all epochs: calls point to them */
	uint64_t epoch;			 /* counts the gpuqds; atomic */
	pthread_mutex_t turn;		 /* guards the next two */
	pthread_cond_t turn_over;	 /* by CLOCK_MONOTONIC */
	bool turn_taken;		 /* a thread is reconnecting */
	char name[GPUQ_NAME_MAX];	 /* as gpuqd was told */
	struct gpuq_channel *channels;
	struct notice *notice; /* NULL before the first channel */
	struct gpuq_pipeline *pipelines;
	pthread_mutex_t upload; /* held while the pieces of one definition are sent */
	struct gpuq_buf *bufs;
};

struct gpuq_buf {
	struct gpuq *gpuq;
	uint32_t handle, device;
	uint32_t form; /* enum gpuq_buf_form */
	uint64_t bytes;
	uint64_t epoch; /* in which it was made; lost when the connection's is another */
	struct gpuq_buf *next, **link; /* in gpuq->bufs */
};

/* A submission in flight. The wire's user_data is `token`, the caller's stays here. */
struct flight {
	uint64_t token; /* slot | index << 32; FLIGHT_FREE when the slot is free */
	uint64_t user_data;
	struct gpuq_call *call;
	uint64_t index; /* of its entry in the submission ring */
};
#define FLIGHT_FREE UINT64_MAX

struct gpuq_call {
	struct gpuq_channel *channel;
	uint64_t opcode;		/* first word of the submission entry */
	uint64_t args;			/* its third: offset and length of the argument block */
	uint64_t references;		/* submissions in flight, and 1 until it is destroyed */
	const struct gpuq_op_info *op;	/* also of a pipeline: its interface */
	struct gpuq_pipeline *pipeline; /* NULL: an operator */
	struct model_call *model;	/* of a session; NULL: none */
	struct gpuq_call *next, **link; /* in channel->calls */
};

struct gpuq_channel {
	/* What every submission and every poll reads. */
	const struct guard *guard;
	const struct wire_page *page;
	const struct wire_header *header;
	int32_t gone; /* 0, or the negative error that ended the channel */
	uint32_t n_kept;
	struct ring_producer sq;
	struct ring_consumer cq;
	struct wire_sqe *sqes;
	const struct wire_cqe *cqes;
	struct flight *flights; /* [cq_entries] */
	uint16_t *free_slots;	/* a stack of them */
	uint32_t n_free;
	uint32_t cq_entries;
	uint64_t tail_word;  /* generation and max_completions of every entry */
	uint64_t trace_mask; /* 0 when the agreed wire has no trace ids */
	struct clock_line clock;
	struct gpuq_call null_call, cancel_call;

	/* What only waits and rare functions read. */
	struct gpuq *gpuq;
	uint64_t epoch;	       /* of the connection */
	uint64_t device_ended; /* 1: the old gpuqd's had, when there was a new one; atomic */
	struct overtaken *overtaken;
	struct gpuq_channel_options options;
	const char *gone_text; /* why it is gone, when the connection does not say */
	int doorbell_fd;       /* eventfd: wakes gpuqd */
	int bell_fd;	       /* pipe: wakes us */
	bool bell_rung;	       /* there may be bytes in the pipe */
	uint32_t device, spin_cpus;
	uint32_t id, generation;
	uint64_t rescues;
	struct wait wait;  /* the lengths of its stages, and what it has learned */
	uint64_t usual_ns; /* how long the last wait took that was too long for them; 0: none yet */
	void *segment;	   /* a page of our own lies before it: see notice.c */
	uint64_t segment_bytes;
	bool noticed; /* a thread of ours holds its word */
	uint8_t *arena_base;
	struct arena *arena;
	struct gpuq_completion *kept; /* [cq_entries], oldest at kept_at */
	uint32_t kept_at;
	struct gpuq_call *calls;
	struct gpuq_call *order; /* the one for sessions: see model.c; NULL before the first */
	struct gpuq_session *sessions;
	struct gpuq_channel *next, **link; /* in gpuq->channels */
	struct wire_ring ended_ring;	   /* takes the place of the shared one at the end */
};

/* --- error.c: every failure leaves a sentence ---------------------------------------------- */

/* Keeps the sentence for gpuq_error_detail() and returns `error`. */
int fail(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The same without the price of formatting; `sentence` is a literal. */
int fail_plain(int error, const char *sentence);

/* --- guard.c ------------------------------------------------------------------------------- */

/* Owned by the calling thread. -ENOMEM. */
int guard_create(struct guard **ret_guard);
void guard_destroy(struct guard *guard);

static inline bool guard_forked(const struct guard *guard)
{
	return guard->owner == 0;
}

/* --- notice.c: what tells gpuqd at once that this process has ended ------------------------ */

/* The lock is held; a connection without such a thread is none the worse but for that. */
void notice_add(struct gpuq_channel *channel);

/* Before its segment is unmapped. Not in a forked child. */
void notice_remove(struct gpuq_channel *channel);

/* When no channel is left. */
void notice_end(struct gpuq *gpuq);

/* --- fate.c -------------------------------------------------------------------------------- */

/* The channel ends: what is in flight is kept for gpuq_fates(), if there is memory for that. */
void overtaken_note(struct gpuq_channel *channel);

/* Finds out, before page or rings are replaced. `device_ended`: nobody writes them any more. */
void overtaken_resolve(struct gpuq_channel *channel, bool device_ended);
void overtaken_free(struct overtaken *overtaken);

/* --- connect.c ----------------------------------------------------------------------------- */

/* One try to connect as `g` did, to the path that it used. What comes back is for its own use. */
int connect_again(const struct gpuq *g, struct gpuq **ret_gpuq);

/* --- reconnect.c --------------------------------------------------------------------------- */

/* gpuq_reconnect(gpuq, 0), but one try of another thread is waited for as long as for one's own. */
int reconnect_once(struct gpuq *gpuq);

/* --- session.c: messages on the socket ----------------------------------------------------- */

#define SESSION_FDS_MAX 3

/* A received message and its descriptors, which are the receiver's to close. */
struct session_message {
	union {
		struct msg_header h;
		struct msg_error error;
		struct msg_goodbye goodbye;
		struct msg_welcome welcome;
		struct msg_opened opened;
		struct msg_close closed;
		struct msg_op op;
		struct msg_device device;
		struct msg_present present;
		struct msg_graphs graphs;
		struct msg_pipeline_handle pipeline;
		struct msg_buffer buffer;
		struct msg_model model;
		uint64_t words[MSG_MAX / 8];
	};
	uint32_t n_fds;
	int fds[SESSION_FDS_MAX];
};

/* What a request wants to hear. */
struct session_answer {
	uint16_t type, bytes;
	uint32_t n_fds;
};

/*
 * Sends a request (type and bytes of its header filled in) and returns its answer, acknowledged
 * when it has descriptors. Any thread. MSG_ERROR and MSG_GOODBYE become the return value.
 */
int session_request(struct gpuq *gpuq, struct msg_header *request, struct session_answer want,
	struct session_message *ret_answer);

/*
 * Sends a request whose answer is MSG_ADMIN_OK, with a descriptor unless that is -1. -GPUQ_EABI
 * when gpuqd does not know `what`.
 */
int session_administrate(struct gpuq *gpuq, struct msg_header *request, int fd, const char *what);

/* Likewise, without a descriptor, for an answer that takes longer than others. */
int session_administrate_long(
	struct gpuq *gpuq, struct msg_header *request, uint64_t timeout_ns, const char *what);

void session_message_close(struct session_message *message);

/* Tells gpuqd that the end of the connection is meant. */
void session_leave(const struct gpuq *gpuq);

/*
 * The connection of this epoch has ended: reads gpuqd's last word, if there is one. Returns
 * -GPUQ_EGONE or -GPUQ_EPOISONED, with the sentence.
 */
int session_gone(struct gpuq *gpuq, uint64_t epoch);

/* 0, or the error of a connection that has ended, or of a forked child, with the sentence. */
int session_check(const struct gpuq *gpuq);

/* -GPUQ_EABI, with the sentence, when gpuqd does not know this version of the wire. */
int session_need_abi(const struct gpuq *gpuq, uint32_t version, const char *what);

static inline int session_need_abi3(const struct gpuq *gpuq, const char *what)
{
	return session_need_abi(gpuq, 3, what);
}

/* The descriptor is a memfd of exactly `bytes` that nobody can shrink. */
int session_check_memory(int fd, uint64_t bytes, const char *what);

/* Handles that gpuqd never gives out: their generations are 0. */
#define STALE_HANDLE 1u
#define STALE_PIPELINE (WIRE_PIPELINE | STALE_HANDLE)
#define STALE_OP (WIRE_PIPELINE - 1)

/* gpuqd has ended, by its own words in shared memory. */
static inline bool page_gone(const struct wire_page *page)
{
	return robust_died(&page->owner) || shm_load_relaxed_u32(&page->state) == WIRE_STOPPED;
}

/* --- discovery.c --------------------------------------------------------------------------- */

/* Copies a text that somebody else wrote, with an end. */
void discovery_copy_text(char *dst, const char *src, size_t size);

/* Numbers may be others from now on. The lock is held. */
void discovery_forget(
	struct gpuq *gpuq, const struct msg_welcome *welcome, const struct gpuq_op_info **ops);

/* An operator by name; valid until gpuq_disconnect(). */
int discovery_find(struct gpuq *gpuq, const char *name, const struct gpuq_op_info **ret_op);
void discovery_free(struct gpuq *gpuq);

/* --- call.c -------------------------------------------------------------------------------- */

/* What a call is given, under one name. */
struct call_arguments {
	const struct gpuq_tensor *inputs, *outputs;
	const struct gpuq_param *params;
	uint32_t n_inputs, n_outputs, n_params;
};

/* Prepares a call of an operator, or of a pipeline, whose interface is op. */
int call_create(struct gpuq_channel *channel, const struct gpuq_op_info *op,
	struct gpuq_pipeline *pipeline, const struct call_arguments *a,
	struct gpuq_call **ret_call);

void call_free(struct gpuq_call *call);

/*
 * Makes the channel's calls, whose blocks lie in a copy of its arena at `arena`, fit for the gpuqd
 * that is connected now, or to be refused by it.
 */
int calls_renew(struct gpuq_channel *channel, uint8_t *arena);

/*
 * Makes a call of `opcode` out of an argument block, which is copied into the arena. Owned by the
 * calling thread; op may be NULL.
 */
int call_new(struct gpuq_channel *channel, uint16_t opcode, const void *block, size_t bytes,
	const struct gpuq_op_info *op, struct gpuq_call **ret_call);

static inline void call_release(struct gpuq_call *call)
{
	if (--call->references == 0)
		call_free(call);
}

/* --- pipeline.c ---------------------------------------------------------------------------- */

/* Calls keep the pipeline's description after its end. NULL is fine. */
void pipeline_ref(struct gpuq_pipeline *pipeline);
void pipeline_unref(struct gpuq_pipeline *pipeline);

/* They are unknown to gpuqd from now on. */
void pipelines_lose(struct gpuq *gpuq);

/* All pipelines of a connection that ends; gpuqd is not told. */
void pipeline_free_all(struct gpuq *gpuq);

/* --- model.c ------------------------------------------------------------------------------ */

/* What a call of a session has besides; its memory in the arena, too. */
void model_call_free(struct gpuq_call *call);

/* They are unknown to gpuqd from now on. */
void sessions_lose(struct gpuq_channel *channel);

/* All sessions of a channel that ends; gpuqd is not told. */
void sessions_free(struct gpuq_channel *channel);

/* --- channel.c ----------------------------------------------------------------------------- */

/* Why the calling thread may not use the channel: -GPUQ_ETHREAD or -GPUQ_EFORK. */
int channel_refuse(const struct gpuq_channel *channel);

static inline bool channel_owned(const struct gpuq_channel *channel)
{
	return __builtin_expect(channel->guard->owner == thread_self(), 1);
}

/* gpuqd has shut the channel, or has even taken its memory back: then all of it is zero. */
static inline bool header_shut(const struct wire_header *header)
{
	return shm_load_relaxed(&header->closed) != 0 ||
		shm_load_relaxed_u32(&header->magic) != WIRE_MAGIC;
}

/* Nothing will complete any more, but for what already lies in the completion ring. */
static inline bool channel_gone(const struct gpuq_channel *channel)
{
	return page_gone(channel->page) || header_shut(channel->header) || channel->gone != 0;
}

/* Like channel_gone(), or gpuqd takes no new work. */
static inline bool channel_shut(const struct gpuq_channel *channel)
{
	return robust_died(&channel->page->owner) ||
		shm_load_relaxed_u32(&channel->page->state) > WIRE_SERVING ||
		header_shut(channel->header) || channel->gone != 0;
}

/* Notes why the channel is gone, and returns that, with the sentence. */
int channel_lost(struct gpuq_channel *channel);

/* The shared words are impossible: somebody wrote over them. */
int channel_poison(struct gpuq_channel *channel);

/* The ring holds nothing more: forgets what was in flight. Returns the error. */
int channel_end(struct gpuq_channel *channel);

/* Opens a second channel like this one, which is not in the connection's list. */
int channel_open_twin(const struct gpuq_channel *channel, struct gpuq_channel **ret_twin);

/* The twin's rings take the place of the channel's, which has ended; it is freed. */
int channel_become(struct gpuq_channel *channel, struct gpuq_channel *twin);

/* Frees everything on this side; gpuqd is not told. */
void channel_free(struct gpuq_channel *channel);

/* --- wait.c -------------------------------------------------------------------------------- */

/*
 * Waits until the call, which is in flight once, has completed; completions of others are kept.
 * There is room to keep them all: see call_room(). Any error means that nothing is in flight.
 */
int call_wait(struct gpuq_channel *channel, const struct gpuq_call *call,
	struct gpuq_completion *ret_completion);

/*
 * Moves what is in the ring of a channel that is gone to where gpuq_poll() finds it, and ends the
 * channel. -ENOSPC: there is no room to keep it all.
 */
int channel_settle(struct gpuq_channel *channel);

/* Waits until one more can be submitted and all completions then in flight can be kept. */
int call_room(struct gpuq_channel *channel);

/* --- buffer.c ------------------------------------------------------------------------------ */

/* Is it known here? The lock is held. */
bool buf_known(const struct gpuq *gpuq, uint32_t handle);

/* Forgets all; gpuqd is not told. */
void bufs_free(struct gpuq *gpuq);

/* The range lies inside the buffer, which is of this connection. `what` is for the sentence. */
int buf_check(const struct gpuq *gpuq, const struct gpuq_buf *buf, uint64_t offset, uint64_t bytes,
	const char *what);

/* --- submit.c ------------------------------------------------------------------------------ */

static inline uint32_t flights_busy(const struct gpuq_channel *channel)
{
	return channel->cq_entries - channel->n_free;
}

/*
 * Takes `n` >= 1 completions, which are there, out of the ring. Returns how many, or ends the
 * channel with -GPUQ_EPOISONED when the first is impossible.
 */
int submit_reap(struct gpuq_channel *channel, struct gpuq_completion *ret_completions, uint32_t n);

#endif
