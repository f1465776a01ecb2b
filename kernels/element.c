/* SPDX-License-Identifier: MIT */
/* Elements of float tensors as doubles; see element.h. */
#include "kernels/element.h"

#include <math.h>

double element_get(const void *data, uint32_t dtype, uint64_t i)
{
	const uint16_t *halves = data;

	switch (dtype) {
	case GPUQ_F16:
		return float_from_f16(halves[i]);
	case GPUQ_BF16:
		return float_from_bits((uint32_t)halves[i] << 16);
	default:
		return ((const float *)data)[i];
	}
}

/*
 * Rounds to `precision` significant bits, fewer for subnormals: min_exponent is the exponent of
 * the smallest normal number as frexp() gives it. Rounding by way of float would round twice.
 */
static double round_to_precision(double value, int precision, int min_exponent)
{
	int exponent, unit;

	if (value == 0 || !isfinite(value))
		return value;
	frexp(value, &exponent);
	unit = (exponent > min_exponent ? exponent : min_exponent) - precision;
	return ldexp(rint(ldexp(value, -unit)), unit);
}

void element_set(void *data, uint32_t dtype, uint64_t i, double value)
{
	uint16_t *halves = data;

	switch (dtype) {
	case GPUQ_F16:
		halves[i] = float_to_f16((float)round_to_precision(value, 11, -13));
		break;
	case GPUQ_BF16:
		halves[i] =
			(uint16_t)(float_to_bits((float)round_to_precision(value, 8, -125)) >> 16);
		break;
	default:
		((float *)data)[i] = (float)value;
		break;
	}
}
