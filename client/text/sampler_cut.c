/* SPDX-License-Identifier: MIT */
/*
 * sampler_cut.c: the nuclei, and the choice. Where the list is not complete its total and its mean
 * are intervals, and nothing is decided that would be decided otherwise elsewhere in them.
 */
#include "client/text/sampler.h"

static struct interval times(struct interval i, double factor)
{
	return (struct interval){.lo = factor * i.lo, .hi = factor * i.hi};
}

int cut_top_k(struct list *l, uint32_t k)
{
	if (k <= l->n)
		list_cut(l, k);
	return l->complete ? 0 : -EAGAIN;
}

int cut_top_p(struct list *l, double p)
{
	const struct interval wanted = times(l->total, p);
	double sum = 0;

	for (size_t i = 0; i < l->n; i++) {
		sum += l->entries[i].weight;
		if (sum >= wanted.hi) {
			list_cut(l, i + 1);
			return 0;
		}
		if (sum >= wanted.lo)
			return -EAGAIN;
	}
	return l->complete ? 0 : -EAGAIN;
}

int cut_min_p(struct list *l, double p)
{
	size_t n = 0;

	while (n < l->n && l->entries[n].weight >= p)
		n++;
	if (n == l->n && !l->complete && exp(list_log_weight(l, l->rest)) >= p)
		return -EAGAIN;
	list_cut(l, n);
	return 0;
}

/* --- Typical tokens -------------------------------------------------------------------------- */

/*
 * What is kept is a stretch [first, end) of the list that grows from the mean on, to the side
 * whose next token is nearer to it. Tokens of one logit come together.
 */
struct stretch {
	const struct list *list;
	struct interval mean;
	size_t first, end;
	size_t limit; /* from here on others may stand between */
	double sum;
};

static double log_weight_at(const struct stretch *s, size_t i)
{
	return list_log_weight(s->list, s->list->entries[i].logit);
}

/* The mean of a complete list is told by the list. */
static struct interval mean_of(const struct list *l)
{
	double moment = 0;

	if (!l->complete)
		return l->mean;
	for (size_t i = 0; i < l->n; i++)
		moment += l->entries[i].weight * list_log_weight(l, l->entries[i].logit);
	return (struct interval){.lo = moment / l->total.lo, .hi = moment / l->total.lo};
}

/* Puts the stretch, without length, between what is above the mean and what is below. */
static int stretch_start(struct stretch *s, const struct list *l)
{
	size_t at = 0, limit = l->n;

	*s = (struct stretch){.list = l, .mean = mean_of(l)};
	while (!l->complete && limit > 0 && l->entries[limit - 1].logit == l->rest)
		limit--;
	while (at < limit && log_weight_at(s, at) >= s->mean.hi)
		at++;
	s->first = s->end = at;
	s->limit = limit;
	return at == limit || log_weight_at(s, at) < s->mean.lo ? 0 : -EAGAIN;
}

/* 1: the next is above, 0: it is below, -EAGAIN. */
static int next_is_above(const struct stretch *s)
{
	const bool below = s->end < s->limit;

	if (s->first == 0)
		return below ? 0 : -EAGAIN;
	if (!below && s->list->complete)
		return 1;
	const double sum = log_weight_at(s, s->first - 1) +
		(below ? log_weight_at(s, s->end) : list_log_weight(s->list, s->list->rest));
	if (sum <= 2 * s->mean.lo)
		return 1;
	return below && sum > 2 * s->mean.hi ? 0 : -EAGAIN;
}

static void grow(struct stretch *s, bool above)
{
	const struct entry *e = s->list->entries;
	const float logit = e[above ? s->first - 1 : s->end].logit;

	if (above) {
		while (s->first > 0 && e[s->first - 1].logit == logit)
			s->sum += e[--s->first].weight;
	} else {
		while (s->end < s->limit && e[s->end].logit == logit)
			s->sum += e[s->end++].weight;
	}
}

static int stretch_grow(struct stretch *s, struct interval wanted)
{
	while (s->sum < wanted.hi) {
		if (s->sum >= wanted.lo)
			return -EAGAIN;
		if (s->list->complete && s->first == 0 && s->end == s->limit)
			return 0;
		const int above = next_is_above(s);
		if (above < 0)
			return above;
		grow(s, above);
	}
	return 0;
}

int cut_typical_p(struct list *l, double p)
{
	struct stretch s;
	double sum = 0;
	int r = stretch_start(&s, l);

	if (r == 0)
		r = stretch_grow(&s, times(l->total, p));
	if (r < 0)
		return r;
	for (size_t i = s.first; i < s.end; i++)
		sum += l->entries[i].weight;
	l->first = s.first;
	l->n = s.end;
	l->complete = true;
	l->total = (struct interval){.lo = sum, .hi = sum};
	return 0;
}

/* --- The choice ------------------------------------------------------------------------------ */

int list_choose(const struct list *l, double u, const struct entry **ret_entry)
{
	const struct interval wanted = times(l->total, u);
	double sum = 0;

	for (size_t i = l->first; i < l->n; i++) {
		sum += l->entries[i].weight;
		if (sum > wanted.hi) {
			*ret_entry = &l->entries[i];
			return 0;
		}
		if (sum > wanted.lo)
			return -EAGAIN;
	}
	return -EAGAIN;
}
