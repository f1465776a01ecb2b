/* SPDX-License-Identifier: MIT */
/* gpuqd from its start to its end: sockets and locks, draining, what the system refuses it. */
#include "tests/daemon/raw.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *gpuqd(void)
{
	return harness_program("daemon/gpuqd");
}

/* Runs gpuqd, which is to fail, on a socket. */
static void expect_failure(const char *socket, int status, const char *text, const char *more)
{
	const char *const argv[] = {gpuqd(), "--socket", socket, NULL};
	struct harness_output o;

	harness_exec(argv, &o);
	if (o.status != status || strstr(o.err, text) == NULL || strstr(o.err, more) == NULL)
		fail_msg("status %d, '%s'; expected %d, '%s', '%s'", o.status, o.err, status, text,
			more);
	harness_output_free(&o);
}

static void test_two_daemons(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	char pid[32];

	snprintf(pid, sizeof(pid), "(pid %d)", (int)d->pid);
	expect_failure(d->socket, 1, "another gpuqd", pid);
	/* It has not taken anything away from the first. */
	int fd = raw_client(d->socket);
	raw_open_plain(fd);
	close(fd);
	harness_daemon_destroy(d);
}

static bool refuses(const char *path)
{
	int fd = raw_try_connect(path);

	if (fd >= 0)
		close(fd);
	return fd == -ECONNREFUSED;
}

static void test_stale_socket_is_taken_over(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct stat st;

	harness_daemon_kill(d);
	assert_int_equal(stat(d->socket, &st), 0);
	/* The kernel takes an io_uring apart in the background, and its sockets with it. */
	raw_await(refuses(d->socket));
	/* What it counted can still be read. */
	struct stats stats = raw_stats(d);
	assert_int_equal(stats.header->state, WIRE_SERVING);
	stats_close(&stats);
	harness_daemon_destroy(d);
	d = harness_daemon_start(NULL);
	close(raw_client(d->socket));
	harness_daemon_destroy(d);
}

static void path_in_tmpdir(char *path, size_t size, const char *name)
{
	snprintf(path, size, "%s/%s", harness_tmpdir(), name);
}

static void test_other_files_are_left_alone(void **state)
{
	char path[200], link[200], lock[210];
	struct stat st;

	path_in_tmpdir(path, sizeof(path), "precious");
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(write(fd, "data", 4), 4);
	close(fd);
	expect_failure(path, 1, "is not a socket", path);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 4);

	path_in_tmpdir(link, sizeof(link), "link");
	assert_int_equal(symlink(path, link), 0);
	expect_failure(link, 1, "is not a socket", link);
	assert_int_equal(lstat(link, &st), 0);

	/* Nor does a lock that is a link lead elsewhere. */
	path_in_tmpdir(link, sizeof(link), "other");
	snprintf(lock, sizeof(lock), "%s.lock", link);
	assert_int_equal(symlink(path, lock), 0);
	expect_failure(link, 1, "cannot be opened", lock);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 4);
}

static void test_impossible_sockets(void **state)
{
	char path[200];

	path_in_tmpdir(path, sizeof(path), "no/such/directory/gpuq-0");
	expect_failure(path, 1, "cannot be opened", "make its directory first");
	memset(path, 'x', 102);
	path[0] = '/';
	path[102] = '\0';
	expect_failure(path, 1, "too long", "at most 101 bytes");
}

static void test_socket_mode(void **state)
{
	const char *const args[] = {"--socket-mode", "0606", NULL};
	struct harness_daemon *d = harness_daemon_start(args);
	struct stat st;

	assert_int_equal(stat(d->socket, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0606);
	harness_daemon_destroy(d);
}

/* Without --socket it listens where clients look first. */
static void test_default_socket(void **state)
{
	char path[200];
	int fd = -1;

	unsetenv("GPUQ_SOCKET");
	path_in_tmpdir(path, sizeof(path), "gpuq-0");
	const char *const argv[] = {gpuqd(), "--log", "error", NULL};
	pid_t pid = harness_spawn(argv, -1, -1);
	raw_await((fd = raw_try_connect(path)) >= 0);
	close(fd);
	int status;
	kill(pid, SIGTERM);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static bool exists(const char *path, const char *suffix)
{
	char whole[256];
	struct stat st;

	snprintf(whole, sizeof(whole), "%s%s", path, suffix);
	return lstat(whole, &st) == 0;
}

static pid_t start_in(const char *folder)
{
	const char *const argv[] = {gpuqd(), "--socket", "x", "--log", "error", NULL};

	assert_int_equal(chdir(folder), 0);
	return harness_spawn(argv, -1, -1);
}

/* The welcome names the whole path, wherever the client is. */
static void expect_welcome_from(const char *path)
{
	struct msg_hello hello = raw_hello(1, 2);
	struct raw_answer a;
	int fd = -1;

	raw_await((fd = raw_try_connect("x")) >= 0);
	raw_send(fd, &hello, MSG_HELLO, sizeof(hello), 1);
	assert_true(raw_receive(fd, &a));
	assert_int_equal(a.h.type, MSG_WELCOME);
	assert_string_equal(a.welcome.socket_path, path);
	raw_close_fds(&a);
	close(fd);
}

/* Two with the same relative name in different directories have nothing in common. */
static void test_relative_socket(void **state)
{
	char folders[2][100], path[220];
	struct stats stats;
	pid_t pids[2];
	int status;

	for (int i = 0; i < 2; i++) {
		snprintf(folders[i], sizeof(folders[i]), "%s/%d", harness_tmpdir(), i);
		assert_int_equal(mkdir(folders[i], 0700), 0);
		pids[i] = start_in(folders[i]);
	}
	for (int i = 0; i < 2; i++) {
		assert_int_equal(chdir(folders[i]), 0);
		snprintf(path, sizeof(path), "%s/x", folders[i]);
		expect_welcome_from(path);
		assert_int_equal(stats_open("x", false, &stats), 0);
		assert_int_equal(stats.header->control_pid, pids[i]);
		assert_string_equal(stats.header->socket_path, path);
		stats_close(&stats);
	}
	for (int i = 0; i < 2; i++) {
		kill(pids[i], SIGTERM);
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_int_equal(status, 0);
		snprintf(path, sizeof(path), "%s/x", folders[i]);
		assert_false(exists(path, "") || exists(path, ".lock"));
	}
}

/* A daemon that has just begun is not taken for a dead one. */
static void test_heartbeat_from_the_start(void **state)
{
	char path[200];
	struct stats stats;
	int status;

	path_in_tmpdir(path, sizeof(path), "gpuq-0");
	const char *const argv[] = {gpuqd(), "--socket", path, "--log", "error", NULL};
	pid_t pid = harness_spawn(argv, -1, -1);
	raw_await(stats_open(path, false, &stats) == 0);
	raw_await(shm_load_acquire_u32(&stats.header->state) != 0);
	assert_true(stats.header->heartbeat_ns > 0);
	assert_int_equal(stats.header->control_pid, pid);
	stats_close(&stats);
	kill(pid, SIGTERM);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void expect_goodbye(int fd, int status)
{
	struct raw_answer a;

	assert_true(raw_receive(fd, &a));
	assert_int_equal(a.h.type, MSG_GOODBYE);
	assert_int_equal(a.h.serial, 0);
	assert_int_equal(a.goodbye.status, status);
	assert_true(a.goodbye.text[0] != '\0');
	raw_expect_end(fd);
}

static void test_clean_end(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct stats stats;
	int fd = raw_client(d->socket);

	raw_open_plain(fd);
	assert_true(exists(d->socket, "") && exists(d->socket, ".lock"));
	assert_true(exists(d->socket, MSG_ADMIN_SUFFIX));
	assert_int_equal(harness_daemon_stop(d), 0);
	expect_goodbye(fd, -GPUQ_EDRAIN);
	close(fd);
	assert_false(exists(d->socket, "") || exists(d->socket, ".lock"));
	assert_false(exists(d->socket, MSG_ADMIN_SUFFIX));
	assert_int_equal(stats_open(d->socket, false, &stats), -ENOENT);
	harness_daemon_destroy(d);
}

/* A request that nobody has read must not swallow the goodbye. */
static void test_goodbye_survives_unread_requests(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct msg_query q = {0};
	struct raw_answer a;
	int fd = raw_client(d->socket), status;

	kill(d->pid, SIGSTOP);
	assert_int_equal(waitpid(d->pid, &status, WUNTRACED), d->pid);
	raw_send(fd, &q, MSG_OP_QUERY, sizeof(q), 5);
	raw_send(fd, &q, MSG_OP_QUERY, sizeof(q), 6);
	kill(d->pid, SIGTERM);
	kill(d->pid, SIGTERM);
	kill(d->pid, SIGCONT);
	do
		assert_true(raw_receive(fd, &a));
	while (a.h.type == MSG_OP);
	assert_int_equal(a.h.type, MSG_GOODBYE);
	raw_expect_end(fd);
	close(fd);
	assert_int_equal(waitpid(d->pid, &status, 0), d->pid);
	assert_int_equal(status, 0);
	d->pid = 0;
	harness_daemon_destroy(d);
}

/* The device process, stopped, never says that it is done. */
static pid_t stop_device(const struct harness_daemon *d)
{
	struct stats stats = raw_stats(d);
	pid_t pid = (pid_t)stats.devices[0].pid;

	stats_close(&stats);
	assert_int_equal(kill(pid, SIGSTOP), 0);
	return pid;
}

static uint32_t state_of(const struct harness_daemon *d)
{
	struct stats stats;
	uint32_t now = WIRE_STOPPED;

	if (stats_open(d->socket, false, &stats) == 0) {
		now = stats.header->state;
		stats_close(&stats);
	}
	return now;
}

static void test_drain_refuses_newcomers(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct msg_hello hello = raw_hello(1, 2);
	struct msg_open open = raw_open(4096);
	int fd = raw_client(d->socket), status;
	struct raw_answer a;

	pid_t device = stop_device(d);
	kill(d->pid, SIGTERM);
	raw_await(state_of(d) == WIRE_DRAINING);
	int late = raw_connect(d->socket);
	raw_send(late, &hello, MSG_HELLO, sizeof(hello), 1);
	raw_expect_error(late, -GPUQ_EDRAIN, "shutting down");
	raw_expect_end(late);
	raw_send(fd, &open, MSG_OPEN, sizeof(open), 1);
	raw_expect_error(fd, -GPUQ_EDRAIN, "shutting down");
	/* It waits, and ends when the device process is done. */
	assert_int_equal(waitpid(d->pid, &status, WNOHANG), 0);
	kill(device, SIGCONT);
	assert_true(raw_receive(fd, &a));
	assert_int_equal(a.goodbye.status, -GPUQ_EDRAIN);
	assert_int_equal(waitpid(d->pid, &status, 0), d->pid);
	assert_int_equal(status, 0);
	d->pid = 0;
	close(late);
	close(fd);
	harness_daemon_destroy(d);
}

static void test_drain_has_a_deadline(void **state)
{
	const char *const args[] = {"--drain-timeout-ms", "100", NULL};
	struct harness_daemon *d = harness_daemon_start(args);
	int fd = raw_client(d->socket);

	stop_device(d);
	assert_int_equal(harness_daemon_stop(d), 0);
	expect_goodbye(fd, -GPUQ_EDRAIN);
	close(fd);
	harness_daemon_destroy(d);
}

static void test_second_signal_ends_at_once(void **state)
{
	const char *const args[] = {"--drain-timeout-ms", "3600000", NULL};
	struct harness_daemon *d = harness_daemon_start(args);

	stop_device(d);
	kill(d->pid, SIGINT);
	raw_await(state_of(d) == WIRE_DRAINING);
	assert_int_equal(harness_daemon_stop(d), 0);
	harness_daemon_destroy(d);
}

static void test_hangup_signal_ends_nothing(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);

	kill(d->pid, SIGHUP);
	kill(d->pid, SIGPIPE);
	close(raw_client(d->socket));
	harness_daemon_destroy(d);
}

/* What containers refuse, each in a way of its own: gpuqd ends, names it, and leaves nothing. */
static void expect_refusal_of(uint32_t call, int error, const char *text, const char *name)
{
	char path[200];

	raw_refuse_call(call, RAW_ALWAYS, 0, error);
	path_in_tmpdir(path, sizeof(path), "refused");
	expect_failure(path, 1, text, name);
	assert_false(exists(path, "") || exists(path, ".lock"));
}

static void expect_refusal(int error, const char *text)
{
	expect_refusal_of(SYS_io_uring_setup, error, text, "io_uring");
}

static void test_io_uring_forbidden(void **state)
{
	expect_refusal(EPERM, "seccomp profile");
}

static void test_io_uring_unknown(void **state)
{
	expect_refusal(ENOSYS, "seccomp profile");
}

static void test_io_uring_fails(void **state)
{
	expect_refusal(ENOMEM, "cannot be set up");
}

static void test_signalfd_forbidden(void **state)
{
	expect_refusal_of(SYS_signalfd4, EPERM, "seccomp profile", "signalfd");
}

/* Only as gpuqd makes them: the harness has some of its own. */
static void test_memfd_forbidden(void **state)
{
	char path[200];

	raw_refuse_call(SYS_memfd_create, 1,
		MFD_CLOEXEC | MFD_ALLOW_SEALING | 8u /* MFD_NOEXEC_SEAL */, EPERM);
	path_in_tmpdir(path, sizeof(path), "refused");
	expect_failure(path, 1, "seccomp profile", "memfd_create");
}

static void test_robust_list_forbidden(void **state)
{
	expect_refusal_of(SYS_set_robust_list, ENOSYS, "seccomp profile", "set_robust_list");
}

/* Every descriptor is in use: newcomers are told so, and when there are some again, served. */
static void run_out(rlim_t limit)
{
	const struct rlimit few = {limit, limit};
	int fds[60], n, refused = 0;

	/* io_uring looks at the limit when accept() is armed: it must hold from the start. */
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct stats stats = raw_stats(d);

	for (n = 0; n < 50 && refused < 10; n++) {
		struct msg_hello hello = raw_hello(1, 2);
		struct raw_answer a;
		fds[n] = raw_connect(d->socket);
		(void)raw_try_send(fds[n], &hello, MSG_HELLO, sizeof(hello), 1);
		assert_true(raw_receive(fds[n], &a));
		if (a.h.type == MSG_ERROR) {
			assert_int_equal(a.error.status, -GPUQ_ELIMIT);
			assert_non_null(strstr(a.error.text, "file descriptor"));
			refused++;
		}
		raw_close_fds(&a);
	}
	assert_int_equal(refused, 10);
	assert_true(stats.header->accept_exhausted > 0);
	while (n > 0)
		close(fds[--n]);
	raw_await(stats.header->clients == 0);
	int fd = raw_client(d->socket);
	raw_open_plain(fd);
	close(fd);
	stats_close(&stats);
	harness_daemon_destroy(d);
}

/* With one descriptor more or less, it is another one that cannot be had. */
static void test_descriptors_run_out(void **state)
{
	run_out(65);
	run_out(64);
}

/* A channel needs descriptors too; without them it is refused, and nothing is lost. */
static void test_no_descriptors_for_a_channel(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct msg_open open = raw_open(4096);
	struct stats stats = raw_stats(d);
	struct rlimit before, now;
	int fd = raw_client(d->socket);

	raw_open_plain(fd);
	assert_int_equal(prlimit(d->pid, RLIMIT_NOFILE, NULL, &before), 0);
	for (rlim_t extra = 0; extra < 3; extra++) {
		now = (struct rlimit){raw_count_fds(d->pid) + extra, before.rlim_max};
		assert_int_equal(prlimit(d->pid, RLIMIT_NOFILE, &now, NULL), 0);
		raw_send(fd, &open, MSG_OPEN, sizeof(open), 3);
		raw_expect_error(fd, -EMFILE, "descriptors");
		raw_await(stats.header->channels == 1);
	}
	assert_int_equal(prlimit(d->pid, RLIMIT_NOFILE, &before, NULL), 0);
	raw_open_plain(fd);
	close(fd);
	stats_close(&stats);
	harness_daemon_destroy(d);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_two_daemons),
		HARNESS_TEST(test_stale_socket_is_taken_over),
		HARNESS_TEST(test_other_files_are_left_alone),
		HARNESS_TEST(test_impossible_sockets),
		HARNESS_TEST(test_socket_mode),
		HARNESS_TEST(test_default_socket),
		HARNESS_TEST(test_relative_socket),
		HARNESS_TEST(test_heartbeat_from_the_start),
		HARNESS_TEST(test_clean_end),
		HARNESS_TEST(test_goodbye_survives_unread_requests),
		HARNESS_TEST(test_drain_refuses_newcomers),
		HARNESS_TEST(test_drain_has_a_deadline),
		HARNESS_TEST(test_second_signal_ends_at_once),
		HARNESS_TEST(test_hangup_signal_ends_nothing),
		HARNESS_TEST(test_io_uring_forbidden),
		HARNESS_TEST(test_io_uring_unknown),
		HARNESS_TEST(test_io_uring_fails),
		HARNESS_TEST(test_signalfd_forbidden),
		HARNESS_TEST(test_memfd_forbidden),
		HARNESS_TEST(test_robust_list_forbidden),
		HARNESS_TEST(test_descriptors_run_out),
		HARNESS_TEST(test_no_descriptors_for_a_channel),
	};

	return harness_run("daemon-lifecycle", tests, sizeof(tests) / sizeof(tests[0]));
}
