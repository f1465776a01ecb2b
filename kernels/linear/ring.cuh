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

/* Steps that a warp has under way, */
template <typename T> constexpr uint32_t ring_depth = 6 / sizeof(T);

/* and those that it brings before the kernel's turn: the inputs come behind what is under way. */
template <typename T> constexpr uint32_t ring_early = 2 / sizeof(T);

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
		count(task, place);
	}

	/* One step, and to the next one; also where there is none, so that each is one group. */
	__device__ inline void bring(const struct linear_task &task, const struct ring_place &place,
		struct ring_slot<T> *slot)
	{
		constexpr uint32_t HALF = MMA_OUTPUTS / 2;
		const uint32_t lane = threadIdx.x % WARP;

#pragma unroll
		for (uint32_t row = 0; row < MMA_OUTPUTS; row += WARP / WIDE) {
			if ((int32_t)(row % linear_wide<GATED>) < left)
				async_copy(slot->at(lane / WIDE + row, lane % WIDE),
					from + row / HALF * below +
						(uint64_t)(row % HALF) * (uint32_t)task.n);
		}
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

/*
 * Eight of a norm's weights as they were loaded: whoever made floats of them would wait for them.
 */
struct ring_weights {
	uint4 bits[2];

	__device__ inline void load(const char *from, uint32_t dtype, uint32_t i)
	{
		const uint32_t words = dtype == GPUQ_F32 ? 2 : 1;
		const uint4 *at = (const uint4 *)from + i / EIGHT * words;

		bits[0] = at[0];
		bits[1] = at[words - 1];
	}

	__device__ inline struct eight floats(uint32_t dtype) const
	{
		const vec<__half> halves = {bits[0]};
		const vec<__nv_bfloat16> bfloats = {bits[0]};
		const vec<float> floats[2] = {{bits[0]}, {bits[1]}};
		struct eight e;

#pragma unroll
		for (uint32_t i = 0; i < EIGHT; i++) {
			e.v[i] = floats[i / 4].at(i % 4);
			if (dtype == GPUQ_F16)
				e.v[i] = halves.at(i);
			else if (dtype == GPUQ_BF16)
				e.v[i] = bfloats.at(i);
		}
		return e;
	}
};

/*
 * A thread's eights of x, or of what a norm makes of it: those that a thread of rmsnorm's kernel
 * has, whose bits a norm's must be. The first ones stay in registers from load() to store(); others
 * are read, and read again.
 */
template <bool NORMED> struct ring_inputs {
	static constexpr uint32_t KEPT = NORMED ? 2 : 4;
	const float *x;
	const char *norm;
	uint32_t n, dtype; /* of the norm */
	uint32_t first;	   /* of the thread's; n: it has none */
	struct ring_weights weights[KEPT];
	struct eight kept[KEPT];

	/* Before the inputs are there. */
	__device__ inline ring_inputs(
		const struct linear_task &task, const struct device_args *block)
	{
		x = (const float *)arg_pointer(block, task.x);
		norm = arg_pointer(block, task.norm);
		n = (uint32_t)task.n;
		dtype = task.norm_dtype;
		first = threadIdx.x < RMSNORM_THREADS ? threadIdx.x * EIGHT : n;
#pragma unroll
		for (uint32_t k = 0; k < KEPT; k++) {
			if (NORMED && first + k * RMSNORM_STEP < n)
				weights[k].load(norm, dtype, first + k * RMSNORM_STEP);
		}
	}

	__device__ inline struct eight at(uint32_t i) const
	{
		return eight_load(x + i, EIGHT, true);
	}

	__device__ inline void load(void)
	{
#pragma unroll
		for (uint32_t k = 0; k < KEPT; k++) {
			if (first + k * RMSNORM_STEP < n)
				kept[k] = at(first + k * RMSNORM_STEP);
		}
	}

	/* All threads' as planes. */
	__device__ inline void store(uint4 *planes) const
	{
#pragma unroll
		for (uint32_t k = 0; k < KEPT; k++) {
			const uint32_t i = first + k * RMSNORM_STEP;

			if (i < n)
				mma_store_planes(planes, n, i, kept[k].v);
		}
		for (uint32_t i = first + KEPT * RMSNORM_STEP; i < n; i += RMSNORM_STEP)
			mma_store_planes(planes, n, i, at(i).v);
		__syncthreads();
	}

	__device__ inline struct rmsnorm_products products_at(uint32_t i) const
	{
		struct ring_weights w;

		w.load(norm, dtype, i);
		return rmsnorm_multiply(at(i), w.floats(dtype));
	}

	/* The same normalised; *ret_factor is in shared memory. */
	__device__ inline void store_normed(
		uint4 *planes, double share, double eps, double *ret_factor) const
	{
		struct rmsnorm_products products[KEPT];
		double squares = 0;

#pragma unroll
		for (uint32_t k = 0; k < KEPT; k++) {
			if (first + k * RMSNORM_STEP < n) {
				squares += rmsnorm_squares(kept[k]);
				products[k] = rmsnorm_multiply(kept[k], weights[k].floats(dtype));
			}
		}
		for (uint32_t i = first + KEPT * RMSNORM_STEP; i < n; i += RMSNORM_STEP)
			squares += rmsnorm_squares(at(i));
		squares = rmsnorm_total(squares);
		if (first < n) {
			const double factor = rmsnorm_factor(squares, share, eps);

			if (first == 0)
				*ret_factor = factor;
#pragma unroll
			for (uint32_t k = 0; k < KEPT; k++) {
				const uint32_t i = first + k * RMSNORM_STEP;

				if (i < n)
					mma_store_planes(
						planes, n, i, rmsnorm_apply(products[k], factor).v);
			}
			for (uint32_t i = first + KEPT * RMSNORM_STEP; i < n; i += RMSNORM_STEP)
				mma_store_planes(
					planes, n, i, rmsnorm_apply(products_at(i), factor).v);
		}
		__syncthreads();
	}
};

/* --- Adding up ---------------------------------------------------------------------------- */

/* What a warp adds up, from the weights that it brings. */
template <typename T, bool GATED> struct ring_adder {
	struct ring_shared<T> &shared;
	const double &factor; /* of the norm */
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
		const struct device_args *block, uint64_t output, const struct linear_terms &terms)
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
		const struct ring_place &place)
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
				write(task, block, output, terms);
			__syncthreads();
		}
	}
};

template <typename T, bool GATED, bool NORMED>
__global__ void BOUNDS(RING_BOUND) linear_ring(const __grid_constant__ struct linear_task task,
	const __grid_constant__ struct cuda_completion done)
{
	/* On any other boundary the copies take longer (docs/cuda-notes.md). */
	extern __shared__ __align__(128) unsigned char ring_memory[];
	__shared__ double factor;
	struct ring_shared<T> &shared = *(struct ring_shared<T> *)ring_memory;
	const struct ring_place place = ring_place_of(task);

	cuda_let_next();
	if (!task.early)
		cuda_await();

	struct ring_inputs<NORMED> inputs(task, done.block);
	struct ring_bringer<T, GATED> bringer(
		task, (const T *)arg_pointer(done.block, task.w), place);
	struct ring_slot<T> *slots = shared.slots[threadIdx.x / WARP];

#pragma unroll
	for (uint32_t i = 0; i < ring_early<T>; i++)
		bringer.bring(task, place, &slots[i]);

	struct ring_adder<T, GATED> adder = {
		shared, factor, bringer, 0, threadIdx.x / task.tile
	};
	const bool own = threadIdx.x < RMSNORM_THREADS;

	cuda_await();
	inputs.load();
	/* Who has inputs does not queue for memory again before they are where all can see them. */
#pragma unroll
	for (uint32_t i = ring_early<T>; i < ring_depth<T>; i++) {
		if (!own)
			bringer.bring(task, place, &slots[i]);
	}

	if (NORMED)
		inputs.store_normed(
			shared.parts, task.share, arg_f64(done.block, task.eps), &factor);
	else
		inputs.store(shared.parts);
#pragma unroll
	for (uint32_t i = ring_early<T>; i < ring_depth<T>; i++) {
		if (own)
			bringer.bring(task, place, &slots[i]);
	}
	adder.add(task, done.block, place);
	cuda_complete(done);
}

/* --- Launching ---------------------------------------------------------------------------- */

template <typename T> static uint64_t ring_bytes(uint64_t n)
{
	return sizeof(struct ring_shared<T>) + 3 * mma_plane_words(n) * sizeof(uint32_t);
}

/* It reads 16 bytes at a time, and early: it must be known where they are. */
static bool ring_reads(struct arg arg)
{
	const uintptr_t at = (uintptr_t)arg_known(arg);

	return at != 0 && at % sizeof(uint4) == 0;
}

static bool ring_takes(const struct linear_task &task, uint32_t x_dtype, uint32_t w_dtype)
{
	static_assert(
		sizeof(struct ring_shared<int8_t>) == sizeof(struct ring_shared<__nv_bfloat16>),
		"one limit for both");

	return ring_reads(task.x) && ring_reads(task.w) &&
		(task.norm_dtype == 0 || ring_reads(task.norm)) &&
		(w_dtype == GPUQ_BF16 || w_dtype == GPUQ_I8) && x_dtype == GPUQ_F32 &&
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

template <typename T, bool GATED, bool NORMED>
static int ring_launch_form(
	struct linear_task *task, const struct cuda_completion &done, const struct cuda_target *to)
{
	const uint32_t blocks = ring_cut(task, linear_wide<GATED>);
	/* A second block of the grid beside it would leave another multiprocessor idle. */
	const uint64_t alone = machine_shared_bytes() / 2 + 1024;

	return run_shared(to, linear_ring<T, GATED, NORMED>, blocks, RING_THREADS,
		(uint32_t)max(ring_bytes<T>(task->n), alone), *task, done);
}

template <typename T, bool GATED>
static int ring_launch_rows(
	struct linear_task *task, const struct cuda_completion &done, const struct cuda_target *to)
{
	return task->norm_dtype != 0 ? ring_launch_form<T, GATED, true>(task, done, to)
				     : ring_launch_form<T, GATED, false>(task, done, to);
}

template <typename T>
static int ring_launch(
	struct linear_task *task, const struct cuda_completion &done, const struct cuda_target *to)
{
	return task->w_rows == task->outputs ? ring_launch_rows<T, false>(task, done, to)
					     : ring_launch_rows<T, true>(task, done, to);
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
	int err = ring_touch_kernel(linear_ring<T, false, false>);

	if (err == 0)
		err = ring_touch_kernel(linear_ring<T, false, true>);
	if (err == 0)
		err = ring_touch_kernel(linear_ring<T, true, false>);
	return err != 0 ? err : ring_touch_kernel(linear_ring<T, true, true>);
}

#endif
