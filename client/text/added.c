/* SPDX-License-Identifier: MIT */
/* added.c: loads added tokens and finds them in texts: the leftmost, and of those the longest. */
#include "client/text/added.h"

#include <stdlib.h>

#define WHERE "added_tokens"
#define TOKENS_MAX 65536u
#define TOKEN_BYTES_MAX 1024u
/* What Rust's regex crate calls \w. */
#define WORD "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]"

/* --- Loading --------------------------------------------------------------------------------- */

static int load_flags(const json_t *json, struct added_token *t)
{
	int r = json_get_bool(json, WHERE, "special", false, &t->special);

	if (r == 0)
		r = json_get_bool(json, WHERE, "single_word", false, &t->single_word);
	if (r == 0)
		r = json_get_bool(json, WHERE, "lstrip", false, &t->lstrip);
	if (r == 0)
		r = json_get_bool(json, WHERE, "rstrip", false, &t->rstrip);
	return r < 0 ? r : json_get_bool(json, WHERE, "normalized", !t->special, &t->normalized);
}

/* What is looked for: the text, normalised when the token is. */
static int make_pattern(struct added_token *t, const struct normalizer *normalizer,
	struct normalizer_scratch *scratch)
{
	struct span pattern = span_of(t->text, t->bytes);
	bool shifted;

	if (t->normalized) {
		int r = normalizer_apply(normalizer, scratch, pattern, &pattern, &shifted);
		if (r < 0)
			return r;
	}
	if (pattern.n == 0)
		return text_fail(
			-EINVAL, WHERE ": nothing is left of '%s' when it is normalised", t->text);
	t->pattern = span_copy(pattern);
	t->pattern_bytes = pattern.n;
	return t->pattern == NULL ? text_no_memory() : 0;
}

static int load_text(const json_t *json, struct added_token *t)
{
	struct span text;
	int r = json_get_string(json, WHERE, "content", &text);

	if (r < 0)
		return r;
	if (text.n > TOKEN_BYTES_MAX)
		return text_fail(-EFBIG, WHERE ": a token has more than %u bytes", TOKEN_BYTES_MAX);
	t->text = span_copy(text);
	t->bytes = text.n;
	return t->text == NULL ? text_no_memory() : 0;
}

/* The id that the token has by its place; the file must say the same. */
static int check_id(
	const json_t *json, const struct vocab *vocab, struct added *a, struct added_token *t)
{
	struct span text = span_of(t->text, t->bytes);
	uint64_t id;
	int r = json_get_number(json, WHERE, "id", VOCAB_IDS_MAX - 1, &id);

	if (r < 0)
		return r;
	t->id = vocab_find(vocab, text);
	if (t->id == NO_ID)
		t->id = vocab->n_tokens + a->n_new++;
	if (t->id != id)
		return text_fail(-EINVAL,
			WHERE ": '%s' has the id %llu, but its place in the vocabulary is %u",
			t->text, (unsigned long long)id, t->id);
	return 0;
}

/* Empty tokens are passed over. */
static int load_token(const json_t *json, const struct vocab *vocab,
	const struct normalizer *normalizer, struct normalizer_scratch *scratch, struct added *a)
{
	struct added_token t = {0};
	int r = load_text(json, &t);

	if (r == 0 && t.bytes > 0)
		r = load_flags(json, &t);
	if (r == 0 && t.bytes > 0)
		r = check_id(json, vocab, a, &t);
	if (r == 0 && t.bytes > 0)
		r = make_pattern(&t, normalizer, scratch);
	if (r < 0 || t.bytes == 0) {
		free(t.text);
		return r;
	}
	if (t.id >= a->n_ids)
		a->n_ids = t.id + 1;
	a->tokens[a->n++] = t;
	return 0;
}

static int compare_patterns(const void *a, const void *b)
{
	const struct added_token *x = *(const struct added_token *const *)a;
	const struct added_token *y = *(const struct added_token *const *)b;
	size_t n = x->pattern_bytes < y->pattern_bytes ? x->pattern_bytes : y->pattern_bytes;
	int order = memcmp(x->pattern, y->pattern, n);

	if (order == 0)
		order = (x->pattern_bytes > y->pattern_bytes) -
			(x->pattern_bytes < y->pattern_bytes);
	return order != 0 ? order : (x > y) - (x < y);
}

static int compare_ids(const void *a, const void *b)
{
	const struct added_token *x = *(const struct added_token *const *)a;
	const struct added_token *y = *(const struct added_token *const *)b;

	return (x->id > y->id) - (x->id < y->id);
}

static int check_twins(const struct added_set *set)
{
	for (uint32_t i = 1; i < set->n; i++) {
		const struct added_token *a = set->sorted[i - 1], *b = set->sorted[i];

		if (span_equal(span_of(a->pattern, a->pattern_bytes),
			    span_of(b->pattern, b->pattern_bytes)))
			return text_fail(-EINVAL,
				WHERE ": '%s' and '%s' are looked for as the "
				      "same text",
				a->text, b->text);
	}
	return 0;
}

static int make_set(const struct added *a, bool normalized, struct added_set *set)
{
	set->sorted = malloc((a->n + 1u) * sizeof(*set->sorted));
	if (set->sorted == NULL)
		return text_no_memory();
	for (uint32_t i = 0; i < a->n; i++)
		if (a->tokens[i].normalized == normalized)
			set->sorted[set->n++] = &a->tokens[i];
	qsort(set->sorted, set->n, sizeof(*set->sorted), compare_patterns);
	for (uint32_t i = 0; i < set->n; i++)
		set->first[(unsigned char)set->sorted[i]->pattern[0] + 1]++;
	for (uint32_t b = 0; b < 256; b++)
		set->first[b + 1] += set->first[b];
	return check_twins(set);
}

static int make_index(struct added *a)
{
	a->by_id = malloc((a->n + 1u) * sizeof(*a->by_id));
	if (a->by_id == NULL)
		return text_no_memory();
	for (uint32_t i = 0; i < a->n; i++)
		a->by_id[i] = &a->tokens[i];
	qsort(a->by_id, a->n, sizeof(*a->by_id), compare_ids);
	for (uint32_t i = 1; i < a->n; i++)
		if (a->by_id[i]->id == a->by_id[i - 1]->id)
			return text_fail(-EINVAL, WHERE ": '%s' is there twice", a->by_id[i]->text);
	return pattern_create_native(WORD, &a->word);
}

int added_load(const json_t *json, const struct vocab *vocab, const struct normalizer *normalizer,
	struct normalizer_scratch *scratch, struct added *ret_added)
{
	struct added *a = ret_added;
	int r = 0;

	*a = (struct added){.n_ids = vocab->n_ids};
	if (json != NULL && !json_is_null(json) && !json_is_array(json))
		return text_fail(-EINVAL, WHERE " is not an array");
	size_t n = json_array_size(json);
	if (n > TOKENS_MAX)
		return text_fail(-EFBIG, WHERE " has more than %u tokens", TOKENS_MAX);
	a->tokens = calloc(n + 1, sizeof(*a->tokens));
	if (a->tokens == NULL)
		return text_no_memory();
	for (size_t i = 0; r == 0 && i < n; i++)
		r = load_token(json_array_get(json, i), vocab, normalizer, scratch, a);
	if (r == 0)
		r = make_set(a, false, &a->plain);
	if (r == 0)
		r = make_set(a, true, &a->normalized);
	return r < 0 ? r : make_index(a);
}

void added_finish(struct added *added)
{
	for (uint32_t i = 0; i < added->n; i++) {
		free(added->tokens[i].text);
		free(added->tokens[i].pattern);
	}
	free(added->tokens);
	free(added->by_id);
	free(added->plain.sorted);
	free(added->normalized.sorted);
	pattern_destroy(added->word);
}

const struct added_token *added_by_id(const struct added *added, uint32_t id)
{
	uint32_t low = 0, high = added->n;

	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if (added->by_id[middle]->id == id)
			return added->by_id[middle];
		if (added->by_id[middle]->id < id)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

const struct added_token *added_by_text(const struct added *added, struct span text)
{
	for (uint32_t i = 0; i < added->n; i++)
		if (span_equal(span_of(added->tokens[i].text, added->tokens[i].bytes), text))
			return &added->tokens[i];
	return NULL;
}

/* --- Literal parts --------------------------------------------------------------------------- */

bool literal_touches(const struct literal_parts *literal, size_t start, size_t end)
{
	for (size_t i = 0; i < literal->n; i++)
		if (literal->parts[i].start < end && start < literal->parts[i].end)
			return true;
	return false;
}

/* --- Finding --------------------------------------------------------------------------------- */

/* First of sorted[low..high) whose byte at `depth`, which all of them have, is at least `byte`. */
static uint32_t lower_bound(
	const struct added_set *set, uint32_t low, uint32_t high, size_t depth, unsigned int byte)
{
	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if ((unsigned char)set->sorted[middle]->pattern[depth] < byte)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* The longest token that the text starts with, or NULL. */
static const struct added_token *longest(const struct added_set *set, struct span text)
{
	unsigned char byte = (unsigned char)text.data[0];
	uint32_t low = set->first[byte], high = set->first[byte + 1];
	const struct added_token *best = NULL;

	for (size_t depth = 1; low < high; depth++) {
		if (set->sorted[low]->pattern_bytes == depth)
			best = set->sorted[low++];
		if (depth == text.n)
			break;
		byte = (unsigned char)text.data[depth];
		low = lower_bound(set, low, high, depth, byte);
		high = lower_bound(set, low, high, depth, byte + 1u);
	}
	return best;
}

/* Whether the character at `at` belongs to a word: 1, 0, or a negative error. */
static int is_word(const struct added_walk *w, size_t at)
{
	struct span character = span_of(w->text.data + at, utf8_length(w->text.data[at]));
	size_t start, end;

	return pattern_find(w->added->word, w->matcher, character, 0, &start, &end);
}

/* 1 when no word goes on at either end, 0 when one does. */
static int stands_alone(const struct added_walk *w, size_t start, size_t end)
{
	int before = start == 0 ? 0 : is_word(w, utf8_previous(w->text.data, start));
	int after = end == w->text.n ? 0 : is_word(w, end);

	if (before < 0 || after < 0)
		return before < 0 ? before : after;
	return !before && !after;
}

/* Takes spaces into the match, as far as the match before has not. */
static void widen(struct added_walk *w, const struct added_token *t, size_t *start, size_t *end)
{
	struct span before = span_of(w->text.data + w->given, *start - w->given);
	struct span after = span_of(w->text.data + *end, w->text.n - *end);

	if (t->lstrip && *start > w->given)
		*start -= space_at_end(before);
	if (!t->rstrip)
		return;
	/* A run of spaces that was measured before is not measured again. */
	if (*end >= w->space_end)
		w->space_end = *end + space_at_start(after);
	*end = w->space_end;
}

/* Finds the next token that counts. 1, 0 when there is none, or a negative error. */
static int find(struct added_walk *w, const struct added_token **ret_token, size_t *ret_start,
	size_t *ret_end)
{
	while (w->searched < w->text.n) {
		size_t at = w->searched;
		unsigned char byte = (unsigned char)w->text.data[at];
		const struct added_token *t = NULL;

		if (w->set->first[byte] != w->set->first[byte + 1])
			t = longest(w->set, span_of(w->text.data + at, w->text.n - at));
		w->searched += t == NULL ? 1 : t->pattern_bytes;
		if (t == NULL || (t->special && literal_touches(&w->literal, at, w->searched)))
			continue;
		int alone = t->single_word ? stands_alone(w, at, w->searched) : 1;
		if (alone < 0)
			return alone;
		if (alone == 0)
			continue;
		*ret_token = t;
		*ret_start = at;
		*ret_end = w->searched;
		widen(w, t, ret_start, ret_end);
		return 1;
	}
	return 0;
}

static int give(struct added_walk *w, const struct added_token *token, size_t end)
{
	w->token = token;
	w->start = w->given;
	w->end = w->given = end;
	return 1;
}

int added_next(struct added_walk *walk)
{
	const struct added_token *token = walk->waiting;
	size_t start, end;

	if (token != NULL) {
		walk->waiting = NULL;
		return give(walk, token, walk->waiting_end);
	}
	int r = walk->set->n == 0 ? 0 : find(walk, &token, &start, &end);
	if (r < 0)
		return r;
	if (r == 0)
		return walk->given < walk->text.n ? give(walk, NULL, walk->text.n) : 0;
	if (start <= walk->given)
		return give(walk, token, end);
	walk->waiting = token;
	walk->waiting_end = end;
	return give(walk, NULL, start);
}
