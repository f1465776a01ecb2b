/* SPDX-License-Identifier: MIT */
/* Symbolic shapes: what binds, what follows from it, what is refused and with which words. */
#include "tests/harness.h"
#include "tools/shape.h"
#include "tools/step_shape.h"

#include <stdio.h>
#include <string.h>

#define DIMS(...)           \
	(const uint64_t[])  \
	{                   \
		__VA_ARGS__ \
	}

static char why[256];

static int bind(struct shape_env *env, const char *tensor, const char *text, uint32_t rank,
	const uint64_t *dims)
{
	why[0] = '\0';
	return shape_bind(env, tensor, text, rank, dims, why, sizeof(why));
}

static void assert_inferred(const struct shape_env *env, const char *text, const char *expected)
{
	uint64_t dims[GPUQ_MAX_RANK];
	uint32_t rank;
	char shown[128];

	assert_int_equal(shape_infer(env, "y", text, &rank, dims, why, sizeof(why)), 0);
	assert_string_equal(shape_text(rank, dims, shown, sizeof(shown)), expected);
}

static void binds_and_infers(void **state)
{
	struct shape_env env = {0};

	assert_int_equal(bind(&env, "x", "[B,I]", 2, DIMS(32, 64)), 0);
	assert_int_equal(bind(&env, "w", "[O,I] or [B,O,I]", 2, DIMS(10, 64)), 0);
	assert_int_equal(bind(&env, "bias", "[O]", 1, DIMS(10)), 0);
	assert_inferred(&env, "[B,O]", "[32,10]");
	assert_inferred(&env, "[ O , 3, B ]", "[10,3,32]");
	assert_inferred(&env, "[]", "[]");
	assert_inferred(&env, "[Q] | [I]", "[64]");
}

static void alternatives_go_by_rank_then_by_fit(void **state)
{
	struct shape_env env = {0};

	assert_int_equal(bind(&env, "x", "[B,I]", 2, DIMS(2, 3)), 0);
	assert_int_equal(bind(&env, "w", "[O,I] | [B,O,I]", 3, DIMS(2, 5, 3)), 0);
	assert_inferred(&env, "[B,O]", "[2,5]");
	assert_int_equal(bind(&env, "v", "[B,B] | [I,K]", 2, DIMS(3, 7)), 0);
	assert_inferred(&env, "[K]", "[7]");
}

static void leading_dimensions_are_any(void **state)
{
	struct shape_env env = {0};

	assert_int_equal(bind(&env, "x", "[..,D]", 3, DIMS(2, 3, 4)), 0);
	assert_inferred(&env, "[..,D]", "[2,3,4]");
	assert_inferred(&env, "[..]", "[2,3]");
	assert_int_equal(bind(&env, "z", "[..,E]", 3, DIMS(2, 5, 4)), -EINVAL);
	assert_string_equal(why, "the leading dimensions are [2,3] in x but [2,5] in z");

	struct shape_env flat = {0};
	assert_int_equal(bind(&flat, "x", "[..,D]", 1, DIMS(4)), 0);
	assert_inferred(&flat, "[..,D]", "[4]");
	assert_int_equal(bind(&flat, "x", "[..,D]", 0, DIMS(0)), -EINVAL);
	assert_string_equal(why, "x is [] and has to be [..,D]");
}

static void conflicts_name_symbol_tensors_and_values(void **state)
{
	struct shape_env env = {0};

	assert_int_equal(bind(&env, "x", "[B,I]", 2, DIMS(32, 64)), 0);
	struct shape_env before = env;
	assert_int_equal(bind(&env, "w", "[O,I] | [B,O,I]", 2, DIMS(10, 63)), -EINVAL);
	assert_string_equal(why, "I is 64 in x but 63 in w");
	assert_memory_equal(&env, &before, sizeof(env));
	assert_int_equal(bind(&env, "w", "[O,I] | [B,O,I]", 1, DIMS(64)), -EINVAL);
	assert_string_equal(why, "w is [64] and has to be [O,I] | [B,O,I]");
	assert_int_equal(bind(&env, "c", "[3]", 1, DIMS(4)), -EINVAL);
	assert_string_equal(why, "a dimension of c is 4 and has to be 3");
}

static void dimensions_are_made_of_several(void **state)
{
	struct shape_env env = {0};

	assert_int_equal(bind(&env, "qkv", "[N,(H+2G)D]", 2, DIMS(3, 48)), -EAGAIN);
	assert_string_equal(why, "a dimension of qkv needs H, which no input gives");
	assert_int_equal(env.n_symbols, 0);
	assert_int_equal(bind(&env, "cache", "[2,G,D]", 3, DIMS(2, 2, 4)), 0);
	assert_int_equal(bind(&env, "qkv", "[N,(H+2G)D]", 2, DIMS(3, 48)), 0);
	assert_inferred(&env, "[N,H,D]", "[3,8,4]");
	assert_inferred(&env, "[ceil(H/3),ceil(N/3), D+2 ,2H+3D+1,(H)(D)]", "[3,1,6,29,32]");
	assert_int_equal(bind(&env, "x", "[2F+1]", 1, DIMS(7)), 0);
	assert_inferred(&env, "[F]", "[3]");
	assert_int_equal(bind(&env, "y", "[2E+1]", 1, DIMS(8)), -EINVAL);
	assert_string_equal(
		why, "a dimension of y is 8, from which no E follows: it is to be 2E+1");
	assert_int_equal(bind(&env, "y", "[E+9]", 1, DIMS(8)), -EINVAL);
	assert_int_equal(bind(&env, "y", "[D+2]", 1, DIMS(8)), -EINVAL);
	assert_string_equal(why, "a dimension of y is 8 and has to be 6");
	assert_int_equal(bind(&env, "y", "[ D ]", 1, DIMS(8)), -EINVAL);
	assert_string_equal(why, "D is 4 in cache but 8 in y");
	/* Nothing follows from these. */
	assert_int_equal(bind(&env, "y", "[EE]", 1, DIMS(9)), 0);
	assert_int_equal(bind(&env, "y", "[(E)(E)]", 1, DIMS(9)), -EAGAIN);
	assert_int_equal(bind(&env, "y", "[ceil(E/2)]", 1, DIMS(9)), -EAGAIN);
	assert_int_equal(bind(&env, "y", "[18446744073709551615D]", 1, DIMS(9)), -EAGAIN);
	assert_string_equal(why, "a dimension of y needs smaller numbers, which no input gives");
}

static void forms_are_for_calls_without_a_tensor(void **state)
{
	static const char text[] = "[..,2F] without up or [..,F]";
	struct shape_env with = {0}, without = {.n_absent = 1, .absent = {"up"}};

	assert_int_equal(bind(&with, "gate", text, 2, DIMS(3, 8)), 0);
	assert_inferred(&with, "[..,F]", "[3,8]");
	assert_inferred(&with, text, "[3,8]");
	assert_int_equal(bind(&without, "gate", text, 2, DIMS(3, 8)), 0);
	assert_inferred(&without, "[..,F]", "[3,4]");
	assert_inferred(&without, text, "[3,8]");
}

static void unknown_symbols_are_named(void **state)
{
	struct shape_env env = {0};
	uint64_t dims[GPUQ_MAX_RANK];
	uint32_t rank = 77;

	assert_int_equal(shape_infer(&env, "y", "[B,O]", &rank, dims, why, sizeof(why)), -EINVAL);
	assert_string_equal(why, "the shape of y, [B,O], needs B, which no input gives");
	assert_int_equal(shape_infer(&env, "y", "[..,D]", &rank, dims, why, sizeof(why)), -EINVAL);
	assert_int_equal(rank, 77);
}

static void malformed_texts_are_refused(void **state)
{
	static const char *const bad[] = {
		"",
		"B",
		"[B",
		"[B,",
		"[B I]",
		"[B] else [C]",
		"[B] |",
		"[-1]",
		"[99999999999999999999999]",
		"[A,A,A,A,A,A,A,A,A]",
		"[B,..]",
		"[(B]",
		"[B)]",
		"[()]",
		"[B+]",
		"[+B]",
		"[ceil(B)]",
		"[ceil(B/0)]",
		"[ceil(B/C)]",
		"[B] without",
		"[B] without ",
	};
	struct shape_env env = {0};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (bind(&env, "x", bad[i], 2, DIMS(1, 1)) != -EINVAL)
			fail_msg("accepted: %s", bad[i]);
	}
}

static void steps_are_told_by_what_makes_them_large(void **state)
{
	static const char *const shapes[][2] = {
		{"tiny tokens[4]i32 positions[4]i32 rows[4]i32 table[3,12]i32 context[192]u8 "
		 "last[3]i32 temperatures[3]f32 ids[3,16]i32 -> values[3,64]f32 tokens[3,64]i32",
			"tiny: 4 tokens of 3 texts, context 192, 16 ids"},
		{"llama:2 tokens[1]i32 positions[1]i32 rows[1]i32 table[1,4]i32 context[64]u8 "
		 "last[1]i32 temperatures[1]f32 seeds[1,2]i64 -> token[1]i32 logprob[1]f32",
			"llama:2: 1 token of 1 text, context 64, drawn"},
		{"a_long_name tokens[1]i32 positions[1]i32 rows[1]i32 table[1,4]i32 "
		 "context[64]u8 last[1]i32 temper",
			"a_long_name: 1 token of 1 text, context 64"},
	};
	static const char *const others[] = {"", "tiny", "softmax x[32,64]f32 -> y[32,64]f32",
		"tiny tokens[4]i32 positions[4]i32 rows[4]i32 table[3,12]i32 context[19"};
	char text[160] = "as before";

	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		assert_false(step_shape_text(others[i], text, sizeof(text)));
	assert_string_equal(text, "as before");
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		assert_true(step_shape_text(shapes[i][0], text, sizeof(text)));
		assert_string_equal(text, shapes[i][1]);
	}
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(binds_and_infers),
		HARNESS_TEST(alternatives_go_by_rank_then_by_fit),
		HARNESS_TEST(leading_dimensions_are_any),
		HARNESS_TEST(conflicts_name_symbol_tensors_and_values),
		HARNESS_TEST(dimensions_are_made_of_several),
		HARNESS_TEST(forms_are_for_calls_without_a_tensor),
		HARNESS_TEST(unknown_symbols_are_named),
		HARNESS_TEST(malformed_texts_are_refused),
		HARNESS_TEST(steps_are_told_by_what_makes_them_large),
	};

	return harness_run("tools-shape", tests, sizeof(tests) / sizeof(tests[0]));
}
