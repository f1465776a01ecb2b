/* SPDX-License-Identifier: MIT */
/*
 * attention_trial.h: random calls of the operators over a paged cache, and what their formulas
 * say of the results; the parts of llm_trial.h that are theirs.
 */
#ifndef GPUQ_TESTS_KERNELS_ATTENTION_TRIAL_H
#define GPUQ_TESTS_KERNELS_ATTENTION_TRIAL_H

#include "tests/kernels/llm_trial.h"

void attention_shape_append(struct op_call *call, struct random *rng, uint32_t dtype);
void attention_shape(struct op_call *call, struct random *rng, uint32_t dtype);
void attention_shape_both(struct op_call *call, struct random *rng, uint32_t dtype);

/* Fills an i32 input, most of whose values make sense. */
void attention_fill_indices(const struct op_call *call, struct tensor *t, struct random *rng);

/* As llm_verify(); `before` is the cache before the call. */
bool attention_verify_append(
	const struct op_call *call, const void *before, char *what, size_t size);
bool attention_verify(const struct op_call *call, char *what, size_t size);
bool attention_verify_both(const struct op_call *call, const void *before, char *what, size_t size);

#endif
