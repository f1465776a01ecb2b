/* SPDX-License-Identifier: MIT */
/* classify.c: see classify.h. */
#include "tests/integration/classify.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TOLERANCE 1e-4

struct gpuq_pipeline *classify_register(struct gpuq *g, const char *name)
{
	static const struct gpuq_pipeline_tensor tensors[] = {
		{"x", GPUQ_PIPELINE_INPUT, GPUQ_F32, 2, {2, 8}},
		{"w", GPUQ_PIPELINE_INPUT, GPUQ_F32, 2, {4, 8}},
		{"scores", GPUQ_PIPELINE_INNER, GPUQ_F32},
		{"y", GPUQ_PIPELINE_OUTPUT, GPUQ_F32},
	};
	static const struct gpuq_pipeline_step steps[] = {
		{.op = "softmax", .inputs = {"scores"}, .outputs = {"y"}},
		{.op = "gemv_batched", .inputs = {"x", "w"}, .outputs = {"scores"}},
	};
	struct gpuq_pipeline *p = NULL;

	if (gpuq_pipeline_create(g, 0, name, tensors, 4, steps, 2, &p) < 0)
		fail_msg("gpuq_pipeline_create: %s", gpuq_error_detail());
	return p;
}

static struct gpuq_tensor matrix(struct gpuq_channel *ch, float **ret, uint32_t rows, uint32_t n)
{
	if (gpuq_alloc(ch, (size_t)rows * n * sizeof(float), (void **)ret) < 0)
		fail_msg("gpuq_alloc: %s", gpuq_error_detail());
	return (struct gpuq_tensor){.data = *ret, .dtype = GPUQ_F32, .rank = 2, .dims = {rows, n}};
}

void classify_create(struct classify *job, struct gpuq_channel *ch, struct gpuq_pipeline *pipeline,
	uint32_t b, uint32_t i, uint32_t o)
{
	*job = (struct classify){.ch = ch, .b = b, .i = i, .o = o};
	const struct gpuq_tensor in[] = {matrix(ch, &job->x, b, i), matrix(ch, &job->w, o, i)};
	const struct gpuq_tensor out = matrix(ch, &job->y, b, o);

	if (gpuq_pipeline_call_create(ch, pipeline, in, 2, &out, 1, &job->call) < 0)
		fail_msg("gpuq_pipeline_call_create: %s", gpuq_error_detail());
}

void classify_destroy(struct classify *job)
{
	gpuq_call_destroy(job->call);
	assert_int_equal(gpuq_free(job->ch, job->x), 0);
	assert_int_equal(gpuq_free(job->ch, job->w), 0);
	assert_int_equal(gpuq_free(job->ch, job->y), 0);
}

void classify_fill(struct classify *job, struct random *rng)
{
	for (uint32_t k = 0; k < job->b * job->i; k++)
		job->x[k] = (float)random_unit(rng) - 0.5f;
	for (uint32_t k = 0; k < job->o * job->i; k++)
		job->w[k] = (float)random_unit(rng) - 0.5f;
	for (uint32_t k = 0; k < job->b * job->o; k++)
		job->y[k] = -1;
}

static void check_row(const struct classify *job, uint32_t row, double *want)
{
	double sum = 0;

	for (uint32_t k = 0; k < job->o; k++) {
		double score = 0;
		for (uint32_t i = 0; i < job->i; i++)
			score += (double)job->x[row * job->i + i] * (double)job->w[k * job->i + i];
		sum += want[k] = exp(score);
	}
	for (uint32_t k = 0; k < job->o; k++) {
		double got = job->y[row * job->o + k];
		if (!(fabs(got - want[k] / sum) <= TOLERANCE * want[k] / sum))
			fail_msg("y[%u,%u] is %g and must be %g", row, k, got, want[k] / sum);
	}
}

void classify_check(const struct classify *job)
{
	double *want = calloc(job->o, sizeof(*want));

	assert_non_null(want);
	for (uint32_t row = 0; row < job->b; row++)
		check_row(job, row, want);
	free(want);
}

void classify_submit(struct classify *job, uint64_t user_data)
{
	const struct gpuq_submission s = {.call = job->call, .user_data = user_data};

	if (gpuq_submit(job->ch, &s, 1) != 1)
		fail_msg("gpuq_submit: %s", gpuq_error_detail());
}

struct gpuq_completion classify_wait(struct gpuq_channel *ch)
{
	struct gpuq_completion c = {0};

	if (gpuq_wait(ch, &c, 1, PATIENCE_NS) != 1)
		fail_msg("gpuq_wait: %s", gpuq_error_detail());
	return c;
}

void classify_run(struct classify *job, struct random *rng)
{
	char text[200];

	classify_fill(job, rng);
	classify_submit(job, 77);
	const struct gpuq_completion c = classify_wait(job->ch);
	assert_int_equal(c.user_data, 77);
	if (c.status < 0)
		fail_msg("%s", gpuq_explain(job->call, &c, text, sizeof(text)));
	classify_check(job);
}
