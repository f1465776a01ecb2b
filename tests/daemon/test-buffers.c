/* SPDX-License-Identifier: MIT */
/*
 * test-buffers.c: MSG_BUFFER_* from clients that say what the library never would: of an older
 * version, without acknowledging descriptors, with fields that must be zero, in no order at all.
 */
#include "tests/daemon/raw.h"

#include "shm/atomics.h"

#include <string.h>
#include <unistd.h>

static uint32_t allocate(int fd)
{
	struct msg_buffer_alloc alloc = {.form = MSG_BUFFER_FD, .bytes = 1};
	struct raw_answer a;

	raw_send(fd, &alloc, MSG_BUFFER_ALLOC, sizeof(alloc), 9);
	assert_true(raw_receive(fd, &a));
	assert_int_equal(a.h.type, MSG_BUFFER);
	assert_int_equal(a.h.serial, 9);
	uint32_t handle = ((struct msg_buffer *)a.bytes)->handle;
	assert_int_not_equal(handle, 0);
	return handle;
}

static void ask(int fd, uint16_t type, uint32_t handle, uint32_t pid)
{
	struct msg_buffer_handle m = {.handle = handle, .pid = pid};

	raw_send(fd, &m, type, sizeof(m), 5);
}

static void expect_buffer(int fd, uint32_t n_fds)
{
	struct raw_answer a;

	assert_true(raw_receive(fd, &a));
	assert_int_equal(a.h.type, MSG_BUFFER);
	assert_int_equal(a.n_fds, n_fds);
	raw_close_fds(&a);
}

static void test_older_version(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct msg_buffer_alloc alloc = {.form = MSG_BUFFER_FD, .bytes = 1};
	int fd = raw_client_of(daemon->socket, 2);

	raw_send(fd, &alloc, MSG_BUFFER_ALLOC, sizeof(alloc), 2);
	raw_expect_error(fd, -GPUQ_EPROTO, "there is no message 21");
	raw_expect_end(fd);
	close(fd);
	harness_daemon_destroy(daemon);
}

/* What is there shows, whether it is freed or its holder ends. */
static void test_statistics(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct stats stats = raw_stats(daemon);
	const struct stats_header *h = stats.header;
	int fd = raw_client(daemon->socket);
	uint32_t handle = allocate(fd);

	allocate(fd);
	assert_int_equal(shm_load_relaxed(&h->buffers), 2);
	assert_true(shm_load_relaxed(&h->buffer_bytes) > 0);
	const uint64_t bytes = shm_load_relaxed(&h->buffer_bytes) / 2;
	ask(fd, MSG_BUFFER_FREE, handle, 0);
	expect_buffer(fd, 0);
	assert_int_equal(shm_load_relaxed(&h->buffers), 1);
	assert_int_equal(shm_load_relaxed(&h->buffer_bytes), bytes);
	close(fd);
	raw_await(shm_load_relaxed(&h->buffers) == 0);
	assert_int_equal(shm_load_relaxed(&h->buffer_bytes), 0);
	stats_close(&stats);
	harness_daemon_destroy(daemon);
}

static void test_refused(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	int fd = raw_client(daemon->socket), other = raw_client(daemon->socket);
	uint32_t handle = allocate(fd);

	struct msg_buffer_alloc alloc = {.form = MSG_BUFFER_FD, .bytes = 1, .reserved = 1};
	raw_send(fd, &alloc, MSG_BUFFER_ALLOC, sizeof(alloc), 2);
	raw_expect_error(fd, -EINVAL, "form 1 and 1 bytes");
	for (uint16_t type = MSG_BUFFER_EXPORT; type <= MSG_BUFFER_FREE; type++) {
		ask(fd, type, handle + 1, 1);
		raw_expect_error(fd, -GPUQ_EBUFFER, "");
		ask(fd, type, 0, 1);
		raw_expect_error(fd, -GPUQ_EBUFFER, "");
		ask(fd, type, UINT32_MAX, 1);
		raw_expect_error(fd, -GPUQ_EBUFFER, "");
		ask(other, type, handle, 1);
		raw_expect_error(other, -GPUQ_EBUFFER, "");
	}
	ask(fd, MSG_BUFFER_GRANT, handle, UINT32_MAX);
	raw_expect_error(fd, -ESRCH, "no process 4294967295 is connected");
	ask(fd, MSG_BUFFER_FREE, handle, 0);
	expect_buffer(fd, 0);
	ask(fd, MSG_BUFFER_FREE, handle, 0);
	raw_expect_error(fd, -GPUQ_EBUFFER, "has no buffer");
	close(other);
	close(fd);
	harness_daemon_destroy(daemon);
}

/* Descriptors in flight count against gpuqd. */
static void test_exports_unread(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	int fd = raw_client(daemon->socket);
	uint32_t handle = allocate(fd);

	ask(fd, MSG_BUFFER_EXPORT, handle, 0);
	expect_buffer(fd, 1);
	ask(fd, MSG_BUFFER_EXPORT, handle, 0);
	raw_expect_error(fd, -EBUSY, "MSG_ACK");
	raw_send_bare(fd, MSG_ACK, 0);
	/* Acknowledged and never read: at some point there are no more. gpuqd may be quick. */
	for (uint32_t i = 0; i < 20; i++) {
		struct msg_buffer_handle m = {.handle = handle};
		struct msg_header ack = {0};

		if (raw_try_send(fd, &m, MSG_BUFFER_EXPORT, sizeof(m), 5) < 0 ||
			raw_try_send(fd, &ack, MSG_ACK, sizeof(ack), 0) < 0)
			break;
	}
	/* The first acknowledgement too many ends the connection. */
	struct stats s = raw_stats(daemon);
	raw_await(s.header->protocol_errors == 1);
	stats_close(&s);
	uint32_t sent = 0;
	struct raw_answer a;
	while (raw_receive(fd, &a)) {
		sent += a.n_fds;
		raw_close_fds(&a);
	}
	assert_in_range(sent, 1, 8);
	close(fd);
	harness_daemon_destroy(daemon);
}

/* Everything at once, without waiting for answers; then it is gone. */
static void test_in_no_order(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct msg_buffer_alloc alloc = {.form = MSG_BUFFER_FD, .bytes = 1};
	uint32_t before = raw_count_fds(daemon->pid);
	uint32_t handle = 0;

	for (uint32_t turn = 0; turn < 20; turn++) {
		int fd = raw_client(daemon->socket);
		if (turn % 2 == 0)
			handle = allocate(fd);
		raw_send(fd, &alloc, MSG_BUFFER_ALLOC, sizeof(alloc), 1);
		ask(fd, MSG_BUFFER_GRANT, handle, (uint32_t)getpid());
		ask(fd, MSG_BUFFER_ACCEPT, handle, 0);
		ask(fd, MSG_BUFFER_FREE, handle, 0);
		/* While it is leaving. */
		ask(fd, MSG_BUFFER_FREE, handle, 0);
		ask(fd, MSG_BUFFER_GRANT, handle, (uint32_t)getpid());
		ask(fd, MSG_BUFFER_EXPORT, handle, 0);
		ask(fd, MSG_BUFFER_ACCEPT, handle, 0);
		close(fd);
	}
	raw_await(raw_count_fds(daemon->pid) == before);
	struct stats s = raw_stats(daemon);
	raw_await(s.header->clients == 0);
	stats_close(&s);
	harness_daemon_destroy(daemon);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_older_version),
		HARNESS_TEST(test_statistics),
		HARNESS_TEST(test_refused),
		HARNESS_TEST(test_exports_unread),
		HARNESS_TEST(test_in_no_order),
	};

	return harness_run("daemon-buffers", tests, sizeof(tests) / sizeof(tests[0]));
}
