/* SPDX-License-Identifier: MIT */
/* The log: levels of topics, the journal's priorities, limits of one cause, a reader that stops. */
#define LOG_TOPIC LOG_MODEL
#include "daemon/log.h"

#include "tests/harness.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int usual_stderr;

/* Standard error is `fd` until the next call of stderr_back(); closes it. */
static void stderr_to(int fd)
{
	assert_true(fd >= 0);
	usual_stderr = dup(STDERR_FILENO);
	assert_true(usual_stderr >= 0);
	assert_int_equal(dup2(fd, STDERR_FILENO), STDERR_FILENO);
	close(fd);
}

static void stderr_back(void)
{
	assert_int_equal(dup2(usual_stderr, STDERR_FILENO), STDERR_FILENO);
	close(usual_stderr);
}

/* From now on what is logged goes to a file, until log_text() returns it. */
static void log_to_file(void)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/log", harness_tmpdir());
	stderr_to(open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
}

static const char *log_text(void)
{
	static char text[65536];
	const ssize_t n = pread(STDERR_FILENO, text, sizeof(text) - 1, 0);

	stderr_back();
	assert_true(n >= 0);
	text[n] = '\0';
	return text;
}

static void test_levels(void **state)
{
	static const char *const bad[] = {"", "loud", "warn,", ",warn", "ring",
		"ring:", "ring:loud", ":warn", "rings:warn", "warn,ring:debug,", "warn ",
		"ring:warn:debug"};
	struct log_levels l = {{0}};

	assert_true(log_levels_parse("debug", &l));
	assert_int_equal(l.most[LOG_CONTROL], LOG_LEVEL_DEBUG);
	assert_int_equal(l.most[LOG_STATS], LOG_LEVEL_DEBUG);
	/* Whatever their order: what stands alone is for those that are not named. */
	static const char *const same[] = {
		"warn,ring:debug,model:error", "ring:debug,model:error,warn"};
	for (size_t i = 0; i < 2; i++) {
		assert_true(log_levels_parse(same[i], &l));
		assert_int_equal(l.most[LOG_RING], LOG_LEVEL_DEBUG);
		assert_int_equal(l.most[LOG_MODEL], LOG_LEVEL_ERROR);
		assert_int_equal(l.most[LOG_CLIENT], LOG_LEVEL_WARN);
	}
	assert_true(log_levels_parse("graph:debug", &l));
	assert_int_equal(l.most[LOG_GRAPH], LOG_LEVEL_DEBUG);
	assert_int_equal(l.most[LOG_RING], LOG_LEVEL_INFO);
	const struct log_levels before = l;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (log_levels_parse(bad[i], &l))
			fail_msg("'%s' was understood", bad[i]);
		assert_memory_equal(&l, &before, sizeof(l));
	}
}

static void test_topics(void **state)
{
	log_to_file();
	log_init("who");
	log_configure("warn,model:debug");
	log_debug("shown %d", 7);
	log_line(LOG_RING, LOG_LEVEL_INFO, "not shown");
	log_line(LOG_RING, LOG_LEVEL_WARN, "two\nlines\x01");
	assert_string_equal(log_text(), "who: model: shown 7\nwho: ring: two lines \n");
	log_configure("error,ring:info");
	log_configure("not understood: nothing changes");
	log_to_file();
	log_warn("not shown");
	log_line(LOG_RING, LOG_LEVEL_INFO, "shown");
	assert_string_equal(log_text(), "who: ring: shown\n");
}

static void test_journal(void **state)
{
	struct stat st;
	char stream[64];

	log_to_file();
	assert_int_equal(fstat(STDERR_FILENO, &st), 0);
	snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)st.st_dev,
		(unsigned long long)st.st_ino);
	assert_int_equal(setenv("JOURNAL_STREAM", stream, 1), 0);
	log_init("who");
	log_error("a");
	log_warn("b");
	log_info("c");
	assert_string_equal(log_text(), "<3>model: a\n<4>model: b\n<6>model: c\n");
	/* Standard error has been sent elsewhere since. */
	log_to_file();
	assert_int_equal(setenv("JOURNAL_STREAM", "1:1", 1), 0);
	log_init("who");
	log_error("a");
	assert_string_equal(log_text(), "who: model: a\n");
}

static void test_limit(void **state)
{
	struct log_limit limit = {.topic = LOG_CLIENT, .level = LOG_LEVEL_WARN};
	struct log_limit hidden = {.topic = LOG_CLIENT, .level = LOG_LEVEL_DEBUG};

	log_to_file();
	log_init("who");
	for (int i = 1; i <= 12; i++) {
		log_line_limited(&limit, "line %d", i);
		log_line_limited(&hidden, "line %d", i);
	}
	assert_string_equal(log_text(),
		"who: client: line 1\nwho: client: line 2\n"
		"who: client: line 3\nwho: client: line 4\n"
		"who: client: line 5\n");
	log_to_file();
	log_tick();
	assert_string_equal(log_text(), "");
	/* Eleven seconds later. */
	log_to_file();
	limit.window_ns -= 11ull * 1000000000u;
	log_tick();
	assert_string_equal(
		log_text(), "who: client: 7 more lines were left out, the last: line 12\n");
	log_to_file();
	log_tick();
	log_line_limited(&limit, "line %d", 13);
	assert_string_equal(log_text(), "who: client: line 13\n");
	assert_int_equal(hidden.lost, 0);
}

/* A full pipe costs lines, which are counted, and no time. */
static void test_reader_stops(void **state)
{
	char text[4096];
	int pipe_fds[2];

	assert_int_equal(pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK), 0);
	stderr_to(pipe_fds[1]);
	assert_int_equal(fcntl(STDERR_FILENO, F_SETPIPE_SZ, 4096), 4096);
	log_init("who");
	for (int i = 0; i < 1000; i++)
		log_info("a line that is long enough for the pipe to be full after some of them");
	while (read(pipe_fds[0], text, sizeof(text)) > 0)
		;
	log_info("again");
	stderr_back();
	const ssize_t n = read(pipe_fds[0], text, sizeof(text) - 1);
	assert_true(n > 0);
	text[n] = '\0';
	if (strstr(text, "who: model: (9") != text || strstr(text, " lines lost) again\n") == NULL)
		fail_msg("what came was: %s", text);
	close(pipe_fds[0]);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_levels),
		HARNESS_TEST(test_topics),
		HARNESS_TEST(test_journal),
		HARNESS_TEST(test_limit),
		HARNESS_TEST(test_reader_stops),
	};

	return harness_run("log", tests, sizeof(tests) / sizeof(tests[0]));
}
