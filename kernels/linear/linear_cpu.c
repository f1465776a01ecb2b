/* SPDX-License-Identifier: MIT */
/*
 * linear, the fast form. Lanes run along the inputs, so weights are read as they lie; the VL sums
 * of a tile (four outputs of GROUP rows, or more outputs of fewer rows) are folded into one vector
 * at the end of a chunk of inputs. Rows of x are first brought into a panel, as many inputs of
 * them as it holds, which a block of outputs then uses while it lies in the nearest cache.
 *
 * How an output is summed depends on the number of inputs and on the kind of numbers alone:
 *
 * - floats, one product at a time;
 * - bf16 weights and x rounded to bf16, where the CPU multiplies them in pairs and rows are many
 *   enough, or the order is to be the same for any number of them;
 * - i8 weights and x in integers of 15 bits, each chunk of a row with a scale of its own. Their
 *   sums are exact.
 *
 * Where the CPU has tiles (amx.h) bf16 goes through them, any number of rows in one order, and so
 * do many rows beside i8. A panel then has hundreds of rows, since bringing them there costs as
 * much as multiplying them with a hundred outputs.
 *
 * A norm is applied where rows are brought into the panel, as rmsnorm does it. Where outputs are
 * gated, a panel has the sums of some gates, and behind them those of what they let through.
 */
#include "kernels/isa.h"
#include "kernels/linear/linear.h"
#include "kernels/rmsnorm/rmsnorm_row.h"
#include "kernels/swiglu/silu.h"
#include "kernels/vec.h"
#ifdef __AMX_TILE__
#include "kernels/linear/amx.h"
#endif

#include <float.h>
#include <math.h>

#define TALL 4		  /* outputs that share a load of x */
#define GROUP (VL / TALL) /* rows that share a load of weights, at most */
#define PAIR (GROUP < 2 ? GROUP : 2)
#define ROWS 12		 /* of a panel */
#define BLOCK 256	 /* rows of the weights that share a panel */
#define CHUNK_BYTES 2048 /* of a row of the panel, between folds */
#define CHUNKS ROWS	 /* of all rows of a panel: 24 KiB */
#ifdef __AMX_TILE__
#define TILED_ROWS LINEAR_ROWS /* of a panel of tiles: they and their sums fit the second cache */
#define PACKED_ROWS AMX_ROWS   /* at a time */
#define TILE_BYTES_MIN_ROWS 5  /* from so many rows on tiles multiply i8 faster */
#else
#define TILED_ROWS ROWS
#define PACKED_ROWS ROWS
#endif
#define ONE_CHUNKS 6 /* of a single row: more would not stay beside what is fetched */
#define AHEAD 8192   /* bytes that are fetched before one output after the other needs them */
#define W_BLOCK_BYTES (1 << 19) /* of weights that many panels use: what a near cache holds */
#define WORD_MAX 16383.0f	/* sums of 1024 products with 128 fit 31 bits */
#define WORD_LEAST 1e-30f	/* x below it is 0 beside i8 */
#define NORM_PART 1024		/* elements of an extreme row that are normalised at a time */

_Static_assert(ROWS % GROUP == 0 && BLOCK % VL == 0, "whole tiles");

/* What the panel and, in registers, the weights are made of. */
enum numbers {
	FLOATS,
	BF16S, /* pairs */
	WORDS, /* pairs of i16 */
};

struct linear {
	const char *x, *w, *bias, *norm; /* bias: NULL when absent, as those that follow */
	const float *scales, *residual;
	char *y;
	uint64_t rows, outputs, n;
	uint32_t x_dtype, w_dtype, bias_dtype, norm_dtype, y_dtype;
	double eps;
	bool gated;
	enum numbers numbers;
	bool tiled; /* by amx.h */
};

/* Some inputs of some rows, and the sums of these rows. */
struct panel {
	char x[PACKED_ROWS * CHUNK_BYTES] __attribute__((aligned(64)));
#ifdef __AMX_TILE__
	char tiles[TILED_ROWS * CHUNK_BYTES] __attribute__((aligned(64)));
#endif
	vf scales[TILED_ROWS]; /* of words: for each chunk the scales of each group's tile */
	/* Of each tile; see v_total_add(). Outputs of a row lie side by side. */
	vf sums[TILED_ROWS * BLOCK / VL], lost[TILED_ROWS * BLOCK / VL];
	/* Of the norm, of rows from first_row on; a root instead where the factor is NaN. */
	float factors[LINEAR_ROWS];
	double roots[LINEAR_ROWS];
	uint64_t first_row;
	uint64_t row, rows; /* of x */
	uint64_t output, outputs;
	uint64_t w_rows;  /* the outputs', or these twice: the gates and what they let through */
	uint64_t from, n; /* inputs */
	uint64_t stride;  /* bytes from one row to the next */
	uint32_t group;	  /* rows of a tile: 1, 2 or GROUP */
	bool fetch;	  /* the first to use these weights */
	bool packed;	  /* with all inputs of these rows */
};

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Bytes of a number in the panel. */
V_INLINE uint64_t number_size(enum numbers numbers)
{
	return numbers == FLOATS ? 4 : 2;
}

/* Inputs between folds. */
V_INLINE uint64_t chunk_of(enum numbers numbers)
{
	return CHUNK_BYTES / number_size(numbers);
}

/* Bytes of an element of the weights. */
V_INLINE uint64_t w_size(uint32_t dtype)
{
	return dtype == GPUQ_I8 ? 1 : v_size(dtype);
}

/* --- Weights -------------------------------------------------------------------------------- */

V_INLINE vf floats_of_bytes(const int8_t *p)
{
#if VL == 16
	return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
#elif VL == 8
	return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
#else
	return (vf){p[0], p[1], p[2], p[3]};
#endif
}

V_INLINE vf words_of_bytes(const int8_t *p)
{
#if VL == 16
	return (vf)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)p));
#elif VL == 8
	return (vf)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p));
#else
	return floats_of_bytes(p);
#endif
}

/* A vector of weights as numbers. */
V_INLINE vf load_w(const char *p, enum numbers numbers, uint32_t dtype)
{
	if (numbers == WORDS)
		return words_of_bytes((const int8_t *)p);
	if (numbers == BF16S)
		return v_load_floats((const float *)p);
	return dtype == GPUQ_I8 ? floats_of_bytes((const int8_t *)p) : v_load(p, dtype);
}

/* The first n numbers of a vector, at least one fewer than it has, zeros after them. */
V_INLINE vf load_w_tail(const char *p, uint32_t n, enum numbers numbers, uint32_t dtype)
{
	char few[VL * 4] = {0};

	if (numbers == FLOATS && dtype != GPUQ_I8)
		return v_load_tail(p, n, dtype);
#if VL == 16
	if (numbers == BF16S)
		return (vf)_mm512_maskz_loadu_epi16((1u << n) - 1, p);
	return (vf)_mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8((1u << n) - 1, p));
#endif
	for (uint32_t i = 0; i < n; i++)
		few[i] = p[i];
	return load_w(few, numbers, dtype);
}

/* sum + w x; each lane of a pair of products, where numbers are pairs. */
V_INLINE vf multiply_add(vf w, vf x, vf sum, enum numbers numbers)
{
#ifdef __AVX512BF16__
	if (numbers == BF16S)
		return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)w, (__m512bh)x);
#endif
#ifdef __AVX512VNNI__
	if (numbers == WORDS)
		return (vf)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
#elif VL == 16
	if (numbers == WORDS)
		return (vf)((vi)_mm512_madd_epi16((__m512i)w, (__m512i)x) + (vi)sum);
#elif VL == 8
	if (numbers == WORDS)
		return (vf)((vi)_mm256_madd_epi16((__m256i)w, (__m256i)x) + (vi)sum);
#endif
	return v_fma(w, x, sum);
}

/* --- Panels --------------------------------------------------------------------------------- */

/* Inputs of a row. */
struct inputs {
	const char *x, *norm; /* norm: NULL where they are not normalised */
	uint32_t dtype, norm_dtype;
	float factor; /* of the norm */
};

V_INLINE vf load_elements(const char *p, uint64_t i, uint64_t n, uint32_t dtype)
{
	const char *at = p + i * v_size(dtype);

	if (n - i >= VL)
		return v_load(at, dtype);
	return n > i ? v_load_tail(at, (uint32_t)(n - i), dtype) : (vf){0};
}

/* The VL inputs from i on of n, zeros after them. */
V_INLINE vf load_x(const struct inputs in, uint64_t i, uint64_t n)
{
	const vf x = load_elements(in.x, i, n, in.dtype);

	if (in.norm == NULL)
		return x;
	return x * v_set1(in.factor) * load_elements(in.norm, i, n, in.norm_dtype);
}

/* The inputs from i on. */
V_INLINE struct inputs inputs_from(struct inputs in, uint64_t i)
{
	in.x += i * v_size(in.dtype);
	if (in.norm != NULL)
		in.norm += i * v_size(in.norm_dtype);
	return in;
}

/* Loops over whole vectors, without choices, come before what is left of a row. */

V_INLINE void pack_floats(float *to, const struct inputs in, uint64_t n)
{
	uint64_t i = 0;

	for (; i + VL <= n; i += VL)
		v_store_floats(to + i, load_x(in, i, i + VL));
	if (i < n)
		v_store_floats(to + i, load_x(in, i, n));
}

#ifdef __AVX512BF16__
V_INLINE void store_bf16s(uint16_t *to, vf low, vf high)
{
	const __m512bh both = _mm512_cvtne2ps_pbh((__m512)high, (__m512)low);

	memcpy(to, &both, sizeof(both));
}

V_INLINE void pack_bf16s(uint16_t *to, const struct inputs in, uint64_t n)
{
	uint64_t i = 0;

	for (; i + 2 * VL <= n; i += 2 * VL)
		store_bf16s(to + i, load_x(in, i, i + VL), load_x(in, i + VL, i + 2 * VL));
	if (i < n)
		store_bf16s(to + i, load_x(in, i, n), load_x(in, least(i + VL, n), n));
}
#endif

V_INLINE vi greater_bits(vi greatest, vf x)
{
	const vi v = (vi)x & 0x7fffffff;
	const vi greater = v > greatest;

	return (greater & v) | (~greater & greatest);
}

/* The bits of the greatest magnitude, in whose order NaN comes after infinity. */
V_INLINE int32_t greatest_bits(const struct inputs in, uint64_t n)
{
	vi greatest = {0};
	int32_t bits = 0;
	uint64_t at = 0;

	for (; at + VL <= n; at += VL)
		greatest = greater_bits(greatest, load_x(in, at, at + VL));
	if (at < n)
		greatest = greater_bits(greatest, load_x(in, at, n));
	for (uint32_t i = 0; i < VL; i++)
		bits = greatest[i] > bits ? greatest[i] : bits;
	return bits;
}

V_INLINE void store_words(uint16_t *to, vf scaled)
{
	const vf magic = v_set1(ROUND_MAGIC);
	const vi v = (vi)(scaled + magic) - (vi)magic;

	v_store_halves(to, v_narrow((vu)v & 0xffff));
}

/* Returns what a word is worth: NaN where an element is NaN or infinite. */
V_INLINE float pack_words(uint16_t *to, const struct inputs in, uint64_t n)
{
	const float magnitude = float_from_bits((uint32_t)greatest_bits(in, n));
	const float top = magnitude > WORD_LEAST ? magnitude : WORD_LEAST;
	const vf factor = v_set1(WORD_MAX / top);
	uint64_t i = 0;

	for (; i + VL <= n; i += VL)
		store_words(to + i, load_x(in, i, i + VL) * factor);
	if (i < n)
		store_words(to + i, load_x(in, i, n) * factor);
	if (n % (2 * VL) <= VL && n % (2 * VL) > 0)
		v_store_halves(to + (n + VL - 1) / VL * VL, (vh){0});
	return magnitude <= FLT_MAX ? top / WORD_MAX : NAN;
}

/* Inputs of a row of the panel from `from` on, a multiple of a chunk, and zeros after them. */
V_INLINE void pack_part(const struct linear *l, struct panel *p, uint64_t at, uint64_t from,
	const struct inputs in, uint64_t n)
{
	char *to = p->x + at % PACKED_ROWS * p->stride;

	if (l->numbers == FLOATS)
		pack_floats((float *)to + from, in, n);
#ifdef __AVX512BF16__
	if (l->numbers == BF16S)
		pack_bf16s((uint16_t *)to + from, in, n);
#endif
	if (l->numbers != WORDS)
		return;
	for (uint64_t i = 0; i < n; i += chunk_of(WORDS)) {
		const float scale = pack_words((uint16_t *)to + from + i, inputs_from(in, i),
			least(n - i, chunk_of(WORDS)));
		const uint64_t groups = (p->rows + p->group - 1) / p->group;
		vf *scales = &p->scales[(from + i) / chunk_of(WORDS) * groups + at / p->group];

		for (uint32_t lane = 0; lane < VL / p->group; lane++)
			(*scales)[at % p->group * (VL / p->group) + lane] = scale;
	}
}

/* --- A norm --------------------------------------------------------------------------------- */

static struct rmsnorm_row norm_row(const struct linear *l, uint64_t row)
{
	return (struct rmsnorm_row){.x = l->x + row * l->n * sizeof(float),
		.weight = l->norm,
		.n = l->n,
		.eps = l->eps};
}

V_INLINE struct rmsnorm_dtypes norm_dtypes(uint32_t dtype)
{
	return (struct rmsnorm_dtypes){GPUQ_F32, dtype, GPUQ_F32, 0};
}

/* At most LINEAR_ROWS rows' factors. */
static void find_factors(const struct linear *l, struct panel *p, uint64_t first, uint64_t end)
{
	const struct rmsnorm_dtypes dtypes = norm_dtypes(GPUQ_F32);

	p->first_row = first;
	for (uint64_t row = first; row < end; row++) {
		const struct rmsnorm_row normed = norm_row(l, row);
		const float factor = rmsnorm_factor(&normed, dtypes);

		p->factors[row - first] = factor;
		if (isnan(factor))
			p->roots[row - first] = rmsnorm_extreme_root(&normed, dtypes);
	}
}

/* A row whose squares overflow. */
static void pack_extreme_row(const struct linear *l, struct panel *p, uint64_t row, uint64_t at)
{
	const struct rmsnorm_row normed = norm_row(l, row);
	const double root = p->roots[row - p->first_row];
	float part[NORM_PART];
	const struct inputs in = {.x = (const char *)part, .dtype = GPUQ_F32};

	for (uint64_t from = 0; from < p->n; from += NORM_PART) {
		const uint64_t n = least(NORM_PART, p->n - from), begin = p->from + from;

		rmsnorm_extreme_part(
			&normed, root, begin, begin + n, (char *)part, norm_dtypes(l->norm_dtype));
		pack_part(l, p, at, from, in, n);
	}
}

V_INLINE void pack_row(
	const struct linear *l, struct panel *p, uint64_t row, uint64_t at, uint32_t dtype)
{
	const char *x = l->x + (row * l->n + p->from) * v_size(dtype);

	pack_part(l, p, at, 0, (struct inputs){.x = x, .dtype = dtype}, p->n);
}

V_INLINE void pack_normed_row(
	const struct linear *l, struct panel *p, uint64_t row, uint64_t at, uint32_t norm_dtype)
{
	const struct inputs in = {.x = l->x + (row * l->n + p->from) * sizeof(float),
		.dtype = GPUQ_F32,
		.norm = l->norm + p->from * v_size(norm_dtype),
		.norm_dtype = norm_dtype,
		.factor = p->factors[row - p->first_row]};

	pack_part(l, p, at, 0, in, p->n);
}

/* The panel's inputs of some of its rows; beyond them the last one again. */
static void pack(const struct linear *l, struct panel *p, uint64_t begin, uint64_t end)
{
	for (uint64_t at = begin; at < end; at++) {
		const uint64_t row = p->row + least(at, p->rows - 1);

		if (l->norm == NULL)
			V_WITH_DTYPE(l->x_dtype, pack_row(l, p, row, at, DTYPE));
		else if (isnan(p->factors[row - p->first_row]))
			pack_extreme_row(l, p, row, at);
		else
			V_WITH_DTYPE(l->norm_dtype, pack_normed_row(l, p, row, at, DTYPE));
	}
}

/* --- Tiles ---------------------------------------------------------------------------------- */

/* What a tile is made of; constants wherever it is used. */
struct kind {
	enum numbers numbers;
	uint32_t dtype; /* of w */
	uint32_t rows;
	uint32_t outputs; /* at a time: TALL, or 1, which reads weights as they lie */
	bool fetch;	  /* whether weights come from memory */
};

/* Into the second cache, what lies so many bytes behind p, which may be nothing. */
V_INLINE void fetch(const char *p, uint64_t bytes)
{
	__builtin_prefetch((const void *)((uintptr_t)p + bytes), 0, 2);
}

/*
 * sum[c][r] of the products of rows of x and of w over n inputs. What lies `ahead` bytes
 * behind these weights is needed next.
 */
V_INLINE void multiply(vf sum[GROUP][TALL], const char *x, uint64_t stride,
	const char *const w[TALL], uint64_t ahead, uint64_t n, const struct kind k)
{
	const uint64_t step = VL * 4 / number_size(k.numbers);
	const uint64_t w_step = step * w_size(k.dtype);
	const uint64_t whole = n / step;

	for (uint64_t i = 0; i < whole; i++) {
		vf weights[TALL];

		V_UNROLL
		for (uint32_t r = 0; r < k.outputs; r++) {
			if (k.fetch)
				fetch(w[r], i * w_step + ahead);
			weights[r] = load_w(w[r] + i * w_step, k.numbers, k.dtype);
		}
		V_UNROLL
		for (uint32_t c = 0; c < k.rows; c++) {
			const vf inputs = v_load_floats((const float *)(x + c * stride) + i * VL);

			V_UNROLL
			for (uint32_t r = 0; r < k.outputs; r++)
				sum[c][r] = multiply_add(weights[r], inputs, sum[c][r], k.numbers);
		}
	}
	if (n == whole * step)
		return;
	V_UNROLL
	for (uint32_t r = 0; r < k.outputs; r++) {
		const vf weights = load_w_tail(
			w[r] + whole * w_step, (uint32_t)(n - whole * step), k.numbers, k.dtype);

		V_UNROLL
		for (uint32_t c = 0; c < k.rows; c++)
			sum[c][r] = multiply_add(weights,
				v_load_floats((const float *)(x + c * stride) + whole * VL),
				sum[c][r], k.numbers);
	}
}

/* Adds the sums of a chunk to those of the chunks before it. */
V_INLINE void add_total(struct panel *p, uint64_t tile, bool first, vf total)
{
	if (!first) {
		v_total_add(&p->sums[tile], &p->lost[tile], total);
		return;
	}
	p->sums[tile] = total;
	p->lost[tile] = (vf){0};
}

/* The same of sums that are not folded yet. */
V_INLINE void add_sums(struct panel *p, uint64_t tile, uint64_t scales, bool first, vf sums[VL],
	const struct kind k)
{
	vf total;

	if (k.numbers == WORDS)
		total = __builtin_convertvector(v_sum_integer_rows((vi *)sums), vf) *
			p->scales[scales];
	else
		total = v_sum_rows(sums);
	add_total(p, tile, first, total);
}

/* The panel's i-th row of the weights; beyond them the last one again. */
V_INLINE uint64_t w_row(const struct linear *l, const struct panel *p, uint64_t i)
{
	i = least(i, p->w_rows - 1);
	return p->output + (i < p->outputs ? i : l->outputs + i - p->outputs);
}

/* Sums of the products of k.rows rows of the panel and k.outputs outputs over one chunk. */
V_INLINE void part(const struct linear *l, const struct panel *p, uint64_t row, uint64_t output,
	uint64_t from, uint32_t at, vf sums[VL], const struct kind k)
{
	const uint64_t n = least(chunk_of(k.numbers), p->n - from);
	const char *x = p->x + row * p->stride + from * number_size(k.numbers);
	/* Of several outputs, those that follow are fetched. */
	const uint64_t ahead = k.outputs > 1 ? k.outputs * l->n * w_size(k.dtype) : AHEAD;
	vf sum[GROUP][TALL] = {0};
	const char *w[TALL];

	V_UNROLL
	for (uint32_t r = 0; r < k.outputs; r++) {
		w[r] = l->w +
			(w_row(l, p, output + at + r) * l->n + p->from + from) * w_size(k.dtype);
	}
	multiply(sum, x, p->stride, w, ahead, n, k);
	V_UNROLL
	for (uint32_t c = 0; c < k.rows; c++) {
		V_UNROLL
		for (uint32_t r = 0; r < k.outputs; r++)
			sums[c * (VL / k.rows) + at + r] = sum[c][r];
	}
}

/* A tile: VL / k.rows outputs, k.outputs at a time, over all inputs of the panel. */
V_INLINE void tile(const struct linear *l, struct panel *p, uint64_t group, uint64_t output,
	uint64_t at, const struct kind k)
{
	const uint64_t groups = (p->rows + k.rows - 1) / k.rows, chunk = chunk_of(k.numbers);
	vf sums[CHUNKS][VL], few[VL];

	/* The usual case of many rows, all in registers. */
	if (p->n <= chunk && VL / k.rows == k.outputs) {
		part(l, p, group * k.rows, output, 0, 0, few, k);
		add_sums(p, at, group, p->from == 0, few, k);
		return;
	}
	for (uint32_t i = 0; i < VL / k.rows; i += k.outputs) {
		for (uint64_t c = 0; c * chunk < p->n; c++)
			part(l, p, group * k.rows, output, c * chunk, i, sums[c], k);
	}
	for (uint64_t c = 0; c * chunk < p->n; c++)
		add_sums(p, at, c * groups + group, p->from + c == 0, sums[c], k);
}

V_INLINE void tiles(const struct linear *l, struct panel *p, const struct kind k)
{
	const uint64_t groups = (p->rows + k.rows - 1) / k.rows;
	struct kind fetching = k;
	uint64_t at = 0;

	fetching.fetch = true;
	for (uint64_t output = 0; output < p->w_rows; output += VL / k.rows) {
		for (uint64_t group = 0; group < groups; group++, at++) {
			if (p->fetch && group == 0 && !k.fetch)
				tile(l, p, group, output, at, fetching);
			else
				tile(l, p, group, output, at, k);
		}
	}
}

/*
 * Few rows are multiplied faster than weights come from memory, and those come fastest in the
 * order in which they lie: one output after the other. Not those of f32, which are as fast side
 * by side.
 */
V_INLINE bool one_by_one(const struct linear *l, const struct panel *p, enum numbers numbers)
{
	const uint64_t few = numbers == BF16S ? GROUP : PAIR;

	return p->fetch && p->rows <= few && l->w_dtype != GPUQ_F32 &&
		l->n <= ONE_CHUNKS * chunk_of(numbers) && p->n == l->n;
}

/* Not inlined: each has a dozen of loops. */
#define TILES(name, numbers, dtype)                                                         \
	static __attribute__((noinline)) void name(const struct linear *l, struct panel *p) \
	{                                                                                   \
		const bool one = one_by_one(l, p, numbers);                                 \
                                                                                            \
		if (p->group == 1 && one)                                                   \
			tiles(l, p, (struct kind){numbers, dtype, 1, 1, true});             \
		else if (p->group == 1)                                                     \
			tiles(l, p, (struct kind){numbers, dtype, 1, TALL, true});          \
		else if (p->group == PAIR && one)                                           \
			tiles(l, p, (struct kind){numbers, dtype, PAIR, 1, true});          \
		else if (p->group == PAIR)                                                  \
			tiles(l, p, (struct kind){numbers, dtype, PAIR, TALL, true});       \
		else if (numbers == BF16S && one)                                           \
			tiles(l, p, (struct kind){numbers, dtype, GROUP, 1, true});         \
		else                                                                        \
			tiles(l, p, (struct kind){numbers, dtype, GROUP, TALL, false});     \
	}

TILES(tiles_f32, FLOATS, GPUQ_F32)
TILES(tiles_f16, FLOATS, GPUQ_F16)
TILES(tiles_bf16, FLOATS, GPUQ_BF16)
#if defined(__AVX512BF16__) && !defined(__AMX_TILE__)
TILES(tiles_bf16s, BF16S, GPUQ_BF16)
#endif
#if VL > 4
TILES(tiles_i8, WORDS, GPUQ_I8)
#else
TILES(tiles_i8, FLOATS, GPUQ_I8)
#endif

static void run_tiles(const struct linear *l, struct panel *p)
{
#if defined(__AVX512BF16__) && !defined(__AMX_TILE__)
	if (l->numbers == BF16S) {
		tiles_bf16s(l, p);
		return;
	}
#endif
	if (l->w_dtype == GPUQ_F32)
		tiles_f32(l, p);
	else if (l->w_dtype == GPUQ_F16)
		tiles_f16(l, p);
	else if (l->w_dtype == GPUQ_BF16)
		tiles_bf16(l, p);
	else
		tiles_i8(l, p);
}

/* --- AMX ------------------------------------------------------------------------------------ */

#ifdef __AMX_TILE__
/* Tiles of a row: a word is 128 times a byte plus another one. */
V_INLINE uint64_t planes_of(enum numbers numbers)
{
	return numbers == WORDS ? 2 : 1;
}

/* Where the tiles of a column begin: of 16 rows, or of one of the bytes of their words. */
V_INLINE char *column(struct panel *p, uint64_t i, enum numbers numbers)
{
	return p->tiles + i * (AMX_ROWS * CHUNK_BYTES / planes_of(numbers));
}

static void turn_bf16s(struct panel *p, uint64_t group)
{
	char *to = column(p, group, BF16S);

	for (uint64_t at = 0; at < p->stride; at += AMX_ROW_BYTES, to += AMX_BYTES) {
		vf rows[AMX_ROWS];

		V_UNROLL
		for (uint32_t r = 0; r < AMX_ROWS; r++)
			memcpy(&rows[r], p->x + r * p->stride + at, sizeof(rows[r]));
		amx_turn(to, rows);
	}
}

/* 32 words from p on, or zeros beyond the end: how often they have 128, and what is left. */
V_INLINE void split_words(const char *p, const char *end, __m256i *ret_high, __m256i *ret_low)
{
	__m512i v = _mm512_setzero_si512();

	if (p < end)
		memcpy(&v, p, sizeof(v));
	*ret_high = _mm512_cvtepi16_epi8(_mm512_srai_epi16(v, 7));
	*ret_low = _mm512_cvtepi16_epi8(_mm512_and_si512(v, _mm512_set1_epi16(127)));
}

static void turn_words(struct panel *p, uint64_t group)
{
	char *high = column(p, 2 * group, WORDS), *low = column(p, 2 * group + 1, WORDS);

	for (uint64_t at = 0; at < p->stride; at += 2 * AMX_ROW_BYTES) {
		vf highs[AMX_ROWS], lows[AMX_ROWS];

		for (uint32_t r = 0; r < AMX_ROWS; r++) {
			const char *row = p->x + r * p->stride, *end = row + p->stride;
			__m256i halves[4];

			split_words(row + at, end, &halves[0], &halves[2]);
			split_words(row + at + AMX_ROW_BYTES, end, &halves[1], &halves[3]);
			memcpy(&highs[r], &halves[0], sizeof(highs[r]));
			memcpy(&lows[r], &halves[2], sizeof(lows[r]));
		}
		amx_turn(high, highs);
		amx_turn(low, lows);
		high += AMX_BYTES;
		low += AMX_BYTES;
	}
}

/* The panel's inputs of its rows, zeros beyond them, as tiles. */
static void pack_tiles(const struct linear *l, struct panel *p)
{
	for (uint64_t row = 0; row < p->rows; row += AMX_ROWS) {
		const uint64_t n = least(AMX_ROWS, p->rows - row);

		pack(l, p, row, row + n);
		memset(p->x + n * p->stride, 0, (AMX_ROWS - n) * p->stride);
		if (l->numbers == WORDS)
			turn_words(p, row / AMX_ROWS);
		else
			turn_bf16s(p, row / AMX_ROWS);
	}
}

/* The sums of 16 rows of the weights and of some of x, of which each has its own tile of sums. */
V_INLINE void add_columns(
	struct panel *p, uint64_t row, uint64_t at, amx_sums *sums, enum numbers numbers)
{
	vf rows[AMX_ROWS];

	for (uint32_t r = 0; r < AMX_ROWS; r++) {
		const vi high = (vi)sums[0][r];

		rows[r] = sums[0][r];
		if (numbers == WORDS)
			rows[r] = __builtin_convertvector(high * 128 + (vi)sums[1][r], vf);
	}
	v_transpose(rows);
	for (uint64_t i = 0; i < AMX_ROWS && row + i < p->rows; i++) {
		if (numbers == WORDS)
			rows[i] *= p->scales[row + i];
		add_total(p, at + row + i, p->from == 0, rows[i]);
	}
}

V_INLINE void run_columns(const struct linear *l, struct panel *p, enum numbers numbers)
{
	const uint64_t planes = planes_of(numbers), size = w_size(l->w_dtype);
	const uint64_t columns = (p->rows + AMX_ROWS - 1) / AMX_ROWS * planes;
	struct amx_weights w = {.bytes = p->n * size};

	for (uint64_t output = 0, at = 0; output < p->w_rows; output += AMX_ROWS, at += p->rows) {
		for (uint32_t r = 0; r < AMX_ROWS; r++)
			w.rows[r] = l->w + (w_row(l, p, output + r) * l->n + p->from) * size;
		w.ahead = p->fetch ? AMX_ROWS * l->n * size : 0;
		for (uint64_t c = 0; c < columns; c += AMX_COLUMNS) {
			const uint64_t n = least(AMX_COLUMNS, columns - c);
			const char *x[AMX_COLUMNS] = {NULL};
			amx_sums sums[AMX_COLUMNS];

			for (uint64_t i = 0; i < n; i++)
				x[i] = column(p, c + i, numbers);
			amx_multiply(sums, &w, x, (uint32_t)n, numbers == WORDS);
			for (uint64_t i = 0; i < n; i += planes)
				add_columns(p, (c + i) / planes * AMX_ROWS, at, sums + i, numbers);
			w.ahead = 0;
		}
	}
}

static __attribute__((noinline)) void run_bf16_columns(const struct linear *l, struct panel *p)
{
	run_columns(l, p, BF16S);
}

static __attribute__((noinline)) void run_word_columns(const struct linear *l, struct panel *p)
{
	run_columns(l, p, WORDS);
}
#endif

/* --- What follows the sums ------------------------------------------------------------------ */

/* The first of n > 0 elements at p. */
static vf load_few(const void *p, uint64_t n, uint32_t dtype)
{
	return n >= VL ? v_load(p, dtype) : v_load_tail(p, (uint32_t)n, dtype);
}

/* The sums of a row, side by side. */
static void gather_row(const struct panel *p, uint64_t at, float *to)
{
	const uint64_t groups = (p->rows + p->group - 1) / p->group, wide = VL / p->group;
	const vf *tile = p->sums + at / p->group;

	for (uint64_t i = 0; i < p->w_rows; i += wide, tile += groups)
		memcpy(to + i, (const float *)tile + at % p->group * wide, wide * sizeof(*to));
}

/* Sums of rows of the weights with their scales and biases; `left` of them count. */
static vf finish_sums(const struct linear *l, const float *sums, uint64_t first, uint64_t left)
{
	vf v = v_load_floats(sums);

	if (l->scales != NULL)
		v *= load_few(l->scales + first, left, GPUQ_F32);
	if (l->bias != NULL)
		v += load_few(l->bias + first * v_size(l->bias_dtype), left, l->bias_dtype);
	return v;
}

static void finish_row(const struct linear *l, const struct panel *p, uint64_t at)
{
	const uint64_t first = (p->row + at) * l->outputs + p->output;
	float sums[BLOCK + VL];

	gather_row(p, at, sums);
	for (uint64_t i = 0; i < p->outputs; i += VL) {
		const uint64_t output = p->output + i, left = p->outputs - i;
		vf v = finish_sums(l, sums + i, output, left);

		if (l->gated)
			v = silu(v) *
				finish_sums(l, sums + p->outputs + i, l->outputs + output, left);
		if (l->residual != NULL)
			v += load_few(l->residual + first + i, left, GPUQ_F32);
		/* v_store() has to be spared a NaN with a payload, which residual may hold. */
		if (l->y_dtype == GPUQ_BF16)
			v = v_select(v == v, v, v_set1(NAN));
		v_store(l->y + (first + i) * v_size(l->y_dtype), v, left, l->y_dtype);
	}
}

/* --- Blocks --------------------------------------------------------------------------------- */

/* Rows of the weights of a block: they stay in a near cache while several panels use them. */
static uint64_t block_rows(const struct linear *l, uint64_t rows)
{
	const uint64_t fit = W_BLOCK_BYTES / (l->n * w_size(l->w_dtype) + 1);

	if (rows <= ROWS || fit >= BLOCK || l->tiled)
		return BLOCK;
	return fit < 4 * VL ? 4 * VL : fit / VL * VL;
}

/* Inputs from p->from on, of all rows and outputs of the panel. */
static void run_part(const struct linear *l, struct panel *p)
{
	const uint64_t rows = (p->rows + p->group - 1) / p->group * p->group;
	const uint64_t fit = l->tiled ? 1 : CHUNKS / rows;
	const uint64_t line = 64 / number_size(l->numbers);

	p->n = least(fit * chunk_of(l->numbers), l->n - p->from);
	p->stride = (p->n + line - 1) / line * 64;
#ifdef __AMX_TILE__
	if (l->tiled) {
		if (!p->packed)
			pack_tiles(l, p);
		if (l->numbers == WORDS)
			run_word_columns(l, p);
		else
			run_bf16_columns(l, p);
		return;
	}
#endif
	if (!p->packed)
		pack(l, p, 0, rows);
	run_tiles(l, p);
}

/* The rows and outputs of the panel. */
static void run_panel(const struct linear *l, struct panel *p)
{
	p->group = p->rows > 2 || GROUP < 2 ? GROUP : (uint32_t)p->rows;
	if (l->tiled)
		p->group = 1;
	if (l->n == 0)
		memset(p->sums, 0, sizeof(p->sums));
	for (p->from = 0; p->from < l->n; p->from += p->n)
		run_part(l, p);
	for (uint64_t at = 0; at < p->rows; at++)
		finish_row(l, p, at);
}

/* Rows [row, row_end) of outputs [output, output_end). */
static void run_rows(const struct linear *l, struct panel *p, uint64_t row, uint64_t row_end,
	uint64_t output, uint64_t output_end)
{
	const uint64_t parts = l->gated ? 2 : 1, block = block_rows(l, row_end - row) / parts;
	const uint64_t rows = l->tiled ? TILED_ROWS : ROWS;

	p->packed = false;
	for (p->output = output; p->output < output_end; p->output += block) {
		p->outputs = least(block, output_end - p->output);
		p->w_rows = parts * p->outputs;
		for (p->row = row; p->row < row_end; p->row += rows) {
			p->rows = least(rows, row_end - p->row);
			p->fetch = p->row == row;
			run_panel(l, p);
		}
		p->packed = row_end - row <= rows && l->n > 0 && p->n == l->n;
	}
}

static void run(const struct linear *l, uint64_t row, uint64_t row_end, uint64_t output,
	uint64_t output_end)
{
	const uint64_t step = l->norm != NULL ? LINEAR_ROWS : row_end - row;
	struct panel p;

	for (uint64_t end; row < row_end; row = end) {
		end = least(row + step, row_end);
		if (l->norm != NULL)
			find_factors(l, &p, row, end);
		run_rows(l, &p, row, end, output, output_end);
	}
}

static enum numbers choose_numbers(const struct op_call *call)
{
	if (VL > 4 && call->in[LINEAR_W].dtype == GPUQ_I8)
		return WORDS;
#ifdef __AVX512BF16__
	if (linear_pairs(call))
		return BF16S;
#endif
	return FLOATS;
}

/* Tiles have an order of their own for bf16; integers are exact, so the faster way is free. */
static bool choose_tiles(const struct op_call *call)
{
#ifdef __AMX_TILE__
	const enum numbers numbers = choose_numbers(call);

	return numbers == BF16S ||
		(numbers == WORDS && call->out[0].dims[0] >= TILE_BYTES_MIN_ROWS);
#else
	return false;
#endif
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
		.norm = tensor_present(&in[LINEAR_NORM]) ? in[LINEAR_NORM].data : NULL,
		.y = call->out[0].data,
		.rows = call->out[0].dims[0],
		.outputs = call->out[0].dims[1],
		.n = linear_inner(call),
		.x_dtype = in[LINEAR_X].dtype,
		.w_dtype = in[LINEAR_W].dtype,
		.bias_dtype = in[LINEAR_BIAS].dtype,
		.norm_dtype = in[LINEAR_NORM].dtype,
		.eps = call->params[LINEAR_EPS].f64,
		.gated = linear_gated(call),
		.y_dtype = call->out[0].dtype,
		.numbers = choose_numbers(call),
		.tiled = choose_tiles(call),
	};
	const uint64_t stripes = (l.rows + LINEAR_ROWS - 1) / LINEAR_ROWS;

#ifdef __AMX_TILE__
	if (l.tiled)
		amx_begin();
#endif
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
#ifdef __AMX_TILE__
	if (l.tiled)
		amx_end();
#endif
}
