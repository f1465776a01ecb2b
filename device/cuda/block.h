/* SPDX-License-Identifier: MIT */
/*
 * block.h: the driver's own kernels. The parameter block of a launch travels as the argument of a
 * kernel that is the first node of its executable, set in the node before each launch: that was
 * measured faster than fetching the block from the host's memory (docs/cuda-notes.md).
 */
#ifndef GPUQ_DEVICE_CUDA_BLOCK_H
#define GPUQ_DEVICE_CUDA_BLOCK_H

#include "device/cuda/code.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Leaves the first words of the block on the device: all but what nothing is carried in. */
struct cuda_bring {
	struct cuda_block *to;
	uint64_t words;
	struct cuda_block block;
};
#define CUDA_BLOCK_WORDS (offsetof(struct cuda_block, carried) / sizeof(uint64_t))

int cuda_bring(const struct cuda_bring *bring, cudaStream_t stream);

/*
 * A sequence of kernels that are to be set or updated to others, recorded as `to` says in its
 * stream. What is updated keeps its edges, so they are the same as in other recordings.
 */
int cuda_blank_graph(const struct cuda_target *to, uint32_t nodes, cudaGraph_t *ret_graph,
	cudaGraphNode_t *ret_head);

/* A node's parameters with which it brings this; both are read until the node has been set. */
void cuda_bring_node(
	struct cuda_bring *bring, void **value, struct cudaKernelNodeParams *ret_params);

/* Launches a kernel that writes where nothing is mapped: the end of the context. */
int cuda_write_astray(cudaStream_t stream);

/* Loads the kernels; -EOPNOTSUPP when this module has no code for the device. */
int cuda_block_touch(void);

#ifdef __cplusplus
}
#endif
#endif
