/* SPDX-License-Identifier: MIT */
/* Copies of the statistics object. */
#include "tools/snapshot.h"

#include "shm/clock.h"

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

static int add_place(struct snapshot_source *source, const char *folder, const char *name)
{
	char *place = source->places[source->n_places];

	if (snprintf(place, STATS_PATH_MAX, "%s%s", folder, name) >= STATS_PATH_MAX)
		return -ENAMETOOLONG;
	source->n_places++;
	return 0;
}

int snapshot_source_init(struct snapshot_source *ret_source, const char *socket)
{
	struct snapshot_source source = {.chosen = -1};
	const char *runtime = secure_getenv("XDG_RUNTIME_DIR");
	int r = 0;

	if (socket == NULL)
		socket = secure_getenv("GPUQ_SOCKET");
	if (socket != NULL && socket[0] != '\0') {
		r = add_place(&source, socket, "");
	} else {
		if (runtime != NULL && runtime[0] != '\0')
			r = add_place(&source, runtime, "/gpuq-0");
		if (r == 0)
			r = add_place(&source, "/run/gpuq/gpuq-0", "");
	}
	if (r == 0)
		*ret_source = source;
	return r;
}

int snapshot_source_file(struct snapshot_source *ret_source, const char *path)
{
	struct snapshot_source source = {.chosen = -1, .file = true};
	int r = add_place(&source, path, "");

	if (r == 0)
		*ret_source = source;
	return r;
}

/* Opens the object; its identity and size in *ret_st. */
static int open_object(const char *place, bool file, struct stat *ret_st)
{
	char path[PATH_MAX], name[STATS_PATH_MAX];
	int fd;

	if (file) {
		fd = open(place, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	} else {
		int r = stats_socket_path(place, path, sizeof(path));
		if (r < 0)
			return r;
		stats_name(path, name, sizeof(name));
		fd = shm_open(name, O_RDONLY | O_CLOEXEC, 0);
	}
	if (fd < 0)
		return -errno;
	if (fstat(fd, ret_st) < 0 || !S_ISREG(ret_st->st_mode)) {
		close(fd);
		return -EPROTO;
	}
	return fd;
}

static int read_at(int fd, void *data, size_t bytes, uint64_t offset)
{
	ssize_t n = pread(fd, data, bytes, (off_t)offset);

	if (n < 0)
		return -errno;
	return (size_t)n == bytes ? 0 : -EPROTO; /* cut since we looked */
}

/* Makes room for at least one more row. */
static int table_grow(struct snapshot_table *t, uint32_t *capacity, uint32_t row_bytes)
{
	if (t->n < *capacity)
		return 0;
	uint32_t n = *capacity == 0 ? 16 : *capacity * 2;
	void *rows = realloc(t->rows, (size_t)n * row_bytes);
	if (rows == NULL)
		return -ENOMEM;
	t->rows = rows;
	uint32_t *records = realloc(t->records, n * sizeof(*records));
	if (records == NULL)
		return -ENOMEM;
	t->records = records;
	*capacity = n;
	return 0;
}

/*
 * Copies the records whose state, their first word, is not 0. Most are unused, and those with
 * histograms are large: so the first `head_bytes` are looked at before the rest is copied.
 */
static int table_read(int fd, uint64_t offset, uint32_t count, uint32_t row_bytes,
	uint32_t head_bytes, struct snapshot_table *t)
{
	uint32_t capacity = 0, state;

	for (uint32_t i = 0; i < count; i++, offset += row_bytes) {
		int r = table_grow(t, &capacity, row_bytes);
		if (r < 0)
			return r;
		char *row = (char *)t->rows + (size_t)t->n * row_bytes;
		r = read_at(fd, row, head_bytes, offset);
		if (r < 0)
			return r;
		memcpy(&state, row, sizeof(state));
		if (state == 0)
			continue;
		r = read_at(fd, row + head_bytes, row_bytes - head_bytes, offset + head_bytes);
		if (r < 0)
			return r;
		t->records[t->n++] = i;
	}
	return 0;
}

static int read_tables(int fd, struct snapshot *s)
{
	const struct stats_header *h = &s->header;
	const struct {
		uint64_t offset;
		uint32_t count, row_bytes, head_bytes;
		struct snapshot_table *table;
	} all[] = {
		{h->devices_offset, h->max_devices, h->device_bytes,
			offsetof(struct stats_device, queue_hist), &s->devices},
		{h->clients_offset, h->max_clients, h->client_bytes, h->client_bytes, &s->clients},
		{h->channels_offset, h->max_channels, h->channel_bytes,
			offsetof(struct stats_channel, queue_hist), &s->channels},
		{h->graphs_offset, h->max_graphs, h->graph_bytes, sizeof(uint64_t), &s->graphs},
		{h->models_offset, h->max_models, h->model_bytes, sizeof(uint64_t), &s->models},
		{h->sessions_offset, h->max_sessions, h->session_bytes, h->session_bytes,
			&s->sessions},
		{h->pipelines_offset, h->max_pipelines, h->pipeline_bytes,
			offsetof(struct stats_pipeline, execute_hist), &s->pipelines},
		{h->ops_offset, h->max_ops, h->op_bytes, offsetof(struct stats_op, execute_hist),
			&s->ops},
		{h->errors_offset, h->max_errors, h->error_bytes, h->error_bytes, &s->errors},
	};
	int r = 0;

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]) && r == 0; i++)
		r = table_read(fd, all[i].offset, all[i].count, all[i].row_bytes, all[i].head_bytes,
			all[i].table);
	return r;
}

static void read_clocks(struct snapshot *s)
{
	const struct stats_header *h = &s->header;
	struct clock_line line = {h->ticks_base, h->ns_base, h->mult, h->shift < 64 ? h->shift : 0};
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	s->realtime_ns = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	s->taken_ns = clock_monotonic_ns();
	s->clock_ns = clock_now_ns(&line);
}

static int read_object(int fd, const struct stat *st, struct snapshot *s)
{
	if ((uint64_t)st->st_size < sizeof(s->header))
		return -EPROTO;
	int r = read_at(fd, &s->header, sizeof(s->header), 0);
	if (r < 0)
		return r;
	if (!stats_header_valid(&s->header, (uint64_t)st->st_size))
		return -EPROTO;
	s->header.version_text[sizeof(s->header.version_text) - 1] = '\0';
	s->header.socket_path[sizeof(s->header.socket_path) - 1] = '\0';
	s->object = (uint64_t)st->st_ino ^ s->header.started_realtime_ns;
	r = read_tables(fd, s);
	read_clocks(s);
	s->process_exists = snapshot_process_exists(s);
	return r;
}

int snapshot_open(const struct snapshot_source *source, struct stats_header *ret_header)
{
	struct stat st;
	int fd = open_object(source->places[source->chosen], source->file, &st);

	if (fd < 0)
		return fd;
	int r = (uint64_t)st.st_size < sizeof(*ret_header)
		? -EPROTO
		: read_at(fd, ret_header, sizeof(*ret_header), 0);
	if (r == 0 && !stats_header_valid(ret_header, (uint64_t)st.st_size))
		r = -EPROTO;
	if (r == 0)
		return fd;
	close(fd);
	return r;
}

static int take_from(const char *place, bool file, struct snapshot **ret_snapshot)
{
	struct snapshot *s;
	struct stat st;
	int fd = open_object(place, file, &st);

	if (fd < 0)
		return fd;
	s = calloc(1, sizeof(*s));
	for (uint32_t i = 0; s != NULL && i < WIRE_MAX_DEVICES; i++)
		s->hardware[i] = hardware_unknown();
	int r = s == NULL ? -ENOMEM : read_object(fd, &st, s);
	close(fd);
	if (r < 0) {
		snapshot_free(s);
		return r;
	}
	*ret_snapshot = s;
	return 0;
}

static int explain(
	const struct snapshot_source *source, int error, uint32_t place, char *why, size_t size)
{
	const char *at = source->places[place];
	char all[SNAPSHOT_PLACES_MAX * (STATS_PATH_MAX + 2)] = "";

	if (error == -ENOENT && source->file) {
		snprintf(why, size, "%s: %s", at, strerror(ENOENT));
	} else if (error == -ENOENT) {
		for (uint32_t i = 0; i < source->n_places; i++) {
			size_t used = strlen(all);
			snprintf(all + used, sizeof(all) - used, "%s%s", i > 0 ? ", " : "",
				source->places[i]);
		}
		snprintf(why, size, "no daemon at %s; start gpuqd or set GPUQ_SOCKET", all);
	} else if (error == -EACCES) {
		snprintf(why, size,
			"the statistics of %s may not be read: they show all users; ask its "
			"administrator (stats_mode in gpuqd.conf)",
			at);
	} else if (error == -EPROTO) {
		snprintf(why, size,
			"the statistics of %s are damaged or of another version of gpuq; restart "
			"gpuqd",
			at);
	} else {
		snprintf(why, size, "the statistics of %s: %s", at, strerror(-error));
	}
	return error;
}

int snapshot_take(
	struct snapshot_source *source, struct snapshot **ret_snapshot, char *why, size_t why_size)
{
	uint32_t first = source->chosen < 0 ? 0 : (uint32_t)source->chosen;
	uint32_t last = source->chosen < 0 ? source->n_places - 1 : first;
	uint32_t blamed = first;
	struct snapshot *best = NULL;
	int error = -ENOENT;

	for (uint32_t i = first; i <= last; i++) {
		struct snapshot *s;
		int r = take_from(source->places[i], source->file, &s);

		if (r < 0 && r != -ENOENT && error == -ENOENT) {
			error = r;
			blamed = i;
		}
		if (r < 0)
			continue;
		if (best != NULL && !snapshot_alive(s)) {
			snapshot_free(s);
			continue;
		}
		snapshot_free(best);
		best = s;
		source->chosen = (int)i;
		if (snapshot_alive(s))
			break;
	}
	if (best == NULL)
		return explain(source, error, blamed, why, why_size);
	*ret_snapshot = best;
	return 0;
}

void snapshot_read_hardware(struct snapshot *s, struct hardware *hardware)
{
	const struct stats_device *devices = s->devices.rows;

	if (!snapshot_alive(s))
		return;
	for (uint32_t i = 0; i < s->devices.n; i++) {
		const uint32_t number = s->devices.records[i];
		if (number < WIRE_MAX_DEVICES)
			hardware_read(hardware, &devices[i], &s->hardware[number]);
	}
}

void snapshot_free(struct snapshot *snapshot)
{
	if (snapshot == NULL)
		return;
	struct snapshot_table *const tables[] = {&snapshot->devices, &snapshot->clients,
		&snapshot->channels, &snapshot->graphs, &snapshot->models, &snapshot->sessions,
		&snapshot->pipelines, &snapshot->ops, &snapshot->errors};
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
		free(tables[i]->records);
		free(tables[i]->rows);
	}
	free(snapshot);
}

/* It has ended, and its parent has not asked how. */
static bool is_zombie(uint32_t pid)
{
	char path[32], text[512];

	snprintf(path, sizeof(path), "/proc/%u/stat", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	const char *name_end = strrchr(text, ')');
	return name_end != NULL && strncmp(name_end, ") Z", 3) == 0;
}

bool snapshot_process_exists(const struct snapshot *snapshot)
{
	uint32_t pid = snapshot->header.control_pid;

	if (pid == 0 || pid > INT32_MAX)
		return false;
	/* EPERM: somebody else's process, but there. */
	return (kill((pid_t)pid, 0) == 0 || errno == EPERM) && !is_zombie(pid);
}

uint64_t snapshot_silent_ns(const struct snapshot *snapshot)
{
	const struct stats_header *h = &snapshot->header;
	uint64_t now_ns = h->heartbeat_ns > 0 ? snapshot->clock_ns : snapshot->realtime_ns;
	uint64_t seen_ns = h->heartbeat_ns > 0 ? h->heartbeat_ns : h->started_realtime_ns;

	return now_ns > seen_ns ? now_ns - seen_ns : 0; /* its start was a sign of life, too */
}

bool snapshot_alive(const struct snapshot *snapshot)
{
	return snapshot->header.state != WIRE_STOPPED && snapshot->process_exists &&
		snapshot_silent_ns(snapshot) < SNAPSHOT_SILENT_NS;
}
