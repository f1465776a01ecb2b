/* SPDX-License-Identifier: MIT */
/* test-tokenizer.c: loading, tokens, encoding: what the cases of data/ do not say. */
#include "tests/text/rig.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A model of a, b, ab, <s>; <s> is special and is put in front. */
#define SMALL                                                                                    \
	"{'added_tokens':[{'id':3,'content':'<s>','special':true}],"                             \
	"'post_processor':{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'<s>'}}," \
	"{'Sequence':{'id':'A'}}],'special_tokens':{'<s>':{'ids':[3]}}},"                        \
	"'model':{'type':'BPE','vocab':{'a':0,'b':1,'ab':2},'merges':['a b']}}"

static void test_small(void **state)
{
	struct gpuq_tokenizer *t = rig_parse(SMALL);

	rig_encode(t, "", 0, "");
	rig_encode(t, "aab", 0, "0 2");
	rig_encode(t, "aab", GPUQ_ENCODE_SPECIAL, "3 0 2");
	rig_encode(t, "a<s>ab", 0, "0 3 2");
	/* '<', 's' and '>' are not in the vocabulary and there is no unknown token. */
	rig_encode(t, "a<s>ab", GPUQ_ENCODE_LITERAL, "0 2");
	gpuq_tokenizer_destroy(t);
}

/* The model takes each of these words as it is, so that the tokens are the words. */
#define WORDS                                                                          \
	"'model':{'type':'BPE','ignore_merges':true,'merges':[],'vocab':{'a':0,'b':1," \
	"'aa':2,'bb':3,'aab':4,'ab':5,'ba':6,'baa':7,'bbaa':8,'aabb':9,'bbaab':10,"    \
	"'aabbaab':11,'_a':12,'_aa':13,'_b':14,'_':15,'baab':16,'_ba':17,'_ab':18}}}"

static void expect_words(const char *pretokenizer, const char *text, const char *words)
{
	char json[1000], list[200] = "";
	const uint32_t *ids;

	snprintf(json, sizeof(json), "{'pre_tokenizer':%s," WORDS, pretokenizer);
	struct gpuq_tokenizer *t = rig_parse(json);
	struct gpuq_encoder *e = rig_encoder(t);
	int64_t n = gpuq_encode(e, text, strlen(text), 0, &ids);
	for (int64_t i = 0; i < n; i++) {
		const char *token;
		int bytes = (int)gpuq_tokenizer_token(t, ids[i], &token);
		size_t at = strlen(list);

		snprintf(list + at, sizeof(list) - at, "%s%.*s", i == 0 ? "" : "|", bytes, token);
	}
	assert_string_equal(list, words);
	gpuq_encoder_destroy(e);
	gpuq_tokenizer_destroy(t);
}

#define SPLIT(pattern, behavior, invert)                                                \
	"{'type':'Split','pattern':{'String':'" pattern "'},'behavior':'" behavior "'," \
	"'invert':" invert "}"

static void test_behaviors(void **state)
{
	static const char text[] = "aabbaab";

	expect_words(SPLIT("b", "Removed", "false"), text, "aa|aa");
	expect_words(SPLIT("b", "Removed", "true"), text, "b|b|b");
	expect_words(SPLIT("b", "Isolated", "false"), text, "aa|b|b|aa|b");
	expect_words(SPLIT("b", "Contiguous", "false"), text, "aa|bb|aa|b");
	expect_words(SPLIT("b", "MergedWithPrevious", "false"), text, "aab|b|aab");
	expect_words(SPLIT("b", "MergedWithNext", "false"), text, "aa|b|baa|b");
	expect_words(SPLIT("b", "MergedWithPrevious", "true"), text, "aa|b|baa|b");
	expect_words(SPLIT("b", "MergedWithNext", "true"), text, "aab|b|aab");
	expect_words(SPLIT("", "Isolated", "false"), "aab", "a|a|b");
}

#define METASPACE(scheme, split)                                               \
	"{'type':'Metaspace','replacement':'_','prepend_scheme':'" scheme "'," \
	"'split':" split "}"

/* Only the word that stands at the start of all gets what is put in front of the first. */
static void test_first_word(void **state)
{
	static const char stages[] =
		"{'type':'Sequence','pretokenizers':[%s," METASPACE("%s", "false") "]}";
	char json[400];

	expect_words(METASPACE("first", "true"), "a b", "_a|_b");
	expect_words(METASPACE("never", "true"), "a b", "a|_b");
	snprintf(json, sizeof(json), stages, SPLIT("b", "MergedWithNext", "false"), "first");
	expect_words(json, "abab", "_a|ba|b");
	expect_words(json, "bab", "_ba|b");
	snprintf(json, sizeof(json), stages, SPLIT("b", "MergedWithNext", "false"), "always");
	expect_words(json, "aba", "_a|_ba");
}

/* Texts are cut at U+2581 to be quick; not where a merge goes across. */
static void test_merges_across_metaspace(void **state)
{
	struct gpuq_tokenizer *t = rig_parse("{'model':{'vocab':{'a':0,'\u2581':1,'a\u2581':2},"
					     "'merges':['a \u2581']}}");

	rig_encode(t, "a\u2581a\u2581\u2581", 0, "2 2 1");
	gpuq_tokenizer_destroy(t);
	t = rig_parse("{'model':{'vocab':{'a':0,'\u2581':1,'\u2581a':2},'merges':['\u2581 a']}}");
	rig_encode(t, "a\u2581a\u2581\u2581", 0, "0 2 1 1");
	gpuq_tokenizer_destroy(t);
}

static void test_tokens(void **state)
{
	struct gpuq_tokenizer *t = rig_parse(SMALL);
	const char *token;

	assert_int_equal(gpuq_tokenizer_size(t), 4);
	assert_int_equal(gpuq_tokenizer_find(t, "ab", 2), 2);
	assert_int_equal(gpuq_tokenizer_find(t, "<s>", 3), 3);
	assert_int_equal(gpuq_tokenizer_find(t, "abc", 3), -ENOENT);
	rig_detail("'abc'");
	assert_int_equal(gpuq_tokenizer_token(t, 3, &token), 3);
	assert_memory_equal(token, "<s>", 3);
	assert_int_equal(gpuq_tokenizer_token(t, 4, &token), -ENOENT);
	assert_int_equal(gpuq_tokenizer_token(t, UINT32_MAX, &token), -ENOENT);
	assert_true(gpuq_tokenizer_special(t, 3));
	assert_false(gpuq_tokenizer_special(t, 2));
	assert_false(gpuq_tokenizer_special(t, 4));
	gpuq_tokenizer_destroy(t);
	gpuq_tokenizer_destroy(NULL);
	gpuq_encoder_destroy(NULL);
	gpuq_decoder_destroy(NULL);
}

static void test_bad_text(void **state)
{
	struct gpuq_tokenizer *t = rig_load("llama3");
	struct gpuq_encoder *e = rig_encoder(t);
	static const char *const texts[] = {"abc\xff", "abc\xc3", "abc\xed\xa0\x80", "abc\xc0\x80",
		"abc\xf4\x90\x80\x80", "abc\xe2\x28\xa1"};
	const uint32_t *ids = NULL;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		assert_int_equal(gpuq_encode(e, texts[i], strlen(texts[i]), 0, &ids), -EILSEQ);
		rig_detail("at byte 3");
	}
	assert_int_equal(gpuq_encode(e, "a", 1, 1u << 7, &ids), -EINVAL);
	assert_null(ids);
	/* The encoder is none the worse for it. */
	assert_true(gpuq_encode(e, "a", 1, 0, &ids) == 1);
	gpuq_encoder_destroy(e);
	gpuq_tokenizer_destroy(t);
}

static void test_unknown_token_that_is_not_there(void **state)
{
	struct gpuq_tokenizer *t =
		rig_parse("{'model':{'vocab':{'a':0},'merges':[],'unk_token':'<unk>'}}");
	struct gpuq_encoder *e = rig_encoder(t);
	const uint32_t *ids;

	assert_int_equal(gpuq_encode(e, "a", 1, 0, &ids), 1);
	assert_int_equal(gpuq_encode(e, "ab", 2, 0, &ids), -EINVAL);
	rig_detail("unk_token '<unk>'");
	gpuq_encoder_destroy(e);
	gpuq_tokenizer_destroy(t);
}

static void test_files(void **state)
{
	struct gpuq_tokenizer *t = NULL;
	char path[300], command[700];

	assert_int_equal(gpuq_tokenizer_load("/nowhere/tokenizer.json", &t), -ENOENT);
	rig_detail("/nowhere/tokenizer.json: No such file");
	assert_int_equal(gpuq_tokenizer_load(harness_tmpdir(), &t), -ENOENT);
	rig_detail("there is no tokenizer.json in");
	snprintf(path, sizeof(path), "%s/tokenizer.model", harness_tmpdir());
	fclose(fopen(path, "w"));
	assert_int_equal(gpuq_tokenizer_load(harness_tmpdir(), &t), -ENOENT);
	rig_detail("tokenizer.model but no tokenizer.json");
	snprintf(path, sizeof(path), "%s/tokenizer.json", harness_tmpdir());
	snprintf(command, sizeof(command), "%s", rig_path("gpt2", "json"));
	assert_int_equal(symlink(command, path), 0);
	assert_int_equal(gpuq_tokenizer_load(harness_tmpdir(), &t), 0);
	gpuq_tokenizer_destroy(t);
	t = NULL;
	assert_int_equal(gpuq_tokenizer_load(rig_path("gpt2", "cases"), &t), -EINVAL);
	rig_detail("gpt2.cases: ");
	assert_null(t);
}

/* What would take hours if any step were quadratic; the harness ends it after seconds. */
static void expect_quick(const char *name, const char *unit, size_t times)
{
	struct gpuq_tokenizer *t = rig_load(name);
	struct gpuq_encoder *e = rig_encoder(t);
	size_t n = strlen(unit);
	char *text = malloc(n * times);
	const uint32_t *ids;

	assert_non_null(text);
	for (size_t i = 0; i < times; i++)
		memcpy(text + i * n, unit, n);
	assert_true(gpuq_encode(e, text, n * times, 0, &ids) > 0);
	free(text);
	gpuq_encoder_destroy(e);
	gpuq_tokenizer_destroy(t);
}

static void test_long_words(void **state)
{
	for (int i = 0; i < RIG_N_NAMES; i++)
		expect_quick(rig_names[i], "a", 1u << 20);
}

static void test_long_runs(void **state)
{
	static const char *const units[] = {" ", "\n", " \n", "7", "\xcc\xa3\xcc\x81", "'s", "!",
		"\xe2\x96\x81", "\xf0\x9f\x98\x80", "  <left>"};

	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		expect_quick("qwen", units[i], 100000);
		expect_quick("llama2", units[i], 100000);
		expect_quick("flags", units[i], 30000);
	}
}

static void test_zero_bytes(void **state)
{
	struct gpuq_tokenizer *t = rig_load("gpt2");
	struct gpuq_encoder *e = rig_encoder(t);
	struct gpuq_decoder *d = rig_decoder(t, 0);
	const uint32_t *ids;
	const char *text;

	int64_t n = gpuq_encode(e, "a\0b", 3, 0, &ids);
	assert_int_equal(n, 3);
	assert_int_equal(gpuq_decode(d, ids, (size_t)n, &text), 3);
	assert_memory_equal(text, "a\0b", 4);
	gpuq_decoder_destroy(d);
	gpuq_encoder_destroy(e);
	gpuq_tokenizer_destroy(t);
}

static const char sentence[] =
	"Maria went to Zürich because the river was cold; 12345 \xe4\xbd\xa0.";

/* Encodes the same text over and over, and sees the same ids. */
static void *encode_repeatedly(void *context)
{
	struct gpuq_encoder *e = rig_encoder(context);
	uint32_t first[100];
	const uint32_t *ids;
	int64_t n = gpuq_encode(e, sentence, strlen(sentence), 0, &ids);

	assert_in_range(n, 1, 100);
	memcpy(first, ids, (size_t)n * sizeof(*ids));
	for (int i = 0; i < 2000; i++) {
		assert_int_equal(gpuq_encode(e, sentence, strlen(sentence), 0, &ids), n);
		assert_memory_equal(ids, first, (size_t)n * sizeof(*ids));
	}
	gpuq_encoder_destroy(e);
	return NULL;
}

static void test_threads_share_a_tokenizer(void **state)
{
	struct gpuq_tokenizer *t = rig_load("flags");
	pthread_t threads[4];

	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, encode_repeatedly, t), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	gpuq_tokenizer_destroy(t);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_small),
		HARNESS_TEST(test_behaviors),
		HARNESS_TEST(test_first_word),
		HARNESS_TEST(test_merges_across_metaspace),
		HARNESS_TEST(test_tokens),
		HARNESS_TEST(test_bad_text),
		HARNESS_TEST(test_unknown_token_that_is_not_there),
		HARNESS_TEST(test_files),
		HARNESS_TEST_LONG(test_long_words, 60),
		HARNESS_TEST_LONG(test_long_runs, 60),
		HARNESS_TEST(test_zero_bytes),
		HARNESS_TEST(test_threads_share_a_tokenizer),
	};

	return harness_run("text-tokenizer", tests, sizeof(tests) / sizeof(tests[0]));
}
