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
#include "tests/models/random-model.h"

#define VOCAB 97u
#define CONTEXT 256u

extern const struct model_config tiny;

/* A folder of the model, and a gpuqd that is told of it. */
struct world_of {
	struct harness_daemon *daemon;
	struct random rng;
	int dir_fd;
	char dir[300];
};

/* Makes the folder and starts gpuqd, with the model unless `unloaded`, and more arguments. */
void start(struct world_of *w, bool unloaded, const char *const *args);
void stop(struct world_of *w);

void await_ready(struct gpuq *g, const char *name);

/* With a roomy arena; the model is ready then. */
void open_client(struct client *c);
extern const struct gpuq_channel_options roomy;

struct gpuq_session *open_session(struct client *c);
struct gpuq_call *make_step(struct gpuq_session *s, const struct gpuq_step_options *o);

/* Submits it and waits. */
struct gpuq_completion run(struct client *c, struct gpuq_call *call);
struct gpuq_completion run_step(
	struct client *c, struct gpuq_call *step, const int32_t *tokens, uint32_t n, uint32_t rows);

void expect_status(const struct gpuq_call *call, const struct gpuq_completion *done, int status);

void random_text(struct random *rng, int32_t *tokens, uint32_t n);

/* Runs gpuq. */
void gpuq(struct harness_output *out, const char *const *args);

/* Likewise; it ends with this status, and what it prints (to stderr, if that is not 0) has text. */
void expect_gpuq(int status, const char *text, const char *const *args);
#define GPUQ(status, text, ...) expect_gpuq(status, text, (const char *const[]){__VA_ARGS__, NULL})

#endif
