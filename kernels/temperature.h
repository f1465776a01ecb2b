/* SPDX-License-Identifier: MIT */
/* temperature.h: temperatures that a client gives per row, for operators that divide by them. */
#ifndef GPUQ_KERNELS_TEMPERATURE_H
#define GPUQ_KERNELS_TEMPERATURE_H

#include "kernels/element.h"
#include "kernels/op.h"
#include "shm/atomics.h"

#define TEMPERATURE_MIN 1e-30f
#define TEMPERATURE_MAX 1e30f

/* The temperature of a row, read once: it may change. */
static inline float temperature_read(const struct tensor *t, uint64_t row)
{
	return float_from_bits(shm_load_relaxed_u32((const uint32_t *)t->data + row));
}

/* What a row is divided by: 1 for a temperature that makes no sense, NaN too. */
static inline float temperature_divisor(float t)
{
	return t >= TEMPERATURE_MIN && t <= TEMPERATURE_MAX ? t : 1;
}

/* For infer: 0, or the error of a tensor that does not have one temperature for each row. */
static inline int temperature_shape(const struct tensor *t, uint64_t rows)
{
	if (t->rank != 1)
		return -GPUQ_ERANK;
	return t->dims[0] == rows ? 0 : -GPUQ_ESHAPE;
}

#endif
