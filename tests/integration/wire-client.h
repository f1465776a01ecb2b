/* SPDX-License-Identifier: MIT */
/*
 * wire-client.h: a client of a real gpuqd that writes its entries by hand, so that it can say what
 * the client library never would. Functions fail the running test when something that must work
 * does not.
 */
#ifndef GPUQ_TESTS_INTEGRATION_WIRE_CLIENT_H
#define GPUQ_TESTS_INTEGRATION_WIRE_CLIENT_H

#include "shm/ring.h"
#include "tests/daemon/raw.h"

struct wire_client {
	int fd; /* the connection */
	uint32_t channel, generation;
	struct ring_producer sq;
	struct ring_consumer cq;
	struct wire_sqe *sqes;
	const struct wire_cqe *cqes;
	char *arena;
	uint64_t arena_bytes;
	int doorbell_fd, bell_fd;
	void *base;
	uint64_t bytes;
};

/* Connects, speaking versions up to `abi`, and opens a channel with rings of `entries` each. */
void wire_client_open(struct wire_client *c, const char *socket, uint32_t abi, uint32_t entries,
	uint64_t arena_bytes);
void wire_client_close(struct wire_client *c);

/* Takes a segment that is mapped at c->base, with bells that are c's already. */
void wire_client_attach(struct wire_client *c, const struct msg_opened *opened);

/* The operator's number, as gpuqd tells it. */
uint32_t wire_client_op(struct wire_client *c, const char *name);

/* An entry with everything right but what the test changes. */
struct wire_sqe wire_client_entry(const struct wire_client *c, uint16_t opcode, uint64_t user_data);

/* Writes a softmax of one row of n f32 at `at` in the arena, and returns its entry. */
struct wire_sqe wire_client_softmax(
	struct wire_client *c, uint32_t op, uint32_t at, uint64_t n, uint64_t user_data);
struct wire_call *wire_client_call(struct wire_client *c, const struct wire_sqe *sqe);
struct wire_tensor *wire_client_tensors(struct wire_client *c, const struct wire_sqe *sqe);

/* Writes an entry and makes it visible, without ringing. */
void wire_client_publish(struct wire_client *c, const struct wire_sqe *sqe);

/* The same, and rings when gpuqd wants that. */
void wire_client_submit(struct wire_client *c, const struct wire_sqe *sqe);

/* The next completion, waited for. */
struct wire_cqe wire_client_complete(struct wire_client *c);

/* False when there is none. */
bool wire_client_poll(struct wire_client *c, struct wire_cqe *ret_cqe);

/* Submits a null operation and waits for it. */
void wire_client_check_works(struct wire_client *c);

#endif
