/* SPDX-License-Identifier: MIT */
/*
 * classify.c: a linear classifier: GEMV, then softmax, for 20 pictures with each request. The
 * result of the first operator stays in the arena and is the second one's input. Every
 * probability is checked.
 *
 *	classify X.npy W.npy BIAS.npy LABELS.npy [SECONDS]
 */
#include "example.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCH 20
#define MAX_CLASSES 64

struct model {
	uint64_t n_pixels, n_classes;
	const float *w, *bias; /* [n_classes, n_pixels], [n_classes] */
};

/* The probabilities of one picture's classes, in plain C. */
static void reference(const struct model *m, const float *x, double *probabilities)
{
	double top = -INFINITY, sum = 0;

	for (uint64_t k = 0; k < m->n_classes; k++) {
		probabilities[k] = m->bias[k];
		for (uint64_t i = 0; i < m->n_pixels; i++)
			probabilities[k] += (double)m->w[k * m->n_pixels + i] * x[i];
		top = fmax(top, probabilities[k]);
	}
	for (uint64_t k = 0; k < m->n_classes; k++)
		sum += probabilities[k] = exp(probabilities[k] - top);
	for (uint64_t k = 0; k < m->n_classes; k++)
		probabilities[k] /= sum;
}

/* Compares a batch with the reference; returns how many of its pictures have the right label. */
static uint64_t check(const struct model *m, const float *x, const float *y, const int32_t *labels)
{
	double expected[MAX_CLASSES];
	uint64_t right = 0;

	for (int b = 0; b < BATCH; b++) {
		const float *got = y + (uint64_t)b * m->n_classes;
		uint64_t best = 0;

		reference(m, x + (uint64_t)b * m->n_pixels, expected);
		for (uint64_t k = 0; k < m->n_classes; k++) {
			if (!(fabs(got[k] - expected[k]) <= 1e-5))
				die("probability %g should be %g", got[k], expected[k]);
			best = got[k] > got[best] ? k : best;
		}
		right += labels[b] == (int32_t)best;
	}
	return right;
}

static struct gpuq_call *prepare(struct gpuq_channel *ch, const char *op,
	const struct gpuq_tensor *in, uint32_t n_in, const struct gpuq_tensor *out)
{
	struct gpuq_call *call;

	if (gpuq_call_create(ch, op, in, n_in, out, 1, NULL, 0, &call) < 0)
		die("%s", gpuq_error_detail());
	return call;
}

/* Classifies all pictures again and again; returns how many of them got their label. */
static uint64_t serve(struct gpuq_channel *ch, const struct model *m, const struct table *x,
	const int32_t *labels, double seconds)
{
	uint64_t n_batches = x->rows / BATCH, right = 0;
	struct latencies latencies = {0};
	struct gpuq_tensor in[] = {
		tensor(arena_floats(ch, BATCH * m->n_pixels), BATCH, m->n_pixels),
		tensor(arena_floats(ch, m->n_classes * m->n_pixels), m->n_classes, m->n_pixels),
		tensor(arena_floats(ch, m->n_classes), m->n_classes, 0),
	};
	struct gpuq_tensor logits =
		tensor(arena_floats(ch, BATCH * m->n_classes), BATCH, m->n_classes);
	struct gpuq_tensor y = tensor(arena_floats(ch, BATCH * m->n_classes), BATCH, m->n_classes);
	struct gpuq_call *gemv = prepare(ch, "gemv_batched", in, 3, &logits);
	struct gpuq_call *softmax = prepare(ch, "softmax", &logits, 1, &y);

	memcpy(in[1].data, m->w, m->n_classes * m->n_pixels * sizeof(float));
	memcpy(in[2].data, m->bias, m->n_classes * sizeof(float));
	uint64_t begin = now_ns(), end = begin + (uint64_t)(seconds * 1e9), now = begin;
	for (uint64_t i = 0; now < end || i < n_batches; i++) {
		uint64_t first = i % n_batches * BATCH;
		const float *batch = (float *)x->values + first * m->n_pixels;

		memcpy(in[0].data, batch, BATCH * m->n_pixels * sizeof(float));
		uint64_t start = now_ns();
		run(ch, gemv);
		run(ch, softmax);
		now = now_ns();
		latencies_add(&latencies, now - start);
		uint64_t n = check(m, batch, y.data, labels + first);
		right += i < n_batches ? n : 0;
	}
	latencies_print(&latencies, "classify", (double)(now - begin) / 1e9);
	return right;
}

int main(int argc, char **argv)
{
	struct gpuq *g;
	struct gpuq_channel *ch;

	if (argc < 5)
		die("usage: classify X.npy W.npy BIAS.npy LABELS.npy [SECONDS]");
	struct table x = read_npy(argv[1], "<f4"), w = read_npy(argv[2], "<f4");
	struct table bias = read_npy(argv[3], "<f4"), labels = read_npy(argv[4], "<i4");
	struct model m = {w.columns, w.rows, w.values, bias.values};
	if (x.columns != m.n_pixels || bias.rows != m.n_classes || labels.rows != x.rows ||
		m.n_classes > MAX_CLASSES || x.rows < BATCH)
		die("the files do not fit each other");

	if (gpuq_connect(NULL, &g) < 0 || gpuq_channel_open(g, NULL, &ch) < 0)
		die("%s", gpuq_error_detail());
	uint64_t right = serve(ch, &m, &x, labels.values, argc > 5 ? strtod(argv[5], NULL) : 1);
	gpuq_disconnect(g);

	uint64_t n = x.rows / BATCH * BATCH;
	printf("classify: %ju pictures, %ju pixels, %ju classes; every probability is right\n",
		(uintmax_t)n, (uintmax_t)m.n_pixels, (uintmax_t)m.n_classes);
	printf("classify: accuracy of the classifier %.1f %%\n", 100.0 * (double)right / (double)n);
	free(x.values);
	free(w.values);
	free(bias.values);
	free(labels.values);
	return 0;
}
