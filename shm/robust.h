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

#include <linux/futex.h>

/*
 * The calling thread takes the word for the rest of its life. One word for each thread; the
 * thread must not use robust pthread mutexes. Returns 0 or a negative errno.
 */
int robust_take(uint32_t *word);

/*
 * One of several words that a thread holds. Its entry lies equally far before every word of the
 * thread, in memory of the process's own: the kernel follows it when the thread ends.
 */
struct robust_entry {
	struct robust_entry *next, **link;
};

struct robust_words {
	struct robust_list_head head;
	uint32_t owner;
};

/*
 * The calling thread is the one that will hold words, each `distance` bytes behind its entry. It
 * must not use robust pthread mutexes. Returns 0 or a negative errno.
 */
int robust_begin(struct robust_words *words, long distance);

/*
 * The thread holds one word more, or one less. Any thread may call these, one at a time; the owner
 * may end at any moment, and what it then holds is marked.
 */
void robust_add(struct robust_words *words, struct robust_entry *entry);
void robust_remove(struct robust_words *words, struct robust_entry *entry);

/* True when the thread that took the word has ended. */
static inline bool robust_died(const uint32_t *word)
{
	return (shm_load_relaxed_u32(word) & WIRE_OWNER_DIED) != 0;
}

#endif
