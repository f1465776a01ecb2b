/* SPDX-License-Identifier: MIT */
/* Puts requests together from events of the flight recorder. */
#include "tools/trace.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define REASON_NS 60000000000u /* nothing waits longer in a ring */

/* Room for one more; doubles. */
static int grow(void **items, uint32_t n, uint32_t *capacity, size_t bytes)
{
	if (n < *capacity)
		return 0;
	const uint32_t more = *capacity == 0 ? 256 : *capacity * 2;
	void *new = realloc(*items, more * bytes);
	if (new == NULL)
		return -ENOMEM;
	*items = new;
	*capacity = more;
	return 0;
}

/* --- Channels ------------------------------------------------------------------------------ */

/* Few at a time, and the last one used is often meant. NULL: no memory. */
static struct trace_channel *channel_of(struct trace *t, const struct recorder_event *e)
{
	for (uint32_t i = t->n_channels; i-- > 0;) {
		struct trace_channel *ch = &t->channels[i];
		if (ch->number == e->channel && ch->generation == e->generation)
			return ch;
	}
	if (grow((void **)&t->channels, t->n_channels, &t->channels_capacity, sizeof(*t->channels)))
		return NULL;
	struct trace_channel *ch = &t->channels[t->n_channels++];
	*ch = (struct trace_channel){.number = e->channel, .generation = e->generation};
	return ch;
}

/* What the events did not tell: whose a channel is, by the statistics. */
static void know_channels(struct trace *t)
{
	const struct snapshot_table *table = &t->snapshot->channels;
	const struct stats_channel *rows = table->rows;

	for (uint32_t i = 0; i < t->n_channels; i++) {
		struct trace_channel *ch = &t->channels[i];
		for (uint32_t j = 0; j < table->n && !ch->known; j++) {
			if (table->records[j] != ch->number || rows[j].generation != ch->generation)
				continue;
			ch->client = rows[j].client;
			ch->client_generation = rows[j].client_generation;
			ch->known = true;
		}
	}
}

/* --- Requests ------------------------------------------------------------------------------ */

static uint32_t hash(uint32_t channel, uint64_t ticket)
{
	const uint64_t h = (ticket * 0x9e3779b97f4a7c15u) ^ (channel * 0xc2b2ae3d27d4eb4full);

	return (uint32_t)(h >> 32) ^ (uint32_t)h;
}

/* Where the request is in the index, or would be. */
static uint32_t *find(struct trace *t, uint32_t channel, uint64_t ticket)
{
	uint32_t at = hash(channel, ticket) & t->index_mask;

	for (; t->index[at] != 0; at = (at + 1) & t->index_mask) {
		const struct trace_request *r = &t->requests[t->index[at] - 1];
		if (r->channel == channel && r->ticket == ticket)
			break;
	}
	return &t->index[at];
}

static struct trace_request *add(struct trace *t, uint32_t channel, uint64_t ticket)
{
	if (grow((void **)&t->requests, t->n_requests, &t->requests_capacity, sizeof(*t->requests)))
		return NULL;
	struct trace_request *r = &t->requests[t->n_requests++];
	*r = (struct trace_request){.channel = channel, .ticket = ticket, .op = RECORDER_NO_OP};
	return r;
}

/* The request of an event; one that nothing is known of yet is added. NULL: no memory. */
static struct trace_request *request_of(struct trace *t, const struct recorder_event *e)
{
	const struct trace_channel *ch = channel_of(t, e);

	if (ch == NULL)
		return NULL;
	const uint32_t channel = (uint32_t)(ch - t->channels);
	/* A batch is known by its first entry, which may be a request with events of its own. */
	if (e->kind == RECORDER_BATCH)
		return add(t, channel, e->ticket);
	uint32_t *at = find(t, channel, e->ticket);
	if (*at != 0)
		return &t->requests[*at - 1];
	struct trace_request *r = add(t, channel, e->ticket);
	if (r != NULL)
		*at = t->n_requests;
	return r;
}

/* Its completion is posted: from now on it waits to be seen. */
static void posted(struct trace *t, struct trace_request *r, const struct recorder_event *e)
{
	struct trace_channel *ch = &t->channels[r->channel];
	const uint32_t number = (uint32_t)(r - t->requests) + 1;

	r->ended = true;
	r->status = e->status;
	if (ch->first == 0)
		ch->first = number;
	else
		t->requests[ch->last - 1].next = number;
	ch->last = number;
}

static void on_ended(struct trace_request *r, const struct recorder_event *e)
{
	r->posted_ns = e->time_ns;
	r->start_ns = e->words[0];
	r->end_ns = e->words[1];
	r->completion = e->words[2];
	r->graph = e->words[3];
	r->replayed = e->what == RECORDER_REPLAYED;
}

static void on_taken(struct trace_request *r, const struct recorder_event *e)
{
	r->taken_ns = e->time_ns;
	r->kind = e->what;
	r->submitted_ns = e->words[0];
	r->trace_id = e->words[1];
	r->op = (uint32_t)e->words[3];
	r->session = (uint32_t)(e->words[3] >> 32);
}

/* What dispatch did at once: taken, and its completion posted. */
static void on_at_once(struct trace_request *r, const struct recorder_event *e)
{
	r->taken_ns = r->start_ns = r->end_ns = e->time_ns;
	r->submitted_ns = e->words[0];
	r->completion = e->words[2];
	r->trace_id = e->words[3];
	if (e->kind == RECORDER_INLINE) {
		r->kind = RECORDER_CALL;
		r->is_inline = true;
		r->end_ns = e->words[1];
		r->op = e->what;
	} else if (e->kind == RECORDER_BATCH) {
		r->n = e->what;
		r->completion--;
		r->trace_id = 0;
	}
	r->posted_ns = r->end_ns;
}

static int on_request(struct trace *t, const struct recorder_event *e)
{
	struct trace_request *r = request_of(t, e);

	if (r == NULL)
		return -ENOMEM;
	switch (e->kind) {
	case RECORDER_TAKEN:
		on_taken(r, e);
		return 0;
	case RECORDER_GIVEN:
		r->given_ns = e->time_ns;
		r->launched_ns = e->words[0];
		return 0;
	case RECORDER_ENDED:
		on_ended(r, e);
		break;
	default:
		on_at_once(r, e);
	}
	posted(t, r, e);
	return 0;
}

static int on_seen(struct trace *t, const struct recorder_event *e)
{
	struct trace_channel *ch = channel_of(t, e);

	if (ch == NULL)
		return -ENOMEM;
	while (ch->first != 0) {
		struct trace_request *r = &t->requests[ch->first - 1];
		if ((int64_t)(e->ticket - r->completion) <= 0)
			break;
		r->seen_ns = e->time_ns;
		ch->first = r->next;
	}
	return 0;
}

static int on_channel(struct trace *t, const struct recorder_event *e)
{
	struct trace_channel *ch = channel_of(t, e);

	if (ch == NULL)
		return -ENOMEM;
	ch->client = (uint32_t)e->words[0];
	ch->client_generation = (uint32_t)(e->words[0] >> 32);
	ch->known = true;
	return 0;
}

static int on_event(struct trace *t, const struct recorder_event *e)
{
	switch (e->kind) {
	case RECORDER_TAKEN:
	case RECORDER_GIVEN:
	case RECORDER_ENDED:
	case RECORDER_INLINE:
	case RECORDER_REFUSED:
	case RECORDER_BATCH:
		return on_request(t, e);
	case RECORDER_SEEN:
		return on_seen(t, e);
	case RECORDER_CHANNEL:
	case RECORDER_CHANNEL_END:
		return on_channel(t, e);
	default:
		return 0;
	}
}

/* The client's word for a submission is taken within reason. */
static void check_submissions(struct trace *t)
{
	for (uint32_t i = 0; i < t->n_requests; i++) {
		struct trace_request *r = &t->requests[i];
		const uint64_t waited_ns = r->taken_ns - r->submitted_ns;
		if (r->taken_ns == 0 || r->submitted_ns > r->taken_ns || waited_ns > REASON_NS)
			r->submitted_ns = r->taken_ns;
		if (r->submitted_ns != 0 && r->submitted_ns < t->first_ns)
			t->first_ns = r->submitted_ns;
	}
}

static void find_span(struct trace *t)
{
	t->first_ns = UINT64_MAX;
	for (uint32_t i = 0; i < RECORDER_RINGS; i++) {
		const struct recording_ring *ring = &t->recording->rings[i];
		for (uint64_t j = 0; j < ring->n; j++) {
			const uint64_t at_ns = ring->events[j].time_ns;
			t->first_ns = at_ns < t->first_ns ? at_ns : t->first_ns;
			t->last_ns = at_ns > t->last_ns ? at_ns : t->last_ns;
		}
	}
	if (t->first_ns > t->last_ns)
		t->first_ns = t->last_ns;
}

int trace_build(struct trace *ret_trace, const struct recording *recording,
	const struct snapshot *snapshot, struct stats_graph *graphs, uint32_t n_graphs)
{
	const struct recording_ring *ring = &recording->rings[RECORDER_DISPATCH];
	struct trace t = {
		.recording = recording,
		.snapshot = snapshot,
		.graphs = graphs,
		.n_graphs = n_graphs,
		.index_mask = 1023,
	};

	while (t.index_mask < 2 * ring->n)
		t.index_mask = t.index_mask * 2 + 1;
	t.index = calloc((size_t)t.index_mask + 1, sizeof(*t.index));
	int r = t.index == NULL ? -ENOMEM : 0;
	for (uint64_t i = 0; i < ring->n && r == 0; i++)
		r = on_event(&t, &ring->events[i]);
	if (r < 0) {
		trace_free(&t);
		return r;
	}
	know_channels(&t);
	find_span(&t);
	check_submissions(&t);
	*ret_trace = t;
	return 0;
}

void trace_free(struct trace *t)
{
	free(t->graphs);
	free(t->requests);
	free(t->channels);
	free(t->index);
}

uint64_t trace_lost(const struct trace *t)
{
	uint64_t lost = 0;

	for (uint32_t i = 0; i < RECORDER_RINGS; i++)
		lost += t->recording->rings[i].lost;
	return lost;
}
