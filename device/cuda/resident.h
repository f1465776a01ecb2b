/* SPDX-License-Identifier: MIT */
/*
 * resident.h: the inline stream of a CUDA device: a kernel of one block that stays on the GPU,
 * takes commands out of a ring in the host's memory and runs them one after another. No call of
 * the driver lies between a command and its end: that takes 3 us less than a launch, and captures
 * in the background do not delay it.
 *
 * A command's slot. Each word has 32 bits of the command below and 32 bits of its number above.
 * A warp reads all words at once, as it polls; the command is there when all numbers are the one
 * that is due. So words may be written and arrive in any order, and no second trip over the bus
 * follows the one that found it.
 *
 * Lives. The kernel leaves when nothing has come for a while, when it is told to, and from time to
 * time under load; `left` is then the number of its life. Who puts a command looks at `left`
 * afterwards, behind a fence; the kernel looks at the ring once more after it has stored `left`,
 * behind a fence. So either the kernel sees the command or the host that somebody has to start the
 * next life, which goes on where the last one stopped.
 *
 * After a crash of the host's process all this is gone with its context.
 */
#ifndef GPUQ_DEVICE_CUDA_RESIDENT_H
#define GPUQ_DEVICE_CUDA_RESIDENT_H

#include "device/cuda/code.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CUDA_RESIDENT_THREADS 512u
#define CUDA_RESIDENT_DEPTH 4u /* commands in flight; what is more is faster in streams */

/* It leaves when there was no command for so long, or when it has lived so long. */
#define CUDA_RESIDENT_IDLE_NS UINT64_C(2000000)
#define CUDA_RESIDENT_LIFE_NS UINT64_C(50000000)

/* What the resident kernel is to run; `task` belongs to the form. */
struct cuda_command {
	struct device_completion *completion;
	uint64_t value;
	uint64_t task[12];
	uint16_t form;
	uint8_t dtype, shift;
	uint32_t blocks; /* of a grid: so many times one after another */
};
#define CUDA_COMMAND_WORDS (sizeof(struct cuda_command) / sizeof(uint32_t))
#define CUDA_SLOT_WORDS 32u

/* In pinned memory. */
struct cuda_ring {
	uint64_t slots[CUDA_RESIDENT_DEPTH][CUDA_SLOT_WORDS]; /* written by the host */
	uint64_t leave; /* likewise; 1: leave as soon as the ring is empty */
	uint8_t pad0[120];
	uint64_t arrived; /* written by the kernel: the life that runs */
	uint8_t pad1[120];
	uint64_t left; /* likewise: the last life that has left, or is about to */
	uint8_t pad2[120];
};

/* The kernel; its arguments are struct cuda_ring * and the uint64_t * of struct cuda_watch. */
const void *cuda_resident_kernel(void);

#ifdef __cplusplus
}
#endif
#endif
