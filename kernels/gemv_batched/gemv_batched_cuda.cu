/* SPDX-License-Identifier: MIT */
/*
 * gemv_batched in CUDA. Five ways:
 *
 * - one row, or weights of their own for each: dot products (dot.cuh).
 * - few outputs with many inputs: dot products too, which blocks can share.
 * - many rows and outputs of addresses that are known: cuBLAS (blas.h).
 * - few rows and outputs of up to SHORT inputs: tiles of 32 x 32, whose inputs are all on their way
 *   at once: one trip over the bus, where small calls are read in place. Best by one block: on an
 *   H200 a second one costs 0.5 us, to see which of them is last, and saves less.
 * - else tiles of PER x 16 rows and as many outputs. CHUNK inputs of both go through shared memory
 *   while those of the next chunk are on their way.
 *
 * In tiles no product passes through more than 70 additions that round: 64 in a chunk, then those
 * to a compensated sum, and the bias.
 */
#include "kernels/cuda/arg.cuh"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/codes.h"
#include "kernels/cuda/dot.cuh"
#include "kernels/cuda/machine.h"
#include "kernels/cuda/resident.cuh"
#include "kernels/gemv_batched/gemv_short.cuh"

#define SIDE 16u /* threads along either side of a tile */
#define THREADS (SIDE * SIDE)
#define SHORT_INPUTS 128u /* up to here larger tiles beat more blocks */
#define LONG_INPUTS 4096u /* from here on few outputs are shared among blocks */

/* --- Tiles -------------------------------------------------------------------------------- */

template <uint32_t PER> constexpr uint32_t chunk_inputs = PER < 4 ? 64 : 32;

/* Rows keep clear of each other's banks. */
template <uint32_t PER> struct tile_memory {
	float x[SIDE * PER][chunk_inputs<PER> + 4];
	float w[SIDE * PER][chunk_inputs<PER> + 4];
};

template <uint32_t PER> struct tile_sums {
	struct total of[PER][PER];
};

/* What a thread has on its way from one matrix; UNIT elements in each load. */
template <typename T, uint32_t PER, bool VECTOR> struct staged {
	static constexpr uint32_t UNIT = VECTOR ? vec_elements<T> : 1;
	static constexpr uint32_t ACROSS = chunk_inputs<PER> / UNIT; /* units in a row */
	static constexpr uint32_t UNITS = SIDE * PER * ACROSS;
	static constexpr uint32_t COUNT = (UNITS + THREADS - 1) / THREADS;

	vec<T> vecs[VECTOR ? COUNT : 1];
	T elements[VECTOR ? 1 : COUNT];

	/* Inputs from..from+chunk of rows first.. of `rows`; what is beyond repeats what is not. */
	__device__ inline void load(
		const T *matrix, uint64_t first, uint64_t rows, uint64_t from, uint64_t n)
	{
#pragma unroll
		for (uint32_t i = 0; i < COUNT; i++) {
			const uint32_t unit = threadIdx.x + i * THREADS;

			if (UNITS % THREADS != 0 && unit >= UNITS)
				continue;
			const uint64_t row = min(first + unit / ACROSS, rows - 1);
			const uint64_t at = min(from + unit % ACROSS * UNIT, n - UNIT);

			if constexpr (VECTOR)
				vecs[i] = vec_load(matrix + row * n + at);
			else
				elements[i] = matrix[row * n + at];
		}
	}

	/* `left` inputs of them count; the others become 0. */
	__device__ inline void store(float (*to)[chunk_inputs<PER> + 4], uint64_t left) const
	{
#pragma unroll
		for (uint32_t i = 0; i < COUNT; i++) {
			const uint32_t unit = threadIdx.x + i * THREADS;
			const uint32_t row = unit / ACROSS, at = unit % ACROSS * UNIT;
			const bool counts = at < left;

			if (UNITS % THREADS != 0 && unit >= UNITS)
				continue;
			if constexpr (VECTOR) {
#pragma unroll
				for (uint32_t e = 0; e < UNIT; e += 4)
					*(float4 *)&to[row][at + e] = counts
						? make_float4(vecs[i].at(e), vecs[i].at(e + 1),
							  vecs[i].at(e + 2), vecs[i].at(e + 3))
						: make_float4(0, 0, 0, 0);
			} else {
				to[row][at] = counts ? to_float(elements[i]) : 0;
			}
		}
	}
};

/* Adds the products of `count` inputs. A thread's rows and outputs are SIDE apart. */
template <uint32_t PER>
__device__ inline void add_chunk(
	const struct tile_memory<PER> &memory, uint32_t count, struct tile_sums<PER> &sums)
{
	constexpr uint32_t LANES = PER == 1 ? 4 : 1; /* sums for one output */
	constexpr uint32_t UNROLL = PER < 4 ? 4 : 1; /* as registers allow */
	const uint32_t row = threadIdx.x / SIDE, output = threadIdx.x % SIDE;
	float sum[PER][PER][LANES] = {};

#pragma unroll UNROLL
	for (uint32_t i = 0; i < count; i += 4) {
		float x[PER][4], w[PER][4];

#pragma unroll
		for (uint32_t p = 0; p < PER; p++) {
			*(float4 *)x[p] = *(const float4 *)&memory.x[row + p * SIDE][i];
			*(float4 *)w[p] = *(const float4 *)&memory.w[output + p * SIDE][i];
		}
#pragma unroll
		for (uint32_t r = 0; r < PER * PER * 4; r++) {
			float *to = &sum[r / 4 / PER][r / 4 % PER][r % LANES];

			*to = fmaf(x[r / 4 / PER][r % 4], w[r / 4 % PER][r % 4], *to);
		}
	}
#pragma unroll
	for (uint32_t r = 0; r < PER * PER; r++) {
		float *s = sum[r / PER][r % PER];

		total_add(&sums.of[r / PER][r % PER],
			LANES == 4 ? (s[0] + s[1 % LANES]) + (s[2 % LANES] + s[3 % LANES]) : s[0]);
	}
}

template <typename T, uint32_t PER, bool VECTOR>
__device__ inline void add_products(const struct gemv_task &task, const T *x, const T *w,
	uint64_t row, uint64_t output, struct tile_memory<PER> &memory, struct tile_sums<PER> &sums)
{
	constexpr uint32_t CHUNK = chunk_inputs<PER>;
	struct staged<T, PER, VECTOR> next_x, next_w;

	if (task.n > 0) {
		next_x.load(x, row, task.batch, 0, task.n);
		next_w.load(w, output, task.outputs, 0, task.n);
	}
	for (uint64_t from = 0; from < task.n; from += CHUNK) {
		const uint64_t left = task.n - from;

		next_x.store(memory.x, left);
		next_w.store(memory.w, left);
		__syncthreads();
		if (left > CHUNK) {
			next_x.load(x, row, task.batch, from + CHUNK, task.n);
			next_w.load(w, output, task.outputs, from + CHUNK, task.n);
		}
		add_chunk<PER>(memory, left < CHUNK ? (uint32_t)(left + 3) / 4 * 4 : CHUNK, sums);
		__syncthreads();
	}
}

/* Neighbouring blocks share their weights. Large tiles need two blocks to hide their waits. */
template <typename T, uint32_t PER>
__global__ void __launch_bounds__(THREADS, PER < 4 ? 1 : 2)
	gemv_tile(const __grid_constant__ struct gemv_task task,
		const __grid_constant__ struct cuda_completion done)
{
	cuda_begin();
	__shared__ __align__(16) struct tile_memory<PER> memory;
	const T *x = (const T *)arg_pointer(done.block, task.x);
	const T *w = (const T *)arg_pointer(done.block, task.w);
	const T *biases = task.has_bias ? (const T *)arg_pointer(done.block, task.bias) : NULL;
	char *y = arg_pointer(done.block, task.y);
	const uint64_t row = (uint64_t)(blockIdx.x % task.row_tiles) * SIDE * PER;
	const uint64_t output = (uint64_t)(blockIdx.x / task.row_tiles) * SIDE * PER;
	struct tile_sums<PER> sums = {
	};
	T bias[PER];

#pragma unroll
	for (uint32_t p = 0; p < PER; p++) {
		if (task.has_bias)
			bias[p] = biases[min(
				output + threadIdx.x % SIDE + p * SIDE, task.outputs - 1)];
	}
	if (aligned_16(x, w) && task.n % vec_elements<T> == 0)
		add_products<T, PER, true>(task, x, w, row, output, memory, sums);
	else
		add_products<T, PER, false>(task, x, w, row, output, memory, sums);
#pragma unroll
	for (uint32_t i = 0; i < PER * PER; i++) {
		const uint64_t r = row + threadIdx.x / SIDE + i / PER * SIDE;
		const uint64_t o = output + threadIdx.x % SIDE + i % PER * SIDE;
		const float sum = sums.of[i / PER][i % PER].sum;

		if (r < task.batch && o < task.outputs)
			store_output<T>(y, r * task.outputs + o,
				task.has_bias ? sum + to_float(bias[i % PER]) : sum, task.wide);
	}
	cuda_complete(done);
}

/* --- Short rows --------------------------------------------------------------------------- */

template <typename T>
__global__ void BOUNDS(SHORT_THREADS) gemv_short(const __grid_constant__ struct gemv_task task,
	const __grid_constant__ struct cuda_completion done)
{
	cuda_begin();
	__shared__ __align__(16) struct short_memory memory;

	gemv_short_block<T>(task, done.block, blockIdx.x, memory);
	cuda_complete(done);
}

/* --- cuBLAS ------------------------------------------------------------------------------- */

/* y[b,o] = bias[o], to which cuBLAS adds. A block writes part of one row. */
template <typename T>
__global__ void BOUNDS(THREADS)
	spread_bias(const T *bias, float *y, uint64_t outputs, uint32_t blocks_in_row)
{
	cuda_begin();
	const uint64_t row = blockIdx.x / blocks_in_row;
	const uint64_t output = (uint64_t)(blockIdx.x % blocks_in_row) * THREADS + threadIdx.x;

	if (output < outputs)
		y[row * outputs + output] = to_float(bias[output]);
}

static int launch_bias(const struct gemv_task *task, const struct blas_product *product,
	const struct cuda_target *to)
{
	const uint64_t blocks_in_row = blocks_of(task->outputs, THREADS);
	const uint32_t blocks = (uint32_t)(blocks_in_row * task->batch); /* see blas_takes() */
	const void *bias = arg_known(task->bias);

	return with_type(product->in_dtype, [&](auto type) {
		using T = decltype(type);

		return run(to, spread_bias<T>, blocks, THREADS, (const T *)bias,
			(float *)product->y, task->outputs, (uint32_t)blocks_in_row);
	});
}

static struct blas_product product_of(const struct gemv_task *task, uint32_t dtype)
{
	struct blas_product product = {};

	product.x = arg_known(task->x);
	product.w = arg_known(task->w);
	product.bias = task->has_bias && !task->wide ? arg_known(task->bias) : NULL;
	product.y = arg_known(task->y);
	product.batch = task->batch;
	product.outputs = task->outputs;
	product.n = task->n;
	product.in_dtype = dtype;
	product.out_dtype = task->wide ? (uint32_t)GPUQ_F32 : dtype;
	product.add = task->has_bias && task->wide;
	return product;
}

/* -EOPNOTSUPP: cuBLAS does not take it; what was launched, if anything, wrote nothing but y. */
static int launch_blas(const struct gemv_task *task, uint32_t dtype,
	const struct device_kernel *kernel, const struct cuda_args *args,
	const struct cuda_target *to)
{
	const struct blas_product product = product_of(task, dtype);
	struct blas_plan plan;
	int err = 0;

	if (task->has_bias && arg_known(task->bias) == NULL)
		return -EOPNOTSUPP;
	if (!blas_takes(&product, &plan))
		return -EOPNOTSUPP;
	if (product.add)
		err = launch_bias(task, &product, to);
	if (err == 0)
		err = blas_run(&product, &plan, to->stream);
	if (err == 0 && kernel->signal)
		err = cuda_signal(args, to);
	return err;
}

/* --- Launching ---------------------------------------------------------------------------- */

static uint64_t tiles(const struct gemv_task *task, uint32_t per)
{
	return blocks_of(task->batch, SIDE * per) * blocks_of(task->outputs, SIDE * per);
}

template <typename T, uint32_t PER>
static int launch_tiles(const struct gemv_task *task, const struct cuda_completion &done,
	const struct cuda_target *to)
{
	struct gemv_task copy = *task;

	copy.row_tiles = (uint32_t)blocks_of(task->batch, SIDE * PER);
	if (tiles(task, PER) > INT_MAX)
		return -EOPNOTSUPP;
	return run(to, gemv_tile<T, PER>, (uint32_t)tiles(task, PER), THREADS, copy, done);
}

template <typename T>
static int launch_short(const struct gemv_task *task, const struct cuda_completion &done,
	const struct cuda_target *to)
{
	struct gemv_task copy = *task;

	copy.row_tiles = (uint32_t)blocks_of(task->batch, SHORT_SIDE);
	return run(to, gemv_short<T>,
		copy.row_tiles * (uint32_t)blocks_of(task->outputs, SHORT_SIDE), SHORT_THREADS,
		copy, done);
}

/* The greatest tiles that are still enough to keep the machine busy; few for short rows. */
static int launch_tiled(const struct gemv_task *task, uint32_t dtype,
	const struct device_kernel *kernel, const struct cuda_args *args,
	const struct cuda_target *to)
{
	const struct cuda_completion done = cuda_completion(kernel, args);

	return with_type(dtype, [&](auto type) {
		using T = decltype(type);

		if (task->n > 0 && task->n <= SHORT && tiles(task, 2) < machine_processors())
			return launch_short<T>(task, done, to);
		if (tiles(task, 4) >= 2 * machine_processors())
			return launch_tiles<T, 4>(task, done, to);
		if (tiles(task, 2) >= machine_processors() || task->n <= SHORT_INPUTS)
			return launch_tiles<T, 2>(task, done, to);
		return launch_tiles<T, 1>(task, done, to);
	});
}

/* shared: one matrix for all rows. */
static struct dot_task dots_of(const struct gemv_task *task, bool shared)
{
	struct dot_task dots = {};

	dots.rows = task->w;
	dots.vecs = task->x;
	dots.bias = task->bias;
	dots.out = task->y;
	dots.n = task->n;
	dots.count = task->batch * task->outputs;
	dots.vec_shared = task->batch == 1;
	dots.period = dots.vec_shared ? 0 : (uint32_t)task->outputs;
	dots.rows_repeat = shared && !dots.vec_shared;
	dots.has_bias = task->has_bias;
	dots.wide = task->wide;
	return dots;
}

static bool few_and_long(const struct gemv_task *task)
{
	return task->n >= LONG_INPUTS && 4 * tiles(task, 1) < machine_processors();
}

static struct gemv_task make_task(const struct device_kernel *kernel, const struct cuda_args *args)
{
	const struct op_launch *op = (const struct op_launch *)kernel->shape;
	const struct tensor *in = op->call.in, *y = &op->call.out[0];
	struct gemv_task task = {};

	task.x = arg_tensor(args, &in[0], op->in[0]);
	task.w = arg_tensor(args, &in[1], op->in[1]);
	task.has_bias = tensor_present(&in[2]);
	if (task.has_bias)
		task.bias = arg_tensor(args, &in[2], op->in[2]);
	task.y = arg_tensor(args, y, op->out[0]);
	task.batch = y->dims[0];
	task.outputs = y->dims[1];
	task.n = in[0].dims[1];
	task.wide = y->dtype == GPUQ_F32;
	return task;
}

static int launch(const struct device_kernel *kernel, const struct cuda_args *args,
	const struct cuda_target *to)
{
	const struct op_launch *op = (const struct op_launch *)kernel->shape;
	const uint32_t dtype = op->call.in[0].dtype;
	const struct gemv_task task = make_task(kernel, args);
	const bool shared = op->call.in[1].rank == 2;
	int err;

	if (task.batch == 0 || task.outputs == 0)
		return launch_nothing(kernel, args, to);
	if (!shared || task.batch == 1 || few_and_long(&task)) {
		const struct dot_task dots = dots_of(&task, shared);

		return dot_launch(&dots, dtype, kernel, args, to);
	}
	err = launch_blas(&task, dtype, kernel, args, to);
	if (err != -EOPNOTSUPP)
		return err;
	return launch_tiled(&task, dtype, kernel, args, to);
}

/* Are all tensors inner ones of a pipeline, whose addresses do not change? */
static bool all_fixed(const struct op_launch *op)
{
	return op->in[0] == OP_FIXED && op->in[1] == OP_FIXED && op->out[0] == OP_FIXED &&
		(op->in[2] == OP_FIXED || !tensor_present(&op->call.in[2]));
}

/*
 * cuBLAS bakes addresses into a capture. Without it, on an H200, 2^29 products of halves take 60 us
 * more, and 2^31 of float32 as much: what 20 kernels cost that are launched one by one.
 */
static bool records_badly(const struct device_kernel *kernel)
{
	const struct op_launch *op = (const struct op_launch *)kernel->shape;
	const uint32_t dtype = op->call.in[0].dtype;
	struct cuda_args args = {};
	struct blas_plan plan;

	/* As if all were aligned; nobody reads there. */
	for (uint32_t i = 0; i < GPUQ_MAX_TENSORS; i++)
		args.direct.pointers[i] = (void *)(uintptr_t)256;
	const struct gemv_task task = make_task(kernel, &args);

	if (op->call.in[1].rank != 2 || task.batch < 2 || few_and_long(&task) || all_fixed(op))
		return false;
	const struct blas_product product = product_of(&task, dtype);

	return blas_takes(&product, &plan) &&
		task.batch * task.outputs * task.n >= (dtype == GPUQ_F32 ? 1ull << 31 : 1ull << 29);
}

static int command(const struct device_kernel *kernel, const struct cuda_args *args,
	struct cuda_command *ret_command)
{
	const struct op_launch *op = (const struct op_launch *)kernel->shape;
	const uint32_t dtype = op->call.in[0].dtype;
	struct gemv_task task = make_task(kernel, args);
	const bool shared = op->call.in[1].rank == 2;
	const uint64_t row_tiles = blocks_of(task.batch, SHORT_SIDE);

	if (!shared || task.batch == 1) {
		const struct dot_task dots = dots_of(&task, shared);

		return dot_command(&dots, dtype, ret_command);
	}
	if (task.n == 0 || task.n > SHORT || task.batch > UINT32_MAX || task.outputs > UINT32_MAX)
		return -EOPNOTSUPP;
	task.row_tiles = (uint32_t)row_tiles;
	return resident_command(ret_command, RESIDENT_GEMV_SHORT, dtype, 0,
		row_tiles * blocks_of(task.outputs, SHORT_SIDE), task);
}

template <typename T> static int touch_type(void)
{
	int err = touch_kernel(gemv_tile<T, 1>);

	if (err == 0)
		err = touch_kernel(gemv_tile<T, 2>);
	if (err == 0)
		err = touch_kernel(gemv_tile<T, 4>);
	if (err == 0)
		err = touch_kernel(gemv_short<T>);
	return err != 0 ? err : touch_kernel(spread_bias<T>);
}

static int touch(void)
{
	int err = machine_touch();

	if (err == 0)
		err = dot_touch();
	if (err == 0)
		err = touch_type<float>();
	if (err == 0)
		err = touch_type<__half>();
	if (err == 0)
		err = touch_type<__nv_bfloat16>();
	return err != 0 ? err : blas_touch();
}

const struct cuda_code gemv_batched_cuda = {"gemv_batched", launch, command, touch, records_badly};
