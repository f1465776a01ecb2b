/* SPDX-License-Identifier: MIT */
/*
 * argmax, the fast form: the maximum of one chunk after the other, then the first place of the
 * greatest in the chunk that had it first.
 */
#include "kernels/greatest.h"
#include "kernels/isa.h"

#define CHUNK 2048 /* elements; stays in the nearest cache until it is searched */

/* The first of n elements that is `value`; 0 when it has changed meanwhile. */
V_INLINE uint64_t find(const char *x, uint64_t n, float value, uint32_t dtype)
{
	for (uint64_t i = 0; i < n; i += VL) {
		const char *at = x + i * v_size(dtype);
		const uint64_t left = n - i < VL ? n - i : VL;
		const vf v =
			left == VL ? v_load(at, dtype) : v_load_tail(at, (uint32_t)left, dtype);

		if (!v_any(v == value))
			continue;
		for (uint32_t lane = 0; lane < left; lane++) {
			if (v[lane] == value)
				return i + lane;
		}
	}
	return 0;
}

V_INLINE void rows(const struct op_call *call, uint64_t begin, uint64_t end, uint32_t dtype)
{
	const uint64_t n = call->in[0].dims[1];
	float *values = call->out[1].dtype != 0 ? call->out[1].data : NULL;
	int32_t *indices = call->out[0].data;

	for (uint64_t row = begin; row < end; row++) {
		const char *x = (const char *)call->in[0].data + row * n * v_size(dtype);
		float greatest = -INFINITY;
		uint64_t from = 0, index = 0;

		for (uint64_t i = 0; i < n; i += CHUNK) {
			const uint64_t left = n - i < CHUNK ? n - i : CHUNK;
			const float max = v_greatest(x + i * v_size(dtype), left, dtype);

			if (max > greatest) {
				greatest = max;
				from = i;
			}
		}
		if (greatest > -INFINITY)
			index = find(x + from * v_size(dtype), n - from < CHUNK ? n - from : CHUNK,
				greatest, dtype);
		indices[row] = (int32_t)(from + index);
		if (values != NULL)
			values[row] = greatest + 0.0f;
	}
}

void ISA_PASTE(argmax_cpu, KERNELS_ISA)(const struct op_call *call, uint64_t begin, uint64_t end)
{
	V_WITH_DTYPE(call->in[0].dtype, rows(call, begin, end, DTYPE));
}
