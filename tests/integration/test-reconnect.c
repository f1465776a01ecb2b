/* SPDX-License-Identifier: MIT */
/*
 * test-reconnect.c: clients that outlive gpuqd: what they are told about what was in flight, and
 * how the same connection and channels work with the next gpuqd.
 */
#include "tests/integration/classify.h"
#include "tests/integration/client.h"
#include "tests/integration/world.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FATES_MAX 64u

static struct harness_daemon *start_again(struct harness_daemon *daemon)
{
	if (daemon->pid != 0)
		harness_daemon_kill(daemon);
	harness_daemon_destroy(daemon);
	return harness_daemon_start(NULL);
}

static void reconnect(struct gpuq *g)
{
	if (gpuq_reconnect(g, PATIENCE_NS) < 0)
		fail_msg("gpuq_reconnect: %s", gpuq_error_detail());
}

static void await_gone(const struct gpuq *g)
{
	raw_await(gpuq_alive(g) == -GPUQ_EGONE);
}

static bool thread_stopped(pid_t pid, const char *thread)
{
	char path[300], text[512];

	snprintf(path, sizeof(path), "/proc/%ld/task/%.200s/stat", (long)pid, thread);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return true; /* it has ended */
	const ssize_t n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	const char *end = strrchr(text, ')');
	return end != NULL && (end[2] == 'T' || end[2] == 't');
}

static bool all_stopped(pid_t pid)
{
	char path[64];
	struct dirent *e;
	bool stopped = true;

	snprintf(path, sizeof(path), "/proc/%ld/task", (long)pid);
	DIR *dir = opendir(path);
	assert_non_null(dir);
	while ((e = readdir(dir)) != NULL)
		stopped = stopped && (e->d_name[0] == '.' || thread_stopped(pid, e->d_name));
	closedir(dir);
	return stopped;
}

/* Its threads may go on for a moment, on other CPUs. */
static void stop_device(const struct harness_daemon *daemon)
{
	const pid_t pid = world_device_pid(daemon);

	assert_int_equal(kill(pid, SIGSTOP), 0);
	raw_await(all_stopped(pid));
}

static int run(struct gpuq_channel *ch, struct gpuq_call *call)
{
	const struct gpuq_submission s = {.call = call};
	struct gpuq_completion c;

	assert_int_equal(gpuq_submit(ch, &s, 1), 1);
	assert_int_equal(gpuq_wait(ch, &c, 1, PATIENCE_NS), 1);
	return c.status;
}

/* --- Reconnecting -------------------------------------------------------------------------- */

static void test_calls_go_on(void **state)
{
	const struct gpuq_channel_options options = {.priority = 2, .arena_bytes = 16ull << 20};
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct random rng = {1};
	struct client c;
	struct load load;
	char *text;

	client_open(&c, &options);
	assert_int_equal(gpuq_epoch(c.g), 1);
	assert_int_equal(gpuq_reconnect(c.g, 0), 0); /* nothing to do */
	assert_int_equal(gpuq_epoch(c.g), 1);
	assert_int_equal(gpuq_alloc(c.ch, 64, (void **)&text), 0);
	memcpy(text, "still here", sizeof("still here"));
	load_create(&load, &c, JOB_KINDS, 16, 12, &rng);
	const int fd = gpuq_completion_fd(c.ch);
	for (uint64_t epoch = 2; epoch <= 4; epoch++) {
		assert_true(load_submit(&load) >= 0);
		assert_int_equal(load_finish(&load), 0);
		daemon = start_again(daemon);
		await_gone(c.g);
		reconnect(c.g);
		assert_int_equal(gpuq_epoch(c.g), epoch);
		assert_int_equal(gpuq_alive(c.g), 0);
		assert_string_equal(text, "still here");
		assert_int_equal(gpuq_completion_fd(c.ch), fd);
	}
	assert_true(load_submit(&load) >= 0);
	assert_int_equal(load_finish(&load), 0);
	assert_int_equal(gpuq_free(c.ch, text), 0);
	/* A second channel, and the end, are those of any connection. */
	struct client other = {.g = c.g};
	assert_int_equal(gpuq_channel_open(c.g, NULL, &other.ch), 0);
	client_check_works(&other);
	gpuq_channel_close(other.ch);
	load_destroy(&load);
	client_close(&c);
	const struct world w = world_look(daemon);
	assert_int_equal(w.deaths, 0);
	harness_daemon_destroy(daemon);
}

static void test_what_cannot_come_back(void **state)
{
	const struct gpuq_buf_options some = {.bytes = 4096};
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct random rng = {2};
	struct gpuq_buf_export export;
	struct gpuq_buf *buf, *fresh;
	struct gpuq_call *copy, *call;
	struct gpuq_pipeline *pipeline, *after;
	struct classify job;
	struct client c;
	void *data;
	float *x;

	client_open(&c, NULL);
	assert_int_equal(gpuq_buf_alloc(c.g, &some, &buf), 0);
	assert_int_equal(gpuq_alloc(c.ch, 4096, &data), 0);
	assert_int_equal(gpuq_buf_copy_create(c.ch, buf, 0, data, 4096, GPUQ_TO_BUFFER, &copy), 0);
	assert_int_equal(gpuq_alloc(c.ch, 64, (void **)&x), 0);
	memset(x, 0, 64);
	const struct gpuq_tensor in = {.buffer = buf, .dtype = GPUQ_F32, .rank = 1, .dims = {16}};
	const struct gpuq_tensor out = {.data = x, .dtype = GPUQ_F32, .rank = 1, .dims = {16}};
	assert_int_equal(gpuq_call_create(c.ch, "softmax", &in, 1, &out, 1, NULL, 0, &call), 0);
	pipeline = classify_register(c.g, "before");
	classify_create(&job, c.ch, pipeline, 4, 16, 8);
	assert_int_equal(run(c.ch, copy), 0);
	assert_int_equal(run(c.ch, call), 0);
	classify_run(&job, &rng);

	daemon = start_again(daemon);
	await_gone(c.g);
	reconnect(c.g);
	/* Another buffer, or pipeline, may well get the same handle: it is not theirs. */
	after = classify_register(c.g, "after");
	assert_int_equal(gpuq_buf_alloc(c.g, &some, &fresh), 0);
	assert_int_equal(gpuq_buf_handle(fresh), gpuq_buf_handle(buf));
	assert_int_equal(run(c.ch, copy), -GPUQ_EBUFFER);
	assert_int_equal(run(c.ch, call), -GPUQ_EBUFFER);
	assert_int_equal(gpuq_buf_grant(buf, (uint32_t)getpid()), -GPUQ_ELOST);
	assert_int_equal(gpuq_buf_export(buf, &export), -GPUQ_ELOST);
	assert_int_equal(gpuq_buf_read(c.ch, buf, 0, data, 64), -GPUQ_ELOST);
	gpuq_buf_free(buf);
	assert_int_equal(gpuq_buf_read(c.ch, fresh, 0, data, 64), 0);
	classify_fill(&job, &rng);
	classify_submit(&job, 9);
	assert_int_equal(classify_wait(c.ch).status, -GPUQ_EPIPELINE);
	classify_destroy(&job);
	gpuq_pipeline_destroy(pipeline);
	classify_create(&job, c.ch, after, 4, 16, 8);
	classify_run(&job, &rng);
	classify_destroy(&job);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

static void test_nobody_comes(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	const struct gpuq_submission s = {.user_data = 1};
	struct client c;

	client_open(&c, NULL);
	harness_daemon_kill(daemon);
	await_gone(c.g);
	const int r = gpuq_reconnect(c.g, SECOND_NS / 20);
	assert_true(r == -ENOENT || r == -ECONNREFUSED || r == -GPUQ_EGONE);
	assert_int_equal(gpuq_submit(c.ch, &s, 1), -GPUQ_EGONE);
	daemon = start_again(daemon);
	reconnect(c.g);
	client_check_works(&c);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

static void test_by_itself(void **state)
{
	const struct gpuq_options options = {.reconnect = true};
	const struct gpuq_submission s = {.user_data = 7};
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct gpuq_completion done;
	struct client c;

	assert_int_equal(gpuq_connect(&options, &c.g), 0);
	assert_int_equal(gpuq_channel_open(c.g, NULL, &c.ch), 0);
	client_check_works(&c);
	/* What was in flight is to be heard of first. */
	stop_device(daemon);
	assert_int_equal(gpuq_submit(c.ch, &s, 1), 1);
	daemon = start_again(daemon);
	await_gone(c.g);
	assert_int_equal(gpuq_submit(c.ch, &s, 1), -GPUQ_EGONE);
	assert_int_equal(gpuq_poll(c.ch, &done, 1), -GPUQ_EGONE);
	client_check_works(&c);
	assert_int_equal(gpuq_epoch(c.g), 2);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

/* A thread reconnects while another one uses a channel of the same connection. */
struct other {
	struct gpuq *g;
	struct client c;
	uint32_t ready, ended;
};

static void *other_main(void *arg)
{
	struct other *o = arg;
	const struct gpuq_submission s = {.user_data = 3};
	struct gpuq_completion done;
	int r = 0;

	o->c.g = o->g;
	assert_int_equal(gpuq_channel_open(o->g, NULL, &o->c.ch), 0);
	shm_store_release_u32(&o->ready, 1);
	while (r >= 0) {
		r = gpuq_submit(o->c.ch, &s, 1);
		if (r > 0)
			r = gpuq_wait(o->c.ch, &done, 1, PATIENCE_NS);
	}
	assert_int_equal(r, -GPUQ_EGONE);
	reconnect(o->g);
	client_check_works(&o->c);
	gpuq_channel_close(o->c.ch);
	return NULL;
}

static void test_threads(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct other o = {0};
	pthread_t thread;
	struct client c;

	client_open(&c, NULL);
	o.g = c.g;
	for (uint64_t epoch = 2; epoch <= 3; epoch++) {
		o.ready = 0;
		assert_int_equal(pthread_create(&thread, NULL, other_main, &o), 0);
		raw_await(shm_load_acquire_u32(&o.ready) != 0);
		daemon = start_again(daemon);
		/* Whoever is first does it. */
		reconnect(c.g);
		client_check_works(&c);
		assert_int_equal(pthread_join(thread, NULL), 0);
		assert_int_equal(gpuq_epoch(c.g), epoch);
	}
	client_close(&c);
	harness_daemon_destroy(daemon);
}

/* --- Fates --------------------------------------------------------------------------------- */

static uint64_t consumed_by(const struct harness_daemon *daemon)
{
	struct stats s = raw_stats(daemon);
	const uint64_t n = shm_load_relaxed(&s.devices[0].consumed);

	stats_close(&s);
	return n;
}

/* One of each: completed and unread, accepted and endless, and not even looked at. */
static void test_fates(void **state)
{
	static const char *const args[] = {"--test-faults", "work:1+=HANG", NULL};
	const struct gpuq_channel_options options = {.arena_bytes = 4ull << 20};
	struct harness_daemon *daemon = harness_daemon_start(args);
	const struct gpuq_submission early = {.user_data = 10}, late = {.user_data = 30};
	struct gpuq_overtaken told[FATES_MAX];
	struct gpuq_completion done;
	struct random rng = {4};
	struct job job;
	struct client c;

	client_open(&c, &options);
	job_create(&job, c.ch, JOB_GEMV, 400, &rng);
	assert_int_equal(gpuq_fates(c.ch, told, FATES_MAX), -EBUSY);
	const struct gpuq_submission endless = {.call = job.call, .user_data = 20};
	assert_int_equal(gpuq_submit(c.ch, &early, 1), 1);
	assert_int_equal(gpuq_submit(c.ch, &endless, 1), 1);
	raw_await(consumed_by(daemon) == 2);
	stop_device(daemon);
	assert_int_equal(gpuq_submit(c.ch, &late, 1), 1);
	assert_int_equal(gpuq_submit(c.ch, &late, 1), 1);
	harness_daemon_kill(daemon);
	await_gone(c.g);
	assert_int_equal(gpuq_wait(c.ch, &done, 1, PATIENCE_NS), 1);
	assert_int_equal(done.user_data, 10);
	assert_int_equal(gpuq_fate(&done), GPUQ_COMPLETED);
	assert_int_equal(gpuq_wait(c.ch, &done, 1, PATIENCE_NS), -GPUQ_EGONE);
	/* Told once, also when another gpuqd has come meanwhile. */
	assert_int_equal(gpuq_fates(c.ch, told, 1), 1);
	assert_int_equal(told[0].user_data, 20);
	assert_int_equal(told[0].fate, GPUQ_UNKNOWN);
	daemon = start_again(daemon);
	reconnect(c.g);
	assert_int_equal(gpuq_fates(c.ch, told, FATES_MAX), 2);
	for (uint32_t i = 0; i < 2; i++) {
		assert_int_equal(told[i].user_data, 30);
		assert_int_equal(told[i].fate, GPUQ_NEVER_STARTED);
	}
	assert_int_equal(gpuq_fates(c.ch, told, FATES_MAX), 0);
	/* Here it ends. */
	assert_int_equal(run(c.ch, job.call), 0);
	job_check(&job);
	job_destroy(&job);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

/* Those that gpuq_poll() had not seen when the end came. */
static void test_fates_without_a_poll(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	const struct gpuq_submission s = {.user_data = 40};
	struct gpuq_overtaken told[FATES_MAX];
	struct gpuq_completion done[FATES_MAX];
	struct client c;

	client_open(&c, NULL);
	for (uint32_t i = 0; i < 5; i++)
		assert_int_equal(gpuq_submit(c.ch, &s, 1), 1);
	raw_await(consumed_by(daemon) == 5);
	daemon = start_again(daemon);
	/* They have completed: that is not forgotten. */
	reconnect(c.g);
	assert_int_equal(gpuq_fates(c.ch, told, FATES_MAX), 0);
	assert_int_equal(gpuq_poll(c.ch, done, FATES_MAX), 5);
	for (uint32_t i = 0; i < 5; i++)
		assert_int_equal(done[i].user_data, 40);
	client_check_works(&c);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

/* Of what the device process leaves, its successor tells whether it had started. */
static void test_fates_of_a_device(void **state)
{
	static const char *const args[] = {"--test-faults", "work:1+=HANG", NULL};
	const struct gpuq_channel_options options = {.sq_entries = 1024, .arena_bytes = 4ull << 20};
	struct harness_daemon *daemon = harness_daemon_start(args);
	const pid_t pid = world_device_pid(daemon);
	struct gpuq_completion done;
	struct random rng = {5};
	uint32_t n = 512, untouched = 0;
	struct job job;
	struct client c;

	client_open(&c, &options);
	job_create(&job, c.ch, JOB_GEMV, 400, &rng);
	for (uint32_t i = 0; i < n; i++) {
		const struct gpuq_submission s = {.call = job.call, .user_data = i};
		assert_int_equal(gpuq_submit(c.ch, &s, 1), 1);
	}
	raw_await(consumed_by(daemon) == n);
	assert_int_equal(kill(pid, SIGKILL), 0);
	for (uint32_t i = 0; i < n; i++) {
		assert_int_equal(gpuq_wait(c.ch, &done, 1, PATIENCE_NS), 1);
		assert_int_equal(done.status, -GPUQ_EDEVICE);
		if (done.user_data == 0)
			assert_int_equal(gpuq_fate(&done), GPUQ_UNKNOWN);
		untouched += gpuq_fate(&done) == GPUQ_NEVER_STARTED;
	}
	/* The device has no room for so many. */
	assert_true(untouched > n / 4);
	job_destroy(&job);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST_LONG(test_calls_go_on, 60),
		HARNESS_TEST_LONG(test_what_cannot_come_back, 60),
		HARNESS_TEST_LONG(test_nobody_comes, 60),
		HARNESS_TEST_LONG(test_by_itself, 60),
		HARNESS_TEST_LONG(test_threads, 60),
		HARNESS_TEST_LONG(test_fates, 60),
		HARNESS_TEST_LONG(test_fates_without_a_poll, 60),
		HARNESS_TEST_LONG(test_fates_of_a_device, 60),
	};

	return harness_run("reconnect", tests, sizeof(tests) / sizeof(tests[0]));
}
