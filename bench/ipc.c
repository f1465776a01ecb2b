/* SPDX-License-Identifier: MIT */
/*
 * ipc.c: what the kernel offers for the same exchange: each side blocks in read() until the other
 * has written. 64 bytes go out and 32 come back, as in a channel; an eventfd carries its 8.
 */
#include "bench/bench.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

struct ipc {
	int client_read, client_write; /* this process's ends */
	int server_read, server_write;
	size_t out_bytes, back_bytes;
	uint64_t gap_ns;
};

static int transfer_in(int fd, size_t bytes)
{
	uint8_t buffer[64];

	return read(fd, buffer, bytes) == (ssize_t)bytes ? 0 : -EPIPE;
}

static int transfer_out(int fd, size_t bytes)
{
	const uint64_t buffer[8] = {1};

	return write(fd, buffer, bytes) == (ssize_t)bytes ? 0 : -EPIPE;
}

static int ipc_serve(void *state, uint64_t n)
{
	const struct ipc *p = state;
	int r = 0;

	for (uint64_t i = 0; i < n && r == 0; i++) {
		r = transfer_in(p->server_read, p->out_bytes);
		if (r == 0)
			r = transfer_out(p->server_write, p->back_bytes);
	}
	return r;
}

static int ipc_trip(void *state)
{
	const struct ipc *p = state;
	int r = transfer_out(p->client_write, p->out_bytes);

	return r < 0 ? r : transfer_in(p->client_read, p->back_bytes);
}

static int ipc_run(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	const struct ipc *p = state;

	if (p->gap_ns > 0)
		return sample_apart(clock, ret_ns, n, p->gap_ns, ipc_trip, state);
	return sample_back_to_back(clock, ret_ns, n, ipc_trip, state);
}

static void ipc_close(void *state)
{
	struct ipc *p = state;

	close(p->client_read);
	if (p->client_write != p->client_read)
		close(p->client_write);
	if (p->server_read != p->client_write)
		close(p->server_read);
	if (p->server_write != p->client_read && p->server_write != p->server_read)
		close(p->server_write);
	free(p);
}

static int open_unix(struct ipc *p)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return -errno;
	p->client_read = p->client_write = fds[0];
	p->server_read = p->server_write = fds[1];
	return 0;
}

static int open_pipe(int *ret_read, int *ret_write)
{
	int fds[2];

	if (pipe(fds) < 0)
		return -errno;
	*ret_read = fds[0];
	*ret_write = fds[1];
	return 0;
}

static int open_eventfd(int *ret_read, int *ret_write)
{
	int fd = eventfd(0, EFD_CLOEXEC);

	if (fd < 0)
		return -errno;
	*ret_read = *ret_write = fd;
	return 0;
}

static int ipc_open(struct ipc *p, enum ipc_kind kind)
{
	int r;

	if (kind == IPC_UNIX)
		return open_unix(p);
	if (kind == IPC_PIPE)
		r = open_pipe(&p->server_read, &p->client_write);
	else
		r = open_eventfd(&p->server_read, &p->client_write);
	if (r < 0)
		return r;
	if (kind == IPC_EVENTFD)
		return open_eventfd(&p->client_read, &p->server_write);
	return open_pipe(&p->client_read, &p->server_write);
}

int ipc_contender(struct contender *c, enum ipc_kind kind, uint64_t gap_ns)
{
	static const char *const names[] = {
		[IPC_UNIX] = "Unix socket",
		[IPC_PIPE] = "pipe",
		[IPC_EVENTFD] = "eventfd",
		[IPC_BELLS] = "eventfd there, pipe back",
	};
	struct ipc *p = calloc(1, sizeof(*p));

	if (p == NULL)
		return -ENOMEM;
	int r = ipc_open(p, kind);
	if (r < 0) {
		free(p);
		return r;
	}
	p->out_bytes = kind == IPC_EVENTFD || kind == IPC_BELLS ? 8 : 64;
	p->back_bytes = kind == IPC_EVENTFD || kind == IPC_BELLS ? 8 : 32;
	p->gap_ns = gap_ns;
	*c = (struct contender){.name = names[kind],
		.state = p,
		.serve = ipc_serve,
		.run = ipc_run,
		.close = ipc_close};
	return 0;
}
