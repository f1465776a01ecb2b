/* SPDX-License-Identifier: MIT */
/*
 * linear: a layer's weights times each row of x, with what usually comes before and follows it.
 *
 *   x [N,I] or [N,A,B] with A B = I, w [O,I] or [2,O,I], scales [O] or [2,O] as w (beside weights
 *   of i8, and only there), bias as scales (optional), residual [N,O] (optional), norm [I]
 *   (optional), params fixed_order (0 or 1, 0 unless given), eps (f64, 1e-12 to 1, 1e-5 unless
 *   given)
 *   -> y [N,O], normed [N,I] f32 (beside a norm, and only there)
 *   z[n,o] = scales[o] * sum_i w[o,i] v[n,i] + bias[o]
 *   v[n,i] = x[n,i], with a norm x[n,i] / sqrt(mean_j x[n,j]^2 + eps) * norm[i], as of rmsnorm
 *   y[n,o] = z[n,o] + residual[n,o], with a w [2,O,I], which makes a z[0,n,o] and a z[1,n,o],
 *            swiglu(z[0,n,o], z[1,n,o]) + residual[n,o]
 *
 * x, bias and norm are f32, f16 or bf16, w any of these or i8, whatever the others are, but x is
 * f32 beside a norm; scales and residual are f32; y is f32 or of x's type, and may lie where
 * residual does if it is f32. I = 0 gives what is added. With fixed_order 1 the bits of a row of y
 * depend on that row alone: not on N, nor on the rows beside it.
 *
 * Each form gives the bits that rmsnorm, linear and swiglu give one after the other, where these
 * hand on f32. `normed` is working memory of devices that normalise rows apart from the sums; what
 * is in it afterwards means nothing, and the form for the CPU leaves it alone.
 *
 * NaN and infinities follow IEEE 754: they reach the outputs that they are a term of, as inf * 0
 * and inf - inf do. Beside i8 weights the fast forms give NaN for a row of v that holds either.
 *
 * Tolerance of the fast forms: |y - ref| <= 1e-5 S + max(1, |scale|) (E + (I + 1) 2^-149), where S
 * is the sum of |scale| |products|, |bias| and |residual|, and E is 0 but for the two below. It is
 * certain: no product passes through more than 140 additions that are off by 2^-24 of a partial
 * sum each, since longer sums are made of compensated sums of short ones. Over a call the relative
 * L2 is at most 2e-6, 3e-6 with gates, whose outputs have the errors of two sums, against the
 * greater of ref and the root of the sum of squared products, and what E adds. 2^-149 is the last
 * bit of subnormals, which are kept. f16 and bf16 outputs are that value rounded once. Where S or S
 * without the scale overflows f32 an output may be infinite or NaN, as those of a row of v may that
 * has an element beyond f32.
 *
 * Beside a norm S and E are those of v, and E is greater by (1 + 1 / root) 2^-148 times the sum of
 * |w| (1 + |norm|) + 1. Of a gate g and an up u of tolerances G and U y has one of 1.1 G (|u| + U)
 * + |silu(g)| U and swiglu's, and their outputs are measured by the root of the sum of squared
 * products likewise.
 *
 * - bf16 weights on CPUs that multiply bf16, with 3 rows or more, with fixed_order 1 or with an x
 *   of bf16: v is rounded to bf16 (2^-8 of S), and what is below the normal numbers counts as 0,
 *   so E = 2^-8 sum |products| + 2^-125 sum_i (1 + |w| + |v|). A v above the greatest bf16 counts
 *   as infinite, a subnormal number times infinity as NaN. Elsewhere products are exact in f32.
 * - i8 weights: v is rounded to 1/16383 of the greatest of it within 1024 inputs, and sums of
 *   products are exact integers: E = 3.1e-5 max(1e-30, max |v|) sum |w|. Not so on CPUs without
 *   AVX2, where E = 0 and infinities pass.
 */
#include "kernels/linear/linear.h"
#include "kernels/element.h"
#include "kernels/isa.h"
#include "kernels/ops.h"
#include "kernels/work.h"

#include <math.h>

static bool has(const struct op_call *call, uint32_t i)
{
	return tensor_present(&call->in[i]);
}

/* Rows of the weights for each output. */
static uint64_t parts(const struct op_call *call)
{
	return linear_gated(call) ? 2 : 1;
}

static uint64_t outputs_of(const struct op_call *call)
{
	const struct tensor *w = &call->in[LINEAR_W];

	return w->dims[w->rank - 2];
}

static int infer_w(const struct tensor *x, const struct tensor *w)
{
	if (w->rank != 2 && w->rank != 3)
		return -GPUQ_ERANK;
	if (w->rank == 3 && w->dims[0] != 2)
		return -GPUQ_ESHAPE;
	return w->dims[w->rank - 1] == x->dims[1] * (x->rank == 3 ? x->dims[2] : 1) ? 0
										    : -GPUQ_ESHAPE;
}

/* Something for each row of the weights. */
static int infer_vector(const struct op_call *call, uint32_t i)
{
	const struct tensor *w = &call->in[LINEAR_W];

	if (!has(call, i))
		return 0;
	if (call->in[i].rank != w->rank - 1)
		return -GPUQ_ERANK;
	for (uint32_t d = 0; d < w->rank - 1; d++) {
		if (call->in[i].dims[d] != w->dims[d])
			return -GPUQ_ESHAPE;
	}
	return 0;
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
			residual->dims[1] == outputs_of(call)
		? 0
		: -GPUQ_ESHAPE;
}

static int infer_norm(struct op_call *call, uint32_t *ret_arg)
{
	const struct tensor *x = &call->in[LINEAR_X], *norm = &call->in[LINEAR_NORM];
	struct tensor *normed = &call->out[LINEAR_NORMED];

	*ret_arg = LINEAR_NORM;
	if (!tensor_present(norm))
		return tensor_present(normed) ? -GPUQ_EMISSING : 0;
	if (x->dtype != GPUQ_F32)
		return -GPUQ_EDTYPE;
	if (norm->rank != 1)
		return -GPUQ_ERANK;
	if (norm->dims[0] != linear_inner(call))
		return -GPUQ_ESHAPE;
	*ret_arg = GPUQ_MAX_INPUTS + LINEAR_NORMED;
	normed->rank = 2;
	normed->dims[0] = x->dims[0];
	normed->dims[1] = norm->dims[0];
	return tensor_present(normed) ? 0 : -GPUQ_EMISSING;
}

/* Inputs that fit x and w. */
static int infer_others(struct op_call *call, uint32_t *ret_arg)
{
	int err = infer_scales(call);

	*ret_arg = LINEAR_SCALES;
	if (err == 0) {
		*ret_arg = LINEAR_BIAS;
		err = infer_vector(call, LINEAR_BIAS);
	}
	if (err == 0) {
		*ret_arg = LINEAR_RESIDUAL;
		err = infer_residual(call);
	}
	return err != 0 ? err : infer_norm(call, ret_arg);
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
	if (err == 0)
		err = infer_others(call, ret_arg);
	if (err == 0 && !dtype_fits_output(y->dtype, x->dtype)) {
		*ret_arg = GPUQ_MAX_INPUTS;
		err = -GPUQ_EDTYPE;
	}
	if (err != 0)
		return err;
	y->rank = 2;
	y->dims[0] = x->dims[0];
	y->dims[1] = outputs_of(call);
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

/* Rows that cost as much as one of f32 where tiles of short numbers are multiplied. */
static uint64_t rows_as_one(const struct op_call *call)
{
	const uint32_t dtype = call->in[LINEAR_W].dtype;

	return isa_selected() == ISA_AMX && (dtype == GPUQ_BF16 || dtype == GPUQ_I8) ? 8 : 1;
}

/* A weight costs about as much to read as to multiply once. */
static uint64_t work(const struct op_call *call)
{
	const uint64_t rows = blocks(call->out[0].dims[0], rows_as_one(call));
	const uint64_t outputs = work_mul(call->out[0].dims[1], parts(call));
	const uint64_t inputs = work_round_up(linear_inner(call), 16);
	const uint64_t products = work_mul(work_add(rows, 1), inputs);
	const uint64_t normed = has(call, LINEAR_NORM) ? work_mul(rows, inputs) : 0;

	if (rows == 0)
		return 0;
	return work_add(normed, work_mul(outputs, work_add(products, work_mul(rows, 8))));
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

/* What a row of x is divided by: 1 without a norm. */
static double reference_root(const struct op_call *call, uint64_t row)
{
	const struct tensor *x = &call->in[LINEAR_X];
	const uint64_t n = linear_inner(call);
	double squares = 0;

	if (!has(call, LINEAR_NORM))
		return 1;
	for (uint64_t i = row * n; i < (row + 1) * n; i++) {
		const double v = element_get(x->data, x->dtype, i);

		squares += v * v;
	}
	return sqrt(squares / (double)n + call->params[LINEAR_EPS].f64);
}

/* The sum of a row of the weights, scaled, and its bias. */
static double reference_sum(const struct op_call *call, uint64_t row, double root, uint64_t w_row)
{
	const struct tensor *x = &call->in[LINEAR_X], *w = &call->in[LINEAR_W];
	const struct tensor *bias = &call->in[LINEAR_BIAS], *norm = &call->in[LINEAR_NORM];
	const uint64_t n = linear_inner(call);
	double sum = 0;

	for (uint64_t i = 0; i < n; i++) {
		double v = element_get(x->data, x->dtype, row * n + i);

		if (tensor_present(norm))
			v = v / root * element_get(norm->data, norm->dtype, i);
		sum += weight_at(w, w_row * n + i) * v;
	}
	if (has(call, LINEAR_SCALES))
		sum *= ((const float *)call->in[LINEAR_SCALES].data)[w_row];
	if (has(call, LINEAR_BIAS))
		sum += element_get(bias->data, bias->dtype, w_row);
	return sum;
}

static void reference_row(const struct op_call *call, uint64_t row)
{
	const struct tensor *y = &call->out[0];
	const float *residual = call->in[LINEAR_RESIDUAL].data;
	const uint64_t outputs = y->dims[1];
	const double root = reference_root(call, row);

	for (uint64_t i = 0; i < outputs; i++) {
		double v = reference_sum(call, row, root, i);

		if (linear_gated(call))
			v = v / (1 + exp(-v)) * reference_sum(call, row, root, outputs + i);
		if (has(call, LINEAR_RESIDUAL))
			v += residual[row * outputs + i];
		element_set(y->data, y->dtype, row * outputs + i, v);
	}
}

static void reference(const struct op_call *call)
{
	for (uint64_t row = 0; row < call->out[0].dims[0]; row++)
		reference_row(call, row);
}

ISA_RUN(ISA_FORMS_SHORT(linear))

const struct op op_linear = {
	.name = "linear",
	.summary = "A layer's weights times each row, normalised, scaled, gated, plus a residual.",
	.formula = "z[n,o] = scales[o] sum_i w[o,i] rmsnorm(x)[n,i] + bias[o]; "
		   "y[n,o] = z[n,o] + residual[n,o], w of [2,..]: swiglu(z[0,n,o], z[1,n,o]) + ..",
	.n_inputs = 6,
	.n_outputs = 2,
	.n_params = 2,
	.inputs = {{"x", "[N,I] or [N,A,B]", FLOAT_DTYPES},
		{"w", "[O,I] or [2,O,I]", FLOAT_DTYPES | GPUQ_DTYPE_BIT(GPUQ_I8)},
		{"scales", "[O] or [2,O]", GPUQ_DTYPE_BIT(GPUQ_F32), .optional = true},
		{"bias", "[O] or [2,O]", FLOAT_DTYPES, .optional = true},
		{"residual", "[N,O]", GPUQ_DTYPE_BIT(GPUQ_F32), .optional = true},
		{"norm", "[I]", FLOAT_DTYPES, .optional = true}},
	.outputs = {{"y", "[N,O]", FLOAT_DTYPES},
		{"normed", "[N,I]", GPUQ_DTYPE_BIT(GPUQ_F32), .optional = true}},
	.params = {{"fixed_order", "1: the bits of a row do not depend on the others",
			   GPUQ_PARAM_I64, 0, 0, 1},
		{"eps", "of the norm: keeps rows of zeros finite", GPUQ_PARAM_F64, 1e-5, 1e-12, 1}},
	.infer = infer,
	.units = units,
	.work = work,
	.example = example,
	.reference = reference,
	.cpu = cpu,
};
