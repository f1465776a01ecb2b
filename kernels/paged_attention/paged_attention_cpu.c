/* SPDX-License-Identifier: MIT */
/*
 * paged_attention, the fast form. A unit has up to ATTENTION_ITEMS items, each the query head of a
 * row, which share their keys and values: these are read once, in chunks of CHUNK tokens at
 * multiples of it. For each chunk an item's scores, their greatest, the weights, and with these a
 * sum of values of the chunk's own, which joins the sum so far when that has been scaled to the
 * new greatest. Items go through a chunk in groups for which a key or value is loaded once; what
 * is computed of an item, and in which order, does not depend on its group.
 */
#include "kernels/exp.h"
#include "kernels/isa.h"
#include "kernels/paged_attention/paged_attention.h"

#include <math.h>

#define CHUNK_BLOCKS 4
#define CHUNK (CHUNK_BLOCKS * KV_TOKENS)
#define GROUP_MAX 4
#define STRIP 4 /* vectors of values that a group sums at once */

struct item {
	const float *q;
	float *y;
	uint64_t begin, end; /* the tokens that it sees */
	float greatest, total;
};

struct unit {
	const struct op_call *call;
	uint64_t group; /* the head of keys */
	uint64_t columns;
	float scale;
	uint32_t n_items;
	struct item items[ATTENTION_ITEMS];
	float sums[ATTENTION_ITEMS][KV_MAX_COLUMNS];
	float weights[GROUP_MAX][CHUNK];
};

/* A chunk of a sequence, for all items. */
struct chunk {
	uint64_t first;			  /* token */
	const char *keys[CHUNK_BLOCKS];	  /* NULL: the block is not there */
	const char *values[CHUNK_BLOCKS]; /* likewise */
};

/* What an item sees of a chunk: tokens from..to-1 of it. */
struct sight {
	uint32_t from, to;
};

static struct sight sight_of(const struct item *item, uint64_t first)
{
	struct sight sight = {0, CHUNK};

	if (item->begin >= first + CHUNK || item->end <= first)
		return (struct sight){0, 0};
	if (item->begin > first)
		sight.from = (uint32_t)(item->begin - first);
	if (item->end < first + CHUNK)
		sight.to = (uint32_t)(item->end - first);
	return sight;
}

/* --- Scores ---------------------------------------------------------------------------------- */

V_INLINE vf load(const char *p, uint64_t i, uint64_t n, uint32_t dtype)
{
	const char *at = p + i * v_size(dtype);

	return n - i >= VL ? v_load(at, dtype) : v_load_tail(at, (uint32_t)(n - i), dtype);
}

/* The products of a key with the queries of a group, the lanes of which are yet to be added. */
V_INLINE void multiply(const struct item *items, const char *key, uint64_t columns,
	vf products[GROUP_MAX], uint32_t size, uint32_t dtype)
{
	V_UNROLL
	for (uint32_t r = 0; r < size; r++)
		products[r] = (vf){0};
	for (uint64_t i = 0; i < columns; i += VL) {
		const vf k = load(key, i, columns, dtype);

		V_UNROLL
		for (uint32_t r = 0; r < size; r++)
			products[r] = v_fma(load((const char *)items[r].q, i, columns, GPUQ_F32), k,
				products[r]);
	}
}

/* Scores of VL tokens, the first of which has its key at `key`. */
V_INLINE void score(const struct unit *u, const struct item *items, const char *key,
	float (*weights)[CHUNK], uint32_t size, uint32_t dtype)
{
	const uint64_t bytes = u->columns * v_size(dtype);
	vf lanes[GROUP_MAX][VL], products[GROUP_MAX];

	for (uint32_t t = 0; t < VL; t++) {
		multiply(items, key + t * bytes, u->columns, products, size, dtype);
		V_UNROLL
		for (uint32_t r = 0; r < size; r++)
			lanes[r][t] = products[r];
	}
	for (uint32_t r = 0; r < size; r++)
		v_store_floats(weights[r], v_sum_rows(lanes[r]) * v_set1(u->scale));
}

/* Those of a chunk; -inf where there is no block. All that a block has room for is read. */
V_INLINE void score_chunk(struct unit *u, const struct item *items, const struct chunk *c,
	struct sight sight, uint32_t size, uint32_t dtype)
{
	const uint64_t bytes = u->columns * v_size(dtype);

	for (uint32_t t = 0; t < CHUNK; t += VL) {
		const char *block = c->keys[t / KV_TOKENS];

		if (block != NULL && t < sight.to && t + VL > sight.from) {
			float(*weights)[CHUNK] = (float(*)[CHUNK]) & u->weights[0][t];

			score(u, items, block + t % KV_TOKENS * bytes, weights, size, dtype);
			continue;
		}
		for (uint32_t r = 0; r < size; r++)
			v_store_floats(&u->weights[r][t], v_set1(-INFINITY));
	}
}

/* --- Weights --------------------------------------------------------------------------------- */

/* Whether a token that the item sees is there. */
static bool sees_any(const struct chunk *c, struct sight sight)
{
	for (uint32_t b = 0; b < CHUNK_BLOCKS; b++) {
		if (c->keys[b] != NULL && sight.from < (b + 1) * KV_TOKENS &&
			sight.to > b * KV_TOKENS)
			return true;
	}
	return false;
}

V_INLINE vf mask_scores(vf scores, uint32_t t, struct sight sight)
{
	const vi at = (vi){V_LANES(V_IDENTITY, 0)} + (int32_t)t;
	const vi seen = (at >= (int32_t)sight.from) & (at < (int32_t)sight.to);

	return v_select(seen, scores, v_set1(-INFINITY));
}

/*
 * Turns an item's scores of a chunk into weights relative to its new greatest score, and adds them
 * to its total. Returns the factor for what was summed relative to the old one.
 */
static float weigh(struct item *item, float weights[CHUNK], struct sight sight)
{
	const vf least = v_set1(EXP_MIN);
	vf greatest = v_set1(item->greatest), factor, total = {0};

	for (uint32_t t = 0; t < CHUNK; t += VL) {
		const vf scores = mask_scores(v_load_floats(weights + t), t, sight);

		v_store_floats(weights + t, scores);
		greatest = v_max(greatest, scores);
	}
	greatest = v_max_lanes(greatest);
	/* The operand order of the maximum keeps a NaN. */
	factor = v_exp_nonpositive(v_max(least, v_set1(item->greatest) - greatest));
	for (uint32_t t = 0; t < CHUNK; t += VL) {
		const vf weight =
			v_exp_nonpositive(v_max(least, v_load_floats(weights + t) - greatest));

		v_store_floats(weights + t, weight);
		total += weight;
	}
	item->greatest = greatest[0];
	item->total = item->total * factor[0] + v_sum(total);
	return factor[0];
}

/* --- Values ---------------------------------------------------------------------------------- */

/* Columns of n values from column i on, weighted, for a group. Nothing but what is seen is read. */
V_INLINE void sum_strip(const struct unit *u, const struct chunk *c, struct sight sight, uint64_t i,
	vf sums[GROUP_MAX][STRIP], uint32_t n, uint32_t size, uint32_t dtype)
{
	const uint64_t bytes = u->columns * v_size(dtype);

	for (uint32_t t = sight.from; t < sight.to; t++) {
		const char *value = c->values[t / KV_TOKENS];
		vf v[STRIP];

		if (value == NULL)
			continue;
		value += t % KV_TOKENS * bytes;
		V_UNROLL
		for (uint32_t s = 0; s < n; s++)
			v[s] = load(value, i + s * VL, u->columns, dtype);
		V_UNROLL
		for (uint32_t r = 0; r < size; r++) {
			const vf weight = v_set1(u->weights[r][t]);

			V_UNROLL
			for (uint32_t s = 0; s < n; s++)
				sums[r][s] = v_fma(weight, v[s], sums[r][s]);
		}
	}
}

V_INLINE void add_strip(struct unit *u, const struct chunk *c, struct sight sight, uint32_t first,
	const float factors[GROUP_MAX], uint64_t i, uint32_t n, uint32_t size, uint32_t dtype)
{
	vf sums[GROUP_MAX][STRIP];

	V_UNROLL
	for (uint32_t r = 0; r < size; r++) {
		V_UNROLL
		for (uint32_t s = 0; s < n; s++)
			sums[r][s] = (vf){0};
	}
	sum_strip(u, c, sight, i, sums, n, size, dtype);
	V_UNROLL
	for (uint32_t r = 0; r < size; r++) {
		V_UNROLL
		for (uint32_t s = 0; s < n; s++) {
			float *at = &u->sums[first + r][i + s * VL];

			v_store_floats(
				at, v_fma(v_load_floats(at), v_set1(factors[r]), sums[r][s]));
		}
	}
}

/* --- Chunks ---------------------------------------------------------------------------------- */

/* A chunk for items first..first+size-1, which see the same of it. */
V_INLINE void attend_group(struct unit *u, const struct chunk *c, struct sight sight,
	uint32_t first, uint32_t size, uint32_t dtype)
{
	float factors[GROUP_MAX];
	uint64_t i = 0;

	score_chunk(u, &u->items[first], c, sight, size, dtype);
	for (uint32_t r = 0; r < size; r++)
		factors[r] = weigh(&u->items[first + r], u->weights[r], sight);
	for (; u->columns - i >= STRIP * VL; i += STRIP * VL)
		add_strip(u, c, sight, first, factors, i, STRIP, size, dtype);
	for (; i < u->columns; i += VL)
		add_strip(u, c, sight, first, factors, i, 1, size, dtype);
}

/* How many items from `first` on see what it sees: 4, 2 or 1. */
static uint32_t group_size(const struct unit *u, uint64_t first_token, uint32_t first)
{
	const struct sight sight = sight_of(&u->items[first], first_token);
	uint32_t size = 1;

	while (size < GROUP_MAX && first + size < u->n_items) {
		const struct sight other = sight_of(&u->items[first + size], first_token);

		if (other.from != sight.from || other.to != sight.to)
			break;
		size++;
	}
	return size == 3 ? 2 : size;
}

V_INLINE void attend_chunk(struct unit *u, const struct chunk *c, uint32_t dtype)
{
	uint32_t size;

	for (uint32_t i = 0; i < u->n_items; i += size) {
		const struct sight sight = sight_of(&u->items[i], c->first);

		size = group_size(u, c->first, i);
		if (!sees_any(c, sight))
			continue;
		if (size == 4)
			attend_group(u, c, sight, i, 4, dtype);
		else if (size == 2)
			attend_group(u, c, sight, i, 2, dtype);
		else
			attend_group(u, c, sight, i, 1, dtype);
	}
}

/* Finds the blocks of a chunk: each entry of the table is read once. */
static void find_blocks(const struct unit *u, int32_t row, uint64_t end, struct chunk *c)
{
	const struct tensor *cache = &u->call->in[ATTENTION_CACHE];
	const struct tensor *table = &u->call->in[ATTENTION_TABLE];
	const uint64_t size = v_size(cache->dtype);

	for (uint32_t b = 0; b < CHUNK_BLOCKS; b++) {
		const uint64_t token = c->first + b * KV_TOKENS;
		const int64_t block =
			token < end ? kv_block(table, cache, row, token / KV_TOKENS) : -1;

		c->keys[b] = c->values[b] = NULL;
		if (block < 0)
			continue;
		c->keys[b] = (const char *)cache->data +
			kv_at(cache, (uint64_t)block, KV_KEYS, u->group) * size;
		c->values[b] = (const char *)cache->data +
			kv_at(cache, (uint64_t)block, KV_VALUES, u->group) * size;
	}
}

/* All items of the unit, which are of one sequence. */
V_INLINE void attend(struct unit *u, int32_t row, uint32_t dtype)
{
	uint64_t begin = UINT64_MAX, end = 0;
	struct chunk c;

	for (uint32_t i = 0; i < u->n_items; i++) {
		const struct item *item = &u->items[i];

		if (item->begin == item->end)
			continue;
		begin = item->begin < begin ? item->begin : begin;
		end = item->end > end ? item->end : end;
	}
	for (c.first = begin / CHUNK * CHUNK; c.first < end; c.first += CHUNK) {
		find_blocks(u, row, end, &c);
		attend_chunk(u, &c, dtype);
	}
}

/* --- Units ----------------------------------------------------------------------------------- */

static void item_begin(struct unit *u, const struct attention_span *span, uint64_t query)
{
	struct item *item = &u->items[u->n_items];

	*item = (struct item){
		.q = (const float *)u->call->in[ATTENTION_Q].data + query * u->columns,
		.y = (float *)u->call->out[ATTENTION_Y].data + query * u->columns,
		.begin = span->begin,
		.end = span->end,
		.greatest = -INFINITY,
	};
	memset(u->sums[u->n_items++], 0, sizeof(u->sums[0]));
}

static void items_end(struct unit *u)
{
	for (uint32_t r = 0; r < u->n_items; r++) {
		const struct item *item = &u->items[r];
		/* One that saw nothing has sums of 0. */
		const vf total = v_set1(item->total == 0 ? 1 : item->total);

		for (uint64_t i = 0; i < u->columns; i += VL)
			v_store(item->y + i, v_load_floats(&u->sums[r][i]) / total, u->columns - i,
				GPUQ_F32);
	}
	u->n_items = 0;
}

static void attend_any(struct unit *u, int32_t row)
{
	switch (u->call->in[ATTENTION_CACHE].dtype) {
	case GPUQ_F32:
		attend(u, row, GPUQ_F32);
		break;
	case GPUQ_F16:
		attend(u, row, GPUQ_F16);
		break;
	default:
		attend(u, row, GPUQ_BF16);
		break;
	}
	items_end(u);
}

/* Rows first..end-1: items until there is no room, or the next row is of another sequence. */
static void attend_rows(struct unit *u, uint64_t first, uint64_t end)
{
	const uint64_t all = u->call->in[ATTENTION_Q].dims[1];
	const uint64_t heads = all / u->call->in[ATTENTION_CACHE].dims[2];
	int32_t row = 0;

	u->n_items = 0;
	for (uint64_t n = first; n < end; n++) {
		const struct attention_span span = attention_span_of(u->call, n);

		if (u->n_items > 0 && span.row != row)
			attend_any(u, row);
		row = span.row;
		for (uint64_t h = 0; h < heads; h++) {
			if (u->n_items == ATTENTION_ITEMS)
				attend_any(u, row);
			item_begin(u, &span, n * all + u->group * heads + h);
		}
	}
	if (u->n_items > 0)
		attend_any(u, row);
}

void ISA_PASTE(paged_attention_cpu, KERNELS_ISA)(
	const struct op_call *call, uint64_t begin, uint64_t end)
{
	const uint64_t rows = call->in[ATTENTION_Q].dims[0];
	const uint64_t groups = call->in[ATTENTION_CACHE].dims[2];
	const uint64_t tile = attention_tile(call);
	struct unit u;

	u.call = call;
	u.columns = call->in[ATTENTION_Q].dims[2];
	u.scale = (float)attention_scale(call);
	for (uint64_t i = begin; i < end; i++) {
		const uint64_t first = i / groups * tile;

		u.group = i % groups;
		attend_rows(&u, first, rows - first > tile ? first + tile : rows);
	}
}
