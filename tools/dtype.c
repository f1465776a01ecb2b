/* SPDX-License-Identifier: MIT */
/* Names, sizes and conversions of element types. */
#include "tools/dtype.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct {
	const char *name;
	size_t bytes;
} dtypes[GPUQ_DTYPE_LAST + 1] = {
	[0] = {"?", 0},
	[GPUQ_F32] = {"f32", 4},
	[GPUQ_F16] = {"f16", 2},
	[GPUQ_BF16] = {"bf16", 2},
	[GPUQ_I8] = {"i8", 1},
	[GPUQ_U8] = {"u8", 1},
	[GPUQ_I32] = {"i32", 4},
	[GPUQ_I64] = {"i64", 8},
};

size_t dtype_bytes(uint32_t dtype)
{
	return dtypes[dtype <= GPUQ_DTYPE_LAST ? dtype : 0].bytes;
}

const char *dtype_text(uint32_t dtype)
{
	return dtypes[dtype <= GPUQ_DTYPE_LAST ? dtype : 0].name;
}

uint32_t dtype_parse(const char *name)
{
	for (uint32_t i = 1; i <= GPUQ_DTYPE_LAST; i++) {
		if (strcmp(name, dtypes[i].name) == 0)
			return i;
	}
	return 0;
}

const char *dtype_mask_text(uint32_t mask, char *text, size_t size)
{
	size_t used = 0;

	text[0] = '\0';
	for (uint32_t i = 1; i <= GPUQ_DTYPE_LAST && used < size; i++) {
		if ((mask & GPUQ_DTYPE_BIT(i)) == 0)
			continue;
		int n = snprintf(
			text + used, size - used, "%s%s", used > 0 ? ", " : "", dtypes[i].name);
		used += (size_t)n;
	}
	return text;
}

static uint32_t f32_bits(float value)
{
	uint32_t bits;

	memcpy(&bits, &value, sizeof(bits));
	return bits;
}

static float f32_of_bits(uint32_t bits)
{
	float value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

/* Drops the low `n` bits of v, rounding to nearest and ties to even. */
static uint32_t shift_round(uint32_t v, uint32_t n)
{
	uint32_t rest = v & ((1u << n) - 1), half = 1u << (n - 1);
	uint32_t kept = v >> n;

	return kept + (rest > half || (rest == half && (kept & 1) != 0));
}

uint16_t f16_from_f32(float value)
{
	uint32_t bits = f32_bits(value);
	uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
	uint32_t magnitude = bits & 0x7fffffff;

	if (magnitude > 0x7f800000)
		return sign | 0x7e00;
	if (magnitude >= 0x477ff000) /* 65520, the first that rounds to infinity */
		return sign | 0x7c00;
	if (magnitude >= 0x38800000) /* 2^-14, the smallest normal f16 */
		return sign | (uint16_t)shift_round(magnitude - 0x38000000, 13);
	if (magnitude < 0x33000000) /* below half of the smallest subnormal */
		return sign;
	uint32_t exponent = magnitude >> 23;
	uint32_t mantissa = (magnitude & 0x7fffff) | 0x800000;
	return sign | (uint16_t)shift_round(mantissa, 126 - exponent);
}

float f32_from_f16(uint16_t half)
{
	uint32_t sign = (uint32_t)(half & 0x8000) << 16;
	uint32_t exponent = half >> 10 & 0x1f, mantissa = half & 0x3ff;

	if (exponent == 0x1f)
		return f32_of_bits(sign | 0x7f800000 | mantissa << 13);
	if (exponent != 0)
		return f32_of_bits(sign | (exponent + 112) << 23 | mantissa << 13);
	float magnitude = ldexpf((float)mantissa, -24);
	return sign != 0 ? -magnitude : magnitude;
}

uint16_t bf16_from_f32(float value)
{
	uint32_t bits = f32_bits(value);

	if ((bits & 0x7fffffff) > 0x7f800000)
		return (uint16_t)(bits >> 16 | 0x40); /* quiet: rounding could make it infinite */
	return (uint16_t)shift_round(bits, 16);
}

float f32_from_bf16(uint16_t bits)
{
	return f32_of_bits((uint32_t)bits << 16);
}
