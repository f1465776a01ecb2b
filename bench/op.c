/* SPDX-License-Identifier: MIT */
/*
 * op.c: small operators through gpuqd beside the same kernel called in this process (on a GPU: the
 * same launch on it by this process, see raw.c), and beside PyTorch where it can be imported. Each
 * is measured with tensors in place, in the client's memory, as the target is stated; "fresh":
 * inputs written before and outputs read after each call, which moves them between the two CPUs as
 * a real client would; and "in buffers": all tensors in memory of the device, where they stay.
 */
#include "bench/bench.h"

#include "client/gpuq.h"
#include "kernels/op.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BEYOND_TARGET 2.0	 /* null round trips on top of the kernel */
#define DEVICE_BEYOND_TARGET 1.5 /* us on top of a launch by this process */
#define ANSWER_NS 10000000000u
#define SETTLE_NS 2000000u
#define AGREE 1e-5f /* of the largest possible sum of products */

struct shape {
	uint32_t rank;
	uint64_t dims[3];
};

struct op_case {
	const char *title; /* known to torch_ops.py too */
	const char *op;
	uint32_t n_in;
	struct shape in[2], out;
	double device_target_us; /* p50 from client to client on a GPU; 0: none */
	/* So large that the bus alone may take longer: the targets are for the better placement. */
	bool either;
};

static const struct op_case cases[] = {
	{"gemv b32 i64 o32", "gemv_batched", 2, {{2, {32, 64}}, {2, {32, 64}}}, {2, {32, 32}}, 8},
	{"gemv b32 i64 o64", "gemv_batched", 2, {{2, {32, 64}}, {2, {64, 64}}}, {2, {32, 64}}, 0},
	{"softmax b32 d64", "softmax", 1, {{2, {32, 64}}}, {2, {32, 64}}, 8},
	{"price b32 a64 f32", "price_vectors", 2, {{3, {32, 64, 32}}, {1, {32}}}, {2, {32, 64}}, 8,
		true},
};
#define N_CASES (sizeof(cases) / sizeof(cases[0]))

/* A tensor of a call, on both sides. */
struct operand {
	const struct shape *shape;
	void *arena;		 /* the client's; in buffers: NULL and this one: */
	struct gpuq_buf *buffer; /* the client's */
	void *local;		 /* this process's, in the same placement */
	float *fresh;		 /* the caller's own */
};

/* One case in one placement, ready on both sides. */
struct op_bench {
	const struct op_case *c;
	bool buffers;
	struct raw *raw; /* NULL: the CPU */
	struct raw_call *raw_call;
	struct client client;
	struct gpuq_call *remote;
	struct op_call local;
	struct operand in[2], out;
};

static uint64_t shape_bytes(const struct shape *s)
{
	uint64_t n = sizeof(float);

	for (uint32_t i = 0; i < s->rank; i++)
		n *= s->dims[i];
	return n;
}

/* --- The two ways -------------------------------------------------------------------------- */

static int local_trip(void *state)
{
	struct op_bench *o = state;
	const struct op_call *call = &o->local;

	if (o->raw != NULL)
		return raw_direct(o->raw_call);
	call->op->cpu(call, 0, call->op->units(call));
	return 0;
}

static int remote_trip(void *state)
{
	struct op_bench *o = state;
	const struct gpuq_submission s = {.call = o->remote, .user_data = 1};
	struct gpuq_completion done;
	int r = gpuq_submit(o->client.channel, &s, 1);

	if (r == 1)
		r = gpuq_wait(o->client.channel, &done, 1, ANSWER_NS);
	if (r != 1)
		return r < 0 ? r : -EPROTO;
	return done.status;
}

static int local_trip_fresh(void *state)
{
	struct op_bench *o = state;

	for (uint32_t i = 0; i < o->c->n_in; i++)
		memcpy(o->in[i].local, o->in[i].fresh, shape_bytes(o->in[i].shape));
	int r = local_trip(o);
	memcpy(o->out.fresh, o->out.local, shape_bytes(o->out.shape));
	return r;
}

static int remote_trip_fresh(void *state)
{
	struct op_bench *o = state;

	for (uint32_t i = 0; i < o->c->n_in; i++)
		memcpy(o->in[i].arena, o->in[i].fresh, shape_bytes(o->in[i].shape));
	int r = remote_trip(o);
	memcpy(o->out.fresh, o->out.arena, shape_bytes(o->out.shape));
	return r;
}

static int local_run(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	return sample_back_to_back(clock, ret_ns, n, local_trip, state);
}

static int remote_run(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	return sample_back_to_back(clock, ret_ns, n, remote_trip, state);
}

static int local_run_fresh(
	void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	return sample_back_to_back(clock, ret_ns, n, local_trip_fresh, state);
}

static int remote_run_fresh(
	void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	return sample_back_to_back(clock, ret_ns, n, remote_trip_fresh, state);
}

static int graph_run(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	struct op_bench *o = state;

	return sample_back_to_back(clock, ret_ns, n, raw_replay, o->raw_call);
}

static int null_run(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	struct op_bench *o = state;

	return sample_back_to_back(clock, ret_ns, n, client_null_wait, &o->client);
}

/* --- Preparation --------------------------------------------------------------------------- */

static void fill(float *values, uint64_t bytes)
{
	for (uint64_t i = 0; i < bytes / sizeof(float); i++)
		values[i] = (float)((i * 2654435761u >> 8) % 2000) / 1000.0f - 1.0f;
}

static struct gpuq_tensor remote_tensor(const struct operand *d)
{
	struct gpuq_tensor t = {
		.data = d->arena, .dtype = GPUQ_F32, .rank = d->shape->rank, .buffer = d->buffer};

	memcpy(t.dims, d->shape->dims, t.rank * sizeof(*t.dims));
	return t;
}

static struct tensor local_tensor(const struct operand *d)
{
	struct tensor t = {.data = d->local, .dtype = GPUQ_F32, .rank = d->shape->rank};

	memcpy(t.dims, d->shape->dims, t.rank * sizeof(*t.dims));
	return t;
}

static enum device_memory local_kind(const struct op_bench *o)
{
	return o->buffers ? DEVICE_WORK : DEVICE_PINNED;
}

static int local_alloc(const struct op_bench *o, struct operand *d, uint64_t bytes)
{
	if (o->raw != NULL)
		return raw_alloc(o->raw, local_kind(o), bytes, &d->local);
	d->local = aligned_alloc(64, (bytes + 63) & ~63ull);
	return d->local != NULL ? 0 : -ENOMEM;
}

static int local_write(const struct op_bench *o, const struct operand *d, uint64_t bytes)
{
	if (o->raw != NULL && o->buffers)
		return raw_write(o->raw, d->local, d->fresh, bytes);
	memcpy(d->local, d->fresh, bytes);
	return 0;
}

static int local_read(const struct op_bench *o, const struct operand *d, void *to, uint64_t bytes)
{
	if (o->raw != NULL && o->buffers)
		return raw_read(o->raw, to, d->local, bytes);
	memcpy(to, d->local, bytes);
	return 0;
}

static int remote_alloc(const struct op_bench *o, struct operand *d, uint64_t bytes)
{
	const struct gpuq_buf_options options = {.bytes = bytes, .form = GPUQ_BUF_FD};

	if (o->buffers)
		return gpuq_buf_alloc(o->client.gpuq, &options, &d->buffer);
	return gpuq_alloc(o->client.channel, bytes, &d->arena);
}

static int remote_write(const struct op_bench *o, const struct operand *d, uint64_t bytes)
{
	if (o->buffers)
		return gpuq_buf_write(o->client.channel, d->buffer, 0, d->fresh, bytes);
	memcpy(d->arena, d->fresh, bytes);
	return 0;
}

static int remote_read(const struct op_bench *o, const struct operand *d, void *to, uint64_t bytes)
{
	if (o->buffers)
		return gpuq_buf_read(o->client.channel, d->buffer, 0, to, bytes);
	memcpy(to, d->arena, bytes);
	return 0;
}

static int operand_prepare(const struct op_bench *o, const struct shape *s, struct operand *d)
{
	uint64_t bytes = shape_bytes(s);
	int r;

	d->shape = s;
	d->fresh = aligned_alloc(64, (bytes + 63) & ~63ull);
	if (d->fresh == NULL)
		return -ENOMEM;
	fill(d->fresh, bytes);
	r = remote_alloc(o, d, bytes);
	if (r == 0)
		r = local_alloc(o, d, bytes);
	if (r == 0)
		r = remote_write(o, d, bytes);
	return r < 0 ? r : local_write(o, d, bytes);
}

static void operand_free(const struct op_bench *o, struct operand *d)
{
	gpuq_buf_free(d->buffer);
	gpuq_free(o->client.channel, d->arena);
	if (o->raw != NULL)
		raw_free(o->raw, local_kind(o), d->local);
	else
		free(d->local);
	free(d->fresh);
}

static int prepare_local(struct op_bench *o)
{
	struct op_call *call = &o->local;
	uint32_t arg;

	*call = (struct op_call){.op = op_find(o->c->op, NULL)};
	if (call->op == NULL)
		return -GPUQ_EOP;
	for (uint32_t i = 0; i < o->c->n_in; i++)
		call->in[i] = local_tensor(&o->in[i]);
	call->out[0] = local_tensor(&o->out);
	for (uint32_t i = 0; i < call->op->n_params; i++) {
		const struct op_param *p = &call->op->params[i];
		if (p->type == GPUQ_PARAM_F64)
			call->params[i].f64 = p->preset;
		else
			call->params[i].i64 = (int64_t)p->preset;
	}
	int r = op_check(call, &arg);
	return r == 0 && o->raw != NULL ? raw_call_create(o->raw, call, &o->raw_call) : r;
}

static int prepare_remote(struct op_bench *o)
{
	struct gpuq_tensor in[2], out = remote_tensor(&o->out);

	for (uint32_t i = 0; i < o->c->n_in; i++)
		in[i] = remote_tensor(&o->in[i]);
	return gpuq_call_create(
		o->client.channel, o->c->op, in, o->c->n_in, &out, 1, NULL, 0, &o->remote);
}

static int op_prepare(struct op_bench *o)
{
	int r = 0;

	for (uint32_t i = 0; i < o->c->n_in && r == 0; i++)
		r = operand_prepare(o, &o->c->in[i], &o->in[i]);
	if (r == 0)
		r = operand_prepare(o, &o->c->out, &o->out);
	if (r == 0)
		r = prepare_local(o);
	if (r == 0)
		r = prepare_remote(o);
	return r;
}

static void op_free(struct op_bench *o)
{
	gpuq_call_destroy(o->remote);
	raw_call_destroy(o->raw_call);
	for (uint32_t i = 0; i < o->c->n_in; i++)
		operand_free(o, &o->in[i]);
	operand_free(o, &o->out);
}

/* Both ways must say the same before either is worth timing. */
static int op_agree(struct op_bench *o)
{
	uint64_t bytes = shape_bytes(o->out.shape);
	float *local = malloc(bytes), *remote = malloc(bytes);
	int r = local == NULL || remote == NULL ? -ENOMEM : local_trip(o);

	if (r == 0)
		r = remote_trip(o);
	if (r == 0)
		r = local_read(o, &o->out, local, bytes);
	if (r == 0)
		r = remote_read(o, &o->out, remote, bytes);
	for (uint64_t i = 0; i < bytes / sizeof(float) && r == 0; i++) {
		if (!(fabsf(local[i] - remote[i]) <= AGREE * 64))
			r = -EPROTO;
	}
	free(local);
	free(remote);
	return r;
}

/* --- Table --------------------------------------------------------------------------------- */

enum {
	LOCAL,
	NULLS,
	REMOTE,
	LOCAL_FRESH,
	REMOTE_FRESH,
	REMOTE_BUFFERS,
	CPU_ROWS, /* and on a GPU: */
	GRAPH = CPU_ROWS,
	LOCAL_BUFFERS,
	GRAPH_BUFFERS,
	ROWS,
	MORE = ROWS + 2
};

/* The rows of a placement on a GPU. */
struct placement {
	const char *where;
	char floor[48]; /* said beside its p50 */
	uint32_t local, remote, graph;
};

/* What gpuq adds to the kernel, in null round trips: the median of the rounds. */
static double beyond(
	const struct series *remote, const struct series *local, const struct series *null)
{
	double values[BENCH_ROUNDS];
	uint32_t n = remote->rounds;

	for (uint32_t i = 0; i < n; i++)
		values[i] =
			(remote->round_p50_ns[i] - local->round_p50_ns[i]) / null->round_p50_ns[i];
	qsort(values, n, sizeof(*values), compare_double);
	return n > 0 ? values[n / 2] : 0;
}

/* Likewise in microseconds. */
static double beyond_us(const struct series *remote, const struct series *local)
{
	double values[BENCH_ROUNDS];
	uint32_t n = remote->rounds;

	for (uint32_t i = 0; i < n; i++)
		values[i] = (remote->round_p50_ns[i] - local->round_p50_ns[i]) / 1e3;
	qsort(values, n, sizeof(*values), compare_double);
	return n > 0 ? values[n / 2] : 0;
}

static void check_cpu(struct bench *b, const struct op_bench *o, const struct contender *set)
{
	const struct series *null = &set[NULLS].series;

	report_check(b, beyond(&set[REMOTE].series, &set[LOCAL].series, null), BEYOND_TARGET,
		"%s: beyond the kernel, in null round trips", o->c->title);
	report_line("        with fresh data: %.2f; in buffers: %.2f\n",
		beyond(&set[REMOTE_FRESH].series, &set[LOCAL_FRESH].series, null),
		beyond(&set[REMOTE_BUFFERS].series, &set[LOCAL].series, null));
}

static double p50_us(const struct contender *row)
{
	return series_typical_ns(&row->series) / 1e3;
}

static void check_placement(struct bench *b, const struct op_case *c, const struct contender *set,
	const struct placement *p, bool judged)
{
	const struct contender *local = &set[p->local], *remote = &set[p->remote];
	double added_us = beyond_us(&remote->series, &local->series);

	if (judged && c->device_target_us > 0)
		report_check(b, p50_us(remote), c->device_target_us,
			"%s %s: client to client, p50 in us%s", c->title, p->where, p->floor);
	else
		report_figure(b, p50_us(remote), "%s %s: client to client, p50 in us%s", c->title,
			p->where, p->floor);
	if (judged)
		report_check(b, added_us, DEVICE_BEYOND_TARGET, "%s %s: beyond a raw launch, in us",
			c->title, p->where);
	else
		report_figure(b, added_us, "%s %s: beyond a raw launch, in us", c->title, p->where);
	report_figure(b, p50_us(&set[p->graph]), "%s %s: a graph of the one kernel, p50 in us",
		c->title, p->where);
	report_figure(b, p50_us(local), "%s %s: the kernel launched directly, p50 in us", c->title,
		p->where);
}

/* What bringing the inputs over the bus takes at least. */
static double bus_floor_us(const struct op_case *c, double bus_bytes_per_us)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < c->n_in; i++)
		bytes += shape_bytes(&c->in[i]);
	return (double)bytes / bus_bytes_per_us;
}

static void check_device(struct bench *b, const struct op_case *c, const struct contender *set,
	double bus_bytes_per_us)
{
	struct placement place = {"in place", "", LOCAL, REMOTE, GRAPH};
	struct placement buffers = {"in buffers", "", LOCAL_BUFFERS, REMOTE_BUFFERS, GRAPH_BUFFERS};
	double floor_us = bus_floor_us(c, bus_bytes_per_us);
	bool in_buffers = c->either && p50_us(&set[REMOTE_BUFFERS]) < p50_us(&set[REMOTE]);

	snprintf(place.floor, sizeof(place.floor), " (bus floor %.1f us)", floor_us);
	if (in_buffers)
		snprintf(buffers.floor, sizeof(buffers.floor), " (in place: bus floor %.1f us)",
			floor_us);
	check_placement(b, c, set, &place, !in_buffers);
	check_placement(b, c, set, &buffers, in_buffers);
}

/* PyTorch's rows behind ours; returns how many rows there are. */
static uint32_t add_torch(
	const json_t *torch, const struct op_bench *o, struct contender *set, uint32_t n)
{
	static const char *const ways[] = {"ops", "cuda_eager", "cuda_graph"};
	double unit_ns = series_typical_ns(&set[LOCAL].series);

	for (uint32_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
		n += torch_row(torch, ways[i], o->c->title, unit_ns, &set[n]) == 0;
	return n;
}

/* What all cases are measured with. */
struct op_suite {
	struct client client;
	struct raw *raw; /* NULL: the CPU */
	double bus_bytes_per_us;
	const json_t *torch;
};

static int op_compare(struct bench *b, const struct op_suite *suite, struct op_bench *place,
	struct op_bench *buffers)
{
	const struct op_case *c = place->c;
	bool device = suite->raw != NULL;
	uint32_t rows = device ? ROWS : CPU_ROWS;
	struct contender set[MORE] = {
		[LOCAL] = {device ? "launch by this process" : "kernel in this process", place,
			.run = local_run},
		[NULLS] = {"gpuq null", place, .run = null_run, .settle_ns = SETTLE_NS},
		[REMOTE] = {"through gpuqd", place, .run = remote_run, .settle_ns = SETTLE_NS},
		[LOCAL_FRESH] = {device ? "launch, fresh" : "kernel, fresh", place,
			.run = local_run_fresh},
		[REMOTE_FRESH] = {"through gpuqd, fresh", place, .run = remote_run_fresh,
			.settle_ns = SETTLE_NS},
		[REMOTE_BUFFERS] = {"through gpuqd, in buffers", buffers, .run = remote_run,
			.settle_ns = SETTLE_NS},
		[GRAPH] = {"graph of it, by this process", place, .run = graph_run},
		[LOCAL_BUFFERS] = {"launch, in buffers", buffers, .run = local_run},
		[GRAPH_BUFFERS] = {"graph of it, in buffers", buffers, .run = graph_run},
	};

	for (uint32_t i = 0; i < rows; i++)
		set[i].per_round = per_round(b, device ? 100000 : 1000000, BENCH_ROUNDS);
	int r = contenders_measure(b, set, rows, BENCH_ROUNDS);
	if (r == 0) {
		report_table(b, c->title, "K", set, add_torch(suite->torch, place, set, rows));
		if (device)
			check_device(b, c, set, suite->bus_bytes_per_us);
		else
			check_cpu(b, place, set);
	}
	contenders_free(set, MORE);
	return r;
}

static int op_case(struct bench *b, const struct op_suite *suite, const struct op_case *c)
{
	struct op_bench place = {.c = c, .raw = suite->raw, .client = suite->client};
	struct op_bench buffers = place;
	int r;

	buffers.buffers = true;
	r = op_prepare(&place);
	if (r == 0)
		r = op_prepare(&buffers);
	if (r == 0)
		r = op_agree(&place);
	if (r == 0)
		r = op_agree(&buffers);
	if (r < 0)
		complain(r, "%s cannot be measured", c->title);
	else
		r = op_compare(b, suite, &place, &buffers);
	op_free(&place);
	op_free(&buffers);
	return r;
}

static int open_device(struct bench *b, struct op_suite *suite)
{
	int r = raw_open(b, &suite->raw);

	if (r < 0)
		return r;
	r = raw_copy_rate(suite->raw, &suite->bus_bytes_per_us);
	if (r < 0)
		complain(r, "the bus cannot be measured");
	else
		report_figure(b, suite->bus_bytes_per_us / 1e3,
			"copy of 16 MiB from pinned memory to the device, GB/s");
	return r;
}

static int op_cases(struct bench *b, const struct daemon *daemon, const json_t *torch)
{
	struct op_suite suite = {.torch = torch};
	int r = strcmp(b->device, "cpu") == 0 ? 0 : open_device(b, &suite);

	if (r == 0)
		r = client_open(daemon, &suite.client);
	if (r == 0) {
		for (uint32_t i = 0; i < N_CASES && r == 0; i++)
			r = op_case(b, &suite, &cases[i]);
		client_close(&suite.client);
	}
	raw_close(suite.raw);
	return r;
}

int bench_op(struct bench *b)
{
	struct daemon daemon;
	json_t *torch = torch_measure(b);
	int r = daemon_start(b, &daemon);

	if (r == 0) {
		r = op_cases(b, &daemon, torch);
		daemon_stop(&daemon);
	}
	json_decref(torch);
	return r;
}
