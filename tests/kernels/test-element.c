/* SPDX-License-Identifier: MIT */
/* test-element.c: conversions of elements, the formulas of the operators, and the latency model. */
#include "tests/harness.h"

#include "kernels/cost.h"
#include "kernels/element.h"
#include "kernels/ops.h"

#include <math.h>

static void test_every_half_survives(void **state)
{
	static const uint32_t dtypes[] = {GPUQ_F16, GPUQ_BF16};

	for (size_t d = 0; d < 2; d++) {
		for (uint32_t bits = 0; bits <= UINT16_MAX; bits++) {
			const uint16_t in = (uint16_t)bits;
			uint16_t out = 0;
			const double value = element_get(&in, dtypes[d], 0);

			element_set(&out, dtypes[d], 0, value);
			if (isnan(value))
				assert_true(isnan(element_get(&out, dtypes[d], 0)));
			else
				assert_int_equal(out, in);
		}
	}
}

static double rounded(uint32_t dtype, double value)
{
	uint32_t room;

	element_set(&room, dtype, 0, value);
	return element_get(&room, dtype, 0);
}

static void test_known_halves(void **state)
{
	static const uint16_t f16[] = {0x3c00, 0xc000, 0x7bff, 0x0001, 0x0400, 0x7c00, 0x3555};
	static const double values[] = {1, -2, 65504, 0x1p-24, 0x1p-14, INFINITY, 0x1.554p-2};

	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
		assert_true(element_get(f16, GPUQ_F16, i) == values[i]);
	assert_true(element_get((uint16_t[]){0x3f80}, GPUQ_BF16, 0) == 1);
	assert_true(element_get((uint16_t[]){0x0001}, GPUQ_BF16, 0) == 0x1p-133);
}

static void test_rounding_to_nearest_even(void **state)
{
	assert_true(rounded(GPUQ_F16, 1 + 0x1p-11) == 1);
	assert_true(rounded(GPUQ_F16, 1 + 3 * 0x1p-11) == 1 + 0x1p-9);
	/* By way of float this would be rounded twice, the second time down. */
	assert_true(rounded(GPUQ_F16, 1 + 0x1p-11 + 0x1p-40) == 1 + 0x1p-10);
	assert_true(rounded(GPUQ_F16, 0x1p-25) == 0);
	assert_true(rounded(GPUQ_F16, 0x1.8p-25) == 0x1p-24);
	assert_true(rounded(GPUQ_F16, 65519.99) == 65504);
	assert_true(rounded(GPUQ_F16, -65520) == -INFINITY);
	assert_true(rounded(GPUQ_BF16, 1 + 0x1p-8) == 1);
	assert_true(rounded(GPUQ_BF16, 1 + 0x1p-8 + 0x1p-40) == 1 + 0x1p-7);
	assert_true(rounded(GPUQ_BF16, 0x1.ffp127) == INFINITY);
	assert_true(rounded(GPUQ_F32, 1 + 0x1p-24) == 1);
	assert_true(signbit(rounded(GPUQ_F16, -0.0)));
}

static void test_gemv_by_hand(void **state)
{
	float x[] = {1, 2, 3, 4, 5, 6}, w[] = {1, 0, -1, 2, 2, 2}, bias[] = {10, 20}, y[4];
	struct op_call call = {
		.op = &op_gemv_batched,
		.in = {{x, GPUQ_F32, 2, {2, 3}}, {w, GPUQ_F32, 2, {2, 3}},
			{bias, GPUQ_F32, 1, {2}}},
		.out = {{y, GPUQ_F32, UINT32_MAX}},
	};
	uint32_t arg;

	assert_int_equal(op_check(&call, &arg), 0);
	call.op->cpu(&call, 0, call.op->units(&call));
	assert_true(y[0] == 8 && y[1] == 32 && y[2] == 8 && y[3] == 50);
	/* The same six numbers as one matrix for each row of the batch. */
	call.in[1] = (struct tensor){w, GPUQ_F32, 3, {2, 1, 3}};
	call.in[2].dims[0] = 1;
	call.out[0].rank = UINT32_MAX;
	assert_int_equal(op_check(&call, &arg), 0);
	call.op->cpu(&call, 0, call.op->units(&call));
	assert_true(y[0] == 8 && y[1] == 40);
}

static void test_price_by_hand(void **state)
{
	float prices[] = {1, 2, 3, 4, 5, 6, 7, 8}, weights[] = {1, 10, 100, 1000}, scores[4];
	struct op_call call = {
		.op = &op_price_vectors,
		.in = {{prices, GPUQ_F32, 3, {2, 2, 2}}, {weights, GPUQ_F32, 1, {2}}},
		.out = {{scores, GPUQ_F32, UINT32_MAX}},
	};
	uint32_t arg;

	assert_int_equal(op_check(&call, &arg), 0);
	call.op->cpu(&call, 0, call.op->units(&call));
	assert_true(scores[0] == 21 && scores[1] == 43 && scores[2] == 65 && scores[3] == 87);
	call.in[1] = (struct tensor){weights, GPUQ_F32, 2, {2, 2}};
	assert_int_equal(op_check(&call, &arg), 0);
	call.op->cpu(&call, 0, call.op->units(&call));
	assert_true(scores[0] == 21 && scores[1] == 4300 && scores[2] == 65 && scores[3] == 8700);
}

static void test_softmax_by_hand(void **state)
{
	float x[] = {0, 0, 0, 0, 1, -INFINITY, 1, -INFINITY, 1, 2, INFINITY, 3, -INFINITY,
		-INFINITY, -INFINITY, -INFINITY, 0, NAN, 0, 0};
	float y[20];
	struct op_call call = {
		.op = &op_softmax,
		.in = {{x, GPUQ_F32, 2, {5, 4}}},
		.out = {{y, GPUQ_F32, UINT32_MAX}},
		.params = {{.f64 = 0.5}},
	};
	uint32_t arg;

	assert_int_equal(op_check(&call, &arg), 0);
	call.op->cpu(&call, 0, call.op->units(&call));
	for (int i = 0; i < 4; i++)
		assert_true(y[i] == 0.25);
	assert_true(y[4] == 0.5 && y[5] == 0 && y[6] == 0.5 && y[7] == 0);
	for (int i = 8; i < 20; i++)
		assert_true(isnan(y[i]));
}

static struct op_call softmax_rows(uint32_t dtype, uint64_t rows)
{
	return (struct op_call){.op = &op_softmax, .in = {{NULL, dtype, 2, {rows, 64}}}};
}

static void test_cost_model(void **state)
{
	static struct cost_model model;
	struct op unknown = op_softmax;
	struct op_call call;

	assert_int_equal(cost_calibrate(&model), 0);
	for (uint32_t dtype = GPUQ_F32; dtype <= GPUQ_BF16; dtype++) {
		uint64_t last = 0;

		for (uint64_t rows = 1 << 4; rows <= 1 << 20; rows <<= 4) {
			call = softmax_rows(dtype, rows);
			assert_true(cost_predict_ns(&model, &call) > last);
			last = cost_predict_ns(&model, &call);
		}
		/* 64 million exponentials take more than a millisecond and less than a minute. */
		assert_in_range(last, 1000000, 60000000000);
	}
	call = softmax_rows(GPUQ_I8, 1);
	assert_true(cost_predict_ns(&model, &call) == UINT64_MAX);
	call = softmax_rows(UINT32_MAX, 1);
	assert_true(cost_predict_ns(&model, &call) == UINT64_MAX);
	call = softmax_rows(GPUQ_F32, 1);
	call.op = &unknown;
	assert_true(cost_predict_ns(&model, &call) == UINT64_MAX);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_every_half_survives),
		HARNESS_TEST(test_known_halves),
		HARNESS_TEST(test_rounding_to_nearest_even),
		HARNESS_TEST(test_gemv_by_hand),
		HARNESS_TEST(test_price_by_hand),
		HARNESS_TEST(test_softmax_by_hand),
		HARNESS_TEST(test_cost_model),
	};

	return harness_run("kernels-element", tests, sizeof(tests) / sizeof(tests[0]));
}
