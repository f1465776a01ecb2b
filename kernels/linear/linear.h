/* SPDX-License-Identifier: MIT */
/*
 * linear.h: how a call is cut into units of work. Outputs are cut into blocks of LINEAR_OUTPUTS,
 * rows of x into blocks of LINEAR_ROWS; unit number b * R + r is block b of the outputs for block
 * r of the R blocks of rows. A range of units is mostly a range of outputs for all rows, and
 * calls with few outputs still split.
 */
#ifndef GPUQ_KERNELS_LINEAR_H
#define GPUQ_KERNELS_LINEAR_H

#include "kernels/op.h"

#define LINEAR_OUTPUTS 16
#define LINEAR_ROWS 256

/* Places of inputs, outputs and parameters. */
enum { LINEAR_X, LINEAR_W, LINEAR_SCALES, LINEAR_BIAS, LINEAR_RESIDUAL, LINEAR_NORM };
enum { LINEAR_Y, LINEAR_NORMED };
enum { LINEAR_FIXED_ORDER, LINEAR_EPS };

/* Inputs of a row. */
static inline uint64_t linear_inner(const struct op_call *call)
{
	const struct tensor *w = &call->in[LINEAR_W];

	return w->dims[w->rank - 1];
}

/* Whether each output is made of a gate and what it lets through. */
static inline bool linear_gated(const struct op_call *call)
{
	return call->in[LINEAR_W].rank == 3;
}

/* From so many rows on, multiplying costs more than reading the weights. */
#define LINEAR_PAIRS_MIN_ROWS 3

/* Whether a form that can multiply bf16 in pairs does so, for which it rounds x to bf16. */
static inline bool linear_pairs(const struct op_call *call)
{
	return call->in[LINEAR_W].dtype == GPUQ_BF16 &&
		(call->out[0].dims[0] >= LINEAR_PAIRS_MIN_ROWS ||
			call->params[LINEAR_FIXED_ORDER].i64 != 0 ||
			call->in[LINEAR_X].dtype == GPUQ_BF16);
}

#endif
