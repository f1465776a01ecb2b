/* SPDX-License-Identifier: MIT */
/*
 * test-buffer.c: device buffers in the client library, against a fake gpuqd: what it says on the
 * wire, late answers, an older gpuqd, completions of others, forks and ends.
 */
#include "tests/client/rig.h"

#include <sys/wait.h>
#include <unistd.h>

static struct gpuq_buf *alloc_buf(struct gpuq *g, uint64_t bytes)
{
	const struct gpuq_buf_options options = {.bytes = bytes};
	struct gpuq_buf *buf = NULL;

	assert_int_equal(gpuq_buf_alloc(g, &options, &buf), 0);
	return buf;
}

static void test_copy_on_the_wire(void **state)
{
	struct gpuq_call *copy;
	struct rig rig;

	rig_start(&rig, NULL);
	struct gpuq_buf *buf = alloc_buf(rig.g, 1000);
	assert_int_equal(gpuq_buf_handle(buf), FAKE_BUFFER);
	assert_int_equal(gpuq_buf_bytes(buf), 1000);
	assert_int_equal(
		gpuq_buf_copy_create(rig.ch, buf, 900, rig.x, 100, GPUQ_TO_BUFFER, &copy), 0);
	assert_int_equal(rig_submit(&rig, copy, 7), 1);
	assert_int_equal(rig_wait(&rig, 7).status, 0);
	assert_int_equal(rig.control->last.opcode, WIRE_OP_COPY);
	assert_int_equal(rig.control->last.args_bytes, sizeof(struct wire_copy));
	gpuq_call_destroy(copy);
	assert_int_equal(gpuq_buf_copy_create(rig.ch, buf, 901, rig.x, 100, GPUQ_TO_BUFFER, &copy),
		-GPUQ_EBOUNDS);
	assert_int_equal(gpuq_buf_copy_create(rig.ch, buf, 0, rig.x, 1, 0, &copy), -EINVAL);
	gpuq_buf_free(buf);
	assert_int_equal(rig.control->buffer_frees, 1);
	rig_stop(&rig);
}

static void test_older_gpuqd(void **state)
{
	const struct gpuq_buf_options options = {.bytes = 1};
	struct fake *fake = fake_new();
	struct gpuq_buf *buf;
	struct rig rig;

	fake->control->abi = 2;
	fake_start(fake);
	rig_start_on(&rig, fake, NULL);
	assert_int_equal(gpuq_buf_alloc(rig.g, &options, &buf), -GPUQ_EABI);
	assert_detail("speaks version 2 of the wire, which has no buffers");
	assert_int_equal(gpuq_buf_accept(rig.g, 1, &buf), -GPUQ_EABI);
	assert_int_equal(rig.control->buffer_requests, 0);
	rig_stop(&rig);
}

static void set_fault(struct rig *rig, uint64_t fault, uint64_t at)
{
	rig->control->fault_at = at;
	shm_store_release(&rig->control->fault, fault);
}

/* What is allocated after nobody waits any more is freed; what is exported so late is not. */
static void test_late_answers(void **state)
{
	const struct gpuq_buf_options options = {.bytes = 1};
	struct gpuq_buf_export export;
	struct gpuq_options impatient = {.timeout_ns = RIG_SECOND_NS / 10};
	struct gpuq_buf *buf;
	struct gpuq *g;
	struct rig rig;

	rig_start(&rig, NULL);
	impatient.socket = rig.fake->socket;
	assert_int_equal(gpuq_connect(&impatient, &g), 0);
	set_fault(&rig, FAKE_LATE, MSG_BUFFER_ALLOC);
	assert_int_equal(gpuq_buf_alloc(g, &options, &buf), -ETIMEDOUT);
	set_fault(&rig, FAKE_NO_FAULT, 0);
	while (shm_load_acquire(&rig.control->buffers) == 0 ||
		gpuq_buf_alloc(g, &options, &buf) < 0)
		usleep(1000);
	/* All but the one that was waited for. */
	while (shm_load_acquire(&rig.control->buffer_frees) + 1 <
		shm_load_acquire(&rig.control->buffers))
		usleep(1000);
	assert_true(shm_load_acquire(&rig.control->buffer_frees) > 0);
	set_fault(&rig, FAKE_LATE, MSG_BUFFER_EXPORT);
	assert_int_equal(gpuq_buf_export(buf, &export), -ETIMEDOUT);
	set_fault(&rig, FAKE_NO_FAULT, 0);
	while (gpuq_buf_export(buf, &export) < 0)
		usleep(1000);
	close(export.fd);
	/* Requests are served in order: a free would have come before this answer. */
	assert_int_equal(gpuq_buf_grant(buf, 1), 0);
	assert_int_equal(rig.control->buffer_frees + 1, rig.control->buffers);
	gpuq_disconnect(g);
	rig_stop(&rig);
}

static void test_odd_answers(void **state)
{
	const struct gpuq_buf_options options = {.bytes = 1};
	struct gpuq_buf_export export = {.fd = 77};
	struct gpuq_buf *buf = NULL;
	struct rig rig;

	rig_start(&rig, NULL);
	rig.control->fault_status = (uint64_t)-GPUQ_ELIMIT;
	set_fault(&rig, FAKE_REFUSE, MSG_BUFFER_ALLOC);
	assert_int_equal(gpuq_buf_alloc(rig.g, &options, &buf), -GPUQ_ELIMIT);
	assert_detail("the fake refuses");
	set_fault(&rig, FAKE_WRONG_TYPE, MSG_BUFFER_ALLOC);
	assert_int_equal(gpuq_buf_alloc(rig.g, &options, &buf), -GPUQ_EPROTO);
	assert_null(buf);
	set_fault(&rig, FAKE_NO_FAULT, 0);
	buf = alloc_buf(rig.g, 1);
	set_fault(&rig, FAKE_NO_FD, MSG_BUFFER_EXPORT);
	assert_int_equal(gpuq_buf_export(buf, &export), -GPUQ_EPROTO);
	set_fault(&rig, FAKE_MANY_FDS, MSG_BUFFER_EXPORT);
	assert_int_equal(gpuq_buf_export(buf, &export), -GPUQ_EPROTO);
	assert_int_equal(export.fd, 77);
	set_fault(&rig, FAKE_HANG_UP, MSG_BUFFER_GRANT);
	assert_int_equal(gpuq_buf_grant(buf, 1), -GPUQ_EGONE);
	gpuq_buf_free(buf);
	rig_stop(&rig);
}

/* A copy that waits keeps what completes meanwhile, and leaves room for it. */
static void test_completions_of_others(void **state)
{
	const struct gpuq_channel_options options = {.sq_entries = 8, .cq_entries = 8};
	struct gpuq_completion done[8];
	struct rig rig;
	char data[8];

	rig_start(&rig, &options);
	struct gpuq_buf *buf = alloc_buf(rig.g, 1000);
	for (uint64_t i = 0; i < 7; i++)
		assert_int_equal(rig_submit(&rig, NULL, i), 1);
	assert_int_equal(gpuq_buf_write(rig.ch, buf, 0, data, 8), 0);
	assert_int_equal(rig_submit(&rig, NULL, 7), 1);
	/* Eight belong to others: there would be no room for a ninth. */
	assert_int_equal(gpuq_buf_read(rig.ch, buf, 0, data, 8), -ENOSPC);
	assert_detail("take some with gpuq_poll()");
	for (uint64_t i = 0; i < 8; i++) {
		assert_int_equal(gpuq_wait(rig.ch, done, 1, RIG_LONG_NS), 1);
		assert_int_equal(done[0].user_data, i);
	}
	assert_int_equal(gpuq_buf_read(rig.ch, buf, 0, data, 8), 0);
	assert_int_equal(gpuq_in_flight(rig.ch), 0);
	gpuq_buf_free(buf);
	rig_stop(&rig);
}

/* No room in the arena for a piece, or only a little. */
static void test_crowded_arena(void **state)
{
	const struct gpuq_channel_options options = {.arena_bytes = 4096};
	static char data[10000];
	struct rig rig;
	void *most, *last = NULL;

	rig_start(&rig, &options);
	struct gpuq_buf *buf = alloc_buf(rig.g, sizeof(data));
	assert_int_equal(gpuq_buf_write(rig.ch, buf, 0, data, sizeof(data)), 0);
	int r;
	while ((r = gpuq_alloc(rig.ch, 64, &most)) == 0)
		last = most;
	assert_int_equal(r, -ENOSPC);
	assert_int_equal(gpuq_buf_write(rig.ch, buf, 0, data, 1), -ENOSPC);
	/* Room for a piece, none for its arguments; and then it is as free as before. */
	assert_int_equal(gpuq_free(rig.ch, last), 0);
	assert_int_equal(gpuq_buf_write(rig.ch, buf, 0, data, 1), -ENOSPC);
	assert_int_equal(gpuq_alloc(rig.ch, 64, &most), 0);
	assert_int_equal(gpuq_in_flight(rig.ch), 0);
	rig_stop(&rig);
}

static void test_forked_and_foreign(void **state)
{
	struct gpuq_buf_export export;
	struct rig rig;
	int status;

	rig_start(&rig, NULL);
	struct gpuq_buf *buf = alloc_buf(rig.g, 10);
	pid_t pid = fork();
	if (pid == 0) {
		bool right = gpuq_buf_grant(buf, 1) == -GPUQ_EFORK &&
			gpuq_buf_export(buf, &export) == -GPUQ_EFORK &&
			gpuq_buf_write(rig.ch, buf, 0, "", 1) == -GPUQ_EFORK;
		gpuq_buf_free(buf);
		_exit(right ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(rig.control->buffer_frees, 0);
	fake_kill(rig.fake);
	char byte;
	assert_int_equal(gpuq_buf_read(rig.ch, buf, 0, &byte, 1), -GPUQ_EGONE);
	assert_int_equal(gpuq_buf_grant(buf, 1), -GPUQ_EGONE);
	gpuq_buf_free(buf);
	rig_stop(&rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_copy_on_the_wire),
		HARNESS_TEST(test_older_gpuqd),
		HARNESS_TEST(test_late_answers),
		HARNESS_TEST(test_odd_answers),
		HARNESS_TEST(test_completions_of_others),
		HARNESS_TEST(test_crowded_arena),
		HARNESS_TEST(test_forked_and_foreign),
	};

	return harness_run("client-buffer", tests, sizeof(tests) / sizeof(tests[0]));
}
