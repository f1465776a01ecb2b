/* SPDX-License-Identifier: MIT */
/*
 * step_result: what a sampler needs of a step's logits, so that they need not leave the device.
 *
 *   logits [B,V], V from 1 to 2^31 - 1, ids [M] or [B,M] i32 (optional), temperatures [B] f32
 *   (optional), params temperature T (f64, 1e-30 to 1e30, 1 unless given), K (i64, 1 to 1024 and
 *   at most V, 64 unless given)
 *   -> values [B,K] f32, tokens [B,K] i32, stats [B,2] f32, named [B,M] f32 (with ids, and only
 *   then)
 *   values[b,*], tokens[b,*] = the K greatest logits[b,v] and their v, greatest first, of equal
 *      ones the least v first
 *   stats[b,0] = log sum_v exp(logits[b,v] / T)
 *   stats[b,1] = -sum_v p[v] log p[v],  p[v] = exp(logits[b,v] / T - stats[b,0]), 0 log 0 = 0
 *   named[b,m] = logits[b,ids[m]], or logits[b,ids[b,m]], -inf for an id outside 0..V-1
 *
 * temperatures[b] stands for T in row b; one that is not in 1e-30..1e30 counts as 1. Logits are
 * f32, f16 or bf16. values, tokens and named are exact. A NaN counts as -inf in values and tokens,
 * and a zero there is positive; named has it as it is. stats are NaN where the row has a NaN or a
 * +inf, or nothing but -inf; a -inf beside a finite logit adds nothing. Where logits or ids change
 * while they are read, tokens are still within 0..V-1, each at most once in a row.
 *
 * Tolerance of the fast forms, which work in f32 with totals in double; t[v] is the logit less
 * the greatest, over T, and t their mean under p:
 *   |stats[b,0] - ref| <= 5e-6 + 4e-7 |t| + 2e-7 |ref|
 *   |stats[b,1] - ref| <= 5e-6 (1 + ref) + 4e-7 sum_v p[v] t[v]^2
 * t[v] is off by three roundings of 2^-24, exp by 2.4e-7, and a sum by 36 additions of 2^-24.
 */
#include "kernels/step_result/step_result.h"
#include "kernels/element.h"
#include "kernels/isa.h"
#include "kernels/ops.h"
#include "kernels/temperature.h"
#include "kernels/work.h"

#include <math.h>

enum { TEMPERATURE, COUNT };

/* Also checks K, which only the vocabulary bounds. */
static int infer_logits(struct op_call *call, uint32_t *ret_arg)
{
	const struct tensor *logits = &call->in[STEP_LOGITS];
	struct tensor *values = &call->out[STEP_VALUES], *stats = &call->out[STEP_STATS];

	*ret_arg = 0;
	if (logits->rank != 2)
		return -GPUQ_ERANK;
	if (logits->dims[1] == 0 || logits->dims[1] > INT32_MAX)
		return -GPUQ_ESHAPE;
	*ret_arg = GPUQ_MAX_TENSORS + COUNT;
	if ((uint64_t)call->params[COUNT].i64 > logits->dims[1])
		return -GPUQ_EPARAM;
	values->rank = stats->rank = 2;
	values->dims[0] = stats->dims[0] = logits->dims[0];
	values->dims[1] = (uint64_t)call->params[COUNT].i64;
	stats->dims[1] = 2;
	tensor_shape_as(&call->out[STEP_TOKENS], values);
	return 0;
}

static int infer_named(struct op_call *call, uint32_t *ret_arg)
{
	const struct tensor *ids = &call->in[STEP_IDS];
	struct tensor *named = &call->out[STEP_NAMED];

	*ret_arg = STEP_IDS;
	if (!tensor_present(ids) || !tensor_present(named)) {
		*ret_arg = tensor_present(ids) ? GPUQ_MAX_INPUTS + STEP_NAMED : STEP_IDS;
		return tensor_present(ids) == tensor_present(named) ? 0 : -GPUQ_EMISSING;
	}
	if (ids->rank != 1 && ids->rank != 2)
		return -GPUQ_ERANK;
	if (ids->rank == 2 && ids->dims[0] != call->in[STEP_LOGITS].dims[0])
		return -GPUQ_ESHAPE;
	named->rank = 2;
	named->dims[0] = call->in[STEP_LOGITS].dims[0];
	named->dims[1] = tensor_columns(ids);
	return 0;
}

static int infer(struct op_call *call, uint32_t *ret_arg)
{
	int err = infer_logits(call, ret_arg);

	if (err == 0)
		err = infer_named(call, ret_arg);
	if (err != 0 || !tensor_present(&call->in[STEP_TEMPERATURES]))
		return err;
	*ret_arg = STEP_TEMPERATURES;
	return temperature_shape(&call->in[STEP_TEMPERATURES], call->in[STEP_LOGITS].dims[0]);
}

/* A unit is one row. */
static uint64_t units(const struct op_call *call)
{
	return call->in[STEP_LOGITS].dims[0];
}

/* Each of the K passes the buffer and the sort, which takes as long as some 100 logits. */
static uint64_t work(const struct op_call *call)
{
	const uint64_t logits = work_mul(work_round_up(call->in[STEP_LOGITS].dims[1], 16), 2);
	const uint64_t top = work_mul(call->out[STEP_VALUES].dims[1], 100);
	const struct tensor *named = &call->out[STEP_NAMED];
	const uint64_t ids = tensor_present(named) ? work_mul(named->dims[1], 4) : 0;

	return work_mul(units(call), work_add(work_add(logits, top), ids));
}

static void example(struct op_call *call, uint64_t scale)
{
	call->in[STEP_LOGITS].rank = 2;
	call->in[STEP_LOGITS].dims[0] = 1;
	call->in[STEP_LOGITS].dims[1] = 64 * scale;
}

/* Whether logit a is before logit b of the row. */
static bool before(const struct tensor *logits, uint64_t row, uint64_t a, uint64_t b)
{
	double x = element_get(logits->data, logits->dtype, row * logits->dims[1] + a);
	double y = element_get(logits->data, logits->dtype, row * logits->dims[1] + b);

	x = isnan(x) ? -INFINITY : x;
	y = isnan(y) ? -INFINITY : y;
	return x != y ? x > y : a < b;
}

/* By insertion into the list of the best so far. */
static void reference_top(const struct op_call *call, uint64_t row)
{
	const struct tensor *logits = &call->in[STEP_LOGITS];
	const uint64_t k = call->out[STEP_VALUES].dims[1];
	int32_t *tokens = (int32_t *)call->out[STEP_TOKENS].data + row * k;
	float *values = (float *)call->out[STEP_VALUES].data + row * k;
	uint64_t n = 0;

	for (uint64_t i = 0; i < logits->dims[1]; i++) {
		uint64_t at = n < k ? n++ : k;

		for (; at > 0 && before(logits, row, i, (uint64_t)tokens[at - 1]); at--) {
			if (at < k)
				tokens[at] = tokens[at - 1];
		}
		if (at < k)
			tokens[at] = (int32_t)i;
	}
	for (uint64_t i = 0; i < k; i++) {
		const double v = element_get(
			logits->data, logits->dtype, row * logits->dims[1] + (uint64_t)tokens[i]);

		values[i] = isnan(v) ? -INFINITY : (float)(v + 0.0);
	}
}

static void reference_stats(const struct op_call *call, uint64_t row)
{
	const struct tensor *logits = &call->in[STEP_LOGITS];
	const uint64_t n = logits->dims[1];
	const double temperature = step_temperature(call, row);
	const double greatest =
		((float *)call->out[STEP_VALUES].data)[row * call->out[STEP_VALUES].dims[1]];
	float *stats = (float *)call->out[STEP_STATS].data + row * 2;
	double sum = 0, weighted = 0;

	for (uint64_t i = row * n; i < (row + 1) * n; i++) {
		const double t =
			(element_get(logits->data, logits->dtype, i) - greatest) / temperature;

		sum += exp(t);
		if (t != -INFINITY)
			weighted += t * exp(t);
	}
	stats[0] = (float)(greatest / temperature + log(sum));
	stats[1] = (float)(log(sum) - weighted / sum);
}

static void reference(const struct op_call *call)
{
	for (uint64_t row = 0; row < units(call); row++) {
		reference_top(call, row);
		reference_stats(call, row);
		if (tensor_present(&call->in[STEP_IDS]))
			step_named(call, row);
	}
}

double step_temperature(const struct op_call *call, uint64_t row)
{
	const struct tensor *given = &call->in[STEP_TEMPERATURES];

	return tensor_present(given) ? temperature_divisor(temperature_read(given, row))
				     : call->params[TEMPERATURE].f64;
}

void step_named(const struct op_call *call, uint64_t row)
{
	const struct tensor *logits = &call->in[STEP_LOGITS], *named = &call->out[STEP_NAMED];
	const uint64_t n = logits->dims[1];
	const uint32_t *ids = call->in[STEP_IDS].data;

	ids += call->in[STEP_IDS].rank == 2 ? row * named->dims[1] : 0;
	for (uint64_t i = 0; i < named->dims[1]; i++) {
		/* Once: it may change. */
		const int32_t id = (int32_t)shm_load_relaxed_u32(ids + i);

		((float *)named->data)[row * named->dims[1] + i] = id >= 0 && (uint64_t)id < n
			? (float)element_get(logits->data, logits->dtype, row * n + (uint64_t)id)
			: -INFINITY;
	}
}

ISA_RUN(ISA_FORMS(step_result))

const struct op op_step_result = {
	.name = "step_result",
	.summary = "The greatest logits, the log of the sum of exponentials, the entropy, named "
		   "logits.",
	.formula = "values, tokens = top K of logits; stats = (log sum exp, entropy) of logits / "
		   "temperature; named[b,m] = logits[b,ids[m]]",
	.n_inputs = 3,
	.n_outputs = 4,
	.n_params = 2,
	.inputs = {[STEP_LOGITS] = {"logits", "[B,V]", FLOAT_DTYPES},
		[STEP_IDS] = {"ids", "[M] or [B,M]", GPUQ_DTYPE_BIT(GPUQ_I32), true},
		[STEP_TEMPERATURES] = {"temperatures", "[B]", GPUQ_DTYPE_BIT(GPUQ_F32), true}},
	.outputs = {[STEP_VALUES] = {"values", "[B,K]", GPUQ_DTYPE_BIT(GPUQ_F32)},
		[STEP_TOKENS] = {"tokens", "[B,K]", GPUQ_DTYPE_BIT(GPUQ_I32)},
		[STEP_STATS] = {"stats", "[B,2]", GPUQ_DTYPE_BIT(GPUQ_F32)},
		[STEP_NAMED] = {"named", "[B,M]", GPUQ_DTYPE_BIT(GPUQ_F32), true}},
	.params = {[TEMPERATURE] = {"temperature", "divides the logits in stats", GPUQ_PARAM_F64, 1,
			   1e-30, 1e30},
		[COUNT] = {"K", "how many of the greatest", GPUQ_PARAM_I64, 64, 1, STEP_MAX_K}},
	.infer = infer,
	.units = units,
	.work = work,
	.example = example,
	.reference = reference,
	.cpu = cpu,
};
