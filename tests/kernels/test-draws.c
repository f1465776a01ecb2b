/* SPDX-License-Identifier: MIT */
/*
 * test-draws.c: that sample's draws have the probabilities of the softmax and do not depend on
 * each other, on the instruction set or on the rows beside them; its generator against the known
 * answers of its authors; what it refuses and what strange rows give.
 *
 * All seeds are fixed and all forms agree in every bit, so no test can fail by chance.
 */
#include "tests/harness.h"

#include "kernels/isa.h"
#include "kernels/ops.h"
#include "kernels/sample/sample.h"
#include "shm/atomics.h"
#include "tests/kernels/random.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

enum { MAX_ROWS = 1000, MAX_LOGITS = 100000 };

static float logits[MAX_LOGITS], temperatures[MAX_ROWS], logprobs[MAX_ROWS];
static int64_t seeds[MAX_ROWS][2];
static int32_t tokens[MAX_ROWS];

static struct op_call sample_of(uint64_t rows, uint64_t vocabulary)
{
	return (struct op_call){.op = &op_sample,
		.in = {[SAMPLE_LOGITS] = {.data = logits,
			       .dtype = GPUQ_F32,
			       .rank = 2,
			       .dims = {rows, vocabulary}},
			[SAMPLE_TEMPERATURES] = {.data = temperatures,
				.dtype = GPUQ_F32,
				.rank = 1,
				.dims = {rows}},
			[SAMPLE_SEEDS] =
				{.data = seeds, .dtype = GPUQ_I64, .rank = 2, .dims = {rows, 2}}},
		.out = {[SAMPLE_TOKEN] =
				{.data = tokens, .dtype = GPUQ_I32, .rank = 1, .dims = {rows}},
			[SAMPLE_LOGPROB] = {
				.data = logprobs, .dtype = GPUQ_F32, .rank = 1, .dims = {rows}}}};
}

static void run(const struct op_call *call)
{
	call->op->cpu(call, 0, call->op->units(call));
}

/* --- The generator -------------------------------------------------------------------------- */

/* kat_vectors of Random123, philox4x32 10. */
static void test_generator_gives_known_answers(void **state)
{
	static const struct {
		uint32_t counter[4];
		uint64_t key;
		uint32_t words[4];
	} known[] = {
		{{0, 0, 0, 0}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{{UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX}, UINT64_MAX,
			{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822,
			{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		uint32_t words[4];

		memcpy(words, known[i].counter, sizeof(words));
		philox(words, known[i].key);
		assert_memory_equal(words, known[i].words, sizeof(words));
	}
}

/* --- Distribution --------------------------------------------------------------------------- */

/*
 * Fails where a sum of squares has less than one chance in a million: by Wilson and Hilferty, the
 * cube root of chi squared over its degrees of freedom is nearly normal.
 */
static void assert_chi_squared(double chi2, double degrees)
{
	const double mean = 1 - 2 / (9 * degrees), deviation = sqrt(2 / (9 * degrees));

	assert_true(degrees >= 1);
	assert_true((cbrt(chi2 / degrees) - mean) / deviation < 4.75);
	/* Numbers that are closer to what was expected than chance would have them. */
	assert_true((cbrt(chi2 / degrees) - mean) / deviation > -4.75);
}

/* Counts of draws against probabilities; rare ones are put together. */
static void assert_counts(const uint32_t *counts, const double *p, uint32_t n, double draws)
{
	double rare_count = 0, rare = 0, chi2 = 0, degrees = -1;

	for (uint32_t i = 0; i < n; i++) {
		const double expected = p[i] * draws;

		if (expected < 8) {
			rare_count += counts[i];
			rare += expected;
			continue;
		}
		chi2 += (counts[i] - expected) * (counts[i] - expected) / expected;
		degrees++;
	}
	if (rare > 1) {
		chi2 += (rare_count - rare) * (rare_count - rare) / rare;
		degrees++;
	}
	assert_chi_squared(chi2, degrees);
}

static void softmax_of(const float *row, uint32_t n, double temperature, double *p)
{
	double sum = 0;

	for (uint32_t i = 0; i < n; i++)
		sum += p[i] = exp(row[i] / temperature);
	for (uint32_t i = 0; i < n; i++)
		p[i] /= sum;
}

enum { DRAWS = 40000, VOCABULARY = 97 };

/* Draws with one seed and many steps, or with many seeds and one step. */
static void draw_many(float temperature, bool by_step, uint32_t *counts)
{
	const struct op_call call = sample_of(MAX_ROWS, VOCABULARY);
	struct random rng = {11};

	for (uint32_t v = 0; v < VOCABULARY; v++)
		logits[v] = (float)(random_unit(&rng) * 8 - 4);
	for (uint32_t row = 0; row < MAX_ROWS; row++) {
		memcpy(logits + row * VOCABULARY, logits, VOCABULARY * sizeof(*logits));
		temperatures[row] = temperature;
	}
	for (uint32_t from = 0; from < DRAWS; from += MAX_ROWS) {
		for (uint32_t row = 0; row < MAX_ROWS; row++) {
			seeds[row][0] = by_step ? 7 : from + row;
			seeds[row][1] = by_step ? from + row : 7;
		}
		run(&call);
		for (uint32_t row = 0; row < MAX_ROWS; row++)
			counts[tokens[row]]++;
	}
}

static void test_draws_have_the_probabilities_of_the_softmax(void **state)
{
	static const float of[] = {0.3f, 0.7f, 1, 2.5f, 50};

	for (size_t i = 0; i < sizeof(of) / sizeof(of[0]); i++) {
		for (int by_step = 0; by_step < 2; by_step++) {
			uint32_t counts[VOCABULARY] = {0};
			double p[VOCABULARY];

			draw_many(of[i], by_step == 1, counts);
			softmax_of(logits, VOCABULARY, of[i], p);
			assert_counts(counts, p, VOCABULARY, DRAWS);
		}
	}
}

/* Neighbours in steps, in seeds, and of the same step in two sequences. */
static void test_draws_do_not_depend_on_each_other(void **state)
{
	enum { N = 8, PAIRS = 20000 };
	const struct op_call call = sample_of(2, N);

	memset(logits, 0, sizeof(logits));
	temperatures[0] = temperatures[1] = 1;
	for (int by_step = 0; by_step < 2; by_step++) {
		uint32_t counts[N * N] = {0};
		double p[N * N];

		for (int i = 0; i < N * N; i++)
			p[i] = 1.0 / (N * N);
		for (int i = 0; i < PAIRS; i++) {
			for (int j = 0; j < 2; j++) {
				seeds[j][0] = by_step == 1 ? 1 : 2 * i + j;
				seeds[j][1] = by_step == 1 ? 2 * i + j : 1;
			}
			run(&call);
			counts[tokens[0] * N + tokens[1]]++;
		}
		assert_counts(counts, p, N * N, PAIRS);
	}
}

/* Every place in a group of the generator, and groups after the first, are as likely. */
static void test_all_places_of_a_large_row_are_drawn(void **state)
{
	enum { N = 1000, LARGE_DRAWS = 20000 };
	const struct op_call call = sample_of(100, N);
	uint32_t counts[N] = {0};
	double p[N];

	memset(logits, 0, sizeof(logits));
	for (int i = 0; i < N; i++)
		p[i] = 1.0 / N;
	for (int from = 0; from < LARGE_DRAWS; from += 100) {
		for (int row = 0; row < 100; row++) {
			temperatures[row] = 0.5f;
			seeds[row][0] = 3;
			seeds[row][1] = ((int64_t)from + row) << 20;
		}
		run(&call);
		for (int row = 0; row < 100; row++)
			counts[tokens[row]]++;
	}
	assert_counts(counts, p, N, LARGE_DRAWS);
}

/* --- Sameness ------------------------------------------------------------------------------- */

static void random_rows(uint32_t rows, uint32_t vocabulary)
{
	struct random rng = {5};

	for (uint32_t i = 0; i < rows * vocabulary; i++)
		logits[i] = (float)(random_unit(&rng) * 20 - 10);
	for (uint32_t row = 0; row < rows; row++) {
		temperatures[row] = (float)exp2(random_unit(&rng) * 8 - 4);
		seeds[row][0] = (int64_t)random_u64(&rng);
		seeds[row][1] = (int64_t)random_u64(&rng);
	}
}

static void test_instruction_sets_draw_the_same(void **state)
{
	static const uint32_t vocabularies[] = {1, 3, 15, 64, 65, 100};
	const enum isa best = isa_selected();

	for (size_t i = 0; i < sizeof(vocabularies) / sizeof(vocabularies[0]); i++) {
		const struct op_call call = sample_of(MAX_ROWS, vocabularies[i]);
		int32_t first[MAX_ROWS];

		random_rows(MAX_ROWS, vocabularies[i]);
		isa_select(ISA_BASE);
		run(&call);
		memcpy(first, tokens, sizeof(first));
		for (enum isa isa = ISA_BASE + 1; isa < ISA_COUNT; isa++) {
			if (!isa_supported(isa))
				continue;
			isa_select(isa);
			run(&call);
			assert_memory_equal(tokens, first, sizeof(first));
		}
	}
	isa_select(best);
}

static void test_a_row_does_not_depend_on_others(void **state)
{
	enum { N = 333, ROWS = 50 };
	struct op_call call = sample_of(ROWS, N);
	int32_t among[ROWS];
	float among_logprobs[ROWS];

	random_rows(ROWS, N);
	run(&call);
	memcpy(among, tokens, sizeof(among));
	memcpy(among_logprobs, logprobs, sizeof(among_logprobs));
	for (uint32_t row = 0; row < ROWS; row++) {
		call = sample_of(1, N);
		call.in[SAMPLE_LOGITS].data = logits + row * N;
		call.in[SAMPLE_TEMPERATURES].data = temperatures + row;
		call.in[SAMPLE_SEEDS].data = seeds[row];
		run(&call);
		assert_int_equal(tokens[0], among[row]);
		assert_memory_equal(logprobs, among_logprobs + row, sizeof(float));
	}
}

static double gumbel_of(uint64_t seed, uint64_t step, uint64_t token)
{
	return -log(-log1p(-((sample_word(seed, step, token) >> 1) + 0.5) * 0x1p-31));
}

/* Two tokens whose scores are hardly further apart than the stated tolerance. */
static void test_close_draws_are_decided_rightly(void **state)
{
	struct op_call call = sample_of(MAX_ROWS, 2);
	struct random rng = {9};

	for (uint32_t i = 0; i < 20 * MAX_ROWS; i += MAX_ROWS) {
		for (uint32_t row = 0; row < MAX_ROWS; row++) {
			const uint64_t seed = random_u64(&rng), step = random_u64(&rng);
			const double ahead = gumbel_of(seed, step, 0) - gumbel_of(seed, step, 1);
			const double margin = 1e-5 + 1e-6 * fabs(ahead);

			seeds[row][0] = (int64_t)seed;
			seeds[row][1] = (int64_t)step;
			temperatures[row] = 1;
			logits[2 * row] = 0;
			logits[2 * row + 1] = (float)(ahead + (row % 2 == 1 ? margin : -margin));
		}
		run(&call);
		for (uint32_t row = 0; row < MAX_ROWS; row++)
			assert_int_equal(tokens[row], row % 2);
	}
}

/* --- Strange rows --------------------------------------------------------------------------- */

static void test_temperature_0_takes_the_first_of_the_greatest(void **state)
{
	static const float row[] = {-1, NAN, 3, 0, 3};
	const struct op_call call = sample_of(1, 5);

	memcpy(logits, row, sizeof(row));
	temperatures[0] = -0.0f;
	for (int i = 0; i < 100; i++) {
		seeds[0][0] = i;
		run(&call);
		assert_int_equal(tokens[0], 2);
	}
	assert_true(fabs(logprobs[0] - (3 - log(exp(-1) + 2 * exp(3) + 1))) < 1e-5);
}

static void test_strange_rows(void **state)
{
	static const float rows[3][4] = {
		{NAN, -INFINITY, NAN, -INFINITY},
		{NAN, INFINITY, 5, INFINITY},
		{-INFINITY, NAN, -INFINITY, -7},
	};
	const struct op_call call = sample_of(3, 4);
	int found = 0;

	memcpy(logits, rows, sizeof(rows));
	for (int i = 0; i < 100; i++) {
		for (int row = 0; row < 3; row++) {
			temperatures[row] = 1;
			seeds[row][0] = i;
		}
		run(&call);
		assert_true(tokens[0] == 0 && isnan(logprobs[0]));
		assert_true(tokens[1] == 1 || tokens[1] == 3);
		assert_true(fabs(logprobs[1] + log(2)) < 1e-6);
		found |= tokens[1];
		assert_true(tokens[2] == 3 && logprobs[2] == 0);
	}
	assert_int_equal(found, 3);
}

static void test_refusals(void **state)
{
	static const struct {
		uint32_t input, rank;
		uint64_t dims[2];
		int err;
	} wrong[] = {
		{SAMPLE_LOGITS, 1, {8}, GPUQ_ERANK},
		{SAMPLE_LOGITS, 2, {2, 0}, GPUQ_ESHAPE},
		{SAMPLE_LOGITS, 2, {2, 1ull << 31}, GPUQ_ESHAPE},
		{SAMPLE_TEMPERATURES, 2, {2, 1}, GPUQ_ERANK},
		{SAMPLE_TEMPERATURES, 1, {3}, GPUQ_ESHAPE},
		{SAMPLE_SEEDS, 1, {4}, GPUQ_ERANK},
		{SAMPLE_SEEDS, 2, {2, 3}, GPUQ_ESHAPE},
		{SAMPLE_SEEDS, 2, {1, 2}, GPUQ_ESHAPE},
	};
	struct op_call call = sample_of(2, 4);
	uint32_t arg = 77;

	assert_int_equal(op_check(&call, &arg), 0);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		call = sample_of(2, 4);
		call.in[wrong[i].input].rank = wrong[i].rank;
		memcpy(call.in[wrong[i].input].dims, wrong[i].dims, sizeof(wrong[i].dims));
		assert_int_equal(op_check(&call, &arg), -wrong[i].err);
		assert_int_equal(arg, wrong[i].input);
	}
}

static uint32_t scribbler_ends;

static void *scribble(void *unused)
{
	uint32_t bits = 1;

	while (shm_load_acquire_u32(&scribbler_ends) == 0) {
		for (int i = 0; i < 3000; i++) {
			bits = bits * 1664525 + 1013904223;
			shm_store_release_u32((uint32_t *)logits + i, bits);
			shm_store_release_u32((uint32_t *)temperatures, bits);
		}
	}
	return unused;
}

static void test_changing_payload_stays_within_bounds(void **state)
{
#ifdef __SANITIZE_THREAD__
	harness_skip("races on purpose");
#else
	const struct op_call call = sample_of(1, 3000);
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, scribble, NULL), 0);
	for (int i = 0; i < 300; i++) {
		run(&call);
		assert_in_range(tokens[0], 0, 2999);
	}
	shm_store_release_u32(&scribbler_ends, 1);
	pthread_join(thread, NULL);
#endif
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_generator_gives_known_answers),
		HARNESS_TEST(test_draws_have_the_probabilities_of_the_softmax),
		HARNESS_TEST(test_draws_do_not_depend_on_each_other),
		HARNESS_TEST(test_all_places_of_a_large_row_are_drawn),
		HARNESS_TEST(test_instruction_sets_draw_the_same),
		HARNESS_TEST(test_a_row_does_not_depend_on_others),
		HARNESS_TEST(test_close_draws_are_decided_rightly),
		HARNESS_TEST(test_temperature_0_takes_the_first_of_the_greatest),
		HARNESS_TEST(test_strange_rows),
		HARNESS_TEST(test_refusals),
		HARNESS_TEST(test_changing_payload_stays_within_bounds),
	};

	return harness_run("kernels-draws", tests, sizeof(tests) / sizeof(tests[0]));
}
