/* SPDX-License-Identifier: MIT */
/*
 * bandwidth.c: reading and copying memory as kernels of the CPU device, on the workers that also
 * run operators: what a byte costs at least.
 */
#include "bench/bench.h"

#include <string.h>

static void read_piece(const char *data, uint64_t bytes)
{
	/* Eight chains: more than the latency of an addition. */
	typedef uint64_t words __attribute__((vector_size(16)));
	words sums[8] = {0};

	for (uint64_t at = 0; at + sizeof(sums) <= bytes; at += sizeof(sums)) {
		for (uint32_t i = 0; i < 8; i++)
			sums[i] += ((const words *)(data + at))[i];
	}
	for (uint32_t i = 1; i < 8; i++)
		sums[0] += sums[i];
	__asm__ volatile("" : : "m"(sums[0]));
}

static uint64_t piece_at(const struct bandwidth *b, uint64_t unit)
{
	const uint64_t left = b->bytes - unit * b->piece;

	return left < b->piece ? left : b->piece;
}

static void read_cpu(
	const void *shape, const struct device_args *args, uint64_t begin, uint64_t end)
{
	const struct bandwidth *b = shape;

	for (uint64_t i = begin; i < end; i++)
		read_piece((const char *)args->pointers[0] + i * b->piece, piece_at(b, i));
}

static void copy_cpu(
	const void *shape, const struct device_args *args, uint64_t begin, uint64_t end)
{
	const struct bandwidth *b = shape;

	for (uint64_t i = begin; i < end; i++)
		memcpy((char *)args->pointers[1] + i * b->piece,
			(const char *)args->pointers[0] + i * b->piece, piece_at(b, i));
}

static const struct device_code read_code = {"read", read_cpu}, copy_code = {"copy", copy_cpu};

struct device_kernel bandwidth_kernel(const struct bandwidth *b, bool copies)
{
	return (struct device_kernel){
		.code = copies ? &copy_code : &read_code,
		.shape = b,
		.shape_bytes = sizeof(*b),
		.units = (b->bytes + b->piece - 1) / b->piece,
		.predicted_ns = UINT64_MAX,
	};
}
