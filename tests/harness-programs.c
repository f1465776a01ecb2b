/* SPDX-License-Identifier: MIT */
/*
 * harness-programs.c: the harness's means to run other programs: once to their end, or a gpuqd
 * of the test's own in the background.
 */
#include "tests/harness.h"

#include "shm/stats.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARGS_MAX 64
#define START_TIMEOUT_MS 15000
#define STOP_TIMEOUT_MS 15000

static const char *path_under(const char *variable, const char *path)
{
	static char text[4096];
	const char *root = getenv(variable);

	if (root == NULL)
		fail_msg("%s is not set; run this with `meson test`", variable);
	snprintf(text, sizeof(text), "%s/%s", root, path);
	return text;
}

const char *harness_program(const char *path)
{
	return path_under("GPUQ_TEST_BUILD", path);
}

const char *harness_source(const char *path)
{
	return path_under("GPUQ_TEST_SOURCE", path);
}

pid_t harness_spawn(const char *const *argv, int out, int err)
{
	pid_t pid = fork();

	if (pid != 0) {
		assert_true(pid > 0);
		return pid;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (out >= 0)
		dup2(out, STDOUT_FILENO);
	if (err >= 0)
		dup2(err, STDERR_FILENO);
	execvp(argv[0], (char *const *)argv);
	fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

static int exit_status(int status)
{
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* Everything that was written to a memfd, as a string; closes it. */
static char *slurp(int fd)
{
	off_t size = lseek(fd, 0, SEEK_END);
	char *text = calloc(1, (size_t)size + 1);

	assert_non_null(text);
	assert_int_equal(pread(fd, text, (size_t)size, 0), size);
	close(fd);
	return text;
}

void harness_exec(const char *const *argv, struct harness_output *ret_output)
{
	int out = memfd_create("out", MFD_CLOEXEC), err = memfd_create("err", MFD_CLOEXEC);
	int status;

	assert_true(out >= 0 && err >= 0);
	pid_t pid = harness_spawn(argv, out, err);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	ret_output->status = exit_status(status);
	ret_output->out = slurp(out);
	ret_output->err = slurp(err);
	print_message("%s: status %d\n%s%s", argv[0], ret_output->status, ret_output->out,
		ret_output->err);
}

void harness_output_free(struct harness_output *output)
{
	free(output->out);
	free(output->err);
	*output = (struct harness_output){0};
}

/* The daemon says in its statistics when it serves; asking there disturbs none of its counters. */
static bool serving(const struct harness_daemon *d)
{
	struct stats stats;

	if (stats_open(d->socket, false, &stats) < 0)
		return false;
	/* In a PID namespace that the test has made it is the first process. */
	const uint32_t pid = stats.header->control_pid;
	bool ready = (pid == (uint32_t)d->pid || pid == 1) &&
		shm_load_acquire_u32(&stats.header->state) == WIRE_SERVING &&
		shm_load_acquire_u32(&stats.devices[0].state) == STATS_DEVICE_READY;
	stats_close(&stats);
	return ready;
}

/* True when it has ended, which is then noted. */
static bool ended(struct harness_daemon *d, int *ret_status)
{
	int status;

	if (waitpid(d->pid, &status, WNOHANG) != d->pid)
		return false;
	*ret_status = exit_status(status);
	d->pid = 0;
	return true;
}

static void await_serving(struct harness_daemon *d)
{
	int status;

	for (unsigned int ms = 0; ms < START_TIMEOUT_MS * harness_slowness(); ms += 5) {
		if (serving(d))
			return;
		if (ended(d, &status))
			fail_msg("gpuqd ended at once with status %d; its log follows", status);
		poll(NULL, 0, 5);
	}
	fail_msg("gpuqd does not serve; its log follows");
}

struct harness_daemon *harness_daemon_start(const char *const *args)
{
	const char *argv[ARGS_MAX] = {getenv("GPUQ_TEST_GPUQD"), "--socket"};
	struct harness_daemon *d = calloc(1, sizeof(*d));
	int n = 3;

	assert_non_null(d);
	if (argv[0] == NULL)
		fail_msg("GPUQ_TEST_GPUQD is not set; run this with `meson test`");
	snprintf(d->socket, sizeof(d->socket), "%s/gpuq-0", harness_tmpdir());
	snprintf(d->log, sizeof(d->log), "%s/gpuqd.log", harness_tmpdir());
	argv[2] = d->socket;
	while (args != NULL && *args != NULL && n < ARGS_MAX - 1)
		argv[n++] = *args++;

	int log = open(d->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	assert_true(log >= 0);
	d->pid = harness_spawn(argv, log, log);
	close(log);
	await_serving(d);
	return d;
}

void harness_daemon_kill(struct harness_daemon *daemon)
{
	assert_true(daemon->pid > 0);
	kill(daemon->pid, SIGKILL);
	waitpid(daemon->pid, NULL, 0);
	daemon->pid = 0;
}

int harness_daemon_stop(struct harness_daemon *daemon)
{
	int status = 0;

	assert_true(daemon->pid > 0);
	kill(daemon->pid, SIGTERM);
	for (unsigned int ms = 0; ms < STOP_TIMEOUT_MS * harness_slowness(); ms += 5) {
		if (ended(daemon, &status))
			return status;
		poll(NULL, 0, 5);
	}
	fail_msg("gpuqd does not end after SIGTERM");
	return -1;
}

void harness_daemon_destroy(struct harness_daemon *daemon)
{
	if (daemon == NULL)
		return;
	if (daemon->pid > 0)
		assert_int_equal(harness_daemon_stop(daemon), 0);
	free(daemon);
}
