/* SPDX-License-Identifier: MIT */
/*
 * rings.c: all interleavings of honest sides. Each entry arrives once, in order, with all its
 * words; nobody waits for ever; no unread slot is overwritten; no bell rings without a wish.
 *
 * Up to 3 entries through rings of 2 (full: the producer waits) and of 4, from index 0 and
 * across the wrap of 64 bits, published one by one or in batches, with a consumer that sleeps for
 * one entry or for several. One ring; a channel, where both sides sleep; a gpuqd that answers two
 * clients under one fence (three threads). States that a search visits, and the interleavings
 * that they stand for:
 *
 *	one way		   3 * 10^3 .. 3 * 10^4	   up to 6 * 10^16
 *	channel		   5 * 10^5 .. 10^6	   up to 8 * 10^35
 *	one fence, 2 rings  8 * 10^3, 2 * 10^6	   up to 7 * 10^31
 *	hostile.c	   60 .. 2000		   up to 4 * 10^8
 *
 * All together 4.6 * 10^6 states, 1.8 * 10^7 transitions, some seconds. Bells sleep and wake as
 * pipes do: one that rang before the sleep ends it at once.
 */
#include "scenarios.h"
#include SIDES_H

#include <stdio.h>
#include <string.h>

#define MAX_ENTRIES 4

/* What the two sides of the scenarios share: SQ and CQ of a channel, or CQs of two channels. */
static struct {
	struct wire_ring ring[2];
	uint64_t slots[2][MAX_ENTRIES * SIDE_WORDS];
} shared;

static void add_ring(struct explore_program *p, uint32_t r, uint32_t entries, uint64_t start)
{
	char name[24];

	snprintf(name, sizeof(name), "ring%u.prod", r);
	explore_add_word(p, &shared.ring[r].prod, start, false, name);
	snprintf(name, sizeof(name), "ring%u.cons", r);
	explore_add_word(p, &shared.ring[r].cons, start, false, name);
	snprintf(name, sizeof(name), "ring%u.wake_at", r);
	explore_add_word(p, &shared.ring[r].wake_at, start, false, name);
	for (uint32_t i = 0; i < entries * SIDE_WORDS; i++) {
		snprintf(name, sizeof(name), "ring%u.slot%u.%u", r, i / SIDE_WORDS, i % SIDE_WORDS);
		explore_add_word(p, &shared.slots[r][i], 7, false, name);
	}
	for (uint64_t i = 0; i <= SIDE_MAX; i++)
		explore_add_value(p, start + i);
}

static struct producing producing(uint32_t r, uint32_t entries, uint64_t start, uint64_t total)
{
	return (struct producing){
		.p = {&shared.ring[r], start, start, start, entries},
		.slots = shared.slots[r],
		.total = total,
		.batch = 1,
		.bell = r,
	};
}

static struct consuming consuming(uint32_t r, uint32_t entries, uint64_t start, uint64_t total)
{
	return (struct consuming){
		.c = {&shared.ring[r], start, start, entries},
		.slots = shared.slots[r],
		.total = total,
		.want = 1,
		.bell = r,
	};
}

static bool producer_round(void *local)
{
	struct producing *s = local;

	side_produce(s);
	return s->sent < s->total;
}

static bool consumer_round(void *local)
{
	struct consuming *s = local;

	side_consume(s);
	return s->got < s->total;
}

static const char *one_way_check(void *const local[])
{
	return side_check(local[0], local[1]);
}

/* One producer, one consumer that sleeps, back-pressure. */
static struct explore_program one_way(const char *name, uint32_t entries, uint64_t start,
	uint64_t total, uint64_t batch, uint64_t want)
{
	struct explore_program p = {.name = name, .check = one_way_check};
	struct producing producer = producing(0, entries, start, total);
	struct consuming consumer = consuming(0, entries, start, total);

	producer.batch = batch;
	consumer.want = want;
	add_ring(&p, 0, entries, start);
	explore_add_thread(&p, "producer", producer_round, &producer, sizeof(producer));
	explore_add_thread(&p, "consumer", consumer_round, &consumer, sizeof(consumer));
	return p;
}

/* A side of a channel: it consumes from one ring and produces into the other. */
struct both {
	struct producing out;
	struct consuming in;
	uint64_t depth; /* of a client: entries that it lets be under way */
	uint64_t owed;	/* of gpuqd: completions that it still has to post */
};

static bool client_round(void *local)
{
	struct both *s = local;

	if (s->out.sent < s->out.total && s->out.sent - s->in.got < s->depth)
		side_produce(&s->out);
	else
		side_consume(&s->in);
	return s->in.got < s->in.total;
}

static bool daemon_round(void *local)
{
	struct both *s = local;

	if (s->owed > 0) {
		uint64_t before = s->out.sent;
		side_produce(&s->out);
		s->owed -= s->out.sent - before;
	} else {
		s->owed = side_consume(&s->in);
	}
	return s->out.sent < s->out.total;
}

static const char *channel_check(void *const local[])
{
	const struct both *client = local[0], *daemon = local[1];
	const char *wrong = side_check(&client->out, &daemon->in);

	return wrong != NULL ? wrong : side_check(&daemon->out, &client->in);
}

/* Submissions one way, completions the other, and both sides sleep. */
static struct explore_program channel(
	const char *name, uint32_t entries, uint64_t start, uint64_t total, uint64_t depth)
{
	struct explore_program p = {.name = name, .check = channel_check};
	struct both client = {
		producing(0, entries, start, total), consuming(1, entries, start, total), depth, 0};
	struct both daemon = {
		producing(1, entries, start, total), consuming(0, entries, start, total), 0, 0};

	add_ring(&p, 0, entries, start);
	add_ring(&p, 1, entries, start);
	explore_add_thread(&p, "client", client_round, &client, sizeof(client));
	explore_add_thread(&p, "gpuqd", daemon_round, &daemon, sizeof(daemon));
	return p;
}

/* gpuqd, which answers two clients. */
struct fan {
	struct producing out[2];
};

static bool fan_round(void *local)
{
	struct fan *s = local;

	side_produce_all(s->out, 2);
	return s->out[0].sent < s->out[0].total;
}

static const char *fan_check(void *const local[])
{
	const struct fan *fan = local[0];
	const char *wrong = side_check(&fan->out[0], local[1]);

	return wrong != NULL ? wrong : side_check(&fan->out[1], local[2]);
}

static struct explore_program fan(const char *name, uint64_t start, uint64_t total)
{
	struct explore_program p = {.name = name, .check = fan_check};
	struct fan daemon = {{producing(0, 2, start, total), producing(1, 2, start, total)}};
	struct consuming client[2] = {consuming(0, 2, start, total), consuming(1, 2, start, total)};

	add_ring(&p, 0, 2, start);
	add_ring(&p, 1, 2, start);
	explore_add_thread(&p, "gpuqd", fan_round, &daemon, sizeof(daemon));
	explore_add_thread(&p, "client0", consumer_round, &client[0], sizeof(client[0]));
	explore_add_thread(&p, "client1", consumer_round, &client[1], sizeof(client[1]));
	return p;
}

bool scenario_rings(uint32_t i, struct explore_program *ret_program)
{
	const uint64_t zero = 0, wrap = UINT64_MAX - 1;

	switch (i) {
	case 0:
		*ret_program = one_way("one way, ring of 2", 2, zero, 3, 1, 1);
		return true;
	case 1:
		*ret_program = one_way("one way, ring of 2, wrapping", 2, wrap, 3, 1, 1);
		return true;
	case 2:
		*ret_program =
			one_way("one way, ring of 2, batch 2, sleep for 2", 2, zero, 3, 2, 2);
		return true;
	case 3:
		*ret_program = one_way("one way, ring of 4, wrapping", 4, wrap, 3, 1, 1);
		return true;
	case 4:
		*ret_program = one_way("one way, ring of 4, wrapping, batch 2", 4, wrap, 3, 2, 1);
		return true;
	case 5:
		*ret_program =
			one_way("one way, ring of 4, wrapping, sleep for 3", 4, wrap, 3, 1, 3);
		return true;
	case 6:
		*ret_program = channel("channel, ring of 2, 1 under way", 2, wrap, 3, 1);
		return true;
	case 7:
		*ret_program = channel("channel, ring of 2, 2 under way", 2, zero, 3, 2);
		return true;
	case 8:
		*ret_program = channel("channel, ring of 4, wrapping, 3 under way", 4, wrap, 3, 3);
		return true;
	case 9:
		*ret_program = fan("two channels, one fence, 1 entry", wrap, 1);
		return true;
	case 10:
		*ret_program = fan("two channels, one fence, 2 entries", wrap, 2);
		return true;
	default:
		return false;
	}
}
