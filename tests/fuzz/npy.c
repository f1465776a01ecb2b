/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target for the header of .npy files: whatever the bytes, the parser stays inside them, and
 * what it accepts keeps its promises.
 */
#include "tools/dtype.h"
#include "tools/npy.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition)
{
	if (!condition)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char why[256];
	struct npy npy;
	uint64_t elements = 1;

	if (npy_parse(data, size, &npy, why, sizeof(why)) < 0)
		return 0;
	require(npy.rank <= GPUQ_MAX_RANK && npy.data_offset <= size);
	for (uint32_t i = 0; i < npy.rank; i++)
		require(!__builtin_mul_overflow(elements, npy.dims[i], &elements));
	require(npy.elements == elements);
	require(npy.data_bytes == elements * dtype_bytes(npy.dtype));
	require(npy.data_bytes <= INT64_MAX);
	require(npy_check_length(&npy, npy.data_offset + npy.data_bytes, why, sizeof(why)) == 0);
	return 0;
}
