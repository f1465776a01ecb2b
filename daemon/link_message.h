/* SPDX-License-Identifier: MIT */
/* link_message.h: a device process's end of the link: messages to and from the control process. */
#ifndef GPUQ_DAEMON_LINK_MESSAGE_H
#define GPUQ_DAEMON_LINK_MESSAGE_H

#include "daemon/devlink.h"

#define LINK_FDS 3 /* that a message may have: segment, eventfd, pipe */

/* Sends; any thread. When the control process is gone, the link thread sees the end of the link. */
void link_send(const struct devlink_msg *msg);

/* The same with a descriptor. */
void link_send_fd(const struct devlink_msg *msg, int fd);

/* An answer about a channel, or about nothing in particular. */
void link_answer(enum devlink_type type, uint32_t channel, uint32_t generation);

/* Sends DEVLINK_FAILED with a sentence. Returns EXIT_FAILURE. */
int link_fail_because(const char *what, const char *why);
int link_fail(const char *what, int error);

/* Receives one message and up to LINK_FDS descriptors. False at the end of the link. */
bool link_receive(struct devlink_msg *msg, int fds[LINK_FDS], int *ret_n);
void link_close_all(const int fds[LINK_FDS], int n);

#endif
