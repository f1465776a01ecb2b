/* SPDX-License-Identifier: MIT */
/*
 * overload.c: what gpuqd does with more work than it can do. Generators are processes that submit
 * at even intervals whether anything comes back or not ("open loop"), with a deadline for each
 * call; what is not accepted is dropped. The capacity is what the same processes get done when each
 * always has something in flight, and is awake as often as for the load. Both take turns, since the
 * machine's mood changes. Goodput is what ended by its deadline.
 */
#include "bench/bench.h"

#include "client/gpuq.h"
#include "shm/atomics.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define GENERATORS 2u
#define WORK_N (1u << 18) /* elements of a call: some tenths of a millisecond, or more */
#define RING 64u
#define CLOSED_DEPTH 8u	   /* in flight of each generator, for the capacity */
#define DEADLINE_WORKS 64u /* a deadline is the time in which capacity does so many */
#define BATCH 16u
#define WARM_UP 20u
#define SECONDS 5.0 /* of each load */
#define ROUNDS 5u   /* in which load and capacity take turns */
#define GROWTH_MIB 2.0
#define GOODPUT 0.9

/* What one generator counts, in memory that it shares with this process. */
struct account {
	uint64_t offered, submitted, full; /* full: -EAGAIN */
	uint64_t in_time, late, refused;   /* refused: for their deadline, without having run */
	uint64_t failed;
	uint64_t took_ns;		 /* from the first submission on */
	uint64_t latency[BENCH_BUCKETS]; /* of those that ran, from submission to end */
	int64_t error;
};

struct load {
	double per_second;    /* of each generator; 0: it sleeps until something has ended */
	bool is_closed;	      /* it has CLOSED_DEPTH in flight instead; else an open loop */
	uint64_t deadline_ns; /* 0: none */
	uint64_t length_ns;
};

/* --- A generator --------------------------------------------------------------------------- */

struct generator {
	const struct load *load;
	struct account *account;
	struct gpuq *gpuq;
	struct gpuq_channel *channel;
	struct gpuq_call *call;
	uint32_t in_flight;
};

static int generator_open(struct generator *g, const struct daemon *d)
{
	const struct gpuq_options options = {.socket = d->socket, .name = "generator"};
	const struct gpuq_channel_options channel = {.sq_entries = RING,
		.cq_entries = 4 * RING,
		.arena_bytes = 4 * WORK_N * sizeof(float)};
	struct gpuq_tensor in = {.dtype = GPUQ_F32, .rank = 1, .dims = {WORK_N}}, out = in;
	const size_t bytes = WORK_N * sizeof(float);

	int r = gpuq_connect(&options, &g->gpuq);
	if (r == 0)
		r = gpuq_channel_open(g->gpuq, &channel, &g->channel);
	if (r == 0)
		r = gpuq_alloc(g->channel, bytes, &in.data);
	if (r == 0)
		r = gpuq_alloc(g->channel, bytes, &out.data);
	if (r < 0)
		return r;
	memset(in.data, 0, bytes);
	return gpuq_call_create(g->channel, "softmax", &in, 1, &out, 1, NULL, 0, &g->call);
}

static void note(struct generator *g, const struct gpuq_completion *done)
{
	struct account *a = g->account;
	const uint64_t ns = done->queued_ns + done->executed_ns;

	g->in_flight--;
	if (done->status == -GPUQ_EDEADLINE || done->status == -ETIMEDOUT) {
		a->refused++;
		return;
	}
	if (done->status < 0) {
		a->failed++;
		return;
	}
	a->latency[hist_bucket(ns, HIST_BENCH_BITS)]++;
	if (g->load->deadline_ns == 0 || ns <= g->load->deadline_ns)
		a->in_time++;
	else
		a->late++;
}

static int take(struct generator *g)
{
	struct gpuq_completion done[BATCH];
	int n = gpuq_poll(g->channel, done, BATCH);

	for (int i = 0; i < n; i++)
		note(g, &done[i]);
	return n;
}

/* 0, or a negative error; what finds no room is dropped. */
static int submit(struct generator *g)
{
	const struct gpuq_submission s = {.call = g->call, .timeout_ns = g->load->deadline_ns};
	int r = gpuq_submit(g->channel, &s, 1);

	g->account->offered++;
	if (r == -EAGAIN) {
		g->account->full++;
		return 0;
	}
	if (r < 0)
		return r;
	g->account->submitted++;
	g->in_flight++;
	return 0;
}

/* All that is due by now. */
static int generate(struct generator *g, uint64_t gone_ns)
{
	const double due = (double)gone_ns * 1e-9 * g->load->per_second;
	int r = 0;

	if (g->load->is_closed) {
		while (r == 0 && g->in_flight < CLOSED_DEPTH)
			r = submit(g);
		return r;
	}
	while (r == 0 && (double)g->account->offered < due)
		r = submit(g);
	return r;
}

/* Until something may be due or done: no generator spins, since gpuqd computes on the same CPUs. */
static int rest(struct generator *g)
{
	const double each_ns = g->load->per_second == 0 ? 1e7 : 1e9 / g->load->per_second;
	struct gpuq_completion done;

	if (g->in_flight == 0 || each_ns < 1e5) {
		sleep_ns(each_ns < 1e5 ? 100000 : (uint64_t)each_ns);
		return 0;
	}
	int r = gpuq_wait(g->channel, &done, 1, (uint64_t)each_ns);
	if (r == 1)
		note(g, &done);
	return r == -ETIMEDOUT || r == 1 ? 0 : r;
}

static int run(struct generator *g)
{
	const uint64_t begin_ns = clock_monotonic_ns();
	uint64_t gone_ns = 0;
	int r = 0;

	while (r >= 0 && gone_ns < g->load->length_ns) {
		r = generate(g, gone_ns);
		while (r >= 0 && (r = take(g)) == BATCH)
			;
		if (r >= 0)
			r = rest(g);
		gone_ns = clock_monotonic_ns() - begin_ns;
	}
	/* What is still under way belongs to the load, and the time that it takes. */
	while (r >= 0 && g->in_flight > 0) {
		struct gpuq_completion done;
		r = gpuq_wait(g->channel, &done, 1, 10000000000u);
		if (r == 1)
			note(g, &done);
	}
	g->account->took_ns = clock_monotonic_ns() - begin_ns;
	return r < 0 ? r : 0;
}

static _Noreturn void generator_main(
	const struct daemon *d, const struct load *load, struct account *account, int go_fd)
{
	struct generator g = {.load = load, .account = account};
	char byte;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_TIMERSLACK, 1ul);
	int r = generator_open(&g, d);
	/* Ends together with the other generators' preparations. */
	if (r == 0 && read(go_fd, &byte, 1) == 0)
		r = run(&g);
	account->error = r;
	gpuq_disconnect(g.gpuq);
	_exit(0);
}

/* --- A load -------------------------------------------------------------------------------- */

/* One account more. */
static void accumulate(struct account *sum, const struct account *a)
{
	sum->offered += a->offered;
	sum->submitted += a->submitted;
	sum->full += a->full;
	sum->in_time += a->in_time;
	sum->late += a->late;
	sum->refused += a->refused;
	sum->failed += a->failed;
	for (uint32_t k = 0; k < BENCH_BUCKETS; k++)
		sum->latency[k] += a->latency[k];
}

/* All generators' accounts of a run. */
static void add_up(const struct account *accounts, struct account *sum)
{
	memset(sum, 0, sizeof(*sum));
	for (uint32_t i = 0; i < GENERATORS; i++) {
		accumulate(sum, &accounts[i]);
		sum->took_ns =
			accounts[i].took_ns > sum->took_ns ? accounts[i].took_ns : sum->took_ns;
		sum->error = sum->error != 0 ? sum->error : accounts[i].error;
	}
}

static int run_load(const struct daemon *d, const struct load *load, struct account *accounts,
	struct account *sum)
{
	pid_t pids[GENERATORS];
	int go[2];

	memset(accounts, 0, GENERATORS * sizeof(*accounts));
	if (pipe(go) < 0)
		return -errno;
	for (uint32_t i = 0; i < GENERATORS; i++) {
		pids[i] = fork();
		if (pids[i] == 0) {
			close(go[1]);
			generator_main(d, load, &accounts[i], go[0]);
		}
	}
	close(go[0]);
	sleep_ns(50000000);
	close(go[1]);
	int r = 0;
	for (uint32_t i = 0; i < GENERATORS; i++) {
		int status = -1;
		if (pids[i] < 0 || waitpid(pids[i], &status, 0) < 0 || status != 0)
			r = -ECHILD;
	}
	add_up(accounts, sum);
	return r < 0 ? r : (int)sum->error;
}

static double per_second(uint64_t n, const struct account *a)
{
	return (double)n * 1e9 / (double)a->took_ns;
}

/* With generators that are awake as if each had so much to submit. */
static int measure_capacity(const struct daemon *d, double each_per_second, double seconds,
	struct account *accounts, struct account *sum, double *ret_per_second)
{
	const struct load load = {.per_second = each_per_second,
		.is_closed = true,
		.length_ns = (uint64_t)(seconds * 1e9)};
	int r = run_load(d, &load, accounts, sum);

	if (r == 0 && sum->in_time < WARM_UP)
		r = -ETIMEDOUT;
	if (r == 0)
		*ret_per_second = per_second(sum->in_time, sum);
	return r;
}

/* Memory of gpuqd's processes that is theirs now, in MiB. */
static double resident_mib(const struct daemon *d)
{
	const pid_t pids[] = {d->pid, d->device_pid};
	double mib = 0;

	for (size_t i = 0; i < 2; i++) {
		unsigned long size, resident, shared;
		char path[32];
		snprintf(path, sizeof(path), "/proc/%ld/statm", (long)pids[i]);
		FILE *f = fopen(path, "re");
		if (f == NULL)
			continue;
		/* Segments are shared, and come and go with their clients. */
		if (fscanf(f, "%lu %lu %lu", &size, &resident, &shared) == 3)
			mib += (double)(resident - shared) * (double)sysconf(_SC_PAGESIZE) / 0x1p20;
		fclose(f);
	}
	return mib;
}

static double quantile_ms(const struct account *a, double fraction)
{
	return (double)hist_quantile(a->latency, HIST_BENCH_BITS, fraction) / 1e6;
}

static double max_ms(const struct account *a)
{
	for (uint32_t i = BENCH_BUCKETS; i-- > 0;) {
		if (a->latency[i] > 0)
			return (double)hist_bucket_floor(i, HIST_BENCH_BITS) / 1e6;
	}
	return 0;
}

struct figures {
	double times, capacity, deadline_ms;
	struct account sum;
};

static void report_load(struct bench *b, const struct figures *f)
{
	const struct account *a = &f->sum;
	const double goodput = per_second(a->in_time, a) / f->capacity;
	const uint64_t ran = a->in_time + a->late;
	char title[48];

	printf("%-6.1f %9.0f %9.0f %9.2f %9.1f %9.1f %8.2f %8.2f %8.2f %8.2f %8.1f\n", f->times,
		f->capacity, per_second(a->offered, a), goodput,
		100.0 * (double)a->full / (double)a->offered,
		100.0 * (double)a->refused / (double)a->offered, quantile_ms(a, 0.5),
		quantile_ms(a, 0.99), quantile_ms(a, 0.999), max_ms(a), f->deadline_ms);
	snprintf(title, sizeof(title), "overload: %.1f times", f->times);
	report_json(b, title,
		json_pack("{s:f,s:f,s:f,s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:f,s:f,s:f}", "capacity",
			f->capacity, "deadline_ms", f->deadline_ms, "goodput", goodput, "offered",
			(json_int_t)a->offered, "full", (json_int_t)a->full, "refused",
			(json_int_t)a->refused, "in_time", (json_int_t)a->in_time, "late",
			(json_int_t)a->late, "failed", (json_int_t)a->failed, "p50_ms",
			quantile_ms(a, 0.5), "p99_ms", quantile_ms(a, 0.99), "p999_ms",
			quantile_ms(a, 0.999), "max_ms", max_ms(a)));
	if (f->times >= 1)
		report_check_at_least(b, goodput, GOODPUT,
			"%.1f times the capacity: goodput, of the capacity", f->times);
	report_check(b, 100.0 * (double)a->late / (double)(ran > 0 ? ran : 1), 1,
		"%.1f times the capacity: admitted and late, in %%", f->times);
}

/* Load and capacity take turns. */
static int measure_load(
	struct bench *b, const struct daemon *d, struct account *accounts, struct figures *f)
{
	const double seconds = (b->seconds > 0 ? b->seconds : SECONDS) / ROUNDS;
	const double each = f->times * f->capacity / GENERATORS;
	double before = 0, after = 0, could = 0, took_s = 0;
	static struct account a, closed;
	int r = measure_capacity(d, each, seconds / 2, accounts, &closed, &after);

	memset(&f->sum, 0, sizeof(f->sum));
	for (uint32_t i = 0; i < ROUNDS && r == 0; i++) {
		before = after;
		const struct load load = {
			.per_second = f->times * before / GENERATORS,
			.deadline_ns = (uint64_t)(DEADLINE_WORKS / before * 1e9),
			.length_ns = (uint64_t)(seconds * 1e9),
		};
		r = run_load(d, &load, accounts, &a);
		if (r == 0)
			r = measure_capacity(d, each, seconds / 2, accounts, &closed, &after);
		accumulate(&f->sum, &a);
		f->deadline_ms = (double)load.deadline_ns / 1e6;
		took_s += (double)a.took_ns / 1e9;
		could += (before + after) / 2 * (double)a.took_ns / 1e9;
	}
	f->sum.took_ns = (uint64_t)(took_s * 1e9);
	f->capacity = could / took_s;
	return r;
}

static int measure_loads(struct bench *b, const struct daemon *d, struct account *accounts)
{
	static const double times[] = {0.5, 1, 2, 5};
	struct figures f;
	double first_mib = 0;

	/* Calls are captured, and gpuqd knows how long they take. */
	int r = measure_capacity(d, 0, 0.5, accounts, &f.sum, &f.capacity);
	if (r < 0)
		return r;
	printf("\n====== overload: calls of %u elements, %u generators ======\n", WORK_N,
		GENERATORS);
	printf("%-6s %9s %9s %9s %9s %9s %8s %8s %8s %8s %8s\n", "times", "capacity", "offered/s",
		"goodput", "full %", "refused %", "p50 ms", "p99", "p99.9", "max", "deadline");
	for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
		progress("overload: %.1f times the capacity", times[i]);
		f.times = times[i];
		r = measure_load(b, d, accounts, &f);
		progress("%s", "");
		if (r < 0)
			return r;
		report_load(b, &f);
		if (i == 0)
			first_mib = resident_mib(d);
	}
	if (d->private)
		report_check(b, resident_mib(d) - first_mib, GROWTH_MIB,
			"memory of gpuqd: growth in MiB from the first load to the last");
	return 0;
}

int bench_overload(struct bench *b)
{
	const size_t bytes = GENERATORS * sizeof(struct account);
	struct account *accounts =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct daemon daemon;

	if (accounts == MAP_FAILED) {
		complain(-errno, "no memory");
		return -ENOMEM;
	}
	int r = daemon_start(b, &daemon);
	if (r == 0) {
		r = measure_loads(b, &daemon, accounts);
		if (r < 0)
			complain(r, "overload: cannot be measured");
		daemon_stop(&daemon);
	}
	munmap(accounts, bytes);
	return r;
}
