/* SPDX-License-Identifier: MIT */
/*
 * attack_rights.c: attacks with what is not the attacker's: handles of others and of what is gone,
 * more than its share, and the statistics.
 */
#include "tests/hostile/attack.h"

#include "tests/hostile/options.h"

#include "kernels/op.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* --- Handles ------------------------------------------------------------------------------- */

/* Near what somebody has, or anything. */
static uint32_t guess(struct attacker *a, uint32_t handle, uint32_t own)
{
	uint32_t got = handle;

	switch (random_below(&a->rng, 4)) {
	case 0:
		got += (uint32_t)random_below(&a->rng, 16) - 8;
		break;
	case 1:
		got ^= 1u << random_below(&a->rng, 32);
		break;
	case 2:
		got = (uint32_t)random_u64(&a->rng);
		break;
	default:
		break;
	}
	return got == own || got == 0 ? handle : got;
}

static void refused(struct attacker *a, int status, const char *what, uint32_t handle)
{
	if (status >= 0)
		attack_complain(
			a, "%s %#x, of somebody else, was granted (%d)", what, handle, status);
	attack_count(a, 1);
}

/* Of an entry with an argument block at the arena's beginning. */
static int entry_status(struct attack_channel *ch, uint16_t opcode, uint32_t session,
	const void *block, size_t bytes)
{
	struct wire_client *c = &ch->client;
	struct wire_sqe sqe = wire_client_entry(c, opcode, 1);

	memcpy(c->arena, block, bytes);
	sqe.args_bytes = (uint32_t)bytes;
	sqe.session = session;
	wire_client_submit(c, &sqe);
	return wire_client_complete(c).status;
}

static int answer_status(struct attacker *a, int fd, void *msg, uint16_t type, uint32_t bytes)
{
	struct raw_answer answer;

	if (!attack_ask(fd, msg, type, bytes, &answer))
		attack_complain(a, "the connection ended after message %u", type);
	raw_close_fds(&answer);
	return answer.h.type == MSG_ERROR ? answer.error.status : 0;
}

static void try_buffer(struct attacker *a, struct attack_channel *ch)
{
	const uint32_t handle = guess(a, a->common->estate.buffer, ch->work.buffer);
	const uint16_t type =
		(uint16_t)(MSG_BUFFER_EXPORT + random_below(&a->rng, MSG_BUFFER_FREE - 22));
	struct msg_buffer_handle m = {.handle = handle, .pid = (uint32_t)getpid()};
	const struct wire_copy copy = {
		.buffer = handle, .bytes = 64, .to_buffer = (uint32_t)random_below(&a->rng, 2)};

	refused(a, entry_status(ch, WIRE_OP_COPY, 0, &copy, sizeof(copy)), "the buffer", handle);
	refused(a, answer_status(a, ch->client.fd, &m, type, sizeof(m)), "the buffer", handle);
}

static void try_pipeline(struct attacker *a, struct attack_channel *ch)
{
	const uint32_t handle = guess(a, a->common->estate.pipeline, 0) | WIRE_PIPELINE;
	struct msg_pipeline_handle m = {.handle = handle};
	struct {
		struct wire_call call;
		struct wire_tensor tensors[2];
	} block = {.call = {.op = handle, .n_in = 1, .n_out = 1}};

	for (uint32_t i = 0; i < 2; i++)
		block.tensors[i] = (struct wire_tensor){
			.offset = WORK_DATA, .dtype = GPUQ_F32, .rank = 1, .dims = {8}};
	refused(a, entry_status(ch, WIRE_OP_CALL, 0, &block, sizeof(block)), "the pipeline",
		handle);
	refused(a, answer_status(a, ch->client.fd, &m, MSG_PIPELINE_CLOSE, sizeof(m)),
		"the pipeline", handle);
}

static void try_session(struct attacker *a, struct attack_channel *ch)
{
	const uint32_t handle = guess(a, a->common->estate.session, 0);
	const struct wire_session order = {
		.action = WIRE_SESSION_FORK + (uint32_t)random_below(&a->rng, 3)};
	const struct wire_step step = {
		.n_tokens = 1, .tokens_offset = WORK_DATA, .logits_offset = WIRE_NOWHERE};
	struct wire_session open = {.action = WIRE_SESSION_OPEN, .model = a->common->estate.model};

	refused(a, entry_status(ch, WIRE_OP_SESSION, handle, &order, sizeof(order)), "the session",
		handle);
	refused(a, entry_status(ch, WIRE_OP_STEP, handle, &step, sizeof(step)), "the session",
		handle);
	/* Models are everybody's, but not by another generation's name. */
	open.model ^= 1u << (16 + random_below(&a->rng, 16));
	refused(a, entry_status(ch, WIRE_OP_SESSION, 0, &open, sizeof(open)), "the model",
		open.model);
}

static void try_channel(struct attacker *a, struct attack_channel *ch)
{
	struct msg_close close = {
		.channel = a->common->estate.channel, .generation = a->common->estate.generation};
	struct wire_sqe sqe = wire_client_entry(&ch->client, WIRE_OP_NULL, 1);

	refused(a, answer_status(a, ch->client.fd, &close, MSG_CLOSE, sizeof(close)), "the channel",
		close.channel);
	close.channel = ch->client.channel;
	close.generation = ch->client.generation - 1;
	refused(a, answer_status(a, ch->client.fd, &close, MSG_CLOSE, sizeof(close)),
		"an earlier channel", close.channel);
	sqe.generation--;
	wire_client_submit(&ch->client, &sqe);
	refused(a, wire_client_complete(&ch->client).status, "an entry of the generation",
		sqe.generation);
}

/* What was one's own a moment ago. */
static void try_stale(struct attacker *a, struct attack_channel *ch)
{
	const uint32_t buffer = attack_buffer(ch->client.fd);
	struct msg_buffer_handle m = {.handle = buffer, .pid = (uint32_t)getpid()};
	const struct wire_copy copy = {.buffer = buffer, .bytes = 64};
	const struct wire_session open = {
		.action = WIRE_SESSION_OPEN, .model = a->common->estate.model};
	const struct wire_session close = {.action = WIRE_SESSION_CLOSE};
	const int session = entry_status(ch, WIRE_OP_SESSION, 0, &open, sizeof(open));

	if (buffer != 0) {
		(void)answer_status(a, ch->client.fd, &m, MSG_BUFFER_FREE, sizeof(m));
		refused(a, entry_status(ch, WIRE_OP_COPY, 0, &copy, sizeof(copy)), "the buffer",
			buffer);
		refused(a, answer_status(a, ch->client.fd, &m, MSG_BUFFER_EXPORT, sizeof(m)),
			"the buffer", buffer);
	}
	for (uint32_t i = 0; i < 2 && session > 0; i++) {
		int r = entry_status(ch, WIRE_OP_SESSION, (uint32_t)session, &close, sizeof(close));

		if (i == 1)
			refused(a, r, "the session", (uint32_t)session);
	}
}

/* --- Places -------------------------------------------------------------------------------- */

/* Of what ends behind the arena nothing may be read or written: others' memory may lie there. */
static void outside(struct attacker *a, int status, const char *what, uint64_t offset)
{
	if (status >= 0)
		attack_complain(a, "%s at %llu, behind the arena, was granted", what,
			(unsigned long long)offset);
	attack_count(a, 1);
}

/* Where `bytes` bytes end behind the arena, by little or by much. */
static uint64_t place_outside(struct attacker *a, const struct attack_channel *ch, uint64_t bytes)
{
	const uint64_t least = ch->client.arena_bytes - bytes + 8;

	switch (random_below(&a->rng, 4)) {
	case 0:
		return least;
	case 1:
		return (least + random_below(&a->rng, bytes)) & ~7ull;
	case 2:
		return ch->client.arena_bytes;
	default:
		return (UINT64_MAX - random_below(&a->rng, 2 * bytes)) & ~7ull;
	}
}

static void try_tensor(struct attacker *a, struct attack_channel *ch)
{
	struct {
		struct wire_call call;
		struct wire_tensor tensors[2];
	} block = {.call = {.n_in = 1, .n_out = 1}};
	const uint64_t n = 8 + random_below(&a->rng, 4096), wrong = random_below(&a->rng, 2);

	assert_non_null(op_find("softmax", &block.call.op));
	for (uint32_t i = 0; i < 2; i++)
		block.tensors[i] = (struct wire_tensor){
			.offset = WORK_DATA, .dtype = GPUQ_F32, .rank = 1, .dims = {n}};
	block.tensors[wrong].offset = place_outside(a, ch, n * sizeof(float));
	outside(a, entry_status(ch, WIRE_OP_CALL, 0, &block, sizeof(block)), "a tensor",
		block.tensors[wrong].offset);
}

static void try_range(struct attacker *a, struct attack_channel *ch)
{
	const uint32_t n = 8 + (uint32_t)random_below(&a->rng, 1024);
	const struct wire_copy copy = {.arena_offset = place_outside(a, ch, n),
		.bytes = n,
		.buffer = ch->work.buffer,
		.to_buffer = (uint32_t)random_below(&a->rng, 2)};
	const struct wire_generate generate = {.n_tokens = n,
		.n_generate = 1,
		.tokens_offset = place_outside(a, ch, n * sizeof(int32_t))};
	const struct wire_step step = {.n_tokens = n,
		.rows = n,
		.top_k = 8,
		.tokens_offset = WORK_DATA,
		.out_offset = place_outside(a, ch, n * wire_row_bytes(8, 0)),
		.logits_offset = WIRE_NOWHERE};

	outside(a, entry_status(ch, WIRE_OP_COPY, 0, &copy, sizeof(copy)), "a copy",
		copy.arena_offset);
	outside(a, entry_status(ch, WIRE_OP_GENERATE, 1, &generate, sizeof(generate)), "tokens",
		generate.tokens_offset);
	outside(a, entry_status(ch, WIRE_OP_STEP, 1, &step, sizeof(step)), "rows", step.out_offset);
}

void attack_handles(struct attacker *a)
{
	static void (*const tries[])(struct attacker *, struct attack_channel *) = {try_buffer,
		try_pipeline, try_session, try_channel, try_stale, try_tensor, try_range};
	struct attack_channel ch;

	if (!attack_channel_open(a, &ch))
		return;
	while (attack_goes_on(a))
		tries[random_below(&a->rng, sizeof(tries) / sizeof(tries[0]))](a, &ch);
	attack_channel_close(&ch);
}

/* --- Quotas -------------------------------------------------------------------------------- */

/* One more of something: 1, 0 where there is no more, or a negative error that is not that. */
struct share {
	struct attacker *a;
	struct attack_channel *ch;
	uint64_t arena_bytes;
};

static int one_channel(struct share *s)
{
	struct msg_open open = raw_open(s->arena_bytes);
	struct raw_answer answer;

	if (!attack_ask(s->ch->client.fd, &open, MSG_OPEN, sizeof(open), &answer))
		attack_complain(s->a, "the connection ended at a limit");
	if (answer.h.type == MSG_ERROR)
		return answer.error.status;
	raw_close_fds(&answer);
	raw_try_send(
		s->ch->client.fd, &(struct msg_header){0}, MSG_ACK, sizeof(struct msg_header), 4);
	return 1;
}

static int one_session(struct share *s)
{
	const struct wire_session open = {
		.action = WIRE_SESSION_OPEN, .model = s->a->common->estate.model};

	return entry_status(s->ch, WIRE_OP_SESSION, 0, &open, sizeof(open));
}

static int one_pipeline(struct share *s)
{
	struct {
		struct wire_pipeline head;
		struct wire_pipeline_tensor tensors[2];
		struct wire_pipeline_step step;
	} d = {.head = {"one", 1, 1, 2, 1},
		.tensors = {{"x", GPUQ_F32, 1, {8}}, {"y", GPUQ_F32, 0, {0}}}};
	struct msg_pipeline m = {.total_bytes = sizeof(d), .bytes = sizeof(d)};

	memset(d.step.in, 0xff, sizeof(d.step.in));
	memset(d.step.out, 0xff, sizeof(d.step.out));
	d.step.in[0] = 0;
	d.step.out[0] = 1;
	assert_non_null(op_find("softmax", &d.step.op));
	/* Equal ones would be one and the same. */
	d.tensors[0].dims[0] = 8 + random_below(&s->a->rng, 64);
	memcpy(m.piece, &d, sizeof(d));
	int r = answer_status(s->a, s->ch->client.fd, &m, MSG_PIPELINE,
		(uint32_t)(offsetof(struct msg_pipeline, piece) + sizeof(d)));
	return r < 0 ? r : 1;
}

/* Takes as much as it gets; more than `most` it may never be. Others of this user share limits. */
static void take_all(struct share *s, int (*one)(struct share *s), uint32_t most, const char *what)
{
	uint32_t n = 0;
	int r;

	while ((r = one(s)) > 0) {
		if (++n > most)
			attack_complain(s->a, "%u %s in one connection, of %u", n, what, most);
	}
	if (r != -GPUQ_ELIMIT && r != -EBUSY)
		attack_complain(s->a, "no more %s: %d, not a limit", what, r);
	attack_count(s->a, 1);
}

void attack_quotas(struct attacker *a)
{
	struct attack_channel ch;
	struct share s = {.a = a, .ch = &ch, .arena_bytes = 4096};

	while (attack_goes_on(a)) {
		/* It has one channel already. */
		if (!attack_channel_open(a, &ch))
			return;
		switch (random_below(&a->rng, 5)) {
		case 0:
			take_all(&s, one_channel, ATTACK_CHANNELS_PER_CLIENT - 1, "channels");
			break;
		case 1:
			s.arena_bytes = ATTACK_CLIENT_BYTES / 3;
			take_all(&s, one_channel, 2, "large channels");
			break;
		case 2:
			s.arena_bytes = ATTACK_ARENA_BYTES + 1;
			take_all(&s, one_channel, 0, "channels that are too large");
			break;
		case 3:
			take_all(&s, one_session, ATTACK_SESSIONS_PER_CLIENT, "sessions");
			break;
		default:
			take_all(&s, one_pipeline, ATTACK_PIPELINES_PER_CLIENT, "pipelines");
			break;
		}
		attack_channel_close(&ch);
	}
}

/* --- Statistics ---------------------------------------------------------------------------- */

/* What everybody may read nobody but gpuqd's own user may write. */
void attack_statistics(struct attacker *a)
{
	struct msg_hello hello = raw_hello(WIRE_ABI, WIRE_ABI);
	char name[STATS_PATH_MAX], path[64];
	struct raw_answer answer;
	int fd = raw_try_connect(a->common->socket);

	if (fd < 0)
		return;
	if (attack_ask(fd, &hello, MSG_HELLO, sizeof(hello), &answer) && answer.n_fds == 1) {
		const int prot = PROT_READ | PROT_WRITE;

		if (mmap(NULL, WIRE_PAGE_SIZE, prot, MAP_SHARED, answer.fds[0], 0) != MAP_FAILED)
			attack_complain(a, "the daemon page can be mapped writable");
		snprintf(path, sizeof(path), "/proc/self/fd/%d", answer.fds[0]);
		if (a->common->stranger && open(path, O_RDWR | O_CLOEXEC) >= 0)
			attack_complain(a, "the daemon page can be opened for writing");
		attack_count(a, 1);
	}
	raw_close_fds(&answer);
	close(fd);
	stats_name(a->common->socket, name, sizeof(name));
	if (!a->common->stranger)
		return;
	if (shm_open(name, O_RDWR | O_CLOEXEC, 0) >= 0 || shm_unlink(name) == 0)
		attack_complain(a, "somebody else may write the statistics");
	attack_count(a, 1);
}
