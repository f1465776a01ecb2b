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

/* Of kv_append, and the first ones of whoever appends as it does. */
#define APPEND_INPUTS                                                             \
	[APPEND_QKV] = {"qkv", "[N,(H+2G)D]", GPUQ_DTYPE_BIT(GPUQ_F32)},          \
	[APPEND_POSITIONS] = {"positions", "[N]", GPUQ_DTYPE_BIT(GPUQ_I32)},      \
	[APPEND_ROWS] = {"rows", "[N]", GPUQ_DTYPE_BIT(GPUQ_I32)},                \
	[APPEND_TABLE] = {"table", "[S,L]", GPUQ_DTYPE_BIT(GPUQ_I32)},            \
	[APPEND_CACHE] = {"cache", "[P,2,G,16,D]", FLOAT_DTYPES, .in_out = true}, \
	[APPEND_Q_NORM] = {"q_norm", "[D]", FLOAT_DTYPES, .optional = true},      \
	[APPEND_K_NORM] = {"k_norm", "[D]", FLOAT_DTYPES, .optional = true}
#define APPEND_PARAMS                                                               \
	ROPE_PARAMS,                                                                \
		[APPEND_EPS] = {"eps", "of the norms: keeps heads of zeros finite", \
			GPUQ_PARAM_F64, 1e-5, 1e-12, 1}

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
