/* SPDX-License-Identifier: MIT */
/* test-streams.c: streams, priorities, events and completion words. */
#include "tests/device/rig.h"

#include "shm/segment.h"

#include <poll.h>
#include <string.h>
#include <unistd.h>

#define TRIES 50u /* of what should be seen but need not be, each time */

static void test_order(void **state)
{
	struct rig rig;

	rig_open(&rig, NULL);
	for (uint32_t n = 1; n <= 40; n++) {
		const struct device_args args = rig_args(&rig, 0);

		rig_poison(&rig);
		rig.cells[0] = (float)n;
		assert_int_equal(rig_chain(&rig, rig.stream, n, false, &args), 0);
		rig_await(&rig, 0, args.value);
		assert_float_equal(rig.cells[n], rig_chain_end(n, (float)n), 0);
	}
	rig_close(&rig);
}

/* The word comes after the data, every time. */
static void test_word_after_data(void **state)
{
	struct affine a;
	struct rig rig;

	rig_open(&rig, NULL);
	affine_init(&a, &rig.cells[0], &rig.cells[1], &rig.cells[2], &rig.cells[3]);
	a.kernel.signal = true;
	rig.cells[1] = 1;
	rig.cells[2] = 1;
	for (uint32_t i = 0; i < 3000; i++) {
		const struct device_args args = rig_args(&rig, i % 3);
		const struct device_completion *word = &rig.words[i % 3];

		rig.cells[0] = (float)i;
		assert_int_equal(device_launch(rig.stream, &a.kernel, &args), 0);
		rig_await(&rig, i % 3, args.value);
		assert_float_equal(rig.cells[3], i + 1.0f, 0);
		assert_true(word->ended_ns >= word->started_ns);
		assert_int_equal(word->status, 0);
	}
	rig_close(&rig);
}

/* As many as the stream takes; each has its own word, its own value, its own arguments. */
static void test_many_in_flight(void **state)
{
	static struct affine a[RIG_WORDS];
	struct rig rig;
	uint32_t n = 0;

	rig_open(&rig, NULL);
	rig.cells[0] = 1;
	const uint64_t first = rig.value + 1;
	for (; n < RIG_WORDS; n++) {
		const struct device_args args = rig_args(&rig, n);
		struct affine *k = &a[n];

		affine_init(k, &rig.cells[n], &rig.cells[0], &rig.cells[0], &rig.cells[n + 1]);
		k->kernel.signal = true;
		int r = device_launch(rig.stream, &k->kernel, &args);
		if (r == -EAGAIN)
			break;
		assert_int_equal(r, 0);
	}
	assert_true(n >= 16);
	rig_finish(&rig, rig.stream);
	for (uint32_t i = 0; i < n; i++) {
		assert_true(device_done(&rig.words[i], first + i));
		assert_float_equal(rig.cells[i + 1], i + 2.0f, 0);
	}
	/* What was refused did nothing, and there is room again. */
	for (uint32_t i = n; i < RIG_WORDS; i++)
		assert_int_equal(rig.words[i].word, 0);
	rig_check_usable(&rig);
	rig_close(&rig);
}

/* A stream that holds all it can refuses every kind of command, and then takes all of them. */
static void test_full(void **state)
{
	struct device_event *event;
	struct device_exec *exec;
	struct rig rig;
	int r = 0;

	rig_open(&rig, NULL);
	exec = rig_chain_exec(&rig, rig.stream, 2);
	assert_int_equal(device_event_create(rig.device, &event), 0);
	for (uint32_t i = 0; i < 1000 && r == 0; i++)
		r = device_fill(rig.stream, rig.heavy, 1, rig.heavy_bytes / 4);
	if (r == 0) {
		rig_finish(&rig, rig.stream);
		device_event_destroy(event);
		device_exec_destroy(exec);
		rig_close(&rig);
		harness_skip("this device's streams hold more than 1,000 commands");
	}
	assert_int_equal(r, -EAGAIN);
	rig_finish(&rig, rig.stream);
	struct device_args args = rig_args(&rig, 1);
	args.pointers[0] = &rig.cells[100];
	args.pointers[1] = &rig.cells[200];
	rig.cells[100] = 3;
	assert_int_equal(device_event_record(event, rig.stream), 0);
	assert_int_equal(device_exec_launch(exec, rig.stream, &args), 0);
	rig_await(&rig, 1, args.value);
	assert_float_equal(rig.cells[200], rig_chain_end(2, 3), 0);
	device_event_destroy(event);
	device_exec_destroy(exec);
	rig_close(&rig);
}

static void test_signal(void **state)
{
	struct rig rig;

	rig_open(&rig, NULL);
	/* In a stream that has nothing to do. */
	struct device_args args = rig_args(&rig, 0);
	assert_int_equal(device_signal(rig.stream, &args), 0);
	rig_await(&rig, 0, args.value);
	for (uint32_t i = 0; i < 100; i++) {
		args = rig_args(&rig, 1);
		rig.cells[1] = RIG_POISON;
		rig.cells[0] = (float)i;
		assert_int_equal(
			device_copy(rig.stream, &rig.cells[1], &rig.cells[0], sizeof(float)), 0);
		assert_int_equal(device_signal(rig.stream, &args), 0);
		rig_await(&rig, 1, args.value);
		assert_float_equal(rig.cells[1], (float)i, 0);
	}
	/* Nobody waits: nothing is written. */
	args.completion = NULL;
	assert_int_equal(device_signal(rig.stream, &args), 0);
	rig_finish(&rig, rig.stream);
	rig_close(&rig);
}

/* What one stream has to do does not keep another from ending first. */
static void test_side_by_side(void **state)
{
	struct rig rig;
	bool overtaken = false;

	rig_open(&rig, NULL);
	for (uint32_t i = 0; i < TRIES && !overtaken; i++) {
		const struct device_args slow = rig_args(&rig, 0), fast = rig_args(&rig, 1);

		rig_load(&rig, rig.stream, 20);
		assert_int_equal(device_signal(rig.stream, &slow), 0);
		assert_int_equal(device_signal(rig.other, &fast), 0);
		rig_await(&rig, 1, fast.value);
		overtaken = !device_done(&rig.words[0], slow.value);
		rig_await(&rig, 0, slow.value);
		/* Where all share one CPU only the times tell. */
		overtaken |= rig.words[1].ended_ns < rig.words[0].ended_ns;
	}
	assert_true(overtaken);
	rig_close(&rig);
}

static void test_priorities(void **state)
{
	struct device_stream *streams[3], *none = NULL;
	struct rig rig;

	rig_open(&rig, NULL);
	for (uint32_t p = DEVICE_PRIORITY_HIGH; p <= DEVICE_PRIORITY_LOW; p++) {
		const struct device_args args = rig_args(&rig, p);

		assert_int_equal(device_stream_create(rig.device, p, &streams[p]), 0);
		assert_int_equal(device_signal(streams[p], &args), 0);
		rig_await(&rig, p, args.value);
	}
	assert_int_equal(device_stream_create(rig.device, DEVICE_PRIORITY_LOW + 1, &none), -EINVAL);
	assert_null(none);
	for (uint32_t p = DEVICE_PRIORITY_HIGH; p <= DEVICE_PRIORITY_LOW; p++)
		device_stream_destroy(streams[p]);
	device_stream_destroy(NULL);
	rig_close(&rig);
}

/* Streams come and go, some with work in flight, and more than there may be at once. */
static void test_streams_come_and_go(void **state)
{
	struct device_stream *stream;
	struct rig rig;

	rig_open(&rig, NULL);
	for (uint32_t i = 0; i < 300; i++) {
		const struct device_args args = rig_args(&rig, 0);

		assert_int_equal(device_stream_create(rig.device, i % 3, &stream), 0);
		assert_int_equal(device_stream_query(stream), 1);
		rig.cells[0] = (float)i;
		assert_int_equal(rig_chain(&rig, stream, 3, false, &args), 0);
		device_stream_destroy(stream);
		assert_true(device_done(&rig.words[0], args.value));
		assert_float_equal(rig.cells[3], rig_chain_end(3, (float)i), 0);
	}
	rig_close(&rig);
}

/* --- Events ------------------------------------------------------------------------------- */

static void test_event_never_recorded(void **state)
{
	const struct device_args *none = NULL;
	struct device_event *event;
	struct rig rig;

	rig_open(&rig, NULL);
	assert_int_equal(device_event_create(rig.device, &event), 0);
	assert_int_equal(device_event_query(event), 1);
	assert_int_equal(device_event_await(event, rig.stream), 0);
	rig_finish(&rig, rig.stream);
	assert_int_equal(device_signal(rig.stream, none), -EINVAL);
	device_event_destroy(event);
	device_event_destroy(NULL);
	rig_close(&rig);
}

static void test_event_passes(void **state)
{
	struct device_event *event;
	struct rig rig;
	bool pending = false;

	rig_open(&rig, NULL);
	assert_int_equal(device_event_create(rig.device, &event), 0);
	for (uint32_t i = 0; i < TRIES; i++) {
		const struct device_args args = rig_args(&rig, 0);

		rig_load(&rig, rig.stream, i == 0 ? 0 : 4);
		assert_int_equal(device_event_record(event, rig.stream), 0);
		pending |= device_event_query(event) == 0;
		/* In its own stream it is awaited by nobody. */
		assert_int_equal(device_event_await(event, rig.stream), 0);
		assert_int_equal(device_signal(rig.stream, &args), 0);
		rig_await(&rig, 0, args.value);
		assert_int_equal(device_event_query(event), 1);
	}
	assert_true(pending);
	device_event_destroy(event);
	rig_close(&rig);
}

/* A chain that goes through streams by turns, link by link. */
static void test_event_across_streams(void **state)
{
	enum { STREAMS = 5, LINKS = 20 };
	struct device_stream *streams[STREAMS];
	static struct affine links[LINKS];
	struct device_event *event;
	struct rig rig;

	rig_open(&rig, NULL);
	assert_int_equal(device_event_create(rig.device, &event), 0);
	for (uint32_t i = 0; i < STREAMS; i++)
		assert_int_equal(device_stream_create(rig.device, i % 3, &streams[i]), 0);
	for (uint32_t round = 0; round < 20; round++) {
		const struct device_args args = rig_args(&rig, 0);

		rig_poison(&rig);
		rig.cells[0] = (float)round;
		rig.cells[1000] = -1;
		for (uint32_t i = 0; i < LINKS; i++)
			rig.cells[1001 + i] = (float)i;
		rig_load(&rig, streams[0], round % 3);
		for (uint32_t i = 0; i < LINKS; i++) {
			struct device_stream *s = streams[i * (round + 1) % STREAMS];

			affine_init(&links[i], &rig.cells[i], &rig.cells[1000],
				&rig.cells[1001 + i], &rig.cells[i + 1]);
			links[i].kernel.signal = i + 1 == LINKS;
			assert_int_equal(i == 0 ? 0 : device_event_await(event, s), 0);
			assert_int_equal(device_launch(s, &links[i].kernel, &args), 0);
			assert_int_equal(device_event_record(event, s), 0);
		}
		rig_await(&rig, 0, args.value);
		assert_float_equal(rig.cells[LINKS], rig_chain_end(LINKS, (float)round), 0);
	}
	for (uint32_t i = 0; i < STREAMS; i++)
		device_stream_destroy(streams[i]);
	device_event_destroy(event);
	rig_close(&rig);
}

/* Who awaits an event awaits what it stood for then, whatever becomes of it. */
static void test_event_recorded_again(void **state)
{
	struct device_event *event;
	struct affine a;
	struct rig rig;

	rig_open(&rig, NULL);
	for (uint32_t i = 0; i < 20; i++) {
		const struct device_args args = rig_args(&rig, 0);
		struct device_stream *third;

		assert_int_equal(device_stream_create(rig.device, 1, &third), 0);
		assert_int_equal(device_event_create(rig.device, &event), 0);
		rig_poison(&rig);
		rig_load(&rig, rig.stream, 3);
		rig.cells[0] = 4;
		assert_int_equal(
			device_copy(rig.stream, &rig.cells[1], &rig.cells[0], sizeof(float)), 0);
		assert_int_equal(device_event_record(event, rig.stream), 0);
		assert_int_equal(device_event_await(event, rig.other), 0);
		/* In a stream that has nothing to do it has passed at once. */
		assert_int_equal(device_event_record(event, third), 0);
		if (i % 2 == 0)
			device_event_destroy(event);
		affine_init(&a, &rig.cells[1], &rig.cells[0], &rig.cells[1], &rig.cells[2]);
		a.kernel.signal = true;
		assert_int_equal(device_launch(rig.other, &a.kernel, &args), 0);
		rig_await(&rig, 0, args.value);
		assert_float_equal(rig.cells[2], 20, 0);
		device_stream_destroy(third);
		if (i % 2 == 1) {
			assert_int_equal(device_event_query(event), 1);
			device_event_destroy(event);
		}
	}
	rig_close(&rig);
}

/* Many streams wait for one event. */
static void test_event_awaited_by_many(void **state)
{
	enum { STREAMS = 20 };
	struct device_stream *streams[STREAMS];
	struct device_event *event;
	static struct affine a[STREAMS];
	struct rig rig;

	rig_open(&rig, NULL);
	assert_int_equal(device_event_create(rig.device, &event), 0);
	rig_load(&rig, rig.stream, 3);
	rig.cells[0] = 2;
	device_copy(rig.stream, &rig.cells[1], &rig.cells[0], sizeof(float));
	assert_int_equal(device_event_record(event, rig.stream), 0);
	const uint64_t first = rig.value + 1;
	for (uint32_t i = 0; i < STREAMS; i++) {
		const struct device_args args = rig_args(&rig, i);

		assert_int_equal(device_stream_create(rig.device, i % 3, &streams[i]), 0);
		assert_int_equal(device_event_await(event, streams[i]), 0);
		affine_init(&a[i], &rig.cells[1], &rig.cells[0], &rig.cells[0], &rig.cells[2 + i]);
		a[i].kernel.signal = true;
		assert_int_equal(device_launch(streams[i], &a[i].kernel, &args), 0);
	}
	for (uint32_t i = 0; i < STREAMS; i++) {
		rig_await(&rig, i, first + i);
		assert_float_equal(rig.cells[2 + i], 6, 0);
		device_stream_destroy(streams[i]);
	}
	device_event_destroy(event);
	rig_close(&rig);
}

/* --- Sleep -------------------------------------------------------------------------------- */

static void test_wake_fd(void **state)
{
	struct rig rig;

	rig_open(&rig, NULL);
	struct pollfd bell = {.fd = rig.wake_fd, .events = POLLIN};
	for (uint32_t i = 0; i < 50; i++) {
		const struct device_args args = rig_args(&rig, 0);
		uint64_t count;

		if (i % 2 == 0)
			rig_load(&rig, rig.stream, 1);
		assert_int_equal(device_signal(rig.stream, &args), 0);
		device_sleep_prepare(rig.device, true);
		while (!device_done(&rig.words[0], args.value)) {
			assert_int_equal(poll(&bell, 1, 10000), 1);
			assert_int_equal(read(bell.fd, &count, sizeof(count)), sizeof(count));
		}
		device_sleep_prepare(rig.device, false);
	}
	rig_close(&rig);
}

/* --- On the CPU, where a test can hold a worker ------------------------------------------- */

#define TURNS 40u /* of a busy stream: fewer than its ring holds */

static struct {
	uint64_t open, entered, next, order[TURNS + 1];
} gate;

static void run_gate(
	const void *shape, const struct device_args *args, uint64_t begin, uint64_t end)
{
	shm_store_release(&gate.entered, 1);
	while (shm_load_acquire(&gate.open) == 0)
		shm_pause();
}

static void run_note(
	const void *shape, const struct device_args *args, uint64_t begin, uint64_t end)
{
	gate.order[args->scalars[0]] = shm_fetch_add(&gate.next, 1);
}

/* A device with a stream of each priority, whose one worker is held by that of the second. */
static void hold_worker(struct rig *rig, struct device_stream *streams[3])
{
	static const struct device_code hold = {"hold", run_gate};
	const struct device_kernel holding = {.code = &hold, .units = 1};
	const struct device_args args = {.pointers = {NULL}};

	rig_open(rig, NULL);
	const bool cuda = rig->cuda;
	rig_close(rig);
	if (cuda)
		harness_skip("only the CPU device runs a test's own code");
	struct device_options options = rig_options(rig, NULL);
	options.workers = 1;
	options.wake_fd = rig->wake_fd = bell_eventfd();
	assert_int_equal(device_open(&options, &rig->device, NULL), 0);
	assert_int_equal(device_alloc(rig->device, DEVICE_PINNED, RIG_WORDS * sizeof(*rig->words),
				 (void **)&rig->words),
		0);
	memset(rig->words, 0, RIG_WORDS * sizeof(*rig->words));
	for (uint32_t p = 0; p < 3; p++)
		assert_int_equal(device_stream_create(rig->device, p, &streams[p]), 0);
	memset(&gate, 0, sizeof(gate));
	assert_int_equal(device_launch(streams[1], &holding, &args), 0);
	while (shm_load_acquire(&gate.entered) == 0)
		shm_pause();
}

/* Queues work that notes when it ran, under this number. */
static void note(struct rig *rig, struct device_stream *stream, uint32_t number)
{
	static const struct device_code code = {"note", run_note};
	const struct device_kernel noting = {.code = &code, .units = 1, .signal = true};
	struct device_args args = rig_args(rig, number);

	args.scalars[0] = number;
	assert_int_equal(device_launch(stream, &noting, &args), 0);
}

/* Lets the worker go and waits for all. */
static void release_worker(struct rig *rig, struct device_stream *streams[3])
{
	shm_store_release(&gate.open, 1);
	for (uint32_t p = 0; p < 3; p++) {
		rig_finish(rig, streams[p]);
		device_stream_destroy(streams[p]);
	}
	device_free(rig->device, DEVICE_PINNED, rig->words);
	device_close(rig->device);
	close(rig->wake_fd);
}

/* Three streams get work while the worker is held: the lowest priority first. */
static void test_high_priority_first(void **state)
{
	struct device_stream *streams[3];
	struct rig rig;

	hold_worker(&rig, streams);
	for (uint32_t p = 3; p-- > 0;)
		note(&rig, streams[p], p);
	release_worker(&rig, streams);
	for (uint32_t p = 0; p < 3; p++)
		assert_int_equal(gate.order[p], p);
}

/* However much there is of high priority, what is below has a turn now and then. */
static void test_low_priority_is_not_starved(void **state)
{
	for (uint32_t low = 1; low < 3; low++) {
		struct device_stream *streams[3];
		struct rig rig;

		hold_worker(&rig, streams);
		for (uint32_t i = 0; i < TURNS; i++)
			note(&rig, streams[0], i);
		note(&rig, streams[low], TURNS);
		release_worker(&rig, streams);
		assert_in_range(gate.order[TURNS], 1, TURNS / 2);
	}
}

static void run_long_piece(
	const void *shape, const struct device_args *args, uint64_t begin, uint64_t end)
{
	const uint64_t until_ns = clock_monotonic_ns() + 300000;

	shm_fetch_add(&gate.next, 1);
	while (clock_monotonic_ns() < until_ns)
		shm_pause();
}

/* Work of 20 ms is cut into pieces so short, and between two of them others get on. */
static void test_short_work_beside_long(void **state)
{
	static const struct device_code code = {"long", run_long_piece};
	const struct device_kernel kernel = {
		.code = &code, .units = 1000, .predicted_ns = TURNS * 500000};
	const struct device_args args = {.pointers = {NULL}};
	struct device_stream *streams[3], *other;
	struct rig rig;

	hold_worker(&rig, streams);
	assert_int_equal(device_stream_create(rig.device, DEVICE_PRIORITY_NORMAL, &other), 0);
	assert_int_equal(device_launch(streams[1], &kernel, &args), 0);
	for (uint32_t i = 0; i < TURNS; i++)
		note(&rig, other, i);
	shm_store_release(&gate.open, 1);
	rig_finish(&rig, other);
	device_stream_destroy(other);
	release_worker(&rig, streams);
	assert_int_equal(gate.next, 2 * TURNS);
	/* Two and two would be by turns of one piece each. */
	assert_in_range(gate.order[TURNS - 1], 0, TURNS + TURNS / 2);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_order),
		HARNESS_TEST(test_word_after_data),
		HARNESS_TEST(test_many_in_flight),
		HARNESS_TEST(test_full),
		HARNESS_TEST(test_signal),
		HARNESS_TEST(test_side_by_side),
		HARNESS_TEST(test_priorities),
		HARNESS_TEST(test_streams_come_and_go),
		HARNESS_TEST(test_event_never_recorded),
		HARNESS_TEST(test_event_passes),
		HARNESS_TEST(test_event_across_streams),
		HARNESS_TEST(test_event_recorded_again),
		HARNESS_TEST(test_event_awaited_by_many),
		HARNESS_TEST(test_wake_fd),
		HARNESS_TEST(test_high_priority_first),
		HARNESS_TEST(test_low_priority_is_not_starved),
		HARNESS_TEST(test_short_work_beside_long),
	};

	return harness_run("device-streams", tests, sizeof(tests) / sizeof(tests[0]));
}
