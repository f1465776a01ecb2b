/* SPDX-License-Identifier: MIT */
/*
 * test-dispatch-graphs.c: dispatch and the graph cache: handles of pipelines, captures that
 * clients wait for, cancelled, drained or left behind, and a device that fails.
 */
#include "daemon/dispatch_impl.h"
#include "graphs/impl.h"
#include "tests/daemon/dispatch-rig.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HANDLE (WIRE_PIPELINE | 5u << 16 | 3u)
#define CAPTURES 6u
#define MOST 5u			 /* entries in flight of a user, where that is limited */
#define FREE (RIG_ARENA - 4096u) /* in the arena: of no other entry */

static void expect_event(
	struct rig *rig, enum dispatch_event_type type, const struct known_pipeline *known)
{
	const struct dispatch_event event = rig_next_event(rig);

	assert_int_equal(event.type, type);
	assert_ptr_equal(event.pipeline, known);
}

static struct known_pipeline *add_pipeline(struct rig *rig, uint32_t client, uint32_t generation)
{
	struct known_pipeline *known = calloc(1, sizeof(*known));

	assert_non_null(known);
	*known = (struct known_pipeline){.handle = HANDLE,
		.client = client,
		.client_generation = generation,
		.pipeline = rig_pipeline(rig)};
	dispatch_add_pipeline(rig->dispatch, known);
	expect_event(rig, DISPATCH_PIPELINE_ADDED, known);
	return known;
}

static void expect_removed(struct rig *rig, struct known_pipeline *known)
{
	expect_event(rig, DISPATCH_PIPELINE_REMOVED, known);
	pipeline_unref(known->pipeline);
	free(known);
}

static void remove_pipeline(struct rig *rig, struct known_pipeline *known)
{
	dispatch_remove_pipeline(rig->dispatch, known);
	expect_removed(rig, known);
}

/* A dispatcher with one client, who has a pipeline. */
static struct known_pipeline *start(struct rig *rig, struct rig_client *c)
{
	rig_start(rig);
	rig_open(rig, c, 1, 0, WIRE_ABI);
	return add_pipeline(rig, 0, 0);
}

static void stop(struct rig *rig, struct rig_client *c, struct known_pipeline *known)
{
	remove_pipeline(rig, known);
	rig_close(c);
	rig_stop(rig);
}

/* A call, or a capture, of the pipeline over n elements; its block begins at `at`. */
static struct wire_sqe entry_of(
	struct rig_client *c, uint16_t opcode, uint32_t at, uint64_t n, uint64_t user_data)
{
	struct wire_sqe sqe = rig_softmax(c, at, n, user_data);

	sqe.opcode = opcode;
	((struct wire_call *)(c->arena + at))->op = HANDLE;
	return sqe;
}

static int run(struct rig_client *c, const struct wire_sqe *sqe)
{
	rig_submit(c, sqe);
	return rig_complete(c).status;
}

/* --- Handles ------------------------------------------------------------------------------- */

static void test_handles(void **state)
{
	struct rig_client c, old;
	struct rig rig;

	rig_start(&rig);
	rig_open(&rig, &c, 1, 0, WIRE_ABI);
	rig_open(&rig, &old, 2, 0, 2);
	const struct wire_sqe sqe = entry_of(&c, WIRE_OP_CALL, 64, 8, 1);
	struct wire_call *call = (void *)(c.arena + 64);
	assert_int_equal(run(&c, &sqe), -GPUQ_EPIPELINE);
	struct known_pipeline *known = add_pipeline(&rig, 0, 0);
	assert_int_equal(run(&c, &sqe), 0);
	const uint32_t wrong[] = {HANDLE + 1, HANDLE - 1, HANDLE + 0x10000, HANDLE | 0xffff,
		WIRE_PIPELINE, UINT32_MAX};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		call->op = wrong[i];
		assert_int_equal(run(&c, &sqe), -GPUQ_EPIPELINE);
	}
	call->op = HANDLE;
	call->n_in = 2;
	assert_int_equal(run(&c, &sqe), -GPUQ_EARGS);
	call->n_in = 1;
	assert_int_equal(run(&c, &sqe), 0);
	/* A version that has no pipelines has no such operator, and no captures. */
	struct wire_sqe older = entry_of(&old, WIRE_OP_CALL, 64, 8, 1);
	assert_int_equal(run(&old, &older), -GPUQ_EOP);
	older.opcode = WIRE_OP_CAPTURE;
	assert_int_equal(run(&old, &older), -GPUQ_EOPCODE);
	remove_pipeline(&rig, known);
	assert_int_equal(run(&c, &sqe), -GPUQ_EPIPELINE);
	rig_close(&c);
	rig_close(&old);
	rig_stop(&rig);
}

/* Another client's, or one of a client whose record this one has now. */
static void test_foreign_handles(void **state)
{
	struct rig_client c;
	struct rig rig;

	rig_start(&rig);
	rig_open(&rig, &c, 1, 0, WIRE_ABI);
	const struct wire_sqe sqe = entry_of(&c, WIRE_OP_CALL, 64, 8, 1);
	struct known_pipeline *known = add_pipeline(&rig, 1, 0);
	assert_int_equal(run(&c, &sqe), -GPUQ_EPIPELINE);
	remove_pipeline(&rig, known);
	known = add_pipeline(&rig, 0, 1);
	assert_int_equal(run(&c, &sqe), -GPUQ_EPIPELINE);
	remove_pipeline(&rig, known);
	known = add_pipeline(&rig, 0, 0);
	assert_int_equal(run(&c, &sqe), 0);
	stop(&rig, &c, known);
}

/* It goes when what is in flight has ended, and not before. */
static void test_removal_in_flight(void **state)
{
	struct rig_client c;
	struct rig rig;

	struct known_pipeline *known = start(&rig, &c);
	graphs_quiet_begin(rig.graphs);
	const struct wire_sqe sqe = entry_of(&c, WIRE_OP_CAPTURE, 64, 8, 1);
	rig_submit(&c, &sqe);
	while (shm_load_relaxed(&c.channel->stats->in_flight) == 0)
		usleep(1000);
	dispatch_remove_pipeline(rig.dispatch, known);
	assert_int_equal(run(&c, &sqe), -GPUQ_EPIPELINE);
	struct dispatch_event event;
	assert_false(dispatch_take_event(rig.dispatch, &event));
	graphs_quiet_end(rig.graphs);
	assert_int_equal(rig_complete(&c).status, 0);
	expect_removed(&rig, known);
	rig_close(&c);
	rig_stop(&rig);
}

/* --- Captures ------------------------------------------------------------------------------ */

static void test_captures(void **state)
{
	struct rig_client c;
	struct rig rig;

	struct known_pipeline *known = start(&rig, &c);
	const struct wire_sqe capture = entry_of(&c, WIRE_OP_CAPTURE, 64, 8, 1);
	float *y = (float *)(c.arena + ((struct rig_softmax *)(c.arena + 64))->y.offset);
	y[0] = -1;
	assert_int_equal(run(&c, &capture), 0);
	assert_true(y[0] == -1);
	const struct wire_sqe call = entry_of(&c, WIRE_OP_CALL, 64, 8, 1);
	assert_int_equal(run(&c, &call), 0);
	assert_true(y[0] > 0);
	assert_int_equal(shm_load_relaxed(&rig.stats.devices[0].graph_hits), 1);
	/* Of an operator; and of one that makes no sense. */
	struct wire_sqe single = rig_softmax(&c, 4096, 8, 2);
	single.opcode = WIRE_OP_CAPTURE;
	assert_int_equal(run(&c, &single), 0);
	((struct rig_softmax *)(c.arena + 4096))->y.dims[0] = 9;
	assert_int_equal(run(&c, &single), -GPUQ_ESHAPE);
	/* No operator was called by all that but one, which had no name there. */
	assert_int_equal(shm_load_relaxed(&rig.stats.devices[0].worker_runs), 1);
	stop(&rig, &c, known);
}

/* Asks for captures, which cannot begin yet, of shapes from n elements on. */
static void ask_for_captures(struct rig_client *c, uint64_t n)
{
	for (uint32_t i = 0; i < CAPTURES; i++) {
		const struct wire_sqe sqe = entry_of(c, WIRE_OP_CAPTURE, 64 + i * 4096, n + i, i);
		rig_submit(c, &sqe);
	}
	while (shm_load_relaxed(&c->channel->stats->in_flight) < CAPTURES)
		usleep(1000);
}

static void test_cancelled_captures(void **state)
{
	struct rig_client c;
	struct rig rig;

	struct known_pipeline *known = start(&rig, &c);
	graphs_quiet_begin(rig.graphs);
	ask_for_captures(&c, 8);
	/* Work goes on beside them. */
	const struct wire_sqe call = entry_of(&c, WIRE_OP_CALL, FREE, 8, 19);
	assert_int_equal(run(&c, &call), 0);
	for (uint32_t i = 1; i < CAPTURES; i += 2) {
		struct wire_sqe cancel = rig_entry(&c, WIRE_OP_CANCEL, 10 + i);
		cancel.target = i;
		rig_submit(&c, &cancel);
	}
	/* Those are answered while the others wait on. */
	for (uint32_t i = 0; i < CAPTURES / 2 * 2; i++) {
		const struct wire_cqe cqe = rig_complete(&c);
		assert_int_equal(cqe.user_data % 2, 1);
		assert_int_equal(cqe.status, cqe.user_data > 10 ? 0 : -ECANCELED);
	}
	graphs_quiet_end(rig.graphs);
	for (uint32_t i = 0; i < CAPTURES; i += 2) {
		const struct wire_cqe cqe = rig_complete(&c);
		assert_int_equal(cqe.user_data % 2, 0);
		assert_int_equal(cqe.status, 0);
	}
	assert_true(rig_quiet(&c));
	assert_int_equal(shm_load_relaxed(&c.channel->stats->cancelled), CAPTURES / 2);
	stop(&rig, &c, known);
}

/* Nobody waits for captures when gpuqd ends, or their client has. */
static void test_captures_are_no_reason_to_wait(void **state)
{
	struct rig_client c;
	struct rig rig;

	struct known_pipeline *known = start(&rig, &c);
	graphs_quiet_begin(rig.graphs);
	ask_for_captures(&c, 8);
	graphs_quiet_end(rig.graphs);
	rig_close(&c);
	rig_open(&rig, &c, 1, 0, WIRE_ABI);
	graphs_quiet_begin(rig.graphs);
	ask_for_captures(&c, 100);
	dispatch_drain(rig.dispatch);
	const struct wire_sqe late = rig_entry(&c, WIRE_OP_NULL, 99);
	uint32_t cancelled = 0;
	int status = 0;
	while (status != -GPUQ_EDRAIN) {
		/* The answer may be that of a capture. */
		status = run(&c, &late);
		cancelled += status == -ECANCELED;
	}
	graphs_quiet_end(rig.graphs);
	expect_event(&rig, DISPATCH_DRAINED, NULL);
	for (uint32_t i = 0; i < CAPTURES; i++)
		cancelled += rig_complete(&c).status == -ECANCELED;
	/* A slow build may have captured them all before the drain. */
	assert_true(cancelled > 0 || harness_slowness() > 1);
	stop(&rig, &c, known);
}

static uint64_t in_flight(const struct rig_client *c)
{
	return shm_load_relaxed(&c->channel->stats->in_flight);
}

static void await_in_flight(const struct rig_client *a, const struct rig_client *b, uint64_t n)
{
	for (uint32_t ms = 0; in_flight(a) + in_flight(b) != n; ms++) {
		if (ms > 10000 * harness_slowness())
			fail_msg("%llu and %llu are in flight, not %llu in all",
				(unsigned long long)in_flight(a), (unsigned long long)in_flight(b),
				(unsigned long long)n);
		usleep(1000);
	}
}

/* Asks for captures, which cannot begin yet, of n shapes that no other call has. */
static void wish(struct rig_client *c, uint32_t n, uint64_t elements)
{
	for (uint32_t i = 0; i < n; i++) {
		const struct wire_sqe sqe =
			entry_of(c, WIRE_OP_CAPTURE, 64 + i * 4096, elements + i, i);
		rig_submit(c, &sqe);
	}
}

/* So many entries of a user are in flight, over all its channels; others wait in its rings. */
static void test_what_a_user_has_in_flight(void **state)
{
	struct rig_client a, b, other;
	struct rig rig;

	rig_start(&rig);
	rig.max_in_flight_per_user = MOST;
	rig_restart(&rig);
	rig.uids[3] = 200;
	rig_open(&rig, &a, 1, 0, WIRE_ABI);
	rig_open(&rig, &b, 2, 0, WIRE_ABI);
	rig_open(&rig, &other, 3, 0, WIRE_ABI);
	struct known_pipeline *known = add_pipeline(&rig, 0, 0);
	graphs_quiet_begin(rig.graphs);
	wish(&a, MOST - 1, 8);
	await_in_flight(&a, &b, MOST - 1);
	wish(&b, 3, 100);
	await_in_flight(&a, &b, MOST);
	/* Somebody else's come and go; so dispatch has seen what there is. */
	const struct wire_sqe sqe = entry_of(&other, WIRE_OP_CALL, 64, 8, 1);
	for (uint32_t i = 0; i < 20; i++) {
		assert_int_equal(run(&other, &sqe), 0);
		assert_int_equal(in_flight(&a) + in_flight(&b), MOST);
	}
	/* One goes, one comes. */
	struct wire_sqe cancel = rig_entry(&a, WIRE_OP_CANCEL, 77);
	cancel.target = 0;
	rig_submit(&a, &cancel);
	for (uint32_t i = 0; i < 2; i++) {
		const struct wire_cqe cqe = rig_complete(&a);
		assert_int_equal(cqe.status, cqe.user_data == 77 ? 0 : -ECANCELED);
	}
	await_in_flight(&a, &other, MOST - 2);
	await_in_flight(&b, &other, 2);
	graphs_quiet_end(rig.graphs);
	for (uint32_t i = 0; i < MOST - 2; i++)
		assert_int_equal(rig_complete(&a).status, 0);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(rig_complete(&b).status, 0);
	remove_pipeline(&rig, known);
	rig_close(&a);
	rig_close(&b);
	rig_close(&other);
	rig_stop(&rig);
}

/* One that has to wait is looked at often, and counts once among those of a second. */
static void test_rate_of_those_that_wait(void **state)
{
	struct rig_client c, other;
	struct rig rig;

	rig_start(&rig);
	rig.max_in_flight_per_user = 1;
	rig.max_rate_per_user = 3;
	rig_restart(&rig);
	rig.uids[2] = 200;
	rig_open(&rig, &c, 1, 0, WIRE_ABI);
	rig_open(&rig, &other, 2, 0, WIRE_ABI);
	struct known_pipeline *known = add_pipeline(&rig, 0, 0);
	graphs_quiet_begin(rig.graphs);
	wish(&c, 2, 8);
	await_in_flight(&c, &other, 1);
	/* Cancellations have no rate. */
	for (uint32_t i = 0; i < 50; i++) {
		const struct wire_sqe cancel = rig_entry(&other, WIRE_OP_CANCEL, i);
		rig_submit(&other, &cancel);
		assert_int_equal(rig_complete(&other).status, -ENOENT);
	}
	graphs_quiet_end(rig.graphs);
	for (uint32_t i = 0; i < 2; i++)
		assert_int_equal(rig_complete(&c).status, 0);
	remove_pipeline(&rig, known);
	rig_close(&c);
	rig_close(&other);
	rig_stop(&rig);
}

/* A channel has a few wishes waiting; further ones stay in its ring until those are answered. */
static void test_captures_in_the_ring(void **state)
{
	const uint32_t n = MAX_CAPTURES + 2;
	struct rig_client c;
	struct rig rig;

	struct known_pipeline *known = start(&rig, &c);
	graphs_quiet_begin(rig.graphs);
	for (uint32_t i = 0; i < n; i++) {
		const struct wire_sqe sqe = entry_of(&c, WIRE_OP_CAPTURE, 64 + i * 4096, 8 + i, i);
		rig_submit(&c, &sqe);
	}
	/* It has entries and is out of the scan all the same. */
	while (shm_load_relaxed(&c.channel->stats->parked) == 0 ||
		shm_load_relaxed(&c.channel->stats->in_flight) < MAX_CAPTURES)
		usleep(1000);
	assert_int_equal(shm_load_relaxed(&c.channel->stats->in_flight), MAX_CAPTURES);
	graphs_quiet_end(rig.graphs);
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(rig_complete(&c).status, 0);
	stop(&rig, &c, known);
}

/* --- Cold shapes --------------------------------------------------------------------------- */

static uint64_t gate_open;

static void run_gate(
	const void *shape, const struct device_args *args, uint64_t begin, uint64_t end)
{
	while (shm_load_acquire(&gate_open) == 0)
		usleep(100);
}

/* Nothing that is cold goes on until gate_open is set; the device keeps a worker for others. */
static void hold_cold_works(struct rig *rig)
{
	static const struct device_code code = {"gate", run_gate};
	const struct device_kernel kernel = {.code = &code, .units = 1};
	const struct device_args args = {.pointers = {NULL}};

	shm_store_relaxed(&gate_open, 0);
	assert_int_equal(device_launch(rig->graphs->cold[0].lane.stream, &kernel, &args), 0);
}

/* However many channels wait for room among cold works, what is hot goes past them. */
static void test_cold_heads_hold_up_nobody(void **state)
{
	struct rig_client c[RIG_CHANNELS], *hot = &c[RIG_CHANNELS - 1];
	struct rig rig;

	rig_start(&rig);
	for (uint32_t i = 0; i < RIG_CHANNELS; i++)
		rig_open(&rig, &c[i], i, 0, WIRE_ABI);
	struct known_pipeline *known = add_pipeline(&rig, 0, 0);
	const struct wire_sqe capture = entry_of(hot, WIRE_OP_CAPTURE, 64, 8, 1);
	assert_int_equal(run(hot, &capture), 0);
	hold_cold_works(&rig);
	for (uint32_t i = 0; i < 2 * (RIG_CHANNELS - 1); i++) {
		struct rig_client *cold = &c[i / 2];
		const struct wire_sqe call =
			entry_of(cold, WIRE_OP_CALL, 64 + i % 2 * 8192, 100 + i, i);
		rig_submit(cold, &call);
	}
	for (uint32_t i = 0; i < RIG_CHANNELS - 1; i++) {
		while (shm_load_relaxed(&c[i].channel->stats->in_flight) < 2)
			usleep(1000);
	}
	const struct wire_sqe call = entry_of(hot, WIRE_OP_CALL, 64, 8, 1);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(run(hot, &call), 0);
	assert_int_equal(shm_load_relaxed(&rig.stats.devices[0].graph_hits), 3);
	shm_store_release(&gate_open, 1);
	for (uint32_t i = 0; i < 2 * (RIG_CHANNELS - 1); i++)
		assert_int_equal(rig_complete(&c[i / 2]).status, 0);
	remove_pipeline(&rig, known);
	for (uint32_t i = 0; i < RIG_CHANNELS; i++)
		rig_close(&c[i]);
	rig_stop(&rig);
}

/* --- Faults -------------------------------------------------------------------------------- */

/* Everything in flight is answered, in the queue, on the device and among captures. */
static void expect_all_lost(struct rig *rig, struct rig_client *c, uint32_t n)
{
	uint32_t lost = 0;

	for (uint32_t i = 0; i < n; i++) {
		const int status = rig_complete(c).status;
		assert_true(status == 0 || status == -GPUQ_EDEVICE);
		lost += status != 0;
	}
	assert_true(lost > 0);
	expect_event(rig, DISPATCH_FAILED, NULL);
	rig->failed = true;
	assert_int_equal(shm_load_relaxed(&c->channel->stats->in_flight), 0);
}

/* The dispatcher is of no use any more: what it had is freed with it. */
static void end_failed(struct rig *rig, struct rig_client *c, struct known_pipeline *known)
{
	struct channel *ch = c->channel;

	rig_restart(rig);
	c->channel = ch;
	rig_reopen(c);
	assert_true(rig_quiet(c));
	const struct wire_sqe sqe = rig_softmax(c, FREE, 8, 1);
	assert_int_equal(run(c, &sqe), 0);
	rig_close(c);
	pipeline_unref(known->pipeline);
	free(known);
	rig_stop(rig);
}

static void test_a_fault_of_the_device(void **state)
{
	struct rig_client c;
	struct rig rig;

	rig_start(&rig);
	rig.faults = "work:9=GPUQ_EDEVICE";
	rig_restart(&rig);
	rig.faults = NULL;
	rig_open(&rig, &c, 1, 0, WIRE_ABI);
	struct known_pipeline *known = add_pipeline(&rig, 0, 0);
	for (uint32_t i = 0; i < RIG_ENTRIES; i++) {
		const struct wire_sqe sqe = entry_of(&c, WIRE_OP_CALL, i * 60000, 7000, i);
		rig_write(&c, &sqe);
	}
	rig_publish(&c);
	/* As the link thread does when it has looked at the device. */
	while (device_check(rig.device) == 0)
		usleep(1000);
	dispatch_fail(rig.dispatch);
	expect_all_lost(&rig, &c, RIG_ENTRIES);
	end_failed(&rig, &c, known);
}

/* Said from outside: whatever is in flight then. */
static void test_everything_in_flight_is_lost(void **state)
{
	struct rig_client c;
	struct rig rig;

	struct known_pipeline *known = start(&rig, &c);
	graphs_quiet_begin(rig.graphs);
	ask_for_captures(&c, 8);
	dispatch_fail(rig.dispatch);
	expect_all_lost(&rig, &c, CAPTURES);
	/* Nothing new is taken: the successor finds it. */
	const struct wire_sqe sqe = rig_softmax(&c, FREE, 8, 99);
	rig_submit(&c, &sqe);
	usleep(20000);
	assert_true(rig_quiet(&c));
	graphs_quiet_end(rig.graphs);
	struct channel *ch = c.channel;
	rig_restart(&rig);
	c.channel = ch;
	rig_reopen(&c);
	const struct wire_cqe cqe = rig_complete(&c);
	assert_int_equal(cqe.user_data, 99);
	assert_int_equal(cqe.status, 0);
	rig_close(&c);
	pipeline_unref(known->pipeline);
	free(known);
	rig_stop(&rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_handles),
		HARNESS_TEST(test_foreign_handles),
		HARNESS_TEST(test_removal_in_flight),
		HARNESS_TEST(test_captures),
		HARNESS_TEST(test_cancelled_captures),
		HARNESS_TEST(test_captures_are_no_reason_to_wait),
		HARNESS_TEST(test_rate_of_those_that_wait),
		HARNESS_TEST(test_captures_in_the_ring),
		HARNESS_TEST(test_what_a_user_has_in_flight),
		HARNESS_TEST(test_cold_heads_hold_up_nobody),
		HARNESS_TEST(test_a_fault_of_the_device),
		HARNESS_TEST(test_everything_in_flight_is_lost),
	};

	return harness_run("dispatch-graphs", tests, sizeof(tests) / sizeof(tests[0]));
}
