/* SPDX-License-Identifier: MIT */
/* test-wait.c: the stages of waiting follow each other; CPUs are counted as they may be used. */
#include "tests/harness.h"

#include "shm/wait.h"

#include <unistd.h>

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

static void test_spins_briefly_when_it_may_not(void **state)
{
	struct wait w = wait_begin(1ull << 62, 0);

	assert_true(wait_round(&w, false, &monotonic));
	assert_true(w.yielding);
	assert_int_equal(w.rounds, 0);
	w = wait_begin(1ull << 62, 0);
	w.brief_rounds = WAIT_BRIEF_ROUNDS;
	while (!w.yielding)
		assert_true(wait_round(&w, false, &monotonic));
	assert_int_equal(w.rounds, WAIT_BRIEF_ROUNDS);
}

/* A party that joins while we spin takes the CPU from us: the next round yields. */
static void test_stops_spinning_when_others_come(void **state)
{
	struct wait w = wait_begin(1ull << 62, 0);

	for (int i = 0; i < 10 * WAIT_BRIEF_ROUNDS; i++)
		assert_true(wait_round(&w, true, &monotonic));
	assert_false(w.yielding);
	assert_true(wait_round(&w, false, &monotonic));
	assert_true(w.yielding);
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

/* One wait: true when its first round spun. It ends while it spins, or after. */
static bool one_wait(struct wait *w, bool answered_while_spinning)
{
	(void)wait_round(w, true, &monotonic);
	bool spun = !w->yielding;
	if (!answered_while_spinning)
		wait_out(w, true);
	wait_done(w);
	return spun;
}

/* Spinning that never helps is given up, tried again now and then, and taken up when it helps. */
static void test_learns_whether_spinning_helps(void **state)
{
	struct wait w = wait_begin(0, 0);
	int spun = 0;

	for (int i = 0; i < WAIT_MAX_MISSES; i++)
		assert_true(one_wait(&w, false));
	for (int i = 0; i < 4 * WAIT_RETRY; i++)
		spun += one_wait(&w, false);
	assert_int_equal(spun, 4);
	while (!one_wait(&w, true))
		;
	assert_true(one_wait(&w, true));
}

/* Without the spinning stage the wait before the sleep is as long as with it. */
static void test_gives_up_spinning_but_not_patience(void **state)
{
	struct wait w = wait_begin(50 * 1000 * 1000, 0);
	uint64_t start_ns = clock_monotonic_ns();

	wait_out(&w, false);
	assert_true(clock_monotonic_ns() - start_ns >= w.spin_ns);
}

/* Who pins one party has not taken the CPUs from the others. */
static void test_cpus_are_those_of_all_parties(void **state)
{
	uint32_t before = wait_shared_cpus();
	cpu_set_t all, one;

	assert_in_range(before, 1, sysconf(_SC_NPROCESSORS_ONLN));
	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	CPU_ZERO(&one);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (CPU_ISSET(cpu, &all)) {
			CPU_SET(cpu, &one);
			break;
		}
	}
	assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
	assert_int_equal(wait_shared_cpus(), before);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_spins_then_yields_then_sleeps),
		HARNESS_TEST(test_spins_briefly_when_it_may_not),
		HARNESS_TEST(test_stops_spinning_when_others_come),
		HARNESS_TEST(test_reset_begins_anew),
		HARNESS_TEST(test_learns_whether_spinning_helps),
		HARNESS_TEST(test_gives_up_spinning_but_not_patience),
		HARNESS_TEST(test_cpus_are_those_of_all_parties),
	};

	return harness_run("wait", tests, sizeof(tests) / sizeof(tests[0]));
}
