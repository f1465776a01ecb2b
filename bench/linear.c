/* SPDX-License-Identifier: MIT */
/*
 * linear.c: the operator that most of a model's time goes to, over the matrices of a model, in each
 * type of weights, with as many rows as decoding and prefill have. Beside it reading the same
 * weights on the same workers (on a GPU: copying half of them), which no step can do without; and
 * OpenBLAS in f32 where there are so many rows that multiplying takes longer than reading.
 *
 * Each call takes the next of many copies of the matrix, so that the weights come from memory and
 * not from a cache, as in a model, where all the other matrices come between two uses of one.
 */
#include "bench/llm.h"

#include "kernels/launch.h"
#include "kernels/linear/linear.h"
#include "kernels/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS 5
#define ALL_COPIES_BYTES (256ull << 20)
#define MAX_COPIES 256u
#define PIECE (64u << 10) /* bytes of a unit of reading */
#define MAX_ROWS 256
#define BLAS_SETTLE_NS 30000000u
#define MANY_ROWS 64	    /* beside OpenBLAS from here on */
#define MOST_OF_HEAD 64	    /* rows of a step get logits */
#define FLOPS_OF_ROUND 20e9 /* of one contender, and at least two calls */

static const uint32_t row_counts[] = {1, 2, 8, 64, 256};
#define N_ROW_COUNTS (sizeof(row_counts) / sizeof(row_counts[0]))

static const struct {
	uint32_t dtype;
	const char *name;
} types[] = {{GPUQ_F32, "f32"}, {GPUQ_F16, "f16"}, {GPUQ_BF16, "bf16"}, {GPUQ_I8, "int8"}};
#define N_TYPES (sizeof(types) / sizeof(types[0]))

struct matrix {
	const char *name;
	uint64_t outputs, inputs;
};

struct linear {
	struct device *device;
	struct device_stream *stream;
	bool is_cpu, has_blas;
	uint32_t workers;
	/* Of one matrix in one type. */
	uint64_t outputs, inputs, copy_bytes;
	uint32_t dtype, copies, at;
	uint8_t *w, *floats; /* copies of the weights; x, y and scales */
	float *blas_w;	     /* one matrix; NULL: not wanted */
};

/* One number of rows. */
struct rows {
	struct linear *l;
	char name[32];
	uint32_t rows;
	struct op_launch launch;
	struct device_args args;
};

/* --- What is measured ---------------------------------------------------------------------- */

static int launch(
	const struct linear *l, const struct device_kernel *k, const struct device_args *a)
{
	int r = device_launch(l->stream, k, a);

	return r == 0 ? device_stream_wait(l->stream) : r;
}

static uint8_t *next_copy(struct linear *l)
{
	l->at = (l->at + 1) % l->copies;
	return l->w + l->at * l->copy_bytes;
}

/* On a GPU, which has no code that only reads: half the bytes to the other half. */
static int floor_trip(void *state)
{
	struct linear *l = state;
	const struct bandwidth all = {l->copy_bytes, PIECE};
	const struct device_args args = {.pointers = {next_copy(l)}};
	const struct device_kernel kernel = bandwidth_kernel(&all, false);
	const uint64_t half = l->copy_bytes / 2;
	int r;

	if (l->is_cpu)
		return launch(l, &kernel, &args);
	r = device_copy(l->stream, (uint8_t *)args.pointers[0] + half, args.pointers[0], half);
	return r == 0 ? device_stream_wait(l->stream) : r;
}

static int linear_trip(void *state)
{
	struct rows *r = state;
	const struct device_kernel kernel = {.code = op_code(&op_linear),
		.shape = &r->launch,
		.shape_bytes = sizeof(r->launch),
		.units = op_linear.units(&r->launch.call),
		.predicted_ns = UINT64_MAX};

	r->args.pointers[LINEAR_W] = next_copy(r->l);
	return launch(r->l, &kernel, &r->args);
}

static float *x_of(const struct linear *l)
{
	return (float *)l->floats;
}

static float *y_of(const struct linear *l)
{
	return x_of(l) + MAX_ROWS * l->inputs;
}

static int blas_trip(void *state)
{
	const struct rows *r = state;
	const struct linear *l = r->l;

	blas_linear(x_of(l), l->blas_w, y_of(l), r->rows, l->outputs, l->inputs);
	return 0;
}

static int run_floor(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	return sample_back_to_back(clock, ret_ns, n, floor_trip, state);
}

static int run_linear(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	return sample_back_to_back(clock, ret_ns, n, linear_trip, state);
}

static int run_blas(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	return sample_back_to_back(clock, ret_ns, n, blas_trip, state);
}

/* --- Preparation --------------------------------------------------------------------------- */

static int rows_prepare(struct linear *l, uint32_t n, const char *name, struct rows *r)
{
	struct op_call call = {.op = &op_linear,
		.in = {[LINEAR_X] = {.dtype = GPUQ_F32, .rank = 2, .dims = {n, l->inputs}},
			[LINEAR_W] = {.dtype = l->dtype,
				.rank = 2,
				.dims = {l->outputs, l->inputs}}},
		.out = {{.dtype = GPUQ_F32, .rank = 2, .dims = {n, l->outputs}}},
		.params = {[LINEAR_EPS] = {.f64 = op_linear.params[LINEAR_EPS].preset}}};
	uint32_t arg;

	call.in[LINEAR_X].data = x_of(l);
	call.out[0].data = y_of(l);
	if (l->dtype == GPUQ_I8)
		call.in[LINEAR_SCALES] = (struct tensor){.dtype = GPUQ_F32,
			.rank = 1,
			.dims = {l->outputs},
			.data = y_of(l) + MAX_ROWS * l->outputs};
	*r = (struct rows){.l = l, .rows = n};
	snprintf(r->name, sizeof(r->name), "%s, m = %u", name, n);
	int e = op_check(&call, &arg);
	if (e < 0)
		return e;
	op_launch_init(&r->launch, &call);
	op_args(&r->args, &call);
	return 0;
}

static int fill(const struct linear *l, void *data, uint64_t bytes)
{
	/* An ordinary number in every type. */
	int e = device_fill(l->stream, data, 0x3c, bytes);

	return e == 0 ? device_stream_wait(l->stream) : e;
}

static int matrix_alloc(struct linear *l, const struct matrix *m, uint32_t dtype)
{
	const uint64_t bytes = m->outputs * m->inputs * dtype_size(dtype);
	const uint64_t floats = MAX_ROWS * (m->inputs + m->outputs) + m->outputs;
	uint64_t copies = ALL_COPIES_BYTES / bytes;

	copies = copies < MAX_COPIES ? copies : MAX_COPIES;
	l->outputs = m->outputs;
	l->inputs = m->inputs;
	l->copy_bytes = bytes;
	l->dtype = dtype;
	l->copies = copies > 0 ? (uint32_t)copies : 1;
	l->at = 0;
	int e = device_alloc(l->device, DEVICE_WORK, l->copies * bytes, (void **)&l->w);
	if (e == 0)
		e = device_alloc(l->device, DEVICE_WORK, 4 * floats, (void **)&l->floats);
	if (e == 0)
		e = fill(l, l->w, l->copies * bytes);
	if (e == 0)
		e = fill(l, l->floats, 4 * floats);
	if (e == 0 && l->has_blas) {
		l->blas_w = calloc(m->outputs * m->inputs, sizeof(float));
		e = l->blas_w == NULL ? -ENOMEM : fill(l, l->blas_w, 4 * m->outputs * m->inputs);
	}
	return e;
}

static void matrix_free(struct linear *l)
{
	device_free(l->device, DEVICE_WORK, l->w);
	device_free(l->device, DEVICE_WORK, l->floats);
	free(l->blas_w);
	l->w = l->floats = NULL;
	l->blas_w = NULL;
}

/* Calls of a round: all copies, or as many as do not take too long. */
static uint64_t calls(const struct bench *b, const struct linear *l, uint32_t rows)
{
	const double flops = 2.0 * rows * (double)l->outputs * (double)l->inputs;
	const double most = FLOPS_OF_ROUND / flops;
	uint64_t n = l->copies < 4 ? 4 : l->copies;

	n = (double)n > most ? (uint64_t)most : n;
	return per_round_at_most(b, (n < 2 ? 2 : n) * ROUNDS, ROUNDS);
}

/* --- Tables -------------------------------------------------------------------------------- */

struct table {
	struct rows rows[N_ROW_COUNTS];
	struct contender set[1 + 2 * N_ROW_COUNTS];
	int of_blas[N_ROW_COUNTS]; /* its place in the set; 0: none */
	uint32_t n_rows, n;
};

static void add(struct table *t, const char *name, void *state,
	int (*run)(void *, const struct clock_line *, uint64_t *, uint64_t), uint64_t per_round)
{
	t->set[t->n++] = (struct contender){
		.name = name, .state = state, .run = run, .per_round = per_round};
}

static int fill_table(
	const struct bench *b, struct linear *l, const char *type, uint32_t most, struct table *t)
{
	int e = 0;

	add(t, l->is_cpu ? "read" : "copy", l, run_floor, calls(b, l, 1));
	for (; t->n_rows < N_ROW_COUNTS && row_counts[t->n_rows] <= most && e == 0; t->n_rows++) {
		struct rows *r = &t->rows[t->n_rows];

		e = rows_prepare(l, row_counts[t->n_rows], type, r);
		add(t, r->name, r, run_linear, calls(b, l, r->rows));
	}
	for (uint32_t i = 0; i < t->n_rows && l->has_blas; i++) {
		struct rows *r = &t->rows[i];

		if (r->rows < MANY_ROWS)
			continue;
		t->of_blas[i] = (int)t->n;
		add(t, r->rows == MANY_ROWS ? "OpenBLAS, m = 64" : "OpenBLAS, m = 256", r, run_blas,
			calls(b, l, r->rows));
	}
	/* Its threads go on spinning for a while. */
	if (l->has_blas)
		t->set[t->n - 1].settle_ns = BLAS_SETTLE_NS;
	return e;
}

static void report(struct bench *b, const struct table *t, const char *title)
{
	const double floor_ns = series_typical_ns(&t->set[0].series);

	report_table(b, title, t->set[0].name, t->set, t->n);
	for (uint32_t i = 0; i < t->n_rows; i++) {
		const double ns = series_typical_ns(&t->set[1 + i].series);

		if (t->of_blas[i] != 0)
			report_figure(b, series_typical_ns(&t->set[t->of_blas[i]].series) / ns,
				"%s, m = %u: speed over OpenBLAS in f32", title, t->rows[i].rows);
		else if (t->rows[i].rows < MANY_ROWS)
			report_figure(b, floor_ns / ns, "%s, m = %u: bytes/s over %s", title,
				t->rows[i].rows, t->set[0].name);
	}
}

static int measure(struct bench *b, struct linear *l, const struct matrix *m, uint32_t type)
{
	struct table t = {.n = 0};
	char title[96];
	int e = matrix_alloc(l, m, types[type].dtype);

	if (e == 0)
		e = fill_table(b, l, types[type].name,
			strcmp(m->name, "head") == 0 ? MOST_OF_HEAD : MAX_ROWS, &t);
	if (e < 0)
		complain(e, "%s in %s", m->name, types[type].name);
	if (e == 0)
		e = contenders_measure(b, t.set, t.n, ROUNDS);
	if (e == 0) {
		snprintf(title, sizeof(title), "%s [%llu, %llu] %s", m->name,
			(unsigned long long)m->outputs, (unsigned long long)m->inputs,
			types[type].name);
		report(b, &t, title);
	}
	contenders_free(t.set, t.n);
	matrix_free(l);
	return e;
}

static int linear_open(struct bench *b, struct linear *l)
{
	l->is_cpu = strcmp(b->device, "cpu") == 0;
	l->workers = l->is_cpu ? cpus_count() : 1;
	const struct device_options options = {
		.kind = b->device, .workers = l->workers, .clock = b->clock, .wake_fd = -1};
	char why[192] = "";

	cpus_free(0); /* the workers' */
	int e = device_open(&options, &l->device, why);
	if (e == 0)
		e = device_stream_create(l->device, DEVICE_PRIORITY_HIGH, &l->stream);
	if (e < 0) {
		complain(e, "device %s in this process: %s", b->device, why);
		return e;
	}
	report_device(b, l->device);
	l->has_blas = l->is_cpu && blas_open(l->workers) == 0;
	if (l->is_cpu && !l->has_blas)
		report_line("no comparison with OpenBLAS: it is not installed\n");
	return 0;
}

int bench_linear(struct bench *b)
{
	const struct llm_shape *s = llm_shape_find(b->shape);
	const uint64_t queries = (uint64_t)s->heads * s->head_dim;
	const struct matrix matrices[] = {
		{"qkv", queries + 2ull * s->kv_heads * s->head_dim, s->hidden},
		{"o", s->hidden, queries},
		{"gate_up", 2ull * s->intermediate, s->hidden},
		{"down", s->hidden, s->intermediate},
		{"head", s->vocab, s->hidden},
	};
	struct linear l = {NULL};
	int e = linear_open(b, &l);

	for (uint32_t i = 0; i < N_TYPES && e == 0; i++) {
		for (uint32_t k = 0; k < sizeof(matrices) / sizeof(matrices[0]) && e == 0; k++)
			e = measure(b, &l, &matrices[k], i);
	}
	device_stream_destroy(l.stream);
	device_close(l.device);
	return e;
}
