/* SPDX-License-Identifier: MIT */
/*
 * added.h: the section "added_tokens" of a tokenizer file: tokens that are found in the text
 * before the model sees it. Those that are not normalised are looked for in the text as it came,
 * the others in the normalised text, where their own text is normalised too.
 */
#ifndef GPUQ_TEXT_ADDED_H
#define GPUQ_TEXT_ADDED_H

#include "client/text/normalizer.h"
#include "client/text/vocab.h"

struct added_token {
	uint32_t id;
	bool single_word, lstrip, rstrip, normalized, special;
	char *text; /* as in the file */
	size_t bytes;
	char *pattern; /* what is looked for, and what it decodes to */
	size_t pattern_bytes;
};

/* Tokens that are looked for in the same text, sorted by their patterns. */
struct added_set {
	uint32_t n;
	const struct added_token **sorted;
	uint32_t first[257]; /* sorted[first[b]] to sorted[first[b + 1] - 1] start with byte b */
};

struct added {
	uint32_t n, n_new;		  /* tokens, and those of them that the vocabulary lacks */
	struct added_token *tokens;	  /* in the order of the file */
	const struct added_token **by_id; /* sorted */
	struct added_set plain, normalized;
	struct pattern *word; /* a character of a word: what single_word asks for */
	uint32_t n_ids;	      /* one more than the greatest id, of the model's too */
};

/*
 * Reads the section; null for none. Ids of tokens that the vocabulary lacks follow those that it
 * has, in the order of the file: where the file says otherwise it is refused.
 * Finish it either way. -EINVAL, -EFBIG, -ENOMEM.
 */
int added_load(const json_t *json, const struct vocab *vocab, const struct normalizer *normalizer,
	struct normalizer_scratch *scratch, struct added *ret_added);
void added_finish(struct added *added);

/* The token with this id, or NULL. */
const struct added_token *added_by_id(const struct added *added, uint32_t id);

/* The token with this text in the file, or NULL. */
const struct added_token *added_by_text(const struct added *added, struct span text);

/* Parts of a text, ascending, in which special tokens are text like any other. */
struct literal_parts {
	const struct literal_part {
		size_t start, end;
	} * parts;
	size_t n;
};

/* Whether one of them has a byte of [start, end). */
bool literal_touches(const struct literal_parts *literal, size_t start, size_t end);

/*
 * A walk through a text: all tokens and what lies between them.
 *
 *	struct added_walk w = {.added = .., .set = .., .matcher = .., .text = ..};
 *	while ((r = added_next(&w)) > 0)
 *		... w.token with its id, or NULL and the text [w.start, w.end) ...
 */
struct added_walk {
	const struct added *added;
	const struct added_set *set;
	struct matcher *matcher;
	struct span text;
	struct literal_parts literal;
	const struct added_token *token;
	size_t start, end;
	size_t searched, given, space_end;
	const struct added_token *waiting; /* found behind a text that is given first */
	size_t waiting_end;
};

int added_next(struct added_walk *walk);

#endif
