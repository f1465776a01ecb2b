/* SPDX-License-Identifier: MIT */
/* normalizer.c: loads and applies what is done to a text before it is cut into words. */
#include "client/text/normalizer.h"

#include <stdlib.h>

#define WHERE "normalizer"

int pattern_load(const json_t *object, const char *where, struct pattern **ret_pattern)
{
	const json_t *pattern = json_object_get(object, "pattern");
	struct span text;
	int r;

	if (json_object_get(pattern, "String") != NULL) {
		r = json_get_string(pattern, where, "String", &text);
		return r < 0 ? r : pattern_create_literal(text, ret_pattern);
	}
	if (json_object_get(pattern, "Regex") != NULL) {
		r = json_get_string(pattern, where, "Regex", &text);
		return r < 0 ? r : pattern_create(text, ret_pattern);
	}
	return text_fail(-EINVAL, "%s: pattern has neither String nor Regex", where);
}

/* --- Loading --------------------------------------------------------------------------------- */

static int load_text(const json_t *json, const char *key, struct normalizer_step *step)
{
	struct span text;
	int r = json_get_string(json, WHERE, key, &text);

	if (r < 0)
		return r;
	step->text = span_copy(text);
	step->bytes = text.n;
	return step->text == NULL ? text_no_memory() : 0;
}

static int load_replace(const json_t *json, struct normalizer_step *step)
{
	int r = load_text(json, "content", step);

	step->kind = NORMALIZE_REPLACE;
	return r < 0 ? r : pattern_load(json, WHERE, &step->pattern);
}

static int load_strip(const json_t *json, struct normalizer_step *step)
{
	int r = json_get_bool(json, WHERE, "strip_left", true, &step->left);

	step->kind = NORMALIZE_STRIP;
	return r < 0 ? r : json_get_bool(json, WHERE, "strip_right", true, &step->right);
}

static bool load_form(const char *type, struct normalizer_step *step)
{
	static const char *const forms[] = {"NFC", "NFD", "NFKC", "NFKD"};

	for (int i = 0; i < 4; i++) {
		if (strcmp(type, forms[i]) == 0) {
			step->kind = NORMALIZE_FORM;
			step->form = (enum unicode_form)i;
			return true;
		}
	}
	return false;
}

static int load_step(const json_t *json, const char *type, void *context)
{
	struct normalizer *n = context;

	if (n->n_steps == NORMALIZER_STEPS_MAX)
		return text_fail(
			-EFBIG, "the normalizer has more than %d steps", NORMALIZER_STEPS_MAX);
	struct normalizer_step *step = &n->steps[n->n_steps++];
	if (load_form(type, step))
		return 0;
	if (strcmp(type, "Replace") == 0)
		return load_replace(json, step);
	if (strcmp(type, "Strip") == 0)
		return load_strip(json, step);
	if (strcmp(type, "Prepend") == 0) {
		step->kind = NORMALIZE_PREPEND;
		return load_text(json, "prepend", step);
	}
	if (strcmp(type, "Lowercase") == 0)
		step->kind = NORMALIZE_LOWERCASE;
	else if (strcmp(type, "ByteLevel") == 0)
		step->kind = NORMALIZE_BYTES;
	else
		return text_fail(-ENOTSUP, "the normalizer %s is not supported", type);
	return 0;
}

int normalizer_load(const json_t *json, struct normalizer *ret_normalizer)
{
	static const struct json_steps steps = {
		WHERE, "normalizers", NORMALIZER_STEPS_MAX, load_step};

	*ret_normalizer = (struct normalizer){0};
	return json_each_step(json, &steps, ret_normalizer);
}

void normalizer_finish(struct normalizer *normalizer)
{
	for (uint32_t i = 0; i < normalizer->n_steps; i++) {
		free(normalizer->steps[i].text);
		pattern_destroy(normalizer->steps[i].pattern);
	}
}

/* --- Applying -------------------------------------------------------------------------------- */

static int prepend(const struct normalizer_step *step, struct span in, struct bytes *out)
{
	int r = bytes_append(out, step->text, step->bytes);

	return r < 0 ? r : bytes_append(out, in.data, in.n);
}

/* A match at the start moves the start, unless one character takes the place of one. */
static bool replaced_start(const struct normalizer_step *step, struct span match)
{
	return step->bytes == 0 || (match.n > 0 && utf8_length(match.data[0]) < match.n);
}

static int replace(const struct normalizer_step *step, struct matcher *matcher, struct span in,
	struct bytes *out, bool *shifted)
{
	size_t leading = 0;
	int r = pattern_replace(
		step->pattern, matcher, in, span_of(step->text, step->bytes), out, &leading);

	if (leading > 0)
		*shifted |= replaced_start(step, span_of(in.data, leading));
	return r;
}

static int strip(
	const struct normalizer_step *step, struct span in, struct bytes *out, bool *shifted)
{
	size_t left = step->left ? space_at_start(in) : 0;
	size_t right = step->right && left < in.n ? space_at_end(in) : 0;

	*shifted |= left > 0;
	return bytes_append(out, in.data + left, in.n - left - right);
}

static int apply_step(const struct normalizer_step *step, struct matcher *matcher, struct span in,
	struct bytes *out, bool *shifted)
{
	switch (step->kind) {
	case NORMALIZE_FORM:
		return unicode_normalize(step->form, in, out);
	case NORMALIZE_LOWERCASE:
		return unicode_lowercase(in, out);
	case NORMALIZE_PREPEND:
		return prepend(step, in, out);
	case NORMALIZE_REPLACE:
		return replace(step, matcher, in, out, shifted);
	case NORMALIZE_STRIP:
		return strip(step, in, out, shifted);
	case NORMALIZE_BYTES:
		return byte_alphabet_append(out, in);
	}
	return 0;
}

int normalizer_apply(const struct normalizer *normalizer, struct normalizer_scratch *scratch,
	struct span in, struct span *ret_out, bool *ret_shifted)
{
	bool shifted = false;

	for (uint32_t i = 0; i < normalizer->n_steps && in.n > 0; i++) {
		const struct normalizer_step *step = &normalizer->steps[i];
		struct bytes *out = &scratch->buffers[i % 2];

		if (step->kind == NORMALIZE_FORM && is_ascii(in))
			continue;
		if (out->data == in.data)
			out = &scratch->buffers[(i + 1) % 2];
		out->n = 0;
		int r = apply_step(step, scratch->matcher, in, out, &shifted);
		if (r < 0)
			return r;
		in = bytes_span(out);
	}
	*ret_out = in;
	*ret_shifted = shifted;
	return 0;
}

void normalizer_scratch_finish(struct normalizer_scratch *scratch)
{
	free(scratch->buffers[0].data);
	free(scratch->buffers[1].data);
}
