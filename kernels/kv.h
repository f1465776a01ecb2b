/* SPDX-License-Identifier: MIT */
/*
 * kv.h: the paged cache of keys and values, as the operators see it that write and read it.
 *
 *   cache [P,2,G,16,D]: P blocks of 16 tokens; in each the keys of G heads, then their values,
 *   D columns for each token
 *   table [S,L] i32: the token at position p of sequence s lies in slot p % 16 of block
 *   table[s,p/16]
 *
 * Blocks may be shared, and in any order. Tables, positions and numbers of sequences come from
 * clients and may change while they are read: each is read once and looked at then.
 */
#ifndef GPUQ_KERNELS_KV_H
#define GPUQ_KERNELS_KV_H

#include "kernels/op.h"

#define KV_TOKENS 16
#define KV_MAX_COLUMNS 256

enum kv_part { KV_KEYS, KV_VALUES };

#ifndef __cplusplus /* for CUDA see kernels/cuda/kv.cuh */

#include "shm/atomics.h"

/* 0, or the error for a tensor that is no cache. */
static inline int kv_check_cache(const struct tensor *cache)
{
	const uint64_t *d = cache->dims;

	if (cache->rank != 5)
		return -GPUQ_ERANK;
	if (d[1] != 2 || d[2] == 0 || d[3] != KV_TOKENS || d[4] == 0 || d[4] > KV_MAX_COLUMNS)
		return -GPUQ_ESHAPE;
	return 0;
}

/* 0, or the error for what are no positions or rows of n tokens. */
static inline int kv_check_tokens(const struct tensor *t, uint64_t n)
{
	if (t->rank != 1)
		return -GPUQ_ERANK;
	return t->dims[0] == n ? 0 : -GPUQ_ESHAPE;
}

/* Element i of an i32 tensor. */
static inline int32_t kv_index(const struct tensor *t, uint64_t i)
{
	return (int32_t)shm_load_relaxed_u32((const uint32_t *)t->data + i);
}

/* The block of tokens 16 i to 16 i + 15 of a sequence; -1 where there is none. */
static inline int64_t kv_block(
	const struct tensor *table, const struct tensor *cache, int32_t row, uint64_t i)
{
	int32_t block;

	if (row < 0 || (uint64_t)row >= table->dims[0] || i >= table->dims[1])
		return -1;
	block = kv_index(table, (uint64_t)row * table->dims[1] + i);
	return block >= 0 && (uint64_t)block < cache->dims[0] ? block : -1;
}

/* The element of the cache where a head's keys or values in a block begin. */
static inline uint64_t kv_at(
	const struct tensor *cache, uint64_t block, enum kv_part part, uint64_t head)
{
	const uint64_t *d = cache->dims;

	return ((block * 2 + part) * d[2] + head) * KV_TOKENS * d[4];
}

#endif
#endif
