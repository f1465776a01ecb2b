/* SPDX-License-Identifier: MIT */
/* test-exec.c: executables: replay, parameter blocks, several at once, beside captures. */
#include "tests/device/rig.h"
#include "tests/kernels/random.h"

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

/* Launches a chain from `from` to `to` and says what the end will be. */
static float launch_chain(struct rig *rig, struct device_exec *exec, struct device_stream *stream,
	uint32_t n, uint32_t word, float *from, float *to)
{
	struct device_args args = rig_args(rig, word);

	args.pointers[0] = from;
	args.pointers[1] = to;
	assert_int_equal(device_exec_launch(exec, stream, &args), 0);
	return rig_chain_end(n, *from);
}

/* Short ones and long ones, again and again, each time with other addresses. */
static void test_replay(void **state)
{
	/* CUDA's are launched in pieces of 40, the first one of 16, with a node of its own. */
	static const uint32_t lengths[] = {1, 2, 14, 15, 16, 54, 55, 56, 95, 96, 500, 1010};
	uint64_t bytes = 0;
	struct rig rig;

	rig_open(&rig, NULL);
	for (uint32_t k = 0; k < sizeof(lengths) / sizeof(lengths[0]); k++) {
		const uint32_t n = lengths[k];
		struct device_exec *exec = rig_chain_exec(&rig, rig.stream, n);

		assert_true(device_exec_bytes(exec) > 0);
		assert_true(rig.cuda || device_exec_bytes(exec) > bytes);
		bytes = device_exec_bytes(exec);
		assert_int_equal(device_exec_upload(exec, rig.stream), 0);
		for (uint32_t i = 0; i < 30; i++) {
			float *from = &rig.cells[1100 + i], *to = &rig.cells[1200 + i];

			rig_poison(&rig);
			*from = (float)(i + k);
			float end = launch_chain(&rig, exec, rig.other, n, 0, from, to);
			rig_await(&rig, 0, rig.value);
			assert_float_equal(*to, end, 0);
		}
		device_exec_destroy(exec);
	}
	device_exec_destroy(NULL);
	rig_close(&rig);
}

/* The shape of a kernel is copied when it is recorded. */
static void test_shape_is_copied(void **state)
{
	struct device_graph *graph;
	struct device_exec *exec;
	struct affine a;
	struct rig rig;

	rig_open(&rig, NULL);
	affine_init(&a, &rig.cells[0], &rig.cells[1], &rig.cells[2], &rig.cells[3]);
	a.kernel.signal = true;
	assert_int_equal(device_capture_begin(rig.stream), 0);
	assert_int_equal(device_launch(rig.stream, &a.kernel, NULL), 0);
	assert_int_equal(device_capture_end(rig.stream, &graph), 0);
	memset(&a, 0xff, sizeof(a));
	assert_int_equal(device_exec_create(rig.device, graph, &exec), 0);
	device_graph_destroy(graph);
	rig.cells[0] = 5;
	rig.cells[1] = 6;
	rig.cells[2] = 7;
	const struct device_args args = rig_args(&rig, 0);
	assert_int_equal(device_exec_launch(exec, rig.stream, &args), 0);
	rig_await(&rig, 0, args.value);
	assert_float_equal(rig.cells[3], 37, 0);
	device_exec_destroy(exec);
	rig_close(&rig);
}

/* One graph makes several executables, and none without a signal. */
static void test_exec_create(void **state)
{
	struct device_exec *execs[3], *none = NULL;
	struct device_graph *graph;
	struct rig rig;

	rig_open(&rig, NULL);
	assert_int_equal(device_capture_begin(rig.stream), 0);
	assert_int_equal(device_fill(rig.stream, &rig.cells[0], 0, sizeof(float)), 0);
	assert_int_equal(device_capture_end(rig.stream, &graph), 0);
	assert_int_equal(device_exec_create(rig.device, graph, &none), -EINVAL);
	assert_null(none);
	device_graph_destroy(graph);

	assert_int_equal(device_capture_begin(rig.stream), 0);
	assert_int_equal(device_fill(rig.stream, &rig.cells[0], 0, sizeof(float)), 0);
	assert_int_equal(device_copy(rig.stream, &rig.cells[1], &rig.cells[0], sizeof(float)), 0);
	assert_int_equal(device_signal(rig.stream, NULL), 0);
	assert_int_equal(device_capture_end(rig.stream, &graph), 0);
	assert_int_equal(device_graph_nodes(graph), 3);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(device_exec_create(rig.device, graph, &execs[i]), 0);
	device_graph_destroy(graph);
	for (uint32_t i = 0; i < 3; i++) {
		struct device_args args = rig_args(&rig, 0);

		rig_poison(&rig);
		assert_int_equal(device_exec_launch(execs[i], rig.stream, &args), 0);
		rig_await(&rig, 0, args.value);
		assert_float_equal(rig.cells[1], 0, 0);
		args.completion = NULL;
		assert_int_equal(device_exec_launch(execs[i], rig.stream, &args), -EINVAL);
		device_exec_destroy(execs[i]);
	}
	rig_close(&rig);
}

/* A long sequence, then a second stream that takes part, then another long sequence. */
static void test_join_late(void **state)
{
	enum { LONG = 50 };
	struct device_event *events[2];
	struct device_graph *graph;
	struct device_exec *exec;
	struct rig rig;

	rig_open(&rig, NULL);
	for (uint32_t i = 0; i < 2; i++)
		assert_int_equal(device_event_create(rig.device, &events[i]), 0);
	assert_int_equal(device_capture_begin(rig.stream), 0);
	for (uint32_t i = 0; i < 3 * LONG; i++) {
		struct device_stream *on = i / LONG == 1 ? rig.other : rig.stream;

		if (i > 0 && i % LONG == 0) {
			struct device_event *event = events[i / LONG - 1];
			struct device_stream *from = on == rig.other ? rig.stream : rig.other;

			assert_int_equal(device_event_record(event, from), 0);
			assert_int_equal(device_event_await(event, on), 0);
		}
		assert_int_equal(
			device_copy(on, &rig.cells[i + 1], &rig.cells[i], sizeof(float)), 0);
	}
	assert_int_equal(device_signal(rig.stream, NULL), 0);
	assert_int_equal(device_capture_end(rig.stream, &graph), 0);
	assert_int_equal(device_exec_create(rig.device, graph, &exec), 0);
	device_graph_destroy(graph);
	for (uint32_t i = 0; i < 10; i++) {
		const struct device_args args = rig_args(&rig, 0);

		rig_poison(&rig);
		rig.cells[0] = (float)i;
		assert_int_equal(device_exec_launch(exec, rig.stream, &args), 0);
		rig_await(&rig, 0, args.value);
		assert_float_equal(rig.cells[3 * LONG], (float)i, 0);
	}
	device_exec_destroy(exec);
	for (uint32_t i = 0; i < 2; i++)
		device_event_destroy(events[i]);
	rig_close(&rig);
}

/* --- Parameter blocks --------------------------------------------------------------------- */

/*
 * An executable that takes a while and then copies one number: pointers[0] to pointers[1]. So many
 * other commands come in between.
 */
static struct device_exec *slow_exec(struct rig *rig, struct device_stream *stream, uint32_t others)
{
	struct device_graph *graph;
	struct device_exec *exec;
	struct affine a;

	affine_init(&a, NULL, &rig->cells[2000], &rig->cells[2001], NULL);
	a.launch.in[0] = 0;
	a.launch.out[0] = 1;
	a.kernel.signal = true;
	rig->cells[2000] = 1;
	rig->cells[2001] = 0;
	assert_int_equal(device_capture_begin(stream), 0);
	rig_load(rig, stream, 3);
	for (uint32_t i = 0; i < others; i++)
		assert_int_equal(
			device_fill(stream, &rig->cells[2002 + i % 8], 0, sizeof(float)), 0);
	assert_int_equal(device_launch(stream, &a.kernel, NULL), 0);
	assert_int_equal(device_capture_end(stream, &graph), 0);
	assert_int_equal(device_exec_create(rig->device, graph, &exec), 0);
	device_graph_destroy(graph);
	return exec;
}

/*
 * Launched as fast as it goes, in both streams by turns: never more than the depth at once, each
 * with its own arguments, one after another.
 */
static void check_depth(uint32_t others)
{
	enum { LAUNCHES = 60 };
	struct device_exec *exec;
	uint64_t first, refused = 0;
	struct rig rig;

	rig_open(&rig, NULL);
	exec = slow_exec(&rig, rig.stream, others);
	first = rig.value + 1;
	for (uint32_t i = 0; i < LAUNCHES; i++) {
		struct device_args args = rig_args(&rig, i);
		int r;

		args.pointers[0] = &rig.cells[i];
		args.pointers[1] = &rig.cells[100 + i];
		rig.cells[i] = (float)i;
		while ((r = device_exec_launch(exec, i % 3 == 0 ? rig.other : rig.stream, &args)) ==
			-EAGAIN) {
			refused++;
			sched_yield();
		}
		assert_int_equal(r, 0);
		/* The one that was launched now had a block, so this one has ended. */
		if (i >= DEVICE_EXEC_DEPTH)
			rig_await(&rig, i - DEVICE_EXEC_DEPTH, first + i - DEVICE_EXEC_DEPTH);
	}
	for (uint32_t i = 0; i < LAUNCHES; i++) {
		rig_await(&rig, i, first + i);
		assert_float_equal(rig.cells[100 + i], (float)i, 0);
	}
	assert_true(refused > 0);
	device_exec_destroy(exec);
	rig_close(&rig);
}

static void test_depth(void **state)
{
	check_depth(0);
}

static void test_depth_of_many_commands(void **state)
{
	check_depth(100);
}

/* Whose word is seen may be launched again at once, whose last word is seen may be destroyed. */
static void test_again_after_the_word(void **state)
{
	struct device_exec *exec;
	struct rig rig;

	rig_open(&rig, NULL);
	for (uint32_t round = 0; round < 50; round++) {
		exec = rig_chain_exec(&rig, rig.stream, 3);
		for (uint32_t i = 0; i < 20; i++) {
			float end;

			rig.cells[1000] = (float)i;
			/* Four at once, the last of which is awaited. */
			for (uint32_t k = 0; k < DEVICE_EXEC_DEPTH; k++)
				end = launch_chain(&rig, exec, rig.stream, 3, k, &rig.cells[1000],
					&rig.cells[1001 + k]);
			rig_await(&rig, DEVICE_EXEC_DEPTH - 1, rig.value);
			assert_float_equal(rig.cells[1000 + DEVICE_EXEC_DEPTH], end, 0);
		}
		device_exec_destroy(exec);
	}
	rig_close(&rig);
}

/* Launches of one executable never overlap, whatever streams they are in: it counts in a cell. */
static void test_one_after_another(void **state)
{
	enum { LAUNCHES = 200 };
	struct device_graph *graph;
	struct device_exec *exec;
	struct affine a;
	struct rig rig;

	rig_open(&rig, NULL);
	rig.cells[1] = 1;
	affine_init(&a, &rig.cells[2], &rig.cells[1], &rig.cells[1], &rig.cells[0]);
	a.kernel.signal = true;
	rig.cells[0] = 0;
	assert_int_equal(device_capture_begin(rig.stream), 0);
	assert_int_equal(device_copy(rig.stream, &rig.cells[2], &rig.cells[0], sizeof(float)), 0);
	assert_int_equal(device_launch(rig.stream, &a.kernel, NULL), 0);
	assert_int_equal(device_capture_end(rig.stream, &graph), 0);
	assert_int_equal(device_exec_create(rig.device, graph, &exec), 0);
	device_graph_destroy(graph);
	for (uint32_t i = 0; i < LAUNCHES; i++) {
		const struct device_args args = rig_args(&rig, 0);
		int r;

		while ((r = device_exec_launch(exec, i % 2 == 0 ? rig.stream : rig.other, &args)) ==
			-EAGAIN)
			sched_yield();
		assert_int_equal(r, 0);
	}
	rig_await(&rig, 0, rig.value);
	assert_float_equal(rig.cells[0], LAUNCHES, 0);
	device_exec_destroy(exec);
	rig_close(&rig);
}

/* --- Several at once ---------------------------------------------------------------------- */

static void test_two_at_once(void **state)
{
	struct device_exec *execs[2];
	struct rig rig;

	rig_open(&rig, NULL);
	struct device_stream *const streams[2] = {rig.stream, rig.other};
	for (uint32_t k = 0; k < 2; k++) {
		struct device_graph *graph;
		struct affine a;

		affine_init(&a, NULL, &rig.cells[2000 + k], &rig.cells[2001], NULL);
		a.launch.in[0] = 0;
		a.launch.out[0] = 1;
		assert_int_equal(device_capture_begin(streams[k]), 0);
		assert_int_equal(device_launch(streams[k], &a.kernel, NULL), 0);
		assert_int_equal(device_signal(streams[k], NULL), 0);
		assert_int_equal(device_capture_end(streams[k], &graph), 0);
		assert_int_equal(device_exec_create(rig.device, graph, &execs[k]), 0);
		device_graph_destroy(graph);
	}
	rig.cells[2000] = 2;
	rig.cells[2001] = 3;
	for (uint32_t i = 0; i < 500; i++) {
		const uint64_t first = rig.value + 1;

		for (uint32_t k = 0; k < 2; k++) {
			struct device_args args = rig_args(&rig, k);
			args.pointers[0] = &rig.cells[10 + k];
			args.pointers[1] = &rig.cells[20 + k];
			rig.cells[10 + k] = (float)i;
			assert_int_equal(device_exec_launch(execs[k], streams[k], &args), 0);
		}
		for (uint32_t k = 0; k < 2; k++) {
			rig_await(&rig, k, first + k);
			assert_float_equal(rig.cells[20 + k], (2.0f + k) * i + 3, 0);
		}
	}
	device_exec_destroy(execs[0]);
	device_exec_destroy(execs[1]);
	rig_close(&rig);
}

/* One thread captures, makes and destroys executables; another replays one all the time. */
struct serving {
	struct rig *rig;
	struct device_exec *exec;
	uint64_t stop, replays;
};

static void *serve(void *arg)
{
	struct serving *s = arg;
	struct rig *rig = s->rig;
	uint64_t value = 1u << 20;

	for (float i = 0; shm_load_acquire(&s->stop) == 0; i = i < 1000 ? i + 1 : 0) {
		struct device_args args = {.completion = &rig->words[9], .value = ++value};

		args.pointers[0] = &rig->cells[3000];
		args.pointers[1] = &rig->cells[3001];
		rig->cells[3000] = i;
		assert_int_equal(device_exec_launch(s->exec, rig->other, &args), 0);
		rig_await(rig, 9, value);
		assert_float_equal(rig->cells[3001], rig_chain_end(20, i), 0);
		shm_count(&s->replays, 1);
	}
	return NULL;
}

static void test_capture_beside_replay(void **state)
{
	static const uint32_t lengths[] = {20, 100, 500, 20};
	struct serving serving = {0};
	pthread_t thread;
	struct rig rig;

	rig_open(&rig, NULL);
	serving.rig = &rig;
	serving.exec = rig_chain_exec(&rig, rig.stream, 20);
	assert_int_equal(pthread_create(&thread, NULL, serve, &serving), 0);
	for (uint32_t i = 0; i < 40; i++) {
		/* From then on it takes its time. */
		if (i == 20)
			device_set_background(rig.device);
		const uint32_t n = lengths[i % 4];
		const uint64_t replays = shm_load_relaxed(&serving.replays);
		struct device_exec *exec = rig_chain_exec(&rig, rig.stream, n);

		assert_int_equal(device_exec_upload(exec, rig.stream), 0);
		/* It is not launched: the cells between its ends are the other one's too. */
		device_exec_destroy(exec);
		/* The other thread goes on: the test times out where it does not. */
		while (shm_load_relaxed(&serving.replays) == replays)
			sched_yield();
	}
	shm_store_release(&serving.stop, 1);
	pthread_join(thread, NULL);
	device_exec_destroy(serving.exec);
	rig_close(&rig);
}

/* --- Operators ---------------------------------------------------------------------------- */

struct trial {
	struct op_call call;
	uint64_t in_elements[2], out_elements;
	float *in[2], *out, *expected;
};

static void trial_open(struct rig *rig, struct trial *t, const char *name, uint64_t scale)
{
	struct random rng = {scale};
	uint64_t bytes;
	uint32_t arg;

	memset(t, 0, sizeof(*t));
	t->call.op = op_find(name, NULL);
	assert_non_null(t->call.op);
	t->call.op->example(&t->call, scale);
	for (uint32_t i = 0; i < t->call.op->n_params; i++)
		t->call.params[i].f64 = t->call.op->params[i].preset;
	for (uint32_t i = 0; i < 2 && i < t->call.op->n_inputs; i++)
		t->call.in[i].dtype = GPUQ_F32;
	t->call.out[0] = (struct tensor){.dtype = GPUQ_F32, .rank = UINT32_MAX};
	assert_int_equal(op_check(&t->call, &arg), 0);
	for (uint32_t i = 0; i < 2 && i < t->call.op->n_inputs; i++) {
		assert_int_equal(tensor_size(&t->call.in[i], &t->in_elements[i], &bytes), 0);
		assert_int_equal(
			device_alloc(rig->device, DEVICE_PINNED, bytes, (void **)&t->in[i]), 0);
		for (uint64_t k = 0; k < t->in_elements[i]; k++)
			t->in[i][k] = (float)random_unit(&rng) - 0.5f;
	}
	assert_int_equal(tensor_size(&t->call.out[0], &t->out_elements, &bytes), 0);
	assert_int_equal(device_alloc(rig->device, DEVICE_PINNED, bytes, (void **)&t->out), 0);
	assert_int_equal(device_alloc(rig->device, DEVICE_PINNED, bytes, (void **)&t->expected), 0);
	t->call.in[0].data = t->in[0];
	t->call.in[1].data = t->in[1];
	t->call.out[0].data = t->expected;
	t->call.op->reference(&t->call);
	t->call.out[0].data = t->out;
}

static void trial_check(struct trial *t)
{
	for (uint64_t i = 0; i < t->out_elements; i++) {
		const float tolerance = 1e-4f * (1 + fabsf(t->expected[i]));

		if (!(fabsf(t->out[i] - t->expected[i]) <= tolerance))
			fail_msg("%s: element %llu is %g, not %g", t->call.op->name,
				(unsigned long long)i, t->out[i], t->expected[i]);
		t->out[i] = NAN;
	}
}

static void trial_close(struct rig *rig, struct trial *t)
{
	device_free(rig->device, DEVICE_PINNED, t->in[0]);
	device_free(rig->device, DEVICE_PINNED, t->in[1]);
	device_free(rig->device, DEVICE_PINNED, t->out);
	device_free(rig->device, DEVICE_PINNED, t->expected);
}

/* Directly, and as an executable that was captured with other data. */
static void trial_run(struct rig *rig, struct trial *t, struct trial *other)
{
	struct op_launch launch;
	struct device_graph *graph;
	struct device_exec *exec;

	op_launch_init(&launch, &t->call);
	const struct device_kernel kernel = {
		.code = op_code(t->call.op),
		.shape = &launch,
		.shape_bytes = sizeof(launch),
		.signal = true,
		.units = t->call.op->units(&t->call),
		.predicted_ns = 100000, /* in pieces */
	};
	assert_string_equal(kernel.code->name, t->call.op->name);
	struct device_args args = rig_args(rig, 0);
	const struct device_args word = args;
	op_args(&args, &t->call);
	args.completion = word.completion;
	args.value = word.value;
	assert_int_equal(device_launch(rig->stream, &kernel, &args), 0);
	rig_await(rig, 0, args.value);
	trial_check(t);

	assert_int_equal(device_capture_begin(rig->stream), 0);
	assert_int_equal(device_launch(rig->stream, &kernel, NULL), 0);
	assert_int_equal(device_capture_end(rig->stream, &graph), 0);
	assert_int_equal(device_exec_create(rig->device, graph, &exec), 0);
	device_graph_destroy(graph);
	struct trial *const both[] = {t, other, t};
	for (uint32_t i = 0; i < 3; i++) {
		struct device_args next = rig_args(rig, 0);
		op_args(&args, &both[i]->call);
		args.completion = next.completion;
		args.value = next.value;
		assert_int_equal(device_exec_launch(exec, rig->other, &args), 0);
		rig_await(rig, 0, args.value);
		trial_check(both[i]);
	}
	device_exec_destroy(exec);
}

static void test_operators(void **state)
{
	static const char *const names[] = {"gemv_batched", "softmax", "price_vectors"};
	struct trial a, b;
	struct rig rig;

	rig_open(&rig, NULL);
	for (uint32_t i = 0; i < 3; i++) {
		for (uint64_t scale = 1; scale <= 256; scale *= 16) {
			trial_open(&rig, &a, names[i], scale);
			trial_open(&rig, &b, names[i], scale);
			b.in[0][0] = 0.25f;
			if (b.call.op->n_params > 0)
				b.call.params[0].f64 = 0.5;
			b.call.out[0].data = b.expected;
			b.call.op->reference(&b.call);
			b.call.out[0].data = b.out;
			trial_run(&rig, &a, &b);
			trial_close(&rig, &a);
			trial_close(&rig, &b);
		}
	}
	rig_close(&rig);
}

/* y = w x + b, whose addresses come with each launch. */
static struct device_exec *affine_exec(struct rig *rig)
{
	struct device_graph *graph;
	struct device_exec *exec;
	struct affine a;

	affine_init(&a, NULL, NULL, NULL, NULL);
	for (uint8_t i = 0; i < 3; i++)
		a.launch.in[i] = i;
	a.launch.out[0] = GPUQ_MAX_INPUTS;
	a.kernel.signal = true;
	assert_int_equal(device_capture_begin(rig->stream), 0);
	assert_int_equal(device_launch(rig->stream, &a.kernel, NULL), 0);
	assert_int_equal(device_capture_end(rig->stream, &graph), 0);
	assert_int_equal(device_exec_create(rig->device, graph, &exec), 0);
	device_graph_destroy(graph);
	return exec;
}

/* Inputs are carried, each launch its own, with up to three before it; or too much of them. */
static void test_carried(void **state)
{
	enum { LAUNCHES = 500, ALL = DEVICE_MAX_CARRIED, ONE = sizeof(float) };
	static const uint16_t sizes[][3] = {{ONE, ONE, ONE}, {0, 0, 0}, {0, ONE, 0}, {ALL, 0, 0},
		{ONE, ALL / 2 - 8, 100}, {ALL / 2, 0, ALL / 2}, {0, 600, ONE}};
	const uint32_t n_sizes = sizeof(sizes) / sizeof(sizes[0]);
	const float *from[LAUNCHES][3];
	struct device_exec *exec;
	struct device_args args;
	struct rig rig;

	rig_open(&rig, NULL);
	exec = affine_exec(&rig);
	for (uint32_t i = LAUNCHES; i < RIG_CELLS; i++)
		rig.cells[i] = (float)(i % 251);
	for (uint32_t i = 0; i < LAUNCHES; i++) {
		args = rig_args(&rig, i % DEVICE_EXEC_DEPTH);
		if (i >= DEVICE_EXEC_DEPTH)
			rig_await(&rig, i % DEVICE_EXEC_DEPTH, args.value - DEVICE_EXEC_DEPTH);
		for (uint32_t in = 0; in < 3; in++) {
			float *x = &rig.cells[LAUNCHES + in * 1000 + i];

			from[i][in] = args.pointers[in] = x;
			args.carried[in] = sizes[i % n_sizes][in];
		}
		args.pointers[GPUQ_MAX_INPUTS] = &rig.cells[i];
		assert_int_equal(device_exec_launch(exec, rig.stream, &args), 0);
	}
	rig_finish(&rig, rig.stream);
	for (uint32_t i = 0; i < LAUNCHES; i++)
		assert_float_equal(rig.cells[i], *from[i][0] * *from[i][1] + *from[i][2], 0);
	args = rig_args(&rig, 0);
	args.carried[0] = ALL - 1;
	args.carried[1] = 1;
	assert_int_equal(device_exec_launch(exec, rig.stream, &args), -EINVAL);
	device_exec_destroy(exec);
	rig_close(&rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_replay),
		HARNESS_TEST(test_shape_is_copied),
		HARNESS_TEST(test_exec_create),
		HARNESS_TEST(test_join_late),
		HARNESS_TEST(test_depth),
		HARNESS_TEST(test_depth_of_many_commands),
		HARNESS_TEST(test_again_after_the_word),
		HARNESS_TEST(test_one_after_another),
		HARNESS_TEST(test_two_at_once),
		HARNESS_TEST(test_capture_beside_replay),
		HARNESS_TEST(test_operators),
		HARNESS_TEST(test_carried),
	};

	return harness_run("device-exec", tests, sizeof(tests) / sizeof(tests[0]));
}
