/* SPDX-License-Identifier: MIT */
/*
 * harness.h: what every test program of gpuq stands on: a thin layer over cmocka.
 *
 *	static void test_x(void **state) { assert_int_equal(1 + 1, 2); }
 *
 *	int main(void)
 *	{
 *		static const struct harness_test tests[] = {HARNESS_TEST(test_x)};
 *		return harness_run("example", tests, 1);
 *	}
 *
 * Each test runs in a process of its own, with a private temporary directory that is also its
 * XDG_RUNTIME_DIR and XDG_STATE_HOME, and fails when an assertion fails, when it crashes, when it
 * does not end in time, or when it leaves open descriptors or running processes behind. Its output
 * is shown only when it fails. One TAP line is printed for each test; exit status 0, 1, or 77 when
 * all of them were skipped. A child that a test forks ends with _exit().
 *
 *	TEST_TIMEOUT=SECONDS   of one test; 20 by default, more under a sanitizer
 *	TEST_FILTER=GLOB       runs only the tests whose name matches
 *	TEST_VERBOSE=1         shows the output of every test
 *	TEST_LONG=1            runs the longer form of tests that have one; ./check --long
 */
#ifndef GPUQ_TESTS_HARNESS_H
#define GPUQ_TESTS_HARNESS_H

/* cmocka.h wants these, in this order. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdbool.h>
#include <sys/types.h>

struct harness_test {
	const char *name;
	void (*run)(void **state);
	unsigned int timeout_s; /* 0: the usual one */
};

#define HARNESS_TEST(function)                     \
	{                                          \
		.name = #function, .run = function \
	}
/* For a test that is known to need longer; sanitizers multiply this one too. */
#define HARNESS_TEST_LONG(function, seconds)                               \
	{                                                                  \
		.name = #function, .run = function, .timeout_s = (seconds) \
	}

/* Runs the tests, prints the results, returns the exit status of the program. */
int harness_run(const char *suite, const struct harness_test *tests, size_t n);

/* Ends the running test as skipped. To be called in the test's own process. */
void harness_skip(const char *reason, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* What is open now is not the test's to close: a library has opened it and keeps it. */
void harness_keep_fds(void);

/* The running test's private directory; removed with everything in it when the test ends. */
const char *harness_tmpdir(void);

/* Whether TEST_LONG asks for the longer form of tests. */
bool harness_long(void);

/* How much slower this build may be than a plain one: 1, more under a sanitizer. */
unsigned int harness_slowness(void);

/* Whether GPUQ_DEVICE has gpuqd drive a GPU: faster, and without memory that a test can map. */
bool harness_on_gpu(void);

/* --- Running programs ---------------------------------------------------------------------- */

struct harness_output {
	int status; /* exit status, or 128 + the signal that ended it */
	char *out, *err;
};

/*
 * Runs a program to its end without a shell, standard input empty, and keeps what it printed;
 * harness_output_free() releases that. argv[0] is a path or is looked up in PATH.
 */
void harness_exec(const char *const *argv, struct harness_output *ret_output);
void harness_output_free(struct harness_output *output);

/*
 * Starts a program, which ends with the calling thread at the latest; the caller waits for it. Its
 * output goes where the descriptors say, -1: where the test's own goes.
 */
pid_t harness_spawn(const char *const *argv, int out, int err);

/* Path of a program in the build folder: harness_program("tools/gpuq"). Static. */
const char *harness_program(const char *path);

/* Path of a file in the source tree. Static. */
const char *harness_source(const char *path);

/* --- A private gpuqd ----------------------------------------------------------------------- */

struct harness_daemon {
	pid_t pid;	  /* of the control process; 0 once it has been waited for */
	char socket[200]; /* where gpuq_connect(NULL, ...) of this test finds it too */
	char log[200];	  /* what it prints; shown when the test fails */
};

/*
 * Starts $GPUQ_TEST_GPUQD on the test's private directory, with more arguments when args (ending
 * with NULL) is not NULL, and returns when it serves and its first device is ready. Fails the
 * test when it ends before that. A second call after a kill starts it on the same socket.
 */
struct harness_daemon *harness_daemon_start(const char *const *args);

/* Kills it as a crash would, and waits for its end. */
void harness_daemon_kill(struct harness_daemon *daemon);

/* Asks it to end (SIGTERM), waits, and returns its exit status, or 128 + signal. */
int harness_daemon_stop(struct harness_daemon *daemon);

/* Stops it if it still runs (any status but 0 fails the test), then frees. NULL is fine. */
void harness_daemon_destroy(struct harness_daemon *daemon);

#endif
