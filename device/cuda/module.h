/* SPDX-License-Identifier: MIT */
/*
 * module.h: the inside of the CUDA device, shared by its sources:
 *
 *   module.c   what the module exports; opening, closing, listing, errors
 *   memory.c   memory, registration, exported allocations, scratch of kernels
 *   stream.c   streams, events, and what they are given
 *   launcher.c how kernels are launched one by one
 *   inline.c   the inline stream (inline.h): a kernel that stays (resident.h)
 *   graph.c    captures and executables
 *   shell.c    CUDA's executables, kept for reuse
 *   profile.c  ranges for profilers
 *   pace.c     pauses of the thread that captures in the background
 *   waiter.c   the thread that wakes dispatch
 *   block.cu   own kernels: bring a parameter block, signal (block.h)
 *
 * What ends is counted per stream: each launch that completes a word also stores its number, of
 * the stream's own, in the stream's cuda_ended. So the driver knows what is in flight without
 * asking CUDA, at no price on the launch path.
 *
 * Rules of captures: CUDA refuses calls of a thread whose mode is Global, the default, while any
 * thread captures in that mode; so every thread that comes in is set to ThreadLocal first
 * (cuda_enter()), and captures are begun in that mode.
 */
#ifndef GPUQ_DEVICE_CUDA_MODULE_H
#define GPUQ_DEVICE_CUDA_MODULE_H

#include "device/cuda/block.h"
#include "device/cuda/inline.h"
#include "device/driver.h"

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <pthread.h>

#if CUDART_VERSION < 12000
#error "the CUDA device needs CUDA 12.0 or newer"
#endif

#define CUDA_MAX_STREAMS 256u
#define CUDA_STREAM_DEPTH 256u /* launches in flight; CUDA itself blocks somewhere above 1000 */

/* In pinned memory; the GPU writes, anyone reads. */
struct cuda_ended {
	uint64_t number; /* see struct cuda_watch */
	uint8_t pad[120];
};

/* Numbers go on when a place is given to another stream. */
struct cuda_place {
	uint64_t given; /* written by the stream's thread */
	uint64_t seen;	/* the waiter's: cuda_ended when dispatch last knew */
	bool taken;
};

/* What an executable or a stream keeps on the device. */
struct cuda_work {
	struct cuda_scratch scratch;
	struct cuda_block block;
};

/*
 * A longer graph is recorded, instantiated and launched in pieces of so many nodes, one behind the
 * other, as long as it is a mere sequence. Longer pieces hold up others for longer; from one to
 * the next 3 us are lost at each replay. The first piece is short: the GPU begins the sooner, and
 * the others are launched meanwhile.
 */
#define CUDA_HEAD_NODES 16u
#define CUDA_PIECE_NODES 40u
#define CUDA_MAX_PIECES 64u /* less than CUDA_STREAM_DEPTH: each is a launch */

/* An executable, and the graph of which it was made: its nodes are named by that for ever. */
struct cuda_shell {
	struct cuda_shell *next;
	cudaGraphExec_t exec;
	cudaGraph_t graph;
	cudaGraphNode_t head; /* its first node */
	size_t nodes;
};

/* The background thread's; see pace.c. */
struct cuda_pace {
	uint64_t since_ns; /* it has worked */
	uint64_t given;	   /* launches of all streams, when it last looked */
	uint64_t serving_until_ns;
};

struct cuda_range;
struct cuda_slab;

struct cuda_device {
	struct device base;
	int ordinal;
	bool programmatic; /* kernels of a recording overlap their predecessors' ends */
	cudaStream_t aux;  /* zeroes memory and is asked for faults; never captures */
	int priorities[3];
	struct cuda_ended *ended; /* CUDA_MAX_STREAMS */
	struct cuda_inline inline_stream;
	uint32_t inline_place;

	pthread_mutex_t lock; /* of what follows; never taken on the launch path */
	struct cuda_place places[CUDA_MAX_STREAMS];
	uint32_t n_places; /* that were ever taken */
	struct cuda_range *ranges;
	struct cuda_slab *slabs;
	struct cuda_shell *shells; /* that are kept */
	uint32_t shell_nodes;	   /* of them together */

	pthread_t waiter;
	pthread_mutex_t waiter_lock;
	pthread_cond_t waiter_wake;
	bool asleep, closing; /* under waiter_lock */
	uint32_t parked;      /* 1: the waiter waits for a launch */

	struct cuda_pace pace;
};

struct cuda_stream {
	struct device_stream base;
	cudaStream_t stream;
	struct cuda_launcher launchers[CUDA_LAUNCHERS];
	struct cuda_work *work; /* device memory, of what is launched directly */
	uint32_t place;
	struct cuda_recording *recording; /* of the capture that began here */
};

static inline struct cuda_device *cuda_device(struct device *device)
{
	return (struct cuda_device *)device;
}

static inline struct cuda_stream *cuda_stream(struct device_stream *stream)
{
	return (struct cuda_stream *)stream;
}

/* Calls of the driver, found through the runtime: the module does not link with libcuda. */
struct cuda_calls {
	CUresult (*mem_create)(CUmemGenericAllocationHandle *, size_t, const CUmemAllocationProp *,
		unsigned long long);
	CUresult (*mem_release)(CUmemGenericAllocationHandle);
	CUresult (*mem_reserve)(CUdeviceptr *, size_t, size_t, CUdeviceptr, unsigned long long);
	CUresult (*mem_unreserve)(CUdeviceptr, size_t);
	CUresult (*mem_map)(
		CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long);
	CUresult (*mem_unmap)(CUdeviceptr, size_t);
	CUresult (*mem_set_access)(CUdeviceptr, size_t, const CUmemAccessDesc *, size_t);
	CUresult (*mem_export)(void *, CUmemGenericAllocationHandle, CUmemAllocationHandleType,
		unsigned long long);
};
extern struct cuda_calls cuda_calls;

/* First thing in every call: this thread works on the device, and never in mode Global. */
void cuda_enter(const struct device *device);

/*
 * For destructors, which also work in a capture: this thread may call anything until
 * cuda_restore() of what this returned. (That breaks no capture; the front sees to that.)
 */
enum cudaStreamCaptureMode cuda_relax(const struct device *device);
void cuda_restore(enum cudaStreamCaptureMode mode);

/* As cuda_error(), for a call of the driver. */
int cuda_driver_error(CUresult result);

/* --- memory.c ----------------------------------------------------------------------------- */

int cuda_alloc(struct device *device, enum device_memory kind, uint64_t bytes, void **ret);
void cuda_free(struct device *device, enum device_memory kind, void *data);
int cuda_register(struct device *device, void *base, uint64_t bytes, void **ret);
void cuda_unregister(struct device *device, void *base);
int cuda_export_create(struct device *device, enum device_export_form form, uint64_t bytes,
	struct device_export *ret_export);
void cuda_export_destroy(struct device *device, const struct device_export *export);

/* At least so many works can be had without a call of CUDA. -ENOMEM. Not in a capture. */
int cuda_work_reserve(struct cuda_device *d, uint32_t count);

/* A zeroed work; NULL when none is reserved. Also in a capture. */
struct cuda_work *cuda_work_get(struct cuda_device *d);
void cuda_work_put(struct cuda_device *d, struct cuda_work *work);
void cuda_slabs_free(struct cuda_device *d);

/* --- stream.c ----------------------------------------------------------------------------- */

int cuda_stream_create(struct device *device, uint32_t priority, struct device_stream **ret);
void cuda_stream_destroy(struct device_stream *stream);
int cuda_stream_query(struct device_stream *stream);
int cuda_stream_wait(struct device_stream *stream);
int cuda_event_create(struct device *device, struct device_event **ret_event);
void cuda_event_destroy(struct device_event *event);
int cuda_event_record(struct device_event *event, struct device_stream *stream);
int cuda_event_await(struct device_event *event, struct device_stream *stream);
int cuda_event_query(struct device_event *event);
int cuda_launch(struct device_stream *stream, const struct device_kernel *kernel,
	const struct device_args *args);
bool cuda_records_badly(struct device *device, const struct device_kernel *kernel);
int cuda_launch_inline(
	struct device *device, const struct device_kernel *kernel, const struct device_args *args);
int cuda_copy(struct device_stream *stream, void *to, const void *from, uint64_t bytes);
int cuda_fill(struct device_stream *stream, void *data, uint8_t byte, uint64_t bytes);
int cuda_stream_signal(struct device_stream *stream, const struct device_args *args);
int cuda_stream_spoil(struct device_stream *stream);

/* Whether the number of that place has ended; numbers only grow. */
static inline bool cuda_has_ended(const struct cuda_ended *ended, uint64_t number)
{
	return (int64_t)(shm_load_acquire(&ended->number) - number) >= 0;
}

/* A place for a stream. -ENOMEM when there is none. */
int cuda_place_take(struct cuda_device *d, uint32_t *ret_place);

/* Takes the stream's next numbers, the last of which so many launches will store. -EAGAIN: full. */
int cuda_watch_begin(struct cuda_stream *s, uint32_t launches, struct cuda_watch *ret_watch);
/* After them: r < 0 gives the numbers back. Returns r. */
int cuda_watch_done(struct cuda_stream *s, uint32_t launches, int r);

/* --- launcher.c --------------------------------------------------------------------------- */

/* The launchers of a stream, zeroed before; to be freed also when this fails. */
int cuda_launchers_create(struct cuda_launcher *launchers, cudaStream_t stream);
void cuda_launchers_free(struct cuda_launcher *launchers);

/* --- graph.c ------------------------------------------------------------------------------ */

/*
 * Before each command that the stream records: it begins another piece where that is due. Returns
 * -ECANCELED when the recording has ended early, or another error.
 */
int cuda_recording_next(struct cuda_stream *s);

/* A kernel of that name is recorded; the name outlives the recording. */
void cuda_recording_count(struct cuda_stream *s, const char *name);

/* What the stream records stays in one piece from here on: other streams may join. */
void cuda_recording_keep_whole(struct cuda_stream *s);

/* Kernels of what the stream records may overlap: they follow each other in one stream. */
bool cuda_recording_overlaps(struct cuda_stream *s);

/* The block and the scratch of a kernel that the stream records. -ENOMEM. */
int cuda_recording_args(struct cuda_stream *s, struct cuda_args *ret_args);

int cuda_capture_begin(struct device_stream *stream);
int cuda_capture_end(struct device_stream *stream, struct device_graph **ret_graph);
void cuda_graph_destroy(struct device_graph *graph);
int cuda_exec_create(
	struct device *device, const struct device_graph *graph, struct device_exec **ret_exec);
int cuda_exec_upload(struct device_exec *exec, struct device_stream *stream);
int cuda_exec_launch(
	struct device_exec *exec, struct device_stream *stream, const struct device_args *args);
void cuda_exec_destroy(struct device_exec *exec);

/* --- shell.c ------------------------------------------------------------------------------ */

/* One that was kept, made into this graph, or a new one. */
int cuda_shell_get(struct cuda_device *d, cudaGraph_t graph, struct cuda_shell **ret_shell);
void cuda_shell_put(struct cuda_device *d, struct cuda_shell *shell);

/* Makes some before anybody serves. */
int cuda_shells_stock(struct cuda_device *d);
/* All that are kept, for who is short of memory and tries once more. False: there were none. */
bool cuda_shells_free(struct cuda_device *d);

/* --- pace.c ------------------------------------------------------------------------------- */

/* Now and then while the background thread works: it may pause. Others return at once. */
void cuda_pace(struct cuda_device *d);

/* The same after launches of other threads were held up, at worst, since so long ago. */
void cuda_pace_held(struct cuda_device *d, uint64_t since_ns);

/* --- waiter.c ----------------------------------------------------------------------------- */

int cuda_waiter_start(struct cuda_device *d);
void cuda_waiter_stop(struct cuda_device *d);
void cuda_sleep_prepare(struct device *device, bool asleep);
/* A launch was given to a stream while nobody may be looking. */
void cuda_waiter_kick(struct cuda_device *d);

/* 0 or -GPUQ_EDEVICE: whether the context is whole. Any thread, also in captures. */
int cuda_check(struct device *device);

#endif
