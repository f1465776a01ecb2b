/* SPDX-License-Identifier: MIT */
#include "daemon/pipelines.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

int pipeline_table_create(uint32_t max_pipelines, struct pipeline_table **ret_table)
{
	struct pipeline_table *table =
		calloc(1, sizeof(*table) + max_pipelines * sizeof(table->places[0]));

	if (table == NULL)
		return -ENOMEM;
	table->size = max_pipelines;
	*ret_table = table;
	return 0;
}

void pipeline_table_destroy(struct pipeline_table *table)
{
	free(table);
}

void pipeline_table_add(struct pipeline_table *table, struct known_pipeline *p)
{
	assert(table->places[pipeline_place(p->handle)] == NULL);
	table->places[pipeline_place(p->handle)] = p;
}

bool pipeline_table_remove(struct pipeline_table *table, struct known_pipeline *p)
{
	assert(table->places[pipeline_place(p->handle)] == p);
	table->places[pipeline_place(p->handle)] = NULL;
	p->removed = true;
	return p->in_flight == 0;
}

struct known_pipeline *pipeline_table_find(const struct pipeline_table *table, uint32_t handle,
	uint32_t client, uint32_t client_generation)
{
	uint32_t place = pipeline_place(handle);
	struct known_pipeline *p = place < table->size ? table->places[place] : NULL;

	if (p == NULL || p->handle != handle || p->client != client ||
		p->client_generation != client_generation)
		return NULL;
	return p;
}
