/* SPDX-License-Identifier: MIT */
/*
 * gemv_batched.h: how a call is cut into units of work. Outputs are cut into blocks of
 * GEMV_BLOCK; unit number block * B + b is that block of batch row b. A range of units is thus a
 * range of rows for each block that it touches, and a single row with many outputs still splits.
 */
#ifndef GPUQ_KERNELS_GEMV_BATCHED_H
#define GPUQ_KERNELS_GEMV_BATCHED_H

#define GEMV_BLOCK 64 /* outputs; a multiple of every form's panel */

/* Fewer rows do not earn back the transposing of weights that they share. */
#define GEMV_PANEL_MIN_ROWS 4

#endif
