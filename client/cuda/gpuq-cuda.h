/* SPDX-License-Identifier: MIT */
/*
 * gpuq-cuda.h: device buffers of gpuq as CUDA device pointers, for clients that use CUDA
 * themselves. Others need none of this: gpuqd works on buffers by their handles.
 *
 *	struct gpuq_buf *buf;
 *	struct gpuq_cuda *cuda;
 *	void *data;
 *	gpuq_buf_alloc(g, &options, &buf);
 *	gpuq_cuda_open(buf, &cuda, &data);
 *	cudaSetDevice(gpuq_cuda_ordinal(cuda));
 *	... kernels and copies on data ...
 *	gpuq_cuda_close(cuda);
 *	gpuq_buf_free(buf);
 *
 * The driver (libcuda.so.1) is loaded by the first call: programs that link this library start
 * where there is none. Opening takes milliseconds and a CUDA context takes hundreds of MiB of
 * device memory in each process: open once, not for each request.
 *
 * The primary context of the buffer's GPU is used, the one that the CUDA runtime uses, whatever
 * context is current; that stays current. The pointer is good in this process until
 * gpuq_cuda_close(), which comes before the last holder's gpuq_buf_free(). gpuqd does not order
 * what is done through it with submissions: wait for the ones before the others.
 *
 * Threads. Any thread; one struct gpuq_cuda is closed by one. Not across fork().
 */
#ifndef GPUQ_CUDA_H
#define GPUQ_CUDA_H

#include "gpuq.h"

#ifdef __cplusplus
extern "C" {
#endif

struct gpuq_cuda; /* an opened buffer */

/*
 * Opens a buffer on the GPU that it lies on, which is found by its UUID. Errors, each with its
 * cause and remedy in gpuq_cuda_error_detail(): -GPUQ_ENODEV (no driver; a buffer of the CPU
 * device; a GPU that this process does not see), -EXDEV (a cudaIpcMemHandle from another PID
 * namespace), -EACCES (the driver does not let this process open it), -ENOMEM, -EIO (another
 * error of the driver), and those of gpuq_buf_export().
 */
GPUQ_EXPORT int gpuq_cuda_open(
	const struct gpuq_buf *buf, struct gpuq_cuda **ret_cuda, void **ret_data);

/* The same for what another process has exported and sent; the descriptor stays the caller's. */
GPUQ_EXPORT int gpuq_cuda_import(
	const struct gpuq_buf_export *exported, struct gpuq_cuda **ret_cuda, void **ret_data);

/* The pointer is no longer good; what uses it has ended. NULL is fine. */
GPUQ_EXPORT void gpuq_cuda_close(struct gpuq_cuda *cuda);

/* Number of the buffer's GPU among those that this process sees, as for cudaSetDevice(). */
GPUQ_EXPORT int gpuq_cuda_ordinal(const struct gpuq_cuda *cuda);

/*
 * The whole sentence of the calling thread's last failure in this library. Valid until its next
 * call in this thread.
 */
GPUQ_EXPORT const char *gpuq_cuda_error_detail(void);

#ifdef __cplusplus
}
#endif
#endif
