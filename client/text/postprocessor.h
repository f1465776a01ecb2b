/* SPDX-License-Identifier: MIT */
/*
 * postprocessor.h: the sections "post_processor", "truncation" and "padding" of a tokenizer file:
 * what happens to the ids of one text in the end.
 */
#ifndef GPUQ_TEXT_POSTPROCESSOR_H
#define GPUQ_TEXT_POSTPROCESSOR_H

#include "client/text/json.h"

#define TEMPLATE_IDS_MAX 64

struct postprocessor {
	struct ids before, after; /* special tokens around the text */
	bool truncates, truncates_left;
	uint64_t length; /* special tokens included */
	bool pads, pads_left;
	uint64_t pad_length, pad_multiple; /* 0: no such demand */
	uint32_t pad_id;
};

/* `json` is the file. Finish it either way. -EINVAL, -ENOTSUP, -EFBIG, -ENOMEM. */
int postprocessor_load(const json_t *json, struct postprocessor *ret_postprocessor);
void postprocessor_finish(struct postprocessor *postprocessor);

/* `special`: with the special tokens. -ENOMEM. */
int postprocessor_apply(const struct postprocessor *p, bool special, struct ids *ids);

#endif
