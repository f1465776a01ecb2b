/* SPDX-License-Identifier: MIT */
/*
 * tiny-model.h: a small model of random weights, a gpuqd that serves it, and its clients. Every
 * function fails the running test when something is not as it must be.
 *
 *	TEST_SEED=N   weights and texts; printed
 */
#ifndef GPUQ_TESTS_INTEGRATION_TINY_MODEL_H
#define GPUQ_TESTS_INTEGRATION_TINY_MODEL_H

#include "tests/integration/client.h"
#include "tests/integration/served.h"
#include "tests/models/random-model.h"

#define TINY_VOCAB 97u
#define TINY_CONTEXT 256u

extern const struct model_config tiny_config;

/* A folder of the model, and a gpuqd that is told of it. */
struct tiny_world {
	struct harness_daemon *daemon;
	struct random rng;
	int dir_fd;
	char dir[300];
};

/* Makes the folder and starts gpuqd, with the model unless `unloaded`, and more arguments. */
void tiny_start(struct tiny_world *w, bool unloaded, const char *const *args);
void tiny_stop(struct tiny_world *w);

/* Kills gpuqd as a crash would, and starts one that serves the model, without other arguments. */
void tiny_replace(struct tiny_world *w);

/* With a channel that has room for full rows; the model is ready then. */
void tiny_client_open(struct client *c);
extern const struct gpuq_channel_options tiny_channel;

struct gpuq_session *tiny_session_open(struct client *c);
struct gpuq_call *tiny_step_create(struct gpuq_session *s, const struct gpuq_step_options *o);

/* Submits it and waits. */
struct gpuq_completion tiny_run(struct client *c, struct gpuq_call *call);
struct gpuq_completion tiny_run_step(
	struct client *c, struct gpuq_call *step, const int32_t *tokens, uint32_t n, uint32_t rows);

void tiny_expect_status(
	const struct gpuq_call *call, const struct gpuq_completion *done, int status);

void tiny_text(struct random *rng, int32_t *tokens, uint32_t n);

/* Runs gpuq. */
void tiny_gpuq(struct harness_output *out, const char *const *args);

/* Likewise; it ends with this status, and what it prints (to stderr, if that is not 0) has text. */
void tiny_expect_gpuq(int status, const char *text, const char *const *args);
#define TINY_GPUQ(status, text, ...) \
	tiny_expect_gpuq(status, text, (const char *const[]){__VA_ARGS__, NULL})

#endif
