/* SPDX-License-Identifier: MIT */
/*
 * Pipelines in the control process: definitions in pieces, handles, limits, and what becomes of
 * them at the end of their client or of the device process. And the questions about graphs.
 */
#include "tests/daemon/raw.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PADDING 30 /* inner tensors with a step each, so that a definition takes many pieces */

/* softmax(x) -> y, by way of PADDING more of the same. */
struct definition {
	struct wire_pipeline head;
	struct wire_pipeline_tensor tensors[PADDING + 2];
	struct wire_pipeline_step steps[PADDING + 1];
};

static uint32_t op_number(int fd, const char *name)
{
	struct raw_answer a;

	for (uint32_t i = 0;; i++) {
		struct msg_query q = {.index = i};
		raw_send(fd, &q, MSG_OP_QUERY, sizeof(q), 1);
		assert_true(raw_receive(fd, &a));
		assert_int_equal(a.h.type, MSG_OP);
		if (strcmp(a.op.name, name) == 0)
			return i;
	}
}

static struct definition define(int fd)
{
	struct definition d = {.head = {"chain", 1, 1, PADDING + 2, PADDING + 1}};
	uint32_t softmax = op_number(fd, "softmax");

	for (uint32_t i = 0; i < PADDING + 2; i++) {
		d.tensors[i].dtype = GPUQ_F32;
		snprintf(d.tensors[i].name, GPUQ_NAME_MAX, "t%u", i);
	}
	d.tensors[0].rank = 1;
	d.tensors[0].dims[0] = 8;
	for (uint32_t i = 0; i < PADDING + 1; i++) {
		struct wire_pipeline_step *s = &d.steps[i];
		memset(s->in, 0xff, sizeof(s->in));
		memset(s->out, 0xff, sizeof(s->out));
		s->op = softmax;
		s->in[0] = (uint16_t)(i == 0 ? 0 : i + 1);
		s->out[0] = (uint16_t)(i == PADDING ? 1 : i + 2);
	}
	return d;
}

static void send_piece(int fd, const void *definition, uint32_t total, uint32_t at, uint32_t bytes)
{
	struct msg_pipeline m = {.total_bytes = total, .offset = at, .bytes = bytes};

	memcpy(m.piece, (const char *)definition + at, bytes);
	raw_send(fd, &m, MSG_PIPELINE, offsetof(struct msg_pipeline, piece) + bytes, 7);
}

/* Sends all pieces; the answer to the last one is left in the queue. */
static void send_definition(int fd, const void *definition, uint32_t total)
{
	struct raw_answer a;

	for (uint32_t at = 0; at < total; at += MSG_PIPELINE_PIECE) {
		uint32_t left = total - at;
		if (at > 0) {
			assert_true(raw_receive(fd, &a));
			assert_int_equal(a.h.type, MSG_PIPELINE_OK);
			assert_int_equal(((struct msg_pipeline_handle *)a.bytes)->handle, 0);
		}
		send_piece(fd, definition, total, at,
			left < MSG_PIPELINE_PIECE ? left : MSG_PIPELINE_PIECE);
	}
}

static uint32_t expect_handle(int fd)
{
	struct raw_answer a;

	assert_true(raw_receive(fd, &a));
	if (a.h.type != MSG_PIPELINE_OK)
		fail_msg("message %u: %s", a.h.type, a.error.text);
	return ((struct msg_pipeline_handle *)a.bytes)->handle;
}

static uint32_t register_one(int fd, const struct definition *d)
{
	send_definition(fd, d, sizeof(*d));
	uint32_t handle = expect_handle(fd);
	assert_true((handle & WIRE_PIPELINE) != 0);
	assert_true((handle >> 16 & 0x7fff) != 0);
	return handle;
}

static void close_one(int fd, uint32_t handle)
{
	struct msg_pipeline_handle m = {.handle = handle};

	raw_send(fd, &m, MSG_PIPELINE_CLOSE, sizeof(m), 8);
}

static uint64_t pipelines_now(const struct harness_daemon *daemon)
{
	struct stats s = raw_stats(daemon);
	uint64_t n = shm_load_relaxed(&s.header->pipelines);

	stats_close(&s);
	return n;
}

static void test_registering(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	int fd = raw_client(daemon->socket);
	const struct definition d = define(fd);

	uint32_t first = register_one(fd, &d), second = register_one(fd, &d);
	assert_true(first != second);
	assert_int_equal(pipelines_now(daemon), 2);
	close_one(fd, first);
	assert_int_equal(expect_handle(fd), 0);
	/* The answer may come before the count. */
	while (pipelines_now(daemon) != 1)
		raw_pause();
	/* Stale, also when the record is used again; and made up. */
	close_one(fd, first);
	raw_expect_error(fd, -GPUQ_EPIPELINE, "no pipeline");
	uint32_t third = register_one(fd, &d);
	assert_true(third != first && third != second);
	close_one(fd, first);
	raw_expect_error(fd, -GPUQ_EPIPELINE, "no pipeline");
	close_one(fd, WIRE_PIPELINE | 1u << 16 | 0xffff);
	raw_expect_error(fd, -GPUQ_EPIPELINE, "no pipeline");
	/* Another client's. */
	int other = raw_client(daemon->socket);
	close_one(other, second);
	raw_expect_error(other, -GPUQ_EPIPELINE, "no pipeline");
	close(other);
	close(fd);
	raw_await(pipelines_now(daemon) == 0);
	harness_daemon_destroy(daemon);
}

static void test_what_is_wrong_is_told(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	int fd = raw_client(daemon->socket);
	const struct definition good = define(fd);
	struct definition d = good;

	d.steps[3].in[0] = 5; /* its own result */
	send_definition(fd, &d, sizeof(d));
	raw_expect_error(fd, -GPUQ_EPIPELINE, "");
	d = good;
	d.steps[3].op = 77;
	send_definition(fd, &d, sizeof(d));
	raw_expect_error(fd, -GPUQ_EOP, "");
	d = good;
	d.tensors[0].rank = 0;
	send_definition(fd, &d, sizeof(d));
	raw_expect_error(fd, -GPUQ_ERANK, "t0");
	send_definition(fd, &good, sizeof(good) - 8);
	raw_expect_error(fd, -GPUQ_EPIPELINE, "");
	struct msg_pipeline m = {.device = 9, .total_bytes = 100, .bytes = 50};
	raw_send(fd, &m, MSG_PIPELINE, offsetof(struct msg_pipeline, piece) + 50, 7);
	raw_expect_error(fd, -GPUQ_ENODEV, "no device 9");
	assert_int_equal(pipelines_now(daemon), 0);
	register_one(fd, &good);
	close(fd);
	harness_daemon_destroy(daemon);
}

static void test_pieces_that_do_not_fit(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	int fd = raw_client(daemon->socket);
	const struct definition d = define(fd);
	const uint32_t total = sizeof(d);

	send_piece(fd, &d, total, 100, 100); /* no beginning */
	raw_expect_error(fd, -GPUQ_EPIPELINE, "0 of 0 have come");
	send_piece(fd, &d, total, 0, 1000);
	assert_int_equal(expect_handle(fd), 0);
	send_piece(fd, &d, total, 999, 1000); /* twice */
	raw_expect_error(fd, -GPUQ_EPIPELINE, "1000 of");
	send_piece(fd, &d, total, 1000, 1000); /* the piece before has ended it */
	raw_expect_error(fd, -GPUQ_EPIPELINE, "0 of 0 have come");
	send_piece(fd, &d, total, 0, 1000);
	assert_int_equal(expect_handle(fd), 0);
	send_piece(fd, &d, total + 8, 1000, 1000); /* another whole */
	raw_expect_error(fd, -GPUQ_EPIPELINE, "");
	send_piece(fd, &d, 500, 0, 1000); /* more than the whole */
	raw_expect_error(fd, -GPUQ_EPIPELINE, "");
	send_piece(fd, &d, total, 0, 0); /* nothing */
	raw_expect_error(fd, -GPUQ_EPIPELINE, "");
	send_piece(fd, &d, MSG_PIPELINE_MAX_BYTES + 1, 0, 1000);
	raw_expect_error(fd, -GPUQ_ELIMIT, "at most");
	/* A new beginning forgets an unfinished one. */
	send_piece(fd, &d, total, 0, 1000);
	assert_int_equal(expect_handle(fd), 0);
	register_one(fd, &d);
	struct msg_pipeline m = {.total_bytes = total, .bytes = 10};
	raw_send(fd, &m, MSG_PIPELINE, offsetof(struct msg_pipeline, piece) + 9, 7);
	raw_expect_error(fd, -GPUQ_EPROTO, "a piece of 10");
	raw_expect_end(fd);
	close(fd);
	harness_daemon_destroy(daemon);
}

static void test_limits(void **state)
{
	static const char *const args[] = {"--max-pipelines", "5", "--max-pipelines-per-client",
		"3", "--max-client-bytes", "64K", NULL};
	struct harness_daemon *daemon = harness_daemon_start(args);
	int fd = raw_client(daemon->socket), other = raw_client(daemon->socket);
	const struct definition d = define(fd);

	for (int i = 0; i < 3; i++)
		register_one(fd, &d);
	send_definition(fd, &d, MSG_PIPELINE_PIECE);
	raw_expect_error(fd, -GPUQ_ELIMIT, "max_pipelines_per_client (3)");
	register_one(other, &d);
	uint32_t handle = register_one(other, &d);
	send_definition(other, &d, MSG_PIPELINE_PIECE);
	raw_expect_error(other, -GPUQ_ELIMIT, "max_pipelines (5)");
	close_one(other, handle);
	expect_handle(other);
	/* An unfinished one counts too. */
	send_piece(other, &d, 60 << 10, 0, 1000);
	raw_expect_error(other, -GPUQ_ELIMIT, "max_client_bytes");
	send_piece(other, &d, 50 << 10, 0, 1000);
	assert_int_equal(expect_handle(other), 0);
	struct msg_open open = raw_open(16 << 10);
	raw_send(other, &open, MSG_OPEN, sizeof(open), 9);
	raw_expect_error(other, -GPUQ_ELIMIT, "max_client_bytes");
	/* All of it comes back. */
	register_one(other, &d);
	close(other);
	other = raw_client(daemon->socket);
	raw_await(pipelines_now(daemon) == 3);
	send_piece(other, &d, 60 << 10, 0, 1000);
	assert_int_equal(expect_handle(other), 0);
	close(other);
	close(fd);
	raw_await(pipelines_now(daemon) == 0);
	harness_daemon_destroy(daemon);
}

static void another_user_registers(int fd, const void *definition)
{
	register_one(fd, definition);
}

/* Counted over all connections of a user; another one has a share of its own. */
static void test_limit_of_a_user(void **state)
{
	static const char *const args[] = {
		"--max-pipelines-per-user", "2", "--socket-mode", "0666", NULL};

	if (geteuid() != 0)
		harness_skip("only root can become another user");
	struct harness_daemon *daemon = harness_daemon_start(args);
	int fd = raw_client(daemon->socket), other = raw_client(daemon->socket);
	const struct definition d = define(fd);

	assert_int_equal(chmod(harness_tmpdir(), 0755), 0);
	register_one(fd, &d);
	uint32_t handle = register_one(other, &d);
	for (int i = 0; i < 2; i++) {
		send_definition(i == 0 ? fd : other, &d, MSG_PIPELINE_PIECE);
		raw_expect_error(i == 0 ? fd : other, -GPUQ_ELIMIT, "max_pipelines_per_user (2)");
	}
	raw_as_another_user(daemon, another_user_registers, &d);
	close_one(other, handle);
	expect_handle(other);
	register_one(fd, &d);
	close(other);
	close(fd);
	harness_daemon_destroy(daemon);
}

static pid_t device_pid(const struct harness_daemon *daemon)
{
	struct stats s = raw_stats(daemon);
	bool ready = shm_load_acquire_u32(&s.devices[0].state) == STATS_DEVICE_READY;
	pid_t pid = ready ? (pid_t)s.devices[0].pid : 0;

	stats_close(&s);
	return pid;
}

/* Handles outlive the device process: its successor is told. */
static void test_the_device_process_ends(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	int fd = raw_client(daemon->socket), doomed = raw_client(daemon->socket);
	const struct definition d = define(fd);
	uint32_t handle = register_one(fd, &d);
	pid_t pid = device_pid(daemon);

	register_one(doomed, &d);
	kill(pid, SIGKILL);
	/* Whatever the moment: registering and giving up are answered in the end. */
	close(doomed);
	uint32_t during = register_one(fd, &d);
	raw_await(device_pid(daemon) != 0 && device_pid(daemon) != pid);
	close_one(fd, handle);
	assert_int_equal(expect_handle(fd), 0);
	close_one(fd, during);
	assert_int_equal(expect_handle(fd), 0);
	raw_await(pipelines_now(daemon) == 0);
	close(fd);
	harness_daemon_destroy(daemon);
}

/* --- Graphs -------------------------------------------------------------------------------- */

static void test_questions_about_graphs(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct msg_graph_query q = {.device = 0};
	struct msg_query present = {.index = 0};
	int fd = raw_client(daemon->socket);
	struct raw_answer a;

	raw_send(fd, &q, MSG_GRAPH_QUERY, sizeof(q), 1);
	assert_true(raw_receive(fd, &a));
	assert_int_equal(a.h.type, MSG_GRAPHS);
	assert_int_equal(((struct msg_graphs *)a.bytes)->count, 0);
	q.device = 1;
	raw_send(fd, &q, MSG_GRAPH_QUERY, sizeof(q), 1);
	raw_expect_error(fd, -GPUQ_ENODEV, "no device 1");
	for (uint32_t n = 1; present.index < n; present.index++) {
		const struct msg_present *p = (struct msg_present *)a.bytes;
		raw_send(fd, &present, MSG_PRESENT_QUERY, sizeof(present), 1);
		assert_true(raw_receive(fd, &a));
		assert_int_equal(a.h.type, MSG_PRESENT);
		assert_true(p->count >= 1);
		assert_true(p->kind[0] != '\0');
		assert_true((p->status == 0) == (p->why[0] == '\0'));
		n = p->count;
	}
	close(fd);
	harness_daemon_destroy(daemon);
}

static void test_administration(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct msg_admin_capture capture = {.stop = 1};
	struct msg_admin_evict evict = {.id = 0};
	char path[256];
	int fd = raw_client(daemon->socket);

	raw_send(fd, &capture, MSG_ADMIN_CAPTURE, sizeof(capture), 1);
	raw_expect_error(fd, -EPERM, "administrative socket");
	raw_send(fd, &evict, MSG_ADMIN_EVICT, sizeof(evict), 1);
	raw_expect_error(fd, -EPERM, "administrative socket");
	close(fd);
	snprintf(path, sizeof(path), "%s" MSG_ADMIN_SUFFIX, daemon->socket);
	fd = raw_client(path);
	struct raw_answer a;
	raw_send(fd, &capture, MSG_ADMIN_CAPTURE, sizeof(capture), 1);
	assert_true(raw_receive(fd, &a) && a.h.type == MSG_ADMIN_OK);
	raw_send(fd, &evict, MSG_ADMIN_EVICT, sizeof(evict), 1);
	assert_true(raw_receive(fd, &a) && a.h.type == MSG_ADMIN_OK);
	evict.id = 123456;
	raw_send(fd, &evict, MSG_ADMIN_EVICT, sizeof(evict), 1);
	raw_expect_error(fd, -ENOENT, "no shape 123456");
	capture.stop = 2;
	raw_send(fd, &capture, MSG_ADMIN_CAPTURE, sizeof(capture), 1);
	raw_expect_error(fd, -EINVAL, "0 or 1");
	capture.stop = 0;
	capture.device = 3;
	raw_send(fd, &capture, MSG_ADMIN_CAPTURE, sizeof(capture), 1);
	raw_expect_error(fd, -GPUQ_ENODEV, "no device 3");
	close(fd);
	harness_daemon_destroy(daemon);
}

/* A client that speaks an older version has no such messages. */
static void test_an_older_client(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct msg_graph_query q = {.device = 0};
	int fd = raw_client_of(daemon->socket, 2);

	raw_send(fd, &q, MSG_GRAPH_QUERY, sizeof(q), 3);
	raw_expect_error(fd, -GPUQ_EPROTO, "there is no message");
	raw_expect_end(fd);
	close(fd);
	harness_daemon_destroy(daemon);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_registering),
		HARNESS_TEST(test_what_is_wrong_is_told),
		HARNESS_TEST(test_pieces_that_do_not_fit),
		HARNESS_TEST(test_limits),
		HARNESS_TEST(test_limit_of_a_user),
		HARNESS_TEST(test_the_device_process_ends),
		HARNESS_TEST(test_questions_about_graphs),
		HARNESS_TEST(test_administration),
		HARNESS_TEST(test_an_older_client),
	};

	return harness_run("daemon-pipelines", tests, sizeof(tests) / sizeof(tests[0]));
}
