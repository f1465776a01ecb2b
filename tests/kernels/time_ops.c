/* SPDX-License-Identifier: MIT */
/* Times the fast forms at fixed shapes; see time_ops.h. */
#include "tests/kernels/time_ops.h"
#include "kernels/cost.h"
#include "kernels/element.h"
#include "kernels/isa.h"
#include "kernels/ops.h"
#include "tests/kernels/random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS 200	  /* the fastest and the median count */
#define ROUND_NS 100000.0 /* calls are repeated for about this long in a round */
#define MAX_TOTAL_NS 3e8  /* per shape and form */

struct shape {
	const struct op *op;
	const char *name;
	uint32_t ranks[2]; /* of the required inputs */
	uint64_t dims[2][3];
};

static const struct shape shapes[] = {
	/* The four reference shapes. */
	{&op_gemv_batched, "gemv b32 i64 o32", {2, 2}, {{32, 64}, {32, 64}}},
	{&op_gemv_batched, "gemv b32 i64 o64", {2, 2}, {{32, 64}, {64, 64}}},
	{&op_softmax, "softmax b32 d64", {2}, {{32, 64}}},
	{&op_price_vectors, "price b32 a64 f32", {3, 1}, {{32, 64, 32}, {32}}},
	/* Others that a small system sees, mostly around the inline limit. */
	{&op_gemv_batched, "gemv b1 i64 o64", {2, 2}, {{1, 64}, {64, 64}}},
	{&op_gemv_batched, "gemv b1 i256 o256", {2, 2}, {{1, 256}, {256, 256}}},
	{&op_gemv_batched, "gemv b8 i128 o64", {2, 2}, {{8, 128}, {64, 128}}},
	{&op_gemv_batched, "gemv b100 i20 o10", {2, 2}, {{100, 20}, {10, 20}}},
	{&op_gemv_batched, "gemv b16 i64 w o64", {2, 3}, {{16, 64}, {16, 64, 64}}},
	{&op_softmax, "softmax b1 d1000", {2}, {{1, 1000}}},
	{&op_softmax, "softmax b100 d10", {2}, {{100, 10}}},
	{&op_price_vectors, "price b2 a64 f32", {3, 1}, {{2, 64, 32}, {32}}},
	{&op_price_vectors, "price b8 a64 f32", {3, 1}, {{8, 64, 32}, {32}}},
	{&op_price_vectors, "price b8 a64 w f32", {3, 2}, {{8, 64, 32}, {64, 32}}},
	{&op_price_vectors, "price b1 a500 f8", {3, 1}, {{1, 500, 8}, {8}}},
	/* Large: memory or arithmetic decides. */
	{&op_gemv_batched, "gemv b1 i4096 o4096", {2, 2}, {{1, 4096}, {4096, 4096}}},
	{&op_gemv_batched, "gemv b256 i1024 o1024", {2, 2}, {{256, 1024}, {1024, 1024}}},
	{&op_softmax, "softmax b8 d32000", {2}, {{8, 32000}}},
	{&op_price_vectors, "price b1024 a64 f64", {3, 1}, {{1024, 64, 64}, {64}}},
};

static double clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return 1e9 * (double)now.tv_sec + (double)now.tv_nsec;
}

static void *filled(const struct tensor *t, struct random *rng)
{
	uint64_t elements, bytes;
	void *data;

	if (tensor_size(t, &elements, &bytes) != 0)
		abort();
	data = aligned_alloc(64, (bytes + 63) / 64 * 64);
	for (uint64_t i = 0; i < elements; i++)
		element_set(data, t->dtype, i, 2 * random_unit(rng) - 1);
	return data;
}

static void prepare(struct op_call *call, const struct shape *shape, uint32_t dtype)
{
	struct random rng = {1};
	uint32_t arg;

	*call = (struct op_call){.op = shape->op};
	for (uint32_t i = 0; i < 2 && shape->ranks[i] > 0; i++) {
		call->in[i].dtype = dtype;
		call->in[i].rank = shape->ranks[i];
		for (uint32_t d = 0; d < shape->ranks[i]; d++)
			call->in[i].dims[d] = shape->dims[i][d];
		call->in[i].data = filled(&call->in[i], &rng);
	}
	call->params[0].f64 = 1;
	call->out[0].dtype = dtype;
	call->out[0].rank = UINT32_MAX;
	if (op_check(call, &arg) != 0)
		abort();
	call->out[0].data = filled(&call->out[0], &rng);
}

static void release(struct op_call *call)
{
	for (uint32_t i = 0; i < 2; i++)
		free(call->in[i].data);
	free(call->out[0].data);
}

static double time_calls_ns(const struct op_call *call, uint64_t units, uint64_t calls)
{
	const double start = clock_ns();

	for (uint64_t i = 0; i < calls; i++)
		call->op->cpu(call, 0, units);
	return (clock_ns() - start) / (double)calls;
}

static int compare(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

struct timing {
	double fastest_ns, median_ns;
};

static struct timing time_call(const struct op_call *call)
{
	const uint64_t units = call->op->units(call);
	const double first = fmax(1, time_calls_ns(call, units, 2));
	const uint64_t calls = first < ROUND_NS ? (uint64_t)(ROUND_NS / first) : 1;
	double rounds[ROUNDS], total = 0;
	int count = 0;

	while (count < ROUNDS && total < MAX_TOTAL_NS) {
		rounds[count] = time_calls_ns(call, units, calls);
		total += rounds[count++] * (double)calls;
	}
	qsort(rounds, (size_t)count, sizeof(rounds[0]), compare);
	return (struct timing){rounds[0], rounds[count / 2]};
}

static void time_shape(const struct shape *shape, uint32_t dtype, const struct cost_model *models)
{
	struct op_call call;

	prepare(&call, shape, dtype);
	printf("%-22s %-5s", shape->name, dtype_name(dtype));
	for (enum isa isa = ISA_BASE; isa < ISA_COUNT; isa++) {
		struct timing timing;

		if (!isa_supported(isa))
			continue;
		isa_select(isa);
		timing = time_call(&call);
		printf(" %11.0f %11.0f %11.0f", timing.fastest_ns, timing.median_ns,
			(double)cost_predict_ns(&models[isa], &call));
		fflush(stdout);
	}
	printf("\n");
	release(&call);
}

/* Measures the model of each form and prints how long that took. */
static int calibrate(struct cost_model *models)
{
	for (enum isa isa = ISA_BASE; isa < ISA_COUNT; isa++) {
		const double start = clock_ns();
		int err;

		if (!isa_supported(isa))
			continue;
		isa_select(isa);
		err = cost_calibrate(&models[isa]);
		if (err != 0)
			return err;
		printf("%s: calibrated in %.1f ms\n", isa_name(isa), (clock_ns() - start) / 1e6);
	}
	return 0;
}

int time_ops(const char *prefix)
{
	static const uint32_t dtypes[] = {GPUQ_F32, GPUQ_F16, GPUQ_BF16};
	static struct cost_model models[ISA_COUNT];

	if (calibrate(models) != 0) {
		fprintf(stderr, "check_ops: no memory to calibrate\n");
		return 1;
	}
	printf("\nns per call on one core; outputs of the inputs' type\n%-28s", "");
	for (enum isa isa = ISA_BASE; isa < ISA_COUNT; isa++) {
		if (isa_supported(isa))
			printf(" %7s min      median   predicted", isa_name(isa));
	}
	printf("\n");
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		for (size_t d = 0; d < 3 && strncmp(shapes[i].name, prefix, strlen(prefix)) == 0;
			d++)
			time_shape(&shapes[i], dtypes[d], models);
	}
	return 0;
}
