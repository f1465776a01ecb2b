/* SPDX-License-Identifier: MIT */
/*
 * pipelines.h: the pipelines of a device process. The link thread makes them, dispatch keeps them
 * in a table, finds them by their handles for each call, and counts what in flight uses them. One
 * that has left the table, and that nothing uses any more, is the link thread's again.
 */
#ifndef GPUQ_DAEMON_PIPELINES_H
#define GPUQ_DAEMON_PIPELINES_H

#include "graphs/pipeline.h"

struct known_pipeline {
	uint32_t handle;
	uint32_t client, client_generation; /* whose it is */
	struct pipeline *pipeline;	    /* a reference */
	/* Dispatch's. */
	uint32_t in_flight;
	bool removed; /* from the table */
};

struct pipeline_table {
	uint32_t size;
	struct known_pipeline *places[]; /* by the number in the handle; NULL: free */
};

/* The number in a handle. */
static inline uint32_t pipeline_place(uint32_t handle)
{
	return handle & 0xffffu;
}

/* -ENOMEM. */
int pipeline_table_create(uint32_t max_pipelines, struct pipeline_table **ret_table);

/* The pipelines have been removed, or go with the process. NULL is fine. */
void pipeline_table_destroy(struct pipeline_table *table);

/* Its place is free, and smaller than the table's size. */
void pipeline_table_add(struct pipeline_table *table, struct known_pipeline *p);

/* Takes it out of the table. True when nothing uses it. */
bool pipeline_table_remove(struct pipeline_table *table, struct known_pipeline *p);

/* The pipeline that a client means, or NULL. */
struct known_pipeline *pipeline_table_find(const struct pipeline_table *table, uint32_t handle,
	uint32_t client, uint32_t client_generation);

/* Something in flight has ended. True when nothing uses one that has been removed. */
static inline bool pipeline_release(struct known_pipeline *p)
{
	return --p->in_flight == 0 && p->removed;
}

#endif
