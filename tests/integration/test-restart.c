/* SPDX-License-Identifier: MIT */
/*
 * test-restart.c: an administrator restarts the device process, again and again under load. Every
 * submission still completes exactly once; connections last. TEST_LONG=1 does it 100 times.
 */
#include "tests/integration/children.h"
#include "tests/integration/client.h"
#include "tests/integration/world.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#define CLIENTS 3u
#define RESTARTS 10u
#define RESTARTS_LONG 100u
#define FAULTY "work:5=HANG"

static struct gpuq *administrator(void)
{
	const struct gpuq_options options = {.admin = true};
	struct gpuq *g;

	if (gpuq_connect(&options, &g) < 0)
		fail_msg("gpuq_connect: %s", gpuq_error_detail());
	return g;
}

static void restart(struct gpuq *admin, uint64_t drain_ns)
{
	if (gpuq_admin_restart(admin, 0, drain_ns) < 0)
		fail_msg("gpuq_admin_restart: %s", gpuq_error_detail());
}

static uint64_t epoch_of(struct gpuq *g)
{
	struct gpuq_device_info info;

	assert_int_equal(gpuq_device_info(g, 0, &info), 0);
	assert_true(info.ready);
	return info.epoch;
}

/* --- Under load ---------------------------------------------------------------------------- */

static uint64_t restart_under_load(uint32_t times, uint64_t drain_ns)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct gpuq *admin = administrator();
	struct child children[CLIENTS];
	uint64_t lost = 0;

	for (uint32_t i = 0; i < CLIENTS; i++) {
		children[i] = (struct child){.run = load_child_main, .number = i, .seed = i + 1};
		child_start(&children[i]);
		child_await_ready(&children[i]);
	}
	for (uint32_t i = 0; i < times; i++) {
		const struct child_page *page = children[i % CLIENTS].page;
		const uint64_t before = shm_load_acquire(&page->completed);
		restart(admin, drain_ns);
		assert_int_equal(epoch_of(admin), i + 2);
		raw_await(shm_load_acquire(&page->completed) > before);
	}
	for (uint32_t i = 0; i < CLIENTS; i++) {
		child_stop(&children[i]);
		lost += children[i].page->lost;
		child_free(&children[i]);
	}
	gpuq_disconnect(admin);
	const struct world w = world_look(daemon);
	assert_int_equal(w.device_restarts, times);
	assert_int_equal(w.deaths, 0);
	harness_daemon_destroy(daemon);
	return lost;
}

static void test_again_and_again_under_load(void **state)
{
	const uint32_t times = harness_long() ? RESTARTS_LONG : RESTARTS;

	/* What is accepted has all the time it needs; the rest waits for the next process. */
	assert_int_equal(restart_under_load(times, PATIENCE_NS), 0);
}

static void test_at_once_under_load(void **state)
{
	(void)restart_under_load(harness_long() ? RESTARTS_LONG : 3, 0);
}

/* What does not end is lost when its time is over, and nothing else is. */
static void test_endless_work_is_left(void **state)
{
	static const char *const args[] = {"--test-faults", FAULTY, NULL};
	const struct gpuq_channel_options options = {.arena_bytes = 16ull << 20};
	struct harness_daemon *daemon = harness_daemon_start(args);
	struct gpuq *admin = administrator();
	struct random rng = {3};
	struct client c;
	struct load load;

	client_open(&c, &options);
	load_create(&load, &c, JOB_GEMV, 400, 8, &rng);
	load.may_lose = true;
	assert_true(load_submit(&load) >= 0);
	/* All of it is accepted: what waits in the ring would not be lost. */
	struct stats s = raw_stats(daemon);
	raw_await(shm_load_relaxed(&s.devices[0].consumed) == load.submitted);
	stats_close(&s);
	restart(admin, SECOND_NS / 10);
	assert_int_equal(load_finish(&load), 0);
	assert_true(load.lost > 0);
	load_destroy(&load);
	client_close(&c);
	gpuq_disconnect(admin);
	harness_daemon_destroy(daemon);
}

/* --- Another executable -------------------------------------------------------------------- */

/* Puts a copy of an executable where the path says, as an installation does. */
static void install(const char *from, const char *to)
{
	char fresh[256];
	struct stat st;
	off_t at = 0;

	snprintf(fresh, sizeof(fresh), "%s.new", to);
	int in = open(from, O_RDONLY | O_CLOEXEC);
	int out = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0700);
	assert_true(in >= 0 && out >= 0 && fstat(in, &st) == 0);
	while (at < st.st_size)
		assert_true(sendfile(out, in, &at, (size_t)(st.st_size - at)) > 0);
	close(in);
	close(out);
	assert_int_equal(rename(fresh, to), 0);
}

static ino_t file_of(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_ino;
}

static ino_t executable_of(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%ld/exe", (long)pid);
	return file_of(path);
}

static void test_a_new_executable(void **state)
{
	char folder[] = "/tmp/gpuq-restart-XXXXXX", path[64];
	const char *gpuqd = getenv("GPUQ_TEST_GPUQD");
	struct client c;

	assert_non_null(gpuqd);
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/gpuqd", folder);
	install(gpuqd, path);
	setenv("GPUQ_TEST_GPUQD", path, 1);
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct gpuq *admin = administrator();
	client_open(&c, NULL);
	const ino_t first = executable_of(world_device_pid(daemon));
	/* One that does not even begin leaves all as it was. */
	install("/bin/false", path);
	assert_int_equal(gpuq_admin_restart(admin, 0, SECOND_NS), -GPUQ_EDEVICE);
	raw_await(world_device_pid(daemon) != 0);
	client_check_works(&c);
	assert_int_equal(executable_of(world_device_pid(daemon)), first);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(gpuq_admin_restart(admin, 0, SECOND_NS), -ENOENT);
	install(gpuqd, path);
	restart(admin, SECOND_NS);
	client_check_works(&c);
	assert_int_equal(executable_of(world_device_pid(daemon)), file_of(path));
	assert_true(file_of(path) != first);
	client_close(&c);
	gpuq_disconnect(admin);
	harness_daemon_destroy(daemon);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rmdir(folder), 0);
}

static void test_refusals(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct gpuq *admin = administrator();
	struct client c;

	client_open(&c, NULL);
	assert_int_equal(gpuq_admin_restart(c.g, 0, 0), -EPERM);
	assert_int_equal(gpuq_admin_restart(admin, 1, 0), -GPUQ_ENODEV);
	assert_int_equal(epoch_of(c.g), 1);
	client_close(&c);
	gpuq_disconnect(admin);
	harness_daemon_destroy(daemon);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST_LONG(test_again_and_again_under_load, 300),
		HARNESS_TEST_LONG(test_at_once_under_load, 300),
		HARNESS_TEST(test_endless_work_is_left),
		HARNESS_TEST(test_a_new_executable),
		HARNESS_TEST(test_refusals),
	};

	return harness_run("restart", tests, sizeof(tests) / sizeof(tests[0]));
}
