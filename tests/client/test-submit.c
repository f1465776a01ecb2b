/* SPDX-License-Identifier: MIT */
/* test-submit.c: submissions, completions, cancellation and what is in flight between them. */
#include "tests/client/rig.h"

#include <unistd.h>

static void test_a_call_is_executed(void **state)
{
	struct gpuq_completion c;
	struct rig rig;

	rig_start(&rig, NULL);
	struct gpuq_call *call = rig_copy(&rig);
	assert_int_equal(gpuq_in_flight(rig.ch), 0);
	assert_int_equal(rig_submit(&rig, call, UINT64_MAX), 1);
	assert_int_equal(gpuq_in_flight(rig.ch), 1);
	c = rig_wait(&rig, UINT64_MAX);
	assert_int_equal(c.status, 0);
	assert_int_equal(c.queued_ns, 11);
	assert_int_equal(c.executed_ns, 22);
	assert_int_equal(gpuq_in_flight(rig.ch), 0);
	assert_memory_equal(rig.x, rig.y, rig.bytes);
	assert_int_equal(gpuq_poll(rig.ch, &c, 1), 0);
	gpuq_call_destroy(call);
	rig_stop(&rig);
}

/* Submits `total` null operations in batches, in rings that begin at `start`. */
static void stream(uint64_t start, uint32_t total)
{
	const struct gpuq_channel_options options = {.sq_entries = 16, .cq_entries = 32};
	struct fake *fake = fake_new();
	struct gpuq_submission s[20] = {0};
	struct gpuq_completion c[20];
	uint64_t submitted = 0, completed = 0;
	struct rig rig;

	fake->control->start = start;
	fake_start(fake);
	rig_start_on(&rig, fake, &options);
	while (completed < total) {
		uint32_t want = total - submitted < 20 ? (uint32_t)(total - submitted) : 20;
		for (uint32_t i = 0; i < want; i++)
			s[i].user_data = submitted + i;
		int n = gpuq_submit(rig.ch, s, want);
		assert_true(n >= 0 || n == -EAGAIN);
		submitted += n > 0 ? (uint64_t)n : 0;
		assert_true(gpuq_in_flight(rig.ch) <= 32);
		n = gpuq_wait(rig.ch, c, 20, RIG_LONG_NS);
		assert_true(n > 0);
		for (int i = 0; i < n; i++)
			assert_int_equal(c[i].user_data, completed++);
	}
	assert_int_equal(gpuq_in_flight(rig.ch), 0);
	assert_int_equal(gpuq_rescues(rig.ch), 0);
	rig_stop(&rig);
}

static void test_a_stream_of_submissions(void **state)
{
	stream(0, 20000);
}

static void test_indices_wrap(void **state)
{
	stream(UINT64_MAX - 10, 1000);
	stream((1ull << 32) - 10, 1000);
}

static void test_full_rings(void **state)
{
	const struct gpuq_channel_options options = {.sq_entries = 8, .cq_entries = 16};
	struct gpuq_submission s[32];
	struct gpuq_completion c[32];
	struct rig rig;

	rig_start(&rig, &options);
	for (uint64_t i = 0; i < 32; i++)
		s[i] = (struct gpuq_submission){.user_data = i};
	shm_store_release(&rig.control->hold, 1);
	shm_store_release(&rig.control->stall, 1);
	usleep(20000);
	/* The submission ring fills first ... */
	assert_int_equal(gpuq_submit(rig.ch, s, 32), 8);
	assert_int_equal(gpuq_submit(rig.ch, s, 1), -EAGAIN);
	assert_detail("ring is full");
	shm_store_release(&rig.control->stall, 0);
	fake_expect(&rig.control->taken, 8);
	/* ... then as much is in flight as the completion ring has room for. */
	assert_int_equal(gpuq_submit(rig.ch, s + 8, 24), 8);
	fake_expect(&rig.control->taken, 16);
	assert_int_equal(gpuq_submit(rig.ch, s, 1), -EAGAIN);
	assert_detail("in flight");
	assert_int_equal(gpuq_in_flight(rig.ch), 16);
	assert_int_equal(gpuq_submit(rig.ch, s, 0), 0);
	assert_int_equal(gpuq_poll(rig.ch, c, 32), 0);
	shm_store_release(&rig.control->reverse, 1);
	shm_store_release(&rig.control->hold, 0);
	fake_expect(&rig.control->completed, 16);
	assert_int_equal(rig_poll(rig.ch, c, 10), 10);
	assert_int_equal(c[0].user_data, 15);
	assert_int_equal(rig_poll(rig.ch, c, 32), 6);
	assert_int_equal(c[5].user_data, 0);
	assert_int_equal(gpuq_in_flight(rig.ch), 0);
	rig_stop(&rig);
}

static void test_a_call_of_another_channel(void **state)
{
	struct gpuq_channel *other;
	struct rig rig;

	rig_start(&rig, NULL);
	struct gpuq_call *call = rig_copy(&rig);
	assert_int_equal(gpuq_channel_open(rig.g, NULL, &other), 0);
	const struct gpuq_submission s[] = {{.user_data = 1}, {.call = call, .user_data = 2}};
	assert_int_equal(gpuq_submit(other, s + 1, 1), -EINVAL);
	assert_detail("another channel");
	assert_int_equal(gpuq_in_flight(other), 0);
	/* What comes before it is accepted. */
	assert_int_equal(gpuq_submit(other, s, 2), 1);
	struct gpuq_completion c;
	assert_int_equal(gpuq_wait(other, &c, 1, RIG_LONG_NS), 1);
	assert_int_equal(c.user_data, 1);
	rig_stop(&rig);
}

static void test_deadlines(void **state)
{
	struct gpuq_submission s = {.user_data = 1, .timeout_ns = RIG_SECOND_NS / 1000};
	struct rig rig;

	rig_start(&rig, NULL);
	shm_store_release(&rig.control->hold, 1);
	usleep(20000);
	assert_int_equal(gpuq_submit(rig.ch, &s, 1), 1);
	s = (struct gpuq_submission){.user_data = 2, .timeout_ns = GPUQ_FOREVER};
	assert_int_equal(gpuq_submit(rig.ch, &s, 1), 1);
	fake_expect(&rig.control->taken, 2);
	assert_int_equal(rig.control->last.deadline_ns, 0);
	assert_true(rig.control->last.submit_ns != 0);
	usleep(20000);
	shm_store_release(&rig.control->hold, 0);
	assert_int_equal(rig_wait(&rig, 1).status, -ETIMEDOUT);
	assert_int_equal(rig_wait(&rig, 2).status, 0);
	rig_stop(&rig);
}

static void test_cancel(void **state)
{
	struct rig rig;

	rig_start(&rig, NULL);
	assert_int_equal(gpuq_cancel(rig.ch, 1, 100), -ENOENT);
	shm_store_release(&rig.control->hold, 1);
	usleep(20000);
	struct gpuq_call *call = rig_copy(&rig);
	/* Two with the same user_data: the older one goes. */
	assert_int_equal(rig_submit(&rig, call, 1), 1);
	assert_int_equal(rig_submit(&rig, NULL, 1), 1);
	assert_int_equal(rig_submit(&rig, NULL, 2), 1);
	fake_expect(&rig.control->taken, 3);
	assert_int_equal(gpuq_cancel(rig.ch, 1, 100), 0);
	assert_int_equal(rig_wait(&rig, 1).status, -ECANCELED);
	assert_int_equal(rig_wait(&rig, 100).status, 0);
	assert_int_equal(rig.y[0], 0);
	/* A cancellation itself is not found. */
	assert_int_equal(gpuq_cancel(rig.ch, 2, 3), 0);
	assert_int_equal(gpuq_cancel(rig.ch, 3, 4), -ENOENT);
	assert_int_equal(rig_wait(&rig, 2).status, -ECANCELED);
	assert_int_equal(rig_wait(&rig, 3).status, 0);
	shm_store_release(&rig.control->hold, 0);
	assert_int_equal(rig_wait(&rig, 1).status, 0);
	assert_int_equal(gpuq_cancel(rig.ch, 1, 100), -ENOENT);
	rig_stop(&rig);
}

/* The target has completed, but its completion has not been read. */
static void test_cancel_too_late(void **state)
{
	struct rig rig;

	rig_start(&rig, NULL);
	struct gpuq_completion c;
	assert_int_equal(rig_submit(&rig, NULL, 1), 1);
	fake_expect(&rig.control->completed, 1);
	assert_int_equal(gpuq_poll(rig.ch, &c, 0), 0);
	assert_int_equal(gpuq_cancel(rig.ch, 1, 2), 0);
	assert_int_equal(rig_wait(&rig, 1).status, 0);
	assert_int_equal(rig_wait(&rig, 2).status, -ENOENT);
	rig_stop(&rig);
}

static void test_a_call_destroyed_in_flight(void **state)
{
	const struct gpuq_channel_options options = {.arena_bytes = 4096};
	struct rig rig;
	void *rest = NULL;

	rig_start(&rig, &options);
	shm_store_release(&rig.control->hold, 1);
	usleep(20000);
	struct gpuq_call *call = rig_copy(&rig);
	for (uint64_t i = 0; i < 3; i++)
		assert_int_equal(rig_submit(&rig, call, i), 1);
	gpuq_call_destroy(call);
	assert_int_equal(gpuq_free(rig.ch, rig.x), 0);
	assert_int_equal(gpuq_free(rig.ch, rig.y), 0);
	shm_store_release(&rig.control->hold, 0);
	/* Its argument block is in use until the last of them is back. */
	for (uint64_t i = 0; i < 3; i++) {
		assert_int_equal(gpuq_alloc(rig.ch, 4096, &rest), -ENOSPC);
		rig_wait(&rig, i);
	}
	assert_int_equal(gpuq_alloc(rig.ch, 4096, &rest), 0);
	rig_stop(&rig);
}

static void test_a_call_submitted_often(void **state)
{
	struct rig rig;

	rig_start(&rig, NULL);
	struct gpuq_call *call = rig_copy(&rig);
	for (uint64_t i = 0; i < 1000; i++) {
		rig.x[0] = (uint8_t)i;
		assert_int_equal(rig_submit(&rig, call, i), 1);
		rig_wait(&rig, i);
		assert_int_equal(rig.y[0], (uint8_t)i);
	}
	rig_stop(&rig);
}

/* A completion for something that was never submitted. */
static void test_a_forged_completion(void **state)
{
	struct gpuq_completion c = {.user_data = 77};
	struct rig rig;

	rig_start(&rig, NULL);
	static const uint64_t forgeries[] = {1, 1ull << 32, 10000};
	for (int i = 0; i < 3; i++) {
		struct gpuq_channel *ch = rig.ch;
		shm_store_release(&rig.control->forge, forgeries[i]);
		assert_int_equal(rig_submit(&rig, NULL, 1), 1);
		assert_int_equal(rig_poll(rig.ch, &c, 1), -GPUQ_EPOISONED);
		assert_int_equal(c.user_data, 77);
		assert_int_equal(rig_submit(&rig, NULL, 1), -GPUQ_EPOISONED);
		assert_int_equal(gpuq_poll(rig.ch, &c, 1), -GPUQ_EPOISONED);
		assert_int_equal(gpuq_wait(rig.ch, &c, 1, GPUQ_FOREVER), -GPUQ_EPOISONED);
		assert_int_equal(gpuq_arm(rig.ch), -GPUQ_EPOISONED);
		assert_int_equal(gpuq_channel_open(rig.g, NULL, &rig.ch), 0);
		gpuq_channel_close(ch);
	}
	rig_stop(&rig);
}

/* More completions than a ring can hold. */
static void test_an_overrun(void **state)
{
	struct gpuq_completion c[4];
	struct rig rig;

	rig_start(&rig, NULL);
	shm_store_release(&rig.control->overrun, 100000);
	assert_int_equal(rig_poll(rig.ch, c, 4), -GPUQ_EPOISONED);
	assert_int_equal(gpuq_in_flight(rig.ch), 0);
	assert_int_equal(gpuq_poll(rig.ch, c, 4), -GPUQ_EPOISONED);
	assert_int_equal(gpuq_alive(rig.g), 0);
	rig_stop(&rig);
}

/* gpuqd shuts the channel, and the client only polls. */
static void test_a_channel_that_is_shut(void **state)
{
	struct gpuq_completion c;
	struct rig rig;

	rig_start(&rig, NULL);
	assert_int_equal(rig_submit(&rig, NULL, 1), 1);
	rig_wait(&rig, 1);
	shm_store_release(&rig.control->hold, 1);
	shm_store_release(&rig.control->shut, GPUQ_EPOISONED);
	assert_int_equal(rig_poll(rig.ch, &c, 1), -GPUQ_EPOISONED);
	assert_int_equal(rig_submit(&rig, NULL, 2), -GPUQ_EPOISONED);
	assert_int_equal(gpuq_alive(rig.g), 0);
	rig_stop(&rig);
}

static void test_draining(void **state)
{
	struct rig rig;

	rig_start(&rig, NULL);
	shm_store_release(&rig.control->hold, 1);
	usleep(20000);
	assert_int_equal(rig_submit(&rig, NULL, 1), 1);
	shm_store_release(&rig.control->state, WIRE_DRAINING);
	int r;
	while ((r = gpuq_alive(rig.g)) == 0)
		usleep(200);
	assert_int_equal(r, -GPUQ_EDRAIN);
	assert_int_equal(rig_submit(&rig, NULL, 2), -GPUQ_EDRAIN);
	assert_int_equal(gpuq_cancel(rig.ch, 1, 2), -GPUQ_EDRAIN);
	/* What was accepted completes. */
	shm_store_release(&rig.control->hold, 0);
	rig_wait(&rig, 1);
	rig_stop(&rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_a_call_is_executed),
		HARNESS_TEST(test_a_stream_of_submissions),
		HARNESS_TEST(test_indices_wrap),
		HARNESS_TEST(test_full_rings),
		HARNESS_TEST(test_a_call_of_another_channel),
		HARNESS_TEST(test_deadlines),
		HARNESS_TEST(test_cancel),
		HARNESS_TEST(test_cancel_too_late),
		HARNESS_TEST(test_a_call_destroyed_in_flight),
		HARNESS_TEST(test_a_call_submitted_often),
		HARNESS_TEST(test_a_forged_completion),
		HARNESS_TEST(test_an_overrun),
		HARNESS_TEST(test_a_channel_that_is_shut),
		HARNESS_TEST(test_draining),
	};

	return harness_run("client-submit", tests, sizeof(tests) / sizeof(tests[0]));
}
