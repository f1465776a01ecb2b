/* SPDX-License-Identifier: MIT */
/*
 * amx.h: sums of products in the tiles of Intel's AMX, for linear. A tile of weights has 64 bytes
 * of each of 16 rows and is loaded as they lie; a tile of x has the same 64 bytes of 16 rows of x,
 * turned: its row k has the k-th four bytes of each. Each element of their product is summed on
 * its own, in one order, so what x has beside a row changes nothing. Included only by sources that
 * are compiled once per instruction set.
 */
#ifndef GPUQ_KERNELS_LINEAR_AMX_H
#define GPUQ_KERNELS_LINEAR_AMX_H

#include "kernels/vec.h"

#define AMX_ROWS 16
#define AMX_ROW_BYTES 64
#define AMX_BYTES (AMX_ROWS * AMX_ROW_BYTES)
#define AMX_COLUMNS 4 /* tiles of x that share a load of weights */

/* Sums, one of each row of the weights and each row of x, f32 or i32. */
typedef vf amx_sums[AMX_ROWS];

/* Before the first and after the last tile of a call. */
static void amx_begin(void)
{
	struct {
		uint8_t palette, start_row, reserved[14];
		uint16_t row_bytes[16];
		uint8_t rows[16];
	} shapes = {.palette = 1};

	for (uint32_t i = 0; i < 8; i++) {
		shapes.row_bytes[i] = AMX_ROW_BYTES;
		shapes.rows[i] = AMX_ROWS;
	}
	_tile_loadconfig(&shapes);
}

static void amx_end(void)
{
	_tile_release();
}

/* The intrinsics do not tell compilers what they read. */
V_INLINE void amx_written(void)
{
	__asm__ volatile("" ::: "memory");
}

/* A tile of x out of 64 bytes of each row. */
V_INLINE void amx_turn(char *tile, vf rows[AMX_ROWS])
{
	v_transpose(rows);
	V_UNROLL
	for (uint32_t i = 0; i < AMX_ROWS; i++)
		memcpy(tile + i * AMX_ROW_BYTES, &rows[i], sizeof(rows[i]));
}

/* Rows of weights, which need not lie at even distances. */
struct amx_weights {
	const char *rows[AMX_ROWS];
	uint64_t bytes; /* of each */
	uint64_t ahead; /* what lies so many bytes behind them is needed next; 0: nothing */
};

/* Loads 64 bytes of each row, zeros where they end, into tile 4. */
static __attribute__((noinline)) void amx_load_apart(const struct amx_weights *w, uint64_t from)
{
	const uint64_t left = w->bytes - from, n = left < AMX_ROW_BYTES ? left : AMX_ROW_BYTES;
	char tile[AMX_ROWS][AMX_ROW_BYTES] = {0};

	for (uint32_t r = 0; r < AMX_ROWS; r++)
		memcpy(tile[r], w->rows[r] + from, n);
	amx_written();
	_tile_loadd(4, tile, AMX_ROW_BYTES);
}

/* The same; stride: that of the rows, 0 where they lie at uneven distances. */
V_INLINE void amx_load_weights(const struct amx_weights *w, uint64_t from, uint64_t stride)
{
	for (uint32_t r = 0; r < AMX_ROWS && w->ahead > 0; r++)
		__builtin_prefetch((const void *)((uintptr_t)w->rows[r] + from + w->ahead), 0, 2);
	if (stride > 0 && w->bytes - from >= AMX_ROW_BYTES)
		_tile_loadd(4, w->rows[0] + from, stride);
	else
		amx_load_apart(w, from);
}

/* Adds to tile `sum` what tile 4 gives with the tile of x at p. */
#define AMX_MULTIPLY(sum, other, p, words)             \
	do {                                           \
		_tile_loadd(other, p, AMX_ROW_BYTES);  \
		if (words)                             \
			_tile_dpbssd(sum, 4, other);   \
		else                                   \
			_tile_dpbf16ps(sum, 4, other); \
	} while (0)

/*
 * sums[c] = w times the tiles of x from x[c] on; of bytes, else of bf16. Columns: at most
 * AMX_COLUMNS.
 */
V_INLINE void amx_multiply(amx_sums *sums, const struct amx_weights *w,
	const char *const x[AMX_COLUMNS], uint32_t columns, bool bytes)
{
	const ptrdiff_t apart = w->rows[1] - w->rows[0];
	uint64_t stride = apart > 0 ? (uint64_t)apart : 0;

	for (uint32_t r = 2; r < AMX_ROWS; r++) {
		if (w->rows[r] - w->rows[r - 1] != apart)
			stride = 0;
	}
	amx_written();
	_tile_zero(0);
	_tile_zero(1);
	_tile_zero(2);
	_tile_zero(3);
	for (uint64_t from = 0, at = 0; from < w->bytes; from += AMX_ROW_BYTES, at += AMX_BYTES) {
		amx_load_weights(w, from, stride);
		AMX_MULTIPLY(0, 5, x[0] + at, bytes);
		if (columns > 1)
			AMX_MULTIPLY(1, 6, x[1] + at, bytes);
		if (columns > 2)
			AMX_MULTIPLY(2, 7, x[2] + at, bytes);
		if (columns > 3)
			AMX_MULTIPLY(3, 5, x[3] + at, bytes);
	}
	_tile_stored(0, sums[0], AMX_ROW_BYTES);
	_tile_stored(1, sums[1], AMX_ROW_BYTES);
	_tile_stored(2, sums[2], AMX_ROW_BYTES);
	_tile_stored(3, sums[3], AMX_ROW_BYTES);
}

#endif
