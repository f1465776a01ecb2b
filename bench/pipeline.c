/* SPDX-License-Identifier: MIT */
/*
 * pipeline.c: null operations as fast as they go, 256 in flight for each client. One client has
 * the first CPU and the dispatcher the second; several clients and the dispatcher share all CPUs
 * as the kernel sees fit. (Held to two of many they would starve each other: they count all CPUs to
 * know whether to spin, and spin where others should run.) Each client counts in a word of its own,
 * which this process reads at both ends of each second. Between the seconds of the one client, bare
 * rings do the same between the same CPUs, without gpuqd: what the machine can move just then.
 */
#include "bench/bench.h"

#include "client/gpuq.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define DEPTH 256
#define RATE_TARGET 50e6
#define SUM_TARGET 0.6
#define SHARE_TARGET 0.5
#define SECONDS 5
#define WARM_NS 200000000u
#define BARE_NS 300000000u
#define CLOSED_NS 1000000u
#define WINDOW_NS 1000000000u
#define MAX_CLIENTS 16
#define MAX_WINDOWS 3600

/* One client's words, on lines of their own. */
struct tally {
	uint64_t done;	 /* completions seen */
	uint64_t failed; /* the error that ended it */
	uint8_t pad[WIRE_LINE - 16];
};

/* What clients and this process share. */
struct board {
	uint64_t open; /* clients work while it is 1 */
	uint8_t pad[WIRE_LINE - 8];
	struct tally tallies[MAX_CLIENTS];
};

struct point {
	uint32_t clients, windows;
	double rate;	    /* of all clients together, per second */
	double bare_rate;   /* of bare rings; 0: not measured */
	double worst_share; /* least of a client in a window, in fair shares of that window */
	uint32_t worst_window, worst_client;
	struct board *board;
	pid_t pids[MAX_CLIENTS];
	uint64_t done[MAX_WINDOWS][MAX_CLIENTS];
	uint64_t window_ns[MAX_WINDOWS];
};

/* --- A client -------------------------------------------------------------------------------- */

static int pump_once(struct client *c, uint64_t *expected, struct tally *tally)
{
	struct gpuq_submission submissions[DEPTH];
	struct gpuq_completion done[DEPTH];
	uint32_t room = DEPTH - gpuq_in_flight(c->channel);

	for (uint32_t i = 0; i < room; i++)
		submissions[i] = (struct gpuq_submission){.user_data = c->next + i};
	int r = room > 0 ? gpuq_submit(c->channel, submissions, room) : 0;
	if (r < 0 && r != -EAGAIN)
		return r;
	c->next += r > 0 ? (uint64_t)r : 0;
	r = gpuq_wait(c->channel, done, DEPTH, WINDOW_NS);
	if (r < 0)
		return r == -ETIMEDOUT ? 0 : r;
	for (int i = 0; i < r; i++)
		if (done[i].user_data != (*expected)++ || done[i].status != 0)
			return -EPROTO;
	shm_count(&tally->done, (uint64_t)r);
	return 0;
}

static _Noreturn void pump(const struct daemon *d, const struct point *p, uint32_t number)
{
	struct tally *tally = &p->board->tallies[number];
	struct client c;
	uint64_t expected = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	int r = client_open(d, &c);

	while (r == 0) {
		if (shm_load_relaxed(&p->board->open) == 1)
			r = pump_once(&c, &expected, tally);
		else
			sleep_ns(CLOSED_NS);
	}
	shm_store_release(&tally->failed, (uint64_t)-r);
	_exit(1);
}

/* --- A point: so many clients for so long -------------------------------------------------- */

static int point_failed(const struct point *p)
{
	for (uint32_t i = 0; i < p->clients; i++) {
		uint64_t failed = shm_load_acquire(&p->board->tallies[i].failed);
		if (failed != 0)
			return -(int)failed;
	}
	return 0;
}

/* One second of work. */
static void point_window(struct point *p, uint32_t w)
{
	uint64_t before[MAX_CLIENTS];
	uint64_t start_ns = clock_monotonic_ns();

	for (uint32_t i = 0; i < p->clients; i++)
		before[i] = shm_load_relaxed(&p->board->tallies[i].done);
	sleep_ns(WINDOW_NS);
	p->window_ns[w] = clock_monotonic_ns() - start_ns;
	for (uint32_t i = 0; i < p->clients; i++)
		p->done[w][i] = shm_load_relaxed(&p->board->tallies[i].done) - before[i];
}

static int point_watch(const struct bench *b, struct point *p)
{
	double bare_rate = 0;
	int r = 0;

	for (uint32_t w = 0; w < p->windows && r == 0; w++) {
		progress("pipeline: %u clients, second %u/%u", p->clients, w + 1, p->windows);
		if (p->clients == 1) {
			shm_store_release(&p->board->open, 0);
			sleep_ns(2 * CLOSED_NS);
			r = ring_rate(b, BARE_NS, &bare_rate);
			p->bare_rate += bare_rate / p->windows;
		}
		shm_store_release(&p->board->open, 1);
		if (w == 0 || p->clients == 1)
			sleep_ns(WARM_NS);
		point_window(p, w);
		r = r < 0 ? r : point_failed(p);
	}
	return r;
}

static void point_judge(struct point *p)
{
	uint64_t sum = 0, sum_ns = 0;

	p->worst_share = 1e9;
	for (uint32_t w = 0; w < p->windows; w++) {
		uint64_t all = 0;

		for (uint32_t i = 0; i < p->clients; i++)
			all += p->done[w][i];
		sum += all;
		sum_ns += p->window_ns[w];
		for (uint32_t i = 0; i < p->clients; i++) {
			double share = (double)p->done[w][i] * p->clients / ((double)all + 1e-9);
			if (share >= p->worst_share)
				continue;
			p->worst_share = share;
			p->worst_window = w;
			p->worst_client = i;
		}
	}
	p->rate = (double)sum * 1e9 / (double)sum_ns;
}

static int point_start(const struct daemon *d, struct point *p)
{
	for (uint32_t i = 0; i < p->clients; i++) {
		p->pids[i] = fork();
		if (p->pids[i] == 0)
			pump(d, p, i);
		if (p->pids[i] < 0)
			return -errno;
	}
	return 0;
}

/* Clients run where this process does, which works with a single one only, in turns with it. */
static void put_parties(const struct bench *b, const struct daemon *d, uint32_t clients)
{
	if (clients == 1) {
		daemon_pin(d, b->server_cpu);
		cpus_pin(0, b->client_cpu, b->client_cpu);
	} else {
		daemon_free(d);
		cpus_free(0);
	}
}

static int point_measure(const struct bench *b, const struct daemon *d, struct point *p)
{
	p->board = mmap(
		NULL, sizeof(*p->board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (p->board == MAP_FAILED)
		return -errno;
	put_parties(b, d, p->clients);
	int r = point_start(d, p);
	if (r == 0)
		r = point_watch(b, p);
	for (uint32_t i = 0; i < p->clients; i++)
		pair_end(p->pids[i]);
	munmap(p->board, sizeof(*p->board));
	if (r == 0)
		point_judge(p);
	return r;
}

/* --- Report ---------------------------------------------------------------------------------- */

static json_t *point_json(const struct point *p)
{
	json_t *windows = json_array();

	for (uint32_t w = 0; w < p->windows; w++) {
		json_t *clients = json_array();
		for (uint32_t i = 0; i < p->clients; i++)
			json_array_append_new(clients, json_integer((json_int_t)p->done[w][i]));
		json_array_append_new(windows, clients);
	}
	return json_pack("{s:i,s:f,s:f,s:f,s:o}", "clients", (int)p->clients, "per_second", p->rate,
		"bare_per_second", p->bare_rate, "worst_share", p->worst_share,
		"done_by_window_and_client", windows);
}

static void point_report(struct bench *b, const struct point *p, double one_rate)
{
	if (p->clients == 1)
		printf("%-10s %12.1f %12.2f\n", "bare rings", p->bare_rate / 1e6,
			p->bare_rate / one_rate);
	printf("%-10u %12.1f %12.2f %12.2f  (client %u, second %u)\n", p->clients, p->rate / 1e6,
		p->rate / one_rate, p->worst_share, p->worst_client + 1, p->worst_window + 1);
	fflush(stdout);
	report_json(b, "pipeline", point_json(p));
}

static void point_checks(struct bench *b, uint32_t clients, double sum, double share)
{
	report_check_at_least(
		b, sum, SUM_TARGET, "pipeline: sum of %u clients, in the rate of one", clients);
	report_check_at_least(b, share, SHARE_TARGET,
		"pipeline: least of %u clients in a second, in fair shares", clients);
}

static int pipeline_points(struct bench *b, const struct daemon *d, struct point *p)
{
	static const uint32_t counts[] = {1, 2, 4, 8, 16};
	enum { POINTS = sizeof(counts) / sizeof(counts[0]) };
	double rates[POINTS], shares[POINTS];

	printf("\n====== pipeline: null operations, depth %d (load %u) ======\n", DEPTH,
		machine_running());
	printf("%-10s %12s %12s %12s\n", "clients", "million/s", "/one client", "worst share");
	for (uint32_t i = 0; i < POINTS; i++) {
		*p = (struct point){.clients = counts[i],
			.windows = (uint32_t)(b->seconds > 0 ? b->seconds + 0.5 : SECONDS)};
		p->windows = p->windows > 0 ? p->windows : 1;
		int r = point_measure(b, d, p);
		if (r < 0) {
			complain(r, "pipeline with %u clients", counts[i]);
			return r;
		}
		rates[i] = p->rate;
		shares[i] = p->worst_share;
		point_report(b, p, rates[0]);
	}
	report_check_at_least(
		b, rates[0] / 1e6, RATE_TARGET / 1e6, "pipeline: million/s, one client");
	for (uint32_t i = 1; i < POINTS; i++)
		point_checks(b, counts[i], rates[i] / rates[0], shares[i]);
	return 0;
}

int bench_pipeline(struct bench *b)
{
	struct daemon daemon;
	struct point *point = malloc(sizeof(*point));

	if (point == NULL)
		return -ENOMEM;
	int r = daemon_start(b, &daemon);
	if (r == 0) {
		r = pipeline_points(b, &daemon, point);
		daemon_stop(&daemon);
	}
	free(point);
	return r;
}
