/* SPDX-License-Identifier: MIT */
/*
 * arena.h: hands out pieces of a channel's arena. What is free is known only to this process:
 * nothing of it lies in shared memory, so nobody else can damage it. Best fit, neighbours
 * merge at once, O(log n); one thread.
 */
#ifndef GPUQ_CLIENT_ARENA_H
#define GPUQ_CLIENT_ARENA_H

#include <stdint.h>

#define ARENA_ALIGN 64u /* of offsets and lengths */

struct arena;

/* For `bytes` of memory; a remainder below ARENA_ALIGN is not used. -ENOMEM. */
int arena_create(uint64_t bytes, struct arena **ret_arena);

void arena_destroy(struct arena *arena);

/* Offset of a piece; 0 bytes are a piece too. -ENOSPC when no free piece is large enough. */
int arena_alloc(struct arena *arena, uint64_t bytes, uint64_t *ret_offset);

/* -EINVAL when the offset is not that of an allocated piece. */
int arena_free(struct arena *arena, uint64_t offset);

/* Bytes of the largest free piece. */
uint64_t arena_largest(const struct arena *arena);

/* Bytes that can be had when everything is free. */
uint64_t arena_capacity(const struct arena *arena);

#endif
