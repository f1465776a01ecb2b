/* SPDX-License-Identifier: MIT */
/* Shapes that are never captured, since a device says that it would make a kernel much slower. */
#include "tests/harness.h"

#include "device/driver.h"
#include "tests/graphs/rig.h"

#include <string.h>

static bool softmax_records_badly(struct device *device, const struct device_kernel *kernel)
{
	(void)device;
	return strcmp(kernel->code->name, "softmax") == 0;
}

/* One such kernel is enough; shapes without one are captured. */
static void test_launched_for_good(void **state)
{
	struct rig *rig = rig_prepare(NULL);
	struct device *device = rig->options.device;
	struct device_driver choosy = *device->driver;
	struct task *t, *chain, *fine;
	struct pipeline *p;

	choosy.records_badly = softmax_records_badly;
	device->driver = &choosy;
	rig_start(rig);
	p = rig_pipeline(rig, definition_layers(4, 8, 16, 3));
	t = task_softmax(rig, 2, 8);
	chain = task_pipeline(rig, p, 4, 3);
	fine = task_gemv(rig, 4, 32, 16);
	for (uint32_t i = 0; i < 10; i++)
		assert_int_equal(task_run(rig, t), 0);
	task_await_state(rig, t, MSG_GRAPH_DIRECT);
	assert_string_not_equal(task_record(rig, t)->reason, "");
	assert_int_equal(task_precapture(rig, chain), 0);
	assert_int_equal(task_wait(rig, chain), 0);
	assert_int_equal(task_state(rig, chain), MSG_GRAPH_DIRECT);
	assert_int_equal(task_precapture(rig, t), 0);
	assert_int_equal(task_wait(rig, t), 0);
	for (uint32_t i = 0; i < 10; i++)
		assert_int_equal(task_run(rig, t), 0);
	assert_int_equal(task_record(rig, t)->hits, 0);
	task_heat(rig, fine);
	assert_int_equal(seen(&rig->stats.graph_failures), 0);
	task_free(rig, t);
	task_free(rig, chain);
	task_free(rig, fine);
	pipeline_unref(p);
	rig_free(rig);
}

int main(void)
{
	static const struct harness_test tests[] = {HARNESS_TEST(test_launched_for_good)};

	return harness_run("launched", tests, 1);
}
