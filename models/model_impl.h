/* SPDX-License-Identifier: MIT */
/* model_impl.h: a loaded model from inside. */
#ifndef GPUQ_MODELS_MODEL_IMPL_H
#define GPUQ_MODELS_MODEL_IMPL_H

#include "models/model.h"

struct model {
	struct device *device;
	struct graphs *graphs;
	struct model_config config;
	struct model_options options;
	uint8_t *memory; /* of the weights */
	uint64_t weight_bytes;
	uint8_t *cache; /* of each layer: [1 + kv_blocks, 2, kv_heads, 16, head_dim] */
	void *caches[MODEL_MAX_LAYERS]; /* these */
	uint32_t cache_dtype;
	uint64_t layer_bytes; /* of the cache */
	uint8_t *scratch;
	uint64_t scratch_bytes;
	bool on_cpu;
	struct pipeline *pipelines[MODEL_STEPS];
};

/*
 * The steps of Llama and its kin as a pipeline over the model's weights and cache. -GPUQ_ELIMIT
 * when it is longer than a pipeline may be, -ENOMEM.
 */
int llama_pipeline(const struct model *model, const struct model_weights *weights,
	enum model_step kind, struct pipeline **ret_pipeline, struct model_why *why);

#endif
