/* SPDX-License-Identifier: MIT */
/* step_result.h: what the forms of step_result share. */
#ifndef GPUQ_KERNELS_STEP_RESULT_STEP_RESULT_H
#define GPUQ_KERNELS_STEP_RESULT_STEP_RESULT_H

#include "kernels/op.h"

#define STEP_MAX_K 1024

enum step_input { STEP_LOGITS, STEP_IDS, STEP_TEMPERATURES };
enum step_output { STEP_VALUES, STEP_TOKENS, STEP_STATS, STEP_NAMED };

/* What the logits of a row are divided by in its statistics. */
double step_temperature(const struct op_call *call, uint64_t row);

/* Fills a row of named. Only for calls that have ids. */
void step_named(const struct op_call *call, uint64_t row);

#endif
