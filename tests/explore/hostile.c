/* SPDX-License-Identifier: MIT */
/*
 * hostile.c: one honest side alone with a peer that puts any value into any word at any time:
 * each load returns each of the values below, a different one each time. The honest side either
 * refuses or stays within the ring, and decides on one fetch of each word.
 */
#include "scenarios.h"
#include RING_H

#include <stdio.h>

#define MAX_ENTRIES 4

static struct {
	struct wire_ring ring;
	uint64_t slots[MAX_ENTRIES];
} shared;

static void check_that(bool holds, const char *else_what)
{
	if (!holds)
		explore_fail(else_what);
}

struct reader {
	struct ring_consumer c;
	uint64_t rounds;
	uint64_t sleeps; /* ask for a wake-up in every round */
	uint64_t copied;
};

/* gpuqd reading submissions, or a client reading completions. */
static bool reader_round(void *local)
{
	struct reader *s = local;
	struct ring_consumer before = s->c;
	int n = s->sleeps ? ring_sleep_prepare(&s->c, 1) : ring_refresh(&s->c);

	check_that(explore_fetches(&shared.ring.prod) == 1, "prod was not fetched exactly once");
	check_that(explore_fetches(&shared.ring.cons) == 0, "reads what it wrote: cons");
	check_that(explore_fetches(&shared.ring.wake_at) == 0, "reads what it wrote: wake_at");
	if (n == -GPUQ_EPOISONED) {
		check_that(s->c.prod == before.prod && s->c.cons == before.cons,
			"refused, yet the private state changed");
		return false;
	}
	check_that(n >= 0 && (uint32_t)n <= s->c.entries, "accepts an impossible index");
	check_that(s->c.prod - s->c.cons == (uint64_t)n, "says another number than it will read");
	for (uint32_t i = 0; s->c.cons != s->c.prod; i++) {
		check_that(i < (uint32_t)n, "reads more than it said");
		check_that(ring_slot(s->c.cons, s->c.entries) < s->c.entries, "slot out of bounds");
		shm_copy_in(&s->copied, &shared.slots[ring_slot(s->c.cons, s->c.entries)], 1);
		s->c.cons++;
	}
	ring_release(&s->c);
	return --s->rounds > 0;
}

struct writer {
	struct ring_producer p;
	uint64_t rounds;
	uint64_t want;
};

/* gpuqd posting completions, or a client submitting. */
static bool writer_round(void *local)
{
	struct writer *s = local;
	struct ring_producer before = s->p;
	const uint64_t entry = 1;
	uint64_t room = s->p.entries - (s->p.prod - s->p.cons);
	int space = ring_space(&s->p, (uint32_t)s->want);

	check_that(explore_fetches(&shared.ring.cons) == (room < s->want),
		"cons was not fetched exactly once, or without need");
	if (space == -GPUQ_EPOISONED) {
		check_that(s->p.cons == before.cons, "refused, yet the private state changed");
		return false;
	}
	check_that(space >= 0 && (uint32_t)space <= s->p.entries, "accepts an impossible index");
	check_that(s->p.entries - (s->p.prod - s->p.cons) == (uint64_t)space,
		"says another number than it will use");
	for (int i = 0; i < space; i++) {
		check_that(ring_slot(s->p.prod, s->p.entries) < s->p.entries, "slot out of bounds");
		shm_copy_out(&shared.slots[ring_slot(s->p.prod, s->p.entries)], &entry, 1);
		s->p.prod++;
	}
	ring_publish(&s->p);
	ring_wake_wanted(&s->p);
	check_that(explore_fetches(&shared.ring.wake_at) == 1, "wake_at was not fetched once");
	check_that(s->p.published == s->p.prod, "the next wake-up is decided for old entries");
	check_that(explore_fetches(&shared.ring.prod) == 0, "reads what it wrote: prod");
	return --s->rounds > 0;
}

static const char *nothing_more(void *const local[])
{
	(void)local;
	return NULL;
}

static struct explore_program with_peer(const char *name, uint32_t entries, uint64_t start)
{
	static const char *const names[] = {"slot0", "slot1", "slot2", "slot3"};
	static char full_name[64];
	struct explore_program program = {.name = full_name, .check = nothing_more};
	struct explore_program *p = &program;

	snprintf(full_name, sizeof(full_name), "%s, ring of %u%s", name, entries,
		start == 0 ? "" : ", wrapping");
	explore_add_word(p, &shared.ring.prod, start, true, "prod");
	explore_add_word(p, &shared.ring.cons, start, true, "cons");
	explore_add_word(p, &shared.ring.wake_at, start, true, "wake_at");
	for (uint32_t i = 0; i < entries; i++)
		explore_add_word(p, &shared.slots[i], 0, false, names[i]);
	/* Whatever the private index has become: around it, at the bound, one beyond. */
	for (uint64_t i = 0; i <= 4 * entries + 2; i++)
		explore_add_value(p, start + i - entries - 1);
	explore_add_value(p, 0);
	explore_add_value(p, UINT64_MAX);
	explore_add_value(p, 1ull << 63);
	explore_add_value(p, start + (1ull << 63));
	/* Right in the lower half, where an index cut to 32 bits would believe it. */
	for (uint64_t i = 0; i <= entries; i += entries)
		explore_add_value(p, start + i + (1ull << 32));
	return program;
}

static struct explore_program reads(const char *name, uint32_t entries, uint64_t start, bool sleeps)
{
	struct explore_program p = with_peer(name, entries, start);
	struct reader s = {{&shared.ring, start, start, entries}, 3, sleeps, 0};

	explore_add_thread(&p, "reader", reader_round, &s, sizeof(s));
	return p;
}

static struct explore_program writes(
	const char *name, uint32_t entries, uint64_t start, uint64_t want)
{
	struct explore_program p = with_peer(name, entries, start);
	struct writer s = {{&shared.ring, start, start, start, entries}, 3, want};

	explore_add_thread(&p, "writer", writer_round, &s, sizeof(s));
	return p;
}

bool scenario_hostile(uint32_t i, struct explore_program *ret_program)
{
	const uint32_t entries = i & 1 ? 4 : 2;
	const uint64_t start = i & 2 ? UINT64_MAX - 2 : 0;

	switch (i / 4) {
	case 0:
		*ret_program = reads("hostile producer", entries, start, false);
		return true;
	case 1:
		*ret_program = reads("hostile producer, going to sleep", entries, start, true);
		return true;
	case 2:
		*ret_program = writes("hostile consumer", entries, start, 1);
		return true;
	case 3:
		*ret_program = writes("hostile consumer, whole ring", entries, start, entries);
		return true;
	default:
		return false;
	}
}
