/* SPDX-License-Identifier: MIT */
/*
 * served.h: what tests share that have a gpuqd serve a model of random weights.
 *
 *	TEST_SEED=N   weights and texts; printed
 */
#ifndef GPUQ_TESTS_INTEGRATION_SERVED_H
#define GPUQ_TESTS_INTEGRATION_SERVED_H

#include "client/gpuq.h"
#include "tests/kernels/random.h"

#include <stddef.h>

/* TEST_SEED, or another one each time; prints it. */
struct random served_seed(void);

/* The path of an open folder. */
void served_dir(int dir_fd, char *ret_path, size_t size);

/* Waits until gpuqd has loaded a model; fails the test when that fails, or takes too long. */
void served_await(struct gpuq *g, const char *name);

#endif
