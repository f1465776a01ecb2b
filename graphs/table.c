/* SPDX-License-Identifier: MIT */
/*
 * The table of exact shapes: entries lie in an array that never moves; an open-addressing table of
 * pointers finds them by the hash of their key. One thread changes it (the cold thread), dispatch
 * reads it without a lock. Removal moves later entries back; a reader that misses one meanwhile
 * sends its work the cold way, which is slower and right.
 */
#include "graphs/impl.h"

#include <assert.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define TABLE_ALL UINT64_MAX /* no user id */

static uint64_t mix(uint64_t hash, uint64_t value)
{
	hash = (hash ^ value) * 0x9e3779b97f4a7c15u;
	return hash ^ hash >> 29;
}

static uint64_t mix_tensor(uint64_t hash, const struct tensor *t)
{
	hash = mix(hash, (uint64_t)t->dtype << 32 | t->rank);
	for (uint32_t i = 0; i < t->rank; i++)
		hash = mix(hash, t->dims[i]);
	return hash;
}

uint64_t graphs_key(const struct op_call *call)
{
	uint64_t hash = (uintptr_t)call->op;

	for (uint32_t i = 0; i < call->op->n_inputs; i++)
		hash = mix_tensor(hash, &call->in[i]);
	for (uint32_t i = 0; i < call->op->n_outputs; i++)
		hash = mix_tensor(hash, &call->out[i]);
	return mix(hash, hash >> 32);
}

static bool tensor_equal(const struct tensor *a, const struct tensor *b)
{
	if (a->dtype != b->dtype || a->rank != b->rank)
		return false;
	for (uint32_t i = 0; i < a->rank; i++) {
		if (a->dims[i] != b->dims[i])
			return false;
	}
	return true;
}

static bool key_equal(const struct op_call *a, const struct op_call *b)
{
	bool equal = a->op == b->op;

	for (uint32_t i = 0; equal && i < a->op->n_inputs; i++)
		equal = tensor_equal(&a->in[i], &b->in[i]);
	for (uint32_t i = 0; equal && i < a->op->n_outputs; i++)
		equal = tensor_equal(&a->out[i], &b->out[i]);
	return equal;
}

static struct graph_entry *at(const struct graphs *g, uint64_t place)
{
	return (struct graph_entry *)(uintptr_t)shm_load_acquire(&g->table[place & g->table_mask]);
}

struct graph_entry *table_find(const struct graphs *g, const struct op_call *call, uint64_t hash)
{
	for (uint64_t i = 0; i <= g->table_mask; i++) {
		struct graph_entry *e = at(g, hash + i);

		if (e == NULL || (e->hash == hash && key_equal(&e->call, call)))
			return e;
	}
	return NULL;
}

void section_wait(struct graphs *g)
{
	uint64_t section;

	/* Pairs with section_enter(). */
	shm_fence();
	section = shm_load_acquire(&g->section);
	if (section % 2 == 0)
		return;
	while (shm_load_acquire(&g->section) == section)
		sched_yield();
}

bool entry_captured(const struct graphs *g, const struct graph_entry *e)
{
	for (uint32_t i = 0; i < g->options.lanes; i++) {
		if (entry_exec(e, i) != NULL)
			return true;
	}
	return false;
}

uint64_t entry_heat(const struct graph_entry *e)
{
	return e->aged + shm_load_relaxed(&e->record->uses) - e->aged_uses;
}

/* --- Changing it --------------------------------------------------------------------------- */

static void insert(struct graphs *g, struct graph_entry *e)
{
	uint64_t place = e->hash;

	while (at(g, place) != NULL)
		place++;
	shm_store_release(&g->table[place & g->table_mask], (uintptr_t)e);
}

/* Closes the hole at a place by the next entry that may lie there, and so on. */
static void close_hole(struct graphs *g, uint64_t hole)
{
	for (uint64_t place = hole + 1; at(g, place) != NULL; place++) {
		struct graph_entry *e = at(g, place);
		const uint64_t distance = (place - e->hash) & g->table_mask;

		if (distance < place - hole)
			continue;
		shm_store_release(&g->table[hole & g->table_mask], (uintptr_t)e);
		hole = place;
	}
	shm_store_release(&g->table[hole & g->table_mask], 0);
}

static void remove_entry(struct graphs *g, const struct graph_entry *e)
{
	uint64_t place = e->hash;

	while (at(g, place) != e)
		place++;
	close_hole(g, place);
}

static void append(char *text, size_t size, size_t *length, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

static void append(char *text, size_t size, size_t *length, const char *format, ...)
{
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(text + *length, size - *length, format, args);
	va_end(args);
	if (n > 0)
		*length = *length + (size_t)n < size ? *length + (size_t)n : size - 1;
}

static void append_tensor(
	char *text, size_t size, size_t *length, const char *name, const struct tensor *t)
{
	if (!tensor_present(t))
		return;
	append(text, size, length, " %s[", name);
	for (uint32_t i = 0; i < t->rank; i++)
		append(text, size, length, i == 0 ? "%llu" : ",%llu",
			(unsigned long long)t->dims[i]);
	append(text, size, length, "]%s", dtype_name(t->dtype));
}

/* "softmax x[32,64]f32 -> y[32,64]f32" */
static void describe(const struct op_call *call, char *text, size_t size)
{
	size_t length = 0;

	append(text, size, &length, "%s", call->op->name);
	for (uint32_t i = 0; i < call->op->n_inputs; i++)
		append_tensor(text, size, &length, call->op->inputs[i].name, &call->in[i]);
	append(text, size, &length, " ->");
	for (uint32_t i = 0; i < call->op->n_outputs; i++)
		append_tensor(text, size, &length, call->op->outputs[i].name, &call->out[i]);
}

/* Which of a model's shapes it is. */
static void label_record(const struct graph_entry *e, struct stats_graph *r)
{
	const struct pipeline_label none = {0};
	const struct pipeline_label *label =
		e->pipeline != NULL ? pipeline_label(e->pipeline) : &none;

	r->model = label->model;
	r->tokens = r->batch = r->context = 0;
	if (label->model == 0)
		return;
	r->tokens = (uint32_t)e->call.in[label->tokens].dims[0];
	r->batch = (uint32_t)e->call.in[label->batch].dims[0];
	r->context = (uint32_t)e->call.in[label->context].dims[0];
}

static void start_record(struct graphs *g, struct graph_entry *e)
{
	struct stats_graph *r = e->record;

	r->device = g->options.device_index;
	r->kernels = 0;
	r->pinned = 0;
	r->status = 0;
	describe(&e->call, r->shape, sizeof(r->shape));
	label_record(e, r);
	r->reason[0] = '\0';
	shm_store_relaxed(&r->uses, 0);
	shm_store_relaxed(&r->hits, 0);
	shm_store_relaxed(&r->bytes, 0);
	shm_store_relaxed(&r->capture_ns, 0);
	shm_store_relaxed(&r->last_used_ns, graphs_now_ns(g));
	shm_store_relaxed(&r->id, g->next_id++);
	shm_store_release_u32(&r->state, MSG_GRAPH_COLD);
}

void table_forget(struct graphs *g, struct graph_entry *e)
{
	struct plan *direct = (struct plan *)(uintptr_t)e->direct;

	assert(!e->pinned && !e->capturing && !entry_captured(g, e));
	remove_entry(g, e);
	section_wait(g);
	/* Dispatch may just have wished for a lane: the wish goes with the entry. */
	shm_store_release_u32(&e->record->state, 0);
	shm_store_relaxed(&e->record->id, 0);
	for (uint32_t i = 0; i < COLD_LANES; i++) {
		if (e->plans[i] != NULL && direct == NULL)
			g->plan_bytes -= e->plans[i]->bytes;
		plan_release(g, e->plans[i]);
	}
	pipeline_unref(e->pipeline);
	/* Not the record: dispatch may be counting a last use there. */
	memset((char *)e + sizeof(e->record), 0, sizeof(*e) - sizeof(e->record));
}

/* --- Room for another one ------------------------------------------------------------------ */

static struct graph_entry *unused(struct graphs *g)
{
	for (uint32_t i = 0; i < g->options.max_graphs; i++) {
		if (!g->entries[i].used)
			return &g->entries[i];
	}
	return NULL;
}

/* The user who has more than half of a full table; TABLE_ALL: nobody has. */
static uint64_t majority(const struct graphs *g)
{
	const uint32_t n = g->options.max_graphs;
	uint32_t lead = 0, count = 0, user = 0;

	for (uint32_t i = 0; i < n; i++) {
		if (lead == 0)
			user = g->entries[i].uid;
		lead = g->entries[i].uid == user ? lead + 1 : lead - 1;
	}
	for (uint32_t i = 0; i < n; i++)
		count += g->entries[i].uid == user;
	return count > n / 2 ? user : TABLE_ALL;
}

static bool is_awaited(const struct graphs *g, const struct graph_entry *e)
{
	for (const struct graph_work *w = g->waiters; w != NULL; w = w->next) {
		if (w->entry == e)
			return true;
	}
	return false;
}

/* Cold ones that no capture is wished for; or, warm, the others: a wish alone may go. */
static bool may_forget(const struct graphs *g, const struct graph_entry *e, bool warm)
{
	const bool wanted = shm_load_relaxed(&e->wanted) != 0;

	if (e->pinned || e->capturing || is_awaited(g, e))
		return false;
	if (!warm)
		return !wanted && !entry_captured(g, e);
	/* What was hot has been there before those that come now. */
	return (!wanted || e->urgency != URGENCY_HOT_LIST) && budget_may_withdraw(g, e);
}

/* The one of a user's (TABLE_ALL: of all) that was used longest ago. */
static struct graph_entry *oldest(const struct graphs *g, uint64_t user, bool warm)
{
	struct graph_entry *found = NULL;
	uint64_t found_ns = UINT64_MAX;

	for (uint32_t i = 0; i < g->options.max_graphs; i++) {
		struct graph_entry *e = &g->entries[i];
		const uint64_t used_ns = shm_load_relaxed(&e->record->last_used_ns);

		if (used_ns >= found_ns || (user != TABLE_ALL && e->uid != user) ||
			!may_forget(g, e, warm))
			continue;
		found = e;
		found_ns = used_ns;
	}
	return found;
}

/*
 * The one to forget: a cold one where there is one, since a captured one has cost more; but
 * whoever has more than half of the table gives way first, so that the others keep their half.
 */
static struct graph_entry *choose(struct graphs *g)
{
	const uint64_t user = majority(g);
	struct graph_entry *e = oldest(g, user, false);

	if (e != NULL)
		return e;
	budget_mark_hot(g);
	e = oldest(g, user, true);
	if (e == NULL && user != TABLE_ALL)
		e = oldest(g, TABLE_ALL, false);
	if (e == NULL && user != TABLE_ALL)
		e = oldest(g, TABLE_ALL, true);
	return e;
}

/* Makes an entry free; its executables end later, when nothing uses them. NULL: none can go. */
static struct graph_entry *make_free(struct graphs *g)
{
	struct graph_entry *e = choose(g);

	if (e == NULL)
		return NULL;
	if (entry_captured(g, e)) {
		budget_withdraw(g, e);
		budget_publish(g);
		sem_post(&g->capture_wake);
	}
	table_forget(g, e);
	return e;
}

static struct interned *interned_of(const struct graphs *g, const struct pipeline *p)
{
	struct interned *node = g->pipelines;

	while (node->pipeline != p)
		node = node->next;
	return node;
}

struct graph_entry *table_add(struct graphs *g, const struct op_call *call,
	struct pipeline *pipeline, uint64_t hash, uint32_t uid)
{
	struct graph_entry *e;

	pthread_mutex_lock(&g->lock);
	e = unused(g);
	if (e == NULL)
		e = make_free(g);
	if (e != NULL) {
		e->used = true;
		e->call = *call;
		for (uint32_t i = 0; i < GPUQ_MAX_INPUTS; i++)
			e->call.in[i].data = NULL;
		for (uint32_t i = 0; i < GPUQ_MAX_OUTPUTS; i++)
			e->call.out[i].data = NULL;
		e->pipeline = pipeline == NULL ? NULL : pipeline_ref(pipeline);
		e->interned = pipeline == NULL ? NULL : interned_of(g, pipeline);
		e->hash = hash;
		e->uid = uid;
		start_record(g, e);
		insert(g, e);
	}
	pthread_mutex_unlock(&g->lock);
	return e;
}

void table_sweep(struct graphs *g)
{
	if (!shm_compare_swap(&g->unregistered, 1, 0))
		return;
	pthread_mutex_lock(&g->lock);
	for (uint32_t i = 0; i < g->options.max_graphs; i++) {
		struct graph_entry *e = &g->entries[i];

		if (e->used && e->interned != NULL && e->interned->registrations == 0 &&
			may_forget(g, e, false))
			table_forget(g, e);
	}
	sweep_pipelines(g);
	pthread_mutex_unlock(&g->lock);
}
