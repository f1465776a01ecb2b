/* SPDX-License-Identifier: MIT */
/* test-stream.c: decoding token by token: whole characters, and in the end the same text. */
#include "tests/text/rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX 4096

/* Whether bytes are whole characters, told without the library's own means. */
static bool whole(const char *text, size_t n)
{
	for (size_t i = 0; i < n;) {
		unsigned char lead = (unsigned char)text[i];
		size_t length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;

		if ((lead >= 0x80 && lead < 0xc2) || i + length > n)
			return false;
		for (size_t k = 1; k < length; k++)
			if (((unsigned char)text[i + k] & 0xc0) != 0x80)
				return false;
		i += length;
	}
	return true;
}

/* Pushes ids and finishes; what came lies in `out`. */
static size_t stream(struct gpuq_decoder *d, const uint32_t *ids, size_t n, char *out)
{
	size_t at = 0;

	for (size_t i = 0; i <= n; i++) {
		const char *text;
		int64_t bytes =
			i < n ? gpuq_decoder_push(d, ids[i], &text) : gpuq_decoder_finish(d, &text);

		assert_true(bytes >= 0 && at + (size_t)bytes < TEXT_MAX);
		assert_true(whole(text, (size_t)bytes));
		assert_int_equal(text[bytes], '\0');
		memcpy(out + at, text, (size_t)bytes);
		at += (size_t)bytes;
	}
	return at;
}

static void expect_same(const char *name, const char *text)
{
	struct gpuq_tokenizer *t = rig_load(name);
	struct gpuq_encoder *e = rig_encoder(t);
	struct gpuq_decoder *d = rig_decoder(t, 0);
	char out[TEXT_MAX];
	const uint32_t *ids;
	const char *decoded;
	int64_t n = gpuq_encode(e, text, strlen(text), 0, &ids);

	assert_true(n > 0);
	size_t bytes = stream(d, ids, (size_t)n, out);
	assert_int_equal(gpuq_decode(d, ids, (size_t)n, &decoded), bytes);
	assert_memory_equal(out, decoded, bytes);
	gpuq_decoder_destroy(d);
	gpuq_encoder_destroy(e);
	gpuq_tokenizer_destroy(t);
}

static void test_streams_are_the_text(void **state)
{
	static const char *const texts[] = {"Maria went home.", "  two  spaces ", "Zürich, Straße",
		"\xe4\xbb\x8a\xe6\x97\xa5\xe3\x81\xaf\xf0\x9f\x98\x80\xf0\x9f\x91\xa8",
		"\xe2\x96\x81"};

	for (int i = 0; i < RIG_N_NAMES; i++)
		for (size_t k = 0; k < sizeof(texts) / sizeof(texts[0]); k++)
			expect_same(rig_names[i], texts[k]);
}

/* All ids in a pseudo-random order: pieces of characters next to each other. */
static void test_any_ids_give_whole_characters(void **state)
{
	uint32_t ids[200], seed = 1;
	char out[TEXT_MAX];

	for (int i = 0; i < RIG_N_NAMES; i++) {
		struct gpuq_tokenizer *t = rig_load(rig_names[i]);
		struct gpuq_decoder *d = rig_decoder(t, 0);

		for (int k = 0; k < 200; k++) {
			seed = seed * 1664525u + 1013904223u;
			ids[k] = (seed >> 8) % gpuq_tokenizer_size(t);
		}
		stream(d, ids, 200, out);
		gpuq_decoder_destroy(d);
		gpuq_tokenizer_destroy(t);
	}
}

#define BYTES                                                                          \
	"{'decoder':{'type':'Sequence','decoders':[{'type':'ByteFallback'},"           \
	"{'type':'Fuse'}]},'model':{'vocab':{'a':0,'<0xC3>':1,'<0xA9>':2,'<0xFF>':3}," \
	"'merges':[]}}"

static void expect_push(struct gpuq_decoder *d, uint32_t id, const char *expected)
{
	const char *text;

	assert_int_equal(gpuq_decoder_push(d, id, &text), strlen(expected));
	assert_string_equal(text, expected);
}

static void test_byte_tokens(void **state)
{
	struct gpuq_tokenizer *t = rig_parse(BYTES);
	struct gpuq_decoder *d = rig_decoder(t, 0);
	const char *text;

	expect_push(d, 1, "");
	expect_push(d, 2, "é");
	expect_push(d, 3, "\xef\xbf\xbd");
	expect_push(d, 1, "");
	expect_push(d, 0,
		"\xef\xbf\xbd"
		"a");
	expect_push(d, 1, "");
	assert_int_equal(gpuq_decoder_finish(d, &text), 3);
	assert_string_equal(text, "\xef\xbf\xbd");
	/* As a whole, one bad byte spoils the run. */
	assert_int_equal(gpuq_decode(d, (const uint32_t[]){1, 2, 3}, 3, &text), 9);
	assert_int_equal(gpuq_decode(d, (const uint32_t[]){1, 2, 0}, 3, &text), 3);
	assert_string_equal(text, "éa");
	gpuq_decoder_destroy(d);
	gpuq_tokenizer_destroy(t);
}

static void test_a_new_stream_begins_anew(void **state)
{
	struct gpuq_tokenizer *t = rig_load("llama2");
	struct gpuq_decoder *d = rig_decoder(t, 0);
	const char *text;
	uint32_t id = (uint32_t)gpuq_tokenizer_find(t, "\xe2\x96\x81the", 6);

	/* The first space of a text was put there, and goes. */
	expect_push(d, id, "the");
	expect_push(d, id, " the");
	assert_int_equal(gpuq_decoder_finish(d, &text), 0);
	expect_push(d, id, "the");
	/* A whole decoding in between forgets the stream. */
	assert_int_equal(gpuq_decode(d, &id, 1, &text), 3);
	expect_push(d, id, "the");
	gpuq_decoder_destroy(d);
	gpuq_tokenizer_destroy(t);
}

static void test_special_tokens(void **state)
{
	struct gpuq_tokenizer *t = rig_load("llama3");
	struct gpuq_decoder *with = rig_decoder(t, 0);
	struct gpuq_decoder *without = rig_decoder(t, GPUQ_DECODE_SKIP_SPECIAL);
	uint32_t id = (uint32_t)gpuq_tokenizer_find(t, "<|eot_id|>", 10);

	expect_push(with, id, "<|eot_id|>");
	expect_push(without, id, "");
	gpuq_decoder_destroy(with);
	gpuq_decoder_destroy(without);
	gpuq_tokenizer_destroy(t);
}

static void test_bad_ids(void **state)
{
	struct gpuq_tokenizer *t = rig_load("gpt2");
	struct gpuq_decoder *d = NULL;
	uint32_t id = gpuq_tokenizer_size(t);
	const char *text = NULL;

	assert_int_equal(gpuq_decoder_create(t, 1u << 9, &d), -EINVAL);
	d = rig_decoder(t, 0);
	assert_int_equal(gpuq_decoder_push(d, id, &text), -EINVAL);
	rig_detail("no token has the id 1200");
	assert_int_equal(gpuq_decode(d, &id, 1, &text), -EINVAL);
	assert_null(text);
	expect_push(d, 1, "!");
	gpuq_decoder_destroy(d);
	gpuq_tokenizer_destroy(t);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_streams_are_the_text),
		HARNESS_TEST(test_any_ids_give_whole_characters),
		HARNESS_TEST(test_byte_tokens),
		HARNESS_TEST(test_a_new_stream_begins_anew),
		HARNESS_TEST(test_special_tokens),
		HARNESS_TEST(test_bad_ids),
	};

	return harness_run("text-stream", tests, sizeof(tests) / sizeof(tests[0]));
}
