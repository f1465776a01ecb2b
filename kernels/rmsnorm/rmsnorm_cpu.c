/* SPDX-License-Identifier: MIT */
/*
 * rmsnorm, the fast form: per row the sum with the residual and the sum of squares, then the
 * quotients. The second pass reads the sum where the first has left it, so that it may lie where
 * its terms do.
 */
#include "kernels/isa.h"
#include "kernels/vec.h"

#include <float.h>
#include <math.h>

#define SQUARES_CHUNK (32 * VL) /* elements: 32 squares in a sum of a lane */

struct row {
	const char *x, *residual, *weight;
	char *y, *sum;
	uint64_t n;
	double eps;
};

struct dtypes {
	uint32_t x, weight, y;
	uint32_t sum; /* 0: there is no residual */
};

V_INLINE vf load(const char *p, uint64_t i, uint64_t n, uint32_t dtype)
{
	const char *at = p + i * v_size(dtype);

	return n - i >= VL ? v_load(at, dtype) : v_load_tail(at, (uint32_t)(n - i), dtype);
}

/* The elements that the row is made of, as they were stored. */
V_INLINE vf load_summed(const struct row *row, uint64_t i, const struct dtypes t)
{
	return t.sum != 0 ? load(row->sum, i, row->n, t.sum) : load(row->x, i, row->n, t.x);
}

V_INLINE void add_residual(const struct row *row, uint64_t from, uint64_t to, const struct dtypes t)
{
	for (uint64_t i = from; i < to; i += VL)
		v_store(row->sum + i * v_size(t.sum),
			load(row->x, i, row->n, t.x) + load(row->residual, i, row->n, t.x),
			row->n - i, t.sum);
}

V_INLINE double sum_squares(const struct row *row, const struct dtypes t)
{
	double squares = 0;

	for (uint64_t from = 0; from < row->n; from += SQUARES_CHUNK) {
		const uint64_t left = row->n - from;
		const uint64_t to = left > SQUARES_CHUNK ? from + SQUARES_CHUNK : row->n;
		vf sum = {0};

		if (t.sum != 0)
			add_residual(row, from, to, t);
		for (uint64_t i = from; i < to; i += VL) {
			const vf v = load_summed(row, i, t);

			sum = v_fma(v, v, sum);
		}
		squares += v_sum(sum);
	}
	return squares;
}

/* A row whose squares overflow f32, or that holds a NaN or an infinity. */
static void extreme_row(const struct row *row, const struct dtypes t)
{
	const char *summed = t.sum != 0 ? row->sum : row->x;
	const uint32_t dtype = t.sum != 0 ? t.sum : t.x;
	double squares = 0, root;

	for (uint64_t i = 0; i < row->n; i++) {
		const double v = element_get(summed, dtype, i);

		squares += v * v;
	}
	root = sqrt(squares / (double)row->n + row->eps);
	for (uint64_t i = 0; i < row->n; i++)
		element_set(row->y, t.y, i,
			element_get(summed, dtype, i) / root *
				element_get(row->weight, t.weight, i));
}

V_INLINE void normalise(const struct row *row, const struct dtypes t)
{
	const double squares = sum_squares(row, t);
	const vf factor = v_set1((float)(1 / sqrt(squares / (double)row->n + row->eps)));

	if (!(squares <= (double)FLT_MAX)) {
		extreme_row(row, t);
		return;
	}
	for (uint64_t i = 0; i < row->n; i += VL)
		v_store(row->y + i * v_size(t.y),
			load_summed(row, i, t) * factor * load(row->weight, i, row->n, t.weight),
			row->n - i, t.y);
}

V_INLINE void rows(const struct op_call *call, uint64_t begin, uint64_t end, const struct dtypes t)
{
	const struct tensor *x = &call->in[0];
	const uint64_t n = x->dims[x->rank - 1];
	struct row row = {.weight = call->in[1].data, .n = n, .eps = call->params[0].f64};

	for (uint64_t i = begin; i < end; i++) {
		row.x = (const char *)x->data + i * n * v_size(t.x);
		row.y = (char *)call->out[0].data + i * n * v_size(t.y);
		if (t.sum != 0) {
			row.residual = (const char *)call->in[2].data + i * n * v_size(t.x);
			row.sum = (char *)call->out[1].data + i * n * v_size(t.sum);
		}
		normalise(&row, t);
	}
}

void ISA_PASTE(rmsnorm_cpu, KERNELS_ISA)(const struct op_call *call, uint64_t begin, uint64_t end)
{
	const bool added = call->in[2].dtype != 0;
	const struct dtypes t = {.x = call->in[0].dtype,
		.weight = call->in[1].dtype,
		.y = call->out[0].dtype,
		.sum = added ? call->out[1].dtype : 0};

	/* Where all are f32, a form without choices in its loops. */
	if (t.x != GPUQ_F32 || t.weight != GPUQ_F32)
		rows(call, begin, end, t);
	else
		rows(call, begin, end,
			(struct dtypes){GPUQ_F32, GPUQ_F32, GPUQ_F32, added ? GPUQ_F32 : 0});
}
