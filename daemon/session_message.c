/* SPDX-License-Identifier: MIT */
/* What clients say: every message of shm/proto.h is checked here, then answered. */
#define LOG_TOPIC LOG_CLIENT
#include "daemon/control.h"
#include "daemon/log.h"
#include "kernels/op.h"
#include "shm/atomics.h"
#include "shm/failpoint.h"

#include <ctype.h>
#include <errno.h>
#include <linux/sockios.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

/* Messages with descriptors that a client may leave in its queue, whatever it acknowledges. */
#define FDS_UNREAD_MAX 8

void session_broke_protocol(
	struct control *c, struct session *s, uint32_t serial, const char *format, ...)
{
	char text[MSG_TEXT_MAX];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	shm_count(&c->stats.header->protocol_errors, 1);
	if (s->state == SESSION_HANDSHAKE)
		shm_count(&c->stats.header->refused, 1);
	log_limited(LOG_LEVEL_WARN, "client %u (%s, pid %ld) broke the protocol: %s", s->index,
		s->name, (long)s->pid, text);
	session_refuse(c, s, serial, -GPUQ_EPROTO, "%s", text);
	session_close(c, s);
}

/* Ends a handshake that was understood, but cannot succeed. */
static void hello_refuse(
	struct control *c, struct session *s, uint32_t serial, int status, const char *text)
{
	shm_count(&c->stats.header->refused, 1);
	session_refuse(c, s, serial, status, "%s", text);
	session_close(c, s);
}

/* A client's name is shown to people on terminals. */
static void name_copy(char to[GPUQ_NAME_MAX], const char from[GPUQ_NAME_MAX])
{
	for (uint32_t i = 0; i < GPUQ_NAME_MAX; i++) {
		unsigned char byte = (unsigned char)from[i];
		to[i] = byte == '\0' || isprint(byte) ? from[i] : '?';
	}
}

static void welcome(struct control *c, struct session *s, uint32_t serial)
{
	struct msg_welcome m = {
		.abi = s->abi,
		.client = s->index,
		.n_devices = 1,
		.n_ops = op_count,
		.max_channels = (uint32_t)c->config->max_channels_per_client,
		.max_entries = WIRE_MAX_ENTRIES,
		.max_arena_bytes = c->config->max_arena_bytes,
		.max_client_bytes = c->config->max_client_bytes,
		.version = GPUQ_VERSION,
	};

	snprintf(m.socket_path, sizeof(m.socket_path), "%s", c->listener.path);
	s->fds = FDS_SENT;
	s->fds_messages++;
	session_send(c, s, &m, MSG_WELCOME, sizeof(m), serial, &c->page_ro_fd, 1);
}

static void on_hello(struct control *c, struct session *s, const void *msg)
{
	const struct msg_hello *m = msg;
	uint32_t abi = m->abi_max < WIRE_ABI ? m->abi_max : WIRE_ABI;
	char text[MSG_TEXT_MAX];

	if (s->state != SESSION_HANDSHAKE) {
		session_broke_protocol(c, s, m->h.serial, "a second MSG_HELLO");
		return;
	}
	if (m->flags != 0 || m->reserved != 0 || memchr(m->name, '\0', GPUQ_NAME_MAX) == NULL) {
		session_broke_protocol(
			c, s, m->h.serial, "MSG_HELLO has unknown flags, or a name without an end");
		return;
	}
	if (abi < WIRE_ABI_OLDEST || abi < m->abi_min) {
		snprintf(text, sizeof(text),
			"the client speaks wire %u to %u, gpuqd %u to %u; update the older one",
			m->abi_min, m->abi_max, WIRE_ABI_OLDEST, WIRE_ABI);
		hello_refuse(c, s, m->h.serial, -GPUQ_EABI, text);
		return;
	}
	if (c->draining) {
		hello_refuse(c, s, m->h.serial, -GPUQ_EDRAIN,
			"gpuqd is shutting down; connect again when it is back");
		return;
	}
	TAILQ_REMOVE(&c->handshakes, s, in_list);
	s->state = SESSION_LIVE;
	s->abi = abi;
	name_copy(s->name, m->name);
	s->connected_ns = clock_now_ns(&c->clock);
	session_show(c, s);
	shm_count(&c->stats.header->clients, 1);
	log_limited(LOG_LEVEL_DEBUG, "client %u is %s, pid %ld, user %u, wire %u%s", s->index,
		s->name, (long)s->pid, s->uid, s->abi, s->admin ? ", administrator" : "");
	welcome(c, s, m->h.serial);
}

static void on_ack(struct control *c, struct session *s, const void *msg)
{
	const struct msg_header *h = msg;

	if (s->fds != FDS_SENT) {
		session_broke_protocol(c, s, h->serial, "MSG_ACK without a message to acknowledge");
		return;
	}
	s->fds = FDS_NONE;
}

/*
 * An acknowledgement is only a claim. The kernel knows what was read: once some messages with
 * descriptors have gone, the queue must be seen empty before there are more.
 */
static bool reads_its_descriptors(struct session *s)
{
	int unread = 0;

	if (s->fds_messages < FDS_UNREAD_MAX)
		return true;
	if (ioctl(s->fd, SIOCOUTQ, &unread) < 0 || unread > 0)
		return false;
	s->fds_messages = 0;
	return true;
}

bool session_may_have_fds(struct control *c, struct session *s, uint32_t serial)
{
	if (s->fds == FDS_NONE && reads_its_descriptors(s))
		return true;
	session_refuse(c, s, serial, -EBUSY,
		"the last message with descriptors is not read and acknowledged (MSG_ACK)");
	return false;
}

static void on_open(struct control *c, struct session *s, const void *msg)
{
	const struct msg_open *m = msg;

	if (session_may_have_fds(c, s, m->h.serial))
		channel_open(c, s, m);
}

static void on_close(struct control *c, struct session *s, const void *msg)
{
	channel_close_request(c, s, msg);
}

static void op_describe(const struct op *op, struct msg_op *m)
{
	m->n_inputs = op->n_inputs;
	m->n_outputs = op->n_outputs;
	m->n_params = op->n_params;
	snprintf(m->name, sizeof(m->name), "%s", op->name);
	snprintf(m->summary, sizeof(m->summary), "%s", op->summary);
	for (uint32_t i = 0; i < op->n_inputs + op->n_outputs; i++) {
		bool in = i < op->n_inputs;
		const struct op_tensor *t = in ? &op->inputs[i] : &op->outputs[i - op->n_inputs];
		struct msg_op_tensor *mt = in ? &m->inputs[i] : &m->outputs[i - op->n_inputs];

		snprintf(mt->name, sizeof(mt->name), "%s", t->name);
		snprintf(mt->shape, sizeof(mt->shape), "%s", t->shape);
		mt->dtypes = t->dtypes;
		mt->optional = t->optional;
		if (t->in_out)
			m->in_out |= 1u << i;
	}
	for (uint32_t i = 0; i < op->n_params; i++) {
		const struct op_param *p = &op->params[i];

		m->params[i] = (struct msg_op_param){
			.type = p->type, .preset = p->preset, .min = p->min, .max = p->max};
		snprintf(m->params[i].name, sizeof(m->params[i].name), "%s", p->name);
	}
}

static void on_op_query(struct control *c, struct session *s, const void *msg)
{
	const struct msg_query *q = msg;
	struct msg_op m = {.index = q->index};

	if (q->index >= op_count) {
		session_refuse(c, s, q->h.serial, -GPUQ_EOP, "there is no operator %u, only %u",
			q->index, op_count);
		return;
	}
	op_describe(op_table[q->index], &m);
	session_send(c, s, &m, MSG_OP, sizeof(m), q->h.serial, NULL, 0);
}

static void on_device_query(struct control *c, struct session *s, const void *msg)
{
	const struct msg_query *q = msg;
	struct msg_device m = {.index = q->index};

	if (q->index != c->device.index) {
		session_refuse(c, s, q->h.serial, -GPUQ_ENODEV, "there is no device %u", q->index);
		return;
	}
	/* The names are the device process's words; its crash may have cut them anywhere. */
	const struct stats_device *record = &c->stats.devices[q->index];
	m.ready = c->device.state == DEVICE_READY;
	m.epoch = c->device.epoch;
	memcpy(m.kind, record->kind, sizeof(m.kind) - 1);
	memcpy(m.name, record->name, sizeof(m.name) - 1);
	session_send(c, s, &m, MSG_DEVICE, sizeof(m), q->h.serial, NULL, 0);
}

bool session_may_administer(struct control *c, struct session *s, uint32_t serial, const char *what)
{
	if (!s->admin)
		session_refuse(c, s, serial, -EPERM,
			"%s may only be asked for on the administrative socket "
			"(\"%s" MSG_ADMIN_SUFFIX "\")",
			what, c->listener.path);
	return s->admin;
}

static void on_admin_stop(struct control *c, struct session *s, const void *msg)
{
	const struct msg_header *h = msg;
	struct msg_header answer;

	if (!session_may_administer(c, s, h->serial, "a stop"))
		return;
	if (session_send(c, s, &answer, MSG_ADMIN_OK, sizeof(answer), h->serial, NULL, 0))
		control_drain(c, "an administrator asked for it");
}

/* The client leaves; its channels go without counting as a death. */
static void on_goodbye(struct control *c, struct session *s, const void *msg)
{
	(void)msg;
	session_close(c, s);
}

static void on_pipeline(struct control *c, struct session *s, const void *msg)
{
	const struct msg_pipeline *m = msg;

	if (m->h.bytes != offsetof(struct msg_pipeline, piece) + m->bytes)
		session_broke_protocol(c, s, m->h.serial,
			"MSG_PIPELINE of %u bytes with a piece of %u", m->h.bytes, m->bytes);
	else
		registration_piece(c, s, m);
}

static const struct {
	uint16_t type;
	uint16_t bytes; /* at least: in the oldest version that has it */
	uint16_t known; /* at most: what is behind is unknown */
	uint16_t abi;	/* oldest version that has it */
	void (*handle)(struct control *c, struct session *s, const void *msg);
} messages[] = {
#define MESSAGE(type, form, abi, handle)                                    \
	{                                                                   \
		type, sizeof(struct form), sizeof(struct form), abi, handle \
	}
	MESSAGE(MSG_HELLO, msg_hello, 1, on_hello),
	MESSAGE(MSG_ACK, msg_header, 1, on_ack),
	MESSAGE(MSG_OPEN, msg_open, 1, on_open),
	MESSAGE(MSG_CLOSE, msg_close, 1, on_close),
	MESSAGE(MSG_OP_QUERY, msg_query, 1, on_op_query),
	MESSAGE(MSG_DEVICE_QUERY, msg_query, 1, on_device_query),
	MESSAGE(MSG_BUFFER_ALLOC, msg_buffer_alloc, 3, buffer_alloc),
	MESSAGE(MSG_BUFFER_EXPORT, msg_buffer_handle, 3, buffer_export),
	MESSAGE(MSG_BUFFER_GRANT, msg_buffer_handle, 3, buffer_grant),
	MESSAGE(MSG_BUFFER_ACCEPT, msg_buffer_handle, 3, buffer_accept),
	MESSAGE(MSG_BUFFER_FREE, msg_buffer_handle, 3, buffer_free),
	MESSAGE(MSG_GOODBYE, msg_header, 1, on_goodbye),
	MESSAGE(MSG_ADMIN_STOP, msg_header, 1, on_admin_stop),
	MESSAGE(MSG_PRESENT_QUERY, msg_query, 3, graph_present_query),
	MESSAGE(MSG_GRAPH_QUERY, msg_graph_query, 3, graph_query),
	{MSG_PIPELINE, offsetof(struct msg_pipeline, piece), sizeof(struct msg_pipeline), 3,
		on_pipeline},
	MESSAGE(MSG_PIPELINE_CLOSE, msg_pipeline_handle, 3, registration_close_request),
	MESSAGE(MSG_MODEL_QUERY, msg_model_query, 3, model_query),
	MESSAGE(MSG_ADMIN_LOAD, msg_admin_load, 3, model_load_request),
	MESSAGE(MSG_ADMIN_UNLOAD, msg_admin_unload, 3, model_unload_request),
	MESSAGE(MSG_ADMIN_RESTART, msg_admin_restart, 4, restart_request),
	MESSAGE(MSG_ADMIN_CAPTURE, msg_admin_capture, 3, graph_capture_request),
	MESSAGE(MSG_ADMIN_EVICT, msg_admin_evict, 3, graph_evict_request),
};

/* True when a newer client has set fields that we do not know. */
static bool has_unknown_fields(const struct session *s, uint32_t known, uint32_t bytes)
{
	for (uint32_t i = known; i < bytes; i++) {
		if (s->packet[i] != 0)
			return true;
	}
	return false;
}

void session_message(struct control *c, struct session *s, uint32_t bytes)
{
	const struct msg_header *h = (const struct msg_header *)s->packet;

	if (bytes < sizeof(*h) || bytes > MSG_MAX) {
		session_broke_protocol(c, s, 0, "a message of %u bytes", bytes);
		return;
	}
	if (h->magic != MSG_MAGIC || h->bytes != bytes || h->reserved != 0) {
		session_broke_protocol(c, s, 0, "a packet that is not a message of gpuq");
		return;
	}
	FAILPOINT_OF("control.asked", h->type);
	/* Fields that an older client does not know of are zero. */
	memset(s->packet + bytes, 0, MSG_MAX - bytes);
	for (size_t i = 0; i < sizeof(messages) / sizeof(messages[0]); i++) {
		if (messages[i].type != h->type)
			continue;
		if (s->state == SESSION_LIVE && s->abi < messages[i].abi)
			break;
		if (bytes < messages[i].bytes)
			session_broke_protocol(c, s, h->serial,
				"message %u of %u bytes is shorter than %u", h->type, bytes,
				messages[i].bytes);
		else if (has_unknown_fields(s, messages[i].known, bytes))
			session_broke_protocol(
				c, s, h->serial, "message %u has unknown fields", h->type);
		else if (s->state == SESSION_HANDSHAKE && h->type != MSG_HELLO &&
			h->type != MSG_GOODBYE)
			session_broke_protocol(
				c, s, h->serial, "message %u before MSG_HELLO", h->type);
		else
			messages[i].handle(c, s, s->packet);
		return;
	}
	session_broke_protocol(c, s, h->serial, "there is no message %u", h->type);
}
