/* SPDX-License-Identifier: MIT */
/* kv.c: sessions: tokens, tables, quotas, and who gets which block; see kv.h. */
#include "models/kv_blocks.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct kv_session {
	struct kv_pool *pool;
	struct kv_session *next; /* of those that are not open */
	struct kv_client *client;
	struct kv_user *user;
	int32_t *tokens; /* room for max_session_tokens, and for as many blocks below; for ever */
	uint32_t *table;
	uint32_t length; /* tokens */
	uint32_t blocks; /* entries; 0 while preempted, else enough for length */
	uint32_t committed;
};

static uint32_t blocks_for(uint32_t tokens)
{
	return (tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
}

static uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static uint32_t left_of(uint32_t max, uint32_t used)
{
	return max > used ? max - used : 0;
}

/* What client and user may have besides. */
static uint32_t room_left(const struct kv_session *s)
{
	const uint32_t most = s->pool->options.max_user_blocks;
	const uint32_t room = left_of(s->client->max_blocks, s->client->used_blocks);

	return most == 0 ? room : least(room, left_of(most, s->user->used_blocks));
}

/* --- The table ------------------------------------------------------------------------------ */

static void push(struct kv_session *s, uint32_t block)
{
	s->table[s->blocks++] = block;
	s->client->used_blocks++;
	s->user->used_blocks++;
}

/* From the end: a block goes before its parent does. */
static void drop_blocks(struct kv_session *s, uint32_t keep)
{
	while (s->blocks > keep) {
		kv_block_unref(s->pool, s->table[--s->blocks]);
		s->client->used_blocks--;
		s->user->used_blocks--;
	}
	s->committed = least(s->committed, keep * KV_BLOCK_TOKENS);
}

static uint32_t parent_of(const struct kv_session *s, uint32_t i)
{
	return i == 0 ? KV_NONE : s->table[i - 1];
}

/* Takes over what is shared of the first `length` tokens, but for the last `wanted`. */
static void match(struct kv_session *s, uint32_t length, uint32_t wanted)
{
	while (s->committed == s->blocks * KV_BLOCK_TOKENS &&
		length - s->committed >= KV_BLOCK_TOKENS + wanted) {
		uint32_t block = kv_block_find(
			s->pool, s->user->salt, parent_of(s, s->blocks), s->tokens + s->committed);

		if (block == KV_NONE)
			return;
		kv_block_ref(s->pool, block);
		push(s, block);
		s->committed += KV_BLOCK_TOKENS;
	}
}

/* The last block has a free slot, which the next token would be written to. */
static bool last_is_partial(const struct kv_session *s)
{
	return s->length % KV_BLOCK_TOKENS != 0 && s->blocks == blocks_for(s->length);
}

/* Others have the partial last block, or something cached stands on it. */
static bool last_needs_copy(const struct kv_session *s)
{
	if (!last_is_partial(s))
		return false;
	const struct kv_block *last = &s->pool->blocks[s->table[s->blocks - 1]];
	return last->refs > 1 || (last->shared && last->children > 0);
}

static int make_room(struct kv_session *s, uint32_t want)
{
	struct kv_pool *pool = s->pool;

	for (;;) {
		/* A preempted session may have been the reason for the copy. */
		const uint32_t more = want - s->blocks + last_needs_copy(s);

		if (more <= kv_available(pool))
			return 0;
		if (pool->options.preempt == NULL ||
			!pool->options.preempt(pool->options.context, s, more - kv_available(pool)))
			return -ENOSPC;
	}
}

/* Makes the block private that the next token is written to. */
static void own_last(struct kv_session *s, struct kv_copy *ret_copy)
{
	if (!last_is_partial(s))
		return;
	uint32_t *last = &s->table[s->blocks - 1];
	if (last_needs_copy(s)) {
		*ret_copy = (struct kv_copy){.from = *last, .to = kv_block_take(s->pool)};
		kv_block_unref(s->pool, *last);
		*last = ret_copy->to;
	} else if (s->pool->blocks[*last].shared) {
		kv_block_unshare(s->pool, *last);
	}
}

/* Room for the first `length` tokens of s->tokens, which are not fewer than s->length. */
static int reserve(struct kv_session *s, uint32_t length, uint32_t wanted, struct kv_copy *ret_copy)
{
	const uint32_t want = blocks_for(length), before = s->blocks, committed = s->committed;
	struct kv_copy copy = {KV_NONE, KV_NONE};
	int err;

	if (want - s->blocks > room_left(s))
		return -EDQUOT;
	match(s, length, wanted);
	err = make_room(s, want);
	if (err < 0) {
		const uint64_t releases = s->pool->releases;

		drop_blocks(s, before);
		/* These were there before. */
		s->pool->releases = releases;
		return err;
	}
	own_last(s, &copy);
	while (s->blocks < want)
		push(s, kv_block_take(s->pool));
	s->pool->shared_tokens += s->committed - committed;
	s->length = length;
	*ret_copy = copy;
	return 0;
}

int kv_append(struct kv_session *session, const int32_t *tokens, uint32_t n, uint32_t wanted,
	struct kv_copy *ret_copy)
{
	int err;

	assert(wanted > 0 && wanted <= n);
	assert(session->blocks == blocks_for(session->length));
	if (n > session->pool->options.max_session_tokens - session->length)
		return -EMSGSIZE;
	memcpy(session->tokens + session->length, tokens, n * sizeof(*tokens));
	err = reserve(session, session->length + n, wanted, ret_copy);
	if (err == 0)
		session->pool->appended_tokens += n;
	return err;
}

/* A full block with computed contents becomes the one for its opening, or gives way to it. */
static void share(struct kv_session *s, uint32_t i)
{
	const int32_t *tokens = s->tokens + (size_t)i * KV_BLOCK_TOKENS;
	uint32_t equal = kv_block_find(s->pool, s->user->salt, parent_of(s, i), tokens);

	if (equal == KV_NONE) {
		kv_block_share(s->pool, s->table[i], s->user->salt, parent_of(s, i), tokens);
		return;
	}
	kv_block_ref(s->pool, equal);
	kv_block_unref(s->pool, s->table[i]);
	s->table[i] = equal;
}

void kv_commit(struct kv_session *session, uint32_t tokens)
{
	uint32_t full = session->committed / KV_BLOCK_TOKENS;

	assert(tokens >= session->committed && tokens <= session->length);
	assert(blocks_for(tokens) <= session->blocks);
	for (; full < tokens / KV_BLOCK_TOKENS; full++)
		share(session, full);
	session->committed = tokens;
}

/* --- Sessions ------------------------------------------------------------------------------- */

int kv_sessions_create(struct kv_pool *pool)
{
	const size_t n = pool->options.max_sessions, tokens = pool->options.max_session_tokens;
	const size_t blocks = blocks_for((uint32_t)tokens);

	/* Memory that no text has reached yet costs nothing. */
	pool->slots = calloc(n, sizeof(*pool->slots));
	pool->tokens = calloc(n, tokens * sizeof(*pool->tokens));
	pool->tables = calloc(n, blocks * sizeof(*pool->tables));
	pool->users = calloc(n, sizeof(*pool->users));
	if (pool->slots == NULL || pool->tokens == NULL || pool->tables == NULL ||
		pool->users == NULL)
		return -ENOMEM;
	for (size_t i = n; i-- > 0;) {
		pool->slots[i] = (struct kv_session){.next = pool->unused,
			.tokens = pool->tokens + i * tokens,
			.table = pool->tables + i * blocks};
		pool->unused = &pool->slots[i];
	}
	return 0;
}

void kv_sessions_destroy(struct kv_pool *pool)
{
	free(pool->slots);
	free(pool->tokens);
	free(pool->tables);
	free(pool->users);
}

/* The account of a session that is being opened: there is a place for each. */
static struct kv_user *user_of(struct kv_pool *pool, uint64_t salt)
{
	struct kv_user *unused = NULL;

	for (uint32_t i = 0; i < pool->options.max_sessions; i++) {
		struct kv_user *user = &pool->users[i];

		if (user->sessions > 0 && user->salt == salt)
			return user;
		if (user->sessions == 0 && unused == NULL)
			unused = user;
	}
	unused->salt = salt;
	return unused;
}

int kv_open(struct kv_pool *pool, struct kv_client *client, uint64_t salt,
	struct kv_session **ret_session)
{
	struct kv_session *s = pool->unused;

	if (s == NULL)
		return -ENFILE;
	pool->unused = s->next;
	*s = (struct kv_session){.pool = pool,
		.client = client,
		.user = user_of(pool, salt),
		.tokens = s->tokens,
		.table = s->table};
	s->user->sessions++;
	pool->sessions++;
	*ret_session = s;
	return 0;
}

void kv_close(struct kv_session *session)
{
	if (session == NULL)
		return;
	drop_blocks(session, 0);
	session->user->sessions--;
	session->pool->sessions--;
	session->next = session->pool->unused;
	session->pool->unused = session;
}

int kv_fork(const struct kv_session *session, struct kv_session **ret_session)
{
	struct kv_session *s;
	int err;

	if (session->committed < least(session->length, session->blocks * KV_BLOCK_TOKENS))
		return -EBUSY;
	if (session->blocks > room_left(session))
		return -EDQUOT;
	err = kv_open(session->pool, session->client, session->user->salt, &s);
	if (err < 0)
		return err;
	memcpy(s->tokens, session->tokens, session->length * sizeof(*s->tokens));
	for (uint32_t i = 0; i < session->blocks; i++) {
		kv_block_ref(s->pool, session->table[i]);
		push(s, session->table[i]);
	}
	s->length = session->length;
	s->committed = session->committed;
	*ret_session = s;
	return 0;
}

void kv_truncate(struct kv_session *session, uint32_t tokens)
{
	assert(tokens <= session->length);
	drop_blocks(session, blocks_for(tokens));
	session->length = tokens;
	session->committed = least(session->committed, tokens);
}

void kv_preempt(struct kv_session *session)
{
	drop_blocks(session, 0);
	session->pool->preemptions++;
}

int kv_resume(struct kv_session *session, uint32_t wanted)
{
	struct kv_copy none;

	assert(session->blocks == 0 && wanted > 0 && wanted <= session->length);
	return reserve(session, session->length, wanted, &none);
}

uint64_t kv_releases(const struct kv_pool *pool)
{
	return pool->releases;
}

uint32_t kv_tokens(const struct kv_session *session, const int32_t **ret_tokens)
{
	*ret_tokens = session->tokens;
	return session->length;
}

uint32_t kv_committed(const struct kv_session *session)
{
	return session->committed;
}

uint32_t kv_table(const struct kv_session *session, const uint32_t **ret_table)
{
	*ret_table = session->table;
	return session->blocks;
}
