/* SPDX-License-Identifier: MIT */
/*
 * device.c: the front of every device: what is the same whatever drives it. It refuses what must
 * be refused, keeps the rules of captures (capture.h), remembers that a device has failed for good
 * and injects faults. Opening and listing are in open.c.
 */
#include "device/capture.h"
#include "device/fault.h"

#include <assert.h>
#include <pthread.h>

/* Before every call: -GPUQ_EDEVICE, or the fault that a test asked for. */
static int enter(struct device *device, enum fault_call call)
{
	int r = shm_load_relaxed(&device->failed) != 0 ? -GPUQ_EDEVICE
						       : fault_check(device->fault, call);

	if (r == -GPUQ_EDEVICE)
		shm_store_release(&device->failed, 1);
	return r;
}

/* After every call. */
static int leave(struct device *device, int r)
{
	if (r == -GPUQ_EDEVICE)
		shm_store_release(&device->failed, 1);
	return r;
}

/* The same for calls that are not allowed in a capture, or break it when they fail. */
static int enter_uncaptured(struct device *device, enum fault_call call)
{
	int r = enter(device, call), refused = capture_refuse();

	return r < 0 ? r : refused;
}

/* The same for calls about a stream that may capture: an error breaks the capture. */
static int leave_stream(const struct device_stream *stream, int r)
{
	if (r < 0 && stream->capture != NULL)
		stream->capture->broken = true;
	return leave(stream->device, r);
}

void device_info(struct device *device, struct device_info *ret_info)
{
	device->driver->info(device, ret_info);
}

int device_check(struct device *device)
{
	int r = enter(device, FAULT_CHECK);

	return r < 0 ? r : leave(device, device->driver->check(device));
}

void device_set_background(struct device *device)
{
	shm_store_relaxed(&device->background, (uint64_t)pthread_self());
}

void device_sleep_prepare(struct device *device, bool asleep)
{
	device->driver->sleep_prepare(device, asleep);
}

void device_range_begin(struct device *device, const char *what, const char *name)
{
	if (device->driver->range_begin != NULL)
		device->driver->range_begin(what, name);
}

void device_range_end(struct device *device)
{
	if (device->driver->range_end != NULL)
		device->driver->range_end();
}

/* --- Memory ------------------------------------------------------------------------------- */

int device_alloc(struct device *device, enum device_memory kind, uint64_t bytes, void **ret_data)
{
	int r = enter_uncaptured(device, FAULT_ALLOC);

	if (r == 0)
		r = bytes == 0 ? -EINVAL : device->driver->alloc(device, kind, bytes, ret_data);
	return leave(device, r);
}

void device_free(struct device *device, enum device_memory kind, void *data)
{
	capture_break();
	if (data != NULL)
		device->driver->free(device, kind, data);
}

int device_register(struct device *device, void *base, uint64_t bytes, void **ret_device_base)
{
	int r = enter_uncaptured(device, FAULT_REGISTER_HOST);

	if (r == 0)
		r = bytes == 0
			? -EINVAL
			: device->driver->register_host(device, base, bytes, ret_device_base);
	return leave(device, r);
}

void device_unregister(struct device *device, void *base)
{
	capture_break();
	/* It may hang, and cannot fail. */
	(void)fault_check(device->fault, FAULT_UNREGISTER_HOST);
	device->driver->unregister_host(device, base);
}

int device_export_create(struct device *device, enum device_export_form form, uint64_t bytes,
	struct device_export *ret_export)
{
	int r = enter_uncaptured(device, FAULT_EXPORT_CREATE);

	if (r == 0 && bytes == 0)
		r = -EINVAL;
	if (r == 0 && bytes > INT64_MAX - DEVICE_EXPORT_UNIT)
		r = -ENOMEM;
	if (r == 0)
		r = device->driver->export_create(device, form, bytes, ret_export);
	return leave(device, r);
}

void device_export_destroy(struct device *device, const struct device_export *export)
{
	capture_break();
	device->driver->export_destroy(device, export);
}

/* --- Streams and events ------------------------------------------------------------------- */

int device_stream_create(struct device *device, uint32_t priority, struct device_stream **ret)
{
	int r = enter_uncaptured(device, FAULT_STREAM_CREATE);

	if (r == 0)
		r = priority > DEVICE_PRIORITY_LOW
			? -EINVAL
			: device->driver->stream_create(device, priority, ret);
	return leave(device, r);
}

/* Ends the capture that the stream takes part in, and drops what was recorded. */
static void abandon_capture(struct device_stream *stream)
{
	const struct device_driver *driver = stream->device->driver;
	struct device_graph *graph;

	if (driver->capture_end(stream->capture->streams[0], &graph) == 0)
		driver->graph_destroy(graph);
	capture_finish(stream);
}

void device_stream_destroy(struct device_stream *stream)
{
	if (stream == NULL)
		return;
	if (stream->capture != NULL)
		abandon_capture(stream);
	capture_break();
	stream->device->driver->stream_destroy(stream);
}

int device_stream_query(struct device_stream *stream)
{
	int r = enter(stream->device, FAULT_STREAM_QUERY);

	if (r == 0 && stream->capture != NULL)
		r = -EBUSY;
	return leave_stream(stream, r < 0 ? r : stream->device->driver->stream_query(stream));
}

int device_stream_wait(struct device_stream *stream)
{
	int r = enter(stream->device, FAULT_STREAM_WAIT);

	if (r == 0 && stream->capture != NULL)
		r = -EBUSY;
	return leave_stream(stream, r < 0 ? r : stream->device->driver->stream_wait(stream));
}

int device_event_create(struct device *device, struct device_event **ret_event)
{
	int r = enter(device, FAULT_EVENT_CREATE);

	if (r == 0)
		r = device->driver->event_create(device, ret_event);
	if (r < 0)
		capture_break();
	return leave(device, r);
}

void device_event_destroy(struct device_event *event)
{
	if (event != NULL)
		event->device->driver->event_destroy(event);
}

int device_event_record(struct device_event *event, struct device_stream *stream)
{
	int r = enter(stream->device, FAULT_EVENT_RECORD);

	if (r == 0)
		r = stream->device->driver->event_record(event, stream);
	if (r == 0)
		capture_record(event, stream);
	return leave_stream(stream, r);
}

int device_event_await(struct device_event *event, struct device_stream *stream)
{
	int r = enter(stream->device, FAULT_EVENT_AWAIT);

	if (r == 0)
		r = capture_await(event, stream);
	if (r == 0)
		r = stream->device->driver->event_await(event, stream);
	if (r < 0 && event->capture_id != 0)
		capture_break();
	return leave_stream(stream, r);
}

int device_event_query(struct device_event *event)
{
	int r = enter(event->device, FAULT_EVENT_QUERY);

	if (r == 0 && event->capture_id != 0)
		r = -EBUSY;
	if (r < 0)
		capture_break();
	return leave(event->device, r < 0 ? r : event->device->driver->event_query(event));
}

/* --- Work --------------------------------------------------------------------------------- */

/* Before a command: args are given when it runs at once, and only then. */
static int check_command(const struct device_stream *stream, const struct device_args *args,
	bool signal, enum fault_call call)
{
	int r = enter(stream->device, call);

	if (r < 0 || stream->capture == NULL)
		return r < 0 ? r : args == NULL ? -EINVAL : 0;
	return args != NULL ? -EINVAL : capture_check_command(stream, signal);
}

/* After it. */
static int command_done(struct device_stream *stream, bool signal, int r)
{
	if (r == 0 && stream->capture != NULL) {
		capture_command(stream);
		stream->capture->signalled = signal;
		stream->capture->n_commands++;
	}
	return leave_stream(stream, r);
}

/* A test may want what is launched next to come behind a real fault. */
static int spoil(struct device_stream *stream)
{
	struct device *device = stream->device;

	if (device->fault == NULL || device->driver->spoil == NULL || stream->capture != NULL ||
		fault_check(device->fault, FAULT_WORK) == 0)
		return 0;
	return device->driver->spoil(stream);
}

int device_launch(struct device_stream *stream, const struct device_kernel *kernel,
	const struct device_args *args)
{
	int r = check_command(stream, args, kernel->signal, FAULT_LAUNCH);

	if (r == 0)
		r = spoil(stream);
	if (r == 0)
		r = stream->device->driver->launch(stream, kernel, args);
	return command_done(stream, kernel->signal, r);
}

int device_inline(
	struct device *device, const struct device_kernel *kernel, const struct device_args *args)
{
	int r = enter(device, FAULT_LAUNCH_INLINE);

	if (r == 0 && device->driver->launch_inline == NULL)
		r = -EOPNOTSUPP;
	if (r == 0 && args->completion == NULL)
		r = -EINVAL;
	return leave(device, r < 0 ? r : device->driver->launch_inline(device, kernel, args));
}

/* Copies and fills read no arguments. */
static int check_transfer(const struct device_stream *stream, enum fault_call call)
{
	static const struct device_args none;

	return check_command(stream, stream->capture == NULL ? &none : NULL, false, call);
}

int device_copy(struct device_stream *stream, void *to, const void *from, uint64_t bytes)
{
	int r = check_transfer(stream, FAULT_COPY);

	if (r == 0 && bytes == 0)
		return 0;
	if (r == 0)
		r = stream->device->driver->copy(stream, to, from, bytes);
	return command_done(stream, false, r);
}

int device_fill(struct device_stream *stream, void *data, uint8_t byte, uint64_t bytes)
{
	int r = check_transfer(stream, FAULT_FILL);

	if (r == 0 && bytes == 0)
		return 0;
	if (r == 0)
		r = stream->device->driver->fill(stream, data, byte, bytes);
	return command_done(stream, false, r);
}

int device_signal(struct device_stream *stream, const struct device_args *args)
{
	int r = check_command(stream, args, true, FAULT_SIGNAL);

	if (r == 0)
		r = stream->device->driver->signal(stream, args);
	return command_done(stream, true, r);
}

/* --- Capture and executables -------------------------------------------------------------- */

bool device_records_badly(struct device *device, const struct device_kernel *kernel)
{
	return device->driver->records_badly != NULL &&
		device->driver->records_badly(device, kernel);
}

int device_capture_begin(struct device_stream *stream)
{
	int r = enter(stream->device, FAULT_CAPTURE_BEGIN);

	if (r < 0)
		capture_break();
	else
		r = capture_start(stream);
	if (r < 0)
		return leave(stream->device, r);
	r = stream->device->driver->capture_begin(stream);
	if (r < 0)
		capture_finish(stream);
	return leave(stream->device, r);
}

/* The driver's part of the end, for every capture. Its graph is of use only where this is 0. */
static int end_capture(struct device_stream *stream, struct device_graph **ret_graph)
{
	const struct device_capture *capture = stream->capture;
	const bool whole = !capture->broken && capture_all_before(capture, 0);
	int r = stream->device->driver->capture_end(stream, ret_graph);

	if (r < 0)
		return r == -GPUQ_EDEVICE || whole ? r : -ECANCELED;
	(*ret_graph)->nodes = capture->n_commands;
	(*ret_graph)->signals = capture->signalled;
	if (whole && capture->n_commands > 0)
		return 0;
	stream->device->driver->graph_destroy(*ret_graph);
	return whole ? -ENODATA : -ECANCELED;
}

int device_capture_end(struct device_stream *stream, struct device_graph **ret_graph)
{
	struct device *device = stream->device;
	struct device_graph *graph;

	if (!capture_is_mine(stream)) {
		capture_break();
		return shm_load_relaxed(&device->failed) != 0 ? -GPUQ_EDEVICE : -EINVAL;
	}
	int fault = enter(device, FAULT_CAPTURE_END);
	int r = end_capture(stream, &graph);
	capture_finish(stream);
	if (fault < 0 && r == 0)
		device->driver->graph_destroy(graph);
	r = fault < 0 ? fault : r;
	if (r == 0)
		*ret_graph = graph;
	return leave(device, r);
}

uint32_t device_graph_nodes(const struct device_graph *graph)
{
	return graph->nodes;
}

void device_graph_destroy(struct device_graph *graph)
{
	if (graph != NULL)
		graph->device->driver->graph_destroy(graph);
}

int device_exec_create(
	struct device *device, const struct device_graph *graph, struct device_exec **ret_exec)
{
	int r = enter_uncaptured(device, FAULT_EXEC_CREATE);

	if (r == 0)
		r = graph->signals ? device->driver->exec_create(device, graph, ret_exec) : -EINVAL;
	return leave(device, r);
}

int device_exec_upload(struct device_exec *exec, struct device_stream *stream)
{
	int r = enter_uncaptured(stream->device, FAULT_EXEC_UPLOAD);

	if (r == 0 && stream->capture != NULL)
		r = -EBUSY;
	if (r == 0)
		r = stream->device->driver->exec_upload(exec, stream);
	return leave_stream(stream, r);
}

static bool carries_too_much(const struct device_args *args)
{
	uint32_t bytes = 0;

	for (uint32_t i = 0; i < GPUQ_MAX_INPUTS; i++)
		bytes += device_carried_room(args->carried[i]);
	return bytes > DEVICE_MAX_CARRIED;
}

int device_exec_launch(
	struct device_exec *exec, struct device_stream *stream, const struct device_args *args)
{
	int r = enter(stream->device, FAULT_EXEC_LAUNCH);

	if (r == 0 && stream->capture != NULL)
		r = -EBUSY;
	if (r == 0 && (args->completion == NULL || carries_too_much(args)))
		r = -EINVAL;
	if (r == 0)
		r = spoil(stream);
	if (r == 0)
		r = stream->device->driver->exec_launch(exec, stream, args);
	return leave_stream(stream, r);
}

uint64_t device_exec_bytes(const struct device_exec *exec)
{
	return exec->bytes;
}

void device_exec_destroy(struct device_exec *exec)
{
	if (exec == NULL)
		return;
	capture_break();
	exec->device->driver->exec_destroy(exec);
}
