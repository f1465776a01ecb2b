/* SPDX-License-Identifier: MIT */
/*
 * test-dispatch-turns.c: what many channels owe each other: none is forgotten while others are
 * busy, an idle one costs nobody anything, and a drain answers what was there before it.
 */
#include "tests/daemon/dispatch-rig.h"

#include "daemon/share.h"
#include "kernels/op.h"
#include "shm/segment.h"

#include <math.h>

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

#define FAIR_N 65536u /* elements of a call */
#define FAIR_CHANNELS 12u
#define FAIR_HEAVY 3u /* of these are the heavy user's, the others the light one's */
#define FAIR_WEIGHT 3u

/* One call that has ended. */
struct fair_call {
	uint64_t start_ns, ns;
};

/* Fills the ring of a channel with calls of one shape. */
static void fill_ring(struct rig_client *c, const struct clock_line *clock)
{
	struct wire_sqe sqe = rig_softmax(c, 0, FAIR_N, 0);

	for (uint32_t i = 0; i < RIG_ENTRIES; i++) {
		sqe.submit_ns = clock_now_ns(clock);
		rig_write(c, &sqe);
	}
}

/* Takes the ends of all calls. */
static void take_ends(struct rig_client *c, struct fair_call calls[RIG_ENTRIES])
{
	for (uint32_t i = 0; i < RIG_ENTRIES; i++) {
		const struct wire_cqe cqe = rig_complete(c);

		assert_int_equal(cqe.status, 0);
		calls[i] =
			(struct fair_call){c->sqes[i].submit_ns + cqe.queued_ns, cqe.executed_ns};
	}
}

static uint64_t last_start_ns(struct fair_call calls[][RIG_ENTRIES], uint32_t first, uint32_t end)
{
	uint64_t last_ns = 0;

	for (uint32_t i = first; i < end; i++) {
		for (uint32_t k = 0; k < RIG_ENTRIES; k++) {
			if (calls[i][k].start_ns > last_ns)
				last_ns = calls[i][k].start_ns;
		}
	}
	return last_ns;
}

struct fair_window {
	uint64_t from_ns, until_ns;
	uint64_t longest_ns; /* of the calls in it */
};

/* Time of the device that these channels' calls took that started in a window. */
static uint64_t had_ns(struct fair_call calls[][RIG_ENTRIES], uint32_t first, uint32_t end,
	struct fair_window *window)
{
	uint64_t sum_ns = 0;

	for (uint32_t i = first; i < end; i++) {
		for (uint32_t k = 0; k < RIG_ENTRIES; k++) {
			const struct fair_call *call = &calls[i][k];
			if (call->start_ns < window->from_ns || call->start_ns > window->until_ns)
				continue;
			sum_ns += call->ns;
			if (call->ns > window->longest_ns)
				window->longest_ns = call->ns;
		}
	}
	return sum_ns;
}

/*
 * Two users, of whom one has three times the weight and the other three times the channels. While
 * both have something queued the first one has three times the other's time of the device. What
 * may be amiss is what was just running, and what a round is.
 */
static void test_users_share_by_weight(void **state)
{
	struct rig_client c[FAIR_CHANNELS];
	struct fair_call calls[FAIR_CHANNELS][RIG_ENTRIES];
	struct rig rig;

	rig_start_workers(&rig, 1);
	const struct clock_line clock = clock_from_page(rig.page);
	for (uint32_t i = 0; i < FAIR_CHANNELS; i++) {
		rig.uids[i] = i < FAIR_HEAVY ? 100 : 200;
		rig.weights[i] = i < FAIR_HEAVY ? FAIR_WEIGHT : 1;
		rig_open(&rig, &c[i], i, 0, WIRE_ABI);
	}
	for (uint32_t i = 0; i < FAIR_CHANNELS; i++)
		fill_ring(&c[i], &clock);
	/* The heavy user last: it has nothing to do only when it has had all that it wants. */
	for (uint32_t i = FAIR_CHANNELS; i-- > 0;)
		rig_publish(&c[i]);
	const uint64_t from_ns = clock_now_ns(&clock);
	for (uint32_t i = 0; i < FAIR_CHANNELS; i++)
		take_ends(&c[i], calls[i]);
	const uint64_t heavy_end_ns = last_start_ns(calls, 0, FAIR_HEAVY);
	const uint64_t light_end_ns = last_start_ns(calls, FAIR_HEAVY, FAIR_CHANNELS);
	struct fair_window w = {from_ns, heavy_end_ns < light_end_ns ? heavy_end_ns : light_end_ns};
	const uint64_t heavy_ns = had_ns(calls, 0, FAIR_HEAVY, &w);
	const uint64_t light_ns = had_ns(calls, FAIR_HEAVY, FAIR_CHANNELS, &w);
	const double off = fabs((double)heavy_ns / FAIR_WEIGHT - (double)light_ns);
	const double may_be =
		0.1 * (double)light_ns + 2.0 * SHARE_QUANTUM_NS + 8.0 * (double)w.longest_ns;
	if (off > may_be)
		fail_msg("%llu ns and %llu ns, the longest call %llu ns",
			(unsigned long long)heavy_ns, (unsigned long long)light_ns,
			(unsigned long long)w.longest_ns);
	for (uint32_t i = 0; i < FAIR_CHANNELS; i++)
		rig_close(&c[i]);
	rig_stop(&rig);
}

/* How many null operations of a channel dispatch took at a time, as far as is recorded. */
static double mean_batch(const struct rig *rig, uint32_t channel)
{
	const struct recorder *r = &rig->recorders[RECORDER_DISPATCH];
	uint64_t batches = 0, taken = 0;
	struct recorder_event e;

	for (uint64_t i = 0; i <= r->mask; i++) {
		shm_copy_in(&e, &r->events[i], sizeof(e) / 8);
		if (e.kind != RECORDER_BATCH || e.channel != channel)
			continue;
		batches++;
		taken += e.what;
	}
	return batches == 0 ? 0 : (double)taken / (double)batches;
}

/*
 * A user of the least weight beside an idle one of the greatest has no part of most rounds: it does
 * not have to wait for hundreds of them. What came together is taken in a few passes: with what was
 * left, with what a round brings, and with a whole one.
 */
static void test_light_user_beside_an_idle_one(void **state)
{
	struct rig_client light, heavy;
	struct rig rig;

	rig_start(&rig);
	rig.uids[0] = 100;
	rig.weights[0] = SHARE_MAX_WEIGHT;
	rig.uids[1] = 200;
	rig.weights[1] = 1;
	rig_open(&rig, &heavy, 0, 0, WIRE_ABI);
	rig_open(&rig, &light, 1, 0, WIRE_ABI);
	keep_busy(&heavy, 1);
	for (uint32_t i = 0; i < 100; i++) {
		const struct wire_sqe sqe = rig_entry(&light, WIRE_OP_NULL, 1);
		for (uint32_t k = 0; k < RIG_ENTRIES; k++)
			rig_write(&light, &sqe);
		rig_publish(&light);
		for (uint32_t k = 0; k < RIG_ENTRIES; k++)
			assert_int_equal(rig_complete(&light).status, 0);
	}
	const double mean = mean_batch(&rig, 1);
	if (mean < RIG_ENTRIES / 4.0)
		fail_msg("%.2f at a time", mean);
	rig_close(&heavy);
	rig_close(&light);
	rig_stop(&rig);
}

#define BELL_N 32768u  /* elements of a call, longer than a pass may take: a pass has one of them */
#define BELL_ROUNDS 5u /* those under way when it rings, the next, and some to spare */
#define BELL_CHANNELS (RIG_CHANNELS - 1)

/*
 * While the busy ones have all their rings full, the parked one rings. Returns how many of their
 * calls began after that, of which `before` before its entry.
 */
static uint32_t ring_among(struct rig_client *busy, const struct wire_sqe *of_busy,
	struct rig_client *parked, const struct clock_line *clock, uint32_t *before)
{
	struct fair_call calls[BELL_CHANNELS][RIG_ENTRIES];
	struct wire_sqe sqe = rig_entry(parked, WIRE_OP_NULL, 1);
	uint32_t after = 0;

	/* All of them in the scan, and dispatch awake. */
	keep_busy(busy, BELL_CHANNELS);
	for (uint32_t i = 0; i < BELL_CHANNELS * RIG_ENTRIES; i++) {
		struct rig_client *c = &busy[i % BELL_CHANNELS];
		rig_write(c, &of_busy[i % BELL_CHANNELS]);
	}
	for (uint32_t i = 0; i < BELL_CHANNELS; i++)
		rig_publish(&busy[i]);
	sqe.submit_ns = clock_now_ns(clock);
	rig_submit(parked, &sqe);
	const uint64_t rung_ns = clock_now_ns(clock);
	for (uint32_t i = 0; i < BELL_CHANNELS; i++)
		take_ends(&busy[i], calls[i]);
	const uint64_t start_ns = sqe.submit_ns + rig_complete(parked).queued_ns;
	*before = 0;
	for (uint32_t i = 0; i < BELL_CHANNELS * RIG_ENTRIES; i++) {
		const struct fair_call *call = &calls[i / RIG_ENTRIES][i % RIG_ENTRIES];
		after += call->start_ns > rung_ns;
		*before += call->start_ns > rung_ns && call->start_ns < start_ns;
	}
	return after;
}

/* Who is parked and rings has its turn in one of the next rounds, whatever others have queued. */
static void test_parked_one_does_not_wait_for_queues(void **state)
{
	struct rig_client busy[BELL_CHANNELS], parked;
	struct wire_sqe of_busy[BELL_CHANNELS];
	uint32_t number, before, seen = 0;
	struct rig rig;

	rig_start(&rig);
	/* Said to cost nothing, it runs in dispatch's own thread. */
	assert_non_null(op_find("softmax", &number));
	rig.cost.lines[number][GPUQ_F32] = (struct cost_line){0, 1e-9};
	const struct clock_line clock = clock_from_page(rig.page);
	for (uint32_t i = 0; i < BELL_CHANNELS; i++) {
		rig_open(&rig, &busy[i], i, 0, WIRE_ABI);
		of_busy[i] = rig_softmax(&busy[i], 0, BELL_N, 0);
		of_busy[i].submit_ns = clock_now_ns(&clock);
	}
	rig_open(&rig, &parked, BELL_CHANNELS, 0, WIRE_ABI);
	for (uint32_t tries = 0; tries < 500 && seen < 8; tries++) {
		while (shm_load_relaxed(&rig.stats.channels[BELL_CHANNELS].parked) == 0)
			keep_busy(busy, BELL_CHANNELS);
		const uint32_t after = ring_among(busy, of_busy, &parked, &clock, &before);
		/* Only then it was early enough to tell. */
		seen += after > 2 * BELL_ROUNDS * BELL_CHANNELS;
		if (before > BELL_ROUNDS * BELL_CHANNELS)
			fail_msg("it waited for %u calls of others", before);
	}
	assert_true(seen > 0);
	for (uint32_t i = 0; i < BELL_CHANNELS; i++)
		rig_close(&busy[i]);
	rig_close(&parked);
	rig_stop(&rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_goes_on_among_busy_ones),
		HARNESS_TEST(test_idle_channels_are_no_parties),
		HARNESS_TEST(test_drain_serves_what_was_there),
		HARNESS_TEST(test_users_share_by_weight),
		HARNESS_TEST(test_light_user_beside_an_idle_one),
		HARNESS_TEST(test_parked_one_does_not_wait_for_queues),
	};

	return harness_run("dispatch-turns", tests, sizeof(tests) / sizeof(tests[0]));
}
