/* SPDX-License-Identifier: MIT */
/*
 * rig.h: a graph cache on the CPU device, driven by the test as dispatch drives it, and tasks:
 * works with tensors of their own that know their results. Every finished task is checked against
 * the operators' CPU forms run one after another, bit by bit.
 */
#ifndef GPUQ_TESTS_GRAPHS_RIG_H
#define GPUQ_TESTS_GRAPHS_RIG_H

#include "graphs/impl.h"
#include "tests/graphs/definition.h"

#define RIG_GRAPHS 64
#define RIG_CAPTURES 16
#define RIG_SECOND_NS 1000000000ull

struct rig {
	struct graphs_options options; /* may be changed between rig_prepare() and rig_start() */
	struct stats_device stats;
	struct stats_graph records[RIG_GRAPHS];
	struct stats_capture captures[RIG_CAPTURES];
	struct graphs *g;
	char why[224];
	int wake_fd;
};

/* A device with these faults (NULL: none), and options; no cache yet. */
struct rig *rig_prepare(const char *faults);
void rig_start(struct rig *rig);
/* Both; one kernel is captured too, after 2 uses. */
struct rig *rig_new(const char *faults);
/* Ends cache and device. */
void rig_free(struct rig *rig);
/* Ends the cache and starts another one on the same device. */
void rig_restart(struct rig *rig);

struct task {
	struct graph_work w;
	struct op_call call;
	struct pipeline *pipeline; /* a reference; NULL: an operator */
	struct device_completion *completion;
	float *data[PIPELINE_MAX_TENSORS]; /* inputs, then outputs */
	uint64_t lengths[GPUQ_MAX_TENSORS];
	float *expected[GPUQ_MAX_OUTPUTS];
};

/* Tasks with random data. */
struct task *task_softmax(struct rig *rig, uint64_t b, uint64_t d);
struct task *task_gemv(struct rig *rig, uint64_t b, uint64_t i, uint64_t o);
/* One token, whose key and value go into the first slot of the cache, input 4. */
struct task *task_kv_append(struct rig *rig);
/* A pipeline's: shapes of the inputs as defined, rank 2, the first one's rows may differ. */
struct task *task_pipeline(
	struct rig *rig, struct pipeline *p, uint64_t rows, uint64_t out_columns);
struct pipeline *rig_pipeline(struct rig *rig, struct definition *d);
void task_free(struct rig *rig, struct task *t);

int task_launch(struct rig *rig, struct task *t);
/* Waits for its word, finishes it; its status. The results are checked when that is 0. */
int task_wait(struct rig *rig, struct task *t);
bool task_done(const struct task *t);
/* Launches until there is room, and waits. */
int task_run(struct rig *rig, struct task *t);
int task_precapture(struct rig *rig, struct task *t);

/* A counter that another thread may be writing. */
static inline uint64_t seen(const uint64_t *counter)
{
	return shm_load_acquire(counter);
}

/* The record of the task's shape, NULL: there is none. */
struct stats_graph *task_record(struct rig *rig, const struct task *t);
uint32_t task_state(struct rig *rig, const struct task *t);
/* Waits until the record has the state; fails the test after some seconds. */
void task_await_state(struct rig *rig, const struct task *t, uint32_t state);
/* Runs the task until it is captured; then some more, and expects replays. */
void task_heat(struct rig *rig, struct task *t);
/* Waits until a word in memory is at least so much. */
void rig_await(const uint64_t *word, uint64_t value);

#endif
