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

/* Places of inputs. */
enum { LINEAR_X, LINEAR_W, LINEAR_SCALES, LINEAR_BIAS, LINEAR_RESIDUAL };

/* From so many rows on, multiplying costs more than reading the weights. */
#define LINEAR_PAIRS_MIN_ROWS 3

/* Whether a form that can multiply bf16 in pairs does so, for which it rounds x to bf16. */
static inline bool linear_pairs(const struct op_call *call)
{
	return call->in[LINEAR_W].dtype == GPUQ_BF16 &&
		(call->out[0].dims[0] >= LINEAR_PAIRS_MIN_ROWS || call->params[0].i64 != 0 ||
			call->in[LINEAR_X].dtype == GPUQ_BF16);
}

#endif
