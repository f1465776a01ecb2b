/* SPDX-License-Identifier: MIT */
/*
 * trace.c: what the flight recorder costs: null operations, of which there is one event for many,
 * and operators so small that dispatch runs them itself, with an event each; one at a time, and at
 * full rate. Gpuqds with the recorder switched off and on take turns on the same CPUs. Two that do
 * the same may differ by more than it costs, by where their memory lies: so there are many of each,
 * one after another, and a third kind, again without, shows what is left of that.
 */
#include "bench/bench.h"

#include "client/gpuq.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH 256u
#define TARGET 1.02
#define SETTLE_NS 2000000u /* the other dispatchers are asleep by then */
#define MAX_INPUTS 2
#define GENERATIONS 10u /* of gpuqds; 1 with fewer samples than: */
#define FEW_SAMPLES 10000u

enum { OFF, ON, OFF_TOO, SIDES };

static const char *const side_names[SIDES] = {
	"recorder off", "recorder on", "recorder off, another"};

struct work {
	const char *title, *op; /* op NULL: null operations */
	uint32_t n_in;
	uint64_t in[MAX_INPUTS][2], out[2];
	uint64_t single, full; /* samples */
};

static const struct work works[] = {
	{"null", .single = 1000000, .full = 100000},
	{"softmax b1 d16", "softmax", 1, {{1, 16}}, {1, 16}, 200000, 20000},
	{"softmax b32 d64", "softmax", 1, {{32, 64}}, {32, 64}, 200000, 5000},
	{"gemv b32 i64 o32", "gemv_batched", 2, {{32, 64}, {32, 64}}, {32, 32}, 200000, 5000},
};
#define N_WORKS (sizeof(works) / sizeof(works[0]))

struct side {
	struct daemon daemon;
	struct client client;
	struct gpuq_submission submissions[DEPTH]; /* all alike */
};

/* --- Trips --------------------------------------------------------------------------------- */

static int submit(struct side *s, uint32_t n)
{
	while (n > 0) {
		int r = gpuq_submit(s->client.channel, s->submissions, n);
		if (r < 0 && r != -EAGAIN)
			return r;
		n -= r > 0 ? (uint32_t)r : 0;
	}
	return 0;
}

/* Takes at least one completion, and at most `most`. */
static int see(struct side *s, uint32_t most)
{
	struct gpuq_completion completions[DEPTH];
	int n;

	while ((n = gpuq_poll(s->client.channel, completions, most)) == 0)
		shm_pause();
	for (int i = 0; i < n; i++) {
		if (completions[i].status < 0)
			return completions[i].status;
	}
	return n;
}

static int trip(void *side)
{
	int r = submit(side, 1);

	return r < 0 ? r : see(side, 1);
}

/* So many are seen, and others submitted in their places. */
static int full_trip(void *side)
{
	uint32_t seen = 0;

	while (seen < DEPTH) {
		int n = see(side, DEPTH - seen);
		int r = n < 0 ? n : submit(side, (uint32_t)n);
		if (r < 0)
			return r;
		seen += (uint32_t)n;
	}
	return 0;
}

static int drain(struct side *s)
{
	for (uint32_t seen = 0; seen < DEPTH;) {
		int n = see(s, DEPTH);
		if (n < 0)
			return n;
		seen += (uint32_t)n;
	}
	return 0;
}

static int run_single(void *side, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	return sample_back_to_back(clock, ret_ns, n, trip, side);
}

static int run_full(void *side, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	int r = submit(side, DEPTH);

	if (r == 0)
		r = sample_back_to_back(clock, ret_ns, n, full_trip, side);
	return r == 0 ? drain(side) : r;
}

/* --- Work ---------------------------------------------------------------------------------- */

static int tensor_create(struct gpuq_channel *ch, const uint64_t dims[2], struct gpuq_tensor *ret)
{
	const size_t bytes = dims[0] * dims[1] * sizeof(float);

	*ret = (struct gpuq_tensor){.dtype = GPUQ_F32, .rank = 2, .dims = {dims[0], dims[1]}};
	int r = gpuq_alloc(ch, bytes, &ret->data);
	if (r == 0)
		memset(ret->data, 0, bytes);
	return r;
}

/* What it takes stays in the channel's arena, which has room for all works. */
static int prepare(struct side *s, const struct work *w)
{
	struct gpuq_channel *ch = s->client.channel;
	struct gpuq_tensor in[MAX_INPUTS], out;
	struct gpuq_call *call = NULL;
	int r = 0;

	for (uint32_t i = 0; i < w->n_in && r == 0; i++)
		r = tensor_create(ch, w->in[i], &in[i]);
	if (r == 0 && w->op != NULL)
		r = tensor_create(ch, w->out, &out);
	if (r == 0 && w->op != NULL)
		r = gpuq_call_create(ch, w->op, in, w->n_in, &out, 1, NULL, 0, &call);
	if (r < 0)
		complain(0, "%s: %s", w->title, gpuq_error_detail());
	for (uint32_t i = 0; i < DEPTH; i++)
		s->submissions[i] = (struct gpuq_submission){.call = call};
	return r;
}

/* --- Table --------------------------------------------------------------------------------- */

/* The median of the rounds' ratios to the first of them. */
static double typical_ratio(const struct series *s, const struct series *first)
{
	double ratios[BENCH_ROUNDS];

	for (uint32_t i = 0; i < s->rounds; i++)
		ratios[i] = s->round_p50_ns[i] / first->round_p50_ns[i];
	qsort(ratios, s->rounds, sizeof(*ratios), compare_double);
	return s->rounds > 0 ? ratios[s->rounds / 2] : 0;
}

static double ratio_at(const struct series *s, const struct series *first, double fraction)
{
	return (double)series_quantile_ns(s, fraction) /
		(double)series_quantile_ns(first, fraction);
}

static void judge(struct bench *b, const char *title, const struct contender *set)
{
	const struct series *off = &set[OFF].series, *on = &set[ON].series;
	const struct series *too = &set[OFF_TOO].series;

	report_check(b, typical_ratio(on, off), TARGET,
		"%s: p50 with the recorder, in that without", title);
	report_line("        p99 %.2f, p99.9 %.2f, max %.2f of those without\n",
		ratio_at(on, off, 0.99), ratio_at(on, off, 0.999),
		(double)on->max_ns / (double)off->max_ns);
	report_line("        another without: p50 %.3f, p99 %.2f, p99.9 %.2f, max %.2f\n",
		typical_ratio(too, off), ratio_at(too, off, 0.99), ratio_at(too, off, 0.999),
		(double)too->max_ns / (double)off->max_ns);
}

/* The table of one work, one at a time or at full rate. */
struct table {
	char title[64];
	struct contender set[SIDES];
};

enum { SINGLE, FULL, RATES };

static void lay_out(
	const struct bench *b, struct table *t, struct side *sides, const struct work *w, bool full)
{
	const uint64_t samples = full ? w->full : w->single;

	snprintf(t->title, sizeof(t->title), "trace: %s, %s", w->title,
		full ? "256 in flight" : "one at a time");
	for (uint32_t i = 0; i < SIDES; i++)
		t->set[i] = (struct contender){
			.name = side_names[i],
			.state = &sides[i],
			.run = full ? run_full : run_single,
			.per_round = per_round(b, samples, BENCH_ROUNDS),
			.settle_ns = SETTLE_NS,
		};
}

static int start(struct bench *b, struct side *sides)
{
	int r = 0;

	for (uint32_t i = 0; i < SIDES && r == 0; i++) {
		b->gpuqd_arguments[0] = i == ON ? NULL : "--trace-events=0";
		r = daemon_start(b, &sides[i].daemon);
		b->gpuqd_arguments[0] = NULL;
		if (r == 0)
			r = client_open(&sides[i].daemon, &sides[i].client);
	}
	return r;
}

static void stop(struct side *sides)
{
	for (uint32_t i = 0; i < SIDES; i++) {
		if (sides[i].client.gpuq != NULL)
			client_close(&sides[i].client);
		daemon_stop(&sides[i].daemon);
	}
	memset(sides, 0, SIDES * sizeof(*sides));
}

static int measure(struct bench *b, struct side *sides, const struct work *w, struct table *tables)
{
	int r = 0;

	for (uint32_t i = 0; i < SIDES && r == 0; i++)
		r = prepare(&sides[i], w);
	for (uint32_t i = 0; i < RATES && r == 0; i++)
		r = contenders_measure(b, tables[i].set, SIDES, BENCH_ROUNDS / GENERATIONS);
	return r;
}

int bench_trace(struct bench *b)
{
	static struct side sides[SIDES];
	static struct table tables[N_WORKS][RATES];
	const uint32_t n = b->samples > 0 && b->samples < FEW_SAMPLES ? 1 : GENERATIONS;
	int r = 0;

	if (b->socket != NULL) {
		complain(0, "this compares gpuqds of its own: leave --socket out");
		return -EINVAL;
	}
	for (uint32_t i = 0; i < N_WORKS * RATES; i++)
		lay_out(b, &tables[i / RATES][i % RATES], sides, &works[i / RATES],
			i % RATES == FULL);
	for (uint32_t i = 0; i < n && r == 0; i++) {
		r = start(b, sides);
		for (uint32_t w = 0; w < N_WORKS && r == 0; w++)
			r = measure(b, sides, &works[w], tables[w]);
		stop(sides);
	}
	for (uint32_t i = 0; i < N_WORKS * RATES; i++) {
		struct table *t = &tables[i / RATES][i % RATES];
		if (r == 0)
			report_table(b, t->title, "off", t->set, SIDES);
		if (r == 0)
			judge(b, t->title, t->set);
		contenders_free(t->set, SIDES);
	}
	return r;
}
