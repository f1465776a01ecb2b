/* SPDX-License-Identifier: MIT */
/*
 * graphs.h: the parts of `gpuq-bench graphs`. A hot shape is asked for at even intervals; latency
 * runs from the moment at which a request was due, so that a stall counts for everyone who would
 * have come meanwhile. Rounds take turns: nothing else goes on; new shapes are captured in the
 * background; the same shapes are captured by the thread that serves.
 */
#ifndef GPUQ_BENCH_GRAPHS_H
#define GPUQ_BENCH_GRAPHS_H

#include "bench/bench.h"

#include "graphs/pipeline.h"
#include "shm/stats.h"

/* --- chain.c: pipelines of so many kernels, GEMV and softmax in turn ------------------------- */

#define CHAIN_WIDTH 64
#define CHAIN_ROWS 256 /* at most */
#define STORM_ROWS 192 /* shapes of 1 .. so many rows are captured; more are new to anyone */

#define HOT_KERNELS 8
#define HOT_ROWS 8
#define STORM_CHAINS 3
#define STORM_WORKS 2 /* captures asked for at once, so that the capture thread never waits */

/* How many kernels the captured shapes have. */
extern const uint32_t storm_kernels[STORM_CHAINS];

struct chain {
	struct pipeline *pipeline;
	uint32_t kernels;
};

/* A definition as struct wire_pipeline; the caller's to free. NULL: no memory. */
void *chain_definition(uint32_t kernels, uint64_t *ret_bytes);

int chain_create(uint32_t kernels, struct chain *ret_chain);

/* A call for so many rows; no addresses yet. */
void chain_call(const struct chain *chain, uint64_t rows, struct op_call *ret_call);

/* --- What is served and recorded ------------------------------------------------------------- */

enum mode {
	QUIET,	    /* (a) */
	BACKGROUND, /* (b) */
	INLINE,	    /* (c) */
	MODES,
};

struct replay {
	uint64_t due_ns, start_ns, end_ns;
};

struct span {
	uint64_t begin_ns, end_ns;
	uint32_t kernels;
};

/* One round. */
struct round {
	struct replay *replays;
	uint32_t n_replays, max_replays;
	struct span *captures;
	uint32_t n_captures, max_captures;
	uint64_t begin_ns, end_ns;
};

/* Notes a capture; those that do not fit are not counted as overlapping either. */
static inline void round_capture(struct round *r, uint64_t begin_ns, uint64_t end_ns, uint32_t n)
{
	if (r->n_captures < r->max_captures)
		r->captures[r->n_captures++] = (struct span){begin_ns, end_ns, n};
}

/*
 * Takes over the captures that a cache has noted from *seen + 1 to `last`, and brings *seen up to
 * that; `captures` is its ring of `max`.
 */
void round_captures(struct round *round, const struct stats_capture *captures, uint32_t max,
	uint64_t *seen, uint64_t last);

/* Who serves: the graph cache in this process, or gpuqd. */
struct server {
	const char *name;
	void *state;
	struct clock_line clock; /* of all times, its captures' too */
	/* One request for the hot shape, to its end. */
	int (*replay)(void *state);
	/* Around a round of captures of so many kernels; end waits for the last one. */
	int (*begin)(void *state, enum mode mode, uint32_t kernels);
	int (*end)(void *state, enum mode mode, struct round *round);
	/* Between two requests. */
	int (*between)(void *state, enum mode mode, struct round *round);
};

/* --- rig.c: in this process ------------------------------------------------------------------- */

struct rig;

int rig_create(struct bench *b, struct rig **ret_rig);
void rig_destroy(struct rig *r);
void rig_server(struct rig *r, struct server *ret_server);

/* What the first requests of one new shape took. */
struct cold {
	uint64_t first_ns, second_ns; /* kernel by kernel */
	uint64_t capture_ns, replay_ns;
};

/* Asks for a shape of more than STORM_ROWS rows, new to the cache, then has it captured. */
int rig_cold(struct rig *r, uint32_t kernels, uint64_t rows, struct cold *ret_cold);

/* --- remote.c: through a gpuqd, with a second client that asks for captures ------------------- */

struct remote;

int remote_create(struct bench *b, struct remote **ret_remote);
void remote_destroy(struct remote *r);
void remote_server(struct remote *r, struct server *ret_server);

/* --- timeline.c: files ------------------------------------------------------------------------ */

/* Writes rounds one after the other as a Chrome trace; see gpuq-bench(1). 0 or a negative errno. */
int trace_write(const char *path, const struct round *rounds, uint32_t n);

/* For plot.py. */
json_t *round_json(const struct round *round, const char *title, uint32_t kernels);

/* Draws what was kept. 0, or a told error. */
int plot_write(const struct bench *b, json_t *rounds);

#endif
