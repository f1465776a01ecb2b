/* SPDX-License-Identifier: MIT */
/*
 * test-verify.c: the checker of the operators is checked: it accepts what the fast forms compute
 * and goes red on every kind of wrong output, and the guards notice what they are for.
 */
#include "tests/harness.h"

#include "kernels/element.h"
#include "kernels/isa.h"
#include "shm/atomics.h"
#include "tests/kernels/verify.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Those with one output, whose checker is verify.h. */
static const struct op *const verified[] = {&op_gemv_batched, &op_softmax, &op_price_vectors};
#define N_VERIFIED (sizeof(verified) / sizeof(verified[0]))

static void run(struct trial *t)
{
	t->call.op->cpu(&t->call, 0, t->call.op->units(&t->call));
}

static bool accepted(const struct trial *t)
{
	char what[200];

	return verify(t, what, sizeof(what));
}

/* Writes uniform values of [low, high) to all inputs, then computes reference and output. */
static void compute(struct trial *t, double low, double high)
{
	struct random rng = {7};

	for (uint32_t i = 0; i < t->call.op->n_inputs; i++) {
		const struct tensor *in = &t->call.in[i];
		uint64_t elements, bytes;

		if (!tensor_present(in))
			continue;
		assert_int_equal(tensor_size(in, &elements, &bytes), 0);
		for (uint64_t j = 0; j < elements; j++)
			element_set(in->data, in->dtype, j, low + (high - low) * random_unit(&rng));
	}
	t->call.params[0].f64 = 1;
	trial_reference(t);
	run(t);
}

/* A random f32 call with some inputs and outputs. */
static void prepare(struct trial *t, const struct op *op)
{
	struct random rng = {42};
	uint64_t elements, bytes;

	trial_create(t);
	do {
		trial_fill(t, op, &rng);
		assert_int_equal(tensor_size(&t->call.in[0], &elements, &bytes), 0);
	} while (t->call.in[0].dtype != GPUQ_F32 || t->n_outputs < 10 || elements < 100);
}

static void assert_red_when_changed(struct trial *t, uint64_t i, float value)
{
	float *y = t->call.out[0].data;
	const float kept = y[i];

	y[i] = value;
	assert_false(accepted(t));
	y[i] = kept;
	assert_true(accepted(t));
}

static void test_wrong_elements_are_caught(void **state)
{
	for (size_t op = 0; op < N_VERIFIED; op++) {
		struct trial t;
		float *y;

		prepare(&t, verified[op]);
		/* Positive throughout, so each output is its own scale. */
		compute(&t, 0.5, 1);
		y = t.call.out[0].data;
		assert_true(accepted(&t));
		assert_red_when_changed(&t, 0, y[0] * (1 + 3e-5f));
		assert_red_when_changed(&t, t.n_outputs - 1, y[t.n_outputs - 1] * (1 - 3e-5f));
		assert_red_when_changed(&t, 1, NAN);
		assert_red_when_changed(&t, 2, INFINITY);
		assert_red_when_changed(&t, 3, 0);
		assert_red_when_changed(&t, 4, -y[4]);
		trial_destroy(&t);
	}
}

/* Each element is within its bound, but they all err to the same side. */
static void test_bias_is_caught_by_the_norm(void **state)
{
	for (size_t op = 0; op < N_VERIFIED; op++) {
		struct trial t;
		float *y;

		prepare(&t, verified[op]);
		compute(&t, 0.5, 1);
		y = t.call.out[0].data;
		for (uint64_t i = 0; i < t.n_outputs; i++)
			y[i] *= 1 + 5e-6f;
		assert_false(accepted(&t));
		trial_destroy(&t);
	}
}

static void test_wrong_references_are_caught(void **state)
{
	for (size_t op = 0; op < N_VERIFIED; op++) {
		struct trial t;
		float *expected;

		prepare(&t, verified[op]);
		compute(&t, 0.5, 1);
		expected = (float *)t.expected.placed;
		expected[0] *= 1.001f;
		((float *)t.call.out[0].data)[0] = expected[0];
		assert_false(accepted(&t));
		trial_destroy(&t);
	}
}

static void test_lost_nan_is_caught(void **state)
{
	for (size_t op = 0; op < N_VERIFIED; op++) {
		struct trial t;
		float *y;

		prepare(&t, verified[op]);
		compute(&t, 0.5, 1);
		((float *)t.call.in[0].data)[0] = NAN;
		trial_reference(&t);
		run(&t);
		y = t.call.out[0].data;
		assert_true(isnan(y[0]));
		assert_true(accepted(&t));
		y[0] = 1;
		assert_false(accepted(&t));
		trial_destroy(&t);
	}
}

static void test_flushed_subnormals_are_caught(void **state)
{
#ifdef __x86_64__
	const unsigned int mode = __builtin_ia32_stmxcsr();
	struct trial t;

	prepare(&t, &op_price_vectors);
	compute(&t, 0.5, 1);
	for (uint64_t i = 0; i < t.call.in[1].dims[t.call.in[1].rank - 1]; i++)
		((float *)t.call.in[1].data)[i] = 0x1p-140f;
	t.call.in[1].rank = 1;
	t.call.in[1].dims[0] = t.call.in[0].dims[2];
	trial_reference(&t);
	run(&t);
	assert_true(accepted(&t));
	__builtin_ia32_ldmxcsr(mode | 1u << 15 | 1u << 6);
	run(&t);
	__builtin_ia32_ldmxcsr(mode);
	assert_false(accepted(&t));
	trial_destroy(&t);
#else
	harness_skip("only written for x86-64");
#endif
}

static void test_different_results_are_told_apart(void **state)
{
	const struct tensor out = {.dtype = GPUQ_F32};
	const float a[] = {1, NAN, 0}, b[] = {1, -NAN, 0}, c[] = {1, NAN, -0.0f};
	const float d[] = {1 + 0x1p-23f, NAN, 0}, e[] = {1, 2, 0};

	assert_true(verify_same(&out, a, b, 3));
	assert_false(verify_same(&out, a, c, 3));
	assert_false(verify_same(&out, a, d, 3));
	assert_false(verify_same(&out, a, e, 3));
}

static void test_guards_notice_writes_nearby(void **state)
{
	struct guard g;
	char *p;

	guard_create(&g, 10000);
	p = guard_place(&g, 1000, GUARD_INSIDE, 777);
	assert_true(guard_intact(&g));
	p[0] = p[999] = 1;
	assert_true(guard_intact(&g));
	p[-1] = 1;
	assert_false(guard_intact(&g));
	p = guard_place(&g, 1000, GUARD_START, 0);
	p[1000] = 1;
	assert_false(guard_intact(&g));
	p = guard_place(&g, 1000, GUARD_END, 0);
	p[-256] = 1;
	assert_false(guard_intact(&g));
	guard_destroy(&g);
}

/* In a child, since it should die of it. */
static bool read_ends_the_process(const volatile char *p)
{
	const pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		close(STDERR_FILENO);
		_exit(*p == 1 ? 0 : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

static void test_guards_fault_on_reads_beside(void **state)
{
	struct guard g;
	const char *p;

	guard_create(&g, 5000);
	p = guard_place(&g, 123, GUARD_END, 0);
	assert_false(read_ends_the_process(p + 122));
	assert_true(read_ends_the_process(p + 123));
	p = guard_place(&g, 123, GUARD_START, 0);
	assert_false(read_ends_the_process(p));
	assert_true(read_ends_the_process(p - 1));
	guard_destroy(&g);
}

struct mutator {
	const struct trial *t;
	uint32_t stop;
};

/* Scribbles over the inputs as a hostile client would. */
static void *mutate(void *arg)
{
	struct mutator *m = arg;
	struct random rng = {3};

	while (shm_load_acquire_u32(&m->stop) == 0) {
		const struct guard *g = &m->t->inputs[random_below(&rng, 2)];

		if (g->bytes > 0)
			((volatile char *)g->placed)[random_below(&rng, g->bytes)] =
				(char)random_u64(&rng);
	}
	return NULL;
}

/* Values that change under a kernel may make its result wrong, never touch anything else. */
static void test_changing_inputs_do_no_harm(void **state)
{
	for (size_t op = 0; op < N_VERIFIED; op++) {
		struct mutator m = {0};
		struct trial t;
		pthread_t thread;

		prepare(&t, verified[op]);
		m.t = &t;
		assert_int_equal(pthread_create(&thread, NULL, mutate, &m), 0);
		for (enum isa isa = ISA_BASE; isa < ISA_COUNT; isa++) {
			if (!isa_supported(isa))
				continue;
			isa_select(isa);
			for (int i = 0; i < 300; i++)
				run(&t);
		}
		shm_store_release_u32(&m.stop, 1);
		pthread_join(thread, NULL);
		assert_true(guard_intact(&t.output));
		trial_destroy(&t);
	}
}

static void test_instruction_sets(void **state)
{
	assert_true(isa_supported(ISA_BASE));
	assert_true(isa_supported(isa_selected()));
	for (enum isa isa = isa_selected() + 1; isa < ISA_COUNT; isa++)
		assert_false(isa_supported(isa));
	assert_false(isa_supported(ISA_COUNT));
	assert_string_equal(isa_name(ISA_AVX2), "avx2");
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_wrong_elements_are_caught),
		HARNESS_TEST(test_bias_is_caught_by_the_norm),
		HARNESS_TEST(test_wrong_references_are_caught),
		HARNESS_TEST(test_lost_nan_is_caught),
		HARNESS_TEST(test_flushed_subnormals_are_caught),
		HARNESS_TEST(test_different_results_are_told_apart),
		HARNESS_TEST(test_guards_notice_writes_nearby),
		HARNESS_TEST(test_guards_fault_on_reads_beside),
		HARNESS_TEST(test_changing_inputs_do_no_harm),
		HARNESS_TEST(test_instruction_sets),
	};

	return harness_run("kernels-verify", tests, sizeof(tests) / sizeof(tests[0]));
}
