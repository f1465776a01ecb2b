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

static int connect_until(struct gpuq *g, uint64_t timeout_ns)
{
	const uint64_t start_ns = clock_monotonic_ns();

	for (;;) {
		struct gpuq *fresh;
		int r = gpuq_alive(g);
		if (r == 0)
			return 0;
		if (r == -GPUQ_EGONE) {
			r = connect_again(g, &fresh);
			if (r == 0)
				return adopt(g, fresh);
		}
		if (!may_come(r) || clock_monotonic_ns() - start_ns >= timeout_ns)
			return r;
		nap();
	}
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

int gpuq_reconnect(struct gpuq *g, uint64_t timeout_ns)
{
	struct gpuq_channel *ch;

	if (guard_forked(g->guard))
		return session_check(g);
	pthread_mutex_lock(&g->reconnect);
	int r = connect_until(g, timeout_ns);
	while (r == 0 && (ch = next_behind(g)) != NULL)
		r = reopen(ch);
	pthread_mutex_unlock(&g->reconnect);
	return r;
}
