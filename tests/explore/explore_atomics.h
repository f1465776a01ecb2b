/* SPDX-License-Identifier: MIT */
/*
 * explore_atomics.h: the helpers of shm/atomics.h, redirected to the scheduler of explore.h.
 * Helpers that ring.h does not use are absent: whoever needs one there models it here first.
 */
#ifndef GPUQ_EXPLORE_ATOMICS_H
#define GPUQ_EXPLORE_ATOMICS_H

#include "explore.h"

static inline uint64_t shm_load_relaxed(const uint64_t *p)
{
	return explore_load(p, false);
}

static inline uint64_t shm_load_acquire(const uint64_t *p)
{
	return explore_load(p, true);
}

static inline void shm_store_relaxed(uint64_t *p, uint64_t v)
{
	explore_store(p, v, false);
}

static inline void shm_store_release(uint64_t *p, uint64_t v)
{
	explore_store(p, v, true);
}

static inline void shm_fence(void)
{
	explore_fence();
}

static inline void shm_count(uint64_t *p, uint64_t n)
{
	shm_store_relaxed(p, shm_load_relaxed(p) + n);
}

static inline void shm_copy_in(void *dst, const void *src, size_t words)
{
	uint64_t *d = dst;
	const uint64_t *s = src;

	for (size_t i = 0; i < words; i++)
		explore_load_into(&d[i], &s[i]);
}

static inline void shm_copy_out(void *dst, const void *src, size_t words)
{
	uint64_t *d = dst;
	const uint64_t *s = src;

	for (size_t i = 0; i < words; i++)
		shm_store_relaxed(&d[i], s[i]);
}

/* A spinning thread goes on when the memory that it spins on may have changed. */
static inline void shm_pause(void)
{
	explore_pause();
}

#endif
