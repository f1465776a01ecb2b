/* SPDX-License-Identifier: MIT */
/* robust.c: the lists that the kernel follows when a thread ends; see robust.h. */
#include "shm/robust.h"

#include <errno.h>
#include <stddef.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The kernel's format: a circular list of one entry, and where its futex word is from there. */
static __thread struct {
	struct robust_list_head head;
	struct robust_list entry;
} list;

_Static_assert(offsetof(struct robust_entry, next) == offsetof(struct robust_list, next), "entry");

int robust_begin(struct robust_words *words, long distance)
{
	words->head = (struct robust_list_head){
		.list.next = &words->head.list,
		.futex_offset = distance,
	};
	words->owner = (uint32_t)syscall(SYS_gettid);
	if (syscall(SYS_set_robust_list, &words->head, sizeof(words->head)) < 0)
		return -errno;
	return 0;
}

/* A link as the kernel reads it, at any moment. */
static void store_link(struct robust_entry **link, struct robust_entry *entry)
{
	shm_store_release((uint64_t *)link, (uint64_t)(uintptr_t)entry);
}

void robust_add(struct robust_words *words, struct robust_entry *entry)
{
	struct robust_entry **first = (struct robust_entry **)&words->head.list.next;
	struct robust_entry *end = (struct robust_entry *)&words->head.list;

	entry->next = *first;
	entry->link = first;
	if (entry->next != end)
		entry->next->link = &entry->next;
	store_link(first, entry);
	shm_store_release_u32((uint32_t *)((char *)entry + words->head.futex_offset), words->owner);
}

void robust_remove(struct robust_words *words, struct robust_entry *entry)
{
	store_link(entry->link, entry->next);
	if (entry->next != (struct robust_entry *)&words->head.list)
		entry->next->link = entry->link;
}

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
