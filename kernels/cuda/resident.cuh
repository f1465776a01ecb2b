/* SPDX-License-Identifier: MIT */
/* resident.cuh: what the resident kernel (device/cuda/resident.h) can run, as its commands. */
#ifndef GPUQ_KERNELS_CUDA_RESIDENT_CUH
#define GPUQ_KERNELS_CUDA_RESIDENT_CUH

#include "device/cuda/resident.h"

#include <errno.h>
#include <string.h>

/* Forms of operators of which one block does all. */
enum resident_form : uint16_t {
	RESIDENT_GEMV_SHORT,
	RESIDENT_DOT,	   /* of one vector; four rows to a lane */
	RESIDENT_DOT_VECS, /* of several vectors */
	RESIDENT_SOFTMAX,  /* teams of lanes that keep few elements each */
	RESIDENT_SOFTMAX_MANY,
	RESIDENT_SOFTMAX_ROW, /* the block is a team */
	RESIDENT_SOFTMAX_ROW_MANY,
};

#define RESIDENT_BLOCKS 2u /* more of them are faster on as many multiprocessors */

/* -EOPNOTSUPP: it would take one block too long. */
template <typename Task>
static int resident_command(struct cuda_command *command, enum resident_form form, uint32_t dtype,
	uint32_t shift, uint64_t blocks, const Task &task)
{
	static_assert(sizeof(task) <= sizeof(command->task), "room for the task");

	if (blocks > RESIDENT_BLOCKS)
		return -EOPNOTSUPP;
	command->form = form;
	command->dtype = (uint8_t)dtype;
	command->shift = (uint8_t)shift;
	command->blocks = (uint32_t)blocks;
	memcpy(command->task, &task, sizeof(task));
	return 0;
}

#endif
