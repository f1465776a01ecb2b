/* SPDX-License-Identifier: MIT */
/*
 * validate.c: what a client wrote, checked. Everything here works on private copies; the only
 * look at the client's memory is the one shm_copy_in() of the argument block.
 */
#include "daemon/validate.h"

#include <string.h>

static bool uses_session(uint32_t opcode)
{
	return opcode == WIRE_OP_SESSION || opcode == WIRE_OP_STEP || opcode == WIRE_OP_GENERATE;
}

int validate_entry(const struct channel *ch, const struct wire_sqe *sqe)
{
	if (sqe->generation != ch->generation)
		return -GPUQ_ESTALE;
	if ((sqe->flags & ~WIRE_SQE_FLAGS) != 0 || sqe->reserved != 0)
		return -EINVAL;
	if (sqe->session != 0 && (ch->abi < 3 || !uses_session(sqe->opcode)))
		return -EINVAL;
	/* No opcode completes more than once yet. */
	if (sqe->max_completions > 1)
		return -EINVAL;
	if (ch->abi < 2 && (sqe->trace_id != 0 || sqe->max_completions != 0))
		return -EINVAL;
	switch (sqe->opcode) {
	case WIRE_OP_NULL:
		return sqe->target == 0 ? 0 : -EINVAL;
	case WIRE_OP_CALL:
	case WIRE_OP_CANCEL:
		return 0;
	case WIRE_OP_COPY:
	case WIRE_OP_CAPTURE:
	case WIRE_OP_SESSION:
	case WIRE_OP_STEP:
	case WIRE_OP_GENERATE:
		return ch->abi < 3 ? -GPUQ_EOPCODE : 0;
	case WIRE_OP_SHAPE:
		return ch->abi < 4 ? -GPUQ_EOPCODE : 0;
	default:
		return -GPUQ_EOPCODE;
	}
}

/* The argument block, copied. */
union args {
	struct wire_call call;
	struct wire_copy copy;
	struct wire_session session;
	struct wire_step step;
	struct wire_generate generate;
	struct wire_shape shape;
	uint64_t words[WIRE_MAX_ARGS / 8];
};

static int copy_args(const struct channel *ch, const struct wire_sqe *sqe, union args *args)
{
	_Static_assert(sizeof(struct wire_copy) == sizeof(struct wire_call) &&
			sizeof(struct wire_session) == sizeof(struct wire_call) &&
			sizeof(struct wire_shape) == sizeof(struct wire_call),
		"least size");
	if (sqe->args_bytes < sizeof(struct wire_call) || sqe->args_bytes > WIRE_MAX_ARGS ||
		sqe->args_bytes % 8 != 0)
		return -GPUQ_EARGS;
	if (sqe->args_offset % 8 != 0)
		return -GPUQ_EALIGN;
	if ((uint64_t)sqe->args_offset + sqe->args_bytes > ch->arena_bytes)
		return -GPUQ_EBOUNDS;
	shm_copy_in(args, ch->arena + sqe->args_offset, sqe->args_bytes / 8);
	return 0;
}

static bool dims_clean(const struct wire_tensor *w)
{
	for (uint32_t i = w->rank; i < GPUQ_MAX_RANK; i++) {
		if (w->dims[i] != 0)
			return false;
	}
	return true;
}

/* Where a range of the arena or of a buffer (since version 3 of the wire) lies. */
static int find_range(const struct channel *ch, uint32_t buffer, uint64_t offset, uint64_t bytes,
	struct buffer_uses *uses, void **ret_data)
{
	if (buffer != 0 && ch->abi >= 3)
		return buffer_find(ch->buffers, ch->client, buffer, offset, bytes, uses, ret_data);
	if (buffer != 0 || offset > ch->arena_bytes || bytes > ch->arena_bytes - offset)
		return -GPUQ_EBOUNDS;
	*ret_data = ch->device_arena + offset;
	return 0;
}

/* One tensor of the block. */
static int take_tensor(const struct channel *ch, const struct wire_tensor *w,
	struct buffer_uses *uses, struct tensor *ret)
{
	uint64_t elements, bytes;

	if (w->dtype == 0) {
		if (w->offset != 0 || w->buffer != 0 || w->rank != 0 || !dims_clean(w))
			return -EINVAL;
		ret->dtype = 0;
		ret->data = NULL;
		return 0;
	}
	if (w->dtype > GPUQ_DTYPE_LAST)
		return -GPUQ_EDTYPE;
	if (w->rank > GPUQ_MAX_RANK)
		return -GPUQ_ERANK;
	if (!dims_clean(w))
		return -EINVAL;
	ret->dtype = w->dtype;
	ret->rank = w->rank;
	memcpy(ret->dims, w->dims, sizeof(ret->dims));
	int r = tensor_size(ret, &elements, &bytes);
	if (r < 0)
		return r;
	r = find_range(ch, w->buffer, w->offset, bytes, uses, &ret->data);
	if (r == 0 && w->offset % dtype_size(w->dtype) != 0)
		r = -GPUQ_EALIGN;
	return r;
}

static int take_tensors(const struct channel *ch, const struct wire_tensor *w,
	const struct wire_call *c, struct op_call *call, struct buffer_uses *uses,
	uint32_t *ret_arg)
{
	for (uint32_t i = 0; i < c->n_in; i++) {
		*ret_arg = 1 + i;
		int r = take_tensor(ch, &w[i], uses, &call->in[i]);
		if (r < 0)
			return r;
	}
	for (uint32_t i = 0; i < c->n_out; i++) {
		*ret_arg = 1 + GPUQ_MAX_INPUTS + i;
		int r = take_tensor(ch, &w[c->n_in + i], uses, &call->out[i]);
		if (r < 0)
			return r;
	}
	/* The call before in the same memory may have had more. */
	for (uint32_t i = c->n_in; i < GPUQ_MAX_INPUTS; i++)
		call->in[i].dtype = 0;
	for (uint32_t i = c->n_out; i < GPUQ_MAX_OUTPUTS; i++)
		call->out[i].dtype = 0;
	return 0;
}

static int take_params(
	const struct wire_param *w, uint32_t n, struct op_call *call, uint32_t *ret_arg)
{
	const struct op *op = call->op;
	uint32_t seen = 0;

	for (uint32_t i = 0; i < op->n_params; i++) {
		if (op->params[i].type == GPUQ_PARAM_F64)
			call->params[i].f64 = op->params[i].preset;
		else
			call->params[i].i64 = (int64_t)op->params[i].preset;
	}
	for (uint32_t i = 0; i < n; i++) {
		uint32_t index = w[i].index;
		*ret_arg = 0;
		if (index >= op->n_params)
			return -GPUQ_EPARAM;
		*ret_arg = 1 + GPUQ_MAX_TENSORS + index;
		if (w[i].type != op->params[index].type || (seen & 1u << index) != 0)
			return -GPUQ_EPARAM;
		seen |= 1u << index;
		memcpy(&call->params[index], &w[i].bits, sizeof(w[i].bits));
	}
	return 0;
}

/* The operator or the pipeline that a call names. */
static int find_op(const struct channel *ch, uint32_t number, const struct op **ret_op,
	struct known_pipeline **ret_pipeline)
{
	if ((number & WIRE_PIPELINE) != 0 && ch->abi >= 3) {
		*ret_pipeline = pipeline_table_find(
			ch->pipelines, number, ch->client, ch->client_generation);
		if (*ret_pipeline == NULL)
			return -GPUQ_EPIPELINE;
		*ret_op = pipeline_op((*ret_pipeline)->pipeline);
		return 0;
	}
	if (number >= op_count)
		return -GPUQ_EOP;
	*ret_pipeline = NULL;
	*ret_op = op_table[number];
	return 0;
}

/* What can be said of a pipeline's call before it is planned: its tensors are as declared. */
static int check_interface(const struct op_call *call, uint32_t *ret_arg)
{
	for (uint32_t i = 0; i < call->op->n_inputs + call->op->n_outputs; i++) {
		bool in = i < call->op->n_inputs;
		uint32_t at = in ? i : i - call->op->n_inputs;
		const struct op_tensor *spec = in ? &call->op->inputs[at] : &call->op->outputs[at];
		const struct tensor *t = in ? &call->in[at] : &call->out[at];

		*ret_arg = in ? at : GPUQ_MAX_INPUTS + at;
		if (!tensor_present(t))
			return -GPUQ_EMISSING;
		if ((spec->dtypes & GPUQ_DTYPE_BIT(t->dtype)) == 0)
			return -GPUQ_EDTYPE;
	}
	return 0;
}

int validate_call(const struct channel *ch, const struct wire_sqe *sqe, struct op_call *ret_call,
	struct known_pipeline **ret_pipeline, struct buffer_uses *ret_uses, uint32_t *ret_arg)
{
	union args args = {.call = {0}};
	const struct wire_call *c = &args.call;

	*ret_arg = 0;
	ret_uses->n = 0;
	int r = copy_args(ch, sqe, &args);
	if (r < 0)
		return r;
	if (c->reserved0 != 0 || c->reserved1 != 0 || c->reserved2[0] != 0 || c->reserved2[1] != 0)
		return -EINVAL;
	const struct op *op;
	r = find_op(ch, c->op, &op, ret_pipeline);
	if (r < 0)
		return r;
	if (c->n_in != op->n_inputs || c->n_out != op->n_outputs || c->n_params > op->n_params)
		return -GPUQ_EARGS;
	const struct wire_tensor *tensors = (const void *)(c + 1);
	const struct wire_param *params = (const void *)(tensors + c->n_in + c->n_out);
	if ((const char *)(params + c->n_params) - (const char *)c != (ptrdiff_t)sqe->args_bytes)
		return -GPUQ_EARGS;

	ret_call->op = op;
	ret_call->place = *ret_pipeline == NULL ? c->op + 1 : 0;
	r = take_tensors(ch, tensors, c, ret_call, ret_uses, ret_arg);
	if (r == 0)
		r = take_params(params, c->n_params, ret_call, ret_arg);
	if (r < 0)
		return r;
	r = *ret_pipeline == NULL ? op_check(ret_call, ret_arg)
				  : check_interface(ret_call, ret_arg);
	*ret_arg = r < 0 ? *ret_arg + 1 : 0;
	return r;
}

int validate_copy(const struct channel *ch, const struct wire_sqe *sqe, struct slot_copy *ret_copy,
	struct buffer_uses *ret_uses)
{
	union args args = {.call = {0}};
	const struct wire_copy *c = &args.copy;
	void *arena, *buffer;

	ret_uses->n = 0;
	int r = sqe->args_bytes == sizeof(*c) ? copy_args(ch, sqe, &args) : -GPUQ_EARGS;
	if (r < 0)
		return r;
	if (c->to_buffer > 1)
		return -EINVAL;
	if (c->buffer == 0)
		return -GPUQ_EBUFFER;
	r = find_range(ch, 0, c->arena_offset, c->bytes, ret_uses, &arena);
	if (r == 0)
		r = find_range(ch, c->buffer, c->buffer_offset, c->bytes, ret_uses, &buffer);
	if (r < 0)
		return r;
	*ret_copy = (struct slot_copy){
		.to = c->to_buffer ? buffer : arena,
		.from = c->to_buffer ? arena : buffer,
		.bytes = c->bytes,
	};
	return 0;
}

/* --- Sessions of models -------------------------------------------------------------------- */

/* What of struct wire_step and struct wire_generate is to blame. */
enum {
	BLAME_TOKENS = 1,
	BLAME_IDS = 2,
	BLAME_OUT = 1 + GPUQ_MAX_INPUTS,
	BLAME_LOGITS = 2 + GPUQ_MAX_INPUTS,
	BLAME_N_TOKENS = 1 + GPUQ_MAX_TENSORS,
	BLAME_SECOND, /* rows, n_generate */
	BLAME_THIRD,  /* top_k, temperature of wire_generate */
	BLAME_N_IDS,
};

int validate_session(
	const struct channel *ch, const struct wire_sqe *sqe, struct wire_session *ret_order)
{
	union args args = {.call = {0}};
	const struct wire_session *s = &args.session;
	uint32_t reserved = 0;
	int r = sqe->args_bytes == sizeof(*s) ? copy_args(ch, sqe, &args) : -GPUQ_EARGS;

	if (r < 0)
		return r;
	for (size_t i = 0; i < sizeof(s->reserved) / sizeof(s->reserved[0]); i++)
		reserved |= s->reserved[i];
	if (s->action < WIRE_SESSION_OPEN || s->action > WIRE_SESSION_CLOSE || reserved != 0)
		return -EINVAL;
	if (s->action == WIRE_SESSION_OPEN ? sqe->session != 0 : s->model != 0)
		return -EINVAL;
	if (s->action != WIRE_SESSION_TRUNCATE && s->tokens != 0)
		return -EINVAL;
	*ret_order = *s;
	return 0;
}

/* `count` elements of the arena, of `size` bytes and as much aligned. */
static int check_range(const struct channel *ch, uint64_t offset, uint64_t count, uint64_t size)
{
	if (offset % size != 0)
		return -GPUQ_EALIGN;
	if (offset > ch->arena_bytes || count > (ch->arena_bytes - offset) / size)
		return -GPUQ_EBOUNDS;
	return 0;
}

static int take_tokens(const struct channel *ch, uint32_t n, uint64_t offset,
	struct engine_request *q, uint32_t *ret_arg)
{
	*ret_arg = BLAME_N_TOKENS;
	if (n == 0)
		return -GPUQ_ETOKEN;
	*ret_arg = BLAME_TOKENS;
	int r = check_range(ch, offset, n, sizeof(int32_t));
	if (r < 0)
		return r;
	q->n_tokens = n;
	q->tokens = ch->arena + offset;
	return 0;
}

static int take_out(const struct channel *ch, uint64_t offset, uint64_t bytes, uint64_t align,
	struct engine_request *q, uint32_t *ret_arg)
{
	*ret_arg = BLAME_OUT;
	if (bytes == 0)
		return 0;
	int r = check_range(ch, offset, bytes / align, align);
	if (r < 0)
		return r;
	q->out = ch->arena + offset;
	q->out_bytes = bytes;
	return 0;
}

/* The numbers of a step fit each other. */
static int check_step(const struct wire_step *s, uint32_t *ret_arg)
{
	const bool full = s->logits_offset != WIRE_NOWHERE;

	*ret_arg = 0;
	if (s->flags != 0 || s->reserved[0] != 0 || s->reserved[1] != 0)
		return -EINVAL;
	*ret_arg = BLAME_SECOND;
	if (s->rows > s->n_tokens)
		return -GPUQ_EPARAM;
	*ret_arg = BLAME_THIRD;
	if (s->top_k > WIRE_STEP_MAX_CANDIDATES || (full && s->top_k != 0))
		return -GPUQ_EPARAM;
	*ret_arg = BLAME_N_IDS;
	if (s->n_ids > WIRE_STEP_MAX_IDS || (full && s->n_ids != 0))
		return -GPUQ_EPARAM;
	*ret_arg = BLAME_LOGITS;
	return full && s->logits_offset % sizeof(float) != 0 ? -GPUQ_EALIGN : 0;
}

int validate_step(const struct channel *ch, const struct wire_sqe *sqe,
	struct engine_request *ret_request, uint64_t *ret_logits, uint32_t *ret_arg)
{
	union args args = {.call = {0}};
	const struct wire_step *s = &args.step;
	struct engine_request q = {.kind = ENGINE_STEP};

	*ret_arg = 0;
	int r = sqe->args_bytes == sizeof(*s) ? copy_args(ch, sqe, &args) : -GPUQ_EARGS;
	if (r == 0)
		r = take_tokens(ch, s->n_tokens, s->tokens_offset, &q, ret_arg);
	if (r == 0)
		r = check_step(s, ret_arg);
	if (r == 0) {
		*ret_arg = BLAME_IDS;
		r = check_range(ch, s->ids_offset, s->n_ids, sizeof(int32_t));
	}
	if (r == 0)
		r = take_out(ch, s->out_offset, s->rows * wire_row_bytes(s->top_k, s->n_ids), 8, &q,
			ret_arg);
	if (r < 0)
		return r;
	q.rows = s->rows;
	q.top_k = s->top_k;
	q.n_ids = s->n_ids;
	q.ids = ch->arena + s->ids_offset;
	q.temperature = s->temperature;
	*ret_request = q;
	*ret_logits = s->rows > 0 ? s->logits_offset : WIRE_NOWHERE;
	*ret_arg = 0;
	return 0;
}

int validate_generate(const struct channel *ch, const struct wire_sqe *sqe,
	struct engine_request *ret_request, uint32_t *ret_arg)
{
	union args args = {.call = {0}};
	const struct wire_generate *g = &args.generate;
	struct engine_request q = {.kind = ENGINE_GENERATE};

	*ret_arg = 0;
	int r = sqe->args_bytes == sizeof(*g) ? copy_args(ch, sqe, &args) : -GPUQ_EARGS;
	if (r < 0)
		return r;
	if ((g->flags & ~WIRE_GENERATE_STOP) != 0 || g->reserved[0] != 0 || g->reserved[1] != 0)
		return -EINVAL;
	*ret_arg = BLAME_SECOND;
	if (g->n_generate == 0)
		return -GPUQ_EPARAM;
	*ret_arg = BLAME_THIRD;
	if (!(g->temperature >= 0 && g->temperature <= 1e30f))
		return -GPUQ_EPARAM;
	r = take_tokens(ch, g->n_tokens, g->tokens_offset, &q, ret_arg);
	if (r == 0)
		r = take_out(ch, g->out_offset, 8ull * g->n_generate, 4, &q, ret_arg);
	if (r < 0)
		return r;
	q.n_generate = g->n_generate;
	q.temperature = g->temperature;
	q.seed = g->seed;
	q.stop = (g->flags & WIRE_GENERATE_STOP) != 0;
	*ret_request = q;
	*ret_arg = 0;
	return 0;
}

int validate_shape(const struct channel *ch, const struct wire_sqe *sqe, uint32_t *ret_model,
	struct engine_shape *ret_shape, uint32_t *ret_arg)
{
	static const enum model_step kinds[] = {
		[WIRE_SHAPE_CANDIDATES] = MODEL_STEP_RESULT,
		[WIRE_SHAPE_LOGITS] = MODEL_STEP_ROWS,
		[WIRE_SHAPE_GENERATE] = MODEL_STEP_SAMPLE,
	};
	union args args = {.call = {0}};
	const struct wire_shape *s = &args.shape;

	*ret_arg = 0;
	int r = sqe->args_bytes == sizeof(*s) ? copy_args(ch, sqe, &args) : -GPUQ_EARGS;
	if (r < 0)
		return r;
	if (s->reserved != 0)
		return -EINVAL;
	*ret_arg = VALIDATE_BLAME_SHAPE;
	if (s->kind < WIRE_SHAPE_CANDIDATES || s->kind > WIRE_SHAPE_GENERATE)
		return -GPUQ_EPARAM;
	*ret_model = s->model;
	*ret_shape = (struct engine_shape){
		.kind = kinds[s->kind],
		.tokens = s->tokens,
		.sessions = s->batch,
		.rows = s->rows,
		.ids = s->ids,
		.context = s->context,
	};
	*ret_arg = 0;
	return 0;
}
