/* SPDX-License-Identifier: MIT */
/*
 * sample: draws a token from each row of logits.
 *
 *   logits [B,V], V from 1 to 2^31 - 1, temperatures [B] f32, seeds [B,2] i64 (seed, step)
 *   -> token [B] i32, logprob [B] f32 (optional)
 *   token[b] = v with probability p[v] = softmax(logits[b] / T)[v], T = temperatures[b]; where T
 *      is 0 the first v with the greatest logit
 *   logprob[b] = log p[token[b]], at T = 1 where temperatures[b] is 0
 *
 * Logits are f32, f16 or bf16. A temperature that is neither 0 nor in 1e-30..1e30 counts as 1. A
 * NaN counts as -inf, which is never drawn; in a row of nothing else token is 0 and logprob NaN.
 * Of several +inf each is as likely as another. Where logits change while they are read, token
 * is still within 0..V-1.
 *
 * The draw is Gumbel's: token[b] = argmax_v t[v] + g(r[v]), the first of equal ones, where
 *   t[v] = (logits[b,v] - max_u logits[b,u]) / T
 *   r[v] = the word of (seed, step, v) as sample.h says, seed and step as bits
 *   w    = (r[v] / 2, rounded down, + 1/2) / 2^31
 *   g(r) = -log(-log(1 - w))
 * so equal logits, temperature, seed and step give the same token, whatever the other rows are.
 *
 * Tolerance: the fast forms compute t + g in f32 with one order of roundings and no fused
 * multiply-adds, so that they agree in every bit on all CPUs; it is off by less than
 * 4e-6 + 2e-7 |t|, and where two tokens are closer than that either may be drawn. With t and its
 * mean under p:
 *   |logprob[b] - ref| <= 5e-6 + 4e-7 (|t[token]| + |mean t|) + 2e-7 |ref|
 */
#include "kernels/sample/sample.h"
#include "kernels/element.h"
#include "kernels/isa.h"
#include "kernels/ops.h"
#include "kernels/temperature.h"
#include "kernels/work.h"

#include <math.h>

static int infer(struct op_call *call, uint32_t *ret_arg)
{
	const struct tensor *logits = &call->in[SAMPLE_LOGITS], *seeds = &call->in[SAMPLE_SEEDS];
	int err;

	*ret_arg = SAMPLE_LOGITS;
	if (logits->rank != 2)
		return -GPUQ_ERANK;
	if (logits->dims[1] == 0 || logits->dims[1] > INT32_MAX)
		return -GPUQ_ESHAPE;
	*ret_arg = SAMPLE_TEMPERATURES;
	err = temperature_shape(&call->in[SAMPLE_TEMPERATURES], logits->dims[0]);
	if (err != 0)
		return err;
	*ret_arg = SAMPLE_SEEDS;
	if (seeds->rank != 2)
		return -GPUQ_ERANK;
	if (seeds->dims[0] != logits->dims[0] || seeds->dims[1] != 2)
		return -GPUQ_ESHAPE;
	for (uint32_t i = 0; i < 2; i++) {
		if (!tensor_present(&call->out[i]))
			continue;
		call->out[i].rank = 1;
		call->out[i].dims[0] = logits->dims[0];
	}
	return 0;
}

/* A unit is one row. */
static uint64_t units(const struct op_call *call)
{
	return call->in[SAMPLE_LOGITS].dims[0];
}

/* Of a row whose logits are all equal, the longest there is. */
static uint64_t work(const struct op_call *call)
{
	const uint64_t n = work_round_up(call->in[SAMPLE_LOGITS].dims[1], SAMPLE_GROUP);

	return work_mul(units(call), work_add(work_mul(n, 16), 64));
}

static void example(struct op_call *call, uint64_t scale)
{
	call->in[SAMPLE_LOGITS].rank = 2;
	call->in[SAMPLE_LOGITS].dims[0] = 1;
	call->in[SAMPLE_LOGITS].dims[1] = 64 * scale;
	call->in[SAMPLE_TEMPERATURES].rank = 1;
	call->in[SAMPLE_TEMPERATURES].dims[0] = 1;
	call->in[SAMPLE_SEEDS].rank = 2;
	call->in[SAMPLE_SEEDS].dims[0] = 1;
	call->in[SAMPLE_SEEDS].dims[1] = 2;
}

/* (logit - greatest) / temperature; 0 for the greatest, an infinite one too. */
static double scaled(const struct op_call *call, uint64_t row, uint64_t v, double greatest)
{
	const struct tensor *logits = &call->in[SAMPLE_LOGITS];
	const double l = element_get(logits->data, logits->dtype, row * logits->dims[1] + v);
	const float temperature = temperature_read(&call->in[SAMPLE_TEMPERATURES], row);

	if (isnan(l))
		return -INFINITY;
	return l == greatest ? 0 : (l - greatest) / temperature_divisor(temperature);
}

static double gumbel(const int64_t *seed, uint64_t token)
{
	const uint32_t word = sample_word((uint64_t)seed[0], (uint64_t)seed[1], token);

	return -log(-log1p(-((word >> 1) + 0.5) * 0x1p-31));
}

static void reference_row(const struct op_call *call, uint64_t row)
{
	const struct tensor *logits = &call->in[SAMPLE_LOGITS];
	const bool greedy = temperature_read(&call->in[SAMPLE_TEMPERATURES], row) == 0;
	const int64_t *seed = (const int64_t *)call->in[SAMPLE_SEEDS].data + row * 2;
	double greatest = -INFINITY, best = -INFINITY, sum = 0;
	uint64_t token = 0;

	for (uint64_t v = 0; v < logits->dims[1]; v++)
		greatest = fmax(greatest,
			element_get(logits->data, logits->dtype, row * logits->dims[1] + v));
	for (uint64_t v = 0; greatest > -INFINITY && v < logits->dims[1]; v++) {
		const double t = scaled(call, row, v, greatest);
		const double score = t + (greedy ? 0 : gumbel(seed, v));

		sum += exp(t);
		token = score > best ? v : token;
		best = fmax(best, score);
	}
	((int32_t *)call->out[SAMPLE_TOKEN].data)[row] = (int32_t)token;
	if (tensor_present(&call->out[SAMPLE_LOGPROB]))
		((float *)call->out[SAMPLE_LOGPROB].data)[row] = greatest > -INFINITY
			? (float)(scaled(call, row, token, greatest) - log(sum))
			: NAN;
}

static void reference(const struct op_call *call)
{
	for (uint64_t row = 0; row < units(call); row++)
		reference_row(call, row);
}

ISA_RUN(ISA_FORMS(sample))

const struct op op_sample = {
	.name = "sample",
	.summary =
		"Draws a token from each row of logits, the same one for the same seed and step.",
	.formula = "token[b] = v with probability softmax(logits[b] / temperatures[b])[v], the "
		   "greatest at temperature 0; logprob[b] = log of that probability",
	.n_inputs = 3,
	.n_outputs = 2,
	.inputs = {[SAMPLE_LOGITS] = {"logits", "[B,V]", FLOAT_DTYPES},
		[SAMPLE_TEMPERATURES] = {"temperatures", "[B]", GPUQ_DTYPE_BIT(GPUQ_F32)},
		[SAMPLE_SEEDS] = {"seeds", "[B,2]", GPUQ_DTYPE_BIT(GPUQ_I64)}},
	.outputs = {[SAMPLE_TOKEN] = {"token", "[B]", GPUQ_DTYPE_BIT(GPUQ_I32)},
		[SAMPLE_LOGPROB] = {"logprob", "[B]", GPUQ_DTYPE_BIT(GPUQ_F32), true}},
	.infer = infer,
	.units = units,
	.work = work,
	.example = example,
	.reference = reference,
	.cpu = cpu,
};
