/* SPDX-License-Identifier: MIT */
/* sampler_plan.c: which logits a policy changes: by bias, by penalties, by its constraint. */
#include "client/text/sampler.h"

#include <stdlib.h>

/* Of ids, and of structures that begin with one. */
static int compare_ids(const void *a, const void *b)
{
	const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

/* --- The text -------------------------------------------------------------------------------- */

/* Where the id is, or belongs. */
static size_t find_place(const struct history *h, uint32_t id)
{
	size_t low = 0, high = h->n;

	while (low < high) {
		const size_t middle = low + (high - low) / 2;

		if (h->seen[middle].id < id)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void forget(struct history *h, uint32_t id)
{
	const size_t at = find_place(h, id);

	if (--h->seen[at].count > 0)
		return;
	h->n--;
	memmove(h->seen + at, h->seen + at + 1, (h->n - at) * sizeof(*h->seen));
}

int history_add(struct history *h, uint32_t id)
{
	int r = 0;

	if (h->n == h->capacity)
		r = array_grow((void **)&h->seen, h->n, &h->capacity, 1, sizeof(*h->seen));
	if (r < 0)
		return r;
	if (h->ring != NULL) {
		uint32_t *oldest = &h->ring[h->added % h->length];

		if (h->added >= h->length)
			forget(h, *oldest);
		*oldest = id;
	}
	h->added++;
	const size_t at = find_place(h, id);
	if (at == h->n || h->seen[at].id != id) {
		memmove(h->seen + at + 1, h->seen + at, (h->n - at) * sizeof(*h->seen));
		h->seen[at] = (struct seen){.id = id};
		h->n++;
	}
	h->seen[at].count++;
	return 0;
}

void history_clear(struct history *h)
{
	h->n = 0;
	h->added = 0;
}

/* --- The constraint -------------------------------------------------------------------------- */

static int refuse_id(uint32_t id)
{
	return text_fail(-EINVAL, "the constraint names the id %u, outside the vocabulary", id);
}

/* Marks what is allowed and counts it. */
static int mark_allowed(struct gpuq_sampler *s, const struct gpuq_sampler_rule *rule)
{
	struct plan *p = &s->plan;

	if (p->stamps == NULL || p->stamp == UINT32_MAX) {
		free(p->stamps);
		p->stamp = 0;
		p->stamps = calloc(s->vocabulary, sizeof(*p->stamps));
	}
	if (p->stamps == NULL)
		return text_no_memory();
	p->stamp++;
	for (uint32_t i = 0; i < rule->n_allowed; i++) {
		const uint32_t id = rule->allowed[i];

		if (id >= s->vocabulary)
			return refuse_id(id);
		p->n_allowed += p->stamps[id] != p->stamp;
		p->stamps[id] = p->stamp;
	}
	return 0;
}

static int ask_constraint(struct gpuq_sampler *s, struct gpuq_sampler_rule *rule)
{
	const struct gpuq_sampler_constraint *c = &s->policy.constraint;
	struct plan *p = &s->plan;
	int r = c->rule == NULL ? 0 : c->rule(c->context, rule);

	if (r < 0)
		return r;
	for (uint32_t i = 0; i < rule->n_ids; i++)
		if (rule->ids[i] >= s->vocabulary)
			return refuse_id(rule->ids[i]);
	p->restricted = rule->restricted;
	p->n_allowed = 0;
	if (p->restricted)
		r = mark_allowed(s, rule);
	p->closed = p->restricted && p->n_allowed <= SAMPLER_NAMED;
	return r;
}

/* --- The plan -------------------------------------------------------------------------------- */

static int append_all(struct ids *out, const uint32_t *ids, size_t n)
{
	int r = ids_reserve(out, n);

	if (r < 0)
		return r;
	if (n > 0)
		memcpy(out->data + out->n, ids, n * sizeof(*ids));
	out->n += n;
	return 0;
}

/* Sorts; leaves each once, and none that is forbidden. */
static void tidy(const struct plan *p, struct ids *ids)
{
	size_t n = 0;

	if (ids->n > 0)
		qsort(ids->data, ids->n, sizeof(*ids->data), compare_ids);
	for (size_t i = 0; i < ids->n; i++) {
		const uint32_t id = ids->data[i];

		if (plan_allows(p, id) && (n == 0 || ids->data[n - 1] != id))
			ids->data[n++] = id;
	}
	ids->n = n;
}

static int collect(struct gpuq_sampler *s, const struct gpuq_sampler_rule *rule)
{
	struct plan *p = &s->plan;
	const struct history *h = &s->history;
	int r;

	p->ids.n = p->ruled.n = 0;
	if (s->policy.constraint.change != NULL) {
		r = append_all(&p->ruled, rule->ids, rule->n_ids);
		if (r < 0)
			return r;
	}
	tidy(p, &p->ruled);
	if (p->closed) {
		r = append_all(&p->ids, rule->allowed, rule->n_allowed);
	} else {
		r = append_all(&p->ids, p->ruled.data, p->ruled.n);
		for (size_t i = 0; r == 0 && i < h->n; i++)
			r = ids_append(&p->ids, h->seen[i].id);
		for (size_t i = 0; r == 0 && i < s->policy.n_biases; i++)
			r = ids_append(&p->ids, s->policy.biases[i].id);
	}
	tidy(p, &p->ids);
	return r;
}

static int reserve(struct plan *p)
{
	const size_t room = p->ids.n;

	if (room <= p->room)
		return 0;
	p->room = 0;
	free(p->changes);
	free(p->raw);
	free(p->logits);
	free(p->seen);
	p->changes = malloc(room * sizeof(*p->changes));
	p->raw = malloc(room * sizeof(*p->raw));
	p->logits = malloc(room * sizeof(*p->logits));
	p->seen = malloc(room * sizeof(*p->seen));
	if (p->changes == NULL || p->raw == NULL || p->logits == NULL || p->seen == NULL)
		return text_no_memory();
	p->room = room;
	return 0;
}

static struct change describe(const struct gpuq_sampler *s, uint32_t id)
{
	const struct history *h = &s->history;
	const struct ids *ruled = &s->plan.ruled;
	const struct gpuq_logit_bias *bias = s->policy.n_biases == 0
		? NULL
		: bsearch(&id, s->policy.biases, s->policy.n_biases, sizeof(*bias), compare_ids);
	const size_t at = find_place(h, id);

	return (struct change){
		.id = id,
		.count = at < h->n && h->seen[at].id == id ? h->seen[at].count : 0,
		.bias = bias == NULL ? 0 : bias->bias,
		.ruled = ruled->n > 0 &&
			bsearch(&id, ruled->data, ruled->n, sizeof(id), compare_ids) != NULL,
	};
}

int plan_make(struct gpuq_sampler *s)
{
	struct plan *p = &s->plan;
	struct gpuq_sampler_rule rule = {0};
	int r;

	if (p->made)
		return 0;
	r = ask_constraint(s, &rule);
	if (r == 0)
		r = collect(s, &rule);
	if (r == 0)
		r = reserve(p);
	if (r < 0)
		return r;
	for (size_t i = 0; i < p->ids.n; i++)
		p->changes[i] = describe(s, p->ids.data[i]);
	p->made = true;
	return 0;
}

static float change_logit(const struct gpuq_sampling *policy, const struct change *c, float raw)
{
	double l = (double)logit_clean(raw) + c->bias;

	if (c->count > 0) {
		const double r = policy->repetition_penalty;

		l = l > 0 ? l / r : l * r;
		l -= policy->presence_penalty + (double)policy->frequency_penalty * c->count;
	}
	return logit_clean(l);
}

static int let_constraint_change(struct gpuq_sampler *s)
{
	const struct gpuq_sampler_constraint *c = &s->policy.constraint;
	struct plan *p = &s->plan;
	size_t n = 0;

	if (p->ruled.n == 0)
		return 0;
	for (size_t i = 0; i < p->ids.n; i++)
		if (p->changes[i].ruled)
			p->seen[n++] = p->logits[i];
	int r = c->change(c->context, p->ruled.data, (uint32_t)n, p->seen);
	if (r < 0)
		return r;
	n = 0;
	for (size_t i = 0; i < p->ids.n; i++)
		if (p->changes[i].ruled)
			p->logits[i] = logit_clean(p->seen[n++]);
	return 0;
}

int plan_apply(struct gpuq_sampler *s)
{
	struct plan *p = &s->plan;

	for (size_t i = 0; i < p->ids.n; i++)
		p->logits[i] = change_logit(&s->policy, &p->changes[i], p->raw[i]);
	return let_constraint_change(s);
}

struct change *plan_find(const struct plan *p, uint32_t id)
{
	return p->ids.n == 0 ? NULL
			     : bsearch(&id, p->changes, p->ids.n, sizeof(*p->changes), compare_ids);
}

void plan_finish(struct plan *p)
{
	free(p->stamps);
	free(p->ids.data);
	free(p->ruled.data);
	free(p->changes);
	free(p->raw);
	free(p->logits);
	free(p->seen);
}
