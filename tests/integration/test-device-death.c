/* SPDX-License-Identifier: MIT */
/*
 * test-device-death.c: the device process is killed under load. Every submission still completes
 * exactly once, with 0 and the right values or with -GPUQ_EDEVICE; connections last.
 *
 *	TEST_SEED=N   when the kills come; printed
 */
#include "tests/integration/children.h"
#include "tests/integration/client.h"
#include "tests/integration/world.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define CLIENTS 4u
#define DAEMONS 5u
#define KILLS 4u			  /* of one daemon; after five in ten seconds it gives up */
#define LATE_START "18446744073709551000" /* indices that soon wrap */

static void await_progress(const struct child *children)
{
	for (uint32_t i = 0; i < CLIENTS; i++) {
		const struct child_page *page = children[i].page;
		uint64_t before = shm_load_acquire(&page->completed);
		raw_await(shm_load_acquire(&page->completed) > before + 100);
	}
}

/* At once, while it takes over; a little later; or when all clients work again. */
static void pick_moment(const struct child *children, struct random *rng)
{
	switch (random_below(rng, 3)) {
	case 0:
		usleep((useconds_t)random_below(rng, 1000));
		break;
	case 1:
		usleep((useconds_t)random_below(rng, 50000));
		break;
	default:
		await_progress(children);
		usleep((useconds_t)random_below(rng, 1000));
	}
}

static uint64_t stop_clients(struct child *children)
{
	uint64_t lost = 0;

	for (uint32_t i = 0; i < CLIENTS; i++) {
		child_stop(&children[i]);
		print_message("client %u: %llu completed, %llu of these lost\n", i,
			(unsigned long long)children[i].page->completed,
			(unsigned long long)children[i].page->lost);
		lost += children[i].page->lost;
		child_free(&children[i]);
	}
	return lost;
}

static uint64_t kill_devices(struct random *rng)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct child children[CLIENTS];
	pid_t pid = 0;

	for (uint32_t i = 0; i < CLIENTS; i++) {
		children[i] = (struct child){
			.run = load_child_main, .number = i, .seed = random_u64(rng)};
		child_start(&children[i]);
		child_await_ready(&children[i]);
	}
	for (uint32_t i = 0; i < KILLS; i++) {
		pid = world_await_device(daemon, pid);
		pick_moment(children, rng);
		assert_int_equal(kill(pid, SIGKILL), 0);
	}
	(void)world_await_device(daemon, pid);
	await_progress(children);
	uint64_t lost = stop_clients(children);
	const struct world w = world_look(daemon);
	assert_int_equal(w.device_restarts, KILLS);
	assert_int_equal(w.deaths, 0);
	assert_int_equal(w.poisoned, 0);
	harness_daemon_destroy(daemon);
	return lost;
}

static void test_device_killed_under_load(void **state)
{
	const char *text = getenv("TEST_SEED");
	uint64_t seed = text != NULL ? strtoull(text, NULL, 0) : (uint64_t)getpid();
	struct random rng = {seed};
	uint64_t lost = 0;

	print_message("TEST_SEED=%llu\n", (unsigned long long)seed);
	for (uint32_t i = 0; i < DAEMONS; i++) {
		if (i % 2 == 1)
			setenv("GPUQ_TEST_START_INDEX", LATE_START, 1);
		lost += kill_devices(&rng);
		unsetenv("GPUQ_TEST_START_INDEX");
	}
	/* The kills did hit. */
	assert_true(lost > 0);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST_LONG(test_device_killed_under_load, 120)};

	return harness_run("device death", tests, sizeof(tests) / sizeof(tests[0]));
}
