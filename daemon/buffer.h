/* SPDX-License-Identifier: MIT */
/*
 * buffer.h: the device buffers of a device process. The link thread makes and destroys them and
 * says who may use them; dispatch looks them up by their handles, for every tensor that a client
 * puts into one, and counts what in flight uses them.
 *
 * A buffer leaves the table on the dispatch thread: after that nothing finds it, and when nothing
 * in flight uses it any more the link thread destroys it.
 */
#ifndef GPUQ_DAEMON_BUFFER_H
#define GPUQ_DAEMON_BUFFER_H

#include "daemon/reaper.h"
#include "device/device.h"

struct buffer {
	uint32_t handle;
	bool lost; /* it was another device process's: of no use, but known */
	struct device_export export;
	uint64_t bytes; /* that clients may use */
	/* Dispatch's. */
	uint32_t in_flight;
	bool removed;		/* from the table */
	struct reaping reaping; /* at its end */
	/* A bit for each client that may use it; written by the link thread, atomic. */
	uint64_t clients[];
};

struct buffer_table;

/* -ENOMEM. */
int buffer_table_create(
	uint32_t max_buffers, uint32_t max_clients, struct buffer_table **ret_table);

/* The buffers have been removed and destroyed, or go with the process. NULL is fine. */
void buffer_table_destroy(struct buffer_table *table);

/* --- The link thread's side ---------------------------------------------------------------- */

/*
 * Allocates a buffer, which nobody may use yet; with `lost` only its record. -EINVAL for a handle
 * that cannot be, -EEXIST, and the errors of device_export_create().
 */
int buffer_create(struct buffer_table *table, struct device *device, uint32_t handle,
	enum device_export_form form, uint64_t bytes, bool lost, struct buffer **ret_buffer);

/* Gives the memory back. It is not in the table, and nothing uses it. */
void buffer_destroy(struct device *device, struct buffer *buffer);

/* The buffer with this handle, or NULL. */
struct buffer *buffer_get(const struct buffer_table *table, uint32_t handle);

/* From now on a client may, or may not, submit what uses the buffer. */
void buffer_permit(struct buffer_table *table, struct buffer *buffer, uint32_t client, bool may);

/* --- Dispatch's side ----------------------------------------------------------------------- */

/* What one submission uses. */
#define BUFFER_USES_MAX GPUQ_MAX_TENSORS
struct buffer_uses {
	uint32_t n;
	struct buffer *buffers[BUFFER_USES_MAX];
};

/*
 * Finds `bytes` from `offset` on in a buffer that the client may use. -GPUQ_EBUFFER, -GPUQ_ELOST,
 * -GPUQ_EBOUNDS. Adds it to uses, where there is room.
 */
int buffer_find(const struct buffer_table *table, uint32_t client, uint32_t handle, uint64_t offset,
	uint64_t bytes, struct buffer_uses *uses, void **ret_data);

/* What is in flight holds what it uses. */
void buffer_hold(struct buffer_uses *uses);

/* Lets one use go. True when nothing uses a buffer that has been removed: it can be destroyed. */
bool buffer_release(struct buffer *buffer);

/* Takes it out of the table. True when nothing uses it. */
bool buffer_remove(struct buffer_table *table, struct buffer *buffer);

#endif
