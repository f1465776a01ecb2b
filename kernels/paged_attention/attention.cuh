/* SPDX-License-Identifier: MIT */
/*
 * attention.cuh: what the forms of attention in CUDA share: how a call is cut into blocks, what the
 * threads of a block share, and how parts of a context are added up. paged_attention_cuda.cu says
 * how it all works.
 */
#ifndef GPUQ_KERNELS_ATTENTION_CUH
#define GPUQ_KERNELS_ATTENTION_CUH

#include "kernels/cuda/eight.cuh"
#include "kernels/cuda/kv.cuh"
#include "kernels/cuda/mma.cuh"

extern "C" {
#include "kernels/paged_attention/paged_attention.h"
}

#define THREADS 256u
#define WARPS (THREADS / WARP)
#define MAX_ITEMS 8u
#define PART ATTENTION_PART
#define PART_BLOCKS (PART / KV_TOKENS)
#define LINE 128u /* bytes that memory delivers at once */
#define USUAL_PROCESSORS 132u
#define ROOM 512u	 /* floats of a warp in what is added up between warps */
#define JOINED 16u	 /* parts whose sums are under way at once */
#define CORES_ROOM 1056u /* likewise in attention_cores.cuh */
#define CORES_RUN 8u	 /* parts at most that a block takes one after the other there */

struct attention_task {
	struct arg q, cache, table, positions, rows, y, parts, scale, window;
	struct kv_shape kv;
	uint64_t n, heads, context;
	uint32_t tile;	 /* rows of a block */
	uint32_t shared; /* query heads of one head of keys */
	uint32_t chunk;	 /* of these, that a block takes */
	uint32_t chunks;
	uint32_t splits; /* blocks that share a tile; 1: one does all */
	uint32_t run;	 /* parts of each of them */
	uint32_t parts_count;
	uint32_t shift; /* log2 of the lanes of a team */
	float usual_scale;
	bool early; /* positions, rows and table may be read before cuda_await() */
};

struct item {
	uint64_t begin, end; /* positions that it sees */
	int32_t position;    /* its own */
	int32_t row;	     /* of the table */
	bool there;
	uint64_t query; /* which of all rows' heads */
};

/* Of the sums before a part and of its own; total 0: it sees nothing. */
struct __align__(16) part_factors
{
	float keep, take, total;
};

/* What the threads of a block share. */
struct __align__(16) attention_memory
{
	union {
		struct {
			float scores[MAX_ITEMS][PART]; /* then their weights */
			float adding[WARPS][ROOM];
			float sums[MAX_ITEMS][KV_MAX_COLUMNS];
		};
		struct part_factors factors[MAX_ITEMS][PART]; /* when parts are joined */
		float shares[WARPS][CORES_ROOM];	      /* attention_cores.cuh's */
	};
	float greatest[MAX_ITEMS], total[MAX_ITEMS];	       /* of the parts so far */
	float part_greatest[MAX_ITEMS], part_total[MAX_ITEMS]; /* total 0: it sees nothing of it */
	float keep[MAX_ITEMS], take[MAX_ITEMS]; /* factors of the sums so far and of the part's */
	float greatest_of[WARPS][MAX_ITEMS];	/* of warps */
	float total_of[WARPS][MAX_ITEMS];
	int64_t blocks[PART_BLOCKS];
	struct item items[MAX_ITEMS];
	bool last;
};

/* As attention_span_of(), its index values read once. */
static __device__ inline void find_span(const struct attention_task &task,
	const struct device_args *block, uint64_t n, struct item *item)
{
	const int32_t position = index_at((const int32_t *)arg_pointer(block, task.positions), n);
	const uint64_t window = (uint64_t)arg_i64(block, task.window);
	uint64_t end;

	item->row = index_at((const int32_t *)arg_pointer(block, task.rows), n);
	item->position = position;
	item->begin = item->end = 0;
	if (position < 0 || item->row < 0 || (uint64_t)item->row >= task.kv.sequences)
		return;
	end = (uint64_t)position + 1;
	item->begin = window != 0 && end > window ? end - window : 0;
	end = min(min(end, task.context), task.kv.length * KV_TOKENS);
	item->end = end;
	if (item->begin >= end)
		item->begin = item->end = 0;
}

/* How the sums so far and those of a part become one: their factors. The part is not empty. */
static __device__ inline void find_factors(
	float *greatest, float *total, float of_part, float part_total, float *keep, float *take)
{
	const float both = fmaxf(*greatest, of_part);

	*keep = expf(*greatest - both);
	*take = expf(of_part - both);
	*total = fmaf(part_total, *take, *total * *keep);
	*greatest = both;
}

static __device__ inline float fold(float sum, float keep, float of_part, float take)
{
	return fmaf(of_part, take, sum * keep);
}

/* --- Parts that several blocks have made ------------------------------------------------------ */

/* Where an item's part lies: its greatest score, its total, its sums. */
static __device__ inline float *part_of(
	const struct attention_task &task, float *parts, const struct item &item, uint32_t part)
{
	return parts + (item.query * task.parts_count + part) * (task.kv.columns + 2);
}

/* At once, whatever happens to it: the compiler would wait for one part after the other. */
static __device__ inline float load_now(const float *from)
{
	float v;

	asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(v) : "l"(__cvta_generic_to_global(from)));
	return v;
}

/*
 * The factors of parts first..first+count-1 of all items, a warp for each: of the sums so far, of
 * the part's, and its total. Maxima are the same in any order, so each lane has a part.
 */
static __device__ inline void find_all_factors(struct attention_memory &m,
	const struct attention_task &task, float *parts, uint32_t first, uint32_t count,
	bool is_first)
{
	const uint32_t i = threadIdx.x / WARP, lane = threadIdx.x % WARP;
	/* What attend_part() leaves there is of this block's part. */
	float before = is_first ? -INFINITY : m.greatest[i];

	if (!m.items[i].there)
		return;
	for (uint32_t p = lane; p - lane < count; p += WARP) {
		const float *part = part_of(task, parts, m.items[i], first + min(p, count - 1));
		const float left = load_now(&part[0]), total = p < count ? load_now(&part[1]) : 0;
		const float greatest = total != 0 ? left : -INFINITY;
		float both = fmaxf(before, greatest), so_far;

		for (uint32_t d = 1; d < WARP; d *= 2) {
			const float other = __shfl_up_sync(ALL_LANES, both, d);

			both = lane >= d ? fmaxf(both, other) : both;
		}
		so_far = __shfl_up_sync(ALL_LANES, both, 1);
		so_far = lane == 0 ? before : so_far;
		before = __shfl_sync(ALL_LANES, both, WARP - 1);
		m.factors[i][p] = {expf(so_far - both), expf(greatest - both), total};
	}
	if (lane == 0)
		m.greatest[i] = before;
}

/*
 * Adds these parts of one column of an item. JOINED of them are under way at once, and there is one
 * way through: the code is new to the multiprocessor, which waits for its instructions too.
 */
static __device__ inline void add_parts(const struct attention_memory &m, uint32_t i,
	const float *at, uint64_t stride, uint32_t count, float *sum, float *total)
{
#pragma unroll 1
	for (uint32_t first = 0; first < count; first += JOINED) {
		float of_part[JOINED];

#pragma unroll
		for (uint32_t p = 0; p < JOINED; p++)
			of_part[p] = load_now(at + min(first + p, count - 1) * stride);
#pragma unroll
		for (uint32_t p = 0; p < JOINED; p++) {
			const struct part_factors &f = m.factors[i][first + p];
			const bool any = f.total != 0;

			*total = any ? fmaf(f.total, f.take, *total * f.keep) : *total;
			*sum = any ? fold(*sum, f.keep, of_part[p], f.take) : *sum;
		}
	}
}
static_assert(PART % JOINED == 0 && WARP % JOINED == 0, "factors of all that are looked at");

/* Adds up parts begin..end-1 of all items, as one block would have done. */
static __device__ inline void join_splits(struct attention_memory &m,
	const struct attention_task &task, float *parts, float *y, uint32_t begin, uint32_t end)
{
	const uint32_t columns = (uint32_t)task.kv.columns, all = task.tile * task.chunk * columns;

#pragma unroll 1
	for (uint32_t done = 0; done < all; done += THREADS) {
		const uint32_t c = done + threadIdx.x, i = c / columns;
		const bool there = c < all && m.items[i].there;
		float sum = 0, total = 0;

#pragma unroll 1
		for (uint32_t first = begin; first < end; first += PART) {
			const uint32_t count = min(PART, end - first);

			if (done == 0 || end - begin > PART) {
				__syncthreads();
				find_all_factors(m, task, parts, first, count, first == begin);
				__syncthreads();
			}
			if (there)
				add_parts(m, i,
					part_of(task, parts, m.items[i], first) + 2 + c % columns,
					columns + 2, count, &sum, &total);
		}
		if (there)
			y[m.items[i].query * columns + c % columns] = total == 0 ? 0 : sum / total;
	}
}

/* True in the last block of those that share a place, when all have left their parts. */
static __device__ inline bool came_last(
	struct attention_memory &m, struct cuda_scratch *scratch, uint32_t place, uint32_t splits)
{
	__syncthreads();
	if (threadIdx.x == 0)
		m.last = cuda_last_of(&scratch->tickets[place], splits);
	__syncthreads();
	return m.last;
}

/* --- Launching -------------------------------------------------------------------------- */

/* Blocks of attention_cores.cuh on a multiprocessor, as registers allow. */
static __host__ __device__ constexpr uint32_t cores_resident(uint64_t columns)
{
	return columns == 64 ? 2 : 1;
}

/* What attention_cores.cuh takes, whatever else is in the call: bits must not depend on that. */
static inline bool takes_cores(const struct attention_task *task, uint32_t dtype)
{
	return dtype == GPUQ_BF16 && task->shared > 1 &&
		(task->kv.columns == 64 || task->kv.columns == 128);
}

/*
 * As many blocks as run at once, as long as they take no more parts each than some: rows may be
 * much shorter than others.
 */
static inline void cut_runs(struct attention_task *task, uint64_t places)
{
	const uint64_t wanted = cores_resident(task->kv.columns) * USUAL_PROCESSORS / places;
	const uint64_t least = blocks_of(task->parts_count, CORES_RUN);
	const uint64_t splits = min(max(wanted, least), (uint64_t)task->parts_count);

	task->run = (uint32_t)blocks_of(task->parts_count, splits);
	task->splits = (uint32_t)blocks_of(task->parts_count, task->run);
}

/* How the call is cut into blocks; their number. */
static inline uint64_t cut(struct attention_task *task, const struct tensor *parts, bool cores)
{
	const uint64_t splits =
		tensor_present(parts) && parts->dims[0] == task->n ? parts->dims[2] : 1;
	uint64_t places;

	task->chunk = min(task->shared, MAX_ITEMS);
	task->chunks = (uint32_t)blocks_of(task->shared, task->chunk);
	/* Rows of one sequence come one after the other. */
	task->tile = task->n > task->kv.sequences && !cores ? MAX_ITEMS / task->chunk : 1;
	while (EIGHT << task->shift < task->kv.columns)
		task->shift++;
	places = blocks_of(task->n, task->tile) * task->chunks * task->kv.groups;
	task->parts_count = task->splits =
		splits > 1 && places <= CUDA_TICKETS && splits <= INT_MAX ? (uint32_t)splits : 1;
	task->run = 1;
	if (cores && task->splits > 1)
		cut_runs(task, places);
	return places * task->splits;
}

static inline struct attention_task attention_task_of(
	const struct op_launch *op, const struct cuda_args *args)
{
	const struct tensor *in = op->call.in, *out = op->call.out;
	struct attention_task task = {};

	task.q = arg_tensor(args, &in[ATTENTION_Q], op->in[ATTENTION_Q]);
	task.cache = arg_tensor(args, &in[ATTENTION_CACHE], op->in[ATTENTION_CACHE]);
	task.table = arg_tensor(args, &in[ATTENTION_TABLE], op->in[ATTENTION_TABLE]);
	task.positions = arg_tensor(args, &in[ATTENTION_POSITIONS], op->in[ATTENTION_POSITIONS]);
	task.rows = arg_tensor(args, &in[ATTENTION_ROWS], op->in[ATTENTION_ROWS]);
	task.y = arg_tensor(args, &out[ATTENTION_Y], op->out[ATTENTION_Y]);
	if (tensor_present(&out[ATTENTION_PARTS]))
		task.parts = arg_tensor(args, &out[ATTENTION_PARTS], op->out[ATTENTION_PARTS]);
	task.scale =
		arg_param(args, &op->call.params[ATTENTION_SCALE], op->params[ATTENTION_SCALE]);
	task.window =
		arg_param(args, &op->call.params[ATTENTION_WINDOW], op->params[ATTENTION_WINDOW]);
	task.kv = kv_shape_of(&in[ATTENTION_TABLE], &in[ATTENTION_CACHE]);
	task.n = in[ATTENTION_Q].dims[0];
	task.heads = in[ATTENTION_Q].dims[1];
	task.context = in[ATTENTION_CONTEXT].dims[0];
	task.shared = (uint32_t)(task.heads / task.kv.groups);
	task.usual_scale = (float)(1 / sqrt((double)task.kv.columns));
	task.early = stay_constant(
		op, 1u << ATTENTION_TABLE | 1u << ATTENTION_POSITIONS | 1u << ATTENTION_ROWS);
	return task;
}

#endif
