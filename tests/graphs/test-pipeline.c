/* SPDX-License-Identifier: MIT */
/* Pipelines: what is accepted, in what order it runs, and every refusal with its sentence. */
#include "tests/harness.h"

#include "tests/graphs/definition.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void expect_refusal(struct definition *d, int expected, const char *part)
{
	char why[PIPELINE_MAX_WHY] = "";
	int err;
	struct pipeline *p = definition_create(d, &err, why);

	if (err != expected || strstr(why, part) == NULL)
		print_message("got %d: %s\n", err, why);
	assert_null(p);
	assert_int_equal(err, expected);
	assert_non_null(strstr(why, part));
	free(d);
}

static struct pipeline *expect_pipeline(struct definition *d)
{
	char why[PIPELINE_MAX_WHY] = "x";
	int err;
	struct pipeline *p = definition_create(d, &err, why);

	if (err != 0)
		print_message("got %d: %s\n", err, why);
	assert_int_equal(err, 0);
	assert_string_equal(why, "");
	return p;
}

static void test_pipeline_has_an_interface(void **state)
{
	struct definition *d = definition_layers(4, 8, 16, 3);
	struct pipeline *p = expect_pipeline(d);
	const struct op *op = pipeline_op(p);

	assert_string_equal(op->name, "layers");
	assert_int_equal(op->n_inputs, 3);
	assert_int_equal(op->n_outputs, 1);
	assert_int_equal(op->n_params, 0);
	assert_string_equal(op->inputs[1].name, "w1");
	assert_string_equal(op->outputs[0].name, "y");
	assert_int_equal(op->inputs[0].dtypes, GPUQ_DTYPE_BIT(GPUQ_F32));
	assert_false(op->inputs[2].optional);
	pipeline_unref(p);
	free(d);
}

static void test_pipeline_steps_are_sorted(void **state)
{
	struct definition *d = definition_layers(4, 8, 16, 3);
	struct pipeline *p = expect_pipeline(d);
	uint32_t n;
	const struct pipeline_step *steps = pipeline_steps(p, &n);

	assert_int_equal(n, 4);
	assert_string_equal(steps[0].op->name, "gemv_batched");
	assert_int_equal(steps[0].in[0], 0);
	assert_string_equal(steps[1].op->name, "softmax");
	assert_string_equal(steps[2].op->name, "gemv_batched");
	assert_int_equal(steps[3].out[0], 3);
	assert_true(steps[3].params[0].f64 == 1.0); /* the preset */
	pipeline_unref(p);
	free(d);
}

/* Steps that do not depend on each other stay as the client gave them. */
static void test_pipeline_ties_keep_their_order(void **state)
{
	struct definition *d = definition_new("ties", 1, 4);
	struct pipeline *p;
	const struct pipeline_step *steps;
	uint32_t n;

	for (uint32_t i = 0; i < 5; i++)
		definition_tensor(d, "t", GPUQ_F32, 2, 2);
	definition_step(d, "softmax", 2, WIRE_PIPELINE_NONE, 4);
	definition_step(d, "softmax", 0, WIRE_PIPELINE_NONE, 3);
	definition_step(d, "softmax", 0, WIRE_PIPELINE_NONE, 1);
	definition_step(d, "softmax", 0, WIRE_PIPELINE_NONE, 2);
	p = expect_pipeline(d);
	steps = pipeline_steps(p, &n);
	assert_int_equal(steps[0].out[0], 3);
	assert_int_equal(steps[1].out[0], 1);
	assert_int_equal(steps[2].out[0], 2);
	assert_int_equal(steps[3].out[0], 4);
	pipeline_unref(p);
	free(d);
}

static void test_pipeline_equal_and_ids(void **state)
{
	struct definition *d = definition_layers(4, 8, 16, 3);
	struct definition *other = definition_layers(4, 8, 16, 4);
	struct pipeline *a = expect_pipeline(d), *b = expect_pipeline(d);
	struct pipeline *c = expect_pipeline(other);
	uint64_t bytes;

	assert_true(pipeline_equal(a, b));
	assert_false(pipeline_equal(a, c));
	assert_int_not_equal(pipeline_id(a), pipeline_id(b));
	(void)pipeline_blob(a, &bytes);
	assert_int_equal(bytes, d->bytes);
	assert_ptr_equal(pipeline_ref(a), a);
	pipeline_unref(a);
	pipeline_unref(a);
	pipeline_unref(b);
	pipeline_unref(c);
	pipeline_unref(NULL);
	free(other);
	free(d);
}

/* What has no meaning makes no difference, and a definition can be made again of what is kept. */
static void test_pipeline_equal_in_meaning(void **state)
{
	struct definition *d = definition_layers(4, 8, 16, 3);
	struct pipeline *a = expect_pipeline(d), *b, *c = NULL;
	char why[PIPELINE_MAX_WHY];
	const void *blob;
	uint64_t bytes;

	d->tensors[4].rank = 7;
	d->tensors[4].dims[3] = 99;
	d->tensors[0].dims[5] = 1;
	d->tensors[1].name[10] = 'x';
	d->steps[0].params[0] = 17;
	b = expect_pipeline(d);
	assert_true(pipeline_equal(a, b));
	blob = pipeline_blob(b, &bytes);
	assert_int_equal(pipeline_create(blob, bytes, &c, why), 0);
	assert_true(pipeline_equal(a, c));
	pipeline_unref(a);
	pipeline_unref(b);
	pipeline_unref(c);
	free(d);
}

/* Random ones of all sizes are accepted, and every step comes after what it reads. */
static void test_pipeline_random_orders(void **state)
{
	struct random rng = {11};

	for (uint32_t round = 0; round < 300; round++) {
		struct definition *d =
			definition_random(&rng, 1 + (uint32_t)random_below(&rng, 60), 3, 4);
		struct pipeline *p = expect_pipeline(d);
		bool known[PIPELINE_MAX_TENSORS] = {true, true};
		uint32_t n;
		const struct pipeline_step *steps = pipeline_steps(p, &n);

		assert_int_equal(n, d->head.n_steps);
		for (uint32_t i = 0; i < n; i++) {
			assert_true(known[steps[i].in[0]]);
			assert_false(known[steps[i].out[0]]);
			known[steps[i].out[0]] = true;
		}
		pipeline_unref(p);
		free(d);
	}
}

static void test_pipeline_largest(void **state)
{
	struct random rng = {3};
	struct definition *d = definition_random(&rng, PIPELINE_MAX_STEPS, 1, 2);

	pipeline_unref(expect_pipeline(d));
	free(d);
}

/* --- Refusals ------------------------------------------------------------------------------ */

static void test_pipeline_refuses_wrong_sizes(void **state)
{
	struct definition *d = definition_layers(4, 8, 16, 3);
	char why[PIPELINE_MAX_WHY];
	struct pipeline *p = NULL;

	definition_pack(d);
	for (uint64_t bytes = 0; bytes < d->bytes; bytes++) {
		assert_int_equal(pipeline_create(d->blob, bytes, &p, why), -GPUQ_EPIPELINE);
		assert_true(why[0] != '\0');
	}
	assert_int_equal(pipeline_create(d->blob, d->bytes + 1, &p, why), -GPUQ_EPIPELINE);
	assert_null(p);
	free(d);
}

static void test_pipeline_refuses_bad_counts(void **state)
{
	struct definition *d = definition_layers(4, 8, 16, 3);

	d->head.n_steps = 0;
	expect_refusal(d, -GPUQ_EPIPELINE, "at least one step");
	d = definition_layers(4, 8, 16, 3);
	d->head.n_outputs = 0;
	expect_refusal(d, -GPUQ_EPIPELINE, "at least one step and one output");
	d = definition_layers(4, 8, 16, 3);
	d->head.n_tensors = 3;
	expect_refusal(d, -GPUQ_EPIPELINE, "counts inputs and outputs");
	d = definition_layers(4, 8, 16, 3);
	d->head.name[0] = '\0';
	expect_refusal(d, -GPUQ_EPIPELINE, "no name");
	d = definition_layers(4, 8, 16, 3);
	memset(d->head.name, 'a', sizeof(d->head.name));
	expect_refusal(d, -GPUQ_EPIPELINE, "no name");
}

/* Names reach terminals and logs. */
static void test_pipeline_refuses_names_that_are_no_text(void **state)
{
	static const char *const wrong[] = {"red\033[31m", "two\nlines", "bell\a", "\x7f",
		"c1 \xc2\x9b", "\xff", "latin \xe9", "short \xe2\x82", "overlong \xc0\xaf",
		"overlong \xe0\x82\x80", "surrogate \xed\xa0\x80", "\xf4\x90\x80\x80",
		"turned \xe2\x80\xae", "line \xe2\x80\xa8", "\x80"};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct definition *d = definition_layers(4, 8, 16, 3);

		snprintf(d->head.name, GPUQ_NAME_MAX, "%s", wrong[i]);
		expect_refusal(d, -GPUQ_EPIPELINE,
			"The pipeline has no name of 1 to 31 bytes of printable UTF-8.");
		d = definition_layers(4, 8, 16, 3);
		snprintf(d->tensors[4].name, GPUQ_NAME_MAX, "%s", wrong[i]);
		expect_refusal(d, -GPUQ_EPIPELINE,
			"Tensor 4 has no name of 1 to 31 bytes of printable UTF-8.");
	}
}

static void test_pipeline_takes_names_of_all_scripts(void **state)
{
	struct definition *d = definition_layers(4, 8, 16, 3);
	struct pipeline *p;

	snprintf(d->head.name, GPUQ_NAME_MAX, "a ~ \xc3\xbc \xe2\x82\xac \xf0\x9f\x98\x80");
	p = expect_pipeline(d);
	assert_string_equal(pipeline_op(p)->name, "a ~ \xc3\xbc \xe2\x82\xac \xf0\x9f\x98\x80");
	pipeline_unref(p);
	free(d);
}

static void test_pipeline_refuses_limits(void **state)
{
	const struct {
		uint32_t offset, value;
	} cases[] = {
		{offsetof(struct wire_pipeline, n_steps), PIPELINE_MAX_STEPS + 1},
		{offsetof(struct wire_pipeline, n_tensors), PIPELINE_MAX_TENSORS + 1},
		{offsetof(struct wire_pipeline, n_inputs), GPUQ_MAX_INPUTS + 1},
		{offsetof(struct wire_pipeline, n_outputs), GPUQ_MAX_OUTPUTS + 1},
		{offsetof(struct wire_pipeline, n_steps), UINT32_MAX},
		{offsetof(struct wire_pipeline, n_tensors), UINT32_MAX},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct definition *d = definition_layers(4, 8, 16, 3);
		struct pipeline *p = NULL;
		char why[PIPELINE_MAX_WHY];

		definition_pack(d);
		memcpy(d->blob + cases[i].offset, &cases[i].value, sizeof(cases[i].value));
		assert_int_equal(pipeline_create(d->blob, d->bytes, &p, why), -GPUQ_ELIMIT);
		assert_non_null(strstr(why, "more than"));
		free(d);
	}
}

static void test_pipeline_refuses_bad_tensors(void **state)
{
	struct definition *d = definition_layers(4, 8, 16, 3);

	d->tensors[4].dtype = 0;
	expect_refusal(d, -GPUQ_EDTYPE, "Tensor 4 (hidden)");
	d = definition_layers(4, 8, 16, 3);
	d->tensors[4].dtype = 99;
	expect_refusal(d, -GPUQ_EDTYPE, "Tensor 4 (hidden)");
	d = definition_layers(4, 8, 16, 3);
	memset(d->tensors[5].name, 'x', GPUQ_NAME_MAX);
	expect_refusal(d, -GPUQ_EPIPELINE, "Tensor 5 has no name");
	d = definition_layers(4, 8, 16, 3);
	d->tensors[0].rank = GPUQ_MAX_RANK + 1;
	expect_refusal(d, -GPUQ_ERANK, "tensor 0 (x)");
	d = definition_layers(4, 8, 16, 3);
	d->tensors[1].dims[0] = UINT64_MAX;
	expect_refusal(d, -GPUQ_EOVERFLOW, "tensor 1 (w1)");
}

static void test_pipeline_refuses_bad_steps(void **state)
{
	struct definition *d = definition_layers(4, 8, 16, 3);

	d->steps[2].op = op_count;
	expect_refusal(d, -GPUQ_EOP, "Step 2");
	d = definition_layers(4, 8, 16, 3);
	d->steps[0].in[1] = 0;
	expect_refusal(d, -GPUQ_EARGS, "Step 0 (softmax) has an input 1");
	d = definition_layers(4, 8, 16, 3);
	d->steps[0].out[1] = 5;
	expect_refusal(d, -GPUQ_EARGS, "Step 0 (softmax) has an output 1");
	d = definition_layers(4, 8, 16, 3);
	d->steps[1].in[1] = 7;
	expect_refusal(d, -GPUQ_EPIPELINE, "Input w of step 1 (gemv_batched) is tensor 7 of 7");
	d = definition_layers(4, 8, 16, 3);
	d->steps[1].out[0] = 700;
	expect_refusal(d, -GPUQ_EPIPELINE, "Output y of step 1 (gemv_batched) is tensor 700");
	d = definition_new("in place", 1, 1);
	(void)definition_tensor(d, "qkv", GPUQ_F32, 4, 8);
	(void)definition_tensor(d, "q", GPUQ_F32, 0, 0);
	definition_step(d, "kv_append", 0, WIRE_PIPELINE_NONE, 1)->in[4] = 0;
	expect_refusal(d, -GPUQ_EPIPELINE, "Step 0 (kv_append) writes its input cache, tensor 0");
	d = definition_layers(4, 8, 16, 3);
	d->steps[2].params_given = 2;
	expect_refusal(d, -GPUQ_EPARAM, "Step 2 (softmax)");
	d = definition_layers(4, 8, 16, 3);
	d->steps[2].params_given = 1; /* a temperature of 0 */
	expect_refusal(d, -GPUQ_EPARAM, "parameter temperature");
}

static void test_pipeline_refuses_wrong_writers(void **state)
{
	struct definition *d = definition_layers(4, 8, 16, 3);

	d->steps[2].out[0] = 4;
	expect_refusal(d, -GPUQ_EPIPELINE, "both write tensor 4 (hidden)");
	d = definition_layers(4, 8, 16, 3);
	d->steps[2].out[0] = 2;
	expect_refusal(d, -GPUQ_EPIPELINE, "writes tensor 2 (w2), an input");
	d = definition_layers(4, 8, 16, 3);
	definition_tensor(d, "orphan", GPUQ_F32, 0, 0);
	expect_refusal(d, -GPUQ_EPIPELINE, "No step writes tensor 7 (orphan)");
	d = definition_layers(4, 8, 16, 3);
	d->steps[2].out[0] = WIRE_PIPELINE_NONE;
	expect_refusal(d, -GPUQ_EPIPELINE, "No step writes tensor 5 (gates)");
}

static void test_pipeline_refuses_cycles(void **state)
{
	struct definition *d = definition_layers(4, 8, 16, 3);

	d->steps[2].in[0] = 5; /* gates of gates */
	expect_refusal(d, -GPUQ_EPIPELINE, "Step 2 (softmax) reads tensor 5 (gates)");
	d = definition_layers(4, 8, 16, 3);
	d->steps[1].in[0] = 6; /* hidden of scores of gates of hidden; y hangs behind the circle */
	expect_refusal(d, -GPUQ_EPIPELINE, "which is made of its own result");
}

static void test_pipeline_refuses_wrong_shapes(void **state)
{
	struct definition *d = definition_layers(4, 8, 16, 3);

	d->tensors[1].dims[1] = 9;
	expect_refusal(d, -GPUQ_ESHAPE, "Tensor 1 (w1) cannot be input w of step 1 (gemv_batched)");
	d = definition_layers(4, 8, 16, 3);
	d->tensors[2].dims[1] = 17;
	expect_refusal(d, -GPUQ_ESHAPE, "Tensor 2 (w2) cannot be input w of step 3");
	d = definition_layers(4, 8, 16, 3);
	d->tensors[0].rank = 1;
	expect_refusal(d, -GPUQ_ERANK, "Tensor 0 (x)");
	d = definition_layers(4, 8, 16, 3);
	d->tensors[3].dtype = GPUQ_I32;
	expect_refusal(d, -GPUQ_EDTYPE, "Tensor 3 (y) cannot be output y of step 0");
	d = definition_layers(4, 8, 16, 3);
	d->steps[3].in[1] = WIRE_PIPELINE_NONE;
	expect_refusal(d, -GPUQ_EMISSING, "Step 3 (gemv_batched) needs a tensor w");
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_pipeline_has_an_interface),
		HARNESS_TEST(test_pipeline_steps_are_sorted),
		HARNESS_TEST(test_pipeline_ties_keep_their_order),
		HARNESS_TEST(test_pipeline_equal_and_ids),
		HARNESS_TEST(test_pipeline_equal_in_meaning),
		HARNESS_TEST(test_pipeline_random_orders),
		HARNESS_TEST(test_pipeline_largest),
		HARNESS_TEST(test_pipeline_refuses_wrong_sizes),
		HARNESS_TEST(test_pipeline_refuses_bad_counts),
		HARNESS_TEST(test_pipeline_refuses_names_that_are_no_text),
		HARNESS_TEST(test_pipeline_takes_names_of_all_scripts),
		HARNESS_TEST(test_pipeline_refuses_limits),
		HARNESS_TEST(test_pipeline_refuses_bad_tensors),
		HARNESS_TEST(test_pipeline_refuses_bad_steps),
		HARNESS_TEST(test_pipeline_refuses_wrong_writers),
		HARNESS_TEST(test_pipeline_refuses_cycles),
		HARNESS_TEST(test_pipeline_refuses_wrong_shapes),
	};

	return harness_run("graphs-pipeline", tests, sizeof(tests) / sizeof(tests[0]));
}
