/* SPDX-License-Identifier: MIT */
/*
 * Weights: every architecture's tensors are found, placed and read; what is missing, unexpected or
 * of another shape is named; and 8-bit weights stay within their bound.
 */
#include "kernels/element.h"
#include "models/quant.h"
#include "models/weights.h"
#include "tests/models/random-model.h"
#include "tests/models/rig.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct model_why why;
static struct random rng = {.state = 7};

static struct builder b; /* of the test that runs: each has a process */

static struct safetensors *built(void)
{
	struct safetensors *st;
	int dir = rig_folder();

	builder_write(&b, dir, &rng);
	if (safetensors_open(dir, &st, &why) < 0)
		fail_msg("%s", why.text);
	close(dir);
	b.length = b.count = b.elements = 0;
	return st;
}

static const struct model_config small = {
	.architecture = MODEL_LLAMA,
	.vocab = 37,
	.hidden = 24,
	.layers = 3,
	.intermediate = 40,
	.heads = 4,
	.kv_heads = 2,
	.head_dim = 10,
};

/* --- Finding and reading -------------------------------------------------------------------- */

static void same_bytes(const struct safetensors *st, const char *name, const void *held)
{
	const struct safetensors_tensor *t = safetensors_find(st, name);
	uint8_t *data = malloc(t->bytes);
	struct safetensors_read read = {t, 0, t->bytes, data};

	assert_int_equal(safetensors_read(st, &read, 1, NULL, &why), 0);
	assert_memory_equal(data, held, t->bytes);
	free(data);
}

/* K follows Q, V follows K, and so on; everything else is aligned. */
static bool follows(enum weight_role role)
{
	return role == WEIGHT_K || role == WEIGHT_V || role == WEIGHT_K_BIAS ||
		role == WEIGHT_V_BIAS || role == WEIGHT_UP || role == WEIGHT_UP_BIAS;
}

static void check_variant(const struct model_config *c, uint32_t weights_per_layer)
{
	struct model_weights *w;
	uint32_t count = 0;
	uint64_t end = 0;

	builder_add_model(&b, c);
	struct safetensors *st = built();
	if (model_weights_plan(c, st, WEIGHT_AS_IS, &w, &why) < 0)
		fail_msg("%s", why.text);
	uint8_t *memory = malloc(model_weights_bytes(w));
	assert_int_equal(model_weights_read(w, st, memory, NULL, &why), 0);
	for (uint32_t layer = 0; layer < c->layers; layer++) {
		for (uint32_t role = WEIGHT_FIRST_OF_LAYER; role < WEIGHT_ROLES; role++) {
			const struct weight *weight = model_weight(w, layer, role);

			if (weight == NULL)
				continue;
			count++;
			assert_true(follows(role)
					? weight->offset == end
					: weight->offset >= end && weight->offset % 256 == 0);
			end = weight->offset + weight->bytes;
			assert_true(end <= model_weights_bytes(w));
			same_bytes(st, weight->from->name, memory + weight->offset);
		}
	}
	assert_int_equal(count, weights_per_layer * c->layers);
	same_bytes(st, "model.embed_tokens.weight",
		memory + model_weight(w, 0, WEIGHT_EMBEDDING)->offset);
	same_bytes(st, "model.norm.weight", memory + model_weight(w, 0, WEIGHT_NORM)->offset);
	same_bytes(st, c->tied ? "model.embed_tokens.weight" : "lm_head.weight",
		memory + model_weight(w, 0, WEIGHT_HEAD)->offset);
	free(memory);
	model_weights_destroy(w);
	safetensors_close(st);
}

static void every_architecture_is_found(void **state)
{
	struct model_config c = small;

	check_variant(&c, 9);
	c.tied = true;
	check_variant(&c, 9);
	c.q_bias = true;
	check_variant(&c, 12);
	c.o_bias = c.mlp_bias = true;
	check_variant(&c, 16);
	c = small;
	c.qk_norm = true;
	check_variant(&c, 11);
}

/* Weights of equal shape that could be taken for each other. */
static void roles_have_their_names(void **state)
{
	static const struct {
		enum weight_role role;
		const char *name;
	} some[] = {
		{WEIGHT_ATTENTION_NORM, "input_layernorm.weight"},
		{WEIGHT_MLP_NORM, "post_attention_layernorm.weight"},
		{WEIGHT_K, "self_attn.k_proj.weight"},
		{WEIGHT_V, "self_attn.v_proj.weight"},
		{WEIGHT_K_BIAS, "self_attn.k_proj.bias"},
		{WEIGHT_V_BIAS, "self_attn.v_proj.bias"},
		{WEIGHT_Q_NORM, "self_attn.q_norm.weight"},
		{WEIGHT_K_NORM, "self_attn.k_norm.weight"},
		{WEIGHT_GATE, "mlp.gate_proj.weight"},
		{WEIGHT_UP, "mlp.up_proj.weight"},
	};
	struct model_config c = small;
	struct model_weights *w;
	char name[100];

	c.q_bias = c.qk_norm = true;
	builder_add_model(&b, &c);
	struct safetensors *st = built();
	assert_int_equal(model_weights_plan(&c, st, WEIGHT_AS_IS, &w, &why), 0);
	for (size_t i = 0; i < sizeof(some) / sizeof(some[0]); i++) {
		snprintf(name, sizeof(name), "model.layers.1.%s", some[i].name);
		assert_string_equal(model_weight(w, 1, some[i].role)->from->name, name);
	}
	model_weights_destroy(w);
	safetensors_close(st);
}

static void refused(const struct model_config *c, int error, const char *words)
{
	struct safetensors *st = built();
	struct model_weights *w = NULL;

	assert_int_equal(model_weights_plan(c, st, WEIGHT_AS_IS, &w, &why), error);
	assert_null(w);
	if (strstr(why.text, words) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", why.text, words);
	safetensors_close(st);
}

static void what_does_not_fit_is_named(void **state)
{
	struct model_config c = small;

	builder_add_model(&b, &c);
	c.layers = 4;
	refused(&c, -ENOENT, "model.layers.3.input_layernorm.weight is missing");
	c.layers = 2;
	builder_add_model(&b, &small);
	refused(&c, -EBADMSG, "model.layers.2.input_layernorm.weight is unexpected");
	builder_add_model(&b, &small);
	c = small;
	c.kv_heads = 1;
	refused(&c, -EBADMSG, "self_attn.k_proj.weight is [20,24] and has to be [10,24]");
	builder_add_model(&b, &small);
	c = small;
	c.qk_norm = true;
	refused(&c, -ENOENT, "model.layers.0.self_attn.q_norm.weight is missing");
	builder_add(&b, "model.embed_tokens.weight", "BF16", small.vocab, small.hidden + 1);
	refused(&small, -EBADMSG, "is [37,25] and has to be [37,24]");
	builder_add(&b, "model.embed_tokens.weight", "BF16", small.vocab, 0);
	refused(&small, -EBADMSG, "is [37] and has to be [37,24]");
	builder_add(&b, "model.embed_tokens.weight", "F16", small.vocab, small.hidden);
	builder_add(&b, "model.norm.weight", "BF16", small.hidden, 0);
	refused(&small, -GPUQ_EDTYPE, "model.norm.weight is BF16");
	builder_add(&b, "model.embed_tokens.weight", "I16", small.vocab, small.hidden);
	refused(&small, -GPUQ_EDTYPE, "model.embed_tokens.weight is I16");
}

static void some_extras_are_ignored(void **state)
{
	struct model_config c = small;
	struct model_weights *w;

	builder_add_model(&b, &c);
	builder_add(&b, "model.layers.0.self_attn.rotary_emb.inv_freq", "BF16", 5, 0);
	c.tied = true; /* and there is a head all the same */
	struct safetensors *st = built();
	assert_int_equal(model_weights_plan(&c, st, WEIGHT_AS_IS, &w, &why), 0);
	assert_int_equal(model_weight(w, 0, WEIGHT_HEAD)->offset,
		model_weight(w, 0, WEIGHT_EMBEDDING)->offset);
	assert_null(model_weight(w, 0, WEIGHT_Q_BIAS));
	model_weights_destroy(w);
	safetensors_close(st);
}

/* --- 8 bits --------------------------------------------------------------------------------- */

#define ROWS 20u
#define COLUMNS 1500u

static void rows_stay_within_the_bound(void **state)
{
	static const uint32_t dtypes[] = {GPUQ_F32, GPUQ_F16, GPUQ_BF16};
	static float data[ROWS * COLUMNS], scales[ROWS];
	static int8_t q[ROWS * COLUMNS];

	for (uint32_t d = 0; d < 3; d++) {
		for (uint32_t i = 0; i < ROWS * COLUMNS; i++) {
			double x = random_unit(&rng) - 0.5;

			/* Rows of very different size, some without one large element. */
			element_set(data, dtypes[d], i,
				x * pow(4, (double)(i / COLUMNS % 8) - 5) * (i % 7 == 0 ? 1 : 0.3));
		}
		assert_int_equal(quant_rows(data, dtypes[d], ROWS, COLUMNS, q, scales), 0);
		for (uint32_t i = 0; i < ROWS * COLUMNS; i++) {
			double scale = scales[i / COLUMNS], w = element_get(data, dtypes[d], i);

			assert_true(fabs(w - q[i] * scale) <= 0.501 * scale);
			assert_true(q[i] >= -127);
		}
		for (uint32_t row = 0; row < ROWS; row++) {
			int max = 0;

			for (uint32_t i = 0; i < COLUMNS; i++)
				max = abs(q[row * COLUMNS + i]) > max ? abs(q[row * COLUMNS + i])
								      : max;
			assert_int_equal(max, 127);
		}
	}
}

static void odd_rows(void **state)
{
	float data[4] = {0, -0.0f, 0x1p-120f, -0x1p-110f}, scale = 7;
	int8_t q[4] = {1, 1, 1, 1};

	assert_int_equal(quant_rows(data, GPUQ_F32, 1, 4, q, &scale), 0);
	assert_true(scale == 0);
	assert_memory_equal(q, "\0\0\0\0", 4);
	data[0] = -127, data[1] = 0.5f, data[2] = 1.5f, data[3] = 126.6f;
	assert_int_equal(quant_rows(data, GPUQ_F32, 1, 4, q, &scale), 0);
	assert_true(scale == 1 && q[0] == -127 && q[1] == 0 && q[2] == 2 && q[3] == 127);
	data[2] = NAN;
	assert_int_equal(quant_rows(data, GPUQ_F32, 1, 4, q, &scale), -EDOM);
	data[2] = -INFINITY;
	assert_int_equal(quant_rows(data, GPUQ_F32, 1, 4, q, &scale), -EDOM);
}

/* However many threads share the rows, which no number of them divides. */
static void threads_make_no_difference(void **state)
{
	enum { MANY = 331, WIDE = 997, N = MANY * WIDE };
	float *data = malloc(N * sizeof(*data));
	int8_t *alone = malloc(N), *shared = malloc(N);
	float scales[2][MANY];
	struct quant quant = {.n_blocks = 3};
	uint32_t bad = 99;

	assert_true(data != NULL && alone != NULL && shared != NULL);
	for (uint32_t i = 0; i < N; i++)
		data[i] = (float)random_unit(&rng) - 0.5f;
	assert_int_equal(quant_rows(data, GPUQ_F32, MANY, WIDE, alone, scales[0]), 0);
	for (uint32_t i = 0; i < 3; i++)
		quant.blocks[i] = (struct quant_block){data + i * 100 * WIDE, GPUQ_F32,
			i == 2 ? MANY - 200 : 100, WIDE, shared + i * 100 * WIDE,
			scales[1] + i * 100};
	for (uint32_t threads = 1; threads <= QUANT_MAX_THREADS; threads++) {
		memset(shared, 1, N);
		memset(scales[1], 0, sizeof(scales[1]));
		quant_start(&quant, threads);
		assert_int_equal(quant_finish(&quant, &bad), 0);
		assert_memory_equal(shared, alone, N);
		assert_memory_equal(scales[1], scales[0], sizeof(scales[0]));
	}
	/* A bad element in anybody's share, in a block that has more behind it. */
	data[199 * WIDE] = NAN;
	quant_start(&quant, 4);
	assert_int_equal(quant_finish(&quant, &bad), -EDOM);
	assert_int_equal(bad, 1);
	/* Few rows. */
	quant.n_blocks = 1;
	quant.blocks[0] = (struct quant_block){data, GPUQ_F32, 1, 199 * WIDE, shared, scales[1]};
	quant_start(&quant, 4);
	assert_int_equal(quant_finish(&quant, &bad), 0);
	free(shared);
	free(alone);
	free(data);
}

static bool count_bytes(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
	uint64_t *last = context;

	assert_true(done_bytes >= *last && done_bytes <= total_bytes);
	*last = done_bytes == total_bytes ? UINT64_MAX / 2 : done_bytes;
	return true;
}

static void check_int8(
	const struct weight *weight, const struct safetensors *st, const uint8_t *memory)
{
	uint64_t n = weight->dims[0] * weight->dims[1];
	const int8_t *q = (const int8_t *)(memory + weight->offset);
	const float *scales = (const float *)(memory + weight->scales_offset);
	uint16_t *data = malloc(n * 2);
	struct safetensors_read read = {weight->from, 0, n * 2, data};

	assert_int_equal(weight->dtype, GPUQ_I8);
	assert_int_equal(weight->bytes, n);
	assert_int_equal(safetensors_read(st, &read, 1, NULL, &why), 0);
	for (uint64_t i = 0; i < n; i++) {
		double scale = scales[i / weight->dims[1]];

		assert_true(scale > 0);
		assert_true(fabs(element_get(data, GPUQ_BF16, i) - q[i] * scale) <= 0.501 * scale);
	}
	free(data);
}

static void a_model_in_8_bits(void **state)
{
	struct model_config c = small;
	struct model_weights *w;
	uint64_t last = 0;
	struct model_watch watch = {count_bytes, &last};

	c.tied = true;
	builder_add_model(&b, &c);
	struct safetensors *st = built();
	assert_int_equal(model_weights_plan(&c, st, WEIGHT_INT8, &w, &why), 0);
	uint8_t *memory = malloc(model_weights_bytes(w));
	assert_int_equal(model_weights_read(w, st, memory, &watch, &why), 0);
	assert_true(last == UINT64_MAX / 2);
	same_bytes(st, "model.embed_tokens.weight",
		memory + model_weight(w, 0, WEIGHT_EMBEDDING)->offset);
	same_bytes(st, "model.norm.weight", memory + model_weight(w, 0, WEIGHT_NORM)->offset);
	check_int8(model_weight(w, 0, WEIGHT_HEAD), st, memory);
	for (uint32_t layer = 0; layer < c.layers; layer++) {
		const struct weight *q = model_weight(w, layer, WEIGHT_Q);
		const struct weight *k = model_weight(w, layer, WEIGHT_K);
		const struct weight *v = model_weight(w, layer, WEIGHT_V);
		const struct weight *gate = model_weight(w, layer, WEIGHT_GATE);
		const struct weight *up = model_weight(w, layer, WEIGHT_UP);

		assert_int_equal(q->scales_offset % 256, 0);
		assert_int_equal(k->scales_offset, q->scales_offset + q->dims[0] * 4);
		assert_int_equal(v->scales_offset, k->scales_offset + k->dims[0] * 4);
		assert_int_equal(up->scales_offset, gate->scales_offset + gate->dims[0] * 4);
	}
	for (uint32_t layer = 0; layer < c.layers; layer++) {
		for (uint32_t role = WEIGHT_FIRST_OF_LAYER; role < WEIGHT_ROLES; role++) {
			const struct weight *weight = model_weight(w, layer, role);

			if (weight != NULL && weight->rank == 2)
				check_int8(weight, st, memory);
			else if (weight != NULL)
				same_bytes(st, weight->from->name, memory + weight->offset);
		}
	}
	free(memory);
	model_weights_destroy(w);
	model_weights_destroy(NULL);
	safetensors_close(st);
}

/* Larger than what is read at once. */
/* Takes nothing, and fails at a call of end(). */
struct refusing {
	char room[4096];
	uint32_t calls_left;
};

static int refusing_begin(void *context, void **ret_room)
{
	*ret_room = ((struct refusing *)context)->room;
	return 0;
}

static int refusing_end(void *context, uint64_t offset, uint64_t bytes)
{
	return ((struct refusing *)context)->calls_left-- == 0 ? -EIO : 0;
}

/* What goes wrong while the next rows are read already is told of the right weight. */
static void what_cannot_be_quantised_is_named(void **state)
{
	struct refusing r = {.calls_left = UINT32_MAX};
	const struct weights_sink sink = {refusing_begin, refusing_end, &r};
	const uint16_t nan = 0x7fc0;
	struct model_weights *w;

	builder_add_model(&b, &small);
	const int dir = rig_folder();
	builder_write(&b, dir, &rng);
	struct safetensors *st;
	assert_int_equal(safetensors_open(dir, &st, &why), 0);
	assert_int_equal(model_weights_plan(&small, st, WEIGHT_INT8, &w, &why), 0);
	uint8_t *memory = malloc(model_weights_bytes(w));
	for (uint32_t i = 0; i < 50; i += 7) {
		r.calls_left = i;
		assert_int_equal(model_weights_stream(w, st, &sink, NULL, &why), -EIO);
	}
	r.calls_left = UINT32_MAX;
	assert_int_equal(model_weights_stream(w, st, &sink, NULL, &why), 0);
	const struct safetensors_tensor *up = model_weight(w, 1, WEIGHT_UP)->from;
	const int fd = openat(dir, "model.safetensors", O_WRONLY | O_CLOEXEC);
	assert_int_equal(pwrite(fd, &nan, 2, (off_t)(up->offset + up->bytes - 2)), 2);
	close(fd);
	assert_int_equal(model_weights_read(w, st, memory, NULL, &why), -EDOM);
	assert_non_null(strstr(why.text, "model.layers.1.mlp.up_proj.weight has an element"));
	why.text[0] = '\0';
	assert_int_equal(model_weights_stream(w, st, &sink, NULL, &why), -EDOM);
	assert_non_null(strstr(why.text, "model.layers.1.mlp.up_proj.weight has an element"));
	close(dir);
	free(memory);
	model_weights_destroy(w);
	safetensors_close(st);
}

static void a_large_head_in_8_bits(void **state)
{
	struct model_config c = small;
	struct model_weights *w;

	c.tied = true;
	c.layers = 1;
	c.vocab = 150000;
	c.hidden = 256;
	builder_add_model(&b, &c);
	struct safetensors *st = built();
	assert_int_equal(model_weights_plan(&c, st, WEIGHT_INT8, &w, &why), 0);
	uint8_t *memory = malloc(model_weights_bytes(w));
	assert_int_equal(model_weights_read(w, st, memory, NULL, &why), 0);
	check_int8(model_weight(w, 0, WEIGHT_HEAD), st, memory);
	free(memory);
	model_weights_destroy(w);
	safetensors_close(st);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(every_architecture_is_found),
		HARNESS_TEST(roles_have_their_names),
		HARNESS_TEST(what_does_not_fit_is_named),
		HARNESS_TEST(some_extras_are_ignored),
		HARNESS_TEST(rows_stay_within_the_bound),
		HARNESS_TEST(odd_rows),
		HARNESS_TEST(threads_make_no_difference),
		HARNESS_TEST(a_model_in_8_bits),
		HARNESS_TEST(what_cannot_be_quantised_is_named),
		HARNESS_TEST(a_large_head_in_8_bits),
	};

	return harness_run("models-weights", tests, sizeof(tests) / sizeof(tests[0]));
}
