/* SPDX-License-Identifier: MIT */
/* The formulas of the operators over a paged cache, once more; see attention_trial.h. */
#include "kernels/element.h"
#include "kernels/kv_attention/kv_attention.h"
#include "tests/kernels/attention_trial.h"
#include "tests/kernels/verify.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double at(const struct tensor *t, uint64_t i)
{
	return element_get(t->data, t->dtype, i);
}

static int64_t integer(const struct tensor *t, uint64_t i)
{
	return ((const int32_t *)t->data)[i];
}

static uint64_t cache_index(
	const struct tensor *cache, int64_t block, uint64_t part, uint64_t g, int64_t slot)
{
	const uint64_t *d = cache->dims;

	return ((((uint64_t)block * d[1] + part) * d[2] + g) * d[3] + (uint64_t)slot) * d[4];
}

/* The block that the table names for a token; -1: none that is there. */
static int64_t block_of(
	const struct tensor *table, const struct tensor *cache, int64_t row, int64_t token)
{
	const int64_t sequences = (int64_t)table->dims[0], length = (int64_t)table->dims[1];
	int64_t block;

	if (row < 0 || row >= sequences || token < 0 || token / 16 >= length)
		return -1;
	block = integer(table, (uint64_t)(row * length + token / 16));
	return block < (int64_t)cache->dims[0] ? block : -1;
}

/* --- kv_append ------------------------------------------------------------------------------ */

/* What a head has to be. */
struct expected {
	double values[KV_MAX_COLUMNS], tolerances[KV_MAX_COLUMNS];
};

static long double frequency(const struct op_call *call, uint64_t pair, uint64_t columns)
{
	const union op_value *p = call->params;
	const long double f = powl(p[0].f64, -2.0L * (long double)pair / (long double)columns);
	const long double turns =
		(long double)p[5].i64 * f / (2 * 3.14159265358979323846264338328L);
	long double kept = 1;

	if (p[1].i64 == 2 && turns <= p[4].f64)
		kept = turns <= p[3].f64 ? 0
					 : (turns - p[3].f64) / ((long double)p[4].f64 - p[3].f64);
	if (p[1].i64 == 1)
		kept = 0;
	return kept * f + (1 - kept) * f / p[2].f64;
}

/* The angles of a row's pairs. */
struct angles {
	long double radians[KV_MAX_COLUMNS / 2];
	long double cosines[KV_MAX_COLUMNS / 2], sines[KV_MAX_COLUMNS / 2];
};

static void angles_of(const struct op_call *call, uint64_t n, struct angles *a)
{
	const uint64_t columns = call->in[APPEND_CACHE].dims[4];
	const int64_t position = integer(&call->in[APPEND_POSITIONS], n);

	for (uint64_t i = 0; i < columns / 2; i++) {
		a->radians[i] = position * frequency(call, i, columns);
		a->cosines[i] = cosl(a->radians[i]);
		a->sines[i] = sinl(a->radians[i]);
	}
}

static void expect_head(const struct op_call *call, uint64_t from, const struct tensor *norm,
	const struct angles *a, struct expected *e)
{
	const struct tensor *qkv = &call->in[APPEND_QKV];
	const uint64_t columns = call->in[APPEND_CACHE].dims[4], half = columns / 2;
	const bool normed = tensor_present(norm);
	long double squares = 0, x[KV_MAX_COLUMNS];
	double weight = 0;

	for (uint64_t i = 0; i < columns; i++)
		squares += (long double)at(qkv, from + i) * at(qkv, from + i);
	for (uint64_t i = 0; i < columns; i++) {
		x[i] = at(qkv, from + i);
		if (normed)
			x[i] *= at(norm, i) /
				sqrtl(squares / columns +
					(long double)call->params[APPEND_EPS].f64);
		weight = fmax(weight, normed ? fabs(at(norm, i)) : 1);
	}
	for (uint64_t i = 0; i < half; i++) {
		const double size = (double)(fabsl(x[i]) + fabsl(x[i + half]));

		e->values[i] = (double)(x[i] * a->cosines[i] - x[i + half] * a->sines[i]);
		e->values[i + half] = (double)(x[i + half] * a->cosines[i] + x[i] * a->sines[i]);
		e->tolerances[i] = e->tolerances[i + half] =
			size * ((normed ? 4.2e-6 : 2e-7) + (double)fabsl(a->radians[i]) * 0x1p-47) +
			0x1p-147 * (1 + weight);
	}
}

static bool head_ok(const struct tensor *t, uint64_t from, uint64_t columns,
	const struct expected *e, const char *name, char *what, size_t size)
{
	for (uint64_t i = 0; i < columns; i++) {
		const double actual = at(t, from + i), value = e->values[i];
		const double tolerance = e->tolerances[i];

		/* What is beyond f32, or made of what is not finite, follows rope and rmsnorm. */
		if (!isfinite(value) || !isfinite(tolerance) ||
			2 * fabs(value) + tolerance > FLT_MAX / 4)
			continue;
		if (verify_element(value, tolerance, actual, t->dtype))
			continue;
		snprintf(what, size, "%s: element %lu is %.9g, not %.9g +- %.3g", name,
			(unsigned long)(from + i), actual, value, tolerance);
		return false;
	}
	return true;
}

static bool queries_ok(
	const struct op_call *call, uint64_t n, const struct angles *a, char *what, size_t size)
{
	const struct tensor *q = &call->out[0];
	const uint64_t columns = q->dims[2];
	struct expected e;
	bool ok = true;

	for (uint64_t h = 0; ok && h < q->dims[1]; h++) {
		expect_head(call, n * call->in[APPEND_QKV].dims[1] + h * columns,
			&call->in[APPEND_Q_NORM], a, &e);
		ok = head_ok(q, (n * q->dims[1] + h) * columns, columns, &e, "q", what, size);
	}
	return ok;
}

/* A place of the cache has the key and the value of the last row that goes there. */
static bool appended_ok(const struct op_call *call, uint64_t n, const struct angles *a,
	int64_t block, uint64_t g, char *what, size_t size)
{
	const struct tensor *cache = &call->in[APPEND_CACHE], *qkv = &call->in[APPEND_QKV];
	const uint64_t columns = cache->dims[4], heads = call->out[0].dims[1];
	const uint64_t from = n * qkv->dims[1] + heads * columns;
	const int64_t position = integer(&call->in[APPEND_POSITIONS], n);
	struct expected e;

	expect_head(call, from + g * columns, &call->in[APPEND_K_NORM], a, &e);
	if (!head_ok(cache, cache_index(cache, block, 0, g, position % 16), columns, &e, "key",
		    what, size))
		return false;
	for (uint64_t i = 0; i < columns; i++) {
		e.values[i] = at(qkv, from + (cache->dims[2] + g) * columns + i);
		e.tolerances[i] = 0;
	}
	return head_ok(cache, cache_index(cache, block, 1, g, position % 16), columns, &e, "value",
		what, size);
}

/* Marks the places of a row's heads; false when a later row has come there already. */
static bool mark(const struct op_call *call, uint64_t n, int64_t block, bool *written)
{
	const struct tensor *cache = &call->in[APPEND_CACHE];
	const int64_t slot = integer(&call->in[APPEND_POSITIONS], n) % 16;
	const uint64_t columns = cache->dims[4];
	bool first = true;

	for (uint64_t part = 0; part < 2; part++) {
		for (uint64_t g = 0; g < cache->dims[2]; g++) {
			bool *place = &written[cache_index(cache, block, part, g, slot) / columns];

			first = first && !*place;
			*place = true;
		}
	}
	return first;
}

static bool untouched_ok(const struct op_call *call, const void *before, const bool *written,
	char *what, size_t size)
{
	const struct tensor *cache = &call->in[APPEND_CACHE];
	const uint64_t bytes = cache->dims[4] * dtype_size(cache->dtype);
	const uint64_t places = cache->dims[0] * 2 * cache->dims[2] * 16;

	for (uint64_t i = 0; i < places; i++) {
		if (written[i] ||
			memcmp((const char *)before + i * bytes,
				(const char *)cache->data + i * bytes, bytes) == 0)
			continue;
		snprintf(what, size, "place %lu of the cache was written", (unsigned long)i);
		return false;
	}
	return true;
}

bool attention_verify_append(
	const struct op_call *call, const void *before, char *what, size_t size)
{
	const struct tensor *cache = &call->in[APPEND_CACHE];
	bool *written = calloc(cache->dims[0] * 2 * cache->dims[2] * 16 + 1, sizeof(*written));
	struct angles a;
	bool ok = true;

	for (uint64_t n = call->in[APPEND_QKV].dims[0]; ok && n-- > 0;) {
		const int64_t block =
			block_of(&call->in[APPEND_TABLE], cache, integer(&call->in[APPEND_ROWS], n),
				integer(&call->in[APPEND_POSITIONS], n));

		angles_of(call, n, &a);
		ok = queries_ok(call, n, &a, what, size);
		if (block < 0 || !mark(call, n, block, written))
			continue;
		for (uint64_t g = 0; ok && g < cache->dims[2]; g++)
			ok = appended_ok(call, n, &a, block, g, what, size);
	}
	ok = ok && untouched_ok(call, before, written, what, size);
	free(written);
	return ok;
}

/* --- paged_attention ------------------------------------------------------------------------ */

struct seen {
	uint64_t n;
	double greatest, magnitude; /* of the scores; of the sums of absolute products */
	bool strange;		    /* a score is not finite */
	uint64_t *keys;		    /* element in the cache */
	double *scores, *weights;
	double total; /* of the weights */
};

struct l2 {
	double error, size;
};

static void see(const struct op_call *call, uint64_t query, uint64_t key, struct seen *seen)
{
	const struct tensor *q = &call->in[ATTENTION_Q], *cache = &call->in[ATTENTION_CACHE];
	const double given = call->params[ATTENTION_SCALE].f64;
	const double scale = given != 0 ? given : 1 / sqrt((double)q->dims[2]);
	double sum = 0, magnitude = 0;

	for (uint64_t d = 0; d < q->dims[2]; d++) {
		sum += at(q, query + d) * at(cache, key + d);
		magnitude += fabs(at(q, query + d) * at(cache, key + d));
	}
	/* A product may overflow in f32 alone. */
	seen->strange = seen->strange || !(magnitude * fmax(1, fabs(scale)) < FLT_MAX / 2);
	seen->magnitude = fmax(seen->magnitude, magnitude * fabs(scale));
	seen->greatest = fmax(seen->greatest, sum * scale);
	seen->keys[seen->n] = key;
	seen->scores[seen->n++] = sum * scale;
}

static void see_all(const struct op_call *call, uint64_t n, uint64_t h, struct seen *seen)
{
	const struct tensor *q = &call->in[ATTENTION_Q], *cache = &call->in[ATTENTION_CACHE];
	const int64_t position = integer(&call->in[ATTENTION_POSITIONS], n);
	const int64_t window = call->params[ATTENTION_WINDOW].i64;

	seen->n = 0;
	seen->magnitude = 0;
	seen->greatest = -INFINITY;
	seen->strange = false;
	for (int64_t j = 0; j <= position && j < (int64_t)call->in[ATTENTION_CONTEXT].dims[0];
		j++) {
		const int64_t block = block_of(&call->in[ATTENTION_TABLE], cache,
			integer(&call->in[ATTENTION_ROWS], n), j);

		if (block < 0 || (window != 0 && j <= position - window))
			continue;
		see(call, (n * q->dims[1] + h) * q->dims[2],
			cache_index(cache, block, 0, h / (q->dims[1] / cache->dims[2]), j % 16),
			seen);
	}
}

static void weigh(struct seen *seen)
{
	seen->total = 0;
	for (uint64_t i = 0; i < seen->n; i++) {
		seen->weights[i] = exp(seen->scores[i] - seen->greatest);
		seen->total += seen->weights[i];
	}
}

static bool column_ok(const struct op_call *call, const struct seen *seen, uint64_t d,
	double actual, struct l2 *l2)
{
	const struct tensor *cache = &call->in[ATTENTION_CACHE];
	const uint64_t values = cache->dims[2] * 16 * cache->dims[4];
	double sum = 0, size = 0, greatest = 0, tolerance;

	if (seen->n == 0)
		return actual == 0;
	for (uint64_t i = 0; i < seen->n; i++) {
		const double v = at(cache, seen->keys[i] + values + d);

		sum += seen->weights[i] * v;
		size += seen->weights[i] * fabs(v);
		greatest = fmax(greatest, fabs(v));
	}
	sum /= seen->total;
	size /= seen->total;
	tolerance = (1e-5 + 1e-8 * (double)seen->n + 1e-5 * seen->magnitude) * size + 0x1p-140 +
		0x1p-148 * (double)seen->n * greatest;
	/* Weights that are 0 in f32 alone, or sums that overflow there. */
	if (seen->strange || !isfinite(sum) || size * (double)seen->n > FLT_MAX / 2)
		return true;
	if (seen->magnitude < 16) {
		l2->error += (actual - sum) * (actual - sum);
		l2->size += size * size;
	}
	return fabs(actual - sum) <= tolerance;
}

bool attention_verify(const struct op_call *call, char *what, size_t size)
{
	const struct tensor *q = &call->in[ATTENTION_Q];
	const uint64_t context = call->in[ATTENTION_CONTEXT].dims[0] + 1;
	struct seen seen = {.keys = calloc(context, sizeof(*seen.keys)),
		.scores = calloc(context, sizeof(*seen.scores)),
		.weights = calloc(context, sizeof(*seen.weights))};
	struct l2 l2 = {0, 0x1p-250};
	bool ok = true;

	for (uint64_t i = 0; ok && i < q->dims[0] * q->dims[1]; i++) {
		see_all(call, i / q->dims[1], i % q->dims[1], &seen);
		weigh(&seen);
		for (uint64_t d = 0; ok && d < q->dims[2]; d++) {
			const double actual = at(&call->out[ATTENTION_Y], i * q->dims[2] + d);

			ok = column_ok(call, &seen, d, actual, &l2);
			if (!ok)
				snprintf(what, size, "row %lu, head %lu, column %lu is %.9g",
					(unsigned long)(i / q->dims[1]),
					(unsigned long)(i % q->dims[1]), (unsigned long)d, actual);
		}
	}
	free(seen.keys);
	free(seen.scores);
	free(seen.weights);
	if (ok && sqrt(l2.error) > 2e-6 * sqrt(l2.size)) {
		snprintf(what, size, "the L2 error is %.3g of %.3g", sqrt(l2.error), sqrt(l2.size));
		return false;
	}
	return ok;
}

/* --- kv_attention --------------------------------------------------------------------------- */

/* Attention to what the cache holds afterwards, with the queries that came out. */
bool attention_verify_both(const struct op_call *call, const void *before, char *what, size_t size)
{
	const struct op_call append = kv_attention_append(call);
	const struct op_call attend = kv_attention_attend(call);

	return attention_verify_append(&append, before, what, size) &&
		attention_verify(&attend, what, size);
}
