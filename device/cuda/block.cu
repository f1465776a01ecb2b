/* SPDX-License-Identifier: MIT */
/* block.cu: see block.h; and cuda_signal() of code.h. */
#include "device/cuda/block.h"
#include "device/cuda/signal.cuh"

#include <errno.h>

#define WORDS (sizeof(struct cuda_block) / sizeof(uint64_t))
static_assert(WORDS <= 32, "one warp copies it");

/* Those that come next may read the block as soon as they start, so it lets none start before. */
static __global__ void bring_block(const __grid_constant__ struct cuda_bring bring)
{
	cuda_await();
	if (threadIdx.x < WORDS)
		((uint64_t *)bring.to)[threadIdx.x] = ((const uint64_t *)&bring.block)[threadIdx.x];
	/* That it has ended lets others start; that they see the block takes this. */
	__threadfence();
}

static __global__ void signal_end(const __grid_constant__ struct cuda_completion completion)
{
	cuda_begin();
	cuda_complete(completion);
}

static __global__ void write_astray(uint64_t *nowhere)
{
	*(volatile uint64_t *)nowhere = 1;
}

int cuda_write_astray(cudaStream_t stream)
{
	write_astray<<<1, 1, 0, stream>>>((uint64_t *)sizeof(uint64_t));
	return cuda_error(cudaGetLastError());
}

int cuda_bring(const struct cuda_bring *bring, cudaStream_t stream)
{
	bring_block<<<1, 32, 0, stream>>>(*bring);
	return cuda_error(cudaGetLastError());
}

void cuda_bring_node(
	struct cuda_bring *bring, void **value, struct cudaKernelNodeParams *ret_params)
{
	*value = bring;
	*ret_params = {};
	ret_params->func = (void *)bring_block;
	ret_params->gridDim = dim3(1);
	ret_params->blockDim = dim3(32);
	ret_params->kernelParams = value;
}

int cuda_blank_graph(const struct cuda_target *to, uint32_t nodes, cudaGraph_t *ret_graph,
	cudaGraphNode_t *ret_head)
{
	struct cuda_bring nowhere = {};
	cudaGraph_t graph = NULL;
	void *values[] = {&nowhere};
	size_t count = 1;
	int r = cuda_error(cudaStreamBeginCapture(to->stream, cudaStreamCaptureModeThreadLocal));
	int end;

	if (r < 0)
		return r;
	for (uint32_t i = 0; i < nodes && r == 0; i++)
		r = cuda_run(to, (const void *)bring_block, 1, 32, 0, values);
	end = cuda_error(cudaStreamEndCapture(to->stream, &graph));
	if (r == 0)
		r = end;
	if (r == 0)
		r = cuda_error(cudaGraphGetRootNodes(graph, ret_head, &count));
	if (r == 0)
		*ret_graph = graph;
	else if (graph != NULL)
		cuda_error(cudaGraphDestroy(graph));
	return r;
}

int cuda_signal(const struct cuda_args *args, const struct cuda_target *to)
{
	struct cuda_completion completion = {args->block, args->direct.completion,
		args->direct.value, args->watch, &args->scratch->arrived};
	void *values[] = {&completion};

	return cuda_run(to, (const void *)signal_end, 1, 1, 0, values);
}

int cuda_block_touch(void)
{
	cudaFuncAttributes attributes;
	cudaError_t err = cudaFuncGetAttributes(&attributes, bring_block);

	if (err == cudaSuccess)
		err = cudaFuncGetAttributes(&attributes, signal_end);
	if (err == cudaErrorNoKernelImageForDevice || err == cudaErrorInvalidDeviceFunction) {
		cudaGetLastError();
		return -EOPNOTSUPP;
	}
	return cuda_error(err);
}
