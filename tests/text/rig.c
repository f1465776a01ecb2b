/* SPDX-License-Identifier: MIT */
/* rig.c: tokenizers for tests. */
#include "tests/text/rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const rig_names[RIG_N_NAMES] = {
	"flags", "gpt2", "llama2", "llama3", "metaspace", "mistral", "o200k", "pieces", "qwen"};

const char *rig_path(const char *name, const char *extension)
{
	char path[200];

	snprintf(path, sizeof(path), "tests/text/data/%s.%s", name, extension);
	return harness_source(path);
}

struct gpuq_tokenizer *rig_load(const char *name)
{
	struct gpuq_tokenizer *t = NULL;

	if (gpuq_tokenizer_load(rig_path(name, "json"), &t) < 0)
		fail_msg("%s", gpuq_error_detail());
	return t;
}

static int parse(const char *json, struct gpuq_tokenizer **ret_tokenizer)
{
	char *text = strdup(json);

	assert_non_null(text);
	for (char *c = text; *c != '\0'; c++)
		if (*c == '\'')
			*c = '"';
	int r = gpuq_tokenizer_parse(text, strlen(text), ret_tokenizer);
	free(text);
	return r;
}

struct gpuq_tokenizer *rig_parse(const char *json)
{
	struct gpuq_tokenizer *t = NULL;

	if (parse(json, &t) < 0)
		fail_msg("%s in %s", gpuq_error_detail(), json);
	return t;
}

void rig_refuse(int error, const char *part, const char *json)
{
	struct gpuq_tokenizer *t = NULL;
	int r = parse(json, &t);

	if (r != error || strstr(gpuq_error_detail(), part) == NULL)
		fail_msg("wanted %d '%s', got %d '%s' for %s", error, part, r,
			r < 0 ? gpuq_error_detail() : "", json);
	assert_null(t);
}

struct gpuq_encoder *rig_encoder(const struct gpuq_tokenizer *tokenizer)
{
	struct gpuq_encoder *e = NULL;

	assert_int_equal(gpuq_encoder_create(tokenizer, &e), 0);
	return e;
}

struct gpuq_decoder *rig_decoder(const struct gpuq_tokenizer *tokenizer, uint32_t flags)
{
	struct gpuq_decoder *d = NULL;

	assert_int_equal(gpuq_decoder_create(tokenizer, flags, &d), 0);
	return d;
}

void rig_encode(
	const struct gpuq_tokenizer *tokenizer, const char *text, uint32_t flags, const char *ids)
{
	struct gpuq_encoder *e = rig_encoder(tokenizer);
	const uint32_t *found;
	char list[400] = "";
	size_t at = 0;
	int64_t n = gpuq_encode(e, text, strlen(text), flags, &found);

	if (n < 0)
		fail_msg("%s", gpuq_error_detail());
	for (int64_t i = 0; i < n; i++)
		at += (size_t)snprintf(
			list + at, sizeof(list) - at, "%s%u", i == 0 ? "" : " ", found[i]);
	assert_string_equal(list, ids);
	gpuq_encoder_destroy(e);
}

void rig_detail(const char *part)
{
	if (strstr(gpuq_error_detail(), part) == NULL)
		fail_msg("'%s' is not in '%s'", part, gpuq_error_detail());
}
