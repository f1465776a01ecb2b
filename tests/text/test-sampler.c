/* SPDX-License-Identifier: MIT */
/*
 * test-sampler.c: what a sampler wants, what it says to rows of every kind, what the constraint
 * sees, how the text and the seed count.
 */
#include "tests/text/sampler-rig.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <string.h>

static const float inf = INFINITY;

static struct gpuq_sampler_want want_of(struct gpuq_sampler *s)
{
	struct gpuq_sampler_want want;

	assert_int_equal(gpuq_sampler_want(s, &want), 0);
	return want;
}

static void accept_all(struct gpuq_sampler *s, const uint32_t *ids, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(gpuq_sampler_accept(s, ids[i]), 0);
}

static uint64_t full_rows(const struct gpuq_sampler *s)
{
	struct gpuq_sampler_stats stats;

	gpuq_sampler_stats(s, &stats);
	return stats.full_rows;
}

/* --- Policies that are refused --------------------------------------------------------------- */

static void refuse(struct gpuq_sampling sampling, const char *part)
{
	struct gpuq_sampler *s = NULL;

	assert_int_equal(gpuq_sampler_create(&sampling, 100, &s), -EINVAL);
	assert_null(s);
	rig_detail(part);
}

static void test_policies_are_checked(void **state)
{
	static const struct gpuq_logit_bias outside = {100, 1}, infinite = {1, INFINITY},
					    none = {1, NAN};
	struct gpuq_sampler *s = NULL;

	refuse((struct gpuq_sampling){.temperature = -1}, "temperature");
	refuse((struct gpuq_sampling){.temperature = NAN}, "temperature");
	refuse((struct gpuq_sampling){.temperature = 1e-31f}, "temperature");
	refuse((struct gpuq_sampling){.temperature = 2e30f}, "temperature");
	refuse((struct gpuq_sampling){.top_p = 1.1f}, "top_p");
	refuse((struct gpuq_sampling){.top_p = NAN}, "top_p");
	refuse((struct gpuq_sampling){.min_p = -0.1f}, "min_p");
	refuse((struct gpuq_sampling){.typical_p = 2}, "typical_p");
	refuse((struct gpuq_sampling){.repetition_penalty = -1}, "repetition_penalty");
	refuse((struct gpuq_sampling){.repetition_penalty = inf}, "repetition_penalty");
	refuse((struct gpuq_sampling){.presence_penalty = inf}, "presence_penalty");
	refuse((struct gpuq_sampling){.frequency_penalty = NAN}, "frequency_penalty");
	refuse((struct gpuq_sampling){.penalty_tokens = UINT32_MAX}, "penalty_tokens");
	refuse((struct gpuq_sampling){.n_biases = 1, .biases = &outside}, "100");
	refuse((struct gpuq_sampling){.n_biases = 1, .biases = &infinite}, "inf");
	refuse((struct gpuq_sampling){.n_biases = 1, .biases = &none}, "nan");
	assert_int_equal(gpuq_sampler_create(&(struct gpuq_sampling){0}, 0, &s), -EINVAL);
	assert_int_equal(gpuq_sampler_create(&(struct gpuq_sampling){0}, 1u << 31, &s), -EINVAL);
	gpuq_sampler_destroy(NULL);
}

/* --- What is wanted -------------------------------------------------------------------------- */

static void test_greedy_wants_little(void **state)
{
	struct gpuq_sampler *s = rig_sampler(&(struct gpuq_sampling){0}, 1000);
	struct gpuq_sampler_want want = want_of(s);

	assert_false(want.full_row);
	assert_int_equal(want.n_candidates, 1);
	assert_int_equal(want.n_ids, 0);
	assert_true(want.temperature == 1);
	gpuq_sampler_destroy(s);
	/* Penalties may take away as many of the greatest as there are names. */
	s = rig_sampler(&(struct gpuq_sampling){.presence_penalty = 1}, 1000);
	accept_all(s, (const uint32_t[]){7, 5, 7, 900}, 4);
	want = want_of(s);
	assert_int_equal(want.n_candidates, 4);
	assert_int_equal(want.n_ids, 3);
	assert_int_equal(want.ids[0], 5);
	assert_int_equal(want.ids[1], 7);
	assert_int_equal(want.ids[2], 900);
	gpuq_sampler_destroy(s);
}

static void test_wants_candidates(void **state)
{
	struct gpuq_sampler *s = rig_sampler(&(struct gpuq_sampling){.temperature = 0.5f}, 1000);
	struct gpuq_sampler_want want = want_of(s);

	assert_false(want.full_row);
	assert_int_equal(want.n_candidates, 64);
	assert_true(want.temperature == 0.5f);
	gpuq_sampler_destroy(s);
	s = rig_sampler(&(struct gpuq_sampling){.temperature = 0.5f}, 9);
	assert_int_equal(want_of(s).n_candidates, 9);
	gpuq_sampler_destroy(s);
}

static void test_wants_the_row_where_less_cannot_do(void **state)
{
	struct gpuq_sampler *s =
		rig_sampler(&(struct gpuq_sampling){.temperature = 1, .top_k = 65}, 1000);

	assert_true(want_of(s).full_row);
	gpuq_sampler_destroy(s);
	s = rig_sampler(&(struct gpuq_sampling){.temperature = 1, .top_k = 64}, 1000);
	assert_false(want_of(s).full_row);
	gpuq_sampler_destroy(s);
	s = rig_sampler(&(struct gpuq_sampling){.temperature = 1, .top_k = 65}, 64);
	assert_false(want_of(s).full_row);
	gpuq_sampler_destroy(s);
	s = rig_sampler(&(struct gpuq_sampling){.frequency_penalty = 1}, 1000);
	for (uint32_t id = 0; id < 257; id++) {
		assert_int_equal(want_of(s).n_ids, id);
		assert_int_equal(gpuq_sampler_accept(s, id), 0);
	}
	assert_true(want_of(s).full_row);
	gpuq_sampler_destroy(s);
}

/* --- Rows of every kind ---------------------------------------------------------------------- */

/* A draw from k candidates, which gives this token, or this error, as the full row does. */
static void expect_draw(
	const struct gpuq_sampling *sampling, const float *logits, uint32_t n, int64_t token)
{
	for (uint32_t k = 0; k <= n; k++) {
		struct gpuq_sampler *s = rig_sampler(sampling, n);

		assert_int_equal(rig_draw(s, logits, n, k, NULL), token);
		gpuq_sampler_destroy(s);
	}
}

static const struct gpuq_sampling greedy = {.temperature = 0}, usual = {.temperature = 1};

static void test_nothing_left(void **state)
{
	static const float forbidden[] = {-INFINITY, -INFINITY, NAN}, logits[] = {1, 2, 3};
	static const struct gpuq_logit_bias all[] = {
		{0, -INFINITY}, {1, -INFINITY}, {2, -INFINITY}};

	expect_draw(&greedy, forbidden, 3, -ENODATA);
	expect_draw(&usual, forbidden, 3, -ENODATA);
	rig_detail("no token");
	expect_draw(&(struct gpuq_sampling){.temperature = 1, .n_biases = 3, .biases = all}, logits,
		3, -ENODATA);
}

static void test_one_token(void **state)
{
	static const float logit[] = {-3};
	struct gpuq_sampler *s = rig_sampler(&usual, 1);
	double logprob;

	expect_draw(&greedy, logit, 1, 0);
	expect_draw(&usual, logit, 1, 0);
	expect_draw(&(struct gpuq_sampling){.temperature = 1, .typical_p = 0.1f, .top_p = 0.1f},
		logit, 1, 0);
	assert_int_equal(rig_draw(s, logit, 1, 1, &logprob), 0);
	assert_true(logprob == 0);
	gpuq_sampler_destroy(s);
}

static void test_nan_and_infinities(void **state)
{
	static const float with_nan[] = {NAN, 2, -INFINITY, 2}, with_inf[] = {9, 1, INFINITY, 5},
			   only_one[] = {-INFINITY, NAN, -FLT_MAX, -INFINITY};

	expect_draw(&greedy, with_nan, 4, 1);
	expect_draw(&greedy, with_inf, 4, 2);
	expect_draw(&usual, with_inf, 4, 2);
	expect_draw(&usual, only_one, 4, 2);
	expect_draw(&(struct gpuq_sampling){.temperature = 1e30f}, only_one, 4, 2);
}

/* A +inf counts as the greatest float, so the two are equal, and a candidate is not the first. */
static void test_infinity_is_the_greatest_float(void **state)
{
	static const float logits[] = {1, FLT_MAX, INFINITY, INFINITY};

	expect_draw(&greedy, logits, 4, 1);
	expect_draw(&(struct gpuq_sampling){.temperature = 1, .top_k = 1}, logits, 4, 1);
}

static void test_ties_take_the_least_id(void **state)
{
	static const float logits[] = {-0.0f, 0, 3, 3, 3, 0};

	expect_draw(&greedy, logits, 6, 2);
	expect_draw(&(struct gpuq_sampling){.temperature = 1, .top_k = 1}, logits, 6, 2);
	expect_draw(&(struct gpuq_sampling){.temperature = 1, .top_p = 0.1f}, logits, 6, 2);
	static const float zeros[] = {-0.0f, 0, 0};
	expect_draw(&greedy, zeros, 3, 0);
	expect_draw(&(struct gpuq_sampling){.temperature = 1, .top_k = 1}, zeros, 3, 0);
}

static void test_penalty_outside_the_candidates(void **state)
{
	static const float logits[] = {5, 4, 3, 2, 1, 0};
	static const struct gpuq_logit_bias lift = {5, 6}, drop = {0, -10};

	expect_draw(&(struct gpuq_sampling){.n_biases = 1, .biases = &lift}, logits, 6, 5);
	expect_draw(&(struct gpuq_sampling){.n_biases = 1, .biases = &drop}, logits, 6, 1);
	expect_draw(
		&(struct gpuq_sampling){
			.temperature = 1, .top_k = 1, .n_biases = 1, .biases = &lift},
		logits, 6, 5);
}

/* Where a policy's choice lies within the candidates, whatever they leave open elsewhere. */
static void test_decides_without_the_row(void **state)
{
	static const struct gpuq_logit_bias drop = {3, -1}, forbidden = {999, 1};
	static const struct gpuq_sampling all[] = {
		{.n_biases = 1, .biases = &drop},
		{.temperature = 1, .top_k = 3},
		{.temperature = 1, .top_k = 3, .n_biases = 1, .biases = &drop},
		{.temperature = 1, .top_p = 0.5f},
		{.temperature = 1, .min_p = 0.2f},
		/* The last candidate is lowered, and is below it before that too. */
		{.temperature = 1, .min_p = 0.4f, .n_biases = 1, .biases = &drop},
		{.temperature = 1, .typical_p = 0.3f},
		{.temperature = 1, .typical_p = 0.3f, .n_biases = 1, .biases = &forbidden},
		{.temperature = 1, .top_k = 4, .typical_p = 0.9f},
	};
	float logits[1000];

	for (int v = 0; v < 1000; v++)
		logits[v] = v < 3 ? 8 - (float)v / 4 : v == 3 ? 6 : -(float)v / 100;
	logits[999] = -INFINITY;
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct gpuq_sampler *s = rig_sampler(&all[i], 1000);

		for (int k = 0; k < 50; k++)
			assert_in_range(rig_draw(s, logits, 1000, 4, NULL), 0, 3);
		assert_int_equal(full_rows(s), 0);
		gpuq_sampler_destroy(s);
	}
}

/* What is no candidate is named, so nothing is open. */
static void test_candidates_and_names_are_all(void **state)
{
	static const struct gpuq_logit_bias lower = {2, -1};
	struct gpuq_sampler *s = rig_sampler(
		&(struct gpuq_sampling){.temperature = 1, .n_biases = 1, .biases = &lower}, 3);
	const float logits[] = {0, 0.5f, -0.5f};
	uint32_t counts[3] = {0};

	for (int i = 0; i < 100; i++)
		counts[rig_draw(s, logits, 3, 2, NULL)]++;
	assert_true(counts[0] > 0 && counts[1] > counts[2] && counts[2] > 0);
	assert_int_equal(full_rows(s), 0);
	gpuq_sampler_destroy(s);
}

/* Where candidates seldom tell, the row is asked for first; and not for ever. */
static void test_learns_to_ask_for_the_row(void **state)
{
	const struct gpuq_sampling sampling = {.temperature = 1, .seed = 3};
	struct gpuq_sampler *s = rig_sampler(&sampling, 1000);
	float flat[1000] = {0}, peaked[1000] = {[5] = 30};
	uint32_t asked = 0;

	assert_false(want_of(s).full_row);
	for (int i = 0; i < 100; i++) {
		asked += want_of(s).full_row;
		rig_draw(s, flat, 1000, 64, NULL);
	}
	assert_true(asked > 60);
	assert_true(want_of(s).full_row);
	/* Each row that is given counts, needed or not; from candidates this one is drawn, too. */
	const uint64_t before = full_rows(s);
	asked = 0;
	for (int i = 0; i < 40; i++) {
		asked += want_of(s).full_row;
		assert_int_equal(rig_draw(s, peaked, 1000, 64, NULL), 5);
	}
	assert_false(want_of(s).full_row);
	assert_true(asked > 0);
	assert_int_equal(full_rows(s) - before, asked);
	gpuq_sampler_destroy(s);
}

static void refuse_row(struct gpuq_sampler *s, const struct gpuq_row *row, const char *part)
{
	assert_int_equal(gpuq_sampler_draw(s, row, NULL), -EINVAL);
	rig_detail(part);
}

static void test_bad_rows_are_refused(void **state)
{
	struct gpuq_sampler *s = rig_sampler(&usual, 10);
	const int32_t tokens[] = {1, 2}, outside[] = {1, 10}, negative[] = {-1, 2};
	const float values[] = {2, 1}, rising[] = {1, 2}, none[] = {2, NAN};
	struct gpuq_row row = {.n_candidates = 2, .tokens = outside, .values = values};

	refuse_row(s, &row, "outside the vocabulary");
	row.tokens = negative;
	refuse_row(s, &row, "outside the vocabulary");
	row.tokens = tokens;
	row.values = rising;
	refuse_row(s, &row, "descend");
	row.values = none;
	refuse_row(s, &row, "descend");
	row = (struct gpuq_row){.n_candidates = 11};
	refuse_row(s, &row, "more candidates");
	gpuq_sampler_destroy(s);
	s = rig_sampler(&(struct gpuq_sampling){.presence_penalty = 1}, 10);
	accept_all(s, (const uint32_t[]){4}, 1);
	row = (struct gpuq_row){.n_candidates = 2, .tokens = tokens, .values = values};
	refuse_row(s, &row, "wanted");
	gpuq_sampler_destroy(s);
}

/* What the log-sum-exp cannot tell, the greatest weights that the others may have still can. */
static void test_useless_statistics(void **state)
{
	const float peak[] = {100, 1, 0, 0, 0, 0};
	struct gpuq_sampler *s = rig_sampler(&usual, 6);
	const struct gpuq_sampler_want want = want_of(s);
	struct rig_row r;

	rig_row_make(&r, &want, peak, 6, 2, 0);
	r.row.lse = NAN;
	r.row.entropy = NAN;
	for (int i = 0; i < 100; i++)
		assert_int_equal(gpuq_sampler_draw(s, &r.row, NULL), 0);
	gpuq_sampler_destroy(s);
}

/*
 * Most of the mass is forbidden by name: of the others' share nothing is left in the log-sum-exp,
 * so the sampler asks for the row, and does not draw by a total that is noise.
 */
static void test_cancellation_asks_for_the_row(void **state)
{
	static const struct gpuq_logit_bias forbid = {0, -INFINITY};
	const struct gpuq_sampling sampling = {.temperature = 1, .n_biases = 1, .biases = &forbid};
	struct gpuq_sampler *s = rig_sampler(&sampling, 500);
	float logits[500];
	struct rig_row r;

	for (int v = 0; v < 500; v++)
		logits[v] = v == 0 ? 40 : (float)(-v) / 1000;
	const struct gpuq_sampler_want want = want_of(s);
	rig_row_make(&r, &want, logits, 500, 64, 1);
	for (int i = 0; i < 50; i++) {
		if (gpuq_sampler_draw(s, &r.row, NULL) == -EAGAIN)
			assert_in_range(rig_draw_full(s, logits, NULL), 1, 499);
	}
	assert_true(full_rows(s) >= 40);
	gpuq_sampler_destroy(s);
}

/* --- The constraint -------------------------------------------------------------------------- */

struct spy {
	struct gpuq_sampler_rule rule;
	int rule_result, change_result;
	uint32_t rules, n;
	uint32_t ids[300];
	float logits[300];
	float set; /* what change() makes of all */
};

static int spy_rule(void *context, struct gpuq_sampler_rule *rule)
{
	struct spy *spy = context;

	assert_true(!rule->restricted && rule->n_ids == 0 && rule->n_allowed == 0);
	*rule = spy->rule;
	spy->rules++;
	return spy->rule_result;
}

static int spy_change(void *context, const uint32_t *ids, uint32_t n, float *logits)
{
	struct spy *spy = context;

	spy->n = n;
	memcpy(spy->ids, ids, n * sizeof(*ids));
	memcpy(spy->logits, logits, n * sizeof(*logits));
	for (uint32_t i = 0; i < n; i++)
		logits[i] = spy->set;
	return spy->change_result;
}

static struct gpuq_sampling spied(struct spy *spy, struct gpuq_sampling sampling)
{
	sampling.constraint = (struct gpuq_sampler_constraint){
		.rule = spy_rule, .change = spy_change, .context = spy};
	return sampling;
}

/* The formulas of bias and penalties, seen by the function that comes after them. */
static void test_bias_and_penalties(void **state)
{
	static const uint32_t ids[] = {4, 0, 1, 2, 3, 1};
	static const struct gpuq_logit_bias biases[] = {{3, 0.5f}, {0, 2}, {3, 0.25f}};
	struct spy spy = {.rule = {.n_ids = 6, .ids = ids}};
	const struct gpuq_sampling sampling = spied(&spy,
		(struct gpuq_sampling){.repetition_penalty = 2,
			.presence_penalty = 0.5f,
			.frequency_penalty = 0.125f,
			.penalty_tokens = 4,
			.n_biases = 3,
			.biases = biases});
	const float logits[] = {1, -1, 4, 4, INFINITY, 7};
	struct gpuq_sampler *s = rig_sampler(&sampling, 6);

	/* The first two are too long ago. */
	accept_all(s, (const uint32_t[]){3, 3, 0, 1, 1, 5}, 6);
	for (int full = 0; full < 2; full++) {
		const int64_t token =
			full ? rig_draw_full(s, logits, NULL) : rig_draw(s, logits, 6, 6, NULL);

		assert_int_equal(token, 5);
		assert_int_equal(spy.n, 5);
		for (uint32_t i = 0; i < 5; i++)
			assert_int_equal(spy.ids[i], i);
		assert_true(spy.logits[0] == (1 + 2) / 2.0f - 0.5f - 0.125f);
		assert_true(spy.logits[1] == -1 * 2.0f - 0.5f - 2 * 0.125f);
		assert_true(spy.logits[2] == 4);
		assert_true(spy.logits[3] == 4.75f);
		assert_true(spy.logits[4] == FLT_MAX);
	}
	assert_int_equal(spy.rules, 1);
	gpuq_sampler_destroy(s);
}

static void test_restricted_to_few(void **state)
{
	static const uint32_t allowed[] = {70, 3, 70, 50}, ids[] = {50, 51};
	struct spy spy = {.rule = {.restricted = true,
				  .n_allowed = 4,
				  .allowed = allowed,
				  .n_ids = 2,
				  .ids = ids},
		.set = 9};
	const struct gpuq_sampling sampling = spied(&spy, greedy);
	struct gpuq_sampler *s = rig_sampler(&sampling, 1000);
	float logits[1000] = {[3] = 5, [70] = 6, [51] = 100, [999] = 50};

	const struct gpuq_sampler_want want = want_of(s);
	assert_int_equal(want.n_candidates, 0);
	assert_int_equal(want.n_ids, 3);
	assert_int_equal(want.ids[0], 3);
	assert_int_equal(want.ids[1], 50);
	assert_int_equal(want.ids[2], 70);
	assert_int_equal(rig_draw(s, logits, 1000, 0, NULL), 50);
	/* The forbidden one is not shown. */
	assert_int_equal(spy.n, 1);
	assert_int_equal(spy.ids[0], 50);
	spy.set = -INFINITY;
	assert_int_equal(rig_draw(s, logits, 1000, 0, NULL), 70);
	assert_int_equal(full_rows(s), 0);
	gpuq_sampler_destroy(s);
}

static void test_restricted_to_many_or_none(void **state)
{
	uint32_t allowed[600];
	struct spy spy = {.rule = {.restricted = true, .n_allowed = 600, .allowed = allowed}};
	const struct gpuq_sampling sampling = spied(&spy, greedy);
	struct gpuq_sampler *s = rig_sampler(&sampling, 1000);
	float logits[1000] = {[3] = 5, [401] = 6, [402] = 4, [998] = 7};

	for (uint32_t i = 0; i < 600; i++)
		allowed[i] = 300 + i;
	const struct gpuq_sampler_want want = want_of(s);
	assert_false(want.full_row);
	/* The greatest are forbidden, so the first candidate alone does not tell. */
	struct rig_row r;
	rig_row_make(&r, &want, logits, 1000, 1, 0);
	assert_int_equal(gpuq_sampler_draw(s, &r.row, NULL), -EAGAIN);
	assert_int_equal(rig_draw_full(s, logits, NULL), 401);
	accept_all(s, allowed, 1);
	/* Many words for few. */
	for (uint32_t i = 0; i < 600; i++)
		allowed[i] = 300 + i % 2;
	assert_int_equal(want_of(s).n_candidates, 0);
	accept_all(s, allowed, 1);
	spy.rule.n_allowed = 0;
	assert_int_equal(want_of(s).n_ids, 0);
	assert_int_equal(rig_draw(s, logits, 1000, 0, NULL), -ENODATA);
	gpuq_sampler_destroy(s);
}

static void test_errors_of_the_constraint(void **state)
{
	static const uint32_t outside[] = {6};
	struct spy spy = {.rule_result = -EPROTO};
	const struct gpuq_sampling sampling = spied(&spy, usual);
	const float logits[6] = {0};
	struct gpuq_sampler *s = rig_sampler(&sampling, 6);
	struct gpuq_sampler_want want;

	assert_int_equal(gpuq_sampler_want(s, &want), -EPROTO);
	assert_int_equal(rig_draw_full(s, logits, NULL), -EPROTO);
	spy.rule_result = 0;
	spy.rule.ids = outside;
	spy.rule.n_ids = 1;
	assert_int_equal(gpuq_sampler_want(s, &want), -EINVAL);
	rig_detail("outside the vocabulary");
	spy.rule =
		(struct gpuq_sampler_rule){.restricted = true, .allowed = outside, .n_allowed = 1};
	assert_int_equal(gpuq_sampler_want(s, &want), -EINVAL);
	spy.rule = (struct gpuq_sampler_rule){.ids = (const uint32_t[]){2}, .n_ids = 1};
	spy.change_result = -ENOTRECOVERABLE;
	assert_int_equal(rig_draw_full(s, logits, NULL), -ENOTRECOVERABLE);
	assert_int_equal(rig_draw(s, logits, 6, 6, NULL), -ENOTRECOVERABLE);
	/* None of these used up a random number. */
	spy.change_result = 0;
	spy.set = -INFINITY;
	struct gpuq_sampler *fresh = rig_sampler(&sampling, 6);
	for (int i = 0; i < 20; i++)
		assert_int_equal(
			rig_draw(s, logits, 6, 6, NULL), rig_draw(fresh, logits, 6, 6, NULL));
	gpuq_sampler_destroy(fresh);
	gpuq_sampler_destroy(s);
}

/* --- Random numbers and the text ------------------------------------------------------------- */

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

/* The numbers that the header promises, in 16 equal parts. */
static void test_random_numbers(void **state)
{
	const float logits[16] = {0};

	for (uint64_t seed = 0; seed < 50; seed++) {
		const struct gpuq_sampling sampling = {
			.temperature = 1, .seed = seed * 0x123456789abcdefu};
		struct gpuq_sampler *s = rig_sampler(&sampling, 16);

		for (uint64_t n = 0; n < 20; n++) {
			const uint64_t r = mix(mix(sampling.seed) + (n + 1) * 0x9e3779b97f4a7c15u);

			assert_int_equal(rig_draw(s, logits, 16, 16, NULL), r >> 60);
		}
		gpuq_sampler_destroy(s);
	}
}

/* A text in which each row depends on the token before it. */
static void write_text(struct gpuq_sampler *s, uint32_t k, int64_t *ret_tokens)
{
	uint32_t last = 0;

	for (int i = 0; i < 40; i++) {
		float logits[200];

		for (uint32_t v = 0; v < 200; v++)
			logits[v] = (float)((v * 7919u + last * 104729u) % 1000) / 100;
		ret_tokens[i] = rig_draw(s, logits, 200, k, NULL);
		assert_in_range(ret_tokens[i], 0, 199);
		last = (uint32_t)ret_tokens[i];
		assert_int_equal(gpuq_sampler_accept(s, last), 0);
	}
}

static void test_the_seed_makes_the_text(void **state)
{
	struct gpuq_sampling sampling = {
		.temperature = 0.8f, .top_p = 0.95f, .presence_penalty = 1, .seed = 11};
	struct gpuq_sampler *s = rig_sampler(&sampling, 200);
	int64_t first[40], again[40];
	struct gpuq_sampler_stats stats;

	write_text(s, 64, first);
	gpuq_sampler_reset(s);
	write_text(s, 64, again);
	assert_memory_equal(first, again, sizeof(first));
	gpuq_sampler_reset(s);
	write_text(s, 3, again);
	assert_memory_equal(first, again, sizeof(first));
	gpuq_sampler_stats(s, &stats);
	assert_int_equal(stats.draws, 120);
	gpuq_sampler_destroy(s);
	sampling.seed = 12;
	s = rig_sampler(&sampling, 200);
	write_text(s, 64, again);
	assert_true(memcmp(first, again, sizeof(first)) != 0);
	gpuq_sampler_destroy(s);
}

/* The window of penalties against counting: tokens enter, come again, and leave. */
static void test_penalty_window(void **state)
{
	struct rig_random random = {.state = 9};

	for (uint32_t window = 0; window < 7; window++) {
		const struct gpuq_sampling sampling = {
			.frequency_penalty = 1, .penalty_tokens = window};
		struct gpuq_sampler *s = rig_sampler(&sampling, 8);
		uint32_t text[100];

		for (uint32_t n = 0; n < 100; n++) {
			const struct gpuq_sampler_want want = want_of(s);
			uint32_t has[8] = {0}, distinct = 0;

			for (uint32_t i = window == 0 || n < window ? 0 : n - window; i < n; i++)
				distinct += has[text[i]]++ == 0;
			assert_int_equal(want.n_ids, distinct);
			for (uint32_t i = 0; i < want.n_ids; i++)
				assert_true(has[want.ids[i]] > 0);
			text[n] = rig_below(&random, 8);
			accept_all(s, &text[n], 1);
		}
		assert_int_equal(gpuq_sampler_accept(s, 8), -EINVAL);
		gpuq_sampler_reset(s);
		assert_int_equal(want_of(s).n_ids, 0);
		gpuq_sampler_destroy(s);
	}
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_policies_are_checked),
		HARNESS_TEST(test_greedy_wants_little),
		HARNESS_TEST(test_wants_candidates),
		HARNESS_TEST(test_wants_the_row_where_less_cannot_do),
		HARNESS_TEST(test_nothing_left),
		HARNESS_TEST(test_one_token),
		HARNESS_TEST(test_nan_and_infinities),
		HARNESS_TEST(test_infinity_is_the_greatest_float),
		HARNESS_TEST(test_ties_take_the_least_id),
		HARNESS_TEST(test_penalty_outside_the_candidates),
		HARNESS_TEST(test_decides_without_the_row),
		HARNESS_TEST(test_candidates_and_names_are_all),
		HARNESS_TEST(test_learns_to_ask_for_the_row),
		HARNESS_TEST(test_bad_rows_are_refused),
		HARNESS_TEST(test_useless_statistics),
		HARNESS_TEST(test_cancellation_asks_for_the_row),
		HARNESS_TEST(test_bias_and_penalties),
		HARNESS_TEST(test_restricted_to_few),
		HARNESS_TEST(test_restricted_to_many_or_none),
		HARNESS_TEST(test_errors_of_the_constraint),
		HARNESS_TEST(test_random_numbers),
		HARNESS_TEST(test_the_seed_makes_the_text),
		HARNESS_TEST(test_penalty_window),
	};

	return harness_run("text-sampler", tests, sizeof(tests) / sizeof(tests[0]));
}
