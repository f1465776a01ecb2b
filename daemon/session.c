/* SPDX-License-Identifier: MIT */
/* Connections: who may come in, how messages leave, and how a session ends. */
#define LOG_TOPIC LOG_CLIENT
#include "daemon/control.h"
#include "daemon/log.h"
#include "shm/atomics.h"
#include "shm/failpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

#define ADMIN_SESSIONS 4  /* so that an administrator gets in when clients fill everything */
#define REFUSE_AT_ONCE 16 /* connections refused for want of descriptors in one round */

int session_table_create(struct control *c)
{
	c->n_sessions = (uint32_t)c->config->max_clients + ADMIN_SESSIONS;
	c->sessions = calloc(c->n_sessions, sizeof(*c->sessions));
	if (c->sessions == NULL)
		return -ENOMEM;
	TAILQ_INIT(&c->handshakes);
	TAILQ_INIT(&c->free_sessions[0]);
	TAILQ_INIT(&c->free_sessions[1]);
	for (uint32_t i = 0; i < c->n_sessions; i++) {
		struct session *s = &c->sessions[i];

		s->index = i;
		s->admin = i >= c->config->max_clients;
		TAILQ_INSERT_TAIL(&c->free_sessions[s->admin], s, in_list);
	}
	return 0;
}

/* --- Sending ------------------------------------------------------------------------------- */

static void header_fill(void *msg, uint16_t type, uint16_t bytes, uint32_t serial)
{
	struct msg_header *h = msg;

	*h = (struct msg_header){
		.magic = MSG_MAGIC, .type = type, .bytes = bytes, .serial = serial};
}

int packet_send(int fd, const void *msg, size_t bytes, const int *fds, uint32_t n_fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(3 * sizeof(int))];
	} u = {0};
	struct iovec iov = {.iov_base = (void *)msg, .iov_len = bytes};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};

	if (n_fds > 0) {
		mh.msg_control = u.bytes;
		mh.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		struct cmsghdr *cm = CMSG_FIRSTHDR(&mh);
		cm->cmsg_level = SOL_SOCKET;
		cm->cmsg_type = SCM_RIGHTS;
		cm->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		memcpy(CMSG_DATA(cm), fds, n_fds * sizeof(int));
	}
	return sendmsg(fd, &mh, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

bool session_send(struct control *c, struct session *s, void *msg, uint16_t type, uint16_t bytes,
	uint32_t serial, const int *fds, uint32_t n_fds)
{
	if (s->state == SESSION_CLOSING)
		return false;
	header_fill(msg, type, bytes, serial);
	FAILPOINT_OF("control.answering", type);
	int r = packet_send(s->fd, msg, bytes, fds, n_fds);
	FAILPOINT_OF("control.answered", type);
	if (r == 0)
		return true;
	/* It has hung up, and may have said goodbye before: reading on will tell. */
	if (r == -EPIPE || r == -ECONNRESET)
		return false;
	if (r == -EAGAIN)
		log_limited(LOG_LEVEL_WARN,
			"client %u (%s, pid %ld) does not read its answers: closed", s->index,
			s->name, (long)s->pid);
	else
		log_limited(LOG_LEVEL_WARN, "client %u (%s, pid %ld): cannot answer: %s", s->index,
			s->name, (long)s->pid, strerror(-r));
	session_close(c, s);
	return false;
}

void session_refuse(
	struct control *c, struct session *s, uint32_t serial, int status, const char *format, ...)
{
	struct msg_error m = {.status = status};
	va_list args;

	va_start(args, format);
	vsnprintf(m.text, sizeof(m.text), format, args);
	va_end(args);
	log_limited(LOG_LEVEL_DEBUG, "client %u (%s, pid %ld) refused: %s", s->index, s->name,
		(long)s->pid, m.text);
	control_count_error(c, status, "message", m.text);
	session_send(c, s, &m, MSG_ERROR, sizeof(m), serial, NULL, 0);
}

void session_goodbye(struct control *c, struct session *s, int status, const char *text)
{
	struct msg_goodbye m = {.status = status};

	snprintf(m.text, sizeof(m.text), "%s", text);
	session_send(c, s, &m, MSG_GOODBYE, sizeof(m), 0, NULL, 0);
	session_close(c, s);
}

/*
 * Answers a connection that does not become a session. What the peer has sent already is read
 * first, since a close with unread packets would overtake the answer.
 */
static void connection_refuse(struct control *c, int fd, int status, const char *text)
{
	struct msg_error m = {.status = status};
	char scratch[64];

	snprintf(m.text, sizeof(m.text), "%s", text);
	header_fill(&m, MSG_ERROR, sizeof(m), 0);
	(void)packet_send(fd, &m, sizeof(m), NULL, 0);
	shutdown(fd, SHUT_RDWR);
	for (int i = 0; i < 64 && recv(fd, scratch, sizeof(scratch), MSG_DONTWAIT) > 0; i++)
		;
	close(fd);
	shm_count(&c->stats.header->refused, 1);
	control_count_error(c, status, "connection", text);
	log_limited(LOG_LEVEL_WARN, "connection refused: %s", text);
}

/* --- Coming in ----------------------------------------------------------------------------- */

static void session_receive(struct control *c, struct session *s)
{
	struct io_uring_sqe *sqe = control_sqe(c);

	/* Without room for control data what a client sends of descriptors the kernel drops. */
	s->in_iov = (struct iovec){s->packet, sizeof(s->packet)};
	s->in_header = (struct msghdr){.msg_iov = &s->in_iov, .msg_iovlen = 1};
	if (s->admin) {
		s->in_header.msg_control = s->in_control;
		/* For one: the padding would have room for a second. */
		s->in_header.msg_controllen = CMSG_LEN(sizeof(int));
	}
	io_uring_prep_recvmsg(sqe, s->fd, &s->in_header, MSG_TRUNC | MSG_CMSG_CLOEXEC);
	control_tag(sqe, OP_RECV, s->index);
	s->receiving = true;
}

static void session_watch(struct control *c, struct session *s)
{
	struct io_uring_sqe *sqe = control_sqe(c);

	io_uring_prep_poll_add(sqe, s->pidfd, POLLIN);
	control_tag(sqe, OP_PIDFD, s->index);
	s->watching = true;
}

/* Deadlines are equally long, so the oldest handshake's is always the next one. */
static void handshake_timer(struct control *c)
{
	struct session *s = TAILQ_FIRST(&c->handshakes);

	if (s == NULL || c->handshake_timer)
		return;
	c->handshake_at.tv_sec = (long long)(s->deadline_ns / 1000000000u);
	c->handshake_at.tv_nsec = (long long)(s->deadline_ns % 1000000000u);
	struct io_uring_sqe *sqe = control_sqe(c);
	io_uring_prep_timeout(sqe, &c->handshake_at, 0, IORING_TIMEOUT_ABS);
	control_tag(sqe, OP_HANDSHAKE, 0);
	c->handshake_timer = true;
}

void session_deadline(struct control *c)
{
	uint64_t now_ns = clock_monotonic_ns();
	struct session *s;

	c->handshake_timer = false;
	while ((s = TAILQ_FIRST(&c->handshakes)) != NULL && s->deadline_ns <= now_ns) {
		shm_count(&c->stats.header->refused, 1);
		session_refuse(c, s, 0, -ETIMEDOUT,
			"no MSG_HELLO came within handshake_timeout_ms (%llu)",
			(unsigned long long)c->config->handshake_timeout_ms);
		session_close(c, s);
	}
	handshake_timer(c);
}

/*
 * A descriptor of the process behind a connection, against reuse of its id. -ENODATA: it cannot
 * be had (another PID namespace), -ESRCH: the process has ended already, -EMFILE, ...
 */
static int peer_pidfd(int fd, pid_t pid)
{
	struct pollfd p = {.fd = fd, .events = POLLRDHUP};
	socklen_t n = sizeof(int);
	int pidfd;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &n) == 0)
		return pidfd;
	if (errno != ENOPROTOOPT)
		return errno == EINVAL ? -ESRCH : -errno;
	if (pid <= 0)
		return -ENODATA;
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0)
		return -errno;
	/* Still connected, so the process was alive when we took its id's descriptor. */
	if (poll(&p, 1, 0) != 0) {
		close(pidfd);
		return -ESRCH;
	}
	return pidfd;
}

static uint32_t user_sessions(const struct control *c, uid_t uid)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < c->config->max_clients; i++) {
		if (c->sessions[i].state != SESSION_FREE && c->sessions[i].uid == uid)
			n++;
	}
	return n;
}

/* Groups of a peer beside its first one that are looked at. */
#define PEER_GROUPS 64

/* What the configuration says of the user behind a connection; NULL: nothing. */
static const struct config_user *peer_user(const struct control *c, int fd, const struct ucred *who)
{
	gid_t gids[1 + PEER_GROUPS] = {who->gid};
	socklen_t n = PEER_GROUPS * sizeof(gid_t);

	/* Of more than these, and on a kernel that does not tell, the first one counts alone. */
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, gids + 1, &n) < 0)
		n = 0;
	return config_user_find(c->config, who->uid, gids, 1 + (uint32_t)(n / sizeof(gid_t)));
}

/* Whether a user may connect at all. */
static int access_check(const struct control *c, bool admin, uid_t uid,
	const struct config_user *user, char *text, size_t size)
{
	const bool trusted = uid == 0 || uid == geteuid();

	if (admin && !trusted && (user == NULL || !user->admin)) {
		snprintf(text, size,
			"only root, gpuqd's own user and those with admin = yes in gpuqd.conf may "
			"administer it");
		return -EACCES;
	}
	if (!admin && !trusted && user == NULL && strcmp(c->config->access, "listed") == 0) {
		snprintf(text, size,
			"user id %u may not use this gpuqd: it has no section in gpuqd.conf, nor "
			"has "
			"a group of it",
			(unsigned int)uid);
		return -EACCES;
	}
	return 0;
}

/* Whether there is room for one more session. Writes the reason when not. */
static int admission(const struct control *c, bool admin, uid_t uid, char *text, size_t size)
{
	if (TAILQ_EMPTY(&c->free_sessions[admin])) {
		snprintf(text, size,
			"the limit max_clients (%llu) is reached; raise it, or close "
			"other clients",
			(unsigned long long)c->config->max_clients);
		return -GPUQ_ELIMIT;
	}
	if (!admin && user_sessions(c, uid) >= c->config->max_clients_per_user) {
		snprintf(text, size,
			"the limit max_clients_per_user (%llu) is reached; raise it, or close "
			"other clients",
			(unsigned long long)c->config->max_clients_per_user);
		return -GPUQ_ELIMIT;
	}
	return 0;
}

static void session_begin(
	struct control *c, bool admin, int fd, int pidfd, const struct ucred *who, uint32_t weight)
{
	struct session *s = TAILQ_FIRST(&c->free_sessions[admin]);

	TAILQ_REMOVE(&c->free_sessions[admin], s, in_list);
	s->state = SESSION_HANDSHAKE;
	s->generation++;
	s->fd = fd;
	s->pidfd = pidfd;
	s->pid = who->pid;
	s->uid = who->uid;
	s->weight = weight;
	s->reset = false;
	s->fds = FDS_NONE;
	s->fds_messages = 0;
	s->bytes = 0;
	s->n_channels = 0;
	s->n_holders = 0;
	s->n_registrations = 0;
	snprintf(s->name, sizeof(s->name), "new");
	LIST_INIT(&s->channels);
	LIST_INIT(&s->holders);
	LIST_INIT(&s->registrations);
	s->deadline_ns = clock_monotonic_ns() + c->config->handshake_timeout_ms * 1000000u;
	TAILQ_INSERT_TAIL(&c->handshakes, s, in_list);
	session_receive(c, s);
	if (pidfd >= 0)
		session_watch(c, s);
	handshake_timer(c);
}

/* False when there is no descriptor left to watch its process with. */
static bool connection_admit(struct control *c, bool admin, int fd)
{
	struct ucred who = {0};
	socklen_t n = sizeof(who);
	char text[MSG_TEXT_MAX];

	shm_count(&c->stats.header->accepted, 1);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n) < 0) {
		close(fd);
		return true;
	}
	const struct config_user *user = peer_user(c, fd, &who);
	int r = access_check(c, admin, who.uid, user, text, sizeof(text));
	if (r == 0)
		r = admission(c, admin, who.uid, text, sizeof(text));
	if (r < 0) {
		connection_refuse(c, fd, r, text);
		return true;
	}
	int pidfd = peer_pidfd(fd, who.pid);
	if (pidfd == -EMFILE || pidfd == -ENFILE) {
		shm_count(&c->stats.header->accept_exhausted, 1);
		connection_refuse(c, fd, -GPUQ_ELIMIT, "gpuqd has no file descriptor left");
		return false;
	}
	if (pidfd == -ESRCH) {
		close(fd);
		return true;
	}
	session_begin(c, admin, fd, pidfd < 0 ? -1 : pidfd, &who, user != NULL ? user->weight : 1);
	return true;
}

static int listener_fd(const struct control *c, bool admin)
{
	return admin ? c->listener.admin_fd : c->listener.fd;
}

void session_listen(struct control *c, bool admin)
{
	if (c->accepting[admin] || c->finished)
		return;
	struct io_uring_sqe *sqe = control_sqe(c);
	io_uring_prep_multishot_accept(sqe, listener_fd(c, admin), NULL, NULL, SOCK_CLOEXEC);
	control_tag(sqe, OP_ACCEPT, admin);
	c->accepting[admin] = true;
}

/* With no descriptor left accept() fails at once, again and again: only watch the socket. */
static void session_listen_exhausted(struct control *c, bool admin)
{
	struct io_uring_sqe *sqe = control_sqe(c);

	io_uring_prep_poll_add(sqe, listener_fd(c, admin), POLLIN);
	control_tag(sqe, OP_ACCEPT_READY, admin);
}

static bool exhaustion(int error)
{
	return error == -EMFILE || error == -ENFILE || error == -ENOMEM || error == -ENOBUFS;
}

void session_accepted(struct control *c, bool admin, int result, bool more)
{
	if (!more)
		c->accepting[admin] = false;
	if (result >= 0)
		(void)connection_admit(c, admin, result);
	if (more || c->finished)
		return;
	if (!exhaustion(result)) {
		if (result < 0)
			log_limited(LOG_LEVEL_WARN, "accept: %s", strerror(-result));
		session_listen(c, admin);
		return;
	}
	shm_count(&c->stats.header->accept_exhausted, 1);
	log_limited(LOG_LEVEL_ERROR,
		"accept: %s; connections are refused until others close (raise LimitNOFILE, or "
		"lower max_clients and max_channels)",
		strerror(-result));
	session_listen_exhausted(c, admin);
}

/* Spends the reserved descriptor on telling a connection that there is none for it. */
static int exhausted_refuse(struct control *c, int listen_fd)
{
	close(c->reserve_fd);
	int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
	int r = fd < 0 ? -errno : 0;
	if (fd >= 0)
		connection_refuse(c, fd, -GPUQ_ELIMIT,
			"gpuqd has no file descriptor left; raise its limit (LimitNOFILE)");
	c->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	return r;
}

void session_accept_ready(struct control *c, bool admin)
{
	int listen_fd = listener_fd(c, admin);
	bool room = false;
	int r = 0;

	if (c->finished)
		return;
	for (int i = 0; i < REFUSE_AT_ONCE && !room && r == 0; i++) {
		int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0)
			room = connection_admit(c, admin, fd);
		else
			r = exhaustion(-errno) ? exhausted_refuse(c, listen_fd) : -errno;
	}
	if (room)
		session_listen(c, admin);
	else if (exhaustion(r))
		c->accept_later[admin] = true; /* not even one: see control_tick() */
	else
		session_listen_exhausted(c, admin);
}

/* --- Going out ----------------------------------------------------------------------------- */

/* A client that ends with channels that it has not closed was not expected to end. */
static void count_death(struct control *c, const struct session *s, const char *how)
{
	const struct channel *ch;

	LIST_FOREACH (ch, &s->channels, of_session) {
		if (ch->closing)
			continue;
		shm_count(&c->stats.header->deaths, 1);
		log_limited(LOG_LEVEL_INFO, "client %u (%s, pid %ld) %s with channels open",
			s->index, s->name, (long)s->pid, how);
		return;
	}
}

/* The descriptor that came with a packet, or -1. */
static int take_fd(const struct session *s)
{
	const struct cmsghdr *cm = CMSG_FIRSTHDR(&s->in_header);
	int fd = -1;

	if (cm != NULL && cm->cmsg_level == SOL_SOCKET && cm->cmsg_type == SCM_RIGHTS &&
		cm->cmsg_len == CMSG_LEN(sizeof(fd)))
		memcpy(&fd, CMSG_DATA(cm), sizeof(fd));
	return fd;
}

static void take_packet(struct control *c, struct session *s, uint32_t bytes)
{
	s->in_fd = take_fd(s);
	if (s->state != SESSION_CLOSING)
		session_message(c, s, bytes);
	if (s->in_fd >= 0)
		close(s->in_fd);
	s->in_fd = -1;
}

void session_received(struct control *c, struct session *s, int result)
{
	if (result > 0)
		take_packet(c, s, (uint32_t)result);
	/*
	 * A closing session reads on to the end: closing with packets unread would overtake our
	 * last answer. And a peer that did that to us has still said what it said before.
	 */
	if (result > 0 || (result == -ECONNRESET && !s->reset)) {
		s->reset = s->reset || result < 0;
		session_receive(c, s);
		return;
	}
	s->receiving = false;
	if (s->state != SESSION_CLOSING)
		count_death(c, s, s->pidfd >= 0 && !s->watching ? "ended" : "hung up");
	session_close(c, s);
	session_release(c, s);
}

void session_process_ended(struct control *c, struct session *s, int result)
{
	s->watching = false;
	if (s->state == SESSION_CLOSING) {
		session_release(c, s);
		return;
	}
	if (result < 0)
		return;
	/*
	 * Its descendants may hold the connection; the client is gone nevertheless. It may have
	 * said goodbye: what is in the queue is read to its end, and nothing can be added.
	 */
	shutdown(s->fd, SHUT_RD);
}

void session_show(struct control *c, const struct session *s)
{
	struct stats_client *record = &c->stats.clients[s->index];

	shm_store_release_u32(&record->state, 0);
	memset(record, 0, sizeof(*record));
	record->pid = (uint32_t)s->pid;
	record->uid = s->uid;
	record->generation = s->generation;
	memcpy(record->name, s->name, sizeof(record->name));
	record->connected_ns = s->connected_ns;
	record->channels = s->n_channels;
	record->segment_bytes = s->bytes;
	shm_store_release_u32(&record->state, STATS_CLIENT_CONNECTED);
	control_record(c, RECORDER_CLIENT, s);
}

static void stats_client_ended(struct control *c, const struct session *s)
{
	struct stats_client *record = &c->stats.clients[s->index];

	control_record(c, RECORDER_CLIENT_END, s);
	shm_store_relaxed(&record->ended_ns, clock_now_ns(&c->clock));
	shm_store_release_u32(&record->state, STATS_CLIENT_DEAD);
	shm_count(&c->stats.header->clients, (uint64_t)-1);
}

void session_close(struct control *c, struct session *s)
{
	struct channel *ch, *next;

	if (s->state == SESSION_CLOSING || s->state == SESSION_FREE)
		return;
	if (s->state == SESSION_HANDSHAKE)
		TAILQ_REMOVE(&c->handshakes, s, in_list);
	else
		stats_client_ended(c, s);
	s->state = SESSION_CLOSING;
	shutdown(s->fd, SHUT_RDWR);
	if (s->watching)
		control_cancel(c, OP_PIDFD, s->index);
	for (ch = LIST_FIRST(&s->channels); ch != NULL; ch = next) {
		next = LIST_NEXT(ch, of_session);
		channel_close(c, ch);
	}
	buffer_session_close(c, s);
}

/* Nothing of a client is left. */
static void stats_client_reclaimed(struct control *c, const struct session *s)
{
	struct stats_client *record = &c->stats.clients[s->index];

	/* A connection that never became a client has no record of its own. */
	if (shm_load_relaxed_u32(&record->generation) == s->generation)
		shm_store_release(&record->reclaimed_ns, clock_now_ns(&c->clock));
}

void session_release(struct control *c, struct session *s)
{
	if (s->state != SESSION_CLOSING || s->receiving || s->watching || s->n_channels > 0 ||
		s->n_holders > 0)
		return;
	/* What its channels had in flight may have used them. */
	if (!registration_close_all(c, s))
		return;
	close(s->fd);
	if (s->pidfd >= 0)
		close(s->pidfd);
	stats_client_reclaimed(c, s);
	s->state = SESSION_FREE;
	TAILQ_INSERT_TAIL(&c->free_sessions[s->admin], s, in_list);
}
