/* SPDX-License-Identifier: MIT */
/* rig.c: see rig.h. */
#include "tests/client/rig.h"
#include "shm/clock.h"

#include <unistd.h>

void rig_start_on(struct rig *rig, struct fake *fake, const struct gpuq_channel_options *options)
{
	memset(rig, 0, sizeof(*rig));
	rig->fake = fake;
	rig->control = fake->control;
	assert_int_equal(gpuq_connect(NULL, &rig->g), 0);
	assert_int_equal(gpuq_channel_open(rig->g, options, &rig->ch), 0);
	rig->bytes = 100;
	assert_int_equal(gpuq_alloc(rig->ch, rig->bytes, (void **)&rig->x), 0);
	assert_int_equal(gpuq_alloc(rig->ch, rig->bytes, (void **)&rig->y), 0);
	memset(rig->x, 7, rig->bytes);
	memset(rig->y, 0, rig->bytes);
}

void rig_start(struct rig *rig, const struct gpuq_channel_options *options)
{
	struct fake *fake = fake_new();

	fake_start(fake);
	rig_start_on(rig, fake, options);
}

void rig_stop(struct rig *rig)
{
	gpuq_disconnect(rig->g);
	fake_destroy(rig->fake);
}

static struct gpuq_call *create(
	struct rig *rig, const char *op, const struct gpuq_param *params, uint32_t n_params)
{
	const struct gpuq_tensor x = {
		.data = rig->x, .dtype = GPUQ_U8, .rank = 1, .dims = {rig->bytes}};
	const struct gpuq_tensor y = {
		.data = rig->y, .dtype = GPUQ_U8, .rank = 1, .dims = {rig->bytes}};
	struct gpuq_call *call = NULL;

	assert_int_equal(gpuq_call_create(rig->ch, op, &x, 1, &y, 1, params, n_params, &call), 0);
	return call;
}

struct gpuq_call *rig_copy(struct rig *rig)
{
	return create(rig, "copy", NULL, 0);
}

struct gpuq_call *rig_fail(struct rig *rig, int64_t status, int64_t blame)
{
	const struct gpuq_param params[] = {
		{.name = "status", .type = GPUQ_PARAM_I64, .value.i64 = status},
		{.name = "blame", .type = GPUQ_PARAM_I64, .value.i64 = blame},
	};

	return create(rig, "fail", params, 2);
}

int rig_submit(struct rig *rig, struct gpuq_call *call, uint64_t user_data)
{
	const struct gpuq_submission s = {.call = call, .user_data = user_data};

	return gpuq_submit(rig->ch, &s, 1);
}

struct gpuq_completion rig_wait(struct rig *rig, uint64_t user_data)
{
	struct gpuq_completion c = {.user_data = ~user_data};

	assert_int_equal(gpuq_wait(rig->ch, &c, 1, RIG_LONG_NS), 1);
	assert_int_equal(c.user_data, user_data);
	return c;
}

int rig_poll(struct gpuq_channel *ch, struct gpuq_completion *ret_completions, uint32_t max)
{
	uint64_t start_ns = clock_monotonic_ns();
	int n;

	do {
		n = gpuq_poll(ch, ret_completions, max);
		if (n == 0)
			usleep(100);
	} while (n == 0 && clock_monotonic_ns() - start_ns < RIG_LONG_NS);
	return n;
}
