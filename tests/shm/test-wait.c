/* SPDX-License-Identifier: MIT */
/* test-wait.c: the stages of waiting follow each other; CPUs are counted as they may be used. */
#include "tests/harness.h"

#include "shm/wait.h"

static const struct clock_line monotonic; /* shift 0 */

/* Rounds until the wait says that it is time to sleep. */
static void wait_out(struct wait *w, bool may_spin)
{
	while (wait_round(w, may_spin, &monotonic))
		;
}

static void test_spins_then_yields_then_sleeps(void **state)
{
	struct wait w = wait_begin(1000, 1000);

	assert_true(wait_round(&w, true, &monotonic));
	assert_false(w.yielding);
	wait_out(&w, true);
	assert_true(w.yielding);
	assert_true(w.rounds >= WAIT_CLOCK_ROUNDS);
}

static void test_does_not_spin_when_it_may_not(void **state)
{
	struct wait w = wait_begin(1ull << 62, 0);

	assert_false(wait_round(&w, false, &monotonic));
	assert_true(w.yielding);
	assert_int_equal(w.rounds, 0);
}

/* A party that joins while we spin takes the CPU from us: the next round yields. */
static void test_stops_spinning_when_others_come(void **state)
{
	struct wait w = wait_begin(1ull << 62, 0);

	assert_true(wait_round(&w, true, &monotonic));
	assert_false(wait_round(&w, false, &monotonic));
}

static void test_reset_begins_anew(void **state)
{
	struct wait w = wait_begin(0, 0);

	wait_out(&w, true);
	wait_reset(&w);
	assert_false(w.yielding);
	assert_true(wait_round(&w, true, &monotonic));
	assert_false(w.yielding);
}

static void test_cpus_follow_the_affinity(void **state)
{
	cpu_set_t all, one;

	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	assert_in_range(wait_usable_cpus(), 1, CPU_COUNT(&all));
	CPU_ZERO(&one);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (CPU_ISSET(cpu, &all)) {
			CPU_SET(cpu, &one);
			break;
		}
	}
	assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
	assert_int_equal(wait_usable_cpus(), 1);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_spins_then_yields_then_sleeps),
		HARNESS_TEST(test_does_not_spin_when_it_may_not),
		HARNESS_TEST(test_stops_spinning_when_others_come),
		HARNESS_TEST(test_reset_begins_anew),
		HARNESS_TEST(test_cpus_follow_the_affinity),
	};

	return harness_run("wait", tests, sizeof(tests) / sizeof(tests[0]));
}
