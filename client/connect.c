/* SPDX-License-Identifier: MIT */
/* connect.c: finding gpuqd, the handshake, and the end of a connection. */
#include "client/client.h"
#include "shm/failpoint.h"
#include "shm/segment.h"
#include "shm/wait.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_TIMEOUT_NS (5 * NS_PER_S)
#define DEFAULT_SOCKET "/run/gpuq/gpuq-0"
#define PATHS_MAX 2
#define ENDING_TRIES 20 /* to reach a gpuqd behind the socket of one that has just ended */
#define ENDING_PAUSE_MS 10
/* For a device process to end and the next one to open its device. */
#define RESTART_NS (60 * NS_PER_S)

#define STRING_OF(x) #x
#define VERSION_STRING(major, minor, patch) \
	STRING_OF(major) "." STRING_OF(minor) "." STRING_OF(patch)

/* Where to look, in order. */
struct paths {
	uint32_t n;
	char path[PATHS_MAX][sizeof(((struct sockaddr_un *)0)->sun_path)];
};

/* False when the path is too long for a socket. */
static bool add_path(struct paths *paths, const char *directory, const char *name, bool admin)
{
	char *path = paths->path[paths->n];
	size_t size = sizeof(paths->path[0]);
	int n = snprintf(path, size, "%s%s%s", directory, name, admin ? MSG_ADMIN_SUFFIX : "");

	if (n < 0 || (size_t)n >= size)
		return false;
	paths->n++;
	return true;
}

static int find_paths(const struct gpuq_options *options, struct paths *paths)
{
	const char *one = options->socket != NULL ? options->socket : secure_getenv("GPUQ_SOCKET");
	const char *runtime = secure_getenv("XDG_RUNTIME_DIR");

	if (one != NULL && one[0] != '\0') {
		if (!add_path(paths, one, "", options->admin))
			return fail(-ENAMETOOLONG,
				"%s is too long for a socket; at most %zu bytes are possible", one,
				sizeof(paths->path[0]) - 1);
		return 0;
	}
	/* A run-time directory too deep for a socket cannot hold one. */
	if (runtime != NULL && runtime[0] != '\0')
		(void)add_path(paths, runtime, "/gpuq-0", options->admin);
	(void)add_path(paths, "", DEFAULT_SOCKET, options->admin);
	return 0;
}

/* Returns a descriptor or a negative errno. */
static int try_path(const char *path, uint64_t timeout_ns)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct timeval timeout = {
		.tv_sec = (time_t)(timeout_ns / NS_PER_S),
		.tv_usec = (suseconds_t)(timeout_ns % NS_PER_S / 1000) + 1,
	};
	int r;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	memcpy(address.sun_path, path, strlen(path) + 1);
	/* A connect() waits, that long at most, while gpuqd's backlog is full. */
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	do
		r = connect(fd, (const struct sockaddr *)&address, sizeof(address));
	while (r < 0 && errno == EINTR);
	if (r == 0)
		return fd;
	r = errno == EAGAIN ? -ETIMEDOUT : -errno;
	close(fd);
	return r;
}

/* No path answered: says which were tried. `error` is that of the most telling one. */
static int nobody(int error, const char *at, const struct paths *paths)
{
	char all[PATHS_MAX * (sizeof(paths->path[0]) + 2)] = "";
	size_t n = 0;

	for (uint32_t i = 0; i < paths->n; i++)
		n += (size_t)snprintf(
			all + n, sizeof(all) - n, "%s%s", i > 0 ? ", " : "", paths->path[i]);
	if (error == -ENOENT || error == -ECONNREFUSED)
		return fail(error, "no daemon at %s; start gpuqd or set GPUQ_SOCKET", all);
	if (error == -EACCES || error == -EPERM)
		return fail(
			error, "may not connect to %s: its permissions do not admit this user", at);
	if (error == -ETIMEDOUT)
		return fail(error, "gpuqd at %s does not answer; is it stopped?", at);
	return fail(error, "connecting to %s: %s", at, strerror(-error));
}

/* Connects to the first path that answers. */
static int reach(struct gpuq *g, const struct paths *paths)
{
	const char *at = paths->path[0];
	int error = -ENOENT;

	for (uint32_t i = 0; i < paths->n; i++) {
		int r = try_path(paths->path[i], g->timeout_ns);
		if (r >= 0) {
			g->fd = r;
			snprintf(g->path, sizeof(g->path), "%s", paths->path[i]);
			return 0;
		}
		if (error == -ENOENT || error == -ECONNREFUSED) {
			error = r == -ENOENT ? error : r;
			at = paths->path[i];
		}
	}
	return nobody(error, at, paths);
}

/* Maps the daemon page. */
static int map_page(struct gpuq *g, int fd)
{
	void *page = NULL;
	int r = session_check_memory(fd, WIRE_PAGE_SIZE, "a daemon page");

	if (r < 0)
		return r;
	r = segment_map(fd, WIRE_PAGE_SIZE, false, &page);
	if (r < 0)
		return fail(r, "mapping the daemon page: %s", strerror(-r));
	g->page = page;
	if (g->page->magic != WIRE_MAGIC)
		return fail_plain(-GPUQ_EPROTO, "gpuqd sent something else for the daemon page");
	return 0;
}

static int accept_welcome(struct gpuq *g, const struct msg_welcome *w)
{
	if (w->abi < WIRE_ABI_OLDEST || w->abi > WIRE_ABI)
		return fail(-GPUQ_EABI,
			"gpuqd at %s speaks version %u of the wire and this library %u to %u; "
			"install the same version of both",
			g->path, w->abi, WIRE_ABI_OLDEST, WIRE_ABI);
	g->welcome = *w;
	g->welcome.version[sizeof(w->version) - 1] = '\0';
	g->welcome.socket_path[sizeof(w->socket_path) - 1] = '\0';
	if (g->welcome.socket_path[0] == '\0')
		memcpy(g->welcome.socket_path, g->path, sizeof(g->path));
	g->ops = calloc(w->n_ops > 0 ? w->n_ops : 1, sizeof(const struct gpuq_op_info *));
	return g->ops != NULL ? 0 : fail_plain(-ENOMEM, "no memory for a connection");
}

static int shake_hands(struct gpuq *g, const char *name)
{
	struct msg_hello hello = {
		.h = {.type = MSG_HELLO, .bytes = sizeof(hello)},
		.abi_min = WIRE_ABI_OLDEST,
		.abi_max = WIRE_ABI,
	};
	const struct session_answer want = {MSG_WELCOME, sizeof(struct msg_welcome), 1};
	struct session_message answer;

	snprintf(hello.name, sizeof(hello.name), "%s",
		name != NULL ? name : program_invocation_short_name);
	memcpy(g->name, hello.name, sizeof(g->name));
	int r = session_request(g, &hello.h, want, &answer);
	if (r < 0)
		return r;
	r = accept_welcome(g, &answer.welcome);
	if (r == 0)
		r = map_page(g, answer.fds[0]);
	session_message_close(&answer);
	return r;
}

static void make_turns(struct gpuq *g)
{
	pthread_condattr_t attributes;

	pthread_condattr_init(&attributes);
	(void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&g->turn_over, &attributes);
	pthread_condattr_destroy(&attributes);
	pthread_mutex_init(&g->turn, NULL);
}

static struct gpuq *gpuq_new(void)
{
	struct gpuq *g = calloc(1, sizeof(*g));

	if (g == NULL)
		return NULL;
	if (guard_create(&g->guard) < 0) {
		free(g);
		return NULL;
	}
	g->fd = -1;
	pthread_mutex_init(&g->lock, NULL);
	pthread_mutex_init(&g->upload, NULL);
	make_turns(g);
	g->epoch = 1;
	return g;
}

static int connect_once(
	const struct gpuq_options *options, const struct paths *paths, struct gpuq **ret_gpuq)
{
	struct gpuq *g = gpuq_new();

	if (g == NULL)
		return fail_plain(-ENOMEM, "no memory for a connection");
	g->timeout_ns = options->timeout_ns > 0 ? options->timeout_ns : DEFAULT_TIMEOUT_NS;
	g->shared_cpus = wait_shared_cpus();
	g->automatic = options->reconnect;
	int r = reach(g, paths);
	FAILPOINT("client.connected");
	if (r == 0)
		r = shake_hands(g, options->name);
	if (r < 0) {
		gpuq_disconnect(g);
		return r;
	}
	*ret_gpuq = g;
	return 0;
}

int connect_again(const struct gpuq *g, struct gpuq **ret_gpuq)
{
	const struct gpuq_options options = {.name = g->name, .timeout_ns = g->timeout_ns};
	struct paths paths = {0};

	if (!add_path(&paths, g->path, "", false))
		return fail_plain(-ENAMETOOLONG, "the path of the socket is too long");
	return connect_once(&options, &paths, ret_gpuq);
}

int gpuq_connect(const struct gpuq_options *options, struct gpuq **ret_gpuq)
{
	static const struct gpuq_options defaults;
	const struct timespec pause = {.tv_nsec = ENDING_PAUSE_MS * (long)NS_PER_MS};
	struct paths paths = {0};

	options = options != NULL ? options : &defaults;
	int r = find_paths(options, &paths);
	if (r < 0)
		return r;
	/*
	 * The socket of a killed gpuqd takes connections until the kernel has taken its io_uring
	 * apart, and drops them then: whether there is a gpuqd shows a moment later.
	 */
	r = connect_once(options, &paths, ret_gpuq);
	for (uint32_t i = 0; r == -GPUQ_EGONE && i < ENDING_TRIES; i++) {
		(void)nanosleep(&pause, NULL);
		r = connect_once(options, &paths, ret_gpuq);
	}
	return r;
}

void gpuq_disconnect(struct gpuq *g)
{
	if (g == NULL)
		return;
	/* gpuqd closes the channels of a connection that ends. */
	if (g->fd >= 0 && !guard_forked(g->guard))
		session_leave(g);
	while (g->channels != NULL)
		channel_free(g->channels);
	notice_end(g);
	pipeline_free_all(g);
	bufs_free(g);
	discovery_free(g);
	if (g->page != NULL)
		munmap((void *)g->page, WIRE_PAGE_SIZE);
	if (g->fd >= 0)
		close(g->fd);
	/* In a forked child it would wait for those of the parent's threads that wait for it. */
	if (!guard_forked(g->guard))
		pthread_cond_destroy(&g->turn_over);
	guard_destroy(g->guard);
	pthread_mutex_destroy(&g->turn);
	pthread_mutex_destroy(&g->upload);
	pthread_mutex_destroy(&g->lock);
	free(g);
}

int gpuq_alive(const struct gpuq *g)
{
	if (page_gone(g->page) || shm_load_relaxed(&g->gone) != 0)
		return fail_plain(-GPUQ_EGONE, "gpuqd has ended; connect again");
	if (shm_load_relaxed_u32(&g->page->state) == WIRE_DRAINING)
		return fail_plain(-GPUQ_EDRAIN, "gpuqd is shutting down");
	return 0;
}

const char *gpuq_version(void)
{
	return VERSION_STRING(GPUQ_VERSION_MAJOR, GPUQ_VERSION_MINOR, GPUQ_VERSION_PATCH);
}

const char *gpuq_server_version(const struct gpuq *g)
{
	return g->welcome.version;
}

const char *gpuq_socket_path(const struct gpuq *g)
{
	return g->welcome.socket_path;
}

uint32_t gpuq_abi(const struct gpuq *g)
{
	return g->welcome.abi;
}

void gpuq_limits(const struct gpuq *g, struct gpuq_limits *ret_limits)
{
	*ret_limits = (struct gpuq_limits){
		.max_channels = g->welcome.max_channels,
		.max_entries = g->welcome.max_entries,
		.max_arena_bytes = g->welcome.max_arena_bytes,
		.max_client_bytes = g->welcome.max_client_bytes,
	};
}

int gpuq_admin_stop(struct gpuq *g)
{
	struct msg_header stop = {.type = MSG_ADMIN_STOP, .bytes = sizeof(stop)};
	const struct session_answer want = {MSG_ADMIN_OK, sizeof(struct msg_header), 0};
	struct session_message answer;

	return session_request(g, &stop, want, &answer);
}

int gpuq_admin_restart(struct gpuq *g, uint32_t device, uint64_t drain_ns)
{
	const uint64_t drain_ms = drain_ns / NS_PER_MS;
	struct msg_admin_restart m = {
		.h = {.type = MSG_ADMIN_RESTART, .bytes = sizeof(m)},
		.device = device,
		.drain_ms = drain_ms < UINT32_MAX ? (uint32_t)drain_ms : UINT32_MAX,
	};

	return session_administrate_long(
		g, &m.h, m.drain_ms * NS_PER_MS + RESTART_NS, "restarts of devices");
}
