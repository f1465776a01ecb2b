/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target for the header of safetensors files: whatever the bytes, the parser stays inside
 * them, and the tensors of a file that it accepts cover the data, each once.
 */
#include "models/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition)
{
	if (!condition)
		abort();
}

static void check_tensor(const struct safetensors_tensor *t, uint64_t begin)
{
	uint64_t elements = 1;

	require(t->name[0] != '\0' && t->rank <= GPUQ_MAX_RANK);
	require(memchr(t->dtype_name, '\0', sizeof(t->dtype_name)) != NULL);
	for (uint32_t i = 0; i < t->rank; i++)
		require(!__builtin_mul_overflow(elements, t->dims[i], &elements));
	require(elements == 0 ? t->bytes == 0 : t->bytes % elements == 0);
	require(t->offset == begin);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct safetensors_table table = {0};
	struct model_why why;
	size_t header_bytes;
	uint64_t at;

	if (size < 8 || safetensors_header_bytes(data, size, "f", &header_bytes, &why) < 0)
		return 0;
	require(header_bytes <= size - 8);
	at = 8 + header_bytes;
	if (safetensors_parse(
		    (const char *)data + 8, header_bytes, at, size - at, "f", &table, &why) == 0) {
		for (size_t i = 0; i < table.count; i++) {
			check_tensor(&table.tensors[i], at);
			at += table.tensors[i].bytes;
		}
		require(at == size);
	} else {
		require(table.count == 0 && strlen(why.text) > 0);
	}
	safetensors_table_free(&table);
	return 0;
}
