/* SPDX-License-Identifier: MIT */
/*
 * sampler_row.c: the most likely tokens in order, with their weights, from the full row.
 *
 * Few tokens of a large vocabulary matter to a draw, so not all are put in order: one pass weighs
 * them and counts them by depth, which is how far the logarithm of their weight lies below the
 * greatest. That tells how deep the draw goes, and only what is above is sorted. Such a head of
 * the row is a list that is not complete: its total is an interval, because the weights were not
 * added in the list's order. Where that is not enough, all of the row is sorted.
 */
#include "client/text/sampler.h"

#include <stdlib.h>

#define PIECE 256u
#define DEPTHS 1024u
#define DEPTHS_PER_UNIT 16.0 /* of log weight */

/* Tokens by depth; the last has all that lie deeper. */
struct profile {
	uint32_t counts[DEPTHS];
	double masses[DEPTHS];
	double total;
	double moment; /* of depth in units of log weight, at least 0 */
};

/* --- The row after the policy's changes ------------------------------------------------------ */

static int reserve_row(struct gpuq_sampler *s)
{
	int r = list_reserve(s, s->vocabulary);

	if (r < 0)
		return r;
	if (s->spare == NULL)
		s->spare = malloc(s->vocabulary * sizeof(*s->spare));
	if (s->row == NULL)
		s->row = malloc(s->vocabulary * sizeof(*s->row));
	return s->spare == NULL || s->row == NULL ? text_no_memory() : 0;
}

static void forbid(struct gpuq_sampler *s)
{
	for (uint32_t id = 0; id < s->vocabulary; id++)
		if (!plan_allows(&s->plan, id))
			s->row[id] = -INFINITY;
}

/* As logit_clean(); for a float there is no more to do, and many of them are done at once. */
static float clean(float x)
{
	const float number = x > FLT_MAX ? FLT_MAX : x;

	return (number == number ? number : -INFINITY) + 0.0f;
}

/* In LANES that do not wait for each other. */
#define LANES 16u
static float greatest_of(const float *row, uint32_t n)
{
	float lanes[LANES], greatest = -INFINITY;
	uint32_t at = 0;

	for (uint32_t i = 0; i < LANES; i++)
		lanes[i] = -INFINITY;
	for (; n - at >= LANES; at += LANES)
		for (uint32_t i = 0; i < LANES; i++)
			lanes[i] = row[at + i] > lanes[i] ? row[at + i] : lanes[i];
	for (uint32_t i = 0; i < LANES; i++)
		greatest = fmaxf(greatest, lanes[i]);
	for (; at < n; at++)
		greatest = fmaxf(greatest, row[at]);
	return greatest;
}

int list_start_row(struct gpuq_sampler *s, const float *logits)
{
	struct plan *p = &s->plan;
	int r = reserve_row(s);

	if (r < 0)
		return r;
	for (size_t i = 0; i < p->ids.n; i++)
		p->raw[i] = logits[p->ids.data[i]];
	r = plan_apply(s);
	if (r < 0)
		return r;
	for (uint32_t id = 0; id < s->vocabulary; id++)
		s->row[id] = clean(logits[id]);
	for (size_t i = 0; i < p->ids.n; i++)
		s->row[p->ids.data[i]] = p->logits[i];
	if (p->restricted)
		forbid(s);
	s->n_row = 0;
	for (uint32_t id = 0; id < s->vocabulary; id++)
		s->n_row += s->row[id] > -INFINITY;
	list_scale(s, greatest_of(s->row, s->vocabulary));
	return 0;
}

/* --- How deep a draw goes -------------------------------------------------------------------- */

static uint32_t depth_of(double below)
{
	const double depth = below * DEPTHS_PER_UNIT;

	return depth < DEPTHS - 1 ? (uint32_t)depth : DEPTHS - 1;
}

static void count(const struct gpuq_sampler *s, struct profile *ret_profile)
{
	const double greatest = s->list.greatest, scale = 1 / s->list.temperature;

	for (uint32_t id = 0; id < s->vocabulary; id++)
		ret_profile->counts[depth_of((greatest - s->row[id]) * scale)]++;
}

/* A piece of the row at a time, so that what can be done to many numbers at once is. */
static void weigh_piece(const struct list *l, const float *row, uint32_t n, struct profile *profile)
{
	double below[PIECE], weights[PIECE], moment = 0;

	for (uint32_t i = 0; i < n; i++)
		below[i] = -list_log_weight(l, row[i]);
	for (uint32_t i = 0; i < n; i++)
		weights[i] = exp(-below[i]);
	for (uint32_t i = 0; i < n; i++) {
		profile->masses[depth_of(below[i])] += weights[i];
		moment += weights[i] > 0 ? weights[i] * below[i] : 0;
	}
	profile->moment += moment;
}

static void weigh(const struct gpuq_sampler *s, struct profile *ret_profile)
{
	uint32_t n;

	for (uint32_t at = 0; at < s->vocabulary; at += n) {
		n = s->vocabulary - at < PIECE ? s->vocabulary - at : PIECE;
		weigh_piece(&s->list, s->row + at, n, ret_profile);
	}
	for (uint32_t depth = 0; depth < DEPTHS; depth++)
		ret_profile->total += ret_profile->masses[depth];
}

/* At which the tokens from the greatest on are at least so many. */
static uint32_t depth_of_count(const struct profile *f, uint64_t wanted)
{
	uint32_t depth = 0;

	for (uint64_t n = f->counts[0]; n < wanted && depth < DEPTHS - 1;)
		n += f->counts[++depth];
	return depth;
}

static uint32_t depth_of_mass(const struct profile *f, double share)
{
	uint32_t depth = 0;

	for (double sum = f->masses[0]; sum <= share * f->total && depth < DEPTHS - 1;)
		sum += f->masses[++depth];
	return depth;
}

/* The first cut decides: what comes after it sees no more than it has left. */
static uint32_t depth_needed(const struct gpuq_sampling *p, const struct profile *f, double u)
{
	if (p->temperature == 0)
		return 0;
	if (p->top_k > 0)
		return depth_of_count(f, p->top_k);
	if (policy_cuts(p->top_p))
		return depth_of_mass(f, p->top_p);
	if (p->min_p > 0)
		return depth_of(-log(p->min_p)) + 1;
	if (policy_cuts(p->typical_p)) {
		/* As far below the mean as the greatest is above it; then down to the mass. */
		const uint32_t mirror = depth_of(2 * f->moment / f->total) + 1;
		const uint32_t mass = depth_of_mass(f, p->typical_p) + 1;

		return mass > mirror ? mass : mirror;
	}
	return depth_of_mass(f, u);
}

/* --- Its head and all of it ------------------------------------------------------------------ */

/* Sorts by the upper halves, byte by byte; equal ones keep their order. */
static void sort_keys(uint64_t *keys, uint64_t *spare, size_t n)
{
	for (int shift = 32; shift < 64; shift += 8) {
		uint32_t starts[256] = {0}, at = 0;

		for (size_t i = 0; i < n; i++)
			starts[keys[i] >> shift & 255]++;
		for (size_t d = 0; d < 256; d++) {
			const uint32_t n_digit = starts[d];

			starts[d] = at;
			at += n_digit;
		}
		for (size_t i = 0; i < n; i++)
			spare[starts[keys[i] >> shift & 255]++] = keys[i];
		uint64_t *sorted = spare;
		spare = keys;
		keys = sorted;
	}
}

/* A list of all that have at least this logit. */
static int list_of_greatest(struct gpuq_sampler *s, double least)
{
	float rest = -INFINITY;
	size_t n = 0;

	for (uint32_t id = 0; id < s->vocabulary; id++) {
		const float logit = s->row[id];

		if (logit >= least && logit > -INFINITY)
			s->keys[n++] = list_key(logit, id);
		else
			rest = logit > rest ? logit : rest;
	}
	sort_keys(s->keys, s->spare, n);
	s->list.rest = rest;
	return list_make(s, n);
}

int list_of_row(struct gpuq_sampler *s)
{
	return list_of_greatest(s, -INFINITY);
}

/* The list is only the head of the row, which weighs so much in all. */
static void leave_open(struct gpuq_sampler *s, const struct profile *f)
{
	const double error = 2 * list_sum_error(s), mean = -f->moment / f->total;
	struct list *l = &s->list;

	l->complete = false;
	l->total.lo = f->total * (1 - error);
	l->total.hi = f->total * (1 + error);
	l->mean.lo = mean * (1 + error);
	l->mean.hi = mean * (1 - error);
}

/* Whether the first cut looks only at the tokens that it leaves, whatever all of them weigh. */
static bool cut_is_weightless(const struct gpuq_sampling *p)
{
	return p->temperature > 0 && (p->top_k > 0 || (p->min_p > 0 && !policy_cuts(p->top_p)));
}

int list_of_head(struct gpuq_sampler *s, double u)
{
	struct list *l = &s->list;
	struct profile f = {.total = 0};

	if (s->n_row == 0)
		return list_make(s, 0);
	if (cut_is_weightless(&s->policy))
		count(s, &f);
	else
		weigh(s, &f);
	const uint32_t depth = depth_needed(&s->policy, &f, u);
	if (depth >= DEPTHS - 1)
		return list_of_row(s);
	int r = list_of_greatest(s, l->greatest - (depth + 1) / DEPTHS_PER_UNIT * l->temperature);
	if (r == 0 && l->n < s->n_row)
		leave_open(s, &f);
	return r;
}
