/* SPDX-License-Identifier: MIT */
/* Random calls; see trial.h. */
#include "tests/kernels/trial.h"
#include "kernels/element.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_ELEMENTS TRIAL_MAX_ELEMENTS

void trial_create(struct trial *t)
{
	for (int i = 0; i < GPUQ_MAX_INPUTS; i++)
		guard_create(&t->inputs[i], MAX_ELEMENTS * 4);
	guard_create(&t->output, MAX_ELEMENTS * 4);
	guard_create(&t->expected, MAX_ELEMENTS * 4);
}

void trial_destroy(struct trial *t)
{
	for (int i = 0; i < GPUQ_MAX_INPUTS; i++)
		guard_destroy(&t->inputs[i]);
	guard_destroy(&t->output);
	guard_destroy(&t->expected);
}

/* Mostly small and around the widths of vectors, tiles and blocks; sometimes 0 or large. */
static uint64_t random_dim(struct random *rng)
{
	const uint64_t kind = random_below(rng, 100);

	if (kind < 2)
		return 0;
	if (kind < 12)
		return 1;
	if (kind < 55)
		return 1 + random_below(rng, 20);
	if (kind < 85)
		return (8u << random_below(rng, 5)) - 1 + random_below(rng, 3);
	return (uint64_t)exp2(random_unit(rng) * 11);
}

/* Halves dimensions until their product is within the budget. */
static void shrink(struct random *rng, uint64_t *dims, uint32_t count, uint64_t budget)
{
	for (;;) {
		uint64_t product = 1;

		for (uint32_t i = 0; i < count; i++)
			product *= dims[i] == 0 ? 1 : dims[i];
		if (product <= budget)
			return;
		dims[random_below(rng, count)] /= 2;
		for (uint32_t i = 0; i < count; i++)
			dims[i] += dims[i] == 0;
	}
}

void trial_random_dims(struct random *rng, uint64_t *dims, uint32_t count, uint64_t budget)
{
	for (uint32_t i = 0; i < count; i++)
		dims[i] = random_dim(rng);
	/* Now and then a dimension that needs several chunks. */
	if (random_below(rng, 40) == 0)
		dims[random_below(rng, count)] = 1 + random_below(rng, 12000);
	shrink(rng, dims, count, budget);
}

static void set_shape(struct tensor *t, uint32_t rank, const uint64_t *dims)
{
	t->rank = rank;
	for (uint32_t i = 0; i < rank; i++)
		t->dims[i] = dims[i];
}

static void shape_gemv(struct op_call *call, struct random *rng)
{
	uint64_t d[3]; /* B, O, I */

	trial_random_dims(rng, d, 3, 1 + random_below(rng, 60000));
	set_shape(&call->in[0], 2, (uint64_t[]){d[0], d[2]});
	if (random_below(rng, 3) == 0)
		set_shape(&call->in[1], 3, d);
	else
		set_shape(&call->in[1], 2, d + 1);
	if (random_below(rng, 2) == 0) {
		call->in[2].dtype = call->in[0].dtype;
		set_shape(&call->in[2], 1, d + 1);
	}
}

static void shape_softmax(struct op_call *call, struct random *rng)
{
	uint64_t d[GPUQ_MAX_RANK];
	const uint32_t rank = 1 + (uint32_t)random_below(rng, random_below(rng, 3) ? 2 : 8);

	trial_random_dims(rng, d, rank, 1 + random_below(rng, 8000));
	set_shape(&call->in[0], rank, d);
	call->params[0].f64 = random_below(rng, 2) ? 1.0 : exp2(random_unit(rng) * 16 - 8);
}

static void shape_price(struct op_call *call, struct random *rng)
{
	uint64_t d[3]; /* B, A, F */

	trial_random_dims(rng, d, 3, 1 + random_below(rng, 60000));
	set_shape(&call->in[0], 3, d);
	if (random_below(rng, 2) == 0)
		set_shape(&call->in[1], 1, d + 2);
	else
		set_shape(&call->in[1], 2, d + 1);
}

enum values {
	VALUES_SIGNED,
	VALUES_POSITIVE,
	VALUES_WIDE,	  /* magnitudes over many binades */
	VALUES_HUGE,	  /* products near the top of f32, beyond f16 */
	VALUES_TINY,	  /* products below the normal numbers */
	VALUES_SUBNORMAL, /* below the normal numbers of the type */
	VALUES_INTEGER,
	VALUES_CONSTANT,
	VALUES_SPECIAL, /* some infinities, NaN, negative zeros */
	VALUES_COUNT,
};

static double special_value(struct random *rng)
{
	static const double specials[] = {INFINITY, -INFINITY, NAN, -0.0, 0.0};

	return specials[random_below(rng, sizeof(specials) / sizeof(specials[0]))];
}

static double random_value(struct random *rng, enum values values, bool f16)
{
	const double unit = 2 * random_unit(rng) - 1;

	switch (values) {
	case VALUES_POSITIVE:
		return fabs(unit);
	case VALUES_WIDE:
		return unit * exp2(random_unit(rng) * 20 - 10);
	case VALUES_HUGE:
		return unit * (f16 ? 0x1p12 : 0x1p58);
	case VALUES_TINY:
		return unit * (f16 ? 0x1p-12 : 0x1p-70);
	case VALUES_SUBNORMAL:
		return unit * (f16 ? 0x1p-14 : 0x1p-126);
	case VALUES_INTEGER:
		return round(unit * 100);
	case VALUES_CONSTANT:
		return 0.1;
	case VALUES_SPECIAL:
		return random_below(rng, 30) == 0 ? special_value(rng) : unit * 10;
	default:
		return unit;
	}
}

void trial_fill_tensor(struct tensor *t, struct random *rng)
{
	const enum values values =
		random_below(rng, 2) ? VALUES_SIGNED : (enum values)random_below(rng, VALUES_COUNT);
	uint64_t elements, bytes;

	tensor_size(t, &elements, &bytes);
	for (uint64_t i = 0; i < elements; i++)
		element_set(t->data, t->dtype, i, random_value(rng, values, t->dtype == GPUQ_F16));
}

void *trial_place_tensor(struct guard *g, const struct tensor *t, struct random *rng)
{
	const size_t offset = random_below(rng, 300) * dtype_size(t->dtype);
	uint64_t elements, bytes;

	if (tensor_size(t, &elements, &bytes) != 0)
		abort();
	return guard_place(g, bytes, (enum guard_side)random_below(rng, 3), offset);
}

void trial_place(struct trial *t, struct random *rng)
{
	struct op_call *call = &t->call;
	uint64_t bytes;

	for (uint32_t i = 0; i < call->op->n_inputs; i++) {
		if (tensor_present(&call->in[i]))
			call->in[i].data = trial_place_tensor(&t->inputs[i], &call->in[i], rng);
	}
	call->out[0].data = trial_place_tensor(&t->output, &call->out[0], rng);
	tensor_size(&call->out[0], &t->n_outputs, &bytes);
	t->output_bytes = bytes;
}

void trial_fill_shape(struct trial *t, struct random *rng)
{
	struct op_call *call = &t->call;
	uint32_t arg;
	const int err = op_check(call, &arg);

	if (err != 0) {
		fprintf(stderr, "op_check refuses a valid call: %d, argument %u\n", err, arg);
		abort();
	}
	trial_place(t, rng);
	for (uint32_t i = 0; i < call->op->n_inputs; i++) {
		if (tensor_present(&call->in[i]))
			trial_fill_tensor(&call->in[i], rng);
	}
}

void trial_fill(struct trial *t, const struct op *op, struct random *rng)
{
	static const uint32_t dtypes[] = {GPUQ_F32, GPUQ_F16, GPUQ_BF16};
	const uint32_t dtype = dtypes[random_below(rng, 3)];
	struct op_call *call = &t->call;

	*call = (struct op_call){.op = op};
	for (uint32_t i = 0; i < op->n_inputs; i++)
		call->in[i].dtype = op->inputs[i].optional ? 0 : dtype;
	call->out[0].dtype = random_below(rng, 2) ? GPUQ_F32 : dtype;
	call->out[0].rank = UINT32_MAX;
	if (op == &op_gemv_batched)
		shape_gemv(call, rng);
	else if (op == &op_softmax)
		shape_softmax(call, rng);
	else
		shape_price(call, rng);
	trial_fill_shape(t, rng);
}

void trial_reference(struct trial *t)
{
	struct op_call call = t->call;

	call.out[0].dtype = GPUQ_F32;
	call.out[0].data = guard_place(&t->expected, t->n_outputs * 4, GUARD_END, 0);
	call.op->reference(&call);
}
