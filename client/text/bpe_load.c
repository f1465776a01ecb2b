/* SPDX-License-Identifier: MIT */
/* bpe_load.c: reads the section "model" and makes the tables that bpe.c works with. */
#include "client/text/bpe.h"

#include <stdio.h>
#include <stdlib.h>

#define WHERE "model"
#define MERGES_MAX (8u << 20)
#define AFFIX_MAX 256		 /* bytes of a prefix, a suffix, the unknown token */
#define METASPACE "\xe2\x96\x81" /* U+2581 */

static uint64_t merge_slot(const struct bpe *bpe, uint64_t pair)
{
	uint64_t h = (pair ^ bpe->vocab.seed) * 0x9e3779b97f4a7c15ull;

	return (h ^ h >> 32) & bpe->merge_mask;
}

const struct merge *bpe_find_merge(const struct bpe *bpe, uint32_t left, uint32_t right)
{
	uint64_t pair = (uint64_t)left << 32 | right;

	for (uint64_t slot = merge_slot(bpe, pair);; slot = (slot + 1) & bpe->merge_mask) {
		const struct merge *m = &bpe->merges[slot];

		if (m->rank == NO_ID)
			return NULL;
		if (m->pair == pair)
			return m;
	}
}

/* A pair that is listed twice has its last rank. */
static void add_merge(struct bpe *bpe, const struct merge *merge)
{
	uint64_t slot = merge_slot(bpe, merge->pair);

	while (bpe->merges[slot].rank != NO_ID && bpe->merges[slot].pair != merge->pair)
		slot = (slot + 1) & bpe->merge_mask;
	bpe->merges[slot] = *merge;
}

static int refuse_merge(size_t rank, const char *why)
{
	return text_fail(-EINVAL, "model: merge %zu %s", rank, why);
}

/* "left right", or ["left", "right"]. */
static int read_merge(const json_t *json, size_t rank, struct span *left, struct span *right)
{
	if (json_is_array(json) && json_array_size(json) == 2 &&
		json_is_string(json_array_get(json, 0)) &&
		json_is_string(json_array_get(json, 1))) {
		const json_t *a = json_array_get(json, 0), *b = json_array_get(json, 1);

		*left = span_of(json_string_value(a), json_string_length(a));
		*right = span_of(json_string_value(b), json_string_length(b));
		return 0;
	}
	if (!json_is_string(json))
		return refuse_merge(rank, "is neither a string nor a pair of strings");
	struct span text = span_of(json_string_value(json), json_string_length(json));
	const char *space = memchr(text.data, ' ', text.n);
	if (space == NULL ||
		memchr(space + 1, ' ', text.n - (size_t)(space + 1 - text.data)) != NULL)
		return refuse_merge(rank, "is not two tokens with a space between them");
	*left = span_of(text.data, (size_t)(space - text.data));
	*right = span_of(space + 1, text.n - left->n - 1);
	return 0;
}

/* Whether the merge joins a U+2581 with what stands before it. */
static bool crosses_metaspace(struct span left, struct span right)
{
	struct span mark = span_of(METASPACE, 3);
	bool ends = left.n >= 3 && memcmp(left.data + left.n - 3, METASPACE, 3) == 0;

	return span_starts_with(right, mark) && !ends;
}

static int load_merge(struct bpe *bpe, const json_t *json, size_t rank, struct bytes *joined)
{
	size_t prefix = bpe->prefix == NULL ? 0 : strlen(bpe->prefix);
	struct span left = {0}, right = {0};
	int r = read_merge(json, rank, &left, &right);

	if (r < 0)
		return r;
	if (right.n < prefix)
		return refuse_merge(rank, "has a right side without the prefix");
	joined->n = 0;
	r = bytes_append(joined, left.data, left.n);
	if (r == 0)
		r = bytes_append(joined, right.data + prefix, right.n - prefix);
	if (r < 0)
		return r;
	uint32_t left_id = vocab_find(&bpe->vocab, left);
	uint32_t right_id = vocab_find(&bpe->vocab, right);
	uint32_t id = vocab_find(&bpe->vocab, bytes_span(joined));
	if (left_id == NO_ID || right_id == NO_ID || id == NO_ID)
		return refuse_merge(rank, "has a token that the vocabulary lacks");
	add_merge(bpe, &(struct merge){(uint64_t)left_id << 32 | right_id, (uint32_t)rank, id});
	bpe->cut_at_metaspace &= !crosses_metaspace(left, right);
	return 0;
}

static int load_merges(struct bpe *bpe, const json_t *list)
{
	size_t n = json_array_size(list), n_slots = 64, rank = 0;
	struct bytes joined = {0};
	const json_t *element;
	int r = bytes_reserve(&joined, 1);

	while (n_slots < 2 * n)
		n_slots *= 2;
	bpe->merge_mask = n_slots - 1;
	bpe->merges = malloc(n_slots * sizeof(*bpe->merges));
	if (r < 0 || bpe->merges == NULL) {
		free(joined.data);
		return text_no_memory();
	}
	memset(bpe->merges, 0xff, n_slots * sizeof(*bpe->merges));
	for (size_t i = 0; r == 0 && i < n; i++) {
		element = json_array_get(list, i);
		/* The first line of an old merges file came along. */
		if (json_is_string(element) &&
			strncmp(json_string_value(element), "#version", 8) == 0)
			continue;
		r = load_merge(bpe, element, rank++, &joined);
	}
	free(joined.data);
	return r;
}

/* A string that may be missing, null or empty: NULL then, unless empty ones are kept. */
static int load_text(const json_t *json, const char *key, bool keep_empty, char **ret_text)
{
	const json_t *value = json_object_get(json, key);
	struct span text;

	if (value == NULL || json_is_null(value))
		return 0;
	int r = json_get_string(json, WHERE, key, &text);
	if (r < 0 || (text.n == 0 && !keep_empty))
		return r;
	if (memchr(text.data, '\0', text.n) != NULL || text.n > AFFIX_MAX)
		return text_fail(-EINVAL, "%s: %s has a zero byte or more than %d bytes", WHERE,
			key, AFFIX_MAX);
	*ret_text = span_copy(text);
	return *ret_text == NULL ? text_no_memory() : 0;
}

static int load_options(const json_t *json, struct bpe *bpe)
{
	int r = load_text(json, "unk_token", true, &bpe->unknown);

	if (r == 0)
		r = load_text(json, "continuing_subword_prefix", false, &bpe->prefix);
	if (r == 0)
		r = load_text(json, "end_of_word_suffix", false, &bpe->suffix);
	if (r == 0)
		r = json_get_bool(json, WHERE, "fuse_unk", false, &bpe->fuse_unknown);
	if (r == 0)
		r = json_get_bool(json, WHERE, "byte_fallback", false, &bpe->byte_fallback);
	if (r == 0)
		r = json_get_bool(json, WHERE, "ignore_merges", false, &bpe->ignore_merges);
	if (r == 0 && json_number_value(json_object_get(json, "dropout")) != 0)
		return text_fail(-ENOTSUP, "model: dropout is not supported: it encodes at random");
	return r;
}

static void find_byte_ids(struct bpe *bpe)
{
	bpe->fallback_whole = true;
	for (unsigned int i = 0; i < 256; i++) {
		struct bytes character = {.data = (char[8]){0}, .capacity = 8};
		char byte = (char)i, token[8];

		byte_alphabet_append(&character, span_of(&byte, 1));
		bpe->byte_ids[i] = vocab_find(&bpe->vocab, bytes_span(&character));
		snprintf(token, sizeof(token), "<0x%02X>", i);
		bpe->fallback_ids[i] = vocab_find(&bpe->vocab, span_of(token, 6));
		bpe->fallback_whole &= bpe->fallback_ids[i] != NO_ID;
	}
}

/*
 * Files of today name the type; those from before that have none, and are of the type whose
 * members they have.
 */
static int check_type(const json_t *json)
{
	const char *type = json_string_value(json_object_get(json, "type"));

	if (!json_is_object(json))
		return text_fail(-EINVAL, "there is no model; is this a tokenizer.json?");
	if (type == NULL && json_object_get(json, "merges") == NULL)
		return text_fail(-ENOTSUP,
			"the model has no type and no merges; only BPE is "
			"supported");
	if (type != NULL && strcmp(type, "BPE") != 0)
		return text_fail(-ENOTSUP, "the model %s is not supported, only BPE is", type);
	return 0;
}

int bpe_load(const json_t *json, bool bytes, struct bpe *ret_bpe)
{
	struct bpe *bpe = ret_bpe;
	const json_t *merges = NULL;

	*bpe = (struct bpe){.bytes = bytes};
	int r = check_type(json);
	if (r == 0)
		r = load_options(json, bpe);
	if (r == 0)
		r = json_get_array(json, WHERE, "merges", MERGES_MAX, &merges);
	if (r == 0)
		r = vocab_load(json_object_get(json, "vocab"), &bpe->vocab);
	if (r < 0)
		return r;
	/* Where a U+2581 is a token of its own and whole words are not looked up. */
	bpe->cut_at_metaspace = !bytes && !bpe->ignore_merges && bpe->prefix == NULL &&
		bpe->suffix == NULL && vocab_find(&bpe->vocab, span_of(METASPACE, 3)) != NO_ID;
	r = load_merges(bpe, merges);
	if (r < 0)
		return r;
	find_byte_ids(bpe);
	bpe->unknown_id = bpe->unknown == NULL
		? NO_ID
		: vocab_find(&bpe->vocab, span_of(bpe->unknown, strlen(bpe->unknown)));
	return 0;
}

void bpe_finish(struct bpe *bpe)
{
	vocab_finish(&bpe->vocab);
	free(bpe->merges);
	free(bpe->prefix);
	free(bpe->suffix);
	free(bpe->unknown);
}
