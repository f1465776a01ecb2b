/* SPDX-License-Identifier: MIT */
/*
 * robust.h: words that the kernel marks when the thread holding them ends, in whatever way. The
 * kernel walks a thread's robust list before it frees the address space, so the mark comes long
 * before a hang-up or a pidfd would tell; and it can be read without a system call.
 *
 * A word holds the owner's thread id; WIRE_OWNER_DIED is set in it by the kernel. It may lie in
 * shared memory. 0 means that nobody has taken it yet.
 */
#ifndef GPUQ_SHM_ROBUST_H
#define GPUQ_SHM_ROBUST_H

#include "shm/atomics.h"
#include "shm/wire.h"

#include <stdbool.h>

/*
 * The calling thread takes the word for the rest of its life. One word for each thread; the
 * thread must not use robust pthread mutexes. Returns 0 or a negative errno.
 */
int robust_take(uint32_t *word);

/* True when the thread that took the word has ended. */
static inline bool robust_died(const uint32_t *word)
{
	return (shm_load_relaxed_u32(word) & WIRE_OWNER_DIED) != 0;
}

#endif
