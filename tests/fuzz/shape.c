/* SPDX-License-Identifier: MIT */
/* Fuzz target for shape texts: the first byte is a rank, the rest the text. */
#include "tools/shape.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint64_t dims[GPUQ_MAX_RANK] = {2, 3, 2, 5, 2, 7, 1, 0};
	uint64_t inferred[GPUQ_MAX_RANK];
	struct shape_env env = {.n_absent = 1, .absent = {"up"}};
	char text[256] = "", why[256];
	uint32_t rank;

	if (size == 0 || size > sizeof(text))
		return 0;
	memcpy(text, data + 1, size - 1);
	if (shape_bind(&env, "x", text, data[0] % (GPUQ_MAX_RANK + 1), dims, why, sizeof(why)) == 0)
		(void)shape_infer(&env, "y", text, &rank, inferred, why, sizeof(why));
	return 0;
}
