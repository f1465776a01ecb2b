/* SPDX-License-Identifier: MIT */
/* clock.c: calibrating the CPU's tick counter against CLOCK_MONOTONIC; see clock.h. */
#include "shm/clock.h"

#include <stdbool.h>

#if defined(__x86_64__)
#include <cpuid.h>

/* Steady: the counter runs at one rate in every power state, on all cores alike. */
static bool ticks_steady(void)
{
	unsigned int a, b, c, d;

	return __get_cpuid(0x80000007, &a, &b, &c, &d) != 0 && (d & (1u << 8)) != 0;
}
#else
static bool ticks_steady(void)
{
#if defined(__aarch64__)
	return true;
#else
	return false;
#endif
}
#endif

/* A pair of readings taken as close together as the machine allows. */
static void sample(uint64_t *ret_ticks, uint64_t *ret_ns)
{
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < 16; i++) {
		uint64_t before = clock_ticks();
		uint64_t ns = clock_monotonic_ns();
		uint64_t after = clock_ticks();

		if (after - before < best) {
			best = after - before;
			*ret_ticks = before + best / 2;
			*ret_ns = ns;
		}
	}
}

void clock_calibrate(struct clock_line *ret_line)
{
	const struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};
	uint64_t t0 = 0, t1 = 0, n0 = 0, n1 = 0;

	*ret_line = (struct clock_line){0};
	if (!ticks_steady())
		return;
	sample(&t0, &n0);
	nanosleep(&pause, NULL);
	sample(&t1, &n1);
	if (t1 <= t0 || n1 <= n0)
		return;
	ret_line->shift = 32;
	ret_line->mult = ((n1 - n0) << 32) / (t1 - t0);
	ret_line->ticks_base = t1;
	ret_line->ns_base = n1;
}
