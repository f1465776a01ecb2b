/* SPDX-License-Identifier: MIT */
/* soak_job.c: operators with random data, and what they must give, computed here in double. */
#include "tools/soak.h"

#include <errno.h>
#include <math.h>

#define TOLERANCE 2e-5
#define PRICE_FEATURES 16u

/* The floats of a job, taken one tensor after another. */
struct room {
	float *at, *end;
	struct soak_random *rng;
};

static float *take(struct room *room, uint32_t n)
{
	float *x = room->at;

	/* Tensors begin on lines of their own. */
	room->at += (n + 15) / 16 * 16;
	return room->at <= room->end ? x : NULL;
}

static float *take_random(struct room *room, uint32_t n)
{
	float *x = take(room, n);

	for (uint32_t i = 0; x != NULL && i < n; i++)
		x[i] = (float)soak_below(room->rng, 2001) / 1000.0f - 1.0f;
	return x;
}

static struct gpuq_tensor tensor(float *data, uint32_t rank, uint64_t d0, uint64_t d1, uint64_t d2)
{
	return (struct gpuq_tensor){
		.data = data, .dtype = GPUQ_F32, .rank = rank, .dims = {d0, d1, d2}};
}

static int take_result(struct soak_job *job, struct room *room, uint32_t n)
{
	job->n = n;
	job->y = take(room, n);
	job->want = calloc(n, sizeof(double));
	job->scale = calloc(n, sizeof(double));
	return job->y != NULL && job->want != NULL && job->scale != NULL ? 0 : -ENOMEM;
}

static void want_dot(struct soak_job *job, uint32_t i, const float *a, const float *b, uint32_t n)
{
	for (uint32_t k = 0; k < n; k++) {
		double product = (double)a[k] * (double)b[k];
		job->want[i] += product;
		job->scale[i] += fabs(product);
	}
}

/* Replaces each row of what is wanted by its softmax. */
static void want_softmax(struct soak_job *job, uint32_t columns)
{
	for (uint32_t row = 0; row < job->n; row += columns) {
		double sum = 0;
		for (uint32_t i = row; i < row + columns; i++)
			sum += job->want[i] = exp(job->want[i]);
		for (uint32_t i = row; i < row + columns; i++)
			job->scale[i] = job->want[i] /= sum;
	}
}

static int create_softmax(struct soak_job *job, struct gpuq_channel *ch, struct room *room)
{
	uint32_t rows = 1 + soak_below(room->rng, 4);
	uint32_t columns = 1u << (3 + soak_below(room->rng, 9));
	float *x = take_random(room, rows * columns);
	int r = x != NULL ? take_result(job, room, rows * columns) : -ENOMEM;

	if (r < 0)
		return r;
	for (uint32_t i = 0; i < job->n; i++)
		job->want[i] = (double)x[i];
	want_softmax(job, columns);
	const struct gpuq_tensor in = tensor(x, 2, rows, columns, 0);
	const struct gpuq_tensor out = tensor(job->y, 2, rows, columns, 0);
	return gpuq_call_create(ch, "softmax", &in, 1, &out, 1, NULL, 0, &job->call);
}

/* y [b,o] of x [b,i] and w [o,i]; a pipeline makes the softmax of that. */
static int create_gemv(struct soak_job *job, struct gpuq_channel *ch, struct room *room,
	struct gpuq_pipeline *pipeline)
{
	/* Few shapes, so that some are used enough to be captured. */
	uint32_t b = 1 + soak_below(room->rng, 4), side = 8 * (1 + soak_below(room->rng, 6));
	float *x = take_random(room, b * side), *w = take_random(room, side * side);
	int r = x != NULL && w != NULL ? take_result(job, room, b * side) : -ENOMEM;

	if (r < 0)
		return r;
	for (uint32_t i = 0; i < job->n; i++)
		want_dot(job, i, &x[i / side * side], &w[i % side * side], side);
	if (pipeline != NULL)
		want_softmax(job, side);
	const struct gpuq_tensor in[] = {tensor(x, 2, b, side, 0), tensor(w, 2, side, side, 0)};
	const struct gpuq_tensor out = tensor(job->y, 2, b, side, 0);
	if (pipeline != NULL)
		return gpuq_pipeline_call_create(ch, pipeline, in, 2, &out, 1, &job->call);
	return gpuq_call_create(ch, "gemv_batched", in, 2, &out, 1, NULL, 0, &job->call);
}

static int create_price(struct soak_job *job, struct gpuq_channel *ch, struct room *room)
{
	uint32_t n = 1 + soak_below(room->rng, 256);
	float *prices = take_random(room, n * PRICE_FEATURES);
	float *weights = take_random(room, PRICE_FEATURES);
	int r = prices != NULL && weights != NULL ? take_result(job, room, n) : -ENOMEM;

	if (r < 0)
		return r;
	for (uint32_t i = 0; i < n; i++)
		want_dot(job, i, &prices[i * PRICE_FEATURES], weights, PRICE_FEATURES);
	const struct gpuq_tensor in[] = {
		tensor(prices, 3, 1, n, PRICE_FEATURES), tensor(weights, 1, PRICE_FEATURES, 0, 0)};
	const struct gpuq_tensor out = tensor(job->y, 2, 1, n, 0);
	return gpuq_call_create(ch, "price_vectors", in, 2, &out, 1, NULL, 0, &job->call);
}

int soak_job_create(struct soak_job *job, struct gpuq_channel *ch, enum soak_kind kind,
	struct gpuq_pipeline *pipeline, struct soak_random *rng)
{
	*job = (struct soak_job){0};
	if (kind == SOAK_NULL)
		return 0;
	int r = gpuq_alloc(ch, SOAK_JOB_BYTES - 4096, &job->memory);
	if (r < 0)
		return r;
	struct room room = {.at = job->memory, .rng = rng};
	room.end = room.at + (SOAK_JOB_BYTES - 4096) / sizeof(float);
	if (kind == SOAK_SOFTMAX)
		r = create_softmax(job, ch, &room);
	else if (kind == SOAK_PRICE)
		r = create_price(job, ch, &room);
	else
		r = create_gemv(job, ch, &room, kind == SOAK_CLASSIFY ? pipeline : NULL);
	/* What was there before cannot be taken for the result. */
	for (uint32_t i = 0; r >= 0 && i < job->n; i++)
		job->y[i] = NAN;
	return r;
}

int soak_job_check(const struct soak_job *job)
{
	for (uint32_t i = 0; i < job->n; i++) {
		if (!(fabs((double)job->y[i] - job->want[i]) <= TOLERANCE * job->scale[i]))
			return (int)i;
	}
	return -1;
}

void soak_job_destroy(struct soak_job *job, struct gpuq_channel *ch)
{
	gpuq_call_destroy(job->call);
	(void)gpuq_free(ch, job->memory);
	free(job->want);
	free(job->scale);
}

int soak_pipeline_create(struct gpuq *g, struct gpuq_pipeline **ret_pipeline)
{
	static const struct gpuq_pipeline_tensor tensors[] = {
		{"x", GPUQ_PIPELINE_INPUT, GPUQ_F32, 2, {2, 8}},
		{"w", GPUQ_PIPELINE_INPUT, GPUQ_F32, 2, {8, 8}},
		{"scores", GPUQ_PIPELINE_INNER, GPUQ_F32},
		{"y", GPUQ_PIPELINE_OUTPUT, GPUQ_F32},
	};
	static const struct gpuq_pipeline_step steps[] = {
		{.op = "gemv_batched", .inputs = {"x", "w"}, .outputs = {"scores"}},
		{.op = "softmax", .inputs = {"scores"}, .outputs = {"y"}},
	};

	return gpuq_pipeline_create(g, 0, "soak", tensors, 4, steps, 2, ret_pipeline);
}
