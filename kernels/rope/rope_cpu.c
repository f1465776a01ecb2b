/* SPDX-License-Identifier: MIT */
/*
 * rope, the fast form: the frequencies of TURN_PAIRS pairs once, for each position their cosines
 * and sines, and with these all heads.
 */
#include "kernels/isa.h"
#include "kernels/rope/rope.h"
#include "kernels/rope/turn.h"
#include "shm/atomics.h"

V_INLINE void positions(const struct op_call *call, uint64_t begin, uint64_t end, uint32_t dtype,
	uint32_t out_dtype)
{
	const uint64_t heads = call->in[0].dims[1], columns = call->in[0].dims[2];
	const uint64_t half = columns / 2;
	const char *x = call->in[0].data;
	char *y = call->out[0].data;
	double frequencies[TURN_PAIRS];
	struct turns turns = {0};

	for (uint64_t from = 0; from < half; from += TURN_PAIRS) {
		const uint64_t n = half - from < TURN_PAIRS ? half - from : TURN_PAIRS;

		for (uint64_t i = 0; i < n; i++)
			frequencies[i] = rope_frequency(call->params, from + i, columns);
		for (uint64_t t = begin; t < end; t++) {
			/* Once: it may change. */
			const uint32_t *position = (const uint32_t *)call->in[1].data + t;

			turns_fill(&turns, frequencies, n, (int32_t)shm_load_relaxed_u32(position));
			for (uint64_t h = t * heads; h < (t + 1) * heads; h++) {
				const uint64_t at = h * columns + from;

				turn(y + at * v_size(out_dtype), x + at * v_size(dtype), &turns, n,
					half, dtype, out_dtype);
			}
		}
	}
}

void ISA_PASTE(rope_cpu, KERNELS_ISA)(const struct op_call *call, uint64_t begin, uint64_t end)
{
	const bool wide = call->out[0].dtype == GPUQ_F32;

	V_WITH_DTYPE(
		call->in[0].dtype, positions(call, begin, end, DTYPE, wide ? GPUQ_F32 : DTYPE));
}
