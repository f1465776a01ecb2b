/* SPDX-License-Identifier: MIT */
/*
 * softmax in CUDA. A team works on a row: up to 32 lanes of a warp, or a block, of which the
 * smallest that can keep the row in SOFTMAX_FEW registers of a thread: more rows are then under
 * way. Up to TEAM_MAX elements are read once and stay in registers; longer rows are read three
 * times, for their maximum, their sum and their quotients, and all but the first time from the
 * cache.
 *
 * The sum of a row passes an exponential through at most 32 additions that round in a thread (a
 * compensated sum where rows are longer), and 10 between threads.
 */
#include "kernels/cuda/codes.h"
#include "kernels/cuda/resident.cuh"
#include "kernels/softmax/softmax_kept.cuh"

#define TEAM 128u /* where a team is a block, by the length of its row */
#define BLOCK 512u
#define GREAT 1024u
#define TEAM_MAX (GREAT * SOFTMAX_MANY)

template <typename T, uint32_t ITEMS, uint32_t COUNT>
__global__ void BOUNDS(COUNT == 0 ? BLOCK_MAX : COUNT)
	softmax_kept(const __grid_constant__ struct softmax_task task, uint32_t shift,
		const __grid_constant__ struct cuda_completion done)
{
	cuda_begin();
	softmax_kept_block<T, ITEMS, COUNT>(task, shift, done.block, blockIdx.x);
	cuda_complete(done);
}

/* --- Longer rows -------------------------------------------------------------------------- */

constexpr uint32_t STEP = 4; /* loads under way in a thread */

template <typename T> __device__ inline float long_max(const T *row, uint64_t n)
{
	float greatest = -INFINITY;

	for (uint64_t i = threadIdx.x; i < n; i += STEP * BLOCK) {
#pragma unroll
		for (uint32_t s = 0; s < STEP; s++)
			greatest = fmaxf(greatest, to_float(row[min(i + s * BLOCK, n - 1)]));
	}
	return team_max<BLOCK>(greatest, 0);
}

template <typename T>
__device__ inline float long_sum(const T *row, uint64_t n, float greatest, float inverse_t)
{
	struct total total = {0, 0};

	for (uint64_t i = threadIdx.x; i < n; i += STEP * BLOCK) {
		T loaded[STEP];
		float sum = 0;

#pragma unroll
		for (uint32_t s = 0; s < STEP; s++)
			loaded[s] = row[min(i + s * BLOCK, n - 1)];
#pragma unroll
		for (uint32_t s = 0; s < STEP; s++)
			sum += i + s * BLOCK < n
				? expf((to_float(loaded[s]) - greatest) * inverse_t)
				: 0;
		total_add(&total, sum);
	}
	return team_sum<BLOCK>(total.sum, 0);
}

template <typename T>
__global__ void BOUNDS(BLOCK) softmax_long(const __grid_constant__ struct softmax_task task,
	const __grid_constant__ struct cuda_completion done)
{
	cuda_begin();
	const uint64_t begin = blockIdx.x * task.n;
	const T *row = (const T *)arg_pointer(done.block, task.x) + begin;
	char *y = arg_pointer(done.block, task.y);
	const float inverse_t = inverse_temperature(task, done.block);
	const float greatest = long_max(row, task.n);
	const float inverse = 1 / long_sum(row, task.n, greatest, inverse_t);

#pragma unroll STEP
	for (uint64_t i = threadIdx.x; i < task.n; i += BLOCK)
		store_output<T>(y, begin + i,
			expf((to_float(row[i]) - greatest) * inverse_t) * inverse, task.wide);
	cuda_complete(done);
}

/* --- Launching ---------------------------------------------------------------------------- */

/* log2 of the lanes of a team, of whom each takes `items` elements. */
static uint32_t shift_for(uint64_t n, uint32_t items)
{
	uint32_t shift = 0;

	while ((uint64_t)items << shift < n)
		shift++;
	return shift;
}

template <typename T>
static int launch_rows(
	const struct softmax_task *task, struct cuda_completion done, const struct cuda_target *to)
{
	const uint32_t shift = shift_for(min(task->n, (uint64_t)WARP * SOFTMAX_FEW), SOFTMAX_FEW);
	const uint32_t grid = (uint32_t)task->rows;

	if (task->rows > INT_MAX)
		return -EOPNOTSUPP;
	if (task->n <= WARP * SOFTMAX_FEW) {
		const uint32_t threads = threads_for(task->rows << shift);

		return run(to, softmax_kept<T, SOFTMAX_FEW, 0>,
			(uint32_t)blocks_of(task->rows, threads >> shift), threads, *task, shift,
			done);
	}
	if (task->n <= TEAM * SOFTMAX_FEW)
		return run(to, softmax_kept<T, SOFTMAX_FEW, TEAM>, grid, TEAM, *task, 0, done);
	if (task->n <= BLOCK * SOFTMAX_FEW)
		return run(to, softmax_kept<T, SOFTMAX_FEW, BLOCK>, grid, BLOCK, *task, 0, done);
	if (task->n <= BLOCK * SOFTMAX_MANY)
		return run(to, softmax_kept<T, SOFTMAX_MANY, BLOCK>, grid, BLOCK, *task, 0, done);
	if (task->n <= TEAM_MAX)
		return run(to, softmax_kept<T, SOFTMAX_MANY, GREAT>, grid, GREAT, *task, 0, done);
	return run(to, softmax_long<T>, grid, BLOCK, *task, done);
}

static struct softmax_task make_task(
	const struct device_kernel *kernel, const struct cuda_args *args)
{
	const struct op_launch *op = (const struct op_launch *)kernel->shape;
	const struct tensor *x = &op->call.in[0], *y = &op->call.out[0];
	struct softmax_task task = {};

	task.x = arg_tensor(args, x, op->in[0]);
	task.y = arg_tensor(args, y, op->out[0]);
	task.temperature = arg_param(args, &op->call.params[0], op->params[0]);
	task.n = x->dims[x->rank - 1];
	task.rows = 1;
	task.wide = y->dtype == GPUQ_F32;
	for (uint32_t i = 0; i + 1 < x->rank; i++)
		task.rows *= x->dims[i];
	return task;
}

static int launch(const struct device_kernel *kernel, const struct cuda_args *args,
	const struct cuda_target *to)
{
	const struct op_launch *op = (const struct op_launch *)kernel->shape;
	const struct cuda_completion done = cuda_completion(kernel, args);
	const struct softmax_task task = make_task(kernel, args);

	if (task.n == 0 || task.rows == 0)
		return launch_nothing(kernel, args, to);
	return with_type(op->call.in[0].dtype,
		[&](auto type) { return launch_rows<decltype(type)>(&task, done, to); });
}

/* Teams of lanes, of which each keeps so many elements. */
static int command_teams(const struct softmax_task *task, uint32_t dtype, uint32_t items,
	struct cuda_command *command)
{
	const uint32_t shift = shift_for(task->n, items);

	return resident_command(command,
		items == SOFTMAX_FEW ? RESIDENT_SOFTMAX : RESIDENT_SOFTMAX_MANY, dtype, shift,
		blocks_of(task->rows, CUDA_RESIDENT_THREADS >> shift), *task);
}

/* The form that takes the fewest rounds. */
static int command(const struct device_kernel *kernel, const struct cuda_args *args,
	struct cuda_command *ret_command)
{
	const struct op_launch *op = (const struct op_launch *)kernel->shape;
	const struct softmax_task task = make_task(kernel, args);
	const uint32_t dtype = op->call.in[0].dtype;

	if (task.n == 0 || task.rows == 0 || task.n > CUDA_RESIDENT_THREADS * SOFTMAX_MANY)
		return -EOPNOTSUPP;
	if (task.n <= WARP * SOFTMAX_FEW &&
		task.rows <= CUDA_RESIDENT_THREADS >> shift_for(task.n, SOFTMAX_FEW))
		return command_teams(&task, dtype, SOFTMAX_FEW, ret_command);
	if (task.n <= WARP * SOFTMAX_MANY && task.rows > 1)
		return command_teams(&task, dtype, SOFTMAX_MANY, ret_command);
	return resident_command(ret_command,
		task.n <= CUDA_RESIDENT_THREADS * SOFTMAX_FEW ? RESIDENT_SOFTMAX_ROW
							      : RESIDENT_SOFTMAX_ROW_MANY,
		dtype, 0, task.rows, task);
}

template <typename T> static int touch_type(void)
{
	int err = touch_kernel(softmax_kept<T, SOFTMAX_FEW, 0>);

	if (err == 0)
		err = touch_kernel(softmax_kept<T, SOFTMAX_FEW, TEAM>);
	if (err == 0)
		err = touch_kernel(softmax_kept<T, SOFTMAX_FEW, BLOCK>);
	if (err == 0)
		err = touch_kernel(softmax_kept<T, SOFTMAX_MANY, BLOCK>);
	if (err == 0)
		err = touch_kernel(softmax_kept<T, SOFTMAX_MANY, GREAT>);
	return err != 0 ? err : touch_kernel(softmax_long<T>);
}

static int touch(void)
{
	int err = touch_type<float>();

	if (err == 0)
		err = touch_type<__half>();
	return err != 0 ? err : touch_type<__nv_bfloat16>();
}

const struct cuda_code softmax_cuda = {"softmax", launch, command, touch, NULL};
