/* SPDX-License-Identifier: MIT */
/* test-table.c: the table of shapes: who finds room in it, and who has to go for others. */
#include "tests/harness.h"

#include "tests/graphs/rig.h"

#include <string.h>

static void test_table_hash_collisions(void **state)
{
	struct rig *rig = rig_new(NULL);
	struct task *tasks[20];

	rig->g->hash_mask = 0;
	for (uint32_t i = 0; i < 20; i++)
		tasks[i] = task_softmax(rig, 1 + i, 8);
	for (uint32_t i = 0; i < 20; i++)
		task_heat(rig, tasks[i]);
	for (uint32_t i = 0; i < 20; i++) {
		assert_int_equal(task_run(rig, tasks[i]), 0);
		assert_int_equal(seen(&task_record(rig, tasks[i])->hits), 2);
		for (uint32_t j = 0; j < i; j++)
			assert_ptr_not_equal(
				task_record(rig, tasks[i]), task_record(rig, tasks[j]));
	}
	for (uint32_t i = 0; i < 20; i++)
		task_free(rig, tasks[i]);
	rig_free(rig);
}

static void test_table_forgets_the_oldest_cold_shape(void **state)
{
	struct rig *rig = rig_prepare(NULL);
	struct task *tasks[12];
	uint64_t id;

	rig->options.max_graphs = 4;
	rig_start(rig);
	for (uint32_t i = 0; i < 12; i++)
		tasks[i] = task_softmax(rig, 1 + i, 8);
	task_heat(rig, tasks[0]);
	id = seen(&task_record(rig, tasks[0])->id);
	for (uint32_t i = 1; i < 12; i++)
		assert_int_equal(task_run(rig, tasks[i]), 0);
	assert_int_equal(seen(&task_record(rig, tasks[0])->id), id); /* captured: it stays */
	for (uint32_t i = 1; i < 9; i++)
		assert_null(task_record(rig, tasks[i]));
	for (uint32_t i = 9; i < 12; i++)
		assert_int_equal(task_state(rig, tasks[i]), MSG_GRAPH_COLD);
	for (uint32_t i = 0; i < 12; i++) {
		assert_int_equal(task_run(rig, tasks[i]), 0);
		task_free(rig, tasks[i]);
	}
	rig_free(rig);
}

static struct rig *small_table(uint32_t pinned)
{
	struct rig *rig = rig_prepare(NULL);

	rig->options.max_graphs = 4;
	rig->options.pinned = pinned;
	rig_start(rig);
	return rig;
}

static void test_table_full_of_captured_shapes(void **state)
{
	struct rig *rig = small_table(1);
	struct task *tasks[8];

	for (uint32_t i = 0; i < 8; i++)
		tasks[i] = task_softmax(rig, 1 + i, 8);
	for (uint32_t i = 0; i < 4; i++)
		task_heat(rig, tasks[i]);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(task_run(rig, tasks[0]), 0); /* hot, and used last */
	assert_int_equal(graphs_pin(rig->g, task_record(rig, tasks[1])->id, true), 0);
	for (uint32_t i = 4; i < 8; i++) {
		assert_int_equal(task_precapture(rig, tasks[i]), 0);
		assert_int_equal(task_wait(rig, tasks[i]), 0);
	}
	assert_int_equal(task_state(rig, tasks[0]), MSG_GRAPH_CAPTURED);
	assert_int_equal(task_state(rig, tasks[1]), MSG_GRAPH_CAPTURED);
	for (uint32_t i = 2; i < 6; i++)
		assert_null(task_record(rig, tasks[i]));
	assert_int_equal(seen(&rig->stats.graph_evictions), 4);
	for (uint32_t i = 0; i < 8; i++) {
		assert_int_equal(task_run(rig, tasks[i]), 0);
		task_free(rig, tasks[i]);
	}
	rig_free(rig);
}

static void test_table_full_of_wishes(void **state)
{
	struct rig *rig = small_table(0);
	struct task *tasks[6];

	graphs_stop_captures(rig->g);
	for (uint32_t i = 0; i < 6; i++) {
		tasks[i] = task_softmax(rig, 1 + i, 8);
		assert_int_equal(task_run(rig, tasks[i]), 0);
		assert_int_equal(task_run(rig, tasks[i]), 0);
		assert_int_equal(task_state(rig, tasks[i]), MSG_GRAPH_QUEUED);
	}
	assert_null(task_record(rig, tasks[1]));
	graphs_resume_captures(rig->g);
	for (uint32_t i = 2; i < 6; i++)
		task_await_state(rig, tasks[i], MSG_GRAPH_CAPTURED);
	for (uint32_t i = 0; i < 6; i++)
		task_free(rig, tasks[i]);
	rig_free(rig);
}

/* Another user's shapes come after his, captured ones too, as long as he has more than half. */
static void test_table_one_user_has_half_of_the_table(void **state)
{
	struct rig *rig = small_table(0);
	struct task *greedy[8], *other[2];

	for (uint32_t i = 0; i < 8; i++) {
		greedy[i] = task_softmax(rig, 1 + i, 8);
		greedy[i]->w.uid = 1000;
	}
	for (uint32_t i = 0; i < 4; i++)
		task_heat(rig, greedy[i]);
	for (uint32_t i = 0; i < 2; i++) {
		other[i] = task_softmax(rig, 1 + i, 16);
		other[i]->w.uid = 1001;
		assert_int_equal(task_run(rig, other[i]), 0);
		assert_null(task_record(rig, greedy[i]));
	}
	/* He displaces what is cold of the other's once, and then his own. */
	for (uint32_t round = 0; round < 2; round++) {
		for (uint32_t i = 0; i < 8; i++)
			assert_int_equal(task_run(rig, greedy[i]), 0);
		assert_non_null(task_record(rig, other[1]));
	}
	assert_null(task_record(rig, other[0]));
	for (uint32_t i = 0; i < 8; i++)
		task_free(rig, greedy[i]);
	for (uint32_t i = 0; i < 2; i++)
		task_free(rig, other[i]);
	rig_free(rig);
}

/* --- Definitions ---------------------------------------------------------------------------- */

/* A cold work of its own: what the cold thread had to do before it, it has done. */
static void pass_the_cold_thread(struct rig *rig, uint64_t d)
{
	struct task *t = task_softmax(rig, 1, d);

	assert_int_equal(task_run(rig, t), 0);
	task_free(rig, t);
}

static uint32_t count_definitions(struct rig *rig)
{
	uint32_t n = 0;

	pthread_mutex_lock(&rig->g->lock);
	for (const struct interned *i = rig->g->pipelines; i != NULL; i = i->next)
		n++;
	pthread_mutex_unlock(&rig->g->lock);
	return n;
}

static void test_table_forgets_what_nobody_has_registered(void **state)
{
	struct rig *rig = rig_new(NULL);
	struct pipeline *p[20], *twice = NULL;

	for (uint32_t i = 0; i < 20; i++) {
		struct task *t;

		p[i] = rig_pipeline(rig, definition_layers(4, 8, 16 + i, 3));
		t = task_pipeline(rig, p[i], 4, 3);
		assert_int_equal(task_run(rig, t), 0);
		task_free(rig, t);
	}
	twice = rig_pipeline(rig, definition_layers(4, 8, 16, 3));
	assert_ptr_equal(twice, p[0]);
	for (uint32_t i = 0; i < 20; i++)
		graphs_release(rig->g, p[i]);
	pass_the_cold_thread(rig, 8);
	assert_int_equal(count_definitions(rig), 1); /* the one that is registered twice */
	graphs_release(rig->g, twice);
	pass_the_cold_thread(rig, 9);
	assert_int_equal(count_definitions(rig), 0);
	for (uint32_t i = 0; i < RIG_GRAPHS; i++) {
		if (seen(&rig->records[i].id) != 0)
			assert_non_null(strstr(rig->records[i].shape, "softmax"));
	}
	rig_free(rig);
}

/* What is captured stays, and its definition counts; when it has to go, all of it goes. */
static void test_table_keeps_captured_definitions(void **state)
{
	struct rig *rig = rig_new(NULL);
	struct pipeline *p = rig_pipeline(rig, definition_layers(4, 8, 16, 3));
	struct task *t = task_pipeline(rig, p, 4, 3);
	struct stats_graph *r;
	uint64_t definition_bytes, bytes = 0;

	task_heat(rig, t);
	r = task_record(rig, t);
	(void)pipeline_blob(p, &definition_bytes);
	for (uint32_t i = 0; i < rig->options.lanes; i++) {
		const struct graph_exec *exec = entry_exec(t->w.entry, i);

		bytes += exec == NULL ? 0 : device_exec_bytes(exec->exec) + definition_bytes;
	}
	assert_int_equal(seen(&r->bytes), bytes);
	task_free(rig, t);
	graphs_release(rig->g, p);
	pass_the_cold_thread(rig, 8);
	assert_int_equal(shm_load_acquire_u32(&r->state), MSG_GRAPH_CAPTURED);
	assert_int_equal(count_definitions(rig), 1);
	assert_int_equal(graphs_evict(rig->g, r->id), 0);
	pass_the_cold_thread(rig, 9);
	assert_int_equal(count_definitions(rig), 0);
	rig_free(rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_table_hash_collisions),
		HARNESS_TEST(test_table_forgets_the_oldest_cold_shape),
		HARNESS_TEST(test_table_full_of_captured_shapes),
		HARNESS_TEST(test_table_full_of_wishes),
		HARNESS_TEST(test_table_one_user_has_half_of_the_table),
		HARNESS_TEST(test_table_forgets_what_nobody_has_registered),
		HARNESS_TEST(test_table_keeps_captured_definitions),
	};

	return harness_run("graphs-table", tests, sizeof(tests) / sizeof(tests[0]));
}
