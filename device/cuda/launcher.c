/* SPDX-License-Identifier: MIT */
/*
 * launcher.c: how kernels are launched one by one. A kernel that comes again and again, with the
 * same grid, gets a launcher of its stream; what comes in between is launched the usual way.
 */
#include "device/cuda/module.h"

#define MISSES 3u /* a launcher is set to the third kernel in a row that is another */

int cuda_launchers_create(struct cuda_launcher *launchers, cudaStream_t stream)
{
	const struct cuda_target to = {.stream = stream};
	int r = 0;

	for (uint32_t i = 0; i < CUDA_LAUNCHERS && r == 0; i++) {
		struct cuda_launcher *l = &launchers[i];

		r = cuda_blank_graph(&to, 1, &l->graph, &l->node);
		if (r == 0)
			r = cuda_error(cudaGraphInstantiate(&l->exec, l->graph, 0));
		if (r == 0)
			r = cuda_error(cudaGraphUpload(l->exec, stream));
	}
	return r < 0 ? r : cuda_error(cudaStreamSynchronize(stream));
}

void cuda_launchers_free(struct cuda_launcher *launchers)
{
	for (uint32_t i = 0; i < CUDA_LAUNCHERS; i++) {
		if (launchers[i].exec != NULL)
			cuda_error(cudaGraphExecDestroy(launchers[i].exec));
		if (launchers[i].graph != NULL)
			cuda_error(cudaGraphDestroy(launchers[i].graph));
	}
}

/* The launcher that is set to the kernel; NULL: none, and it is not time yet to set one. */
static struct cuda_launcher *find(
	struct cuda_launcher *launchers, const struct cudaKernelNodeParams *params)
{
	const uint32_t blocks = params->gridDim.x, threads = params->blockDim.x;
	const uint64_t hash = (((uintptr_t)params->func >> 4) ^ ((uint64_t)blocks << 20)) *
		UINT64_C(0x9e3779b97f4a7c15);
	struct cuda_launcher *l = &launchers[hash >> 62];

	_Static_assert(CUDA_LAUNCHERS == 4, "two bits of the hash");
	if (l->kernel == params->func && l->blocks == blocks && l->threads == threads &&
		l->shared_bytes == params->sharedMemBytes) {
		l->misses = 0;
		return l;
	}
	if (++l->misses < MISSES)
		return NULL;
	l->misses = 0;
	l->kernel = params->func;
	l->blocks = blocks;
	l->threads = threads;
	l->shared_bytes = params->sharedMemBytes;
	return l;
}

/* In a recording; nodes behind one another, or behind what is no kernel, are then as ever. */
static int launch_programmatic(cudaStream_t stream, const struct cudaKernelNodeParams *params)
{
	cudaLaunchAttribute attribute = {.id = cudaLaunchAttributeProgrammaticStreamSerialization,
		.val.programmaticStreamSerializationAllowed = 1};
	const cudaLaunchConfig_t config = {.gridDim = params->gridDim,
		.blockDim = params->blockDim,
		.dynamicSmemBytes = params->sharedMemBytes,
		.stream = stream,
		.attrs = &attribute,
		.numAttrs = 1};

	return cuda_error(cudaLaunchKernelExC(&config, params->func, params->kernelParams));
}

int cuda_run(const struct cuda_target *to, const void *kernel, uint32_t blocks, uint32_t threads,
	uint32_t shared_bytes, void **args)
{
	const struct cudaKernelNodeParams params = {.func = (void *)kernel,
		.gridDim = {blocks, 1, 1},
		.blockDim = {threads, 1, 1},
		.sharedMemBytes = shared_bytes,
		.kernelParams = args};
	struct cuda_launcher *l = NULL;
	int r;

	if (to->programmatic)
		return launch_programmatic(to->stream, &params);
	if (to->launchers != NULL)
		l = find(to->launchers, &params);
	if (l == NULL)
		return cuda_error(cudaLaunchKernel(
			kernel, params.gridDim, params.blockDim, args, shared_bytes, to->stream));
	r = cuda_error(cudaGraphExecKernelNodeSetParams(l->exec, l->node, &params));
	if (r < 0) {
		l->kernel = NULL;
		return r;
	}
	return cuda_error(cudaGraphLaunch(l->exec, to->stream));
}
