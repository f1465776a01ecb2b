/* SPDX-License-Identifier: MIT */
/* wire-client.c: a client that plays its side of the rings by hand. */
#include "tests/integration/wire-client.h"

#include "shm/segment.h"

#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PATIENCE_MS 10000

void wire_client_attach(struct wire_client *c, const struct msg_opened *m)
{
	const struct wire_layout l = wire_layout(m->sq_entries, m->cq_entries, m->arena_bytes);
	char *base = c->base;

	c->channel = m->channel;
	c->generation = m->generation;
	c->sq = (struct ring_producer){
		(void *)(base + WIRE_SQ_RING), m->start, m->start, m->start, m->sq_entries};
	c->cq = (struct ring_consumer){
		(void *)(base + WIRE_CQ_RING), m->start, m->start, m->cq_entries};
	c->sqes = (void *)(base + l.sqe_offset);
	c->cqes = (void *)(base + l.cqe_offset);
	c->arena = base + l.arena_offset;
	c->arena_bytes = m->arena_bytes;
}

void wire_client_open(struct wire_client *c, const char *socket, uint32_t abi, uint32_t entries,
	uint64_t arena_bytes)
{
	const struct msg_open open = {
		.sq_entries = entries, .cq_entries = entries, .arena_bytes = arena_bytes};
	struct raw_answer a;

	c->fd = raw_client_of(socket, abi);
	raw_open_channel(c->fd, &open, &a);
	c->doorbell_fd = a.fds[1];
	c->bell_fd = a.fds[2];
	c->bytes = a.opened.segment_bytes;
	assert_int_equal(segment_map(a.fds[0], c->bytes, true, &c->base), 0);
	close(a.fds[0]);
	wire_client_attach(c, &a.opened);
}

void wire_client_close(struct wire_client *c)
{
	munmap(c->base, c->bytes);
	close(c->doorbell_fd);
	close(c->bell_fd);
	close(c->fd);
}

uint32_t wire_client_op(struct wire_client *c, const char *name)
{
	struct raw_answer a;

	for (uint32_t i = 0;; i++) {
		struct msg_query query = {.index = i};
		raw_send(c->fd, &query, MSG_OP_QUERY, sizeof(query), 10 + i);
		assert_true(raw_receive(c->fd, &a));
		assert_int_equal(a.h.type, MSG_OP);
		if (strcmp(a.op.name, name) == 0)
			return i;
	}
}

struct wire_sqe wire_client_entry(const struct wire_client *c, uint16_t opcode, uint64_t user_data)
{
	return (struct wire_sqe){
		.opcode = opcode, .user_data = user_data, .generation = c->generation};
}

struct wire_call *wire_client_call(struct wire_client *c, const struct wire_sqe *sqe)
{
	return (void *)(c->arena + sqe->args_offset);
}

struct wire_tensor *wire_client_tensors(struct wire_client *c, const struct wire_sqe *sqe)
{
	return (void *)(wire_client_call(c, sqe) + 1);
}

struct wire_sqe wire_client_softmax(
	struct wire_client *c, uint32_t op, uint32_t at, uint64_t n, uint64_t user_data)
{
	struct wire_sqe sqe = wire_client_entry(c, WIRE_OP_CALL, user_data);
	uint64_t data = at + sizeof(struct wire_call) + 2 * sizeof(struct wire_tensor);

	sqe.args_offset = at;
	sqe.args_bytes = (uint32_t)(data - at);
	*wire_client_call(c, &sqe) = (struct wire_call){.op = op, .n_in = 1, .n_out = 1};
	for (uint32_t i = 0; i < 2; i++) {
		wire_client_tensors(c, &sqe)[i] = (struct wire_tensor){
			.offset = data + i * n * sizeof(float),
			.dtype = GPUQ_F32,
			.rank = 1,
			.dims = {n},
		};
	}
	return sqe;
}

void wire_client_publish(struct wire_client *c, const struct wire_sqe *sqe)
{
	shm_copy_out(&c->sqes[ring_slot(c->sq.prod, c->sq.entries)], sqe, sizeof(*sqe) / 8);
	c->sq.prod++;
	ring_publish(&c->sq);
}

void wire_client_submit(struct wire_client *c, const struct wire_sqe *sqe)
{
	wire_client_publish(c, sqe);
	if (ring_wake_wanted(&c->sq))
		bell_ring_eventfd(c->doorbell_fd);
}

bool wire_client_poll(struct wire_client *c, struct wire_cqe *ret_cqe)
{
	if (c->cq.cons == c->cq.prod) {
		int there = ring_refresh(&c->cq);
		if (there < 0)
			fail_msg("channel %u: gpuqd's index goes back", c->channel);
		if (there == 0)
			return false;
	}
	shm_copy_in(ret_cqe, &c->cqes[ring_slot(c->cq.cons, c->cq.entries)], sizeof(*ret_cqe) / 8);
	c->cq.cons++;
	ring_release(&c->cq);
	return true;
}

struct wire_cqe wire_client_complete(struct wire_client *c)
{
	struct pollfd p = {.fd = c->bell_fd, .events = POLLIN};
	struct wire_cqe cqe;

	while (!wire_client_poll(c, &cqe)) {
		bell_drain_pipe(c->bell_fd);
		if (ring_sleep_prepare(&c->cq, 1) == 0)
			assert_int_equal(poll(&p, 1, PATIENCE_MS * (int)harness_slowness()), 1);
	}
	return cqe;
}

void wire_client_check_works(struct wire_client *c)
{
	const struct wire_sqe sqe = wire_client_entry(c, WIRE_OP_NULL, 0x600d);

	wire_client_submit(c, &sqe);
	const struct wire_cqe cqe = wire_client_complete(c);
	assert_int_equal(cqe.user_data, 0x600d);
	assert_int_equal(cqe.status, 0);
}
