/* SPDX-License-Identifier: MIT */
/*
 * null.c: the null operation through gpuqd: submitted, taken, validated and completed by the
 * dispatcher, seen by the client. Beside it what the kernel and ZeroMQ take for as much.
 *
 * Then the same with 1,000 idle channels connected. The two cases use one gpuqd, not two, so that
 * they share its memory and its place in the caches: a crowd connects before each round of the
 * one case and has gone before each round of the other.
 */
#include "bench/bench.h"

#include <errno.h>
#include <string.h>

#define P50_TARGET 2.0
#define P99_TARGET 5.0
#define IDLE_TARGET 1.2
#define ZMQ_TARGET 100.0

#define SETTLE_NS 2000000u /* the dispatcher of a private gpuqd is asleep by then */
#define IDLE_CHANNELS 1000
#define IDLE_ROUNDS 10
#define IDLE_SETTLE_NS 200000000u /* the crowd's channels have been added or reclaimed by then */
#define BLOCKING_SAMPLES 50000	  /* of exchanges through the kernel */

/* Rows of the table. */
enum { FLOOR, FLOOR_PAUSING, WAIT, POLL, IPC, ZMQ = IPC + IPC_KINDS, ROWS };

static int null_run_wait(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	return sample_back_to_back(clock, ret_ns, n, client_null_wait, state);
}

static int null_run_poll(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	return sample_back_to_back(clock, ret_ns, n, client_null_poll, state);
}

static void null_contender(struct contender *c, struct client *client, bool polls)
{
	*c = (struct contender){.name = polls ? "gpuq null, gpuq_poll()" : "gpuq null, gpuq_wait()",
		.state = client,
		.run = polls ? null_run_poll : null_run_wait,
		.settle_ns = SETTLE_NS};
}

/* --- Beside the kernel's ways ---------------------------------------------------------------- */

/* Fills the table; without ZeroMQ it has one row less. */
static int null_rows(
	const struct bench *b, struct client *client, struct contender *set, uint32_t *ret_n)
{
	int r = floor_contender(&set[FLOOR], false);

	if (r == 0)
		r = floor_contender(&set[FLOOR_PAUSING], true);
	null_contender(&set[WAIT], client, false);
	null_contender(&set[POLL], client, true);
	for (uint32_t i = 0; i < IPC_KINDS && r == 0; i++)
		r = ipc_contender(&set[IPC + i], (enum ipc_kind)i, 0);
	if (r < 0)
		return r;
	*ret_n = zmq_contender(&set[ZMQ]) == 0 ? ROWS : ROWS - 1;
	for (uint32_t i = 0; i < *ret_n; i++)
		set[i].per_round = i < IPC ? per_round(b, 1000000, BENCH_ROUNDS)
					   : per_round_at_most(b, BLOCKING_SAMPLES, BENCH_ROUNDS);
	return 0;
}

static void null_checks(struct bench *b, const struct contender *set, uint32_t n)
{
	const struct series *wait = &set[WAIT].series;

	report_check(b, series_ratio(wait, 0.5), P50_TARGET, "null: p50 in F");
	report_check(b, series_ratio(wait, 0.99), P99_TARGET, "null: p99 in F");
	if (n == ROWS)
		report_check_at_least(b,
			series_ratio(&set[ZMQ].series, 0.5) / series_ratio(wait, 0.5), ZMQ_TARGET,
			"null: ZeroMQ's p50 in ours");
	else
		complain(0, "no ZeroMQ on this machine (libzmq5): that row is left out");
}

static int null_table(struct bench *b, struct client *client)
{
	struct contender set[ROWS] = {0};
	uint32_t n = 0;
	int r = null_rows(b, client, set, &n);

	if (r == 0)
		r = contenders_measure(b, set, n, BENCH_ROUNDS);
	if (r == 0) {
		report_table(b, "null: submit, complete, see", "F", set, n);
		null_checks(b, set, n);
	}
	contenders_free(set, ROWS);
	return r;
}

/* --- With idle channels ---------------------------------------------------------------------- */

struct crowded {
	struct client *client;
	struct crowd crowd;
};

static int crowded_run(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	struct crowded *c = state;
	int r = crowd_open(&c->crowd, IDLE_CHANNELS, false);

	sleep_ns(IDLE_SETTLE_NS);
	if (r == 0)
		r = null_run_wait(c->client, clock, ret_ns, n);
	int closed = crowd_open(&c->crowd, 0, false);

	sleep_ns(IDLE_SETTLE_NS);
	return r < 0 ? r : closed;
}

static int null_idle_table(struct bench *b, const struct daemon *d, struct client *client)
{
	struct crowded crowded = {.client = client};
	struct contender set[2] = {0};
	int r = crowd_start(d, &crowded.crowd);

	null_contender(&set[0], client, false);
	set[0].name = "gpuq null, alone";
	set[1] = (struct contender){
		.name = "gpuq null, 1,000 idle", .state = &crowded, .run = crowded_run};
	for (uint32_t i = 0; i < 2; i++)
		set[i].per_round = per_round(b, 1000000, IDLE_ROUNDS);
	if (r == 0)
		r = contenders_measure(b, set, 2, IDLE_ROUNDS);
	if (r == 0) {
		report_table(b, "null: with 1,000 idle channels", "N", set, 2);
		report_check(b, series_ratio(&set[1].series, 0.5), IDLE_TARGET,
			"null: p50 with 1,000 idle channels, in that of none");
	}
	contenders_free(set, 2);
	crowd_stop(&crowded.crowd);
	return r;
}

int bench_null(struct bench *b)
{
	struct daemon daemon;
	struct client client;
	int r = daemon_start(b, &daemon);

	if (r < 0)
		return r;
	r = client_open(&daemon, &client);
	if (r == 0) {
		r = null_table(b, &client);
		if (r == 0)
			r = null_idle_table(b, &daemon, &client);
		client_close(&client);
	}
	daemon_stop(&daemon);
	return r;
}
