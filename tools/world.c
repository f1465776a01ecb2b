/* SPDX-License-Identifier: MIT */
/* world.c: reads /proc and the statistics object; see world.h. */
#include "tools/world.h"

#include "shm/atomics.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool names_segment(const char *text)
{
	return strstr(text, "memfd:gpuq-channel") != NULL ||
		strstr(text, "memfd:gpuq-buffer") != NULL;
}

/* Threads, but for those in which the kernel executes what was asked of an io_uring. */
static uint64_t count_threads(pid_t pid)
{
	char path[300], name[32];
	uint64_t n = 0;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	DIR *dir = opendir(path);
	struct dirent *e;
	while (dir != NULL && (e = readdir(dir)) != NULL) {
		snprintf(path, sizeof(path), "/proc/%d/task/%s/comm", (int)pid, e->d_name);
		FILE *f = e->d_name[0] != '.' ? fopen(path, "re") : NULL;
		if (f == NULL)
			continue;
		n += fgets(name, sizeof(name), f) != NULL && strncmp(name, "iou-wrk-", 8) != 0;
		fclose(f);
	}
	if (dir != NULL)
		closedir(dir);
	return n;
}

static void count_fds(pid_t pid, struct world_process *p)
{
	char path[64], target[256];

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	DIR *dir = opendir(path);
	struct dirent *e;
	while (dir != NULL && (e = readdir(dir)) != NULL) {
		ssize_t bytes = readlinkat(dirfd(dir), e->d_name, target, sizeof(target) - 1);
		target[bytes > 0 ? bytes : 0] = '\0';
		p->fds += e->d_name[0] != '.';
		p->segments += names_segment(target);
	}
	if (dir != NULL)
		closedir(dir);
}

static FILE *open_proc(pid_t pid, const char *what)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, what);
	return fopen(path, "re");
}

static uint64_t count_segment_mappings(pid_t pid)
{
	char line[512];
	uint64_t n = 0;
	FILE *f = open_proc(pid, "maps");

	while (f != NULL && fgets(line, sizeof(line), f) != NULL)
		n += names_segment(line);
	if (f != NULL)
		fclose(f);
	return n;
}

static uint64_t read_pss_kib(pid_t pid)
{
	char line[256];
	unsigned long long kib = 0;
	FILE *f = open_proc(pid, "smaps_rollup");

	while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
		if (sscanf(line, "Pss: %llu kB", &kib) == 1)
			break;
	}
	if (f != NULL)
		fclose(f);
	return kib;
}

static struct world_process look_at_process(pid_t pid)
{
	struct world_process p = {
		.threads = count_threads(pid),
		.segments = count_segment_mappings(pid),
		.pss_kib = read_pss_kib(pid),
	};

	count_fds(pid, &p);
	return p;
}

struct world world_read(pid_t control_pid, const struct stats *s)
{
	const struct stats_header *h = s->header;
	struct world w = {
		.clients = shm_load_relaxed(&h->clients),
		.channels = shm_load_relaxed(&h->channels),
		.segment_bytes = shm_load_relaxed(&h->segment_bytes),
		.buffers = shm_load_relaxed(&h->buffers),
		.buffer_bytes = shm_load_relaxed(&h->buffer_bytes),
		.pipelines = shm_load_relaxed(&h->pipelines),
		.queued = shm_load_relaxed(&s->devices[0].queued),
		.executing = shm_load_relaxed(&s->devices[0].executing),
		.graph_bytes = shm_load_relaxed(&s->devices[0].graph_bytes),
		.device_restarts = shm_load_relaxed(&h->device_restarts),
		.deaths = shm_load_relaxed(&h->deaths),
		.poisoned = shm_load_relaxed(&s->devices[0].poisoned),
	};

	for (uint32_t i = 0; i < h->max_clients; i++)
		w.dying += shm_load_acquire_u32(&s->clients[i].state) == STATS_CLIENT_DEAD &&
			shm_load_acquire(&s->clients[i].reclaimed_ns) == 0;
	for (uint32_t i = 0; i < h->max_channels; i++)
		w.in_flight += shm_load_relaxed(&s->channels[i].in_flight);
	for (uint32_t i = 0; i < h->max_models; i++) {
		const struct stats_model *m = &s->models[i];
		if (shm_load_acquire_u32(&m->state) == 0)
			continue;
		w.sessions += shm_load_relaxed(&m->sessions);
		w.kv_used += shm_load_relaxed(&m->kv_blocks) -
			shm_load_relaxed(&m->kv_free_blocks) -
			shm_load_relaxed(&m->kv_cached_blocks);
	}
	/* Afterwards: what is gone by then is gone from here too. */
	w.control = look_at_process(control_pid);
	w.device = look_at_process((pid_t)s->devices[0].pid);
	return w;
}

static bool process_is_back(
	const struct world_process *now, const struct world_process *before, uint64_t slack_kib)
{
	bool memory =
		now->pss_kib <= before->pss_kib || now->pss_kib - before->pss_kib <= slack_kib;

	return memory && now->fds == before->fds && now->threads == before->threads &&
		now->segments == before->segments;
}

bool world_is_back(const struct world *now, const struct world *before, uint64_t slack_kib)
{
	return process_is_back(&now->control, &before->control, slack_kib) &&
		process_is_back(&now->device, &before->device, slack_kib) &&
		now->dying <= before->dying && now->clients == before->clients &&
		now->channels == before->channels && now->segment_bytes == before->segment_bytes &&
		now->buffers == before->buffers && now->buffer_bytes == before->buffer_bytes &&
		now->pipelines == before->pipelines && now->sessions == before->sessions &&
		now->kv_used == before->kv_used && now->in_flight <= before->in_flight &&
		now->queued <= before->queued && now->executing <= before->executing;
}

static int describe_process(
	char *text, size_t size, const char *name, const struct world_process *p)
{
	return snprintf(text, size,
		"  %s: %llu descriptors, %llu threads, %llu segments, Pss %llu KiB\n", name,
		(unsigned long long)p->fds, (unsigned long long)p->threads,
		(unsigned long long)p->segments, (unsigned long long)p->pss_kib);
}

void world_describe(const struct world *w, char *text, size_t size)
{
	size_t n = (size_t)describe_process(text, size, "control", &w->control);

	if (n < size)
		n += (size_t)describe_process(text + n, size - n, "device", &w->device);
	if (n >= size)
		return;
	snprintf(text + n, size - n,
		"  %llu clients, %llu channels of %llu bytes, %llu buffers of %llu bytes, %llu "
		"pipelines, %llu sessions with %llu blocks;\n"
		"  %llu in flight, %llu queued, %llu executing; %llu restarts, %llu deaths, %llu "
		"poisoned",
		(unsigned long long)w->clients, (unsigned long long)w->channels,
		(unsigned long long)w->segment_bytes, (unsigned long long)w->buffers,
		(unsigned long long)w->buffer_bytes, (unsigned long long)w->pipelines,
		(unsigned long long)w->sessions, (unsigned long long)w->kv_used,
		(unsigned long long)w->in_flight, (unsigned long long)w->queued,
		(unsigned long long)w->executing, (unsigned long long)w->device_restarts,
		(unsigned long long)w->deaths, (unsigned long long)w->poisoned);
}
