/* SPDX-License-Identifier: MIT */
/*
 * cpu.h: the inside of the CPU device, shared by its sources:
 *
 *   cpu.c      opening and closing, memory, what it says about itself
 *   worker.c   the threads that compute: how commands of streams run
 *   stream.c   the other side: how commands get into streams; streams and events
 *   graph.c    recording, executables
 *
 * A stream is a ring of commands. One thread enqueues: it writes a command, wakes a worker that
 * sleeps, and does nothing else: no lock, no allocation, and no system call but that wake. Any
 * worker may take the stream's token and with it the command at the head. What is short it runs by
 * itself; what is long it cuts into pieces that all workers take from the stream's cell, and who
 * ends the last piece has the token and goes on with the command. Between commands and between
 * pieces streams take turns of equal time, those of high priority first; a lower priority that was
 * passed over some times has a turn in between.
 *
 * A cell's claim word holds the cell's generation above and the next piece below, so a worker
 * that was delayed between reading and claiming cannot take a piece of later work by mistake.
 * A worker that has claimed a piece may read the rest of the cell: it is not refilled before
 * that piece has ended.
 *
 * An event is a place in a stream: it has passed when the stream's head has. A stream whose
 * command awaits a place that is not reached is parked: its token stays taken until the worker
 * that ends the awaited command gives it back.
 *
 * Streams are kept for reuse until the device closes, so workers may look at any at any time, and
 * events stay valid: heads and tails only grow.
 */
#ifndef GPUQ_DEVICE_CPU_CPU_H
#define GPUQ_DEVICE_CPU_CPU_H

#include "device/driver.h"

#include <pthread.h>
#include <sys/queue.h>

#define CPU_MAX_WORKERS 256u
#define CPU_MAX_STREAMS 128u /* of each priority */
#define CPU_STREAM_DEPTH 64u /* commands; a power of two */
#define CPU_PRIORITIES 3u

/* What a copy or a fill does: the shape of such a node. */
struct cpu_span {
	char *to;
	const char *from;
	uint64_t bytes;
	uint8_t byte;
};

/* One piece of code to run. */
struct cpu_node {
	void (*run)(
		const void *shape, const struct device_args *args, uint64_t begin, uint64_t end);
	const void *shape;
	uint64_t units, predicted_ns;
};

/*
 * One entry of a stream. It lies there when `number` is its place counted from 1, and with the
 * number a worker that looks for it gets everything into its cache that a kernel needs besides
 * its arguments.
 */
struct cpu_command {
	struct cpu_node node;
	uint32_t n_nodes; /* 1 or 0, when it is no launch of an executable */
	bool completes;	  /* args.completion */
	bool watched;	  /* streams may be parked until it ends */
	bool replays;	  /* the nodes of `exec` */
	bool awaits;	  /* runs when the head of `awaited` is at `position` */
	uint64_t number;
	struct device_args args;
	struct cpu_exec *exec;
	struct cpu_stream *awaited;
	uint64_t position;
	struct cpu_span span; /* the node's shape, when it copies or fills */
} __attribute__((aligned(WIRE_LINE)));
_Static_assert(offsetof(struct cpu_command, args.pointers) == 64, "one cache line");

/* Pieces of the node that the stream is at. */
struct cpu_cell {
	uint64_t claim; /* generation << CPU_CLAIM_BITS | next piece */
	uint64_t ended; /* pieces that have ended, of this generation */
	uint64_t pieces;
	const struct cpu_node *node;
	const struct device_args *args;
} __attribute__((aligned(WIRE_LINE)));

enum { CPU_TOKEN_FREE, CPU_TOKEN_TAKEN };

struct cpu_stream {
	/* The enqueuing thread's. */
	struct device_stream base;
	struct cpu_graph *recording; /* where a capture began: what it has so far */
	uint64_t tail, head_seen;
	uint32_t priority;
	TAILQ_ENTRY(cpu_stream) pool_link; /* while nobody uses it */

	/* Written by whoever has the token. */
	uint64_t token __attribute__((aligned(WIRE_LINE)));
	uint64_t head;
	uint64_t started_ns; /* of the first work since the last completion; 0: none yet */
	uint32_t node;	     /* that the command at the head has come to */
	TAILQ_ENTRY(cpu_stream) parked_link;

	struct cpu_cell cell;
	struct cpu_command commands[CPU_STREAM_DEPTH];
};
TAILQ_HEAD(cpu_stream_list, cpu_stream);

struct cpu_event {
	struct device_event base;
	struct cpu_stream *stream; /* NULL: never recorded */
	uint64_t position;
};

struct cpu_exec {
	struct device_exec base;
	uint64_t launched;
	struct cpu_stream *last; /* in which it was launched last, and where that ends */
	uint64_t last_position;
	uint32_t n_nodes;
	struct cpu_node *nodes;
	uint64_t ended __attribute__((aligned(WIRE_LINE))); /* launches; written by workers */
};

/* Memory that is registered, or mapped for one allocation. */
struct cpu_range {
	char *base;
	uint64_t bytes;
	LIST_ENTRY(cpu_range) link;
};
LIST_HEAD(cpu_range_list, cpu_range);

struct cpu_device {
	struct device base;
	uint32_t n_workers;
	bool spin; /* workers may spin: they and dispatch fit the CPUs */
	char name[128];

	/* Streams only ever join these. */
	struct cpu_stream *streams[CPU_PRIORITIES][CPU_MAX_STREAMS];
	uint64_t n_streams[CPU_PRIORITIES];

	pthread_mutex_t lock; /* of the pool and the ranges */
	struct cpu_stream_list pool;
	struct cpu_range_list registrations, mappings;

	pthread_mutex_t parked_lock; /* among workers: held for some dozen instructions */
	struct cpu_stream_list parked;
	uint64_t n_parked;

	uint64_t asleep; /* dispatch sleeps */
	uint64_t stop;
	uint64_t waiting; /* threads in stream_wait() */
	uint32_t ends;	  /* futex word: changes while somebody waits and a command ends */
	uint32_t wakes __attribute__((aligned(WIRE_LINE))); /* futex word of sleeping workers */
	uint32_t sleepers;
	pthread_t workers[CPU_MAX_WORKERS];
};

static inline struct cpu_device *cpu_device(struct device *device)
{
	return (struct cpu_device *)device;
}

static inline struct cpu_stream *cpu_stream(struct device_stream *stream)
{
	return (struct cpu_stream *)stream;
}

/* --- worker.c --- */

int cpu_workers_start(struct cpu_device *d, uint32_t n);
void cpu_workers_stop(struct cpu_device *d);

/* Work has been published: wakes a worker that sleeps. */
void cpu_wake_worker(struct cpu_device *d);

/* Blocks until the stream's commands before this place have ended. */
void cpu_stream_drain(struct cpu_stream *s, uint64_t position);

/* --- stream.c --- */

int cpu_stream_create(struct device *device, uint32_t priority, struct device_stream **ret);
void cpu_stream_destroy(struct device_stream *stream);
int cpu_stream_query(struct device_stream *stream);
int cpu_stream_wait(struct device_stream *stream);
int cpu_event_create(struct device *device, struct device_event **ret_event);
void cpu_event_destroy(struct device_event *event);
int cpu_event_record(struct device_event *event, struct device_stream *stream);
int cpu_event_await(struct device_event *event, struct device_stream *stream);
int cpu_event_query(struct device_event *event);
int cpu_launch(struct device_stream *stream, const struct device_kernel *kernel,
	const struct device_args *args);
int cpu_copy(struct device_stream *stream, void *to, const void *from, uint64_t bytes);
int cpu_fill(struct device_stream *stream, void *data, uint8_t byte, uint64_t bytes);
int cpu_signal(struct device_stream *stream, const struct device_args *args);
int cpu_exec_launch(
	struct device_exec *exec, struct device_stream *stream, const struct device_args *args);

/* --- graph.c --- */

/* Records a node, with a copy of its shape where it has one. */
int cpu_record(struct device_stream *stream, const struct cpu_node *node, uint32_t shape_bytes);
int cpu_capture_begin(struct device_stream *stream);
int cpu_capture_end(struct device_stream *stream, struct device_graph **ret_graph);
void cpu_graph_destroy(struct device_graph *graph);
int cpu_exec_create(
	struct device *device, const struct device_graph *graph, struct device_exec **ret_exec);
void cpu_exec_destroy(struct device_exec *exec);

#endif
