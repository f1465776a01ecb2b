/* SPDX-License-Identifier: MIT */
/*
 * proto.h: the messages on gpuqd's sockets. Everything rare goes this way; work never does.
 *
 * A socket is AF_UNIX, SOCK_SEQPACKET: one message is one packet, one struct below, starting
 * with struct msg_header. `bytes` is the packet's length and at least the length of that
 * message's struct in the oldest version served; a shorter known message is extended with
 * zeros, so fields are only ever appended. Reserved fields are zero.
 *
 *   client                               gpuqd
 *   MSG_HELLO                     ->
 *                                 <-     MSG_WELCOME + 1 descriptor: the daemon page
 *   MSG_ACK                       ->
 *   MSG_OPEN                      ->
 *                                 <-     MSG_OPENED + 3 descriptors: segment, eventfd, pipe
 *   MSG_ACK                       ->
 *   MSG_OP_QUERY / MSG_DEVICE_QUERY ->   (answered with the same type)
 *   MSG_CLOSE                     ->
 *                                 <-     MSG_CLOSED
 *   MSG_PRESENT_QUERY             ->
 *                                 <-     MSG_PRESENT
 *   MSG_GRAPH_QUERY               ->
 *                                 <-     MSG_GRAPHS
 *   MSG_PIPELINE (piece by piece) ->
 *                                 <-     MSG_PIPELINE_OK, to each piece
 *   MSG_PIPELINE_CLOSE            ->
 *                                 <-     MSG_PIPELINE_OK
 *   MSG_BUFFER_ALLOC              ->
 *                                 <-     MSG_BUFFER
 *   MSG_BUFFER_EXPORT             ->
 *                                 <-     MSG_BUFFER + 1 descriptor (not for cudaIpcMemHandle)
 *   MSG_ACK                       ->     (only after a descriptor)
 *   MSG_BUFFER_GRANT              ->
 *                                 <-     MSG_BUFFER
 *   MSG_BUFFER_ACCEPT             ->     (the grantee)
 *                                 <-     MSG_BUFFER
 *   MSG_BUFFER_FREE               ->
 *                                 <-     MSG_BUFFER
 *   MSG_MODEL_QUERY               ->
 *                                 <-     MSG_MODEL
 *
 * Every request is answered once, with `serial` copied, by its answer or by MSG_ERROR. A message
 * with descriptors must be acknowledged before the next one with descriptors is asked for
 * (-EBUSY): descriptors in flight count against gpuqd. MSG_GOODBYE (serial 0) may come from
 * either side at any time and is its last; a client sends a bare header. A client that hangs up
 * without it while it has channels open counts as dead. Until MSG_HELLO is accepted a deadline
 * runs. Any message that breaks this is answered with MSG_ERROR -GPUQ_EPROTO and the connection
 * is closed; so is one whose peer leaves its answers unread. A connection that cannot be admitted
 * gets MSG_ERROR (serial 0) before it has said anything.
 *
 * The administrative socket (the path with "-admin" behind it) speaks the same, and takes the
 * MSG_ADMIN_* requests too; only root and gpuqd's own user are let in. MSG_ADMIN_LOAD comes with
 * one descriptor, of a directory; every other descriptor that a client sends is closed.
 */
#ifndef GPUQ_SHM_PROTO_H
#define GPUQ_SHM_PROTO_H

#include "shm/wire.h"

#define MSG_MAGIC 0x6d757067u
#define MSG_MAX 2048u /* bytes of the longest message */
#define MSG_TEXT_MAX 224u
#define MSG_ADMIN_SUFFIX "-admin"

enum msg_type {
	MSG_HELLO = 1,
	MSG_WELCOME = 2,
	MSG_ERROR = 3,
	MSG_ACK = 4,
	MSG_OPEN = 5,
	MSG_OPENED = 6,
	MSG_CLOSE = 7,
	MSG_CLOSED = 8,
	MSG_OP_QUERY = 9,
	MSG_OP = 10,
	MSG_DEVICE_QUERY = 11,
	MSG_DEVICE = 12,
	MSG_GOODBYE = 13,
	/* Since version 3. */
	MSG_PRESENT_QUERY = 14,
	MSG_PRESENT = 15,
	MSG_GRAPH_QUERY = 16,
	MSG_GRAPHS = 17,
	MSG_PIPELINE = 18,
	MSG_PIPELINE_OK = 19,
	MSG_PIPELINE_CLOSE = 20,
	MSG_BUFFER_ALLOC = 21,
	MSG_BUFFER = 22,
	MSG_BUFFER_EXPORT = 23,
	MSG_BUFFER_GRANT = 24,
	MSG_BUFFER_ACCEPT = 25,
	MSG_BUFFER_FREE = 26,
	MSG_MODEL_QUERY = 27,
	MSG_MODEL = 28,
	MSG_ADMIN_STOP = 32, /* drain and end; answered with MSG_ADMIN_OK */
	MSG_ADMIN_OK = 33,
	MSG_ADMIN_CAPTURE = 34, /* stops or resumes captures; MSG_ADMIN_OK */
	MSG_ADMIN_EVICT = 35,	/* drops executables; MSG_ADMIN_OK */
	MSG_ADMIN_LOAD = 36,	/* + a directory: begins to load a model; MSG_ADMIN_OK */
	MSG_ADMIN_UNLOAD = 37,	/* answered with MSG_ADMIN_OK when it is gone */
	/* Since version 4: replaces a device process; MSG_ADMIN_OK when the next one is ready. */
	MSG_ADMIN_RESTART = 38,
};

struct msg_header {
	uint32_t magic; /* MSG_MAGIC */
	uint16_t type;	/* enum msg_type */
	uint16_t bytes;
	uint32_t serial;
	uint32_t reserved;
};

struct msg_hello {
	struct msg_header h;
	uint32_t abi_min, abi_max; /* versions of the wire that the client speaks */
	uint64_t features;	   /* that it asks for; none is defined yet */
	uint32_t flags;		   /* zero */
	uint32_t reserved;
	char name[GPUQ_NAME_MAX]; /* of the program, for people; ends with 0 */
};

struct msg_welcome {
	struct msg_header h;
	uint32_t abi; /* agreed: the greatest that both speak */
	uint32_t client;
	uint64_t features; /* granted */
	uint32_t n_devices, n_ops;
	uint32_t max_channels; /* of this client */
	uint32_t max_entries;  /* of one ring */
	uint64_t max_arena_bytes, max_client_bytes;
	char version[GPUQ_NAME_MAX];
	char socket_path[108 + 20]; /* names the statistics object */
};

struct msg_error {
	struct msg_header h;
	int32_t status; /* negative */
	uint32_t reserved;
	char text[MSG_TEXT_MAX]; /* one sentence: the cause and the next step */
};

/* MSG_ACK, MSG_ADMIN_STOP, MSG_ADMIN_OK are bare headers. */

struct msg_open {
	struct msg_header h;
	uint32_t device, priority; /* priority: 0 (first) .. MSG_PRIORITIES - 1 */
	uint32_t sq_entries, cq_entries;
	uint64_t arena_bytes;
	uint32_t flags; /* zero */
	uint32_t reserved;
};
#define MSG_PRIORITIES 4

struct msg_opened {
	struct msg_header h;
	uint32_t channel, generation;
	uint64_t segment_bytes;
	uint32_t sq_entries, cq_entries;
	uint64_t arena_bytes;
	uint64_t start; /* first index of both rings */
};

/* MSG_CLOSE and MSG_CLOSED. */
struct msg_close {
	struct msg_header h;
	uint32_t channel, generation;
};

/* MSG_OP_QUERY and MSG_DEVICE_QUERY. */
struct msg_query {
	struct msg_header h;
	uint32_t index;
	uint32_t reserved;
};

struct msg_op_tensor {
	char name[GPUQ_NAME_MAX];
	char shape[GPUQ_NAME_MAX];
	uint32_t dtypes; /* mask of GPUQ_DTYPE_BIT */
	uint32_t optional;
};

struct msg_op_param {
	char name[GPUQ_NAME_MAX];
	uint32_t type; /* enum gpuq_param_type */
	uint32_t reserved;
	double preset, min, max;
};

struct msg_op {
	struct msg_header h;
	uint32_t index;
	uint32_t n_inputs, n_outputs, n_params;
	char name[GPUQ_NAME_MAX];
	char summary[128];
	struct msg_op_tensor inputs[GPUQ_MAX_INPUTS];
	struct msg_op_tensor outputs[GPUQ_MAX_OUTPUTS];
	struct msg_op_param params[GPUQ_MAX_PARAMS];
	uint32_t in_out; /* since version 3: mask of inputs that are written too */
	uint32_t reserved;
};

struct msg_device {
	struct msg_header h;
	uint32_t index, ready;
	uint64_t epoch;
	char kind[GPUQ_NAME_MAX];
	char name[128];
};

/* --- Since version 3 ---------------------------------------------------------------------- */

/* MSG_PRESENT_QUERY is a struct msg_query: a device that the machine has, usable or not. */
struct msg_present {
	struct msg_header h;
	uint32_t index, count; /* index < count, or nothing below is filled in */
	int32_t status;	       /* 0, or why it cannot be used */
	uint32_t reserved;
	char kind[GPUQ_NAME_MAX]; /* "cuda:0" */
	char name[128];
	char uuid[64];
	char why[192]; /* one sentence: the cause and the next step */
};

/* Shapes of one device, in the order of their ids, from the first above `after`. */
struct msg_graph_query {
	struct msg_header h;
	uint32_t device;
	uint32_t reserved;
	uint64_t after; /* an id; 0: from the start */
};

enum msg_graph_state {
	MSG_GRAPH_COLD = 1,   /* served kernel by kernel */
	MSG_GRAPH_QUEUED = 2, /* waits for the capture thread */
	MSG_GRAPH_CAPTURING = 3,
	MSG_GRAPH_CAPTURED = 4,
	MSG_GRAPH_DIRECT = 5, /* launching the kernels one by one is faster */
	MSG_GRAPH_FAILED = 6, /* could not be captured: see reason */
};

struct msg_graph {
	uint64_t id; /* never 0, never used again */
	uint32_t state;
	uint32_t kernels;
	uint64_t uses; /* requests of this shape */
	uint64_t hits; /* of these, replays of its executable */
	uint64_t bytes;
	uint64_t capture_ns;
	uint32_t pinned;
	int32_t status;	 /* MSG_GRAPH_FAILED: the error */
	char shape[160]; /* "softmax x[32,64]f32 -> y[32,64]f32" */
	char reason[96];
};
#define MSG_GRAPHS_MAX 6

struct msg_graphs {
	struct msg_header h;
	uint32_t count;
	uint32_t more; /* 1: ask again, after the last one's id */
	struct msg_graph graphs[MSG_GRAPHS_MAX];
};

/*
 * A pipeline's definition, of at most MSG_PIPELINE_MAX_BYTES, comes in pieces in order: struct
 * wire_pipeline | struct wire_pipeline_tensor [n_tensors] | struct wire_pipeline_step [n_steps].
 * The last piece's answer has the handle, or is MSG_ERROR with what is wrong. A first piece
 * (offset 0) forgets an unfinished definition.
 */
#define MSG_PIPELINE_MAX_BYTES (512u << 10)
#define MSG_PIPELINE_PIECE 1984u
struct msg_pipeline {
	struct msg_header h;
	uint32_t device;
	uint32_t total_bytes, offset, bytes;
	uint8_t piece[MSG_PIPELINE_PIECE]; /* the message ends after `bytes` of it */
};

/* MSG_PIPELINE_OK, MSG_PIPELINE_CLOSE. */
struct msg_pipeline_handle {
	struct msg_header h;
	uint32_t handle; /* 0: more pieces are to come */
	uint32_t reserved;
};

/*
 * Tensors are numbered: inputs from 0, then outputs, then inner ones. Each output and inner tensor
 * is written by exactly one step. Steps may come in any order.
 */
struct wire_pipeline {
	char name[GPUQ_NAME_MAX];
	uint32_t n_inputs, n_outputs, n_tensors, n_steps;
};

/* dtype is given for all; rank and dims for inputs: a first shape, which is checked at once. */
struct wire_pipeline_tensor {
	char name[GPUQ_NAME_MAX];
	uint32_t dtype, rank;
	uint64_t dims[GPUQ_MAX_RANK];
};

/* An absent optional input, and every place that the operator does not have. */
#define WIRE_PIPELINE_NONE UINT16_MAX
struct wire_pipeline_step {
	uint32_t op;
	uint32_t params_given; /* mask; the others have their presets */
	uint16_t in[GPUQ_MAX_INPUTS], out[GPUQ_MAX_OUTPUTS];
	uint64_t params[GPUQ_MAX_PARAMS]; /* bits, of the type in the operator's description */
};

enum msg_buffer_form {
	MSG_BUFFER_FD = 1,  /* exported as a descriptor */
	MSG_BUFFER_IPC = 2, /* exported as a cudaIpcMemHandle */
};

struct msg_buffer_alloc {
	struct msg_header h;
	uint32_t device;
	uint32_t form; /* enum msg_buffer_form */
	uint64_t bytes;
	uint64_t reserved;
};

/* MSG_BUFFER_EXPORT, _GRANT, _ACCEPT, _FREE. */
struct msg_buffer_handle {
	struct msg_header h;
	uint32_t handle;
	uint32_t pid; /* MSG_BUFFER_GRANT: of the process that may accept it */
};

/* The answer to all of these. Fields that do not count are zero: all in that to MSG_BUFFER_FREE. */
struct msg_buffer {
	struct msg_header h;
	uint32_t handle, device;
	uint32_t form;
	uint32_t reserved;
	uint64_t bytes;	      /* that the client may use */
	uint64_t whole_bytes; /* of the allocation */
	uint8_t ipc[64];
	/* What an importer must share with gpuqd; see gpuq_buf_export(). */
	char uuid[64];
	char driver[32];
	uint64_t pid_namespace; /* inode */
};

enum msg_model_state {
	MSG_MODEL_LOADING = 1,
	MSG_MODEL_READY = 2,
	MSG_MODEL_FAILED = 3, /* could not be loaded: see status and why */
	MSG_MODEL_UNLOADING = 4,
};

/*
 * Models by number or, when the name is not empty, by name; when none is called NAME, the one of
 * those called NAME:VERSION that is ready and newest.
 */
struct msg_model_query {
	struct msg_header h;
	uint32_t index;
	uint32_t reserved;
	char name[GPUQ_NAME_MAX];
};

/* What there is to say about a model; before it is ready, what is not known yet is zero. */
struct msg_model {
	struct msg_header h;
	uint32_t index, count; /* index < count, or nothing below is filled in */
	uint32_t handle;       /* of struct wire_session; 0: there is no such model */
	uint32_t state;	       /* enum msg_model_state */
	int32_t status;	       /* MSG_MODEL_FAILED: why */
	uint32_t int8, deterministic;
	uint32_t vocab, hidden, layers, heads, kv_heads, head_dim;
	uint32_t max_tokens; /* of a session's text */
	uint32_t n_eos;
	int32_t eos[16]; /* tokens that end a text */
	uint32_t sessions, max_sessions;
	uint32_t kv_blocks, kv_free_blocks, kv_cached_blocks; /* of 16 tokens */
	uint64_t bytes;					      /* of the device: weights and cache */
	uint64_t loaded_bytes, total_bytes;		      /* of the files */
	uint64_t prompt_tokens, computed_tokens, shared_tokens, generated_tokens;
	uint64_t steps, rows, evictions, preemptions;
	char name[GPUQ_NAME_MAX];
	char architecture[GPUQ_NAME_MAX];
	char why[MSG_TEXT_MAX]; /* MSG_MODEL_FAILED: one sentence */
	char dir[256];		/* path of its folder, as gpuqd sees it; "" when it is longer */
	/* Since version 4. */
	uint64_t weight_bytes, cache_bytes; /* of `bytes` */
	uint32_t bucket_tokens;		    /* contexts are rounded up to it */
	/* Shapes of its steps that gpuqd knows; of these captured, and on the way to that. */
	uint32_t shapes, shapes_captured, shapes_wished;
	uint64_t captured_batches; /* bit i: steps of i + 1 sequences are, for some context */
	uint64_t batches[64];	   /* decode steps of i + 1 sequences */
	uint64_t decode_p50_ns, decode_p99_ns; /* of these steps */
	uint64_t chunk_p50_ns, chunk_p99_ns;   /* of the others */
};
#define MSG_MODEL_BYTES_ABI3 offsetof(struct msg_model, weight_bytes)

struct msg_admin_load {
	struct msg_header h;
	char name[GPUQ_NAME_MAX];
	uint32_t int8;		/* 1: matrices are quantised to 8 bits as they are loaded */
	uint32_t deterministic; /* 1: results do not depend on what else is computed */
	uint64_t reserved;
};

struct msg_admin_unload {
	struct msg_header h;
	char name[GPUQ_NAME_MAX];
	uint32_t force; /* 1: sessions are ended with -GPUQ_EMODEL; 0: -EBUSY when there are any */
	uint32_t reserved;
};

struct msg_admin_capture {
	struct msg_header h;
	uint32_t device;
	uint32_t stop; /* 1: no more captures; 0: go on */
};

struct msg_admin_restart {
	struct msg_header h;
	uint32_t device;
	uint32_t drain_ms; /* for what is in flight; then it gets -GPUQ_EDEVICE */
};

struct msg_admin_evict {
	struct msg_header h;
	uint32_t device;
	uint32_t reserved;
	uint64_t id; /* 0: all that are not pinned */
};

struct msg_goodbye {
	struct msg_header h;
	int32_t status; /* -GPUQ_EDRAIN, -GPUQ_EPOISONED, -GPUQ_EPROTO, ... */
	uint32_t reserved;
	char text[MSG_TEXT_MAX];
};

_Static_assert(sizeof(struct msg_header) == 16, "msg_header");
_Static_assert(sizeof(struct msg_hello) == 16 + 24 + 32, "msg_hello");
_Static_assert(sizeof(struct msg_welcome) == 16 + 48 + 32 + 128, "msg_welcome");
_Static_assert(sizeof(struct msg_open) == 48, "msg_open");
_Static_assert(sizeof(struct msg_opened) == 56, "msg_opened");
_Static_assert(sizeof(struct msg_op) <= MSG_MAX, "msg_op");
_Static_assert(sizeof(struct msg_graphs) <= MSG_MAX, "msg_graphs");
_Static_assert(sizeof(struct msg_pipeline) <= MSG_MAX, "msg_pipeline");
_Static_assert(sizeof(struct wire_pipeline) == 48, "wire_pipeline");
_Static_assert(sizeof(struct wire_pipeline_tensor) == 104, "wire_pipeline_tensor");
_Static_assert(sizeof(struct wire_pipeline_step) == 96, "wire_pipeline_step");
_Static_assert(sizeof(struct msg_buffer) <= MSG_MAX, "msg_buffer");
_Static_assert(sizeof(struct msg_model) <= MSG_MAX, "msg_model");

#endif
