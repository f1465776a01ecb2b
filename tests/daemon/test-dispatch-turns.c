/* SPDX-License-Identifier: MIT */
/*
 * test-dispatch-turns.c: what many channels owe each other: none is forgotten while others are
 * busy, an idle one costs nobody anything, and a drain answers what was there before it.
 */
#include "tests/daemon/dispatch-rig.h"

#include "shm/segment.h"

#define BUSY 6u

/* One null operation on each of the busy channels, there and back. */
static void keep_busy(struct rig_client *busy, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		const struct wire_sqe sqe = rig_entry(&busy[i], WIRE_OP_NULL, 1);
		rig_submit(&busy[i], &sqe);
	}
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(rig_complete(&busy[i]).status, 0);
}

/*
 * A client that left both rings full is out of the scan; reading its completions rings no bell.
 * However busy the others keep dispatch, it goes on.
 */
static void test_goes_on_among_busy_ones(void **state)
{
	struct rig rig;
	struct rig_client busy[BUSY], slow;

	rig_start(&rig);
	for (uint32_t i = 0; i < BUSY; i++)
		rig_open(&rig, &busy[i], i, 0, WIRE_ABI);
	rig_open(&rig, &slow, BUSY, 0, WIRE_ABI);
	for (uint64_t i = 0; i < 2 * RIG_ENTRIES; i++) {
		const struct wire_sqe sqe = rig_entry(&slow, WIRE_OP_NULL, i);
		rig_submit(&slow, &sqe);
		while (i < RIG_ENTRIES && shm_load_acquire(&slow.cq.ring->prod) != i + 1)
			keep_busy(busy, BUSY);
	}
	const struct stats_channel *stats = &rig.stats.channels[BUSY];
	while (shm_load_relaxed(&stats->parked) == 0)
		keep_busy(busy, BUSY);
	for (uint64_t i = 0; i < 2 * RIG_ENTRIES; i++) {
		while (rig_quiet(&slow))
			keep_busy(busy, BUSY);
		assert_int_equal(rig_complete(&slow).user_data, i);
	}
	assert_int_equal(shm_load_relaxed(&stats->rescues), 0);
	for (uint32_t i = 0; i < BUSY; i++)
		rig_close(&busy[i]);
	rig_close(&slow);
	rig_stop(&rig);
}

/* Clients spin by what the page says: channels that do nothing are not parties that run. */
static void test_idle_channels_are_no_parties(void **state)
{
	struct rig rig;
	struct rig_client c[4];

	rig_start(&rig);
	for (uint32_t i = 0; i < 4; i++)
		rig_open(&rig, &c[i], i, 0, WIRE_ABI);
	/* All of them, then only the first, without a pause in which dispatch could sleep. */
	while (shm_load_relaxed_u32(&rig.page->devices[0].runnable) != 5)
		keep_busy(c, 4);
	while (shm_load_relaxed_u32(&rig.page->devices[0].runnable) != 2)
		keep_busy(c, 1);
	for (uint32_t i = 0; i < 4; i++)
		rig_close(&c[i]);
	rig_stop(&rig);
}

/* All that was published before the drain is served, whether it had been taken or not. */
static void test_drain_serves_what_was_there(void **state)
{
	struct rig rig;
	struct rig_client c[RIG_CHANNELS];

	rig_start(&rig);
	for (uint32_t i = 0; i < RIG_CHANNELS; i++)
		rig_open(&rig, &c[i], i, 0, WIRE_ABI);
	for (uint32_t i = 0; i < RIG_CHANNELS; i++) {
		for (uint32_t k = 0; k < RIG_ENTRIES; k++) {
			const struct wire_sqe sqe = rig_entry(&c[i], WIRE_OP_NULL, k);
			rig_write(&c[i], &sqe);
		}
		/* No bell: dispatch hears of most of them by the drain. */
		ring_publish(&c[i].sq);
	}
	dispatch_drain(rig.dispatch);
	rig_expect(&rig, DISPATCH_DRAINED, NULL);
	for (uint32_t i = 0; i < RIG_CHANNELS; i++) {
		for (uint32_t k = 0; k < RIG_ENTRIES; k++)
			assert_int_equal(rig_complete(&c[i]).status, 0);
		const struct wire_sqe sqe = rig_entry(&c[i], WIRE_OP_NULL, 99);
		rig_submit(&c[i], &sqe);
		bell_ring_eventfd(c[i].event_fd);
		assert_int_equal(rig_complete(&c[i]).status, -GPUQ_EDRAIN);
		rig_close(&c[i]);
	}
	rig_stop(&rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_goes_on_among_busy_ones),
		HARNESS_TEST(test_idle_channels_are_no_parties),
		HARNESS_TEST(test_drain_serves_what_was_there),
	};

	return harness_run("dispatch-turns", tests, sizeof(tests) / sizeof(tests[0]));
}
