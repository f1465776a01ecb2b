/* SPDX-License-Identifier: MIT */
/* Large shapes; see large.h. No tensor has more than TRIAL_MAX_ELEMENTS. */
#include "tests/kernels/large.h"

#include "kernels/kv_attention/kv_attention.h"
#include "kernels/linear/linear.h"

#include <stdlib.h>

#define MAX_RANK 5u

struct shape {
	const struct op *op;
	uint64_t in[GPUQ_MAX_INPUTS][MAX_RANK]; /* of no rank: it is left out */
	uint32_t w_dtype;			/* of the second input; 0: as the others */
	bool all_outputs;			/* those too that are optional */
};

static const struct shape shapes[] = {
	/* Large tiles and cuBLAS, aligned and not. */
	{&op_gemv_batched, {{1030, 72}, {1000, 72}, {1000}}},
	{&op_gemv_batched, {{1030, 71}, {1000, 71}}},
	{&op_gemv_batched, {{400, 136}, {404, 136}}},
	{&op_gemv_batched, {{128, 1304}, {512, 1304}, {512}}},
	{&op_gemv_batched, {{64, 4096}, {256, 4096}}},
	{&op_gemv_batched, {{300, 512}, {512, 512}, {512}}},
	/* Long rows: many, few, shared among blocks. */
	{&op_gemv_batched, {{1, 1300}, {2500, 1300}, {2500}}},
	{&op_gemv_batched, {{1, 200000}, {17, 200000}, {17}}},
	{&op_gemv_batched, {{1, 199999}, {17, 199999}, {17}}},
	{&op_gemv_batched, {{5, 50000}, {19, 50000}}},
	{&op_gemv_batched, {{6, 8000}, {6, 50, 8000}, {50}}},
	{&op_price_vectors, {{5, 600, 1200}, {1200}}},
	{&op_price_vectors, {{2, 70, 20000}, {70, 20000}}},
	{&op_price_vectors, {{1, 1, 1 << 22}, {1 << 22}}},
	{&op_price_vectors, {{300, 64, 64}, {64, 64}}},
	/* Rows of a block, and rows that are read more than once. */
	{&op_softmax, {{900, 1000}}},
	{&op_softmax, {{100, 16384}}},
	{&op_softmax, {{30, 16385}}},
	{&op_softmax, {{1 << 22}}},
	{&op_softmax, {{100000, 7}}},
	{&op_embedding, {{500}, {1000, 4096}}},
	{&op_embedding, {{20000}, {300, 64}}},
	{&op_rmsnorm, {{3, 16384}, {16384}, {3, 16384}}, .all_outputs = true},
	{&op_rmsnorm, {{500, 4096}, {4096}, {500, 4096}}, .all_outputs = true},
	{&op_rmsnorm, {{200001}, {200001}}},
	{&op_rmsnorm, {{5000, 8, 64}, {64}}},
	{&op_rope, {{300, 40, 128}, {300}}},
	{&op_rope, {{4000, 8, 64}, {4000}}},
	{&op_swiglu, {{64, 14336}, {64, 14336}}},
	{&op_swiglu, {{28672}}},
	/* Steps of one and of some, whose weights are read once; prompts, aligned and not. */
	{&op_linear, {{1, 2048}, {2048, 2048}, [LINEAR_RESIDUAL] = {1, 2048}}},
	{&op_linear, {{1, 128, 128}, {256, 16384}, [LINEAR_BIAS] = {256}}},
	{&op_linear, {{2, 8192}, {512, 8192}, {512}}, .w_dtype = GPUQ_I8},
	{&op_linear, {{2, 2048}, {4001, 2048}, [LINEAR_BIAS] = {4001}}, .w_dtype = GPUQ_BF16},
	{&op_linear, {{1, 16384}, {300, 16384}, [LINEAR_RESIDUAL] = {1, 300}},
		.w_dtype = GPUQ_BF16},
	{&op_linear, {{3, 4096}, {3000, 4096}, {3000}}, .w_dtype = GPUQ_I8},
	{&op_linear, {{3, 1999}, {1001, 1999}}},
	{&op_linear, {{8, 2048}, {1024, 2048}}},
	{&op_linear, {{70, 2048}, {130, 2048}, [LINEAR_BIAS] = {130}}},
	{&op_linear, {{600, 520}, {40, 520}, [LINEAR_RESIDUAL] = {600, 40}}},
	{&op_linear, {{300, 1000}, {64, 1000}, {64}}, .w_dtype = GPUQ_I8},
	/* With a norm and gates. */
	{&op_linear, {{1, 2048}, {2, 400, 2048}, [LINEAR_NORM] = {2048}}, .w_dtype = GPUQ_BF16},
	{&op_linear, {{5, 1999}, {2, 301, 1999}, [LINEAR_NORM] = {1999}}},
	{&op_linear, {{70, 2048}, {2, 130, 2048}, [LINEAR_BIAS] = {2, 130}, [LINEAR_NORM] = {2048}},
		.w_dtype = GPUQ_BF16},
	{&op_linear, {{300, 1000}, {2, 64, 1000}, {2, 64}, [LINEAR_NORM] = {1000}},
		.w_dtype = GPUQ_I8},
	/* Vocabularies, and more. */
	{&op_argmax, {{1, 128256}}, .all_outputs = true},
	{&op_argmax, {{5, 151936}}},
	{&op_argmax, {{2, 1 << 20}}, .all_outputs = true},
	{&op_step_result, {{1, 128256}}},
	{&op_step_result, {{5, 151936}, {5, 40}, {5}}, .all_outputs = true},
	{&op_step_result, {{1, 1 << 20}, {200}}, .all_outputs = true},
	{&op_sample, {{1, 128256}, {1}, {1, 2}}, .all_outputs = true},
	{&op_sample, {{5, 151936}, {5}, {5, 2}}},
	/* 32 heads of 8, and fewer but wider ones: a prompt, and a step of many. */
	{&op_kv_append, {{300, 48 * 64}, {300}, {300}, {4, 64}, {200, 2, 8, KV_TOKENS, 64}}},
	{&op_kv_append,
		{{60, 12 * 128}, {60}, {60}, {60, 20}, {300, 2, 2, KV_TOKENS, 128}, {128}, {128}}},
	/* Steps with a long text, a step of many, and a prompt. */
	{&op_paged_attention,
		{{1, 32, 64}, {200, 2, 8, KV_TOKENS, 64}, {1, 512}, {1}, {1}, {512 * KV_TOKENS}},
		.all_outputs = true},
	{&op_paged_attention,
		{{2, 8, 128}, {200, 2, 2, KV_TOKENS, 128}, {2, 300}, {2}, {2}, {300 * KV_TOKENS}}},
	{&op_paged_attention,
		{{64, 8, 128}, {300, 2, 2, KV_TOKENS, 128}, {64, 30}, {64}, {64}, {30 * KV_TOKENS}},
		.all_outputs = true},
	{&op_paged_attention,
		{{200, 8, 64}, {60, 2, 2, KV_TOKENS, 64}, {1, 20}, {200}, {200}, {20 * KV_TOKENS}}},
	/* Both: a long text, a step of some with norms and of many, and a prompt. */
	{&op_kv_attention,
		{{1, 48 * 64}, {1}, {1}, {1, 250}, {256, 2, 8, KV_TOKENS, 64}, {0}, {0},
			{250 * KV_TOKENS}},
		.all_outputs = true},
	{&op_kv_attention,
		{{9, 12 * 128}, {9}, {9}, {9, 30}, {300, 2, 2, KV_TOKENS, 128}, {128}, {128},
			{30 * KV_TOKENS}},
		.all_outputs = true},
	{&op_kv_attention,
		{{32, 12 * 128}, {32}, {32}, {32, 10}, {330, 2, 2, KV_TOKENS, 128}, {0}, {0},
			{10 * KV_TOKENS}}},
	{&op_kv_attention,
		{{200, 12 * 64}, {200}, {200}, {1, 20}, {60, 2, 2, KV_TOKENS, 64}, {0}, {0},
			{20 * KV_TOKENS}}},
};

#define N_SHAPES (sizeof(shapes) / sizeof(shapes[0]))

uint32_t large_count(const struct op *op)
{
	uint32_t n = 0;

	for (size_t i = 0; i < N_SHAPES; i++)
		n += shapes[i].op == op;
	return n;
}

static const struct shape *find(const struct op *op, uint32_t which)
{
	for (size_t i = 0; i < N_SHAPES; i++) {
		if (shapes[i].op == op && which-- == 0)
			return &shapes[i];
	}
	abort();
}

/* The given one where the operator takes it here, else the first that it takes. */
static uint32_t dtype_of(const struct op_tensor *spec, uint32_t dtype)
{
	if ((spec->dtypes & GPUQ_DTYPE_BIT(dtype)) != 0)
		return dtype;
	return (uint32_t)__builtin_ctz(spec->dtypes);
}

static void set_params(struct op_call *call, struct random *rng)
{
	for (uint32_t i = 0; i < call->op->n_params; i++) {
		const struct op_param *spec = &call->op->params[i];

		if (spec->type == GPUQ_PARAM_F64)
			call->params[i].f64 = spec->preset;
		else
			call->params[i].i64 = (int64_t)spec->preset;
	}
	if (call->op == &op_linear)
		call->params[LINEAR_FIXED_ORDER].i64 = (int64_t)random_below(rng, 2);
}

void large_call(struct op_call *call, const struct op *op, uint32_t which, struct random *rng)
{
	static const uint32_t dtypes[] = {GPUQ_F32, GPUQ_F16, GPUQ_BF16};
	const struct shape *shape = find(op, which);
	const bool normed = op == &op_linear && shape->in[LINEAR_NORM][0] != 0;
	const uint32_t dtype = normed ? GPUQ_F32 : dtypes[random_below(rng, 3)];

	*call = (struct op_call){.op = op};
	for (uint32_t i = 0; i < op->n_inputs; i++) {
		struct tensor *in = &call->in[i];

		while (in->rank < MAX_RANK && shape->in[i][in->rank] != 0) {
			in->dims[in->rank] = shape->in[i][in->rank];
			in->rank++;
		}
		in->dtype = in->rank == 0 ? 0 : dtype_of(&op->inputs[i], dtype);
	}
	if (shape->w_dtype != 0)
		call->in[1].dtype = shape->w_dtype;
	for (uint32_t i = 0; i < op->n_outputs; i++) {
		if (op->outputs[i].optional && !shape->all_outputs)
			continue;
		call->out[i].dtype =
			dtype_of(&op->outputs[i], random_below(rng, 2) ? GPUQ_F32 : dtype);
		call->out[i].rank = UINT32_MAX;
	}
	if (normed)
		call->out[LINEAR_NORMED] = (struct tensor){.dtype = GPUQ_F32, .rank = UINT32_MAX};
	set_params(call, rng);
}
