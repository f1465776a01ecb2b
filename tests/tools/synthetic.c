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

/* Three shapes, a session, a pipeline and three errors. */
static void fill_rest(struct synthetic *s)
{
	static const uint32_t states[] = {MSG_GRAPH_CAPTURED, MSG_GRAPH_COLD, MSG_GRAPH_FAILED};
	struct stats_session *session = &s->stats.sessions[0];
	struct stats_pipeline *pipeline = &s->stats.pipelines[0];
	const uint64_t now_ns = clock_monotonic_ns();

	for (uint32_t i = 0; i < 3; i++) {
		struct stats_graph *g = &s->stats.graphs[i];
		*g = (struct stats_graph){.id = i + 1, .kernels = 3, .uses = 100, .hits = 90 - i};
		g->last_used_ns = now_ns;
		g->bytes = i == 0 ? 40960 : 0;
		g->capture_ns = i == 0 ? 350000 : 0;
		snprintf(g->shape, sizeof(g->shape), "gemv_batched f32[%u,64]", 16 + i);
		if (states[i] == MSG_GRAPH_FAILED)
			snprintf(g->reason, sizeof(g->reason), "too large");
		g->state = states[i];
	}
	*session = (struct stats_session){.handle = 1 << 16,
		.model = 1,
		.client_generation = 1,
		.opened_ns = now_ns,
		.last_ns = now_ns,
		.tokens = 50,
		.kv_blocks = 4,
		.prompt_tokens = 40,
		.answers = 10,
		.first_token_ns = 3000000,
		.gap_ns = 500000};
	session->state = 1;
	*pipeline = (struct stats_pipeline){.handle = 1 << 16, .client_generation = 1, .steps = 4};
	snprintf(pipeline->name, sizeof(pipeline->name), "preprocess");
	pipeline->state = 1;
	for (int i = 0; i < 3; i++)
		stats_count_error(
			&s->stats, STATS_ERRORS_OF_DEVICE, -GPUQ_ESHAPE, "softmax", NULL, now_ns);
	stats_count_error(&s->stats, STATS_ERRORS_OF_CONTROL, -GPUQ_EPROTO, "message",
		"a message was cut off", now_ns);
	stats_count_error(
		&s->stats, STATS_ERRORS_OF_DEVICE, -GPUQ_ESHAPE, "gemv_batched", NULL, now_ns);
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
			.captures = 64,
			.sessions = 4,
			.pipelines = 4},
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
	fill_rest(&s);
	*ret = s;
	return 0;
}

static void add(uint64_t *counts, uint64_t n, uint64_t ns)
{
	counts[hist_bucket(ns, HIST_STATS_BITS)] += n;
}

static void add_device(struct stats_device *d, uint64_t n, uint64_t queue_ns, uint64_t execute_ns)
{
	d->completed += n;
	d->busy_ns += n * execute_ns;
	add(d->queue_hist, n, queue_ns);
	add(d->launch_hist, n, queue_ns / 2);
	add(d->execute_hist, n, execute_ns);
	add(d->total_hist, n, queue_ns + execute_ns);
}

/* Of the tokens a tenth are those of prompts, and as many answers are first ones. */
static void add_model(struct stats *s, uint64_t n, uint64_t execute_ns)
{
	struct stats_model *m = &s->models[1];

	m->computed_tokens += n;
	m->steps += n / 2;
	m->rows += n;
	m->batches[1] += n / 2;
	add(m->decode_hist, n / 2, execute_ns);
	add(m->first_token_hist, n / 10, 3 * execute_ns);
	add(m->gap_hist, n, execute_ns);
	s->sessions[0].answers += n;
	s->pipelines[0].calls += n;
	add(s->pipelines[0].execute_hist, n, execute_ns);
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
		add_device(&s->stats.devices[0], n, queue_ns, execute_ns);
	}
	add_model(&s->stats, n, execute_ns);
	s->stats.header->heartbeat_ns = clock_monotonic_ns();
}

void synthetic_destroy(struct synthetic *s)
{
	shm_unlink(s->name);
	stats_close(&s->stats);
	close(s->fd);
}
