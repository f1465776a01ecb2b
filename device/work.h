/* SPDX-License-Identifier: MIT */
/*
 * work.h: what a kernel is given and leaves behind. A header of its own because sources for CUDA,
 * which are C++, read it and cannot read all that device.h includes.
 */
#ifndef GPUQ_DEVICE_WORK_H
#define GPUQ_DEVICE_WORK_H

#include "shm/gpuq-types.h"

#include <stdbool.h>

/*
 * The completion word of one launch, in memory of kind DEVICE_PINNED that is gpuqd's alone. `word`
 * becomes the launch's value (release) after everything the work wrote. started_ns and ended_ns
 * are valid then, or still 0: such a device cannot tell, and the caller uses its own clock.
 * status is written only by who refuses work after it was accepted, before the word.
 */
struct device_completion {
	uint64_t word;
	uint64_t started_ns, ended_ns;
	int64_t status;
	uint8_t pad[96]; /* one for each two cache lines */
};
/* What changes from launch to launch: the parameter block. Copied by whoever takes it. */
#define DEVICE_MAX_POINTERS GPUQ_MAX_TENSORS
#define DEVICE_MAX_SCALARS GPUQ_MAX_PARAMS
#define DEVICE_MAX_CARRIED 3584u
#define DEVICE_CARRIED_ALIGN 16u
struct device_args {
	struct device_completion *completion; /* device address; NULL: nobody waits */
	uint64_t value;
	void *pointers[DEVICE_MAX_POINTERS];  /* device addresses */
	uint64_t scalars[DEVICE_MAX_SCALARS]; /* bits of a double or an int64_t */
	/*
	 * Not 0: input i lies in the host's memory, which the host sees at the same address, and
	 * has so many bytes. Kernels of an executable may be given a copy that was taken when it
	 * was launched: the first look at the host's memory from a GPU takes microseconds. Each
	 * rounded up to DEVICE_CARRIED_ALIGN, they have DEVICE_MAX_CARRIED bytes at most.
	 */
	uint16_t carried[GPUQ_MAX_INPUTS];
};

static inline uint32_t device_carried_room(uint32_t bytes)
{
	return (bytes + DEVICE_CARRIED_ALIGN - 1) & ~(DEVICE_CARRIED_ALIGN - 1);
}

/*
 * Code that a device can run: its form for the CPU is here, that for CUDA is found by name in the
 * module. `shape` is what is fixed when work is recorded; its layout belongs to the code.
 */
struct device_code {
	const char *name;
	/* Units begin..end-1 of 0..units-1; disjoint ranges may run at once. */
	void (*cpu)(
		const void *shape, const struct device_args *args, uint64_t begin, uint64_t end);
};

struct device_kernel {
	const struct device_code *code;
	const void *shape; /* copied in a capture; else in place until the work has ended */
	uint32_t shape_bytes;
	bool signal;	/* completes args->completion; in a capture: its last, after all others */
	uint64_t units; /* CPU: into how many pieces it may be cut */
	uint64_t predicted_ns; /* CPU: of the whole; decides into how many it is */
};

#endif
