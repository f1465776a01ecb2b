/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target for definitions of pipelines: whatever the bytes, they are refused with a sentence
 * or make a pipeline whose steps come after what they read.
 */
#include "graphs/pipeline.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition)
{
	if (!condition)
		abort();
}

static void check_order(const struct pipeline *p)
{
	bool known[PIPELINE_MAX_TENSORS] = {false};
	uint32_t n;
	const struct pipeline_step *steps = pipeline_steps(p, &n);

	for (uint32_t i = 0; i < pipeline_op(p)->n_inputs; i++)
		known[i] = true;
	for (uint32_t i = 0; i < n; i++) {
		for (uint32_t j = 0; j < GPUQ_MAX_INPUTS; j++)
			require(steps[i].in[j] == WIRE_PIPELINE_NONE || known[steps[i].in[j]]);
		for (uint32_t j = 0; j < GPUQ_MAX_OUTPUTS; j++) {
			if (steps[i].out[j] != WIRE_PIPELINE_NONE)
				known[steps[i].out[j]] = true;
		}
	}
}

/*
 * Makes the bytes a definition of the right size with names, since random ones hardly get past
 * these checks: what is behind them is what is worth the time.
 */
static size_t shape_blob(uint8_t *blob, const uint8_t *data, size_t size)
{
	struct wire_pipeline head = {0};
	size_t bytes;

	memcpy(&head, data, size < sizeof(head) ? size : sizeof(head));
	head.name[0] = 'p';
	head.name[GPUQ_NAME_MAX - 1] = '\0';
	head.n_inputs %= 4;
	head.n_outputs = 1 + head.n_outputs % 2;
	head.n_tensors = head.n_inputs + head.n_outputs + head.n_tensors % 4;
	head.n_steps = 1 + head.n_steps % 4;
	bytes = sizeof(head) + head.n_tensors * sizeof(struct wire_pipeline_tensor) +
		head.n_steps * sizeof(struct wire_pipeline_step);
	memset(blob, 0, bytes);
	memcpy(blob, data, size < bytes ? size : bytes);
	memcpy(blob, &head, sizeof(head));
	for (uint32_t i = 0; i < head.n_tensors; i++) {
		uint8_t *name = blob + sizeof(head) + i * sizeof(struct wire_pipeline_tensor);

		name[0] = 't';
		name[GPUQ_NAME_MAX - 1] = '\0';
	}
	return bytes;
}

static void try_blob(const uint8_t *blob, size_t size)
{
	char why[PIPELINE_MAX_WHY] = "";
	struct pipeline *p;

	if (pipeline_create(blob, size, &p, why) == 0) {
		check_order(p);
		pipeline_unref(p);
	} else {
		require(why[0] != '\0' && memchr(why, '\0', sizeof(why)) != NULL);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t shaped[2048];
	const bool raw = size > 0 && data[size - 1] % 8 == 0;
	const size_t bytes = raw ? size : shape_blob(shaped, data, size);
	uint8_t *blob = malloc(bytes); /* an end that the sanitizer guards */

	require(blob != NULL);
	memcpy(blob, raw ? data : shaped, bytes);
	try_blob(blob, bytes);
	free(blob);
	return 0;
}
