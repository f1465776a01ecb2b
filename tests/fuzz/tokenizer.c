/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target for tokenizers. The input is a tokenizer.json, a zero, and a text: whatever they
 * are, the parser stays inside of them, and what it accepts encodes and decodes without harm.
 */
#include "client/text/gpuq-text.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition)
{
	if (!condition)
		abort();
}

static void decode(const struct gpuq_tokenizer *t, const uint32_t *ids, size_t n)
{
	struct gpuq_decoder *d;
	const char *text;

	require(gpuq_decoder_create(t, 0, &d) == 0);
	int64_t whole = gpuq_decode(d, ids, n, &text);
	require(whole < 0 || text[whole] == '\0');
	for (size_t i = 0; i < n; i++) {
		int64_t bytes = gpuq_decoder_push(d, ids[i], &text);

		require((bytes < 0) <= (whole < 0));
	}
	require(gpuq_decoder_finish(d, &text) >= 0);
	gpuq_decoder_destroy(d);
}

static void encode(const struct gpuq_tokenizer *t, const char *text, size_t bytes)
{
	struct gpuq_encoder *e;
	const uint32_t *ids;

	require(gpuq_encoder_create(t, &e) == 0);
	int64_t first = gpuq_encode(e, text, bytes, GPUQ_ENCODE_SPECIAL, &ids);
	/* With what the first time has left in the cache it is the same. */
	int64_t n = gpuq_encode(e, text, bytes, GPUQ_ENCODE_SPECIAL, &ids);
	require(n == first);
	if (n > 0)
		decode(t, ids, (size_t)n);
	gpuq_encoder_destroy(e);
}

/* What is said of its tokens goes together. */
static void look_at_tokens(const struct gpuq_tokenizer *t)
{
	const uint32_t n = gpuq_tokenizer_size(t);
	const char *token;

	for (uint32_t id = 0; id <= n && id < 64; id++) {
		int64_t bytes = gpuq_tokenizer_token(t, id, &token);

		(void)gpuq_tokenizer_special(t, id);
		if (bytes < 0)
			continue;
		int64_t found = gpuq_tokenizer_find(t, token, (size_t)bytes);
		require(found >= 0 && found < n);
	}
	require(gpuq_tokenizer_token(t, n, &token) < 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *zero = size == 0 ? NULL : memchr(data, 0, size);
	size_t json_bytes = zero == NULL ? size : (size_t)(zero - data);
	struct gpuq_tokenizer *t;

	if (gpuq_tokenizer_parse((const char *)data, json_bytes, &t) < 0)
		return 0;
	look_at_tokens(t);
	if (zero != NULL)
		encode(t, (const char *)zero + 1, size - json_bytes - 1);
	gpuq_tokenizer_destroy(t);
	return 0;
}
