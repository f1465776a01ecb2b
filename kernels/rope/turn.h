/* SPDX-License-Identifier: MIT */
/*
 * turn.h: turns the pairs of columns of a head, for the fast forms. Included only by sources that
 * are compiled once per instruction set.
 */
#ifndef GPUQ_KERNELS_ROPE_TURN_H
#define GPUQ_KERNELS_ROPE_TURN_H

#include "kernels/vec.h"

#include <math.h>

#define TURN_PAIRS 256 /* a multiple of every VL */

struct turns {
	float cosines[TURN_PAIRS], sines[TURN_PAIRS];
};

static inline void turns_fill(
	struct turns *turns, const double *frequencies, uint64_t n, int32_t position)
{
	for (uint64_t i = 0; i < n; i++) {
		turns->cosines[i] = (float)cos(position * frequencies[i]);
		turns->sines[i] = (float)sin(position * frequencies[i]);
	}
}

/* Pairs of which the first elements are at x, the second ones half a head further. */
V_INLINE void turn(char *y, const char *x, const struct turns *turns, uint64_t n, uint64_t half,
	uint32_t dtype, uint32_t out_dtype)
{
	const char *right = x + half * v_size(dtype);
	char *y_right = y + half * v_size(out_dtype);

	for (uint64_t i = 0; i < n; i += VL) {
		const uint64_t left = n - i, at = i * v_size(dtype), to = i * v_size(out_dtype);
		const vf c = v_load_floats(turns->cosines + i);
		const vf s = v_load_floats(turns->sines + i);
		const vf a = left >= VL ? v_load(x + at, dtype)
					: v_load_tail(x + at, (uint32_t)left, dtype);
		const vf b = left >= VL ? v_load(right + at, dtype)
					: v_load_tail(right + at, (uint32_t)left, dtype);

		v_store(y + to, v_fma(a, c, -(b * s)), left, out_dtype);
		v_store(y_right + to, v_fma(b, c, a * s), left, out_dtype);
	}
}

#endif
