/* SPDX-License-Identifier: MIT */
/*
 * torch.c: runs torch_ops.py, which is compiled in, with the user's Python, and shows what PyTorch
 * takes for the operators of op.c: a row of their tables, though not measured in the same rounds.
 */
#include "bench/bench.h"

#include <torch_ops.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TORCH_SAMPLES 50000

json_t *torch_measure(const struct bench *b)
{
	char samples[24];
	const char *const arguments[] = {samples, b->device, NULL};

	snprintf(samples, sizeof(samples), "%llu",
		(unsigned long long)(b->samples > 0 && b->samples < TORCH_SAMPLES ? b->samples
										  : TORCH_SAMPLES));
	/* On the client's CPU, from the first thread on. */
	cpus_pin(0, b->client_cpu, b->client_cpu);
	return python_measure(b, "PyTorch", torch_ops_py, arguments);
}

int torch_row(const json_t *torch, const char *way, const char *title, double unit_ns,
	struct contender *ret_row)
{
	static const char *const names[][2] = {
		{"ops", "PyTorch in its process"},
		{"cuda_eager", "PyTorch eager, on the device"},
		{"cuda_graph", "PyTorch graph, on the device"},
	};
	const json_t *samples = json_object_get(json_object_get(torch, way), title), *sample;
	struct series s = {0};
	size_t i;

	if (json_array_size(samples) == 0)
		return -ENOENT;
	s.ns = calloc(BENCH_BUCKETS, sizeof(*s.ns));
	s.milli = calloc(BENCH_BUCKETS, sizeof(*s.milli));
	if (s.ns == NULL || s.milli == NULL) {
		free(s.ns);
		free(s.milli);
		return -ENOMEM;
	}
	json_array_foreach(samples, i, sample)
	{
		uint64_t ns = (uint64_t)json_integer_value(sample);
		hist_add(s.ns, HIST_BENCH_BITS, ns);
		hist_add(s.milli, HIST_BENCH_BITS, (uint64_t)(1000.0 * (double)ns / unit_ns));
		s.max_ns = ns > s.max_ns ? ns : s.max_ns;
		s.total++;
	}
	*ret_row = (struct contender){.series = s};
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(names[i][0], way) == 0)
			ret_row->name = names[i][1];
	return 0;
}
