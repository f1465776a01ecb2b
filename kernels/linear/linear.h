/* SPDX-License-Identifier: MIT */
/*
 * linear.h: how a call is cut into units of work. Outputs are cut into blocks of LINEAR_OUTPUTS,
 * rows of x into blocks of LINEAR_ROWS; unit number b * R + r is block b of the outputs for block
 * r of the R blocks of rows. A range of units is mostly a range of outputs for all rows, and
 * calls with few outputs still split.
 */
#ifndef GPUQ_KERNELS_LINEAR_H
#define GPUQ_KERNELS_LINEAR_H

#define LINEAR_OUTPUTS 16
#define LINEAR_ROWS 256

/* Places of inputs. */
enum { LINEAR_X, LINEAR_W, LINEAR_SCALES, LINEAR_BIAS, LINEAR_RESIDUAL };

#endif
