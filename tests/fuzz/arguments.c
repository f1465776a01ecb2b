/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target for entries and their arguments. The input is a version of the wire, an entry and an
 * arena: whatever they are, nothing behind the arena is looked at, and what is accepted lies inside
 * it, or inside the one buffer that there is.
 */
#include "daemon/validate.h"

#include <stdlib.h>
#include <string.h>

#define BUFFER_HANDLE 0x10000u
#define BUFFER_BYTES 256u
#define PIPELINE_HANDLE (WIRE_PIPELINE | 0x10000u)

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct buffer_table *buffers;
static struct buffer *buffer;
static struct pipeline_table *pipelines;

static void require(int condition)
{
	if (!condition)
		abort();
}

/* y = softmax(x) */
static struct pipeline *make_pipeline(void)
{
	struct {
		struct wire_pipeline head;
		struct wire_pipeline_tensor tensors[2];
		struct wire_pipeline_step step;
	} d = {.head = {"one", 1, 1, 2, 1},
		.tensors = {{"x", GPUQ_F32, 1, {8}}, {"y", GPUQ_F32, 0, {0}}}};
	struct pipeline *p;
	char why[PIPELINE_MAX_WHY];

	memset(d.step.in, 0xff, sizeof(d.step.in));
	memset(d.step.out, 0xff, sizeof(d.step.out));
	d.step.in[0] = 0;
	d.step.out[0] = 1;
	require(op_find("softmax", &d.step.op) != NULL);
	require(pipeline_create(&d, sizeof(d), &p, why) == 0);
	return p;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static struct known_pipeline known = {.handle = PIPELINE_HANDLE};
	static char memory[BUFFER_BYTES];

	require(buffer_table_create(4, 2, &buffers) == 0);
	/* A lost one needs no device; then it is found again. */
	require(buffer_create(buffers, NULL, BUFFER_HANDLE, DEVICE_EXPORT_FD, BUFFER_BYTES, true,
			&buffer) == 0);
	buffer->lost = false;
	buffer->export.data = memory;
	buffer_permit(buffers, buffer, 0, true);
	require(pipeline_table_create(4, &pipelines) == 0);
	known.pipeline = make_pipeline();
	pipeline_table_add(pipelines, &known);
	return 0;
}

static bool inside(const void *data, uint64_t bytes, const void *memory, uint64_t size)
{
	const uint64_t at = (uint64_t)((const char *)data - (const char *)memory);

	return at <= size && bytes <= size - at;
}

static void check_place(const struct channel *ch, const void *data, uint64_t bytes)
{
	require(inside(data, bytes, ch->arena, ch->arena_bytes) ||
		inside(data, bytes, buffer->export.data, BUFFER_BYTES));
}

static void check_tensor(const struct channel *ch, const struct tensor *t)
{
	uint64_t elements, bytes = 0;

	if (t->dtype == 0)
		return;
	require(t->rank <= GPUQ_MAX_RANK && tensor_size(t, &elements, &bytes) == 0);
	check_place(ch, t->data, bytes);
	require((uint64_t)((const char *)t->data - ch->arena) % dtype_size(t->dtype) == 0 ||
		inside(t->data, bytes, buffer->export.data, BUFFER_BYTES));
}

static void try_call(const struct channel *ch, const struct wire_sqe *sqe)
{
	struct known_pipeline *pipeline = NULL;
	struct op_call *call = calloc(1, sizeof(*call));
	struct buffer_uses uses;
	uint32_t blame = UINT32_MAX;

	require(call != NULL);
	int r = validate_call(ch, sqe, call, &pipeline, &uses, &blame);
	require(blame <= GPUQ_MAX_TENSORS + GPUQ_MAX_PARAMS && (r < 0 || blame == 0));
	for (uint32_t i = 0; r == 0 && i < GPUQ_MAX_INPUTS; i++)
		check_tensor(ch, &call->in[i]);
	for (uint32_t i = 0; r == 0 && i < GPUQ_MAX_OUTPUTS; i++)
		check_tensor(ch, &call->out[i]);
	free(call);
}

static void try_copy(const struct channel *ch, const struct wire_sqe *sqe)
{
	struct buffer_uses uses;
	struct slot_copy copy;

	if (validate_copy(ch, sqe, &copy, &uses) < 0)
		return;
	check_place(ch, copy.from, copy.bytes);
	check_place(ch, copy.to, copy.bytes);
	require(uses.n == 1);
}

static void check_request(const struct channel *ch, const struct engine_request *q)
{
	require(q->n_tokens > 0);
	check_place(ch, q->tokens, q->n_tokens * sizeof(int32_t));
	check_place(ch, q->ids != NULL ? q->ids : q->tokens, q->n_ids * sizeof(int32_t));
	check_place(ch, q->out != NULL ? q->out : q->tokens, q->out_bytes);
}

static void try_model(const struct channel *ch, const struct wire_sqe *sqe)
{
	struct wire_session order;
	struct engine_request request;
	struct engine_shape shape;
	uint64_t logits;
	uint32_t model, blame;

	switch (sqe->opcode) {
	case WIRE_OP_SESSION:
		if (validate_session(ch, sqe, &order) == 0)
			require(order.action >= WIRE_SESSION_OPEN &&
				order.action <= WIRE_SESSION_CLOSE);
		break;
	case WIRE_OP_STEP:
		if (validate_step(ch, sqe, &request, &logits, &blame) == 0)
			check_request(ch, &request);
		break;
	case WIRE_OP_GENERATE:
		if (validate_generate(ch, sqe, &request, &blame) == 0)
			check_request(ch, &request);
		break;
	default:
		(void)validate_shape(ch, sqe, &model, &shape, &blame);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct wire_sqe sqe;
	struct channel ch = {.generation = 1, .buffers = buffers, .pipelines = pipelines};

	if (size < 1 + sizeof(sqe))
		return 0;
	ch.abi = 1 + data[0] % WIRE_ABI;
	memcpy(&sqe, data + 1, sizeof(sqe));
	/* Of its own size, for the sanitizer to see the end. */
	ch.arena_bytes = (size - 1 - sizeof(sqe)) / 8 * 8;
	ch.arena = ch.device_arena = aligned_alloc(8, ch.arena_bytes + 8 * (ch.arena_bytes == 0));
	require(ch.arena != NULL);
	memcpy(ch.arena, data + 1 + sizeof(sqe), ch.arena_bytes);
	if (validate_entry(&ch, &sqe) == 0) {
		if (sqe.opcode == WIRE_OP_CALL || sqe.opcode == WIRE_OP_CAPTURE)
			try_call(&ch, &sqe);
		else if (sqe.opcode == WIRE_OP_COPY)
			try_copy(&ch, &sqe);
		else if (sqe.opcode >= WIRE_OP_SESSION)
			try_model(&ch, &sqe);
	}
	free(ch.arena);
	return 0;
}
