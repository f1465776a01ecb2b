/* SPDX-License-Identifier: MIT */
/*
 * dispatch.c: the thread. A round looks at the mailbox, at every active channel and at the
 * device. Without progress it spins while all runnable parties have a CPU of their own, then
 * yields, then parks every channel and sleeps until a doorbell, the device or the mailbox wakes
 * it.
 *
 * A channel that has been idle for a while leaves the scan ("parked"): it has published the
 * index at which it wants the doorbell, and costs nothing until that rings. A rescue poll looks
 * at parked channels now and then; work that it finds twice in a row without a doorbell is
 * counted, since a well-behaved client never causes that.
 */
#include "daemon/dispatch_impl.h"
#include "shm/failpoint.h"
#include "shm/robust.h"
#include "shm/wait.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

#define TICK_NS 50000u	     /* between two looks at what is not looked at in every round */
#define BELLS_NS 8000u	     /* between two looks at doorbells while there is work */
#define PARK_NS 1000000u     /* an idle channel stays in the scan this long */
#define KEEP_ACTIVE 4u	     /* so few channels stay in it until dispatch sleeps */
#define YIELD_NS 100000u     /* yields this long after spinning, before it sleeps */
#define DUE_NS 250000u	     /* a step that ends so soon is waited for awake */
#define RESCUE_NS 100000000u /* between two rescue polls, asleep or not */
#define EXPIRE_NS 1000000u   /* between two looks for deadlines that have passed */
#define HINT_NS 1000000000u  /* a hint that is not proved by then was none */
#define AWAKE_NS 1000000u    /* what is due sooner is waited for awake */
#define SHORT_NAP_NS 100000u
#define SHORT_NAPS 10u
#define NAP_NS 2000000u
#define NAPS (SHORT_NAPS + 2)
#define TIMER_SLACK_NS 5000ul
#define NS_PER_S 1000000000u
#define EVENTS 64
#define IDLE_ROUNDS 64u /* rounds between two looks at the clock while nothing happens */

enum {
	COMMAND_ADD = 1,
	COMMAND_REMOVE,
	COMMAND_REMOVE_BUFFER,
	COMMAND_ADD_PIPELINE,
	COMMAND_REMOVE_PIPELINE,
	COMMAND_ADD_MODEL,
	COMMAND_REMOVE_MODEL,
	COMMAND_DRAIN,
	COMMAND_PAUSE,
	COMMAND_FAIL,
	COMMAND_STOP,
};

#define EPOLL_WAKE UINT64_MAX /* the device or the mailbox; channels have their number */

static void tell(struct dispatch *d, enum dispatch_event_type type, struct channel *ch)
{
	mailbox_put(&d->out, (struct mail){.what = type, .subject = ch});
}

void dispatch_tell_buffer(struct dispatch *d, struct buffer *buffer)
{
	mailbox_put(&d->out, (struct mail){.what = DISPATCH_BUFFER_REMOVED, .subject = buffer});
}

void dispatch_tell_pipeline(struct dispatch *d, struct known_pipeline *pipeline)
{
	mailbox_put(&d->out, (struct mail){.what = DISPATCH_PIPELINE_REMOVED, .subject = pipeline});
}

void dispatch_tell_model(
	struct dispatch *d, struct known_model *model, enum dispatch_event_type type)
{
	mailbox_put(&d->out, (struct mail){.what = type, .subject = model});
}

static uint32_t in_flight(const struct dispatch *d)
{
	return d->n_executing + d->n_capturing + d->n_stepping + d->n_queued;
}

/* Parties that want a CPU: clients look at it to decide whether spinning is sensible. */
static void publish_runnable(struct dispatch *d, uint64_t now_ns)
{
	/* A model's step has something for every worker. */
	uint32_t busy =
		d->n_stepping == 0 && d->n_executing < d->workers ? d->n_executing : d->workers;
	uint32_t runnable = 1 + busy;
	for (uint32_t i = 0; i < d->n_active; i++)
		runnable += now_ns - d->active[i]->last_active_ns < PARK_NS;

	if (shm_load_relaxed_u32(&d->page->runnable) != runnable)
		shm_store_release_u32(&d->page->runnable, runnable);
}

static void wait_for_slots(struct dispatch *d, struct channel *ch)
{
	if (!ch->waiting)
		TAILQ_INSERT_TAIL(&d->waiting, ch, wait_link);
	ch->waiting = true;
}

static void wait_no_more(struct dispatch *d, struct channel *ch)
{
	if (ch->waiting)
		TAILQ_REMOVE(&d->waiting, ch, wait_link);
	ch->waiting = false;
}

void dispatch_activate(struct dispatch *d, struct channel *ch, uint64_t now_ns)
{
	ch->suspect = false;
	/* Whether it still is shows when it is looked at; it is not parked before that. */
	ch->blocked = false;
	wait_no_more(d, ch);
	if (ch->active || ch->held || ch->state != CHANNEL_OPEN)
		return;
	ch->active = true;
	share_activate(&d->shares, ch->share);
	ch->last_active_ns = now_ns;
	d->active[d->n_active++] = ch;
	shm_store_relaxed(&ch->stats->parked, 0);
}

static void deactivate(struct dispatch *d, uint32_t place)
{
	struct channel *ch = d->active[place];

	ch->active = false;
	share_deactivate(&d->shares, ch->share);
	d->active[place] = d->active[--d->n_active];
	shm_store_relaxed(&ch->stats->parked, 1);
}

static void poison(struct dispatch *d, struct channel *ch)
{
	struct wire_header *header = ch->base;

	ch->state = CHANNEL_POISONED;
	/* The client's next submission or poll learns of it without a system call. */
	shm_store_release(&header->closed, GPUQ_EPOISONED);
	slot_discard_queue(d, ch);
	shm_count(&d->stats->poisoned, 1);
	count_error(d, -GPUQ_EPOISONED, "channel", clock_now_ns(&d->o.clock));
	shm_store_release_u32(&ch->stats->state, STATS_CHANNEL_POISONED);
	tell(d, DISPATCH_POISONED, ch);
}

static void leave_scan(struct dispatch *d, const struct channel *ch)
{
	for (uint32_t i = 0; i < d->n_active; i++) {
		if (d->active[i] == ch) {
			deactivate(d, i);
			return;
		}
	}
}

void dispatch_hold(struct dispatch *d, struct channel *ch)
{
	leave_scan(d, ch);
	wait_no_more(d, ch);
	slot_hold_queue(d, ch, true);
	ch->held_ns = clock_now_ns(&d->o.clock);
	shm_store_relaxed(&ch->stats->held_ns, ch->held_ns);
	shm_count(&d->stats->hints, 1);
}

/* Its client lives. Its word is not believed again. */
static void let_go(struct dispatch *d, struct channel *ch, uint64_t now_ns)
{
	ch->notice = NULL;
	slot_hold_queue(d, ch, false);
	shm_store_relaxed(&ch->stats->held_ns, 0);
	shm_count(&d->stats->false_hints, 1);
	dispatch_activate(d, ch, now_ns);
}

/*
 * Takes a channel out of the scan, unless an entry has come meanwhile. A blocked channel has
 * entries already and is parked all the same: what it waits for brings it back.
 */
static bool park(struct dispatch *d, uint32_t place)
{
	struct channel *ch = d->active[place];
	uint32_t have = (uint32_t)(ch->sq.prod - ch->sq.cons);
	uint32_t want = ch->blocked ? have + 1 : 1;
	int r = ring_sleep_prepare(&ch->sq, want);

	if (r < 0) {
		deactivate(d, place);
		poison(d, ch);
		return true;
	}
	if ((uint32_t)r >= want)
		return false;
	deactivate(d, place);
	if (ch->blocked)
		wait_for_slots(d, ch);
	return true;
}

/* --- Mailbox ------------------------------------------------------------------------------ */

/* Slots whose notes a dead process left come into use when their channel has been recovered. */
static void free_reserved_slots(struct dispatch *d)
{
	for (uint32_t i = 0; i < d->o.max_in_flight; i++) {
		struct slot *slot = &d->slots[i];
		if (!slot->reserved || slot->ledger->generation != 0)
			continue;
		slot->reserved = false;
		TAILQ_INSERT_TAIL(&d->free_slots, slot, link);
		d->n_free++;
		d->slot_freed = true;
	}
}

static void on_add(struct dispatch *d, struct channel *ch, bool recover)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = ch->number};

	ch->share = share_join(&d->shares, ch->uid, ch->weight);
	ch->device_stats = d->stats;
	ch->buffers = d->o.buffers;
	ch->pipelines = d->o.pipelines;
	if (recover) {
		channel_recover(ch, d->ledger_entries, d->o.max_in_flight);
		free_reserved_slots(d);
	}
	/* Without a doorbell only the rescue poll would serve it. */
	if (epoll_ctl(d->epoll_fd, EPOLL_CTL_ADD, ch->event_fd, &event) < 0)
		ch->state = CHANNEL_POISONED;
	d->channels[ch->number] = ch;
	d->n_channels++;
	record_channel(d, ch, false);
	ch->drain_at = ch->sq.cons;
	/* Its doorbell may have rung before it was watched: it starts in the scan. */
	dispatch_activate(d, ch, clock_now_ns(&d->o.clock));
	tell(d, DISPATCH_ADDED, ch);
	if (ch->state == CHANNEL_POISONED)
		poison(d, ch);
}

static void finish_removal(struct dispatch *d, struct channel *ch)
{
	wait_no_more(d, ch);
	record_channel(d, ch, true);
	d->channels[ch->number] = NULL;
	d->n_channels--;
	share_leave(&d->shares, ch->share);
	shm_store_relaxed(&ch->stats->drained_ns, clock_now_ns(&d->o.clock));
	tell(d, DISPATCH_REMOVED, ch);
}

static void on_remove(struct dispatch *d, struct channel *ch)
{
	leave_scan(d, ch);
	epoll_ctl(d->epoll_fd, EPOLL_CTL_DEL, ch->event_fd, NULL);
	ch->state = CHANNEL_CLOSING;
	slot_discard_queue(d, ch);
	model_sessions_close(d, ch);
	if (ch->in_flight == 0)
		finish_removal(d, ch);
	else
		wait_for_slots(d, ch);
}

static void on_remove_buffer(struct dispatch *d, struct buffer *buffer)
{
	if (buffer_remove(d->o.buffers, buffer))
		dispatch_tell_buffer(d, buffer);
}

static void on_add_pipeline(struct dispatch *d, struct known_pipeline *pipeline)
{
	pipeline_table_add(d->o.pipelines, pipeline);
	mailbox_put(&d->out, (struct mail){.what = DISPATCH_PIPELINE_ADDED, .subject = pipeline});
}

static void on_remove_pipeline(struct dispatch *d, struct known_pipeline *pipeline)
{
	if (pipeline_table_remove(d->o.pipelines, pipeline))
		dispatch_tell_pipeline(d, pipeline);
}

/* What clients have submitted by now is served, what comes later is refused: both answered. */
static void on_drain(struct dispatch *d)
{
	uint64_t now_ns = clock_now_ns(&d->o.clock);

	d->draining = true;
	d->paused = false;
	dispatch_cancel_captures(d);
	for (uint32_t i = 0; i < d->o.max_channels; i++) {
		struct channel *ch = d->channels[i];
		if (ch == NULL)
			continue;
		ch->drain_at = ring_refresh(&ch->sq) > 0 ? ch->sq.prod : ch->sq.cons;
		dispatch_activate(d, ch, now_ns);
	}
}

static void on_mail(struct dispatch *d, const struct mail *mail)
{
	switch (mail->what) {
	case COMMAND_ADD:
		on_add(d, mail->subject, mail->flag);
		break;
	case COMMAND_REMOVE:
		on_remove(d, mail->subject);
		break;
	case COMMAND_REMOVE_BUFFER:
		on_remove_buffer(d, mail->subject);
		break;
	case COMMAND_ADD_PIPELINE:
		on_add_pipeline(d, mail->subject);
		break;
	case COMMAND_REMOVE_PIPELINE:
		on_remove_pipeline(d, mail->subject);
		break;
	case COMMAND_ADD_MODEL:
		model_added(d, mail->subject);
		break;
	case COMMAND_REMOVE_MODEL:
		model_removed(d, mail->subject, mail->flag);
		break;
	case COMMAND_DRAIN:
		on_drain(d);
		break;
	case COMMAND_PAUSE:
		d->paused = !d->draining;
		dispatch_cancel_captures(d);
		break;
	case COMMAND_FAIL:
		d->failed = true;
		break;
	case COMMAND_STOP:
		d->stop = true;
		break;
	}
}

static bool read_mailbox(struct dispatch *d)
{
	struct mail mail;
	bool any = false;

	while (mailbox_take(&d->in, &mail)) {
		any = true;
		on_mail(d, &mail);
	}
	return any;
}

/* --- A round ------------------------------------------------------------------------------ */

/* Looks at one channel. Positive: something was taken; negative: it is not active any more. */
static int pass(struct dispatch *d, uint32_t place)
{
	struct channel *ch = d->active[place];
	int r = dispatch_channel_pass(d, ch);

	if (r >= 0)
		return r;
	deactivate(d, place);
	if (r == -EOWNERDEAD)
		dispatch_hold(d, ch);
	else
		poison(d, ch);
	return r;
}

static bool scan_parts(struct dispatch *d)
{
	bool progress = false;

	for (uint32_t i = 0; i < d->n_active; i++) {
		const uint32_t place = (d->scan_from + i) % d->n_active;
		struct share *share = d->active[place]->share;
		const uint32_t budget = share_budget(share, PASS_BUDGET);

		if (budget == 0)
			continue;
		d->budget = budget;
		progress |= pass(d, place) > 0;
		share_spend(share, budget - d->budget);
	}
	return progress;
}

/* Channels of several users: each user has its part of a round, another channel of it begins. */
static bool scan_shared(struct dispatch *d)
{
	shares_round(&d->shares, PASS_BUDGET);
	d->scan_from++;
	/* Those of small weights may have work, and nothing of this round. */
	return scan_parts(d) || (shares_skip_rounds(&d->shares, PASS_BUDGET) && scan_parts(d));
}

static bool scan(struct dispatch *d)
{
	bool progress = false;

	if (d->shares.n_active > 1)
		return scan_shared(d);
	for (uint32_t i = 0; i < d->n_active; i++) {
		d->budget = PASS_BUDGET;
		int r = pass(d, i);
		i -= r < 0;
		progress |= r > 0;
	}
	return progress;
}

/* Slots have become free: channels that waited for one may go on, closing ones may end. */
static void after_slots_freed(struct dispatch *d)
{
	uint64_t now_ns = clock_now_ns(&d->o.clock);
	struct channel *ch = TAILQ_FIRST(&d->waiting), *next;

	d->slot_freed = false;
	for (; ch != NULL; ch = next) {
		next = TAILQ_NEXT(ch, wait_link);
		if (ch->state == CHANNEL_OPEN)
			dispatch_activate(d, ch, now_ns);
		else if (ch->in_flight == 0)
			finish_removal(d, ch);
	}
}

static bool round_once(struct dispatch *d)
{
	bool progress = !mailbox_empty(&d->in) && read_mailbox(d);

	progress |= scan(d);
	if (in_flight(d) > 0 || d->n_warming > 0)
		progress |= dispatch_run(d);
	if (d->slot_freed)
		after_slots_freed(d);
	if ((d->draining || d->paused) && !d->drained_told && !progress && in_flight(d) == 0) {
		d->drained_told = true;
		tell(d, DISPATCH_DRAINED, NULL);
	}
	return progress;
}

/* --- Doorbells, parking, sleep ------------------------------------------------------------ */

static void take_doorbells(struct dispatch *d, uint64_t timeout_ns)
{
	const struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / NS_PER_S),
		.tv_nsec = (long)(timeout_ns % NS_PER_S)};
	struct epoll_event events[EVENTS];
	int n = epoll_pwait2(d->epoll_fd, events, EVENTS, &timeout, NULL);
	uint64_t now_ns = clock_now_ns(&d->o.clock);

	d->bells_ns = now_ns;
	for (int i = 0; i < n; i++) {
		if (events[i].data.u64 == EPOLL_WAKE) {
			uint64_t count;
			/* Ours alone: reading resets it. */
			ssize_t got = read(d->o.wake_fd, &count, sizeof(count));
			(void)got;
			continue;
		}
		struct channel *ch = d->channels[events[i].data.u64];
		if (ch != NULL)
			dispatch_activate(d, ch, now_ns);
		shm_count(&d->stats->doorbells, 1);
	}
}

static void park_idle(struct dispatch *d, uint64_t now_ns)
{
	for (uint32_t i = 0; i < d->n_active && d->n_active > KEEP_ACTIVE; i++) {
		if (now_ns - d->active[i]->last_active_ns > PARK_NS && park(d, i))
			i--;
	}
}

static void publish_stats(struct dispatch *d, uint64_t now_ns)
{
	publish_runnable(d, now_ns);
	shm_store_relaxed(&d->stats->heartbeat_ns, now_ns);
	shm_store_relaxed(&d->pulse->dispatch, now_ns);
	shm_store_relaxed(&d->stats->passes, d->passes);
	shm_store_release_u32(&d->stats->active_channels, d->n_active);
	shm_store_relaxed(&d->stats->queued, d->n_queued);
	shm_store_relaxed(&d->stats->executing, d->n_executing + d->n_capturing + d->n_stepping);
	shm_store_relaxed(&d->in_flight, in_flight(d));
	models_publish(d);
}

/*
 * Looks at every channel, however busy the others are: brings back those that wait for their
 * client to read completions, which rings no bell, and those that were held for nothing; and counts
 * work on a parked channel that no doorbell has announced, twice in a row.
 */
static void rescue(struct dispatch *d, uint64_t now_ns)
{
	d->rescue_ns = now_ns;
	shm_store_relaxed(&d->pulse->oldest, dispatch_oldest_ns(d));
	for (uint32_t i = 0; i < d->o.max_channels; i++) {
		struct channel *ch = d->channels[i];
		if (ch == NULL || ch->state != CHANNEL_OPEN)
			continue;
		shm_store_relaxed(&ch->stats->unread, channel_unread(ch));
		record_seen_of(d, ch, now_ns);
		/* It may have been held since this tick began. */
		if (ch->held && now_ns > ch->held_ns + HINT_NS)
			let_go(d, ch, now_ns);
		else if (!ch->held && channel_hinted(ch))
			dispatch_hold(d, ch);
		if (ch->active || ch->held)
			continue;
		int r = ring_refresh(&ch->sq);
		if (r == 0) {
			ch->suspect = false;
		} else if (ch->blocked || r < 0) {
			dispatch_activate(d, ch, now_ns);
		} else if (ch->suspect) {
			shm_count(&d->stats->rescues, 1);
			shm_count(&ch->stats->rescues, 1);
			dispatch_activate(d, ch, now_ns);
		} else {
			ch->suspect = true;
		}
	}
}

/* Clients end between submissions too. */
static void look_for_hints(struct dispatch *d)
{
	for (uint32_t i = d->n_active; i-- > 0;) {
		if (channel_hinted(d->active[i]))
			dispatch_hold(d, d->active[i]);
	}
}

/* Likewise of those that are parked: between naps. */
static void look_at_parked(struct dispatch *d)
{
	for (uint32_t i = 0, seen = 0; i < d->o.max_channels && seen < d->n_channels; i++) {
		struct channel *ch = d->channels[i];
		seen += ch != NULL;
		if (ch != NULL && ch->state == CHANNEL_OPEN && !ch->held && channel_hinted(ch))
			dispatch_hold(d, ch);
	}
}

/* The work that is not done in every round. */
static void tick(struct dispatch *d, uint64_t now_ns)
{
	look_for_hints(d);
	record_seen(d, now_ns);
	if (now_ns - d->rescue_ns > RESCUE_NS)
		rescue(d, now_ns);
	if (d->n_deadlines > 0 && now_ns - d->expire_ns > EXPIRE_NS) {
		d->expire_ns = now_ns;
		dispatch_expire(d, now_ns);
	}
	park_idle(d, now_ns);
	publish_stats(d, now_ns);
	d->tick_ns = now_ns;
}

/* Between rounds: who is parked and rings does not wait until the others have had enough. */
static void look_around(struct dispatch *d)
{
	const uint64_t now_ns = clock_now_ns(&d->o.clock);
	const bool is_time = now_ns - d->tick_ns > TICK_NS;

	if (is_time || (d->n_active < d->n_channels && now_ns - d->bells_ns > BELLS_NS))
		take_doorbells(d, 0);
	if (is_time)
		tick(d, now_ns);
}

static bool anything_done(struct dispatch *d)
{
	/* Slots may have become free since the last round: of late entries, say. */
	return d->slot_freed || !mailbox_empty(&d->in) || dispatch_has_ended(d) ||
		(models_busy(d) && model_run(d));
}

/*
 * A step is likely to end within the time that falling asleep, the device's bell and being woken
 * take together. One that is late is waited for asleep.
 */
static bool is_due(const struct dispatch *d)
{
	const uint64_t due_ns = d->n_stepping > 0 ? model_due_ns(d) : UINT64_MAX;
	const uint64_t now_ns = due_ns == UINT64_MAX ? 0 : clock_now_ns(&d->o.clock);

	return due_ns != UINT64_MAX && now_ns + DUE_NS >= due_ns && now_ns < due_ns + DUE_NS;
}

/* Until when a step can be waited for asleep; UINT64_MAX: for as long as it takes. */
static uint64_t doze_end_ns(const struct dispatch *d, uint64_t now_ns)
{
	const uint64_t due_ns = model_due_ns(d);

	return due_ns == UINT64_MAX || due_ns < now_ns + DUE_NS ? UINT64_MAX : due_ns - DUE_NS;
}

/*
 * Sleeps after work are short at first: clients that end just then are noticed soon, though the
 * mark comes some time after the kill.
 */
static uint64_t nap_ns(const struct dispatch *d)
{
	return d->naps < SHORT_NAPS ? SHORT_NAP_NS : d->naps < NAPS ? NAP_NS : RESCUE_NS;
}

/* How long there is nothing to do that rings no bell, or whose bell would come late. */
static uint64_t sleep_ns(const struct dispatch *d, bool may_watch)
{
	uint64_t most_ns = nap_ns(d);
	uint64_t wake_ns = d->n_stepping > 0 ? model_wake_ns(d) : UINT64_MAX;
	uint64_t now_ns = d->n_stepping > 0 ? clock_now_ns(&d->o.clock) : 0;

	if (may_watch && d->n_stepping > 0 && doze_end_ns(d, now_ns) < wake_ns)
		wake_ns = doze_end_ns(d, now_ns);
	if (d->n_deadlines > 0 && most_ns > EXPIRE_NS)
		most_ns = EXPIRE_NS;
	if (wake_ns <= now_ns)
		return 0;
	/* A sleeper is late: the last part is waited for awake. */
	const uint64_t left_ns = (wake_ns - now_ns) / AWAKE_NS * AWAKE_NS;
	return left_ns < most_ns ? left_ns : most_ns;
}

/* True when the sleep ended by itself: there is nothing to look for awake. */
static bool sleep_until_wanted(struct dispatch *d, bool may_watch)
{
	/* A gather window is over sooner than falling asleep takes. */
	if (sleep_ns(d, may_watch) == 0)
		return false;
	look_for_hints(d);
	while (d->n_active > 0) {
		if (!park(d, d->n_active - 1))
			return false;
	}
	publish_stats(d, clock_now_ns(&d->o.clock));
	if (d->napped_at != shm_load_relaxed(&d->stats->consumed))
		d->naps = 0;
	d->napped_at = shm_load_relaxed(&d->stats->consumed);
	device_sleep_prepare(d->o.device, true);
	FAILPOINT("dispatch.wish");
	if (!anything_done(d)) {
		shm_count(&d->stats->sleeps, 1);
		take_doorbells(d, sleep_ns(d, may_watch));
	}
	device_sleep_prepare(d->o.device, false);
	if (d->naps < NAPS) {
		d->naps++;
		look_at_parked(d);
	}
	tick(d, clock_now_ns(&d->o.clock));
	return d->n_active == 0 && !anything_done(d);
}

/* The device has failed: nobody is left waiting, and nothing new is taken. */
static void fail(struct dispatch *d)
{
	struct pollfd p = {.fd = d->o.wake_fd, .events = POLLIN};
	struct mail mail;
	uint64_t count;

	dispatch_lose_all(d);
	FAILPOINT("dispatch.lost_all");
	tell(d, DISPATCH_FAILED, NULL);
	while (!d->stop) {
		if (!mailbox_take(&d->in, &mail)) {
			(void)poll(&p, 1, -1);
			ssize_t got = read(d->o.wake_fd, &count, sizeof(count));
			(void)got;
		} else if (mail.what == COMMAND_STOP) {
			d->stop = true;
		}
	}
}

static void *dispatch_main(void *arg)
{
	struct dispatch *d = arg;
	struct wait wait = wait_begin(d->o.poll_us * 1000ull, YIELD_NS);
	uint32_t rounds = 0;
	bool rested = false;

	wait.brief_rounds = WAIT_BRIEF_ROUNDS;
	prctl(PR_SET_NAME, "gpuqd-dispatch");
	prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS, 0, 0, 0);
	robust_take(&d->page->owner);
	record_start(d);
	while (!d->stop) {
		bool progress = round_once(d);
		d->passes++;
		if (__builtin_expect(d->failed, 0)) {
			fail(d);
			break;
		}
		if (progress || ++rounds % IDLE_ROUNDS == 0)
			look_around(d);
		if (progress) {
			wait_done(&wait);
			rested = false;
			continue;
		}
		bool may_spin = shm_load_relaxed_u32(&d->page->runnable) <= d->cpus;
		bool may_watch = may_spin && d->o.poll_us > 0;
		if (rested || !wait_round(&wait, may_spin, &d->o.clock)) {
			rested = false;
			if (may_watch && is_due(d))
				continue;
			rested = sleep_until_wanted(d, may_watch);
			wait_reset(&wait);
		}
	}
	return NULL;
}

/* --- Start, and the link thread's side ---------------------------------------------------- */

static uint32_t power_of_two(uint32_t n)
{
	uint32_t p = 1;

	while (p < n)
		p *= 2;
	return p;
}

static int create_mailbox(struct mailbox *m, uint32_t mails, int wake_fd)
{
	m->size = power_of_two(mails);
	m->mails = calloc(m->size, sizeof(*m->mails));
	m->wake_fd = wake_fd;
	if (m->mails == NULL)
		return -ENOMEM;
	return wake_fd < 0 ? wake_fd : 0;
}

static int create_slots(struct dispatch *d)
{
	d->slots = calloc(d->o.max_in_flight, sizeof(*d->slots));
	d->capturing = calloc(d->o.max_in_flight, sizeof(struct slot *));
	if (d->slots == NULL || d->capturing == NULL)
		return -ENOMEM;
	const uint64_t bytes = d->o.max_in_flight * sizeof(*d->completions);
	int r = device_alloc(d->o.device, DEVICE_PINNED, bytes, (void **)&d->completions);
	if (r < 0)
		return r;
	memset(d->completions, 0, bytes);
	TAILQ_INIT(&d->free_slots);
	for (uint32_t i = 0; i < d->o.max_in_flight; i++) {
		d->slots[i].completion = &d->completions[i];
		d->slots[i].ledger = &d->ledger_entries[i];
		d->slots[i].reserved = true;
	}
	free_reserved_slots(d);
	TAILQ_INIT(&d->waiting);
	TAILQ_INIT(&d->held);
	d->estimates = calloc(ESTIMATES, sizeof(*d->estimates));
	if (d->estimates == NULL)
		return -ENOMEM;
	return shares_create(&d->shares, d->o.max_channels, d->o.ageing_ns);
}

static int create_epoll(struct dispatch *d)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = EPOLL_WAKE};

	d->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (d->epoll_fd < 0 || epoll_ctl(d->epoll_fd, EPOLL_CTL_ADD, d->o.wake_fd, &event) < 0)
		return -errno;
	return 0;
}

int dispatch_create(const struct dispatch_options *options, struct dispatch **ret_dispatch)
{
	struct dispatch *d = calloc(1, sizeof(*d));
	uint32_t mails = 2 * options->max_channels + options->max_buffers +
		2 * options->max_pipelines + 2 * options->max_models + 4;
	struct device_info info;

	if (d == NULL)
		return -ENOMEM;
	d->o = *options;
	d->epoll_fd = -1;
	d->out.wake_fd = -1;
	d->ledger_entries = (void *)((struct ledger_channel *)d->o.ledger + d->o.max_channels);
	d->pulse = ledger_pulse(d->o.ledger, d->o.max_channels, d->o.max_in_flight);
	d->pulse->oldest = 0;
	d->page = &d->o.page->devices[d->o.slot];
	d->stats = &d->o.stats.devices[d->o.slot];
	d->n_session_records = d->o.stats.header->max_sessions;
	d->n_pipeline_records = d->o.stats.header->max_pipelines;
	d->cpus = wait_shared_cpus();
	device_info(d->o.device, &info);
	d->workers = info.workers;
	d->channels = calloc(d->o.max_channels, sizeof(*d->channels));
	d->active = calloc(d->o.max_channels, sizeof(*d->active));
	int r = d->channels == NULL || d->active == NULL ? -ENOMEM : create_slots(d);
	if (r == 0)
		r = model_tables_create(d);
	if (r == 0)
		r = copy_streams_create(d);
	if (r == 0)
		r = create_epoll(d);
	if (r == 0)
		r = create_mailbox(&d->in, mails, d->o.wake_fd);
	if (r == 0)
		r = create_mailbox(&d->out, 2 * mails, bell_eventfd());
	if (r < 0) {
		dispatch_destroy(d);
		return r;
	}
	*ret_dispatch = d;
	return 0;
}

int dispatch_start(struct dispatch *d)
{
	/* Before: its neighbours in memory are the thread's from then on. */
	d->started = true;
	int r = -pthread_create(&d->thread, NULL, dispatch_main, d);

	if (r < 0)
		d->started = false;
	return r;
}

void dispatch_destroy(struct dispatch *d)
{
	if (d == NULL)
		return;
	if (d->started) {
		mailbox_put(&d->in, (struct mail){.what = COMMAND_STOP});
		pthread_join(d->thread, NULL);
	}
	if (d->epoll_fd >= 0)
		close(d->epoll_fd);
	if (d->out.wake_fd >= 0)
		close(d->out.wake_fd);
	copy_streams_destroy(d);
	device_free(d->o.device, DEVICE_PINNED, d->completions);
	model_tables_destroy(d);
	free(d->in.mails);
	free(d->out.mails);
	shares_destroy(&d->shares);
	free(d->estimates);
	free(d->capturing);
	free(d->slots);
	free(d->active);
	free(d->channels);
	free(d);
}

void dispatch_add(struct dispatch *d, struct channel *ch, bool recover)
{
	mailbox_put(&d->in, (struct mail){.what = COMMAND_ADD, .flag = recover, .subject = ch});
}

void dispatch_remove(struct dispatch *d, struct channel *ch)
{
	mailbox_put(&d->in, (struct mail){.what = COMMAND_REMOVE, .subject = ch});
}

void dispatch_remove_buffer(struct dispatch *d, struct buffer *buffer)
{
	mailbox_put(&d->in, (struct mail){.what = COMMAND_REMOVE_BUFFER, .subject = buffer});
}

void dispatch_add_pipeline(struct dispatch *d, struct known_pipeline *pipeline)
{
	mailbox_put(&d->in, (struct mail){.what = COMMAND_ADD_PIPELINE, .subject = pipeline});
}

void dispatch_remove_pipeline(struct dispatch *d, struct known_pipeline *pipeline)
{
	mailbox_put(&d->in, (struct mail){.what = COMMAND_REMOVE_PIPELINE, .subject = pipeline});
}

void dispatch_add_model(struct dispatch *d, struct known_model *model)
{
	mailbox_put(&d->in, (struct mail){.what = COMMAND_ADD_MODEL, .subject = model});
}

void dispatch_remove_model(struct dispatch *d, struct known_model *model, bool force)
{
	mailbox_put(&d->in,
		(struct mail){.what = COMMAND_REMOVE_MODEL, .flag = force, .subject = model});
}

void dispatch_fail(struct dispatch *d)
{
	mailbox_put(&d->in, (struct mail){.what = COMMAND_FAIL});
}

bool dispatch_is_busy(const struct dispatch *d)
{
	return shm_load_relaxed(&d->in_flight) > 0;
}

void dispatch_drain(struct dispatch *d)
{
	mailbox_put(&d->in, (struct mail){.what = COMMAND_DRAIN});
}

void dispatch_pause(struct dispatch *d)
{
	mailbox_put(&d->in, (struct mail){.what = COMMAND_PAUSE});
}

bool dispatch_take_event(struct dispatch *d, struct dispatch_event *ret_event)
{
	struct mail mail;

	if (!mailbox_take(&d->out, &mail))
		return false;
	*ret_event = (struct dispatch_event){.type = mail.what, .channel = mail.subject};
	return true;
}

int dispatch_event_fd(const struct dispatch *d)
{
	return d->out.wake_fd;
}
