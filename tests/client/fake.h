/* SPDX-License-Identifier: MIT */
/*
 * fake.h: a gpuqd for tests of the client library: a process that speaks proto.h and serves the
 * rings, can be told to be slow, odd or hostile at a chosen moment, and shows what it was sent.
 * It is small and slow on purpose: one thread, two operators, no limits enforced.
 *
 *	copy	input x, optional input bias, output y; parameters scale (f64), n (i64):
 *		copies the bytes of x's first dimension, counted in bytes, to y
 *	fail	completes with the status and the blamed argument that its parameters name
 *
 * A buffer is a handle and a memfd; copies to and from it do nothing, and complete.
 *
 * A pipeline, whatever its definition says, copies its first input to its first output. There are
 * FAKE_GRAPHS shapes, all captured, and two devices, the second of which cannot be used.
 */
#ifndef GPUQ_TESTS_CLIENT_FAKE_H
#define GPUQ_TESTS_CLIENT_FAKE_H

#include "shm/atomics.h"
#include "shm/proto.h"

#include <sys/types.h>

#define FAKE_GRAPHS 14
#define FAKE_BUFFER (3u << 16)			 /* the handle of the first one; then 1 more */
#define FAKE_PIPELINE (WIRE_PIPELINE | 7u << 16) /* the handle of the first one; then 1 more */

/* What goes wrong, once each time that a message of type `fault_at` arrives. */
enum fake_fault {
	FAKE_NO_FAULT,
	FAKE_SILENT,	   /* no answer */
	FAKE_REFUSE,	   /* MSG_ERROR with `fault_status` */
	FAKE_HANG_UP,	   /* closes the connection */
	FAKE_GOODBYE,	   /* MSG_GOODBYE with `fault_status`, then closes */
	FAKE_MALFORMED,	   /* a wrong magic */
	FAKE_WRONG_LENGTH, /* a packet that is not as long as its header says */
	FAKE_WRONG_TYPE,
	FAKE_OLD_SERIAL, /* an answer to nobody comes first */
	FAKE_LATE,	 /* after 300 ms */
	FAKE_WAITS,	 /* until this is not the fault any more */
	FAKE_NO_FD,
	FAKE_MANY_FDS,	/* one more than the client has room for */
	FAKE_UNSEALED,	/* memory that could shrink */
	FAKE_SMALL,	/* memory smaller than announced */
	FAKE_NO_MAGIC,	/* memory full of zeros */
	FAKE_LIES,	/* MSG_WELCOME with a version, MSG_OPENED with sizes never asked for */
	FAKE_NO_BELL,	/* MSG_OPENED whose bell is not a pipe */
	FAKE_BAD_COUNT, /* MSG_OP with more inputs than there can be */
};

/* The operators of this gpuqd, control->ops. */
enum fake_ops {
	FAKE_OPS,
	FAKE_OPS_SWAPPED, /* the other way round */
	FAKE_OPS_CHANGED, /* "copy" has another greatest `scale`, "fail" another name */
};

/* Shared by a test and its fake: every field is one word, set and read at any time. */
struct fake_control {
	uint64_t ready;
	/* What the fake does. */
	uint64_t fault, fault_at, fault_status;
	uint64_t abi;	   /* newest version it speaks */
	uint64_t start;	   /* first index of new rings */
	uint64_t runnable; /* parties that it says want a CPU */
	uint64_t state;	   /* enum wire_state, for the daemon page */
	uint64_t ops;	   /* enum fake_ops */
	uint64_t hold;	   /* keeps work, and completes it once this is 0 again */
	uint64_t reverse;  /* completes held work youngest first */
	uint64_t stall;	   /* takes nothing out of submission rings */
	uint64_t mute;	   /* does not ring bells */
	uint64_t forge;	   /* completes with a user_data that was never sent */
	uint64_t overrun;  /* claims more completions than a ring holds */
	uint64_t shut;	   /* a gpuq_error: shuts every channel with it */
	uint64_t let_go;   /* closes every connection and pipe, saying goodbye */
	uint64_t part;	   /* see fake_part() */
	uint64_t finish;   /* 1 + the argument of fake_end_device() */
	/* What it has seen. */
	uint64_t parted, device_pid; /* see fake_part() */
	uint64_t hellos, acks, opens, closes, queries, taken, completed, bells, stops;
	uint64_t faulty; /* messages that met a fault, counted before it */
	uint64_t ended;	 /* channels */
	uint64_t hints;	 /* channels whose client's robust word said, at their end, that it died */
	uint64_t unheld; /* channels at whose end nobody had taken that word */
	uint64_t buffers, buffer_requests, buffer_frees;
	uint64_t pieces, pipelines, pipeline_closes, evicts;
	uint64_t capture_stopped;     /* as MSG_ADMIN_CAPTURE left it */
	uint64_t evicted;	      /* id of the last MSG_ADMIN_EVICT */
	uint64_t definition_bytes;    /* of the last pipeline; written before `pipelines` */
	uint64_t definition[1 << 13]; /* its beginning */
	struct wire_sqe last;	      /* written before `taken` */
	char client_name[GPUQ_NAME_MAX];
};

struct fake {
	pid_t pid;
	pid_t device_pid; /* 0: it is one process */
	struct fake_control *control;
	char socket[108];
};

/* Prepares one for the test's private directory; *control may be changed before fake_start(). */
struct fake *fake_new(void);
void fake_start(struct fake *fake);

/* Ends it as a crash would. */
void fake_kill(struct fake *fake);

/*
 * Makes it two processes, as a gpuqd has: the control process, which fake_kill() ends, and a device
 * process. Nobody takes submissions any more.
 */
void fake_part(struct fake *fake);

/* After both: the device process completes `n` of what it holds, youngest first, and ends. */
void fake_end_device(struct fake *fake, uint32_t n);

/* Stops it if it runs, and frees. */
void fake_destroy(struct fake *fake);

/* Waits until *word is `value`, or fails the test. */
void fake_expect(const uint64_t *word, uint64_t value);

/* The process's body, in fake-gpuqd.c. Does not return. */
void fake_run(struct fake *fake) __attribute__((noreturn));

#endif
