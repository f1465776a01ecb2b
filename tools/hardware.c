/* SPDX-License-Identifier: MIT */
/*
 * Readings of devices. NVML's functions are declared here: its header comes with the CUDA toolkit
 * only, and its interface has been the same since the driver's first version.
 */
#include "tools/hardware.h"

#include "shm/clock.h"

#include <dlfcn.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NVML_TEMPERATURE_GPU 0

struct nvml_utilization {
	unsigned int gpu, memory; /* percent */
};

struct nvml_memory {
	unsigned long long total, free, used;
};

/* Each returns 0 on success. */
struct nvml {
	void *library; /* NULL: there is none */
	int (*init)(void);
	int (*shutdown)(void);
	int (*by_uuid)(const char *uuid, void **ret_device);
	int (*utilization)(void *device, struct nvml_utilization *ret);
	int (*memory)(void *device, struct nvml_memory *ret);
	int (*power)(void *device, unsigned int *ret_mw);
	int (*temperature)(void *device, int sensor, unsigned int *ret_c);
};

/* The machine's counters at the last reading; since_ns 0: there was none. */
struct cpu_counters {
	uint64_t busy, total; /* clock ticks of all CPUs */
	uint64_t energy_uj;
	uint64_t since_ns;
};

struct hardware {
	struct nvml nvml;
	struct cpu_counters cpu;
};

struct hardware_reading hardware_unknown(void)
{
	return (struct hardware_reading){NAN, NAN, NAN, NAN, NAN};
}

/* --- GPUs ---------------------------------------------------------------------------------- */

/* All functions are there. POSIX lets a symbol's address be stored as that of a function. */
static bool nvml_resolve(struct nvml *n)
{
	const struct {
		const char *name;
		void *place;
	} functions[] = {
		{"nvmlInit_v2", &n->init},
		{"nvmlShutdown", &n->shutdown},
		{"nvmlDeviceGetHandleByUUID", &n->by_uuid},
		{"nvmlDeviceGetUtilizationRates", &n->utilization},
		{"nvmlDeviceGetMemoryInfo", &n->memory},
		{"nvmlDeviceGetPowerUsage", &n->power},
		{"nvmlDeviceGetTemperature", &n->temperature},
	};

	for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
		void *symbol = dlsym(n->library, functions[i].name);
		if (symbol == NULL)
			return false;
		memcpy(functions[i].place, &symbol, sizeof(symbol));
	}
	return true;
}

static void nvml_open(struct nvml *n)
{
	n->library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
	if (n->library == NULL)
		return;
	if (nvml_resolve(n) && n->init() == 0)
		return;
	dlclose(n->library);
	n->library = NULL;
}

static void nvml_read(const struct nvml *n, const char *uuid, struct hardware_reading *r)
{
	struct nvml_utilization utilization;
	struct nvml_memory memory;
	unsigned int value;
	void *device;

	if (n->library == NULL || n->by_uuid(uuid, &device) != 0)
		return;
	/* A part of a GPU (MIG) knows some of these only. */
	if (n->utilization(device, &utilization) == 0)
		r->utilization = utilization.gpu / 100.0;
	if (n->memory(device, &memory) == 0) {
		r->memory_used_bytes = (double)memory.used;
		r->memory_bytes = (double)memory.total;
	}
	if (n->power(device, &value) == 0)
		r->power_w = value / 1e3;
	if (n->temperature(device, NVML_TEMPERATURE_GPU, &value) == 0)
		r->temperature_c = value;
}

/* --- The machine --------------------------------------------------------------------------- */

/* The first line of a file; false when there is none. */
static bool read_line(const char *path, char *line, int size)
{
	FILE *f = fopen(path, "re");

	if (f == NULL)
		return false;
	bool read = fgets(line, size, f) != NULL;
	fclose(f);
	return read;
}

static bool read_number(const char *path, double *ret)
{
	char line[64], *end;

	if (!read_line(path, line, sizeof(line)))
		return false;
	*ret = strtod(line, &end);
	return end != line;
}

static void read_memory(struct hardware_reading *r)
{
	unsigned long long kib, total = 0, available = 0;
	FILE *f = fopen("/proc/meminfo", "re");
	char line[128];

	if (f == NULL)
		return;
	while (fgets(line, sizeof(line), f) != NULL) {
		if (sscanf(line, "MemTotal: %llu", &kib) == 1)
			total = kib;
		else if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
			available = kib;
	}
	fclose(f);
	if (total == 0 || available > total)
		return;
	r->memory_bytes = (double)total * 1024;
	r->memory_used_bytes = (double)(total - available) * 1024;
}

/* user, nice, system, idle, iowait, irq, softirq, steal; the rest is in the first two already. */
static bool read_ticks(uint64_t *ret_busy, uint64_t *ret_total)
{
	unsigned long long t[8] = {0};
	char line[256];

	if (!read_line("/proc/stat", line, sizeof(line)) ||
		sscanf(line, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &t[0], &t[1], &t[2],
			&t[3], &t[4], &t[5], &t[6], &t[7]) < 4)
		return false;
	*ret_total = t[0] + t[1] + t[2] + t[3] + t[4] + t[5] + t[6] + t[7];
	*ret_busy = *ret_total - t[3] - t[4];
	return true;
}

/* Of the package, as far as the kernel knows one. */
static void read_temperature(struct hardware_reading *r)
{
	char path[96], type[64];
	double milli_c;

	for (int i = 0; i < 16; i++) {
		snprintf(path, sizeof(path), "/sys/class/thermal/thermal_zone%d/type", i);
		if (!read_line(path, type, sizeof(type)))
			return;
		if (strncmp(type, "x86_pkg_temp", 12) != 0 && strncmp(type, "cpu", 3) != 0)
			continue;
		snprintf(path, sizeof(path), "/sys/class/thermal/thermal_zone%d/temp", i);
		if (read_number(path, &milli_c))
			r->temperature_c = milli_c / 1e3;
		return;
	}
}

static void machine_read(struct cpu_counters *before, struct hardware_reading *r)
{
	struct cpu_counters now = {.since_ns = clock_monotonic_ns()};
	double energy_uj = 0;
	const bool ticks = read_ticks(&now.busy, &now.total);

	/* For root only. */
	if (read_number("/sys/class/powercap/intel-rapl:0/energy_uj", &energy_uj))
		now.energy_uj = (uint64_t)energy_uj;
	if (ticks && before->since_ns != 0 && now.total > before->total && now.busy >= before->busy)
		r->utilization =
			(double)(now.busy - before->busy) / (double)(now.total - before->total);
	if (before->since_ns != 0 && before->energy_uj != 0 && now.energy_uj > before->energy_uj)
		r->power_w = 1e3 * (double)(now.energy_uj - before->energy_uj) /
			(double)(now.since_ns - before->since_ns);
	*before = now;
	read_memory(r);
	read_temperature(r);
}

/* --- Both ---------------------------------------------------------------------------------- */

int hardware_open(struct hardware **ret_hardware)
{
	struct hardware *h = calloc(1, sizeof(*h));

	if (h == NULL)
		return -ENOMEM;
	nvml_open(&h->nvml);
	*ret_hardware = h;
	return 0;
}

void hardware_close(struct hardware *h)
{
	if (h == NULL)
		return;
	if (h->nvml.library != NULL) {
		h->nvml.shutdown();
		dlclose(h->nvml.library);
	}
	free(h);
}

void hardware_read(
	struct hardware *h, const struct stats_device *device, struct hardware_reading *ret_reading)
{
	char uuid[sizeof(device->uuid) + 1];

	*ret_reading = hardware_unknown();
	snprintf(uuid, sizeof(uuid), "%.*s", (int)sizeof(device->uuid), device->uuid);
	if (uuid[0] != '\0')
		nvml_read(&h->nvml, uuid, ret_reading);
	else if (strncmp(device->kind, "cpu", sizeof(device->kind)) == 0)
		machine_read(&h->cpu, ret_reading);
}
