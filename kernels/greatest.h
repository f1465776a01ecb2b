/* SPDX-License-Identifier: MIT */
/*
 * greatest.h: the greatest of many elements, for the fast forms that look for it. Included only by
 * sources that are compiled once per instruction set.
 */
#ifndef GPUQ_KERNELS_GREATEST_H
#define GPUQ_KERNELS_GREATEST_H

#include "kernels/vec.h"

#include <math.h>

#define GREATEST_CHAINS 4 /* maxima side by side: one waits for the one before */

/* Of n elements that are not NaN; -inf when there are none. v_max() gives b for a NaN. */
V_INLINE float v_greatest(const char *x, uint64_t n, uint32_t dtype)
{
	const uint64_t size = v_size(dtype);
	vf greatest[GREATEST_CHAINS];
	uint64_t i = 0;

	V_UNROLL for (int j = 0; j < GREATEST_CHAINS; j++) greatest[j] = v_set1(-INFINITY);
	for (; n - i >= GREATEST_CHAINS * VL; i += GREATEST_CHAINS * VL) {
		V_UNROLL for (int j = 0; j < GREATEST_CHAINS; j++) greatest[j] =
			v_max(v_load(x + (i + (uint64_t)j * VL) * size, dtype), greatest[j]);
	}
	for (; n - i >= VL; i += VL)
		greatest[0] = v_max(v_load(x + i * size, dtype), greatest[0]);
	if (i < n) {
		const uint32_t left = (uint32_t)(n - i);
		const vf tail = v_load_tail(x + i * size, left, dtype);

		greatest[0] =
			v_max(v_select(v_tail_mask(left), tail, v_set1(-INFINITY)), greatest[0]);
	}
	V_UNROLL for (int j = 1; j < GREATEST_CHAINS; j++) greatest[0] =
		v_max(greatest[j], greatest[0]);
	return v_max_lanes(greatest[0])[0];
}

#endif
