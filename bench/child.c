/* SPDX-License-Identifier: MIT */
/* child.c: runs another program and takes the JSON that it prints. */
#include "bench/bench.h"

#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

static int start(const char *const *argv, int *ret_fd, pid_t *ret_pid)
{
	int fds[2];

	if (pipe(fds) < 0)
		return -errno;
	pid_t pid = fork();
	if (pid == 0) {
		dup2(fds[1], STDOUT_FILENO);
		close(fds[0]);
		execvp(argv[0], (char *const *)argv);
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

json_t *child_json(const char *const *argv)
{
	json_t *answer = NULL;
	json_error_t error;
	char rest[256];
	pid_t pid = -1;
	int fd = -1;

	if (start(argv, &fd, &pid) == 0) {
		answer = json_loadfd(fd, JSON_DISABLE_EOF_CHECK, &error);
		/* Closed before the last newline, the pipe would be an error to the child. */
		while (read(fd, rest, sizeof(rest)) > 0)
			;
		close(fd);
		waitpid(pid, NULL, 0);
	}
	return answer;
}
