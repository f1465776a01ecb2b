/* SPDX-License-Identifier: MIT */
/*
 * check.h: what the programs that check operators on random calls have in common: their seed, the
 * operators that they are told, and the report of a fault.
 */
#ifndef GPUQ_TESTS_KERNELS_CHECK_H
#define GPUQ_TESTS_KERNELS_CHECK_H

#include "kernels/op.h"

/* What runs now, for the report of a fault, which cannot be handed the trial. */
struct check_running {
	const char *op;
	uint64_t seed, trial;
};
extern struct check_running check_running;

/* That of GPUQ_TEST_SEED, else a new one. */
uint64_t check_fresh_seed(void);

/* From now on a fault is reported as memory that was touched beside tensors, and ends with 1. */
void check_report_faults(void);

/*
 * Calls check() with each operator of `names`, which ends with NULL, until it returns false.
 * Returns the program's exit status: 0, 1 after a failure, 2 for a name that is none.
 */
int check_operators(char **names, bool (*check)(void *state, const struct op *op), void *state);

#endif
