/* SPDX-License-Identifier: MIT */
/*
 * How fast a model's folder is read, beside a plain loop of read() over the same bytes into the
 * same kind of memory, the CPU device's. Not part of ./check:
 *
 *	read-speed FOLDER [cold]
 *
 * Both read the bytes of model.safetensors in turn, ROUNDS times; `cold` drops the file from the
 * page cache before each reading.
 */
#include "device/device.h"
#include "models/safetensors.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 5
#define READ_BYTES ((size_t)1 << 20)

static struct device *device;

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void *new_memory(uint64_t bytes)
{
	void *data;

	if (device_alloc(device, DEVICE_WORK, bytes, &data) < 0) {
		fprintf(stderr, "read-speed: no memory\n");
		exit(1);
	}
	return data;
}

static double read_plain(int fd, uint64_t bytes)
{
	uint8_t *data = new_memory(bytes);
	uint64_t done = 0;
	double start = now_s();

	lseek(fd, 0, SEEK_SET);
	while (done < bytes) {
		ssize_t n = read(
			fd, data + done, bytes - done < READ_BYTES ? bytes - done : READ_BYTES);

		if (n <= 0) {
			perror("read-speed: read");
			exit(1);
		}
		done += (uint64_t)n;
	}
	double took_s = now_s() - start;
	device_free(device, DEVICE_WORK, data);
	return took_s;
}

static double read_model(const struct safetensors *st, uint64_t bytes)
{
	size_t n = safetensors_count(st);
	struct safetensors_read *reads = calloc(n, sizeof(*reads));
	uint8_t *data = new_memory(bytes);
	uint64_t at = 0;
	struct model_why why;

	for (size_t i = 0; reads != NULL && i < n; i++) {
		const struct safetensors_tensor *t = safetensors_at(st, i);

		reads[i] = (struct safetensors_read){t, 0, t->bytes, data + at};
		at += t->bytes;
	}
	double start = now_s();
	if (reads == NULL || safetensors_read(st, reads, n, NULL, &why) < 0) {
		fprintf(stderr, "read-speed: %s\n", reads == NULL ? "no memory" : why.text);
		exit(1);
	}
	double took_s = now_s() - start;
	device_free(device, DEVICE_WORK, data);
	free(reads);
	return took_s;
}

static void forget(int fd, int cold)
{
	if (cold)
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

static int compare(int dir, int fd, int cold)
{
	double plain_s[ROUNDS], model_s[ROUNDS];
	struct safetensors *st;
	struct model_why why;
	uint64_t bytes = 0;

	if (safetensors_open(dir, &st, &why) < 0) {
		fprintf(stderr, "read-speed: %s\n", why.text);
		return 1;
	}
	for (size_t i = 0; i < safetensors_count(st); i++)
		bytes += safetensors_at(st, i)->bytes;
	for (int i = 0; i < ROUNDS; i++) {
		forget(fd, cold);
		plain_s[i] = read_plain(fd, bytes);
		forget(fd, cold);
		model_s[i] = read_model(st, bytes);
	}
	qsort(plain_s, ROUNDS, sizeof(double), by_value);
	qsort(model_s, ROUNDS, sizeof(double), by_value);
	double plain = plain_s[ROUNDS / 2], model = model_s[ROUNDS / 2];
	printf("%.0f MB: read() %.0f MB/s, loader %.0f MB/s, ratio %.2f\n", 1e-6 * (double)bytes,
		1e-6 * (double)bytes / plain, 1e-6 * (double)bytes / model, plain / model);
	safetensors_close(st);
	return 0;
}

int main(int argc, char **argv)
{
	int dir = argc > 1 ? open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	int fd = openat(dir, "model.safetensors", O_RDONLY | O_CLOEXEC);
	char why[192];

	if (dir < 0 || fd < 0) {
		fprintf(stderr, "usage: read-speed FOLDER [cold]; FOLDER has model.safetensors\n");
		return 2;
	}
	if (device_open(&(struct device_options){.kind = "cpu"}, &device, why) < 0) {
		fprintf(stderr, "read-speed: %s\n", why);
		return 1;
	}
	int status = compare(dir, fd, argc > 2 && strcmp(argv[2], "cold") == 0);
	device_close(device);
	return status;
}
