/* SPDX-License-Identifier: MIT */
/*
 * clock.h: nanoseconds at the price of a few cycles. gpuqd calibrates the CPU's tick counter
 * against CLOCK_MONOTONIC once and publishes the line in the daemon page; every party computes
 * with the same line, so their times compare. The clock starts near CLOCK_MONOTONIC and then
 * runs on its own: use it for differences and deadlines, never for dates.
 */
#ifndef GPUQ_SHM_CLOCK_H
#define GPUQ_SHM_CLOCK_H

#include "shm/wire.h"

#include <time.h>

struct clock_line {
	uint64_t ticks_base, ns_base, mult;
	uint32_t shift; /* 0: there is no steady tick counter; use CLOCK_MONOTONIC */
};

static inline uint64_t clock_monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline uint64_t clock_ticks(void)
{
#if defined(__x86_64__)
	return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
	uint64_t t;
	__asm__ __volatile__("mrs %0, cntvct_el0" : "=r"(t));
	return t;
#else
	return 0;
#endif
}

static inline uint64_t clock_now_ns(const struct clock_line *c)
{
	if (c->shift == 0)
		return clock_monotonic_ns();
	uint64_t ticks = clock_ticks() - c->ticks_base;
	return c->ns_base + (uint64_t)(((unsigned __int128)ticks * c->mult) >> c->shift);
}

/* Measures the line; takes about 10 ms. shift is 0 when the CPU has no steady counter. */
void clock_calibrate(struct clock_line *ret_line);

static inline void clock_publish(struct wire_page *page, const struct clock_line *c)
{
	page->ticks_base = c->ticks_base;
	page->ns_base = c->ns_base;
	page->mult = c->mult;
	page->shift = c->shift;
}

static inline struct clock_line clock_from_page(const struct wire_page *page)
{
	return (struct clock_line){page->ticks_base, page->ns_base, page->mult, page->shift};
}

#endif
