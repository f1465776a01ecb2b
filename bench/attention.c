/* SPDX-License-Identifier: MIT */
/*
 * attention.c: paged_attention over sequences of 1000 to 1500 tokens whose blocks lie strewn about,
 * one new token for each, beside reading and copying the same memory on the same workers: what a
 * byte of the cache costs at least. By this process itself, on one worker and on all, and beside
 * PyTorch's attention over contiguous keys and values where PyTorch is.
 */
#include "bench/bench.h"

#include "kernels/launch.h"
#include "kernels/ops.h"

#include <torch_attention.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEQUENCES 50
#define SHORTEST 1000
#define LONGEST 1500
#define BLOCK 16
#define LENGTH ((LONGEST + BLOCK - 1) / BLOCK)
#define ROUNDS 10
#define SAMPLES 20
#define PIECE (1u << 20) /* bytes of a unit of reading and copying */
#define TARGET 0.8	 /* of the bytes a second that are read */

struct shape {
	const char *title; /* known to torch_attention.py too */
	uint32_t dtype;
	uint64_t heads, key_heads, columns;
};

static const struct shape shapes[] = {
	{"f32, 32 heads of 64", GPUQ_F32, 32, 32, 64},
	{"bf16, 32 heads of 64 over 8", GPUQ_BF16, 32, 8, 64},
};
#define N_SHAPES (sizeof(shapes) / sizeof(shapes[0]))

struct attention {
	struct device *device;
	struct device_stream *stream;
	bool is_cpu;
	struct op_launch launch;
	struct device_args args;
	void *data[GPUQ_MAX_TENSORS]; /* as args.pointers */
	uint64_t cache_bytes;
};

/* --- What is measured ---------------------------------------------------------------------- */

/* Each launch is seen to its end by a wait that leaves the CPU to the workers. */
static int launch(
	struct attention *a, const struct device_kernel *kernel, const struct device_args *args)
{
	int r = device_launch(a->stream, kernel, args);

	return r == 0 ? device_stream_wait(a->stream) : r;
}

static int read_trip(void *state)
{
	struct attention *a = state;
	const struct device_args args = {.pointers = {a->data[1]}};
	const struct bandwidth all = {a->cache_bytes, PIECE};
	const struct device_kernel kernel = bandwidth_kernel(&all, false);

	return launch(a, &kernel, &args);
}

/* Half the bytes are read and half are written: as many as attention reads. */
static int copy_trip(void *state)
{
	struct attention *a = state;
	const struct bandwidth half = {a->cache_bytes / 2 / PIECE * PIECE, PIECE};
	const struct device_args args = {.pointers = {a->data[1], (char *)a->data[1] + half.bytes}};
	const struct device_kernel kernel = bandwidth_kernel(&half, true);
	int r;

	if (a->is_cpu)
		return launch(a, &kernel, &args);
	r = device_copy(a->stream, args.pointers[1], args.pointers[0], half.bytes);
	return r == 0 ? device_stream_wait(a->stream) : r;
}

static int attention_trip(void *state)
{
	struct attention *a = state;
	const struct device_kernel kernel = {.code = op_code(&op_paged_attention),
		.shape = &a->launch,
		.shape_bytes = sizeof(a->launch),
		.units = op_paged_attention.units(&a->launch.call),
		.predicted_ns = UINT64_MAX};

	return launch(a, &kernel, &a->args);
}

static int run_read(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	return sample_back_to_back(clock, ret_ns, n, read_trip, state);
}

static int run_copy(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	return sample_back_to_back(clock, ret_ns, n, copy_trip, state);
}

static int run_attention(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	return sample_back_to_back(clock, ret_ns, n, attention_trip, state);
}

/* --- Preparation --------------------------------------------------------------------------- */

/* Contexts, and blocks in any order; always the same ones. Block 0 is nobody's. */
static uint64_t fill_tables(int32_t *table, int32_t *positions, int32_t *rows)
{
	uint64_t bits = 88172645463325252u;
	int32_t n = 0;

	for (int32_t i = 0; i < SEQUENCES; i++) {
		rows[i] = i;
		positions[i] = SHORTEST - 1 + i * (LONGEST - SHORTEST) / (SEQUENCES - 1);
		for (int32_t at = 0; at <= positions[i] / BLOCK; at++) {
			int32_t *entry = &table[i * LENGTH + at], *other;
			int32_t row, length;

			bits ^= bits << 13;
			bits ^= bits >> 7;
			bits ^= bits << 17;
			row = (int32_t)(bits % (uint64_t)(i + 1));
			length = (row == i ? at : positions[row] / BLOCK) + 1;
			other = &table[row * LENGTH + (int32_t)(bits >> 33) % length];
			/* Changes places with any block so far, which may be itself. */
			*entry = ++n;
			*entry = *other;
			*other = n;
		}
	}
	return (uint64_t)n + 1;
}

static void set_shapes(struct op_call *call, const struct shape *s, uint64_t blocks)
{
	*call = (struct op_call){.op = &op_paged_attention,
		.in = {{.dtype = GPUQ_F32, .rank = 3, .dims = {SEQUENCES, s->heads, s->columns}},
			{.dtype = s->dtype,
				.rank = 5,
				.dims = {blocks, 2, s->key_heads, BLOCK, s->columns}},
			{.dtype = GPUQ_I32, .rank = 2, .dims = {SEQUENCES, LENGTH}},
			{.dtype = GPUQ_I32, .rank = 1, .dims = {SEQUENCES}},
			{.dtype = GPUQ_I32, .rank = 1, .dims = {SEQUENCES}},
			{.dtype = GPUQ_U8, .rank = 1, .dims = {LENGTH * BLOCK}}},
		.out = {{.dtype = GPUQ_F32, .rank = UINT32_MAX},
			{.dtype = GPUQ_F32, .rank = UINT32_MAX}}};
}

static int allocate(struct attention *a, const struct op_call *call)
{
	int r = 0;

	for (uint32_t i = 0; i < GPUQ_MAX_TENSORS && r == 0; i++) {
		const bool is_input = i < GPUQ_MAX_INPUTS;
		const struct tensor *t = is_input ? &call->in[i] : &call->out[i - GPUQ_MAX_INPUTS];
		uint64_t elements, bytes;

		if (!tensor_present(t) || tensor_size(t, &elements, &bytes) != 0)
			continue;
		r = device_alloc(a->device, DEVICE_WORK, bytes, &a->data[i]);
		/* An ordinary number in every type. */
		if (r == 0 && t->dtype != GPUQ_I32)
			r = device_fill(a->stream, a->data[i], 0x3c, bytes);
		if (i == 1)
			a->cache_bytes = bytes;
	}
	return r == 0 ? device_stream_wait(a->stream) : r;
}

static int prepare(struct attention *a, const struct shape *s)
{
	static int32_t table[SEQUENCES * LENGTH], positions[SEQUENCES], rows[SEQUENCES];
	struct op_call call;
	uint32_t arg;

	set_shapes(&call, s, fill_tables(table, positions, rows));
	int r = op_check(&call, &arg);
	if (r == 0)
		r = allocate(a, &call);
	if (r == 0)
		r = device_copy(a->stream, a->data[2], table, sizeof(table));
	if (r == 0)
		r = device_copy(a->stream, a->data[3], positions, sizeof(positions));
	if (r == 0)
		r = device_copy(a->stream, a->data[4], rows, sizeof(rows));
	if (r == 0)
		r = device_stream_wait(a->stream);
	if (r < 0)
		return r;
	op_launch_init(&a->launch, &call);
	op_args(&a->args, &call);
	memcpy(a->args.pointers, a->data, sizeof(a->args.pointers));
	return 0;
}

static void attention_close(struct attention *a)
{
	for (uint32_t i = 0; i < GPUQ_MAX_TENSORS; i++) {
		device_free(a->device, DEVICE_WORK, a->data[i]);
	}
	device_stream_destroy(a->stream);
	device_close(a->device);
}

static int attention_open(
	struct bench *b, const struct shape *s, uint32_t workers, struct attention *a)
{
	const struct device_options options = {
		.kind = b->device, .workers = workers, .clock = b->clock, .wake_fd = -1};
	char why[192] = "";

	*a = (struct attention){.is_cpu = strcmp(b->device, "cpu") == 0};
	cpus_free(0); /* the workers' */
	int r = device_open(&options, &a->device, why);
	if (r == 0)
		r = device_stream_create(a->device, DEVICE_PRIORITY_HIGH, &a->stream);
	if (r == 0)
		r = prepare(a, s);
	if (r < 0) {
		complain(r, "attention on device %s: %s", b->device, why);
		attention_close(a);
	}
	return r;
}

/* --- Tables -------------------------------------------------------------------------------- */

static double rate(const struct attention *a, const struct contender *c)
{
	return (double)a->cache_bytes / series_typical_ns(&c->series);
}

static void report(struct bench *b, const struct attention *a, const char *title,
	const struct contender *set, const json_t *torch, const char *torch_title)
{
	/* A GPU has no code that only reads. */
	const uint32_t first = a->is_cpu ? 0 : 1;
	struct contender row;

	report_table(b, title, set[first].name, &set[first], 3 - first);
	report_check_at_least(b, rate(a, &set[2]) / rate(a, &set[first]), TARGET,
		"%s: bytes/s over %s", title, set[first].name);
	report_figure(b, rate(a, &set[2]) / rate(a, &set[1]), "%s: bytes/s over copy", title);
	report_figure(b, rate(a, &set[2]), "%s: GB/s", title);
	if (torch_row(torch, a->is_cpu ? "ops" : "cuda_eager", torch_title,
		    series_typical_ns(&set[first].series), &row) < 0)
		return;
	report_check_at_least(b,
		(double)series_quantile_ns(&row.series, 0.5) / series_typical_ns(&set[2].series), 1,
		"%s: speed over PyTorch, contiguous", title);
	contenders_free(&row, 1);
}

static json_t *measure_torch(const struct bench *b, uint32_t workers)
{
	char threads[16];
	const char *const arguments[] = {"20", b->device, threads, NULL};

	snprintf(threads, sizeof(threads), "%u", workers);
	cpus_free(0);
	return python_measure(b, "PyTorch", torch_attention_py, arguments);
}

static int measure(struct bench *b, const struct shape *s, uint32_t workers, const json_t *torch)
{
	struct attention a;
	char title[96];
	int r = attention_open(b, s, workers, &a);

	if (r < 0)
		return r;
	snprintf(title, sizeof(title), "attention, %s, %.2f GB, %u worker%s", s->title,
		(double)a.cache_bytes / 1e9, workers, workers > 1 ? "s" : "");
	struct contender set[] = {{.name = "read", .state = &a, .run = run_read},
		{.name = "copy", .state = &a, .run = run_copy},
		{.name = "paged_attention", .state = &a, .run = run_attention}};
	for (uint32_t i = 0; i < 3; i++)
		set[i].per_round = per_round(b, SAMPLES, ROUNDS);
	r = a.is_cpu ? contenders_measure(b, set, 3, ROUNDS)
		     : contenders_measure(b, set + 1, 2, ROUNDS);
	if (r == 0)
		report(b, &a, title, set, torch, s->title);
	contenders_free(set, 3);
	attention_close(&a);
	return r;
}

int bench_attention(struct bench *b)
{
	const uint32_t most = strcmp(b->device, "cpu") == 0 ? cpus_count() : 1;
	int r = 0;

	for (uint32_t workers = 1; r == 0; workers = most) {
		json_t *torch = measure_torch(b, workers);

		for (uint32_t i = 0; i < N_SHAPES && r == 0; i++)
			r = measure(b, &shapes[i], workers, torch);
		json_decref(torch);
		if (workers == most)
			break;
	}
	return r;
}
