/* SPDX-License-Identifier: MIT */
/*
 * rmsnorm: divides each row by its root mean square and weights its columns (Zhang & Sennrich
 * 2019), after adding a residual where there is one.
 *
 *   x [..,D] of rank 1 to 8, weight [D], residual as x (optional), param eps (f64, 1e-12 to 1,
 *   1e-5 unless given) -> y as x, sum as x (with a residual, and only then)
 *   sum[r,d] = x[r,d] + residual[r,d], rounded to the type of sum; without a residual it is x
 *   y[r,d] = sum[r,d] / sqrt(mean_e sum[r,e]^2 + eps) * weight[d]
 *
 * x is f32, f16 or bf16, residual is of x's type, weight of x's type or, beside an x of f32, any of
 * them; y and sum are f32 or of x's type. sum may lie where residual or x does, and y where x
 * does, if types are the same. Empty tensors are fine. NaN and infinities are those of the
 * formula as IEEE 754 evaluates it in double: a NaN spoils its row, an infinity becomes NaN and
 * leaves zeros beside it.
 *
 * Tolerance of the fast forms, which work in f32 and keep the total of squares in double:
 * |y - ref| <= 2e-6 |ref| + 2^-148 (1 + |weight|). A square passes through at most 36 additions
 * that are off by 2^-24 of a partial sum each, which the root halves; three roundings make
 * 1.8e-7. A row whose squares overflow f32 is computed in double. Over a call the relative L2 is
 * at most 2e-6. f16 and bf16 results are that value rounded once, and sum is the f32 sum rounded
 * to its type.
 */
#include "kernels/element.h"
#include "kernels/isa.h"
#include "kernels/ops.h"
#include "kernels/work.h"

#include <math.h>

static int infer_sum(struct op_call *call, uint32_t *ret_arg)
{
	const struct tensor *x = &call->in[0], *residual = &call->in[2];
	struct tensor *sum = &call->out[1];

	if (!tensor_present(residual) || !tensor_present(sum)) {
		*ret_arg = tensor_present(residual) ? GPUQ_MAX_INPUTS + 1 : 2;
		return tensor_present(residual) == tensor_present(sum) ? 0 : -GPUQ_EMISSING;
	}
	*ret_arg = 2;
	if (residual->dtype != x->dtype)
		return -GPUQ_EDTYPE;
	if (!tensor_same_shape(residual, x))
		return residual->rank != x->rank ? -GPUQ_ERANK : -GPUQ_ESHAPE;
	if (!dtype_fits_output(sum->dtype, x->dtype)) {
		*ret_arg = GPUQ_MAX_INPUTS + 1;
		return -GPUQ_EDTYPE;
	}
	tensor_shape_as(sum, x);
	return 0;
}

static int infer(struct op_call *call, uint32_t *ret_arg)
{
	const struct tensor *x = &call->in[0], *weight = &call->in[1];
	struct tensor *y = &call->out[0];

	if (x->rank == 0) {
		*ret_arg = 0;
		return -GPUQ_ERANK;
	}
	*ret_arg = 1;
	if (!dtype_fits_output(x->dtype, weight->dtype))
		return -GPUQ_EDTYPE;
	if (weight->rank != 1)
		return -GPUQ_ERANK;
	if (weight->dims[0] != tensor_columns(x))
		return -GPUQ_ESHAPE;
	if (!dtype_fits_output(y->dtype, x->dtype)) {
		*ret_arg = GPUQ_MAX_INPUTS;
		return -GPUQ_EDTYPE;
	}
	tensor_shape_as(y, x);
	return infer_sum(call, ret_arg);
}

/* A unit is one row. Rows without elements are no work, however many there are. */
static uint64_t units(const struct op_call *call)
{
	return tensor_columns(&call->in[0]) == 0 ? 0 : tensor_rows(&call->in[0]);
}

static uint64_t work(const struct op_call *call)
{
	const uint64_t row = work_add(work_round_up(tensor_columns(&call->in[0]), 16), 32);

	return work_mul(units(call), tensor_present(&call->in[2]) ? work_mul(row, 2) : row);
}

static void example(struct op_call *call, uint64_t scale)
{
	call->in[0].rank = 2;
	call->in[0].dims[0] = scale;
	call->in[0].dims[1] = 128;
	call->in[1].rank = 1;
	call->in[1].dims[0] = 128;
}

static void reference_row(const struct op_call *call, const struct tensor *summed, uint64_t from)
{
	const struct tensor *weight = &call->in[1], *y = &call->out[0];
	const uint64_t n = weight->dims[0];
	double squares = 0, root;

	for (uint64_t i = 0; i < n; i++) {
		const double v = element_get(summed->data, summed->dtype, from + i);

		squares += v * v;
	}
	root = sqrt(squares / (double)n + call->params[0].f64);
	for (uint64_t i = 0; i < n; i++)
		element_set(y->data, y->dtype, from + i,
			element_get(summed->data, summed->dtype, from + i) / root *
				element_get(weight->data, weight->dtype, i));
}

static void reference(const struct op_call *call)
{
	const struct tensor *x = &call->in[0], *residual = &call->in[2], *sum = &call->out[1];
	const uint64_t n = tensor_columns(x);

	for (uint64_t row = 0; row < units(call); row++) {
		if (!tensor_present(residual)) {
			reference_row(call, x, row * n);
			continue;
		}
		for (uint64_t i = row * n; i < (row + 1) * n; i++)
			element_set(sum->data, sum->dtype, i,
				element_get(x->data, x->dtype, i) +
					element_get(residual->data, residual->dtype, i));
		reference_row(call, sum, row * n);
	}
}

ISA_RUN(ISA_FORMS(rmsnorm))

const struct op op_rmsnorm = {
	.name = "rmsnorm",
	.summary = "Divides rows by their root mean square, after adding a residual.",
	.formula = "sum = x + residual; y[..,d] = sum[..,d] / sqrt(mean_e sum[..,e]^2 + eps) "
		   "weight[d]",
	.n_inputs = 3,
	.n_outputs = 2,
	.n_params = 1,
	.inputs = {{"x", "[..,D]", FLOAT_DTYPES}, {"weight", "[D]", FLOAT_DTYPES},
		{"residual", "[..,D]", FLOAT_DTYPES, true}},
	.outputs = {{"y", "[..,D]", FLOAT_DTYPES}, {"sum", "[..,D]", FLOAT_DTYPES, true}},
	.params = {{"eps", "keeps rows of zeros finite", GPUQ_PARAM_F64, 1e-5, 1e-12, 1}},
	.infer = infer,
	.units = units,
	.work = work,
	.example = example,
	.reference = reference,
	.cpu = cpu,
};
