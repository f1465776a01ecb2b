/* SPDX-License-Identifier: MIT */
/*
 * ring.h: the algorithm of the rings in wire.h: one producer, one consumer, each in a process of
 * its own, neither trusting the other's liveness, and gpuqd not trusting the client at all.
 *
 * Each side keeps its own index, the size and a cached copy of the other side's index in private
 * memory, so that a poisoned shared word can at worst be refused.
 *
 * Three pairs of barriers carry everything; tests/explore runs all their interleavings:
 *
 *   A  ring_publish() stores prod with release  <->  ring_refresh() loads it with acquire:
 *      entries are visible before the index that covers them.
 *   B  ring_release() stores cons with release  <->  ring_space() loads it with acquire: the
 *      consumer has finished reading a slot before the producer writes it again.
 *   C  ring_publish() ... fence ... loads wake_at  <->  ring_sleep_prepare() stores wake_at ...
 *      fence ... loads prod: at least one side sees the other, so no wake-up is lost.
 *
 * wake_at needs no clearing: a publication from old to new rings the bell exactly when wake_at
 * lies in old+1 .. new, so each wish is answered once and an old wish never again.
 */
#ifndef GPUQ_SHM_RING_H
#define GPUQ_SHM_RING_H

#include "shm/atomics.h"
#include "shm/wire.h"

#include <stdbool.h>

/* The producing side's private state. */
struct ring_producer {
	struct wire_ring *ring;
	uint64_t prod;	    /* next entry to write */
	uint64_t published; /* entries before this one are visible to the consumer */
	uint64_t cons;	    /* last seen index of the consumer */
	uint32_t entries;
};

/* The consuming side's private state. */
struct ring_consumer {
	struct wire_ring *ring;
	uint64_t cons; /* next entry to read */
	uint64_t prod; /* entries before this one may be read */
	uint32_t entries;
};

static inline uint32_t ring_slot(uint64_t index, uint32_t entries)
{
	return (uint32_t)index & (entries - 1);
}

/*
 * Entries that may be written now. The consumer's index is only looked at when fewer than `want`
 * are known to be free. -GPUQ_EPOISONED when the consumer's index is impossible.
 */
static inline int ring_space(struct ring_producer *p, uint32_t want)
{
	uint64_t used = p->prod - p->cons;

	if (p->entries - used < want) {
		/* B: pairs with ring_release(). */
		uint64_t cons = shm_load_acquire(&p->ring->cons);
		used = p->prod - cons;
		if (used > p->entries)
			return -GPUQ_EPOISONED;
		p->cons = cons;
	}
	return (int)(p->entries - used);
}

/* Makes the entries before p->prod visible. */
static inline void ring_publish(struct ring_producer *p)
{
	/* A: pairs with ring_refresh(). */
	shm_store_release(&p->ring->prod, p->prod);
}

/*
 * After ring_publish(): does the consumer sleep until an index that has just been published?
 * The caller then rings its doorbell. Several rings may share one fence: see ring_wake_wanted().
 */
static inline bool ring_wake_wanted_fenced(struct ring_producer *p)
{
	uint64_t wake_at = shm_load_relaxed(&p->ring->wake_at);
	uint64_t fresh = p->prod - p->published;

	p->published = p->prod;
	return p->prod - wake_at < fresh;
}

static inline bool ring_wake_wanted(struct ring_producer *p)
{
	/* C: pairs with the fence in ring_sleep_prepare(). */
	shm_fence();
	return ring_wake_wanted_fenced(p);
}

/* Entries that may be read now. -GPUQ_EPOISONED when the producer's index is impossible. */
static inline int ring_refresh(struct ring_consumer *c)
{
	/* A: pairs with ring_publish(). */
	uint64_t prod = shm_load_acquire(&c->ring->prod);

	if (prod - c->cons > c->entries)
		return -GPUQ_EPOISONED;
	c->prod = prod;
	return (int)(prod - c->cons);
}

/* Hands the slots before c->cons back to the producer. */
static inline void ring_release(struct ring_consumer *c)
{
	/* B: pairs with ring_space(). */
	shm_store_release(&c->ring->cons, c->cons);
}

/*
 * Asks the producer to ring when `want` entries (>= 1) are there. Returns what ring_refresh()
 * does; the caller sleeps only when that is less than `want`.
 */
static inline int ring_sleep_prepare(struct ring_consumer *c, uint32_t want)
{
	shm_store_relaxed(&c->ring->wake_at, c->cons + want);
	/* C: pairs with the fence in ring_wake_wanted(). */
	shm_fence();
	return ring_refresh(c);
}

#endif
