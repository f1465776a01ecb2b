/* SPDX-License-Identifier: MIT */
/* inline.h: the host's half of the inline stream (resident.h): commands, lives, pauses. */
#ifndef GPUQ_DEVICE_CUDA_INLINE_H
#define GPUQ_DEVICE_CUDA_INLINE_H

#include "device/cuda/resident.h"

#include <errno.h>
#include <pthread.h>

#ifdef __cplusplus
extern "C" {
#endif

struct device;

struct cuda_inline {
	struct device *device;
	struct cuda_ring *ring; /* NULL: there is no inline stream */
	uint64_t *given,
		*ended; /* numbers of commands: the last one put, the last one that ended */
	cudaStream_t stream;
	cudaGraph_t graph;
	cudaGraphExec_t exec; /* of the kernel */
	uint64_t lives;	      /* that were started; written by who puts commands */
	uint64_t asked_ns;    /* when a command last found nobody */
	pthread_mutex_t lock;
	uint32_t pauses; /* with the lock */
};

/*
 * ring and ended are in pinned memory, and *given is *ended. When this fails, cuda_inline_close()
 * frees what was made.
 */
int cuda_inline_open(struct cuda_inline *in, struct device *device, struct cuda_ring *ring,
	uint64_t *given, uint64_t *ended);
void cuda_inline_close(struct cuda_inline *in);

/* 0: it will be done. -EAGAIN: nobody is there now, or the ring is full. -GPUQ_EDEVICE. */
int cuda_inline_put(struct cuda_inline *in, const struct cuda_command *command);

/* Between the two there is no kernel that stays. Any thread but the one that puts commands. */
void cuda_inline_pause(struct cuda_inline *in);
void cuda_inline_resume(struct cuda_inline *in);

#ifdef __cplusplus
}
#endif
#endif
