/* SPDX-License-Identifier: MIT */
/*
 * dot.h: dot products of many rows, the inner loop of operators that read a matrix once. The
 * order of additions in one product depends on its length alone, not on its place among the
 * rows. Compiled once per instruction set, like those who include it.
 */
#ifndef GPUQ_KERNELS_DOT_H
#define GPUQ_KERNELS_DOT_H

#include "kernels/isa.h"
#include "kernels/vec.h"

/* Rows at distance row_bytes; their partners at distance vec_bytes, 0 when all share one. */
struct dot_rows {
	const char *rows, *vecs;
	uint64_t row_bytes, vec_bytes;
	uint64_t n; /* elements of a row */
};

/* Where dot products go, the bias added to each: NULL when absent, else of the rows' dtype. */
struct dot_out {
	char *y;
	const char *bias;
	uint32_t dtype;
};

/* Writes sums to y[i], as many of `count` as there are lanes. */
V_INLINE void dot_store(
	const struct dot_out *out, uint64_t i, uint64_t count, vf sums, uint32_t dtype)
{
	if (out->bias != NULL) {
		const char *bias = out->bias + i * v_size(dtype);

		sums += count >= VL ? v_load(bias, dtype)
				    : v_load_tail(bias, (uint32_t)count, dtype);
	}
	v_store(out->y + i * v_size(out->dtype), sums, count, out->dtype);
}

/*
 * Writes the dot products of rows 0..count-1. All rows, vectors and the bias are of one dtype.
 * A call must not be inlined into many: this is where most of the fast forms' code is.
 */
void ISA_PASTE(dot_run, KERNELS_ISA)(
	const struct dot_rows *d, const struct dot_out *out, uint64_t count, uint32_t dtype);
#define dot_run ISA_PASTE(dot_run, KERNELS_ISA)

#endif
