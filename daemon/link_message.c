/* SPDX-License-Identifier: MIT */
/* link_message.c: see link_message.h. */
#include "daemon/link_message.h"

#include "shm/failpoint.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void link_send(const struct devlink_msg *msg)
{
	/* The control process reads promptly; when it is gone, serve() sees the end of the link. */
	FAILPOINT_OF("device.answering", msg->type);
	if (send(DEVLINK_FD_LINK, msg, sizeof(*msg), MSG_NOSIGNAL) < 0)
		shutdown(DEVLINK_FD_LINK, SHUT_RDWR);
	FAILPOINT_OF("device.answered", msg->type);
}

/* The same with a descriptor. */
void link_send_fd(const struct devlink_msg *msg, int fd)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {.iov_base = (void *)msg, .iov_len = sizeof(*msg)};
	const struct msghdr h = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *c = CMSG_FIRSTHDR(&h);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	FAILPOINT_OF("device.answering", msg->type);
	if (sendmsg(DEVLINK_FD_LINK, &h, MSG_NOSIGNAL) < 0)
		shutdown(DEVLINK_FD_LINK, SHUT_RDWR);
	FAILPOINT_OF("device.answered", msg->type);
}

void link_answer(enum devlink_type type, uint32_t channel, uint32_t generation)
{
	const struct devlink_msg msg = {
		.type = type,
		.channel = channel,
		.generation = generation,
	};

	link_send(&msg);
}

int link_fail_because(const char *what, const char *why)
{
	struct devlink_msg msg = {.type = DEVLINK_FAILED};

	snprintf(msg.text, sizeof(msg.text), "%s%s%s", what, why[0] != '\0' ? ": " : "", why);
	link_send(&msg);
	return EXIT_FAILURE;
}

int link_fail(const char *what, int error)
{
	return link_fail_because(what, strerror(-error));
}

/* Receives one message and up to LINK_FDS descriptors. False at the end of the link. */
bool link_receive(struct devlink_msg *msg, int fds[LINK_FDS], int *ret_n)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(LINK_FDS * sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = msg, .iov_len = sizeof(*msg)};
	struct msghdr h = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n;

	do
		n = recvmsg(DEVLINK_FD_LINK, &h, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	*ret_n = 0;
	const struct cmsghdr *c = CMSG_FIRSTHDR(&h);
	if (n > 0 && c != NULL && c->cmsg_type == SCM_RIGHTS) {
		*ret_n = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(c), (size_t)*ret_n * sizeof(int));
	}
	return n == (ssize_t)sizeof(*msg);
}

void link_close_all(const int fds[LINK_FDS], int n)
{
	while (n > 0)
		close(fds[--n]);
}
