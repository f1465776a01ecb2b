/* SPDX-License-Identifier: MIT */
/* test-many.c: many clients at once, and many channels. */
#include "tests/integration/children.h"
#include "tests/integration/client.h"
#include "tests/integration/world.h"

#include "shm/clock.h"

#include <signal.h>
#include <unistd.h>

/* --- Different operators and priorities side by side ---------------------------------------- */

#define WORKING 8u
#define WORK_SECONDS 5u

static const struct {
	enum job_kind kind;
	uint32_t size, n, priority;
} work[WORKING] = {
	{JOB_NULL, 1, 32, 3},
	{JOB_SOFTMAX, 8, 8, 0},
	{JOB_GEMV, 16, 8, 1},
	{JOB_PRICE, 16, 16, 2},
	/* These alone are more than the workers can do. */
	{JOB_GEMV, 500, 8, 0},
	{JOB_SOFTMAX, 20000, 4, 1},
	{JOB_GEMV, 300, 4, 3},
	{JOB_KINDS, 100, 16, 3},
};

static void working_main(struct child *child)
{
	const struct gpuq_channel_options options = {
		.priority = work[child->number].priority, .arena_bytes = 64ull << 20};
	struct child_page *page = child->page;
	struct random rng = {child->seed};
	struct client c;
	struct load load;
	uint64_t second;

	client_open(&c, &options);
	load_create(&load, &c, work[child->number].kind, work[child->number].size,
		work[child->number].n, &rng);
	child_say_ready(child);
	while (shm_load_acquire_u32(&page->go) == 0)
		raw_pause();
	while ((second = (clock_monotonic_ns() - page->start_ns) / SECOND_NS) < WORK_SECONDS) {
		assert_true(load_submit(&load) >= 0);
		int n = load_take(&load, PATIENCE_NS);
		assert_true(n > 0);
		page->second[second] += (uint64_t)n;
	}
	assert_int_equal(load_finish(&load), 0);
	page->rescues = gpuq_rescues(c.ch);
	load_destroy(&load);
	client_close(&c);
}

static void check_progress(const struct child *child)
{
	const struct child_page *page = child->page;
	uint64_t total = 0;

	print_message("client %u, priority %u:", child->number, work[child->number].priority);
	for (uint32_t i = 0; i < WORK_SECONDS; i++) {
		print_message(" %llu", (unsigned long long)page->second[i]);
		total += page->second[i];
	}
	print_message("\n");
	assert_int_equal(page->rescues, 0);
	/* Whole seconds may pass on a busy machine; to be left out altogether is another matter. */
	if (total == 0)
		fail_msg("client %u completes nothing", child->number);
}

static void test_operators_side_by_side(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	const struct world before = world_look(daemon);
	struct child children[WORKING];

	for (uint32_t i = 0; i < WORKING; i++) {
		children[i] = (struct child){.run = working_main, .number = i, .seed = i};
		child_start(&children[i]);
		child_await_ready(&children[i]);
	}
	uint64_t start_ns = clock_monotonic_ns();
	for (uint32_t i = 0; i < WORKING; i++) {
		children[i].page->start_ns = start_ns;
		shm_store_release_u32(&children[i].page->go, 1);
	}
	for (uint32_t i = 0; i < WORKING; i++)
		child_wait(&children[i]);
	for (uint32_t i = 0; i < WORKING; i++) {
		check_progress(&children[i]);
		child_free(&children[i]);
	}
	struct stats s = raw_stats(daemon);
	assert_int_equal(s.devices[0].rescues, 0);
	stats_close(&s);
	world_await(daemon, &before);
	harness_daemon_destroy(daemon);
}

/* --- Many channels ------------------------------------------------------------------------- */

#define HOLDERS 10u
#define CONNECTIONS 5u /* of each holder */
#define CHANNELS 20u   /* of each connection */

static void holder_main(struct child *child)
{
	const struct gpuq_channel_options options = {
		.sq_entries = 8, .cq_entries = 8, .arena_bytes = 4096};
	struct gpuq_channel *channels[CONNECTIONS][CHANNELS];
	struct gpuq *connections[CONNECTIONS];

	for (uint32_t i = 0; i < CONNECTIONS; i++) {
		assert_int_equal(gpuq_connect(NULL, &connections[i]), 0);
		for (uint32_t k = 0; k < CHANNELS; k++) {
			if (gpuq_channel_open(connections[i], &options, &channels[i][k]) < 0)
				fail_msg("%s", gpuq_error_detail());
		}
	}
	child_say_ready(child);
	while (!child_should_stop(child))
		raw_pause();
	/* All still work; every second connection closes its channels before it ends. */
	for (uint32_t i = 0; i < CONNECTIONS; i++) {
		for (uint32_t k = 0; k < CHANNELS; k++) {
			struct client c = {connections[i], channels[i][k]};
			client_check_works(&c);
			if (i % 2 == 0)
				gpuq_channel_close(channels[i][k]);
		}
		gpuq_disconnect(connections[i]);
	}
}

static void check_one_more(void)
{
	struct random rng = {7};
	struct client c;
	struct load load;

	client_open(&c, NULL);
	load_create(&load, &c, JOB_KINDS, 64, 8, &rng);
	for (uint32_t i = 0; i < 50; i++) {
		assert_true(load_submit(&load) >= 0);
		assert_int_equal(load_finish(&load), 0);
	}
	load_destroy(&load);
	client_close(&c);
}

static void test_thousand_channels(void **state)
{
	static const char *const args[] = {"--max-channels-per-user", "1024", NULL};
	struct harness_daemon *daemon = harness_daemon_start(args);
	struct child holders[HOLDERS];

	const struct world empty = world_look(daemon);
	check_one_more();
	world_await(daemon, &empty);
	const struct world before = world_look(daemon);
	for (uint32_t i = 0; i < HOLDERS; i++) {
		holders[i] = (struct child){.run = holder_main, .number = i};
		child_start(&holders[i]);
	}
	for (uint32_t i = 0; i < HOLDERS; i++)
		child_await_ready(&holders[i]);
	const struct world full = world_look(daemon);
	assert_int_equal(full.channels, HOLDERS * CONNECTIONS * CHANNELS);
	assert_int_equal(full.clients, HOLDERS * CONNECTIONS);
	assert_int_equal(full.device.segments, 2 * HOLDERS * CONNECTIONS * CHANNELS);
	check_one_more();
	/* Some leave in order, some are killed. */
	for (uint32_t i = 0; i < HOLDERS; i++) {
		if (i % 3 == 0)
			child_kill(&holders[i]);
		else
			child_stop(&holders[i]);
		child_free(&holders[i]);
	}
	world_await(daemon, &before);
	const struct world after = world_look(daemon);
	world_print("full", &full);
	world_print("after", &after);
	check_one_more();
	harness_daemon_destroy(daemon);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST_LONG(test_operators_side_by_side, 60),
		HARNESS_TEST_LONG(test_thousand_channels, 60),
	};

	return harness_run("many", tests, sizeof(tests) / sizeof(tests[0]));
}
