/* SPDX-License-Identifier: MIT */
/* test-end.c: how clients see gpuqd end: asked to, with work in flight; or killed. */
#include "tests/integration/children.h"
#include "tests/integration/client.h"
#include "tests/integration/world.h"

#include "shm/clock.h"

#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- Draining ------------------------------------------------------------------------------ */

#define DRAIN_CLIENTS 4u
#define DRAIN_ROUNDS 6u

/* Only the typed errors come, in their order, and the last one with gpuqd's own sentence. */
static void expect_end(struct client *c)
{
	const struct gpuq_submission s = {.user_data = 1};
	struct gpuq_completion done;
	int r;

	while ((r = gpuq_alive(c->g)) == -GPUQ_EDRAIN) {
		r = gpuq_submit(c->ch, &s, 1);
		assert_true(r == -GPUQ_EDRAIN || r == -GPUQ_EGONE);
		raw_pause();
	}
	assert_int_equal(r, -GPUQ_EGONE);
	assert_int_equal(gpuq_submit(c->ch, &s, 1), -GPUQ_EGONE);
	assert_int_equal(gpuq_poll(c->ch, &done, 1), -GPUQ_EGONE);
	if (strstr(gpuq_error_detail(), "told to end") == NULL)
		fail_msg("no goodbye: %s", gpuq_error_detail());
	assert_int_equal(gpuq_wait(c->ch, &done, 1, PATIENCE_NS), -GPUQ_EGONE);
}

static void drained_main(struct child *child)
{
	const struct gpuq_channel_options options = {
		.priority = child->number % 4, .arena_bytes = 32ull << 20};
	struct random rng = {child->seed};
	struct client c;
	struct load load;
	int r;

	client_open(&c, &options);
	/* Small jobs, or more than the workers can do. */
	load_create(&load, &c, JOB_KINDS, child->number % 2 == 0 ? 16 : 400, LOAD_MAX, &rng);
	load.may_drain = true;
	while ((r = load_submit(&load)) >= 0) {
		child_say_ready(child);
		assert_true(load_take(&load, PATIENCE_NS) > 0);
	}
	/* One that slept through the drain hears of the end. */
	assert_true(r == -GPUQ_EDRAIN || r == -GPUQ_EGONE);
	child->page->lost = gpuq_in_flight(c.ch);
	r = load_finish(&load);
	if (r < 0)
		fail_msg("%s, and %u in flight", gpuq_error_detail(), gpuq_in_flight(c.ch));
	child->page->completed = load.completed;
	child->page->refused = load.refused;
	expect_end(&c);
	load_destroy(&load);
	client_close(&c);
}

/* Counts the files in a folder whose names begin like this. */
static uint32_t count_files(const char *folder, const char *prefix)
{
	DIR *dir = opendir(folder);
	struct dirent *e;
	uint32_t n = 0;

	assert_non_null(dir);
	while ((e = readdir(dir)) != NULL)
		n += strncmp(e->d_name, prefix, strlen(prefix)) == 0;
	closedir(dir);
	return n;
}

static uint32_t count_statistics(const struct harness_daemon *daemon)
{
	char name[STATS_PATH_MAX];

	stats_name(daemon->socket, name, sizeof(name));
	return count_files("/dev/shm", name + 1);
}

static void drain_once(uint32_t round)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct child children[DRAIN_CLIENTS];

	for (uint32_t i = 0; i < DRAIN_CLIENTS; i++) {
		children[i] = (struct child){
			.run = drained_main, .number = i, .seed = round * DRAIN_CLIENTS + i};
		child_start(&children[i]);
		child_await_ready(&children[i]);
	}
	usleep(20000 + 1000 * round);
	assert_int_equal(harness_daemon_stop(daemon), 0);
	for (uint32_t i = 0; i < DRAIN_CLIENTS; i++) {
		const struct child_page *page = children[i].page;
		child_wait(&children[i]);
		print_message(
			"client %u: %llu completed, %llu in flight at the end, %llu refused\n", i,
			(unsigned long long)page->completed, (unsigned long long)page->lost,
			(unsigned long long)page->refused);
		child_free(&children[i]);
	}
	assert_int_equal(count_statistics(daemon), 0);
	assert_int_equal(count_files(harness_tmpdir(), "gpuq-"), 0);
	harness_daemon_destroy(daemon);
}

static void test_drain(void **state)
{
	for (uint32_t round = 0; round < DRAIN_ROUNDS; round++)
		drain_once(round);
}

/* --- A crash ------------------------------------------------------------------------------- */

enum { IN_WAIT, IN_POLL, IN_EVENT_LOOP, AT_SUBMIT, PLACES };

static const char *const place_names[PLACES] = {"wait", "poll", "event loop", "submit"};

/* Waits in poll(2), as an event loop does. */
static int event_loop(struct client *c)
{
	struct pollfd p = {.fd = gpuq_completion_fd(c->ch), .events = POLLIN};
	struct gpuq_completion done;

	assert_int_equal(gpuq_arm(c->ch), 0);
	assert_int_equal(poll(&p, 1, (int)(PATIENCE_NS / 1000000)), 1);
	assert_true((p.revents & POLLHUP) != 0);
	return gpuq_poll(c->ch, &done, 1);
}

static int notice(struct child *child, struct client *c)
{
	const struct gpuq_submission s = {.user_data = 2};
	struct gpuq_completion done;
	int r;

	switch (child->number) {
	case IN_WAIT:
		return gpuq_wait(c->ch, &done, 1, GPUQ_FOREVER);
	case IN_POLL:
		while ((r = gpuq_poll(c->ch, &done, 1)) == 0)
			continue;
		return r;
	case IN_EVENT_LOOP:
		return event_loop(c);
	default:
		while (shm_load_acquire_u32(&child->page->go) == 0)
			raw_pause();
		return gpuq_submit(c->ch, &s, 1);
	}
}

static void orphan_main(struct child *child)
{
	const struct gpuq_submission s = {.user_data = 1};
	struct random rng = {child->seed};
	struct client c;
	struct load load;

	client_open(&c, NULL);
	client_check_works(&c);
	child_say_ready(child);
	while (shm_load_acquire(&child->page->submitted) == 0)
		raw_pause();
	/* The device process is stopped: this stays in flight. */
	assert_int_equal(gpuq_submit(c.ch, &s, 1), 1);
	shm_store_release(&child->page->submitted, 2);
	child->page->status = notice(child, &c);
	child->page->noticed_ns = clock_monotonic_ns();
	assert_int_equal(gpuq_alive(c.g), -GPUQ_EGONE);
	client_close(&c);

	while (shm_load_acquire_u32(&child->page->go) < 2)
		raw_pause();
	client_open(&c, NULL);
	load_create(&load, &c, JOB_KINDS, 64, 16, &rng);
	assert_true(load_submit(&load) >= 0);
	assert_int_equal(load_finish(&load), 0);
	load_destroy(&load);
	client_close(&c);
}

static void tell_all(struct child *children, uint32_t go)
{
	for (uint32_t i = 0; i < PLACES; i++)
		shm_store_release_u32(&children[i].page->go, go);
}

/* A signal takes its time to reach the threads of another process. */
static bool is_stopped(pid_t pid)
{
	char path[300], status;
	bool stopped = true;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	DIR *dir = opendir(path);
	struct dirent *e;
	assert_non_null(dir);
	while ((e = readdir(dir)) != NULL) {
		snprintf(path, sizeof(path), "/proc/%d/task/%s/stat", (int)pid, e->d_name);
		FILE *f = e->d_name[0] != '.' ? fopen(path, "re") : NULL;
		if (f == NULL)
			continue;
		stopped = stopped && fscanf(f, "%*d (%*[^)]) %c", &status) == 1 && status == 'T';
		fclose(f);
	}
	closedir(dir);
	return stopped;
}

static void bring_into_place(struct child *children, pid_t device)
{
	for (uint32_t i = 0; i < PLACES; i++) {
		children[i] = (struct child){.run = orphan_main, .number = i, .seed = i};
		child_start(&children[i]);
		child_await_ready(&children[i]);
	}
	kill(device, SIGSTOP);
	raw_await(is_stopped(device));
	for (uint32_t i = 0; i < PLACES; i++)
		shm_store_release(&children[i].page->submitted, 1);
	for (uint32_t i = 0; i < PLACES; i++)
		raw_await(shm_load_acquire(&children[i].page->submitted) == 2);
	/* Long enough for the one that waits to fall asleep. */
	usleep(50000);
}

static void check_noticed(struct child *children, uint64_t killed_ns)
{
	for (uint32_t i = 0; i < PLACES; i++) {
		const struct child_page *page = children[i].page;
		raw_await(shm_load_acquire(&page->noticed_ns) != 0);
		print_message("in %s: after %.3f ms\n", place_names[i],
			(double)(page->noticed_ns - killed_ns) / 1e6);
		assert_int_equal(page->status, -GPUQ_EGONE);
	}
}

/* The statistics of a gpuqd that was killed stay readable. */
static void check_statistics(const struct harness_daemon *daemon, pid_t control)
{
	struct stats s = raw_stats(daemon);

	assert_int_equal(s.header->control_pid, control);
	assert_int_equal(s.header->clients, PLACES);
	stats_close(&s);
}

static void test_crash(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	pid_t control = daemon->pid, device = world_device_pid(daemon);
	struct child children[PLACES];

	bring_into_place(children, device);
	uint64_t killed_ns = clock_monotonic_ns();
	harness_daemon_kill(daemon);
	tell_all(children, 1);
	check_noticed(children, killed_ns);
	/* It has become this process's child. */
	assert_int_equal(waitpid(device, NULL, 0), device);
	check_statistics(daemon, control);
	harness_daemon_destroy(daemon);

	daemon = harness_daemon_start(NULL);
	tell_all(children, 2);
	for (uint32_t i = 0; i < PLACES; i++) {
		child_wait(&children[i]);
		child_free(&children[i]);
	}
	harness_daemon_destroy(daemon);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST_LONG(test_drain, 60),
		HARNESS_TEST(test_crash),
	};

	return harness_run("end", tests, sizeof(tests) / sizeof(tests[0]));
}
