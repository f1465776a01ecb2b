/* SPDX-License-Identifier: MIT */
/*
 * rings.c: all interleavings of honest sides. Each entry arrives once, in order, with all its
 * words; nobody waits for ever; no unread slot is overwritten; no bell rings without a wish.
 *
 * Up to 3 entries through rings of 2 (full: the producer waits) and of 4, from index 0 and
 * across the wrap of 64 bits, published one by one or in batches, with a consumer that sleeps for
 * one entry or for several, and silences its bell at once or before it sleeps again. One ring; a
 * channel, where both sides sleep; a gpuqd that answers two clients under one fence (three
 * threads). The states that a search visits, and the interleavings that they stand for:
 *
 *	one way			3 * 10^3 .. 3 * 10^4	up to 10^17
 *	channel			6 * 10^5 .. 10^6	up to 10^37
 *	two channels		8 * 10^3 and 2 * 10^6	up to 5 * 10^32
 *	hostile.c		60 .. 2000		up to 4 * 10^8
 *
 * All together 4.9 * 10^6 states and 1.9 * 10^7 transitions: some seconds.
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

struct shape {
	void (*build)(struct explore_program *p, const struct shape *shape);
	const char *name;
	uint32_t entries; /* of each ring */
	uint64_t start, total;
	/* 0 stands for 1: entries published together; to sleep for; under way in a channel. */
	uint64_t batch, want, depth;
	bool late; /* the consumer silences its bell late */
};

static uint64_t or_1(uint64_t n)
{
	return n != 0 ? n : 1;
}

static void add_ring(struct explore_program *p, uint32_t r, const struct shape *shape)
{
	char name[24];

	snprintf(name, sizeof(name), "ring%u.prod", r);
	explore_add_word(p, &shared.ring[r].prod, shape->start, false, name);
	snprintf(name, sizeof(name), "ring%u.cons", r);
	explore_add_word(p, &shared.ring[r].cons, shape->start, false, name);
	snprintf(name, sizeof(name), "ring%u.wake_at", r);
	explore_add_word(p, &shared.ring[r].wake_at, shape->start, false, name);
	for (uint32_t i = 0; i < shape->entries * SIDE_WORDS; i++) {
		snprintf(name, sizeof(name), "ring%u.slot%u.%u", r, i / SIDE_WORDS, i % SIDE_WORDS);
		explore_add_word(p, &shared.slots[r][i], 7, false, name);
	}
	for (uint64_t i = 0; i <= SIDE_MAX; i++)
		explore_add_value(p, shape->start + i);
}

static struct producing producing(uint32_t r, const struct shape *shape)
{
	const uint64_t start = shape->start;

	return (struct producing){
		.p = {&shared.ring[r], start, start, start, shape->entries},
		.slots = shared.slots[r],
		.total = shape->total,
		.batch = or_1(shape->batch),
		.bell = r,
	};
}

static struct consuming consuming(uint32_t r, const struct shape *shape)
{
	return (struct consuming){
		.c = {&shared.ring[r], shape->start, shape->start, shape->entries},
		.slots = shared.slots[r],
		.total = shape->total,
		.want = or_1(shape->want),
		.bell = r,
		.late = shape->late,
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
static void one_way(struct explore_program *p, const struct shape *shape)
{
	struct producing producer = producing(0, shape);
	struct consuming consumer = consuming(0, shape);

	p->check = one_way_check;
	add_ring(p, 0, shape);
	explore_add_thread(p, "producer", producer_round, &producer, sizeof(producer));
	explore_add_thread(p, "consumer", consumer_round, &consumer, sizeof(consumer));
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
static void channel(struct explore_program *p, const struct shape *shape)
{
	struct both client = {producing(0, shape), consuming(1, shape), or_1(shape->depth), 0};
	struct both daemon = {producing(1, shape), consuming(0, shape), 0, 0};

	/* As they do: a pipe that is emptied before the next sleep, an edge that is seen once. */
	client.in.late = true;
	p->check = channel_check;
	add_ring(p, 0, shape);
	add_ring(p, 1, shape);
	explore_add_thread(p, "client", client_round, &client, sizeof(client));
	explore_add_thread(p, "gpuqd", daemon_round, &daemon, sizeof(daemon));
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

static void two_channels(struct explore_program *p, const struct shape *shape)
{
	struct fan daemon = {{producing(0, shape), producing(1, shape)}};
	struct consuming client[2] = {consuming(0, shape), consuming(1, shape)};

	p->check = fan_check;
	add_ring(p, 0, shape);
	add_ring(p, 1, shape);
	explore_add_thread(p, "gpuqd", fan_round, &daemon, sizeof(daemon));
	explore_add_thread(p, "client0", consumer_round, &client[0], sizeof(client[0]));
	explore_add_thread(p, "client1", consumer_round, &client[1], sizeof(client[1]));
}

#define WRAP (UINT64_MAX - 1)

static const struct shape shapes[] = {
	{one_way, "one way, ring of 2", 2, 0, 3},
	{one_way, "one way, ring of 2, wrapping, late silence", 2, WRAP, 3, .late = true},
	{one_way, "one way, ring of 2, batch 2, sleep for 2", 2, 0, 3, .batch = 2, .want = 2},
	{one_way, "one way, ring of 4, wrapping", 4, WRAP, 3},
	{one_way, "one way, ring of 4, wrapping, batch 2", 4, WRAP, 3, .batch = 2},
	{one_way, "one way, ring of 4, wrapping, sleep for 3", 4, WRAP, 3, .want = 3},
	{channel, "channel, ring of 2, wrapping, 1 under way", 2, WRAP, 3, .depth = 1},
	{channel, "channel, ring of 2, 2 under way", 2, 0, 3, .depth = 2},
	{channel, "channel, ring of 4, wrapping, 3 under way", 4, WRAP, 3, .depth = 3},
	{two_channels, "two channels, one fence, 1 entry", 2, WRAP, 1},
	{two_channels, "two channels, one fence, 2 entries", 2, WRAP, 2},
};

bool scenario_rings(uint32_t i, struct explore_program *ret_program)
{
	if (i == sizeof(shapes) / sizeof(shapes[0]))
		return false;
	memset(ret_program, 0, sizeof(*ret_program));
	ret_program->name = shapes[i].name;
	shapes[i].build(ret_program, &shapes[i]);
	return true;
}
