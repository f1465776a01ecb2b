/* SPDX-License-Identifier: MIT */
/*
 * kv_attention in CUDA: the kernels of its two operators, or one for both where that is sooner: for
 * rows of different sequences, which attention_cores.cuh takes, without norms.
 *
 * A block of that kernel turns its queries where the cores want them, since a lane has both columns
 * of a pair. The warp that comes to the row's own token does the same with its key, puts it and the
 * value into the cache, and goes on with what the cache has then: no block waits for another. What
 * is turned has the bits that kv_append gives it.
 */
#include "kernels/cuda/codes.h"
#include "kernels/kv_append/append.cuh"
#include "kernels/paged_attention/attention_cores.cuh"

extern "C" {
#include "kernels/kv_attention/kv_attention.h"
}

struct fresh_task {
	struct attention_task attention;
	struct append_task append;
};

/* A lane's columns of a head, as kv_append turns them. */
template <typename A>
__device__ inline void turn_columns(struct eight columns[A::CHUNKS], const struct turn *turns)
{
#pragma unroll
	for (uint32_t i = 0; i < A::CHUNKS / 2 * EIGHT; i++) {
		const struct turn t = turns[i / EIGHT * 32 + A::in_quad() * EIGHT + i % EIGHT];
		float *left = &columns[i / EIGHT].v[i % EIGHT];
		float *right = &columns[i / EIGHT + A::CHUNKS / 2].v[i % EIGHT];

		turn_pair(left, right, t);
	}
}

static __device__ inline uint4 round_eight(const struct eight &e)
{
	uint4 packed;

#pragma unroll
	for (uint32_t i = 0; i < EIGHT; i++)
		from_float((__nv_bfloat16 *)&packed + i, e.v[i]);
	return packed;
}

/* A lane's parts of the row's own key and value. */
template <typename A> struct fresh_token {
	struct eight key[A::CHUNKS], value[A::SPANS];

	__device__ inline void load(const float *of_key, const float *of_value)
	{
		A::load_head(of_key, true, key);
#pragma unroll
		for (uint32_t s = 0; s < A::SPANS; s++)
			value[s] = eight_load(of_value + s * 64 + A::quad() * EIGHT, EIGHT, true);
	}

	/* Into the cache, and into what has been loaded of it if that has the token's place. */
	__device__ inline void put(__nv_bfloat16 *to, uint64_t to_value, uint32_t token,
		bool is_loaded, typename A::loaded *loaded) const
	{
#pragma unroll
		for (uint32_t c = 0; c < A::CHUNKS; c++) {
			const uint4 rounded = round_eight(key[c]);

			if (A::quad() == 0)
				*(uint4 *)(to + c * 32 + A::in_quad() * EIGHT) = rounded;
#pragma unroll
			for (uint32_t i = 0; i < 2; i++) {
				if (is_loaded && token == i * 8 + A::quad())
					loaded->keys[i][c] = rounded;
			}
		}
#pragma unroll
		for (uint32_t s = 0; s < A::SPANS; s++) {
			const uint4 rounded = round_eight(value[s]);

			if (A::in_quad() == 0)
				*(uint4 *)(to + to_value + s * 64 + A::quad() * EIGHT) = rounded;
#pragma unroll
			for (uint32_t i = 0; i < 4; i++) {
				if (is_loaded && token == A::token_of(i))
					loaded->values[s][i] = rounded;
			}
		}
		__syncwarp();
	}
};

/* Whether the row's own token is in the block's parts; what is behind all is the last one's. */
static __device__ inline bool has_own(
	const struct attention_task &task, const struct cores_place &at, int32_t position)
{
	return position >= 0 &&
		min((uint32_t)position / (task.run * PART), task.splits - 1) == at.split;
}

/* Loads what a warp begins with, its queries turned, the row's own token put in its place. */
template <typename A>
__device__ inline void start_fresh(const struct fresh_task &task, const struct device_args *block,
	const struct cores_place &at, struct turn *turns, const A &a, typename A::first *first)
{
	constexpr uint32_t COLUMNS = A::WIDTH;
	const uint64_t heads = task.append.heads, groups = task.append.kv.groups;
	const uint32_t token = (uint32_t)a.position % KV_TOKENS;
	const bool own = has_own(task.attention, at, a.position) &&
		(uint32_t)a.position % A::STEP / KV_TOKENS == A::warp();
	const int64_t slot = own ? slot_of(task.append, block, a.row, a.position) : -1;
	struct fresh_token<A> fresh;

	if (threadIdx.x < COLUMNS / 2)
		turns[threadIdx.x] = turn_of(a.position,
			turn_frequency(
				turn_params_of(task.append.turns, block), threadIdx.x, COLUMNS));
	__syncthreads();
	cuda_await();

	const float *x = (const float *)arg_pointer(block, task.append.qkv) +
		at.n * (heads + 2 * groups) * COLUMNS;
	const float *key = x + (heads + at.group) * COLUMNS;

	a.load_query(x + (at.query - at.n * heads) * COLUMNS, at.items, first->query);
	if (slot >= 0)
		fresh.load(key, key + groups * COLUMNS);
	a.load_first(first);
	turn_columns<A>(first->query, turns);
	if (slot >= 0) {
		turn_columns<A>(fresh.key, turns);
		fresh.put((__nv_bfloat16 *)arg_pointer(block, task.append.cache) + slot +
				at.group * KV_TOKENS * COLUMNS,
			groups * KV_TOKENS * COLUMNS, token,
			(uint32_t)a.position - token == A::position_of(first->step),
			&first->tokens);
	}
}

/* Row 8 / HEADS * i of a quad's has head i. */
template <typename A>
__device__ inline void store_queries(
	const struct cores_place &at, const struct eight columns[A::CHUNKS], float *q)
{
	constexpr uint32_t QUADS = 8 / (A::H::OWN * 4);

	if (at.split != 0 || A::warp() != 0 || A::quad() % QUADS != 0 || A::H::of_row() >= at.items)
		return;
#pragma unroll
	for (uint32_t c = 0; c < A::CHUNKS; c++)
		eight_store(
			q + (at.query + A::H::of_row()) * A::WIDTH + c * 32 + A::in_quad() * EIGHT,
			columns[c], EIGHT, true);
}

template <uint32_t COLUMNS, uint32_t HEADS>
__global__ void __launch_bounds__(THREADS, cores_resident(COLUMNS))
	attend_fresh(const __grid_constant__ struct fresh_task task, struct cuda_scratch *scratch,
		const __grid_constant__ struct cuda_completion done)
{
	using A = cores_attention<COLUMNS, HEADS, true>;
	cuda_let_next();
	__shared__ struct attention_memory memory;
	__shared__ struct turn turns[COLUMNS / 2];
	const struct cores_place at = cores_place_of(task.attention);

	if (!task.append.early || !turn_params_known(task.append.turns))
		cuda_await();
	attend_on_cores<COLUMNS, HEADS, true>(
		memory, task.attention, done.block, scratch, at, [&](const A &a, auto *first) {
			start_fresh(task, done.block, at, turns, a, first);
			store_queries<A>(
				at, first->query, (float *)arg_pointer(done.block, task.append.q));
		});
	cuda_complete(done);
}

/* --- Launching ---------------------------------------------------------------------------- */

typedef void (*form)(struct fresh_task, struct cuda_scratch *, struct cuda_completion);

/* By columns, 64 or 128, and heads of a block, up to 4 or more. */
static const form FORMS[2][2] = {
	{attend_fresh<64, 4>, attend_fresh<64, 8>}, {attend_fresh<128, 4>, attend_fresh<128, 8>}};

static struct op_launch append_launch(const struct op_launch *op)
{
	struct op_launch append = {};

	append.call.op = op->call.op;
	for (uint32_t i = 0; i < KV_ATTENTION_CONTEXT; i++) {
		append.call.in[i] = op->call.in[i];
		append.in[i] = op->in[i];
	}
	for (uint32_t i = 0; i < KV_ATTENTION_WINDOW; i++) {
		append.call.params[i] = op->call.params[i];
		append.params[i] = op->params[i];
	}
	append.call.out[0] = op->call.out[KV_ATTENTION_Q];
	append.out[0] = op->out[KV_ATTENTION_Q];
	append.constants = op->constants & ((1u << KV_ATTENTION_CONTEXT) - 1);
	return append;
}

static struct op_launch attend_launch(const struct op_launch *op)
{
	struct op_launch attend = {};

	attend.call.in[ATTENTION_Q] = op->call.out[KV_ATTENTION_Q];
	attend.in[ATTENTION_Q] = op->out[KV_ATTENTION_Q];
	for (uint32_t i = ATTENTION_Q + 1; i <= ATTENTION_CONTEXT; i++) {
		const uint32_t from = kv_attention_inputs[i];

		attend.call.in[i] = op->call.in[from];
		attend.in[i] = op->in[from];
		attend.constants |= (op->constants >> from & 1) << i;
	}
	attend.params[ATTENTION_SCALE] = OP_FIXED;
	attend.call.params[ATTENTION_WINDOW] = op->call.params[KV_ATTENTION_WINDOW];
	attend.params[ATTENTION_WINDOW] = op->params[KV_ATTENTION_WINDOW];
	attend.call.out[ATTENTION_Y] = op->call.out[KV_ATTENTION_Y];
	attend.out[ATTENTION_Y] = op->out[KV_ATTENTION_Y];
	attend.call.out[ATTENTION_PARTS] = op->call.out[KV_ATTENTION_PARTS];
	attend.out[ATTENTION_PARTS] = op->out[KV_ATTENTION_PARTS];
	return attend;
}

/* One operator's kernel after the other's, which tells of the end. */
static int launch_both(const struct device_kernel *kernel, const struct op_launch *append,
	const struct op_launch *attend, const struct cuda_args *args, const struct cuda_target *to)
{
	struct device_kernel part = *kernel;
	int err;

	part.shape = append;
	part.signal = false;
	err = kv_append_cuda.launch(&part, args, to);
	if (err < 0)
		return err;
	part.shape = attend;
	part.signal = kernel->signal;
	return paged_attention_cuda.launch(&part, args, to);
}

static bool known_aligned(struct arg arg)
{
	return arg_known(arg) != NULL && (uintptr_t)arg_known(arg) % 16 == 0;
}

/*
 * Whether one kernel may do it: where it has few blocks, the ways to positions and tables, which
 * begin before its turn, are over by then. Many blocks find no room as early, and are better with
 * a kernel before theirs.
 */
static bool takes_fresh(const struct fresh_task &task, uint32_t dtype)
{
	const struct attention_task *a = &task.attention;

	return takes_cores(a, dtype) && task.append.q_norm_dtype == 0 && a->n > 0 &&
		a->n <= a->kv.sequences && known_aligned(task.append.qkv) &&
		known_aligned(task.append.cache) && known_aligned(task.append.q);
}

static int launch(const struct device_kernel *kernel, const struct cuda_args *args,
	const struct cuda_target *to)
{
	const struct op_launch *op = (const struct op_launch *)kernel->shape;
	const struct op_launch append = append_launch(op), attend = attend_launch(op);
	struct fresh_task task = {attention_task_of(&attend, args), append_task_of(&append, args)};
	uint64_t blocks = UINT64_MAX;

	if (takes_fresh(task, op->call.in[APPEND_CACHE].dtype))
		blocks = cut(&task.attention, &attend.call.out[ATTENTION_PARTS], true);
	if (blocks > USUAL_PROCESSORS)
		return launch_both(kernel, &append, &attend, args, to);
	return run(to,
		FORMS[task.attention.kv.columns == 64 ? 0 : 1][task.attention.chunk <= 4 ? 0 : 1],
		(uint32_t)blocks, THREADS, task, args->scratch, cuda_completion(kernel, args));
}

static int touch(void)
{
	int err = 0;

	for (size_t i = 0; i < 4 && err == 0; i++)
		err = touch_kernel(FORMS[i / 2][i % 2]);
	return err;
}

const struct cuda_code kv_attention_cuda = {"kv_attention", launch, NULL, touch, NULL};
