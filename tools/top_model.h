/* SPDX-License-Identifier: MIT */
/*
 * top_model.h: what gpuq-top and gpuq status know: rows of plain values, made from one snapshot
 * of the statistics object and the one before it. Counters become rates and histograms become
 * quantiles of the time between the two; of the whole life when there is only one. Nothing here
 * knows of terminals or JSON: views walk top_tables[] (top_table.h).
 *
 * A value that is not known is TOP_UNKNOWN (integers) or NAN (floating point), never 0.
 */
#ifndef GPUQ_TOOLS_TOP_MODEL_H
#define GPUQ_TOOLS_TOP_MODEL_H

#include "tools/snapshot.h"

#define TOP_UNKNOWN UINT64_MAX
#define TOP_STATE_MAX 12
#define TOP_RECENT_NS 60000000000u     /* an error younger than that stands out */
#define TOP_HISTORY 12		       /* intervals that a sparkline shows */
#define TOP_DEAD_SHOWN_NS 30000000000u /* how long a client stays in sight after its end */

enum top_liveness {
	TOP_STARTING,
	TOP_SERVING,
	TOP_DRAINING,
	TOP_STOPPED, /* ended in order */
	TOP_GONE,    /* died: what is shown is its last state */
	TOP_SILENT,  /* exists, but gives no sign of life */
};

/* What a reader's eye should be drawn to. */
enum top_mark { TOP_PLAIN, TOP_DIM, TOP_GOOD, TOP_WARN, TOP_BAD };

/* Quantiles in nanoseconds. */
struct top_latency {
	uint64_t p50, p99;
};

/* Every row starts with its mark. */
struct top_daemon {
	enum top_mark mark;
	enum top_liveness liveness;
	char state[TOP_STATE_MAX];
	char version[GPUQ_NAME_MAX];
	char socket[STATS_PATH_MAX];
	uint64_t pid, uid, cpus;
	uint64_t uptime_ns, silent_ns;
	uint64_t clients, channels, segment_bytes;
	uint64_t accepted, refused, protocol_errors, deaths, accept_exhausted, device_restarts;
	uint64_t completed, failed; /* of all devices */
	double rate, fail_rate;	    /* the same, per second */
	double interval_s;	    /* that the rates are of */
};

struct top_device {
	enum top_mark mark;
	uint64_t number, pid, epoch, workers, active_channels;
	char state[TOP_STATE_MAX], kind[GPUQ_NAME_MAX], name[128];
	uint64_t queued, executing, completed, failed;
	uint64_t inline_runs, worker_runs, sleeps, doorbells, rescues, poisoned, hints, false_hints;
	uint64_t graph_hits, graph_misses, graph_captures, graph_failures, graph_evictions;
	uint64_t graph_bytes, graph_budget, captures_stopped;
	double rate, busy_percent; /* of one CPU: two busy threads are 200 */
	char uuid[64], driver[32];
	/* Of the GPU, or of the machine. */
	uint64_t memory_used_bytes, memory_bytes;
	double utilization_percent, power_w, temperature_c;
};

struct top_client {
	enum top_mark mark;
	uint64_t record, pid, uid, channels, segment_bytes, age_ns;
	char user[GPUQ_NAME_MAX], name[GPUQ_NAME_MAX], state[TOP_STATE_MAX];
	/* Sums over its open channels. */
	uint64_t depth, in_flight, unread, completed, failed;
	double rate;
	struct top_latency queue, execute;
};

struct top_channel {
	enum top_mark mark;
	uint64_t record, client, pid, device, priority, sq_entries, cq_entries, arena_bytes;
	char name[GPUQ_NAME_MAX]; /* of its client */
	char state[TOP_STATE_MAX];
	uint64_t depth, in_flight, unread, completed, failed, cancelled, expired, rescues;
	double rate;
	struct top_latency queue, execute;
	double rates[TOP_HISTORY]; /* the last one last; NAN: not known */
};

/* A language model. */
struct top_llm {
	enum top_mark mark;
	char name[GPUQ_NAME_MAX], state[TOP_STATE_MAX], architecture[GPUQ_NAME_MAX];
	uint64_t sessions, max_sessions, bytes, loaded_bytes, total_bytes, max_tokens;
	uint64_t kv_blocks, kv_free_blocks, kv_cached_blocks;
	uint64_t prompt_tokens, computed_tokens, shared_tokens, generated_tokens, steps, rows;
	uint64_t evictions, preemptions;
	double token_rate, step_rate, kv_percent; /* of the blocks, in texts of sessions */
	struct top_latency first_token, gap, decode, chunk;
};

/* A session of one. */
struct top_session {
	enum top_mark mark;
	uint64_t pid, channel;
	char id[12]; /* the handle, in hexadecimal digits */
	char model[GPUQ_NAME_MAX], name[GPUQ_NAME_MAX], user[GPUQ_NAME_MAX]; /* of its client */
	uint64_t tokens, kv_blocks, prompt_tokens, answers, failed;
	uint64_t first_token_ns, gap_ns, longest_ns, age_ns, idle_ns;
	double token_rate;
};

struct top_pipeline {
	enum top_mark mark;
	uint64_t handle, pid, steps, calls, failed;
	char name[GPUQ_NAME_MAX], client[GPUQ_NAME_MAX];
	double rate;
	struct top_latency execute;
};

/* An exact shape. */
struct top_graph {
	enum top_mark mark;
	uint64_t id, device, kernels, pinned, uses, hits, bytes, capture_ns, idle_ns;
	char shape[160], state[TOP_STATE_MAX], reason[96];
	char definition[160];	  /* every tensor */
	double rate, hit_percent; /* of its uses */
};

struct top_error {
	enum top_mark mark;
	char error[GPUQ_NAME_MAX], subject[GPUQ_NAME_MAX], source[8];
	char text[128];			   /* of the last one, or what the error means */
	uint64_t count, first_ns, last_ns; /* how long ago */
	double rate;
};

/* A node of the tree of users, their clients and the channels of these. */
struct top_node {
	enum top_mark mark;
	char label[64], state[TOP_STATE_MAX];
	uint64_t clients, channels, depth, in_flight, failed, segment_bytes;
	double rate;
	struct top_latency queue, execute;
};

struct top_op {
	enum top_mark mark;
	char name[GPUQ_NAME_MAX];
	uint64_t calls, failed;
	double rate;
	struct top_latency execute;
};

struct top_rows {
	uint32_t n;
	void *rows;
};

/*
 * The tables, in the order in which they are shown; top_tables[] describes them. From the first
 * extra one on they are shown when there is room, or when somebody asks for them.
 */
enum top_table_number {
	TOP_DEVICES,
	TOP_CLIENTS,
	TOP_CHANNELS,
	TOP_MODELS,
	TOP_OPS,
	TOP_ERRORS,
	TOP_SESSIONS,
	TOP_PIPELINES,
	TOP_GRAPHS,
	TOP_TABLES,
};
#define TOP_FIRST_EXTRA TOP_ERRORS

/* Rates of a channel in the intervals before. */
struct top_history {
	uint32_t generation; /* of the channel */
	double rates[TOP_HISTORY];
};

struct top_model {
	struct top_daemon daemon;
	struct top_rows rows[TOP_TABLES];
	char trouble[512];	     /* why the last snapshot could not be taken; empty: it could */
	struct snapshot *last;	     /* owned */
	struct top_history *history; /* by the channel's record */
	uint32_t n_history;
};

/*
 * Takes a snapshot into the model, which owns it from now on, also on failure. The one before
 * counts only when it is of the same gpuqd. -ENOMEM leaves the model as it was.
 */
int top_model_update(struct top_model *model, struct snapshot *snapshot);

/* No snapshot could be taken: the last rows stay, and the daemon's state says so. */
void top_model_fail(struct top_model *model, const char *why);

/* Releases what the model holds; the model is zeros again. */
void top_model_finish(struct top_model *model);

/* The users, each with its clients and their channels; free(ret_rows->rows). -ENOMEM. */
int top_tree(const struct top_model *model, struct top_rows *ret_rows);

/* One line about gpuqd's state: "gpuqd 0.1.0, pid 12, serving for 3m20s". Returns `text`. */
const char *top_headline(const struct top_daemon *daemon, char *text, size_t size);

#endif
