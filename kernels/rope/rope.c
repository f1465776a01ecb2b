/* SPDX-License-Identifier: MIT */
/*
 * rope: rotary position embedding (Su et al. 2021), in the half-split layout of Hugging Face's
 * Llama: column i of a head makes a pair with column i + D/2.
 *
 *   x [T,H,D], D even, positions [T] i32 -> y as x
 *   a = positions[t] f(i)
 *   y[t,h,i]       = x[t,h,i] cos a - x[t,h,i + D/2] sin a
 *   y[t,h,i + D/2] = x[t,h,i + D/2] cos a + x[t,h,i] sin a       for i < D/2
 *
 * The frequency f(i) is theta^(-2i/D), changed as `scaling` says:
 *   0  not at all
 *   1  linear: f / factor
 *   2  llama3: with the wavelength w = 2 pi / f and L = original_length, f where
 *      w < L / high_freq_factor, f / factor where w >= L / low_freq_factor, and between them
 *      (1 - s) f / factor + s f,
 *      s = (L / w - low_freq_factor) / (high_freq_factor - low_freq_factor)
 *
 * x is f32, f16 or bf16; y is f32 or of x's type and may lie where x does if it is of x's type.
 * Any position is fine, a negative one turns back. Empty tensors are fine. NaN and infinities
 * follow IEEE 754: they spoil their pair and no other.
 *
 * Angles, their cosines and sines are computed in double, so that an angle is off by less than
 * |a| 2^-47: at position 131072 by less than 1e-9. Tolerance of the fast forms against the
 * reference: |y - ref| <= 2e-7 (|x[i]| + |x[i + D/2]|) + 2^-148, from two roundings of 2^-24 of
 * each product, cosine and sine included, and one of their sum. Over a call the relative L2 is at
 * most 2e-7. f16 and bf16 results are that value rounded once. Where |x| is within a factor of two
 * of the greatest f32 a result may be infinite.
 */
#include "kernels/rope/rope.h"
#include "kernels/element.h"
#include "kernels/isa.h"
#include "kernels/ops.h"
#include "kernels/work.h"

#include <math.h>

enum { SCALING_NONE, SCALING_LINEAR, SCALING_LLAMA3 };

static int infer(struct op_call *call, uint32_t *ret_arg)
{
	const struct tensor *x = &call->in[0], *positions = &call->in[1];

	if (x->rank != 3 || positions->rank != 1) {
		*ret_arg = x->rank != 3 ? 0 : 1;
		return -GPUQ_ERANK;
	}
	if (x->dims[2] % 2 != 0 || positions->dims[0] != x->dims[0]) {
		*ret_arg = x->dims[2] % 2 != 0 ? 0 : 1;
		return -GPUQ_ESHAPE;
	}
	if (!dtype_fits_output(call->out[0].dtype, x->dtype)) {
		*ret_arg = GPUQ_MAX_INPUTS;
		return -GPUQ_EDTYPE;
	}
	tensor_shape_as(&call->out[0], x);
	return 0;
}

/* A unit is one position: its angles serve all heads. */
static uint64_t units(const struct op_call *call)
{
	const uint64_t *dims = call->in[0].dims;

	return dims[1] == 0 || dims[2] == 0 ? 0 : dims[0];
}

/* A pair's cosine and sine take as long as about 64 elements. */
static uint64_t work(const struct op_call *call)
{
	const uint64_t *dims = call->in[0].dims;
	const uint64_t angles = work_mul(dims[2], 32);
	const uint64_t heads = work_mul(dims[1], work_round_up(dims[2], 32));

	return work_mul(units(call), work_add(angles, heads));
}

static void example(struct op_call *call, uint64_t scale)
{
	call->in[0].rank = 3;
	call->in[0].dims[0] = scale;
	call->in[0].dims[1] = 4;
	call->in[0].dims[2] = 16;
	call->in[1].rank = 1;
	call->in[1].dims[0] = scale;
}

static double llama3(const union op_value *params, double f)
{
	const double length = (double)params[ROPE_ORIGINAL_LENGTH].i64;
	const double low = params[ROPE_LOW_FREQ_FACTOR].f64;
	const double high = params[ROPE_HIGH_FREQ_FACTOR].f64;
	const double wavelength = 2 * M_PI / f;
	double share;

	if (wavelength < length / high)
		return f;
	/* What is between them has low < high. */
	if (wavelength >= length / low)
		return f / params[ROPE_FACTOR].f64;
	share = (length / wavelength - low) / (high - low);
	return (1 - share) * f / params[ROPE_FACTOR].f64 + share * f;
}

double rope_frequency(const union op_value *params, uint64_t pair, uint64_t columns)
{
	const double f = pow(params[ROPE_THETA].f64, -2.0 * (double)pair / (double)columns);

	switch (params[ROPE_SCALING].i64) {
	case SCALING_LINEAR:
		return f / params[ROPE_FACTOR].f64;
	case SCALING_LLAMA3:
		return llama3(params, f);
	default:
		return f;
	}
}

/* Pair i of all heads at position t. */
static void reference_pairs(const struct op_call *call, uint64_t t, uint64_t i, double a)
{
	const struct tensor *x = &call->in[0], *y = &call->out[0];
	const uint64_t heads = x->dims[1], columns = x->dims[2];
	const double c = cos(a), s = sin(a);

	for (uint64_t h = t * heads; h < (t + 1) * heads; h++) {
		const uint64_t first = h * columns + i, second = first + columns / 2;
		const double left = element_get(x->data, x->dtype, first);
		const double right = element_get(x->data, x->dtype, second);

		element_set(y->data, y->dtype, first, left * c - right * s);
		element_set(y->data, y->dtype, second, right * c + left * s);
	}
}

static void reference(const struct op_call *call)
{
	const uint64_t columns = call->in[0].dims[2];
	const int32_t *positions = call->in[1].data;

	for (uint64_t i = 0; i < columns / 2; i++) {
		const double frequency = rope_frequency(call->params, i, columns);

		for (uint64_t t = 0; t < units(call); t++)
			reference_pairs(call, t, i, positions[t] * frequency);
	}
}

ISA_RUN(ISA_FORMS(rope))

const struct op op_rope = {
	.name = "rope",
	.summary = "Rotates pairs of columns by an angle that grows with the position.",
	.formula = "y[t,h,i] = x[t,h,i] cos a - x[t,h,i+D/2] sin a, "
		   "y[t,h,i+D/2] = x[t,h,i+D/2] cos a + x[t,h,i] sin a, "
		   "a = positions[t] theta^(-2i/D)",
	.n_inputs = 2,
	.n_outputs = 1,
	.n_params = ROPE_N_PARAMS,
	.inputs = {{"x", "[T,H,D]", FLOAT_DTYPES}, {"positions", "[T]", GPUQ_DTYPE_BIT(GPUQ_I32)}},
	.outputs = {{"y", "[T,H,D]", FLOAT_DTYPES}},
	.params = {ROPE_PARAMS},
	.infer = infer,
	.units = units,
	.work = work,
	.example = example,
	.reference = reference,
	.cpu = cpu,
};
