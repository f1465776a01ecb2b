/* SPDX-License-Identifier: MIT */
/* model.c: loading a model onto a device, and its end. */
#include "models/model_impl.h"

#include "graphs/plan.h"
#include "kernels/paged_attention/paged_attention.h"
#include "models/upload.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_ALIGN 256u
#define STEP_TOKENS 256u
#define STEP_ROWS 64u

/* What is needed only while a model is loaded. */
struct loading {
	struct model *model;
	struct safetensors *files;
	struct model_weights *weights;
	struct pipeline *made[MODEL_STEPS]; /* not yet the model's */
	const struct model_watch *watch;
	struct model_why *why;
};

/* --- Its memory ----------------------------------------------------------------------------- */

static int check_options(const struct model_options *o, struct model_why *why)
{
	if (o->quant != WEIGHT_AS_IS && o->quant != WEIGHT_INT8)
		return model_fail(why, -EINVAL, "%d is no way to quantise weights", (int)o->quant);
	if (o->kv_blocks >= INT32_MAX)
		return model_fail(why, -EINVAL,
			"a KV cache of %u blocks is none that block tables can name", o->kv_blocks);
	return 0;
}

/* Of one layer. */
static uint64_t block_bytes(const struct model *m)
{
	return 2ull * m->config.kv_heads * KV_BLOCK_TOKENS * m->config.head_dim *
		dtype_size(m->cache_dtype);
}

/* What the sessions can have at most; at most what block tables can name. */
static uint64_t most_blocks(const struct model *m)
{
	const uint64_t tokens = m->options.max_session_tokens != 0 &&
			m->options.max_session_tokens < m->config.max_positions
		? m->options.max_session_tokens
		: m->config.max_positions;
	const uint64_t blocks =
		m->options.max_sessions * ((tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS);

	return blocks == 0 || blocks >= INT32_MAX ? INT32_MAX - 1 : blocks;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* What the longest step writes, or all that sessions can have if that is less. */
static uint64_t fewest_blocks(const struct model *m)
{
	return least(
		(m->options.step_tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS, most_blocks(m));
}

/* Of all layers, with block 0. */
static uint64_t bytes_for(const struct model *m, uint64_t blocks)
{
	return (1 + blocks) * block_bytes(m) * m->config.layers;
}

static uint64_t free_bytes(const struct model *m)
{
	struct device_info info;

	device_info(m->device, &info);
	return info.free_bytes;
}

/* A part of what the weights leave free. */
static uint64_t usual_bytes(const struct model *m)
{
	const uint64_t free = free_bytes(m);
	const uint64_t part = m->weight_bytes < free ? (free - m->weight_bytes) / 4 : 0;
	const uint64_t fewest = bytes_for(m, fewest_blocks(m));

	return part > fewest ? part : fewest;
}

/* As many as the bytes hold besides block 0, and as can be of use. */
static int count_blocks(struct model *m, struct model_why *why)
{
	struct model_options *o = &m->options;
	const uint64_t fewest = bytes_for(m, fewest_blocks(m));
	const uint64_t bytes = o->kv_bytes != 0 ? o->kv_bytes : usual_bytes(m);

	if (o->kv_blocks != 0)
		return 0;
	if (bytes < fewest)
		return model_fail(why, -EINVAL,
			"kv_bytes is %llu, and the KV cache of this model needs at least %llu",
			(unsigned long long)bytes, (unsigned long long)fewest);
	o->kv_blocks = (uint32_t)least(bytes / bytes_for(m, 0) - 1, most_blocks(m));
	return 0;
}

/* What was left open, and what is limited by something else as well. */
static int settle_options(struct model *m, struct model_why *why)
{
	struct model_options *o = &m->options;
	uint64_t room;
	int err;

	if (o->step_tokens == 0)
		o->step_tokens = STEP_TOKENS;
	if (o->step_rows == 0)
		o->step_rows = STEP_ROWS;
	err = count_blocks(m, why);
	if (err != 0)
		return err;
	room = (uint64_t)o->kv_blocks * KV_BLOCK_TOKENS;
	if (o->max_session_tokens == 0 || o->max_session_tokens > m->config.max_positions)
		o->max_session_tokens = m->config.max_positions;
	if (o->max_session_tokens > room)
		o->max_session_tokens = (uint32_t)room;
	return 0;
}

/* One layer's cache, with block 0. A device has no more than 2^63 bytes, whatever is asked for. */
static int size_cache(struct model *m, struct model_why *why)
{
	const struct model_config *c = &m->config;
	struct tensor cache = {
		.dtype = m->cache_dtype,
		.rank = 5,
		.dims = {1 + (uint64_t)m->options.kv_blocks, 2, c->kv_heads, KV_BLOCK_TOKENS,
			c->head_dim},
	};
	uint64_t elements;

	if (tensor_size(&cache, &elements, &m->layer_bytes) == 0 &&
		m->layer_bytes <= INT64_MAX / MODEL_MAX_LAYERS - CACHE_ALIGN) {
		m->layer_bytes = (m->layer_bytes + CACHE_ALIGN - 1) / CACHE_ALIGN * CACHE_ALIGN;
		return 0;
	}
	return model_fail(why, -ENOMEM, "a KV cache of %u blocks is larger than any memory",
		m->options.kv_blocks);
}

/* Away from captures: a driver may refuse either while one is under way. */
static int alloc(const struct model *m, uint64_t bytes, uint8_t **ret_data)
{
	void *data;
	int err;

	graphs_quiet_begin(m->graphs);
	err = device_alloc(m->device, DEVICE_WORK, bytes, &data);
	graphs_quiet_end(m->graphs);
	if (err == 0)
		*ret_data = data;
	return err;
}

static void free_memory(const struct model *m)
{
	graphs_quiet_begin(m->graphs);
	device_free(m->device, DEVICE_WORK, m->scratch);
	device_free(m->device, DEVICE_WORK, m->cache);
	device_free(m->device, DEVICE_WORK, m->memory);
	graphs_quiet_end(m->graphs);
}

/* What to do when weights and cache do not fit. */
static const char *advice(const struct model *m, uint64_t free)
{
	if (m->weight_bytes + bytes_for(m, fewest_blocks(m)) <= free)
		return "lower kv_bytes";
	return m->options.quant == WEIGHT_AS_IS ? "load it with quant=int8, or unload another"
						: "unload another";
}

static int alloc_memory(struct model *m, struct model_why *why)
{
	const uint64_t free = free_bytes(m);
	int err = -ENOMEM;

	if (model_bytes(m) <= free)
		err = alloc(m, m->weight_bytes, &m->memory);
	if (err == 0)
		err = alloc(m, model_cache_bytes(m), &m->cache);
	if (err == -GPUQ_EDEVICE)
		return model_fail(why, err, "the device has failed");
	if (err != 0)
		return model_fail(why, err,
			"weights of %.1f MiB and a KV cache of %.1f MiB do not fit the %.1f MiB of "
			"memory that are free: %s",
			(double)m->weight_bytes / 0x1p20, (double)model_cache_bytes(m) / 0x1p20,
			(double)free / 0x1p20, advice(m, free));
	return 0;
}

/* What captures try out reads block 0, and what it reads is to be numbers. */
static int clear_cache(const struct model *m, struct model_why *why)
{
	const uint64_t block = m->layer_bytes / (1 + (uint64_t)m->options.kv_blocks);
	struct device_stream *stream;
	int err = device_stream_create(m->device, DEVICE_PRIORITY_LOW, &stream);

	if (err != 0)
		return model_fail(why, err, "no stream to clear the KV cache with");
	for (uint32_t i = 0; i < m->config.layers && err == 0; i++) {
		err = device_fill(stream, m->cache + i * m->layer_bytes, 0, block);
		if (err == 0)
			err = device_stream_wait(stream);
	}
	device_stream_destroy(stream);
	return err == 0 ? 0 : model_fail(why, err, "clearing the KV cache failed");
}

/* --- Loading -------------------------------------------------------------------------------- */

static int plan_weights(struct loading *l, int dir_fd)
{
	struct model *m = l->model;
	int err = model_config_load(dir_fd, &m->config, l->why);

	if (err == 0)
		err = safetensors_open(dir_fd, &l->files, l->why);
	if (err == 0)
		err = model_weights_plan(
			&m->config, l->files, m->options.quant, &l->weights, l->why);
	if (err != 0)
		return err;
	m->weight_bytes = model_weights_bytes(l->weights);
	m->cache_dtype = model_weight(l->weights, 0, WEIGHT_EMBEDDING)->dtype;
	err = settle_options(m, l->why);
	return err == 0 ? size_cache(m, l->why) : err;
}

/* The call of a step as large as any of so many tokens may be. */
static void largest_call(const struct model *m, const struct pipeline *p, uint64_t n,
	struct tensor *tensors, struct op_call *call)
{
	const uint64_t blocks =
		((uint64_t)m->options.max_session_tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
	const uint64_t r = m->options.step_rows;
	const uint64_t rows[MODEL_INPUTS] = {[MODEL_TOKENS] = n,
		[MODEL_POSITIONS] = n,
		[MODEL_ROWS] = n,
		[MODEL_TABLE] = r,
		[MODEL_CONTEXT] = blocks * KV_BLOCK_TOKENS,
		[MODEL_LAST] = r,
		[MODEL_TEMPERATURES] = r,
		[MODEL_IDS] = r};
	uint32_t count;

	memset(call, 0, sizeof(*call));
	call->op = pipeline_op(p);
	pipeline_tensors(p, tensors, &count);
	memcpy(call->in, tensors, call->op->n_inputs * sizeof(tensors[0]));
	memcpy(call->out, tensors + call->op->n_inputs, call->op->n_outputs * sizeof(tensors[0]));
	for (uint32_t i = 0; i < call->op->n_inputs; i++)
		call->in[i].dims[0] = rows[i];
	call->in[MODEL_TABLE].dims[1] = blocks;
}

/* Steps of few tokens may need more: their attention is split. */
static int size_scratch(struct loading *l)
{
	struct tensor *tensors = calloc(PIPELINE_MAX_TENSORS, sizeof(*tensors));
	struct model *m = l->model;
	const uint64_t most = m->options.step_tokens;
	const uint64_t few = most < ATTENTION_PARTS_ROWS ? most : ATTENTION_PARTS_ROWS;
	int err = tensors == NULL ? -ENOMEM : 0;

	for (uint32_t i = 0; i < 2 * MODEL_STEPS && err == 0; i++) {
		struct pipeline *p = l->made[i / 2];
		struct plan *plan = NULL;
		struct op_call call;
		uint32_t blame;

		largest_call(m, p, i % 2 == 0 ? most : few, tensors, &call);
		/* Any address does: the plan is only measured. */
		err = plan_create(p, &call, m->memory, NULL, &plan, &blame);
		if (err == 0 && plan->scratch_bytes > m->scratch_bytes)
			m->scratch_bytes = plan->scratch_bytes;
		plan_destroy(plan);
	}
	free(tensors);
	return err == 0
		? 0
		: model_fail(l->why, err,
			  "steps of %u tokens, %u of them with an answer, cannot be planned",
			  m->options.step_tokens, m->options.step_rows);
}

static int make_scratch(struct loading *l)
{
	struct model *m = l->model;
	int err = size_scratch(l);

	if (err != 0)
		return err;
	err = alloc(m, m->scratch_bytes, &m->scratch);
	if (err != 0)
		return model_fail(l->why, err,
			"%.1f MiB for what lies between the operators of a step do not fit the "
			"memory that is free",
			(double)m->scratch_bytes / 0x1p20);
	for (uint32_t i = 0; i < MODEL_STEPS; i++)
		pipeline_set_scratch(l->made[i], m->scratch, m->scratch_bytes);
	return 0;
}

/* Before the weights: what cannot be computed need not be read. */
static int make_pipelines(struct loading *l)
{
	struct model *m = l->model;
	const struct pipeline_label label = {.model = m->options.handle,
		.tokens = MODEL_TOKENS,
		.batch = MODEL_TABLE,
		.context = MODEL_CONTEXT};
	int err = 0;

	for (uint32_t i = 0; i < MODEL_STEPS && err == 0; i++) {
		err = llama_pipeline(m, l->weights, i, &l->made[i], l->why);
		if (err == 0)
			pipeline_set_label(l->made[i], &label);
	}
	if (err == 0)
		err = make_scratch(l);
	for (uint32_t i = 0; i < MODEL_STEPS && err == 0; i++) {
		m->pipelines[i] = graphs_intern(m->graphs, l->made[i]);
		if (m->pipelines[i] == NULL)
			err = model_fail(l->why, -ENOMEM, "no memory for the model's steps");
		else
			l->made[i] = NULL;
	}
	for (uint32_t i = 0; i < MODEL_STEPS; i++)
		pipeline_unref(l->made[i]);
	return err;
}

static int read_weights(const struct loading *l)
{
	struct model *m = l->model;

	if (m->on_cpu)
		return model_weights_read(l->weights, l->files, m->memory, l->watch, l->why);
	return model_upload(
		m->device, m->graphs, l->weights, l->files, m->memory, l->watch, l->why);
}

static int load(struct loading *l, int dir_fd)
{
	int err = check_options(&l->model->options, l->why);

	if (err == 0)
		err = plan_weights(l, dir_fd);
	if (err == 0)
		err = alloc_memory(l->model, l->why);
	if (err == 0)
		err = make_pipelines(l);
	if (err == 0)
		err = clear_cache(l->model, l->why);
	return err == 0 ? read_weights(l) : err;
}

int model_load(struct device *device, struct graphs *graphs, int dir_fd,
	const struct model_options *options, const struct model_watch *watch,
	struct model **ret_model, struct model_why *why)
{
	struct loading l = {.watch = watch, .why = why};
	struct model *m = calloc(1, sizeof(*m));
	struct device_info info;
	int err;

	if (m == NULL)
		return model_fail(why, -ENOMEM, "no memory for the model");
	device_info(device, &info);
	m->device = device;
	m->graphs = graphs;
	m->options = *options;
	m->on_cpu = strcmp(info.kind, "cpu") == 0;
	l.model = m;
	device_range_begin(device, "load", options->name);
	err = load(&l, dir_fd);
	device_range_end(device);
	model_weights_destroy(l.weights);
	safetensors_close(l.files);
	if (err != 0) {
		model_destroy(m);
		return err;
	}
	for (uint32_t i = 0; i < m->config.layers; i++)
		m->caches[i] = m->cache + i * m->layer_bytes;
	*ret_model = m;
	return 0;
}

void model_destroy(struct model *m)
{
	if (m == NULL)
		return;
	/* Captures end first: they read weights and cache. */
	for (uint32_t i = 0; i < MODEL_STEPS; i++) {
		if (m->pipelines[i] != NULL)
			graphs_release(m->graphs, m->pipelines[i]);
	}
	free_memory(m);
	free(m);
}

/* --- What it is ----------------------------------------------------------------------------- */

const struct model_config *model_config(const struct model *m)
{
	return &m->config;
}

struct pipeline *model_pipeline(const struct model *m, enum model_step step)
{
	assert(step < MODEL_STEPS);
	return m->pipelines[step];
}

uint32_t model_top_k(const struct model *m)
{
	return m->config.vocab < MODEL_MAX_TOP_K ? m->config.vocab : MODEL_MAX_TOP_K;
}

uint32_t model_kv_blocks(const struct model *m)
{
	return m->options.kv_blocks;
}

uint32_t model_max_session_tokens(const struct model *m)
{
	return m->options.max_session_tokens;
}

void *const *model_caches(const struct model *m, uint32_t *ret_count, uint64_t *ret_block_bytes)
{
	*ret_count = m->config.layers;
	*ret_block_bytes = block_bytes(m);
	return m->caches;
}

uint64_t model_bytes(const struct model *m)
{
	return m->weight_bytes + model_cache_bytes(m) + m->scratch_bytes;
}

uint64_t model_weight_bytes(const struct model *m)
{
	return m->weight_bytes;
}

uint64_t model_cache_bytes(const struct model *m)
{
	return m->config.layers * m->layer_bytes;
}
