/* SPDX-License-Identifier: MIT */
/*
 * test-dispatch-quotas.c: how many submissions a second one user may have; others are refused. (How
 * many may be in flight is in test-dispatch-graphs.c, where there are entries that stay so.)
 */
#include "tests/daemon/dispatch-rig.h"

#include <unistd.h>

#define PATIENCE_NS (30000000000u * harness_slowness())
#define MOST 5u /* submissions a second of a user */

static struct wire_cqe run_null(struct rig_client *c)
{
	const struct wire_sqe sqe = rig_entry(c, WIRE_OP_NULL, 99);

	rig_submit(c, &sqe);
	return rig_complete(c);
}

/* So many in one go; the next one is refused, and one is taken again later. */
static void test_rate(void **state)
{
	const uint64_t until_ns = clock_monotonic_ns() + PATIENCE_NS;
	struct rig_client c, other;
	struct rig rig;

	rig_start(&rig);
	rig.max_rate_per_user = MOST;
	rig_restart(&rig);
	rig.uids[0] = 100;
	rig.uids[1] = 200;
	rig_open(&rig, &c, 0, 0, WIRE_ABI);
	rig_open(&rig, &other, 1, 0, WIRE_ABI);
	for (uint32_t i = 0; i < MOST + 2; i++) {
		const struct wire_sqe sqe = rig_entry(&c, WIRE_OP_NULL, i);
		rig_write(&c, &sqe);
	}
	rig_publish(&c);
	for (uint32_t i = 0; i < MOST + 2; i++)
		assert_int_equal(rig_complete(&c).status, i < MOST ? 0 : -GPUQ_ERATE);
	assert_int_equal(run_null(&other).status, 0);
	/* Taking something back is always allowed. */
	const struct wire_sqe cancel = rig_entry(&c, WIRE_OP_CANCEL, 1);
	rig_submit(&c, &cancel);
	assert_int_equal(rig_complete(&c).status, -ENOENT);
	int status = -GPUQ_ERATE;
	while (status == -GPUQ_ERATE && clock_monotonic_ns() < until_ns) {
		usleep(1000);
		status = run_null(&c).status;
	}
	assert_int_equal(status, 0);
	rig_close(&c);
	rig_close(&other);
	rig_stop(&rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_rate),
	};

	return harness_run("dispatch-quotas", tests, sizeof(tests) / sizeof(tests[0]));
}
