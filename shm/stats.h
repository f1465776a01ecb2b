/* SPDX-License-Identifier: MIT */
/*
 * stats.h: the statistics object: a POSIX shared-memory object that gpuqd writes and everybody
 * who may read it maps read-only (gpuq-top, gpuq status, exporters). gpuqd does no work for its
 * readers, keeps working when somebody truncates it, and leaves it behind when it dies, so the
 * last state stays readable until the next start takes it over.
 *
 *	offset            what
 *	0                 struct stats_header
 *	devices_offset    struct stats_device [max_devices]
 *	clients_offset    struct stats_client [max_clients]
 *	channels_offset   struct stats_channel [max_channels]
 *	ops_offset        struct stats_op [max_ops]
 *	graphs_offset     struct stats_graph [max_graphs]
 *	captures_offset   struct stats_capture [max_captures]
 *	models_offset     struct stats_model [max_models]
 *	sessions_offset   struct stats_session [max_sessions]
 *	pipelines_offset  struct stats_pipeline [max_pipelines]
 *	errors_offset     struct stats_error [max_errors]
 *	recorder_offset   the rings of the flight recorder: see recorder.h
 *
 * A reader checks magic, version and the record sizes, and otherwise trusts nothing but its own
 * bounds. Counters are 64-bit words with one writer each; they only grow while a record's
 * `generation` stays the same. A record is in use when its state is not 0; names are written
 * before the state (release) and stay until the record is used again.
 */
#ifndef GPUQ_SHM_STATS_H
#define GPUQ_SHM_STATS_H

#include "shm/hist.h"
#include "shm/recorder.h"
#include "shm/wire.h"

#include <stdbool.h>

#define STATS_MAGIC 0x73757067u
#define STATS_VERSION 6
#define STATS_PATH_MAX 256

struct stats_header {
	uint32_t magic, version;
	uint32_t header_bytes, device_bytes, client_bytes, channel_bytes, op_bytes;
	uint32_t graph_bytes, capture_bytes, model_bytes;
	uint32_t max_devices, max_clients, max_channels, max_ops, max_graphs, max_captures;
	uint32_t max_models;
	uint32_t state; /* enum wire_state */
	uint64_t devices_offset, clients_offset, channels_offset, ops_offset, graphs_offset;
	uint64_t captures_offset, models_offset, total_bytes;
	uint32_t control_pid, control_uid;
	uint64_t started_realtime_ns; /* CLOCK_REALTIME */
	uint64_t heartbeat_ns;	      /* clock of the daemon page; written about once a second */
	uint64_t ticks_base, ns_base, mult; /* that clock: see wire_page */
	uint32_t shift, cpus;
	char version_text[GPUQ_NAME_MAX];
	char socket_path[STATS_PATH_MAX];
	/* Written by the control process. */
	uint64_t accepted;	   /* connections */
	uint64_t refused;	   /* handshakes that ended in an error */
	uint64_t protocol_errors;  /* broken messages */
	uint64_t deaths;	   /* clients that ended without closing */
	uint64_t accept_exhausted; /* times that accept() had no descriptor left */
	uint64_t device_restarts;
	uint64_t clients, channels;	/* now */
	uint64_t segment_bytes;		/* shared with clients now */
	uint64_t buffers, buffer_bytes; /* device buffers now */
	uint64_t pipelines;		/* registered now */
	/* Tables of version 5. */
	uint32_t session_bytes, pipeline_bytes, error_bytes;
	uint32_t max_sessions, max_pipelines, max_errors;
	uint64_t sessions_offset, pipelines_offset, errors_offset;
	/* Of the flight recorder: events of dispatch's ring, 0: it is off. */
	uint64_t recorder_offset, recorder_events;
};

#define STATS_HIST_BUCKETS HIST_BUCKETS(HIST_STATS_BITS)

enum stats_device_state {
	STATS_DEVICE_STARTING = 1,
	STATS_DEVICE_READY = 2,
	STATS_DEVICE_DRAINING = 3,
	STATS_DEVICE_GONE = 4,
};

struct stats_device {
	uint32_t state; /* enum stats_device_state */
	uint32_t pid;
	uint64_t epoch;
	char kind[GPUQ_NAME_MAX]; /* "cpu" */
	char name[128];		  /* "AMD EPYC ..., 8 workers" */
	uint32_t workers, active_channels;
	uint64_t heartbeat_ns; /* last time that dispatch looked at its channels */
	uint64_t passes;       /* rounds of the dispatch loop */
	uint64_t sleeps, doorbells;
	uint64_t rescues; /* work found by the rescue poll that a doorbell should have announced */
	uint64_t poisoned;
	uint64_t hints;			      /* robust words that said that a client has ended */
	uint64_t false_hints;		      /* of these, without a proof within a second */
	uint64_t consumed, completed, failed; /* entries */
	uint64_t inline_runs, worker_runs;
	uint64_t queued; /* now: accepted and waiting for a worker */
	uint64_t executing;
	uint64_t busy_ns; /* spent executing operators, summed over threads */
	/* Exact-shape graphs (graphs/). */
	uint64_t graph_hits;   /* replays */
	uint64_t graph_misses; /* served kernel by kernel because no executable was there */
	uint64_t graph_captures, graph_failures, graph_evictions;
	uint64_t graph_bytes, graph_budget;
	uint64_t captures_stopped; /* 1: by an administrator */
	uint64_t capture_count;	   /* of all time; the last max_captures are in the ring */
	char uuid[64];		   /* of the GPU, as the vendor's tools print it; "" on the CPU */
	char driver[32];
	uint64_t memory_bytes; /* in all */
	/*
	 * ns of all requests, whichever channel they came by. Null operations have waited and are
	 * answered, but neither launched nor executed.
	 */
	uint64_t queue_hist[STATS_HIST_BUCKETS];  /* from submission to execution */
	uint64_t launch_hist[STATS_HIST_BUCKETS]; /* to give one, or a step, to the device */
	uint64_t execute_hist[STATS_HIST_BUCKETS];
	uint64_t total_hist[STATS_HIST_BUCKETS]; /* from submission to completion */
};

enum stats_client_state {
	STATS_CLIENT_CONNECTED = 1, /* running or idle: look at its channels */
	STATS_CLIENT_STALLED = 2,   /* stopped or traced, or leaves completions unread */
	STATS_CLIENT_DEAD = 3,	    /* being reclaimed, or the last one in this record */
};

struct stats_client {
	uint32_t state; /* enum stats_client_state */
	uint32_t pid, uid;
	uint32_t generation; /* counts the clients of this record */
	char name[GPUQ_NAME_MAX];
	uint64_t connected_ns, ended_ns;
	uint64_t reclaimed_ns; /* when nothing of it was left; 0 before that */
	uint64_t channels;
	uint64_t segment_bytes;
};

enum stats_channel_state {
	STATS_CHANNEL_OPEN = 1,
	STATS_CHANNEL_POISONED = 2,
	STATS_CHANNEL_CLOSING = 3,
	STATS_CHANNEL_CLOSED = 4, /* the last one in this record */
};

struct stats_channel {
	uint32_t state;	 /* enum stats_channel_state */
	uint32_t client; /* its record */
	uint32_t client_generation;
	uint32_t generation;
	uint32_t device, priority;
	uint32_t sq_entries, cq_entries;
	uint64_t arena_bytes;
	/* Written by dispatch. */
	uint64_t consumed;  /* entries taken from the submission ring */
	uint64_t completed; /* completions posted */
	uint64_t failed;    /* of these, with a negative status */
	uint64_t cancelled, expired;
	uint64_t in_flight; /* now: consumed and not completed */
	uint64_t depth;	    /* entries published and not consumed, at dispatch's last look */
	uint64_t unread;    /* completions posted and not read, likewise */
	uint64_t parked;    /* 1: out of the scan until its doorbell rings */
	uint64_t rescues;
	uint64_t last_active_ns; /* clock of the daemon page */
	uint64_t held_ns;    /* since when nothing is taken, on a hint that its client died; or 0 */
	uint64_t drained_ns; /* since when nothing of it is in flight, when it was removed; or 0 */
	uint64_t queue_hist[STATS_HIST_BUCKETS]; /* ns from submission to execution */
	uint64_t execute_hist[STATS_HIST_BUCKETS];
};

struct stats_op {
	uint32_t state; /* 1: in use */
	uint32_t reserved;
	char name[GPUQ_NAME_MAX];
	uint64_t calls, failed;
	uint64_t execute_hist[STATS_HIST_BUCKETS];
};

/*
 * One exact shape. `state` is enum msg_graph_state; the other fields are as in struct msg_graph.
 * `users` are those who used it, from the start, each with the shape's id: what is there with
 * another id belongs to a shape that had the record before. Of more users than there are places
 * the first ones are known.
 */
#define STATS_GRAPH_USERS 8
struct stats_graph {
	uint32_t state;
	uint32_t device;
	uint64_t id;
	uint32_t kernels, pinned;
	int32_t status;
	uint32_t model;			 /* handle of the one whose step it is; 0: of none */
	uint32_t tokens, batch, context; /* of that step: a batch has so many sequences */
	uint32_t reserved;
	uint64_t users[STATS_GRAPH_USERS]; /* of stats_graph_user(); written by dispatch */
	char shape[160];
	char reason[96];
	uint64_t uses, hits, bytes, capture_ns;
	uint64_t last_used_ns;
};

static inline uint64_t stats_graph_user(uint64_t id, uint32_t uid)
{
	return id << 32 | uid;
}

/* One capture, on the clock of the daemon page; number n lies in record n % max_captures. */
struct stats_capture {
	uint64_t number; /* from 1; written last; 0: unused */
	uint64_t graph;	 /* its id */
	uint64_t begin_ns, end_ns;
	uint32_t kernels, device;
};

/*
 * A model. `state` is enum msg_model_state, name and architecture are for people; what is not known
 * before it is ready is zero until then. Blocks are of the KV cache.
 */
#define STATS_MODEL_BATCHES 64
struct stats_model {
	uint32_t state;
	uint32_t handle;
	char name[GPUQ_NAME_MAX];
	uint32_t int8, deterministic; /* 1: it is */
	/* Written by the device process. */
	char architecture[GPUQ_NAME_MAX];
	uint32_t vocab, hidden, layers, heads, kv_heads, head_dim;
	uint32_t max_tokens; /* of a session's text */
	uint32_t n_eos;
	int32_t eos[16];
	uint32_t bucket_tokens; /* contexts are rounded up to it */
	uint32_t reserved;
	uint64_t bytes; /* of the device: these two and working memory */
	uint64_t weight_bytes, cache_bytes;
	uint64_t loaded_bytes, total_bytes;	  /* of its files */
	uint64_t sessions, max_sessions;	  /* now; of this device process */
	uint64_t kv_blocks;			  /* in all */
	uint64_t kv_free_blocks;		  /* now, as the next one */
	uint64_t kv_cached_blocks;		  /* nobody's, kept for equal openings */
	uint64_t prompt_tokens;			  /* given by clients */
	uint64_t computed_tokens;		  /* on the device; after a preemption again */
	uint64_t shared_tokens;			  /* of these, not computed: an opening was there */
	uint64_t generated_tokens;		  /* sampled on the device */
	uint64_t steps, rows;			  /* on the device; answers that they gave */
	uint64_t evictions, preemptions;	  /* of cached blocks; of sessions */
	uint64_t batches[STATS_MODEL_BATCHES];	  /* decode steps of i + 1 sequences */
	uint64_t decode_hist[STATS_HIST_BUCKETS]; /* ns that these took */
	uint64_t chunk_hist[STATS_HIST_BUCKETS];  /* likewise, the other steps: chunks of prompts */
	uint64_t first_token_hist[STATS_HIST_BUCKETS]; /* ns from a prompt to its first answer */
	uint64_t gap_hist[STATS_HIST_BUCKETS];	       /* ns from one token to the next */
};

/* A session of a model. `state` is 1 while it is open. */
struct stats_session {
	uint32_t state;
	uint32_t handle;
	uint32_t model; /* its handle */
	uint32_t channel;
	uint32_t client, client_generation;
	uint64_t opened_ns, last_ns;	 /* last_ns: of its last answer; 0: none yet */
	uint64_t tokens;		 /* of its text */
	uint64_t kv_blocks;		 /* that it has now; 0 while it is preempted */
	uint64_t prompt_tokens;		 /* that came more than one at a time */
	uint64_t answers;		 /* tokens that were answered, or drawn on the device */
	uint64_t first_token_ns, gap_ns; /* the last of each; 0: none yet */
	uint64_t longest_ns, failed;	 /* the longest gap; requests that ended in an error */
};

/* A registered pipeline. `state` is 1 while it is there. */
struct stats_pipeline {
	uint32_t state;
	uint32_t handle;
	uint32_t client, client_generation;
	char name[GPUQ_NAME_MAX];
	uint32_t steps, reserved;
	uint64_t calls, failed;
	uint64_t execute_hist[STATS_HIST_BUCKETS];
};

/*
 * One kind of error: its status and what it happened to. The first half of the records is the
 * control process's, the second the device process's; the last one of each also counts all that
 * found no record of their own.
 */
#define STATS_ERRORS 96
struct stats_error {
	uint32_t state;		  /* 1: in use */
	int32_t status;		  /* negative */
	char what[GPUQ_NAME_MAX]; /* an operator, a pipeline, a kind of request */
	char text[96];		  /* of the last one; "": what the status means */
	uint64_t count, first_ns, last_ns;
};

/* gpuqd's or a reader's view of a mapped object. */
struct stats {
	struct stats_header *header;
	struct stats_device *devices;
	struct stats_client *clients;
	struct stats_channel *channels;
	struct stats_op *ops;
	struct stats_graph *graphs;
	struct stats_capture *captures;
	struct stats_model *models;
	struct stats_session *sessions;
	struct stats_pipeline *pipelines;
	struct stats_error *errors;
	char *recorder;
	uint64_t bytes;
};

/* How many records of each kind an object has. */
struct stats_sizes {
	uint32_t clients, channels, ops, graphs, captures, models, sessions, pipelines;
	uint64_t recorder_events; /* see recorder_ring_events() */
};

/* Which half of the errors is meant. */
enum stats_error_writer { STATS_ERRORS_OF_CONTROL, STATS_ERRORS_OF_DEVICE };

/*
 * The one path that stands for a socket, however it was named: its folder absolute and without
 * links. A path whose folder is not there stays as it is. -ENAMETOOLONG: more than `size`.
 */
int stats_socket_path(const char *socket_path, char *path, size_t size);

/*
 * Name of the object for the daemon behind a socket path: "/gpuq-" and the path with every '/'
 * turned into '!'; a path too long for a name is shortened to its hash. `size` >= 256. Nothing
 * is looked up: the path is one of stats_socket_path().
 */
void stats_name(const char *socket_path, char *name, uint32_t size);

/*
 * Makes the object of a path of stats_socket_path() anew: an old one is removed first when it
 * belongs to this user (-EPERM when it does not). All memory is allocated. *ret_fd can be mapped
 * by the device process. Only this user may read it, until the caller says otherwise with fchmod().
 */
int stats_create(const char *socket_path, const struct stats_sizes *sizes, struct stats *ret_stats,
	int *ret_fd);

/* The same, seen by gpuqd's own processes only: for when the object cannot be made. */
int stats_create_private(const struct stats_sizes *sizes, struct stats *ret_stats, int *ret_fd);

/*
 * True when readers no longer find in the object what is written into it: it was truncated,
 * removed, or its header damaged. `fd` is stats_create()'s; all operators' records are in use.
 */
bool stats_damaged(const struct stats *stats, int fd);

/* Maps an object that gpuqd made, read-write: the device process's side. */
int stats_map(int fd, struct stats *ret_stats);

/* The header describes an object of exactly this many bytes whose records have the known sizes. */
bool stats_header_valid(const struct stats_header *header, uint64_t bytes);

/*
 * Opens an object read-only, by any path of its socket or (when `file` is true) by a file's
 * path, and checks its header against its size. -ENOENT: there is none; -EPROTO: it is of
 * another version.
 */
int stats_open(const char *path, bool file, struct stats *ret_stats);

void stats_close(struct stats *stats);

/* Counts an error. One thread of each writer. `text` may be NULL. */
void stats_count_error(const struct stats *stats, enum stats_error_writer writer, int status,
	const char *what, const char *text, uint64_t now_ns);

/* The writer of one ring goes on where the one before it ended; off where the recorder is. */
struct recorder stats_recorder(const struct stats *stats, enum recorder_writer writer);

/*
 * From now on a SIGBUS inside this mapping (somebody truncated the object) is survived: private
 * zeros take the mapping's place. One mapping of a process at a time: the last one given.
 */
int stats_survive_truncation(const struct stats *stats);

#endif
