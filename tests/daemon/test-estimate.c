/* SPDX-License-Identifier: MIT */
/* test-estimate.c: what is expected of works by those before them, and who is refused by it. */
#include "daemon/dispatch_impl.h"
#include "tests/harness.h"

#define KEY 0x123456789abcu
#define NOW_NS 1000000000u

static struct estimate table[ESTIMATES];

static void test_nothing_is_known_at_first(void **state)
{
	assert_int_equal(estimate_run_ns(table, KEY), 0);
	assert_int_equal(estimate_device_ns(table, KEY, 77), 77);
	assert_int_equal(estimate_run_ns(table, 0), 0);
	estimate_doubt(table, KEY);
	estimate_add(table, 0, 5, 5);
	assert_int_equal(estimate_device_ns(table, 0, 77), 77);
}

/* Works that all take as long are expected to; of others nearly all stay below. */
static void test_nearly_all_stay_below(void **state)
{
	for (uint32_t i = 0; i < 100; i++)
		estimate_add(table, KEY, 500, 1000);
	assert_int_equal(estimate_device_ns(table, KEY, 77), 500);
	assert_int_equal(estimate_run_ns(table, KEY), 1000);
	for (uint32_t i = 0; i < 400; i++)
		estimate_add(table, KEY, 500, i % 2 == 0 ? 500 : 1500);
	assert_in_range(estimate_run_ns(table, KEY), 1480, 1500);
	/* One in a thousand that takes for ever is forgotten. */
	for (uint32_t i = 0; i < 5000; i++)
		estimate_add(table, KEY, 500, i % 1000 == 0 ? 1u << 30 : 1500);
	assert_in_range(estimate_run_ns(table, KEY), 1500, 1510);
}

static void test_another_shape_takes_the_place(void **state)
{
	estimate_add(table, KEY, 500, 1000);
	estimate_add(table, KEY + ESTIMATES, 700, 1000);
	assert_int_equal(estimate_device_ns(table, KEY + ESTIMATES, 77), 700);
	assert_int_equal(estimate_device_ns(table, KEY, 77), 77);
	estimate_doubt(table, KEY);
	assert_int_equal(estimate_run_ns(table, KEY + ESTIMATES), 1000);
}

/* At the edge: as much time as it needs is enough. What is refused is tried again some time. */
static void test_in_time(void **state)
{
	struct dispatch d = {.estimates = table};
	struct slot slot = {.key = KEY};

	assert_int_equal(slot_in_time(&d, &slot, 1u << 30, NOW_NS), 0);
	slot.deadline_ns = NOW_NS;
	assert_int_equal(slot_in_time(&d, &slot, 0, NOW_NS), -ETIMEDOUT);
	assert_int_equal(slot_in_time(&d, &slot, 0, NOW_NS + 1), -ETIMEDOUT);
	slot.deadline_ns = NOW_NS + 1000;
	for (uint32_t i = 0; i < 100; i++)
		estimate_add(table, KEY, 500, 1000000);
	const uint64_t needs_ns = slot_needs_ns(&d, &slot);
	slot.deadline_ns = NOW_NS + needs_ns;
	assert_int_equal(slot_in_time(&d, &slot, needs_ns, NOW_NS), 0);
	assert_int_equal(slot_in_time(&d, &slot, needs_ns, NOW_NS + 1), -GPUQ_EDEADLINE);
	uint32_t refused = 0;
	slot.deadline_ns = NOW_NS + 500000;
	while (refused < 1000 && slot_in_time(&d, &slot, slot_needs_ns(&d, &slot), NOW_NS) != 0)
		refused++;
	assert_in_range(refused, ESTIMATE_DOUBTS + 20, ESTIMATE_DOUBTS + 60);
}

/* However many are refused, while others run what these take is believed. */
static void test_overload(void **state)
{
	for (uint32_t i = 0; i < 100; i++)
		estimate_add(table, KEY, 500, 1000000);
	for (uint32_t i = 0; i < 1000; i++) {
		for (uint32_t k = 0; k < ESTIMATE_DOUBTS; k++)
			estimate_doubt(table, KEY);
		assert_int_equal(estimate_run_ns(table, KEY), 1000000);
		estimate_add(table, KEY, 500, 1000000);
	}
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_nothing_is_known_at_first),
		HARNESS_TEST(test_nearly_all_stay_below),
		HARNESS_TEST(test_another_shape_takes_the_place),
		HARNESS_TEST(test_in_time),
		HARNESS_TEST(test_overload),
	};

	return harness_run("estimate", tests, sizeof(tests) / sizeof(tests[0]));
}
