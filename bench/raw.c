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

struct raw {
	struct device *device;
	struct device_stream *stream;
	struct device_completion *completion;
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
	memset(completion, 0, sizeof(*r->completion));
	*ret_raw = r;
	return 0;
}

void raw_close(struct raw *r)
{
	if (r == NULL)
		return;
	device_exec_destroy(r->exec);
	device_stream_destroy(r->stream);
	if (r->device != NULL)
		device_free(r->device, DEVICE_PINNED, r->completion);
	device_close(r->device);
	free(r);
}

int raw_alloc(struct raw *r, uint64_t bytes, void **ret_data)
{
	return device_alloc(r->device, DEVICE_PINNED, bytes, ret_data);
}

void raw_free(struct raw *r, void *data)
{
	device_free(r->device, DEVICE_PINNED, data);
}

static int capture(struct raw *r)
{
	struct device_graph *graph;
	int e = device_capture_begin(r->stream);

	if (e < 0)
		return e;
	e = device_launch(r->stream, &r->kernel, NULL);
	int ended = device_capture_end(r->stream, &graph);
	if (e < 0 || ended < 0)
		return e < 0 ? e : ended;
	e = device_exec_create(r->device, graph, &r->exec);
	device_graph_destroy(graph);
	return e < 0 ? e : device_exec_upload(r->exec, r->stream);
}

int raw_prepare(struct raw *r, const struct op_call *call)
{
	uint64_t value = r->args.value;

	device_exec_destroy(r->exec);
	r->exec = NULL;
	op_launch_init(&r->launch, call);
	r->kernel = (struct device_kernel){.code = op_code(call->op),
		.shape = &r->launch,
		.shape_bytes = sizeof(r->launch),
		.signal = true,
		.units = call->op->units(call)};
	op_args(&r->args, call);
	r->args.completion = r->completion;
	r->args.value = value;
	return capture(r);
}

static inline int await(const struct raw *r)
{
	while (!device_done(r->completion, r->args.value))
		shm_pause();
	return 0;
}

int raw_direct(void *raw)
{
	struct raw *r = raw;

	r->args.value++;
	int e = device_launch(r->stream, &r->kernel, &r->args);
	return e < 0 ? e : await(r);
}

int raw_replay(void *raw)
{
	struct raw *r = raw;

	r->args.value++;
	int e = device_exec_launch(r->exec, r->stream, &r->args);
	return e < 0 ? e : await(r);
}
