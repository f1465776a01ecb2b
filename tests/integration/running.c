/* SPDX-License-Identifier: MIT */
/* running.c: see running.h. */
#include "tests/integration/running.h"

#include <fcntl.h>
#include <string.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PIPE_BYTES 4096 /* the least that there is */

void running_start(struct running *r, const char *const *argv)
{
	int fds[2];

	*r = (struct running){.err = memfd_create("err", MFD_CLOEXEC)};
	assert_true(r->err >= 0);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	assert_true(fcntl(fds[0], F_SETPIPE_SZ, PIPE_BYTES) > 0);
	r->pid = harness_spawn(argv, fds[1], r->err);
	close(fds[1]);
	r->out = fds[0];
}

/* False at its end. */
static bool read_more(struct running *r)
{
	r->text = realloc(r->text, r->bytes + PIPE_BYTES + 1);
	assert_non_null(r->text);
	const ssize_t n = read(r->out, r->text + r->bytes, PIPE_BYTES);
	assert_true(n >= 0);
	r->bytes += (size_t)n;
	r->text[r->bytes] = '\0';
	return n > 0;
}

void running_await_output(struct running *r, size_t bytes)
{
	while (r->bytes < bytes)
		if (!read_more(r))
			running_expect_end(r, -1, "to go on");
}

void running_expect_end(struct running *r, int status, const char *why)
{
	char err[1000] = "";
	int s;

	while (read_more(r))
		;
	close(r->out);
	assert_int_equal(waitpid(r->pid, &s, 0), r->pid);
	assert_true(pread(r->err, err, sizeof(err) - 1, 0) >= 0);
	close(r->err);
	if (!WIFEXITED(s) || WEXITSTATUS(s) != status || strstr(err, why) == NULL)
		fail_msg("wait status %#x '%s', wanted exit status %d '%s'", (unsigned int)s, err,
			status, why);
}

void running_free(struct running *r)
{
	free(r->text);
	r->text = NULL;
}
