/* SPDX-License-Identifier: MIT */
/*
 * test-segment.c: what a client can and cannot do with the memory it is sent, and bells that
 * never block.
 */
#include "tests/harness.h"

#include "shm/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define BYTES (64 * 1024)
#define NOBODY 65534

static void test_segment_is_sealed(void **state)
{
	struct stat st;
	int fd = segment_create("test", BYTES);

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, BYTES);
	assert_true(st.st_blocks * 512 >= BYTES);
	assert_true((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
	assert_int_equal(ftruncate(fd, BYTES / 2), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(ftruncate(fd, BYTES * 2), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
	assert_int_equal(errno, EPERM);
	close(fd);
}

/* (A size beyond the machine's memory would be allocated until it is gone: gpuqd has limits.) */
static void test_impossible_size_is_an_error(void **state)
{
	assert_int_equal(segment_create("test", 0), -EINVAL);
	assert_int_equal(segment_create("test", UINT64_MAX), -EINVAL);
}

static void test_mappings_share_zeroed_memory(void **state)
{
	static const char zeros[BYTES];
	void *a, *b;
	int fd = segment_create("test", BYTES);

	assert_int_equal(segment_map(fd, BYTES, true, &a), 0);
	assert_int_equal(segment_map(fd, BYTES, false, &b), 0);
	close(fd);
	assert_memory_equal(a, zeros, BYTES);
	((char *)a)[BYTES - 1] = 42;
	assert_int_equal(((char *)b)[BYTES - 1], 42);
	munmap(a, BYTES);
	munmap(b, BYTES);
}

static void test_punch_gives_the_memory_back(void **state)
{
	struct stat st;
	void *base;
	int fd = segment_create("test", BYTES);
	int lingering = dup(fd);

	assert_int_equal(segment_map(fd, BYTES, true, &base), 0);
	memset(base, 1, BYTES);
	munmap(base, BYTES);
	assert_int_equal(segment_punch(fd, BYTES), 0);
	close(fd);
	assert_int_equal(fstat(lingering, &st), 0);
	assert_int_equal(st.st_blocks, 0);
	close(lingering);
}

/*
 * Returns 0 when every way to write to the memory behind a read-only descriptor is shut. Its owner
 * (gpuqd's own user) can open it again by way of /proc; a stranger must not.
 */
static int try_to_write(int ro, bool stranger)
{
	char path[64];
	void *base;

	if (mmap(NULL, BYTES, PROT_WRITE, MAP_SHARED, ro, 0) != MAP_FAILED || errno != EACCES)
		return 1;
	if (segment_map(ro, BYTES, true, &base) != -EACCES)
		return 2;
	if (segment_map(ro, BYTES, false, &base) != 0)
		return 3;
	if (mprotect(base, BYTES, PROT_READ | PROT_WRITE) == 0)
		return 4;
	munmap(base, BYTES);
	if (write(ro, "x", 1) >= 0 || segment_punch(ro, BYTES) == 0)
		return 5;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", ro);
	if (stranger && (open(path, O_RDWR) >= 0 || fchmod(ro, 0600) == 0))
		return 6;
	return 0;
}

static void test_readonly_descriptor_cannot_be_written(void **state)
{
	int fd = segment_create("test", BYTES);
	int ro = segment_readonly_fd(fd);

	assert_true(ro >= 0);
	assert_int_equal(try_to_write(ro, false), 0);
	close(ro);
	close(fd);
}

static void test_other_user_cannot_open_it_for_writing(void **state)
{
	int status;

	if (geteuid() != 0)
		harness_skip("only root can become another user");
	int fd = segment_create("test", BYTES);
	int ro = segment_readonly_fd(fd);
	pid_t pid = fork();
	if (pid == 0) {
		close(fd);
		if (setgid(NOBODY) != 0 || setuid(NOBODY) != 0)
			_exit(99);
		/* Changing the user makes a process undumpable, which alone shuts /proc/self. */
		prctl(PR_SET_DUMPABLE, 1);
		_exit(try_to_write(ro, true));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	close(ro);
	close(fd);
}

static bool readable(int fd)
{
	struct pollfd pfd = {.fd = fd, .events = POLLIN};

	return poll(&pfd, 1, 0) == 1 && (pfd.revents & POLLIN) != 0;
}

static void test_pipe_rings_and_is_silenced(void **state)
{
	int in, out;

	assert_int_equal(bell_pipe(&in, &out), 0);
	assert_false(readable(in));
	assert_true(bell_drain_pipe(in));
	/* More than any pipe holds: a full one must not block. */
	for (int i = 0; i < 100000; i++)
		bell_ring_pipe(out);
	assert_true(readable(in));
	assert_true(bell_drain_pipe(in));
	assert_false(readable(in));
	close(out);
	assert_false(bell_drain_pipe(in));
	close(in);
}

static void test_pipe_without_reader_is_harmless(void **state)
{
	int in, out;

	signal(SIGPIPE, SIG_IGN);
	assert_int_equal(bell_pipe(&in, &out), 0);
	close(in);
	bell_ring_pipe(out);
	close(out);
}

static void test_eventfd_rings(void **state)
{
	int fd = bell_eventfd();

	assert_true(fd >= 0);
	assert_false(readable(fd));
	bell_ring_eventfd(fd);
	bell_ring_eventfd(fd);
	assert_true(readable(fd));
	close(fd);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_segment_is_sealed),
		HARNESS_TEST(test_impossible_size_is_an_error),
		HARNESS_TEST(test_mappings_share_zeroed_memory),
		HARNESS_TEST(test_punch_gives_the_memory_back),
		HARNESS_TEST(test_readonly_descriptor_cannot_be_written),
		HARNESS_TEST(test_other_user_cannot_open_it_for_writing),
		HARNESS_TEST(test_pipe_rings_and_is_silenced),
		HARNESS_TEST(test_pipe_without_reader_is_harmless),
		HARNESS_TEST(test_eventfd_rings),
	};

	return harness_run("segment", tests, sizeof(tests) / sizeof(tests[0]));
}
