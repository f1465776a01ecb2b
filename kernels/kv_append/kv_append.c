/* SPDX-License-Identifier: MIT */
/*
 * kv_append: what attention needs of new tokens: turns their queries and keys to their positions,
 * and puts keys and values into the paged cache (kernels/kv.h).
 *
 *   qkv [N,(H+2G)D] f32: in each row H heads of queries, G of keys, G of values, D columns each;
 *   positions [N] i32, rows [N] i32, table [S,L] i32, cache [P,2,G,16,D], read and written;
 *   q_norm [D], k_norm [D] (optional, both or none); params theta to original_length as those of
 *   rope, eps as that of rmsnorm -> q [N,H,D] f32
 *   q[n,h] = rope(rmsnorm(head h of qkv[n]), positions[n]), likewise the keys; without the norms
 *   the heads as they are
 *   with b = table[rows[n],positions[n]/16] and s = positions[n] % 16:
 *   cache[b,0,g,s] = key g of row n, cache[b,1,g,s] = value g of row n
 *
 * D is even, 2 to 256, H and G are 1 or more. The cache is f32, f16 or bf16, a norm any of them.
 * A row with a position below 0 or from 16 L on, a row outside 0..S-1 or a block outside 0..P-1
 * writes nothing into the cache; its q is written all the same. Rows with one place in the cache
 * leave there the columns of any of them. Empty tensors are fine. NaN and infinities follow the
 * two operators: they spoil a pair of columns, or with the norms a head.
 *
 * Tolerance of the fast forms against the reference: with a, b the pair of columns, after the
 * norms, |y - ref| <= (2e-7 + 4e-6 if there are norms) (|a| + |b|) + 2^-147 (1 + |weights|).
 * Values are exact. What goes into a cache of f16 or bf16 is rounded once.
 */
#include "kernels/kv_append/kv_append.h"
#include "kernels/element.h"
#include "kernels/isa.h"
#include "kernels/ops.h"
#include "kernels/work.h"

#include <math.h>

static int infer_norms(const struct op_call *call, uint32_t *ret_arg)
{
	for (uint32_t i = APPEND_Q_NORM; i <= APPEND_K_NORM; i++) {
		const struct tensor *norm = &call->in[i];

		*ret_arg = i;
		if (!tensor_present(norm)) {
			if (tensor_present(&call->in[APPEND_Q_NORM + APPEND_K_NORM - i]))
				return -GPUQ_EMISSING;
			continue;
		}
		if (norm->rank != 1)
			return -GPUQ_ERANK;
		if (norm->dims[0] != call->in[APPEND_CACHE].dims[4])
			return -GPUQ_ESHAPE;
	}
	return 0;
}

static int infer(struct op_call *call, uint32_t *ret_arg)
{
	const struct tensor *qkv = &call->in[APPEND_QKV], *cache = &call->in[APPEND_CACHE];
	struct tensor *q = &call->out[0];
	uint64_t heads;
	int err;

	*ret_arg = APPEND_QKV;
	if (qkv->rank != 2)
		return -GPUQ_ERANK;
	for (*ret_arg = APPEND_POSITIONS; *ret_arg <= APPEND_ROWS; ++*ret_arg) {
		err = kv_check_tokens(&call->in[*ret_arg], qkv->dims[0]);
		if (err != 0)
			return err;
	}
	*ret_arg = APPEND_TABLE;
	if (call->in[APPEND_TABLE].rank != 2)
		return -GPUQ_ERANK;
	*ret_arg = APPEND_CACHE;
	err = kv_check_cache(cache);
	if (err == 0 && cache->dims[4] % 2 != 0)
		err = -GPUQ_ESHAPE;
	if (err != 0)
		return err;
	heads = qkv->dims[1] / cache->dims[4];
	if (qkv->dims[1] % cache->dims[4] != 0 || heads / 2 < cache->dims[2] ||
		heads == 2 * cache->dims[2]) {
		*ret_arg = APPEND_QKV;
		return -GPUQ_ESHAPE;
	}
	q->rank = 3;
	q->dims[0] = qkv->dims[0];
	q->dims[1] = heads - 2 * cache->dims[2];
	q->dims[2] = cache->dims[4];
	return infer_norms(call, ret_arg);
}

/* A unit is one row: its angles serve all heads. */
static uint64_t units(const struct op_call *call)
{
	return call->in[APPEND_QKV].dims[0];
}

/* As rope, with a pass more for norms. */
static uint64_t work(const struct op_call *call)
{
	const uint64_t columns = call->in[APPEND_CACHE].dims[4];
	const uint64_t passes = tensor_present(&call->in[APPEND_Q_NORM]) ? 2 : 1;
	const uint64_t heads = call->in[APPEND_QKV].dims[1] / columns;
	const uint64_t head = work_mul(passes, work_add(work_round_up(columns, 32), 16));

	return work_mul(units(call), work_add(columns * 32, work_mul(heads, head)));
}

static void example(struct op_call *call, uint64_t scale)
{
	const uint64_t cache[] = {OP_EXAMPLE_INDEX + 1, 2, 1, KV_TOKENS, 64};
	const uint64_t qkv[] = {scale, 4 * cache[4]};
	const uint64_t table[] = {cache[0], (OP_EXAMPLE_INDEX + KV_TOKENS) / KV_TOKENS};

	tensor_set_shape(&call->in[APPEND_QKV], 2, qkv);
	tensor_set_shape(&call->in[APPEND_POSITIONS], 1, &scale);
	tensor_set_shape(&call->in[APPEND_ROWS], 1, &scale);
	tensor_set_shape(&call->in[APPEND_TABLE], 2, table);
	tensor_set_shape(&call->in[APPEND_CACHE], 5, cache);
}

/* Writes a head, normalised and turned, to element `to` of `out`. */
static void reference_head(const struct op_call *call, uint64_t from, const struct tensor *norm,
	int32_t position, const struct tensor *out, uint64_t to)
{
	const float *x = (const float *)call->in[APPEND_QKV].data + from;
	const uint64_t columns = call->in[APPEND_CACHE].dims[4], half = columns / 2;
	double squares = 0, head[KV_MAX_COLUMNS];

	for (uint64_t i = 0; i < columns; i++)
		squares += (double)x[i] * x[i];
	for (uint64_t i = 0; i < columns; i++) {
		head[i] = x[i];
		if (tensor_present(norm))
			head[i] *= element_get(norm->data, norm->dtype, i) /
				sqrt(squares / (double)columns + call->params[APPEND_EPS].f64);
	}
	for (uint64_t i = 0; i < half; i++) {
		const double a = position * rope_frequency(call->params, i, columns);

		element_set(
			out->data, out->dtype, to + i, head[i] * cos(a) - head[i + half] * sin(a));
		element_set(out->data, out->dtype, to + i + half,
			head[i + half] * cos(a) + head[i] * sin(a));
	}
}

static void reference_row(const struct op_call *call, uint64_t n)
{
	const struct tensor *cache = &call->in[APPEND_CACHE], *qkv = &call->in[APPEND_QKV];
	const uint64_t heads = call->out[0].dims[1], groups = cache->dims[2];
	const uint64_t columns = cache->dims[4], from = n * qkv->dims[1];
	const int32_t position = kv_index(&call->in[APPEND_POSITIONS], n);
	const int64_t slot = append_slot(call, position, kv_index(&call->in[APPEND_ROWS], n));

	for (uint64_t h = 0; h < heads; h++)
		reference_head(call, from + h * columns, &call->in[APPEND_Q_NORM], position,
			&call->out[0], (n * heads + h) * columns);
	for (uint64_t g = 0; slot >= 0 && g < groups; g++) {
		const uint64_t key = (uint64_t)slot + g * KV_TOKENS * columns;
		const uint64_t value = key + groups * KV_TOKENS * columns;

		reference_head(call, from + (heads + g) * columns, &call->in[APPEND_K_NORM],
			position, cache, key);
		for (uint64_t i = 0; i < columns; i++)
			element_set(cache->data, cache->dtype, value + i,
				element_get(qkv->data, GPUQ_F32,
					from + (heads + groups + g) * columns + i));
	}
}

static void reference(const struct op_call *call)
{
	for (uint64_t n = 0; n < units(call); n++)
		reference_row(call, n);
}

ISA_RUN(ISA_FORMS(kv_append))

const struct op op_kv_append = {
	.name = "kv_append",
	.summary = "Turns queries and keys to their positions and puts keys and values into the "
		   "cache.",
	.formula = "q[n,h] = rope(rmsnorm(qkv[n,h]), positions[n]); "
		   "b = table[rows[n],positions[n]/16], s = positions[n] % 16: "
		   "cache[b,0,g,s] = rope(rmsnorm(qkv[n,H+g]), positions[n]), "
		   "cache[b,1,g,s] = qkv[n,H+G+g]",
	.n_inputs = 7,
	.n_outputs = 1,
	.n_params = ROPE_N_PARAMS + 1,
	.inputs = {APPEND_INPUTS},
	.outputs = {{"q", "[N,H,D]", GPUQ_DTYPE_BIT(GPUQ_F32)}},
	.params = {APPEND_PARAMS},
	.infer = infer,
	.units = units,
	.work = work,
	.example = example,
	.reference = reference,
	.cpu = cpu,
};
