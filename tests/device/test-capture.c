/* SPDX-License-Identifier: MIT */
/*
 * test-capture.c: what a capture records, what joins it, and everything that is refused meanwhile.
 * A refusal breaks the capture and nothing else.
 */
#include "tests/device/rig.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* What a refused call might touch. */
struct world {
	struct rig rig;
	struct device_event *event; /* never recorded */
	struct device_exec *exec;
	struct device_graph *graph;
	void *memory;
	struct device_export export;
	char *page, *registered;
	struct device_stream *spare;
};

#define PAGE 4096u

static void world_open(struct world *w)
{
	struct rig *rig = &w->rig;
	void *at;

	memset(w, 0, sizeof(*w));
	rig_open(rig, NULL);
	w->page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(w->page, MAP_FAILED);
	w->registered = w->page + PAGE;
	assert_int_equal(device_register(rig->device, w->registered, PAGE, &at), 0);
	assert_int_equal(device_event_create(rig->device, &w->event), 0);
	assert_int_equal(device_alloc(rig->device, DEVICE_WORK, 100, &w->memory), 0);
	assert_int_equal(device_export_create(rig->device, DEVICE_EXPORT_FD, 100, &w->export), 0);
	assert_int_equal(device_stream_create(rig->device, 1, &w->spare), 0);
	assert_int_equal(device_capture_begin(rig->stream), 0);
	assert_int_equal(rig_chain(rig, rig->stream, 2, true, NULL), 0);
	assert_int_equal(device_capture_end(rig->stream, &w->graph), 0);
	assert_int_equal(device_exec_create(rig->device, w->graph, &w->exec), 0);
}

static void world_close(struct world *w)
{
	struct rig *rig = &w->rig;

	device_graph_destroy(w->graph);
	device_exec_destroy(w->exec);
	device_event_destroy(w->event);
	if (w->memory != NULL)
		device_free(rig->device, DEVICE_WORK, w->memory);
	if (w->export.data != NULL) {
		close(w->export.fd);
		device_export_destroy(rig->device, &w->export);
	}
	if (w->registered != NULL)
		device_unregister(rig->device, w->registered);
	device_stream_destroy(w->spare);
	munmap(w->page, 2 * PAGE);
	rig_close(rig);
}

/* The capture of rig->stream has been broken; all is well again afterwards. */
static void expect_broken(struct rig *rig)
{
	struct device_graph *const untouched = (struct device_graph *)rig, *graph = untouched;

	assert_int_equal(device_capture_end(rig->stream, &graph), -ECANCELED);
	assert_ptr_equal(graph, untouched);
	assert_int_equal(device_stream_query(rig->stream), 1);
	rig_check_usable(rig);
	device_exec_destroy(rig_chain_exec(rig, rig->stream, 5));
}

/* --- What a capture is -------------------------------------------------------------------- */

static void test_nothing_runs(void **state)
{
	struct device_graph *graph;
	struct rig rig;

	rig_open(&rig, NULL);
	rig.cells[0] = 1;
	assert_int_equal(device_capture_begin(rig.stream), 0);
	assert_int_equal(device_copy(rig.stream, &rig.cells[5], &rig.cells[0], sizeof(float)), 0);
	assert_int_equal(device_fill(rig.stream, &rig.cells[6], 0, sizeof(float)), 0);
	assert_int_equal(rig_chain(&rig, rig.stream, 3, false, NULL), 0);
	assert_int_equal(device_capture_end(rig.stream, &graph), 0);
	rig_finish(&rig, rig.stream);
	assert_int_equal(device_graph_nodes(graph), 5);
	device_graph_destroy(graph);
	for (uint32_t i = 1; i < 8; i++)
		assert_float_equal(rig.cells[i], RIG_POISON, 0);
	device_graph_destroy(NULL);
	rig_close(&rig);
}

static void test_empty(void **state)
{
	struct device_graph *graph = NULL;
	struct rig rig;

	rig_open(&rig, NULL);
	assert_int_equal(device_capture_begin(rig.stream), 0);
	assert_int_equal(device_capture_end(rig.stream, &graph), -ENODATA);
	/* What does nothing is no command. */
	assert_int_equal(device_capture_begin(rig.stream), 0);
	assert_int_equal(device_copy(rig.stream, &rig.cells[0], &rig.cells[1], 0), 0);
	assert_int_equal(device_fill(rig.stream, &rig.cells[0], 0, 0), 0);
	assert_int_equal(device_capture_end(rig.stream, &graph), -ENODATA);
	assert_null(graph);
	rig_check_usable(&rig);
	rig_close(&rig);
}

static void test_end_without_begin(void **state)
{
	struct device_graph *graph = NULL;
	struct rig rig;

	rig_open(&rig, NULL);
	assert_int_equal(device_capture_end(rig.stream, &graph), -EINVAL);
	assert_null(graph);
	assert_int_equal(device_capture_begin(rig.stream), 0);
	assert_int_equal(device_capture_end(rig.other, &graph), -EINVAL);
	expect_broken(&rig);
	rig_close(&rig);
}

/* --- Refusals ----------------------------------------------------------------------------- */

static int try_alloc(struct world *w)
{
	void *data;

	return device_alloc(w->rig.device, DEVICE_WORK, 100, &data);
}

static int try_alloc_pinned(struct world *w)
{
	void *data;

	return device_alloc(w->rig.device, DEVICE_PINNED, 100, &data);
}

static int try_register(struct world *w)
{
	void *at;

	return device_register(w->rig.device, w->page, PAGE, &at);
}

static int try_export(struct world *w)
{
	struct device_export export;

	return device_export_create(w->rig.device, DEVICE_EXPORT_FD, 100, &export);
}

static int try_stream_create(struct world *w)
{
	struct device_stream *stream;

	return device_stream_create(w->rig.device, 1, &stream);
}

static int try_query(struct world *w)
{
	return device_stream_query(w->rig.stream);
}

static int try_wait(struct world *w)
{
	return device_stream_wait(w->rig.stream);
}

static int try_event_query(struct world *w)
{
	int r = device_event_record(w->event, w->rig.stream);

	return r < 0 ? r : device_event_query(w->event);
}

/* Recorded before the capture, or never: it would wait for something outside. */
static int try_await(struct world *w)
{
	return device_event_await(w->event, w->rig.stream);
}

static int try_begin_again(struct world *w)
{
	return device_capture_begin(w->rig.stream);
}

static int try_begin_another(struct world *w)
{
	return device_capture_begin(w->rig.other);
}

static int try_exec_create(struct world *w)
{
	struct device_exec *exec;

	return device_exec_create(w->rig.device, w->graph, &exec);
}

static int try_exec_upload(struct world *w)
{
	return device_exec_upload(w->exec, w->rig.stream);
}

static int try_exec_upload_elsewhere(struct world *w)
{
	return device_exec_upload(w->exec, w->rig.other);
}

static int try_exec_launch(struct world *w)
{
	const struct device_args args = rig_args(&w->rig, 0);

	return device_exec_launch(w->exec, w->rig.stream, &args);
}

static void test_refusals(void **state)
{
	static int (*const tries[])(struct world *) = {try_alloc, try_alloc_pinned, try_register,
		try_export, try_stream_create, try_query, try_wait, try_event_query, try_await,
		try_begin_again, try_begin_another, try_exec_create, try_exec_upload,
		try_exec_upload_elsewhere, try_exec_launch};
	struct world w;

	world_open(&w);
	for (uint32_t i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
		assert_int_equal(device_capture_begin(w.rig.stream), 0);
		assert_int_equal(rig_chain(&w.rig, w.rig.stream, 1, false, NULL), 0);
		int r = tries[i](&w);
		if (r != -EBUSY)
			fail_msg("try %u: %d", i, r);
		expect_broken(&w.rig);
		/* The event forgets the capture in which it was recorded. */
		assert_int_equal(device_event_record(w.event, w.rig.stream), 0);
	}
	/* Nothing was made: what is there can still be had. */
	assert_int_equal(try_register(&w), 0);
	device_unregister(w.rig.device, w.page);
	world_close(&w);
}

static void try_free(struct world *w)
{
	device_free(w->rig.device, DEVICE_WORK, w->memory);
	w->memory = NULL;
}

static void try_unregister(struct world *w)
{
	device_unregister(w->rig.device, w->registered);
	w->registered = NULL;
}

static void try_export_destroy(struct world *w)
{
	close(w->export.fd);
	device_export_destroy(w->rig.device, &w->export);
	w->export.data = NULL;
}

static void try_stream_destroy(struct world *w)
{
	device_stream_destroy(w->spare);
	w->spare = NULL;
}

static void try_exec_destroy(struct world *w)
{
	device_exec_destroy(w->exec);
	w->exec = NULL;
}

/* Destructors do their work, and the capture is broken all the same. */
static void test_destructors(void **state)
{
	static void (*const tries[])(struct world *) = {
		try_free, try_unregister, try_export_destroy, try_stream_destroy, try_exec_destroy};
	struct world w;

	world_open(&w);
	for (uint32_t i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
		assert_int_equal(device_capture_begin(w.rig.stream), 0);
		assert_int_equal(rig_chain(&w.rig, w.rig.stream, 1, false, NULL), 0);
		tries[i](&w);
		expect_broken(&w.rig);
	}
	world_close(&w);
}

/* Arguments belong to launches, and nothing follows the signal. */
static void test_bad_commands(void **state)
{
	struct affine a;
	struct rig rig;

	rig_open(&rig, NULL);
	const struct device_args args = rig_args(&rig, 0);
	affine_init(&a, &rig.cells[0], &rig.cells[1], &rig.cells[2], &rig.cells[3]);
	assert_int_equal(device_launch(rig.stream, &a.kernel, NULL), -EINVAL);
	assert_int_equal(device_signal(rig.stream, NULL), -EINVAL);
	rig_check_usable(&rig);

	assert_int_equal(device_capture_begin(rig.stream), 0);
	assert_int_equal(device_launch(rig.stream, &a.kernel, &args), -EINVAL);
	expect_broken(&rig);
	assert_int_equal(device_capture_begin(rig.stream), 0);
	assert_int_equal(device_signal(rig.stream, &args), -EINVAL);
	expect_broken(&rig);
	for (uint32_t i = 0; i < 4; i++) {
		assert_int_equal(device_capture_begin(rig.stream), 0);
		a.kernel.signal = i % 2 == 0;
		assert_int_equal(device_launch(rig.stream, &a.kernel, NULL), 0);
		assert_int_equal(i % 2 == 0 ? 0 : device_signal(rig.stream, NULL), 0);
		int r = device_signal(rig.stream, NULL);
		if (i == 1)
			r = device_fill(rig.stream, rig.cells, 0, 4);
		else if (i == 2)
			r = device_copy(rig.stream, &rig.cells[0], &rig.cells[1], 4);
		else if (i == 3)
			r = device_launch(rig.stream, &a.kernel, NULL);
		assert_int_equal(r, -EINVAL);
		expect_broken(&rig);
	}
	rig_close(&rig);
}

/* --- Streams that join -------------------------------------------------------------------- */

/* Recorded along the streams, each after the one before: event after event. */
static int record_along(struct rig *rig, struct device_stream *const *streams, uint32_t n,
	struct device_event *event)
{
	static struct affine links[64];
	int r = 0;

	for (uint32_t i = 0; i < n && r == 0; i++) {
		struct affine *a = &links[i];

		affine_init(a, &rig->cells[i], &rig->cells[1000], &rig->cells[1001 + i],
			&rig->cells[i + 1]);
		a->kernel.signal = i + 1 == n;
		r = i == 0 ? 0 : device_event_await(event, streams[i]);
		if (r == 0)
			r = device_launch(streams[i], &a->kernel, NULL);
		if (r == 0)
			r = device_event_record(event, streams[i]);
	}
	return r;
}

static void test_streams_join(void **state)
{
	struct device_stream *streams[DEVICE_CAPTURE_STREAMS + 1];
	struct device_event *event;
	struct device_graph *graph;
	struct device_exec *exec;
	struct rig rig;

	rig_open(&rig, NULL);
	assert_int_equal(device_event_create(rig.device, &event), 0);
	for (uint32_t i = 0; i < DEVICE_CAPTURE_STREAMS; i++)
		assert_int_equal(device_stream_create(rig.device, i % 3, &streams[i]), 0);
	streams[DEVICE_CAPTURE_STREAMS] = streams[0];
	assert_int_equal(device_capture_begin(streams[0]), 0);
	assert_int_equal(record_along(&rig, streams, DEVICE_CAPTURE_STREAMS + 1, event), 0);
	/* A stream that joined captures too. */
	assert_int_equal(device_capture_end(streams[0], &graph), 0);
	assert_int_equal(device_graph_nodes(graph), DEVICE_CAPTURE_STREAMS + 1);
	assert_int_equal(device_exec_create(rig.device, graph, &exec), 0);
	device_graph_destroy(graph);
	for (uint32_t round = 0; round < 3; round++) {
		const struct device_args args = rig_args(&rig, 0);

		rig_poison(&rig);
		rig.cells[0] = (float)round;
		rig.cells[1000] = -1;
		for (uint32_t i = 0; i < 64; i++)
			rig.cells[1001 + i] = (float)i;
		assert_int_equal(device_exec_launch(exec, streams[round], &args), 0);
		rig_await(&rig, 0, args.value);
		assert_float_equal(rig.cells[DEVICE_CAPTURE_STREAMS + 1],
			rig_chain_end(DEVICE_CAPTURE_STREAMS + 1, (float)round), 0);
	}
	device_exec_destroy(exec);
	for (uint32_t i = 0; i < DEVICE_CAPTURE_STREAMS; i++)
		device_stream_destroy(streams[i]);
	device_event_destroy(event);
	rig_close(&rig);
}

static void test_too_many_join(void **state)
{
	struct device_stream *streams[DEVICE_CAPTURE_STREAMS + 1];
	struct device_event *event;
	struct rig rig;

	rig_open(&rig, NULL);
	assert_int_equal(device_event_create(rig.device, &event), 0);
	streams[0] = rig.stream;
	for (uint32_t i = 1; i <= DEVICE_CAPTURE_STREAMS; i++)
		assert_int_equal(device_stream_create(rig.device, 1, &streams[i]), 0);
	assert_int_equal(device_capture_begin(rig.stream), 0);
	assert_int_equal(record_along(&rig, streams, DEVICE_CAPTURE_STREAMS + 1, event), -EINVAL);
	expect_broken(&rig);
	for (uint32_t i = 1; i <= DEVICE_CAPTURE_STREAMS; i++) {
		assert_int_equal(device_stream_query(streams[i]), 1);
		device_stream_destroy(streams[i]);
	}
	device_event_destroy(event);
	rig_close(&rig);
}

/* Who joined and is not awaited in turn is lost, and so is the capture. */
static void test_not_joined_back(void **state)
{
	struct device_event *event;
	struct affine a;
	struct rig rig;

	rig_open(&rig, NULL);
	affine_init(&a, &rig.cells[0], &rig.cells[1], &rig.cells[2], &rig.cells[3]);
	assert_int_equal(device_event_create(rig.device, &event), 0);
	for (uint32_t i = 0; i < 4; i++) {
		assert_int_equal(device_capture_begin(rig.stream), 0);
		assert_int_equal(rig_chain(&rig, rig.stream, 2, false, NULL), 0);
		assert_int_equal(device_event_record(event, rig.stream), 0);
		assert_int_equal(device_event_await(event, rig.other), 0);
		assert_int_equal(device_stream_query(rig.other), -EBUSY);
		expect_broken(&rig);

		assert_int_equal(device_capture_begin(rig.stream), 0);
		a.kernel.signal = false;
		assert_int_equal(device_launch(rig.stream, &a.kernel, NULL), 0);
		assert_int_equal(device_event_record(event, rig.stream), 0);
		assert_int_equal(device_event_await(event, rig.other), 0);
		if (i % 2 == 0)
			assert_int_equal(device_launch(rig.other, &a.kernel, NULL), 0);
		if (i / 2 == 0) {
			/* The signal must come after the other stream, too. */
			assert_int_equal(device_signal(rig.stream, NULL), -EINVAL);
		}
		expect_broken(&rig);
		assert_int_equal(device_stream_query(rig.other), 1);
	}
	device_event_destroy(event);
	rig_close(&rig);
}

/* An event of a capture means nothing outside, also when the capture has ended. */
static void test_events_of_captures(void **state)
{
	struct device_event *event;
	struct device_graph *graph;
	struct rig rig;

	rig_open(&rig, NULL);
	assert_int_equal(device_event_create(rig.device, &event), 0);
	assert_int_equal(device_capture_begin(rig.stream), 0);
	assert_int_equal(rig_chain(&rig, rig.stream, 2, false, NULL), 0);
	assert_int_equal(device_event_record(event, rig.stream), 0);
	assert_int_equal(device_capture_end(rig.stream, &graph), 0);
	device_graph_destroy(graph);
	assert_int_equal(device_event_query(event), -EBUSY);
	assert_int_equal(device_event_await(event, rig.other), -EBUSY);
	assert_int_equal(device_stream_query(rig.other), 1);
	/* Nor in another capture. */
	assert_int_equal(device_capture_begin(rig.stream), 0);
	assert_int_equal(device_event_await(event, rig.other), -EBUSY);
	expect_broken(&rig);
	assert_int_equal(device_event_record(event, rig.stream), 0);
	rig_finish(&rig, rig.stream);
	assert_int_equal(device_event_query(event), 1);
	device_event_destroy(event);
	rig_close(&rig);
}

/* --- Other threads ------------------------------------------------------------------------ */

static void *use_device(void *arg)
{
	struct world *w = arg;
	struct device_event *event;
	struct device_exec *exec;
	struct device_stream *stream;
	void *data;

	struct device_args args = rig_args(&w->rig, 3);
	args.pointers[0] = &w->rig.cells[100];
	args.pointers[1] = &w->rig.cells[200];
	w->rig.cells[100] = 1;
	assert_int_equal(device_alloc(w->rig.device, DEVICE_PINNED, 100, &data), 0);
	device_free(w->rig.device, DEVICE_PINNED, data);
	assert_int_equal(device_stream_create(w->rig.device, 1, &stream), 0);
	assert_int_equal(device_event_create(w->rig.device, &event), 0);
	assert_int_equal(device_exec_create(w->rig.device, w->graph, &exec), 0);
	assert_int_equal(device_exec_upload(exec, stream), 0);
	assert_int_equal(device_exec_launch(exec, stream, &args), 0);
	assert_int_equal(device_event_record(event, stream), 0);
	rig_await(&w->rig, 3, args.value);
	assert_float_equal(w->rig.cells[200], rig_chain_end(2, 1), 0);
	assert_int_equal(device_stream_wait(stream), 0);
	assert_int_equal(device_event_query(event), 1);
	device_exec_destroy(exec);
	device_event_destroy(event);
	device_stream_destroy(stream);
	assert_int_equal(device_check(w->rig.device), 0);
	return NULL;
}

/* Begins a capture, and runs another thread to its end meanwhile. */
static void capture_beside(struct world *w, void *(*run)(void *world))
{
	pthread_t thread;

	world_open(w);
	assert_int_equal(device_capture_begin(w->rig.stream), 0);
	assert_int_equal(device_fill(w->rig.stream, &w->rig.cells[300], 0, 4), 0);
	assert_int_equal(device_event_record(w->event, w->rig.stream), 0);
	assert_int_equal(pthread_create(&thread, NULL, run, w), 0);
	pthread_join(thread, NULL);
}

/* Only the capturing thread is refused anything. */
static void test_other_thread_is_free(void **state)
{
	struct device_graph *graph;
	struct world w;

	capture_beside(&w, use_device);
	assert_int_equal(device_fill(w.rig.stream, &w.rig.cells[301], 0, 4), 0);
	assert_int_equal(device_capture_end(w.rig.stream, &graph), 0);
	assert_int_equal(device_graph_nodes(graph), 2);
	device_graph_destroy(graph);
	world_close(&w);
}

static void *await_event(void *arg)
{
	struct world *w = arg;

	assert_int_equal(device_event_await(w->event, w->spare), -EBUSY);
	assert_int_equal(device_stream_query(w->spare), 1);
	assert_int_equal(device_capture_begin(w->spare), 0);
	device_stream_destroy(w->spare);
	w->spare = NULL;
	return NULL;
}

/* Another thread does not join, and may have a capture of its own. */
static void test_other_thread_does_not_join(void **state)
{
	struct device_graph *graph;
	struct world w;

	capture_beside(&w, await_event);
	assert_int_equal(device_capture_end(w.rig.stream, &graph), 0);
	device_graph_destroy(graph);
	world_close(&w);
}

/* --- Abandoned ---------------------------------------------------------------------------- */

static void test_stream_destroyed(void **state)
{
	struct device_event *event;
	struct device_stream *a, *b;
	struct rig rig;

	rig_open(&rig, NULL);
	assert_int_equal(device_event_create(rig.device, &event), 0);
	for (uint32_t i = 0; i < 4; i++) {
		assert_int_equal(device_stream_create(rig.device, 1, &a), 0);
		assert_int_equal(device_stream_create(rig.device, 1, &b), 0);
		assert_int_equal(device_capture_begin(a), 0);
		assert_int_equal(rig_chain(&rig, a, i, false, NULL), 0);
		if (i < 2) {
			assert_int_equal(device_event_record(event, a), 0);
			assert_int_equal(device_event_await(event, b), 0);
		}
		/* Whichever of the two goes first ends the capture. */
		device_stream_destroy(i % 2 == 0 ? a : b);
		assert_int_equal(device_stream_query(i % 2 == 0 ? b : a), i == 3 ? -EBUSY : 1);
		device_stream_destroy(i % 2 == 0 ? b : a);
		rig_check_usable(&rig);
		device_exec_destroy(rig_chain_exec(&rig, rig.stream, 5));
	}
	device_event_destroy(event);
	rig_close(&rig);
}

static void *begin_and_go(void *arg)
{
	struct rig *rig = arg;

	assert_int_equal(device_capture_begin(rig->other), 0);
	assert_int_equal(rig_chain(rig, rig->other, 2, false, NULL), 0);
	return NULL;
}

static void test_thread_gone(void **state)
{
	pthread_t thread;
	struct rig rig;

	rig_open(&rig, NULL);
	assert_int_equal(pthread_create(&thread, NULL, begin_and_go, &rig), 0);
	pthread_join(thread, NULL);
	assert_int_equal(device_capture_begin(rig.other), -EBUSY);
	device_stream_destroy(rig.other);
	rig.other = NULL;
	rig_check_usable(&rig);
	device_exec_destroy(rig_chain_exec(&rig, rig.stream, 5));
	rig_close(&rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_nothing_runs),
		HARNESS_TEST(test_empty),
		HARNESS_TEST(test_end_without_begin),
		HARNESS_TEST(test_refusals),
		HARNESS_TEST(test_destructors),
		HARNESS_TEST(test_bad_commands),
		HARNESS_TEST(test_streams_join),
		HARNESS_TEST(test_too_many_join),
		HARNESS_TEST(test_not_joined_back),
		HARNESS_TEST(test_events_of_captures),
		HARNESS_TEST(test_other_thread_is_free),
		HARNESS_TEST(test_other_thread_does_not_join),
		HARNESS_TEST(test_stream_destroyed),
		HARNESS_TEST(test_thread_gone),
	};

	return harness_run("device-capture", tests, sizeof(tests) / sizeof(tests[0]));
}
