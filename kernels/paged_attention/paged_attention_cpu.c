/* SPDX-License-Identifier: MIT */
/*
 * paged_attention, the fast form. A unit has up to ATTENTION_ITEMS items, each the query head of a
 * row: many rows of one sequence for a head of keys, which then share what they read, or one row
 * for many heads of keys, which lie beside each other in a block. They go through their tokens in
 * chunks of CHUNK at multiples of it: scores, the greatest of them, weights, and with these a sum
 * of values of the chunk's own, which joins the sum so far when that has been scaled to the new
 * greatest. Items go in groups for which a key or a value is loaded once; what is computed of an
 * item, and in which order, does not depend on its group.
 */
#include "kernels/exp.h"
#include "kernels/isa.h"
#include "kernels/paged_attention/paged_attention.h"

#include <math.h>

#define CHUNK_BLOCKS 4
#define CHUNK (CHUNK_BLOCKS * KV_TOKENS)
#define GROUP_MAX 4
#define STRIP 4 /* vectors of values that a group sums at once */
#define LINE 64 /* bytes of a cache line */

struct item {
	const float *q;
	float *y, *sums;
	uint64_t head;	     /* of keys */
	uint64_t begin, end; /* the tokens that it sees */
	float greatest, total;
};

/* What an item sees of a chunk: tokens from..to-1 of it. */
struct sight {
	uint32_t from, to;
};

/* A chunk of a sequence. */
struct chunk {
	uint64_t first;			  /* token */
	const char *blocks[CHUNK_BLOCKS]; /* NULL: not there */
	const char *next[CHUNK_BLOCKS];	  /* of the chunk that comes after it */
};

/* Items of one head that see the same of a chunk, and what they read. */
struct group {
	uint32_t first, size;
	struct sight sight;
	const char *keys[CHUNK_BLOCKS], *values[CHUNK_BLOCKS]; /* NULL: not there */
	/* What is read next in their places; NULL: nothing, or another group asks for it. */
	const char *next_keys[CHUNK_BLOCKS], *next_values[CHUNK_BLOCKS];
};

struct unit {
	const struct op_call *call;
	uint64_t columns, sums_each;	  /* the latter in whole vectors */
	uint64_t head_bytes, heads_bytes; /* of the keys of a head, of all heads, in a block */
	float scale;
	uint32_t n_items, max_items;
	struct item items[ATTENTION_ITEMS];
	float weights[GROUP_MAX][CHUNK]; /* or scores, before */
	float sums[ATTENTION_SUMS];
};

/* What a form of the code below is made for: constants, all of it. */
struct form {
	uint32_t dtype;
	uint32_t size;	  /* of a group */
	uint64_t columns; /* 0: any */
};

V_INLINE uint64_t columns_of(const struct unit *u, const struct form f)
{
	return f.columns != 0 ? f.columns : u->columns;
}

V_INLINE vf load(const char *p, uint64_t i, uint64_t n, uint32_t dtype)
{
	const char *at = p + i * v_size(dtype);

	return n - i >= VL ? v_load(at, dtype) : v_load_tail(at, (uint32_t)(n - i), dtype);
}

/*
 * Asks for rows of what will be read next, beside a vector of the same rows from column i on:
 * where blocks are strewn about, the CPU cannot guess. They come no nearer than the second cache,
 * since more lines may be on their way from memory than a core awaits in the first.
 */
V_INLINE void fetch(const char *next, uint64_t i, uint64_t bytes, uint32_t rows, uint32_t dtype)
{
	const uint64_t at = i * v_size(dtype);

	if (next == NULL || at % LINE != 0)
		return;
	V_UNROLL
	for (uint32_t t = 0; t < rows; t++)
		__builtin_prefetch(next + t * bytes + at, 0, 2);
}

/* --- Scores ---------------------------------------------------------------------------------- */

/*
 * Scores of VL / size tokens, the first of which has its key at `key`, for a group: as many
 * products as there are lanes, whose lanes are then added all at once.
 */
V_INLINE void score(const struct unit *u, const struct item *items, const char *key,
	const char *next, float (*weights)[CHUNK], const struct form f)
{
	const uint64_t columns = columns_of(u, f), bytes = columns * v_size(f.dtype);
	const uint32_t tokens = VL / f.size;
	float scores[VL];
	vf products[VL];

	V_UNROLL
	for (uint32_t j = 0; j < VL; j++)
		products[j] = (vf){0};
	for (uint64_t i = 0; i < columns; i += VL) {
		vf q[GROUP_MAX];

		fetch(next, i, bytes, tokens, f.dtype);
		V_UNROLL
		for (uint32_t r = 0; r < f.size; r++)
			q[r] = load((const char *)items[r].q, i, columns, GPUQ_F32);
		V_UNROLL
		for (uint32_t t = 0; t < tokens; t++) {
			const vf k = load(key + t * bytes, i, columns, f.dtype);

			V_UNROLL
			for (uint32_t r = 0; r < f.size; r++)
				products[r * tokens + t] = v_fma(q[r], k, products[r * tokens + t]);
		}
	}
	v_store_floats(scores, v_sum_rows(products) * v_set1(u->scale));
	V_UNROLL
	for (uint32_t r = 0; r < f.size; r++)
		memcpy(weights[r], &scores[r * tokens], tokens * sizeof(float));
}

static bool sees_block(struct sight sight, uint32_t b)
{
	return sight.from < (b + 1) * KV_TOKENS && sight.to > b * KV_TOKENS;
}

/* Those of a chunk; -inf where a block is not there. All that a block has room for is read. */
V_INLINE void score_chunk(struct unit *u, const struct group *g, const struct form f)
{
	const uint64_t bytes = columns_of(u, f) * v_size(f.dtype);

	for (uint32_t b = 0; b < CHUNK_BLOCKS; b++) {
		const char *keys = g->keys[b], *next = g->next_keys[b];
		const bool seen = keys != NULL && sees_block(g->sight, b);

		for (uint32_t t = 0; seen && t < KV_TOKENS; t += VL / f.size)
			score(u, &u->items[g->first], keys + t * bytes,
				next == NULL ? NULL : next + t * bytes,
				(float(*)[CHUNK]) & u->weights[0][b * KV_TOKENS + t], f);
		for (uint32_t t = 0; !seen && t < f.size * KV_TOKENS; t++)
			u->weights[t / KV_TOKENS][b * KV_TOKENS + t % KV_TOKENS] = -INFINITY;
	}
}

/* --- Weights --------------------------------------------------------------------------------- */

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
	const bool all = sight.from == 0 && sight.to == CHUNK;
	vf greatest = v_set1(item->greatest), factor, total = {0};

	for (uint32_t t = 0; t < CHUNK; t += VL) {
		vf scores = v_load_floats(weights + t);

		if (!all)
			scores = mask_scores(scores, t, sight);
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

/*
 * Adds columns of n vectors of a block's values from column i on, weighted, for a group. Nothing
 * but what is seen is read.
 */
V_INLINE void sum_block(const struct unit *u, const struct group *g, uint32_t b, uint64_t i,
	vf sums[GROUP_MAX][STRIP], uint32_t n, const struct form f)
{
	const uint64_t columns = columns_of(u, f), bytes = columns * v_size(f.dtype);
	const uint32_t first = b * KV_TOKENS, left = g->sight.to - first;

	for (uint32_t t = g->sight.from > first ? g->sight.from - first : 0;
		t < KV_TOKENS && t < left; t++) {
		const char *value = g->values[b] + t * bytes;
		const char *next = g->next_values[b];
		vf v[STRIP];

		V_UNROLL
		for (uint32_t s = 0; s < n; s++) {
			fetch(next == NULL ? NULL : next + t * bytes, i + s * VL, bytes, 1,
				f.dtype);
			v[s] = load(value, i + s * VL, columns, f.dtype);
		}
		V_UNROLL
		for (uint32_t r = 0; r < f.size; r++) {
			const vf weight = v_set1(u->weights[r][first + t]);

			V_UNROLL
			for (uint32_t s = 0; s < n; s++)
				sums[r][s] = v_fma(weight, v[s], sums[r][s]);
		}
	}
}

V_INLINE void sum_strip(struct unit *u, const struct group *g, const float factors[GROUP_MAX],
	uint64_t i, uint32_t n, const struct form f)
{
	vf sums[GROUP_MAX][STRIP];

	V_UNROLL
	for (uint32_t r = 0; r < f.size; r++) {
		V_UNROLL
		for (uint32_t s = 0; s < n; s++)
			sums[r][s] = (vf){0};
	}
	for (uint32_t b = 0; b < CHUNK_BLOCKS; b++) {
		if (g->values[b] != NULL && sees_block(g->sight, b))
			sum_block(u, g, b, i, sums, n, f);
	}
	V_UNROLL
	for (uint32_t r = 0; r < f.size; r++) {
		V_UNROLL
		for (uint32_t s = 0; s < n; s++) {
			float *at = u->items[g->first + r].sums + i + s * VL;

			v_store_floats(
				at, v_fma(v_load_floats(at), v_set1(factors[r]), sums[r][s]));
		}
	}
}

/* --- Chunks ---------------------------------------------------------------------------------- */

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

/* The group of an item and of those after it that are like it: 4, 2 or 1. */
static void find_group(
	const struct unit *u, const struct chunk *c, uint32_t first, struct group *ret_group)
{
	const struct item *item = &u->items[first];
	const struct sight sight = sight_of(item, c->first);
	uint32_t size = 1;

	while (size < GROUP_MAX && first + size < u->n_items) {
		const struct sight other = sight_of(&item[size], c->first);

		if (item[size].head != item->head || other.from != sight.from ||
			other.to != sight.to)
			break;
		size++;
	}
	ret_group->first = first;
	ret_group->size = size == 3 ? 2 : size;
	ret_group->sight = sight;
}

/*
 * What a group reads of a chunk, and what is read after it: the same of another head, or of the
 * first one in the next chunk. False when there is nothing that it sees.
 */
static bool find_rows(const struct unit *u, const struct chunk *c, struct group *g)
{
	const uint64_t head = u->items[g->first].head, first = u->items[0].head;
	const bool is_last = head == u->items[u->n_items - 1].head;
	const bool asks = g->first == 0 || u->items[g->first - 1].head != head;
	const uint64_t next_at = (is_last ? first : head + 1) * u->head_bytes;
	bool any = false;

	for (uint32_t b = 0; b < CHUNK_BLOCKS; b++) {
		const char *block = c->blocks[b], *next = is_last ? c->next[b] : block;

		any = any || (block != NULL && sees_block(g->sight, b));
		next = next == NULL || !asks ? NULL : next + next_at;
		g->keys[b] = block == NULL ? NULL : block + head * u->head_bytes;
		g->values[b] = block == NULL ? NULL : g->keys[b] + u->heads_bytes;
		g->next_keys[b] = next;
		g->next_values[b] = next == NULL ? NULL : next + u->heads_bytes;
	}
	return any;
}

V_INLINE void attend_group(struct unit *u, const struct group *g, const struct form f)
{
	const uint64_t columns = columns_of(u, f);
	float factors[GROUP_MAX];
	uint64_t i = 0;

	score_chunk(u, g, f);
	for (uint32_t r = 0; r < f.size; r++)
		factors[r] = weigh(&u->items[g->first + r], u->weights[r], g->sight);
	for (; columns - i >= STRIP * VL; i += STRIP * VL)
		sum_strip(u, g, factors, i, STRIP, f);
	for (; i < columns; i += VL)
		sum_strip(u, g, factors, i, 1, f);
}

V_INLINE void attend_chunk(struct unit *u, const struct chunk *c, uint32_t dtype, uint64_t columns)
{
	struct group g;

	for (uint32_t i = 0; i < u->n_items; i += g.size) {
		find_group(u, c, i, &g);
		if (!find_rows(u, c, &g))
			continue;
		if (g.size == 4)
			attend_group(u, &g, (struct form){dtype, 4, columns});
		else if (g.size == 2)
			attend_group(u, &g, (struct form){dtype, 2, columns});
		else
			attend_group(u, &g, (struct form){dtype, 1, columns});
	}
}

/* Where the blocks of a chunk lie: each entry of the table is read once. */
static void find_blocks(const struct unit *u, int32_t row, uint64_t end, uint64_t first,
	const char *blocks[CHUNK_BLOCKS])
{
	const struct tensor *cache = &u->call->in[ATTENTION_CACHE];

	for (uint32_t b = 0; b < CHUNK_BLOCKS; b++) {
		const uint64_t token = first + b * KV_TOKENS;
		int64_t block = -1;

		if (token < end)
			block = kv_block(
				&u->call->in[ATTENTION_TABLE], cache, row, token / KV_TOKENS);
		blocks[b] = block < 0 ? NULL
				      : (const char *)cache->data +
				kv_at(cache, (uint64_t)block, KV_KEYS, 0) * v_size(cache->dtype);
	}
}

/* All items of the unit, which are of one sequence. */
V_INLINE void attend(struct unit *u, int32_t row, uint32_t dtype, uint64_t columns)
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
	c.first = begin / CHUNK * CHUNK;
	find_blocks(u, row, end, c.first, c.next);
	for (; c.first < end; c.first += CHUNK) {
		memcpy(c.blocks, c.next, sizeof(c.blocks));
		find_blocks(u, row, end, c.first + CHUNK, c.next);
		attend_chunk(u, &c, dtype, columns);
	}
}

/* --- Units ----------------------------------------------------------------------------------- */

static void item_begin(
	struct unit *u, const struct attention_span *span, uint64_t head, uint64_t query)
{
	struct item *item = &u->items[u->n_items];

	*item = (struct item){
		.q = (const float *)u->call->in[ATTENTION_Q].data + query * u->columns,
		.y = (float *)u->call->out[ATTENTION_Y].data + query * u->columns,
		.sums = &u->sums[u->n_items * u->sums_each],
		.head = head,
		.begin = span->begin,
		.end = span->end,
		.greatest = -INFINITY,
	};
	memset(item->sums, 0, u->sums_each * sizeof(float));
	u->n_items++;
}

static void items_end(struct unit *u)
{
	for (uint32_t r = 0; r < u->n_items; r++) {
		const struct item *item = &u->items[r];
		/* One that saw nothing has sums of 0. */
		const vf total = v_set1(item->total == 0 ? 1 : item->total);

		for (uint64_t i = 0; i < u->columns; i += VL)
			v_store(item->y + i, v_load_floats(&item->sums[i]) / total, u->columns - i,
				GPUQ_F32);
	}
	u->n_items = 0;
}

/* Common widths have forms without choices in their loops. */
V_INLINE void attend_dtype(struct unit *u, int32_t row, uint32_t dtype)
{
	if (u->columns == 64)
		attend(u, row, dtype, 64);
	else if (u->columns == 128)
		attend(u, row, dtype, 128);
	else
		attend(u, row, dtype, 0);
}

static void attend_any(struct unit *u, int32_t row)
{
	switch (u->call->in[ATTENTION_CACHE].dtype) {
	case GPUQ_F32:
		attend_dtype(u, row, GPUQ_F32);
		break;
	case GPUQ_F16:
		attend(u, row, GPUQ_F16, 0);
		break;
	default:
		attend_dtype(u, row, GPUQ_BF16);
		break;
	}
	items_end(u);
}

/* A row for heads of keys first..end-1; items of another row stay until there is no room. */
static void add_row(
	struct unit *u, uint64_t n, const struct attention_span *span, uint64_t first, uint64_t end)
{
	const uint64_t all = u->call->in[ATTENTION_Q].dims[1];
	const uint64_t each = all / u->call->in[ATTENTION_CACHE].dims[2];

	for (uint64_t h = first * each; h < end * each; h++) {
		if (u->n_items == u->max_items)
			attend_any(u, span->row);
		item_begin(u, span, h / each, n * all + h);
	}
}

/* Rows of several sequences one sequence after the other. */
static void attend_unit(struct unit *u, const struct attention_cut *cut, uint64_t unit)
{
	const uint64_t rows = u->call->in[ATTENTION_Q].dims[0];
	const uint64_t heads = u->call->in[ATTENTION_CACHE].dims[2];
	const uint64_t row = unit / cut->parts * cut->rows, head = unit % cut->parts * cut->heads;
	const uint64_t end = rows - row > cut->rows ? row + cut->rows : rows;
	int32_t of = 0;

	u->n_items = 0;
	for (uint64_t n = row; n < end; n++) {
		const struct attention_span span = attention_span_of(u->call, n);

		if (u->n_items > 0 && span.row != of)
			attend_any(u, of);
		of = span.row;
		add_row(u, n, &span, head, heads - head > cut->heads ? head + cut->heads : heads);
	}
	if (u->n_items > 0)
		attend_any(u, of);
}

void ISA_PASTE(paged_attention_cpu, KERNELS_ISA)(
	const struct op_call *call, uint64_t begin, uint64_t end)
{
	const struct attention_cut cut = attention_cut_of(call);
	struct unit u;

	u.call = call;
	u.columns = call->in[ATTENTION_Q].dims[2];
	u.sums_each = (u.columns + VL - 1) / VL * VL;
	u.max_items = ATTENTION_SUMS / u.sums_each < ATTENTION_ITEMS
		? (uint32_t)(ATTENTION_SUMS / u.sums_each)
		: ATTENTION_ITEMS;
	u.head_bytes = KV_TOKENS * u.columns * v_size(call->in[ATTENTION_CACHE].dtype);
	u.heads_bytes = u.head_bytes * call->in[ATTENTION_CACHE].dims[2];
	u.scale = (float)attention_scale(call);
	for (uint64_t i = begin; i < end; i++)
		attend_unit(&u, &cut, i);
}
