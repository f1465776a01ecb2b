/* SPDX-License-Identifier: MIT */
/*
 * mailbox.h: a queue between two threads of a device process, one writer and one reader, big
 * enough by construction: its users bound what can be under way. The reader is woken by an
 * eventfd.
 */
#ifndef GPUQ_DAEMON_MAILBOX_H
#define GPUQ_DAEMON_MAILBOX_H

#include "shm/atomics.h"
#include "shm/segment.h"

#include <assert.h>
#include <stdbool.h>

struct mail {
	uint32_t what;
	uint32_t flag;
	void *subject;
};

struct mailbox {
	struct mail *mails;
	uint32_t size; /* a power of two */
	int wake_fd;
	uint64_t written, read;
};

static inline void mailbox_put(struct mailbox *m, struct mail mail)
{
	uint64_t at = shm_load_relaxed(&m->written);

	assert(at - shm_load_acquire(&m->read) < m->size);
	m->mails[at & (m->size - 1)] = mail;
	/* Pairs with mailbox_take(): the mail is there before its number. */
	shm_store_release(&m->written, at + 1);
	bell_ring_eventfd(m->wake_fd);
}

static inline bool mailbox_empty(const struct mailbox *m)
{
	return shm_load_acquire(&m->written) == shm_load_relaxed(&m->read);
}

static inline bool mailbox_take(struct mailbox *m, struct mail *ret_mail)
{
	uint64_t at = shm_load_relaxed(&m->read);

	if (mailbox_empty(m))
		return false;
	*ret_mail = m->mails[at & (m->size - 1)];
	/* Pairs with mailbox_put(): the place is free after it has been read. */
	shm_store_release(&m->read, at + 1);
	return true;
}

#endif
