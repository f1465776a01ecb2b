/* SPDX-License-Identifier: MIT */
/* A small model of random weights, a gpuqd that serves it, and its clients. */
#include "tests/integration/tiny-model.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

const struct model_config tiny_config = {
	.architecture = MODEL_LLAMA,
	.vocab = TINY_VOCAB,
	.hidden = 32,
	.layers = 2,
	.intermediate = 48,
	.heads = 4,
	.kv_heads = 2,
	.head_dim = 8,
	.max_positions = TINY_CONTEXT,
	.norm_eps = 1e-5,
	.rope = {.theta = 10000},
};

static void start(struct tiny_world *w, bool unloaded, const char *const *args)
{
	const char *argv[16];
	char text[400];
	int n = 0;

	snprintf(text, sizeof(text), "tiny=%s,deterministic=yes", w->dir);
	if (!unloaded) {
		argv[n++] = "--model";
		argv[n++] = text;
	}
	while (args != NULL && *args != NULL)
		argv[n++] = *args++;
	argv[n] = NULL;
	w->daemon = harness_daemon_start(argv);
}

void tiny_start(struct tiny_world *w, bool unloaded, const char *const *args)
{
	w->rng = served_seed();
	w->dir_fd = random_model(&tiny_config, GPUQ_F32, &w->rng);
	served_dir(w->dir_fd, w->dir, sizeof(w->dir));
	start(w, unloaded, args);
}

void tiny_replace(struct tiny_world *w)
{
	harness_daemon_kill(w->daemon);
	harness_daemon_destroy(w->daemon);
	start(w, false, NULL);
}

void tiny_stop(struct tiny_world *w)
{
	harness_daemon_destroy(w->daemon);
	close(w->dir_fd);
}

const struct gpuq_channel_options tiny_channel = {.arena_bytes = 8ull << 20};

void tiny_client_open(struct client *c)
{
	client_open(c, &tiny_channel);
	served_await(c->g, "tiny");
}

struct gpuq_session *tiny_session_open(struct client *c)
{
	struct gpuq_session *s = NULL;

	if (gpuq_session_open(c->ch, "tiny", &s) < 0)
		fail_msg("%s", gpuq_error_detail());
	return s;
}

struct gpuq_call *tiny_step_create(struct gpuq_session *s, const struct gpuq_step_options *o)
{
	struct gpuq_call *call = NULL;

	if (gpuq_step_create(s, o, &call) < 0)
		fail_msg("%s", gpuq_error_detail());
	return call;
}

struct gpuq_completion tiny_run(struct client *c, struct gpuq_call *call)
{
	const struct gpuq_submission s = {.call = call};
	struct gpuq_completion done = {0};

	if (gpuq_submit(c->ch, &s, 1) != 1 || gpuq_wait(c->ch, &done, 1, PATIENCE_NS) != 1)
		fail_msg("%s", gpuq_error_detail());
	return done;
}

struct gpuq_completion tiny_run_step(
	struct client *c, struct gpuq_call *step, const int32_t *tokens, uint32_t n, uint32_t rows)
{
	assert_int_equal(gpuq_step_set(step, tokens, n, rows), 0);
	return tiny_run(c, step);
}

void tiny_expect_status(
	const struct gpuq_call *call, const struct gpuq_completion *done, int status)
{
	char text[256];

	if (done->status != status)
		fail_msg("%s (%d, expected %d)", gpuq_explain(call, done, text, sizeof(text)),
			done->status, status);
}

void tiny_text(struct random *rng, int32_t *tokens, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		tokens[i] = (int32_t)random_below(rng, TINY_VOCAB);
}

void tiny_gpuq(struct harness_output *out, const char *const *args)
{
	const char *argv[16] = {harness_program("tools/gpuq")};

	for (int n = 1; *args != NULL; n++)
		argv[n] = *args++;
	harness_exec(argv, out);
}

void tiny_expect_gpuq(int status, const char *text, const char *const *args)
{
	struct harness_output o;

	tiny_gpuq(&o, args);
	if (o.status != status || strstr(status == 0 ? o.out : o.err, text) == NULL)
		fail_msg("%s: %d '%s' '%s', expected %d '%s'", args[0], o.status, o.out, o.err,
			status, text);
	harness_output_free(&o);
}
