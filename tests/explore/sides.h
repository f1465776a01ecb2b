/* SPDX-License-Identifier: MIT */
/*
 * sides.h: how a producer and a consumer use ring.h, as rounds for the explorer. The order of
 * the calls is that of the client library and of gpuqd; entries are cut to two words, enough for
 * a copy to be torn.
 */
#ifndef GPUQ_EXPLORE_SIDES_H
#define GPUQ_EXPLORE_SIDES_H

#ifndef RING_H
#define RING_H "shm/ring.h"
#endif
#include RING_H

#include "explore.h"

#define SIDE_WORDS 2
#define SIDE_MAX 3 /* entries that a scenario sends through one ring */

struct producing {
	struct ring_producer p;
	uint64_t *slots;
	uint64_t sent, total;
	uint64_t batch; /* entries written before they are published together */
	uint64_t rung;
	uint64_t bell;
};

struct consuming {
	struct ring_consumer c;
	const uint64_t *slots;
	uint64_t got, total;
	uint64_t want; /* entries to sleep for */
	uint64_t wishes;
	uint64_t last_wish; /* wishes for the same index count once */
	uint64_t bell;
	bool late;  /* silences its bell before the next sleep, not after the last one */
	bool woken; /* so that is still to be done */
	uint64_t entry[SIDE_MAX][SIDE_WORDS];
};

/* Word w of entry i. */
static inline uint64_t side_word(uint64_t i, uint64_t w)
{
	return 100 * (i + 1) + w;
}

/* Writes and publishes one batch. False when the ring was too full. */
static inline bool side_publish(struct producing *s)
{
	uint64_t n = s->total - s->sent < s->batch ? s->total - s->sent : s->batch;
	int space = ring_space(&s->p, (uint32_t)n);

	if (space < 0)
		explore_fail("the producer takes an honest consumer for a hostile one");
	if ((uint64_t)space < n)
		return false;
	for (uint64_t i = 0; i < n; i++) {
		uint64_t entry[SIDE_WORDS];
		for (uint64_t w = 0; w < SIDE_WORDS; w++)
			entry[w] = side_word(s->sent, w);
		shm_copy_out(&s->slots[ring_slot(s->p.prod, s->p.entries) * SIDE_WORDS], entry,
			SIDE_WORDS);
		s->p.prod++;
		s->sent++;
	}
	ring_publish(&s->p);
	return true;
}

static inline void side_ring(struct producing *s)
{
	s->rung++;
	explore_bell((uint32_t)s->bell);
}

/* One batch with its wake-up; waits while the ring is full. */
static inline void side_produce(struct producing *s)
{
	if (!side_publish(s))
		shm_pause();
	else if (ring_wake_wanted(&s->p))
		side_ring(s);
}

/* One batch into each of several rings, then one fence for all of their wishes. */
static inline void side_produce_all(struct producing *s, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (!side_publish(&s[i]))
			explore_fail("no space, although the ring holds everything");
	shm_fence();
	for (uint32_t i = 0; i < n; i++)
		if (ring_wake_wanted_fenced(&s[i].p))
			side_ring(&s[i]);
}

/* Takes what is there. Returns how many entries. */
static inline uint64_t side_take(struct consuming *s)
{
	uint64_t n = 0;

	for (; s->c.cons != s->c.prod; n++) {
		if (s->got == s->total)
			explore_fail("more entries than were sent");
		shm_copy_in(s->entry[s->got++],
			&s->slots[ring_slot(s->c.cons, s->c.entries) * SIDE_WORDS], SIDE_WORDS);
		s->c.cons++;
	}
	ring_release(&s->c);
	return n;
}

/* Sleeps until `want` entries are there, unless they are. Returns what may be read now. */
static inline int side_sleep(struct consuming *s, uint64_t want)
{
	if (s->woken)
		explore_silence((uint32_t)s->bell);
	s->woken = false;
	if (s->wishes == 0 || s->last_wish != s->c.cons + want)
		s->wishes++;
	s->last_wish = s->c.cons + want;
	int n = ring_sleep_prepare(&s->c, (uint32_t)want);
	if (n < 0 || (uint64_t)n >= want)
		return n;
	explore_sleep((uint32_t)s->bell);
	if (!s->late)
		explore_silence((uint32_t)s->bell);
	s->woken = s->late;
	return 0;
}

/* One round: takes what is there, or sleeps. Returns how many entries it took. */
static inline uint64_t side_consume(struct consuming *s)
{
	uint64_t want = s->total - s->got < s->want ? s->total - s->got : s->want;
	int n = ring_refresh(&s->c);

	if (n == 0)
		n = side_sleep(s, want);
	if (n < 0)
		explore_fail("the consumer takes an honest producer for a hostile one");
	return n > 0 ? side_take(s) : 0;
}

/* At the end: every entry once, in order, whole; no wish answered twice. */
static inline const char *side_check(const struct producing *p, const struct consuming *c)
{
	if (c->got != p->total)
		return "an entry is missing";
	for (uint64_t i = 0; i < c->got; i++)
		for (uint64_t w = 0; w < SIDE_WORDS; w++)
			if (c->entry[i][w] != side_word(i, w))
				return "the consumer copied something else than was sent";
	if (p->rung > c->wishes)
		return "the bell rang more often than it was wished for";
	return NULL;
}

#endif
