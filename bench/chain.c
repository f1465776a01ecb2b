/* SPDX-License-Identifier: MIT */
/* chain.c: pipelines of any length whose kernels are small: x -> GEMV -> softmax -> GEMV -> ... */
#include "bench/graphs.h"

#include "kernels/ops.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Tensors: 0 x, 1 w, 2 y, then what passes from one step to the next. */
enum { X, W, Y, INNER };

static void name_tensor(struct wire_pipeline_tensor *t, uint32_t i)
{
	static const char *const names[] = {"x", "w", "y"};

	if (i < INNER)
		snprintf(t->name, sizeof(t->name), "%s", names[i]);
	else
		snprintf(t->name, sizeof(t->name), "t%u", i - INNER);
	t->dtype = GPUQ_F32;
	t->rank = i < Y ? 2 : 0;
	t->dims[0] = i == X ? 1 : CHAIN_WIDTH;
	t->dims[1] = CHAIN_WIDTH;
	if (i >= Y)
		memset(t->dims, 0, sizeof(t->dims));
}

static void fill_step(struct wire_pipeline_step *s, uint32_t i, uint32_t kernels)
{
	bool gemv = i % 2 == 0;

	memset(s->in, 0xff, sizeof(s->in));
	memset(s->out, 0xff, sizeof(s->out));
	(void)op_find(gemv ? "gemv_batched" : "softmax", &s->op);
	s->in[0] = (uint16_t)(i == 0 ? X : INNER + i - 1);
	if (gemv)
		s->in[1] = W;
	s->out[0] = (uint16_t)(i == kernels - 1 ? Y : INNER + i);
}

void *chain_definition(uint32_t kernels, uint64_t *ret_bytes)
{
	uint32_t n_tensors = INNER + kernels - 1;
	uint64_t bytes = sizeof(struct wire_pipeline) +
		n_tensors * sizeof(struct wire_pipeline_tensor) +
		kernels * sizeof(struct wire_pipeline_step);
	struct wire_pipeline *p = calloc(1, bytes);

	if (p == NULL)
		return NULL;
	*p = (struct wire_pipeline){
		.n_inputs = 2, .n_outputs = 1, .n_tensors = n_tensors, .n_steps = kernels};
	snprintf(p->name, sizeof(p->name), "chain-%u", kernels);
	struct wire_pipeline_tensor *tensors = (struct wire_pipeline_tensor *)(p + 1);
	struct wire_pipeline_step *steps = (struct wire_pipeline_step *)(tensors + n_tensors);
	for (uint32_t i = 0; i < n_tensors; i++)
		name_tensor(&tensors[i], i);
	for (uint32_t i = 0; i < kernels; i++)
		fill_step(&steps[i], i, kernels);
	*ret_bytes = bytes;
	return p;
}

int chain_create(uint32_t kernels, struct chain *ret_chain)
{
	struct chain chain = {.kernels = kernels};
	char why[PIPELINE_MAX_WHY] = "";
	uint64_t bytes = 0;
	void *blob = chain_definition(kernels, &bytes);

	if (blob == NULL)
		return -ENOMEM;
	int r = pipeline_create(blob, bytes, &chain.pipeline, why);
	free(blob);
	if (r < 0)
		complain(r, "a pipeline of %u kernels: %s", kernels, why);
	else
		*ret_chain = chain;
	return r;
}

static struct tensor matrix(uint64_t rows)
{
	return (struct tensor){.dtype = GPUQ_F32, .rank = 2, .dims = {rows, CHAIN_WIDTH}};
}

void chain_call(const struct chain *chain, uint64_t rows, struct op_call *ret_call)
{
	*ret_call = (struct op_call){.op = pipeline_op(chain->pipeline)};
	ret_call->in[0] = matrix(rows);
	ret_call->in[1] = matrix(CHAIN_WIDTH);
	ret_call->out[0] = matrix(rows);
}
