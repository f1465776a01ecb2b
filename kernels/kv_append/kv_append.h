/* SPDX-License-Identifier: MIT */
/* kv_append.h: what the forms of kv_append share. */
#ifndef GPUQ_KERNELS_KV_APPEND_KV_APPEND_H
#define GPUQ_KERNELS_KV_APPEND_KV_APPEND_H

#include "kernels/kv.h"
#include "kernels/rope/rope.h"

enum append_input {
	APPEND_QKV,
	APPEND_POSITIONS,
	APPEND_ROWS,
	APPEND_TABLE,
	APPEND_CACHE,
	APPEND_Q_NORM,
	APPEND_K_NORM,
};

#define APPEND_EPS ROPE_N_PARAMS

#ifndef __cplusplus

/*
 * The element of the cache where the first head's part of a token begins, the next head's follows
 * 16 D further; -1 where it has no place.
 */
static inline int64_t append_slot(const struct op_call *call, int32_t position, int32_t row)
{
	const struct tensor *cache = &call->in[APPEND_CACHE];
	int64_t block;

	if (position < 0)
		return -1;
	block = kv_block(&call->in[APPEND_TABLE], cache, row, (uint64_t)position / KV_TOKENS);
	if (block < 0)
		return -1;
	return (int64_t)(kv_at(cache, (uint64_t)block, KV_KEYS, 0) +
		(uint64_t)position % KV_TOKENS * cache->dims[4]);
}

#endif
#endif
