/* SPDX-License-Identifier: MIT */
/*
 * test-ring-processes.c: a client and a dispatcher in two processes, with indices that run over
 * their maximum, asleep on a pipe and an eventfd. A lost wake-up leaves both asleep, and the
 * harness ends the test.
 */
#include "rig.h"
#include "tests/harness.h"

#include <sys/wait.h>
#include <unistd.h>

#define ENTRIES_SENT 20000

static void echo(uint32_t sq, uint32_t cq, uint64_t start, uint32_t want)
{
	struct rig rig;
	int status;

	rig_open(&rig, sq, cq, start);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(rig_dispatch(&rig, ENTRIES_SENT) == 0 ? 0 : 1);
	assert_int_equal(rig_client(&rig, ENTRIES_SENT, want), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	/* What lies in memory in the end has wrapped too. */
	assert_int_equal(
		shm_load_acquire(&rig_ring(&rig, WIRE_CQ_RING)->prod), start + ENTRIES_SENT);
	assert_int_equal(
		shm_load_acquire(&rig_ring(&rig, WIRE_SQ_RING)->cons), start + ENTRIES_SENT);
	rig_close(&rig);
}

/* The maximum lies at every place of the ring, so at every place of some batch. */
static void test_wrap_at_every_slot(void **state)
{
	for (uint64_t k = 0; k < 8; k++)
		echo(8, 8, UINT64_MAX - k, 1);
}

static void test_wrap_with_many_under_way(void **state)
{
	echo(64, 256, UINT64_MAX - ENTRIES_SENT / 2, 1);
}

static void test_wrap_asleep_for_many(void **state)
{
	echo(16, 64, UINT64_MAX - 10, 12);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_wrap_at_every_slot),
		HARNESS_TEST(test_wrap_with_many_under_way),
		HARNESS_TEST(test_wrap_asleep_for_many),
	};

	return harness_run("ring-processes", tests, sizeof(tests) / sizeof(tests[0]));
}
