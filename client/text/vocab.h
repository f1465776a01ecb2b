/* SPDX-License-Identifier: MIT */
/* vocab.h: the model's vocabulary: from texts to ids and back. */
#ifndef GPUQ_TEXT_VOCAB_H
#define GPUQ_TEXT_VOCAB_H

#include "client/text/json.h"

#define VOCAB_IDS_MAX (4u << 20) /* ids are below this */

struct vocab_entry {
	uint32_t offset; /* in `text`; NO_ID: no token has this id */
	uint32_t bytes;
};

struct vocab {
	uint32_t n_ids;	   /* one more than the greatest */
	uint32_t n_tokens; /* there may be gaps */
	struct vocab_entry *entries;
	struct bytes text;
	uint32_t *slots; /* hash table of ids, NO_ID where free */
	uint32_t mask;
	uint64_t seed;
};

/* Reads the object "vocab". Finish it either way. -EINVAL, -EFBIG, -ENOMEM. */
int vocab_load(const json_t *json, struct vocab *ret_vocab);
void vocab_finish(struct vocab *vocab);

/* The id of a token, or NO_ID. */
uint32_t vocab_find(const struct vocab *vocab, struct span text);

/* The text of a token; data is NULL when no token has the id. */
struct span vocab_text(const struct vocab *vocab, uint32_t id);

/* A hash of a few bytes. Nobody who does not know the seed can make many texts meet. */
static inline uint64_t text_hash(uint64_t seed, struct span s)
{
	uint64_t h = seed ^ s.n;
	size_t at = 0;
	uint64_t word;

	for (; at + sizeof(word) <= s.n; at += sizeof(word)) {
		memcpy(&word, s.data + at, sizeof(word));
		h = (h ^ word) * 0x9e3779b97f4a7c15ull;
		h ^= h >> 32;
	}
	word = 0;
	memcpy(&word, s.data + at, s.n - at);
	h = (h ^ word) * 0x9e3779b97f4a7c15ull;
	return h ^ h >> 29;
}

/* A seed for text_hash(). */
uint64_t text_hash_seed(void);

#endif
