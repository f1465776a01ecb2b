/* SPDX-License-Identifier: MIT */
/*
 * Dispatch's side: finds the shape of a work and gives it to the device, or to the cold thread.
 * Nothing here allocates, takes a lock or waits.
 */
#include "graphs/impl.h"

#include <assert.h>

bool mask_set(uint64_t *mask, uint64_t bits)
{
	uint64_t old = shm_load_relaxed(mask);

	while ((old & bits) != bits) {
		if (shm_compare_swap(mask, old, old | bits))
			return true;
		old = shm_load_relaxed(mask);
	}
	return false;
}

void mask_clear(uint64_t *mask, uint64_t bits)
{
	uint64_t old = shm_load_relaxed(mask);

	while (!shm_compare_swap(mask, old, old & ~bits))
		old = shm_load_relaxed(mask);
}

int graphs_saw(struct graphs *g, int err)
{
	if (err == -GPUQ_EDEVICE && shm_load_relaxed(&g->failed) == 0) {
		shm_store_release(&g->failed, 1);
		/* What waits in their lists is answered now. */
		sem_post(&g->cold_wake);
		sem_post(&g->capture_wake);
	}
	return err;
}

void plan_release(struct graphs *g, struct plan *plan)
{
	uint64_t first;

	if (plan == NULL || shm_fetch_add(&plan->refs, (uint64_t)-1) != 1)
		return;
	do {
		first = shm_load_relaxed(&g->plan_garbage);
		plan->next = (struct plan *)(uintptr_t)first;
	} while (!shm_compare_swap(&g->plan_garbage, first, (uintptr_t)plan));
}

/* --- Lanes ---------------------------------------------------------------------------------- */

void lanes_of_class(
	const struct graphs *g, uint32_t priority, uint32_t *ret_first, uint32_t *ret_end)
{
	const bool is_high = priority == 0 && g->n_high > 0;

	*ret_first = is_high ? 0 : g->n_high;
	*ret_end = is_high ? g->n_high : g->options.lanes;
}

uint32_t lane_of_class(const struct graphs *g, uint32_t priority, uint64_t hash)
{
	uint32_t first, end;

	lanes_of_class(g, priority, &first, &end);
	return first + (uint32_t)((hash >> 32) % (end - first));
}

/* The lane with the fewest works; of those with an executable of e where e is not NULL. */
static struct graph_lane *least_queued(
	struct graphs *g, const struct graph_entry *e, uint32_t first, uint32_t end)
{
	struct graph_lane *best = NULL;

	for (uint32_t i = first; i < end; i++) {
		struct graph_lane *lane = &g->lanes[i];

		if (e != NULL && entry_exec(e, i) == NULL)
			continue;
		if (best == NULL || lane->queued < best->queued)
			best = lane;
	}
	return best;
}

/* The shape is hot and its lane busy, while another one has nothing to do. */
static void wish_for_another_lane(
	struct graphs *g, struct graph_entry *e, uint32_t first, uint32_t end)
{
	/* The wish goes after the executable has come: see capture(). */
	const uint64_t no = shm_load_relaxed(&e->refused) | shm_load_acquire(&e->wanted);

	for (uint32_t i = first; i < end; i++) {
		if (g->lanes[i].queued > 0 || (no & 1ull << i) != 0 || entry_exec(e, i) != NULL)
			continue;
		if (mask_set(&e->wanted, 1ull << i))
			sem_post(&g->capture_wake);
		return;
	}
}

/* --- Launching ------------------------------------------------------------------------------ */

bool graphs_cold_room(const struct graphs *g, uint32_t priority)
{
	const struct graph_cold *cold = &g->cold[cold_class(priority)];

	return cold->prod - shm_load_acquire(&cold->cons) < GRAPHS_COLD_QUEUE;
}

static int push_cold(struct graphs *g, struct graph_work *w)
{
	struct graph_cold *cold = &g->cold[cold_class(w->priority)];
	const uint64_t prod = cold->prod;

	w->no_cold_room = !graphs_cold_room(g, w->priority);
	if (w->no_cold_room)
		return -EAGAIN;
	shm_store_relaxed(&w->state, WORK_QUEUED);
	cold->ring[prod % GRAPHS_COLD_QUEUE] = w;
	shm_store_release(&cold->prod, prod + 1);
	sem_post(&g->cold_wake);
	return 0;
}

static int give(struct graphs *g, struct graph_lane *lane, struct graph_work *w, struct plan *plan,
	struct graph_exec *exec)
{
	struct graph_slot *slot = lane_slot(lane);
	int err = slot == NULL ? -EAGAIN : lane_launch(g, slot, w, plan, exec, false);

	if (err == 0)
		lane->queued++;
	return err;
}

/* One small kernel may go beside all lanes; the work then has a plan but no slot. */
static int launch_inline(struct graphs *g, struct graph_work *w, struct plan *plan)
{
	const struct device_kernel kernel = plan_device_kernel(&plan->kernels[0], true);
	int err;

	if (plan->n_kernels > 1)
		return -EOPNOTSUPP;
	w->completion->status = 0;
	err = device_inline(g->options.device, &kernel, &w->args);
	if (err == 0)
		shm_count(&g->options.stats->inline_runs, 1);
	return graphs_saw(g, err);
}

static int launch_direct(struct graphs *g, struct graph_work *w, struct plan *plan)
{
	struct graph_lane *lane;
	uint32_t first, end;
	int err;

	shm_fetch_add(&plan->refs, 1);
	err = launch_inline(g, w, plan);
	if (err == 0)
		w->plan = plan;
	if (err != -EAGAIN && err != -EOPNOTSUPP) {
		if (err != 0)
			plan_release(g, plan);
		return err;
	}
	lanes_of_class(g, w->priority, &first, &end);
	lane = least_queued(g, NULL, first, end);
	err = give(g, lane, w, plan, NULL);
	if (err == 0)
		w->plan = plan;
	else
		plan_release(g, plan);
	return err;
}

static int launch_exec(
	struct graphs *g, struct graph_work *w, struct graph_lane *lane, struct graph_exec *exec)
{
	int err;

	shm_store_relaxed(&exec->in_flight, exec->in_flight + 1);
	err = give(g, lane, w, NULL, exec);
	w->replayed = err == 0;
	if (err == 0)
		w->exec = exec;
	else
		shm_store_release(&exec->in_flight, exec->in_flight - 1);
	return err;
}

static int launch_known(struct graphs *g, struct graph_entry *e, struct graph_work *w)
{
	struct plan *direct = (struct plan *)(uintptr_t)shm_load_acquire(&e->direct);
	struct graph_lane *lane;
	struct graph_exec *exec;
	uint32_t first, end;

	w->entry = e;
	w->graph_id = shm_load_relaxed(&e->record->id);
	if (direct != NULL)
		return launch_direct(g, w, direct);
	lanes_of_class(g, w->priority, &first, &end);
	lane = least_queued(g, e, first, end);
	if (lane == NULL)
		lane = least_queued(g, e, 0, g->options.lanes);
	/* It may be withdrawn between two looks. */
	exec = lane == NULL ? NULL : entry_exec(e, (uint32_t)(lane - g->lanes));
	if (exec == NULL)
		return push_cold(g, w);
	if (lane->queued > 0 || lane < &g->lanes[first] || lane >= &g->lanes[end])
		wish_for_another_lane(g, e, first, end);
	return launch_exec(g, w, lane, exec);
}

static void start_work(struct graphs *g, struct graph_work *w)
{
	assert(w->completion != NULL && w->args.completion != NULL);
	w->hash = (w->key != 0 ? w->key : graphs_key(w->call)) & g->hash_mask;
	w->state = WORK_RUNNING;
	w->blame = 0;
	w->no_cold_room = false;
	w->graph_id = 0;
	w->entry = NULL;
	w->exec = NULL;
	w->slot = NULL;
	w->plan = NULL;
	w->precapture = false;
	w->replayed = false;
}

int graphs_launch(struct graphs *g, struct graph_work *w)
{
	struct graph_entry *e;
	int err;

	if (shm_load_relaxed(&g->failed) != 0)
		return -GPUQ_EDEVICE;
	start_work(g, w);
	section_enter(g);
	e = table_find(g, w->call, w->hash);
	err = e == NULL ? push_cold(g, w) : launch_known(g, e, w);
	section_leave(g);
	return err;
}

int graphs_precapture(struct graphs *g, struct graph_work *w)
{
	if (shm_load_relaxed(&g->failed) != 0)
		return -GPUQ_EDEVICE;
	start_work(g, w);
	w->precapture = true;
	return push_cold(g, w);
}

bool graphs_cancel(struct graphs *g, struct graph_work *w)
{
	if (!shm_compare_swap(&w->state, WORK_QUEUED, WORK_CANCELED))
		return false;
	sem_post(&g->capture_wake);
	return true;
}

/* --- The end -------------------------------------------------------------------------------- */

/* Most shapes have one user: the first look finds it. */
static void count_user(struct stats_graph *r, uint64_t id, uint32_t uid)
{
	const uint64_t user = stats_graph_user(id, uid);

	for (uint32_t i = 0; i < STATS_GRAPH_USERS; i++) {
		const uint64_t known = shm_load_relaxed(&r->users[i]);

		if (known == user)
			return;
		if (known >> 32 != user >> 32) {
			shm_store_relaxed(&r->users[i], user);
			return;
		}
	}
}

/* Whose shape it is, and that it was used. The record may be another's by now: its id tells. */
static void count_use(struct graphs *g, const struct graph_work *w, uint64_t now_ns)
{
	struct stats_graph *r;

	if ((w->slot == NULL && w->plan == NULL && !w->precapture) || w->graph_id == 0)
		return;
	r = w->entry->record;
	if (shm_load_relaxed(&r->id) != w->graph_id)
		return;
	count_user(r, w->graph_id, w->uid);
	if (w->precapture)
		return;
	shm_count(&r->uses, 1);
	shm_store_relaxed(&r->last_used_ns, now_ns);
	if (w->exec != NULL) {
		shm_count(&r->hits, 1);
		shm_count(&g->options.stats->graph_hits, 1);
	}
}

uint64_t graphs_finish(struct graphs *g, struct graph_work *w, uint64_t now_ns)
{
	uint64_t behind_ns = 0;

	count_use(g, w, now_ns);
	if (w->slot != NULL) {
		struct graph_lane *lane = w->slot->lane;

		behind_ns = lane->ended_ns;
		lane->ended_ns = now_ns;
		shm_store_release(&w->slot->busy, 0);
		if (lane->is_cold)
			sem_post(&g->cold_wake);
		else
			lane->queued--;
	}
	if (w->exec != NULL)
		shm_store_release(&w->exec->in_flight, w->exec->in_flight - 1);
	plan_release(g, w->plan);
	w->slot = NULL;
	w->exec = NULL;
	w->plan = NULL;
	return behind_ns;
}
