/* SPDX-License-Identifier: MIT */
/*
 * softmax: turns each row of scores into probabilities.
 *
 *   x [..,D] of rank 1 to 8, param temperature T (f64, 1e-30 to 1e30, 1 unless given) -> y as x
 *   y[r,d] = exp((x[r,d] - m) / T) / sum_e exp((x[r,e] - m) / T),  m = max_e x[r,e]
 *
 * x is f32, f16 or bf16; y is f32 or of x's type. Empty tensors are fine. The exponent is that
 * of the formula as IEEE 754 evaluates it, so a row with a NaN or a +inf, or of -inf alone, is
 * NaN throughout (inf - inf); a -inf beside a finite score gives 0.
 *
 * Tolerance of the fast forms, which work in f32: |y - ref| <= 2e-5 ref + 2^-148. Of the exponent
 * t, at most 104 in magnitude before exp(t) is 0, three roundings of 2^-24 each (x - m, 1/T,
 * their product) make 1.9e-5; exp adds 2e-7 and the sum 5e-7; results below 2^-126 are rounded
 * to the last bit of subnormals twice. Over a call the relative L2 is at most 2e-6, since what
 * weighs in it has a small exponent. f16 and bf16 results are that value rounded once.
 */
#include "kernels/element.h"
#include "kernels/isa.h"
#include "kernels/ops.h"
#include "kernels/work.h"

#include <math.h>

static int infer(struct op_call *call, uint32_t *ret_arg)
{
	const struct tensor *x = &call->in[0];
	struct tensor *y = &call->out[0];

	if (x->rank == 0) {
		*ret_arg = 0;
		return -GPUQ_ERANK;
	}
	if (!dtype_fits_output(y->dtype, x->dtype)) {
		*ret_arg = GPUQ_MAX_INPUTS;
		return -GPUQ_EDTYPE;
	}
	tensor_shape_as(y, x);
	return 0;
}

/* A unit is one row. Rows without elements are no work, however many there are. */
static uint64_t units(const struct op_call *call)
{
	return tensor_columns(&call->in[0]) == 0 ? 0 : tensor_rows(&call->in[0]);
}

static uint64_t work(const struct op_call *call)
{
	const uint64_t per_row = work_add(work_round_up(tensor_columns(&call->in[0]), 16), 32);

	return work_mul(units(call), per_row);
}

static void example(struct op_call *call, uint64_t scale)
{
	call->in[0].rank = 2;
	call->in[0].dims[0] = scale;
	call->in[0].dims[1] = 64;
}

static void reference(const struct op_call *call)
{
	const struct tensor *x = &call->in[0], *y = &call->out[0];
	const uint64_t n = x->dims[x->rank - 1];

	for (uint64_t row = 0; row < units(call); row++) {
		double greatest = -INFINITY, sum = 0;

		for (uint64_t i = row * n; i < (row + 1) * n; i++)
			greatest = fmax(greatest, element_get(x->data, x->dtype, i));
		for (uint64_t i = row * n; i < (row + 1) * n; i++)
			sum += exp((element_get(x->data, x->dtype, i) - greatest) /
				call->params[0].f64);
		for (uint64_t i = row * n; i < (row + 1) * n; i++) {
			const double v = element_get(x->data, x->dtype, i);

			element_set(y->data, y->dtype, i,
				exp((v - greatest) / call->params[0].f64) / sum);
		}
	}
}

ISA_RUN(ISA_FORMS(softmax))

const struct op op_softmax = {
	.name = "softmax",
	.summary = "Turns rows of scores into probabilities.",
	.formula = "y[..,d] = exp(x[..,d] / temperature) / sum_e exp(x[..,e] / temperature)",
	.n_inputs = 1,
	.n_outputs = 1,
	.n_params = 1,
	.inputs = {{"x", "[..,D]", FLOAT_DTYPES}},
	.outputs = {{"y", "[..,D]", FLOAT_DTYPES}},
	.params = {{"temperature", "divides the scores; small is sharp", GPUQ_PARAM_F64, 1, 1e-30,
		1e30}},
	.infer = infer,
	.units = units,
	.work = work,
	.example = example,
	.reference = reference,
	.cpu = cpu,
};
