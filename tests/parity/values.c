/* SPDX-License-Identifier: MIT */
/*
 * The steps of a model's pipeline one by one, each result taken as soon as it is there: inner
 * tensors share memory later on.
 */
#include "tests/parity/values.h"

#include "graphs/plan.h"
#include "kernels/element.h"
#include "tests/harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCRATCH_BYTES (8u << 20)
#define BLOCK 1 /* of the cache: all tokens of the text lie in it */

/* What a layer's steps are, in their order. */
static const char *const layer_values[] = {
	NULL,	    /* rmsnorm */
	NULL,	    /* linear: q, k and v before they are turned */
	"q",	    /* kv_append; k and v are in the cache then */
	"context",  /* paged_attention */
	"attended", /* linear with residual */
	NULL,	    /* rmsnorm */
	NULL,	    /* linear */
	"mlp",	    /* swiglu */
	"out",	    /* linear with residual */
};
#define LAYER_STEPS (sizeof(layer_values) / sizeof(layer_values[0]))
#define ATTENTION_STEPS 5u /* the last layer then picks its rows: all of them, here */

struct inputs {
	int32_t positions[KV_BLOCK_TOKENS], rows[KV_BLOCK_TOKENS], last[KV_BLOCK_TOKENS];
	int32_t table[1];
	uint8_t context[KV_BLOCK_TOKENS];
	float temperatures[KV_BLOCK_TOKENS];
};

static void set(struct tensor *t, const void *data, uint32_t dtype, uint64_t rows, uint64_t columns)
{
	*t = (struct tensor){.data = (void *)(uintptr_t)data,
		.dtype = dtype,
		.rank = columns == 0 ? 1 : 2,
		.dims = {rows, columns}};
}

static void fill_call(struct op_call *call, struct inputs *in, const int32_t *tokens, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		in->positions[i] = in->last[i] = (int32_t)i;
		in->temperatures[i] = 1;
	}
	in->table[0] = BLOCK;
	set(&call->in[MODEL_TOKENS], tokens, GPUQ_I32, n, 0);
	set(&call->in[MODEL_POSITIONS], in->positions, GPUQ_I32, n, 0);
	set(&call->in[MODEL_ROWS], in->rows, GPUQ_I32, n, 0);
	set(&call->in[MODEL_TABLE], in->table, GPUQ_I32, 1, 1);
	set(&call->in[MODEL_CONTEXT], in->context, GPUQ_U8, KV_BLOCK_TOKENS, 0);
	set(&call->in[MODEL_LAST], in->last, GPUQ_I32, n, 0);
	set(&call->in[MODEL_TEMPERATURES], in->temperatures, GPUQ_F32, n, 0);
}

static void check(const struct expected *e, const char *name, const float *actual)
{
	uint64_t rows, columns;
	float *right = expected_read(e, name, &rows, &columns);

	expected_near(e, name, actual, right, rows * columns, PARITY_F32_BOUND);
	free(right);
}

/* part 0: keys, 1: values; of the first n tokens, token by token. */
static void check_cache(const struct expected *e, const struct model_config *c, const void *cache,
	uint32_t layer, uint32_t part, uint32_t n)
{
	float *found = malloc(sizeof(float) * n * c->kv_heads * c->head_dim);
	char name[40];

	for (uint32_t t = 0; t < n; t++) {
		for (uint32_t h = 0; h < c->kv_heads; h++) {
			const uint64_t head = (BLOCK * 2 + part) * c->kv_heads + h;

			memcpy(found + (t * c->kv_heads + h) * c->head_dim,
				(const float *)cache + (head * KV_BLOCK_TOKENS + t) * c->head_dim,
				sizeof(float) * c->head_dim);
		}
	}
	snprintf(name, sizeof(name), "layer.%u.%s", layer, part == 0 ? "k" : "v");
	check(e, name, found);
	free(found);
}

static void check_step(const struct expected *e, const struct model_config *c, uint32_t step,
	uint32_t n_steps, const struct op_call *call)
{
	const uint32_t pick = 1 + (c->layers - 1) * LAYER_STEPS + ATTENTION_STEPS;
	uint32_t layer;
	char name[40];

	if (step == n_steps - 3)
		check(e, "norm", call->out[0].data);
	if (step == pick)
		return;
	step -= step > pick;
	layer = (step - 1) / LAYER_STEPS;
	if (step > 0 && layer < c->layers && layer_values[(step - 1) % LAYER_STEPS]) {
		snprintf(name, sizeof(name), "layer.%u.%s", layer,
			layer_values[(step - 1) % LAYER_STEPS]);
		check(e, name, call->out[0].data);
	}
}

void values_check(const struct expected *e, const struct model *model)
{
	const struct engine_model described = engine_model_of(model);
	const struct model_config *c = model_config(model);
	struct pipeline *pipeline = model_pipeline(model, MODEL_STEP_ROWS);
	struct op_call call = {.op = pipeline_op(pipeline)};
	struct inputs in = {0};
	struct device_args args;
	struct plan *plan;
	uint64_t n;
	uint32_t blame;
	int32_t *tokens = expected_read(e, "text.8", &n, NULL);
	void *scratch = aligned_alloc(PLAN_ALIGN, SCRATCH_BYTES);
	float *logits = malloc(n * c->vocab * sizeof(float)),
	      *stats = malloc(2 * n * sizeof(float));

	fill_call(&call, &in, tokens, (uint32_t)n);
	set(&call.out[0], logits, GPUQ_F32, n, c->vocab);
	set(&call.out[1], stats, GPUQ_F32, n, 2);
	assert_int_equal(plan_create(pipeline, &call, scratch, NULL, &plan, &blame), 0);
	assert_true(plan->scratch_bytes <= SCRATCH_BYTES);
	op_args(&args, &call);
	for (uint32_t i = 0; i < plan->n_kernels; i++) {
		const struct plan_kernel *k = &plan->kernels[i];

		op_launch_cpu(&k->launch, &args, 0, k->units);
		check_step(e, c, i, plan->n_kernels, &k->launch.call);
	}
	for (uint32_t layer = 0; layer < c->layers; layer++) {
		check_cache(e, c, described.caches[layer], layer, 0, (uint32_t)n);
		check_cache(e, c, described.caches[layer], layer, 1, (uint32_t)n);
	}
	check(e, "logits.8", logits);
	plan_destroy(plan);
	free(stats);
	free(logits);
	free(scratch);
	free(tokens);
}
