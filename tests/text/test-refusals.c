/* SPDX-License-Identifier: MIT */
/* test-refusals.c: what a tokenizer file must not say, and what gpuq says to that. */
#include "tests/text/rig.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODEL "'model':{'type':'BPE','vocab':{'a':0,'b':1,'ab':2},'merges':['a b']}"

struct refusal {
	int error;
	const char *part, *json;
};

static void refuse_all(const struct refusal *refusals, size_t n)
{
	for (size_t i = 0; i < n; i++)
		rig_refuse(refusals[i].error, refusals[i].part, refusals[i].json);
}

#define REFUSE_ALL(list) refuse_all(list, sizeof(list) / sizeof((list)[0]))

static void test_documents(void **state)
{
	static const struct refusal list[] = {
		{-EINVAL, "line 1", ""},
		{-EINVAL, "line 1", "{"},
		{-EINVAL, "no JSON object", "[]"},
		{-EINVAL, "there is no model", "{}"},
		{-ENOTSUP, "version", "{'version':'2.0'," MODEL "}"},
	};

	REFUSE_ALL(list);
}

static void test_models(void **state)
{
	static const struct refusal list[] = {
		{-ENOTSUP, "the model WordPiece", "{'model':{'type':'WordPiece','vocab':{}}}"},
		{-ENOTSUP, "the model Unigram", "{'model':{'type':'Unigram','vocab':[]}}"},
		{-ENOTSUP, "only BPE", "{'model':{'vocab':{}}}"},
		{-ENOTSUP, "dropout", "{'model':{'vocab':{},'merges':[],'dropout':0.1}}"},
		{-EINVAL, "vocab is not an object", "{'model':{'vocab':[],'merges':[]}}"},
		{-EINVAL, "merges is not an array", "{'model':{'vocab':{},'merges':{}}}"},
		{-EINVAL, "id of 'a'", "{'model':{'vocab':{'a':-1},'merges':[]}}"},
		{-EINVAL, "id of 'a'", "{'model':{'vocab':{'a':'0'},'merges':[]}}"},
		{-EFBIG, "ids are below", "{'model':{'vocab':{'a':99999999},'merges':[]}}"},
		{-EINVAL, "two tokens have the id 0",
			"{'model':{'vocab':{'a':0,'b':0},'merges':[]}}"},
		{-EINVAL, "merge 0 has a token that the vocabulary lacks",
			"{'model':{'vocab':{'a':0,'b':1},'merges':['a b']}}"},
		{-EINVAL, "merge 0 is not two", "{'model':{'vocab':{'a':0},'merges':['a']}}"},
		{-EINVAL, "merge 0 is not two", "{'model':{'vocab':{'a':0},'merges':['a a a']}}"},
		{-EINVAL, "merge 0 is neither", "{'model':{'vocab':{'a':0},'merges':[['a']]}}"},
		{-EINVAL, "merge 0 has a right side",
			"{'model':{'vocab':{'a':0},'merges':['a a'],"
			"'continuing_subword_prefix':'##'}}"},
		{-EINVAL, "byte_fallback", "{'model':{'vocab':{},'merges':[],'byte_fallback':1}}"},
	};

	REFUSE_ALL(list);
}

static void test_steps(void **state)
{
	static const struct refusal list[] = {
		{-ENOTSUP, "normalizer BertNormalizer",
			"{'normalizer':{'type':'BertNormalizer'}," MODEL "}"},
		{-ENOTSUP, "normalizer Precompiled",
			"{'normalizer':{'type':'Sequence','normalizers':[{'type':'NFC'},"
			"{'type':'Precompiled'}]}," MODEL "}"},
		{-EINVAL, "normalizer: prepend is missing",
			"{'normalizer':{'type':'Prepend'}," MODEL "}"},
		{-EINVAL, "neither String nor Regex",
			"{'normalizer':{'type':'Replace','content':'','pattern':{}}," MODEL "}"},
		{-ENOTSUP, "pre_tokenizer UnicodeScripts",
			"{'pre_tokenizer':{'type':'UnicodeScripts'}," MODEL "}"},
		{-EINVAL, "one character",
			"{'pre_tokenizer':{'type':'Metaspace','replacement':'__'}," MODEL "}"},
		{-EINVAL, "contradicts",
			"{'pre_tokenizer':{'type':'Metaspace','replacement':'_',"
			"'prepend_scheme':'always','add_prefix_space':false}," MODEL "}"},
		{-ENOTSUP, "behavior 'Sideways'",
			"{'pre_tokenizer':{'type':'Split','behavior':'Sideways',"
			"'pattern':{'String':'a'}}," MODEL "}"},
		{-ENOTSUP, "post_processor BertProcessing",
			"{'post_processor':{'type':'BertProcessing'}," MODEL "}"},
		{-ENOTSUP, "lacks the text",
			"{'post_processor':{'type':'TemplateProcessing','single':[]}," MODEL "}"},
		{-ENOTSUP, "decoder CTC", "{'decoder':{'type':'CTC'}," MODEL "}"},
		{-ENOTSUP, "Replace in this place",
			"{'decoder':{'type':'Sequence','decoders':[{'type':'Fuse'},"
			"{'type':'Replace'}]}," MODEL "}"},
		{-ENOTSUP, "strategy 'OnlySecond'",
			"{'truncation':{'strategy':'OnlySecond','max_length':4}," MODEL "}"},
		{-EINVAL, "pad_id",
			"{'padding':{'strategy':{'Fixed':4},'direction':'Left'}," MODEL "}"},
		{-EINVAL, "pre_tokenizer: type is missing", "{'pre_tokenizer':{}," MODEL "}"},
	};

	REFUSE_ALL(list);
}

static void test_added_tokens(void **state)
{
	static const struct refusal list[] = {
		{-EINVAL, "not an array", "{'added_tokens':{}," MODEL "}"},
		{-EINVAL, "content is missing", "{'added_tokens':[{'id':3}]," MODEL "}"},
		{-EINVAL, "its place in the vocabulary is 3",
			"{'added_tokens':[{'id':7,'content':'<s>'}]," MODEL "}"},
		{-EINVAL, "its place in the vocabulary is 0",
			"{'added_tokens':[{'id':3,'content':'a'}]," MODEL "}"},
		{-EINVAL, "looked for as the same text",
			"{'normalizer':{'type':'Lowercase'},'added_tokens':["
			"{'id':3,'content':'X'},{'id':4,'content':'x'}]," MODEL "}"},
		{-EINVAL, "nothing is left of ' '",
			"{'normalizer':{'type':'Strip'},'added_tokens':["
			"{'id':3,'content':' '}]," MODEL "}"},
	};

	REFUSE_ALL(list);
}

/* A tokenizer that splits with this pattern: in JSON, so backslashes are doubled. */
static const char *with_pattern(const char *regex)
{
	static char json[1000];

	snprintf(json, sizeof(json),
		"{'pre_tokenizer':{'type':'Split','behavior':'Isolated',"
		"'pattern':{'Regex':'%s'}}," MODEL "}",
		regex);
	return json;
}

static void test_patterns_that_are_refused(void **state)
{
	static const char *const refused[] = {"[a[b]]", "[[:alpha:]]", "[a&&b]", "[]a]", "a\\\\b",
		"\\\\h", "\\\\X", "\\\\R", "\\\\K", "(a)\\\\1", "(?<n>a)", "(?P<n>a)", "(*ACCEPT)a",
		"(?{1})a", "(?C1)a", "a(?i)b", "(?x)a", "(?R)", "(?(1)a)", "a{2}+", "a{2,3}+",
		"a{2}?", "\\\\pL", "\\\\Q", "\\\\x", "\\\\u12", "\\\\0", "[\\\\W]", "[\\\\b]"};
	static const char *const invalid[] = {
		"(", ")", "[a", "*", "\\\\p{", "\\\\p{Klingon}", "a{3,2}", "\\\\", "[z-a]"};

	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
		rig_refuse(-ENOTSUP, "is not supported", with_pattern(refused[i]));
	for (size_t i = 0; i < sizeof(invalid) / sizeof(invalid[0]); i++)
		rig_refuse(-EINVAL, "is not valid", with_pattern(invalid[i]));
}

/*
 * Patterns that mean something else in PCRE2 than where they come from. a and b merge only where
 * they stay together, so the ids tell where the text was cut.
 */
static void test_patterns_that_are_translated(void **state)
{
	static const struct {
		const char *regex, *text, *ids;
	} list[] = {
		{"a", "abab", "0 1 0 1"},
		{"\\\\s",
			"ab\xe1\xa0\x8e"
			"ab",
			"2 2"}, /* U+180E is no space */
		{"[\\\\s]b", "a b ab", "0 1 2"},
		{"\\\\w\\\\w",
			"a\xcc\x81"
			"ab",
			"0 2"}, /* a mark belongs to a word */
		{"^b|a$", "ab\nb", "2 1"},
		{"\\\\v", "a\nb", "2"}, /* the vertical tab alone */
		{"a{,1}b", "ab", "2"},
		{"{|a", "a{b", "0 1"},
		{"\\\\u0061", "ab", "0 1"},
		{"\\\\x{61}", "ab", "0 1"},
		{"\\\\p{^Ll}|a", "ab", "0 1"},
		{"\\\\p{Latin}", "ab", "0 1"},
		{"(?i)A", "ab", "0 1"},
		{"(?i:A)b", "ab", "2"},
	};

	for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++) {
		struct gpuq_tokenizer *t = rig_parse(with_pattern(list[i].regex));

		print_message("%s\n", list[i].regex);
		rig_encode(t, list[i].text, 0, list[i].ids);
		gpuq_tokenizer_destroy(t);
	}
}

/* A pattern may be of the kind that takes for ever: it is given up, and the next text is fine. */
static void test_endless_patterns(void **state)
{
	struct gpuq_tokenizer *t = rig_parse(with_pattern("(?:a|a?)+$"));
	struct gpuq_encoder *e = rig_encoder(t);
	char text[65] = "";
	const uint32_t *ids;

	memset(text, 'a', sizeof(text) - 2);
	text[sizeof(text) - 2] = 'b';
	assert_int_equal(gpuq_encode(e, text, strlen(text), 0, &ids), -E2BIG);
	rig_detail("takes too long");
	assert_true(gpuq_encode(e, "ab", 2, 0, &ids) > 0);
	gpuq_encoder_destroy(e);
	gpuq_tokenizer_destroy(t);
}

/* Every beginning of a good file is a bad file. */
static void test_cut_files(void **state)
{
	static const char json[] = "{\"normalizer\":{\"type\":\"NFC\"},\"model\":{\"vocab\":"
				   "{\"a\":0},\"merges\":[]}}";
	struct gpuq_tokenizer *t;

	for (size_t n = 0; n < sizeof(json) - 1; n++)
		assert_int_equal(gpuq_tokenizer_parse(json, n, &t), -EINVAL);
	assert_int_equal(gpuq_tokenizer_parse(json, sizeof(json) - 1, &t), 0);
	gpuq_tokenizer_destroy(t);
}

static void test_deep_sequences(void **state)
{
	char json[2000] = "{'normalizer':";

	for (int i = 0; i < 20; i++)
		strncat(json, "{'type':'Sequence','normalizers':[",
			sizeof(json) - strlen(json) - 1);
	strncat(json, "{'type':'NFC'}", sizeof(json) - strlen(json) - 1);
	for (int i = 0; i < 20; i++)
		strncat(json, "]}", sizeof(json) - strlen(json) - 1);
	strncat(json, "," MODEL "}", sizeof(json) - strlen(json) - 1);
	rig_refuse(-EFBIG, "too deep", json);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_documents),
		HARNESS_TEST(test_models),
		HARNESS_TEST(test_steps),
		HARNESS_TEST(test_added_tokens),
		HARNESS_TEST(test_patterns_that_are_refused),
		HARNESS_TEST(test_patterns_that_are_translated),
		HARNESS_TEST(test_endless_patterns),
		HARNESS_TEST(test_cut_files),
		HARNESS_TEST(test_deep_sequences),
	};

	return harness_run("text-refusals", tests, sizeof(tests) / sizeof(tests[0]));
}
