/* SPDX-License-Identifier: MIT */
/*
 * measure.h: the parts of `measure`: raw CUDA programs whose figures gpuq's design rests on.
 * A section prints one table; a child is this program executed anew, as another process.
 */
#ifndef GPUQ_TESTS_GPU_MEASURE_H
#define GPUQ_TESTS_GPU_MEASURE_H

#include "gpu.h"

#include <algorithm>
#include <vector>

/* A parameter block as gpuq's executables have it. */
#define DEPTH 4
struct block {
	void *pointers[12];
	uint64_t scalars[8];
	uint64_t *word; /* NULL: this kernel does not signal */
	uint64_t value;
};

/* What one executable keeps on the device. */
struct state {
	struct block block;	   /* that of this launch, as `fetch` left it */
	struct block slots[DEPTH]; /* or all of them, as a copy node left them */
	uint64_t launches;
	unsigned done;
};

/* Passed by value to every kernel: block NULL means direct. */
struct args {
	const struct block *block;
	unsigned *done;
	struct block direct;
};

struct samples {
	std::vector<uint64_t> call_ns, word_ns; /* of the launch call; from before it to the word */
};

__global__ void fetch(const struct block *ring, struct state *state);
/* Leaves its argument there. */
__global__ void put(struct state *state, __grid_constant__ const struct args args);
__global__ void work(__grid_constant__ const struct args args, bool signal);
/* The same as a programmatic dependent launch. */
__global__ void work_after(__grid_constant__ const struct args args, bool signal);
__global__ void work_slot(struct state *state, bool signal); /* after a copy of all slots */
__global__ void tail(__grid_constant__ const struct args args);
/* Does one work for each value that *bell takes, until it is UINT64_MAX or 3 s have passed. */
__global__ void resident(const volatile uint64_t *bell, const struct block *block);

/* A stream, pinned words and blocks, and what the kernels above work on. */
struct bench {
	cudaStream_t stream;
	volatile uint64_t *word; /* pinned */
	uint64_t value;
	struct block *ring; /* pinned */
	uint64_t launches;
	struct state *state;
	float *data; /* device, 64 MiB */
	unsigned *done;
};

void bench_init(struct bench *b);
void bench_free(struct bench *b);
struct block bench_block(struct bench *b); /* the next value in the word */
struct args bench_direct(struct bench *b, bool signal);
/* The block is brought by a kernel (or by a copy of all slots); nodes x work, the last signals. */
cudaGraphExec_t bench_exec(struct bench *b, int nodes, bool copy);
cudaGraphExec_t bench_finish(struct bench *b, cudaGraph_t graph);
void bench_launch_exec(struct bench *b, cudaGraphExec_t exec);

static inline void wait_word(struct bench *b)
{
	while (*b->word != b->value)
		;
}

/* Launches by launch() and waits for the word, until the time or the samples are full. */
template <typename F>
static void bench_run(struct bench *b, struct samples *s, size_t count, uint64_t limit_ns, F launch)
{
	uint64_t end_ns = now_ns() + limit_ns, t0, t1, t2;

	for (int i = 0; i < 200; i++) {
		launch();
		wait_word(b);
	}
	while (s->word_ns.size() < count && (t0 = now_ns()) < end_ns) {
		launch();
		t1 = now_ns();
		wait_word(b);
		t2 = now_ns();
		s->call_ns.push_back(t1 - t0);
		s->word_ns.push_back(t2 - t0);
	}
	CHECK(cudaGetLastError());
}

static inline double us(std::vector<uint64_t> &v, double quantile)
{
	if (v.empty())
		return 0;
	size_t i = std::min(v.size() - 1, (size_t)(quantile * (double)v.size()));

	std::nth_element(v.begin(), v.begin() + (long)i, v.end());
	return (double)v[i] / 1000;
}

/* | name | count | p50 p99 p99.9 max of the call | the same to the word | */
void print_samples_head(const char *what);
void print_samples(const char *name, struct samples *s);

/* Children: argv is {"measure", "--child", NAME, argument}; fd 3 is a socket to the parent. */
struct child {
	int pid, socket;
};
struct child child_start(const char *name, const char *argument);
void child_end(struct child *child);
void child_wait_ready(const struct child *child);
int child_main(const char *name, const char *argument);

void measure_storms(void);     /* a */
void measure_graphs(void);     /* c */
void measure_signals(void);    /* d */
void measure_direct(void);     /* one by one, or a graph */
void measure_open(void);       /* e */
void measure_contexts(void);   /* f */
void measure_neighbours(void); /* g */
void measure_place(void);      /* in place, or copied */
void measure_registration(void);

#endif
