/* SPDX-License-Identifier: MIT */
/*
 * One million random steps on a pool of KV blocks beside a model that knows nothing of blocks:
 * each session is a list of tokens, and each slot of each block holds what a device would have
 * written there, a digest of everything that the keys and values of that token depend on (salt and
 * all tokens up to it). A session must find exactly its own digests through its table, whatever
 * the others do; and the references of the blocks are the entries of the tables, no more, no less.
 */
#include "models/kv.h"
#include "tests/harness.h"
#include "tests/kernels/random.h"

#include <errno.h>
#include <string.h>

#define STEPS 1000000u
#define BLOCKS 96u
#define SESSIONS 24u
#define CLIENTS 3u
#define MAX_TOKENS 200u
#define FULL_CHECK_EVERY 500u

struct twin {
	struct kv_session *kv; /* NULL: closed */
	uint64_t salt;
	uint32_t client;
	uint32_t length;
	int32_t tokens[MAX_TOKENS];
	uint64_t digests[MAX_TOKENS]; /* of the tokens up to each, with the salt */
};

static struct kv_pool *pool;
static struct kv_client clients[CLIENTS];
static struct twin twins[SESSIONS];
static uint64_t slots[BLOCKS][KV_BLOCK_TOKENS];
static struct random rng;
static uint64_t preempted, copies, shared, refused;

static uint32_t below(uint32_t n)
{
	return (uint32_t)random_below(&rng, n);
}

static uint64_t mix(uint64_t digest, uint64_t token)
{
	digest = (digest ^ token) * 0x9e3779b97f4a7c15;
	return digest ^ digest >> 29;
}

/* --- The model ------------------------------------------------------------------------------ */

static void twin_append(struct twin *t, const int32_t *tokens, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		uint64_t before = t->length == 0 ? t->salt : t->digests[t->length - 1];

		t->tokens[t->length] = tokens[i];
		t->digests[t->length++] = mix(before, (uint32_t)tokens[i]);
	}
}

/* What a step of the device does: writes the tokens that are not there yet. */
static void compute(struct twin *t, uint32_t to)
{
	const uint32_t *table;

	kv_table(t->kv, &table);
	for (uint32_t i = kv_committed(t->kv); i < to; i++)
		slots[table[i / KV_BLOCK_TOKENS]][i % KV_BLOCK_TOKENS] = t->digests[i];
	kv_commit(t->kv, to);
}

static void check_session(const struct twin *t)
{
	const int32_t *tokens;
	const uint32_t *table;
	uint32_t entries = kv_table(t->kv, &table);

	assert_int_equal(kv_tokens(t->kv, &tokens), t->length);
	assert_memory_equal(tokens, t->tokens, t->length * sizeof(*tokens));
	assert_true(kv_committed(t->kv) <= t->length);
	if (entries != 0 || kv_committed(t->kv) != 0)
		assert_int_equal(entries, (t->length + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS);
	for (uint32_t i = 0; i < kv_committed(t->kv); i++) {
		if (slots[table[i / KV_BLOCK_TOKENS]][i % KV_BLOCK_TOKENS] != t->digests[i])
			fail_msg("token %u of a session of %u is not its own", i, t->length);
	}
}

static void check_all(void)
{
	uint32_t refs[BLOCKS] = {0}, used[CLIENTS] = {0}, in_use = 0;
	struct kv_stats stats;

	for (uint32_t i = 0; i < SESSIONS; i++) {
		const uint32_t *table;

		if (twins[i].kv == NULL)
			continue;
		check_session(&twins[i]);
		uint32_t n = kv_table(twins[i].kv, &table);
		for (uint32_t k = 0; k < n; k++)
			refs[table[k]]++;
		used[twins[i].client] += n;
	}
	for (uint32_t i = 0; i < BLOCKS; i++) {
		assert_int_equal(kv_block_refs(pool, i), refs[i]);
		in_use += refs[i] > 0;
	}
	for (uint32_t i = 0; i < CLIENTS; i++) {
		assert_int_equal(clients[i].used_blocks, used[i]);
		assert_true(used[i] <= clients[i].max_blocks);
	}
	kv_pool_stats(pool, &stats);
	assert_int_equal(stats.free_blocks + stats.cached_blocks + in_use, BLOCKS);
}

/* --- Steps ---------------------------------------------------------------------------------- */

static bool preempt(void *context, const struct kv_session *needy, uint32_t missing)
{
	uint32_t first = below(SESSIONS);

	assert_true(missing > 0 && missing <= BLOCKS);
	if (below(4) == 0)
		return false;
	for (uint32_t i = 0; i < SESSIONS; i++) {
		struct kv_session *victim = twins[(first + i) % SESSIONS].kv;
		const uint32_t *table;

		if (victim == NULL || victim == needy || kv_table(victim, &table) == 0)
			continue;
		kv_preempt(victim);
		preempted++;
		return true;
	}
	return false;
}

static bool is_preempted(const struct twin *t)
{
	const uint32_t *table;

	return t->length > 0 && kv_table(t->kv, &table) == 0;
}

static void step_open(struct twin *t)
{
	*t = (struct twin){.client = below(CLIENTS), .salt = below(2)};
	assert_int_equal(kv_open(pool, &clients[t->client], t->salt, &t->kv), 0);
}

static void step_append(struct twin *t)
{
	int32_t tokens[MAX_TOKENS];
	uint32_t n = 1 + below(below(3) == 0 ? 70 : 5), wanted = below(2) == 0 ? 1 : 1 + below(n);
	struct kv_copy copy = {KV_NONE, KV_NONE};
	uint32_t committed = kv_committed(t->kv);

	/* Few different tokens at first, so that openings are often equal. */
	for (uint32_t i = 0; i < n; i++)
		tokens[i] = (int32_t)(t->length + i < 64 ? (t->length + i) % 16 == 0 ? below(2) : 7
							 : below(1000));
	int err = kv_append(t->kv, tokens, n, wanted, &copy);
	if (err < 0) {
		assert_true(err == -EMSGSIZE || err == -EDQUOT || err == -ENOSPC);
		assert_true((err == -EMSGSIZE) == (t->length + n > MAX_TOKENS));
		refused++;
		return;
	}
	if (copy.from != KV_NONE) {
		memcpy(slots[copy.to], slots[copy.from], sizeof(slots[0]));
		copies++;
	}
	twin_append(t, tokens, n);
	shared += kv_committed(t->kv) - committed;
	assert_true(kv_committed(t->kv) <= t->length - wanted);
}

static void step_fork(const struct twin *from)
{
	struct twin *t = &twins[below(SESSIONS)];

	if (t->kv != NULL)
		return;
	struct kv_session *kv;
	int err = kv_fork(from->kv, &kv);
	if (err == 0) {
		*t = *from;
		t->kv = kv;
	} else {
		assert_true(err == -EBUSY || err == -EDQUOT);
	}
}

static void step_truncate(struct twin *t)
{
	t->length -= below(2) == 0 ? below(t->length + 1) : below(t->length < 6 ? 1 : 6);
	kv_truncate(t->kv, t->length);
}

static void step(struct twin *t)
{
	uint32_t kind = below(20);

	if (t->kv == NULL) {
		step_open(t);
	} else if (kind == 0) {
		kv_close(t->kv);
		t->kv = NULL;
		return;
	} else if (is_preempted(t)) {
		int err = kv_resume(t->kv, 1 + below(t->length));

		assert_true(err == 0 || err == -EDQUOT || err == -ENOSPC);
	} else if (kind == 1) {
		step_fork(t);
	} else if (kind <= 3) {
		step_truncate(t);
	} else if (kind <= 11) {
		uint32_t committed = kv_committed(t->kv);

		compute(t, kind <= 9 ? t->length : committed + below(t->length - committed + 1));
	} else {
		step_append(t);
	}
	check_session(t);
}

static void a_million_steps(void **state)
{
	struct kv_options options = {.blocks = BLOCKS,
		.max_sessions = SESSIONS,
		.max_session_tokens = MAX_TOKENS,
		.preempt = preempt};
	struct kv_stats stats;

	rng.state = 4;
	assert_int_equal(kv_pool_create(&options, &pool), 0);
	for (uint32_t i = 0; i < CLIENTS; i++)
		clients[i].max_blocks = 30 + 20 * i;
	for (uint32_t i = 0; i < STEPS / harness_slowness(); i++) {
		step(&twins[below(SESSIONS)]);
		if (i % FULL_CHECK_EVERY == 0)
			check_all();
	}
	kv_pool_stats(pool, &stats);
	/* The steps have been everywhere. */
	assert_true(preempted > 100 && copies > 100 && shared > 1000 && refused > 100);
	assert_true(stats.evictions > 100 && stats.preemptions == preempted);
	print_message("%lu preemptions, %lu copies, %lu shared, %lu refused, %lu evictions\n",
		preempted, copies, shared, refused, stats.evictions);
	for (uint32_t i = 0; i < SESSIONS; i++)
		kv_close(twins[i].kv);
	kv_pool_stats(pool, &stats);
	assert_int_equal(stats.free_blocks + stats.cached_blocks, BLOCKS);
	kv_pool_destroy(pool);
}

int main(void)
{
	static const struct harness_test tests[] = {HARNESS_TEST_LONG(a_million_steps, 60)};

	return harness_run("models-kv-random", tests, 1);
}
