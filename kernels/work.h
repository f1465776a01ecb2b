/* SPDX-License-Identifier: MIT */
/*
 * work.h: what the specs of float operators share: saturating sums of work, and the rule for the
 * type of an output.
 */
#ifndef GPUQ_KERNELS_WORK_H
#define GPUQ_KERNELS_WORK_H

#include "kernels/op.h"

static inline uint64_t work_mul(uint64_t a, uint64_t b)
{
	uint64_t product;

	return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

static inline uint64_t work_add(uint64_t a, uint64_t b)
{
	uint64_t sum;

	return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

/* n in whole vectors: partly filled ones cost as much. */
static inline uint64_t work_round_up(uint64_t n, uint64_t lanes)
{
	return work_mul(n / lanes + (n % lanes != 0), lanes);
}

/* A dot product of n elements whose row is read once (kernels/dot.h). */
static inline uint64_t work_dot(uint64_t n)
{
	return work_add(work_mul(work_round_up(n, 16), 2), 16);
}

/* Outputs are f32 or of the inputs' type. */
static inline bool dtype_fits_output(uint32_t output, uint32_t input)
{
	return output == GPUQ_F32 || output == input;
}

#endif
