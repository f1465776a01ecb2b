/* SPDX-License-Identifier: MIT */
/* upload.c: each of the two pieces has a stream of its own, so that it can be waited for alone. */
#include "models/upload.h"

#include <errno.h>

#define PIECES 2u

struct upload {
	struct device *device;
	struct graphs *graphs;
	uint8_t *memory;
	struct device_stream *streams[PIECES];
	void *pieces[PIECES];
	uint32_t current;
	struct model_why *why;
};

/* Away from captures, where there may be some. */
static void quiet_begin(const struct upload *u)
{
	if (u->graphs != NULL)
		graphs_quiet_begin(u->graphs);
}

static void quiet_end(const struct upload *u)
{
	if (u->graphs != NULL)
		graphs_quiet_end(u->graphs);
}

static int failed(const struct upload *u, int err)
{
	return err == 0 ? 0 : model_fail(u->why, err, "copying weights to the device failed");
}

static int begin(void *context, void **ret_room)
{
	struct upload *u = context;
	int err;

	u->current = (u->current + 1) % PIECES;
	err = device_stream_wait(u->streams[u->current]);
	if (err == 0)
		*ret_room = u->pieces[u->current];
	return failed(u, err);
}

static int end(void *context, uint64_t offset, uint64_t bytes)
{
	struct upload *u = context;

	return failed(u,
		device_copy(
			u->streams[u->current], u->memory + offset, u->pieces[u->current], bytes));
}

static int open_pieces(struct upload *u, uint64_t bytes)
{
	int err = 0;

	if (bytes > WEIGHTS_PIECE_BYTES)
		bytes = WEIGHTS_PIECE_BYTES;
	quiet_begin(u);
	for (uint32_t i = 0; i < PIECES && err == 0; i++) {
		err = device_stream_create(u->device, DEVICE_PRIORITY_LOW, &u->streams[i]);
		if (err == 0)
			err = device_alloc(u->device, DEVICE_PINNED, bytes, &u->pieces[i]);
	}
	quiet_end(u);
	return err == 0
		? 0
		: model_fail(u->why, err, "no memory to copy weights to the device by way of");
}

/* What has failed says nothing about copies any more. */
static int close_pieces(struct upload *u)
{
	int err = 0;

	for (uint32_t i = 0; i < PIECES; i++) {
		int r = u->streams[i] == NULL ? 0 : device_stream_wait(u->streams[i]);

		err = err == 0 ? r : err;
	}
	quiet_begin(u);
	for (uint32_t i = 0; i < PIECES; i++) {
		device_stream_destroy(u->streams[i]);
		device_free(u->device, DEVICE_PINNED, u->pieces[i]);
	}
	quiet_end(u);
	return err;
}

int model_upload(struct device *device, struct graphs *graphs, const struct model_weights *weights,
	const struct safetensors *files, void *memory, const struct model_watch *watch,
	struct model_why *why)
{
	struct upload u = {.device = device, .graphs = graphs, .memory = memory, .why = why};
	const struct weights_sink sink = {begin, end, &u};
	int err = open_pieces(&u, model_weights_bytes(weights)), closed;

	if (err == 0)
		err = model_weights_stream(weights, files, &sink, watch, why);
	closed = close_pieces(&u);
	return err != 0 ? err : failed(&u, closed);
}
