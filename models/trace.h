/* SPDX-License-Identifier: MIT */
/*
 * trace.h: what the operators of a model's step make of a text, one value after the other, so that
 * it can be compared with what another implementation makes of it. Values and their names, N being
 * a layer's number, in the order in which they are computed:
 *
 *	embedding
 *	layer.N.attention_norm	the first norm's output
 *	layer.N.qkv		queries, keys and values as they are projected
 *	layer.N.q, .k, .v	q and k after their norms and RoPE; k and v as the cache keeps them
 *	layer.N.context		what attention makes of these
 *	layer.N.attended	projected again, and added to the layer's input
 *	layer.N.mlp_norm, .gate_up
 *	layer.N.mlp		before the MLP's last matrix
 *	layer.N.out		added to `attended`: the next layer's input
 *	norm, logits
 *
 * The step itself keeps neither the norms' outputs nor gate_up: these are of rmsnorm and of linear
 * beside it, whose bits are those that the step's linear goes by.
 */
#ifndef GPUQ_MODELS_TRACE_H
#define GPUQ_MODELS_TRACE_H

#include "models/model.h"

struct model_value {
	char name[GPUQ_NAME_MAX];
	uint64_t rows, columns; /* a row for each token */
	const float *data;	/* valid until the next one */
};

/* 0, or what model_trace() is to end with. */
typedef int model_see(void *context, const struct model_value *value);

/*
 * Computes a text in one step, operator by operator, and shows each value as soon as it is there.
 * Nothing else is done with the model, nor captured, meanwhile: the text takes the first blocks of
 * its cache. -GPUQ_ELIMIT for more tokens than the model was loaded for (step_tokens, step_rows, or
 * a session's), -GPUQ_ETOKEN for one outside the vocabulary or none, -ENOMEM, -GPUQ_EDEVICE.
 */
int model_trace(const struct model *model, const int32_t *tokens, uint32_t n, model_see *see,
	void *context);

#endif
