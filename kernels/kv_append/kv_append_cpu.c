/* SPDX-License-Identifier: MIT */
/*
 * kv_append, the fast form: for each row the cosines and sines of its position once, and with
 * these all its heads of queries and keys.
 */
#include "kernels/isa.h"
#include "kernels/kv_append/kv_append.h"
#include "kernels/rmsnorm/rmsnorm_row.h"
#include "kernels/rope/turn.h"

/* What the rows of a call share. */
struct append {
	const struct op_call *call;
	uint64_t heads, groups, columns;
	double frequencies[KV_MAX_COLUMNS / 2];
};

/* Writes a head of queries or keys, normalised and turned. */
static void write_head(const struct append *a, const struct turns *turns, const float *x,
	const struct tensor *norm, float *y)
{
	float normalised[KV_MAX_COLUMNS];
	const struct rmsnorm_row row = {.x = (const char *)x,
		.weight = norm->data,
		.y = (char *)normalised,
		.n = a->columns,
		.eps = a->call->params[APPEND_EPS].f64};

	if (norm->dtype != 0) {
		rmsnorm_row(&row, (struct rmsnorm_dtypes){GPUQ_F32, norm->dtype, GPUQ_F32, 0});
		x = normalised;
	}
	turn((char *)y, (const char *)x, turns, a->columns / 2, a->columns / 2, GPUQ_F32, GPUQ_F32);
}

/* Rounds a head to the type of the cache and writes it there. */
V_INLINE void store_head(const struct append *a, const float *x, uint64_t element, uint32_t dtype)
{
	char *to = (char *)a->call->in[APPEND_CACHE].data + element * v_size(dtype);

	for (uint64_t i = 0; i < a->columns; i += VL) {
		const uint64_t left = a->columns - i;
		const vf v = left >= VL ? v_load_floats(x + i)
					: v_load_floats_tail(x + i, (uint32_t)left);

		/* A client's NaN can be one that v_to_bf16() does not take. */
		v_store(to + i * v_size(dtype), v_select(v == v, v, v_set1(NAN)), left, dtype);
	}
}

static void store_any(const struct append *a, const float *x, uint64_t element)
{
	V_WITH_DTYPE(a->call->in[APPEND_CACHE].dtype, store_head(a, x, element, DTYPE));
}

static void append_row(const struct append *a, struct turns *turns, uint64_t n)
{
	const struct op_call *call = a->call;
	const uint64_t block = a->groups * KV_TOKENS * a->columns;
	const int32_t position = kv_index(&call->in[APPEND_POSITIONS], n);
	const int64_t slot = append_slot(call, position, kv_index(&call->in[APPEND_ROWS], n));
	const float *x =
		(const float *)call->in[APPEND_QKV].data + n * call->in[APPEND_QKV].dims[1];
	float *q = (float *)call->out[0].data + n * a->heads * a->columns;
	float key[KV_MAX_COLUMNS];

	turns_fill(turns, a->frequencies, a->columns / 2, position);
	for (uint64_t h = 0; h < a->heads; h++, x += a->columns, q += a->columns)
		write_head(a, turns, x, &call->in[APPEND_Q_NORM], q);
	for (uint64_t g = 0; slot >= 0 && g < a->groups; g++, x += a->columns) {
		const uint64_t at = (uint64_t)slot + g * KV_TOKENS * a->columns;

		write_head(a, turns, x, &call->in[APPEND_K_NORM], key);
		store_any(a, key, at);
		store_any(a, x + a->groups * a->columns, at + block);
	}
}

void ISA_PASTE(kv_append_cpu, KERNELS_ISA)(const struct op_call *call, uint64_t begin, uint64_t end)
{
	const uint64_t *dims = call->in[APPEND_CACHE].dims;
	struct append a = {
		.call = call, .heads = call->out[0].dims[1], .groups = dims[2], .columns = dims[4]};
	struct turns turns = {0};

	for (uint64_t i = 0; i < a.columns / 2; i++)
		a.frequencies[i] = rope_frequency(call->params, i, a.columns);
	for (uint64_t n = begin; n < end; n++)
		append_row(&a, &turns, n);
}
