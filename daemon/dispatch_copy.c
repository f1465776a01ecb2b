/* SPDX-License-Identifier: MIT */
/*
 * dispatch_copy.c: copies between arenas and buffers. They run on a few streams of their own, one
 * on each at a time, beside the operators: a long copy keeps no stream from those.
 */
#include "daemon/dispatch_impl.h"

int copy_streams_create(struct dispatch *d)
{
	int r = 0;

	while (r == 0 && d->n_copy_streams < COPY_STREAMS) {
		struct device_stream **s = &d->copy_streams[d->n_copy_streams];
		r = device_stream_create(d->o.device, DEVICE_PRIORITY_NORMAL, s);
		if (r == 0)
			d->free_copy_streams[d->n_free_copy_streams++] =
				d->copy_streams[d->n_copy_streams++];
	}
	return r;
}

void copy_streams_destroy(struct dispatch *d)
{
	while (d->n_copy_streams > 0)
		device_stream_destroy(d->copy_streams[--d->n_copy_streams]);
}

int copy_launch(struct dispatch *d, struct slot *slot)
{
	const struct slot_copy *copy = &slot->copy;
	const struct device_args args = {
		.completion = slot->completion,
		.value = d->launches + 1,
	};

	if (d->n_free_copy_streams == 0)
		return -EAGAIN;
	slot->stream = d->free_copy_streams[d->n_free_copy_streams - 1];
	int r = device_copy(slot->stream, copy->to, copy->from, copy->bytes);
	if (r < 0)
		return r;
	r = device_signal(slot->stream, &args);
	if (r < 0) {
		/* Only when a test asks for it. Nobody is told before the copy has ended. */
		(void)device_stream_wait(slot->stream);
		return r;
	}
	slot->value = ++d->launches;
	d->n_free_copy_streams--;
	return 0;
}

void copy_end(struct dispatch *d, struct slot *slot)
{
	d->free_copy_streams[d->n_free_copy_streams++] = slot->stream;
}
