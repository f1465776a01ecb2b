/* SPDX-License-Identifier: MIT */
/*
 * rmsnorm_row.h: one row of rmsnorm, the fast form: the sum with the residual and the sum of
 * squares, then the quotients. The second pass reads the sum where the first has left it, so that
 * it may lie where its terms do. Included only by sources that are compiled once per instruction
 * set.
 */
#ifndef GPUQ_KERNELS_RMSNORM_RMSNORM_ROW_H
#define GPUQ_KERNELS_RMSNORM_RMSNORM_ROW_H

#include "kernels/vec.h"

#include <float.h>
#include <math.h>

#define RMSNORM_CHUNK (32 * VL) /* elements: 32 squares in a sum of a lane */

struct rmsnorm_row {
	const char *x, *residual, *weight;
	char *y, *sum;
	uint64_t n;
	double eps;
};

struct rmsnorm_dtypes {
	uint32_t x, weight, y;
	uint32_t sum; /* 0: there is no residual */
};

V_INLINE vf rmsnorm_load(const char *p, uint64_t i, uint64_t n, uint32_t dtype)
{
	const char *at = p + i * v_size(dtype);

	return n - i >= VL ? v_load(at, dtype) : v_load_tail(at, (uint32_t)(n - i), dtype);
}

/* The elements that the row is made of, as they were stored. */
V_INLINE vf rmsnorm_summed(const struct rmsnorm_row *row, uint64_t i, const struct rmsnorm_dtypes t)
{
	return t.sum != 0 ? rmsnorm_load(row->sum, i, row->n, t.sum)
			  : rmsnorm_load(row->x, i, row->n, t.x);
}

/* The same where a whole vector is left. */
V_INLINE vf rmsnorm_whole(const struct rmsnorm_row *row, uint64_t i, const struct rmsnorm_dtypes t)
{
	const uint32_t dtype = t.sum != 0 ? t.sum : t.x;

	return v_load((t.sum != 0 ? row->sum : row->x) + i * v_size(dtype), dtype);
}

V_INLINE void rmsnorm_add_residual(
	const struct rmsnorm_row *row, uint64_t from, uint64_t to, const struct rmsnorm_dtypes t)
{
	for (uint64_t i = from; i < to; i += VL)
		v_store(row->sum + i * v_size(t.sum),
			rmsnorm_load(row->x, i, row->n, t.x) +
				rmsnorm_load(row->residual, i, row->n, t.x),
			row->n - i, t.sum);
}

V_INLINE double rmsnorm_squares(const struct rmsnorm_row *row, const struct rmsnorm_dtypes t)
{
	double squares = 0;

	for (uint64_t from = 0; from < row->n; from += RMSNORM_CHUNK) {
		const uint64_t left = row->n - from;
		const uint64_t to = left > RMSNORM_CHUNK ? from + RMSNORM_CHUNK : row->n;
		const uint64_t whole = from + (to - from) / VL * VL;
		vf sum = {0};

		if (t.sum != 0)
			rmsnorm_add_residual(row, from, to, t);
		for (uint64_t i = from; i < whole; i += VL) {
			const vf v = rmsnorm_whole(row, i, t);

			sum = v_fma(v, v, sum);
		}
		if (whole < to) {
			const vf v = rmsnorm_summed(row, whole, t);

			sum = v_fma(v, v, sum);
		}
		squares += v_sum(sum);
	}
	return squares;
}

/* What is divided by in a row whose squares overflow f32, or that holds a NaN or infinity. */
static inline double rmsnorm_extreme_root(
	const struct rmsnorm_row *row, const struct rmsnorm_dtypes t)
{
	const char *summed = t.sum != 0 ? row->sum : row->x;
	const uint32_t dtype = t.sum != 0 ? t.sum : t.x;
	double squares = 0;

	for (uint64_t i = 0; i < row->n; i++) {
		const double v = element_get(summed, dtype, i);

		squares += v * v;
	}
	return sqrt(squares / (double)row->n + row->eps);
}

/* Elements from..to-1 of such a row to y. */
static inline void rmsnorm_extreme_part(const struct rmsnorm_row *row, double root, uint64_t from,
	uint64_t to, char *y, const struct rmsnorm_dtypes t)
{
	const char *summed = t.sum != 0 ? row->sum : row->x;
	const uint32_t dtype = t.sum != 0 ? t.sum : t.x;

	for (uint64_t i = from; i < to; i++)
		element_set(y, t.y, i - from,
			element_get(summed, dtype, i) / root *
				element_get(row->weight, t.weight, i));
}

/* What each element is multiplied by; NaN: it is divided by rmsnorm_extreme_root(). */
V_INLINE float rmsnorm_factor(const struct rmsnorm_row *row, const struct rmsnorm_dtypes t)
{
	const double squares = rmsnorm_squares(row, t);

	return squares <= (double)FLT_MAX ? (float)(1 / sqrt(squares / (double)row->n + row->eps))
					  : NAN;
}

V_INLINE void rmsnorm_row(const struct rmsnorm_row *row, const struct rmsnorm_dtypes t)
{
	const float factor = rmsnorm_factor(row, t);

	if (isnan(factor)) {
		rmsnorm_extreme_part(row, rmsnorm_extreme_root(row, t), 0, row->n, row->y, t);
		return;
	}
	for (uint64_t i = 0; i < row->n; i += VL)
		v_store(row->y + i * v_size(t.y),
			rmsnorm_summed(row, i, t) * v_set1(factor) *
				rmsnorm_load(row->weight, i, row->n, t.weight),
			row->n - i, t.y);
}

#endif
