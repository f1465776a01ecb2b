/* SPDX-License-Identifier: MIT */
/* A device process without a device: it answers the control process and takes no work. */
#include "daemon/device_process.h"

#include "daemon/devlink.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void drop_descriptors(struct msghdr *mh)
{
	int fds[3];

	for (struct cmsghdr *cm = CMSG_FIRSTHDR(mh); cm != NULL; cm = CMSG_NXTHDR(mh, cm)) {
		if (cm->cmsg_type != SCM_RIGHTS || cm->cmsg_len != CMSG_LEN(sizeof(fds)))
			continue;
		memcpy(fds, CMSG_DATA(cm), sizeof(fds));
		for (int i = 0; i < 3; i++)
			close(fds[i]);
	}
}

int device_process_main(void)
{
	struct devlink_msg m;
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(3 * sizeof(int))];
	} u;

	for (;;) {
		struct iovec iov = {.iov_base = &m, .iov_len = sizeof(m)};
		struct msghdr mh = {.msg_iov = &iov,
			.msg_iovlen = 1,
			.msg_control = u.bytes,
			.msg_controllen = sizeof(u.bytes)};

		if (recvmsg(DEVLINK_FD_LINK, &mh, MSG_CMSG_CLOEXEC) != (ssize_t)sizeof(m))
			return 0;
		drop_descriptors(&mh);
		m.type++; /* every request's answer has the number behind it */
		if (send(DEVLINK_FD_LINK, &m, sizeof(m), MSG_NOSIGNAL) < 0)
			return 1;
	}
}
