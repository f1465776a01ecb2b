/* SPDX-License-Identifier: MIT */
/* machine.h: what the choice of a kernel's form depends on. */
#ifndef GPUQ_KERNELS_CUDA_MACHINE_H
#define GPUQ_KERNELS_CUDA_MACHINE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Asks the device of this thread. Returns as launch() of struct cuda_code. */
int machine_touch(void);

/* Multiprocessors of the device. */
uint32_t machine_processors(void);

/* Shared memory that a block can have at most. */
uint32_t machine_shared_bytes(void);

#ifdef __cplusplus
}
#endif
#endif
