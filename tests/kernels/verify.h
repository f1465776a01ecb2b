/* SPDX-License-Identifier: MIT */
/*
 * verify.h: is the output of a call within the tolerance that the operator states? The bounds
 * and where they come from are in the head of each operator's source.
 */
#ifndef GPUQ_TESTS_KERNELS_VERIFY_H
#define GPUQ_TESTS_KERNELS_VERIFY_H

#include "tests/kernels/trial.h"

/*
 * Compares the output of the call with t->expected, and that with the formula. Returns true, or
 * false and a sentence in what.
 */
bool verify(const struct trial *t, char *what, size_t what_size);

/* Two outputs of the same call are equal to the last bit, NaNs of any payload counting as one. */
bool verify_same(const struct tensor *out, const void *a, const void *b, uint64_t elements);

/*
 * Whether an element of the dtype is within the tolerance of a value, rounding to the dtype apart;
 * NaN and the infinities have to be the same.
 */
bool verify_element(double expected, double tolerance, double actual, uint32_t dtype);

#endif
