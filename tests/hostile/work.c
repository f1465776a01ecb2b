/* SPDX-License-Identifier: MIT */
/* work.c: see work.h. */
#include "tests/hostile/work.h"

#include "kernels/op.h"

#include <errno.h>
#include <string.h>

#define MAX_TENSORS 11u
#define COPY_BYTES 4096u
#define STEP_TOKENS 8u
#define STEP_ROWS 2u
#define STEP_TOP 8u
#define STEP_IDS 4u
#define GENERATE 4u

/* Of a call: tensors, of which those with `index` are read as indices by the kernel. */
struct form_tensor {
	uint16_t dtype, rank;
	bool index, out;
	uint64_t dims[5];
};

struct form {
	const char *op;
	uint32_t n_in;
	struct form_tensor tensors[MAX_TENSORS]; /* absent ones: dtype 0 */
	uint32_t n;
};

#define IN(...)                            \
	{                                  \
		GPUQ_F32, 0, false, false, \
		{                          \
			__VA_ARGS__        \
		}                          \
	}
#define OUT(...)                          \
	{                                 \
		GPUQ_F32, 0, false, true, \
		{                         \
			__VA_ARGS__       \
		}                         \
	}
#define INDEX(...)                        \
	{                                 \
		GPUQ_I32, 0, true, false, \
		{                         \
			__VA_ARGS__       \
		}                         \
	}
#define ABSENT    \
	{         \
		0 \
	}

static const struct form forms[] = {
	{"softmax", 1, {IN(64), OUT(64)}, 2},
	{"softmax", 1, {IN(7000), OUT(7000)}, 2},
	{"gemv_batched", 3, {IN(4, 64), IN(64, 64), ABSENT, OUT(4, 64)}, 4},
	{"embedding", 2, {INDEX(64), IN(64, 32), OUT(64, 32)}, 3},
	{"rope", 2, {IN(16, 2, 8), INDEX(16), OUT(16, 2, 8)}, 3},
	{"argmax", 1, {IN(4, 500), {GPUQ_I32, 0, false, true, {4}}, OUT(4)}, 3},
	{"step_result", 3,
		{IN(2, 500), INDEX(4), ABSENT, OUT(2, 64), {GPUQ_I32, 0, false, true, {2, 64}},
			OUT(2, 2), OUT(2, 4)},
		7},
	{"kv_append", 7,
		{IN(8, 32), INDEX(8), INDEX(8), INDEX(2, 4), IN(8, 2, 1, 16, 8), ABSENT, ABSENT,
			OUT(8, 2, 8)},
		8},
	{"paged_attention", 6,
		{IN(8, 2, 8), IN(8, 2, 1, 16, 8), INDEX(2, 4), INDEX(8), INDEX(8),
			{GPUQ_U8, 0, false, false, {64}}, OUT(8, 2, 8), ABSENT},
		8},
	{"kv_attention", 8,
		{IN(8, 32), INDEX(8), INDEX(8), INDEX(2, 4), IN(8, 2, 1, 16, 8), ABSENT, ABSENT,
			{GPUQ_U8, 0, false, false, {64}}, OUT(8, 2, 8), OUT(8, 2, 8), ABSENT},
		11},
};

/* --- Laying out ---------------------------------------------------------------------------- */

static struct wire_tensor *lay_tensor(
	struct work *w, struct wire_tensor *to, const struct form_tensor *t, uint64_t *end)
{
	uint64_t elements = 1;

	*to = (struct wire_tensor){.dtype = t->dtype};
	if (t->dtype == 0)
		return to + 1;
	for (uint32_t i = 0; i < 5 && t->dims[i] != 0; i++) {
		to->dims[i] = t->dims[i];
		to->rank++;
		elements *= t->dims[i];
	}
	*end = (*end - elements * (t->dtype == GPUQ_U8 ? 1 : 4)) & ~7ull;
	assert_true(*end >= WORK_DATA);
	to->offset = *end;
	if (t->index)
		w->indices[w->n_indices++] =
			(struct work_range){(uint32_t)*end, (uint32_t)elements};
	return to + 1;
}

static void add_block(struct work *w, uint16_t opcode, const void *block, size_t bytes)
{
	assert_true(w->n_blocks < WORK_BLOCKS && bytes <= WORK_BLOCK_BYTES);
	memcpy(w->right[w->n_blocks], block, bytes);
	w->opcodes[w->n_blocks] = opcode;
	w->bytes[w->n_blocks++] = (uint32_t)bytes;
}

static void lay_call(struct work *w, const struct form *f)
{
	struct {
		struct wire_call call;
		struct wire_tensor tensors[MAX_TENSORS];
	} block = {.call = {.n_in = (uint16_t)f->n_in, .n_out = (uint16_t)(f->n - f->n_in)}};
	struct wire_tensor *at = block.tensors;
	/* Each call against the end: the last element is the arena's, and they share memory. */
	uint64_t end = w->client->arena_bytes;

	assert_non_null(op_find(f->op, &block.call.op));
	for (uint32_t i = 0; i < f->n; i++)
		at = lay_tensor(w, at, &f->tensors[i], &end);
	add_block(w, WIRE_OP_CALL, &block, (size_t)((char *)at - (char *)&block));
}

static void lay_model(struct work *w)
{
	const uint32_t tokens = WORK_DATA, ids = tokens + 4 * STEP_TOKENS;
	const struct wire_session open = {.action = WIRE_SESSION_OPEN, .model = w->model};
	const struct wire_session fork = {.action = WIRE_SESSION_FORK};
	const struct wire_session truncate = {.action = WIRE_SESSION_TRUNCATE, .tokens = 3};
	const struct wire_session close = {.action = WIRE_SESSION_CLOSE};
	const struct wire_step step = {
		.n_tokens = STEP_TOKENS,
		.rows = STEP_ROWS,
		.top_k = STEP_TOP,
		.n_ids = STEP_IDS,
		.tokens_offset = tokens,
		.ids_offset = ids,
		.out_offset =
			w->client->arena_bytes - STEP_ROWS * wire_row_bytes(STEP_TOP, STEP_IDS),
		.logits_offset = WIRE_NOWHERE,
		.temperature = 1,
	};
	const struct wire_generate generate = {
		.n_tokens = STEP_TOKENS,
		.n_generate = GENERATE,
		.tokens_offset = tokens,
		.out_offset = w->client->arena_bytes - 8 * GENERATE,
		.temperature = 0.5f,
		.seed = 7,
	};
	const struct wire_shape shape = {.model = w->model,
		.kind = WIRE_SHAPE_GENERATE,
		.tokens = 1,
		.batch = 1,
		.rows = 1,
		.context = 64};

	add_block(w, WIRE_OP_SESSION, &open, sizeof(open));
	add_block(w, WIRE_OP_SESSION, &fork, sizeof(fork));
	add_block(w, WIRE_OP_SESSION, &truncate, sizeof(truncate));
	add_block(w, WIRE_OP_SESSION, &close, sizeof(close));
	add_block(w, WIRE_OP_STEP, &step, sizeof(step));
	add_block(w, WIRE_OP_GENERATE, &generate, sizeof(generate));
	add_block(w, WIRE_OP_SHAPE, &shape, sizeof(shape));
	w->indices[w->n_indices++] = (struct work_range){tokens, STEP_TOKENS + STEP_IDS};
}

void work_begin(struct work *w)
{
	w->n_blocks = w->n_indices = 0;
	for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++)
		lay_call(w, &forms[i]);
	w->n_calls = w->n_blocks;
	if (w->model != 0)
		lay_model(w);
	if (w->buffer != 0) {
		const struct wire_copy copy = {
			.arena_offset = w->client->arena_bytes - COPY_BYTES,
			.bytes = COPY_BYTES,
			.buffer = w->buffer,
		};
		add_block(w, WIRE_OP_COPY, &copy, sizeof(copy));
	}
	work_restore(w);
}

void work_restore(struct work *w)
{
	for (uint32_t i = 0; i < w->n_blocks; i++)
		shm_copy_out(w->client->arena + i * WORK_BLOCK_BYTES, w->right[i], w->bytes[i] / 8);
}

/* --- Working ------------------------------------------------------------------------------- */

static struct wire_sqe some_entry(struct work *w)
{
	const uint64_t focus = shm_load_relaxed(&w->focus);
	const uint32_t i = focus != 0 && random_below(w->rng, 8) != 0
		? (uint32_t)focus - 1
		: (uint32_t)random_below(w->rng, w->n_blocks);
	const uint64_t how = random_below(w->rng, 32);
	struct wire_sqe sqe = wire_client_entry(w->client, w->opcodes[i], random_below(w->rng, 8));

	if (how == 0)
		return wire_client_entry(w->client, WIRE_OP_NULL, sqe.user_data);
	if (how == 1) {
		sqe.opcode = WIRE_OP_CANCEL;
		sqe.target = random_below(w->rng, 8);
		return sqe;
	}
	sqe.args_offset = i * WORK_BLOCK_BYTES;
	sqe.args_bytes = w->bytes[i];
	if (sqe.opcode == WIRE_OP_CALL && how == 2)
		sqe.opcode = WIRE_OP_CAPTURE;
	/* All actions but the first are about a session. */
	const bool opens = sqe.opcode == WIRE_OP_SESSION && i == w->n_calls;
	if (sqe.opcode >= WIRE_OP_SESSION && sqe.opcode <= WIRE_OP_GENERATE && !opens)
		sqe.session = w->sessions[random_below(w->rng, WORK_SESSIONS)];
	return sqe;
}

bool work_submit(struct work *w)
{
	struct wire_client *c = w->client;

	if (c->sq.prod - shm_load_acquire(&c->sq.ring->cons) >= c->sq.entries)
		return false;
	const struct wire_sqe sqe = some_entry(w);
	/* What is right again and again gets further than what is wrong for ever. */
	if (random_below(w->rng, 4) != 0) {
		const uint32_t i = sqe.args_offset / WORK_BLOCK_BYTES;
		if (sqe.opcode != WIRE_OP_CANCEL && i < w->n_blocks)
			shm_copy_out(c->arena + sqe.args_offset, w->right[i], w->bytes[i] / 8);
	}
	wire_client_submit(c, &sqe);
	w->submitted++;
	return true;
}

/* Of what comes from shared memory: it may be any number. */
static bool status_is_typed(int status)
{
	switch (status) {
	case -EINVAL:
	case -ETIMEDOUT:
	case -ECANCELED:
	case -EALREADY:
	case -ENOENT:
	case -EBUSY:
	case -EAGAIN:
		return true;
	default:
		return status >= 0 || (status <= -GPUQ_ERROR_FIRST && status >= -GPUQ_ERROR_LAST);
	}
}

bool work_take(struct work *w)
{
	struct ring_consumer *cq = &w->client->cq;
	struct wire_cqe cqe;
	int n = ring_refresh(cq);

	if (n < 0)
		return false;
	for (; n > 0; n--) {
		shm_copy_in(&cqe, &w->client->cqes[ring_slot(cq->cons++, cq->entries)],
			sizeof(cqe) / 8);
		w->completed++;
		w->failed += cqe.status < 0;
		if (!status_is_typed(cqe.status))
			w->odd_status = cqe.status;
		/* Sessions have handles from 1 << 16 on; nothing else has statuses like that. */
		if (cqe.status >= 1 << 16)
			w->sessions[cqe.user_data % WORK_SESSIONS] = (uint32_t)cqe.status;
	}
	ring_release(cq);
	return true;
}

/* --- Being wrong --------------------------------------------------------------------------- */

uint64_t work_wrong(struct random *rng)
{
	static const uint64_t words[] = {0, 1, 4, 63, 64, UINT64_MAX, 1ull << 63, WORK_ARENA,
		WORK_ARENA - 4, INT32_MAX, 1ull << 31, UINT32_MAX, 1ull << 32, 0xffff, 0xffff0001,
		(uint64_t)GPUQ_F16 << 32 | 1ull << 48};
	const uint64_t at = random_below(rng, 2 * sizeof(words) / sizeof(words[0]));

	return at < sizeof(words) / sizeof(words[0]) ? words[at] : random_u64(rng);
}

__attribute__((no_sanitize_thread)) void work_scribble(void *at, uint64_t value)
{
	*(volatile uint64_t *)at = value;
}

__attribute__((no_sanitize_thread)) void work_scribble_u32(void *at, uint32_t value)
{
	*(volatile uint32_t *)at = value;
}
