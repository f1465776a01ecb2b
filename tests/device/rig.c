/* SPDX-License-Identifier: MIT */
/* rig.c: the device under test and small work for it; see rig.h. */
#include "tests/device/rig.h"

#include "kernels/ops.h"
#include "shm/segment.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATIENCE_NS 10000000000u
#define HEAVY_CPU (4u << 20)
#define HEAVY_CUDA (256u << 20)

/* Cells that the rig keeps for itself. */
enum { CELL_MINUS_ONE = RIG_CELLS - 1, CELL_NUMBERS = RIG_CELLS - 1024 };

struct device_options rig_options(const struct rig *rig, const char *faults)
{
	const char *kind = getenv("GPUQ_TEST_DEVICE");
	struct device_options options = {
		.kind = kind != NULL ? kind : "cpu",
		.workers = 3,
		.resident = true,
		.wake_fd = rig->wake_fd,
		.faults = faults,
	};

	clock_calibrate(&options.clock);
	return options;
}

void rig_poison(struct rig *rig)
{
	for (uint32_t i = 0; i < CELL_NUMBERS; i++)
		rig->cells[i] = RIG_POISON;
	for (uint32_t i = CELL_NUMBERS; i < RIG_CELLS; i++)
		rig->cells[i] = (float)(i - CELL_NUMBERS);
	rig->cells[CELL_MINUS_ONE] = -1;
}

void rig_open(struct rig *rig, const char *faults)
{
	char why[192];

	memset(rig, 0, sizeof(*rig));
	rig->wake_fd = bell_eventfd();
	const struct device_options options = rig_options(rig, faults);
	int r = device_open(&options, &rig->device, why);
	if (r == -GPUQ_ENODEV)
		harness_skip("%s", why);
	if (r < 0)
		fail_msg("device_open: %d, %s", r, why);
	device_info(rig->device, &rig->info);
	rig->cuda = strcmp(rig->info.kind, "cuda") == 0;
	if (rig->cuda)
		harness_keep_fds();
	rig->heavy_bytes = rig->cuda ? HEAVY_CUDA : HEAVY_CPU;
	assert_int_equal(
		device_stream_create(rig->device, DEVICE_PRIORITY_NORMAL, &rig->stream), 0);
	assert_int_equal(device_stream_create(rig->device, DEVICE_PRIORITY_NORMAL, &rig->other), 0);
	assert_int_equal(device_alloc(rig->device, DEVICE_PINNED, RIG_WORDS * sizeof(*rig->words),
				 (void **)&rig->words),
		0);
	memset(rig->words, 0, RIG_WORDS * sizeof(*rig->words));
	assert_int_equal(device_alloc(rig->device, DEVICE_PINNED, RIG_CELLS * sizeof(*rig->cells),
				 (void **)&rig->cells),
		0);
	assert_int_equal(
		device_alloc(rig->device, DEVICE_WORK, rig->heavy_bytes, (void **)&rig->heavy), 0);
	rig_poison(rig);
}

void rig_close(struct rig *rig)
{
	device_stream_destroy(rig->stream);
	device_stream_destroy(rig->other);
	device_free(rig->device, DEVICE_PINNED, rig->words);
	device_free(rig->device, DEVICE_PINNED, rig->cells);
	device_free(rig->device, DEVICE_WORK, rig->heavy);
	device_close(rig->device);
	close(rig->wake_fd);
}

struct device_args rig_args(struct rig *rig, uint32_t word)
{
	assert_true(word < RIG_WORDS);
	return (struct device_args){.completion = &rig->words[word], .value = ++rig->value};
}

void rig_await(struct rig *rig, uint32_t word, uint64_t value)
{
	const uint64_t until = clock_monotonic_ns() + PATIENCE_NS * harness_slowness();

	while (!device_done(&rig->words[word], value)) {
		if (clock_monotonic_ns() > until)
			fail_msg("word %u is %llu, not %llu", word,
				(unsigned long long)shm_load_relaxed(&rig->words[word].word),
				(unsigned long long)value);
		sched_yield();
	}
}

void rig_finish(struct rig *rig, struct device_stream *stream)
{
	assert_int_equal(device_stream_wait(stream), 0);
	assert_int_equal(device_stream_query(stream), 1);
}

void rig_load(struct rig *rig, struct device_stream *stream, uint32_t times)
{
	for (uint32_t i = 0; i < times; i++)
		assert_int_equal(device_fill(stream, rig->heavy, (uint8_t)i, rig->heavy_bytes), 0);
}

static struct tensor number(uint32_t rank, float *data)
{
	return (struct tensor){
		.data = data, .dtype = GPUQ_F32, .rank = rank, .dims = {1, rank > 1}};
}

void affine_init(struct affine *a, float *x, float *w, float *b, float *y)
{
	memset(a, 0, sizeof(*a));
	a->launch.call = (struct op_call){
		.op = &op_gemv_batched,
		.in = {number(2, x), number(2, w), number(1, b)},
		.out = {number(2, y)},
	};
	memset(a->launch.in, OP_FIXED, sizeof(a->launch.in));
	memset(a->launch.out, OP_FIXED, sizeof(a->launch.out));
	memset(a->launch.params, OP_FIXED, sizeof(a->launch.params));
	a->kernel = (struct device_kernel){
		.code = op_code(&op_gemv_batched),
		.shape = &a->launch,
		.shape_bytes = sizeof(a->launch),
		.units = op_gemv_batched.units(&a->launch.call),
	};
}

static int chain_link(struct rig *rig, struct device_stream *stream, uint32_t i, uint32_t n,
	bool ends, const struct device_args *args)
{
	/* Launched directly a shape stays in place until its work has ended. */
	static struct affine links[1024];
	struct affine *a = &links[i];

	affine_init(a, &rig->cells[i], &rig->cells[CELL_MINUS_ONE], &rig->cells[CELL_NUMBERS + i],
		&rig->cells[i + 1]);
	if (ends && i == 0)
		a->launch.in[0] = 0;
	if (ends && i + 1 == n)
		a->launch.out[0] = 1;
	a->kernel.signal = i + 1 == n;
	return device_launch(stream, &a->kernel, args);
}

int rig_chain(struct rig *rig, struct device_stream *stream, uint32_t n, bool ends,
	const struct device_args *args)
{
	int r = 0;

	assert_true(n < 1023);
	for (uint32_t i = 0; i < n && r == 0; i++)
		r = chain_link(rig, stream, i, n, ends, args);
	return r;
}

float rig_chain_end(uint32_t n, float from)
{
	for (uint32_t i = 0; i < n; i++)
		from = (float)i - from;
	return from;
}

struct device_exec *rig_chain_exec(struct rig *rig, struct device_stream *stream, uint32_t n)
{
	struct device_graph *graph;
	struct device_exec *exec;

	assert_int_equal(device_capture_begin(stream), 0);
	assert_int_equal(rig_chain(rig, stream, n, true, NULL), 0);
	assert_int_equal(device_capture_end(stream, &graph), 0);
	assert_int_equal(device_graph_nodes(graph), n);
	assert_int_equal(device_exec_create(rig->device, graph, &exec), 0);
	device_graph_destroy(graph);
	return exec;
}

void rig_check_usable(struct rig *rig)
{
	struct device_stream *stream;
	struct device_args args = rig_args(rig, 0);

	assert_int_equal(device_check(rig->device), 0);
	assert_int_equal(device_stream_create(rig->device, DEVICE_PRIORITY_NORMAL, &stream), 0);
	rig_poison(rig);
	rig->cells[0] = 7;
	assert_int_equal(rig_chain(rig, stream, 3, false, &args), 0);
	rig_await(rig, 0, args.value);
	assert_float_equal(rig->cells[3], rig_chain_end(3, 7), 0);
	rig_finish(rig, stream);
	device_stream_destroy(stream);
}
