/* SPDX-License-Identifier: MIT */
/* The graph cache: from cold to captured, what it keeps, what it forgets, what it answers. */
#include "tests/harness.h"

#include "kernels/ops.h"
#include "tests/graphs/rig.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void test_cache_from_cold_to_captured(void **state)
{
	struct rig *rig = rig_new(NULL);
	struct task *t = task_gemv(rig, 4, 32, 16);
	struct stats_graph *r;

	assert_int_equal(task_state(rig, t), 0);
	assert_int_equal(task_run(rig, t), 0);
	assert_int_equal(task_state(rig, t), MSG_GRAPH_COLD);
	assert_int_equal(task_run(rig, t), 0);
	task_await_state(rig, t, MSG_GRAPH_CAPTURED);
	for (uint32_t i = 0; i < 5; i++)
		assert_int_equal(task_run(rig, t), 0);
	r = task_record(rig, t);
	assert_int_equal(seen(&r->uses), 7);
	assert_int_equal(seen(&r->hits), 5);
	assert_int_equal(r->kernels, 1);
	assert_true(seen(&r->bytes) > 0 && seen(&r->capture_ns) > 0 && seen(&r->id) > 0);
	assert_string_equal(r->shape, "gemv_batched x[4,32]f32 w[16,32]f32 -> y[4,16]f32");
	assert_int_equal(seen(&r->users[0]), stats_graph_user(r->id, 1000));
	assert_int_equal(seen(&r->users[1]), 0);
	assert_int_equal(seen(&rig->stats.graph_hits), 5);
	assert_int_equal(seen(&rig->stats.graph_misses), 2);
	assert_int_equal(seen(&rig->stats.graph_captures), 1);
	assert_int_equal(seen(&rig->stats.graph_bytes), seen(&r->bytes));
	assert_int_equal(seen(&rig->stats.graph_budget), rig->options.budget_bytes);
	task_free(rig, t);
	rig_free(rig);
}

static void test_cache_addresses_and_params_are_data(void **state)
{
	struct rig *rig = rig_new(NULL);
	struct task *t = task_softmax(rig, 4, 32), *other = task_softmax(rig, 4, 32);

	task_heat(rig, t);
	other->w.uid = 1001;
	assert_int_equal(task_run(rig, other), 0);
	assert_int_equal(seen(&task_record(rig, t)->hits), 2);
	task_free(rig, t);
	task_free(rig, other);
	rig_free(rig);
}

static void run_as(struct rig *rig, struct task *t, uint32_t uid)
{
	t->w.uid = uid;
	assert_int_equal(task_run(rig, t), 0);
}

static uint32_t count_users(const struct stats_graph *r)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < STATS_GRAPH_USERS; i++)
		n += seen(&r->users[i]) >> 32 == r->id;
	return n;
}

static void test_cache_knows_the_users_of_a_shape(void **state)
{
	struct rig *rig = rig_prepare(NULL);
	struct task *t, *next;
	struct stats_graph *r;

	rig->options.max_graphs = 1; /* the next shape takes the record */
	rig->options.promote_uses = 1000;
	rig_start(rig);
	t = task_softmax(rig, 4, 32);
	run_as(rig, t, 1000);
	run_as(rig, t, 1001);
	run_as(rig, t, 1000);
	r = task_record(rig, t);
	assert_int_equal(seen(&r->users[0]), stats_graph_user(r->id, 1000));
	assert_int_equal(seen(&r->users[1]), stats_graph_user(r->id, 1001));
	assert_int_equal(count_users(r), 2);
	/* Of many the first ones are known. */
	for (uint32_t uid = 1002; uid < 1020; uid++)
		run_as(rig, t, uid);
	assert_int_equal(count_users(r), STATS_GRAPH_USERS);
	assert_int_equal(seen(&r->users[7]), stats_graph_user(r->id, 1007));
	next = task_softmax(rig, 5, 32);
	run_as(rig, next, 1001);
	assert_ptr_equal(task_record(rig, next), r);
	assert_int_equal(count_users(r), 1);
	assert_int_equal(seen(&r->users[0]), stats_graph_user(r->id, 1001));
	task_free(rig, t);
	task_free(rig, next);
	rig_free(rig);
}

static void test_cache_pipeline(void **state)
{
	struct rig *rig = rig_new(NULL);
	struct pipeline *p = rig_pipeline(rig, definition_layers(4, 8, 16, 3));
	struct task *t = task_pipeline(rig, p, 4, 3), *wide = task_pipeline(rig, p, 40, 3);

	task_heat(rig, t);
	task_heat(rig, wide);
	assert_int_equal(task_record(rig, t)->kernels, 4);
	assert_string_equal(task_record(rig, wide)->shape,
		"layers x[40,8]f32 w1[16,8]f32 w2[3,16]f32 -> y[40,3]f32");
	for (uint32_t i = 0; i < 20; i++)
		assert_int_equal(task_run(rig, i % 3 == 0 ? wide : t), 0);
	task_free(rig, t);
	task_free(rig, wide);
	pipeline_unref(p);
	rig_free(rig);
}

/* Random pipelines with scratch memory, two works in each lane at once, in all stages. */
static void test_cache_pipelines_beside_each_other(void **state)
{
	struct rig *rig = rig_new(NULL);
	struct task *tasks[12];
	struct random rng = {7};

	for (uint32_t i = 0; i < 12; i++) {
		struct pipeline *p = rig_pipeline(rig, definition_random(&rng, 10 + i, 3, 24));

		tasks[i] = task_pipeline(rig, p, 3, 24);
		tasks[i]->w.priority = i % 2;
		pipeline_unref(p);
	}
	for (uint32_t round = 0; round < 60; round++) {
		bool running[12] = {false};

		for (uint32_t i = 0; i < 12; i++)
			running[i] = task_launch(rig, tasks[i]) == 0;
		for (uint32_t i = 0; i < 12; i++) {
			if (running[i])
				assert_int_equal(task_wait(rig, tasks[i]), 0);
		}
	}
	for (uint32_t i = 0; i < 12; i++) {
		task_await_state(rig, tasks[i], MSG_GRAPH_CAPTURED);
		task_free(rig, tasks[i]);
	}
	rig_free(rig);
}

/* --- Promotion ------------------------------------------------------------------------------ */

static void test_cache_promotion_needs_uses_in_the_window(void **state)
{
	struct rig *rig = rig_prepare(NULL);
	struct task *t;

	rig->options.promote_uses = 3;
	rig->options.promote_window_ns = 1;
	rig_start(rig);
	t = task_softmax(rig, 2, 8);
	for (uint32_t i = 0; i < 20; i++) {
		assert_int_equal(task_run(rig, t), 0);
		usleep(100); /* longer than the window */
	}
	assert_int_equal(task_state(rig, t), MSG_GRAPH_COLD);
	rig->g->options.promote_window_ns = 600 * RIG_SECOND_NS;
	task_run(rig, t);
	task_run(rig, t);
	task_run(rig, t);
	task_await_state(rig, t, MSG_GRAPH_CAPTURED);
	task_free(rig, t);
	rig_free(rig);
}

static void test_cache_direct_is_never_captured(void **state)
{
	struct rig *rig = rig_prepare(NULL);
	struct task *t, *pre;
	struct pipeline *p;

	rig->options.direct_kernels = UINT32_MAX;
	rig_start(rig);
	t = task_gemv(rig, 4, 32, 16);
	for (uint32_t i = 0; i < 10; i++)
		assert_int_equal(task_run(rig, t), 0);
	assert_int_equal(task_state(rig, t), MSG_GRAPH_DIRECT);
	assert_int_equal(seen(&task_record(rig, t)->uses), 10);
	pre = task_gemv(rig, 5, 32, 16);
	assert_int_equal(task_precapture(rig, pre), 0);
	assert_int_equal(task_wait(rig, pre), 0);
	assert_int_equal(task_state(rig, pre), MSG_GRAPH_DIRECT);
	assert_int_equal(seen(&rig->stats.graph_captures), 0);
	assert_int_equal(seen(&rig->stats.graph_misses), 0);
	p = rig_pipeline(rig, definition_layers(4, 8, 16, 3));
	task_free(rig, t);
	t = task_pipeline(rig, p, 4, 3);
	task_heat(rig, t);
	task_free(rig, t);
	task_free(rig, pre);
	pipeline_unref(p);
	rig_free(rig);
}

static void test_cache_a_second_lane(void **state)
{
	struct rig *rig = rig_new(NULL);
	struct pipeline *p = rig_pipeline(rig, definition_layers(64, 64, 64, 64));
	struct task *a = task_pipeline(rig, p, 64, 64), *b = task_pipeline(rig, p, 64, 64);
	uint32_t lanes = 0;

	task_heat(rig, a);
	for (uint32_t i = 0; i < 200 && seen(&rig->stats.graph_captures) < 2; i++) {
		const bool a_runs = task_launch(rig, a) == 0, b_runs = task_launch(rig, b) == 0;

		if (a_runs)
			assert_int_equal(task_wait(rig, a), 0);
		if (b_runs)
			assert_int_equal(task_wait(rig, b), 0);
		usleep(1000);
	}
	rig_await(&rig->stats.graph_captures, 2);
	for (uint32_t i = 0; i < rig->options.lanes; i++)
		lanes += entry_exec(table_find(rig->g, &a->call, graphs_key(&a->call)), i) != NULL;
	assert_int_equal(lanes, 2);
	for (uint32_t i = 0; i < 50; i++) {
		assert_int_equal(task_launch(rig, a), 0);
		assert_int_equal(task_launch(rig, b), 0);
		assert_ptr_not_equal(a->w.slot->lane, b->w.slot->lane);
		assert_int_equal(task_wait(rig, a), 0);
		assert_int_equal(task_wait(rig, b), 0);
	}
	task_free(rig, a);
	task_free(rig, b);
	pipeline_unref(p);
	rig_free(rig);
}

static void test_cache_priorities_have_lanes_of_their_own(void **state)
{
	struct rig *rig = rig_new(NULL);
	struct task *t = task_softmax(rig, 4, 16);

	t->w.priority = 0;
	task_heat(rig, t);
	assert_int_equal(task_launch(rig, t), 0);
	assert_true(t->w.slot->lane < &rig->g->lanes[2]);
	assert_int_equal(task_wait(rig, t), 0);
	/* The other class has none yet: it uses this one and asks for its own. */
	t->w.priority = 2;
	assert_int_equal(task_run(rig, t), 0);
	rig_await(&rig->stats.graph_captures, 2);
	assert_int_equal(task_launch(rig, t), 0);
	assert_true(t->w.slot->lane >= &rig->g->lanes[2]);
	assert_int_equal(task_wait(rig, t), 0);
	task_free(rig, t);
	rig_free(rig);
}

static void test_cache_lane_depth(void **state)
{
	struct rig *rig = rig_prepare(NULL);
	struct task *tasks[4];
	uint32_t accepted = 0;

	rig->options.lanes = 1;
	rig_start(rig);
	for (uint32_t i = 0; i < 4; i++)
		tasks[i] = task_gemv(rig, 512, 256, 256);
	task_heat(rig, tasks[0]);
	for (uint32_t i = 0; i < 4; i++)
		accepted += task_launch(rig, tasks[i]) == 0;
	assert_int_equal(accepted, GRAPHS_LANE_DEPTH);
	for (uint32_t i = 0; i < accepted; i++)
		assert_int_equal(task_wait(rig, tasks[i]), 0);
	for (uint32_t i = 0; i < 4; i++) {
		assert_int_equal(task_run(rig, tasks[i]), 0);
		task_free(rig, tasks[i]);
	}
	rig_free(rig);
}

/* --- Refusals, cancelling, deadlines -------------------------------------------------------- */

static void test_cache_shape_conflicts_are_typed(void **state)
{
	struct rig *rig = rig_new(NULL);
	struct pipeline *p = rig_pipeline(rig, definition_layers(4, 8, 16, 3));
	struct task *t = task_pipeline(rig, p, 4, 3);

	t->call.out[0].dims[1] = 2;
	assert_int_equal(task_run(rig, t), -GPUQ_ESHAPE);
	assert_int_equal(t->w.blame, 1 + GPUQ_MAX_INPUTS);
	assert_int_equal(task_state(rig, t), 0);
	t->call.out[0].dims[1] = 3;
	assert_int_equal(task_run(rig, t), 0);
	assert_int_equal(t->w.blame, 0);
	task_free(rig, t);
	pipeline_unref(p);
	rig_free(rig);
}

static void test_cache_too_much_scratch(void **state)
{
	struct rig *rig = rig_prepare(NULL);
	struct pipeline *p;
	struct task *t;

	rig->options.scratch_bytes = 4096;
	rig_start(rig);
	p = rig_pipeline(rig, definition_layers(4, 8, 16, 3));
	t = task_pipeline(rig, p, 200, 3);
	assert_int_equal(task_run(rig, t), -GPUQ_ELIMIT);
	assert_int_equal(task_state(rig, t), 0);
	task_free(rig, t);
	t = task_pipeline(rig, p, 4, 3);
	task_heat(rig, t);
	task_free(rig, t);
	pipeline_unref(p);
	rig_free(rig);
}

static void test_cache_deadline_in_the_cold_queue(void **state)
{
	struct rig *rig = rig_new(NULL);
	struct task *t = task_gemv(rig, 2, 8, 8);

	t->w.deadline_ns = clock_monotonic_ns() - 1;
	assert_int_equal(task_run(rig, t), -ETIMEDOUT);
	t->w.deadline_ns = clock_monotonic_ns() + 3600 * RIG_SECOND_NS;
	assert_int_equal(task_run(rig, t), 0);
	task_free(rig, t);
	rig_free(rig);
}

/* More cold works than there is room: those that wait can be cancelled, those that run cannot. */
static void test_cache_cancel_in_the_cold_queue(void **state)
{
	struct rig *rig = rig_prepare(NULL);
	struct task *tasks[8];
	uint32_t cancelled = 0;

	rig->options.promote_uses = 1000000;
	rig_start(rig);
	for (uint32_t i = 0; i < 8; i++) {
		tasks[i] = task_gemv(rig, 256, 256, 256 + i);
		assert_int_equal(task_launch(rig, tasks[i]), 0);
	}
	/* Nothing is finished meanwhile, so only two can have started. */
	for (uint32_t i = 7; i >= 2; i--) {
		assert_true(graphs_cancel(rig->g, &tasks[i]->w));
		assert_false(graphs_cancel(rig->g, &tasks[i]->w));
	}
	for (uint32_t i = 0; i < 8; i++) {
		const int status = task_wait(rig, tasks[i]);

		assert_true(status == 0 || status == -ECANCELED);
		cancelled += status == -ECANCELED;
		assert_false(graphs_cancel(rig->g, &tasks[i]->w));
	}
	assert_int_equal(cancelled, 6);
	for (uint32_t i = 0; i < 8; i++) {
		assert_int_equal(task_run(rig, tasks[i]), 0);
		task_free(rig, tasks[i]);
	}
	rig_free(rig);
}

static void test_cache_cold_queue_is_bounded(void **state)
{
	struct rig *rig = rig_prepare(NULL);
	struct task *tasks[GRAPHS_COLD_QUEUE + 8];
	uint32_t accepted = 0;

	rig->options.promote_uses = 1000000;
	rig_start(rig);
	for (uint32_t i = 0; i < GRAPHS_COLD_QUEUE + 8; i++) {
		tasks[i] = task_softmax(rig, 1, 4);
		if (task_launch(rig, tasks[i]) == 0)
			accepted++;
		else
			break;
	}
	/* The queue, one in the thread's hand, and those that run. */
	assert_in_range(accepted, GRAPHS_COLD_QUEUE, GRAPHS_COLD_QUEUE + 3);
	for (uint32_t i = 0; i < accepted; i++)
		assert_int_equal(task_wait(rig, tasks[i]), 0);
	for (uint32_t i = 0; i <= accepted; i++)
		task_free(rig, tasks[i]);
	rig_free(rig);
}

static void test_cache_destroy_with_works_in_the_queue(void **state)
{
	struct rig *rig = rig_prepare(NULL);
	struct task *tasks[8];
	uint32_t cancelled = 0;

	rig->options.promote_uses = 1000000;
	rig_start(rig);
	for (uint32_t i = 0; i < 8; i++) {
		tasks[i] = task_gemv(rig, 64, 64, 64);
		assert_int_equal(task_launch(rig, tasks[i]), 0);
	}
	/* Those that started end by themselves; the device is closed after that. */
	graphs_destroy(rig->g);
	rig->g = NULL;
	for (uint32_t i = 0; i < 8; i++) {
		while (!task_done(tasks[i]))
			usleep(100);
		cancelled += tasks[i]->completion->status == -ECANCELED;
	}
	assert_in_range(cancelled, 6, 8);
	for (uint32_t i = 0; i < 8; i++)
		task_free(rig, tasks[i]);
	rig_free(rig);
}

/* --- Precapture ----------------------------------------------------------------------------- */

static void test_cache_precapture(void **state)
{
	struct rig *rig = rig_new(NULL);
	struct task *t = task_gemv(rig, 4, 32, 16);

	assert_int_equal(task_precapture(rig, t), 0);
	assert_int_equal(task_wait(rig, t), 0);
	assert_int_equal(task_state(rig, t), MSG_GRAPH_CAPTURED);
	assert_int_equal(seen(&task_record(rig, t)->uses), 0);
	assert_int_equal(seen(&rig->stats.graph_misses), 0);
	assert_int_equal(task_precapture(rig, t), 0); /* again: at once */
	assert_int_equal(task_wait(rig, t), 0);
	assert_int_equal(seen(&rig->stats.graph_captures), 1);
	assert_int_equal(task_run(rig, t), 0);
	assert_int_equal(seen(&task_record(rig, t)->hits), 1);
	task_free(rig, t);
	rig_free(rig);
}

static void test_cache_precapture_refusals(void **state)
{
	struct rig *rig = rig_new(NULL);
	struct pipeline *p = rig_pipeline(rig, definition_layers(4, 8, 16, 3));
	struct task *t = task_pipeline(rig, p, 4, 3);

	t->call.out[0].dims[1] = 2;
	assert_int_equal(task_precapture(rig, t), 0);
	assert_int_equal(task_wait(rig, t), -GPUQ_ESHAPE);
	t->call.out[0].dims[1] = 3;
	graphs_stop_captures(rig->g);
	assert_int_equal(seen(&rig->stats.captures_stopped), 1);
	assert_int_equal(task_precapture(rig, t), 0);
	assert_int_equal(task_wait(rig, t), -GPUQ_ECAPTURE);
	graphs_resume_captures(rig->g);
	assert_int_equal(task_precapture(rig, t), 0);
	assert_int_equal(task_wait(rig, t), 0);
	task_free(rig, t);
	pipeline_unref(p);
	rig_free(rig);
}

/* While somebody keeps captures away: a precapture waits, and can be cancelled or run out. */
static void test_cache_precapture_waits(void **state)
{
	struct rig *rig = rig_new(NULL);
	struct task *a = task_softmax(rig, 2, 8), *b = task_softmax(rig, 3, 8);
	struct task *c = task_softmax(rig, 4, 8);

	graphs_quiet_begin(rig->g);
	assert_int_equal(task_precapture(rig, a), 0);
	task_await_state(rig, a, MSG_GRAPH_CAPTURING);
	assert_int_equal(task_precapture(rig, b), 0);
	c->w.deadline_ns = clock_monotonic_ns() + 1000000;
	assert_int_equal(task_precapture(rig, c), 0);
	task_await_state(rig, b, MSG_GRAPH_QUEUED);
	assert_true(graphs_cancel(rig->g, &b->w));
	usleep(2000);
	assert_false(task_done(a));
	graphs_quiet_end(rig->g);
	assert_int_equal(task_wait(rig, a), 0);
	assert_int_equal(task_wait(rig, b), -ECANCELED);
	assert_int_equal(task_wait(rig, c), -ETIMEDOUT);
	task_free(rig, a);
	task_free(rig, b);
	task_free(rig, c);
	rig_free(rig);
}

/* --- Administration ------------------------------------------------------------------------- */

static void test_cache_stop_and_resume(void **state)
{
	struct rig *rig = rig_prepare(NULL);
	struct task *t;

	rig->options.capture_stopped = true;
	rig_start(rig);
	t = task_softmax(rig, 2, 16);
	for (uint32_t i = 0; i < 5; i++)
		assert_int_equal(task_run(rig, t), 0);
	assert_int_equal(task_state(rig, t), MSG_GRAPH_QUEUED);
	assert_int_equal(seen(&rig->stats.capture_count), 0);
	graphs_resume_captures(rig->g);
	task_await_state(rig, t, MSG_GRAPH_CAPTURED);
	task_free(rig, t);
	rig_free(rig);
}

static void test_cache_evict(void **state)
{
	struct rig *rig = rig_new(NULL);
	struct task *a = task_softmax(rig, 2, 16), *b = task_softmax(rig, 3, 16);

	task_heat(rig, a);
	task_heat(rig, b);
	assert_int_equal(graphs_evict(rig->g, 12345), -ENOENT);
	assert_int_equal(graphs_pin(rig->g, 12345, true), -ENOENT);
	assert_int_equal(graphs_evict(rig->g, seen(&task_record(rig, a)->id)), 0);
	assert_int_equal(task_state(rig, a), MSG_GRAPH_COLD);
	assert_int_equal(task_state(rig, b), MSG_GRAPH_CAPTURED);
	assert_int_equal(seen(&task_record(rig, a)->bytes), 0);
	task_heat(rig, a); /* it comes back */
	assert_int_equal(graphs_pin(rig->g, seen(&task_record(rig, b)->id), true), 0);
	assert_int_equal(task_record(rig, b)->pinned, 1);
	assert_int_equal(graphs_evict(rig->g, 0), 0);
	assert_int_equal(task_state(rig, a), MSG_GRAPH_COLD);
	assert_int_equal(task_state(rig, b), MSG_GRAPH_CAPTURED);
	assert_int_equal(seen(&rig->stats.graph_evictions), 2);
	assert_int_equal(graphs_pin(rig->g, seen(&task_record(rig, b)->id), false), 0);
	assert_int_equal(graphs_evict(rig->g, 0), 0);
	for (uint32_t i = 0; i < 2000 && shm_load_acquire(&rig->stats.graph_bytes) > 0; i++)
		usleep(1000);
	assert_int_equal(seen(&rig->stats.graph_bytes), 0);
	task_free(rig, a);
	task_free(rig, b);
	rig_free(rig);
}

/* A replay that runs keeps its executable, however often the shape is evicted meanwhile. */
static void test_cache_evict_while_it_runs(void **state)
{
	struct rig *rig = rig_new(NULL);
	struct pipeline *p = rig_pipeline(rig, definition_layers(256, 128, 128, 128));
	struct task *t = task_pipeline(rig, p, 256, 128);

	for (uint32_t i = 0; i < 20; i++) {
		task_heat(rig, t);
		assert_int_equal(task_launch(rig, t), 0);
		assert_non_null(t->w.exec);
		assert_int_equal(graphs_evict(rig->g, 0), 0);
		usleep(500 * (i % 4));
		assert_true(shm_load_acquire(&rig->stats.graph_bytes) > 0);
		assert_int_equal(task_wait(rig, t), 0);
		for (uint32_t j = 0; shm_load_acquire(&rig->stats.graph_bytes) > 0; j++) {
			assert_true(j < 5000);
			usleep(1000);
		}
	}
	task_free(rig, t);
	pipeline_unref(p);
	rig_free(rig);
}

/* Dispatch looks at an executable while it is withdrawn: it ends after that look. */
static void test_cache_evict_while_dispatch_looks(void **state)
{
	struct rig *rig = rig_new(NULL);
	struct task *t = task_softmax(rig, 2, 16);

	task_heat(rig, t);
	section_enter(rig->g);
	assert_int_equal(graphs_evict(rig->g, 0), 0);
	usleep(20000);
	assert_true(seen(&rig->stats.graph_bytes) > 0);
	section_leave(rig->g);
	for (uint32_t i = 0; i < 2000 && seen(&rig->stats.graph_bytes) > 0; i++)
		usleep(1000);
	assert_int_equal(seen(&rig->stats.graph_bytes), 0);
	task_free(rig, t);
	rig_free(rig);
}

static void test_cache_captures_are_logged(void **state)
{
	struct rig *rig = rig_new(NULL);

	for (uint32_t i = 0; i < RIG_CAPTURES + 3; i++) {
		struct task *t = task_softmax(rig, 1 + i, 4);
		const struct stats_capture *c;

		task_heat(rig, t);
		c = &rig->captures[(i + 1) % RIG_CAPTURES];
		assert_int_equal(c->number, i + 1);
		assert_int_equal(c->graph, seen(&task_record(rig, t)->id));
		assert_int_equal(c->kernels, 1);
		assert_true(c->begin_ns < c->end_ns);
		task_free(rig, t);
	}
	assert_int_equal(seen(&rig->stats.capture_count), RIG_CAPTURES + 3);
	rig_free(rig);
}

static void test_cache_equal_pipelines_are_one(void **state)
{
	struct rig *rig = rig_new(NULL);
	struct pipeline *p = rig_pipeline(rig, definition_layers(4, 8, 16, 3));
	struct pipeline *q = rig_pipeline(rig, definition_layers(4, 8, 16, 3));
	struct pipeline *other = rig_pipeline(rig, definition_layers(4, 8, 17, 3));
	struct task *t = task_pipeline(rig, p, 4, 3);

	assert_ptr_equal(p, q);
	assert_ptr_not_equal(p, other);
	task_heat(rig, t);
	task_free(rig, t);
	graphs_release(rig->g, p);
	graphs_release(rig->g, q);
	graphs_release(rig->g, other);
	/* Its client is gone and has come back: the shape is still hot. */
	p = rig_pipeline(rig, definition_layers(4, 8, 16, 3));
	t = task_pipeline(rig, p, 4, 3);
	assert_int_equal(task_state(rig, t), MSG_GRAPH_CAPTURED);
	assert_int_equal(task_run(rig, t), 0);
	task_free(rig, t);
	pipeline_unref(p);
	rig_free(rig);
}

/* --- The budget ----------------------------------------------------------------------------- */

static uint64_t bytes_of_one(void)
{
	struct rig *rig = rig_new(NULL);
	struct task *t = task_softmax(rig, 1, 8);
	uint64_t bytes;

	task_heat(rig, t);
	bytes = seen(&task_record(rig, t)->bytes);
	task_free(rig, t);
	rig_free(rig);
	return bytes;
}

static void test_cache_budget_evicts_the_oldest(void **state)
{
	const uint64_t bytes = bytes_of_one();
	struct rig *rig = rig_prepare(NULL);
	struct task *tasks[6];

	rig->options.budget_bytes = 3 * bytes + bytes / 2;
	rig_start(rig);
	for (uint32_t i = 0; i < 6; i++) {
		tasks[i] = task_softmax(rig, 1 + i, 8);
		task_heat(rig, tasks[i]);
		assert_true(seen(&rig->stats.graph_bytes) <= rig->options.budget_bytes);
		assert_int_equal(task_run(rig, tasks[0]), 0); /* the first stays young */
	}
	assert_int_equal(task_state(rig, tasks[0]), MSG_GRAPH_CAPTURED);
	assert_int_equal(task_state(rig, tasks[5]), MSG_GRAPH_CAPTURED);
	for (uint32_t i = 1; i < 4; i++)
		assert_int_equal(task_state(rig, tasks[i]), MSG_GRAPH_COLD);
	assert_int_equal(seen(&rig->stats.graph_evictions), 3);
	for (uint32_t i = 0; i < 6; i++)
		task_free(rig, tasks[i]);
	rig_free(rig);
}

/* A user makes room among its own shapes; others keep theirs, though older, and have their own. */
static void test_cache_bytes_of_a_user(void **state)
{
	const uint64_t bytes = bytes_of_one();
	struct rig *rig = rig_prepare(NULL);
	struct task *other, *tasks[4];

	rig->options.budget_bytes = 16 * bytes;
	rig->options.user_bytes = 3 * bytes;
	rig_start(rig);
	other = task_softmax(rig, 9, 8);
	other->w.uid = 1001;
	task_heat(rig, other);
	for (uint32_t i = 0; i < 4; i++) {
		tasks[i] = task_softmax(rig, 1 + i, 8);
		task_heat(rig, tasks[i]);
		/* Up to three fit. */
		assert_int_equal(
			task_state(rig, tasks[0]), i < 3 ? MSG_GRAPH_CAPTURED : MSG_GRAPH_COLD);
	}
	assert_int_equal(task_state(rig, tasks[3]), MSG_GRAPH_CAPTURED);
	assert_int_equal(task_state(rig, other), MSG_GRAPH_CAPTURED);
	assert_int_equal(seen(&rig->stats.graph_evictions), 1);
	/* What was given up comes back when it is used, in the place of the next one. */
	task_heat(rig, tasks[0]);
	assert_int_equal(task_state(rig, tasks[1]), MSG_GRAPH_COLD);
	task_free(rig, other);
	for (uint32_t i = 0; i < 4; i++)
		task_free(rig, tasks[i]);
	rig_free(rig);
}

/* A shape that is larger than `limit` is not captured, but runs. */
static struct task *task_too_large(struct rig *rig, const char *limit)
{
	struct task *t = task_softmax(rig, 2, 8);

	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(task_run(rig, t), 0);
	task_await_state(rig, t, MSG_GRAPH_FAILED);
	assert_int_equal(task_record(rig, t)->status, -ENOSPC);
	assert_non_null(strstr(task_record(rig, t)->reason, limit));
	assert_int_equal(task_run(rig, t), 0);
	return t;
}

static void test_cache_larger_than_what_a_user_has(void **state)
{
	struct rig *rig = rig_prepare(NULL);

	rig->options.user_bytes = 16;
	rig_start(rig);
	task_free(rig, task_too_large(rig, "graph_bytes_per_user"));
	rig_free(rig);
}

static void test_cache_pinned_shapes_stay(void **state)
{
	const uint64_t bytes = bytes_of_one();
	struct rig *rig = rig_prepare(NULL);
	struct task *tasks[5];

	rig->options.budget_bytes = 3 * bytes;
	rig->options.pinned = 1;
	rig_start(rig);
	for (uint32_t i = 0; i < 5; i++)
		tasks[i] = task_softmax(rig, 1 + i, 8);
	task_heat(rig, tasks[0]);
	assert_int_equal(graphs_pin(rig->g, seen(&task_record(rig, tasks[0])->id), true), 0);
	task_heat(rig, tasks[1]);
	for (uint32_t i = 0; i < 20; i++)
		assert_int_equal(task_run(rig, tasks[1]), 0); /* the most used */
	for (uint32_t i = 2; i < 5; i++)
		task_heat(rig, tasks[i]);
	assert_int_equal(task_state(rig, tasks[0]), MSG_GRAPH_CAPTURED);
	assert_int_equal(task_state(rig, tasks[1]), MSG_GRAPH_CAPTURED);
	assert_int_equal(task_state(rig, tasks[2]), MSG_GRAPH_COLD);
	assert_int_equal(task_state(rig, tasks[3]), MSG_GRAPH_COLD);
	for (uint32_t i = 0; i < 5; i++)
		task_free(rig, tasks[i]);
	rig_free(rig);
}

static void test_cache_larger_than_the_budget(void **state)
{
	struct rig *rig = rig_prepare(NULL);

	rig->options.budget_bytes = 16;
	rig_start(rig);
	struct task *t = task_too_large(rig, "budget");
	for (uint32_t i = 0; i < 20; i++)
		assert_int_equal(task_run(rig, t), 0);
	assert_int_equal(seen(&rig->stats.capture_count), 1);
	task_free(rig, t);
	rig_free(rig);
}

/* --- Staging -------------------------------------------------------------------------------- */

/* Copies to and from the lane's own memory, for what is large enough and fits. */
static void test_cache_staging(void **state)
{
	struct rig *rig = rig_prepare(NULL);
	struct pipeline *p;
	struct task *tasks[4];

	rig->options.stage_bytes = 1024;
	rig->options.staging_bytes = 16384;
	rig_start(rig);
	p = rig_pipeline(rig, definition_layers(4, 64, 32, 8));
	tasks[0] = task_gemv(rig, 8, 64, 64);	 /* all large */
	tasks[1] = task_gemv(rig, 2, 8, 8);	 /* nothing large */
	tasks[2] = task_gemv(rig, 64, 64, 64);	 /* not everything fits */
	tasks[3] = task_pipeline(rig, p, 64, 8); /* with scratch */
	for (uint32_t round = 0; round < 30; round++) {
		bool running[4];

		for (uint32_t i = 0; i < 4; i++)
			running[i] = task_launch(rig, tasks[i]) == 0;
		for (uint32_t i = 0; i < 4; i++) {
			if (running[i])
				assert_int_equal(task_wait(rig, tasks[i]), 0);
		}
	}
	for (uint32_t i = 0; i < 4; i++) {
		task_await_state(rig, tasks[i], MSG_GRAPH_CAPTURED);
		assert_int_equal(task_run(rig, tasks[i]), 0);
		task_free(rig, tasks[i]);
	}
	pipeline_unref(p);
	rig_free(rig);
}

/* What an operator writes among its inputs is never written to a copy, first or captured. */
static void test_cache_does_not_stage_what_is_written(void **state)
{
	struct rig *rig = rig_prepare(NULL);
	struct task *t;
	float key[16];

	rig->options.stage_bytes = 1;
	rig->options.staging_bytes = 65536;
	rig_start(rig);
	t = task_kv_append(rig);
	memcpy(key, t->data[4], sizeof(key));
	for (uint32_t i = 0; i < 2; i++) {
		memset(t->data[4], 0, t->lengths[4] * sizeof(float));
		assert_int_equal(task_run(rig, t), 0);
		assert_memory_equal(t->data[4], key, sizeof(key));
		task_heat(rig, t);
	}
	task_free(rig, t);
	rig_free(rig);
}

/* x times w, times w, and so on. */
static struct pipeline *powers(struct rig *rig, uint32_t n_steps)
{
	struct definition *d = definition_new("powers", 2, 1);
	uint16_t at = definition_tensor(d, "x", GPUQ_F32, 4, 8);
	const uint16_t w = definition_tensor(d, "w", GPUQ_F32, 8, 8);
	const uint16_t y = definition_tensor(d, "y", GPUQ_F32, 0, 0);
	char name[GPUQ_NAME_MAX];

	for (uint32_t i = 0; i < n_steps; i++) {
		uint16_t to = y;

		snprintf(name, sizeof(name), "t%u", i);
		if (i + 1 < n_steps)
			to = definition_tensor(d, name, GPUQ_F32, 0, 0);
		definition_step(d, "gemv_batched", at, w, to);
		at = to;
	}
	return rig_pipeline(rig, d);
}

/* However small it is, what many steps read is copied; here copies fail. */
static void test_cache_stages_what_many_read(void **state)
{
	struct rig *rig = rig_prepare("copy:1+=EIO");

	rig->options.stage_bytes = 1u << 30;
	rig->options.staging_bytes = 16384;
	rig_start(rig);
	for (uint32_t n_steps = 6; n_steps <= 8; n_steps++) {
		struct pipeline *p = powers(rig, n_steps);
		struct task *t = task_pipeline(rig, p, 4, 8);

		assert_int_equal(task_run(rig, t), n_steps < 8 ? 0 : -EIO);
		task_free(rig, t);
		pipeline_unref(p);
	}
	rig_free(rig);
}

/* What an executable's launch carries needs no copy; while there is none, it is copied. */
static void test_cache_does_not_stage_what_is_carried(void **state)
{
	struct rig *rig = rig_prepare("copy:1+=EIO");
	struct pipeline *p;
	struct task *t;

	rig->options.stage_bytes = 1u << 30;
	rig->options.staging_bytes = 16384;
	rig_start(rig);
	p = powers(rig, 8);
	t = task_pipeline(rig, p, 4, 8);
	t->w.args.carried[1] = 8 * 8 * sizeof(float);
	assert_int_equal(task_run(rig, t), -EIO);
	assert_int_equal(task_precapture(rig, t), 0);
	assert_int_equal(task_wait(rig, t), 0);
	assert_int_equal(task_run(rig, t), 0);
	t->w.args.carried[1] = 0;
	assert_int_equal(task_run(rig, t), -EIO);
	task_free(rig, t);
	pipeline_unref(p);
	rig_free(rig);
}

static void test_cache_refuses_wrong_options(void **state)
{
	struct rig *rig = rig_prepare(NULL);
	struct graphs_options o = rig->options;
	struct graphs *g = NULL;

	o.lanes = 0;
	assert_int_equal(graphs_create(&o, &g, rig->why), -EINVAL);
	o.lanes = GRAPHS_MAX_LANES + 1;
	assert_int_equal(graphs_create(&o, &g, rig->why), -EINVAL);
	o = rig->options;
	o.max_graphs = 0;
	assert_int_equal(graphs_create(&o, &g, rig->why), -EINVAL);
	assert_null(g);
	graphs_destroy(NULL);
	rig_free(rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_cache_from_cold_to_captured),
		HARNESS_TEST(test_cache_addresses_and_params_are_data),
		HARNESS_TEST(test_cache_knows_the_users_of_a_shape),
		HARNESS_TEST(test_cache_pipeline),
		HARNESS_TEST(test_cache_pipelines_beside_each_other),
		HARNESS_TEST(test_cache_promotion_needs_uses_in_the_window),
		HARNESS_TEST(test_cache_direct_is_never_captured),
		HARNESS_TEST(test_cache_a_second_lane),
		HARNESS_TEST(test_cache_priorities_have_lanes_of_their_own),
		HARNESS_TEST(test_cache_lane_depth),
		HARNESS_TEST(test_cache_shape_conflicts_are_typed),
		HARNESS_TEST(test_cache_too_much_scratch),
		HARNESS_TEST(test_cache_deadline_in_the_cold_queue),
		HARNESS_TEST(test_cache_cancel_in_the_cold_queue),
		HARNESS_TEST(test_cache_cold_queue_is_bounded),
		HARNESS_TEST(test_cache_destroy_with_works_in_the_queue),
		HARNESS_TEST(test_cache_precapture),
		HARNESS_TEST(test_cache_precapture_refusals),
		HARNESS_TEST(test_cache_precapture_waits),
		HARNESS_TEST(test_cache_stop_and_resume),
		HARNESS_TEST(test_cache_evict),
		HARNESS_TEST(test_cache_evict_while_it_runs),
		HARNESS_TEST(test_cache_evict_while_dispatch_looks),
		HARNESS_TEST(test_cache_captures_are_logged),
		HARNESS_TEST(test_cache_equal_pipelines_are_one),
		HARNESS_TEST(test_cache_budget_evicts_the_oldest),
		HARNESS_TEST(test_cache_bytes_of_a_user),
		HARNESS_TEST(test_cache_larger_than_what_a_user_has),
		HARNESS_TEST(test_cache_pinned_shapes_stay),
		HARNESS_TEST(test_cache_larger_than_the_budget),
		HARNESS_TEST(test_cache_staging),
		HARNESS_TEST(test_cache_does_not_stage_what_is_written),
		HARNESS_TEST(test_cache_stages_what_many_read),
		HARNESS_TEST(test_cache_does_not_stage_what_is_carried),
		HARNESS_TEST(test_cache_refuses_wrong_options),
	};

	return harness_run("graphs-cache", tests, sizeof(tests) / sizeof(tests[0]));
}
