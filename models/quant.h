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

#include <pthread.h>
#include <stdbool.h>

/*
 * Quantises rows of `columns` elements each; dtype is f32, f16 or bf16. -EDOM when an element is
 * infinite or no number: what has been written by then means nothing.
 */
int quant_rows(const void *data, uint32_t dtype, uint64_t rows, uint64_t columns, int8_t *ret_q,
	float *ret_scales);

#define QUANT_MAX_THREADS 16u
#define QUANT_MAX_BLOCKS 64u

/* What quant_rows() is given. */
struct quant_block {
	const void *data;
	uint32_t dtype;
	uint64_t rows, columns;
	int8_t *q;
	float *scales;
};

/* Blocks that threads of their own quantise. The caller fills in the first two members. */
struct quant {
	uint32_t n_blocks;
	struct quant_block blocks[QUANT_MAX_BLOCKS];
	uint32_t threads;
	struct quant_share {
		const struct quant *quant;
		int err;
		uint32_t block; /* the last one that it worked at */
		bool started;
		pthread_t thread;
	} shares[QUANT_MAX_THREADS];
};

/*
 * The same as quant_rows(), to the last bit, by so many threads, as long as there is enough for
 * each; 1 .. QUANT_MAX_THREADS. quant_finish() waits for them. -EDOM: *ret_block is the number of a
 * block with such an element.
 */
void quant_start(struct quant *quant, uint32_t threads);
int quant_finish(struct quant *quant, uint32_t *ret_block);

#endif
