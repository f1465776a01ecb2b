/* SPDX-License-Identifier: MIT */
/* The hot list: kept across restarts, captured first, believed by nobody. */
#include "tests/harness.h"

#include "tests/graphs/rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char path[256];

static struct rig *rig_with_list(void)
{
	struct rig *rig = rig_prepare(NULL);

	snprintf(path, sizeof(path), "%s/hot.json", harness_tmpdir());
	rig->options.hot_list = path;
	return rig;
}

static void write_list(const char *text)
{
	FILE *file = fopen(path, "we");

	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

/* A pipeline with a parameter, an operator without its optional input, another class of lanes. */
static void test_hot_list_is_captured_first(void **state)
{
	struct rig *rig = rig_with_list();
	struct definition *d = definition_layers(4, 8, 16, 3);
	const double temperature = 0.1;
	struct pipeline *p;
	struct task *tasks[3];

	memcpy(&d->steps[2].params[0], &temperature, sizeof(temperature));
	d->steps[2].params_given = 1;
	rig_start(rig);
	assert_string_equal(rig->why, "");
	p = rig_pipeline(rig, d);
	tasks[0] = task_pipeline(rig, p, 6, 3);
	tasks[1] = task_gemv(rig, 4, 8, 8);
	tasks[2] = task_softmax(rig, 2, 9);
	tasks[1]->w.priority = 0;
	for (uint32_t i = 0; i < 3; i++)
		task_heat(rig, tasks[i]);
	for (uint32_t i = 0; i < 30; i++)
		assert_int_equal(task_run(rig, tasks[i % 2]), 0);
	assert_int_equal(task_run(rig, tasks[1]), 0);

	rig_restart(rig);
	assert_string_equal(rig->why, "");
	rig_await(&rig->stats.graph_captures, 3);
	assert_string_equal(rig->records[0].shape, "gemv_batched x[4,8]f32 w[8,8]f32 -> y[4,8]f32");
	assert_string_equal(
		rig->records[1].shape, "layers x[6,8]f32 w1[16,8]f32 w2[3,16]f32 -> y[6,3]f32");
	assert_string_equal(rig->records[2].shape, "softmax x[2,9]f32 -> y[2,9]f32");
	for (uint32_t i = 0; i < 3; i++) /* captured in the order of their uses */
		assert_int_equal(seen(&rig->captures[1 + i].graph), rig->records[i].id);
	task_free(rig, tasks[0]);
	pipeline_unref(p);
	d = definition_layers(4, 8, 16, 3);
	memcpy(&d->steps[2].params[0], &temperature, sizeof(temperature));
	d->steps[2].params_given = 1;
	p = rig_pipeline(rig, d);
	tasks[0] = task_pipeline(rig, p, 6, 3);
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(task_run(rig, tasks[i]), 0);
		assert_int_equal(seen(&task_record(rig, tasks[i])->hits), 1);
		task_free(rig, tasks[i]);
	}
	assert_int_equal(seen(&rig->stats.graph_misses), 0);
	pipeline_unref(p);
	rig_free(rig);
}

/* A short life, with captures stopped even, does not lose what was hot. */
static void test_hot_list_survives_a_short_life(void **state)
{
	struct rig *rig = rig_with_list();
	struct task *t;

	rig_start(rig);
	t = task_softmax(rig, 3, 8);
	task_heat(rig, t);
	rig->options.capture_stopped = true;
	rig_restart(rig);
	rig_restart(rig);
	assert_int_equal(task_state(rig, t), MSG_GRAPH_QUEUED);
	assert_int_equal(task_run(rig, t), 0);
	rig->options.capture_stopped = false;
	rig_restart(rig);
	task_await_state(rig, t, MSG_GRAPH_CAPTURED);
	task_free(rig, t);
	rig_free(rig);
}

/* A name that is no text is never accepted; should one be there, the other shapes stay right. */
static void test_hot_list_leaves_out_what_is_no_text(void **state)
{
	struct rig *rig = rig_with_list();
	struct task *tasks[3];
	struct pipeline *p;
	uint64_t bytes;

	rig_start(rig);
	p = rig_pipeline(rig, definition_layers(4, 8, 16, 3));
	*(char *)(uintptr_t)((const struct wire_pipeline *)pipeline_blob(p, &bytes))->name = '\xff';
	tasks[0] = task_pipeline(rig, p, 6, 3);
	tasks[1] = task_gemv(rig, 4, 8, 8);
	tasks[2] = task_softmax(rig, 2, 9);
	for (uint32_t i = 0; i < 3; i++)
		task_heat(rig, tasks[i]);
	for (uint32_t i = 0; i < 10; i++)
		assert_int_equal(task_run(rig, tasks[0]), 0);
	assert_int_equal(task_run(rig, tasks[1]), 0);
	rig_restart(rig);
	assert_string_equal(rig->why, "");
	rig_await(&rig->stats.graph_captures, 2);
	assert_string_equal(rig->records[0].shape, "gemv_batched x[4,8]f32 w[8,8]f32 -> y[4,8]f32");
	assert_string_equal(rig->records[1].shape, "softmax x[2,9]f32 -> y[2,9]f32");
	for (uint32_t i = 0; i < 3; i++)
		task_free(rig, tasks[i]);
	pipeline_unref(p);
	rig_free(rig);
}

static void test_hot_list_ids_are_never_used_again(void **state)
{
	struct rig *rig = rig_with_list();
	struct task *t;
	uint64_t id;

	rig_start(rig);
	t = task_softmax(rig, 3, 8);
	task_heat(rig, t);
	id = seen(&task_record(rig, t)->id);
	rig_restart(rig);
	assert_true(rig->records[0].id > id);
	task_free(rig, t);
	rig_free(rig);
}

/* Each one is refused or cut down with a sentence, and the cache serves. */
static void test_hot_list_broken(void **state)
{
	static const struct {
		const char *text, *why;
	} cases[] = {
		{"", "line 1"},
		{"{\"version\": 1, \"shapes\": [", "ignored: line 1"},
		{"[]", "version"},
		{"{\"version\": 2}", "version"},
		{"{\"version\": 1}", ""},
		{"{\"version\": 1, \"sequences\": 3, \"shapes\": {}}", ""},
		{"{\"version\": 1, \"sequences\": [{\"op\": \"nothing\"}], \"shapes\": [null]}",
			"2 items"},
		{"{\"version\": 1, \"sequences\": [{\"op\": \"softmax\"}], \"shapes\": ["
		 "{\"sequence\": 0, \"tensors\": [{\"dtype\": \"f32\", \"dims\": [2, 3]},"
		 "{\"dtype\": \"f32\", \"dims\": [2, 4]}]},"
		 "{\"sequence\": 1}, {\"sequence\": -1}, {\"sequence\": 0, \"tensors\": [1, 2]},"
		 "{\"sequence\": 0, \"tensors\": [null, null]},"
		 "{\"sequence\": 0, \"uses\": -4, \"tensors\": []},"
		 "{\"sequence\": 0, \"tensors\": [{\"dtype\": \"f32\", \"dims\": [-2, 3]},"
		 "{\"dtype\": \"f32\", \"dims\": [1,1,1,1,1,1,1,1,1]}]}]}",
			"7 items"},
		{"{\"version\": 1, \"sequences\": [{\"pipeline\": \"p\", \"inputs\": 1,"
		 "\"outputs\": 1, \"tensors\": [{}, {}], \"steps\": [{}]},"
		 "{\"pipeline\": \"p\", \"inputs\": 1, \"outputs\": 1, \"tensors\":"
		 "[{\"name\": \"x\", \"dtype\": \"f32\", \"dims\": [1, 2]},"
		 "{\"name\": \"y\", \"dtype\": \"f32\", \"dims\": []}],"
		 "\"steps\": [{\"op\": \"softmax\", \"in\": [1], \"out\": [1]}]}],"
		 "\"shapes\": []}",
			"2 items"},
	};
	struct rig *rig = rig_with_list();
	struct task *t = task_softmax(rig, 3, 8);

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		write_list(cases[i].text);
		rig_start(rig);
		if (strstr(rig->why, cases[i].why) == NULL)
			print_message("%s\n", rig->why);
		assert_non_null(strstr(rig->why, cases[i].why));
		assert_int_equal(rig->why[0] == '\0', cases[i].why[0] == '\0');
		assert_int_equal(task_run(rig, t), 0);
		graphs_destroy(rig->g);
		rig->g = NULL;
	}
	task_free(rig, t);
	rig_free(rig);
}

static void test_hot_list_cannot_be_written(void **state)
{
	struct rig *rig = rig_with_list();
	struct task *t;

	snprintf(path, sizeof(path), "%s/no/such/folder/hot.json", harness_tmpdir());
	rig_start(rig);
	assert_string_equal(rig->why, "");
	t = task_softmax(rig, 3, 8);
	task_heat(rig, t);
	assert_true(hot_list_save(rig->g) < 0);
	task_free(rig, t);
	rig_free(rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_hot_list_is_captured_first),
		HARNESS_TEST(test_hot_list_survives_a_short_life),
		HARNESS_TEST(test_hot_list_leaves_out_what_is_no_text),
		HARNESS_TEST(test_hot_list_ids_are_never_used_again),
		HARNESS_TEST(test_hot_list_broken),
		HARNESS_TEST(test_hot_list_cannot_be_written),
	};

	return harness_run("graphs-hot-list", tests, sizeof(tests) / sizeof(tests[0]));
}
