/* SPDX-License-Identifier: MIT */
/*
 * test-faults.c: every call of a device fails once, by injection. Afterwards the device serves on,
 * or it has failed for good: then every call says so, nothing hangs, and no word is written.
 */
#include "tests/device/rig.h"

#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096u
#define PATIENCE_MS 10000

/* What the calls below need. Made before the fault: each was called `before` times then. */
struct world {
	struct rig rig;
	struct device_event *event;
	struct device_graph *graph;
	struct device_exec *exec;
	void *page;
};

static void world_open(struct world *w, const char *faults)
{
	struct rig *rig = &w->rig;

	memset(w, 0, sizeof(*w));
	rig_open(rig, faults);
	w->page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(w->page, MAP_FAILED);
	assert_int_equal(device_event_create(rig->device, &w->event), 0);
	assert_int_equal(device_capture_begin(rig->stream), 0);
	assert_int_equal(rig_chain(rig, rig->stream, 2, true, NULL), 0);
	assert_int_equal(device_capture_end(rig->stream, &w->graph), 0);
	assert_int_equal(device_exec_create(rig->device, w->graph, &w->exec), 0);
}

static void world_close(struct world *w)
{
	device_exec_destroy(w->exec);
	device_graph_destroy(w->graph);
	device_event_destroy(w->event);
	munmap(w->page, PAGE);
	rig_close(&w->rig);
}

/* --- Each call, once ---------------------------------------------------------------------- */

static int call_check(struct world *w)
{
	return device_check(w->rig.device);
}

static int call_alloc(struct world *w)
{
	void *data = NULL;
	int r = device_alloc(w->rig.device, DEVICE_PINNED, 100, &data);

	assert_true((r == 0) == (data != NULL));
	device_free(w->rig.device, DEVICE_PINNED, data);
	return r;
}

static int call_register(struct world *w)
{
	void *at;
	int r = device_register(w->rig.device, w->page, PAGE, &at);

	if (r == 0)
		device_unregister(w->rig.device, w->page);
	return r;
}

static int call_export(struct world *w)
{
	struct device_export export;
	int r = device_export_create(w->rig.device, DEVICE_EXPORT_FD, 100, &export);

	if (r == 0) {
		close(export.fd);
		device_export_destroy(w->rig.device, &export);
	}
	return r;
}

static int call_stream_create(struct world *w)
{
	struct device_stream *stream = NULL;
	int r = device_stream_create(w->rig.device, DEVICE_PRIORITY_HIGH, &stream);

	assert_true((r == 0) == (stream != NULL));
	device_stream_destroy(stream);
	return r;
}

static int call_stream_query(struct world *w)
{
	int r = device_stream_query(w->rig.stream);

	return r < 0 ? r : 0;
}

static int call_stream_wait(struct world *w)
{
	return device_stream_wait(w->rig.stream);
}

static int call_event_create(struct world *w)
{
	struct device_event *event = NULL;
	int r = device_event_create(w->rig.device, &event);

	assert_true((r == 0) == (event != NULL));
	device_event_destroy(event);
	return r;
}

static int call_event_record(struct world *w)
{
	return device_event_record(w->event, w->rig.stream);
}

static int call_event_await(struct world *w)
{
	return device_event_await(w->event, w->rig.other);
}

static int call_event_query(struct world *w)
{
	int r = device_event_query(w->event);

	return r < 0 ? r : 0;
}

static int call_launch(struct world *w)
{
	const struct device_args args = rig_args(&w->rig, 1);

	return rig_chain(&w->rig, w->rig.stream, 1, false, &args);
}

static int call_copy(struct world *w)
{
	return device_copy(w->rig.stream, &w->rig.cells[2000], &w->rig.cells[2001], 4);
}

static int call_fill(struct world *w)
{
	return device_fill(w->rig.stream, &w->rig.cells[2000], 1, 4);
}

static int call_signal(struct world *w)
{
	const struct device_args args = rig_args(&w->rig, 1);

	return device_signal(w->rig.stream, &args);
}

/* Captures one command. A failure at the end ends the capture all the same. */
static int call_capture(struct world *w)
{
	struct device_graph *graph = NULL;
	int r = device_capture_begin(w->rig.stream);

	if (r < 0)
		return r;
	r = device_fill(w->rig.stream, &w->rig.cells[2000], 1, 4);
	int end = device_capture_end(w->rig.stream, &graph);
	assert_true((end == 0) == (graph != NULL));
	device_graph_destroy(graph);
	/* What fails in a capture is found out again at its end. */
	if (r < 0 && r != -GPUQ_EDEVICE)
		assert_int_equal(end, -ECANCELED);
	return r < 0 ? r : end;
}

static int call_exec_create(struct world *w)
{
	struct device_exec *exec = NULL;
	int r = device_exec_create(w->rig.device, w->graph, &exec);

	assert_true((r == 0) == (exec != NULL));
	device_exec_destroy(exec);
	return r;
}

static int call_exec_upload(struct world *w)
{
	return device_exec_upload(w->exec, w->rig.stream);
}

static int call_exec_launch(struct world *w)
{
	struct device_args args = rig_args(&w->rig, 1);

	args.pointers[0] = &w->rig.cells[2000];
	args.pointers[1] = &w->rig.cells[2001];
	return device_exec_launch(w->exec, w->rig.stream, &args);
}

/* `before` is how often world_open() has made the call. */
static const struct {
	const char *name;
	uint32_t before;
	int (*call)(struct world *w);
} calls[] = {
	{"check", 0, call_check},
	{"alloc", 3, call_alloc},
	{"register_host", 0, call_register},
	{"export_create", 0, call_export},
	{"stream_create", 2, call_stream_create},
	{"stream_query", 0, call_stream_query},
	{"stream_wait", 0, call_stream_wait},
	{"event_create", 1, call_event_create},
	{"event_record", 0, call_event_record},
	{"event_await", 0, call_event_await},
	{"event_query", 0, call_event_query},
	{"launch", 2, call_launch},
	{"copy", 0, call_copy},
	{"fill", 0, call_fill},
	{"fill", 0, call_capture},
	{"signal", 0, call_signal},
	{"capture_begin", 1, call_capture},
	{"capture_end", 1, call_capture},
	{"exec_create", 1, call_exec_create},
	{"exec_upload", 0, call_exec_upload},
	{"exec_launch", 0, call_exec_launch},
};
#define N_CALLS (sizeof(calls) / sizeof(calls[0]))

static void fault_text(char text[64], uint32_t call, const char *error)
{
	snprintf(text, 64, "%s:%u=%s", calls[call].name, calls[call].before + 1, error);
}

static void test_serves_on(void **state)
{
	static const struct {
		const char *name;
		int error;
	} errors[] = {{"ENOMEM", ENOMEM}, {"EIO", EIO}};
	struct world w;
	char text[64];

	for (uint32_t i = 0; i < 2 * N_CALLS; i++) {
		fault_text(text, i / 2, errors[i % 2].name);
		world_open(&w, text);
		int r = calls[i / 2].call(&w);
		if (r != -errors[i % 2].error)
			fail_msg("%s: %d", text, r);
		rig_check_usable(&w.rig);
		r = calls[i / 2].call(&w);
		if (r < 0)
			fail_msg("%s: %d the second time", text, r);
		rig_finish(&w.rig, w.rig.stream);
		rig_check_usable(&w.rig);
		world_close(&w);
	}
}

static void test_cannot_open(void **state)
{
	struct rig rig;

	/* Skips where there is no device. */
	rig_open(&rig, NULL);
	rig_close(&rig);
	rig.wake_fd = -1;
	const struct device_options options = rig_options(&rig, "open:1=ENOMEM");
	struct device *const untouched = (struct device *)&rig, *device = untouched;
	char why[192] = "";
	assert_int_equal(device_open(&options, &device, why), -ENOMEM);
	assert_ptr_equal(device, untouched);
	assert_true(why[0] != '\0');
}

/* --- For good ----------------------------------------------------------------------------- */

/* Every call says that the device has failed. */
static void expect_failed(struct world *w, const char *text)
{
	for (uint32_t i = 0; i < N_CALLS; i++) {
		int r = calls[i].call(w);
		if (r != -GPUQ_EDEVICE)
			fail_msg("%s: then %s: %d", text, calls[i].name, r);
	}
}

static void test_fails_for_good(void **state)
{
	struct world w;
	char text[64];

	for (uint32_t i = 0; i < N_CALLS; i++) {
		fault_text(text, i, "GPUQ_EDEVICE");
		world_open(&w, text);
		int r = calls[i].call(&w);
		if (r != -GPUQ_EDEVICE)
			fail_msg("%s: %d", text, r);
		expect_failed(&w, text);
		world_close(&w);
	}
}

/* In the middle of much work, some of which waits for other work: nothing hangs. */
static void test_fails_with_work_in_flight(void **state)
{
	struct device_stream *third;
	struct world w;

	for (uint32_t i = 0; i < 10; i++) {
		world_open(&w, "check:1=GPUQ_EDEVICE");
		assert_int_equal(device_stream_create(w.rig.device, 0, &third), 0);
		rig_load(&w.rig, w.rig.stream, 10 + i);
		assert_int_equal(call_event_record(&w), 0);
		assert_int_equal(call_event_await(&w), 0);
		for (uint32_t k = 0; k < DEVICE_EXEC_DEPTH; k++) {
			struct device_args args = rig_args(&w.rig, k);
			args.pointers[0] = &w.rig.cells[2000];
			args.pointers[1] = &w.rig.cells[2001];
			assert_int_equal(
				device_exec_launch(w.exec, k % 2 == 0 ? w.rig.other : third, &args),
				0);
		}
		assert_int_equal(device_check(w.rig.device), -GPUQ_EDEVICE);
		expect_failed(&w, "check");
		device_stream_destroy(third);
		/* Destroyed before its streams are: whatever is left of it, nobody runs it. */
		world_close(&w);
	}
}

/* --- When work itself is made to fail ----------------------------------------------------- */

static void skip_cuda(struct world *w)
{
	if (!w->rig.cuda)
		return;
	world_close(w);
	harness_skip("only the CPU device fails at a given piece of work");
}

/* The device is asked now and then until it knows. */
static void await_failure(struct world *w)
{
	int r = 0;

	for (uint32_t i = 0; i < PATIENCE_MS && r == 0; i++) {
		r = device_check(w->rig.device);
		poll(NULL, 0, r == 0);
	}
	assert_int_equal(r, -GPUQ_EDEVICE);
}

/*
 * The device fails while an executable runs: its word is never written, nor those of what was
 * launched after it, in its stream and in one that waits for it.
 */
static void test_fails_in_a_replay(void **state)
{
	struct device_exec *exec;
	struct world w;

	world_open(&w, "work:15=GPUQ_EDEVICE");
	skip_cuda(&w);
	exec = rig_chain_exec(&w.rig, w.rig.stream, 20);
	for (uint32_t k = 0; k < 3; k++) {
		struct device_args args = rig_args(&w.rig, k);
		args.pointers[0] = &w.rig.cells[1000];
		args.pointers[1] = &w.rig.cells[1001];
		int r = device_exec_launch(exec, k < 2 ? w.rig.stream : w.rig.other, &args);
		assert_true(r == 0 || r == -GPUQ_EDEVICE);
	}
	await_failure(&w);
	assert_float_equal(w.rig.cells[13], rig_chain_end(13, RIG_POISON), 0);
	assert_float_equal(w.rig.cells[15], RIG_POISON, 0);
	expect_failed(&w, "work");
	/* Drains both streams. */
	device_exec_destroy(exec);
	for (uint32_t k = 0; k < 3; k++)
		assert_int_equal(w.rig.words[k].word, 0);
	world_close(&w);
}

/* The same by a kernel that writes where nothing is mapped. */
static void test_fails_by_a_real_fault(void **state)
{
	struct device_args args;
	struct world w;

	world_open(&w, "work:3=GPUQ_EDEVICE");
	if (!w.rig.cuda) {
		world_close(&w);
		harness_skip("the CPU device has no kernel that writes astray");
	}
	for (uint32_t k = 0; k < 4; k++) {
		args = rig_args(&w.rig, k);
		args.pointers[0] = &w.rig.cells[1000];
		args.pointers[1] = &w.rig.cells[1001];
		int r = device_exec_launch(w.exec, w.rig.stream, &args);
		assert_true(r == 0 || (k >= 2 && r == -GPUQ_EDEVICE));
		if (k < 2)
			rig_await(&w.rig, k, args.value);
	}
	await_failure(&w);
	assert_int_equal(w.rig.words[2].word, 0);
	assert_int_equal(w.rig.words[3].word, 0);
	expect_failed(&w, "work");
	world_close(&w);
}

static void run_piece(
	const void *shape, const struct device_args *args, uint64_t begin, uint64_t end)
{
	for (uint64_t i = begin; i < end; i++)
		((char *)args->pointers[0])[i]++;
}

/* A kernel that was cut into pieces: one of them fails, and so does the whole. */
static void test_fails_in_pieces(void **state)
{
	static const struct device_code code = {"pieces", run_piece};
	const struct device_kernel kernel = {
		.code = &code, .units = 1000, .predicted_ns = 1000000, .signal = true};
	static char units[1000];
	struct world w;

	world_open(&w, "work:15=GPUQ_EDEVICE");
	skip_cuda(&w);
	for (uint32_t k = 0; k < 3; k++) {
		struct device_args args = rig_args(&w.rig, k);
		args.pointers[0] = units;
		int r = device_launch(w.rig.stream, &kernel, &args);
		assert_true(r == 0 || r == -GPUQ_EDEVICE);
	}
	await_failure(&w);
	device_stream_destroy(w.rig.stream);
	/* Of twelve pieces each: the first was whole, the second has lost its third. */
	assert_true(device_done(&w.rig.words[0], 1));
	assert_int_equal(w.rig.words[1].word, 0);
	assert_int_equal(w.rig.words[2].word, 0);
	for (uint32_t i = 0; i < 1000; i++)
		assert_in_range(units[i], 1, 2);
	w.rig.stream = NULL;
	world_close(&w);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_serves_on),
		HARNESS_TEST(test_cannot_open),
		HARNESS_TEST(test_fails_for_good),
		HARNESS_TEST(test_fails_with_work_in_flight),
		HARNESS_TEST(test_fails_in_a_replay),
		HARNESS_TEST(test_fails_by_a_real_fault),
		HARNESS_TEST(test_fails_in_pieces),
	};

	return harness_run("device-faults", tests, sizeof(tests) / sizeof(tests[0]));
}
