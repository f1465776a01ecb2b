/* SPDX-License-Identifier: MIT */
/*
 * impl.h: the graph cache from inside; for the files of this folder and for its tests.
 *
 * Who writes what:
 *   dispatch      lanes but the cold ones, graph_exec.in_flight, hits and uses of the records
 *   cold thread   the table, entries' identity and plans, the cold lanes
 *   any thread    with the lock: executables (publication and withdrawal), states, wishes
 *   capture thread  executables' making and end, the hot list
 *
 * Dispatch takes no lock. It looks at the table and at executables only between section_enter()
 * and section_leave(); whoever withdraws something from there calls section_wait() before it
 * reuses or frees it. What dispatch has launched by then is counted: graph_exec.in_flight for
 * executables, plan.refs for plans.
 */
#ifndef GPUQ_GRAPHS_IMPL_H
#define GPUQ_GRAPHS_IMPL_H

#include "graphs/graphs.h"
#include "graphs/plan.h"

#include <pthread.h>
#include <semaphore.h>

#define DIRECT_KERNELS_MAX 8	       /* so few that a lane's stream always has room */
#define PLAN_CACHE_BYTES (64ull << 20) /* plans that cold shapes may keep */
#define RETRY_NS 60000000000ull	       /* after a failed capture; doubles */
#define RETRY_MAX 5		       /* failures in a row, then only a precapture tries again */
#define ROOM_RETRY_NS 1000000000ull /* the same for want of memory, which others may give back: */
#define ROOM_RETRY_DOUBLINGS 6	    /* doubles so often, and is never given up */
#define BUDGET_FLOOR 64		    /* of so many parts of the budget one is always left */
#define IDLE_NS 1000000000u	    /* between two looks of a thread that has nothing to do */
#define WAITING_NS 10000000u	    /* between two looks at works that wait for a capture or room */
#define WARM_UP_MAX_NS 100000000ull /* on the CPU: it has nothing to warm up but caches */
#define SAVE_NS 60000000000ull	    /* between two hot lists */
#define UID_NONE UINT32_MAX
#define AGE_NS 600000000000ull /* in this time the weight of old uses halves */

enum work_state {
	WORK_RUNNING = 0, /* or ended: can no longer be cancelled */
	WORK_QUEUED = 1,
	WORK_CANCELED = 2,
};

/* Room for one work in a lane. */
struct graph_slot {
	struct graph_lane *lane;
	uint64_t busy;
	char *staging;
	struct device_event *in_done, *work_done;
	struct device_completion *inner; /* of a replay whose outputs are still to be copied */
};

struct graph_lane {
	struct device_stream *stream, *copy_in, *copy_out;
	void *scratch;
	char *staging;
	struct graph_slot slots[GRAPHS_LANE_DEPTH];
	uint64_t queued;   /* works; dispatch's, and not of a cold lane */
	uint64_t ended_ns; /* when dispatch saw that one of its works had; 0: none has */
	bool is_cold;
};

/* Works of one class of priorities whose shapes are cold: their lane, and the queue for it. */
struct graph_cold {
	struct graph_lane lane;
	uint64_t prod, cons;
	struct graph_work *ring[GRAPHS_COLD_QUEUE]; /* NULL: answered before its turn */
};
#define COLD_LANES 2 /* of high priority, and the other */

struct graph_exec {
	struct device_exec *exec;
	uint64_t bytes;
	uint64_t in_flight;	 /* written by dispatch */
	struct graph_exec *next; /* among those that wait for their end */
};

/* How soon a wish for a capture is fulfilled. */
enum urgency { URGENCY_HOT_LIST, URGENCY_PRECAPTURE, URGENCY_PROMOTED };

struct graph_entry {
	struct stats_graph *record; /* for ever */

	/* The key; constant while the entry is in the table. */
	struct op_call call;
	struct pipeline *pipeline;
	struct interned *interned; /* the pipeline's */
	uint64_t hash;
	uint32_t uid; /* of who used it first; UID_NONE: it came from the hot list */

	uint64_t direct; /* struct plan *: dispatch launches these kernels itself */
	uint64_t execs[GRAPHS_MAX_LANES]; /* struct graph_exec * */
	uint64_t wanted;		  /* mask of lanes to be captured for */
	uint64_t refused;		  /* mask of lanes that a further capture failed for */

	/* With the lock. */
	bool used, capturing, pinned;
	bool hot; /* of the pinned hot set, when it was last computed */
	uint32_t urgency;
	uint64_t wanted_ns; /* or the rank in the hot list */
	uint32_t failures;  /* in a row */
	bool given_up;
	bool no_graph; /* it would be slower */
	uint64_t retry_ns;
	uint64_t aged, aged_uses; /* see entry_heat() */

	/* The cold thread's. */
	struct plan *plans[COLD_LANES]; /* each for the scratch memory of one lane */
	uint64_t plan_used_ns;
	uint64_t window_ns, window_uses;
};

struct interned {
	struct pipeline *pipeline;
	uint32_t registrations; /* graphs_intern() without graphs_release() */
	struct interned *next;
};

struct graphs {
	struct graphs_options options;
	uint32_t direct_kernels;
	uint32_t n_high; /* lanes 0 .. n_high-1 serve priority 0; n_high..lanes-1 the others */
	struct graph_lane lanes[GRAPHS_MAX_LANES];
	struct graph_cold cold[COLD_LANES];
	struct device_completion *inner; /* of all slots */
	uint64_t failed;		 /* 1: the device has, for good */
	uint64_t stopping;		 /* 1: the threads end */

	/* Dispatch's side. */
	uint64_t section; /* odd: dispatch looks at the table */
	sem_t cold_wake;
	uint64_t plan_garbage; /* struct plan *: list of plans that dispatch was the last to use */

	/* The table: open addressing, entries lie as near behind their place as they can. */
	struct graph_entry *entries;
	uint64_t *table; /* struct graph_entry * */
	uint64_t table_mask;
	uint64_t hash_mask;	 /* all ones; tests make hashes collide */
	LIST_HEAD(, plan) plans; /* all that exist */
	uint64_t plan_bytes;	 /* of those that cold shapes keep */
	uint64_t plan_bytes_max; /* PLAN_CACHE_BYTES; tests have less */
	bool has_waiters;	 /* there may be precaptures to answer; the cold thread's */

	pthread_mutex_t lock;
	struct graph_exec *dying;
	struct graph_work *waiters; /* precaptures */
	struct interned *pipelines;
	uint64_t unregistered; /* 1: table_sweep() may find something */
	uint64_t next_id;
	uint64_t stopped; /* captures are */
	uint64_t bytes;	  /* of published executables */
	uint64_t dying_bytes;
	uint64_t budget;
	bool hot_list_changed;

	/* The capture thread's. */
	/*
	 * Held for writing while it records. Readers go first on purpose: one that hangs in the
	 * driver would otherwise stop all others, the link thread too, behind a waiting writer.
	 */
	pthread_rwlock_t quiet;
	sem_t capture_wake;
	struct device_stream *warm_streams[2], *capture_streams[2];
	void *warm_scratch, *warm_tensors;
	uint64_t warm_up_max_ns; /* plans predicted to take longer are not warmed up */
	uint32_t last_urgency;	 /* of the last capture; and whose it was, for each urgency: */
	uint32_t last_uid[URGENCY_PROMOTED + 1];
	struct plan *lost;	 /* plans that the device may be reading, nobody knows how long */
	uint64_t retry_after_ns; /* RETRY_NS; tests shorten it */
	uint64_t room_after_ns;	 /* ROOM_RETRY_NS; likewise */
	uint32_t shortages;	 /* of memory in a row: see budget_grow() */
	uint64_t saved_ns, aged_ns, grown_ns;
	struct graph_entry **sorted; /* room for all */
	pthread_t cold_thread, capture_thread;
};

/* --- table.c ------------------------------------------------------------------------------- */

struct graph_entry *table_find(const struct graphs *g, const struct op_call *call, uint64_t hash);

/*
 * An entry for a new key, which then counts as the user's; NULL: none is left, and those that
 * could be forgotten are pinned, hot, on the device or waited for. Cold thread, or before it runs.
 */
struct graph_entry *table_add(struct graphs *g, const struct op_call *call,
	struct pipeline *pipeline, uint64_t hash, uint32_t uid);

/* Forgets an entry that has no executable and no waiter. Cold thread, with the lock. */
void table_forget(struct graphs *g, struct graph_entry *e);

/* Forgets cold shapes of pipelines that nobody has registered any more. Cold thread. */
void table_sweep(struct graphs *g);

/* --- cache.c ------------------------------------------------------------------------------- */

/* Pipelines that only the list knows are forgotten. With the lock. */
void sweep_pipelines(struct graphs *g);

/* Lets the cold thread sweep. Any thread. */
void sweep_soon(struct graphs *g);

static inline void section_enter(struct graphs *g)
{
	shm_store_relaxed(&g->section, g->section + 1);
	/* Pairs with section_wait(): that sees this section, or this section its store. */
	shm_fence();
}

static inline void section_leave(struct graphs *g)
{
	shm_store_release(&g->section, g->section + 1);
}

/* What was withdrawn before this call is not being looked at any more when it returns. */
void section_wait(struct graphs *g);

static inline struct graph_exec *entry_exec(const struct graph_entry *e, uint32_t lane)
{
	return (struct graph_exec *)(uintptr_t)shm_load_acquire(&e->execs[lane]);
}

bool entry_captured(const struct graphs *g, const struct graph_entry *e);

/* Uses, those of long ago counting less. With the lock. */
uint64_t entry_heat(const struct graph_entry *e);

static inline uint64_t graphs_now_ns(const struct graphs *g)
{
	return clock_now_ns(&g->options.clock);
}

/* The scratch memory of a work: that of a lane, or its pipeline's own. */
static inline void *scratch_of(const struct graphs *g, const struct pipeline *p,
	const struct graph_lane *lane, uint64_t *ret_bytes)
{
	void *own = p == NULL ? NULL : pipeline_scratch(p, ret_bytes);

	if (own == NULL)
		*ret_bytes = g->options.scratch_bytes;
	return own == NULL ? lane->scratch : own;
}

/* Remembers a failed device; returns err. */
int graphs_saw(struct graphs *g, int err);

/* --- lane.c -------------------------------------------------------------------------------- */

int lane_create(struct graphs *g, struct graph_lane *lane, uint32_t priority,
	struct device_completion *inner);
void lane_destroy(struct graphs *g, struct graph_lane *lane);

/* A free slot; NULL: none. */
struct graph_slot *lane_slot(struct graph_lane *lane);

/*
 * Gives the work to the lane: the kernels of a plan, or an executable (plan NULL). 0: the slot is
 * taken, and the completion word will come. Otherwise nothing was given. may_wait: waits while the
 * stream is full.
 */
int lane_launch(struct graphs *g, struct graph_slot *slot, struct graph_work *w, struct plan *plan,
	struct graph_exec *exec, bool may_wait);

/* --- launch.c, cold.c ---------------------------------------------------------------------- */

/* Drops a reference; the last one's plan goes to the cold thread to be freed. Any thread. */
void plan_release(struct graphs *g, struct plan *plan);

/* Completes a work that is not on the device. It may be gone when this returns. */
void work_complete(struct graphs *g, struct graph_work *w, int status);

/* Lanes first..end-1 serve a priority. */
void lanes_of_class(
	const struct graphs *g, uint32_t priority, uint32_t *ret_first, uint32_t *ret_end);

/* The lane that a shape is first captured for. */
uint32_t lane_of_class(const struct graphs *g, uint32_t priority, uint64_t hash);

/* Asks for a capture. With the lock. */
void entry_want(struct graphs *g, struct graph_entry *e, uint32_t lane, enum urgency urgency,
	uint64_t wanted_ns);

/* Which of the two serves works of this priority when their shapes are cold. */
static inline uint32_t cold_class(uint32_t priority)
{
	return priority != 0;
}

/* Sets the mask's bits; true when they were not all set. Any thread. */
bool mask_set(uint64_t *mask, uint64_t bits);
void mask_clear(uint64_t *mask, uint64_t bits);

void *cold_main(void *graphs);

/* --- capture.c ----------------------------------------------------------------------------- */

void *capture_main(void *graphs);

/*
 * Answers precaptures that have waited long enough, for one reason or another. True when some are
 * left. Not dispatch.
 */
bool capture_answer(struct graphs *g);

/*
 * Withdraws every executable of a pipeline that nobody has registered any more, and waits until no
 * other one is being made. With the lock, which is given back while this waits. Not dispatch.
 */
void capture_drop(struct graphs *g, const struct interned *node);

/* Whether nobody waits any more for the shape that is being captured. */
bool capture_unwanted(struct graphs *g, const struct graph_entry *e);

/* Whether a lane that serves this priority has an executable of the shape. */
bool captured_for(const struct graphs *g, const struct graph_entry *e, uint32_t priority);

/* --- record.c ------------------------------------------------------------------------------ */

int record_init(struct graphs *g);
void record_destroy(struct graphs *g);

/*
 * Makes an executable of a shape for a lane; nothing is published. On failure `why` has the step
 * that failed; NULL: it was given up, see capture_unwanted(). 1: none was made, since a kernel is
 * much faster when it is launched.
 */
int record_make(struct graphs *g, const struct graph_entry *e, uint32_t lane,
	struct graph_exec **ret_exec, uint32_t *ret_kernels, const char **why);

/* --- budget.c ------------------------------------------------------------------------------ */

/* Withdraws all executables of an entry; they end when nothing uses them. With the lock. */
void budget_withdraw(struct graphs *g, struct graph_entry *e);

/* Finds the pinned hot set: the captured shapes that were used most. With the lock. */
void budget_mark_hot(struct graphs *g);

/* Neither pinned nor hot nor on the device. With the lock, and the hot set found before. */
bool budget_may_withdraw(const struct graphs *g, const struct graph_entry *e);

/*
 * Withdraws what was not used for longest until so many more bytes fit that are for this entry: of
 * its user's, and of all. NULL: they do; or why they cannot.
 */
const char *budget_make_room(struct graphs *g, const struct graph_entry *e, uint64_t bytes);

/*
 * There was no memory: withdraws something and keeps to what is left for a while, or to the
 * floor, so that a first shape still finds room. With the lock.
 */
void budget_shrink(struct graphs *g);

/* How long to wait after so many failures in a row for want of memory. */
uint64_t room_retry_ns(const struct graphs *g, uint32_t failures);

/* Lets the budget grow back, the slower the more often memory was short. With the lock. */
void budget_grow(struct graphs *g, uint64_t now_ns);

/* Ends withdrawn executables that nothing uses; true when some are left. Capture thread. */
bool budget_reap(struct graphs *g);

/* NULL is fine. */
void exec_destroy(struct graph_exec *exec);

/* Brings the totals up to date. With the lock. */
void budget_publish(struct graphs *g);

/* Entries with an executable or on the way to one, most used first. With the lock. */
uint32_t budget_sort(struct graphs *g);

/* --- hot_list.c ---------------------------------------------------------------------------- */

/* Reads the list and asks for its shapes. Before the threads run. `why`: "" or what is wrong. */
void hot_list_load(struct graphs *g, char why[224]);

/* Writes it. Not with the lock. -ENOMEM or what the file system says. */
int hot_list_save(struct graphs *g);

#endif
