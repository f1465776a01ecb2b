/* SPDX-License-Identifier: MIT */
/*
 * fate.c: what became of submissions that gpuqd's end has overtaken. Its rings stay mapped here.
 * When nobody writes them any more they say it: what lies in the completion ring has completed;
 * gpuqd releases an entry of the submission ring before anything of it is executed, so what it has
 * not released never started; of the rest nobody knows. See docs/wire.md.
 */
#include "client/client.h"

#include <stdlib.h>
#include <time.h>

#define LOOK_NS 200000 /* between two looks whether the device process has ended */

struct entry {
	struct gpuq_overtaken told;
	uint64_t token, index; /* as in struct flight */
};

struct overtaken {
	uint32_t n, at; /* all; those told already */
	bool resolved;
	struct entry entries[];
};

static int by_index(const void *a, const void *b)
{
	const int64_t distance =
		(int64_t)(((const struct entry *)a)->index - ((const struct entry *)b)->index);

	return distance < 0 ? -1 : distance > 0;
}

void overtaken_free(struct overtaken *o)
{
	free(o);
}

void overtaken_note(struct gpuq_channel *ch)
{
	const uint32_t n = flights_busy(ch);
	struct overtaken *o = calloc(1, sizeof(*o) + n * sizeof(o->entries[0]));

	overtaken_free(ch->overtaken);
	ch->overtaken = o;
	for (uint32_t i = 0; o != NULL && i < ch->cq_entries; i++) {
		const struct flight *f = &ch->flights[i];
		if (f->token == FLIGHT_FREE)
			continue;
		o->entries[o->n++] = (struct entry){
			.told = {.user_data = f->user_data, .fate = GPUQ_UNKNOWN},
			.token = f->token,
			.index = f->index,
		};
	}
	if (o != NULL)
		qsort(o->entries, o->n, sizeof(o->entries[0]), by_index);
}

/* The entry with this token, or NULL. */
static struct entry *find(struct overtaken *o, uint64_t token)
{
	/* The token has the lower half of the index. */
	const uint64_t first = o->n > 0 ? o->entries[0].index : 0;
	const struct entry key = {.index = first + (uint32_t)((token >> 32) - first)};
	struct entry *e = bsearch(&key, o->entries, o->n, sizeof(key), by_index);

	return e != NULL && e->token == token ? e : NULL;
}

/* What was completed after the last look. */
static void take_completed(const struct gpuq_channel *ch, struct overtaken *o)
{
	const struct wire_ring *ring = (const void *)((uint8_t *)ch->segment + WIRE_CQ_RING);
	const uint64_t prod = shm_load_acquire(&ring->prod);

	if (prod - ch->cq.cons > ch->cq_entries)
		return;
	for (uint64_t at = ch->cq.cons; at != prod; at++) {
		const uint64_t *words = (const uint64_t *)&ch->cqes[ring_slot(at, ch->cq_entries)];
		struct entry *e = find(o, shm_load_relaxed(&words[0]));
		if (e == NULL)
			return;
		e->told.fate = GPUQ_COMPLETED;
		e->told.status = (int32_t)shm_load_relaxed(&words[1]);
	}
}

/* What gpuqd has not released. */
static void take_untouched(const struct gpuq_channel *ch, struct overtaken *o)
{
	const struct wire_ring *ring = (const void *)((uint8_t *)ch->segment + WIRE_SQ_RING);
	const uint64_t cons = shm_load_acquire(&ring->cons);

	if (ch->sq.prod - cons > ch->sq.entries)
		return;
	for (uint32_t i = 0; i < o->n; i++) {
		struct entry *e = &o->entries[i];
		if (e->told.fate == GPUQ_UNKNOWN && (int64_t)(e->index - cons) >= 0)
			e->told.fate = GPUQ_NEVER_STARTED;
	}
}

void overtaken_resolve(struct gpuq_channel *ch, bool device_ended)
{
	struct overtaken *o = ch->overtaken;

	if (o == NULL || o->resolved)
		return;
	o->resolved = true;
	/* A poisoned one may have lost the sense of its rings; or gpuqd has taken them back. */
	if (!device_ended || ch->gone == -GPUQ_EPOISONED ||
		shm_load_relaxed_u32(&ch->header->magic) != WIRE_MAGIC)
		return;
	take_completed(ch, o);
	take_untouched(ch, o);
}

/* The control process has ended: the kernel ends the device process with it. */
static bool await_device(const struct gpuq_channel *ch)
{
	const struct timespec nap = {.tv_nsec = LOOK_NS};
	const uint32_t *owner = &ch->page->devices[ch->device].owner;
	const uint64_t end_ns = clock_monotonic_ns() + ch->gpuq->timeout_ns;

	while (page_gone(ch->page) && clock_monotonic_ns() < end_ns) {
		if (robust_died(owner))
			return true;
		(void)nanosleep(&nap, NULL);
	}
	return false;
}

int gpuq_fates(struct gpuq_channel *ch, struct gpuq_overtaken *ret_overtaken, uint32_t max)
{
	struct overtaken *o = ch->overtaken;
	uint32_t n = 0;

	if (!channel_owned(ch))
		return channel_refuse(ch);
	if (o == NULL)
		return ch->cq.ring == &ch->ended_ring
			? fail_plain(-ENOMEM, "there was no memory to keep what was in flight")
			: fail_plain(-EBUSY, "the channel has not ended; see gpuq_poll()");
	/* Once there is another gpuqd its page is here, and the old one's words were noted. */
	if (!o->resolved && shm_load_acquire(&ch->gpuq->epoch) == ch->epoch)
		overtaken_resolve(ch, await_device(ch));
	else
		overtaken_resolve(ch, shm_load_relaxed(&ch->device_ended) != 0);
	for (; n < max && o->at < o->n; n++)
		ret_overtaken[n] = o->entries[o->at++].told;
	return (int)n;
}

enum gpuq_fate gpuq_fate(const struct gpuq_completion *c)
{
	if (c->status != -GPUQ_EDEVICE)
		return GPUQ_COMPLETED;
	return (c->flags & WIRE_CQE_NOT_STARTED) != 0 ? GPUQ_NEVER_STARTED : GPUQ_UNKNOWN;
}
