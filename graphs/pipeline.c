/* SPDX-License-Identifier: MIT */
/*
 * Pipelines: reads a definition that a client sent (nothing in it is believed), checks it, and
 * brings its steps into an order in which they can run. Every refusal says which step and which
 * tensor it is about, by the client's own numbers and names.
 */
#include "graphs/pipeline.h"
#include "kernels/ops.h"
#include "shm/atomics.h"
#include "shm/name.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct pipeline {
	struct op op; /* the interface; its names lie in the blob */
	uint32_t refs;
	uint64_t id;
	uint32_t n_steps;
	struct pipeline_step *steps;
	uint32_t readers[GPUQ_MAX_INPUTS];
	struct wire_pipeline *wire; /* the blob */
	struct wire_pipeline_tensor *tensors;
	struct wire_pipeline_step *wire_steps;
	uint64_t blob_bytes;
	void **constants;
	uint32_t n_constants;
	void *scratch; /* NULL: that of lanes */
	uint64_t scratch_bytes;
	struct pipeline_label label;
};

/* What is needed only while the definition is checked. */
struct check {
	const struct pipeline *p;
	char *why;
	uint16_t producer[PIPELINE_MAX_TENSORS];     /* the step that writes it, or NONE */
	uint16_t first_reader[PIPELINE_MAX_TENSORS]; /* place in next_reader, or NONE */
	uint16_t next_reader[PIPELINE_MAX_STEPS * GPUQ_MAX_INPUTS]; /* [step * MAX + input] */
	uint16_t waits_for[PIPELINE_MAX_STEPS]; /* inputs whose producer is not in order yet */
	uint64_t ready[PIPELINE_MAX_STEPS / 64];
	uint16_t order[PIPELINE_MAX_STEPS];
	struct tensor shapes[PIPELINE_MAX_TENSORS];
};

#define NONE WIRE_PIPELINE_NONE

static uint64_t next_id = 1;

static int __attribute__((format(printf, 3, 4)))
refuse(char why[PIPELINE_MAX_WHY], int err, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(why, PIPELINE_MAX_WHY, format, args);
	va_end(args);
	return err;
}

/* Constants come after inputs and outputs. */
static bool is_constant(const struct pipeline *p, uint32_t tensor)
{
	return tensor - (p->wire->n_inputs + p->wire->n_outputs) < p->n_constants;
}

/* Whether the definition has the tensor's shape, rather than the steps. */
static bool has_shape(const struct pipeline *p, uint32_t tensor)
{
	return tensor < p->wire->n_inputs || is_constant(p, tensor);
}

static const char *tensor_name(const struct check *c, uint32_t tensor)
{
	return c->p->tensors[tensor].name;
}

static const char *step_name(const struct check *c, uint32_t step)
{
	return op_table[c->p->wire_steps[step].op]->name;
}

/* --- What is in the blob ------------------------------------------------------------------- */

static int check_header(const void *blob, uint64_t bytes, uint32_t n_constants, char *why)
{
	struct wire_pipeline h;
	uint64_t expected;

	if (bytes < sizeof(h))
		return refuse(why, -GPUQ_EPIPELINE, "The definition is shorter than its header.");
	memcpy(&h, blob, sizeof(h));
	if (h.n_steps > PIPELINE_MAX_STEPS || h.n_tensors > PIPELINE_MAX_TENSORS)
		return refuse(why, -GPUQ_ELIMIT,
			"%u steps and %u tensors are more than the %u and %u that a pipeline may "
			"have.",
			h.n_steps, h.n_tensors, PIPELINE_MAX_STEPS, PIPELINE_MAX_TENSORS);
	if (h.n_inputs > GPUQ_MAX_INPUTS || h.n_outputs > GPUQ_MAX_OUTPUTS)
		return refuse(why, -GPUQ_ELIMIT,
			"%u inputs and %u outputs are more than the %u and %u that a request may "
			"have.",
			h.n_inputs, h.n_outputs, GPUQ_MAX_INPUTS, GPUQ_MAX_OUTPUTS);
	if (h.n_steps == 0 || h.n_outputs == 0 ||
		h.n_tensors < h.n_inputs + h.n_outputs + n_constants)
		return refuse(why, -GPUQ_EPIPELINE,
			"A pipeline has at least one step and one output, and counts inputs and "
			"outputs among its tensors.");
	expected = sizeof(h) + h.n_tensors * sizeof(struct wire_pipeline_tensor) +
		h.n_steps * sizeof(struct wire_pipeline_step);
	if (bytes != expected)
		return refuse(why, -GPUQ_EPIPELINE,
			"The definition has %llu bytes where its header asks for %llu.",
			(unsigned long long)bytes, (unsigned long long)expected);
	if (!name_is_printable(h.name, GPUQ_NAME_MAX))
		return refuse(why, -GPUQ_EPIPELINE,
			"The pipeline has no name of 1 to %u bytes of printable UTF-8.",
			GPUQ_NAME_MAX - 1);
	return 0;
}

static int check_tensors(struct check *c)
{
	for (uint32_t i = 0; i < c->p->wire->n_tensors; i++) {
		const struct wire_pipeline_tensor *t = &c->p->tensors[i];
		struct tensor shape = {.dtype = t->dtype, .rank = t->rank};
		uint64_t elements, bytes;
		int err;

		/* What is no text must not come into a sentence either. */
		if (!name_is_printable(t->name, GPUQ_NAME_MAX))
			return refuse(c->why, -GPUQ_EPIPELINE,
				"Tensor %u has no name of 1 to %u bytes of printable UTF-8.", i,
				GPUQ_NAME_MAX - 1);
		if (dtype_size(t->dtype) == 0)
			return refuse(c->why, -GPUQ_EDTYPE, "Tensor %u (%s) has no element type.",
				i, t->name);
		if (!has_shape(c->p, i))
			continue;
		memcpy(shape.dims, t->dims, sizeof(shape.dims));
		err = tensor_size(&shape, &elements, &bytes);
		if (err != 0)
			return refuse(c->why, err, "The shape of tensor %u (%s) is no shape.", i,
				t->name);
	}
	return 0;
}

static int check_step_input(struct check *c, uint32_t step, uint32_t i)
{
	const uint16_t tensor = c->p->wire_steps[step].in[i];
	const struct op *op = op_table[c->p->wire_steps[step].op];

	if (tensor == NONE)
		return 0;
	if (i >= op->n_inputs)
		return refuse(c->why, -GPUQ_EARGS, "Step %u (%s) has an input %u; it takes %u.",
			step, op->name, i, op->n_inputs);
	if (tensor >= c->p->wire->n_tensors)
		return refuse(c->why, -GPUQ_EPIPELINE,
			"Input %s of step %u (%s) is tensor %u of %u.", op->inputs[i].name, step,
			op->name, tensor, c->p->wire->n_tensors);
	if (op->inputs[i].in_out && !is_constant(c->p, tensor))
		return refuse(c->why, -GPUQ_EPIPELINE,
			"Step %u (%s) writes its input %s, tensor %u (%s); steps may write nothing "
			"but their results.",
			step, op->name, op->inputs[i].name, tensor, tensor_name(c, tensor));
	c->next_reader[step * GPUQ_MAX_INPUTS + i] = c->first_reader[tensor];
	c->first_reader[tensor] = (uint16_t)(step * GPUQ_MAX_INPUTS + i);
	return 0;
}

static int check_step_output(struct check *c, uint32_t step, uint32_t i)
{
	const uint16_t tensor = c->p->wire_steps[step].out[i];
	const struct op *op = op_table[c->p->wire_steps[step].op];

	if (tensor == NONE)
		return 0;
	if (i >= op->n_outputs)
		return refuse(c->why, -GPUQ_EARGS, "Step %u (%s) has an output %u; it gives %u.",
			step, op->name, i, op->n_outputs);
	if (tensor >= c->p->wire->n_tensors)
		return refuse(c->why, -GPUQ_EPIPELINE,
			"Output %s of step %u (%s) is tensor %u of %u.", op->outputs[i].name, step,
			op->name, tensor, c->p->wire->n_tensors);
	if (has_shape(c->p, tensor))
		return refuse(c->why, -GPUQ_EPIPELINE, "Step %u (%s) writes tensor %u (%s), %s.",
			step, op->name, tensor, tensor_name(c, tensor),
			is_constant(c->p, tensor) ? "a constant" : "an input");
	if (c->producer[tensor] != NONE)
		return refuse(c->why, -GPUQ_EPIPELINE,
			"Steps %u (%s) and %u (%s) both write tensor %u (%s).", c->producer[tensor],
			step_name(c, c->producer[tensor]), step, op->name, tensor,
			tensor_name(c, tensor));
	c->producer[tensor] = (uint16_t)step;
	return 0;
}

static int check_steps(struct check *c)
{
	int err = 0;

	for (uint32_t i = 0; i < c->p->wire->n_steps && err == 0; i++) {
		const uint32_t op = c->p->wire_steps[i].op;

		if (op >= op_count)
			return refuse(c->why, -GPUQ_EOP, "Step %u is operator %u; there are %u.", i,
				op, op_count);
		for (uint32_t j = 0; j < GPUQ_MAX_INPUTS && err == 0; j++)
			err = check_step_input(c, i, j);
		for (uint32_t j = 0; j < GPUQ_MAX_OUTPUTS && err == 0; j++)
			err = check_step_output(c, i, j);
	}
	for (uint32_t i = c->p->wire->n_inputs; i < c->p->wire->n_tensors && err == 0; i++) {
		if (c->producer[i] == NONE && !is_constant(c->p, i))
			err = refuse(c->why, -GPUQ_EPIPELINE, "No step writes tensor %u (%s).", i,
				tensor_name(c, i));
	}
	return err;
}

/* --- Order --------------------------------------------------------------------------------- */

/* Of the inputs of a step, one whose producer has no place in the order yet, or NONE. */
static uint16_t awaited(const struct check *c, const bool *placed, uint32_t step)
{
	for (uint32_t i = 0; i < GPUQ_MAX_INPUTS; i++) {
		const uint16_t tensor = c->p->wire_steps[step].in[i];

		if (tensor != NONE && c->producer[tensor] != NONE && !placed[c->producer[tensor]])
			return tensor;
	}
	return NONE;
}

/* Going back from any step without a place ends in a circle after so many steps as there are. */
static int refuse_cycle(const struct check *c, uint32_t n_ordered)
{
	bool placed[PIPELINE_MAX_STEPS] = {false};
	uint32_t step = 0;
	uint16_t tensor;

	for (uint32_t i = 0; i < n_ordered; i++)
		placed[c->order[i]] = true;
	while (placed[step])
		step++;
	for (uint32_t i = 0; i < c->p->wire->n_steps; i++)
		step = c->producer[awaited(c, placed, step)];
	tensor = awaited(c, placed, step);
	return refuse(c->why, -GPUQ_EPIPELINE,
		"Step %u (%s) reads tensor %u (%s), which is made of its own result.", step,
		step_name(c, step), tensor, tensor_name(c, tensor));
}

static void count_waits(struct check *c)
{
	for (uint32_t i = 0; i < c->p->wire->n_steps; i++) {
		for (uint32_t j = 0; j < GPUQ_MAX_INPUTS; j++) {
			const uint16_t tensor = c->p->wire_steps[i].in[j];

			if (tensor != NONE && c->producer[tensor] != NONE)
				c->waits_for[i]++;
		}
		if (c->waits_for[i] == 0)
			c->ready[i / 64] |= 1ull << (i % 64);
	}
}

/* Removes the first step that is ready, in the given order; NONE when none is. */
static uint16_t take_ready(struct check *c)
{
	for (uint32_t i = 0; i < PIPELINE_MAX_STEPS / 64; i++) {
		if (c->ready[i] != 0) {
			const uint32_t bit = (uint32_t)__builtin_ctzll(c->ready[i]);

			c->ready[i] &= c->ready[i] - 1;
			return (uint16_t)(i * 64 + bit);
		}
	}
	return NONE;
}

static int sort_steps(struct check *c)
{
	uint32_t n = 0;
	uint16_t step;

	count_waits(c);
	while ((step = take_ready(c)) != NONE) {
		c->order[n++] = step;
		for (uint32_t i = 0; i < GPUQ_MAX_OUTPUTS; i++) {
			const uint16_t tensor = c->p->wire_steps[step].out[i];
			uint16_t at = tensor == NONE ? NONE : c->first_reader[tensor];

			for (; at != NONE; at = c->next_reader[at]) {
				const uint32_t reader = at / GPUQ_MAX_INPUTS;

				if (--c->waits_for[reader] == 0)
					c->ready[reader / 64] |= 1ull << (reader % 64);
			}
		}
	}
	return n == c->p->wire->n_steps ? 0 : refuse_cycle(c, n);
}

/* Nothing but the given order says which of two steps that write a constant comes first. */
static int check_order(struct check *c)
{
	for (uint32_t i = 0; c->p->n_constants > 0 && i < c->p->wire->n_steps; i++) {
		if (c->order[i] != i)
			return refuse(c->why, -GPUQ_EPIPELINE,
				"Step %u (%s) comes before a step whose result it reads.", i,
				step_name(c, i));
	}
	return 0;
}

/* --- Steps --------------------------------------------------------------------------------- */

static int fill_params(struct check *c, uint32_t number, struct pipeline_step *step)
{
	const struct wire_pipeline_step *wire = &c->p->wire_steps[number];

	if (wire->params_given >> step->op->n_params != 0)
		return refuse(c->why, -GPUQ_EPARAM, "Step %u (%s) has %u parameters.", number,
			step->op->name, step->op->n_params);
	for (uint32_t i = 0; i < step->op->n_params; i++) {
		const struct op_param *spec = &step->op->params[i];

		if ((wire->params_given & 1u << i) != 0)
			memcpy(&step->params[i], &wire->params[i], sizeof(wire->params[i]));
		else if (spec->type == GPUQ_PARAM_I64)
			step->params[i].i64 = (int64_t)spec->preset;
		else
			step->params[i].f64 = spec->preset;
	}
	return 0;
}

void pipeline_tensors(const struct pipeline *p, struct tensor *ret_tensors, uint32_t *ret_count)
{
	for (uint32_t i = 0; i < p->wire->n_tensors; i++) {
		ret_tensors[i] = (struct tensor){.dtype = p->tensors[i].dtype, .rank = UINT32_MAX};
		if (is_constant(p, i))
			ret_tensors[i].data =
				p->constants[i - p->wire->n_inputs - p->wire->n_outputs];
		if (!has_shape(p, i))
			continue;
		ret_tensors[i].rank = p->tensors[i].rank;
		memcpy(ret_tensors[i].dims, p->tensors[i].dims, sizeof(ret_tensors[i].dims));
	}
	*ret_count = p->wire->n_tensors;
}

int pipeline_check_step(const struct pipeline_step *step, struct tensor *tensors,
	struct op_call *ret_call, uint32_t *ret_arg)
{
	struct op_call call = {.op = step->op};
	int err;

	for (uint32_t i = 0; i < step->op->n_inputs; i++) {
		if (step->in[i] != NONE)
			call.in[i] = tensors[step->in[i]];
	}
	for (uint32_t i = 0; i < step->op->n_outputs; i++) {
		if (step->out[i] != NONE)
			call.out[i] = tensors[step->out[i]];
	}
	memcpy(call.params, step->params, sizeof(call.params));
	err = op_check(&call, ret_arg);
	if (err != 0)
		return err;
	for (uint32_t i = 0; i < step->op->n_outputs; i++) {
		if (step->out[i] != NONE)
			tensors[step->out[i]] = call.out[i];
	}
	*ret_call = call;
	return 0;
}

static int refuse_step(struct check *c, uint32_t number, int err, uint32_t arg)
{
	const struct wire_pipeline_step *wire = &c->p->wire_steps[number];
	const struct op *op = op_table[wire->op];
	const bool is_input = arg < GPUQ_MAX_INPUTS;
	const struct op_tensor *spec;
	uint16_t tensor;

	if (arg >= GPUQ_MAX_TENSORS)
		return refuse(c->why, err, "Step %u (%s) does not take that value of parameter %s.",
			number, op->name, op->params[arg - GPUQ_MAX_TENSORS].name);
	spec = is_input ? &op->inputs[arg] : &op->outputs[arg - GPUQ_MAX_INPUTS];
	tensor = is_input ? wire->in[arg] : wire->out[arg - GPUQ_MAX_INPUTS];
	if (tensor == NONE)
		return refuse(c->why, err, "Step %u (%s) needs a tensor %s.", number, op->name,
			spec->name);
	return refuse(c->why, err, "Tensor %u (%s) cannot be %s %s of step %u (%s).", tensor,
		tensor_name(c, tensor), is_input ? "input" : "output", spec->name, number,
		op->name);
}

/* Fills in the steps in their order, and checks them with the first shapes. */
static int fill_steps(struct check *c, struct pipeline_step *steps)
{
	struct op_call call;
	uint32_t n, arg;

	pipeline_tensors(c->p, c->shapes, &n);
	for (uint32_t i = 0; i < c->p->wire->n_steps; i++) {
		const struct wire_pipeline_step *wire = &c->p->wire_steps[c->order[i]];
		int err;

		steps[i].op = op_table[wire->op];
		memcpy(steps[i].in, wire->in, sizeof(steps[i].in));
		memcpy(steps[i].out, wire->out, sizeof(steps[i].out));
		err = fill_params(c, c->order[i], &steps[i]);
		if (err != 0)
			return err;
		err = pipeline_check_step(&steps[i], c->shapes, &call, &arg);
		if (err != 0)
			return refuse_step(c, c->order[i], err, arg);
	}
	return 0;
}

static void fill_interface(struct pipeline *p)
{
	p->op.name = p->wire->name;
	p->op.summary = "";
	p->op.formula = "";
	p->op.n_inputs = p->wire->n_inputs;
	p->op.n_outputs = p->wire->n_outputs;
	for (uint32_t i = 0; i < p->wire->n_inputs + p->wire->n_outputs; i++) {
		const bool is_input = i < p->wire->n_inputs;
		const struct op_tensor spec = {
			p->tensors[i].name, "", GPUQ_DTYPE_BIT(p->tensors[i].dtype), false};

		if (is_input)
			p->op.inputs[i] = spec;
		else
			p->op.outputs[i - p->wire->n_inputs] = spec;
	}
}

/* --- Pipelines ----------------------------------------------------------------------------- */

/* Copies the blob, whose header passed check_header(), and points into the copy. */
static int take_blob(struct pipeline *p, const void *blob, uint64_t bytes)
{
	char *copy = malloc(bytes);

	if (copy == NULL)
		return -ENOMEM;
	memcpy(copy, blob, bytes);
	p->wire = (struct wire_pipeline *)copy;
	p->tensors = (struct wire_pipeline_tensor *)(copy + sizeof(*p->wire));
	p->wire_steps = (struct wire_pipeline_step *)(p->tensors + p->wire->n_tensors);
	p->blob_bytes = bytes;
	p->n_steps = p->wire->n_steps;
	p->steps = calloc(p->n_steps, sizeof(*p->steps));
	return p->steps == NULL ? -ENOMEM : 0;
}

static void clean_name(char name[GPUQ_NAME_MAX])
{
	const size_t length = strlen(name);

	memset(name + length, 0, GPUQ_NAME_MAX - length);
}

/* Zeroes what has no meaning, so that equal definitions are equal bytes. */
static void clean_blob(struct pipeline *p)
{
	clean_name(p->wire->name);
	for (uint32_t i = 0; i < p->wire->n_tensors; i++) {
		struct wire_pipeline_tensor *t = &p->tensors[i];
		const uint32_t rank = has_shape(p, i) ? t->rank : 0;

		clean_name(t->name);
		t->rank = rank;
		memset(&t->dims[rank], 0, (GPUQ_MAX_RANK - rank) * sizeof(t->dims[0]));
	}
	for (uint32_t i = 0; i < p->n_steps; i++) {
		for (uint32_t j = 0; j < GPUQ_MAX_PARAMS; j++) {
			if ((p->wire_steps[i].params_given & 1u << j) == 0)
				p->wire_steps[i].params[j] = 0;
		}
	}
}

static void count_readers(struct pipeline *p)
{
	for (uint32_t i = 0; i < p->n_steps; i++) {
		for (uint32_t j = 0; j < GPUQ_MAX_INPUTS; j++) {
			/* Inputs come first among the tensors. */
			if (p->steps[i].in[j] < p->wire->n_inputs)
				p->readers[p->steps[i].in[j]]++;
		}
	}
}

static int check_all(struct pipeline *p, char *why)
{
	struct check *c = calloc(1, sizeof(*c));
	int err;

	if (c == NULL)
		return -ENOMEM;
	c->p = p;
	c->why = why;
	memset(c->producer, 0xff, sizeof(c->producer));
	memset(c->first_reader, 0xff, sizeof(c->first_reader));
	err = check_tensors(c);
	if (err == 0)
		err = check_steps(c);
	if (err == 0)
		err = sort_steps(c);
	if (err == 0)
		err = check_order(c);
	if (err == 0)
		err = fill_steps(c, p->steps);
	free(c);
	return err;
}

static int take_constants(struct pipeline *p, void *const *constants, uint32_t n)
{
	p->n_constants = n;
	if (n == 0)
		return 0;
	p->constants = calloc(n, sizeof(*p->constants));
	if (p->constants == NULL)
		return -ENOMEM;
	memcpy(p->constants, constants, n * sizeof(*p->constants));
	return 0;
}

int pipeline_create_internal(const void *blob, uint64_t bytes, void *const *constants,
	uint32_t n_constants, struct pipeline **ret_pipeline, char why[PIPELINE_MAX_WHY])
{
	struct pipeline *p;
	int err;

	snprintf(why, PIPELINE_MAX_WHY, "There is no memory for the pipeline.");
	err = check_header(blob, bytes, n_constants, why);
	if (err != 0)
		return err;
	p = calloc(1, sizeof(*p));
	if (p == NULL)
		return -ENOMEM;
	p->refs = 1;
	p->id = (uint64_t)shm_fetch_add(&next_id, 1);
	err = take_blob(p, blob, bytes);
	if (err == 0)
		err = take_constants(p, constants, n_constants);
	if (err == 0)
		err = check_all(p, why);
	if (err != 0) {
		pipeline_unref(p);
		return err;
	}
	clean_blob(p);
	count_readers(p);
	fill_interface(p);
	why[0] = '\0';
	*ret_pipeline = p;
	return 0;
}

int pipeline_create(const void *blob, uint64_t bytes, struct pipeline **ret_pipeline,
	char why[PIPELINE_MAX_WHY])
{
	return pipeline_create_internal(blob, bytes, NULL, 0, ret_pipeline, why);
}

struct pipeline *pipeline_ref(struct pipeline *p)
{
	const uint32_t before = shm_fetch_add_u32(&p->refs, 1);

	assert(before > 0);
	(void)before;
	return p;
}

void pipeline_unref(struct pipeline *p)
{
	if (p == NULL || shm_fetch_add_u32(&p->refs, (uint32_t)-1) != 1)
		return;
	free(p->wire);
	free(p->constants);
	free(p->steps);
	free(p);
}

bool pipeline_is_last(const struct pipeline *p)
{
	return shm_load_acquire_u32(&p->refs) == 1;
}

bool pipeline_equal(const struct pipeline *a, const struct pipeline *b)
{
	return a->n_constants == 0 && b->n_constants == 0 && a->blob_bytes == b->blob_bytes &&
		memcmp(a->wire, b->wire, a->blob_bytes) == 0;
}

void pipeline_set_scratch(struct pipeline *p, void *data, uint64_t bytes)
{
	assert(p->n_constants > 0 && (uintptr_t)data % 256 == 0);
	p->scratch = data;
	p->scratch_bytes = bytes;
}

void *pipeline_scratch(const struct pipeline *p, uint64_t *ret_bytes)
{
	*ret_bytes = p->scratch_bytes;
	return p->scratch;
}

void pipeline_set_label(struct pipeline *p, const struct pipeline_label *label)
{
	p->label = *label;
}

const struct pipeline_label *pipeline_label(const struct pipeline *p)
{
	return &p->label;
}

bool pipeline_has_constants(const struct pipeline *p)
{
	return p->n_constants > 0;
}

uint64_t pipeline_id(const struct pipeline *p)
{
	return p->id;
}

const struct op *pipeline_op(const struct pipeline *p)
{
	return &p->op;
}

uint32_t pipeline_readers(const struct pipeline *p, uint32_t input)
{
	return p->readers[input];
}

const void *pipeline_blob(const struct pipeline *p, uint64_t *ret_bytes)
{
	*ret_bytes = p->blob_bytes;
	return p->wire;
}

const struct pipeline_step *pipeline_steps(const struct pipeline *p, uint32_t *ret_count)
{
	*ret_count = p->n_steps;
	return p->steps;
}
