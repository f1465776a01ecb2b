/* SPDX-License-Identifier: MIT */
/* channel.c: taking a channel over, its account in the ledger, and its end. */
#include "daemon/channel.h"

#include "shm/failpoint.h"
#include "shm/segment.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/*
 * A successor finds in the ledger what was stored until our death. So the order of the stores
 * counts, for the compiler: all stores to the ledger release those before them.
 */
static void ledger_commit(struct channel *ch)
{
	struct ledger_channel *l = ch->ledger;
	uint64_t next = !l->which;

	shm_store_release(&l->commit[next].sq_cons, ch->sq.cons);
	shm_store_release(&l->commit[next].cq_prod, ch->cq.prod);
	/* One store moves both. */
	shm_store_release(&l->which, next);
}

static void channel_attach_rings(struct channel *ch, const struct devlink_msg *msg)
{
	char *base = ch->base;
	struct wire_layout layout = wire_layout(msg->sq_entries, msg->cq_entries, msg->arena_bytes);
	struct ledger_channel *l = ch->ledger;

	if (!msg->recover) {
		/* As if the entry before the first one had been executed and completed. */
		*l = (struct ledger_channel){
			.commit = {{msg->start, msg->start}},
			.inline_seq = msg->start - 1,
			.inline_cq_at = msg->start - 1,
		};
	}
	uint64_t cons = l->commit[l->which].sq_cons;
	uint64_t prod = l->commit[l->which].cq_prod;
	ch->sq = (struct ring_consumer){
		.ring = (void *)(base + WIRE_SQ_RING),
		.cons = cons,
		.prod = cons,
		.entries = msg->sq_entries,
	};
	ch->cq = (struct ring_producer){
		.ring = (void *)(base + WIRE_CQ_RING),
		.prod = prod,
		.published = prod,
		.cons = prod - msg->cq_entries, /* unknown: full until it has been read */
		.entries = msg->cq_entries,
	};
	ch->counted = prod;
	ch->seen = prod;
	ch->rated = cons - 1;
	ch->sqes = (void *)(base + layout.sqe_offset);
	ch->cqes = (void *)(base + layout.cqe_offset);
	ch->arena = base + layout.arena_offset;
	ch->device_arena = ch->arena;
	ch->arena_bytes = msg->arena_bytes;
}

int channel_create(const struct devlink_msg *msg, const int fds[3], struct ledger_channel *ledger,
	struct stats_channel *stats, struct channel **ret_channel)
{
	struct wire_layout layout = wire_layout(msg->sq_entries, msg->cq_entries, msg->arena_bytes);
	struct channel *ch = calloc(1, sizeof(*ch));

	if (ch == NULL) {
		for (int i = 0; i < 3; i++)
			close(fds[i]);
		return -ENOMEM;
	}
	ch->segment_fd = fds[0];
	ch->event_fd = fds[1];
	ch->pipe_fd = fds[2];
	ch->bytes = layout.segment_bytes;
	int r = segment_map(ch->segment_fd, ch->bytes, true, &ch->base);
	if (r < 0) {
		channel_destroy(ch);
		return r;
	}
	ch->ledger = ledger;
	ch->stats = stats;
	ch->number = msg->channel;
	ch->generation = msg->generation;
	ch->abi = msg->abi;
	ch->priority = msg->priority;
	ch->client = msg->client;
	ch->client_generation = msg->client_generation;
	ch->uid = msg->uid;
	ch->weight = msg->weight;
	TAILQ_INIT(&ch->queue);
	if (ch->abi >= 4)
		ch->notice = (const void *)((char *)ch->base + WIRE_NOTICE);
	channel_attach_rings(ch, msg);
	*ret_channel = ch;
	return 0;
}

void channel_destroy(struct channel *ch)
{
	if (ch == NULL)
		return;
	assert(ch->in_flight == 0);
	if (ch->base != NULL)
		munmap(ch->base, ch->bytes);
	close(ch->segment_fd);
	close(ch->event_fd);
	close(ch->pipe_fd);
	free(ch);
}

/* Counted once for each flush: a batch of null operations is only limited by such details. */
static void count_completions(struct channel *ch)
{
	uint64_t completed = ch->cq.prod - ch->counted;

	shm_count(&ch->stats->completed, completed);
	shm_count(&ch->device_stats->completed, completed);
	ch->counted = ch->cq.prod;
	if (ch->failed > 0) {
		shm_count(&ch->stats->failed, ch->failed);
		shm_count(&ch->device_stats->failed, ch->failed);
		ch->failed = 0;
	}
}

void channel_flush(struct channel *ch)
{
	FAILPOINT("dispatch.written");
	ledger_commit(ch);
	FAILPOINT("dispatch.committed");
	/* In this order: a client that sees a completion finds its entry's slot free. */
	ring_release(&ch->sq);
	FAILPOINT("dispatch.released");
	if (ch->cq.prod == ch->cq.published)
		return;
	ring_publish(&ch->cq);
	FAILPOINT("dispatch.published");
	if (ring_wake_wanted(&ch->cq))
		bell_ring_pipe(ch->pipe_fd);
	FAILPOINT("dispatch.rung");
	count_completions(ch);
}

uint64_t channel_unread(const struct channel *ch)
{
	uint64_t unread = ch->cq.prod - shm_load_relaxed(&ch->cq.ring->cons);

	return unread < ch->cq.entries ? unread : ch->cq.entries;
}

void channel_note_inline(struct channel *ch, uint64_t user_data)
{
	struct ledger_channel *l = ch->ledger;

	/* Until inline_seq is the new entry's, which is not accepted yet, the old note stands. */
	shm_store_release(&l->inline_seq, ch->sq.cons - 1);
	shm_store_release(&l->inline_user_data, user_data);
	shm_store_release(&l->inline_cq_at, ch->cq.prod);
	ledger_commit(ch);
	/* So a client that outlives gpuqd knows that what is behind this has not been started. */
	ring_release(&ch->sq);
}

/* Is index a before index b? Indices may have wrapped between them. */
static bool before(uint64_t a, uint64_t b)
{
	return (int64_t)(a - b) < 0;
}

static void post_lost(struct channel *ch, uint64_t user_data, uint32_t flags)
{
	const struct wire_cqe cqe = {
		.user_data = user_data, .status = -GPUQ_EDEVICE, .flags = flags};

	/* Space was reserved: without it the client's index is a lie. */
	if (ring_space(&ch->cq, 1) < 1)
		ch->state = CHANNEL_POISONED;
	else
		channel_post(ch, &cqe);
}

static bool entry_is_of(const struct ledger_entry *e, const struct channel *ch)
{
	return ledger_entry_is_of(e, ch->number, ch->generation);
}

static uint32_t lost_flags(const struct ledger_entry *e)
{
	return (e->channel & LEDGER_STARTED) == 0 ? WIRE_CQE_NOT_STARTED : 0;
}

static bool entry_completed(const struct ledger_entry *e, uint64_t prod)
{
	return before(e->cq_at, prod);
}

void channel_recover(struct channel *ch, struct ledger_entry *entries, uint32_t n_entries)
{
	struct ledger_channel *l = ch->ledger;
	const uint64_t cons = ch->sq.cons, prod = ch->cq.prod;

	/* We may die here too: until the commit, the notes must lead a successor to the same. */
	if (before(l->inline_seq, cons) && !before(l->inline_cq_at, prod)) {
		shm_store_release(&l->inline_cq_at, ch->cq.prod);
		post_lost(ch, l->inline_user_data, 0);
	}
	for (uint32_t i = 0; i < n_entries; i++) {
		struct ledger_entry *e = &entries[i];
		if (!entry_is_of(e, ch) || !before(e->seq, cons) || entry_completed(e, prod))
			continue;
		shm_store_release(&e->cq_at, ch->cq.prod);
		post_lost(ch, e->user_data, lost_flags(e));
	}
	/* The process before may have died between its commit and its publication. */
	ch->cq.published = ch->cq.prod - ch->cq.entries;
	channel_flush(ch);
	/* Nor may a note of an entry that was never accepted count once it is accepted anew. */
	shm_store_release(&l->inline_cq_at, ch->cq.prod - 1);
	for (uint32_t i = 0; i < n_entries; i++) {
		if (entry_is_of(&entries[i], ch))
			shm_store_release_u32(&entries[i].generation, 0);
	}
	shm_store_relaxed(&ch->stats->in_flight, 0);
}
