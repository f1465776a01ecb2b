/* SPDX-License-Identifier: MIT */
/*
 * fake-libcuda.h: what a test tells the libcuda.so.1 of this folder, and what that counts. It has
 * GPUs without memory: a descriptor is mapped as a file, a cudaIpcMemHandle is the address.
 */
#ifndef GPUQ_TESTS_FAKE_LIBCUDA_H
#define GPUQ_TESTS_FAKE_LIBCUDA_H

struct fake_cuda {
	int version;	      /* 12080 for 12.8 */
	int count;	      /* GPUs; the last byte of a UUID is the ordinal, the others 0xab */
	const char *failing;  /* name of the call that fails */
	int error;	      /* with this */
	int contexts, pushed; /* retained and not released; depth of the stack */
	int imported, reserved, mapped, opened;
	int access_device; /* that was given access last */
};

/* Exported as `fake_cuda_state`. */
typedef struct fake_cuda *fake_cuda_state_fn(void);

#endif
