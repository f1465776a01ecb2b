/* SPDX-License-Identifier: MIT */
/* engine_model.c: what of a loaded model an engine has to know. */
#include "models/engine.h"

struct engine_model engine_model_of(const struct model *model)
{
	const struct model_config *config = model_config(model);
	struct engine_model e = {
		.vocab = config->vocab,
		.top_k = model_top_k(model),
		.kv_blocks = model_kv_blocks(model),
		.max_session_tokens = model_max_session_tokens(model),
		.eos = config->eos,
		.eos_count = config->eos_count,
	};

	for (uint32_t i = 0; i < MODEL_STEPS; i++) {
		e.steps[i].pipeline = model_pipeline(model, i);
		e.steps[i].op = pipeline_op(e.steps[i].pipeline);
	}
	e.caches = model_caches(model, &e.n_caches, &e.block_bytes);
	return e;
}
