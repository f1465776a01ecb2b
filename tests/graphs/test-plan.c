/* SPDX-License-Identifier: MIT */
/* Plans: inner tensors that live at once never overlap, and what the kernels compute is right. */
#include "tests/harness.h"

#include "graphs/plan.h"
#include "kernels/ops.h"
#include "tests/graphs/definition.h"

#include <stdlib.h>
#include <string.h>

#define ROWS 3
#define COLUMNS 20
#define BASE ((void *)(1ul << 40)) /* scratch memory that nobody touches */

/* The call of a pipeline with its registered shapes; its tensors are of no use otherwise. */
static struct op_call call_of(const struct pipeline *p, uint64_t rows, uint64_t columns)
{
	struct tensor tensors[PIPELINE_MAX_TENSORS];
	struct op_call call = {.op = pipeline_op(p)};
	uint32_t n;

	pipeline_tensors(p, tensors, &n);
	memcpy(call.in, tensors, call.op->n_inputs * sizeof(call.in[0]));
	for (uint32_t i = 0; i < call.op->n_outputs; i++) {
		call.out[i] = tensors[call.op->n_inputs + i];
		call.out[i].rank = 2;
		call.out[i].dims[0] = rows;
		call.out[i].dims[1] = columns;
	}
	return call;
}

static struct pipeline *pipeline_of(struct definition *d)
{
	char why[PIPELINE_MAX_WHY];
	int err;
	struct pipeline *p = definition_create(d, &err, why);

	assert_non_null(p);
	return p;
}

static struct plan *plan_of(
	const struct pipeline *p, uint64_t rows, uint64_t columns, void *scratch_base)
{
	const struct op_call call = call_of(p, rows, columns);
	struct plan *plan = NULL;
	uint32_t blame;

	assert_int_equal(plan_create(p, &call, scratch_base, NULL, &plan, &blame), 0);
	return plan;
}

/* The kernel's call as the device makes it of shape and arguments. */
static struct op_call assemble(const struct op_launch *launch, const struct device_args *args)
{
	struct op_call call = launch->call;

	for (uint32_t i = 0; i < call.op->n_inputs; i++) {
		if (launch->in[i] != OP_FIXED)
			call.in[i].data = args->pointers[launch->in[i]];
	}
	for (uint32_t i = 0; i < call.op->n_outputs; i++) {
		if (launch->out[i] != OP_FIXED)
			call.out[i].data = args->pointers[launch->out[i]];
	}
	for (uint32_t i = 0; i < call.op->n_params; i++) {
		if (launch->params[i] != OP_FIXED)
			memcpy(&call.params[i], &args->scalars[launch->params[i]], 8);
	}
	return call;
}

struct life {
	uint64_t begin, end; /* bytes */
	uint32_t from, to;   /* kernels */
};

static void check_lives(const struct pipeline *p, const struct plan *plan, char *base)
{
	struct life lives[PIPELINE_MAX_TENSORS] = {0};
	uint32_t n, n_external = pipeline_op(p)->n_inputs + pipeline_op(p)->n_outputs;
	const struct pipeline_step *steps = pipeline_steps(p, &n);

	for (uint32_t i = 0; i < n; i++) {
		const struct tensor *t = &plan->kernels[i].launch.call.out[0];
		const uint64_t begin = (uint64_t)((char *)t->data - base);

		if (steps[i].out[0] >= n_external) {
			assert_int_equal(begin % PLAN_ALIGN, 0);
			lives[steps[i].out[0]] =
				(struct life){begin, begin + t->dims[0] * t->dims[1] * 4, i, i};
			assert_true(lives[steps[i].out[0]].end <= plan->scratch_bytes);
		}
		if (steps[i].in[0] >= n_external)
			lives[steps[i].in[0]].to = i;
	}
	for (uint32_t i = n_external; i < PIPELINE_MAX_TENSORS; i++) {
		for (uint32_t j = n_external; j < i; j++) {
			const bool bytes =
				lives[i].begin < lives[j].end && lives[j].begin < lives[i].end;
			const bool time =
				lives[i].from <= lives[j].to && lives[j].from <= lives[i].to;

			assert_false(bytes && time);
		}
	}
}

static void test_plan_no_overlap(void **state)
{
	struct random rng = {17};

	for (uint32_t round = 0; round < 200; round++) {
		struct definition *d = definition_random(
			&rng, 1 + (uint32_t)random_below(&rng, 80), ROWS, COLUMNS);
		struct pipeline *p = pipeline_of(d);
		struct plan *plan = plan_of(p, ROWS, COLUMNS, BASE);

		check_lives(p, plan, BASE);
		plan_destroy(plan);
		pipeline_unref(p);
		free(d);
	}
}

/* A chain needs two places, however long it is. */
static void test_plan_reuses_scratch(void **state)
{
	struct definition *d = definition_new("chain", 1, 1);
	struct pipeline *p;
	struct plan *plan;

	definition_tensor(d, "x", GPUQ_F32, ROWS, COLUMNS);
	definition_tensor(d, "y", GPUQ_F32, 0, 0);
	for (uint32_t i = 0; i < 50; i++) {
		definition_tensor(d, "t", GPUQ_F32, 0, 0);
		definition_step(d, "softmax", i == 0 ? 0 : (uint16_t)(1 + i), WIRE_PIPELINE_NONE,
			(uint16_t)(2 + i));
	}
	definition_step(d, "softmax", 51, WIRE_PIPELINE_NONE, 1);
	p = pipeline_of(d);
	plan = plan_of(p, ROWS, COLUMNS, BASE);
	assert_int_equal(plan->n_kernels, 51);
	assert_int_equal(plan->scratch_bytes, 2 * PLAN_ALIGN);
	plan_destroy(plan);
	pipeline_unref(p);
	free(d);
}

static void fill(float *data, uint64_t n, struct random *rng)
{
	for (uint64_t i = 0; i < n; i++)
		data[i] = (float)(random_unit(rng) - 0.5);
}

/* Every tensor has memory of its own, every step its reference. */
static void run_apart(const struct pipeline *p, float *const *memory)
{
	uint32_t n, n_tensors, arg;
	const struct pipeline_step *steps = pipeline_steps(p, &n);
	struct tensor tensors[PIPELINE_MAX_TENSORS];

	pipeline_tensors(p, tensors, &n_tensors);
	for (uint32_t i = 0; i < n_tensors; i++)
		tensors[i].data = memory[i];
	for (uint32_t i = 0; i < n; i++) {
		struct op_call call;

		assert_int_equal(pipeline_check_step(&steps[i], tensors, &call, &arg), 0);
		call.op->reference(&call);
	}
}

static void run_planned(const struct plan *plan, const struct device_args *args)
{
	for (uint32_t i = 0; i < plan->n_kernels; i++) {
		const struct op_call call = assemble(&plan->kernels[i].launch, args);

		assert_true(plan->kernels[i].units > 0);
		call.op->reference(&call);
	}
}

static void check_results(struct definition *d, struct random *rng)
{
	static float memory[64][COLUMNS * COLUMNS], results[GPUQ_MAX_OUTPUTS][ROWS * COLUMNS];
	float *apart[64];
	struct pipeline *p = pipeline_of(d);
	struct plan *plan = plan_of(p, ROWS, COLUMNS, BASE);
	void *scratch = aligned_alloc(PLAN_ALIGN, plan->scratch_bytes + PLAN_ALIGN);
	struct device_args args = {.pointers = {memory[0], memory[1]}};

	for (uint32_t i = 0; i < 64; i++)
		apart[i] = memory[i];
	fill(memory[0], ROWS * COLUMNS, rng);
	fill(memory[1], COLUMNS * COLUMNS, rng);
	run_apart(p, apart);
	for (uint32_t i = 0; i < d->head.n_outputs; i++)
		args.pointers[GPUQ_MAX_INPUTS + i] = results[i];
	plan_move(plan, BASE, scratch);
	run_planned(plan, &args);
	for (uint32_t i = 0; i < d->head.n_outputs; i++)
		assert_memory_equal(results[i], memory[2 + i], sizeof(results[i]));
	free(scratch);
	plan_destroy(plan);
	pipeline_unref(p);
	free(d);
}

static void test_plan_results(void **state)
{
	struct random rng = {23};

	for (uint32_t round = 0; round < 100; round++)
		check_results(definition_random(
				      &rng, 1 + (uint32_t)random_below(&rng, 60), ROWS, COLUMNS),
			&rng);
}

/* --- Operators, other shapes, refusals ------------------------------------------------------ */

static void test_plan_of_an_operator(void **state)
{
	struct op_call call = {.op = &op_softmax};
	struct plan *plan;
	uint32_t blame, arg;

	call.in[0] = (struct tensor){.dtype = GPUQ_F32, .rank = 2, .dims = {5, 7}};
	call.out[0] = (struct tensor){.dtype = GPUQ_F32, .rank = UINT32_MAX};
	call.params[0].f64 = 1;
	assert_int_equal(op_check(&call, &arg), 0);
	assert_int_equal(plan_create(NULL, &call, BASE, NULL, &plan, &blame), 0);
	assert_int_equal(plan->n_kernels, 1);
	assert_int_equal(plan->scratch_bytes, 0);
	assert_int_equal(plan->kernels[0].units, 5);
	assert_int_equal(plan->kernels[0].launch.in[0], 0);
	assert_int_equal(plan->kernels[0].launch.out[0], GPUQ_MAX_INPUTS);
	assert_int_equal(plan->kernels[0].launch.params[0], 0);
	plan_destroy(plan);
	plan_destroy(NULL);
}

static int try_plan(const struct pipeline *p, const struct op_call *call, uint32_t *ret_blame)
{
	struct plan *plan = NULL;
	int err = plan_create(p, call, BASE, NULL, &plan, ret_blame);

	if (err == 0)
		plan_destroy(plan);
	else
		assert_null(plan);
	return err;
}

static void test_plan_other_shapes(void **state)
{
	struct definition *d = definition_layers(4, 8, 16, 3);
	struct pipeline *p = pipeline_of(d);
	struct op_call call = call_of(p, 4, 3);
	uint32_t blame = 99;

	assert_int_equal(try_plan(p, &call, &blame), 0);
	assert_int_equal(blame, 99);
	call.in[0].dims[0] = 64; /* another batch */
	assert_int_equal(try_plan(p, &call, &blame), -GPUQ_ESHAPE);
	assert_int_equal(blame, 1 + GPUQ_MAX_INPUTS); /* y */
	call.out[0].dims[0] = 64;
	assert_int_equal(try_plan(p, &call, &blame), 0);
	call.in[1].dims[0] = 17; /* hidden becomes wider than w2 reads: w2 is to blame */
	assert_int_equal(try_plan(p, &call, &blame), -GPUQ_ESHAPE);
	assert_int_equal(blame, 1 + 2);
	call.in[1].dims[0] = 16;
	call.in[1].rank = 1;
	assert_int_equal(try_plan(p, &call, &blame), -GPUQ_ERANK);
	assert_int_equal(blame, 1 + 1);
	call.in[1].rank = 2;
	call.in[0].dtype = GPUQ_F16;
	assert_int_equal(try_plan(p, &call, &blame), -GPUQ_EDTYPE);
	assert_int_equal(blame, 1);
	call.in[0].dtype = 0;
	assert_int_equal(try_plan(p, &call, &blame), -GPUQ_EMISSING);
	pipeline_unref(p);
	free(d);
}

static void test_plan_refuses_huge_scratch(void **state)
{
	struct definition *d = definition_layers(1, 1, 1, 1);
	struct pipeline *p = pipeline_of(d);
	struct op_call call = call_of(p, 1ull << 50, 1);
	uint32_t blame;

	call.in[0].dims[0] = 1ull << 50;
	assert_int_equal(try_plan(p, &call, &blame), -GPUQ_EOVERFLOW);
	pipeline_unref(p);
	free(d);
}

static void test_plan_of_nothing(void **state)
{
	struct definition *d = definition_layers(4, 8, 16, 3);
	struct pipeline *p = pipeline_of(d);
	struct op_call call = call_of(p, 0, 3);
	struct plan *plan;
	uint32_t blame;

	call.in[0].dims[0] = 0;
	assert_int_equal(plan_create(p, &call, BASE, NULL, &plan, &blame), 0);
	assert_int_equal(plan->scratch_bytes, 0);
	assert_null(plan->kernels[0].launch.call.out[0].data);
	plan_move(plan, BASE, (char *)BASE + PLAN_ALIGN);
	assert_null(plan->kernels[0].launch.call.out[0].data);
	plan_destroy(plan);
	pipeline_unref(p);
	free(d);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_plan_no_overlap),
		HARNESS_TEST(test_plan_reuses_scratch),
		HARNESS_TEST(test_plan_results),
		HARNESS_TEST(test_plan_of_an_operator),
		HARNESS_TEST(test_plan_other_shapes),
		HARNESS_TEST(test_plan_refuses_huge_scratch),
		HARNESS_TEST(test_plan_of_nothing),
	};

	return harness_run("graphs-plan", tests, sizeof(tests) / sizeof(tests[0]));
}
