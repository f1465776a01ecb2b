/* SPDX-License-Identifier: MIT */
/* A statistics object with made-up traffic. */
#include "tests/tools/synthetic.h"

#include "shm/clock.h"
#include "shm/proto.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void fill_header(struct synthetic *s)
{
	struct stats_header *h = s->stats.header;
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	h->state = WIRE_SERVING;
	h->control_pid = (uint32_t)getpid();
	h->control_uid = getuid();
	h->started_realtime_ns = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	h->heartbeat_ns = clock_monotonic_ns();
	h->cpus = 2;
	h->clients = s->clients;
	h->channels = s->channels;
	h->segment_bytes = s->channels * 1100000ull;
	h->accepted = s->clients + 3;
	h->refused = 1;
	h->deaths = 2;
	snprintf(h->version_text, sizeof(h->version_text), "0.1.0");
}

static void fill_device(struct synthetic *s)
{
	struct stats_device *d = &s->stats.devices[0];

	d->pid = (uint32_t)getpid();
	d->epoch = 1;
	d->workers = 2;
	d->active_channels = s->channels;
	snprintf(d->kind, sizeof(d->kind), "cpu");
	snprintf(d->name, sizeof(d->name), "Synthetic 9000, 2 workers");
	d->state = STATS_DEVICE_READY;
}

static void fill_client(struct synthetic *s, uint32_t i)
{
	static const char *const names[] = {"scorer", "pricer", "camera", "a-name-of-some-length"};
	struct stats_client *c = &s->stats.clients[i];

	c->pid = i == 0 ? (uint32_t)getpid() : 1000 + i;
	c->uid = getuid();
	c->generation = 1;
	c->connected_ns = clock_monotonic_ns();
	c->segment_bytes = 1100000;
	snprintf(c->name, sizeof(c->name), "%s", names[i % 4]);
	c->state = STATS_CLIENT_CONNECTED;
}

static void fill_channel(struct synthetic *s, uint32_t i)
{
	struct stats_channel *c = &s->stats.channels[i];

	c->client = i % s->clients;
	c->client_generation = 1;
	c->generation = 1;
	c->sq_entries = 256;
	c->cq_entries = 512;
	c->arena_bytes = 1 << 20;
	c->state = STATS_CHANNEL_OPEN;
	s->stats.clients[c->client].channels++;
}

static void fill_model(struct synthetic *s)
{
	struct stats_model *m = &s->stats.models[1];

	snprintf(m->name, sizeof(m->name), "small");
	snprintf(m->architecture, sizeof(m->architecture), "llama");
	m->handle = 1;
	m->bytes = 5000000;
	m->sessions = 3;
	m->kv_blocks = 100;
	m->kv_free_blocks = 60;
	m->kv_cached_blocks = 15;
	m->state = MSG_MODEL_READY;
}

int synthetic_create(
	struct synthetic *ret, const char *socket_path, uint32_t clients, uint32_t channels)
{
	static const char *const ops[] = {"gemv_batched", "softmax"};
	struct synthetic s = {.clients = clients, .channels = channels};
	int r = stats_create(socket_path,
		&(struct stats_sizes){.clients = clients + 4,
			.channels = channels + 4,
			.ops = 4,
			.graphs = 64,
			.models = 2,
			.captures = 64},
		&s.stats, &s.fd);

	if (r < 0)
		return r;
	stats_name(socket_path, s.name, sizeof(s.name));
	fill_header(&s);
	fill_device(&s);
	for (uint32_t i = 0; i < clients; i++)
		fill_client(&s, i);
	for (uint32_t i = 0; i < channels; i++)
		fill_channel(&s, i);
	for (uint32_t i = 0; i < 2; i++) {
		snprintf(s.stats.ops[i].name, GPUQ_NAME_MAX, "%s", ops[i]);
		s.stats.ops[i].state = 1;
	}
	fill_model(&s);
	*ret = s;
	return 0;
}

void synthetic_traffic(struct synthetic *s, uint64_t n, uint64_t queue_ns, uint64_t execute_ns)
{
	for (uint32_t i = 0; i < s->channels; i++) {
		struct stats_channel *c = &s->stats.channels[i];
		struct stats_op *op = &s->stats.ops[i % 2];

		if (c->parked)
			continue;
		c->consumed += n;
		c->completed += n;
		c->last_active_ns = clock_monotonic_ns();
		c->queue_hist[hist_bucket(queue_ns, HIST_STATS_BITS)] += n;
		c->execute_hist[hist_bucket(execute_ns, HIST_STATS_BITS)] += n;
		op->calls += n;
		op->execute_hist[hist_bucket(execute_ns, HIST_STATS_BITS)] += n;
		s->stats.devices[0].completed += n;
		s->stats.devices[0].busy_ns += n * execute_ns;
	}
	s->stats.models[1].computed_tokens += n;
	s->stats.models[1].steps += n / 2;
	s->stats.header->heartbeat_ns = clock_monotonic_ns();
}

void synthetic_destroy(struct synthetic *s)
{
	shm_unlink(s->name);
	stats_close(&s->stats);
	close(s->fd);
}
