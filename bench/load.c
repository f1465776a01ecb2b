/* SPDX-License-Identifier: MIT */
/*
 * load.c: how fast the weights of a model come into the device's memory, beside read() of the same
 * bytes into the same kind of memory, both out of the page cache; and how long gpuqd takes from its
 * start to the first token.
 */
#include "bench/llm.h"

#include "models/weights.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROUNDS 5u
#define READ_BYTES ((size_t)1 << 20)

/* Both contenders' state. */
struct loading {
	struct raw *raw;
	struct safetensors *files;
	struct model_weights *weights;
	int fd;
	uint64_t file_bytes;
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
	int e = model_weights_read(l->weights, l->files, memory, NULL, &why);

	if (e < 0)
		complain(0, "%s", why.text);
	return e;
}

static int timed(const struct loading *l, bool plain, const struct clock_line *clock,
	uint64_t *ret_ns, uint64_t n)
{
	const uint64_t bytes = plain ? l->file_bytes : model_weights_bytes(l->weights);

	for (uint64_t i = 0; i < n; i++) {
		const uint64_t start_ns = clock_now_ns(clock);
		void *memory;
		int e = raw_alloc(l->raw, DEVICE_WORK, bytes, &memory);

		if (e < 0)
			return e;
		e = plain ? read_plain(l, memory) : read_weights(l, memory);
		ret_ns[i] = clock_now_ns(clock) - start_ns;
		raw_free(l->raw, DEVICE_WORK, memory);
		if (e < 0)
			return e;
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

static int loading_open(struct bench *b, int dir_fd, struct loading *l)
{
	struct model_config config;
	struct model_why why = {""};
	struct stat st;
	int e = raw_open(b, &l->raw);

	if (e < 0)
		return e;
	l->fd = openat(dir_fd, "model.safetensors", O_RDONLY | O_CLOEXEC);
	e = l->fd < 0 || fstat(l->fd, &st) < 0 ? -errno : 0;
	if (e == 0)
		e = model_config_load(dir_fd, &config, &why);
	if (e == 0)
		e = safetensors_open(dir_fd, &l->files, &why);
	if (e == 0)
		e = model_weights_plan(&config, l->files, WEIGHT_AS_IS, &l->weights, &why);
	if (e < 0)
		complain(e, "the model: %s", why.text);
	else
		l->file_bytes = (uint64_t)st.st_size;
	return e;
}

static int measure_weights(struct bench *b, int dir_fd)
{
	struct loading l = {.fd = -1};
	struct contender set[2] = {
		{.name = "read()", .state = &l, .run = run_plain, .per_round = 1},
		{.name = "weights", .state = &l, .run = run_weights, .per_round = 1},
	};
	int e = loading_open(b, dir_fd, &l);

	if (e == 0)
		e = contenders_measure(b, set, 2, ROUNDS);
	if (e == 0) {
		const double plain_ns = series_typical_ns(&set[0].series);
		const double weights_ns = series_typical_ns(&set[1].series);

		report_table(b, "load, from the page cache", "read()", set, 2);
		report_line("weights: %.2f GB/s\n", (double)l.file_bytes / weights_ns);
		report_check_at_least(
			b, plain_ns / weights_ns, 0.9, "load %s: speed, of read()'s", b->shape);
	}
	contenders_free(set, 2);
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
	e = measure_weights(b, folder.fd);
	cpus_free();
	if (e == 0)
		e = measure_start(b, &folder);
	llm_folder_close(&folder);
	return e;
}
