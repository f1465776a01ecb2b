/* SPDX-License-Identifier: MIT */
/*
 * bpe.h: the section "model" of a tokenizer file: byte-pair encoding of one word.
 *
 * A word starts as the ids of its characters. Of all neighbours that may merge, the pair of the
 * lowest rank does, the leftmost of equals, until none is left. Short words look through all pairs
 * each time; long ones keep them in a heap, so that a word of n characters takes n log n steps.
 */
#ifndef GPUQ_TEXT_BPE_H
#define GPUQ_TEXT_BPE_H

#include "client/text/vocab.h"

struct merge {
	uint64_t pair; /* left id << 32 | right id */
	uint32_t rank; /* NO_ID: the slot is free */
	uint32_t id;   /* of the result */
};

struct bpe {
	struct vocab vocab;
	struct merge *merges; /* a hash table by pair */
	uint64_t merge_mask;
	char *prefix, *suffix; /* of characters inside and at the end of a word; NULL: none */
	char *unknown;	       /* NULL: what is not in the vocabulary is left out */
	uint32_t unknown_id;
	bool fuse_unknown, byte_fallback, ignore_merges;
	bool bytes;		    /* words are bytes, tokens are written in the byte alphabet */
	bool cut_at_metaspace;	    /* no merge ever joins what lies before a U+2581 with it */
	bool fallback_whole;	    /* all 256 byte tokens are there */
	uint32_t byte_ids[256];	    /* of characters of the byte alphabet */
	uint32_t fallback_ids[256]; /* of <0x00> to <0xFF> */
};

/* What one thread needs to encode. Zeros, then bpe_scratch_init(). */
struct bpe_scratch {
	struct bytes mapped; /* the word in the byte alphabet */
	struct bytes affixed;
	struct symbol *symbols;
	size_t n_symbols, symbols_capacity;
	struct candidate *heap;
	size_t n_heap, heap_capacity;
	struct cached_word *cache;
	uint64_t seed;
};

/* `bytes` as in struct bpe. Finish it either way. -EINVAL, -ENOTSUP, -EFBIG, -ENOMEM. */
int bpe_load(const json_t *json, bool bytes, struct bpe *ret_bpe);
void bpe_finish(struct bpe *bpe);

int bpe_scratch_init(struct bpe_scratch *scratch);
void bpe_scratch_finish(struct bpe_scratch *scratch);

/* Appends the ids of a word. -EINVAL when it needs an unknown token that is not there, -ENOMEM. */
int bpe_encode(
	const struct bpe *bpe, struct bpe_scratch *scratch, struct span word, struct ids *out);

/* The merge of two ids, or NULL. */
const struct merge *bpe_find_merge(const struct bpe *bpe, uint32_t left, uint32_t right);

#endif
