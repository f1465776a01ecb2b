/* SPDX-License-Identifier: MIT */
/* rig.c: see rig.h. */
#include "rig.h"
#include "shm/segment.h"
#include "tests/harness.h"

#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#define SQE_WORDS (sizeof(struct wire_sqe) / 8)
#define CQE_WORDS (sizeof(struct wire_cqe) / 8)

void rig_open(struct rig *r, uint32_t sq_entries, uint32_t cq_entries, uint64_t start)
{
	void *base;

	*r = (struct rig){.sq_entries = sq_entries, .cq_entries = cq_entries, .start = start};
	r->layout = wire_layout(sq_entries, cq_entries, 0);
	r->fd = segment_create("rig", r->layout.segment_bytes);
	assert_true(r->fd >= 0);
	assert_int_equal(segment_map(r->fd, r->layout.segment_bytes, true, &base), 0);
	r->base = base;
	r->doorbell_fd = bell_eventfd();
	assert_true(r->doorbell_fd >= 0);
	assert_int_equal(bell_pipe(&r->bell_read, &r->bell_write), 0);
	for (uint64_t at = WIRE_SQ_RING; at <= WIRE_CQ_RING; at += WIRE_CQ_RING - WIRE_SQ_RING) {
		struct wire_ring *ring = rig_ring(r, at);
		shm_store_relaxed(&ring->prod, start);
		shm_store_relaxed(&ring->cons, start);
		shm_store_relaxed(&ring->wake_at, start);
	}
	shm_fence();
}

void rig_close(struct rig *r)
{
	munmap(r->base, r->layout.segment_bytes);
	close(r->fd);
	close(r->doorbell_fd);
	close(r->bell_read);
	close(r->bell_write);
}

struct wire_ring *rig_ring(const struct rig *r, uint64_t offset)
{
	return (struct wire_ring *)(void *)(r->base + offset);
}

static struct ring_producer producer(const struct rig *r, uint64_t offset, uint32_t entries)
{
	return (struct ring_producer){rig_ring(r, offset), r->start, r->start, r->start, entries};
}

static struct ring_consumer consumer(const struct rig *r, uint64_t offset, uint32_t entries)
{
	return (struct ring_consumer){rig_ring(r, offset), r->start, r->start, entries};
}

static void *sqe_at(const struct rig *r, uint64_t index)
{
	return r->base + r->layout.sqe_offset + ring_slot(index, r->sq_entries) * 8 * SQE_WORDS;
}

static void *cqe_at(const struct rig *r, uint64_t index)
{
	return r->base + r->layout.cqe_offset + ring_slot(index, r->cq_entries) * 8 * CQE_WORDS;
}

/* Word w of entry i: no two are alike, so every mixture of entries shows. */
static uint64_t word(uint64_t i, uint64_t w)
{
	return (i * 8 + w + 1) * 0x9e3779b97f4a7c15ull;
}

static int wrong_words(const uint64_t *words, uint64_t i, uint32_t n)
{
	int wrong = 0;

	for (uint32_t w = 0; w < n; w++)
		wrong += words[w] != word(i, w);
	return wrong;
}

/* Puts entries first .. first + n - 1 into the ring, unpublished. */
static void put(struct ring_producer *p, void *(*at)(const struct rig *, uint64_t),
	const struct rig *r, uint64_t first, uint32_t n, uint32_t n_words)
{
	uint64_t words[SQE_WORDS];

	for (uint32_t i = 0; i < n; i++) {
		for (uint32_t w = 0; w < n_words; w++)
			words[w] = word(first + i, w);
		shm_copy_out(at(r, p->prod), words, n_words);
		p->prod++;
	}
}

/* Takes n entries, the first of them number `first`. Returns how many words are wrong. */
static int take(struct ring_consumer *c, void *(*at)(const struct rig *, uint64_t),
	const struct rig *r, uint64_t first, uint32_t n, uint32_t n_words)
{
	uint64_t words[SQE_WORDS];
	int wrong = 0;

	for (uint32_t i = 0; i < n; i++) {
		shm_copy_in(words, at(r, c->cons), n_words);
		wrong += wrong_words(words, first + i, n_words);
		c->cons++;
	}
	ring_release(c);
	return wrong;
}

static uint32_t at_most(uint64_t n, uint32_t limit)
{
	return n < limit ? (uint32_t)n : limit;
}

/* Sleeps until `want` completions are there. Returns what ring_refresh() does. */
static int client_sleep(const struct rig *r, struct ring_consumer *cq, uint32_t want)
{
	struct pollfd p = {.fd = r->bell_read, .events = POLLIN};

	(void)bell_drain_pipe(r->bell_read);
	int n = ring_sleep_prepare(cq, want);
	if (n >= 0 && (uint32_t)n < want) {
		(void)poll(&p, 1, -1);
		n = ring_refresh(cq);
	}
	return n;
}

int rig_client(const struct rig *r, uint64_t total, uint32_t want)
{
	struct ring_producer sq = producer(r, WIRE_SQ_RING, r->sq_entries);
	struct ring_consumer cq = consumer(r, WIRE_CQ_RING, r->cq_entries);
	uint64_t sent = 0, got = 0;
	int wrong = 0;

	while (got < total) {
		/* Never more under way than completions fit; batches of 1, 2, 3, ... entries. */
		uint32_t room = at_most(total - sent, r->cq_entries - (uint32_t)(sent - got));
		int space = ring_space(&sq, 1);
		uint32_t n =
			at_most(room, at_most(1 + sent % 7, (uint32_t)(space < 0 ? 0 : space)));
		if (n > 0) {
			put(&sq, sqe_at, r, sent, n, SQE_WORDS);
			sent += n;
			ring_publish(&sq);
			if (ring_wake_wanted(&sq))
				bell_ring_eventfd(r->doorbell_fd);
		}
		int there =
			n > 0 ? ring_refresh(&cq) : client_sleep(r, &cq, at_most(sent - got, want));
		if (there < 0 || space < 0)
			return -1;
		wrong += take(&cq, cqe_at, r, got, (uint32_t)there, CQE_WORDS);
		got += (uint32_t)there;
	}
	return wrong;
}

static int serve(const struct rig *r, int epoll_fd, uint64_t total)
{
	struct ring_consumer sq = consumer(r, WIRE_SQ_RING, r->sq_entries);
	struct ring_producer cq = producer(r, WIRE_CQ_RING, r->cq_entries);
	struct epoll_event event;
	int wrong = 0;

	for (uint64_t done = 0; done < total;) {
		int n = ring_refresh(&sq);
		if (n == 0)
			n = ring_sleep_prepare(&sq, 1);
		if (n == 0) {
			(void)epoll_wait(epoll_fd, &event, 1, -1);
			continue;
		}
		if (n < 0 || ring_space(&cq, (uint32_t)n) < n)
			return -1;
		wrong += take(&sq, sqe_at, r, done, (uint32_t)n, SQE_WORDS);
		put(&cq, cqe_at, r, done, (uint32_t)n, CQE_WORDS);
		ring_publish(&cq);
		if (ring_wake_wanted(&cq))
			bell_ring_pipe(r->bell_write);
		done += (uint32_t)n;
	}
	return wrong;
}

int rig_dispatch(const struct rig *r, uint64_t total)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLET};
	int epoll_fd = epoll_create1(EPOLL_CLOEXEC);

	if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, r->doorbell_fd, &event) < 0)
		return -1;
	int wrong = serve(r, epoll_fd, total);
	close(epoll_fd);
	return wrong;
}

/* One round of a producer that trusts nobody. Returns 1 when it refused, -1 when it was fooled. */
static int distrust_put(const struct rig *r, struct ring_producer *p,
	void *(*at)(const struct rig *, uint64_t), uint32_t n_words)
{
	int space = ring_space(p, p->entries);

	if (space == -GPUQ_EPOISONED) {
		p->cons = p->prod;
		shm_store_release(&p->ring->cons, p->prod);
		return 1;
	}
	if (space < 0 || (uint32_t)space > p->entries)
		return -1;
	put(p, at, r, 0, (uint32_t)space, n_words);
	ring_publish(p);
	(void)ring_wake_wanted(p);
	return 0;
}

/* The same of a consumer. */
static int distrust_take(const struct rig *r, struct ring_consumer *c,
	void *(*at)(const struct rig *, uint64_t), uint32_t n_words)
{
	int n = ring_sleep_prepare(c, 1);

	if (n == -GPUQ_EPOISONED) {
		shm_store_release(&c->ring->prod, c->cons);
		return 1;
	}
	if (n < 0 || (uint32_t)n > c->entries)
		return -1;
	(void)take(c, at, r, 0, (uint32_t)n, n_words);
	return 0;
}

int rig_client_distrust(const struct rig *r, uint32_t rounds)
{
	struct ring_producer sq = producer(r, WIRE_SQ_RING, r->sq_entries);
	struct ring_consumer cq = consumer(r, WIRE_CQ_RING, r->cq_entries);
	int refused = 0;

	for (uint32_t i = 0; i < rounds; i++) {
		int sent = distrust_put(r, &sq, sqe_at, SQE_WORDS);
		int got = distrust_take(r, &cq, cqe_at, CQE_WORDS);
		if (sent < 0 || got < 0)
			return -1;
		refused += sent + got;
	}
	return refused;
}

int rig_dispatch_distrust(const struct rig *r, uint32_t rounds)
{
	struct ring_consumer sq = consumer(r, WIRE_SQ_RING, r->sq_entries);
	struct ring_producer cq = producer(r, WIRE_CQ_RING, r->cq_entries);
	int refused = 0;

	for (uint32_t i = 0; i < rounds; i++) {
		int got = distrust_take(r, &sq, sqe_at, SQE_WORDS);
		int sent = distrust_put(r, &cq, cqe_at, CQE_WORDS);
		if (sent < 0 || got < 0)
			return -1;
		refused += sent + got;
	}
	return refused;
}

void rig_scribble(const struct rig *r, uint32_t rounds)
{
	const uint64_t n_words = (r->layout.arena_offset - WIRE_ENTRIES) / 8;
	uint64_t *entries = (uint64_t *)(void *)(r->base + WIRE_ENTRIES);
	uint64_t x = 1;

	for (uint32_t i = 0; i < rounds; i++) {
		struct wire_ring *ring = rig_ring(r, i % 2 ? WIRE_SQ_RING : WIRE_CQ_RING);
		uint64_t *const words[] = {&ring->prod, &ring->cons, &ring->wake_at};
		uint64_t *hit = words[i / 2 % 3];
		x = x * 6364136223846793005ull + 1442695040888963407ull;
		/* Nonsense, or close to what stands there. */
		uint64_t near = shm_load_relaxed(hit) + (x >> 60);
		shm_store_release(hit, x >> 33 & 1 ? x : near);
		shm_store_relaxed(&entries[(x >> 40) % n_words], x);
	}
}
