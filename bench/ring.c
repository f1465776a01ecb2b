/* SPDX-License-Identifier: MIT */
/*
 * ring.c: a raw channel echo: the rings of shm/ring.h between two processes, 64-byte submissions
 * one way and 32-byte completions the other, with everything that gpuqd's protocol asks of them
 * (one copy, index checks, the wake-up question after each publication) and without gpuqd.
 */
#include "bench/bench.h"

#include "shm/ring.h"
#include "shm/segment.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define RING_SQ 256
#define RING_CQ 512
#define RING_TARGET 1.5

struct echo {
	uint8_t *base;
	struct wire_layout layout;
	struct wire_sqe *sqes;
	struct wire_cqe *cqes;
	/* Each process uses the half that is its own; both begin at 0. */
	struct ring_producer sq_producer, cq_producer;
	struct ring_consumer sq_consumer, cq_consumer;
};

/*
 * Spins for an entry. The line of the next one is asked for together with that of the index; and
 * with two pauses between two looks, entry and index are written before the lines are taken away.
 */
static int await(struct ring_consumer *c, const void *next)
{
	for (;;) {
		__builtin_prefetch(next);
		int r = ring_refresh(c);
		if (r != 0)
			return r;
		shm_pause();
		shm_pause();
	}
}

static int await_submission(struct echo *e)
{
	struct ring_consumer *c = &e->sq_consumer;

	return await(c, &e->sqes[ring_slot(c->cons, RING_SQ)]);
}

static int await_completion(struct echo *e)
{
	struct ring_consumer *c = &e->cq_consumer;

	return await(c, &e->cqes[ring_slot(c->cons, RING_CQ)]);
}

/* Nobody ever sleeps in this echo, so a wish to be woken is a broken ring. */
static int published(struct ring_producer *p)
{
	ring_publish(p);
	return ring_wake_wanted(p) ? -EPROTO : 0;
}

/* Takes one submission, which is there, and completes it; neither is published yet. */
static inline void answer_entry(struct echo *e)
{
	struct wire_sqe sqe;

	shm_copy_in(&sqe, &e->sqes[ring_slot(e->sq_consumer.cons, RING_SQ)], sizeof(sqe) / 8);
	e->sq_consumer.cons++;
	struct wire_cqe cqe = {.user_data = sqe.user_data};
	shm_copy_out(&e->cqes[ring_slot(e->cq_producer.prod, RING_CQ)], &cqe, sizeof(cqe) / 8);
	e->cq_producer.prod++;
}

/* Writes one submission, not published yet. */
static inline void ask_entry(struct echo *e)
{
	struct wire_sqe sqe = {.opcode = WIRE_OP_NULL, .user_data = e->sq_producer.prod};

	shm_copy_out(&e->sqes[ring_slot(e->sq_producer.prod, RING_SQ)], &sqe, sizeof(sqe) / 8);
	e->sq_producer.prod++;
}

/* Takes one completion, which is there. */
static inline void take_entry(struct echo *e, struct wire_cqe *ret_cqe)
{
	shm_copy_in(
		ret_cqe, &e->cqes[ring_slot(e->cq_consumer.cons, RING_CQ)], sizeof(*ret_cqe) / 8);
	e->cq_consumer.cons++;
}

static int echo_answer(struct echo *e)
{
	int r = await_submission(e);

	if (r < 0)
		return r;
	r = ring_space(&e->cq_producer, 1);
	if (r < 1)
		return r < 0 ? r : -EPROTO;
	answer_entry(e);
	ring_release(&e->sq_consumer);
	return published(&e->cq_producer);
}

static int echo_serve(void *state, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		int r = echo_answer(state);
		if (r < 0)
			return r;
	}
	return 0;
}

static int echo_trip(void *state)
{
	struct echo *e = state;
	struct wire_cqe cqe;
	int r = ring_space(&e->sq_producer, 1);

	if (r < 1)
		return r < 0 ? r : -EPROTO;
	ask_entry(e);
	r = published(&e->sq_producer);
	if (r == 0)
		r = await_completion(e);
	if (r < 0)
		return r;
	take_entry(e, &cqe);
	ring_release(&e->cq_consumer);
	return cqe.user_data == e->cq_consumer.cons - 1 ? 0 : -EPROTO;
}

static int echo_run(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	return sample_back_to_back(clock, ret_ns, n, echo_trip, state);
}

static void echo_close(void *state)
{
	struct echo *e = state;

	if (e != NULL && e->base != NULL)
		munmap(e->base, e->layout.segment_bytes);
	free(e);
}

static int echo_open(struct echo **ret_echo)
{
	struct echo *e = calloc(1, sizeof(*e));

	if (e == NULL)
		return -ENOMEM;
	e->layout = wire_layout(RING_SQ, RING_CQ, WIRE_PAGE_SIZE);
	int fd = segment_create("gpuq-bench", e->layout.segment_bytes);
	int r = fd < 0 ? fd : segment_map(fd, e->layout.segment_bytes, true, (void **)&e->base);
	if (fd >= 0)
		close(fd);
	if (r < 0) {
		echo_close(e);
		return r;
	}
	struct wire_ring *sq = (struct wire_ring *)(e->base + WIRE_SQ_RING);
	struct wire_ring *cq = (struct wire_ring *)(e->base + WIRE_CQ_RING);
	e->sqes = (struct wire_sqe *)(e->base + e->layout.sqe_offset);
	e->cqes = (struct wire_cqe *)(e->base + e->layout.cqe_offset);
	e->sq_producer = (struct ring_producer){.ring = sq, .entries = RING_SQ};
	e->sq_consumer = (struct ring_consumer){.ring = sq, .entries = RING_SQ};
	e->cq_producer = (struct ring_producer){.ring = cq, .entries = RING_CQ};
	e->cq_consumer = (struct ring_consumer){.ring = cq, .entries = RING_CQ};
	*ret_echo = e;
	return 0;
}

int ring_contender(struct contender *c)
{
	struct echo *e;
	int r = echo_open(&e);

	if (r < 0)
		return r;
	*c = (struct contender){.name = "ring echo",
		.state = e,
		.serve = echo_serve,
		.run = echo_run,
		.close = echo_close};
	return 0;
}

/* --- As many as go, 256 in flight ---------------------------------------------------------- */

#define BATCH 128 /* entries answered before others would get their turn, as gpuqd does */

static int answer_batch(struct echo *e)
{
	int n = ring_refresh(&e->sq_consumer);

	if (n <= 0)
		return n;
	n = n < BATCH ? n : BATCH;
	if (ring_space(&e->cq_producer, (uint32_t)n) < n)
		return -EPROTO;
	for (int i = 0; i < n; i++)
		answer_entry(e);
	ring_release(&e->sq_consumer);
	return published(&e->cq_producer);
}

static int ask_batch(struct echo *e, uint64_t *ret_done)
{
	uint64_t in_flight = e->sq_producer.prod - e->cq_consumer.cons;
	int room = ring_space(&e->sq_producer, (uint32_t)(RING_SQ - in_flight));
	struct wire_cqe cqe;

	for (; room > 0 && in_flight < RING_SQ; room--, in_flight++)
		ask_entry(e);
	int r = published(&e->sq_producer);
	if (r < 0)
		return r;
	int n = await_completion(e);
	for (int i = 0; i < n; i++) {
		take_entry(e, &cqe);
		if (cqe.user_data != e->cq_consumer.cons - 1)
			return -EPROTO;
	}
	ring_release(&e->cq_consumer);
	*ret_done += n > 0 ? (uint64_t)n : 0;
	return n < 0 ? n : 0;
}

static void answer_all(void *state)
{
	while (answer_batch(state) >= 0)
		shm_pause();
}

int ring_rate(const struct bench *b, uint64_t ns, double *ret_per_second)
{
	struct echo *e;
	uint64_t done = 0, took_ns = 0;
	int r = echo_open(&e);

	if (r < 0)
		return r;
	watchdog(true);
	pid_t pid = pair_fork(b, answer_all, e);
	uint64_t start_ns = clock_now_ns(&b->clock);
	while (r == 0 && took_ns < ns) {
		r = ask_batch(e, &done);
		took_ns = clock_now_ns(&b->clock) - start_ns;
	}
	watchdog(false);
	pair_end(pid);
	echo_close(e);
	if (r == 0)
		*ret_per_second = (double)done * 1e9 / (double)took_ns;
	return r;
}

int bench_ring(struct bench *b)
{
	struct contender set[3] = {0};
	int r = floor_contender(&set[0], false);

	if (r == 0)
		r = floor_contender(&set[1], true);
	if (r == 0)
		r = ring_contender(&set[2]);
	for (uint32_t i = 0; i < 3; i++)
		set[i].per_round = per_round(b, 1000000, BENCH_ROUNDS);
	if (r == 0)
		r = contenders_measure(b, set, 3, BENCH_ROUNDS);
	if (r == 0) {
		report_table(b, "ring: raw channel echo", "F", set, 3);
		report_check(b, series_ratio(&set[2].series, 0.5), RING_TARGET, "ring: p50 in F");
	}
	contenders_free(set, 3);
	return r;
}
