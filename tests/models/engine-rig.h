/* SPDX-License-Identifier: MIT */
/*
 * engine-rig.h: an engine over a model that is no language model, but whose answers can be
 * computed by anyone who knows the text. Its operators stand in the place of kernels/registry.c.
 *
 * For each token a cell of 64 bits goes to the cache of each layer, a digest of layer, token and
 * position; an answer is made of a digest of all cells of the sequence up to its own, read through
 * the table. So an answer tells whether each token of the text was computed, at its position, and
 * still is where the table says.
 */
#ifndef GPUQ_TESTS_MODELS_ENGINE_RIG_H
#define GPUQ_TESTS_MODELS_ENGINE_RIG_H

#include "models/engine.h"
#include "tests/graphs/rig.h"

#define FAKE_VOCAB 97u
#define FAKE_TOP_K 12u
#define FAKE_LAYERS 2u
#define FAKE_MAX_BLOCKS 512u
#define FAKE_MAX_TEXT 512u
#define FAKE_EOS 96

/* What the last step looked like, and how many there were; written by the device's threads. */
struct fake_seen {
	uint64_t steps, tokens, sessions, rows, context;
	uint64_t wrong; /* steps that broke a rule of models/model.h */
};
extern struct fake_seen fake_seen;
extern uint64_t fake_is_closed; /* 1: steps wait at their beginning */

struct engine_rig {
	struct rig *graphs;
	struct engine *engine;
	struct engine_options options;
	struct kv_client client;
	void *caches[FAKE_LAYERS];
};

/*
 * An engine with so many blocks, 8 sessions, batches of 4, chunks of 32 and buckets of 16; or
 * as options were changed between the two. NULL: a fault has left no cache of graphs.
 */
struct engine_rig *engine_rig_prepare(uint32_t kv_blocks, const char *faults);
void engine_rig_start(struct engine_rig *rig);
struct engine_rig *engine_rig_new(uint32_t kv_blocks);
/* All requests have ended, all sessions are closed, and then no block is anybody's. */
void engine_rig_free(struct engine_rig *rig);

/* A session of the rig's client. */
struct engine_session *rig_session(struct engine_rig *rig);

/* fake_is_closed. */
void rig_gate(uint64_t closed);

/* Runs a step of the next n tokens of 0, 1, ... and checks it; text has those before. */
uint32_t rig_advance(
	struct engine_rig *rig, struct engine_session *s, int32_t *text, uint32_t at, uint32_t n);

/* A text: first, first + 1, ... */
void fake_count(int32_t *tokens, int32_t first, uint32_t n);

/* A request with room for its results. It comes first in it. */
struct ask {
	struct engine_request r;
	int32_t tokens[FAKE_MAX_TEXT];
	int32_t ids[8];
	char *out;
	float *logits;
	bool done;
};

/* The tokens are copied. */
struct ask *ask_step(struct engine_session *s, const int32_t *tokens, uint32_t n, uint32_t rows);
struct ask *ask_named(struct ask *a, uint32_t top_k, uint32_t n_ids);
struct ask *ask_logits(struct engine_session *s, const int32_t *tokens, uint32_t n, uint32_t rows);
struct ask *ask_generate(
	struct engine_session *s, const int32_t *tokens, uint32_t n, uint32_t n_generate);
void ask_free(struct ask *a);

void ask_submit(struct engine_rig *rig, struct ask *a);
/* Polls until it has ended; its status. */
int ask_await(struct engine_rig *rig, struct ask *a);
/* Both. */
int ask_run(struct engine_rig *rig, struct ask *a);
/* Polls once and marks what has ended. */
void rig_turn(struct engine_rig *rig);
/* Polls until the step has begun, behind the closed gate. */
void rig_await_steps(struct engine_rig *rig, uint64_t steps);

/*
 * Checks the results of a request that ended well; text are the `n` tokens before it, to which its
 * own are added, made ones too, as they become part of the session's text. Returns the new length.
 */
uint32_t ask_check(const struct ask *a, int32_t *text, uint32_t n);

#endif
