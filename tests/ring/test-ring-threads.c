/* SPDX-License-Identifier: MIT */
/*
 * test-ring-threads.c: client, dispatcher and a mutator as threads over one mapping: small rings,
 * indices that wrap, sleeping sides. Made for ThreadSanitizer, which sees the one mapping where
 * two processes would have two; it must find nothing.
 */
#include "rig.h"
#include "tests/harness.h"

#include <pthread.h>

#define ENTRIES_SENT 30000
#define ROUNDS 30000

struct job {
	const struct rig *rig;
	uint32_t want;
	int result;
};

static void *dispatch(void *arg)
{
	struct job *job = arg;

	job->result = rig_dispatch(job->rig, ENTRIES_SENT);
	return NULL;
}

static void echo(uint32_t sq, uint32_t cq, uint64_t start, uint32_t want)
{
	struct rig rig;
	pthread_t thread;

	rig_open(&rig, sq, cq, start);
	struct job job = {&rig, want, -1};
	assert_int_equal(pthread_create(&thread, NULL, dispatch, &job), 0);
	assert_int_equal(rig_client(&rig, ENTRIES_SENT, want), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(job.result, 0);
	rig_close(&rig);
}

static void test_both_sides_sleep(void **state)
{
	echo(8, 8, 0, 1);
}

static void test_client_sleeps_for_many(void **state)
{
	echo(8, 32, UINT64_MAX - 100, 5);
}

static void test_indices_wrap_between_threads(void **state)
{
	echo(16, 16, UINT64_MAX - ENTRIES_SENT / 2, 1);
}

static void *dispatch_distrust(void *arg)
{
	struct job *job = arg;

	job->result = rig_dispatch_distrust(job->rig, ROUNDS);
	return NULL;
}

static void *scribble(void *arg)
{
	const struct job *job = arg;

	rig_scribble(job->rig, ROUNDS * 4);
	return NULL;
}

/* Nobody's index can be trusted; nobody leaves his ring. */
static void test_mutator_is_refused(void **state)
{
	struct rig rig;
	pthread_t dispatcher, mutator;

	rig_open(&rig, 8, 16, UINT64_MAX - 1000);
	struct job job = {&rig, 0, -1}, mutation = {&rig, 0, 0};
	/* Even if the mutator then ran only after the others, they have something to refuse. */
	rig_scribble(&rig, 60);
	assert_int_equal(pthread_create(&dispatcher, NULL, dispatch_distrust, &job), 0);
	assert_int_equal(pthread_create(&mutator, NULL, scribble, &mutation), 0);
	int refused = rig_client_distrust(&rig, ROUNDS);
	assert_int_equal(pthread_join(dispatcher, NULL), 0);
	assert_int_equal(pthread_join(mutator, NULL), 0);
	assert_true(refused >= 0);
	assert_true(job.result >= 0);
	assert_true(refused + job.result > 0);
	rig_close(&rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_both_sides_sleep),
		HARNESS_TEST(test_client_sleeps_for_many),
		HARNESS_TEST(test_indices_wrap_between_threads),
		HARNESS_TEST(test_mutator_is_refused),
	};

	return harness_run("ring-threads", tests, sizeof(tests) / sizeof(tests[0]));
}
