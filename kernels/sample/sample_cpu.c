/* SPDX-License-Identifier: MIT */
/*
 * sample, the fast form. One pass over a row finds the greatest logit, a second one takes 64
 * logits after the other: their exponentials, which add up to the probability's denominator, and
 * their words. Gumbel's logarithms are taken only where they can matter: a word whose w is not
 * below exp(t - best) cannot reach the best score so far, and nearly all are not.
 *
 * What decides about the token is computed without fused multiply-adds, which not every CPU has.
 */
#include "kernels/sample/sample.h"
#include "kernels/exp.h"
#include "kernels/greatest.h"
#include "kernels/isa.h"
#include "kernels/temperature.h"

/* Above every g(r), which ends at 22.9, with room for the roundings of two sums. */
#define GUMBEL_REACH 24.0f

/* --- The generator -------------------------------------------------------------------------- */

typedef uint64_t vw __attribute__((vector_size(VL * 4)));

/* 64-bit products of the lanes 0, 2, 4... */
V_INLINE vw multiply_even(vu a, vu b)
{
#if VL == 16
	return (vw)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif VL == 8
	return (vw)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#else
	return ((vw)a & UINT32_MAX) * ((vw)b & UINT32_MAX);
#endif
}

/* The upper and the lower halves of a * b. */
V_INLINE void multiply(vu a, uint32_t multiplier, vu *high, vu *low)
{
	const vu b = multiplier - (vu){0};
	const vw even = multiply_even(a, b), odd = multiply_even((vu)((vw)a >> 32), b);

	*high = (vu)(even >> 32 | (odd & ~(uint64_t)UINT32_MAX));
	*low = (vu)((even & UINT32_MAX) | odd << 32);
}

/* The words of blocks block..block+VL-1 to words, those of one place side by side. */
V_INLINE void draw_blocks(uint32_t *words, uint32_t block, uint64_t seed, uint64_t step)
{
	uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
	vu c[4] = {(vu)(vi){V_LANES(V_IDENTITY, 0)} + block, (vu){0}, (uint32_t)step - (vu){0},
		(uint32_t)(step >> 32) - (vu){0}};

	for (int round = 0; round < PHILOX_ROUNDS; round++) {
		vu high0, low0, high1, low1;

		multiply(c[0], PHILOX_MULTIPLIER_0, &high0, &low0);
		multiply(c[2], PHILOX_MULTIPLIER_1, &high1, &low1);
		c[0] = high1 ^ c[1] ^ key0;
		c[1] = low1;
		c[2] = high0 ^ c[3] ^ key1;
		c[3] = low0;
		key0 += PHILOX_KEY_STEP_0;
		key1 += PHILOX_KEY_STEP_1;
	}
	V_UNROLL for (int i = 0; i < 4; i++) memcpy(words + i * SAMPLE_BLOCKS, &c[i], sizeof(c[i]));
}

/* --- Gumbel's distribution ------------------------------------------------------------------ */

#define SQRT_HALF_BITS 0x3f3504f3 /* the square root of 1/2 as a float */

/* x = m 2^k with m from the square root of 1/2 to that of 2; x is positive and normal. */
V_INLINE vf split(vf x, vi *k)
{
	*k = ((vi)x - SQRT_HALF_BITS) >> 23;
	return (vf)((vu)x - ((vu)*k << 23));
}

/*
 * k ln 2 + log(1 + f) for |f| <= 0.415: f - f^2 / 2 + f^3 q(f), where q leaves the least relative
 * error (6e-9). One rounding for each operation, in one order.
 */
V_INLINE vf log_of(vi k, vf f)
{
	const vf n = __builtin_convertvector(k, vf), square = f * f;
	vf q = v_set1(-0.0763565153f);

	q = q * f + v_set1(0.127633259f);
	q = q * f + v_set1(-0.131605834f);
	q = q * f + v_set1(0.142015532f);
	q = q * f + v_set1(-0.166232988f);
	q = q * f + v_set1(0.200012341f);
	q = q * f + v_set1(-0.250008225f);
	q = q * f + v_set1(0.333333313f);
	return n * v_set1(LN2_HIGH) +
		(f + (f * square * q + n * v_set1(LN2_LOW) - v_set1(0.5f) * square));
}

/* w of sample.c, of 31 bits of a word. */
V_INLINE vf fraction(vi n)
{
	return (__builtin_convertvector(n, vf) + v_set1(0.5f)) * v_set1(0x1p-31f);
}

/* g(r) of sample.c. */
V_INLINE vf gumbel(vu r)
{
	const vi n = (vi)(r >> 1);
	/* From the complement's bits: those of w would be lost where it is near 1. */
	const vf w = fraction(n), rest = fraction(INT32_MAX - n);
	vi k;
	vf m = split(rest, &k), f, waited;

	f = v_select(k == 0, -w, m - v_set1(1));
	waited = -log_of(k, f);
	m = split(waited, &k);
	return -log_of(k, m - v_set1(1));
}

/* --- Rows ----------------------------------------------------------------------------------- */

struct row {
	const char *x;
	uint64_t n, seed, step;
	float greatest, inverse_t;
	bool greedy;
};

/* Of 64 tokens; t is -inf where there are no more. */
struct group {
	float t[SAMPLE_GROUP], exponentials[SAMPLE_GROUP];
};

struct draw {
	float best; /* score so far */
	float bar;  /* t at and below which no token reaches it */
	float odds; /* exp(-best), and a little more: what roundings of a score may add to it */
	float t;    /* of the token */
	int32_t token;
	double sum; /* of exp(t) */
};

V_INLINE void scale_group(
	struct group *g, const struct row *r, uint64_t from, double *sum, uint32_t dtype)
{
	const vf none = v_set1(-INFINITY), greatest = v_set1(r->greatest);
	vf sums = {0};

	for (uint32_t i = 0; i < SAMPLE_GROUP; i += VL) {
		const uint64_t left = r->n - from > i ? r->n - from - i : 0;
		const char *at = r->x + (from + i) * v_size(dtype);
		vf v = none, e;

		if (left >= VL)
			v = v_load(at, dtype);
		else if (left > 0)
			v = v_select(v_tail_mask((uint32_t)left),
				v_load_tail(at, (uint32_t)left, dtype), none);
		/* The difference of infinities would be a NaN. */
		v = v_select(v == greatest, (vf){0}, (v - greatest) * v_set1(r->inverse_t));
		v = v_max(v, none);
		e = v_exp_nonpositive(v_max(v, v_set1(EXP_MIN)));
		sums += e;
		v_store_floats(g->t + i, v);
		v_store_floats(g->exponentials + i, e);
	}
	*sum += v_sum(sums);
}

static void take_better(
	struct draw *d, const struct row *r, uint64_t token, vf scores, const float *t)
{
	float lanes[VL];

	v_store_floats(lanes, scores);
	for (uint32_t lane = 0; lane < VL && token + lane < r->n; lane++) {
		if (!(lanes[lane] > d->best))
			continue;
		d->best = lanes[lane];
		d->bar = d->best - (r->greedy ? 0 : GUMBEL_REACH);
		d->odds = expf(-d->best) * 1.0001f;
		d->t = t[lane];
		d->token = (int32_t)(token + lane);
	}
}

static void draw_greedily(struct draw *d, const struct row *r, uint64_t from, const struct group *g)
{
	for (uint32_t i = 0; i < SAMPLE_GROUP; i += VL)
		take_better(d, r, from + i, v_load_floats(g->t + i), g->t + i);
}

V_INLINE void draw_group(struct draw *d, const struct row *r, uint64_t from, const struct group *g)
{
	uint32_t words[SAMPLE_GROUP];

	for (uint32_t i = 0; i < SAMPLE_BLOCKS; i += VL)
		draw_blocks(words + i, (uint32_t)(from / SAMPLE_GROUP * SAMPLE_BLOCKS + i), r->seed,
			r->step);
	for (uint32_t i = 0; i < SAMPLE_GROUP; i += VL) {
		const vf reach = v_load_floats(g->exponentials + i) * v_set1(d->odds);
		vu word;

		memcpy(&word, words + i, sizeof(word));
		if (v_any(fraction((vi)(word >> 1)) < reach))
			take_better(
				d, r, from + i, v_load_floats(g->t + i) + gumbel(word), g->t + i);
	}
}

V_INLINE void draw_row(struct draw *d, const struct row *r, uint32_t dtype)
{
	*d = (struct draw){.best = -INFINITY, .bar = -INFINITY, .odds = INFINITY};
	for (uint64_t from = 0; from < r->n; from += SAMPLE_GROUP) {
		struct group g;
		vi reaches = {0};

		scale_group(&g, r, from, &d->sum, dtype);
		for (uint32_t i = 0; i < SAMPLE_GROUP; i += VL)
			reaches |= v_load_floats(g.t + i) > v_set1(d->bar);
		if (!v_any(reaches))
			continue;
		if (r->greedy)
			draw_greedily(d, r, from, &g);
		else
			draw_group(d, r, from, &g);
	}
}

V_INLINE void rows(const struct op_call *call, uint64_t begin, uint64_t end, uint32_t dtype)
{
	float *logprob =
		call->out[SAMPLE_LOGPROB].dtype != 0 ? call->out[SAMPLE_LOGPROB].data : NULL;
	const uint64_t n = call->in[SAMPLE_LOGITS].dims[1];

	for (uint64_t row = begin; row < end; row++) {
		const uint64_t *seed = (const uint64_t *)call->in[SAMPLE_SEEDS].data + row * 2;
		const float temperature = temperature_read(&call->in[SAMPLE_TEMPERATURES], row);
		struct row r = {
			.x = (const char *)call->in[SAMPLE_LOGITS].data + row * n * v_size(dtype),
			.n = n,
			.seed = shm_load_relaxed(&seed[0]),
			.step = shm_load_relaxed(&seed[1]),
			.inverse_t = 1 / temperature_divisor(temperature),
			.greedy = temperature == 0,
		};
		struct draw d = {.t = NAN};

		r.greatest = v_greatest(r.x, n, dtype);
		if (r.greatest > -INFINITY)
			draw_row(&d, &r, dtype);
		((int32_t *)call->out[SAMPLE_TOKEN].data)[row] = d.token;
		if (logprob != NULL)
			logprob[row] = (float)(d.t - log(d.sum));
	}
}

void ISA_PASTE(sample_cpu, KERNELS_ISA)(const struct op_call *call, uint64_t begin, uint64_t end)
{
	V_WITH_DTYPE(call->in[SAMPLE_LOGITS].dtype, rows(call, begin, end, DTYPE));
}
