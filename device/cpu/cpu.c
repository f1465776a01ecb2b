/* SPDX-License-Identifier: MIT */
/* cpu.c: opening and closing the CPU device, its memory, and what it says about itself. */
#include "device/cpu/cpu.h"
#include "shm/segment.h"
#include "shm/wait.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#define ALIGNMENT 256u
#define HUGE_PAGE ((uint64_t)2 << 20)
#define MAP_FROM ((uint64_t)32 << 20)
#define WORKERS_PART 2u /* workers for two thirds of the CPUs */
#define WORKERS_OF 3u

/* --- What there is ------------------------------------------------------------------------ */

/* The processor's name as the kernel gives it. */
static void cpu_model(char *name, size_t size)
{
	char line[256];
	FILE *f = fopen("/proc/cpuinfo", "re");

	snprintf(name, size, "CPU");
	while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
		char *colon = strchr(line, ':');
		if (strncmp(line, "model name", 10) != 0 || colon == NULL || colon[1] != ' ')
			continue;
		colon[strcspn(colon, "\n")] = '\0';
		snprintf(name, size, "%s", colon + 2);
		break;
	}
	if (f != NULL)
		fclose(f);
}

/* CPUs that this process itself may use. */
static uint32_t own_cpus(void)
{
	uint32_t shared = wait_shared_cpus();
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return shared;
	uint32_t own = (uint32_t)CPU_COUNT(&set);
	return own < shared ? own : shared;
}

/* Dispatch has a CPU of its own, and clients find a free one as they wake, where there are some. */
static uint32_t workers_for(uint32_t cpus)
{
	const uint32_t most = cpus * WORKERS_PART / WORKERS_OF;

	return most > 0 ? most : 1;
}

static uint64_t memory_total(void)
{
	struct sysinfo info = {0};

	sysinfo(&info);
	return (uint64_t)info.totalram * info.mem_unit;
}

/* What the system would give without swapping: caches of files count, as they can be dropped. */
static uint64_t memory_available(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	uint64_t kib = 0;
	char line[128];

	while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
		if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1)
			break;
	}
	if (f != NULL)
		fclose(f);
	return kib * 1024;
}

static uint32_t cpu_list(struct device_present *ret_devices, uint32_t max)
{
	*ret_devices = (struct device_present){.kind = "cpu"};
	cpu_model(ret_devices->name, sizeof(ret_devices->name));
	return 1;
}

static void cpu_info(struct device *device, struct device_info *ret_info)
{
	struct cpu_device *d = cpu_device(device);

	*ret_info = (struct device_info){
		.kind = "cpu",
		.workers = d->n_workers,
		.direct_kernels = 1,
	};
	snprintf(ret_info->name, sizeof(ret_info->name), "%s", d->name);
	ret_info->total_bytes = memory_total();
	ret_info->free_bytes = memory_available();
}

/* --- Opening and closing ------------------------------------------------------------------ */

static void cpu_close(struct device *device)
{
	struct cpu_device *d = cpu_device(device);

	for (uint32_t p = 0; p < CPU_PRIORITIES; p++) {
		for (uint64_t i = 0; i < d->n_streams[p] && d->n_workers > 0; i++)
			cpu_stream_drain(d->streams[p][i], d->streams[p][i]->tail);
	}
	cpu_workers_stop(d);
	for (uint32_t p = 0; p < CPU_PRIORITIES; p++) {
		for (uint64_t i = 0; i < d->n_streams[p]; i++)
			free(d->streams[p][i]);
	}
	pthread_mutex_destroy(&d->parked_lock);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

static void name_device(struct cpu_device *d, uint32_t workers)
{
	char model[96];

	cpu_model(model, sizeof(model));
	snprintf(d->name, sizeof(d->name), "%s, %u worker%s", model, workers,
		workers == 1 ? "" : "s");
}

static int cpu_open(const struct device_options *options, uint32_t ordinal,
	struct device **ret_device, char why[192])
{
	uint32_t own = own_cpus(), workers = options->workers;
	struct cpu_device *d;

	if (workers == 0)
		workers = workers_for(own);
	if (workers > CPU_MAX_WORKERS)
		workers = CPU_MAX_WORKERS;
	/* calloc() does not align to cache lines. */
	if (posix_memalign((void **)&d, WIRE_LINE, sizeof(*d)) != 0)
		return -ENOMEM;
	memset(d, 0, sizeof(*d));
	d->base.options = *options;
	d->base.options.kind = NULL;
	d->base.options.faults = NULL;
	d->spin = workers < wait_shared_cpus();
	name_device(d, workers);
	TAILQ_INIT(&d->pool);
	TAILQ_INIT(&d->parked);
	LIST_INIT(&d->registrations);
	LIST_INIT(&d->mappings);
	pthread_mutex_init(&d->lock, NULL);
	pthread_mutex_init(&d->parked_lock, NULL);
	int r = cpu_workers_start(d, workers);
	if (r < 0) {
		snprintf(why, 192, "cannot start %u workers: %s", workers, strerror(-r));
		cpu_close(&d->base);
		return r;
	}
	*ret_device = &d->base;
	return 0;
}

static int cpu_check(struct device *device)
{
	return 0;
}

static void cpu_sleep_prepare(struct device *device, bool asleep)
{
	shm_store_relaxed(&cpu_device(device)->asleep, asleep);
	/* Pairs with the fence in end_command(). */
	shm_fence();
}

/* --- Memory ------------------------------------------------------------------------------- */

/* Takes the range that begins there out of the list; NULL: there is none. */
static struct cpu_range *take_range(
	struct cpu_device *d, struct cpu_range_list *list, const void *base)
{
	struct cpu_range *range;

	pthread_mutex_lock(&d->lock);
	LIST_FOREACH (range, list, link) {
		if (range->base == base)
			break;
	}
	if (range != NULL)
		LIST_REMOVE(range, link);
	pthread_mutex_unlock(&d->lock);
	return range;
}

/* Whole huge pages: what a longer mapping has before and behind them is given back. */
static char *map_aligned(uint64_t bytes)
{
	char *base = mmap(NULL, bytes + HUGE_PAGE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t before;

	if (base == MAP_FAILED)
		return NULL;
	before = -(uintptr_t)base % HUGE_PAGE;
	if (before > 0)
		munmap(base, before);
	munmap(base + before + bytes, HUGE_PAGE - before);
	return base + before;
}

/* Memory of its own mapping, in huge pages where there are some; touched by nobody yet. */
static int map_alloc(struct cpu_device *d, uint64_t bytes, void **ret)
{
	struct cpu_range *mapping = malloc(sizeof(*mapping));

	if (mapping == NULL)
		return -ENOMEM;
	mapping->bytes = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
	mapping->base = map_aligned(mapping->bytes);
	if (mapping->base == NULL) {
		free(mapping);
		return -ENOMEM;
	}
	/* Only advice: small pages do as well, and a core dump needs no weights. */
	(void)madvise(mapping->base, mapping->bytes, MADV_HUGEPAGE);
	(void)madvise(mapping->base, mapping->bytes, MADV_DONTDUMP);
	*ret = mapping->base;
	pthread_mutex_lock(&d->lock);
	LIST_INSERT_HEAD(&d->mappings, mapping, link);
	pthread_mutex_unlock(&d->lock);
	return 0;
}

static int cpu_alloc(struct device *device, enum device_memory kind, uint64_t bytes, void **ret)
{
	void *data;

	/* The system promises more than it has, and kills who uses that. */
	if (bytes > memory_total())
		return -ENOMEM;
	if (bytes >= MAP_FROM)
		return map_alloc(cpu_device(device), bytes, ret);
	if (posix_memalign(&data, ALIGNMENT, bytes) != 0)
		return -ENOMEM;
	*ret = data;
	return 0;
}

static void cpu_free(struct device *device, enum device_memory kind, void *data)
{
	struct cpu_device *d = cpu_device(device);
	struct cpu_range *mapping = NULL;

	if ((uintptr_t)data % HUGE_PAGE == 0)
		mapping = take_range(d, &d->mappings, data);
	if (mapping == NULL) {
		free(data);
		return;
	}
	munmap(mapping->base, mapping->bytes);
	free(mapping);
}

static int cpu_register(struct device *device, void *base, uint64_t bytes, void **ret)
{
	struct cpu_device *d = cpu_device(device);
	struct cpu_range *new = malloc(sizeof(*new)), *old;
	int r = 0;

	if (new == NULL)
		return -ENOMEM;
	*new = (struct cpu_range){.base = base, .bytes = bytes};
	pthread_mutex_lock(&d->lock);
	LIST_FOREACH (old, &d->registrations, link) {
		if (new->base < old->base + old->bytes && old->base < new->base + bytes)
			r = -EEXIST;
	}
	if (r == 0)
		LIST_INSERT_HEAD(&d->registrations, new, link);
	pthread_mutex_unlock(&d->lock);
	if (r < 0)
		free(new);
	else
		*ret = base;
	return r;
}

static void cpu_unregister(struct device *device, void *base)
{
	struct cpu_device *d = cpu_device(device);

	free(take_range(d, &d->registrations, base));
}

static int cpu_export_create(struct device *device, enum device_export_form form, uint64_t bytes,
	struct device_export *ret_export)
{
	struct device_export export = {.form = form};

	if (form != DEVICE_EXPORT_FD)
		return -EOPNOTSUPP;
	export.bytes = (bytes + DEVICE_EXPORT_UNIT - 1) / DEVICE_EXPORT_UNIT * DEVICE_EXPORT_UNIT;
	if (export.bytes > memory_total())
		return -ENOMEM;
	export.fd = segment_create("gpuq-buffer", export.bytes);
	if (export.fd < 0)
		return export.fd;
	int r = segment_map(export.fd, export.bytes, true, &export.data);
	if (r < 0) {
		close(export.fd);
		return r;
	}
	*ret_export = export;
	return 0;
}

static void cpu_export_destroy(struct device *device, const struct device_export *export)
{
	munmap(export->data, export->bytes);
}

static int cpu_exec_upload(struct device_exec *exec, struct device_stream *stream)
{
	return 0;
}

const struct device_driver device_cpu_driver = {
	.version = DEVICE_DRIVER_VERSION,
	.kind = "cpu",
	.open = cpu_open,
	.close = cpu_close,
	.list = cpu_list,
	.info = cpu_info,
	.check = cpu_check,
	.sleep_prepare = cpu_sleep_prepare,
	.alloc = cpu_alloc,
	.free = cpu_free,
	.register_host = cpu_register,
	.unregister_host = cpu_unregister,
	.export_create = cpu_export_create,
	.export_destroy = cpu_export_destroy,
	.stream_create = cpu_stream_create,
	.stream_destroy = cpu_stream_destroy,
	.stream_query = cpu_stream_query,
	.stream_wait = cpu_stream_wait,
	.event_create = cpu_event_create,
	.event_destroy = cpu_event_destroy,
	.event_record = cpu_event_record,
	.event_await = cpu_event_await,
	.event_query = cpu_event_query,
	.launch = cpu_launch,
	.copy = cpu_copy,
	.fill = cpu_fill,
	.signal = cpu_signal,
	.capture_begin = cpu_capture_begin,
	.capture_end = cpu_capture_end,
	.graph_destroy = cpu_graph_destroy,
	.exec_create = cpu_exec_create,
	.exec_upload = cpu_exec_upload,
	.exec_launch = cpu_exec_launch,
	.exec_destroy = cpu_exec_destroy,
};
