/* SPDX-License-Identifier: MIT */
/*
 * pattern.h: regular expressions of tokenizer files, and plain strings in their place.
 *
 * The files write them for Oniguruma; PCRE2 executes them. The part of the syntax that both read
 * alike is taken as it is, what means something else in PCRE2 (\s, \w, \v, ^, $, script names) is
 * written anew, and everything else is refused by name. A text cannot make a search long: it has
 * a limit that grows with the text, and a search that reaches it fails.
 */
#ifndef GPUQ_TEXT_PATTERN_H
#define GPUQ_TEXT_PATTERN_H

#include "client/text/text.h"

struct pattern; /* immutable: any number of threads use it */
struct matcher; /* what a search needs besides: one for each thread */

/* From a file's regular expression. -EINVAL, -ENOTSUP, -EFBIG, -ENOMEM. */
int pattern_create(struct span regex, struct pattern **ret_pattern);

/* From a regular expression of this library, in PCRE2's own syntax. -ENOMEM. */
int pattern_create_native(const char *regex, struct pattern **ret_pattern);

/* That finds this string. -ENOMEM. */
int pattern_create_literal(struct span literal, struct pattern **ret_pattern);

void pattern_destroy(struct pattern *pattern);

int matcher_create(struct matcher **ret_matcher);
void matcher_destroy(struct matcher *matcher);

/* To be called once for each text, with the length of the longest that will be searched. */
void matcher_limit(struct matcher *matcher, size_t bytes);

/*
 * Finds the first match that starts at `from` or later. Returns 1 and the match, 0 when there is
 * none, or -E2BIG when the search takes too long.
 */
int pattern_find(const struct pattern *pattern, struct matcher *matcher, struct span text,
	size_t from, size_t *ret_start, size_t *ret_end);

/*
 * All matches, and what lies between them, in their order; together they are the text.
 *
 *	struct pieces p = pieces_of(pattern, matcher, text);
 *	while ((r = pieces_next(&p)) > 0)
 *		... p.start, p.end, p.is_match ...
 *
 * A match may be empty, but not directly behind another one.
 */
struct pieces {
	const struct pattern *pattern;
	struct matcher *matcher;
	struct span text;
	size_t start, end;
	bool is_match;
	size_t match_start, match_end; /* found, and given next when `waiting` */
	bool waiting, matched, exhausted;
};

static inline struct pieces pieces_of(
	const struct pattern *pattern, struct matcher *matcher, struct span text)
{
	return (struct pieces){.pattern = pattern, .matcher = matcher, .text = text};
}

/* 1, 0 after the last, or a negative error. */
int pieces_next(struct pieces *p);

/*
 * Appends the text with something else in place of each match. *ret_leading is the length of a
 * match at its beginning, or 0.
 */
int pattern_replace(const struct pattern *pattern, struct matcher *matcher, struct span text,
	struct span by, struct bytes *out, size_t *ret_leading);

#endif
