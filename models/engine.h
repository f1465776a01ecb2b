/* SPDX-License-Identifier: MIT */
/*
 * engine.h: sessions over a loaded model, and which of their tokens are computed together.
 *
 * A session is a text. A request appends tokens to it and asks what may follow (ENGINE_STEP), or
 * appends tokens and then more that the device samples (ENGINE_GENERATE). Requests of a session
 * run one after another. A request that ends with an error leaves the text as it was before it.
 *
 * Batches. One step of the model runs at a time, of one kind (enum model_step). Requests with at
 * most ENGINE_DECODE_TOKENS tokens to compute are taken together into decode steps, up to
 * max_batch sessions; longer ones are computed in chunks of chunk_tokens between decode steps,
 * sessions taking turns. While sessions decode, here or in another engine of the device, chunks are
 * made so short that they keep their pace: a power of two times ENGINE_DECODE_TOKENS tokens, that
 * take about pace_percent of the time of the shortest decode step held up. Kinds that have
 * something to do take turns too. A decode step starts when all sessions that were in the last one
 * of its kind have asked again, or when gather_percent of that step's time has passed since its
 * end: who is late misses a step and delays nobody.
 *
 * Better priorities go first, in decode steps as in chunks; one that is left out has its turn after
 * ENGINE_MAX_PASSED_OVER steps of others.
 *
 * Within a priority users take turns, and sessions of a user among themselves: a step is filled by
 * whose user has had the fewest tokens for its weight, in decode steps and in chunks apart, so that
 * the number of its sessions helps nobody. Who has nothing to do saves up one step at most.
 *
 * Shapes: numbers of tokens, sessions and rows are exact; contexts are rounded up to multiples of
 * bucket_tokens, which makes graphs repeat. Where captures are dear (few_shapes) decode steps are
 * for 1, 2, 3, 4, 6, 8, 12, 16, 24, .. sessions, of which the last may be nobody's, and contexts of
 * more than eight buckets have four lengths for each doubling. A step whose shape is not captured
 * is launched kernel by kernel; after a decode step, captures of the next batch size and the next
 * bucket are wished for.
 *
 * KV blocks (kv.h). Equal openings of sessions of one salt are computed once. When blocks run out,
 * idle sessions lose theirs, then those whose request came later or is of lower priority; what was
 * lost is computed again before the session's next token, and nothing but time tells.
 *
 * A client's memory: tokens and ids are copied once, when the request starts, and the copy is
 * checked; results are only written.
 *
 * One thread uses an engine, dispatch. Nothing but engine_create() and engine_destroy() allocates
 * or blocks. A test plays dispatch by calling engine_poll().
 */
#ifndef GPUQ_MODELS_ENGINE_H
#define GPUQ_MODELS_ENGINE_H

#include "models/model.h"
#include "shm/hist.h"

#include <sys/queue.h>

#define ENGINE_MAX_BATCH 64u
#define ENGINE_MAX_IDS 256u
#define ENGINE_MAX_QUEUED 8u	 /* requests of one session, the one that runs included */
#define ENGINE_DECODE_TOKENS 16u /* with more to compute, a request is computed in chunks */

struct engine;
struct engine_session;

/* What an engine has to know of a model. */
struct engine_model {
	struct {
		const struct op *op;
		struct pipeline *pipeline; /* NULL: the operator itself */
	} steps[MODEL_STEPS];
	uint32_t vocab, top_k;
	uint32_t kv_blocks; /* besides block 0 */
	uint32_t max_session_tokens;
	void *const *caches; /* of the layers; each begins with block 0 */
	uint32_t n_caches;
	uint64_t block_bytes; /* of one block in one of them */
	const int32_t *eos;
	uint32_t eos_count;
};

/*
 * What the engines of one device know of each other. Zeroed at first, outlives them, and one thread
 * uses them all.
 */
struct engine_pace {
	LIST_HEAD(, engine) engines; /* that have sessions */
	uint64_t launches;	     /* of steps */
	uint32_t running;	     /* steps on the device */
};

struct engine_options {
	struct device *device;
	struct graphs *graphs;
	struct clock_line clock;
	struct engine_model model; /* what it points to outlives the engine */
	struct engine_pace *pace;  /* NULL: there is no other engine */
	struct recorder *recorder; /* of the thread that polls the engine; may be NULL */
	uint32_t recorded_as;	   /* the model's handle in what is recorded */
	uint64_t *launch_hist;	   /* counts launches of steps, by HIST_STATS_BITS; may be NULL */
	uint32_t max_sessions;
	uint32_t max_user_blocks; /* of the cache, for all sessions of one salt; 0: any */
	uint32_t max_batch;	  /* 1 .. ENGINE_MAX_BATCH */
	uint32_t chunk_tokens;	  /* at least 1; 256 is usual */
	uint32_t bucket_tokens;	  /* at least 1: graphs of exact lengths; 64 is usual */
	bool few_shapes;	  /* rather than exact ones: see above */
	uint32_t gather_percent;  /* 10 is usual */
	uint32_t pace_percent;	  /* 200 is usual; 0: chunks have chunk_tokens in any case */
};

/*
 * What makes the shape of a step: see enum model_input. A step's context is rounded up to
 * bucket_tokens, and ids to a power of two; see few_shapes.
 */
struct engine_shape {
	enum model_step kind;
	uint32_t tokens, sessions, rows;
	uint32_t ids; /* of each row; of MODEL_STEP_RESULT only */
	uint32_t context;
};

enum engine_kind {
	ENGINE_STEP,
	ENGINE_GENERATE,
};

/* Lives with the caller from engine_submit() until engine_take_done() gives it back. */
struct engine_request {
	enum engine_kind kind;
	struct engine_session *session;
	uint32_t priority;    /* 0 is first */
	uint64_t deadline_ns; /* of the engine's clock; 0: none */
	const void *tokens;   /* i32[n_tokens], at any address, n_tokens at least 1 */
	uint32_t n_tokens;
	float temperature;
	void *out;
	uint64_t out_bytes;

	/*
	 * ENGINE_STEP: out has `rows` records of wire_row_bytes(top_k, n_ids) bytes each: a struct
	 * wire_row, i32 tokens[top_k], f32 values[top_k], f32 named[n_ids]; the candidates are
	 * fewer than top_k when the model gives fewer, and -1 and -inf then fill up.
	 */
	uint32_t rows;	/* the last so many tokens of the request; 0 .. n_tokens */
	uint32_t top_k; /* 0 .. MODEL_MAX_TOP_K */
	uint32_t n_ids; /* 0 .. ENGINE_MAX_IDS */
	const void *ids;
	/*
	 * NULL, or where full rows go, f32[rows, vocab], as the device sees it; the rows of `out`
	 * then say no more than lse and entropy: top_k and n_ids are 0.
	 */
	void *device_logits;

	/*
	 * ENGINE_GENERATE: out gets i32 tokens[n_generate] and, behind these, their f32
	 * logprobs[n_generate]. The last token made is not part of the session's text: the next
	 * request would give it. Tokens are drawn by seed and position, so a text that is generated
	 * in two parts is the one that is generated in one.
	 */
	uint32_t n_generate;
	uint64_t seed;
	bool stop; /* ends with a token that ends a text, which is the last one made */

	/* Valid at the end. */
	int status;	     /* 0, or a negative error */
	uint32_t n_made;     /* tokens generated */
	uint64_t started_ns; /* when it first went to the device; 0: it never did */
	uint64_t ended_ns;
	uint64_t device_ns; /* its part of the time that steps with it took */

	/* Private to the engine. */
	struct engine_request *next;
	uint64_t arrival;
	bool canceled;
};

struct engine_stats {
	uint32_t sessions;
	struct kv_stats kv;
	uint64_t prompt_tokens;	   /* given by requests */
	uint64_t computed_tokens;  /* on the device, those of preempted sessions again */
	uint64_t generated_tokens; /* sampled on the device */
	uint64_t steps[MODEL_STEPS];
	uint64_t rows;			    /* answers */
	uint64_t batches[ENGINE_MAX_BATCH]; /* decode steps of i + 1 sessions */
	/* ns that steps took, as shm/hist.h counts: decode steps, and the others. */
	uint64_t decode_hist[HIST_BUCKETS(HIST_STATS_BITS)];
	uint64_t chunk_hist[HIST_BUCKETS(HIST_STATS_BITS)];
};

/*
 * -EINVAL for options out of range, -GPUQ_ELIMIT when a step's tensors would be larger than
 * memory can be, -ENOMEM, or the device's error.
 */
int engine_create(const struct engine_options *options, struct engine **ret_engine);

/*
 * Waits for a step under way, unless the device has failed. Sessions end with it; requests that
 * have not been taken back are forgotten. NULL is fine.
 */
void engine_destroy(struct engine *engine);

/* What of a loaded model an engine has to know. */
struct engine_model engine_model_of(const struct model *model);

/*
 * A session without text, charged to the client; sessions of one salt are one user's, and share
 * openings. -GPUQ_ELIMIT when max_sessions are open, -GPUQ_EDEVICE when the device has failed.
 */
int engine_session_open(struct engine *engine, struct kv_client *client, uint64_t salt,
	struct engine_session **ret_session);

/* The session's user has this weight from now on, at least 1; a new one has 1. */
void engine_session_weigh(struct engine_session *session, uint32_t weight);

/*
 * A second session with the same text. -EBUSY while the session has requests, -GPUQ_EKV above the
 * client's or the user's quota; and as engine_session_open().
 */
int engine_session_fork(struct engine_session *session, struct engine_session **ret_session);

/* Leaves the first `tokens` tokens. -EBUSY as above, -EINVAL when there are fewer. */
int engine_session_truncate(struct engine_session *session, uint32_t tokens);

/*
 * The caller's pointer is gone; requests of the session end with -ECANCELED, one that the device is
 * working at when that is done. NULL is fine.
 */
void engine_session_close(struct engine_session *session);

/* Of the text, those of a request under way included. */
uint32_t engine_session_tokens(const struct engine_session *session);

/* Of the cache; 0 while it is preempted. */
uint32_t engine_session_blocks(const struct engine_session *session);

/*
 * 0: it will end, and engine_take_done() gives it back. Otherwise nothing happened: -GPUQ_EPARAM
 * for numbers that do not fit each other, -GPUQ_ETOKEN without tokens, -GPUQ_ECONTEXT for more
 * tokens than a session can have, -GPUQ_ELIMIT when ENGINE_MAX_QUEUED are queued, -GPUQ_EDEVICE.
 *
 * It ends with 0; -GPUQ_ETOKEN: a token outside the vocabulary; -GPUQ_ECONTEXT: the text would be
 * too long; -GPUQ_EKV: above the client's or the user's quota, or more than the cache can hold;
 * -ECANCELED; -ETIMEDOUT: the deadline, which is looked at before it starts and between its steps;
 * -GPUQ_EDEADLINE: it has not started, and by what steps took lately would end after it;
 * -GPUQ_EDEVICE; or the error for which the cache of graphs refused its step.
 */
int engine_submit(struct engine *engine, struct engine_request *request);

/*
 * True: it will end with -ECANCELED, soon. False: its last step is on the device, or it has ended.
 * The request is under way, or ended and not yet taken back.
 */
bool engine_cancel(struct engine *engine, struct engine_request *request);

/*
 * Makes the call and the work with which graphs_precapture() has the shape of a step captured; what
 * says whose it is, and how its end is told, is left to the caller. It is finished before the
 * model goes. -GPUQ_EPARAM: no step has such a shape; then *ret_bad is the number of the member of
 * struct engine_shape that is out of range.
 */
int engine_precapture_init(const struct engine *engine, const struct engine_shape *shape,
	struct op_call *ret_call, struct graph_work *ret_work, uint32_t *ret_bad);

#define ENGINE_MAX_WARM 16u

/*
 * Has shapes captured, at most ENGINE_MAX_WARM, before anybody asks for their steps; shapes that
 * no step has are passed over. engine_poll() goes on with it, and engine_warming() says whether it
 * has not ended: what is not captured by deadline_ns, of the engine's clock, is given up. Once.
 */
void engine_warm(
	struct engine *engine, const struct engine_shape *shapes, uint32_t n, uint64_t deadline_ns);
bool engine_warming(const struct engine *engine);

/* What has not been captured yet is given up: engine_warming() is false soon. */
void engine_warm_end(struct engine *engine);

/* Goes on with what can go on; true when something did. */
bool engine_poll(struct engine *engine);

/* A request that has ended, in the order of their ends. NULL: none. */
struct engine_request *engine_take_done(struct engine *engine);

/* A request is under way. */
bool engine_busy(const struct engine *engine);

/*
 * When engine_poll() may have something to do that nothing rings for: now while a gather window
 * runs or room is waited for, UINT64_MAX when only the end of work on the device, which rings
 * wake_fd, or a new request can change anything.
 */
uint64_t engine_wake_ns(const struct engine *engine);

/*
 * When the step that runs is likely to end, by how long the last of its kind took; UINT64_MAX when
 * none runs, or that is not known.
 */
uint64_t engine_due_ns(const struct engine *engine);

/*
 * When what it has had on the device for longest was given to it: a step, or copies beside one;
 * UINT64_MAX: nothing is there.
 */
uint64_t engine_oldest_ns(const struct engine *engine);

/* The device has failed: everything ends with -GPUQ_EDEVICE, and nothing is taken any more. */
void engine_fail(struct engine *engine);

/*
 * It has, or something on it that uses a client's memory will never be seen to end: only the end
 * of the process helps.
 */
bool engine_has_failed(const struct engine *engine);

void engine_stats(const struct engine *engine, struct engine_stats *ret_stats);

#endif
