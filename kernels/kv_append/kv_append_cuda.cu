/* SPDX-License-Identifier: MIT */
/*
 * kv_append in CUDA: a block finds the cosines and sines of its row's position, in double, and each
 * warp of it takes one head: its norm, its turn, its place. A row has as many blocks as that takes
 * while rows are few, since a warp that takes one head after the other waits for memory each time;
 * else it has one.
 */
#include "kernels/cuda/codes.h"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/kv.cuh"
#include "kernels/rope/turn.cuh"

extern "C" {
#include "kernels/kv_append/kv_append.h"
}

#define THREADS 256u
#define WARPS (THREADS / WARP)
#define PAIRS (KV_MAX_COLUMNS / 2 / WARP) /* of a lane */
#define MAX_BLOCKS 1024u		  /* where a row has several */

/* What is read before cuda_await() where nothing in the sequence writes it. */
#define EARLY (1u << APPEND_POSITIONS | 1u << APPEND_ROWS | 1u << APPEND_TABLE)

struct append_task {
	struct arg qkv, positions, rows, table, cache, q_norm, k_norm, q, eps;
	struct turn_args turns;
	struct kv_shape kv;
	uint64_t heads;			     /* of queries */
	uint32_t shares;		     /* blocks of a row */
	uint32_t q_norm_dtype, k_norm_dtype; /* 0: there are no norms */
	bool early; /* positions, rows and table may be read before cuda_await() */
};

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
		const struct turn t = turns[min(i, half - 1)];
		const float a = h->left[p], b = h->right[p];

		h->left[p] = fmaf(a, t.cosine, -(b * t.sine));
		h->right[p] = fmaf(b, t.cosine, a * t.sine);
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

/* Where the row's first key goes; -1: nowhere. */
static __device__ inline int64_t slot_of(const struct append_task &task,
	const struct device_args *block, uint64_t n, int32_t position)
{
	const int32_t *table = (const int32_t *)arg_pointer(block, task.table);
	int64_t found = -1;

	if (position >= 0)
		found = kv_find(task.kv, table,
			index_at((const int32_t *)arg_pointer(block, task.rows), n),
			(uint64_t)position / KV_TOKENS);
	return found < 0 ? -1
			 : (int64_t)(kv_begin(task.kv, (uint64_t)found, KV_KEYS, 0) +
				   (uint64_t)position % KV_TOKENS * task.kv.columns);
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
		turns[threadIdx.x] = turn_of((double)position * frequency);
	if (threadIdx.x == THREADS - 1)
		slot = slot_of(task, done.block, n, position);
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
	struct append_task task = {};

	task.qkv = arg_tensor(args, &in[APPEND_QKV], op->in[APPEND_QKV]);
	task.positions = arg_tensor(args, &in[APPEND_POSITIONS], op->in[APPEND_POSITIONS]);
	task.rows = arg_tensor(args, &in[APPEND_ROWS], op->in[APPEND_ROWS]);
	task.table = arg_tensor(args, &in[APPEND_TABLE], op->in[APPEND_TABLE]);
	task.cache = arg_tensor(args, &in[APPEND_CACHE], op->in[APPEND_CACHE]);
	task.q_norm_dtype = in[APPEND_Q_NORM].dtype;
	task.k_norm_dtype = in[APPEND_K_NORM].dtype;
	if (task.q_norm_dtype != 0) {
		task.q_norm = arg_tensor(args, &in[APPEND_Q_NORM], op->in[APPEND_Q_NORM]);
		task.k_norm = arg_tensor(args, &in[APPEND_K_NORM], op->in[APPEND_K_NORM]);
	}
	task.q = arg_tensor(args, q, op->out[0]);
	task.turns = turn_args_of(args, op);
	task.eps = arg_param(args, &op->call.params[APPEND_EPS], op->params[APPEND_EPS]);
	task.kv = kv_shape_of(&in[APPEND_TABLE], &in[APPEND_CACHE]);
	task.heads = q->dims[1];
	task.early = (op->constants & EARLY) == EARLY;
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
