/* SPDX-License-Identifier: MIT */
/* A small model of random weights, a gpuqd that serves it, and its clients. */
#include "tests/integration/tiny-model.h"

#include "shm/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const struct model_config tiny = {
	.architecture = MODEL_LLAMA,
	.vocab = VOCAB,
	.hidden = 32,
	.layers = 2,
	.intermediate = 48,
	.heads = 4,
	.kv_heads = 2,
	.head_dim = 8,
	.max_positions = CONTEXT,
	.norm_eps = 1e-5,
	.rope = {.theta = 10000},
};

static struct random seed(void)
{
	const char *text = getenv("TEST_SEED");
	struct random rng = {text != NULL ? strtoull(text, NULL, 0) : (uint64_t)getpid()};

	print_message("TEST_SEED=%llu\n", (unsigned long long)rng.state);
	return rng;
}

void await_ready(struct gpuq *g, const char *name)
{
	const uint64_t start_ns = clock_monotonic_ns();
	struct gpuq_model_info m;

	do {
		if (gpuq_model_find(g, name, &m) < 0)
			fail_msg("%s", gpuq_error_detail());
		if (m.state == GPUQ_MODEL_FAILED)
			fail_msg("%s", m.why);
		if (clock_monotonic_ns() - start_ns > PATIENCE_NS)
			fail_msg("%s is never ready", name);
		usleep(2000);
	} while (m.state != GPUQ_MODEL_READY);
}

void start(struct world_of *w, bool unloaded, const char *const *args)
{
	const char *argv[16];
	char text[400], link[64];
	int n = 0;

	w->rng = seed();
	w->dir_fd = random_model(&tiny, GPUQ_F32, &w->rng);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", w->dir_fd);
	ssize_t bytes = readlink(link, w->dir, sizeof(w->dir) - 1);
	assert_true(bytes > 0);
	w->dir[bytes] = '\0';
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

void stop(struct world_of *w)
{
	harness_daemon_destroy(w->daemon);
	close(w->dir_fd);
}

const struct gpuq_channel_options roomy = {.arena_bytes = 8ull << 20};

void open_client(struct client *c)
{
	client_open(c, &roomy);
	await_ready(c->g, "tiny");
}

struct gpuq_session *open_session(struct client *c)
{
	struct gpuq_session *s = NULL;

	if (gpuq_session_open(c->ch, "tiny", &s) < 0)
		fail_msg("%s", gpuq_error_detail());
	return s;
}

struct gpuq_call *make_step(struct gpuq_session *s, const struct gpuq_step_options *o)
{
	struct gpuq_call *call = NULL;

	if (gpuq_step_create(s, o, &call) < 0)
		fail_msg("%s", gpuq_error_detail());
	return call;
}

struct gpuq_completion run(struct client *c, struct gpuq_call *call)
{
	const struct gpuq_submission s = {.call = call};
	struct gpuq_completion done = {0};

	if (gpuq_submit(c->ch, &s, 1) != 1 || gpuq_wait(c->ch, &done, 1, PATIENCE_NS) != 1)
		fail_msg("%s", gpuq_error_detail());
	return done;
}

struct gpuq_completion run_step(
	struct client *c, struct gpuq_call *step, const int32_t *tokens, uint32_t n, uint32_t rows)
{
	assert_int_equal(gpuq_step_set(step, tokens, n, rows), 0);
	return run(c, step);
}

void expect_status(const struct gpuq_call *call, const struct gpuq_completion *done, int status)
{
	char text[256];

	if (done->status != status)
		fail_msg("%s (%d, expected %d)", gpuq_explain(call, done, text, sizeof(text)),
			done->status, status);
}

void random_text(struct random *rng, int32_t *tokens, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		tokens[i] = (int32_t)random_below(rng, VOCAB);
}

void gpuq(struct harness_output *out, const char *const *args)
{
	const char *argv[16] = {harness_program("tools/gpuq")};

	for (int n = 1; *args != NULL; n++)
		argv[n] = *args++;
	harness_exec(argv, out);
}

void expect_gpuq(int status, const char *text, const char *const *args)
{
	struct harness_output o;

	gpuq(&o, args);
	if (o.status != status || strstr(status == 0 ? o.out : o.err, text) == NULL)
		fail_msg("%s: %d '%s' '%s', expected %d '%s'", args[0], o.status, o.out, o.err,
			status, text);
	harness_output_free(&o);
}
