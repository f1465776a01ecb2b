/* SPDX-License-Identifier: MIT */
/* landlord.c: the client whose handles attackers guess; see attack.h. */
#include "tests/hostile/attack.h"

#include "kernels/op.h"

#include <string.h>

#define ENTRIES 16u
#define BUFFER_BYTES 4096u
#define CALL_AT 8192u /* in the arena, behind what is copied */
#define X_AT 16384u
#define N 8u
#define TOP 4u

struct landlord_pipeline {
	struct wire_pipeline head;
	struct wire_pipeline_tensor tensors[2];
	struct wire_pipeline_step step;
};

static void ask(int fd, void *msg, uint16_t type, uint32_t bytes, uint16_t expected,
	struct raw_answer *ret_answer)
{
	raw_send(fd, msg, type, bytes, 9);
	assert_true(raw_receive(fd, ret_answer));
	if (ret_answer->h.type != expected)
		fail_msg("message %u is answered with %u: %s", type, ret_answer->h.type,
			ret_answer->error.text);
}

static uint32_t make_pipeline(int fd)
{
	struct landlord_pipeline d = {.head = {"estate", 1, 1, 2, 1},
		.tensors = {{"x", GPUQ_F32, 1, {N}}, {"y", GPUQ_F32, 0, {0}}}};
	struct msg_pipeline m = {.total_bytes = sizeof(d), .bytes = sizeof(d)};
	struct raw_answer a;

	memset(d.step.in, 0xff, sizeof(d.step.in));
	memset(d.step.out, 0xff, sizeof(d.step.out));
	d.step.in[0] = 0;
	d.step.out[0] = 1;
	assert_non_null(op_find("softmax", &d.step.op));
	memcpy(m.piece, &d, sizeof(d));
	ask(fd, &m, MSG_PIPELINE, (uint32_t)(offsetof(struct msg_pipeline, piece) + sizeof(d)),
		MSG_PIPELINE_OK, &a);
	return ((const struct msg_pipeline_handle *)a.bytes)->handle;
}

/* Waits until it is ready. */
static uint32_t find_model(int fd)
{
	struct msg_model_query query = {.name = ATTACK_MODEL};
	const struct msg_model *m;
	struct raw_answer a;

	do {
		ask(fd, &query, MSG_MODEL_QUERY, sizeof(query), MSG_MODEL, &a);
		m = (const void *)a.bytes;
		if (m->state == MSG_MODEL_FAILED)
			fail_msg("%s: %s", ATTACK_MODEL, m->why);
		raw_pause();
	} while (m->state != MSG_MODEL_READY);
	return m->handle;
}

/* Its status. */
static int run(
	struct landlord *l, uint16_t opcode, uint32_t session, const void *block, size_t bytes)
{
	struct wire_sqe sqe = wire_client_entry(&l->client, opcode, 5);

	memcpy(l->client.arena + CALL_AT, block, bytes);
	sqe.args_offset = CALL_AT;
	sqe.args_bytes = (uint32_t)bytes;
	sqe.session = session;
	wire_client_submit(&l->client, &sqe);
	const struct wire_cqe cqe = wire_client_complete(&l->client);
	assert_int_equal(cqe.user_data, 5);
	if (cqe.status < 0)
		fail_msg("the landlord's own entry %u: %d", opcode, cqe.status);
	return cqe.status;
}

static void copy(struct landlord *l, bool to_buffer)
{
	const struct wire_copy c = {
		.bytes = BUFFER_BYTES, .buffer = l->estate.buffer, .to_buffer = to_buffer};

	run(l, WIRE_OP_COPY, 0, &c, sizeof(c));
}

void landlord_open(struct landlord *l, const char *socket, bool has_model)
{
	struct msg_buffer_alloc alloc = {.form = MSG_BUFFER_FD, .bytes = BUFFER_BYTES};
	struct wire_session open = {.action = WIRE_SESSION_OPEN};
	struct raw_answer a;

	wire_client_open(&l->client, socket, WIRE_ABI, ENTRIES, WORK_ARENA);
	ask(l->client.fd, &alloc, MSG_BUFFER_ALLOC, sizeof(alloc), MSG_BUFFER, &a);
	l->estate = (struct attack_estate){
		.channel = l->client.channel,
		.generation = l->client.generation,
		.buffer = ((const struct msg_buffer *)a.bytes)->handle,
		.pipeline = make_pipeline(l->client.fd),
		.model = has_model ? find_model(l->client.fd) : 0,
	};
	for (uint32_t i = 0; i < BUFFER_BYTES; i++)
		l->client.arena[i] = (char)(i * 7 + i / 256);
	copy(l, true);
	open.model = l->estate.model;
	if (has_model)
		l->estate.session = (uint32_t)run(l, WIRE_OP_SESSION, 0, &open, sizeof(open));
}

static void check_buffer(struct landlord *l)
{
	memset(l->client.arena, 0, BUFFER_BYTES);
	copy(l, false);
	for (uint32_t i = 0; i < BUFFER_BYTES; i++) {
		if (l->client.arena[i] != (char)(i * 7 + i / 256))
			fail_msg("byte %u of the landlord's buffer is another one", i);
	}
}

static void check_pipeline(struct landlord *l)
{
	float *x = (void *)(l->client.arena + X_AT), *y = x + N;
	struct {
		struct wire_call call;
		struct wire_tensor tensors[2];
	} block = {.call = {.op = l->estate.pipeline, .n_in = 1, .n_out = 1}};

	for (uint32_t i = 0; i < 2; i++)
		block.tensors[i] = (struct wire_tensor){.offset = X_AT + i * N * sizeof(*x),
			.dtype = GPUQ_F32,
			.rank = 1,
			.dims = {N}};
	for (uint32_t i = 0; i < N; i++)
		x[i] = (float)(i % 2);
	run(l, WIRE_OP_CALL, 0, &block, sizeof(block));
	assert_float_equal(y[1] / y[0], 2.718282f, 1e-4f);
}

/* The same text has the same successors. */
static void check_session(struct landlord *l)
{
	const struct wire_session truncate = {.action = WIRE_SESSION_TRUNCATE};
	int32_t *tokens = (void *)(l->client.arena + X_AT);
	const struct wire_step step = {
		.n_tokens = 3,
		.rows = 1,
		.top_k = TOP,
		.tokens_offset = X_AT,
		.out_offset = X_AT + 64,
		.logits_offset = WIRE_NOWHERE,
		.temperature = 1,
	};
	static int32_t first[TOP];
	static bool known;

	if (l->estate.session == 0)
		return;
	for (int32_t i = 0; i < 3; i++)
		tokens[i] = 5 + 3 * i;
	run(l, WIRE_OP_SESSION, l->estate.session, &truncate, sizeof(truncate));
	run(l, WIRE_OP_STEP, l->estate.session, &step, sizeof(step));
	const void *top = l->client.arena + X_AT + 64 + sizeof(struct wire_row);
	if (!known)
		memcpy(first, top, sizeof(first));
	known = true;
	assert_memory_equal(first, top, sizeof(first));
	run(l, WIRE_OP_SESSION, l->estate.session, &truncate, sizeof(truncate));
}

void landlord_check(struct landlord *l)
{
	check_buffer(l);
	check_pipeline(l);
	check_session(l);
}

void landlord_close(struct landlord *l)
{
	wire_client_close(&l->client);
}
