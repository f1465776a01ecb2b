/* SPDX-License-Identifier: MIT */
/*
 * step_result, the fast form. One pass over a row collects candidates for the top K: logits above
 * a threshold that at least K logits before them reach. When their buffer is full the best K stay
 * and the least of them becomes the threshold, so that a row costs a comparison for each logit
 * and little else, and at worst a constant for each. A second pass sums the exponentials.
 */
#include "kernels/exp.h"
#include "kernels/isa.h"
#include "kernels/step_result/step_result.h"

#include <float.h>
#include <math.h>

#define SUM_CHUNK (32 * VL) /* exponentials: 32 in a sum of a lane */
#define SPARE 64	    /* candidates beyond twice K, for small K */

/* --- The top K ------------------------------------------------------------------------------ */

struct top {
	uint32_t k, n;
	float threshold; /* a candidate is greater; an equal one comes after those that are kept */
	uint64_t keys[2 * STEP_MAX_K + SPARE];
};

/* The greater key is first: the bits of the value in an order as integers, then the lower index. */
static uint64_t key_of(float value, uint64_t i)
{
	const uint32_t bits = float_to_bits(isnan(value) ? -INFINITY : value + 0.0f);
	const uint32_t ordered = (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;

	return (uint64_t)ordered << 32 | (uint32_t)~i;
}

static float key_value(uint64_t key)
{
	const uint32_t ordered = (uint32_t)(key >> 32);

	return float_from_bits((ordered >> 31) != 0 ? ordered & 0x7fffffffu : ~ordered);
}

/*
 * Brings the k greatest of n different keys to the front: parts what is undecided by the highest
 * bit in which it differs, 64 times at most, whatever the keys are.
 */
static void select_greatest(uint64_t *keys, uint32_t n, uint32_t k)
{
	uint32_t begin = 0, end = n;

	while (begin < k && k < end) {
		uint64_t all = UINT64_MAX, any = 0, bit;
		uint32_t middle = begin;

		for (uint32_t i = begin; i < end; i++) {
			all &= keys[i];
			any |= keys[i];
		}
		bit = 1ull << (63 - __builtin_clzll(any & ~all));
		for (uint32_t i = begin; i < end; i++) {
			const uint64_t key = keys[i];

			keys[i] = keys[middle];
			keys[middle] = key;
			middle += (key & bit) != 0;
		}
		if (middle <= k)
			begin = middle;
		else
			end = middle;
	}
}

static void top_prune(struct top *top)
{
	uint64_t least = UINT64_MAX;

	select_greatest(top->keys, top->n, top->k);
	top->n = top->k;
	for (uint32_t i = 0; i < top->k; i++)
		least = top->keys[i] < least ? top->keys[i] : least;
	top->threshold = key_value(least);
}

static void top_add(struct top *top, float value, uint64_t i)
{
	top->keys[top->n++] = key_of(value, i);
	if (top->n == 2 * top->k + SPARE)
		top_prune(top);
}

/* Shell's sort, with Ciura's gaps: no recursion, no memory, no bad case worth the name. */
static void sort_descending(uint64_t *keys, uint32_t n)
{
	static const uint32_t gaps[] = {701, 301, 132, 57, 23, 10, 4, 1};

	for (uint32_t g = 0; g < sizeof(gaps) / sizeof(gaps[0]); g++) {
		for (uint32_t i = gaps[g]; i < n; i++) {
			const uint64_t key = keys[i];
			uint32_t at = i;

			for (; at >= gaps[g] && keys[at - gaps[g]] < key; at -= gaps[g])
				keys[at] = keys[at - gaps[g]];
			keys[at] = key;
		}
	}
}

V_INLINE vf load(const char *x, uint64_t i, uint64_t n, uint32_t dtype)
{
	const char *at = x + i * v_size(dtype);

	return n - i >= VL ? v_load(at, dtype) : v_load_tail(at, (uint32_t)(n - i), dtype);
}

/* Those of the vector at i that are above the threshold. */
static void add_vector(struct top *top, vf v, uint64_t i, uint64_t left)
{
	float values[VL];

	v_store_floats(values, v);
	for (uint32_t lane = 0; lane < VL && lane < left; lane++) {
		if (values[lane] > top->threshold)
			top_add(top, values[lane], i + lane);
	}
}

/* Each logit is looked at once, so that none can be there twice. */
V_INLINE void top_fill(struct top *top, const char *x, uint64_t n, uint32_t dtype)
{
	float values[VL];

	top->n = 0;
	/* The first K, whatever they are. */
	for (uint64_t i = 0; i < top->k; i++) {
		if (i % VL == 0)
			v_store_floats(values, load(x, i, top->k, dtype));
		top->keys[top->n++] = key_of(values[i % VL], i);
	}
	top_prune(top);
	for (uint64_t i = top->k; i < n; i += VL) {
		const vf v = load(x, i, n, dtype);

		if (v_any(v > v_set1(top->threshold)))
			add_vector(top, v, i, n - i);
	}
	top_prune(top);
	sort_descending(top->keys, top->k);
}

/* --- The statistics ------------------------------------------------------------------------- */

struct scores {
	const char *x;
	uint64_t n;
	float greatest;
	float inverse_t; /* 1 / temperature */
	float least;	 /* EXP_MIN * temperature: what is further below the greatest counts as 0 */
};

/* Adds exp(t) and t exp(t) of elements from..to-1, t as in the head of step_result.c. */
V_INLINE void add_chunk(const struct scores *s, uint64_t from, uint64_t to, double *sum,
	double *weighted, uint32_t dtype)
{
	vf sums = {0}, products = {0};

	for (uint64_t i = from; i < to; i += VL) {
		const vf below = load(s->x, i, s->n, dtype) - v_set1(s->greatest);
		/* The operand order of the maximum keeps a NaN. */
		const vf t = v_max(v_set1(s->least), below) * v_set1(s->inverse_t);
		const vf e = v_exp_nonpositive(t);
		const vi mask = to - i >= VL ? (vi){0} == 0 : v_tail_mask((uint32_t)(to - i));

		sums += v_select(mask, e, (vf){0});
		products += v_select(mask, t * e, (vf){0});
	}
	*sum += v_sum(sums);
	*weighted += v_sum(products);
}

V_INLINE void statistics(const struct scores *s, double temperature, float *stats, uint32_t dtype)
{
	double sum = 0, weighted = 0;

	for (uint64_t from = 0; from < s->n; from += SUM_CHUNK)
		add_chunk(s, from, s->n - from > SUM_CHUNK ? from + SUM_CHUNK : s->n, &sum,
			&weighted, dtype);
	stats[0] = (float)(s->greatest / temperature + log(sum));
	stats[1] = (float)(log(sum) - weighted / sum);
}

/* --- Rows ----------------------------------------------------------------------------------- */

static void write_top(const struct op_call *call, const struct top *top, uint64_t row)
{
	float *values = (float *)call->out[STEP_VALUES].data + row * top->k;
	int32_t *tokens = (int32_t *)call->out[STEP_TOKENS].data + row * top->k;

	for (uint32_t i = 0; i < top->k; i++) {
		values[i] = key_value(top->keys[i]);
		tokens[i] = (int32_t) ~(uint32_t)top->keys[i];
	}
}

V_INLINE void rows(const struct op_call *call, uint64_t begin, uint64_t end, uint32_t dtype)
{
	struct top top;
	struct scores s = {.n = call->in[STEP_LOGITS].dims[1]};

	/* The shape says K, as it says how much room there is. */
	top.k = (uint32_t)call->out[STEP_VALUES].dims[1];
	for (uint64_t row = begin; row < end; row++) {
		const double temperature = step_temperature(call, row);

		s.inverse_t = (float)(1.0 / temperature);
		s.least = (float)fmax((double)EXP_MIN * temperature, -FLT_MAX);
		s.x = (const char *)call->in[STEP_LOGITS].data + row * s.n * v_size(dtype);
		top_fill(&top, s.x, s.n, dtype);
		s.greatest = key_value(top.keys[0]);
		write_top(call, &top, row);
		statistics(&s, temperature, (float *)call->out[STEP_STATS].data + row * 2, dtype);
		if (call->in[STEP_IDS].dtype != 0)
			step_named(call, row);
	}
}

void ISA_PASTE(step_result_cpu, KERNELS_ISA)(
	const struct op_call *call, uint64_t begin, uint64_t end)
{
	V_WITH_DTYPE(call->in[STEP_LOGITS].dtype, rows(call, begin, end, DTYPE));
}
