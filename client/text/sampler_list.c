/* SPDX-License-Identifier: MIT */
/*
 * sampler_list.c: the most likely tokens in order, with their weights, from a step's candidates.
 * (From the full row: sampler_row.c.)
 *
 * The list ends where a token that the candidates do not have might come next, and the total is an
 * interval: of the tokens whose logits are not known there are at most so many, each with at most
 * the last candidate's weight; and together they weigh what the log-sum-exp says of all less what
 * the known ones weighed before the policy changed them. Where that difference has lost its digits
 * the interval is wide, and the full row decides.
 */
#include "client/text/sampler.h"

#include <stdlib.h>

/* --- What all ways share --------------------------------------------------------------------- */

static struct entry entry_of(uint64_t key)
{
	uint32_t bits = (uint32_t)(key >> 32);
	struct entry e = {.id = (uint32_t)key};

	bits ^= (bits >> 31) != 0 ? 0 : UINT32_MAX >> 1;
	memcpy(&e.logit, &bits, sizeof(bits));
	return e;
}

static int compare_keys(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

int list_reserve(struct gpuq_sampler *s, size_t room)
{
	if (room <= s->room)
		return 0;
	s->room = 0;
	free(s->keys);
	free(s->list.entries);
	s->keys = malloc(room * sizeof(*s->keys));
	s->list.entries = malloc(room * sizeof(*s->list.entries));
	if (s->keys == NULL || s->list.entries == NULL)
		return text_no_memory();
	s->room = room;
	return 0;
}

void list_cut(struct list *l, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += l->entries[i].weight;
	l->n = n;
	l->complete = true;
	l->total = (struct interval){.lo = sum, .hi = sum};
}

int list_make(struct gpuq_sampler *s, size_t n)
{
	struct list *l = &s->list;

	if (n == 0)
		return text_fail(-ENODATA, "the policy leaves no token that could come next");
	for (size_t i = 0; i < n; i++)
		l->entries[i] = entry_of(s->keys[i]);
	list_scale(s, l->entries[0].logit);
	for (size_t i = 0; i < n; i++)
		l->entries[i].weight = list_weight(l, l->entries[i].logit);
	l->first = 0;
	list_cut(l, n);
	return 0;
}

/* --- Candidates ------------------------------------------------------------------------------ */

/* Sums over the tokens whose logits are known, with the weights from before the changes. */
struct known {
	uint32_t allowed; /* how many of them may be drawn */
	double sum, moment;
};

static int check_row(const struct gpuq_sampler *s, const struct gpuq_row *row)
{
	if (row->named == NULL && s->plan.ids.n > 0)
		return text_fail(-EINVAL, "the row lacks the logits of the ids that were wanted");
	if (row->n_candidates > s->vocabulary)
		return text_fail(-EINVAL, "the row has more candidates than the vocabulary");
	for (uint32_t i = 0; i < row->n_candidates; i++) {
		if (row->tokens[i] < 0 || (uint32_t)row->tokens[i] >= s->vocabulary)
			return text_fail(-EINVAL,
				"the row has the candidate %d, outside the vocabulary",
				row->tokens[i]);
		if (!(i == 0 || row->values[i] <= row->values[i - 1]))
			return text_fail(-EINVAL, "the row's candidates do not descend");
	}
	return 0;
}

/* The keys of all known tokens that may be drawn; returns how many. */
static size_t take_keys(struct gpuq_sampler *s, const struct gpuq_row *row)
{
	struct plan *p = &s->plan;
	size_t n = 0;

	for (size_t i = 0; i < p->ids.n; i++) {
		p->changes[i].among = false;
		if (p->logits[i] > -INFINITY)
			s->keys[n++] = list_key(p->logits[i], p->ids.data[i]);
	}
	for (uint32_t i = 0; i < row->n_candidates; i++) {
		const uint32_t id = (uint32_t)row->tokens[i];
		const float logit = logit_clean(row->values[i]);
		struct change *change = plan_find(p, id);

		if (change != NULL)
			change->among = true;
		else if (logit > -INFINITY && plan_allows(p, id))
			s->keys[n++] = list_key(logit, id);
	}
	if (n > 0)
		qsort(s->keys, n, sizeof(*s->keys), compare_keys);
	return n;
}

static void know(struct known *k, const struct list *l, float raw, bool allowed)
{
	const double weight = list_weight(l, logit_clean(raw));

	k->allowed += allowed;
	k->sum += weight;
	if (weight > 0)
		k->moment += weight * list_log_weight(l, logit_clean(raw));
}

static struct known known_of(const struct gpuq_sampler *s, const struct gpuq_row *row)
{
	const struct plan *p = &s->plan;
	struct known k = {0};

	for (uint32_t i = 0; i < row->n_candidates; i++)
		know(&k, &s->list, row->values[i], plan_allows(p, (uint32_t)row->tokens[i]));
	for (size_t i = 0; i < p->ids.n; i++)
		if (!p->changes[i].among)
			know(&k, &s->list, p->raw[i], true);
	return k;
}

/*
 * Twice the error that the operator step_result promises of its log-sum-exp and its entropy. Its
 * bound for the entropy has the second moment of t = log weight; with L = 2 log V that is at most
 * L times the first, which the entropy bounds, and V L^2 exp(-L) <= 6 for what is below -L.
 */
static double lse_error(const struct gpuq_row *row)
{
	return 2 * (5e-6 + 4e-7 * fabs(row->entropy) + 2e-7 * fabs(row->lse));
}

static double entropy_error(const struct gpuq_row *row, uint32_t vocabulary)
{
	const double h = fabs(row->entropy), log_v = log(vocabulary);

	return 2 * (5e-6 * (1 + h) + 4e-7 * (2 * log_v * h + 6));
}

static struct interval widen(struct interval i, double absolute)
{
	return (struct interval){.lo = i.lo - absolute, .hi = i.hi + absolute};
}

static uint32_t count_unknown(const struct gpuq_sampler *s, const struct known *k)
{
	return (s->plan.restricted ? s->plan.n_allowed : s->vocabulary) - k->allowed;
}

/* What the unknown tokens weigh: first by their number, then by the log-sum-exp. */
static struct interval tail_of(
	const struct gpuq_sampler *s, const struct gpuq_row *row, const struct known *k, double all)
{
	struct interval tail = {
		.lo = 0, .hi = count_unknown(s, k) * list_weight(&s->list, s->list.rest)};

	if (!isfinite(all) || !isfinite(k->sum))
		return tail;
	const double error = all * expm1(lse_error(row)) + list_sum_error(s) * (all + k->sum);
	const struct interval told =
		widen((struct interval){.lo = all - k->sum, .hi = all - k->sum}, error);
	/* Of a restricted tail a part is forbidden, who knows how much. */
	if (!s->plan.restricted)
		tail.lo = fmin(fmax(0, told.lo), tail.hi);
	tail.hi = fmax(tail.lo, fmin(told.hi, tail.hi));
	return tail;
}

/* The mean of log weight under the changed weights; `own` is the list's part of the moment. */
static struct interval mean_of(const struct gpuq_sampler *s, const struct gpuq_row *row,
	const struct known *k, double all, double own)
{
	const struct interval nothing = {.lo = -INFINITY, .hi = INFINITY};
	const struct list *l = &s->list;
	const double mean = (double)row->lse - row->entropy - l->greatest / l->temperature;
	const double lse = expm1(lse_error(row));

	if (s->plan.restricted || !isfinite(all) || !isfinite(k->moment) || !isfinite(mean))
		return nothing;
	const double moment = own + (all * mean - k->moment);
	const double error = all * (lse * (fabs(mean) + 1) + entropy_error(row, s->vocabulary)) +
		list_sum_error(s) * (fabs(all * mean) + fabs(k->moment) + fabs(own));
	struct interval i = widen((struct interval){.lo = moment, .hi = moment}, error);
	i.lo /= l->total.lo;
	i.hi = fmin(i.hi, 0) / l->total.hi;
	return widen(i, list_sum_error(s) * fabs(i.lo));
}

/* Makes the list one that ends before the first token that may be unknown. */
static void leave_open(struct gpuq_sampler *s, const struct gpuq_row *row, const struct known *k)
{
	struct list *l = &s->list;
	const double all = exp((double)row->lse - l->greatest / l->temperature);
	const uint32_t last = row->n_candidates - 1;
	const uint64_t end = list_key(l->rest, (uint32_t)row->tokens[last]);
	double own = 0, sum = l->total.lo;

	for (size_t i = 0; i < l->n; i++)
		if (l->entries[i].weight > 0)
			own += l->entries[i].weight * list_log_weight(l, l->entries[i].logit);
	const struct interval tail = tail_of(s, row, k, all);
	l->complete = false;
	l->total.lo = (sum + tail.lo) * (1 - list_sum_error(s));
	l->total.hi = (sum + tail.hi) * (1 + list_sum_error(s));
	l->mean = mean_of(s, row, k, all, own);
	while (l->n > 0 && s->keys[l->n - 1] > end)
		l->n--;
}

/* The known tokens as a list, as long as it is certain that no other is among them. */
static int list_of_known(struct gpuq_sampler *s, const struct gpuq_row *row, size_t n)
{
	const uint32_t last = row->n_candidates - 1;
	struct list *l = &s->list;
	int r;

	/* A +inf, being cleaned, might tie with a float that was less. */
	if (row->n_candidates == 0 || row->values[last] == INFINITY)
		return -EAGAIN;
	l->rest = logit_clean(row->values[last]);
	const bool all = row->n_candidates == s->vocabulary || l->rest == -INFINITY;
	if (n == 0 && !all)
		return -EAGAIN;
	r = list_make(s, n);
	if (r < 0 || all)
		return r;
	const struct known k = known_of(s, row);
	if (count_unknown(s, &k) > 0)
		leave_open(s, row, &k);
	return l->n == 0 ? -EAGAIN : 0;
}

int list_of_candidates(struct gpuq_sampler *s, const struct gpuq_row *row)
{
	const struct gpuq_row none = {0};
	struct plan *p = &s->plan;
	int r = plan_needs_row(s) ? -EAGAIN : check_row(s, row);

	if (r == 0)
		r = list_reserve(s, row->n_candidates + p->ids.n);
	if (r < 0)
		return r;
	for (size_t i = 0; i < p->ids.n; i++)
		p->raw[i] = row->named[i];
	r = plan_apply(s);
	if (r < 0)
		return r;
	if (p->closed)
		return list_make(s, take_keys(s, &none));
	return list_of_known(s, row, take_keys(s, row));
}
