/* SPDX-License-Identifier: MIT */
/* writing.c: see writing.h. */
#include "tests/integration/writing.h"
#include "tests/integration/served.h"
#include "tests/models/random-model.h"
#include "tests/models/rig.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const struct gpuq_channel_options writing_channel = {.arena_bytes = 8u << 20};

/* A file of the tests' data, under another name. */
static void copy_tokenizer(int dir_fd, const char *path)
{
	static char text[4u << 20];
	FILE *f = fopen(path, "re");

	assert_non_null(f);
	size_t n = fread(text, 1, sizeof(text), f);
	assert_true(n > 0 && n < sizeof(text));
	fclose(f);
	rig_write(dir_fd, "tokenizer.json", text, n);
}

static void make_folder(struct writing *w, const struct writing_model *model, const char *tokenizer)
{
	struct model_config config = {
		.architecture = MODEL_LLAMA,
		.vocab = gpuq_tokenizer_size(w->tokenizer),
		.hidden = 32,
		.layers = 2,
		.intermediate = 48,
		.heads = 4,
		.kv_heads = 2,
		.head_dim = 8,
		.max_positions = model->max_tokens,
		.norm_eps = 1e-5,
		.rope = {.theta = 10000},
	};
	struct random rng = served_seed();
	const char *end = "{\"eos_token_id\": 7}"; /* WRITING_END */

	int dir_fd = random_model(&config, GPUQ_F32, &rng);
	copy_tokenizer(dir_fd, tokenizer);
	if (model->jinja != NULL)
		rig_write(dir_fd, "chat_template.jinja", model->jinja, strlen(model->jinja));
	rig_write(dir_fd, "generation_config.json", end, strlen(end));
	served_dir(dir_fd, w->dir, sizeof(w->dir));
	close(dir_fd);
}

void writing_start(struct writing *w, const struct writing_model *model)
{
	char tokenizer[300];
	struct gpuq_model_info m;
	char argument[340];

	snprintf(tokenizer, sizeof(tokenizer), "tests/text/data/%s.json", model->tokenizer);
	snprintf(tokenizer, sizeof(tokenizer), "%s", harness_source(tokenizer));
	assert_int_equal(gpuq_tokenizer_load(tokenizer, &w->tokenizer), 0);
	make_folder(w, model, tokenizer);
	snprintf(argument, sizeof(argument), "small=%s,deterministic=yes", w->dir);
	const char *const args[] = {
		"--model", argument, model->unwatched ? "--watchdog-ms" : NULL, "0", NULL};
	w->daemon = harness_daemon_start(args);
	client_open(&w->client, &writing_channel);
	served_await(w->client.g, "small");
	assert_int_equal(gpuq_model_find(w->client.g, "small", &m), 0);
	assert_string_equal(m.dir, w->dir);
}

void writing_stop(struct writing *w)
{
	client_close(&w->client);
	gpuq_tokenizer_destroy(w->tokenizer);
	harness_daemon_destroy(w->daemon);
}

struct gpuq_writer *writing_open(struct writing *w, struct gpuq_writer_options o)
{
	struct gpuq_writer *writer;

	o.model = "small";
	o.tokenizer = w->tokenizer;
	if (gpuq_writer_create(w->client.ch, &o, &writer) < 0)
		fail_msg("%s", gpuq_error_detail());
	return writer;
}

struct gpuq_logit_bias writing_no_zero(const struct writing *w)
{
	static const char zero[] = "\u0100"; /* as the byte alphabet writes it */
	int64_t id = gpuq_tokenizer_find(w->tokenizer, zero, strlen(zero));

	assert_true(id >= 0);
	return (struct gpuq_logit_bias){.id = (uint32_t)id, .bias = -INFINITY};
}

static void add(struct written_text *t, const char *bytes, size_t n)
{
	assert_true(t->length + n < sizeof(t->bytes));
	memcpy(t->bytes + t->length, bytes, n);
	t->length += n;
	t->bytes[t->length] = '\0';
}

void writing_go_on(struct gpuq_writer *writer, struct written_text *t)
{
	struct gpuq_written written;
	const char *rest;
	int r = 1;

	*t = (struct written_text){0};
	while (t->n < WRITING_LENGTH && (r = gpuq_writer_next(writer, &written)) > 0) {
		t->tokens[t->n++] = written.token;
		add(t, written.text, written.bytes);
	}
	if (r < 0)
		fail_msg("%s", gpuq_error_detail());
	int64_t n = gpuq_writer_finish(writer, &rest);
	assert_true(n >= 0);
	add(t, rest, (size_t)n);
}

void writing_text(
	struct writing *w, struct gpuq_writer_options o, const char *prompt, struct written_text *t)
{
	struct gpuq_writer *writer = writing_open(w, o);

	assert_true(gpuq_writer_read(writer, prompt, strlen(prompt), 0) > 0);
	writing_go_on(writer, t);
	gpuq_writer_destroy(writer);
}
