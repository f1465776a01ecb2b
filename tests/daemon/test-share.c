/* SPDX-License-Identifier: MIT */
/*
 * test-share.c: whose turn it is, over a device that the test plays: time is a number, and works
 * take as long as the test says.
 */
#include "daemon/share.h"
#include "tests/harness.h"

#include <string.h>

#define USERS 8u
#define CHANNELS 64u
#define AGEING_NS 1000000u
#define MS 1000000u

struct world {
	struct shares shares;
	struct channel channels[CHANNELS];
	uint64_t cost_ns[CHANNELS]; /* of each work of a channel */
	uint64_t had_ns[CHANNELS];
	uint32_t n;
	uint64_t now_ns;
};

static void world_start(struct world *w)
{
	memset(w, 0, sizeof(*w));
	w->now_ns = MS;
	assert_int_equal(shares_create(&w->shares, USERS, AGEING_NS), 0);
}

/* A channel whose queue is never empty. */
static uint32_t add(
	struct world *w, uint32_t uid, uint32_t weight, uint32_t priority, uint64_t cost_ns)
{
	struct channel *ch = &w->channels[w->n];

	ch->share = share_join(&w->shares, uid, weight);
	ch->priority = priority;
	w->cost_ns[w->n] = cost_ns;
	share_queue(&w->shares, ch, w->now_ns);
	return w->n++;
}

static void world_stop(struct world *w)
{
	for (uint32_t i = 0; i < w->n; i++) {
		if (w->channels[i].share->turns[w->channels[i].priority].listed)
			share_unqueue(&w->shares, &w->channels[i]);
		share_leave(&w->shares, w->channels[i].share);
	}
	assert_true(LIST_EMPTY(&w->shares.used));
	shares_destroy(&w->shares);
}

/* Something of the channel runs; what it takes was not known before. */
static void run(struct world *w, struct channel *ch)
{
	const uint64_t cost_ns = w->cost_ns[ch - w->channels];

	share_charge(ch->share, 20000);
	share_requeue(&w->shares, ch, false);
	shares_served(&w->shares, ch);
	shares_launched(&w->shares, ch->priority, w->now_ns);
	w->now_ns += cost_ns;
	w->had_ns[ch - w->channels] += cost_ns;
	share_charge(ch->share, (int64_t)cost_ns - 20000);
}

/* Runs one work after another, as dispatch does; before each, `futile` attempts find no room. */
static void play(struct world *w, uint64_t ns, uint32_t futile)
{
	const uint64_t end_ns = w->now_ns + ns;

	while (w->now_ns < end_ns) {
		const uint32_t p = shares_priority(&w->shares, 0, 0, w->now_ns);
		struct channel *ch;

		assert_true(p < MSG_PRIORITIES);
		for (uint32_t i = 0; i < futile; i++) {
			shares_attempt(&w->shares);
			while ((ch = shares_next(&w->shares, p, false)) != NULL)
				share_requeue(&w->shares, ch, false);
		}
		shares_attempt(&w->shares);
		run(w, shares_next(&w->shares, p, false));
	}
}

static uint64_t had_ns(const struct world *w, uint32_t uid)
{
	uint64_t ns = 0;

	for (uint32_t i = 0; i < w->n; i++)
		ns += w->channels[i].share->uid == uid ? w->had_ns[i] : 0;
	return ns;
}

static void expect_ratio(const struct world *w, uint32_t a, uint32_t b, double ratio)
{
	const double is = (double)had_ns(w, a) / (double)had_ns(w, b);

	if (is < 0.9 * ratio || is > 1.1 * ratio)
		fail_msg("user %u had %.3f times the time of user %u, not %.3f", a, is, b, ratio);
}

static void test_time_by_weight(void **state)
{
	struct world w;

	for (uint32_t futile = 0; futile < 3; futile++) {
		world_start(&w);
		add(&w, 1, 3, 1, 50000);
		add(&w, 2, 1, 1, 50000);
		play(&w, 200 * MS, futile);
		expect_ratio(&w, 1, 2, 3);
		world_stop(&w);
	}
}

/* It is not turns that are shared: a user of long works has fewer of them. */
static void test_time_and_not_turns(void **state)
{
	struct world w;

	world_start(&w);
	add(&w, 1, 1, 1, 3000);
	add(&w, 2, 1, 1, 900000);
	add(&w, 3, 10, 1, 70000);
	play(&w, 2000ull * MS, 1);
	expect_ratio(&w, 1, 2, 1);
	expect_ratio(&w, 3, 1, 10);
	world_stop(&w);
}

static void test_many_channels_of_one_user(void **state)
{
	struct world w;

	world_start(&w);
	for (uint32_t i = 0; i < 32; i++)
		add(&w, 1, 1, 1, 30000);
	add(&w, 2, 1, 1, 30000);
	play(&w, 200 * MS, 0);
	expect_ratio(&w, 1, 2, 1);
	/* And they share what their user has. */
	for (uint32_t i = 1; i < 32; i++)
		assert_in_range(w.had_ns[i], w.had_ns[0] - 30000, w.had_ns[0] + 30000);
	world_stop(&w);
}

/* Strict, but for a turn in each AGEING_NS. */
static void test_priorities_age(void **state)
{
	struct world w;

	world_start(&w);
	add(&w, 1, 1, 0, 10000);
	add(&w, 2, 1000, 3, 10000);
	play(&w, 100 * MS, 0);
	/* 1 ms without, 10 us with: 99 turns. */
	assert_in_range(w.had_ns[1], 97 * 10000, 101 * 10000);
	world_stop(&w);
}

/* A priority has waited since something of it does, or since its last turn. */
static void test_age_begins_with_waiting(void **state)
{
	struct world w;

	world_start(&w);
	add(&w, 1, 1, 0, 10000);
	play(&w, 100 * MS, 0);
	add(&w, 2, 1, 3, 10000);
	const uint64_t since_ns = w.now_ns, aged_ns = since_ns + AGEING_NS;
	assert_int_equal(shares_priority(&w.shares, 0, 0, since_ns), 0);
	/* Which it may have while there is no room for the others. */
	assert_int_equal(shares_priority(&w.shares, 1u << 0, 0, since_ns), 3);
	/* A second one that comes does not begin it anew. */
	w.now_ns = aged_ns - 1;
	add(&w, 3, 1, 3, 10000);
	assert_int_equal(shares_priority(&w.shares, 0, 0, aged_ns - 1), 0);
	assert_int_equal(shares_priority(&w.shares, 0, 0, aged_ns), 3);
	assert_int_equal(shares_priority(&w.shares, 1u << 3, 0, aged_ns), 0);
	shares_launched(&w.shares, 3, aged_ns);
	assert_int_equal(shares_priority(&w.shares, 0, 0, aged_ns), 0);
	world_stop(&w);
}

/* A user without anything to do saves nothing up. */
static void test_idleness_is_not_saved(void **state)
{
	struct world w;

	world_start(&w);
	const uint32_t first = add(&w, 1, 1, 1, 50000);
	share_unqueue(&w.shares, &w.channels[first]);
	add(&w, 2, 1, 1, 50000);
	play(&w, 100 * MS, 0);
	share_queue(&w.shares, &w.channels[first], w.now_ns);
	const uint64_t before_ns = had_ns(&w, 2);
	play(&w, 10 * MS, 0);
	assert_in_range(had_ns(&w, 2) - before_ns, 4 * MS, 6 * MS);
	world_stop(&w);
}

/* What is left when nothing waits any more is gone, what is owed is not. */
static void test_nothing_is_kept_but_debts(void **state)
{
	struct world w;

	world_start(&w);
	struct channel *ch = &w.channels[add(&w, 1, 1, 1, 50000)];
	struct channel *high = &w.channels[add(&w, 1, 1, 2, 50000)];
	struct share *share = ch->share;
	share->deficit_ns = 7;
	share_unqueue(&w.shares, ch);
	share_queue(&w.shares, ch, w.now_ns); /* the other one has waited all the time */
	assert_int_equal(share->deficit_ns, 7);
	share_unqueue(&w.shares, ch);
	share_unqueue(&w.shares, high);
	share_queue(&w.shares, ch, w.now_ns);
	assert_int_equal(share->deficit_ns, 0);
	share->deficit_ns = -7;
	share_unqueue(&w.shares, ch);
	share_queue(&w.shares, ch, w.now_ns);
	assert_int_equal(share->deficit_ns, -7);
	world_stop(&w);
}

/* When all have had their parts, those who owe least go on first; what is saved stays. */
static void test_least_debt_first(void **state)
{
	const int64_t q_ns = SHARE_QUANTUM_NS, saved_ns = 3 * SHARE_MAX_SAVED_NS;
	struct world w;

	world_start(&w);
	struct channel *most = &w.channels[add(&w, 1, 1, 1, 50000)];
	struct channel *least = &w.channels[add(&w, 2, 1, 1, 50000)];
	struct channel *rich = &w.channels[add(&w, 3, 1, 1, 50000)];
	most->share->deficit_ns = -10 * q_ns;
	least->share->deficit_ns = -q_ns;
	/* It was charged more than it took. */
	rich->share->deficit_ns = saved_ns;
	shares_attempt(&w.shares);
	assert_ptr_equal(shares_next(&w.shares, 1, false), rich);
	share_requeue(&w.shares, rich, false);
	assert_ptr_equal(shares_next(&w.shares, 1, false), least);
	assert_int_equal(least->share->deficit_ns, q_ns);
	assert_int_equal(most->share->deficit_ns, -8 * q_ns);
	assert_int_equal(rich->share->deficit_ns, saved_ns);
	world_stop(&w);
}

/* Its newest channel says how much a user weighs. */
static void test_weights_change(void **state)
{
	struct world w;

	world_start(&w);
	add(&w, 1, 1, 1, 50000);
	add(&w, 2, 1, 1, 50000);
	add(&w, 1, 3, 1, 50000);
	play(&w, 200 * MS, 0);
	expect_ratio(&w, 1, 2, 3);
	world_stop(&w);
}

/* What a user overdrew is forgiven while it leaves the device to others, and not before. */
static void test_debts_are_forgiven(void **state)
{
	struct world w;

	world_start(&w);
	struct channel *ch = &w.channels[add(&w, 1, 1, 1, 50000)];
	share_began(ch->share, w.now_ns);
	share_charge(ch->share, 50 * MS);
	share_began(ch->share, w.now_ns + 40 * MS);
	assert_int_equal(ch->share->deficit_ns, -50 * (int64_t)MS);
	share_ended(ch->share, w.now_ns + 40 * MS);
	share_ended(ch->share, w.now_ns + 40 * MS);
	share_began(ch->share, w.now_ns + 60 * MS);
	assert_int_equal(ch->share->deficit_ns, -30 * (int64_t)MS);
	share_ended(ch->share, w.now_ns + 60 * MS);
	share_began(ch->share, w.now_ns + 100 * MS);
	assert_int_equal(ch->share->deficit_ns, 0);
	share_ended(ch->share, w.now_ns + 100 * MS);
	world_stop(&w);
}

/* One for which there is no room keeps nobody waiting, and does not lose more than it must. */
static void test_blocked_ones_hold_up_nobody(void **state)
{
	struct world w;

	world_start(&w);
	const uint32_t blocked = add(&w, 1, 1, 1, 50000);
	add(&w, 2, 3, 1, 50000);
	add(&w, 3, 1, 1, 50000);
	const uint64_t end_ns = w.now_ns + 100 * MS;
	while (w.now_ns < end_ns) {
		struct channel *ch;
		shares_attempt(&w.shares);
		while ((ch = shares_next(&w.shares, 1, false)) == &w.channels[blocked])
			share_requeue(&w.shares, ch, false);
		assert_non_null(ch);
		run(&w, ch);
	}
	assert_int_equal(w.had_ns[blocked], 0);
	expect_ratio(&w, 2, 3, 3);
	const uint64_t before_ns = had_ns(&w, 3);
	play(&w, 40 * MS, 0);
	/* It has its share, and at most SHARE_MAX_SAVED_NS above that. */
	assert_in_range(w.had_ns[blocked], 8 * MS, 18 * MS);
	assert_in_range(had_ns(&w, 3) - before_ns, 4 * MS, 9 * MS);
	world_stop(&w);
}

/* Ends that come in the middle of an attempt: each of the others is tried once. */
static void test_channels_end_meanwhile(void **state)
{
	struct channel *tried[4];
	struct world w;

	for (uint32_t ends = 0; ends < 3; ends++) {
		uint32_t n = 0;
		world_start(&w);
		for (uint32_t i = 0; i < 3; i++)
			add(&w, 1, 1, 1, 50000);
		shares_attempt(&w.shares);
		tried[n++] = shares_next(&w.shares, 1, false);
		assert_ptr_equal(tried[0], &w.channels[0]);
		share_requeue(&w.shares, tried[0], false);
		if (ends >= 1)
			share_unqueue(&w.shares, &w.channels[2]);
		if (ends >= 2)
			share_unqueue(&w.shares, &w.channels[1]);
		while (n < 4 && (tried[n] = shares_next(&w.shares, 1, false)) != NULL)
			share_requeue(&w.shares, tried[n++], false);
		/* The last one may come again when all behind it have gone. */
		assert_int_equal(n, ends == 2 ? 2 : 3 - ends);
		for (uint32_t i = 0; i < 3 - ends; i++)
			assert_ptr_equal(tried[i], &w.channels[i]);
		for (uint32_t i = 3 - ends; i < 3; i++)
			share_queue(&w.shares, &w.channels[i], w.now_ns);
		world_stop(&w);
	}
}

/* Dispatch's own time: parts of a round, by weight, however small. */
static void test_rounds_of_dispatch(void **state)
{
	struct world w;
	uint32_t spent[2] = {0};

	world_start(&w);
	add(&w, 1, 1000, 1, 1);
	add(&w, 2, 3, 1, 1);
	for (uint32_t i = 0; i < 2; i++)
		share_activate(&w.shares, w.channels[i].share);
	assert_int_equal(w.shares.n_active, 2);
	for (uint32_t round = 0; round < 10000; round++) {
		shares_round(&w.shares, 128);
		for (uint32_t i = 0; i < 2; i++) {
			const uint32_t n = share_budget(w.channels[i].share, 128);
			share_spend(w.channels[i].share, n);
			spent[i] += n;
		}
	}
	assert_int_equal(spent[0], 1280000);
	assert_in_range(spent[1], 3830, 3840);
	/* Who spends nothing has one round's, and not those of all the time. */
	for (uint32_t round = 0; round < 3; round++)
		shares_round(&w.shares, 128);
	assert_int_equal(share_budget(w.channels[0].share, 1000), 128);
	assert_int_equal(share_budget(w.channels[0].share, 100), 100);
	share_spend(w.channels[0].share, 1000);
	assert_int_equal(share_budget(w.channels[0].share, 1000), 0);
	for (uint32_t i = 0; i < 2; i++)
		share_deactivate(&w.shares, w.channels[i].share);
	assert_int_equal(w.shares.n_active, 0);
	world_stop(&w);
}

/* Where only light ones have work, they have whole rounds, by weight among themselves. */
static void test_rounds_of_light_users(void **state)
{
	static const uint32_t weights[] = {SHARE_MAX_WEIGHT, 4, 1};
	struct world w;

	world_start(&w);
	for (uint32_t i = 0; i < 3; i++) {
		add(&w, i, weights[i], 1, 1);
		share_activate(&w.shares, w.channels[i].share);
	}
	shares_round(&w.shares, 128);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(share_budget(w.channels[i].share, 128), i == 0 ? 128 : 0);
	assert_true(shares_skip_rounds(&w.shares, 128));
	assert_int_equal(share_budget(w.channels[0].share, 128), 128);
	assert_int_equal(share_budget(w.channels[1].share, 128), 128);
	assert_int_equal(share_budget(w.channels[2].share, 128), 32);
	assert_false(shares_skip_rounds(&w.shares, 128));
	for (uint32_t i = 0; i < 3; i++)
		share_deactivate(&w.shares, w.channels[i].share);
	world_stop(&w);
}

/* At the edges of a rate: so many at once, no more, and one more when its time has passed. */
static void test_rates(void **state)
{
	const uint64_t second_ns = 1000 * MS;
	struct share share = {0};
	uint64_t now_ns = 5 * second_ns;

	for (uint32_t i = 0; i < 10; i++)
		assert_true(share_submits(&share, 10, now_ns));
	assert_false(share_submits(&share, 10, now_ns));
	assert_false(share_submits(&share, 10, now_ns + second_ns / 10 - 1));
	assert_true(share_submits(&share, 10, now_ns + second_ns / 10));
	assert_false(share_submits(&share, 10, now_ns + second_ns / 10));
	/* A pause of any length is worth one second. */
	now_ns += 100 * second_ns;
	for (uint32_t i = 0; i < 10; i++)
		assert_true(share_submits(&share, 10, now_ns));
	assert_false(share_submits(&share, 10, now_ns));
}

/* The cold ones go only where there is room for cold works. */
static void test_cold_ones(void **state)
{
	struct world w;

	world_start(&w);
	struct channel *cold = &w.channels[add(&w, 1, 1, 1, 50000)];
	share_requeue(&w.shares, cold, true);
	assert_int_equal(shares_priority(&w.shares, 0, 0, w.now_ns), MSG_PRIORITIES);
	assert_int_equal(shares_priority(&w.shares, 0, 2, w.now_ns), 1);
	assert_int_equal(shares_priority(&w.shares, 2, 2, w.now_ns), MSG_PRIORITIES);
	shares_attempt(&w.shares);
	assert_null(shares_next(&w.shares, 1, false));
	assert_ptr_equal(shares_next(&w.shares, 1, true), cold);
	share_requeue(&w.shares, cold, false);
	assert_ptr_equal(shares_next(&w.shares, 1, false), cold);
	world_stop(&w);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_time_by_weight),
		HARNESS_TEST(test_time_and_not_turns),
		HARNESS_TEST(test_many_channels_of_one_user),
		HARNESS_TEST(test_priorities_age),
		HARNESS_TEST(test_age_begins_with_waiting),
		HARNESS_TEST(test_idleness_is_not_saved),
		HARNESS_TEST(test_nothing_is_kept_but_debts),
		HARNESS_TEST(test_least_debt_first),
		HARNESS_TEST(test_weights_change),
		HARNESS_TEST(test_debts_are_forgiven),
		HARNESS_TEST(test_blocked_ones_hold_up_nobody),
		HARNESS_TEST(test_channels_end_meanwhile),
		HARNESS_TEST(test_rounds_of_dispatch),
		HARNESS_TEST(test_rounds_of_light_users),
		HARNESS_TEST(test_rates),
		HARNESS_TEST(test_cold_ones),
	};

	return harness_run("share", tests, sizeof(tests) / sizeof(tests[0]));
}
