/* SPDX-License-Identifier: MIT */
/*
 * metrics.h: statistics of gpuqd in the text format of Prometheus (version 0.0.4). One table of
 * metrics has their names, types and meanings; docs/metrics.md says the same, and a test compares
 * them.
 */
#ifndef GPUQ_TOOLS_METRICS_H
#define GPUQ_TOOLS_METRICS_H

#include "tools/snapshot.h"

#include <stdio.h>

/* What is known of one gpuqd. */
struct metrics_source {
	const char *socket; /* its label */
	/* NULL: there are no statistics. Of a gpuqd that is not alive nothing but that is told. */
	const struct snapshot *snapshot;
};

/* Writes all metrics of all sources, each metric once. */
void metrics_write(const struct metrics_source *sources, uint32_t n_sources, FILE *out);

#endif
