/* SPDX-License-Identifier: MIT */
/*
 * test-ring.c: the rings with indices that wrap, with a peer that lies, and between two threads
 * that sleep and wake each other. tests/explore goes through all interleavings of the same code.
 */
#include "tests/harness.h"

#include "shm/ring.h"
#include "shm/segment.h"

#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#define ENTRIES WIRE_MIN_ENTRIES
#define TRANSFERS 20000u

struct pair {
	struct wire_ring ring;
	struct wire_sqe slots[ENTRIES];
	struct ring_producer producer;
	struct ring_consumer consumer;
	int bell[2]; /* rung by the producer */
	int room[2]; /* rung by the consumer: there is space again */
};

static void pair_init(struct pair *p, uint64_t start)
{
	*p = (struct pair){.ring = {.prod = start, .cons = start, .wake_at = start}};
	p->producer = (struct ring_producer){
		.ring = &p->ring,
		.prod = start,
		.published = start,
		.cons = start,
		.entries = ENTRIES,
	};
	p->consumer = (struct ring_consumer){
		.ring = &p->ring, .cons = start, .prod = start, .entries = ENTRIES};
}

static void put(struct pair *p, uint64_t value)
{
	struct wire_sqe sqe = {.user_data = value};

	shm_copy_out(&p->slots[ring_slot(p->producer.prod, ENTRIES)], &sqe, sizeof(sqe) / 8);
	p->producer.prod++;
}

static uint64_t take(struct pair *p)
{
	struct wire_sqe sqe;

	shm_copy_in(&sqe, &p->slots[ring_slot(p->consumer.cons, ENTRIES)], sizeof(sqe) / 8);
	p->consumer.cons++;
	return sqe.user_data;
}

/* Indices run over their maximum in the middle of every batch size. */
static void test_indices_wrap(void **state)
{
	for (uint64_t before = 0; before <= 2 * ENTRIES; before++) {
		struct pair p;
		uint64_t next_in = 0, next_out = 0;

		pair_init(&p, 0 - before);
		for (uint32_t batch = 1; batch <= ENTRIES; batch++) {
			assert_true(ring_space(&p.producer, batch) >= (int)batch);
			for (uint32_t i = 0; i < batch; i++)
				put(&p, next_in++);
			ring_publish(&p.producer);
			assert_int_equal(ring_refresh(&p.consumer), batch);
			for (uint32_t i = 0; i < batch; i++)
				assert_int_equal(take(&p), next_out++);
			ring_release(&p.consumer);
		}
		assert_int_equal(ring_space(&p.producer, ENTRIES), ENTRIES);
	}
}

static void test_full_ring_has_no_space(void **state)
{
	struct pair p;

	pair_init(&p, UINT64_MAX - 2);
	for (uint32_t i = 0; i < ENTRIES; i++)
		put(&p, i);
	ring_publish(&p.producer);
	assert_int_equal(ring_space(&p.producer, 1), 0);
	assert_int_equal(ring_refresh(&p.consumer), ENTRIES);
	take(&p);
	assert_int_equal(ring_space(&p.producer, 1), 0);
	ring_release(&p.consumer);
	assert_int_equal(ring_space(&p.producer, 1), 1);
}

static void test_unpublished_entries_do_not_exist(void **state)
{
	struct pair p;

	pair_init(&p, UINT64_MAX);
	put(&p, 1);
	assert_int_equal(ring_refresh(&p.consumer), 0);
	ring_publish(&p.producer);
	assert_int_equal(ring_refresh(&p.consumer), 1);
}

static void test_impossible_indices_are_refused(void **state)
{
	static const uint64_t starts[] = {0, 5, UINT64_MAX, 1ull << 63};

	for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++) {
		uint64_t lies[] = {starts[i] + ENTRIES + 1, starts[i] - 1, starts[i] + (1ull << 32),
			starts[i] + (1ull << 63)};
		for (size_t j = 0; j < sizeof(lies) / sizeof(lies[0]); j++) {
			struct pair p;

			pair_init(&p, starts[i]);
			p.ring.prod = lies[j];
			assert_int_equal(ring_refresh(&p.consumer), -GPUQ_EPOISONED);
			assert_int_equal(p.consumer.prod, starts[i]);
			pair_init(&p, starts[i]);
			for (uint32_t k = 0; k < ENTRIES; k++)
				put(&p, k);
			/* The producer is ENTRIES ahead; these consumers never were behind it. */
			p.ring.cons = j == 0 ? p.producer.prod + 1 : lies[j];
			assert_int_equal(ring_space(&p.producer, 1), -GPUQ_EPOISONED);
			assert_int_equal(p.producer.cons, starts[i]);
		}
	}
}

/* One bell for each wish, also across the maximum, and none for an old wish. */
static void test_wish_is_answered_once(void **state)
{
	for (uint64_t before = 0; before <= 4; before++) {
		struct pair p;

		pair_init(&p, 0 - before);
		assert_int_equal(ring_sleep_prepare(&p.consumer, 3), 0);
		for (int i = 1; i <= 6; i++) {
			put(&p, 0);
			ring_publish(&p.producer);
			assert_int_equal(ring_wake_wanted(&p.producer), i == 3);
		}
	}
}

static void test_batch_over_the_wish_rings(void **state)
{
	struct pair p;

	pair_init(&p, UINT64_MAX);
	assert_int_equal(ring_sleep_prepare(&p.consumer, 2), 0);
	for (int i = 0; i < 5; i++)
		put(&p, 0);
	ring_publish(&p.producer);
	assert_true(ring_wake_wanted(&p.producer));
	assert_false(ring_wake_wanted(&p.producer));
	assert_int_equal(ring_sleep_prepare(&p.consumer, 2), 5);
}

static void sleep_on(int fd)
{
	struct pollfd pfd = {.fd = fd, .events = POLLIN};

	poll(&pfd, 1, -1);
	bell_drain_pipe(fd);
}

static void *produce(void *argument)
{
	struct pair *p = argument;

	for (uint32_t i = 0; i < TRANSFERS;) {
		int space = ring_space(&p->producer, 1);
		if (space == 0) {
			sleep_on(p->room[0]);
			continue;
		}
		for (int k = 0; k < space && i < TRANSFERS; k++)
			put(p, i++);
		ring_publish(&p->producer);
		if (ring_wake_wanted(&p->producer))
			bell_ring_pipe(p->bell[1]);
	}
	return NULL;
}

/* No wake-up is lost: otherwise both sides sleep for ever, and the harness ends the test. */
static void test_two_threads_sleep_and_wake(void **state)
{
	struct pair p;
	pthread_t thread;
	uint64_t expected = 0;

	pair_init(&p, 0 - (uint64_t)TRANSFERS / 2);
	assert_int_equal(bell_pipe(&p.bell[0], &p.bell[1]), 0);
	assert_int_equal(bell_pipe(&p.room[0], &p.room[1]), 0);
	assert_int_equal(pthread_create(&thread, NULL, produce, &p), 0);
	while (expected < TRANSFERS) {
		int ready = ring_refresh(&p.consumer);
		if (ready == 0) {
			if (ring_sleep_prepare(&p.consumer, 1) == 0)
				sleep_on(p.bell[0]);
			continue;
		}
		assert_in_range(ready, 1, ENTRIES);
		for (int i = 0; i < ready; i++)
			assert_int_equal(take(&p), expected++);
		ring_release(&p.consumer);
		bell_ring_pipe(p.room[1]);
	}
	pthread_join(thread, NULL);
	for (int i = 0; i < 2; i++) {
		close(p.bell[i]);
		close(p.room[i]);
	}
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_indices_wrap),
		HARNESS_TEST(test_full_ring_has_no_space),
		HARNESS_TEST(test_unpublished_entries_do_not_exist),
		HARNESS_TEST(test_impossible_indices_are_refused),
		HARNESS_TEST(test_wish_is_answered_once),
		HARNESS_TEST(test_batch_over_the_wish_rings),
		HARNESS_TEST(test_two_threads_sleep_and_wake),
	};

	return harness_run("ring", tests, sizeof(tests) / sizeof(tests[0]));
}
