/* SPDX-License-Identifier: MIT */
/*
 * service.h: what a service manager and gpuqd tell each other, as systemd and others do it: the
 * manager passes sockets on which it listens already, from descriptor 3 on ($LISTEN_PID,
 * $LISTEN_FDS), and hears of gpuqd's state in datagrams of NAME=VALUE lines ($NOTIFY_SOCKET).
 * Without a manager all of it does nothing.
 */
#ifndef GPUQ_DAEMON_SERVICE_H
#define GPUQ_DAEMON_SERVICE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#define SERVICE_MAX_FDS 2 /* a socket for clients, one for administrators */

struct service {
	int fd; /* for datagrams; -1: nobody wants any */
	struct sockaddr_un to;
	socklen_t to_bytes;
	uint64_t watchdog_ns; /* the manager wants to hear of gpuqd that often; 0: it does not */
	int fds[SERVICE_MAX_FDS];
	uint32_t n_fds;
};

/*
 * Reads the environment, and clears it: what is said there is not for the processes that this one
 * starts. -E2BIG when more sockets were passed than gpuqd has a use for; all are closed then.
 */
int service_init(struct service *service);

/* Sends what the lines say. Never waits: a manager that does not listen hears nothing. */
__attribute__((format(printf, 2, 3))) void service_tell(
	const struct service *service, const char *format, ...);

/* Closes the socket of the datagrams. */
void service_end(struct service *service);

#endif
