/* SPDX-License-Identifier: MIT */
/* swiglu, the fast form, of elements begin..end-1; begin is a multiple of every VL. */
#include "kernels/exp.h"
#include "kernels/isa.h"

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

V_INLINE void span(const struct op_call *call, uint64_t begin, uint64_t end, uint32_t dtype,
	uint32_t out_dtype)
{
	const char *gate = call->in[0].data, *up = call->in[1].data;
	const uint64_t size = v_size(dtype), whole = begin + (end - begin) / VL * VL;
	char *y = call->out[0].data;

	for (uint64_t i = begin; i < whole; i += VL)
		v_store(y + i * v_size(out_dtype),
			silu(v_load(gate + i * size, dtype)) * v_load(up + i * size, dtype), VL,
			out_dtype);
	if (whole < end) {
		const uint32_t left = (uint32_t)(end - whole);
		const vf g = v_load_tail(gate + whole * size, left, dtype);

		v_store(y + whole * v_size(out_dtype),
			silu(g) * v_load_tail(up + whole * size, left, dtype), left, out_dtype);
	}
}

void ISA_PASTE(swiglu_cpu, KERNELS_ISA)(const struct op_call *call, uint64_t begin, uint64_t end)
{
	const bool wide = call->out[0].dtype == GPUQ_F32;

	switch (call->in[0].dtype) {
	case GPUQ_F32:
		span(call, begin, end, GPUQ_F32, GPUQ_F32);
		break;
	case GPUQ_F16:
		span(call, begin, end, GPUQ_F16, wide ? GPUQ_F32 : GPUQ_F16);
		break;
	default:
		span(call, begin, end, GPUQ_BF16, wide ? GPUQ_F32 : GPUQ_BF16);
		break;
	}
}
