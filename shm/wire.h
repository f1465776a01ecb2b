/* SPDX-License-Identifier: MIT */
/*
 * wire.h: the layout of everything that gpuqd and a client share in memory. All integers are in
 * host order: both sides run on one machine.
 *
 * 1. The channel segment: a memfd made, sized, populated and sealed (SHRINK, GROW, SEAL) by
 *    gpuqd, one for each channel, mapped read-write by gpuqd and by one client.
 *
 *      offset   size            what                                        written by
 *      0        4096            struct wire_header                          gpuqd; once but closed
 *      4096     384             struct wire_ring of the submission ring     see wire_ring
 *      4608     384             struct wire_ring of the completion ring     see wire_ring
 *      5120     128             struct wire_notice                          client
 *      5248     2944            reserved, zero
 *      8192     64 * sq         struct wire_sqe [sq_entries]                client
 *      ...      32 * cq         struct wire_cqe [cq_entries]                gpuqd
 *      arena    arena_bytes     payloads, on a page boundary                client; gpuqd: outputs
 *
 *    sq and cq are powers of two; cq >= sq. The arena's offset is rounded up to a page.
 *
 * 2. The daemon page: a memfd of one page, the same for all clients, which they receive through
 *    a descriptor that cannot be mapped writable: struct wire_page.
 *
 * Validity. A ring index counts entries since the channel was opened and never wraps in practice
 * (64 bits), but every comparison is a difference, so a start near the maximum works. Entry i
 * lies in slot i & (entries - 1). Entries cons .. prod-1 are valid for the consumer; the rest
 * belong to the producer. 0 <= prod - cons <= entries always; a client that breaks this has its
 * channel poisoned: gpuqd stops reading it, counts it and closes the connection. gpuqd keeps its
 * own indices, sizes and base addresses in private memory and never reads back what it wrote
 * here: a client that scribbles over the header or over gpuqd's indices hurts only itself.
 *
 * Crash. An entry that is not published (index not advanced) does not exist: a side that dies
 * before its release store leaves nothing to repair. docs/wire.md has the table of windows.
 */
#ifndef GPUQ_SHM_WIRE_H
#define GPUQ_SHM_WIRE_H

#include "gpuq-types.h"

#include <stddef.h>
#include <stdint.h>

#define WIRE_MAGIC 0x71757067u /* "gpuq" */
#define WIRE_ABI 4	       /* this version of the wire */
#define WIRE_ABI_OLDEST 1      /* oldest that gpuqd still serves; see docs/wire.md */

#define WIRE_PAGE_SIZE 4096u
#define WIRE_LINE 128u /* two cache lines: the adjacent-line prefetcher shares pairs */
#define WIRE_SQ_RING 4096u
#define WIRE_CQ_RING 4608u
#define WIRE_NOTICE 5120u
#define WIRE_ENTRIES 8192u

#define WIRE_MIN_ENTRIES 8u
#define WIRE_MAX_ENTRIES 4096u
#define WIRE_MAX_ARENA (1ull << 32) /* bytes; offsets in entries are 32 bits wide */

/* First page of a channel segment. */
struct wire_header {
	uint32_t magic; /* WIRE_MAGIC */
	uint32_t abi;	/* the version agreed on in the handshake */
	uint64_t features;
	uint64_t segment_bytes;
	uint32_t sq_entries, cq_entries;
	uint32_t sqe_offset, cqe_offset;
	uint64_t arena_offset, arena_bytes;
	uint32_t channel;    /* gpuqd's slot number, for messages and statistics */
	uint32_t generation; /* of that slot; entries carry it */
	uint64_t start;	     /* both rings start with this index */
	uint64_t closed;     /* 0, or the gpuq_error for which gpuqd shut the channel; when gpuqd
			      * has taken the memory back, the whole page is zero, magic too */
	uint8_t reserved[WIRE_PAGE_SIZE - 80];
};

/*
 * Control words of one ring. prod is written by the producer, cons and wake_at by the consumer;
 * each lies on a line of its own, and wake_at apart from cons, because the producer reads it
 * after every publication and the consumer writes it only before it sleeps.
 */
struct wire_ring {
	uint64_t prod;
	uint8_t pad0[WIRE_LINE - 8];
	uint64_t cons;
	uint8_t pad1[WIRE_LINE - 8];
	uint64_t wake_at; /* the consumer sleeps until prod reaches this; see ring.h */
	uint8_t pad2[WIRE_LINE - 8];
};

/*
 * A hint that the client has ended, long before the proof; zero before version 4. A hint only: a
 * thread may end alone, and a client can write here what it likes. gpuqd takes and starts nothing
 * more of a channel whose owner has died, and gives nothing back before the proof.
 */
struct wire_notice {
	uint32_t owner; /* robust word: id of a thread of the client library; 0: nobody's */
	uint8_t pad[WIRE_LINE - 4];
};

enum wire_opcode {
	WIRE_OP_NULL = 0,   /* completes at once */
	WIRE_OP_CALL = 1,   /* runs an operator; arguments: struct wire_call */
	WIRE_OP_CANCEL = 2, /* cancels the queued entry whose user_data is in `target` */
	/* Since version 3. */
	WIRE_OP_COPY = 3,     /* between arena and buffer; arguments: struct wire_copy */
	WIRE_OP_CAPTURE = 4,  /* completes when the graph of a call is captured; as WIRE_OP_CALL */
	WIRE_OP_SESSION = 5,  /* opens, forks, cuts or closes; arguments: struct wire_session */
	WIRE_OP_STEP = 6,     /* appends tokens to a session; arguments: struct wire_step */
	WIRE_OP_GENERATE = 7, /* likewise, and samples more; arguments: struct wire_generate */
	/* Since version 4. */
	WIRE_OP_SHAPE = 8, /* completes when a model's shape is captured; struct wire_shape */
};

/* Flags of a submission. None is defined yet: any set bit is answered with -EINVAL. */
#define WIRE_SQE_FLAGS 0u

/* A submission. Reserved fields and those that an opcode does not use are zero. */
struct wire_sqe {
	uint16_t opcode; /* enum wire_opcode */
	uint16_t flags;
	uint32_t session; /* handle of a model session, 0 when none (since version 3) */
	uint64_t user_data;
	union {
		struct {
			uint32_t args_offset; /* of the argument block in the arena, 8-aligned */
			uint32_t args_bytes;
		};
		uint64_t target; /* WIRE_OP_CANCEL */
	};
	uint64_t deadline_ns; /* on the clock of the daemon page; 0 when none */
	uint64_t trace_id;    /* copied to traces, 0 when none (since version 2) */
	uint64_t submit_ns;   /* on the clock of the daemon page; for statistics only */
	uint32_t generation;
	uint32_t max_completions; /* that this entry may cause; 0 means 1 (since version 2) */
	uint64_t reserved;
};

/* More completions of the same submission follow. */
#define WIRE_CQE_MORE 1u
/* With -GPUQ_EDEVICE: nothing of it was executed; without this it may have been. */
#define WIRE_CQE_NOT_STARTED 2u
/* Bits 8..15: 1 + the argument to blame for a negative status, 0 when none is: see wire_call. */
#define WIRE_CQE_ARG_SHIFT 8

/* A completion. */
struct wire_cqe {
	uint64_t user_data;
	int32_t status; /* >= 0, or a negative error */
	uint32_t flags;
	uint64_t queued_ns;   /* from submit_ns to the start of execution */
	uint64_t executed_ns; /* from there to the end */
};

/*
 * Argument block of WIRE_OP_CALL, in the arena at args_offset:
 *
 *   struct wire_call | struct wire_tensor [n_in + n_out] | struct wire_param [n_params]
 *
 * args_bytes is exactly the sum. Tensors come in the order of the operator's description, an
 * absent optional input as zeros. gpuqd copies the block once into private memory, then
 * validates the copy. Arguments are numbered for error reports: inputs from 0, outputs from
 * GPUQ_MAX_INPUTS, parameters from GPUQ_MAX_TENSORS.
 */
struct wire_call {
	uint32_t op; /* the operator's number, from discovery, or a pipeline's handle */
	uint16_t n_in, n_out;
	uint16_t n_params;
	uint16_t reserved0;
	uint32_t reserved1;
	uint64_t reserved2[2];
};

/*
 * Handles. A pipeline's has WIRE_PIPELINE set, then a generation of 15 bits and a record number
 * of 16; a buffer's has a generation of 16 bits, at least 1, and a record number of 16. gpuqd
 * looks both up in tables of its own and checks that the channel's client may use them: a guessed
 * or stale handle is answered with an error. So it does with a model's handle, which is made like
 * a buffer's, and with a session's, of 15 and 16 bits, which belongs to the channel that opened
 * it.
 */
#define WIRE_PIPELINE 0x80000000u

struct wire_tensor {
	uint64_t offset; /* of the first element in the arena, or in the buffer */
	uint32_t buffer; /* 0: the arena; else a buffer's handle (since version 3) */
	uint16_t dtype;
	uint16_t rank;
	uint64_t dims[GPUQ_MAX_RANK]; /* outermost first, unused ones zero */
};

struct wire_param {
	uint32_t index; /* of the parameter in the operator's description */
	uint32_t type;	/* enum gpuq_param_type */
	uint64_t bits;	/* the value's representation */
};

/* Argument block of WIRE_OP_COPY, in the arena at args_offset. Ranges lie inside both. */
struct wire_copy {
	uint64_t arena_offset, buffer_offset;
	uint64_t bytes;
	uint32_t buffer;
	uint32_t to_buffer; /* 1: from the arena to the buffer; 0: back */
};

/* --- Model sessions (since version 3) ------------------------------------------------------ */

/* Arguments to blame are numbered as for calls, in the order in which the structs name them. */

enum wire_session_action {
	WIRE_SESSION_OPEN = 1,	   /* an empty session of `model`; sqe.session is 0 */
	WIRE_SESSION_FORK = 2,	   /* a second session with the text of sqe.session */
	WIRE_SESSION_TRUNCATE = 3, /* leaves the first `tokens` tokens */
	WIRE_SESSION_CLOSE = 4,
};

/*
 * Argument block of WIRE_OP_SESSION. The status is the new session's handle, above 0, for the
 * first two actions, else 0. Fields that the action does not use are zero.
 */
struct wire_session {
	uint32_t action; /* enum wire_session_action */
	uint32_t model;	 /* handle; from MSG_MODEL */
	uint32_t tokens;
	uint32_t reserved[5];
};

#define WIRE_STEP_MAX_CANDIDATES 64u
#define WIRE_STEP_MAX_IDS 256u
#define WIRE_NOWHERE UINT64_MAX /* an offset of what is not wanted */

/*
 * Argument block of WIRE_OP_STEP: appends tokens to sqe.session and computes what may follow the
 * last `rows` of them. Offsets are in the arena. gpuqd reads tokens and ids once, when their turn
 * has come. Inputs for blame: tokens, ids; outputs: out, logits; parameters: n_tokens, rows,
 * top_k, n_ids, temperature, flags.
 */
struct wire_step {
	uint32_t n_tokens;	/* at least 1 */
	uint32_t rows;		/* 0 .. n_tokens */
	uint32_t top_k;		/* candidates of each row, 0 .. WIRE_STEP_MAX_CANDIDATES */
	uint32_t n_ids;		/* 0 .. WIRE_STEP_MAX_IDS */
	uint64_t tokens_offset; /* i32[n_tokens] */
	uint64_t ids_offset;	/* i32[n_ids], whose logits each row tells; a negative one: none */
	uint64_t out_offset;	/* `rows` records of wire_row_bytes(), 8-aligned */
	uint64_t logits_offset; /* f32[rows, vocabulary], or WIRE_NOWHERE; then top_k and
				 * n_ids are 0 */
	float temperature;	/* of lse and entropy; outside 1e-30 .. 1e30: 1 */
	uint32_t flags;		/* zero */
	uint64_t reserved[2];
};

/*
 * What a row begins with. After it: i32 tokens[top_k] and f32 values[top_k], the candidates with
 * the greatest logits, greatest first, then f32 named[n_ids], -infinity for an id that is no token.
 * values and named are logits as they are; lse and entropy are of logits / temperature.
 */
struct wire_row {
	float lse;     /* log of the sum of exp(logit / temperature) over the vocabulary */
	float entropy; /* of the softmax of logit / temperature, in nats */
	uint32_t n_candidates;
	uint32_t reserved;
};

static inline uint64_t wire_row_bytes(uint32_t top_k, uint32_t n_ids)
{
	uint64_t bytes = sizeof(struct wire_row) + 8ull * top_k + 4ull * n_ids;

	return (bytes + 7) & ~7ull;
}

/* Ends with a token that ends a text; that one is the last of those made. */
#define WIRE_GENERATE_STOP 1u

/*
 * Argument block of WIRE_OP_GENERATE: appends tokens to sqe.session, then n_generate more, each
 * drawn on the device. The status is how many were made. The last one made is not part of the
 * session's text yet. Inputs for blame: tokens; outputs: out; parameters: n_tokens, n_generate,
 * temperature, flags.
 */
struct wire_generate {
	uint32_t n_tokens;	/* at least 1 */
	uint32_t n_generate;	/* at least 1 */
	uint64_t tokens_offset; /* i32[n_tokens] */
	uint64_t out_offset;	/* i32[n_generate] tokens, f32[n_generate] log-probabilities */
	float temperature;	/* 0: the greatest logit */
	uint32_t flags;		/* WIRE_GENERATE_... */
	uint64_t seed;		/* equal seeds, texts and models: equal tokens */
	uint64_t reserved[2];
};

/* What a model's step tells of its rows. */
enum wire_shape_kind {
	WIRE_SHAPE_CANDIDATES = 1, /* WIRE_OP_STEP */
	WIRE_SHAPE_LOGITS = 2,	   /* likewise, with full rows */
	WIRE_SHAPE_GENERATE = 3,   /* WIRE_OP_GENERATE */
};

/*
 * Argument block of WIRE_OP_SHAPE: a wish for the graph of the steps of a model that have this
 * shape. sqe.session is 0. Nothing is computed. Parameters for blame: kind, tokens, batch, rows,
 * ids, context.
 */
struct wire_shape {
	uint32_t model;	  /* handle; from MSG_MODEL */
	uint32_t kind;	  /* enum wire_shape_kind */
	uint32_t tokens;  /* in all; at least one of each sequence */
	uint32_t batch;	  /* sequences */
	uint32_t rows;	  /* results, in all */
	uint32_t ids;	  /* that a row names, WIRE_SHAPE_CANDIDATES only; rounded up as steps do */
	uint32_t context; /* of the longest sequence, in tokens; likewise */
	uint32_t reserved;
};

#define WIRE_MAX_ARGS                                                               \
	(sizeof(struct wire_call) + GPUQ_MAX_TENSORS * sizeof(struct wire_tensor) + \
		GPUQ_MAX_PARAMS * sizeof(struct wire_param))

/* What gpuqd is doing, in wire_page.state. */
enum wire_state {
	WIRE_STARTING = 0,
	WIRE_SERVING = 1,
	WIRE_DRAINING = 2,
	WIRE_STOPPED = 3,
};

#define WIRE_MAX_DEVICES 8

/* What clients may know of a device process. */
struct wire_page_device {
	uint32_t owner;	   /* robust word: the dispatch thread's id, or WIRE_OWNER_DIED set */
	uint32_t runnable; /* parties that want a CPU now: dispatch, workers, active clients */
	uint64_t epoch;	   /* counts the device processes that served this slot; 0: none yet */
	uint8_t pad[WIRE_LINE - 16];
};

/* The kernel sets this bit in a robust word when the thread that holds it ends. */
#define WIRE_OWNER_DIED 0x40000000u

/* The daemon page. A client reads it, and cannot write it. */
struct wire_page {
	uint32_t magic;
	uint32_t abi;
	uint32_t owner; /* robust word of the control process: see wire_page_device */
	uint32_t state; /* enum wire_state */
	uint32_t cpus;	/* that gpuqd and its clients share: see wait_shared_cpus() */
	uint32_t reserved0;
	/* The clock: ns = ns_base + ((ticks - ticks_base) * mult >> shift); shift 0: use ns. */
	uint64_t ticks_base, ns_base;
	uint64_t mult;
	uint32_t shift;
	uint32_t reserved1;
	uint8_t pad[WIRE_LINE * 2 - 56];
	struct wire_page_device devices[WIRE_MAX_DEVICES];
	uint8_t reserved[WIRE_PAGE_SIZE - WIRE_LINE * (2 + WIRE_MAX_DEVICES)];
};

/* Where everything lies in a segment of the given sizes. */
struct wire_layout {
	uint64_t sqe_offset, cqe_offset, arena_offset, segment_bytes;
};

static inline struct wire_layout wire_layout(
	uint32_t sq_entries, uint32_t cq_entries, uint64_t arena_bytes)
{
	struct wire_layout l = {.sqe_offset = WIRE_ENTRIES};

	l.cqe_offset = l.sqe_offset + (uint64_t)sq_entries * sizeof(struct wire_sqe);
	l.arena_offset = l.cqe_offset + (uint64_t)cq_entries * sizeof(struct wire_cqe);
	l.arena_offset = (l.arena_offset + WIRE_PAGE_SIZE - 1) & ~(uint64_t)(WIRE_PAGE_SIZE - 1);
	l.segment_bytes = l.arena_offset + arena_bytes;
	l.segment_bytes = (l.segment_bytes + WIRE_PAGE_SIZE - 1) & ~(uint64_t)(WIRE_PAGE_SIZE - 1);
	return l;
}

#define WIRE_AT(type, field, at) _Static_assert(offsetof(struct type, field) == (at), #type)

_Static_assert(sizeof(struct wire_header) == WIRE_PAGE_SIZE, "wire_header");
WIRE_AT(wire_header, features, 8);
WIRE_AT(wire_header, sq_entries, 24);
WIRE_AT(wire_header, sqe_offset, 32);
WIRE_AT(wire_header, arena_offset, 40);
WIRE_AT(wire_header, channel, 56);
WIRE_AT(wire_header, start, 64);
WIRE_AT(wire_header, closed, 72);
_Static_assert(sizeof(struct wire_ring) == 3 * WIRE_LINE, "wire_ring");
WIRE_AT(wire_ring, cons, 128);
WIRE_AT(wire_ring, wake_at, 256);
_Static_assert(WIRE_SQ_RING + sizeof(struct wire_ring) <= WIRE_CQ_RING, "rings overlap");
_Static_assert(WIRE_CQ_RING + sizeof(struct wire_ring) <= WIRE_NOTICE, "ring in notice");
_Static_assert(sizeof(struct wire_notice) == WIRE_LINE, "wire_notice");
_Static_assert(WIRE_NOTICE + sizeof(struct wire_notice) <= WIRE_ENTRIES, "notice in entries");
_Static_assert(sizeof(struct wire_sqe) == 64, "wire_sqe");
WIRE_AT(wire_sqe, session, 4);
WIRE_AT(wire_sqe, user_data, 8);
WIRE_AT(wire_sqe, args_offset, 16);
WIRE_AT(wire_sqe, args_bytes, 20);
WIRE_AT(wire_sqe, deadline_ns, 24);
WIRE_AT(wire_sqe, trace_id, 32);
WIRE_AT(wire_sqe, submit_ns, 40);
WIRE_AT(wire_sqe, generation, 48);
WIRE_AT(wire_sqe, max_completions, 52);
WIRE_AT(wire_sqe, reserved, 56);
_Static_assert(sizeof(struct wire_cqe) == 32, "wire_cqe");
WIRE_AT(wire_cqe, status, 8);
WIRE_AT(wire_cqe, flags, 12);
WIRE_AT(wire_cqe, queued_ns, 16);
WIRE_AT(wire_cqe, executed_ns, 24);
_Static_assert(sizeof(struct wire_call) == 32, "wire_call");
_Static_assert(sizeof(struct wire_tensor) == 80, "wire_tensor");
WIRE_AT(wire_tensor, buffer, 8);
WIRE_AT(wire_tensor, dtype, 12);
WIRE_AT(wire_tensor, rank, 14);
WIRE_AT(wire_tensor, dims, 16);
_Static_assert(sizeof(struct wire_param) == 16, "wire_param");
_Static_assert(sizeof(struct wire_copy) == 32, "wire_copy");
_Static_assert(sizeof(struct wire_session) == 32, "wire_session");
_Static_assert(sizeof(struct wire_step) == 72, "wire_step");
WIRE_AT(wire_step, tokens_offset, 16);
WIRE_AT(wire_step, temperature, 48);
_Static_assert(sizeof(struct wire_row) == 16, "wire_row");
_Static_assert(sizeof(struct wire_generate) == 56, "wire_generate");
WIRE_AT(wire_generate, temperature, 24);
WIRE_AT(wire_generate, seed, 32);
_Static_assert(sizeof(struct wire_shape) == 32, "wire_shape");
_Static_assert(sizeof(struct wire_page_device) == WIRE_LINE, "wire_page_device");
_Static_assert(sizeof(struct wire_page) == WIRE_PAGE_SIZE, "wire_page");
WIRE_AT(wire_page, owner, 8);
WIRE_AT(wire_page, ticks_base, 24);
WIRE_AT(wire_page, shift, 48);
WIRE_AT(wire_page, devices, 256);

#endif
