/* SPDX-License-Identifier: MIT */
/* quant.c: the loops are plain ones over small arrays, so that the compiler vectorises them. */
#include "models/quant.h"

#include "device/tensor.h"
#include "kernels/element.h"

#include <assert.h>

#define CHUNK 1024u /* elements that stay in the first cache between the passes */
#define LEAST 0x1p-100f
#define LEAST_SHARE 65536u /* elements for which a thread is worth its start */
#define INFINITE_BITS 0x7f800000u
/* Adding it leaves the sum's last bit with weight 1: rounding to a whole number, ties to even. */
#define ROUNDER 0x1.8p23f

static void load(float *to, const void *data, uint32_t dtype, uint64_t at, uint64_t n)
{
	const uint16_t *halves = (const uint16_t *)data + at;

	switch (dtype) {
	case GPUQ_F16:
		for (uint64_t i = 0; i < n; i++)
			to[i] = float_from_f16(halves[i]);
		break;
	case GPUQ_BF16:
		for (uint64_t i = 0; i < n; i++)
			to[i] = float_from_bits((uint32_t)halves[i] << 16);
		break;
	default:
		memcpy(to, (const float *)data + at, n * sizeof(*to));
		break;
	}
}

static uint64_t chunk_at(uint64_t at, uint64_t end)
{
	return end - at < CHUNK ? end - at : CHUNK;
}

/* The bits of the greatest absolute value: as integers they are in the same order, NaN last. */
static uint32_t max_bits(const void *data, uint32_t dtype, uint64_t begin, uint64_t end)
{
	float x[CHUNK];
	uint32_t max = 0;

	for (uint64_t at = begin; at < end; at += CHUNK) {
		uint64_t n = chunk_at(at, end);

		load(x, data, dtype, at, n);
		for (uint64_t i = 0; i < n; i++) {
			uint32_t bits = float_to_bits(x[i]) & 0x7fffffffu;

			max = bits > max ? bits : max;
		}
	}
	return max;
}

static void round_row(
	const void *data, uint32_t dtype, uint64_t begin, uint64_t end, float inverse, int8_t *q)
{
	float x[CHUNK];

	for (uint64_t at = begin; at < end; at += CHUNK) {
		uint64_t n = chunk_at(at, end);

		load(x, data, dtype, at, n);
		for (uint64_t i = 0; i < n; i++)
			q[at - begin + i] = (int8_t)(float_to_bits(x[i] * inverse + ROUNDER) -
				float_to_bits(ROUNDER));
	}
}

int quant_rows(const void *data, uint32_t dtype, uint64_t rows, uint64_t columns, int8_t *ret_q,
	float *ret_scales)
{
	for (uint64_t i = 0; i < rows; i++) {
		uint64_t begin = i * columns, end = begin + columns;
		uint32_t bits = max_bits(data, dtype, begin, end);
		float max = float_from_bits(bits);

		if (bits >= INFINITE_BITS)
			return -EDOM;
		if (max < LEAST)
			max = 0;
		ret_scales[i] = max / 127;
		round_row(data, dtype, begin, end, max == 0 ? 0 : 127 / max, ret_q + begin);
	}
	return 0;
}

/* --- By several threads --------------------------------------------------------------------- */

/* Some rows of each block, until one is bad. */
static void *quant_share(void *arg)
{
	struct quant_share *s = arg;
	const struct quant *q = s->quant;
	const uint32_t number = (uint32_t)(s - q->shares);

	for (uint32_t i = 0; i < q->n_blocks && s->err == 0; i++) {
		const struct quant_block *b = &q->blocks[i];
		const uint64_t first = b->rows * number / q->threads;
		const uint64_t end = b->rows * (number + 1) / q->threads;

		s->err = quant_rows(
			(const char *)b->data + first * b->columns * dtype_size(b->dtype), b->dtype,
			end - first, b->columns, b->q + first * b->columns, b->scales + first);
		s->block = i;
	}
	return NULL;
}

void quant_start(struct quant *quant, uint32_t threads)
{
	uint64_t elements = 0;

	assert(threads >= 1 && threads <= QUANT_MAX_THREADS);
	for (uint32_t i = 0; i < quant->n_blocks; i++)
		elements += quant->blocks[i].rows * quant->blocks[i].columns;
	if (threads > elements / LEAST_SHARE)
		threads = elements < 2 * LEAST_SHARE ? 1 : (uint32_t)(elements / LEAST_SHARE);
	quant->threads = threads;
	for (uint32_t i = 0; i < threads; i++) {
		struct quant_share *s = &quant->shares[i];

		*s = (struct quant_share){.quant = quant};
		s->started = pthread_create(&s->thread, NULL, quant_share, s) == 0;
		/* Where there is no thread to be had the calling one does it. */
		if (!s->started)
			(void)quant_share(s);
	}
}

int quant_finish(struct quant *quant, uint32_t *ret_block)
{
	int err = 0;

	for (uint32_t i = 0; i < quant->threads; i++) {
		const struct quant_share *s = &quant->shares[i];

		if (s->started)
			pthread_join(s->thread, NULL);
		if (s->err != 0)
			*ret_block = s->block;
		err = s->err != 0 ? s->err : err;
	}
	return err;
}
