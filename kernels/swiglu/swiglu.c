/* SPDX-License-Identifier: MIT */
/*
 * swiglu: the gated activation of a feed-forward layer (Shazeer 2020).
 *
 *   gate [..,F] of rank 1 to 8, up as gate -> y as gate
 *   y = gate / (1 + exp(-gate)) * up, element by element
 *
 * Without up, gate is [..,2F]: the first half of each row is the gate, the second half up, and y
 * is [..,F]. So one product with the matrices of both gives what is needed.
 *
 * Inputs are f32, f16 or bf16, both the same; y is f32 or of the inputs' type. Empty tensors are
 * fine. NaN and infinities are those of the formula as IEEE 754 evaluates it; so a gate of -inf
 * gives NaN.
 *
 * Tolerance of the fast forms, which work in f32: |y - ref| <= 1e-6 |ref| + 2^-141 |up| + 2^-149.
 * exp adds 2e-7 of a value, four roundings 2.4e-7. The exponential of a gate below -87 is
 * subnormal and off by up to 2^-149, which the gate, at most 104 in magnitude before exp is 0,
 * and up multiply; beside an infinite up of such a gate any value may come out. Over a call the
 * relative L2 is at most 1e-6. f16 and bf16 results are that value rounded once. Where |ref| is
 * above f32 the result is infinite.
 */
#include "kernels/element.h"
#include "kernels/isa.h"
#include "kernels/ops.h"
#include "kernels/work.h"

#include <math.h>

#define UNIT 512 /* elements */

static int infer_shape(const struct op_call *call, uint32_t *ret_arg)
{
	const struct tensor *gate = &call->in[0], *up = &call->in[1];

	*ret_arg = 0;
	if (gate->rank == 0)
		return -GPUQ_ERANK;
	if (!tensor_present(up))
		return tensor_columns(gate) % 2 == 0 ? 0 : -GPUQ_ESHAPE;
	*ret_arg = 1;
	if (up->dtype != gate->dtype)
		return -GPUQ_EDTYPE;
	if (!tensor_same_shape(up, gate))
		return up->rank != gate->rank ? -GPUQ_ERANK : -GPUQ_ESHAPE;
	return 0;
}

static int infer(struct op_call *call, uint32_t *ret_arg)
{
	struct tensor *y = &call->out[0];
	const int err = infer_shape(call, ret_arg);

	if (err != 0)
		return err;
	if (!dtype_fits_output(y->dtype, call->in[0].dtype)) {
		*ret_arg = GPUQ_MAX_INPUTS;
		return -GPUQ_EDTYPE;
	}
	tensor_shape_as(y, &call->in[0]);
	if (!tensor_present(&call->in[1]))
		y->dims[y->rank - 1] /= 2;
	return 0;
}

static uint64_t elements(const struct op_call *call)
{
	return tensor_rows(&call->out[0]) * tensor_columns(&call->out[0]);
}

/* A unit is UNIT elements, wherever rows end. */
static uint64_t units(const struct op_call *call)
{
	return (elements(call) + UNIT - 1) / UNIT;
}

static uint64_t work(const struct op_call *call)
{
	return work_mul(work_round_up(elements(call), 16), 4);
}

static void example(struct op_call *call, uint64_t scale)
{
	call->in[0].rank = 1;
	call->in[0].dims[0] = 128 * scale;
}

static void reference(const struct op_call *call)
{
	const struct tensor *gate = &call->in[0], *y = &call->out[0];
	const bool both = !tensor_present(&call->in[1]);
	const struct tensor *up = both ? gate : &call->in[1];
	const uint64_t columns = tensor_columns(y);

	for (uint64_t i = 0; i < elements(call); i++) {
		const uint64_t at = both ? i + i / columns * columns : i;
		const double g = element_get(gate->data, gate->dtype, at);

		element_set(y->data, y->dtype, i,
			g / (1 + exp(-g)) *
				element_get(up->data, up->dtype, both ? at + columns : at));
	}
}

static void cpu(const struct op_call *call, uint64_t begin, uint64_t end)
{
	static op_cpu_fn *const forms[ISA_COUNT] = ISA_FORMS(swiglu);
	const uint64_t n = elements(call);

	forms[isa_selected()](call, begin * UNIT, end * UNIT < n ? end * UNIT : n);
}

const struct op op_swiglu = {
	.name = "swiglu",
	.summary = "The gated activation of a feed-forward layer: silu(gate) * up.",
	.formula = "y = gate / (1 + exp(-gate)) * up",
	.n_inputs = 2,
	.n_outputs = 1,
	.inputs = {{"gate", "[..,2F] without up or [..,F]", FLOAT_DTYPES},
		{"up", "[..,F]", FLOAT_DTYPES, .optional = true}},
	.outputs = {{"y", "[..,F]", FLOAT_DTYPES}},
	.infer = infer,
	.units = units,
	.work = work,
	.example = example,
	.reference = reference,
	.cpu = cpu,
};
