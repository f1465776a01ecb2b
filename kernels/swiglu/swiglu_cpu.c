/* SPDX-License-Identifier: MIT */
/* swiglu, the fast form, of elements begin..end-1 of y. */
#include "kernels/isa.h"
#include "kernels/swiglu/silu.h"

/* Where `n` elements side by side come from and go. */
struct span {
	const char *gate, *up;
	char *y;
	uint64_t n;
};

V_INLINE void run_span(const struct span *s, uint32_t dtype, uint32_t out_dtype)
{
	const uint64_t size = v_size(dtype), out_size = v_size(out_dtype);
	uint64_t i = 0;

	for (; s->n - i >= VL; i += VL)
		v_store(s->y + i * out_size,
			silu(v_load(s->gate + i * size, dtype)) * v_load(s->up + i * size, dtype),
			VL, out_dtype);
	if (i < s->n) {
		const uint32_t left = (uint32_t)(s->n - i);
		const vf g = v_load_tail(s->gate + i * size, left, dtype);

		v_store(s->y + i * out_size, silu(g) * v_load_tail(s->up + i * size, left, dtype),
			left, out_dtype);
	}
}

/* Elements begin..end-1 of y. Where up lies beside the gate, spans end where rows do. */
V_INLINE void spans(const struct op_call *call, uint64_t begin, uint64_t end, uint32_t dtype,
	uint32_t out_dtype)
{
	const struct tensor *y = &call->out[0];
	const bool both = call->in[1].dtype == 0;
	const uint64_t columns = both ? y->dims[y->rank - 1] : end, size = v_size(dtype);

	while (begin < end) {
		const uint64_t column = begin % columns, left = columns - column;
		const uint64_t at = both ? 2 * begin - column : begin;
		const char *gate = (const char *)call->in[0].data + at * size;
		const struct span s = {
			.gate = gate,
			.up = both ? gate + columns * size
				   : (const char *)call->in[1].data + at * size,
			.y = (char *)y->data + begin * v_size(out_dtype),
			.n = left < end - begin ? left : end - begin,
		};

		run_span(&s, dtype, out_dtype);
		begin += s.n;
	}
}

void ISA_PASTE(swiglu_cpu, KERNELS_ISA)(const struct op_call *call, uint64_t begin, uint64_t end)
{
	const bool wide = call->out[0].dtype == GPUQ_F32;

	V_WITH_DTYPE(call->in[0].dtype, spans(call, begin, end, DTYPE, wide ? GPUQ_F32 : DTYPE));
}
