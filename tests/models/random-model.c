/* SPDX-License-Identifier: MIT */
/* random-model.c: writing random models, and computing them the plain way. */
#include "tests/models/random-model.h"

#include "device/tensor.h"
#include "kernels/element.h"
#include "tests/models/rig.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- Weights -------------------------------------------------------------------------------- */

static uint32_t dtype_of(const struct builder *b)
{
	return b->dtype == 0 ? GPUQ_BF16 : b->dtype;
}

static const char *file_name(uint32_t dtype)
{
	return dtype == GPUQ_F32 ? "F32" : dtype == GPUQ_F16 ? "F16" : "BF16";
}

void builder_add(
	struct builder *b, const char *name, const char *dtype, uint64_t rows, uint64_t columns)
{
	const uint64_t n = rows * (columns == 0 ? 1 : columns);
	const uint64_t size = dtype_size(dtype_of(b));
	char shape[64];

	if (columns == 0)
		snprintf(shape, sizeof(shape), "%lu", rows);
	else
		snprintf(shape, sizeof(shape), "%lu,%lu", rows, columns);
	b->length += (size_t)snprintf(b->header + b->length, sizeof(b->header) - b->length,
		"%c\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%lu,%lu]}",
		b->length == 0 ? '{' : ',', name, dtype, shape, b->elements * size,
		(b->elements + n) * size);
	assert_true(b->length < sizeof(b->header));
	assert_true(b->count < BUILDER_TENSORS);
	b->tensors[b->count].elements = n;
	/* A matrix keeps the size of what it multiplies; norms are near 1. */
	b->tensors[b->count].middle = strstr(name, "norm") != NULL ? 1 : 0;
	b->tensors[b->count].width = columns == 0 ? 0.4 : 2 * sqrt(3.0 / (double)columns);
	if (strstr(name, "embed") != NULL)
		b->tensors[b->count].width = 2;
	b->count++;
	b->elements += n;
}

static void add_layer(struct builder *b, const struct model_config *c, uint32_t layer)
{
	const uint64_t q = (uint64_t)c->heads * c->head_dim;
	const uint64_t k = (uint64_t)c->kv_heads * c->head_dim;
	const struct {
		const char *name;
		uint64_t rows, columns;
		bool there;
	} all[] = {
		{"input_layernorm.weight", c->hidden, 0, true},
		{"mlp.down_proj.weight", c->hidden, c->intermediate, true},
		{"mlp.gate_proj.weight", c->intermediate, c->hidden, true},
		{"mlp.up_proj.weight", c->intermediate, c->hidden, true},
		{"mlp.down_proj.bias", c->hidden, 0, c->mlp_bias},
		{"mlp.gate_proj.bias", c->intermediate, 0, c->mlp_bias},
		{"mlp.up_proj.bias", c->intermediate, 0, c->mlp_bias},
		{"post_attention_layernorm.weight", c->hidden, 0, true},
		{"self_attn.k_proj.weight", k, c->hidden, true},
		{"self_attn.o_proj.weight", c->hidden, q, true},
		{"self_attn.q_proj.weight", q, c->hidden, true},
		{"self_attn.v_proj.weight", k, c->hidden, true},
		{"self_attn.k_proj.bias", k, 0, c->q_bias},
		{"self_attn.q_proj.bias", q, 0, c->q_bias},
		{"self_attn.v_proj.bias", k, 0, c->q_bias},
		{"self_attn.o_proj.bias", c->hidden, 0, c->o_bias},
		{"self_attn.q_norm.weight", c->head_dim, 0, c->qk_norm},
		{"self_attn.k_norm.weight", c->head_dim, 0, c->qk_norm},
	};
	char name[100];

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		snprintf(name, sizeof(name), "model.layers.%u.%s", layer, all[i].name);
		if (all[i].there)
			builder_add(b, name, file_name(dtype_of(b)), all[i].rows, all[i].columns);
	}
}

void builder_add_model(struct builder *b, const struct model_config *c)
{
	const char *dtype = file_name(dtype_of(b));

	builder_add(b, "model.embed_tokens.weight", dtype, c->vocab, c->hidden);
	for (uint32_t i = 0; i < c->layers; i++)
		add_layer(b, c, i);
	builder_add(b, "model.norm.weight", dtype, c->hidden, 0);
	if (!c->tied)
		builder_add(b, "lm_head.weight", dtype, c->vocab, c->hidden);
}

void builder_write(struct builder *b, int dir_fd, struct random *rng)
{
	const uint32_t dtype = dtype_of(b);
	const uint64_t header_bytes = b->length + 1;
	const uint64_t bytes = 8 + header_bytes + b->elements * dtype_size(dtype);
	uint8_t *file = malloc(bytes);
	uint64_t at = 0;

	assert_non_null(file);
	memcpy(file, &header_bytes, 8);
	memcpy(file + 8, b->header, b->length);
	file[8 + b->length] = '}';
	for (size_t i = 0; i < b->count; i++) {
		for (uint64_t j = 0; j < b->tensors[i].elements; j++, at++) {
			uint8_t value[4];

			element_set(value, dtype, 0,
				b->tensors[i].middle +
					b->tensors[i].width * (random_unit(rng) - 0.5));
			memcpy(file + 8 + header_bytes + at * dtype_size(dtype), value,
				dtype_size(dtype));
		}
	}
	rig_write(dir_fd, "model.safetensors", file, bytes);
	free(file);
}

/* --- config.json ---------------------------------------------------------------------------- */

struct text {
	char bytes[4000];
	size_t length;
};

static void __attribute__((format(printf, 2, 3))) say(struct text *t, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	t->length +=
		(size_t)vsnprintf(t->bytes + t->length, sizeof(t->bytes) - t->length, format, args);
	va_end(args);
	assert_true(t->length < sizeof(t->bytes));
}

static void say_rope(struct text *t, const struct model_rope *rope)
{
	if (rope->scaling == MODEL_ROPE_PLAIN)
		return;
	say(t, ",\"rope_scaling\":{\"rope_type\":\"%s\",\"factor\":%g",
		rope->scaling == MODEL_ROPE_LINEAR ? "linear" : "llama3", rope->factor);
	if (rope->scaling == MODEL_ROPE_LLAMA3)
		say(t,
			",\"low_freq_factor\":%g,\"high_freq_factor\":%g,"
			"\"original_max_position_embeddings\":%u",
			rope->low_freq_factor, rope->high_freq_factor, rope->original_positions);
	say(t, "}");
}

static void say_window(struct text *t, const struct model_config *c)
{
	if (c->window == 0)
		return;
	say(t, ",\"sliding_window\":%u,\"use_sliding_window\":true,\"layer_types\":[", c->window);
	for (uint32_t i = 0; i < c->layers; i++)
		say(t, "%s\"%s_attention\"", i == 0 ? "" : ",",
			c->windowed[i] ? "sliding" : "full");
	say(t, "]");
}

void random_config_write(const struct model_config *c, int dir_fd)
{
	static const char *const names[] = {
		[MODEL_LLAMA] = "Llama",
		[MODEL_MISTRAL] = "Mistral",
		[MODEL_QWEN2] = "Qwen2",
		[MODEL_QWEN3] = "Qwen3",
	};
	struct text t = {.length = 0};

	say(&t, "{\"architectures\":[\"%sForCausalLM\"],\"hidden_act\":\"silu\"",
		names[c->architecture]);
	say(&t, ",\"vocab_size\":%u,\"hidden_size\":%u,\"num_hidden_layers\":%u", c->vocab,
		c->hidden, c->layers);
	say(&t, ",\"intermediate_size\":%u,\"num_attention_heads\":%u", c->intermediate, c->heads);
	say(&t, ",\"num_key_value_heads\":%u,\"head_dim\":%u", c->kv_heads, c->head_dim);
	say(&t, ",\"max_position_embeddings\":%u,\"rms_norm_eps\":%g,\"rope_theta\":%g",
		c->max_positions, c->norm_eps, c->rope.theta);
	say(&t, ",\"tie_word_embeddings\":%s,\"attention_bias\":%s,\"mlp_bias\":%s",
		c->tied ? "true" : "false", c->o_bias ? "true" : "false",
		c->mlp_bias ? "true" : "false");
	say_rope(&t, &c->rope);
	say_window(&t, c);
	say(&t, "}");
	rig_write(dir_fd, "config.json", t.bytes, t.length);
}

int random_model(const struct model_config *c, uint32_t dtype, struct random *rng)
{
	struct builder *b = calloc(1, sizeof(*b));
	int dir_fd = rig_folder();

	assert_non_null(b);
	b->dtype = dtype;
	builder_add_model(b, c);
	builder_write(b, dir_fd, rng);
	random_config_write(c, dir_fd);
	free(b);
	return dir_fd;
}

/* --- The reference -------------------------------------------------------------------------- */

struct reference {
	struct model_config config;
	struct safetensors *files;
	uint32_t layer;
	uint32_t n;	       /* tokens of the text */
	double *keys, *values; /* of one layer: [n,kv_heads,head_dim] */
};

/* A weight as doubles, of the current layer if its name begins with '.'; NULL: there is none. */
static double *weight(const struct reference *r, const char *text)
{
	const struct safetensors_tensor *t;
	struct model_why why;
	char name[100];
	double *w;

	if (text[0] == '.')
		snprintf(name, sizeof(name), "model.layers.%u%s", r->layer, text);
	else
		snprintf(name, sizeof(name), "%s", text);
	t = safetensors_find(r->files, name);
	if (t == NULL)
		return NULL;
	const uint64_t n = t->bytes / dtype_size(t->dtype);
	void *data = malloc(t->bytes);
	const struct safetensors_read read = {t, 0, t->bytes, data};

	w = malloc(n * sizeof(*w));
	assert_int_equal(safetensors_read(r->files, &read, 1, NULL, &why), 0);
	for (uint64_t i = 0; i < n; i++)
		w[i] = element_get(data, t->dtype, i);
	free(data);
	return w;
}

static void norm(const struct reference *r, const char *name, const double *x, uint64_t rows,
	uint64_t columns, double *y)
{
	double *w = weight(r, name);

	for (uint64_t i = 0; i < rows; i++) {
		double squares = 0, root;

		for (uint64_t j = 0; j < columns; j++)
			squares += x[i * columns + j] * x[i * columns + j];
		root = sqrt(squares / (double)columns + r->config.norm_eps);
		for (uint64_t j = 0; j < columns; j++)
			y[i * columns + j] = x[i * columns + j] / root * (w == NULL ? 1 : w[j]);
	}
	free(w);
}

/* y [n,o] = x [n,i] times w + bias, where there is one, + y where `add` */
static void multiply(const struct reference *r, const char *name, const double *x, uint64_t i,
	uint64_t o, bool add, double *y)
{
	char other[100];
	double *w, *bias = NULL;

	snprintf(other, sizeof(other), "%s.weight", name);
	w = weight(r, other);
	assert_non_null(w);
	if (name[0] == '.') {
		snprintf(other, sizeof(other), "%s.bias", name);
		bias = weight(r, other);
	}
	for (uint64_t t = 0; t < r->n; t++) {
		for (uint64_t j = 0; j < o; j++) {
			double sum = bias == NULL ? 0 : bias[j];

			for (uint64_t k = 0; k < i; k++)
				sum += w[j * i + k] * x[t * i + k];
			y[t * o + j] = sum + (add ? y[t * o + j] : 0);
		}
	}
	free(w);
	free(bias);
}

static double frequency(const struct model_config *c, uint32_t i)
{
	const double f = pow(c->rope.theta, -2.0 * i / c->head_dim), length = 2 * M_PI / f;
	const struct model_rope *rope = &c->rope;
	double share;

	if (rope->scaling == MODEL_ROPE_PLAIN)
		return f;
	if (rope->scaling == MODEL_ROPE_LINEAR)
		return f / rope->factor;
	share = (rope->original_positions / length - rope->low_freq_factor) /
		(rope->high_freq_factor - rope->low_freq_factor);
	share = share < 0 ? 0 : share > 1 ? 1 : share;
	return share * f + (1 - share) * f / rope->factor;
}

/* Heads [n,heads,head_dim], each normalised where the model does that, and turned. */
static void turn(const struct reference *r, const char *norm_name, uint32_t heads, double *x)
{
	const uint32_t d = r->config.head_dim, half = d / 2;

	if (r->config.qk_norm)
		norm(r, norm_name, x, (uint64_t)r->n * heads, d, x);
	for (uint32_t t = 0; t < r->n; t++) {
		for (uint32_t h = 0; h < heads; h++) {
			double *head = x + ((uint64_t)t * heads + h) * d;

			for (uint32_t i = 0; i < half; i++) {
				const double a = t * frequency(&r->config, i);
				const double left = head[i], right = head[i + half];

				head[i] = left * cos(a) - right * sin(a);
				head[i + half] = right * cos(a) + left * sin(a);
			}
		}
	}
}

/* One head of one token: q [head_dim] becomes what it sees. */
static void attend(const struct reference *r, uint32_t t, uint32_t kv_head, double *q)
{
	const struct model_config *c = &r->config;
	const uint32_t d = c->head_dim;
	const bool windowed = c->windowed[r->layer] && t + 1 > c->window;
	const uint32_t first = windowed ? t + 1 - c->window : 0;
	double y[1024] = {0}, sum = 0, *scores = calloc(t + 1, sizeof(*scores));

	for (uint32_t j = first; j <= t; j++) {
		for (uint32_t i = 0; i < d; i++)
			scores[j] += q[i] * r->keys[(j * c->kv_heads + kv_head) * d + i];
		scores[j] = exp(scores[j] / sqrt(d));
		sum += scores[j];
	}
	for (uint32_t j = first; j <= t; j++) {
		for (uint32_t i = 0; i < d; i++)
			y[i] += scores[j] / sum * r->values[(j * c->kv_heads + kv_head) * d + i];
	}
	memcpy(q, y, d * sizeof(*q));
	free(scores);
}

static void run_layer(
	struct reference *r, double *x, double *y, double *q, double *gate, double *up)
{
	const struct model_config *c = &r->config;
	const uint64_t wide = (uint64_t)c->heads * c->head_dim;
	const uint64_t narrow = (uint64_t)c->kv_heads * c->head_dim;

	norm(r, ".input_layernorm.weight", x, r->n, c->hidden, y);
	multiply(r, ".self_attn.q_proj", y, c->hidden, wide, false, q);
	multiply(r, ".self_attn.k_proj", y, c->hidden, narrow, false, r->keys);
	multiply(r, ".self_attn.v_proj", y, c->hidden, narrow, false, r->values);
	turn(r, ".self_attn.q_norm.weight", c->heads, q);
	turn(r, ".self_attn.k_norm.weight", c->kv_heads, r->keys);
	for (uint32_t t = 0; t < r->n; t++) {
		for (uint32_t h = 0; h < c->heads; h++)
			attend(r, t, h / (c->heads / c->kv_heads),
				q + (t * c->heads + h) * c->head_dim);
	}
	multiply(r, ".self_attn.o_proj", q, wide, c->hidden, true, x);
	norm(r, ".post_attention_layernorm.weight", x, r->n, c->hidden, y);
	multiply(r, ".mlp.gate_proj", y, c->hidden, c->intermediate, false, gate);
	multiply(r, ".mlp.up_proj", y, c->hidden, c->intermediate, false, up);
	for (uint64_t i = 0; i < r->n * (uint64_t)c->intermediate; i++)
		gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
	multiply(r, ".mlp.down_proj", gate, c->intermediate, c->hidden, true, x);
}

static double *numbers(uint64_t n, uint64_t columns)
{
	double *x = calloc(n * columns, sizeof(*x));

	assert_non_null(x);
	return x;
}

static double *run(struct reference *r, const int32_t *tokens)
{
	const struct model_config *c = &r->config;
	double *x = numbers(r->n, c->hidden), *y = numbers(r->n, c->hidden);
	double *q = numbers(r->n, (uint64_t)c->heads * c->head_dim);
	double *gate = numbers(r->n, c->intermediate), *up = numbers(r->n, c->intermediate);
	double *logits = numbers(r->n, c->vocab);
	double *table = weight(r, "model.embed_tokens.weight");

	r->keys = numbers(r->n, (uint64_t)c->kv_heads * c->head_dim);
	r->values = numbers(r->n, (uint64_t)c->kv_heads * c->head_dim);
	for (uint32_t t = 0; t < r->n; t++)
		memcpy(x + t * c->hidden, table + (uint64_t)tokens[t] * c->hidden,
			c->hidden * sizeof(*x));
	for (; r->layer < c->layers; r->layer++)
		run_layer(r, x, y, q, gate, up);
	norm(r, "model.norm.weight", x, r->n, c->hidden, y);
	multiply(r, c->tied ? "model.embed_tokens" : "lm_head", y, c->hidden, c->vocab, false,
		logits);
	free(x);
	free(y);
	free(q);
	free(gate);
	free(up);
	free(table);
	free(r->keys);
	free(r->values);
	return logits;
}

double *reference_logits(int dir_fd, const int32_t *tokens, uint32_t n)
{
	struct reference r = {.n = n};
	struct model_why why;
	double *logits;

	assert_int_equal(model_config_load(dir_fd, &r.config, &why), 0);
	assert_int_equal(safetensors_open(dir_fd, &r.files, &why), 0);
	logits = run(&r, tokens);
	safetensors_close(r.files);
	return logits;
}
