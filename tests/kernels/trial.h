/* SPDX-License-Identifier: MIT */
/*
 * trial.h: one random call of an operator: shapes, values, types, places in memory. Everything
 * follows from the seed.
 */
#ifndef GPUQ_TESTS_KERNELS_TRIAL_H
#define GPUQ_TESTS_KERNELS_TRIAL_H

#include "kernels/ops.h"
#include "tests/kernels/guard.h"
#include "tests/kernels/random.h"

#define TRIAL_MAX_ELEMENTS ((size_t)1 << 22) /* of any tensor */

struct trial {
	struct op_call call;
	struct guard inputs[GPUQ_MAX_INPUTS];
	struct guard output;   /* operators under test have one */
	struct guard expected; /* f32, what the reference says */
	uint64_t n_outputs;    /* elements of the output */
	size_t output_bytes;
};

void trial_create(struct trial *t);
void trial_destroy(struct trial *t);

/* Parts of the below: dimensions of at most `budget` elements, values, a place in memory. */
void trial_random_dims(struct random *rng, uint64_t *dims, uint32_t count, uint64_t budget);
void trial_fill_tensor(struct tensor *t, struct random *rng);
void *trial_place_tensor(struct guard *g, const struct tensor *t, struct random *rng);

/* Makes a valid call with random everything; the output's contents are undefined. */
void trial_fill(struct trial *t, const struct op *op, struct random *rng);

/*
 * The same with the operator, types, shapes and params that t->call has; the output's rank is
 * UINT32_MAX.
 */
void trial_fill_shape(struct trial *t, struct random *rng);

/* Places the tensors of a call whose shapes and types are set, at the ends of their memory. */
void trial_place(struct trial *t, struct random *rng);

/* Runs the reference into t->expected, as f32 whatever the type of the output is. */
void trial_reference(struct trial *t);

#endif
