/* SPDX-License-Identifier: MIT */
/*
 * graph.c: recording, and executables. A graph is the list of the nodes in the order in which they
 * were recorded, whatever the stream; an executable has the same list in one allocation with the
 * shapes, and is launched as one command (stream.c), so a replay allocates nothing.
 */
#include "device/cpu/cpu.h"

#include <stdlib.h>
#include <string.h>

#define SHAPE_ALIGN 16u

struct recorded {
	struct cpu_node node;
	void *shape; /* a copy */
	uint32_t shape_bytes;
};

struct cpu_graph {
	struct device_graph base;
	struct recorded *nodes;
	uint32_t n_nodes, max_nodes;
};

static int make_room(struct cpu_graph *g)
{
	uint32_t max = g->max_nodes > 0 ? 2 * g->max_nodes : 16;
	struct recorded *nodes;

	if (g->n_nodes < g->max_nodes)
		return 0;
	nodes = reallocarray(g->nodes, max, sizeof(*nodes));
	if (nodes == NULL)
		return -ENOMEM;
	g->nodes = nodes;
	g->max_nodes = max;
	return 0;
}

int cpu_record(struct device_stream *stream, const struct cpu_node *node, uint32_t shape_bytes)
{
	struct cpu_graph *g = cpu_stream(stream->capture->streams[0])->recording;
	struct recorded recorded = {.node = *node, .shape_bytes = shape_bytes};
	int r = make_room(g);

	if (r < 0)
		return r;
	/* One byte more: of none malloc() may make NULL. */
	recorded.shape = malloc(shape_bytes + 1u);
	if (recorded.shape == NULL)
		return -ENOMEM;
	if (shape_bytes > 0)
		memcpy(recorded.shape, node->shape, shape_bytes);
	g->nodes[g->n_nodes++] = recorded;
	return 0;
}

int cpu_capture_begin(struct device_stream *stream)
{
	struct cpu_graph *g = calloc(1, sizeof(*g));

	if (g == NULL)
		return -ENOMEM;
	g->base.device = stream->device;
	cpu_stream(stream)->recording = g;
	return 0;
}

int cpu_capture_end(struct device_stream *stream, struct device_graph **ret_graph)
{
	*ret_graph = &cpu_stream(stream)->recording->base;
	cpu_stream(stream)->recording = NULL;
	return 0;
}

void cpu_graph_destroy(struct device_graph *graph)
{
	struct cpu_graph *g = (struct cpu_graph *)graph;

	for (uint32_t i = 0; i < g->n_nodes; i++)
		free(g->nodes[i].shape);
	free(g->nodes);
	free(g);
}

static size_t shape_room(const struct recorded *recorded)
{
	return (recorded->shape_bytes + SHAPE_ALIGN - 1) / SHAPE_ALIGN * SHAPE_ALIGN;
}

static size_t exec_size(const struct cpu_graph *g)
{
	size_t bytes = sizeof(struct cpu_exec) + g->n_nodes * sizeof(struct cpu_node);

	bytes += SHAPE_ALIGN;
	for (uint32_t i = 0; i < g->n_nodes; i++)
		bytes += shape_room(&g->nodes[i]);
	return bytes;
}

int cpu_exec_create(
	struct device *device, const struct device_graph *graph, struct device_exec **ret_exec)
{
	const struct cpu_graph *g = (const struct cpu_graph *)graph;
	const size_t bytes = exec_size(g);
	struct cpu_exec *e;

	if (posix_memalign((void **)&e, WIRE_LINE, bytes) != 0)
		return -ENOMEM;
	memset(e, 0, sizeof(*e));
	e->base = (struct device_exec){.device = device, .bytes = bytes};
	e->n_nodes = g->n_nodes;
	e->nodes = (struct cpu_node *)(e + 1);
	uintptr_t end = (uintptr_t)(e->nodes + g->n_nodes);
	char *shape = (char *)e->nodes + g->n_nodes * sizeof(struct cpu_node);
	shape += (SHAPE_ALIGN - end % SHAPE_ALIGN) % SHAPE_ALIGN;
	for (uint32_t i = 0; i < g->n_nodes; i++) {
		const struct recorded *recorded = &g->nodes[i];
		e->nodes[i] = recorded->node;
		memcpy(shape, recorded->shape, recorded->shape_bytes);
		e->nodes[i].shape = shape;
		shape += shape_room(recorded);
	}
	*ret_exec = &e->base;
	return 0;
}

void cpu_exec_destroy(struct device_exec *exec)
{
	struct cpu_exec *e = (struct cpu_exec *)exec;

	/* Of a device that has failed nobody sees the end, but workers may still be at it. */
	if (e->last != NULL)
		cpu_stream_drain(e->last, e->last_position);
	free(e);
}
