/* SPDX-License-Identifier: MIT */
/*
 * config.h: what a language model is, from the config.json and generation_config.json of its
 * Hugging Face folder. Every number is bounded here, so that products of them fit 64 bits and
 * whoever computes with them need not check again; what gpuq does not compute is refused.
 */
#ifndef GPUQ_MODELS_CONFIG_H
#define GPUQ_MODELS_CONFIG_H

#include "models/fail.h"
#include "shm/gpuq-types.h"

#include <stdbool.h>

#define MODEL_MAX_LAYERS 256u
#define MODEL_MAX_EOS 16u

enum model_architecture {
	MODEL_LLAMA = 1,
	MODEL_MISTRAL,
	MODEL_QWEN2,
	MODEL_QWEN3,
};

enum model_rope_scaling {
	MODEL_ROPE_PLAIN = 0,
	MODEL_ROPE_LINEAR = 1, /* positions are divided by factor */
	MODEL_ROPE_LLAMA3 = 2, /* low frequencies are divided by factor, smoothly up to high ones */
};

struct model_rope {
	double theta;
	enum model_rope_scaling scaling;
	double factor;
	double low_freq_factor, high_freq_factor; /* MODEL_ROPE_LLAMA3 */
	uint32_t original_positions;		  /* likewise */
};

struct model_config {
	enum model_architecture architecture;
	uint32_t vocab, hidden, layers, intermediate;
	uint32_t heads, kv_heads; /* heads is a multiple of kv_heads */
	uint32_t head_dim;	  /* even; not always hidden / heads */
	uint32_t max_positions;
	double norm_eps;
	struct model_rope rope;
	bool tied;   /* the embedding is the head as well */
	bool q_bias; /* of q, k and v */
	bool o_bias, mlp_bias;
	bool qk_norm; /* RMSNorm of each head of q and k, before RoPE */
	/* A windowed layer's token sees itself and the window - 1 tokens before it. */
	uint32_t window;
	bool windowed[MODEL_MAX_LAYERS];
	uint32_t eos_count;
	int32_t eos[MODEL_MAX_EOS]; /* tokens that end a text */
};

/*
 * -ENOENT, -ELOOP, -EBADMSG (no JSON, or a member of a wrong type), -ERANGE (a number out of its
 * bounds), -EOPNOTSUPP (an architecture or a variant that gpuq does not compute, named).
 */
int model_config_load(int dir_fd, struct model_config *ret_config, struct model_why *why);

#endif
