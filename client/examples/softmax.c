/* SPDX-License-Identifier: MIT */
/* softmax.c: the shortest complete program: four numbers in, their softmax out. */
#include <gpuq.h>

#include <stdio.h>

static int failed(const char *what)
{
	fprintf(stderr, "softmax: %s: %s\n", what, gpuq_error_detail());
	return 1;
}

int main(void)
{
	struct gpuq *g;
	struct gpuq_channel *ch;
	struct gpuq_call *call;
	void *data[2];

	if (gpuq_connect(NULL, &g) < 0)
		return failed("connect");
	if (gpuq_channel_open(g, NULL, &ch) < 0)
		return failed("open a channel");
	for (int i = 0; i < 2; i++)
		if (gpuq_alloc(ch, 4 * sizeof(float), &data[i]) < 0)
			return failed("allocate");
	float *x = data[0], *y = data[1];
	struct gpuq_tensor in = {.data = x, .dtype = GPUQ_F32, .rank = 1, .dims = {4}};
	struct gpuq_tensor out = {.data = y, .dtype = GPUQ_F32, .rank = 1, .dims = {4}};
	if (gpuq_call_create(ch, "softmax", &in, 1, &out, 1, NULL, 0, &call) < 0)
		return failed("prepare softmax");

	for (int i = 0; i < 4; i++)
		x[i] = (float)i;
	struct gpuq_submission s = {.call = call};
	struct gpuq_completion c;
	if (gpuq_submit(ch, &s, 1) < 0)
		return failed("submit");
	if (gpuq_wait(ch, &c, 1, GPUQ_FOREVER) < 0)
		return failed("wait");
	if (c.status < 0) {
		char text[256];
		fprintf(stderr, "softmax: %s\n", gpuq_explain(call, &c, text, sizeof(text)));
		return 1;
	}
	printf("%.4f %.4f %.4f %.4f\n", y[0], y[1], y[2], y[3]);
	gpuq_disconnect(g);
	return 0;
}
