/* SPDX-License-Identifier: MIT */
/* Reading the flight recorder while it is written; the rule of validity is in shm/recorder.h. */
#include "tools/recording.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EVENT_BYTES sizeof(struct recorder_event)

static int read_at(const struct recording *r, void *data, size_t bytes, uint64_t offset)
{
	ssize_t n = pread(r->fd, data, bytes, (off_t)offset);

	if (n < 0)
		return -errno;
	return (size_t)n == bytes ? 0 : -EPROTO; /* cut since it was opened */
}

int recording_open(int fd, const struct stats_header *header, struct recording *ret_recording)
{
	if (header->recorder_events == 0) {
		close(fd);
		return -ENODATA;
	}
	*ret_recording = (struct recording){
		.fd = fd,
		.offset = header->recorder_offset,
		.ring_events = header->recorder_events,
	};
	return 0;
}

static uint64_t place_of(const struct recording *r, uint32_t ring)
{
	return r->offset + recorder_ring_offset(ring, r->ring_events);
}

static int read_next(const struct recording *r, uint32_t ring, uint64_t *ret_next)
{
	return read_at(r, ret_next, sizeof(*ret_next), place_of(r, ring));
}

int recording_skip(struct recording *r)
{
	int err = 0;

	r->follows = true;
	for (uint32_t i = 0; i < RECORDER_RINGS && err == 0; i++)
		err = read_next(r, i, &r->rings[i].next);
	return err;
}

static int make_room(struct recording_ring *ring, uint64_t more)
{
	uint64_t capacity = ring->capacity == 0 ? 1024 : ring->capacity;

	while (capacity < ring->n + more)
		capacity *= 2;
	if (capacity == ring->capacity)
		return 0;
	struct recorder_event *events = realloc(ring->events, capacity * EVENT_BYTES);
	if (events == NULL)
		return -ENOMEM;
	ring->events = events;
	ring->capacity = capacity;
	return 0;
}

/* Copies events from..end, which lie in at most two pieces, behind those that are there. */
static int copy(const struct recording *r, uint32_t number, uint64_t from, uint64_t end)
{
	const uint64_t size = recorder_ring_events((enum recorder_writer)number, r->ring_events);
	const uint64_t place = place_of(r, number) + sizeof(struct recorder_ring);
	const struct recording_ring *ring = &r->rings[number];
	struct recorder_event *to = &ring->events[ring->n];
	int err = 0;

	while (from < end && err == 0) {
		const uint64_t at = from % size;
		const uint64_t n = end - from < size - at ? end - from : size - at;

		err = read_at(r, to, n * EVENT_BYTES, place + at * EVENT_BYTES);
		from += n;
		to += n;
	}
	return err;
}

static int read_ring(struct recording *r, uint32_t number)
{
	const uint64_t size = recorder_ring_events((enum recorder_writer)number, r->ring_events);
	struct recording_ring *ring = &r->rings[number];
	uint64_t from = ring->next, end, after;
	int err = read_next(r, number, &end);

	if (err < 0 || end <= from)
		return err;
	if (end - from > size)
		from = end - size;
	if (ring->n + (end - from) > RECORDING_MAX_EVENTS) {
		ring->lost += end - ring->next;
		ring->next = end;
		return 0;
	}
	err = make_room(ring, end - from);
	if (err == 0)
		err = copy(r, number, from, end);
	/* Pairs with the fence in recorder_put(): what was written meanwhile has moved `next`. */
	shm_fence();
	if (err == 0)
		err = read_next(r, number, &after);
	if (err < 0)
		return err;
	const uint64_t valid = after + 1 > size ? after + 1 - size : 0;
	const uint64_t bad = valid <= from ? 0 : valid < end ? valid - from : end - from;
	memmove(&ring->events[ring->n], &ring->events[ring->n + bad],
		(end - from - bad) * EVENT_BYTES);
	ring->n += end - from - bad;
	/* What was there before anybody asked is no loss. */
	if (r->follows)
		ring->lost += from + bad - ring->next;
	ring->next = end;
	return 0;
}

int recording_read(struct recording *r)
{
	int err = 0;

	for (uint32_t i = 0; i < RECORDER_RINGS && err == 0; i++)
		err = read_ring(r, i);
	return err;
}

void recording_close(struct recording *r)
{
	for (uint32_t i = 0; i < RECORDER_RINGS; i++)
		free(r->rings[i].events);
	close(r->fd);
}
