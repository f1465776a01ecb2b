/* SPDX-License-Identifier: MIT */
/* wait.c: how many CPUs this process may use, which decides whether spinning pays; see wait.h. */
#include "shm/wait.h"

#include <stdio.h>
#include <string.h>

/* The quota of one cgroup v2 directory in whole CPUs, or UINT32_MAX when it has none. */
static uint32_t cgroup_quota(const char *directory)
{
	char path[512];
	unsigned long quota, period;
	uint32_t cpus = UINT32_MAX;

	snprintf(path, sizeof(path), "/sys/fs/cgroup%s/cpu.max", directory);
	FILE *f = fopen(path, "re");
	if (f == NULL)
		return cpus;
	if (fscanf(f, "%lu %lu", &quota, &period) == 2 && period > 0)
		cpus = (uint32_t)((quota + period - 1) / period);
	fclose(f);
	return cpus;
}

/* The smallest quota on the way from this process's cgroup to the root. */
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
			uint32_t here = cgroup_quota(directory);
			cpus = here < cpus ? here : cpus;
			char *slash = strrchr(directory, '/');
			if (slash == NULL)
				break;
			*slash = '\0';
		}
	}
	fclose(f);
	return cpus;
}

uint32_t wait_usable_cpus(void)
{
	cpu_set_t set;
	uint32_t cpus = 1;

	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		cpus = (uint32_t)CPU_COUNT(&set);
	uint32_t quota = cgroup_cpus();
	cpus = quota < cpus ? quota : cpus;
	return cpus > 0 ? cpus : 1;
}
