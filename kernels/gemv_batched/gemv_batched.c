/* SPDX-License-Identifier: MIT */
/*
 * gemv_batched: a matrix times each vector of a batch, plus a bias.
 *
 *   x [B,I], w [O,I] shared by the batch or [B,O,I], optional bias [O] -> y [B,O]
 *   y[b,o] = sum_i w[o,i] x[b,i] + bias[o]          or w[b,o,i]
 *
 * Inputs are f32, f16 or bf16, all the same; y is f32 or of the inputs' type. I = 0 gives the
 * bias. NaN and infinities follow IEEE 754: they reach the outputs that they are a term of, as
 * inf * 0 and inf - inf do.
 *
 * Tolerance of the fast forms, which accumulate in f32: |y - ref| <= 1e-5 S + (I + 1) 2^-149,
 * where S is the sum of |products| and |bias|. It is certain: no product passes through more than
 * 70 additions that are off by 2^-24 of a partial sum each, since longer sums are made of
 * compensated sums of short ones. Over a call the relative L2 is at most 2e-6, against the
 * greater of ref and the root of the sum of squared products: a single output that cancels owes
 * no digits that its products do not have. 2^-149 is the last bit of subnormals, which are kept.
 * f16 and bf16 outputs are that value rounded once. Where S overflows f32 an output may be
 * infinite or NaN.
 */
#include "kernels/gemv_batched/gemv_batched.h"
#include "kernels/element.h"
#include "kernels/isa.h"
#include "kernels/ops.h"
#include "kernels/work.h"

static int infer_w(const struct tensor *x, const struct tensor *w)
{
	if (w->dtype != x->dtype)
		return -GPUQ_EDTYPE;
	if (w->rank != 2 && w->rank != 3)
		return -GPUQ_ERANK;
	if (w->dims[w->rank - 1] != x->dims[1])
		return -GPUQ_ESHAPE;
	if (w->rank == 3 && w->dims[0] != x->dims[0])
		return -GPUQ_ESHAPE;
	return 0;
}

static int infer_bias(const struct tensor *w, const struct tensor *bias)
{
	if (!tensor_present(bias))
		return 0;
	if (bias->dtype != w->dtype)
		return -GPUQ_EDTYPE;
	if (bias->rank != 1)
		return -GPUQ_ERANK;
	return bias->dims[0] == w->dims[w->rank - 2] ? 0 : -GPUQ_ESHAPE;
}

static int infer(struct op_call *call, uint32_t *ret_arg)
{
	const struct tensor *x = &call->in[0], *w = &call->in[1];
	struct tensor *y = &call->out[0];
	int err = x->rank == 2 ? 0 : -GPUQ_ERANK;

	*ret_arg = 0;
	if (err == 0) {
		*ret_arg = 1;
		err = infer_w(x, w);
	}
	if (err == 0) {
		*ret_arg = 2;
		err = infer_bias(w, &call->in[2]);
	}
	if (err == 0 && !dtype_fits_output(y->dtype, x->dtype)) {
		*ret_arg = GPUQ_MAX_INPUTS;
		err = -GPUQ_EDTYPE;
	}
	if (err != 0)
		return err;
	y->rank = 2;
	y->dims[0] = x->dims[0];
	y->dims[1] = w->dims[w->rank - 2];
	return 0;
}

/* See gemv_batched.h for what a unit is. */
static uint64_t units(const struct op_call *call)
{
	const uint64_t outputs = call->out[0].dims[1];

	return call->out[0].dims[0] * (outputs / GEMV_BLOCK + (outputs % GEMV_BLOCK != 0));
}

/* Both ways of the fast form, in units of a multiply-add that finds its weight in registers. */
static uint64_t work(const struct op_call *call)
{
	const uint64_t batch = call->out[0].dims[0], outputs = call->out[0].dims[1];
	const uint64_t n = call->in[0].dims[1];
	const uint64_t lanes = work_round_up(outputs, 16);
	uint64_t products;

	if (call->in[1].rank == 3 || batch < GEMV_PANEL_MIN_ROWS)
		return work_mul(work_mul(batch, outputs), work_dot(n));
	products = work_mul(work_mul(work_add(batch, 4), lanes), n);
	return work_add(products, work_mul(work_mul(batch, lanes / 16), 150 * (1 + n / 64)));
}

static void example(struct op_call *call, uint64_t scale)
{
	call->in[0].rank = 2;
	call->in[0].dims[0] = scale;
	call->in[0].dims[1] = 64;
	call->in[1].rank = 2;
	call->in[1].dims[0] = 64;
	call->in[1].dims[1] = 64;
}

static void reference(const struct op_call *call)
{
	const struct tensor *x = &call->in[0], *w = &call->in[1], *bias = &call->in[2];
	const uint64_t outputs = call->out[0].dims[1], n = x->dims[1];

	for (uint64_t i = 0; i < call->out[0].dims[0] * outputs; i++) {
		const uint64_t batch = i / outputs, output = i % outputs;
		const uint64_t row = w->rank == 3 ? i : output;
		double sum = 0;

		for (uint64_t j = 0; j < n; j++)
			sum += element_get(w->data, w->dtype, row * n + j) *
				element_get(x->data, x->dtype, batch * n + j);
		if (tensor_present(bias))
			sum += element_get(bias->data, bias->dtype, output);
		element_set(call->out[0].data, call->out[0].dtype, i, sum);
	}
}

ISA_RUN(ISA_FORMS(gemv_batched))

const struct op op_gemv_batched = {
	.name = "gemv_batched",
	.summary = "Multiplies a matrix with each vector of a batch.",
	.formula = "y[b,o] = sum_i w[o,i] x[b,i] + bias[o]",
	.n_inputs = 3,
	.n_outputs = 1,
	.inputs = {{"x", "[B,I]", FLOAT_DTYPES}, {"w", "[O,I] or [B,O,I]", FLOAT_DTYPES},
		{"bias", "[O]", FLOAT_DTYPES, .optional = true}},
	.outputs = {{"y", "[B,O]", FLOAT_DTYPES}},
	.infer = infer,
	.units = units,
	.work = work,
	.example = example,
	.reference = reference,
	.cpu = cpu,
};
