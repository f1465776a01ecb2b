/* SPDX-License-Identifier: MIT */
/*
 * atomics.h: the only atomic operations in gpuq. Everything that two processes touch goes
 * through these names, so that the ring explorer (tests/explore/) can run the very same headers
 * under a scheduler with store buffers, and so that a reader can list every barrier with grep.
 *
 * Words that both sides of a ring write are 64 bits wide; 32-bit forms exist for futex words.
 */
#ifndef GPUQ_SHM_ATOMICS_H
#define GPUQ_SHM_ATOMICS_H

#include <stddef.h>
#include <stdint.h>

#ifdef GPUQ_EXPLORE
#include "explore_atomics.h"
#else

static inline uint64_t shm_load_relaxed(const uint64_t *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

/* Everything the other side wrote before its shm_store_release() is visible after this. */
static inline uint64_t shm_load_acquire(const uint64_t *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline void shm_store_relaxed(uint64_t *p, uint64_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELAXED);
}

static inline void shm_store_release(uint64_t *p, uint64_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELEASE);
}

static inline uint32_t shm_load_acquire_u32(const uint32_t *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline uint32_t shm_load_relaxed_u32(const uint32_t *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline void shm_store_release_u32(uint32_t *p, uint32_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELEASE);
}

/* Full fence: no later load is served before every earlier store is visible. */
static inline void shm_fence(void)
{
#ifdef __SANITIZE_THREAD__
	/* ThreadSanitizer does not model fences; an atomic exchange orders the same accesses. */
	static uint64_t dummy;
	__atomic_exchange_n(&dummy, 1, __ATOMIC_SEQ_CST);
#else
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/* No later store is visible before the stores and loads before this. */
static inline void shm_fence_release(void)
{
#ifdef __SANITIZE_THREAD__
	shm_fence();
#else
	__atomic_thread_fence(__ATOMIC_RELEASE);
#endif
}

/* Counter with one writer: readers may be anywhere, so the store must not tear. */
static inline void shm_count(uint64_t *p, uint64_t n)
{
	shm_store_relaxed(p, shm_load_relaxed(p) + n);
}

/* Adds and returns the value before; for words that several threads of one process write. */
static inline uint64_t shm_fetch_add(uint64_t *p, uint64_t n)
{
	return __atomic_fetch_add(p, n, __ATOMIC_ACQ_REL);
}

static inline uint32_t shm_fetch_add_u32(uint32_t *p, uint32_t n)
{
	return __atomic_fetch_add(p, n, __ATOMIC_ACQ_REL);
}

static inline int shm_compare_swap(uint64_t *p, uint64_t expected, uint64_t desired)
{
	return __atomic_compare_exchange_n(
		p, &expected, desired, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

/* Copies whole words that the other side may be writing: each source word is read exactly once. */
static inline void shm_copy_in(void *dst, const void *src, size_t words)
{
	uint64_t *d = dst;
	const uint64_t *s = src;

	/* Compilers leave loops over atomic accesses as they are; a constant count becomes code. */
#pragma GCC unroll 8
	for (size_t i = 0; i < words; i++)
		d[i] = shm_load_relaxed(&s[i]);
}

/* Copies whole words to where the other side may be reading. */
static inline void shm_copy_out(void *dst, const void *src, size_t words)
{
	uint64_t *d = dst;
	const uint64_t *s = src;

#pragma GCC unroll 8
	for (size_t i = 0; i < words; i++)
		shm_store_relaxed(&d[i], s[i]);
}

/* Tells the CPU that this is a spin loop. */
static inline void shm_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ __volatile__("isb" ::: "memory");
#endif
}

#endif /* GPUQ_EXPLORE */
#endif
