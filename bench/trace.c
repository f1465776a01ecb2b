/* SPDX-License-Identifier: MIT */
/*
 * trace.c: what the flight recorder costs. Two gpuqd of which one has it switched off take turns on
 * the same CPUs: null operations one at a time, and as many at once as a channel holds.
 */
#include "bench/bench.h"

#include "client/gpuq.h"

#include <errno.h>

#define BURST 256
#define TARGET 1.02
#define SETTLE_NS 2000000u /* the other dispatcher is asleep by then */

enum { OFF, ON, SIDES };

struct sides {
	struct daemon daemons[SIDES];
	struct client clients[SIDES];
};

static int submit_all(struct client *c)
{
	struct gpuq_submission submissions[BURST] = {{0}};
	uint32_t done = 0;

	while (done < BURST) {
		int r = gpuq_submit(c->channel, &submissions[done], BURST - done);
		if (r < 0)
			return r;
		done += (uint32_t)r;
	}
	return 0;
}

/* A trip: a burst, submitted and seen. */
static int burst(void *client)
{
	struct gpuq_completion completions[BURST];
	struct client *c = client;
	uint32_t seen = 0;
	int r = submit_all(c);

	while (r == 0 && seen < BURST) {
		int n = gpuq_poll(c->channel, completions, BURST - seen);
		if (n < 0)
			return n;
		if (n == 0)
			shm_pause();
		seen += (uint32_t)n;
	}
	return r;
}

static int run_single(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	return sample_back_to_back(clock, ret_ns, n, client_null_poll, state);
}

static int run_burst(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	return sample_back_to_back(clock, ret_ns, n, burst, state);
}

static int measure(struct bench *b, struct sides *s, const char *title, uint64_t samples,
	int (*run)(void *, const struct clock_line *, uint64_t *, uint64_t))
{
	static const char *const names[SIDES] = {"recorder off", "recorder on"};
	struct contender set[SIDES] = {0};

	for (uint32_t i = 0; i < SIDES; i++)
		set[i] = (struct contender){
			.name = names[i],
			.state = &s->clients[i],
			.run = run,
			.per_round = per_round(b, samples, BENCH_ROUNDS),
			.settle_ns = SETTLE_NS,
		};
	int r = contenders_measure(b, set, SIDES, BENCH_ROUNDS);
	if (r == 0) {
		report_table(b, title, "off", set, SIDES);
		report_check(b, series_ratio(&set[ON].series, 0.5), TARGET,
			"%s: p50 with the recorder, in that without", title);
	}
	contenders_free(set, SIDES);
	return r;
}

static int start(struct bench *b, struct sides *s)
{
	int r = 0;

	for (uint32_t i = 0; i < SIDES && r == 0; i++) {
		b->gpuqd_arguments[0] = i == OFF ? "--trace-events=0" : NULL;
		r = daemon_start(b, &s->daemons[i]);
		b->gpuqd_arguments[0] = NULL;
		if (r == 0)
			r = client_open(&s->daemons[i], &s->clients[i]);
	}
	return r;
}

int bench_trace(struct bench *b)
{
	struct sides s = {0};

	if (b->socket != NULL) {
		complain(0, "this compares two gpuqd of its own: leave --socket out");
		return -EINVAL;
	}
	int r = start(b, &s);
	if (r == 0)
		r = measure(b, &s, "trace: null, one at a time", 1000000, run_single);
	if (r == 0)
		r = measure(b, &s, "trace: null, 256 at a time", 200000, run_burst);
	for (uint32_t i = 0; i < SIDES; i++) {
		if (s.clients[i].gpuq != NULL)
			client_close(&s.clients[i]);
		daemon_stop(&s.daemons[i]);
	}
	return r;
}
