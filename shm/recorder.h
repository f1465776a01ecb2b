/* SPDX-License-Identifier: MIT */
/*
 * recorder.h: the flight recorder: what gpuqd's threads did lately, event by event, in rings inside
 * the statistics object (stats.h). It is always on, and what it holds is there for whoever may read
 * the object, also after a crash of the device process or of all of gpuqd.
 *
 * Layout. From recorder_offset of the object on lie RECORDER_RINGS rings without gaps, in the order
 * of enum recorder_writer. Each is
 *
 *	0     struct recorder_ring
 *	128   struct recorder_event [events], a power of two, from recorder_ring_events()
 *
 * Event number n, from 0, lies in record n % events. `next` is the number of the event that will be
 * written next, and so how many were ever written. It goes on when a device process follows another
 * one; an object that is made anew begins with 0.
 *
 * Validity. One thread writes a ring: it writes the record, then moves `next`. While it does,
 * record next % events is neither the old event nor the new one. So event n can be believed when,
 * after it was copied, next - events < n < next. Who reads slowly loses what was overwritten
 * meanwhile and knows how much. Nothing that a reader does slows the writer down.
 *
 * Crash rule. A writer that ends within a record has not moved `next`: that record is the one which
 * the rule above leaves out. Its successor begins at `next`.
 *
 * What is recorded: of every request what waits its turn leaves (TAKEN, GIVEN, ENDED), and what
 * dispatch itself runs (INLINE). Null operations and cancellations are too short for events of
 * their own: a pass over a channel has one for all that it took (BATCH). When a client has seen
 * its completions is not written anywhere; dispatch looks at the client's index when it takes the
 * next entries of a channel whose requests waited, and at those of two other channels every 50 us
 * (SEEN). Times are of the clock of the daemon page.
 */
#ifndef GPUQ_SHM_RECORDER_H
#define GPUQ_SHM_RECORDER_H

#include "shm/atomics.h"
#include "shm/wire.h"

enum recorder_writer {
	RECORDER_DISPATCH, /* the thread dispatch of the device process */
	RECORDER_CAPTURE,  /* its capture thread */
	RECORDER_COLD,	   /* its thread for first launches */
	RECORDER_CONTROL,  /* the control process */
	RECORDER_RINGS,
};

/*
 * Kinds of events, and what their fields mean beside time_ns. A request is known by its channel,
 * the channel's generation, and ticket: the index of its entry in the submission ring. Completions
 * are known by their index in the completion ring. Graphs are known by the id of their record in
 * the statistics, 0: none.
 */
enum recorder_kind {
	/*
	 * A request left its ring and waits for its turn. what: enum recorder_request; words: when
	 * it was submitted, by the client's word, or 0; its trace id; its deadline or 0; the record
	 * of its operator (RECORDER_NO_OP: none), and above 32 bits the handle of its session.
	 */
	RECORDER_TAKEN = 1,
	/* It left the queue for the device. words: when that was done; its graph. */
	RECORDER_GIVEN,
	/*
	 * It was completed with `status`, now. words: begin and end of its execution, equal when it
	 * was not executed; its completion; its graph. what: RECORDER_REPLAYED or 0.
	 */
	RECORDER_ENDED,
	/*
	 * Dispatch ran it at once, beginning now. words: submitted; end; its completion; its trace
	 * id. what: the record of its operator.
	 */
	RECORDER_INLINE,
	/* It was refused with `status`. words: submitted; 0; its completion; its trace id. */
	RECORDER_REFUSED,
	/*
	 * A pass over a channel took entries of which `what` were null operations or cancellations.
	 * ticket: the first entry. words: when the first of these was submitted; when the last; the
	 * completion behind the last one posted; all entries of this pass.
	 */
	RECORDER_BATCH,
	/* The client has read its completions before `ticket`, at the latest now. */
	RECORDER_SEEN,
	/*
	 * A step of a model has ended with `status`, now. channel: the model's handle; ticket: 1
	 * for a step of decoding, 0 for a chunk of a prompt; what: sequences; words: begin;
	 * tokens; its graph; RECORDER_REPLAYED or 0, and above 32 bits the ns of its launch.
	 */
	RECORDER_STEP,
	/* A channel came, or has ended. words: its client's record and, above 32 bits, generation;
	 * its priority. */
	RECORDER_CHANNEL,
	RECORDER_CHANNEL_END,
	/* A device process began. words: its pid; the epoch. */
	RECORDER_DEVICE,
	/*
	 * A capture began, or ended: status 0, an error, or 1: none is better. words: its graph;
	 * the lane that it is for; kernels.
	 */
	RECORDER_CAPTURING,
	RECORDER_CAPTURED,
	/* The launch of a cold shape, kernel by kernel, began, or ended with `status`. words: its
	 * graph. */
	RECORDER_COLD_LAUNCH,
	RECORDER_COLD_LAUNCHED,
	/* A client came, or has ended. channel, generation: its record and generation. words: its
	 * pid; its uid. */
	RECORDER_CLIENT,
	RECORDER_CLIENT_END,
	/* The device process ended. words: its pid. status: what waitpid() said. */
	RECORDER_DEVICE_END,
	RECORDER_KINDS,
};

enum recorder_request {
	RECORDER_CALL = 1,
	RECORDER_PIPELINE,
	RECORDER_COPY,
	RECORDER_SESSION,
	RECORDER_MODEL_STEP,
	RECORDER_WISH, /* for a capture */
};

#define RECORDER_REPLAYED 1u
#define RECORDER_NO_OP UINT32_MAX

struct recorder_event {
	uint64_t time_ns;
	uint64_t ticket;
	uint32_t channel, generation;
	uint16_t kind; /* enum recorder_kind */
	uint16_t what;
	int32_t status;
	uint64_t words[4];
};

struct recorder_ring {
	uint64_t next;
	uint64_t events;
	uint8_t pad[WIRE_LINE - 16];
};

_Static_assert(sizeof(struct recorder_event) == 64, "recorder_event");
_Static_assert(offsetof(struct recorder_event, kind) == 24, "recorder_event");
_Static_assert(offsetof(struct recorder_event, words) == 32, "recorder_event");
_Static_assert(sizeof(struct recorder_ring) == WIRE_LINE, "recorder_ring");

/* What the writing thread knows by itself: it reads nothing of the ring. */
struct recorder {
	struct recorder_ring *ring;
	struct recorder_event *events;
	uint64_t next, mask;
};

#define RECORDER_MIN_EVENTS 64u
/* Threads other than dispatch have much less to tell. */
#define RECORDER_SHARE 16u

/* The events of one ring, where dispatch's has `events`; 0: the recorder is off. */
static inline uint64_t recorder_ring_events(enum recorder_writer writer, uint64_t events)
{
	uint64_t n = RECORDER_MIN_EVENTS;

	if (events == 0)
		return 0;
	events = writer == RECORDER_DISPATCH ? events : events / RECORDER_SHARE;
	while (n < events)
		n *= 2;
	return n;
}

/* Where a ring lies, from recorder_offset on. RECORDER_RINGS: the bytes of all. */
static inline uint64_t recorder_ring_offset(uint32_t writer, uint64_t events)
{
	uint64_t at = 0;

	for (uint32_t i = 0; i < writer; i++)
		at += sizeof(struct recorder_ring) +
			recorder_ring_events((enum recorder_writer)i, events) *
				sizeof(struct recorder_event);
	return at;
}

/* Writes an event. `r` may be NULL, or have no ring: then nothing is recorded. */
static inline void recorder_put(struct recorder *r, const struct recorder_event *event)
{
	if (r == NULL || r->ring == NULL)
		return;
	/* Put together in registers: a word that was stored in parts waits for all stores before it
	 * when it is loaded, which was three quarters of what an event costs. */
	const uint64_t words[] = {
		event->time_ns,
		event->ticket,
		event->channel | (uint64_t)event->generation << 32,
		event->kind | (uint32_t)event->what << 16 | (uint64_t)(uint32_t)event->status << 32,
		event->words[0],
		event->words[1],
		event->words[2],
		event->words[3],
	};
	/* The record is not written before others may know that its old event is gone: pairs with
	 * the reader's second look at `next`. */
	shm_fence_release();
	shm_copy_out(&r->events[r->next & r->mask], words, sizeof(*event) / 8);
	/* The record is whole before `next` says so: pairs with the reader's first look. */
	shm_store_release(&r->ring->next, ++r->next);
	__builtin_prefetch(&r->events[r->next & r->mask], 1);
}

#endif
