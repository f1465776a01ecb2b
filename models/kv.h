/* SPDX-License-Identifier: MIT */
/*
 * kv.h: who has which block of a KV cache. A block has room for the keys and values of
 * KV_BLOCK_TOKENS tokens; this is the bookkeeping only, the memory itself is the device's.
 *
 * A session is a list of tokens and a table of blocks: token i lies in block table[i / 16], slot
 * i % 16. kv_append() gives it tokens and blocks; kv_commit() says that the keys and values of
 * its first tokens have been computed. Full committed blocks are shared: a session of the same
 * salt whose opening is equal, token for token, gets them instead of blocks of its own. They stay
 * as a cache when nobody has them any more, and the longest unused goes first when blocks run out.
 *
 * A shared block is found by exact comparison: its tokens, and which block stands before it. No
 * hash decides, so no crafted prompt can reach what another prompt has left.
 *
 * A client, and with it its user, pays for every entry of its sessions' tables, shared or not: what
 * it is charged never depends on what others do.
 *
 * One thread uses a pool and everything in it; only kv_pool_create() allocates. Freed blocks are
 * handed out again at once, so device work is given to one stream in the order of the calls here.
 */
#ifndef GPUQ_MODELS_KV_H
#define GPUQ_MODELS_KV_H

#include <stdbool.h>
#include <stdint.h>

#define KV_BLOCK_TOKENS 16u
#define KV_NONE UINT32_MAX /* no block */

struct kv_pool;
struct kv_session;

/* The account of a client; the client's owner keeps it and sets the limit. */
struct kv_client {
	uint32_t used_blocks, max_blocks;
};

struct kv_options {
	uint32_t blocks;
	uint32_t max_user_blocks; /* of all sessions of one salt; 0: any */
	uint32_t max_sessions, max_session_tokens;
	/*
	 * So many blocks are missing: preempts a session other than `needy` (kv_preempt()) and
	 * returns true, or returns false when there is none. NULL: there never is.
	 */
	bool (*preempt)(void *context, const struct kv_session *needy, uint32_t missing);
	void *context;
};

struct kv_stats {
	uint32_t blocks;
	uint32_t free_blocks;	/* never used, or of no use any more */
	uint32_t cached_blocks; /* nobody's, kept for equal openings; the rest is in use */
	uint64_t appended_tokens, shared_tokens; /* all, and those that needed no computation */
	uint64_t evictions, preemptions;
};

/* A block to be copied on the device before anything is written to it. None: from == KV_NONE. */
struct kv_copy {
	uint32_t from, to;
};

/* -EINVAL for a pool or sessions without room, -ENOMEM. */
int kv_pool_create(const struct kv_options *options, struct kv_pool **ret_pool);

/* All its sessions are closed. NULL is fine. */
void kv_pool_destroy(struct kv_pool *pool);

void kv_pool_stats(const struct kv_pool *pool, struct kv_stats *ret_stats);

/*
 * Grows when a block comes to be nobody's: as long as it stands still, and no other session can be
 * preempted, -ENOSPC stays -ENOSPC.
 */
uint64_t kv_releases(const struct kv_pool *pool);

/* How many entries of tables name the block. */
uint32_t kv_block_refs(const struct kv_pool *pool, uint32_t block);

/* Only sessions of equal salt share blocks: the user's id. -ENFILE when max_sessions are open. */
int kv_open(struct kv_pool *pool, struct kv_client *client, uint64_t salt,
	struct kv_session **ret_session);

/* NULL is fine. */
void kv_close(struct kv_session *session);

/*
 * Appends n tokens (at least 1) and makes room for them. Blocks of equal openings are taken
 * over, and counted as committed at once, but for the last `wanted` tokens (1 .. n): they are
 * left to be computed. The copy, if any, comes before the writes of this session and after all
 * that was asked for earlier. The session is as it was after an error: -EMSGSIZE above
 * max_session_tokens, -EDQUOT above the client's or the user's limit, -ENOSPC when blocks have run
 * out and nobody could be preempted.
 */
int kv_append(struct kv_session *session, const int32_t *tokens, uint32_t n, uint32_t wanted,
	struct kv_copy *ret_copy);

/*
 * The keys and values of the first `tokens` tokens are in the blocks. Not fewer than before, not
 * more than there are. Entries of the table may change to equal blocks that others have, too.
 */
void kv_commit(struct kv_session *session, uint32_t tokens);

/*
 * A second session that has what this one has, charged to the same client. -EBUSY while tokens are
 * not committed, -EDQUOT, -ENFILE.
 */
int kv_fork(const struct kv_session *session, struct kv_session **ret_session);

/* Forgets all but the first `tokens` tokens; there are as many. */
void kv_truncate(struct kv_session *session, uint32_t tokens);

/* Takes all blocks and leaves the tokens: what is not shared is to be computed again. */
void kv_preempt(struct kv_session *session);

/* Room again for all tokens of a preempted session. `wanted` and errors as kv_append()'s. */
int kv_resume(struct kv_session *session, uint32_t wanted);

uint32_t kv_tokens(const struct kv_session *session, const int32_t **ret_tokens);
uint32_t kv_committed(const struct kv_session *session);

/* The table's entries; valid until the session's next change. A preempted session has none. */
uint32_t kv_table(const struct kv_session *session, const uint32_t **ret_table);

#endif
