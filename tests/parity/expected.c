/* SPDX-License-Identifier: MIT */
/* Reads what tests/parity/make.py has written. */
#include "tests/parity/expected.h"

#include "models/safetensors.h"
#include "tests/harness.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *const parity_models[PARITY_MODELS] = {
	"llama-mha",
	"llama-gqa-tied",
	"llama-mqa-wide-heads",
	"llama-linear",
	"llama-llama3",
	"mistral-window",
	"qwen2",
	"qwen2-windows",
	"qwen3",
	"llama-llama3-bf16",
	"mistral-bf16",
	"qwen2-bf16",
	"qwen3-bf16",
};

void expected_open(struct expected *e, const char *name)
{
	struct model_why why = {""};
	char path[300];
	int fd;

	snprintf(path, sizeof(path), "tests/parity/data/%s", name);
	e->name = name;
	e->dir_fd = open(harness_source(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(e->dir_fd >= 0);
	fd = openat(e->dir_fd, "expected", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (safetensors_open(fd, &e->files, &why) != 0)
		fail_msg("%s: %s", name, why.text);
	close(fd);
	e->bf16 = expected_has(e, "exact.8");
}

void expected_close(struct expected *e)
{
	safetensors_close(e->files);
	close(e->dir_fd);
}

bool expected_has(const struct expected *e, const char *name)
{
	return safetensors_find(e->files, name) != NULL;
}

void *expected_read(
	const struct expected *e, const char *name, uint64_t *ret_rows, uint64_t *ret_columns)
{
	const struct safetensors_tensor *t = safetensors_find(e->files, name);
	struct safetensors_read read = {.tensor = t};
	struct model_why why = {""};

	if (t == NULL)
		fail_msg("%s has no %s", e->name, name);
	read.bytes = t->bytes;
	read.to = malloc(t->bytes);
	assert_non_null(read.to);
	if (safetensors_read(e->files, &read, 1, NULL, &why) != 0)
		fail_msg("%s: %s: %s", e->name, name, why.text);
	*ret_rows = t->dims[0];
	if (ret_columns != NULL)
		*ret_columns = t->dims[1];
	return read.to;
}

double expected_distance(const float *actual, const float *right, uint64_t n)
{
	double error = 0, squares = 0;

	for (uint64_t i = 0; i < n; i++) {
		const double off = (double)actual[i] - right[i];

		error += off * off;
		squares += (double)right[i] * right[i];
	}
	return sqrt(error / squares);
}

void expected_near(const struct expected *e, const char *what, const float *actual,
	const float *right, uint64_t n, double bound)
{
	const double distance = expected_distance(actual, right, n);

	print_message("%s: %s: %.2g\n", e->name, what, distance);
	/* A NaN is not near. */
	if (!(distance <= bound))
		fail_msg("%s: %s: %.3g, above %.3g", e->name, what, distance, bound);
}
