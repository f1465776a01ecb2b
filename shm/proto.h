/* SPDX-License-Identifier: MIT */
/*
 * proto.h: the messages on gpuqd's sockets. Everything rare goes this way; work never does.
 *
 * A socket is AF_UNIX, SOCK_SEQPACKET: one message is one packet, one struct below, starting
 * with struct msg_header. `bytes` is the packet's length and at least the length of that
 * message's struct in the oldest version served; a shorter known message is extended with
 * zeros, so fields are only ever appended. Reserved fields are zero.
 *
 *   client                               gpuqd
 *   MSG_HELLO                     ->
 *                                 <-     MSG_WELCOME + 1 descriptor: the daemon page
 *   MSG_ACK                       ->
 *   MSG_OPEN                      ->
 *                                 <-     MSG_OPENED + 3 descriptors: segment, eventfd, pipe
 *   MSG_ACK                       ->
 *   MSG_OP_QUERY / MSG_DEVICE_QUERY ->   (answered with the same type)
 *   MSG_CLOSE                     ->
 *                                 <-     MSG_CLOSED
 *
 * Every request is answered once, with `serial` copied, by its answer or by MSG_ERROR. A message
 * with descriptors must be acknowledged before the next one with descriptors is asked for
 * (-EBUSY): descriptors in flight count against gpuqd. MSG_GOODBYE (serial 0) may come from
 * either side at any time and is its last; a client sends a bare header. A client that hangs up
 * without it while it has channels open counts as dead. Until MSG_HELLO is accepted a deadline
 * runs. Any message that breaks this is answered with MSG_ERROR -GPUQ_EPROTO and the connection
 * is closed; so is one whose peer leaves its answers unread. A connection that cannot be admitted
 * gets MSG_ERROR (serial 0) before it has said anything.
 *
 * The administrative socket (the path with "-admin" behind it) speaks the same, and takes the
 * MSG_ADMIN_* requests too; only root and gpuqd's own user are let in.
 */
#ifndef GPUQ_SHM_PROTO_H
#define GPUQ_SHM_PROTO_H

#include "shm/wire.h"

#define MSG_MAGIC 0x6d757067u
#define MSG_MAX 2048u /* bytes of the longest message */
#define MSG_TEXT_MAX 224u
#define MSG_ADMIN_SUFFIX "-admin"

enum msg_type {
	MSG_HELLO = 1,
	MSG_WELCOME = 2,
	MSG_ERROR = 3,
	MSG_ACK = 4,
	MSG_OPEN = 5,
	MSG_OPENED = 6,
	MSG_CLOSE = 7,
	MSG_CLOSED = 8,
	MSG_OP_QUERY = 9,
	MSG_OP = 10,
	MSG_DEVICE_QUERY = 11,
	MSG_DEVICE = 12,
	MSG_GOODBYE = 13,
	MSG_ADMIN_STOP = 32, /* drain and end; answered with MSG_ADMIN_OK */
	MSG_ADMIN_OK = 33,
};

struct msg_header {
	uint32_t magic; /* MSG_MAGIC */
	uint16_t type;	/* enum msg_type */
	uint16_t bytes;
	uint32_t serial;
	uint32_t reserved;
};

struct msg_hello {
	struct msg_header h;
	uint32_t abi_min, abi_max; /* versions of the wire that the client speaks */
	uint64_t features;	   /* that it asks for; none is defined yet */
	uint32_t flags;		   /* zero */
	uint32_t reserved;
	char name[GPUQ_NAME_MAX]; /* of the program, for people; ends with 0 */
};

struct msg_welcome {
	struct msg_header h;
	uint32_t abi; /* agreed: the greatest that both speak */
	uint32_t client;
	uint64_t features; /* granted */
	uint32_t n_devices, n_ops;
	uint32_t max_channels; /* of this client */
	uint32_t max_entries;  /* of one ring */
	uint64_t max_arena_bytes, max_client_bytes;
	char version[GPUQ_NAME_MAX];
	char socket_path[108 + 20]; /* names the statistics object */
};

struct msg_error {
	struct msg_header h;
	int32_t status; /* negative */
	uint32_t reserved;
	char text[MSG_TEXT_MAX]; /* one sentence: the cause and the next step */
};

/* MSG_ACK, MSG_ADMIN_STOP, MSG_ADMIN_OK are bare headers. */

struct msg_open {
	struct msg_header h;
	uint32_t device, priority; /* priority: 0 (first) .. MSG_PRIORITIES - 1 */
	uint32_t sq_entries, cq_entries;
	uint64_t arena_bytes;
	uint32_t flags; /* zero */
	uint32_t reserved;
};
#define MSG_PRIORITIES 4

struct msg_opened {
	struct msg_header h;
	uint32_t channel, generation;
	uint64_t segment_bytes;
	uint32_t sq_entries, cq_entries;
	uint64_t arena_bytes;
	uint64_t start; /* first index of both rings */
};

/* MSG_CLOSE and MSG_CLOSED. */
struct msg_close {
	struct msg_header h;
	uint32_t channel, generation;
};

/* MSG_OP_QUERY and MSG_DEVICE_QUERY. */
struct msg_query {
	struct msg_header h;
	uint32_t index;
	uint32_t reserved;
};

struct msg_op_tensor {
	char name[GPUQ_NAME_MAX];
	char shape[GPUQ_NAME_MAX];
	uint32_t dtypes; /* mask of GPUQ_DTYPE_BIT */
	uint32_t optional;
};

struct msg_op_param {
	char name[GPUQ_NAME_MAX];
	uint32_t type; /* enum gpuq_param_type */
	uint32_t reserved;
	double preset, min, max;
};

struct msg_op {
	struct msg_header h;
	uint32_t index;
	uint32_t n_inputs, n_outputs, n_params;
	char name[GPUQ_NAME_MAX];
	char summary[128];
	struct msg_op_tensor inputs[GPUQ_MAX_INPUTS];
	struct msg_op_tensor outputs[GPUQ_MAX_OUTPUTS];
	struct msg_op_param params[GPUQ_MAX_PARAMS];
};

struct msg_device {
	struct msg_header h;
	uint32_t index, ready;
	uint64_t epoch;
	char kind[GPUQ_NAME_MAX];
	char name[128];
};

struct msg_goodbye {
	struct msg_header h;
	int32_t status; /* -GPUQ_EDRAIN, -GPUQ_EPOISONED, -GPUQ_EPROTO, ... */
	uint32_t reserved;
	char text[MSG_TEXT_MAX];
};

_Static_assert(sizeof(struct msg_header) == 16, "msg_header");
_Static_assert(sizeof(struct msg_hello) == 16 + 24 + 32, "msg_hello");
_Static_assert(sizeof(struct msg_welcome) == 16 + 48 + 32 + 128, "msg_welcome");
_Static_assert(sizeof(struct msg_open) == 48, "msg_open");
_Static_assert(sizeof(struct msg_opened) == 56, "msg_opened");
_Static_assert(sizeof(struct msg_op) <= MSG_MAX, "msg_op");

#endif
