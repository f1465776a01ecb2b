/* SPDX-License-Identifier: MIT */
/* call.c: calls: an operator's arguments, written into the arena once and submitted often. */
#include "client/client.h"
#include "shm/failpoint.h"

#include <stdlib.h>
#include <string.h>

/* Where a tensor begins, in the arena or in its buffer. */
static int find_data(const struct gpuq_channel *ch, const struct gpuq_op_tensor *spec,
	const struct gpuq_tensor *tensor, uint64_t *ret_offset)
{
	uint64_t offset = (uintptr_t)tensor->data - (uintptr_t)ch->arena_base;

	if (tensor->buffer != NULL && tensor->data != NULL)
		return fail(-EINVAL,
			"%s: it has data and a buffer; data must be NULL when it lies in a buffer",
			spec->name);
	if (tensor->buffer != NULL) {
		*ret_offset = tensor->offset;
		return buf_check(ch->gpuq, tensor->buffer, tensor->offset, 0, spec->name);
	}
	if (offset >= arena_capacity(ch->arena))
		return fail(-GPUQ_EBOUNDS,
			"%s: its data are not in this channel's arena; get memory from "
			"gpuq_alloc()",
			spec->name);
	*ret_offset = offset;
	return 0;
}

/* Checks one tensor as far as the wire's fields reach, and translates it. */
static int put_tensor(const struct gpuq_channel *ch, const struct gpuq_op_tensor *spec,
	const struct gpuq_tensor *tensor, struct wire_tensor *ret_tensor)
{
	uint64_t offset = 0;

	if (tensor->dtype == 0) {
		*ret_tensor = (struct wire_tensor){0};
		return 0;
	}
	if (tensor->dtype > GPUQ_DTYPE_LAST)
		return fail(
			-GPUQ_EDTYPE, "%s: %u is not an element type", spec->name, tensor->dtype);
	if (tensor->rank > GPUQ_MAX_RANK)
		return fail(-GPUQ_ERANK, "%s: %u dimensions; at most %u are possible", spec->name,
			tensor->rank, GPUQ_MAX_RANK);
	int r = find_data(ch, spec, tensor, &offset);
	if (r < 0)
		return r;
	*ret_tensor = (struct wire_tensor){
		.offset = offset,
		.buffer = tensor->buffer != NULL ? tensor->buffer->handle : 0,
		.dtype = (uint16_t)tensor->dtype,
		.rank = (uint16_t)tensor->rank,
	};
	memcpy(ret_tensor->dims, tensor->dims, tensor->rank * sizeof(tensor->dims[0]));
	return 0;
}

static int put_tensors(const struct gpuq_channel *ch, const struct gpuq_op_tensor *specs,
	const struct gpuq_tensor *tensors, uint32_t n, struct wire_tensor *ret_tensors)
{
	for (uint32_t i = 0; i < n; i++) {
		int r = put_tensor(ch, &specs[i], &tensors[i], &ret_tensors[i]);
		if (r < 0)
			return r;
	}
	return 0;
}

static int put_param(
	const struct gpuq_op_info *op, const struct gpuq_param *param, struct wire_param *ret_param)
{
	for (uint32_t i = 0; i < op->n_params; i++) {
		if (strcmp(op->params[i].name, param->name) != 0)
			continue;
		ret_param->index = i;
		ret_param->type = param->type;
		memcpy(&ret_param->bits, &param->value, sizeof(ret_param->bits));
		return 0;
	}
	return fail(-GPUQ_EPARAM, "%s has no parameter \"%s\"", op->name, param->name);
}

static int check_counts(
	const struct gpuq_op_info *op, uint32_t n_inputs, uint32_t n_outputs, uint32_t n_params)
{
	if (n_inputs > op->n_inputs)
		return fail(-GPUQ_EARGS, "%s takes %u inputs; %u are given", op->name, op->n_inputs,
			n_inputs);
	if (n_outputs != op->n_outputs)
		return fail(-GPUQ_EARGS, "%s has %u outputs; %u are given", op->name, op->n_outputs,
			n_outputs);
	if (n_params > op->n_params)
		return fail(-GPUQ_EARGS, "%s has %u parameters; %u are given", op->name,
			op->n_params, n_params);
	return 0;
}

/* Builds the argument block; returns its length. Inputs that are not given stay absent: zeros. */
static int build(const struct gpuq_channel *ch, const struct gpuq_op_info *op,
	const struct call_arguments *a, uint64_t *block)
{
	struct wire_call *head = (struct wire_call *)block;
	struct wire_tensor *tensors = (struct wire_tensor *)(head + 1);
	struct wire_param *params = (struct wire_param *)(tensors + op->n_inputs + a->n_outputs);

	*head = (struct wire_call){
		.op = op->index,
		.n_in = (uint16_t)op->n_inputs,
		.n_out = (uint16_t)a->n_outputs,
		.n_params = (uint16_t)a->n_params,
	};
	int r = put_tensors(ch, op->inputs, a->inputs, a->n_inputs, tensors);
	if (r == 0)
		r = put_tensors(ch, op->outputs, a->outputs, a->n_outputs, tensors + op->n_inputs);
	for (uint32_t i = 0; r == 0 && i < a->n_params; i++)
		r = put_param(op, &a->params[i], &params[i]);
	return r < 0 ? r : (int)((uint8_t *)(params + a->n_params) - (uint8_t *)block);
}

static void link_call(struct gpuq_channel *ch, struct gpuq_call *call)
{
	call->next = ch->calls;
	call->link = &ch->calls;
	if (call->next != NULL)
		call->next->link = &call->next;
	ch->calls = call;
}

int call_new(struct gpuq_channel *ch, uint16_t opcode, const void *block, size_t bytes,
	const struct gpuq_op_info *op, struct gpuq_call **ret_call)
{
	struct gpuq_call *call = calloc(1, sizeof(*call));
	void *data;

	if (call == NULL)
		return fail_plain(-ENOMEM, "no memory for a call");
	int r = gpuq_alloc(ch, bytes, &data);
	if (r < 0) {
		free(call);
		return r;
	}
	memcpy(data, block, bytes);
	FAILPOINT("client.block");
	call->channel = ch;
	call->opcode = opcode;
	call->args = (uint64_t)((uint8_t *)data - ch->arena_base) | bytes << 32;
	call->references = 1;
	call->op = op;
	link_call(ch, call);
	*ret_call = call;
	return 0;
}

int call_create(struct gpuq_channel *ch, const struct gpuq_op_info *op,
	struct gpuq_pipeline *pipeline, const struct call_arguments *a, struct gpuq_call **ret_call)
{
	uint64_t block[WIRE_MAX_ARGS / sizeof(uint64_t)] = {0};

	int r = check_counts(op, a->n_inputs, a->n_outputs, a->n_params);
	if (r == 0)
		r = build(ch, op, a, block);
	if (r < 0)
		return r;
	r = call_new(ch, WIRE_OP_CALL, block, (size_t)r, op, ret_call);
	if (r == 0) {
		(*ret_call)->pipeline = pipeline;
		pipeline_ref(pipeline);
	}
	return r;
}

int gpuq_call_create(struct gpuq_channel *ch, const char *op_name, const struct gpuq_tensor *inputs,
	uint32_t n_inputs, const struct gpuq_tensor *outputs, uint32_t n_outputs,
	const struct gpuq_param *params, uint32_t n_params, struct gpuq_call **ret_call)
{
	const struct call_arguments a = {inputs, outputs, params, n_inputs, n_outputs, n_params};
	const struct gpuq_op_info *op;

	if (!channel_owned(ch))
		return channel_refuse(ch);
	int r = discovery_find(ch->gpuq, op_name, &op);
	return r < 0 ? r : call_create(ch, op, NULL, &a, ret_call);
}

/* --- Another gpuqd ------------------------------------------------------------------------- */

/* But for its number. */
static bool same_interface(const struct gpuq_op_info *a, const struct gpuq_op_info *b)
{
	struct gpuq_op_info copy = *a;

	copy.index = b->index;
	memcpy(copy.summary, b->summary, sizeof(copy.summary));
	return memcmp(&copy, b, sizeof(copy)) == 0;
}

/* Finds the operator of a block that was written for another gpuqd. */
static int renew_op(struct gpuq_call *call, struct wire_call *head)
{
	const struct gpuq_op_info *op;
	int r = discovery_find(call->channel->gpuq, call->op->name, &op);

	if (r < 0 && r != -GPUQ_EOP)
		return r;
	head->op = STALE_OP;
	if (r == 0 && same_interface(call->op, op)) {
		head->op = op->index;
		call->op = op;
	}
	return 0;
}

static int renew_block(struct gpuq_call *call, void *block)
{
	struct wire_call *head = block;
	struct wire_tensor *tensors = (struct wire_tensor *)(head + 1);

	for (uint32_t i = 0; i < (uint32_t)head->n_in + head->n_out; i++) {
		if (tensors[i].buffer != 0)
			tensors[i].buffer = STALE_HANDLE;
	}
	if (call->pipeline == NULL)
		return renew_op(call, head);
	head->op = STALE_PIPELINE;
	return 0;
}

static int call_renew(struct gpuq_call *call, uint8_t *arena)
{
	void *block = arena + (uint32_t)call->args;

	switch ((uint16_t)call->opcode) {
	case WIRE_OP_CALL:
		return renew_block(call, block);
	case WIRE_OP_COPY:
		((struct wire_copy *)block)->buffer = STALE_HANDLE;
		return 0;
	case WIRE_OP_SHAPE:
		((struct wire_shape *)block)->model = STALE_HANDLE;
		return 0;
	default:
		/* Of a session. */
		call->opcode = (uint16_t)call->opcode | (uint64_t)STALE_HANDLE << 32;
		return 0;
	}
}

int calls_renew(struct gpuq_channel *ch, uint8_t *arena)
{
	for (struct gpuq_call *call = ch->calls; call != NULL; call = call->next) {
		int r = call_renew(call, arena);
		if (r < 0)
			return r;
	}
	return 0;
}

void call_free(struct gpuq_call *call)
{
	model_call_free(call);
	(void)arena_free(call->channel->arena, (uint32_t)call->args);
	*call->link = call->next;
	if (call->next != NULL)
		call->next->link = call->link;
	pipeline_unref(call->pipeline);
	free(call);
}

void gpuq_call_destroy(struct gpuq_call *call)
{
	if (call == NULL)
		return;
	if (!channel_owned(call->channel)) {
		channel_refuse(call->channel);
		return;
	}
	call_release(call);
}
