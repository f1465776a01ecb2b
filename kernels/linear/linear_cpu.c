/* SPDX-License-Identifier: MIT */
/*
 * linear, the fast form. Lanes run along the inputs, so weights are read as they lie; a tile's VL
 * sums (four outputs of GROUP rows, or more outputs of fewer rows) are folded into one vector at
 * the end of a chunk of CHUNK inputs. Rows of x are first copied to a panel, as many inputs of
 * them as it holds, which a block of outputs then uses while it lies in the nearest cache.
 *
 * How an output is summed depends on the number of inputs alone.
 */
#include "kernels/isa.h"
#include "kernels/linear/linear.h"
#include "kernels/vec.h"

#include <math.h>

#define TALL 4			/* outputs that share a load of x */
#define GROUP (VL / TALL)	/* rows that share a load of weights, at most */
#define ROWS 12			/* of a panel */
#define BLOCK 256		/* outputs that share a panel */
#define CHUNK 512		/* inputs between folds */
#define PANEL (ROWS * CHUNK)	/* floats: 24 KiB */
#define W_BLOCK_BYTES (1 << 20) /* of weights that many rows use: some of the second cache */

_Static_assert(ROWS % GROUP == 0 && CHUNK % VL == 0 && BLOCK % VL == 0, "whole tiles");

struct linear {
	const char *x, *w, *bias; /* bias: NULL when absent, as those below */
	const float *scales, *residual;
	char *y;
	uint64_t rows, outputs, n;
	uint32_t x_dtype, w_dtype, bias_dtype, y_dtype;
};

/* Some inputs of some rows, and the sums of these rows. */
struct panel {
	float x[PANEL] __attribute__((aligned(64)));
	float sums[ROWS][BLOCK], lost[ROWS][BLOCK]; /* see v_total_add() */
	uint64_t row, rows;			    /* of x */
	uint64_t output, outputs;
	uint64_t from, n; /* inputs */
	uint64_t stride;  /* floats from one row to the next */
};

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Bytes of an element of the weights. */
V_INLINE uint64_t w_size(uint32_t dtype)
{
	return dtype == GPUQ_I8 ? 1 : v_size(dtype);
}

V_INLINE vf load_i8(const int8_t *p)
{
#if VL == 16
	return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
#elif VL == 8
	return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
#else
	return (vf){p[0], p[1], p[2], p[3]};
#endif
}

V_INLINE vf load_w(const char *p, uint32_t dtype)
{
	return dtype == GPUQ_I8 ? load_i8((const int8_t *)p) : v_load(p, dtype);
}

/* The first n < VL weights, zeros after them. */
V_INLINE vf load_w_tail(const char *p, uint32_t n, uint32_t dtype)
{
	int8_t few[VL] = {0};

	if (dtype != GPUQ_I8)
		return v_load_tail(p, n, dtype);
	for (uint32_t i = 0; i < n; i++)
		few[i] = (int8_t)p[i];
	return load_i8(few);
}

/* --- Panels --------------------------------------------------------------------------------- */

/* Row `row` of x into row `at` of the panel, with zeros up to its stride. */
V_INLINE void pack_row(
	const struct linear *l, struct panel *p, uint64_t row, uint64_t at, uint32_t dtype)
{
	const char *x = l->x + (row * l->n + p->from) * v_size(dtype);
	float *to = p->x + at * p->stride;
	uint64_t i = 0;

	for (; p->n - i >= VL; i += VL)
		v_store_floats(to + i, v_load(x + i * v_size(dtype), dtype));
	if (p->n > i)
		v_store_floats(
			to + i, v_load_tail(x + i * v_size(dtype), (uint32_t)(p->n - i), dtype));
}

/* The panel's inputs of its rows; beyond them the last one again, up to whole groups. */
static void pack(const struct linear *l, struct panel *p, uint32_t group)
{
	const uint64_t rows = (p->rows + group - 1) / group * group;

	for (uint64_t at = 0; at < rows; at++) {
		const uint64_t row = p->row + least(at, p->rows - 1);

		if (l->x_dtype == GPUQ_F32)
			pack_row(l, p, row, at, GPUQ_F32);
		else if (l->x_dtype == GPUQ_F16)
			pack_row(l, p, row, at, GPUQ_F16);
		else
			pack_row(l, p, row, at, GPUQ_BF16);
	}
}

/* --- Tiles ---------------------------------------------------------------------------------- */

/* sum[c][r] of the products of `rows` rows of x and TALL rows of w over n inputs. */
V_INLINE void multiply(vf sum[GROUP][TALL], const float *x, uint64_t stride,
	const char *const w[TALL], uint64_t n, uint32_t rows, uint32_t dtype)
{
	uint64_t i = 0;

	for (; n - i >= VL; i += VL) {
		vf weights[TALL];

		V_UNROLL
		for (uint32_t r = 0; r < TALL; r++)
			weights[r] = load_w(w[r] + i * w_size(dtype), dtype);
		V_UNROLL
		for (uint32_t c = 0; c < rows; c++) {
			const vf inputs = v_load_floats(x + c * stride + i);

			V_UNROLL
			for (uint32_t r = 0; r < TALL; r++)
				sum[c][r] = v_fma(weights[r], inputs, sum[c][r]);
		}
	}
	if (n == i)
		return;
	V_UNROLL
	for (uint32_t r = 0; r < TALL; r++) {
		const vf weights = load_w_tail(w[r] + i * w_size(dtype), (uint32_t)(n - i), dtype);

		V_UNROLL
		for (uint32_t c = 0; c < rows; c++)
			sum[c][r] = v_fma(weights, v_load_floats(x + c * stride + i), sum[c][r]);
	}
}

/* Adds the sums of a tile over the chunk at `from` of the panel. */
V_INLINE void tile(const struct linear *l, struct panel *p, uint64_t row, uint64_t output,
	uint64_t from, uint32_t rows, uint32_t dtype)
{
	const uint64_t n = least(CHUNK, p->n - from), wide = VL / rows;
	const uint64_t last = p->outputs - 1;
	const bool add = p->from + from > 0;
	vf sums[VL], total = {0}, lost = {0};

	V_UNROLL
	for (uint32_t at = 0; at < VL / rows; at += TALL) {
		vf sum[GROUP][TALL] = {0};
		const char *w[TALL];

		V_UNROLL
		for (uint32_t r = 0; r < TALL; r++)
			w[r] = l->w +
				((p->output + least(output + at + r, last)) * l->n + p->from +
					from) *
					w_size(dtype);
		multiply(sum, p->x + row * p->stride + from, p->stride, w, n, rows, dtype);
		V_UNROLL
		for (uint32_t c = 0; c < rows; c++) {
			V_UNROLL
			for (uint32_t r = 0; r < TALL; r++)
				sums[c * (VL / rows) + at + r] = sum[c][r];
		}
	}
	if (add) {
		for (uint32_t c = 0; c < rows; c++) {
			memcpy((char *)&total + c * wide * 4, &p->sums[row + c][output], wide * 4);
			memcpy((char *)&lost + c * wide * 4, &p->lost[row + c][output], wide * 4);
		}
		v_total_add(&total, &lost, v_sum_rows(sums));
	} else {
		total = v_sum_rows(sums);
	}
	for (uint32_t c = 0; c < rows; c++) {
		memcpy(&p->sums[row + c][output], (char *)&total + c * wide * 4, wide * 4);
		memcpy(&p->lost[row + c][output], (char *)&lost + c * wide * 4, wide * 4);
	}
}

V_INLINE void tiles_of(const struct linear *l, struct panel *p, uint32_t group, uint32_t dtype)
{
	for (uint64_t output = 0; output < p->outputs; output += VL / group) {
		for (uint64_t row = 0; row < p->rows; row += group) {
			for (uint64_t from = 0; from < p->n; from += CHUNK)
				tile(l, p, row, output, from, group, dtype);
		}
	}
}

/* All tiles of a panel, whose rows come in groups of `group`. */
V_INLINE void tiles(const struct linear *l, struct panel *p, uint32_t group, uint32_t dtype)
{
	if (group == 1)
		tiles_of(l, p, 1, dtype);
	else if (group == 2)
		tiles_of(l, p, 2, dtype);
	else
		tiles_of(l, p, GROUP, dtype);
}

static __attribute__((noinline)) void tiles_f32(
	const struct linear *l, struct panel *p, uint32_t group)
{
	tiles(l, p, group, GPUQ_F32);
}

static __attribute__((noinline)) void tiles_f16(
	const struct linear *l, struct panel *p, uint32_t group)
{
	tiles(l, p, group, GPUQ_F16);
}

static __attribute__((noinline)) void tiles_bf16(
	const struct linear *l, struct panel *p, uint32_t group)
{
	tiles(l, p, group, GPUQ_BF16);
}

static __attribute__((noinline)) void tiles_i8(
	const struct linear *l, struct panel *p, uint32_t group)
{
	tiles(l, p, group, GPUQ_I8);
}

/* --- What follows the sums ------------------------------------------------------------------ */

/* The first n elements at p, which is NULL for zeros; n is more than 0. */
static vf load_few(const void *p, uint64_t n, uint32_t dtype)
{
	return n >= VL ? v_load(p, dtype) : v_load_tail(p, (uint32_t)n, dtype);
}

static void finish_row(const struct linear *l, const struct panel *p, uint64_t at)
{
	const uint64_t first = (p->row + at) * l->outputs + p->output;

	for (uint64_t i = 0; i < p->outputs; i += VL) {
		const uint64_t output = p->output + i, left = p->outputs - i;
		vf v = v_load_floats(&p->sums[at][i]);

		if (l->scales != NULL)
			v *= load_few(l->scales + output, left, GPUQ_F32);
		if (l->bias != NULL)
			v += load_few(
				l->bias + output * v_size(l->bias_dtype), left, l->bias_dtype);
		if (l->residual != NULL)
			v += load_few(l->residual + first + i, left, GPUQ_F32);
		/* v_store() has to be spared a NaN with a payload, which residual may hold. */
		if (l->y_dtype == GPUQ_BF16)
			v = v_select(v == v, v, v_set1(NAN));
		v_store(l->y + (first + i) * v_size(l->y_dtype), v, left, l->y_dtype);
	}
}

/* --- Blocks --------------------------------------------------------------------------------- */

/* Outputs of a block: its weights are to stay in a near cache while several panels use them. */
static uint64_t block_outputs(const struct linear *l, uint64_t rows)
{
	const uint64_t fit = W_BLOCK_BYTES / (l->n * w_size(l->w_dtype) + 1);

	if (rows <= ROWS || fit >= BLOCK)
		return BLOCK;
	return fit < 4 * VL ? 4 * VL : fit / VL * VL;
}

/* The rows and outputs of the panel. */
static void run_panel(const struct linear *l, struct panel *p)
{
	const uint32_t group = p->rows > 2 || GROUP < 2 ? GROUP : (uint32_t)p->rows;
	const uint64_t fit = PANEL / ((p->rows + group - 1) / group * group) / CHUNK * CHUNK;

	if (l->n == 0)
		memset(p->sums, 0, sizeof(p->sums));
	for (p->from = 0; p->from < l->n; p->from += fit) {
		p->n = least(fit, l->n - p->from);
		p->stride = (p->n + VL - 1) / VL * VL;
		pack(l, p, group);
		if (l->w_dtype == GPUQ_F32)
			tiles_f32(l, p, group);
		else if (l->w_dtype == GPUQ_F16)
			tiles_f16(l, p, group);
		else if (l->w_dtype == GPUQ_BF16)
			tiles_bf16(l, p, group);
		else
			tiles_i8(l, p, group);
	}
	for (uint64_t at = 0; at < p->rows; at++)
		finish_row(l, p, at);
}

/* Rows [row, row_end) of outputs [output, output_end). */
static void run(const struct linear *l, uint64_t row, uint64_t row_end, uint64_t output,
	uint64_t output_end)
{
	const uint64_t block = block_outputs(l, row_end - row);
	struct panel p;

	for (p.output = output; p.output < output_end; p.output += block) {
		p.outputs = least(block, output_end - p.output);
		for (p.row = row; p.row < row_end; p.row += ROWS) {
			p.rows = least(ROWS, row_end - p.row);
			run_panel(l, &p);
		}
	}
}

void ISA_PASTE(linear_cpu, KERNELS_ISA)(const struct op_call *call, uint64_t begin, uint64_t end)
{
	const struct tensor *in = call->in;
	const struct linear l = {
		.x = in[LINEAR_X].data,
		.w = in[LINEAR_W].data,
		.scales = tensor_present(&in[LINEAR_SCALES]) ? in[LINEAR_SCALES].data : NULL,
		.bias = tensor_present(&in[LINEAR_BIAS]) ? in[LINEAR_BIAS].data : NULL,
		.residual = tensor_present(&in[LINEAR_RESIDUAL]) ? in[LINEAR_RESIDUAL].data : NULL,
		.y = call->out[0].data,
		.rows = call->out[0].dims[0],
		.outputs = call->out[0].dims[1],
		.n = in[LINEAR_W].dims[1],
		.x_dtype = in[LINEAR_X].dtype,
		.w_dtype = in[LINEAR_W].dtype,
		.bias_dtype = in[LINEAR_BIAS].dtype,
		.y_dtype = call->out[0].dtype,
	};
	const uint64_t stripes = (l.rows + LINEAR_ROWS - 1) / LINEAR_ROWS;

	while (begin < end) {
		const uint64_t block = begin / stripes, stripe = begin % stripes;
		/* All rows of several blocks of outputs, or some rows of one. */
		const bool whole = stripe == 0 && end - begin >= stripes;
		const uint64_t count = whole ? (end - begin) / stripes : 1;
		const uint64_t last = whole ? stripes : least(stripes, stripe + end - begin);

		run(&l, stripe * LINEAR_ROWS, least(last * LINEAR_ROWS, l.rows),
			block * LINEAR_OUTPUTS, least((block + count) * LINEAR_OUTPUTS, l.outputs));
		begin += whole ? count * stripes : last - stripe;
	}
}
