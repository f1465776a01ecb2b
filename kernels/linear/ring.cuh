/* SPDX-License-Identifier: MIT */
/*
 * ring.cuh: linear of one row, whose time is that of reading the weights. There is a block for each
 * multiprocessor, with as many outputs as any other. Each warp brings its weights into a ring in
 * shared memory, and begins before the kernels before this one have ended: so memory has work
 * between kernels too, and what a block waits for first is there already.
 *
 * The order of sums is that of linear_rows: task.slices warps are a team that shares tiles of
 * outputs, and the teams of a block take its tiles in turn.
 */
#ifndef GPUQ_KERNELS_LINEAR_RING_CUH
#define GPUQ_KERNELS_LINEAR_RING_CUH

#include "kernels/cuda/async.cuh"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/machine.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/linear/task.cuh"
#include "kernels/rmsnorm/eights.cuh"

#define RING_WARPS 16u
#define RING_THREADS (RING_WARPS * WARP)
#define RING_BOUND 768u /* threads that would have registers, so that other kernels have some */
#define RING_ROUNDS 2u	/* of the teams, after which sums of slices are put together */
#define RING_KEPT 2u	/* eights of x that a thread has at a time */
#define RING_LEAST 4096 /* weights of a block */
#define RING_BESIDE 256 /* bytes of shared memory that the kernel declares, at most */

/* A step of a tile, in an order that lets all lanes read their parts at once. */
template <typename T> struct ring_slot {
	static constexpr uint32_t WIDE = MMA_STEP * sizeof(T) / sizeof(uint4);
	uint4 words[MMA_OUTPUTS][WIDE];

	__device__ inline uint4 *at(uint32_t row, uint32_t i)
	{
		return &words[row][sizeof(T) == 1 ? i : i ^ row % 2];
	}

	/* A lane's of a row of the tile. */
	__device__ inline struct mma_own<T> own(uint32_t row) {
		struct mma_own<T> own;

#pragma unroll
		for (uint32_t i = 0; i < sizeof(T); i++)
			own.bits[i] = *at(row, threadIdx.x % 4 * sizeof(T) + i);
		return own;
	}
};

/* Steps that a warp has under way; no other block of the grid is to have room beside them. */
template <typename T> constexpr uint32_t ring_depth = 8 / sizeof(T);

/* Shared memory of a block; behind it the parts of x, as planes of mma_plane() words. */
template <typename T> struct ring_shared {
	struct ring_slot<T> slots[RING_WARPS][ring_depth<T>];
	float sums[RING_ROUNDS][RING_WARPS][MMA_OUTPUTS];
	uint4 parts[];
};

/* Where a warp works. */
struct ring_place {
	uint64_t first; /* output of the block */
	uint32_t count; /* of the block's outputs */
	uint32_t begin; /* of them the team's first one */
	uint32_t round; /* outputs of all teams' tiles */
	uint32_t slice;
	uint32_t steps;
};

/* Both divide RING_WARPS. */
static __device__ inline uint32_t ring_team_of(const struct linear_task &task, uint32_t warp)
{
	return warp >> __popc(task.slices - 1);
}

static __device__ inline uint32_t ring_teams(const struct linear_task &task)
{
	return ring_team_of(task, RING_WARPS);
}

static __device__ inline struct ring_place ring_place_of(const struct linear_task &task)
{
	const uint32_t warp = threadIdx.x / WARP;
	struct ring_place place;

	place.first = (uint64_t)blockIdx.x * task.block;
	place.count = (uint32_t)min((uint64_t)task.block, task.outputs - place.first);
	place.begin = ring_team_of(task, warp) * task.tile;
	place.round = ring_teams(task) * task.tile;
	place.slice = warp & (task.slices - 1);
	place.steps = (uint32_t)task.n / MMA_STEP;
	return place;
}

/* --- Bringing weights --------------------------------------------------------------------- */

/* What a lane brings next: some 16 bytes of a step. */
template <typename T, bool GATED> struct ring_bringer {
	static constexpr uint32_t WIDE = ring_slot<T>::WIDE;
	const T *from;	/* in the lane's first row of the tile */
	uint64_t below; /* from there to the first row of the tile's lower half */
	uint32_t begin; /* of the block's outputs the tile's first one */
	int32_t left;	/* rows of the tile from the lane's first one on */
	uint32_t step;
	bool aligned;

	__device__ inline void count(const struct linear_task &task, const struct ring_place &place)
	{
		left = (int32_t)min(task.tile, place.count - min(begin, place.count)) -
			(int32_t)(threadIdx.x % WARP / WIDE);
	}

	__device__ inline ring_bringer(
		const struct linear_task &task, const T *w, const struct ring_place &place)
	{
		const uint32_t lane = threadIdx.x % WARP;

		begin = place.begin;
		step = place.slice;
		from = w + (place.first + begin + lane / WIDE) * task.n + step * MMA_STEP +
			lane % WIDE * (MMA_STEP / WIDE);
		below = (GATED ? task.outputs : MMA_OUTPUTS / 2) * task.n;
		aligned = aligned_16(w, NULL);
		count(task, place);
	}

	__device__ inline void bring_row(
		const struct linear_task &task, struct ring_slot<T> *slot, uint32_t row)
	{
		constexpr uint32_t HALF = MMA_OUTPUTS / 2;
		const uint32_t lane = threadIdx.x % WARP, lower = row / HALF;
		const T *p = from + lower * below + (uint64_t)(row % HALF) * (uint32_t)task.n;
		uint4 *to = slot->at(lane / WIDE + row, lane % WIDE);

		if ((int32_t)(row % linear_wide<GATED>) >= left)
			return;
		if (aligned) {
			async_copy(to, p);
			return;
		}
		for (uint32_t i = 0; i < MMA_STEP / WIDE; i++)
			((T *)to)[i] = p[i];
	}

	/* One step, and to the next one; also where there is none, so that each is one group. */
	__device__ inline void bring(const struct linear_task &task, const struct ring_place &place,
		struct ring_slot<T> *slot)
	{
#pragma unroll
		for (uint32_t row = 0; row < MMA_OUTPUTS; row += WARP / WIDE)
			bring_row(task, slot, row);
		async_close();
		step += task.slices;
		from += task.slices * MMA_STEP;
		if (step < place.steps)
			return;
		from += (uint64_t)place.round * task.n - (step - place.slice) * MMA_STEP;
		step = place.slice;
		begin += place.round;
		count(task, place);
	}
};

/* --- Inputs ------------------------------------------------------------------------------- */

/* x as it is, by all threads. */
static __device__ inline void ring_take_inputs(const float *x, uint32_t n, uint4 *parts)
{
	constexpr uint32_t ALL = RING_THREADS * EIGHT;
	const bool aligned = aligned_16(x, NULL);

	for (uint32_t first = threadIdx.x * EIGHT; first < n; first += RING_KEPT * ALL) {
		struct eight eights[RING_KEPT];

#pragma unroll
		for (uint32_t i = 0; i < RING_KEPT; i++) {
			if (first + i * ALL < n)
				eights[i] = eight_load(x + first + i * ALL, EIGHT, aligned);
		}
#pragma unroll
		for (uint32_t i = 0; i < RING_KEPT; i++) {
			if (first + i * ALL < n)
				mma_store_planes(parts, n, first + i * ALL, eights[i].v);
		}
	}
	__syncthreads();
}

/* What a norm makes of x, with the bits of rmsnorm's kernel: the first threads act as its. */
struct ring_norm {
	const char *weight;
	uint32_t n, dtype;
	uint32_t first;			 /* of the thread's inputs; not before n: it has none */
	struct eight weights[RING_KEPT]; /* of its first ones */

	__device__ inline ring_norm(const struct linear_task &task, const struct device_args *block)
	{
		n = (uint32_t)task.n;
		dtype = task.norm_dtype;
		first = threadIdx.x < RMSNORM_THREADS ? threadIdx.x * EIGHT : n;
		weight = arg_pointer(block, task.norm);
#pragma unroll
		for (uint32_t k = 0; k < RING_KEPT; k++) {
			if (first + k * RMSNORM_STEP < n)
				weights[k] =
					rmsnorm_weights(weight, dtype, first + k * RMSNORM_STEP, n);
		}
	}

	/* Returns the factor. */
	__device__ inline double take(const float *x, double eps, uint4 *parts) const
	{
		const bool aligned = aligned_16(x, NULL);
		struct eight kept[RING_KEPT];
		double squares = 0;

#pragma unroll
		for (uint32_t k = 0; k < RING_KEPT; k++) {
			kept[k] = {};
			if (first + k * RMSNORM_STEP < n)
				kept[k] = eight_load(x + first + k * RMSNORM_STEP, EIGHT, aligned);
			squares += rmsnorm_squares(kept[k]);
		}
		for (uint32_t at = first + RING_KEPT * RMSNORM_STEP; at < n; at += RMSNORM_STEP)
			squares += rmsnorm_squares(eight_load(x + at, EIGHT, aligned));
		squares = block_total<RING_THREADS>(squares);

		const double factor = rmsnorm_factor(squares, n, eps);

#pragma unroll
		for (uint32_t k = 0; k < RING_KEPT; k++) {
			if (first + k * RMSNORM_STEP < n)
				mma_store_planes(parts, n, first + k * RMSNORM_STEP,
					rmsnorm_apply(kept[k], weights[k], factor).v);
		}
		for (uint32_t at = first + RING_KEPT * RMSNORM_STEP; at < n; at += RMSNORM_STEP)
			mma_store_planes(parts, n, at,
				rmsnorm_apply(eight_load(x + at, EIGHT, aligned),
					rmsnorm_weights(weight, dtype, at, n), factor)
					.v);
		__syncthreads();
		return factor;
	}
};

/* What the sums are of, after cuda_await(). Returns the factor of the norm where there is one. */
static __device__ inline double ring_take(
	const struct linear_task &task, const struct device_args *block, uint4 *parts)
{
	if (task.norm_dtype != 0) {
		const struct ring_norm norm(task, block);

		cuda_await();
		return norm.take(
			(const float *)arg_pointer(block, task.x), arg_f64(block, task.eps), parts);
	}
	cuda_await();
	ring_take_inputs((const float *)arg_pointer(block, task.x), (uint32_t)task.n, parts);
	return 0;
}

/* --- Adding up ---------------------------------------------------------------------------- */

/* What a warp adds up, from the weights that it brings. */
template <typename T, bool GATED> struct ring_adder {
	struct ring_shared<T> &shared;
	struct ring_bringer<T, GATED> &bringer;
	uint32_t turn; /* slot */
	uint32_t tile; /* in which output threadIdx.x is of those that are written together */

	/* The warp's sums of a tile. */
	__device__ inline void add_tile(
		const struct linear_task &task, const struct ring_place &place, float *sums)
	{
		const uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
		struct total totals[2] = {};

#pragma unroll 1
		for (uint32_t step = place.slice; step < place.steps; step += task.slices) {
			struct ring_slot<T> *slot = &shared.slots[warp][turn];
			float c[2];

			async_wait<ring_depth<T> - 1>();
			__syncwarp();
			mma_step_planes(c, mma_split(slot->own(lane / 4)),
				mma_split(slot->own(lane / 4 + 8)),
				mma_take_planes(shared.parts, (uint32_t)task.n, step));
			bringer.bring(task, place, slot);
			turn = turn + 1 < ring_depth<T> ? turn + 1 : 0;
			total_add(&totals[0], c[0]);
			total_add(&totals[1], c[1]);
		}
		if (lane % 4 == 0) {
			sums[lane / 4] = totals[0].sum;
			sums[lane / 4 + 8] = totals[1].sum;
		}
	}

	/* All slices' sums of row i of a tile, whose first slice's they are. */
	__device__ inline float total(
		const struct linear_task &task, const float (*sums)[MMA_OUTPUTS], uint32_t i) const
	{
		float sum = 0;

#pragma unroll
		for (uint32_t s = 0; s < RING_WARPS; s++) {
			if (s < task.slices)
				sum += sums[s][i];
		}
		return sum;
	}

	__device__ inline void write(const struct linear_task &task,
		const struct device_args *block, uint64_t output, const struct linear_terms &terms,
		double factor)
	{
		const uint32_t teams = ring_teams(task);
		const float(*sums)[MMA_OUTPUTS] =
			&shared.sums[tile / teams][(tile & (teams - 1)) * task.slices];
		const uint32_t i = threadIdx.x - tile * task.tile;
		const float up = GATED ? total(task, sums, i + MMA_OUTPUTS / 2) : 0;

		write_output<T, float, GATED>(
			task, block, 0, output, total(task, sums, i), up, terms, factor);
	}

	__device__ inline void add(const struct linear_task &task, const struct device_args *block,
		const struct ring_place &place, double factor)
	{
		const uint32_t warp = threadIdx.x / WARP;

		for (uint32_t at = 0; at < place.count; at += RING_ROUNDS * place.round) {
			const bool own =
				threadIdx.x < min(RING_ROUNDS * place.round, place.count - at);
			const uint64_t output = place.first + at + threadIdx.x;
			struct linear_terms terms = {};

			if (own)
				terms = terms_of<GATED>(task, block, 0, output);
			for (uint32_t i = 0; i < RING_ROUNDS; i++) {
				if (place.begin + at + i * place.round < place.count)
					add_tile(task, place, shared.sums[i][warp]);
			}
			__syncthreads();
			if (own)
				write(task, block, output, terms, factor);
			__syncthreads();
		}
	}
};

template <typename T, bool GATED>
__global__ void BOUNDS(RING_BOUND) linear_ring(const __grid_constant__ struct linear_task task,
	const __grid_constant__ struct cuda_completion done)
{
	extern __shared__ __align__(16) unsigned char ring_memory[];
	struct ring_shared<T> &shared = *(struct ring_shared<T> *)ring_memory;
	const struct ring_place place = ring_place_of(task);

	cuda_let_next();
	if (!task.early)
		cuda_await();

	struct ring_bringer<T, GATED> bringer(
		task, (const T *)arg_pointer(done.block, task.w), place);

#pragma unroll
	for (uint32_t i = 0; i < ring_depth<T>; i++)
		bringer.bring(task, place, &shared.slots[threadIdx.x / WARP][i]);

	struct ring_adder<T, GATED> adder = {
		shared, bringer, 0, threadIdx.x / task.tile
	};

	adder.add(task, done.block, place, ring_take(task, done.block, shared.parts));
	cuda_complete(done);
}

/* --- Launching ---------------------------------------------------------------------------- */

template <typename T> static uint64_t ring_bytes(uint64_t n)
{
	return sizeof(struct ring_shared<T>) + 3 * mma_plane_words(n) * sizeof(uint32_t);
}

static bool ring_takes(const struct linear_task &task, uint32_t x_dtype, uint32_t w_dtype)
{
	static_assert(
		sizeof(struct ring_shared<int8_t>) == sizeof(struct ring_shared<__nv_bfloat16>),
		"one limit for both");

	return (w_dtype == GPUQ_BF16 || w_dtype == GPUQ_I8) && x_dtype == GPUQ_F32 &&
		task.rows == 1 && task.n > 0 && task.n % MMA_STEP == 0 && task.n <= INT32_MAX &&
		task.outputs <= INT32_MAX &&
		ring_bytes<int8_t>(task.n) + RING_BESIDE <= machine_shared_bytes();
}

/* Cuts outputs into blocks of like sizes, and these into tiles. Returns how many blocks. */
static uint32_t ring_cut(struct linear_task *task, uint32_t wide)
{
	const uint64_t wanted = blocks_of(task->w_rows * task->n, RING_LEAST);
	const uint64_t blocks = min(wanted, (uint64_t)machine_processors());
	const uint64_t block = blocks_of(task->outputs, blocks);
	const uint64_t teams = RING_WARPS / task->slices;

	task->block = (uint32_t)block;
	task->tile = (uint32_t)blocks_of(block, blocks_of(block, teams * wide) * teams);
	return (uint32_t)blocks_of(task->outputs, block);
}

template <typename T, bool GATED>
static int ring_launch_form(
	struct linear_task *task, const struct cuda_completion &done, const struct cuda_target *to)
{
	const uint32_t blocks = ring_cut(task, linear_wide<GATED>);

	return run_shared(to, linear_ring<T, GATED>, blocks, RING_THREADS,
		(uint32_t)ring_bytes<T>(task->n), *task, done);
}

template <typename T>
static int ring_launch(
	struct linear_task *task, const struct cuda_completion &done, const struct cuda_target *to)
{
	return task->w_rows == task->outputs ? ring_launch_form<T, false>(task, done, to)
					     : ring_launch_form<T, true>(task, done, to);
}

template <typename Kernel> static int ring_touch_kernel(Kernel *kernel)
{
	const int err = touch_kernel(kernel);

	return err != 0 ? err
			: cuda_error(cudaFuncSetAttribute(kernel,
				  cudaFuncAttributeMaxDynamicSharedMemorySize,
				  (int)machine_shared_bytes() - RING_BESIDE));
}

template <typename T> static int ring_touch(void)
{
	const int err = ring_touch_kernel(linear_ring<T, false>);

	return err != 0 ? err : ring_touch_kernel(linear_ring<T, true>);
}

#endif
