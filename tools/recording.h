/* SPDX-License-Identifier: MIT */
/*
 * recording.h: events read from the flight recorder (shm/recorder.h) of an object that was opened
 * by snapshot.h. Like that it reads and never maps.
 */
#ifndef GPUQ_TOOLS_RECORDING_H
#define GPUQ_TOOLS_RECORDING_H

#include "shm/stats.h"

/* So many events of one ring are kept; what comes then is lost. */
#define RECORDING_MAX_EVENTS (4u << 20)

struct recording_ring {
	struct recorder_event *events; /* oldest first, without gaps but for what is lost */
	uint64_t n, capacity;
	uint64_t next; /* the first one that was not read yet */
	uint64_t lost; /* overwritten before they were read, or too many */
};

struct recording {
	int fd;
	uint64_t offset, ring_events; /* see struct stats_header */
	bool follows;		      /* from a moment on, and not what was there before */
	struct recording_ring rings[RECORDER_RINGS];
};

/* Owns the descriptor from here on, also on failure. -ENODATA: the recorder is off. */
int recording_open(int fd, const struct stats_header *header, struct recording *ret_recording);

/* From now on only what is still to come. 0, -EPROTO or -EIO. */
int recording_skip(struct recording *r);

/* Reads what has come: all that is there, the first time. 0, -ENOMEM, -EPROTO or -EIO. */
int recording_read(struct recording *r);

void recording_close(struct recording *r);

#endif
