/* SPDX-License-Identifier: MIT */
/* Definitions of pipelines for tests. */
#include "tests/graphs/definition.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct definition *definition_new(const char *name, uint32_t n_inputs, uint32_t n_outputs)
{
	struct definition *d = calloc(1, sizeof(*d));

	assert(d != NULL);
	snprintf(d->head.name, sizeof(d->head.name), "%s", name);
	d->head.n_inputs = n_inputs;
	d->head.n_outputs = n_outputs;
	return d;
}

uint16_t definition_tensor(
	struct definition *d, const char *name, uint32_t dtype, uint64_t rows, uint64_t columns)
{
	struct wire_pipeline_tensor *t = &d->tensors[d->head.n_tensors];

	snprintf(t->name, sizeof(t->name), "%s", name);
	t->dtype = dtype;
	t->rank = 2;
	t->dims[0] = rows;
	t->dims[1] = columns;
	return (uint16_t)d->head.n_tensors++;
}

struct wire_pipeline_step *definition_step(
	struct definition *d, const char *op, uint16_t in0, uint16_t in1, uint16_t out)
{
	struct wire_pipeline_step *step = &d->steps[d->head.n_steps++];

	memset(step->in, 0xff, sizeof(step->in));
	memset(step->out, 0xff, sizeof(step->out));
	(void)op_find(op, &step->op);
	step->in[0] = in0;
	step->in[1] = in1;
	step->out[0] = out;
	return step;
}

void definition_pack(struct definition *d)
{
	const uint64_t tensor_bytes = d->head.n_tensors * sizeof(d->tensors[0]);
	const uint64_t step_bytes = d->head.n_steps * sizeof(d->steps[0]);

	memcpy(d->blob, &d->head, sizeof(d->head));
	memcpy(d->blob + sizeof(d->head), d->tensors, tensor_bytes);
	memcpy(d->blob + sizeof(d->head) + tensor_bytes, d->steps, step_bytes);
	d->bytes = sizeof(d->head) + tensor_bytes + step_bytes;
}

struct pipeline *definition_create(struct definition *d, int *ret_err, char why[PIPELINE_MAX_WHY])
{
	struct pipeline *p = NULL;

	definition_pack(d);
	*ret_err = pipeline_create(d->blob, d->bytes, &p, why);
	return p;
}

struct definition *definition_layers(uint64_t b, uint64_t i, uint64_t h, uint64_t o)
{
	struct definition *d = definition_new("layers", 3, 1);
	const uint16_t x = definition_tensor(d, "x", GPUQ_F32, b, i);
	const uint16_t w1 = definition_tensor(d, "w1", GPUQ_F32, h, i);
	const uint16_t w2 = definition_tensor(d, "w2", GPUQ_F32, o, h);
	const uint16_t y = definition_tensor(d, "y", GPUQ_F32, 0, 0);
	const uint16_t hidden = definition_tensor(d, "hidden", GPUQ_F32, 0, 0);
	const uint16_t gates = definition_tensor(d, "gates", GPUQ_F32, 0, 0);
	const uint16_t scores = definition_tensor(d, "scores", GPUQ_F32, 0, 0);

	definition_step(d, "softmax", scores, WIRE_PIPELINE_NONE, y);
	definition_step(d, "gemv_batched", x, w1, hidden);
	definition_step(d, "softmax", hidden, WIRE_PIPELINE_NONE, gates);
	definition_step(d, "gemv_batched", gates, w2, scores);
	return d;
}

static void shuffle_steps(struct definition *d, struct random *rng)
{
	for (uint32_t i = d->head.n_steps; i > 1; i--) {
		const uint32_t j = (uint32_t)random_below(rng, i);
		const struct wire_pipeline_step step = d->steps[i - 1];

		d->steps[i - 1] = d->steps[j];
		d->steps[j] = step;
	}
}

/* Results are tensors 2 and on; any of the first four numbers may be written by any step. */
struct definition *definition_random(
	struct random *rng, uint32_t n_steps, uint64_t rows, uint64_t columns)
{
	const uint32_t n_outputs =
		1 + (uint32_t)random_below(rng, n_steps < GPUQ_MAX_OUTPUTS ? n_steps : 4);
	struct definition *d = definition_new("random", 2, n_outputs);
	uint16_t made[PIPELINE_MAX_STEPS + 1] = {0}, order[PIPELINE_MAX_STEPS];
	char name[GPUQ_NAME_MAX];

	definition_tensor(d, "x", GPUQ_F32, rows, columns);
	definition_tensor(d, "w", GPUQ_F32, columns, columns);
	for (uint32_t i = 0; i < n_steps; i++) {
		snprintf(name, sizeof(name), "t%u", i);
		order[i] = definition_tensor(d, name, GPUQ_F32, 0, 0);
	}
	for (uint32_t i = n_steps; i > 1; i--) {
		const uint32_t j = (uint32_t)random_below(rng, i);
		const uint16_t t = order[i - 1];

		order[i - 1] = order[j];
		order[j] = t;
	}
	for (uint32_t i = 0; i < n_steps; i++) {
		const uint32_t window = random_below(rng, 4) == 0 ? i + 1 : (i < 3 ? i + 1 : 3);
		const uint16_t from = made[i - random_below(rng, window)];
		struct wire_pipeline_step *step;
		double temperature = 0.25 + random_unit(rng);

		if (random_below(rng, 2) == 0) {
			definition_step(d, "gemv_batched", from, 1, order[i]);
		} else {
			step = definition_step(d, "softmax", from, WIRE_PIPELINE_NONE, order[i]);
			step->params_given = (uint32_t)random_below(rng, 2);
			memcpy(&step->params[0], &temperature, sizeof(temperature));
		}
		made[i + 1] = order[i];
	}
	shuffle_steps(d, rng);
	return d;
}
