/* SPDX-License-Identifier: MIT */
/*
 * vocab.c: the model's vocabulary. Texts lie one after the other in one array; a hash table with
 * open addressing, at most half full, holds ids.
 */
#include "client/text/vocab.h"

#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#define WHERE "vocab"
#define TEXT_MAX (1u << 30)

uint64_t text_hash_seed(void)
{
	uint64_t seed;

	if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) != sizeof(seed))
		seed = (uint64_t)time(NULL) * 0x9e3779b97f4a7c15ull;
	return seed;
}

static int read_id(const char *token, const json_t *value, uint32_t *ret_id)
{
	json_int_t id = json_integer_value(value);

	if (!json_is_integer(value) || id < 0)
		return text_fail(-EINVAL, WHERE ": the id of '%s' is not a whole number", token);
	if (id >= VOCAB_IDS_MAX)
		return text_fail(-EFBIG, WHERE ": the id of '%s' is %lld; ids are below %u", token,
			(long long)id, VOCAB_IDS_MAX);
	*ret_id = (uint32_t)id;
	return 0;
}

/* Checks all entries and finds the greatest id. */
static int measure(const json_t *json, struct vocab *vocab)
{
	const char *token;
	const json_t *value;

	json_object_foreach((json_t *)json, token, value)
	{
		uint32_t id = NO_ID;
		int r = read_id(token, value, &id);

		if (r < 0)
			return r;
		if (id >= vocab->n_ids)
			vocab->n_ids = id + 1;
		vocab->n_tokens++;
	}
	return 0;
}

static int allocate(struct vocab *vocab)
{
	uint32_t n_slots = 64;

	while (n_slots < 2 * vocab->n_tokens)
		n_slots *= 2;
	vocab->mask = n_slots - 1;
	vocab->slots = malloc(n_slots * sizeof(*vocab->slots));
	vocab->entries = malloc((vocab->n_ids + 1u) * sizeof(*vocab->entries));
	if (vocab->slots == NULL || vocab->entries == NULL)
		return text_no_memory();
	memset(vocab->slots, 0xff, n_slots * sizeof(*vocab->slots));
	memset(vocab->entries, 0xff, (vocab->n_ids + 1u) * sizeof(*vocab->entries));
	return 0;
}

static int add(struct vocab *vocab, uint32_t id, struct span text)
{
	struct vocab_entry *entry = &vocab->entries[id];

	if (entry->offset != NO_ID)
		return text_fail(-EINVAL, WHERE ": two tokens have the id %u: '%.*s', '%s'", id,
			(int)entry->bytes, vocab->text.data + entry->offset, text.data);
	if (vocab->text.n + text.n > TEXT_MAX)
		return text_fail(-EFBIG, WHERE " has more than %u bytes", TEXT_MAX);
	*entry = (struct vocab_entry){.offset = (uint32_t)vocab->text.n, .bytes = (uint32_t)text.n};
	int r = bytes_append(&vocab->text, text.data, text.n);
	if (r < 0)
		return r;
	uint32_t slot = (uint32_t)text_hash(vocab->seed, text) & vocab->mask;
	while (vocab->slots[slot] != NO_ID)
		slot = (slot + 1) & vocab->mask;
	vocab->slots[slot] = id;
	return 0;
}

int vocab_load(const json_t *json, struct vocab *ret_vocab)
{
	struct vocab *vocab = ret_vocab;
	const char *token;
	const json_t *value;

	*vocab = (struct vocab){.seed = text_hash_seed()};
	if (!json_is_object(json))
		return text_fail(-EINVAL, "model: vocab is not an object");
	int r = measure(json, vocab);
	if (r == 0)
		r = allocate(vocab);
	if (r == 0)
		r = bytes_reserve(&vocab->text, 1);
	if (r < 0)
		return r;
	json_object_foreach((json_t *)json, token, value)
	{
		r = add(vocab, (uint32_t)json_integer_value(value), span_of(token, strlen(token)));
		if (r < 0)
			return r;
	}
	return 0;
}

void vocab_finish(struct vocab *vocab)
{
	free(vocab->entries);
	free(vocab->slots);
	free(vocab->text.data);
}

struct span vocab_text(const struct vocab *vocab, uint32_t id)
{
	if (id >= vocab->n_ids || vocab->entries[id].offset == NO_ID)
		return span_of(NULL, 0);
	return span_of(vocab->text.data + vocab->entries[id].offset, vocab->entries[id].bytes);
}

uint32_t vocab_find(const struct vocab *vocab, struct span text)
{
	uint32_t slot = (uint32_t)text_hash(vocab->seed, text) & vocab->mask;

	while (vocab->slots[slot] != NO_ID) {
		if (span_equal(vocab_text(vocab, vocab->slots[slot]), text))
			return vocab->slots[slot];
		slot = (slot + 1) & vocab->mask;
	}
	return NO_ID;
}
