/* SPDX-License-Identifier: MIT */
/*
 * trace.c: the plan of a step for full rows, launched kernel by kernel; each result is copied out
 * as soon as it is there, since inner tensors share memory later on. What a linear of several
 * operators' kind keeps to itself is computed beside it, by these operators.
 */
#include "models/trace.h"

#include "graphs/plan.h"
#include "kernels/element.h"
#include "kernels/kv_attention/kv_attention.h"
#include "kernels/linear/linear.h"
#include "kernels/ops.h"
#include "models/model_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN 256u

struct trace {
	const struct model *model;
	struct pipeline *pipeline;
	uint32_t n, blocks; /* tokens; blocks of the cache that these take, from 1 on */
	struct op_call call;
	struct device_args args;
	struct plan *plan;
	struct device_stream *stream;
	uint8_t *inputs; /* pinned */
	void *logits, *stats;
	void *normed, *gates; /* what a linear keeps to itself */
	uint8_t *copy;	      /* pinned: a value */
	float *floats;	      /* keys or values, of each token */
	model_see *see;
	void *context;
};

static uint64_t round_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) / to * to;
}

/* --- The call ------------------------------------------------------------------------------- */

struct input {
	uint32_t dtype, rank;
	uint64_t dims[2];
	uint64_t bytes;
};

static void describe(const struct trace *t, struct input in[MODEL_TEMPERATURES + 1])
{
	const uint64_t n = t->n, context = (uint64_t)t->blocks * KV_BLOCK_TOKENS;
	const struct input list = {GPUQ_I32, 1, {n}, 4 * n};

	in[MODEL_TOKENS] = in[MODEL_POSITIONS] = in[MODEL_ROWS] = in[MODEL_LAST] = list;
	in[MODEL_TABLE] = (struct input){GPUQ_I32, 2, {1, t->blocks}, 4ull * t->blocks};
	/* Never read. */
	in[MODEL_CONTEXT] = (struct input){GPUQ_U8, 1, {context}, 0};
	in[MODEL_TEMPERATURES] = (struct input){GPUQ_F32, 1, {n}, 4 * n};
}

/* One sequence: the first blocks, token n at position n, and an answer to each. */
static void fill(struct trace *t, const int32_t *tokens)
{
	int32_t *positions = t->call.in[MODEL_POSITIONS].data, *rows = t->call.in[MODEL_ROWS].data;
	int32_t *last = t->call.in[MODEL_LAST].data, *table = t->call.in[MODEL_TABLE].data;
	float *temperatures = t->call.in[MODEL_TEMPERATURES].data;

	memcpy(t->call.in[MODEL_TOKENS].data, tokens, t->n * sizeof(*tokens));
	for (uint32_t i = 0; i < t->n; i++) {
		positions[i] = last[i] = (int32_t)i;
		rows[i] = 0;
		temperatures[i] = 1;
	}
	for (uint32_t i = 0; i < t->blocks; i++)
		table[i] = (int32_t)(1 + i);
}

static struct tensor matrix(uint64_t rows, uint64_t columns, void *data)
{
	return (struct tensor){.dtype = GPUQ_F32, .rank = 2, .dims = {rows, columns}, .data = data};
}

static int make_call(struct trace *t, const int32_t *tokens)
{
	struct input in[MODEL_TEMPERATURES + 1];
	struct device *device = t->model->device;
	uint64_t bytes = 0;
	int err;

	describe(t, in);
	for (uint32_t i = 0; i <= MODEL_TEMPERATURES; i++)
		bytes += round_up(in[i].bytes, ALIGN);
	err = device_alloc(device, DEVICE_PINNED, bytes, (void **)&t->inputs);
	if (err == 0)
		err = device_alloc(
			device, DEVICE_WORK, 4ull * t->n * t->model->config.vocab, &t->logits);
	if (err == 0)
		err = device_alloc(device, DEVICE_WORK, 8ull * t->n, &t->stats);
	if (err != 0)
		return err;
	bytes = 0;
	for (uint32_t i = 0; i <= MODEL_TEMPERATURES; i++) {
		t->call.in[i] = (struct tensor){
			.dtype = in[i].dtype, .rank = in[i].rank, .data = t->inputs + bytes};
		memcpy(t->call.in[i].dims, in[i].dims, sizeof(in[i].dims));
		bytes += round_up(in[i].bytes, ALIGN);
	}
	t->call.out[0] = matrix(t->n, t->model->config.vocab, t->logits);
	t->call.out[1] = matrix(t->n, 2, t->stats);
	fill(t, tokens);
	return 0;
}

/* --- Values --------------------------------------------------------------------------------- */

/* A result of an operator, as it lies on the device. */
static const struct tensor *result(const struct trace *t, uint32_t step, uint32_t out)
{
	const struct op_launch *launch = &t->plan->kernels[step].launch;

	return launch->out[out] == OP_FIXED ? &launch->call.out[out]
					    : &t->call.out[launch->out[out] - GPUQ_MAX_INPUTS];
}

static uint64_t bytes_of(const struct tensor *tensor)
{
	uint64_t elements, bytes;

	return tensor_size(tensor, &elements, &bytes) == 0 ? bytes : 0;
}

static int fetch(struct trace *t, const void *from, uint64_t bytes)
{
	int err = device_copy(t->stream, t->copy, from, bytes);

	return err == 0 ? device_stream_wait(t->stream) : err;
}

/* part 0: keys, 1: values; of each token, out of the blocks that have been fetched. */
static int show_part(
	struct trace *t, const struct model_value *q, const struct tensor *cache, uint32_t part)
{
	const uint64_t heads = cache->dims[2], width = cache->dims[4], slots = KV_BLOCK_TOKENS;
	struct model_value value = *q;

	value.name[strlen(value.name) - 1] = "kv"[part];
	value.columns = heads * width;
	value.data = t->floats;
	for (uint64_t i = 0; i < t->n * value.columns; i++) {
		const uint64_t token = i / value.columns, head = i / width % heads;
		const uint64_t at = (token / slots * 2 + part) * heads + head;

		t->floats[i] = (float)element_get(
			t->copy, cache->dtype, (at * slots + token % slots) * width + i % width);
	}
	return t->see(t->context, &value);
}

static int show_cache(struct trace *t, const struct model_value *q, const struct tensor *cache)
{
	const uint64_t block = bytes_of(cache) / cache->dims[0];
	int err = fetch(t, (const uint8_t *)cache->data + block, t->blocks * block);

	if (err == 0)
		err = show_part(t, q, cache, 0);
	return err == 0 ? show_part(t, q, cache, 1) : err;
}

/* The name of a tensor in the definition. */
static const char *tensor_name(const struct trace *t, uint16_t tensor)
{
	uint64_t bytes;
	const struct wire_pipeline *head = pipeline_blob(t->pipeline, &bytes);
	const struct wire_pipeline_tensor *tensors = (const void *)(head + 1);

	return tensors[tensor].name;
}

static const struct pipeline_step *step_of(const struct trace *t, uint32_t step, bool *ret_last)
{
	uint32_t n_steps;
	const struct pipeline_step *steps = pipeline_steps(t->pipeline, &n_steps);

	*ret_last = step + 1 == n_steps;
	return &steps[step];
}

/* False: nobody is interested in it. */
static bool name_of(const struct trace *t, uint32_t step, uint32_t out, char name[GPUQ_NAME_MAX])
{
	bool last;

	snprintf(name, GPUQ_NAME_MAX, "%s", tensor_name(t, step_of(t, step, &last)->out[out]));
	/* All rows that are picked as the last ones of the text, and what is made of the logits. */
	return !last && strstr(name, ".last") == NULL;
}

static int show_tensor(struct trace *t, const struct tensor *tensor, struct model_value *value)
{
	int err = fetch(t, tensor->data, bytes_of(tensor));

	value->rows = t->n;
	value->columns = bytes_of(tensor) / sizeof(float) / t->n;
	value->data = (const float *)t->copy;
	return err == 0 ? t->see(t->context, value) : err;
}

static int show_result(struct trace *t, uint32_t step, uint32_t out)
{
	struct model_value value;

	return name_of(t, step, out, value.name) ? show_tensor(t, result(t, step, out), &value) : 0;
}

/* Queries, and what went to the cache with them. */
static int show_appended(struct trace *t, uint32_t step, uint32_t out)
{
	const struct op_call *call = &t->plan->kernels[step].launch.call;
	struct model_value value;
	int err;

	(void)name_of(t, step, out, value.name);
	err = show_tensor(t, result(t, step, out), &value);
	return err == 0 ? show_cache(t, &value, &call->in[APPEND_CACHE]) : err;
}

static int show(struct trace *t, uint32_t step)
{
	const struct op *op = t->plan->kernels[step].launch.call.op;
	int err = 0;

	if (op == &op_kv_append)
		return show_appended(t, step, 0);
	if (op == &op_kv_attention)
		err = show_appended(t, step, KV_ATTENTION_Q);
	return err == 0 ? show_result(t, step, 0) : err;
}

/* --- What a linear keeps to itself ---------------------------------------------------------- */

static int run_kernel(
	struct trace *t, const struct plan_kernel *kernel, const struct device_args *args)
{
	const struct device_kernel launched = plan_device_kernel(kernel, false);
	int err = device_launch(t->stream, &launched, args);

	return err == 0 ? device_stream_wait(t->stream) : err;
}

/* Runs an operator, and shows what comes of it under a name beside that of the step's result. */
static int run_beside(struct trace *t, uint32_t step, struct op_call *call, uint32_t named)
{
	bool last;
	const struct pipeline_step *of = step_of(t, step, &last);
	const char *out = tensor_name(t, of->out[0]), *dot = strrchr(out, '.');
	const int prefix = dot == NULL ? 0 : (int)(dot + 1 - out);
	struct device_args args;
	struct model_value value;
	struct plan *plan;
	uint32_t blame;
	int err = op_check(call, &blame);

	if (err == 0)
		err = plan_create(NULL, call, t->model->scratch, NULL, &plan, &blame);
	if (err != 0)
		return err;
	op_args(&args, call);
	err = run_kernel(t, &plan->kernels[0], &args);
	plan_destroy(plan);
	if (snprintf(value.name, sizeof(value.name), "%.*s%s", prefix, out,
		    tensor_name(t, of->in[named])) >= (int)sizeof(value.name) &&
		err == 0)
		err = -ENAMETOOLONG;
	return err == 0 ? show_tensor(t, &call->out[0], &value) : err;
}

static struct tensor beside(void *data)
{
	return (struct tensor){.dtype = GPUQ_F32, .rank = UINT32_MAX, .data = data};
}

/* The inputs of a linear, normalised. */
static int show_normed(struct trace *t, uint32_t step, const struct op_call *linear)
{
	struct op_call call = {.op = &op_rmsnorm,
		.in = {linear->in[LINEAR_X], linear->in[LINEAR_NORM]},
		.out = {beside(t->normed)},
		.params = {linear->params[LINEAR_EPS]}};

	return run_beside(t, step, &call, LINEAR_NORM);
}

/* [2,..] as one dimension. */
static void join_parts(struct tensor *t)
{
	if (!tensor_present(t))
		return;
	t->rank--;
	t->dims[0] *= t->dims[1];
	t->dims[1] = t->dims[2];
}

static int show_gates(struct trace *t, uint32_t step, const struct op_call *linear)
{
	struct op_call call = *linear;

	if (tensor_present(&call.in[LINEAR_NORM]))
		call.in[LINEAR_X].data = t->normed;
	call.in[LINEAR_NORM] = call.in[LINEAR_RESIDUAL] = (struct tensor){0};
	call.out[LINEAR_NORMED] = (struct tensor){0};
	join_parts(&call.in[LINEAR_W]);
	join_parts(&call.in[LINEAR_SCALES]);
	join_parts(&call.in[LINEAR_BIAS]);
	call.out[0] = beside(t->gates);
	return run_beside(t, step, &call, LINEAR_W);
}

static int show_kept(struct trace *t, uint32_t step)
{
	const struct op_call *call = &t->plan->kernels[step].launch.call;
	int err = 0;

	if (call->op != &op_linear)
		return 0;
	if (tensor_present(&call->in[LINEAR_NORM]))
		err = show_normed(t, step, call);
	return err == 0 && linear_gated(call) ? show_gates(t, step, call) : err;
}

/* --- Running -------------------------------------------------------------------------------- */

/* Of a step's results, and of what linears keep to themselves. */
static void find_sizes(
	const struct trace *t, uint64_t *most, uint64_t *ret_normed, uint64_t *ret_gates)
{
	*ret_normed = *ret_gates = 0;
	for (uint32_t i = 0; i < t->plan->n_kernels; i++) {
		const struct op_call *call = &t->plan->kernels[i].launch.call;
		const uint64_t bytes = bytes_of(result(t, i, 0));
		const uint64_t row = sizeof(float) * t->n;

		*most = bytes > *most ? bytes : *most;
		if (call->op == &op_linear && row * linear_inner(call) > *ret_normed)
			*ret_normed = row * linear_inner(call);
		if (call->op == &op_linear && linear_gated(call) && 2 * bytes > *ret_gates)
			*ret_gates = 2 * bytes;
	}
	*most = *ret_normed > *most ? *ret_normed : *most;
	*most = *ret_gates > *most ? *ret_gates : *most;
}

static int prepare(struct trace *t)
{
	const struct model *m = t->model;
	const uint64_t block = m->layer_bytes / (1 + (uint64_t)m->options.kv_blocks);
	uint64_t most = t->blocks * block, normed, gates;
	uint32_t blame;
	int err = plan_create(t->pipeline, &t->call, m->scratch, NULL, &t->plan, &blame);

	if (err != 0)
		return err;
	if (t->plan->scratch_bytes > m->scratch_bytes)
		return -GPUQ_ELIMIT;
	find_sizes(t, &most, &normed, &gates);
	op_args(&t->args, &t->call);
	t->floats = calloc(t->n, sizeof(float) * m->config.kv_heads * m->config.head_dim);
	if (t->floats == NULL)
		return -ENOMEM;
	err = device_alloc(m->device, DEVICE_WORK, normed, &t->normed);
	if (err == 0)
		err = device_alloc(m->device, DEVICE_WORK, gates, &t->gates);
	if (err == 0)
		err = device_alloc(m->device, DEVICE_PINNED, most, (void **)&t->copy);
	return err == 0 ? device_stream_create(m->device, DEVICE_PRIORITY_NORMAL, &t->stream) : err;
}

static int run(struct trace *t)
{
	int err = 0;

	for (uint32_t i = 0; i < t->plan->n_kernels && err == 0; i++) {
		err = show_kept(t, i);
		if (err == 0)
			err = run_kernel(t, &t->plan->kernels[i], &t->args);
		if (err == 0)
			err = show(t, i);
	}
	return err;
}

static void end(struct trace *t)
{
	struct device *device = t->model->device;

	device_stream_destroy(t->stream);
	device_free(device, DEVICE_PINNED, t->copy);
	device_free(device, DEVICE_WORK, t->gates);
	device_free(device, DEVICE_WORK, t->normed);
	device_free(device, DEVICE_WORK, t->stats);
	device_free(device, DEVICE_WORK, t->logits);
	device_free(device, DEVICE_PINNED, t->inputs);
	free(t->floats);
	plan_destroy(t->plan);
}

static int check(const struct model *m, const int32_t *tokens, uint32_t n)
{
	const struct model_options *o = &m->options;

	if (n == 0)
		return -GPUQ_ETOKEN;
	if (n > o->step_tokens || n > o->step_rows || n > o->max_session_tokens)
		return -GPUQ_ELIMIT;
	for (uint32_t i = 0; i < n; i++) {
		if (tokens[i] < 0 || (uint32_t)tokens[i] >= m->config.vocab)
			return -GPUQ_ETOKEN;
	}
	return 0;
}

int model_trace(
	const struct model *m, const int32_t *tokens, uint32_t n, model_see *see, void *context)
{
	struct trace t = {
		.model = m,
		.pipeline = model_pipeline(m, MODEL_STEP_ROWS),
		.n = n,
		.blocks = (n + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS,
		.see = see,
		.context = context,
	};
	int err = check(m, tokens, n);

	if (err != 0)
		return err;
	t.call.op = pipeline_op(t.pipeline);
	err = make_call(&t, tokens);
	if (err == 0)
		err = prepare(&t);
	if (err == 0)
		err = run(&t);
	end(&t);
	return err;
}
