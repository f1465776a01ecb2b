/* SPDX-License-Identifier: MIT */
/* Dot products of many rows; see dot.cuh. */
#include "kernels/cuda/dot_short.cuh"
#include "kernels/cuda/machine.h"
#include "kernels/cuda/resident.cuh"

#define THREADS 256u
#define WARPS (THREADS / WARP)
#define MAX_THREADS 1024u /* of a block of the short form */
#define DOT_LONG_ROWS 4u

/* --- Short rows --------------------------------------------------------------------------- */

template <typename T, bool SHARED, uint32_t ROWS>
__global__ void BOUNDS(MAX_THREADS) dot_short(const __grid_constant__ struct dot_task task,
	uint32_t shift, const __grid_constant__ struct cuda_completion done)
{
	cuda_begin();
	dot_short_block<T, SHARED, ROWS>(task, shift, done.block, blockIdx.x);
	cuda_complete(done);
}

/* --- Long rows ---------------------------------------------------------------------------- */

/* How a call of long rows is cut: block b takes part b % parts of the rows of group b / parts. */
struct dot_cut {
	uint64_t part_elements; /* a multiple of what a block loads at once */
	uint32_t parts;
};

/* Adds STEPS times 16 bytes of each row to its sum; the rows of a block share a vector. */
template <typename T, uint32_t ROWS, uint32_t STEPS>
__device__ inline void long_steps(
	const T *const row[ROWS], const T *vec_at, uint64_t i, struct total sums[ROWS])
{
	constexpr uint32_t STRIDE = THREADS * vec_elements<T>;
	vec<T> a[ROWS][STEPS], b[STEPS];

#pragma unroll
	for (uint32_t s = 0; s < STEPS; s++) {
		b[s] = vec_load(vec_at + i + s * STRIDE);
#pragma unroll
		for (uint32_t r = 0; r < ROWS; r++)
			a[r][s] = vec_load(row[r] + i + s * STRIDE);
	}
#pragma unroll
	for (uint32_t r = 0; r < ROWS; r++) {
		float sum = 0;

#pragma unroll
		for (uint32_t s = 0; s < STEPS; s++)
			sum += vec_dot<T>(a[r][s], b[s]);
		total_add(&sums[r], sum);
	}
}

/* Adds elements begin..end-1 of the rows, 16 bytes at a time; begin is a multiple of 16 bytes. */
template <typename T, uint32_t ROWS>
__device__ inline void long_by_vec(const T *const row[ROWS], const T *vec_at, uint64_t begin,
	uint64_t end, struct total sums[ROWS])
{
	constexpr uint32_t V = vec_elements<T>, STEPS = ROWS == 1 ? 4 : 2;
	uint64_t i = begin + threadIdx.x * V;

	for (; i + (STEPS - 1) * THREADS * V < end; i += STEPS * THREADS * V)
		long_steps<T, ROWS, STEPS>(row, vec_at, i, sums);
	for (; i < end; i += THREADS * V)
		long_steps<T, ROWS, 1>(row, vec_at, i, sums);
}

template <typename T, uint32_t ROWS>
__device__ inline void long_by_element(const T *const row[ROWS], const T *vec_at, uint64_t begin,
	uint64_t end, struct total sums[ROWS])
{
	for (uint64_t i = begin + threadIdx.x; i < end; i += THREADS) {
#pragma unroll
		for (uint32_t r = 0; r < ROWS; r++)
			total_add(&sums[r], to_float(row[r][i]) * to_float(vec_at[i]));
	}
}

/* The sum over the block, in the threads of warp 0. */
static __device__ inline float block_sum(float v, float *warps)
{
	v = lanes_sum(v, WARP);
	if (threadIdx.x % WARP == 0)
		warps[threadIdx.x / WARP] = v;
	__syncthreads();
	v = lanes_sum(threadIdx.x % WARP < WARPS ? warps[threadIdx.x % WARP] : 0, WARP);
	__syncthreads();
	return v;
}

/* The parts' sums of a row in one fixed order; by warp 0. */
static __device__ inline float parts_sum(const float *partials, uint32_t parts)
{
	struct total total = {0, 0};

	for (uint32_t i = threadIdx.x; i < parts; i += WARP)
		total_add(&total, __ldcg(&partials[i]));
	return lanes_sum(total.sum, WARP);
}

/* True in the block that comes last of those that share rows, after all have left their sums. */
template <uint32_t ROWS>
__device__ inline bool parts_joined(struct cuda_scratch *scratch, uint32_t group, uint32_t part,
	uint32_t parts, const float sums[ROWS])
{
	__shared__ bool last;

	if (threadIdx.x == 0) {
#pragma unroll
		for (uint32_t r = 0; r < ROWS; r++)
			scratch->partials[(group * ROWS + r) * parts + part] = sums[r];
		last = cuda_last_of(&scratch->tickets[group], parts);
	}
	__syncthreads();
	return last;
}

template <typename T, uint32_t ROWS>
__global__ void BOUNDS(THREADS)
	dot_long(const __grid_constant__ struct dot_task task, struct dot_cut cut,
		struct cuda_scratch *scratch, const __grid_constant__ struct cuda_completion done)
{
	cuda_begin();
	const T *base = (const T *)arg_pointer(done.block, task.rows);
	const T *vecs = (const T *)arg_pointer(done.block, task.vecs);
	const T *biases = task.has_bias ? (const T *)arg_pointer(done.block, task.bias) : NULL;
	char *out = arg_pointer(done.block, task.out);
	const uint32_t group = blockIdx.x / cut.parts, part = blockIdx.x % cut.parts;
	const uint32_t first = group * ROWS;
	const uint64_t begin = part * cut.part_elements;
	const uint64_t end = min(begin + cut.part_elements, task.n);
	__shared__ float warps[WARPS];
	const T *row[ROWS], *vec_at = vecs;
	struct total totals[ROWS] = {};
	float sums[ROWS];
	T bias[ROWS];

#pragma unroll
	for (uint32_t r = 0; r < ROWS; r++) {
		/* Rows beyond the last repeat it; their sums are not stored. */
		const struct places p =
			places_of<(ROWS > 1)>(task, min(first + r, (uint32_t)task.count - 1));

		row[r] = base + p.row * task.n;
		if (ROWS == 1)
			vec_at = vecs + p.vec * task.n;
		if (task.has_bias)
			bias[r] = biases[p.bias];
	}
	if (aligned_16(base, vecs) && task.n % vec_elements<T> == 0)
		long_by_vec<T, ROWS>(row, vec_at, begin, end, totals);
	else
		long_by_element<T, ROWS>(row, vec_at, begin, end, totals);
#pragma unroll
	for (uint32_t r = 0; r < ROWS; r++)
		sums[r] = block_sum(totals[r].sum, warps);
	if (cut.parts == 1 || parts_joined<ROWS>(scratch, group, part, cut.parts, sums)) {
#pragma unroll
		for (uint32_t r = 0; r < ROWS; r++) {
			if (cut.parts > 1 && threadIdx.x < WARP)
				sums[r] = parts_sum(
					&scratch->partials[(group * ROWS + r) * cut.parts],
					cut.parts);
			if (threadIdx.x == 0 && first + r < task.count)
				store_dot<T>(task, out, first + r, sums[r], bias[r]);
		}
	}
	cuda_complete(done);
}

/* --- Launching ---------------------------------------------------------------------------- */

/* log2 of the lanes for a row: each loads 16 bytes in a step. */
static uint32_t shift_for(uint64_t n, uint32_t elements)
{
	uint32_t shift = 0;

	while (1u << shift < WARP && (uint64_t)elements << shift < n)
		shift++;
	return shift;
}

/* Rows that share a vector share a block, once there are enough of them to fill the machine. */
static uint32_t rows_for(const struct dot_task *task)
{
	return task->vec_shared && task->count >= (uint64_t)4 * DOT_LONG_ROWS * machine_processors()
		? DOT_LONG_ROWS
		: 1;
}

/* Rows are shared where they are too few to keep the machine busy, down to one step of a block. */
static struct dot_cut cut_for(const struct dot_task *task, uint64_t groups, uint32_t step)
{
	const uint64_t wanted = 4 * machine_processors(), steps = blocks_of(task->n, step);
	uint64_t parts = 1;

	if (groups <= CUDA_TICKETS && groups * 2 <= wanted) {
		parts = min(wanted / groups, steps);
		parts = min(parts, CUDA_PARTIALS / groups);
	}
	const uint64_t part_steps = blocks_of(steps, parts);

	return (struct dot_cut){part_steps * step, (uint32_t)blocks_of(steps, part_steps)};
}

template <typename T>
static int launch_long(const struct dot_task *task, const struct device_kernel *kernel,
	const struct cuda_args *args, const struct cuda_target *to)
{
	const uint32_t rows = rows_for(task);
	const uint64_t groups = blocks_of(task->count, rows);
	const struct dot_cut cut = cut_for(task, groups, THREADS * vec_elements<T>);
	const struct cuda_completion done = cuda_completion(kernel, args);

	const uint32_t blocks = (uint32_t)groups * cut.parts;

	if (rows == 1)
		return run(to, dot_long<T, 1>, blocks, THREADS, *task, cut, args->scratch, done);
	return run(
		to, dot_long<T, DOT_LONG_ROWS>, blocks, THREADS, *task, cut, args->scratch, done);
}

template <typename T, bool SHARED>
static int launch_short(const struct dot_task *task, const struct device_kernel *kernel,
	const struct cuda_args *args, const struct cuda_target *to)
{
	const uint32_t shift = shift_for(task->n, vec_elements<T>);
	const uint64_t count = task->count;
	const uint32_t rows = count << shift <= MAX_THREADS ? 1 : DOT_SHORT_ROWS;
	const struct cuda_completion done = cuda_completion(kernel, args);
	const uint32_t threads = threads_for(blocks_of(count, rows) << shift);

	return run(to, rows == 1 ? dot_short<T, SHARED, 1> : dot_short<T, SHARED, DOT_SHORT_ROWS>,
		(uint32_t)blocks_of(count, (uint64_t)rows * (threads >> shift)), threads, *task,
		shift, done);
}

int dot_launch(const struct dot_task *task, uint32_t dtype, const struct device_kernel *kernel,
	const struct cuda_args *args, const struct cuda_target *to)
{
	if (task->count == 0)
		return launch_nothing(kernel, args, to);
	if (task->count > INT_MAX)
		return -EOPNOTSUPP;
	return with_type(dtype, [&](auto type) {
		using T = decltype(type);

		if (task->n > DOT_SHORT_BYTES / sizeof(T))
			return launch_long<T>(task, kernel, args, to);
		if (task->vec_shared)
			return launch_short<T, true>(task, kernel, args, to);
		return launch_short<T, false>(task, kernel, args, to);
	});
}

int dot_command(const struct dot_task *task, uint32_t dtype, struct cuda_command *command)
{
	const uint64_t row_bytes = task->n * (dtype == GPUQ_F32 ? 4 : 2);
	const uint32_t shift = shift_for(row_bytes, 16);
	const uint64_t per_block = (uint64_t)DOT_SHORT_ROWS * (CUDA_RESIDENT_THREADS >> shift);

	if (task->count == 0 || row_bytes > DOT_SHORT_BYTES)
		return -EOPNOTSUPP;
	return resident_command(command, task->vec_shared ? RESIDENT_DOT : RESIDENT_DOT_VECS, dtype,
		shift, blocks_of(task->count, per_block), *task);
}

template <typename T> static int touch(void)
{
	int err = touch_kernel(dot_short<T, true, 1>);

	if (err == 0)
		err = touch_kernel(dot_short<T, true, DOT_SHORT_ROWS>);
	if (err == 0)
		err = touch_kernel(dot_short<T, false, 1>);
	if (err == 0)
		err = touch_kernel(dot_short<T, false, DOT_SHORT_ROWS>);
	if (err == 0)
		err = touch_kernel(dot_long<T, 1>);
	return err != 0 ? err : touch_kernel(dot_long<T, DOT_LONG_ROWS>);
}

int dot_touch(void)
{
	int err = touch<float>();

	if (err == 0)
		err = touch<__half>();
	return err != 0 ? err : touch<__nv_bfloat16>();
}
