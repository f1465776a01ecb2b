/* SPDX-License-Identifier: MIT */
/* embedding, the fast form: copies rows, or widens them to f32. */
#include "kernels/isa.h"
#include "kernels/vec.h"
#include "shm/atomics.h"

V_INLINE void widen(float *y, const char *row, uint64_t n, uint32_t dtype)
{
	for (uint64_t i = 0; i < n; i += VL) {
		const char *at = row + i * v_size(dtype);
		const uint64_t left = n - i;

		v_store(y + i,
			left >= VL ? v_load(at, dtype) : v_load_tail(at, (uint32_t)left, dtype),
			left, GPUQ_F32);
	}
}

void ISA_PASTE(embedding_cpu, KERNELS_ISA)(const struct op_call *call, uint64_t begin, uint64_t end)
{
	const struct tensor *table = &call->in[1], *y = &call->out[0];
	const uint32_t *tokens = call->in[0].data;
	const uint64_t n = table->dims[1];
	const uint64_t in_bytes = n * v_size(table->dtype), out_bytes = n * v_size(y->dtype);

	for (uint64_t i = begin; i < end; i++) {
		/* Once: it may change. */
		const uint32_t token = shm_load_relaxed_u32(&tokens[i]);
		const bool known = token <= INT32_MAX && token < table->dims[0];
		const char *row = (const char *)table->data + (known ? token * in_bytes : 0);
		char *to = (char *)y->data + i * out_bytes;

		if (!known)
			memset(to, 0, out_bytes);
		else if (table->dtype == y->dtype)
			memcpy(to, row, out_bytes);
		else if (table->dtype == GPUQ_F16)
			widen((float *)to, row, n, GPUQ_F16);
		else
			widen((float *)to, row, n, GPUQ_BF16);
	}
}
