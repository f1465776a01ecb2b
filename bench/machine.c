/* SPDX-License-Identifier: MIT */
/* machine.c: which CPUs are used, and what else about the machine decides the numbers. */
#include "bench/bench.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

/* The first line of a file without its end, or "" when it cannot be read. */
static const char *first_line(char *line, size_t size, const char *path)
{
	FILE *f = fopen(path, "re");

	line[0] = '\0';
	if (f == NULL)
		return line;
	if (fgets(line, (int)size, f) == NULL)
		line[0] = '\0';
	line[strcspn(line, "\n")] = '\0';
	fclose(f);
	return line;
}

/* --- CPUs ---------------------------------------------------------------------------------- */

static cpu_set_t usable; /* what this process was given */

/* Two threads of one core disturb each other too much to stand for two parties. */
static bool share_core(int a, int b)
{
	static const char *const files[] = {"core_id", "physical_package_id"};
	char path[96], first[32], second[32];

	for (uint32_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/topology/%s", a,
			files[i]);
		first_line(first, sizeof(first), path);
		snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/topology/%s", b,
			files[i]);
		first_line(second, sizeof(second), path);
		if (first[0] == '\0' || strcmp(first, second) != 0)
			return false;
	}
	return true;
}

void cpus_default(int *ret_first, int *ret_second)
{
	int first = -1, second = -1, sibling = -1;

	if (sched_getaffinity(0, sizeof(usable), &usable) < 0)
		CPU_ZERO(&usable);
	for (int cpu = 0; cpu < CPU_SETSIZE && second < 0; cpu++) {
		if (!CPU_ISSET(cpu, &usable))
			continue;
		if (first < 0)
			first = cpu;
		else if (!share_core(first, cpu))
			second = cpu;
		else if (sibling < 0)
			sibling = cpu;
	}
	*ret_first = first < 0 ? 0 : first;
	*ret_second = second >= 0 ? second : sibling >= 0 ? sibling : *ret_first;
}

uint32_t cpus_count(void)
{
	return (uint32_t)CPU_COUNT(&usable);
}

int cpus_free(pid_t tid)
{
	return sched_setaffinity(tid, sizeof(usable), &usable) < 0 ? -errno : 0;
}

int cpus_pin(pid_t tid, int first, int second)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(first, &set);
	CPU_SET(second, &set);
	return sched_setaffinity(tid, sizeof(set), &set) < 0 ? -errno : 0;
}

/* --- What the numbers depend on --------------------------------------------------------------- */

static void set_line(json_t *o, const char *key, const char *path)
{
	char line[256];

	if (first_line(line, sizeof(line), path)[0] != '\0')
		json_object_set_new(o, key, json_string(line));
}

/* One field of /proc/cpuinfo. */
static void set_cpuinfo(json_t *o, const char *key, const char *field)
{
	char line[2048];
	FILE *f = fopen("/proc/cpuinfo", "re");

	if (f == NULL)
		return;
	while (fgets(line, sizeof(line), f) != NULL) {
		char *colon = strchr(line, ':');
		if (colon == NULL || strncmp(line, field, strlen(field)) != 0)
			continue;
		line[strcspn(line, "\n")] = '\0';
		json_object_set_new(o, key, json_string(colon[1] == ' ' ? colon + 2 : colon + 1));
		break;
	}
	fclose(f);
}

static bool cpuinfo_has_flag(const char *flag)
{
	char line[8192], wanted[64];
	bool has = false;
	FILE *f = fopen("/proc/cpuinfo", "re");

	if (f == NULL)
		return false;
	snprintf(wanted, sizeof(wanted), " %s ", flag);
	while (!has && fgets(line, sizeof(line), f) != NULL) {
		line[strcspn(line, "\n")] = ' ';
		has = strncmp(line, "flags", 5) == 0 && strstr(line, wanted) != NULL;
	}
	fclose(f);
	return has;
}

static json_t *describe_caches(int cpu)
{
	json_t *caches = json_array();
	char path[128], line[64];

	for (int i = 0; i < 8; i++) {
		json_t *cache = json_object();
		const char *const keys[] = {"level", "type", "size", "shared_cpu_list"};

		for (uint32_t k = 0; k < 4; k++) {
			snprintf(path, sizeof(path),
				"/sys/devices/system/cpu/cpu%d/cache/index%d/%s", cpu, i, keys[k]);
			if (first_line(line, sizeof(line), path)[0] != '\0')
				json_object_set_new(cache, keys[k], json_string(line));
		}
		if (json_object_size(cache) == 0) {
			json_decref(cache);
			break;
		}
		json_array_append_new(caches, cache);
	}
	return caches;
}

static json_t *describe_cpu(int cpu)
{
	json_t *o = json_object();
	static const char *const files[][2] = {
		{"socket", "topology/physical_package_id"},
		{"die", "topology/die_id"},
		{"core", "topology/core_id"},
		{"smt_siblings", "topology/thread_siblings_list"},
		{"governor", "cpufreq/scaling_governor"},
		{"max_khz", "cpufreq/scaling_max_freq"},
	};

	json_object_set_new(o, "cpu", json_integer(cpu));
	for (uint32_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		char path[128];
		snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/%s", cpu, files[i][1]);
		set_line(o, files[i][0], path);
	}
	json_object_set_new(o, "caches", describe_caches(cpu));
	return o;
}

uint32_t machine_running(void)
{
	char line[128];
	const char *slash;

	first_line(line, sizeof(line), "/proc/loadavg");
	slash = strchr(line, '/');
	while (slash != NULL && slash > line && slash[-1] != ' ')
		slash--;
	return slash != NULL ? (uint32_t)strtoul(slash, NULL, 10) : 0;
}

json_t *machine_describe(const struct bench *b)
{
	json_t *o = json_object(), *cpus = json_array();
	struct utsname u;

	set_cpuinfo(o, "model", "model name");
	json_object_set_new(o, "virtual", json_boolean(cpuinfo_has_flag("hypervisor")));
	set_line(o, "online", "/sys/devices/system/cpu/online");
	json_array_append_new(cpus, describe_cpu(b->client_cpu));
	if (b->server_cpu != b->client_cpu)
		json_array_append_new(cpus, describe_cpu(b->server_cpu));
	json_object_set_new(o, "cpus", cpus);
	if (uname(&u) == 0)
		json_object_set_new(o, "kernel", json_sprintf("%s %s", u.sysname, u.release));
	set_line(o, "load", "/proc/loadavg");
	json_object_set_new(
		o, "clock", json_string(b->clock.shift != 0 ? "tick counter" : "system"));
	json_object_set_new(o, "clock_step_ns", json_integer((json_int_t)b->clock_step_ns));
	json_object_set_new(o, "clock_cost_ns", json_real(b->clock_cost_ns));
	return o;
}

static const char *text_of(const json_t *o, const char *key)
{
	const char *text = json_string_value(json_object_get(o, key));

	return text != NULL ? text : "?";
}

static void print_cpu(const json_t *cpu)
{
	const json_t *cache;
	size_t i;

	printf("  CPU %lld: socket %s, die %s, core %s, SMT siblings %s",
		(long long)json_integer_value(json_object_get(cpu, "cpu")), text_of(cpu, "socket"),
		text_of(cpu, "die"), text_of(cpu, "core"), text_of(cpu, "smt_siblings"));
	json_array_foreach(json_object_get(cpu, "caches"), i, cache)
	{
		if (strcmp(text_of(cache, "level"), "1") != 0)
			printf(", L%s %s with %s", text_of(cache, "level"), text_of(cache, "size"),
				text_of(cache, "shared_cpu_list"));
	}
	if (json_object_get(cpu, "governor") != NULL)
		printf(", governor %s", text_of(cpu, "governor"));
	printf("\n");
}

void machine_print(const json_t *machine)
{
	const json_t *cpu;
	size_t i;

	printf("%s%s, CPUs %s, %s, load %s\n", text_of(machine, "model"),
		json_is_true(json_object_get(machine, "virtual")) ? " (virtual machine)" : "",
		text_of(machine, "online"), text_of(machine, "kernel"), text_of(machine, "load"));
	json_array_foreach(json_object_get(machine, "cpus"), i, cpu) print_cpu(cpu);
	printf("  clock: %s, one reading %.1f ns, smallest step %lld ns\n",
		text_of(machine, "clock"),
		json_real_value(json_object_get(machine, "clock_cost_ns")),
		(long long)json_integer_value(json_object_get(machine, "clock_step_ns")));
	fflush(stdout);
}
