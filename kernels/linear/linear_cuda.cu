/* SPDX-License-Identifier: MIT */
/*
 * linear in CUDA. A warp takes 16 outputs and up to 32 rows of x, on the tensor cores, with floats
 * as exact sums of bf16s (kernels/cuda/mma.cuh): so weights are read once for all these rows,
 * straight into the registers that need them, and cost no more for 8 rows than for one. Where
 * outputs are few, up to 16 warps of a block share 16 of them, each with a slice of the inputs'
 * steps, and add up what they have.
 *
 * More rows go in tiles of 32 or 64 rows and 128 outputs: the warps of a block share the bf16s of
 * x, which they have made together, and each does all slices of 16 outputs, one after the other.
 * Blocks with the same weights run side by side and find them in the cache.
 *
 * Of gated outputs a warp takes 8 gates and the 8 that these let through: what a lane has of its
 * tile's halves belongs together. A norm is rmsnorm's kernel before this one, into `normed`, but
 * for one row.
 *
 * No product passes through more than 4 additions of the cores, which cut off below 2^-24, then
 * those to a compensated sum, 16 between warps, the bias and the residual. The order of all that
 * depends on the numbers of inputs and outputs alone, so fixed_order is how it always is. An output
 * that comes out as NaN or infinity is computed once more, in double.
 *
 * One row of floats, times bf16s or int8s, is kernels/linear/ring.cuh's, and takes little more than
 * reading the weights does (docs/cuda-notes.md). Many rows are 6 N I O operations of bf16s (f16: 10
 * N I O, f32: 12 N I O).
 */
#include "kernels/cuda/arg.cuh"
#include "kernels/cuda/codes.h"
#include "kernels/cuda/machine.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/linear/ring.cuh"
#include "kernels/linear/task.cuh"

extern "C" {
#include "kernels/linear/linear.h"
}

#define THREADS 256u
#define WARPS (THREADS / WARP)
#define MAX_SLICES (2 * WARPS)

/* Where a block and a warp of it work. */
struct linear_place {
	uint64_t tile;	/* of MMA_OUTPUTS rows of the weights; the block's first one */
	uint64_t row;	/* the block's first one */
	uint32_t slice; /* of the inputs */
};

/* A lane's weights of a step. */
template <typename T> struct linear_weights {
	struct mma_own<T> top, bottom;
};

/* Steps of a warp whose weights are under way, besides the one it is at, as registers allow. */
template <typename T, uint32_t GROUPS>
constexpr uint32_t linear_ahead = GROUPS == 1 && mma_parts<T> == 1 ? 2 : 1;

/* What the lanes of a warp read, from input 16 (lane % 4) on. */
template <typename T, typename X> struct linear_reader {
	const T *top, *bottom;
	const X *x; /* the block's first row */
	uint64_t n, steps;
	uint64_t rows; /* from there on */
	bool w_aligned, x_aligned;

	__device__ inline uint64_t valid(uint64_t step) const
	{
		const uint64_t at = step * MMA_STEP + threadIdx.x % 4 * MMA_OWN;

		return at < n ? n - at : 0;
	}

	__device__ inline struct linear_weights<T> weights(uint64_t step) const {
		return {mma_load(top + step * MMA_STEP, valid(step), w_aligned),
			mma_load(bottom + step * MMA_STEP, valid(step), w_aligned)};
	}

	/* Of the lane's row of group i of MMA_ROWS. */
	__device__ inline struct mma_own<X>
	inputs(uint64_t step, uint32_t i) const {
		const uint64_t row = i * MMA_ROWS + threadIdx.x % WARP / 4;

		return mma_load(x + row * n + step * MMA_STEP + threadIdx.x % 4 * MMA_OWN,
			row < rows ? valid(step) : 0, x_aligned);
	}

	/* Of the only row. */
	__device__ inline struct mma_pair
	pair(uint64_t step) const
	{
		return mma_load_pair(x + step * MMA_STEP, n - step * MMA_STEP, x_aligned);
	}
};

/* Its weights; inputs are for find_inputs(). */
template <typename T, typename X, bool GATED>
__device__ inline struct linear_reader<T, X> reader_of(
	const struct linear_task &task, const struct device_args *block, uint64_t tile) {
	const T *w = (const T *)arg_pointer(block, task.w);
	const uint64_t output = tile * linear_wide<GATED> + threadIdx.x % WARP / 4;
	const uint32_t own = threadIdx.x % 4 * MMA_OWN;
	struct linear_reader<T, X> r;

	/* Outputs beyond the last repeat it; nobody asks for their sums. */
	r.top = w + min(output, task.outputs - 1) * task.n + own;
	r.bottom = GATED ? r.top + task.outputs * task.n
			 : w + min(output + 8, task.outputs - 1) * task.n + own;
	r.n = task.n;
	r.steps = task.n / MMA_STEP + (task.n % MMA_STEP != 0);
	r.w_aligned = aligned_16(w, NULL) && task.n % (16 / sizeof(T)) == 0;
	return r;
}

template <typename T, typename X>
__device__ inline void find_inputs(struct linear_reader<T, X> *r, const struct linear_task &task,
	const struct device_args *block, const struct linear_place &place)
{
	const X *x = (const X *)arg_pointer(block, task.x);

	r->x = x + place.row * task.n;
	r->rows = task.rows - place.row;
	r->x_aligned = aligned_16(x, NULL) && task.n % (16 / sizeof(X)) == 0;
}

/* The products of a step, whose inputs of the first group are there. */
template <typename T, typename X, uint32_t GROUPS>
__device__ inline void add_step(const struct linear_reader<T, X> &r, uint64_t step,
	const struct mma_words<mma_parts<T>> &top, const struct mma_words<mma_parts<T>> &bottom,
	const struct mma_words<mma_parts<X>> &first, struct total totals[GROUPS][4])
{
#pragma unroll
	for (uint32_t i = 0; i < GROUPS; i++) {
		float c[4];

		if (i > 0 && i * MMA_ROWS >= r.rows)
			break;
		mma_step(c, top, bottom, i == 0 ? first : mma_split(r.inputs(step, i)));
#pragma unroll
		for (uint32_t j = 0; j < 4; j++)
			total_add(&totals[i][j], c[j]);
	}
}

/*
 * Inputs of the first group: ahead as far as the weights where there is one row, of the next step
 * where there is one group of rows, else where they are needed.
 */
template <typename T, typename X, uint32_t GROUPS> struct linear_inputs_ahead {
	static constexpr uint32_t AHEAD = linear_ahead<T, GROUPS>;
	struct mma_pair pairs[AHEAD];
	struct mma_own<X> own;
	bool alone;

	__device__ inline void begin(
		const struct linear_reader<T, X> &r, uint32_t slice, uint32_t slices)
	{
		alone = GROUPS == 1 && r.rows == 1;
#pragma unroll
		for (uint32_t i = 0; i < AHEAD; i++) {
			if (alone && slice + i * slices < r.steps)
				pairs[i] = r.pair(slice + i * slices);
		}
		if (GROUPS == 1 && !alone && slice < r.steps)
			own = r.inputs(slice, 0);
	}

	/* Of a step that is the i-th of AHEAD. */
	__device__ inline struct mma_words<mma_parts<X>> take(const struct linear_reader<T, X> &r,
		uint64_t step, uint32_t i, uint32_t slices,
		struct mma_shared<mma_parts<X>> &shared) {
		struct mma_words<mma_parts<X>> words;

		if constexpr (GROUPS > 1)
			return mma_split(r.inputs(step, 0));
		if (alone) {
			words = mma_split_alone<X>(shared, pairs[i]);
			if (step + AHEAD * slices < r.steps)
				pairs[i] = r.pair(step + AHEAD * slices);
			return words;
		}
		words = mma_split(own);
		if (step + slices < r.steps)
			own = r.inputs(step + slices, 0);
		return words;
	}
};

/* The sums of this warp's steps, the first of whose weights are on their way. */
template <typename T, typename X, uint32_t GROUPS>
__device__ inline void add_steps(const struct linear_reader<T, X> &r, uint32_t slice,
	uint32_t slices, struct linear_weights<T> ahead[linear_ahead<T, GROUPS>],
	struct mma_shared<mma_parts<X>> &shared, struct total totals[GROUPS][4])
{
	constexpr uint32_t AHEAD = linear_ahead<T, GROUPS>;
	struct linear_inputs_ahead<T, X, GROUPS> inputs;

	inputs.begin(r, slice, slices);
#pragma unroll 1
	for (uint64_t first = slice; first < r.steps; first += AHEAD * slices) {
#pragma unroll
		for (uint32_t i = 0; i < AHEAD; i++) {
			const uint64_t step = first + i * slices, after = step + AHEAD * slices;
			const struct linear_weights<T> now = ahead[i];

			if (step >= r.steps)
				break;
			/* Several are reloaded when the registers of this one are free. */
			if (AHEAD == 1 && after < r.steps)
				ahead[i] = r.weights(after);
			add_step<T, X, GROUPS>(r, step, mma_split(now.top), mma_split(now.bottom),
				inputs.take(r, step, i, slices, shared), totals);
			if (AHEAD > 1 && after < r.steps)
				ahead[i] = r.weights(after);
		}
	}
}

/* --- Outputs ------------------------------------------------------------------------------ */

/* What the warps of a block have found: a slice of a tile each. */
template <uint32_t ROWS> struct linear_sums {
	float of[MAX_SLICES][ROWS][MMA_OUTPUTS];

	/* All slices of a tile, whose first is the block's warp `first`. */
	__device__ inline float total(
		uint32_t first, uint32_t slices, uint32_t row, uint32_t output) const
	{
		float sum = 0;

		for (uint32_t s = 0; s < slices; s++)
			sum += of[first + s][row][output];
		return sum;
	}
};

/* The outputs of a block's tiles. */
template <typename T, typename X, uint32_t ROWS, bool GATED>
__device__ inline void write_tiles(const struct linear_task &task, const struct device_args *block,
	const struct linear_place &place, uint32_t tiles, const struct linear_sums<ROWS> &sums)
{
	constexpr uint32_t WIDE = linear_wide<GATED>;

	for (uint32_t i = threadIdx.x; i < tiles * ROWS * WIDE; i += blockDim.x) {
		const uint32_t tile = i / (ROWS * WIDE), first = tile * task.slices;
		const uint32_t row = i / WIDE % ROWS, output = i % WIDE;
		const uint64_t at = (place.tile + tile) * WIDE + output;

		if (place.row + row >= task.rows || at >= task.outputs)
			continue;
		write_output<T, X, GATED>(task, block, place.row + row, at,
			sums.total(first, task.slices, row, output),
			GATED ? sums.total(first, task.slices, row, output + WIDE) : 0,
			terms_of<GATED>(task, block, place.row + row, at));
	}
}

template <typename T, typename X, uint32_t GROUPS, bool GATED>
__global__ void __launch_bounds__(MAX_SLICES *WARP, 1)
	linear_rows(const __grid_constant__ struct linear_task task,
		const __grid_constant__ struct cuda_completion done)
{
	constexpr uint32_t ROWS = GROUPS * MMA_ROWS, AHEAD = linear_ahead<T, GROUPS>;
	__shared__ struct linear_sums<ROWS> sums;
	__shared__ __align__(16) struct mma_shared<mma_parts<X>>
		shared[GROUPS == 1 ? MAX_SLICES : 1];
	const uint32_t warp = threadIdx.x / WARP, tiles = blockDim.x / WARP / task.slices;
	const struct linear_place place = {(uint64_t)(blockIdx.x / task.row_slices) * tiles,
		(uint64_t)(blockIdx.x % task.row_slices) * ROWS, warp % task.slices};
	struct linear_weights<T> ahead[AHEAD];
	struct total totals[GROUPS][4] = {};

	/* Many rows leave memory time enough: blocks that wait would only be in the way. */
	if (GROUPS == 1)
		cuda_let_next();
	if (!task.early)
		cuda_await();

	struct linear_reader<T, X> r =
		reader_of<T, X, GATED>(task, done.block, place.tile + warp / task.slices);

#pragma unroll
	for (uint32_t i = 0; i < AHEAD; i++) {
		if (place.slice + i * task.slices < r.steps)
			ahead[i] = r.weights(place.slice + i * task.slices);
	}
	cuda_await();
	find_inputs(&r, task, done.block, place);
	add_steps<T, X, GROUPS>(
		r, place.slice, task.slices, ahead, shared[GROUPS == 1 ? warp : 0], totals);
	cuda_let_next();
#pragma unroll
	for (uint32_t i = 0; i < GROUPS * 4; i++)
		sums.of[warp][i / 4 * MMA_ROWS + mma_row(i % 4)][mma_output(i % 4)] =
			totals[i / 4][i % 4].sum;
	__syncthreads();
	write_tiles<T, X, ROWS, GATED>(task, done.block, place, tiles, sums);
	cuda_complete(done);
}

/* --- Many rows ---------------------------------------------------------------------------- */

/* The inputs of a step as each lane needs them: group, part, half of a lane's words. */
template <uint32_t GROUPS, uint32_t PARTS> struct linear_inputs {
	uint4 words[GROUPS][PARTS][2][WARP];

	__device__ inline void store(uint32_t group, const struct mma_words<PARTS> &of)
	{
#pragma unroll
		for (uint32_t i = 0; i < PARTS * 2; i++) {
			const uint32_t *from = &of.of[i / 2][i % 2 * 4];

			words[group][i / 2][i % 2][threadIdx.x % WARP] =
				make_uint4(from[0], from[1], from[2], from[3]);
		}
	}

	__device__ inline struct mma_words<PARTS> load(uint32_t group) const {
		struct mma_words<PARTS> of;

#pragma unroll
		for (uint32_t i = 0; i < PARTS * 2; i++) {
			const uint4 loaded = words[group][i / 2][i % 2][threadIdx.x % WARP];
			uint32_t *to = &of.of[i / 2][i % 2 * 4];

			to[0] = loaded.x;
			to[1] = loaded.y;
			to[2] = loaded.z;
			to[3] = loaded.w;
		}
		return of;
	}
};

/* The step after this one: all of a slice, then those of the next. `steps`: there is none. */
static __device__ inline uint64_t step_after(uint64_t step, uint64_t steps, uint32_t slices)
{
	if (step + slices < steps)
		return step + slices;
	return step % slices + 1 < slices ? step % slices + 1 : steps;
}

/* All of a warp's sums, in the order that slices of warps would have had. */
template <typename T, typename X, uint32_t GROUPS>
__device__ inline void add_tile(const struct linear_reader<T, X> &r, uint32_t slices,
	struct linear_inputs<GROUPS, mma_parts<X>> &inputs, float sums[GROUPS][4])
{
	const uint32_t warp = threadIdx.x / WARP;
	struct total totals[GROUPS][4] = {};
	struct linear_weights<T> next = r.weights(0);
	struct mma_own<X> next_x = r.inputs(0, min(warp, GROUPS - 1));

#pragma unroll 1
	for (uint64_t step = 0, after; step < r.steps; step = after) {
		const struct mma_words<mma_parts<T>> top = mma_split(next.top);
		const struct mma_words<mma_parts<T>> bottom = mma_split(next.bottom);

		__syncthreads();
		if (warp < GROUPS)
			inputs.store(warp, mma_split(next_x));
		__syncthreads();
		after = step_after(step, r.steps, slices);
		if (after < r.steps) {
			next = r.weights(after);
			next_x = r.inputs(after, min(warp, GROUPS - 1));
		}
#pragma unroll
		for (uint32_t i = 0; i < GROUPS; i++) {
			float c[4];

			mma_step(c, top, bottom, inputs.load(i));
#pragma unroll
			for (uint32_t j = 0; j < 4; j++)
				total_add(&totals[i][j], c[j]);
		}
		if (step + slices < r.steps)
			continue;
#pragma unroll
		for (uint32_t i = 0; i < GROUPS * 4; i++) {
			sums[i / 4][i % 4] += totals[i / 4][i % 4].sum;
			totals[i / 4][i % 4] = {0, 0};
		}
	}
}

template <typename T, typename X, uint32_t GROUPS, bool GATED>
__global__ void BOUNDS(THREADS) linear_tiles(const __grid_constant__ struct linear_task task,
	const __grid_constant__ struct cuda_completion done)
{
	__shared__ struct linear_inputs<GROUPS, mma_parts<X>> inputs;
	const uint64_t tile = (uint64_t)(blockIdx.x / task.row_slices) * WARPS + threadIdx.x / WARP;
	const struct linear_place place = {
		tile, (uint64_t)(blockIdx.x % task.row_slices) * GROUPS * MMA_ROWS, 0};
	float sums[GROUPS][4] = {};

	cuda_begin();

	struct linear_reader<T, X> r = reader_of<T, X, GATED>(task, done.block, tile);

	find_inputs(&r, task, done.block, place);
	add_tile<T, X, GROUPS>(r, task.slices, inputs, sums);
#pragma unroll
	for (uint32_t i = 0; i < GROUPS * 4; i++) {
		const uint64_t row = place.row + i / 4 * MMA_ROWS + mma_row(i % 4);
		const uint64_t output = tile * linear_wide<GATED> + mma_output(i % 4);

		/* A gate's sum is one of the first two; what it lets through is two further. */
		if (row < task.rows && output < task.outputs && !(GATED && i % 4 >= 2))
			write_output<T, X, GATED>(task, done.block, row, output, sums[i / 4][i % 4],
				sums[i / 4][i % 4 | 2],
				terms_of<GATED>(task, done.block, row, output));
	}
	cuda_complete(done);
}

/* --- Launching ---------------------------------------------------------------------------- */

/*
 * How many warps share outputs: enough to keep the machine busy, then as few as that each has 16
 * steps. Where there is but one block for a multiprocessor it has as many warps as two. Not a
 * matter of the rows, whose bits must not depend on each other.
 */
static uint32_t slices_for(uint64_t outputs, uint64_t n)
{
	const uint64_t tiles = blocks_of(outputs, MMA_OUTPUTS), steps = blocks_of(n, MMA_STEP);
	const uint64_t busy = 2 * WARPS * machine_processors();
	uint32_t slices = tiles <= machine_processors() ? MAX_SLICES : WARPS;

	while (slices > 1 &&
		(steps < slices || (tiles * (slices / 2) >= busy && steps < 16 * slices)))
		slices /= 2;
	return slices;
}

/* Blocks of so many rows and tiles of outputs: their number, 0 when they are too many. */
static uint32_t cut(struct linear_task *task, uint32_t rows, uint32_t tiles)
{
	const uint64_t row_slices = blocks_of(task->rows, rows);
	const uint64_t tile_blocks = blocks_of(task->w_rows, (uint64_t)tiles * MMA_OUTPUTS);

	if (row_slices > INT_MAX || tile_blocks > INT_MAX / row_slices)
		return 0;
	task->row_slices = (uint32_t)row_slices;
	return (uint32_t)(row_slices * tile_blocks);
}

template <typename T, typename X, uint32_t GROUPS, bool GATED>
static int launch_rows(
	struct linear_task *task, const struct cuda_completion &done, const struct cuda_target *to)
{
	const uint32_t warps = max(WARPS, task->slices);
	const uint32_t blocks = cut(task, GROUPS * MMA_ROWS, warps / task->slices);

	return blocks == 0
		? -EOPNOTSUPP
		: run(to, linear_rows<T, X, GROUPS, GATED>, blocks, warps * WARP, *task, done);
}

template <typename T, bool GATED>
static int launch_tiles(
	struct linear_task *task, const struct cuda_completion &done, const struct cuda_target *to)
{
	uint32_t blocks = cut(task, 8 * MMA_ROWS, WARPS);

	if (blocks >= machine_processors())
		return run(to, linear_tiles<T, float, 8, GATED>, blocks, THREADS, *task, done);
	blocks = cut(task, 4 * MMA_ROWS, WARPS);
	return blocks == 0
		? -EOPNOTSUPP
		: run(to, linear_tiles<T, float, 4, GATED>, blocks, THREADS, *task, done);
}

/* Models' activations are floats; others have one form for all numbers of rows. */
template <typename T, bool GATED>
static int launch_form(struct linear_task *task, uint32_t x_dtype,
	const struct cuda_completion &done, const struct cuda_target *to)
{
	if (x_dtype == GPUQ_F16)
		return launch_rows<T, __half, 2, GATED>(task, done, to);
	if (x_dtype == GPUQ_BF16)
		return launch_rows<T, __nv_bfloat16, 2, GATED>(task, done, to);
	if (task->rows <= MMA_ROWS)
		return launch_rows<T, float, 1, GATED>(task, done, to);
	if (task->rows <= 2 * MMA_ROWS)
		return launch_rows<T, float, 2, GATED>(task, done, to);
	if (task->rows <= 4 * MMA_ROWS || task->n == 0)
		return launch_rows<T, float, 4, GATED>(task, done, to);
	return launch_tiles<T, GATED>(task, done, to);
}

template <typename T>
static int launch_weights(struct linear_task *task, uint32_t x_dtype,
	const struct cuda_completion &done, const struct cuda_target *to)
{
	return task->w_rows == task->outputs ? launch_form<T, false>(task, x_dtype, done, to)
					     : launch_form<T, true>(task, x_dtype, done, to);
}

/* The kernel that leaves x normalised in the working memory. */
static int launch_norm(const struct device_kernel *kernel, const struct cuda_args *args,
	const struct cuda_target *to)
{
	const struct op_launch *op = (const struct op_launch *)kernel->shape;
	struct op_launch norm = {};
	struct device_kernel before = *kernel;
	struct tensor *x = &norm.call.in[0];

	*x = op->call.in[LINEAR_X];
	norm.call.in[1] = op->call.in[LINEAR_NORM];
	norm.call.out[0] = op->call.out[LINEAR_NORMED];
	norm.call.params[0] = op->call.params[LINEAR_EPS];
	x->rank = 2;
	x->dims[1] = linear_inner(&op->call);
	norm.in[0] = op->in[LINEAR_X];
	norm.in[1] = op->in[LINEAR_NORM];
	norm.out[0] = op->out[LINEAR_NORMED];
	norm.params[0] = op->params[LINEAR_EPS];
	norm.constants = (op->constants >> LINEAR_NORM & 1) << 1;
	before.shape = &norm;
	before.signal = false;
	return rmsnorm_cuda.launch(&before, args, to);
}

static struct linear_task make_task(const struct op_launch *op, const struct cuda_args *args)
{
	const struct tensor *in = op->call.in, *y = &op->call.out[LINEAR_Y];
	uint32_t early = 1u << LINEAR_W; /* what it must be allowed to read early */
	struct linear_task task = {};

	task.x = arg_tensor(args, &in[LINEAR_X], op->in[LINEAR_X]);
	task.w = arg_tensor(args, &in[LINEAR_W], op->in[LINEAR_W]);
	task.scaled = tensor_present(&in[LINEAR_SCALES]);
	if (task.scaled)
		task.scales = arg_tensor(args, &in[LINEAR_SCALES], op->in[LINEAR_SCALES]);
	task.bias_dtype = in[LINEAR_BIAS].dtype;
	if (task.bias_dtype != 0)
		task.bias = arg_tensor(args, &in[LINEAR_BIAS], op->in[LINEAR_BIAS]);
	task.added = tensor_present(&in[LINEAR_RESIDUAL]);
	if (task.added)
		task.residual = arg_tensor(args, &in[LINEAR_RESIDUAL], op->in[LINEAR_RESIDUAL]);
	task.norm_dtype = in[LINEAR_NORM].dtype;
	if (task.norm_dtype != 0) {
		task.norm = arg_tensor(args, &in[LINEAR_NORM], op->in[LINEAR_NORM]);
		task.eps = arg_param(args, &op->call.params[LINEAR_EPS], op->params[LINEAR_EPS]);
		early |= 1u << LINEAR_NORM;
	}
	task.y = arg_tensor(args, y, op->out[LINEAR_Y]);
	task.rows = y->dims[0];
	task.outputs = y->dims[1];
	task.w_rows = linear_gated(&op->call) ? 2 * task.outputs : task.outputs;
	task.n = linear_inner(&op->call);
	task.share = rmsnorm_share(task.n);
	task.wide = y->dtype == GPUQ_F32;
	task.slices = slices_for(task.w_rows, task.n);
	task.early = stay_constant(op, early);
	return task;
}

static int launch(const struct device_kernel *kernel, const struct cuda_args *args,
	const struct cuda_target *to)
{
	const struct op_launch *op = (const struct op_launch *)kernel->shape;
	const struct tensor *in = op->call.in;
	const struct cuda_completion done = cuda_completion(kernel, args);
	const uint32_t x_dtype = in[LINEAR_X].dtype, w_dtype = in[LINEAR_W].dtype;
	struct linear_task task = make_task(op, args);

	if (task.rows == 0 || task.outputs == 0)
		return launch_nothing(kernel, args, to);
	if (ring_takes(task, x_dtype, w_dtype))
		return w_dtype == GPUQ_I8 ? ring_launch<int8_t>(&task, done, to)
					  : ring_launch<__nv_bfloat16>(&task, done, to);
	if (task.norm_dtype != 0) {
		const int err = launch_norm(kernel, args, to);

		if (err < 0)
			return err;
		task.x = arg_tensor(args, &op->call.out[LINEAR_NORMED], op->out[LINEAR_NORMED]);
		task.norm_dtype = 0;
	}
	if (w_dtype == GPUQ_I8)
		return launch_weights<int8_t>(&task, x_dtype, done, to);
	return with_type(w_dtype, [&](auto type) {
		return launch_weights<decltype(type)>(&task, x_dtype, done, to);
	});
}

template <typename T, bool GATED> static int touch_form(void)
{
	int err = touch_kernel(linear_rows<T, float, 1, GATED>);

	if (err == 0)
		err = touch_kernel(linear_rows<T, float, 2, GATED>);
	if (err == 0)
		err = touch_kernel(linear_rows<T, float, 4, GATED>);
	if (err == 0)
		err = touch_kernel(linear_tiles<T, float, 4, GATED>);
	if (err == 0)
		err = touch_kernel(linear_tiles<T, float, 8, GATED>);
	if (err == 0)
		err = touch_kernel(linear_rows<T, __half, 2, GATED>);
	return err != 0 ? err : touch_kernel(linear_rows<T, __nv_bfloat16, 2, GATED>);
}

template <typename T> static int touch_weights(void)
{
	const int err = touch_form<T, false>();

	return err != 0 ? err : touch_form<T, true>();
}

static int touch(void)
{
	int err = machine_touch();

	if (err == 0)
		err = ring_touch<int8_t>();
	if (err == 0)
		err = ring_touch<__nv_bfloat16>();
	if (err == 0)
		err = touch_weights<int8_t>();
	return err != 0 ? err
			: touch_types([](auto type) { return touch_weights<decltype(type)>(); });
}

const struct cuda_code linear_cuda = {"linear", launch, NULL, touch, NULL};
