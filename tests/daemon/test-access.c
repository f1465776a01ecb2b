/* SPDX-License-Identifier: MIT */
/*
 * test-access.c: who may use gpuqd, administer it, and see its statistics; and clients of other PID
 * namespaces.
 */
#include "tests/daemon/raw.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOBODY 65534
#define ADMIN "-admin"

/* What gpuqd says to a user who says hello. */
struct reply {
	int status; /* 0: welcome; else that of MSG_ERROR, or why there was no connection */
	char text[MSG_TEXT_MAX];
};

static struct reply say_hello(const char *path)
{
	struct msg_hello hello = raw_hello(1, WIRE_ABI);
	struct reply reply = {.status = raw_try_connect(path)};
	struct raw_answer answer;
	int fd = reply.status;

	if (fd < 0)
		return reply;
	reply.status = -ECONNRESET;
	(void)raw_try_send(fd, &hello, MSG_HELLO, sizeof(hello), 1);
	if (raw_receive(fd, &answer)) {
		reply.status = answer.h.type == MSG_WELCOME ? 0 : answer.error.status;
		if (answer.h.type == MSG_ERROR)
			snprintf(reply.text, sizeof(reply.text), "%s", answer.error.text);
		raw_close_fds(&answer);
	}
	close(fd);
	return reply;
}

/* The same of another user, who is in no group but its own. */
static struct reply nobody_says_hello(const struct harness_daemon *d, const char *suffix)
{
	char path[256];
	int fds[2], status;
	struct reply reply;

	snprintf(path, sizeof(path), "%s%s", d->socket, suffix);
	assert_int_equal(chmod(harness_tmpdir(), 0755), 0);
	assert_int_equal(pipe(fds), 0);
	pid_t pid = fork();
	if (pid == 0) {
		if (setgroups(0, NULL) < 0 || setgid(NOBODY) < 0 || setuid(NOBODY) < 0)
			_exit(2);
		reply = say_hello(path);
		_exit(write(fds[1], &reply, sizeof(reply)) == sizeof(reply) ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(read(fds[0], &reply, sizeof(reply)), sizeof(reply));
	close(fds[0]);
	close(fds[1]);
	return reply;
}

static void expect_nobody(
	const struct harness_daemon *d, const char *suffix, int status, const char *text)
{
	const struct reply reply = nobody_says_hello(d, suffix);

	if (reply.status == -EACCES && reply.text[0] == '\0' && status != -EACCES)
		harness_skip("another user cannot reach the test's directory");
	if (reply.status != status || strstr(reply.text, text) == NULL)
		fail_msg("%d '%s', expected %d '%s'", reply.status, reply.text, status, text);
}

/* A gpuqd with this configuration, to whose socket everybody may write. */
static struct harness_daemon *serve(const char *config)
{
	char path[256];
	const char *const args[] = {"-c", path, "--socket-mode", "0666", NULL};

	if (geteuid() != 0)
		harness_skip("only root can become another user");
	snprintf(path, sizeof(path), "%s/gpuqd.conf", harness_tmpdir());
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	fputs(config, f);
	assert_int_equal(fclose(f), 0);
	const char *const check[] = {
		harness_program("daemon/gpuqd"), "-c", path, "--check-config", NULL};
	struct harness_output o;
	harness_exec(check, &o);
	const bool reads = strstr(o.err, "built without libinih") == NULL;
	harness_output_free(&o);
	if (!reads)
		harness_skip("gpuqd was built without libinih");
	return harness_daemon_start(args);
}

static void check_access(const char *config, int status, const char *text)
{
	struct harness_daemon *d = serve(config);

	expect_nobody(d, "", status, text);
	/* gpuqd's own user always may. */
	close(raw_client(d->socket));
	harness_daemon_destroy(d);
}

static void test_everybody(void **state)
{
	check_access("", 0, "");
}

static void test_listed_ones(void **state)
{
	check_access("access = listed\n[user 7]\nweight = 2\n[group 8]\nweight = 2\n", -EACCES,
		"user id 65534 may not use this gpuqd");
}

static void test_a_listed_user(void **state)
{
	check_access("access = listed\n[user 65534]\nweight = 2\n", 0, "");
}

static void test_a_listed_group(void **state)
{
	check_access("access = listed\n[group 65534]\nweight = 2\n", 0, "");
}

/* Neither has the other's rights: those of administrators are asked for on their own socket. */
static void test_administrators(void **state)
{
	struct harness_daemon *d = serve("[user 65534]\nadmin = yes\n");

	expect_nobody(d, "", 0, "");
	expect_nobody(d, ADMIN, 0, "");
	harness_daemon_destroy(d);
	d = serve("[user 65534]\nweight = 3\n");
	expect_nobody(d, ADMIN, -EACCES, "");
	harness_daemon_destroy(d);
	d = serve("[user 7]\nadmin = yes\n[user 65534]\nweight = 3\n");
	expect_nobody(d, ADMIN, -EACCES, "only root, gpuqd's own user and those with admin = yes");
	expect_nobody(d, "", 0, "");
	harness_daemon_destroy(d);
}

static mode_t stats_mode(const struct harness_daemon *d)
{
	char name[STATS_PATH_MAX];
	struct stat st;

	stats_name(d->socket, name, sizeof(name));
	int fd = shm_open(name, O_RDONLY | O_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	close(fd);
	return st.st_mode & 0777;
}

/* They show all users, so they are the owner's alone unless somebody says otherwise. */
static void test_statistics(void **state)
{
	const char *const args[] = {"--stats-mode", "0640", NULL};
	struct harness_daemon *d = harness_daemon_start(NULL);

	assert_int_equal(stats_mode(d), 0600);
	harness_daemon_destroy(d);
	d = harness_daemon_start(args);
	assert_int_equal(stats_mode(d), 0640);
	harness_daemon_destroy(d);
}

/* A client that opens a channel, says so, and waits to be killed. */
static _Noreturn void client_main(int go_fd, int ready_fd)
{
	char path[256] = "";

	if (read(go_fd, path, sizeof(path)) <= 0)
		_exit(1);
	int fd = raw_client(path);
	(void)raw_open_plain(fd);
	if (write(ready_fd, "r", 1) != 1)
		_exit(1);
	for (;;)
		pause();
}

/*
 * gpuqd in a PID namespace of its own does not see the processes of its clients: their id is 0. It
 * serves them all the same, and hears of their ends.
 */
static void test_another_pid_namespace(void **state)
{
	int go[2], ready[2];
	int own_fd = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
	char byte;

	assert_true(own_fd >= 0);
	assert_int_equal(pipe(go), 0);
	assert_int_equal(pipe(ready), 0);
	pid_t client = fork();
	if (client == 0)
		client_main(go[0], ready[1]);
	if (unshare(CLONE_NEWPID) < 0) {
		kill(client, SIGKILL);
		waitpid(client, NULL, 0);
		harness_skip("a PID namespace cannot be made here (root is needed)");
	}
	/* The first process of the namespace; there will be no other one but its own. */
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct stats stats = raw_stats(d);
	assert_int_equal(
		write(go[1], d->socket, strlen(d->socket) + 1), (ssize_t)strlen(d->socket) + 1);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	raw_await(shm_load_relaxed(&stats.header->channels) == 1);
	for (uint32_t i = 0; i < stats.header->max_clients; i++) {
		if (stats.clients[i].state == STATS_CLIENT_CONNECTED)
			assert_int_equal(stats.clients[i].pid, 0);
	}
	assert_int_equal(kill(client, SIGKILL), 0);
	assert_int_equal(waitpid(client, NULL, 0), client);
	raw_await(shm_load_relaxed(&stats.header->channels) == 0);
	assert_int_equal(shm_load_relaxed(&stats.header->deaths), 1);
	stats_close(&stats);
	harness_daemon_destroy(d);
	/* Without its first process nothing can be started there: what looks for leaks is. */
	assert_int_equal(setns(own_fd, CLONE_NEWPID), 0);
	close(own_fd);
	for (int i = 0; i < 2; i++) {
		close(go[i]);
		close(ready[i]);
	}
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_everybody),
		HARNESS_TEST(test_listed_ones),
		HARNESS_TEST(test_a_listed_user),
		HARNESS_TEST(test_a_listed_group),
		HARNESS_TEST(test_administrators),
		HARNESS_TEST(test_statistics),
		HARNESS_TEST(test_another_pid_namespace),
	};

	return harness_run("daemon-access", tests, sizeof(tests) / sizeof(tests[0]));
}
