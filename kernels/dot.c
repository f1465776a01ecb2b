/* SPDX-License-Identifier: MIT */
/*
 * dot.c: dot products of VL rows at a time. Lanes run along the rows; the VL sums of lanes are
 * folded into one vector at the end. A vector that all rows share and that fits a few registers
 * stays there; otherwise groups of rows pass over it in chunks.
 */
#include "kernels/dot.h"

#define DOT_GROUP 4	    /* rows that share one pass over the vector */
#define DOT_CHUNK (64 * VL) /* elements between folds: 32 products in a sum of a lane */
#define DOT_SHORT 4 /* a shared vector of up to so many vectors of lanes stays in registers */

/* Pointers to a group of rows; beyond `left` they repeat the last one. */
V_INLINE void dot_pointers(
	const char *p[DOT_GROUP], const char *first, uint64_t left, uint64_t bytes)
{
	p[0] = first;
	V_UNROLL
	for (uint32_t r = 1; r < DOT_GROUP; r++)
		p[r] = p[r - 1] + (left > r ? bytes : 0);
}

/* Lane sums of a group of rows over n elements. */
V_INLINE void dot_group(const char *const row[DOT_GROUP], const char *const vec[DOT_GROUP],
	uint64_t n, uint32_t dtype, vf *acc)
{
	const uint64_t size = v_size(dtype);
	vf even[DOT_GROUP] = {0}, odd[DOT_GROUP] = {0};
	uint64_t i = 0;

	for (; n - i >= 2 * VL; i += 2 * VL) {
		V_UNROLL
		for (uint32_t r = 0; r < DOT_GROUP; r++) {
			const char *x = row[r] + i * size, *w = vec[r] + i * size;

			even[r] = v_fma(v_load(x, dtype), v_load(w, dtype), even[r]);
			odd[r] = v_fma(
				v_load(x + VL * size, dtype), v_load(w + VL * size, dtype), odd[r]);
		}
	}
	if (n - i >= VL) {
		V_UNROLL
		for (uint32_t r = 0; r < DOT_GROUP; r++)
			even[r] = v_fma(v_load(row[r] + i * size, dtype),
				v_load(vec[r] + i * size, dtype), even[r]);
		i += VL;
	}
	if (n - i > 0) {
		const uint32_t left = (uint32_t)(n - i);
		V_UNROLL
		for (uint32_t r = 0; r < DOT_GROUP; r++)
			odd[r] = v_fma(v_load_tail(row[r] + i * size, left, dtype),
				v_load_tail(vec[r] + i * size, left, dtype), odd[r]);
	}
	V_UNROLL
	for (uint32_t r = 0; r < DOT_GROUP; r++)
		acc[r] = even[r] + odd[r];
}

/* Lane j is the dot product of row first + j, for as many of `count` rows as there are lanes. */
V_INLINE vf dot_tile(
	const struct dot_rows *d, uint64_t first, uint64_t count, bool shared, uint32_t dtype)
{
	vf total = {0}, lost = {0};
	const char *row[DOT_GROUP], *vec[DOT_GROUP];
	vf acc[VL];

	for (uint64_t from = 0; from < d->n; from += DOT_CHUNK) {
		const uint64_t n = d->n - from > DOT_CHUNK ? DOT_CHUNK : d->n - from;
		const uint64_t skip = from * v_size(dtype);
		uint32_t r = 0;

		for (; r < VL && r < count; r += DOT_GROUP) {
			const uint64_t at = first + r, left = count - r;

			dot_pointers(row, d->rows + at * d->row_bytes + skip, left, d->row_bytes);
			dot_pointers(vec, d->vecs + (shared ? 0 : at * d->vec_bytes) + skip,
				shared ? 0 : left, d->vec_bytes);
			dot_group(row, vec, n, dtype, acc + r);
		}
		for (; r < VL; r++)
			acc[r] = (vf){0};
		v_total_add(&total, &lost, v_sum_rows(acc));
	}
	return total;
}

/* Not inlined: once per VL products it costs little, and it has many cases. */
static __attribute__((noinline)) void store(
	const struct dot_out *out, uint64_t i, uint64_t count, vf sums, uint32_t dtype)
{
	dot_store(out, i, count, sums, dtype);
}

/*
 * Vector i of a row of `vectors` vectors; the last one holds `tail` elements, 1 to VL. With masks
 * a part costs what the whole does, without them it takes branches.
 */
V_INLINE vf dot_short_load(
	const char *p, uint32_t i, uint32_t vectors, uint32_t tail, uint32_t dtype)
{
	p += i * VL * v_size(dtype);
	if (i + 1 < vectors || (VL < 16 && tail == VL))
		return v_load(p, dtype);
	return v_load_tail(p, tail, dtype);
}

V_INLINE vf dot_short_row(
	const char *row, const vf *vec, uint32_t vectors, uint32_t tail, uint32_t dtype)
{
	vf sum = dot_short_load(row, 0, vectors, tail, dtype) * vec[0];

	V_UNROLL
	for (uint32_t i = 1; i < vectors; i++)
		sum = v_fma(dot_short_load(row, i, vectors, tail, dtype), vec[i], sum);
	return sum;
}

/* As run(), for a shared vector of `vectors` (a constant) vectors of lanes. */
V_INLINE void dot_run_short(const struct dot_rows *d, const struct dot_out *out, uint64_t count,
	uint32_t vectors, uint32_t dtype)
{
	const uint32_t tail = (uint32_t)(d->n - (vectors - 1) * VL);
	const bool unrolled = VL == 16 || tail == VL; /* no branches within the rows */
	const char *row = d->rows;
	vf vec[DOT_SHORT], acc[VL];
	uint64_t first = 0;

	V_UNROLL
	for (uint32_t i = 0; i < vectors; i++)
		vec[i] = dot_short_load(d->vecs, i, vectors, tail, dtype);
	for (; unrolled && count - first >= VL; first += VL) {
		V_UNROLL
		for (uint32_t r = 0; r < VL; r++, row += d->row_bytes)
			acc[r] = dot_short_row(row, vec, vectors, VL == 16 ? tail : VL, dtype);
		store(out, first, VL, v_sum_rows(acc), dtype);
	}
	for (; first < count; first += VL) {
		const uint32_t rows = count - first < VL ? (uint32_t)(count - first) : VL;

		memset(acc, 0, sizeof(acc));
		V_ROLLED
		for (uint32_t r = 0; r < rows; r++, row += d->row_bytes)
			acc[r] = dot_short_row(row, vec, vectors, tail, dtype);
		store(out, first, rows, v_sum_rows(acc), dtype);
	}
}

V_INLINE void run_tiles(const struct dot_rows *d, const struct dot_out *out, uint64_t count,
	bool shared, uint32_t dtype)
{
	for (uint64_t i = 0; i < count; i += VL)
		store(out, i, count - i, dot_tile(d, i, count - i, shared, dtype), dtype);
}

V_INLINE void run(
	const struct dot_rows *d, const struct dot_out *out, uint64_t count, uint32_t dtype)
{
	if (d->vec_bytes != 0) {
		run_tiles(d, out, count, false, dtype);
		return;
	}
	switch ((d->n + VL - 1) / VL) {
	case 1:
		dot_run_short(d, out, count, 1, dtype);
		break;
	case 2:
		dot_run_short(d, out, count, 2, dtype);
		break;
	case 3:
		dot_run_short(d, out, count, 3, dtype);
		break;
	case 4:
		dot_run_short(d, out, count, 4, dtype);
		break;
	default:
		run_tiles(d, out, count, true, dtype);
		break;
	}
}

void dot_run(const struct dot_rows *d, const struct dot_out *out, uint64_t count, uint32_t dtype)
{
	V_WITH_DTYPE(dtype, run(d, out, count, DTYPE));
}
