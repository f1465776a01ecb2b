/* SPDX-License-Identifier: MIT */
/* segment.c: see segment.h. */
#include "tests/hostile/segment.h"

#include <sched.h>

#define SWEEP_WORDS 512u
#define FLIPS 32u
#define MOST_PAUSES 32u
#define FOCUS_FLIPS 4096u

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

/* A word of which all is wrong, or only a part: a count, a size. */
static uint64_t wrong_word(struct segment_assault *a, uint64_t right)
{
	const uint64_t wrong = work_wrong(&a->rng);
	const uint64_t lane = random_below(&a->rng, 4) * 16;

	if (random_below(&a->rng, 4) == 0)
		return wrong;
	return (right & ~(0xffffull << lane)) | (wrong & 0xffff) << lane;
}

/* Both threads turn to one block for a while, and this one to one word of it. */
static void focus(struct segment_assault *a)
{
	struct work *w = a->work;
	const uint32_t block = (uint32_t)random_below(&a->rng, w->n_blocks);

	/* Counts and sizes come first. */
	a->word = (uint32_t)random_below(
		&a->rng, random_below(&a->rng, 2) == 0 ? 1 : w->bytes[block] / 8);
	a->block = block;
	a->flips = FOCUS_FLIPS;
	shm_store_relaxed(&w->focus, 1 + (uint64_t)block);
}

/* One word of a block is wrong for a moment, again and again; now and then one of an entry. */
static void flip_arguments(struct segment_assault *a)
{
	struct work *w = a->work;

	if (a->flips == 0)
		focus(a);
	const uint64_t right = w->right[a->block][a->word];
	uint64_t *word =
		(void *)(w->client->arena + a->block * WORK_BLOCK_BYTES + a->word * sizeof(*word));
	for (uint32_t i = 0; i < FLIPS && a->flips > 0; i++, a->flips--) {
		shm_store_relaxed(word, wrong_word(a, right));
		for (uint64_t n = random_below(&a->rng, MOST_PAUSES); n > 0; n--)
			shm_pause();
		shm_store_relaxed(word, right);
		for (uint64_t n = random_below(&a->rng, MOST_PAUSES); n > 0; n--)
			shm_pause();
		a->deeds += 2;
	}
	if (random_below(&a->rng, 64) != 0)
		return;
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

	/* Once at least, however late this thread has begun. */
	do {
		segment_spoil(a);
		/* Entries are to be right at times, and the other thread is to get on. */
		if (random_below(&a->rng, 8) == 0)
			sched_yield();
	} while (shm_load_relaxed(&a->stop) == 0);
	return NULL;
}
