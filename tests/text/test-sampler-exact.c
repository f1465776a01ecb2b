/* SPDX-License-Identifier: MIT */
/*
 * test-sampler-exact.c: each policy draws each token as often as it should, and the same one from
 * candidates as from the full row.
 */
#include "tests/text/sampler-rig.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define VOCABULARY 60
#define DRAWS 4000

/* --- Against exact probabilities ------------------------------------------------------------- */

/* Peaked as a model's: the greatest first, but mixed. Some are equal. */
static void make_logits(struct rig_random *r, float *logits, uint32_t n, double spread)
{
	const bool coarse = rig_below(r, 2) == 0;

	for (uint32_t v = 0; v < n; v++) {
		const double x = spread * log(rig_uniform(r, 1e-6, 1));

		logits[v] = (float)(coarse ? rint(x * 4) / 4 : x);
	}
}

/* Which draws are made from which rows: few candidates, many, all, none. */
static const uint32_t ways[] = {1, 4, 16, 64, 0};
#define N_WAYS (sizeof(ways) / sizeof(ways[0]))

struct exact {
	const char *name;
	struct gpuq_sampling sampling;
	uint32_t no_fallback_from; /* candidates that always do; 0: there is no such number */
};

static void draw_many(const struct exact *e, const float *logits, const double *p, uint32_t k)
{
	uint32_t counts[VOCABULARY] = {0}, full = 0;
	struct gpuq_sampler *s = rig_sampler(&e->sampling, VOCABULARY);
	struct gpuq_sampler_want want;
	struct gpuq_sampler_stats stats;
	static struct rig_row r;

	assert_int_equal(gpuq_sampler_want(s, &want), 0);
	rig_row_make(&r, &want, logits, VOCABULARY, k, 0);
	for (uint32_t i = 0; i < DRAWS; i++) {
		int64_t token = gpuq_sampler_draw(s, &r.row, NULL);

		if (token == -EAGAIN) {
			token = rig_draw_full(s, logits, NULL);
			full++;
		}
		assert_in_range(token, 0, VOCABULARY - 1);
		counts[token]++;
	}
	rig_expect_counts(e->name, counts, DRAWS, p, VOCABULARY);
	gpuq_sampler_stats(s, &stats);
	assert_int_equal(stats.draws, DRAWS);
	assert_int_equal(stats.full_rows, full);
	if (k >= VOCABULARY || (e->no_fallback_from > 0 && k >= e->no_fallback_from))
		assert_int_equal(full, 0);
	if (k == 0)
		assert_int_equal(full, DRAWS);
	gpuq_sampler_destroy(s);
}

static void expect_exact(const struct exact *e)
{
	struct rig_random random = {.state = 1};
	float logits[VOCABULARY];
	double p[VOCABULARY];

	for (int spread = 1; spread <= 2; spread++) {
		make_logits(&random, logits, VOCABULARY, spread);
		logits[7] = -INFINITY;
		rig_probabilities(&e->sampling, logits, VOCABULARY, p);
		for (size_t i = 0; i < N_WAYS; i++)
			draw_many(e, logits, p, ways[i]);
	}
}

static void test_temperatures(void **state)
{
	static const struct exact all[] = {
		{"temperature 1", {.temperature = 1, .seed = 1}, 0},
		{"temperature 0.7", {.temperature = 0.7f, .seed = 2}, 0},
		{"temperature 3", {.temperature = 3, .seed = 3}, 0},
		{"temperature 1e30", {.temperature = 1e30f, .seed = 4}, 0},
		{"temperature 1e-30", {.temperature = 1e-30f, .seed = 5}, 16},
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		expect_exact(&all[i]);
}

static void test_single_cuts(void **state)
{
	static const struct exact all[] = {
		{"top_k 1", {.temperature = 1, .top_k = 1, .seed = 1}, 1},
		{"top_k 4", {.temperature = 1, .top_k = 4, .seed = 2}, 4},
		{"top_k 5", {.temperature = 2, .top_k = 5, .seed = 3}, 16},
		{"top_k 40", {.temperature = 1, .top_k = 40, .seed = 4}, 64},
		{"top_p 0.3", {.temperature = 1, .top_p = 0.3f, .seed = 5}, 16},
		{"top_p 0.9", {.temperature = 1, .top_p = 0.9f, .seed = 6}, 0},
		{"min_p 0.2", {.temperature = 1, .min_p = 0.2f, .seed = 7}, 0},
		{"min_p 1", {.temperature = 1, .min_p = 1, .seed = 8}, 16},
		{"typical_p 0.2", {.temperature = 1, .typical_p = 0.2f, .seed = 9}, 0},
		{"typical_p 0.9", {.temperature = 1, .typical_p = 0.9f, .seed = 10}, 0},
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		expect_exact(&all[i]);
}

static void test_several_cuts(void **state)
{
	static const struct exact all[] = {
		{"k p", {.temperature = 0.8f, .top_k = 12, .top_p = 0.7f, .seed = 1}, 16},
		{"k p m", {.temperature = 1.3f, .top_k = 16, .top_p = 0.9f, .min_p = 0.1f}, 16},
		{"p m", {.temperature = 1, .top_p = 0.95f, .min_p = 0.05f, .seed = 2}, 0},
		{"k t", {.temperature = 1, .top_k = 16, .typical_p = 0.5f, .seed = 3}, 16},
		{"k p m t",
			{.temperature = 1,
				.top_k = 14,
				.top_p = 0.95f,
				.min_p = 0.02f,
				.typical_p = 0.6f,
				.seed = 4},
			16},
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		expect_exact(&all[i]);
}

/* --- With changed logits --------------------------------------------------------------------- */

struct even {
	uint32_t allowed[VOCABULARY], ids[3];
};

/* Only even tokens; the logits of three are set to others. */
static int even_rule(void *context, struct gpuq_sampler_rule *rule)
{
	struct even *e = context;

	rule->restricted = true;
	rule->allowed = e->allowed;
	for (uint32_t v = 0; v < VOCABULARY; v += 2)
		e->allowed[rule->n_allowed++] = v;
	rule->ids = e->ids;
	rule->n_ids = 3;
	return 0;
}

static int even_change(void *context, const uint32_t *ids, uint32_t n, float *logits)
{
	for (uint32_t i = 0; i < n; i++)
		logits[i] = logits[i] / 2 - (float)ids[i] / 100;
	return 0;
}

static const struct gpuq_logit_bias biases[] = {
	{3, -INFINITY}, {10, 4}, {11, -1}, {12, 1}, {12, 1}, {40, 2.5f}};
#define N_BIASES 6
static const uint32_t text[] = {2, 10, 10, 11, 5, 2, 59, 10};
#define N_TEXT 8

/* What the policy below makes of a row, told token by token. */
static void change_plainly(float *logits, bool even, uint32_t penalty_tokens)
{
	for (uint32_t v = 0; v < VOCABULARY; v++) {
		uint32_t count = 0;
		double l = logits[v];

		for (uint32_t i = 0; i < N_BIASES; i++)
			l += biases[i].id == v ? biases[i].bias : 0;
		for (uint32_t i = penalty_tokens == 0 ? 0 : N_TEXT - penalty_tokens; i < N_TEXT;
			i++)
			count += text[i] == v;
		if (count > 0)
			l = (l > 0 ? l / 1.3f : l * 1.3f) - 0.2f - (double)0.1f * count;
		logits[v] = (float)l;
		if (even && (v == 8 || v == 10))
			logits[v] = logits[v] / 2 - (float)v / 100;
		if (even && v % 2 == 1)
			logits[v] = -INFINITY;
	}
}

static void expect_exact_changes(bool even, uint32_t penalty_tokens, uint32_t k)
{
	static struct even context = {.ids = {10, 8, 9}};
	struct gpuq_sampling sampling = {.temperature = 0.9f,
		.top_p = 0.97f,
		.repetition_penalty = 1.3f,
		.presence_penalty = 0.2f,
		.frequency_penalty = 0.1f,
		.penalty_tokens = penalty_tokens,
		.n_biases = N_BIASES,
		.biases = biases,
		.seed = 77};
	struct rig_random random = {.state = 3};
	float logits[VOCABULARY], changed[VOCABULARY];
	uint32_t counts[VOCABULARY] = {0};
	double p[VOCABULARY];

	if (even)
		sampling.constraint = (struct gpuq_sampler_constraint){
			.rule = even_rule, .change = even_change, .context = &context};
	make_logits(&random, logits, VOCABULARY, 1.5);
	for (uint32_t v = 0; v < VOCABULARY; v++)
		logits[v] += 2;
	memcpy(changed, logits, sizeof(logits));
	change_plainly(changed, even, penalty_tokens);
	rig_probabilities(&sampling, changed, VOCABULARY, p);
	struct gpuq_sampler *s = rig_sampler(&sampling, VOCABULARY);
	for (uint32_t i = 0; i < N_TEXT; i++)
		assert_int_equal(gpuq_sampler_accept(s, text[i]), 0);
	for (uint32_t i = 0; i < DRAWS; i++) {
		double logprob;
		int64_t token = rig_draw(s, logits, VOCABULARY, k, &logprob);

		assert_in_range(token, 0, VOCABULARY - 1);
		assert_true(fabs(logprob - log(p[token])) < 1e-3);
		counts[token]++;
	}
	rig_expect_counts("changes", counts, DRAWS, p, VOCABULARY);
	gpuq_sampler_destroy(s);
}

static void test_changes(void **state)
{
	for (size_t i = 0; i < N_WAYS; i++) {
		expect_exact_changes(false, 0, ways[i]);
		expect_exact_changes(false, 3, ways[i]);
		expect_exact_changes(true, 0, ways[i]);
	}
}

/* --- Both ways give the same token ----------------------------------------------------------- */

#define LARGE 700 /* more tokens than can be named */

struct some {
	uint32_t n, n_ids;
	uint32_t allowed[RIG_VOCABULARY], ids[8];
};

static int some_rule(void *context, struct gpuq_sampler_rule *rule)
{
	struct some *some = context;

	rule->restricted = some->n > 0;
	rule->n_allowed = some->n;
	rule->allowed = some->allowed;
	rule->n_ids = some->n_ids;
	rule->ids = some->ids;
	return 0;
}

static int some_change(void *context, const uint32_t *ids, uint32_t n, float *logits)
{
	for (uint32_t i = 0; i < n; i++)
		logits[i] += (float)(ids[i] % 7) - 3;
	return 0;
}

/* Each thing is in a policy as often as not. */
static struct gpuq_sampling make_policy(
	struct rig_random *r, uint32_t n, struct gpuq_logit_bias *own, struct some *some)
{
	struct gpuq_sampling p = {.seed = rig_below(r, 1000), .biases = own};

	p.temperature = rig_below(r, 8) == 0 ? 0 : (float)exp(rig_uniform(r, -2, 1.5));
	p.top_k = rig_below(r, 3) == 0 ? 1 + rig_below(r, 80) : 0;
	p.top_p = rig_below(r, 3) == 0 ? (float)rig_uniform(r, 0.01, 0.999) : 0;
	p.min_p = rig_below(r, 3) == 0 ? (float)rig_uniform(r, 0.001, 0.3) : 0;
	p.typical_p = rig_below(r, 3) == 0 ? (float)rig_uniform(r, 0.01, 0.999) : 1;
	p.repetition_penalty = rig_below(r, 3) == 0 ? (float)rig_uniform(r, 0.7, 2) : 0;
	p.presence_penalty = rig_below(r, 3) == 0 ? (float)rig_uniform(r, -1, 2) : 0;
	p.penalty_tokens = rig_below(r, 6);
	p.n_biases = rig_below(r, 3) == 0 ? rig_below(r, 8) : 0;
	for (uint32_t i = 0; i < p.n_biases; i++)
		own[i] = (struct gpuq_logit_bias){
			rig_below(r, n), (float)rig_uniform(r, -8, rig_below(r, 2) == 0 ? 8 : 0)};
	some->n = rig_below(r, 3) == 0 ? 1 + rig_below(r, n) : 0;
	for (uint32_t i = 0; i < some->n; i++)
		some->allowed[i] = rig_below(r, n);
	some->n_ids = rig_below(r, 3) == 0 ? rig_below(r, 8) : 0;
	for (uint32_t i = 0; i < some->n_ids; i++)
		some->ids[i] = rig_below(r, n);
	p.constraint = (struct gpuq_sampler_constraint){
		.rule = some_rule, .change = some_change, .context = some};
	return p;
}

/* A row of any kind; far from zero the log-sum-exp has few digits behind the point. */
static void make_row(struct rig_random *r, float *logits, uint32_t n)
{
	static const float offsets[] = {0, 0, 30, -1000, 20000};
	const float offset = offsets[rig_below(r, 5)];

	make_logits(r, logits, n, exp(rig_uniform(r, -3, 2)));
	for (uint32_t v = 0; v < n; v++)
		logits[v] += offset;
	if (rig_below(r, 4) == 0)
		logits[rig_below(r, n)] = -INFINITY;
	if (rig_below(r, 20) == 0)
		logits[rig_below(r, n)] = NAN;
	if (rig_below(r, 20) == 0)
		logits[rig_below(r, n)] = INFINITY;
}

struct tally {
	uint32_t draws, full;
};

static void compare_ways(struct rig_random *r, struct tally *t)
{
	static float logits[LARGE];
	static struct rig_row row;
	static struct some some;
	struct gpuq_logit_bias own[8];
	const uint32_t n = 1 + rig_below(r, rig_below(r, 2) == 0 ? LARGE : 40);
	const struct gpuq_sampling policy = make_policy(r, n, own, &some);
	struct gpuq_sampler *a = rig_sampler(&policy, n), *b = rig_sampler(&policy, n);
	struct gpuq_sampler_want want;
	double logprob, full_logprob;

	for (int step = 0; step < 8; step++) {
		make_row(r, logits, n);
		assert_int_equal(gpuq_sampler_want(a, &want), 0);
		const int64_t expected = rig_draw_full(b, logits, &full_logprob);
		int64_t token = -EAGAIN;
		if (!want.full_row) {
			rig_row_make(&row, &want, logits, n, rig_below(r, 70),
				(double)rig_below(r, 3) - 1);
			token = gpuq_sampler_draw(a, &row.row, &logprob);
		}
		t->draws++;
		if (token == -EAGAIN) {
			t->full++;
			token = rig_draw_full(a, logits, &logprob);
		}
		assert_int_equal(token, expected);
		if (token < 0) {
			assert_int_equal(token, -ENODATA);
			continue;
		}
		assert_true(isnan(logprob) || fabs(logprob - full_logprob) < 1e-3);
		const uint32_t next = rig_below(r, 2) == 0 ? (uint32_t)token : rig_below(r, n);
		assert_int_equal(gpuq_sampler_accept(a, next), 0);
		assert_int_equal(gpuq_sampler_accept(b, next), 0);
	}
	gpuq_sampler_destroy(a);
	gpuq_sampler_destroy(b);
}

static void test_both_ways_give_the_same(void **state)
{
	struct rig_random random = {.state = 5};
	struct tally tally = {0};
	const int rounds = harness_long() ? 100000 : 2000;

	for (int i = 0; i < rounds; i++)
		compare_ways(&random, &tally);
	print_message("%u of %u draws needed the full row\n", tally.full, tally.draws);
	/* Or nothing was compared. */
	assert_true(tally.full > tally.draws / 20 && tally.full < tally.draws / 2);
}

/* --- The full row against the header's words ------------------------------------------------- */

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

/* Sum of p of the tokens that come before this one: with a greater logit, or the same and less. */
static double mass_before(const float *logits, const double *p, uint32_t n, uint32_t token)
{
	double sum = 0;

	for (uint32_t v = 0; v < n; v++)
		if (logits[v] > logits[token] || (logits[v] == logits[token] && v < token))
			sum += p[v];
	return sum;
}

static void expect_promised_draws(struct rig_random *r)
{
	static float logits[LARGE];
	static double p[LARGE];
	static struct some nothing;
	struct gpuq_logit_bias own[8];
	const uint32_t n = 1 + rig_below(r, LARGE);
	struct gpuq_sampling policy = make_policy(r, n, own, &nothing);

	policy.n_biases = 0;
	policy.constraint = (struct gpuq_sampler_constraint){0};
	policy.repetition_penalty = policy.presence_penalty = 0;
	policy.temperature += policy.temperature == 0;
	struct gpuq_sampler *s = rig_sampler(&policy, n);
	make_logits(r, logits, n, exp(rig_uniform(r, -3, 2)));
	rig_probabilities(&policy, logits, n, p);
	for (uint64_t draw = 0; draw < 8; draw++) {
		const uint64_t bits = mix(mix(policy.seed) + (draw + 1) * 0x9e3779b97f4a7c15u);
		const double u = (double)(bits >> 11) * 0x1p-53;
		double logprob;
		const int64_t token = rig_draw_full(s, logits, &logprob);

		assert_in_range(token, 0, n - 1);
		const double before = mass_before(logits, p, n, (uint32_t)token);
		assert_true(p[token] > 0 && before <= u + 1e-9 && before + p[token] > u - 1e-9);
		assert_true(fabs(logprob - log(p[token])) < 1e-3);
	}
	gpuq_sampler_destroy(s);
}

static void test_full_rows_give_what_is_promised(void **state)
{
	struct rig_random random = {.state = 21};

	for (int i = 0; i < 1500; i++)
		expect_promised_draws(&random);
}

/* --- What is typical ------------------------------------------------------------------------- */

/*
 * What is typical hangs on a mean that the candidates tell by the entropy only: many draws where
 * that has few digits, and where a part of the tail is forbidden, so that it does not tell.
 */
static void compare_typical(struct rig_random *r, struct tally *t, struct some *some)
{
	static float logits[LARGE];
	static struct rig_row row;
	const struct gpuq_sampling policy = {.temperature = 1,
		.typical_p = (float)rig_uniform(r, 0.01, 0.9),
		.constraint = {.rule = some_rule, .context = some},
		.seed = rig_below(r, 1000)};
	struct gpuq_sampler *a = rig_sampler(&policy, LARGE), *b = rig_sampler(&policy, LARGE);
	struct gpuq_sampler_want want;

	make_logits(r, logits, LARGE, rig_uniform(r, 8, 60));
	for (uint32_t v = 0; v < LARGE; v++)
		logits[v] += some->n > 0 ? 0 : 2000;
	assert_int_equal(gpuq_sampler_want(a, &want), 0);
	rig_row_make(&row, &want, logits, LARGE, 64, (double)rig_below(r, 3) - 1);
	for (int i = 0; i < 10; i++) {
		int64_t token = gpuq_sampler_draw(a, &row.row, NULL);

		t->draws++;
		if (token == -EAGAIN) {
			t->full++;
			token = rig_draw_full(a, logits, NULL);
		}
		assert_int_equal(token, rig_draw_full(b, logits, NULL));
	}
	gpuq_sampler_destroy(a);
	gpuq_sampler_destroy(b);
}

static void test_typical_gives_the_same(void **state)
{
	static struct some some;
	struct rig_random random = {.state = 8};
	struct tally tally = {0};

	for (int i = 0; i < 1000; i++) {
		some.n = i % 4 == 0 ? 600 : 0;
		for (uint32_t k = 0; k < some.n; k++)
			some.allowed[k] = rig_below(&random, LARGE);
		compare_typical(&random, &tally, &some);
	}
	print_message("%u of %u draws needed the full row\n", tally.full, tally.draws);
	assert_true(tally.full < tally.draws / 4 * 3);
}

/* --- At the very edge ------------------------------------------------------------------------ */

static double mean_of(const float *logits, uint32_t n)
{
	double moment = 0, sum = 0;

	for (uint32_t v = 0; v < n; v++) {
		moment += exp(logits[v]) * logits[v];
		sum += exp(logits[v]);
	}
	return moment / sum;
}

/*
 * Two tokens with the mean between them, of which the one above is nearer by 5e-6 (side: -1) or the
 * one below (1). The row is so flat that its entropy may be off by more than that, and by more than
 * what its log-sum-exp may be off makes up for.
 */
static void make_undecided(float *logits, int side)
{
	for (uint32_t v = 0; v < LARGE; v++)
		logits[v] = v < 61 ? 0.05f : -0.005f;
	logits[61] = logits[62] = 0;
	/* The two are part of the mean, but a small one. */
	for (int i = 0; i < 5; i++) {
		const double mean = mean_of(logits, LARGE);

		logits[61] = (float)(mean + 0.002);
		logits[62] = (float)(mean - 0.002 + side * 5e-6);
	}
}

/* Such an entropy fits the one and the other, so the candidates do not tell. */
static void test_typical_is_left_open_where_the_entropy_is(void **state)
{
	const struct gpuq_sampling policy = {.temperature = 1, .typical_p = 0.001f};
	static struct rig_row row;
	float logits[LARGE];

	for (int side = -1; side <= 1; side += 2) {
		struct gpuq_sampler *s = rig_sampler(&policy, LARGE);
		struct gpuq_sampler_want want;

		make_undecided(logits, side);
		assert_int_equal(gpuq_sampler_want(s, &want), 0);
		rig_row_make(&row, &want, logits, LARGE, 64, -side);
		assert_int_equal(gpuq_sampler_draw(s, &row.row, NULL), -EAGAIN);
		assert_int_equal(rig_draw_full(s, logits, NULL), side < 0 ? 61 : 62);
		gpuq_sampler_destroy(s);
	}
}

/* The number of which mix() makes this one. */
static uint64_t unmix(uint64_t y)
{
	uint64_t x = (y ^ y >> 31 ^ y >> 62) * 0x319642b2d24d8ec3u;

	x = (x ^ x >> 27 ^ x >> 54) * 0x96de1b173f119089u;
	x = x ^ x >> 30 ^ x >> 60;
	assert_true(mix(x) == y);
	return x;
}

static int by_greatest(const void *a, const void *b)
{
	const float x = *(const float *)a, y = *(const float *)b;

	return (x < y) - (x > y);
}

/* The random number, in units of 2^-53, at which one token takes over from another. */
static uint64_t middle_of(const float *logits)
{
	float sorted[VOCABULARY];
	double total = 0, sum = 0;

	memcpy(sorted, logits, sizeof(sorted));
	qsort(sorted, VOCABULARY, sizeof(*sorted), by_greatest);
	for (uint32_t v = 0; v < VOCABULARY; v++)
		total += exp((double)sorted[v] - sorted[0]);
	for (uint32_t v = 0; sum < total / 2; v++)
		sum += exp((double)sorted[v] - sorted[0]);
	return (uint64_t)(sum / total * 0x1p53);
}

/* There the last bit of a total decides, and that hangs on the order in which it was summed. */
static void test_the_order_of_a_sum_does_not_matter(void **state)
{
	struct rig_random random = {.state = 4};
	float logits[VOCABULARY];

	for (int i = 0; i < 500; i++) {
		make_logits(&random, logits, VOCABULARY, 2);
		const uint64_t middle = middle_of(logits);
		for (uint64_t at = middle - 2; at <= middle + 2; at++) {
			const struct gpuq_sampling policy = {.temperature = 1,
				.seed = unmix(unmix(at << 11) - 0x9e3779b97f4a7c15u)};
			struct gpuq_sampler *a = rig_sampler(&policy, VOCABULARY),
					    *b = rig_sampler(&policy, VOCABULARY);

			assert_int_equal(rig_draw(a, logits, VOCABULARY, VOCABULARY, NULL),
				rig_draw_full(b, logits, NULL));
			gpuq_sampler_destroy(a);
			gpuq_sampler_destroy(b);
		}
	}
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_temperatures),
		HARNESS_TEST(test_single_cuts),
		HARNESS_TEST(test_several_cuts),
		HARNESS_TEST(test_changes),
		HARNESS_TEST(test_both_ways_give_the_same),
		HARNESS_TEST(test_full_rows_give_what_is_promised),
		HARNESS_TEST(test_typical_gives_the_same),
		HARNESS_TEST(test_typical_is_left_open_where_the_entropy_is),
		HARNESS_TEST(test_the_order_of_a_sum_does_not_matter),
	};

	return harness_run("text-sampler-exact", tests, sizeof(tests) / sizeof(tests[0]));
}
