/* SPDX-License-Identifier: MIT */
/*
 * running.h: a command that runs in the background, while the test does something to it. Its output
 * comes through a pipe so short that one with much to say waits until the test reads.
 */
#ifndef GPUQ_TESTS_INTEGRATION_RUNNING_H
#define GPUQ_TESTS_INTEGRATION_RUNNING_H

#include "tests/harness.h"

#include <sys/types.h>

struct running {
	pid_t pid;
	int out, err; /* the pipe's end to read from; a memfd */
	char *text;   /* what was read, with a zero behind it */
	size_t bytes;
};

void running_start(struct running *r, const char *const *argv);

/* Reads until so much is there; fails the test when it ends before that. */
void running_await_output(struct running *r, size_t bytes);

/* Reads to its end; fails the test unless it exits with that, and said so on standard error. */
void running_expect_end(struct running *r, int status, const char *why);

void running_free(struct running *r);

#endif
