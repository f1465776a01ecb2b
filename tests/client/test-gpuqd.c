/* SPDX-License-Identifier: MIT */
/* test-gpuqd.c: the client library with a real gpuqd behind it. */
#include "client/gpuq.h"
#include "shm/atomics.h"
#include "shm/wire.h"
#include "tests/harness.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LONG_NS (15000000000ull * harness_slowness())
#define ARENA_BYTES (64ull << 20) /* two products and what is small */

struct rig {
	struct harness_daemon *daemon;
	struct gpuq *g;
	struct gpuq_channel *ch;
	uint8_t *arena; /* its first byte */
	float *x, *y;	/* of softmax */
	struct gpuq_call *softmax, *slow;
};

static float *numbers(struct rig *rig, size_t n)
{
	float *data;

	assert_int_equal(gpuq_alloc(rig->ch, n * sizeof(*data), (void **)&data), 0);
	for (size_t i = 0; i < n; i++)
		data[i] = (float)(i % 5);
	return data;
}

static struct gpuq_tensor tensor(float *data, uint32_t rank, uint64_t first, uint64_t second)
{
	return (struct gpuq_tensor){
		.data = data, .dtype = GPUQ_F32, .rank = rank, .dims = {first, second}};
}

/* A product that keeps a worker busy, for at least about a tenth of a millisecond for each row. */
static struct gpuq_call *product(struct rig *rig, uint64_t rows)
{
	const uint64_t i = 2048, o = 2048, b = 1 + (rows - 1) / harness_slowness();
	const struct gpuq_tensor in[] = {
		tensor(numbers(rig, b * i), 2, b, i), tensor(numbers(rig, o * i), 2, o, i)};
	const struct gpuq_tensor out = tensor(numbers(rig, b * o), 2, b, o);
	struct gpuq_call *call = NULL;

	assert_int_equal(
		gpuq_call_create(rig->ch, "gemv_batched", in, 2, &out, 1, NULL, 0, &call), 0);
	return call;
}

/* args are more arguments of gpuqd, or NULL. */
static void start(struct rig *rig, const char *const *args)
{
	const struct gpuq_channel_options options = {.arena_bytes = ARENA_BYTES};

	memset(rig, 0, sizeof(*rig));
	rig->daemon = harness_daemon_start(args);
	assert_int_equal(gpuq_connect(NULL, &rig->g), 0);
	assert_int_equal(gpuq_channel_open(rig->g, &options, &rig->ch), 0);
	rig->x = numbers(rig, 4);
	rig->y = numbers(rig, 4);
	rig->arena = (uint8_t *)rig->x;
	const struct gpuq_tensor x = tensor(rig->x, 1, 4, 0), y = tensor(rig->y, 1, 4, 0);
	assert_int_equal(
		gpuq_call_create(rig->ch, "softmax", &x, 1, &y, 1, NULL, 0, &rig->softmax), 0);
	rig->slow = product(rig, 256);
}

static void stop(struct rig *rig)
{
	assert_int_equal(gpuq_rescues(rig->ch), 0);
	gpuq_disconnect(rig->g);
	harness_daemon_destroy(rig->daemon);
}

static int submit(struct rig *rig, struct gpuq_call *call, uint64_t user_data)
{
	const struct gpuq_submission s = {.call = call, .user_data = user_data};

	return gpuq_submit(rig->ch, &s, 1);
}

static struct gpuq_completion await(struct rig *rig, uint64_t user_data)
{
	struct gpuq_completion c = {.user_data = ~user_data};
	int n = gpuq_wait(rig->ch, &c, 1, LONG_NS);

	if (n != 1 || c.user_data != user_data)
		fail_msg("%llu, %d: %s", (unsigned long long)c.user_data, n, gpuq_error_detail());
	return c;
}

static void expect_softmax(struct rig *rig)
{
	memset(rig->y, 0, 4 * sizeof(float));
	assert_int_equal(submit(rig, rig->softmax, 1), 1);
	assert_int_equal(await(rig, 1).status, 0);
	float sum = rig->y[0] + rig->y[1] + rig->y[2] + rig->y[3];
	assert_true(sum > 0.9999f && sum < 1.0001f && rig->y[3] > 2 * rig->y[2]);
}

static void test_results(void **state)
{
	struct rig rig;

	start(&rig, NULL);
	expect_softmax(&rig);
	assert_int_equal(submit(&rig, rig.slow, 2), 1);
	struct gpuq_completion c = await(&rig, 2);
	assert_int_equal(c.status, 0);
	assert_true(c.executed_ns > 1000000);
	stop(&rig);
}

/* Every submission completes once, with its own user_data, whatever the indices are. */
static void stream(const char *first_index)
{
	static bool seen[30000];
	const uint64_t total = sizeof(seen);
	struct gpuq_submission s[100];
	struct gpuq_completion c[100];
	uint64_t submitted = 0, completed = 0;
	struct rig rig;

	setenv("GPUQ_TEST_START_INDEX", first_index, 1);
	memset(seen, 0, sizeof(seen));
	start(&rig, NULL);
	while (completed < total) {
		uint32_t want = total - submitted < 100 ? (uint32_t)(total - submitted) : 100;
		for (uint32_t i = 0; i < want; i++)
			s[i] = (struct gpuq_submission){
				.call = (submitted + i) % 3 == 0 ? rig.softmax : NULL,
				.user_data = submitted + i,
			};
		int n = gpuq_submit(rig.ch, s, want);
		assert_true(n >= 0 || n == -EAGAIN);
		submitted += n > 0 ? (uint64_t)n : 0;
		n = gpuq_wait(rig.ch, c, 100, LONG_NS);
		assert_true(n > 0);
		for (int i = 0; i < n; i++, completed++) {
			assert_int_equal(c[i].status, 0);
			assert_true(c[i].user_data < total && !seen[c[i].user_data]);
			seen[c[i].user_data] = true;
		}
	}
	assert_int_equal(gpuq_in_flight(rig.ch), 0);
	stop(&rig);
}

static void test_a_stream(void **state)
{
	stream("0");
}

static void test_indices_wrap(void **state)
{
	stream("18446744073709551000");
}

static void test_explained(void **state)
{
	struct gpuq_completion c;
	struct gpuq_call *call;
	char text[200];
	struct rig rig;

	start(&rig, NULL);
	const struct gpuq_tensor x = tensor(rig.x, 1, 4, 0), y = tensor(rig.y, 1, 3, 0);
	assert_int_equal(gpuq_call_create(rig.ch, "softmax", &x, 1, &y, 1, NULL, 0, &call), 0);
	assert_int_equal(submit(&rig, call, 1), 1);
	c = await(&rig, 1);
	assert_int_equal(c.status, -GPUQ_ESHAPE);
	assert_string_equal(gpuq_explain(call, &c, text, sizeof(text)),
		"softmax: output y: a dimension does not fit the other tensors");
	expect_softmax(&rig);
	stop(&rig);
}

/* More work than a device queues on its own: gpuqd still has the last ones in hand. */
static void test_cancel_and_deadline(void **state)
{
	static const char *const one_worker[] = {"--workers=1", NULL};
	const uint64_t busy = 80;
	int32_t status[120];
	struct rig rig;

	start(&rig, one_worker);
	struct gpuq_call *call = product(&rig, 16);
	for (uint64_t i = 0; i <= busy; i++)
		assert_int_equal(submit(&rig, call, i), 1);
	const struct gpuq_submission hurried = {.call = call, .user_data = 101, .timeout_ns = 1000};
	assert_int_equal(gpuq_submit(rig.ch, &hurried, 1), 1);
	assert_int_equal(gpuq_cancel(rig.ch, busy, 102), 0);
	memset(status, 0x5a, sizeof(status));
	while (gpuq_in_flight(rig.ch) > 0) {
		struct gpuq_completion c;
		assert_int_equal(gpuq_wait(rig.ch, &c, 1, LONG_NS), 1);
		status[c.user_data] = c.status;
	}
	for (uint64_t i = 0; i < busy; i++)
		assert_int_equal(status[i], 0);
	assert_int_equal(status[busy], -ECANCELED);
	assert_int_equal(status[102], 0);
	assert_int_equal(status[101], -ETIMEDOUT);
	stop(&rig);
}

static void *kill_later(void *daemon)
{
	usleep(20000);
	harness_daemon_kill(daemon);
	return NULL;
}

static void expect_gone(struct rig *rig)
{
	struct gpuq_completion c;

	assert_int_equal(gpuq_poll(rig->ch, &c, 1), -GPUQ_EGONE);
	assert_non_null(strstr(gpuq_error_detail(), rig->daemon->socket));
	assert_int_equal(gpuq_in_flight(rig->ch), 0);
	assert_int_equal(submit(rig, NULL, 1), -GPUQ_EGONE);
	assert_int_equal(gpuq_alive(rig->g), -GPUQ_EGONE);
	gpuq_disconnect(rig->g);
	harness_daemon_destroy(rig->daemon);
}

/* Returns what gpuq_wait() says at last. */
static int wait_to_the_end(struct rig *rig)
{
	struct gpuq_completion c;
	int r;

	do
		r = gpuq_wait(rig->ch, &c, 1, GPUQ_FOREVER);
	while (r > 0 && submit(rig, rig->slow, 1) == 1);
	return r > 0 ? gpuq_wait(rig->ch, &c, 1, GPUQ_FOREVER) : r;
}

static void test_killed_while_the_client_waits(void **state)
{
	struct rig rig;
	pthread_t thread;

	start(&rig, NULL);
	assert_int_equal(submit(&rig, rig.slow, 1), 1);
	assert_int_equal(pthread_create(&thread, NULL, kill_later, rig.daemon), 0);
	assert_int_equal(wait_to_the_end(&rig), -GPUQ_EGONE);
	pthread_join(thread, NULL);
	expect_gone(&rig);
}

static void test_killed_while_the_client_submits(void **state)
{
	struct gpuq_completion c[16];
	struct rig rig;
	pthread_t thread;
	int r;

	start(&rig, NULL);
	assert_int_equal(pthread_create(&thread, NULL, kill_later, rig.daemon), 0);
	do {
		r = submit(&rig, rig.softmax, 1);
		(void)gpuq_poll(rig.ch, c, 16);
	} while (r == 1 || r == -EAGAIN);
	assert_int_equal(r, -GPUQ_EGONE);
	pthread_join(thread, NULL);
	while (gpuq_poll(rig.ch, c, 16) > 0)
		;
	expect_gone(&rig);
}

static void test_killed_while_an_event_loop_sleeps(void **state)
{
	struct gpuq_completion c;
	struct rig rig;
	pthread_t thread;

	start(&rig, NULL);
	assert_int_equal(gpuq_arm(rig.ch), 0);
	struct pollfd p = {.fd = gpuq_completion_fd(rig.ch), .events = POLLIN};
	assert_int_equal(pthread_create(&thread, NULL, kill_later, rig.daemon), 0);
	assert_int_equal(poll(&p, 1, 15000), 1);
	assert_true((p.revents & POLLHUP) != 0);
	assert_int_equal(gpuq_poll(rig.ch, &c, 1), -GPUQ_EGONE);
	pthread_join(thread, NULL);
	expect_gone(&rig);
}

/* The one child of the control process. */
static pid_t device_process(const struct harness_daemon *daemon)
{
	char path[64], text[32] = "";

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", daemon->pid, daemon->pid);
	int fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	assert_true(read(fd, text, sizeof(text) - 1) > 0);
	close(fd);
	return (pid_t)strtol(text, NULL, 10);
}

static void test_the_device_process_dies(void **state)
{
	struct gpuq_device_info before, after;
	struct gpuq_completion c;
	struct rig rig;

	start(&rig, NULL);
	assert_int_equal(gpuq_device_info(rig.g, 0, &before), 0);
	assert_int_equal(submit(&rig, rig.slow, 1), 1);
	usleep(10000);
	kill(device_process(rig.daemon), SIGKILL);
	c = await(&rig, 1);
	/* What is slow on two CPUs has ended by then on a GPU, and may have on many. */
	if (c.status != 0)
		assert_int_equal(c.status, -GPUQ_EDEVICE);
	assert_int_equal(gpuq_alive(rig.g), 0);
	/* The connection, the channel and its calls live on. */
	expect_softmax(&rig);
	assert_int_equal(gpuq_device_info(rig.g, 0, &after), 0);
	assert_int_equal(after.epoch, before.epoch + 1);
	stop(&rig);
}

static void test_shut_down(void **state)
{
	struct gpuq_completion c;
	struct rig rig;
	int r;

	start(&rig, NULL);
	assert_int_equal(submit(&rig, rig.slow, 1), 1);
	kill(rig.daemon->pid, SIGTERM);
	/* What was accepted completes, nothing more is accepted, and then it is over. */
	r = gpuq_wait(rig.ch, &c, 1, LONG_NS);
	assert_int_equal(r, 1);
	assert_int_equal(c.status, 0);
	do
		r = submit(&rig, NULL, 2);
	while (r == 1);
	assert_true(r == -GPUQ_EDRAIN || r == -GPUQ_EGONE || r == -EAGAIN);
	do
		r = gpuq_wait(rig.ch, &c, 1, LONG_NS);
	while (r > 0);
	assert_true(r == -GPUQ_EGONE || r == -ENODATA);
	assert_int_equal(harness_daemon_stop(rig.daemon), 0);
	expect_gone(&rig);
}

static void test_limits(void **state)
{
	static const char *const args[] = {
		"--max-channels-per-client=2", "--max-arena-bytes=67108864", NULL};
	const struct gpuq_channel_options large = {.arena_bytes = ARENA_BYTES + 1};
	struct gpuq_channel *ch, *more;
	struct gpuq_limits limits;
	struct rig rig;

	start(&rig, args);
	gpuq_limits(rig.g, &limits);
	assert_int_equal(limits.max_channels, 2);
	assert_int_equal(gpuq_channel_open(rig.g, &large, &ch), -GPUQ_ELIMIT);
	for (int i = 0; i < 10; i++) {
		assert_int_equal(gpuq_channel_open(rig.g, NULL, &ch), 0);
		assert_int_equal(gpuq_channel_open(rig.g, NULL, &more), -GPUQ_ELIMIT);
		assert_true(strlen(gpuq_error_detail()) > 10);
		gpuq_channel_close(ch);
	}
	expect_softmax(&rig);
	stop(&rig);
}

/* Something in the client writes over its ring: this channel is shut, with a reason. */
static void test_poisoned(void **state)
{
	struct gpuq_completion c;
	struct rig rig;

	start(&rig, NULL);
	struct wire_layout l = wire_layout(256, 512, ARENA_BYTES);
	uint8_t *segment = rig.arena - l.arena_offset;
	struct wire_ring *sq = (struct wire_ring *)(segment + WIRE_SQ_RING);
	int r = 0;
	while (r >= 0) {
		/* gpuqd looks at the ring because of the bell, and finds the other index. */
		r = submit(&rig, rig.slow, 1);
		shm_store_release(&sq->prod, shm_load_relaxed(&sq->prod) + 100000);
		if (r >= 0)
			r = gpuq_wait(rig.ch, &c, 1, LONG_NS);
	}
	assert_int_equal(r, -GPUQ_EPOISONED);
	assert_int_equal(submit(&rig, NULL, 1), -GPUQ_EPOISONED);
	gpuq_disconnect(rig.g);
	assert_int_equal(gpuq_connect(NULL, &rig.g), 0);
	gpuq_disconnect(rig.g);
	harness_daemon_destroy(rig.daemon);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_results),
		HARNESS_TEST(test_a_stream),
		HARNESS_TEST(test_indices_wrap),
		HARNESS_TEST(test_explained),
		HARNESS_TEST(test_cancel_and_deadline),
		HARNESS_TEST(test_killed_while_the_client_waits),
		HARNESS_TEST(test_killed_while_the_client_submits),
		HARNESS_TEST(test_killed_while_an_event_loop_sleeps),
		HARNESS_TEST(test_the_device_process_dies),
		HARNESS_TEST(test_shut_down),
		HARNESS_TEST(test_limits),
		HARNESS_TEST(test_poisoned),
	};

	return harness_run("client-gpuqd", tests, sizeof(tests) / sizeof(tests[0]));
}
