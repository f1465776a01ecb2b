/* SPDX-License-Identifier: MIT */
/*
 * sleep.c: the round trip while both sides are asleep. Before each sample the client pauses until
 * gpuqd's dispatcher has gone to sleep, and it waits for its completion in poll(), without
 * spinning. The floor here is the same pair of wake-ups bare: an eventfd one way, a pipe back.
 */
#include "bench/bench.h"

#include <stdio.h>

#define SLEEP_TARGET 1.3
#define SLEEP_SAMPLES 4000
#define GAP_NS 1000000u

struct sleeper {
	struct client client;
	const struct daemon *daemon;
	uint64_t asked, sleeps; /* samples, and naps of the dispatcher among them */
};

static int sleeper_run(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	struct sleeper *s = state;
	uint64_t before = daemon_sleeps(s->daemon);
	int r = sample_apart(clock, ret_ns, n, GAP_NS, client_null_event, &s->client);

	s->asked += n;
	s->sleeps += daemon_sleeps(s->daemon) - before;
	return r;
}

static int waiter_run(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	struct sleeper *s = state;

	return sample_apart(clock, ret_ns, n, GAP_NS, client_null_wait, &s->client);
}

static int sleep_table(struct bench *b, struct sleeper *s)
{
	struct contender set[3] = {0};
	int r = ipc_contender(&set[0], IPC_BELLS, GAP_NS);

	set[1] = (struct contender){.name = "gpuq null, poll()", .state = s, .run = sleeper_run};
	set[2] =
		(struct contender){.name = "gpuq null, gpuq_wait()", .state = s, .run = waiter_run};
	for (uint32_t i = 0; i < 3; i++)
		set[i].per_round = per_round_at_most(b, SLEEP_SAMPLES, BENCH_ROUNDS);
	if (r == 0)
		r = contenders_measure(b, set, 3, BENCH_ROUNDS);
	if (r == 0) {
		report_table(b, "sleep: both sides asleep", "P", set, 3);
		printf("the dispatcher slept before %.1f %% of the samples\n",
			100.0 * (double)s->sleeps / (double)s->asked);
		report_check(b, series_ratio(&set[1].series, 0.5), SLEEP_TARGET,
			"sleep: p50 in that of eventfd and pipe");
	}
	contenders_free(set, 3);
	return r;
}

int bench_sleep(struct bench *b)
{
	struct daemon daemon;
	struct sleeper s = {.daemon = &daemon};
	int r = daemon_start(b, &daemon);

	if (r < 0)
		return r;
	r = client_open(&daemon, &s.client);
	if (r == 0) {
		r = sleep_table(b, &s);
		client_close(&s.client);
	}
	daemon_stop(&daemon);
	return r;
}
