/* SPDX-License-Identifier: MIT */
/* sampler.c: the sampler's calls: what it wants of a step, the draw, the text so far. */
#include "client/text/sampler.h"

#include <assert.h>
#include <stdlib.h>

#define PENALTY_TOKENS_MAX (1u << 24)

/* --- Policies -------------------------------------------------------------------------------- */

static int check_range(const char *name, float value, float low, float high)
{
	if (value >= low && value <= high)
		return 0;
	return text_fail(-EINVAL, "%s is %g, outside %g to %g", name, (double)value, (double)low,
		(double)high);
}

static int check_numbers(const struct gpuq_sampling *p)
{
	int r = 0;

	if (p->temperature != 0)
		r = check_range("temperature", p->temperature, 1e-30f, 1e30f);
	if (r == 0)
		r = check_range("top_p", p->top_p, 0, 1);
	if (r == 0)
		r = check_range("min_p", p->min_p, 0, 1);
	if (r == 0)
		r = check_range("typical_p", p->typical_p, 0, 1);
	if (r == 0 && p->repetition_penalty != 0)
		r = check_range("repetition_penalty", p->repetition_penalty, FLT_MIN, FLT_MAX);
	if (r == 0)
		r = check_range("presence_penalty", p->presence_penalty, -FLT_MAX, FLT_MAX);
	if (r == 0)
		r = check_range("frequency_penalty", p->frequency_penalty, -FLT_MAX, FLT_MAX);
	if (r == 0 && p->penalty_tokens > PENALTY_TOKENS_MAX)
		r = text_fail(-EINVAL, "penalty_tokens is %u, at most %u are looked at",
			p->penalty_tokens, PENALTY_TOKENS_MAX);
	return r;
}

static int check_policy(const struct gpuq_sampling *p, uint32_t vocabulary)
{
	int r = check_numbers(p);

	if (r == 0 && (vocabulary == 0 || vocabulary > INT32_MAX))
		r = text_fail(-EINVAL, "a vocabulary of %u tokens", vocabulary);
	for (uint32_t i = 0; r == 0 && i < p->n_biases; i++) {
		const struct gpuq_logit_bias *b = &p->biases[i];

		if (b->id >= vocabulary)
			r = text_fail(
				-EINVAL, "a bias for the id %u, outside the vocabulary", b->id);
		else if (!(b->bias < INFINITY))
			r = text_fail(
				-EINVAL, "the bias for the id %u is %g", b->id, (double)b->bias);
	}
	return r;
}

static int compare_biases(const void *a, const void *b)
{
	const struct gpuq_logit_bias *x = a, *y = b;

	return (x->id > y->id) - (x->id < y->id);
}

/* Sorted, each id once. */
static int copy_biases(struct gpuq_sampling *p, const struct gpuq_sampling *given)
{
	struct gpuq_logit_bias *own = malloc(given->n_biases * sizeof(*own));
	uint32_t n = 0;

	if (own == NULL)
		return text_no_memory();
	memcpy(own, given->biases, given->n_biases * sizeof(*own));
	qsort(own, given->n_biases, sizeof(*own), compare_biases);
	for (uint32_t i = 0; i < given->n_biases; i++) {
		if (n > 0 && own[n - 1].id == own[i].id)
			own[n - 1].bias += own[i].bias;
		else
			own[n++] = own[i];
	}
	p->biases = own;
	p->n_biases = n;
	return 0;
}

static int init(struct gpuq_sampler *s, const struct gpuq_sampling *policy, uint32_t vocabulary)
{
	struct gpuq_sampling *p = &s->policy;

	s->vocabulary = vocabulary;
	*p = *policy;
	p->biases = NULL;
	p->n_biases = 0;
	if (p->repetition_penalty == 0)
		p->repetition_penalty = 1;
	s->penalizes =
		p->repetition_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0;
	if (s->penalizes && p->penalty_tokens > 0) {
		s->history.length = p->penalty_tokens;
		s->history.ring = malloc(p->penalty_tokens * sizeof(*s->history.ring));
		if (s->history.ring == NULL)
			return text_no_memory();
	}
	return policy->n_biases > 0 ? copy_biases(p, policy) : 0;
}

int gpuq_sampler_create(const struct gpuq_sampling *sampling, uint32_t vocabulary,
	struct gpuq_sampler **ret_sampler)
{
	int r = check_policy(sampling, vocabulary);

	if (r < 0)
		return r;
	struct gpuq_sampler *s = calloc(1, sizeof(*s));
	if (s == NULL)
		return text_no_memory();
	r = init(s, sampling, vocabulary);
	if (r < 0) {
		gpuq_sampler_destroy(s);
		return r;
	}
	*ret_sampler = s;
	return 0;
}

void gpuq_sampler_destroy(struct gpuq_sampler *sampler)
{
	if (sampler == NULL)
		return;
	plan_finish(&sampler->plan);
	free((void *)sampler->policy.biases);
	free(sampler->history.seen);
	free(sampler->history.ring);
	free(sampler->list.entries);
	free(sampler->keys);
	free(sampler->spare);
	free(sampler->row);
	free(sampler);
}

/* --- The step -------------------------------------------------------------------------------- */

static uint32_t candidates_wanted(const struct gpuq_sampler *s)
{
	const uint32_t most =
		s->vocabulary < SAMPLER_CANDIDATES ? s->vocabulary : SAMPLER_CANDIDATES;

	if (s->plan.closed)
		return 0;
	/* Each change may take one of the greatest away. */
	if (s->policy.temperature == 0 && s->plan.ids.n + 1 < most)
		return (uint32_t)s->plan.ids.n + 1;
	return most;
}

/*
 * Whether to begin with the full row. Where candidates mostly do not tell, to ask for them first
 * costs a second step for most tokens.
 */
static bool wants_row(const struct gpuq_sampler *s)
{
	return plan_needs_row(s) || (!s->plan.closed && s->row_share > 0.5f);
}

int gpuq_sampler_want(struct gpuq_sampler *sampler, struct gpuq_sampler_want *ret_want)
{
	const float temperature = sampler->policy.temperature;
	const struct ids *ids = &sampler->plan.ids;
	int r = plan_make(sampler);

	if (r < 0)
		return r;
	if (wants_row(sampler))
		*ret_want = (struct gpuq_sampler_want){.full_row = true, .temperature = 1};
	else
		*ret_want = (struct gpuq_sampler_want){
			.temperature = temperature > 0 ? temperature : 1,
			.n_candidates = candidates_wanted(sampler),
			.n_ids = (uint32_t)ids->n,
			.ids = (const int32_t *)ids->data,
		};
	return 0;
}

/* --- The draw -------------------------------------------------------------------------------- */

/* The output function of SplitMix64. */
static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

/* Random number n of a seed, at least 0 and less than 1. */
static double uniform(uint64_t seed, uint64_t n)
{
	return (double)(mix(mix(seed) + (n + 1) * 0x9e3779b97f4a7c15u) >> 11) * 0x1p-53;
}

static int cut(struct list *l, const struct gpuq_sampling *p)
{
	int r = 0;

	if (p->top_k > 0)
		r = cut_top_k(l, p->top_k);
	if (r == 0 && policy_cuts(p->top_p))
		r = cut_top_p(l, p->top_p);
	if (r == 0 && p->min_p > 0)
		r = cut_min_p(l, p->min_p);
	if (r == 0 && policy_cuts(p->typical_p))
		r = cut_typical_p(l, p->typical_p);
	return r;
}

static int choose(struct gpuq_sampler *s, double u, const struct entry **ret_entry)
{
	struct list *l = &s->list;

	if (s->policy.temperature == 0) {
		*ret_entry = &l->entries[0];
		return 0;
	}
	int r = cut(l, &s->policy);
	return r < 0 ? r : list_choose(l, u, ret_entry);
}

/* The head of the row nearly always decides; all of it in order does. */
static int draw_from_row(
	struct gpuq_sampler *s, const float *logits, double u, const struct entry **ret_entry)
{
	int r = list_start_row(s, logits);

	if (r < 0)
		return r;
	r = list_of_head(s, u);
	if (r == 0)
		r = choose(s, u, ret_entry);
	if (r != -EAGAIN)
		return r;
	r = list_of_row(s);
	if (r == 0)
		r = choose(s, u, ret_entry);
	assert(r != -EAGAIN);
	return r;
}

static double logprob_of(const struct list *l, const struct entry *e)
{
	if (!(l->total.hi - l->total.lo <= 1e-3 * l->total.lo))
		return NAN;
	return list_log_weight(l, e->logit) - log((l->total.lo + l->total.hi) / 2);
}

/* Of a full row that was asked for at once it is a guess: a token of the tail is none of them. */
static void note_draw(struct gpuq_sampler *s, bool full, const struct entry *e)
{
	const bool tail = e - s->list.entries >= (ptrdiff_t)SAMPLER_CANDIDATES;
	const bool needed = s->undecided || (full && tail);

	s->row_share += ((needed ? 1 : 0) - s->row_share) / 16;
	s->undecided = false;
	s->n_drawn++;
	s->stats.draws++;
	s->stats.full_rows += full;
}

int64_t gpuq_sampler_draw(
	struct gpuq_sampler *sampler, const struct gpuq_row *row, double *ret_logprob)
{
	const bool full = row->logits != NULL;
	const struct entry *e;
	int r = plan_make(sampler);

	if (r < 0)
		return r;
	const double u = uniform(sampler->policy.seed, sampler->n_drawn);
	if (full) {
		r = draw_from_row(sampler, row->logits, u, &e);
	} else {
		r = list_of_candidates(sampler, row);
		if (r == 0)
			r = choose(sampler, u, &e);
		sampler->undecided = r == -EAGAIN;
	}
	if (r < 0)
		return r;
	note_draw(sampler, full, e);
	if (ret_logprob != NULL)
		*ret_logprob = logprob_of(&sampler->list, e);
	return e->id;
}

/* --- The text -------------------------------------------------------------------------------- */

int gpuq_sampler_accept(struct gpuq_sampler *sampler, uint32_t id)
{
	if (id >= sampler->vocabulary)
		return text_fail(-EINVAL, "the token %u is outside the vocabulary", id);
	if (sampler->penalizes) {
		int r = history_add(&sampler->history, id);
		if (r < 0)
			return r;
	}
	sampler->plan.made = false;
	return 0;
}

void gpuq_sampler_reset(struct gpuq_sampler *sampler)
{
	history_clear(&sampler->history);
	sampler->plan.made = false;
	sampler->n_drawn = 0;
}

void gpuq_sampler_stats(const struct gpuq_sampler *sampler, struct gpuq_sampler_stats *ret_stats)
{
	*ret_stats = sampler->stats;
}
