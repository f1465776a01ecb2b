/* SPDX-License-Identifier: MIT */
/*
 * zmq.c: ZeroMQ for comparison: a PAIR of sockets over ipc://, its fastest between processes. The
 * library is looked for at run time, so that gpuq-bench needs it neither to build nor to run; the
 * few functions used have had the same form since ZeroMQ 3.
 */
#include "bench/bench.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ZMQ_LIBRARY "libzmq.so.5"
#define ZMQ_PAIR_TYPE 0

struct zmq_api {
	void *(*ctx_new)(void);
	void *(*socket)(void *context, int type);
	int (*bind)(void *socket, const char *endpoint);
	int (*connect)(void *socket, const char *endpoint);
	int (*send)(void *socket, const void *data, size_t bytes, int flags);
	int (*recv)(void *socket, void *data, size_t bytes, int flags);
};

/* Each process makes its own context and socket, at its first use: threads do not survive fork. */
struct zmq_pair {
	struct zmq_api api;
	char path[64], endpoint[80];
	void *socket;
};

static int api_load(struct zmq_api *api)
{
	void *library = dlopen(ZMQ_LIBRARY, RTLD_NOW | RTLD_LOCAL);
	const struct {
		void *place;
		const char *name;
	} functions[] = {
		{&api->ctx_new, "zmq_ctx_new"},
		{&api->socket, "zmq_socket"},
		{&api->bind, "zmq_bind"},
		{&api->connect, "zmq_connect"},
		{&api->send, "zmq_send"},
		{&api->recv, "zmq_recv"},
	};

	if (library == NULL)
		return -ENOENT;
	for (uint32_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
		void *function = dlsym(library, functions[i].name);
		if (function == NULL)
			return -ENOENT;
		memcpy(functions[i].place, &function, sizeof(function));
	}
	return 0;
}

static int zmq_pair_open(struct zmq_pair *z, bool server)
{
	if (z->socket != NULL)
		return 0;
	void *context = z->api.ctx_new();
	void *socket = context != NULL ? z->api.socket(context, ZMQ_PAIR_TYPE) : NULL;

	if (socket == NULL)
		return -ENOMEM;
	int r = server ? z->api.bind(socket, z->endpoint) : z->api.connect(socket, z->endpoint);
	z->socket = socket;
	return r < 0 ? -errno : 0;
}

static int zmq_serve(void *state, uint64_t n)
{
	struct zmq_pair *z = state;
	uint8_t buffer[64];
	int r = zmq_pair_open(z, true);

	for (uint64_t i = 0; i < n && r == 0; i++) {
		if (z->api.recv(z->socket, buffer, 64, 0) != 64 ||
			z->api.send(z->socket, buffer, 32, 0) != 32)
			r = -EPIPE;
	}
	return r;
}

static int zmq_trip(void *state)
{
	struct zmq_pair *z = state;
	uint8_t buffer[64] = {0};

	if (z->api.send(z->socket, buffer, 64, 0) != 64 ||
		z->api.recv(z->socket, buffer, 32, 0) != 32)
		return -EPIPE;
	return 0;
}

static int zmq_run(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	int r = zmq_pair_open(state, false);

	return r < 0 ? r : sample_back_to_back(clock, ret_ns, n, zmq_trip, state);
}

static void zmq_close(void *state)
{
	struct zmq_pair *z = state;

	/* The other side has been killed; the context ends with this process. */
	unlink(z->path);
	free(z);
}

int zmq_contender(struct contender *c)
{
	struct zmq_pair *z = calloc(1, sizeof(*z));

	if (z == NULL)
		return -ENOMEM;
	int r = api_load(&z->api);
	if (r < 0) {
		free(z);
		return r;
	}
	snprintf(z->path, sizeof(z->path), "/tmp/gpuq-bench-zmq-%d", getpid());
	snprintf(z->endpoint, sizeof(z->endpoint), "ipc://%s", z->path);
	*c = (struct contender){.name = "ZeroMQ PAIR, ipc://",
		.state = z,
		.serve = zmq_serve,
		.run = zmq_run,
		.close = zmq_close};
	return 0;
}
