/* SPDX-License-Identifier: MIT */
/*
 * buffer.c: device buffers: asked for, shared and given back over the socket; filled and read
 * through a channel like any other work. What is kept here is a handle and its size: gpuqd alone
 * decides who may use what.
 */
#include "client/client.h"

#include <stdlib.h>
#include <string.h>

/* Of one copy by gpuq_buf_write() and gpuq_buf_read(), and its place in the arena. */
#define PIECE_BYTES (1ull << 20)

static void link_buf(struct gpuq *g, struct gpuq_buf *buf)
{
	pthread_mutex_lock(&g->lock);
	buf->next = g->bufs;
	buf->link = &g->bufs;
	if (buf->next != NULL)
		buf->next->link = &buf->next;
	g->bufs = buf;
	pthread_mutex_unlock(&g->lock);
}

static void unlink_buf(struct gpuq_buf *buf)
{
	*buf->link = buf->next;
	if (buf->next != NULL)
		buf->next->link = buf->link;
}

bool buf_known(const struct gpuq *g, uint32_t handle)
{
	for (const struct gpuq_buf *buf = g->bufs; buf != NULL; buf = buf->next)
		if (buf->handle == handle && buf->epoch == g->epoch)
			return true;
	return false;
}

void bufs_free(struct gpuq *g)
{
	while (g->bufs != NULL) {
		struct gpuq_buf *buf = g->bufs;
		unlink_buf(buf);
		free(buf);
	}
}

/* It went with the gpuqd that made it. */
static bool buf_lost(const struct gpuq_buf *buf)
{
	return buf->epoch != gpuq_epoch(buf->gpuq);
}

static int fail_lost(void)
{
	return fail_plain(-GPUQ_ELOST,
		"the buffer went with the gpuqd that had made it; free it and allocate another");
}

int buf_check(const struct gpuq *g, const struct gpuq_buf *buf, uint64_t offset, uint64_t bytes,
	const char *what)
{
	if (buf->gpuq != g)
		return fail(-GPUQ_EBUFFER,
			"%s: the buffer belongs to another connection; see gpuq_buf_accept()",
			what);
	if (buf_lost(buf))
		return fail_lost();
	if (offset > buf->bytes || bytes > buf->bytes - offset)
		return fail(-GPUQ_EBOUNDS,
			"%s: %llu bytes from %llu on do not lie in a buffer of %llu", what,
			(unsigned long long)bytes, (unsigned long long)offset,
			(unsigned long long)buf->bytes);
	return 0;
}

/* --- Requests ------------------------------------------------------------------------------ */

static int check_abi(const struct gpuq *g)
{
	int r = session_check(g);

	if (r == 0 && g->welcome.abi < 3)
		r = fail(-GPUQ_EABI,
			"gpuqd at %s speaks version %u of the wire, which has no buffers; update "
			"gpuqd",
			g->path, g->welcome.abi);
	return r;
}

/* A request whose answer is a buffer that this connection did not have. */
static int request_buf(struct gpuq *g, struct msg_header *request, struct gpuq_buf **ret_buf)
{
	const struct session_answer want = {MSG_BUFFER, sizeof(struct msg_buffer), 0};
	struct session_message answer;
	struct gpuq_buf *buf = calloc(1, sizeof(*buf));
	/* Before the request: with the next gpuqd the handle is another buffer's. */
	const uint64_t epoch = gpuq_epoch(g);

	if (buf == NULL)
		return fail_plain(-ENOMEM, "no memory for a buffer");
	int r = session_request(g, request, want, &answer);
	if (r < 0) {
		free(buf);
		return r;
	}
	*buf = (struct gpuq_buf){
		.gpuq = g,
		.handle = answer.buffer.handle,
		.device = answer.buffer.device,
		.form = answer.buffer.form,
		.bytes = answer.buffer.bytes,
		.epoch = epoch,
	};
	link_buf(g, buf);
	*ret_buf = buf;
	return 0;
}

int gpuq_buf_alloc(
	struct gpuq *g, const struct gpuq_buf_options *options, struct gpuq_buf **ret_buf)
{
	struct msg_buffer_alloc request = {
		.h = {.type = MSG_BUFFER_ALLOC, .bytes = sizeof(request)},
		.device = options->device,
		.form = options->form != 0 ? options->form : GPUQ_BUF_FD,
		.bytes = options->bytes,
	};
	int r = check_abi(g);

	return r < 0 ? r : request_buf(g, &request.h, ret_buf);
}

int gpuq_buf_accept(struct gpuq *g, uint32_t handle, struct gpuq_buf **ret_buf)
{
	struct msg_buffer_handle request = {
		.h = {.type = MSG_BUFFER_ACCEPT, .bytes = sizeof(request)},
		.handle = handle,
	};
	int r = check_abi(g);

	return r < 0 ? r : request_buf(g, &request.h, ret_buf);
}

/* A request about a buffer that this connection has. */
static int request_about(const struct gpuq_buf *buf, uint16_t type, uint32_t pid,
	const struct session_answer *want, struct session_message *ret_answer)
{
	struct msg_buffer_handle request = {
		.h = {.type = type, .bytes = sizeof(request)},
		.handle = buf->handle,
		.pid = pid,
	};

	if (buf_lost(buf))
		return fail_lost();
	return session_request(buf->gpuq, &request.h, *want, ret_answer);
}

static const struct session_answer want_plain = {MSG_BUFFER, sizeof(struct msg_buffer), 0};

int gpuq_buf_grant(const struct gpuq_buf *buf, uint32_t pid)
{
	struct session_message answer;

	return request_about(buf, MSG_BUFFER_GRANT, pid, &want_plain, &answer);
}

void gpuq_buf_free(struct gpuq_buf *buf)
{
	struct session_message answer;

	if (buf == NULL)
		return;
	struct gpuq *g = buf->gpuq;
	bool forked = guard_forked(g->guard);
	/* Fails when gpuqd has ended, and then there is nothing to give up. */
	if (!forked)
		(void)request_about(buf, MSG_BUFFER_FREE, 0, &want_plain, &answer);
	/* The lock may have been held when the child came to be; nobody else is here. */
	if (!forked)
		pthread_mutex_lock(&g->lock);
	unlink_buf(buf);
	if (!forked)
		pthread_mutex_unlock(&g->lock);
	free(buf);
}

int gpuq_buf_export(const struct gpuq_buf *buf, struct gpuq_buf_export *ret_export)
{
	const struct session_answer want = {
		MSG_BUFFER, sizeof(struct msg_buffer), buf->form == GPUQ_BUF_FD};
	struct session_message answer;
	const struct msg_buffer *m = &answer.buffer;
	int r = request_about(buf, MSG_BUFFER_EXPORT, 0, &want, &answer);

	if (r < 0)
		return r;
	*ret_export = (struct gpuq_buf_export){
		.form = m->form,
		.fd = answer.n_fds == 1 ? answer.fds[0] : -1,
		.bytes = m->bytes,
		.whole_bytes = m->whole_bytes,
		.pid_namespace = m->pid_namespace,
	};
	memcpy(ret_export->ipc, m->ipc, sizeof(m->ipc));
	memcpy(ret_export->uuid, m->uuid, sizeof(m->uuid) - 1);
	memcpy(ret_export->driver, m->driver, sizeof(m->driver) - 1);
	return 0;
}

uint64_t gpuq_buf_bytes(const struct gpuq_buf *buf)
{
	return buf->bytes;
}

uint32_t gpuq_buf_device(const struct gpuq_buf *buf)
{
	return buf->device;
}

uint32_t gpuq_buf_handle(const struct gpuq_buf *buf)
{
	return buf->handle;
}

/* --- Copies -------------------------------------------------------------------------------- */

int gpuq_buf_copy_create(struct gpuq_channel *ch, const struct gpuq_buf *buf, uint64_t offset,
	void *data, uint64_t bytes, enum gpuq_buf_direction direction, struct gpuq_call **ret_call)
{
	uint64_t arena_bytes = arena_capacity(ch->arena);
	const struct wire_copy block = {
		.arena_offset = (uintptr_t)data - (uintptr_t)ch->arena_base,
		.buffer_offset = offset,
		.bytes = bytes,
		.buffer = buf->handle,
		.to_buffer = direction == GPUQ_TO_BUFFER,
	};

	if (!channel_owned(ch))
		return channel_refuse(ch);
	if (direction != GPUQ_TO_BUFFER && direction != GPUQ_FROM_BUFFER)
		return fail(-EINVAL, "%d is no direction", (int)direction);
	int r = buf_check(ch->gpuq, buf, offset, bytes, "copy");
	if (r < 0)
		return r;
	if (buf->device != ch->device)
		return fail(-GPUQ_ENODEV,
			"the buffer lies on device %u and the channel is one of device %u; open "
			"one there",
			buf->device, ch->device);
	if (block.arena_offset > arena_bytes || bytes > arena_bytes - block.arena_offset)
		return fail_plain(-GPUQ_EBOUNDS,
			"copy: its data are not in this channel's arena; get memory from "
			"gpuq_alloc(), or use gpuq_buf_write() and gpuq_buf_read()");
	return call_new(ch, WIRE_OP_COPY, &block, sizeof(block), NULL, ret_call);
}

/* Submits one copy and waits for it. */
static int run_copy(struct gpuq_channel *ch, struct gpuq_call *copy)
{
	const struct gpuq_submission s = {.call = copy};
	struct gpuq_completion c;
	int r = call_room(ch);

	if (r == 0)
		r = gpuq_submit(ch, &s, 1);
	if (r < 0)
		return r;
	r = call_wait(ch, copy, &c);
	if (r == 0 && c.status < 0)
		r = fail_plain(c.status, gpuq_strerror(c.status));
	return r;
}

/* One piece, through memory of the arena at `staging`. */
static int copy_piece(struct gpuq_channel *ch, const struct gpuq_buf *buf, uint64_t offset,
	void *staging, uint64_t bytes, enum gpuq_buf_direction direction)
{
	struct gpuq_call *copy;
	int r = gpuq_buf_copy_create(ch, buf, offset, staging, bytes, direction, &copy);

	if (r == 0) {
		r = run_copy(ch, copy);
		gpuq_call_destroy(copy);
	}
	return r;
}

/* Memory for a piece, leaving some of the arena for the argument block. */
static int take_staging(struct gpuq_channel *ch, uint64_t bytes, void **ret_data, uint64_t *ret_n)
{
	uint64_t largest = arena_largest(ch->arena);
	uint64_t piece = bytes < PIECE_BYTES ? bytes : PIECE_BYTES;

	if (piece + ARENA_ALIGN > largest)
		piece = largest > 2 * ARENA_ALIGN ? largest - 2 * ARENA_ALIGN : ARENA_ALIGN;
	if (piece > bytes)
		piece = bytes;
	*ret_n = piece;
	return gpuq_alloc(ch, piece, ret_data);
}

static int transfer(struct gpuq_channel *ch, const struct gpuq_buf *buf, uint64_t offset,
	char *data, uint64_t bytes, enum gpuq_buf_direction direction)
{
	uint64_t done = 0, piece;
	void *staging;

	if (!channel_owned(ch))
		return channel_refuse(ch);
	int r = buf_check(ch->gpuq, buf, offset, bytes, "copy");
	if (r == 0)
		r = take_staging(ch, bytes, &staging, &piece);
	if (r < 0)
		return r;
	for (; r == 0 && done < bytes; done += piece) {
		if (piece > bytes - done)
			piece = bytes - done;
		if (direction == GPUQ_TO_BUFFER)
			memcpy(staging, data + done, piece);
		r = copy_piece(ch, buf, offset + done, staging, piece, direction);
		if (r == 0 && direction == GPUQ_FROM_BUFFER)
			memcpy(data + done, staging, piece);
	}
	(void)gpuq_free(ch, staging);
	return r;
}

int gpuq_buf_write(struct gpuq_channel *ch, const struct gpuq_buf *buf, uint64_t offset,
	const void *data, uint64_t bytes)
{
	return transfer(ch, buf, offset, (char *)data, bytes, GPUQ_TO_BUFFER);
}

int gpuq_buf_read(struct gpuq_channel *ch, const struct gpuq_buf *buf, uint64_t offset, void *data,
	uint64_t bytes)
{
	return transfer(ch, buf, offset, data, bytes, GPUQ_FROM_BUFFER);
}
