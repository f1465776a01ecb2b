/* SPDX-License-Identifier: MIT */
/*
 * pipeline.c: a classifier as one request: GEMV, then softmax, with the scores between them on the
 * device only, and the weights in a device buffer. Its graph is captured before it serves; the
 * last line says how many requests were replays of that. Every probability is checked.
 *
 *	pipeline [SECONDS]
 */
#include "example.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME "classifier"
#define BATCH 32
#define FEATURES 64
#define CLASSES 10

static float weights[CLASSES][FEATURES];

static struct gpuq_pipeline *create_pipeline(struct gpuq *g)
{
	static const struct gpuq_pipeline_tensor tensors[] = {
		{"x", GPUQ_PIPELINE_INPUT, GPUQ_F32, 2, {BATCH, FEATURES}},
		{"w", GPUQ_PIPELINE_INPUT, GPUQ_F32, 2, {CLASSES, FEATURES}},
		{"scores", GPUQ_PIPELINE_INNER, .dtype = GPUQ_F32},
		{"p", GPUQ_PIPELINE_OUTPUT, .dtype = GPUQ_F32},
	};
	static const struct gpuq_pipeline_step steps[] = {
		{.op = "gemv_batched", .inputs = {"x", "w"}, .outputs = {"scores"}},
		{.op = "softmax", .inputs = {"scores"}, .outputs = {"p"}},
	};
	struct gpuq_pipeline *p;

	if (gpuq_pipeline_create(g, 0, NAME, tensors, 4, steps, 2, &p) < 0)
		die("%s", gpuq_error_detail());
	return p;
}

/* Weights that stay on the device from call to call. */
static struct gpuq_tensor upload_weights(struct gpuq *g, struct gpuq_channel *ch)
{
	const struct gpuq_buf_options options = {.bytes = sizeof(weights)};
	struct gpuq_tensor w = tensor(NULL, CLASSES, FEATURES);
	struct gpuq_buf *buf;

	for (int k = 0; k < CLASSES; k++)
		for (int i = 0; i < FEATURES; i++)
			weights[k][i] = sinf((float)(1 + k * FEATURES + i));
	if (gpuq_buf_alloc(g, &options, &buf) < 0 ||
		gpuq_buf_write(ch, buf, 0, weights, sizeof(weights)) < 0)
		die("%s", gpuq_error_detail());
	w.buffer = buf;
	return w;
}

static void check_row(const float *x, const float *p)
{
	double expected[CLASSES], sum = 0;

	for (int k = 0; k < CLASSES; k++) {
		double score = 0;
		for (int i = 0; i < FEATURES; i++)
			score += (double)weights[k][i] * x[i];
		sum += expected[k] = exp(score);
	}
	for (int k = 0; k < CLASSES; k++)
		if (!(fabs(p[k] - expected[k] / sum) <= 1e-5))
			die("probability %g should be %g", p[k], expected[k] / sum);
}

/* Asks for the graph ahead of time and waits for it. Without one the shape is served, too. */
static void capture(struct gpuq_channel *ch, struct gpuq_call *call)
{
	struct gpuq_completion c;
	char text[256];

	if (gpuq_precapture(ch, call, 0) < 0 || gpuq_wait(ch, &c, 1, GPUQ_FOREVER) < 0)
		die("%s", gpuq_error_detail());
	if (c.status == -GPUQ_ECAPTURE)
		printf("pipeline: %s\n", gpuq_explain(call, &c, text, sizeof(text)));
	else if (c.status < 0)
		die("%s", gpuq_explain(call, &c, text, sizeof(text)));
}

static void serve(
	struct gpuq_channel *ch, struct gpuq_call *call, float *x, const float *p, double seconds)
{
	const uint64_t begin = now_ns(), end = begin + (uint64_t)(seconds * 1e9);
	struct latencies latencies = {0};
	uint64_t now = begin;

	for (uint64_t n = 0; now < end || n == 0; n++) {
		for (int i = 0; i < BATCH * FEATURES; i++)
			x[i] = (float)((n + (uint64_t)i) % 17) / 16.0f - 0.5f;
		const uint64_t start = now_ns();
		run(ch, call);
		now = now_ns();
		latencies_add(&latencies, now - start);
		for (int b = 0; b < BATCH; b++)
			check_row(x + b * FEATURES, p + b * CLASSES);
	}
	latencies_print(&latencies, "pipeline", (double)(now - begin) / 1e9);
}

/* What gpuqd says of the pipeline, among all shapes that this user has asked for. */
static void show_graphs(struct gpuq *g)
{
	struct gpuq_graph_info infos[16];
	uint64_t after = 0;
	int n;

	while ((n = gpuq_graphs(g, 0, after, infos, 16)) > 0) {
		for (int i = 0; i < n; i++) {
			if (strncmp(infos[i].shape, NAME " ", strlen(NAME " ")) != 0)
				continue;
			printf("pipeline: %s: %u kernels, %ju of %ju requests were replays\n",
				infos[i].shape, infos[i].kernels, (uintmax_t)infos[i].hits,
				(uintmax_t)infos[i].uses);
		}
		after = infos[n - 1].id;
	}
	if (n < 0)
		die("%s", gpuq_error_detail());
}

int main(int argc, char **argv)
{
	struct gpuq *g;
	struct gpuq_channel *ch;
	struct gpuq_call *call;

	if (gpuq_connect(NULL, &g) < 0 || gpuq_channel_open(g, NULL, &ch) < 0)
		die("%s", gpuq_error_detail());
	const struct gpuq_tensor in[] = {
		tensor(arena_floats(ch, BATCH * FEATURES), BATCH, FEATURES),
		upload_weights(g, ch),
	};
	const struct gpuq_tensor out = tensor(arena_floats(ch, BATCH * CLASSES), BATCH, CLASSES);
	if (gpuq_pipeline_call_create(ch, create_pipeline(g), in, 2, &out, 1, &call) < 0)
		die("%s", gpuq_error_detail());
	capture(ch, call);
	serve(ch, call, in[0].data, out.data, argc > 1 ? strtod(argv[1], NULL) : 1);
	puts("pipeline: every probability is right");
	show_graphs(g);
	gpuq_disconnect(g);
	return 0;
}
