/* SPDX-License-Identifier: MIT */
/* share.c: deficit round robin between users, strict priorities with ageing. */
#include "daemon/share.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define BUDGET_SCALE 1024u /* so that small weights have some of a budget in each round */

int shares_create(struct shares *s, uint32_t max_users, uint64_t ageing_ns)
{
	*s = (struct shares){.ageing_ns = ageing_ns};
	s->all = calloc(max_users, sizeof(*s->all));
	if (s->all == NULL)
		return -ENOMEM;
	LIST_INIT(&s->used);
	LIST_INIT(&s->free);
	for (uint32_t i = max_users; i-- > 0;)
		LIST_INSERT_HEAD(&s->free, &s->all[i], of);
	for (uint32_t p = 0; p < MSG_PRIORITIES; p++)
		TAILQ_INIT(&s->turns[p]);
	return 0;
}

void shares_destroy(struct shares *s)
{
	free(s->all);
}

static struct share *find(const struct shares *s, uint32_t uid)
{
	struct share *share;

	LIST_FOREACH (share, &s->used, of) {
		if (share->uid == uid)
			return share;
	}
	return NULL;
}

static struct share *begin(struct shares *s, uint32_t uid)
{
	struct share *share = LIST_FIRST(&s->free);

	assert(share != NULL);
	LIST_REMOVE(share, of);
	*share = (struct share){.uid = uid};
	for (uint32_t p = 0; p < MSG_PRIORITIES; p++) {
		share->turns[p].share = share;
		TAILQ_INIT(&share->turns[p].runnable);
		TAILQ_INIT(&share->turns[p].cold);
	}
	LIST_INSERT_HEAD(&s->used, share, of);
	return share;
}

struct share *share_join(struct shares *s, uint32_t uid, uint32_t weight)
{
	struct share *share = find(s, uid);

	assert(weight >= 1 && weight <= SHARE_MAX_WEIGHT);
	if (share == NULL)
		share = begin(s, uid);
	share->weight = weight;
	share->n_channels++;
	return share;
}

void share_leave(struct shares *s, struct share *share)
{
	if (--share->n_channels > 0)
		return;
	assert(share->in_flight == 0 && share->n_listed == 0 && share->n_active == 0);
	LIST_REMOVE(share, of);
	LIST_INSERT_HEAD(&s->free, share, of);
}

/* --- What waits ---------------------------------------------------------------------------- */

/* Nothing is saved up while there is nothing to do. */
static void list(struct shares *s, struct share_turn *turn, uint32_t priority)
{
	struct share *share = turn->share;

	if (share->n_listed++ == 0 && share->deficit_ns > 0)
		share->deficit_ns = 0;
	turn->listed = true;
	TAILQ_INSERT_TAIL(&s->turns[priority], turn, link);
}

static void unlist(struct shares *s, struct share_turn *turn, uint32_t priority)
{
	turn->share->n_listed--;
	turn->listed = false;
	TAILQ_REMOVE(&s->turns[priority], turn, link);
}

void share_queue(struct shares *s, struct channel *ch, uint64_t now_ns)
{
	struct share_turn *turn = &ch->share->turns[ch->priority];
	const uint32_t p = ch->priority;

	if (s->n_runnable[p] + s->n_cold[p] == 0)
		s->waiting_ns[p] = now_ns;
	TAILQ_INSERT_TAIL(ch->waits_cold ? &turn->cold : &turn->runnable, ch, run_link);
	s->n_cold[p] += ch->waits_cold;
	s->n_runnable[p] += !ch->waits_cold;
	if (!turn->listed)
		list(s, turn, p);
}

void share_unqueue(struct shares *s, struct channel *ch)
{
	struct share_turn *turn = &ch->share->turns[ch->priority];
	const uint32_t p = ch->priority;

	if (turn->last == ch)
		turn->last = TAILQ_PREV(ch, channel_queue, run_link);
	TAILQ_REMOVE(ch->waits_cold ? &turn->cold : &turn->runnable, ch, run_link);
	s->n_cold[p] -= ch->waits_cold;
	s->n_runnable[p] -= !ch->waits_cold;
	if (TAILQ_EMPTY(&turn->runnable) && TAILQ_EMPTY(&turn->cold))
		unlist(s, turn, p);
}

void share_requeue(struct shares *s, struct channel *ch, bool waits_cold)
{
	struct share_turn *turn = &ch->share->turns[ch->priority];
	const uint32_t p = ch->priority;

	TAILQ_REMOVE(ch->waits_cold ? &turn->cold : &turn->runnable, ch, run_link);
	s->n_cold[p] -= ch->waits_cold;
	s->n_runnable[p] -= !ch->waits_cold;
	ch->waits_cold = waits_cold;
	TAILQ_INSERT_TAIL(waits_cold ? &turn->cold : &turn->runnable, ch, run_link);
	s->n_cold[p] += waits_cold;
	s->n_runnable[p] += !waits_cold;
}

void share_began(struct share *share, uint64_t now_ns)
{
	if (share->in_flight++ > 0 || share->deficit_ns >= 0)
		return;
	const uint64_t rest_ns = now_ns - share->idle_ns;
	const uint64_t owed_ns = (uint64_t)-share->deficit_ns;
	share->deficit_ns = rest_ns < owed_ns ? -(int64_t)(owed_ns - rest_ns) : 0;
}

void share_ended(struct share *share, uint64_t now_ns)
{
	if (--share->in_flight == 0)
		share->idle_ns = now_ns;
}

bool share_submits(struct share *share, uint32_t rate, uint64_t now_ns)
{
	const uint64_t second_ns = 1000000000u, each_ns = second_ns / rate;

	if (share->rate_ns < now_ns)
		share->rate_ns = now_ns;
	/* Each one speaks for its part of a second, and no more than a second is spoken for. */
	if (share->rate_ns + each_ns > now_ns + second_ns)
		return false;
	share->rate_ns += each_ns;
	return true;
}

/* --- Whose turn it is ---------------------------------------------------------------------- */

uint32_t shares_priority(const struct shares *s, uint32_t full, uint32_t cold_room, uint64_t now_ns)
{
	uint32_t first = MSG_PRIORITIES;

	for (uint32_t p = MSG_PRIORITIES; p-- > 0;) {
		const bool cold = s->n_cold[p] > 0 && (cold_room & 1u << p) != 0;

		if ((full & 1u << p) != 0 || (s->n_runnable[p] == 0 && !cold))
			continue;
		if (now_ns >= s->waiting_ns[p] + s->ageing_ns)
			return p;
		first = p;
	}
	return first;
}

void shares_launched(struct shares *s, uint32_t priority, uint64_t now_ns)
{
	s->waiting_ns[priority] = now_ns;
}

void shares_attempt(struct shares *s)
{
	s->attempt++;
}

static bool may_go(const struct shares *s, const struct share_turn *turn, bool cold_room)
{
	if (turn->attempt == s->attempt && turn->tried)
		return false;
	return !TAILQ_EMPTY(&turn->runnable) || (cold_room && !TAILQ_EMPTY(&turn->cold));
}

/* Of the device, in each round. */
static int64_t quantum_ns(const struct share *share, uint32_t greatest)
{
	return SHARE_QUANTUM_NS * (int64_t)share->weight / greatest;
}

/* After which a user may use the device again. */
static int64_t rounds(const struct share *share, uint32_t greatest)
{
	return -share->deficit_ns / quantum_ns(share, greatest) + 1;
}

/* So many rounds end, for all who want something of this priority. */
static void give(struct shares *s, uint32_t priority, uint32_t greatest, int64_t n)
{
	struct share_turn *turn;

	TAILQ_FOREACH (turn, &s->turns[priority], link) {
		struct share *share = turn->share;
		const int64_t before_ns = share->deficit_ns;

		share->deficit_ns += n * quantum_ns(share, greatest);
		if (share->deficit_ns > SHARE_MAX_SAVED_NS)
			share->deficit_ns =
				before_ns > SHARE_MAX_SAVED_NS ? before_ns : SHARE_MAX_SAVED_NS;
	}
}

static uint32_t greatest_weight(const struct shares *s, uint32_t priority)
{
	const struct share_turn *turn;
	uint32_t greatest = 1;

	TAILQ_FOREACH (turn, &s->turns[priority], link) {
		if (turn->share->weight > greatest)
			greatest = turn->share->weight;
	}
	return greatest;
}

static void put_behind(struct shares *s, struct share_turn *turn, uint32_t priority)
{
	TAILQ_REMOVE(&s->turns[priority], turn, link);
	TAILQ_INSERT_TAIL(&s->turns[priority], turn, link);
}

/* The user whose turn it is; NULL: all have been tried. */
static struct share_turn *pick(struct shares *s, uint32_t priority, bool cold_room)
{
	const uint32_t greatest = greatest_weight(s, priority);
	struct share_turn *turn, *best = NULL;

	TAILQ_FOREACH (turn, &s->turns[priority], link) {
		if (!may_go(s, turn, cold_room))
			continue;
		if (turn->share->deficit_ns > 0)
			return turn;
		if (best == NULL || rounds(turn->share, greatest) < rounds(best->share, greatest))
			best = turn;
	}
	if (best == NULL)
		return NULL;
	give(s, priority, greatest, rounds(best->share, greatest));
	/* Others may have something left, though no room: they go first when there is some. */
	put_behind(s, best, priority);
	return best;
}

struct channel *shares_next(struct shares *s, uint32_t priority, bool cold_room)
{
	struct share_turn *turn = pick(s, priority, cold_room);
	struct channel *ch;

	if (turn == NULL)
		return NULL;
	if (turn->attempt != s->attempt) {
		turn->attempt = s->attempt;
		turn->tried = false;
		turn->last = TAILQ_LAST(&turn->runnable, channel_queue);
	}
	if (cold_room && !TAILQ_EMPTY(&turn->cold))
		return TAILQ_FIRST(&turn->cold);
	ch = TAILQ_FIRST(&turn->runnable);
	turn->tried = turn->last == NULL || ch == turn->last;
	return ch;
}

void shares_served(struct shares *s, const struct channel *ch)
{
	struct share_turn *turn = &ch->share->turns[ch->priority];

	if (!turn->listed || turn->share->deficit_ns > 0)
		return;
	put_behind(s, turn, ch->priority);
}

/* --- Dispatch's own time ------------------------------------------------------------------- */

void share_activate(struct shares *s, struct share *share)
{
	s->n_active += share->n_active++ == 0;
}

void share_deactivate(struct shares *s, struct share *share)
{
	s->n_active -= --share->n_active == 0;
}

/* Of `most`, in each round in which the greatest weight has all of it. */
static void give_budgets(struct shares *s, uint32_t most, uint32_t greatest)
{
	const uint64_t full = (uint64_t)most * BUDGET_SCALE;
	struct share *share;

	LIST_FOREACH (share, &s->used, of) {
		if (share->n_active == 0)
			continue;
		share->budget += full * share->weight / greatest;
		if (share->budget > full)
			share->budget = full;
	}
}

void shares_round(struct shares *s, uint32_t most)
{
	uint32_t greatest = 1;
	struct share *share;

	LIST_FOREACH (share, &s->used, of) {
		if (share->n_active > 0 && share->weight > greatest)
			greatest = share->weight;
	}
	give_budgets(s, most, greatest);
}

bool shares_skip_rounds(struct shares *s, uint32_t most)
{
	uint32_t greatest = 0;
	struct share *share;

	LIST_FOREACH (share, &s->used, of) {
		if (share->n_active > 0 && share->budget < BUDGET_SCALE && share->weight > greatest)
			greatest = share->weight;
	}
	if (greatest > 0)
		give_budgets(s, most, greatest);
	return greatest > 0;
}

uint32_t share_budget(const struct share *share, uint32_t most)
{
	const uint64_t budget = share->budget / BUDGET_SCALE;

	return budget < most ? (uint32_t)budget : most;
}

void share_spend(struct share *share, uint32_t spent)
{
	const uint64_t scaled = (uint64_t)spent * BUDGET_SCALE;

	share->budget -= scaled < share->budget ? scaled : share->budget;
}
