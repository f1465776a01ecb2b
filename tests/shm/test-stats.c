/* SPDX-License-Identifier: MIT */
/*
 * test-stats.c: the statistics object as its readers and its enemies see it: shortened, filled
 * with garbage, owned by somebody else, replaced by a link, truncated under the writer.
 */
#include "tests/harness.h"

#include "shm/stats.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CLIENTS 3
#define CHANNELS 2
#define OPS 2
#define NOBODY 65534

/* The harness removes the objects of sockets in its temporary directory. */
static const char *socket_path(void)
{
	static char path[200];

	snprintf(path, sizeof(path), "%s/gpuq-0", harness_tmpdir());
	return path;
}

static const struct stats_sizes sizes = {
	.clients = CLIENTS,
	.channels = CHANNELS,
	.ops = OPS,
	.graphs = 8,
	.captures = 16,
	.models = 4,
	.sessions = 8,
	.pipelines = 4,
};

static struct stats create(int *ret_fd)
{
	struct stats s;

	assert_int_equal(stats_create(socket_path(), &sizes, &s, ret_fd), 0);
	return s;
}

/* Where the object lies in the file system. */
static const char *object_path(void)
{
	static char path[300];
	char name[STATS_PATH_MAX];

	stats_name(socket_path(), name, sizeof(name));
	snprintf(path, sizeof(path), "/dev/shm%s", name);
	return path;
}

static void test_names(void **state)
{
	char a[STATS_PATH_MAX], b[STATS_PATH_MAX], path[400];

	stats_name("/run/gpuq/gpuq-0", a, sizeof(a));
	assert_string_equal(a, "/gpuq-!run!gpuq!gpuq-0");
	memset(path, '/', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	stats_name(path, a, sizeof(a));
	path[200] = 'x';
	stats_name(path, b, sizeof(b));
	assert_true(strlen(a) < 32);
	assert_string_not_equal(a, b);
	assert_null(strchr(a + 1, '/'));
}

static void expect_socket_path(const char *socket, const char *expected)
{
	char path[256];

	assert_int_equal(stats_socket_path(socket, path, sizeof(path)), 0);
	assert_string_equal(path, expected);
}

/* However a socket is named, it has one path. */
static void test_paths(void **state)
{
	char folder[100], inner[110], link[110], expected[120], other[130], path[PATH_MAX];

	assert_non_null(realpath(harness_tmpdir(), path));
	snprintf(folder, sizeof(folder), "%.90s", path);
	snprintf(inner, sizeof(inner), "%s/d", folder);
	snprintf(link, sizeof(link), "%s/link", folder);
	snprintf(expected, sizeof(expected), "%s/d/x", folder);
	assert_int_equal(mkdir(inner, 0700), 0);
	assert_int_equal(symlink("d", link), 0);
	assert_int_equal(chdir(inner), 0);
	expect_socket_path("x", expected);
	expect_socket_path("./x", expected);
	expect_socket_path("../d/x", expected);
	expect_socket_path("../link/x", expected);
	snprintf(other, sizeof(other), "%s/link//x", folder);
	expect_socket_path(other, expected);
	expect_socket_path(expected, expected);
	expect_socket_path("/x", "/x");
	expect_socket_path("//x", "/x");
	expect_socket_path("/no/such/folder/x", "/no/such/folder/x");
	expect_socket_path("no/such/folder/x", "no/such/folder/x");
	assert_int_equal(stats_socket_path("x", path, strlen(expected)), -ENAMETOOLONG);
	static char deep[5000];
	memset(deep, '/', sizeof(deep) - 1);
	assert_int_equal(stats_socket_path(deep, path, sizeof(path)), -ENAMETOOLONG);
}

static void test_reader_sees_what_the_writer_counts(void **state)
{
	struct stats w, m, r;
	struct stat st;
	int fd;

	w = create(&fd);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(stats_map(fd, &m), 0);
	assert_int_equal(stats_open(socket_path(), false, &r), 0);
	assert_string_equal(r.header->socket_path, socket_path());
	assert_int_equal(r.header->max_channels, CHANNELS);
	shm_count(&w.header->accepted, 3);
	shm_count(&m.channels[CHANNELS - 1].completed, 4);
	hist_add(m.ops[OPS - 1].execute_hist, HIST_STATS_BITS, 100);
	assert_int_equal(r.header->accepted, 3);
	assert_int_equal(r.channels[CHANNELS - 1].completed, 4);
	assert_int_equal(hist_total(r.ops[OPS - 1].execute_hist, HIST_STATS_BITS), 1);
	close(fd);
	stats_close(&r);
	stats_close(&m);
	stats_close(&w);
	stats_close(&w); /* nothing is left to close */

	/* It outlives its writer. */
	assert_int_equal(stats_open(object_path(), true, &r), 0);
	assert_int_equal(r.header->accepted, 3);
	stats_close(&r);
}

static void test_next_start_takes_over(void **state)
{
	struct stats first, second, old;
	int fd1, fd2;

	first = create(&fd1);
	shm_count(&first.header->accepted, 1);
	assert_int_equal(stats_open(socket_path(), false, &old), 0);
	second = create(&fd2);
	assert_int_equal(second.header->accepted, 0);
	assert_int_equal(old.header->accepted, 1);
	stats_close(&old);
	stats_close(&first);
	stats_close(&second);
	close(fd1);
	close(fd2);
}

static void test_strangers_object_is_left_alone(void **state)
{
	struct stats s;
	int fd;

	if (geteuid() != 0)
		harness_skip("only root can give a file to another user");
	fd = open(object_path(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_int_equal(fchown(fd, NOBODY, NOBODY), 0);
	close(fd);
	assert_int_equal(stats_create(socket_path(), &sizes, &s, &fd), -EPERM);
	assert_int_equal(access(object_path(), F_OK), 0);
}

static void test_link_is_not_followed(void **state)
{
	char target[300];
	struct stats s;
	struct stat st;
	int fd;

	snprintf(target, sizeof(target), "%s/target", harness_tmpdir());
	fd = open(target, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	close(fd);
	assert_int_equal(symlink(target, object_path()), 0);
	assert_true(stats_create(socket_path(), &sizes, &s, &fd) < 0);
	assert_int_equal(stat(target, &st), 0);
	assert_int_equal(st.st_size, 0);
}

static void test_absent_object(void **state)
{
	struct stats s;

	assert_int_equal(stats_open(socket_path(), false, &s), -ENOENT);
	assert_int_equal(stats_open("/nowhere/at/all", true, &s), -ENOENT);
	assert_true(stats_open(harness_tmpdir(), true, &s) < 0); /* a folder */
}

/* A copy of a good object in a file that tests may spoil; the caller frees the bytes. */
static unsigned char *good_copy(size_t *ret_bytes)
{
	int fd;
	struct stats s = create(&fd);
	unsigned char *copy = malloc(s.bytes);

	assert_non_null(copy);
	memcpy(copy, s.header, s.bytes);
	*ret_bytes = s.bytes;
	stats_close(&s);
	close(fd);
	return copy;
}

static int open_bytes(const void *bytes, size_t n, struct stats *ret_stats)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/object", harness_tmpdir());
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, n), n);
	close(fd);
	return stats_open(path, true, ret_stats);
}

static void test_shortened_and_lengthened_files(void **state)
{
	size_t bytes;
	unsigned char *copy = good_copy(&bytes);
	struct stats s;

	assert_int_equal(open_bytes(copy, bytes, &s), 0);
	stats_close(&s);
	for (size_t n = 0; n < bytes; n += n < 1024 ? 31 : 1021)
		assert_int_equal(open_bytes(copy, n, &s), -EPROTO);
	assert_int_equal(open_bytes(copy, bytes - 1, &s), -EPROTO);
	copy = realloc(copy, bytes + 1);
	copy[bytes] = 0;
	assert_int_equal(open_bytes(copy, bytes + 1, &s), -EPROTO);
	free(copy);
}

static uint64_t checksum(const void *table, uint64_t count, size_t record)
{
	const uint64_t *words = table;
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count * record / 8; i++)
		sum += words[i];
	return sum;
}

/* Whatever the header says: it is refused, or every record that it promises can be read. */
static void test_garbage_in_the_header(void **state)
{
	static const unsigned char values[] = {0, 1, 0x7f, 0x80, 0xff};
	size_t bytes, opened = 0;
	unsigned char *copy = good_copy(&bytes);
	struct stats s;

	for (size_t at = 0; at < offsetof(struct stats_header, control_pid); at++) {
		for (size_t v = 0; v < sizeof(values); v++) {
			unsigned char good = copy[at];

			copy[at] = values[v];
			int r = open_bytes(copy, bytes, &s);
			copy[at] = good;
			assert_true(r == 0 || r == -EPROTO);
			if (r != 0)
				continue;
			opened++;
			checksum(s.devices, s.header->max_devices, sizeof(*s.devices));
			checksum(s.clients, s.header->max_clients, sizeof(*s.clients));
			checksum(s.channels, s.header->max_channels, sizeof(*s.channels));
			checksum(s.ops, s.header->max_ops, sizeof(*s.ops));
			stats_close(&s);
		}
	}
	assert_true(opened > 0);
	memset(copy, 0xa5, bytes);
	assert_int_equal(open_bytes(copy, bytes, &s), -EPROTO);
	memset(copy, 0, bytes);
	assert_int_equal(open_bytes(copy, bytes, &s), -EPROTO);
	free(copy);
}

static void test_truncation_is_survived(void **state)
{
	int fd;
	struct stats s = create(&fd);

	assert_int_equal(stats_survive_truncation(&s), 0);
	shm_count(&s.header->accepted, 5);
	assert_int_equal(ftruncate(fd, 0), 0);
	shm_count(&s.header->accepted, 1);
	shm_count(&s.channels[CHANNELS - 1].completed, 1);
	assert_int_equal(s.header->accepted, 1);
	assert_int_equal(s.channels[CHANNELS - 1].completed, 1);
	stats_close(&s);
	close(fd);
}

static struct stats create_whole(int *ret_fd)
{
	struct stats s = create(ret_fd);

	for (uint32_t i = 0; i < OPS; i++)
		s.ops[i].state = 1;
	assert_int_equal(stats_survive_truncation(&s), 0);
	assert_false(stats_damaged(&s, *ret_fd));
	return s;
}

/* Every kind of damage shows, also what is repaired behind the writer's back. */
static void test_damage_shows(void **state)
{
	int fd;
	struct stats s = create_whole(&fd);
	off_t bytes = (off_t)s.bytes;

	assert_int_equal(ftruncate(fd, bytes + 1), 0);
	assert_true(stats_damaged(&s, fd));
	assert_int_equal(ftruncate(fd, bytes - 1), 0);
	assert_true(stats_damaged(&s, fd));
	assert_int_equal(ftruncate(fd, bytes), 0);
	assert_false(stats_damaged(&s, fd));
	assert_int_equal(ftruncate(fd, 4096), 0);
	assert_int_equal(ftruncate(fd, bytes), 0);
	assert_true(stats_damaged(&s, fd));
	stats_close(&s);
	close(fd);

	s = create_whole(&fd);
	s.header->total_bytes++;
	assert_true(stats_damaged(&s, fd));
	s.header->total_bytes--;
	assert_false(stats_damaged(&s, fd));
	assert_int_equal(unlink(object_path()), 0);
	assert_true(stats_damaged(&s, fd));
	stats_close(&s);
	close(fd);

	/* Whole again, but we write elsewhere since it was not. */
	s = create_whole(&fd);
	unsigned char *copy = malloc(s.bytes);
	assert_non_null(copy);
	memcpy(copy, s.header, s.bytes);
	assert_int_equal(ftruncate(fd, 0), 0);
	memcpy(s.header, copy, s.bytes);
	assert_int_equal(pwrite(fd, copy, s.bytes, 0), s.bytes);
	assert_true(stats_damaged(&s, fd));
	free(copy);
	stats_close(&s);
	close(fd);
}

/* One that nobody else can open serves its writers as well. */
static void test_private_object(void **state)
{
	struct stats s, other;
	int fd;

	assert_int_equal(stats_create_private(&sizes, &s, &fd), 0);
	assert_int_equal(stats_open(socket_path(), false, &other), -ENOENT);
	assert_int_equal(stats_map(fd, &other), 0);
	shm_count(&s.header->accepted, 3);
	assert_int_equal(other.header->accepted, 3);
	s.ops[OPS - 1].state = 1;
	assert_true(stats_damaged(&s, fd)); /* it has no name */
	stats_close(&other);
	stats_close(&s);
	close(fd);
}

static uint64_t counted(const struct stats *s, uint32_t first, int status)
{
	uint64_t n = 0;

	for (uint32_t i = first; i < first + STATS_ERRORS / 2; i++)
		n += s->errors[i].state != 0 && s->errors[i].status == status ? s->errors[i].count
									      : 0;
	return n;
}

/* Each kind by itself, those of two processes apart; what comes when all records are taken, too. */
static void test_errors_are_counted(void **state)
{
	const uint32_t half = STATS_ERRORS / 2;
	int fd;
	struct stats s = create(&fd);

	for (int i = 0; i < 3; i++)
		stats_count_error(&s, STATS_ERRORS_OF_CONTROL, -EPERM, "connection", "go away", 7);
	stats_count_error(&s, STATS_ERRORS_OF_CONTROL, -EPERM, "message", NULL, 8);
	stats_count_error(&s, STATS_ERRORS_OF_DEVICE, -EPERM, "message", NULL, 9);
	assert_int_equal(s.errors[0].count, 3);
	assert_string_equal(s.errors[0].text, "go away");
	assert_string_equal(s.errors[1].what, "message");
	assert_int_equal(counted(&s, 0, -EPERM), 4);
	assert_int_equal(counted(&s, half, -EPERM), 1);
	for (int i = 0; i < 1000; i++)
		stats_count_error(&s, STATS_ERRORS_OF_DEVICE, -1000 - i, "step", NULL, 10);
	assert_int_equal(s.errors[STATS_ERRORS - 1].count, 1000 - (half - 2));
	assert_string_equal(s.errors[STATS_ERRORS - 1].what, "all others");
	assert_int_equal(s.errors[2].state, 0);
	stats_close(&s);
	close(fd);
}

/* A SIGBUS from anywhere else still ends the process. */
static void test_other_faults_are_fatal(void **state)
{
	int fd, status;
	struct stats s = create(&fd);
	int other = memfd_create("other", MFD_CLOEXEC);

	assert_int_equal(ftruncate(other, 4096), 0);
	volatile char *base = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, other, 0);
	assert_int_equal(ftruncate(other, 0), 0);
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_DUMPABLE, 0);
		_exit(stats_survive_truncation(&s) == 0 ? base[0] : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGBUS);
	stats_close(&s);
	close(fd);
	close(other);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_names),
		HARNESS_TEST(test_paths),
		HARNESS_TEST(test_reader_sees_what_the_writer_counts),
		HARNESS_TEST(test_next_start_takes_over),
		HARNESS_TEST(test_strangers_object_is_left_alone),
		HARNESS_TEST(test_link_is_not_followed),
		HARNESS_TEST(test_absent_object),
		HARNESS_TEST(test_shortened_and_lengthened_files),
		HARNESS_TEST(test_garbage_in_the_header),
		HARNESS_TEST(test_truncation_is_survived),
		HARNESS_TEST(test_damage_shows),
		HARNESS_TEST(test_private_object),
		HARNESS_TEST(test_errors_are_counted),
		HARNESS_TEST(test_other_faults_are_fatal),
	};

	return harness_run("stats", tests, sizeof(tests) / sizeof(tests[0]));
}
