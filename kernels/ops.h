/* SPDX-License-Identifier: MIT */
/* ops.h: the operators by name. Each is described in its folder's NAME.c. */
#ifndef GPUQ_KERNELS_OPS_H
#define GPUQ_KERNELS_OPS_H

#include "kernels/op.h"

extern const struct op op_gemv_batched;
extern const struct op op_softmax;
extern const struct op op_price_vectors;
extern const struct op op_embedding;
extern const struct op op_rmsnorm;
extern const struct op op_linear;
extern const struct op op_rope;
extern const struct op op_swiglu;
extern const struct op op_argmax;
extern const struct op op_step_result;
extern const struct op op_sample;
extern const struct op op_kv_append;
extern const struct op op_paged_attention;
extern const struct op op_kv_attention;

#endif
