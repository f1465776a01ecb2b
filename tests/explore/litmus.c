/* SPDX-License-Identifier: MIT */
/*
 * litmus.c: checks the explorer's memory model. The classic small programs, each with an outcome
 * that the model must be able to produce (or it would miss faults) or must not (or it would
 * report faults that no machine has). Registers start at 0, words x and y too.
 */
#include "shm/atomics.h"

#include <stdio.h>
#include <string.h>

enum { X, Y, WORDS };
static uint64_t shared[WORDS];

/* Stores put 1; loads go to the thread's next register. */
enum what { END, STORE, RELEASE, LOAD, ACQUIRE, COPY, FENCE };

struct line {
	enum what what;
	uint32_t word;
};

struct litmus {
	const char *name;
	bool possible;
	struct line threads[EXPLORE_THREADS][4];
	uint64_t registers[EXPLORE_THREADS][2];
};

/* clang-format off */
static const struct litmus all[] = {
	{"store buffering", true,
		{{{STORE, X}, {LOAD, Y}}, {{STORE, Y}, {LOAD, X}}}, {{0}, {0}}},
	{"store buffering, release and acquire", true,
		{{{RELEASE, X}, {ACQUIRE, Y}}, {{RELEASE, Y}, {ACQUIRE, X}}}, {{0}, {0}}},
	{"store buffering, one fence", true,
		{{{STORE, X}, {FENCE}, {LOAD, Y}}, {{STORE, Y}, {LOAD, X}}}, {{0}, {0}}},
	{"store buffering, fences", false,
		{{{STORE, X}, {FENCE}, {LOAD, Y}}, {{STORE, Y}, {FENCE}, {LOAD, X}}}, {{0}, {0}}},
	{"message passing", true,
		{{{STORE, X}, {STORE, Y}}, {{LOAD, Y}, {LOAD, X}}}, {{0}, {1, 0}}},
	{"message passing, release only", true,
		{{{STORE, X}, {RELEASE, Y}}, {{LOAD, Y}, {LOAD, X}}}, {{0}, {1, 0}}},
	{"message passing, acquire only", true,
		{{{STORE, X}, {STORE, Y}}, {{ACQUIRE, Y}, {LOAD, X}}}, {{0}, {1, 0}}},
	{"message passing, release and acquire", false,
		{{{STORE, X}, {RELEASE, Y}}, {{ACQUIRE, Y}, {LOAD, X}}}, {{0}, {1, 0}}},
	{"message passing, fences", false,
		{{{STORE, X}, {FENCE}, {STORE, Y}}, {{LOAD, Y}, {FENCE}, {LOAD, X}}},
		{{0}, {1, 0}}},
	{"message passing, copied, release only", true,
		{{{STORE, X}, {RELEASE, Y}}, {{LOAD, Y}, {COPY, X}}}, {{0}, {1, 0}}},
	{"message passing, copied, release and acquire", false,
		{{{STORE, X}, {RELEASE, Y}}, {{ACQUIRE, Y}, {COPY, X}}}, {{0}, {1, 0}}},
	{"a release overtaken by a later store", true,
		{{{RELEASE, X}, {STORE, Y}}, {{ACQUIRE, Y}, {ACQUIRE, X}}}, {{0}, {1, 0}}},
	{"load buffering", true,
		{{{LOAD, X}, {STORE, Y}}, {{LOAD, Y}, {STORE, X}}}, {{1}, {1}}},
	{"load buffering, one acquire", true,
		{{{ACQUIRE, X}, {STORE, Y}}, {{LOAD, Y}, {STORE, X}}}, {{1}, {1}}},
	{"load buffering, acquires", false,
		{{{ACQUIRE, X}, {STORE, Y}}, {{ACQUIRE, Y}, {STORE, X}}}, {{1}, {1}}},
	{"load buffering, releases", false,
		{{{LOAD, X}, {RELEASE, Y}}, {{LOAD, Y}, {RELEASE, X}}}, {{1}, {1}}},
	{"load buffering, copied", true,
		{{{COPY, X}, {STORE, Y}}, {{ACQUIRE, Y}, {STORE, X}}}, {{1}, {1}}},
	{"load buffering, copied, release", false,
		{{{COPY, X}, {RELEASE, Y}}, {{ACQUIRE, Y}, {STORE, X}}}, {{1}, {1}}},
	{"one word read backwards", false,
		{{{STORE, X}}, {{LOAD, X}, {LOAD, X}}}, {{0}, {1, 0}}},
	{"one word copied backwards", false,
		{{{STORE, X}}, {{COPY, X}, {COPY, X}}}, {{0}, {1, 0}}},
	{"an own store unseen", false,
		{{{STORE, X}, {LOAD, X}}}, {{0}}},
	{"a value from nowhere", false,
		{{{STORE, X}}, {{LOAD, Y}}}, {{0}, {1}}},
	{"writes seen by way of another thread", true,
		{{{STORE, X}}, {{ACQUIRE, X}, {STORE, Y}}, {{LOAD, Y}, {LOAD, X}}},
		{{0}, {1}, {1, 0}}},
	{"writes seen by way of another thread, release and acquire", false,
		{{{STORE, X}}, {{ACQUIRE, X}, {RELEASE, Y}}, {{ACQUIRE, Y}, {LOAD, X}}},
		{{0}, {1}, {1, 0}}},
};
/* clang-format on */

struct local {
	const struct line *lines;
	uint64_t registers[2];
};

static const struct litmus *running;
static bool reached;

static bool litmus_round(void *at)
{
	struct local *s = at;
	uint64_t *next = s->registers;

	for (const struct line *l = s->lines; l < s->lines + 4; l++) {
		switch (l->what) {
		case STORE:
			shm_store_relaxed(&shared[l->word], 1);
			break;
		case RELEASE:
			shm_store_release(&shared[l->word], 1);
			break;
		case LOAD:
			*next++ = shm_load_relaxed(&shared[l->word]);
			break;
		case ACQUIRE:
			*next++ = shm_load_acquire(&shared[l->word]);
			break;
		case COPY:
			shm_copy_in(next++, &shared[l->word], 1);
			break;
		case FENCE:
			shm_fence();
			break;
		case END:
			break;
		}
	}
	return false;
}

static const char *compare(void *const local[])
{
	bool same = true;

	for (uint32_t i = 0; i < EXPLORE_THREADS; i++) {
		const struct local *s = local[i];
		same = same &&
			memcmp(s->registers, running->registers[i], sizeof(s->registers)) == 0;
	}
	reached |= same;
	return NULL;
}

static bool run(const struct litmus *l)
{
	struct explore_program p = {.name = l->name, .check = compare};

	running = l;
	reached = false;
	for (uint32_t i = 0; i < WORDS; i++)
		explore_add_word(&p, &shared[i], 0, false, i == X ? "x" : "y");
	explore_add_value(&p, 0);
	explore_add_value(&p, 1);
	for (uint32_t i = 0; i < EXPLORE_THREADS; i++) {
		struct local s = {.lines = l->threads[i]};
		explore_add_thread(&p, "thread", litmus_round, &s, sizeof(s));
	}
	struct explore_result r = explore_run(&p);
	bool ok = r.violated == NULL && reached == l->possible;
	printf("%-6s %-60s %s\n", ok ? "ok" : "WRONG", l->name, reached ? "reached" : "never");
	return ok;
}

int main(void)
{
	bool ok = true;

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		ok = run(&all[i]) && ok;
	return !ok;
}
