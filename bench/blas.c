/* SPDX-License-Identifier: MIT */
/*
 * blas.c: OpenBLAS for comparison: matrices of f32 multiplied on the CPU. The library is looked for
 * at run time, so that gpuq-bench needs it neither to build nor to run.
 */
#include "bench/bench.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

#define BLAS_LIBRARY "libopenblas.so.0"
#define ROW_MAJOR 101
#define NO_TRANS 111
#define TRANS 112

static void (*sgemm)(int order, int trans_a, int trans_b, int m, int n, int k, float alpha,
	const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc);

int blas_open(uint32_t threads)
{
	void *library = dlopen(BLAS_LIBRARY, RTLD_NOW | RTLD_LOCAL);
	void (*set_threads)(int);
	void *functions[2];

	if (library == NULL)
		return -ENOENT;
	functions[0] = dlsym(library, "cblas_sgemm");
	functions[1] = dlsym(library, "openblas_set_num_threads");
	if (functions[0] == NULL || functions[1] == NULL)
		return -ENOENT;
	memcpy(&sgemm, &functions[0], sizeof(functions[0]));
	memcpy(&set_threads, &functions[1], sizeof(functions[1]));
	set_threads((int)threads);
	return 0;
}

void blas_linear(
	const float *x, const float *w, float *y, uint64_t rows, uint64_t outputs, uint64_t inputs)
{
	const int m = (int)rows, n = (int)outputs, k = (int)inputs;

	sgemm(ROW_MAJOR, NO_TRANS, TRANS, m, n, k, 1, x, k, w, k, 0, y, n);
}
