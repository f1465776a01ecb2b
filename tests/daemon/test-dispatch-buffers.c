/* SPDX-License-Identifier: MIT */
/*
 * test-dispatch-buffers.c: dispatch and device buffers: who may use one, where a range may lie,
 * copies that are refused, cancelled, late or fail, and removal while something is in flight.
 */
#include "tests/daemon/dispatch-rig.h"

#include <poll.h>
#include <string.h>
#include <unistd.h>

#define USER 0u /* of every channel of the rig */
#define OTHER 1u
#define HANDLE 0x00050002u
#define BYTES (512u << 10)
#define PIECE (BYTES / RIG_ENTRIES)
#define DATA 4096u /* behind the argument blocks */

static struct buffer *make_buffer(struct rig *rig, uint32_t handle, uint64_t bytes, bool lost)
{
	struct buffer *b;

	assert_int_equal(
		buffer_create(rig->buffers, rig->device, handle, DEVICE_EXPORT_FD, bytes, lost, &b),
		0);
	if (!lost)
		close(b->export.fd);
	return b;
}

/* Waits until nothing uses it, and destroys it. */
static void expect_removed(struct rig *rig, struct buffer *b)
{
	const struct dispatch_event event = rig_next_event(rig);

	assert_int_equal(event.type, DISPATCH_BUFFER_REMOVED);
	assert_ptr_equal(event.buffer, b);
	buffer_destroy(rig->device, b);
}

static void remove_buffer(struct rig *rig, struct buffer *b)
{
	dispatch_remove_buffer(rig->dispatch, b);
	expect_removed(rig, b);
}

/* The entry of a copy whose arguments lie in block `block` of the arena. */
static struct wire_sqe copy_entry(
	struct rig_client *c, uint32_t block, const struct wire_copy *copy)
{
	struct wire_sqe sqe = rig_entry(c, WIRE_OP_COPY, block);

	sqe.args_offset = block * sizeof(*copy);
	sqe.args_bytes = sizeof(*copy);
	memcpy(c->arena + sqe.args_offset, copy, sizeof(*copy));
	return sqe;
}

static int run(struct rig_client *c, const struct wire_sqe *sqe)
{
	rig_submit(c, sqe);
	return rig_complete(c).status;
}

static int run_copy(struct rig_client *c, const struct wire_copy *copy)
{
	const struct wire_sqe sqe = copy_entry(c, 0, copy);

	return run(c, &sqe);
}

/* --- What is refused ----------------------------------------------------------------------- */

static void test_table(void **state)
{
	struct rig rig;
	struct buffer *b, *again;

	rig_start(&rig);
	b = make_buffer(&rig, HANDLE, 1, false);
	assert_ptr_equal(buffer_get(rig.buffers, HANDLE), b);
	assert_null(buffer_get(rig.buffers, HANDLE + 0x10000u));
	assert_null(buffer_get(rig.buffers, HANDLE + 1));
	assert_null(buffer_get(rig.buffers, HANDLE + RIG_BUFFERS));
	assert_null(buffer_get(rig.buffers, 0));
	assert_null(buffer_get(rig.buffers, UINT32_MAX));
	assert_int_equal(buffer_create(rig.buffers, rig.device, HANDLE + 0x10000u, DEVICE_EXPORT_FD,
				 1, false, &again),
		-EEXIST);
	assert_int_equal(buffer_create(rig.buffers, rig.device, HANDLE + RIG_BUFFERS,
				 DEVICE_EXPORT_FD, 1, false, &again),
		-EINVAL);
	assert_int_equal(
		buffer_create(rig.buffers, rig.device, 1, DEVICE_EXPORT_IPC, 1, false, &again),
		-EOPNOTSUPP);
	assert_int_equal(buffer_create(rig.buffers, rig.device, 1, DEVICE_EXPORT_FD, 1ull << 50,
				 false, &again),
		-ENOMEM);
	remove_buffer(&rig, b);
	assert_null(buffer_get(rig.buffers, HANDLE));
	/* Its place is free again. */
	b = make_buffer(&rig, HANDLE + 0x10000u, 1, false);
	remove_buffer(&rig, b);
	rig_stop(&rig);
}

static void test_refused_copies(void **state)
{
	const struct wire_copy good = {
		.arena_offset = DATA, .buffer = HANDLE, .bytes = 1000, .to_buffer = 1};
	struct wire_copy copy;
	struct rig_client c;
	struct rig rig;

	rig_start(&rig);
	rig_open(&rig, &c, 0, 0, WIRE_ABI);
	struct buffer *b = make_buffer(&rig, HANDLE, BYTES, false);
	struct buffer *lost = make_buffer(&rig, 0x00010003, BYTES, true);
#define REFUSED(change, error)                                \
	do {                                                  \
		copy = good;                                  \
		change;                                       \
		assert_int_equal(run_copy(&c, &copy), error); \
		copy = good;                                  \
		assert_int_equal(run_copy(&c, &copy), 0);     \
	} while (0)
	assert_int_equal(run_copy(&c, &good), -GPUQ_EBUFFER);
	buffer_permit(rig.buffers, b, OTHER, true);
	assert_int_equal(run_copy(&c, &good), -GPUQ_EBUFFER);
	buffer_permit(rig.buffers, b, USER, true);
	REFUSED(copy.buffer = 0, -GPUQ_EBUFFER);
	REFUSED(copy.buffer = HANDLE + 0x10000u, -GPUQ_EBUFFER);
	REFUSED(copy.buffer = HANDLE + 1, -GPUQ_EBUFFER);
	REFUSED(copy.buffer = UINT32_MAX, -GPUQ_EBUFFER);
	REFUSED(copy.buffer = lost->handle, -GPUQ_EBUFFER);
	buffer_permit(rig.buffers, lost, USER, true);
	REFUSED(copy.buffer = lost->handle, -GPUQ_ELOST);
	REFUSED(copy.to_buffer = 2, -EINVAL);
	REFUSED(copy.bytes = BYTES + 1, -GPUQ_EBOUNDS);
	REFUSED(copy.bytes = UINT64_MAX, -GPUQ_EBOUNDS);
	REFUSED(copy.buffer_offset = BYTES - 999, -GPUQ_EBOUNDS);
	REFUSED(copy.buffer_offset = BYTES + 1, -GPUQ_EBOUNDS);
	REFUSED(copy.buffer_offset = UINT64_MAX - 998, -GPUQ_EBOUNDS);
	REFUSED(copy.arena_offset = RIG_ARENA - 999, -GPUQ_EBOUNDS);
	REFUSED(copy.arena_offset = RIG_ARENA + 1, -GPUQ_EBOUNDS);
	REFUSED(copy.arena_offset = UINT64_MAX - 998, -GPUQ_EBOUNDS);
	REFUSED((copy.bytes = 0, copy.buffer_offset = BYTES, copy.arena_offset = RIG_ARENA), 0);
	struct wire_sqe sqe = copy_entry(&c, 0, &good);
	sqe.args_bytes += 8;
	assert_int_equal(run(&c, &sqe), -GPUQ_EARGS);
	sqe = copy_entry(&c, 0, &good);
	sqe.args_offset = RIG_ARENA - 24;
	assert_int_equal(run(&c, &sqe), -GPUQ_EBOUNDS);
	sqe.args_offset = 4;
	assert_int_equal(run(&c, &sqe), -GPUQ_EALIGN);
	buffer_permit(rig.buffers, b, USER, false);
	assert_int_equal(run_copy(&c, &good), -GPUQ_EBUFFER);
#undef REFUSED
	remove_buffer(&rig, b);
	remove_buffer(&rig, lost);
	rig_close(&c);
	rig_stop(&rig);
}

/* A client of an older wire cannot know of buffers. */
static void test_older_wire(void **state)
{
	const struct wire_copy copy = {.arena_offset = DATA, .buffer = HANDLE, .bytes = 8};
	struct rig_client c;
	struct rig rig;

	rig_start(&rig);
	struct buffer *b = make_buffer(&rig, HANDLE, BYTES, false);
	buffer_permit(rig.buffers, b, USER, true);
	rig_open(&rig, &c, 0, 0, 2);
	assert_int_equal(run_copy(&c, &copy), -GPUQ_EOPCODE);
	struct wire_sqe sqe = rig_softmax(&c, 0, 16, 1);
	((struct rig_softmax *)c.arena)->x.buffer = HANDLE;
	assert_int_equal(run(&c, &sqe), -GPUQ_EBOUNDS);
	rig_close(&c);
	remove_buffer(&rig, b);
	rig_stop(&rig);
}

/* The blame for a tensor in a buffer, and the room that it has there. */
static void test_tensors(void **state)
{
	enum { N = 64 };
	struct rig_client c;
	struct rig rig;

	rig_start(&rig);
	rig_open(&rig, &c, 0, 0, WIRE_ABI);
	struct buffer *b = make_buffer(&rig, HANDLE, 2 * N * sizeof(float), false);
	buffer_permit(rig.buffers, b, USER, true);
	struct wire_sqe sqe = rig_softmax(&c, 0, N, 1);
	struct rig_softmax *block = (void *)c.arena;
	const float *x = (void *)(c.arena + block->x.offset), *y = b->export.data;
	block->y.buffer = HANDLE;
	block->y.offset = N * sizeof(float);
	assert_int_equal(run(&c, &sqe), 0);
	/* A row of equal scores would not tell where it lies. */
	assert_true(x[1] > x[0] && y[N + 1] > y[N]);
	assert_true(y[0] == 0 && y[N - 1] == 0);
	block->y.offset += sizeof(float);
	rig_submit(&c, &sqe);
	const struct wire_cqe cqe = rig_complete(&c);
	assert_int_equal(cqe.status, -GPUQ_EBOUNDS);
	assert_int_equal(cqe.flags >> WIRE_CQE_ARG_SHIFT, 1 + GPUQ_MAX_INPUTS);
	block->y.offset = 2;
	assert_int_equal(run(&c, &sqe), -GPUQ_EALIGN);
	block->y.offset = UINT64_MAX - 3;
	assert_int_equal(run(&c, &sqe), -GPUQ_EBOUNDS);
	remove_buffer(&rig, b);
	rig_close(&c);
	rig_stop(&rig);
}

/* --- What is in flight --------------------------------------------------------------------- */

/* Submits copies back and forth, of a piece each: some run at once, and none in any order. */
static void submit_copies(struct rig_client *c, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		const struct wire_copy copy = {
			.arena_offset = DATA + i * PIECE,
			.buffer_offset = i * PIECE,
			.buffer = HANDLE,
			.bytes = PIECE,
			.to_buffer = i % 2,
		};
		const struct wire_sqe sqe = copy_entry(c, i, &copy);
		rig_write(c, &sqe);
	}
	rig_publish(c);
}

static void test_removed_in_flight(void **state)
{
	uint32_t served = 0, refused = 0;
	struct rig_client c;
	struct rig rig;

	rig_start(&rig);
	rig_open(&rig, &c, 0, 0, WIRE_ABI);
	for (uint32_t turn = 0; turn < 50; turn++) {
		struct buffer *b = make_buffer(&rig, HANDLE, BYTES, false);
		buffer_permit(rig.buffers, b, USER, true);
		submit_copies(&c, RIG_ENTRIES);
		/* Before they are looked at, or while they run. */
		if (turn % 2 == 0)
			(void)rig_complete(&c);
		dispatch_remove_buffer(rig.dispatch, b);
		/* Those that were accepted before are served, and only then may it go. */
		expect_removed(&rig, b);
		for (uint32_t i = turn % 2 == 0; i < RIG_ENTRIES; i++) {
			int status = rig_complete(&c).status;
			assert_true(status == 0 || status == -GPUQ_EBUFFER);
			served += status == 0;
			refused += status != 0;
		}
	}
	print_message("%u copies served, %u refused\n", served, refused);
	assert_true(served > 0);
	rig_close(&c);
	rig_stop(&rig);
}

/* The client is gone; its buffer is not, before its copies have ended. */
static void test_channel_removed_first(void **state)
{
	struct rig_client c;
	struct rig rig;

	rig_start(&rig);
	for (uint32_t turn = 0; turn < 20; turn++) {
		struct buffer *b = make_buffer(&rig, HANDLE, BYTES, false);
		buffer_permit(rig.buffers, b, USER, true);
		rig_open(&rig, &c, 0, turn, WIRE_ABI);
		submit_copies(&c, RIG_ENTRIES);
		if (turn % 2 == 0)
			(void)rig_complete(&c);
		rig_close(&c);
		remove_buffer(&rig, b);
	}
	rig_stop(&rig);
}

static void test_cancelled_and_late(void **state)
{
	uint32_t cancelled = 0;
	struct rig_client c;
	struct rig rig;

	rig_start(&rig);
	rig_open(&rig, &c, 0, 0, WIRE_ABI);
	struct buffer *b = make_buffer(&rig, HANDLE, BYTES, false);
	buffer_permit(rig.buffers, b, USER, true);
	for (uint32_t turn = 0; turn < 50; turn++) {
		int status[RIG_ENTRIES] = {0};
		submit_copies(&c, RIG_ENTRIES - 1);
		struct wire_sqe cancel = rig_entry(&c, WIRE_OP_CANCEL, RIG_ENTRIES - 1);
		cancel.target = RIG_ENTRIES - 2;
		rig_submit(&c, &cancel);
		for (uint32_t i = 0; i < RIG_ENTRIES; i++) {
			const struct wire_cqe cqe = rig_complete(&c);
			status[cqe.user_data] = cqe.status;
		}
		int said = status[RIG_ENTRIES - 1];
		assert_true(said == 0 || said == -EALREADY || said == -ENOENT);
		assert_int_equal(status[RIG_ENTRIES - 2], said == 0 ? -ECANCELED : 0);
		cancelled += said == 0;
		for (uint32_t i = 0; i < RIG_ENTRIES - 2; i++)
			assert_int_equal(status[i], 0);
	}
	print_message("%u of 50 cancelled\n", cancelled);
	const struct wire_copy copy = {.arena_offset = DATA, .buffer = HANDLE, .bytes = 8};
	struct wire_sqe late = copy_entry(&c, 0, &copy);
	late.deadline_ns = 1;
	assert_int_equal(run(&c, &late), -ETIMEDOUT);
	rig_close(&c);
	remove_buffer(&rig, b);
	rig_stop(&rig);
}

/* A copy that the device refuses is answered, and lets go of its buffer. */
static void test_device_refuses(void **state)
{
	static const char *const faults[] = {"copy:1=EIO", "signal:1=EIO", "copy:1=ENOMEM"};
	const struct wire_copy copy = {.arena_offset = DATA, .buffer = HANDLE, .bytes = 100};
	struct rig_client c;
	struct rig rig;

	rig_start(&rig);
	for (uint32_t i = 0; i < 3; i++) {
		rig.faults = faults[i];
		rig_restart(&rig);
		rig_open(&rig, &c, 0, 0, WIRE_ABI);
		struct buffer *b = make_buffer(&rig, HANDLE, BYTES, false);
		buffer_permit(rig.buffers, b, USER, true);
		assert_int_equal(run_copy(&c, &copy), i == 2 ? -ENOMEM : -EIO);
		assert_int_equal(run_copy(&c, &copy), 0);
		remove_buffer(&rig, b);
		rig_close(&c);
	}
	rig.faults = "export_create:1=ENOMEM";
	rig_restart(&rig);
	struct buffer *b;
	assert_int_equal(
		buffer_create(rig.buffers, rig.device, HANDLE, DEVICE_EXPORT_FD, 1, false, &b),
		-ENOMEM);
	b = make_buffer(&rig, HANDLE, 1, false);
	remove_buffer(&rig, b);
	rig_stop(&rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_table),
		HARNESS_TEST(test_refused_copies),
		HARNESS_TEST(test_older_wire),
		HARNESS_TEST(test_tensors),
		HARNESS_TEST(test_removed_in_flight),
		HARNESS_TEST(test_channel_removed_first),
		HARNESS_TEST(test_cancelled_and_late),
		HARNESS_TEST(test_device_refuses),
	};

	return harness_run("dispatch-buffers", tests, sizeof(tests) / sizeof(tests[0]));
}
