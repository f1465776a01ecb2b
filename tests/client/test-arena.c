/* SPDX-License-Identifier: MIT */
/* test-arena.c: the arena's allocator against a model that looks at every unit. */
#include "client/arena.h"
#include "tests/harness.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define UNITS 300u
#define PIECES 400u
#define ROUNDS 100000u

/* What is allocated, unit by unit: 0 free, else 1 + the piece's number. */
static uint16_t owner[UNITS];
static struct piece {
	uint64_t offset;
	uint32_t units; /* 0: not allocated */
} pieces[PIECES];

static uint64_t random_state = 0x853c49e6748fea9bull;

static uint32_t random_below(uint32_t n)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)(random_state >> 33) % n;
}

/* The longest run of free units. */
static uint32_t model_largest(void)
{
	uint32_t largest = 0, run = 0;

	for (uint32_t i = 0; i < UNITS; i++) {
		run = owner[i] == 0 ? run + 1 : 0;
		largest = run > largest ? run : largest;
	}
	return largest;
}

static void model_set(const struct piece *p, uint16_t from, uint16_t to)
{
	uint64_t at = p->offset / ARENA_ALIGN;

	assert_int_equal(p->offset % ARENA_ALIGN, 0);
	assert_true(at + p->units <= UNITS);
	for (uint32_t i = 0; i < p->units; i++) {
		if (owner[at + i] != from)
			fail_msg("unit %u belongs to %u", (unsigned)(at + i), owner[at + i]);
		owner[at + i] = to;
	}
}

/* Mostly small pieces, now and then a large one. */
static void try_alloc(struct arena *arena, uint32_t k)
{
	uint64_t bytes = random_below(random_below(8) == 0 ? UNITS * ARENA_ALIGN : 600);
	uint32_t units = bytes == 0 ? 1 : (uint32_t)((bytes + ARENA_ALIGN - 1) / ARENA_ALIGN);
	uint64_t offset = 12345;
	int r = arena_alloc(arena, bytes, &offset);

	if (units > model_largest()) {
		assert_int_equal(r, -ENOSPC);
		assert_int_equal(offset, 12345);
		return;
	}
	assert_int_equal(r, 0);
	pieces[k] = (struct piece){offset, units};
	model_set(&pieces[k], 0, (uint16_t)(k + 1));
}

static void try_free(struct arena *arena, uint32_t k)
{
	assert_int_equal(arena_free(arena, pieces[k].offset), 0);
	assert_int_equal(arena_free(arena, pieces[k].offset), -EINVAL);
	model_set(&pieces[k], (uint16_t)(k + 1), 0);
	pieces[k].units = 0;
}

static void test_agrees_with_the_model(void **state)
{
	struct arena *arena;

	assert_int_equal(arena_create(UNITS * ARENA_ALIGN, &arena), 0);
	for (uint32_t i = 0; i < ROUNDS; i++) {
		uint32_t k = random_below(PIECES);
		if (pieces[k].units != 0)
			try_free(arena, k);
		else
			try_alloc(arena, k);
		assert_int_equal(arena_largest(arena), model_largest() * ARENA_ALIGN);
	}
	for (uint32_t k = 0; k < PIECES; k++)
		if (pieces[k].units != 0)
			try_free(arena, k);
	assert_int_equal(arena_largest(arena), arena_capacity(arena));
	arena_destroy(arena);
}

static void test_refuses_what_it_did_not_hand_out(void **state)
{
	struct arena *arena;
	uint64_t a, b;

	assert_int_equal(arena_create(UNITS * ARENA_ALIGN + 63, &arena), 0);
	assert_int_equal(arena_capacity(arena), UNITS * ARENA_ALIGN);
	assert_int_equal(arena_alloc(arena, 1000, &a), 0);
	assert_int_equal(arena_alloc(arena, 0, &b), 0);
	assert_int_not_equal(a, b);
	assert_int_equal(arena_free(arena, a + 1), -EINVAL);
	assert_int_equal(arena_free(arena, a + ARENA_ALIGN), -EINVAL);
	assert_int_equal(arena_free(arena, b + ARENA_ALIGN), -EINVAL);
	assert_int_equal(arena_free(arena, UNITS * ARENA_ALIGN), -EINVAL);
	assert_int_equal(arena_free(arena, UINT64_MAX - 63), -EINVAL);
	assert_int_equal(arena_alloc(arena, UINT64_MAX, &a), -ENOSPC);
	assert_int_equal(arena_alloc(arena, UINT64_MAX - 63, &a), -ENOSPC);
	assert_int_equal(arena_free(arena, a), 0);
	assert_int_equal(arena_free(arena, b), 0);
	assert_int_equal(arena_largest(arena), arena_capacity(arena));
	arena_destroy(arena);
	arena_destroy(NULL);
}

static void test_takes_the_best_fit(void **state)
{
	static const uint32_t units[6] = {4, 1, 2, 1, 3, 1};
	struct arena *arena;
	uint64_t at[6], small;

	/* Holes of 4, 2 and 3 units, between pieces that stay, and a large rest. */
	assert_int_equal(arena_create(UNITS * ARENA_ALIGN, &arena), 0);
	for (int i = 0; i < 6; i++)
		assert_int_equal(arena_alloc(arena, units[i] * ARENA_ALIGN, &at[i]), 0);
	for (int i = 0; i < 6; i += 2)
		assert_int_equal(arena_free(arena, at[i]), 0);
	assert_int_equal(arena_alloc(arena, 2 * ARENA_ALIGN, &small), 0);
	assert_int_equal(small, at[2]);
	assert_int_equal(arena_alloc(arena, 3 * ARENA_ALIGN - 1, &small), 0);
	assert_int_equal(small, at[4]);
	assert_int_equal(arena_alloc(arena, 1, &small), 0);
	assert_int_equal(small, at[0]);
	arena_destroy(arena);
}

/* A whole arena in one piece, and one too small for any. */
static void test_extremes(void **state)
{
	struct arena *arena;
	uint64_t offset;

	assert_int_equal(arena_create(UNITS * ARENA_ALIGN, &arena), 0);
	assert_int_equal(arena_alloc(arena, UNITS * ARENA_ALIGN, &offset), 0);
	assert_int_equal(offset, 0);
	assert_int_equal(arena_largest(arena), 0);
	assert_int_equal(arena_alloc(arena, 0, &offset), -ENOSPC);
	assert_int_equal(arena_free(arena, 0), 0);
	arena_destroy(arena);

	assert_int_equal(arena_create(ARENA_ALIGN - 1, &arena), 0);
	assert_int_equal(arena_alloc(arena, 1, &offset), -ENOSPC);
	assert_int_equal(arena_free(arena, 0), -EINVAL);
	arena_destroy(arena);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_agrees_with_the_model),
		HARNESS_TEST(test_refuses_what_it_did_not_hand_out),
		HARNESS_TEST(test_takes_the_best_fit),
		HARNESS_TEST(test_extremes),
	};

	return harness_run("client-arena", tests, sizeof(tests) / sizeof(tests[0]));
}
