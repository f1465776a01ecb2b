/* SPDX-License-Identifier: MIT */
/* wait.c: how many CPUs this process may use, which decides whether spinning pays; see wait.h. */
#include "shm/wait.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* CPUs in a list like "0-3,8". */
static uint32_t count_list(const char *list)
{
	uint32_t cpus = 0;

	while (*list >= '0' && *list <= '9') {
		char *end;
		unsigned long first = strtoul(list, &end, 10), last = first;
		if (*end == '-')
			last = strtoul(end + 1, &end, 10);
		cpus += last >= first ? (uint32_t)(last - first + 1) : 0;
		list = *end == ',' ? end + 1 : end;
	}
	return cpus;
}

static bool read_line(const char *directory, const char *name, char *line, int size)
{
	char path[512];

	snprintf(path, sizeof(path), "/sys/fs/cgroup%s/%s", directory, name);
	FILE *f = fopen(path, "re");
	if (f == NULL)
		return false;
	bool ok = fgets(line, size, f) != NULL;
	fclose(f);
	return ok;
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* What one cgroup v2 directory allows, or UINT32_MAX when it sets no limit. */
static uint32_t cgroup_limit(const char *directory)
{
	unsigned long quota, period;
	char line[400];
	uint32_t cpus = UINT32_MAX;

	if (read_line(directory, "cpu.max", line, sizeof(line)) &&
		sscanf(line, "%lu %lu", &quota, &period) == 2 && period > 0)
		cpus = (uint32_t)((quota + period - 1) / period);
	if (read_line(directory, "cpuset.cpus.effective", line, sizeof(line))) {
		uint32_t set = count_list(line);
		cpus = set > 0 ? smaller(cpus, set) : cpus;
	}
	return cpus;
}

/* The smallest limit on the way from this process's cgroup to the root. */
static uint32_t cgroup_cpus(void)
{
	char line[400];
	uint32_t cpus = UINT32_MAX;
	FILE *f = fopen("/proc/self/cgroup", "re");

	if (f == NULL)
		return cpus;
	while (fgets(line, sizeof(line), f) != NULL) {
		if (strncmp(line, "0::/", 4) != 0)
			continue;
		char *directory = line + 3;
		directory[strcspn(directory, "\n")] = '\0';
		for (;;) {
			cpus = smaller(cpus, cgroup_limit(directory));
			char *slash = strrchr(directory, '/');
			if (slash == NULL)
				break;
			*slash = '\0';
		}
	}
	fclose(f);
	return cpus;
}

uint32_t wait_shared_cpus(void)
{
	long online = sysconf(_SC_NPROCESSORS_ONLN);
	uint32_t cpus = smaller(online > 0 ? (uint32_t)online : 1, cgroup_cpus());

	return cpus > 0 ? cpus : 1;
}
