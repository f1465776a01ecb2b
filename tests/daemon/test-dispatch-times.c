/* SPDX-License-Identifier: MIT */
/*
 * test-dispatch-times.c: what users are charged with on a device that does not tell when it began
 * with a work, as GPUs do not. This is the CPU device, made to forget (the linker's --wrap).
 */
#include "tests/daemon/dispatch-rig.h"

#include "graphs/impl.h"

#define N 65536u /* elements of a call: so many that works wait in their lane for each other */

uint64_t __real_graphs_finish(struct graphs *g, struct graph_work *w, uint64_t now_ns);
uint64_t __wrap_graphs_finish(struct graphs *g, struct graph_work *w, uint64_t now_ns);

static uint64_t n_cold, n_behind; /* works: in a lane for cold ones, or none; behind others */

uint64_t __wrap_graphs_finish(struct graphs *g, struct graph_work *w, uint64_t now_ns)
{
	w->completion->started_ns = w->completion->ended_ns = 0;
	shm_count(&n_cold, w->slot == NULL || w->slot->lane->is_cold);
	const uint64_t behind_ns = __real_graphs_finish(g, w, now_ns);
	shm_count(&n_behind, behind_ns > 0);
	return behind_ns;
}

/* Runs calls, all at once. Returns how long the device was at them, by dispatch's account. */
static uint64_t run_calls(struct rig *rig, struct rig_client *c, uint32_t n)
{
	const uint64_t before_ns = shm_load_relaxed(&rig->stats.devices[0].busy_ns);
	const struct wire_sqe sqe = rig_softmax(c, 0, N, 0);

	for (uint32_t i = 0; i < n; i++)
		rig_write(c, &sqe);
	rig_publish(c);
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(rig_complete(c).status, 0);
	return shm_load_relaxed(&rig->stats.devices[0].busy_ns) - before_ns;
}

/* One lane has all of them, two at a time: together they had no more than the time that passed. */
static void test_waiting_is_not_charged(void **state)
{
	struct rig rig;
	struct rig_client c;
	uint64_t cold;

	rig_start(&rig);
	const struct clock_line clock = clock_from_page(rig.page);
	rig_open(&rig, &c, 0, 0, WIRE_ABI);
	do {
		cold = shm_load_relaxed(&n_cold);
		(void)run_calls(&rig, &c, 1);
	} while (shm_load_relaxed(&n_cold) != cold);
	const uint64_t behind = shm_load_relaxed(&n_behind);
	const uint64_t start_ns = clock_now_ns(&clock);
	const uint64_t busy_ns = run_calls(&rig, &c, RIG_ENTRIES);
	const uint64_t took_ns = clock_now_ns(&clock) - start_ns;
	assert_int_equal(shm_load_relaxed(&n_cold), cold);
	assert_int_equal(shm_load_relaxed(&n_behind), behind + RIG_ENTRIES);
	if (busy_ns == 0 || busy_ns > took_ns)
		fail_msg("charged with %llu ns of %llu ns", (unsigned long long)busy_ns,
			(unsigned long long)took_ns);
	rig_close(&c);
	rig_stop(&rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_waiting_is_not_charged),
	};

	return harness_run("dispatch-times", tests, sizeof(tests) / sizeof(tests[0]));
}
