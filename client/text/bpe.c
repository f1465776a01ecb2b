/* SPDX-License-Identifier: MIT */
/* bpe.c: encodes words: the first symbols, the merging, and a cache of short words. */
#include "client/text/bpe.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#define SYMBOLS_MAX (1u << 30)
#define SHORT_MAX 32 /* symbols of a word that is merged without a heap */
#define METASPACE "\xe2\x96\x81"

/* One piece of the word: a list, in the order of their indices. */
struct symbol {
	uint32_t id;
	uint32_t previous, next; /* NO_ID at the ends */
	bool merged;		 /* into the one before it: no longer in the list */
};

/* A pair that may merge: order by rank, then by place. */
struct candidate {
	uint64_t order; /* rank << 32 | index of the left symbol */
	uint32_t id;
};

/* One cache line. Texts and lengths are compared, so that a collision only costs time. */
#define CACHE_BITS 15
#define CACHED_BYTES 34
#define CACHED_IDS 6
struct cached_word {
	uint32_t check; /* bits of the hash */
	uint8_t bytes;	/* 0: free */
	uint8_t n_ids;
	char text[CACHED_BYTES];
	uint32_t ids[CACHED_IDS];
};
_Static_assert(sizeof(struct cached_word) == 64, "a cached word is one cache line");

int bpe_scratch_init(struct bpe_scratch *scratch)
{
	scratch->seed = text_hash_seed();
	scratch->cache = calloc(1u << CACHE_BITS, sizeof(*scratch->cache));
	return scratch->cache == NULL ? text_no_memory() : 0;
}

void bpe_scratch_finish(struct bpe_scratch *scratch)
{
	free(scratch->mapped.data);
	free(scratch->affixed.data);
	free(scratch->symbols);
	free(scratch->heap);
	free(scratch->cache);
}

/* --- The first symbols ----------------------------------------------------------------------- */

static inline void add_symbol(struct bpe_scratch *s, uint32_t id)
{
	uint32_t at = (uint32_t)s->n_symbols++;

	assert(at < s->symbols_capacity);
	s->symbols[at] = (struct symbol){.id = id, .previous = at - 1, .next = at + 1};
}

/* Unknown characters are kept back until it is clear whether the next is unknown too. */
static void flush_unknown(struct bpe_scratch *s, uint32_t *unknown)
{
	if (*unknown != NO_ID)
		add_symbol(s, *unknown);
	*unknown = NO_ID;
}

static int add_unknown(const struct bpe *bpe, struct bpe_scratch *s, uint32_t *unknown)
{
	if (bpe->unknown == NULL)
		return 0;
	if (bpe->unknown_id == NO_ID)
		return text_fail(-EINVAL,
			"a character is not in the vocabulary, nor is its unk_token '%s'",
			bpe->unknown);
	if (!bpe->fuse_unknown)
		flush_unknown(s, unknown);
	*unknown = bpe->unknown_id;
	return 0;
}

/* A character that is no token: as tokens of its bytes when they all are, else as unknown. */
static int add_missing(
	const struct bpe *bpe, struct bpe_scratch *s, struct span character, uint32_t *unknown)
{
	bool whole = bpe->byte_fallback;

	for (size_t i = 0; whole && !bpe->fallback_whole && i < character.n; i++)
		whole = bpe->fallback_ids[(unsigned char)character.data[i]] != NO_ID;
	if (!whole)
		return add_unknown(bpe, s, unknown);
	/* An unknown that is kept back stays so, and comes after these: as it does elsewhere. */
	for (size_t i = 0; i < character.n; i++)
		add_symbol(s, bpe->fallback_ids[(unsigned char)character.data[i]]);
	return 0;
}

static int append_text(struct bytes *out, const char *text)
{
	return text == NULL ? 0 : bytes_append(out, text, strlen(text));
}

/* The character as the vocabulary writes it inside of, or at the end of, a word. */
static int affix(
	const struct bpe *bpe, struct bpe_scratch *s, struct span *character, bool first, bool last)
{
	int r = 0;

	if (bpe->prefix == NULL && bpe->suffix == NULL)
		return 0;
	s->affixed.n = 0;
	if (!first)
		r = append_text(&s->affixed, bpe->prefix);
	if (r == 0)
		r = bytes_append(&s->affixed, character->data, character->n);
	if (r == 0 && last)
		r = append_text(&s->affixed, bpe->suffix);
	*character = bytes_span(&s->affixed);
	return r;
}

static int add_characters(const struct bpe *bpe, struct bpe_scratch *s, struct span word)
{
	uint32_t unknown = NO_ID;

	for (size_t at = 0, n; at < word.n; at += n) {
		n = utf8_length(word.data[at]);
		struct span character = span_of(word.data + at, n);
		int r = affix(bpe, s, &character, at == 0, at + n == word.n);
		if (r < 0)
			return r;
		uint32_t id = vocab_find(&bpe->vocab, character);
		if (id == NO_ID) {
			r = add_missing(bpe, s, character, &unknown);
			if (r < 0)
				return r;
			continue;
		}
		flush_unknown(s, &unknown);
		add_symbol(s, id);
	}
	flush_unknown(s, &unknown);
	return 0;
}

/* Bytes whose characters all are tokens need no text at all. */
static bool add_bytes(const struct bpe *bpe, struct bpe_scratch *s, struct span word)
{
	if (bpe->prefix != NULL || bpe->suffix != NULL)
		return false;
	for (size_t i = 0; i < word.n; i++) {
		uint32_t id = bpe->byte_ids[(unsigned char)word.data[i]];

		if (id == NO_ID) {
			s->n_symbols = 0;
			return false;
		}
		add_symbol(s, id);
	}
	return true;
}

/* Room for a symbol for each byte, prefixes and the suffix included, and one that is kept back. */
static int reserve_symbols(const struct bpe *bpe, struct bpe_scratch *s, size_t bytes)
{
	size_t prefix = bpe->prefix == NULL ? 0 : strlen(bpe->prefix);
	size_t n = (bpe->bytes ? 2 : 1) * bytes * (1 + prefix) + 1;

	n += bpe->suffix == NULL ? 0 : strlen(bpe->suffix);
	s->n_symbols = 0;
	if (n <= s->symbols_capacity)
		return 0;
	if (n > SYMBOLS_MAX)
		return text_fail(
			-EFBIG, "a word of %zu bytes is too long; encode it in parts", bytes);
	return array_grow((void **)&s->symbols, 0, &s->symbols_capacity, n, sizeof(*s->symbols));
}

static int map_bytes(struct bpe_scratch *s, struct span *word)
{
	s->mapped.n = 0;
	int r = byte_alphabet_append(&s->mapped, *word);
	*word = bytes_span(&s->mapped);
	return r;
}

static int make_symbols(const struct bpe *bpe, struct bpe_scratch *s, struct span word)
{
	int r = reserve_symbols(bpe, s, word.n);

	if (r < 0 || (bpe->bytes && add_bytes(bpe, s, word)))
		return r;
	if (bpe->bytes)
		r = map_bytes(s, &word);
	return r < 0 ? r : add_characters(bpe, s, word);
}

/* --- Merging --------------------------------------------------------------------------------- */

static const struct merge no_merge = {.rank = NO_ID};

static const struct merge *pair_merge(const struct bpe *bpe, const struct symbol *left)
{
	const struct merge *m = bpe_find_merge(bpe, left[0].id, left[1].id);

	return m == NULL ? &no_merge : m;
}

/* The symbols lie side by side and stay so; best[i] is the merge of i and i + 1. */
static void merge_short(const struct bpe *bpe, struct bpe_scratch *s)
{
	const struct merge *best[SHORT_MAX];
	struct symbol *symbols = s->symbols;
	size_t n = s->n_symbols;

	for (size_t i = 0; i + 1 < n; i++)
		best[i] = pair_merge(bpe, symbols + i);
	while (n > 1) {
		size_t at = 0;

		for (size_t i = 1; i + 1 < n; i++)
			if (best[i]->rank < best[at]->rank)
				at = i;
		if (best[at]->rank == NO_ID)
			break;
		symbols[at].id = best[at]->id;
		n--;
		memmove(symbols + at + 1, symbols + at + 2, (n - at - 1) * sizeof(*symbols));
		memmove(best + at, best + at + 1, (n - at - 1) * sizeof(*best));
		if (at > 0)
			best[at - 1] = pair_merge(bpe, symbols + at - 1);
		if (at + 1 < n)
			best[at] = pair_merge(bpe, symbols + at);
	}
	s->n_symbols = n;
}

static void heap_up(struct candidate *heap, size_t at)
{
	struct candidate moving = heap[at];

	while (at > 0 && heap[(at - 1) / 2].order > moving.order) {
		heap[at] = heap[(at - 1) / 2];
		at = (at - 1) / 2;
	}
	heap[at] = moving;
}

static struct candidate heap_take(struct bpe_scratch *s)
{
	struct candidate least = s->heap[0];
	struct candidate moving = s->heap[--s->n_heap];
	size_t at = 0, child;

	while ((child = 2 * at + 1) < s->n_heap) {
		if (child + 1 < s->n_heap && s->heap[child + 1].order < s->heap[child].order)
			child++;
		if (s->heap[child].order >= moving.order)
			break;
		s->heap[at] = s->heap[child];
		at = child;
	}
	s->heap[at] = moving;
	return least;
}

/* The symbol `left` and the one behind it become a candidate if they may merge. */
static void add_candidate(const struct bpe *bpe, struct bpe_scratch *s, uint32_t left)
{
	uint32_t right = left == NO_ID ? NO_ID : s->symbols[left].next;

	if (right == NO_ID)
		return;
	const struct merge *m = bpe_find_merge(bpe, s->symbols[left].id, s->symbols[right].id);
	if (m == NULL)
		return;
	assert(s->n_heap < s->heap_capacity);
	s->heap[s->n_heap] =
		(struct candidate){.order = (uint64_t)m->rank << 32 | left, .id = m->id};
	heap_up(s->heap, s->n_heap++);
}

/* Merges the candidate's symbols, if they still are what it was made for. */
static void merge_candidate(const struct bpe *bpe, struct bpe_scratch *s, struct candidate c)
{
	uint32_t at = (uint32_t)c.order;
	struct symbol *left = &s->symbols[at];

	if (left->merged || left->next == NO_ID)
		return;
	struct symbol *right = &s->symbols[left->next];
	const struct merge *m = bpe_find_merge(bpe, left->id, right->id);
	if (m == NULL || m->id != c.id)
		return;
	left->id = m->id;
	right->merged = true;
	left->next = right->next;
	if (left->next != NO_ID)
		s->symbols[left->next].previous = at;
	add_candidate(bpe, s, left->previous);
	add_candidate(bpe, s, at);
}

static int merge_long(const struct bpe *bpe, struct bpe_scratch *s)
{
	size_t n = s->n_symbols;
	/* Each of n - 1 merges takes a candidate out and puts two in. */
	int r = array_grow((void **)&s->heap, 0, &s->heap_capacity, 2 * n, sizeof(*s->heap));

	if (r < 0)
		return r;
	s->symbols[n - 1].next = NO_ID;
	s->n_heap = 0;
	for (uint32_t i = 0; i < n; i++)
		add_candidate(bpe, s, i);
	while (s->n_heap > 0)
		merge_candidate(bpe, s, heap_take(s));
	s->n_symbols = 0;
	for (uint32_t i = 0; i != NO_ID; i = s->symbols[i].next)
		s->symbols[s->n_symbols++].id = s->symbols[i].id;
	return 0;
}

/* --- Words ----------------------------------------------------------------------------------- */

static int encode_anew(
	const struct bpe *bpe, struct bpe_scratch *s, struct span word, struct ids *out)
{
	int r = make_symbols(bpe, s, word);

	if (r == 0 && s->n_symbols <= SHORT_MAX)
		merge_short(bpe, s);
	else if (r == 0)
		r = merge_long(bpe, s);
	if (r == 0)
		r = ids_reserve(out, s->n_symbols);
	for (size_t i = 0; r == 0 && i < s->n_symbols; i++)
		out->data[out->n++] = s->symbols[i].id;
	return r;
}

/* With ignore_merges a word that is a token is that token, whatever the merges would make. */
static int find_whole(
	const struct bpe *bpe, struct bpe_scratch *s, struct span word, struct ids *out)
{
	int r = bpe->bytes ? map_bytes(s, &word) : 0;
	uint32_t id = r == 0 ? vocab_find(&bpe->vocab, word) : NO_ID;

	if (r < 0 || id == NO_ID)
		return r;
	r = ids_append(out, id);
	return r < 0 ? r : 1;
}

static int encode_uncached(
	const struct bpe *bpe, struct bpe_scratch *s, struct span word, struct ids *out)
{
	int r = bpe->ignore_merges ? find_whole(bpe, s, word, out) : 0;

	if (r != 0)
		return r < 0 ? r : 0;
	return encode_anew(bpe, s, word, out);
}

static int encode_word(
	const struct bpe *bpe, struct bpe_scratch *s, struct span word, struct ids *out)
{
	if (word.n > CACHED_BYTES)
		return encode_uncached(bpe, s, word, out);
	uint64_t hash = text_hash(s->seed, word);
	struct cached_word *c = &s->cache[hash & ((1u << CACHE_BITS) - 1)];
	uint32_t check = (uint32_t)(hash >> 32);
	int r = ids_reserve(out, CACHED_IDS);
	if (r < 0)
		return r;
	if (c->check == check && c->bytes == word.n && memcmp(c->text, word.data, word.n) == 0) {
		for (int i = 0; i < CACHED_IDS; i++) /* a fixed number costs less than a loop */
			out->data[out->n + (size_t)i] = c->ids[i];
		out->n += c->n_ids;
		return 0;
	}
	size_t before = out->n;
	r = encode_uncached(bpe, s, word, out);
	if (r < 0 || out->n - before > CACHED_IDS)
		return r;
	c->check = check;
	c->bytes = (uint8_t)word.n;
	c->n_ids = (uint8_t)(out->n - before);
	memcpy(c->text, word.data, word.n);
	memcpy(c->ids, out->data + before, c->n_ids * sizeof(*c->ids));
	return 0;
}

/* Length of the beginning up to a U+2581 that stands behind something else. */
static size_t metaspace_word(struct span text)
{
	struct span mark = span_of(METASPACE, 3);
	size_t at = 0;

	while (span_starts_with(span_of(text.data + at, text.n - at), mark))
		at += mark.n;
	const char *next = memmem(text.data + at, text.n - at, mark.data, mark.n);
	return next == NULL ? text.n : (size_t)(next - text.data);
}

int bpe_encode(
	const struct bpe *bpe, struct bpe_scratch *scratch, struct span word, struct ids *out)
{
	while (bpe->cut_at_metaspace && word.n > 0) {
		size_t n = metaspace_word(word);
		int r = encode_word(bpe, scratch, span_of(word.data, n), out);

		if (r < 0)
			return r;
		word = span_of(word.data + n, word.n - n);
	}
	return word.n == 0 ? 0 : encode_word(bpe, scratch, word, out);
}
