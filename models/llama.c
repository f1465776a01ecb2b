/* SPDX-License-Identifier: MIT */
/*
 * llama.c: one step of Llama, Mistral, Qwen2 or Qwen3 as a pipeline. They are one chain: what an
 * architecture does not have (biases, norms of heads, a window) is left out, by its configuration.
 *
 *	x = embedding(tokens)
 *	each layer:
 *		qkv = linear(rmsnorm(x))		one operator, like all linear(rmsnorm())
 *		q = kv_append(qkv)			keys and values go to the cache
 *		x = x + linear(paged_attention(q))	on a GPU one operator with kv_append
 *		the last layer: x = rows `last` of x	nobody asks for the others any more
 *		mlp = swiglu(linear(rmsnorm(x)))	one operator
 *		x = x + linear(mlp)
 *	logits = linear(rmsnorm(x))
 *	what the kind of step makes of the logits
 *
 * Inner tensors are f32, whatever the weights are. Their names are those of models/trace.h.
 */
#include "models/model_impl.h"

#include "kernels/kv_attention/kv_attention.h"
#include "kernels/linear/linear.h"
#include "kernels/ops.h"
#include "kernels/sample/sample.h"
#include "kernels/step_result/step_result.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NONE WIRE_PIPELINE_NONE

/*
 * Constants are numbered before inner tensors, but both are met in the order of the layers: until
 * all are there, inner ones have numbers from INNER on.
 */
#define INNER 0x8000u

struct builder {
	const struct model *model;
	const struct model_weights *weights;
	uint32_t layer;
	bool in_layer; /* not before or behind them */
	bool full;
	uint32_t n_inputs, n_outputs, n_constants, n_inner, n_steps;
	struct wire_pipeline_tensor external[GPUQ_MAX_TENSORS];
	struct wire_pipeline_tensor constants[PIPELINE_MAX_TENSORS];
	struct wire_pipeline_tensor inner[PIPELINE_MAX_TENSORS];
	struct wire_pipeline_step steps[PIPELINE_MAX_STEPS];
	void *addresses[PIPELINE_MAX_TENSORS];
};

/* --- Tensors -------------------------------------------------------------------------------- */

static void set_tensor(struct wire_pipeline_tensor *t, const char *name, uint32_t dtype,
	uint32_t rank, const uint64_t *dims)
{
	snprintf(t->name, sizeof(t->name), "%s", name);
	t->dtype = dtype;
	t->rank = rank;
	if (rank > 0)
		memcpy(t->dims, dims, rank * sizeof(*dims));
}

/* Inputs come first, in the order of enum model_input, with the shapes of one token. */
static void add_inputs(struct builder *b, enum model_step kind)
{
	static const struct {
		const char *name;
		uint32_t dtype, rank;
		uint64_t dims[2];
	} inputs[MODEL_INPUTS] = {
		[MODEL_TOKENS] = {"tokens", GPUQ_I32, 1, {1}},
		[MODEL_POSITIONS] = {"positions", GPUQ_I32, 1, {1}},
		[MODEL_ROWS] = {"rows", GPUQ_I32, 1, {1}},
		[MODEL_TABLE] = {"table", GPUQ_I32, 2, {1, 1}},
		[MODEL_CONTEXT] = {"context", GPUQ_U8, 1, {KV_BLOCK_TOKENS}},
		[MODEL_LAST] = {"last", GPUQ_I32, 1, {1}},
		[MODEL_TEMPERATURES] = {"temperatures", GPUQ_F32, 1, {1}},
		[MODEL_IDS] = {"ids", GPUQ_I32, 2, {1, 1}},
	};

	b->n_inputs = kind == MODEL_STEP_ROWS ? MODEL_TEMPERATURES + 1 : MODEL_INPUTS;
	for (uint32_t i = 0; i < b->n_inputs; i++)
		set_tensor(&b->external[i], inputs[i].name, inputs[i].dtype, inputs[i].rank,
			inputs[i].dims);
	if (kind == MODEL_STEP_SAMPLE)
		set_tensor(&b->external[MODEL_SEEDS], "seeds", GPUQ_I64, 2, (uint64_t[]){1, 2});
}

static void add_outputs(struct builder *b, enum model_step kind)
{
	static const struct {
		const char *name;
		uint32_t dtype;
	} outputs[MODEL_STEPS][GPUQ_MAX_OUTPUTS] = {
		[MODEL_STEP_RESULT] = {[STEP_VALUES] = {"values", GPUQ_F32},
			[STEP_TOKENS] = {"tokens", GPUQ_I32},
			[STEP_STATS] = {"stats", GPUQ_F32},
			[STEP_NAMED] = {"named", GPUQ_F32}},
		[MODEL_STEP_ROWS] = {{"logits", GPUQ_F32}, {"stats", GPUQ_F32}},
		[MODEL_STEP_SAMPLE] = {[SAMPLE_TOKEN] = {"token", GPUQ_I32},
			[SAMPLE_LOGPROB] = {"logprob", GPUQ_F32}},
	};

	for (; b->n_outputs < GPUQ_MAX_OUTPUTS; b->n_outputs++) {
		if (outputs[kind][b->n_outputs].name == NULL)
			break;
		set_tensor(&b->external[b->n_inputs + b->n_outputs],
			outputs[kind][b->n_outputs].name, outputs[kind][b->n_outputs].dtype, 0,
			NULL);
	}
}

static uint16_t output(const struct builder *b, uint32_t i)
{
	assert(i < b->n_outputs);
	return (uint16_t)(b->n_inputs + i);
}

static uint16_t add_constant(struct builder *b, const char *name, uint32_t dtype, uint32_t rank,
	const uint64_t *dims, void *address)
{
	if (b->n_constants == PIPELINE_MAX_TENSORS) {
		b->full = true;
		return NONE;
	}
	set_tensor(&b->constants[b->n_constants], name, dtype, rank, dims);
	b->addresses[b->n_constants] = address;
	return (uint16_t)(b->n_inputs + b->n_outputs + b->n_constants++);
}

static uint16_t add_inner(struct builder *b, const char *what, uint32_t dtype)
{
	char name[GPUQ_NAME_MAX];

	if (b->n_inner == PIPELINE_MAX_TENSORS) {
		b->full = true;
		return NONE;
	}
	if (b->in_layer)
		snprintf(name, sizeof(name), "layer.%u.%s", b->layer, what);
	else
		snprintf(name, sizeof(name), "%s", what);
	set_tensor(&b->inner[b->n_inner], name, dtype, 0, NULL);
	return (uint16_t)(INNER + b->n_inner++);
}

/* NONE: the model has no such weight. */
static uint16_t add_weight(struct builder *b, const char *name, enum weight_role role)
{
	const struct weight *w = model_weight(b->weights, b->layer, role);

	if (w == NULL)
		return NONE;
	return add_constant(b, name, w->dtype, w->rank, w->dims, b->model->memory + w->offset);
}

/* --- Steps ---------------------------------------------------------------------------------- */

static struct wire_pipeline_step *add_step(struct builder *b, const char *name)
{
	/* What is too much is written to the last one. */
	struct wire_pipeline_step *step = &b->steps[b->n_steps];
	const struct op *op = op_find(name, &step->op);

	assert(op != NULL);
	(void)op;
	memset(step->in, 0xff, sizeof(step->in));
	memset(step->out, 0xff, sizeof(step->out));
	if (b->n_steps == PIPELINE_MAX_STEPS - 1)
		b->full = true;
	else
		b->n_steps++;
	return step;
}

static void set_param(struct wire_pipeline_step *step, const char *name, double value)
{
	const struct op *op = op_table[step->op];
	union op_value bits;
	uint32_t i = 0;

	while (strcmp(op->params[i].name, name) != 0)
		i++;
	if (op->params[i].type == GPUQ_PARAM_I64)
		bits.i64 = (int64_t)value;
	else
		bits.f64 = value;
	memcpy(&step->params[i], &bits, sizeof(bits));
	step->params_given |= 1u << i;
}

/* A matrix, or several of consecutive roles that lie without gaps, with its scales and bias. */
struct matrix {
	const char *name;
	enum weight_role first;
	uint32_t parts;
	enum weight_role bias; /* WEIGHT_ROLES: there is none */
	bool gated;	       /* two parts, a gate and what it lets through */
};

static uint64_t rows_of(const struct builder *b, const struct matrix *m)
{
	uint64_t rows = 0;

	for (uint32_t i = 0; i < m->parts; i++)
		rows += model_weight(b->weights, b->layer, m->first + i)->dims[0];
	return rows;
}

static struct wire_pipeline_step *add_linear(
	struct builder *b, const struct matrix *m, uint16_t x, uint16_t residual, uint16_t y)
{
	const struct weight *w = model_weight(b->weights, b->layer, m->first);
	const struct weight *bias =
		m->bias == WEIGHT_ROLES ? NULL : model_weight(b->weights, b->layer, m->bias);
	const uint64_t rows = rows_of(b, m), gated[] = {2, rows / 2, w->dims[1]};
	const uint64_t plain[] = {rows, w->dims[1]}, *dims = m->gated ? gated : plain;
	const uint32_t rank = m->gated ? 3 : 2;
	struct wire_pipeline_step *step = add_step(b, "linear");
	uint8_t *memory = b->model->memory;

	step->in[LINEAR_X] = x;
	step->in[LINEAR_W] = add_constant(b, m->name, w->dtype, rank, dims, memory + w->offset);
	if (w->dtype == GPUQ_I8)
		step->in[LINEAR_SCALES] = add_constant(
			b, "scales", GPUQ_F32, rank - 1, dims, memory + w->scales_offset);
	if (bias != NULL)
		step->in[LINEAR_BIAS] =
			add_constant(b, "bias", bias->dtype, rank - 1, dims, memory + bias->offset);
	step->in[LINEAR_RESIDUAL] = residual;
	step->out[0] = y;
	set_param(step, "fixed_order", b->model->options.deterministic);
	return step;
}

/* Of x normalised. */
static void add_normed(struct builder *b, const struct matrix *m, const char *norm,
	enum weight_role role, uint16_t x, uint16_t y)
{
	struct wire_pipeline_step *step = add_linear(b, m, x, NONE, y);

	step->in[LINEAR_NORM] = add_weight(b, norm, role);
	step->out[LINEAR_NORMED] = add_inner(b, "normed", GPUQ_F32);
	set_param(step, "eps", b->model->config.norm_eps);
}

static uint16_t add_lookup(struct builder *b, const char *name, uint16_t which, uint16_t table)
{
	struct wire_pipeline_step *step = add_step(b, "embedding");

	step->in[0] = which;
	step->in[1] = table;
	step->out[0] = add_inner(b, name, GPUQ_F32);
	return step->out[0];
}

/* --- Layers --------------------------------------------------------------------------------- */

static void set_rope(const struct builder *b, struct wire_pipeline_step *step)
{
	const struct model_rope *rope = &b->model->config.rope;

	set_param(step, "theta", rope->theta);
	set_param(step, "scaling", rope->scaling);
	set_param(step, "factor", rope->factor);
	if (rope->scaling != MODEL_ROPE_LLAMA3)
		return;
	set_param(step, "low_freq_factor", rope->low_freq_factor);
	set_param(step, "high_freq_factor", rope->high_freq_factor);
	set_param(step, "original_length", rope->original_positions);
}

/* What kv_append takes, for it or for kv_attention. */
static struct wire_pipeline_step *add_append(
	struct builder *b, const char *name, uint16_t qkv, uint16_t cache)
{
	struct wire_pipeline_step *step = add_step(b, name);

	step->in[APPEND_QKV] = qkv;
	step->in[APPEND_POSITIONS] = MODEL_POSITIONS;
	step->in[APPEND_ROWS] = MODEL_ROWS;
	step->in[APPEND_TABLE] = MODEL_TABLE;
	step->in[APPEND_CACHE] = cache;
	step->in[APPEND_Q_NORM] = add_weight(b, "q_norm", WEIGHT_Q_NORM);
	step->in[APPEND_K_NORM] = add_weight(b, "k_norm", WEIGHT_K_NORM);
	set_rope(b, step);
	set_param(step, "eps", b->model->config.norm_eps);
	return step;
}

static void set_window(const struct builder *b, struct wire_pipeline_step *step)
{
	const struct model_config *c = &b->model->config;

	if (c->windowed[b->layer])
		set_param(step, "window", c->window);
}

/* A CPU's workers share the work of each of the two operators. */
static uint16_t add_attention_on_cpu(struct builder *b, uint16_t qkv, uint16_t cache)
{
	struct wire_pipeline_step *step = add_append(b, "kv_append", qkv, cache);
	const uint16_t q = add_inner(b, "q", GPUQ_F32);

	step->out[0] = q;
	step = add_step(b, "paged_attention");
	step->in[ATTENTION_Q] = q;
	step->in[ATTENTION_CACHE] = cache;
	step->in[ATTENTION_TABLE] = MODEL_TABLE;
	step->in[ATTENTION_POSITIONS] = MODEL_POSITIONS;
	step->in[ATTENTION_ROWS] = MODEL_ROWS;
	step->in[ATTENTION_CONTEXT] = MODEL_CONTEXT;
	step->out[ATTENTION_Y] = add_inner(b, "context", GPUQ_F32);
	set_window(b, step);
	return step->out[ATTENTION_Y];
}

/* Others begin each operator with a wait for the one before, and split long contexts. */
static uint16_t add_attention(struct builder *b, uint16_t qkv, uint16_t cache)
{
	struct wire_pipeline_step *step;

	if (b->model->on_cpu)
		return add_attention_on_cpu(b, qkv, cache);
	step = add_append(b, "kv_attention", qkv, cache);
	step->in[KV_ATTENTION_CONTEXT] = MODEL_CONTEXT;
	step->out[KV_ATTENTION_Y] = add_inner(b, "context", GPUQ_F32);
	step->out[KV_ATTENTION_Q] = add_inner(b, "q", GPUQ_F32);
	step->out[KV_ATTENTION_PARTS] = add_inner(b, "parts", GPUQ_F32);
	set_window(b, step);
	return step->out[KV_ATTENTION_Y];
}

static uint16_t add_cache(struct builder *b)
{
	const struct model *m = b->model;
	const uint64_t dims[] = {1 + (uint64_t)m->options.kv_blocks, 2, m->config.kv_heads,
		KV_BLOCK_TOKENS, m->config.head_dim};

	return add_constant(
		b, "cache", m->cache_dtype, 5, dims, m->cache + b->layer * m->layer_bytes);
}

/* x + what its tokens make of those before them */
static uint16_t add_attention_block(struct builder *b, uint16_t x)
{
	static const struct matrix qkv = {"qkv", WEIGHT_Q, 3, WEIGHT_Q_BIAS};
	static const struct matrix o = {"o", WEIGHT_O, 1, WEIGHT_O_BIAS};
	const uint16_t cache = add_cache(b);
	const uint16_t projected = add_inner(b, "qkv", GPUQ_F32);
	const uint16_t y = add_inner(b, "attended", GPUQ_F32);

	add_normed(b, &qkv, "attention_norm", WEIGHT_ATTENTION_NORM, x, projected);
	add_linear(b, &o, add_attention(b, projected, cache), x, y);
	return y;
}

/* x + what each token makes of itself */
static uint16_t add_mlp_block(struct builder *b, uint16_t x)
{
	static const struct matrix gate_up = {
		"gate_up", WEIGHT_GATE, 2, WEIGHT_GATE_BIAS, .gated = true};
	static const struct matrix down = {"down", WEIGHT_DOWN, 1, WEIGHT_DOWN_BIAS};
	const uint16_t activated = add_inner(b, "mlp", GPUQ_F32);
	const uint16_t y = add_inner(b, "out", GPUQ_F32);

	add_normed(b, &gate_up, "mlp_norm", WEIGHT_MLP_NORM, x, activated);
	add_linear(b, &down, activated, x, y);
	return y;
}

/* What follows attention in the last layer is computed of the rows only that get an answer. */
static uint16_t add_layer(struct builder *b, uint16_t x)
{
	x = add_attention_block(b, x);
	if (b->layer + 1 == b->model->config.layers)
		x = add_lookup(b, "last", MODEL_LAST, x);
	return add_mlp_block(b, x);
}

/* --- What comes of the logits --------------------------------------------------------------- */

static void add_result(struct builder *b, uint16_t logits)
{
	struct wire_pipeline_step *step = add_step(b, "step_result");

	step->in[STEP_LOGITS] = logits;
	step->in[STEP_IDS] = MODEL_IDS;
	step->in[STEP_TEMPERATURES] = MODEL_TEMPERATURES;
	for (uint32_t i = 0; i < b->n_outputs; i++)
		step->out[i] = output(b, i);
	set_param(step, "K", model_top_k(b->model));
}

/* step_result finds candidates all the same: one, for nobody. */
static void add_stats(struct builder *b, uint16_t logits)
{
	struct wire_pipeline_step *step = add_step(b, "step_result");

	step->in[STEP_LOGITS] = logits;
	step->in[STEP_TEMPERATURES] = MODEL_TEMPERATURES;
	step->out[STEP_VALUES] = add_inner(b, "values", GPUQ_F32);
	step->out[STEP_TOKENS] = add_inner(b, "tokens", GPUQ_I32);
	step->out[STEP_STATS] = output(b, 1);
	set_param(step, "K", 1);
}

static void add_sample(struct builder *b, uint16_t logits)
{
	struct wire_pipeline_step *step = add_step(b, "sample");

	step->in[SAMPLE_LOGITS] = logits;
	step->in[SAMPLE_TEMPERATURES] = MODEL_TEMPERATURES;
	step->in[SAMPLE_SEEDS] = MODEL_SEEDS;
	for (uint32_t i = 0; i < b->n_outputs; i++)
		step->out[i] = output(b, i);
}

static void add_head(struct builder *b, enum model_step kind, uint16_t x)
{
	static const struct matrix head = {"head", WEIGHT_HEAD, 1, WEIGHT_ROLES};
	const uint16_t logits =
		kind == MODEL_STEP_ROWS ? output(b, 0) : add_inner(b, "logits", GPUQ_F32);

	add_normed(b, &head, "norm", WEIGHT_NORM, x, logits);
	if (kind == MODEL_STEP_RESULT)
		add_result(b, logits);
	else if (kind == MODEL_STEP_ROWS)
		add_stats(b, logits);
	else
		add_sample(b, logits);
}

/* --- The definition ------------------------------------------------------------------------- */

static void add_all(struct builder *b, enum model_step kind)
{
	uint16_t x;

	add_inputs(b, kind);
	add_outputs(b, kind);
	x = add_lookup(b, "embedding", MODEL_TOKENS, add_weight(b, "table", WEIGHT_EMBEDDING));
	b->in_layer = true;
	for (; b->layer < b->model->config.layers; b->layer++)
		x = add_layer(b, x);
	b->in_layer = false;
	/* Weights of the model are asked for as those of layer 0. */
	b->layer = 0;
	add_head(b, kind, x);
}

static void renumber(uint16_t *tensors, uint32_t n, uint32_t first_inner)
{
	for (uint32_t i = 0; i < n; i++) {
		if (tensors[i] != NONE && tensors[i] >= INNER)
			tensors[i] = (uint16_t)(tensors[i] - INNER + first_inner);
	}
}

static void *append(void *to, const void *from, size_t bytes)
{
	memcpy(to, from, bytes);
	return (char *)to + bytes;
}

/* struct wire_pipeline and what follows it. */
static int pack(struct builder *b, void **ret_blob, uint64_t *ret_bytes)
{
	static const char *const names[] = {
		[MODEL_LLAMA] = "llama",
		[MODEL_MISTRAL] = "mistral",
		[MODEL_QWEN2] = "qwen2",
		[MODEL_QWEN3] = "qwen3",
	};
	const uint32_t n_external = b->n_inputs + b->n_outputs;
	struct wire_pipeline head = {
		.n_inputs = b->n_inputs,
		.n_outputs = b->n_outputs,
		.n_tensors = n_external + b->n_constants + b->n_inner,
		.n_steps = b->n_steps,
	};
	const uint64_t bytes = sizeof(head) + head.n_tensors * sizeof(b->inner[0]) +
		head.n_steps * sizeof(b->steps[0]);
	const char *name = b->model->options.name != NULL ? b->model->options.name
							  : names[b->model->config.architecture];
	void *blob = malloc(bytes), *at = blob;

	if (blob == NULL)
		return -ENOMEM;
	snprintf(head.name, sizeof(head.name), "%s", name);
	for (uint32_t i = 0; i < b->n_steps; i++) {
		renumber(b->steps[i].in, GPUQ_MAX_INPUTS, n_external + b->n_constants);
		renumber(b->steps[i].out, GPUQ_MAX_OUTPUTS, n_external + b->n_constants);
	}
	at = append(at, &head, sizeof(head));
	at = append(at, b->external, n_external * sizeof(b->external[0]));
	at = append(at, b->constants, b->n_constants * sizeof(b->constants[0]));
	at = append(at, b->inner, b->n_inner * sizeof(b->inner[0]));
	append(at, b->steps, b->n_steps * sizeof(b->steps[0]));
	*ret_blob = blob;
	*ret_bytes = bytes;
	return 0;
}

static int create(struct builder *b, enum model_step kind, struct pipeline **ret_pipeline,
	struct model_why *why)
{
	char text[PIPELINE_MAX_WHY];
	void *blob = NULL;
	uint64_t bytes;
	int err;

	add_all(b, kind);
	if (b->full)
		return model_fail(why, -GPUQ_ELIMIT,
			"%u layers are more steps than the %u that a pipeline may have",
			b->model->config.layers, PIPELINE_MAX_STEPS);
	err = pack(b, &blob, &bytes);
	if (err < 0)
		return model_fail(why, err, "no memory for the model's steps");
	err = pipeline_create_internal(
		blob, bytes, b->addresses, b->n_constants, ret_pipeline, text);
	free(blob);
	return err == 0 ? 0 : model_fail(why, err, "the model's steps do not fit: %s", text);
}

int llama_pipeline(const struct model *model, const struct model_weights *weights,
	enum model_step kind, struct pipeline **ret_pipeline, struct model_why *why)
{
	struct builder *b = calloc(1, sizeof(*b));
	int err;

	if (b == NULL)
		return model_fail(why, -ENOMEM, "no memory for the model's steps");
	b->model = model;
	b->weights = weights;
	err = create(b, kind, ret_pipeline, why);
	free(b);
	return err;
}
