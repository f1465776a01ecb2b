/* SPDX-License-Identifier: MIT */
/* Tolerances; see verify.h. */
#include "tests/kernels/verify.h"
#include "kernels/element.h"

#include <float.h>
#include <math.h>
#include <stdio.h>

#define ELEMENT_BOUND 1e-5
#define SOFTMAX_BOUND 2e-5
#define L2_BOUND 2e-6
#define SUBNORMAL 0x1p-149

/* What is known of one output element apart from the reference's value. */
struct bound {
	double value;	 /* of the formula; NaN when not recomputed here */
	double scale;	 /* sum of |products| that are finite */
	double squares;	 /* sum of their squares */
	double floor;	 /* absolute error that subnormals cause */
	double relative; /* allowed error in units of scale */
};

/* The weights and the vector of an output, and the place of its bias or -1. */
struct terms {
	uint64_t x, w, n;
	int64_t bias;
};

static struct terms gemv_terms(const struct op_call *call, uint64_t i)
{
	const uint64_t outputs = call->out[0].dims[1], n = call->in[0].dims[1];
	const uint64_t row = call->in[1].rank == 3 ? i : i % outputs;

	return (struct terms){.x = i / outputs * n,
		.w = row * n,
		.n = n,
		.bias = tensor_present(&call->in[2]) ? (int64_t)(i % outputs) : -1};
}

static struct terms price_terms(const struct op_call *call, uint64_t i)
{
	const uint64_t assets = call->in[0].dims[1], n = call->in[0].dims[2];

	return (struct terms){
		.x = i * n, .w = call->in[1].rank == 2 ? i % assets * n : 0, .n = n, .bias = -1};
}

static void add_term(struct bound *b, double product)
{
	b->value += product;
	if (!isfinite(product))
		return;
	b->scale += fabs(product);
	b->squares += product * product;
}

static struct bound linear_bound(const struct op_call *call, uint64_t i)
{
	const struct terms terms =
		call->op == &op_gemv_batched ? gemv_terms(call, i) : price_terms(call, i);
	const struct tensor *x = &call->in[0], *w = &call->in[1], *bias = &call->in[2];
	struct bound b = {.relative = ELEMENT_BOUND, .floor = (double)(terms.n + 1) * SUBNORMAL};

	for (uint64_t j = 0; j < terms.n; j++)
		add_term(&b,
			element_get(x->data, x->dtype, terms.x + j) *
				element_get(w->data, w->dtype, terms.w + j));
	if (terms.bias >= 0)
		add_term(&b, element_get(bias->data, bias->dtype, (uint64_t)terms.bias));
	return b;
}

static struct bound softmax_bound(double expected)
{
	return (struct bound){.value = NAN,
		.scale = expected,
		.squares = expected * expected,
		.floor = 2 * SUBNORMAL,
		.relative = SOFTMAX_BOUND};
}

static double rounded(double value, uint32_t dtype)
{
	uint32_t room;

	element_set(&room, dtype, 0, value);
	return element_get(&room, dtype, 0);
}

/* Rounding never reorders, so an output in tolerance lies between the rounded bounds. */
bool verify_element(double expected, double tolerance, double actual, uint32_t dtype)
{
	if (isnan(expected))
		return isnan(actual);
	if (isinf(expected))
		return actual == expected;
	return actual >= rounded(expected - tolerance, dtype) &&
		actual <= rounded(expected + tolerance, dtype);
}

static bool element_ok(const struct bound *b, double expected, double actual, uint32_t dtype)
{
	return verify_element(expected, b->relative * b->scale + b->floor, actual, dtype);
}

static bool reference_ok(const struct bound *b, double expected)
{
	if (isnan(b->value))
		return isnan(expected);
	if (isinf(b->value))
		return expected == b->value;
	return fabs(expected - b->value) <= 1e-7 * b->scale + SUBNORMAL;
}

/* Each row of probabilities adds up to 1, or is NaN. */
static bool softmax_reference_ok(const struct trial *t, const float *expected)
{
	const struct tensor *x = &t->call.in[0];
	const uint64_t n = x->dims[x->rank - 1];

	for (uint64_t row = 0; row < t->n_outputs; row += n) {
		double sum = 0;

		for (uint64_t i = 0; i < n; i++)
			sum += expected[row + i];
		if (!isnan(sum) && fabs(sum - 1) > 1e-6)
			return false;
	}
	return true;
}

struct l2 {
	double error, expected, squares, floor;
};

static bool l2_ok(const struct l2 *l2)
{
	const double norm = sqrt(fmax(l2->expected, l2->squares));

	return sqrt(l2->error) <= L2_BOUND * norm + sqrt(l2->floor);
}

bool verify(const struct trial *t, char *what, size_t what_size)
{
	const struct tensor *out = &t->call.out[0];
	const float *expected = (const float *)t->expected.placed;
	const bool softmax = t->call.op == &op_softmax;
	struct l2 l2 = {0};

	if (softmax && !softmax_reference_ok(t, expected)) {
		snprintf(what, what_size, "a row of the reference does not add up to 1");
		return false;
	}
	for (uint64_t i = 0; i < t->n_outputs; i++) {
		const double actual = element_get(out->data, out->dtype, i);
		const struct bound b =
			softmax ? softmax_bound(expected[i]) : linear_bound(&t->call, i);

		if (b.scale > FLT_MAX)
			continue;
		if (!softmax && !reference_ok(&b, expected[i])) {
			snprintf(what, what_size,
				"element %lu: the reference says %.9g, the formula %.9g",
				(unsigned long)i, expected[i], b.value);
			return false;
		}
		if (!element_ok(&b, expected[i], actual, out->dtype)) {
			snprintf(what, what_size, "element %lu is %.9g, not %.9g +- %.3g",
				(unsigned long)i, actual, expected[i],
				b.relative * b.scale + b.floor);
			return false;
		}
		if (!isfinite(expected[i]) || !isfinite(actual))
			continue;
		l2.error += (actual - expected[i]) * (actual - expected[i]);
		l2.expected += (double)expected[i] * expected[i];
		l2.squares += b.squares;
		l2.floor += b.floor * b.floor;
	}
	if (out->dtype == GPUQ_F32 && !l2_ok(&l2)) {
		snprintf(what, what_size, "the L2 error is %.3g of %.3g", sqrt(l2.error),
			sqrt(fmax(l2.expected, l2.squares)));
		return false;
	}
	return true;
}

bool verify_same(const struct tensor *out, const void *a, const void *b, uint64_t elements)
{
	for (uint64_t i = 0; i < elements; i++) {
		const double left = element_get(a, out->dtype, i);
		const double right = element_get(b, out->dtype, i);

		if (left != right && !(isnan(left) && isnan(right)))
			return false;
		if (signbit(left) != signbit(right) && !isnan(left))
			return false;
	}
	return true;
}
