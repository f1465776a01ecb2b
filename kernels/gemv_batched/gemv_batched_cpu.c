/* SPDX-License-Identifier: MIT */
/*
 * gemv_batched, the fast form. Two ways, chosen by the shape of the call alone:
 *
 * - few rows share the weights, or none: each weight is used once or twice, so memory decides;
 *   dot products of VL rows of w at a time (dot.h).
 * - many rows share the weights: a panel of w (PANEL outputs, CHUNK inputs) is transposed so that
 *   lanes run along the outputs, and tiles of TILE rows x PANEL outputs stay in registers. Each
 *   output is accumulated input by input within a chunk, then chunk by chunk.
 */
#include "kernels/dot.h"
#include "kernels/gemv_batched/gemv_batched.h"
#include "kernels/isa.h"

#define PANEL (2 * VL)		/* outputs of a panel */
#define TILE (VL == 16 ? 8 : 4) /* rows of a tile: with two vectors each, what registers hold */
#define CHUNK 64		/* inputs of a panel, and products in a sum of a lane */
#define ROWS 128		/* rows that use a panel before the next chunk replaces it */

_Static_assert(GEMV_BLOCK % PANEL == 0 && CHUNK % VL == 0 && ROWS % TILE == 0, "whole tiles");

struct gemv {
	const char *x, *w, *bias; /* bias: NULL when absent */
	char *y;
	uint64_t batch, outputs, n;
	uint64_t w_batch_bytes; /* from one matrix to the next; 0 when shared */
	uint32_t out_dtype;
};

struct panel {
	float w[CHUNK][PANEL] __attribute__((aligned(64)));
	float x[TILE][CHUNK] __attribute__((aligned(64)));
	vf sums[ROWS][PANEL / VL];
	vf lost[ROWS][PANEL / VL]; /* see v_total_add() */
};

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Where output `output` of a row goes. */
V_INLINE struct dot_out out_at(const struct gemv *g, uint64_t row, uint64_t output, uint32_t dtype)
{
	return (struct dot_out){
		.y = g->y + (row * g->outputs + output) * v_size(g->out_dtype),
		.bias = g->bias == NULL ? NULL : g->bias + output * v_size(dtype),
		.dtype = g->out_dtype,
	};
}

/* Transposes w[first.., from..to) into the panel; outputs above `last` repeat that one. */
V_INLINE void pack_w(const struct gemv *g, struct panel *p, uint64_t first, uint64_t last,
	uint64_t from, uint64_t to, uint32_t dtype)
{
	for (uint32_t column = 0; column < PANEL && first + column <= last; column += VL) {
		for (uint64_t i = from; i < to; i += VL) {
			vf rows[VL];

			V_UNROLL
			for (uint32_t r = 0; r < VL; r++) {
				const uint64_t row = least(first + column + r, last);
				const char *w = g->w + (row * g->n + i) * v_size(dtype);

				rows[r] = to - i >= VL ? v_load(w, dtype)
						       : v_load_tail(w, (uint32_t)(to - i), dtype);
			}
			v_transpose(rows);
			V_UNROLL
			for (uint32_t r = 0; r < VL; r++)
				v_store_floats(&p->w[i - from + r][column], rows[r]);
		}
	}
}

/* Copies `rows` rows of x, as floats and at a constant distance. */
V_INLINE void pack_x(const struct gemv *g, struct panel *p, uint64_t first, uint32_t rows,
	uint64_t from, uint64_t to, uint32_t dtype)
{
	for (uint32_t r = 0; r < rows; r++) {
		const char *x = g->x + (first + r) * g->n * v_size(dtype);
		uint64_t i = from;

		for (; to - i >= VL; i += VL)
			v_store_floats(&p->x[r][i - from], v_load(x + i * v_size(dtype), dtype));
		if (to > i)
			v_store_floats(&p->x[r][i - from],
				v_load_tail(x + i * v_size(dtype), (uint32_t)(to - i), dtype));
	}
}

/* sums[at..at+rows) of the panel's first `vectors` vectors over n packed inputs. */
V_INLINE void tile(
	struct panel *p, uint64_t at, uint32_t rows, uint32_t vectors, uint64_t n, bool add)
{
	vf sum[TILE][2] = {0};

	for (uint64_t i = 0; i < n; i++) {
		V_UNROLL
		for (uint32_t r = 0; r < rows; r++) {
			const vf x = v_set1(p->x[r][i]);
			V_UNROLL
			for (uint32_t v = 0; v < vectors; v++)
				sum[r][v] = v_fma(x, v_load_floats(&p->w[i][v * VL]), sum[r][v]);
		}
	}
	V_UNROLL
	for (uint32_t r = 0; r < rows; r++) {
		V_UNROLL
		for (uint32_t v = 0; v < vectors; v++) {
			vf *to = &p->sums[at + r][v];

			if (add)
				v_total_add(to, &p->lost[at + r][v], sum[r][v]);
			else
				*to = sum[r][v];
		}
	}
}

/* A whole tile, or the greatest power of two of rows that is left; returns how many. */
V_INLINE uint32_t tile_rows(uint64_t left)
{
	uint32_t rows = TILE;

	while (rows > left)
		rows /= 2;
	return rows;
}

V_INLINE void tile_by_rows(
	struct panel *p, uint64_t at, uint32_t rows, uint32_t vectors, uint64_t n, bool add)
{
	switch (rows) {
	case 1:
		tile(p, at, 1, vectors, n, add);
		break;
	case 2:
		tile(p, at, 2, vectors, n, add);
		break;
	case 4:
		tile(p, at, 4, vectors, n, add);
		break;
	default:
		tile(p, at, TILE, vectors, n, add);
		break;
	}
}

/* Not inlined: it is the same for every dtype. */
static __attribute__((noinline)) void run_tile(
	struct panel *p, uint64_t at, uint32_t rows, uint32_t vectors, uint64_t n, bool add)
{
	if (vectors == 1)
		tile_by_rows(p, at, rows, 1, n, add);
	else
		tile_by_rows(p, at, rows, 2, n, add);
}

/* Rows [begin, end), at most ROWS, of outputs first..last, at most PANEL. */
V_INLINE void panel_rows(const struct gemv *g, struct panel *p, uint64_t begin, uint64_t end,
	uint64_t first, uint64_t last, bool packed, uint32_t dtype)
{
	const uint32_t vectors = last - first >= VL ? 2 : 1;

	if (g->n == 0)
		memset(p->sums, 0, sizeof(p->sums));
	if (g->n > CHUNK)
		memset(p->lost, 0, sizeof(p->lost));
	for (uint64_t from = 0; from < g->n; from += CHUNK) {
		const uint64_t to = least(from + CHUNK, g->n);

		if (!packed)
			pack_w(g, p, first, last, from, to, dtype);
		for (uint64_t row = begin; row < end;) {
			const uint32_t rows = tile_rows(end - row);

			pack_x(g, p, row, rows, from, to, dtype);
			run_tile(p, row - begin, rows, vectors, to - from, from > 0);
			row += rows;
		}
	}
	for (uint64_t row = begin; row < end; row++) {
		const struct dot_out out = out_at(g, row, first, dtype);

		for (uint32_t v = 0; v < vectors; v++)
			dot_store(&out, v * VL, last - first + 1 - v * VL, p->sums[row - begin][v],
				dtype);
	}
}

/* Rows [begin, end) of the outputs from `block` on, through panels. */
V_INLINE void block_by_panels(const struct gemv *g, struct panel *p, uint64_t begin, uint64_t end,
	uint64_t block, uint32_t dtype)
{
	const uint64_t stop = least(block + GEMV_BLOCK, g->outputs);

	for (uint64_t first = block; first < stop; first += PANEL) {
		const uint64_t last = least(first + PANEL, stop) - 1;

		for (uint64_t row = begin; row < end; row += ROWS) {
			/* A panel that holds all inputs serves all rows. */
			const bool packed = row > begin && g->n <= CHUNK;

			panel_rows(g, p, row, least(row + ROWS, end), first, last, packed, dtype);
		}
	}
}

/* Rows [begin, end) of the outputs from `block` on, as dot products. */
V_INLINE void block_by_dots(
	const struct gemv *g, uint64_t begin, uint64_t end, uint64_t block, uint32_t dtype)
{
	const uint64_t row_bytes = g->n * v_size(dtype);

	for (uint64_t row = begin; row < end; row++) {
		const struct dot_out out = out_at(g, row, block, dtype);
		const struct dot_rows d = {
			.rows = g->w + row * g->w_batch_bytes + block * row_bytes,
			.vecs = g->x + row * row_bytes,
			.row_bytes = row_bytes,
			.n = g->n,
		};

		dot_run(&d, &out, least(GEMV_BLOCK, g->outputs - block), dtype);
	}
}

V_INLINE void gemv(const struct op_call *call, uint64_t begin, uint64_t end, uint32_t dtype)
{
	const struct tensor *w = &call->in[1];
	const struct gemv g = {
		.x = call->in[0].data,
		.w = w->data,
		.bias = tensor_present(&call->in[2]) ? call->in[2].data : NULL,
		.y = call->out[0].data,
		.batch = call->out[0].dims[0],
		.outputs = call->out[0].dims[1],
		.n = call->in[0].dims[1],
		.w_batch_bytes = w->rank == 3 ? w->dims[1] * w->dims[2] * v_size(dtype) : 0,
		.out_dtype = call->out[0].dtype,
	};
	const bool by_panels = w->rank == 2 && g.batch >= GEMV_PANEL_MIN_ROWS;
	struct panel panel;

	while (begin < end) {
		const uint64_t block = begin / g.batch, row = begin % g.batch;
		const uint64_t rows = least(g.batch - row, end - begin);

		if (by_panels)
			block_by_panels(&g, &panel, row, row + rows, block * GEMV_BLOCK, dtype);
		else
			block_by_dots(&g, row, row + rows, block * GEMV_BLOCK, dtype);
		begin += rows;
	}
}

void ISA_PASTE(gemv_batched_cpu, KERNELS_ISA)(
	const struct op_call *call, uint64_t begin, uint64_t end)
{
	V_WITH_DTYPE(call->in[0].dtype, gemv(call, begin, end, DTYPE));
}
