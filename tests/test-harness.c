/* SPDX-License-Identifier: MIT */
/*
 * test-harness.c: the harness watched by itself. Run with an argument, this program is a suite of
 * tests that misbehave; run without, it checks that each of them is caught.
 */
#include "tests/harness.h"

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void bad_assertion(void **state)
{
	printf("printed before the failure\n");
	assert_int_equal(1, 2);
}

static void bad_crash(void **state)
{
	raise(SIGSEGV);
}

static void bad_hang(void **state)
{
	for (;;)
		pause();
}

static void bad_descriptor(void **state)
{
	assert_true(open("/dev/null", O_RDONLY) >= 0);
}

/* In a session of its own and orphaned: out of reach of the test's process group. */
static void bad_child(void **state)
{
	pid_t pid = fork();

	if (pid != 0)
		return;
	setsid();
	if (fork() != 0)
		_exit(0);
	for (;;)
		pause();
}

static void bad_exit(void **state)
{
	exit(3);
}

static void good_pass(void **state)
{
	assert_non_null(harness_tmpdir());
}

static void good_skip(void **state)
{
	harness_skip("no %s here", "flux");
}

static const struct harness_test victims[] = {
	HARNESS_TEST(bad_assertion),
	HARNESS_TEST(bad_crash),
	HARNESS_TEST(bad_hang),
	HARNESS_TEST(bad_descriptor),
	HARNESS_TEST(bad_child),
	HARNESS_TEST(bad_exit),
	HARNESS_TEST(good_pass),
	HARNESS_TEST(good_skip),
};

/* Runs the victims whose names match; returns what the runner printed. */
static struct harness_output run_victims(const char *filter, const char *timeout_s)
{
	const char *argv[] = {"/proc/self/exe", "victims", NULL};
	struct harness_output output;
	char self[4096];

	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	assert_true(n > 0);
	self[n] = '\0';
	argv[0] = self;
	setenv("TEST_FILTER", filter, 1);
	if (timeout_s != NULL)
		setenv("TEST_TIMEOUT", timeout_s, 1);
	harness_exec(argv, &output);
	return output;
}

static void expect(const char *filter, const char *timeout_s, int status, const char *line)
{
	struct harness_output output = run_victims(filter, timeout_s);

	assert_int_equal(output.status, status);
	assert_non_null(strstr(output.out, line));
	harness_output_free(&output);
}

static void test_pass(void **state)
{
	expect("good_pass", NULL, 0, "ok 1 - victims: good_pass\n1..1\n");
}

static void test_skip(void **state)
{
	expect("good_skip", NULL, 77, "ok 1 - victims: good_skip # SKIP no flux here\n");
	expect("good_*", NULL, 0, "1..2\n");
}

static void test_assertion_is_reported(void **state)
{
	expect("bad_assertion", NULL, 1, "not ok 1 - victims: bad_assertion");
	expect("bad_assertion", NULL, 1, "# printed before the failure\n");
	expect("bad_assertion", NULL, 1, "0x1 != 0x2");
}

static void test_crash_is_reported(void **state)
{
	struct harness_output output = run_victims("bad_crash", NULL);

	/* A sanitizer reports the signal itself and exits. */
	assert_int_equal(output.status, 1);
	assert_non_null(strstr(output.out, "not ok 1 - victims: bad_crash"));
	if (harness_slowness() == 1)
		assert_non_null(strstr(output.out, "killed by signal 11"));
	harness_output_free(&output);
}

static void test_hang_is_killed(void **state)
{
	expect("bad_hang", "1", 1, "not ok 1 - victims: bad_hang # timed out after 1 s\n");
}

static void test_leaked_descriptor_is_found(void **state)
{
	expect("bad_descriptor", NULL, 1, ": /dev/null\n");
}

static void test_orphan_is_found_and_killed(void **state)
{
	expect("bad_child", NULL, 1, "processes left behind");
}

static void test_exit_is_reported(void **state)
{
	expect("bad_exit", NULL, 1, "not ok 1 - victims: bad_exit # exit status 3\n");
}

static void test_exec_keeps_output(void **state)
{
	const char *argv[] = {"sh", "-c", "echo out; echo err >&2; exit 5", NULL};
	struct harness_output output;

	harness_exec(argv, &output);
	assert_int_equal(output.status, 5);
	assert_string_equal(output.out, "out\n");
	assert_string_equal(output.err, "err\n");
	harness_output_free(&output);
}

int main(int argc, char **argv)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_pass),
		HARNESS_TEST(test_skip),
		HARNESS_TEST(test_assertion_is_reported),
		HARNESS_TEST(test_crash_is_reported),
		HARNESS_TEST(test_hang_is_killed),
		HARNESS_TEST(test_leaked_descriptor_is_found),
		HARNESS_TEST_LONG(test_orphan_is_found_and_killed, 40),
		HARNESS_TEST(test_exit_is_reported),
		HARNESS_TEST(test_exec_keeps_output),
	};

	(void)argv;
	if (argc > 1)
		return harness_run("victims", victims, sizeof(victims) / sizeof(victims[0]));
	return harness_run("harness", tests, sizeof(tests) / sizeof(tests[0]));
}
