/* SPDX-License-Identifier: MIT */
/* attack_socket.c: attacks with a connection: what is said, what is sent with it, when it ends. */
#include "tests/hostile/attack.h"

#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MESSAGES 12u
#define EXPORTS 24u
#define EXPORTS_UNREAD 8u /* at most, of these */
#define FDS_MAX 253u	  /* more the kernel does not take */

/* --- Messages ------------------------------------------------------------------------------ */

/* Sizes of messages, by type; for what has none the header's. */
static const uint16_t message_bytes[] = {
	[MSG_HELLO] = sizeof(struct msg_hello),
	[MSG_OPEN] = sizeof(struct msg_open),
	[MSG_CLOSE] = sizeof(struct msg_close),
	[MSG_OP_QUERY] = sizeof(struct msg_query),
	[MSG_DEVICE_QUERY] = sizeof(struct msg_query),
	[MSG_PRESENT_QUERY] = sizeof(struct msg_query),
	[MSG_GRAPH_QUERY] = sizeof(struct msg_graph_query),
	[MSG_PIPELINE] = sizeof(struct msg_pipeline),
	[MSG_PIPELINE_CLOSE] = sizeof(struct msg_pipeline_handle),
	[MSG_BUFFER_ALLOC] = sizeof(struct msg_buffer_alloc),
	[MSG_BUFFER_EXPORT] = sizeof(struct msg_buffer_handle),
	[MSG_BUFFER_GRANT] = sizeof(struct msg_buffer_handle),
	[MSG_BUFFER_ACCEPT] = sizeof(struct msg_buffer_handle),
	[MSG_BUFFER_FREE] = sizeof(struct msg_buffer_handle),
	[MSG_MODEL_QUERY] = sizeof(struct msg_model_query),
	[MSG_ADMIN_CAPTURE] = sizeof(struct msg_admin_capture),
	[MSG_ADMIN_EVICT] = sizeof(struct msg_admin_evict),
	[MSG_ADMIN_LOAD] = sizeof(struct msg_admin_load),
	[MSG_ADMIN_UNLOAD] = sizeof(struct msg_admin_unload),
};
#define TYPES (sizeof(message_bytes) / sizeof(message_bytes[0]) + 3)

/* Bytes of a message that is right in most of its header, and small numbers or anything behind. */
static uint32_t make_message(struct attacker *a, char *bytes)
{
	const uint16_t type = (uint16_t)random_below(&a->rng, TYPES);
	uint32_t n = type < sizeof(message_bytes) / 2 ? message_bytes[type] : 0;
	struct msg_header *h = (void *)bytes;

	n = n == 0 ? sizeof(*h) : n;
	for (uint32_t i = 0; i < MSG_MAX / 4; i++) {
		uint32_t word = random_below(&a->rng, 3) != 0 ? 0 : (uint32_t)work_wrong(&a->rng);

		memcpy(bytes + 4ull * i, &word, sizeof(word));
	}
	if (random_below(&a->rng, 4) == 0)
		n = (uint32_t)random_below(&a->rng, MSG_MAX + 64);
	*h = (struct msg_header){.magic = MSG_MAGIC, .type = type, .bytes = (uint16_t)n};
	if (type == MSG_HELLO) {
		struct msg_hello *m = (void *)bytes;
		m->abi_min = (uint32_t)random_below(&a->rng, 3);
		m->abi_max = (uint32_t)random_below(&a->rng, 6);
		m->flags = m->reserved = 0;
		m->name[GPUQ_NAME_MAX - 1] = '\0';
	}
	for (uint64_t i = random_below(&a->rng, 8); i == 0; i = random_below(&a->rng, 2))
		bytes[random_below(&a->rng, sizeof(*h))] = (char)random_u64(&a->rng);
	return n;
}

static int send_packet(int fd, const void *bytes, size_t n, const int *fds, uint32_t n_fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
	} u = {0};
	struct iovec iov = {(void *)bytes, n};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};

	if (n_fds > 0) {
		mh.msg_control = u.bytes;
		mh.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
	}
	return sendmsg(fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

/* A message that is there already. */
static bool drain_one(int fd, struct raw_answer *ret_answer)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, 0) == 1 && raw_receive(fd, ret_answer);
}

/* Reads what is there; false at the end of the connection. */
static bool drain(int fd, bool acknowledge)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	struct raw_answer answer;

	while (poll(&p, 1, 0) == 1) {
		if (!raw_receive(fd, &answer))
			return false;
		if (answer.n_fds > 0 && acknowledge)
			raw_try_send(
				fd, &(struct msg_header){0}, MSG_ACK, sizeof(struct msg_header), 3);
		raw_close_fds(&answer);
	}
	return true;
}

/* Everything that is said is answered, or the connection ends: a wait for more proves it. */
void attack_handshakes(struct attacker *a)
{
	char bytes[MSG_MAX + 64];

	while (attack_goes_on(a)) {
		const bool welcomed = random_below(&a->rng, 2) == 0;
		int fd = welcomed ? attack_connect(a) : raw_try_connect(a->common->socket);

		if (fd < 0)
			return;
		for (uint32_t i = 0; i < MESSAGES; i++) {
			uint32_t n = make_message(a, bytes);

			if (send_packet(fd, bytes, n, NULL, 0) < 0)
				break;
			attack_count(a, 1);
			if (!drain(fd, random_below(&a->rng, 2) == 0))
				break;
		}
		/* Whoever hangs up halfway hears nothing; the others hear of an end. */
		if (random_below(&a->rng, 2) == 0) {
			memset(bytes, 0xff, sizeof(struct msg_header));
			(void)send_packet(fd, bytes, sizeof(struct msg_header), NULL, 0);
			struct raw_answer answer;
			while (raw_receive(fd, &answer))
				raw_close_fds(&answer);
		}
		close(fd);
	}
}

/* --- Descriptors --------------------------------------------------------------------------- */

/* Several kinds, the connection itself among them: a circle that only the kernel can break. */
static void make_fds(int fd, int *fds, uint32_t n)
{
	int pair[2] = {-1, -1};

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	fds[0] = pair[0];
	fds[1] = pair[1];
	fds[2] = memfd_create("hostile", MFD_CLOEXEC);
	fds[3] = eventfd(0, EFD_CLOEXEC);
	for (uint32_t i = 4; i < n; i++)
		fds[i] = i % 2 == 0 ? fd : fds[2];
}

void attack_descriptors(struct attacker *a)
{
	char bytes[MSG_MAX + 64];
	int fds[FDS_MAX];

	while (attack_goes_on(a)) {
		int fd = attack_connect(a);

		if (fd < 0)
			return;
		make_fds(fd, fds, FDS_MAX);
		for (uint32_t i = 0; i < MESSAGES; i++) {
			const uint64_t kind = random_below(&a->rng, 3);
			uint32_t n_fds = (uint32_t)random_below(&a->rng, 5);
			uint32_t n = make_message(a, bytes);

			if (kind == 0)
				n_fds = (uint32_t)random_below(&a->rng, FDS_MAX) + 1;
			if (send_packet(fd, bytes, n, fds, n_fds) < 0)
				break;
			attack_count(a, 1);
			if (!drain(fd, true))
				break;
		}
		for (uint32_t i = 0; i < 4; i++)
			close(fds[i]);
		close(fd);
	}
}

/* gpuqd has read all that was sent. False: it does not, for long. */
static bool was_read(int fd)
{
	int unread = 1;

	for (uint32_t ms = 0; ms < 8000 * harness_slowness(); ms += 5) {
		if (ioctl(fd, SIOCOUTQ, &unread) < 0 || unread == 0)
			return true;
		raw_pause();
	}
	return false;
}

/*
 * Exports are asked for and acknowledged, and the answers stay in the queue, with descriptors that
 * count against gpuqd. It must stop that soon.
 */
void attack_unread_descriptors(struct attacker *a)
{
	while (attack_goes_on(a)) {
		struct msg_buffer_handle export = {0};
		struct raw_answer answer;
		uint32_t with_fds = 0;
		int fd = attack_connect(a);

		if (fd < 0)
			return;
		export.handle = attack_buffer(fd);
		for (uint32_t i = 0; i < EXPORTS && export.handle != 0; i++) {
			struct msg_header ack = {0};

			if (raw_try_send(fd, &export, MSG_BUFFER_EXPORT, sizeof(export), 10 + i) <
					0 ||
				raw_try_send(fd, &ack, MSG_ACK, sizeof(ack), 5) < 0)
				break;
			attack_count(a, 1);
		}
		if (!was_read(fd))
			attack_complain(a, "gpuqd does not read a connection");
		while (drain_one(fd, &answer)) {
			with_fds += answer.n_fds > 0;
			raw_close_fds(&answer);
		}
		if (with_fds > EXPORTS_UNREAD)
			attack_complain(a, "%u messages with descriptors in flight to one client",
				with_fds);
		close(fd);
	}
}

/* --- Ends ---------------------------------------------------------------------------------- */

/* A client that gets so far and no further. */
static void connect_until(struct attacker *a, uint64_t step)
{
	struct msg_hello hello = raw_hello(WIRE_ABI_OLDEST, WIRE_ABI);
	struct msg_open open = raw_open(WORK_ARENA);
	struct msg_buffer_alloc alloc = {.form = MSG_BUFFER_FD, .bytes = 4096};
	struct attack_channel ch;
	int fd;

	if (step >= 6) {
		if (!attack_channel_open(a, &ch))
			return;
		for (uint32_t i = 0; i < 32 && step >= 7; i++)
			(void)work_submit(&ch.work);
		attack_channel_close(&ch);
		return;
	}
	fd = raw_try_connect(a->common->socket);
	if (fd < 0)
		return;
	if (step >= 1)
		(void)raw_try_send(fd, &hello, MSG_HELLO, sizeof(hello), 1);
	if (step >= 2)
		(void)raw_try_send(
			fd, &(struct msg_header){0}, MSG_ACK, sizeof(struct msg_header), 2);
	if (step >= 3)
		(void)raw_try_send(fd, &open, MSG_OPEN, sizeof(open), 3);
	if (step >= 4)
		(void)raw_try_send(fd, &alloc, MSG_BUFFER_ALLOC, sizeof(alloc), 4);
	if (step >= 5)
		(void)raw_try_send(
			fd, &(struct msg_header){0}, MSG_GOODBYE, sizeof(struct msg_header), 5);
	close(fd);
}

void attack_connects(struct attacker *a)
{
	for (uint32_t i = 0; attack_goes_on(a); i++) {
		const uint64_t step = random_below(&a->rng, 8);

		attack_count(a, 1);
		if (i % 8 != 0) {
			connect_until(a, step);
			continue;
		}
		/* A process that is killed with it. */
		pid_t pid = fork();
		if (pid == 0) {
			struct attack_channel ch;
			if (attack_channel_open(a, &ch)) {
				while (attack_goes_on(a) && work_submit(&ch.work))
					;
			}
			raise(SIGKILL);
		}
		int status = 0;
		if (pid > 0 && (waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status)))
			_exit(1); /* it has complained */
	}
}
