/* SPDX-License-Identifier: MIT */
/* weights.c: the names and shapes of weights, their places in memory, and reading them there. */
#include "models/weights.h"

#include "models/quant.h"
#include "shm/wait.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN 256u
#define BATCH_BYTES (WEIGHTS_PIECE_BYTES / 4)

struct model_weights {
	struct model_config config;
	uint32_t dtype; /* of all tensors */
	enum weight_quant quant;
	uint64_t bytes;
	struct weight of[]; /* those of the model, then those of each layer: WEIGHT_ROLES each */
};

/* --- What an architecture has --------------------------------------------------------------- */

enum dim { NONE, HIDDEN, VOCAB, INTERMEDIATE, QUERIES, KEYS, HEAD_DIM };
enum has { ALWAYS, HEAD, Q_BIAS, O_BIAS, MLP_BIAS, QK_NORM };

static const struct {
	const char *name; /* of a layer's weight: after model.layers.N. */
	enum dim rows, columns;
	enum has has;
} specs[WEIGHT_ROLES] = {
	[WEIGHT_EMBEDDING] = {"model.embed_tokens.weight", VOCAB, HIDDEN, ALWAYS},
	[WEIGHT_NORM] = {"model.norm.weight", HIDDEN, NONE, ALWAYS},
	[WEIGHT_HEAD] = {"lm_head.weight", VOCAB, HIDDEN, HEAD},
	[WEIGHT_ATTENTION_NORM] = {"input_layernorm.weight", HIDDEN, NONE, ALWAYS},
	[WEIGHT_Q] = {"self_attn.q_proj.weight", QUERIES, HIDDEN, ALWAYS},
	[WEIGHT_K] = {"self_attn.k_proj.weight", KEYS, HIDDEN, ALWAYS},
	[WEIGHT_V] = {"self_attn.v_proj.weight", KEYS, HIDDEN, ALWAYS},
	[WEIGHT_Q_BIAS] = {"self_attn.q_proj.bias", QUERIES, NONE, Q_BIAS},
	[WEIGHT_K_BIAS] = {"self_attn.k_proj.bias", KEYS, NONE, Q_BIAS},
	[WEIGHT_V_BIAS] = {"self_attn.v_proj.bias", KEYS, NONE, Q_BIAS},
	[WEIGHT_Q_NORM] = {"self_attn.q_norm.weight", HEAD_DIM, NONE, QK_NORM},
	[WEIGHT_K_NORM] = {"self_attn.k_norm.weight", HEAD_DIM, NONE, QK_NORM},
	[WEIGHT_O] = {"self_attn.o_proj.weight", HIDDEN, QUERIES, ALWAYS},
	[WEIGHT_O_BIAS] = {"self_attn.o_proj.bias", HIDDEN, NONE, O_BIAS},
	[WEIGHT_MLP_NORM] = {"post_attention_layernorm.weight", HIDDEN, NONE, ALWAYS},
	[WEIGHT_GATE] = {"mlp.gate_proj.weight", INTERMEDIATE, HIDDEN, ALWAYS},
	[WEIGHT_UP] = {"mlp.up_proj.weight", INTERMEDIATE, HIDDEN, ALWAYS},
	[WEIGHT_GATE_BIAS] = {"mlp.gate_proj.bias", INTERMEDIATE, NONE, MLP_BIAS},
	[WEIGHT_UP_BIAS] = {"mlp.up_proj.bias", INTERMEDIATE, NONE, MLP_BIAS},
	[WEIGHT_DOWN] = {"mlp.down_proj.weight", HIDDEN, INTERMEDIATE, ALWAYS},
	[WEIGHT_DOWN_BIAS] = {"mlp.down_proj.bias", HIDDEN, NONE, MLP_BIAS},
};

static uint64_t dim_of(const struct model_config *c, enum dim dim)
{
	switch (dim) {
	case HIDDEN:
		return c->hidden;
	case VOCAB:
		return c->vocab;
	case INTERMEDIATE:
		return c->intermediate;
	case QUERIES:
		return (uint64_t)c->heads * c->head_dim;
	case KEYS:
		return (uint64_t)c->kv_heads * c->head_dim;
	case HEAD_DIM:
		return c->head_dim;
	case NONE:
		break;
	}
	return 0;
}

static bool is_there(const struct model_config *c, enum has has)
{
	switch (has) {
	case HEAD:
		return !c->tied;
	case Q_BIAS:
		return c->q_bias;
	case O_BIAS:
		return c->o_bias;
	case MLP_BIAS:
		return c->mlp_bias;
	case QK_NORM:
		return c->qk_norm;
	case ALWAYS:
		break;
	}
	return true;
}

/* What a file may have beside its weights: a head that is the embedding, and old RoPE tables. */
static bool may_be_ignored(const struct model_config *c, const char *name)
{
	static const char table[] = ".rotary_emb.inv_freq";
	size_t length = strlen(name), suffix = sizeof(table) - 1;

	if (c->tied && strcmp(name, specs[WEIGHT_HEAD].name) == 0)
		return true;
	return length > suffix && strcmp(name + length - suffix, table) == 0;
}

/* --- Finding -------------------------------------------------------------------------------- */

static size_t slots_of(const struct model_weights *w)
{
	return (size_t)(w->config.layers + 1) * WEIGHT_ROLES;
}

/* block 0: the model; block i + 1: layer i */
static struct weight *slot(struct model_weights *w, uint32_t block, uint32_t role)
{
	return &w->of[(size_t)block * WEIGHT_ROLES + role];
}

/* "[37,24]"; of more dimensions the first two: "[37,24,..]". */
static const char *shape_text(uint32_t rank, const uint64_t *dims, char text[64])
{
	int n = snprintf(text, 64, "[");

	for (uint32_t i = 0; i < rank && i < 2; i++)
		n += snprintf(text + n, 64 - (size_t)n, "%s%llu", i == 0 ? "" : ",",
			(unsigned long long)dims[i]);
	snprintf(text + n, 64 - (size_t)n, rank > 2 ? ",..]" : "]");
	return text;
}

static int check_shape(const struct weight *weight, struct model_why *why)
{
	const struct safetensors_tensor *t = weight->from;
	char is[64], expected[64];

	if (t->rank == weight->rank && t->dims[0] == weight->dims[0] &&
		(t->rank == 1 || t->dims[1] == weight->dims[1]))
		return 0;
	return model_fail(why, -EBADMSG, "%s is %s and has to be %s for config.json", t->name,
		shape_text(t->rank, t->dims, is), shape_text(weight->rank, weight->dims, expected));
}

static int check_dtype(
	struct model_weights *w, const struct safetensors_tensor *t, struct model_why *why)
{
	if (t->dtype != GPUQ_F32 && t->dtype != GPUQ_F16 && t->dtype != GPUQ_BF16)
		return model_fail(why, -GPUQ_EDTYPE, "%s is %s; weights are F32, F16 or BF16",
			t->name, t->dtype_name);
	if (w->dtype != 0 && w->dtype != t->dtype)
		return model_fail(why, -GPUQ_EDTYPE, "%s is %s and others are not; all have to be",
			t->name, t->dtype_name);
	w->dtype = t->dtype;
	return 0;
}

static int find_weight(struct model_weights *w, const struct safetensors *files, uint32_t block,
	uint32_t role, struct model_why *why)
{
	struct weight *weight = slot(w, block, role);
	char name[80];
	int err;

	if (!is_there(&w->config, specs[role].has))
		return 0;
	if (block == 0)
		snprintf(name, sizeof(name), "%s", specs[role].name);
	else
		snprintf(name, sizeof(name), "model.layers.%u.%s", block - 1, specs[role].name);
	weight->from = safetensors_find(files, name);
	weight->rank = specs[role].columns == NONE ? 1 : 2;
	weight->dims[0] = dim_of(&w->config, specs[role].rows);
	weight->dims[1] = dim_of(&w->config, specs[role].columns);
	if (weight->from == NULL)
		return model_fail(why, -ENOENT, "%s is missing", name);
	err = check_shape(weight, why);
	return err < 0 ? err : check_dtype(w, weight->from, why);
}

static int find_all(struct model_weights *w, const struct safetensors *files, struct model_why *why)
{
	int err = 0;

	for (uint32_t block = 0; block <= w->config.layers; block++) {
		uint32_t first = block == 0 ? 0 : WEIGHT_FIRST_OF_LAYER;
		uint32_t end = block == 0 ? WEIGHT_FIRST_OF_LAYER : WEIGHT_ROLES;

		for (uint32_t role = first; err == 0 && role < end; role++)
			err = find_weight(w, files, block, role, why);
	}
	return err;
}

static int by_tensor(const void *a, const void *b)
{
	const struct safetensors_tensor *x = *(const struct safetensors_tensor *const *)a;
	const struct safetensors_tensor *y = *(const struct safetensors_tensor *const *)b;

	return (x > y) - (x < y);
}

/* The files' tensors and the weights, both in order: what is in the first only is unexpected. */
static int check_unexpected(
	const struct model_weights *w, const struct safetensors *files, struct model_why *why)
{
	size_t slots = slots_of(w), used = 0, next = 0;
	const struct safetensors_tensor **list = calloc(slots, sizeof(*list));
	int err = 0;

	if (list == NULL)
		return model_fail(why, -ENOMEM, "no memory for the list of weights");
	for (size_t i = 0; i < slots; i++) {
		if (w->of[i].from != NULL)
			list[used++] = w->of[i].from;
	}
	qsort(list, used, sizeof(*list), by_tensor);
	for (size_t i = 0; err == 0 && i < safetensors_count(files); i++) {
		const struct safetensors_tensor *t = safetensors_at(files, i);

		if (next < used && list[next] == t)
			next++;
		else if (!may_be_ignored(&w->config, t->name))
			err = model_fail(why, -EBADMSG,
				"%s is unexpected: the architecture of config.json has no such "
				"weight",
				t->name);
	}
	free(list);
	return err;
}

/* --- Places --------------------------------------------------------------------------------- */

/* Whether it is the lower part of a matrix or vector that the role before it begins. */
static bool continues(enum weight_role role)
{
	return role == WEIGHT_K || role == WEIGHT_V || role == WEIGHT_K_BIAS ||
		role == WEIGHT_V_BIAS || role == WEIGHT_UP || role == WEIGHT_UP_BIAS;
}

static uint64_t place(struct model_weights *w, enum weight_role role, uint64_t bytes)
{
	if (!continues(role))
		w->bytes = (w->bytes + ALIGN - 1) / ALIGN * ALIGN;
	w->bytes += bytes;
	return w->bytes - bytes;
}

static void place_weight(struct model_weights *w, size_t i)
{
	struct weight *weight = &w->of[i];

	weight->dtype = weight->from->dtype;
	weight->bytes = weight->from->bytes;
	if (i != WEIGHT_EMBEDDING && w->quant == WEIGHT_INT8 && weight->rank == 2) {
		weight->dtype = GPUQ_I8;
		weight->bytes = weight->dims[0] * weight->dims[1];
	}
	weight->offset = place(w, i % WEIGHT_ROLES, weight->bytes);
}

static void place_all(struct model_weights *w)
{
	const size_t slots = slots_of(w);
	struct weight *head = &w->of[WEIGHT_HEAD];
	bool shared = w->config.tied && w->quant == WEIGHT_AS_IS;

	if (w->config.tied)
		*head = w->of[WEIGHT_EMBEDDING];
	for (size_t i = 0; i < slots; i++) {
		if (w->of[i].from != NULL && !(shared && i == WEIGHT_HEAD))
			place_weight(w, i);
	}
	if (shared)
		*head = w->of[WEIGHT_EMBEDDING];
	for (size_t i = 0; i < slots; i++) {
		if (w->of[i].dtype == GPUQ_I8)
			w->of[i].scales_offset =
				place(w, i % WEIGHT_ROLES, w->of[i].dims[0] * sizeof(float));
	}
}

int model_weights_plan(const struct model_config *config, const struct safetensors *files,
	enum weight_quant quant, struct model_weights **ret_weights, struct model_why *why)
{
	size_t slots = (size_t)(config->layers + 1) * WEIGHT_ROLES;
	struct model_weights *w = calloc(1, sizeof(*w) + slots * sizeof(w->of[0]));
	int err;

	if (w == NULL)
		return model_fail(why, -ENOMEM, "no memory for the list of weights");
	w->config = *config;
	w->quant = quant;
	err = find_all(w, files, why);
	if (err == 0)
		err = check_unexpected(w, files, why);
	if (err < 0) {
		model_weights_destroy(w);
		return err;
	}
	place_all(w);
	*ret_weights = w;
	return 0;
}

void model_weights_destroy(struct model_weights *weights)
{
	free(weights);
}

uint64_t model_weights_bytes(const struct model_weights *weights)
{
	return weights->bytes;
}

const struct weight *model_weight(
	const struct model_weights *weights, uint32_t layer, enum weight_role role)
{
	size_t block = role < WEIGHT_FIRST_OF_LAYER ? 0 : (size_t)layer + 1;
	const struct weight *weight = &weights->of[block * WEIGHT_ROLES + role];

	return weight->from == NULL ? NULL : weight;
}

/* --- Reading -------------------------------------------------------------------------------- */

/* Some rows of matrices, as they come from the files. */
struct batch {
	uint8_t *data; /* BATCH_BYTES */
	uint32_t n;
	struct rows {
		const struct weight *weight;
		uint64_t first, n;
	} rows[QUANT_MAX_BLOCKS];
};

/*
 * Several readings that look like one to whoever watches. What is quantised is read batch by batch:
 * one is read while other threads quantise the one before it.
 */
struct reading {
	struct safetensors_reader *reader;
	uint8_t *memory;		 /* where weights go; NULL: to the sink */
	const struct weights_sink *sink; /* likewise */
	float *scales;			 /* of a matrix, for the sink */
	uint32_t threads;		 /* that quantise */
	struct batch batches[2];
	const struct batch *quantised; /* NULL: none is */
	struct quant quant;
	const struct model_watch *watch;
	uint64_t done_bytes, total_bytes;
	struct model_why *why;
};

static bool pass_on(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
	const struct reading *r = context;

	return r->watch->progress(r->watch->context, r->done_bytes + done_bytes, r->total_bytes);
}

static int read_parts(struct reading *r, const struct safetensors_read *parts, size_t n)
{
	const struct model_watch watch = {pass_on, r};
	int err = safetensors_reader_read(
		r->reader, parts, n, r->watch != NULL ? &watch : NULL, r->why);

	for (size_t i = 0; i < n; i++)
		r->done_bytes += parts[i].bytes;
	return err;
}

static bool is_shared_head(const struct model_weights *w, size_t i)
{
	return i == WEIGHT_HEAD && w->of[i].offset == w->of[WEIGHT_EMBEDDING].offset;
}

/* The weight in a slot that has bytes of its own; NULL: none. */
static const struct weight *held(const struct model_weights *w, size_t i)
{
	return w->of[i].from == NULL || is_shared_head(w, i) ? NULL : &w->of[i];
}

static int prepare_to_quantise(struct reading *r, const struct model_weights *w)
{
	uint64_t most_rows = 1;

	for (size_t i = 0; i < slots_of(w); i++) {
		if (w->of[i].dtype == GPUQ_I8 && w->of[i].dims[0] > most_rows)
			most_rows = w->of[i].dims[0];
	}
	r->threads = wait_shared_cpus();
	if (r->threads > QUANT_MAX_THREADS)
		r->threads = QUANT_MAX_THREADS;
	r->batches[0].data = malloc(BATCH_BYTES);
	r->batches[1].data = malloc(BATCH_BYTES);
	r->scales = r->sink == NULL ? NULL : malloc(most_rows * sizeof(*r->scales));
	if (r->batches[0].data == NULL || r->batches[1].data == NULL ||
		(r->sink != NULL && r->scales == NULL))
		return model_fail(r->why, -ENOMEM, "no memory to read weights");
	return 0;
}

static int start_reading(
	struct reading *r, const struct model_weights *w, const struct safetensors *files)
{
	int err = w->quant == WEIGHT_AS_IS ? 0 : prepare_to_quantise(r, w);

	for (size_t i = 0; i < slots_of(w); i++)
		r->total_bytes += held(w, i) == NULL ? 0 : w->of[i].from->bytes;
	return err < 0 ? err : safetensors_reader_open(files, &r->reader, r->why);
}

static void end_reading(struct reading *r)
{
	uint32_t block;

	if (r->quantised != NULL)
		(void)quant_finish(&r->quant, &block);
	safetensors_reader_close(r->reader);
	free(r->batches[0].data);
	free(r->batches[1].data);
	free(r->scales);
}

/* --- Quantising ----------------------------------------------------------------------------- */

static uint64_t row_bytes(const struct weight *weight)
{
	return weight->from->bytes / weight->dims[0];
}

static int send_scales(const struct reading *r, const struct weight *weight)
{
	const uint64_t bytes = weight->dims[0] * sizeof(*r->scales);
	void *room;
	int err = r->sink->begin(r->sink->context, &room);

	if (err != 0)
		return err;
	memcpy(room, r->scales, bytes);
	return r->sink->end(r->sink->context, weight->scales_offset, bytes);
}

static int send_rows(const struct reading *r, const struct rows *rows)
{
	const struct weight *weight = rows->weight;
	int err = r->sink->end(r->sink->context, weight->offset + rows->first * weight->dims[1],
		rows->n * weight->dims[1]);

	return err == 0 && rows->first + rows->n == weight->dims[0] ? send_scales(r, weight) : err;
}

/* Waits for the batch that is being quantised, if there is one. */
static int finish_batch(struct reading *r)
{
	const struct batch *b = r->quantised;
	uint32_t block;
	int err;

	if (b == NULL)
		return 0;
	r->quantised = NULL;
	err = quant_finish(&r->quant, &block);
	if (err < 0)
		return model_fail(r->why, err, "%s has an element that is infinite or no number",
			b->rows[block].weight->from->name);
	return r->sink == NULL ? 0 : send_rows(r, &b->rows[0]);
}

static int start_batch(struct reading *r, const struct batch *b)
{
	const uint8_t *data = b->data;
	void *room;
	int err = r->sink == NULL ? 0 : r->sink->begin(r->sink->context, &room);

	if (err != 0)
		return err;
	r->quant.n_blocks = b->n;
	for (uint32_t i = 0; i < b->n; i++) {
		const struct rows *rows = &b->rows[i];
		const struct weight *weight = rows->weight;
		const uint64_t at = weight->offset + rows->first * weight->dims[1];
		float *scales =
			r->sink != NULL ? r->scales : (float *)(r->memory + weight->scales_offset);

		r->quant.blocks[i] = (struct quant_block){
			.data = data,
			.dtype = weight->from->dtype,
			.rows = rows->n,
			.columns = weight->dims[1],
			.q = r->sink != NULL ? room : r->memory + at,
			.scales = scales + rows->first,
		};
		data += rows->n * row_bytes(weight);
	}
	quant_start(&r->quant, r->threads);
	r->quantised = b;
	return 0;
}

static int read_batch(struct reading *r, const struct batch *b)
{
	struct safetensors_read parts[QUANT_MAX_BLOCKS] = {0};
	uint8_t *to = b->data;

	for (uint32_t i = 0; i < b->n; i++) {
		const struct rows *rows = &b->rows[i];
		const uint64_t bytes = row_bytes(rows->weight);

		parts[i] = (struct safetensors_read){
			rows->weight->from, rows->first * bytes, rows->n * bytes, to};
		to += rows->n * bytes;
	}
	return read_parts(r, parts, b->n);
}

/*
 * The rows that follow row *row of slot *slot, as many as there is room for; false: there are none.
 * The sink has room for those of one matrix.
 */
static bool fill_batch(const struct model_weights *w, size_t *slot, uint64_t *row, uint32_t most,
	struct batch *ret_batch)
{
	uint64_t room = BATCH_BYTES;
	struct batch *b = ret_batch;

	b->n = 0;
	while (*slot < slots_of(w) && b->n < most) {
		const struct weight *weight = &w->of[*slot];

		if (weight->dtype == GPUQ_I8) {
			const uint64_t left = weight->dims[0] - *row;
			const uint64_t fit = room / row_bytes(weight), n = left < fit ? left : fit;

			if (n > 0)
				b->rows[b->n++] = (struct rows){weight, *row, n};
			*row += n;
			room -= n * row_bytes(weight);
			if (n < left)
				break;
		}
		*row = 0;
		++*slot;
	}
	return b->n > 0;
}

static int read_quantised(struct reading *r, const struct model_weights *w)
{
	const uint32_t most = r->sink != NULL ? 1 : QUANT_MAX_BLOCKS;
	uint64_t row = 0;
	size_t slot = 0;
	int err = 0;

	for (uint32_t i = 0; err == 0; i ^= 1) {
		struct batch *b = &r->batches[i];

		if (!fill_batch(w, &slot, &row, most, b))
			break;
		err = read_batch(r, b);
		if (err == 0)
			err = finish_batch(r);
		if (err == 0)
			err = start_batch(r, b);
	}
	return err == 0 ? finish_batch(r) : err;
}

/* --- Into memory ---------------------------------------------------------------------------- */

/* All that is not quantised at once: the more is asked for, the faster it comes. */
static int read_as_is(
	struct reading *r, const struct model_weights *w, struct safetensors_read *parts)
{
	size_t n = 0;

	for (size_t i = 0; i < slots_of(w); i++) {
		const struct weight *weight = held(w, i);

		if (weight != NULL && weight->dtype != GPUQ_I8)
			parts[n++] = (struct safetensors_read){
				weight->from, 0, weight->bytes, r->memory + weight->offset};
	}
	return read_parts(r, parts, n);
}

int model_weights_read(const struct model_weights *weights, const struct safetensors *files,
	void *memory, const struct model_watch *watch, struct model_why *why)
{
	struct reading r = {.memory = memory, .watch = watch, .why = why};
	struct safetensors_read *parts = calloc(slots_of(weights), sizeof(*parts));
	int err = parts != NULL ? start_reading(&r, weights, files)
				: model_fail(why, -ENOMEM, "no memory to read weights");

	if (err == 0)
		err = read_as_is(&r, weights, parts);
	if (err == 0)
		err = read_quantised(&r, weights);
	end_reading(&r);
	free(parts);
	return err;
}

/* --- In pieces ------------------------------------------------------------------------------ */

static int stream_as_is(struct reading *r, const struct weight *weight)
{
	const struct weights_sink *sink = r->sink;
	int err = 0;

	for (uint64_t at = 0, n; at < weight->bytes && err == 0; at += n) {
		struct safetensors_read part = {weight->from, at, 0, NULL};

		n = weight->bytes - at;
		n = part.bytes = n < WEIGHTS_PIECE_BYTES ? n : WEIGHTS_PIECE_BYTES;
		err = sink->begin(sink->context, &part.to);
		if (err == 0)
			err = read_parts(r, &part, 1);
		if (err == 0)
			err = sink->end(sink->context, weight->offset + at, n);
	}
	return err;
}

int model_weights_stream(const struct model_weights *weights, const struct safetensors *files,
	const struct weights_sink *sink, const struct model_watch *watch, struct model_why *why)
{
	struct reading r = {.sink = sink, .watch = watch, .why = why};
	int err = start_reading(&r, weights, files);

	for (size_t i = 0; i < slots_of(weights) && err == 0; i++) {
		const struct weight *weight = held(weights, i);

		if (weight != NULL && weight->dtype != GPUQ_I8)
			err = stream_as_is(&r, weight);
	}
	if (err == 0)
		err = read_quantised(&r, weights);
	end_reading(&r);
	return err;
}
