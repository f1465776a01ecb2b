/* SPDX-License-Identifier: MIT */
/*
 * harness.c: runs each test in a process of its own and watches over it. The runner and every
 * test are child subreapers, so that a process which a test leaves behind, even by a double
 * fork, comes back to somebody who notices.
 */
#include "tests/harness.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define EXIT_SKIPPED 77
#define DEFAULT_TIMEOUT_S 20
#define CHILDREN_GRACE_MS 5000 /* for a killed daemon's other process to notice and end */
#define OUTPUT_MAX (256 * 1024)
#define FDS_MAX 1024

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SLOWNESS 10
#elif __has_feature(address_sanitizer)
#define SLOWNESS 5
#endif
#elif defined(__SANITIZE_THREAD__)
#define SLOWNESS 10
#elif defined(__SANITIZE_ADDRESS__)
#define SLOWNESS 5
#endif
#ifndef SLOWNESS
#define SLOWNESS 1
#endif

unsigned int harness_slowness(void)
{
	return SLOWNESS;
}

bool harness_on_gpu(void)
{
	const char *device = getenv("GPUQ_DEVICE");

	return device != NULL && strncmp(device, "cuda", 4) == 0;
}

bool harness_long(void)
{
	return getenv("TEST_LONG") != NULL;
}

const char *harness_tmpdir(void)
{
	return getenv("XDG_RUNTIME_DIR");
}

void harness_skip(const char *reason, ...)
{
	va_list ap;

	printf("skip: ");
	va_start(ap, reason);
	vprintf(reason, ap);
	va_end(ap);
	printf("\n");
	fflush(stdout);
	_exit(EXIT_SKIPPED);
}

/* --- What a test must not leave behind ----------------------------------------------------- */

static void list_fds(bool open_fds[FDS_MAX])
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *e;

	memset(open_fds, 0, FDS_MAX * sizeof(open_fds[0]));
	assert_non_null(dir);
	while ((e = readdir(dir)) != NULL) {
		long fd = strtol(e->d_name, NULL, 10);
		if (e->d_name[0] != '.' && fd != dirfd(dir) && fd < FDS_MAX)
			open_fds[fd] = true;
	}
	closedir(dir);
}

static bool kept_fds[FDS_MAX]; /* open before the test, or its libraries' */

void harness_keep_fds(void)
{
	list_fds(kept_fds);
}

/* NVIDIA's driver opens its devices as it needs them, and keeps them. */
static bool is_drivers(const char *target)
{
	return strncmp(target, "/dev/nvidia", strlen("/dev/nvidia")) == 0;
}

static void check_fds(void)
{
	bool now[FDS_MAX];
	char link[64], target[256];
	int leaked = 0;

	list_fds(now);
	for (int fd = 0; fd < FDS_MAX; fd++) {
		if (!now[fd] || kept_fds[fd])
			continue;
		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		ssize_t n = readlink(link, target, sizeof(target) - 1);
		target[n > 0 ? n : 0] = '\0';
		if (is_drivers(target))
			continue;
		print_error("leaked descriptor %d: %s\n", fd, target);
		leaked++;
	}
	if (leaked > 0)
		fail_msg("%d leaked descriptors", leaked);
}

/* Calls act(pid, name) for each child of this process. */
static void each_child(void (*act)(pid_t pid, const char *name))
{
	DIR *dir = opendir("/proc");
	struct dirent *e;

	while (dir != NULL && (e = readdir(dir)) != NULL) {
		char path[300], name[64] = "";
		int parent = 0;

		snprintf(path, sizeof(path), "/proc/%s/stat", e->d_name);
		FILE *f = e->d_name[0] >= '1' && e->d_name[0] <= '9' ? fopen(path, "re") : NULL;
		if (f == NULL)
			continue;
		int fields = fscanf(f, "%*d (%63[^)]) %*c %d", name, &parent);
		fclose(f);
		if (fields == 2 && parent == getpid())
			act((pid_t)strtol(e->d_name, NULL, 10), name);
	}
	if (dir != NULL)
		closedir(dir);
}

static void report_child(pid_t pid, const char *name)
{
	print_error("left behind: process %d (%s)\n", (int)pid, name);
}

static void kill_child(pid_t pid, const char *name)
{
	(void)name;
	kill(pid, SIGKILL);
}

/* Waits for every child that has ended. True when no other one is left. */
static bool reap(void)
{
	pid_t pid;

	do
		pid = waitpid(-1, NULL, WNOHANG);
	while (pid > 0);
	return pid < 0;
}

static void check_children(void)
{
	for (int waited_ms = 0; waited_ms < CHILDREN_GRACE_MS; waited_ms += 10) {
		if (reap())
			return;
		poll(NULL, 0, 10);
	}
	each_child(report_child);
	fail_msg("processes left behind");
}

/* --- In the test's process ----------------------------------------------------------------- */

static const struct harness_test *current;

/* cmocka turns these into ordinary failures; in a process of its own a crash may be one. */
static const int crash_signals[] = {SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGSYS};
#define N_CRASH_SIGNALS (sizeof(crash_signals) / sizeof(crash_signals[0]))
static struct sigaction crash_actions[N_CRASH_SIGNALS];

static void run_watched(void **state)
{
	for (size_t i = 0; i < N_CRASH_SIGNALS; i++)
		sigaction(crash_signals[i], &crash_actions[i], NULL);
	harness_keep_fds();
	current->run(state);
	check_children();
	check_fds();
}

static void run_child(const char *suite, const struct harness_test *test, int output)
	__attribute__((noreturn));

static void run_child(const char *suite, const struct harness_test *test, int output)
{
	const struct CMUnitTest one = {.name = test->name, .test_func = run_watched};

	setpgid(0, 0);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(output, STDOUT_FILENO);
	dup2(output, STDERR_FILENO);
	close(output);
	int null = open("/dev/null", O_RDONLY);
	dup2(null, STDIN_FILENO);
	close(null);
	unsetenv("GPUQ_SOCKET");
	for (size_t i = 0; i < N_CRASH_SIGNALS; i++)
		sigaction(crash_signals[i], NULL, &crash_actions[i]);
	current = test;
	exit(_cmocka_run_group_tests(suite, &one, 1, NULL, NULL) == 0 ? 0 : 1);
}

/* --- In the runner ------------------------------------------------------------------------- */

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

/* Statistics objects outlive a gpuqd on purpose; those of this test are named by its folder. */
static void remove_stats(const char *tmpdir)
{
	char prefix[300], path[600];
	DIR *dir = opendir("/dev/shm");
	struct dirent *e;

	int n = snprintf(prefix, sizeof(prefix), "gpuq-%s", tmpdir);
	for (char *p = prefix; *p != '\0'; p++)
		*p = *p == '/' ? '!' : *p;
	while (dir != NULL && (e = readdir(dir)) != NULL) {
		if (strncmp(e->d_name, prefix, (size_t)n) != 0)
			continue;
		snprintf(path, sizeof(path), "/dev/shm/%s", e->d_name);
		unlink(path);
	}
	if (dir != NULL)
		closedir(dir);
}

/* Prints text with "# " before each line, so that it is a comment in TAP. */
static void print_comment(const char *text, size_t bytes)
{
	bool start = true;

	for (size_t i = 0; i < bytes; i++) {
		if (start)
			fputs("# ", stdout);
		putchar(text[i]);
		start = text[i] == '\n';
	}
	if (!start)
		putchar('\n');
}

/* Reads at most the last OUTPUT_MAX bytes; the caller frees. */
static char *read_tail(int fd, size_t *ret_bytes)
{
	off_t size = lseek(fd, 0, SEEK_END);
	off_t start = size > OUTPUT_MAX ? size - OUTPUT_MAX : 0;
	char *text = calloc(1, OUTPUT_MAX + 1);
	ssize_t n = text != NULL ? pread(fd, text, OUTPUT_MAX, start) : 0;

	*ret_bytes = n > 0 ? (size_t)n : 0;
	return text;
}

static void print_logs(const char *tmpdir)
{
	DIR *dir = opendir(tmpdir);
	struct dirent *e;

	while (dir != NULL && (e = readdir(dir)) != NULL) {
		const char *suffix = strrchr(e->d_name, '.');
		size_t bytes;

		if (suffix == NULL || strcmp(suffix, ".log") != 0)
			continue;
		int fd = openat(dirfd(dir), e->d_name, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		char *text = read_tail(fd, &bytes);
		close(fd);
		printf("# --- %s\n", e->d_name);
		print_comment(text, bytes);
		free(text);
	}
	if (dir != NULL)
		closedir(dir);
}

struct outcome {
	bool passed, skipped;
	char why[300];
};

/* Waits for the test's process, at most so long, and ends whatever is left of it. */
static struct outcome wait_for(pid_t pid, unsigned int timeout_s)
{
	struct outcome o = {0};
	int status = 0;
	int pidfd = pidfd_open(pid, 0);
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	bool in_time = pidfd >= 0 && poll(&p, 1, (int)timeout_s * 1000) > 0;

	kill(-pid, SIGKILL);
	waitpid(pid, &status, 0);
	for (int i = 0; i < 500 && !reap(); i++) {
		each_child(kill_child);
		poll(NULL, 0, 10);
	}
	close(pidfd);
	if (!in_time)
		snprintf(o.why, sizeof(o.why), "timed out after %u s", timeout_s);
	else if (WIFSIGNALED(status))
		snprintf(o.why, sizeof(o.why), "killed by signal %d (%s)", WTERMSIG(status),
			strsignal(WTERMSIG(status)));
	else if (WEXITSTATUS(status) == EXIT_SKIPPED)
		o.skipped = true;
	else if (WEXITSTATUS(status) == 0)
		o.passed = true;
	else
		snprintf(o.why, sizeof(o.why), "exit status %d", WEXITSTATUS(status));
	return o;
}

static unsigned int timeout_of(const struct harness_test *test)
{
	const char *env = getenv("TEST_TIMEOUT");
	unsigned long seconds = env != NULL ? strtoul(env, NULL, 10) : 0;

	if (seconds > 0)
		return (unsigned int)seconds;
	return (test->timeout_s > 0 ? test->timeout_s : DEFAULT_TIMEOUT_S) * SLOWNESS;
}

/* The reason that harness_skip() printed: the last line of that form. */
static void find_reason(struct outcome *o, const char *text)
{
	const char *at = text, *last = NULL;

	while ((at = strstr(at, "skip: ")) != NULL)
		last = at += strlen("skip: ");
	if (last != NULL)
		snprintf(o->why, sizeof(o->why), "%.*s", (int)strcspn(last, "\n"), last);
}

static struct outcome run_one(const char *suite, const struct harness_test *test)
{
	char tmpdir[] = "/tmp/gpuq-test-XXXXXX";
	int output = memfd_create("output", MFD_CLOEXEC);
	size_t bytes;

	if (output < 0 || mkdtemp(tmpdir) == NULL) {
		struct outcome o = {0};
		snprintf(o.why, sizeof(o.why), "cannot prepare: %s", strerror(errno));
		return o;
	}
	setenv("XDG_RUNTIME_DIR", tmpdir, 1);
	setenv("XDG_STATE_HOME", tmpdir, 1);
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0)
		run_child(suite, test, output);
	struct outcome o = wait_for(pid, timeout_of(test));

	char *text = read_tail(output, &bytes);
	close(output);
	if (o.skipped)
		find_reason(&o, text);
	if (getenv("TEST_VERBOSE") != NULL || (!o.passed && !o.skipped)) {
		print_comment(text, bytes);
		print_logs(tmpdir);
	}
	free(text);
	nftw(tmpdir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
	remove_stats(tmpdir);
	return o;
}

int harness_run(const char *suite, const struct harness_test *tests, size_t n)
{
	const char *filter = getenv("TEST_FILTER");
	size_t ran = 0, failed = 0, skipped = 0;

	prctl(PR_SET_CHILD_SUBREAPER, 1);
	for (size_t i = 0; i < n; i++) {
		if (filter != NULL && fnmatch(filter, tests[i].name, 0) != 0)
			continue;
		struct outcome o = run_one(suite, &tests[i]);
		ran++;
		failed += !o.passed && !o.skipped;
		skipped += o.skipped;
		printf("%s %zu - %s: %s", o.passed || o.skipped ? "ok" : "not ok", ran, suite,
			tests[i].name);
		if (!o.passed)
			printf(" # %s%s", o.skipped ? "SKIP " : "", o.why);
		printf("\n");
	}
	printf("1..%zu\n", ran);
	if (failed > 0)
		return 1;
	return ran > 0 && skipped == ran ? EXIT_SKIPPED : 0;
}
