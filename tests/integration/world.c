/* SPDX-License-Identifier: MIT */
/* world.c: reads /proc and the statistics object; see world.h. */
#include "tests/integration/world.h"

#include "shm/clock.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AWAIT_NS 10000000000u
/* The C library keeps a little of what was freed, and page tables and stacks warm up. */
#define PSS_SLACK_KIB 1024
#define CUDA_SLACK_KIB (128u << 10)

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

static uint64_t count_segment_fds(pid_t pid)
{
	char path[64], target[256];
	uint64_t n = 0;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	DIR *dir = opendir(path);
	struct dirent *e;
	while (dir != NULL && (e = readdir(dir)) != NULL) {
		ssize_t bytes = readlinkat(dirfd(dir), e->d_name, target, sizeof(target) - 1);
		target[bytes > 0 ? bytes : 0] = '\0';
		n += names_segment(target);
	}
	if (dir != NULL)
		closedir(dir);
	return n;
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
	return (struct world_process){
		.fds = raw_count_fds(pid),
		.threads = count_threads(pid),
		.segments = count_segment_fds(pid) + count_segment_mappings(pid),
		.pss_kib = read_pss_kib(pid),
	};
}

struct world world_look(const struct harness_daemon *daemon)
{
	struct stats s = raw_stats(daemon);
	const struct stats_header *h = s.header;
	struct world w = {
		.control = look_at_process(daemon->pid),
		.device = look_at_process((pid_t)s.devices[0].pid),
		.clients = shm_load_relaxed(&h->clients),
		.channels = shm_load_relaxed(&h->channels),
		.segment_bytes = shm_load_relaxed(&h->segment_bytes),
		.queued = shm_load_relaxed(&s.devices[0].queued),
		.executing = shm_load_relaxed(&s.devices[0].executing),
		.device_restarts = shm_load_relaxed(&h->device_restarts),
		.deaths = shm_load_relaxed(&h->deaths),
		.poisoned = shm_load_relaxed(&s.devices[0].poisoned),
	};

	for (uint32_t i = 0; i < h->max_channels; i++)
		w.in_flight += shm_load_relaxed(&s.channels[i].in_flight);
	stats_close(&s);
	return w;
}

static bool process_is_back(const struct world_process *now, const struct world_process *before)
{
	/*
	 * A sanitizer keeps freed memory for a while, and its own books besides; CUDA takes 700
	 * MiB, give or take some.
	 */
	const uint64_t slack_kib = harness_on_gpu() ? CUDA_SLACK_KIB : PSS_SLACK_KIB;
	bool memory = harness_slowness() > 1 || now->pss_kib <= before->pss_kib + slack_kib;

	return memory && now->fds == before->fds && now->threads == before->threads &&
		now->segments == before->segments;
}

static bool world_is_back(const struct world *now, const struct world *before)
{
	return process_is_back(&now->control, &before->control) &&
		process_is_back(&now->device, &before->device) && now->clients == before->clients &&
		now->channels == before->channels && now->segment_bytes == before->segment_bytes &&
		now->in_flight <= before->in_flight && now->queued <= before->queued &&
		now->executing <= before->executing;
}

void world_await(const struct harness_daemon *daemon, const struct world *before)
{
	const uint64_t patience_ns = AWAIT_NS * harness_slowness();
	uint64_t start_ns = clock_monotonic_ns();
	struct world now = world_look(daemon);

	while (clock_monotonic_ns() - start_ns < patience_ns) {
		if (world_is_back(&now, before))
			return;
		raw_pause();
		now = world_look(daemon);
	}
	world_print("before", before);
	world_print("now", &now);
	fail_msg("gpuqd does not come back to where it was");
}

static void print_process(const char *name, const struct world_process *p)
{
	print_message("  %s: %llu descriptors, %llu threads, %llu segments, Pss %llu KiB\n", name,
		(unsigned long long)p->fds, (unsigned long long)p->threads,
		(unsigned long long)p->segments, (unsigned long long)p->pss_kib);
}

void world_print(const char *title, const struct world *w)
{
	print_message("%s:\n", title);
	print_process("control", &w->control);
	print_process("device", &w->device);
	print_message("  %llu clients, %llu channels, %llu bytes; %llu in flight, %llu queued, "
		      "%llu executing; %llu restarts, %llu deaths, %llu poisoned\n",
		(unsigned long long)w->clients, (unsigned long long)w->channels,
		(unsigned long long)w->segment_bytes, (unsigned long long)w->in_flight,
		(unsigned long long)w->queued, (unsigned long long)w->executing,
		(unsigned long long)w->device_restarts, (unsigned long long)w->deaths,
		(unsigned long long)w->poisoned);
}

pid_t world_device_pid(const struct harness_daemon *daemon)
{
	struct stats s = raw_stats(daemon);
	bool ready = shm_load_acquire_u32(&s.devices[0].state) == STATS_DEVICE_READY;
	pid_t pid = ready ? (pid_t)s.devices[0].pid : 0;

	stats_close(&s);
	return pid;
}
