/* SPDX-License-Identifier: MIT */
/*
 * session.c: requests and answers on the socket to gpuqd. They are rare, so one at a time, under
 * a lock, with a timeout. An answer that comes after its request has timed out is recognised by
 * its serial number and cleaned up after.
 */
#include "client/client.h"
#include "shm/failpoint.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

void session_message_close(struct session_message *message)
{
	for (uint32_t i = 0; i < message->n_fds; i++)
		close(message->fds[i]);
	message->n_fds = 0;
}

/* Keeps the descriptors that came along; those beyond what any message has are closed. */
static bool take_fds(struct msghdr *packet, struct session_message *message)
{
	bool fine = true;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(packet); c != NULL; c = CMSG_NXTHDR(packet, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (message->n_fds < SESSION_FDS_MAX) {
				message->fds[message->n_fds++] = fd;
			} else {
				close(fd);
				fine = false;
			}
		}
	}
	return fine;
}

/* One packet, without waiting. -EAGAIN: none. -EPIPE: the end. -GPUQ_EPROTO: not a message. */
static int receive(int fd, struct session_message *message)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * (SESSION_FDS_MAX + 1))];
	} control;
	struct iovec iov = {message->words, sizeof(message->words)};
	struct msghdr packet = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control)};
	ssize_t n;

	memset(message, 0, sizeof(*message));
	do
		n = recvmsg(fd, &packet, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n < 0 && errno == EAGAIN ? -EAGAIN : -EPIPE;
	bool fine = take_fds(&packet, message);
	if (fine && (packet.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) == 0 &&
		n >= (ssize_t)sizeof(message->h) && message->h.magic == MSG_MAGIC &&
		message->h.bytes == n)
		return 0;
	session_message_close(message);
	return -GPUQ_EPROTO;
}

/* Waits until the socket has something to read. */
static int wait_readable(const struct gpuq *g, uint64_t deadline_ns, uint64_t timeout_ns)
{
	for (;;) {
		uint64_t now_ns = clock_monotonic_ns();
		uint64_t left_ns = now_ns < deadline_ns ? deadline_ns - now_ns : 0;
		struct timespec left = {
			.tv_sec = (time_t)(left_ns / NS_PER_S),
			.tv_nsec = (long)(left_ns % NS_PER_S),
		};
		struct pollfd p = {.fd = g->fd, .events = POLLIN};
		int r = ppoll(&p, 1, &left, NULL);
		if (r > 0)
			return 0;
		if (r < 0 && errno != EINTR)
			return fail(-errno, "poll: %s", strerror(errno));
		if (r == 0)
			return fail(-ETIMEDOUT,
				"gpuqd at %s did not answer within %llu ms; is it stopped?",
				g->path, (unsigned long long)(timeout_ns / NS_PER_MS));
	}
}

/* One packet, with a descriptor unless that is -1. */
static int transmit_with(const struct gpuq *g, const struct msg_header *h, int fd)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {(void *)h, h->bytes};
	struct msghdr packet = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	if (fd >= 0) {
		packet.msg_control = &control;
		packet.msg_controllen = sizeof(control);
		struct cmsghdr *c = CMSG_FIRSTHDR(&packet);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(fd));
		memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	}
	do
		n = sendmsg(g->fd, &packet, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n >= 0)
		return 0;
	/* Full of requests that nobody has read. */
	return errno == EAGAIN ? -ETIMEDOUT : -errno;
}

static int transmit(const struct gpuq *g, const struct msg_header *h)
{
	return transmit_with(g, h, -1);
}

static void transmit_bare(const struct gpuq *g, uint16_t type, uint32_t serial)
{
	const struct msg_header h = {
		.magic = MSG_MAGIC,
		.type = type,
		.bytes = sizeof(h),
		.serial = serial,
	};

	/* When this fails the connection has ended, and the next request says so. */
	(void)transmit(g, &h);
}

static void acknowledge(const struct gpuq *g, uint32_t serial)
{
	transmit_bare(g, MSG_ACK, serial);
}

void session_leave(const struct gpuq *g)
{
	transmit_bare(g, MSG_GOODBYE, 0);
}

/* Ends the connection on our side, for `error` and with a sentence; the first reason stays. */
static void note_gone(struct gpuq *g, int error, const char *text)
{
	if (shm_load_relaxed(&g->gone) != 0)
		return;
	snprintf(g->gone_text, sizeof(g->gone_text), "%s", text);
	shm_store_release(&g->gone, (uint64_t)error);
}

static void note_goodbye(struct gpuq *g, const struct session_message *m)
{
	char text[MSG_TEXT_MAX + 1] = "";

	memcpy(text, m->goodbye.text, sizeof(m->goodbye.text));
	note_gone(g, m->goodbye.status == -GPUQ_EPOISONED ? GPUQ_EPOISONED : GPUQ_EGONE, text);
}

static int gone_sentence(const struct gpuq *g)
{
	uint64_t gone = shm_load_acquire(&g->gone);

	return fail(-(int)gone, "gpuqd at %s closed the connection: %s", g->path, g->gone_text);
}

/* Reads what is left on a socket that has ended. The lock is held. */
static void read_last_words(struct gpuq *g)
{
	struct session_message m;

	for (;;) {
		int r = receive(g->fd, &m);
		if (r == -GPUQ_EPROTO)
			continue;
		if (r < 0)
			break;
		if (m.h.type == MSG_GOODBYE)
			note_goodbye(g, &m);
		session_message_close(&m);
	}
	note_gone(g, GPUQ_EGONE, "it ended without a word; start it again, then connect again");
}

int session_gone(struct gpuq *g, uint64_t epoch)
{
	int r;

	pthread_mutex_lock(&g->lock);
	if (g->epoch != epoch) {
		/* The socket is another gpuqd's by now. */
		r = fail_plain(-GPUQ_EGONE, gpuq_strerror(GPUQ_EGONE));
	} else {
		if (shm_load_relaxed(&g->gone) == 0)
			read_last_words(g);
		r = gone_sentence(g);
	}
	pthread_mutex_unlock(&g->lock);
	return r;
}

int session_check(const struct gpuq *g)
{
	if (guard_forked(g->guard))
		return fail_plain(-GPUQ_EFORK,
			"the connection belongs to the parent process; call gpuq_connect() in "
			"the child");
	if (shm_load_acquire(&g->gone) != 0)
		return gone_sentence(g);
	return 0;
}

/* Sends a request whose answer nobody waits for. */
static void transmit_unheard(struct gpuq *g, struct msg_header *h, uint16_t type, uint16_t bytes)
{
	*h = (struct msg_header){
		.magic = MSG_MAGIC, .type = type, .bytes = bytes, .serial = ++g->serial};
	(void)transmit(g, h);
}

/*
 * An answer that nobody waits for any more. What was made after all is taken back: of the answers
 * about buffers, those about one that is not known here.
 */
static void drop_late(struct gpuq *g, struct session_message *m)
{
	if (m->n_fds > 0)
		acknowledge(g, m->h.serial);
	session_message_close(m);
	if (m->h.type == MSG_OPENED) {
		struct msg_close close_it = {
			.channel = m->opened.channel, .generation = m->opened.generation};
		transmit_unheard(g, &close_it.h, MSG_CLOSE, sizeof(close_it));
	} else if (m->h.type == MSG_PIPELINE_OK && m->pipeline.handle != 0) {
		struct msg_pipeline_handle close_it = {.handle = m->pipeline.handle};
		transmit_unheard(g, &close_it.h, MSG_PIPELINE_CLOSE, sizeof(close_it));
	} else if (m->h.type == MSG_BUFFER && m->buffer.handle != 0 &&
		!buf_known(g, m->buffer.handle)) {
		struct msg_buffer_handle free_it = {.handle = m->buffer.handle};
		transmit_unheard(g, &free_it.h, MSG_BUFFER_FREE, sizeof(free_it));
	}
}

/* MSG_ERROR as a return value, with gpuqd's own sentence. */
static int refused(const struct session_message *m)
{
	int status = m->error.status < 0 ? m->error.status : -GPUQ_EPROTO;

	return fail(status, "%.*s", (int)sizeof(m->error.text), m->error.text);
}

static int check_answer(
	struct gpuq *g, struct session_message *m, const struct session_answer *want)
{
	if (m->h.type == MSG_ERROR && m->h.bytes >= sizeof(m->error) && m->n_fds == 0)
		return refused(m);
	if (m->n_fds > 0)
		acknowledge(g, m->h.serial);
	if (m->h.type == want->type && m->h.bytes >= want->bytes && m->n_fds == want->n_fds)
		return 0;
	int r = fail(-GPUQ_EPROTO,
		"gpuqd at %s answered with message %u of %u bytes and %u descriptors where %u, "
		"%u and %u were due; are gpuqd and this library of one version?",
		g->path, m->h.type, m->h.bytes, m->n_fds, want->type, want->bytes, want->n_fds);
	session_message_close(m);
	return r;
}

/* Receives until the answer to `serial` is there. */
static int await(struct gpuq *g, uint32_t serial, uint64_t timeout_ns, struct session_message *m)
{
	uint64_t deadline_ns = clock_monotonic_ns() + timeout_ns;

	for (;;) {
		int r = wait_readable(g, deadline_ns, timeout_ns);
		if (r < 0)
			return r;
		r = receive(g->fd, m);
		if (r == -EAGAIN)
			continue;
		if (r == -GPUQ_EPROTO)
			return fail(r, "gpuqd at %s sent a malformed message", g->path);
		if (r < 0) {
			read_last_words(g);
			return gone_sentence(g);
		}
		if (m->h.type == MSG_GOODBYE) {
			note_goodbye(g, m);
			session_message_close(m);
			return gone_sentence(g);
		}
		/* A gpuqd that has no room for us says so before it has heard anything. */
		if (m->h.serial == serial || (m->h.type == MSG_ERROR && m->h.serial == 0))
			return 0;
		drop_late(g, m);
	}
}

static int request_with(struct gpuq *g, struct msg_header *request, int fd, uint64_t timeout_ns,
	struct session_answer want, struct session_message *ret_answer)
{
	int r = session_check(g);

	if (r < 0)
		return r;
	pthread_mutex_lock(&g->lock);
	request->magic = MSG_MAGIC;
	request->serial = ++g->serial;
	r = transmit_with(g, request, fd);
	FAILPOINT_OF("client.sent", request->type);
	if (r < 0 && r != -EPIPE && r != -ECONNRESET) {
		r = fail(r, "sending to gpuqd at %s: %s", g->path, strerror(-r));
	} else {
		/* After EPIPE gpuqd's last words may still be there to read. */
		r = await(g, request->serial, timeout_ns, ret_answer);
		FAILPOINT_OF("client.answered", request->type);
		if (r == 0)
			r = check_answer(g, ret_answer, &want);
		FAILPOINT_OF("client.acknowledged", request->type);
	}
	pthread_mutex_unlock(&g->lock);
	return r;
}

int session_request(struct gpuq *g, struct msg_header *request, struct session_answer want,
	struct session_message *ret_answer)
{
	return request_with(g, request, -1, g->timeout_ns, want, ret_answer);
}

static const struct session_answer want_ok = {MSG_ADMIN_OK, sizeof(struct msg_header), 0};

int session_administrate(struct gpuq *g, struct msg_header *request, int fd, const char *what)
{
	struct session_message answer;
	int r = session_check(g);

	if (r == 0)
		r = session_need_abi3(g, what);
	return r < 0 ? r : request_with(g, request, fd, g->timeout_ns, want_ok, &answer);
}

int session_administrate_long(
	struct gpuq *g, struct msg_header *request, uint64_t timeout_ns, const char *what)
{
	struct session_message answer;
	int r = session_check(g);

	if (r == 0)
		r = session_need_abi(g, 4, what);
	return r < 0 ? r : request_with(g, request, -1, timeout_ns, want_ok, &answer);
}

int session_need_abi(const struct gpuq *g, uint32_t version, const char *what)
{
	if (g->welcome.abi >= version)
		return 0;
	return fail(-GPUQ_EABI,
		"gpuqd at %s speaks version %u of the wire, and %s need version %u; install a "
		"newer "
		"gpuqd",
		g->path, g->welcome.abi, what, version);
}

int session_check_memory(int fd, uint64_t bytes, const char *what)
{
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0 || (seals & F_SEAL_SHRINK) == 0)
		return fail(-GPUQ_EPROTO, "gpuqd sent %s that could shrink", what);
	if (fstat(fd, &st) < 0 || st.st_size < 0 || (uint64_t)st.st_size != bytes)
		return fail(-GPUQ_EPROTO, "gpuqd sent %s of a wrong size", what);
	return 0;
}
