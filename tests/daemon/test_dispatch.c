/* SPDX-License-Identifier: MIT */
/*
 * The dispatcher against clients that obey and clients that do not. What a kill does to the real
 * processes is tested in tests/integration.
 */
#include "tests/daemon/dispatch-rig.h"

#include "shm/segment.h"

#include <string.h>
#include <unistd.h>

static struct wire_tensor *tensors_of(struct rig_client *c, const struct wire_sqe *sqe)
{
	return (void *)(c->arena + sqe->args_offset + sizeof(struct wire_call));
}

static void test_null_operations(void **state)
{
	static const uint64_t starts[] = {0, UINT64_MAX - 20};
	struct rig rig;
	struct rig_client c;

	rig_start(&rig);
	for (size_t s = 0; s < 2; s++) {
		rig_open(&rig, &c, 3, starts[s], WIRE_ABI);
		for (uint64_t i = 0; i < 500; i++) {
			const struct wire_sqe sqe = rig_entry(&c, WIRE_OP_NULL, i);
			rig_submit(&c, &sqe);
			const struct wire_cqe cqe = rig_complete(&c);
			assert_int_equal(cqe.user_data, i);
			assert_int_equal(cqe.status, 0);
			assert_int_equal(cqe.flags, 0);
		}
		rig_close(&c);
		/* Counted after they were shown. */
		assert_int_equal(shm_load_relaxed(&rig.stats.channels[3].completed), 500 * (s + 1));
		const struct stats_device *device = &rig.stats.devices[0];
		assert_int_equal(hist_total(device->queue_hist, HIST_STATS_BITS), 500 * (s + 1));
		assert_int_equal(hist_total(device->total_hist, HIST_STATS_BITS), 500 * (s + 1));
		assert_int_equal(hist_total(device->execute_hist, HIST_STATS_BITS), 0);
	}
	assert_int_equal(shm_load_relaxed(&rig.stats.devices[0].rescues), 0);
	rig_stop(&rig);
}

/* How often the device process has counted this error. */
static uint64_t errors_counted(const struct rig *rig, int status, const char *what)
{
	for (uint32_t i = STATS_ERRORS / 2; i < STATS_ERRORS; i++) {
		const struct stats_error *e = &rig->stats.errors[i];
		if (e->state == 0 || e->status != status || strcmp(e->what, what) != 0)
			continue;
		assert_true(e->first_ns > 0 && e->first_ns <= e->last_ns);
		return e->count;
	}
	return 0;
}

/* Every shared field of an entry that is wrong has its own error, and the next entry works. */
static void test_bad_entries(void **state)
{
	struct rig rig;
	struct rig_client c;
	struct wire_sqe sqe;

	rig_start(&rig);
	rig_open(&rig, &c, 0, 0, WIRE_ABI);
#define EXPECT(opcode, change, error)                             \
	do {                                                      \
		sqe = rig_entry(&c, opcode, 5);                   \
		change;                                           \
		rig_submit(&c, &sqe);                             \
		assert_int_equal(rig_complete(&c).status, error); \
	} while (0)
	EXPECT(99, (void)0, -GPUQ_EOPCODE);
	EXPECT(WIRE_OP_NULL, sqe.flags = 1, -EINVAL);
	EXPECT(WIRE_OP_NULL, sqe.reserved = 1, -EINVAL);
	EXPECT(WIRE_OP_NULL, sqe.session = 1, -EINVAL);
	EXPECT(WIRE_OP_NULL, sqe.target = 1, -EINVAL);
	EXPECT(WIRE_OP_NULL, sqe.max_completions = 2, -EINVAL);
	EXPECT(WIRE_OP_NULL, sqe.generation++, -GPUQ_ESTALE);
	EXPECT(WIRE_OP_CANCEL, sqe.target = 77, -ENOENT);
	EXPECT(WIRE_OP_CALL, sqe.args_bytes = 0, -GPUQ_EARGS);
	EXPECT(WIRE_OP_CALL, sqe.args_bytes = UINT32_MAX, -GPUQ_EARGS);
	EXPECT(WIRE_OP_CALL, (sqe.args_bytes = 32, sqe.args_offset = 4), -GPUQ_EALIGN);
	EXPECT(WIRE_OP_CALL, (sqe.args_bytes = 32, sqe.args_offset = RIG_ARENA - 24),
		-GPUQ_EBOUNDS);
	EXPECT(WIRE_OP_CALL, (sqe.args_bytes = 32, sqe.args_offset = UINT32_MAX - 7),
		-GPUQ_EBOUNDS);
	EXPECT(WIRE_OP_NULL, (void)0, 0);
	rig_close(&c);
	assert_int_equal(errors_counted(&rig, -GPUQ_EOPCODE, "unknown entry"), 1);
	assert_int_equal(errors_counted(&rig, -EINVAL, "null operation"), 5);
	assert_int_equal(errors_counted(&rig, -ENOENT, "cancellation"), 1);
	assert_int_equal(errors_counted(&rig, -GPUQ_EARGS, "call"), 2);
	rig_stop(&rig);
}

/* Every wrong argument block, and which argument is blamed. */
static void test_bad_arguments(void **state)
{
	struct rig rig;
	struct rig_client c;
	struct wire_sqe sqe;
	struct wire_call *call;
	struct wire_tensor *t;
	struct wire_cqe cqe;

	rig_start(&rig);
	rig_open(&rig, &c, 1, 0, WIRE_ABI);
#define REFUSED(change, error, blame)                                     \
	do {                                                              \
		sqe = rig_softmax(&c, 64, 8, 5);                          \
		call = (void *)(c.arena + 64);                            \
		t = tensors_of(&c, &sqe);                                 \
		(void)call, (void)t;                                      \
		change;                                                   \
		rig_submit(&c, &sqe);                                     \
		cqe = rig_complete(&c);                                   \
		assert_int_equal(cqe.status, error);                      \
		assert_int_equal(cqe.flags >> WIRE_CQE_ARG_SHIFT, blame); \
	} while (0)
	REFUSED((void)0, 0, 0);
	REFUSED(call->op = op_count, -GPUQ_EOP, 0);
	REFUSED(call->op = UINT32_MAX, -GPUQ_EPIPELINE, 0);
	REFUSED(call->n_in = 2, -GPUQ_EARGS, 0);
	REFUSED(call->n_out = UINT16_MAX, -GPUQ_EARGS, 0);
	REFUSED(call->n_params = 1, -GPUQ_EARGS, 0);
	REFUSED(call->n_params = 100, -GPUQ_EARGS, 0);
	REFUSED(call->reserved0 = 1, -EINVAL, 0);
	REFUSED(call->reserved2[1] = 1, -EINVAL, 0);
	REFUSED(sqe.args_bytes += 8, -GPUQ_EARGS, 0);
	REFUSED(t[0].dtype = 200, -GPUQ_EDTYPE, 1);
	REFUSED(t[0].dtype = GPUQ_I64, -GPUQ_EDTYPE, 1);
	REFUSED(t[0].rank = 9, -GPUQ_ERANK, 1);
	REFUSED(t[0].dims[3] = 1, -EINVAL, 1);
	REFUSED(t[0].buffer = 1, -GPUQ_EBUFFER, 1);
	REFUSED(t[0].offset = RIG_ARENA, -GPUQ_EBOUNDS, 1);
	REFUSED(t[0].offset = UINT64_MAX - 7, -GPUQ_EBOUNDS, 1);
	REFUSED(t[0].offset += 2, -GPUQ_EALIGN, 1);
	REFUSED(t[0].dims[0] = UINT64_MAX / 2, -GPUQ_EOVERFLOW, 1);
	REFUSED(t[0].dims[0] = RIG_ARENA, -GPUQ_EBOUNDS, 1);
	REFUSED(t[1].dims[0] = 7, -GPUQ_ESHAPE, 1 + GPUQ_MAX_INPUTS);
	REFUSED(memset(&t[0], 0, sizeof(*t)), -GPUQ_EMISSING, 1);
	REFUSED(memset(&t[1], 0, sizeof(*t)), -GPUQ_EMISSING, 1 + GPUQ_MAX_INPUTS);
	REFUSED((void)0, 0, 0);
	rig_check_softmax(&c, &sqe);
	rig_close(&c);
	rig_stop(&rig);
}

static void test_parameters(void **state)
{
	struct rig rig;
	struct rig_client c;

	rig_start(&rig);
	rig_open(&rig, &c, 1, 0, WIRE_ABI);
	static const struct {
		struct wire_param p;
		double value;
		int error, blame;
	} cases[] = {
		{{0, GPUQ_PARAM_F64, 0}, 0.5, 0, 0},
		{{1, GPUQ_PARAM_F64, 0}, 0.5, -GPUQ_EPARAM, 0},
		{{0, GPUQ_PARAM_I64, 0}, 0.5, -GPUQ_EPARAM, 1 + GPUQ_MAX_TENSORS},
		{{0, GPUQ_PARAM_F64, 0}, -1.0, -GPUQ_EPARAM, 1 + GPUQ_MAX_TENSORS},
		{{0, GPUQ_PARAM_F64, 0}, __builtin_nan(""), -GPUQ_EPARAM, 1 + GPUQ_MAX_TENSORS},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct wire_sqe sqe = rig_softmax(&c, 64, 8, i);
		/* The block moves away from its data to make room for the parameter. */
		char *block = c.arena + 8192;
		memcpy(block, c.arena + 64, sqe.args_bytes);
		((struct wire_call *)block)->n_params = 1;
		struct wire_param *p = (void *)(block + sqe.args_bytes);
		*p = cases[i].p;
		memcpy(&p->bits, &cases[i].value, sizeof(p->bits));
		sqe.args_offset = 8192;
		sqe.args_bytes += sizeof(*p);
		rig_submit(&c, &sqe);
		const struct wire_cqe cqe = rig_complete(&c);
		assert_int_equal(cqe.status, cases[i].error);
		assert_int_equal(cqe.flags >> WIRE_CQE_ARG_SHIFT, cases[i].blame);
	}
	rig_close(&c);
	rig_stop(&rig);
}

/* Large calls go to a worker; the ring is filled, everything completes once, in any order. */
static void test_worker_calls(void **state)
{
	struct rig rig;
	struct rig_client c;
	struct wire_sqe sqe[RIG_ENTRIES];
	uint32_t seen = 0;

	rig_start(&rig);
	rig_open(&rig, &c, 2, 0, WIRE_ABI);
	for (uint32_t i = 0; i < RIG_ENTRIES; i++) {
		sqe[i] = rig_softmax(&c, i * 60000, 7000, i);
		rig_write(&c, &sqe[i]);
	}
	rig_publish(&c);
	for (uint32_t i = 0; i < RIG_ENTRIES; i++) {
		const struct wire_cqe cqe = rig_complete(&c);
		assert_int_equal(cqe.status, 0);
		assert_true(cqe.user_data < RIG_ENTRIES);
		assert_true((seen & 1u << cqe.user_data) == 0);
		seen |= 1u << cqe.user_data;
		rig_check_softmax(&c, &sqe[cqe.user_data]);
	}
	assert_true(rig_quiet(&c));
	assert_int_equal(shm_load_relaxed(&rig.stats.devices[0].worker_runs), RIG_ENTRIES);
	rig_close(&c);
	rig_stop(&rig);
}

/* A deadline in the past is -ETIMEDOUT, wherever the call would have run. */
static void test_deadlines(void **state)
{
	struct rig rig;
	struct rig_client c;

	rig_start(&rig);
	rig_open(&rig, &c, 2, 0, WIRE_ABI);
	for (uint32_t n = 8; n <= 8000; n += 7992) {
		struct wire_sqe sqe = rig_softmax(&c, 0, n, 1);
		sqe.deadline_ns = 1;
		rig_submit(&c, &sqe);
		assert_int_equal(rig_complete(&c).status, -ETIMEDOUT);
	}
	assert_int_equal(shm_load_relaxed(&rig.stats.channels[2].expired), 2);
	rig_close(&c);
	rig_stop(&rig);
}

/*
 * A call that takes longer than there is time left is not started: once others of its shape have
 * been measured, it is refused before its deadline. When dispatch itself is late, that has passed.
 */
static void test_deadlines_that_cannot_be_met(void **state)
{
	const uint64_t n = 120000, until_ns = clock_monotonic_ns() + 30000000000u;
	struct rig rig;
	struct rig_client c;
	uint64_t takes_ns = UINT64_MAX;
	int status = 0;

	rig_start(&rig);
	rig_open(&rig, &c, 2, 0, WIRE_ABI);
	const struct clock_line clock = clock_from_page(rig.page);
	struct wire_sqe sqe = rig_softmax(&c, 0, n, 1);
	float *y = (float *)(c.arena + sizeof(struct rig_softmax)) + n;
	for (uint32_t i = 0; i < 20; i++) {
		rig_submit(&c, &sqe);
		const struct wire_cqe cqe = rig_complete(&c);
		assert_int_equal(cqe.status, 0);
		takes_ns = cqe.executed_ns < takes_ns ? cqe.executed_ns : takes_ns;
	}
	while (status != -GPUQ_EDEADLINE && clock_monotonic_ns() < until_ns) {
		memset(y, 0, sizeof(*y));
		sqe.deadline_ns = clock_now_ns(&clock) + takes_ns / 2;
		rig_submit(&c, &sqe);
		status = rig_complete(&c).status;
		assert_true(status == 0 || status == -ETIMEDOUT || status == -GPUQ_EDEADLINE);
		assert_true(status == 0 || *y == 0);
	}
	assert_int_equal(status, -GPUQ_EDEADLINE);
	assert_in_range(shm_load_relaxed(&rig.stats.channels[2].expired), 1, UINT64_MAX);
	/* Those without a deadline are not concerned. */
	sqe.deadline_ns = 0;
	rig_submit(&c, &sqe);
	assert_int_equal(rig_complete(&c).status, 0);
	rig_close(&c);
	rig_stop(&rig);
}

/* Cancelling: each target has one completion, each cancellation its own, and they agree. */
static uint32_t cancel_seven(struct rig_client *c)
{
	uint32_t cancelled = 0;
	int status[20];

	for (uint32_t i = 0; i < 7; i++) {
		const struct wire_sqe sqe = rig_softmax(c, i * 120000, 14000, i);
		rig_write(c, &sqe);
	}
	for (uint32_t i = 0; i < 7; i++) {
		struct wire_sqe sqe = rig_entry(c, WIRE_OP_CANCEL, 10 + i);
		sqe.target = i;
		rig_write(c, &sqe);
	}
	rig_publish(c);
	for (uint32_t i = 0; i < 14; i++) {
		const struct wire_cqe cqe = rig_complete(c);
		status[cqe.user_data] = cqe.status;
	}
	assert_true(rig_quiet(c));
	for (uint32_t i = 0; i < 7; i++) {
		cancelled += status[i] == -ECANCELED;
		if (status[10 + i] == 0)
			assert_int_equal(status[i], -ECANCELED);
		else
			assert_int_equal(status[i], 0);
	}
	return cancelled;
}

/* The device holds at most two launches: the rest is there to cancel, unless dispatch is slower. */
static void test_cancel(void **state)
{
	uint32_t tries = 0;
	struct rig_client c;
	struct rig rig;

	rig_start(&rig);
	rig_open(&rig, &c, 2, 0, WIRE_ABI);
	while (cancel_seven(&c) < 5) {
		if (++tries == 1000)
			fail_msg("hardly anything was cancelled");
	}
	rig_close(&c);
	rig_stop(&rig);
}

/* An impossible index poisons that channel and nothing else. */
static void test_lying_indices(void **state)
{
	static const uint64_t lies[] = {
		RIG_ENTRIES + 1, UINT64_MAX - 99, 1ull << 63, UINT64_MAX / 2};
	struct rig rig;
	struct rig_client liar, honest;

	rig_start(&rig);
	rig_open(&rig, &honest, 0, 0, WIRE_ABI);
	for (size_t i = 0; i < 2 * sizeof(lies) / sizeof(lies[0]); i++) {
		rig_open(&rig, &liar, 1, 0, WIRE_ABI);
		if (i % 2 == 0) {
			liar.sq.prod = lies[i / 2];
			ring_publish(&liar.sq);
			bell_ring_eventfd(liar.event_fd);
		} else {
			/* The completion ring's index is looked at when completions are due. */
			shm_store_release(&liar.cq.ring->cons, lies[i / 2]);
			for (uint32_t k = 0; k < RIG_ENTRIES; k++) {
				const struct wire_sqe sqe = rig_entry(&liar, WIRE_OP_NULL, k);
				rig_write(&liar, &sqe);
			}
			rig_publish(&liar);
			bell_ring_eventfd(liar.event_fd);
		}
		rig_expect(&rig, DISPATCH_POISONED, &liar);
		const struct wire_header *header = liar.base;
		assert_int_equal(header->closed, GPUQ_EPOISONED);
		const struct wire_sqe sqe = rig_entry(&honest, WIRE_OP_NULL, i);
		rig_submit(&honest, &sqe);
		assert_int_equal(rig_complete(&honest).user_data, i);
		rig_close(&liar);
	}
	assert_int_equal(shm_load_relaxed(&rig.stats.devices[0].poisoned), 8);
	rig_close(&honest);
	rig_stop(&rig);
}

/* A client that never reads completions is not read either, and goes on when it does. */
static void test_unread_completions(void **state)
{
	struct rig rig;
	struct rig_client c;

	rig_start(&rig);
	rig_open(&rig, &c, 0, 0, WIRE_ABI);
	for (uint64_t i = 0; i < RIG_ENTRIES; i++) {
		const struct wire_sqe sqe = rig_entry(&c, WIRE_OP_NULL, i);
		rig_submit(&c, &sqe);
	}
	while (shm_load_acquire(&c.cq.ring->prod) != RIG_ENTRIES)
		continue;
	for (uint64_t i = RIG_ENTRIES; i < 2 * RIG_ENTRIES; i++) {
		const struct wire_sqe sqe = rig_entry(&c, WIRE_OP_NULL, i);
		rig_submit(&c, &sqe);
	}
	for (uint64_t i = 0; i < 2 * RIG_ENTRIES; i++)
		assert_int_equal(rig_complete(&c).user_data, i);
	rig_close(&c);
	rig_stop(&rig);
}

/* Version 1 has no trace id and no completion count. */
static void test_older_abi(void **state)
{
	struct rig rig;
	struct rig_client c;

	rig_start(&rig);
	rig_open(&rig, &c, 0, 0, 1);
	struct wire_sqe sqe = rig_entry(&c, WIRE_OP_NULL, 1);
	rig_submit(&c, &sqe);
	assert_int_equal(rig_complete(&c).status, 0);
	sqe.trace_id = 1;
	rig_submit(&c, &sqe);
	assert_int_equal(rig_complete(&c).status, -EINVAL);
	rig_close(&c);
	rig_stop(&rig);
}

static void test_drain(void **state)
{
	struct rig rig;
	struct rig_client c;

	rig_start(&rig);
	rig_open(&rig, &c, 0, 0, WIRE_ABI);
	for (uint32_t i = 0; i < 4; i++) {
		const struct wire_sqe sqe = rig_softmax(&c, i * 120000, 14000, i);
		rig_submit(&c, &sqe);
	}
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(rig_complete(&c).status, 0);
	dispatch_drain(rig.dispatch);
	rig_expect(&rig, DISPATCH_DRAINED, NULL);
	const struct wire_sqe sqe = rig_entry(&c, WIRE_OP_NULL, 9);
	rig_submit(&c, &sqe);
	assert_int_equal(rig_complete(&c).status, -GPUQ_EDRAIN);
	rig_close(&c);
	rig_stop(&rig);
}

/* What was submitted before the drain, unannounced and out of the scan, is answered in it. */
static void test_drain_answers_everybody(void **state)
{
	struct rig rig;
	struct rig_client c;

	rig_start(&rig);
	rig_open(&rig, &c, 0, 0, WIRE_ABI);
	while (shm_load_relaxed(&rig.stats.channels[0].parked) == 0)
		usleep(1000);
	for (uint32_t i = 0; i < RIG_ENTRIES; i++) {
		const struct wire_sqe sqe = rig_entry(&c, WIRE_OP_NULL, i);
		rig_write(&c, &sqe);
	}
	ring_publish(&c.sq);
	dispatch_drain(rig.dispatch);
	rig_expect(&rig, DISPATCH_DRAINED, NULL);
	assert_int_equal(ring_refresh(&c.cq), RIG_ENTRIES);
	rig_close(&c);
	rig_stop(&rig);
}

/* Removal with a full ring and a busy device: nothing is posted, every slot comes back. */
static void test_removal_in_flight(void **state)
{
	struct rig rig;
	struct rig_client c;

	rig_start(&rig);
	for (uint32_t round = 0; round < 30; round++) {
		rig_open(&rig, &c, round % RIG_CHANNELS, 0, WIRE_ABI);
		for (uint32_t i = 0; i < 8; i++) {
			const struct wire_sqe sqe = rig_softmax(&c, i * 120000, 14000, i);
			rig_write(&c, &sqe);
		}
		rig_publish(&c);
		rig_close(&c);
		assert_int_equal(
			shm_load_relaxed(&rig.stats.channels[round % RIG_CHANNELS].in_flight), 0);
	}
	/* All slots are there: a channel can fill its ring with waiting calls. */
	test_worker_calls(state);
	rig_stop(&rig);
}

/*
 * A successor finishes the accounts: what the ledger says was in flight ends with -GPUQ_EDEVICE,
 * once; what it says was completed is not completed again; what was not accepted runs.
 */
static void test_recovery(void **state)
{
	struct rig rig;
	struct rig_client c;

	rig_start(&rig);
	rig_open(&rig, &c, 4, UINT64_MAX - 2, WIRE_ABI);
	const struct wire_sqe first = rig_entry(&c, WIRE_OP_NULL, 100);
	rig_submit(&c, &first);
	assert_int_equal(rig_complete(&c).user_data, 100);
	rig_restart(&rig);

	/* As if it had accepted three more: one inline, one in a slot, one completed in a slot. */
	struct ledger_channel *l = &((struct ledger_channel *)rig.ledger)[4];
	struct ledger_entry *e = (void *)((struct ledger_channel *)rig.ledger + RIG_CHANNELS);
	uint64_t cons = l->commit[l->which].sq_cons, prod = l->commit[l->which].cq_prod;
	const struct wire_cqe done = {.user_data = 203};
	shm_copy_out((void *)&c.cqes[ring_slot(prod, RIG_ENTRIES)], &done, sizeof(done) / 8);
	l->inline_user_data = 201;
	l->inline_seq = cons;
	l->inline_cq_at = prod + 1;
	e[5] = (struct ledger_entry){202, cons + 1, UINT64_MAX, 4, c.generation};
	e[9] = (struct ledger_entry){203, cons + 2, prod, 4, c.generation};
	/* Noted, but the index never covered it: it is taken again. */
	e[11] = (struct ledger_entry){204, cons + 3, UINT64_MAX, 4, c.generation};
	l->commit[!l->which].sq_cons = cons + 3;
	l->commit[!l->which].cq_prod = prod + 1;
	l->which = !l->which;
	for (uint64_t i = 201; i <= 204; i++) {
		const struct wire_sqe sqe = rig_entry(&c, WIRE_OP_NULL, i);
		rig_write(&c, &sqe);
	}
	rig_publish(&c);
	rig_restart(&rig);
	rig_reopen(&c);

	int status[5] = {1, 1, 1, 1, 1};
	for (int i = 1; i <= 4; i++) {
		const struct wire_cqe cqe = rig_complete(&c);
		assert_true(cqe.user_data > 200 && cqe.user_data <= 204);
		assert_int_equal(status[cqe.user_data - 200], 1);
		status[cqe.user_data - 200] = cqe.status;
	}
	assert_int_equal(status[1], -GPUQ_EDEVICE);
	assert_int_equal(status[2], -GPUQ_EDEVICE);
	assert_int_equal(status[3], 0);
	assert_int_equal(status[4], 0);
	assert_true(rig_quiet(&c));
	rig_close(&c);
	rig_stop(&rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_null_operations),
		HARNESS_TEST(test_bad_entries),
		HARNESS_TEST(test_bad_arguments),
		HARNESS_TEST(test_parameters),
		HARNESS_TEST(test_worker_calls),
		HARNESS_TEST(test_deadlines),
		HARNESS_TEST(test_deadlines_that_cannot_be_met),
		HARNESS_TEST(test_cancel),
		HARNESS_TEST(test_lying_indices),
		HARNESS_TEST(test_unread_completions),
		HARNESS_TEST(test_older_abi),
		HARNESS_TEST(test_drain),
		HARNESS_TEST(test_drain_answers_everybody),
		HARNESS_TEST(test_removal_in_flight),
		HARNESS_TEST(test_recovery),
	};

	return harness_run("dispatch", tests, sizeof(tests) / sizeof(tests[0]));
}
