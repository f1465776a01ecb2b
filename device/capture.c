/* SPDX-License-Identifier: MIT */
/* capture.c: what a capturing thread may do, and what its capture consists of; see capture.h. */
#include "device/capture.h"

#include <assert.h>
#include <stdlib.h>

static _Thread_local struct device_capture *mine;

void capture_break(void)
{
	if (mine != NULL)
		mine->broken = true;
}

int capture_refuse(void)
{
	capture_break();
	return mine != NULL ? -EBUSY : 0;
}

int capture_start(struct device_stream *stream)
{
	static uint64_t ids;
	struct device_capture *capture;

	if (stream->capture != NULL)
		stream->capture->broken = true;
	if (capture_refuse() < 0 || stream->capture != NULL)
		return -EBUSY;
	capture = calloc(1, sizeof(*capture));
	if (capture == NULL)
		return -ENOMEM;
	capture->id = shm_fetch_add(&ids, 1) + 1;
	capture->streams[capture->n_streams++] = stream;
	stream->capture = capture;
	stream->place = 0;
	mine = capture;
	return 0;
}

bool capture_is_mine(const struct device_stream *stream)
{
	return mine != NULL && mine->streams[0] == stream;
}

bool capture_all_before(const struct device_capture *capture, uint32_t place)
{
	for (uint32_t i = 0; i < capture->n_streams; i++) {
		if (capture->before[place][i] != capture->before[i][i])
			return false;
	}
	return true;
}

void capture_finish(struct device_stream *stream)
{
	struct device_capture *capture = stream->capture;

	for (uint32_t i = 0; i < capture->n_streams; i++)
		capture->streams[i]->capture = NULL;
	if (mine == capture)
		mine = NULL;
	free(capture);
}

void capture_command(struct device_stream *stream)
{
	stream->capture->before[stream->place][stream->place]++;
}

int capture_check_command(const struct device_stream *stream, bool signal)
{
	const struct device_capture *capture = stream->capture;

	if (capture->signalled || (signal && !capture_all_before(capture, stream->place)))
		return -EINVAL;
	return 0;
}

void capture_record(struct device_event *event, const struct device_stream *stream)
{
	const struct device_capture *capture = stream->capture;

	event->capture_id = capture != NULL ? capture->id : 0;
	for (uint32_t i = 0; capture != NULL && i < DEVICE_CAPTURE_STREAMS; i++)
		event->before[i] = capture->before[stream->place][i];
}

static int join(struct device_stream *stream)
{
	if (mine->n_streams == DEVICE_CAPTURE_STREAMS)
		return -EINVAL;
	stream->capture = mine;
	stream->place = mine->n_streams++;
	mine->streams[stream->place] = stream;
	/* Counts as a command: who has joined must be awaited, whatever it did. */
	capture_command(stream);
	return 0;
}

int capture_await(const struct device_event *event, struct device_stream *stream)
{
	if (stream->capture == NULL && event->capture_id == 0)
		return 0;
	/* An event or a stream of another thread's capture, or of one that has ended. */
	if (mine == NULL || event->capture_id != mine->id ||
		(stream->capture != NULL && stream->capture != mine))
		return -EBUSY;
	int r = stream->capture == NULL ? join(stream) : 0;
	if (r < 0)
		return r;
	uint32_t *before = mine->before[stream->place];
	for (uint32_t i = 0; i < DEVICE_CAPTURE_STREAMS; i++)
		before[i] = event->before[i] > before[i] ? event->before[i] : before[i];
	return 0;
}
