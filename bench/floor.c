/* SPDX-License-Identifier: MIT */
/*
 * floor.c: the floor F that everything else is compared with: one cache line that two processes
 * write in turn, each watching it in a plain loop. It comes in two forms. With a pause between
 * two looks the watcher disturbs the line less, and where the cache protocol hands a line that
 * both sides write over in one step (recent AMD), that bounce is much faster than any exchange
 * whose words have one writer each, as a ring's must. F is the plain form; both are printed.
 */
#include "bench/bench.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

/* The line itself lies in memory that both processes share. */
struct floor_line {
	uint64_t turn; /* odd: the other side's turn */
};

static int floor_serve(void *state, uint64_t n)
{
	struct floor_line *line = state;

	for (uint64_t i = 0; i < n; i++) {
		uint64_t turn;

		while (((turn = shm_load_acquire(&line->turn)) & 1) == 0)
			;
		shm_store_release(&line->turn, turn + 1);
	}
	return 0;
}

static int floor_serve_pausing(void *state, uint64_t n)
{
	struct floor_line *line = state;

	for (uint64_t i = 0; i < n; i++) {
		uint64_t turn;

		while (((turn = shm_load_acquire(&line->turn)) & 1) == 0)
			shm_pause();
		shm_store_release(&line->turn, turn + 1);
	}
	return 0;
}

static int floor_trip(void *state)
{
	struct floor_line *line = state;
	uint64_t turn = shm_load_relaxed(&line->turn) + 1;

	shm_store_release(&line->turn, turn);
	while (shm_load_acquire(&line->turn) == turn)
		;
	return 0;
}

static int floor_trip_pausing(void *state)
{
	struct floor_line *line = state;
	uint64_t turn = shm_load_relaxed(&line->turn) + 1;

	shm_store_release(&line->turn, turn);
	while (shm_load_acquire(&line->turn) == turn)
		shm_pause();
	return 0;
}

static int floor_run(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	return sample_back_to_back(clock, ret_ns, n, floor_trip, state);
}

static int floor_run_pausing(
	void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	return sample_back_to_back(clock, ret_ns, n, floor_trip_pausing, state);
}

static void floor_close(void *state)
{
	munmap(state, WIRE_PAGE_SIZE);
}

int floor_contender(struct contender *c, bool pauses)
{
	void *line = mmap(
		NULL, WIRE_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (line == MAP_FAILED)
		return -errno;
	c->name = pauses ? "floor, pausing" : "floor";
	c->state = line;
	c->serve = pauses ? floor_serve_pausing : floor_serve;
	c->run = pauses ? floor_run_pausing : floor_run;
	c->close = floor_close;
	return 0;
}

int bench_floor(struct bench *b)
{
	struct contender set[2] = {0};
	int r = 0;

	for (uint32_t i = 0; i < 2 && r == 0; i++) {
		r = floor_contender(&set[i], i == 1);
		set[i].per_round = per_round(b, 1000000, BENCH_ROUNDS);
	}
	if (r == 0)
		r = contenders_measure(b, set, 2, BENCH_ROUNDS);
	if (r == 0)
		report_table(b, "floor: one cache line bounced", "F", set, 2);
	contenders_free(set, 2);
	return r;
}
