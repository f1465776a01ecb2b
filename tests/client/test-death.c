/* SPDX-License-Identifier: MIT */
/* test-death.c: how a client learns that gpuqd is gone, wherever it is at that moment. */
#include "shm/clock.h"
#include "tests/client/rig.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

/* A rig with one submission that will not complete. */
static void start_holding(struct rig *rig)
{
	rig_start(rig, NULL);
	shm_store_release(&rig->control->hold, 1);
	usleep(20000);
	assert_int_equal(rig_submit(rig, rig_copy(rig), 1), 1);
	fake_expect(&rig->control->taken, 1);
}

/* Everything after the end. */
static void expect_gone(struct rig *rig)
{
	struct gpuq_completion c;
	struct gpuq_device_info device;
	struct gpuq_channel *ch;

	assert_int_equal(gpuq_poll(rig->ch, &c, 1), -GPUQ_EGONE);
	assert_detail(rig->fake->socket);
	assert_int_equal(gpuq_in_flight(rig->ch), 0);
	assert_int_equal(gpuq_wait(rig->ch, &c, 1, GPUQ_FOREVER), -GPUQ_EGONE);
	assert_int_equal(rig_submit(rig, NULL, 1), -GPUQ_EGONE);
	assert_int_equal(gpuq_cancel(rig->ch, 1, 2), -GPUQ_EGONE);
	assert_int_equal(gpuq_arm(rig->ch), -GPUQ_EGONE);
	assert_int_equal(gpuq_alive(rig->g), -GPUQ_EGONE);
	assert_int_equal(gpuq_device_info(rig->g, 0, &device), -GPUQ_EGONE);
	assert_int_equal(gpuq_channel_open(rig->g, NULL, &ch), -GPUQ_EGONE);
	/* The arena is there to the end. */
	assert_int_equal(rig->x[99], 7);
	assert_int_equal(gpuq_free(rig->ch, rig->y), 0);
	gpuq_channel_close(rig->ch);
}

static void test_noticed_by_poll(void **state)
{
	struct gpuq_completion c;
	struct rig rig;

	start_holding(&rig);
	assert_int_equal(gpuq_poll(rig.ch, &c, 1), 0);
	fake_kill(rig.fake);
	assert_int_equal(gpuq_in_flight(rig.ch), 1);
	assert_int_equal(gpuq_poll(rig.ch, &c, 1), -GPUQ_EGONE);
	assert_detail("without a word");
	expect_gone(&rig);
	rig_stop(&rig);
}

static void test_noticed_by_submit(void **state)
{
	struct rig rig;

	start_holding(&rig);
	fake_kill(rig.fake);
	assert_int_equal(rig_submit(&rig, NULL, 2), -GPUQ_EGONE);
	expect_gone(&rig);
	rig_stop(&rig);
}

static void test_noticed_by_a_request(void **state)
{
	struct gpuq_device_info device;
	struct rig rig;

	start_holding(&rig);
	fake_kill(rig.fake);
	assert_int_equal(gpuq_device_info(rig.g, 0, &device), -GPUQ_EGONE);
	expect_gone(&rig);
	rig_stop(&rig);
}

static void *kill_later(void *arg)
{
	struct fake *fake = arg;

	usleep(30000);
	kill(fake->pid, SIGKILL);
	return NULL;
}

/* Waits while the fake is killed; `runnable` chooses whether the client spins meanwhile. */
static void wait_for_death(uint64_t runnable)
{
	struct gpuq_completion c;
	struct rig rig;
	pthread_t thread;

	start_holding(&rig);
	shm_store_release(&rig.control->runnable, runnable);
	usleep(20000);
	assert_int_equal(pthread_create(&thread, NULL, kill_later, rig.fake), 0);
	assert_int_equal(gpuq_wait(rig.ch, &c, 1, GPUQ_FOREVER), -GPUQ_EGONE);
	pthread_join(thread, NULL);
	expect_gone(&rig);
	rig_stop(&rig);
}

static void test_noticed_by_a_sleeper(void **state)
{
	wait_for_death(1);
	wait_for_death(1000);
}

/* Short waits never reach the sleep: the words of the daemon page must do. */
static void test_noticed_by_a_spinner(void **state)
{
	struct gpuq_completion c;
	struct rig rig;
	pthread_t thread;
	int r;

	start_holding(&rig);
	assert_int_equal(pthread_create(&thread, NULL, kill_later, rig.fake), 0);
	do
		r = gpuq_wait(rig.ch, &c, 1, 10000);
	while (r == -ETIMEDOUT);
	assert_int_equal(r, -GPUQ_EGONE);
	pthread_join(thread, NULL);
	expect_gone(&rig);
	rig_stop(&rig);
}

static void test_noticed_by_an_event_loop(void **state)
{
	struct gpuq_completion c;
	struct rig rig;
	pthread_t thread;

	start_holding(&rig);
	assert_int_equal(gpuq_arm(rig.ch), 0);
	struct pollfd p = {.fd = gpuq_completion_fd(rig.ch), .events = POLLIN};
	assert_int_equal(pthread_create(&thread, NULL, kill_later, rig.fake), 0);
	assert_int_equal(poll(&p, 1, 10000), 1);
	assert_true((p.revents & POLLHUP) != 0);
	assert_int_equal(gpuq_poll(rig.ch, &c, 1), -GPUQ_EGONE);
	pthread_join(thread, NULL);
	expect_gone(&rig);
	rig_stop(&rig);
}

/* What completed before the end is delivered, and only then the end. */
static void test_completions_come_first(void **state)
{
	struct gpuq_completion c[8];
	struct rig rig;

	rig_start(&rig, NULL);
	struct gpuq_call *call = rig_copy(&rig);
	for (uint64_t i = 0; i < 6; i++)
		assert_int_equal(rig_submit(&rig, call, i), 1);
	fake_expect(&rig.control->completed, 6);
	/* The fake publishes before it naps again. */
	usleep(20000);
	shm_store_release(&rig.control->hold, 1);
	usleep(20000);
	assert_int_equal(rig_submit(&rig, call, 6), 1);
	fake_expect(&rig.control->taken, 7);
	gpuq_call_destroy(call);
	/* Six completions lie in the ring when the death is noticed. */
	fake_kill(rig.fake);
	assert_int_equal(rig_submit(&rig, NULL, 7), -GPUQ_EGONE);
	assert_int_equal(gpuq_in_flight(rig.ch), 7);
	assert_int_equal(gpuq_poll(rig.ch, c, 4), 4);
	assert_int_equal(gpuq_wait(rig.ch, c + 4, 4, GPUQ_FOREVER), 2);
	assert_int_equal(c[5].user_data, 5);
	assert_int_equal(gpuq_wait(rig.ch, c, 4, GPUQ_FOREVER), -GPUQ_EGONE);
	expect_gone(&rig);
	rig_stop(&rig);
}

/* gpuqd lives, but closes the connection, with a reason. */
static void say_goodbye(int status, int expected, void (*notice)(struct rig *rig, int expected))
{
	struct rig rig;

	start_holding(&rig);
	shm_store_relaxed(&rig.control->fault_status, (uint64_t)status);
	shm_store_release(&rig.control->let_go, 1);
	notice(&rig, expected);
	assert_detail("the fake has had enough");
	assert_int_equal(gpuq_in_flight(rig.ch), 0);
	assert_int_equal(rig_submit(&rig, NULL, 2), expected);
	rig_stop(&rig);
}

static void notice_in_wait(struct rig *rig, int expected)
{
	struct gpuq_completion c;

	assert_int_equal(gpuq_wait(rig->ch, &c, 1, GPUQ_FOREVER), expected);
}

static void notice_in_event_loop(struct rig *rig, int expected)
{
	struct pollfd p = {.fd = gpuq_completion_fd(rig->ch), .events = POLLIN};

	assert_int_equal(poll(&p, 1, 10000), 1);
	assert_true((p.revents & POLLHUP) != 0);
	assert_int_equal(gpuq_arm(rig->ch), expected);
}

static void notice_in_request(struct rig *rig, int expected)
{
	struct gpuq_device_info device;
	struct gpuq_completion c;
	struct pollfd p = {.fd = gpuq_completion_fd(rig->ch), .events = POLLIN};

	assert_int_equal(poll(&p, 1, 10000), 1);
	assert_int_equal(gpuq_device_info(rig->g, 0, &device), expected);
	assert_int_equal(gpuq_wait(rig->ch, &c, 1, GPUQ_FOREVER), expected);
}

static void test_goodbye(void **state)
{
	say_goodbye(-GPUQ_EDRAIN, -GPUQ_EGONE, notice_in_wait);
	say_goodbye(-GPUQ_EPOISONED, -GPUQ_EPOISONED, notice_in_wait);
	say_goodbye(-GPUQ_EDRAIN, -GPUQ_EGONE, notice_in_event_loop);
	say_goodbye(-GPUQ_EPOISONED, -GPUQ_EPOISONED, notice_in_event_loop);
	say_goodbye(-GPUQ_EPOISONED, -GPUQ_EPOISONED, notice_in_request);
}

static void test_stopped(void **state)
{
	struct gpuq_completion c;
	struct rig rig;

	start_holding(&rig);
	shm_store_release(&rig.control->state, WIRE_STOPPED);
	assert_int_equal(rig_poll(rig.ch, &c, 1), -GPUQ_EGONE);
	expect_gone(&rig);
	rig_stop(&rig);
}

/* A new gpuqd on the same socket: the old connection stays dead, a new one works. */
static void test_restart(void **state)
{
	struct gpuq_completion c;
	struct rig rig, next;

	start_holding(&rig);
	fake_kill(rig.fake);
	shm_store_release(&rig.control->hold, 0);
	fake_start(rig.fake);
	rig_start_on(&next, rig.fake, NULL);
	assert_int_equal(gpuq_wait(rig.ch, &c, 1, GPUQ_FOREVER), -GPUQ_EGONE);
	expect_gone(&rig);
	gpuq_disconnect(rig.g);
	assert_int_equal(rig_submit(&next, rig_copy(&next), 5), 1);
	rig_wait(&next, 5);
	assert_int_equal(next.y[0], 7);
	rig_stop(&next);
}

static void run_anew(struct rig *rig, enum fake_ops ops)
{
	fake_kill(rig->fake);
	rig->control->ops = ops;
	fake_start(rig->fake);
	assert_int_equal(gpuq_reconnect(rig->g, RIG_LONG_NS), 0);
}

static int status_of(struct rig *rig, struct gpuq_call *call)
{
	rig->y[0] = 0;
	assert_int_equal(rig_submit(rig, call, 8), 1);
	return rig_wait(rig, 8).status;
}

/* Another gpuqd may number its operators otherwise, or have others under their names. */
static void test_operators_of_another_gpuqd(void **state)
{
	struct gpuq_call *copy, *failing, *fresh;
	struct rig rig;

	rig_start(&rig, NULL);
	copy = rig_copy(&rig);
	failing = rig_fail(&rig, -EDOM, 0);
	run_anew(&rig, FAKE_OPS_SWAPPED);
	assert_int_equal(status_of(&rig, copy), 0);
	assert_int_equal(rig.y[0], 7);
	assert_int_equal(status_of(&rig, failing), -EDOM);
	run_anew(&rig, FAKE_OPS_CHANGED);
	assert_int_equal(status_of(&rig, copy), -GPUQ_EOP);
	assert_int_equal(status_of(&rig, failing), -GPUQ_EOP);
	assert_int_equal(rig.y[0], 0);
	/* What is made now is made for it. */
	fresh = rig_copy(&rig);
	assert_int_equal(status_of(&rig, fresh), 0);
	assert_int_equal(rig.y[0], 7);
	/* And what went with one gpuqd comes back with the next. */
	run_anew(&rig, FAKE_OPS);
	assert_int_equal(status_of(&rig, fresh), -GPUQ_EOP);
	assert_int_equal(status_of(&rig, copy), 0);
	assert_int_equal(status_of(&rig, failing), -EDOM);
	rig_stop(&rig);
}

/* A stopped gpuqd is slow, not dead. */
static void test_stopped_process_is_alive(void **state)
{
	struct gpuq_completion c;
	struct rig rig;

	start_holding(&rig);
	kill(rig.fake->pid, SIGSTOP);
	assert_int_equal(gpuq_wait(rig.ch, &c, 1, 20000000), -ETIMEDOUT);
	assert_int_equal(gpuq_alive(rig.g), 0);
	kill(rig.fake->pid, SIGCONT);
	shm_store_release(&rig.control->hold, 0);
	rig_wait(&rig, 1);
	rig_stop(&rig);
}

/* Many rounds of death at an arbitrary moment of a busy client. */
static void test_death_at_any_moment(void **state)
{
	struct fake *fake = fake_new();

	for (int round = 0; round < 20; round++) {
		struct gpuq_completion c[16];
		struct gpuq_submission s[16] = {0};
		uint64_t accepted = 0, returned = 0;
		struct gpuq_channel *ch;
		struct gpuq *g;
		pthread_t thread;
		int r;

		fake_start(fake);
		assert_int_equal(gpuq_connect(NULL, &g), 0);
		assert_int_equal(gpuq_channel_open(g, NULL, &ch), 0);
		assert_int_equal(pthread_create(&thread, NULL, kill_later, fake), 0);
		do {
			r = gpuq_submit(ch, s, (uint32_t)(round % 16 + 1));
			accepted += r > 0 ? (uint64_t)r : 0;
			if (r > 0 || r == -EAGAIN)
				r = gpuq_wait(ch, c, 16, GPUQ_FOREVER);
			returned += r > 0 ? (uint64_t)r : 0;
			assert_int_equal(gpuq_in_flight(ch),
				r == -GPUQ_EGONE ? gpuq_in_flight(ch) : accepted - returned);
		} while (r > 0);
		assert_int_equal(r, -GPUQ_EGONE);
		while (gpuq_poll(ch, c, 16) > 0)
			;
		assert_int_equal(gpuq_in_flight(ch), 0);
		pthread_join(thread, NULL);
		fake_kill(fake);
		gpuq_disconnect(g);
	}
	fake_destroy(fake);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_noticed_by_poll),
		HARNESS_TEST(test_noticed_by_submit),
		HARNESS_TEST(test_noticed_by_a_request),
		HARNESS_TEST(test_noticed_by_a_sleeper),
		HARNESS_TEST(test_noticed_by_a_spinner),
		HARNESS_TEST(test_noticed_by_an_event_loop),
		HARNESS_TEST(test_completions_come_first),
		HARNESS_TEST(test_goodbye),
		HARNESS_TEST(test_stopped),
		HARNESS_TEST(test_restart),
		HARNESS_TEST(test_operators_of_another_gpuqd),
		HARNESS_TEST(test_stopped_process_is_alive),
		HARNESS_TEST(test_death_at_any_moment),
	};

	return harness_run("client-death", tests, sizeof(tests) / sizeof(tests[0]));
}
