/* SPDX-License-Identifier: MIT */
/* test-tools.c: gpuq tokenize and gpuq detokenize. */
#include "tests/harness.h"

#include <jansson.h>
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define LLAMA3 "tests/text/data/llama3.json"

static void run_gpuq(const char *const *arguments, struct harness_output *out)
{
	const char *argv[16] = {harness_program("tools/gpuq")};
	int n = 1;

	while (*arguments != NULL)
		argv[n++] = *arguments++;
	harness_exec(argv, out);
}

static void expect(int status, const char *out, const char *err, const char *const *arguments)
{
	struct harness_output o;

	run_gpuq(arguments, &o);
	if (o.status != status || strcmp(o.out, out) != 0 || strstr(o.err, err) == NULL)
		fail_msg("wanted %d '%s' '%s', got %d '%s' '%s'", status, out, err, o.status, o.out,
			o.err);
	harness_output_free(&o);
}

#define EXPECT(status, out, err, ...) \
	expect(status, out, err, (const char *const[]){__VA_ARGS__, NULL})

/* harness_source() has one place for all paths. */
static const char *tokenizer(void)
{
	static char path[4096];

	snprintf(path, sizeof(path), "%s", harness_source(LLAMA3));
	return path;
}

static void test_there_and_back(void **state)
{
	struct harness_output ids;
	const char *t = tokenizer();

	run_gpuq((const char *const[]){"tokenize", "-t", t, "It's a small world, Maria.", NULL},
		&ids);
	assert_int_equal(ids.status, 0);
	EXPECT(0, "It's a small world, Maria.", "", "detokenize", "-t", t, ids.out);
	harness_output_free(&ids);
	EXPECT(0, "\n", "", "tokenize", "-t", t, "");
	/* Standard input is empty here. */
	EXPECT(0, "\n", "", "tokenize", "-t", t, "-");
	EXPECT(0, "", "", "detokenize", "-t", t);
}

/* On a terminal the text ends with a line's end of its own, so that the prompt begins one. */
static void test_detokenize_on_a_terminal(void **state)
{
	const char *t = tokenizer();
	const char *const argv[] = {
		harness_program("tools/gpuq"), "detokenize", "-t", t, "64", NULL};
	char seen[200] = "";
	size_t n = 0;
	ssize_t more;
	int fd, status;

	const pid_t pid = forkpty(&fd, NULL, NULL, NULL);
	assert_true(pid >= 0);
	if (pid == 0) {
		execv(argv[0], (char *const *)argv);
		_exit(127);
	}
	while (n < sizeof(seen) - 1 && (more = read(fd, seen + n, sizeof(seen) - 1 - n)) > 0)
		n += (size_t)more;
	close(fd);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_string_equal(seen, "a\r\n");
}

static void test_special_tokens(void **state)
{
	const char *t = tokenizer();

	EXPECT(0, "1200 64\n", "", "tokenize", "-t", t, "--special", "a");
	EXPECT(0, "64 1204\n", "", "tokenize", "-t", t, "a<|eot_id|>");
	EXPECT(0, "a", "", "detokenize", "-t", t, "1200", "64");
	EXPECT(0, "<|begin_of_text|>a", "", "detokenize", "-t", t, "-S", "1200,64");
}

static void test_json(void **state)
{
	struct harness_output out;
	json_error_t error;
	const char *schema, *second;
	int count, first;

	run_gpuq((const char *const[]){"tokenize", "--json", "-t", tokenizer(), "a b", NULL}, &out);
	assert_int_equal(out.status, 0);
	json_t *document = json_loads(out.out, 0, &error);
	assert_non_null(document);
	assert_int_equal(
		json_unpack(document, "{s:s, s:i, s:[i,i], s:[s,s]}", "schema", &schema, "count",
			&count, "ids", &first, &(int){0}, "tokens", &(const char *){NULL}, &second),
		0);
	assert_string_equal(schema, "gpuq-tokenize/1");
	assert_int_equal(count, 2);
	assert_int_equal(first, 64);
	assert_string_equal(second,
		"\xc4\xa0"
		"b");
	json_decref(document);
	harness_output_free(&out);
	run_gpuq((const char *const[]){"detokenize", "-j", "-t", tokenizer(), "64", NULL}, &out);
	assert_non_null(strstr(out.out, "\"text\": \"a\""));
	harness_output_free(&out);
}

static void test_bad_input(void **state)
{
	const char *t = tokenizer();

	EXPECT(2, "", "which tokenizer?", "tokenize", "a");
	EXPECT(2, "", "put it in quotes", "tokenize", "-t", t, "a", "b");
	EXPECT(2, "", "'x' is not a token id", "detokenize", "-t", t, "1", "x");
	EXPECT(2, "", "'-1' is not a token id", "detokenize", "-t", t, "--", "-1");
	EXPECT(2, "", "'99999999999' is not", "detokenize", "-t", t, "99999999999");
	EXPECT(2, "", "literal", "detokenize", "-t", t, "--literal", "1");
	EXPECT(1, "", "no token has the id 99999", "detokenize", "-t", t, "99999");
	EXPECT(1, "", "/nowhere: No such file", "tokenize", "-t", "/nowhere", "a");
	EXPECT(1, "", "not UTF-8 at byte 1", "tokenize", "-t", t, "a\xff");
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_there_and_back),
		HARNESS_TEST(test_detokenize_on_a_terminal),
		HARNESS_TEST(test_special_tokens),
		HARNESS_TEST(test_json),
		HARNESS_TEST(test_bad_input),
	};

	return harness_run("text-tools", tests, sizeof(tests) / sizeof(tests[0]));
}
