/* SPDX-License-Identifier: MIT */
/* Opening and closing channels: what a client gets, what it may not have, what comes back. */
#include "tests/daemon/raw.h"

#include "shm/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

static void check_header(const struct raw_answer *a, uint64_t start)
{
	const struct wire_layout l = wire_layout(16, 32, 10000);
	struct wire_header *h;
	void *base;

	assert_int_equal(a->opened.segment_bytes, l.segment_bytes);
	assert_int_equal(segment_map(a->fds[0], l.segment_bytes, true, &base), 0);
	h = base;
	assert_int_equal(h->magic, WIRE_MAGIC);
	assert_int_equal(h->abi, WIRE_ABI);
	assert_int_equal(h->segment_bytes, l.segment_bytes);
	assert_int_equal(h->sq_entries, 16);
	assert_int_equal(h->cq_entries, 32);
	assert_int_equal(h->sqe_offset, l.sqe_offset);
	assert_int_equal(h->cqe_offset, l.cqe_offset);
	assert_int_equal(h->arena_offset, l.arena_offset);
	assert_int_equal(h->arena_bytes, 10000);
	assert_int_equal(h->channel, a->opened.channel);
	assert_int_equal(h->generation, a->opened.generation);
	assert_true(h->start == start);
	const struct wire_ring *sq = (void *)((char *)base + WIRE_SQ_RING);
	const struct wire_ring *cq = (void *)((char *)base + WIRE_CQ_RING);
	assert_true(sq->prod == start && sq->cons == start);
	assert_true(cq->prod == start && cq->cons == start);
	memset((char *)base + l.arena_offset, 0x5a, 10000);
	munmap(base, l.segment_bytes);
}

static void test_open(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct stats stats = raw_stats(d);
	const struct msg_open open = raw_open(10000);
	int fd = raw_client(d->socket);
	struct raw_answer a;
	struct stat st;

	raw_open_channel(fd, &open, &a);
	assert_int_equal(a.opened.sq_entries, 16);
	assert_int_equal(a.opened.cq_entries, 32);
	assert_int_equal(a.opened.arena_bytes, 10000);
	check_header(&a, 0);
	assert_int_equal(fcntl(a.fds[0], F_GET_SEALS) & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL),
		F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	assert_true((fcntl(a.fds[1], F_GETFL) & O_NONBLOCK) != 0);
	assert_int_equal(fstat(a.fds[2], &st), 0);
	assert_true(S_ISFIFO(st.st_mode));
	assert_int_equal(fcntl(a.fds[2], F_GETFL) & O_ACCMODE, O_RDONLY);

	const struct stats_channel *record = &stats.channels[a.opened.channel];
	assert_int_equal(record->state, STATS_CHANNEL_OPEN);
	assert_int_equal(record->generation, a.opened.generation);
	assert_int_equal(record->sq_entries, 16);
	assert_int_equal(record->arena_bytes, 10000);
	assert_int_equal(stats.header->channels, 1);
	assert_int_equal(stats.header->segment_bytes, a.opened.segment_bytes);
	assert_int_equal(stats.clients[record->client].channels, 1);
	assert_int_equal(stats.clients[record->client].segment_bytes, a.opened.segment_bytes);
	raw_close_fds(&a);
	close(fd);
	stats_close(&stats);
	harness_daemon_destroy(d);
}

static void close_channel(int fd, uint32_t channel, uint32_t generation)
{
	struct msg_close close_it = {.channel = channel, .generation = generation};
	struct raw_answer a;

	raw_send(fd, &close_it, MSG_CLOSE, sizeof(close_it), 90);
	assert_true(raw_receive(fd, &a));
	assert_int_equal(a.h.type, MSG_CLOSED);
	assert_int_equal(a.h.serial, 90);
	assert_int_equal(a.closed.channel, channel);
	assert_int_equal(a.closed.generation, generation);
}

/* A descriptor that somebody keeps holds no memory. */
static void test_close_gives_memory_back(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct stats stats = raw_stats(d);
	const struct msg_open open = raw_open(1 << 20);
	int fd = raw_client(d->socket);
	uint32_t fds = raw_count_fds(d->pid);
	struct raw_answer a;
	struct stat st;

	raw_open_channel(fd, &open, &a);
	assert_int_equal(fstat(a.fds[0], &st), 0);
	assert_true(st.st_blocks * 512 >= 1 << 20);
	close_channel(fd, a.opened.channel, a.opened.generation);
	assert_int_equal(fstat(a.fds[0], &st), 0);
	assert_int_equal(st.st_blocks, 0);
	assert_int_equal(stats.channels[a.opened.channel].state, STATS_CHANNEL_CLOSED);
	assert_int_equal(stats.header->channels, 0);
	assert_int_equal(stats.header->segment_bytes, 0);
	assert_int_equal(raw_count_fds(d->pid), fds);

	/* The bell has lost its other end. */
	assert_false(bell_drain_pipe(a.fds[2]));
	raw_close_fds(&a);
	close(fd);
	stats_close(&stats);
	harness_daemon_destroy(d);
}

static void test_close_of_others(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	const struct msg_open open = raw_open(4096);
	int mine = raw_client(d->socket), other = raw_client(d->socket);
	struct raw_answer a;
	struct msg_close close_it;

	raw_open_channel(other, &open, &a);
	raw_close_fds(&a);
	const struct msg_close wrong[] = {
		{.channel = a.opened.channel, .generation = a.opened.generation},
		{.channel = 4000000000u},
		{.channel = a.opened.channel + 1},
	};
	for (size_t i = 0; i < 3; i++) {
		close_it = wrong[i];
		raw_send(mine, &close_it, MSG_CLOSE, sizeof(close_it), 1);
		raw_expect_error(mine, -EINVAL, "is not open in this connection");
	}
	close_it = wrong[0];
	close_it.generation++;
	raw_send(other, &close_it, MSG_CLOSE, sizeof(close_it), 1);
	raw_expect_error(other, -EINVAL, "is not open in this connection");
	close_channel(other, a.opened.channel, a.opened.generation);
	close(mine);
	close(other);
	harness_daemon_destroy(d);
}

/* A record is used again with another generation, so a late message finds nobody. */
static void test_generations_differ(void **state)
{
	const char *const args[] = {"--max-channels", "1", NULL};
	struct harness_daemon *d = harness_daemon_start(args);
	const struct msg_open open = raw_open(4096);
	int fd = raw_client(d->socket);
	struct raw_answer a, b;

	raw_open_channel(fd, &open, &a);
	raw_close_fds(&a);
	close_channel(fd, a.opened.channel, a.opened.generation);
	raw_open_channel(fd, &open, &b);
	raw_close_fds(&b);
	assert_int_equal(a.opened.channel, b.opened.channel);
	assert_int_not_equal(a.opened.generation, b.opened.generation);
	close(fd);
	harness_daemon_destroy(d);
}

static void test_wrong_requests(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	static const struct {
		struct msg_open m;
		int status;
	} cases[] = {
		{{.sq_entries = 0, .cq_entries = 32}, -EINVAL},
		{{.sq_entries = 4, .cq_entries = 32}, -EINVAL},
		{{.sq_entries = 24, .cq_entries = 32}, -EINVAL},
		{{.sq_entries = 16, .cq_entries = 33}, -EINVAL},
		{{.sq_entries = 32, .cq_entries = 16}, -EINVAL},
		{{.sq_entries = 16, .cq_entries = 8192}, -EINVAL},
		{{.sq_entries = 0x80000000u, .cq_entries = 0x80000000u}, -EINVAL},
		{{.sq_entries = 16, .cq_entries = 16, .priority = 4}, -EINVAL},
		{{.sq_entries = 16, .cq_entries = 16, .flags = 1}, -EINVAL},
		{{.sq_entries = 16, .cq_entries = 16, .reserved = 1}, -EINVAL},
		{{.sq_entries = 16, .cq_entries = 16, .device = 1}, -GPUQ_ENODEV},
		{{.sq_entries = 16, .cq_entries = 16, .arena_bytes = UINT64_MAX}, -GPUQ_ELIMIT},
		{{.sq_entries = 16, .cq_entries = 16, .arena_bytes = WIRE_MAX_ARENA}, -GPUQ_ELIMIT},
	};
	int fd = raw_client(d->socket);

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct msg_open m = cases[i].m;
		raw_send(fd, &m, MSG_OPEN, sizeof(m), 3);
		raw_expect_error(fd, cases[i].status, "");
	}
	raw_open_plain(fd);
	close(fd);
	harness_daemon_destroy(d);
}

static void refuse_open(int fd, uint64_t arena_bytes, const char *limit)
{
	struct msg_open m = raw_open(arena_bytes);

	raw_send(fd, &m, MSG_OPEN, sizeof(m), 3);
	raw_expect_error(fd, -GPUQ_ELIMIT, limit);
}

static void test_limits_of_a_client(void **state)
{
	const char *const args[] = {"--max-channels-per-client", "2", "--max-arena-bytes", "1M",
		"--max-client-bytes", "1536K", NULL};
	struct harness_daemon *d = harness_daemon_start(args);
	const struct msg_open big = raw_open(1 << 20), small = raw_open(0);
	int fd = raw_client(d->socket);
	struct raw_answer a;

	refuse_open(fd, (1 << 20) + 1, "max_arena_bytes (1048576)");
	raw_open_channel(fd, &big, &a);
	raw_close_fds(&a);
	refuse_open(fd, 1 << 20, "max_client_bytes (1572864)");
	raw_open_channel(fd, &small, &a);
	raw_close_fds(&a);
	refuse_open(fd, 0, "max_channels_per_client (2)");
	close_channel(fd, a.opened.channel, a.opened.generation);
	raw_open_plain(fd);
	close(fd);
	harness_daemon_destroy(d);
}

static void test_limits_of_all(void **state)
{
	const char *const args[] = {"--max-channels", "3", "--max-total-bytes", "2M",
		"--max-user-bytes", "4M", "--max-clients", "3", NULL};
	struct harness_daemon *d = harness_daemon_start(args);
	const struct msg_open big = raw_open(1 << 20);
	char admin[256];
	struct raw_answer a;
	int fds[3];

	for (int i = 0; i < 3; i++)
		fds[i] = raw_client(d->socket);
	int fourth = raw_connect(d->socket);
	raw_expect_error(fourth, -GPUQ_ELIMIT, "max_clients (3)");
	raw_expect_end(fourth);
	close(fourth);
	/* Administrators have places of their own. */
	snprintf(admin, sizeof(admin), "%s" MSG_ADMIN_SUFFIX, d->socket);
	close(raw_client(admin));

	raw_open_channel(fds[0], &big, &a);
	raw_close_fds(&a);
	refuse_open(fds[1], 1 << 20, "max_total_bytes (2097152)");
	raw_open_plain(fds[1]);
	raw_open_plain(fds[2]);
	refuse_open(fds[2], 4096, "max_channels (3)");
	/* What one gives up, another gets. */
	close(fds[0]);
	struct stats stats = raw_stats(d);
	raw_await(stats.header->channels == 2);
	stats_close(&stats);
	raw_open_channel(fds[2], &big, &a);
	raw_close_fds(&a);
	close(fds[1]);
	close(fds[2]);
	harness_daemon_destroy(d);
}

static void test_limit_of_a_user(void **state)
{
	const char *const args[] = {"--max-clients-per-user", "2", NULL};
	struct harness_daemon *d = harness_daemon_start(args);
	int a = raw_client(d->socket), b = raw_client(d->socket);
	int c = raw_connect(d->socket);

	raw_expect_error(c, -GPUQ_ELIMIT, "max_clients_per_user (2)");
	raw_expect_end(c);
	close(c);
	close(a);
	struct stats stats = raw_stats(d);
	raw_await(stats.header->clients == 1);
	stats_close(&stats);
	for (c = -1; c < 0;) {
		struct msg_hello hello = raw_hello(1, 2);
		struct raw_answer answer;
		int fd = raw_connect(d->socket);
		(void)raw_try_send(fd, &hello, MSG_HELLO, sizeof(hello), 1);
		if (raw_receive(fd, &answer) && answer.h.type == MSG_WELCOME)
			c = fd;
		else
			close(fd);
		raw_close_fds(&answer);
	}
	close(b);
	close(c);
	harness_daemon_destroy(d);
}

static void open_and_drop(int fd, uint64_t arena_bytes)
{
	const struct msg_open open = raw_open(arena_bytes);
	struct raw_answer a;

	raw_open_channel(fd, &open, &a);
	raw_close_fds(&a);
}

static void another_user_opens(int fd, const void *arena_bytes)
{
	open_and_drop(fd, *(const uint64_t *)arena_bytes);
}

/* What a user has is counted over all connections; another user has a share of its own. */
static void check_user_share(const char *const *args, uint64_t arena_bytes, const char *limit)
{
	if (geteuid() != 0)
		harness_skip("only root can become another user");
	struct harness_daemon *d = harness_daemon_start(args);
	int a = raw_client(d->socket), b = raw_client(d->socket);

	assert_int_equal(chmod(harness_tmpdir(), 0755), 0);
	open_and_drop(a, arena_bytes);
	open_and_drop(b, arena_bytes);
	refuse_open(a, arena_bytes, limit);
	refuse_open(b, arena_bytes, limit);
	raw_as_another_user(d, another_user_opens, &arena_bytes);
	/* What goes with one connection is there for the other. */
	struct stats stats = raw_stats(d);
	close(a);
	raw_await(stats.header->channels == 1);
	open_and_drop(b, arena_bytes);
	refuse_open(b, arena_bytes, limit);
	stats_close(&stats);
	close(b);
	harness_daemon_destroy(d);
}

static void test_channels_of_a_user(void **state)
{
	static const char *const args[] = {
		"--max-channels-per-user", "2", "--socket-mode", "0666", NULL};

	check_user_share(args, 4096, "max_channels_per_user (2)");
}

static void test_memory_of_a_user(void **state)
{
	static const char *const args[] = {
		"--max-user-bytes", "2560K", "--socket-mode", "0666", NULL};

	check_user_share(args, 1 << 20, "max_user_bytes (2621440)");
}

/* Without a number it is half of what all have. */
static void test_memory_of_a_user_by_default(void **state)
{
	static const char *const args[] = {
		"--max-total-bytes", "5M", "--socket-mode", "0666", NULL};

	check_user_share(args, 1 << 20, "max_user_bytes (2621440)");
}

static void test_start_index(void **state)
{
	assert_int_equal(setenv("GPUQ_TEST_START_INDEX", "0xfffffffffffffff0", 1), 0);
	struct harness_daemon *d = harness_daemon_start(NULL);
	const struct msg_open open = raw_open(10000);
	int fd = raw_client(d->socket);
	struct raw_answer a;

	raw_open_channel(fd, &open, &a);
	assert_true(a.opened.start == 0xfffffffffffffff0u);
	check_header(&a, 0xfffffffffffffff0u);
	raw_close_fds(&a);
	close(fd);
	harness_daemon_destroy(d);
}

/* A child that opens channels, and waits to be killed. */
static pid_t client_process(const char *path, uint32_t channels)
{
	int ready[2];
	char byte;

	assert_int_equal(pipe(ready), 0);
	pid_t pid = fork();
	if (pid == 0) {
		int fd = raw_client(path);
		for (uint32_t i = 0; i < channels; i++)
			raw_open_plain(fd);
		if (write(ready[1], "r", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return pid;
}

static void test_killed_client_is_reclaimed(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct stats stats = raw_stats(d);
	uint32_t fds = raw_count_fds(d->pid);

	for (uint32_t i = 1; i <= 5; i++) {
		pid_t pid = client_process(d->socket, 3);
		assert_int_equal(stats.header->channels, 3);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		raw_await(stats.header->channels == 0 && stats.header->deaths == i);
		assert_int_equal(stats.header->segment_bytes, 0);
	}
	raw_await(raw_count_fds(d->pid) == fds);
	stats_close(&stats);
	harness_daemon_destroy(d);
}

/* With requests on the way it is as dead as without. */
static void test_killed_with_requests_on_the_way(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct stats stats = raw_stats(d);
	struct msg_query query = {0};
	int status;

	for (uint32_t i = 1; i <= 20; i++) {
		pid_t pid = fork();
		if (pid == 0) {
			int fd = raw_client(d->socket);
			raw_open_plain(fd);
			for (int k = 0; k < 3; k++)
				raw_send(fd, &query, MSG_OP_QUERY, sizeof(query), 5);
			_exit(0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
		raw_await(stats.header->deaths == i && stats.header->channels == 0);
	}
	stats_close(&stats);
	harness_daemon_destroy(d);
}

/* Its connection lives on in a child; the client is gone nevertheless. */
static void descendant_holds_the_connection(void)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct stats stats = raw_stats(d);
	int child_pid[2];
	pid_t heir;

	assert_int_equal(pipe(child_pid), 0);
	pid_t pid = fork();
	if (pid == 0) {
		int fd = raw_client(d->socket);
		raw_open_plain(fd);
		pid_t child = fork();
		if (child == 0) {
			for (;;)
				pause();
		}
		if (write(child_pid[1], &child, sizeof(child)) != sizeof(child))
			_exit(1);
		_exit(0);
	}
	assert_int_equal(read(child_pid[0], &heir, sizeof(heir)), sizeof(heir));
	waitpid(pid, NULL, 0);
	raw_await(stats.header->channels == 0 && stats.header->deaths == 1);
	assert_int_equal(kill(heir, SIGKILL), 0);
	close(child_pid[0]);
	close(child_pid[1]);
	stats_close(&stats);
	harness_daemon_destroy(d);
}

static void test_descendant_holds_the_connection(void **state)
{
	descendant_holds_the_connection();
}

/* Kernels before 6.5 do not hand out a connection's process. */
static void test_descendant_on_an_older_kernel(void **state)
{
	raw_refuse_call(SYS_getsockopt, 2, SO_PEERPIDFD, ENOPROTOOPT);
	descendant_holds_the_connection();
}

/* Where no process can be watched, hang-ups tell of ends. */
static void test_no_process_can_be_watched(void **state)
{
	raw_refuse_call(SYS_getsockopt, 2, SO_PEERPIDFD, EPERM);
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct stats stats = raw_stats(d);

	pid_t pid = client_process(d->socket, 2);
	assert_int_equal(stats.header->channels, 2);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	raw_await(stats.header->channels == 0 && stats.header->deaths == 1);
	stats_close(&stats);
	harness_daemon_destroy(d);
}

/* Saying goodbye, or closing the channels first, is no death. */
static void test_leaving_is_no_death(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct stats stats = raw_stats(d);

	int fd = raw_client(d->socket);
	raw_open_plain(fd);
	raw_send_bare(fd, MSG_GOODBYE, 0);
	close(fd);
	raw_await(stats.header->clients == 0 && stats.header->channels == 0);
	assert_int_equal(stats.header->deaths, 0);
	fd = raw_client(d->socket);
	raw_open_plain(fd);
	close(fd);
	raw_await(stats.header->clients == 0 && stats.header->channels == 0);
	assert_int_equal(stats.header->deaths, 1);
	stats_close(&stats);
	harness_daemon_destroy(d);
}

static bool log_mentions(const struct harness_daemon *d, const char *text)
{
	static char log[65536];
	int fd = open(d->log, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	ssize_t n = read(fd, log, sizeof(log) - 1);
	close(fd);
	log[n > 0 ? n : 0] = '\0';
	return strstr(log, text) != NULL;
}

/* Opens a channel, then ends in an orderly way, of which there are several. */
static void __attribute__((noreturn)) leave(const char *path, int how)
{
	struct msg_query query = {0};
	int fd = raw_client(path);

	raw_open_plain(fd);
	/* The answers to these come too late. */
	for (int i = 0; i < how % 3; i++)
		raw_send(fd, &query, MSG_OP_QUERY, sizeof(query), 5);
	raw_send_bare(fd, MSG_GOODBYE, 0);
	if (how % 2 == 1)
		close(fd);
	_exit(0);
}

/*
 * Nobody is told of clients that leave as they should: the end of the process, heard of before
 * its goodbye is read, is no death.
 */
static void test_leaving_is_not_logged(void **state)
{
	enum { LEAVERS = 200 };
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct stats stats = raw_stats(d);
	int status;

	for (int i = 0; i < LEAVERS; i++) {
		pid_t pid = fork();
		if (pid == 0)
			leave(d->socket, i);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
	}
	raw_await(stats.header->accepted == LEAVERS && stats.header->clients == 0);
	raw_await(stats.header->channels == 0);
	assert_int_equal(stats.header->deaths, 0);
	assert_false(log_mentions(d, "client"));
	stats_close(&stats);
	harness_daemon_destroy(d);
}

/* Maps the statistics for writing: stands in for the device process. */
static struct stats_channel *writable_channels(const struct harness_daemon *d, struct stats *stats)
{
	char name[STATS_PATH_MAX];

	stats_name(d->socket, name, sizeof(name));
	int fd = shm_open(name, O_RDWR | O_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(stats_map(fd, stats), 0);
	close(fd);
	return stats->channels;
}

static void test_stalled_clients_show(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct stats stats;
	struct stats_channel *channel = &writable_channels(d, &stats)[0];

	pid_t pid = client_process(d->socket, 1);
	raw_await(channel->state == STATS_CHANNEL_OPEN);
	const struct stats_client *client = &stats.clients[channel->client];
	/* Stopped with nothing to do, and on its feet again. */
	kill(pid, SIGSTOP);
	raw_await(client->state == STATS_CLIENT_STALLED);
	kill(pid, SIGCONT);
	raw_await(client->state == STATS_CLIENT_CONNECTED);
	/* Stopped with something in flight. */
	kill(pid, SIGSTOP);
	raw_await((channel->depth = 1) && client->state == STATS_CLIENT_STALLED);
	kill(pid, SIGCONT);
	raw_await((channel->depth = 1) && client->state == STATS_CLIENT_CONNECTED);
	channel->depth = 0;
	/* Running, and leaves completions unread. */
	raw_await((channel->unread = 1) && client->state == STATS_CLIENT_STALLED);
	channel->unread = 0;
	raw_await(client->state == STATS_CLIENT_CONNECTED);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	raw_await(client->state == STATS_CLIENT_DEAD);
	stats_close(&stats);
	harness_daemon_destroy(d);
}

/* Somebody truncates the statistics: gpuqd goes on, and so do its clients. */
static void test_statistics_truncated(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	char name[STATS_PATH_MAX];

	stats_name(d->socket, name, sizeof(name));
	int object = shm_open(name, O_RDWR | O_CLOEXEC, 0);
	assert_true(object >= 0);
	assert_int_equal(ftruncate(object, 0), 0);
	close(object);
	int fd = raw_client(d->socket);
	raw_open_plain(fd);
	close(fd);
	harness_daemon_destroy(d);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_open),
		HARNESS_TEST(test_close_gives_memory_back),
		HARNESS_TEST(test_close_of_others),
		HARNESS_TEST(test_generations_differ),
		HARNESS_TEST(test_wrong_requests),
		HARNESS_TEST(test_limits_of_a_client),
		HARNESS_TEST(test_limits_of_all),
		HARNESS_TEST(test_limit_of_a_user),
		HARNESS_TEST(test_channels_of_a_user),
		HARNESS_TEST(test_memory_of_a_user),
		HARNESS_TEST(test_memory_of_a_user_by_default),
		HARNESS_TEST(test_start_index),
		HARNESS_TEST(test_killed_client_is_reclaimed),
		HARNESS_TEST(test_killed_with_requests_on_the_way),
		HARNESS_TEST(test_descendant_holds_the_connection),
		HARNESS_TEST(test_descendant_on_an_older_kernel),
		HARNESS_TEST(test_no_process_can_be_watched),
		HARNESS_TEST(test_leaving_is_no_death),
		HARNESS_TEST(test_leaving_is_not_logged),
		HARNESS_TEST(test_stalled_clients_show),
		HARNESS_TEST(test_statistics_truncated),
	};

	return harness_run("daemon-channels", tests, sizeof(tests) / sizeof(tests[0]));
}
