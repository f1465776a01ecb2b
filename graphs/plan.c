/* SPDX-License-Identifier: MIT */
/*
 * Plans: the shapes of a call flow through the steps, and inner tensors get places in scratch
 * memory. A tensor lives from the step that writes it to the last one that reads it, both
 * included; each gets the lowest place that no living one has. Steps run in order, so first come
 * first served is the order of time, and one pass does it.
 */
#include "graphs/plan.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* An inner tensor that lives at the step under consideration. */
struct living {
	uint64_t begin, end; /* its bytes in scratch memory */
	uint32_t last_reader;
};

struct planning {
	struct plan *plan;
	const struct pipeline_step *steps;
	char *scratch_base;
	uint32_t n_steps, n_tensors;
	uint32_t n_inputs, n_external;
	uint32_t n_living;
	uint32_t last_reader[PIPELINE_MAX_TENSORS];
	bool constant[PIPELINE_MAX_TENSORS]; /* and never written */
	struct tensor tensors[PIPELINE_MAX_TENSORS];
	struct living living[PIPELINE_MAX_TENSORS]; /* by begin */
};

static uint64_t add_saturating(uint64_t a, uint64_t b)
{
	return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static void finish_kernel(
	struct plan *plan, struct plan_kernel *kernel, const struct cost_model *cost)
{
	const struct op_call *call = &kernel->launch.call;

	kernel->units = call->op->units(call);
	kernel->predicted_ns = cost == NULL ? 0 : cost_predict_ns(cost, call);
	plan->predicted_ns = add_saturating(plan->predicted_ns, kernel->predicted_ns);
}

static int allocate(uint32_t n_kernels, struct plan **ret_plan)
{
	const uint64_t bytes = sizeof(struct plan) + n_kernels * sizeof(struct plan_kernel);
	struct plan *plan = calloc(1, bytes);

	if (plan == NULL)
		return -ENOMEM;
	plan->refs = 1;
	plan->n_kernels = n_kernels;
	plan->bytes = bytes;
	*ret_plan = plan;
	return 0;
}

static int plan_operator(
	const struct op_call *call, const struct cost_model *cost, struct plan **ret_plan)
{
	int err = allocate(1, ret_plan);

	if (err != 0)
		return err;
	op_launch_init(&(*ret_plan)->kernels[0].launch, call);
	finish_kernel(*ret_plan, &(*ret_plan)->kernels[0], cost);
	return 0;
}

/* --- Scratch memory ------------------------------------------------------------------------ */

static void bury(struct planning *p, uint32_t step)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < p->n_living; i++) {
		if (p->living[i].last_reader >= step)
			p->living[n++] = p->living[i];
	}
	p->n_living = n;
}

static int place(struct planning *p, uint32_t tensor, uint32_t step)
{
	const uint32_t last = p->last_reader[tensor] == UINT32_MAX ? step : p->last_reader[tensor];
	uint64_t elements, bytes, begin = 0;
	uint32_t at = 0;
	int err = tensor_size(&p->tensors[tensor], &elements, &bytes);

	if (err == 0 && bytes > PLAN_MAX_BYTES)
		err = -GPUQ_EOVERFLOW;
	if (err != 0 || bytes == 0)
		return err;
	bytes = (bytes + PLAN_ALIGN - 1) / PLAN_ALIGN * PLAN_ALIGN;
	for (; at < p->n_living && p->living[at].begin - begin < bytes; at++)
		begin = p->living[at].end;
	if (begin + bytes > PLAN_MAX_BYTES)
		return -GPUQ_EOVERFLOW;
	memmove(&p->living[at + 1], &p->living[at], (p->n_living - at) * sizeof(p->living[0]));
	p->living[at] = (struct living){begin, begin + bytes, last};
	p->n_living++;
	p->tensors[tensor].data = p->scratch_base + begin;
	if (p->plan->scratch_bytes < begin + bytes)
		p->plan->scratch_bytes = begin + bytes;
	return 0;
}

static int place_outputs(struct planning *p, uint32_t number, struct op_call *call)
{
	const struct pipeline_step *step = &p->steps[number];

	bury(p, number);
	for (uint32_t i = 0; i < step->op->n_outputs; i++) {
		int err;

		if (step->out[i] == WIRE_PIPELINE_NONE || step->out[i] < p->n_external)
			continue;
		err = place(p, step->out[i], number);
		if (err != 0)
			return err;
		call->out[i].data = p->tensors[step->out[i]].data;
	}
	return 0;
}

/* --- Pipelines ----------------------------------------------------------------------------- */

/* The place in device_args.pointers of a tensor of the call; OP_FIXED for others. */
static uint8_t pointer_of(const struct planning *p, uint16_t tensor)
{
	if (tensor >= p->n_external)
		return OP_FIXED;
	return (uint8_t)(tensor < p->n_inputs ? tensor : GPUQ_MAX_INPUTS + tensor - p->n_inputs);
}

/* 1 + the argument of the call that a step's argument is, 0: none. */
static uint32_t blame_of(const struct planning *p, const struct pipeline_step *step, uint32_t arg)
{
	uint16_t tensor = WIRE_PIPELINE_NONE;

	if (arg < GPUQ_MAX_INPUTS)
		tensor = step->in[arg];
	else if (arg < GPUQ_MAX_TENSORS)
		tensor = step->out[arg - GPUQ_MAX_INPUTS];
	return tensor < p->n_external ? 1u + pointer_of(p, tensor) : 0;
}

static int plan_step(struct planning *p, uint32_t number, uint32_t *ret_blame)
{
	const struct pipeline_step *step = &p->steps[number];
	struct op_launch *launch = &p->plan->kernels[number].launch;
	uint32_t arg;
	int err = pipeline_check_step(step, p->tensors, &launch->call, &arg);

	if (err != 0) {
		*ret_blame = blame_of(p, step, arg);
		return err;
	}
	memset(launch->in, OP_FIXED, sizeof(launch->in));
	memset(launch->out, OP_FIXED, sizeof(launch->out));
	memset(launch->params, OP_FIXED, sizeof(launch->params));
	for (uint32_t i = 0; i < step->op->n_inputs; i++) {
		launch->in[i] = pointer_of(p, step->in[i]);
		if (step->in[i] != WIRE_PIPELINE_NONE && p->constant[step->in[i]])
			launch->constants |= 1u << i;
	}
	for (uint32_t i = 0; i < step->op->n_outputs; i++)
		launch->out[i] = pointer_of(p, step->out[i]);
	return place_outputs(p, number, &launch->call);
}

static void find_last_readers(struct planning *p)
{
	memset(p->last_reader, 0xff, sizeof(p->last_reader));
	for (uint32_t i = 0; i < p->n_steps; i++) {
		for (uint32_t j = 0; j < p->steps[i].op->n_inputs; j++) {
			if (p->steps[i].in[j] != WIRE_PIPELINE_NONE)
				p->last_reader[p->steps[i].in[j]] = i;
		}
	}
}

/*
 * Before any inner tensor has a place: only constants have addresses then. gpuqd's own calls give
 * no memory twice, so their inputs stay as they are; a client's input may be an output as well.
 */
static void find_constants(struct planning *p, bool is_own)
{
	for (uint32_t i = 0; i < p->n_inputs; i++)
		p->constant[i] = is_own;
	for (uint32_t i = p->n_external; i < p->n_tensors; i++)
		p->constant[i] = p->tensors[i].data != NULL;
	for (uint32_t i = 0; i < p->n_steps; i++) {
		const struct pipeline_step *step = &p->steps[i];

		for (uint32_t j = 0; j < step->op->n_inputs; j++) {
			if (step->op->inputs[j].in_out && step->in[j] != WIRE_PIPELINE_NONE)
				p->constant[step->in[j]] = false;
		}
	}
}

/* The call's tensors become the first ones of the pipeline. */
static int take_call(struct planning *p, const struct op_call *call, uint32_t *ret_blame)
{
	for (uint32_t i = 0; i < p->n_external; i++) {
		const struct tensor *given =
			i < p->n_inputs ? &call->in[i] : &call->out[i - p->n_inputs];

		if (given->dtype != p->tensors[i].dtype) {
			*ret_blame = 1u + pointer_of(p, (uint16_t)i);
			return tensor_present(given) ? -GPUQ_EDTYPE : -GPUQ_EMISSING;
		}
		p->tensors[i] = *given;
		p->tensors[i].data = NULL;
	}
	return 0;
}

static int plan_pipeline(struct planning *p, const struct pipeline *pipeline,
	const struct op_call *call, const struct cost_model *cost, uint32_t *ret_blame)
{
	int err;

	p->steps = pipeline_steps(pipeline, &p->n_steps);
	pipeline_tensors(pipeline, p->tensors, &p->n_tensors);
	p->n_inputs = call->op->n_inputs;
	p->n_external = call->op->n_inputs + call->op->n_outputs;
	find_last_readers(p);
	find_constants(p, pipeline_has_constants(pipeline));
	err = allocate(p->n_steps, &p->plan);
	if (err == 0)
		err = take_call(p, call, ret_blame);
	for (uint32_t i = 0; i < p->n_steps && err == 0; i++) {
		err = plan_step(p, i, ret_blame);
		if (err == 0)
			finish_kernel(p->plan, &p->plan->kernels[i], cost);
	}
	return err;
}

int plan_create(const struct pipeline *pipeline, const struct op_call *call, void *scratch_base,
	const struct cost_model *cost, struct plan **ret_plan, uint32_t *ret_blame)
{
	struct planning *p;
	uint32_t blame = 0;
	int err;

	assert(scratch_base != NULL && (uintptr_t)scratch_base % PLAN_ALIGN == 0);
	if (pipeline == NULL)
		return plan_operator(call, cost, ret_plan);
	assert(call->op == pipeline_op(pipeline));
	p = calloc(1, sizeof(*p));
	if (p == NULL)
		return -ENOMEM;
	p->scratch_base = scratch_base;
	err = plan_pipeline(p, pipeline, call, cost, &blame);
	if (err == 0) {
		*ret_plan = p->plan;
	} else {
		*ret_blame = blame;
		plan_destroy(p->plan);
	}
	free(p);
	return err;
}

static void move_tensor(
	const struct plan *plan, struct tensor *t, uint8_t pointer, const void *from, void *to)
{
	const uint64_t offset = (uintptr_t)t->data - (uintptr_t)from;

	if (pointer == OP_FIXED && t->data != NULL && offset < plan->scratch_bytes)
		t->data = (char *)to + offset;
}

struct device_kernel plan_device_kernel(const struct plan_kernel *kernel, bool signal)
{
	return (struct device_kernel){
		.code = op_code(kernel->launch.call.op),
		.shape = &kernel->launch,
		.shape_bytes = sizeof(kernel->launch),
		.signal = signal,
		.units = kernel->units,
		.predicted_ns = kernel->predicted_ns,
	};
}

void plan_move(struct plan *plan, const void *from, void *to)
{
	for (uint32_t i = 0; i < plan->n_kernels; i++) {
		struct op_launch *launch = &plan->kernels[i].launch;

		for (uint32_t j = 0; j < GPUQ_MAX_INPUTS; j++)
			move_tensor(plan, &launch->call.in[j], launch->in[j], from, to);
		for (uint32_t j = 0; j < GPUQ_MAX_OUTPUTS; j++)
			move_tensor(plan, &launch->call.out[j], launch->out[j], from, to);
	}
}

void plan_destroy(struct plan *plan)
{
	free(plan);
}
