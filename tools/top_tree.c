/* SPDX-License-Identifier: MIT */
/* Clients as a tree: users, their clients, the channels of these. */
#include "tools/top_model.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tree {
	const struct top_client *clients;
	const struct top_channel *channels;
	uint32_t n_clients, n_channels;
	struct top_rows *out;
};

static struct top_node *add_node(struct tree *t)
{
	struct top_node *node = (struct top_node *)t->out->rows + t->out->n++;

	memset(node, 0, sizeof(*node));
	return node;
}

static void add_channel(struct tree *t, const struct top_channel *c, bool last)
{
	struct top_node *node = add_node(t);

	node->mark = c->mark;
	snprintf(node->label, sizeof(node->label), "   %s channel %llu", last ? "`-" : "|-",
		(unsigned long long)c->record);
	memcpy(node->state, c->state, sizeof(node->state));
	node->clients = TOP_UNKNOWN;
	node->channels = TOP_UNKNOWN;
	node->depth = c->depth;
	node->in_flight = c->in_flight;
	node->failed = c->failed;
	node->segment_bytes = c->arena_bytes;
	node->rate = c->rate;
	node->queue = c->queue;
	node->execute = c->execute;
}

static bool belongs(const struct top_channel *channel, const struct top_client *client)
{
	return channel->client == client->record && channel->pid == client->pid;
}

static void add_client(struct tree *t, const struct top_client *c)
{
	struct top_node *node = add_node(t);
	uint32_t last = 0;

	node->mark = c->mark;
	snprintf(node->label, sizeof(node->label), "   %.31s (%llu)", c->name,
		(unsigned long long)c->pid);
	memcpy(node->state, c->state, sizeof(node->state));
	node->clients = TOP_UNKNOWN;
	node->channels = c->channels;
	node->depth = c->depth;
	node->in_flight = c->in_flight;
	node->failed = c->failed;
	node->segment_bytes = c->segment_bytes;
	node->rate = c->rate;
	node->queue = c->queue;
	node->execute = c->execute;
	for (uint32_t i = 0; i < t->n_channels; i++)
		last = belongs(&t->channels[i], c) ? i : last;
	for (uint32_t i = 0; i < t->n_channels; i++) {
		if (belongs(&t->channels[i], c))
			add_channel(t, &t->channels[i], i == last);
	}
}

/* Times of several clients cannot be told from theirs: the longest one stands for them. */
static uint64_t longer(uint64_t a, uint64_t b)
{
	if (a == TOP_UNKNOWN || b == TOP_UNKNOWN)
		return a == TOP_UNKNOWN ? b : a;
	return a > b ? a : b;
}

static void sum_up(struct top_node *user, const struct top_client *c)
{
	user->clients++;
	user->channels += c->channels;
	user->depth += c->depth;
	user->in_flight += c->in_flight;
	user->failed += c->failed;
	user->segment_bytes += c->segment_bytes;
	if (!isnan(c->rate))
		user->rate = isnan(user->rate) ? c->rate : user->rate + c->rate;
	user->queue.p50 = longer(user->queue.p50, c->queue.p50);
	user->queue.p99 = longer(user->queue.p99, c->queue.p99);
	user->execute.p50 = longer(user->execute.p50, c->execute.p50);
	user->execute.p99 = longer(user->execute.p99, c->execute.p99);
}

static void add_user(struct tree *t, uint32_t first)
{
	const struct top_client *c = t->clients;
	struct top_node *user = add_node(t);

	snprintf(user->label, sizeof(user->label), "%.31s", c[first].user);
	user->rate = NAN;
	user->queue = user->execute = (struct top_latency){TOP_UNKNOWN, TOP_UNKNOWN};
	for (uint32_t i = first; i < t->n_clients; i++) {
		if (c[i].uid != c[first].uid)
			continue;
		sum_up(user, &c[i]);
		add_client(t, &c[i]);
	}
}

int top_tree(const struct top_model *model, struct top_rows *ret_rows)
{
	struct tree t = {
		.clients = model->rows[TOP_CLIENTS].rows,
		.channels = model->rows[TOP_CHANNELS].rows,
		.n_clients = model->rows[TOP_CLIENTS].n,
		.n_channels = model->rows[TOP_CHANNELS].n,
		.out = ret_rows,
	};
	/* At most a user for each client; + 1: no rows is not out of memory. */
	const size_t most = 2 * (size_t)t.n_clients + t.n_channels + 1;
	void *rows = calloc(most, sizeof(struct top_node));

	if (rows == NULL)
		return -ENOMEM;
	*ret_rows = (struct top_rows){.rows = rows};
	for (uint32_t i = 0; i < t.n_clients; i++) {
		bool first = true;
		for (uint32_t k = 0; k < i; k++)
			first = first && t.clients[k].uid != t.clients[i].uid;
		if (first)
			add_user(&t, i);
	}
	return 0;
}
