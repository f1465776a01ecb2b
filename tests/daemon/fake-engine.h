/* SPDX-License-Identifier: MIT */
/*
 * fake-engine.h: an engine for dispatch that does what the test tells it to: its requests are done
 * at once, or held until they are let go; the first of those that are held runs and cannot be
 * cancelled. It takes the place of models/engine.c.
 */
#ifndef GPUQ_TESTS_DAEMON_FAKE_ENGINE_H
#define GPUQ_TESTS_DAEMON_FAKE_ENGINE_H

#include "models/engine.h"

#define VOCAB 10u
#define SESSIONS 16u

struct engine_session {
	struct engine *engine;
	struct kv_client *client; /* NULL: closed */
	uint32_t n_queued, n_tokens;
};

struct queue {
	struct engine_request *first, **end;
};

struct engine {
	struct engine_session sessions[SESSIONS];
	struct queue queued, done;
	uint64_t n_open, n_queued; /* seen by the test */
	uint64_t hold, failed;	   /* told by the test; failed also by dispatch */
	uint64_t warming;	   /* shapes; told by dispatch, or 0 by the test */
	uint64_t salt;
	struct pipeline *pipeline; /* what a step is; its context counts as its only dimension */
};

#endif
