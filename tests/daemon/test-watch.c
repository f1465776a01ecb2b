/* SPDX-License-Identifier: MIT */
/*
 * test-watch.c: when the watchdog kills, and when it does not. The device process is a child that
 * does nothing; time passes because the test says so, and limits are so long that a test which is
 * itself kept waiting changes nothing.
 */
#include "daemon/control.h"
#include "shm/segment.h"
#include "tests/harness.h"

#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECOND_NS 1000000000u
#define WATCHDOG_S 100u
#define OPERATOR_S 300u
#define LOOKS_MAX 2000u /* of one second each: longer than any limit */

static struct control control;
static struct config config;
static struct ledger_pulse pulse;
static bool stopped;

/* Stands for the one that asks the kernel. */
bool control_process_stopped(pid_t pid)
{
	return stopped;
}

static void start(void)
{
	config.watchdog_ms = WATCHDOG_S * 1000;
	config.operator_timeout_ms = OPERATOR_S * 1000;
	snprintf(config.watchdog_stopped, sizeof(config.watchdog_stopped), "kill");
	control.config = &config;
	control.device = (struct device){.state = DEVICE_READY, .pulse = &pulse};
	control.device.pid = fork();
	if (control.device.pid == 0) {
		for (;;)
			pause();
	}
	assert_true(control.device.pid > 0);
	watch_device(&control);
	assert_true(control.device.watched_ns != 0);
}

static void stop(pid_t pid)
{
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void pass(uint64_t ns)
{
	control.device.watched_ns -= ns;
	for (uint32_t i = 0; i < WATCHES; i++)
		control.device.watched[i].since_ns -= ns;
}

/* A second later it looks; true: it has killed the device process. */
static bool look(void)
{
	pass(SECOND_NS);
	watch_device(&control);
	return control.device.watched_ns == 0;
}

/* What goes on, but for `still`: as a device process with endless work does. */
static void move(uint32_t still)
{
	pulse.dispatch += still != WATCH_DISPATCH;
	pulse.link += still != WATCH_LINK;
	pulse.oldest = still == WATCH_OLDEST ? 7 : pulse.oldest + 1;
	pulse.reaping = still == WATCH_REAPING ? 7 : pulse.reaping + 1;
}

/* How many seconds it takes, at least; LOOKS_MAX: for ever. */
static uint32_t killed_after(uint32_t still)
{
	uint32_t n = 1;

	for (; n < LOOKS_MAX; n++) {
		move(still);
		if (look())
			break;
	}
	return n;
}

static void expect_end(pid_t pid)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* Not before its time; a second or more may have passed besides. */
static void check_killed(uint32_t still, uint32_t after_s)
{
	start();
	const uint32_t s = killed_after(still);
	if (s < after_s - 20 || s == LOOKS_MAX)
		fail_msg("word %u was the same for %u s; the limit is %u", still, s, after_s);
	expect_end(control.device.pid);
}

static void each_word_is_watched(void **state)
{
	check_killed(WATCH_DISPATCH, WATCHDOG_S);
	check_killed(WATCH_LINK, WATCHDOG_S);
	check_killed(WATCH_OLDEST, OPERATOR_S);
	check_killed(WATCH_REAPING, WATCHDOG_S);
}

/* All of these are spared however long it takes. */
static void check_spared(uint32_t still)
{
	assert_int_equal(killed_after(still), LOOKS_MAX);
	stop(control.device.pid);
}

static void who_moves_is_spared(void **state)
{
	start();
	check_spared(WATCHES);
}

static void look_idle(uint32_t s)
{
	for (uint32_t i = 0; i < s; i++) {
		pulse.dispatch++;
		pulse.link++;
		assert_false(look());
	}
}

/* Without work there is no oldest, and nothing that is taken back. */
static void who_is_idle_is_spared(void **state)
{
	start();
	look_idle(LOOKS_MAX);
	stop(control.device.pid);
}

static void without_a_limit(void **state)
{
	start();
	config.operator_timeout_ms = 0;
	check_spared(WATCH_OLDEST);
	start();
	config.watchdog_ms = 0;
	check_spared(WATCH_DISPATCH);
}

static void one_that_starts_is_spared(void **state)
{
	start();
	control.device.state = DEVICE_STARTING;
	check_spared(WATCH_DISPATCH);
}

static void no_process_is_killed(void **state)
{
	start();
	const pid_t pid = control.device.pid;
	control.device.pid = 0;
	assert_int_equal(killed_after(WATCH_DISPATCH), LOOKS_MAX);
	stop(pid);
}

static void a_stopped_one(void **state)
{
	stopped = true;
	check_killed(WATCH_DISPATCH, WATCHDOG_S);
	start();
	snprintf(config.watchdog_stopped, sizeof(config.watchdog_stopped), "spare");
	assert_int_equal(killed_after(WATCH_DISPATCH), LOOKS_MAX);
	/* Its time begins when it goes on. */
	stopped = false;
	assert_in_range(killed_after(WATCH_DISPATCH), WATCHDOG_S - 20, LOOKS_MAX - 1);
	expect_end(control.device.pid);
}

/* Whoever was stopped, or had no CPU, cannot say that the other one did not move. */
static void after_a_long_sleep(void **state)
{
	start();
	for (uint32_t i = 0; i < WATCHDOG_S - 20; i++) {
		move(WATCH_DISPATCH);
		assert_false(look());
	}
	pass(2 * WATCHDOG_S * (uint64_t)SECOND_NS);
	assert_in_range(killed_after(WATCH_DISPATCH), WATCHDOG_S - 20, LOOKS_MAX - 1);
	expect_end(control.device.pid);
}

/* Some looks within the shorter limit, and none without need. */
static void intervals(void **state)
{
	static const struct {
		uint32_t watchdog_ms, operator_ms;
		long long sec, nsec;
	} cases[] = {
		{0, 0, 1, 0},
		{1000000, 0, 1, 0},
		{4000, 0, 1, 0},
		{2000, 0, 0, 500000000},
		{2000, 1000, 0, 250000000},
		{1000, 2000, 0, 250000000},
		{0, 400, 0, 100000000},
		{40, 0, 0, 20000000},
	};

	control.config = &config;
	config.max_channels = config.max_in_flight = 1;
	const int fd = segment_create("ledger", ledger_bytes(1, 1));
	assert_true(fd >= 0);
	control.device.ledger_fd = fd;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		config.watchdog_ms = cases[i].watchdog_ms;
		config.operator_timeout_ms = cases[i].operator_ms;
		assert_int_equal(watch_create(&control), 0);
		assert_int_equal(control.watch.tv_sec, cases[i].sec);
		assert_int_equal(control.watch.tv_nsec, cases[i].nsec);
	}
	close(fd);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(each_word_is_watched),
		HARNESS_TEST(who_moves_is_spared),
		HARNESS_TEST(who_is_idle_is_spared),
		HARNESS_TEST(without_a_limit),
		HARNESS_TEST(one_that_starts_is_spared),
		HARNESS_TEST(no_process_is_killed),
		HARNESS_TEST(a_stopped_one),
		HARNESS_TEST(after_a_long_sleep),
		HARNESS_TEST(intervals),
	};

	return harness_run("watch", tests, sizeof(tests) / sizeof(tests[0]));
}
