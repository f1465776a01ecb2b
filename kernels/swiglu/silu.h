/* SPDX-License-Identifier: MIT */
/*
 * silu.h: the activation of swiglu, g / (1 + exp(-g)), of a vector of floats. Included only by
 * sources that are compiled once per instruction set.
 */
#ifndef GPUQ_KERNELS_SWIGLU_SILU_H
#define GPUQ_KERNELS_SWIGLU_SILU_H

#include "kernels/exp.h"

/*
 * With e = exp(-|g|), which cannot overflow, silu(g) is g / (1 + e), or g e / (1 + e) for g < 0.
 * The operand order of the maximum keeps a NaN.
 */
V_INLINE vf silu(vf g)
{
	const vf magnitude = (vf)((vi)g & 0x7fffffff);
	const vf e = v_exp_nonpositive(v_max(v_set1(EXP_MIN), -magnitude));
	const vf numerator = v_select(g < 0, e, v_set1(1));

	return g * (numerator / (e + 1));
}

#endif
