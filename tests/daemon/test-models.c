/* SPDX-License-Identifier: MIT */
/*
 * Models on the socket: what administrators may ask for and with which descriptors, what is
 * refused, and that no descriptor stays behind, whoever sends it.
 */
#include "tests/daemon/raw.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_FDS 4u

static int admin(const struct harness_daemon *d)
{
	char path[300];

	snprintf(path, sizeof(path), "%s" MSG_ADMIN_SUFFIX, d->socket);
	return raw_client(path);
}

/* Sends a message with `n` times the same descriptor. */
static void send_with(int fd, void *msg, uint16_t type, uint32_t bytes, int with, uint32_t n)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
	} control = {0};
	struct iovec iov = {msg, bytes};
	struct msghdr packet = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = CMSG_SPACE(n * sizeof(int))};
	struct msg_header *h = msg;

	*h = (struct msg_header){
		.magic = MSG_MAGIC, .type = type, .bytes = (uint16_t)bytes, .serial = 9};
	struct cmsghdr *c = CMSG_FIRSTHDR(&packet);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(n * sizeof(int));
	memcpy(CMSG_DATA(c), (const int[MAX_FDS]){with, with, with, with}, n * sizeof(int));
	assert_int_equal(sendmsg(fd, &packet, MSG_NOSIGNAL), (ssize_t)bytes);
}

static struct msg_admin_load load_of(const char *name)
{
	struct msg_admin_load m = {.int8 = 0};

	snprintf(m.name, sizeof(m.name), "%s", name);
	return m;
}

static int folder(void)
{
	int fd = open(harness_tmpdir(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static struct msg_model query(int fd, const char *name, uint32_t index)
{
	struct msg_model_query q = {.index = index};
	struct msg_model m;
	struct raw_answer a;

	snprintf(q.name, sizeof(q.name), "%s", name);
	raw_send(fd, &q, MSG_MODEL_QUERY, sizeof(q), 3);
	assert_true(raw_receive(fd, &a));
	assert_int_equal(a.h.type, MSG_MODEL);
	assert_int_equal(a.h.bytes, sizeof(m));
	memcpy(&m, a.bytes, sizeof(m));
	return m;
}

static void refused(int fd, struct msg_admin_load m, int with, int status, const char *text)
{
	send_with(fd, &m, MSG_ADMIN_LOAD, sizeof(m), with, 1);
	raw_expect_error(fd, status, text);
}

static void test_refused_loads(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct msg_admin_load m = load_of("m");
	int client = raw_client(d->socket), boss = admin(d), dir = folder();
	int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	uint32_t before = raw_count_fds(d->pid);

	refused(client, m, dir, -EPERM, "administrative socket");
	refused(boss, m, file, -ENOTDIR, "no folder");
	raw_send(boss, &m, MSG_ADMIN_LOAD, sizeof(m), 9);
	raw_expect_error(boss, -ENOTDIR, "no folder");
	refused(boss, load_of(""), dir, -EINVAL, "name");
	refused(boss, load_of("a=b"), dir, -EINVAL, "name");
	refused(boss, load_of("a\n"), dir, -EINVAL, "name");
	memset(m.name, 'x', sizeof(m.name));
	refused(boss, m, dir, -EINVAL, "name");
	m = load_of("m");
	m.int8 = 2;
	refused(boss, m, dir, -EINVAL, "options");
	m = load_of("m");
	m.reserved = 1;
	refused(boss, m, dir, -EINVAL, "options");
	assert_int_equal(query(client, "", 0).count, 0);
	/* With another message, or several: dropped. */
	struct msg_query q = {.index = 0};
	struct raw_answer a;
	for (uint32_t n = 1; n <= MAX_FDS; n++) {
		send_with(boss, &q, MSG_DEVICE_QUERY, sizeof(q), dir, n);
		assert_true(raw_receive(boss, &a));
		assert_int_equal(a.h.type, MSG_DEVICE);
		send_with(client, &q, MSG_DEVICE_QUERY, sizeof(q), dir, n);
		assert_true(raw_receive(client, &a));
		assert_int_equal(a.h.type, MSG_DEVICE);
	}
	assert_int_equal(raw_count_fds(d->pid), before);
	close(client);
	close(boss);
	close(file);
	close(dir);
	harness_daemon_destroy(d);
}

static void await_failed(int fd, const char *name)
{
	raw_await(query(fd, name, 0).state == MSG_MODEL_FAILED);
}

/* An empty folder: what became of it shows until its name, or its place, is needed. */
static void test_failed_loads(void **state)
{
	static const char *const args[] = {"--max-models", "2", NULL};
	struct harness_daemon *d = harness_daemon_start(args);
	struct msg_admin_load m = load_of("one");
	struct msg_admin_unload u = {.name = "two"};
	int client = raw_client(d->socket), boss = admin(d), dir = folder();
	struct raw_answer a;

	for (uint32_t i = 0; i < 3; i++) {
		m = load_of(i == 0 ? "one" : i == 1 ? "two" : "three");
		send_with(boss, &m, MSG_ADMIN_LOAD, sizeof(m), dir, 2 * (i == 1) + 1);
		assert_true(raw_receive(boss, &a));
		assert_int_equal(a.h.type, MSG_ADMIN_OK);
		await_failed(client, m.name);
	}
	const struct msg_model first = query(client, "", 0), none = query(client, "", 2);
	assert_int_equal(first.count, 2);
	assert_true(first.handle != 0 && first.status < 0 && first.why[0] != '\0');
	assert_int_equal(none.handle, 0);
	assert_string_equal(query(client, "three", 0).name, "three");
	raw_send(client, &u, MSG_ADMIN_UNLOAD, sizeof(u), 4);
	raw_expect_error(client, -EPERM, "administrative socket");
	snprintf(u.name, sizeof(u.name), "three");
	raw_send(boss, &u, MSG_ADMIN_UNLOAD, sizeof(u), 4);
	assert_true(raw_receive(boss, &a));
	assert_int_equal(a.h.type, MSG_ADMIN_OK);
	raw_send(boss, &u, MSG_ADMIN_UNLOAD, sizeof(u), 4);
	raw_expect_error(boss, -GPUQ_EMODEL, "no model three");
	assert_int_equal(query(client, "", 0).count, 1);
	close(client);
	close(boss);
	close(dir);
	harness_daemon_destroy(d);
}

static void test_versions_and_forms(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct msg_model_query q = {.index = 0};
	int fd = raw_client(d->socket);

	memset(q.name, 'x', sizeof(q.name));
	raw_send(fd, &q, MSG_MODEL_QUERY, sizeof(q), 3);
	raw_expect_error(fd, -GPUQ_EPROTO, "without an end");
	raw_expect_end(fd);
	close(fd);
	fd = raw_client_of(d->socket, 2);
	q = (struct msg_model_query){.index = 0};
	raw_send(fd, &q, MSG_MODEL_QUERY, sizeof(q), 3);
	raw_expect_error(fd, -GPUQ_EPROTO, "no message");
	close(fd);
	harness_daemon_destroy(d);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_refused_loads),
		HARNESS_TEST(test_failed_loads),
		HARNESS_TEST(test_versions_and_forms),
	};

	return harness_run("daemon-models", tests, sizeof(tests) / sizeof(tests[0]));
}
