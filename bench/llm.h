/* SPDX-License-Identifier: MIT */
/*
 * llm.h: the parts of `gpuq-bench decode`, `prefill` and `load`: language models with random
 * weights, served by gpuqd, by the same engine in this process, and by llama.cpp.
 */
#ifndef GPUQ_BENCH_LLM_H
#define GPUQ_BENCH_LLM_H

#include "bench/bench.h"
#include "models/model.h"

#include <string.h>

#define LLM_NAME "bench" /* of the model in gpuqd */
#define LLM_CONTEXT 32u	 /* tokens before those that are decoded */
#define LLM_DECODED 128u
#define LLM_MAX_PROMPT 512u
#define LLM_MAX_CLIENTS 32u
#define LLM_KV_BLOCKS 512u /* of 16 tokens */

struct llm_shape {
	const char *name;
	uint32_t vocab, hidden, layers, heads, kv_heads, head_dim, intermediate, positions;
};

/* "1b" is Llama-3.2-1B's. The last one has no name. */
extern const struct llm_shape llm_shapes[];
const struct llm_shape *llm_shape_find(const char *name); /* NULL: none */

/* --- folder.c ------------------------------------------------------------------------------ */

/* Of a model with random weights. */
struct llm_folder {
	char path[256];
	int fd;
	bool own; /* made here, and removed at the end */
};

/*
 * That of --folder, which is filled when there is no model in it and kept, or a new one in
 * $TMPDIR. 0 or a told error.
 */
int llm_folder_open(const struct bench *b, struct llm_folder *ret_folder);
void llm_folder_close(struct llm_folder *folder);

static inline bool llm_is_int8(const struct bench *b)
{
	return strcmp(b->weights, "int8") == 0;
}

/* With --weights, and room for the texts of these measurements. */
static inline struct model_options llm_options(const struct bench *b)
{
	return (struct model_options){
		.quant = llm_is_int8(b) ? WEIGHT_INT8 : WEIGHT_AS_IS,
		.kv_blocks = LLM_KV_BLOCKS,
	};
}

/* --- llm_local.c: a model in this process, which plays dispatch ----------------------------- */

struct llm_local;

/* Loads a folder; so many threads of the CPU device compute. 0 or a told error. */
int llm_local_open(struct bench *b, int dir_fd, const struct model_options *options,
	uint32_t workers, struct llm_local **ret_local);
const struct model *llm_local_model(const struct llm_local *l);
void llm_local_close(struct llm_local *l); /* NULL is fine */

/*
 * Appends tokens to the one session and computes the answer to the last of them: the token that is
 * most likely to follow. 0 or a negative error.
 */
int llm_local_step(
	struct llm_local *l, const int32_t *tokens, uint32_t n_tokens, int32_t *ret_token);

/* The session's text is forgotten. 0 or a negative error. */
int llm_local_restart(struct llm_local *l);

/* --- llm_remote.c: the same behind gpuqd --------------------------------------------------- */

struct llm_remote;

/* A gpuqd that has loaded the folder as LLM_NAME. 0 or a told error. */
int llm_daemon_start(struct bench *b, const struct llm_folder *folder, struct daemon *ret_daemon);

int llm_remote_open(const struct daemon *d, struct llm_remote **ret_remote); /* 0 or a told error */
void llm_remote_close(struct llm_remote *r);				     /* NULL is fine */

/* As llm_local_step() and llm_local_restart(). */
int llm_remote_step(
	struct llm_remote *r, const int32_t *tokens, uint32_t n_tokens, int32_t *ret_token);
int llm_remote_restart(struct llm_remote *r);

/* Processes that decode at the same time. */
struct llm_crowd {
	double tokens_per_s;	 /* of all */
	uint64_t p50_ns, p99_ns; /* between two tokens of one */
};

/*
 * What each of the processes does: opens what it needs and reads its prompt; calls
 * llm_crowd_ready(), which returns when all have; and makes tokens, each noted, until
 * llm_crowd_note() says that it is enough. 0 or a negative error.
 */
struct llm_crowd_page;
typedef int llm_speak(const struct daemon *d, struct llm_crowd_page *page, uint32_t number);
void llm_crowd_ready(struct llm_crowd_page *page);
bool llm_crowd_note(struct llm_crowd_page *page, uint64_t token_ns);

/* The likeliest token, again and again. */
llm_speak llm_speak_steps;

/* 0 or a told error. n is at most LLM_MAX_CLIENTS. */
int llm_crowd(const struct daemon *d, uint32_t n, double seconds, llm_speak *speak,
	struct llm_crowd *ret_crowd);

/* --- llm_captures.c: captures beside others' steps ------------------------------------------ */

struct llm_captures;

int llm_captures_open(struct llm_captures **ret_captures); /* 0 or a negative error */
void llm_captures_close(struct llm_captures *c);	   /* NULL is fine */

/* A process has shapes captured that nobody had before. 0 or a negative error. */
int llm_captures_start(struct llm_captures *c, const struct daemon *d);

/* Returns how many there have been since llm_captures_open(). */
uint64_t llm_captures_stop(struct llm_captures *c);

#endif
