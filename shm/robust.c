/* SPDX-License-Identifier: MIT */
#include "shm/robust.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The kernel's format: a circular list of one entry, and where its futex word is from there. */
static __thread struct {
	struct robust_list_head head;
	struct robust_list entry;
} list;

int robust_take(uint32_t *word)
{
	list.entry.next = &list.head.list;
	list.head.list.next = &list.entry;
	list.head.futex_offset = (long)((char *)word - (char *)&list.entry);
	list.head.list_op_pending = NULL;
	shm_store_release_u32(word, (uint32_t)syscall(SYS_gettid));
	if (syscall(SYS_set_robust_list, &list.head, sizeof(list.head)) < 0)
		return -errno;
	return 0;
}
