/* SPDX-License-Identifier: MIT */
/* sampler-rig.c: see sampler-rig.h. */
#include "tests/text/sampler-rig.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

uint32_t rig_below(struct rig_random *r, uint32_t n)
{
	r->state = r->state * 1664525u + 1013904223u;
	return (uint32_t)((uint64_t)r->state * n >> 32);
}

double rig_uniform(struct rig_random *r, double low, double high)
{
	return low + (high - low) * rig_below(r, 1u << 24) / (1u << 24);
}

/* --- Rows ------------------------------------------------------------------------------------ */

struct token {
	uint32_t id;
	double logit, p, distance;
};

static int by_logit(const void *a, const void *b)
{
	const struct token *x = a, *y = b;

	if (x->logit != y->logit)
		return x->logit < y->logit ? 1 : -1;
	return x->id < y->id ? -1 : 1;
}

static void sort_tokens(const float *logits, uint32_t n, struct token *ret_tokens)
{
	for (uint32_t v = 0; v < n; v++)
		ret_tokens[v] = (struct token){
			.id = v, .logit = isnan(logits[v]) ? -INFINITY : (double)logits[v]};
	qsort(ret_tokens, n, sizeof(*ret_tokens), by_logit);
}

/* As the reference of step_result does it: NaN where the row has a NaN or a +inf. */
static void make_stats(
	struct gpuq_row *row, const float *logits, uint32_t n, double t, double error)
{
	double greatest = -INFINITY, sum = 0, moment = 0, second = 0;

	for (uint32_t v = 0; v < n; v++)
		greatest = fmax(greatest, logits[v]);
	for (uint32_t v = 0; v < n; v++) {
		const double x = (logits[v] - greatest) / t, w = exp(x);

		sum += w;
		moment += logits[v] == -INFINITY ? 0 : w * x;
		second += logits[v] == -INFINITY ? 0 : w * x * x;
	}
	const double lse = greatest / t + log(sum), entropy = log(sum) - moment / sum;
	row->lse = (float)(lse + error * (5e-6 + 4e-7 * fabs(moment / sum) + 1.4e-7 * fabs(lse)));
	row->entropy = (float)(entropy + error * (4e-6 * (1 + entropy) + 4e-7 * second / sum));
}

void rig_row_make(struct rig_row *r, const struct gpuq_sampler_want *want, const float *logits,
	uint32_t vocabulary, uint32_t k, double error)
{
	static struct token tokens[RIG_VOCABULARY];

	r->row = (struct gpuq_row){.n_candidates = k < want->n_candidates ? k : want->n_candidates,
		.tokens = r->tokens,
		.values = r->values,
		.named = r->named};
	sort_tokens(logits, vocabulary, tokens);
	for (uint32_t i = 0; i < r->row.n_candidates; i++) {
		r->tokens[i] = (int32_t)tokens[i].id;
		r->values[i] = (float)tokens[i].logit;
	}
	for (uint32_t i = 0; i < want->n_ids; i++)
		r->named[i] = logits[want->ids[i]];
	make_stats(&r->row, logits, vocabulary, want->temperature, error);
}

/* --- Draws ----------------------------------------------------------------------------------- */

struct gpuq_sampler *rig_sampler(const struct gpuq_sampling *sampling, uint32_t vocabulary)
{
	struct gpuq_sampler *s;

	assert_int_equal(gpuq_sampler_create(sampling, vocabulary, &s), 0);
	return s;
}

int64_t rig_draw_full(struct gpuq_sampler *s, const float *logits, double *ret_logprob)
{
	const struct gpuq_row row = {.logits = logits};

	return gpuq_sampler_draw(s, &row, ret_logprob);
}

int64_t rig_draw(struct gpuq_sampler *s, const float *logits, uint32_t vocabulary, uint32_t k,
	double *ret_logprob)
{
	struct gpuq_sampler_want want;
	static struct rig_row r;
	int64_t token = -EAGAIN;

	assert_int_equal(gpuq_sampler_want(s, &want), 0);
	if (!want.full_row) {
		rig_row_make(&r, &want, logits, vocabulary, k, 0);
		token = gpuq_sampler_draw(s, &r.row, ret_logprob);
	}
	return token == -EAGAIN ? rig_draw_full(s, logits, ret_logprob) : token;
}

/* --- Probabilities --------------------------------------------------------------------------- */

/* Keeps the first n, which sum to 1 then. */
static uint32_t keep(struct token *tokens, uint32_t n)
{
	double sum = 0;

	for (uint32_t i = 0; i < n; i++)
		sum += tokens[i].p;
	for (uint32_t i = 0; i < n; i++)
		tokens[i].p /= sum;
	return n;
}

/* How many of the first have a sum of at least `wanted`. */
static uint32_t count_until(const struct token *tokens, uint32_t n, double wanted)
{
	uint32_t i = 0;

	for (double sum = 0; i < n && sum < wanted; i++)
		sum += tokens[i].p;
	return i;
}

static int by_distance(const void *a, const void *b)
{
	const struct token *x = a, *y = b;

	if (x->distance != y->distance)
		return x->distance < y->distance ? -1 : 1;
	return by_logit(a, b);
}

static uint32_t keep_typical(struct token *tokens, uint32_t n, double wanted)
{
	double entropy = 0;
	uint32_t kept;

	for (uint32_t i = 0; i < n; i++)
		entropy -= tokens[i].p > 0 ? tokens[i].p * log(tokens[i].p) : 0;
	for (uint32_t i = 0; i < n; i++)
		tokens[i].distance = fabs(-log(tokens[i].p) - entropy);
	qsort(tokens, n, sizeof(*tokens), by_distance);
	kept = count_until(tokens, n, wanted);
	while (kept < n && tokens[kept].logit == tokens[kept - 1].logit)
		kept++;
	return keep(tokens, kept);
}

void rig_probabilities(const struct gpuq_sampling *sampling, const float *logits,
	uint32_t vocabulary, double *ret_p)
{
	static struct token tokens[RIG_VOCABULARY];
	uint32_t n = 0;

	sort_tokens(logits, vocabulary, tokens);
	for (; n < vocabulary && tokens[n].logit > -INFINITY; n++)
		tokens[n].p = exp((tokens[n].logit - tokens[0].logit) / sampling->temperature);
	keep(tokens, n);
	if (sampling->top_k > 0 && sampling->top_k < n)
		n = keep(tokens, sampling->top_k);
	if (sampling->top_p > 0 && sampling->top_p < 1)
		n = keep(tokens, count_until(tokens, n, sampling->top_p));
	while (sampling->min_p > 0 && tokens[n - 1].p < sampling->min_p * tokens[0].p)
		n--;
	keep(tokens, n);
	if (sampling->typical_p > 0 && sampling->typical_p < 1)
		n = keep_typical(tokens, n, sampling->typical_p);
	for (uint32_t v = 0; v < vocabulary; v++)
		ret_p[v] = 0;
	for (uint32_t i = 0; i < n; i++)
		ret_p[tokens[i].id] = tokens[i].p;
}

/* Bins of fewer than 5 expected draws are put together. */
static double chi_squared(const uint32_t *counts, uint32_t n, const double *p, uint32_t vocabulary,
	uint32_t *ret_bins)
{
	double few_expected = 0, few = 0, sum = 0;

	*ret_bins = 0;
	for (uint32_t v = 0; v < vocabulary; v++) {
		const double expected = n * p[v];

		if (expected < 5) {
			few_expected += expected;
			few += counts[v];
			continue;
		}
		sum += (counts[v] - expected) * (counts[v] - expected) / expected;
		++*ret_bins;
	}
	if (few_expected > 0) {
		const double least = fmax(few_expected, 1);

		sum += (few - few_expected) * (few - few_expected) / least;
		++*ret_bins;
	}
	return sum;
}

void rig_expect_counts(
	const char *what, const uint32_t *counts, uint32_t n, const double *p, uint32_t vocabulary)
{
	uint32_t bins;

	for (uint32_t v = 0; v < vocabulary; v++)
		if (p[v] == 0 && counts[v] > 0)
			fail_msg("%s: token %u was drawn %u times", what, v, counts[v]);
	const double chi = chi_squared(counts, n, p, vocabulary, &bins);
	if (bins < 2)
		return;
	/* Wilson and Hilferty's normal approximation of the quantile, at four deviations. */
	const double k = bins - 1, a = 2 / (9 * k), root = 1 - a + 4 * sqrt(a);
	if (chi > k * root * root * root)
		fail_msg("%s: chi-squared is %g with %u bins", what, chi, bins);
}
