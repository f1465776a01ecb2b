/* SPDX-License-Identifier: MIT */
/*
 * sampler-rig.h: rows as a step gives them, the probabilities that a policy gives to tokens, told
 * by the plainest means, and whether draws follow them.
 */
#ifndef GPUQ_TESTS_TEXT_SAMPLER_RIG_H
#define GPUQ_TESTS_TEXT_SAMPLER_RIG_H

#include "tests/text/rig.h"

#define RIG_VOCABULARY 1024 /* at most */
#define RIG_NAMED 256

/* A source of numbers that has nothing to do with the sampler's. */
struct rig_random {
	uint32_t state;
};

uint32_t rig_below(struct rig_random *r, uint32_t n);
double rig_uniform(struct rig_random *r, double low, double high);

/* What a step gives of logits. */
struct rig_row {
	struct gpuq_row row;
	int32_t tokens[RIG_VOCABULARY];
	float values[RIG_VOCABULARY];
	float named[RIG_NAMED];
};

/*
 * At most k candidates, fewer where the sampler wants fewer. `error`, from -1 to 1: how far log-sum
 * -exp and entropy are off, as a share of what the operator step_result allows itself.
 */
void rig_row_make(struct rig_row *r, const struct gpuq_sampler_want *want, const float *logits,
	uint32_t vocabulary, uint32_t k, double error);

struct gpuq_sampler *rig_sampler(const struct gpuq_sampling *sampling, uint32_t vocabulary);

/* A draw from k candidates, and from the full row where that is needed. */
int64_t rig_draw(struct gpuq_sampler *s, const float *logits, uint32_t vocabulary, uint32_t k,
	double *ret_logprob);

/* A draw from the full row. */
int64_t rig_draw_full(struct gpuq_sampler *s, const float *logits, double *ret_logprob);

/*
 * The probability of each token under the cuts of a policy (temperature and below), in the order
 * in which gpuq-text.h lists them; logits[v] = -inf is forbidden, none is NaN or +inf.
 */
void rig_probabilities(const struct gpuq_sampling *sampling, const float *logits,
	uint32_t vocabulary, double *ret_p);

/*
 * Fails unless counts, n in all, may have come from the probabilities: none where p is 0, and a
 * chi-squared of which a value so high comes once in some 30,000 times.
 */
void rig_expect_counts(
	const char *what, const uint32_t *counts, uint32_t n, const double *p, uint32_t vocabulary);

#endif
