/* SPDX-License-Identifier: MIT */
/*
 * graphs.h: the exact-shape graph cache: every request of an operator or a pipeline goes through
 * it to the device. Its key is the sequence and the exact type, rank and dimensions of every
 * tensor; addresses and parameters are data. A request never waits for a capture: while its shape
 * is cold its kernels are launched one by one, on a lane kept for that; after some uses the
 * capture thread makes an executable in the background and publishes it by one atomic store. A
 * cold shape is not padded to a larger captured one: no operator says where that would be exact.
 *
 * Sequences of a few kernels without tensors between them are launched kernel by kernel by the
 * caller itself once they are planned (MSG_GRAPH_DIRECT), where the device is faster that way.
 *
 * Lanes. A lane is a stream, two streams for copies, and a scratch arena; an executable belongs to
 * one lane, since two replays run beside each other only with different scratch. A shape that is
 * hot while its lane is busy gets an executable in a second lane. At most GRAPHS_LANE_DEPTH works
 * are in a lane. The first half of the lanes are of high priority and serve channel priority 0.
 *
 * Threads. graphs_launch(), graphs_finish() and graphs_cancel() belong to one thread, dispatch:
 * they neither allocate nor block. Everything else may be called by any thread.
 */
#ifndef GPUQ_GRAPHS_GRAPHS_H
#define GPUQ_GRAPHS_GRAPHS_H

#include "device/device.h"
#include "graphs/pipeline.h"
#include "kernels/cost.h"
#include "shm/stats.h"

/*
 * Where the device has memory of its own. Tensors below this are read and written by the GPU where
 * they are, in the client's arena. Read once it is better copied from 4 MiB on only, read
 * twice from less than 1 MiB.
 */
#define GRAPHS_STAGE_BYTES (1u << 20)
#define GRAPHS_STAGING_BYTES (4u << 20)

#define GRAPHS_MAX_LANES 16
#define GRAPHS_LANE_DEPTH 2
/*
 * Works of priority 0, and of the others, that may wait for the cold-launch thread: few, since only
 * the caller knows who is first.
 */
#define GRAPHS_COLD_QUEUE 8
#define GRAPHS_HOT_LIST 256 /* shapes in the hot list */

struct graphs_options {
	struct device *device;
	struct clock_line clock;
	const struct cost_model *cost; /* lives as long as the cache; NULL: no predictions */
	uint32_t device_index;	       /* stats_graph.device */
	struct stats_device *stats;    /* totals */
	struct stats_graph *records;   /* one for each shape */
	uint32_t max_graphs;	       /* that there are */
	struct stats_capture *captures;
	uint32_t max_captures;
	uint64_t budget_bytes;	    /* of all executables */
	uint64_t user_bytes;	    /* of those whose shape one user was the first to use; 0: any */
	uint64_t scratch_bytes;	    /* of one lane; there are lanes + 4 such arenas */
	uint32_t lanes;		    /* 1 .. GRAPHS_MAX_LANES */
	uint32_t promote_uses;	    /* so many uses ... */
	uint64_t promote_window_ns; /* ... in this time make a shape worth a capture */
	uint32_t pinned;	    /* so many shapes, those used most, are not evicted for room */
	uint32_t direct_kernels;    /* UINT32_MAX: as many as the device says */
	/*
	 * Tensors in host memory of at least stage_bytes, and inputs that many steps of a pipeline
	 * read, are copied to and from the lane's staging memory, staging_bytes for each work in
	 * it, as long as that has room; others are used in place. UINT64_MAX: all are, which is
	 * right where the device works in the host's memory anyway. What args.carried of a work
	 * has is copied only where there is no executable to carry it.
	 */
	uint64_t stage_bytes, staging_bytes;
	const char *hot_list;				   /* path; NULL: none is kept */
	bool capture_stopped;				   /* as after graphs_stop_captures() */
	struct recorder *capture_recorder, *cold_recorder; /* of these threads; may be NULL */
	int wake_fd; /* eventfd, rung when a work ends by no doing of the device; -1: none */
};

struct graph_entry;
struct graph_exec;
struct graph_slot;
struct plan;

/* One request. Lives with the caller from graphs_launch() to graphs_finish(). */
struct graph_work {
	/* Filled in by the caller. */
	const struct op_call *call; /* op_check()ed where it is an operator's */
	uint64_t key;		    /* graphs_key(call) where that is known; 0: it is not */
	struct pipeline *pipeline;  /* of graphs_intern(); NULL: an operator */
	struct device_args args; /* addresses and parameters as of op_args(), completion, value */
	struct device_completion *completion; /* args.completion, as the host sees it */
	uint64_t deadline_ns;		      /* of the cache's clock; 0: none */
	uint32_t priority;		      /* of the channel: 0 is first */
	uint32_t uid;			      /* of the client, for the record of the shape */
	uint32_t in_host; /* bit i: pointers[i] lies in host memory, and may be staged */

	/* Valid with a negative completion->status: 1 + the argument to blame, 0: none. */
	uint32_t blame;
	/* Valid after graphs_launch() and at the end: an executable was launched. */
	bool replayed;
	/* Valid after -EAGAIN: it is cold, and graphs_cold_room() says when to try again. */
	bool no_cold_room;

	/* Private to the cache. */
	uint64_t state;
	uint64_t hash;
	uint64_t graph_id; /* the shape's, 0: none */
	struct graph_entry *entry;
	struct graph_exec *exec;
	struct graph_slot *slot;
	struct plan *plan;
	struct graph_work *next;
	bool precapture;
};

struct graphs;

/* Of the exact shape; others seldom have the same. Any thread. */
uint64_t graphs_key(const struct op_call *call);

/*
 * Makes a cache and starts its threads. 0, -ENOMEM, -EINVAL for options out of range, or the
 * device's error. On success `why` is empty or has one sentence on why the hot list was not used.
 */
int graphs_create(const struct graphs_options *options, struct graphs **ret_graphs, char why[224]);

/*
 * Saves the hot list, stops the threads, frees everything. Works that wait are completed with
 * -ECANCELED; none is on the device any more, unless it has failed. NULL is fine.
 */
void graphs_destroy(struct graphs *g);

/*
 * Starts a work. 0: it is the cache's until its completion word has its value; status is then 0,
 * or a refusal that came later (-GPUQ_ESHAPE, -GPUQ_ELIMIT, -ENOMEM, -ETIMEDOUT, -ECANCELED, ...).
 * -EAGAIN: there is no room in any lane that it could take, try again after another work has
 * ended. -GPUQ_EDEVICE: the device has failed, or something on it that still uses this work's
 * memory will never be seen to end; only the end of the process helps. Any other error: nothing
 * happened, nothing will.
 */
int graphs_launch(struct graphs *g, struct graph_work *w);

/* Whether there is room for a work of this priority whose shape is cold. Dispatch only. */
bool graphs_cold_room(const struct graphs *g, uint32_t priority);

/*
 * Completes w when its exact shape is captured (or never needs to be): status 0, or why it is not
 * (-GPUQ_ECAPTURE and those of graphs_launch()). Nothing is executed; args needs no addresses.
 * Returns as graphs_launch() does. Dispatch only.
 */
int graphs_precapture(struct graphs *g, struct graph_work *w);

/*
 * After the completion word of an accepted work, which was seen at now_ns: gives its lane back.
 * Returns when that was seen of the work before it in its lane; 0: never, or it was in none.
 */
uint64_t graphs_finish(struct graphs *g, struct graph_work *w, uint64_t now_ns);

/* True when w had not started: it is completed with -ECANCELED soon. */
bool graphs_cancel(struct graphs *g, struct graph_work *w);

/* No capture starts until graphs_resume_captures(); one that runs ends. Precaptures fail. */
void graphs_stop_captures(struct graphs *g);
void graphs_resume_captures(struct graphs *g);

/* Drops the executables of a shape, or of all shapes that are not pinned (0). -ENOENT. */
int graphs_evict(struct graphs *g, uint64_t id);

/* A pinned shape is not evicted for room and not forgotten. -ENOENT. */
int graphs_pin(struct graphs *g, uint64_t id, bool pin);

/*
 * The pipeline under which works of all equal ones must come: an equal one that the cache knows,
 * or p itself. Takes over the caller's reference to p and returns one. NULL: no memory; p is still
 * the caller's then.
 */
struct pipeline *graphs_intern(struct graphs *g, struct pipeline *p);

/*
 * Gives back what graphs_intern() returned. With the last one of a pipeline its shapes that are
 * not captured are forgotten; the others keep its definition, whose bytes count with theirs. Of a
 * pipeline with constants, whose works have all been finished, all shapes are forgotten: this then
 * waits for a capture of it to end (not dispatch), and nothing reads the constants any more.
 */
void graphs_release(struct graphs *g, struct pipeline *p);

/*
 * Nothing is recorded between the two: for what disturbs captures or is disturbed by them, such as
 * registering host memory. begin waits for a recording, and not for others that need quiet; never
 * dispatch.
 */
void graphs_quiet_begin(struct graphs *g);
void graphs_quiet_end(struct graphs *g);

#endif
