/* SPDX-License-Identifier: MIT */
/* buffer.c: the table of device buffers of a device process. */
#include "daemon/buffer.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define HANDLE_INDEX 0xffffu

struct buffer_table {
	uint32_t max_buffers, max_clients;
	uint64_t at[]; /* struct buffer *, or 0; by the handles' indices */
};

int buffer_table_create(uint32_t max_buffers, uint32_t max_clients, struct buffer_table **ret_table)
{
	struct buffer_table *t = calloc(1, sizeof(*t) + max_buffers * sizeof(t->at[0]));

	if (t == NULL)
		return -ENOMEM;
	t->max_buffers = max_buffers;
	t->max_clients = max_clients;
	*ret_table = t;
	return 0;
}

void buffer_table_destroy(struct buffer_table *t)
{
	free(t);
}

int buffer_create(struct buffer_table *t, struct device *device, uint32_t handle,
	enum device_export_form form, uint64_t bytes, bool lost, struct buffer **ret_buffer)
{
	uint32_t index = handle & HANDLE_INDEX;
	uint32_t words = t->max_clients / 64 + 1;
	int r = 0;

	if (index >= t->max_buffers)
		return -EINVAL;
	if (shm_load_acquire(&t->at[index]) != 0)
		return -EEXIST;
	struct buffer *b = calloc(1, sizeof(*b) + words * sizeof(b->clients[0]));
	if (b == NULL)
		return -ENOMEM;
	b->handle = handle;
	b->bytes = bytes;
	b->lost = lost;
	if (!lost)
		r = device_export_create(device, form, bytes, &b->export);
	if (r < 0) {
		free(b);
		return r;
	}
	/* Pairs with the loads in buffer_get(): the buffer is there before its place. */
	shm_store_release(&t->at[index], (uintptr_t)b);
	*ret_buffer = b;
	return 0;
}

void buffer_destroy(struct device *device, struct buffer *b)
{
	assert(b->removed && b->in_flight == 0);
	if (!b->lost)
		device_export_destroy(device, &b->export);
	free(b);
}

struct buffer *buffer_get(const struct buffer_table *t, uint32_t handle)
{
	uint32_t index = handle & HANDLE_INDEX;

	if (index >= t->max_buffers)
		return NULL;
	struct buffer *b = (struct buffer *)(uintptr_t)shm_load_acquire(&t->at[index]);
	return b != NULL && b->handle == handle ? b : NULL;
}

void buffer_permit(struct buffer_table *t, struct buffer *b, uint32_t client, bool may)
{
	assert(client < t->max_clients);
	uint64_t *word = &b->clients[client / 64];
	uint64_t bit = 1ull << client % 64;
	uint64_t before = shm_load_relaxed(word);

	/* The client hears of it only after this, and submits only after that. */
	shm_store_release(word, may ? before | bit : before & ~bit);
}

/* --- Dispatch's side ----------------------------------------------------------------------- */

int buffer_find(const struct buffer_table *t, uint32_t client, uint32_t handle, uint64_t offset,
	uint64_t bytes, struct buffer_uses *uses, void **ret_data)
{
	struct buffer *b = buffer_get(t, handle);

	if (b == NULL || (shm_load_acquire(&b->clients[client / 64]) & 1ull << client % 64) == 0)
		return -GPUQ_EBUFFER;
	if (b->lost)
		return -GPUQ_ELOST;
	if (offset > b->bytes || bytes > b->bytes - offset)
		return -GPUQ_EBOUNDS;
	assert(uses->n < BUFFER_USES_MAX);
	uses->buffers[uses->n++] = b;
	*ret_data = (char *)b->export.data + offset;
	return 0;
}

void buffer_hold(struct buffer_uses *uses)
{
	for (uint32_t i = 0; i < uses->n; i++)
		uses->buffers[i]->in_flight++;
}

bool buffer_release(struct buffer *b)
{
	assert(b->in_flight > 0);
	return --b->in_flight == 0 && b->removed;
}

bool buffer_remove(struct buffer_table *t, struct buffer *b)
{
	shm_store_release(&t->at[b->handle & HANDLE_INDEX], 0);
	b->removed = true;
	return b->in_flight == 0;
}
