/* SPDX-License-Identifier: MIT */
/*
 * price_vectors: scores vectors of prices (or any features) against a vector of weights.
 *
 *   prices [B,A,F], weights [F] or [A,F] -> scores [B,A]
 *   scores[b,a] = sum_f prices[b,a,f] weights[f]          or weights[a,f]
 *
 * Inputs are f32, f16 or bf16, both the same; scores are f32 or of the inputs' type. F = 0 gives
 * zeros. NaN and infinities follow IEEE 754: a NaN in a row, or inf * 0 or inf - inf, gives NaN
 * in its score and in no other.
 *
 * Tolerance of the fast forms, which accumulate in f32: |s - ref| <= 1e-5 S + F 2^-149, where S
 * is the sum of |products|. It is certain: no product passes through more than 40 additions that
 * are off by 2^-24 of a partial sum each, since longer sums are made of compensated sums of short
 * ones. Over a call the relative L2 is at most 2e-6, against the greater of ref and the root of
 * the sum of squared products: a single score that cancels owes no digits that its products do
 * not have. 2^-149 is the last bit of subnormals, which are kept. f16 and bf16 scores are that
 * value rounded once. Where S overflows f32 a score may be infinite or NaN.
 */
#include "kernels/element.h"
#include "kernels/isa.h"
#include "kernels/ops.h"
#include "kernels/work.h"

static int infer(struct op_call *call, uint32_t *ret_arg)
{
	const struct tensor *prices = &call->in[0], *weights = &call->in[1];
	struct tensor *scores = &call->out[0];

	if (prices->rank != 3) {
		*ret_arg = 0;
		return -GPUQ_ERANK;
	}
	*ret_arg = 1;
	if (weights->dtype != prices->dtype)
		return -GPUQ_EDTYPE;
	if (weights->rank != 1 && weights->rank != 2)
		return -GPUQ_ERANK;
	if (weights->dims[weights->rank - 1] != prices->dims[2])
		return -GPUQ_ESHAPE;
	if (weights->rank == 2 && weights->dims[0] != prices->dims[1])
		return -GPUQ_ESHAPE;
	if (!dtype_fits_output(scores->dtype, prices->dtype)) {
		*ret_arg = GPUQ_MAX_INPUTS;
		return -GPUQ_EDTYPE;
	}
	scores->rank = 2;
	scores->dims[0] = prices->dims[0];
	scores->dims[1] = prices->dims[1];
	return 0;
}

/* A unit is one score. */
static uint64_t units(const struct op_call *call)
{
	return call->in[0].dims[0] * call->in[0].dims[1];
}

static uint64_t work(const struct op_call *call)
{
	const uint64_t row = work_dot(call->in[0].dims[2]);

	/* Weights of their own are read beside every row. */
	return work_mul(units(call), call->in[1].rank == 2 ? work_mul(row, 2) : row);
}

static void example(struct op_call *call, uint64_t scale)
{
	call->in[0].rank = 3;
	call->in[0].dims[0] = scale;
	call->in[0].dims[1] = 16;
	call->in[0].dims[2] = 32;
	call->in[1].rank = 1;
	call->in[1].dims[0] = 32;
}

static void reference(const struct op_call *call)
{
	const struct tensor *prices = &call->in[0], *weights = &call->in[1];
	const uint64_t n_assets = prices->dims[1], n_features = prices->dims[2];

	for (uint64_t i = 0; i < units(call); i++) {
		const uint64_t row = weights->rank == 2 ? i % n_assets * n_features : 0;
		double sum = 0;

		for (uint64_t f = 0; f < n_features; f++)
			sum += element_get(prices->data, prices->dtype, i * n_features + f) *
				element_get(weights->data, weights->dtype, row + f);
		element_set(call->out[0].data, call->out[0].dtype, i, sum);
	}
}

ISA_RUN(ISA_FORMS(price_vectors))

const struct op op_price_vectors = {
	.name = "price_vectors",
	.summary = "Scores batches of feature vectors against weights.",
	.formula = "scores[b,a] = sum_f prices[b,a,f] weights[f]",
	.n_inputs = 2,
	.n_outputs = 1,
	.inputs = {{"prices", "[B,A,F]", FLOAT_DTYPES}, {"weights", "[F] or [A,F]", FLOAT_DTYPES}},
	.outputs = {{"scores", "[B,A]", FLOAT_DTYPES}},
	.infer = infer,
	.units = units,
	.work = work,
	.example = example,
	.reference = reference,
	.cpu = cpu,
};
