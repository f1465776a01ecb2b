/* SPDX-License-Identifier: MIT */
/*
 * snapshot.h: private copies of gpuqd's statistics object (shm/stats.h). The object is opened and
 * copied anew each time with pread(), never mapped: it may be cut, removed or replaced at any
 * moment, by a restart or by anybody's mistake, and a reader must not die of it.
 */
#ifndef GPUQ_TOOLS_SNAPSHOT_H
#define GPUQ_TOOLS_SNAPSHOT_H

#include "tools/hardware.h"

/* The records in use of one table, in the order of their numbers. */
struct snapshot_table {
	uint32_t n;
	uint32_t *records; /* number of each in the object */
	void *rows;	   /* struct stats_device, _client, ... */
};

struct snapshot {
	struct stats_header header;
	uint64_t object;   /* tells an object from the one before it at the same place */
	uint64_t taken_ns; /* CLOCK_MONOTONIC */
	uint64_t clock_ns; /* the same moment on gpuqd's clock, that of the times in the records */
	uint64_t realtime_ns; /* the same moment, CLOCK_REALTIME */
	bool process_exists;  /* a process has the number of gpuqd's control process */
	struct snapshot_table devices, clients, channels, graphs, models, sessions, pipelines, ops;
	struct snapshot_table errors;
	struct hardware_reading hardware[WIRE_MAX_DEVICES]; /* by the number of the device */
};

#define SNAPSHOT_PLACES_MAX 3

/* Where to look for the object; the first place that has one is kept from then on. */
struct snapshot_source {
	bool file; /* the only place is a file, not a socket's path */
	uint32_t n_places;
	int chosen; /* -1: none yet */
	char places[SNAPSHOT_PLACES_MAX][STATS_PATH_MAX];
};

/*
 * The places for a socket path; NULL: $GPUQ_SOCKET if set, else $XDG_RUNTIME_DIR/gpuq-0 and
 * /run/gpuq/gpuq-0. -ENAMETOOLONG when one is too long to be a socket's.
 */
int snapshot_source_init(struct snapshot_source *ret_source, const char *socket);

/* One file, whatever made it: an object in /dev/shm or a copy of one. */
int snapshot_source_file(struct snapshot_source *ret_source, const char *path);

/*
 * Copies the object: while no place is chosen, a live gpuqd's before a dead one's. Returns 0, or
 * a negative errno with the whole sentence in `why`.
 */
int snapshot_take(
	struct snapshot_source *source, struct snapshot **ret_snapshot, char *why, size_t why_size);

/* Asks the devices of a live gpuqd how they are. */
void snapshot_read_hardware(struct snapshot *snapshot, struct hardware *hardware);

/*
 * Opens the object at the chosen place, for what a snapshot has no copy of. *ret_header is checked.
 * The descriptor, or a negative error.
 */
int snapshot_open(const struct snapshot_source *source, struct stats_header *ret_header);

/* NULL is fine. */
void snapshot_free(struct snapshot *snapshot);

/* The process exists and has given a sign of life in the last seconds. */
bool snapshot_alive(const struct snapshot *snapshot);

/* Looks again whether a process has the number of gpuqd's control process. */
bool snapshot_process_exists(const struct snapshot *snapshot);

/* Time since gpuqd's last sign of life. */
uint64_t snapshot_silent_ns(const struct snapshot *snapshot);

/* gpuqd writes its sign of life about once a second; after this long without one it is stuck. */
#define SNAPSHOT_SILENT_NS 5000000000u

#endif
