/* SPDX-License-Identifier: MIT */
/*
 * paged_attention: softmax(q k^T) v over a paged cache (kernels/kv.h), for one new token of each
 * of several sequences as for many of one.
 *
 *   q [N,H,D] f32, cache [P,2,G,16,D], table [S,L] i32, positions [N] i32, rows [N] i32,
 *   context [C] u8, params scale (f64, 0: 1/sqrt(D)), window (i64, 0: none)
 *   -> y [N,H,D] f32, parts [N,H,ceil(C/256),D+2] f32 (optional; [0,...] where N > 64)
 *   y[n,h] = sum_j softmax_j(scale q[n,h] . k_j) v_j, over the tokens j <= positions[n] of
 *   sequence rows[n], with a window those with j > positions[n] - window
 *   k_j and v_j: those of head h / (H/G) in slot j % 16 of block table[rows[n],j/16]
 *
 * The bytes of `context` are never read, so it may have no data: its length C is a bound on the
 * tokens that a row can see, and makes calls with other bounds other shapes. `parts` is working
 * memory of devices that split long contexts, which they need not do where rows are many; what is
 * in it afterwards means nothing, and the form for the CPU leaves it alone.
 *
 * D is 1 to 256, H a multiple of G. The cache is f32, f16 or bf16. A token at a position from C
 * or 16 L on, or whose block is outside 0..P-1, is as if it were not there; nor is anything for a
 * row outside 0..S-1 or a position below 0. A row that sees nothing gives zeros. Empty tensors are
 * fine. Nothing but what a row sees has a part in its result, neither other rows nor slots beyond
 * its position, and its bits do not depend on what else is in the call.
 *
 * Where a score is NaN or +inf, or all are -inf, the head of that row is NaN; where one is -inf
 * it may be. Values that are not finite spoil their column. No other head or row suffers.
 *
 * Tolerance of the fast forms against the reference, with p the softmax, T the tokens seen and M
 * the greatest of scale sum_d |q_d k_jd| over them:
 * |y - ref| <= (1e-5 + 1e-8 T + 1e-5 M) sum_j p_j |v_j| + 2^-140 + 2^-148 T V, with V the greatest
 * |v_j|. A dot product passes through at most 70 roundings of 2^-24 of M, and the softmax doubles a
 * score's error; sums of weights and of weighted values pass through 64 + T / 64. Weights below
 * 2^-126 have fewer bits, and V times those may be ordinary numbers. Over a call of ordinary values
 * the relative L2 is below 2e-6.
 */
#include "kernels/paged_attention/paged_attention.h"
#include "kernels/element.h"
#include "kernels/isa.h"
#include "kernels/ops.h"
#include "kernels/work.h"

#include <math.h>

#define MIN_UNITS 16 /* where there is as much to share */

static int infer_context(struct op_call *call, uint32_t *ret_arg)
{
	const struct tensor *context = &call->in[ATTENTION_CONTEXT], *q = &call->in[ATTENTION_Q];
	struct tensor *parts = &call->out[ATTENTION_PARTS];

	*ret_arg = ATTENTION_CONTEXT;
	if (context->rank != 1)
		return -GPUQ_ERANK;
	if (!tensor_present(parts))
		return 0;
	parts->rank = 4;
	parts->dims[0] = q->dims[0] <= ATTENTION_PARTS_ROWS ? q->dims[0] : 0;
	parts->dims[1] = q->dims[1];
	parts->dims[2] =
		context->dims[0] / ATTENTION_PART + (context->dims[0] % ATTENTION_PART != 0);
	parts->dims[3] = q->dims[2] + 2;
	return 0;
}

static int infer(struct op_call *call, uint32_t *ret_arg)
{
	const struct tensor *q = &call->in[ATTENTION_Q], *cache = &call->in[ATTENTION_CACHE];
	int err;

	*ret_arg = ATTENTION_Q;
	if (q->rank != 3)
		return -GPUQ_ERANK;
	*ret_arg = ATTENTION_CACHE;
	err = kv_check_cache(cache);
	if (err == 0 && cache->dims[4] != q->dims[2])
		err = -GPUQ_ESHAPE;
	if (err != 0)
		return err;
	if (q->dims[1] % cache->dims[2] != 0) {
		*ret_arg = ATTENTION_Q;
		return -GPUQ_ESHAPE;
	}
	*ret_arg = ATTENTION_TABLE;
	if (call->in[ATTENTION_TABLE].rank != 2)
		return -GPUQ_ERANK;
	for (*ret_arg = ATTENTION_POSITIONS; *ret_arg <= ATTENTION_ROWS; ++*ret_arg) {
		err = kv_check_tokens(&call->in[*ret_arg], q->dims[0]);
		if (err != 0)
			return err;
	}
	tensor_shape_as(&call->out[ATTENTION_Y], q);
	return infer_context(call, ret_arg);
}

/*
 * More rows than sequences: rows that share their keys come one after the other. Else each is of
 * a sequence of its own, and heads are taken together, since their keys lie side by side; but not
 * all of them where few rows have to keep several workers busy.
 */
struct attention_cut attention_cut_of(const struct op_call *call)
{
	const struct tensor *q = &call->in[ATTENTION_Q];
	const uint64_t rows = q->dims[0], heads = call->in[ATTENTION_CACHE].dims[2];
	const uint64_t each = q->dims[1] == 0 ? 1 : q->dims[1] / heads;
	const uint64_t items = ATTENTION_SUMS / work_round_up(q->dims[2], 16);
	uint64_t most = (items < ATTENTION_ITEMS ? items : ATTENTION_ITEMS) / each;
	struct attention_cut cut = {.rows = 1, .heads = 1};

	most = most == 0 ? 1 : most;
	if (rows > call->in[ATTENTION_TABLE].dims[0])
		cut.rows = most;
	else
		cut.heads = work_mul(rows, heads) / MIN_UNITS;
	cut.heads = cut.heads < most ? cut.heads : most;
	cut.heads = cut.heads < heads ? cut.heads : heads;
	cut.heads += cut.heads == 0;
	cut.parts = heads / cut.heads + (heads % cut.heads != 0);
	return cut;
}

/* A unit is a tile of rows for the query heads of some heads of keys. */
static uint64_t units(const struct op_call *call)
{
	const struct attention_cut cut = attention_cut_of(call);
	const uint64_t rows = call->in[ATTENTION_Q].dims[0];

	if (call->in[ATTENTION_Q].dims[1] == 0)
		return 0;
	return work_mul(rows / cut.rows + (rows % cut.rows != 0), cut.parts);
}

/* Each query head with each token that there may be: a product, an exponential, a sum. */
static uint64_t work(const struct op_call *call)
{
	const uint64_t *dims = call->in[ATTENTION_Q].dims;
	const uint64_t token = work_add(work_mul(work_round_up(dims[2], 16), 2), 32);
	const uint64_t head = work_mul(call->in[ATTENTION_CONTEXT].dims[0], token);

	return work_mul(work_mul(dims[0], dims[1]), work_add(head, 128));
}

static void example(struct op_call *call, uint64_t scale)
{
	const uint64_t cache[] = {OP_EXAMPLE_INDEX + 1, 2, 1, KV_TOKENS, 64};
	const uint64_t context = OP_EXAMPLE_INDEX + 1;
	const uint64_t q[] = {scale, 1, cache[4]};
	const uint64_t table[] = {cache[0], (context + KV_TOKENS - 1) / KV_TOKENS};

	tensor_set_shape(&call->in[ATTENTION_Q], 3, q);
	tensor_set_shape(&call->in[ATTENTION_CACHE], 5, cache);
	tensor_set_shape(&call->in[ATTENTION_TABLE], 2, table);
	tensor_set_shape(&call->in[ATTENTION_POSITIONS], 1, &scale);
	tensor_set_shape(&call->in[ATTENTION_ROWS], 1, &scale);
	tensor_set_shape(&call->in[ATTENTION_CONTEXT], 1, &context);
}

struct attention_span attention_span_of(const struct op_call *call, uint64_t n)
{
	const uint64_t length = work_mul(call->in[ATTENTION_TABLE].dims[1], KV_TOKENS);
	const uint64_t context = call->in[ATTENTION_CONTEXT].dims[0];
	const uint64_t window = (uint64_t)call->params[ATTENTION_WINDOW].i64;
	const int32_t position = kv_index(&call->in[ATTENTION_POSITIONS], n);
	struct attention_span span = {.row = kv_index(&call->in[ATTENTION_ROWS], n)};

	if (position < 0 || span.row < 0 || (uint64_t)span.row >= call->in[ATTENTION_TABLE].dims[0])
		return span;
	span.end = (uint64_t)position + 1;
	if (window != 0 && span.end > window)
		span.begin = span.end - window;
	span.end = span.end < context ? span.end : context;
	span.end = span.end < length ? span.end : length;
	if (span.begin >= span.end)
		span.begin = span.end = 0;
	return span;
}

double attention_scale(const struct op_call *call)
{
	const double scale = call->params[ATTENTION_SCALE].f64;

	return scale != 0 ? scale : 1 / sqrt((double)call->in[ATTENTION_Q].dims[2]);
}

/* The element of the cache where the key of a token begins; -1 where there is none. */
static int64_t key_of(const struct op_call *call, int32_t row, uint64_t token, uint64_t group)
{
	const struct tensor *cache = &call->in[ATTENTION_CACHE];
	const int64_t block = kv_block(&call->in[ATTENTION_TABLE], cache, row, token / KV_TOKENS);

	if (block < 0)
		return -1;
	return (int64_t)(kv_at(cache, (uint64_t)block, KV_KEYS, group) +
		token % KV_TOKENS * cache->dims[4]);
}

static double score(const struct op_call *call, uint64_t query, uint64_t key)
{
	const struct tensor *q = &call->in[ATTENTION_Q], *cache = &call->in[ATTENTION_CACHE];
	double sum = 0;

	for (uint64_t d = 0; d < q->dims[2]; d++)
		sum += element_get(q->data, GPUQ_F32, query + d) *
			element_get(cache->data, cache->dtype, key + d);
	return sum * attention_scale(call);
}

/* One head of row n: the greatest score, then the sums. */
static void reference_head(const struct op_call *call, uint64_t n, uint64_t h)
{
	const struct tensor *q = &call->in[ATTENTION_Q], *cache = &call->in[ATTENTION_CACHE];
	const uint64_t columns = q->dims[2], group = h / (q->dims[1] / cache->dims[2]);
	const uint64_t query = (n * q->dims[1] + h) * columns;
	const uint64_t values = cache->dims[2] * KV_TOKENS * columns;
	const struct attention_span span = attention_span_of(call, n);
	double greatest = -INFINITY, total = 0, sums[KV_MAX_COLUMNS] = {0};

	for (uint64_t j = span.begin; j < span.end; j++) {
		const int64_t key = key_of(call, span.row, j, group);

		if (key >= 0)
			greatest = fmax(greatest, score(call, query, (uint64_t)key));
	}
	for (uint64_t j = span.begin; j < span.end; j++) {
		const int64_t key = key_of(call, span.row, j, group);
		double weight;

		if (key < 0)
			continue;
		weight = exp(score(call, query, (uint64_t)key) - greatest);
		total += weight;
		for (uint64_t d = 0; d < columns; d++)
			sums[d] += weight *
				element_get(cache->data, cache->dtype, (uint64_t)key + values + d);
	}
	for (uint64_t d = 0; d < columns; d++)
		((float *)call->out[ATTENTION_Y].data)[query + d] =
			total == 0 ? 0 : (float)(sums[d] / total);
}

static void reference(const struct op_call *call)
{
	const uint64_t *dims = call->in[ATTENTION_Q].dims;

	for (uint64_t n = 0; n < dims[0]; n++) {
		for (uint64_t h = 0; h < dims[1]; h++)
			reference_head(call, n, h);
	}
}

ISA_RUN(ISA_FORMS(paged_attention))

const struct op op_paged_attention = {
	.name = "paged_attention",
	.summary = "Attends to the keys and values of a paged cache.",
	.formula = "y[n,h] = sum_j softmax_j(scale q[n,h] . k_j) v_j, positions[n] - window < j <= "
		   "positions[n]; k_j = cache[b,0,h/(H/G),j%16], v_j = cache[b,1,h/(H/G),j%16], "
		   "b = table[rows[n],j/16]",
	.n_inputs = 6,
	.n_outputs = 2,
	.n_params = 2,
	.inputs = {[ATTENTION_Q] = {"q", "[N,H,D]", GPUQ_DTYPE_BIT(GPUQ_F32)},
		[ATTENTION_CACHE] = {"cache", "[P,2,G,16,D]", FLOAT_DTYPES},
		[ATTENTION_TABLE] = {"table", "[S,L]", GPUQ_DTYPE_BIT(GPUQ_I32)},
		[ATTENTION_POSITIONS] = {"positions", "[N]", GPUQ_DTYPE_BIT(GPUQ_I32)},
		[ATTENTION_ROWS] = {"rows", "[N]", GPUQ_DTYPE_BIT(GPUQ_I32)},
		[ATTENTION_CONTEXT] = {"context", "[C]", GPUQ_DTYPE_BIT(GPUQ_U8)}},
	.outputs = {[ATTENTION_Y] = {"y", "[N,H,D]", GPUQ_DTYPE_BIT(GPUQ_F32)},
		[ATTENTION_PARTS] = {"parts", "[N,H,ceil(C/256),D+2]", GPUQ_DTYPE_BIT(GPUQ_F32),
			.optional = true}},
	.params = {[ATTENTION_SCALE] = {"scale", "of the scores; 0: 1 / sqrt(D)", GPUQ_PARAM_F64, 0,
			   -1e6, 1e6},
		[ATTENTION_WINDOW] = {"window", "tokens that each sees; 0: all before it",
			GPUQ_PARAM_I64, 0, 0, 1ll << 31}},
	.infer = infer,
	.units = units,
	.work = work,
	.example = example,
	.reference = reference,
	.cpu = cpu,
};
