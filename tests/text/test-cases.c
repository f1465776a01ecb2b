/* SPDX-License-Identifier: MIT */
/*
 * test-cases.c: the committed cases: ids and decoded texts as the Hugging Face `tokenizers` library
 * gives them, for tokenizers of each kind. make-tokenizers.py writes them.
 */
#include "tests/text/rig.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CASES_MIN 2000 /* of all tokenizers together */

struct one_case {
	const json_t *text, *ids;
	bool special;
	const char *decoded;
	size_t decoded_bytes;
};

/* [text, with special tokens, ids, decoded or null] */
static struct one_case case_of(const json_t *line)
{
	const json_t *text = json_array_get(line, 0);
	const json_t *decoded = json_array_get(line, 3);

	assert_true(json_is_string(text));
	if (json_is_null(decoded))
		decoded = text;
	return (struct one_case){.text = text,
		.ids = json_array_get(line, 2),
		.special = json_is_true(json_array_get(line, 1)),
		.decoded = json_string_value(decoded),
		.decoded_bytes = json_string_length(decoded)};
}

static void check_ids(struct gpuq_encoder *e, const struct one_case *c)
{
	const uint32_t *ids;
	int64_t n = gpuq_encode(e, json_string_value(c->text), json_string_length(c->text),
		c->special ? GPUQ_ENCODE_SPECIAL : 0, &ids);

	if (n < 0)
		fail_msg("%s", gpuq_error_detail());
	if (n != (int64_t)json_array_size(c->ids))
		fail_msg("%lld ids, not %zu, of '%s'", (long long)n, json_array_size(c->ids),
			json_string_value(c->text));
	for (int64_t i = 0; i < n; i++)
		if (ids[i] != json_integer_value(json_array_get(c->ids, (size_t)i)))
			fail_msg("id %lld of '%s' is %u", (long long)i, json_string_value(c->text),
				ids[i]);
}

static uint32_t *ids_of(const struct one_case *c)
{
	size_t n = json_array_size(c->ids);
	uint32_t *ids = calloc(n + 1, sizeof(*ids));

	assert_non_null(ids);
	for (size_t i = 0; i < n; i++)
		ids[i] = (uint32_t)json_integer_value(json_array_get(c->ids, i));
	return ids;
}

static void check_text(struct gpuq_decoder *d, const struct one_case *c)
{
	uint32_t *ids = ids_of(c);
	const char *text;
	int64_t n = gpuq_decode(d, ids, json_array_size(c->ids), &text);

	if (n != (int64_t)c->decoded_bytes || memcmp(text, c->decoded, c->decoded_bytes) != 0)
		fail_msg("decoded '%s', not '%s'", n < 0 ? gpuq_error_detail() : text, c->decoded);
	free(ids);
}

static uint32_t run_cases(const char *name)
{
	struct gpuq_tokenizer *t = rig_load(name);
	struct gpuq_encoder *e = rig_encoder(t);
	struct gpuq_decoder *d = rig_decoder(t, 0);
	FILE *file = fopen(rig_path(name, "cases"), "r");
	json_error_t error;
	json_t *line;
	uint32_t n = 0;

	assert_non_null(file);
	while ((line = json_loadf(file, JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, &error)) != NULL) {
		struct one_case c = case_of(line);

		check_ids(e, &c);
		check_text(d, &c);
		json_decref(line);
		n++;
	}
	assert_true(feof(file));
	fclose(file);
	gpuq_decoder_destroy(d);
	gpuq_encoder_destroy(e);
	gpuq_tokenizer_destroy(t);
	return n;
}

static void test_all_cases(void **state)
{
	uint32_t n = 0;

	for (int i = 0; i < RIG_N_NAMES; i++) {
		uint32_t of_this = run_cases(rig_names[i]);

		print_message("%s: %u cases\n", rig_names[i], of_this);
		n += of_this;
	}
	assert_true(n >= CASES_MIN);
}

int main(void)
{
	static const struct harness_test tests[] = {HARNESS_TEST(test_all_cases)};

	return harness_run("text-cases", tests, sizeof(tests) / sizeof(tests[0]));
}
