/* SPDX-License-Identifier: MIT */
/*
 * test-watchdog.c: device processes that live and do not get on are replaced: clients keep their
 * connections, and what was in flight completes once, with -GPUQ_EDEVICE or with the right values.
 */
#include "tests/integration/client.h"
#include "tests/integration/world.h"

#include "shm/clock.h"

#include <signal.h>

/* For what is not to happen; one that is merely slow shows a sign of life within this. */
#define SPARED_MS "2000"
#define SPARED_NS (7 * SECOND_NS / 2)

/* Everything in flight comes back, and then all is as before. */
static void finish_and_work(struct client *c, struct load *load)
{
	assert_int_equal(load_finish(load), 0);
	assert_int_equal(gpuq_alive(c->g), 0);
	load->may_lose = false;
	assert_true(load_submit(load) >= 0);
	assert_int_equal(load_finish(load), 0);
}

static void test_stopped_is_replaced(void **state)
{
	static const char *const args[] = {"--watchdog-ms", "1000", NULL};
	const struct gpuq_channel_options options = {.arena_bytes = 16ull << 20};
	struct harness_daemon *daemon = harness_daemon_start(args);
	const pid_t pid = world_device_pid(daemon);
	struct random rng = {1};
	struct client c;
	struct load load;

	client_open(&c, &options);
	load_create(&load, &c, JOB_KINDS, 250, 16, &rng);
	load.may_lose = true;
	assert_true(load_submit(&load) >= 0);
	assert_int_equal(kill(pid, SIGSTOP), 0);
	assert_true(load_submit(&load) >= 0);
	(void)world_await_device(daemon, pid);
	finish_and_work(&c, &load);
	load_destroy(&load);
	client_close(&c);
	const struct world w = world_look(daemon);
	assert_true(w.device_restarts >= 1);
	assert_int_equal(w.deaths, 0);
	harness_daemon_destroy(daemon);
}

static void test_stopped_is_spared(void **state)
{
	static const char *const args[] = {
		"--watchdog-ms", SPARED_MS, "--watchdog-stopped", "spare", NULL};
	struct harness_daemon *daemon = harness_daemon_start(args);
	const pid_t pid = world_device_pid(daemon);
	const uint64_t start_ns = clock_monotonic_ns();
	struct client c;

	client_open(&c, NULL);
	assert_int_equal(kill(pid, SIGSTOP), 0);
	while (clock_monotonic_ns() - start_ns < SPARED_NS)
		raw_pause();
	assert_int_equal(kill(pid, SIGCONT), 0);
	client_check_works(&c);
	client_close(&c);
	const struct world w = world_look(daemon);
	assert_int_equal(w.device_restarts, 0);
	assert_int_equal(world_device_pid(daemon), pid);
	harness_daemon_destroy(daemon);
}

static void test_endless_operator(void **state)
{
	static const char *const args[] = {
		"--test-faults", "work:3=HANG", "--operator-timeout-ms", "1000", NULL};
	const struct gpuq_channel_options options = {.arena_bytes = 16ull << 20};
	struct harness_daemon *daemon = harness_daemon_start(args);
	const pid_t pid = world_device_pid(daemon);
	struct random rng = {2};
	struct client c;
	struct load load;

	client_open(&c, &options);
	load_create(&load, &c, JOB_GEMV, 400, 8, &rng);
	load.may_lose = true;
	assert_true(load_submit(&load) >= 0);
	(void)world_await_device(daemon, pid);
	finish_and_work(&c, &load);
	assert_true(load.lost > 0);
	load_destroy(&load);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

static void leave_a_channel(void)
{
	struct client c;

	client_open(&c, NULL);
	client_check_works(&c);
	gpuq_disconnect(c.g);
}

/* A driver that never takes an arena back keeps nobody else waiting. */
static void test_endless_reclaim_is_nobodys(void **state)
{
	static const char *const args[] = {
		"--test-faults", "unregister_host:1=HANG", "--watchdog-ms", "0", NULL};
	struct harness_daemon *daemon = harness_daemon_start(args);
	const pid_t pid = world_device_pid(daemon);
	struct client c;

	leave_a_channel();
	client_open(&c, NULL);
	client_check_works(&c);
	assert_int_equal(world_device_pid(daemon), pid);
	/* The answer to a close would come behind the one that never ends. */
	gpuq_disconnect(c.g);
	harness_daemon_destroy(daemon);
}

static void test_endless_reclaim_is_replaced(void **state)
{
	static const char *const args[] = {
		"--test-faults", "unregister_host:1=HANG", "--watchdog-ms", "1000", NULL};
	struct harness_daemon *daemon = harness_daemon_start(args);
	const pid_t pid = world_device_pid(daemon);
	struct client c;

	leave_a_channel();
	(void)world_await_device(daemon, pid);
	/* It has what the one before did not give back, and gives it back. */
	raw_await(world_look(daemon).channels == 0);
	client_open(&c, NULL);
	client_check_works(&c);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST_LONG(test_stopped_is_replaced, 60),
		HARNESS_TEST_LONG(test_stopped_is_spared, 60),
		HARNESS_TEST_LONG(test_endless_operator, 60),
		HARNESS_TEST_LONG(test_endless_reclaim_is_nobodys, 60),
		HARNESS_TEST_LONG(test_endless_reclaim_is_replaced, 60),
	};

	return harness_run("watchdog", tests, sizeof(tests) / sizeof(tests[0]));
}
