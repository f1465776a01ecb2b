/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target for what comes in on gpuqd's sockets. The input is a byte of flags, then packets,
 * each after two bytes with its length. Whatever they are: only what is whole, of the session's
 * version and without unknown fields reaches what would act on it, once, and nothing but MSG_HELLO
 * is heard before that was accepted.
 */
#include "daemon/control.h"
#include "daemon/log.h"
#include "kernels/op.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define FLAG_ADMIN 1u
#define FLAG_DRAINING 2u
#define FLAG_UNACKNOWLEDGED 4u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint32_t acted, answered;

static void require(int condition)
{
	if (!condition)
		abort();
}

/* --- What would act ------------------------------------------------------------------------ */

/* What every one of them may rely on. */
static void check_request(const struct session *s, const void *msg, uint16_t type)
{
	const struct msg_header *h = msg;

	require(s->state == SESSION_LIVE && msg == s->packet);
	require(h->magic == MSG_MAGIC && h->type == type && h->reserved == 0);
	require(h->bytes >= sizeof(*h) && h->bytes <= MSG_MAX);
	for (uint32_t i = h->bytes; i < MSG_MAX; i++)
		require(s->packet[i] == 0);
	require(s->abi >= 3 || type < MSG_PRESENT_QUERY || type >= MSG_ADMIN_STOP);
	acted++;
}

#define ACT(function, form, type)                                                   \
	void function(struct control *c, struct session *s, const struct form *msg) \
	{                                                                           \
		check_request(s, msg, type);                                        \
	}
#define ACT_ANY(function, type)                                              \
	void function(struct control *c, struct session *s, const void *msg) \
	{                                                                    \
		check_request(s, msg, type);                                 \
	}

ACT(channel_open, msg_open, MSG_OPEN)
ACT(channel_close_request, msg_close, MSG_CLOSE)
ACT_ANY(buffer_alloc, MSG_BUFFER_ALLOC)
ACT_ANY(buffer_export, MSG_BUFFER_EXPORT)
ACT_ANY(buffer_grant, MSG_BUFFER_GRANT)
ACT_ANY(buffer_accept, MSG_BUFFER_ACCEPT)
ACT_ANY(buffer_free, MSG_BUFFER_FREE)
ACT_ANY(graph_present_query, MSG_PRESENT_QUERY)
ACT_ANY(graph_query, MSG_GRAPH_QUERY)
ACT_ANY(graph_capture_request, MSG_ADMIN_CAPTURE)
ACT_ANY(graph_evict_request, MSG_ADMIN_EVICT)
ACT_ANY(registration_close_request, MSG_PIPELINE_CLOSE)
ACT_ANY(model_query, MSG_MODEL_QUERY)
ACT_ANY(model_load_request, MSG_ADMIN_LOAD)
ACT_ANY(model_unload_request, MSG_ADMIN_UNLOAD)
ACT_ANY(restart_request, MSG_ADMIN_RESTART)

void registration_piece(struct control *c, struct session *s, const struct msg_pipeline *m)
{
	check_request(s, m, MSG_PIPELINE);
	require(m->bytes <= MSG_PIPELINE_PIECE);
}

void control_drain(struct control *c, const char *why)
{
	require(why != NULL);
	c->draining = true;
}

void control_count_error(struct control *c, int status, const char *what, const char *text)
{
	require(status < 0 && what != NULL && text != NULL);
}

/* --- What is said -------------------------------------------------------------------------- */

bool session_send(struct control *c, struct session *s, void *msg, uint16_t type, uint16_t bytes,
	uint32_t serial, const int *fds, uint32_t n_fds)
{
	require(bytes >= sizeof(struct msg_header) && bytes <= MSG_MAX && n_fds <= 3);
	/* Every byte is ours to tell. */
	for (uint32_t i = sizeof(struct msg_header); i < bytes; i++)
		answered += ((const uint8_t *)msg)[i];
	answered++;
	return s->state != SESSION_CLOSING;
}

void session_refuse(
	struct control *c, struct session *s, uint32_t serial, int status, const char *format, ...)
{
	char text[MSG_TEXT_MAX];
	va_list args;

	require(status < 0);
	va_start(args, format);
	require(vsnprintf(text, sizeof(text), format, args) > 0);
	va_end(args);
	answered++;
}

void session_close(struct control *c, struct session *s)
{
	if (s->state == SESSION_HANDSHAKE)
		TAILQ_REMOVE(&c->handshakes, s, in_list);
	s->state = SESSION_CLOSING;
}

void session_show(struct control *c, const struct session *s)
{
	require(memchr(s->name, '\0', sizeof(s->name)) != NULL);
	for (const char *p = s->name; *p != '\0'; p++)
		require((unsigned char)*p >= ' ' && (unsigned char)*p < 0x7f);
}

/* --- The target ---------------------------------------------------------------------------- */

static void one_packet(struct control *c, struct session *s, const uint8_t *bytes, uint32_t n)
{
	const uint32_t before = acted;

	memset(s->packet, 0x55, sizeof(s->packet));
	memcpy(s->packet, bytes, n < MSG_MAX ? n : MSG_MAX);
	session_message(c, s, n);
	require(acted - before <= 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct config config = {.max_channels_per_client = 64};
	static struct stats_header header;
	static struct stats_device devices[WIRE_MAX_DEVICES];
	static struct session s;
	static struct control c;

	if (size < 1)
		return 0;
	s = (struct session){.state = SESSION_HANDSHAKE, .fd = -1, .pidfd = -1, .in_fd = -1};
	c = (struct control){.config = &config};
	c.stats.header = &header;
	c.stats.devices = devices;
	TAILQ_INIT(&c.handshakes);
	TAILQ_INSERT_TAIL(&c.handshakes, &s, in_list);
	s.admin = (data[0] & FLAG_ADMIN) != 0;
	c.draining = (data[0] & FLAG_DRAINING) != 0;
	const bool unacknowledged = (data[0] & FLAG_UNACKNOWLEDGED) != 0;
	for (data++, size--; size >= 2 && s.state != SESSION_CLOSING;) {
		const uint32_t wanted = data[0] | (uint32_t)data[1] << 8;
		const uint32_t there = wanted < size - 2 ? wanted : (uint32_t)(size - 2);

		/* One that is too long shows as longer than the room for it. */
		one_packet(&c, &s, data + 2, there < MSG_MAX || there == wanted ? there : MSG_MAX);
		if (!unacknowledged && s.fds == FDS_SENT && s.fds_messages > 1)
			s.fds = FDS_NONE;
		data += 2 + there;
		size -= 2 + there;
	}
	return 0;
}
