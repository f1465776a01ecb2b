/* SPDX-License-Identifier: MIT */
/*
 * softmax in CUDA. A team works on a row: up to 32 lanes of a warp, or a block, of which the
 * smallest that can keep the row in FEW registers of a thread: more rows are then under way. Up to
 * TEAM_MAX elements are read once and stay in registers; longer rows are read three times, for
 * their maximum, their sum and their quotients, and all but the first time from the cache.
 *
 * The sum of a row passes an exponential through at most 32 additions that round in a thread (a
 * compensated sum where rows are longer), and 10 between threads.
 */
#include "kernels/cuda/arg.cuh"
#include "kernels/cuda/codes.h"
#include "kernels/cuda/element.cuh"

#define TEAM 128u /* where a team is a block, by the length of its row */
#define BLOCK 512u
#define GREAT 1024u
#define FEW 8u /* elements of a row that a thread keeps */
#define MANY 32u
#define TEAM_MAX (GREAT * MANY)

struct task {
	struct arg x, y, temperature;
	uint64_t rows, n;
	bool wide; /* y is f32 */
};

/* What the exponent is multiplied with. */
static __device__ inline float inverse_temperature(
	const struct task &task, const struct cuda_completion &done)
{
	return (float)(1.0 / arg_f64(done.block, task.temperature));
}

/* --- Teams: COUNT threads, or (1 << shift) lanes where COUNT is 0 --------------------------- */

/* Calls `lanes`, lanes_max() or lanes_sum(), for the lanes of a team and then for its warps. */
template <uint32_t COUNT, typename Lanes>
__device__ inline float team_reduce(float v, uint32_t shift, float none, Lanes lanes)
{
	if constexpr (COUNT == 0) {
		return lanes(v, 1u << shift);
	} else {
		__shared__ float warps[WARP];

		v = lanes(v, WARP);
		if (threadIdx.x % WARP == 0)
			warps[threadIdx.x / WARP] = v;
		__syncthreads();
		v = lanes(
			threadIdx.x % WARP < COUNT / WARP ? warps[threadIdx.x % WARP] : none, WARP);
		__syncthreads();
		return v;
	}
}

template <uint32_t COUNT> __device__ inline float team_max(float v, uint32_t shift)
{
	return team_reduce<COUNT>(v, shift, -INFINITY, lanes_max);
}

template <uint32_t COUNT> __device__ inline float team_sum(float v, uint32_t shift)
{
	return team_reduce<COUNT>(v, shift, 0, lanes_sum);
}

/* --- Rows that stay in registers ---------------------------------------------------------- */

/*
 * The elements of a row that a thread has: groups of V of them, at distance `stride`. Beyond the
 * row they are -inf, which a maximum does not see, and a sum of exponentials only when it is NaN
 * anyway: in a row of -inf alone.
 */
template <typename T, uint32_t ITEMS>
__device__ inline void load_by_vec(
	float v[ITEMS], const T *row, uint32_t n, uint32_t lane, uint32_t lanes)
{
	constexpr uint32_t V = vec_elements<T>;
	vec<T> loaded[ITEMS / V];

#pragma unroll
	for (uint32_t i = 0; i < ITEMS / V; i++)
		loaded[i] = vec_load(row + min((lane + i * lanes) * V, n - V));
#pragma unroll
	for (uint32_t i = 0; i < ITEMS; i++)
		v[i] = (lane + i / V * lanes) * V < n ? loaded[i / V].at(i % V) : -INFINITY;
}

template <typename T, uint32_t ITEMS>
__device__ inline void load_by_element(
	float v[ITEMS], const T *row, uint32_t n, uint32_t lane, uint32_t lanes)
{
	T loaded[ITEMS];

#pragma unroll
	for (uint32_t i = 0; i < ITEMS; i++)
		loaded[i] = row[min(lane + i * lanes, n - 1)];
#pragma unroll
	for (uint32_t i = 0; i < ITEMS; i++)
		v[i] = lane + i * lanes < n ? to_float(loaded[i]) : -INFINITY;
}

/* Turns the scores of a team into probabilities. */
template <uint32_t ITEMS, uint32_t COUNT>
__device__ inline void normalise(float v[ITEMS], float inverse_t, uint32_t shift)
{
	float greatest = v[0], sum = 0;

#pragma unroll
	for (uint32_t i = 1; i < ITEMS; i++)
		greatest = fmaxf(greatest, v[i]);
	greatest = team_max<COUNT>(greatest, shift);
#pragma unroll
	for (uint32_t i = 0; i < ITEMS; i++) {
		v[i] = expf((v[i] - greatest) * inverse_t);
		sum += v[i];
	}
	sum = 1 / team_sum<COUNT>(sum, shift);
#pragma unroll
	for (uint32_t i = 0; i < ITEMS; i++)
		v[i] *= sum;
}

/* Four (f32) or eight neighbours at a time where they are aligned. */
template <typename T> __device__ inline void store_vec(T *to, const float *v)
{
	vec<T> packed;
	T *elements = (T *)&packed;

#pragma unroll
	for (uint32_t i = 0; i < vec_elements<T>; i++)
		from_float(&elements[i], v[i]);
	*(uint4 *)to = packed.bits;
}

/* V elements that lie next to each other in the row and in a thread. */
template <typename T, uint32_t V>
__device__ inline void store_group(char *y, uint64_t at, const float *v, bool wide, bool aligned)
{
	if (aligned && wide) {
#pragma unroll
		for (uint32_t i = 0; i < V; i += 4)
			store_vec((float *)y + at + i, v + i);
	} else if (aligned && V == vec_elements<T>) {
		store_vec((T *)y + at, v);
	} else {
#pragma unroll
		for (uint32_t i = 0; i < V; i++)
			store_output<T>(y, at + i, v[i], wide);
	}
}

template <typename T, uint32_t ITEMS, uint32_t COUNT>
__global__ void BOUNDS(COUNT == 0 ? BLOCK_MAX : COUNT)
	softmax_kept(const __grid_constant__ struct task task, uint32_t shift,
		const __grid_constant__ struct cuda_completion done)
{
	constexpr uint32_t V = vec_elements<T>;
	const T *x = (const T *)arg_pointer(done.block, task.x);
	char *y = arg_pointer(done.block, task.y);
	const float inverse_t = inverse_temperature(task, done);
	const uint32_t lanes = COUNT == 0 ? 1u << shift : COUNT, lane = threadIdx.x & (lanes - 1);
	const uint32_t n = (uint32_t)task.n, team = threadIdx.x / lanes;
	const uint64_t row = (uint64_t)blockIdx.x * (blockDim.x / lanes) + team;
	const uint64_t begin = min(row, task.rows - 1) * n; /* teams beyond the last repeat it */
	const bool by_vec = aligned_16(x, NULL) && n % V == 0;
	const bool aligned = aligned_16(y, NULL);
	float v[ITEMS];

	if (by_vec)
		load_by_vec<T, ITEMS>(v, x + begin, n, lane, lanes);
	else
		load_by_element<T, ITEMS>(v, x + begin, n, lane, lanes);
	normalise<ITEMS, COUNT>(v, inverse_t, shift);
	if (by_vec && row < task.rows) {
#pragma unroll
		for (uint32_t i = 0; i < ITEMS / V; i++) {
			const uint32_t at = (lane + i * lanes) * V;

			if (at < n)
				store_group<T, V>(y, begin + at, &v[i * V], task.wide, aligned);
		}
	} else if (row < task.rows) {
#pragma unroll
		for (uint32_t i = 0; i < ITEMS; i++) {
			if (lane + i * lanes < n)
				store_output<T>(y, begin + lane + i * lanes, v[i], task.wide);
		}
	}
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
__global__ void BOUNDS(BLOCK) softmax_long(const __grid_constant__ struct task task,
	const __grid_constant__ struct cuda_completion done)
{
	const uint64_t begin = blockIdx.x * task.n;
	const T *row = (const T *)arg_pointer(done.block, task.x) + begin;
	char *y = arg_pointer(done.block, task.y);
	const float inverse_t = inverse_temperature(task, done);
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
	const struct task *task, struct cuda_completion done, const struct cuda_target *to)
{
	const uint32_t shift = shift_for(min(task->n, (uint64_t)WARP * FEW), FEW);
	const uint32_t grid = (uint32_t)task->rows;

	if (task->rows > INT_MAX)
		return -EOPNOTSUPP;
	if (task->n <= WARP * FEW) {
		const uint32_t threads = threads_for(task->rows << shift);

		return run(to, softmax_kept<T, FEW, 0>,
			(uint32_t)blocks_of(task->rows, threads >> shift), threads, *task, shift,
			done);
	}
	if (task->n <= TEAM * FEW)
		return run(to, softmax_kept<T, FEW, TEAM>, grid, TEAM, *task, 0, done);
	if (task->n <= BLOCK * FEW)
		return run(to, softmax_kept<T, FEW, BLOCK>, grid, BLOCK, *task, 0, done);
	if (task->n <= BLOCK * MANY)
		return run(to, softmax_kept<T, MANY, BLOCK>, grid, BLOCK, *task, 0, done);
	if (task->n <= TEAM_MAX)
		return run(to, softmax_kept<T, MANY, GREAT>, grid, GREAT, *task, 0, done);
	return run(to, softmax_long<T>, grid, BLOCK, *task, done);
}

static int launch(const struct device_kernel *kernel, const struct cuda_args *args,
	const struct cuda_target *to)
{
	const struct op_launch *op = (const struct op_launch *)kernel->shape;
	const struct tensor *x = &op->call.in[0], *y = &op->call.out[0];
	const struct cuda_completion done = cuda_completion(kernel, args);
	struct task task = {};

	task.x = arg_tensor(args, x, op->in[0]);
	task.y = arg_tensor(args, y, op->out[0]);
	task.temperature = arg_param(args, &op->call.params[0], op->params[0]);
	task.n = x->dims[x->rank - 1];
	task.rows = 1;
	task.wide = y->dtype == GPUQ_F32;
	for (uint32_t i = 0; i + 1 < x->rank; i++)
		task.rows *= x->dims[i];
	if (task.n == 0 || task.rows == 0)
		return launch_nothing(kernel, args, to);
	return with_type(
		x->dtype, [&](auto type) { return launch_rows<decltype(type)>(&task, done, to); });
}

template <typename T> static int touch_type(void)
{
	int err = touch_kernel(softmax_kept<T, FEW, 0>);

	if (err == 0)
		err = touch_kernel(softmax_kept<T, FEW, TEAM>);
	if (err == 0)
		err = touch_kernel(softmax_kept<T, FEW, BLOCK>);
	if (err == 0)
		err = touch_kernel(softmax_kept<T, MANY, BLOCK>);
	if (err == 0)
		err = touch_kernel(softmax_kept<T, MANY, GREAT>);
	return err != 0 ? err : touch_kernel(softmax_long<T>);
}

static int touch(void)
{
	int err = touch_type<float>();

	if (err == 0)
		err = touch_type<__half>();
	return err != 0 ? err : touch_type<__nv_bfloat16>();
}

const struct cuda_code softmax_cuda = {"softmax", launch, touch};
