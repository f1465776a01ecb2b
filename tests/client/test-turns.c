/* SPDX-License-Identifier: MIT */
/*
 * test-turns.c: threads of one connection that reconnect at the same time: nobody waits for another
 * one beyond its own timeout.
 */
#include "shm/clock.h"
#include "tests/client/rig.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#define SHORT_NS (RIG_SECOND_NS / 50)
#define SOON_US 50000

/* A thread that reconnects, however long that takes. */
struct patient {
	struct gpuq *g;
	pthread_t thread;
	int result;
	uint64_t begun, over;
};

static void *patient_main(void *arg)
{
	struct patient *p = arg;

	shm_store_release(&p->begun, 1);
	p->result = gpuq_reconnect(p->g, GPUQ_FOREVER);
	shm_store_release(&p->over, 1);
	return NULL;
}

static void patient_start(struct patient *p, struct gpuq *g)
{
	*p = (struct patient){.g = g};
	assert_int_equal(pthread_create(&p->thread, NULL, patient_main, p), 0);
	fake_expect(&p->begun, 1);
}

static void patient_end(struct patient *p)
{
	assert_int_equal(pthread_join(p->thread, NULL), 0);
	assert_int_equal(p->result, 0);
}

static void await_faulty(const struct rig *rig, uint64_t n)
{
	const uint64_t end_ns = clock_monotonic_ns() + harness_slowness() * RIG_LONG_NS;

	while (shm_load_acquire(&rig->control->faulty) < n) {
		if (clock_monotonic_ns() > end_ns)
			fail_msg("nobody has come for long");
		usleep(200);
	}
}

/* A connection with a channel whose gpuqd has ended; the next one treats every client so. */
static void start_gone(struct rig *rig, enum fake_fault fault)
{
	/* So long that no try ends by itself. */
	const struct gpuq_options options = {.reconnect = true, .timeout_ns = 100 * RIG_LONG_NS};

	*rig = (struct rig){.fake = fake_new()};
	rig->control = rig->fake->control;
	fake_start(rig->fake);
	assert_int_equal(gpuq_connect(&options, &rig->g), 0);
	assert_int_equal(gpuq_channel_open(rig->g, NULL, &rig->ch), 0);
	fake_kill(rig->fake);
	shm_store_relaxed(&rig->control->fault_at, MSG_HELLO);
	shm_store_release(&rig->control->fault, fault);
	fake_start(rig->fake);
}

static void check_works(struct rig *rig)
{
	assert_int_equal(rig_submit(rig, NULL, 1), 1);
	assert_int_equal(rig_wait(rig, 1).status, 0);
	assert_int_equal(gpuq_epoch(rig->g), 2);
}

/* While the other one waits for an answer. */
static void test_gives_up_in_time(void **state)
{
	struct patient other;
	struct rig rig;

	start_gone(&rig, FAKE_WAITS);
	patient_start(&other, rig.g);
	await_faulty(&rig, 1);
	assert_int_equal(gpuq_reconnect(rig.g, 0), -ETIMEDOUT);
	assert_detail("another thread");
	const uint64_t start_ns = clock_monotonic_ns();
	assert_int_equal(gpuq_reconnect(rig.g, SHORT_NS), -ETIMEDOUT);
	assert_detail("another thread");
	assert_true(clock_monotonic_ns() - start_ns >= SHORT_NS);
	assert_int_equal(shm_load_acquire(&other.over), 0);
	shm_store_release(&rig.control->fault, FAKE_NO_FAULT);
	assert_int_equal(gpuq_reconnect(rig.g, GPUQ_FOREVER), 0);
	check_works(&rig);
	patient_end(&other);
	rig_stop(&rig);
}

/* While the other one tries again and again. */
static void test_tries_between(void **state)
{
	struct patient other;
	struct rig rig;

	start_gone(&rig, FAKE_HANG_UP);
	patient_start(&other, rig.g);
	await_faulty(&rig, 3);
	assert_int_equal(rig_submit(&rig, NULL, 1), -GPUQ_EGONE);
	/* The other one may just be trying. */
	const int r = gpuq_reconnect(rig.g, 0);
	assert_true(r == -GPUQ_EGONE || r == -ETIMEDOUT);
	assert_int_equal(shm_load_acquire(&other.over), 0);
	shm_store_release(&rig.control->fault, FAKE_NO_FAULT);
	patient_end(&other);
	check_works(&rig);
	rig_stop(&rig);
}

static void *answer_soon(void *control)
{
	usleep(SOON_US);
	shm_store_release(&((struct fake_control *)control)->fault, FAKE_NO_FAULT);
	return NULL;
}

/* gpuq_submit() has the other one's try for its own. */
static void test_submits_after_a_try(void **state)
{
	struct patient other;
	pthread_t thread;
	struct rig rig;

	start_gone(&rig, FAKE_WAITS);
	patient_start(&other, rig.g);
	await_faulty(&rig, 1);
	assert_int_equal(pthread_create(&thread, NULL, answer_soon, rig.control), 0);
	check_works(&rig);
	patient_end(&other);
	assert_int_equal(pthread_join(thread, NULL), 0);
	rig_stop(&rig);
}

/* A forked child gives back what is its own, whatever the parent's threads wait for. */
static void test_forked_child(void **state)
{
	struct patient first, second;
	struct rig rig;

	start_gone(&rig, FAKE_WAITS);
	patient_start(&first, rig.g);
	await_faulty(&rig, 1);
	patient_start(&second, rig.g);
	usleep(SOON_US);
	const pid_t pid = fork();
	if (pid == 0) {
		gpuq_disconnect(rig.g);
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	shm_store_release(&rig.control->fault, FAKE_NO_FAULT);
	patient_end(&first);
	patient_end(&second);
	check_works(&rig);
	rig_stop(&rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_gives_up_in_time),
		HARNESS_TEST(test_tries_between),
		HARNESS_TEST(test_submits_after_a_try),
		HARNESS_TEST(test_forked_child),
	};

	return harness_run("client-turns", tests, sizeof(tests) / sizeof(tests[0]));
}
