/* SPDX-License-Identifier: MIT */
/* gpuqd's configuration and command line, seen from outside: files, environment, flags, errors. */
#include "tests/harness.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static struct harness_output run(const char *const *args)
{
	const char *argv[16] = {harness_program("daemon/gpuqd")};
	struct harness_output o;

	for (int i = 1; *args != NULL; i++)
		argv[i] = *args++;
	harness_exec(argv, &o);
	return o;
}

static bool reads_files(void)
{
	const char *const args[] = {"-c", "/dev/null", "--check-config", NULL};
	struct harness_output o = run(args);
	bool reads = strstr(o.err, "built without libinih") == NULL;

	harness_output_free(&o);
	return reads;
}

static void need_files(void)
{
	if (!reads_files())
		harness_skip("gpuqd was built without libinih");
}

/* Writes a file into the test's directory and returns its path, which is static. */
static const char *file(const char *name, const char *text)
{
	static char path[256];

	need_files();
	snprintf(path, sizeof(path), "%s/%s", harness_tmpdir(), name);
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
	return path;
}

static void expect(const char *const *args, const char *line)
{
	struct harness_output o = run(args);

	if (o.status != 0 || strstr(o.out, line) == NULL)
		fail_msg("status %d, no '%s' in: %s%s", o.status, line, o.out, o.err);
	harness_output_free(&o);
}

/* The whole of standard error is one line. */
static void expect_error(const char *const *args, int status, const char *format, const char *path)
{
	char text[1024];
	struct harness_output o = run(args);

	snprintf(text, sizeof(text), "%s%s%s\n", "gpuqd: ", path, format);
	assert_string_equal(o.err, text);
	assert_int_equal(o.status, status);
	harness_output_free(&o);
}

static void test_precedence(void **state)
{
	const char *const preset[] = {"--print-config", NULL};

	expect(preset, "\nmax_clients = 512\n");
	const char *path = file("gpuqd.conf",
		"; comment\n# comment\nmax_clients = 7\n"
		"[gpuqd]\nworkers=3 ; behind a value\n");
	const char *const with_file[] = {"-c", path, "--print-config", NULL};
	expect(with_file, "\nmax_clients = 7\n");
	expect(with_file, "\nworkers = 3\n");
	assert_int_equal(setenv("GPUQ_MAX_CLIENTS", "8", 1), 0);
	expect(with_file, "\nmax_clients = 8\n");
	expect(with_file, "\nworkers = 3\n");
	const char *const with_flag[] = {
		"--config", path, "--max-clients=9", "--print-config", NULL};
	expect(with_flag, "\nmax_clients = 9\n");
}

static void test_file_is_found(void **state)
{
	const char *const args[] = {"--print-config", NULL};
	char dir[256];

	snprintf(dir, sizeof(dir), "%s/gpuq", harness_tmpdir());
	assert_int_equal(mkdir(dir, 0700), 0);
	(void)file("gpuq/gpuqd.conf", "poll_us = 17\n");
	assert_int_equal(setenv("HOME", "/nonexistent", 1), 0);
	unsetenv("XDG_CONFIG_HOME");
	expect(args, "\npoll_us = 50\n");
	assert_int_equal(setenv("XDG_CONFIG_HOME", harness_tmpdir(), 1), 0);
	expect(args, "\npoll_us = 17\n");
}

static void test_values(void **state)
{
	static const char *const good[][2] = {
		{"max_arena_bytes = 4096", "\nmax_arena_bytes = 4K\n"},
		{"max_arena_bytes = 1000000", "\nmax_arena_bytes = 1000000\n"},
		{"max_arena_bytes = 3m", "\nmax_arena_bytes = 3M\n"},
		{"max_client_bytes = 2G", "\nmax_client_bytes = 2G\n"},
		{"socket_mode = 666", "\nsocket_mode = 0666\n"},
		{"device = cuda:3", "\ndevice = cuda:3\n"},
		{"socket = /a b/c", "\nsocket = /a b/c\n"},
		{"[user root]\nweight = 1000\n[group 0]\nadmin = yes\n[user 0]\nadmin = no\n",
			"\n[user 0]\nweight = 1000\nadmin = no\n[group 0]\nweight = 1\nadmin = "
			"yes\n"},
	};

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		const char *const args[] = {"-c", file("f", good[i][0]), "--print-config", NULL};
		expect(args, good[i][1]);
	}
}

static void test_bad_lines(void **state)
{
	static const char *const bad[][2] = {
		{"\n\nno_such_key = 1\n",
			":3: there is no key 'no_such_key'; gpuqd --help lists them"},
		{"workers = 1\nworkers = 2\n",
			":2: workers is set twice (a line that starts with a space continues the "
			"one above)"},
		{"[elsewhere]\nworkers = 1\n",
			":2: there is no section [elsewhere]; keys stand alone, under [gpuqd], or "
			"under [model NAME], [user NAME] or [group NAME]"},
		{"[model a]\nquant = int4\n",
			":2: quant of a model is 'int4', but must be none or int8"},
		{"[model a]\npath = /x\n",
			":2: a model has no key 'path', only dir, quant, deterministic and warm"},
		{"[model a,b]\ndir = /x\n",
			":2: 'a,b' cannot be a model's name: 1 to 31 printable bytes without '=' "
			"and ','"},
		{"poll_us = 1\njust words\n", ":2: this is not 'key = value'"},
		{"max_clients = -1\n",
			":1: max_clients is '-1', but must be a number from 1 to 16384"},
		{"max_clients = 0\n",
			":1: max_clients is '0', but must be a number from 1 to 16384"},
		{"max_clients = 99999999999999999999\n",
			":1: max_clients is '99999999999999999999', but must be a number from 1 "
			"to 16384"},
		{"max_clients = 5K\n",
			":1: max_clients is '5K', but must be a number from 1 to 16384"},
		{"max_arena_bytes = 3X\n",
			":1: max_arena_bytes is '3X', but must be a number of bytes (K, M, G or T "
			"may follow) from 4K to 4G"},
		{"max_arena_bytes = 99999999T\n",
			":1: max_arena_bytes is '99999999T', but must be a number of bytes (K, M, "
			"G or T may follow) from 4K to 4G"},
		{"socket_mode = 0680\n",
			":1: socket_mode is '0680', but must be octal permissions from 0600 to "
			"0777"},
		{"device = tpu\n", ":1: device is 'tpu', but must be auto, cpu, cuda or cuda:N"},
		{"device = cuda:x\n",
			":1: device is 'cuda:x', but must be auto, cpu, cuda or cuda:N"},
		{"log = loud\n",
			":1: log is 'loud', but must be error, warn, info or debug, and may go on "
			"with ',TOPIC:LEVEL' for control, client, ring, device, graph, model or "
			"stats"},
		{"log = warn,loud:debug\n",
			":1: log is 'warn,loud:debug', but must be error, warn, info or debug, and "
			"may go on "
			"with ',TOPIC:LEVEL' for control, client, ring, device, graph, model or "
			"stats"},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		const char *path = file("f", bad[i][0]);
		const char *const args[] = {"-c", path, "--check-config", NULL};
		expect_error(args, 1, bad[i][1], path);
	}
}

static void test_bad_users(void **state)
{
	static const char *const bad[][2] = {
		{"[user no such user]\nweight = 2\n", ":2: there is no user 'no such user'"},
		{"[group no such group]\nweight = 2\n", ":2: there is no group 'no such group'"},
		{"[user 4294967295]\nweight = 2\n", ":2: there is no user '4294967295'"},
		{"[user 7]\nweight = 0\n",
			":2: weight is '0', but must be a number from 1 to 1000"},
		{"[user 7]\nweight = 1001\n",
			":2: weight is '1001', but must be a number from 1 to 1000"},
		{"[user 7]\nweight = 1\nadmin = maybe\n",
			":3: admin is 'maybe', but must be yes or no"},
		{"[group 7]\nrole = 1\n",
			":2: a user or a group has no key 'role', only weight and admin"},
		{"access = closed\n", ":1: access is 'closed', but must be open or listed"},
		{"stats_mode = 0666\n",
			":1: stats_mode is '0666', but must be octal permissions from 0600 to "
			"0644"},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		const char *path = file("f", bad[i][0]);
		const char *const args[] = {"-c", path, "--check-config", NULL};
		expect_error(args, 1, bad[i][1], path);
	}
}

/* In the file and on the command line, which forgets what the file says of a model. */
static void test_models(void **state)
{
	const char *const flag[] = {
		"--model", "b=/models/b, c,quant=int8,deterministic=yes", "--print-config", NULL};
	const char *const many[] = {"--max-models", "0", "--model", "a=/a", "--check-config", NULL};

	expect(flag, "\n[model b]\ndir = /models/b, c\nquant = int8\ndeterministic = yes\n");
	expect_error(many, 1, "max_models is 0, but 1 models are to be loaded; raise it", "");
	expect_error((const char *const[]){"--model", "a", NULL}, 2,
		"--model is 'a', but must be NAME=DIR", "");
	expect_error((const char *const[]){"--model", "a=", NULL}, 2,
		"dir of a model is '', but must be the path of a folder", "");
	expect_error((const char *const[]){"--model", "a=/a,deterministic=maybe", NULL}, 2,
		"deterministic of a model is 'maybe', but must be no or yes", "");
	expect_error((const char *const[]){"--model", "=/a", NULL}, 2,
		"'' cannot be a model's name: 1 to 31 printable bytes without '=' and ','", "");
	const char *path = file("gpuqd.conf",
		"workers = 1\n[model a]\ndir = /one\nquant = int8\n[model b]\ndir = /two\n"
		"deterministic = yes\n");
	const char *const both[] = {"-c", path, "--model", "a=/three", "--print-config", NULL};
	expect(both, "\n[model a]\ndir = /three\nquant = none\ndeterministic = no\n");
	expect(both, "\n[model b]\ndir = /two\nquant = none\ndeterministic = yes\n");
	path = file("gpuqd.conf", "[model a]\nquant = int8\n");
	const char *const without[] = {"-c", path, "--check-config", NULL};
	expect_error(without, 1, "the model a has no dir", "");
}

/* libinih cuts long lines in two, and would take the second half for a line of its own. */
static void test_long_line(void **state)
{
	char text[400];

	memset(text, 'x', sizeof(text));
	memcpy(text, "workers = 1\nsocket = /", 22);
	text[sizeof(text) - 2] = '\n';
	text[sizeof(text) - 1] = '\0';
	const char *path = file("f", text);
	const char *const args[] = {"-c", path, "--check-config", NULL};
	expect_error(args, 1, ":2: this line is too long", path);
}

static void test_missing_file(void **state)
{
	const char *const args[] = {"-c", "/no/such/file", "--check-config", NULL};

	need_files();
	expect_error(args, 1, ": No such file or directory", "/no/such/file");
}

static void test_without_libinih_a_file_is_refused(void **state)
{
	const char *const args[] = {"--config", "/etc/x.conf", "--check-config", NULL};

	if (reads_files())
		harness_skip("gpuqd was built with libinih");
	expect_error(args, 1,
		": this gpuqd was built without libinih and reads no files; give flags or "
		"GPUQ_* variables, or build it with -Dconfig_file=enabled",
		"/etc/x.conf");
}

static void test_bad_environment(void **state)
{
	const char *const args[] = {"--check-config", NULL};

	assert_int_equal(setenv("GPUQ_POLL_US", "soon", 1), 0);
	expect_error(args, 1,
		"environment: GPUQ_POLL_US: poll_us is 'soon', but must be a number from 0 to "
		"1000000",
		"");
}

static void test_bad_command_lines(void **state)
{
	const char *const value[] = {"--workers", "many", "--check-config", NULL};
	const char *const switched[] = {"--resident", "no", "--check-config", NULL};
	const char *const word[] = {"start", NULL};
	const char *const flag[] = {"--no-such-flag", NULL};

	expect_error(value, 2, "workers is 'many', but must be a number from 0 to 1024", "");
	expect_error(switched, 2, "resident is 'no', but must be on or off", "");
	expect_error(word, 2, "'start' is not an option; 'gpuqd --help' lists them", "");
	struct harness_output o = run(flag);
	assert_int_equal(o.status, 2);
	assert_non_null(strstr(o.err, "no-such-flag"));
	harness_output_free(&o);
}

/* Two values, each of them possible, that do not fit each other. */
static void test_values_that_do_not_fit(void **state)
{
	static const char *const bad[][2] = {{"64", "64"}, {"4096", "4096"}, {"16", "17"}};
	const char *const good[] = {
		"--max-in-flight", "65", "--max-channels", "64", "--check-config", NULL};
	char text[300];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		const char *const args[] = {"--max-in-flight", bad[i][0], "--max-channels",
			bad[i][1], "--check-config", NULL};
		snprintf(text, sizeof(text),
			"max_in_flight is %s, but must be greater than max_channels (%s): every "
			"channel has a place of its own; raise the first, or lower the second",
			bad[i][0], bad[i][1]);
		expect_error(args, 1, text, "");
	}
	expect(good, "");
	const char *path = file("f", "max_channels = 65536\n");
	const char *const in_file[] = {"-c", path, "--check-config", NULL};
	expect_error(in_file, 1,
		"max_in_flight is 4096, but must be greater than max_channels (65536): every "
		"channel has a place of its own; raise the first, or lower the second",
		"");
}

/* A folder whose name leaves no room for the file's holds none. */
static void test_deep_folder(void **state)
{
	const char *const args[] = {"--print-config", NULL};
	static char deep[5000];

	memset(deep, '/', sizeof(deep) - 1);
	assert_int_equal(setenv("XDG_CONFIG_HOME", deep, 1), 0);
	expect(args, "\npoll_us = ");
}

static void test_good_file_is_silent(void **state)
{
	const char *path = file("f", "workers = 2\n");
	const char *const args[] = {"-c", path, "--check-config", NULL};
	struct harness_output o = run(args);

	assert_int_equal(o.status, 0);
	assert_string_equal(o.out, "");
	assert_string_equal(o.err, "");
	harness_output_free(&o);
}

/* What it prints is a file that it reads, and then it prints the same. */
static void test_print_is_a_file(void **state)
{
	const char *const first[] = {"--max-clients", "11", "--socket-mode", "0606",
		"--max-total-bytes", "3G", "--print-config", NULL};
	struct harness_output a = run(first);
	const char *const second[] = {"-c", file("f", a.out), "--print-config", NULL};
	struct harness_output b = run(second);

	assert_int_equal(b.status, 0);
	assert_string_equal(a.out, b.out);
	assert_non_null(strstr(b.out, "\nmax_total_bytes = 3G\n"));
	harness_output_free(&a);
	harness_output_free(&b);
}

static char *manual(const char *name)
{
	FILE *f = fopen(harness_source(name), "re");
	char *text = calloc(1, 65536);

	assert_non_null(f);
	assert_non_null(text);
	assert_true(fread(text, 1, 65535, f) > 0);
	assert_int_equal(fclose(f), 0);
	return text;
}

/* The manual page has every key with its preset, and no other. */
static void test_manual_names_every_key(void **state)
{
	const char *const args[] = {"--print-config", NULL};
	char *page = manual("docs/man/gpuqd.conf.5.scd"), *save = NULL, line[200];
	int keys = 0, described = 0;

	unsetenv("GPUQ_SOCKET");
	struct harness_output o = run(args);
	for (char *key = strtok_r(o.out, "\n", &save); key != NULL;
		key = strtok_r(NULL, "\n", &save)) {
		if (key[0] == '#')
			continue;
		char *value = strstr(key, " =");
		assert_non_null(value);
		*value = '\0';
		value += strcmp(value + 1, "= ") == 0 ? 3 : 2;
		snprintf(line, sizeof(line), "\n*%s* =%s\n\t", key, value);
		if (strstr(page, line) == NULL)
			fail_msg("gpuqd.conf.5.scd has no '%s'", line);
		keys++;
	}
	for (const char *at = page; (at = strstr(at, "* =")) != NULL; at++)
		described++;
	assert_true(keys > 10);
	assert_int_equal(described, keys);
	free(page);
	harness_output_free(&o);
}

static void test_help_and_version(void **state)
{
	const char *const help[] = {"--help", NULL};
	const char *const version[] = {"--version", NULL};

	expect(help, "--handshake-timeout-ms");
	expect(help, "--print-config");
	expect(version, "gpuqd 0.");
}

static uint32_t count_lines(const char *path, const char *with)
{
	char line[512];
	uint32_t n = 0;
	FILE *f = fopen(path, "re");

	assert_non_null(f);
	while (fgets(line, sizeof(line), f) != NULL)
		n += strstr(line, with) != NULL;
	fclose(f);
	return n;
}

#define TEXT_10 "0123456789"
#define TEXT_70 TEXT_10 TEXT_10 TEXT_10 TEXT_10 TEXT_10 TEXT_10 TEXT_10

/* What the device says is gpuqd's last word; one that may choose takes the CPU. */
static void test_device_that_is_not_there(void **state)
{
	const char *const args[] = {"--device", "cuda:0", NULL};
	const char *const choose[] = {"--device", "auto", NULL};

	/* So long that the sentence is one of the longest that there are. */
	assert_int_equal(setenv("GPUQ_CUDA_MODULE", "/nowhere/" TEXT_70, 1), 0);
	struct harness_output o = run(args);
	assert_int_equal(o.status, 1);
	assert_string_equal(o.err,
		"gpuqd: device: the device \"cuda:0\" cannot be used: the CUDA module is missing "
		"(/nowhere/" TEXT_70 "): build gpuq where nvcc is found, or set "
		"GPUQ_CUDA_MODULE; gpuqd ends\n");
	harness_output_free(&o);
	struct harness_daemon *daemon = harness_daemon_start(choose);
	assert_int_equal(
		count_lines(daemon->log, "CUDA is not used: the CUDA module is missing"), 1);
	harness_daemon_destroy(daemon);
}

/* The journal wants the priority in front of a line; people want the name. */
static void test_journal_prefix(void **state)
{
	char path[256], stream[64], line[512] = "";
	struct stat st;
	int status;

	snprintf(path, sizeof(path), "%s/journal", harness_tmpdir());
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)st.st_dev,
		(unsigned long long)st.st_ino);
	assert_int_equal(setenv("JOURNAL_STREAM", stream, 1), 0);
	/* It ends at once, with an error. */
	assert_int_equal(setenv("GPUQ_CUDA_MODULE", "/nowhere", 1), 0);
	const char *const argv[] = {harness_program("daemon/gpuqd"), "--device", "cuda", NULL};
	pid_t pid = harness_spawn(argv, -1, fd);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(pread(fd, line, sizeof(line) - 1, 0) > 0);
	assert_memory_equal(line, "<3>device: the device", 21);
	close(fd);
	/* Somebody else's stream, inherited in the environment, is not ours. */
	const char *const args[] = {"--device", "cuda", NULL};
	struct harness_output o = run(args);
	assert_memory_equal(o.err, "gpuqd: device: the device", 25);
	harness_output_free(&o);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_precedence),
		HARNESS_TEST(test_file_is_found),
		HARNESS_TEST(test_values),
		HARNESS_TEST(test_bad_lines),
		HARNESS_TEST(test_bad_users),
		HARNESS_TEST(test_models),
		HARNESS_TEST(test_long_line),
		HARNESS_TEST(test_missing_file),
		HARNESS_TEST(test_without_libinih_a_file_is_refused),
		HARNESS_TEST(test_bad_environment),
		HARNESS_TEST(test_bad_command_lines),
		HARNESS_TEST(test_values_that_do_not_fit),
		HARNESS_TEST(test_deep_folder),
		HARNESS_TEST(test_good_file_is_silent),
		HARNESS_TEST(test_print_is_a_file),
		HARNESS_TEST(test_manual_names_every_key),
		HARNESS_TEST(test_help_and_version),
		HARNESS_TEST(test_device_that_is_not_there),
		HARNESS_TEST(test_journal_prefix),
	};

	unsetenv("GPUQ_DEVICE"); /* what chooses a device for the other tests */
	return harness_run("daemon-config", tests, sizeof(tests) / sizeof(tests[0]));
}
