/* SPDX-License-Identifier: MIT */
/*
 * definition.h: builds definitions of pipelines for tests: by hand, tensor by tensor and step by
 * step, and at random.
 */
#ifndef GPUQ_TESTS_GRAPHS_DEFINITION_H
#define GPUQ_TESTS_GRAPHS_DEFINITION_H

#include "graphs/pipeline.h"
#include "tests/kernels/random.h"

struct definition {
	struct wire_pipeline head;
	struct wire_pipeline_tensor tensors[PIPELINE_MAX_TENSORS];
	struct wire_pipeline_step steps[PIPELINE_MAX_STEPS];
	uint8_t blob[MSG_PIPELINE_MAX_BYTES];
	uint64_t bytes;
};

/* An empty one; inputs come first, then outputs, then inner tensors. */
struct definition *definition_new(const char *name, uint32_t n_inputs, uint32_t n_outputs);

/* Adds a tensor of rank 2 and returns its number. */
uint16_t definition_tensor(
	struct definition *d, const char *name, uint32_t dtype, uint64_t rows, uint64_t columns);

/* Adds a step of an operator and returns it; unused places are absent. */
struct wire_pipeline_step *definition_step(
	struct definition *d, const char *op, uint16_t in0, uint16_t in1, uint16_t out);

/* Puts it together in blob and bytes. */
void definition_pack(struct definition *d);

/* The pipeline, or NULL with the error in *ret_err. */
struct pipeline *definition_create(struct definition *d, int *ret_err, char why[PIPELINE_MAX_WHY]);

/*
 * Some scores through layers, as many services have it: x[B,I] w1[H,I] w2[O,H] -> softmax of both
 * products' result, y[B,O].
 */
struct definition *definition_layers(uint64_t b, uint64_t i, uint64_t h, uint64_t o);

/*
 * n_steps of GEMV with one square matrix (input 1) and softmax, each of a random earlier result,
 * in a random order; all tensors but the matrix are [rows, columns]. Input 0 is the start.
 */
struct definition *definition_random(
	struct random *rng, uint32_t n_steps, uint64_t rows, uint64_t columns);

#endif
