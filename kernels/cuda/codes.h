/* SPDX-License-Identifier: MIT */
/* codes.h: the operators' forms for CUDA, each in its folder's NAME_cuda.cu. */
#ifndef GPUQ_KERNELS_CUDA_CODES_H
#define GPUQ_KERNELS_CUDA_CODES_H

#include "device/cuda/code.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const struct cuda_code gemv_batched_cuda;
extern const struct cuda_code softmax_cuda;
extern const struct cuda_code price_vectors_cuda;
extern const struct cuda_code embedding_cuda;
extern const struct cuda_code rmsnorm_cuda;
extern const struct cuda_code rope_cuda;
extern const struct cuda_code swiglu_cuda;
extern const struct cuda_code argmax_cuda;
extern const struct cuda_code step_result_cuda;
extern const struct cuda_code sample_cuda;
extern const struct cuda_code linear_cuda;
extern const struct cuda_code kv_append_cuda;
extern const struct cuda_code paged_attention_cuda;
extern const struct cuda_code kv_attention_cuda;

#ifdef __cplusplus
}
#endif
#endif
