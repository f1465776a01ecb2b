/* SPDX-License-Identifier: MIT */
/*
 * kv_append in CUDA: a block finds the cosines and sines of its row's position, in double, and each
 * warp of it takes one head: its norm, its turn, its place. A row has as many blocks as that takes
 * while rows are few, since a warp that takes one head after the other waits for memory each time;
 * else it has one.
 */
#include "kernels/cuda/codes.h"
#include "kernels/cuda/element.cuh"
#include "kernels/kv_append/append.cuh"

#define THREADS 256u
#define WARPS (THREADS / WARP)
#define PAIRS (KV_MAX_COLUMNS / 2 / WARP) /* of a lane */
#define MAX_BLOCKS 1024u		  /* where a row has several */

/* Columns i and i + D/2 of a head, for each i that is the lane's. */
struct head {
	float left[PAIRS], right[PAIRS];
};

static __device__ inline struct head load_head(const float *x, uint32_t half)
{
	struct head h;

#pragma unroll
	for (uint32_t p = 0; p < PAIRS; p++) {
		const uint32_t i = p * WARP + threadIdx.x % WARP;

		h.left[p] = i < half ? x[i] : 0;
		h.right[p] = i < half ? x[i + half] : 0;
	}
	return h;
}

/* As rmsnorm: in double, so that no head needs another way. */
static __device__ inline void normalise(
	struct head *h, const char *weight, uint32_t dtype, uint32_t half, double eps)
{
	double squares = 0;

#pragma unroll
	for (uint32_t p = 0; p < PAIRS; p++) {
		squares = fma((double)h->left[p], (double)h->left[p], squares);
		squares = fma((double)h->right[p], (double)h->right[p], squares);
	}
	for (uint32_t d = WARP / 2; d > 0; d /= 2)
		squares += __shfl_xor_sync(ALL_LANES, squares, d);

	const double factor = 1 / sqrt(squares / (2.0 * half) + eps);

#pragma unroll
	for (uint32_t p = 0; p < PAIRS; p++) {
		const uint32_t i = p * WARP + threadIdx.x % WARP;

		if (i >= half)
			continue;
		h->left[p] = (float)((double)h->left[p] * factor * float_at(weight, dtype, i));
		h->right[p] =
			(float)((double)h->right[p] * factor * float_at(weight, dtype, i + half));
	}
}

static __device__ inline void turn_head(struct head *h, const struct turn *turns, uint32_t half)
{
#pragma unroll
	for (uint32_t p = 0; p < PAIRS; p++) {
		const uint32_t i = p * WARP + threadIdx.x % WARP;

		turn_pair(&h->left[p], &h->right[p], turns[min(i, half - 1)]);
	}
}

template <typename T> __device__ inline void store_head(T *to, const struct head &h, uint32_t half)
{
#pragma unroll
	for (uint32_t p = 0; p < PAIRS; p++) {
		const uint32_t i = p * WARP + threadIdx.x % WARP;

		if (i >= half)
			continue;
		from_float(to + i, h.left[p]);
		from_float(to + i + half, h.right[p]);
	}
}

template <typename T>
__global__ void BOUNDS(THREADS) append_row(const __grid_constant__ struct append_task task,
	const __grid_constant__ struct cuda_completion done)
{
	__shared__ struct turn turns[KV_MAX_COLUMNS / 2];
	__shared__ int64_t slot;
	const uint64_t n = blockIdx.x / task.shares, share = blockIdx.x % task.shares;
	const uint64_t groups = task.kv.groups, columns = task.kv.columns;
	const uint64_t all = task.heads + 2 * groups, step = task.shares * WARPS;
	const uint32_t half = (uint32_t)columns / 2;
	const uint64_t block = groups * KV_TOKENS * columns; /* from keys to values */

	cuda_let_next();
	if (!turn_params_known(task.turns))
		cuda_await();

	/* Takes as long as a trip to memory. */
	const double frequency = threadIdx.x < half
		? turn_frequency(turn_params_of(task.turns, done.block), threadIdx.x, columns)
		: 0;

	if (!task.early)
		cuda_await();

	const int32_t position =
		index_at((const int32_t *)arg_pointer(done.block, task.positions), n);

	if (threadIdx.x < half)
		turns[threadIdx.x] = turn_of(position, frequency);
	if (threadIdx.x == THREADS - 1)
		slot = slot_of(task, done.block,
			index_at((const int32_t *)arg_pointer(done.block, task.rows), n), position);
	cuda_await();

	const float *x = (const float *)arg_pointer(done.block, task.qkv) + n * all * columns;
	float *q = (float *)arg_pointer(done.block, task.q) + n * task.heads * columns;
	T *cache = (T *)arg_pointer(done.block, task.cache);

	/* Each head is under way while the one before it is turned. */
	uint64_t h = share * WARPS + threadIdx.x / WARP;
	struct head next = load_head(x + min(h, all - 1) * columns, half);

	__syncthreads();
	for (; h < all; h += step) {
		struct head head = next;
		const bool query = h < task.heads, value = h >= task.heads + groups;
		const uint32_t dtype = query ? task.q_norm_dtype : task.k_norm_dtype;

		next = load_head(x + min(h + step, all - 1) * columns, half);
		if (!value && dtype != 0)
			normalise(&head, arg_pointer(done.block, query ? task.q_norm : task.k_norm),
				dtype, half, arg_f64(done.block, task.eps));
		if (!value)
			turn_head(&head, turns, half);
		if (query) {
			store_head(q + h * columns, head, half);
		} else if (slot >= 0) {
			const uint64_t group = h - task.heads - (value ? groups : 0);

			store_head(cache + slot + (value ? block : 0) + group * KV_TOKENS * columns,
				head, half);
		}
	}
	cuda_complete(done);
}

static int launch(const struct device_kernel *kernel, const struct cuda_args *args,
	const struct cuda_target *to)
{
	const struct op_launch *op = (const struct op_launch *)kernel->shape;
	const struct tensor *in = op->call.in, *q = &op->call.out[0];
	const struct cuda_completion done = cuda_completion(kernel, args);
	struct append_task task = append_task_of(op, args);

	if (q->dims[0] == 0)
		return launch_nothing(kernel, args, to);
	if (q->dims[0] > INT_MAX)
		return -EOPNOTSUPP;
	task.shares = (uint32_t)min(blocks_of(task.heads + 2 * task.kv.groups, WARPS),
		max(MAX_BLOCKS / q->dims[0], (uint64_t)1));
	return with_type(in[APPEND_CACHE].dtype, [&](auto type) {
		return run(to, append_row<decltype(type)>, (uint32_t)q->dims[0] * task.shares,
			THREADS, task, done);
	});
}

static int touch(void)
{
	return touch_types([](auto type) { return touch_kernel(append_row<decltype(type)>); });
}

const struct cuda_code kv_append_cuda = {"kv_append", launch, NULL, touch, NULL};
