/* SPDX-License-Identifier: MIT */
/*
 * blas.h: large matrix products through cuBLAS, where it is installed: it is opened when a device
 * is, and never closed. Its algorithms are chosen then, a fixed list, each run once so that
 * nothing is loaded later; none needs a workspace. Float32 stays float32: no TF32.
 */
#ifndef GPUQ_KERNELS_CUDA_BLAS_H
#define GPUQ_KERNELS_CUDA_BLAS_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * y[b,o] = sum_i w[o,i] x[b,i], or that added to y, or with bias[o] added. A half y takes a bias,
 * so that it is rounded once; an f32 y, whose inputs may be halves, is added to.
 */
struct blas_product {
	const void *x, *w, *bias; /* device addresses; bias may be NULL */
	void *y;
	uint64_t batch, outputs, n;
	uint32_t in_dtype, out_dtype;
	bool add;
};

/* Which algorithm runs a product, in how many steps along n. */
struct blas_plan {
	uint32_t algorithm;
	uint32_t step;
};

/* Opens cuBLAS. 0 also where there is none: blas_takes() is then always false. */
int blas_touch(void);

/* Is cuBLAS there, and is this large enough and aligned as it likes? */
bool blas_takes(const struct blas_product *product, struct blas_plan *ret_plan);

/*
 * Launches it. Neither allocates nor waits. Returns as launch() of struct cuda_code; when this
 * fails, y may have been written to.
 */
int blas_run(const struct blas_product *product, const struct blas_plan *plan, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
