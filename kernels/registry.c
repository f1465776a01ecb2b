/* SPDX-License-Identifier: MIT */
/* The table of all operators. */
#include "kernels/ops.h"

#include <string.h>

const struct op *const op_table[] = {
	&op_gemv_batched,
	&op_softmax,
	&op_price_vectors,
};
const uint32_t op_count = sizeof(op_table) / sizeof(op_table[0]);

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
