/* SPDX-License-Identifier: MIT */
/* Device processes end in all kinds of ways; the control process and its clients go on. */
#include "tests/daemon/raw.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static bool device_serves(const struct stats *stats, uint64_t epoch)
{
	return stats->devices[0].epoch == epoch && stats->devices[0].state == STATS_DEVICE_READY;
}

static void kill_device(const struct stats *stats, int signal)
{
	assert_true(stats->devices[0].pid > 1);
	assert_int_equal(kill((pid_t)stats->devices[0].pid, signal), 0);
}

/* The only child of a process: the device process, when no statistics name it. */
static pid_t child_of(pid_t parent)
{
	char path[64], text[64] = "";

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)parent, (int)parent);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		harness_skip("%s cannot be read", path);
	assert_true(read(fd, text, sizeof(text) - 1) > 0);
	close(fd);
	pid_t child = (pid_t)strtol(text, NULL, 10);
	assert_true(child > 1);
	return child;
}

static uint64_t query_epoch(int fd)
{
	struct msg_query q = {0};
	struct raw_answer a;

	raw_send(fd, &q, MSG_DEVICE_QUERY, sizeof(q), 8);
	assert_true(raw_receive(fd, &a));
	assert_int_equal(a.h.type, MSG_DEVICE);
	return a.device.epoch;
}

static void close_channel(int fd, const struct raw_answer *opened)
{
	struct msg_close close_it = {
		.channel = opened->opened.channel, .generation = opened->opened.generation};
	struct raw_answer a;

	raw_send(fd, &close_it, MSG_CLOSE, sizeof(close_it), 90);
	assert_true(raw_receive(fd, &a));
	assert_int_equal(a.h.type, MSG_CLOSED);
}

/* Clients keep their connections and their channels, and see a new epoch. */
static void test_device_killed(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct stats stats = raw_stats(d);
	const struct msg_open open = raw_open(4096);
	struct msg_hello hello = raw_hello(1, 2);
	struct raw_answer welcome, first, second;
	int fd = raw_connect(d->socket);

	raw_send(fd, &hello, MSG_HELLO, sizeof(hello), 1);
	assert_true(raw_receive(fd, &welcome));
	raw_send_bare(fd, MSG_ACK, 0);
	const struct wire_page *page =
		mmap(NULL, WIRE_PAGE_SIZE, PROT_READ, MAP_SHARED, welcome.fds[0], 0);
	assert_ptr_not_equal(page, MAP_FAILED);
	raw_close_fds(&welcome);
	raw_open_channel(fd, &open, &first);
	raw_close_fds(&first);

	for (uint64_t epoch = 2; epoch <= 3; epoch++) {
		kill_device(&stats, epoch == 2 ? SIGKILL : SIGSEGV);
		raw_await(device_serves(&stats, epoch));
		assert_int_equal(page->devices[0].epoch, epoch);
		assert_int_equal(query_epoch(fd), epoch);
	}
	/* A request that comes while there is none waits for the next one. */
	kill_device(&stats, SIGKILL);
	raw_open_channel(fd, &open, &second);
	raw_close_fds(&second);
	assert_int_equal(stats.header->device_restarts, 3);
	assert_int_equal(stats.header->deaths, 0);
	assert_int_equal(page->state, WIRE_SERVING);
	assert_int_not_equal(first.opened.channel, second.opened.channel);
	close_channel(fd, &first);
	close_channel(fd, &second);
	munmap((void *)page, WIRE_PAGE_SIZE);
	close(fd);
	stats_close(&stats);
	harness_daemon_destroy(d);
}

/* What the dead one was asked for, its successor is asked for again. */
static void test_device_killed_with_requests_open(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct stats stats = raw_stats(d);
	struct msg_open open = raw_open(4096);
	int fd = raw_client(d->socket), other = raw_client(d->socket), third;
	struct raw_answer a, opened;

	raw_open_channel(fd, &open, &opened);
	raw_close_fds(&opened);
	third = raw_client(d->socket);
	raw_open_plain(third);

	kill_device(&stats, SIGSTOP);
	struct msg_close close_it = {
		.channel = opened.opened.channel, .generation = opened.opened.generation};
	raw_send(fd, &close_it, MSG_CLOSE, sizeof(close_it), 90);
	raw_send(other, &open, MSG_OPEN, sizeof(open), 91);
	close(third);
	raw_await(stats.channels[close_it.channel].state == STATS_CHANNEL_CLOSING);
	raw_await(stats.header->channels == 3 && stats.header->clients == 2);
	kill_device(&stats, SIGKILL);
	assert_true(raw_receive(fd, &a));
	assert_int_equal(a.h.type, MSG_CLOSED);
	assert_int_equal(a.h.serial, 90);
	assert_true(raw_receive(other, &a));
	assert_int_equal(a.h.type, MSG_OPENED);
	assert_int_equal(a.h.serial, 91);
	raw_close_fds(&a);
	raw_await(stats.header->channels == 1);
	close(fd);
	close(other);
	stats_close(&stats);
	harness_daemon_destroy(d);
}

/* Channels of the clients that are connected; those of clients that have gone do not count. */
static uint64_t live_channels(const struct stats *stats)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < stats->header->max_clients; i++) {
		if (shm_load_acquire_u32(&stats->clients[i].state) == STATS_CLIENT_CONNECTED)
			n += shm_load_relaxed(&stats->clients[i].channels);
	}
	return n;
}

/* A client asks, does not wait, and is gone; its channel comes back by itself. */
static void test_client_gone_while_it_opens(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct stats stats = raw_stats(d);
	struct msg_open open = raw_open(4096);
	uint32_t fds = raw_count_fds(d->pid);

	kill_device(&stats, SIGSTOP);
	for (int i = 0; i < 8; i++) {
		int fd = raw_client(d->socket);
		raw_send(fd, &open, MSG_OPEN, sizeof(open), 1);
		/* Gone while its pages are allocated, or while the device process is asked. */
		if (i % 2 == 0)
			raw_await(live_channels(&stats) == 1);
		close(fd);
		raw_await(stats.header->clients == 0);
	}
	kill_device(&stats, SIGCONT);
	raw_await(stats.header->channels == 0);
	assert_int_equal(stats.header->segment_bytes, 0);
	raw_await(raw_count_fds(d->pid) == fds);
	stats_close(&stats);
	harness_daemon_destroy(d);
}

enum damage { CUT, CUT_AND_MADE_LONG, OVERWRITTEN, REMOVED, TAKEN_BY_A_STRANGER, DAMAGES };

static void damage(const struct harness_daemon *d, enum damage how)
{
	static const char garbage[64] = "garbage";
	char name[STATS_PATH_MAX];
	struct stat st;

	stats_name(d->socket, name, sizeof(name));
	int fd = shm_open(name, O_RDWR | O_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	if (how == CUT)
		assert_int_equal(ftruncate(fd, 0), 0);
	if (how == CUT_AND_MADE_LONG)
		assert_int_equal(ftruncate(fd, sizeof(struct stats_header)), 0);
	if (how == CUT_AND_MADE_LONG)
		assert_int_equal(ftruncate(fd, st.st_size), 0);
	if (how == OVERWRITTEN)
		assert_int_equal(pwrite(fd, garbage, sizeof(garbage), 0), sizeof(garbage));
	close(fd);
	if (how == REMOVED || how == TAKEN_BY_A_STRANGER)
		assert_int_equal(shm_unlink(name), 0);
	if (how != TAKEN_BY_A_STRANGER)
		return;
	fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(fchown(fd, 65534, 65534), 0);
	close(fd);
}

static pid_t device_pid(const struct harness_daemon *d)
{
	struct stats stats = raw_stats(d);
	pid_t pid = (pid_t)stats.devices[0].pid;

	stats_close(&stats);
	return pid;
}

/* The statistics can be read and the device of this epoch serves. */
static bool shows_epoch(const struct harness_daemon *d, uint64_t epoch)
{
	struct stats stats;

	if (stats_open(d->socket, false, &stats) < 0)
		return false;
	bool serves = device_serves(&stats, epoch);
	stats_close(&stats);
	return serves;
}

/* Everything that was there before shows again. */
static void expect_records(const struct harness_daemon *d, const struct raw_answer *opened)
{
	struct stats stats = raw_stats(d);
	const struct stats_channel *channel = &stats.channels[opened->opened.channel];
	const struct stats_client *client = &stats.clients[channel->client];

	assert_int_equal(stats.header->control_pid, d->pid);
	assert_int_equal(stats.header->state, WIRE_SERVING);
	assert_true(stats.header->heartbeat_ns > 0 && stats.header->started_realtime_ns > 0);
	assert_string_equal(stats.header->socket_path, d->socket);
	assert_int_equal(stats.header->clients, 1);
	assert_int_equal(stats.header->channels, 1);
	assert_int_equal(stats.header->segment_bytes, opened->opened.segment_bytes);
	assert_true(stats.devices[0].name[0] != '\0');
	assert_int_equal(stats.ops[0].state, 1);
	assert_int_equal(channel->state, STATS_CHANNEL_OPEN);
	assert_int_equal(channel->generation, opened->opened.generation);
	assert_int_equal(channel->sq_entries, 16);
	assert_int_equal(client->state, STATS_CLIENT_CONNECTED);
	assert_int_equal(client->pid, getpid());
	assert_int_equal(client->generation, channel->client_generation);
	assert_string_equal(client->name, "raw");
	assert_int_equal(client->channels, 1);
	assert_int_equal(client->segment_bytes, opened->opened.segment_bytes);
	stats_close(&stats);
}

/* Damaged statistics do not keep the next device process from starting: they are made anew. */
static void test_damaged_statistics(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	const struct msg_open open = raw_open(4096);
	int fd = raw_client(d->socket);
	struct raw_answer opened;

	raw_open_channel(fd, &open, &opened);
	raw_close_fds(&opened);
	for (enum damage how = CUT; how <= REMOVED; how++) {
		uint64_t epoch = 2 + (uint64_t)(how - CUT);
		pid_t device = device_pid(d);

		print_message("damage %d\n", how);
		damage(d, how);
		assert_int_equal(kill(device, SIGKILL), 0);
		raw_await(shows_epoch(d, epoch));
		assert_int_equal(query_epoch(fd), epoch);
		expect_records(d, &opened);
	}
	close_channel(fd, &opened);
	raw_open_plain(fd);
	close(fd);
	struct stats stats = raw_stats(d);
	raw_await(stats.header->channels == 0 && stats.header->clients == 0);
	stats_close(&stats);
	harness_daemon_destroy(d);
}

/* Where they cannot be made anew gpuqd works without readers, until they can. */
static void test_statistics_that_cannot_be_made(void **state)
{
	char name[STATS_PATH_MAX];
	struct stats stats;

	if (geteuid() != 0)
		harness_skip("only root can give a file away");
	struct harness_daemon *d = harness_daemon_start(NULL);
	int fd = raw_client(d->socket);
	pid_t first = device_pid(d);

	damage(d, TAKEN_BY_A_STRANGER);
	assert_int_equal(kill(first, SIGKILL), 0);
	raw_await(query_epoch(fd) == 2);
	raw_open_plain(fd); /* answered by the second device process */
	assert_true(stats_open(d->socket, false, &stats) < 0);
	stats_name(d->socket, name, sizeof(name));
	assert_int_equal(shm_unlink(name), 0);
	pid_t second = child_of(d->pid);
	assert_int_equal(kill(second, SIGKILL), 0);
	raw_await(shows_epoch(d, 3));
	close(fd);
	harness_daemon_destroy(d);
}

/* More is owed to the device process than its socket holds. */
static void test_many_channels_change_hands(void **state)
{
	enum { CLIENTS = 3, CHANNELS = 50 };
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct stats stats = raw_stats(d);
	int fds[CLIENTS];

	for (int i = 0; i < CLIENTS; i++) {
		fds[i] = raw_client(d->socket);
		for (int k = 0; k < CHANNELS; k++)
			raw_open_plain(fds[i]);
	}
	kill_device(&stats, SIGKILL);
	raw_await(device_serves(&stats, 2));
	kill_device(&stats, SIGSTOP);
	for (int i = 0; i < CLIENTS; i++)
		close(fds[i]);
	raw_await(stats.header->clients == 0);
	assert_int_equal(stats.header->channels, CLIENTS * CHANNELS);
	kill_device(&stats, SIGCONT);
	raw_await(stats.header->channels == 0);
	stats_close(&stats);
	harness_daemon_destroy(d);
}

/* One that dies again and again is not worth starting: everybody is told, and gpuqd fails. */
static void test_hopeless_device(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct stats stats = raw_stats(d);
	int fd = raw_client(d->socket), status;
	struct raw_answer a;

	for (uint64_t epoch = 1; epoch <= 5; epoch++) {
		raw_await(device_serves(&stats, epoch));
		kill_device(&stats, SIGKILL);
	}
	assert_true(raw_receive(fd, &a));
	assert_int_equal(a.h.type, MSG_GOODBYE);
	assert_int_equal(a.goodbye.status, -GPUQ_EDEVICE);
	assert_int_equal(waitpid(d->pid, &status, 0), d->pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
	d->pid = 0;
	close(fd);
	stats_close(&stats);
	harness_daemon_destroy(d);
}

/* No device process survives its control process, however that ends. */
static void test_control_process_killed(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct stats stats = raw_stats(d);
	char path[64];

	snprintf(path, sizeof(path), "/proc/%u/exe", stats.devices[0].pid);
	assert_int_equal(access(path, F_OK), 0);
	harness_daemon_kill(d);
	raw_await(access(path, F_OK) < 0);
	stats_close(&stats);
	harness_daemon_destroy(d);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_device_killed),
		HARNESS_TEST(test_device_killed_with_requests_open),
		HARNESS_TEST(test_client_gone_while_it_opens),
		HARNESS_TEST(test_damaged_statistics),
		HARNESS_TEST(test_statistics_that_cannot_be_made),
		HARNESS_TEST(test_many_channels_change_hands),
		HARNESS_TEST(test_hopeless_device),
		HARNESS_TEST(test_control_process_killed),
	};

	return harness_run("daemon-restart", tests, sizeof(tests) / sizeof(tests[0]));
}
