/* SPDX-License-Identifier: MIT */
/* KV blocks: sharing, copies on write, quotas, eviction and preemption, case by case. */
#include "models/kv.h"
#include "tests/harness.h"

#include <errno.h>

#define MAX_TOKENS 256

static struct kv_pool *pool;
static struct kv_client client;
static struct kv_copy copy;

static void make_pool_for(uint32_t blocks, uint32_t max_user_blocks)
{
	struct kv_options options = {.blocks = blocks,
		.max_user_blocks = max_user_blocks,
		.max_sessions = 4,
		.max_session_tokens = MAX_TOKENS};

	client = (struct kv_client){.max_blocks = 1000};
	assert_int_equal(kv_pool_create(&options, &pool), 0);
}

static void make_pool(uint32_t blocks)
{
	make_pool_for(blocks, 0);
}

static struct kv_session *open_session(uint64_t salt)
{
	struct kv_session *s;

	assert_int_equal(kv_open(pool, &client, salt, &s), 0);
	return s;
}

/* Appends first, first + 1, ... */
static int append(struct kv_session *s, int32_t first, uint32_t n)
{
	int32_t tokens[MAX_TOKENS + 1];

	for (uint32_t i = 0; i < n; i++)
		tokens[i] = first + (int32_t)i;
	return kv_append(s, tokens, n, 1, &copy);
}

static void fill(struct kv_session *s, int32_t first, uint32_t n)
{
	const int32_t *tokens;

	assert_int_equal(append(s, first, n), 0);
	kv_commit(s, kv_tokens(s, &tokens));
}

static uint32_t entry(const struct kv_session *s, uint32_t i)
{
	const uint32_t *table;

	assert_true(i < kv_table(s, &table));
	return table[i];
}

static uint32_t entries(const struct kv_session *s)
{
	const uint32_t *table;

	return kv_table(s, &table);
}

static void assert_stats(uint32_t free_blocks, uint32_t cached_blocks)
{
	struct kv_stats stats;

	kv_pool_stats(pool, &stats);
	assert_int_equal(stats.free_blocks, free_blocks);
	assert_int_equal(stats.cached_blocks, cached_blocks);
}

static void equal_openings_share_blocks(void **state)
{
	make_pool(16);
	struct kv_session *a = open_session(1), *b = open_session(1), *other = open_session(2);

	fill(a, 0, 40);
	assert_int_equal(append(b, 0, 40), 0);
	assert_int_equal(kv_committed(b), 32);
	assert_int_equal(entry(b, 0), entry(a, 0));
	assert_int_equal(entry(b, 1), entry(a, 1));
	assert_int_not_equal(entry(b, 2), entry(a, 2));
	assert_int_equal(append(other, 0, 40), 0);
	assert_int_equal(kv_committed(other), 0);
	assert_int_equal(kv_block_refs(pool, entry(a, 1)), 2);
	assert_int_equal(client.used_blocks, 9);
	kv_close(a);
	kv_close(b);
	kv_close(other);
	assert_int_equal(client.used_blocks, 0);
	assert_stats(14, 2);
	kv_pool_destroy(pool);
}

static void the_last_token_is_left_to_compute(void **state)
{
	make_pool(16);
	struct kv_session *a = open_session(1), *b = open_session(1);

	fill(a, 0, 32);
	assert_int_equal(append(b, 0, 32), 0);
	assert_int_equal(kv_committed(b), 16);
	/* Computed all the same, the block gives way to the equal one. */
	kv_commit(b, 32);
	assert_int_equal(entry(b, 1), entry(a, 1));
	kv_close(a);
	kv_close(b);
	assert_stats(14, 2);
	kv_pool_destroy(pool);
}

static void tokens_with_a_wanted_answer_are_computed(void **state)
{
	int32_t tokens[64];

	make_pool(16);
	struct kv_session *a = open_session(1), *b = open_session(1);
	for (int32_t i = 0; i < 64; i++)
		tokens[i] = i;
	fill(a, 0, 64);
	assert_int_equal(kv_append(b, tokens, 64, 64, &copy), 0);
	assert_int_equal(kv_committed(b), 0);
	kv_truncate(b, 0);
	assert_int_equal(kv_append(b, tokens, 64, 33, &copy), 0);
	assert_int_equal(kv_committed(b), 16);
	kv_truncate(b, 0);
	assert_int_equal(kv_append(b, tokens, 64, 32, &copy), 0);
	assert_int_equal(kv_committed(b), 32);
	kv_preempt(b);
	assert_int_equal(kv_resume(b, 17), 0);
	assert_int_equal(kv_committed(b), 32);
	kv_preempt(b);
	assert_int_equal(kv_resume(b, 16), 0);
	assert_int_equal(kv_committed(b), 48);
	kv_close(a);
	kv_close(b);
	kv_pool_destroy(pool);
}

static void no_more_sessions_than_there_may_be(void **state)
{
	struct kv_session *s[4], *more = NULL;

	make_pool(4);
	for (uint32_t i = 0; i < 4; i++)
		s[i] = open_session(1);
	assert_int_equal(kv_open(pool, &client, 1, &more), -ENFILE);
	assert_int_equal(kv_fork(s[0], &more), -ENFILE);
	assert_null(more);
	kv_close(s[2]);
	s[2] = open_session(1);
	for (uint32_t i = 0; i < 4; i++)
		kv_close(s[i]);
	kv_pool_destroy(pool);
}

static void same_tokens_elsewhere_are_not_the_same(void **state)
{
	make_pool(16);
	struct kv_session *a = open_session(1), *b = open_session(1);

	fill(a, 0, 32);
	fill(b, 100, 16);
	assert_int_equal(append(b, 16, 17), 0);
	assert_int_equal(kv_committed(b), 16);
	kv_close(a);
	kv_close(b);
	kv_pool_destroy(pool);
}

/* With two buckets half of all different blocks meet in one. */
static void a_salt_is_compared(void **state)
{
	for (uint64_t salt = 0; salt < 32; salt++) {
		make_pool(2);
		struct kv_session *a = open_session(salt), *b = open_session(salt + 1);

		fill(a, 0, 16);
		kv_close(a);
		assert_int_equal(append(b, 0, 17), 0);
		assert_int_equal(kv_committed(b), 0);
		kv_close(b);
		kv_pool_destroy(pool);
	}
}

static void uncommitted_blocks_are_not_shared(void **state)
{
	make_pool(16);
	struct kv_session *a = open_session(1), *b = open_session(1);

	assert_int_equal(append(a, 0, 40), 0);
	kv_commit(a, 31);
	assert_int_equal(append(b, 0, 40), 0);
	assert_int_equal(kv_committed(b), 16);
	assert_int_equal(kv_fork(a, &b), -EBUSY);
	kv_close(a);
	kv_close(b);
	kv_pool_destroy(pool);
}

static void forks_copy_when_they_write(void **state)
{
	make_pool(16);
	struct kv_session *a = open_session(1), *b;

	fill(a, 0, 20);
	assert_int_equal(kv_fork(a, &b), 0);
	assert_stats(14, 0);
	uint32_t shared = entry(a, 1);
	assert_int_equal(entry(b, 1), shared);
	fill(b, 500, 1);
	assert_int_equal(copy.from, shared);
	assert_int_equal(copy.to, entry(b, 1));
	assert_int_not_equal(entry(b, 1), shared);
	fill(a, 600, 1);
	assert_int_equal(copy.from, KV_NONE);
	assert_int_equal(entry(a, 1), shared);
	kv_close(a);
	kv_close(b);
	assert_stats(15, 1);
	kv_pool_destroy(pool);
}

static void what_is_cached_is_not_written_to(void **state)
{
	make_pool(16);
	struct kv_session *a = open_session(1), *b = open_session(1);

	fill(a, 0, 48);
	uint32_t middle = entry(a, 1);
	kv_truncate(a, 20); /* the third block is cached and stands on the second */
	assert_int_equal(kv_committed(a), 20);
	fill(a, 700, 1);
	assert_int_equal(copy.from, middle);
	assert_int_equal(append(b, 0, 49), 0);
	assert_int_equal(kv_committed(b), 48);
	kv_truncate(b, 40); /* nothing stands on the third, and nobody else has it */
	uint32_t last = entry(b, 2);
	fill(b, 800, 1);
	assert_int_equal(copy.from, KV_NONE);
	assert_int_equal(entry(b, 2), last);
	kv_close(a);
	kv_close(b);
	kv_pool_destroy(pool);
}

static void quotas_and_limits(void **state)
{
	struct kv_session *forked = NULL;

	make_pool(8);
	struct kv_session *a = open_session(1);

	client.max_blocks = 3;
	assert_int_equal(append(a, 0, 49), -EDQUOT);
	assert_int_equal(entries(a), 0);
	fill(a, 0, 48);
	assert_int_equal(append(a, 48, 1), -EDQUOT);
	assert_int_equal(kv_fork(a, &forked), -EDQUOT);
	assert_null(forked);
	client.max_blocks = 1; /* lowered below what is used */
	assert_int_equal(append(a, 48, 1), -EDQUOT);
	client.max_blocks = 1000;
	assert_int_equal(append(a, 48, MAX_TOKENS - 47), -EMSGSIZE);
	copy.from = 77;
	assert_int_equal(append(a, 48, 16 * 5 + 1), -ENOSPC);
	assert_int_equal(copy.from, 77);
	assert_int_equal(entries(a), 3);
	assert_int_equal(append(a, 48, 16 * 5), 0);
	assert_stats(0, 0);
	kv_close(a);
	assert_int_equal(client.used_blocks, 0);
	kv_pool_destroy(pool);
	assert_int_equal(
		kv_pool_create(&(struct kv_options){.blocks = 1, .max_sessions = 1}, &pool),
		-EINVAL);
	assert_int_equal(
		kv_pool_create(
			&(struct kv_options){.max_sessions = 1, .max_session_tokens = 1}, &pool),
		-EINVAL);
	assert_int_equal(
		kv_pool_create(&(struct kv_options){.blocks = 1, .max_session_tokens = 1}, &pool),
		-EINVAL);
}

static void the_longest_unused_goes_first(void **state)
{
	make_pool(4);
	struct kv_session *old = open_session(1), *new = open_session(1), *s = open_session(1);
	struct kv_stats stats;

	fill(old, 0, 32);
	fill(new, 1000, 16);
	kv_close(old);
	kv_close(new);
	assert_stats(1, 3);
	fill(s, 2000, 32); /* the free one, then the tail of `old` */
	kv_pool_stats(pool, &stats);
	assert_int_equal(stats.evictions, 1);
	kv_close(s);
	s = open_session(1);
	assert_int_equal(append(s, 0, 33), 0);
	assert_int_equal(kv_committed(s), 16);
	kv_close(s);
	kv_pool_destroy(pool);
}

static struct kv_session *victims[2];

static bool preempt_one(void *context, const struct kv_session *needy, uint32_t missing)
{
	uint32_t *n = context;

	if (*n == 0)
		return false;
	kv_preempt(victims[--*n]);
	return true;
}

static void preempts_and_resumes(void **state)
{
	uint32_t n = 2;
	struct kv_options options = {.blocks = 4,
		.max_sessions = 3,
		.max_session_tokens = MAX_TOKENS,
		.preempt = preempt_one,
		.context = &n};
	const int32_t *tokens;

	client = (struct kv_client){.max_blocks = 1000};
	assert_int_equal(kv_pool_create(&options, &pool), 0);
	victims[0] = open_session(1);
	victims[1] = open_session(1);
	struct kv_session *s = open_session(1);
	fill(victims[0], 0, 20);
	fill(victims[1], 0, 20);
	fill(s, 900, 10); /* the fourth block; the second victim's opening is the first's */
	assert_int_equal(n, 2);
	assert_int_equal(append(s, 910, 30), 0); /* one block is not enough: both have to go */
	assert_int_equal(n, 0);
	assert_int_equal(entries(victims[0]), 0);
	assert_int_equal(kv_tokens(victims[0], &tokens), 20);
	assert_int_equal(tokens[19], 19);
	assert_int_equal(kv_resume(victims[0], 1), -ENOSPC);
	kv_close(s);
	assert_int_equal(kv_resume(victims[0], 1), 0);
	assert_int_equal(kv_committed(victims[0]), 16); /* was still in the cache */
	kv_commit(victims[0], 20);
	kv_close(victims[0]);
	kv_close(victims[1]);
	kv_close(NULL);
	kv_pool_destroy(pool);
	kv_pool_destroy(NULL);
}

/* What was taken for a moment by who found no room is not what others wait for. */
static void releases_are_counted(void **state)
{
	make_pool(6);
	struct kv_session *a = open_session(1), *b = open_session(1), *c = open_session(1);

	fill(a, 0, 40);
	fill(b, 500, 16);
	assert_int_equal(kv_releases(pool), 0);
	kv_truncate(a, 0);
	assert_int_equal(kv_releases(pool), 3);
	assert_int_equal(append(c, 0, 16 * 5 + 1), -ENOSPC);
	assert_int_equal(kv_releases(pool), 3);
	kv_close(b);
	assert_int_equal(kv_releases(pool), 4);
	assert_int_equal(append(c, 0, 16 * 5 + 1), 0);
	kv_close(a);
	kv_close(c);
	kv_pool_destroy(pool);
}

/* Of one user's sessions, whoever its clients are; others have what is theirs. */
static void a_user_has_a_quota_too(void **state)
{
	struct kv_session *a, *b, *other, *forked = NULL;
	struct kv_client second = {.max_blocks = 1000};

	make_pool_for(16, 5);
	a = open_session(1);
	assert_int_equal(kv_open(pool, &second, 1, &b), 0);
	other = open_session(2);
	fill(a, 0, 48);
	fill(b, 500, 32);
	assert_int_equal(append(b, 532, 1), -EDQUOT);
	assert_int_equal(append(a, 48, 1), -EDQUOT);
	assert_int_equal(kv_fork(b, &forked), -EDQUOT);
	assert_int_equal(append(other, 0, 80), 0);
	assert_int_equal(append(other, 80, 1), -EDQUOT);
	/* What one gives back the other can have, and the account ends with the last session. */
	kv_truncate(a, 16);
	assert_int_equal(append(b, 532, 17), 0);
	kv_close(a);
	kv_close(b);
	kv_close(other);
	for (uint64_t salt = 10; salt < 20; salt++)
		kv_close(open_session(salt));
	a = open_session(3);
	b = open_session(2);
	fill(b, 900, 80);
	fill(a, 700, 80);
	assert_int_equal(append(a, 780, 1), -EDQUOT);
	kv_close(a);
	kv_close(b);
	assert_int_equal(client.used_blocks + second.used_blocks, 0);
	kv_pool_destroy(pool);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(equal_openings_share_blocks),
		HARNESS_TEST(the_last_token_is_left_to_compute),
		HARNESS_TEST(tokens_with_a_wanted_answer_are_computed),
		HARNESS_TEST(no_more_sessions_than_there_may_be),
		HARNESS_TEST(same_tokens_elsewhere_are_not_the_same),
		HARNESS_TEST(a_salt_is_compared),
		HARNESS_TEST(uncommitted_blocks_are_not_shared),
		HARNESS_TEST(forks_copy_when_they_write),
		HARNESS_TEST(what_is_cached_is_not_written_to),
		HARNESS_TEST(quotas_and_limits),
		HARNESS_TEST(the_longest_unused_goes_first),
		HARNESS_TEST(a_user_has_a_quota_too),
		HARNESS_TEST(preempts_and_resumes),
		HARNESS_TEST(releases_are_counted),
	};

	return harness_run("models-kv", tests, sizeof(tests) / sizeof(tests[0]));
}
