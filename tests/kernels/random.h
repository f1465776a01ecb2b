/* SPDX-License-Identifier: MIT */
/* random.h: reproducible random numbers for property tests (splitmix64). */
#ifndef GPUQ_TESTS_KERNELS_RANDOM_H
#define GPUQ_TESTS_KERNELS_RANDOM_H

#include <stdint.h>

struct random {
	uint64_t state;
};

static inline uint64_t random_u64(struct random *rng)
{
	uint64_t z = rng->state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

/* 0..n-1; n is small, so the bias does not matter. */
static inline uint64_t random_below(struct random *rng, uint64_t n)
{
	return random_u64(rng) % n;
}

/* [0, 1) */
static inline double random_unit(struct random *rng)
{
	return (double)(random_u64(rng) >> 11) * 0x1p-53;
}

#endif
