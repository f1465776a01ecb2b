/* SPDX-License-Identifier: MIT */
/*
 * The capture thread: one capture at a time, with gaps between them, in the background of
 * everything. It publishes executables, ends withdrawn ones when nothing uses them any more,
 * answers precaptures, and keeps the hot list.
 */
#include "graphs/impl.h"
#include "shm/probe.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define FENCE_NS 1000000u	/* between two looks at executables that are to end */
#define GAP_MIN_NS 200000u	/* between two captures: at least, at most; otherwise */
#define GAP_MAX_NS 20000000u	/* as long as the last one took */
#define ROOM_WAIT_NS 100000000u /* for withdrawn executables to end before a new one comes */
#define NICE 10

/* --- Waiting works -------------------------------------------------------------------------- */

bool captured_for(const struct graphs *g, const struct graph_entry *e, uint32_t priority)
{
	uint32_t first, end;

	lanes_of_class(g, priority, &first, &end);
	for (uint32_t i = first; i < end; i++) {
		if (entry_exec(e, i) != NULL)
			return true;
	}
	return false;
}

/* 1: it has to wait on. Otherwise its status. */
static int answer(const struct graphs *g, const struct graph_work *w)
{
	const struct graph_entry *e = w->entry;

	if (shm_load_relaxed(&w->state) == WORK_CANCELED)
		return -ECANCELED;
	if (captured_for(g, e, w->priority) || e->no_graph)
		return 0;
	if (shm_load_relaxed(&g->failed) != 0)
		return -GPUQ_EDEVICE;
	if (shm_load_relaxed(&g->stopping) != 0)
		return -ECANCELED;
	if (w->deadline_ns != 0 && graphs_now_ns(g) >= w->deadline_ns)
		return -ETIMEDOUT;
	if (e->capturing)
		return 1;
	if (shm_load_relaxed(&e->wanted) == 0 || shm_load_relaxed(&g->stopped) != 0)
		return -GPUQ_ECAPTURE;
	return 1;
}

/* Completes precaptures that have waited long enough, for one reason or another. With the lock. */
static void answer_waiters(struct graphs *g)
{
	struct graph_work **at = &g->waiters;

	while (*at != NULL) {
		struct graph_work *w = *at;
		int status = answer(g, w);

		if (status > 0) {
			at = &w->next;
			continue;
		}
		*at = w->next;
		if (!shm_compare_swap(&w->state, WORK_QUEUED, WORK_RUNNING))
			status = -ECANCELED;
		work_complete(g, w, status);
	}
}

bool capture_answer(struct graphs *g)
{
	bool left;

	pthread_mutex_lock(&g->lock);
	answer_waiters(g);
	left = g->waiters != NULL;
	pthread_mutex_unlock(&g->lock);
	return left;
}

/* Whether its addresses will soon be others'. With the lock. */
static bool is_dropped(const struct graph_entry *e)
{
	return e->pipeline != NULL && pipeline_has_constants(e->pipeline) &&
		e->interned->registrations == 0;
}

/* Whether it was asked for by works alone, and none of them waits any more. With the lock. */
static bool is_forsaken(const struct graphs *g, const struct graph_entry *e)
{
	bool forsaken = e->urgency == URGENCY_PRECAPTURE;

	if (is_dropped(e))
		return true;
	for (const struct graph_work *w = g->waiters; w != NULL && forsaken; w = w->next)
		forsaken = w->entry != e || shm_load_relaxed(&w->state) == WORK_CANCELED;
	return forsaken;
}

bool capture_unwanted(struct graphs *g, const struct graph_entry *e)
{
	bool unwanted;

	if (shm_load_relaxed(&g->stopping) != 0)
		return true;
	pthread_mutex_lock(&g->lock);
	unwanted = is_forsaken(g, e);
	pthread_mutex_unlock(&g->lock);
	return unwanted;
}

/* --- One capture ---------------------------------------------------------------------------- */

struct job {
	struct graph_entry *entry; /* stays: it is not forgotten while it is being captured */
	uint64_t id;
	uint32_t lane;
	uint64_t begin_ns, end_ns;
	uint32_t kernels;
	struct graph_exec *exec;
	int err;
	const char *why; /* what failed; NULL: it was given up */
};

/* The hot list is first; what is asked for and what is used take turns. */
static uint32_t rank_of(const struct graphs *g, const struct graph_entry *e)
{
	return e->urgency == URGENCY_HOT_LIST ? 0 : 1 + (e->urgency == g->last_urgency);
}

/* How many users have their turn before this one. */
static uint32_t turn_of(const struct graphs *g, const struct graph_entry *e)
{
	return e->uid - g->last_uid[e->urgency] - 1;
}

static bool sooner(const struct graphs *g, const struct graph_entry *a, const struct graph_entry *b)
{
	if (b == NULL)
		return true;
	if (a->urgency != b->urgency)
		return rank_of(g, a) < rank_of(g, b);
	if (a->uid != b->uid)
		return turn_of(g, a) < turn_of(g, b);
	return a->wanted_ns < b->wanted_ns;
}

static bool take_job(struct graphs *g, struct job *job)
{
	struct graph_entry *e = NULL;

	if (shm_load_relaxed(&g->stopped) != 0 || shm_load_relaxed(&g->failed) != 0)
		return false;
	for (uint32_t i = 0; i < g->options.max_graphs; i++) {
		struct graph_entry *other = &g->entries[i];

		if (other->used && shm_load_relaxed(&other->wanted) != 0 && sooner(g, other, e))
			e = other;
	}
	if (e == NULL)
		return false;
	/* The wish stays until it is fulfilled or has failed, so that nobody has it again. */
	memset(job, 0, sizeof(*job));
	job->entry = e;
	job->id = shm_load_relaxed(&e->record->id);
	job->lane = (uint32_t)__builtin_ctzll(shm_load_relaxed(&e->wanted));
	e->capturing = true;
	g->last_urgency = e->urgency;
	g->last_uid[e->urgency] = e->uid;
	if (!entry_captured(g, e))
		shm_store_release_u32(&e->record->state, MSG_GRAPH_CAPTURING);
	return true;
}

static void describe_failure(const struct job *job, char *text, size_t size)
{
	const char *cause = strerrordesc_np(-job->err);

	if (job->err == -GPUQ_EDEVICE)
		cause = "the device has failed";
	else if (job->err == -GPUQ_ELIMIT)
		cause = "it needs more scratch memory than there is";
	if (cause != NULL)
		snprintf(text, size, "%s: %s", job->why, cause);
	else
		snprintf(text, size, "%s: error %d", job->why, -job->err);
}

/* When to try again: what has failed in itself, a few times; what found no room, for ever. */
static void put_off(const struct graphs *g, const struct job *job)
{
	const bool no_room = job->err == -ENOMEM || job->err == -ENOSPC;
	struct graph_entry *e = job->entry;

	e->failures++;
	e->given_up = !no_room && e->failures >= RETRY_MAX;
	if (e->given_up)
		return;
	e->retry_ns = job->end_ns +
		(no_room ? room_retry_ns(g, e->failures) : g->retry_after_ns << (e->failures - 1));
}

static void fail(struct graphs *g, const struct job *job)
{
	struct graph_entry *e = job->entry;
	struct stats_graph *r = e->record;

	shm_count(&g->options.stats->graph_failures, 1);
	describe_failure(job, r->reason, sizeof(r->reason));
	r->status = job->err;
	if (job->err == -ENOMEM)
		budget_shrink(g);
	if (entry_captured(g, e)) {
		/* A further lane only; the first one serves. */
		mask_set(&e->refused, 1ull << job->lane);
		shm_store_release_u32(&r->state, MSG_GRAPH_CAPTURED);
		return;
	}
	put_off(g, job);
	shm_store_release_u32(&r->state, MSG_GRAPH_FAILED);
}

/* It stays as it is served now, for good. */
static void leave_uncaptured(struct graph_entry *e)
{
	struct stats_graph *r = e->record;

	e->no_graph = true;
	snprintf(r->reason, sizeof(r->reason), "a kernel would be many times slower in a graph");
	shm_store_release_u32(&r->state, MSG_GRAPH_DIRECT);
}

static void log_capture(struct graphs *g, const struct job *job)
{
	const uint64_t number = shm_load_relaxed(&g->options.stats->capture_count) + 1;
	struct stats_capture *c;

	shm_store_relaxed(&g->options.stats->capture_count, number);
	if (g->options.max_captures == 0)
		return;
	c = &g->options.captures[number % g->options.max_captures];
	shm_store_relaxed(&c->number, 0);
	shm_fence();
	c->graph = job->id;
	c->begin_ns = job->begin_ns;
	c->end_ns = job->end_ns;
	c->kernels = job->kernels;
	c->device = g->options.device_index;
	shm_store_release(&c->number, number);
}

static void publish(struct graphs *g, const struct job *job)
{
	struct graph_entry *e = job->entry;
	struct stats_graph *r = e->record;

	g->bytes += job->exec->bytes;
	shm_count(&r->bytes, job->exec->bytes);
	shm_store_relaxed(&r->capture_ns, job->end_ns - job->begin_ns);
	r->kernels = job->kernels;
	r->status = 0;
	r->reason[0] = '\0';
	e->failures = 0;
	shm_count(&g->options.stats->graph_captures, 1);
	shm_store_release(&e->execs[job->lane], (uintptr_t)job->exec);
	shm_store_release_u32(&r->state, MSG_GRAPH_CAPTURED);
	g->hot_list_changed = true;
}

/*
 * The wish goes too, unless somebody has come with it again, or gpuqd stops: then it is for the
 * hot list. Otherwise further wishes come of use.
 */
static void give_up(const struct graphs *g, const struct job *job)
{
	struct graph_entry *e = job->entry;
	uint32_t state = MSG_GRAPH_QUEUED;

	if (shm_load_relaxed(&g->stopping) == 0 && is_forsaken(g, e)) {
		mask_clear(&e->wanted, 1ull << job->lane);
		e->urgency = URGENCY_PROMOTED;
		state = MSG_GRAPH_COLD;
	}
	shm_store_release_u32(&e->record->state, entry_captured(g, e) ? MSG_GRAPH_CAPTURED : state);
}

/* It has an executable, or is better without, or it has failed. */
static void end_job(struct graphs *g, const struct job *job)
{
	if (job->err <= 0)
		log_capture(g, job);
	if (job->err == 0)
		publish(g, job);
	else if (job->err > 0)
		leave_uncaptured(job->entry);
	else
		fail(g, job);
	/* After the executable is there: dispatch has one or the other in its view. */
	mask_clear(&job->entry->wanted, 1ull << job->lane);
	/* Further wishes come of use. */
	if (job->entry->urgency == URGENCY_PRECAPTURE)
		job->entry->urgency = URGENCY_PROMOTED;
}

static void nap(uint64_t ns)
{
	const struct timespec time = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};

	nanosleep(&time, NULL);
}

/* Room in the budget: what is withdrawn for it should have ended before the new one counts. */
static int make_room(struct graphs *g, struct job *job)
{
	const uint64_t until_ns = graphs_now_ns(g) + ROOM_WAIT_NS;

	job->why = budget_make_room(g, job->entry, job->exec->bytes);
	if (job->why != NULL) {
		exec_destroy(job->exec);
		return -ENOSPC;
	}
	while (budget_reap(g) && graphs_now_ns(g) < until_ns)
		nap(FENCE_NS);
	return 0;
}

static void record(struct graphs *g, enum recorder_kind kind, const struct job *job)
{
	const struct recorder_event e = {
		.kind = (uint16_t)kind,
		.time_ns = kind == RECORDER_CAPTURING ? job->begin_ns : job->end_ns,
		.status = job->err,
		.words = {job->id, job->lane, job->kernels},
	};

	recorder_put(g->options.capture_recorder, &e);
}

static void capture(struct graphs *g, struct job *job)
{
	job->begin_ns = graphs_now_ns(g);
	PROBE2(capture_begin, job->id, job->lane);
	record(g, RECORDER_CAPTURING, job);
	job->err = graphs_saw(
		g, record_make(g, job->entry, job->lane, &job->exec, &job->kernels, &job->why));
	job->end_ns = graphs_now_ns(g);
	if (job->err == 0)
		job->err = make_room(g, job);
	PROBE5(capture_end, job->id, job->err, job->kernels, job->begin_ns, job->end_ns);
	record(g, RECORDER_CAPTURED, job);
	pthread_mutex_lock(&g->lock);
	job->entry->capturing = false;
	assert(entry_exec(job->entry, job->lane) == NULL);
	if (job->err != 0 && job->why == NULL)
		give_up(g, job);
	else
		end_job(g, job);
	budget_publish(g);
	answer_waiters(g);
	pthread_mutex_unlock(&g->lock);
}

/* True when there was nothing to wait for. With the lock. */
static bool drop_entry(struct graphs *g, struct graph_entry *e)
{
	mask_clear(&e->wanted, UINT64_MAX);
	if (e->capturing)
		return false;
	e->pinned = false;
	budget_withdraw(g, e);
	return true;
}

void capture_drop(struct graphs *g, const struct interned *node)
{
	for (uint32_t i = 0; i < g->options.max_graphs; i++) {
		struct graph_entry *e = &g->entries[i];

		while (e->used && e->interned == node && !drop_entry(g, e)) {
			pthread_mutex_unlock(&g->lock);
			nap(FENCE_NS);
			pthread_mutex_lock(&g->lock);
		}
	}
	budget_publish(g);
	sem_post(&g->capture_wake);
}

/* --- The thread ----------------------------------------------------------------------------- */

/* Old uses fade, so that yesterday's shapes do not stay pinned. With the lock. */
static void age(struct graphs *g, uint64_t now_ns)
{
	if (now_ns - g->aged_ns < AGE_NS)
		return;
	g->aged_ns = now_ns;
	for (uint32_t i = 0; i < g->options.max_graphs; i++) {
		struct graph_entry *e = &g->entries[i];

		if (!e->used)
			continue;
		e->aged = entry_heat(e) / 2;
		e->aged_uses = shm_load_relaxed(&e->record->uses);
	}
}

static void keep_house(struct graphs *g)
{
	const uint64_t now_ns = graphs_now_ns(g);
	bool save;

	/* What has failed may be all that there was to be waited for. */
	(void)graphs_saw(g, device_check(g->options.device));
	(void)capture_answer(g);
	pthread_mutex_lock(&g->lock);
	age(g, now_ns);
	budget_grow(g, now_ns);
	save = g->hot_list_changed && now_ns - g->saved_ns >= SAVE_NS;
	pthread_mutex_unlock(&g->lock);
	if (save) {
		/* Nobody to tell: the list of the last time, or none, is as good. */
		(void)hot_list_save(g);
		g->saved_ns = now_ns;
	}
}

static void wait_for_wake(struct graphs *g, uint64_t ns)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	ns += (uint64_t)until.tv_nsec;
	until.tv_sec += (time_t)(ns / 1000000000u);
	until.tv_nsec = (long)(ns % 1000000000u);
	/* One look serves all that rang. */
	if (sem_clockwait(&g->capture_wake, CLOCK_MONOTONIC, &until) == 0) {
		while (sem_trywait(&g->capture_wake) == 0)
			;
	}
}

/* With cores to spare; a capture never runs while it keeps serving threads from one. */
static void be_modest(struct graphs *g)
{
	struct device_info info;

	device_info(g->options.device, &info);
	if (strcmp(info.kind, "cpu") != 0 && sysconf(_SC_NPROCESSORS_ONLN) >= 4)
		(void)setpriority(PRIO_PROCESS, (id_t)gettid(), NICE);
}

void *capture_main(void *graphs)
{
	struct graphs *g = graphs;
	struct job job;

	pthread_setname_np(pthread_self(), "gpuq-capture");
	device_set_background(g->options.device);
	be_modest(g);
	while (shm_load_acquire(&g->stopping) == 0) {
		bool have_job;
		bool dying = budget_reap(g);

		keep_house(g);
		pthread_mutex_lock(&g->lock);
		have_job = take_job(g, &job);
		pthread_mutex_unlock(&g->lock);
		if (have_job) {
			uint64_t took_ns;

			capture(g, &job);
			took_ns = job.end_ns - job.begin_ns;
			took_ns = took_ns < GAP_MIN_NS ? GAP_MIN_NS : took_ns;
			nap(took_ns > GAP_MAX_NS ? GAP_MAX_NS : took_ns);
			continue;
		}
		wait_for_wake(g, dying ? FENCE_NS : IDLE_NS);
	}
	return NULL;
}
