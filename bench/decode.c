/* SPDX-License-Identifier: MIT */
/*
 * decode.c: language models with random weights. `decode`: one token after another, by the engine
 * in this process, by a client of gpuqd, and by llama.cpp; then many clients at once. `prefill`:
 * whole prompts.
 */
#include "bench/llm.h"

#include <llama.h>

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS 8u
#define DECODE_STEPS 64u /* of each row, unless --samples says otherwise */
#define PROMPTS 16u
#define PROMPT_TOKENS 256u
#define CROWD_S 3.0
#define TURNS 5u /* quiet and beside captures */
#define TURN_S 1.0

/* --- Who answers ---------------------------------------------------------------------------- */

/* A session that is decoded from LLM_CONTEXT tokens on, again and again. */
struct speaker {
	int (*step)(void *, const int32_t *, uint32_t, int32_t *);
	int (*restart)(void *);
	void *state;
	uint32_t length; /* of its text */
	int32_t next;
};

static int local_step(void *l, const int32_t *tokens, uint32_t n, int32_t *ret_token)
{
	return llm_local_step(l, tokens, n, ret_token);
}

static int local_restart(void *l)
{
	return llm_local_restart(l);
}

static int remote_step(void *r, const int32_t *tokens, uint32_t n, int32_t *ret_token)
{
	return llm_remote_step(r, tokens, n, ret_token);
}

static int remote_restart(void *r)
{
	return llm_remote_restart(r);
}

/* Prompts differ, so that none is found in the cache. */
static int read_prompt(struct speaker *s, uint32_t n)
{
	static int32_t salt;
	int32_t prompt[LLM_MAX_PROMPT];
	int e = s->restart(s->state);

	salt = (salt + 1) % 997;
	for (uint32_t i = 0; i < n; i++)
		prompt[i] = (int32_t)(i * 7 + 3) % 1000 + salt;
	if (e == 0)
		e = s->step(s->state, prompt, n, &s->next);
	s->length = n;
	return e;
}

static int decode(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	struct speaker *s = state;

	for (uint64_t i = 0; i < n; i++) {
		int e = 0;

		if (s->length == 0 || s->length >= LLM_CONTEXT + LLM_DECODED)
			e = read_prompt(s, LLM_CONTEXT);
		const uint64_t start_ns = clock_now_ns(clock);
		if (e == 0)
			e = s->step(s->state, &s->next, 1, &s->next);
		if (e < 0)
			return e;
		ret_ns[i] = clock_now_ns(clock) - start_ns;
		s->length++;
	}
	return 0;
}

static int prefill(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		const uint64_t start_ns = clock_now_ns(clock);
		int e = read_prompt(state, PROMPT_TOKENS);

		if (e < 0)
			return e;
		ret_ns[i] = clock_now_ns(clock) - start_ns;
	}
	return 0;
}

/* --- llama.cpp ------------------------------------------------------------------------------ */

/* Seconds of each step or prompt; NULL, having said why, when it cannot be measured. */
static json_t *llama_measure(const struct bench *b, uint32_t steps, uint32_t prompts)
{
	const struct llm_shape *s = llm_shape_find(b->shape);
	char shape[256], numbers[5][16];
	const uint32_t values[5] = {cpus_count(), LLM_CONTEXT, steps, PROMPT_TOKENS, prompts};
	const char *const arguments[] = {shape, b->weights, numbers[0], numbers[1], numbers[2],
		numbers[3], numbers[4], NULL};

	snprintf(shape, sizeof(shape),
		"{\"vocab\":%u,\"hidden\":%u,\"layers\":%u,\"heads\":%u,\"kv_heads\":%u,"
		"\"head_dim\":%u,\"intermediate\":%u,\"positions\":%u}",
		s->vocab, s->hidden, s->layers, s->heads, s->kv_heads, s->head_dim, s->intermediate,
		s->positions);
	for (uint32_t i = 0; i < 5; i++)
		snprintf(numbers[i], sizeof(numbers[i]), "%u", values[i]);
	return python_measure(b, "llama.cpp", llama_py, arguments);
}

static double median_s(const json_t *seconds)
{
	double sorted[1024];
	size_t n = 0, i;
	const json_t *value;

	json_array_foreach(seconds, i, value)
	{
		size_t at = n;

		for (; at > 0 && sorted[at - 1] > json_number_value(value); at--)
			sorted[at] = sorted[at - 1];
		sorted[at] = json_number_value(value);
		n++;
		if (n == sizeof(sorted) / sizeof(sorted[0]))
			break;
	}
	return n > 0 ? sorted[n / 2] : NAN;
}

static void compare_llama(
	struct bench *b, const char *what, double ours_per_s, uint32_t steps, uint32_t prompts)
{
	cpus_free(0);
	json_t *llama = llama_measure(b, steps, prompts);
	const double tokens = steps > 0 ? 1 : PROMPT_TOKENS;
	const double theirs_per_s = tokens / median_s(json_object_get(llama, what));

	if (llama == NULL)
		return;
	report_line("llama.cpp %s, %s, %u threads: %.2f tokens/s\n",
		json_string_value(json_object_get(llama, "llama")), b->weights, cpus_count(),
		theirs_per_s);
	report_check_at_least(b, ours_per_s / theirs_per_s, 1, "%s %s %s: tokens/s, of llama.cpp's",
		what, b->shape, b->weights);
	report_json(b, "llama.cpp", llama);
}

/* --- decode and prefill --------------------------------------------------------------------- */

/* gpuqd and this process, each with the model. */
struct stage {
	struct llm_folder folder;
	struct daemon daemon;
	struct llm_local *local;
	struct llm_remote *remote;
	struct speaker speakers[2];
	bool started;
};

static void stage_close(struct stage *s)
{
	llm_remote_close(s->remote);
	if (s->started)
		daemon_stop(&s->daemon);
	llm_local_close(s->local);
	llm_folder_close(&s->folder);
}

static int stage_open(struct bench *b, struct stage *s)
{
	const struct model_options options = llm_options(b);
	int e = llm_folder_open(b, &s->folder);

	if (e < 0)
		return e;
	e = llm_daemon_start(b, &s->folder, &s->daemon);
	s->started = e == 0;
	if (e == 0)
		e = llm_local_open(b, s->folder.fd, &options, cpus_count(), &s->local);
	if (e == 0)
		e = llm_remote_open(&s->daemon, &s->remote);
	s->speakers[0] = (struct speaker){local_step, local_restart, s->local, 0, 0};
	s->speakers[1] = (struct speaker){remote_step, remote_restart, s->remote, 0, 0};
	if (e < 0)
		stage_close(s);
	return e;
}

/* What is measured: answers of so many tokens, by all who answer. */
struct task {
	const char *name;
	uint32_t tokens;
	uint64_t preset; /* answers, unless --samples says otherwise */
	int (*run)(void *, const struct clock_line *, uint64_t *, uint64_t);
	uint32_t llama_steps, llama_prompts;
	bool crowds; /* also of many clients at once */
};

/* Both take turns; *ret_per_s is how often a second the client of gpuqd is answered. */
static int measure(struct bench *b, struct stage *s, const struct task *t, const char *title,
	double *ret_per_s)
{
	struct contender set[2] = {
		{.name = "engine in this process", .state = &s->speakers[0], .run = t->run},
		{.name = "client of gpuqd", .state = &s->speakers[1], .run = t->run},
	};
	int e;

	for (uint32_t i = 0; i < 2; i++)
		set[i].per_round = per_round_at_most(b, t->preset, ROUNDS);
	e = contenders_measure(b, set, 2, ROUNDS);
	if (e == 0) {
		report_table(b, title, "engine", set, 2);
		*ret_per_s = 1e9 / series_typical_ns(&set[1].series);
		report_check(b,
			series_typical_ns(&set[1].series) / series_typical_ns(&set[0].series), 1.02,
			"%s: through gpuqd, of the engine in process", title);
	}
	contenders_free(set, 2);
	return e;
}

static int measure_crowds(struct bench *b, const struct stage *s)
{
	json_t *rows = json_array();
	double alone_per_s = 0;
	int e = 0;

	cpus_free(0);
	report_line("\n%8s %12s %10s %12s %12s\n", "clients", "tokens/s", "of one's", "p50 ms",
		"p99 ms");
	for (uint32_t n = 1; n <= LLM_MAX_CLIENTS && e == 0; n *= 2) {
		struct llm_crowd c;

		progress("%u clients", n);
		e = llm_crowd(
			&s->daemon, n, b->seconds > 0 ? b->seconds : CROWD_S, llm_speak_steps, &c);
		if (e < 0)
			break;
		alone_per_s = n == 1 ? c.tokens_per_s : alone_per_s;
		report_line("%8u %12.1f %10.2f %12.2f %12.2f\n", n, c.tokens_per_s,
			c.tokens_per_s / alone_per_s, 1e-6 * (double)c.p50_ns,
			1e-6 * (double)c.p99_ns);
		json_array_append_new(rows,
			json_pack("{s:i, s:f, s:I, s:I}", "clients", (int)n, "tokens_per_s",
				c.tokens_per_s, "p50_ns", (json_int_t)c.p50_ns, "p99_ns",
				(json_int_t)c.p99_ns));
	}
	report_json(b, "clients", rows);
	return e;
}

/*
 * The pace of one client, alone and while another has shapes captured, in turns as long as there
 * are new ones. Returns how many turns, or a negative error.
 */
static int take_turns(const struct stage *s, struct llm_captures *captures, double ratios[TURNS])
{
	struct llm_crowd quiet, beside;
	uint64_t made = 0, before;

	for (uint32_t i = 0; i < TURNS; i++) {
		progress("beside captures, %u of %u", i + 1, TURNS);
		int e = llm_crowd(&s->daemon, 1, TURN_S, llm_speak_steps, &quiet);
		if (e == 0)
			e = llm_captures_start(captures, &s->daemon);
		if (e < 0)
			return e;
		e = llm_crowd(&s->daemon, 1, TURN_S, llm_speak_steps, &beside);
		before = made;
		made = llm_captures_stop(captures);
		if (e < 0 || made == before)
			return e < 0 ? e : (int)i;
		ratios[i] = (double)beside.p99_ns / (double)quiet.p99_ns;
		report_line("quiet: p50 %.2f ms, p99 %.2f; beside %llu captures: %.2f, %.2f\n",
			1e-6 * (double)quiet.p50_ns, 1e-6 * (double)quiet.p99_ns,
			(unsigned long long)(made - before), 1e-6 * (double)beside.p50_ns,
			1e-6 * (double)beside.p99_ns);
	}
	return (int)TURNS;
}

static int measure_captures(struct bench *b, const struct stage *s)
{
	struct llm_captures *captures = NULL;
	double ratios[TURNS];
	int n = llm_captures_open(&captures);

	report_line("\n");
	if (n == 0)
		n = take_turns(s, captures, ratios);
	llm_captures_close(captures);
	if (n <= 0) {
		complain(n == 0 ? -ENODATA : n, "captures beside decoding were not measured");
		return n == 0 ? -ENODATA : n;
	}
	qsort(ratios, (size_t)n, sizeof(ratios[0]), compare_double);
	/* With fewer CPUs than parties a capture takes time from everyone. */
	report_check_if(b, cpus_count() >= 4, ratios[n / 2], 1.1,
		"decode %s %s: p99 between tokens, beside captures / quiet", b->shape, b->weights);
	return 0;
}

static int run_task(struct bench *b, const struct task *t, const char *title)
{
	struct stage s = {.folder = {.fd = -1}};
	double per_s = 0;
	int e = stage_open(b, &s);

	if (e < 0)
		return e;
	e = measure(b, &s, t, title, &per_s);
	per_s *= t->tokens;
	if (e == 0)
		report_line("client of gpuqd: %.2f tokens/s\n", per_s);
	if (e == 0 && t->crowds)
		e = measure_crowds(b, &s);
	if (e == 0 && t->crowds)
		e = measure_captures(b, &s);
	stage_close(&s);
	if (e == 0)
		compare_llama(b, t->name, per_s, t->llama_steps, t->llama_prompts);
	return e;
}

int bench_decode(struct bench *b)
{
	static const struct task task = {.name = "decode",
		.tokens = 1,
		.preset = DECODE_STEPS,
		.run = decode,
		.llama_steps = DECODE_STEPS,
		.crowds = true};
	char title[96];

	snprintf(title, sizeof(title), "decode %s %s, %u tokens after %u", b->shape, b->weights,
		LLM_DECODED, LLM_CONTEXT);
	return run_task(b, &task, title);
}

int bench_prefill(struct bench *b)
{
	static const struct task task = {.name = "prefill",
		.tokens = PROMPT_TOKENS,
		.preset = PROMPTS,
		.run = prefill,
		.llama_prompts = PROMPTS / 2};
	char title[96];

	snprintf(title, sizeof(title), "prefill %s %s, %u tokens", b->shape, b->weights,
		PROMPT_TOKENS);
	return run_task(b, &task, title);
}
