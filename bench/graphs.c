/* SPDX-License-Identifier: MIT */
/*
 * graphs.c: how long a hot shape takes while other shapes are captured; see graphs.h for the
 * method, rig.c and remote.c for who serves.
 */
#include "bench/graphs.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROUND_NS 150000000u
#define LEAST_ROUNDS 5u
#define MOST_ROUNDS BENCH_ROUNDS
#define OVERLAPPING 10000u /* replays beside a capture, at least */
#define MAX_CAPTURES 4096u
#define TARGET_RATIO 1.1
#define TARGET_CPUS 4
#define LEAST_INTERVAL_NS 20000u
#define COLD_SHAPES 20u

const uint32_t storm_kernels[STORM_CHAINS] = {20, 100, 500};

static const char *const mode_names[] = {
	"(a) quiet", "(b) captures in background", "(c) captures by the server"};

/* What was counted of one mode, over all rounds. */
struct tally {
	struct series series;
	uint64_t replays, captures;
	uint64_t wall_ns, capturing_ns;
};

struct storm {
	struct bench *b;
	const struct server *server;
	uint32_t kernels;
	uint64_t interval_ns;
	struct round rounds[MODES]; /* the last of each */
	struct tally tally[MODES];
	uint64_t *ns; /* the samples of a round */
};

/* --- One round ----------------------------------------------------------------------------- */

/* Serves a request at each multiple of the interval, however late the last one was. */
static int serve(struct storm *s, enum mode mode, struct round *round)
{
	const struct server *server = s->server;
	uint64_t due_ns = clock_now_ns(&server->clock) + s->interval_ns;
	uint64_t end_ns = due_ns + ROUND_NS;
	int r = 0;

	round->begin_ns = due_ns;
	while (due_ns < end_ns && round->n_replays < round->max_replays && r >= 0) {
		struct replay *replay = &round->replays[round->n_replays];

		/* Also when the next one is due already: captures wait for nobody. */
		r = server->between(server->state, mode, round);
		while (clock_now_ns(&server->clock) < due_ns)
			shm_pause();
		if (r < 0)
			break;
		replay->due_ns = due_ns;
		replay->start_ns = clock_now_ns(&server->clock);
		r = server->replay(server->state);
		replay->end_ns = clock_now_ns(&server->clock);
		round->n_replays++;
		due_ns += s->interval_ns;
	}
	round->end_ns = clock_now_ns(&server->clock);
	return r;
}

static int compare_spans(const void *a, const void *b)
{
	const struct span *x = a, *y = b;

	return x->begin_ns < y->begin_ns ? -1 : x->begin_ns > y->begin_ns;
}

void round_captures(struct round *round, const struct stats_capture *captures, uint32_t max,
	uint64_t *seen, uint64_t last)
{
	for (uint64_t n = *seen + 1; n <= last && round->n_captures < round->max_captures; n++) {
		const struct stats_capture *c = &captures[n % max];

		/* Another one has its place when more than `max` are new. */
		if (shm_load_acquire(&c->number) == n)
			round_capture(round, c->begin_ns, c->end_ns, c->kernels);
	}
	*seen = last;
}

/* Writes latencies of the replays that overlap a capture, or of those that overlap none. */
static uint32_t pick(const struct round *round, bool overlapping, uint64_t *ret_ns)
{
	uint32_t n = 0, c = 0;

	for (uint32_t i = 0; i < round->n_replays; i++) {
		const struct replay *p = &round->replays[i];

		while (c < round->n_captures && round->captures[c].end_ns < p->due_ns)
			c++;
		bool overlaps = c < round->n_captures && round->captures[c].begin_ns <= p->end_ns;
		if (overlaps == overlapping)
			ret_ns[n++] = p->end_ns - p->due_ns;
	}
	return n;
}

/* Time within the round in which a capture ran; captures are sorted. */
static uint64_t capturing_ns(const struct round *round)
{
	uint64_t sum_ns = 0, covered_ns = round->begin_ns;

	for (uint32_t i = 0; i < round->n_captures; i++) {
		const struct span *c = &round->captures[i];
		uint64_t from = c->begin_ns > covered_ns ? c->begin_ns : covered_ns;
		uint64_t to = c->end_ns < round->end_ns ? c->end_ns : round->end_ns;

		if (to > from) {
			sum_ns += to - from;
			covered_ns = to;
		}
	}
	return sum_ns;
}

static int run_round(struct storm *s, enum mode mode, bool keep, double *unit_ns)
{
	struct round *round = &s->rounds[mode];
	struct tally *t = &s->tally[mode];

	watchdog(true);
	round->n_replays = round->n_captures = 0;
	int r = s->server->begin(s->server->state, mode, s->kernels);
	if (r == 0)
		r = serve(s, mode, round);
	int ended = s->server->end(s->server->state, mode, round);
	if (r < 0 || ended < 0)
		return r < 0 ? r : ended;
	qsort(round->captures, round->n_captures, sizeof(*round->captures), compare_spans);
	uint32_t n = pick(round, mode != QUIET, s->ns);
	if (keep) {
		t->replays += round->n_replays;
		t->captures += round->n_captures;
		t->wall_ns += round->end_ns - round->begin_ns;
		t->capturing_ns += capturing_ns(round);
	}
	return series_add(s->b, &t->series, s->ns, n, keep, unit_ns);
}

static int run_rounds(struct storm *s, uint32_t modes)
{
	uint64_t wanted = s->b->samples > 0 ? s->b->samples : OVERLAPPING;
	uint32_t round = 0;

	do {
		double unit_ns = 0;

		progress(
			"%s, captures of %u kernels: round %u", s->server->name, s->kernels, round);
		for (uint32_t mode = 0; mode < modes; mode++) {
			int r = run_round(s, mode, round > 0, &unit_ns);
			if (r < 0) {
				complain(r, "%s failed, %s", mode_names[mode], s->server->name);
				return r;
			}
		}
		round++;
	} while (round <= LEAST_ROUNDS ||
		(s->tally[BACKGROUND].series.total < wanted && round <= MOST_ROUNDS));
	return 0;
}

/* --- What a size of captures did ------------------------------------------------------------ */

static double p99_ratio(const struct storm *s, enum mode mode)
{
	double quiet_ns = (double)series_quantile_ns(&s->tally[QUIET].series, 0.99);

	return quiet_ns > 0 ? (double)series_quantile_ns(&s->tally[mode].series, 0.99) / quiet_ns
			    : NAN;
}

static void report_overlap(const struct storm *s, uint32_t modes)
{
	for (uint32_t mode = BACKGROUND; mode < modes; mode++) {
		const struct tally *t = &s->tally[mode];

		report_line("%s: %llu captures in %.1f s, %.0f %% of the time; %llu of %llu "
			    "replays overlap one\n",
			mode_names[mode], (unsigned long long)t->captures, (double)t->wall_ns / 1e9,
			100.0 * (double)t->capturing_ns / (double)t->wall_ns,
			(unsigned long long)t->series.total, (unsigned long long)t->replays);
	}
	report_line("a request is due every %.1f us\n", (double)s->interval_ns / 1e3);
}

static void report_storm(struct storm *s, uint32_t modes)
{
	struct contender set[MODES] = {0};
	char title[96];
	uint32_t n = 0;

	for (uint32_t mode = 0; mode < modes; mode++) {
		if (s->tally[mode].series.total == 0)
			continue;
		set[n++] = (struct contender){
			.name = mode_names[mode], .series = s->tally[mode].series};
	}
	snprintf(title, sizeof(title), "replays %s, captures of %u kernels", s->server->name,
		s->kernels);
	report_table(s->b, title, "a", set, n);
	report_overlap(s, modes);
	report_check_if(s->b, cpus_count() >= TARGET_CPUS, p99_ratio(s, BACKGROUND), TARGET_RATIO,
		"%s, %u kernels: p99 beside captures / quiet", s->server->name, s->kernels);
	if (modes > INLINE)
		report_figure(s->b, p99_ratio(s, INLINE),
			"%s, %u kernels: p99 with captures by the server / quiet", s->server->name,
			s->kernels);
	report_figure(s->b, (double)s->tally[BACKGROUND].series.total,
		"%s, %u kernels: replays that overlap a capture", s->server->name, s->kernels);
}

static int storm_prepare(struct storm *s)
{
	uint32_t most = (uint32_t)(ROUND_NS / s->interval_ns) + 2;

	s->ns = calloc(most, sizeof(*s->ns));
	if (s->ns == NULL)
		return -ENOMEM;
	for (uint32_t mode = 0; mode < MODES; mode++) {
		struct round *round = &s->rounds[mode];

		round->replays = calloc(most, sizeof(*round->replays));
		round->captures = calloc(MAX_CAPTURES, sizeof(*round->captures));
		round->max_replays = most;
		round->max_captures = MAX_CAPTURES;
		if (round->replays == NULL || round->captures == NULL)
			return -ENOMEM;
	}
	return 0;
}

static void storm_free(struct storm *s)
{
	for (uint32_t mode = 0; mode < MODES; mode++) {
		free(s->rounds[mode].replays);
		free(s->rounds[mode].captures);
		free(s->tally[mode].series.ns);
		free(s->tally[mode].series.milli);
	}
	free(s->ns);
}

/* --- Captures of all sizes ------------------------------------------------------------------ */

/*
 * Requests one after the other, with nothing else going on, take `mean_ns`: twice and a half as
 * long lets few meet, also where a busy machine makes some late.
 */
static int choose_interval(const struct server *server, uint64_t *ret_ns)
{
	enum { TRIES = 2000 };
	uint64_t begin_ns = clock_now_ns(&server->clock);
	int r = 0;

	for (uint32_t i = 0; i < TRIES && r == 0; i++)
		r = server->replay(server->state);
	uint64_t mean_ns = (clock_now_ns(&server->clock) - begin_ns) / TRIES;
	*ret_ns = mean_ns * 5 / 2 > LEAST_INTERVAL_NS ? mean_ns * 5 / 2 : LEAST_INTERVAL_NS;
	return r;
}

/* Keeps the last rounds of one size for --plot and --trace. */
static int keep_rounds(struct bench *b, const struct storm *s, uint32_t modes, json_t *kept)
{
	int r = 0;

	for (uint32_t mode = 0; mode < modes && b->plot != NULL; mode++)
		json_array_append_new(
			kept, round_json(&s->rounds[mode], mode_names[mode], s->kernels));
	if (b->trace != NULL)
		r = trace_write(b->trace, s->rounds, modes);
	if (r < 0)
		complain(r, "cannot write %s", b->trace);
	return r;
}

static int storms(struct bench *b, const struct server *server, uint32_t modes, json_t *kept)
{
	uint64_t interval_ns;
	int r = choose_interval(server, &interval_ns);

	if (r < 0)
		complain(r, "%s", server->name);
	for (uint32_t i = 0; i < STORM_CHAINS && r == 0; i++) {
		struct storm s = {.b = b,
			.server = server,
			.kernels = storm_kernels[i],
			.interval_ns = interval_ns};

		r = storm_prepare(&s);
		if (r == 0)
			r = run_rounds(&s, modes);
		watchdog(false);
		if (r == 0)
			report_storm(&s, modes);
		/* The middle size is what is drawn. */
		if (r == 0 && i == STORM_CHAINS / 2 && kept != NULL)
			r = keep_rounds(b, &s, modes, kept);
		storm_free(&s);
	}
	return r;
}

/* --- Cold shapes --------------------------------------------------------------------------- */

enum { FIRST, SECOND, REPLAY, CAPTURE, COLD_TIMES };

static int cold_shapes(struct bench *b, struct rig *rig, uint32_t kernels)
{
	static const char *const names[] = {"first request, no graph", "second request, no graph",
		"replay of its graph", "its capture, in background"};
	struct contender set[COLD_TIMES] = {0};
	uint64_t ns[COLD_TIMES][COLD_SHAPES];
	double unit_ns = 0;
	char title[96];
	int r = 0;

	for (uint32_t i = 0; i < COLD_SHAPES && r == 0; i++) {
		struct cold cold = {0};

		r = rig_cold(rig, kernels, STORM_ROWS + 1 + i, &cold);
		ns[FIRST][i] = cold.first_ns;
		ns[SECOND][i] = cold.second_ns;
		ns[REPLAY][i] = cold.replay_ns;
		ns[CAPTURE][i] = cold.capture_ns;
	}
	for (uint32_t i = 0; i < COLD_TIMES && r == 0; i++) {
		set[i].name = names[i];
		r = series_add(b, &set[i].series, ns[i], COLD_SHAPES, true, &unit_ns);
	}
	snprintf(title, sizeof(title), "new shapes of %u kernels", kernels);
	if (r == 0) {
		report_table(b, title, "first", set, COLD_TIMES);
		report_figure(b,
			series_typical_ns(&set[FIRST].series) /
				series_typical_ns(&set[SECOND].series),
			"new shape of %u kernels: first request / one without a graph", kernels);
	} else {
		complain(r, "%s", title);
	}
	contenders_free(set, COLD_TIMES);
	return r;
}

static int in_process(struct bench *b, json_t *kept)
{
	struct server server;
	struct rig *rig;
	int r = rig_create(b, &rig);

	if (r < 0)
		return r;
	rig_server(rig, &server);
	for (uint32_t i = 0; i < STORM_CHAINS && r == 0; i++)
		r = cold_shapes(b, rig, storm_kernels[i]);
	if (r == 0)
		r = storms(b, &server, MODES, kept);
	rig_destroy(rig);
	return r;
}

static int through_gpuqd(struct bench *b)
{
	struct remote *remote;
	struct server server;
	int r;

	b->many_cpus = true;
	r = remote_create(b, &remote);
	b->many_cpus = false;

	if (r < 0)
		return r;
	remote_server(remote, &server);
	r = storms(b, &server, INLINE, NULL);
	remote_destroy(remote);
	return r;
}

int bench_graphs(struct bench *b)
{
	json_t *kept = json_array();
	/* First, while this process does not use the device itself. */
	int r = through_gpuqd(b);

	cpus_free(0);
	if (r == 0)
		r = in_process(b, kept);
	if (r == 0 && b->plot != NULL)
		r = plot_write(b, kept);
	json_decref(kept);
	return r;
}
