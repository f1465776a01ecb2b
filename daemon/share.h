/* SPDX-License-Identifier: MIT */
/*
 * share.h: what each user has of the device, and whose turn it is. Channels with something queued
 * wait here, in the order of their coming, in the queues of their user and priority.
 *
 * Strict priorities: the first one with work goes first, but for one behind it that has waited for
 * `ageing_ns` without a launch; that has one. Within a priority, deficit round robin between users:
 * in each round the user of the greatest weight is given SHARE_QUANTUM_NS, the others as much less
 * as their weights are, and launches are charged with the time of the device that they are
 * predicted to take, corrected by what was measured: by the device where it can tell, else from the
 * launch, or from the end of the work before it in its lane, to the end. So it is time that is
 * shared, not turns, and the number of its channels helps nobody. The last launch of a round may
 * overdraw; the next rounds pay for it. A round ends when those who have used theirs up are the
 * only ones with anything that finds room; others keep what they have, up to SHARE_MAX_SAVED_NS.
 * Who has nothing to do saves nothing up; and its debts are forgiven by as much time as it leaves
 * the device to others.
 *
 * Dispatch shares its own time between users likewise: see share_budget().
 *
 * One thread uses all of this. Nothing here reads a clock, so that tests can play any time.
 */
#ifndef GPUQ_DAEMON_SHARE_H
#define GPUQ_DAEMON_SHARE_H

#include "daemon/channel.h"
#include "shm/proto.h"

#define SHARE_QUANTUM_NS 100000
#define SHARE_MAX_WEIGHT 1000u
#define SHARE_MAX_SAVED_NS 10000000

/* What waits of a user, of one priority. */
struct share_turn {
	struct share *share;
	/* Channels; `cold`: those whose first entry waits for room among cold works. */
	struct channel_queue runnable, cold;
	const struct channel *last; /* of those that are tried in the present attempt */
	uint64_t attempt;	    /* the last one that it was tried in */
	bool tried;		    /* in that: there is no room for anything of it */
	bool listed;
	TAILQ_ENTRY(share_turn) link; /* in shares.turns, when something waits */
};
TAILQ_HEAD(share_turns, share_turn);

/* A user that has channels. */
struct share {
	uint32_t uid, weight;
	uint32_t n_channels;
	uint32_t n_active;    /* of these, in the scan */
	uint32_t in_flight;   /* entries: queued or executing */
	uint32_t n_listed;    /* of its turns */
	int64_t deficit_ns;   /* of the device, that it may still use in this round */
	uint64_t idle_ns;     /* since when nothing of it is in flight */
	uint64_t rate_ns;     /* so far submissions are spoken for: see share_submits() */
	uint64_t budget;      /* of dispatch's time: see share_budget() */
	LIST_ENTRY(share) of; /* shares.used, or .free */
	struct share_turn turns[MSG_PRIORITIES];
};
LIST_HEAD(share_list, share);

struct shares {
	struct share *all;
	struct share_list used, free;
	struct share_turns turns[MSG_PRIORITIES];
	uint32_t n_runnable[MSG_PRIORITIES], n_cold[MSG_PRIORITIES]; /* channels */
	uint64_t waiting_ns[MSG_PRIORITIES]; /* since when it has had work, and no launch */
	uint64_t attempt, ageing_ns;
	uint32_t n_active; /* users with channels in the scan */
};

/* At most so many users. -ENOMEM. */
int shares_create(struct shares *s, uint32_t max_users, uint64_t ageing_ns);
void shares_destroy(struct shares *s);

/*
 * The user of a new channel, with this weight from now on; share_leave() gives it back when nothing
 * of the channel is in flight. There are no more users than channels.
 */
struct share *share_join(struct shares *s, uint32_t uid, uint32_t weight);
void share_leave(struct shares *s, struct share *share);

/* The channel has something queued; ch->waits_cold says where. And: it has not, or is held. */
void share_queue(struct shares *s, struct channel *ch, uint64_t now_ns);
void share_unqueue(struct shares *s, struct channel *ch);

/* Puts it behind the others of its user. */
void share_requeue(struct shares *s, struct channel *ch, bool waits_cold);

/* An entry was accepted, or is completed. */
void share_began(struct share *share, uint64_t now_ns);
void share_ended(struct share *share, uint64_t now_ns);

/* The user had, or will have, so much of the device; negative: it was charged too much. */
static inline void share_charge(struct share *share, int64_t device_ns)
{
	share->deficit_ns -= device_ns;
}

/*
 * Whether another submission keeps to so many a second (not 0), in bursts of one second's. If so,
 * it is counted.
 */
bool share_submits(struct share *share, uint32_t rate, uint64_t now_ns);

/*
 * The priority to start something of, not in the mask `full`; those in the mask `cold_room` have
 * room among cold works. MSG_PRIORITIES: nothing waits that could go.
 */
uint32_t shares_priority(
	const struct shares *s, uint32_t full, uint32_t cold_room, uint64_t now_ns);

/* Something of this priority was started. */
void shares_launched(struct shares *s, uint32_t priority, uint64_t now_ns);

/*
 * The channel of this priority whose turn it is. An attempt is a series of calls, of which each one
 * says by being made that there is no room for what the one before gave, and that its channel has
 * been put behind the others of its user. It ends with NULL: all have been tried.
 */
void shares_attempt(struct shares *s);
struct channel *shares_next(struct shares *s, uint32_t priority, bool cold_room);

/* Something of this channel was started, and charged: whose turn is over goes behind the others. */
void shares_served(struct shares *s, const struct channel *ch);

/* --- Dispatch's own time ------------------------------------------------------------------- */

/* The channel is in the scan, or leaves it. */
void share_activate(struct shares *s, struct share *share);
void share_deactivate(struct shares *s, struct share *share);

/* A round of the scan begins, with several users in it: each has its part of `most`. */
void shares_round(struct shares *s, uint32_t most);

/*
 * Nobody who has something left of its part wanted anything. So as many rounds pass as it takes
 * until the heaviest of the others has a whole one. False: there are no others.
 */
bool shares_skip_rounds(struct shares *s, uint32_t most);

/* What is left of that, at most `most`; and what was spent of it. */
uint32_t share_budget(const struct share *share, uint32_t most);
void share_spend(struct share *share, uint32_t spent);

#endif
