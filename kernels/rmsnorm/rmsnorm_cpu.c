/* SPDX-License-Identifier: MIT */
/* rmsnorm, the fast form: its rows one after the other. */
#include "kernels/isa.h"
#include "kernels/rmsnorm/rmsnorm_row.h"

V_INLINE void rows(
	const struct op_call *call, uint64_t begin, uint64_t end, const struct rmsnorm_dtypes t)
{
	const struct tensor *x = &call->in[0];
	const uint64_t n = x->dims[x->rank - 1];
	struct rmsnorm_row row = {.weight = call->in[1].data, .n = n, .eps = call->params[0].f64};

	for (uint64_t i = begin; i < end; i++) {
		row.x = (const char *)x->data + i * n * v_size(t.x);
		row.y = (char *)call->out[0].data + i * n * v_size(t.y);
		if (t.sum != 0) {
			row.residual = (const char *)call->in[2].data + i * n * v_size(t.x);
			row.sum = (char *)call->out[1].data + i * n * v_size(t.sum);
		}
		rmsnorm_row(&row, t);
	}
}

void ISA_PASTE(rmsnorm_cpu, KERNELS_ISA)(const struct op_call *call, uint64_t begin, uint64_t end)
{
	const bool added = call->in[2].dtype != 0;
	const struct rmsnorm_dtypes t = {.x = call->in[0].dtype,
		.weight = call->in[1].dtype,
		.y = call->out[0].dtype,
		.sum = added ? call->out[1].dtype : 0};

	/* Where all are f32, a form without choices in its loops. */
	if (t.x != GPUQ_F32 || t.weight != GPUQ_F32)
		rows(call, begin, end, t);
	else
		rows(call, begin, end,
			(struct rmsnorm_dtypes){
				GPUQ_F32, GPUQ_F32, GPUQ_F32, added ? GPUQ_F32 : 0});
}
