/* SPDX-License-Identifier: MIT */
/*
 * random-model.h: folders of small models with random weights, and what such a model computes:
 * every token of a text after another in plain C and double, straight from the formulas.
 */
#ifndef GPUQ_TESTS_MODELS_RANDOM_MODEL_H
#define GPUQ_TESTS_MODELS_RANDOM_MODEL_H

#include "models/config.h"
#include "models/safetensors.h"
#include "tests/kernels/random.h"

#define BUILDER_TENSORS 2048

/* A safetensors file in the making. */
struct builder {
	uint32_t dtype; /* f32, f16 or bf16; 0: bf16 */
	char header[300000];
	size_t length, count;
	uint64_t elements;
	struct {
		uint64_t elements;
		double middle, width; /* of the values */
	} tensors[BUILDER_TENSORS];
};

/* A tensor of that shape, [rows] if columns is 0; of another type than the builder's by name. */
void builder_add(
	struct builder *b, const char *name, const char *dtype, uint64_t rows, uint64_t columns);

/* All weights that such a model has. */
void builder_add_model(struct builder *b, const struct model_config *c);

/* model.safetensors, with random values. */
void builder_write(struct builder *b, int dir_fd, struct random *rng);

/* config.json. */
void random_config_write(const struct model_config *c, int dir_fd);

/* A folder with both; the descriptor is the caller's to close. */
int random_model(const struct model_config *c, uint32_t dtype, struct random *rng);

/* Logits [n,vocab] of a text of n tokens, by a folder's weights. Freed by the caller. */
double *reference_logits(int dir_fd, const int32_t *tokens, uint32_t n);

#endif
