/* SPDX-License-Identifier: MIT */
/* test-stop.c: stop strings are found wherever a stream is cut, and no part of one is given. */
#include "tests/harness.h"

#include "client/text/gpuq-text.h"

#include <errno.h>
#include <string.h>

#define TEXT_MAX 256

struct result {
	char given[TEXT_MAX];
	size_t n;
	int64_t found;
};

static void add(struct result *r, const char *text, size_t n)
{
	assert_true(r->n + n < TEXT_MAX);
	memcpy(r->given + r->n, text, n);
	r->n += n;
	r->given[r->n] = '\0';
}

/* Streams a text in pieces of so many bytes, with more behind it after a stop. */
static struct result stream(struct gpuq_stop *stop, const char *text, size_t piece)
{
	struct result r = {.n = 0};
	const size_t bytes = strlen(text);
	const char *given;
	int64_t n;

	for (size_t at = 0; at < bytes; at += piece) {
		n = gpuq_stop_push(
			stop, text + at, bytes - at < piece ? bytes - at : piece, &given);
		assert_true(n >= 0);
		add(&r, given, (size_t)n);
	}
	r.found = gpuq_stop_found(stop);
	if (r.found >= 0) {
		assert_int_equal(gpuq_stop_push(stop, "more", 4, &given), 0);
		assert_int_equal(gpuq_stop_push(stop, NULL, 0, &given), 0);
	}
	add(&r, given, gpuq_stop_finish(stop, &given));
	assert_int_equal(gpuq_stop_found(stop), r.found);
	return r;
}

static struct gpuq_stop *make(const char *const *strings, uint32_t n)
{
	struct gpuq_stop *stop;

	assert_int_equal(gpuq_stop_create(strings, n, &stop), 0);
	return stop;
}

static const struct {
	const char *strings[3];
	const char *text, *given;
	int64_t found;
} cases[] = {
	{{"stop"}, "go on", "go on", -1},
	{{"stop"}, "go stop on", "go ", 0},
	{{"stop"}, "stop", "", 0},
	{{"stop"}, "stostop", "sto", 0},
	{{"stop"}, "sto", "sto", -1},
	{{"aab"}, "aaaaab.", "aaa", 0},
	{{"abab", "b.", "x"}, "ababab", "", 0},
	{{"ababc", "x"}, "abababc", "ab", 0},
	/* The one that ends first, although the other begins before it. */
	{{"abcd", "bc"}, "abcd", "a", 1},
	{{"abcd", "bc"}, "abd", "abd", -1},
	/* Of those that end together, the longest; of equal ones the first. */
	{{"b", "ab", "cab"}, "ccab", "c", 2},
	{{"b", "ab", "ab"}, "cab", "c", 1},
	{{"\n\n", "###"}, "a\n##\n#\n\n#", "a\n##\n#", 0},
	/* Characters with a beginning in common: U+00E9, U+00E8, U+4E2D, U+4E00, U+1F600. */
	{{"\xc3\xa9"}, "caf\xc3\xa8 \xc3\xa9t\xc3\xa9", "caf\xc3\xa8 ", 0},
	{{"\xe4\xb8\xad"}, "\xe4\xb8\x80\xe4\xb8\xad", "\xe4\xb8\x80", 0},
	{{"\xf0\x9f\x98\x80!"}, "\xf0\x9f\x98\x80?\xf0\x9f\x98\x80",
		"\xf0\x9f\x98\x80?\xf0\x9f\x98\x80", -1},
};
#define N_CASES (sizeof(cases) / sizeof(cases[0]))

static uint32_t count_strings(size_t i)
{
	uint32_t n = 0;

	while (n < 3 && cases[i].strings[n] != NULL)
		n++;
	return n;
}

static void test_any_pieces(void **state)
{
	for (size_t i = 0; i < N_CASES; i++) {
		struct gpuq_stop *stop = make(cases[i].strings, count_strings(i));

		for (size_t piece = 1; piece <= 12; piece++) {
			const struct result r = stream(stop, cases[i].text, piece);

			assert_string_equal(r.given, cases[i].given);
			assert_int_equal(r.found, cases[i].found);
		}
		gpuq_stop_destroy(stop);
	}
}

static size_t push(struct gpuq_stop *stop, const char *text, const char **ret_text)
{
	int64_t n = gpuq_stop_push(stop, text, strlen(text), ret_text);

	assert_true(n >= 0);
	return (size_t)n;
}

/* No more is held back than may become a stop string. */
static void test_gives_what_is_certain(void **state)
{
	static const char *const strings[] = {"<end>", "d>"};
	struct gpuq_stop *stop = make(strings, 2);
	const char *given;

	assert_int_equal(push(stop, "one <e", &given), 4);
	assert_memory_equal(given, "one ", 4);
	assert_int_equal(push(stop, "n", &given), 0);
	assert_int_equal(push(stop, "<", &given), 3);
	assert_memory_equal(given, "<en", 3);
	assert_int_equal(push(stop, "x", &given), 2);
	assert_memory_equal(given, "<x", 2);
	assert_int_equal(push(stop, " d", &given), 1);
	assert_int_equal(push(stop, ".", &given), 2);
	assert_int_equal(gpuq_stop_finish(stop, &given), 0);
	gpuq_stop_destroy(stop);
}

static void test_characters_stay_whole(void **state)
{
	static const char *const strings[] = {"\xc3\xa9\xc3\xa8"};
	struct gpuq_stop *stop = make(strings, 1);
	const char *given;

	assert_int_equal(push(stop, "a\xc3\xa9", &given), 1);
	/* The second byte of what is held is not given without its first. */
	assert_int_equal(push(stop, "\xc3\xa7", &given), 4);
	assert_memory_equal(given, "\xc3\xa9\xc3\xa7", 4);
	gpuq_stop_destroy(stop);
}

static void test_no_strings(void **state)
{
	struct gpuq_stop *stop = make(NULL, 0);
	const char *given;

	assert_int_equal(push(stop, "text", &given), 4);
	assert_int_equal(gpuq_stop_finish(stop, &given), 0);
	assert_int_equal(gpuq_stop_found(stop), -1);
	gpuq_stop_destroy(stop);
}

static void test_empty_string_is_refused(void **state)
{
	static const char *const strings[] = {"a", ""};
	struct gpuq_stop *stop = NULL;

	assert_int_equal(gpuq_stop_create(strings, 2, &stop), -EINVAL);
	assert_null(stop);
	assert_non_null(strstr(gpuq_error_detail(), "empty"));
	gpuq_stop_destroy(NULL);
}

/* Against looking at every end of every beginning, over an alphabet of two. */
static void test_random_texts(void **state)
{
	static const char *const strings[] = {"abba", "bbb", "aabab"};
	struct gpuq_stop *stop = make(strings, 3);
	uint32_t seed = 1;

	for (int round = 0; round < 2000; round++) {
		char text[24] = {0};
		size_t n = 0, end = sizeof(text) - 1, length = 0;

		for (size_t i = 0; i + 1 < sizeof(text); i++) {
			seed = seed * 1664525u + 1013904223u;
			text[i] = (seed >> 24 & 1) != 0 ? 'a' : 'b';
		}
		for (n = 1; n < sizeof(text) && length == 0; n++)
			for (size_t k = 0; k < 3; k++) {
				const size_t l = strlen(strings[k]);

				if (n >= l && memcmp(text + n - l, strings[k], l) == 0 &&
					l > length)
					length = l;
				end = length > 0 ? n - length : sizeof(text) - 1;
			}
		const struct result r = stream(stop, text, 1 + (seed >> 28));
		assert_int_equal(r.n, end);
		assert_memory_equal(r.given, text, end);
		assert_int_equal(r.found >= 0, length > 0);
	}
	gpuq_stop_destroy(stop);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_any_pieces),
		HARNESS_TEST(test_gives_what_is_certain),
		HARNESS_TEST(test_characters_stay_whole),
		HARNESS_TEST(test_no_strings),
		HARNESS_TEST(test_empty_string_is_refused),
		HARNESS_TEST(test_random_texts),
	};

	return harness_run("text-stop", tests, sizeof(tests) / sizeof(tests[0]));
}
