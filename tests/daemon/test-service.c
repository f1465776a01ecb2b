/* SPDX-License-Identifier: MIT */
/*
 * gpuqd as a service: the test is its manager, which passes sockets, hears of its state, and sends
 * signals. And that the units which come with it say what systemd understands.
 */
#include "tests/daemon/raw.h"

#include "shm/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_SOCKETS 3

/* What the manager has to do with one gpuqd. */
struct manager {
	char socket[200], log[200], config[200];
	int notify; /* hears of it */
	int passed[MAX_SOCKETS];
	uint32_t n_passed;
	pid_t pid;
	char heard[4096]; /* since the last line that was awaited */
};

static int listen_on(const char *path, int type)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	assert_true(strlen(path) < sizeof(a.sun_path));
	memcpy(a.sun_path, path, strlen(path) + 1);
	const int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	if (type != SOCK_DGRAM)
		assert_int_equal(listen(fd, 16), 0);
	return fd;
}

static void manager_open(struct manager *m)
{
	char path[200];

	*m = (struct manager){.pid = 0};
	snprintf(m->socket, sizeof(m->socket), "%s/gpuq-0", harness_tmpdir());
	snprintf(m->log, sizeof(m->log), "%s/gpuqd.log", harness_tmpdir());
	snprintf(m->config, sizeof(m->config), "%s/gpuqd.conf", harness_tmpdir());
	snprintf(path, sizeof(path), "%s/notify", harness_tmpdir());
	m->notify = listen_on(path, SOCK_DGRAM);
	assert_int_equal(setenv("NOTIFY_SOCKET", path, 1), 0);
	unsetenv("WATCHDOG_PID");
}

static void manager_close(struct manager *m)
{
	close(m->notify);
	for (uint32_t i = 0; i < m->n_passed; i++)
		close(m->passed[i]);
}

static void __attribute__((noreturn)) become_gpuqd(const struct manager *m, char *const *args)
{
	char pid[16], n[16];
	const int log = open(m->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	dup2(log, STDERR_FILENO);
	/* Nothing of the harness's lies where these go, or what does is not needed any more. */
	for (uint32_t i = 0; i < m->n_passed; i++) {
		if (dup2(fcntl(m->passed[i], F_DUPFD, 20), 3 + (int)i) < 0)
			_exit(126);
	}
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	snprintf(n, sizeof(n), "%u", m->n_passed);
	if (m->n_passed > 0 &&
		(setenv("LISTEN_PID", pid, getenv("LISTEN_PID") == NULL) < 0 ||
			setenv("LISTEN_FDS", n, 1) < 0))
		_exit(126);
	execv(getenv("GPUQ_TEST_GPUQD"), args);
	_exit(127);
}

/* Without arguments it gets `--socket`, and none of its own. */
static void manager_start(struct manager *m, char *const *args)
{
	char *const usual[] = {"gpuqd", "--socket", m->socket, NULL};

	m->pid = fork();
	assert_true(m->pid >= 0);
	if (m->pid == 0)
		become_gpuqd(m, args != NULL ? args : usual);
}

/* Waits until gpuqd has told this line, or one that begins with it; returns the whole line. */
static const char *await_line(struct manager *m, const char *begin)
{
	static char line[512];
	struct pollfd p = {.fd = m->notify, .events = POLLIN};

	for (;;) {
		const char *at = m->heard;
		while (at != NULL && strncmp(at, begin, strlen(begin)) != 0) {
			at = strchr(at, '\n');
			at = at == NULL ? NULL : at + 1;
		}
		if (at != NULL) {
			snprintf(line, sizeof(line), "%.*s", (int)strcspn(at, "\n"), at);
			m->heard[0] = '\0';
			return line;
		}
		size_t n = strlen(m->heard);
		if (poll(&p, 1, 15000 * (int)harness_slowness()) != 1)
			fail_msg("gpuqd has not told '%s', but: %s", begin, m->heard);
		if (n > sizeof(m->heard) / 2) /* of a watchdog, say */
			n = 0;
		const ssize_t got = recv(m->notify, m->heard + n, sizeof(m->heard) - n - 2, 0);
		assert_true(got > 0);
		memcpy(m->heard + n + (size_t)got, "\n", 2);
	}
}

static int manager_wait(struct manager *m)
{
	int status;

	assert_int_equal(waitpid(m->pid, &status, 0), m->pid);
	m->pid = 0;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void manager_stop(struct manager *m)
{
	assert_int_equal(kill(m->pid, SIGTERM), 0);
	await_line(m, "STOPPING=1");
	assert_int_equal(manager_wait(m), 0);
}

static const char *log_of(const struct manager *m)
{
	static char text[65536];
	FILE *f = fopen(m->log, "re");

	text[0] = '\0';
	if (f != NULL) {
		const size_t n = fread(text, 1, sizeof(text) - 1, f);
		text[n] = '\0';
		fclose(f);
	}
	return text;
}

static bool log_has(const struct manager *m, const char *text)
{
	return strstr(log_of(m), text) != NULL;
}

/* It ends at once, and says why. */
static void expect_failure(struct manager *m, char *const *args, const char *text)
{
	manager_start(m, args);
	assert_int_equal(manager_wait(m), 1);
	if (!log_has(m, text))
		fail_msg("no '%s' in the log: %s", text, log_of(m));
	assert_int_equal(unlink(m->log), 0);
}

/* --- What the manager is told -------------------------------------------------------------- */

static void test_told(void **state)
{
	struct manager m;

	manager_open(&m);
	manager_start(&m, NULL);
	await_line(&m, "READY=1");
	const int fd = raw_client(m.socket);
	const char *status = await_line(&m, "STATUS=Serving");
	while (strstr(status, ": 1 clients") == NULL)
		status = await_line(&m, "STATUS=Serving");
	close(fd);
	assert_int_equal(kill(m.pid, SIGTERM), 0);
	/* drain_timeout_ms, and five seconds. */
	assert_string_equal(await_line(&m, "EXTEND_TIMEOUT_USEC="), "EXTEND_TIMEOUT_USEC=15000000");
	assert_int_equal(manager_wait(&m), 0);
	manager_close(&m);
}

static void test_watchdog(void **state)
{
	struct manager m;

	manager_open(&m);
	assert_int_equal(setenv("WATCHDOG_USEC", "100000", 1), 0);
	manager_start(&m, NULL);
	for (int i = 0; i < 5; i++)
		await_line(&m, "WATCHDOG=1");
	manager_stop(&m);
	/* It is somebody else's: gpuqd has a parent that was told to answer itself. */
	assert_int_equal(setenv("WATCHDOG_PID", "1", 1), 0);
	m.heard[0] = '\0';
	while (recv(m.notify, m.heard, sizeof(m.heard), MSG_DONTWAIT) > 0)
		;
	m.heard[0] = '\0';
	manager_start(&m, NULL);
	await_line(&m, "READY=1");
	manager_stop(&m);
	assert_null(strstr(m.heard, "WATCHDOG=1"));
	manager_close(&m);
}

/* What the manager said is not for the processes that gpuqd starts. */
static void test_environment_ends_here(void **state)
{
	char path[64], text[8192];
	struct stats stats;
	struct manager m;

	manager_open(&m);
	manager_start(&m, NULL);
	await_line(&m, "READY=1");
	assert_int_equal(stats_open(m.socket, false, &stats), 0);
	snprintf(path, sizeof(path), "/proc/%u/environ", stats.devices[0].pid);
	stats_close(&stats);
	const int fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	const ssize_t n = read(fd, text, sizeof(text) - 1);
	close(fd);
	assert_true(n > 0);
	assert_null(memmem(text, (size_t)n, "NOTIFY_SOCKET", 13));
	assert_non_null(memmem(text, (size_t)n, "GPUQ_TEST_GPUQD", 15));
	manager_stop(&m);
	manager_close(&m);
}

/* A manager that is gone, or never was one, changes nothing. */
static void test_nobody_listens(void **state)
{
	static const char *const sockets[] = {
		"/nowhere/notify", "relative", "@gpuq-test-nobody-listens-here"};

	for (size_t i = 0; i < sizeof(sockets) / sizeof(sockets[0]); i++) {
		assert_int_equal(setenv("NOTIFY_SOCKET", sockets[i], 1), 0);
		assert_int_equal(setenv("WATCHDOG_USEC", "x", 1), 0);
		struct harness_daemon *d = harness_daemon_start(NULL);
		close(raw_client(d->socket));
		harness_daemon_destroy(d);
	}
}

/* --- Sockets that the manager has made ----------------------------------------------------- */

/* A client that comes before gpuqd waits for it, and the socket outlives each of them. */
static void test_activation(void **state)
{
	char *const args[] = {"gpuqd", NULL};
	struct manager m;
	struct stat st;

	manager_open(&m);
	m.passed[m.n_passed++] = listen_on(m.socket, SOCK_SEQPACKET);
	for (int i = 0; i < 2; i++) {
		struct msg_hello hello = raw_hello(1, WIRE_ABI);
		struct raw_answer a;
		const int early = raw_connect(m.socket);

		raw_send(early, &hello, MSG_HELLO, sizeof(hello), 1);
		manager_start(&m, args);
		await_line(&m, "READY=1");
		assert_true(raw_receive(early, &a));
		assert_int_equal(a.h.type, MSG_WELCOME);
		raw_close_fds(&a);
		close(early);
		close(raw_client(m.socket));
		manager_stop(&m);
		assert_int_equal(stat(m.socket, &st), 0);
	}
	/* What gpuqd made itself is gone. */
	char path[300];
	snprintf(path, sizeof(path), "%s" MSG_ADMIN_SUFFIX, m.socket);
	assert_int_equal(stat(path, &st), -1);
	manager_close(&m);
}

static void test_activation_of_both(void **state)
{
	char admin[300];
	char *const args[] = {"gpuqd", NULL};
	struct manager m;

	manager_open(&m);
	snprintf(admin, sizeof(admin), "%s" MSG_ADMIN_SUFFIX, m.socket);
	m.passed[m.n_passed++] = listen_on(admin, SOCK_SEQPACKET);
	m.passed[m.n_passed++] = listen_on(m.socket, SOCK_SEQPACKET);
	manager_start(&m, args);
	await_line(&m, "READY=1");
	close(raw_client(m.socket));
	close(raw_client(admin));
	manager_stop(&m);
	manager_close(&m);
}

static void test_sockets_that_do_not_fit(void **state)
{
	char other[300];
	char *const args[] = {"gpuqd", NULL};
	char *named[] = {"gpuqd", "--socket", other, NULL};
	struct manager m;

	manager_open(&m);
	snprintf(other, sizeof(other), "%s/other", harness_tmpdir());
	m.passed[m.n_passed++] = listen_on(other, SOCK_STREAM);
	expect_failure(&m, args, "does not listen on the path of a unix socket for packets");
	close(m.passed[0]);
	m.passed[0] = listen_on(m.socket, SOCK_SEQPACKET);
	expect_failure(&m, named, "let them say the same");
	for (; m.n_passed < MAX_SOCKETS; m.n_passed++)
		m.passed[m.n_passed] = fcntl(m.passed[0], F_DUPFD_CLOEXEC, 0);
	expect_failure(&m, args, "more sockets than two");
	/* Meant for another process: gpuqd looks after itself. */
	assert_int_equal(setenv("LISTEN_PID", "1", 1), 0);
	assert_int_equal(unlink(other), 0);
	manager_start(&m, named);
	await_line(&m, "READY=1");
	close(raw_client(other));
	manager_stop(&m);
	manager_close(&m);
}

/* --- Reading the configuration again ------------------------------------------------------- */

static void configure(const struct manager *m, const char *text)
{
	FILE *f = fopen(m->config, "we");

	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

static void reload(struct manager *m)
{
	const uint64_t before_us = clock_monotonic_ns() / 1000;

	assert_int_equal(kill(m->pid, SIGHUP), 0);
	const char *line = await_line(m, "MONOTONIC_USEC=");
	/* The manager drops what is older than its request. */
	assert_in_range(strtoull(line + strlen("MONOTONIC_USEC="), NULL, 10), before_us,
		clock_monotonic_ns() / 1000);
	await_line(m, "READY=1");
}

static void need_files(const struct manager *m)
{
	const char *const args[] = {
		getenv("GPUQ_TEST_GPUQD"), "-c", m->config, "--check-config", NULL};
	struct harness_output o;

	harness_exec(args, &o);
	const bool reads = strstr(o.err, "without libinih") == NULL;
	harness_output_free(&o);
	if (!reads)
		harness_skip("gpuqd was built without libinih");
}

static void test_reload(void **state)
{
	const struct msg_open open = raw_open(4096);
	struct msg_open another = open, large = raw_open(8u << 20);
	struct raw_answer first;
	struct manager m;

	manager_open(&m);
	char *const args[] = {"gpuqd", "--socket", m.socket, "-c", m.config, NULL};
	configure(&m, "max_channels_per_client = 1\nmax_clients = 9\nmax_user_bytes = 4M\n");
	need_files(&m);
	manager_start(&m, args);
	await_line(&m, "READY=1");
	const int fd = raw_client(m.socket);
	raw_open_channel(fd, &open, &first);
	raw_close_fds(&first);
	raw_send(fd, &another, MSG_OPEN, sizeof(another), 5);
	raw_expect_error(fd, -GPUQ_ELIMIT, "max_channels_per_client (1)");
	const int other = raw_client(m.socket);
	raw_send(other, &large, MSG_OPEN, sizeof(large), 5);
	raw_expect_error(other, -GPUQ_ELIMIT, "max_user_bytes (4194304)");
	configure(&m,
		"max_channels_per_client = 2\nmax_clients = 10\npoll_us = 60\n"
		"log = info,client:debug\n");
	reload(&m);
	raw_open_plain(fd);
	raw_open_channel(other, &large, &first);
	raw_close_fds(&first);
	close(other);
	close(raw_client(m.socket));
	static const char *const lines[] = {
		"read again; used from now on: max_channels_per_client, max_user_bytes, log; used "
		"when a device "
		"process starts: poll_us; only used when gpuqd starts: max_clients\n",
		"gpuqd: client: client ",
	};
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
		raw_await(log_has(&m, lines[i]));
	/* What cannot be read changes nothing, and ends nothing. */
	configure(&m, "max_channels_per_client = 3\nthis is wrong\n");
	reload(&m);
	assert_true(log_has(&m, "the configuration stays as it was: "));
	raw_send(fd, &another, MSG_OPEN, sizeof(another), 5);
	raw_expect_error(fd, -GPUQ_ELIMIT, "max_channels_per_client (2)");
	close(fd);
	manager_stop(&m);
	manager_close(&m);
}

/* --- The units ----------------------------------------------------------------------------- */

/* Copies a unit into the test's folder, with a gpuqd that is there. Returns its path; static. */
static const char *unit_copy(const char *from, const char *name)
{
	static char path[300];
	char line[1024];

	snprintf(path, sizeof(path), "%s/%s", harness_tmpdir(), name);
	FILE *in = fopen(from, "re"), *out = fopen(path, "we");
	assert_true(in != NULL && out != NULL);
	while (fgets(line, sizeof(line), in) != NULL) {
		if (strncmp(line, "ExecStart=", 10) == 0)
			fprintf(out, "ExecStart=%s\n", getenv("GPUQ_TEST_GPUQD"));
		else
			fputs(line, out);
	}
	fclose(in);
	fclose(out);
	return path;
}

/* systemd-analyze, for the units of one kind of manager; `unit` is a path in the build folder. */
static void analyze(const char *const *args, const char *unit, const char *name)
{
	const char *argv[8] = {"systemd-analyze"};
	char service[300];
	struct harness_output o;
	int n = 1;

	snprintf(service, sizeof(service), "%s", unit_copy(harness_program(unit), name));
	while (*args != NULL)
		argv[n++] = *args++;
	argv[n] = service;
	harness_exec(argv, &o);
	if (o.status == 127)
		harness_skip("systemd-analyze is not installed");
	if (o.status != 0)
		fail_msg("systemd-analyze does not like the unit: %s%s", o.out, o.err);
	/* It warns about what it ignores, and succeeds. */
	if (strcmp(argv[1], "verify") == 0 && strstr(o.err, "/gpuq") != NULL)
		fail_msg("systemd-analyze warns: %s", o.err);
	harness_output_free(&o);
}

static void copy_socket(const char *source)
{
	char from[300];

	snprintf(from, sizeof(from), "%s", harness_source(source));
	(void)unit_copy(from, "gpuqd.socket");
}

static bool has_exporter(void)
{
	return access(harness_program("tools/systemd/gpuq-exporter.service"), R_OK) == 0;
}

static void test_unit_is_understood(void **state)
{
	const char *const args[] = {"verify", "--man=no", NULL};

	copy_socket("daemon/systemd/gpuqd.socket");
	analyze(args, "daemon/systemd/gpuqd.service", "gpuqd.service");
	copy_socket("daemon/systemd/user-gpuqd.socket");
	analyze(args, "daemon/systemd/user-gpuqd.service", "gpuqd.service");
	if (!has_exporter())
		return;
	analyze(args, "tools/systemd/gpuq-exporter.service", "gpuq-exporter.service");
	analyze(args, "tools/systemd/user-gpuq-exporter.service", "gpuq-exporter.service");
}

/* In tenths; what is left open is named in the unit, with the reason. */
static void test_unit_is_hardened(void **state)
{
	const char *const args[] = {"security", "--offline=true", "--threshold=15", NULL};

	copy_socket("daemon/systemd/gpuqd.socket");
	analyze(args, "daemon/systemd/gpuqd.service", "gpuqd.service");
	if (has_exporter())
		analyze(args, "tools/systemd/gpuq-exporter.service", "gpuq-exporter.service");
}

/* Runs a program of systemd's on a file of ours, below a folder of the test's. */
static void run_below(const char *program, const char *option, const char *file, const char *made)
{
	char root[300], from[300], path[400];
	const char *argv[] = {program, root, from, option, NULL};
	struct harness_output o;
	struct stat st;

	snprintf(root, sizeof(root), "--root=%s", harness_tmpdir());
	snprintf(from, sizeof(from), "%s", harness_source(file));
	harness_exec(argv, &o);
	if (o.status == 127)
		harness_skip("%s is not installed", program);
	snprintf(path, sizeof(path), "%s/%s", harness_tmpdir(), made);
	if (o.status != 0 || stat(path, &st) < 0)
		fail_msg("%s made no %s: %s%s", program, made, o.out, o.err);
	harness_output_free(&o);
}

static void test_user_and_folder(void **state)
{
	char etc[300];

	if (geteuid() != 0)
		harness_skip("only root can make a folder for another user");
	snprintf(etc, sizeof(etc), "%s/etc", harness_tmpdir());
	assert_int_equal(mkdir(etc, 0755), 0);
	run_below("systemd-sysusers", NULL, "daemon/systemd/sysusers.conf", "etc/passwd");
	run_below("systemd-tmpfiles", "--create", "daemon/systemd/tmpfiles.conf", "run/gpuq");
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_told),
		HARNESS_TEST(test_watchdog),
		HARNESS_TEST(test_environment_ends_here),
		HARNESS_TEST(test_nobody_listens),
		HARNESS_TEST(test_activation),
		HARNESS_TEST(test_activation_of_both),
		HARNESS_TEST(test_sockets_that_do_not_fit),
		HARNESS_TEST(test_reload),
		HARNESS_TEST(test_unit_is_understood),
		HARNESS_TEST(test_unit_is_hardened),
		HARNESS_TEST(test_user_and_folder),
	};

	return harness_run("service", tests, sizeof(tests) / sizeof(tests[0]));
}
