/* SPDX-License-Identifier: MIT */
/* test-robust.c: the kernel marks a word when the thread that took it ends, however it ends. */
#include "tests/harness.h"

#include "shm/robust.h"
#include "shm/segment.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORDS 20
#define DISTANCE ((long)offsetof(struct holder, more) - (long)offsetof(struct holder, entries))

static uint32_t *shared_word(void)
{
	void *base;
	int fd = segment_create("test", WIRE_PAGE_SIZE);

	assert_int_equal(segment_map(fd, WIRE_PAGE_SIZE, true, &base), 0);
	close(fd);
	return base;
}

static void test_untaken_word_is_not_dead(void **state)
{
	uint32_t word = 0;

	assert_false(robust_died(&word));
}

static void test_living_owner(void **state)
{
	uint32_t *word = shared_word();

	assert_int_equal(robust_take(word), 0);
	assert_int_equal(*word, syscall(SYS_gettid));
	assert_false(robust_died(word));
}

static void *take_and_return(void *word)
{
	return (void *)(intptr_t)robust_take(word);
}

static void test_thread_ends(void **state)
{
	uint32_t *word = shared_word();
	pthread_t thread;
	void *result;

	assert_int_equal(pthread_create(&thread, NULL, take_and_return, word), 0);
	assert_int_equal(pthread_join(thread, &result), 0);
	assert_null(result);
	assert_true(robust_died(word));
	munmap(word, WIRE_PAGE_SIZE);
}

/* A child takes the word, ends in the given way, and is waited for. */
static void child_ends(uint32_t *word, void (*end)(void))
{
	pid_t pid = fork();

	if (pid == 0) {
		if (robust_take(word) == 0)
			end();
		_exit(1);
	}
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_true(robust_died(word));
	munmap(word, WIRE_PAGE_SIZE);
}

static void end_by_exit(void)
{
	_exit(0);
}

static void end_by_kill(void)
{
	kill(getpid(), SIGKILL);
}

static void end_by_exec(void)
{
	execlp("true", "true", (char *)NULL);
}

static void test_process_exits(void **state)
{
	child_ends(shared_word(), end_by_exit);
}

static void test_process_is_killed(void **state)
{
	child_ends(shared_word(), end_by_kill);
}

static void test_process_becomes_another_program(void **state)
{
	child_ends(shared_word(), end_by_exec);
}

/* A process started later takes the word anew, as the next device process does. */
static void test_word_is_taken_again(void **state)
{
	uint32_t *word = shared_word();
	pid_t pid = fork();

	if (pid == 0)
		_exit(robust_take(word) == 0 ? 0 : 1);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_true(robust_died(word));
	assert_int_equal(robust_take(word), 0);
	assert_false(robust_died(word));
}

struct holder {
	struct robust_words words;
	struct robust_entry entries[WORDS];
	uint32_t more[WORDS * sizeof(struct robust_entry) / sizeof(uint32_t)];
};

/* The word of an entry lies as far behind it as `more` behind `entries`. */
static uint32_t *word_of(struct holder *h, uint32_t i)
{
	return (uint32_t *)((char *)&h->entries[i] + DISTANCE);
}

static void *begin_and_return(void *holder)
{
	struct holder *h = holder;

	if (robust_begin(&h->words, DISTANCE) < 0)
		return h;
	for (uint32_t i = 0; i < WORDS; i++)
		robust_add(&h->words, &h->entries[i]);
	for (uint32_t i = 0; i < WORDS; i++) {
		if (i % 3 == 1 || i == 0 || i == WORDS - 1)
			robust_remove(&h->words, &h->entries[i]);
	}
	return NULL;
}

/* Those that were given back, wherever they lay in the list, stay as they were. */
static void test_many_words_of_one_thread(void **state)
{
	struct holder h = {0};
	pthread_t thread;
	void *result;

	assert_int_equal(pthread_create(&thread, NULL, begin_and_return, &h), 0);
	assert_int_equal(pthread_join(thread, &result), 0);
	assert_null(result);
	for (uint32_t i = 0; i < WORDS; i++) {
		bool given_back = i % 3 == 1 || i == 0 || i == WORDS - 1;
		assert_int_equal(robust_died(word_of(&h, i)), !given_back);
		assert_int_equal(*word_of(&h, i) == h.words.owner, given_back);
	}
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_untaken_word_is_not_dead),
		HARNESS_TEST(test_living_owner),
		HARNESS_TEST(test_thread_ends),
		HARNESS_TEST(test_process_exits),
		HARNESS_TEST(test_process_is_killed),
		HARNESS_TEST(test_process_becomes_another_program),
		HARNESS_TEST(test_word_is_taken_again),
		HARNESS_TEST(test_many_words_of_one_thread),
	};

	return harness_run("robust", tests, sizeof(tests) / sizeof(tests[0]));
}
