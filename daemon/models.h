/* SPDX-License-Identifier: MIT */
/*
 * models.h: the language models of a device process. Threads of their own, the loader, read
 * weights, one model after another, and free them, which may take minutes; the link thread tells
 * it to, and passes what has been loaded to dispatch, which opens sessions of it and drives its
 * engine. A model that has left dispatch, with every request of it ended, is the loader's again;
 * memory is given back beside what is being loaded.
 *
 *	LOADING -> SERVING -> REMOVING -> FREEING -> (gone)
 *	LOADING: the loader's, also after its end, until it has been looked at
 *	SERVING, REMOVING: dispatch's
 */
#ifndef GPUQ_DAEMON_MODELS_H
#define GPUQ_DAEMON_MODELS_H

#include "daemon/devlink.h"
#include "models/engine.h"
#include "shm/stats.h"

#include <sys/queue.h>

enum known_model_state { MODEL_LOADING, MODEL_SERVING, MODEL_REMOVING, MODEL_FREEING };

struct known_model {
	enum known_model_state state; /* the link thread's */
	uint32_t handle;
	char name[GPUQ_NAME_MAX];
	struct model *model;
	struct engine *engine;
	uint32_t vocab;
	struct kv_client *accounts; /* [max_clients], by client */
	struct stats_model *stats;
	TAILQ_ENTRY(known_model) link; /* in a queue of the loader */
	/* The loader's. */
	int dir_fd;
	struct model_options options;
	struct engine_shape warm[DEVLINK_MAX_WARM];
	uint32_t n_warm;
	uint64_t cancel; /* 1: it is not wanted any more; atomic */
	int status;
	struct model_why why;
	/* Dispatch's. */
	uint32_t n_sessions; /* open */
	uint32_t in_flight;  /* requests that the engine has */
	bool removed;	     /* from the table */
	bool warming;	     /* nobody has been told that it is there */
	bool changed;	     /* since its statistics were written */
	TAILQ_ENTRY(known_model) polled;
};
TAILQ_HEAD(known_model_queue, known_model);

struct models_options {
	struct device *device;
	struct graphs *graphs;
	struct clock_line clock;
	struct recorder *recorder; /* dispatch's; may be NULL */
	uint64_t *launch_hist;	   /* of the device; may be NULL */
	struct stats_model *stats; /* one record for each place */
	uint32_t max_models, max_clients, max_sessions;
	uint64_t kv_bytes;
	uint32_t kv_blocks_per_client, kv_blocks_per_user, kv_bucket, prefill_chunk;
	bool few_shapes; /* see models/engine.h */
};

struct models;

/* Makes the table and starts the loader. -ENOMEM, or why there is no thread. */
int models_create(const struct models_options *options, struct models **ret_models);

/*
 * Ends the loader, and frees every model: dispatch has ended, and nothing is on the device any
 * more. NULL is fine.
 */
void models_destroy(struct models *m);

/* Readable when models_take() may have something. */
int models_event_fd(const struct models *m);

/* A model that the loader is through with: loaded, not loaded, or freed; NULL: none. */
struct known_model *models_take(struct models *m);

/*
 * Begins to load what DEVLINK_MODEL asks for; owns the descriptor from here on. Its place is free
 * afterwards when it fails.
 */
int models_load(struct models *m, const struct devlink_msg *msg, int dir_fd);

/* The model with this handle, or NULL. */
struct known_model *models_find(const struct models *m, uint32_t handle);

/* One that is LOADING is not wanted any more: models_take() has it soon, at once if it waits. */
void models_cancel(struct models *m, struct known_model *model);

/* Nobody uses it any more: gives its memory back. */
void models_free(struct models *m, struct known_model *model);

/* After that, or when it could not be loaded: its place is free. */
void models_forget(struct models *m, struct known_model *model);

/* The number in a handle, as of pipelines and buffers. */
static inline uint32_t model_place(uint32_t handle)
{
	return handle & 0xffffu;
}

#endif
