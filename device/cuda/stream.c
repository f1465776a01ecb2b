/* SPDX-License-Identifier: MIT */
/* stream.c: streams and events of the CUDA device, and what they are given. */
#include "device/cuda/module.h"
#include "device/cuda/profile.h"

#include <stdlib.h>
#include <string.h>

struct cuda_event {
	struct device_event base;
	cudaEvent_t event;
};

static struct cuda_event *cuda_event(struct device_event *event)
{
	return (struct cuda_event *)event;
}

/* --- Streams ------------------------------------------------------------------------------ */

int cuda_place_take(struct cuda_device *d, uint32_t *ret_place)
{
	uint32_t i;

	pthread_mutex_lock(&d->lock);
	for (i = 0; i < CUDA_MAX_STREAMS && d->places[i].taken; i++)
		;
	if (i < CUDA_MAX_STREAMS) {
		d->places[i].taken = true;
		if (i == d->n_places)
			shm_store_release_u32(&d->n_places, i + 1);
	}
	pthread_mutex_unlock(&d->lock);
	if (i == CUDA_MAX_STREAMS)
		return -ENOMEM;
	*ret_place = i;
	return 0;
}

static void place_put(struct cuda_device *d, uint32_t place)
{
	pthread_mutex_lock(&d->lock);
	/* After a fault, what was in flight never ends. */
	shm_store_release(&d->places[place].given, shm_load_acquire(&d->ended[place].number));
	d->places[place].taken = false;
	pthread_mutex_unlock(&d->lock);
}

static void stream_free(struct cuda_stream *s)
{
	struct cuda_device *d = cuda_device(s->base.device);

	cuda_launchers_free(s->launchers);
	if (s->stream != NULL)
		cuda_error(cudaStreamDestroy(s->stream));
	cuda_work_put(d, s->work);
	place_put(d, s->place);
	free(s);
}

static int stream_set_up(struct cuda_stream *s, uint32_t priority)
{
	struct cuda_device *d = cuda_device(s->base.device);
	int r = cuda_work_reserve(d, 1);

	if (r < 0)
		return r;
	s->work = cuda_work_get(d);
	if (s->work == NULL)
		return -ENOMEM;
	r = cuda_error(cudaStreamCreateWithPriority(
		&s->stream, cudaStreamNonBlocking, d->priorities[priority]));
	return r < 0 ? r : cuda_launchers_create(s->launchers, s->stream);
}

int cuda_stream_create(struct device *device, uint32_t priority, struct device_stream **ret)
{
	struct cuda_stream *s = calloc(1, sizeof(*s));
	int r = s == NULL ? -ENOMEM : cuda_place_take(cuda_device(device), &s->place);

	if (r < 0) {
		free(s);
		return r;
	}
	cuda_enter(device);
	s->base.device = device;
	r = stream_set_up(s, priority);
	if (r < 0)
		stream_free(s);
	else
		*ret = &s->base;
	return r;
}

void cuda_stream_destroy(struct device_stream *stream)
{
	struct cuda_stream *s = cuda_stream(stream);
	enum cudaStreamCaptureMode mode = cuda_relax(stream->device);

	cuda_error(cudaStreamSynchronize(s->stream));
	stream_free(s);
	cuda_restore(mode);
}

int cuda_stream_query(struct device_stream *stream)
{
	cudaError_t err;

	cuda_enter(stream->device);
	err = cudaStreamQuery(cuda_stream(stream)->stream);
	return err == cudaErrorNotReady ? 0 : err == cudaSuccess ? 1 : cuda_error(err);
}

int cuda_stream_wait(struct device_stream *stream)
{
	cuda_enter(stream->device);
	return cuda_error(cudaStreamSynchronize(cuda_stream(stream)->stream));
}

/* --- Events ------------------------------------------------------------------------------- */

int cuda_event_create(struct device *device, struct device_event **ret_event)
{
	struct cuda_event *e = calloc(1, sizeof(*e));
	int r;

	if (e == NULL)
		return -ENOMEM;
	cuda_enter(device);
	e->base.device = device;
	r = cuda_error(cudaEventCreateWithFlags(&e->event, cudaEventDisableTiming));
	if (r < 0)
		free(e);
	else
		*ret_event = &e->base;
	return r;
}

void cuda_event_destroy(struct device_event *event)
{
	enum cudaStreamCaptureMode mode = cuda_relax(event->device);

	cuda_error(cudaEventDestroy(cuda_event(event)->event));
	cuda_restore(mode);
	free(event);
}

int cuda_event_record(struct device_event *event, struct device_stream *stream)
{
	cuda_enter(stream->device);
	if (stream->capture != NULL)
		cuda_recording_keep_whole(cuda_stream(stream));
	return cuda_error(cudaEventRecord(cuda_event(event)->event, cuda_stream(stream)->stream));
}

int cuda_event_await(struct device_event *event, struct device_stream *stream)
{
	cuda_enter(stream->device);
	return cuda_error(
		cudaStreamWaitEvent(cuda_stream(stream)->stream, cuda_event(event)->event, 0));
}

int cuda_event_query(struct device_event *event)
{
	cudaError_t err;

	cuda_enter(event->device);
	err = cudaEventQuery(cuda_event(event)->event);
	return err == cudaErrorNotReady ? 0 : err == cudaSuccess ? 1 : cuda_error(err);
}

/* --- Work --------------------------------------------------------------------------------- */

int cuda_watch_begin(struct cuda_stream *s, uint32_t launches, struct cuda_watch *ret_watch)
{
	struct cuda_device *d = cuda_device(s->base.device);
	uint64_t *given = &d->places[s->place].given, number = *given + launches;

	if (!cuda_has_ended(&d->ended[s->place], number - CUDA_STREAM_DEPTH))
		return -EAGAIN;
	/* Before the launch: the waiter must not park while it runs. */
	shm_store_release(given, number);
	*ret_watch = (struct cuda_watch){&d->ended[s->place].number, number};
	return 0;
}

int cuda_watch_done(struct cuda_stream *s, uint32_t launches, int r)
{
	struct cuda_device *d = cuda_device(s->base.device);
	uint64_t *given = &d->places[s->place].given;

	if (r < 0)
		shm_store_release(given, *given - launches);
	else
		cuda_waiter_kick(d);
	return r;
}

/* The arguments of a command that is launched now or recorded. */
static int command_args(struct cuda_stream *s, const struct device_args *args, bool signal,
	struct cuda_args *ret_args)
{
	memset(ret_args, 0, sizeof(*ret_args));
	if (s->base.capture != NULL) {
		int r = cuda_recording_next(s);
		return r < 0 ? r : cuda_recording_args(s, ret_args);
	}
	ret_args->direct = *args;
	ret_args->scratch = &s->work->scratch;
	return signal ? cuda_watch_begin(s, 1, &ret_args->watch) : 0;
}

static int command_done(struct cuda_stream *s, bool signal, int r)
{
	cuda_pace(cuda_device(s->base.device));
	return signal && s->base.capture == NULL ? cuda_watch_done(s, 1, r) : r;
}

/* What the stream records must be launched in it. */
static struct cuda_target target(struct cuda_stream *s)
{
	const bool recorded = s->base.capture != NULL;

	return (struct cuda_target){
		s->stream, recorded ? NULL : s->launchers, recorded && cuda_recording_overlaps(s)};
}

static const struct cuda_code *find_code(const char *name)
{
	for (uint32_t i = 0; i < cuda_codes_count; i++)
		if (strcmp(cuda_codes[i]->name, name) == 0)
			return cuda_codes[i];
	return NULL;
}

int cuda_launch(struct device_stream *stream, const struct device_kernel *kernel,
	const struct device_args *args)
{
	struct cuda_stream *s = cuda_stream(stream);
	const struct cuda_code *code = find_code(kernel->code->name);
	const struct cuda_target to = target(s);
	struct cuda_args cuda_args;
	int r;

	if (code == NULL)
		return -EOPNOTSUPP;
	cuda_enter(stream->device);
	r = command_args(s, args, kernel->signal, &cuda_args);
	if (r < 0)
		return r;
	if (stream->capture != NULL)
		cuda_recording_count(s, code->name);
	profile_begin(stream->capture != NULL ? "record" : "launch", code->name);
	r = code->launch(kernel, &cuda_args, &to);
	profile_end();
	return command_done(s, kernel->signal, r);
}

bool cuda_records_badly(struct device *device, const struct device_kernel *kernel)
{
	const struct cuda_code *code = find_code(kernel->code->name);

	cuda_enter(device);
	return code != NULL && code->records_badly != NULL && code->records_badly(kernel);
}

int cuda_launch_inline(
	struct device *device, const struct device_kernel *kernel, const struct device_args *args)
{
	struct cuda_device *d = cuda_device(device);
	const struct cuda_code *code = find_code(kernel->code->name);
	const struct cuda_args cuda_args = {.direct = *args};
	struct cuda_command command;
	int r;

	if (code == NULL || code->command == NULL || d->inline_stream.ring == NULL)
		return -EOPNOTSUPP;
	r = code->command(kernel, &cuda_args, &command);
	if (r < 0)
		return r;
	command.completion = args->completion;
	command.value = args->value;
	cuda_enter(device);
	profile_begin("inline", code->name);
	r = cuda_inline_put(&d->inline_stream, &command);
	profile_end();
	if (r == 0)
		cuda_waiter_kick(d);
	return r;
}

int cuda_stream_signal(struct device_stream *stream, const struct device_args *args)
{
	struct cuda_stream *s = cuda_stream(stream);
	const struct cuda_target to = target(s);
	struct cuda_args cuda_args;
	int r;

	cuda_enter(stream->device);
	r = command_args(s, args, true, &cuda_args);
	if (r < 0)
		return r;
	return command_done(s, true, cuda_signal(&cuda_args, &to));
}

int cuda_stream_spoil(struct device_stream *stream)
{
	cuda_enter(stream->device);
	return cuda_write_astray(cuda_stream(stream)->stream);
}

int cuda_copy(struct device_stream *stream, void *to, const void *from, uint64_t bytes)
{
	struct cuda_stream *s = cuda_stream(stream);
	int r;

	cuda_enter(stream->device);
	r = stream->capture != NULL ? cuda_recording_next(s) : 0;
	if (r == 0)
		r = cuda_error(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, s->stream));
	return r;
}

int cuda_fill(struct device_stream *stream, void *data, uint8_t byte, uint64_t bytes)
{
	struct cuda_stream *s = cuda_stream(stream);
	int r;

	cuda_enter(stream->device);
	r = stream->capture != NULL ? cuda_recording_next(s) : 0;
	if (r == 0)
		r = cuda_error(cudaMemsetAsync(data, byte, bytes, s->stream));
	return r;
}
