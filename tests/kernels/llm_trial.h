/* SPDX-License-Identifier: MIT */
/*
 * llm_trial.h: random calls of the language-model operators, which have integer tensors and
 * several outputs, and the check of their outputs against the formulas. As trial.h and verify.h.
 */
#ifndef GPUQ_TESTS_KERNELS_LLM_TRIAL_H
#define GPUQ_TESTS_KERNELS_LLM_TRIAL_H

#include "kernels/ops.h"
#include "tests/kernels/guard.h"
#include "tests/kernels/random.h"

#define LLM_MAX_BYTES ((size_t)1 << 24)	   /* of any tensor, */
#define LLM_RANDOM_BYTES ((size_t)1 << 20) /* and of one whose shape is random */

struct llm_trial {
	struct op_call call;
	struct guard inputs[GPUQ_MAX_INPUTS];
	struct guard outputs[GPUQ_MAX_OUTPUTS];
	size_t bytes[GPUQ_MAX_OUTPUTS]; /* of each output, 0 for an absent one */
	struct tensor *written;		/* the input that is written too; NULL: there is none */
	size_t written_bytes;
	char *before; /* what it has to hold before each run */
};

void llm_trial_create(struct llm_trial *t);
void llm_trial_destroy(struct llm_trial *t);

/* Makes a valid call with random everything; the outputs' contents are undefined. */
void llm_trial_fill(struct llm_trial *t, const struct op *op, struct random *rng);

/*
 * The same with the operator, types, shapes and params that t->call has; outputs that are there
 * have the rank UINT32_MAX.
 */
void llm_trial_fill_shape(struct llm_trial *t, struct random *rng);

/*
 * The outputs of the call are what the operator's formula, written down once more, and its stated
 * tolerance say. Returns true, or false and a sentence in what.
 */
bool llm_verify(const struct llm_trial *t, char *what, size_t what_size);

#endif
