/* SPDX-License-Identifier: MIT */
/* test-op.c: op_check() refuses every kind of bad call, names the argument, and changes nothing. */
#include "tests/harness.h"

#include "kernels/ops.h"

#include <math.h>
#include <string.h>

#define OUT(i) (GPUQ_MAX_INPUTS + (i))
#define PARAM(i) (GPUQ_MAX_TENSORS + (i))

static struct tensor shaped(uint32_t dtype, uint32_t rank, uint64_t a, uint64_t b, uint64_t c)
{
	return (struct tensor){.dtype = dtype, .rank = rank, .dims = {a, b, c}};
}

/* x [4,8], w [3,8], bias [3] -> y [4,3] */
static struct op_call gemv(void)
{
	return (struct op_call){
		.op = &op_gemv_batched,
		.in = {shaped(GPUQ_F32, 2, 4, 8, 0), shaped(GPUQ_F32, 2, 3, 8, 0),
			shaped(GPUQ_F32, 1, 3, 0, 0)},
		.out = {shaped(GPUQ_F32, 2, 4, 3, 0)},
	};
}

static struct op_call softmax(void)
{
	return (struct op_call){
		.op = &op_softmax,
		.in = {shaped(GPUQ_F16, 3, 2, 3, 5)},
		.out = {shaped(GPUQ_F16, 3, 2, 3, 5)},
		.params = {{.f64 = 1}},
	};
}

/* prices [2,3,5], weights [3,5] -> scores [2,3] */
static struct op_call price(void)
{
	return (struct op_call){
		.op = &op_price_vectors,
		.in = {shaped(GPUQ_BF16, 3, 2, 3, 5), shaped(GPUQ_BF16, 2, 3, 5, 0)},
		.out = {shaped(GPUQ_F32, 2, 2, 3, 0)},
	};
}

static void assert_accepts(struct op_call call)
{
	const struct tensor given = call.out[0];
	uint32_t arg = 77;

	assert_int_equal(op_check(&call, &arg), 0);
	assert_int_equal(arg, 77);
	call.out[0].rank = UINT32_MAX;
	memset(call.out[0].dims, 0, sizeof(call.out[0].dims));
	assert_int_equal(op_check(&call, &arg), 0);
	assert_memory_equal(&call.out[0], &given, sizeof(given));
}

static void assert_refuses(const struct op_call *call, int err, uint32_t blamed)
{
	struct op_call copy;
	uint32_t arg = 77;

	memcpy(&copy, call, sizeof(copy));
	assert_int_equal(op_check(&copy, &arg), -err);
	assert_int_equal(arg, blamed);
	assert_memory_equal(&copy, call, sizeof(copy));
}

static void test_finds_operators_by_name(void **state)
{
	uint32_t index = 77;

	for (uint32_t i = 0; i < op_count; i++) {
		assert_ptr_equal(op_find(op_table[i]->name, &index), op_table[i]);
		assert_int_equal(index, i);
	}
	assert_ptr_equal(op_find("softmax", NULL), &op_softmax);
	index = 77;
	assert_null(op_find("softma", &index));
	assert_null(op_find("", &index));
	assert_int_equal(index, 77);
}

static void test_accepts_good_calls(void **state)
{
	struct op_call call = gemv();

	assert_accepts(call);
	call.out[0].dtype = GPUQ_F32;
	call.in[2] = (struct tensor){0};
	assert_accepts(call);
	call.in[1] = shaped(GPUQ_F32, 3, 4, 3, 8);
	assert_accepts(call);
	call.in[0].dims[1] = call.in[1].dims[2] = 0;
	assert_accepts(call);
	assert_accepts(softmax());
	assert_accepts(price());
	call = price();
	call.in[1] = shaped(GPUQ_BF16, 1, 5, 0, 0);
	call.out[0].dtype = GPUQ_BF16;
	assert_accepts(call);
}

static void test_unknown_operator(void **state)
{
	struct op_call call = gemv();

	call.op = NULL;
	assert_refuses(&call, GPUQ_EOP, 0);
}

static void test_missing_and_surplus_tensors(void **state)
{
	struct op_call call = gemv();

	call.in[0] = (struct tensor){0};
	assert_refuses(&call, GPUQ_EMISSING, 0);
	call = gemv();
	call.in[1] = (struct tensor){0};
	assert_refuses(&call, GPUQ_EMISSING, 1);
	call = gemv();
	call.out[0] = (struct tensor){0};
	assert_refuses(&call, GPUQ_EMISSING, OUT(0));
	call = gemv();
	call.in[3] = call.in[2];
	assert_refuses(&call, GPUQ_EARGS, 3);
	call = gemv();
	call.out[1] = call.out[0];
	assert_refuses(&call, GPUQ_EARGS, OUT(1));
}

static void test_dtypes(void **state)
{
	static const uint32_t bad[] = {GPUQ_I8, GPUQ_I64, GPUQ_DTYPE_LAST + 1, 32, 33, UINT32_MAX};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct op_call call = gemv();

		call.in[0].dtype = bad[i];
		assert_refuses(&call, GPUQ_EDTYPE, 0);
		call = gemv();
		call.in[2].dtype = bad[i];
		assert_refuses(&call, GPUQ_EDTYPE, 2);
		call = gemv();
		call.out[0].dtype = bad[i];
		assert_refuses(&call, GPUQ_EDTYPE, OUT(0));
	}
}

static void test_dtypes_that_do_not_go_together(void **state)
{
	struct op_call call = gemv();

	call.in[1].dtype = GPUQ_F16;
	assert_refuses(&call, GPUQ_EDTYPE, 1);
	call = gemv();
	call.in[2].dtype = GPUQ_BF16;
	assert_refuses(&call, GPUQ_EDTYPE, 2);
	call = gemv();
	call.out[0].dtype = GPUQ_F16;
	assert_refuses(&call, GPUQ_EDTYPE, OUT(0));
	call = softmax();
	call.out[0].dtype = GPUQ_BF16;
	assert_refuses(&call, GPUQ_EDTYPE, OUT(0));
	call = price();
	call.in[1].dtype = GPUQ_F32;
	assert_refuses(&call, GPUQ_EDTYPE, 1);
	call = price();
	call.out[0].dtype = GPUQ_F16;
	assert_refuses(&call, GPUQ_EDTYPE, OUT(0));
}

static void test_ranks(void **state)
{
	struct op_call call = gemv();

	call.in[0].rank = GPUQ_MAX_RANK + 1;
	assert_refuses(&call, GPUQ_ERANK, 0);
	call.in[0].rank = UINT32_MAX;
	assert_refuses(&call, GPUQ_ERANK, 0);
	call.in[0].rank = 1;
	assert_refuses(&call, GPUQ_ERANK, 0);
	call = gemv();
	call.in[1].rank = 1;
	assert_refuses(&call, GPUQ_ERANK, 1);
	call = gemv();
	call.in[2].rank = 2;
	assert_refuses(&call, GPUQ_ERANK, 2);
	call = gemv();
	call.out[0].rank = 1;
	assert_refuses(&call, GPUQ_ERANK, OUT(0));
	call.out[0].rank = GPUQ_MAX_RANK + 1;
	assert_refuses(&call, GPUQ_ERANK, OUT(0));
	call = softmax();
	call.in[0].rank = 0;
	assert_refuses(&call, GPUQ_ERANK, 0);
	call = price();
	call.in[0].rank = 2;
	assert_refuses(&call, GPUQ_ERANK, 0);
	call = price();
	call.in[1].rank = 3;
	assert_refuses(&call, GPUQ_ERANK, 1);
}

static void test_shapes(void **state)
{
	struct op_call call = gemv();

	call.in[1].dims[1] = 9;
	assert_refuses(&call, GPUQ_ESHAPE, 1);
	call.in[1] = shaped(GPUQ_F32, 3, 5, 3, 8);
	assert_refuses(&call, GPUQ_ESHAPE, 1);
	call = gemv();
	call.in[2].dims[0] = 4;
	assert_refuses(&call, GPUQ_ESHAPE, 2);
	call = gemv();
	call.out[0].dims[1] = 4;
	assert_refuses(&call, GPUQ_ESHAPE, OUT(0));
	call = softmax();
	call.out[0].dims[2] = 4;
	assert_refuses(&call, GPUQ_ESHAPE, OUT(0));
	call = price();
	call.in[1].dims[1] = 4;
	assert_refuses(&call, GPUQ_ESHAPE, 1);
	call = price();
	call.in[1].dims[0] = 2;
	assert_refuses(&call, GPUQ_ESHAPE, 1);
	call = price();
	call.out[0].dims[0] = 3;
	assert_refuses(&call, GPUQ_ESHAPE, OUT(0));
}

static void test_overflow(void **state)
{
	struct op_call call = gemv();

	call.in[0].dims[0] = 1ull << 61;
	assert_refuses(&call, GPUQ_EOVERFLOW, 0);
	call = gemv();
	call.out[0].dims[0] = UINT64_MAX;
	assert_refuses(&call, GPUQ_EOVERFLOW, OUT(0));
	/* Two empty inputs whose output is not. */
	call = gemv();
	call.in[0] = shaped(GPUQ_F32, 2, 1ull << 40, 0, 0);
	call.in[1] = shaped(GPUQ_F32, 2, 1ull << 40, 0, 0);
	call.in[2] = (struct tensor){0};
	call.out[0].rank = UINT32_MAX;
	assert_refuses(&call, GPUQ_EOVERFLOW, OUT(0));
}

static void test_params(void **state)
{
	static const double bad[] = {0, -0.0, -1, 1e-31, 1e31, INFINITY, -INFINITY, NAN};
	struct op_call call = softmax();

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		call.params[0].f64 = bad[i];
		assert_refuses(&call, GPUQ_EPARAM, PARAM(0));
	}
	call.params[0].f64 = 1e-30;
	assert_accepts(call);
	call.params[0].f64 = 1e30;
	assert_accepts(call);
}

static void test_integer_params(void **state)
{
	struct op op = op_softmax;
	struct op_call call = softmax();

	op.params[0] = (struct op_param){"k", "", GPUQ_PARAM_I64, 1, 1, 1000};
	call.op = &op;
	call.params[0].i64 = 1000;
	assert_accepts(call);
	call.params[0].i64 = 1001;
	assert_refuses(&call, GPUQ_EPARAM, PARAM(0));
	call.params[0].i64 = INT64_MIN;
	assert_refuses(&call, GPUQ_EPARAM, PARAM(0));
}

static int refuse_infer(struct op_call *call, uint32_t *ret_arg)
{
	call->out[0].rank = 5;
	*ret_arg = 3;
	return -GPUQ_ESHAPE;
}

static void test_failed_inference_leaves_no_trace(void **state)
{
	struct op op = op_softmax;
	struct op_call call = softmax();

	op.infer = refuse_infer;
	call.op = &op;
	assert_refuses(&call, GPUQ_ESHAPE, 3);
}

/* However large the other dimensions claim to be, nothing loops over nothing. */
static void test_no_units_without_outputs(void **state)
{
	struct op_call call = softmax();
	uint32_t arg;

	call.in[0] = shaped(GPUQ_F32, 2, 1ull << 60, 0, 0);
	call.out[0] = call.in[0];
	assert_int_equal(op_check(&call, &arg), 0);
	assert_int_equal(call.op->units(&call), 0);
	call = gemv();
	call.in[0] = shaped(GPUQ_F32, 2, 1ull << 60, 0, 0);
	call.in[1] = shaped(GPUQ_F32, 2, 0, 0, 0);
	call.in[2] = (struct tensor){0};
	call.out[0].rank = UINT32_MAX;
	assert_int_equal(op_check(&call, &arg), 0);
	assert_int_equal(call.op->units(&call), 0);
	call = price();
	call.in[0] = shaped(GPUQ_F32, 3, 1ull << 60, 0, 1);
	call.in[1] = shaped(GPUQ_F32, 1, 1, 0, 0);
	call.out[0].rank = UINT32_MAX;
	assert_int_equal(op_check(&call, &arg), 0);
	assert_int_equal(call.op->units(&call), 0);
}

static void test_work_saturates(void **state)
{
	struct op_call call = gemv();
	uint32_t arg;

	call.in[0] = shaped(GPUQ_F32, 2, 1ull << 30, 1ull << 30, 0);
	call.in[1] = shaped(GPUQ_F32, 2, 1ull << 30, 1ull << 30, 0);
	call.in[2] = (struct tensor){0};
	call.out[0].rank = UINT32_MAX;
	assert_int_equal(op_check(&call, &arg), 0);
	assert_true(call.op->work(&call) == UINT64_MAX);
}

/* f32 where that is allowed, presets, and what is optional absent. */
static struct op_call example_of(const struct op *op, uint64_t scale)
{
	struct op_call call = {.op = op};

	for (uint32_t i = 0; i < op->n_inputs; i++)
		call.in[i].dtype =
			op->inputs[i].optional ? 0 : (uint32_t)__builtin_ctz(op->inputs[i].dtypes);
	for (uint32_t i = 0; i < op->n_outputs; i++) {
		if (!op->outputs[i].optional)
			call.out[i] = (struct tensor){
				.dtype = (uint32_t)__builtin_ctz(op->outputs[i].dtypes),
				.rank = UINT32_MAX};
	}
	for (uint32_t i = 0; i < op->n_params; i++) {
		if (op->params[i].type == GPUQ_PARAM_I64)
			call.params[i].i64 = (int64_t)op->params[i].preset;
		else
			call.params[i].f64 = op->params[i].preset;
	}
	op->example(&call, scale);
	return call;
}

static void test_examples_are_valid_and_grow(void **state)
{
	for (uint32_t i = 0; i < op_count; i++) {
		uint64_t last = 0;

		for (uint64_t scale = 1; scale <= 1024; scale *= 2) {
			struct op_call call = example_of(op_table[i], scale);
			uint32_t arg;

			assert_int_equal(op_check(&call, &arg), 0);
			assert_true(call.op->work(&call) > last);
			last = call.op->work(&call);
		}
	}
}

static void test_tensor_size(void **state)
{
	struct tensor t = {.dtype = GPUQ_F32};
	uint64_t elements = 77, bytes = 77;

	assert_int_equal(tensor_size(&t, &elements, &bytes), 0);
	assert_true(elements == 1 && bytes == 4);
	t = shaped(GPUQ_I64, 3, 5, 0, 1ull << 57);
	assert_int_equal(tensor_size(&t, &elements, &bytes), 0);
	assert_true(elements == 0 && bytes == 0);
	t = shaped(GPUQ_I8, 2, 1ull << 32, (1ull << 31) - 1, 0);
	assert_int_equal(tensor_size(&t, &elements, &bytes), 0);
	assert_true(elements == ((1ull << 31) - 1) << 32 && bytes == elements);
}

static void test_tensor_size_overflow(void **state)
{
	static const struct tensor bad[] = {
		{.dtype = GPUQ_I8, .rank = 1, .dims = {1ull << 63}},
		{.dtype = GPUQ_I8, .rank = 2, .dims = {1ull << 32, 1ull << 32}},
		{.dtype = GPUQ_F32, .rank = 1, .dims = {1ull << 61}},
		{.dtype = GPUQ_I64, .rank = 3, .dims = {0, 1ull << 30, 1ull << 30}},
		{.dtype = GPUQ_F16, .rank = 8, .dims = {256, 256, 256, 256, 256, 256, 256, 256}},
	};
	uint64_t elements = 77, bytes = 77;
	struct tensor t = {.dtype = GPUQ_DTYPE_LAST + 1};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(tensor_size(&bad[i], &elements, &bytes), -GPUQ_EOVERFLOW);
	assert_int_equal(tensor_size(&t, &elements, &bytes), -GPUQ_EDTYPE);
	t = (struct tensor){.dtype = GPUQ_F32, .rank = GPUQ_MAX_RANK + 1};
	assert_int_equal(tensor_size(&t, &elements, &bytes), -GPUQ_ERANK);
	assert_true(elements == 77 && bytes == 77);
}

static void test_dtype_names(void **state)
{
	for (uint32_t i = 1; i <= GPUQ_DTYPE_LAST; i++) {
		assert_int_equal(dtype_from_name(dtype_name(i)), i);
		assert_true(dtype_size(i) > 0);
	}
	assert_string_equal(dtype_name(UINT32_MAX), "?");
	assert_int_equal(dtype_from_name("?"), 0);
	assert_int_equal(dtype_from_name("f64"), 0);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_finds_operators_by_name),
		HARNESS_TEST(test_accepts_good_calls),
		HARNESS_TEST(test_unknown_operator),
		HARNESS_TEST(test_missing_and_surplus_tensors),
		HARNESS_TEST(test_dtypes),
		HARNESS_TEST(test_dtypes_that_do_not_go_together),
		HARNESS_TEST(test_ranks),
		HARNESS_TEST(test_shapes),
		HARNESS_TEST(test_overflow),
		HARNESS_TEST(test_params),
		HARNESS_TEST(test_integer_params),
		HARNESS_TEST(test_failed_inference_leaves_no_trace),
		HARNESS_TEST(test_no_units_without_outputs),
		HARNESS_TEST(test_work_saturates),
		HARNESS_TEST(test_examples_are_valid_and_grow),
		HARNESS_TEST(test_tensor_size),
		HARNESS_TEST(test_tensor_size_overflow),
		HARNESS_TEST(test_dtype_names),
	};

	return harness_run("kernels-op", tests, sizeof(tests) / sizeof(tests[0]));
}
