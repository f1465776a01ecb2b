/* SPDX-License-Identifier: MIT */
/* idle.c: what gpuqd costs while 100 clients are connected and do nothing. */
#include "bench/bench.h"

#include <stdio.h>

#define IDLE_TARGET 0.5 /* percent of one CPU */
#define IDLE_CLIENTS 100
#define SECONDS 10.0
#define SETTLE_NS 2000000000u

static int idle_measure(struct bench *b, const struct daemon *d, struct crowd *crowd)
{
	double seconds = b->seconds > 0 ? b->seconds : SECONDS;
	int r = crowd_open(crowd, IDLE_CLIENTS, true);

	if (r < 0)
		return r;
	progress("idle: %.0f s with %d clients", seconds, IDLE_CLIENTS);
	sleep_ns(SETTLE_NS);
	uint64_t start_ns = clock_monotonic_ns(), used_ns = daemon_cpu_ns(d);
	uint64_t sleeps = daemon_sleeps(d);

	sleep_ns((uint64_t)(seconds * 1e9));
	used_ns = daemon_cpu_ns(d) - used_ns;
	sleeps = daemon_sleeps(d) - sleeps;
	double took_s = (double)(clock_monotonic_ns() - start_ns) / 1e9;
	double percent = (double)used_ns / took_s / 1e7;

	progress("%s", "");
	printf("\n====== idle: %d clients for %.1f s (load %u) ======\n", IDLE_CLIENTS, took_s,
		machine_running());
	printf("gpuqd's processes ran %.2f ms; the dispatcher woke up %.1f times a second\n",
		(double)used_ns / 1e6, (double)sleeps / took_s);
	report_json(b, "idle",
		json_pack("{s:i,s:f,s:f,s:f}", "clients", IDLE_CLIENTS, "seconds", took_s,
			"cpu_percent", percent, "wakeups_per_second", (double)sleeps / took_s));
	report_check(b, percent, IDLE_TARGET, "idle: percent of one CPU");
	return 0;
}

int bench_idle(struct bench *b)
{
	struct daemon daemon;
	struct crowd crowd;
	int r = daemon_start(b, &daemon);

	if (r < 0)
		return r;
	r = crowd_start(&daemon, &crowd);
	if (r == 0) {
		r = idle_measure(b, &daemon, &crowd);
		crowd_stop(&crowd);
	}
	daemon_stop(&daemon);
	return r;
}
