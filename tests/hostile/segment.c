/* SPDX-License-Identifier: MIT */
/* segment.c: see segment.h. */
#include "tests/hostile/segment.h"

#include <sched.h>

#define SWEEP_WORDS 512u
#define FLIPS 32u
#define MOST_PAUSES 64u

static bool is_control_word(uint64_t at)
{
	return at >= WIRE_SQ_RING && at < WIRE_NOTICE;
}

/*
 * What dispatch reads of a channel it must read atomically, which ThreadSanitizer shall see;
 * payloads are exempt.
 */
static void write_word(const struct wire_client *c, uint64_t at, uint64_t value)
{
	char *to = (char *)c->base + at;

	if (to >= c->arena + WORK_DATA)
		work_scribble(to, value);
	else
		shm_store_relaxed((uint64_t *)(void *)to, value);
}

/* Consecutive words from anywhere, so that in the end every byte has had its turn. */
static void sweep(struct segment_assault *a)
{
	const struct wire_client *c = a->work->client;
	uint64_t at = random_below(&a->rng, c->bytes / 8) * 8;

	/* The rings and the entries are few among the payloads. */
	if (random_below(&a->rng, 2) == 0)
		at = random_below(&a->rng, (uint64_t)(c->arena - (char *)c->base) / 8) * 8;
	for (uint32_t i = 0; i < SWEEP_WORDS && at < c->bytes; i++, at += 8) {
		if (a->attack == SEGMENT_ENTRIES && is_control_word(at))
			continue;
		write_word(c, at, work_wrong(&a->rng));
		a->deeds++;
	}
}

/* One word of a block is wrong for a moment, now and then one of an entry for good. */
static void flip_arguments(struct segment_assault *a)
{
	struct work *w = a->work;

	for (uint32_t i = 0; i < FLIPS; i++) {
		const uint32_t block = (uint32_t)random_below(&a->rng, w->n_blocks);
		const uint32_t words = w->bytes[block] / 8;
		/* Counts and sizes come first. */
		const uint64_t k = random_below(&a->rng, random_below(&a->rng, 2) == 0 ? 2 : words);
		uint64_t *word =
			(void *)(w->client->arena + block * WORK_BLOCK_BYTES + k * sizeof(*word));
		const uint32_t other = (uint32_t)random_below(&a->rng, w->n_blocks);
		const bool wrong = random_below(&a->rng, 2) == 0;

		shm_store_relaxed(word, wrong ? work_wrong(&a->rng) : w->right[other][k]);
		for (uint64_t n = random_below(&a->rng, MOST_PAUSES); n > 0; n--)
			shm_pause();
		shm_store_relaxed(word, w->right[block][k]);
		a->deeds += 2;
	}
	uint64_t *entries = (void *)w->client->sqes;
	const uint64_t all = w->client->sq.entries * sizeof(struct wire_sqe) / 8;
	shm_store_relaxed(&entries[random_below(&a->rng, all)], work_wrong(&a->rng));
	a->deeds++;
}

static void spoil_payloads(struct segment_assault *a)
{
	struct work *w = a->work;

	for (uint32_t i = 0; i < FLIPS; i++) {
		const struct work_range *r = &w->indices[random_below(&a->rng, w->n_indices)];
		const uint64_t at = random_below(&a->rng, r->words);
		/* Mostly small, so that most of a call is done. */
		const uint64_t value = random_below(&a->rng, 4) == 0 ? work_wrong(&a->rng)
								     : random_below(&a->rng, 8);

		work_scribble_u32(w->client->arena + r->offset + 4 * at, (uint32_t)value);
		a->deeds++;
	}
}

/* Any of the six words, near where it should be or far away. */
static void jump(struct segment_assault *a)
{
	const struct wire_client *c = a->work->client;
	struct wire_ring *ring = random_below(&a->rng, 2) == 0 ? c->sq.ring : c->cq.ring;
	uint64_t *const words[] = {&ring->prod, &ring->cons, &ring->wake_at};
	uint64_t *word = words[random_below(&a->rng, 3)];
	const uint64_t near = shm_load_relaxed(word) + random_below(&a->rng, 2ull * c->sq.entries) -
		c->sq.entries;

	shm_store_relaxed(word, random_below(&a->rng, 16) == 0 ? work_wrong(&a->rng) : near);
	a->deeds++;
}

void segment_spoil(struct segment_assault *a)
{
	switch (a->attack) {
	case SEGMENT_ANYWHERE:
	case SEGMENT_ENTRIES:
		sweep(a);
		break;
	case SEGMENT_ARGUMENTS:
		flip_arguments(a);
		break;
	case SEGMENT_PAYLOADS:
		spoil_payloads(a);
		break;
	case SEGMENT_INDICES:
		jump(a);
		break;
	}
}

void *segment_spoil_main(void *assault)
{
	struct segment_assault *a = assault;

	while (shm_load_relaxed(&a->stop) == 0) {
		segment_spoil(a);
		/* Entries are to be right at times, and the other thread is to get on. */
		if (random_below(&a->rng, 8) == 0)
			sched_yield();
	}
	return NULL;
}
