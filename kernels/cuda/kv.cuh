/* SPDX-License-Identifier: MIT */
/* kv.cuh: the paged cache (kernels/kv.h) in CUDA. */
#ifndef GPUQ_KERNELS_CUDA_KV_CUH
#define GPUQ_KERNELS_CUDA_KV_CUH

#include "kernels/cuda/arg.cuh"

extern "C" {
#include "kernels/kv.h"
}

struct kv_shape {
	uint64_t sequences, length;	  /* of the table */
	uint64_t blocks, groups, columns; /* of the cache */
};

static inline struct kv_shape kv_shape_of(const struct tensor *table, const struct tensor *cache)
{
	return (struct kv_shape){
		table->dims[0], table->dims[1], cache->dims[0], cache->dims[2], cache->dims[4]};
}

/* The block of tokens 16 i to 16 i + 15 of a sequence; -1 where there is none. */
static __device__ inline int64_t kv_find(
	const struct kv_shape &shape, const int32_t *table, int32_t row, uint64_t i)
{
	if (row < 0 || (uint64_t)row >= shape.sequences || i >= shape.length)
		return -1;
	const int64_t block = index_at(table, (uint64_t)row * shape.length + i);

	return block < (int64_t)shape.blocks ? block : -1;
}

/* The element where a head's keys or values of 16 tokens begin. */
static __device__ inline uint64_t kv_begin(
	const struct kv_shape &shape, uint64_t block, enum kv_part part, uint64_t group)
{
	return ((block * 2 + part) * shape.groups + group) * KV_TOKENS * shape.columns;
}

#endif
