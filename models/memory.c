/* SPDX-License-Identifier: MIT */
#include "models/memory.h"

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>

#define UNIT ((uint64_t)2 << 20)

static uint64_t whole_units(uint64_t bytes)
{
	return (bytes + UNIT - 1) / UNIT * UNIT;
}

int model_memory_map(uint64_t bytes, void **ret_data)
{
	uint64_t size = whole_units(bytes);
	uint8_t *base, *data;

	if (bytes == 0)
		return -EINVAL;
	if (bytes > INT64_MAX - 2 * UNIT)
		return -ENOMEM;
	base = mmap(NULL, size + UNIT, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return -ENOMEM;
	/* Keeps the aligned part; each of the others may be empty. */
	data = base + (UNIT - (uintptr_t)base % UNIT) % UNIT;
	if (data > base)
		munmap(base, (size_t)(data - base));
	if (data < base + UNIT)
		munmap(data + size, (size_t)(base + UNIT - data));
	/* Only advice: small pages do as well, and a core dump needs no weights. */
	madvise(data, size, MADV_HUGEPAGE);
	madvise(data, size, MADV_DONTDUMP);
	*ret_data = data;
	return 0;
}

void model_memory_unmap(void *data, uint64_t bytes)
{
	if (data != NULL)
		munmap(data, whole_units(bytes));
}
