/* SPDX-License-Identifier: MIT */
/*
 * exp.h: the exponential of a vector of floats, for the fast forms whose exponents are never
 * positive. Included only by sources that are compiled once per instruction set.
 */
#ifndef GPUQ_KERNELS_EXP_H
#define GPUQ_KERNELS_EXP_H

#include "kernels/vec.h"

#define EXP_MIN -150.0f		 /* exp() of this and less is 0 in f32 */
#define ROUND_MAGIC 0x1.8p23f	 /* adding it rounds to an integer in the low bits */
#define LOG2_E 0x1.715476p0f	 /* 1 / ln 2 */
#define LN2_HIGH 0x1.63p-1f	 /* 355/512: times an exponent it is exact */
#define LN2_LOW -0x1.bd0106p-13f /* ln 2 - LN2_HIGH */

/* p 2^n for integral n (-300 to 1) in floats, rounded once, down to subnormals. */
V_INLINE vf v_scale(vf p, vf n, vi n_bits)
{
#if VL == 16
	return _mm512_scalef_ps(p, n);
#else
	const vi half = n_bits >> 1;

	return p * (vf)((vu)(half + 127) << 23) * (vf)((vu)(n_bits - half + 127) << 23);
#endif
}

/*
 * exp(t) for EXP_MIN <= t <= 0 or NaN, within 2 units in the last place: t = n ln 2 + r with
 * |r| <= ln(2)/2, and exp(r) by the polynomial 1 + r + r^2 q(r) of least relative error (3e-9).
 */
V_INLINE vf v_exp_nonpositive(vf t)
{
	const vf magic = v_set1(ROUND_MAGIC);
	const vf rounded = v_fma(t, v_set1(LOG2_E), magic);
	const vf n = rounded - magic;
	const vf r = v_fma(n, v_set1(-LN2_LOW), v_fma(n, v_set1(-LN2_HIGH), t));
	vf p = v_set1(0.00138145986467f);

	p = v_fma(p, r, v_set1(0.00836871687973f));
	p = v_fma(p, r, v_set1(0.0416683880453f));
	p = v_fma(p, r, v_set1(0.166665206317f));
	p = v_fma(p, r, v_set1(0.499999934478f));
	p = v_fma(p, r, v_set1(1.0f));
	p = v_fma(p, r, v_set1(1.0f));
	return v_scale(p, n, (vi)rounded - (vi)magic);
}

#endif
