/* SPDX-License-Identifier: MIT */
/* attack_memory.c: attacks with a channel: its memory, its bells, its completions. */
#include "tests/hostile/attack.h"

#include "shm/clock.h"
#include "shm/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define UNREAD_PAUSE_US 500u
#define CLOGGED_US 200u
#define CLOGGED_MS (harness_slowness() > 1 ? 30000u : 15000u)
#define FILL_MS (harness_slowness() > 1 ? 16000u : 4000u) /* 4,096 rings, on a busy machine */
#define RINGS 256u

/* --- Writing over it ----------------------------------------------------------------------- */

/* Entries that no client may get, however it spoils its own. */
static void check_statuses(
	struct attacker *a, const struct attack_channel *ch, enum segment_attack attack)
{
	/* Where completions themselves are written over anything may be read there. */
	if (attack == SEGMENT_ANYWHERE || attack == SEGMENT_ENTRIES || attack == SEGMENT_INDICES)
		return;
	if (ch->work.odd_status != 0)
		attack_complain(a, "a completion with the status %d", ch->work.odd_status);
}

static void assault(struct attacker *a, enum segment_attack attack)
{
	struct attack_channel ch;
	struct segment_assault s = {
		.attack = attack, .work = &ch.work, .rng = {random_u64(&a->rng)}};
	pthread_t thread;

	if (!attack_channel_open(a, &ch))
		return;
	assert_int_equal(pthread_create(&thread, NULL, segment_spoil_main, &s), 0);
	while (attack_goes_on(a)) {
		if (!work_submit(&ch.work) || random_below(&a->rng, 8) == 0) {
			if (!work_take(&ch.work))
				break;
			sched_yield();
		}
	}
	shm_store_relaxed(&s.stop, 1);
	pthread_join(thread, NULL);
	attack_count(a, s.deeds);
	check_statuses(a, &ch, attack);
	attack_channel_close(&ch);
}

void attack_scribble(struct attacker *a)
{
	assault(a, random_below(&a->rng, 3) == 0 ? SEGMENT_ANYWHERE : SEGMENT_ENTRIES);
}

void attack_arguments(struct attacker *a)
{
	assault(a, SEGMENT_ARGUMENTS);
}

void attack_payloads(struct attacker *a)
{
	assault(a, SEGMENT_PAYLOADS);
}

/* Several short lives: a jump is often the last that a channel sees. */
void attack_indices(struct attacker *a)
{
	struct attack_channel ch;

	while (attack_goes_on(a)) {
		if (!attack_channel_open(a, &ch))
			return;
		struct segment_assault s = {
			.attack = SEGMENT_INDICES, .work = &ch.work, .rng = {random_u64(&a->rng)}};
		for (uint32_t i = 0; i < 64 && attack_goes_on(a); i++) {
			if (!work_submit(&ch.work) && !work_take(&ch.work))
				break;
			if (i % 4 == 3)
				segment_spoil(&s);
			bell_ring_eventfd(ch.client.doorbell_fd);
		}
		attack_count(a, s.deeds);
		attack_channel_close(&ch);
	}
}

/* --- Holes --------------------------------------------------------------------------------- */

void attack_holes(struct attacker *a)
{
	struct attack_channel ch;

	if (!attack_channel_open(a, &ch))
		return;
	while (attack_goes_on(a)) {
		const off_t at = (off_t)random_below(&a->rng, ch.client.bytes);
		const off_t bytes = (off_t)random_below(&a->rng, 4 * WIRE_PAGE_SIZE) + 1;
		const int mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;

		for (uint32_t i = 0; i < 16 && work_submit(&ch.work); i++)
			;
		if (fallocate(ch.segment_fd, mode, at, bytes) == 0)
			attack_count(a, 1);
		/* What the seals are for. */
		if (ftruncate(ch.segment_fd, at) == 0 ||
			ftruncate(ch.segment_fd, (off_t)ch.client.bytes * 2) == 0)
			attack_complain(a, "a segment can be given another size");
		if (!work_take(&ch.work))
			break;
		if (random_below(&a->rng, 4) == 0)
			work_restore(&ch.work);
	}
	attack_channel_close(&ch);
}

/* --- Doorbells ----------------------------------------------------------------------------- */

/*
 * Full, and without O_NONBLOCK, which the description shares with gpuqd's: whoever rings it now
 * waits, and so do we if we try.
 */
static void clog_doorbell(const struct wire_client *c)
{
	const uint64_t most = UINT64_MAX - 1;
	uint64_t there;

	(void)fcntl(c->doorbell_fd, F_SETFL, O_NONBLOCK);
	ssize_t n = read(c->doorbell_fd, &there, sizeof(there));
	n = write(c->doorbell_fd, &most, sizeof(most));
	(void)n;
	(void)fcntl(c->doorbell_fd, F_SETFL, 0);
}

static void flood_doorbell(const struct wire_client *c, uint32_t times)
{
	(void)fcntl(c->doorbell_fd, F_SETFL, O_NONBLOCK);
	for (uint32_t i = 0; i < times; i++)
		bell_ring_eventfd(c->doorbell_fd);
}

/* Asks for a ring, submits, and takes what there is. False: the rings are wrong. */
static bool ring_once(struct wire_client *c)
{
	const struct wire_sqe null = wire_client_entry(c, WIRE_OP_NULL, 1);

	if (ring_sleep_prepare(&c->cq, 1) < 0)
		return false;
	if (c->sq.prod - shm_load_acquire(&c->sq.ring->cons) < c->sq.entries)
		wire_client_submit(c, &null);
	else
		sched_yield();
	c->cq.cons = c->cq.prod;
	ring_release(&c->cq);
	return true;
}

/* Where a ring would not fit any more, gpuqd goes on nevertheless. */
static void check_goes_on(struct attacker *a, struct wire_client *c)
{
	for (uint32_t i = 0; i < 4; i++) {
		const uint64_t before = shm_load_acquire(&c->cq.ring->prod);

		for (uint32_t ms = 0; shm_load_acquire(&c->cq.ring->prod) == before; ms += 5) {
			if (ms > CLOGGED_MS)
				attack_complain(a, "gpuqd waits for room in a client's pipe");
			if (!ring_once(c))
				return;
			raw_pause();
		}
	}
}

/* A wish for each completion, and a pipe that nobody empties. */
static void clog_pipe(struct attacker *a, struct attack_channel *ch)
{
	struct wire_client *c = &ch->client;
	const uint64_t end_ns = clock_monotonic_ns() + FILL_MS * 1000000ull;
	int there = 0;

	(void)fcntl(c->bell_fd, F_SETPIPE_SZ, (int)WIRE_PAGE_SIZE);
	while (there < (int)WIRE_PAGE_SIZE && clock_monotonic_ns() < end_ns &&
		shm_load_relaxed_u32(&a->page->stop) == 0) {
		for (uint32_t i = 0; i < RINGS && ring_once(c); i++)
			;
		if (ioctl(c->bell_fd, FIONREAD, &there) < 0)
			return;
	}
	attack_count(a, (uint64_t)there);
	if (there >= (int)WIRE_PAGE_SIZE)
		check_goes_on(a, c);
}

static void clog_eventfd(struct attacker *a, struct attack_channel *ch)
{
	struct wire_client *c = &ch->client;
	const struct wire_sqe null = wire_client_entry(c, WIRE_OP_NULL, 1);

	while (attack_goes_on(a)) {
		flood_doorbell(c, RINGS);
		clog_doorbell(c);
		if (c->sq.prod - shm_load_acquire(&c->sq.ring->cons) < c->sq.entries)
			wire_client_publish(c, &null);
		usleep(CLOGGED_US);
		flood_doorbell(c, 1);
		attack_count(a, RINGS + 2);
		if (!work_take(&ch->work))
			break;
	}
	/* Left behind as bad as can be. */
	clog_doorbell(c);
}

void attack_doorbells(struct attacker *a)
{
	struct attack_channel ch;

	if (!attack_channel_open(a, &ch))
		return;
	if (random_below(&a->rng, 4) == 0)
		clog_pipe(a, &ch);
	else
		clog_eventfd(a, &ch);
	attack_channel_close(&ch);
}

/* --- Completions --------------------------------------------------------------------------- */

/* All that gpuqd takes, and nothing of it is read. */
void attack_unread_completions(struct attacker *a)
{
	struct attack_channel ch;

	if (!attack_channel_open(a, &ch))
		return;
	while (attack_goes_on(a)) {
		if (work_submit(&ch.work)) {
			attack_count(a, 1);
			continue;
		}
		usleep(UNREAD_PAUSE_US);
		/* Mostly not even in the end. */
		if (random_below(&a->rng, 64) == 0 && !work_take(&ch.work))
			break;
	}
	attack_channel_close(&ch);
}
