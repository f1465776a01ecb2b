/* SPDX-License-Identifier: MIT */
/* stream.c: streams, events, and how commands get into streams; see cpu.h. */
#include "device/cpu/cpu.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define SPAN_UNIT (64u << 10) /* bytes of a copy or fill that are one unit */
#define SPAN_BYTES_PER_NS 8u  /* for the prediction of how long it takes */

/* --- Streams ------------------------------------------------------------------------------ */

/* A stream that nobody has used yet joins the others, which workers scan. */
static int stream_add(struct cpu_device *d, uint32_t priority, struct cpu_stream **ret)
{
	uint64_t n = d->n_streams[priority];
	struct cpu_stream *s;

	if (n == CPU_MAX_STREAMS || posix_memalign((void **)&s, WIRE_LINE, sizeof(*s)) != 0)
		return -ENOMEM;
	memset(s, 0, sizeof(*s));
	s->base.device = &d->base;
	s->priority = priority;
	d->streams[priority][n] = s;
	shm_store_release(&d->n_streams[priority], n + 1);
	*ret = s;
	return 0;
}

int cpu_stream_create(struct device *device, uint32_t priority, struct device_stream **ret)
{
	struct cpu_device *d = cpu_device(device);
	struct cpu_stream *s;
	int r = 0;

	pthread_mutex_lock(&d->lock);
	TAILQ_FOREACH (s, &d->pool, pool_link) {
		if (s->priority == priority)
			break;
	}
	if (s != NULL)
		TAILQ_REMOVE(&d->pool, s, pool_link);
	else
		r = stream_add(d, priority, &s);
	pthread_mutex_unlock(&d->lock);
	if (r == 0)
		*ret = &s->base;
	return r;
}

void cpu_stream_destroy(struct device_stream *stream)
{
	struct cpu_device *d = cpu_device(stream->device);
	struct cpu_stream *s = cpu_stream(stream);

	cpu_stream_drain(s, s->tail);
	pthread_mutex_lock(&d->lock);
	TAILQ_INSERT_HEAD(&d->pool, s, pool_link);
	pthread_mutex_unlock(&d->lock);
}

static bool idle(struct cpu_stream *s)
{
	s->head_seen = shm_load_acquire(&s->head);
	return s->head_seen == s->tail;
}

int cpu_stream_query(struct device_stream *stream)
{
	return idle(cpu_stream(stream));
}

int cpu_stream_wait(struct device_stream *stream)
{
	struct cpu_stream *s = cpu_stream(stream);

	cpu_stream_drain(s, s->tail);
	return shm_load_relaxed(&stream->device->failed) != 0 ? -GPUQ_EDEVICE : 0;
}

/* --- Commands ----------------------------------------------------------------------------- */

/* The place of the next command, or NULL when the ring is full. */
static struct cpu_command *command_begin(struct cpu_stream *s)
{
	if (s->tail - s->head_seen == CPU_STREAM_DEPTH) {
		idle(s);
		if (s->tail - s->head_seen == CPU_STREAM_DEPTH)
			return NULL;
	}
	struct cpu_command *c = &s->commands[s->tail % CPU_STREAM_DEPTH];
	c->n_nodes = 0;
	c->completes = false;
	c->watched = false;
	c->replays = false;
	c->awaits = false;
	return c;
}

static void command_publish(struct cpu_stream *s)
{
	struct cpu_command *c = &s->commands[s->tail++ % CPU_STREAM_DEPTH];

	/* Pairs with published(): the command is there before its number. */
	shm_store_release(&c->number, s->tail);
	cpu_wake_worker(cpu_device(s->base.device));
}

/*
 * Copies arguments word by word, and only what differs from the launch that had the place before:
 * most of them are unused, and lines that are not written need not be fetched from the worker.
 */
static void set_args(struct cpu_command *c, const struct device_args *args)
{
	const uint64_t *from = (const uint64_t *)args;
	uint64_t *to = (uint64_t *)&c->args;

	for (size_t i = 0; i < sizeof(*args) / sizeof(*to); i++) {
		if (to[i] != from[i])
			to[i] = from[i];
	}
}

int cpu_launch(struct device_stream *stream, const struct device_kernel *kernel,
	const struct device_args *args)
{
	struct cpu_stream *s = cpu_stream(stream);
	const struct cpu_node node = {
		.run = kernel->code->cpu,
		.shape = kernel->shape,
		.units = kernel->units,
		.predicted_ns = kernel->predicted_ns,
	};

	if (kernel->code->cpu == NULL)
		return -EOPNOTSUPP;
	if (stream->capture != NULL)
		return cpu_record(stream, &node, kernel->shape_bytes);
	struct cpu_command *c = command_begin(s);
	if (c == NULL)
		return -EAGAIN;
	c->node = node;
	c->n_nodes = 1;
	c->completes = kernel->signal;
	set_args(c, args);
	command_publish(s);
	return 0;
}

/* The bytes of a span that units begin..end-1 are. */
static uint64_t span_part(const struct cpu_span *span, uint64_t begin, uint64_t end)
{
	uint64_t last = end * SPAN_UNIT < span->bytes ? end * SPAN_UNIT : span->bytes;

	return last - begin * SPAN_UNIT;
}

static void run_copy(
	const void *shape, const struct device_args *args, uint64_t begin, uint64_t end)
{
	const struct cpu_span *span = shape;
	uint64_t at = begin * SPAN_UNIT;

	memcpy(span->to + at, span->from + at, span_part(span, begin, end));
}

static void run_fill(
	const void *shape, const struct device_args *args, uint64_t begin, uint64_t end)
{
	const struct cpu_span *span = shape;

	memset(span->to + begin * SPAN_UNIT, span->byte, span_part(span, begin, end));
}

static int enqueue_span(struct device_stream *stream, const struct cpu_span *span)
{
	const struct cpu_node node = {
		.run = span->from != NULL ? run_copy : run_fill,
		.units = span->bytes / SPAN_UNIT + (span->bytes % SPAN_UNIT != 0),
		.predicted_ns = span->bytes / SPAN_BYTES_PER_NS,
		.shape = span,
	};

	if (stream->capture != NULL)
		return cpu_record(stream, &node, sizeof(*span));
	struct cpu_command *c = command_begin(cpu_stream(stream));
	if (c == NULL)
		return -EAGAIN;
	c->node = node;
	c->span = *span;
	c->node.shape = &c->span;
	c->n_nodes = 1;
	command_publish(cpu_stream(stream));
	return 0;
}

int cpu_copy(struct device_stream *stream, void *to, const void *from, uint64_t bytes)
{
	return enqueue_span(stream, &(struct cpu_span){.to = to, .from = from, .bytes = bytes});
}

int cpu_fill(struct device_stream *stream, void *data, uint8_t byte, uint64_t bytes)
{
	return enqueue_span(stream, &(struct cpu_span){.to = data, .bytes = bytes, .byte = byte});
}

int cpu_signal(struct device_stream *stream, const struct device_args *args)
{
	/* An executable completes at its end: see cpu_exec_launch(). */
	if (stream->capture != NULL)
		return 0;
	struct cpu_command *c = command_begin(cpu_stream(stream));
	if (c == NULL)
		return -EAGAIN;
	c->completes = true;
	set_args(c, args);
	command_publish(cpu_stream(stream));
	return 0;
}

int cpu_exec_launch(
	struct device_exec *exec, struct device_stream *stream, const struct device_args *args)
{
	struct cpu_exec *e = (struct cpu_exec *)exec;
	struct cpu_stream *s = cpu_stream(stream);

	if (e->launched - shm_load_acquire(&e->ended) == DEVICE_EXEC_DEPTH)
		return -EAGAIN;
	struct cpu_command *c = command_begin(s);
	if (c == NULL)
		return -EAGAIN;
	c->n_nodes = e->n_nodes;
	c->completes = true;
	c->watched = true;
	c->replays = true;
	c->exec = e;
	/* Its launches run one after another: in one stream they do anyway. */
	if (e->last != NULL && e->last != s) {
		c->awaits = true;
		c->awaited = e->last;
		c->position = e->last_position;
	}
	set_args(c, args);
	e->launched++;
	e->last = s;
	e->last_position = s->tail + 1;
	command_publish(s);
	return 0;
}

/* --- Events ------------------------------------------------------------------------------- */

int cpu_event_create(struct device *device, struct device_event **ret_event)
{
	struct cpu_event *event = calloc(1, sizeof(*event));

	if (event == NULL)
		return -ENOMEM;
	event->base.device = device;
	*ret_event = &event->base;
	return 0;
}

void cpu_event_destroy(struct device_event *event)
{
	free(event);
}

int cpu_event_record(struct device_event *event, struct device_stream *stream)
{
	struct cpu_event *e = (struct cpu_event *)event;
	struct cpu_stream *s = cpu_stream(stream);

	/* A capture is one list of nodes in the order of recording: they are joined as they are. */
	if (stream->capture != NULL)
		return 0;
	if (!idle(s)) {
		struct cpu_command *c = command_begin(s);
		if (c == NULL)
			return -EAGAIN;
		c->watched = true;
		command_publish(s);
	}
	e->stream = s;
	e->position = s->tail;
	return 0;
}

int cpu_event_query(struct device_event *event)
{
	const struct cpu_event *e = (const struct cpu_event *)event;

	return e->stream == NULL || shm_load_acquire(&e->stream->head) >= e->position;
}

int cpu_event_await(struct device_event *event, struct device_stream *stream)
{
	const struct cpu_event *e = (const struct cpu_event *)event;
	struct cpu_stream *s = cpu_stream(stream);

	if (stream->capture != NULL || e->stream == s || cpu_event_query(event))
		return 0;
	struct cpu_command *c = command_begin(s);
	if (c == NULL)
		return -EAGAIN;
	c->awaits = true;
	c->awaited = e->stream;
	c->position = e->position;
	command_publish(s);
	return 0;
}
