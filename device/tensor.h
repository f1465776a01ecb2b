/* SPDX-License-Identifier: MIT */
/*
 * tensor.h: a tensor as devices and operators see it: validated, private to gpuqd, dense, in C
 * order (the last dimension is contiguous). The data it points to may still be written by a
 * client while a kernel reads it: a value may change between two reads, the shape may not.
 */
#ifndef GPUQ_DEVICE_TENSOR_H
#define GPUQ_DEVICE_TENSOR_H

#include "shm/gpuq-types.h"

#include <stdbool.h>
#include <stddef.h>

struct tensor {
	void *data;		      /* NULL when absent or when it has no elements */
	uint32_t dtype;		      /* enum gpuq_dtype; 0 when absent */
	uint32_t rank;		      /* 0 is a scalar with one element */
	uint64_t dims[GPUQ_MAX_RANK]; /* outermost first; unused ones are 0 */
};

/* Bytes of one element; 0 for a value that is no dtype. */
static inline size_t dtype_size(uint32_t dtype)
{
	switch (dtype) {
	case GPUQ_F32:
	case GPUQ_I32:
		return 4;
	case GPUQ_F16:
	case GPUQ_BF16:
		return 2;
	case GPUQ_I8:
	case GPUQ_U8:
		return 1;
	case GPUQ_I64:
		return 8;
	default:
		return 0;
	}
}

/* Lower-case name ("f32"), or "?" for a value that is no dtype. */
const char *dtype_name(uint32_t dtype);

/* The dtype with this name, or 0. */
uint32_t dtype_from_name(const char *name);

static inline bool tensor_present(const struct tensor *t)
{
	return t->dtype != 0;
}

/*
 * Product of the dimensions: 1 for a scalar, 0 when a dimension is 0. Returns 0, or
 * -GPUQ_EOVERFLOW when the bytes do not fit 63 bits (also when a dimension is 0 but the product
 * of the others does not fit: strides would not), -GPUQ_EDTYPE or -GPUQ_ERANK.
 */
int tensor_size(const struct tensor *t, uint64_t *ret_elements, uint64_t *ret_bytes);

#endif
