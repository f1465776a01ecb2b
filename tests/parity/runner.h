/* SPDX-License-Identifier: MIT */
/* runner.h: a model of tests/parity/data behind an engine on the CPU device, in this process. */
#ifndef GPUQ_TESTS_PARITY_RUNNER_H
#define GPUQ_TESTS_PARITY_RUNNER_H

#include "models/engine.h"
#include "tests/graphs/rig.h"
#include "tests/parity/expected.h"

#define RUNNER_CHUNK 128u /* tokens of a chunk of prefill */

struct runner {
	struct rig *graphs;
	struct model *model;
	struct engine *engine;
	struct kv_client client;
	uint32_t vocab;
};

struct runner_options {
	enum weight_quant quant;
	bool deterministic;
	uint32_t kv_blocks; /* 0: plenty */
	uint32_t bucket_tokens;
};

void runner_open(struct runner *r, const struct expected *e, const struct runner_options *options);
/* All sessions are closed. */
void runner_close(struct runner *r);

/* When a test that has to wait has waited too long. */
uint64_t runner_patience_ns(void);

/* Sessions of one salt share openings. */
struct engine_session *runner_session(struct runner *r, uint64_t salt);

/* A request for full rows; it comes first in it. */
struct ask_rows {
	struct engine_request r;
	struct wire_row *out;
	bool done;
};

/* Appends n tokens and asks for the logits of the last `rows` of them, f32[rows, vocab]. */
void ask_rows_submit(struct runner *r, struct ask_rows *a, struct engine_session *s,
	const int32_t *tokens, uint32_t n, uint32_t rows, float *logits);
void ask_rows_await(struct runner *r, struct ask_rows *a);

/* Both. */
void runner_rows(struct runner *r, struct engine_session *s, const int32_t *tokens, uint32_t n,
	uint32_t rows, float *logits);

/* Appends tokens and makes n_made more, the likeliest each time, on the device. */
void runner_generate(struct runner *r, struct engine_session *s, const int32_t *tokens, uint32_t n,
	uint32_t n_made, int32_t *made);

#endif
