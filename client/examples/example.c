/* SPDX-License-Identifier: MIT */
/* example.c: see example.h. */
#define _DEFAULT_SOURCE /* reallocarray() */
#include "example.h"

#include <err.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void die(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	verrx(1, format, ap);
}

static void *grow(void *memory, uint64_t count, size_t size)
{
	memory = reallocarray(memory, count > 0 ? count : 1, size);
	if (memory == NULL)
		die("out of memory");
	return memory;
}

/* Appends the numbers of one line, whose texts have been cut off; returns how many. */
static uint64_t parse_numbers(struct table *t, const char *path, uint64_t used, char *line)
{
	uint64_t n = 0;
	char *at = line, *end = line;

	for (;; at = end + 1, n++) {
		float v = strtof(at, &end);
		if (end == at)
			die("%s: line %ju: not a number: %s", path, (uintmax_t)t->rows + 2, at);
		t->values = grow(t->values, used + n + 1, sizeof(float));
		((float *)t->values)[used + n] = v;
		if (*end != ',')
			return n + 1;
	}
}

struct table read_csv(const char *path, int n_texts)
{
	struct table t = {0};
	char *line = NULL;
	size_t size = 0;
	FILE *f = fopen(path, "r");

	if (f == NULL || getline(&line, &size, f) < 0)
		die("%s: cannot be read", path);
	while (getline(&line, &size, f) > 0) {
		char *numbers = line;
		for (int i = 0; i < n_texts && numbers != NULL; i++)
			numbers = strchr(numbers + (i > 0), ',');
		if (numbers == NULL)
			die("%s: line %ju is too short", path, (uintmax_t)t.rows + 2);
		*numbers = '\0';
		t.names = grow(t.names, t.rows + 1, sizeof(t.names[0]));
		snprintf(t.names[t.rows], sizeof(t.names[0]), "%s", line);
		uint64_t n = parse_numbers(&t, path, t.rows * t.columns, numbers + 1);
		if (t.rows > 0 && n != t.columns)
			die("%s: line %ju has %ju numbers", path, (uintmax_t)t.rows + 2,
				(uintmax_t)n);
		t.columns = n;
		t.rows++;
	}
	free(line);
	fclose(f);
	return t;
}

struct table read_npy(const char *path, const char *type)
{
	struct table t = {.rows = 1, .columns = 1};
	unsigned char magic[10];
	char header[4096] = "", expected[64];
	FILE *f = fopen(path, "rb");

	if (f == NULL || fread(magic, 1, sizeof(magic), f) != sizeof(magic) ||
		memcmp(magic, "\x93NUMPY\x01", 7) != 0)
		die("%s: cannot be read, or is no .npy file of version 1", path);
	size_t length = magic[8] + 256u * magic[9];
	if (length >= sizeof(header) || fread(header, 1, length, f) != length)
		die("%s: the header cannot be read", path);
	snprintf(expected, sizeof(expected), "'descr': '%s'", type);
	const char *shape = strstr(header, "'shape': (");
	if (strstr(header, expected) == NULL || strstr(header, "'fortran_order': False") == NULL ||
		shape == NULL ||
		sscanf(shape, "'shape': (%ju, %ju", (uintmax_t *)&t.rows, (uintmax_t *)&t.columns) <
			1)
		die("%s: not a vector or matrix of %s in C order", path, type);
	t.values = grow(NULL, t.rows * t.columns, 4);
	if (fread(t.values, 4, t.rows * t.columns, f) != t.rows * t.columns)
		die("%s: is truncated", path);
	fclose(f);
	return t;
}

float *arena_floats(struct gpuq_channel *channel, uint64_t n)
{
	void *data;

	if (gpuq_alloc(channel, n * sizeof(float), &data) < 0)
		die("%s", gpuq_error_detail());
	return data;
}

struct gpuq_tensor tensor(float *data, uint64_t rows, uint64_t columns)
{
	return (struct gpuq_tensor){
		.data = data,
		.dtype = GPUQ_F32,
		.rank = columns > 0 ? 2 : 1,
		.dims = {rows, columns},
	};
}

void run(struct gpuq_channel *channel, struct gpuq_call *call)
{
	struct gpuq_submission s = {.call = call};
	struct gpuq_completion c;
	char text[256];

	if (gpuq_submit(channel, &s, 1) < 0 || gpuq_wait(channel, &c, 1, GPUQ_FOREVER) < 0)
		die("%s", gpuq_error_detail());
	if (c.status < 0)
		die("%s", gpuq_explain(call, &c, text, sizeof(text)));
}

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void latencies_add(struct latencies *l, uint64_t ns)
{
	if (l->ns == NULL)
		l->ns = grow(NULL, MAX_SAMPLES, sizeof(l->ns[0]));
	if (l->n < MAX_SAMPLES)
		l->ns[l->n] = ns;
	l->n++;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

void latencies_print(struct latencies *l, const char *program, double seconds)
{
	uint64_t n = l->n < MAX_SAMPLES ? l->n : MAX_SAMPLES;

	if (n > 0) {
		qsort(l->ns, n, sizeof(l->ns[0]), compare);
		printf("%s: %ju requests in %.1f s, latency p50 %.1f us, p99 %.1f us\n", program,
			(uintmax_t)l->n, seconds, (double)l->ns[n / 2] / 1e3,
			(double)l->ns[n * 99 / 100] / 1e3);
	}
	free(l->ns);
}
