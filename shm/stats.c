/* SPDX-License-Identifier: MIT */
/*
 * stats.c: making, mapping and checking the statistics object; see stats.h. The writer's side
 * takes care that nothing a reader or a stranger does to the object can end gpuqd.
 */
#include "shm/stats.h"

#include "shm/failpoint.h"
#include "shm/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define STATS_MAX_BYTES (1ull << 30)

int stats_socket_path(const char *socket_path, char *path, size_t size)
{
	char folder[PATH_MAX], whole[PATH_MAX];
	const char *name = strrchr(socket_path, '/');
	int n;

	name = name == NULL ? socket_path : name + 1;
	if (name - socket_path >= PATH_MAX)
		return -ENAMETOOLONG;
	snprintf(folder, sizeof(folder), "%.*s.", (int)(name - socket_path), socket_path);
	if (realpath(folder, whole) != NULL)
		n = snprintf(path, size, "%s/%s", strcmp(whole, "/") == 0 ? "" : whole, name);
	else
		n = snprintf(path, size, "%s", socket_path);
	return n >= 0 && (size_t)n < size ? 0 : -ENAMETOOLONG;
}

void stats_name(const char *socket_path, char *name, uint32_t size)
{
	uint32_t hash = 2166136261u; /* FNV-1a */

	if (strlen(socket_path) < 200) {
		snprintf(name, size, "/gpuq-%s", socket_path);
	} else {
		for (const char *p = socket_path; *p != '\0'; p++)
			hash = (hash ^ (uint8_t)*p) * 16777619u;
		snprintf(name, size, "/gpuq-%08x", hash);
	}
	for (char *p = name + 1; *p != '\0'; p++) {
		if (*p == '/')
			*p = '!';
	}
}

/* A table of `count` records lies inside the object and its records have the size we know. */
static bool table_fits(const struct stats_header *h, uint64_t bytes, uint64_t offset,
	uint32_t count, uint32_t record, uint32_t known)
{
	return record == known && offset % 8 == 0 && offset <= bytes &&
		(uint64_t)count * record <= bytes - offset && h->total_bytes == bytes;
}

static bool recorder_fits(const struct stats_header *h, uint64_t bytes)
{
	const uint64_t n = h->recorder_events;

	return n <= STATS_MAX_BYTES / sizeof(struct recorder_event) &&
		n == recorder_ring_events(RECORDER_DISPATCH, n) && h->recorder_offset % 8 == 0 &&
		h->recorder_offset <= bytes &&
		recorder_ring_offset(RECORDER_RINGS, n) <= bytes - h->recorder_offset;
}

bool stats_header_valid(const struct stats_header *h, uint64_t bytes)
{
	return shm_load_acquire_u32(&h->magic) == STATS_MAGIC && h->version == STATS_VERSION &&
		h->header_bytes == sizeof(*h) &&
		table_fits(h, bytes, h->devices_offset, h->max_devices, h->device_bytes,
			sizeof(struct stats_device)) &&
		table_fits(h, bytes, h->clients_offset, h->max_clients, h->client_bytes,
			sizeof(struct stats_client)) &&
		table_fits(h, bytes, h->channels_offset, h->max_channels, h->channel_bytes,
			sizeof(struct stats_channel)) &&
		table_fits(h, bytes, h->ops_offset, h->max_ops, h->op_bytes,
			sizeof(struct stats_op)) &&
		table_fits(h, bytes, h->graphs_offset, h->max_graphs, h->graph_bytes,
			sizeof(struct stats_graph)) &&
		table_fits(h, bytes, h->captures_offset, h->max_captures, h->capture_bytes,
			sizeof(struct stats_capture)) &&
		table_fits(h, bytes, h->models_offset, h->max_models, h->model_bytes,
			sizeof(struct stats_model)) &&
		table_fits(h, bytes, h->sessions_offset, h->max_sessions, h->session_bytes,
			sizeof(struct stats_session)) &&
		table_fits(h, bytes, h->pipelines_offset, h->max_pipelines, h->pipeline_bytes,
			sizeof(struct stats_pipeline)) &&
		table_fits(h, bytes, h->errors_offset, h->max_errors, h->error_bytes,
			sizeof(struct stats_error)) &&
		recorder_fits(h, bytes);
}

/* Points the view at its tables; the header has been checked or was made here. */
static void stats_view(struct stats *s, void *base, uint64_t bytes)
{
	const struct stats_header *h = base;
	char *p = base;

	s->header = base;
	s->devices = (void *)(p + h->devices_offset);
	s->clients = (void *)(p + h->clients_offset);
	s->channels = (void *)(p + h->channels_offset);
	s->ops = (void *)(p + h->ops_offset);
	s->graphs = (void *)(p + h->graphs_offset);
	s->captures = (void *)(p + h->captures_offset);
	s->models = (void *)(p + h->models_offset);
	s->sessions = (void *)(p + h->sessions_offset);
	s->pipelines = (void *)(p + h->pipelines_offset);
	s->errors = (void *)(p + h->errors_offset);
	s->recorder = p + h->recorder_offset;
	s->bytes = bytes;
}

static uint64_t align_page(uint64_t n)
{
	return (n + WIRE_PAGE_SIZE - 1) & ~(uint64_t)(WIRE_PAGE_SIZE - 1);
}

static struct stats_header stats_plan(const struct stats_sizes *sizes)
{
	struct stats_header h = {
		.version = STATS_VERSION,
		.header_bytes = sizeof(struct stats_header),
		.device_bytes = sizeof(struct stats_device),
		.client_bytes = sizeof(struct stats_client),
		.channel_bytes = sizeof(struct stats_channel),
		.op_bytes = sizeof(struct stats_op),
		.graph_bytes = sizeof(struct stats_graph),
		.capture_bytes = sizeof(struct stats_capture),
		.model_bytes = sizeof(struct stats_model),
		.session_bytes = sizeof(struct stats_session),
		.pipeline_bytes = sizeof(struct stats_pipeline),
		.error_bytes = sizeof(struct stats_error),
		.max_devices = WIRE_MAX_DEVICES,
		.max_clients = sizes->clients,
		.max_channels = sizes->channels,
		.max_ops = sizes->ops,
		.max_graphs = sizes->graphs,
		.max_captures = sizes->captures,
		.max_models = sizes->models,
		.max_sessions = sizes->sessions,
		.max_pipelines = sizes->pipelines,
		.max_errors = STATS_ERRORS,
		.recorder_events = recorder_ring_events(RECORDER_DISPATCH, sizes->recorder_events),
		.devices_offset = align_page(sizeof(struct stats_header)),
	};

	h.clients_offset = align_page(h.devices_offset + h.max_devices * (uint64_t)h.device_bytes);
	h.channels_offset = align_page(h.clients_offset + h.max_clients * (uint64_t)h.client_bytes);
	h.graphs_offset =
		align_page(h.channels_offset + h.max_channels * (uint64_t)h.channel_bytes);
	h.captures_offset = align_page(h.graphs_offset + h.max_graphs * (uint64_t)h.graph_bytes);
	h.models_offset =
		align_page(h.captures_offset + h.max_captures * (uint64_t)h.capture_bytes);
	h.sessions_offset = align_page(h.models_offset + h.max_models * (uint64_t)h.model_bytes);
	h.pipelines_offset =
		align_page(h.sessions_offset + h.max_sessions * (uint64_t)h.session_bytes);
	h.errors_offset =
		align_page(h.pipelines_offset + h.max_pipelines * (uint64_t)h.pipeline_bytes);
	h.recorder_offset = align_page(h.errors_offset + h.max_errors * (uint64_t)h.error_bytes);
	/* Last: stats_damaged() looks at its end. */
	h.ops_offset = align_page(
		h.recorder_offset + recorder_ring_offset(RECORDER_RINGS, h.recorder_events));
	h.total_bytes = align_page(h.ops_offset + h.max_ops * (uint64_t)h.op_bytes);
	return h;
}

/* Removes what an earlier gpuqd left, unless it is not ours to remove. */
static int stats_remove_old(const char *name)
{
	struct stat st;
	int fd = shm_open(name, O_RDONLY | O_NOFOLLOW, 0);

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	int r = fstat(fd, &st) < 0 ? -errno : 0;
	close(fd);
	if (r == 0 && st.st_uid != geteuid())
		r = -EPERM;
	if (r == 0 && shm_unlink(name) < 0 && errno != ENOENT)
		r = -errno;
	return r;
}

static struct recorder_ring *recorder_ring(const struct stats *s, enum recorder_writer writer)
{
	return (void *)(s->recorder + recorder_ring_offset(writer, s->header->recorder_events));
}

static void recorder_format(const struct stats *s)
{
	for (enum recorder_writer w = 0; w < RECORDER_RINGS; w++)
		recorder_ring(s, w)->events = recorder_ring_events(w, s->header->recorder_events);
}

struct recorder stats_recorder(const struct stats *s, enum recorder_writer writer)
{
	struct recorder_ring *ring = recorder_ring(s, writer);
	const uint64_t n = recorder_ring_events(writer, s->header->recorder_events);

	if (n == 0)
		return (struct recorder){0};
	return (struct recorder){
		.ring = ring,
		.events = (void *)(ring + 1),
		.next = shm_load_relaxed(&ring->next),
		.mask = n - 1,
	};
}

/* Writes an empty object into memory of the planned size. */
static int stats_format(
	int fd, const struct stats_header *plan, const char *socket_path, struct stats *ret_stats)
{
	void *base;
	int r = segment_map(fd, plan->total_bytes, true, &base);

	if (r < 0)
		return r;
	memcpy(base, plan, sizeof(*plan));
	stats_view(ret_stats, base, plan->total_bytes);
	recorder_format(ret_stats);
	snprintf(ret_stats->header->socket_path, STATS_PATH_MAX, "%s", socket_path);
	shm_store_release_u32(&ret_stats->header->magic, STATS_MAGIC);
	return 0;
}

int stats_create(const char *socket_path, const struct stats_sizes *sizes, struct stats *ret_stats,
	int *ret_fd)
{
	const struct stats_header plan = stats_plan(sizes);
	char name[STATS_PATH_MAX];

	stats_name(socket_path, name, sizeof(name));
	int r = stats_remove_old(name);
	if (r < 0)
		return r;
	int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	FAILPOINT("control.stats_made");
	r = -posix_fallocate(fd, 0, (off_t)plan.total_bytes);
	if (r == 0)
		r = stats_format(fd, &plan, socket_path, ret_stats);
	FAILPOINT("control.stats_formatted");
	if (r < 0) {
		shm_unlink(name);
		close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

int stats_create_private(const struct stats_sizes *sizes, struct stats *ret_stats, int *ret_fd)
{
	const struct stats_header plan = stats_plan(sizes);
	int fd = segment_create("gpuq-statistics", plan.total_bytes);

	if (fd < 0)
		return fd;
	int r = stats_format(fd, &plan, "", ret_stats);
	if (r < 0) {
		close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

static int stats_attach(int fd, bool writable, struct stats *ret_stats)
{
	struct stat st;
	void *base;

	if (fstat(fd, &st) < 0)
		return -errno;
	if ((uint64_t)st.st_size < sizeof(struct stats_header) ||
		(uint64_t)st.st_size > STATS_MAX_BYTES)
		return -EPROTO;
	uint64_t bytes = (uint64_t)st.st_size;
	int r = segment_map(fd, bytes, writable, &base);
	if (r < 0)
		return r;
	if (!stats_header_valid(base, bytes)) {
		munmap(base, bytes);
		return -EPROTO;
	}
	stats_view(ret_stats, base, bytes);
	return 0;
}

static char *guarded_base;
static uint64_t guarded_bytes;
static volatile sig_atomic_t guarded_lost; /* zeros have taken its place */

bool stats_damaged(const struct stats *stats, int fd)
{
	const struct stats_header *ours = stats->header;
	struct stats_header h;
	struct stat st;

	/* Without a name it cannot be opened any more. */
	if (fstat(fd, &st) < 0 || st.st_nlink == 0 || (uint64_t)st.st_size != stats->bytes)
		return true;
	if (pread(fd, &h, sizeof(h), 0) != (ssize_t)sizeof(h) ||
		!stats_header_valid(&h, stats->bytes) || ours->max_ops == 0)
		return true;
	/* Cut and made long again, it has lost its end. */
	return shm_load_relaxed_u32(&stats->ops[ours->max_ops - 1].state) == 0 || guarded_lost;
}

int stats_map(int fd, struct stats *ret_stats)
{
	return stats_attach(fd, true, ret_stats);
}

int stats_open(const char *path, bool file, struct stats *ret_stats)
{
	char whole[PATH_MAX], name[STATS_PATH_MAX];
	int fd;

	if (file) {
		fd = open(path, O_RDONLY | O_CLOEXEC);
	} else {
		int r = stats_socket_path(path, whole, sizeof(whole));
		if (r < 0)
			return r;
		stats_name(whole, name, sizeof(name));
		fd = shm_open(name, O_RDONLY | O_CLOEXEC, 0);
	}
	if (fd < 0)
		return -errno;
	int r = stats_attach(fd, false, ret_stats);
	close(fd);
	return r;
}

void stats_close(struct stats *stats)
{
	if (stats->header != NULL)
		munmap(stats->header, stats->bytes);
	*stats = (struct stats){0};
}

static void on_sigbus(int signal, siginfo_t *info, void *context)
{
	char *at = info->si_addr;

	(void)context;
	if (at >= guarded_base && at < guarded_base + guarded_bytes &&
		mmap(guarded_base, guarded_bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED) {
		guarded_lost = 1;
		return;
	}
	/* Not ours: die of it as if there were no handler. */
	struct sigaction dfl = {.sa_handler = SIG_DFL};
	sigaction(signal, &dfl, NULL);
}

void stats_count_error(const struct stats *stats, enum stats_error_writer writer, int status,
	const char *what, const char *text, uint64_t now_ns)
{
	const uint32_t n = STATS_ERRORS / 2;
	struct stats_error *e = stats->errors + (writer == STATS_ERRORS_OF_DEVICE ? n : 0);
	uint32_t i = 0;

	while (i + 1 < n && shm_load_relaxed_u32(&e[i].state) != 0 &&
		(e[i].status != status || strncmp(e[i].what, what, GPUQ_NAME_MAX - 1) != 0))
		i++;
	e += i;
	if (shm_load_relaxed_u32(&e->state) == 0) {
		e->status = status;
		snprintf(e->what, sizeof(e->what), "%s", i + 1 < n ? what : "all others");
		shm_store_relaxed(&e->first_ns, now_ns);
	}
	if (text != NULL)
		snprintf(e->text, sizeof(e->text), "%.*s", (int)sizeof(e->text) - 1, text);
	shm_store_relaxed(&e->last_ns, now_ns);
	shm_count(&e->count, 1);
	shm_store_release_u32(&e->state, 1);
}

int stats_survive_truncation(const struct stats *stats)
{
	struct sigaction sa = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};

	guarded_base = (char *)stats->header;
	guarded_bytes = stats->bytes;
	guarded_lost = 0;
	return sigaction(SIGBUS, &sa, NULL) < 0 ? -errno : 0;
}
