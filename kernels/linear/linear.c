/* SPDX-License-Identifier: MIT */
/*
 * linear: a layer's weights times each row of x, with what usually follows it.
 *
 *   x [N,I] or [N,A,B] with A B = I, w [O,I], scales [O] (beside weights of i8, and only there),
 *   bias [O] (optional), residual [N,O] (optional), param fixed_order (0 or 1, 0 unless given)
 *   -> y [N,O]
 *   y[n,o] = scales[o] * sum_i w[o,i] x[n,i] + bias[o] + residual[n,o]
 *
 * x and bias are f32, f16 or bf16, w any of these or i8, whatever the others are; scales and
 * residual are f32; y is f32 or of x's type, and may lie where residual does if it is f32. I = 0
 * gives what is added. With fixed_order 1 the bits of a row of y depend on that row alone: not on
 * N, nor on the rows beside it.
 *
 * NaN and infinities follow IEEE 754: they reach the outputs that they are a term of, as inf * 0
 * and inf - inf do. Beside i8 weights the fast forms give NaN for a row of x that holds either.
 *
 * Tolerance of the fast forms: |y - ref| <= 1e-5 S + max(1, |scale|) (E + (I + 1) 2^-149), where S
 * is the sum of |scale| |products|, |bias| and |residual|, and E is 0 but for the two below. It is
 * certain: no product passes through more than 140 additions that are off by 2^-24 of a partial
 * sum each, since longer sums are made of compensated sums of short ones. Over a call the relative
 * L2 is at most 2e-6, against the greater of ref and the root of the sum of squared products, and
 * what E adds. 2^-149 is the last bit of subnormals, which are kept. f16 and bf16 outputs are that
 * value rounded once. Where S or S without the scale overflows f32 an output may be infinite or
 * NaN.
 *
 * - bf16 weights on CPUs that multiply bf16, with 3 rows or more, with fixed_order 1 or with an x
 *   of bf16: x is rounded to bf16 (2^-8 of S), and what is below the normal numbers counts as 0,
 *   so E = 2^-8 sum |products| + 2^-125 sum_i (1 + |w| + |x|). An x above the greatest bf16 counts
 *   as infinite, a subnormal number times infinity as NaN. Elsewhere products are exact in f32.
 * - i8 weights: x is rounded to 1/16383 of the greatest of it within 1024 inputs, and sums of
 *   products are exact integers: E = 3.1e-5 max(1e-30, max |x|) sum |w|. Not so on CPUs without
 *   AVX2, where E = 0 and infinities pass.
 */
#include "kernels/linear/linear.h"
#include "kernels/element.h"
#include "kernels/isa.h"
#include "kernels/ops.h"
#include "kernels/work.h"

static bool has(const struct op_call *call, uint32_t i)
{
	return tensor_present(&call->in[i]);
}

static uint64_t inner(const struct op_call *call)
{
	return call->in[LINEAR_W].dims[1];
}

static int infer_w(const struct tensor *x, const struct tensor *w)
{
	if (w->rank != 2)
		return -GPUQ_ERANK;
	return w->dims[1] == x->dims[1] * (x->rank == 3 ? x->dims[2] : 1) ? 0 : -GPUQ_ESHAPE;
}

/* Something for each output. */
static int infer_vector(const struct op_call *call, uint32_t i)
{
	if (!has(call, i))
		return 0;
	if (call->in[i].rank != 1)
		return -GPUQ_ERANK;
	return call->in[i].dims[0] == call->in[LINEAR_W].dims[0] ? 0 : -GPUQ_ESHAPE;
}

static int infer_scales(const struct op_call *call)
{
	const bool needed = call->in[LINEAR_W].dtype == GPUQ_I8;

	if (needed != has(call, LINEAR_SCALES))
		return needed ? -GPUQ_EMISSING : -GPUQ_EARGS;
	return infer_vector(call, LINEAR_SCALES);
}

static int infer_residual(const struct op_call *call)
{
	const struct tensor *residual = &call->in[LINEAR_RESIDUAL];

	if (!tensor_present(residual))
		return 0;
	if (residual->rank != 2)
		return -GPUQ_ERANK;
	return residual->dims[0] == call->in[LINEAR_X].dims[0] &&
			residual->dims[1] == call->in[LINEAR_W].dims[0]
		? 0
		: -GPUQ_ESHAPE;
}

static int infer(struct op_call *call, uint32_t *ret_arg)
{
	const struct tensor *x = &call->in[LINEAR_X];
	struct tensor *y = &call->out[0];
	int err = x->rank == 2 || x->rank == 3 ? 0 : -GPUQ_ERANK;

	*ret_arg = LINEAR_X;
	if (err == 0) {
		*ret_arg = LINEAR_W;
		err = infer_w(x, &call->in[LINEAR_W]);
	}
	if (err == 0) {
		*ret_arg = LINEAR_SCALES;
		err = infer_scales(call);
	}
	if (err == 0) {
		*ret_arg = LINEAR_BIAS;
		err = infer_vector(call, LINEAR_BIAS);
	}
	if (err == 0) {
		*ret_arg = LINEAR_RESIDUAL;
		err = infer_residual(call);
	}
	if (err == 0 && !dtype_fits_output(y->dtype, x->dtype)) {
		*ret_arg = GPUQ_MAX_INPUTS;
		err = -GPUQ_EDTYPE;
	}
	if (err != 0)
		return err;
	y->rank = 2;
	y->dims[0] = x->dims[0];
	y->dims[1] = call->in[LINEAR_W].dims[0];
	return 0;
}

static uint64_t blocks(uint64_t n, uint64_t block)
{
	return n / block + (n % block != 0);
}

static uint64_t units(const struct op_call *call)
{
	const struct tensor *y = &call->out[0];

	return blocks(y->dims[0], LINEAR_ROWS) * blocks(y->dims[1], LINEAR_OUTPUTS);
}

/* A weight costs about as much to read as to multiply once. */
static uint64_t work(const struct op_call *call)
{
	const uint64_t rows = call->out[0].dims[0], outputs = call->out[0].dims[1];
	const uint64_t products = work_mul(work_add(rows, 1), work_round_up(inner(call), 16));

	if (rows == 0)
		return 0;
	return work_mul(outputs, work_add(products, work_mul(rows, 8)));
}

static void example(struct op_call *call, uint64_t scale)
{
	call->in[LINEAR_X].rank = 2;
	call->in[LINEAR_X].dims[0] = 1;
	call->in[LINEAR_X].dims[1] = 256;
	call->in[LINEAR_W].rank = 2;
	call->in[LINEAR_W].dims[0] = 16 * scale;
	call->in[LINEAR_W].dims[1] = 256;
}

static double weight_at(const struct tensor *w, uint64_t i)
{
	if (w->dtype == GPUQ_I8)
		return ((const int8_t *)w->data)[i];
	return element_get(w->data, w->dtype, i);
}

static double reference_output(const struct op_call *call, uint64_t row, uint64_t output)
{
	const struct tensor *x = &call->in[LINEAR_X], *w = &call->in[LINEAR_W];
	const struct tensor *bias = &call->in[LINEAR_BIAS];
	const uint64_t n = inner(call);
	double sum = 0;

	for (uint64_t i = 0; i < n; i++)
		sum += weight_at(w, output * n + i) * element_get(x->data, x->dtype, row * n + i);
	if (has(call, LINEAR_SCALES))
		sum *= ((const float *)call->in[LINEAR_SCALES].data)[output];
	if (has(call, LINEAR_BIAS))
		sum += element_get(bias->data, bias->dtype, output);
	return sum;
}

static void reference(const struct op_call *call)
{
	const struct tensor *y = &call->out[0];
	const float *residual = call->in[LINEAR_RESIDUAL].data;
	const uint64_t outputs = y->dims[1];

	for (uint64_t i = 0; i < y->dims[0] * outputs; i++) {
		double v = reference_output(call, i / outputs, i % outputs);

		if (has(call, LINEAR_RESIDUAL))
			v += residual[i];
		element_set(y->data, y->dtype, i, v);
	}
}

ISA_RUN(ISA_FORMS_SHORT(linear))

const struct op op_linear = {
	.name = "linear",
	.summary = "A layer's weights times each row, scaled, plus a bias and a residual.",
	.formula = "y[n,o] = scales[o] sum_i w[o,i] x[n,i] + bias[o] + residual[n,o]",
	.n_inputs = 5,
	.n_outputs = 1,
	.n_params = 1,
	.inputs = {{"x", "[N,I] or [N,A,B]", FLOAT_DTYPES},
		{"w", "[O,I]", FLOAT_DTYPES | GPUQ_DTYPE_BIT(GPUQ_I8)},
		{"scales", "[O]", GPUQ_DTYPE_BIT(GPUQ_F32), .optional = true},
		{"bias", "[O]", FLOAT_DTYPES, .optional = true},
		{"residual", "[N,O]", GPUQ_DTYPE_BIT(GPUQ_F32), .optional = true}},
	.outputs = {{"y", "[N,O]", FLOAT_DTYPES}},
	.params = {{"fixed_order", "1: the bits of a row do not depend on the others",
		GPUQ_PARAM_I64, 0, 0, 1}},
	.infer = infer,
	.units = units,
	.work = work,
	.example = example,
	.reference = reference,
	.cpu = cpu,
};
