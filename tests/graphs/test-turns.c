/* SPDX-License-Identifier: MIT */
/*
 * Who waits for whom: what goes on beside captures and in which order those come, and what cold
 * works keep waiting.
 */
#include "tests/graphs/rig.h"
#include "tests/harness.h"

#include <errno.h>
#include <unistd.h>

static uint64_t gate_open, gate_entered;

static void run_gate(
	const void *shape, const struct device_args *args, uint64_t begin, uint64_t end)
{
	shm_fetch_add(&gate_entered, 1);
	while (shm_load_acquire(&gate_open) == 0)
		usleep(100);
}

/* Both workers of the device are busy until gate_open is set. */
static void hold_workers(struct rig *rig, struct device_stream *streams[2])
{
	static const struct device_code code = {"gate", run_gate};
	const struct device_kernel kernel = {.code = &code, .units = 1};
	const struct device_args args = {.pointers = {NULL}};

	shm_store_relaxed(&gate_open, 0);
	shm_store_relaxed(&gate_entered, 0);
	for (uint32_t i = 0; i < 2; i++) {
		assert_int_equal(device_stream_create(
					 rig->options.device, DEVICE_PRIORITY_NORMAL, &streams[i]),
			0);
		assert_int_equal(device_launch(streams[i], &kernel, &args), 0);
	}
	rig_await(&gate_entered, 2);
}

static void release_workers(struct device_stream *streams[2])
{
	shm_store_release(&gate_open, 1);
	for (uint32_t i = 0; i < 2; i++) {
		assert_int_equal(device_stream_wait(streams[i]), 0);
		device_stream_destroy(streams[i]);
	}
}

/* A warm-up run that does not come to its end keeps no answer back, and nobody who needs quiet. */
static void test_captures_let_answers_go_on(void **state)
{
	struct rig *rig = rig_new(NULL);
	struct task *a = task_softmax(rig, 2, 8), *b = task_softmax(rig, 3, 8);
	struct task *c = task_softmax(rig, 4, 8), *d = task_softmax(rig, 5, 8);
	struct device_stream *streams[2];

	hold_workers(rig, streams);
	assert_int_equal(task_precapture(rig, a), 0);
	task_await_state(rig, a, MSG_GRAPH_CAPTURING);
	graphs_quiet_begin(rig->g);
	graphs_quiet_end(rig->g);
	assert_int_equal(task_precapture(rig, b), 0);
	task_await_state(rig, b, MSG_GRAPH_QUEUED);
	assert_true(graphs_cancel(rig->g, &b->w));
	assert_int_equal(task_wait(rig, b), -ECANCELED);
	c->w.deadline_ns = clock_monotonic_ns() + 1000000;
	assert_int_equal(task_precapture(rig, c), 0);
	assert_int_equal(task_wait(rig, c), -ETIMEDOUT);
	assert_int_equal(task_precapture(rig, d), 0);
	task_await_state(rig, d, MSG_GRAPH_QUEUED);
	graphs_stop_captures(rig->g);
	assert_int_equal(task_wait(rig, d), -GPUQ_ECAPTURE);
	graphs_resume_captures(rig->g);
	/* And its own: nobody waits for it then, so it is given up. */
	assert_false(task_done(a));
	assert_true(graphs_cancel(rig->g, &a->w));
	assert_int_equal(task_wait(rig, a), -ECANCELED);
	assert_int_equal(task_state(rig, a), MSG_GRAPH_CAPTURING);
	release_workers(streams);
	task_await_state(rig, a, MSG_GRAPH_COLD);
	assert_int_equal(task_precapture(rig, a), 0);
	assert_int_equal(task_wait(rig, a), 0);
	task_free(rig, a);
	task_free(rig, b);
	task_free(rig, c);
	task_free(rig, d);
	rig_free(rig);
}

/* What would take long is captured without a warm-up run. */
static void test_captures_no_long_warm_up(void **state)
{
	static struct cost_model cost;
	struct rig *rig = rig_prepare(NULL);
	struct device_stream *streams[2];
	struct task *t;

	for (uint32_t i = 0; i < COST_MAX_OPS; i++) {
		for (uint32_t type = 0; type <= GPUQ_DTYPE_LAST; type++)
			cost.lines[i][type].base_ns = 1e10;
	}
	rig->options.cost = &cost;
	rig_start(rig);
	t = task_softmax(rig, 2, 8);
	hold_workers(rig, streams);
	assert_int_equal(task_precapture(rig, t), 0);
	assert_int_equal(task_wait(rig, t), 0);
	release_workers(streams);
	task_free(rig, t);
	rig_free(rig);
}

/* When the shape was captured: 1 for the first capture of all. */
static uint64_t number_of(struct rig *rig, const struct task *t)
{
	const uint64_t id = seen(&task_record(rig, t)->id);
	uint64_t number = 0;

	for (uint32_t i = 0; i < RIG_CAPTURES; i++) {
		if (seen(&rig->captures[i].number) != 0 && rig->captures[i].graph == id)
			number = rig->captures[i].number;
	}
	assert_true(number > 0);
	return number;
}

/* However much one user asks for, another one's turn comes, and that of shapes that are used. */
static void test_captures_take_turns(void **state)
{
	struct rig *rig = rig_new(NULL);
	struct task *asked[6], *other = task_softmax(rig, 90, 4), *used = task_softmax(rig, 91, 4);

	graphs_quiet_begin(rig->g);
	for (uint32_t i = 0; i < 6; i++) {
		asked[i] = task_softmax(rig, 1 + i, 4);
		assert_int_equal(task_precapture(rig, asked[i]), 0);
		task_await_state(rig, asked[i], i == 0 ? MSG_GRAPH_CAPTURING : MSG_GRAPH_QUEUED);
	}
	other->w.uid = 1001;
	assert_int_equal(task_precapture(rig, other), 0);
	for (uint32_t i = 0; i < rig->options.promote_uses; i++)
		assert_int_equal(task_run(rig, used), 0);
	task_await_state(rig, other, MSG_GRAPH_QUEUED);
	task_await_state(rig, used, MSG_GRAPH_QUEUED);
	graphs_quiet_end(rig->g);
	for (uint32_t i = 0; i < 6; i++)
		assert_int_equal(task_wait(rig, asked[i]), 0);
	assert_int_equal(task_wait(rig, other), 0);
	assert_int_equal(number_of(rig, used), 2);
	assert_int_equal(number_of(rig, other), 3);
	for (uint32_t i = 0; i < 6; i++)
		task_free(rig, asked[i]);
	task_free(rig, other);
	task_free(rig, used);
	rig_free(rig);
}

/* --- Cold works ----------------------------------------------------------------------------- */

/* Holds one of the workers by the stream of the cold lane for all but the first priority. */
static void hold_cold_lane(struct rig *rig)
{
	static const struct device_code code = {"gate", run_gate};
	const struct device_kernel kernel = {.code = &code, .units = 1};
	const struct device_args args = {.pointers = {NULL}};

	shm_store_relaxed(&gate_open, 0);
	shm_store_relaxed(&gate_entered, 0);
	assert_int_equal(device_launch(rig->g->cold[cold_class(1)].lane.stream, &kernel, &args), 0);
	rig_await(&gate_entered, 1);
}

/*
 * With the cold lane and its queue full, the first priority has another one; and what is in the
 * queue is answered in time wherever it is there.
 */
static void test_cold_works_wait_alone(void **state)
{
	struct rig *rig = rig_new(NULL);
	struct task *tasks[GRAPHS_LANE_DEPTH + GRAPHS_COLD_QUEUE], *first = task_gemv(rig, 3, 8, 8);
	struct pipeline *p = rig_pipeline(rig, definition_layers(4, 8, 16, 3));
	const uint32_t n = sizeof(tasks) / sizeof(tasks[0]);

	hold_cold_lane(rig);
	for (uint32_t i = 0; i < n; i++) {
		tasks[i] = i == 0 ? task_pipeline(rig, p, 4, 3) : task_softmax(rig, 1 + i, 4);
		if (i == 5)
			tasks[i]->w.deadline_ns = clock_monotonic_ns() + 1000000;
		while (task_launch(rig, tasks[i]) != 0)
			usleep(200);
	}
	assert_int_equal(task_wait(rig, tasks[5]), -ETIMEDOUT);
	assert_true(graphs_cancel(rig->g, &tasks[7]->w));
	assert_int_equal(task_wait(rig, tasks[7]), -ECANCELED);
	first->w.priority = 0;
	assert_int_equal(task_run(rig, first), 0);
	/* The same shape in both lanes, with scratch memory of each. */
	struct task *same = task_pipeline(rig, p, 4, 3);
	same->w.priority = 0;
	assert_int_equal(task_run(rig, same), 0);
	assert_false(task_done(tasks[0]));
	shm_store_release(&gate_open, 1);
	for (uint32_t i = 0; i < n; i++) {
		if (i != 5 && i != 7)
			assert_int_equal(task_wait(rig, tasks[i]), 0);
		task_free(rig, tasks[i]);
	}
	task_free(rig, first);
	task_free(rig, same);
	pipeline_unref(p);
	rig_free(rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_captures_let_answers_go_on),
		HARNESS_TEST(test_captures_no_long_warm_up),
		HARNESS_TEST(test_captures_take_turns),
		HARNESS_TEST(test_cold_works_wait_alone),
	};

	return harness_run("graphs-turns", tests, sizeof(tests) / sizeof(tests[0]));
}
