/* SPDX-License-Identifier: MIT */
/* The table of all operators, and that of their codes. */
#include "kernels/launch.h"
#include "kernels/ops.h"

#include <string.h>

#define OPERATORS(X)       \
	X(gemv_batched)    \
	X(softmax)         \
	X(price_vectors)   \
	X(embedding)       \
	X(rmsnorm)         \
	X(linear)          \
	X(rope)            \
	X(swiglu)          \
	X(argmax)          \
	X(step_result)     \
	X(sample)          \
	X(kv_append)       \
	X(paged_attention) \
	X(kv_attention)

#define OPERATOR(name) &op_##name,
const struct op *const op_table[] = {OPERATORS(OPERATOR)};
const uint32_t op_count = sizeof(op_table) / sizeof(op_table[0]);

#define CODE(name) {#name, op_launch_cpu},
static const struct device_code codes[] = {OPERATORS(CODE)};

const struct device_code *op_code(const struct op *op)
{
	uint32_t i = 0;

	while (op_table[i] != op)
		i++;
	return &codes[i];
}

const struct op *op_find(const char *name, uint32_t *ret_index)
{
	for (uint32_t i = 0; i < op_count; i++) {
		if (strcmp(op_table[i]->name, name) != 0)
			continue;
		if (ret_index != NULL)
			*ret_index = i;
		return op_table[i];
	}
	return NULL;
}
