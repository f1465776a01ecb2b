/* SPDX-License-Identifier: MIT */
/* test-clock.c: the arithmetic of the shared clock, and its place in the daemon page. */
#include "tests/harness.h"

#include "shm/clock.h"

static void test_line_converts_ticks(void **state)
{
	uint64_t now = clock_ticks();
	/* Half a nanosecond a tick, and a base 2^50 ticks ago: the product needs 128 bits. */
	struct clock_line half = {.mult = 1ull << 31, .shift = 32, .ns_base = 7};

	half.ticks_base = now - (1ull << 50);
	assert_true(clock_now_ns(&half) >= 7 + (1ull << 49));
	assert_true(clock_now_ns(&half) <= 7 + (1ull << 49) + (clock_ticks() - now) / 2 + 1);
}

static void test_no_counter_falls_back(void **state)
{
	const struct clock_line none = {.mult = 12345, .ns_base = 678};

	uint64_t before = clock_monotonic_ns();
	uint64_t now = clock_now_ns(&none);
	uint64_t after = clock_monotonic_ns();
	assert_true(before <= now && now <= after);
}

static void test_calibrated_clock_goes_forward(void **state)
{
	struct clock_line line;

	clock_calibrate(&line);
	if (line.shift == 0)
		harness_skip("this CPU has no steady tick counter");
	/* It starts from a reading of CLOCK_MONOTONIC, so it is never before that. */
	uint64_t last = clock_now_ns(&line);
	assert_true(last >= line.ns_base);
	for (int i = 0; i < 100000; i++) {
		uint64_t now = clock_now_ns(&line);
		assert_true(now >= last);
		last = now;
	}
}

static void test_page_carries_the_line(void **state)
{
	static struct wire_page page;
	const struct clock_line line = {.ticks_base = 1, .ns_base = 2, .mult = 3, .shift = 4};

	clock_publish(&page, &line);
	struct clock_line copy = clock_from_page(&page);
	assert_int_equal(copy.ticks_base, 1);
	assert_int_equal(copy.ns_base, 2);
	assert_int_equal(copy.mult, 3);
	assert_int_equal(copy.shift, 4);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_line_converts_ticks),
		HARNESS_TEST(test_no_counter_falls_back),
		HARNESS_TEST(test_calibrated_clock_goes_forward),
		HARNESS_TEST(test_page_carries_the_line),
	};

	return harness_run("clock", tests, sizeof(tests) / sizeof(tests[0]));
}
