/* SPDX-License-Identifier: MIT */
/* test-hist.c: the histogram's buckets, and its quantiles against sorted samples. */
#include "tests/harness.h"

#include "shm/hist.h"

#include <stdlib.h>

#define SAMPLES 5000

static const uint32_t all_bits[] = {HIST_STATS_BITS, HIST_BENCH_BITS};
#define N_BITS (sizeof(all_bits) / sizeof(all_bits[0]))

static uint64_t random_u64(uint64_t *seed)
{
	/* splitmix64 */
	uint64_t z = *seed += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static void check_value(uint64_t v, uint32_t bits)
{
	uint32_t bucket = hist_bucket(v, bits);
	uint64_t low = hist_bucket_floor(bucket, bits);
	uint64_t next = hist_bucket_floor(bucket + 1, bits);

	assert_true(bucket < HIST_BUCKETS(bits));
	assert_true(low <= v);
	if (v >= 1ull << HIST_MAX_EXPONENT) {
		assert_int_equal(bucket, HIST_BUCKETS(bits) - 1);
		return;
	}
	assert_true(v < next);
	assert_true(next - low == 1 || next - low <= v >> bits);
}

static void test_every_value_lies_in_its_bucket(void **state)
{
	uint64_t seed = 1;

	for (size_t b = 0; b < N_BITS; b++) {
		for (uint64_t v = 0; v < 5000; v++)
			check_value(v, all_bits[b]);
		for (int e = 0; e < 64; e++) {
			check_value((1ull << e) - 1, all_bits[b]);
			check_value(1ull << e, all_bits[b]);
			check_value((1ull << e) + 1, all_bits[b]);
			check_value(random_u64(&seed) >> e, all_bits[b]);
		}
		check_value(UINT64_MAX, all_bits[b]);
	}
}

static void test_buckets_are_contiguous(void **state)
{
	for (size_t b = 0; b < N_BITS; b++) {
		for (uint32_t i = 0; i + 1 < HIST_BUCKETS(all_bits[b]); i++) {
			uint64_t next = hist_bucket_floor(i + 1, all_bits[b]);
			assert_int_equal(hist_bucket(next, all_bits[b]), i + 1);
			assert_int_equal(hist_bucket(next - 1, all_bits[b]), i);
		}
	}
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void test_quantiles_agree_with_sorted_samples(void **state)
{
	static const double fractions[] = {0, 0.01, 0.5, 0.9, 0.99, 0.999, 1};
	static uint64_t samples[SAMPLES], counts[HIST_BUCKETS(HIST_BENCH_BITS)];
	uint64_t seed = 2;

	for (size_t b = 0; b < N_BITS; b++) {
		uint32_t bits = all_bits[b];

		for (uint32_t i = 0; i < HIST_BUCKETS(bits); i++)
			counts[i] = 0;
		for (int i = 0; i < SAMPLES; i++) {
			/* Of every magnitude, from single nanoseconds to minutes. */
			samples[i] = random_u64(&seed) >> (25 + random_u64(&seed) % 36);
			hist_add(counts, bits, samples[i]);
		}
		qsort(samples, SAMPLES, sizeof(samples[0]), compare);
		assert_int_equal(hist_total(counts, bits), SAMPLES);
		for (size_t f = 0; f < sizeof(fractions) / sizeof(fractions[0]); f++) {
			size_t rank = (size_t)(fractions[f] * SAMPLES);
			uint64_t exact = samples[rank < SAMPLES ? rank : SAMPLES - 1];
			uint64_t ours = hist_quantile(counts, bits, fractions[f]);
			assert_int_equal(hist_bucket(ours, bits), hist_bucket(exact, bits));
		}
	}
}

static void test_empty_histogram(void **state)
{
	static const uint64_t counts[HIST_BUCKETS(HIST_STATS_BITS)];

	assert_int_equal(hist_total(counts, HIST_STATS_BITS), 0);
	assert_int_equal(hist_quantile(counts, HIST_STATS_BITS, 0.5), 0);
}

static void test_small_values_are_exact(void **state)
{
	static uint64_t counts[HIST_BUCKETS(HIST_STATS_BITS)];

	for (uint64_t v = 0; v < 10; v++)
		hist_add(counts, HIST_STATS_BITS, v);
	assert_int_equal(hist_quantile(counts, HIST_STATS_BITS, 0), 0);
	assert_int_equal(hist_quantile(counts, HIST_STATS_BITS, 0.5), 5);
	assert_int_equal(hist_quantile(counts, HIST_STATS_BITS, 1), 9);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_every_value_lies_in_its_bucket),
		HARNESS_TEST(test_buckets_are_contiguous),
		HARNESS_TEST(test_quantiles_agree_with_sorted_samples),
		HARNESS_TEST(test_empty_histogram),
		HARNESS_TEST(test_small_values_are_exact),
	};

	return harness_run("hist", tests, sizeof(tests) / sizeof(tests[0]));
}
