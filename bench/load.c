/* SPDX-License-Identifier: MIT */
/*
 * load.c: how fast the weights of a model come into the device's memory: out of the page cache,
 * beside read() of the same bytes into the same kind of memory, or into the host's where files
 * cannot be read into the device's; and from the disk, beside fio. And how long gpuqd takes from
 * its start to the first token.
 */
#include "bench/llm.h"

#include "models/upload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 5u
#define COLD_TRIES 100u
#define READ_BYTES ((size_t)1 << 20)

/* What all contenders share. */
struct loading {
	struct raw *raw;
	struct safetensors *files;
	struct model_weights *weights;
	char path[300]; /* of the file */
	int fd;
	uint64_t file_bytes;
	bool from_disk; /* the file is not in the page cache when a reading begins */
	bool uploads;	/* files cannot be read into the device's memory */
};

static int read_plain(const struct loading *l, char *memory)
{
	uint64_t done = 0;

	while (done < l->file_bytes) {
		const uint64_t left = l->file_bytes - done;
		ssize_t n = pread(
			l->fd, memory + done, left < READ_BYTES ? left : READ_BYTES, (off_t)done);

		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		done += (uint64_t)n;
	}
	return 0;
}

static int read_weights(const struct loading *l, void *memory)
{
	struct model_why why;
	int e = l->uploads
		? model_upload(raw_device(l->raw), NULL, l->weights, l->files, memory, NULL, &why)
		: model_weights_read(l->weights, l->files, memory, NULL, &why);

	if (e < 0)
		complain(0, "%s", why.text);
	return e;
}

static uint64_t cached_pages(const struct loading *l)
{
	const size_t pages = (l->file_bytes + 4095) / 4096;
	void *map = mmap(NULL, l->file_bytes, PROT_READ, MAP_SHARED, l->fd, 0);
	unsigned char *there = malloc(pages);
	uint64_t n = 0;

	if (map == MAP_FAILED || there == NULL || mincore(map, l->file_bytes, there) < 0)
		n = pages;
	for (size_t i = 0; n < pages && i < pages; i++)
		n += there[i] & 1;
	if (map != MAP_FAILED)
		munmap(map, l->file_bytes);
	free(there);
	return n;
}

/*
 * Makes the page cache forget the file, all of it: what somebody holds for a moment is asked for
 * again. False where the file is nowhere else.
 */
static bool make_cold(const struct loading *l)
{
	const struct timespec moment = {.tv_nsec = 10000000};

	(void)fdatasync(l->fd);
	for (uint32_t i = 0; i < COLD_TRIES; i++) {
		(void)posix_fadvise(l->fd, 0, 0, POSIX_FADV_DONTNEED);
		if (cached_pages(l) == 0)
			return true;
		nanosleep(&moment, NULL);
	}
	return false;
}

/* Each reading may use all CPUs, and finds the file where it should be. */
static int prepare(const struct loading *l)
{
	cpus_free(0);
	return !l->from_disk || make_cold(l) ? 0 : -EBUSY;
}

static int memory_new(const struct loading *l, bool plain, uint64_t bytes, void **ret_memory)
{
	if (!plain || !l->uploads)
		return raw_alloc(l->raw, DEVICE_WORK, bytes, ret_memory);
	*ret_memory = malloc(bytes);
	return *ret_memory == NULL ? -ENOMEM : 0;
}

static void memory_free(const struct loading *l, bool plain, void *memory)
{
	if (!plain || !l->uploads)
		raw_free(l->raw, DEVICE_WORK, memory);
	else
		free(memory);
}

static int timed(const struct loading *l, bool plain, const struct clock_line *clock,
	uint64_t *ret_ns, uint64_t n)
{
	const uint64_t bytes = plain ? l->file_bytes : model_weights_bytes(l->weights);

	for (uint64_t i = 0; i < n; i++) {
		void *memory;
		int e = prepare(l);
		const uint64_t start_ns = clock_now_ns(clock);

		if (e == 0)
			e = memory_new(l, plain, bytes, &memory);
		if (e < 0)
			return e;
		e = plain ? read_plain(l, memory) : read_weights(l, memory);
		ret_ns[i] = clock_now_ns(clock) - start_ns;
		memory_free(l, plain, memory);
		if (e < 0)
			return e;
	}
	return 0;
}

/* For as many bytes as the file has. */
static int run_fio(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	const struct loading *l = state;
	uint64_t bytes, ns;

	(void)clock;
	for (uint64_t i = 0; i < n; i++) {
		int e = prepare(l);

		if (e == 0)
			e = fio_read(l->path, l->from_disk, &bytes, &ns);
		if (e < 0)
			return e;
		ret_ns[i] = (uint64_t)((double)ns * (double)l->file_bytes / (double)bytes);
	}
	return 0;
}

static int run_plain(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	return timed(state, true, clock, ret_ns, n);
}

static int run_weights(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n)
{
	return timed(state, false, clock, ret_ns, n);
}

static void loading_close(struct loading *l)
{
	model_weights_destroy(l->weights);
	safetensors_close(l->files);
	raw_close(l->raw);
	if (l->fd >= 0)
		close(l->fd);
}

static int plan(struct bench *b, int dir_fd, struct loading *l)
{
	struct model_config config;
	struct model_why why = {""};
	const enum weight_quant quant = llm_is_int8(b) ? WEIGHT_INT8 : WEIGHT_AS_IS;
	int e = model_config_load(dir_fd, &config, &why);

	if (e == 0)
		e = safetensors_open(dir_fd, &l->files, &why);
	if (e == 0)
		e = model_weights_plan(&config, l->files, quant, &l->weights, &why);
	if (e < 0)
		complain(e, "the model: %s", why.text);
	return e;
}

static int loading_open(struct bench *b, const struct llm_folder *folder, struct loading *l)
{
	struct stat st;
	int e = raw_open(b, &l->raw);

	if (e < 0)
		return e;
	l->uploads = strcmp(b->device, "cpu") != 0;
	snprintf(l->path, sizeof(l->path), "%s/model.safetensors", folder->path);
	l->fd = open(l->path, O_RDONLY | O_CLOEXEC);
	if (l->fd < 0 || fstat(l->fd, &st) < 0) {
		e = -errno;
		complain(e, "%s", l->path);
		return e;
	}
	l->file_bytes = (uint64_t)st.st_size;
	return plan(b, folder->fd, l);
}

/* The first contender, and the weights. */
static void report_speed(struct bench *b, const struct loading *l, const struct contender *than,
	const struct contender *weights, const char *from, bool judged)
{
	const double than_ns = series_typical_ns(&than->series);
	const double weights_ns = series_typical_ns(&weights->series);

	report_line("weights: %.2f GB/s, %s: %.2f GB/s\n", (double)l->file_bytes / weights_ns,
		than->name, (double)l->file_bytes / than_ns);
	if (judged)
		report_check_at_least(b, than_ns / weights_ns, 0.9,
			"load %s %s from the %s: speed, of %s's", b->shape, b->weights, from,
			than->name);
	else
		report_figure(b, than_ns / weights_ns, "load %s %s from the %s: speed, of %s's",
			b->shape, b->weights, from, than->name);
}

/*
 * fio reads the same megabyte of memory full again and again, which stays in the processor's cache;
 * weights, like read() here, go to memory of their own: only that comparison is judged.
 */
static int measure_cached(struct bench *b, struct loading *l, bool has_fio)
{
	struct contender set[3] = {
		{.name = "read()", .state = l, .run = run_plain, .per_round = 1},
		{.name = "weights", .state = l, .run = run_weights, .per_round = 1},
		{.name = "fio", .state = l, .run = run_fio, .per_round = 1},
	};
	const uint32_t n = has_fio ? 3 : 2;
	int e = contenders_measure(b, set, n, ROUNDS);

	if (e == 0) {
		report_table(b, "load, from the page cache", "read()", set, n);
		report_speed(b, l, &set[0], &set[1], "page cache", !llm_is_int8(b));
		if (has_fio)
			report_speed(b, l, &set[2], &set[1], "page cache", false);
	}
	contenders_free(set, n);
	return e;
}

static int measure_cold(struct bench *b, struct loading *l, bool has_fio)
{
	struct contender set[2] = {
		{.name = has_fio ? "fio" : "read()",
			.state = l,
			.run = has_fio ? run_fio : run_plain,
			.per_round = 1},
		{.name = "weights", .state = l, .run = run_weights, .per_round = 1},
	};

	if (!make_cold(l)) {
		report_line("not measured from the disk: the file is in memory only\n");
		return 0;
	}
	l->from_disk = true;
	int e = contenders_measure(b, set, 2, ROUNDS);
	if (e == 0) {
		report_table(b, "load, from the disk", set[0].name, set, 2);
		report_speed(b, l, &set[0], &set[1], "disk", !llm_is_int8(b));
	}
	contenders_free(set, 2);
	return e;
}

static int measure_weights(struct bench *b, const struct llm_folder *folder)
{
	struct loading l = {.fd = -1};
	uint64_t bytes, ns;
	int e = loading_open(b, folder, &l);
	const bool has_fio = e == 0 && fio_read(l.path, false, &bytes, &ns) == 0;

	if (e == 0 && !has_fio)
		report_line(
			"no comparison with fio: it is not installed, or cannot read %s\n", l.path);
	if (e == 0)
		e = measure_cached(b, &l, has_fio);
	if (e == 0)
		e = measure_cold(b, &l, has_fio);
	loading_close(&l);
	return e;
}

static int measure_start(struct bench *b, const struct llm_folder *folder)
{
	const uint64_t start_ns = clock_monotonic_ns();
	const int32_t prompt[] = {1, 2, 3};
	struct llm_remote *remote = NULL;
	struct daemon d;
	int32_t token;
	int e = llm_daemon_start(b, folder, &d);

	if (e < 0)
		return e;
	e = llm_remote_open(&d, &remote);
	if (e == 0)
		e = llm_remote_step(remote, prompt, 3, &token);
	if (e == 0)
		report_figure(b, 1e-9 * (double)(clock_monotonic_ns() - start_ns),
			"%s %s: seconds from the start of gpuqd to the first token", b->shape,
			b->weights);
	llm_remote_close(remote);
	daemon_stop(&d);
	return e;
}

int bench_load(struct bench *b)
{
	struct llm_folder folder;
	int e = llm_folder_open(b, &folder);

	if (e < 0)
		return e;
	e = measure_weights(b, &folder);
	cpus_free(0);
	if (e == 0)
		e = measure_start(b, &folder);
	llm_folder_close(&folder);
	return e;
}
