/* SPDX-License-Identifier: MIT */
/*
 * kv_blocks.h: the blocks of a pool, under the sessions (kv.c). A block is
 *
 *	free       in the list `free`: nobody's, holds nothing
 *	private    refs > 0, not shared: the last one of a table, or not yet committed
 *	shared     in the tree; refs > 0, or refs == 0 and in the list `cached`
 *
 * The tree: a shared block's parent is the shared block that stands before it, or none. Whoever
 * has a block has its parent, and lets go of it after the block. So a parent comes later in
 * `cached` than its children, and what is evicted has no children.
 */
#ifndef GPUQ_MODELS_KV_BLOCKS_H
#define GPUQ_MODELS_KV_BLOCKS_H

#include "models/kv.h"

struct kv_block {
	uint32_t refs;
	uint32_t prev, next; /* in a list */
	uint32_t chain;	     /* the next one in its bucket */
	uint32_t parent, children;
	bool shared;
	uint64_t salt;
	int32_t tokens[KV_BLOCK_TOKENS]; /* of a shared block */
};

struct kv_list {
	uint32_t head, tail, count;
};

/* The account of a user. */
struct kv_user {
	uint64_t salt;
	uint32_t sessions; /* open ones; 0: the place is free */
	uint32_t used_blocks;
};

struct kv_pool {
	struct kv_options options;
	struct kv_block *blocks;
	uint32_t *buckets; /* first block of each */
	uint32_t bucket_mask;
	uint64_t hash_key[2]; /* nobody outside knows which prompts share a bucket */
	struct kv_list free, cached;
	uint64_t appended_tokens, shared_tokens, evictions, preemptions, releases;
	uint32_t sessions; /* open ones */
	struct kv_session *slots, *unused;
	int32_t *tokens;       /* of all slots */
	uint32_t *tables;      /* likewise */
	struct kv_user *users; /* [max_sessions] */
};

/* Makes the slots of sessions; -ENOMEM. kv_sessions_destroy() frees what there is of them. */
int kv_sessions_create(struct kv_pool *pool);
void kv_sessions_destroy(struct kv_pool *pool);

/* Blocks that can be taken now. */
static inline uint32_t kv_available(const struct kv_pool *pool)
{
	return pool->free.count + pool->cached.count;
}

/* A private block with one reference. One is available. */
uint32_t kv_block_take(struct kv_pool *pool);

void kv_block_ref(struct kv_pool *pool, uint32_t block);
void kv_block_unref(struct kv_pool *pool, uint32_t block);

/* The shared block with these tokens after `parent` (KV_NONE: first of a session), or KV_NONE. */
uint32_t kv_block_find(
	const struct kv_pool *pool, uint64_t salt, uint32_t parent, const int32_t *tokens);

/* Puts a private block into the tree, where no equal one is. */
void kv_block_share(struct kv_pool *pool, uint32_t block, uint64_t salt, uint32_t parent,
	const int32_t *tokens);

/* Takes a block without children out of the tree. */
void kv_block_unshare(struct kv_pool *pool, uint32_t block);

#endif
