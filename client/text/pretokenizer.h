/* SPDX-License-Identifier: MIT */
/*
 * pretokenizer.h: the section "pre_tokenizer" of a tokenizer file: how a text is cut into words.
 * The steps of the file become stages of four kinds; each word of a stage is the text of the next.
 */
#ifndef GPUQ_TEXT_PRETOKENIZER_H
#define GPUQ_TEXT_PRETOKENIZER_H

#include "client/text/json.h"
#include "client/text/pattern.h"

#define PRETOKENIZER_STAGES_MAX 32

enum split_behavior {
	SPLIT_REMOVED,
	SPLIT_ISOLATED,
	SPLIT_MERGED_WITH_PREVIOUS,
	SPLIT_MERGED_WITH_NEXT,
	SPLIT_CONTIGUOUS,
};

struct stage {
	enum {
		STAGE_SPLIT,
		STAGE_SPACE,	 /* puts a space in front of a text that has none */
		STAGE_METASPACE, /* spaces become `replacement`, which may be put in front too */
		STAGE_BYTES,	 /* into the byte alphabet */
	} kind;
	struct pattern *pattern; /* of STAGE_SPLIT */
	enum split_behavior behavior;
	bool invert;
	enum { PREPEND_ALWAYS, PREPEND_NEVER, PREPEND_FIRST } prepend;
	char replacement[UTF8_MAX];
	size_t replacement_bytes;
};

struct pretokenizer {
	uint32_t n_stages;
	/*
	 * The last stage was STAGE_BYTES and is not among them: words are given as the bytes that
	 * they are, and who looks them up knows the alphabet.
	 */
	bool bytes;
	struct stage stages[PRETOKENIZER_STAGES_MAX];
};

/* `json` is null for none. Finish it either way. -EINVAL, -ENOTSUP, -EFBIG, -ENOMEM. */
int pretokenizer_load(const json_t *json, struct pretokenizer *ret_pretokenizer);
void pretokenizer_finish(struct pretokenizer *pretokenizer);

/* One cutting of texts. */
struct cutter {
	const struct pretokenizer *pretokenizer;
	struct matcher *matcher;
	struct bytes buffers[PRETOKENIZER_STAGES_MAX];
	/* Called with each word, in order; what is negative ends the cutting. */
	int (*word)(void *context, struct span word);
	void *context;
};

/* Cuts a text; `first` when it stands at the start of what the user gave. */
int cutter_cut(struct cutter *cutter, struct span text, bool first);

void cutter_finish(struct cutter *cutter);

/* Reads a metaspace's "replacement": one character. */
int metaspace_load(const json_t *json, const char *where, struct stage *stage);

#endif
