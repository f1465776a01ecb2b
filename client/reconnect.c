/* SPDX-License-Identifier: MIT */
/*
 * reconnect.c: another gpuqd at the same socket. The connection gets its socket and its page; a
 * channel gets new rings, at the addresses of the old ones and with the arena's contents, when the
 * thread that owns it asks. Other threads' channels may be in use meanwhile: they have ended by
 * their own headers before the old page is replaced, so the new one says nothing to them.
 */
#include "client/client.h"
#include "shm/segment.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAUSE_NS 10000000
#define DEVICE_END_NS NS_PER_S /* what old device processes have to end */

uint64_t gpuq_epoch(const struct gpuq *g)
{
	return shm_load_acquire(&g->epoch);
}

/* --- The connection ------------------------------------------------------------------------ */

static void nap(void)
{
	const struct timespec pause = {.tv_nsec = PAUSE_NS};

	(void)nanosleep(&pause, NULL);
}

/* Whether its device process writes no ring any more; gpuqd itself has ended or hung up. */
static bool device_ended(const struct gpuq *g, uint32_t device, uint64_t end_ns)
{
	for (; page_gone(g->page); nap()) {
		if (robust_died(&g->page->devices[device].owner))
			return true;
		if (clock_monotonic_ns() >= end_ns)
			break;
	}
	return false;
}

/* Ends the channels of the old gpuqd by their own headers. The lock is held. */
static void end_channels(struct gpuq *g)
{
	const uint64_t end_ns = clock_monotonic_ns() + DEVICE_END_NS;

	for (struct gpuq_channel *ch = g->channels; ch != NULL; ch = ch->next) {
		struct wire_header *header = ch->segment;
		/* Those that are two gpuqds behind were told then. */
		if (ch->epoch != g->epoch)
			continue;
		shm_store_relaxed(&ch->device_ended, device_ended(g, ch->device, end_ns));
		if (shm_load_relaxed(&header->closed) == 0)
			shm_store_release(&header->closed, GPUQ_EGONE);
	}
}

/* `fresh` gives what it has, and is freed. */
static int adopt(struct gpuq *g, struct gpuq *fresh)
{
	pthread_mutex_lock(&g->lock);
	end_channels(g);
	int r = dup3(fresh->fd, g->fd, O_CLOEXEC) < 0 ? -errno : 0;
	/* Atomic for those who look at it now. */
	if (r == 0 &&
		mremap((void *)fresh->page, WIRE_PAGE_SIZE, WIRE_PAGE_SIZE,
			MREMAP_MAYMOVE | MREMAP_FIXED, (void *)g->page) == MAP_FAILED)
		r = -errno;
	if (r == 0) {
		fresh->page = NULL;
		discovery_forget(g, &fresh->welcome, fresh->ops);
		fresh->ops = NULL;
		g->serial = fresh->serial;
		pipelines_lose(g);
		shm_store_relaxed(&g->gone, 0);
		shm_store_release(&g->epoch, g->epoch + 1);
	}
	pthread_mutex_unlock(&g->lock);
	close(fresh->fd);
	fresh->fd = -1;
	gpuq_disconnect(fresh);
	return r < 0 ? fail(r, "taking a new connection over: %s", strerror(-r)) : 0;
}

/* It may be that gpuqd is about to come, or about to end. */
static bool may_come(int error)
{
	return error == -ENOENT || error == -ECONNREFUSED || error == -ETIMEDOUT ||
		error == -GPUQ_EGONE || error == -GPUQ_EDRAIN;
}

/* One try. */
static int connect_now(struct gpuq *g)
{
	struct gpuq *fresh;
	int r = gpuq_alive(g);

	if (r != -GPUQ_EGONE)
		return r;
	r = connect_again(g, &fresh);
	return r == 0 ? adopt(g, fresh) : r;
}

/* --- Channels ------------------------------------------------------------------------------ */

static int reopen(struct gpuq_channel *ch)
{
	struct gpuq_channel *twin;
	int r = channel_settle(ch);

	if (r < 0)
		return r;
	overtaken_resolve(ch, shm_load_relaxed(&ch->device_ended) != 0);
	r = channel_open_twin(ch, &twin);
	if (r < 0)
		return r;
	memcpy(twin->arena_base, ch->arena_base, ch->options.arena_bytes);
	r = calls_renew(ch, twin->arena_base);
	if (r < 0) {
		gpuq_channel_close(twin);
		return r;
	}
	sessions_lose(ch);
	return channel_become(ch, twin);
}

/* One of the calling thread's that is behind, or NULL. */
static struct gpuq_channel *next_behind(struct gpuq *g)
{
	struct gpuq_channel *ch;

	pthread_mutex_lock(&g->lock);
	for (ch = g->channels; ch != NULL; ch = ch->next) {
		if (ch->epoch != g->epoch && shm_load_relaxed(&ch->guard->owner) == thread_self())
			break;
	}
	pthread_mutex_unlock(&g->lock);
	return ch;
}

/* As long as that succeeds. */
static int reopen_own(struct gpuq *g)
{
	struct gpuq_channel *ch;
	int r = 0;

	while (r == 0 && (ch = next_behind(g)) != NULL)
		r = reopen(ch);
	return r;
}

/* --- Taking turns -------------------------------------------------------------------------- */

static uint64_t end_of(uint64_t timeout_ns)
{
	const uint64_t now_ns = clock_monotonic_ns();

	return timeout_ns < UINT64_MAX - now_ns ? now_ns + timeout_ns : UINT64_MAX;
}

/*
 * Waits until no other thread is reconnecting. Not for a mutex that is held meanwhile, since
 * ThreadSanitizer does not know how to wait for one with a monotonic end.
 */
static int turn_take(struct gpuq *g, uint64_t end_ns)
{
	const struct timespec end = {
		.tv_sec = (time_t)(end_ns / NS_PER_S), .tv_nsec = (long)(end_ns % NS_PER_S)};
	int error = 0;

	pthread_mutex_lock(&g->turn);
	while (g->turn_taken && error == 0)
		error = pthread_cond_timedwait(&g->turn_over, &g->turn, &end);
	const bool mine = !g->turn_taken;
	g->turn_taken = true;
	pthread_mutex_unlock(&g->turn);
	return mine ? 0 : fail_plain(-ETIMEDOUT, "another thread is reconnecting; try again");
}

static void turn_give(struct gpuq *g)
{
	pthread_mutex_lock(&g->turn);
	g->turn_taken = false;
	pthread_cond_signal(&g->turn_over);
	pthread_mutex_unlock(&g->turn);
}

/* Who naps has no turn: so others wait for a try at most, and not until there is a gpuqd. */
static int reconnect(struct gpuq *g, uint64_t turn_end_ns, uint64_t end_ns)
{
	for (;;) {
		int r = turn_take(g, turn_end_ns);
		if (r < 0)
			return r;
		r = connect_now(g);
		const bool back = r == 0;
		if (back)
			r = reopen_own(g);
		turn_give(g);
		if (back || !may_come(r) || clock_monotonic_ns() >= end_ns)
			return r;
		nap();
	}
}

int reconnect_once(struct gpuq *g)
{
	return reconnect(g, end_of(g->timeout_ns), 0);
}

int gpuq_reconnect(struct gpuq *g, uint64_t timeout_ns)
{
	const uint64_t end_ns = end_of(timeout_ns);

	if (guard_forked(g->guard))
		return session_check(g);
	return reconnect(g, end_ns, end_ns);
}
