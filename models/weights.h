/* SPDX-License-Identifier: MIT */
/*
 * weights.h: which tensor of a model's files is which weight, checked against its configuration,
 * and where each lies in one piece of memory that holds them all.
 *
 * Matrices are as the files have them, row by row: [outputs, inputs]. q, k and v of a layer lie
 * without gaps, so that they are one matrix; so do gate and up, the biases of either, and their
 * scales. What begins such a group, and every other weight, is aligned to 256 bytes.
 */
#ifndef GPUQ_MODELS_WEIGHTS_H
#define GPUQ_MODELS_WEIGHTS_H

#include "models/config.h"
#include "models/safetensors.h"

enum weight_role {
	/* of the model */
	WEIGHT_EMBEDDING, /* [vocab, hidden] */
	WEIGHT_NORM,	  /* [hidden] */
	WEIGHT_HEAD,	  /* [vocab, hidden]; when tied, the embedding, or its quantised copy */
	/* of each layer */
	WEIGHT_ATTENTION_NORM, /* [hidden] */
	WEIGHT_Q,	       /* [heads * head_dim, hidden] */
	WEIGHT_K,	       /* [kv_heads * head_dim, hidden] */
	WEIGHT_V,
	WEIGHT_Q_BIAS, /* as many as rows of q, k, v, o */
	WEIGHT_K_BIAS,
	WEIGHT_V_BIAS,
	WEIGHT_Q_NORM, /* [head_dim] */
	WEIGHT_K_NORM,
	WEIGHT_O, /* [hidden, heads * head_dim] */
	WEIGHT_O_BIAS,
	WEIGHT_MLP_NORM, /* [hidden] */
	WEIGHT_GATE,	 /* [intermediate, hidden] */
	WEIGHT_UP,
	WEIGHT_GATE_BIAS,
	WEIGHT_UP_BIAS,
	WEIGHT_DOWN, /* [hidden, intermediate] */
	WEIGHT_DOWN_BIAS,
	WEIGHT_ROLES,
};
#define WEIGHT_FIRST_OF_LAYER WEIGHT_ATTENTION_NORM

struct weight {
	const struct safetensors_tensor *from; /* NULL: the model has no such weight */
	uint32_t dtype;			       /* as held: f32, f16, bf16, or i8 with scales */
	uint32_t rank;
	uint64_t dims[2];
	uint64_t offset, bytes;
	uint64_t scales_offset; /* of dims[0] f32, when dtype is i8; see quant.h */
};

enum weight_quant {
	WEIGHT_AS_IS = 0,
	WEIGHT_INT8 = 1, /* all matrices but the embedding */
};

struct model_weights;

/*
 * Finds every weight that the configuration asks for. files stays open as long as the weights.
 * -ENOENT when one is missing, -EBADMSG when its shape is another or when there is a tensor that
 * the architecture does not have, -GPUQ_EDTYPE when the tensors are not all f32, all f16 or all
 * bf16, -ENOMEM.
 */
int model_weights_plan(const struct model_config *config, const struct safetensors *files,
	enum weight_quant quant, struct model_weights **ret_weights, struct model_why *why);
void model_weights_destroy(struct model_weights *weights); /* NULL is fine */

/* The memory that all of them need. */
uint64_t model_weights_bytes(const struct model_weights *weights);

/* NULL when the model has none. layer is 0 for a weight of the model. */
const struct weight *model_weight(
	const struct model_weights *weights, uint32_t layer, enum weight_role role);

/*
 * Reads, and quantises, them into memory of model_weights_bytes(), aligned to 256 bytes. Errors as
 * safetensors_read(), and -EDOM when a matrix to be quantised has an element that is no number.
 */
int model_weights_read(const struct model_weights *weights, const struct safetensors *files,
	void *memory, const struct model_watch *watch, struct model_why *why);

/*
 * For memory that cannot be read into: the weights come in pieces of at most WEIGHTS_PIECE_BYTES.
 * begin() gives the room for the next one, end() takes it: it belongs at `offset` of the memory.
 * They return an error, negative, that ends it all; and then `why` is theirs to fill in.
 */
#define WEIGHTS_PIECE_BYTES ((uint64_t)64 << 20)
struct weights_sink {
	int (*begin)(void *context, void **ret_room);
	int (*end)(void *context, uint64_t offset, uint64_t bytes);
	void *context;
};

/* As model_weights_read(), or an error of the sink. */
int model_weights_stream(const struct model_weights *weights, const struct safetensors *files,
	const struct weights_sink *sink, const struct model_watch *watch, struct model_why *why);

#endif
