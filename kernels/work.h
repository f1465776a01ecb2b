/* SPDX-License-Identifier: MIT */
/*
 * work.h: what the specs of float operators share: saturating sums of work, rows and shapes of
 * tensors, and the rule for the type of an output.
 */
#ifndef GPUQ_KERNELS_WORK_H
#define GPUQ_KERNELS_WORK_H

#include "kernels/op.h"

#include <string.h>

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

/* Product of all dimensions but the last of a tensor that is not a scalar. */
static inline uint64_t tensor_rows(const struct tensor *t)
{
	uint64_t rows = 1;

	for (uint32_t i = 0; i + 1 < t->rank; i++)
		rows *= t->dims[i];
	return rows;
}

/* The last dimension, of a tensor that is not a scalar. */
static inline uint64_t tensor_columns(const struct tensor *t)
{
	return t->dims[t->rank - 1];
}

static inline bool tensor_same_shape(const struct tensor *a, const struct tensor *b)
{
	return a->rank == b->rank && memcmp(a->dims, b->dims, a->rank * sizeof(a->dims[0])) == 0;
}

/* Gives an output the shape of an input. */
static inline void tensor_shape_as(struct tensor *to, const struct tensor *from)
{
	to->rank = from->rank;
	memcpy(to->dims, from->dims, sizeof(to->dims));
}

/* Gives a tensor these dimensions and leaves its type and data. */
static inline void tensor_set_shape(struct tensor *t, uint32_t rank, const uint64_t *dims)
{
	t->rank = rank;
	memcpy(t->dims, dims, rank * sizeof(t->dims[0]));
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
