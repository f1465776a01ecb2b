/* SPDX-License-Identifier: MIT */
/* test-error.c: names and sentences of errors. */
#include "tests/client/rig.h"

#include <pthread.h>

static void test_every_error_has_a_name_and_a_sentence(void **state)
{
	for (int e = GPUQ_ERROR_FIRST; e <= GPUQ_ERROR_LAST; e++) {
		const char *name = gpuq_error_name(e);
		const char *sentence = gpuq_strerror(e);
		assert_memory_equal(name, "GPUQ_E", 6);
		assert_true(strlen(sentence) > 10);
		assert_ptr_equal(name, gpuq_error_name(-e));
		assert_ptr_equal(sentence, gpuq_strerror(-e));
		for (int other = GPUQ_ERROR_FIRST; other < e; other++) {
			assert_string_not_equal(name, gpuq_error_name(other));
			assert_string_not_equal(sentence, gpuq_strerror(other));
		}
	}
}

static void test_known_names(void **state)
{
	assert_string_equal(gpuq_error_name(-GPUQ_EGONE), "GPUQ_EGONE");
	assert_string_equal(gpuq_error_name(-GPUQ_ENODEV), "GPUQ_ENODEV");
	assert_string_equal(gpuq_error_name(-EAGAIN), "EAGAIN");
	assert_string_equal(gpuq_error_name(-EINVAL), "EINVAL");
	assert_string_equal(gpuq_error_name(ETIMEDOUT), "ETIMEDOUT");
	assert_string_equal(gpuq_error_name(0), "?");
	assert_string_equal(gpuq_error_name(4999), "?");
	assert_string_equal(gpuq_error_name(INT32_MIN), "?");
	assert_string_equal(gpuq_strerror(0), "success");
	assert_string_equal(gpuq_strerror(-EINVAL), strerror(EINVAL));
	assert_string_equal(gpuq_strerror(GPUQ_ERROR_LAST + 1), "an unknown error");
	assert_string_equal(gpuq_strerror(INT32_MIN), "an unknown error");
}

static void *fail_elsewhere(void *arg)
{
	struct gpuq *g;

	assert_int_equal(gpuq_connect(&(struct gpuq_options){.socket = "/nowhere"}, &g), -ENOENT);
	assert_detail("/nowhere");
	return NULL;
}

static void test_details_are_each_threads_own(void **state)
{
	struct gpuq *g;
	pthread_t thread;

	assert_string_equal(gpuq_error_detail(), "");
	assert_int_equal(gpuq_connect(&(struct gpuq_options){.socket = "/no/such"}, &g), -ENOENT);
	assert_detail("/no/such");
	assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, NULL), 0);
	pthread_join(thread, NULL);
	assert_detail("/no/such");
}

static void expect_explained(
	struct rig *rig, int64_t status, int64_t blame, const char *expected, size_t size)
{
	char text[200];
	struct gpuq_call *call = rig_fail(rig, status, blame);

	assert_int_equal(rig_submit(rig, call, 5), 1);
	struct gpuq_completion c = rig_wait(rig, 5);
	assert_int_equal(c.status, status);
	assert_ptr_equal(gpuq_explain(call, &c, text, size), text);
	assert_string_equal(text, expected);
	gpuq_call_destroy(call);
}

static void test_explain_names_the_argument(void **state)
{
	struct rig rig;

	rig_start(&rig, NULL);
	expect_explained(&rig, -GPUQ_ESHAPE, 1 + 0,
		"fail: input x: a dimension does not fit the other tensors", 200);
	expect_explained(&rig, -GPUQ_EALIGN, 1 + GPUQ_MAX_INPUTS,
		"fail: output y: a tensor is not aligned to its elements", 200);
	expect_explained(&rig, -GPUQ_EPARAM, 1 + GPUQ_MAX_TENSORS + 1,
		"fail: parameter blame: a parameter is unknown, of the wrong type or out of range",
		200);
	expect_explained(&rig, -GPUQ_EARGS, 0,
		"fail: the argument block has a wrong size or a wrong count", 200);
	/* An argument that the operator does not have is not named. */
	expect_explained(
		&rig, -GPUQ_ESHAPE, 1 + 3, "fail: a dimension does not fit the other tensors", 200);
	expect_explained(
		&rig, -GPUQ_ESHAPE, 255, "fail: a dimension does not fit the other tensors", 200);
	expect_explained(&rig, -GPUQ_ESHAPE, 1, "fail: input", 12);
	rig_stop(&rig);
}

static void test_explain_without_a_call(void **state)
{
	const struct gpuq_completion late = {.status = -ETIMEDOUT};
	char text[100];

	assert_string_equal(
		gpuq_explain(NULL, &late, text, sizeof(text)), "the time given to it has passed");
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_every_error_has_a_name_and_a_sentence),
		HARNESS_TEST(test_known_names),
		HARNESS_TEST(test_details_are_each_threads_own),
		HARNESS_TEST(test_explain_names_the_argument),
		HARNESS_TEST(test_explain_without_a_call),
	};

	return harness_run("client-error", tests, sizeof(tests) / sizeof(tests[0]));
}
