/* SPDX-License-Identifier: MIT */
/*
 * classify.h: a pipeline with known results, y = softmax(w x), for tests of pipelines and graphs.
 * Every function fails the running test when something is not as it must be.
 */
#ifndef GPUQ_TESTS_INTEGRATION_CLASSIFY_H
#define GPUQ_TESTS_INTEGRATION_CLASSIFY_H

#include "tests/integration/client.h"

/* Registers it, under any name. */
struct gpuq_pipeline *classify_register(struct gpuq *g, const char *name);

/* One call of it, of x [b,i] and w [o,i]. */
struct classify {
	struct gpuq_channel *ch;
	struct gpuq_call *call;
	uint32_t b, i, o;
	float *x, *w, *y;
};

void classify_create(struct classify *job, struct gpuq_channel *ch, struct gpuq_pipeline *pipeline,
	uint32_t b, uint32_t i, uint32_t o);
void classify_destroy(struct classify *job);

/* New inputs, and an output that cannot be taken for the result. Nothing is in flight. */
void classify_fill(struct classify *job, struct random *rng);

/* y is right. */
void classify_check(const struct classify *job);

/* Submits with this user_data. */
void classify_submit(struct classify *job, uint64_t user_data);

/* Fills, submits, waits and checks. */
void classify_run(struct classify *job, struct random *rng);

/* The next completion of a channel, waited for. */
struct gpuq_completion classify_wait(struct gpuq_channel *ch);

#endif
