/* SPDX-License-Identifier: MIT */
/* values.h: what the layers of a model pass on, against what those of transformers do. */
#ifndef GPUQ_TESTS_PARITY_VALUES_H
#define GPUQ_TESTS_PARITY_VALUES_H

#include "models/engine.h"
#include "tests/parity/expected.h"

/*
 * Traces the model on text.8, and fails the test at the first value that is not near the expected
 * one.
 */
void values_check(const struct expected *e, const struct model *model);

#endif
