/* SPDX-License-Identifier: MIT */
/*
 * engine_impl.h: the engine from inside; for the files engine*.c.
 *
 * A session with requests is in `active`, the longest unserved first. What its first request is
 * about lies in the session. `in_step`: it is in the step under way, whose end is to be awaited;
 * `copying`: full rows of it are on their way to the client. In both states nothing of it may
 * change. A session that is closed then stays, `closing`, until that is over.
 *
 * The KV pool counts its blocks from 0, the caches have one more before them: see block_address().
 */
#ifndef GPUQ_MODELS_ENGINE_IMPL_H
#define GPUQ_MODELS_ENGINE_IMPL_H

#include "models/engine.h"
#include "shm/proto.h"

#define ENGINE_WISHES 4u
#define ENGINE_KNOWN_WISHES 256u /* a power of two */
/* So many steps leave out a lower priority before it goes first: it is slow, but not starved. */
#define ENGINE_MAX_PASSED_OVER 15u
/*
 * Tokens that are looked up in the cache for one step, and what is looked up with them: dispatch
 * has others to serve, and copying and hashing so many takes some 300 us.
 */
#define ENGINE_LOOKUP_TOKENS 65536u

TAILQ_HEAD(engine_sessions, engine_session);

/* Whose sessions share their turns. */
struct engine_user {
	uint64_t salt;
	uint32_t weight, n_sessions;
	struct engine_sessions active; /* as engine.active; not empty: it is in engine.users */
	struct engine_session *next;   /* to be looked at for the step that is being gathered */
	uint64_t had[2];	       /* for its weight, in chunks and in decode steps */
	LIST_ENTRY(engine_user) open;  /* in engine.open_users or engine.free_users */
	LIST_ENTRY(engine_user) link;
};
LIST_HEAD(engine_users, engine_user);

struct engine_session {
	struct engine *engine;
	struct engine_user *user;
	struct kv_session *kv;		     /* NULL: the slot is unused */
	TAILQ_ENTRY(engine_session) link;    /* in engine.active or engine.unused */
	TAILQ_ENTRY(engine_session) of_user; /* in user->active */
	struct engine_request *first, *last; /* in the order of their coming */
	uint32_t n_queued;
	uint64_t used; /* number of the last step that it was in */
	bool in_step, copying, closing;
	bool alone; /* a step with others failed: the next one is its own */
	/* It found no room when engine_room_changes() was so. */
	bool waits_for_room;
	uint64_t room_changes;

	/* Of the first request. */
	bool started;	   /* its tokens are in the text */
	bool ends;	   /* with the step under way it has all it wants */
	uint32_t before;   /* tokens that were there before it */
	uint32_t next_row; /* position of the first token whose answer is still wanted */
	int32_t sampled;   /* the next token of the text, -1: none */
	int32_t ids[ENGINE_MAX_IDS];

	/*
	 * The last decode step that it was in. `awaited`: engine_turn.missing counts it, if that
	 * step is still the last one of its kind.
	 */
	enum model_step decode_kind;
	uint64_t decode_step;
	bool awaited;
};

/* A session's share of a step. */
struct engine_part {
	struct engine_session *session;
	uint32_t first, n_tokens;   /* positions first .. first + n_tokens - 1 */
	uint32_t first_row, n_rows; /* answers, as the step numbers them */
};

enum engine_step_state {
	STEP_NONE,
	STEP_COPYING, /* shared blocks, which it will write to */
	STEP_BUILT,   /* to be launched */
	STEP_RUNNING,
};

struct engine_step {
	enum engine_step_state state;
	bool is_decode;
	struct engine_shape shape;
	struct engine_part parts[ENGINE_MAX_BATCH];
	uint32_t n_parts, n_rows, n_tokens; /* the shape may have more */
	bool is_plain;			    /* a token and an answer each */
	struct kv_copy copies[ENGINE_MAX_BATCH];
	uint32_t n_copies;
	uint64_t looked_up; /* tokens, in the cache */
	uint64_t started_ns, launch_ns;
	uint64_t launch;  /* its number in engine_pace */
	bool undisturbed; /* no step of another engine ran when it was launched */
	struct op_call call;
	struct graph_work work;
};

/* Copies given to a stream one by one, with a signal behind them. */
struct engine_copying {
	struct device_stream *stream;
	struct device_completion *completion;
	uint64_t value;
	uint32_t next, count; /* count 0: none are under way */
	uint64_t began_ns;
	bool signaled;
	int status;
};

/* Full rows on their way to clients. */
struct engine_rows {
	struct engine_copying copying;
	struct engine_part parts[ENGINE_MAX_BATCH];
	void *to[ENGINE_MAX_BATCH];
};

/* Decode steps of one kind. */
struct engine_turn {
	uint64_t steps;		    /* so many have been launched */
	uint64_t served[2];	    /* numbers of the last chunk and the last decode step */
	uint64_t ended_ns, took_ns; /* the last one */
	uint32_t missing;	    /* sessions of the last one that have not asked again */
};

struct engine_wish {
	bool busy;
	struct op_call call;
	struct graph_work work;
};

/* A step's tensors, in the host's memory but for `logits`, and completion words. */
struct engine_buffers {
	void *pinned, *logits;
	struct device_completion *completions;
	int32_t *tokens, *positions, *rows, *table, *last, *ids;
	float *temperatures;
	int64_t *seeds;
	float *values, *stats, *named, *logprob;
	int32_t *candidates, *sampled;
};

struct engine {
	struct engine_options options;
	const struct engine_model *model; /* options.model */
	uint32_t uid;			  /* gpuqd's, for the records of shapes */
	struct kv_pool *kv;
	bool failed;
	struct engine_session *sessions;
	struct engine_sessions active, unused;
	struct engine_user *all_users;
	struct engine_users open_users, free_users; /* with sessions, and without */
	struct engine_users users;		    /* with active ones */
	uint64_t turns_had[2];			    /* what whose turn it was had had by then */
	struct engine_request *done_first, *done_last;
	uint64_t n_requests, n_ended; /* those that have not, and those that have */
	uint64_t arrivals, n_steps;
	uint64_t next_deadline_ns; /* of requests that may be ended now; UINT64_MAX: none */
	int32_t *tokens;	   /* the private copy of a request's */
	uint32_t max_tokens;	   /* of a step */
	uint32_t max_blocks;	   /* of a session */
	struct engine_buffers buffers;
	struct engine_step step;
	struct engine_copying kv_copying;
	struct engine_rows rows;
	bool last_was_decode;
	uint32_t passed_over[2][MSG_PRIORITIES]; /* by chunks, by decode steps */
	struct engine_pace own_pace, *pace;
	LIST_ENTRY(engine) paced;
	uint64_t decoded_ns; /* the end of the last decode step */
	uint64_t decode_ns;  /* that a decode step takes when nothing disturbs it */
	/* Of a decode step, and of a token of a chunk: for deadlines. */
	uint64_t expected_step_ns, expected_token_ns;
	uint64_t token_ns; /* that the last chunk took for each of its tokens; 0: none was */
	struct engine_turn turns[MODEL_STEPS];
	struct engine_wish wishes[ENGINE_WISHES];
	uint64_t known_wishes[ENGINE_KNOWN_WISHES];
	struct engine_shape warm[ENGINE_MAX_WARM]; /* wished for before anybody asked */
	uint32_t n_warm, warm_at;		   /* the next of them */
	uint64_t warm_deadline_ns;
	struct engine_stats stats; /* but for kv */
};

static inline uint64_t engine_now_ns(const struct engine *e)
{
	return clock_now_ns(&e->options.clock);
}

static inline enum model_step request_step(const struct engine_request *r)
{
	if (r->kind == ENGINE_GENERATE)
		return MODEL_STEP_SAMPLE;
	return r->device_logits != NULL ? MODEL_STEP_ROWS : MODEL_STEP_RESULT;
}

/* --- engine_session.c ---------------------------------------------------------------------- */

/* kv_options.preempt. */
bool engine_preempt(void *engine, const struct kv_session *needy, uint32_t missing);

/* Some other session has blocks. */
bool engine_others_have_blocks(const struct engine_session *s);

/* One of the step that is being gathered would lose blocks to it, were it not in that. */
bool engine_step_keeps_blocks_of(const struct engine_session *s);

/* Grows when there may be room for who found none. */
static inline uint64_t engine_room_changes(const struct engine *e)
{
	return kv_releases(e->kv) + e->n_ended;
}

static inline bool session_is_preempted(const struct engine_session *s)
{
	const int32_t *tokens;
	const uint32_t *table;

	return kv_table(s->kv, &table) == 0 && kv_tokens(s->kv, &tokens) > 0;
}

/* It has its first request, or none any more; or it was served, and goes behind the others. */
void engine_session_activate(struct engine_session *s);
void engine_session_deactivate(struct engine_session *s);
void engine_session_put_behind(struct engine_session *s);

/* Of one of its user's sessions so many tokens are in the step that is being gathered. */
void engine_user_charge(struct engine *e, struct engine_user *u, bool is_decode, uint32_t tokens);

/* Gives the slot back. */
void engine_session_release(struct engine_session *s);

/* It has asked, or never will: nobody waits for it any more. */
void engine_session_unawait(struct engine_session *s);

/* --- engine_request.c ---------------------------------------------------------------------- */

/* Ends a request of the session, of which nothing is under way. */
void engine_request_end(struct engine_session *s, struct engine_request *r, int status);

/*
 * Gets the first request ready for its next tokens. 0; 1: it has to wait for blocks; or the error
 * with which it has ended. A block that is to be copied first is added to the step.
 */
int engine_request_prepare(struct engine_session *s);

/* What a step has computed for a part goes to its client. 0, or why the request is to end. */
int engine_request_deliver(struct engine *e, const struct engine_part *part);

/*
 * Nothing of the session is under way any more: ends its first request if that is over, or has
 * failed with this status, and the session itself if that is closing.
 */
void engine_request_settle(struct engine_session *s, int status);

/* A step took so long: what is to be expected of the next ones. */
void engine_expect(uint64_t *expected_ns, uint64_t took_ns);

/* Ends what has passed its deadline. */
void engine_expire(struct engine *e, uint64_t now_ns);

/* --- engine_batch.c ------------------------------------------------------------------------ */

/* Starts a step of what is ready; false: nothing is. */
bool engine_start_step(struct engine *e);

/* Goes on with the step under way; true when something happened. */
bool engine_go_on(struct engine *e);

/* Tokens of the next chunk. */
uint32_t engine_chunk_tokens(const struct engine *e);

/* When a gather window ends before which nothing starts; 0: none runs. */
uint64_t engine_gather_end_ns(const struct engine *e);

/* --- engine_copy.c ------------------------------------------------------------------------- */

/* Begins to copy the step's blocks. */
void engine_copy_blocks(struct engine *e);

/* Goes on; 1: done, or not to be done, with the status in kv_copying. */
int engine_copy_blocks_go_on(struct engine *e);

/* Begins to copy the step's full rows to the clients; nothing is copied already. */
void engine_copy_rows(struct engine *e);
bool engine_copy_rows_go_on(struct engine *e);

/* --- engine_shape.c ------------------------------------------------------------------------ */

/* Takes memory for steps, and what is left of it at the end. */
int engine_buffers_create(struct engine *e);
void engine_buffers_destroy(struct engine *e);

/* The context of a shape for sequences of so many tokens. */
uint32_t engine_context(const struct engine *e, uint32_t tokens);

/*
 * Whether each session of the shape has a token and an answer. Then there may be more of them
 * afterwards.
 */
bool engine_round_sessions(const struct engine *e, struct engine_shape *s);
uint32_t engine_table_columns(uint32_t context);

/* The ids of a shape for rows that name so many: some more or less do not make another shape. */
uint32_t engine_ids(uint32_t ids);

/* A call of this shape, on the engine's buffers. */
void engine_call_init(
	const struct engine *e, const struct engine_shape *shape, struct op_call *ret_call);

/* A work with this call and completion word. */
void engine_work_init(const struct engine *e, enum model_step kind, const struct op_call *call,
	uint32_t completion, struct graph_work *w);

/* Asks for captures of the shapes that may come after this one. */
void engine_wish_next(struct engine *e, const struct engine_shape *shape, uint32_t priority);
bool engine_wishes_go_on(struct engine *e);
/* Waits until none is left. Not in dispatch. */
void engine_wishes_end(struct engine *e);

#endif
