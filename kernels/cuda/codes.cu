/* SPDX-License-Identifier: MIT */
/* What the module for CUDA can run, and what all of it asks about the machine. */
#include "kernels/cuda/codes.h"
#include "kernels/cuda/machine.h"

extern "C" const struct cuda_code *const cuda_codes[] = {
	&gemv_batched_cuda,
	&softmax_cuda,
	&price_vectors_cuda,
	&embedding_cuda,
	&rmsnorm_cuda,
	&rope_cuda,
	&swiglu_cuda,
	&argmax_cuda,
	&step_result_cuda,
	&sample_cuda,
	&linear_cuda,
	&kv_append_cuda,
	&paged_attention_cuda,
	&kv_attention_cuda,
};
extern "C" const uint32_t cuda_codes_count = sizeof(cuda_codes) / sizeof(cuda_codes[0]);

static uint32_t processors = 1, shared_bytes;

int machine_touch(void)
{
	const struct {
		enum cudaDeviceAttr attribute;
		uint32_t *value;
	} asked[] = {{cudaDevAttrMultiProcessorCount, &processors},
		{cudaDevAttrMaxSharedMemoryPerBlockOptin, &shared_bytes}};
	int device, value;
	cudaError_t err = cudaGetDevice(&device);

	for (uint32_t i = 0; i < sizeof(asked) / sizeof(asked[0]) && err == cudaSuccess; i++) {
		err = cudaDeviceGetAttribute(&value, asked[i].attribute, device);
		if (err == cudaSuccess)
			*asked[i].value = (uint32_t)value;
	}
	return cuda_error(err);
}

uint32_t machine_processors(void)
{
	return processors;
}

uint32_t machine_shared_bytes(void)
{
	return shared_bytes;
}
