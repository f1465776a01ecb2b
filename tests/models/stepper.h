/* SPDX-License-Identifier: MIT */
/*
 * stepper.h: a model on the CPU device behind a graph cache, driven step by step by a test that
 * says which token of which sequence lies where.
 */
#ifndef GPUQ_TESTS_MODELS_STEPPER_H
#define GPUQ_TESTS_MODELS_STEPPER_H

#include "models/model.h"
#include "tests/graphs/rig.h"

#define STEP_TOKENS_MAX 64u
#define STEP_SEQUENCES 2u
#define STEP_BLOCKS 4u /* of a sequence */
#define STEP_IDS_MAX 4u

struct stepper {
	struct rig *rig;
	struct model *model;
};

/* On a cache that captures after 2 uses. Fails the test when the model cannot be loaded. */
void stepper_open(struct stepper *s, int dir_fd, enum weight_quant quant, bool deterministic);
void stepper_close(struct stepper *s);

struct step {
	enum model_step kind;
	uint32_t n, results, named; /* N, R, M */
	int status;		    /* that it is expected to end with */
	int32_t tokens[STEP_TOKENS_MAX], positions[STEP_TOKENS_MAX], rows[STEP_TOKENS_MAX];
	int32_t last[STEP_TOKENS_MAX];
	float temperatures[STEP_TOKENS_MAX];
	int32_t ids[STEP_TOKENS_MAX * STEP_IDS_MAX]; /* [R,M] */
	int64_t seeds[STEP_TOKENS_MAX * 2];	     /* [R,2] */

	/* Results: each in the place of its output, [R, columns]. */
	void *out[GPUQ_MAX_OUTPUTS];
	uint64_t bytes[GPUQ_MAX_OUTPUTS];
	bool captured; /* it was a replay */
};

/* One of tokens[first..first+n-1] of a sequence, all of which get a result. */
void step_add(
	struct step *step, int32_t sequence, const int32_t *tokens, uint32_t first, uint32_t n);

/* Runs it; results are the step's, freed by step_free() or the next run. */
void step_run(struct stepper *s, struct step *step);
void step_free(struct step *step);

/* Runs it until it is captured; all runs give the same bits. */
void step_heat(struct stepper *s, struct step *step);

#endif
