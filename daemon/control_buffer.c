/* SPDX-License-Identifier: MIT */
/*
 * Device buffers in the control process: who holds what, and when it goes. The memory itself is
 * the device process's business, which is told of every holder before that holder is answered, so
 * that nobody is refused what was promised, or served what was given up.
 *
 * With the device process its buffers are lost. The next one is told of those that have holders,
 * and asked anew what the last one has not answered.
 */
#include "daemon/control.h"
#include "shm/atomics.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_GRANTEES 64u /* of one buffer: other holders than its first */
#define UNIT_BYTES (2ull << 20)

static uint32_t handle_of(const struct buffer *b)
{
	return b->generation << 16 | b->index;
}

/* --- Telling the device process ------------------------------------------------------------ */

static int buffer_send(struct control *c, struct owed *owed)
{
	struct buffer *b = (struct buffer *)((char *)owed - offsetof(struct buffer, owed));
	const struct devlink_msg m = {
		.type = b->state == BUFFER_REMOVING ? DEVLINK_BUFFER_REMOVE : DEVLINK_BUFFER,
		.handle = handle_of(b),
		.form = b->form,
		.bytes = b->bytes,
		.status = b->lost ? -GPUQ_ELOST : 0,
	};

	if (b->told)
		return 0;
	int r = device_send(c, &m, NULL, 0);
	b->told = r == 0;
	return r < 0 ? r : 1;
}

static int holder_send(struct control *c, struct owed *owed)
{
	struct holder *h = (struct holder *)((char *)owed - offsetof(struct holder, owed));
	const struct devlink_msg m = {
		.type = h->state == HOLDER_LEAVING ? DEVLINK_BUFFER_REVOKE : DEVLINK_BUFFER_GRANT,
		.handle = handle_of(h->buffer),
		.client = h->session->index,
		.client_generation = h->session->generation,
	};

	if (h->told)
		return 0;
	int r = device_send(c, &m, NULL, 0);
	h->told = r == 0;
	return r < 0 ? r : 1;
}

/*
 * Tells it of the state that buffer or holder have come into. False while there is none: then
 * nothing needs to be said, and the next one is told what still counts.
 */
static bool tell_buffer(struct control *c, struct buffer *b)
{
	b->told = false;
	device_tell(c, &b->owed);
	return c->device.state == DEVICE_READY;
}

static bool tell_holder(struct control *c, struct holder *h)
{
	h->told = false;
	device_tell(c, &h->owed);
	return c->device.state == DEVICE_READY;
}

/* --- Records ------------------------------------------------------------------------------- */

int buffer_records_create(struct control *c)
{
	c->buffers = calloc(c->config->max_buffers, sizeof(*c->buffers));
	if (c->buffers == NULL)
		return -ENOMEM;
	TAILQ_INIT(&c->free_buffers);
	TAILQ_INIT(&c->orphans);
	for (uint32_t i = 0; i < c->config->max_buffers; i++) {
		struct buffer *b = &c->buffers[i];

		b->index = i;
		b->owed.send = buffer_send;
		b->fd = -1;
		LIST_INIT(&b->holders);
		TAILQ_INSERT_TAIL(&c->free_buffers, b, in_list);
	}
	return 0;
}

void buffer_records_destroy(struct control *c)
{
	struct holder *h;

	for (uint64_t i = 0; c->buffers != NULL && i < c->config->max_buffers; i++) {
		while ((h = LIST_FIRST(&c->buffers[i].holders)) != NULL) {
			LIST_REMOVE(h, of_buffer);
			free(h);
		}
		if (c->buffers[i].fd >= 0)
			close(c->buffers[i].fd);
	}
	free(c->buffers);
}

/* The buffer with this handle, in whatever state; NULL: none. */
static struct buffer *buffer_find(const struct control *c, uint32_t handle)
{
	uint32_t index = handle & 0xffffu;

	if (index >= c->config->max_buffers)
		return NULL;
	struct buffer *b = &c->buffers[index];
	return b->state != BUFFER_FREE && handle_of(b) == handle ? b : NULL;
}

static struct holder *holder_find(const struct buffer *b, const struct session *s)
{
	struct holder *h;

	LIST_FOREACH (h, &b->holders, of_buffer) {
		if (h->session == s)
			return h;
	}
	return NULL;
}

static struct holder *holder_new(struct buffer *b, struct session *s, enum holder_state state)
{
	struct holder *h = calloc(1, sizeof(*h));

	if (h == NULL)
		return NULL;
	h->owed.send = holder_send;
	h->state = state;
	h->session = s;
	h->buffer = b;
	LIST_INSERT_HEAD(&b->holders, h, of_buffer);
	LIST_INSERT_HEAD(&s->holders, h, of_session);
	b->n_holders++;
	s->n_holders++;
	return h;
}

static void holder_free(struct control *c, struct holder *h)
{
	struct session *s = h->session;

	device_forget(c, &h->owed);
	LIST_REMOVE(h, of_buffer);
	LIST_REMOVE(h, of_session);
	h->buffer->n_holders--;
	s->n_holders--;
	free(h);
	session_release(c, s);
}

/* Somebody other than `h` has the buffer, or is about to; a grant that nobody took is nothing. */
static bool held_by_others(const struct buffer *b, const struct holder *h)
{
	const struct holder *other;

	LIST_FOREACH (other, &b->holders, of_buffer) {
		if (other != h && other->state != HOLDER_GRANTED)
			return true;
	}
	return false;
}

/* --- Answers ------------------------------------------------------------------------------- */

static void answer(struct control *c, const struct holder *h)
{
	const struct buffer *b = h->buffer;
	struct msg_buffer m = {
		.handle = handle_of(b),
		.device = c->device.index,
		.form = b->form,
		.bytes = b->bytes,
		.whole_bytes = b->whole_bytes,
	};

	if (h->state == HOLDER_LEAVING)
		m = (struct msg_buffer){0}; /* of no more use to it */
	if (!h->closing)
		session_send(c, h->session, &m, MSG_BUFFER, sizeof(m), h->serial, NULL, 0);
}

/* --- The end of a buffer ------------------------------------------------------------------- */

/* The session no longer accounts for it; its user does. */
static void buffer_orphan(struct control *c, struct buffer *b)
{
	if (b->owner == NULL)
		return;
	memory_give(c, b->owner, b->whole_bytes);
	c->total_bytes += b->whole_bytes;
	b->owner = NULL;
	TAILQ_INSERT_TAIL(&c->orphans, b, in_list);
}

static void count(struct control *c, const struct buffer *b, bool add)
{
	c->n_buffers += add ? 1 : -1u;
	c->buffer_bytes += add ? b->whole_bytes : -b->whole_bytes;
	shm_store_relaxed(&c->stats.header->buffers, c->n_buffers);
	shm_store_relaxed(&c->stats.header->buffer_bytes, c->buffer_bytes);
}

/* Its memory is back: so is its record. The holder that waited for that is answered. */
static void buffer_removed(struct control *c, struct buffer *b)
{
	struct holder *h = LIST_FIRST(&b->holders);

	buffer_orphan(c, b);
	TAILQ_REMOVE(&c->orphans, b, in_list);
	c->total_bytes -= b->whole_bytes;
	count(c, b, false);
	device_forget(c, &b->owed);
	if (b->fd >= 0)
		close(b->fd);
	b->fd = -1;
	b->state = BUFFER_FREE;
	TAILQ_INSERT_TAIL(&c->free_buffers, b, in_list);
	if (h == NULL)
		return;
	answer(c, h);
	holder_free(c, h);
	assert(LIST_EMPTY(&b->holders));
}

/*
 * The device process has let go of it. A descriptor may linger in some process: the pages go now.
 * Memory of a GPU has none here, and stays until that process closes it.
 */
static void buffer_punch(struct control *c, struct buffer *b)
{
	if (b->fd < 0) {
		buffer_removed(c, b);
		return;
	}
	struct io_uring_sqe *sqe = control_sqe(c);
	b->state = BUFFER_PUNCHING;
	io_uring_prep_fallocate(
		sqe, b->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)b->whole_bytes);
	control_tag(sqe, OP_PUNCH_BUFFER, b->index);
}

void buffer_punched(struct control *c, struct buffer *b)
{
	buffer_removed(c, b);
}

/* The last holder leaves, or there never was one: what was granted and not accepted is void. */
static void buffer_remove(struct control *c, struct buffer *b)
{
	struct holder *h, *next;

	for (h = LIST_FIRST(&b->holders); h != NULL; h = next) {
		next = LIST_NEXT(h, of_buffer);
		if (h->state == HOLDER_GRANTED)
			holder_free(c, h);
	}
	b->state = BUFFER_REMOVING;
	if (!tell_buffer(c, b))
		buffer_punch(c, b);
}

/* --- Holders that leave -------------------------------------------------------------------- */

/* The device process serves it no more. */
static void holder_left(struct control *c, struct holder *h)
{
	struct buffer *b = h->buffer;

	assert(h->state == HOLDER_LEAVING);
	if (!held_by_others(b, h)) {
		buffer_remove(c, b);
		return;
	}
	if (b->owner == h->session)
		buffer_orphan(c, b);
	answer(c, h);
	holder_free(c, h);
}

static void holder_leave(struct control *c, struct holder *h)
{
	h->state = HOLDER_LEAVING;
	if (!tell_holder(c, h))
		holder_left(c, h);
}

void buffer_session_close(struct control *c, struct session *s)
{
	struct holder *h, *next;

	for (h = LIST_FIRST(&s->holders); h != NULL; h = next) {
		/* Freeing one may free others only of other sessions. */
		next = LIST_NEXT(h, of_session);
		h->closing = true;
		if (h->state == HOLDER_GRANTED)
			holder_free(c, h);
		else if (h->state == HOLDER_HAS)
			holder_leave(c, h);
	}
}

void buffer_free(struct control *c, struct session *s, const void *msg)
{
	const struct msg_buffer_handle *m = msg;
	struct buffer *b = buffer_find(c, m->handle);
	struct holder *h = b != NULL ? holder_find(b, s) : NULL;

	if (h == NULL || h->state != HOLDER_HAS) {
		session_refuse(c, s, m->h.serial, -GPUQ_EBUFFER,
			"this connection has no buffer %#x", m->handle);
		return;
	}
	h->serial = m->h.serial;
	holder_leave(c, h);
}

/* --- Holders that come --------------------------------------------------------------------- */

/* The device process serves it from now on. */
static void holder_joined(struct control *c, struct holder *h)
{
	h->state = HOLDER_HAS;
	if (h->closing)
		holder_leave(c, h);
	else
		answer(c, h);
}

static int alloc_check(const struct control *c, const struct session *s,
	const struct msg_buffer_alloc *m, char text[MSG_TEXT_MAX])
{
	uint64_t max_bytes = c->config->max_client_bytes;
	uint32_t of_user = 0;
	int r = device_check_request(c, m->device, text);

	if (r < 0)
		return r;
	if ((m->form != MSG_BUFFER_FD && m->form != MSG_BUFFER_IPC) || m->bytes == 0 ||
		m->reserved != 0) {
		snprintf(text, MSG_TEXT_MAX,
			"form %u and %llu bytes: the form must be %u (descriptor) or %u "
			"(cudaIpcMemHandle), and the bytes at least 1",
			m->form, (unsigned long long)m->bytes, MSG_BUFFER_FD, MSG_BUFFER_IPC);
		return -EINVAL;
	}
	for (uint32_t i = 0; i < c->config->max_buffers; i++)
		of_user += c->buffers[i].state != BUFFER_FREE && c->buffers[i].uid == s->uid;
	if (of_user >= c->config->max_buffers_per_user)
		return limit_reached(text, "max_buffers_per_user", c->config->max_buffers_per_user);
	if (TAILQ_EMPTY(&c->free_buffers))
		return limit_reached(text, "max_buffers", c->config->max_buffers);
	/* Before it is rounded up, which must not overflow. */
	if (m->bytes > max_bytes)
		return limit_reached(text, "max_client_bytes", max_bytes);
	return memory_check(c, s, (m->bytes + UNIT_BYTES - 1) / UNIT_BYTES * UNIT_BYTES, text);
}

/* Takes a record for an allocation that has been checked. */
static struct buffer *buffer_take(
	struct control *c, struct session *s, const struct msg_buffer_alloc *m)
{
	struct buffer *b = TAILQ_FIRST(&c->free_buffers);

	TAILQ_REMOVE(&c->free_buffers, b, in_list);
	b->state = BUFFER_ALLOCATING;
	b->generation = b->generation % UINT16_MAX + 1;
	b->lost = false;
	b->form = m->form;
	b->bytes = m->bytes;
	b->whole_bytes = (m->bytes + UNIT_BYTES - 1) / UNIT_BYTES * UNIT_BYTES;
	b->uid = s->uid;
	b->owner = s;
	memory_take(c, s, b->whole_bytes);
	count(c, b, true);
	return b;
}

void buffer_alloc(struct control *c, struct session *s, const void *msg)
{
	const struct msg_buffer_alloc *m = msg;
	char text[MSG_TEXT_MAX];
	int r = alloc_check(c, s, m, text);

	if (r < 0) {
		session_refuse(c, s, m->h.serial, r, "%s", text);
		return;
	}
	struct buffer *b = buffer_take(c, s, m);
	struct holder *h = holder_new(b, s, HOLDER_JOINING);
	if (h == NULL) {
		buffer_removed(c, b);
		session_refuse(c, s, m->h.serial, -ENOMEM, "gpuqd has no memory for a buffer");
		return;
	}
	h->serial = m->h.serial;
	/* While a device process is being replaced this waits for the new one. */
	(void)tell_buffer(c, b);
}

static void alloc_failed(struct control *c, struct buffer *b, int status, const char *text)
{
	struct holder *h = LIST_FIRST(&b->holders);

	if (!h->closing)
		session_refuse(c, h->session, h->serial, status, "%s", text);
	h->closing = true;
	buffer_removed(c, b);
}

/* The device process has made it, or could not. */
static void allocated(struct control *c, struct buffer *b, const struct devlink_msg *m, int *fd)
{
	struct holder *h = LIST_FIRST(&b->holders);

	if (m->status < 0) {
		alloc_failed(c, b, m->status, m->text);
		return;
	}
	b->fd = *fd;
	*fd = -1;
	memcpy(b->ipc, m->ipc, sizeof(b->ipc));
	memcpy(b->uuid, m->uuid, sizeof(b->uuid));
	memcpy(b->driver, m->driver, sizeof(b->driver));
	b->state = BUFFER_LIVE;
	(void)tell_holder(c, h);
}

void buffer_accept(struct control *c, struct session *s, const void *msg)
{
	const struct msg_buffer_handle *m = msg;
	struct buffer *b = buffer_find(c, m->handle);
	struct holder *h = b != NULL ? holder_find(b, s) : NULL;

	if (h == NULL || h->state == HOLDER_LEAVING) {
		session_refuse(c, s, m->h.serial, -GPUQ_EBUFFER,
			"buffer %#x was not granted to this connection, or is gone; its holder "
			"calls gpuq_buf_grant() while both are connected",
			m->handle);
		return;
	}
	if (h->state != HOLDER_GRANTED) {
		session_refuse(
			c, s, m->h.serial, -EALREADY, "this connection has buffer %#x", m->handle);
		return;
	}
	if (b->lost) {
		session_refuse(c, s, m->h.serial, -GPUQ_ELOST,
			"buffer %#x was lost when its device process ended", m->handle);
		return;
	}
	h->state = HOLDER_JOINING;
	h->serial = m->h.serial;
	(void)tell_holder(c, h);
}

/* --- Grants and exports -------------------------------------------------------------------- */

/* The buffer that the session has and that is not lost, or refuses. */
static struct buffer *held(struct control *c, struct session *s, const struct msg_buffer_handle *m)
{
	struct buffer *b = buffer_find(c, m->handle);
	const struct holder *h = b != NULL ? holder_find(b, s) : NULL;

	if (h == NULL || h->state != HOLDER_HAS) {
		session_refuse(c, s, m->h.serial, -GPUQ_EBUFFER,
			"this connection has no buffer %#x", m->handle);
		return NULL;
	}
	if (b->lost) {
		session_refuse(c, s, m->h.serial, -GPUQ_ELOST,
			"buffer %#x was lost when its device process ended; free it and allocate "
			"another",
			m->handle);
		return NULL;
	}
	return b;
}

/* Grants to all connections of a process. How many it has, or a negative error. */
static int grant_all(struct control *c, struct buffer *b, uint32_t pid)
{
	int n = 0;

	for (uint32_t i = 0; i < c->n_sessions; i++) {
		struct session *s = &c->sessions[i];

		if (s->state != SESSION_LIVE || (uint32_t)s->pid != pid || s->abi < 3)
			continue;
		n++;
		if (holder_find(b, s) != NULL)
			continue;
		if (b->n_holders > MAX_GRANTEES)
			return -GPUQ_ELIMIT;
		if (holder_new(b, s, HOLDER_GRANTED) == NULL)
			return -ENOMEM;
	}
	return n;
}

void buffer_grant(struct control *c, struct session *s, const void *msg)
{
	const struct msg_buffer_handle *m = msg;
	struct buffer *b = held(c, s, m);

	if (b == NULL)
		return;
	int n = m->pid != 0 ? grant_all(c, b, m->pid) : 0;
	if (n == 0) {
		session_refuse(c, s, m->h.serial, -ESRCH,
			"no process %u is connected to this gpuqd; it must call gpuq_connect() "
			"first (ids are those that gpuqd sees: gpuq-top shows them)",
			m->pid);
	} else if (n < 0) {
		session_refuse(c, s, m->h.serial, n,
			"buffer %#x cannot be granted to more than %u connections", m->handle,
			MAX_GRANTEES);
	} else {
		struct holder h = {.buffer = b, .session = s, .serial = m->h.serial};
		answer(c, &h);
	}
}

static uint64_t pid_namespace(void)
{
	struct stat st;

	return stat("/proc/self/ns/pid", &st) == 0 ? (uint64_t)st.st_ino : 0;
}

void buffer_export(struct control *c, struct session *s, const void *msg)
{
	const struct msg_buffer_handle *m = msg;
	const struct buffer *b = held(c, s, m);

	if (b == NULL)
		return;
	uint32_t n_fds = b->form == MSG_BUFFER_FD;
	if (n_fds > 0 && b->fd < 0) {
		session_refuse(c, s, m->h.serial, -EMFILE,
			"gpuqd had no file descriptor left for the buffer; raise its limit "
			"(LimitNOFILE)");
		return;
	}
	if (n_fds > 0 && !session_may_have_fds(c, s, m->h.serial))
		return;
	struct msg_buffer a = {
		.handle = handle_of(b),
		.device = c->device.index,
		.form = b->form,
		.bytes = b->bytes,
		.whole_bytes = b->whole_bytes,
		.pid_namespace = pid_namespace(),
	};
	memcpy(a.ipc, b->ipc, sizeof(a.ipc));
	memcpy(a.uuid, b->uuid, sizeof(a.uuid));
	memcpy(a.driver, b->driver, sizeof(a.driver));
	if (n_fds > 0) {
		s->fds = FDS_SENT;
		s->fds_messages++;
	}
	session_send(c, s, &a, MSG_BUFFER, sizeof(a), m->h.serial, &b->fd, n_fds);
}

/* --- What the device process says, and its end --------------------------------------------- */

void buffer_message(struct control *c, const struct devlink_msg *m, int *fd)
{
	struct buffer *b = buffer_find(c, m->handle);
	struct holder *h = NULL;

	/* A holder keeps its session's record: the index alone tells who is meant. */
	if (b != NULL && m->client < c->n_sessions)
		h = holder_find(b, &c->sessions[m->client]);
	if (b == NULL)
		return;
	if (m->type == DEVLINK_BUFFER && b->state == BUFFER_ALLOCATING)
		allocated(c, b, m, fd);
	else if (m->type == DEVLINK_BUFFER_REMOVED && b->state == BUFFER_REMOVING)
		buffer_punch(c, b);
	else if (m->type == DEVLINK_BUFFER_GRANT && h != NULL && h->state == HOLDER_JOINING)
		holder_joined(c, h);
	else if (m->type == DEVLINK_BUFFER_REVOKE && h != NULL && h->state == HOLDER_LEAVING)
		holder_left(c, h);
}

void buffer_device_down(struct control *c)
{
	for (uint32_t i = 0; i < c->config->max_buffers; i++) {
		struct buffer *b = &c->buffers[i];

		b->lost = b->lost || b->state == BUFFER_LIVE;
		if (b->state == BUFFER_REMOVING)
			buffer_punch(c, b);
	}
}

void buffer_hand_over(struct control *c)
{
	struct holder *h;

	for (uint32_t i = 0; i < c->config->max_buffers; i++) {
		struct buffer *b = &c->buffers[i];

		if (b->state != BUFFER_ALLOCATING && b->state != BUFFER_LIVE)
			continue;
		(void)tell_buffer(c, b);
		LIST_FOREACH (h, &b->holders, of_buffer) {
			if (b->lost && h->state != HOLDER_GRANTED)
				(void)tell_holder(c, h);
		}
	}
}
