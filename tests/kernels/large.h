/* SPDX-License-Identifier: MIT */
/* large.h: calls of shapes that operators have large forms for, and of those of language models. */
#ifndef GPUQ_TESTS_KERNELS_LARGE_H
#define GPUQ_TESTS_KERNELS_LARGE_H

#include "kernels/ops.h"
#include "tests/kernels/random.h"

/* How many shapes of the operator there are. */
uint32_t large_count(const struct op *op);

/*
 * Makes number `which` of them a call without data, with random types; outputs that are there have
 * the rank UINT32_MAX.
 */
void large_call(struct op_call *call, const struct op *op, uint32_t which, struct random *rng);

#endif
