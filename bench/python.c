/* SPDX-License-Identifier: MIT */
/* python.c: runs a program that is compiled in with the user's Python, and takes its JSON. */
#include "bench/bench.h"

#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_ARGUMENTS 12

static int start(const struct bench *b, const char *program, const char *const *arguments,
	int *ret_fd, pid_t *ret_pid)
{
	const char *argv[MAX_ARGUMENTS + 4] = {b->python, "-c", program};
	int fds[2];

	for (int i = 0; i < MAX_ARGUMENTS && arguments[i] != NULL; i++)
		argv[3 + i] = arguments[i];
	if (pipe(fds) < 0)
		return -errno;
	pid_t pid = fork();
	if (pid == 0) {
		dup2(fds[1], STDOUT_FILENO);
		execvp(b->python, (char *const *)argv);
		_exit(127);
	}
	close(fds[1]);
	if (pid < 0) {
		close(fds[0]);
		return -errno;
	}
	*ret_fd = fds[0];
	*ret_pid = pid;
	return 0;
}

json_t *python_measure(
	const struct bench *b, const char *what, const char *program, const char *const *arguments)
{
	json_t *answer = NULL;
	json_error_t error;
	pid_t pid = -1;
	int fd = -1;

	progress("%s", what);
	if (start(b, program, arguments, &fd, &pid) == 0) {
		answer = json_loadfd(fd, JSON_DISABLE_EOF_CHECK, &error);
		close(fd);
		waitpid(pid, NULL, 0);
	}
	const char *reason = json_string_value(json_object_get(answer, "error"));

	if (answer == NULL)
		complain(
			0, "no comparison with %s: %s did not run (see --python)", what, b->python);
	else if (reason != NULL)
		complain(0, "no comparison with %s: %s (see --python)", what, reason);
	else
		return answer;
	json_decref(answer);
	return NULL;
}
