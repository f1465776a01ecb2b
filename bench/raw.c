/* SPDX-License-Identifier: MIT */
/*
 * raw.c: operators launched on a device by this process itself, without gpuqd, and seen to end as
 * gpuqd sees it: by the completion word. Kernel by kernel, or as a graph of one kernel.
 */
#include "bench/bench.h"

#include "device/device.h"
#include "kernels/launch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define RATE_BYTES (16u << 20)
#define RATE_COPIES 10

struct raw {
	struct device *device;
	struct device_stream *stream;
	struct device_completion *completion;
	uint64_t value; /* of the last work that was given */
	struct clock_line clock;
};

struct raw_call {
	struct raw *raw;
	struct device_exec *exec;
	struct op_launch launch;
	struct device_kernel kernel;
	struct device_args args;
};

void report_device(struct bench *b, struct device *device)
{
	struct device_info info;

	device_info(device, &info);
	report_line("device: %s, %s\n", info.kind, info.name);
	report_json(b, "device",
		json_pack("{s:s, s:s, s:s}", "kind", info.kind, "name", info.name, "uuid",
			info.uuid));
}

int raw_open(struct bench *b, struct raw **ret_raw)
{
	const struct device_options options = {
		.kind = b->device, .workers = 1, .clock = b->clock, .wake_fd = -1};
	struct raw *r = calloc(1, sizeof(*r));
	char why[192] = "";
	void *completion = NULL;
	int e = r == NULL ? -ENOMEM : device_open(&options, &r->device, why);

	if (e == 0)
		e = device_stream_create(r->device, DEVICE_PRIORITY_HIGH, &r->stream);
	if (e == 0)
		e = device_alloc(r->device, DEVICE_PINNED, sizeof(*r->completion), &completion);
	if (e < 0) {
		complain(e, "device %s in this process: %s", b->device, why);
		raw_close(r);
		return e;
	}
	report_device(b, r->device);
	r->completion = completion;
	r->clock = b->clock;
	memset(completion, 0, sizeof(*r->completion));
	*ret_raw = r;
	return 0;
}

void raw_close(struct raw *r)
{
	if (r == NULL)
		return;
	device_stream_destroy(r->stream);
	if (r->device != NULL)
		device_free(r->device, DEVICE_PINNED, r->completion);
	device_close(r->device);
	free(r);
}

static inline int await(const struct raw *r, uint64_t value)
{
	while (!device_done(r->completion, value))
		shm_pause();
	return 0;
}

/* --- Memory -------------------------------------------------------------------------------- */

int raw_alloc(struct raw *r, enum device_memory kind, uint64_t bytes, void **ret_data)
{
	return device_alloc(r->device, kind, bytes, ret_data);
}

struct device *raw_device(struct raw *r)
{
	return r->device;
}

void raw_free(struct raw *r, enum device_memory kind, void *data)
{
	device_free(r->device, kind, data);
}

static int copy(struct raw *r, void *to, const void *from, uint64_t bytes)
{
	const struct device_args args = {.completion = r->completion, .value = ++r->value};
	int e = device_copy(r->stream, to, from, bytes);

	if (e == 0)
		e = device_signal(r->stream, &args);
	return e < 0 ? e : await(r, args.value);
}

int raw_write(struct raw *r, void *to, const void *from, uint64_t bytes)
{
	void *pinned;
	int e = device_alloc(r->device, DEVICE_PINNED, bytes, &pinned);

	if (e < 0)
		return e;
	memcpy(pinned, from, bytes);
	e = copy(r, to, pinned, bytes);
	device_free(r->device, DEVICE_PINNED, pinned);
	return e;
}

int raw_read(struct raw *r, void *to, const void *from, uint64_t bytes)
{
	void *pinned;
	int e = device_alloc(r->device, DEVICE_PINNED, bytes, &pinned);

	if (e < 0)
		return e;
	e = copy(r, pinned, from, bytes);
	if (e == 0)
		memcpy(to, pinned, bytes);
	device_free(r->device, DEVICE_PINNED, pinned);
	return e;
}

/* The fastest of some copies: what is slower than that is not the bus. */
static int fastest_copy(struct raw *r, void *to, const void *from, uint64_t *ret_ns)
{
	uint64_t best_ns = UINT64_MAX;

	for (int i = 0; i < RATE_COPIES; i++) {
		uint64_t start_ns = clock_now_ns(&r->clock);
		int e = copy(r, to, from, RATE_BYTES);
		uint64_t took_ns = clock_now_ns(&r->clock) - start_ns;
		if (e < 0)
			return e;
		best_ns = took_ns < best_ns ? took_ns : best_ns;
	}
	*ret_ns = best_ns;
	return 0;
}

int raw_copy_rate(struct raw *r, double *ret_bytes_per_us)
{
	void *from = NULL, *to = NULL;
	uint64_t ns;
	int e = device_alloc(r->device, DEVICE_PINNED, RATE_BYTES, &from);

	if (e == 0)
		e = device_alloc(r->device, DEVICE_WORK, RATE_BYTES, &to);
	if (e == 0) {
		memset(from, 1, RATE_BYTES);
		e = fastest_copy(r, to, from, &ns);
	}
	if (e == 0)
		*ret_bytes_per_us = RATE_BYTES / ((double)ns / 1e3);
	device_free(r->device, DEVICE_WORK, to);
	device_free(r->device, DEVICE_PINNED, from);
	return e;
}

/* --- Launches ------------------------------------------------------------------------------ */

static int capture(struct raw_call *c)
{
	struct raw *r = c->raw;
	struct device_graph *graph;
	int e = device_capture_begin(r->stream);

	if (e < 0)
		return e;
	e = device_launch(r->stream, &c->kernel, NULL);
	int ended = device_capture_end(r->stream, &graph);
	if (e < 0 || ended < 0)
		return e < 0 ? e : ended;
	e = device_exec_create(r->device, graph, &c->exec);
	device_graph_destroy(graph);
	return e < 0 ? e : device_exec_upload(c->exec, r->stream);
}

int raw_call_create(struct raw *r, const struct op_call *call, struct raw_call **ret_call)
{
	struct raw_call *c = calloc(1, sizeof(*c));

	if (c == NULL)
		return -ENOMEM;
	c->raw = r;
	op_launch_init(&c->launch, call);
	c->kernel = (struct device_kernel){.code = op_code(call->op),
		.shape = &c->launch,
		.shape_bytes = sizeof(c->launch),
		.signal = true,
		.units = call->op->units(call)};
	op_args(&c->args, call);
	c->args.completion = r->completion;
	int e = capture(c);
	if (e < 0)
		raw_call_destroy(c);
	else
		*ret_call = c;
	return e;
}

void raw_call_destroy(struct raw_call *c)
{
	if (c == NULL)
		return;
	device_exec_destroy(c->exec);
	free(c);
}

int raw_direct(void *call)
{
	struct raw_call *c = call;

	c->args.value = ++c->raw->value;
	int e = device_launch(c->raw->stream, &c->kernel, &c->args);
	return e < 0 ? e : await(c->raw, c->args.value);
}

int raw_replay(void *call)
{
	struct raw_call *c = call;

	c->args.value = ++c->raw->value;
	int e = device_exec_launch(c->exec, c->raw->stream, &c->args);
	return e < 0 ? e : await(c->raw, c->args.value);
}
