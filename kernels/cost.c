/* SPDX-License-Identifier: MIT */
/*
 * Calibration: for each operator and input type a few calls of its example, growing until one
 * takes as long as the decision that the model is for; then the line of least relative error.
 */
#include "kernels/cost.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LONGEST_NS 3000.0 /* calls longer than this are not measured */
#define MAX_SAMPLES 10
#define ROUNDS 12	/* the fastest counts: the others were disturbed */
#define CALLS 4		/* in a round; the clock costs as much as a small call */
#define LEAST_ROUNDS 2	/* one alone may be the one in which another process had the CPU */
#define SAMPLE_NS 150e3 /* of CPU time; after so long these have to do for a call, */
#define TOTAL_NS 15e6	/* and after so long for every call: slow machines */
#define BUFFER_BYTES ((size_t)1 << 20)
#define MAX_FLATNESS 16 /* of the longest call, at most all but one part in so many is fixed cost */

struct sample {
	double work, ns;
};

static double clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return 1e9 * (double)now.tv_sec + (double)now.tv_nsec;
}

/* What others do meanwhile does not count. A system call, so not for the measurement itself. */
static double cpu_ns(void)
{
	return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

static double time_call_ns(const struct op_call *call, double deadline)
{
	const uint64_t units = call->op->units(call);
	const double end = fmin(cpu_ns() + SAMPLE_NS, deadline);
	double fastest = INFINITY;

	call->op->cpu(call, 0, units);
	for (int round = 0; round < LEAST_ROUNDS || (round < ROUNDS && cpu_ns() < end); round++) {
		const double start = clock_ns(CLOCK_MONOTONIC);
		for (int i = 0; i < CALLS; i++)
			call->op->cpu(call, 0, units);
		fastest = fmin(fastest, (clock_ns(CLOCK_MONOTONIC) - start) / CALLS);
	}
	return fastest;
}

/* Gives the tensor the next bytes of the buffer; false when they do not suffice. */
static bool place(struct tensor *t, char *buffer, size_t *used)
{
	uint64_t elements, bytes;

	if (tensor_size(t, &elements, &bytes) != 0 || bytes > BUFFER_BYTES - *used)
		return false;
	t->data = buffer + *used;
	*used += (bytes + 63) / 64 * 64;
	for (uint64_t i = 0; t->dtype == GPUQ_I32 && i < elements; i++)
		((int32_t *)t->data)[i] = OP_EXAMPLE_INDEX;
	return true;
}

/* The type of an argument in a calibration for `dtype`: that, or the first one it can be. */
static uint32_t example_dtype(const struct op_tensor *spec, uint32_t dtype)
{
	if ((spec->dtypes & GPUQ_DTYPE_BIT(dtype)) != 0)
		return dtype;
	return (uint32_t)__builtin_ctz(spec->dtypes);
}

/* An example call with its data in the buffer; false when it does not fit. */
static bool make_example(
	struct op_call *call, const struct op *op, uint32_t dtype, uint64_t scale, char *buffer)
{
	size_t used = 0;
	uint32_t arg;

	*call = (struct op_call){.op = op};
	op->example(call, scale);
	for (uint32_t i = 0; i < op->n_inputs; i++) {
		if (!op->inputs[i].optional)
			call->in[i].dtype = example_dtype(&op->inputs[i], dtype);
	}
	for (uint32_t i = 0; i < op->n_outputs; i++) {
		if (op->outputs[i].optional)
			continue;
		call->out[i].dtype = example_dtype(&op->outputs[i], dtype);
		call->out[i].rank = UINT32_MAX;
	}
	for (uint32_t i = 0; i < op->n_params; i++) {
		if (op->params[i].type == GPUQ_PARAM_I64)
			call->params[i].i64 = (int64_t)op->params[i].preset;
		else
			call->params[i].f64 = op->params[i].preset;
	}
	if (op_check(call, &arg) != 0)
		return false;
	for (uint32_t i = 0; i < op->n_inputs; i++) {
		if (tensor_present(&call->in[i]) && !place(&call->in[i], buffer, &used))
			return false;
	}
	for (uint32_t i = 0; i < op->n_outputs; i++) {
		if (tensor_present(&call->out[i]) && !place(&call->out[i], buffer, &used))
			return false;
	}
	return true;
}

/* Least squares with each sample weighted by 1/ns^2; neither coefficient below 0. */
static struct cost_line fit(const struct sample *samples, int count)
{
	const struct sample *last = &samples[count - 1];
	const double through_last = last->ns / fmax(1, last->work);
	double s = 0, sx = 0, sy = 0, sxx = 0, sxy = 0, slope, base;

	for (int i = 0; i < count; i++) {
		const double weight = 1 / (samples[i].ns * samples[i].ns);

		s += weight;
		sx += weight * samples[i].work;
		sy += weight * samples[i].ns;
		sxx += weight * samples[i].work * samples[i].work;
		sxy += weight * samples[i].work * samples[i].ns;
	}
	slope = (s * sxy - sx * sy) / (s * sxx - sx * sx);
	base = (sy - slope * sx) / s;
	/* A line that hardly rises is one of a disturbed measurement, too. */
	if (isfinite(slope) && base >= 0 && slope >= through_last / MAX_FLATNESS)
		return (struct cost_line){base, slope};
	/* One sample, or a disturbed measurement: the line through the origin and the last. */
	return (struct cost_line){0, through_last};
}

static struct cost_line calibrate(
	const struct op *op, uint32_t dtype, char *buffer, double deadline)
{
	struct sample samples[MAX_SAMPLES];
	struct op_call call;
	int count = 0;

	for (uint64_t scale = 1; count < MAX_SAMPLES; scale *= 2) {
		if (!make_example(&call, op, dtype, scale, buffer))
			break;
		samples[count].work = (double)op->work(&call);
		samples[count].ns = fmax(1, time_call_ns(&call, deadline));
		if (samples[count++].ns > LONGEST_NS)
			break;
	}
	return count > 0 ? fit(samples, count) : (struct cost_line){0, 0};
}

int cost_calibrate(struct cost_model *model)
{
	const double deadline = cpu_ns() + TOTAL_NS;
	char *buffer = malloc(BUFFER_BYTES);

	assert(op_count <= COST_MAX_OPS);
	if (buffer == NULL)
		return -ENOMEM;
	memset(buffer, 0x3c, BUFFER_BYTES); /* an ordinary number in every float type */
	*model = (struct cost_model){0};
	for (uint32_t i = 0; i < op_count; i++) {
		for (uint32_t dtype = 1; dtype <= GPUQ_DTYPE_LAST; dtype++) {
			if ((op_table[i]->inputs[0].dtypes & GPUQ_DTYPE_BIT(dtype)) != 0)
				model->lines[i][dtype] =
					calibrate(op_table[i], dtype, buffer, deadline);
		}
	}
	free(buffer);
	return 0;
}

uint64_t cost_predict_ns(const struct cost_model *model, const struct op_call *call)
{
	const uint32_t dtype = call->in[0].dtype;
	const struct cost_line *line;
	double ns;
	uint32_t i = call->place > 0 ? call->place - 1 : 0;

	while (i < op_count && op_table[i] != call->op)
		i++;
	if (i >= op_count || dtype > GPUQ_DTYPE_LAST)
		return UINT64_MAX;
	line = &model->lines[i][dtype];
	ns = line->base_ns + line->per_work_ns * (double)call->op->work(call);
	return line->per_work_ns == 0 || ns >= 0x1p64 ? UINT64_MAX : (uint64_t)ns;
}
