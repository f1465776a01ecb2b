/* SPDX-License-Identifier: MIT */
/* block.cu: see block.h; and cuda_signal() of code.h. */
#include "device/cuda/block.h"
#include "device/cuda/signal.cuh"

#include <errno.h>

/* As struct cuda_bring begins: longer arguments take longer to launch. */
template <uint32_t WORDS> struct bring_words {
	uint64_t *to;
	uint64_t count;
	uint64_t words[WORDS];
};

/* Those that come next may read the block as soon as they start, so it lets none start before. */
template <uint32_t WORDS>
static __global__ void bring_block(const __grid_constant__ struct bring_words<WORDS> bring)
{
	cuda_await();
	for (uint32_t i = threadIdx.x; i < bring.count; i += blockDim.x)
		bring.to[i] = bring.words[i];
	/* That it has ended lets others start; that they see the block takes this. */
	__threadfence();
}

#define SOME_WORDS (CUDA_BLOCK_WORDS + 64) /* carries what a step of one session reads */
#define MOST_WORDS (sizeof(struct cuda_block) / sizeof(uint64_t))
static_assert(sizeof(struct bring_words<MOST_WORDS>) == sizeof(struct cuda_bring), "one layout");

static const struct bring_kernel {
	const void *kernel;
	uint32_t words, threads;
} bring_kernels[] = {
	{(const void *)bring_block<CUDA_BLOCK_WORDS>, CUDA_BLOCK_WORDS, 32},
	{(const void *)bring_block<SOME_WORDS>, SOME_WORDS, 96},
	{(const void *)bring_block<MOST_WORDS>, MOST_WORDS, 256},
};

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
	const struct cuda_target to = {stream, NULL, false};
	void *values[] = {(void *)bring};

	return cuda_run(&to, bring_kernels[0].kernel, 1, bring_kernels[0].threads, 0, values);
}

void cuda_bring_node(
	struct cuda_bring *bring, void **value, struct cudaKernelNodeParams *ret_params)
{
	const struct bring_kernel *k = bring_kernels;

	while (k->words < bring->words)
		k++;
	*value = bring;
	*ret_params = {};
	ret_params->func = (void *)k->kernel;
	ret_params->gridDim = dim3(1);
	ret_params->blockDim = dim3(k->threads);
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
		r = cuda_run(to, bring_kernels[0].kernel, 1, bring_kernels[0].threads, 0, values);
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
	cudaError_t err = cudaFuncGetAttributes(&attributes, signal_end);

	for (const struct bring_kernel &k : bring_kernels)
		if (err == cudaSuccess)
			err = cudaFuncGetAttributes(&attributes, k.kernel);
	if (err == cudaErrorNoKernelImageForDevice || err == cudaErrorInvalidDeviceFunction) {
		cudaGetLastError();
		return -EOPNOTSUPP;
	}
	return cuda_error(err);
}
