/* SPDX-License-Identifier: MIT */
/*
 * test-graphs.c: what is captured, seen and steered from outside: promotion, captures ahead of
 * time, stop, resume, eviction, who sees what, the hot list over a restart, and faults: no memory,
 * captures that fail, a device that breaks in the middle of a replay, and clients killed there.
 */
#include "shm/clock.h"
#include "tests/integration/children.h"
#include "tests/integration/classify.h"
#include "tests/integration/world.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NOBODY 65534
#define NOBODY_ELSE 65533
#define SHAPES 8u

struct rig {
	struct harness_daemon *daemon;
	struct client c;
	struct gpuq *admin;
	struct gpuq_pipeline *p;
	struct random rng;
};

static void connect_rig(struct rig *rig)
{
	client_open(&rig->c, NULL);
	assert_int_equal(gpuq_connect(&(struct gpuq_options){.admin = true}, &rig->admin), 0);
	rig->p = classify_register(rig->c.g, "classify");
}

static void start(struct rig *rig, const char *const *args)
{
	rig->rng = (struct random){(uint64_t)getpid()};
	rig->daemon = harness_daemon_start(args);
	connect_rig(rig);
}

static void disconnect_rig(struct rig *rig)
{
	client_close(&rig->c);
	gpuq_disconnect(rig->admin);
}

static void stop(struct rig *rig)
{
	disconnect_rig(rig);
	harness_daemon_destroy(rig->daemon);
}

/* The shape of classify that has this batch, as a client sees it; id 0: none. */
static struct gpuq_graph_info look(struct gpuq *g, uint32_t b)
{
	struct gpuq_graph_info infos[64];
	char wanted[32];
	int n = gpuq_graphs(g, 0, 0, infos, 64);

	if (n < 0)
		fail_msg("gpuq_graphs: %s", gpuq_error_detail());
	snprintf(wanted, sizeof(wanted), "classify x[%u,", b);
	for (int i = 0; i < n; i++) {
		if (strncmp(infos[i].shape, wanted, strlen(wanted)) == 0)
			return infos[i];
	}
	return (struct gpuq_graph_info){0};
}

static int precapture(struct rig *rig, struct classify *job)
{
	assert_int_equal(gpuq_precapture(rig->c.ch, job->call, 5), 0);
	const struct gpuq_completion c = classify_wait(rig->c.ch);
	assert_int_equal(c.user_data, 5);
	return c.status;
}

static struct classify job_of(struct rig *rig, uint32_t b)
{
	struct classify job;

	classify_create(&job, rig->c.ch, rig->p, b, 16, 8);
	return job;
}

/* --- Ahead of time, and by use ------------------------------------------------------------- */

static void test_precapture(void **state)
{
	struct rig rig;

	start(&rig, NULL);
	struct classify job = job_of(&rig, 3), other = job_of(&rig, 4);
	assert_int_equal(look(rig.c.g, 3).id, 0);
	classify_fill(&job, &rig.rng);
	assert_int_equal(precapture(&rig, &job), 0);
	/* Nothing was executed. */
	assert_true(job.y[0] < 0);
	struct gpuq_graph_info info = look(rig.c.g, 3);
	assert_int_equal(info.state, GPUQ_GRAPH_CAPTURED);
	assert_int_equal(info.kernels, 2);
	assert_int_equal(info.hits, 0);
	assert_true(info.bytes > 0 && info.capture_ns > 0);
	assert_string_equal(info.shape, "classify x[3,16]f32 w[8,16]f32 -> y[3,8]f32");
	for (uint32_t k = 0; k < 10; k++)
		classify_run(&job, &rig.rng);
	info = look(rig.c.g, 3);
	assert_int_equal(info.hits, 10);
	assert_int_equal(info.uses, 10);
	/* Again: at once. */
	assert_int_equal(precapture(&rig, &job), 0);
	assert_int_equal(look(rig.c.g, 4).id, 0);
	classify_run(&other, &rig.rng);
	assert_int_equal(look(rig.c.g, 4).uses, 1);
	/* A single operator may need no graph: that is fine too. */
	struct gpuq_tensor x = {.data = job.x, .dtype = GPUQ_F32, .rank = 1, .dims = {8}};
	struct gpuq_tensor y = {.data = job.y, .dtype = GPUQ_F32, .rank = 1, .dims = {8}};
	struct classify softmax = {.ch = rig.c.ch};
	assert_int_equal(
		gpuq_call_create(rig.c.ch, "softmax", &x, 1, &y, 1, NULL, 0, &softmax.call), 0);
	assert_int_equal(precapture(&rig, &softmax), 0);
	stop(&rig);
}

static void test_promotion(void **state)
{
	static const char *const args[] = {
		"--graph-promote-uses", "5", "--graph-promote-window-ms", "60000", NULL};
	struct rig rig;

	start(&rig, args);
	struct classify job = job_of(&rig, 3);
	for (uint32_t k = 0; k < 4; k++)
		classify_run(&job, &rig.rng);
	usleep(50000);
	struct gpuq_graph_info info = look(rig.c.g, 3);
	assert_int_equal(info.state, GPUQ_GRAPH_COLD);
	assert_int_equal(info.uses, 4);
	classify_run(&job, &rig.rng);
	raw_await(look(rig.c.g, 3).state == GPUQ_GRAPH_CAPTURED);
	classify_run(&job, &rig.rng);
	assert_int_equal(look(rig.c.g, 3).hits, 1);
	struct stats s = raw_stats(rig.daemon);
	assert_int_equal(shm_load_relaxed(&s.devices[0].graph_captures), 1);
	assert_true(shm_load_relaxed(&s.devices[0].graph_bytes) > 0);
	stats_close(&s);
	stop(&rig);
}

/* Many wishes at once, some of them cancelled, between work that goes on. */
static void test_many_precaptures(void **state)
{
	struct rig rig;

	start(&rig, NULL);
	for (uint32_t b = 1; b <= SHAPES; b++) {
		struct classify job = job_of(&rig, b);
		assert_int_equal(gpuq_precapture(rig.c.ch, job.call, b), 0);
		assert_int_equal(gpuq_precapture(rig.c.ch, job.call, 100 + b), 0);
		assert_int_equal(gpuq_cancel(rig.c.ch, 100 + b, 200 + b), 0);
	}
	for (uint32_t k = 0; k < 3 * SHAPES; k++) {
		const struct gpuq_completion c = classify_wait(rig.c.ch);
		if (c.user_data < 100)
			assert_int_equal(c.status, 0);
		else if (c.user_data < 200)
			assert_true(c.status == 0 || c.status == -ECANCELED);
		else
			assert_true(c.status == 0 || c.status == -EALREADY || c.status == -ENOENT);
	}
	for (uint32_t b = 1; b <= SHAPES; b++)
		assert_int_equal(look(rig.c.g, b).state, GPUQ_GRAPH_CAPTURED);
	stop(&rig);
}

#define STEPS 500u

/* y = softmax(softmax(... x)) over x[rows,columns], which takes a while to capture. */
static struct gpuq_call *long_call(struct client *c, uint64_t rows, uint64_t columns)
{
	struct gpuq_pipeline_tensor tensors[STEPS + 1] = {
		{"t0", GPUQ_PIPELINE_INPUT, GPUQ_F32, 2, {1, 1}}};
	struct gpuq_pipeline_step steps[STEPS] = {{0}};
	struct gpuq_tensor x = {.dtype = GPUQ_F32, .rank = 2, .dims = {rows, columns}}, y;
	char names[STEPS + 1][8] = {"t0"};
	struct gpuq_pipeline *p = NULL;
	struct gpuq_call *call = NULL;

	for (uint32_t k = 0; k < STEPS; k++) {
		snprintf(names[k + 1], sizeof(names[0]), "t%u", k + 1);
		tensors[k + 1] = (struct gpuq_pipeline_tensor){names[k + 1],
			k + 1 == STEPS ? GPUQ_PIPELINE_OUTPUT : GPUQ_PIPELINE_INNER, GPUQ_F32};
		steps[k] = (struct gpuq_pipeline_step){
			.op = "softmax", .inputs = {names[k]}, .outputs = {names[k + 1]}};
	}
	if (gpuq_pipeline_create(c->g, 0, "long", tensors, STEPS + 1, steps, STEPS, &p) < 0)
		fail_msg("gpuq_pipeline_create: %s", gpuq_error_detail());
	assert_int_equal(gpuq_alloc(c->ch, rows * columns * sizeof(float), (void **)&x.data), 0);
	y = x;
	assert_int_equal(gpuq_alloc(c->ch, rows * columns * sizeof(float), (void **)&y.data), 0);
	assert_int_equal(gpuq_pipeline_call_create(c->ch, p, &x, 1, &y, 1, &call), 0);
	return call;
}

/* A long capture keeps nobody from opening a channel. */
static void test_a_channel_during_a_capture(void **state)
{
	struct client other;
	struct rig rig;

	start(&rig, NULL);
	struct gpuq_call *call = long_call(&rig.c, 64, 512);
	assert_int_equal(gpuq_precapture(rig.c.ch, call, 5), 0);
	const uint64_t begin_ns = clock_monotonic_ns();
	client_open(&other, NULL);
	assert_true(clock_monotonic_ns() - begin_ns < 1000000000u * harness_slowness());
	client_close(&other);
	const struct gpuq_completion c = classify_wait(rig.c.ch);
	assert_int_equal(c.user_data, 5);
	assert_int_equal(c.status, 0);
	stop(&rig);
}

/* --- Administration ------------------------------------------------------------------------ */

static void test_stop_and_resume(void **state)
{
	struct rig rig;

	start(&rig, NULL);
	struct classify captured = job_of(&rig, 2), job = job_of(&rig, 3);
	assert_int_equal(precapture(&rig, &captured), 0);
	assert_int_equal(gpuq_admin_capture(rig.c.g, 0, true), -EPERM);
	assert_int_equal(gpuq_admin_capture(rig.admin, 0, true), 0);
	/* The device process hears of it a moment later. */
	struct stats s = raw_stats(rig.daemon);
	raw_await(shm_load_relaxed(&s.devices[0].captures_stopped) == 1);
	assert_int_equal(precapture(&rig, &job), -GPUQ_ECAPTURE);
	for (uint32_t k = 0; k < 10; k++)
		classify_run(&job, &rig.rng);
	assert_int_equal(look(rig.c.g, 3).hits, 0);
	classify_run(&captured, &rig.rng);
	assert_int_equal(look(rig.c.g, 2).hits, 1);
	/* It stays so when the device process is replaced. */
	pid_t pid = world_device_pid(rig.daemon);
	assert_int_equal(kill(pid, SIGKILL), 0);
	(void)world_await_device(rig.daemon, pid);
	raw_await(shm_load_relaxed(&s.devices[0].captures_stopped) == 1);
	assert_int_equal(precapture(&rig, &job), -GPUQ_ECAPTURE);
	assert_int_equal(gpuq_admin_capture(rig.admin, 0, false), 0);
	raw_await(shm_load_relaxed(&s.devices[0].captures_stopped) == 0);
	assert_int_equal(precapture(&rig, &job), 0);
	stats_close(&s);
	stop(&rig);
}

static void test_evict(void **state)
{
	static const char *const args[] = {"--graph-pinned", "0", NULL};
	struct rig rig;

	start(&rig, args);
	struct classify a = job_of(&rig, 2), b = job_of(&rig, 3);
	assert_int_equal(precapture(&rig, &a), 0);
	assert_int_equal(precapture(&rig, &b), 0);
	uint64_t id = look(rig.c.g, 2).id;
	assert_int_equal(gpuq_admin_evict(rig.c.g, 0, id), -EPERM);
	assert_int_equal(gpuq_admin_evict(rig.admin, 0, id + 1000), -ENOENT);
	assert_int_equal(gpuq_admin_evict(rig.admin, 0, id), 0);
	raw_await(look(rig.c.g, 2).state != GPUQ_GRAPH_CAPTURED);
	assert_int_equal(look(rig.c.g, 3).state, GPUQ_GRAPH_CAPTURED);
	classify_run(&a, &rig.rng);
	assert_int_equal(gpuq_admin_evict(rig.admin, 0, 0), 0);
	raw_await(look(rig.c.g, 3).state != GPUQ_GRAPH_CAPTURED);
	classify_run(&b, &rig.rng);
	struct stats s = raw_stats(rig.daemon);
	raw_await(shm_load_relaxed(&s.devices[0].graph_bytes) == 0);
	stats_close(&s);
	assert_int_equal(precapture(&rig, &a), 0);
	assert_int_equal(look(rig.c.g, 2).state, GPUQ_GRAPH_CAPTURED);
	stop(&rig);
}

/* Under another user id: uses one shape alone, and one that root uses too. */
static void nobody_main(struct child *child)
{
	struct random rng = {child->seed};
	struct classify own, shared;
	struct client c;

	assert_int_equal(setgid(NOBODY), 0);
	assert_int_equal(setuid(NOBODY), 0);
	client_open(&c, NULL);
	struct gpuq_pipeline *p = classify_register(c.g, "classify");
	assert_int_equal(look(c.g, 2).id, 0);
	assert_int_equal(look(c.g, 5).id, 0);
	classify_create(&own, c.ch, p, 3, 16, 8);
	classify_create(&shared, c.ch, p, 5, 16, 8);
	classify_run(&own, &rng);
	classify_run(&shared, &rng);
	raw_await(look(c.g, 5).uses == 2);
	assert_int_equal(look(c.g, 3).uses, 1);
	assert_int_equal(look(c.g, 2).id, 0);
	child_say_ready(child);
	while (!child_should_stop(child))
		raw_pause();
	client_close(&c);
}

/* Under a third one: two users of a shape make it no more its than one does. */
static void nobody_else_main(struct child *child)
{
	struct random rng = {child->seed};
	struct classify own;
	struct client c;

	assert_int_equal(setgid(NOBODY_ELSE), 0);
	assert_int_equal(setuid(NOBODY_ELSE), 0);
	client_open(&c, NULL);
	classify_create(&own, c.ch, classify_register(c.g, "classify"), 4, 16, 8);
	classify_run(&own, &rng);
	assert_int_equal(look(c.g, 4).uses, 1);
	for (uint32_t b = 1; b <= SHAPES; b++)
		assert_int_equal(look(c.g, b).id != 0, b == 4);
	child_say_ready(child);
	while (!child_should_stop(child))
		raw_pause();
	client_close(&c);
}

static void test_who_sees_what(void **state)
{
	static const char *const args[] = {"--socket-mode", "0666", NULL};
	struct child child = {.run = nobody_main, .seed = 1};
	struct child other = {.run = nobody_else_main, .seed = 2};
	struct rig rig;

	if (geteuid() != 0)
		harness_skip("only root can take another user id");
	assert_int_equal(chmod(harness_tmpdir(), 0711), 0);
	start(&rig, args);
	struct classify own = job_of(&rig, 2), shared = job_of(&rig, 5);
	classify_run(&own, &rig.rng);
	classify_run(&shared, &rig.rng);
	child_start(&child);
	child_await_ready(&child);
	child_start(&other);
	child_await_ready(&other);
	assert_int_equal(look(rig.c.g, 2).uses, 1);
	assert_int_equal(look(rig.c.g, 5).uses, 2);
	assert_int_equal(look(rig.c.g, 3).id, 0);
	assert_int_equal(look(rig.c.g, 4).id, 0);
	/* An administrator sees all. */
	assert_int_equal(look(rig.admin, 3).uses, 1);
	assert_int_equal(look(rig.admin, 4).uses, 1);
	child_stop(&child);
	child_stop(&other);
	child_free(&child);
	child_free(&other);
	stop(&rig);
}

/* --- Over a restart ------------------------------------------------------------------------ */

static void test_hot_list(void **state)
{
	struct rig rig;
	char path[300];

	start(&rig, NULL);
	struct classify job = job_of(&rig, 3);
	assert_int_equal(precapture(&rig, &job), 0);
	for (uint32_t k = 0; k < 10; k++)
		classify_run(&job, &rig.rng);
	disconnect_rig(&rig);
	assert_int_equal(harness_daemon_stop(rig.daemon), 0);
	snprintf(path, sizeof(path), "%s/gpuq", harness_tmpdir());
	assert_int_equal(access(path, F_OK), 0);
	harness_daemon_destroy(rig.daemon);
	/* Captured before anybody asks; the pipeline is not even registered again yet. */
	rig.daemon = harness_daemon_start(NULL);
	client_open(&rig.c, NULL);
	assert_int_equal(gpuq_connect(&(struct gpuq_options){.admin = true}, &rig.admin), 0);
	raw_await(look(rig.admin, 3).state == GPUQ_GRAPH_CAPTURED);
	rig.p = classify_register(rig.c.g, "classify");
	job = job_of(&rig, 3);
	classify_run(&job, &rig.rng);
	assert_int_equal(look(rig.c.g, 3).hits, 1);
	stop(&rig);
}

/* A list that is none is left alone, and gpuqd says so. */
static void test_a_broken_hot_list(void **state)
{
	char path[300];
	const char *const args[] = {"--hot-list", path, NULL};
	struct rig rig;

	snprintf(path, sizeof(path), "%s/hot.json", harness_tmpdir());
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	fputs("{ this is no list", f);
	fclose(f);
	start(&rig, args);
	f = fopen(rig.daemon->log, "re");
	char line[512];
	bool told = false;
	while (fgets(line, sizeof(line), f) != NULL)
		told |= strstr(line, path) != NULL;
	fclose(f);
	assert_true(told);
	struct classify job = job_of(&rig, 3);
	assert_int_equal(precapture(&rig, &job), 0);
	classify_run(&job, &rig.rng);
	stop(&rig);
}

/* --- Faults -------------------------------------------------------------------------------- */

static uint64_t count_restarts(const struct rig *rig)
{
	struct stats s = raw_stats(rig->daemon);
	uint64_t n = shm_load_relaxed(&s.header->device_restarts);

	stats_close(&s);
	return n;
}

static void test_no_memory_for_a_graph(void **state)
{
	static const char *const args[] = {
		"--test-faults", "exec_create:7=ENOMEM", "--graph-pinned", "0", NULL};
	struct classify jobs[7];
	struct rig rig;

	start(&rig, args);
	for (uint32_t k = 0; k < 7; k++) {
		jobs[k] = job_of(&rig, 2 + k);
		assert_int_equal(precapture(&rig, &jobs[k]) == 0, k < 6);
	}
	struct stats s = raw_stats(rig.daemon);
	assert_true(shm_load_relaxed(&s.devices[0].graph_evictions) > 0);
	stats_close(&s);
	for (uint32_t k = 0; k < 70; k++)
		classify_run(&jobs[k % 7], &rig.rng);
	raw_await(precapture(&rig, &jobs[6]) == 0);
	classify_run(&jobs[6], &rig.rng);
	stop(&rig);
}

static void test_a_capture_that_fails(void **state)
{
	static const char *const args[] = {"--test-faults", "capture_end:1+=EIO", NULL};
	struct rig rig;

	start(&rig, args);
	struct classify job = job_of(&rig, 3);
	assert_int_equal(precapture(&rig, &job), -GPUQ_ECAPTURE);
	struct gpuq_graph_info info = look(rig.c.g, 3);
	assert_int_equal(info.state, GPUQ_GRAPH_FAILED);
	assert_true(info.status < 0);
	assert_true(info.reason[0] != '\0');
	/* It is served, and nobody tries again and again. */
	struct stats s = raw_stats(rig.daemon);
	uint64_t failures = shm_load_relaxed(&s.devices[0].graph_failures);
	for (uint32_t k = 0; k < 50; k++)
		classify_run(&job, &rig.rng);
	usleep(100000);
	assert_int_equal(shm_load_relaxed(&s.devices[0].graph_failures), failures);
	stats_close(&s);
	stop(&rig);
}

/*
 * The device breaks in the middle of a replay: everybody hears of it within a second, also who
 * submits nothing more; and is served within three.
 */
static void break_device(const char *fault)
{
	const char *const args[] = {"--test-faults", fault, NULL};
	const struct gpuq_buf_options buf_options = {.bytes = 100};
	struct gpuq_buf *buf;
	struct rig rig;
	uint64_t lost = 0, before_ns = 0;
	char *data;

	start(&rig, args);
	struct classify job = job_of(&rig, 3);
	assert_int_equal(gpuq_buf_alloc(rig.c.g, &buf_options, &buf), 0);
	assert_int_equal(gpuq_alloc(rig.c.ch, 100, (void **)&data), 0);
	assert_int_equal(precapture(&rig, &job), 0);
	classify_fill(&job, &rig.rng);
	for (uint32_t n = 0; lost == 0; n++) {
		assert_true(n < 300);
		before_ns = clock_monotonic_ns();
		for (uint32_t k = 0; k < 3; k++)
			classify_submit(&job, k);
		for (uint32_t k = 0; k < 3; k++) {
			const int status = classify_wait(rig.c.ch).status;
			assert_true(status == 0 || status == -GPUQ_EDEVICE);
			lost += status != 0;
		}
	}
	assert_true(clock_monotonic_ns() - before_ns < SECOND_NS * harness_slowness());
	assert_int_equal(gpuq_alive(rig.c.g), 0);
	before_ns = clock_monotonic_ns();
	classify_run(&job, &rig.rng);
	assert_true(clock_monotonic_ns() - before_ns < 3 * SECOND_NS * harness_slowness());
	assert_int_equal(gpuq_buf_read(rig.c.ch, buf, 0, data, 4), -GPUQ_ELOST);
	gpuq_buf_free(buf);
	/* The new one captures too, and does not break. */
	assert_int_equal(precapture(&rig, &job), 0);
	for (uint32_t k = 0; k < 300; k++)
		classify_run(&job, &rig.rng);
	assert_int_equal(count_restarts(&rig), 1);
	stop(&rig);
}

static void test_a_fault_in_a_replay(void **state)
{
	break_device("work:200=GPUQ_EDEVICE");
}

static void test_a_fault_at_a_launch(void **state)
{
	break_device("exec_launch:50=GPUQ_EDEVICE");
}

/* A wish for a capture is answered too, and a fault is noticed when nobody wants anything. */
static void test_a_fault_in_a_capture(void **state)
{
	static const char *const args[] = {"--test-faults", "exec_create:1=GPUQ_EDEVICE", NULL};
	struct rig rig;

	start(&rig, args);
	struct classify job = job_of(&rig, 3);
	assert_int_equal(precapture(&rig, &job), -GPUQ_EDEVICE);
	raw_await(count_restarts(&rig) == 1);
	assert_int_equal(precapture(&rig, &job), 0);
	classify_run(&job, &rig.rng);
	stop(&rig);
}

static void test_a_fault_while_nothing_runs(void **state)
{
	static const char *const args[] = {"--test-faults", "check:4=GPUQ_EDEVICE", NULL};
	struct rig rig;

	start(&rig, args);
	struct classify job = job_of(&rig, 3);
	raw_await(count_restarts(&rig) == 1);
	classify_run(&job, &rig.rng);
	assert_int_equal(gpuq_alive(rig.c.g), 0);
	stop(&rig);
}

/* --- Clients that die ----------------------------------------------------------------------- */

#define LONG_B 64u
#define LONG_I 1024u
#define LONG_O 512u
#define DOOMED 16u

static struct gpuq_tensor in_buffer(
	const struct gpuq_buf *buf, uint64_t offset, uint32_t rows, uint32_t columns)
{
	return (struct gpuq_tensor){.dtype = GPUQ_F32,
		.rank = 2,
		.dims = {rows, columns},
		.buffer = buf,
		.offset = offset};
}

/* Keeps replays in flight whose tensors all lie in a buffer, until it is killed. */
static void replaying_main(struct child *child)
{
	const struct gpuq_buf_options options = {.bytes = 4u << 20};
	struct gpuq_buf *buf;
	struct client c;

	client_open(&c, NULL);
	struct gpuq_pipeline *p = classify_register(c.g, "classify");
	assert_int_equal(gpuq_buf_alloc(c.g, &options, &buf), 0);
	const struct gpuq_tensor in[] = {
		in_buffer(buf, 0, LONG_B, LONG_I), in_buffer(buf, 1u << 20, LONG_O, LONG_I)};
	const struct gpuq_tensor out = in_buffer(buf, 3u << 20, LONG_B, LONG_O);
	struct classify job = {.ch = c.ch};
	assert_int_equal(gpuq_pipeline_call_create(c.ch, p, in, 2, &out, 1, &job.call), 0);
	assert_int_equal(gpuq_precapture(c.ch, job.call, 0), 0);
	assert_int_equal(classify_wait(c.ch).status, 0);
	for (uint64_t k = 0;; k++) {
		classify_submit(&job, k);
		if (k >= 8) {
			child_say_ready(child);
			assert_int_equal(classify_wait(c.ch).status, 0);
		}
	}
}

/* Their buffers go when the graphs that use them have ended, and nobody else feels it. */
static void test_clients_killed_in_replays(void **state)
{
	/* Only what is asked for is captured: no graph for a second lane. */
	static const char *const args[] = {"--graph-promote-uses", "1000000", NULL};
	struct world before;
	struct rig rig;

	start(&rig, args);
	struct classify job = job_of(&rig, 3);
	assert_int_equal(precapture(&rig, &job), 0);
	before = world_look(rig.daemon);
	for (uint32_t k = 0; k < DOOMED; k++) {
		struct child child = {.run = replaying_main, .number = k};
		child_start(&child);
		child_await_ready(&child);
		usleep((useconds_t)random_below(&rig.rng, 20000));
		child_kill(&child);
		child_free(&child);
		classify_run(&job, &rig.rng);
		/* The graph of the first one stays; after that nothing is left behind. */
		if (k == 0)
			before = world_await_rest(rig.daemon, &before);
	}
	world_await(rig.daemon, &before);
	const struct gpuq_graph_info info = look(rig.c.g, LONG_B);
	assert_int_equal(info.state, GPUQ_GRAPH_CAPTURED);
	assert_true(info.hits >= DOOMED);
	assert_int_equal(count_restarts(&rig), 0);
	stop(&rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_precapture),
		HARNESS_TEST(test_promotion),
		HARNESS_TEST(test_many_precaptures),
		HARNESS_TEST(test_a_channel_during_a_capture),
		HARNESS_TEST(test_stop_and_resume),
		HARNESS_TEST(test_evict),
		HARNESS_TEST(test_who_sees_what),
		HARNESS_TEST(test_hot_list),
		HARNESS_TEST(test_a_broken_hot_list),
		HARNESS_TEST(test_no_memory_for_a_graph),
		HARNESS_TEST(test_a_capture_that_fails),
		HARNESS_TEST(test_a_fault_in_a_replay),
		HARNESS_TEST(test_a_fault_at_a_launch),
		HARNESS_TEST(test_a_fault_in_a_capture),
		HARNESS_TEST(test_a_fault_while_nothing_runs),
		HARNESS_TEST(test_clients_killed_in_replays),
	};

	return harness_run("graphs", tests, sizeof(tests) / sizeof(tests[0]));
}
