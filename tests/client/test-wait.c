/* SPDX-License-Identifier: MIT */
/* test-wait.c: waiting in all stages, event loops, waiting for space. */
#include "shm/clock.h"
#include "tests/client/rig.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

/* Makes the client believe that CPUs are scarce: it then yields and sleeps at once. */
static void make_scarce(struct rig *rig)
{
	shm_store_release(&rig->control->runnable, 1000);
	usleep(20000);
}

static void test_nothing_in_flight(void **state)
{
	struct gpuq_completion c;
	struct rig rig;

	rig_start(&rig, NULL);
	assert_int_equal(gpuq_wait(rig.ch, &c, 1, GPUQ_FOREVER), -ENODATA);
	assert_int_equal(gpuq_wait(rig.ch, &c, 0, GPUQ_FOREVER), -EINVAL);
	rig_stop(&rig);
}

/* Each of these ends in another stage: polling, spinning, yielding, sleeping, sleeping again. */
static void test_timeouts(void **state)
{
	static const uint64_t timeouts_ns[] = {0, 1, 5000, 70000, 2000000, 450000000};
	struct gpuq_completion c = {.user_data = 77};
	struct rig rig;

	rig_start(&rig, NULL);
	shm_store_release(&rig.control->hold, 1);
	usleep(20000);
	assert_int_equal(rig_submit(&rig, NULL, 1), 1);
	for (size_t i = 0; i < sizeof(timeouts_ns) / sizeof(timeouts_ns[0]); i++) {
		uint64_t start_ns = clock_monotonic_ns();
		assert_int_equal(gpuq_wait(rig.ch, &c, 1, timeouts_ns[i]), -ETIMEDOUT);
		assert_detail("stays in flight");
		/* The two clocks drift apart a little. */
		assert_true(
			clock_monotonic_ns() - start_ns >= timeouts_ns[i] - timeouts_ns[i] / 50);
		assert_int_equal(gpuq_in_flight(rig.ch), 1);
		assert_int_equal(c.user_data, 77);
	}
	shm_store_release(&rig.control->hold, 0);
	rig_wait(&rig, 1);
	rig_stop(&rig);
}

static void test_sleeping(void **state)
{
	struct rig rig;

	rig_start(&rig, NULL);
	make_scarce(&rig);
	for (uint64_t i = 0; i < 50; i++) {
		shm_store_release(&rig.control->hold, 1);
		assert_int_equal(rig_submit(&rig, NULL, i), 1);
		fake_expect(&rig.control->taken, i + 1);
		/* The fake lets go of it after a nap: the client sleeps by then, or nearly. */
		shm_store_release(&rig.control->hold, 0);
		rig_wait(&rig, i);
	}
	assert_int_equal(gpuq_rescues(rig.ch), 0);
	rig_stop(&rig);
}

static struct fake_control *late_control;

static void *let_go_later(void *arg)
{
	usleep(30000);
	shm_store_release(&late_control->hold, 0);
	return NULL;
}

/* Certainly asleep when the completion comes; woken by the bell and by nothing else. */
static void test_woken_by_the_bell(void **state)
{
	struct rig rig;
	pthread_t thread;

	rig_start(&rig, NULL);
	late_control = rig.control;
	for (uint64_t i = 0; i < 5; i++) {
		shm_store_release(&rig.control->hold, 1);
		usleep(10000);
		assert_int_equal(rig_submit(&rig, NULL, i), 1);
		assert_int_equal(pthread_create(&thread, NULL, let_go_later, NULL), 0);
		rig_wait(&rig, i);
		pthread_join(thread, NULL);
		fake_expect(&rig.control->bells, i + 1);
	}
	assert_int_equal(gpuq_rescues(rig.ch), 0);
	rig_stop(&rig);
}

/* The bell is broken: the sleeper rescues itself, and counts it. */
static void test_rescues_are_counted(void **state)
{
	struct rig rig;
	pthread_t thread;

	rig_start(&rig, NULL);
	late_control = rig.control;
	shm_store_release(&rig.control->mute, 1);
	shm_store_release(&rig.control->hold, 1);
	usleep(20000);
	assert_int_equal(rig_submit(&rig, NULL, 1), 1);
	assert_int_equal(pthread_create(&thread, NULL, let_go_later, NULL), 0);
	rig_wait(&rig, 1);
	pthread_join(thread, NULL);
	assert_int_equal(gpuq_rescues(rig.ch), 1);
	rig_stop(&rig);
}

static void on_signal(int number)
{
}

static pthread_t waiter;

static void *interrupt(void *arg)
{
	for (int i = 0; i < 10; i++) {
		usleep(3000);
		pthread_kill(waiter, SIGUSR1);
	}
	shm_store_release(&late_control->hold, 0);
	return NULL;
}

static void test_signals_do_not_end_a_wait(void **state)
{
	const struct sigaction action = {.sa_handler = on_signal};
	struct rig rig;
	pthread_t thread;

	rig_start(&rig, NULL);
	late_control = rig.control;
	waiter = pthread_self();
	sigaction(SIGUSR1, &action, NULL);
	shm_store_release(&rig.control->hold, 1);
	usleep(20000);
	assert_int_equal(rig_submit(&rig, NULL, 1), 1);
	assert_int_equal(pthread_create(&thread, NULL, interrupt, NULL), 0);
	rig_wait(&rig, 1);
	pthread_join(thread, NULL);
	rig_stop(&rig);
}

static int readable(struct rig *rig, int timeout_ms)
{
	struct pollfd p = {.fd = gpuq_completion_fd(rig->ch), .events = POLLIN};

	return poll(&p, 1, timeout_ms) == 1 && p.revents == POLLIN;
}

static void test_event_loop(void **state)
{
	struct gpuq_completion c;
	struct rig rig;

	rig_start(&rig, NULL);
	for (uint64_t i = 0; i < 20; i++) {
		shm_store_release(&rig.control->hold, 1);
		usleep(5000);
		assert_int_equal(rig_submit(&rig, NULL, i), 1);
		assert_int_equal(gpuq_arm(rig.ch), 0);
		assert_false(readable(&rig, 0));
		shm_store_release(&rig.control->hold, 0);
		assert_true(readable(&rig, 10000));
		/* Readable until it is armed again, and that wants the completion taken. */
		assert_int_equal(gpuq_arm(rig.ch), 1);
		assert_int_equal(gpuq_poll(rig.ch, &c, 1), 1);
		assert_int_equal(c.user_data, i);
		assert_int_equal(gpuq_arm(rig.ch), 0);
		assert_false(readable(&rig, 0));
	}
	/* A wait after an event loop is not confused by old bells. */
	assert_int_equal(rig_submit(&rig, NULL, 100), 1);
	rig_wait(&rig, 100);
	assert_int_equal(gpuq_rescues(rig.ch), 0);
	rig_stop(&rig);
}

static void test_space_in_the_ring(void **state)
{
	const struct gpuq_channel_options options = {.sq_entries = 8, .cq_entries = 8};
	struct gpuq_submission s[8];
	struct gpuq_completion c[16];
	struct rig rig;

	rig_start(&rig, &options);
	for (uint64_t i = 0; i < 8; i++)
		s[i] = (struct gpuq_submission){.user_data = i};
	assert_int_equal(gpuq_wait_space(rig.ch, 8, 0, 0), 0);
	assert_int_equal(gpuq_wait_space(rig.ch, 9, 0, GPUQ_FOREVER), -GPUQ_ETOOBIG);
	shm_store_release(&rig.control->hold, 1);
	usleep(20000);
	assert_int_equal(gpuq_submit(rig.ch, s, 8), 8);
	assert_int_equal(gpuq_wait_space(rig.ch, 1, 0, 5000000), -ETIMEDOUT);
	shm_store_release(&rig.control->hold, 0);
	/* Completions are kept, and there is room for more submissions meanwhile. */
	assert_int_equal(gpuq_wait_space(rig.ch, 8, 0, RIG_LONG_NS), 0);
	assert_int_equal(gpuq_in_flight(rig.ch), 8);
	assert_int_equal(gpuq_arm(rig.ch), 1);
	for (uint64_t i = 0; i < 8; i++)
		s[i].user_data = 100 + i;
	assert_int_equal(gpuq_submit(rig.ch, s, 8), 8);
	assert_int_equal(gpuq_in_flight(rig.ch), 16);
	/* As many can be kept as are in flight at once; then somebody has to take some. */
	assert_int_equal(gpuq_wait_space(rig.ch, 1, 0, RIG_LONG_NS), -ENOSPC);
	assert_detail("gpuq_poll()");
	assert_int_equal(gpuq_poll(rig.ch, c, 5), 5);
	assert_int_equal(c[4].user_data, 4);
	assert_int_equal(gpuq_wait_space(rig.ch, 5, 0, RIG_LONG_NS), 0);
	assert_int_equal(gpuq_poll(rig.ch, c, 16), 8);
	assert_int_equal(c[2].user_data, 7);
	assert_int_equal(c[3].user_data, 100);
	for (uint64_t i = 5; i < 8; i++)
		rig_wait(&rig, 100 + i);
	assert_int_equal(gpuq_in_flight(rig.ch), 0);
	rig_stop(&rig);
}

static void test_space_in_the_arena(void **state)
{
	const struct gpuq_channel_options options = {.arena_bytes = 4096};
	struct rig rig;
	void *rest;

	rig_start(&rig, &options);
	struct gpuq_call *call = rig_copy(&rig);
	assert_int_equal(gpuq_wait_space(rig.ch, 0, 4097, GPUQ_FOREVER), -GPUQ_ETOOBIG);
	/* Nothing in flight could ever free the callers' own memory. */
	assert_int_equal(gpuq_wait_space(rig.ch, 1, 4096, GPUQ_FOREVER), -ENOSPC);
	assert_detail("nothing in flight");
	assert_int_equal(gpuq_free(rig.ch, rig.x), 0);
	assert_int_equal(gpuq_free(rig.ch, rig.y), 0);
	assert_int_equal(rig_submit(&rig, call, 1), 1);
	gpuq_call_destroy(call);
	assert_int_equal(gpuq_wait_space(rig.ch, 1, 4096, RIG_LONG_NS), 0);
	assert_int_equal(gpuq_alloc(rig.ch, 4096, &rest), 0);
	rig_wait(&rig, 1);
	rig_stop(&rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_nothing_in_flight),
		HARNESS_TEST(test_timeouts),
		HARNESS_TEST(test_sleeping),
		HARNESS_TEST(test_woken_by_the_bell),
		HARNESS_TEST(test_rescues_are_counted),
		HARNESS_TEST(test_signals_do_not_end_a_wait),
		HARNESS_TEST(test_event_loop),
		HARNESS_TEST(test_space_in_the_ring),
		HARNESS_TEST(test_space_in_the_arena),
	};

	return harness_run("client-wait", tests, sizeof(tests) / sizeof(tests[0]));
}
