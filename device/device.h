/* SPDX-License-Identifier: MIT */
/*
 * device.h: what a device is: memory, streams, events, completion words, capture, executables,
 * exported allocations. It is CUDA's model in C, with two implementations: the CPU device
 * (device/cpu/) and CUDA (device/cuda/, a module loaded when it is wanted). Both pass one suite,
 * tests/device/. A device knows nothing of clients, channels or operators.
 *
 * Streams. Commands of one stream run in the order in which they were given; streams run beside
 * each other. There is no default stream, nothing here waits for a whole device, and no copy
 * waits: what CUDA forbids while a stream captures cannot be written down, or is refused with
 * -EBUSY by both implementations (docs/cuda-notes.md has the table).
 *
 * Capture. Between device_capture_begin() and device_capture_end() the stream's commands are
 * recorded, not run. Addresses of copies and fills and the shapes of kernels are recorded as they
 * are; a kernel's arguments are not: it reads those of each launch of the executable. Capture is
 * the thread's own: other threads go on launching; only the capturing thread is refused what is
 * marked "not in a capture".
 *
 * Faults. -GPUQ_EDEVICE means that the device has failed for good: every later call returns the
 * same, completion words that are not written yet never will be, and only the end of the process
 * helps. Every other error leaves the device as it was. A capture is an exception: after any
 * error while a stream captures, device_capture_end() returns -ECANCELED and the stream is usable
 * again. A destructor cannot be refused: in a capture it does its work and breaks the capture.
 *
 * Threads. A stream, an event, a graph and an executable are each used by one thread at a time.
 * Launches, copies, fills and records neither allocate nor block; memory, registration, creation
 * and destruction may take milliseconds.
 */
#ifndef GPUQ_DEVICE_DEVICE_H
#define GPUQ_DEVICE_DEVICE_H

#include "device/work.h"
#include "shm/atomics.h"
#include "shm/clock.h"

#include <stdbool.h>
#include <stddef.h>

struct device;
struct device_stream;
struct device_event;
struct device_graph; /* recorded commands; used by the thread that made it */
struct device_exec;  /* an executable made of a graph */

/* --- Opening ------------------------------------------------------------------------------ */

struct device_options {
	const char *kind; /* "cpu", "cuda", "cuda:N", or "auto": the first CUDA device, else CPU */
	uint32_t workers; /* CPU: 0: one for each CPU but the dispatcher's, at least 1 */
	struct clock_line clock;
	bool resident;	    /* CUDA: small work may go to a kernel that stays on the device */
	int wake_fd;	    /* eventfd that is rung when work ends while dispatch sleeps */
	const char *faults; /* for tests: see device/fault.h; NULL: none */
};

struct device_info {
	char kind[GPUQ_NAME_MAX]; /* "cpu" or "cuda" */
	char name[128];		  /* "AMD EPYC ..., 1 worker"; "NVIDIA H200, 139.8 GiB" */
	char uuid[64];		  /* of the GPU, as the vendor's tools print it; "" on the CPU */
	char driver[32];	  /* its driver's version, likewise */
	uint32_t workers;	  /* CPU threads that compute */
	uint32_t direct_kernels;  /* so many kernels are launched faster one by one */
	uint64_t total_bytes, free_bytes; /* memory, now */
};

/* What a machine has, usable or not. */
struct device_present {
	char kind[GPUQ_NAME_MAX]; /* as device_options.kind names it: "cpu", "cuda:0" */
	char name[128];		  /* "" when nothing could be asked */
	char uuid[64];
	int status;    /* 0, or why it cannot be used: -GPUQ_ENODEV or another error */
	char why[192]; /* one sentence: the cause and the next step */
};

/*
 * Opens a device. -GPUQ_ENODEV when there is no such one (`why` has the sentence; may be NULL),
 * -ENOMEM, -EINVAL for a kind that is no kind. On success `why` is empty or says why "auto" did
 * not take CUDA. Own kernels are loaded here, none later.
 */
int device_open(const struct device_options *options, struct device **ret_device, char why[192]);

/* Waits for work in flight, unless the device has failed. Everything made of it is gone first.
 * NULL is fine. */
void device_close(struct device *device);

/* Lists devices, usable ones and others with the reason; at least 1 (the CPU), at most max. */
uint32_t device_list(struct device_present *ret_devices, uint32_t max);

void device_info(struct device *device, struct device_info *ret_info);

/* 0, or -GPUQ_EDEVICE. May ask the driver: not on the hot path. Any thread, also in captures. */
int device_check(struct device *device);

/*
 * Nobody waits for the calling thread, which makes and ends executables while others serve: from
 * now on its calls may take many times as long, so that the others hardly feel them. One thread of
 * each device; not dispatch.
 */
void device_set_background(struct device *device);

/*
 * Between true and false, wake_fd is rung soon after work ends, by the waiter. The caller looks at
 * all its completion words after this returns and before it sleeps. Dispatch only.
 */
void device_sleep_prepare(struct device *device, bool asleep);

/*
 * For a profiler that is attached to this process: what this thread does until device_range_end().
 * Ranges nest. Also in a capture. Without a profiler, and on the CPU, nothing.
 */
void device_range_begin(struct device *device, const char *what, const char *name);
void device_range_end(struct device *device);

/* --- Memory (not in a capture) ------------------------------------------------------------ */

enum device_memory {
	DEVICE_WORK,   /* the device's own */
	DEVICE_PINNED, /* the host's, read and written by the device in place */
};

/* Contents undefined; aligned to 256 bytes. -ENOMEM, -EINVAL for no bytes. */
int device_alloc(struct device *device, enum device_memory kind, uint64_t bytes, void **ret_data);

/* The caller has seen the end of everything that used it. NULL is fine. */
void device_free(struct device *device, enum device_memory kind, void *data);

/*
 * Makes host memory (mapped by the caller, whole pages) reachable for the device in place. The
 * device's address of it may differ. -ENOMEM, -EEXIST when part of it is registered already.
 */
int device_register(struct device *device, void *base, uint64_t bytes, void **ret_device_base);
void device_unregister(struct device *device, void *base);

/*
 * Memory for other processes: whole units of DEVICE_EXPORT_UNIT, zeroed, never shared with another
 * allocation, given back to the driver when it is destroyed and no process has it open.
 */
#define DEVICE_EXPORT_UNIT (2u << 20)

enum device_export_form {
	DEVICE_EXPORT_FD = 1,  /* a descriptor: a memfd (CPU) or CUDA's shareable handle */
	DEVICE_EXPORT_IPC = 2, /* cudaIpcMemHandle; -EOPNOTSUPP on the CPU */
};

struct device_export {
	enum device_export_form form;
	void *data;
	uint64_t bytes;	 /* whole units */
	int fd;		 /* DEVICE_EXPORT_FD: the caller's to close; else -1 */
	uint8_t ipc[64]; /* DEVICE_EXPORT_IPC */
};

/* -ENOMEM, -EOPNOTSUPP, -EINVAL for no bytes. */
int device_export_create(struct device *device, enum device_export_form form, uint64_t bytes,
	struct device_export *ret_export);
void device_export_destroy(struct device *device, const struct device_export *export);

/* --- Streams and events ------------------------------------------------------------------- */

enum { DEVICE_PRIORITY_HIGH = 0, DEVICE_PRIORITY_NORMAL = 1, DEVICE_PRIORITY_LOW = 2 };

/* Not in a capture. -ENOMEM, -EINVAL for no such priority. */
int device_stream_create(struct device *device, uint32_t priority, struct device_stream **ret);

/* Waits for its commands, unless the device has failed. Ends a capture. NULL is fine. */
void device_stream_destroy(struct device_stream *stream);

/* 1 when all its commands have ended, 0 when not. Not on this stream while it captures. */
int device_stream_query(struct device_stream *stream);

/* Blocks until all its commands have ended. Likewise; never on the serving path. */
int device_stream_wait(struct device_stream *stream);

int device_event_create(struct device *device, struct device_event **ret_event);
void device_event_destroy(struct device_event *event); /* NULL is fine */

/* The event stands for what the stream has been given so far. -EAGAIN as device_launch(). */
int device_event_record(struct device_event *event, struct device_stream *stream);

/*
 * What the stream is given from here on waits for the event. In a capture: the event must have
 * been recorded in it (-EBUSY otherwise), and the other stream's commands join the capture. A
 * stream that has joined must be awaited in turn before the capture ends. -EAGAIN as
 * device_launch(), -EINVAL when more than DEVICE_CAPTURE_STREAMS would take part.
 */
#define DEVICE_CAPTURE_STREAMS 8
int device_event_await(struct device_event *event, struct device_stream *stream);

/* 1 when it has passed or was never recorded, 0 when not. -EBUSY: last recorded in a capture. */
int device_event_query(struct device_event *event);

/* --- Work --------------------------------------------------------------------------------- */

_Static_assert(sizeof(struct device_completion) == 128, "device_completion");

static inline bool device_done(const struct device_completion *completion, uint64_t value)
{
	return shm_load_acquire(&completion->word) == value;
}

/*
 * Runs one kernel. args is NULL in a capture and not NULL otherwise (-EINVAL). -EAGAIN when the
 * stream holds as many commands as it can, -EOPNOTSUPP when the device has no form of the code for
 * this shape.
 */
int device_launch(struct device_stream *stream, const struct device_kernel *kernel,
	const struct device_args *args);

/*
 * Runs one small kernel at once, beside all streams, and completes args->completion. Nothing that
 * was given to a stream is waited for: what it reads has been written. -EAGAIN: not now, launch it;
 * -EOPNOTSUPP: it is not small enough, or the device has no such way; -EINVAL without a
 * completion. Neither waits for memory and the like nor holds it up. One thread.
 */
int device_inline(
	struct device *device, const struct device_kernel *kernel, const struct device_args *args);

/* Any two addresses that the device reaches; they do not overlap. -EAGAIN as device_launch(). */
int device_copy(struct device_stream *stream, void *to, const void *from, uint64_t bytes);
int device_fill(struct device_stream *stream, void *data, uint8_t byte, uint64_t bytes);

/*
 * Completes args->completion when everything before it in the stream has ended: for work whose
 * last command is no kernel. In a capture args is NULL and nothing may follow (-EINVAL). -EAGAIN
 * as device_launch().
 */
int device_signal(struct device_stream *stream, const struct device_args *args);

/* --- Capture and executables -------------------------------------------------------------- */

/*
 * Whether the kernel is so much slower recorded than launched, since no address is known when it
 * is recorded, that no graph makes up for it. Any thread, not in a capture.
 */
bool device_records_badly(struct device *device, const struct device_kernel *kernel);

/* -EBUSY when the stream, or another stream of this thread, captures already. */
int device_capture_begin(struct device_stream *stream);

/*
 * By the thread that began it. -ECANCELED when something failed or was refused meanwhile, or when
 * a stream that joined was not awaited; -EINVAL when this thread began no capture on this stream.
 * The graph has at least one command, else -ENODATA. The capture is over, whatever is returned but
 * -EINVAL.
 */
int device_capture_end(struct device_stream *stream, struct device_graph **ret_graph);
uint32_t device_graph_nodes(const struct device_graph *graph);
void device_graph_destroy(struct device_graph *graph);

/*
 * An executable keeps nothing of the graph. It holds DEVICE_EXEC_DEPTH parameter blocks, so it can
 * be launched again while it runs; its launches run one after another, in whatever streams. Not in
 * a capture. -ENOMEM, -EINVAL for a graph without a signal: nobody could tell when it has ended.
 */
#define DEVICE_EXEC_DEPTH 4
int device_exec_create(
	struct device *device, const struct device_graph *graph, struct device_exec **ret_exec);

/*
 * Brings it to the device, so that the first launch is as fast as the others. May block. Not in a
 * capture.
 */
int device_exec_upload(struct device_exec *exec, struct device_stream *stream);

/*
 * -EAGAIN when DEVICE_EXEC_DEPTH launches, or one in another stream, have not ended yet, or as
 * device_launch(); -EINVAL without args->completion, or when too much is to be carried. Not on a
 * stream that captures.
 */
int device_exec_launch(
	struct device_exec *exec, struct device_stream *stream, const struct device_args *args);

/* Memory that it takes on device and host together, measured where the driver can tell. */
uint64_t device_exec_bytes(const struct device_exec *exec);

/* All its launches have ended. Not in a capture. NULL is fine. */
void device_exec_destroy(struct device_exec *exec);

#endif
