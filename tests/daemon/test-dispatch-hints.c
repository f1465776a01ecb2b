/* SPDX-License-Identifier: MIT */
/*
 * test-dispatch-hints.c: what dispatch does when a robust word says that a client has ended: it
 * takes and starts nothing more, gives nothing back, and goes on when no proof comes.
 */
#include "tests/daemon/dispatch-rig.h"

#include <string.h>
#include <unistd.h>

#define WORKER_N 60000u /* a softmax that is not run inline */

static uint32_t *word_of(const struct rig_client *c)
{
	return (uint32_t *)((char *)c->base + WIRE_NOTICE);
}

static void seem_dead(const struct rig_client *c)
{
	shm_store_release_u32(word_of(c), WIRE_OWNER_DIED);
}

static bool held(const struct rig *rig, uint32_t channel)
{
	return shm_load_relaxed(&rig->stats.channels[channel].held_ns) != 0;
}

static void await_held(const struct rig *rig, uint32_t channel)
{
	for (uint32_t i = 0; !held(rig, channel); i++) {
		assert_true(i < 10000);
		usleep(1000);
	}
}

static void submit_null(struct rig_client *c, uint64_t user_data)
{
	const struct wire_sqe sqe = rig_entry(c, WIRE_OP_NULL, user_data);

	rig_submit(c, &sqe);
}

/* Entries that come after the hint are not taken; another client's are. */
static void test_nothing_is_taken(void **state)
{
	struct rig_client dead, alive;
	struct rig rig;

	rig_start(&rig);
	rig_open(&rig, &dead, 0, 0, WIRE_ABI);
	rig_open(&rig, &alive, 1, 0, WIRE_ABI);
	submit_null(&dead, 1);
	assert_int_equal(rig_complete(&dead).user_data, 1);
	seem_dead(&dead);
	submit_null(&dead, 2);
	await_held(&rig, 0);
	for (uint64_t i = 0; i < 100; i++) {
		submit_null(&alive, i);
		assert_int_equal(rig_complete(&alive).user_data, i);
	}
	assert_true(rig_quiet(&dead));
	assert_int_equal(shm_load_relaxed(&rig.stats.channels[0].consumed), 1);
	assert_int_equal(shm_load_relaxed(&rig.stats.devices[0].hints), 1);
	rig_close(&dead);
	rig_close(&alive);
	rig_stop(&rig);
}

/* A hint of a client that has nothing to do is seen too, and nothing is given back for it. */
static void test_idle(void **state)
{
	struct rig_client c;
	struct rig rig;

	rig_start(&rig);
	rig_open(&rig, &c, 0, 0, WIRE_ABI);
	seem_dead(&c);
	await_held(&rig, 0);
	assert_int_equal(shm_load_acquire_u32(&rig.stats.channels[0].state), 0);
	assert_int_equal(shm_load_relaxed(&rig.stats.devices[0].poisoned), 0);
	rig_close(&c);
	rig_stop(&rig);
}

/*
 * Fills a channel with work and lets its client seem dead. Returns how much of it was started, when
 * what was started has ended.
 */
static uint64_t die_with_a_queue(struct rig *rig, struct rig_client *c)
{
	const struct stats_device *stats = &rig->stats.devices[0];
	const struct wire_sqe sqe = rig_softmax(c, 64, WORKER_N, 1);
	uint64_t before = shm_load_relaxed(&stats->worker_runs);

	for (uint32_t i = 0; i < RIG_ENTRIES; i++)
		rig_write(c, &sqe);
	rig_publish(c);
	while (shm_load_relaxed(&rig->stats.channels[0].consumed) < RIG_ENTRIES)
		;
	seem_dead(c);
	await_held(rig, 0);
	usleep(20000);
	/* What executes counts as run, and is still in flight. */
	for (uint32_t i = 0;; i++) {
		const uint64_t in_flight = shm_load_relaxed(&rig->stats.channels[0].in_flight);
		const uint64_t runs = shm_load_relaxed(&stats->worker_runs) - before;
		if (in_flight + runs == RIG_ENTRIES)
			return runs;
		assert_true(i < 10000);
		usleep(1000);
	}
}

/* What is queued does not start; the removal drops it. */
static void test_nothing_is_started(void **state)
{
	struct rig_client c;
	struct rig rig;
	uint64_t runs = RIG_ENTRIES;

	rig_start_workers(&rig, 1); /* all write one output */
	/* On a busy machine all may have been started before the word is written. */
	for (uint32_t i = 0; runs == RIG_ENTRIES; i++) {
		assert_true(i < 100);
		memset(&rig.stats.channels[0], 0, sizeof(rig.stats.channels[0]));
		rig_open(&rig, &c, 0, 0, WIRE_ABI);
		runs = die_with_a_queue(&rig, &c);
		rig_close(&c);
		assert_int_equal(shm_load_relaxed(&rig.stats.channels[0].in_flight), 0);
	}
	rig_stop(&rig);
}

/* No proof comes: the client lives, everything of it is served, and its word counts no more. */
static void test_false_hint(void **state)
{
	struct wire_sqe sqe;
	struct rig_client c;
	struct rig rig;

	rig_start_workers(&rig, 1); /* all write one output */
	rig_open(&rig, &c, 0, 0, WIRE_ABI);
	sqe = rig_softmax(&c, 64, WORKER_N, 1);
	for (uint32_t i = 0; i < RIG_ENTRIES; i++)
		rig_write(&c, &sqe);
	rig_publish(&c);
	seem_dead(&c);
	for (uint32_t i = 0; i < RIG_ENTRIES; i++)
		assert_int_equal(rig_complete(&c).status, 0);
	/* All may have been done before the word was looked at. */
	for (uint32_t i = 0; shm_load_relaxed(&rig.stats.devices[0].false_hints) == 0; i++) {
		assert_true(i < 10000);
		usleep(1000);
	}
	assert_false(held(&rig, 0));
	rig_check_softmax(&c, &sqe);
	seem_dead(&c);
	submit_null(&c, 3);
	assert_int_equal(rig_complete(&c).user_data, 3);
	assert_int_equal(shm_load_relaxed(&rig.stats.devices[0].hints), 1);
	rig_close(&c);
	rig_stop(&rig);
}

/* Where older clients have zeros there is nothing to be read. */
static void test_older_client(void **state)
{
	struct rig_client c;
	struct rig rig;

	rig_start(&rig);
	rig_open(&rig, &c, 0, 0, 3);
	seem_dead(&c);
	submit_null(&c, 1);
	assert_int_equal(rig_complete(&c).user_data, 1);
	assert_int_equal(shm_load_relaxed(&rig.stats.devices[0].hints), 0);
	rig_close(&c);
	rig_stop(&rig);
}

/* What arrives while the channel is held is not lost when it drains either. */
static void test_drain_while_held(void **state)
{
	struct rig_client c;
	struct rig rig;

	rig_start(&rig);
	rig_open(&rig, &c, 0, 0, WIRE_ABI);
	seem_dead(&c);
	await_held(&rig, 0);
	submit_null(&c, 1);
	dispatch_drain(rig.dispatch);
	rig_expect(&rig, DISPATCH_DRAINED, NULL);
	assert_int_equal(rig_complete(&c).user_data, 1);
	rig_close(&c);
	rig_stop(&rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_nothing_is_taken),
		HARNESS_TEST(test_idle),
		HARNESS_TEST(test_nothing_is_started),
		HARNESS_TEST(test_false_hint),
		HARNESS_TEST(test_older_client),
		HARNESS_TEST(test_drain_while_held),
	};

	return harness_run("dispatch-hints", tests, sizeof(tests) / sizeof(tests[0]));
}
