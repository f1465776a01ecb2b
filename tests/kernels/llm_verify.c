/* SPDX-License-Identifier: MIT */
/*
 * The formulas of the language-model operators once more, in long double where that says more,
 * and their tolerances; see llm_trial.h. The bounds are in the head of each operator's source.
 */
#include "kernels/element.h"
#include "kernels/isa.h"
#include "kernels/linear/linear.h"
#include "kernels/sample/sample.h"
#include "kernels/step_result/step_result.h"
#include "tests/kernels/attention_trial.h"
#include "tests/kernels/llm_trial.h"
#include "tests/kernels/verify.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct report {
	char *what;
	size_t size;
};

static double in_at(const struct op_call *call, uint32_t i, uint64_t at)
{
	return element_get(call->in[i].data, call->in[i].dtype, at);
}

static double out_at(const struct op_call *call, uint32_t i, uint64_t at)
{
	return element_get(call->out[i].data, call->out[i].dtype, at);
}

/* Element `at` of output i. What is beyond f32 is not looked at. */
static bool near(const struct op_call *call, uint32_t i, uint64_t at, double expected,
	double tolerance, const struct report *r)
{
	const double actual = out_at(call, i, at);

	if (isinf(tolerance) || (isfinite(expected) && fabs(expected) + tolerance > FLT_MAX))
		return true;
	if (verify_element(expected, tolerance, actual, call->out[i].dtype))
		return true;
	snprintf(r->what, r->size, "%s: element %lu is %.9g, not %.9g +- %.3g",
		call->op->outputs[i].name, (unsigned long)at, actual, expected, tolerance);
	return false;
}

static bool same_integer(const struct op_call *call, uint32_t i, uint64_t at, uint64_t expected,
	const struct report *r)
{
	const int32_t actual = ((const int32_t *)call->out[i].data)[at];

	if (actual == (int64_t)expected)
		return true;
	snprintf(r->what, r->size, "%s: element %lu is %d, not %lu", call->op->outputs[i].name,
		(unsigned long)at, actual, (unsigned long)expected);
	return false;
}

static uint64_t elements_of(const struct tensor *t)
{
	uint64_t elements, bytes;

	tensor_size(t, &elements, &bytes);
	return elements;
}

/* --- Operators ------------------------------------------------------------------------------ */

static bool verify_embedding(const struct op_call *call, const struct report *r)
{
	const uint64_t rows = call->in[1].dims[0], n = call->in[1].dims[1];
	bool ok = true;

	for (uint64_t i = 0; ok && i < call->in[0].dims[0] * n; i++) {
		const int64_t token = ((const int32_t *)call->in[0].data)[i / n];
		const bool known = token >= 0 && token < (int64_t)rows;

		ok = near(
			call, 0, i, known ? in_at(call, 1, (uint64_t)token * n + i % n) : 0, 0, r);
	}
	return ok;
}

static bool verify_rmsnorm_row(const struct op_call *call, uint64_t from, const struct report *r)
{
	const bool added = tensor_present(&call->in[2]);
	const uint64_t n = call->in[1].dims[0];
	long double squares = 0;
	bool ok = true;

	for (uint64_t i = from; ok && added && i < from + n; i++) {
		const double sum = in_at(call, 0, i) + in_at(call, 2, i);

		ok = near(call, 1, i, sum, fabs(sum) * 0x1p-24, r);
	}
	for (uint64_t i = from; i < from + n; i++) {
		const long double v = added ? out_at(call, 1, i) : in_at(call, 0, i);

		squares += v * v;
	}
	for (uint64_t i = from; ok && i < from + n; i++) {
		const long double v = added ? out_at(call, 1, i) : in_at(call, 0, i);
		const double weight = in_at(call, 1, i - from);
		const double y = (double)(v /
			sqrtl(squares / (long double)n + call->params[0].f64) * weight);
		const double floor = 0x1p-148 * (1 + fabs(weight));

		/* An infinite weight makes of what is nearly 0 anything. */
		ok = near(call, 0, i, y, isinf(floor) ? floor : 2e-6 * fabs(y) + floor, r);
	}
	return ok;
}

static bool verify_rmsnorm(const struct op_call *call, const struct report *r)
{
	const uint64_t n = call->in[1].dims[0];
	bool ok = true;

	for (uint64_t i = 0; ok && i < elements_of(&call->in[0]); i += n)
		ok = verify_rmsnorm_row(call, i, r);
	return ok;
}

static long double rope_turn(const struct op_call *call, uint64_t pair)
{
	const union op_value *p = call->params;
	const long double theta = p[0].f64, factor = p[2].f64, length = p[5].i64;
	const long double f =
		powl(theta, -2.0L * (long double)pair / (long double)call->in[0].dims[2]);
	const long double turns = length * f / (2 * 3.14159265358979323846264338328L);
	long double kept = 1; /* share of f that is not divided */

	if (p[1].i64 == 1)
		kept = 0;
	if (p[1].i64 == 2 && turns <= p[4].f64) {
		kept = (turns - p[3].f64) / ((long double)p[4].f64 - p[3].f64);
		kept = turns <= p[3].f64 ? 0 : kept;
	}
	return kept * f + (1 - kept) * f / factor;
}

/* Pair i of all heads at position t, which a turns. */
static bool verify_pairs(
	const struct op_call *call, uint64_t t, uint64_t i, long double a, const struct report *r)
{
	const uint64_t heads = call->in[0].dims[1], columns = call->in[0].dims[2];
	const long double c = cosl(a), s = sinl(a);
	bool ok = true;

	for (uint64_t h = t * heads; ok && h < (t + 1) * heads; h++) {
		const uint64_t first = h * columns + i, second = first + columns / 2;
		const double left = in_at(call, 0, first), right = in_at(call, 0, second);
		const double size = fabs(left) + fabs(right);
		const double tolerance =
			isfinite(size) ? size * (2e-7 + (double)fabsl(a) * 0x1p-47) + 0x1p-148 : 1;

		if (2 * size > FLT_MAX && isfinite(size))
			continue;
		ok = near(call, 0, first, (double)(left * c - right * s), tolerance, r) &&
			near(call, 0, second, (double)(right * c + left * s), tolerance, r);
	}
	return ok;
}

static bool verify_rope(const struct op_call *call, const struct report *r)
{
	const int32_t *positions = call->in[1].data;
	bool ok = true;

	for (uint64_t i = 0; i < call->in[0].dims[2] / 2; i++) {
		const long double turn = rope_turn(call, i);

		for (uint64_t t = 0; ok && t < call->in[0].dims[0]; t++)
			ok = verify_pairs(call, t, i, positions[t] * turn, r);
	}
	return ok;
}

static bool verify_swiglu(const struct op_call *call, const struct report *r)
{
	const bool apart = tensor_present(&call->in[1]);
	const uint64_t columns = call->out[0].dims[call->out[0].rank - 1];
	bool ok = true;

	for (uint64_t i = 0; ok && i < elements_of(&call->out[0]); i++) {
		const uint64_t at = apart ? i : i / columns * 2 * columns + i % columns;
		const double gate = in_at(call, 0, at);
		const double up = apart ? in_at(call, 1, at) : in_at(call, 0, at + columns);
		const double y = gate / (1 + exp(-gate)) * up;

		if (isinf(up) && gate < -87)
			continue;
		ok = near(call, 0, i, y,
			isfinite(up) ? 1e-6 * fabs(y) + 0x1p-141 * fabs(up) + 0x1p-149 : 1, r);
	}
	return ok;
}

static double weight_at(const struct op_call *call, uint64_t at)
{
	if (call->in[LINEAR_W].dtype == GPUQ_I8)
		return ((const int8_t *)call->in[LINEAR_W].data)[at];
	return in_at(call, LINEAR_W, at);
}

/* What a sum is, how large its terms are, and what may be wrong with it. */
struct linear_sum {
	double value, size, squares;
	double tolerance; /* besides 1e-5 of its size */
	double floor;	  /* what of it the L2 error may have besides */
};

static void add_term(struct linear_sum *sum, double term)
{
	sum->value += term;
	if (!isfinite(term))
		return;
	sum->size += fabs(term);
	sum->squares += term * term;
}

/* Whether the form multiplies i8 with words. */
static bool in_words(const struct op_call *call)
{
	return call->in[LINEAR_W].dtype == GPUQ_I8 && isa_selected() != ISA_BASE;
}

static bool in_pairs(const struct op_call *call)
{
	return linear_pairs(call) && isa_selected() >= ISA_AVX512_BF16;
}

/* x that is rounded to infinity, or a subnormal number, which counts as 0, times infinity. */
static bool pair_may_be_anything(double w, double x)
{
	return (isfinite(x) && fabs(x) > 0x1.fep127) ||
		(fmin(fabs(w), fabs(x)) < 0x1p-126 && isinf(fmax(fabs(w), fabs(x))));
}

/* An input that the norm made so small that it may be 0, times infinity. */
static bool normed_may_be_anything(const struct op_call *call, double w, double x)
{
	return tensor_present(&call->in[LINEAR_NORM]) && fabs(x) < 0x1p-126 && isinf(w);
}

/* What x is divided by in a row; 1 without a norm. */
static double linear_root(const struct op_call *call, uint64_t row)
{
	const uint64_t n = linear_inner(call);
	long double squares = 0;

	if (!tensor_present(&call->in[LINEAR_NORM]))
		return 1;
	for (uint64_t i = row * n; i < (row + 1) * n; i++) {
		const long double x = in_at(call, LINEAR_X, i);

		squares += x * x;
	}
	return (double)sqrtl(squares / (long double)n + call->params[LINEAR_EPS].f64);
}

/* What the norm's subnormal numbers add to the tolerance. */
static double norm_floor(const struct op_call *call, double root, uint64_t w_row)
{
	const uint64_t n = linear_inner(call);
	double weights = 1;

	if (!tensor_present(&call->in[LINEAR_NORM]))
		return 0;
	for (uint64_t i = 0; i < n; i++)
		weights += fabs(weight_at(call, w_row * n + i)) *
				(1 + fabs(in_at(call, LINEAR_NORM, i))) +
			1;
	/* Where the row or the weights are no numbers, nothing else is to be either. */
	weights *= (1 + 1 / root) * 0x1p-148;
	return isfinite(weights) ? weights : 0;
}

static double linear_input(const struct op_call *call, double root, uint64_t row, uint64_t i)
{
	const double x = in_at(call, LINEAR_X, row * linear_inner(call) + i);

	return tensor_present(&call->in[LINEAR_NORM]) ? x / root * in_at(call, LINEAR_NORM, i) : x;
}

/* Of a row of the weights. */
static struct linear_sum linear_sum(
	const struct op_call *call, uint64_t row, double root, uint64_t w_row)
{
	const uint64_t n = linear_inner(call);
	double weights = 0, inputs = 0, greatest = 1e-30;
	struct linear_sum sum = {.tolerance = (double)(n + 1) * 0x1p-149};

	for (uint64_t i = 0; i < n; i++) {
		const double w = weight_at(call, w_row * n + i);
		const double x = linear_input(call, root, row, i);

		add_term(&sum, w * x);
		weights += fabs(w);
		inputs += fabs(x);
		greatest = fmax(greatest, fabs(x));
		if (!isfinite(x) && in_words(call))
			sum.value = NAN;
		if ((in_pairs(call) && pair_may_be_anything(w, x)) ||
			normed_may_be_anything(call, w, x) || (isfinite(x) && fabs(x) > FLT_MAX))
			sum.tolerance = INFINITY;
	}
	if (in_words(call))
		sum.tolerance += 3.1e-5 * greatest * weights;
	if (in_pairs(call) && isfinite(weights + inputs))
		sum.tolerance += 0x1p-8 * sum.size + 0x1p-125 * ((double)n + weights + inputs);
	sum.tolerance += norm_floor(call, root, w_row);
	if (sum.size > FLT_MAX)
		sum.tolerance = INFINITY;
	return sum;
}

/* With its scale and bias; the tolerance is the whole one then. */
static struct linear_sum scaled_sum(
	const struct op_call *call, uint64_t row, double root, uint64_t w_row)
{
	const bool scaled = tensor_present(&call->in[LINEAR_SCALES]);
	const double scale = scaled ? in_at(call, LINEAR_SCALES, w_row) : 1;
	struct linear_sum sum = linear_sum(call, row, root, w_row);

	sum.tolerance *= fmax(1, fabs(scale));
	sum.floor = sum.tolerance;
	sum.value *= scale;
	sum.size *= fabs(scale);
	sum.squares *= scale * scale;
	if (tensor_present(&call->in[LINEAR_BIAS]))
		add_term(&sum, in_at(call, LINEAR_BIAS, w_row));
	return sum;
}

/* swiglu of two sums. Infinite ones, or beyond f32, may give anything; a NaN gives NaN. */
static struct linear_sum gated_sum(struct linear_sum gate, struct linear_sum up)
{
	const double g = 1e-5 * gate.size + gate.tolerance, u = 1e-5 * up.size + up.tolerance;
	const double silu = gate.value / (1 + exp(-gate.value)), y = silu * up.value;
	const double least = 0x1p-141 * fabs(up.value) + 0x1p-149;
	const double through = 1.1 * (fabs(up.value) + u);
	struct linear_sum sum = {.value = y};

	if (isinf(g) || isinf(u) || isinf(gate.value) || isinf(up.value) || gate.size > FLT_MAX ||
		up.size > FLT_MAX) {
		sum.tolerance = INFINITY;
		return sum;
	}
	if (isnan(y))
		return sum;
	sum.size = fabs(y);
	sum.tolerance = through * g + fabs(silu) * u + least;
	sum.floor = through * gate.floor + fabs(silu) * up.floor + least;
	sum.squares = 1.1 * fabs(up.value) * sqrt(gate.squares) + fabs(silu) * sqrt(up.squares);
	sum.squares *= sum.squares;
	return sum;
}

/* The errors of a call and what they are measured by. */
struct linear_l2 {
	double errors, values, squares, floors;
};

static bool verify_linear_output(const struct op_call *call, uint64_t row, double root,
	uint64_t output, struct linear_l2 *l2, const struct report *r)
{
	const uint64_t outputs = call->out[0].dims[1], at = row * outputs + output;
	struct linear_sum sum = scaled_sum(call, row, root, output);
	double error;

	if (linear_gated(call))
		sum = gated_sum(sum, scaled_sum(call, row, root, outputs + output));
	if (tensor_present(&call->in[LINEAR_RESIDUAL]))
		add_term(&sum, in_at(call, LINEAR_RESIDUAL, at));
	if (!(sum.size <= FLT_MAX))
		sum.tolerance = INFINITY;
	if (!near(call, 0, at, sum.value, 1e-5 * sum.size + sum.tolerance, r))
		return false;
	error = out_at(call, 0, at) - sum.value;
	if (!isfinite(error) || isinf(sum.tolerance))
		return true;
	l2->errors += error * error;
	l2->values += sum.value * sum.value;
	l2->squares += sum.squares;
	l2->floors += sum.floor * sum.floor;
	return true;
}

static bool verify_linear(const struct op_call *call, const struct report *r)
{
	const uint64_t rows = call->out[0].dims[0], outputs = call->out[0].dims[1];
	struct linear_l2 l2 = {0};
	const double most = linear_gated(call) ? 3e-6 : 2e-6;
	bool ok = true;

	for (uint64_t row = 0; ok && row < rows; row++) {
		const double root = linear_root(call, row);

		for (uint64_t i = 0; ok && i < outputs; i++)
			ok = verify_linear_output(call, row, root, i, &l2, r);
	}
	if (!ok || call->out[0].dtype != GPUQ_F32)
		return ok;
	ok = sqrt(l2.errors) <= most * sqrt(fmax(l2.values, l2.squares)) + sqrt(l2.floors);
	if (!ok)
		snprintf(r->what, r->size, "the L2 error is %.3g of %.3g", sqrt(l2.errors),
			sqrt(fmax(l2.values, l2.squares)));
	return ok;
}

static bool verify_argmax(const struct op_call *call, const struct report *r)
{
	const uint64_t n = call->in[0].dims[1];
	bool ok = true;

	for (uint64_t row = 0; ok && row < call->in[0].dims[0]; row++) {
		double greatest = -INFINITY;
		uint64_t index = 0;

		for (uint64_t i = n; i-- > 0;) {
			const double v = in_at(call, 0, row * n + i);

			if (v >= greatest) {
				greatest = v;
				index = i;
			}
		}
		/* Nothing above -inf: NaNs, which are as good, may be before what was found. */
		index = greatest == -INFINITY ? 0 : index;
		ok = same_integer(call, 0, row, index, r);
		if (ok && tensor_present(&call->out[1]))
			ok = near(call, 1, row, greatest, 0, r);
	}
	return ok;
}

/* The temperature of a row, 1 where it makes no sense. */
static long double temperature_at(const struct op_call *call, uint32_t input, uint64_t row)
{
	const double t = in_at(call, input, row);

	return t >= (double)1e-30f && t <= (double)1e30f ? t : 1;
}

/* --- step_result ---------------------------------------------------------------------------- */

struct candidate {
	double value;
	uint64_t index;
};

static int compare_candidates(const void *left, const void *right)
{
	const struct candidate *a = left, *b = right;

	if (a->value != b->value)
		return a->value > b->value ? -1 : 1;
	return a->index < b->index ? -1 : 1;
}

static bool verify_top(
	const struct op_call *call, uint64_t row, struct candidate *list, const struct report *r)
{
	const uint64_t n = call->in[0].dims[1], k = call->out[STEP_VALUES].dims[1];
	bool ok = true;

	for (uint64_t i = 0; i < n; i++) {
		const double v = in_at(call, 0, row * n + i);

		list[i] = (struct candidate){isnan(v) ? -INFINITY : v, i};
	}
	qsort(list, n, sizeof(*list), compare_candidates);
	for (uint64_t i = 0; ok && i < k; i++)
		ok = near(call, STEP_VALUES, row * k + i, list[i].value, 0, r) &&
			same_integer(call, STEP_TOKENS, row * k + i, list[i].index, r);
	return ok;
}

static bool verify_stats(
	const struct op_call *call, uint64_t row, double greatest, const struct report *r)
{
	const uint64_t n = call->in[0].dims[1];
	const long double temperature = tensor_present(&call->in[STEP_TEMPERATURES])
		? temperature_at(call, STEP_TEMPERATURES, row)
		: call->params[0].f64;
	long double sum = 0, mean = 0, squares = 0;
	double lse, entropy;

	for (uint64_t i = 0; i < n; i++) {
		const double v = in_at(call, 0, row * n + i);
		const long double t = ((long double)v - greatest) / temperature;

		sum += expl(t);
		if (t == -INFINITY)
			continue;
		mean += t * expl(t);
		squares += t * t * expl(t);
	}
	lse = (double)(greatest / temperature + logl(sum));
	entropy = (double)(logl(sum) - mean / sum);
	return near(call, STEP_STATS, row * 2, lse,
		       isfinite(lse) ? 5e-6 + 4e-7 * (double)fabsl(mean / sum) + 2e-7 * fabs(lse)
				     : 1,
		       r) &&
		near(call, STEP_STATS, row * 2 + 1, entropy,
			isfinite(entropy) ? 5e-6 * (1 + entropy) + 4e-7 * (double)(squares / sum)
					  : 1,
			r);
}

static bool verify_named(const struct op_call *call, uint64_t row, const struct report *r)
{
	const uint64_t n = call->in[0].dims[1], count = call->out[STEP_NAMED].dims[1];
	const uint64_t from = call->in[STEP_IDS].rank == 2 ? row * count : 0;
	bool ok = true;

	for (uint64_t i = 0; ok && i < count; i++) {
		const int64_t id = ((const int32_t *)call->in[STEP_IDS].data)[from + i];
		const bool known = id >= 0 && id < (int64_t)n;

		ok = near(call, STEP_NAMED, row * count + i,
			known ? in_at(call, 0, row * n + (uint64_t)id) : -INFINITY, 0, r);
	}
	return ok;
}

static bool verify_step_result(const struct op_call *call, const struct report *r)
{
	struct candidate *list = calloc(call->in[0].dims[1], sizeof(*list));
	bool ok = true;

	for (uint64_t row = 0; ok && row < call->in[0].dims[0]; row++) {
		ok = verify_top(call, row, list, r) && verify_stats(call, row, list[0].value, r);
		if (ok && tensor_present(&call->in[1]))
			ok = verify_named(call, row, r);
	}
	free(list);
	return ok;
}

/* --- sample --------------------------------------------------------------------------------- */

/* What decides about the draw of a token of a row. */
struct drawn {
	long double greatest, temperature;
	bool greedy;
};

static long double drawn_t(const struct op_call *call, uint64_t row, uint64_t v, struct drawn d)
{
	const long double logit = in_at(call, 0, row * call->in[0].dims[1] + v);

	if (isnan(logit))
		return -INFINITY;
	return logit == d.greatest ? 0 : (logit - d.greatest) / d.temperature;
}

/* The block of the generator by its definition, not as the forms have it. */
static long double drawn_score(const struct op_call *call, uint64_t row, uint64_t v, struct drawn d)
{
	const uint64_t *seed = (const uint64_t *)call->in[SAMPLE_SEEDS].data + row * 2;
	const long double t = drawn_t(call, row, v, d);
	uint32_t block[4] = {
		(uint32_t)(v / 64 * 16 + v % 16), 0, (uint32_t)seed[1], (uint32_t)(seed[1] >> 32)};

	if (d.greedy)
		return t;
	philox(block, seed[0]);
	return t - logl(-log1pl(-((long double)(block[v / 16 % 4] / 2) + 0.5L) / 0x1p31L));
}

static bool verify_logprob(
	const struct op_call *call, uint64_t row, struct drawn d, const struct report *r)
{
	const uint64_t n = call->in[0].dims[1];
	const int32_t token = ((const int32_t *)call->out[SAMPLE_TOKEN].data)[row];
	const long double own = drawn_t(call, row, (uint64_t)token, d);
	long double sum = 0, mean = 0;
	double expected;

	for (uint64_t v = 0; v < n; v++) {
		const long double t = drawn_t(call, row, v, d);

		sum += expl(t);
		mean += t == -INFINITY ? 0 : t * expl(t);
	}
	expected = (double)(own - logl(sum));
	return near(call, SAMPLE_LOGPROB, row, expected,
		5e-6 + 4e-7 * (double)(fabsl(own) + fabsl(mean / sum)) + 2e-7 * fabs(expected), r);
}

static bool verify_draw(
	const struct op_call *call, uint64_t row, struct drawn d, const struct report *r)
{
	const uint64_t n = call->in[0].dims[1];
	const int32_t token = ((const int32_t *)call->out[SAMPLE_TOKEN].data)[row];
	long double best = -INFINITY, own;
	uint64_t first = 0;

	for (uint64_t v = 0; v < n; v++) {
		const long double score = drawn_score(call, row, v, d);

		first = score > best ? v : first;
		best = fmaxl(best, score);
	}
	if (d.greedy || best == -INFINITY)
		return same_integer(call, SAMPLE_TOKEN, row, first, r);
	if (token >= 0 && (uint64_t)token < n) {
		own = drawn_score(call, row, (uint64_t)token, d);
		if (own + 8e-6L + 4e-7L * fabsl(drawn_t(call, row, (uint64_t)token, d)) >= best)
			return true;
	}
	return same_integer(call, SAMPLE_TOKEN, row, first, r);
}

static bool verify_sample(const struct op_call *call, const struct report *r)
{
	const uint64_t n = call->in[0].dims[1];
	bool ok = true;

	for (uint64_t row = 0; ok && row < call->in[0].dims[0]; row++) {
		struct drawn d = {.greatest = -INFINITY,
			.temperature = temperature_at(call, SAMPLE_TEMPERATURES, row),
			.greedy = in_at(call, SAMPLE_TEMPERATURES, row) == 0};

		for (uint64_t v = 0; v < n; v++)
			d.greatest = fmaxl(d.greatest, in_at(call, 0, row * n + v));
		if (d.greatest == -INFINITY) {
			ok = same_integer(call, SAMPLE_TOKEN, row, 0, r) &&
				(!tensor_present(&call->out[SAMPLE_LOGPROB]) ||
					near(call, SAMPLE_LOGPROB, row, NAN, 0, r));
			continue;
		}
		ok = verify_draw(call, row, d, r);
		if (ok && tensor_present(&call->out[SAMPLE_LOGPROB]))
			ok = verify_logprob(call, row, d, r);
	}
	return ok;
}

bool llm_verify(const struct llm_trial *t, char *what, size_t what_size)
{
	static const struct {
		const struct op *op;
		bool (*verify)(const struct op_call *, const struct report *);
	} forms[] = {{&op_embedding, verify_embedding}, {&op_rmsnorm, verify_rmsnorm},
		{&op_linear, verify_linear}, {&op_rope, verify_rope}, {&op_swiglu, verify_swiglu},
		{&op_argmax, verify_argmax}, {&op_step_result, verify_step_result},
		{&op_sample, verify_sample}};
	const struct report r = {what, what_size};
	uint32_t at = 0;

	if (t->call.op == &op_kv_append)
		return attention_verify_append(&t->call, t->before, what, what_size);
	if (t->call.op == &op_paged_attention)
		return attention_verify(&t->call, what, what_size);
	if (t->call.op == &op_kv_attention)
		return attention_verify_both(&t->call, t->before, what, what_size);
	while (forms[at].op != t->call.op)
		at++;
	return forms[at].verify(&t->call, &r);
}
