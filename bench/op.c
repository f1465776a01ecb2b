/* SPDX-License-Identifier: MIT */
/*
 * op.c: small operators through gpuqd beside the same kernel called in this process (on a GPU: the
 * same launch on it by this process, see raw.c), and beside PyTorch where it can be imported. Each
 * is measured twice: with inputs that stay where they are, as the target is stated, and "fresh":
 * inputs written before and outputs read after each call, which moves them between the two CPUs as
 * a real client would.
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
};

static const struct op_case cases[] = {
	{"gemv b32 i64 o32", "gemv_batched", 2, {{2, {32, 64}}, {2, {32, 64}}}, {2, {32, 32}}, 8},
	{"gemv b32 i64 o64", "gemv_batched", 2, {{2, {32, 64}}, {2, {64, 64}}}, {2, {32, 64}}, 0},
	{"softmax b32 d64", "softmax", 1, {{2, {32, 64}}}, {2, {32, 64}}, 8},
	{"price b32 a64 f32", "price_vectors", 2, {{3, {32, 64, 32}}, {1, {32}}}, {2, {32, 64}}, 8},
};
#define N_CASES (sizeof(cases) / sizeof(cases[0]))

/* One case, ready on both sides. */
struct op_bench {
	const struct op_case *c;
	struct raw *raw; /* NULL: the CPU */
	struct client client;
	struct gpuq_call *remote;
	struct op_call local;
	float *remote_in[2], *remote_out;
	float *local_in[2], *local_out;
	float *fresh_in[2], *fresh_out; /* the caller's own */
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
		return raw_direct(o->raw);
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

static void copy_in(const struct op_bench *o, float *const *to)
{
	for (uint32_t i = 0; i < o->c->n_in; i++)
		memcpy(to[i], o->fresh_in[i], shape_bytes(&o->c->in[i]));
}

static int local_trip_fresh(void *state)
{
	struct op_bench *o = state;

	copy_in(o, o->local_in);
	int r = local_trip(o);
	memcpy(o->fresh_out, o->local_out, shape_bytes(&o->c->out));
	return r;
}

static int remote_trip_fresh(void *state)
{
	struct op_bench *o = state;

	copy_in(o, o->remote_in);
	int r = remote_trip(o);
	memcpy(o->fresh_out, o->remote_out, shape_bytes(&o->c->out));
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

	return sample_back_to_back(clock, ret_ns, n, raw_replay, o->raw);
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

static struct gpuq_tensor remote_tensor(float *data, const struct shape *s)
{
	struct gpuq_tensor t = {.data = data, .dtype = GPUQ_F32, .rank = s->rank};

	memcpy(t.dims, s->dims, s->rank * sizeof(*t.dims));
	return t;
}

static struct tensor local_tensor(float *data, const struct shape *s)
{
	struct tensor t = {.data = data, .dtype = GPUQ_F32, .rank = s->rank};

	memcpy(t.dims, s->dims, s->rank * sizeof(*t.dims));
	return t;
}

static int local_alloc(struct op_bench *o, uint64_t bytes, float **ret_data)
{
	void *data = NULL;

	if (o->raw != NULL) {
		int r = raw_alloc(o->raw, bytes, &data);
		*ret_data = data;
		return r;
	}
	*ret_data = aligned_alloc(64, (bytes + 63) & ~63ull);
	return *ret_data != NULL ? 0 : -ENOMEM;
}

static void local_free(struct op_bench *o, float *data)
{
	if (o->raw != NULL)
		raw_free(o->raw, data);
	else
		free(data);
}

static int allocate(
	struct op_bench *o, const struct shape *s, float **remote, float **local, float **fresh)
{
	uint64_t bytes = shape_bytes(s);
	int r = gpuq_alloc(o->client.channel, bytes, (void **)remote);

	if (r == 0)
		r = local_alloc(o, bytes, local);
	*fresh = aligned_alloc(64, (bytes + 63) & ~63ull);
	if (r < 0 || *fresh == NULL)
		return r < 0 ? r : -ENOMEM;
	fill(*remote, bytes);
	fill(*local, bytes);
	fill(*fresh, bytes);
	return 0;
}

static int prepare_local(struct op_bench *o)
{
	struct op_call *call = &o->local;
	uint32_t arg;

	*call = (struct op_call){.op = op_find(o->c->op, NULL)};
	if (call->op == NULL)
		return -GPUQ_EOP;
	for (uint32_t i = 0; i < o->c->n_in; i++)
		call->in[i] = local_tensor(o->local_in[i], &o->c->in[i]);
	call->out[0] = local_tensor(o->local_out, &o->c->out);
	for (uint32_t i = 0; i < call->op->n_params; i++) {
		const struct op_param *p = &call->op->params[i];
		if (p->type == GPUQ_PARAM_F64)
			call->params[i].f64 = p->preset;
		else
			call->params[i].i64 = (int64_t)p->preset;
	}
	int r = op_check(call, &arg);
	return r == 0 && o->raw != NULL ? raw_prepare(o->raw, call) : r;
}

static int prepare_remote(struct op_bench *o)
{
	struct gpuq_tensor in[2], out = remote_tensor(o->remote_out, &o->c->out);

	for (uint32_t i = 0; i < o->c->n_in; i++)
		in[i] = remote_tensor(o->remote_in[i], &o->c->in[i]);
	return gpuq_call_create(
		o->client.channel, o->c->op, in, o->c->n_in, &out, 1, NULL, 0, &o->remote);
}

static int op_prepare(struct op_bench *o)
{
	int r = 0;

	for (uint32_t i = 0; i < o->c->n_in && r == 0; i++)
		r = allocate(o, &o->c->in[i], &o->remote_in[i], &o->local_in[i], &o->fresh_in[i]);
	if (r == 0)
		r = allocate(o, &o->c->out, &o->remote_out, &o->local_out, &o->fresh_out);
	if (r == 0)
		r = prepare_local(o);
	if (r == 0)
		r = prepare_remote(o);
	return r;
}

static void op_free(struct op_bench *o)
{
	gpuq_call_destroy(o->remote);
	for (uint32_t i = 0; i < o->c->n_in; i++) {
		gpuq_free(o->client.channel, o->remote_in[i]);
		local_free(o, o->local_in[i]);
		free(o->fresh_in[i]);
	}
	gpuq_free(o->client.channel, o->remote_out);
	local_free(o, o->local_out);
	free(o->fresh_out);
}

/* Both ways must say the same before either is worth timing. */
static int op_agree(struct op_bench *o)
{
	int r = remote_trip_fresh(o);

	if (r == 0)
		r = local_trip_fresh(o);
	for (uint64_t i = 0; i < shape_bytes(&o->c->out) / sizeof(float) && r == 0; i++) {
		if (!(fabsf(o->local_out[i] - o->remote_out[i]) <= AGREE * 64))
			r = -EPROTO;
	}
	return r;
}

/* --- Table --------------------------------------------------------------------------------- */

enum { LOCAL, NULLS, REMOTE, LOCAL_FRESH, REMOTE_FRESH, GRAPH, ROWS, MORE = ROWS + 2 };

static int compare_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

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
	report_line("        with fresh data: %.2f\n",
		beyond(&set[REMOTE_FRESH].series, &set[LOCAL_FRESH].series, null));
}

static void check_device(struct bench *b, const struct op_bench *o, const struct contender *set)
{
	double p50_us = series_typical_ns(&set[REMOTE].series) / 1e3;

	if (o->c->device_target_us > 0)
		report_check(b, p50_us, o->c->device_target_us, "%s: client to client, p50 in us",
			o->c->title);
	report_check(b, beyond_us(&set[REMOTE].series, &set[LOCAL].series), DEVICE_BEYOND_TARGET,
		"%s: beyond a raw launch, in us", o->c->title);
	report_figure(b, series_typical_ns(&set[GRAPH].series) / 1e3,
		"%s: a graph of the one kernel, p50 in us", o->c->title);
	report_figure(b, series_typical_ns(&set[LOCAL].series) / 1e3,
		"%s: the kernel launched directly, p50 in us", o->c->title);
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

static int op_compare(struct bench *b, struct op_bench *o, const json_t *torch)
{
	bool device = o->raw != NULL;
	uint32_t rows = device ? ROWS : ROWS - 1;
	struct contender set[MORE] = {
		[LOCAL] = {.name = device ? "launch by this process" : "kernel in this process",
			.run = local_run},
		[NULLS] = {.name = "gpuq null", .run = null_run, .settle_ns = SETTLE_NS},
		[REMOTE] = {.name = "through gpuqd", .run = remote_run, .settle_ns = SETTLE_NS},
		[LOCAL_FRESH] = {.name = device ? "launch, fresh" : "kernel, fresh",
			.run = local_run_fresh},
		[REMOTE_FRESH] = {.name = "through gpuqd, fresh",
			.run = remote_run_fresh,
			.settle_ns = SETTLE_NS},
		[GRAPH] = {.name = "graph of it, by this process", .run = graph_run},
	};

	for (uint32_t i = 0; i < rows; i++) {
		set[i].state = o;
		set[i].per_round = per_round(b, device ? 100000 : 1000000, BENCH_ROUNDS);
	}
	int r = contenders_measure(b, set, rows, BENCH_ROUNDS);
	if (r == 0) {
		report_table(b, o->c->title, "K", set, add_torch(torch, o, set, rows));
		if (device)
			check_device(b, o, set);
		else
			check_cpu(b, o, set);
	}
	contenders_free(set, MORE);
	return r;
}

static int op_case(struct bench *b, const struct op_case *c, const struct client *client,
	struct raw *raw, const json_t *torch)
{
	struct op_bench o = {.c = c, .client = *client, .raw = raw};
	int r = op_prepare(&o);

	if (r == 0)
		r = op_agree(&o);
	if (r < 0)
		complain(r, "%s cannot be measured", c->title);
	else
		r = op_compare(b, &o, torch);
	op_free(&o);
	return r;
}

static int op_cases(struct bench *b, const struct daemon *daemon, const json_t *torch)
{
	struct client client;
	struct raw *raw = NULL;
	int r = strcmp(b->device, "cpu") == 0 ? 0 : raw_open(b, &raw);

	if (r == 0)
		r = client_open(daemon, &client);
	if (r == 0) {
		for (uint32_t i = 0; i < N_CASES && r == 0; i++)
			r = op_case(b, &cases[i], &client, raw, torch);
		client_close(&client);
	}
	raw_close(raw);
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
