/* SPDX-License-Identifier: MIT */
/* test-channel.c: opening and owning channels, their arena, and making calls. */
#include "tests/client/rig.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct bad_options {
	struct gpuq_channel_options options;
	int expected;
	const char *words;
} bad_options[] = {
	{{.device = 1}, -GPUQ_ENODEV, "none with number 1"},
	{{.priority = 4}, -EINVAL, "priority 4"},
	{{.sq_entries = 100}, -EINVAL, "powers of two"},
	{{.sq_entries = 4}, -EINVAL, "at least 8"},
	{{.cq_entries = 384}, -EINVAL, "powers of two"},
	{{.sq_entries = 256, .cq_entries = 128}, -EINVAL, "not smaller"},
	{{.sq_entries = 2048}, -GPUQ_ELIMIT, "gpuqd allows 1024"},
	{{.cq_entries = 1u << 31}, -GPUQ_ELIMIT, "gpuqd allows 1024"},
	{{.arena_bytes = (1ull << 26) + 1}, -GPUQ_ELIMIT, "gpuqd allows 67108864"},
	{{.arena_bytes = UINT64_MAX}, -GPUQ_ELIMIT, "gpuqd allows"},
};

static void test_bad_options(void **state)
{
	struct gpuq_channel *ch = NULL;
	struct rig rig;

	rig_start(&rig, NULL);
	for (size_t i = 0; i < sizeof(bad_options) / sizeof(bad_options[0]); i++) {
		int r = gpuq_channel_open(rig.g, &bad_options[i].options, &ch);
		if (r != bad_options[i].expected)
			fail_msg("options %zu: %d instead of %d", i, r, bad_options[i].expected);
		assert_detail(bad_options[i].words);
		assert_null(ch);
	}
	/* None of them was sent. */
	fake_expect(&rig.control->opens, 1);
	rig_stop(&rig);
}

static void test_good_options(void **state)
{
	static const struct gpuq_channel_options good[] = {
		{0},
		{.sq_entries = 8},
		{.sq_entries = 8, .cq_entries = 8},
		{.sq_entries = 1024},
		{.cq_entries = 1024, .priority = 3},
		{.arena_bytes = 1},
		{.arena_bytes = 1ull << 26},
	};
	struct gpuq_channel *ch;
	struct rig rig;

	rig_start(&rig, NULL);
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		assert_int_equal(gpuq_channel_open(rig.g, &good[i], &ch), 0);
		assert_ptr_equal(gpuq_channel_gpuq(ch), rig.g);
		gpuq_channel_close(ch);
	}
	fake_expect(&rig.control->closes, sizeof(good) / sizeof(good[0]));
	gpuq_channel_close(NULL);
	rig_stop(&rig);
}

static const struct bad_open {
	enum fake_fault fault;
	int expected;
	const char *words;
	bool closed; /* the channel is given back to gpuqd */
} bad_opens[] = {
	{FAKE_REFUSE, -GPUQ_ELIMIT, "the fake refuses", false},
	{FAKE_NO_FD, -GPUQ_EPROTO, "0 descriptors", false},
	{FAKE_MANY_FDS, -GPUQ_EPROTO, "malformed", false},
	{FAKE_WRONG_TYPE, -GPUQ_EPROTO, "answered with message 8", false},
	{FAKE_UNSEALED, -GPUQ_EPROTO, "a channel segment that could shrink", true},
	{FAKE_SMALL, -GPUQ_EPROTO, "a channel segment of a wrong size", true},
	{FAKE_NO_MAGIC, -GPUQ_EPROTO, "something else for a channel segment", true},
	{FAKE_LIES, -GPUQ_EPROTO, "other sizes", true},
	{FAKE_NO_BELL, -GPUQ_EPROTO, "something else for the bell", true},
};

static void test_bad_opens(void **state)
{
	struct gpuq_channel *ch = NULL;
	uint64_t closes = 0;
	struct rig rig;

	rig_start(&rig, NULL);
	shm_store_relaxed(&rig.control->fault_at, MSG_OPEN);
	shm_store_relaxed(&rig.control->fault_status, (uint64_t)-GPUQ_ELIMIT);
	for (size_t i = 0; i < sizeof(bad_opens) / sizeof(bad_opens[0]); i++) {
		shm_store_release(&rig.control->fault, bad_opens[i].fault);
		int r = gpuq_channel_open(rig.g, NULL, &ch);
		if (r != bad_opens[i].expected)
			fail_msg("open %zu: %d instead of %d", i, r, bad_opens[i].expected);
		assert_detail(bad_opens[i].words);
		assert_null(ch);
		closes += bad_opens[i].closed;
		fake_expect(&rig.control->closes, closes);
	}
	shm_store_release(&rig.control->fault, FAKE_NO_FAULT);
	assert_int_equal(gpuq_channel_open(rig.g, NULL, &ch), 0);
	rig_stop(&rig);
}

static void test_arena(void **state)
{
	const struct gpuq_channel_options options = {.arena_bytes = 8192};
	void *a = NULL, *b, *all;
	struct rig rig;

	rig_start(&rig, &options);
	assert_int_equal(gpuq_free(rig.ch, rig.x), 0);
	assert_int_equal(gpuq_free(rig.ch, rig.y), 0);
	assert_int_equal(gpuq_free(rig.ch, rig.y), -EINVAL);
	assert_int_equal(gpuq_free(rig.ch, NULL), 0);
	assert_int_equal(gpuq_free(rig.ch, &rig), -EINVAL);
	assert_detail("not a pointer that gpuq_alloc()");
	assert_int_equal(gpuq_alloc(rig.ch, 8193, &a), -GPUQ_ETOOBIG);
	assert_detail("8192");
	assert_int_equal(gpuq_alloc(rig.ch, SIZE_MAX, &a), -GPUQ_ETOOBIG);
	assert_null(a);
	assert_int_equal(gpuq_alloc(rig.ch, 8192, &all), 0);
	memset(all, 1, 8192);
	assert_int_equal(gpuq_alloc(rig.ch, 0, &a), -ENOSPC);
	assert_int_equal(gpuq_free(rig.ch, all), 0);
	assert_int_equal(gpuq_alloc(rig.ch, 0, &a), 0);
	assert_int_equal(gpuq_alloc(rig.ch, 65, &b), 0);
	assert_int_equal((uintptr_t)a % 64, 0);
	assert_int_equal((uintptr_t)b % 64, 0);
	assert_int_equal(gpuq_free(rig.ch, (char *)b + 64), -EINVAL);
	rig_stop(&rig);
}

static void test_call_writes_the_argument_block(void **state)
{
	struct rig rig;

	rig_start(&rig, NULL);
	const struct gpuq_tensor in[] = {
		{.data = rig.x, .dtype = GPUQ_U8, .rank = 2, .dims = {10, 10, 99}},
		{0},
	};
	const struct gpuq_tensor out = {.data = rig.y, .dtype = GPUQ_U8, .rank = 1, .dims = {100}};
	const struct gpuq_param param = {.name = "n", .type = GPUQ_PARAM_I64, .value.i64 = -5};
	struct gpuq_call *call;
	assert_int_equal(gpuq_call_create(rig.ch, "copy", in, 1, &out, 1, &param, 1, &call), 0);
	const struct gpuq_submission s = {.call = call, .user_data = 4, .trace_id = 99};
	assert_int_equal(gpuq_submit(rig.ch, &s, 1), 1);
	rig_wait(&rig, 4);
	assert_int_equal(rig.y[9], 7);
	assert_int_equal(rig.y[10], 0);
	const struct wire_sqe *e = &rig.control->last;
	assert_int_equal(e->opcode, WIRE_OP_CALL);
	assert_int_equal(e->flags, 0);
	assert_int_equal(e->session, 0);
	assert_int_equal(e->deadline_ns, 0);
	assert_int_equal(e->trace_id, 99);
	assert_int_equal(e->generation, 1);
	assert_int_equal(e->max_completions, 1);
	assert_int_equal(e->reserved, 0);
	assert_int_equal(e->args_bytes,
		sizeof(struct wire_call) + 3 * sizeof(struct wire_tensor) +
			sizeof(struct wire_param));
	/* x was the first thing in the arena: its address tells where the block lies. */
	const struct wire_call *block = (const void *)(rig.x + e->args_offset);
	const struct wire_tensor *t = (const void *)(block + 1);
	const struct wire_param *p = (const void *)(t + 3);
	assert_int_equal(block->n_in, 2);
	assert_int_equal(block->n_out, 1);
	assert_int_equal(block->n_params, 1);
	assert_int_equal(t[0].rank, 2);
	assert_int_equal(t[0].dims[1], 10);
	assert_int_equal(t[0].dims[2], 0);
	assert_int_equal(t[1].dtype, 0);
	assert_int_equal(t[2].offset, rig.y - rig.x);
	assert_int_equal(p->index, 1);
	assert_int_equal(p->type, GPUQ_PARAM_I64);
	assert_int_equal((int64_t)p->bits, -5);
	rig_stop(&rig);
}

/* One call of "copy" that differs in one thing from a good one. */
static int create(struct rig *rig, const char *op, struct gpuq_tensor in, uint32_t n_in,
	struct gpuq_tensor out, uint32_t n_out, const char *param)
{
	const struct gpuq_tensor ins[3] = {in, in, in}, outs[2] = {out, out};
	const struct gpuq_param p = {.name = param, .type = GPUQ_PARAM_F64};
	struct gpuq_call *call = NULL;
	int r = gpuq_call_create(
		rig->ch, op, ins, n_in, outs, n_out, &p, param != NULL ? 1 : 0, &call);

	assert_true((r == 0) == (call != NULL));
	gpuq_call_destroy(call);
	return r;
}

static void test_bad_calls(void **state)
{
	uint8_t elsewhere[64];
	struct rig rig;

	rig_start(&rig, NULL);
	struct gpuq_tensor good = {.data = rig.x, .dtype = GPUQ_U8, .rank = 1, .dims = {64}};
	struct gpuq_tensor stray = good, deep = good, odd = good;
	stray.data = elsewhere;
	deep.rank = GPUQ_MAX_RANK + 1;
	odd.dtype = GPUQ_DTYPE_LAST + 1;
	assert_int_equal(create(&rig, "copy", good, 2, good, 1, "scale"), 0);
	assert_int_equal(create(&rig, "copy", good, 0, good, 1, NULL), 0);
	assert_int_equal(create(&rig, "paste", good, 1, good, 1, NULL), -GPUQ_EOP);
	assert_detail("no operator \"paste\"");
	assert_int_equal(create(&rig, "copy", good, 3, good, 1, NULL), -GPUQ_EARGS);
	assert_detail("takes 2 inputs; 3 are given");
	assert_int_equal(create(&rig, "copy", good, 1, good, 0, NULL), -GPUQ_EARGS);
	assert_int_equal(create(&rig, "copy", good, 1, good, 2, NULL), -GPUQ_EARGS);
	assert_detail("has 1 outputs; 2 are given");
	assert_int_equal(create(&rig, "copy", good, 1, good, 1, "speed"), -GPUQ_EPARAM);
	assert_detail("no parameter \"speed\"");
	assert_int_equal(create(&rig, "copy", stray, 1, good, 1, NULL), -GPUQ_EBOUNDS);
	assert_detail("x: its data are not in this channel's arena");
	assert_int_equal(create(&rig, "copy", good, 1, stray, 1, NULL), -GPUQ_EBOUNDS);
	assert_int_equal(create(&rig, "copy", deep, 1, good, 1, NULL), -GPUQ_ERANK);
	assert_int_equal(create(&rig, "copy", odd, 1, good, 1, NULL), -GPUQ_EDTYPE);
	rig_stop(&rig);
}

/* Calls take memory from the arena and give it back. */
static void test_calls_and_the_arena(void **state)
{
	const struct gpuq_channel_options options = {.arena_bytes = 4096};
	struct gpuq_call *calls[64], *none = NULL;
	struct rig rig;
	uint32_t n = 0;
	void *rest;

	rig_start(&rig, &options);
	const struct gpuq_tensor t = {.data = rig.x, .dtype = GPUQ_U8, .rank = 1, .dims = {8}};
	while (gpuq_call_create(rig.ch, "copy", &t, 1, &t, 1, NULL, 0, &calls[n]) == 0)
		n++;
	assert_in_range(n, 5, 20);
	assert_int_equal(gpuq_call_create(rig.ch, "copy", &t, 1, &t, 1, NULL, 0, &none), -ENOSPC);
	assert_null(none);
	for (uint32_t i = 0; i < n; i++)
		gpuq_call_destroy(calls[(i * 7) % n]);
	assert_int_equal(gpuq_free(rig.ch, rig.x), 0);
	assert_int_equal(gpuq_free(rig.ch, rig.y), 0);
	assert_int_equal(gpuq_alloc(rig.ch, 4096, &rest), 0);
	gpuq_call_destroy(NULL);
	rig_stop(&rig);
}

/* Everything that a channel refuses to a stranger, with the same error. */
static int use_as_stranger(struct rig *rig, struct gpuq_call *call, int expected)
{
	const struct gpuq_submission s = {0};
	const struct gpuq_tensor t = {.data = rig->x, .dtype = GPUQ_U8, .rank = 1, .dims = {8}};
	struct gpuq_completion c;
	struct gpuq_call *made;
	void *data;
	const int results[] = {
		gpuq_submit(rig->ch, &s, 1),
		gpuq_poll(rig->ch, &c, 1),
		gpuq_wait(rig->ch, &c, 1, GPUQ_FOREVER),
		gpuq_wait_space(rig->ch, 1, 0, GPUQ_FOREVER),
		gpuq_cancel(rig->ch, 1, 2),
		gpuq_arm(rig->ch),
		gpuq_alloc(rig->ch, 8, &data),
		gpuq_free(rig->ch, rig->x),
		gpuq_call_create(rig->ch, "copy", &t, 1, &t, 1, NULL, 0, &made),
	};
	size_t n = sizeof(results) / sizeof(results[0]);

	/* Does nothing, and above all not twice. */
	gpuq_call_destroy(call);
	for (size_t i = 0; i < n; i++)
		if (results[i] != expected)
			return (int)i + 1;
	return 0;
}

struct stranger {
	struct rig *rig;
	struct gpuq_call *call;
	int refused, adopted;
};

static void *run_stranger(void *arg)
{
	struct stranger *s = arg;

	s->refused = use_as_stranger(s->rig, s->call, -GPUQ_ETHREAD);
	s->adopted = gpuq_channel_adopt(s->rig->ch);
	if (s->adopted == 0)
		s->adopted = rig_submit(s->rig, s->call, 8);
	return NULL;
}

static void test_another_thread(void **state)
{
	struct stranger s;
	struct rig rig;
	pthread_t thread;

	rig_start(&rig, NULL);
	s = (struct stranger){.rig = &rig, .call = rig_copy(&rig)};
	assert_int_equal(rig_submit(&rig, s.call, 1), 1);
	assert_int_equal(pthread_create(&thread, NULL, run_stranger, &s), 0);
	pthread_join(thread, NULL);
	assert_int_equal(s.refused, 0);
	assert_int_equal(s.adopted, 1);
	/* Now this thread is the stranger, until it takes the channel back. */
	assert_int_equal(rig_submit(&rig, s.call, 2), -GPUQ_ETHREAD);
	assert_detail("another thread");
	assert_int_equal(gpuq_channel_adopt(rig.ch), 0);
	rig_wait(&rig, 1);
	rig_wait(&rig, 8);
	gpuq_call_destroy(s.call);
	rig_stop(&rig);
}

static void *close_it(void *channel)
{
	gpuq_channel_close(channel);
	return NULL;
}

static void test_closed_by_another_thread(void **state)
{
	struct rig rig;
	pthread_t thread;

	rig_start(&rig, NULL);
	assert_int_equal(pthread_create(&thread, NULL, close_it, rig.ch), 0);
	pthread_join(thread, NULL);
	fake_expect(&rig.control->closes, 1);
	rig_stop(&rig);
}

static void test_a_child(void **state)
{
	struct gpuq_call *call;
	struct rig rig;
	int status;

	rig_start(&rig, NULL);
	call = rig_copy(&rig);
	assert_int_equal(rig_submit(&rig, call, 1), 1);
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		int wrong = use_as_stranger(&rig, call, -GPUQ_EFORK);
		if (wrong == 0 && gpuq_channel_adopt(rig.ch) != -GPUQ_EFORK)
			wrong = 100;
		if (wrong == 0 && strstr(gpuq_error_detail(), "parent process") == NULL)
			wrong = 101;
		gpuq_channel_close(rig.ch);
		gpuq_disconnect(rig.g);
		_exit(wrong);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	/* The parent has not noticed anything. */
	assert_int_equal(rig.control->closes, 0);
	rig_wait(&rig, 1);
	assert_int_equal(rig_submit(&rig, call, 2), 1);
	rig_wait(&rig, 2);
	gpuq_channel_close(rig.ch);
	fake_expect(&rig.control->closes, 1);
	rig_stop(&rig);
}

/* What a channel opens is closed across exec, and by gpuq_channel_close() before. */
static void test_descriptors(void **state)
{
	struct rig rig;

	rig_start(&rig, NULL);
	int bell = gpuq_completion_fd(rig.ch);
	for (int fd = bell - 3; fd <= bell; fd++) {
		int flags = fcntl(fd, F_GETFD);
		assert_true(flags < 0 || (flags & FD_CLOEXEC) != 0);
	}
	gpuq_channel_close(rig.ch);
	assert_int_equal(fcntl(bell, F_GETFD), -1);
	rig_stop(&rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_bad_options),
		HARNESS_TEST(test_good_options),
		HARNESS_TEST(test_bad_opens),
		HARNESS_TEST(test_arena),
		HARNESS_TEST(test_call_writes_the_argument_block),
		HARNESS_TEST(test_bad_calls),
		HARNESS_TEST(test_calls_and_the_arena),
		HARNESS_TEST(test_another_thread),
		HARNESS_TEST(test_closed_by_another_thread),
		HARNESS_TEST(test_a_child),
		HARNESS_TEST(test_descriptors),
	};

	return harness_run("client-channel", tests, sizeof(tests) / sizeof(tests[0]));
}
