/* SPDX-License-Identifier: MIT */
/* latency.c: see latency.h. */
#include "tests/hostile/latency.h"

#include "shm/clock.h"
#include "shm/hist.h"
#include "tests/integration/client.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#define PAIRS 5u
#define PAUSE_NS 200000
#define PERIOD_NS 40000000u /* of a process that burns: as long as a bout */

enum beside { ATTACKERS, BURNERS, KINDS };

static struct shared {
	uint64_t counts[KINDS][HIST_BUCKETS(HIST_BENCH_BITS)];
	uint32_t beside; /* enum beside; KINDS: nobody counts */
	uint64_t share;	 /* of its time that a process burns, in 1/1000 */
} * shared;

static void pause_ns(uint64_t ns)
{
	const struct timespec t = {
		.tv_sec = (time_t)(ns / SECOND_NS), .tv_nsec = (long)(ns % SECOND_NS)};

	(void)nanosleep(&t, NULL);
}

static void measure_client(struct child *child)
{
	const struct gpuq_submission s = {.user_data = 1};
	struct gpuq_completion done;
	struct client c;

	client_open(&c, NULL);
	child_say_ready(child);
	while (!child_should_stop(child)) {
		const uint32_t beside = shm_load_acquire_u32(&shared->beside);
		const uint64_t start_ns = clock_monotonic_ns();

		assert_int_equal(gpuq_submit(c.ch, &s, 1), 1);
		assert_int_equal(gpuq_wait(c.ch, &done, 1, PATIENCE_NS), 1);
		assert_int_equal(done.status, 0);
		if (beside != KINDS)
			hist_add(shared->counts[beside], HIST_BENCH_BITS,
				clock_monotonic_ns() - start_ns);
		pause_ns(PAUSE_NS);
	}
	client_close(&c);
}

static void burn(struct child *child)
{
	while (!child_should_stop(child)) {
		const uint64_t start_ns = clock_monotonic_ns();
		const uint64_t burn_ns = PERIOD_NS * shm_load_relaxed(&shared->share) / 1000;

		while (clock_monotonic_ns() - start_ns < burn_ns)
			shm_pause();
		if (burn_ns < PERIOD_NS)
			pause_ns(PERIOD_NS - burn_ns);
	}
}

/* Of the processes that have ended and were waited for. */
static uint64_t children_cpu_ns(void)
{
	struct rusage r;

	getrusage(RUSAGE_CHILDREN, &r);
	return (uint64_t)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) * SECOND_NS +
		(uint64_t)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) * 1000;
}

static void count_for(enum beside beside, uint64_t ns)
{
	/* The first moments are those of starting processes. */
	pause_ns(SECOND_NS / 10);
	shm_store_release_u32(&shared->beside, beside);
	pause_ns(ns);
	shm_store_release_u32(&shared->beside, KINDS);
}

static void beside_attackers(struct attackers *attackers, uint64_t ns)
{
	const uint64_t start_ns = clock_monotonic_ns(), before_ns = children_cpu_ns();

	attackers_start(attackers);
	count_for(ATTACKERS, ns);
	attackers_stop(attackers);
	const uint64_t all_ns = (clock_monotonic_ns() - start_ns) * attackers->n;
	shm_store_relaxed(&shared->share, (children_cpu_ns() - before_ns) * 1000 / all_ns);
}

static void beside_burners(uint32_t n, uint64_t ns)
{
	struct child burners[ATTACKERS_MAX] = {0};

	for (uint32_t i = 0; i < n; i++) {
		burners[i].run = burn;
		child_start(&burners[i]);
	}
	count_for(BURNERS, ns);
	for (uint32_t i = 0; i < n; i++) {
		child_stop(&burners[i]);
		child_free(&burners[i]);
	}
}

static void print_row(int fd, const char *name, enum beside beside)
{
	const uint64_t *counts = shared->counts[beside];

	dprintf(fd, "  %-24s %9llu %9.1f %9.1f %9.1f\n", name,
		(unsigned long long)hist_total(counts, HIST_BENCH_BITS),
		(double)hist_quantile(counts, HIST_BENCH_BITS, 0.5) / 1e3,
		(double)hist_quantile(counts, HIST_BENCH_BITS, 0.99) / 1e3,
		(double)hist_quantile(counts, HIST_BENCH_BITS, 0.999) / 1e3);
}

void latency_measure(struct attackers *attackers, uint64_t seconds, int fd)
{
	struct child client = {.run = measure_client};
	const uint64_t ns = seconds * SECOND_NS / (2 * PAIRS);

	shared = mmap(
		NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(shared != MAP_FAILED);
	shared->beside = KINDS;
	child_start(&client);
	child_await_ready(&client);
	for (uint32_t i = 0; i < PAIRS; i++) {
		beside_attackers(attackers, ns);
		dprintf(fd, "%u attackers used %.0f %% of a CPU each\n", attackers->n,
			(double)shm_load_relaxed(&shared->share) / 10);
		beside_burners(attackers->n, ns);
	}
	child_stop(&client);
	child_free(&client);
	dprintf(fd, "null operations, us           requests       p50       p99     p99.9\n");
	print_row(fd, "beside attackers", ATTACKERS);
	print_row(fd, "beside as much CPU burnt", BURNERS);
	dprintf(fd, "p99: %.2f times\n",
		(double)hist_quantile(shared->counts[ATTACKERS], HIST_BENCH_BITS, 0.99) /
			(double)hist_quantile(shared->counts[BURNERS], HIST_BENCH_BITS, 0.99));
	munmap(shared, sizeof(*shared));
}
