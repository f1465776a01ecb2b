/* SPDX-License-Identifier: MIT */
/*
 * sampler.h: what the files of the sampler share. The way of a draw: the plan says which logits
 * the policy changes (sampler_plan.c); a list of tokens, greatest logit first, is made of the
 * candidates (sampler_list.c) or of the full row (sampler_row.c); the list is cut down and a token
 * is taken from it (sampler_cut.c). All ways put the same numbers in the same order through the
 * same additions, so that they agree in every bit; what candidates, or the head of a row, leave
 * open is an interval, and a decision that is not the same everywhere in it is -EAGAIN.
 */
#ifndef GPUQ_TEXT_SAMPLER_H
#define GPUQ_TEXT_SAMPLER_H

#include "client/text/gpuq-text.h"
#include "client/text/text.h"

#include <float.h>
#include <math.h>

#define SAMPLER_CANDIDATES 64u /* that a step gives at most */
#define SAMPLER_NAMED 256u     /* ids that a step takes at most */

/* --- The plan: which logits of the next token are changed, and how --------------------------- */

/* Tokens of the text that penalties look at: how often it has each, and in which order. */
struct history {
	struct seen {
		uint32_t id, count;
	} * seen; /* ascending */
	size_t n, capacity;
	uint32_t *ring; /* the last `length` tokens; NULL where all of them count */
	uint32_t length;
	uint64_t added;
};

int history_add(struct history *h, uint32_t id);
void history_clear(struct history *h);

struct change {
	uint32_t id, count;
	float bias;
	bool ruled; /* the constraint's to change */
	bool among; /* one of the candidates */
};

struct plan {
	bool made;
	bool restricted;
	bool closed; /* what is not changed is forbidden */
	uint32_t n_allowed;
	uint32_t *stamps, stamp; /* [vocabulary]; allowed where equal, when restricted */
	struct ids ids;		 /* that are changed, ascending */
	struct ids ruled;	 /* of these, the constraint's */
	size_t room;		 /* of what follows, in elements */
	struct change *changes;	 /* [ids.n] */
	float *raw, *logits;	 /* [ids.n], before and after */
	float *seen;		 /* [ruled.n], what the constraint sees */
};

/* Interval of a number that a row does not tell exactly. */
struct interval {
	double lo, hi;
};

struct entry {
	uint32_t id;
	float logit;
	double weight; /* exp((logit - the greatest) / T) */
};

/* The most likely of the tokens that may be drawn, in order. */
struct list {
	struct entry *entries; /* greatest logit first, then least id; none is -inf */
	size_t first, n;       /* those that are kept: [first, n) */
	bool complete;	       /* there are no others */
	double greatest, temperature;
	float rest;	       /* no other has a greater logit, when not complete */
	struct interval total; /* sum of the weights of all */
	struct interval mean;  /* of log weight, under the weights */
};

struct gpuq_sampler {
	struct gpuq_sampling policy; /* biases: own, ascending, each id once */
	uint32_t vocabulary;
	bool penalizes;
	struct history history;
	struct plan plan;
	struct list list;
	size_t room; /* of keys and of list.entries, in elements */
	uint64_t *keys;
	uint64_t *spare;  /* [vocabulary], like row; NULL until the first full row */
	float *row;	  /* the logits after all changes; -inf where forbidden */
	size_t n_row;	  /* how many of them may be drawn */
	uint64_t n_drawn; /* since the last reset: which random number is next */
	bool undecided;	  /* the candidates of this draw did not tell */
	float row_share;  /* of the last draws: how many candidates do not tell, 0 to 1 */
	struct gpuq_sampler_stats stats;
};

/* Makes the plan of the next token, unless it is made. */
int plan_make(struct gpuq_sampler *s);

/* From plan.raw to plan.logits. */
int plan_apply(struct gpuq_sampler *s);

void plan_finish(struct plan *p);

/* The change of an id, or NULL. */
struct change *plan_find(const struct plan *p, uint32_t id);

/* Whether a nucleus leaves anything out. */
static inline bool policy_cuts(float p)
{
	return p > 0 && p < 1;
}

static inline bool plan_allows(const struct plan *p, uint32_t id)
{
	return !p->restricted || p->stamps[id] == p->stamp;
}

/* Whether a step without the full row is of no use. */
static inline bool plan_needs_row(const struct gpuq_sampler *s)
{
	return s->plan.ids.n > SAMPLER_NAMED ||
		(!s->plan.closed && s->policy.temperature > 0 &&
			s->policy.top_k > SAMPLER_CANDIDATES && s->vocabulary > SAMPLER_CANDIDATES);
}

/* The one form of each logit: no NaN, no +inf, no negative zero. */
static inline float logit_clean(double x)
{
	if (isnan(x) || x == -INFINITY)
		return -INFINITY;
	return (float)fmax(-FLT_MAX, fmin(x, FLT_MAX)) + 0.0f;
}

/* --- The list -------------------------------------------------------------------------------- */

/* Ascending keys: greatest logit first, then least id. */
static inline uint64_t list_key(float logit, uint32_t id)
{
	uint32_t bits;

	memcpy(&bits, &logit, sizeof(bits));
	bits ^= (bits >> 31) != 0 ? 0 : UINT32_MAX >> 1;
	return (uint64_t)bits << 32 | id;
}

/* -EAGAIN, -ENODATA, -EINVAL, -ENOMEM, the constraint's error. */
int list_of_candidates(struct gpuq_sampler *s, const struct gpuq_row *row);

/*
 * Begins with a full row: what the policy makes of it. list_of_head() gives as many of its first
 * tokens as the draw with this random number should need, list_of_row() all of them. -ENODATA,
 * -ENOMEM, the constraint's error.
 */
int list_start_row(struct gpuq_sampler *s, const float *logits);
int list_of_head(struct gpuq_sampler *s, double u);
int list_of_row(struct gpuq_sampler *s);

/* Makes room for so many keys and entries. -ENOMEM. */
int list_reserve(struct gpuq_sampler *s, size_t room);

/* Makes a complete list of the first n keys, which are in order. -ENODATA when there is none. */
int list_make(struct gpuq_sampler *s, size_t n);

/* What weights are relative to. */
static inline void list_scale(struct gpuq_sampler *s, float greatest)
{
	s->list.greatest = greatest;
	s->list.temperature = s->policy.temperature > 0 ? s->policy.temperature : 1;
}

/* Logarithm of a token's weight. */
static inline double list_log_weight(const struct list *l, float logit)
{
	return (logit - l->greatest) / l->temperature;
}

static inline double list_weight(const struct list *l, float logit)
{
	return exp(list_log_weight(l, logit));
}

/* How far apart sums of one set of weights in several orders may be, relatively. */
static inline double list_sum_error(const struct gpuq_sampler *s)
{
	return 4 * DBL_EPSILON * ((double)s->vocabulary + 8);
}

/* Lets the first n be all; for a list whose first is 0. */
void list_cut(struct list *l, size_t n);

/* --- Cutting and choosing: 0 or -EAGAIN ------------------------------------------------------ */

int cut_top_k(struct list *l, uint32_t k);
int cut_top_p(struct list *l, double p);
int cut_min_p(struct list *l, double p);
int cut_typical_p(struct list *l, double p);

/* The entry at which the sum of the weights exceeds u times the total. */
int list_choose(const struct list *l, double u, const struct entry **ret_entry);

#endif
