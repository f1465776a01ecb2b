/* SPDX-License-Identifier: MIT */
/*
 * The budget of executables: how many bytes they may take, who has to go for others, and their
 * end. Withdrawn executables wait in a list until dispatch no longer looks at them and no replay
 * of them is on the device; only the capture thread ends them.
 */
#include "graphs/impl.h"

#include <stdlib.h>

void exec_destroy(struct graph_exec *exec)
{
	if (exec == NULL)
		return;
	device_exec_destroy(exec->exec);
	free(exec);
}

void budget_publish(struct graphs *g)
{
	shm_store_relaxed(&g->options.stats->graph_bytes, g->bytes + g->dying_bytes);
	shm_store_relaxed(&g->options.stats->graph_budget, g->budget);
}

void budget_withdraw(struct graphs *g, struct graph_entry *e)
{
	bool had = false;

	for (uint32_t i = 0; i < g->options.lanes; i++) {
		struct graph_exec *exec = entry_exec(e, i);

		if (exec == NULL)
			continue;
		shm_store_release(&e->execs[i], 0);
		exec->next = g->dying;
		g->dying = exec;
		g->bytes -= exec->bytes;
		g->dying_bytes += exec->bytes;
		had = true;
	}
	if (!had)
		return;
	shm_store_relaxed(&e->record->bytes, 0);
	mask_clear(&e->refused, UINT64_MAX);
	shm_store_release_u32(&e->record->state,
		e->capturing				    ? MSG_GRAPH_CAPTURING
			: shm_load_relaxed(&e->wanted) != 0 ? MSG_GRAPH_QUEUED
							    : MSG_GRAPH_COLD);
	shm_count(&g->options.stats->graph_evictions, 1);
	if (e->interned != NULL && e->interned->registrations == 0)
		sweep_soon(g);
	g->hot_list_changed = true;
}

static int compare_heat(const void *a, const void *b)
{
	const struct graph_entry *x = *(struct graph_entry *const *)a;
	const struct graph_entry *y = *(struct graph_entry *const *)b;
	const uint64_t heat_x = entry_heat(x), heat_y = entry_heat(y);

	if (heat_x != heat_y)
		return heat_x > heat_y ? -1 : 1;
	return x < y ? -1 : 1;
}

uint32_t budget_sort(struct graphs *g)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < g->options.max_graphs; i++) {
		struct graph_entry *e = &g->entries[i];

		if (e->used &&
			(entry_captured(g, e) || e->capturing || shm_load_relaxed(&e->wanted) != 0))
			g->sorted[n++] = e;
	}
	qsort(g->sorted, n, sizeof(g->sorted[0]), compare_heat);
	return n;
}

void budget_mark_hot(struct graphs *g)
{
	const uint32_t n = budget_sort(g);
	uint32_t marked = 0;

	for (uint32_t i = 0; i < n; i++) {
		g->sorted[i]->hot = entry_captured(g, g->sorted[i]) && marked < g->options.pinned;
		marked += g->sorted[i]->hot;
	}
}

static bool in_flight(const struct graphs *g, const struct graph_entry *e)
{
	for (uint32_t i = 0; i < g->options.lanes; i++) {
		const struct graph_exec *exec = entry_exec(e, i);

		if (exec != NULL && shm_load_relaxed(&exec->in_flight) != 0)
			return true;
	}
	return false;
}

bool budget_may_withdraw(const struct graphs *g, const struct graph_entry *e)
{
	return !e->pinned && !e->hot && !in_flight(g, e);
}

/* Those of gpuqd's own models, and of the hot list, are nobody's. */
static bool is_of(const struct graph_entry *e, uint32_t uid)
{
	return e->uid == uid && (e->pipeline == NULL || !pipeline_has_constants(e->pipeline));
}

/* Who of a user's goes first, or of all (UID_NONE); NULL: nobody can. */
static struct graph_entry *victim(struct graphs *g, uint32_t uid)
{
	struct graph_entry *oldest = NULL;
	uint64_t oldest_ns = UINT64_MAX;

	for (uint32_t i = 0; i < g->options.max_graphs; i++) {
		struct graph_entry *e = &g->entries[i];
		const uint64_t used_ns = shm_load_relaxed(&e->record->last_used_ns);

		if (!e->used || used_ns >= oldest_ns || !entry_captured(g, e) ||
			!budget_may_withdraw(g, e) || (uid != UID_NONE && !is_of(e, uid)))
			continue;
		oldest = e;
		oldest_ns = used_ns;
	}
	return oldest;
}

/* Withdraws until at most so many bytes are left. With the lock. */
static bool withdraw_down_to(struct graphs *g, uint64_t bytes)
{
	budget_mark_hot(g);
	while (g->bytes > bytes) {
		struct graph_entry *e = victim(g, UID_NONE);

		if (e == NULL)
			return false;
		budget_withdraw(g, e);
	}
	return true;
}

/* Of executables whose shapes this user was the first to use. */
static uint64_t bytes_of(const struct graphs *g, uint32_t uid)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < g->options.max_graphs; i++) {
		const struct graph_entry *e = &g->entries[i];

		if (e->used && is_of(e, uid))
			bytes += shm_load_relaxed(&e->record->bytes);
	}
	return bytes;
}

/* Withdraws a user's until so many more fit that are its. With the lock. */
static bool user_makes_room(struct graphs *g, const struct graph_entry *e, uint64_t bytes)
{
	const uint64_t most = g->options.user_bytes;
	struct graph_entry *other;

	if (most == 0 || e->uid == UID_NONE || !is_of(e, e->uid))
		return true;
	if (bytes > most)
		return false;
	budget_mark_hot(g);
	while (bytes_of(g, e->uid) > most - bytes) {
		other = victim(g, e->uid);
		if (other == NULL)
			return false;
		budget_withdraw(g, other);
	}
	return true;
}

const char *budget_make_room(struct graphs *g, const struct graph_entry *e, uint64_t bytes)
{
	const char *why = NULL;

	pthread_mutex_lock(&g->lock);
	if (!user_makes_room(g, e, bytes))
		why = "no room in what graph_bytes_per_user gives";
	else if (bytes > g->budget || !withdraw_down_to(g, g->budget - bytes))
		why = "no room in the budget of graphs";
	budget_publish(g);
	pthread_mutex_unlock(&g->lock);
	return why;
}

void budget_shrink(struct graphs *g)
{
	uint64_t left;

	/* A quarter is given back, since others need memory too. */
	(void)withdraw_down_to(g, g->bytes - g->bytes / 4);
	left = g->bytes;
	if (left < g->options.budget_bytes / BUDGET_FLOOR)
		left = g->options.budget_bytes / BUDGET_FLOOR;
	if (g->budget > left)
		g->budget = left;
	g->shortages++;
	g->grown_ns = graphs_now_ns(g);
}

uint64_t room_retry_ns(const struct graphs *g, uint32_t failures)
{
	const uint32_t doublings = failures - 1;

	return g->room_after_ns << (doublings < ROOM_RETRY_DOUBLINGS ? doublings
								     : ROOM_RETRY_DOUBLINGS);
}

void budget_grow(struct graphs *g, uint64_t now_ns)
{
	const uint64_t full = g->options.budget_bytes;

	if (g->budget == full) {
		if (now_ns - g->grown_ns >= g->retry_after_ns)
			g->shortages = 0;
		return;
	}
	if (now_ns - g->grown_ns < room_retry_ns(g, g->shortages))
		return;
	g->budget = full - g->budget < full / 8 ? full : g->budget + full / 8;
	g->grown_ns = now_ns;
	budget_publish(g);
}

/* Takes out of the list what nothing uses. With the lock. */
static struct graph_exec *take_idle(struct graphs *g)
{
	struct graph_exec **at = &g->dying, *idle = NULL;

	while (*at != NULL) {
		struct graph_exec *exec = *at;

		/*
		 * Pairs with graphs_finish(). After a launch that failed together with the device
		 * the count tells nothing, and the failure was stored before it.
		 */
		if (shm_load_acquire(&exec->in_flight) != 0 || shm_load_relaxed(&g->failed) != 0) {
			at = &exec->next;
			continue;
		}
		*at = exec->next;
		g->dying_bytes -= exec->bytes;
		exec->next = idle;
		idle = exec;
	}
	return idle;
}

bool budget_reap(struct graphs *g)
{
	struct graph_exec *idle = NULL;
	bool left;

	/* A failed device may still be at them: they end with the cache. */
	if (shm_load_acquire(&g->failed) != 0)
		return false;
	pthread_mutex_lock(&g->lock);
	if (g->dying != NULL) {
		/* A launch that found one before it was withdrawn has counted itself after this. */
		section_wait(g);
		idle = take_idle(g);
		budget_publish(g);
	}
	left = g->dying != NULL;
	pthread_mutex_unlock(&g->lock);
	while (idle != NULL) {
		struct graph_exec *next = idle->next;

		exec_destroy(idle);
		idle = next;
	}
	return left;
}
