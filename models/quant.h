/* SPDX-License-Identifier: MIT */
/*
 * quant.h: weights as 8-bit integers with one scale for each output channel (row of a matrix):
 *
 *	scale = max |w| / 127,  q = round(w / scale), to even,  w' = q * scale
 *
 * so |w - w'| <= 0.501 * scale, where the thousandth is what rounding in f32 adds, and an output
 * y = sum of w * x is off by at most 0.501 * scale * (sum of |x|). A row without an element of at
 * least 2^-100 is all zero, scale 0.
 */
#ifndef GPUQ_MODELS_QUANT_H
#define GPUQ_MODELS_QUANT_H

#include "shm/gpuq-types.h"

/*
 * Quantises rows of `columns` elements each; dtype is f32, f16 or bf16. -EDOM when an element is
 * infinite or no number: what has been written by then means nothing.
 */
int quant_rows(const void *data, uint32_t dtype, uint64_t rows, uint64_t columns, int8_t *ret_q,
	float *ret_scales);

#define QUANT_MAX_THREADS 16u

/*
 * The same, to the last bit, by so many threads, this one among them, as long as there is enough
 * for each; 1 .. QUANT_MAX_THREADS.
 */
int quant_rows_together(uint32_t threads, const void *data, uint32_t dtype, uint64_t rows,
	uint64_t columns, int8_t *ret_q, float *ret_scales);

#endif
