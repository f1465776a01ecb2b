/* SPDX-License-Identifier: MIT */
/*
 * launch.h: an operator as work for a device: what is fixed when it is recorded (shapes, types,
 * where each argument comes from), and its code. The form for the CPU is built of the operator's
 * `cpu`; the form for CUDA is kernels/NAME/NAME_cuda.cu, which reads the same struct.
 */
#ifndef GPUQ_KERNELS_LAUNCH_H
#define GPUQ_KERNELS_LAUNCH_H

#include "device/work.h"
#include "kernels/op.h"

/* An argument that is fixed: a tensor's address or a parameter's value lies in `call`. */
#define OP_FIXED UINT8_MAX

/* The shape of a device_kernel whose code is op_code(). */
struct op_launch {
	struct op_call call;	     /* checked; data and params count only where they are fixed */
	uint8_t in[GPUQ_MAX_INPUTS]; /* index in device_args.pointers, or OP_FIXED */
	uint8_t out[GPUQ_MAX_OUTPUTS];	 /* likewise */
	uint8_t params[GPUQ_MAX_PARAMS]; /* index in device_args.scalars, or OP_FIXED */
	/* Bit i: nothing writes input i while the sequence runs: it may be read early. */
	uint32_t constants;
};

/* The code of an operator of op_table, for all its shapes. Its name is the operator's. */
const struct device_code *op_code(const struct op *op);

/*
 * A launch whose arguments all come from device_args: input i from pointers[i], output i from
 * pointers[GPUQ_MAX_INPUTS + i], parameter i from scalars[i].
 */
void op_launch_init(struct op_launch *launch, const struct op_call *call);

/* The arguments of such a launch: addresses and values of the call. completion stays NULL. */
void op_args(struct device_args *args, const struct op_call *call);

/* The CPU form of every operator's code. */
void op_launch_cpu(const void *shape, const struct device_args *args, uint64_t begin, uint64_t end);

#endif
