/* SPDX-License-Identifier: MIT */
/* tokenizer.c: loads a tokenizer.json section by section, and answers questions about tokens. */
#include "client/text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX (256u << 20)

static int check_version(const json_t *json)
{
	const json_t *version = json_object_get(json, "version");

	if (!json_is_object(json))
		return text_fail(-EINVAL, "this is not a tokenizer.json: it is no JSON object");
	if (version != NULL &&
		(!json_is_string(version) || strcmp(json_string_value(version), "1.0") != 0))
		return text_fail(-ENOTSUP, "version of the tokenizer is not 1.0");
	return 0;
}

/* The added tokens are normalised once, here. */
static int load_added(const json_t *json, struct gpuq_tokenizer *t)
{
	struct normalizer_scratch scratch = {0};
	int r = matcher_create(&scratch.matcher);

	if (r < 0)
		return r;
	matcher_limit(scratch.matcher, 0);
	r = added_load(json_object_get(json, "added_tokens"), &t->bpe.vocab, &t->normalizer,
		&scratch, &t->added);
	normalizer_scratch_finish(&scratch);
	matcher_destroy(scratch.matcher);
	return r;
}

static int load_sections(const json_t *json, struct gpuq_tokenizer *t)
{
	int r = check_version(json);

	/* First the model: that another kind is not supported is the most useful thing to say. */
	if (r == 0)
		r = pretokenizer_load(json_object_get(json, "pre_tokenizer"), &t->pretokenizer);
	if (r == 0 || r == -ENOTSUP) {
		int other =
			bpe_load(json_object_get(json, "model"), t->pretokenizer.bytes, &t->bpe);

		r = other < 0 ? other : r;
	}
	if (r == 0)
		r = normalizer_load(json_object_get(json, "normalizer"), &t->normalizer);
	if (r == 0)
		r = load_added(json, t);
	if (r == 0)
		r = postprocessor_load(json, &t->postprocessor);
	return r < 0 ? r : decoder_load(json_object_get(json, "decoder"), &t->decoder);
}

int gpuq_tokenizer_parse(const char *json, size_t bytes, struct gpuq_tokenizer **ret_tokenizer)
{
	json_error_t error;

	if (bytes > FILE_MAX)
		return text_fail(-EFBIG, "the tokenizer has more than %u bytes", FILE_MAX);
	json_t *document = json_loadb(json, bytes, JSON_ALLOW_NUL, &error);
	if (document == NULL)
		return text_fail(
			-EINVAL, "line %d, column %d: %s", error.line, error.column, error.text);
	struct gpuq_tokenizer *t = calloc(1, sizeof(*t));
	int r = t == NULL ? text_no_memory() : load_sections(document, t);
	json_decref(document);
	if (r < 0) {
		gpuq_tokenizer_destroy(t);
		return r;
	}
	*ret_tokenizer = t;
	return 0;
}

void gpuq_tokenizer_destroy(struct gpuq_tokenizer *tokenizer)
{
	if (tokenizer == NULL)
		return;
	normalizer_finish(&tokenizer->normalizer);
	pretokenizer_finish(&tokenizer->pretokenizer);
	bpe_finish(&tokenizer->bpe);
	added_finish(&tokenizer->added);
	postprocessor_finish(&tokenizer->postprocessor);
	decoder_finish(&tokenizer->decoder);
	free(tokenizer);
}

/* --- Files ----------------------------------------------------------------------------------- */

static int refuse_folder(const char *folder)
{
	char path[4096];

	snprintf(path, sizeof(path), "%s/tokenizer.model", folder);
	if (access(path, F_OK) == 0)
		return text_fail(-ENOENT,
			"%s has a tokenizer.model but no tokenizer.json; save the model anew with "
			"its fast tokenizer to get one",
			folder);
	return text_fail(-ENOENT, "there is no tokenizer.json in %s", folder);
}

/* The file, or the one in the folder. */
static int read_tokenizer(const char *given, char *path, size_t size, struct bytes *out)
{
	struct stat st;
	bool folder = stat(given, &st) == 0 && S_ISDIR(st.st_mode);
	int n = snprintf(path, size, "%s%s", given, folder ? "/tokenizer.json" : "");

	if (n < 0 || (size_t)n >= size)
		return text_fail(-ENAMETOOLONG, "the path of the tokenizer is too long");
	int r = text_read_file(path, FILE_MAX, out);
	return r == -ENOENT && folder ? refuse_folder(given) : r;
}

int gpuq_tokenizer_load(const char *path, struct gpuq_tokenizer **ret_tokenizer)
{
	struct bytes json = {0};
	char file[4096], why[800];
	int r = read_tokenizer(path, file, sizeof(file), &json);

	if (r == 0) {
		r = gpuq_tokenizer_parse(json.data, json.n, ret_tokenizer);
		if (r < 0) {
			snprintf(why, sizeof(why), "%s", gpuq_error_detail());
			text_fail(r, "%s: %s", file, why);
		}
	}
	free(json.data);
	return r;
}

/* --- Tokens ---------------------------------------------------------------------------------- */

uint32_t gpuq_tokenizer_size(const struct gpuq_tokenizer *tokenizer)
{
	return tokenizer->added.n_ids;
}

int64_t gpuq_tokenizer_find(const struct gpuq_tokenizer *tokenizer, const char *token, size_t bytes)
{
	const struct added_token *added = added_by_text(&tokenizer->added, span_of(token, bytes));

	if (added != NULL)
		return added->id;
	uint32_t id = vocab_find(&tokenizer->bpe.vocab, span_of(token, bytes));
	if (id == NO_ID)
		return text_fail(-ENOENT, "there is no token '%.*s'", (int)bytes, token);
	return id;
}

int64_t gpuq_tokenizer_token(
	const struct gpuq_tokenizer *tokenizer, uint32_t id, const char **ret_token)
{
	const struct added_token *added = added_by_id(&tokenizer->added, id);
	struct span text = vocab_text(&tokenizer->bpe.vocab, id);

	if (added != NULL)
		text = span_of(added->text, added->bytes);
	if (text.data == NULL)
		return text_fail(-ENOENT, "no token has the id %u", id);
	*ret_token = text.data;
	return (int64_t)text.n;
}

bool gpuq_tokenizer_special(const struct gpuq_tokenizer *tokenizer, uint32_t id)
{
	const struct added_token *added = added_by_id(&tokenizer->added, id);

	return added != NULL && added->special;
}
