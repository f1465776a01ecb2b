/* SPDX-License-Identifier: MIT */
/*
 * model.h: a language model that is loaded on a device: its weights, its KV cache, and a step of
 * it as pipelines of the graph cache. Which tokens are computed when is the engine's business
 * (engine.h), which block of the cache is whose is kv.h's.
 *
 * A step computes N tokens of S sequences, each at a position of its sequence, and leaves their
 * keys and values in the cache; of R of them it gives what the kind of step asks for:
 *
 *	MODEL_STEP_RESULT	values [R,K] f32, tokens [R,K] i32, stats [R,2] f32, named [R,M] f32
 *	MODEL_STEP_ROWS		logits [R,V] f32, stats [R,2] f32
 *	MODEL_STEP_SAMPLE	token [R] i32, logprob [R] f32
 *
 * as operators step_result and sample describe them; K is model_top_k(). The inputs are those of
 * enum model_input, in that order.
 *
 * Token n belongs to sequence rows[n], the rows[n]-th row of the table, and has the position
 * positions[n] there; block positions[n] / 16 of a sequence is table[rows[n], positions[n] / 16].
 * Tokens of one sequence come in the order of their positions. Block 0 belongs to nobody: what a
 * capture tries out goes there. `context` stands for a length: as many positions as the longest
 * sequence of the step may have, rounded up to whatever makes shapes repeat; at most 16 * L. Its
 * bytes are never read, and its address may be NULL.
 *
 * Steps depend on each other through the cache, and what lies between their operators has one
 * place: each is launched when the one before has ended. One of more tokens or rows than the model
 * was loaded for ends with -GPUQ_ELIMIT.
 */
#ifndef GPUQ_MODELS_MODEL_H
#define GPUQ_MODELS_MODEL_H

#include "graphs/graphs.h"
#include "models/config.h"
#include "models/kv.h"
#include "models/weights.h"

#define MODEL_MAX_TOP_K 64u

struct model;

struct model_options {
	enum weight_quant quant;
	bool deterministic; /* a row's bits do not depend on what else is in its step */
	uint32_t kv_blocks; /* of KV_BLOCK_TOKENS tokens, besides block 0 */
	/*
	 * With kv_blocks 0: as many blocks as these bytes hold, and no fewer than step_tokens take;
	 * 0: a quarter of what the weights leave free.
	 */
	uint64_t kv_bytes;
	uint32_t max_sessions;	     /* with kv_bytes: no more blocks than these can fill; 0: any */
	uint32_t max_session_tokens; /* 0, or more than the model has positions: as many */
	/* The most tokens of one step, and of them that get an answer: there is memory for them. */
	uint32_t step_tokens, step_rows; /* 0: 256, 64 */
	const char *name; /* that its pipelines get; NULL: that of its architecture */
	uint32_t handle;  /* by which records of its shapes name it; 0: they do not */
};

enum model_step {
	MODEL_STEP_RESULT,
	MODEL_STEP_ROWS,
	MODEL_STEP_SAMPLE,
	MODEL_STEPS,
};

enum model_input {
	MODEL_TOKENS,		 /* [N] i32 */
	MODEL_POSITIONS,	 /* [N] i32 */
	MODEL_ROWS,		 /* [N] i32 */
	MODEL_TABLE,		 /* [S,L] i32 */
	MODEL_CONTEXT,		 /* [C] u8 */
	MODEL_LAST,		 /* [R] i32: which of the N tokens get an answer */
	MODEL_TEMPERATURES,	 /* [R] f32 */
	MODEL_IDS,		 /* [R,M] i32, M >= 1, -1: none; of MODEL_STEP_RESULT only */
	MODEL_SEEDS = MODEL_IDS, /* [R,2] i64: seed and step; of MODEL_STEP_SAMPLE only */
	MODEL_INPUTS,
};

/*
 * Loads a folder of Hugging Face's layout; dir_fd stays the caller's. It may take minutes: not
 * dispatch. device and graphs outlive the model; watch may be NULL, and is told of the bytes of the
 * files. The errors of model_config_load(), safetensors_open(), model_weights_plan() and
 * model_weights_read(); -EINVAL for options that make no sense, -ENOMEM when device or host have
 * no room, -GPUQ_ELIMIT when it has more layers than a pipeline may have steps, -GPUQ_EDEVICE.
 * `why` then has one sentence.
 */
int model_load(struct device *device, struct graphs *graphs, int dir_fd,
	const struct model_options *options, const struct model_watch *watch,
	struct model **ret_model, struct model_why *why);

/*
 * Nothing of it is on the device any more, and no work of it with the cache. Waits for a capture
 * of it to end: not dispatch. NULL is fine.
 */
void model_destroy(struct model *model);

const struct model_config *model_config(const struct model *model);

/* Lives as long as the model. */
struct pipeline *model_pipeline(const struct model *model, enum model_step step);

/* Candidates of a row of MODEL_STEP_RESULT: MODEL_MAX_TOP_K, or the vocabulary if that is less. */
uint32_t model_top_k(const struct model *model);

uint32_t model_kv_blocks(const struct model *model); /* besides block 0 */
uint32_t model_max_session_tokens(const struct model *model);

/* Where the cache of each layer begins, with block 0; and the bytes of one block in one of them. */
void *const *model_caches(
	const struct model *model, uint32_t *ret_count, uint64_t *ret_block_bytes);

/* Of the device's memory: weights, cache, and what lies between the operators of a step. */
uint64_t model_bytes(const struct model *model);
/* Of these, weights and cache. */
uint64_t model_weight_bytes(const struct model *model);
uint64_t model_cache_bytes(const struct model *model);

#endif
