/* SPDX-License-Identifier: MIT */
/*
 * gpuq.h: the client library of gpuq. A process connects to gpuqd once, opens a channel for each
 * of its threads that submits work, and from then on talks to the device through shared memory,
 * without a system call on the hot path.
 *
 *	struct gpuq *g;
 *	struct gpuq_channel *ch;
 *	gpuq_connect(NULL, &g);
 *	gpuq_channel_open(g, NULL, &ch);
 *	float *x, *y;
 *	gpuq_alloc(ch, 64 * sizeof(*x), (void **)&x);
 *	gpuq_alloc(ch, 64 * sizeof(*y), (void **)&y);
 *	... fill x ...
 *	struct gpuq_tensor in = {.data = x, .dtype = GPUQ_F32, .rank = 1, .dims = {64}};
 *	struct gpuq_tensor out = {.data = y, .dtype = GPUQ_F32, .rank = 1, .dims = {64}};
 *	struct gpuq_call *call;
 *	gpuq_call_create(ch, "softmax", &in, 1, &out, 1, NULL, 0, &call);
 *	struct gpuq_submission s = {.call = call, .user_data = 7};
 *	struct gpuq_completion c;
 *	gpuq_submit(ch, &s, 1);
 *	gpuq_wait(ch, &c, 1, GPUQ_FOREVER);	// c.user_data is 7, c.status is 0, y is there
 *
 * Errors. Functions return 0 or a count, or a negative value: the negative of an errno value or
 * of an enum gpuq_error. gpuq_strerror() names it; gpuq_error_detail() has the whole sentence of
 * the last failure in the calling thread. ret_ arguments are not touched on failure.
 *
 * Threads. A struct gpuq may be used by any thread. A channel, its arena, and its calls belong to
 * the thread that opened it; in another thread its functions return -GPUQ_ETHREAD, in a forked
 * child -GPUQ_EFORK, and do nothing. A channel may be handed on with gpuq_channel_adopt().
 *
 * Arena memory. Everything that gpuqd reads or writes for a channel lies in the channel's arena.
 * Memory from gpuq_alloc() is the caller's until gpuq_free(). While a submission is in flight
 * (from gpuq_submit() until its completion has been returned by gpuq_poll() or gpuq_wait()),
 * gpuqd may read its inputs and write its outputs at any moment: changing inputs makes the result
 * undefined, nothing worse. That stays so when a wait times out, when a cancellation is asked
 * for but not yet completed, and when a deadline has passed: only the completion ends it.
 * After -GPUQ_EGONE nothing is in flight any more; outputs are then undefined, and the memory
 * stays readable until gpuq_channel_close(). What became of each submission gpuq_fates() tells;
 * when gpuqd runs again, gpuq_reconnect() makes connection and channels work again.
 */
#ifndef GPUQ_H
#define GPUQ_H

#include "gpuq-types.h"

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GPUQ_EXPORT __attribute__((visibility("default")))

#define GPUQ_VERSION_MAJOR 0
#define GPUQ_VERSION_MINOR 1
#define GPUQ_VERSION_PATCH 0

/* A timeout that never passes. Timeouts are relative, in nanoseconds; 0 does not wait. */
#define GPUQ_FOREVER UINT64_MAX

struct gpuq;	      /* a connection */
struct gpuq_channel;  /* a pair of rings and an arena */
struct gpuq_call;     /* an operator with its tensors, ready to be submitted many times */
struct gpuq_pipeline; /* operators that pass tensors to each other on the device */
struct gpuq_buf;      /* memory on a device */
struct gpuq_session;  /* a text of a language model */

/* --- Connection ---------------------------------------------------------------------------- */

struct gpuq_options {
	/*
	 * Path of gpuqd's socket. NULL: $GPUQ_SOCKET if set; else the first that answers of
	 * $XDG_RUNTIME_DIR/gpuq-0 and /run/gpuq/gpuq-0.
	 */
	const char *socket;
	const char *name;    /* shown by gpuq-top; NULL: the program's name */
	uint64_t timeout_ns; /* of the handshake; 0: 5 s */
	bool admin;	     /* connect to the administrative socket (the path with "-admin") */
	/*
	 * gpuq_submit() on a channel that has ended with gpuqd calls gpuq_reconnect(gpuq, 0)
	 * first, once nothing of it is in flight or left to be polled; it fails as before while no
	 * gpuqd is there, and may take as long as a connection when one is.
	 */
	bool reconnect;
};

/*
 * Connects. options may be NULL. Errors: -ENOENT or -ECONNREFUSED when no gpuqd answers (the
 * detail names every path tried), -EACCES, -ENAMETOOLONG, -ETIMEDOUT, -ENOMEM, -GPUQ_EABI,
 * -GPUQ_ELIMIT, -GPUQ_EDRAIN, -GPUQ_EGONE (it hung up on us), -GPUQ_EPROTO.
 */
GPUQ_EXPORT int gpuq_connect(const struct gpuq_options *options, struct gpuq **ret_gpuq);

/* Closes the connection and every channel still open on it. NULL is fine. */
GPUQ_EXPORT void gpuq_disconnect(struct gpuq *gpuq);

/*
 * After -GPUQ_EGONE: connects to the gpuqd that has taken its place at the same socket, trying for
 * up to timeout_ns, and gives every channel of the calling thread a new life on it. What stays as
 * it was: both pointers, the arena with its contents and pointers, calls of operators, channels'
 * options, gpuq_completion_fd() (its number; a descriptor in an epoll set has to be added again),
 * completions not yet returned, gpuq_fates(). What cannot come back is answered with an error and
 * has to be made anew: buffers (-GPUQ_ELOST; -GPUQ_EBUFFER for calls that use them), pipelines
 * (-GPUQ_EPIPELINE), sessions of models (-GPUQ_ESESSION), calls of operators that the new gpuqd
 * does not have or that take other arguments there (-GPUQ_EOP).
 *
 * Each thread that has channels calls this for its own: the first one connects. Meanwhile other
 * threads may use their channels, which say -GPUQ_EGONE until then, but not the connection.
 *
 * It tries at least once, unless timeout_ns passes while another thread is at it: with 0 that is at
 * once. A try that has begun may take as long as gpuq_connect(), and a moment for each channel.
 *
 * 0, also when there was nothing to do; -ETIMEDOUT: another thread is still at it, or what is there
 * does not answer; the errors of gpuq_connect(): no gpuqd has come; -GPUQ_EDRAIN: the old one is
 * still ending; or an error of gpuq_channel_open(): the connection is back, but not this channel.
 * All may be tried again.
 */
GPUQ_EXPORT int gpuq_reconnect(struct gpuq *gpuq, uint64_t timeout_ns);

/* How often this connection was made: 1, and 1 more with each gpuq_reconnect() that connected. */
GPUQ_EXPORT uint64_t gpuq_epoch(const struct gpuq *gpuq);

/* 0 while gpuqd serves, -GPUQ_EDRAIN while it shuts down, -GPUQ_EGONE after. No system call. */
GPUQ_EXPORT int gpuq_alive(const struct gpuq *gpuq);

/* Version of this library, "0.1.0". */
GPUQ_EXPORT const char *gpuq_version(void);

/* Version of the gpuqd behind a connection; valid until gpuq_disconnect(). */
GPUQ_EXPORT const char *gpuq_server_version(const struct gpuq *gpuq);

/* Path of the socket in use; valid until gpuq_disconnect(). Names the statistics object. */
GPUQ_EXPORT const char *gpuq_socket_path(const struct gpuq *gpuq);

/* The agreed version of the wire. */
GPUQ_EXPORT uint32_t gpuq_abi(const struct gpuq *gpuq);

/* Asks gpuqd to drain and end. Needs an administrative connection, else -EPERM. */
GPUQ_EXPORT int gpuq_admin_stop(struct gpuq *gpuq);

/*
 * Replaces the process that drives a device by one that is started anew, from the file of gpuqd on
 * disk: of a new version, say. What is in flight has `drain_ns` to end, and completes with
 * -GPUQ_EDEVICE after that; what is submitted meanwhile waits. Connections, channels, pipelines and
 * calls last; models are loaded again; buffers are lost, and sessions of models closed, as when the
 * process ends by itself. Returns when the next one is ready; -ETIMEDOUT when that takes longer
 * than drain_ns and 60 s more: it goes on. Needs an administrative connection, else -EPERM;
 * -EBUSY: it is being started now; -GPUQ_EDEVICE: what is on disk did not begin, and the executable
 * before it drives the device again; -GPUQ_ENODEV, -GPUQ_EABI, -GPUQ_EDRAIN, -GPUQ_EGONE, and
 * errors of open(2) for the file.
 */
GPUQ_EXPORT int gpuq_admin_restart(struct gpuq *gpuq, uint32_t device, uint64_t drain_ns);

/* --- What gpuqd offers --------------------------------------------------------------------- */

struct gpuq_op_tensor {
	char name[GPUQ_NAME_MAX];
	char shape[GPUQ_NAME_MAX]; /* for people: "[B,I]" */
	uint32_t dtypes;	   /* mask of GPUQ_DTYPE_BIT(dtype) */
	bool optional;
	bool in_out; /* of an input: the operator writes it too, where it lies */
};

struct gpuq_op_param {
	char name[GPUQ_NAME_MAX];
	uint32_t type; /* enum gpuq_param_type */
	double preset, min, max;
};

struct gpuq_op_info {
	uint32_t index; /* its number in this gpuqd */
	uint32_t n_inputs, n_outputs, n_params;
	char name[GPUQ_NAME_MAX];
	char summary[128];
	struct gpuq_op_tensor inputs[GPUQ_MAX_INPUTS];
	struct gpuq_op_tensor outputs[GPUQ_MAX_OUTPUTS];
	struct gpuq_op_param params[GPUQ_MAX_PARAMS];
};

struct gpuq_device_info {
	uint32_t index;
	bool ready;
	uint64_t epoch;		  /* counts the processes that have driven this device */
	char kind[GPUQ_NAME_MAX]; /* "cpu" */
	char name[128];
};

struct gpuq_limits {
	uint32_t max_channels;	   /* of one connection */
	uint32_t max_entries;	   /* of one ring */
	uint64_t max_arena_bytes;  /* of one channel */
	uint64_t max_client_bytes; /* of all channels of one connection */
};

/* What gpuqd said when it accepted the connection; valid while it lasts. No system call. */
GPUQ_EXPORT uint32_t gpuq_op_count(const struct gpuq *gpuq);
GPUQ_EXPORT uint32_t gpuq_device_count(const struct gpuq *gpuq);
GPUQ_EXPORT void gpuq_limits(const struct gpuq *gpuq, struct gpuq_limits *ret_limits);

/*
 * Describes an operator by number or by name; -GPUQ_EOP when there is none. Each is asked for once
 * over the socket, and remembered.
 */
GPUQ_EXPORT int gpuq_op_info(struct gpuq *gpuq, uint32_t index, struct gpuq_op_info *ret_info);
GPUQ_EXPORT int gpuq_op_find(struct gpuq *gpuq, const char *name, struct gpuq_op_info *ret_info);

/* Describes a device; -GPUQ_ENODEV when there is none. One round trip. */
GPUQ_EXPORT int gpuq_device_info(
	struct gpuq *gpuq, uint32_t index, struct gpuq_device_info *ret_info);

/* A device that the machine of gpuqd has, whether it can be used or not. */
struct gpuq_present_info {
	uint32_t index;
	int status;		  /* 0, or why it cannot be used: -GPUQ_ENODEV or another error */
	char kind[GPUQ_NAME_MAX]; /* as gpuqd's option `device` takes it: "cpu", "cuda:0" */
	char name[128];
	char uuid[64];
	char why[192]; /* with a negative status: the cause and the next step, one sentence */
};

/*
 * Describes what gpuqd found when it started, numbered from 0; -GPUQ_ENODEV behind the last one,
 * -GPUQ_EABI when gpuqd is too old to tell. One round trip.
 */
GPUQ_EXPORT int gpuq_present_info(
	struct gpuq *gpuq, uint32_t index, struct gpuq_present_info *ret_info);

/* --- Channels ------------------------------------------------------------------------------ */

struct gpuq_channel_options {
	uint32_t device;      /* number of the device */
	uint32_t priority;    /* 0 is served first; 0 .. 3 */
	uint32_t sq_entries;  /* submissions not yet taken; a power of two; 0: 256 */
	uint32_t cq_entries;  /* submissions in flight; a power of two >= sq_entries; 0: 2 * sq */
	uint64_t arena_bytes; /* 0: 1 MiB */
};

/*
 * Opens a channel that belongs to the calling thread. options may be NULL. Errors: -EINVAL,
 * -GPUQ_ENODEV, -GPUQ_ELIMIT, -ENOMEM, -GPUQ_EDRAIN, -GPUQ_EGONE.
 */
GPUQ_EXPORT int gpuq_channel_open(struct gpuq *gpuq, const struct gpuq_channel_options *options,
	struct gpuq_channel **ret_channel);

/*
 * Closes: what is in flight is discarded, arena and calls go with it. Any thread of the process
 * that opened it, provided no other thread uses it now; in a forked child it only forgets the
 * channel. NULL is fine.
 */
GPUQ_EXPORT void gpuq_channel_close(struct gpuq_channel *channel);

/*
 * The calling thread becomes the owner. The caller orders this after the last use by the thread
 * before (a join, a mutex). -GPUQ_EFORK in a forked child.
 */
GPUQ_EXPORT int gpuq_channel_adopt(struct gpuq_channel *channel);

/* The connection of a channel. */
GPUQ_EXPORT struct gpuq *gpuq_channel_gpuq(const struct gpuq_channel *channel);

/*
 * Memory in the arena, aligned to 64 bytes; contents undefined. bytes may be 0. Errors: -ENOSPC
 * when no free piece is large enough now, -GPUQ_ETOOBIG when the whole arena is smaller (the
 * detail names its size).
 */
GPUQ_EXPORT int gpuq_alloc(struct gpuq_channel *channel, size_t bytes, void **ret_data);

/* Gives memory back; see "Arena memory" above for when. NULL is fine. -EINVAL: not from here. */
GPUQ_EXPORT int gpuq_free(struct gpuq_channel *channel, void *data);

/* --- Calls --------------------------------------------------------------------------------- */

/*
 * A dense tensor in C order, aligned to its elements. It lies in the channel's arena (data) or,
 * with data NULL, in a buffer. dtype 0 stands for an absent optional input.
 */
struct gpuq_tensor {
	void *data;
	uint32_t dtype;
	uint32_t rank;
	uint64_t dims[GPUQ_MAX_RANK]; /* outermost first */
	const struct gpuq_buf *buffer;
	uint64_t offset; /* of the first element in the buffer */
};

struct gpuq_param {
	const char *name;
	uint32_t type; /* enum gpuq_param_type */
	union {
		double f64;
		int64_t i64;
	} value;
};

/*
 * Prepares a call: looks the operator up by name and writes the argument block into the arena,
 * once. Only names, counts and addresses are checked here; gpuqd checks everything at every
 * submission. Fewer inputs than the operator has means that the last ones are absent.
 * Errors: -GPUQ_EOP, -GPUQ_EARGS, -GPUQ_EPARAM, -GPUQ_EBOUNDS (a tensor that does not begin in
 * the arena or in its buffer), -EINVAL (one with both), -GPUQ_EBUFFER (of another connection),
 * -GPUQ_EDTYPE and -GPUQ_ERANK (of a number that no operator takes), -ENOSPC, -GPUQ_ETOOBIG,
 * -GPUQ_EGONE.
 */
GPUQ_EXPORT int gpuq_call_create(struct gpuq_channel *channel, const char *op,
	const struct gpuq_tensor *inputs, uint32_t n_inputs, const struct gpuq_tensor *outputs,
	uint32_t n_outputs, const struct gpuq_param *params, uint32_t n_params,
	struct gpuq_call **ret_call);

/*
 * Ends a call. May be called while it is in flight: its argument block returns to the arena with
 * the last completion. Tensors stay the caller's. NULL is fine.
 */
GPUQ_EXPORT void gpuq_call_destroy(struct gpuq_call *call);

/* --- Pipelines ----------------------------------------------------------------------------- */

/*
 * A named sequence of operators. What one writes another reads without a way through the client:
 * tensors between steps stay on the device. It is registered once, and then called like an
 * operator: one submission and one completion for the whole, with the priority of the channel, one
 * timeout, one cancellation. Each exact shape of its inputs becomes a graph of its own.
 *
 *	const struct gpuq_pipeline_tensor tensors[] = {
 *		{"x", GPUQ_PIPELINE_INPUT, GPUQ_F32, 2, {32, 64}},
 *		{"w", GPUQ_PIPELINE_INPUT, GPUQ_F32, 2, {10, 64}},
 *		{"scores", GPUQ_PIPELINE_INNER, .dtype = GPUQ_F32},
 *		{"p", GPUQ_PIPELINE_OUTPUT, .dtype = GPUQ_F32},
 *	};
 *	const struct gpuq_pipeline_step steps[] = {
 *		{.op = "gemv_batched", .inputs = {"x", "w"}, .outputs = {"scores"}},
 *		{.op = "softmax", .inputs = {"scores"}, .outputs = {"p"}},
 *	};
 *	gpuq_pipeline_create(g, 0, "classify", tensors, 4, steps, 2, &pipeline);
 *	gpuq_pipeline_call_create(ch, pipeline, in, 2, &out, 1, &call);
 */
enum gpuq_pipeline_role {
	GPUQ_PIPELINE_INPUT = 1,  /* given with each call; no step writes it */
	GPUQ_PIPELINE_OUTPUT = 2, /* given with each call; exactly one step writes it */
	GPUQ_PIPELINE_INNER = 3,  /* on the device only; exactly one step writes it */
};

struct gpuq_pipeline_tensor {
	const char *name; /* shorter than GPUQ_NAME_MAX, and different from the others */
	uint32_t role;	  /* enum gpuq_pipeline_role */
	uint32_t dtype;
	/* Of an input: a first shape. Calls may come with others; what fits is found out then. */
	uint32_t rank;
	uint64_t dims[GPUQ_MAX_RANK];
};

/* Tensors are named in the order of the operator's arguments; NULL: an absent optional input. */
struct gpuq_pipeline_step {
	const char *op;
	const char *inputs[GPUQ_MAX_INPUTS];
	const char *outputs[GPUQ_MAX_OUTPUTS];
	const struct gpuq_param *params; /* fixed for the life of the pipeline */
	uint32_t n_params;
};

/*
 * Registers a pipeline for calls through this connection's channels of that device. Steps may
 * come in any order. The whole is checked here and by gpuqd, with the given shapes; the detail
 * names step and tensor. Any thread.
 *
 * Errors: -EINVAL (a name that is missing, too long, not printable UTF-8 or there twice, an
 * unknown role),
 * -GPUQ_EPIPELINE (a step names a tensor that is not there, a tensor written by two steps or by
 * none, an input that is written, a cycle), -GPUQ_EOP, -GPUQ_EARGS, -GPUQ_EPARAM, -GPUQ_EDTYPE,
 * -GPUQ_ERANK, -GPUQ_ESHAPE, -GPUQ_EMISSING and -GPUQ_EOVERFLOW of a step, -GPUQ_ELIMIT (1024
 * steps, 3072 tensors, and gpuqd's limits of pipelines and memory), -GPUQ_ENODEV, -GPUQ_EABI (a
 * gpuqd without pipelines), -ENOMEM, -GPUQ_EGONE.
 */
GPUQ_EXPORT int gpuq_pipeline_create(struct gpuq *gpuq, uint32_t device, const char *name,
	const struct gpuq_pipeline_tensor *tensors, uint32_t n_tensors,
	const struct gpuq_pipeline_step *steps, uint32_t n_steps,
	struct gpuq_pipeline **ret_pipeline);

/*
 * Takes it back; waits for what is in flight of it. Calls of it may still be destroyed, and are
 * answered with -GPUQ_EPIPELINE. Any thread. gpuq_disconnect() does the same for all. NULL is fine.
 */
GPUQ_EXPORT void gpuq_pipeline_destroy(struct gpuq_pipeline *pipeline);

/*
 * Prepares a call as gpuq_call_create() does, with its errors: all inputs in the order in which
 * they were listed, then all outputs likewise. -EINVAL: a pipeline of another connection or device.
 */
GPUQ_EXPORT int gpuq_pipeline_call_create(struct gpuq_channel *channel,
	struct gpuq_pipeline *pipeline, const struct gpuq_tensor *inputs, uint32_t n_inputs,
	const struct gpuq_tensor *outputs, uint32_t n_outputs, struct gpuq_call **ret_call);

/* --- Submitting and completing ------------------------------------------------------------- */

/*
 * Deadlines. What has a timeout_ns and was not started by then ends with -ETIMEDOUT. What could be
 * started, but by the times that work of exactly its shape took lately would end too late, ends
 * with -GPUQ_EDEADLINE: when it is submitted, while it waits, or when its turn comes. Either way
 * nothing was executed, and nobody waited for it. What has been started goes on to its end; a text
 * alone, which has many steps, is looked at again between them. The first of a shape is tried in
 * any case, and of shapes that are too slow one is tried now and then.
 */
struct gpuq_submission {
	struct gpuq_call *call; /* NULL: the null operation, which completes at once */
	uint64_t user_data;	/* comes back with the completion */
	uint64_t timeout_ns;	/* of no use later than that after this; 0: no such time */
	uint64_t trace_id;	/* for traces; 0: none */
};

struct gpuq_completion {
	uint64_t user_data;
	int32_t status;	      /* 0 or as documented for the call, or negative: see gpuq_explain() */
	uint32_t flags;	      /* for gpuq_explain() and gpuq_fate() */
	uint64_t queued_ns;   /* from submission to the start of execution */
	uint64_t executed_ns; /* from there to the end */
};

/*
 * Submits up to n. Returns how many were accepted (the first ones), at least 1, or: -EAGAIN when
 * the ring is full or cq_entries are in flight already (poll, or gpuq_wait_space()),
 * -GPUQ_EDRAIN, -GPUQ_EGONE, -GPUQ_EPOISONED, -GPUQ_ETHREAD, -GPUQ_EFORK, -EINVAL (a call of
 * another channel). Wait-free; no system call unless gpuqd sleeps.
 */
GPUQ_EXPORT int gpuq_submit(
	struct gpuq_channel *channel, const struct gpuq_submission *submissions, uint32_t n);

/*
 * Asks to cancel the oldest submission in flight with this user_data. Has a completion of its
 * own, with `user_data`: status 0 when the target was still queued (it completes with
 * -ECANCELED), -EALREADY when it runs (it completes as usual), -ENOENT when gpuqd has completed
 * it. Errors: -ENOENT when nothing such is in flight, and those of gpuq_submit().
 */
GPUQ_EXPORT int gpuq_cancel(
	struct gpuq_channel *channel, uint64_t target_user_data, uint64_t user_data);

/*
 * Takes up to max completions that are there. Returns how many (0: none), or, only when there is
 * none: -GPUQ_EGONE, -GPUQ_EPOISONED, -GPUQ_ETHREAD, -GPUQ_EFORK. Wait-free; no system call.
 */
GPUQ_EXPORT int gpuq_poll(
	struct gpuq_channel *channel, struct gpuq_completion *ret_completions, uint32_t max);

/*
 * Waits until at least one completion is there, then as gpuq_poll(). -ETIMEDOUT after timeout_ns
 * (everything stays in flight), -ENODATA at once when nothing is in flight. Spins while that can
 * help, then yields, then sleeps.
 */
GPUQ_EXPORT int gpuq_wait(struct gpuq_channel *channel, struct gpuq_completion *ret_completions,
	uint32_t max, uint64_t timeout_ns);

/*
 * Waits until `entries` can be submitted and `bytes` allocated in one piece. Completions that
 * come meanwhile are kept for gpuq_poll(), up to cq_entries of them. 0, or -ETIMEDOUT,
 * -GPUQ_ETOOBIG when it can never be, -ENOSPC when nothing in flight could free it or no more
 * completions can be kept (take some), and the errors of gpuq_poll().
 */
GPUQ_EXPORT int gpuq_wait_space(
	struct gpuq_channel *channel, uint32_t entries, size_t bytes, uint64_t timeout_ns);

enum gpuq_fate {
	GPUQ_COMPLETED = 1,	/* with a status, which may be an error */
	GPUQ_NEVER_STARTED = 2, /* nothing of it was executed, and nothing will be */
	GPUQ_UNKNOWN = 3,	/* it may have been executed, in part or in whole; it is not now */
};

/*
 * What a completion says of its submission. GPUQ_COMPLETED, unless its status is -GPUQ_EDEVICE: the
 * device process ended with it in flight, and knew whether it had started.
 */
GPUQ_EXPORT enum gpuq_fate gpuq_fate(const struct gpuq_completion *completion);

/* A submission that gpuqd's end has overtaken. */
struct gpuq_overtaken {
	uint64_t user_data;
	uint32_t fate;	/* enum gpuq_fate */
	int32_t status; /* GPUQ_COMPLETED: of the completion, which gpuq_poll() did not see */
};

/*
 * After -GPUQ_EGONE or -GPUQ_EPOISONED: what became of that which was in flight then, cancellations
 * included, in the order of submission. Each is told once; what had completed before, gpuq_poll()
 * has returned. Returns how many, up to max; 0: no more. Waits until gpuqd's device process has
 * ended, too, which takes milliseconds; if that takes longer than the connection's timeout, or
 * gpuqd lives and has only closed the connection, what was in flight is GPUQ_UNKNOWN. May be called
 * after gpuq_reconnect() as well, until the next end. Errors: -EBUSY (the channel has not ended),
 * -ENOMEM, -GPUQ_ETHREAD, -GPUQ_EFORK.
 */
GPUQ_EXPORT int gpuq_fates(
	struct gpuq_channel *channel, struct gpuq_overtaken *ret_overtaken, uint32_t max);

/* Submissions in flight: accepted, their completions not yet returned (but perhaps kept). */
GPUQ_EXPORT uint32_t gpuq_in_flight(const struct gpuq_channel *channel);

/*
 * For event loops: a descriptor that becomes readable when a completion arrives after
 * gpuq_arm(), and hangs up when gpuqd dies. Owned by the channel; only poll it.
 */
GPUQ_EXPORT int gpuq_completion_fd(const struct gpuq_channel *channel);

/*
 * Asks for the descriptor to become readable at the next completion, and silences it until then.
 * Returns 0 when armed, 1 when completions are there already (take them first), or the errors of
 * gpuq_poll(). To be called before every sleep.
 */
GPUQ_EXPORT int gpuq_arm(struct gpuq_channel *channel);

/* Wake-ups that the bell should have announced and did not; 0 in a healthy system. */
GPUQ_EXPORT uint64_t gpuq_rescues(const struct gpuq_channel *channel);

/* --- Graphs -------------------------------------------------------------------------------- */

/*
 * gpuqd captures what one exact shape of an operator or a pipeline needs as a graph, in the
 * background, and replays that. Nothing has to be done for it; these functions show it, and ask
 * for it ahead of time.
 */
enum gpuq_graph_state {
	GPUQ_GRAPH_COLD = 1,	  /* served kernel by kernel */
	GPUQ_GRAPH_QUEUED = 2,	  /* likewise, and will be captured */
	GPUQ_GRAPH_CAPTURING = 3, /* likewise, while it is captured */
	GPUQ_GRAPH_CAPTURED = 4,  /* served by its graph */
	GPUQ_GRAPH_DIRECT = 5,	  /* kernel by kernel for good: a graph would not be faster */
	GPUQ_GRAPH_FAILED = 6,	  /* could not be captured; served kernel by kernel */
};

struct gpuq_graph_info {
	uint64_t id;	/* never 0, never used again by this gpuqd */
	uint32_t state; /* enum gpuq_graph_state */
	uint32_t kernels;
	uint64_t uses;	     /* requests of this shape */
	uint64_t hits;	     /* of these, served by its graph */
	uint64_t bytes;	     /* that its graph takes, on device and host */
	uint64_t capture_ns; /* how long the last capture took */
	bool pinned;	     /* not evicted for room */
	int status;	     /* GPUQ_GRAPH_FAILED: the error */
	char shape[160];     /* "softmax x[32,64]f32 -> y[32,64]f32" */
	char reason[96];     /* GPUQ_GRAPH_FAILED: one sentence */
};

/*
 * Lists shapes of a device with ids above `after` (0: from the start), by id. Returns how many, up
 * to max; the list may change between two calls. A client sees the shapes that its user has used,
 * while it is among the first eight users of a shape; an administrator sees all. What gpuqd
 * computes on the spot, small operators on the CPU device, has no graph and is not in the list.
 * Errors: -GPUQ_ENODEV, -GPUQ_EABI, -GPUQ_EGONE, -ETIMEDOUT.
 */
GPUQ_EXPORT int gpuq_graphs(struct gpuq *gpuq, uint32_t device, uint64_t after,
	struct gpuq_graph_info *ret_infos, uint32_t max);

/*
 * Submits a wish: to capture the graph of this call's exact shape. Nothing is executed, no tensor
 * is touched. The completion comes when the shape is captured, so that gpuq_wait() waits for that:
 * status 0 also when it already is, or needs no graph; -GPUQ_ECAPTURE when it could not be, or
 * captures are stopped; the call's own error when it makes no sense. Returns 0, -EINVAL (no call,
 * or one of another channel), -EOPNOTSUPP (it is neither an operator's nor a pipeline's; for steps
 * of models see gpuq_capture_create()), -GPUQ_EABI, or as gpuq_submit().
 */
GPUQ_EXPORT int gpuq_precapture(
	struct gpuq_channel *channel, struct gpuq_call *call, uint64_t user_data);

/*
 * Stops captures (what is captured stays in use), or lets them go on. Needs an administrative
 * connection, else -EPERM.
 */
GPUQ_EXPORT int gpuq_admin_capture(struct gpuq *gpuq, uint32_t device, bool stop);

/*
 * Drops the graph with this id, or every graph that is not pinned (0). What runs ends first; the
 * shapes are served on, and captured again when they are used enough. Needs an administrative
 * connection, else -EPERM; -ENOENT: there is no such shape.
 */
GPUQ_EXPORT int gpuq_admin_evict(struct gpuq *gpuq, uint32_t device, uint64_t id);

/* --- Language models ----------------------------------------------------------------------- */

/*
 * gpuqd holds language models that its administrator has loaded. A session is a text of one model,
 * in tokens: a step appends tokens to it and tells what may follow; what to make of that is the
 * caller's. Steps of all clients are computed together, and cost each little more than alone.
 *
 *	struct gpuq_session *session;
 *	gpuq_session_open(ch, "llama", &session);
 *	const struct gpuq_step_options o = {.max_tokens = 512, .max_rows = 1, .top_k = 40};
 *	struct gpuq_call *step;
 *	gpuq_step_create(session, &o, &step);
 *	gpuq_step_set(step, prompt, n_prompt, 1);
 *	do {
 *		const struct gpuq_submission s = {.call = step};
 *		struct gpuq_completion c;
 *		struct gpuq_row row;
 *		gpuq_submit(ch, &s, 1);
 *		gpuq_wait(ch, &c, 1, GPUQ_FOREVER);
 *		gpuq_step_row(step, 0, &row);
 *		next = choose(&row);
 *		gpuq_step_set(step, &next, 1, 1);
 *	} while (next != end);
 *
 * Ownership. A session belongs to its channel, and ends with it. Sessions of one user whose texts
 * begin equally share memory; nothing else of them is seen by anybody.
 *
 * Threads. Sessions and their calls belong to the channel's thread, as all calls do.
 *
 * Order. Requests of one session are done in the order of their submission, one after another;
 * those of different sessions beside each other.
 *
 * Errors in completions: -GPUQ_EMODEL (the model is not ready, or was unloaded), -GPUQ_ESESSION
 * (closed, or lost with its device process), -GPUQ_ETOKEN (a token outside the vocabulary),
 * -GPUQ_ECONTEXT (the text would be longer than the model allows), -GPUQ_EKV (no room for it),
 * -GPUQ_EPARAM, -GPUQ_EDEVICE. After any of them, a cancellation or a timeout the session's text
 * is as it was before the request.
 */
enum gpuq_model_state {
	GPUQ_MODEL_LOADING = 1,
	GPUQ_MODEL_READY = 2,
	GPUQ_MODEL_FAILED = 3, /* could not be loaded */
	GPUQ_MODEL_UNLOADING = 4,
};

#define GPUQ_MAX_BATCH 64 /* texts that one step continues */

/* Before a model is ready, what is not known of it yet is zero. */
struct gpuq_model_info {
	uint32_t index;
	uint32_t state; /* enum gpuq_model_state */
	int status;	/* GPUQ_MODEL_FAILED: the error */
	bool int8, deterministic;
	char name[GPUQ_NAME_MAX];
	char architecture[GPUQ_NAME_MAX]; /* "llama" */
	char dir[256]; /* path of its folder as gpuqd sees it; "" when that is not known */
	uint32_t vocab, hidden, layers, heads, kv_heads, head_dim;
	uint32_t max_tokens; /* of a session's text */
	uint32_t n_eos;
	int32_t eos[16]; /* tokens that end a text */
	uint32_t sessions, max_sessions;
	uint32_t kv_blocks, kv_free_blocks, kv_cached_blocks; /* of 16 tokens */
	uint32_t bucket_tokens; /* lengths of texts, rounded up to it, make shapes */
	uint64_t bytes;		/* of the device: these two and working memory */
	uint64_t weight_bytes, cache_bytes;
	uint64_t loaded_bytes, total_bytes; /* of its files: how far loading is */
	/* Counted since it was loaded. */
	uint64_t prompt_tokens;	   /* given to steps */
	uint64_t computed_tokens;  /* on the device */
	uint64_t shared_tokens;	   /* not computed, because another session had the same opening */
	uint64_t generated_tokens; /* drawn on the device */
	uint64_t steps, rows;	   /* of the device; results that they gave */
	uint64_t evictions, preemptions;
	uint64_t batches[GPUQ_MAX_BATCH];      /* steps that continued i + 1 texts */
	uint64_t decode_p50_ns, decode_p99_ns; /* how long these took */
	uint64_t chunk_p50_ns, chunk_p99_ns;   /* how long steps with pieces of prompts took */
	/* Shapes of its steps: those known, those with a graph, those on the way to one. */
	uint32_t shapes, shapes_captured, shapes_wished;
	uint64_t captured_batches; /* bit i: steps of i + 1 texts have one, for some context */
	char why[224];		   /* GPUQ_MODEL_FAILED: one sentence */
};

/*
 * Describes a model by number (from 0; -ENOENT behind the last one) or by name (-GPUQ_EMODEL). Of a
 * model with versions, "NAME:2", the newest that is ready is meant by "NAME", here and where else a
 * model is named; the name that comes back says which. One round trip. Other errors: -GPUQ_EABI,
 * -ETIMEDOUT, -GPUQ_EGONE.
 */
GPUQ_EXPORT int gpuq_model_info(
	struct gpuq *gpuq, uint32_t index, struct gpuq_model_info *ret_info);
GPUQ_EXPORT int gpuq_model_find(
	struct gpuq *gpuq, const char *name, struct gpuq_model_info *ret_info);

struct gpuq_load_options {
	const char *name; /* that clients use: shorter than GPUQ_NAME_MAX, without '=' and ',' */
	const char *dir;  /* a Hugging Face folder: config.json and *.safetensors */
	bool int8;	  /* quantise matrices to 8 bits */
	/* A session's results do not depend on what else is computed, to the last bit. */
	bool deterministic;
};

/*
 * Begins to load a model, and returns: gpuq_model_find() tells how far it is, and whether it
 * could be loaded. Needs an administrative connection, else -EPERM. Errors: those of open(2) for
 * dir, -EINVAL (the name), -EEXIST, -GPUQ_ELIMIT, -GPUQ_EABI, -ETIMEDOUT, -GPUQ_EDRAIN,
 * -GPUQ_EGONE.
 */
GPUQ_EXPORT int gpuq_admin_load(struct gpuq *gpuq, const struct gpuq_load_options *options);

/*
 * Unloads a model, returning when its memory has been given back. -EBUSY while it has sessions,
 * unless `force` ends them: what they have under way completes with -GPUQ_EMODEL. -GPUQ_EMODEL
 * when there is none of that name, -EPERM, -EALREADY, -ETIMEDOUT (it goes on), -GPUQ_EGONE.
 */
GPUQ_EXPORT int gpuq_admin_unload(struct gpuq *gpuq, const char *name, bool force);

/*
 * Opens a session without text, and waits for that; completions of other submissions that come
 * meanwhile are kept for gpuq_poll(). Errors: -GPUQ_EMODEL (the detail says whether it is being
 * loaded), -GPUQ_ELIMIT, -GPUQ_EABI, -ENOSPC, -ENOMEM, and those of gpuq_submit() but -EAGAIN.
 */
GPUQ_EXPORT int gpuq_session_open(
	struct gpuq_channel *channel, const char *model, struct gpuq_session **ret_session);

/*
 * A second session with the same text; nothing is computed again. -EBUSY while the session has
 * requests under way; and as gpuq_session_open().
 */
GPUQ_EXPORT int gpuq_session_fork(struct gpuq_session *session, struct gpuq_session **ret_session);

/* Leaves the first `tokens` tokens of the text. -EINVAL when it has fewer; else as a fork. */
GPUQ_EXPORT int gpuq_session_truncate(struct gpuq_session *session, uint32_t tokens);

/*
 * Ends a session; what is under way of it completes with -ECANCELED. Its calls may still be
 * destroyed, and are answered with -GPUQ_ESESSION. NULL is fine.
 */
GPUQ_EXPORT void gpuq_session_close(struct gpuq_session *session);

/* What a step may need at most; memory for it is taken from the arena once. */
struct gpuq_step_options {
	uint32_t max_tokens; /* given at once; at least 1 */
	uint32_t max_rows;   /* results: of the last so many tokens; at most max_tokens */
	uint32_t top_k;	     /* candidates of each, at most 64 */
	uint32_t max_ids;    /* tokens whose logits are told whatever they are, at most 256 */
	bool logits;	     /* all logits of each row; then top_k and max_ids are 0 */
};

/*
 * Prepares a step of a session: a call for gpuq_submit(), as often as wanted, with other tokens
 * each time. Temperature 1 and no ids unless set. Errors: -EINVAL (the options), -ENOSPC,
 * -GPUQ_ETOOBIG, -ENOMEM, -GPUQ_ETHREAD, -GPUQ_EFORK.
 */
GPUQ_EXPORT int gpuq_step_create(struct gpuq_session *session,
	const struct gpuq_step_options *options, struct gpuq_call **ret_call);

/*
 * What the next submission gives and asks: n tokens, and results of the last `rows` of them; ids;
 * the temperature of log-sum-exp and entropy. None is copied when the call is submitted: -EBUSY
 * while it is in flight. -EINVAL: another call than a step's, or more than it was created for.
 */
GPUQ_EXPORT int gpuq_step_set(
	struct gpuq_call *call, const int32_t *tokens, uint32_t n, uint32_t rows);
GPUQ_EXPORT int gpuq_step_set_ids(struct gpuq_call *call, const int32_t *ids, uint32_t n);
GPUQ_EXPORT int gpuq_step_set_temperature(struct gpuq_call *call, float temperature);

/* What may follow one token. Memory of the call. */
struct gpuq_row {
	float lse;	       /* log of the sum of exp(logit / temperature), of all tokens */
	float entropy;	       /* of the softmax of logit / temperature, in nats */
	uint32_t n_candidates; /* top_k, or all there are */
	const int32_t *tokens; /* those with the greatest logits, greatest first */
	const float *values;   /* their logits */
	const float *named;    /* logits of the ids, -infinity for one that is no token */
	const float *logits;   /* of all tokens, or NULL */
};

/*
 * A row of the last completed submission, 0 .. rows - 1; valid until the next one, or until the
 * call is destroyed. -EINVAL: there is no such row.
 */
GPUQ_EXPORT int gpuq_step_row(const struct gpuq_call *call, uint32_t row, struct gpuq_row *ret_row);

enum gpuq_shape_kind {
	GPUQ_SHAPE_CANDIDATES = 1, /* steps */
	GPUQ_SHAPE_LOGITS = 2,	   /* steps with all logits */
	GPUQ_SHAPE_GENERATE = 3,   /* calls of gpuq_generate_create() */
};

/*
 * What makes the shape of a step on the device, which computes requests of several sessions
 * together. Zero stands for what a plain step has.
 */
struct gpuq_model_shape {
	uint32_t kind;	  /* enum gpuq_shape_kind; 0: GPUQ_SHAPE_CANDIDATES */
	uint32_t batch;	  /* sessions, 1 .. GPUQ_MAX_BATCH */
	uint32_t context; /* tokens of the longest text, rounded up to gpuqd's kv_bucket */
	uint32_t tokens;  /* given in all; 0: one of each session */
	uint32_t rows;	  /* results in all; 0: one of each session */
	uint32_t ids;	  /* of a row, rounded up to a power of two */
};

/*
 * Prepares a wish, to be submitted like any call: that the graph of this shape be captured, for
 * channels of this one's priority. Nothing is computed. It completes as a wish of gpuq_precapture()
 * does, so that gpuq_wait() waits for the graph; -GPUQ_EPARAM: no step of the model has this
 * shape. Nobody needs to wish: gpuqd captures what is used, and the next batch size and context
 * ahead. Errors: -GPUQ_EMODEL, -GPUQ_EABI, -ENOSPC, -ENOMEM, -ETIMEDOUT, -GPUQ_EGONE,
 * -GPUQ_ETHREAD, -GPUQ_EFORK.
 */
GPUQ_EXPORT int gpuq_capture_create(struct gpuq_channel *channel, const char *model,
	const struct gpuq_model_shape *shape, struct gpuq_call **ret_call);

struct gpuq_generate_options {
	uint32_t max_tokens;   /* given at once; at least 1 */
	uint32_t max_generate; /* made at once; at least 1 */
	float temperature;     /* 0: always the most likely token */
	bool stop;	       /* ends with a token that ends a text, which is the last one made */
};

/*
 * Prepares a call that appends tokens and then goes on by itself, drawing each token on the
 * device: for throughput, where the caller needs no say in it. The completion's status is how
 * many were made. The last of them is not part of the text yet: give it with the next request.
 * Errors as gpuq_step_create().
 */
GPUQ_EXPORT int gpuq_generate_create(struct gpuq_session *session,
	const struct gpuq_generate_options *options, struct gpuq_call **ret_call);

/* The next submission's tokens, how many to make, and the seed. Errors as gpuq_step_set(). */
GPUQ_EXPORT int gpuq_generate_set(struct gpuq_call *call, const int32_t *tokens, uint32_t n,
	uint32_t n_generate, uint64_t seed);

/* What the last completed submission made. Memory of the call. -EINVAL: no such call. */
GPUQ_EXPORT int gpuq_generate_result(
	const struct gpuq_call *call, const int32_t **ret_tokens, const float **ret_logprobs);

/* --- Device buffers ------------------------------------------------------------------------ */

/*
 * A buffer is memory on a device: tensors of operators may lie in it, so data stays there from one
 * call to the next; other processes may be allowed to use it; and a client that has CUDA itself
 * opens it as a device pointer (libgpuq-cuda; on the CPU device a descriptor to map).
 *
 * Ownership. A buffer belongs to the connection that allocated it, and to each that has accepted
 * it. It is given back when all of them have freed it, closed or died, and nothing in flight uses
 * it; it is never used for another buffer. Its contents are zeros at first. Who has only been
 * granted it may accept it while some other still has it. Its bytes, in whole units of 2 MiB,
 * count in the limits of the connection that allocated it until that frees it, and in those of
 * that connection's user until it is given back.
 *
 * Threads. As with struct gpuq, any thread; gpuq_buf_free() when no other thread uses it.
 *
 * Order. Submissions start in order but may overlap: what reads a buffer is submitted after what
 * wrote it has completed. gpuqd does not order what several processes, or an exported pointer,
 * do with one buffer.
 *
 * Crashes. A client that dies has freed its buffers. When a device process ends, its buffers are
 * lost: submissions that were running complete with -GPUQ_EDEVICE, every later use with
 * -GPUQ_ELOST; free it and allocate another. A use of a buffer that this connection does not have
 * (never had, has freed) completes with -GPUQ_EBUFFER. gpuq_explain() names the tensor.
 */
enum gpuq_buf_form {
	GPUQ_BUF_FD = 1,  /* exported as a descriptor: across users and containers */
	GPUQ_BUF_IPC = 2, /* exported as a cudaIpcMemHandle: same user, same PID namespace */
};

struct gpuq_buf_options {
	uint64_t bytes;	 /* at least 1 */
	uint32_t device; /* number of the device */
	uint32_t form;	 /* enum gpuq_buf_form; 0: GPUQ_BUF_FD */
};

/*
 * Allocates. Errors: -EINVAL, -GPUQ_ENODEV, -EOPNOTSUPP (the device has no such form), -ENOMEM
 * (the device has not so much memory), -GPUQ_ELIMIT, -GPUQ_EABI (a gpuqd that knows no buffers),
 * -ETIMEDOUT, -GPUQ_EDRAIN, -GPUQ_EGONE.
 */
GPUQ_EXPORT int gpuq_buf_alloc(
	struct gpuq *gpuq, const struct gpuq_buf_options *options, struct gpuq_buf **ret_buf);

/*
 * Gives this connection's share up; returns when nothing of it in flight uses the buffer any more,
 * or after the connection's timeout (it is given up then, too). In a forked child it only forgets
 * it. gpuq_disconnect() frees all. NULL is fine.
 */
GPUQ_EXPORT void gpuq_buf_free(struct gpuq_buf *buf);

/* What was asked for at its allocation; valid until gpuq_buf_free(). No system call. */
GPUQ_EXPORT uint64_t gpuq_buf_bytes(const struct gpuq_buf *buf);
GPUQ_EXPORT uint32_t gpuq_buf_device(const struct gpuq_buf *buf);

/*
 * Its number in this gpuqd, to be told to a grantee by any means: it opens nothing to anybody
 * else. Never 0; used again only after 65,535 others. No system call.
 */
GPUQ_EXPORT uint32_t gpuq_buf_handle(const struct gpuq_buf *buf);

enum gpuq_buf_direction { GPUQ_TO_BUFFER = 1, GPUQ_FROM_BUFFER = 2 };

/*
 * Prepares a copy between the channel's arena and a buffer of its device, to be submitted like any
 * call, as often as wanted, with deadline, cancellation and completion of its own; data are the
 * arena's for that long. Errors: -EINVAL (direction), -GPUQ_EBOUNDS, -GPUQ_EBUFFER (of another
 * connection), -GPUQ_ENODEV (of another device), -ENOSPC, -GPUQ_ETOOBIG, -ENOMEM, -GPUQ_ETHREAD,
 * -GPUQ_EFORK.
 */
GPUQ_EXPORT int gpuq_buf_copy_create(struct gpuq_channel *channel, const struct gpuq_buf *buf,
	uint64_t offset, void *data, uint64_t bytes, enum gpuq_buf_direction direction,
	struct gpuq_call **ret_call);

/*
 * Copies between any memory and a buffer: piece by piece through free memory of the channel's
 * arena, and waits. Completions of other submissions that come meanwhile are kept for gpuq_poll().
 * Returns 0, or: the errors of gpuq_buf_copy_create(), -GPUQ_EBUFFER and -GPUQ_ELOST (see above),
 * -GPUQ_EDEVICE, -ENOSPC also when no room is left to keep completions (take some), and those of
 * gpuq_submit() but -EAGAIN. After an error a part may have been copied.
 */
GPUQ_EXPORT int gpuq_buf_write(struct gpuq_channel *channel, const struct gpuq_buf *buf,
	uint64_t offset, const void *data, uint64_t bytes);
GPUQ_EXPORT int gpuq_buf_read(struct gpuq_channel *channel, const struct gpuq_buf *buf,
	uint64_t offset, void *data, uint64_t bytes);

/*
 * Allows a process, which is connected to the same gpuqd now and may run as any user, to accept
 * the buffer; pid is its process id as gpuqd sees it. It holds for that process's present
 * connections, not for a later process with the same id. Errors: -ESRCH (no such client),
 * -GPUQ_ELOST, -GPUQ_ELIMIT (a buffer has 64 grantees at most), -ETIMEDOUT, -GPUQ_EGONE.
 */
GPUQ_EXPORT int gpuq_buf_grant(const struct gpuq_buf *buf, uint32_t pid);

/*
 * Takes a share in a buffer that was granted to this process. Errors: -GPUQ_EBUFFER (not granted,
 * or gone), -EALREADY (this connection has it), -GPUQ_ELOST, -GPUQ_EABI, -ENOMEM, -ETIMEDOUT,
 * -GPUQ_EGONE.
 */
GPUQ_EXPORT int gpuq_buf_accept(struct gpuq *gpuq, uint32_t handle, struct gpuq_buf **ret_buf);

/* What a process needs to open a buffer without gpuqd. */
struct gpuq_buf_export {
	uint32_t form;	 /* enum gpuq_buf_form */
	int fd;		 /* GPUQ_BUF_FD: the caller's to close, and to send on; else -1 */
	uint8_t ipc[64]; /* GPUQ_BUF_IPC: a cudaIpcMemHandle */
	uint64_t bytes;
	uint64_t whole_bytes; /* of the allocation: to be mapped as a whole */
	/* What the importer must share with gpuqd; "" and 0 on the CPU device. */
	char uuid[64];		/* the GPU, "GPU-..." */
	char driver[32];	/* version of the driver */
	uint64_t pid_namespace; /* GPUQ_BUF_IPC: inode of /proc/self/ns/pid */
};

/*
 * Exports. libgpuq-cuda makes a device pointer of it; the descriptor of the CPU device is a memfd,
 * to be mapped shared. Who has it can read and write the memory until the last holder has freed
 * the buffer; after that its contents are undefined.
 * Errors: -GPUQ_ELOST, -EBUSY, -EMFILE, -ETIMEDOUT, -GPUQ_EGONE.
 */
GPUQ_EXPORT int gpuq_buf_export(const struct gpuq_buf *buf, struct gpuq_buf_export *ret_export);

/* --- Errors -------------------------------------------------------------------------------- */

/* A sentence for a status or a return value (either sign). Static. */
GPUQ_EXPORT const char *gpuq_strerror(int error);

/* The enumerator's name: "EAGAIN", "GPUQ_EGONE". Static; "?" for an unknown one. */
GPUQ_EXPORT const char *gpuq_error_name(int error);

/*
 * The whole sentence of the last failure in the calling thread: its cause and the next step. Valid
 * until the next gpuq call in this thread.
 */
GPUQ_EXPORT const char *gpuq_error_detail(void);

/*
 * For libraries on top of this one: keeps a copy of their sentence for gpuq_error_detail() of the
 * calling thread. Returns `error`.
 */
GPUQ_EXPORT int gpuq_error_set(int error, const char *sentence);

/*
 * Writes a sentence about a failed completion that names the operator and the argument to blame:
 * "gemv_batched: input w: a dimension does not fit the other tensors". `call` is what was
 * submitted, or NULL. Returns `text`.
 */
GPUQ_EXPORT const char *gpuq_explain(const struct gpuq_call *call,
	const struct gpuq_completion *completion, char *text, size_t size);

#ifdef __cplusplus
}
#endif
#endif
