/* SPDX-License-Identifier: MIT */
/* How connections to gpuqd begin: versions, broken messages, deadlines, who may come in. */
#include "tests/daemon/raw.h"

#include "shm/robust.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void test_welcome(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct msg_hello hello = raw_hello(WIRE_ABI_OLDEST, WIRE_ABI);
	struct raw_answer a;
	int fd = raw_connect(d->socket);

	raw_send(fd, &hello, MSG_HELLO, sizeof(hello), 41);
	assert_true(raw_receive(fd, &a));
	assert_int_equal(a.h.type, MSG_WELCOME);
	assert_int_equal(a.h.serial, 41);
	assert_int_equal(a.welcome.abi, WIRE_ABI);
	assert_int_equal(a.welcome.n_devices, 1);
	assert_true(a.welcome.n_ops > 0);
	assert_true(a.welcome.max_channels > 0);
	assert_int_equal(a.welcome.max_entries, WIRE_MAX_ENTRIES);
	assert_string_equal(a.welcome.socket_path, d->socket);
	assert_int_equal(a.n_fds, 1);

	/* The page can be read, and not written. */
	assert_ptr_equal(
		mmap(NULL, WIRE_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, a.fds[0], 0),
		MAP_FAILED);
	struct wire_page *page = mmap(NULL, WIRE_PAGE_SIZE, PROT_READ, MAP_SHARED, a.fds[0], 0);
	assert_ptr_not_equal(page, MAP_FAILED);
	assert_int_equal(page->magic, WIRE_MAGIC);
	assert_int_equal(page->state, WIRE_SERVING);
	assert_int_equal(page->owner, d->pid);
	assert_true(page->cpus >= 1);
	assert_int_equal(page->devices[0].epoch, 1);

	/* And it tells of gpuqd's end however that comes. */
	harness_daemon_kill(d);
	raw_await(robust_died(&page->owner));
	munmap(page, WIRE_PAGE_SIZE);
	raw_close_fds(&a);
	close(fd);
	harness_daemon_destroy(d);
}

static void test_versions(void **state)
{
	static const struct {
		uint32_t min, max, agreed; /* 0: none */
	} cases[] = {
		{1, 1, 1},
		{1, 2, 2},
		{2, 2, 2},
		{2, 99, 4},
		{3, 3, 3},
		{4, 4, 4},
		{0, 1, 1},
		{0, 0, 0},
		{5, 99, 0},
		{99, 99, 0},
		{2, 1, 0},
	};
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct raw_answer a;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct msg_hello hello = raw_hello(cases[i].min, cases[i].max);
		int fd = raw_connect(d->socket);

		raw_send(fd, &hello, MSG_HELLO, sizeof(hello), 1);
		if (cases[i].agreed == 0) {
			raw_expect_error(fd, -GPUQ_EABI, "update the older one");
			raw_expect_end(fd);
		} else {
			assert_true(raw_receive(fd, &a));
			assert_int_equal(a.h.type, MSG_WELCOME);
			assert_int_equal(a.welcome.abi, cases[i].agreed);
			raw_close_fds(&a);
		}
		close(fd);
	}
	harness_daemon_destroy(d);
}

/* A channel carries the version of its client. */
static void test_older_client_opens(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct msg_hello hello = raw_hello(1, 1);
	struct msg_open open = raw_open(4096);
	struct raw_answer a;
	uint32_t abi;
	int fd = raw_connect(d->socket);

	raw_send(fd, &hello, MSG_HELLO, sizeof(hello), 1);
	assert_true(raw_receive(fd, &a));
	raw_close_fds(&a);
	raw_send_bare(fd, MSG_ACK, 2);
	raw_open_channel(fd, &open, &a);
	assert_int_equal(
		pread(a.fds[0], &abi, sizeof(abi), offsetof(struct wire_header, abi)), sizeof(abi));
	assert_int_equal(abi, 1);
	raw_close_fds(&a);
	close(fd);
	harness_daemon_destroy(d);
}

/* Each of these ends the connection with a sentence, and nothing else. */
static void break_magic(int fd)
{
	struct msg_hello m = raw_hello(1, 2);

	m.h = (struct msg_header){.magic = 0x1234, .type = MSG_HELLO, .bytes = sizeof(m)};
	assert_int_equal(send(fd, &m, sizeof(m), 0), sizeof(m));
}

static void break_length(int fd)
{
	struct msg_hello m = raw_hello(1, 2);

	m.h = (struct msg_header){.magic = MSG_MAGIC, .type = MSG_HELLO, .bytes = sizeof(m) - 8};
	assert_int_equal(send(fd, &m, sizeof(m), 0), sizeof(m));
}

static void break_reserved(int fd)
{
	struct msg_hello m = raw_hello(1, 2);

	m.h.reserved = 1;
	raw_send(fd, &m, MSG_HELLO, sizeof(m), 1);
}

static void break_too_short(int fd)
{
	struct msg_hello m = raw_hello(1, 2);

	raw_send(fd, &m, MSG_HELLO, sizeof(m) - 4, 1);
}

static void break_tiny(int fd)
{
	assert_int_equal(send(fd, "gpuq", 4, 0), 4);
}

static void break_too_long(int fd)
{
	char m[MSG_MAX + 1] = {0};

	assert_int_equal(send(fd, m, sizeof(m), 0), sizeof(m));
}

static void break_unknown_fields(int fd)
{
	struct {
		struct msg_hello m;
		uint32_t later, more;
	} m = {raw_hello(1, 2), 0, 1};

	raw_send(fd, &m, MSG_HELLO, sizeof(m), 1);
}

static void break_unknown_type(int fd)
{
	raw_send_bare(fd, 999, 1);
}

static void break_order(int fd)
{
	struct msg_open m = raw_open(4096);

	raw_send(fd, &m, MSG_OPEN, sizeof(m), 1);
}

static void break_name(int fd)
{
	struct msg_hello m = raw_hello(1, 2);

	memset(m.name, 'x', sizeof(m.name));
	raw_send(fd, &m, MSG_HELLO, sizeof(m), 1);
}

static void break_flags(int fd)
{
	struct msg_hello m = raw_hello(1, 2);

	m.flags = 1;
	raw_send(fd, &m, MSG_HELLO, sizeof(m), 1);
}

static void test_broken_messages(void **state)
{
	static void (*const breaks[])(int fd) = {
		break_magic,
		break_length,
		break_reserved,
		break_too_short,
		break_tiny,
		break_too_long,
		break_unknown_fields,
		break_unknown_type,
		break_order,
		break_name,
		break_flags,
	};
	const size_t n = sizeof(breaks) / sizeof(breaks[0]);
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct stats stats = raw_stats(d);
	uint32_t fds = raw_count_fds(d->pid);

	for (size_t i = 0; i < n; i++) {
		int fd = raw_connect(d->socket);
		breaks[i](fd);
		raw_expect_error(fd, -GPUQ_EPROTO, "");
		raw_expect_end(fd);
		close(fd);
	}
	assert_int_equal(stats.header->protocol_errors, n);
	assert_int_equal(stats.header->refused, n);
	assert_int_equal(stats.header->clients, 0);
	raw_await(raw_count_fds(d->pid) == fds);
	close(raw_client(d->socket));
	stats_close(&stats);
	harness_daemon_destroy(d);
}

static void test_broken_order_after_hello(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct msg_hello hello = raw_hello(1, 2);
	int fd = raw_client(d->socket);

	raw_send_bare(fd, MSG_ACK, 3);
	raw_expect_error(fd, -GPUQ_EPROTO, "MSG_ACK without");
	raw_expect_end(fd);
	close(fd);
	fd = raw_client(d->socket);
	raw_send(fd, &hello, MSG_HELLO, sizeof(hello), 3);
	raw_expect_error(fd, -GPUQ_EPROTO, "second MSG_HELLO");
	raw_expect_end(fd);
	close(fd);
	harness_daemon_destroy(d);
}

/* A newer client's message is longer; what it does not use is zero. */
static void test_longer_message_is_understood(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct {
		struct msg_hello m;
		uint64_t later[8];
	} m = {.m = raw_hello(1, 2)};
	struct raw_answer a;
	int fd = raw_connect(d->socket);

	raw_send(fd, &m, MSG_HELLO, sizeof(m), 1);
	assert_true(raw_receive(fd, &a));
	assert_int_equal(a.h.type, MSG_WELCOME);
	raw_close_fds(&a);
	close(fd);
	harness_daemon_destroy(d);
}

/* People see names on terminals. */
static void test_names_are_made_printable(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct stats stats = raw_stats(d);
	struct msg_hello hello = raw_hello(1, 2);
	struct raw_answer a;
	int fd = raw_connect(d->socket);

	snprintf(hello.name, sizeof(hello.name), "a\033[2J\nb");
	raw_send(fd, &hello, MSG_HELLO, sizeof(hello), 1);
	assert_true(raw_receive(fd, &a));
	const struct stats_client *record = &stats.clients[a.welcome.client];
	assert_string_equal(record->name, "a?[2J?b");
	assert_int_equal(record->state, STATS_CLIENT_CONNECTED);
	assert_int_equal(record->pid, getpid());
	assert_int_equal(record->uid, getuid());
	assert_int_equal(stats.header->clients, 1);
	raw_close_fds(&a);
	close(fd);
	raw_await(record->state == STATS_CLIENT_DEAD);
	assert_int_equal(stats.header->clients, 0);
	assert_int_equal(stats.header->deaths, 0);
	stats_close(&stats);
	harness_daemon_destroy(d);
}

static void test_handshake_deadline(void **state)
{
	const char *const args[] = {"--handshake-timeout-ms", "150", NULL};
	struct harness_daemon *d = harness_daemon_start(args);
	struct stats stats = raw_stats(d);
	int silent[3];

	int quick = raw_client(d->socket);
	for (int i = 0; i < 3; i++)
		silent[i] = raw_connect(d->socket);
	for (int i = 0; i < 3; i++) {
		raw_expect_error(silent[i], -ETIMEDOUT, "handshake_timeout_ms");
		raw_expect_end(silent[i]);
		close(silent[i]);
	}
	assert_int_equal(stats.header->refused, 3);
	/* The deadline is the handshake's alone. */
	raw_open_plain(quick);
	close(quick);
	stats_close(&stats);
	harness_daemon_destroy(d);
}

static void test_clients_that_come_and_go(void **state)
{
	const uint32_t rounds = harness_long() ? 5000 : 300;
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct msg_hello hello = raw_hello(1, 2);
	uint32_t fds = raw_count_fds(d->pid);

	for (uint32_t i = 0; i < rounds; i++) {
		int fd = raw_connect(d->socket);
		if (i % 3 > 0)
			raw_send(fd, &hello, MSG_HELLO, sizeof(hello), 1);
		if (i % 3 > 1)
			raw_send_bare(fd, MSG_GOODBYE, 0);
		close(fd);
	}
	raw_await(raw_count_fds(d->pid) == fds);
	close(raw_client(d->socket));
	harness_daemon_destroy(d);
}

/* Dies in the middle of a handshake, by SIGKILL. */
static void test_client_killed_in_handshake(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct stats stats = raw_stats(d);
	uint32_t fds = raw_count_fds(d->pid);

	for (int i = 0; i < 20; i++) {
		pid_t pid = fork();
		if (pid == 0) {
			struct msg_hello hello = raw_hello(1, 2);
			int fd = raw_try_connect(d->socket);
			if (fd >= 0 && i % 2 == 0)
				(void)raw_try_send(fd, &hello, MSG_HELLO, sizeof(hello), 1);
			kill(getpid(), SIGKILL);
		}
		assert_int_equal(waitpid(pid, NULL, 0), pid);
	}
	raw_await(raw_count_fds(d->pid) == fds);
	assert_int_equal(stats.header->clients, 0);
	stats_close(&stats);
	harness_daemon_destroy(d);
}

/* Descriptors that a client sends are nobody's: they must not pile up in gpuqd. */
static void test_descriptors_from_clients_are_dropped(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	int fd = raw_client(d->socket);
	uint32_t fds = raw_count_fds(d->pid);
	struct msg_query q = {.h = {.magic = MSG_MAGIC, .type = MSG_OP_QUERY, .bytes = sizeof(q)}};
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(32 * sizeof(int))];
	} u = {0};
	struct iovec iov = {&q, sizeof(q)};
	struct msghdr mh = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof(u)};
	struct raw_answer a;

	struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(32 * sizeof(int));
	for (int i = 0; i < 32; i++)
		memcpy(CMSG_DATA(c) + i * sizeof(int), &fd, sizeof(int));
	for (int i = 0; i < 50; i++) {
		assert_int_equal(sendmsg(fd, &mh, 0), sizeof(q));
		assert_true(raw_receive(fd, &a));
		assert_int_equal(a.h.type, MSG_OP);
	}
	assert_int_equal(raw_count_fds(d->pid), fds);
	close(fd);
	harness_daemon_destroy(d);
}

/* A client that asks and asks without reading is closed; others do not notice. */
static void test_client_that_does_not_read(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	int deaf = raw_client(d->socket), other = raw_client(d->socket);
	struct msg_query q = {0};
	int r = 0;

	for (int i = 0; i < 100000 && r == 0; i++)
		r = raw_try_send(deaf, &q, MSG_OP_QUERY, sizeof(q), 1);
	assert_int_equal(r, -EPIPE);
	raw_open_plain(other);
	close(deaf);
	close(other);
	harness_daemon_destroy(d);
}

/* Opens without reading: neither acknowledging nor claiming to gets around the limit. */
static void test_descriptors_in_flight_are_bounded(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	struct msg_open open = raw_open(4096);
	int fd = raw_client(d->socket);
	struct raw_answer a;
	uint32_t fds = raw_count_fds(d->pid);

	raw_send(fd, &open, MSG_OPEN, sizeof(open), 5);
	raw_send(fd, &open, MSG_OPEN, sizeof(open), 6);
	/* The refusal may be quicker than what it stands behind. */
	for (int i = 0; i < 2; i++) {
		assert_true(raw_receive(fd, &a));
		assert_int_equal(a.h.type, a.h.serial == 5 ? MSG_OPENED : MSG_ERROR);
		assert_true(a.h.serial == 5 || a.error.status == -EBUSY);
		raw_close_fds(&a);
	}
	raw_send(fd, &open, MSG_OPEN, sizeof(open), 7);
	raw_expect_error(fd, -EBUSY, "acknowledged");
	raw_send_bare(fd, MSG_ACK, 0);
	raw_open_channel(fd, &open, &a);
	raw_close_fds(&a);

	uint32_t opened = 0;
	for (; opened < 40; opened++) {
		struct stats stats = raw_stats(d);
		uint64_t channels = stats.header->channels;
		if (raw_try_send(fd, &open, MSG_OPEN, sizeof(open), 8) < 0)
			break;
		for (int ms = 0; ms < 200 && stats.header->channels == channels; ms += 5)
			raw_pause();
		bool more = stats.header->channels > channels;
		stats_close(&stats);
		if (!more)
			break;
		raw_pause();
		(void)raw_try_send(fd, &(struct msg_header){0}, MSG_ACK, 16, 9);
	}
	assert_true(opened < 12);
	close(fd);
	raw_await(raw_count_fds(d->pid) < fds);
	harness_daemon_destroy(d);
}

static void test_queries(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	int fd = raw_client(d->socket);
	struct msg_query q = {.index = 0};
	struct raw_answer a;

	raw_send(fd, &q, MSG_OP_QUERY, sizeof(q), 5);
	assert_true(raw_receive(fd, &a));
	assert_int_equal(a.h.type, MSG_OP);
	assert_int_equal(a.h.serial, 5);
	assert_int_equal(a.op.index, 0);
	assert_true(a.op.name[0] != '\0' && a.op.n_inputs > 0);
	assert_true(a.op.inputs[0].name[0] != '\0' && a.op.inputs[0].dtypes != 0);
	q.index = 100000;
	raw_send(fd, &q, MSG_OP_QUERY, sizeof(q), 6);
	raw_expect_error(fd, -GPUQ_EOP, "100000");
	raw_send(fd, &q, MSG_DEVICE_QUERY, sizeof(q), 7);
	raw_expect_error(fd, -GPUQ_ENODEV, "100000");
	q.index = 0;
	raw_send(fd, &q, MSG_DEVICE_QUERY, sizeof(q), 8);
	assert_true(raw_receive(fd, &a));
	assert_int_equal(a.h.type, MSG_DEVICE);
	assert_int_equal(a.device.ready, 1);
	assert_int_equal(a.device.epoch, 1);
	close(fd);
	harness_daemon_destroy(d);
}

static void test_administration(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	char path[256];
	struct raw_answer a;
	struct stat st;
	int status;

	snprintf(path, sizeof(path), "%s" MSG_ADMIN_SUFFIX, d->socket);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	int fd = raw_client(d->socket);
	raw_send_bare(fd, MSG_ADMIN_STOP, 4);
	raw_expect_error(fd, -EPERM, "administrative");
	raw_open_plain(fd); /* that was a refusal, not an offence */

	int admin = raw_client(path);
	raw_send_bare(admin, MSG_ADMIN_STOP, 5);
	assert_true(raw_receive(admin, &a));
	assert_int_equal(a.h.type, MSG_ADMIN_OK);
	assert_true(raw_receive(fd, &a));
	assert_int_equal(a.h.type, MSG_GOODBYE);
	assert_int_equal(a.goodbye.status, -GPUQ_EDRAIN);
	assert_int_equal(waitpid(d->pid, &status, 0), d->pid);
	assert_int_equal(status, 0);
	d->pid = 0;
	close(admin);
	close(fd);
	harness_daemon_destroy(d);
}

/* Even when the file's permissions are opened, gpuqd looks at who comes. */
static void test_administration_is_for_the_owner(void **state)
{
	if (geteuid() != 0)
		harness_skip("only root can become another user");
	struct harness_daemon *d = harness_daemon_start(NULL);
	char path[256];
	int status;

	snprintf(path, sizeof(path), "%s" MSG_ADMIN_SUFFIX, d->socket);
	assert_int_equal(chmod(path, 0777), 0);
	assert_int_equal(chmod(harness_tmpdir(), 0755), 0);
	int fd = -1;
	pid_t pid = fork();
	if (pid == 0) {
		struct raw_answer a = {0};
		if (setgid(65534) < 0 || setuid(65534) < 0)
			_exit(2);
		fd = raw_try_connect(path);
		if (fd < 0)
			_exit(3);
		bool said = raw_receive(fd, &a);
		_exit(said && a.h.type == MSG_ERROR && a.error.status == -EACCES ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 3)
		harness_skip("another user cannot reach the test's directory");
	assert_int_equal(status, 0);
	close(raw_client(path));
	harness_daemon_destroy(d);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_welcome),
		HARNESS_TEST(test_versions),
		HARNESS_TEST(test_older_client_opens),
		HARNESS_TEST(test_broken_messages),
		HARNESS_TEST(test_broken_order_after_hello),
		HARNESS_TEST(test_longer_message_is_understood),
		HARNESS_TEST(test_names_are_made_printable),
		HARNESS_TEST(test_handshake_deadline),
		HARNESS_TEST(test_clients_that_come_and_go),
		HARNESS_TEST(test_client_killed_in_handshake),
		HARNESS_TEST(test_descriptors_from_clients_are_dropped),
		HARNESS_TEST(test_client_that_does_not_read),
		HARNESS_TEST(test_descriptors_in_flight_are_bounded),
		HARNESS_TEST(test_queries),
		HARNESS_TEST(test_administration),
		HARNESS_TEST(test_administration_is_for_the_owner),
	};

	return harness_run("daemon-handshake", tests, sizeof(tests) / sizeof(tests[0]));
}
