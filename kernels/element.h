/* SPDX-License-Identifier: MIT */
/*
 * element.h: one element of a float tensor as a number, for references, tests and the portable
 * forms. Conversions round to nearest, ties to even, keep subnormals, and overflow to infinity.
 */
#ifndef GPUQ_KERNELS_ELEMENT_H
#define GPUQ_KERNELS_ELEMENT_H

#include "shm/gpuq-types.h"

#include <stdbool.h>
#include <string.h>

#define FLOAT_DTYPES \
	(GPUQ_DTYPE_BIT(GPUQ_F32) | GPUQ_DTYPE_BIT(GPUQ_F16) | GPUQ_DTYPE_BIT(GPUQ_BF16))

static inline float float_from_bits(uint32_t bits)
{
	float f;

	memcpy(&f, &bits, sizeof(f));
	return f;
}

static inline uint32_t float_to_bits(float f)
{
	uint32_t bits;

	memcpy(&bits, &f, sizeof(bits));
	return bits;
}

static inline float float_from_f16(uint16_t h)
{
	const uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13;
	/* Moves the exponent to f32's bias and normalises a subnormal, both exactly. */
	uint32_t bits = float_to_bits(float_from_bits(magnitude) * 0x1p112f);

	if (magnitude >= 0x7c00u << 13)
		bits |= 0x7f800000u;
	return float_from_bits(bits | (uint32_t)(h & 0x8000) << 16);
}

static inline uint16_t float_to_f16(float f)
{
	const uint32_t bits = float_to_bits(f);
	const uint32_t magnitude = bits & 0x7fffffffu;
	uint32_t h;

	if (magnitude > 0x7f800000u)
		h = 0x7e00;
	else if (magnitude >= 0x477ff000u) /* 65520, halfway to what would follow 65504 */
		h = 0x7c00;
	else if (magnitude < 0x38800000u) /* subnormal: the last bit of 0.5f has its weight */
		h = float_to_bits(float_from_bits(magnitude) + 0.5f) - float_to_bits(0.5f);
	else
		h = (magnitude + 0xfff + (magnitude >> 13 & 1) - (112u << 23)) >> 13;
	return (uint16_t)(h | (bits >> 16 & 0x8000));
}

/* Element i of data as a double, exactly. dtype is f32, f16 or bf16. */
double element_get(const void *data, uint32_t dtype, uint64_t i);

/* Rounds value once to the dtype (f32, f16 or bf16) and writes element i of data. */
void element_set(void *data, uint32_t dtype, uint64_t i, double value);

#endif
