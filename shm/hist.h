/* SPDX-License-Identifier: MIT */
/*
 * hist.h: a log-linear histogram of nanoseconds. A value v falls into bucket v when it is below
 * 2^bits; above, each power of two is cut into 2^bits equal buckets, so a bucket is never wider
 * than v / 2^bits. The counts are a plain array of 64-bit words with one writer, which may lie
 * in shared memory; readers see each word whole.
 *
 *   statistics object   HIST_STATS_BITS  4: 6 % wide
 *   gpuq-bench          HIST_BENCH_BITS  7: 0.8 % wide
 */
#ifndef GPUQ_SHM_HIST_H
#define GPUQ_SHM_HIST_H

#include "shm/atomics.h"

#define HIST_STATS_BITS 4
#define HIST_BENCH_BITS 7
#define HIST_MAX_EXPONENT 40 /* values from 2^40 ns (18 minutes) on share the last bucket */
#define HIST_BUCKETS(bits) ((HIST_MAX_EXPONENT - (bits) + 1) << (bits))

static inline uint32_t hist_bucket(uint64_t v, uint32_t bits)
{
	if (v < (1ull << bits))
		return (uint32_t)v;
	if (v >= (1ull << HIST_MAX_EXPONENT))
		return HIST_BUCKETS(bits) - 1;
	uint32_t exponent = 63 - (uint32_t)__builtin_clzll(v);
	uint32_t sub = (uint32_t)(v >> (exponent - bits)) & ((1u << bits) - 1);

	return ((exponent - bits + 1) << bits) + sub;
}

/* Smallest value of a bucket; that of bucket i+1 is one more than the greatest of bucket i. */
static inline uint64_t hist_bucket_floor(uint32_t bucket, uint32_t bits)
{
	uint32_t octave = bucket >> bits;
	uint64_t sub = bucket & ((1u << bits) - 1);

	return octave == 0 ? sub : ((1ull << bits) + sub) << (octave - 1);
}

static inline void hist_add(uint64_t *counts, uint32_t bits, uint64_t v)
{
	shm_count(&counts[hist_bucket(v, bits)], 1);
}

/* Sum of all counts. */
uint64_t hist_total(const uint64_t *counts, uint32_t bits);

/*
 * The value below which `fraction` (0..1) of the samples lie: the middle of the bucket that holds
 * that sample. 0 when there is none.
 */
uint64_t hist_quantile(const uint64_t *counts, uint32_t bits, double fraction);

#endif
