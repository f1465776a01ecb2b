/* SPDX-License-Identifier: MIT */
/*
 * test-pipelines.c: pipelines end to end: results, what is refused and how that reads, cancelling,
 * deadlines, priorities, and what becomes of them when their client or the device process dies.
 *
 *	TEST_SEED=N   what is computed; printed
 */
#include "tests/integration/children.h"
#include "tests/integration/classify.h"
#include "tests/integration/world.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Of a call that takes a worker some milliseconds. */
#define SLOW_B 64u
#define SLOW_I 1024u
#define SLOW_O 512u

/* Where what is slow shall be slow on every machine. */
static const char *const one_worker[] = {"--workers", "1", NULL};

static const struct gpuq_channel_options large = {.arena_bytes = 64ull << 20};

static struct random seed(void)
{
	const char *text = getenv("TEST_SEED");
	struct random rng = {text != NULL ? strtoull(text, NULL, 0) : (uint64_t)getpid()};

	print_message("TEST_SEED=%llu\n", (unsigned long long)rng.state);
	return rng;
}

/* --- Results ------------------------------------------------------------------------------- */

/* Many shapes, each as often as it takes for some of them to be captured meanwhile. */
static void test_results(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct random rng = seed();
	struct classify jobs[12];
	struct client c;

	client_open(&c, &large);
	struct gpuq_pipeline *p = classify_register(c.g, "classify");
	for (uint32_t k = 0; k < 12; k++)
		classify_create(&jobs[k], c.ch, p, 1 + k, 8 * (k % 5 + 1), 1 + 7 * k);
	for (uint32_t n = 0; n < 300; n++)
		classify_run(&jobs[random_below(&rng, 12)], &rng);
	/* All at once, in any order. */
	for (uint32_t k = 0; k < 12; k++) {
		classify_fill(&jobs[k], &rng);
		classify_submit(&jobs[k], k);
	}
	uint32_t seen = 0;
	for (uint32_t k = 0; k < 12; k++) {
		const struct gpuq_completion done = classify_wait(c.ch);
		assert_int_equal(done.status, 0);
		seen |= 1u << done.user_data;
		classify_check(&jobs[done.user_data]);
	}
	assert_int_equal(seen, (1u << 12) - 1);
	for (uint32_t k = 0; k < 12; k++)
		classify_destroy(&jobs[k]);
	gpuq_pipeline_destroy(p);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

/* A chain of many steps, whose parameters are fixed: softmax at ever other temperatures. */
static void test_a_long_chain(void **state)
{
	enum { STEPS = 40, N = 16 };
	struct gpuq_pipeline_tensor tensors[STEPS + 1] = {
		{"t0", GPUQ_PIPELINE_INPUT, GPUQ_F32, 1, {N}}};
	struct gpuq_pipeline_step steps[STEPS] = {{0}};
	struct gpuq_param params[STEPS];
	char names[STEPS + 1][8] = {"t0"};
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct gpuq_pipeline *p = NULL;
	double want[N];
	struct client c;
	float *x, *y;

	client_open(&c, NULL);
	for (uint32_t k = 0; k < STEPS; k++) {
		snprintf(names[k + 1], sizeof(names[0]), "t%u", k + 1);
		tensors[k + 1] = (struct gpuq_pipeline_tensor){names[k + 1],
			k + 1 == STEPS ? GPUQ_PIPELINE_OUTPUT : GPUQ_PIPELINE_INNER, GPUQ_F32};
		params[k] = (struct gpuq_param){
			"temperature", GPUQ_PARAM_F64, {.f64 = 0.02 + 0.01 * k}};
		steps[k] = (struct gpuq_pipeline_step){.op = "softmax",
			.inputs = {names[k]},
			.outputs = {names[k + 1]},
			.params = &params[k],
			.n_params = 1};
	}
	if (gpuq_pipeline_create(c.g, 0, "chain", tensors, STEPS + 1, steps, STEPS, &p) < 0)
		fail_msg("%s", gpuq_error_detail());
	assert_int_equal(gpuq_alloc(c.ch, N * sizeof(float), (void **)&x), 0);
	assert_int_equal(gpuq_alloc(c.ch, N * sizeof(float), (void **)&y), 0);
	const struct gpuq_tensor in = {.data = x, .dtype = GPUQ_F32, .rank = 1, .dims = {N}};
	const struct gpuq_tensor out = {.data = y, .dtype = GPUQ_F32, .rank = 1, .dims = {N}};
	struct gpuq_call *call;
	assert_int_equal(gpuq_pipeline_call_create(c.ch, p, &in, 1, &out, 1, &call), 0);
	for (uint32_t i = 0; i < N; i++)
		want[i] = x[i] = (float)i / N;
	for (uint32_t k = 0; k < STEPS; k++) {
		double sum = 0;
		for (uint32_t i = 0; i < N; i++)
			sum += want[i] = exp(want[i] / params[k].value.f64);
		for (uint32_t i = 0; i < N; i++)
			want[i] /= sum;
	}
	for (uint32_t n = 0; n < 10; n++) {
		const struct gpuq_submission s = {.call = call};
		memset(y, 0, N * sizeof(*y));
		assert_int_equal(gpuq_submit(c.ch, &s, 1), 1);
		assert_int_equal(classify_wait(c.ch).status, 0);
		for (uint32_t i = 0; i < N; i++)
			assert_true(fabs((double)y[i] - want[i]) <= 1e-3);
	}
	client_close(&c);
	harness_daemon_destroy(daemon);
}

/* --- Refusals ------------------------------------------------------------------------------ */

#define X                                              \
	{                                              \
		"x", GPUQ_PIPELINE_INPUT, GPUQ_F32, 2, \
		{                                      \
			2, 8                           \
		}                                      \
	}
#define Y                                           \
	{                                           \
		"y", GPUQ_PIPELINE_OUTPUT, GPUQ_F32 \
	}
#define INNER(name)                                 \
	{                                           \
		name, GPUQ_PIPELINE_INNER, GPUQ_F32 \
	}
#define SOFTMAX(from, to)                                                         \
	{                                                                         \
		.op = "softmax", .inputs = {from}, .outputs = {to}, .n_params = 0 \
	}

static const struct gpuq_param freezing = {"temperature", GPUQ_PARAM_F64, {.f64 = -1}};

static const struct {
	int status;
	const char *step, *tensor; /* both are in the sentence */
	struct gpuq_pipeline_tensor tensors[5];
	struct gpuq_pipeline_step steps[4];
} refusals[] = {
	{-GPUQ_EPIPELINE, "softmax", "a", {X, Y, INNER("a"), INNER("b")},
		{SOFTMAX("b", "a"), SOFTMAX("a", "b"), SOFTMAX("x", "y")}},
	{-GPUQ_EPIPELINE, "", "a", {X, Y, INNER("a")}, {SOFTMAX("x", "y")}},
	{-GPUQ_EPIPELINE, "softmax", "y", {X, Y}, {SOFTMAX("x", "y"), SOFTMAX("x", "y")}},
	{-GPUQ_EPIPELINE, "softmax", "x", {X, Y}, {SOFTMAX("x", "y"), SOFTMAX("y", "x")}},
	{-GPUQ_EPIPELINE, "", "", {X, Y}, {{0}}},
	{-GPUQ_EMISSING, "gemv_batched", "w", {X, Y},
		{{.op = "gemv_batched", .inputs = {"x"}, .outputs = {"y"}}}},
	{-GPUQ_ESHAPE, "gemv_batched", "w", {X, {"w", GPUQ_PIPELINE_INPUT, GPUQ_F32, 2, {4, 9}}, Y},
		{{.op = "gemv_batched", .inputs = {"x", "w"}, .outputs = {"y"}}}},
	{-GPUQ_ERANK, "gemv_batched", "w", {X, {"w", GPUQ_PIPELINE_INPUT, GPUQ_F32, 1, {8}}, Y},
		{{.op = "gemv_batched", .inputs = {"x", "w"}, .outputs = {"y"}}}},
	{-GPUQ_EDTYPE, "softmax", "x", {{"x", GPUQ_PIPELINE_INPUT, GPUQ_I64, 2, {2, 8}}, Y},
		{SOFTMAX("x", "y")}},
	{-GPUQ_EDTYPE, "softmax", "y", {X, {"y", GPUQ_PIPELINE_OUTPUT, GPUQ_I8}},
		{SOFTMAX("x", "y")}},
	{-GPUQ_EPARAM, "softmax", "temperature", {X, Y},
		{{.op = "softmax",
			.inputs = {"x"},
			.outputs = {"y"},
			.params = &freezing,
			.n_params = 1}}},
};

static void test_refusals(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct gpuq_pipeline *p = NULL;
	struct client c;

	client_open(&c, NULL);
	for (size_t k = 0; k < sizeof(refusals) / sizeof(refusals[0]); k++) {
		uint32_t n_tensors = 0, n_steps = 0;
		while (refusals[k].tensors[n_tensors].name != NULL)
			n_tensors++;
		while (refusals[k].steps[n_steps].op != NULL)
			n_steps++;
		int r = gpuq_pipeline_create(c.g, 0, "wrong", refusals[k].tensors, n_tensors,
			refusals[k].steps, n_steps, &p);
		const char *why = gpuq_error_detail();
		if (r != refusals[k].status || strstr(why, refusals[k].step) == NULL ||
			strstr(why, refusals[k].tensor) == NULL)
			fail_msg("%zu: %d: %s", k, r, why);
	}
	assert_null(p);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

static void expect_refused(
	struct client *c, struct gpuq_call *call, int status, const char *sentence)
{
	const struct gpuq_submission s = {.call = call};
	char text[200];

	assert_int_equal(gpuq_submit(c->ch, &s, 1), 1);
	const struct gpuq_completion done = classify_wait(c->ch);
	gpuq_explain(call, &done, text, sizeof(text));
	if (done.status != status || strstr(text, sentence) == NULL)
		fail_msg("%d: %s", done.status, text);
	/* Nor can it be captured. */
	assert_int_equal(gpuq_precapture(c->ch, call, 1), 0);
	assert_int_equal(classify_wait(c->ch).status, status);
}

/* Calls that do not fit are found out when they are made, and name what is to blame. */
static void test_calls_that_do_not_fit(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct random rng = seed();
	struct gpuq_call *call;
	struct classify job;
	struct client c;

	client_open(&c, NULL);
	struct gpuq_pipeline *p = classify_register(c.g, "classify");
	classify_create(&job, c.ch, p, 4, 16, 8);
	struct gpuq_tensor in[] = {
		{.data = job.x, .dtype = GPUQ_F32, .rank = 2, .dims = {4, 16}},
		{.data = job.w, .dtype = GPUQ_F32, .rank = 2, .dims = {8, 15}},
	};
	struct gpuq_tensor out = {.data = job.y, .dtype = GPUQ_F32, .rank = 2, .dims = {4, 8}};
	assert_int_equal(gpuq_pipeline_call_create(c.ch, p, in, 2, &out, 1, &call), 0);
	expect_refused(&c, call, -GPUQ_ESHAPE, "classify: input w: ");
	in[1].dims[1] = 16;
	out.dims[1] = 7;
	assert_int_equal(gpuq_pipeline_call_create(c.ch, p, in, 2, &out, 1, &call), 0);
	expect_refused(&c, call, -GPUQ_ESHAPE, "classify: output y: ");
	out.dims[1] = 8;
	in[0].dtype = GPUQ_F16;
	assert_int_equal(gpuq_pipeline_call_create(c.ch, p, in, 2, &out, 1, &call), 0);
	expect_refused(&c, call, -GPUQ_EDTYPE, "classify: input x: ");
	in[0].dtype = GPUQ_F32;
	in[0].rank = 1;
	assert_int_equal(gpuq_pipeline_call_create(c.ch, p, in, 2, &out, 1, &call), 0);
	expect_refused(&c, call, -GPUQ_ERANK, "classify: input x: ");
	in[0].rank = 2;
	assert_int_equal(gpuq_pipeline_call_create(c.ch, p, in, 1, &out, 1, &call), 0);
	expect_refused(&c, call, -GPUQ_EMISSING, "classify: input w: ");
	classify_run(&job, &rng);
	/* Taken back: calls of it are answered, and nothing else is. */
	gpuq_pipeline_destroy(p);
	expect_refused(&c, job.call, -GPUQ_EPIPELINE, "classify: ");
	struct gpuq_pipeline *again = classify_register(c.g, "classify");
	expect_refused(&c, job.call, -GPUQ_EPIPELINE, "classify: ");
	classify_create(&job, c.ch, again, 4, 16, 8);
	classify_run(&job, &rng);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

/* More memory between the steps than there is. */
static void test_too_large_between_the_steps(void **state)
{
	static const char *const args[] = {"--graph-scratch-bytes", "64K", NULL};
	struct harness_daemon *daemon = harness_daemon_start(args);
	struct random rng = seed();
	struct classify job, fits;
	struct client c;

	client_open(&c, &large);
	struct gpuq_pipeline *p = classify_register(c.g, "classify");
	classify_create(&job, c.ch, p, 128, 8, 256);
	expect_refused(&c, job.call, -GPUQ_ELIMIT, "classify: ");
	classify_create(&fits, c.ch, p, 128, 8, 128);
	classify_run(&fits, &rng);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

/* --- Cancelling, deadlines, priorities ----------------------------------------------------- */

static void need_slow_calls(void)
{
	const char *device = getenv("GPUQ_DEVICE");

	if (device != NULL && strncmp(device, "cuda", 4) == 0)
		harness_skip("only on the CPU device: a GPU ends these calls too soon");
}

static void test_cancel(void **state)
{
	enum { N = 24 };
	struct harness_daemon *daemon;
	struct random rng = seed();
	int status[2 * N], cancelled = 0;
	struct classify job;
	struct client c;

	need_slow_calls();
	daemon = harness_daemon_start(one_worker);
	client_open(&c, &large);
	classify_create(&job, c.ch, classify_register(c.g, "slow"), SLOW_B, SLOW_I, SLOW_O);
	classify_fill(&job, &rng);
	for (uint32_t k = 0; k < N; k++)
		classify_submit(&job, k);
	for (uint32_t k = 0; k < N; k++)
		assert_int_equal(gpuq_cancel(c.ch, k, N + k), 0);
	for (uint32_t k = 0; k < 2 * N; k++) {
		const struct gpuq_completion done = classify_wait(c.ch);
		status[done.user_data] = done.status;
	}
	for (uint32_t k = 0; k < N; k++) {
		cancelled += status[k] == -ECANCELED;
		assert_true(status[k] == 0 || status[k] == -ECANCELED);
		assert_int_equal(status[N + k] == 0, status[k] == -ECANCELED);
	}
	/* All are submitted before the first can have ended. */
	assert_true(cancelled >= N / 2);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

static void test_deadlines(void **state)
{
	enum { N = 24 };
	struct harness_daemon *daemon;
	struct random rng = seed();
	struct classify job;
	int late = 0;
	struct client c;

	need_slow_calls();
	daemon = harness_daemon_start(one_worker);
	client_open(&c, &large);
	classify_create(&job, c.ch, classify_register(c.g, "slow"), SLOW_B, SLOW_I, SLOW_O);
	classify_fill(&job, &rng);
	/* The first ones are in the way of the others for longer than these may wait. */
	for (uint32_t k = 0; k < N; k++) {
		const struct gpuq_submission s = {.call = job.call,
			.user_data = k,
			.timeout_ns = k < N / 2 ? 0 : SECOND_NS / 1000};
		assert_int_equal(gpuq_submit(c.ch, &s, 1), 1);
	}
	for (uint32_t k = 0; k < N; k++) {
		const struct gpuq_completion done = classify_wait(c.ch);
		late += done.status == -ETIMEDOUT;
		assert_true(
			done.status == 0 || (done.status == -ETIMEDOUT && done.user_data >= N / 2));
	}
	assert_int_equal(late, N / 2);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

/*
 * One of the first priority does not wait behind those of the last, whose shape stays cold; nor
 * does one whose own shape is new.
 */
static void test_priorities(void **state)
{
	enum { N = 60 };
	static const char *const args[] = {
		"--workers", "1", "--graph-promote-uses", "1000000", NULL};
	const struct gpuq_channel_options last = {.priority = 3, .arena_bytes = 64ull << 20};
	struct harness_daemon *daemon;
	struct random rng = seed();
	struct gpuq_completion done;
	struct gpuq_channel *ch;
	struct classify slow, quick;
	struct client c;
	int ended = 0, n;

	need_slow_calls();
	daemon = harness_daemon_start(args);
	client_open(&c, &last);
	assert_int_equal(gpuq_channel_open(c.g, NULL, &ch), 0);
	struct gpuq_pipeline *p = classify_register(c.g, "classify");
	classify_create(&slow, c.ch, p, SLOW_B, SLOW_I, SLOW_O);
	classify_create(&quick, ch, p, 1, 8, 4);
	classify_fill(&slow, &rng);
	for (uint32_t k = 0; k < N; k++)
		classify_submit(&slow, k);
	/* The first ones run, and as many wait as gpuqd gives away. */
	usleep(5000);
	classify_run(&quick, &rng);
	while ((n = gpuq_poll(c.ch, &done, 1)) > 0)
		ended += n;
	assert_true(ended < N / 2);
	while (ended++ < N)
		assert_int_equal(classify_wait(c.ch).status, 0);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

/* --- Ends ---------------------------------------------------------------------------------- */

/* What is in flight ends as usual; taking the pipeline back waits for that. */
static void test_taken_back_in_flight(void **state)
{
	enum { N = 12 };
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct random rng = seed();
	struct classify job;
	struct client c;

	client_open(&c, &large);
	struct gpuq_pipeline *p = classify_register(c.g, "slow");
	classify_create(&job, c.ch, p, SLOW_B, SLOW_I, SLOW_O);
	classify_fill(&job, &rng);
	for (uint32_t k = 0; k < N; k++)
		classify_submit(&job, k);
	gpuq_pipeline_destroy(p);
	/* gpuqd may have seen some of them after that. */
	for (uint32_t k = 0; k < N; k++) {
		const int status = classify_wait(c.ch).status;
		assert_true(status == 0 || status == -GPUQ_EPIPELINE);
	}
	client_check_works(&c);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

/* Keeps pipelines in flight until it is killed. */
static void busy_main(struct child *child)
{
	struct random rng = {child->seed};
	struct classify job;
	struct client c;

	client_open(&c, &large);
	struct gpuq_pipeline *p = classify_register(c.g, "doomed");
	classify_create(&job, c.ch, p, SLOW_B, SLOW_I, SLOW_O);
	classify_fill(&job, &rng);
	for (uint64_t k = 0;; k++) {
		classify_submit(&job, k);
		if (k >= 8) {
			child_say_ready(child);
			(void)classify_wait(c.ch);
		}
	}
}

static void test_clients_killed(void **state)
{
	/* A capture would take memory that was not there before. */
	static const char *const args[] = {"--graph-promote-uses", "1000000", NULL};
	struct harness_daemon *daemon = harness_daemon_start(args);
	struct random rng = seed();
	struct classify job;
	struct client c;

	client_open(&c, &large);
	classify_create(&job, c.ch, classify_register(c.g, "classify"), 4, 16, 8);
	for (uint32_t k = 0; k < 8; k++)
		classify_run(&job, &rng);
	/* The first one's shape stays known; after that nothing may be left behind. */
	struct world before = world_look(daemon);
	for (uint32_t k = 0; k < 6; k++) {
		struct child child = {.run = busy_main, .number = k, .seed = random_u64(&rng)};
		child_start(&child);
		child_await_ready(&child);
		usleep((useconds_t)random_below(&rng, 20000));
		child_kill(&child);
		child_free(&child);
		if (k == 0)
			before = world_await_rest(daemon, &before);
		classify_run(&job, &rng);
	}
	world_await(daemon, &before);
	struct stats s = raw_stats(daemon);
	assert_int_equal(shm_load_relaxed(&s.header->pipelines), 1);
	stats_close(&s);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

/* The same handle goes on with the next device process. */
static void test_device_process_killed(void **state)
{
	enum { N = 24 };
	struct harness_daemon *daemon = harness_daemon_start(one_worker);
	struct stats s = raw_stats(daemon);
	struct random rng = seed();
	struct classify job;
	struct client c;
	uint32_t lost = 0;

	client_open(&c, &large);
	struct gpuq_pipeline *p = classify_register(c.g, "classify");
	classify_create(&job, c.ch, p, SLOW_B, SLOW_I, SLOW_O);
	for (uint32_t k = 0; k < 3; k++) {
		const uint64_t taken = shm_load_relaxed(&s.channels[0].consumed);
		pid_t pid = 0;
		raw_await((pid = world_device_pid(daemon)) != 0);
		classify_fill(&job, &rng);
		for (uint32_t n = 0; n < N; n++)
			classify_submit(&job, n);
		/* What it has not committed as accepted by then, the next one will find. */
		while (shm_load_relaxed(&s.channels[0].consumed) == taken)
			;
		assert_int_equal(kill(pid, SIGKILL), 0);
		for (uint32_t n = 0; n < N; n++) {
			const int status = classify_wait(c.ch).status;
			assert_true(status == 0 || status == -GPUQ_EDEVICE);
			lost += status != 0;
		}
		classify_run(&job, &rng);
	}
	/* A GPU has done it all before the kill arrives. */
	assert_true(lost > 0 || harness_on_gpu());
	stats_close(&s);
	gpuq_pipeline_destroy(p);
	expect_refused(&c, job.call, -GPUQ_EPIPELINE, "classify");
	client_close(&c);
	harness_daemon_destroy(daemon);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_results),
		HARNESS_TEST(test_a_long_chain),
		HARNESS_TEST(test_refusals),
		HARNESS_TEST(test_calls_that_do_not_fit),
		HARNESS_TEST(test_too_large_between_the_steps),
		HARNESS_TEST(test_cancel),
		HARNESS_TEST(test_deadlines),
		HARNESS_TEST(test_priorities),
		HARNESS_TEST(test_taken_back_in_flight),
		HARNESS_TEST_LONG(test_clients_killed, 60),
		HARNESS_TEST_LONG(test_device_process_killed, 60),
	};

	return harness_run("pipelines", tests, sizeof(tests) / sizeof(tests[0]));
}
