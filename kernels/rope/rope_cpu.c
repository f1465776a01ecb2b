/* SPDX-License-Identifier: MIT */
/*
 * rope, the fast form: the frequencies of PAIRS pairs once, for each position their cosines and
 * sines, and with these all heads.
 */
#include "kernels/isa.h"
#include "kernels/rope/rope.h"
#include "kernels/vec.h"
#include "shm/atomics.h"

#include <math.h>

#define PAIRS 256 /* a multiple of every VL */

struct turns {
	float cosines[PAIRS], sines[PAIRS];
};

static void turns_fill(struct turns *turns, const double *frequencies, uint64_t n, int32_t position)
{
	for (uint64_t i = 0; i < n; i++) {
		turns->cosines[i] = (float)cos(position * frequencies[i]);
		turns->sines[i] = (float)sin(position * frequencies[i]);
	}
}

/* Pairs of which the first elements are at x, the second ones half a head further. */
V_INLINE void turn(char *y, const char *x, const struct turns *turns, uint64_t n, uint64_t half,
	uint32_t dtype, uint32_t out_dtype)
{
	const char *right = x + half * v_size(dtype);
	char *y_right = y + half * v_size(out_dtype);

	for (uint64_t i = 0; i < n; i += VL) {
		const uint64_t left = n - i, at = i * v_size(dtype), to = i * v_size(out_dtype);
		const vf c = v_load_floats(turns->cosines + i);
		const vf s = v_load_floats(turns->sines + i);
		const vf a = left >= VL ? v_load(x + at, dtype)
					: v_load_tail(x + at, (uint32_t)left, dtype);
		const vf b = left >= VL ? v_load(right + at, dtype)
					: v_load_tail(right + at, (uint32_t)left, dtype);

		v_store(y + to, v_fma(a, c, -(b * s)), left, out_dtype);
		v_store(y_right + to, v_fma(b, c, a * s), left, out_dtype);
	}
}

V_INLINE void positions(const struct op_call *call, uint64_t begin, uint64_t end, uint32_t dtype,
	uint32_t out_dtype)
{
	const uint64_t heads = call->in[0].dims[1], columns = call->in[0].dims[2];
	const uint64_t half = columns / 2;
	const char *x = call->in[0].data;
	char *y = call->out[0].data;
	double frequencies[PAIRS];
	struct turns turns = {0};

	for (uint64_t from = 0; from < half; from += PAIRS) {
		const uint64_t n = half - from < PAIRS ? half - from : PAIRS;

		for (uint64_t i = 0; i < n; i++)
			frequencies[i] = rope_frequency(call, from + i);
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

	switch (call->in[0].dtype) {
	case GPUQ_F32:
		positions(call, begin, end, GPUQ_F32, GPUQ_F32);
		break;
	case GPUQ_F16:
		positions(call, begin, end, GPUQ_F16, wide ? GPUQ_F32 : GPUQ_F16);
		break;
	default:
		positions(call, begin, end, GPUQ_BF16, wide ? GPUQ_F32 : GPUQ_BF16);
		break;
	}
}
