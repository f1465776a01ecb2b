/* SPDX-License-Identifier: MIT */
/*
 * soak_reaper.c: starts clients and ends them: most by a kill, at any moment or where few have died
 * so far, some after they were stopped or starved, some in order. Now and then all end in order,
 * and gpuqd must hold what it held before the first one.
 */
#include "tools/soak.h"

#include "shm/clock.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MS 1000000ull
#define LOOK_US 300
#define LIFE_MS 60u    /* a victim is left alone for up to this long */
#define LINGER_MS 150u /* and for so long more until it comes by where it is to die */
#define STOP_MS 50u
#define STARVE_STEPS 10u
#define WARM_UP_NS (1000 * MS)
#define WARM_UPS 2

void soak_wrong(struct soak *s, const char *format, ...)
{
	va_list args;

	if (s->wrong)
		return;
	s->wrong = true;
	va_start(args, format);
	vsnprintf(s->complaint, sizeof(s->complaint), format, args);
	va_end(args);
}

static struct soak_page *page_of(struct soak *s, uint32_t i)
{
	return &s->common->pages[i];
}

/* --- Beginning ----------------------------------------------------------------------------- */

static enum soak_plan choose_plan(struct soak *s)
{
	uint32_t at = soak_below(&s->rng, 100);

	if (at < 65)
		return SOAK_KILL;
	if (at < 75)
		return SOAK_KILL_STOPPED;
	if (at < 85)
		return SOAK_STOP;
	return at < 96 ? SOAK_STARVE : SOAK_LET_END;
}

/* The state in which fewest have died. */
static enum soak_state rarest(const struct soak *s)
{
	enum soak_state rare = SOAK_CONNECTING;

	for (uint32_t i = 0; i < SOAK_STATES; i++) {
		if (i == SOAK_GENERATING && !s->common->has_model)
			continue;
		if (s->died_in[i] < s->died_in[rare])
			rare = (enum soak_state)i;
	}
	return rare;
}

static void start_client(struct soak *s, uint32_t i, bool steady)
{
	struct soak_slot *slot = &s->slots[i];
	struct soak_page *page = page_of(s, i);
	uint64_t life = s->seed + ++s->lives * SOAK_SLOTS;

	*slot = (struct soak_slot){
		.steady = steady,
		.plan = choose_plan(s),
		.steps = STARVE_STEPS,
		.at_ns = clock_monotonic_ns() + soak_below(&s->rng, LIFE_MS * 1000) * 1000ull,
	};
	if (!steady && slot->plan <= SOAK_KILL_STOPPED && soak_below(&s->rng, 6) != 0)
		slot->wish = 1 + (uint32_t)rarest(s);
	/* These come first in a life. */
	if (slot->wish == 1 + SOAK_CONNECTING || slot->wish == 1 + SOAK_OPENING)
		slot->at_ns = 0;
	page->state = SOAK_CONNECTING;
	page->stop = page->started = page->lingers = page->pid = 0;
	page->wish = slot->wish;
	slot->pid = fork();
	if (slot->pid == 0)
		soak_client_main(s->common, i, life);
	if (slot->pid < 0) {
		slot->pid = 0;
		soak_wrong(s, "no process for a client: %s", strerror(errno));
	}
}

/* --- Ending -------------------------------------------------------------------------------- */

static void forget(struct soak *s, uint32_t i)
{
	s->slots[i].pid = 0;
	shm_store_release_u32(&page_of(s, i)->pid, 0);
}

/* It has ended by itself: fine if that was asked for. */
static void ended_itself(struct soak *s, uint32_t i, int status)
{
	const struct soak_page *page = page_of(s, i);
	pid_t pid = s->slots[i].pid;

	forget(s, i);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
		s->ends++;
		return;
	}
	if (page->complaint[0] != '\0')
		soak_wrong(s, "client %u (pid %d), %s: %s", i, (int)pid,
			soak_state_names[page->state % SOAK_STATES], page->complaint);
	else
		soak_wrong(s, "client %u (pid %d) ended with wait status %#x while %s", i, (int)pid,
			(unsigned int)status, soak_state_names[page->state % SOAK_STATES]);
}

static void look_for_ends(struct soak *s)
{
	int status;

	for (uint32_t i = 0; i < s->n_slots; i++) {
		pid_t pid = s->slots[i].pid;
		if (pid > 0 && waitpid(pid, &status, WNOHANG) == pid)
			ended_itself(s, i, status);
	}
}

static void kill_client(struct soak *s, uint32_t i)
{
	struct soak_slot *slot = &s->slots[i];
	int status = 0;

	kill(slot->pid, SIGKILL);
	if (waitpid(slot->pid, &status, 0) == slot->pid && !WIFSIGNALED(status)) {
		ended_itself(s, i, status);
		return;
	}
	/* Nobody writes there any more: this is what it was doing. */
	s->died_in[page_of(s, i)->state % SOAK_STATES]++;
	s->killed++;
	forget(s, i);
}

static void stop_client(struct soak *s, uint32_t i, bool stop)
{
	shm_fetch_add_u32(&page_of(s, i)->stops, 1);
	kill(s->slots[i].pid, stop ? SIGSTOP : SIGCONT);
	s->slots[i].stopped = stop;
}

/* --- Plans --------------------------------------------------------------------------------- */

/* The next part of a plan, which is due. */
static void follow_plan(struct soak *s, uint32_t i, uint64_t now_ns)
{
	struct soak_slot *slot = &s->slots[i];

	switch (slot->plan) {
	case SOAK_KILL:
		kill_client(s, i);
		break;
	case SOAK_KILL_STOPPED:
	case SOAK_STOP:
		s->stops++;
		stop_client(s, i, !slot->stopped);
		slot->at_ns = now_ns + soak_below(&s->rng, STOP_MS) * MS;
		if (!slot->stopped || slot->plan == SOAK_KILL_STOPPED)
			slot->plan = SOAK_KILL;
		break;
	case SOAK_STARVE:
		stop_client(s, i, !slot->stopped);
		slot->at_ns = now_ns + (slot->stopped ? 5 * MS : MS / 2);
		if (--slot->steps > 0)
			break;
		s->starvations++;
		slot->plan = SOAK_KILL;
		break;
	case SOAK_LET_END:
		if (page_of(s, i)->stop != 0) {
			soak_wrong(s, "client %u did not end in %.1f s, %s", i,
				(double)s->common->bound_ns / 1e9,
				soak_state_names[page_of(s, i)->state % SOAK_STATES]);
			break;
		}
		shm_store_release_u32(&page_of(s, i)->stop, 1);
		slot->at_ns = now_ns + s->common->bound_ns;
		break;
	}
}

static bool due(struct soak *s, uint32_t i, uint64_t now_ns)
{
	struct soak_slot *slot = &s->slots[i];
	const struct soak_page *page = page_of(s, i);

	if (slot->steady || slot->pid == 0 || shm_load_acquire_u32(&page->started) == 0)
		return false;
	if (now_ns < slot->at_ns)
		return false;
	if (slot->wish == 0)
		return true;
	if (!slot->waits) {
		slot->waits = true;
		slot->lingers = slot->at_ns == 0 ? 0 : shm_load_relaxed_u32(&page->lingers);
		slot->at_ns = now_ns;
	}
	if (now_ns > slot->at_ns + LINGER_MS * MS)
		return true;
	if (shm_load_relaxed_u32(&page->lingers) == slot->lingers)
		return false;
	/* It has come by: it dies there, or a little later. */
	slot->wish = 0;
	slot->at_ns = now_ns + soak_below(&s->rng, 1000) * 1000ull;
	return false;
}

/* --- Accounts ------------------------------------------------------------------------------ */

/* Work of clients that nobody harms, of which no doorbell had told gpuqd. */
static void count_steady_rescues(struct soak *s)
{
	const struct stats *stats = &s->daemon.stats;

	for (uint32_t i = 0; i < stats->header->max_channels; i++) {
		const struct stats_channel *ch = &stats->channels[i];
		uint32_t pid = stats->clients[ch->client % stats->header->max_clients].pid;
		if (shm_load_acquire_u32(&ch->state) != STATS_CHANNEL_OPEN)
			continue;
		for (uint32_t k = 0; k < s->n_steady; k++) {
			if (s->slots[k].pid == (pid_t)pid)
				s->steady_rescues += shm_load_relaxed(&ch->rescues);
		}
	}
}

static bool anybody_lives(const struct soak *s)
{
	for (uint32_t i = 0; i < s->n_slots; i++) {
		if (s->slots[i].pid != 0)
			return true;
	}
	return false;
}

static void end_all(struct soak *s)
{
	uint64_t start_ns = clock_monotonic_ns();

	count_steady_rescues(s);
	for (uint32_t i = 0; i < s->n_slots; i++) {
		if (s->slots[i].pid == 0)
			continue;
		shm_store_release_u32(&page_of(s, i)->wish, 0);
		shm_store_release_u32(&page_of(s, i)->stop, 1);
		if (s->slots[i].stopped)
			stop_client(s, i, false);
	}
	while (anybody_lives(s)) {
		look_for_ends(s);
		if (clock_monotonic_ns() - start_ns < s->common->bound_ns) {
			soak_sleep_us(LOOK_US);
			continue;
		}
		for (uint32_t i = 0; i < s->n_slots; i++) {
			if (s->slots[i].pid != 0)
				kill_client(s, i);
		}
		soak_wrong(s, "not all clients ended in %.1f s", (double)s->common->bound_ns / 1e9);
	}
}

/* What the records of all shapes add up to. */
static uint64_t graph_records_bytes(const struct stats *stats)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < stats->header->max_graphs; i++) {
		if (shm_load_acquire_u32(&stats->graphs[i].state) != 0)
			bytes += shm_load_relaxed(&stats->graphs[i].bytes);
	}
	return bytes;
}

/* Memory of graphs is kept on purpose, so it is no leak when each byte of it is some shape's. */
static bool accounts_agree(struct soak *s, struct world *ret_now)
{
	*ret_now = world_read(s->daemon.pid, &s->daemon.stats);
	const uint64_t graphs_kib = ret_now->graph_bytes > s->before.graph_bytes
		? (ret_now->graph_bytes - s->before.graph_bytes) >> 10
		: 0;

	return ret_now->graph_bytes == graph_records_bytes(&s->daemon.stats) &&
		world_is_back(ret_now, &s->before, s->slack_kib + graphs_kib);
}

/* Nobody is connected: gpuqd holds what it held before, soon. */
static void check_accounts(struct soak *s)
{
	char before[1024], now[1024];
	uint64_t start_ns = clock_monotonic_ns();
	struct world w;

	while (!accounts_agree(s, &w) && clock_monotonic_ns() - start_ns < s->common->bound_ns)
		soak_sleep_us(10 * LOOK_US);
	if (w.graph_bytes > shm_load_relaxed(&s->daemon.stats.devices[0].graph_budget))
		soak_wrong(s, "graphs take %llu bytes, more than their budget",
			(unsigned long long)w.graph_bytes);
	if (s->n_checkpoints < SOAK_CHECKPOINTS) {
		s->checkpoint_kills[s->n_checkpoints] = s->killed;
		s->checkpoints[s->n_checkpoints++] = w;
	}
	if (clock_monotonic_ns() - start_ns < s->common->bound_ns)
		return;
	world_describe(&s->before, before, sizeof(before));
	world_describe(&w, now, sizeof(now));
	fprintf(stderr, "before:\n%s\nnow:\n%s\ngraphs: %llu bytes, by their records %llu\n",
		before, now, (unsigned long long)w.graph_bytes,
		(unsigned long long)graph_records_bytes(&s->daemon.stats));
	soak_wrong(s, "not everything came back within %.1f s", (double)s->common->bound_ns / 1e9);
}

/* --- The run ------------------------------------------------------------------------------- */

static bool over(const struct soak *s)
{
	return s->wrong || *s->interrupted != 0;
}

/* Clients live and die until so many were killed, or for some time when nobody is to be harmed. */
static void reap_until(struct soak *s, uint64_t killed, uint64_t ns)
{
	uint64_t start_ns = clock_monotonic_ns(), now_ns = start_ns;

	while (!over(s) && (ns != 0 ? now_ns - start_ns < ns : s->killed < killed)) {
		for (uint32_t i = 0; i < s->n_slots && !over(s); i++) {
			now_ns = clock_monotonic_ns();
			if (s->slots[i].pid == 0)
				start_client(s, i, ns != 0 || i < s->n_steady);
			else if (due(s, i, now_ns))
				follow_plan(s, i, now_ns);
		}
		look_for_ends(s);
		soak_progress(s, false);
		soak_sleep_us(LOOK_US);
	}
}

/* On a slow machine few die where they were to: up to twice as many die in all. */
static bool wants_more(const struct soak *s)
{
	return s->died_in[rarest(s)] < s->least && s->killed < 2 * s->kills;
}

void soak_reap(struct soak *s)
{
	uint64_t step = s->kills / 10 > 100 ? s->kills / 10 : 100;

	/* What only first uses bring into memory is there after these. */
	for (uint32_t i = 0; i < WARM_UPS && !over(s); i++) {
		reap_until(s, 0, WARM_UP_NS);
		end_all(s);
	}
	do {
		soak_sleep_us(10 * LOOK_US);
		s->before = world_read(s->daemon.pid, &s->daemon.stats);
	} while (!over(s) && (s->before.clients > 0 || s->before.dying > 0));
	s->ends = s->steady_rescues = 0;
	s->start_ns = s->shown_ns = clock_monotonic_ns();
	while (!over(s) && (s->killed < s->kills || wants_more(s))) {
		uint64_t until = s->killed + step;
		reap_until(s, until < s->kills || s->killed >= s->kills ? until : s->kills, 0);
		end_all(s);
		if (!over(s))
			check_accounts(s);
	}
	end_all(s);
	for (uint32_t i = 0; i < s->n_steady; i++)
		s->steady_rescues += page_of(s, i)->rescues;
	if (s->steady_rescues > 0)
		soak_wrong(s, "%llu rescues among clients that nobody harmed",
			(unsigned long long)s->steady_rescues);
	soak_progress(s, true);
}
