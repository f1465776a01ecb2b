/* SPDX-License-Identifier: MIT */
/*
 * pipeline.c: null operations as fast as they go, 256 in flight for each client. One client has
 * the first CPU and the dispatcher the second; several clients and the dispatcher share the two
 * as the kernel sees fit. Each client counts in a word of its own, which this process reads once
 * a second.
 */
#include "bench/bench.h"

#include "client/gpuq.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEPTH 256
#define RATE_TARGET 50e6
#define SUM_TARGET 0.6
#define SHARE_TARGET 0.5
#define SECONDS 5
#define WARM_NS 500000000u
#define WINDOW_NS 1000000000u
#define MAX_CLIENTS 16
#define MAX_WINDOWS 3600

/* One client's words, on lines of their own. */
struct tally {
	uint64_t done;	 /* completions seen */
	uint64_t failed; /* the error that ended it */
	uint8_t pad[WIRE_LINE - 16];
};

struct point {
	uint32_t clients, windows;
	double rate;	    /* of all clients together, per second */
	double worst_share; /* least of a client in a window, in fair shares of that window */
	uint32_t worst_window, worst_client;
	struct tally *tallies;
	pid_t pids[MAX_CLIENTS];
	uint64_t counts[MAX_WINDOWS + 1][MAX_CLIENTS]; /* at the ends of the windows */
	uint64_t times_ns[MAX_WINDOWS + 1];
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

static _Noreturn void pump(
	const struct bench *b, const struct daemon *d, const struct point *p, struct tally *tally)
{
	struct client c;
	uint64_t expected = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	cpus_pin(0, b->client_cpu, p->clients == 1 ? b->client_cpu : b->server_cpu);
	int r = client_open(d, &c);

	while (r == 0)
		r = pump_once(&c, &expected, tally);
	shm_store_release(&tally->failed, (uint64_t)-r);
	_exit(1);
}

/* --- A point: so many clients for so long ---------------------------------------------------- */

static void point_look(struct point *p, uint32_t window)
{
	p->times_ns[window] = clock_monotonic_ns();
	for (uint32_t i = 0; i < p->clients; i++)
		p->counts[window][i] = shm_load_relaxed(&p->tallies[i].done);
}

static int point_watch(struct point *p)
{
	sleep_ns(WARM_NS);
	point_look(p, 0);
	for (uint32_t w = 1; w <= p->windows; w++) {
		uint64_t until_ns = p->times_ns[0] + w * (uint64_t)WINDOW_NS;
		uint64_t now_ns = clock_monotonic_ns();

		progress("pipeline: %u clients, second %u/%u", p->clients, w, p->windows);
		sleep_ns(until_ns > now_ns ? until_ns - now_ns : 0);
		point_look(p, w);
		for (uint32_t i = 0; i < p->clients; i++) {
			uint64_t failed = shm_load_acquire(&p->tallies[i].failed);
			if (failed != 0)
				return -(int)failed;
		}
	}
	return 0;
}

static void point_judge(struct point *p)
{
	uint64_t sum = 0;

	p->worst_share = 1e9;
	for (uint32_t w = 1; w <= p->windows; w++) {
		uint64_t all = 0;

		for (uint32_t i = 0; i < p->clients; i++)
			all += p->counts[w][i] - p->counts[w - 1][i];
		sum += all;
		for (uint32_t i = 0; i < p->clients; i++) {
			double mine = (double)(p->counts[w][i] - p->counts[w - 1][i]);
			double share = all > 0 ? mine * p->clients / (double)all : 0;
			if (share >= p->worst_share)
				continue;
			p->worst_share = share;
			p->worst_window = w;
			p->worst_client = i;
		}
	}
	p->rate = (double)sum * 1e9 / (double)(p->times_ns[p->windows] - p->times_ns[0]);
}

static int point_measure(const struct bench *b, const struct daemon *d, struct point *p)
{
	int r = 0;

	p->tallies = mmap(NULL, MAX_CLIENTS * sizeof(*p->tallies), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (p->tallies == MAP_FAILED)
		return -errno;
	daemon_pin(d, p->clients == 1 ? b->server_cpu : b->client_cpu, b->server_cpu);
	for (uint32_t i = 0; i < p->clients && r == 0; i++) {
		p->pids[i] = fork();
		if (p->pids[i] == 0)
			pump(b, d, p, &p->tallies[i]);
		r = p->pids[i] < 0 ? -errno : 0;
	}
	if (r == 0)
		r = point_watch(p);
	for (uint32_t i = 0; i < p->clients; i++) {
		if (p->pids[i] <= 0)
			continue;
		kill(p->pids[i], SIGKILL);
		waitpid(p->pids[i], NULL, 0);
	}
	munmap(p->tallies, MAX_CLIENTS * sizeof(*p->tallies));
	if (r == 0)
		point_judge(p);
	return r;
}

/* --- Report ---------------------------------------------------------------------------------- */

static json_t *point_json(const struct point *p)
{
	json_t *windows = json_array();

	for (uint32_t w = 1; w <= p->windows; w++) {
		json_t *clients = json_array();
		for (uint32_t i = 0; i < p->clients; i++)
			json_array_append_new(clients,
				json_integer((json_int_t)(p->counts[w][i] - p->counts[w - 1][i])));
		json_array_append_new(windows, clients);
	}
	return json_pack("{s:i,s:f,s:f,s:o}", "clients", (int)p->clients, "per_second", p->rate,
		"worst_share", p->worst_share, "done_by_window_and_client", windows);
}

static void point_report(struct bench *b, const struct point *p, double one_rate)
{
	printf("%7u %14.1f %12.2f %14.2f (client %u, second %u)\n", p->clients, p->rate / 1e6,
		p->rate / one_rate, p->worst_share, p->worst_client, p->worst_window);
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
	printf("%7s %14s %12s %14s\n", "clients", "million/s", "/one client", "worst share");
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
