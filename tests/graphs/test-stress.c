/* SPDX-License-Identifier: MIT */
/*
 * Everything at once: one thread launches works of many shapes as dispatch does, another evicts,
 * pins, stops and resumes, a third interns pipelines and keeps captures away. Budget and table are
 * too small for all. Every result is checked.
 */
#include "tests/harness.h"

#include "tests/graphs/rig.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#define TASKS 36
#define RUN_NS (2 * RIG_SECOND_NS)

struct meddler {
	struct rig *rig;
	uint64_t stop;
	struct random rng;
};

static void *meddle(void *arg)
{
	struct meddler *m = arg;
	struct graphs *g = m->rig->g;

	while (shm_load_acquire(&m->stop) == 0) {
		const uint64_t id = shm_load_relaxed(
			&m->rig->records[random_below(&m->rng, RIG_GRAPHS / 2)].id);

		switch (random_below(&m->rng, 6)) {
		case 0:
			(void)graphs_evict(g, 0);
			break;
		case 1:
		case 2:
			(void)graphs_evict(g, id);
			break;
		case 3:
			(void)graphs_pin(g, id, random_below(&m->rng, 4) == 0);
			break;
		case 4:
			graphs_stop_captures(g);
			break;
		default:
			graphs_resume_captures(g);
		}
		usleep((useconds_t)random_below(&m->rng, 3000));
	}
	return NULL;
}

static void *register_things(void *arg)
{
	struct meddler *m = arg;

	while (shm_load_acquire(&m->stop) == 0) {
		struct definition *d = definition_layers(1 + random_below(&m->rng, 3), 8, 16, 3);
		char why[PIPELINE_MAX_WHY];
		int err;
		struct pipeline *p = definition_create(d, &err, why);

		free(d);
		p = graphs_intern(m->rig->g, p);
		graphs_quiet_begin(m->rig->g);
		usleep((useconds_t)random_below(&m->rng, 300));
		graphs_quiet_end(m->rig->g);
		pipeline_unref(p);
		usleep((useconds_t)random_below(&m->rng, 2000));
	}
	return NULL;
}

static void make_tasks(struct rig *rig, struct task *tasks[TASKS], struct random *rng)
{
	struct pipeline *p = rig_pipeline(rig, definition_layers(4, 8, 16, 3));

	for (uint32_t i = 0; i < TASKS; i++) {
		struct pipeline *random = NULL;

		if (i % 3 == 0) {
			tasks[i] = task_gemv(rig, 1 + i, 40, 24);
		} else if (i % 3 == 1) {
			tasks[i] = task_pipeline(rig, p, 1 + i % 8, 3);
		} else {
			random = rig_pipeline(rig, definition_random(rng, 5 + i, 3, 24));
			tasks[i] = task_pipeline(rig, random, 3, 24);
			pipeline_unref(random);
		}
		tasks[i]->w.priority = (uint32_t)random_below(rng, 2);
		tasks[i]->w.uid = 1000 + i % 2;
	}
	pipeline_unref(p);
}

/* One look at one task, as a pass of dispatch. */
static void step(struct rig *rig, struct task *t, bool *running, struct random *rng)
{
	int err;

	if (*running && task_done(t)) {
		err = task_wait(rig, t);
		assert_true(err == 0 || err == -ECANCELED || err == -ETIMEDOUT ||
			(t->w.precapture && (err == -GPUQ_ECAPTURE || err == -GPUQ_ELIMIT)));
		*running = false;
	} else if (*running) {
		if (random_below(rng, 50) == 0)
			(void)graphs_cancel(rig->g, &t->w);
	} else {
		t->w.deadline_ns = random_below(rng, 20) == 0
			? clock_monotonic_ns() + random_below(rng, 1000000)
			: 0;
		err = random_below(rng, 10) == 0 ? task_precapture(rig, t) : task_launch(rig, t);
		assert_true(err == 0 || err == -EAGAIN);
		*running = err == 0;
	}
}

/* As dispatch does: whoever ends first is finished first, since the cold lane waits for that. */
static void drain(struct rig *rig, struct task *tasks[TASKS], bool running[TASKS])
{
	uint32_t left = TASKS;

	while (left > 0) {
		left = 0;
		for (uint32_t i = 0; i < TASKS; i++) {
			if (running[i] && task_done(tasks[i])) {
				(void)task_wait(rig, tasks[i]);
				running[i] = false;
			}
			left += running[i];
		}
		usleep(100);
	}
}

static void stress(uint64_t stage_bytes)
{
	struct rig *rig = rig_prepare(NULL);
	struct random rng = {5};
	struct task *tasks[TASKS];
	bool running[TASKS] = {false};
	struct meddler meddlers[2] = {{rig, 0, {1}}, {rig, 0, {2}}};
	pthread_t threads[2];
	uint64_t until_ns;

	rig->options.max_graphs = 24;
	rig->options.budget_bytes = 400u << 10;
	rig->options.pinned = 2;
	rig->options.stage_bytes = stage_bytes;
	rig->options.staging_bytes = 64u << 10;
	rig_start(rig);
	rig->g->hash_mask = 15;
	rig->g->plan_bytes_max = 60u << 10;
	make_tasks(rig, tasks, &rng);
	pthread_create(&threads[0], NULL, meddle, &meddlers[0]);
	pthread_create(&threads[1], NULL, register_things, &meddlers[1]);
	until_ns = clock_monotonic_ns() + (harness_long() ? 10 : 1) * RUN_NS;
	while (clock_monotonic_ns() < until_ns) {
		const uint64_t i = random_below(&rng, TASKS);

		step(rig, tasks[i], &running[i], &rng);
	}
	drain(rig, tasks, running);
	shm_store_release(&meddlers[0].stop, 1);
	shm_store_release(&meddlers[1].stop, 1);
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
	assert_true(seen(&rig->stats.graph_captures) > 10);
	assert_true(seen(&rig->stats.graph_evictions) > 5);
	assert_true(seen(&rig->stats.graph_hits) > 50);
	assert_true(seen(&rig->stats.graph_misses) > 50);
	for (uint32_t i = 0; i < TASKS; i++)
		task_free(rig, tasks[i]);
	rig_free(rig);
}

static void test_stress(void **state)
{
	stress(UINT64_MAX);
}

static void test_stress_staged(void **state)
{
	stress(512);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST_LONG(test_stress, 60),
		HARNESS_TEST_LONG(test_stress_staged, 60),
	};

	return harness_run("graphs-stress", tests, sizeof(tests) / sizeof(tests[0]));
}
