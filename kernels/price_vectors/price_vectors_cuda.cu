/* SPDX-License-Identifier: MIT */
/* price_vectors in CUDA: dot products of the rows of prices. */
#include "kernels/cuda/codes.h"
#include "kernels/cuda/dot.cuh"
#include "kernels/cuda/machine.h"

static struct dot_task make_task(const struct device_kernel *kernel, const struct cuda_args *args)
{
	const struct op_launch *op = (const struct op_launch *)kernel->shape;
	const struct tensor *prices = &op->call.in[0], *weights = &op->call.in[1];
	const struct tensor *scores = &op->call.out[0];
	struct dot_task task = {};

	task.rows = arg_tensor(args, prices, op->in[0]);
	task.vecs = arg_tensor(args, weights, op->in[1]);
	task.out = arg_tensor(args, scores, op->out[0]);
	task.n = prices->dims[2];
	task.count = scores->dims[0] * scores->dims[1];
	task.vec_shared = weights->rank == 1;
	task.vec_by_place = !task.vec_shared;
	task.period = task.vec_shared ? 0 : (uint32_t)scores->dims[1];
	task.wide = scores->dtype == GPUQ_F32;
	return task;
}

static int launch(const struct device_kernel *kernel, const struct cuda_args *args,
	const struct cuda_target *to)
{
	const struct op_launch *op = (const struct op_launch *)kernel->shape;
	const struct dot_task task = make_task(kernel, args);

	return dot_launch(&task, op->call.in[0].dtype, kernel, args, to);
}

static int command(const struct device_kernel *kernel, const struct cuda_args *args,
	struct cuda_command *ret_command)
{
	const struct op_launch *op = (const struct op_launch *)kernel->shape;
	const struct dot_task task = make_task(kernel, args);

	return dot_command(&task, op->call.in[0].dtype, ret_command);
}

static int touch(void)
{
	const int err = machine_touch();

	return err != 0 ? err : dot_touch();
}

const struct cuda_code price_vectors_cuda = {"price_vectors", launch, command, touch, NULL};
