/* SPDX-License-Identifier: MIT */
/*
 * expected.h: the models of tests/parity/data, and what transformers computed of them, by the names
 * that tests/parity/README.md has.
 */
#ifndef GPUQ_TESTS_PARITY_EXPECTED_H
#define GPUQ_TESTS_PARITY_EXPECTED_H

#include <stdbool.h>
#include <stdint.h>

#define PARITY_MODELS 13

extern const char *const parity_models[PARITY_MODELS];

struct expected {
	const char *name;
	int dir_fd; /* the model's folder */
	struct safetensors *files;
	bool bf16;
};

/* Fails the test when it cannot be read. */
void expected_open(struct expected *e, const char *name);
void expected_close(struct expected *e);

bool expected_has(const struct expected *e, const char *name);

/* A tensor's data, freed by the caller, and its shape; columns may be NULL for a list. */
void *expected_read(
	const struct expected *e, const char *name, uint64_t *ret_rows, uint64_t *ret_columns);

/* The bound of f32 models, and that of bf16 ones against what transformers rounds to bf16. */
#define PARITY_F32_BOUND 1e-5
#define PARITY_BF16_BOUND 2e-2

/* The root of the squares of the differences, over that of what is expected. */
double expected_distance(const float *actual, const float *right, uint64_t n);

/* Fails the test, by the names of model and values, when the distance is above the bound. */
void expected_near(const struct expected *e, const char *what, const float *actual,
	const float *right, uint64_t n, double bound);

#endif
