/* SPDX-License-Identifier: MIT */
/*
 * score.c: scores price vectors, one day of all assets with each request, and checks every score.
 *
 *	score PRICES.csv WEIGHTS.csv [SECONDS]
 */
#include "example.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Lines of a day follow each other and begin with it: "2024-03-04,ABC". */
static uint64_t count_assets(const struct table *prices)
{
	size_t day = strcspn(prices->names[0], ",");
	uint64_t n = 1;

	while (n < prices->rows && strncmp(prices->names[n], prices->names[0], day) == 0)
		n++;
	return n;
}

/* The greatest distance from the score as plain C computes it, in parts of its terms' sum. */
static double greatest_error(const float *scores, const float *prices, const float *weights,
	uint64_t n_assets, uint64_t n_features)
{
	double greatest = 0;

	for (uint64_t a = 0; a < n_assets; a++) {
		double sum = 0, sum_abs = 1e-30;
		for (uint64_t f = 0; f < n_features; f++) {
			double term = (double)prices[a * n_features + f] * weights[f];
			sum += term;
			sum_abs += fabs(term);
		}
		greatest = fmax(greatest, fabs(scores[a] - sum) / sum_abs);
	}
	return greatest;
}

static void print_best(const struct table *prices, const float *scores, uint64_t n_assets)
{
	uint64_t best = 0, worst = 0;

	for (uint64_t a = 1; a < n_assets; a++) {
		best = scores[a] > scores[best] ? a : best;
		worst = scores[a] < scores[worst] ? a : worst;
	}
	char(*names)[32] = prices->names + prices->rows - n_assets;
	printf("score: best of the last day %s (%+.4f), worst %s (%+.4f)\n", names[best],
		scores[best], names[worst], scores[worst]);
}

int main(int argc, char **argv)
{
	struct latencies latencies = {0};
	struct gpuq *g;
	struct gpuq_channel *ch;
	struct gpuq_call *call;
	double error = 0;

	if (argc < 3)
		die("usage: score PRICES.csv WEIGHTS.csv [SECONDS]");
	double seconds = argc > 3 ? strtod(argv[3], NULL) : 1;
	struct table prices = read_csv(argv[1], 2), weights = read_csv(argv[2], 1);
	uint64_t n_features = prices.columns;
	uint64_t n_assets = count_assets(&prices), n_days = prices.rows / n_assets;
	if (weights.columns != n_features || n_days * n_assets != prices.rows)
		die("%s and %s do not fit each other", argv[1], argv[2]);

	if (gpuq_connect(NULL, &g) < 0 || gpuq_channel_open(g, NULL, &ch) < 0)
		die("%s", gpuq_error_detail());
	float *p = arena_floats(ch, n_assets * n_features);
	float *w = arena_floats(ch, n_features), *scores = arena_floats(ch, n_assets);
	struct gpuq_tensor in[] = {tensor(p, n_assets, n_features), tensor(w, n_features, 0)};
	struct gpuq_tensor out = tensor(scores, 1, n_assets);
	in[0].rank = 3; /* [1, assets, features]: a batch of one day */
	in[0].dims[0] = 1, in[0].dims[1] = n_assets, in[0].dims[2] = n_features;
	if (gpuq_call_create(ch, "price_vectors", in, 2, &out, 1, NULL, 0, &call) < 0)
		die("%s", gpuq_error_detail());
	memcpy(w, weights.values, n_features * sizeof(float));

	uint64_t begin = now_ns(), end = begin + (uint64_t)(seconds * 1e9), now = begin;
	for (uint64_t i = 0; now < end || i % n_days != 0; i++) {
		const float *day = (float *)prices.values + i % n_days * n_assets * n_features;
		memcpy(p, day, n_assets * n_features * sizeof(float));
		uint64_t start = now_ns();
		run(ch, call);
		now = now_ns();
		latencies_add(&latencies, now - start);
		error = fmax(error, greatest_error(scores, day, w, n_assets, n_features));
		if (error > 1e-5)
			die("request %ju is wrong by %g", (uintmax_t)i, error);
	}

	printf("score: %ju days of %ju assets with %ju features; all right, error at most %.1e\n",
		(uintmax_t)n_days, (uintmax_t)n_assets, (uintmax_t)n_features, error);
	print_best(&prices, scores, n_assets);
	latencies_print(&latencies, "score", (double)(now - begin) / 1e9);
	gpuq_disconnect(g);
	free(prices.names);
	free(prices.values);
	free(weights.names);
	free(weights.values);
	return 0;
}
