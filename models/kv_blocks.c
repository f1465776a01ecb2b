/* SPDX-License-Identifier: MIT */
/* kv_blocks.c: lists, references and the tree of shared blocks; see kv_blocks.h. */
#include "models/kv_blocks.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define MAX_BLOCKS (1u << 28)

/* --- Lists ---------------------------------------------------------------------------------- */

static void list_append(struct kv_pool *pool, struct kv_list *list, uint32_t block)
{
	struct kv_block *b = &pool->blocks[block];

	b->prev = list->tail;
	b->next = KV_NONE;
	if (list->tail == KV_NONE)
		list->head = block;
	else
		pool->blocks[list->tail].next = block;
	list->tail = block;
	list->count++;
}

static void list_remove(struct kv_pool *pool, struct kv_list *list, uint32_t block)
{
	const struct kv_block *b = &pool->blocks[block];

	if (b->prev == KV_NONE)
		list->head = b->next;
	else
		pool->blocks[b->prev].next = b->next;
	if (b->next == KV_NONE)
		list->tail = b->prev;
	else
		pool->blocks[b->next].prev = b->prev;
	list->count--;
}

/* --- The tree ------------------------------------------------------------------------------- */

static uint64_t rotate(uint64_t x, unsigned int bits)
{
	return x << bits | x >> (64 - bits);
}

static void sip_round(uint64_t v[4])
{
	v[0] += v[1];
	v[2] += v[3];
	v[1] = rotate(v[1], 13) ^ v[0];
	v[3] = rotate(v[3], 16) ^ v[2];
	v[0] = rotate(v[0], 32);
	v[2] += v[1];
	v[0] += v[3];
	v[1] = rotate(v[1], 17) ^ v[2];
	v[3] = rotate(v[3], 21) ^ v[0];
	v[2] = rotate(v[2], 32);
}

/* SipHash-1-3 (Aumasson and Bernstein): a bucket only, but none that a client could aim at. */
static uint32_t bucket_of(
	const struct kv_pool *pool, uint64_t salt, uint32_t parent, const int32_t *tokens)
{
	uint64_t words[2 + KV_BLOCK_TOKENS / 2] = {salt, parent};
	uint64_t v[4] = {
		pool->hash_key[0] ^ 0x736f6d6570736575,
		pool->hash_key[1] ^ 0x646f72616e646f6d,
		pool->hash_key[0] ^ 0x6c7967656e657261,
		pool->hash_key[1] ^ 0x7465646279746573,
	};

	memcpy(&words[2], tokens, KV_BLOCK_TOKENS * sizeof(*tokens));
	for (unsigned int i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		v[3] ^= words[i];
		sip_round(v);
		v[0] ^= words[i];
	}
	v[2] ^= 0xff;
	for (unsigned int i = 0; i < 3; i++)
		sip_round(v);
	return (uint32_t)(v[0] ^ v[1] ^ v[2] ^ v[3]) & pool->bucket_mask;
}

uint32_t kv_block_find(
	const struct kv_pool *pool, uint64_t salt, uint32_t parent, const int32_t *tokens)
{
	uint32_t block = pool->buckets[bucket_of(pool, salt, parent, tokens)];

	while (block != KV_NONE) {
		const struct kv_block *b = &pool->blocks[block];

		if (b->salt == salt && b->parent == parent &&
			memcmp(b->tokens, tokens, sizeof(b->tokens)) == 0)
			break;
		block = b->chain;
	}
	return block;
}

void kv_block_share(
	struct kv_pool *pool, uint32_t block, uint64_t salt, uint32_t parent, const int32_t *tokens)
{
	struct kv_block *b = &pool->blocks[block];
	uint32_t *bucket = &pool->buckets[bucket_of(pool, salt, parent, tokens)];

	assert(!b->shared && b->refs > 0);
	assert(parent == KV_NONE || pool->blocks[parent].shared);
	b->shared = true;
	b->salt = salt;
	b->parent = parent;
	b->children = 0;
	memcpy(b->tokens, tokens, sizeof(b->tokens));
	b->chain = *bucket;
	*bucket = block;
	if (parent != KV_NONE)
		pool->blocks[parent].children++;
}

void kv_block_unshare(struct kv_pool *pool, uint32_t block)
{
	struct kv_block *b = &pool->blocks[block];
	uint32_t *link = &pool->buckets[bucket_of(pool, b->salt, b->parent, b->tokens)];

	assert(b->shared && b->children == 0);
	while (*link != block)
		link = &pool->blocks[*link].chain;
	*link = b->chain;
	if (b->parent != KV_NONE)
		pool->blocks[b->parent].children--;
	b->shared = false;
}

/* --- References ----------------------------------------------------------------------------- */

uint32_t kv_block_take(struct kv_pool *pool)
{
	struct kv_list *list = pool->free.count > 0 ? &pool->free : &pool->cached;
	uint32_t block = list->head;

	assert(block != KV_NONE && pool->blocks[block].refs == 0);
	list_remove(pool, list, block);
	if (list == &pool->cached) {
		kv_block_unshare(pool, block);
		pool->evictions++;
	}
	pool->blocks[block].refs = 1;
	return block;
}

void kv_block_ref(struct kv_pool *pool, uint32_t block)
{
	struct kv_block *b = &pool->blocks[block];

	if (b->refs == 0)
		list_remove(pool, &pool->cached, block);
	b->refs++;
}

void kv_block_unref(struct kv_pool *pool, uint32_t block)
{
	struct kv_block *b = &pool->blocks[block];

	assert(b->refs > 0);
	if (--b->refs > 0)
		return;
	list_append(pool, b->shared ? &pool->cached : &pool->free, block);
	pool->releases++;
}

uint32_t kv_block_refs(const struct kv_pool *pool, uint32_t block)
{
	assert(block < pool->options.blocks);
	return pool->blocks[block].refs;
}

/* --- The pool ------------------------------------------------------------------------------- */

static int init_blocks(struct kv_pool *pool)
{
	uint32_t n = pool->options.blocks, buckets = 1;

	while (buckets < n)
		buckets *= 2;
	pool->blocks = calloc(n, sizeof(*pool->blocks));
	pool->buckets = malloc(buckets * sizeof(*pool->buckets));
	if (pool->blocks == NULL || pool->buckets == NULL)
		return -ENOMEM;
	if (getrandom(pool->hash_key, sizeof(pool->hash_key), 0) != sizeof(pool->hash_key))
		return -EIO;
	pool->bucket_mask = buckets - 1;
	memset(pool->buckets, 0xff, buckets * sizeof(*pool->buckets));
	for (uint32_t i = 0; i < n; i++)
		list_append(pool, &pool->free, i);
	return 0;
}

int kv_pool_create(const struct kv_options *options, struct kv_pool **ret_pool)
{
	struct kv_pool *pool;
	int err;

	if (options->blocks == 0 || options->blocks > MAX_BLOCKS || options->max_sessions == 0 ||
		options->max_session_tokens == 0 ||
		options->max_session_tokens > UINT32_MAX - KV_BLOCK_TOKENS)
		return -EINVAL;
	pool = calloc(1, sizeof(*pool));
	if (pool == NULL)
		return -ENOMEM;
	pool->options = *options;
	pool->free = (struct kv_list){KV_NONE, KV_NONE, 0};
	pool->cached = pool->free;
	err = init_blocks(pool);
	if (err == 0)
		err = kv_sessions_create(pool);
	if (err < 0) {
		kv_pool_destroy(pool);
		return err;
	}
	*ret_pool = pool;
	return 0;
}

void kv_pool_destroy(struct kv_pool *pool)
{
	if (pool == NULL)
		return;
	assert(pool->sessions == 0);
	kv_sessions_destroy(pool);
	free(pool->blocks);
	free(pool->buckets);
	free(pool);
}

void kv_pool_stats(const struct kv_pool *pool, struct kv_stats *ret_stats)
{
	*ret_stats = (struct kv_stats){
		.blocks = pool->options.blocks,
		.free_blocks = pool->free.count,
		.cached_blocks = pool->cached.count,
		.appended_tokens = pool->appended_tokens,
		.shared_tokens = pool->shared_tokens,
		.evictions = pool->evictions,
		.preemptions = pool->preemptions,
	};
}
