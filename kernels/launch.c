/* SPDX-License-Identifier: MIT */
/* launch.c: operators as work for a device, and the CPU form of their code; see launch.h. */
#include "kernels/launch.h"

#include <string.h>

void op_launch_init(struct op_launch *launch, const struct op_call *call)
{
	if (call != &launch->call)
		launch->call = *call;
	for (uint8_t i = 0; i < GPUQ_MAX_INPUTS; i++)
		launch->in[i] = i;
	for (uint8_t i = 0; i < GPUQ_MAX_OUTPUTS; i++)
		launch->out[i] = GPUQ_MAX_INPUTS + i;
	for (uint8_t i = 0; i < GPUQ_MAX_PARAMS; i++)
		launch->params[i] = i;
}

void op_args(struct device_args *args, const struct op_call *call)
{
	memset(args, 0, sizeof(*args));
	for (uint32_t i = 0; i < call->op->n_inputs; i++)
		args->pointers[i] = call->in[i].data;
	for (uint32_t i = 0; i < call->op->n_outputs; i++)
		args->pointers[GPUQ_MAX_INPUTS + i] = call->out[i].data;
	for (uint32_t i = 0; i < call->op->n_params; i++)
		memcpy(&args->scalars[i], &call->params[i], sizeof(args->scalars[i]));
}

static void fill_tensors(struct tensor *to, const struct tensor *from, const uint8_t *places,
	uint32_t n, const struct device_args *args)
{
	for (uint32_t i = 0; i < n; i++) {
		to[i] = from[i];
		if (places[i] != OP_FIXED)
			to[i].data = args->pointers[places[i]];
	}
}

void op_launch_cpu(const void *shape, const struct device_args *args, uint64_t begin, uint64_t end)
{
	const struct op_launch *launch = shape;
	const struct op *op = launch->call.op;
	/* Only what the operator has is filled in, and only that is read. */
	struct op_call call;

	call.op = op;
	fill_tensors(call.in, launch->call.in, launch->in, op->n_inputs, args);
	fill_tensors(call.out, launch->call.out, launch->out, op->n_outputs, args);
	for (uint32_t i = 0; i < op->n_params; i++) {
		call.params[i] = launch->call.params[i];
		if (launch->params[i] != OP_FIXED)
			memcpy(&call.params[i], &args->scalars[launch->params[i]],
				sizeof(call.params[i]));
	}
	op->cpu(&call, begin, end);
}
