/* SPDX-License-Identifier: MIT */
/* stepper.c: see stepper.h. The blocks of a sequence lie scattered, those of both mixed. */
#include "tests/models/stepper.h"

#include "tests/harness.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KV_BLOCKS 11u

static const int32_t tables[STEP_SEQUENCES * STEP_BLOCKS] = {7, 3, 11, 5, 2, 9, 1, 6};

void stepper_open(struct stepper *s, int dir_fd, enum weight_quant quant, bool deterministic)
{
	const struct model_options options = {
		.quant = quant,
		.deterministic = deterministic,
		.kv_blocks = KV_BLOCKS,
	};
	struct model_why why = {""};

	s->rig = rig_new(NULL);
	if (model_load(s->rig->options.device, s->rig->g, dir_fd, &options, NULL, &s->model,
		    &why) != 0)
		fail_msg("%s", why.text);
}

void stepper_close(struct stepper *s)
{
	model_destroy(s->model);
	rig_free(s->rig);
}

void step_add(
	struct step *step, int32_t sequence, const int32_t *tokens, uint32_t first, uint32_t n)
{
	for (uint32_t i = first; i < first + n; i++, step->n++) {
		assert_true(step->n < STEP_TOKENS_MAX && i < STEP_BLOCKS * KV_BLOCK_TOKENS);
		step->tokens[step->n] = tokens[i];
		step->positions[step->n] = (int32_t)i;
		step->rows[step->n] = sequence;
		step->temperatures[step->results] = 1;
		step->last[step->results++] = (int32_t)step->n;
	}
}

static struct tensor shape(uint32_t dtype, uint32_t rank, uint64_t rows, uint64_t columns)
{
	return (struct tensor){.dtype = dtype, .rank = rank, .dims = {rows, columns}};
}

static void fill_inputs(const struct step *step, struct op_call *call)
{
	static uint8_t context[STEP_BLOCKS * KV_BLOCK_TOKENS];
	const struct {
		const void *data;
		struct tensor shape;
	} inputs[] = {
		[MODEL_TOKENS] = {step->tokens, shape(GPUQ_I32, 1, step->n, 0)},
		[MODEL_POSITIONS] = {step->positions, shape(GPUQ_I32, 1, step->n, 0)},
		[MODEL_ROWS] = {step->rows, shape(GPUQ_I32, 1, step->n, 0)},
		[MODEL_TABLE] = {tables, shape(GPUQ_I32, 2, STEP_SEQUENCES, STEP_BLOCKS)},
		[MODEL_CONTEXT] = {context, shape(GPUQ_U8, 1, sizeof(context), 0)},
		[MODEL_LAST] = {step->last, shape(GPUQ_I32, 1, step->results, 0)},
		[MODEL_TEMPERATURES] = {step->temperatures, shape(GPUQ_F32, 1, step->results, 0)},
	};

	for (uint32_t i = 0; i < call->op->n_inputs; i++) {
		if (i < MODEL_IDS) {
			call->in[i] = inputs[i].shape;
			call->in[i].data = (void *)(uintptr_t)inputs[i].data;
		} else if (step->kind == MODEL_STEP_RESULT) {
			call->in[i] = shape(GPUQ_I32, 2, step->results, step->named);
			call->in[i].data = (void *)(uintptr_t)step->ids;
		} else {
			call->in[i] = shape(GPUQ_I64, 2, step->results, 2);
			call->in[i].data = (void *)(uintptr_t)step->seeds;
		}
	}
}

static void fill_outputs(const struct stepper *s, struct step *step, struct op_call *call)
{
	const uint64_t r = step->results, v = model_config(s->model)->vocab;
	const uint64_t k = model_top_k(s->model);

	switch (step->kind) {
	case MODEL_STEP_RESULT:
		call->out[0] = shape(GPUQ_F32, 2, r, k);
		call->out[1] = shape(GPUQ_I32, 2, r, k);
		call->out[2] = shape(GPUQ_F32, 2, r, 2);
		call->out[3] = shape(GPUQ_F32, 2, r, step->named);
		break;
	case MODEL_STEP_ROWS:
		call->out[0] = shape(GPUQ_F32, 2, r, v);
		call->out[1] = shape(GPUQ_F32, 2, r, 2);
		break;
	default:
		call->out[0] = shape(GPUQ_I32, 1, r, 0);
		call->out[1] = shape(GPUQ_F32, 1, r, 0);
		break;
	}
	step_free(step);
	for (uint32_t i = 0; i < call->op->n_outputs; i++) {
		uint64_t elements;

		assert_int_equal(tensor_size(&call->out[i], &elements, &step->bytes[i]), 0);
		step->out[i] = malloc(step->bytes[i] + 1);
		memset(step->out[i], 0xee, step->bytes[i]);
		call->out[i].data = step->out[i];
	}
}

static void await(const struct graph_work *w)
{
	while (!device_done(w->completion, w->args.value))
		usleep(50);
}

void step_run(struct stepper *s, struct step *step)
{
	struct pipeline *pipeline = model_pipeline(s->model, step->kind);
	struct op_call call = {.op = pipeline_op(pipeline)};
	struct graph_work w = {.call = &call, .pipeline = pipeline, .uid = 1000};
	void *completion;

	fill_inputs(step, &call);
	fill_outputs(s, step, &call);
	assert_int_equal(device_alloc(s->rig->options.device, DEVICE_PINNED,
				 sizeof(struct device_completion), &completion),
		0);
	memset(completion, 0, sizeof(struct device_completion));
	op_args(&w.args, &call);
	w.completion = w.args.completion = completion;
	w.args.value = 1;
	assert_int_equal(graphs_launch(s->rig->g, &w), 0);
	await(&w);
	assert_int_equal(w.completion->status, step->status);
	step->captured = w.exec != NULL;
	(void)graphs_finish(s->rig->g, &w, graphs_now_ns(s->rig->g));
	device_free(s->rig->options.device, DEVICE_PINNED, completion);
}

void step_free(struct step *step)
{
	for (uint32_t i = 0; i < GPUQ_MAX_OUTPUTS; i++) {
		free(step->out[i]);
		step->out[i] = NULL;
	}
}

void step_heat(struct stepper *s, struct step *step)
{
	void *first[GPUQ_MAX_OUTPUTS];

	step_run(s, step);
	assert_false(step->captured);
	memcpy(first, step->out, sizeof(first));
	memset(step->out, 0, sizeof(step->out));
	do {
		step_run(s, step);
		for (uint32_t i = 0; i < GPUQ_MAX_OUTPUTS && first[i] != NULL; i++)
			assert_memory_equal(first[i], step->out[i], step->bytes[i]);
	} while (!step->captured);
	for (uint32_t i = 0; i < GPUQ_MAX_OUTPUTS; i++)
		free(first[i]);
}
