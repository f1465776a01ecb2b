/* SPDX-License-Identifier: MIT */
/*
 * The program gpuq-top on a synthetic statistics object: batch output, JSON, errors, and the
 * screen, which tmux holds at several sizes.
 */
#include "tests/harness.h"

#include "tests/tools/synthetic.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WAIT_MS 10000 /* for the screen to show something */

static char socket_path[256], object[STATS_PATH_MAX];
static char top[512], tmux_socket[300];

/* Starts a process that plays gpuqd; returns when its object is there. */
static pid_t start_daemon(const char *clients, const char *channels)
{
	char byte;
	int ready[2];

	snprintf(socket_path, sizeof(socket_path), "%s/gpuq-0", harness_tmpdir());
	snprintf(tmux_socket, sizeof(tmux_socket), "%s/tmux", harness_tmpdir());
	snprintf(top, sizeof(top), "%s", harness_program("tools/gpuq-top"));
	stats_name(socket_path, object, sizeof(object));
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	const char *const argv[] = {harness_program("tests/tools/synthetic-gpuqd"), socket_path,
		clients, channels, NULL};
	pid_t pid = harness_spawn(argv, ready[1], -1);
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return pid;
}

static void end_daemon(pid_t pid, int signal)
{
	kill(pid, signal);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void run_top(const char *const *options, struct harness_output *out)
{
	const char *argv[16] = {top};
	int n = 1;

	while (*options != NULL)
		argv[n++] = *options++;
	harness_exec(argv, out);
}

#define TOP(out, ...) run_top((const char *const[]){__VA_ARGS__, NULL}, out)

static void batch_prints_every_table(void **state)
{
	pid_t pid = start_daemon("3", "4");
	struct harness_output out;

	TOP(&out, "-s", socket_path, "-b", "-n", "2", "-d", "0.2");
	assert_int_equal(out.status, 0);
	assert_string_equal(out.err, "");
	assert_non_null(strstr(out.out, "serving"));
	assert_non_null(strstr(out.out, "Synthetic 9000"));
	assert_non_null(strstr(out.out, "stalled"));
	assert_non_null(strstr(out.out, "parked"));
	assert_non_null(strstr(out.out, "softmax"));
	/* Two iterations: the first has no rates. */
	char *second = strstr(out.out + 1, "gpuqd 0.1.0");
	assert_non_null(second);
	assert_null(strstr(second + 1, "gpuqd 0.1.0"));
	assert_true(strncmp(strchr(out.out, '\n') + 1, "-/s", 3) == 0);
	assert_true(strncmp(strchr(second, '\n') + 1, "-/s", 3) != 0);
	harness_output_free(&out);
	end_daemon(pid, SIGTERM);
}

static void json_is_one_document_in_a_line(void **state)
{
	pid_t pid = start_daemon("3", "4");
	struct harness_output out;
	int documents = 0;
	char *rest;

	TOP(&out, "--json", "-n", "3", "-d", "0.1", "--socket", socket_path);
	assert_int_equal(out.status, 0);
	for (char *line = strtok_r(out.out, "\n", &rest); line != NULL;
		line = strtok_r(NULL, "\n", &rest)) {
		json_t *d = json_loads(line, 0, NULL);
		const char *schema, *daemon_state;
		json_t *devices, *clients, *channels, *ops, *rate, *trouble, *errors, *history;
		int pid_there;

		assert_non_null(d);
		assert_int_equal(
			json_unpack(d, "{s:s, s:o, s:{s:i, s:s, s:o}, s:o, s:o, s:o, s:o}",
				"schema", &schema, "trouble", &trouble, "daemon", "pid", &pid_there,
				"state", &daemon_state, "rate_per_s", &rate, "devices", &devices,
				"clients", &clients, "channels", &channels, "ops", &ops),
			0);
		assert_string_equal(schema, "gpuq-stats/1");
		assert_int_equal(pid_there, pid);
		assert_string_equal(daemon_state, "serving");
		assert_true(json_is_null(trouble));
		assert_true(documents == 0 ? json_is_null(rate) : json_is_real(rate));
		assert_int_equal(json_array_size(devices), 1);
		assert_int_equal(json_array_size(clients), 3);
		assert_int_equal(json_array_size(channels), 4);
		assert_int_equal(json_array_size(ops), 2);
		errors = json_object_get(d, "errors");
		assert_int_equal(json_array_size(errors), 3);
		assert_int_equal(json_array_size(json_object_get(d, "graphs")), 3);
		assert_int_equal(json_array_size(json_object_get(d, "sessions")), 1);
		assert_int_equal(json_array_size(json_object_get(d, "pipelines")), 1);
		history = json_object_get(json_array_get(channels, 0), "rate_history_per_s");
		assert_true(json_is_null(json_array_get(history, 0)));
		json_decref(d);
		documents++;
	}
	assert_int_equal(documents, 3);
	harness_output_free(&out);
	end_daemon(pid, SIGTERM);
}

static void a_dead_daemon_is_said_to_be_dead(void **state)
{
	pid_t pid = start_daemon("2", "2");
	struct harness_output out;
	char expected[64], file[300];

	end_daemon(pid, SIGKILL);
	snprintf(expected, sizeof(expected), "last state, gpuqd %d is gone", pid);
	assert_int_equal(chdir(harness_tmpdir()), 0);
	TOP(&out, "-b", "-n", "1", "-s", "gpuq-0");
	assert_int_equal(out.status, 0);
	assert_int_equal(strncmp(out.out, expected, strlen(expected)), 0);
	assert_non_null(strstr(out.out, "scorer"));
	harness_output_free(&out);

	snprintf(file, sizeof(file), "/dev/shm%s", object);
	TOP(&out, "-b", "-n", "1", "--file", file);
	assert_int_equal(out.status, 0);
	assert_int_equal(strncmp(out.out, expected, strlen(expected)), 0);
	harness_output_free(&out);
	shm_unlink(object);
}

static void wrong_usage_is_refused(void **state)
{
	static const struct {
		const char *arguments[4];
		int status;
		const char *message;
	} cases[] = {
		{{"--nonsense"}, 2, "--nonsense"},
		{{"-n", "0"}, 2, "gpuq-top: --iterations: '0'"},
		{{"-n", "-1"}, 2, "gpuq-top: --iterations: '-1'"},
		{{"-d", "soon"}, 2, "gpuq-top: --delay: 'soon'"},
		{{"-d", "nan"}, 2, "gpuq-top: --delay: 'nan'"},
		{{"what"}, 2, "gpuq-top: unexpected argument 'what'"},
		{{"-b", "-s/x", "-f/y"}, 2, "exclude each other"},
		{{"-b", "-s", "/nowhere/x"}, 1,
			"gpuq-top: no daemon at /nowhere/x; start gpuqd or set GPUQ_SOCKET"},
		{{"-b", "-f", "/nowhere/x"}, 1, "gpuq-top: /nowhere/x: No such file"},
		{{"-b", "-f", "/proc/self/exe"}, 1, "damaged or of another version"},
	};
	struct harness_output out;

	end_daemon(start_daemon("1", "1"), SIGTERM);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		run_top(cases[i].arguments, &out);
		if (out.status != cases[i].status || strstr(out.err, cases[i].message) == NULL)
			fail_msg("%s: %d %s", cases[i].message, out.status, out.err);
		assert_string_equal(out.out, "");
		harness_output_free(&out);
	}
	TOP(&out, "--help");
	assert_int_equal(out.status, 0);
	assert_non_null(strstr(out.out, "Usage: gpuq-top"));
	harness_output_free(&out);
	TOP(&out, "--version");
	assert_int_equal(out.status, 0);
	assert_non_null(strstr(out.out, "gpuq-top 0."));
	harness_output_free(&out);
}

static void without_a_terminal_batch_is_named(void **state)
{
	pid_t pid = start_daemon("1", "1");
	struct harness_output out;

	TOP(&out, "-s", socket_path);
	assert_int_equal(out.status, 1);
	assert_non_null(strstr(out.err, "use --batch"));
	harness_output_free(&out);
	end_daemon(pid, SIGTERM);
}

/* --- The screen ---------------------------------------------------------------------------- */

static char *tmux(const char *const *arguments)
{
	const char *argv[24] = {"tmux", "-S", tmux_socket, "-f", "/dev/null"};
	struct harness_output out;
	int n = 5;

	while (*arguments != NULL)
		argv[n++] = *arguments++;
	harness_exec(argv, &out);
	if (out.status != 0)
		fail_msg("tmux %s: %s", argv[5], out.err);
	free(out.err);
	return out.out;
}

#define TMUX(...) free(tmux((const char *const[]){__VA_ARGS__, NULL}))

static char *capture(void)
{
	return tmux((const char *const[]){"capture-pane", "-p", "-t", "top", NULL});
}

/* The last line of a screen, where the keys are. */
static const char *last_line(const char *screen)
{
	const char *line = screen;

	for (const char *at = screen; *at != '\0'; at++) {
		if (*at == '\n' && at[1] != '\0' && at[1] != '\n')
			line = at + 1;
	}
	return line;
}

static bool shows(const char *screen, const char *text)
{
	return strstr(screen, text) != NULL;
}

/* The keys are drawn last: a screen that has them in its last line is a whole one. */
static bool shows_wholly(const char *screen, const char *text)
{
	return shows(screen, text) && strncmp(last_line(screen), "q quit", 6) == 0;
}

static char *wait_until(bool (*good)(const char *screen, const char *text), const char *text)
{
	const struct timespec pause = {.tv_nsec = 50 * 1000 * 1000};
	unsigned int limit = WAIT_MS / 50 * harness_slowness();
	char *screen = capture();

	for (unsigned int i = 0; i < limit && !good(screen, text); i++) {
		free(screen);
		nanosleep(&pause, NULL);
		screen = capture();
	}
	if (!good(screen, text))
		fail_msg("'%s' does not appear on:\n%s", text, screen);
	return screen;
}

/* Waits until the screen shows this text; returns the screen. */
static char *wait_for(const char *text)
{
	return wait_until(shows, text);
}

/* Likewise, until the screen has been drawn to its end. */
static char *wait_for_whole(const char *text)
{
	return wait_until(shows_wholly, text);
}

/* The shell around the program tells how it ended; then tmux is taken down. */
static void quit(void)
{
	TMUX("send-keys", "-t", "top", "q");
	free(wait_for("ended with 0"));
	TMUX("kill-server");
}

static void resize(const char *columns, const char *lines)
{
	TMUX("resize-window", "-t", "top", "-x", columns, "-y", lines);
}

static uint32_t count_lines(const char *screen)
{
	uint32_t n = 0;

	for (; *screen != '\0'; screen++)
		n += *screen == '\n';
	return n;
}

static void need_tmux(void)
{
	static const char *const argv[] = {"tmux", "-V", NULL};
	struct harness_output out;
	int pty = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (pty < 0)
		harness_skip("no terminal can be had here: %s", strerror(errno));
	close(pty);
	harness_exec(argv, &out);
	int status = out.status;
	harness_output_free(&out);
	if (status != 0)
		harness_skip("tmux is not installed");
}

static void open_screen(const char *columns, const char *lines)
{
	char command[900];

	snprintf(command, sizeof(command), "%s -s %s -d 0.2; echo ended with $?; exec cat", top,
		socket_path);
	TMUX("new-session", "-d", "-s", "top", "-x", columns, "-y", lines, command);
}

static void screen_follows_its_size(void **state)
{
	static const char *const everywhere[] = {
		"serving", "DEVICE", "CLIENT", "CHANNEL", "MODEL", "OPERATOR", "RATE/s", "softmax"};
	static const char *const with_room[] = {"ERROR", "GPUQ_ESHAPE",
		"a dimension does not fit the other tensors", "a message was cut off", "SESSION",
		"TTFT", "MAXGAP", "PIPELINE", "preprocess", "GRAPH", "captured", "HIT%", "UTIL",
		"POWER", "TEMP"};
	char *screen;

	need_tmux();
	pid_t pid = start_daemon("4", "7");

	open_screen("80", "24");
	free(wait_for("k/s, "));
	screen = wait_for_whole("q quit");
	for (size_t i = 0; i < sizeof(everywhere) / sizeof(everywhere[0]); i++)
		assert_non_null(strstr(screen, everywhere[i]));
	assert_non_null(strstr(screen, "stalled"));
	assert_non_null(strstr(screen, "QUE50  QUE99  EXE50  EXE99"));
	assert_int_equal(count_lines(screen), 24);
	free(screen);

	resize("120", "40");
	free(wait_for("9 graphs"));
	screen = wait_for_whole("HISTORY"); /* a column that needs this width */
	assert_int_equal(count_lines(screen), 40);
	free(screen);

	resize("200", "60"); /* room for everything */
	screen = wait_for_whole("9 graphs (3)");
	for (size_t i = 0; i < sizeof(everywhere) / sizeof(everywhere[0]); i++)
		assert_non_null(strstr(screen, everywhere[i]));
	for (size_t i = 0; i < sizeof(with_room) / sizeof(with_room[0]); i++) {
		if (strstr(screen, with_room[i]) == NULL)
			fail_msg("no %s on:\n%s", with_room[i], screen);
	}
	free(screen);

	resize("60", "15");
	screen = wait_for_whole("/7"); /* not every channel fits now, and it says so */
	assert_int_equal(count_lines(screen), 15);
	/* All tables, but not the last operator. */
	for (size_t i = 0; i + 1 < sizeof(everywhere) / sizeof(everywhere[0]); i++)
		assert_non_null(strstr(screen, everywhere[i]));
	free(screen);

	resize("20", "4");
	free(wait_for("terminal too small"));
	resize("80", "24");
	free(wait_for("CHANNEL"));
	quit();
	end_daemon(pid, SIGTERM);
}

static void keys_do_what_help_says(void **state)
{
	need_tmux();

	pid_t pid = start_daemon("4", "40");

	open_screen("80", "24");
	free(wait_for("tab channels"));
	TMUX("send-keys", "-t", "top", "h");
	free(wait_for("everything about the selected row"));
	TMUX("send-keys", "-t", "top", "x");
	TMUX("send-keys", "-t", "top", "End");
	free(wait_for("-40/40"));
	TMUX("send-keys", "-t", "top", "k", "k", "j", "Up", "Down", "Home");
	free(wait_for(" 1-"));
	TMUX("send-keys", "-t", "top", "Enter");
	free(wait_for("sq_entries"));
	TMUX("send-keys", "-t", "top", "x", "s", "s");
	free(wait_for("s sort PID"));
	TMUX("send-keys", "-t", "top", "Tab");
	free(wait_for("tab models"));
	TMUX("send-keys", "-t", "top", "BTab", "BTab");
	free(wait_for("tab clients"));
	TMUX("send-keys", "-t", "top", "p");
	free(wait_for("PAUSED"));
	TMUX("send-keys", "-t", "top", "p", "n", "0", ".", "7", "Enter");
	free(wait_for("n 0.7s"));
	quit();
	end_daemon(pid, SIGTERM);
}

static void other_views(void **state)
{
	char *screen;

	need_tmux();
	pid_t pid = start_daemon("4", "7");

	open_screen("80", "24");
	free(wait_for("tab channels"));
	TMUX("send-keys", "-t", "top", "9");
	free(wait_for("tab graphs"));
	TMUX("send-keys", "-t", "top", "f", "C", "O", "L", "D", "Enter");
	screen = wait_for_whole("f filter COLD");
	assert_non_null(strstr(screen, "cold"));
	assert_null(strstr(screen, "captured"));
	free(screen);
	TMUX("send-keys", "-t", "top", "f", "Escape");
	free(wait_for("captured"));
	TMUX("send-keys", "-t", "top", "6");
	free(wait_for("tab errors"));
	TMUX("send-keys", "-t", "top", "s", "r");
	free(wait_for("s sort ERROR reversed"));
	TMUX("send-keys", "-t", "top", "Enter");
	free(wait_for("first_ago "));
	resize("44", "24"); /* what does not fit one line goes on in the next */
	free(wait_for("    not fit the other "));
	resize("80", "24");
	free(wait_for("the other tensors"));
	TMUX("send-keys", "-t", "top", "x", "t");
	free(wait_for("USER, CLIENT, CHANNEL"));
	free(wait_for("   `- channel 4"));
	TMUX("send-keys", "-t", "top", "t", "Right", "Right", "Left");
	free(wait_for("tab channels"));
	quit();
	end_daemon(pid, SIGTERM);
}

/* What the terminal was told, colours included. */
static bool has_colours(void)
{
	char *screen = tmux((const char *const[]){"capture-pane", "-p", "-e", "-t", "top", NULL});
	bool coloured = strstr(screen, "\033[30m") != NULL || strstr(screen, "\033[32m") != NULL;

	free(screen);
	return coloured;
}

static void check_colours(bool wanted)
{
	need_tmux();
	pid_t pid = start_daemon("4", "7");

	open_screen("80", "24");
	free(wait_for_whole("tab channels"));
	assert_int_equal(has_colours(), wanted);
	quit();
	end_daemon(pid, SIGTERM);
}

static void colours_are_used(void **state)
{
	unsetenv("NO_COLOR");
	check_colours(true);
}

static void colours_can_be_turned_off(void **state)
{
	setenv("NO_COLOR", "1", 1);
	check_colours(false);
}

static void screen_keeps_the_last_state(void **state)
{
	char expected[64];
	char *screen;

	need_tmux();
	pid_t pid = start_daemon("2", "2");

	open_screen("80", "24");
	free(wait_for("serving"));
	end_daemon(pid, SIGKILL);
	snprintf(expected, sizeof(expected), "last state, gpuqd %d is gone", pid);
	screen = wait_for(expected);
	assert_non_null(strstr(screen, "scorer"));
	free(screen);
	pid = start_daemon("1", "1"); /* a successor is picked up */
	free(wait_for("serving"));
	end_daemon(pid, SIGTERM); /* takes its object with it */
	screen = wait_for("no daemon at");
	assert_non_null(strstr(screen, "scorer"));
	free(screen);
	quit();
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(batch_prints_every_table),
		HARNESS_TEST(json_is_one_document_in_a_line),
		HARNESS_TEST(a_dead_daemon_is_said_to_be_dead),
		HARNESS_TEST(wrong_usage_is_refused),
		HARNESS_TEST(without_a_terminal_batch_is_named),
		HARNESS_TEST_LONG(screen_follows_its_size, 60),
		HARNESS_TEST_LONG(keys_do_what_help_says, 60),
		HARNESS_TEST_LONG(other_views, 60),
		HARNESS_TEST_LONG(colours_are_used, 60),
		HARNESS_TEST_LONG(colours_can_be_turned_off, 60),
		HARNESS_TEST_LONG(screen_keeps_the_last_state, 60),
	};

	return harness_run("gpuq-top", tests, sizeof(tests) / sizeof(tests[0]));
}
