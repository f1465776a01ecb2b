/* SPDX-License-Identifier: MIT */
/*
 * test-models.c: language models end to end, on a small model of random weights: what comes back
 * is what the model computes, for several clients at once; what is refused; and what becomes of
 * everybody else when a client is killed, a model is unloaded, the cache is full or the device
 * process dies.
 *
 *	TEST_SEED=N   weights and texts; printed
 */
#include "tests/integration/children.h"
#include "tests/integration/tiny-model.h"
#include "tests/integration/world.h"
#include "tests/models/rig.h"

#include "shm/clock.h"

#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CLIENTS 4u
#define GREEDY 24u /* tokens of a text that is compared */

/* --- What comes back ----------------------------------------------------------------------- */

static void check_rows(
	const struct gpuq_call *step, uint32_t rows, const double *want, double tolerance)
{
	struct gpuq_row row;

	for (uint32_t i = 0; i < rows; i++) {
		double difference = 0, norm = 0;
		assert_int_equal(gpuq_step_row(step, i, &row), 0);
		for (uint32_t v = 0; v < TINY_VOCAB; v++) {
			double w = want[i * TINY_VOCAB + v], d = (double)row.logits[v] - w;
			difference += d * d;
			norm += w * w;
		}
		if (!(sqrt(difference) <= tolerance * sqrt(norm)))
			fail_msg("row %u is %g off", i, sqrt(difference / norm));
	}
}

/* In one piece, in pieces across chunks and blocks, and token by token. */
static void test_logits(void **state)
{
	static const char *const args[] = {"--prefill-chunk", "32", NULL};
	enum { N = 100 };
	static const uint32_t pieces[] = {N, 37, 17, 16, 1};
	const struct gpuq_step_options all = {.max_tokens = N, .max_rows = N, .logits = true};
	int32_t tokens[N];
	struct tiny_world w;
	struct client c;

	tiny_start(&w, false, args);
	tiny_client_open(&c);
	tiny_text(&w.rng, tokens, N);
	double *want = reference_logits(w.dir_fd, tokens, N);
	for (uint32_t k = 0; k < sizeof(pieces) / sizeof(pieces[0]); k++) {
		struct gpuq_session *s = tiny_session_open(&c);
		struct gpuq_call *step = tiny_step_create(s, &all);
		for (uint32_t at = 0; at < N; at += pieces[k]) {
			uint32_t n = N - at < pieces[k] ? N - at : pieces[k];
			const struct gpuq_completion done =
				tiny_run_step(&c, step, &tokens[at], n, n);
			tiny_expect_status(step, &done, 0);
			check_rows(step, n, &want[at * TINY_VOCAB], 1e-5);
		}
		gpuq_call_destroy(step);
		gpuq_session_close(s);
	}
	free(want);
	client_close(&c);
	tiny_stop(&w);
}

/* Candidates, log-sum-exp, entropy and named logits of a row are those of its logits. */
static void test_rows(void **state)
{
	enum { N = 20, K = 5 };
	const struct gpuq_step_options o = {
		.max_tokens = N, .max_rows = 3, .top_k = K, .max_ids = 4};
	const int32_t ids[] = {3, -1, TINY_VOCAB, 96};
	const double temperature = 0.5;
	int32_t tokens[N];
	struct tiny_world w;
	struct client c;

	tiny_start(&w, false, NULL);
	tiny_client_open(&c);
	tiny_text(&w.rng, tokens, N);
	double *want = reference_logits(w.dir_fd, tokens, N);
	struct gpuq_call *step = tiny_step_create(tiny_session_open(&c), &o);
	assert_int_equal(gpuq_step_set_ids(step, ids, 4), 0);
	assert_int_equal(gpuq_step_set_temperature(step, (float)temperature), 0);
	const struct gpuq_completion done = tiny_run_step(&c, step, tokens, N, 3);
	tiny_expect_status(step, &done, 0);
	for (uint32_t i = 0; i < 3; i++) {
		const double *l = &want[(N - 3 + i) * TINY_VOCAB];
		double sum = 0, mean = 0;
		struct gpuq_row row;
		assert_int_equal(gpuq_step_row(step, i, &row), 0);
		for (uint32_t v = 0; v < TINY_VOCAB; v++) {
			sum += exp(l[v] / temperature);
			mean += exp(l[v] / temperature) * l[v] / temperature;
		}
		assert_float_equal(row.lse, log(sum), 1e-3);
		assert_float_equal(row.entropy, log(sum) - mean / sum, 1e-3);
		assert_int_equal(row.n_candidates, K);
		for (uint32_t k = 0; k < K; k++) {
			uint32_t above = 0;
			assert_in_range(row.tokens[k], 0, TINY_VOCAB - 1);
			assert_float_equal(row.values[k], l[row.tokens[k]], 1e-3);
			for (uint32_t v = 0; v < TINY_VOCAB; v++)
				above += l[v] > (double)row.values[k] + 1e-3;
			assert_true(above <= k);
		}
		assert_float_equal(row.named[0], l[3], 1e-3);
		assert_true(isinf(row.named[1]) && isinf(row.named[2]));
		assert_float_equal(row.named[3], l[96], 1e-3);
	}
	assert_int_equal(gpuq_step_row(step, 3, &(struct gpuq_row){0}), -EINVAL);
	free(want);
	client_close(&c);
	tiny_stop(&w);
}

/* Goes on with the greatest logit, one step after another. */
static void greedy(struct client *c, struct gpuq_session *s, const int32_t *prompt, uint32_t n,
	int32_t *ret_tokens, uint32_t n_tokens)
{
	const struct gpuq_step_options o = {.max_tokens = n, .max_rows = 1, .top_k = 1};
	struct gpuq_call *step = tiny_step_create(s, &o);
	struct gpuq_row row;

	for (uint32_t i = 0; i < n_tokens; i++) {
		const struct gpuq_completion done = i == 0
			? tiny_run_step(c, step, prompt, n, 1)
			: tiny_run_step(c, step, &ret_tokens[i - 1], 1, 1);
		tiny_expect_status(step, &done, 0);
		assert_int_equal(gpuq_step_row(step, 0, &row), 0);
		ret_tokens[i] = row.tokens[0];
	}
	gpuq_call_destroy(step);
}

static void generate(struct client *c, struct gpuq_session *s, const int32_t *prompt, uint32_t n,
	int32_t *ret_tokens, uint32_t n_tokens)
{
	const struct gpuq_generate_options o = {.max_tokens = n, .max_generate = n_tokens};
	const float *logprobs;
	const int32_t *tokens;
	struct gpuq_call *call;

	assert_int_equal(gpuq_generate_create(s, &o, &call), 0);
	assert_int_equal(gpuq_generate_set(call, prompt, n, n_tokens, 1), 0);
	const struct gpuq_completion done = tiny_run(c, call);
	tiny_expect_status(call, &done, (int)n_tokens);
	assert_int_equal(gpuq_generate_result(call, &tokens, &logprobs), 0);
	memcpy(ret_tokens, tokens, n_tokens * sizeof(*tokens));
	for (uint32_t i = 0; i < n_tokens; i++)
		assert_true(logprobs[i] <= 0);
	gpuq_call_destroy(call);
}

/* By steps, by the device, after a fork and after a cut: the same text. */
static void test_generation(void **state)
{
	enum { N = 20 };
	int32_t prompt[N], steps[GREEDY], made[GREEDY];
	struct gpuq_session *s, *forked;
	struct tiny_world w;
	struct client c;

	tiny_start(&w, false, NULL);
	tiny_client_open(&c);
	tiny_text(&w.rng, prompt, N);
	s = tiny_session_open(&c);
	greedy(&c, s, prompt, N, steps, GREEDY);
	forked = tiny_session_open(&c);
	generate(&c, forked, prompt, N, made, GREEDY);
	assert_memory_equal(made, steps, sizeof(steps));
	gpuq_session_close(forked);
	assert_int_equal(gpuq_session_truncate(s, N - 3), 0);
	assert_int_equal(gpuq_session_truncate(s, N), -EINVAL);
	assert_int_equal(gpuq_session_fork(s, &forked), 0);
	generate(&c, forked, &prompt[N - 3], 3, made, GREEDY);
	assert_memory_equal(made, steps, sizeof(steps));
	greedy(&c, s, &prompt[N - 3], 3, made, GREEDY);
	assert_memory_equal(made, steps, sizeof(steps));
	client_close(&c);
	tiny_stop(&w);
}

/* A channel without a free piece of its arena can still end its sessions, and says why not more. */
static void test_full_arena(void **state)
{
	static const char *const args[] = {"--max-sessions-per-client", "2", NULL};
	const struct gpuq_channel_options small = {.arena_bytes = 65536};
	struct gpuq_session *sessions[2], *third;
	struct gpuq_model_info m;
	struct tiny_world w;
	struct client c;
	void *data;

	tiny_start(&w, false, args);
	client_open(&c, &small);
	served_await(c.g, "tiny");
	for (uint32_t i = 0; i < 2; i++)
		sessions[i] = tiny_session_open(&c);
	assert_int_equal(gpuq_session_open(c.ch, "tiny", &third), -GPUQ_ELIMIT);
	assert_non_null(strstr(gpuq_error_detail(), "max_sessions_per_client"));
	assert_int_equal(gpuq_session_truncate(sessions[0], 1), -EINVAL);
	assert_non_null(strstr(gpuq_error_detail(), "fewer than 1 tokens"));
	while (gpuq_alloc(c.ch, 64, &data) == 0)
		;
	for (uint32_t i = 0; i < 2; i++)
		gpuq_session_close(sessions[i]);
	do {
		assert_int_equal(gpuq_model_find(c.g, "tiny", &m), 0);
		usleep(2000);
	} while (m.sessions > 0);
	client_close(&c);
	tiny_stop(&w);
}

/* --- Several clients ----------------------------------------------------------------------- */

/* Shared by a test and its children: what each of them has to come to. */
static struct {
	int32_t prompts[CLIENTS][40], texts[CLIENTS][GREEDY];
	uint32_t n[CLIENTS];
} plan;

static void client_main(struct child *child)
{
	const uint32_t k = child->number;
	int32_t made[GREEDY];
	struct client c;

	tiny_client_open(&c);
	child_say_ready(child);
	for (uint32_t i = 0; i < 4 || !child_should_stop(child); i++) {
		struct gpuq_session *s = tiny_session_open(&c);
		if (i % 2 == 0)
			greedy(&c, s, plan.prompts[k], plan.n[k], made, GREEDY);
		else
			generate(&c, s, plan.prompts[k], plan.n[k], made, GREEDY);
		assert_memory_equal(made, plan.texts[k], sizeof(made));
		gpuq_session_close(s);
	}
	client_close(&c);
}

static void make_plan(struct tiny_world *w)
{
	struct client c;

	tiny_client_open(&c);
	for (uint32_t k = 0; k < CLIENTS; k++) {
		struct gpuq_session *s = tiny_session_open(&c);
		plan.n[k] = 5 + 11 * k;
		tiny_text(&w->rng, plan.prompts[k], plan.n[k]);
		greedy(&c, s, plan.prompts[k], plan.n[k], plan.texts[k], GREEDY);
		gpuq_session_close(s);
	}
	client_close(&c);
}

/* Nothing of the cache is in use, and no session is open. */
static void await_idle(struct gpuq *g)
{
	const uint64_t start_ns = clock_monotonic_ns();
	struct gpuq_model_info m;

	do {
		assert_int_equal(gpuq_model_find(g, "tiny", &m), 0);
		if (clock_monotonic_ns() - start_ns > PATIENCE_NS)
			fail_msg("%u sessions, %u + %u of %u blocks", m.sessions, m.kv_free_blocks,
				m.kv_cached_blocks, m.kv_blocks);
		usleep(2000);
	} while (m.sessions != 0 || m.kv_free_blocks + m.kv_cached_blocks != m.kv_blocks);
	assert_true(m.kv_blocks > 0);
}

/* Each gets what it gets alone; some of them are killed meanwhile. */
static void test_clients(void **state)
{
	struct child children[CLIENTS], victim = {.run = client_main};
	struct tiny_world w;
	struct client c;

	tiny_start(&w, false, NULL);
	make_plan(&w);
	tiny_client_open(&c);
	for (uint32_t k = 0; k < CLIENTS; k++) {
		children[k] = (struct child){.run = client_main, .number = k};
		child_start(&children[k]);
	}
	for (uint32_t k = 0; k < CLIENTS; k++)
		child_await_ready(&children[k]);
	for (uint32_t i = 0; i < 8; i++) {
		child_start(&victim);
		child_await_ready(&victim);
		usleep((useconds_t)random_below(&w.rng, 10000));
		child_kill(&victim);
	}
	for (uint32_t k = 0; k < CLIENTS; k++) {
		child_stop(&children[k]);
		child_free(&children[k]);
	}
	child_free(&victim);
	await_idle(c.g);
	client_close(&c);
	tiny_stop(&w);
}

/* Two connections of a user have together what the user may have. */
static void test_greedy_user(void **state)
{
	static const char *const args[] = {
		"--kv-bytes", "160K", "--kv-blocks-per-user", "12", NULL};
	const struct gpuq_step_options o = {.max_tokens = 64, .max_rows = 1, .top_k = 1};
	struct client clients[2];
	int32_t tokens[64];
	struct tiny_world w;

	tiny_start(&w, false, args);
	tiny_client_open(&clients[0]);
	tiny_client_open(&clients[1]);
	for (uint32_t i = 0; i < 4; i++) {
		struct gpuq_call *step = tiny_step_create(tiny_session_open(&clients[i % 2]), &o);

		tiny_text(&w.rng, tokens, 64);
		const struct gpuq_completion done =
			tiny_run_step(&clients[i % 2], step, tokens, 64, 1);
		tiny_expect_status(step, &done, i < 3 ? 0 : -GPUQ_EKV);
	}
	client_close(&clients[0]);
	client_close(&clients[1]);
	tiny_stop(&w);
}

/* Has as much of the cache as it may, and is refused more; another one does not feel it. */
static void test_greedy_client(void **state)
{
	static const char *const args[] = {
		"--kv-bytes", "160K", "--kv-blocks-per-client", "12", NULL};
	const struct gpuq_step_options o = {.max_tokens = 64, .max_rows = 1, .top_k = 1};
	struct gpuq_session *sessions[4];
	struct child other = {.run = client_main};
	struct gpuq_model_info m;
	int32_t tokens[64];
	struct tiny_world w;
	struct client c;
	int refused = 0;

	tiny_start(&w, false, args);
	make_plan(&w);
	tiny_client_open(&c);
	assert_int_equal(gpuq_model_find(c.g, "tiny", &m), 0);
	assert_in_range(m.kv_blocks, 13, 64);
	child_start(&other);
	child_await_ready(&other);
	for (uint32_t i = 0; i < 4; i++) {
		sessions[i] = tiny_session_open(&c);
		struct gpuq_call *step = tiny_step_create(sessions[i], &o);
		tiny_text(&w.rng, tokens, 64);
		const struct gpuq_completion done = tiny_run_step(&c, step, tokens, 64, 1);
		tiny_expect_status(step, &done, i < 3 ? 0 : -GPUQ_EKV);
		refused += done.status < 0;
	}
	assert_int_equal(refused, 1);
	/* What it gives up it can have again. */
	gpuq_session_close(sessions[0]);
	struct gpuq_call *step = tiny_step_create(sessions[3], &o);
	const struct gpuq_completion done = tiny_run_step(&c, step, tokens, 64, 1);
	tiny_expect_status(step, &done, 0);
	child_stop(&other);
	child_free(&other);
	client_close(&c);
	tiny_stop(&w);
}

/* --- Refusals ------------------------------------------------------------------------------ */

static void refused_step(struct client *c, struct gpuq_call *step, const int32_t *tokens,
	uint32_t n, int status, const char *sentence)
{
	const struct gpuq_completion done = tiny_run_step(c, step, tokens, n, 1);
	char text[256];

	tiny_expect_status(step, &done, status);
	gpuq_explain(step, &done, text, sizeof(text));
	if (strstr(text, sentence) == NULL)
		fail_msg("'%s' is not in '%s'", sentence, text);
}

/* What is refused leaves the session as it was. */
static void test_refused_steps(void **state)
{
	enum { N = TINY_CONTEXT + 1 };
	const struct gpuq_step_options o = {.max_tokens = N, .max_rows = 1, .top_k = 1};
	int32_t tokens[N], alone[GREEDY], made[GREEDY];
	struct gpuq_session *s;
	struct tiny_world w;
	struct client c;

	tiny_start(&w, false, NULL);
	tiny_client_open(&c);
	tiny_text(&w.rng, tokens, N);
	s = tiny_session_open(&c);
	greedy(&c, s, tokens, 10, alone, GREEDY);
	s = tiny_session_open(&c);
	struct gpuq_call *step = tiny_step_create(s, &o);
	refused_step(&c, step, tokens, 0, -GPUQ_ETOKEN, "step: parameter n_tokens: ");
	refused_step(&c, step, tokens, N, -GPUQ_ECONTEXT, "step: ");
	int32_t kept = tokens[9];
	tokens[9] = TINY_VOCAB;
	refused_step(&c, step, tokens, 10, -GPUQ_ETOKEN, "step: input tokens: ");
	tokens[9] = -1;
	refused_step(&c, step, tokens, 10, -GPUQ_ETOKEN, "step: input tokens: ");
	tokens[9] = kept;
	greedy(&c, s, tokens, 10, made, GREEDY);
	assert_memory_equal(made, alone, sizeof(made));
	/* The last token that there is room for. */
	assert_int_equal(gpuq_session_truncate(s, 10), 0);
	const struct gpuq_completion full =
		tiny_run_step(&c, step, &tokens[10], TINY_CONTEXT - 10, 1);
	tiny_expect_status(step, &full, 0);
	refused_step(&c, step, tokens, 1, -GPUQ_ECONTEXT, "step: ");
	gpuq_session_close(s);
	refused_step(&c, step, tokens, 1, -GPUQ_ESESSION, "step: ");
	client_close(&c);
	tiny_stop(&w);
}

static void test_refused_calls(void **state)
{
	const struct gpuq_step_options good = {.max_tokens = 4, .max_rows = 1, .top_k = 1};
	struct gpuq_generate_options g = {.max_tokens = 1};
	struct gpuq_session *s, *none = NULL;
	struct gpuq_step_options bad = {0};
	struct gpuq_call *step, *call = NULL;
	struct gpuq_model_info m;
	int32_t tokens[8] = {0};
	struct tiny_world w;
	struct client c;

	tiny_start(&w, false, NULL);
	tiny_client_open(&c);
	s = tiny_session_open(&c);
	assert_int_equal(gpuq_step_create(s, &bad, &call), -EINVAL);
	bad = (struct gpuq_step_options){.max_tokens = 1, .max_rows = 2};
	assert_int_equal(gpuq_step_create(s, &bad, &call), -EINVAL);
	bad = (struct gpuq_step_options){.max_tokens = 1, .top_k = 65};
	assert_int_equal(gpuq_step_create(s, &bad, &call), -EINVAL);
	bad = (struct gpuq_step_options){.max_tokens = 1, .top_k = 1, .logits = true};
	assert_int_equal(gpuq_step_create(s, &bad, &call), -EINVAL);
	bad = (struct gpuq_step_options){.max_tokens = 1u << 30};
	assert_int_equal(gpuq_step_create(s, &bad, &call), -GPUQ_ETOOBIG);
	assert_int_equal(gpuq_generate_create(s, &g, &call), -EINVAL);
	step = tiny_step_create(s, &good);
	assert_int_equal(gpuq_step_set(step, tokens, 5, 1), -EINVAL);
	assert_int_equal(gpuq_step_set(step, tokens, 4, 2), -EINVAL);
	assert_int_equal(gpuq_step_set_ids(step, tokens, 1), -EINVAL);
	assert_int_equal(gpuq_generate_set(step, tokens, 1, 1, 0), -EINVAL);
	assert_int_equal(gpuq_precapture(c.ch, step, 1), -EOPNOTSUPP);
	assert_int_equal(gpuq_session_open(c.ch, "other", &none), -GPUQ_EMODEL);
	assert_non_null(strstr(gpuq_error_detail(), "other"));
	assert_int_equal(gpuq_model_find(c.g, "other", &m), -GPUQ_EMODEL);
	assert_int_equal(gpuq_model_info(c.g, 0, &m), 0);
	assert_string_equal(m.name, "tiny");
	assert_string_equal(m.architecture, "llama");
	assert_int_equal(m.vocab, TINY_VOCAB);
	assert_int_equal(m.max_tokens, TINY_CONTEXT);
	assert_true(m.deterministic && !m.int8);
	assert_int_equal(gpuq_model_info(c.g, 1, &m), -ENOENT);
	/* Administration is for administrators. */
	const struct gpuq_load_options load = {.name = "x", .dir = w.dir};
	assert_int_equal(gpuq_admin_load(c.g, &load), -EPERM);
	assert_int_equal(gpuq_admin_unload(c.g, "tiny", true), -EPERM);
	assert_null(none);
	client_close(&c);
	tiny_stop(&w);
}

/* --- Loading and unloading ----------------------------------------------------------------- */

static void test_load_and_unload(void **state)
{
	const struct gpuq_step_options o = {.max_tokens = 8, .max_rows = 1, .top_k = 1};
	int32_t tokens[8] = {1, 2, 3, 4, 5, 6, 7, 8};
	struct gpuq_session *s;
	struct tiny_world w;
	struct client c;

	tiny_start(&w, true, NULL);
	TINY_GPUQ(1, "there is no model tiny", "unload", "tiny");
	TINY_GPUQ(1, "/nowhere: ", "load", "tiny", "/nowhere");
	TINY_GPUQ(2, "", "load", "tiny");
	TINY_GPUQ(2, "neither none nor int8", "load", "tiny", w.dir, "--quant", "int4");
	TINY_GPUQ(0, "tiny is ready: llama, 2 layers", "load", "tiny", w.dir, "--quant", "int8");
	TINY_GPUQ(1, "there is a model tiny already", "load", "tiny", w.dir);
	TINY_GPUQ(0, "int8", "models");
	tiny_client_open(&c);
	s = tiny_session_open(&c);
	struct gpuq_call *step = tiny_step_create(s, &o);
	struct gpuq_completion done = tiny_run_step(&c, step, tokens, 8, 1);
	tiny_expect_status(step, &done, 0);
	TINY_GPUQ(1, "1 open sessions", "unload", "tiny");
	done = tiny_run_step(&c, step, tokens, 8, 1);
	tiny_expect_status(step, &done, 0);
	TINY_GPUQ(0, "", "unload", "tiny", "--force");
	done = tiny_run_step(&c, step, tokens, 8, 1);
	tiny_expect_status(step, &done, -GPUQ_EMODEL);
	gpuq_session_close(s);
	/* Another of the same name has nothing to do with it. */
	TINY_GPUQ(0, "tiny is ready", "load", "tiny", w.dir);
	done = tiny_run_step(&c, step, tokens, 8, 1);
	tiny_expect_status(step, &done, -GPUQ_ESESSION);
	s = tiny_session_open(&c);
	step = tiny_step_create(s, &o);
	done = tiny_run_step(&c, step, tokens, 8, 1);
	tiny_expect_status(step, &done, 0);
	gpuq_session_close(s);
	TINY_GPUQ(0, "", "unload", "tiny");
	client_close(&c);
	tiny_stop(&w);
}

/* Two models at once: each computes what is its own, and one goes without the other. */
static void test_two_models(void **state)
{
	static const char *const args[] = {"--max-models", "2", NULL};
	const struct gpuq_step_options all = {.max_tokens = 8, .max_rows = 8, .logits = true};
	struct gpuq_session *sessions[2] = {NULL, NULL};
	struct gpuq_call *steps[2];
	int32_t tokens[8];
	struct tiny_world w;
	struct client c;
	char link[64];

	tiny_start(&w, false, args);
	const int dirs[] = {w.dir_fd, random_model(&tiny_config, GPUQ_F32, &w.rng)};
	snprintf(link, sizeof(link), "/proc/%d/fd/%d", (int)getpid(), dirs[1]);
	tiny_client_open(&c);
	TINY_GPUQ(0, "other is ready", "load", "other", link);
	TINY_GPUQ(1, "max_models (2)", "load", "third", link);
	tiny_text(&w.rng, tokens, 8);
	assert_int_equal(gpuq_session_open(c.ch, "tiny", &sessions[0]), 0);
	assert_int_equal(gpuq_session_open(c.ch, "other", &sessions[1]), 0);
	for (uint32_t i = 0; i < 2; i++) {
		struct gpuq_submission submission = {.user_data = i};
		steps[i] = submission.call = tiny_step_create(sessions[i], &all);
		assert_int_equal(gpuq_step_set(steps[i], tokens, 8, 8), 0);
		assert_int_equal(gpuq_submit(c.ch, &submission, 1), 1);
	}
	for (uint32_t i = 0; i < 2; i++) {
		struct gpuq_completion done;
		assert_int_equal(gpuq_wait(c.ch, &done, 1, PATIENCE_NS), 1);
		assert_int_equal(done.status, 0);
	}
	for (uint32_t i = 0; i < 2; i++) {
		double *want = reference_logits(dirs[i], tokens, 8);
		check_rows(steps[i], 8, want, 1e-5);
		free(want);
	}
	gpuq_session_close(sessions[1]);
	TINY_GPUQ(0, "", "unload", "other");
	const struct gpuq_completion done = tiny_run_step(&c, steps[0], tokens, 8, 8);
	tiny_expect_status(steps[0], &done, 0);
	close(dirs[1]);
	client_close(&c);
	tiny_stop(&w);
}

/*
 * A model that comes and goes leaves nothing behind: it has weights of 4 MiB, of which the slack is
 * for what the C library keeps of freed memory.
 */
static void test_loaded_again_and_again(void **state)
{
	enum { WARM_UP = 6, CYCLES = 12, SLACK_KIB = 16 << 10 };
	struct model_config large = tiny_config;
	struct world before, now;
	struct tiny_world w;
	char link[64], path[300];

	tiny_start(&w, true, NULL);
	snprintf(path, sizeof(path), "%s/logits.npy", harness_tmpdir());
	large.vocab = 4096;
	large.hidden = 128;
	close(w.dir_fd);
	w.dir_fd = random_model(&large, GPUQ_F32, &w.rng);
	snprintf(link, sizeof(link), "/proc/%d/fd/%d", (int)getpid(), w.dir_fd);
	before = world_look(w.daemon);
	for (uint32_t i = 0; i < CYCLES; i++) {
		TINY_GPUQ(0, "large is ready", "load", "large", link);
		TINY_GPUQ(0, "", "logits", "-m", "large", "--tokens", "1,2,3", "--out", path);
		TINY_GPUQ(0, "", "unload", "large");
		/* Connections may still be closing: of this look only the memory counts. */
		now = world_look(w.daemon);
		if (i + 1 == WARM_UP)
			before.device.pss_kib = now.device.pss_kib + SLACK_KIB;
	}
	world_await(w.daemon, &before);
	tiny_stop(&w);
}

/* What a client has under way when its model is taken away ends, with an error that says so. */
static void test_unload_under_way(void **state)
{
	enum { N = 8 };
	const struct gpuq_generate_options o = {.max_tokens = 1, .max_generate = TINY_CONTEXT - 8};
	const struct gpuq_options admin_options = {.admin = true};
	struct gpuq_completion done;
	struct gpuq_call *calls[N];
	struct gpuq *admin;
	struct tiny_world w;
	struct client c;
	int lost = 0;

	tiny_start(&w, false, NULL);
	tiny_client_open(&c);
	for (uint32_t i = 0; i < N; i++) {
		struct gpuq_submission s = {.user_data = i};
		assert_int_equal(gpuq_generate_create(tiny_session_open(&c), &o, &calls[i]), 0);
		assert_int_equal(
			gpuq_generate_set(calls[i], &(int32_t){(int32_t)i}, 1, o.max_generate, 1),
			0);
		s.call = calls[i];
		assert_int_equal(gpuq_submit(c.ch, &s, 1), 1);
	}
	assert_int_equal(gpuq_connect(&admin_options, &admin), 0);
	assert_int_equal(gpuq_admin_unload(admin, "tiny", true), 0);
	for (uint32_t i = 0; i < N; i++) {
		assert_int_equal(gpuq_wait(c.ch, &done, 1, PATIENCE_NS), 1);
		assert_true(done.status == -GPUQ_EMODEL || done.status > 0);
		lost += done.status < 0;
	}
	print_message("%d of %d were under way\n", lost, N);
	client_check_works(&c);
	gpuq_disconnect(admin);
	client_close(&c);
	tiny_stop(&w);
}

static void test_models_that_cannot_be_loaded(void **state)
{
	static const char config[] =
		"{\"architectures\":[\"MysteryForCausalLM\"],\"model_type\":\"mystery\"}";
	struct gpuq_session *s = NULL;
	struct gpuq_model_info m;
	char dir[600];
	struct tiny_world w;
	struct client c;

	tiny_start(&w, true, NULL);
	snprintf(dir, sizeof(dir), "%s/empty", harness_tmpdir());
	assert_int_equal(mkdir(dir, 0700), 0);
	TINY_GPUQ(1, "config.json", "load", "empty", dir);
	int fd = rig_folder();
	rig_write(fd, "config.json", config, strlen(config));
	snprintf(dir, sizeof(dir), "/proc/%d/fd/%d", (int)getpid(), fd);
	TINY_GPUQ(1, "Mystery", "load", "mystery", dir);
	TINY_GPUQ(0, "failed", "models");
	TINY_GPUQ(0, "\"subject\": \"model\"", "status", "--json"); /* among the errors */
	client_open(&c, NULL);
	assert_int_equal(gpuq_session_open(c.ch, "mystery", &s), -GPUQ_EMODEL);
	assert_non_null(strstr(gpuq_error_detail(), "Mystery"));
	assert_int_equal(gpuq_model_find(c.g, "mystery", &m), 0);
	assert_int_equal(m.state, GPUQ_MODEL_FAILED);
	assert_true(m.status < 0);
	/* A better one takes its place. */
	TINY_GPUQ(0, "mystery is ready", "load", "mystery", w.dir, "--deterministic");
	assert_int_equal(gpuq_session_open(c.ch, "mystery", &s), 0);
	client_close(&c);
	close(fd);
	tiny_stop(&w);
}

/* One whose folder is not there is shown with the reason; the others are served. */
static void test_no_folder_at_the_start(void **state)
{
	const char *const args[] = {"--model", "x=/nowhere", NULL};
	struct gpuq_model_info m;
	struct tiny_world w;
	struct client c;

	tiny_start(&w, false, args);
	tiny_client_open(&c);
	assert_int_equal(gpuq_model_find(c.g, "x", &m), 0);
	assert_int_equal(m.state, GPUQ_MODEL_FAILED);
	assert_non_null(strstr(m.why, "its folder /nowhere cannot be opened: No such file"));
	client_close(&c);
	tiny_stop(&w);
}

/* --- Tools --------------------------------------------------------------------------------- */

static void test_tools(void **state)
{
	const int32_t tokens[] = {5, 0, 96};
	struct harness_output o;
	char path[300];
	struct tiny_world w;
	struct client c;

	tiny_start(&w, false, NULL);
	tiny_client_open(&c);
	snprintf(path, sizeof(path), "%s/logits.npy", harness_tmpdir());
	TINY_GPUQ(0, "", "logits", "-m", "tiny", "--tokens", "5,0,96", "--out", path);
	FILE *f = fopen(path, "re");
	double *want = reference_logits(w.dir_fd, tokens, 3);
	float got[3 * TINY_VOCAB];
	assert_non_null(f);
	assert_int_equal(fseek(f, -(long)sizeof(got), SEEK_END), 0);
	assert_int_equal(fread(got, sizeof(got), 1, f), 1);
	fclose(f);
	for (uint32_t i = 0; i < 3 * TINY_VOCAB; i++)
		assert_float_equal(got[i], want[i], 1e-3);
	free(want);
	TINY_GPUQ(1, "vocabulary", "logits", "-m", "tiny", "--tokens", "97", "--out", path);
	TINY_GPUQ(2, "list of whole numbers", "logits", "-m", "tiny", "--tokens", "1,,2", "--out",
		path);
	TINY_GPUQ(1, "no model \"x\"", "logits", "-m", "x", "--tokens", "1", "--out", path);
	tiny_gpuq(&o, (const char *const[]){"models", "--json", NULL});
	json_t *document = json_loads(o.out, 0, NULL);
	json_t *model = json_array_get(json_object_get(document, "models"), 0);
	assert_string_equal(json_string_value(json_object_get(model, "state")), "ready");
	assert_int_equal(json_integer_value(json_object_get(
				 json_object_get(model, "counts"), "prompt_tokens")),
		3);
	json_decref(document);
	harness_output_free(&o);
	client_close(&c);
	tiny_stop(&w);
}

/* --- The device process -------------------------------------------------------------------- */

/* Everything under way ends typed; the model comes back by itself, its sessions do not. */
static void test_device_killed(void **state)
{
	enum { N = 20 };
	const struct gpuq_step_options o = {.max_tokens = N, .max_rows = 1, .top_k = 1};
	const struct gpuq_generate_options long_one = {
		.max_tokens = 1, .max_generate = TINY_CONTEXT - 8};
	int32_t prompt[N], before[GREEDY], after[GREEDY];
	struct gpuq_session *s, *other;
	struct gpuq_completion done;
	struct gpuq_call *generation;
	struct tiny_world w;
	struct client c;
	int r;

	tiny_start(&w, false, NULL);
	tiny_client_open(&c);
	tiny_text(&w.rng, prompt, N);
	s = tiny_session_open(&c);
	greedy(&c, s, prompt, N, before, GREEDY);
	struct gpuq_call *step = tiny_step_create(s, &o);
	other = tiny_session_open(&c);
	assert_int_equal(gpuq_generate_create(other, &long_one, &generation), 0);
	assert_int_equal(gpuq_generate_set(generation, prompt, 1, long_one.max_generate, 1), 0);
	const struct gpuq_submission submission = {.call = generation};
	assert_int_equal(gpuq_submit(c.ch, &submission, 1), 1);
	pid_t pid = world_device_pid(w.daemon), next;
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(gpuq_wait(c.ch, &done, 1, PATIENCE_NS), 1);
	assert_true(
		done.status == -GPUQ_EDEVICE || done.status == -GPUQ_ESESSION || done.status > 0);
	raw_await((next = world_device_pid(w.daemon)) != 0 && next != pid);
	done = tiny_run_step(&c, step, prompt, 1, 1);
	tiny_expect_status(step, &done, -GPUQ_ESESSION);
	gpuq_session_close(s);
	while ((r = gpuq_session_open(c.ch, "tiny", &s)) == -GPUQ_EMODEL) {
		assert_non_null(strstr(gpuq_error_detail(), "model tiny is loading"));
		usleep(1000);
	}
	assert_int_equal(r, 0);
	greedy(&c, s, prompt, N, after, GREEDY);
	assert_memory_equal(after, before, sizeof(after));
	client_close(&c);
	tiny_stop(&w);
}

/* What was submitted before gpuqd is told to end is done, whatever that takes. */
static void test_end(void **state)
{
	const struct gpuq_generate_options o = {.max_tokens = 1, .max_generate = TINY_CONTEXT - 8};
	struct gpuq_submission s = {0};
	struct gpuq_completion done;
	struct tiny_world w;
	struct client c;

	tiny_start(&w, false, NULL);
	tiny_client_open(&c);
	assert_int_equal(gpuq_generate_create(tiny_session_open(&c), &o, &s.call), 0);
	assert_int_equal(gpuq_generate_set(s.call, &(int32_t){7}, 1, o.max_generate, 1), 0);
	assert_int_equal(gpuq_submit(c.ch, &s, 1), 1);
	assert_int_equal(harness_daemon_stop(w.daemon), 0);
	assert_int_equal(gpuq_wait(c.ch, &done, 1, PATIENCE_NS), 1);
	tiny_expect_status(s.call, &done, (int)o.max_generate);
	client_close(&c);
	tiny_stop(&w);
}

/* A step that never ends is a wedge like any operator: its client hears of it and goes on. */
static void test_endless_step(void **state)
{
	/* The watchdog's other limit would be another reason. */
	static const char *const args[] = {"--test-faults", "work:500+=HANG", "--watchdog-ms", "0",
		"--operator-timeout-ms", "2000", NULL};
	const struct gpuq_step_options o = {.max_tokens = 1, .max_rows = 1, .top_k = 1};
	const int32_t token = 1;
	struct gpuq_completion done;
	struct tiny_world w;
	struct client c;

	tiny_start(&w, false, args);
	const pid_t pid = world_device_pid(w.daemon);
	tiny_client_open(&c);
	struct gpuq_session *s = tiny_session_open(&c);
	struct gpuq_call *step = tiny_step_create(s, &o);
	do {
		done = tiny_run_step(&c, step, &token, 1, 1);
	} while (done.status == 0);
	tiny_expect_status(step, &done, -GPUQ_EDEVICE);
	gpuq_call_destroy(step);
	gpuq_session_close(s);
	(void)world_await_device(w.daemon, pid);
	served_await(c.g, "tiny");
	step = tiny_step_create(tiny_session_open(&c), &o);
	done = tiny_run_step(&c, step, &token, 1, 1);
	tiny_expect_status(step, &done, 0);
	client_close(&c);
	tiny_stop(&w);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_logits),
		HARNESS_TEST(test_rows),
		HARNESS_TEST(test_generation),
		HARNESS_TEST(test_full_arena),
		HARNESS_TEST_LONG(test_clients, 60),
		HARNESS_TEST(test_greedy_user),
		HARNESS_TEST(test_greedy_client),
		HARNESS_TEST(test_refused_steps),
		HARNESS_TEST(test_refused_calls),
		HARNESS_TEST(test_load_and_unload),
		HARNESS_TEST(test_two_models),
		HARNESS_TEST(test_loaded_again_and_again),
		HARNESS_TEST(test_unload_under_way),
		HARNESS_TEST(test_models_that_cannot_be_loaded),
		HARNESS_TEST(test_no_folder_at_the_start),
		HARNESS_TEST(test_tools),
		HARNESS_TEST(test_device_killed),
		HARNESS_TEST_LONG(test_endless_step, 60),
		HARNESS_TEST(test_end),
	};

	return harness_run("models", tests, sizeof(tests) / sizeof(tests[0]));
}
