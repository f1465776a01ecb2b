/* SPDX-License-Identifier: MIT */
/*
 * softmax, the fast form: per row the maximum, then the exponentials and their sum, then the
 * quotients. The exponentials of rows up to ROW_BUFFER are kept; longer rows, which do not stay
 * in the nearest cache anyway, compute them twice rather than read them back from the output.
 */
#include "kernels/exp.h"
#include "kernels/isa.h"

#include <float.h>
#include <math.h>

#define ROW_BUFFER 4096	    /* floats */
#define SUM_CHUNK (32 * VL) /* exponentials: 32 in a sum of a lane */

struct row {
	const char *x;
	char *y;
	uint64_t n;
	float inverse_t; /* 1 / temperature */
	float least;	 /* EXP_MIN * temperature: what is further below the maximum counts as 0 */
};

V_INLINE vf row_max(const struct row *row, uint32_t dtype)
{
	const uint64_t whole = row->n / VL * VL, size = v_size(dtype);
	vf greatest = v_set1(-INFINITY);

	for (uint64_t i = 0; i < whole; i += VL)
		greatest = v_max(greatest, v_load(row->x + i * size, dtype));
	if (row->n > whole) {
		const uint32_t left = (uint32_t)(row->n - whole);
		const vf tail = v_load_tail(row->x + whole * size, left, dtype);

		greatest = v_max(greatest, v_select(v_tail_mask(left), tail, greatest));
	}
	return v_max_lanes(greatest);
}

/* The operand order of the inner maximum keeps a NaN. */
V_INLINE vf row_exp(const struct row *row, vf x, vf greatest)
{
	return v_exp_nonpositive(v_max(v_set1(row->least), x - greatest) * v_set1(row->inverse_t));
}

/* Exponentials of elements from..to-1, also into e unless that is NULL; returns their sum. */
V_INLINE float chunk_sum(
	const struct row *row, vf greatest, uint64_t from, uint64_t to, float *e, uint32_t dtype)
{
	const uint64_t whole = (to - from) / VL * VL, size = v_size(dtype);
	const char *x = row->x + from * size;
	vf sum = {0};

	for (uint64_t i = 0; i < whole; i += VL) {
		const vf v = row_exp(row, v_load(x + i * size, dtype), greatest);

		sum += v;
		if (e != NULL)
			v_store_floats(e + from + i, v);
	}
	if (to - from > whole) {
		const uint32_t left = (uint32_t)(to - from - whole);
		const vf tail = v_load_tail(x + whole * size, left, dtype);
		const vf v = row_exp(row, tail, greatest);

		sum += v_select(v_tail_mask(left), v, (vf){0});
		if (e != NULL)
			v_store_floats(e + from + whole, v);
	}
	return v_sum(sum);
}

/* One over the sum of a row's exponentials; these also into e unless that is NULL. */
V_INLINE float inverse_sum(const struct row *row, vf greatest, float *e, uint32_t dtype)
{
	double sum = 0;

	for (uint64_t from = 0; from < row->n; from += SUM_CHUNK) {
		const uint64_t to = row->n - from > SUM_CHUNK ? from + SUM_CHUNK : row->n;

		sum += chunk_sum(row, greatest, from, to, e, dtype);
	}
	return (float)(1.0 / sum);
}

/* A row whose exponentials fit the buffer. */
V_INLINE void short_row(const struct row *row, float *e, uint32_t dtype, uint32_t out_dtype)
{
	const float inverse = inverse_sum(row, row_max(row, dtype), e, dtype);

	for (uint64_t i = 0; i < row->n; i += VL)
		v_store(row->y + i * v_size(out_dtype), v_load_floats(e + i) * v_set1(inverse),
			row->n - i, out_dtype);
}

V_INLINE void long_row(const struct row *row, uint32_t dtype, uint32_t out_dtype)
{
	const vf greatest = row_max(row, dtype);
	const float inverse = inverse_sum(row, greatest, NULL, dtype);

	for (uint64_t i = 0; i < row->n; i += VL) {
		const char *at = row->x + i * v_size(dtype);
		const uint64_t left = row->n - i;
		const vf x =
			left >= VL ? v_load(at, dtype) : v_load_tail(at, (uint32_t)left, dtype);

		v_store(row->y + i * v_size(out_dtype), row_exp(row, x, greatest) * v_set1(inverse),
			left, out_dtype);
	}
}

V_INLINE void rows(const struct op_call *call, uint64_t begin, uint64_t end, uint32_t dtype,
	uint32_t out_dtype)
{
	const struct tensor *x = &call->in[0];
	const double temperature = call->params[0].f64;
	float e[ROW_BUFFER + VL] __attribute__((aligned(64)));
	struct row row = {
		.n = x->dims[x->rank - 1],
		.inverse_t = (float)(1.0 / temperature),
		.least = (float)fmax((double)EXP_MIN * temperature, -FLT_MAX),
	};

	for (uint64_t i = begin; i < end; i++) {
		row.x = (const char *)x->data + i * row.n * v_size(dtype);
		row.y = (char *)call->out[0].data + i * row.n * v_size(out_dtype);
		if (row.n <= ROW_BUFFER)
			short_row(&row, e, dtype, out_dtype);
		else
			long_row(&row, dtype, out_dtype);
	}
}

void ISA_PASTE(softmax_cpu, KERNELS_ISA)(const struct op_call *call, uint64_t begin, uint64_t end)
{
	const bool wide = call->out[0].dtype == GPUQ_F32;

	V_WITH_DTYPE(call->in[0].dtype, rows(call, begin, end, DTYPE, wide ? GPUQ_F32 : DTYPE));
}
