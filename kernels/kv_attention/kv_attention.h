/* SPDX-License-Identifier: MIT */
/* kv_attention.h: what the forms of kv_attention share. */
#ifndef GPUQ_KERNELS_KV_ATTENTION_KV_ATTENTION_H
#define GPUQ_KERNELS_KV_ATTENTION_KV_ATTENTION_H

#include "kernels/kv_append/kv_append.h"
#include "kernels/paged_attention/paged_attention.h"

/* Its first inputs and parameters are kv_append's, in their order. */
enum { KV_ATTENTION_CONTEXT = APPEND_K_NORM + 1, KV_ATTENTION_INPUTS };
enum { KV_ATTENTION_WINDOW = APPEND_EPS + 1, KV_ATTENTION_PARAMS };
enum kv_attention_output { KV_ATTENTION_Y, KV_ATTENTION_Q, KV_ATTENTION_PARTS };

/* Which input each of paged_attention's is, in their order; q is made of the first. */
static const uint8_t kv_attention_inputs[] = {APPEND_QKV, APPEND_CACHE, APPEND_TABLE,
	APPEND_POSITIONS, APPEND_ROWS, KV_ATTENTION_CONTEXT};

#ifndef __cplusplus

/* The two operators that it is, one after the other: their calls, as far as the call has them. */
struct op_call kv_attention_append(const struct op_call *call);
struct op_call kv_attention_attend(const struct op_call *call);

#endif
#endif
