/* SPDX-License-Identifier: MIT */
/* Random calls of the language-model operators; see llm_trial.h. */
#include "tests/kernels/llm_trial.h"
#include "kernels/element.h"
#include "kernels/kv_attention/kv_attention.h"
#include "kernels/linear/linear.h"
#include "kernels/sample/sample.h"
#include "kernels/step_result/step_result.h"
#include "tests/kernels/attention_trial.h"
#include "tests/kernels/trial.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void llm_trial_create(struct llm_trial *t)
{
	for (int i = 0; i < GPUQ_MAX_INPUTS; i++)
		guard_create(&t->inputs[i], LLM_MAX_BYTES);
	for (int i = 0; i < GPUQ_MAX_OUTPUTS; i++)
		guard_create(&t->outputs[i], LLM_MAX_BYTES);
	t->before = malloc(LLM_MAX_BYTES);
}

void llm_trial_destroy(struct llm_trial *t)
{
	for (int i = 0; i < GPUQ_MAX_INPUTS; i++)
		guard_destroy(&t->inputs[i]);
	for (int i = 0; i < GPUQ_MAX_OUTPUTS; i++)
		guard_destroy(&t->outputs[i]);
	free(t->before);
}

static struct tensor tensor_of(uint32_t dtype, uint32_t rank, const uint64_t *dims)
{
	struct tensor t = {.dtype = dtype, .rank = rank};

	for (uint32_t i = 0; i < rank; i++)
		t.dims[i] = dims[i];
	return t;
}

static struct tensor vector_of(uint32_t dtype, uint64_t n)
{
	return tensor_of(dtype, 1, &n);
}

static uint32_t random_rank(struct random *rng)
{
	return 1 + (uint32_t)random_below(rng, random_below(rng, 3) ? 3 : 8);
}

/* --- Shapes and parameters ------------------------------------------------------------------ */

static void shape_embedding(struct op_call *call, struct random *rng, uint32_t dtype)
{
	uint64_t d[3]; /* T, V, D */

	trial_random_dims(rng, d, 3, 1 + random_below(rng, 20000));
	call->in[0] = vector_of(GPUQ_I32, d[0]);
	call->in[1] = tensor_of(dtype, 2, d + 1);
}

static void shape_rmsnorm(struct op_call *call, struct random *rng, uint32_t dtype)
{
	static const uint32_t dtypes[] = {GPUQ_F32, GPUQ_F16, GPUQ_BF16};
	const uint32_t rank = random_rank(rng);
	uint64_t d[GPUQ_MAX_RANK];

	trial_random_dims(rng, d, rank, 1 + random_below(rng, 8000));
	call->in[0] = tensor_of(dtype, rank, d);
	call->in[1] =
		vector_of(dtype == GPUQ_F32 ? dtypes[random_below(rng, 3)] : dtype, d[rank - 1]);
	call->params[0].f64 = exp2(-30 * random_unit(rng));
	if (random_below(rng, 2) == 0)
		return;
	call->in[2] = call->in[0];
	call->out[1].dtype = random_below(rng, 2) ? GPUQ_F32 : dtype;
}

static void shape_rope(struct op_call *call, struct random *rng, uint32_t dtype)
{
	uint64_t d[3]; /* T, H, D / 2 */

	trial_random_dims(rng, d, 3, 1 + random_below(rng, 4000));
	d[2] *= 2;
	call->in[0] = tensor_of(dtype, 3, d);
	call->in[1] = vector_of(GPUQ_I32, d[0]);
	call->params[0].f64 = random_below(rng, 2) ? 500000 : exp2(39 * random_unit(rng));
	call->params[1].i64 = (int64_t)random_below(rng, 3);
	call->params[2].f64 = exp2(8 * random_unit(rng) - 2);
	call->params[3].f64 = exp2(4 * random_unit(rng) - 2);
	call->params[4].f64 = exp2(4 * random_unit(rng) - 1);
	call->params[5].i64 = 1 + (int64_t)random_below(rng, 10000);
}

static void shape_swiglu(struct op_call *call, struct random *rng, uint32_t dtype)
{
	const uint32_t rank = random_rank(rng);
	uint64_t d[GPUQ_MAX_RANK];

	trial_random_dims(rng, d, rank, 1 + random_below(rng, 8000));
	call->in[0] = tensor_of(dtype, rank, d);
	if (random_below(rng, 2) == 0)
		call->in[1] = call->in[0];
	else
		call->in[0].dims[rank - 1] *= 2;
}

/* B rows of V logits, at least one; more than the operators' chunks now and then. */
static void shape_logits(struct op_call *call, struct random *rng, uint32_t dtype)
{
	uint64_t d[2];

	trial_random_dims(rng, d, 2, 1 + random_below(rng, 20000));
	d[1] += d[1] == 0;
	if (random_below(rng, 10) == 0) {
		d[0] = 1 + random_below(rng, 2);
		d[1] = 1 + random_below(rng, 9000);
	}
	/* A vocabulary, which devices cut into parts. */
	if (random_below(rng, 200) == 0) {
		d[0] = 1 + random_below(rng, 2);
		d[1] = 1 + random_below(rng, LLM_RANDOM_BYTES / 8);
	}
	call->in[0] = tensor_of(dtype, 2, d);
}

static void shape_argmax(struct op_call *call, struct random *rng, uint32_t dtype)
{
	shape_logits(call, rng, dtype);
	call->out[1].dtype = random_below(rng, 2) ? GPUQ_F32 : 0;
}

static void shape_step_result(struct op_call *call, struct random *rng, uint32_t dtype)
{
	shape_logits(call, rng, dtype);

	const uint64_t *d = call->in[0].dims, n = d[1];
	const uint64_t k = 1 + (uint64_t)exp2(10 * random_unit(rng));

	call->params[0].f64 = random_below(rng, 2) ? 1 : exp2(10 * random_unit(rng) - 6);
	call->params[1].i64 = (int64_t)(k < n ? k : n);
	if (call->params[1].i64 > 1024 || (n <= 1024 && random_below(rng, 20) == 0))
		call->params[1].i64 = (int64_t)(n < 1024 ? n : 1024);
	if (random_below(rng, 2) == 0)
		call->in[STEP_TEMPERATURES] = vector_of(GPUQ_F32, d[0]);
	if (random_below(rng, 2) == 0)
		return;

	const uint64_t m = random_below(rng, d[0] > 1000 ? 10 : 40);

	call->in[STEP_IDS] = vector_of(GPUQ_I32, m);
	if (random_below(rng, 2) == 0)
		call->in[STEP_IDS] = tensor_of(GPUQ_I32, 2, (uint64_t[]){d[0], m});
	call->out[STEP_NAMED].dtype = GPUQ_F32;
}

static void shape_sample(struct op_call *call, struct random *rng, uint32_t dtype)
{
	shape_logits(call, rng, dtype);
	call->in[SAMPLE_TEMPERATURES] = vector_of(GPUQ_F32, call->in[0].dims[0]);
	call->in[SAMPLE_SEEDS] = tensor_of(GPUQ_I64, 2, (uint64_t[]){call->in[0].dims[0], 2});
	call->out[SAMPLE_LOGPROB].dtype = random_below(rng, 2) ? GPUQ_F32 : 0;
}

static void shape_linear(struct op_call *call, struct random *rng, uint32_t dtype)
{
	static const uint32_t dtypes[] = {GPUQ_F32, GPUQ_F16, GPUQ_BF16, GPUQ_I8};
	uint64_t d[4]; /* N, O, A, B */
	uint32_t w = dtypes[random_below(rng, 4)];

	trial_random_dims(rng, d, 4, 1 + random_below(rng, 60000));
	/* Several chunks, and several panels. */
	if (random_below(rng, 8) == 0) {
		d[0] = 1 + random_below(rng, random_below(rng, 8) ? 30 : 600);
		d[1] = 1 + random_below(rng, 40);
		d[2] = 1;
		d[3] = random_below(rng, 200000 / ((d[0] + 4) * (d[1] + 4)) * 4);
	}
	/* A few rows of whole vectors. */
	if (random_below(rng, 4) == 0) {
		d[0] = 1 + random_below(rng, 3);
		d[2] = 1;
		d[3] = 64 * (1 + random_below(rng, random_below(rng, 4) ? 20 : 100));
		d[1] = 1 + random_below(rng, LLM_RANDOM_BYTES / 4 / d[3]);
	}
	/* Gates, and what they let through: two rows of the weights for an output. */
	const bool gated = random_below(rng, 3) == 0;

	if (gated)
		d[1] = (d[1] + 1) / 2;
	const uint64_t w_dims[] = {2, d[1], d[2] * d[3]}, *w_first = w_dims + !gated;

	call->params[LINEAR_EPS].f64 = exp2(-30 * random_unit(rng));
	if (dtype == GPUQ_F32 && random_below(rng, 2) == 0) {
		call->in[LINEAR_NORM] = vector_of(dtypes[random_below(rng, 3)], w_dims[2]);
		call->out[LINEAR_NORMED].dtype = GPUQ_F32;
	}
	if (random_below(rng, 2) == 0)
		call->in[LINEAR_X] = tensor_of(dtype, 3, (uint64_t[]){d[0], d[2], d[3]});
	else
		call->in[LINEAR_X] = tensor_of(dtype, 2, (uint64_t[]){d[0], w_dims[2]});
	call->in[LINEAR_W] = tensor_of(w, gated ? 3 : 2, w_first);
	if (w == GPUQ_I8)
		call->in[LINEAR_SCALES] = tensor_of(GPUQ_F32, gated ? 2 : 1, w_first);
	if (random_below(rng, 2) == 0)
		call->in[LINEAR_BIAS] =
			tensor_of(dtypes[random_below(rng, 3)], gated ? 2 : 1, w_first);
	if (random_below(rng, 2) == 0)
		call->in[LINEAR_RESIDUAL] = tensor_of(GPUQ_F32, 2, d);
	call->params[LINEAR_FIXED_ORDER].i64 = (int64_t)random_below(rng, 2);
}

/* --- Values --------------------------------------------------------------------------------- */

/* Mostly 0..n-1; sometimes beside them or far away. */
static void fill_integers(struct tensor *t, struct random *rng, uint64_t n)
{
	static const int32_t strange[] = {INT32_MIN, INT32_MAX, -1, -2};

	uint64_t elements, bytes;

	tensor_size(t, &elements, &bytes);
	for (uint64_t i = 0; i < elements; i++) {
		const uint64_t kind = random_below(rng, 12);

		((int32_t *)t->data)[i] = kind < 4 ? strange[kind]
			: kind == 4		   ? (int32_t)n
						   : (int32_t)random_below(rng, n + 1);
	}
}

static void fill_bytes(struct tensor *t, struct random *rng)
{
	uint64_t elements, bytes;

	tensor_size(t, &elements, &bytes);
	for (uint64_t i = 0; i < bytes; i++)
		((uint8_t *)t->data)[i] = (uint8_t)random_u64(rng);
}

/* Each logit replaces the least of those kept: the most work that step_result can have. */
static void fill_ascending(struct tensor *t)
{
	uint64_t elements, bytes;

	tensor_size(t, &elements, &bytes);
	for (uint64_t i = 0; i < elements; i++)
		element_set(t->data, t->dtype, i, (double)i * 0x1p-6 - 16);
}

/* Equal logits everywhere, in other chunks too. */
static void fill_ties(struct tensor *t, struct random *rng)
{
	uint64_t elements, bytes;

	tensor_size(t, &elements, &bytes);
	for (uint64_t i = 0; i < elements; i++)
		element_set(t->data, t->dtype, i, (double)random_below(rng, 8) - 4);
}

/* Logits come in orders that matter to those who look for the greatest. */
static void fill_logits(struct tensor *t, struct random *rng)
{
	const uint64_t kind = random_below(rng, 8);

	if (kind == 0)
		fill_ascending(t);
	else if (kind < 3)
		fill_ties(t, rng);
	else
		trial_fill_tensor(t, rng);
}

/* Mostly ordinary ones; some that count as 1, and 0. */
static void fill_temperatures(struct tensor *t, struct random *rng)
{
	static const float strange[] = {
		0, -0.0f, -1, NAN, INFINITY, 9e-31f, 1.1e30f, 1e-30f, 1e30f, 0x1p-149f};
	const uint64_t n_strange = sizeof(strange) / sizeof(strange[0]);

	for (uint64_t i = 0; i < t->dims[0]; i++) {
		const uint64_t kind = random_below(rng, 2 * n_strange);

		((float *)t->data)[i] =
			kind < n_strange ? strange[kind] : (float)exp2(10 * random_unit(rng) - 6);
	}
}

static void fill_seeds(struct tensor *t, struct random *rng)
{
	for (uint64_t i = 0; i < t->dims[0] * 2; i++)
		((uint64_t *)t->data)[i] = random_u64(rng) >> random_below(rng, 64);
}

static bool holds_temperatures(const struct op *op, uint32_t input)
{
	return (op == &op_step_result && input == STEP_TEMPERATURES) ||
		(op == &op_sample && input == SAMPLE_TEMPERATURES);
}

static bool takes_logits(const struct op *op)
{
	return op == &op_argmax || op == &op_step_result || op == &op_sample;
}

/* Works over a paged cache. */
static bool is_paged(const struct op *op)
{
	return op == &op_kv_append || op == &op_paged_attention || op == &op_kv_attention;
}

static void fill(struct llm_trial *t, struct random *rng)
{
	struct op_call *call = &t->call;
	uint64_t n = 200000; /* positions */

	if (call->op == &op_embedding)
		n = call->in[1].dims[0];
	else if (call->op == &op_step_result)
		n = call->in[0].dims[1];
	for (uint32_t i = 0; i < call->op->n_inputs; i++) {
		struct tensor *in = &call->in[i];

		if (!tensor_present(in))
			continue;
		in->data = trial_place_tensor(&t->inputs[i], in, rng);
		if (is_paged(call->op))
			continue; /* when all have their places */
		if (in->dtype == GPUQ_I32)
			fill_integers(in, rng, n);
		else if (in->dtype == GPUQ_I8)
			fill_bytes(in, rng);
		else if (in->dtype == GPUQ_I64)
			fill_seeds(in, rng);
		else if (holds_temperatures(call->op, i))
			fill_temperatures(in, rng);
		else if (takes_logits(call->op))
			fill_logits(in, rng);
		else
			trial_fill_tensor(in, rng);
	}
}

/* Over a paged cache. */
static void fill_paged(struct llm_trial *t, struct random *rng)
{
	for (uint32_t i = 0; i < t->call.op->n_inputs; i++) {
		struct tensor *in = &t->call.in[i];

		if (in->dtype == GPUQ_I32)
			attention_fill_indices(&t->call, in, rng);
		else if (tensor_present(in) && in->dtype != GPUQ_U8)
			trial_fill_tensor(in, rng);
	}
}

static void keep_written(struct llm_trial *t)
{
	uint64_t elements, bytes;

	t->written = NULL;
	for (uint32_t i = 0; i < t->call.op->n_inputs; i++) {
		if (!t->call.op->inputs[i].in_out)
			continue;
		t->written = &t->call.in[i];
		tensor_size(t->written, &elements, &bytes);
		t->written_bytes = bytes;
		memcpy(t->before, t->written->data, bytes);
	}
}

/* The form for the CPU leaves it alone. */
static bool is_working_memory(const struct op *op, uint32_t output)
{
	return (op == &op_linear && output == LINEAR_NORMED) ||
		(op == &op_paged_attention && output == ATTENTION_PARTS) ||
		(op == &op_kv_attention && output == KV_ATTENTION_PARTS);
}

static void place_outputs(struct llm_trial *t, struct random *rng)
{
	for (uint32_t i = 0; i < GPUQ_MAX_OUTPUTS; i++) {
		struct tensor *out = &t->call.out[i];
		uint64_t elements, bytes = 0;

		if (tensor_present(out)) {
			out->data = trial_place_tensor(&t->outputs[i], out, rng);
			tensor_size(out, &elements, &bytes);
		}
		if (is_working_memory(t->call.op, i))
			bytes = 0;
		t->bytes[i] = bytes;
	}
}

void llm_trial_fill_shape(struct llm_trial *t, struct random *rng)
{
	const struct op *op = t->call.op;
	uint32_t arg;
	const int err = op_check(&t->call, &arg);

	if (err != 0) {
		fprintf(stderr, "op_check refuses a valid call: %d, argument %u\n", err, arg);
		abort();
	}
	fill(t, rng);
	if (is_paged(op))
		fill_paged(t, rng);
	keep_written(t);
	place_outputs(t, rng);
}

void llm_trial_fill(struct llm_trial *t, const struct op *op, struct random *rng)
{
	static const struct {
		const struct op *op;
		void (*shape)(struct op_call *, struct random *, uint32_t);
	} shapes[] = {{&op_embedding, shape_embedding}, {&op_rmsnorm, shape_rmsnorm},
		{&op_linear, shape_linear}, {&op_rope, shape_rope}, {&op_swiglu, shape_swiglu},
		{&op_argmax, shape_argmax}, {&op_step_result, shape_step_result},
		{&op_sample, shape_sample}, {&op_kv_append, attention_shape_append},
		{&op_paged_attention, attention_shape}, {&op_kv_attention, attention_shape_both}};
	static const uint32_t dtypes[] = {GPUQ_F32, GPUQ_F16, GPUQ_BF16};
	const uint32_t dtype = dtypes[random_below(rng, 3)];
	struct op_call *call = &t->call;
	uint32_t at = 0;

	*call = (struct op_call){.op = op};
	while (shapes[at].op != op)
		at++;
	shapes[at].shape(call, rng, dtype);
	for (uint32_t i = 0; i < op->n_outputs; i++) {
		if (!op->outputs[i].optional && (op->outputs[i].dtypes & ~FLOAT_DTYPES) != 0)
			call->out[i].dtype = GPUQ_I32;
		else if (!op->outputs[i].optional)
			call->out[i].dtype =
				op->outputs[i].dtypes != FLOAT_DTYPES || random_below(rng, 2) == 0
				? GPUQ_F32
				: dtype;
		call->out[i].rank = UINT32_MAX;
		if (!tensor_present(&call->out[i]))
			call->out[i].rank = 0;
	}
	llm_trial_fill_shape(t, rng);
}
