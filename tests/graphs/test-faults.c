/* SPDX-License-Identifier: MIT */
/* The graph cache on a device whose calls fail: what is answered, what goes on, what ends. */
#include "tests/harness.h"

#include "tests/graphs/rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void run_often(struct rig *rig, struct task *t, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(task_run(rig, t), 0);
}

/* From here on failed captures may be tried again, and the budget grows back, at once. */
static void hurry(struct rig *rig, const struct task *t)
{
	pthread_mutex_lock(&rig->g->lock);
	rig->g->retry_after_ns = 1;
	rig->g->room_after_ns = 1;
	if (t != NULL)
		table_find(rig->g, &t->call, graphs_key(&t->call))->retry_ns = 0;
	pthread_mutex_unlock(&rig->g->lock);
}

/* --- Captures that fail ---------------------------------------------------------------------- */

static void check_failed_capture(const char *faults, int status, const char *reason)
{
	struct rig *rig = rig_new(faults);
	struct pipeline *p = rig_pipeline(rig, definition_layers(4, 8, 16, 3));
	struct task *t = task_pipeline(rig, p, 4, 3);
	struct stats_graph *r;

	assert_int_equal(task_precapture(rig, t), 0);
	assert_int_equal(task_wait(rig, t), -GPUQ_ECAPTURE);
	assert_int_equal(task_state(rig, t), MSG_GRAPH_FAILED);
	r = task_record(rig, t);
	assert_int_equal(r->status, status);
	assert_non_null(strstr(r->reason, reason));
	run_often(rig, t, 20); /* served all the same, and not tried again */
	assert_int_equal(seen(&rig->stats.capture_count), 1);
	assert_int_equal(seen(&rig->stats.graph_failures), 1);
	assert_int_equal(task_precapture(rig, t), 0); /* asked for: tried again */
	assert_int_equal(task_wait(rig, t), 0);
	assert_int_equal(r->status, 0);
	assert_string_equal(r->reason, "");
	assert_int_equal(task_run(rig, t), 0);
	assert_int_equal(seen(&r->hits), 1);
	task_free(rig, t);
	pipeline_unref(p);
	rig_free(rig);
}

static void test_faults_in_captures(void **state)
{
	check_failed_capture("capture_begin:1=EIO", -EIO, "recording: Input/output error");
	check_failed_capture("capture_end:1=EINVAL", -EINVAL, "recording");
	check_failed_capture("exec_create:1=EIO", -EIO, "making the executable");
	check_failed_capture("exec_upload:1=EIO", -EIO, "uploading the executable");
	check_failed_capture("fill:1=EIO", -EIO, "the warm-up run");
	check_failed_capture("stream_wait:1=EIO", -EIO, "the warm-up run");
	/* Four kernels of the warm-up, then four of the recording. */
	check_failed_capture("launch:2=EIO", -EIO, "the warm-up run");
	check_failed_capture("launch:6=EIO", -EIO, "recording");
}

static void test_faults_captures_are_given_up(void **state)
{
	struct rig *rig = rig_new("exec_create:1+=EIO");
	struct task *t = task_softmax(rig, 2, 8);

	hurry(rig, NULL);
	for (uint32_t i = 0; i < 100; i++) {
		assert_int_equal(task_run(rig, t), 0);
		usleep(500);
	}
	assert_int_equal(task_state(rig, t), MSG_GRAPH_FAILED);
	assert_int_equal(seen(&rig->stats.capture_count), RETRY_MAX);
	assert_int_equal(task_precapture(rig, t), 0);
	assert_int_equal(task_wait(rig, t), -GPUQ_ECAPTURE);
	assert_int_equal(seen(&rig->stats.capture_count), RETRY_MAX + 1);
	task_free(rig, t);
	rig_free(rig);
}

static void test_faults_captures_are_retried_later(void **state)
{
	struct rig *rig = rig_new("exec_create:1=EIO");
	struct task *t = task_softmax(rig, 2, 8);

	run_often(rig, t, 2);
	task_await_state(rig, t, MSG_GRAPH_FAILED);
	hurry(rig, t);
	run_often(rig, t, 2);
	task_await_state(rig, t, MSG_GRAPH_CAPTURED);
	task_free(rig, t);
	rig_free(rig);
}

/* A further lane's capture fails: the first one serves on, and it is not tried at every launch. */
static void test_faults_in_a_second_lane(void **state)
{
	struct rig *rig = rig_new("exec_create:2+=EIO");
	struct task *a = task_gemv(rig, 64, 128, 128), *b = task_gemv(rig, 64, 128, 128);

	task_heat(rig, a);
	for (uint32_t i = 0; i < 100; i++) {
		const bool a_runs = task_launch(rig, a) == 0, b_runs = task_launch(rig, b) == 0;

		if (a_runs)
			assert_int_equal(task_wait(rig, a), 0);
		if (b_runs)
			assert_int_equal(task_wait(rig, b), 0);
	}
	/* One lane more in this class, and it is refused now. */
	rig_await(&rig->stats.capture_count, 2);
	run_often(rig, a, 5);
	assert_int_equal(seen(&rig->stats.capture_count), 2);
	assert_int_equal(task_state(rig, a), MSG_GRAPH_CAPTURED);
	task_free(rig, a);
	task_free(rig, b);
	rig_free(rig);
}

/* Softmax of a row takes less than this, and more than its floor. */
#define SMALL_BUDGET (64u << 10)

/* The budget does not grow back before hurry(). */
static void be_patient(struct rig *rig)
{
	pthread_mutex_lock(&rig->g->lock);
	rig->g->room_after_ns = 3600 * RIG_SECOND_NS;
	pthread_mutex_unlock(&rig->g->lock);
}

static void await_full_budget(struct rig *rig)
{
	for (uint32_t i = 0; i < 16; i++) {
		graphs_resume_captures(rig->g); /* wakes the capture thread */
		usleep(1000);
	}
	rig_await(&rig->stats.graph_budget, rig->options.budget_bytes);
}

static int precapture(struct rig *rig, struct task *t)
{
	const int err = task_precapture(rig, t);

	return err == 0 ? task_wait(rig, t) : err;
}

static void test_faults_out_of_memory(void **state)
{
	struct rig *rig = rig_prepare("exec_create:5=ENOMEM");
	struct task *tasks[6];
	uint64_t bytes;

	rig->options.budget_bytes = SMALL_BUDGET; /* whose floor none of this reaches */
	rig_start(rig);
	be_patient(rig);
	for (uint32_t i = 0; i < 4; i++) {
		tasks[i] = task_softmax(rig, 1 + i, 8);
		task_heat(rig, tasks[i]);
	}
	bytes = seen(&rig->stats.graph_bytes);
	tasks[4] = task_softmax(rig, 5, 8);
	run_often(rig, tasks[4], 2);
	task_await_state(rig, tasks[4], MSG_GRAPH_FAILED);
	assert_int_equal(task_record(rig, tasks[4])->status, -ENOMEM);
	assert_true(seen(&rig->stats.graph_evictions) >= 1);
	assert_true(seen(&rig->stats.graph_budget) < bytes);
	assert_int_equal(seen(&rig->stats.graph_budget), rig->g->bytes);
	assert_int_equal(task_state(rig, tasks[0]), MSG_GRAPH_COLD); /* the oldest went */
	for (uint32_t i = 0; i < 5; i++)
		run_often(rig, tasks[i], 3);
	/* It grows back in time, and captures with it. */
	hurry(rig, NULL);
	tasks[5] = task_softmax(rig, 6, 8);
	await_full_budget(rig);
	task_heat(rig, tasks[5]);
	for (uint32_t i = 0; i < 6; i++)
		task_free(rig, tasks[i]);
	rig_free(rig);
}

/* However little there was: a share of the budget is left, and what fits into it is captured. */
static void check_floor(const char *faults, uint32_t captured)
{
	struct rig *rig = rig_new(faults);
	struct task *tasks[2] = {task_softmax(rig, 1, 8), task_softmax(rig, 2, 8)};

	be_patient(rig);
	for (uint32_t i = 0; i < captured; i++)
		task_heat(rig, tasks[i]);
	assert_int_equal(precapture(rig, tasks[captured]), -GPUQ_ECAPTURE);
	assert_int_equal(task_record(rig, tasks[captured])->status, -ENOMEM);
	assert_int_equal(seen(&rig->stats.graph_budget), rig->options.budget_bytes / BUDGET_FLOOR);
	for (uint32_t i = 0; i < 2; i++)
		assert_int_equal(precapture(rig, tasks[i]), 0);
	hurry(rig, NULL);
	await_full_budget(rig);
	for (uint32_t i = 0; i < 2; i++)
		task_free(rig, tasks[i]);
	rig_free(rig);
}

static void test_faults_leave_the_budget_a_floor(void **state)
{
	check_floor("exec_create:1=ENOMEM", 0);
	check_floor("exec_create:2=ENOMEM", 1); /* the only executable is withdrawn */
}

/* What does not fit into the floor finds room when the budget has grown. */
static void test_faults_the_budget_grows_from_its_floor(void **state)
{
	struct rig *rig = rig_prepare("exec_create:1=ENOMEM");
	struct task *t;

	rig->options.budget_bytes = SMALL_BUDGET;
	rig_start(rig);
	be_patient(rig);
	t = task_softmax(rig, 1, 8);
	assert_int_equal(precapture(rig, t), -GPUQ_ECAPTURE);
	assert_int_equal(precapture(rig, t), -GPUQ_ECAPTURE);
	assert_int_equal(task_record(rig, t)->status, -ENOSPC);
	hurry(rig, NULL);
	await_full_budget(rig);
	assert_int_equal(precapture(rig, t), 0);
	assert_int_equal(task_run(rig, t), 0);
	task_free(rig, t);
	rig_free(rig);
}

/* Others may give memory back at any time: a shape waits longer each time, but is not given up. */
static void test_faults_want_of_memory_is_never_given_up(void **state)
{
	struct rig *rig = rig_new("exec_create:1+=ENOMEM");
	struct task *t = task_softmax(rig, 2, 8);

	assert_int_equal(room_retry_ns(rig->g, 1), 1 * RIG_SECOND_NS);
	assert_int_equal(room_retry_ns(rig->g, 2), 2 * RIG_SECOND_NS);
	assert_int_equal(room_retry_ns(rig->g, 7), 64 * RIG_SECOND_NS);
	assert_int_equal(room_retry_ns(rig->g, 1000), 64 * RIG_SECOND_NS);
	hurry(rig, NULL);
	while (seen(&rig->stats.capture_count) < 2 * RETRY_MAX) {
		assert_int_equal(task_run(rig, t), 0);
		usleep(500);
	}
	task_free(rig, t);
	rig_free(rig);
}

/* --- Launches that fail ---------------------------------------------------------------------- */

/* Whichever call fails: the work ends with its error or none, and the next ones are right. */
static void check_failed_launch(const char *call, uint32_t number, uint32_t *ret_errors)
{
	char faults[64];
	struct rig *rig;
	struct pipeline *p;
	struct task *tasks[3];
	uint32_t errors = 0;

	snprintf(faults, sizeof(faults), "%s:%u=EIO", call, number);
	rig = rig_prepare(faults);
	rig->options.direct_kernels = 1;
	rig->options.stage_bytes = 256;
	rig->options.staging_bytes = 1u << 20;
	rig_start(rig);
	p = rig_pipeline(rig, definition_layers(16, 16, 16, 16));
	tasks[0] = task_gemv(rig, 16, 16, 16);
	tasks[1] = task_pipeline(rig, p, 16, 16);
	tasks[2] = task_softmax(rig, 1, 8);
	for (uint32_t round = 0; round < 6; round++) {
		for (uint32_t i = 0; i < 3; i++) {
			const int err = task_run(rig, tasks[i]);

			assert_true(err == 0 || err == -EIO);
			errors += err != 0;
		}
		if (round == 2 && task_precapture(rig, tasks[1]) == 0)
			(void)task_wait(rig, tasks[1]);
	}
	/* One call failed: at most one work has. */
	assert_true(errors <= 1);
	*ret_errors += errors;
	for (uint32_t i = 0; i < 3; i++)
		task_free(rig, tasks[i]);
	pipeline_unref(p);
	rig_free(rig);
}

static void test_faults_in_launches(void **state)
{
	static const char *const calls[] = {
		"launch", "copy", "signal", "event_record", "event_await", "exec_launch"};

	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		uint32_t errors = 0;

		for (uint32_t number = 1; number <= 12; number++)
			check_failed_launch(calls[i], number, &errors);
		assert_true(errors >= 3);
	}
}

/* Runs a work ten times after its first, cold one; counts errors; the last one's in *ret_last. */
static void check_lanes(const char *faults, uint32_t *ret_errors, int *ret_last)
{
	struct rig *rig = rig_prepare(faults);
	struct task *t;

	rig->options.direct_kernels = 1;
	rig->options.stage_bytes = 256;
	rig->options.staging_bytes = 1u << 20;
	rig_start(rig);
	t = task_gemv(rig, 1, 64, 16); /* x and w are staged */
	assert_int_equal(task_run(rig, t), 0);
	*ret_errors = 0;
	for (uint32_t i = 0; i < 10; i++) {
		*ret_last = task_run(rig, t);
		*ret_errors += *ret_last != 0;
	}
	graphs_destroy(rig->g);
	rig->g = NULL;
	task_free(rig, t);
	rig_free(rig);
}

static void test_faults_in_the_middle_of_a_launch(void **state)
{
	uint32_t errors;
	int last;

	/* The first copy of a work: nothing was given before it, no sign is needed. */
	check_lanes("signal:1+=EIO,copy:5=EIO", &errors, &last);
	assert_int_equal(errors, 1);
	assert_int_equal(last, 0);
	check_lanes("event_await:3=EIO", &errors, &last);
	assert_int_equal(errors, 1);
	assert_int_equal(last, 0);
	/* Nothing can tell the end of the copies: the device is done for. */
	check_lanes("signal:1+=EIO,event_await:3=EIO", &errors, &last);
	assert_int_equal(errors, 9);
	assert_int_equal(last, -GPUQ_EDEVICE);
}

static void test_faults_at_the_start(void **state)
{
	static const char *const calls[] = {"alloc", "stream_create", "event_create"};

	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		for (uint32_t number = 1; number <= 8; number++) {
			char faults[64];
			struct rig *rig;

			snprintf(faults, sizeof(faults), "%s:%u=ENOMEM", calls[i], number);
			rig = rig_prepare(faults);
			assert_int_equal(graphs_create(&rig->options, &rig->g, rig->why), -ENOMEM);
			assert_null(rig->g);
			rig_start(rig); /* the next time it works */
			rig_free(rig);
		}
	}
}

/* --- The device fails ------------------------------------------------------------------------ */

/* What was on the device gets no word; everything else is answered, and nothing hangs. */
static void check_device_fault(const char *faults, uint32_t stop)
{
	struct rig *rig = rig_new(faults);
	struct pipeline *p = rig_pipeline(rig, definition_layers(8, 16, 16, 8));
	struct task *tasks[10], *pre = task_softmax(rig, 77, 8);
	bool accepted[10] = {false};
	bool precapture = false;

	for (uint32_t i = 0; i < 10; i++)
		tasks[i] =
			i % 2 == 0 ? task_gemv(rig, 4 + i, 16, 8) : task_pipeline(rig, p, 4 + i, 8);
	for (uint32_t round = 0; device_check(rig->options.device) == 0; round++) {
		assert_true(round < stop);
		for (uint32_t i = 0; i < 10; i++) {
			if (!accepted[i])
				accepted[i] = task_launch(rig, tasks[i]) == 0;
		}
		if (round == 0)
			precapture = task_precapture(rig, pre) == 0;
		for (uint32_t i = 0; i < 10; i++) {
			if (accepted[i] && task_done(tasks[i])) {
				(void)task_wait(rig, tasks[i]);
				accepted[i] = false;
			}
		}
		usleep(200);
	}
	rig_await(&rig->g->failed, 1);
	for (uint32_t i = 0; i < 10; i++) {
		if (!accepted[i])
			assert_int_equal(task_launch(rig, tasks[i]), -GPUQ_EDEVICE);
	}
	assert_int_equal(graphs_precapture(rig->g, &tasks[0]->w), -GPUQ_EDEVICE);
	if (precapture) {
		rig_await(&pre->completion->word, pre->w.args.value);
		assert_true(pre->completion->status == 0 ||
			pre->completion->status == -GPUQ_EDEVICE ||
			pre->completion->status == -GPUQ_ECAPTURE);
	}
	graphs_destroy(rig->g);
	rig->g = NULL;
	for (uint32_t i = 0; i < 10; i++)
		task_free(rig, tasks[i]);
	task_free(rig, pre);
	pipeline_unref(p);
	rig_free(rig);
}

static void test_faults_of_the_device(void **state)
{
	check_device_fault("work:1=GPUQ_EDEVICE", 100000);
	check_device_fault("work:40=GPUQ_EDEVICE", 100000);
	check_device_fault("work:300=GPUQ_EDEVICE", 100000);
	check_device_fault("launch:3=GPUQ_EDEVICE", 100000);
	check_device_fault("launch:33=GPUQ_EDEVICE", 100000);
	check_device_fault("exec_launch:4=GPUQ_EDEVICE", 100000);
	check_device_fault("exec_create:2=GPUQ_EDEVICE", 100000);
	check_device_fault("capture_begin:1=GPUQ_EDEVICE", 100000);
	check_device_fault("exec_upload:3=GPUQ_EDEVICE", 100000);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_faults_in_captures),
		HARNESS_TEST(test_faults_captures_are_given_up),
		HARNESS_TEST(test_faults_captures_are_retried_later),
		HARNESS_TEST(test_faults_in_a_second_lane),
		HARNESS_TEST(test_faults_out_of_memory),
		HARNESS_TEST(test_faults_leave_the_budget_a_floor),
		HARNESS_TEST(test_faults_the_budget_grows_from_its_floor),
		HARNESS_TEST(test_faults_want_of_memory_is_never_given_up),
		HARNESS_TEST(test_faults_in_launches),
		HARNESS_TEST(test_faults_in_the_middle_of_a_launch),
		HARNESS_TEST(test_faults_at_the_start),
		HARNESS_TEST(test_faults_of_the_device),
	};

	return harness_run("graphs-faults", tests, sizeof(tests) / sizeof(tests[0]));
}
