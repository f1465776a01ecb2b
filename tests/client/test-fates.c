/* SPDX-License-Identifier: MIT */
/*
 * test-fates.c: what is told of submissions that gpuqd's end has overtaken, when its device process
 * completes some of them after the last look of gpuq_poll().
 */
#include "tests/client/rig.h"

#include <pthread.h>

#define N_MAX 8u

static void await_end(struct rig *rig)
{
	struct gpuq_completion c;

	assert_int_equal(rig_poll(rig->ch, &c, 1), -GPUQ_EGONE);
}

static void expect(
	const struct gpuq_overtaken *told, uint64_t user_data, enum gpuq_fate fate, int32_t status)
{
	if (told->user_data != user_data || told->fate != fate ||
		(fate == GPUQ_COMPLETED && told->status != status))
		fail_msg("%llu is told to have fate %u (%d), not %llu with %u (%d)",
			(unsigned long long)told->user_data, told->fate, told->status,
			(unsigned long long)user_data, fate, status);
}

/*
 * 1 to 4 are taken and 5 and 6 are not when the control process ends. Then nobody looks at the
 * rings of this client any more, and the device process completes 4 and 3.
 */
static void overtake(struct rig *rig)
{
	struct gpuq_call *copy, *refused;

	rig_start(rig, NULL);
	copy = rig_copy(rig);
	refused = rig_fail(rig, -EDOM, 0);
	/* Places in tables are not in the order of submission any more. */
	assert_int_equal(rig_submit(rig, copy, 11), 1);
	assert_int_equal(rig_submit(rig, copy, 12), 1);
	rig_wait(rig, 11);
	rig_wait(rig, 12);
	shm_store_release(&rig->control->hold, 1);
	assert_int_equal(rig_submit(rig, copy, 1), 1);
	assert_int_equal(rig_submit(rig, copy, 2), 1);
	assert_int_equal(rig_submit(rig, refused, 3), 1);
	assert_int_equal(rig_submit(rig, copy, 4), 1);
	fake_expect(&rig->control->taken, 6);
	fake_part(rig->fake);
	assert_int_equal(rig_submit(rig, copy, 5), 1);
	assert_int_equal(rig_submit(rig, copy, 6), 1);
	fake_kill(rig->fake);
	await_end(rig);
	fake_end_device(rig->fake, 2);
}

static void expect_fates(struct rig *rig)
{
	struct gpuq_overtaken told[N_MAX];
	struct gpuq_completion c;

	/* Some first, in the order of submission. */
	assert_int_equal(gpuq_fates(rig->ch, told, 3), 3);
	expect(&told[0], 1, GPUQ_UNKNOWN, 0);
	expect(&told[1], 2, GPUQ_UNKNOWN, 0);
	expect(&told[2], 3, GPUQ_COMPLETED, -EDOM);
	assert_int_equal(gpuq_fates(rig->ch, told, N_MAX), 3);
	expect(&told[0], 4, GPUQ_COMPLETED, 0);
	expect(&told[1], 5, GPUQ_NEVER_STARTED, 0);
	expect(&told[2], 6, GPUQ_NEVER_STARTED, 0);
	assert_int_equal(gpuq_fates(rig->ch, told, N_MAX), 0);
	assert_int_equal(gpuq_in_flight(rig->ch), 0);
	/* They are told once, and not as completions besides. */
	assert_true(gpuq_poll(rig->ch, &c, 1) <= 0);
}

static void test_of_each_kind(void **state)
{
	struct rig rig;

	overtake(&rig);
	expect_fates(&rig);
	rig_stop(&rig);
}

static void reconnect(struct rig *rig)
{
	fake_start(rig->fake);
	assert_int_equal(gpuq_reconnect(rig->g, RIG_LONG_NS), 0);
}

/* Another gpuqd's rings have taken the place of those that say it. */
static void test_of_each_kind_after_reconnecting(void **state)
{
	struct rig rig;

	overtake(&rig);
	shm_store_relaxed(&rig.control->hold, 0);
	reconnect(&rig);
	expect_fates(&rig);
	assert_int_equal(rig_submit(&rig, NULL, 9), 1);
	assert_int_equal(rig_wait(&rig, 9).status, 0);
	rig_stop(&rig);
}

static void *open_and_submit(void *arg)
{
	const struct gpuq_submission s = {.user_data = 1};
	struct rig *rig = arg;
	struct gpuq_channel *ch;

	assert_int_equal(gpuq_channel_open(rig->g, NULL, &ch), 0);
	assert_int_equal(gpuq_submit(ch, &s, 1), 1);
	return ch;
}

/* Another thread's channel stays behind: its own gpuqd's end counts for it, no later one's. */
static void test_two_gpuqds_later(void **state)
{
	struct fake *fake = fake_new();
	struct gpuq_overtaken told[N_MAX];
	struct gpuq_completion c;
	pthread_t thread;
	struct rig rig;
	void *ch;

	fake->control->stall = 1;
	fake_start(fake);
	rig_start_on(&rig, fake, NULL);
	assert_int_equal(pthread_create(&thread, NULL, open_and_submit, &rig), 0);
	assert_int_equal(pthread_join(thread, &ch), 0);
	fake_part(fake);
	fake_kill(fake);
	fake_end_device(fake, 0);
	reconnect(&rig);
	/* The next one's device process is not seen to end. */
	fake_kill(fake);
	reconnect(&rig);
	assert_int_equal(gpuq_channel_adopt(ch), 0);
	assert_int_equal(gpuq_poll(ch, &c, 1), -GPUQ_EGONE);
	assert_int_equal(gpuq_fates(ch, told, N_MAX), 1);
	expect(&told[0], 1, GPUQ_NEVER_STARTED, 0);
	rig_stop(&rig);
}

/* Whoever lives may still take it. */
static void test_unknown_while_gpuqd_lives(void **state)
{
	struct fake *fake = fake_new();
	struct gpuq_overtaken told[N_MAX];
	struct rig rig;

	fake->control->stall = 1;
	fake_start(fake);
	rig_start_on(&rig, fake, NULL);
	assert_int_equal(gpuq_fates(rig.ch, told, N_MAX), -EBUSY);
	assert_int_equal(rig_submit(&rig, NULL, 1), 1);
	assert_int_equal(rig_submit(&rig, NULL, 2), 1);
	shm_store_release(&rig.control->shut, GPUQ_EGONE);
	await_end(&rig);
	assert_int_equal(gpuq_fates(rig.ch, told, N_MAX), 2);
	expect(&told[0], 1, GPUQ_UNKNOWN, 0);
	expect(&told[1], 2, GPUQ_UNKNOWN, 0);
	rig_stop(&rig);
}

/* Words that somebody wrote over say nothing. */
static void test_unknown_when_poisoned(void **state)
{
	struct fake *fake = fake_new();
	struct gpuq_overtaken told[N_MAX];
	struct gpuq_completion c;
	struct rig rig;

	fake->control->stall = 1;
	fake_start(fake);
	rig_start_on(&rig, fake, NULL);
	assert_int_equal(rig_submit(&rig, NULL, 1), 1);
	shm_store_release(&rig.control->overrun, 1 << 20);
	assert_int_equal(rig_poll(rig.ch, &c, 1), -GPUQ_EPOISONED);
	fake_part(fake);
	fake_kill(fake);
	fake_end_device(fake, 0);
	assert_int_equal(gpuq_fates(rig.ch, told, N_MAX), 1);
	expect(&told[0], 1, GPUQ_UNKNOWN, 0);
	rig_stop(&rig);
}

/* What a completion says by itself. */
static void test_of_a_completion(void **state)
{
	static const struct {
		int32_t status;
		uint32_t flags;
		enum gpuq_fate fate;
	} cases[] = {
		{0, 0, GPUQ_COMPLETED},
		{5, 0, GPUQ_COMPLETED},
		{-EDOM, 0, GPUQ_COMPLETED},
		{-EDOM, WIRE_CQE_NOT_STARTED, GPUQ_COMPLETED},
		{-GPUQ_EDEVICE, 0, GPUQ_UNKNOWN},
		{-GPUQ_EDEVICE, WIRE_CQE_MORE, GPUQ_UNKNOWN},
		{-GPUQ_EDEVICE, WIRE_CQE_NOT_STARTED, GPUQ_NEVER_STARTED},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct gpuq_completion c = {
			.status = cases[i].status, .flags = cases[i].flags};
		if (gpuq_fate(&c) != cases[i].fate)
			fail_msg("status %d, flags %u: %d", c.status, c.flags, gpuq_fate(&c));
	}
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_of_each_kind),
		HARNESS_TEST(test_of_each_kind_after_reconnecting),
		HARNESS_TEST(test_two_gpuqds_later),
		HARNESS_TEST(test_unknown_while_gpuqd_lives),
		HARNESS_TEST(test_unknown_when_poisoned),
		HARNESS_TEST(test_of_a_completion),
	};

	return harness_run("client-fates", tests, sizeof(tests) / sizeof(tests[0]));
}
