/* SPDX-License-Identifier: MIT */
/* Names and sizes of tensors. */
#include "device/tensor.h"

#include <string.h>

static const char *const dtype_names[GPUQ_DTYPE_LAST + 1] = {
	"?",
	"f32",
	"f16",
	"bf16",
	"i8",
	"u8",
	"i32",
	"i64",
};

const char *dtype_name(uint32_t dtype)
{
	return dtype_names[dtype <= GPUQ_DTYPE_LAST ? dtype : 0];
}

uint32_t dtype_from_name(const char *name)
{
	for (uint32_t i = 1; i <= GPUQ_DTYPE_LAST; i++) {
		if (strcmp(name, dtype_names[i]) == 0)
			return i;
	}
	return 0;
}

int tensor_size(const struct tensor *t, uint64_t *ret_elements, uint64_t *ret_bytes)
{
	const uint64_t size = dtype_size(t->dtype);
	uint64_t span = 1; /* product of the dimensions that are not 0 */
	bool empty = false;

	if (size == 0)
		return -GPUQ_EDTYPE;
	if (t->rank > GPUQ_MAX_RANK)
		return -GPUQ_ERANK;
	for (uint32_t i = 0; i < t->rank; i++) {
		if (t->dims[i] == 0) {
			empty = true;
			continue;
		}
		if (__builtin_mul_overflow(span, t->dims[i], &span) || span > INT64_MAX / size)
			return -GPUQ_EOVERFLOW;
	}
	*ret_elements = empty ? 0 : span;
	*ret_bytes = *ret_elements * size;
	return 0;
}
