/* SPDX-License-Identifier: MIT */
/*
 * folder.c: writes the folder of a Llama of a given shape with random weights, as Hugging Face has
 * them: config.json and model.safetensors in bf16. What it says makes no sense; how long it takes
 * is that of a real model of this shape.
 */
#include "bench/llm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_TENSORS 1024u
#define BLOCK 65536u /* elements that are made and written at once */

const struct llm_shape llm_shapes[] = {
	{"1b", 128256, 2048, 16, 32, 8, 64, 8192, 131072},
	{"135m", 49152, 576, 30, 9, 3, 64, 1536, 8192},
	{"15m", 32000, 288, 6, 6, 6, 48, 768, 1024},
	{"tiny", 2048, 64, 2, 4, 2, 16, 128, 512},
	{NULL},
};

const struct llm_shape *llm_shape_find(const char *name)
{
	for (const struct llm_shape *s = llm_shapes; s->name != NULL; s++) {
		if (strcmp(s->name, name) == 0)
			return s;
	}
	return NULL;
}

struct entry {
	char name[64];
	uint64_t rows, columns; /* columns 0: a vector of ones */
};

static void add(struct entry *list, uint32_t *n, uint64_t rows, uint64_t columns, int layer,
	const char *name)
{
	struct entry *e = &list[(*n)++];

	e->rows = rows;
	e->columns = columns;
	if (layer < 0)
		snprintf(e->name, sizeof(e->name), "model.%s.weight", name);
	else
		snprintf(e->name, sizeof(e->name), "model.layers.%d.%s.weight", layer, name);
}

/* The head is the embedding, as in the small models of the family. */
static uint32_t list_tensors(const struct llm_shape *s, struct entry *list)
{
	const uint64_t q = (uint64_t)s->heads * s->head_dim,
		       kv = (uint64_t)s->kv_heads * s->head_dim;
	uint32_t n = 0;

	add(list, &n, s->vocab, s->hidden, -1, "embed_tokens");
	for (int i = 0; i < (int)s->layers; i++) {
		add(list, &n, s->hidden, 0, i, "input_layernorm");
		add(list, &n, q, s->hidden, i, "self_attn.q_proj");
		add(list, &n, kv, s->hidden, i, "self_attn.k_proj");
		add(list, &n, kv, s->hidden, i, "self_attn.v_proj");
		add(list, &n, s->hidden, q, i, "self_attn.o_proj");
		add(list, &n, s->hidden, 0, i, "post_attention_layernorm");
		add(list, &n, s->intermediate, s->hidden, i, "mlp.gate_proj");
		add(list, &n, s->intermediate, s->hidden, i, "mlp.up_proj");
		add(list, &n, s->hidden, s->intermediate, i, "mlp.down_proj");
	}
	add(list, &n, s->hidden, 0, -1, "norm");
	return n;
}

static uint64_t entry_elements(const struct entry *e)
{
	return e->rows * (e->columns > 0 ? e->columns : 1);
}

/* Padded to 8 bytes, so that the data is aligned. */
static char *write_header(const struct entry *list, uint32_t n, size_t *ret_bytes)
{
	char *text = NULL;
	size_t bytes;
	uint64_t at = 0;
	FILE *f = open_memstream(&text, &bytes);

	if (f == NULL)
		return NULL;
	for (uint32_t i = 0; i < n; i++) {
		const uint64_t end = at + 2 * entry_elements(&list[i]);

		fprintf(f, "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%llu", i > 0 ? "," : "{",
			list[i].name, (unsigned long long)list[i].rows);
		if (list[i].columns > 0)
			fprintf(f, ",%llu", (unsigned long long)list[i].columns);
		fprintf(f, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at,
			(unsigned long long)end);
		at = end;
	}
	fprintf(f, "}");
	while (ftell(f) % 8 != 0)
		fprintf(f, " ");
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	*ret_bytes = bytes;
	return text;
}

static bool write_all(int fd, const void *data, size_t bytes)
{
	const char *p = data;

	while (bytes > 0) {
		ssize_t n = write(fd, p, bytes);
		if (n <= 0)
			return false;
		p += n;
		bytes -= (size_t)n;
	}
	return true;
}

/* Numbers of either sign from 2^-8 to 2^-4, about as large as trained weights are. */
static void fill_random(uint16_t *to, uint64_t *state)
{
	for (uint32_t i = 0; i < BLOCK; i += 4) {
		uint64_t x = *state;

		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		*state = x;
		for (uint32_t j = 0; j < 4; j++, x >>= 16) {
			const uint16_t bits = (uint16_t)x;

			to[i + j] = (uint16_t)((bits & 0x807f) | (119 + (bits >> 7 & 3)) << 7);
		}
	}
}

static bool write_tensor(int fd, const struct entry *e, uint16_t *block, uint64_t *state)
{
	uint64_t left = entry_elements(e);

	for (uint32_t i = 0; e->columns == 0 && i < BLOCK; i++)
		block[i] = 0x3f80; /* 1 */
	while (left > 0) {
		const uint64_t n = left < BLOCK ? left : BLOCK;

		if (e->columns > 0)
			fill_random(block, state);
		if (!write_all(fd, block, n * sizeof(*block)))
			return false;
		left -= n;
	}
	return true;
}

static bool write_tensors(int fd, const struct entry *list, uint32_t n)
{
	uint16_t *block = malloc(BLOCK * sizeof(*block));
	uint64_t state = 88172645463325252u, bytes = 0;
	char *header = write_header(list, n, &bytes);
	bool ok = block != NULL && header != NULL && write_all(fd, &bytes, sizeof(bytes)) &&
		write_all(fd, header, bytes);

	for (uint32_t i = 0; ok && i < n; i++)
		ok = write_tensor(fd, &list[i], block, &state);
	free(header);
	free(block);
	return ok;
}

static bool write_config(int dir_fd, const struct llm_shape *s)
{
	int fd = openat(dir_fd, "config.json", O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0644);
	FILE *f = fd < 0 ? NULL : fdopen(fd, "w");

	if (f == NULL)
		return false;
	fprintf(f,
		"{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\",\n"
		" \"vocab_size\": %u, \"hidden_size\": %u, \"num_hidden_layers\": %u,\n"
		" \"num_attention_heads\": %u, \"num_key_value_heads\": %u, \"head_dim\": %u,\n"
		" \"intermediate_size\": %u, \"max_position_embeddings\": %u,\n"
		" \"rms_norm_eps\": 1e-5, \"rope_theta\": 500000.0, \"hidden_act\": \"silu\",\n"
		" \"tie_word_embeddings\": true, \"torch_dtype\": \"bfloat16\"}\n",
		s->vocab, s->hidden, s->layers, s->heads, s->kv_heads, s->head_dim, s->intermediate,
		s->positions);
	return fclose(f) == 0;
}

/* 0 or a negative errno. */
static int folder_write(int dir_fd, const struct llm_shape *s)
{
	struct entry *list = calloc(MAX_TENSORS, sizeof(*list));
	int fd =
		openat(dir_fd, "model.safetensors", O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0644);
	bool ok = list != NULL && fd >= 0 && write_tensors(fd, list, list_tensors(s, list)) &&
		write_config(dir_fd, s);
	int err = ok ? 0 : -errno;

	if (fd >= 0 && close(fd) < 0 && ok)
		err = -errno;
	free(list);
	return err;
}

/* --- Where it lies -------------------------------------------------------------------------- */

void llm_folder_close(struct llm_folder *f)
{
	if (f->fd >= 0 && f->own) {
		unlinkat(f->fd, "config.json", 0);
		unlinkat(f->fd, "model.safetensors", 0);
		unlinkat(f->fd, "tokenizer.json", 0);
	}
	if (f->fd >= 0)
		close(f->fd);
	if (f->own)
		rmdir(f->path);
	f->fd = -1;
}

int llm_folder_open(const struct bench *b, struct llm_folder *f)
{
	const struct llm_shape *shape = llm_shape_find(b->shape);
	const char *where = getenv("TMPDIR");
	int e = 0;

	*f = (struct llm_folder){.fd = -1};
	snprintf(f->path, sizeof(f->path), "%s/gpuq-bench-XXXXXX", where != NULL ? where : "/tmp");
	if (b->folder != NULL) {
		snprintf(f->path, sizeof(f->path), "%s", b->folder);
		if (mkdir(f->path, 0755) < 0 && errno != EEXIST)
			e = -errno;
	} else if (mkdtemp(f->path) == NULL) {
		e = -errno;
	} else {
		f->own = true;
	}
	if (e == 0)
		f->fd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (e == 0 && f->fd < 0)
		e = -errno;
	if (e == 0 && faccessat(f->fd, "config.json", R_OK, 0) < 0) {
		progress("writing random weights of shape %s", shape->name);
		e = folder_write(f->fd, shape);
	}
	if (e < 0) {
		complain(e, "the model's folder %s", f->path);
		llm_folder_close(f);
	}
	return e;
}
