/* SPDX-License-Identifier: MIT */
/*
 * listen.h: the place where clients find gpuqd: PATH (clients), PATH-admin (administration, mode
 * 0600) and PATH.lock. The lock is held (flock) for as long as gpuqd lives, however it ends, and
 * holds its process id; whoever holds it may take over sockets that an earlier gpuqd left.
 * A service manager may have made PATH, or both: then they are its own, and stay when gpuqd ends.
 */
#ifndef GPUQ_DAEMON_LISTEN_H
#define GPUQ_DAEMON_LISTEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define LISTEN_PATH_MAX 108 /* sizeof(sockaddr_un.sun_path) */
#define LISTEN_ERROR_MAX 512

struct listener {
	char path[LISTEN_PATH_MAX], admin_path[LISTEN_PATH_MAX];
	char lock_path[LISTEN_PATH_MAX + 8];
	int fd, admin_fd, lock_fd;	 /* -1: not open */
	bool fd_passed, admin_fd_passed; /* by the service manager */
};

/*
 * Writes $XDG_RUNTIME_DIR/gpuq-0, or /run/gpuq/gpuq-0 when that variable is not set, and makes
 * /run/gpuq when it can. 0, or a negative errno with a sentence in `error`.
 */
int listener_default_path(char *path, size_t size, char error[LISTEN_ERROR_MAX]);

/*
 * Takes the lock and listens on both sockets, non-blocking; `path` may be relative. What the
 * service manager has passed is used: its path is then the one, and `path` is NULL or the same.
 * 0, or a negative errno with a sentence in `error`: -EADDRINUSE when another gpuqd serves this
 * path, -EEXIST when something that is no socket lies there, -EINVAL for a socket that does not
 * fit. `l` is closed then.
 */
int listener_open(struct listener *l, const char *path, const mode_t modes[2], const int *passed,
	uint32_t n_passed, char error[LISTEN_ERROR_MAX]);

/* Removes the sockets, but those that were passed, and the lock. */
void listener_close(struct listener *l);

#endif
