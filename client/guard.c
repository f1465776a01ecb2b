/* SPDX-License-Identifier: MIT */
/* guard.c: who owns a channel: a thread of one process, told without a system call. */
#include "client/client.h"

#include <sys/mman.h>

__thread char thread_mark;

int guard_create(struct guard **ret_guard)
{
	struct guard *guard = mmap(
		NULL, WIRE_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (guard == MAP_FAILED)
		return -ENOMEM;
	if (madvise(guard, WIRE_PAGE_SIZE, MADV_WIPEONFORK) < 0) {
		munmap(guard, WIRE_PAGE_SIZE);
		return -ENOMEM;
	}
	guard->owner = thread_self();
	*ret_guard = guard;
	return 0;
}

void guard_destroy(struct guard *guard)
{
	if (guard != NULL)
		munmap(guard, WIRE_PAGE_SIZE);
}
