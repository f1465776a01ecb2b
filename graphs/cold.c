/* SPDX-License-Identifier: MIT */
/*
 * The cold-launch thread: serves shapes that have no executable, kernel by kernel, on a lane of
 * its own; plans what is new, enters it into the table, counts its uses, and asks for a capture
 * when there were enough of them in a short time. So first uses never hold up dispatch.
 */
#include "graphs/impl.h"
#include "shm/probe.h"

#include <errno.h>
#include <unistd.h>

void work_complete(struct graphs *g, struct graph_work *w, int status)
{
	const uint64_t one = 1;
	const int wake_fd = g->options.wake_fd;

	w->completion->started_ns = 0;
	w->completion->ended_ns = 0;
	w->completion->status = status;
	shm_store_release(&w->completion->word, w->args.value);
	/* A full counter wakes as well. */
	if (wake_fd >= 0 && write(wake_fd, &one, sizeof(one)) < 0)
		return;
}

/* --- Plans ---------------------------------------------------------------------------------- */

static void free_garbage(struct graphs *g)
{
	uint64_t first = shm_load_acquire(&g->plan_garbage);

	while (first != 0 && !shm_compare_swap(&g->plan_garbage, first, 0))
		first = shm_load_acquire(&g->plan_garbage);
	/* A failed device may still be reading one: they end with the cache. */
	if (shm_load_acquire(&g->failed) != 0)
		return;
	while (first != 0) {
		struct plan *plan = (struct plan *)(uintptr_t)first;

		first = (uintptr_t)plan->next;
		LIST_REMOVE(plan, link);
		plan_destroy(plan);
	}
}

static void drop_plans(struct graphs *g, struct graph_entry *e)
{
	for (uint32_t i = 0; i < COLD_LANES; i++) {
		if (e->plans[i] != NULL)
			g->plan_bytes -= e->plans[i]->bytes;
		plan_release(g, e->plans[i]);
		e->plans[i] = NULL;
	}
}

/* Plans of cold shapes are kept as long as there is room: making one again takes longer. */
static void trim_plans(struct graphs *g, const struct graph_entry *keep)
{
	while (g->plan_bytes > g->plan_bytes_max) {
		struct graph_entry *oldest = NULL;

		for (uint32_t i = 0; i < g->options.max_graphs; i++) {
			struct graph_entry *e = &g->entries[i];

			if (e->plans[0] == NULL && e->plans[1] == NULL)
				continue;
			if (e == keep || shm_load_relaxed(&e->direct) != 0)
				continue;
			if (oldest == NULL || e->plan_used_ns < oldest->plan_used_ns)
				oldest = e;
		}
		if (oldest == NULL)
			return;
		drop_plans(g, oldest);
	}
}

/* The entry keeps the plan; a short one without inner tensors is dispatch's from here on. */
static void adopt_plan(struct graphs *g, struct graph_entry *e, struct plan *plan, uint32_t class)
{
	const bool direct = plan->n_kernels <= g->direct_kernels && plan->scratch_bytes == 0;

	e->plans[class] = plan;
	shm_fetch_add(&plan->refs, 1);
	pthread_mutex_lock(&g->lock);
	e->record->kernels = plan->n_kernels;
	if (direct)
		shm_store_release_u32(&e->record->state, MSG_GRAPH_DIRECT);
	pthread_mutex_unlock(&g->lock);
	if (direct) {
		shm_store_release(&e->direct, (uintptr_t)plan);
		return;
	}
	g->plan_bytes += plan->bytes;
	trim_plans(g, e);
}

static int make_plan(struct graphs *g, struct graph_work *w, struct plan **ret_plan)
{
	struct plan *plan;
	uint64_t bytes;
	void *scratch = scratch_of(g, w->pipeline, &g->cold[cold_class(w->priority)].lane, &bytes);
	int err = plan_create(w->pipeline, w->call, scratch, g->options.cost, &plan, &w->blame);

	if (err != 0)
		return err;
	if (plan->scratch_bytes > bytes) {
		plan_destroy(plan);
		return -GPUQ_ELIMIT;
	}
	LIST_INSERT_HEAD(&g->plans, plan, link);
	*ret_plan = plan;
	return 0;
}

/* What the entry keeps; one without scratch memory serves both lanes. */
static struct plan *kept_plan(const struct graph_entry *e, uint32_t class)
{
	const uint64_t direct = shm_load_relaxed(&e->direct);

	return direct != 0 ? (struct plan *)(uintptr_t)direct : e->plans[class];
}

/* Finds or makes the work's entry (none when the table is full) and a reference to its plan. */
static int find_shape(struct graphs *g, struct graph_work *w, struct graph_entry **ret_entry,
	struct plan **ret_plan)
{
	struct graph_entry *e = table_find(g, w->call, w->hash);
	const uint32_t class = cold_class(w->priority);
	struct plan *kept = e == NULL ? NULL : kept_plan(e, class);
	int err;

	if (kept != NULL) {
		shm_fetch_add(&kept->refs, 1);
		*ret_plan = kept;
	} else {
		err = make_plan(g, w, ret_plan);
		if (err != 0)
			return err;
		if (e == NULL)
			e = table_add(g, w->call, w->pipeline, w->hash, w->uid);
		if (e != NULL)
			adopt_plan(g, e, *ret_plan, class);
	}
	w->graph_id = 0;
	if (e != NULL) {
		e->plan_used_ns = graphs_now_ns(g);
		shm_store_relaxed(&e->record->last_used_ns, e->plan_used_ns);
		w->graph_id = shm_load_relaxed(&e->record->id);
	}
	w->entry = e;
	*ret_entry = e;
	return 0;
}

/* --- Promotion ------------------------------------------------------------------------------ */

void entry_want(struct graphs *g, struct graph_entry *e, uint32_t lane, enum urgency urgency,
	uint64_t wanted_ns)
{
	if (shm_load_relaxed(&e->wanted) == 0 || urgency < e->urgency) {
		e->urgency = urgency;
		e->wanted_ns = wanted_ns;
	}
	mask_clear(&e->refused, 1ull << lane);
	mask_set(&e->wanted, 1ull << lane);
	if (!e->capturing && !entry_captured(g, e))
		shm_store_release_u32(&e->record->state, MSG_GRAPH_QUEUED);
	sem_post(&g->capture_wake);
}

/* A shape whose capture failed has to wait longer each time. */
static bool may_promote(const struct graphs *g, const struct graph_entry *e, uint64_t now_ns)
{
	return !e->no_graph && !e->capturing && shm_load_relaxed(&e->wanted) == 0 &&
		!entry_captured(g, e) &&
		(e->failures == 0 || (!e->given_up && now_ns >= e->retry_ns));
}

static void count_cold_use(struct graphs *g, struct graph_entry *e, const struct graph_work *w)
{
	const uint64_t now_ns = graphs_now_ns(g);

	if (shm_load_relaxed(&e->direct) != 0)
		return;
	shm_count(&g->options.stats->graph_misses, 1);
	if (now_ns - e->window_ns > g->options.promote_window_ns) {
		e->window_ns = now_ns;
		e->window_uses = 0;
	}
	e->window_uses++;
	if (e->window_uses < g->options.promote_uses)
		return;
	e->window_uses = 0;
	pthread_mutex_lock(&g->lock);
	if (may_promote(g, e, now_ns))
		entry_want(g, e, lane_of_class(g, w->priority, e->hash), URGENCY_PROMOTED, now_ns);
	pthread_mutex_unlock(&g->lock);
}

/* Answers a precapture, or leaves it to the capture thread. */
static void ask_for_capture(struct graphs *g, struct graph_entry *e, struct graph_work *w)
{
	int status = 0;

	if (e == NULL) {
		work_complete(g, w, -GPUQ_ELIMIT);
		return;
	}
	pthread_mutex_lock(&g->lock);
	if (shm_load_relaxed(&e->direct) == 0 && !e->no_graph && !captured_for(g, e, w->priority)) {
		status = shm_load_relaxed(&g->stopped) != 0 ? -GPUQ_ECAPTURE : 1;
		if (status == 1) {
			e->failures = 0;
			e->given_up = false;
			w->next = g->waiters;
			g->waiters = w;
			g->has_waiters = true;
			entry_want(g, e, lane_of_class(g, w->priority, e->hash), URGENCY_PRECAPTURE,
				graphs_now_ns(g));
		}
	}
	pthread_mutex_unlock(&g->lock);
	if (status <= 0)
		work_complete(g, w, status);
}

/* --- Serving -------------------------------------------------------------------------------- */

/* 0, or why the work is not to be started. */
static int admit(const struct graphs *g, const struct graph_work *w)
{
	if (shm_load_relaxed(&w->state) == WORK_CANCELED || shm_load_acquire(&g->stopping) != 0)
		return -ECANCELED;
	if (shm_load_acquire(&g->failed) != 0)
		return -GPUQ_EDEVICE;
	if (w->deadline_ns != 0 && graphs_now_ns(g) >= w->deadline_ns)
		return -ETIMEDOUT;
	return 0;
}

/* False: the time is over. */
static bool sem_wait_for(sem_t *sem, uint64_t ns)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	ns += (uint64_t)until.tv_nsec;
	until.tv_sec += (time_t)(ns / 1000000000u);
	until.tv_nsec = (long)(ns % 1000000000u);
	return sem_clockwait(sem, CLOCK_MONOTONIC, &until) == 0;
}

static void refuse(struct graphs *g, struct graph_work *w, int err)
{
	if (!shm_compare_swap(&w->state, WORK_QUEUED, WORK_RUNNING) &&
		shm_load_relaxed(&w->state) == WORK_CANCELED)
		err = -ECANCELED;
	work_complete(g, w, err);
}

static void record(struct graphs *g, enum recorder_kind kind, uint64_t graph, int status)
{
	const struct recorder_event e = {
		.kind = (uint16_t)kind,
		.time_ns = graphs_now_ns(g),
		.status = status,
		.words = {graph},
	};

	recorder_put(g->options.cold_recorder, &e);
}

static int serve(struct graphs *g, struct graph_cold *cold, struct graph_work *w)
{
	struct graph_entry *e;
	struct plan *plan;
	int err = find_shape(g, w, &e, &plan);

	if (err != 0)
		return err;
	if (w->precapture) {
		plan_release(g, plan);
		ask_for_capture(g, e, w);
		return 0;
	}
	if (e != NULL)
		count_cold_use(g, e, w);
	w->plan = plan;
	/* It may have ended, and be another one, when the launch returns. */
	const uint64_t id = w->graph_id;
	PROBE1(cold_begin, id);
	record(g, RECORDER_COLD_LAUNCH, id, 0);
	if (shm_compare_swap(&w->state, WORK_QUEUED, WORK_RUNNING))
		err = lane_launch(g, lane_slot(&cold->lane), w, plan, NULL, true);
	else
		err = -ECANCELED;
	PROBE2(cold_end, id, err);
	record(g, RECORDER_COLD_LAUNCHED, id, err);
	if (err != 0) {
		w->plan = NULL;
		plan_release(g, plan);
	}
	return err;
}

/* --- The queues ----------------------------------------------------------------------------- */

static struct graph_work **place_of(struct graph_cold *cold, uint64_t position)
{
	return &cold->ring[position % GRAPHS_COLD_QUEUE];
}

static bool is_empty(const struct graph_cold *cold)
{
	return cold->cons == shm_load_acquire(&cold->prod);
}

/* Refuses what is not to be started any more, wherever it is in the queue. */
static void sweep(struct graphs *g, struct graph_cold *cold)
{
	const uint64_t prod = shm_load_acquire(&cold->prod);

	for (uint64_t i = cold->cons; i != prod; i++) {
		struct graph_work *w = *place_of(cold, i);
		const int err = w == NULL ? 0 : admit(g, w);

		if (err == 0)
			continue;
		*place_of(cold, i) = NULL;
		refuse(g, w, err);
	}
}

/* Serves the first of a queue. False: there is none, or no room for it in its lane. */
static bool serve_first(struct graphs *g, struct graph_cold *cold)
{
	struct graph_work *w;
	int err;

	if (is_empty(cold))
		return false;
	w = *place_of(cold, cold->cons);
	if (w != NULL && !w->precapture && lane_slot(&cold->lane) == NULL)
		return false;
	shm_store_release(&cold->cons, cold->cons + 1);
	err = w == NULL ? 0 : serve(g, cold, w);
	if (err != 0)
		refuse(g, w, err);
	return true;
}

/* Waits for works, for room, or for the time to look at those that wait. */
static void wait_for_wake(struct graphs *g)
{
	const bool waits = !is_empty(&g->cold[0]) || !is_empty(&g->cold[1]);

	if (!sem_wait_for(&g->cold_wake, waits || g->has_waiters ? WAITING_NS : IDLE_NS) && waits) {
		/* A device that has failed gives no room back. */
		(void)graphs_saw(g, device_check(g->options.device));
	}
	/* One look serves all that rang. */
	while (sem_trywait(&g->cold_wake) == 0)
		;
}

void *cold_main(void *graphs)
{
	struct graphs *g = graphs;
	uint64_t answered_ns = 0;
	bool served = false;

	pthread_setname_np(pthread_self(), "gpuq-cold");
	while (shm_load_acquire(&g->stopping) == 0) {
		if (!served)
			wait_for_wake(g);
		table_sweep(g);
		free_garbage(g);
		served = false;
		for (uint32_t i = 0; i < COLD_LANES; i++) {
			sweep(g, &g->cold[i]);
			served |= serve_first(g, &g->cold[i]);
		}
		/* The capture thread does so between captures, and those may be long. */
		if (g->has_waiters && graphs_now_ns(g) - answered_ns >= WAITING_NS) {
			g->has_waiters = capture_answer(g);
			answered_ns = graphs_now_ns(g);
		}
	}
	for (uint32_t i = 0; i < COLD_LANES; i++)
		sweep(g, &g->cold[i]);
	return NULL;
}
