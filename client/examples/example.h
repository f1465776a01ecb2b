/* SPDX-License-Identifier: MIT */
/*
 * example.h: what the examples share besides gpuq.h: two file formats, one request from start to
 * end, latencies. Everything here ends the program with a message when it fails.
 */
#ifndef GPUQ_EXAMPLE_H
#define GPUQ_EXAMPLE_H

#include <gpuq.h>

/* A table of numbers, in C order; a vector is one column. */
struct table {
	uint64_t rows, columns;
	char (*names)[32]; /* [rows], of a CSV: the line's text before its first number */
	void *values;	   /* [rows, columns] */
};

/* Lines of `n_texts` texts and then numbers (float), separated by commas; the first is skipped. */
struct table read_csv(const char *path, int n_texts);

/* A NumPy file with one or two dimensions of this type: "<f4", "<i4". */
struct table read_npy(const char *path, const char *type);

void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* Arena memory for n floats. */
float *arena_floats(struct gpuq_channel *channel, uint64_t n);

/* A dense tensor of floats; columns 0 makes it a vector. */
struct gpuq_tensor tensor(float *data, uint64_t rows, uint64_t columns);

/* Submits a call and waits for its result. */
void run(struct gpuq_channel *channel, struct gpuq_call *call);

uint64_t now_ns(void);

/* Latencies of requests; only the first MAX_SAMPLES are kept. */
#define MAX_SAMPLES 1000000
struct latencies {
	uint64_t n;
	uint64_t *ns;
};
void latencies_add(struct latencies *l, uint64_t ns);
/* Prints how many there were, p50 and p99, and frees. */
void latencies_print(struct latencies *l, const char *program, double seconds);

#endif
