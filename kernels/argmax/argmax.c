/* SPDX-License-Identifier: MIT */
/*
 * argmax: where the greatest element of each row is.
 *
 *   x [B,V], V from 1 to 2^31 - 1 -> index [B] i32, value [B] f32 (optional)
 *   index[b] = the least v with x[b,v] = max_u x[b,u];  value[b] = x[b,index[b]]
 *
 * x is f32, f16 or bf16. A NaN counts as -inf, also as a value, so a row of them has index 0.
 * Zeros of either sign are equal, and a value of zero is positive. Results are exact. Where x
 * changes while it is read, index is still within 0..V-1.
 */
#include "kernels/element.h"
#include "kernels/isa.h"
#include "kernels/ops.h"
#include "kernels/work.h"

#include <math.h>

static int infer(struct op_call *call, uint32_t *ret_arg)
{
	const struct tensor *x = &call->in[0];

	*ret_arg = 0;
	if (x->rank != 2)
		return -GPUQ_ERANK;
	if (x->dims[1] == 0 || x->dims[1] > INT32_MAX)
		return -GPUQ_ESHAPE;
	for (uint32_t i = 0; i < 2; i++) {
		if (!tensor_present(&call->out[i]))
			continue;
		call->out[i].rank = 1;
		call->out[i].dims[0] = x->dims[0];
	}
	return 0;
}

/* A unit is one row. */
static uint64_t units(const struct op_call *call)
{
	return call->in[0].dims[0];
}

static uint64_t work(const struct op_call *call)
{
	return work_mul(units(call), work_add(work_round_up(call->in[0].dims[1], 16), 32));
}

static void example(struct op_call *call, uint64_t scale)
{
	call->in[0].rank = 2;
	call->in[0].dims[0] = 1;
	call->in[0].dims[1] = 256 * scale;
}

static void reference(const struct op_call *call)
{
	const struct tensor *x = &call->in[0];

	for (uint64_t row = 0; row < units(call); row++) {
		double greatest = -INFINITY;
		int32_t index = 0;

		for (uint64_t i = 0; i < x->dims[1]; i++) {
			const double v = element_get(x->data, x->dtype, row * x->dims[1] + i);

			if (!(v > greatest))
				continue;
			greatest = v;
			index = (int32_t)i;
		}
		((int32_t *)call->out[0].data)[row] = index;
		if (tensor_present(&call->out[1]))
			((float *)call->out[1].data)[row] = (float)(greatest + 0.0);
	}
}

ISA_RUN(ISA_FORMS(argmax))

const struct op op_argmax = {
	.name = "argmax",
	.summary = "Finds the greatest element of each row.",
	.formula = "index[b] = the first v with x[b,v] = max_u x[b,u], value[b] = x[b,index[b]]",
	.n_inputs = 1,
	.n_outputs = 2,
	.inputs = {{"x", "[B,V]", FLOAT_DTYPES}},
	.outputs = {{"index", "[B]", GPUQ_DTYPE_BIT(GPUQ_I32)},
		{"value", "[B]", GPUQ_DTYPE_BIT(GPUQ_F32), true}},
	.infer = infer,
	.units = units,
	.work = work,
	.example = example,
	.reference = reference,
	.cpu = cpu,
};
