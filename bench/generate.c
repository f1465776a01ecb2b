/* SPDX-License-Identifier: MIT */
/*
 * generate.c: texts from client to client: what each token costs beyond the device's step, by
 * policy; how soon the first one comes; and whether many policies in one batch cost more than one.
 *
 * Random weights give rows that are flatter than a trained model's, so that most draws would need
 * the full row. Temperatures are therefore in units of one at which the entropy of a row is
 * ENTROPY_NATS; it is 1 where the model's own rows are not flatter than that.
 */
#include "bench/text.h"
#include "client/gpuq.h"
#include "client/text/gpuq-text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define ROUNDS 8u
#define TOKENS 64u /* of each row, unless --samples says otherwise */
#define ENTROPY_NATS 2.0
#define PROMPT_BYTES 400u
#define FIRST_TOKENS 9u /* how often the first one is waited for */
#define FUSED 32u
#define MAX_CONTEXT 256u /* tokens of a text and its prompt */
#define SHARES 4096u	 /* tokens of which that is kept */
#define CROWD_S 3.0
#define CROWD_ROUNDS 3u

/* What all writers share; a forked process has a copy of it. */
static struct {
	struct gpuq_tokenizer *tokenizer;
	float unit; /* of temperatures */
	bool alike; /* all of a crowd have one policy */
} shared;

static int fail(int error, const char *what)
{
	complain(error, "%s: %s", what, gpuq_error_detail());
	return error;
}

/* --- One writer ------------------------------------------------------------------------------ */

struct writing {
	const struct daemon *daemon;
	struct client client;
	bool connected;
	struct gpuq_sampling policy;
	uint32_t fused;
	size_t prompt_bytes;
	struct gpuq_writer *writer;
	uint32_t left; /* tokens of this text */
	struct gpuq_sampler_stats stats;
	double outside[SHARES]; /* of tokens' time: the share outside the device */
	uint32_t n_outside;
};

static void writing_end_text(struct writing *w)
{
	struct gpuq_sampler_stats stats;

	if (w->writer == NULL)
		return;
	gpuq_writer_stats(w->writer, &stats);
	w->stats.draws += stats.draws;
	w->stats.full_rows += stats.full_rows;
	gpuq_writer_destroy(w->writer);
	w->writer = NULL;
}

static void writing_close(struct writing *w)
{
	writing_end_text(w);
	if (w->connected)
		client_close(&w->client);
	w->connected = false;
}

/* The channel has room for a row of all logits. */
static int writing_connect(struct writing *w)
{
	const struct gpuq_options options = {.socket = w->daemon->socket, .name = "gpuq-bench"};
	const struct gpuq_channel_options room = {.arena_bytes = 8u << 20};
	int e = gpuq_connect(&options, &w->client.gpuq);

	if (e < 0)
		return e;
	w->connected = true;
	return gpuq_channel_open(w->client.gpuq, &room, &w->client.channel);
}

/* Prompts differ, so that none is found in the cache. */
static int writing_begin_text(struct writing *w)
{
	static uint64_t salt;
	char prompt[PROMPT_BYTES];
	const struct gpuq_writer_options options = {.model = LLM_NAME,
		.tokenizer = shared.tokenizer,
		.sampling = w->policy,
		.ignore_end = true,
		.fused = w->fused};
	int e = w->connected ? 0 : writing_connect(w);

	writing_end_text(w);
	if (e == 0)
		e = gpuq_writer_create(w->client.channel, &options, &w->writer);
	if (e < 0)
		return e;
	text_fill(prompt, w->prompt_bytes, ++salt + w->policy.seed * 1000003);
	int64_t n = gpuq_writer_read(w->writer, prompt, w->prompt_bytes, 0);
	w->left = LLM_DECODED;
	return n < 0 ? (int)n : 0;
}

/* Where a text is done, begins the next, with a token: its prompt's time is not for the clock. */
static int writing_prepare(struct writing *w)
{
	struct gpuq_written written;
	int e = 0;

	if (w->left == 0) {
		e = writing_begin_text(w);
		if (e == 0)
			e = gpuq_writer_next(w->writer, &written);
	}
	return e < 0 ? e : 0;
}

static int write_tokens(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	struct writing *w = state;
	struct gpuq_written written;

	for (uint64_t i = 0; i < n; i++) {
		int e = writing_prepare(w);
		const uint64_t start_ns = clock_now_ns(clock);

		if (e == 0)
			e = gpuq_writer_next(w->writer, &written);
		if (e < 0)
			return fail(e, "a text");
		ret_ns[i] = clock_now_ns(clock) - start_ns;
		w->left--;
		if (w->n_outside < SHARES)
			w->outside[w->n_outside++] =
				1 - (double)written.executed_ns / (double)ret_ns[i];
	}
	return 0;
}

/* --- The unit of temperatures ---------------------------------------------------------------- */

static double entropy_of(const float *logits, uint32_t n, double temperature)
{
	double greatest = -INFINITY, sum = 0, moment = 0;

	for (uint32_t i = 0; i < n; i++)
		greatest = fmax(greatest, logits[i]);
	for (uint32_t i = 0; i < n; i++) {
		const double x = (logits[i] - greatest) / temperature, p = exp(x);

		sum += p;
		moment += p * x;
	}
	return log(sum) - moment / sum;
}

/* The greatest temperature up to 1 at which the row has no more entropy than that. */
static float unit_of(const float *logits, uint32_t n)
{
	double low = 1e-6, high = 1;

	if (entropy_of(logits, n, 1) <= ENTROPY_NATS)
		return 1;
	for (uint32_t i = 0; i < 20; i++) {
		const double middle = sqrt(low * high);

		if (entropy_of(logits, n, middle) <= ENTROPY_NATS)
			low = middle;
		else
			high = middle;
	}
	return (float)low;
}

/* By the row behind some text. 0 or a negative error. */
static int find_unit(const struct daemon *d)
{
	const struct gpuq_step_options options = {.max_tokens = 1, .max_rows = 1, .logits = true};
	struct writing w = {.daemon = d};
	struct gpuq_session *session = NULL;
	struct gpuq_call *step = NULL;
	struct gpuq_completion done = {0};
	struct gpuq_model_info m;
	struct gpuq_row row;
	int e = writing_connect(&w);

	if (e == 0)
		e = gpuq_model_find(w.client.gpuq, LLM_NAME, &m);
	if (e == 0)
		e = gpuq_session_open(w.client.channel, LLM_NAME, &session);
	if (e == 0)
		e = gpuq_step_create(session, &options, &step);
	for (int32_t i = 0; i < 16 && e >= 0; i++) {
		const struct gpuq_submission s = {.call = step};
		const int32_t token = i * 97 % (int32_t)m.vocab;

		e = gpuq_step_set(step, &token, 1, 1);
		if (e == 0)
			e = gpuq_submit(w.client.channel, &s, 1);
		if (e >= 0)
			e = gpuq_wait(w.client.channel, &done, 1, GPUQ_FOREVER);
		if (e >= 0)
			e = done.status;
	}
	if (e >= 0)
		e = gpuq_step_row(step, 0, &row);
	if (e == 0)
		shared.unit = unit_of(row.logits, m.vocab);
	gpuq_call_destroy(step);
	gpuq_session_close(session);
	writing_close(&w);
	return e < 0 ? e : 0;
}

/* --- Graphs ahead ---------------------------------------------------------------------------- */

/* Waits until a shape is captured; one that no step has is none to wait for. */
static int capture(struct gpuq_channel *channel, const struct gpuq_model_shape *shape)
{
	struct gpuq_completion done;
	struct gpuq_call *wish;
	int e = gpuq_capture_create(channel, LLM_NAME, shape, &wish);

	if (e < 0)
		return e;
	const struct gpuq_submission s = {.call = wish};
	e = gpuq_submit(channel, &s, 1);
	if (e >= 0)
		e = gpuq_wait(channel, &done, 1, GPUQ_FOREVER);
	if (e >= 0 && done.status != -GPUQ_EPARAM)
		e = done.status;
	gpuq_call_destroy(wish);
	return e < 0 ? e : 0;
}

/*
 * A step that has no graph yet is launched kernel by kernel, part of which counts as outside the
 * device: so all that one writer's tokens need is captured before they are timed.
 */
static int capture_steps(const struct daemon *d)
{
	struct writing w = {.daemon = d};
	int e = writing_connect(&w);

	progress("capturing the steps of one session");
	for (uint32_t context = 64; context <= MAX_CONTEXT && e == 0; context += 64) {
		const struct gpuq_model_shape logits = {
			.kind = GPUQ_SHAPE_LOGITS, .batch = 1, .context = context};

		e = capture(w.client.channel, &logits);
		for (uint32_t ids = 1; ids <= 256 && e == 0; ids *= 2) {
			const struct gpuq_model_shape named = {
				.batch = 1, .context = context, .ids = ids};

			e = capture(w.client.channel, &named);
		}
	}
	writing_close(&w);
	return e;
}

/* --- What a token costs ---------------------------------------------------------------------- */

static const struct policy {
	const char *name;
	struct gpuq_sampling sampling; /* its temperature in units */
} policies[] = {
	{"greedy", {0}},
	{"temperature 0.8", {.temperature = 0.8f}},
	{"top_k 40", {.temperature = 0.8f, .top_k = 40}},
	{"top_p 0.9", {.temperature = 0.8f, .top_p = 0.9f}},
	{"min_p 0.05", {.temperature = 0.8f, .min_p = 0.05f}},
	{"typical_p 0.9", {.temperature = 0.8f, .typical_p = 0.9f}},
	{"penalties, top_p 0.9",
		{.temperature = 0.8f,
			.top_p = 0.9f,
			.repetition_penalty = 1.1f,
			.presence_penalty = 0.2f}},
	{"top_k 100, always the row", {.temperature = 0.8f, .top_k = 100}},
};
#define N_POLICIES (sizeof(policies) / sizeof(policies[0]))

/* The engine's bare step, as the device's share of a token. */
struct engine {
	struct llm_local *local;
	uint32_t left;
	int32_t next;
};

static int step_engine(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	struct engine *g = state;
	int32_t prompt[LLM_CONTEXT];

	for (uint64_t i = 0; i < n; i++, g->left--) {
		int e = 0;

		for (uint32_t k = 0; k < LLM_CONTEXT; k++)
			prompt[k] = (int32_t)(k * 7 + 3);
		if (g->left == 0) {
			g->left = LLM_DECODED;
			e = llm_local_restart(g->local);
			if (e == 0)
				e = llm_local_step(g->local, prompt, LLM_CONTEXT, &g->next);
		}
		const uint64_t start_ns = clock_now_ns(clock);
		if (e == 0)
			e = llm_local_step(g->local, &g->next, 1, &g->next);
		if (e < 0)
			return e;
		ret_ns[i] = clock_now_ns(clock) - start_ns;
	}
	return 0;
}

/* The token's own step is in both, so a busy machine disturbs it less than two rows. */
static double median_outside(struct writing *w)
{
	qsort(w->outside, w->n_outside, sizeof(*w->outside), compare_double);
	return w->outside[w->n_outside / 2];
}

static void report_policies(struct bench *b, const struct contender *set, struct writing *w)
{
	const bool judged = strcmp(b->shape, "1b") == 0 && strncmp(b->device, "cpu", 3) == 0;
	const double greedy_ns = series_typical_ns(&set[1].series);
	json_t *rows = json_array();
	double worst = 0;

	report_line("%-28s %12s %12s %10s %10s\n", "", "ms a token", "of greedy's", "full rows",
		"outside");
	for (uint32_t i = 0; i < N_POLICIES; i++) {
		const double ns = series_typical_ns(&set[1 + i].series);
		const double outside = 100 * median_outside(&w[i]);

		worst = outside > worst ? outside : worst;
		report_line("%-28s %12.3f %12.3f %9.1f%% %9.1f%%\n", policies[i].name, 1e-6 * ns,
			ns / greedy_ns,
			100.0 * (double)w[i].stats.full_rows / (double)w[i].stats.draws, outside);
		json_array_append_new(rows,
			json_pack("{s:s, s:f, s:f, s:I, s:I}", "name", policies[i].name, "token_ns",
				ns, "outside_percent", outside, "draws",
				(json_int_t)w[i].stats.draws, "full_rows",
				(json_int_t)w[i].stats.full_rows));
	}
	report_json(b, "policies", rows);
	report_check_if(b, judged, worst, 3,
		"generate %s %s: percent of a token spent outside the device, worst policy",
		b->shape, b->weights);
}

static int measure_policies(struct bench *b, const struct daemon *d, struct llm_local *local)
{
	struct engine engine = {.local = local};
	static struct writing w[N_POLICIES];
	struct contender set[1 + N_POLICIES] = {
		{.name = "engine in this process", .state = &engine, .run = step_engine}};
	char title[96];

	for (uint32_t i = 0; i < N_POLICIES; i++) {
		w[i] = (struct writing){
			.daemon = d, .policy = policies[i].sampling, .prompt_bytes = 100};
		w[i].policy.temperature *= shared.unit;
		set[1 + i] = (struct contender){
			.name = policies[i].name, .state = &w[i], .run = write_tokens};
	}
	for (uint32_t i = 0; i <= N_POLICIES; i++)
		set[i].per_round = per_round_at_most(b, TOKENS, ROUNDS);
	int e = contenders_measure(b, set, 1 + N_POLICIES, ROUNDS);
	for (uint32_t i = 0; i < N_POLICIES; i++)
		writing_close(&w[i]);
	if (e == 0) {
		snprintf(title, sizeof(title), "generate %s %s, tokens of texts", b->shape,
			b->weights);
		report_table(b, title, "engine", set, 1 + N_POLICIES);
		report_policies(b, set, w);
	}
	contenders_free(set, 1 + N_POLICIES);
	return e;
}

/* --- The first token, and fused steps -------------------------------------------------------- */

/* From a prompt's text to the first token's. */
static int measure_first(struct bench *b, const struct daemon *d)
{
	struct writing w = {.daemon = d, .prompt_bytes = PROMPT_BYTES};
	struct gpuq_written written;
	double seconds[FIRST_TOKENS];
	int e = 0;

	for (uint32_t i = 0; i < FIRST_TOKENS && e >= 0; i++) {
		const uint64_t start_ns = clock_monotonic_ns();

		e = writing_begin_text(&w);
		if (e == 0)
			e = gpuq_writer_next(w.writer, &written);
		seconds[i] = 1e-9 * (double)(clock_monotonic_ns() - start_ns);
	}
	writing_close(&w);
	if (e < 0)
		return fail(e, "the first token of a text");
	qsort(seconds, FIRST_TOKENS, sizeof(*seconds), compare_double);
	report_figure(b, 1e3 * seconds[FIRST_TOKENS / 2],
		"generate %s %s: ms to the first token of a prompt of %u bytes", b->shape,
		b->weights, PROMPT_BYTES);
	return 0;
}

static int measure_rate(struct bench *b, const struct daemon *d, uint32_t fused, double *ret_per_s)
{
	struct writing w = {.daemon = d,
		.policy = {.temperature = 0.8f * shared.unit},
		.fused = fused,
		.prompt_bytes = 100};
	struct gpuq_written written;
	uint64_t start_ns = 0, end_ns = 0;
	int e;

	if (fused == 0)
		w.policy.top_k = 40;
	e = writing_begin_text(&w);
	/* The first token and a request's worth to warm up, then a text's worth. */
	for (uint32_t i = 0; i <= FUSED + LLM_DECODED && e >= 0; i++) {
		e = gpuq_writer_next(w.writer, &written);
		end_ns = clock_monotonic_ns();
		start_ns = i == FUSED ? end_ns : start_ns;
	}
	writing_close(&w);
	*ret_per_s = LLM_DECODED * 1e9 / (double)(end_ns - start_ns);
	return e < 0 ? e : 0;
}

static int measure_rates(struct bench *b, const struct daemon *d)
{
	double drawn_here = 0, fused = 0;
	int e = measure_rate(b, d, 0, &drawn_here);

	if (e == 0)
		e = measure_rate(b, d, FUSED, &fused);
	if (e < 0)
		return fail(e, "a text");
	report_figure(b, drawn_here, "generate %s %s: tokens/s, each drawn here, top_k 40",
		b->shape, b->weights);
	report_figure(b, fused, "generate %s %s: tokens/s, %u drawn on the device at once",
		b->shape, b->weights, FUSED);
	return 0;
}

/* --- Many policies --------------------------------------------------------------------------- */

/* None of them needs the full row. */
static struct gpuq_sampling policy_of(uint32_t number)
{
	const struct gpuq_sampling usual = {
		.temperature = 0.8f * shared.unit, .top_k = 40, .seed = number};
	const float step = (float)number / LLM_MAX_CLIENTS;
	struct gpuq_sampling p = usual;

	if (shared.alike)
		return p;
	p.temperature *= 0.5f + step;
	p.top_k = 5 + number;
	p.top_p = number % 2 == 0 ? 0.8f + 0.15f * step : 0;
	p.min_p = number % 3 == 0 ? 0.02f + 0.05f * step : 0;
	p.typical_p = number % 5 == 0 ? 0.9f : 0;
	p.repetition_penalty = number % 4 == 0 ? 1.05f + 0.2f * step : 0;
	p.frequency_penalty = number % 7 == 0 ? 0.1f : 0;
	return p;
}

static int speak(const struct daemon *d, struct llm_crowd_page *page, uint32_t number)
{
	const struct clock_line clock = {0};
	struct writing w = {.daemon = d, .policy = policy_of(number), .prompt_bytes = 100};
	uint64_t ns = 0;
	int e = write_tokens(&w, &clock, &ns, 1);

	if (e < 0)
		return e;
	llm_crowd_ready(page);
	do
		e = write_tokens(&w, &clock, &ns, 1);
	while (e == 0 && llm_crowd_note(page, ns));
	writing_close(&w);
	return e;
}

/* Crowds with one policy and with many, in turn; each by its best round. */
static int measure_crowds(struct bench *b, const struct daemon *d)
{
	double per_s[2] = {0};
	int e = 0;

	cpus_free(0);
	for (uint32_t i = 0; i < 2 * CROWD_ROUNDS && e == 0; i++) {
		struct llm_crowd c = {0};

		shared.alike = i % 2 == 0;
		progress("%u clients with %s", LLM_MAX_CLIENTS,
			shared.alike ? "one policy" : "as many policies");
		e = llm_crowd(d, LLM_MAX_CLIENTS, b->seconds > 0 ? b->seconds : CROWD_S, speak, &c);
		if (c.tokens_per_s > per_s[i % 2])
			per_s[i % 2] = c.tokens_per_s;
	}
	if (e < 0)
		return e;
	report_line("%u clients: %.1f tokens/s with one policy, %.1f with as many policies\n",
		LLM_MAX_CLIENTS, per_s[0], per_s[1]);
	report_check_at_least(b, per_s[1] / per_s[0], 0.95,
		"%u clients with as many policies: tokens/s, of those with one", LLM_MAX_CLIENTS);
	return 0;
}

/* --- All of it ------------------------------------------------------------------------------- */

static int measure_with_daemon(
	struct bench *b, const struct llm_folder *folder, const struct daemon *d)
{
	const struct model_options options = llm_options(b);
	struct llm_local *local = NULL;
	int e = find_unit(d);

	if (e < 0)
		return fail(e, "a row of logits");
	e = capture_steps(d);
	if (e < 0)
		return fail(e, "graphs of the model's steps");
	report_line("temperatures are in units of %.3g\n", (double)shared.unit);
	e = llm_local_open(b, folder->fd, &options, cpus_count(), &local);
	if (e == 0)
		e = measure_policies(b, d, local);
	llm_local_close(local);
	if (e == 0)
		e = measure_first(b, d);
	if (e == 0)
		e = measure_rates(b, d);
	return e == 0 ? measure_crowds(b, d) : e;
}

static int measure(struct bench *b, const struct llm_folder *folder)
{
	struct daemon d;
	int e = text_compare_tokenizers(b, folder);

	if (e == 0)
		e = gpuq_tokenizer_load(folder->path, &shared.tokenizer);
	if (e < 0)
		return fail(e, "the tokenizer");
	e = llm_daemon_start(b, folder, &d);
	if (e < 0) {
		gpuq_tokenizer_destroy(shared.tokenizer);
		return e;
	}
	e = measure_with_daemon(b, folder, &d);
	daemon_stop(&d);
	gpuq_tokenizer_destroy(shared.tokenizer);
	return e;
}

int bench_generate(struct bench *b)
{
	const struct llm_shape *shape = llm_shape_find(b->shape);
	struct llm_folder folder;
	int e = llm_folder_open(b, &folder);

	if (e < 0)
		return e;
	e = text_write_tokenizer(&folder, shape->vocab);
	if (e < 0)
		complain(e, "the tokenizer in %s", folder.path);
	else
		e = measure(b, &folder);
	llm_folder_close(&folder);
	return e;
}
