/* SPDX-License-Identifier: MIT */
/*
 * normalizer.h: the section "normalizer" of a tokenizer file: what is done to a text before it is
 * cut into words.
 */
#ifndef GPUQ_TEXT_NORMALIZER_H
#define GPUQ_TEXT_NORMALIZER_H

#include "client/text/json.h"
#include "client/text/pattern.h"
#include "client/text/unicode.h"

#define NORMALIZER_STEPS_MAX 32

struct normalizer_step {
	enum {
		NORMALIZE_FORM,
		NORMALIZE_LOWERCASE,
		NORMALIZE_PREPEND,
		NORMALIZE_REPLACE,
		NORMALIZE_STRIP,
		NORMALIZE_BYTES, /* into the byte alphabet */
	} kind;
	enum unicode_form form;
	bool left, right;	 /* of NORMALIZE_STRIP */
	char *text;		 /* to prepend, or to put in the place of matches */
	size_t bytes;		 /* of `text` */
	struct pattern *pattern; /* of NORMALIZE_REPLACE */
};

struct normalizer {
	uint32_t n_steps;
	struct normalizer_step steps[NORMALIZER_STEPS_MAX];
};

/* What one thread needs to apply a normalizer; zeros, and a matcher that stays the caller's. */
struct normalizer_scratch {
	struct matcher *matcher;
	struct bytes buffers[2];
};

/* `json` is null for none. Finish it either way. -EINVAL, -ENOTSUP, -EFBIG, -ENOMEM. */
int normalizer_load(const json_t *json, struct normalizer *ret_normalizer);
void normalizer_finish(struct normalizer *normalizer);

/*
 * Applies it. The result is the input or lies in the scratch, until the next use. *ret_shifted
 * tells whether it starts with another character of the input than the first.
 */
int normalizer_apply(const struct normalizer *normalizer, struct normalizer_scratch *scratch,
	struct span in, struct span *ret_out, bool *ret_shifted);

void normalizer_scratch_finish(struct normalizer_scratch *scratch);

/* Reads {"pattern": {"String": ...} or {"Regex": ...}} of `object`. */
int pattern_load(const json_t *object, const char *where, struct pattern **ret_pattern);

#endif
