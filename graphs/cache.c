/* SPDX-License-Identifier: MIT */
/*
 * The cache as a whole: its making and its end, and what administrators and the link to the
 * control process ask of it.
 */
#include "graphs/impl.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- Pipelines ------------------------------------------------------------------------------ */

void sweep_soon(struct graphs *g)
{
	shm_store_release(&g->unregistered, 1);
	sem_post(&g->cold_wake);
}

void sweep_pipelines(struct graphs *g)
{
	struct interned **at = &g->pipelines;

	while (*at != NULL) {
		struct interned *node = *at;

		if (!pipeline_is_last(node->pipeline)) {
			at = &node->next;
			continue;
		}
		*at = node->next;
		pipeline_unref(node->pipeline);
		free(node);
	}
}

struct pipeline *graphs_intern(struct graphs *g, struct pipeline *p)
{
	struct interned *node = malloc(sizeof(*node));

	if (node == NULL)
		return NULL;
	pthread_mutex_lock(&g->lock);
	sweep_pipelines(g);
	for (struct interned *i = g->pipelines; i != NULL; i = i->next) {
		if (i->pipeline == p || !pipeline_equal(i->pipeline, p))
			continue;
		pipeline_ref(i->pipeline);
		i->registrations++;
		pthread_mutex_unlock(&g->lock);
		pipeline_unref(p);
		free(node);
		return i->pipeline;
	}
	node->pipeline = pipeline_ref(p);
	node->registrations = 1;
	node->next = g->pipelines;
	g->pipelines = node;
	pthread_mutex_unlock(&g->lock);
	return p;
}

void graphs_release(struct graphs *g, struct pipeline *p)
{
	struct interned *node;

	pthread_mutex_lock(&g->lock);
	node = g->pipelines;
	while (node->pipeline != p)
		node = node->next;
	assert(node->registrations > 0);
	if (--node->registrations == 0) {
		if (pipeline_has_constants(p))
			capture_drop(g, node);
		sweep_soon(g);
	}
	pipeline_unref(p);
	pthread_mutex_unlock(&g->lock);
}

/* --- Administration ------------------------------------------------------------------------- */

void graphs_stop_captures(struct graphs *g)
{
	pthread_mutex_lock(&g->lock);
	shm_store_relaxed(&g->stopped, 1);
	shm_store_relaxed(&g->options.stats->captures_stopped, 1);
	pthread_mutex_unlock(&g->lock);
	sem_post(&g->capture_wake);
}

void graphs_resume_captures(struct graphs *g)
{
	pthread_mutex_lock(&g->lock);
	shm_store_relaxed(&g->stopped, 0);
	shm_store_relaxed(&g->options.stats->captures_stopped, 0);
	pthread_mutex_unlock(&g->lock);
	sem_post(&g->capture_wake);
}

/* With the lock. */
static struct graph_entry *entry_of(struct graphs *g, uint64_t id)
{
	for (uint32_t i = 0; i < g->options.max_graphs; i++) {
		struct graph_entry *e = &g->entries[i];

		if (e->used && shm_load_relaxed(&e->record->id) == id)
			return e;
	}
	return NULL;
}

int graphs_evict(struct graphs *g, uint64_t id)
{
	struct graph_entry *e = NULL;

	pthread_mutex_lock(&g->lock);
	if (id != 0) {
		e = entry_of(g, id);
		if (e != NULL)
			budget_withdraw(g, e);
	} else {
		for (uint32_t i = 0; i < g->options.max_graphs; i++) {
			if (g->entries[i].used && !g->entries[i].pinned)
				budget_withdraw(g, &g->entries[i]);
		}
	}
	budget_publish(g);
	pthread_mutex_unlock(&g->lock);
	sem_post(&g->capture_wake);
	return id != 0 && e == NULL ? -ENOENT : 0;
}

int graphs_pin(struct graphs *g, uint64_t id, bool pin)
{
	struct graph_entry *e;

	pthread_mutex_lock(&g->lock);
	e = entry_of(g, id);
	if (e != NULL) {
		e->pinned = pin;
		shm_store_release_u32(&e->record->pinned, pin);
	}
	pthread_mutex_unlock(&g->lock);
	return e == NULL ? -ENOENT : 0;
}

void graphs_quiet_begin(struct graphs *g)
{
	pthread_rwlock_rdlock(&g->quiet);
}

void graphs_quiet_end(struct graphs *g)
{
	pthread_rwlock_unlock(&g->quiet);
}

/* --- Making --------------------------------------------------------------------------------- */

static int check_options(const struct graphs_options *o)
{
	const uint64_t room = UINT64_MAX / GRAPHS_LANE_DEPTH - PLAN_ALIGN;

	if (o->lanes == 0 || o->lanes > GRAPHS_MAX_LANES || o->max_graphs == 0 ||
		o->scratch_bytes == 0 || o->device == NULL || o->stats == NULL ||
		o->records == NULL || o->staging_bytes > room)
		return -EINVAL;
	return o->max_captures > 0 && o->captures == NULL ? -EINVAL : 0;
}

static bool device_is_cpu(struct device *device)
{
	struct device_info info;

	device_info(device, &info);
	return strcmp(info.kind, "cpu") == 0;
}

static uint32_t choose_direct_kernels(const struct graphs_options *o)
{
	struct device_info info;
	uint32_t n = o->direct_kernels;

	if (n == UINT32_MAX) {
		device_info(o->device, &info);
		n = info.direct_kernels;
	}
	return n < DIRECT_KERNELS_MAX ? n : DIRECT_KERNELS_MAX;
}

static int create_table(struct graphs *g)
{
	const uint32_t n = g->options.max_graphs;
	uint64_t size = 8;

	while (size < 2ull * n)
		size *= 2;
	g->table_mask = size - 1;
	g->hash_mask = UINT64_MAX;
	g->table = calloc(size, sizeof(*g->table));
	g->entries = calloc(n, sizeof(*g->entries));
	g->sorted = calloc(n, sizeof(g->sorted[0]));
	if (g->table == NULL || g->entries == NULL || g->sorted == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++) {
		struct stats_graph *r = &g->options.records[i];

		/* The records may be those of a device process before this one: go on counting. */
		if (r->id >= g->next_id)
			g->next_id = r->id + 1;
		memset(r, 0, sizeof(*r));
		g->entries[i].record = r;
	}
	return 0;
}

static int create_lanes(struct graphs *g)
{
	const uint32_t n = (g->options.lanes + COLD_LANES) * GRAPHS_LANE_DEPTH;
	void *inner;
	int err = device_alloc(
		g->options.device, DEVICE_PINNED, n * sizeof(struct device_completion), &inner);

	if (err != 0)
		return err;
	g->inner = inner;
	memset(g->inner, 0, n * sizeof(struct device_completion));
	for (uint32_t i = 0; i < g->options.lanes && err == 0; i++)
		err = lane_create(g, &g->lanes[i],
			i < g->n_high ? DEVICE_PRIORITY_HIGH : DEVICE_PRIORITY_NORMAL,
			&g->inner[i * GRAPHS_LANE_DEPTH]);
	for (uint32_t i = 0; i < COLD_LANES && err == 0; i++) {
		g->cold[i].lane.is_cold = true;
		err = lane_create(g, &g->cold[i].lane,
			i == cold_class(0) ? DEVICE_PRIORITY_HIGH : DEVICE_PRIORITY_NORMAL,
			&g->inner[(g->options.lanes + i) * GRAPHS_LANE_DEPTH]);
	}
	return err;
}

static int start_threads(struct graphs *g)
{
	int err = -pthread_create(&g->cold_thread, NULL, cold_main, g);

	if (err != 0)
		return err;
	err = -pthread_create(&g->capture_thread, NULL, capture_main, g);
	if (err != 0) {
		shm_store_release(&g->stopping, 1);
		sem_post(&g->cold_wake);
		pthread_join(g->cold_thread, NULL);
	}
	return err;
}

/* --- The end -------------------------------------------------------------------------------- */

static void destroy_execs(struct graphs *g)
{
	for (uint32_t i = 0; g->entries != NULL && i < g->options.max_graphs; i++) {
		for (uint32_t lane = 0; lane < g->options.lanes; lane++)
			exec_destroy(entry_exec(&g->entries[i], lane));
	}
	while (g->dying != NULL) {
		struct graph_exec *exec = g->dying;

		g->dying = exec->next;
		exec_destroy(exec);
	}
}

/* What the device used is gone: executables first, then streams, then what they read. */
static void free_all(struct graphs *g)
{
	destroy_execs(g);
	for (uint32_t i = 0; i < g->options.lanes; i++)
		lane_destroy(g, &g->lanes[i]);
	for (uint32_t i = 0; i < COLD_LANES; i++)
		lane_destroy(g, &g->cold[i].lane);
	record_destroy(g);
	device_free(g->options.device, DEVICE_PINNED, g->inner);
	while (!LIST_EMPTY(&g->plans)) {
		struct plan *plan = LIST_FIRST(&g->plans);

		LIST_REMOVE(plan, link);
		plan_destroy(plan);
	}
	for (uint32_t i = 0; g->entries != NULL && i < g->options.max_graphs; i++)
		pipeline_unref(g->entries[i].pipeline);
	while (g->pipelines != NULL) {
		struct interned *node = g->pipelines;

		g->pipelines = node->next;
		pipeline_unref(node->pipeline);
		free(node);
	}
	sem_destroy(&g->cold_wake);
	sem_destroy(&g->capture_wake);
	pthread_mutex_destroy(&g->lock);
	pthread_rwlock_destroy(&g->quiet);
	free(g->table);
	free(g->entries);
	free(g->sorted);
	free(g);
}

int graphs_create(const struct graphs_options *options, struct graphs **ret_graphs, char why[224])
{
	struct graphs *g;
	int err = check_options(options);

	if (err != 0)
		return err;
	g = calloc(1, sizeof(*g));
	if (g == NULL)
		return -ENOMEM;
	g->options = *options;
	/* New shapes need places too. */
	if (g->options.pinned > options->max_graphs / 2)
		g->options.pinned = options->max_graphs / 2;
	g->n_high = options->lanes / 2;
	g->direct_kernels = choose_direct_kernels(options);
	g->budget = options->budget_bytes;
	g->retry_after_ns = RETRY_NS;
	g->room_after_ns = ROOM_RETRY_NS;
	g->plan_bytes_max = PLAN_CACHE_BYTES;
	g->warm_up_max_ns = device_is_cpu(options->device) ? WARM_UP_MAX_NS : UINT64_MAX;
	g->last_urgency = URGENCY_PROMOTED;
	g->next_id = 1;
	g->stopped = options->capture_stopped;
	g->saved_ns = g->aged_ns = g->grown_ns = graphs_now_ns(g);
	LIST_INIT(&g->plans);
	pthread_mutex_init(&g->lock, NULL);
	pthread_rwlock_init(&g->quiet, NULL);
	sem_init(&g->cold_wake, 0, 0);
	sem_init(&g->capture_wake, 0, 0);
	err = create_table(g);
	if (err == 0)
		err = create_lanes(g);
	if (err == 0)
		err = record_init(g);
	if (err == 0) {
		hot_list_load(g, why);
		shm_store_relaxed(&options->stats->captures_stopped, g->stopped);
		budget_publish(g);
		err = start_threads(g);
	}
	if (err != 0) {
		free_all(g);
		return err;
	}
	*ret_graphs = g;
	return 0;
}

static void cancel_waiters(struct graphs *g)
{
	const int status = shm_load_relaxed(&g->failed) != 0 ? -GPUQ_EDEVICE : -ECANCELED;

	while (g->waiters != NULL) {
		struct graph_work *w = g->waiters;

		g->waiters = w->next;
		work_complete(g, w, status);
	}
}

void graphs_destroy(struct graphs *g)
{
	if (g == NULL)
		return;
	shm_store_release(&g->stopping, 1);
	sem_post(&g->cold_wake);
	sem_post(&g->capture_wake);
	pthread_join(g->cold_thread, NULL);
	pthread_join(g->capture_thread, NULL);
	cancel_waiters(g);
	(void)hot_list_save(g);
	free_all(g);
}
