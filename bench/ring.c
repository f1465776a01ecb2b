/* SPDX-License-Identifier: MIT */
/*
 * ring.c: a raw channel echo: the rings of shm/ring.h between two processes, 64-byte submissions
 * one way and 32-byte completions the other, with everything that gpuqd's protocol asks of them
 * (one copy, index checks, the wake-up question after each publication) and without gpuqd.
 */
#include "bench/bench.h"

#include "shm/ring.h"
#include "shm/segment.h"
#include "shm/wait.h"

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
	struct clock_line clock;
};

/* Waits for an entry as client and gpuqd do while CPUs suffice: spinning. */
static int await(struct echo *e, struct ring_consumer *c)
{
	struct wait w = wait_begin(UINT64_MAX, 0);
	int r;

	while ((r = ring_refresh(c)) == 0)
		wait_round(&w, true, &e->clock);
	return r;
}

/* Nobody ever sleeps in this echo, so a wish to be woken is a broken ring. */
static int published(struct ring_producer *p)
{
	ring_publish(p);
	return ring_wake_wanted(p) ? -EPROTO : 0;
}

static int echo_answer(struct echo *e)
{
	struct wire_sqe sqe;
	int r;

	r = await(e, &e->sq_consumer);
	if (r < 0)
		return r;
	shm_copy_in(&sqe, &e->sqes[ring_slot(e->sq_consumer.cons, RING_SQ)], sizeof(sqe) / 8);
	e->sq_consumer.cons++;
	ring_release(&e->sq_consumer);

	r = ring_space(&e->cq_producer, 1);
	if (r < 1)
		return r < 0 ? r : -EPROTO;
	struct wire_cqe cqe = {.user_data = sqe.user_data};
	shm_copy_out(&e->cqes[ring_slot(e->cq_producer.prod, RING_CQ)], &cqe, sizeof(cqe) / 8);
	e->cq_producer.prod++;
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
	uint64_t i = e->sq_producer.prod;
	struct wire_cqe cqe;
	int r = ring_space(&e->sq_producer, 1);

	if (r < 1)
		return r < 0 ? r : -EPROTO;
	struct wire_sqe sqe = {.opcode = WIRE_OP_NULL, .user_data = i};
	shm_copy_out(&e->sqes[ring_slot(i, RING_SQ)], &sqe, sizeof(sqe) / 8);
	e->sq_producer.prod++;
	r = published(&e->sq_producer);
	if (r < 0)
		return r;

	r = await(e, &e->cq_consumer);
	if (r < 0)
		return r;
	shm_copy_in(&cqe, &e->cqes[ring_slot(e->cq_consumer.cons, RING_CQ)], sizeof(cqe) / 8);
	e->cq_consumer.cons++;
	ring_release(&e->cq_consumer);
	return cqe.user_data == i ? 0 : -EPROTO;
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

int ring_contender(struct contender *c, const struct clock_line *clock)
{
	struct echo *e = calloc(1, sizeof(*e));

	if (e == NULL)
		return -ENOMEM;
	e->clock = *clock;
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
	*c = (struct contender){.name = "ring echo",
		.state = e,
		.serve = echo_serve,
		.run = echo_run,
		.close = echo_close};
	return 0;
}

int bench_ring(struct bench *b)
{
	struct contender set[3] = {0};
	int r = floor_contender(&set[0], false);

	if (r == 0)
		r = floor_contender(&set[1], true);
	if (r == 0)
		r = ring_contender(&set[2], &b->clock);
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
