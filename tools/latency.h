/* SPDX-License-Identifier: MIT */
/* latency.h: many durations, and what is told of them: min, p50, p99, p99.9, max. */
#ifndef GPUQ_TOOLS_LATENCY_H
#define GPUQ_TOOLS_LATENCY_H

#include "shm/hist.h"

#include <jansson.h>

/* Starts as zeros. */
struct latency {
	uint64_t n, min_ns, max_ns;
	uint64_t counts[HIST_BUCKETS(HIST_BENCH_BITS)];
};

void latency_add(struct latency *latency, uint64_t ns);

/* "min 312ns  p50 330ns  p99 1.20us  p99.9 3.00us  max 12.0us". Returns `text`. */
const char *latency_text(const struct latency *latency, char *text, size_t size);

/* {"count", "min", "p50", "p99", "p999", "max"}, nanoseconds. NULL when out of memory. */
json_t *latency_json(const struct latency *latency);

#endif
