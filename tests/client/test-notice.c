/* SPDX-License-Identifier: MIT */
/*
 * test-notice.c: the robust words by which the client library tells gpuqd, before anything else
 * can, that its process has ended. The fake gpuqd looks at them when it hears the hang-up.
 */
#include "tests/client/rig.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static struct fake *start_fake(uint64_t abi)
{
	struct fake *fake = fake_new();

	fake->control->abi = abi;
	fake_start(fake);
	return fake;
}

static void open_many(struct fake *fake, struct gpuq_channel **channels, uint32_t n)
{
	const struct gpuq_options options = {.socket = fake->socket};
	struct gpuq *g;

	assert_int_equal(gpuq_connect(&options, &g), 0);
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(gpuq_channel_open(g, NULL, &channels[i]), 0);
}

/* A child opens three channels, closes one of them, and ends in the given way. */
static void end_child(struct fake *fake, uint32_t close_which, void (*end)(struct gpuq *))
{
	struct gpuq_channel *channels[3];
	pid_t pid = fork();

	if (pid == 0) {
		open_many(fake, channels, 3);
		struct gpuq *g = gpuq_channel_gpuq(channels[0]);
		if (close_which < 3)
			gpuq_channel_close(channels[close_which]);
		end(g);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	fake_expect(&fake->control->ended, 3);
	shm_store_release(&fake->control->ended, 0);
}

static void be_killed(struct gpuq *g)
{
	kill(getpid(), SIGKILL);
}

static void exit_without_a_word(struct gpuq *g)
{
	_exit(0);
}

static void become_another_program(struct gpuq *g)
{
	execlp("true", "true", (char *)NULL);
}

static void abort_alone(struct gpuq *g)
{
	signal(SIGSEGV, SIG_DFL);
	raise(SIGSEGV);
}

static void test_every_end_is_told(void **state)
{
	static void (*const ends[])(struct gpuq *) = {
		be_killed, exit_without_a_word, become_another_program, abort_alone};
	struct fake *fake = start_fake(WIRE_ABI);

	for (uint32_t i = 0; i < 4; i++) {
		shm_store_release(&fake->control->hints, 0);
		end_child(fake, 3, ends[i]);
		assert_int_equal(fake->control->hints, 3);
	}
	fake_destroy(fake);
}

/* Whichever place in the kernel's list a closed channel had. */
static void test_closed_channels_are_left_out(void **state)
{
	struct fake *fake = start_fake(WIRE_ABI);

	for (uint32_t i = 0; i < 3; i++) {
		shm_store_release(&fake->control->hints, 0);
		end_child(fake, i, be_killed);
		assert_int_equal(fake->control->hints, 2);
	}
	fake_destroy(fake);
}

static void test_disconnecting_is_no_death(void **state)
{
	struct fake *fake = start_fake(WIRE_ABI);

	end_child(fake, 3, gpuq_disconnect);
	end_child(fake, 1, gpuq_disconnect);
	assert_int_equal(fake->control->hints, 0);
	assert_int_equal(fake->control->unheld, 0);
	fake_destroy(fake);
}

/* A gpuqd that does not know the words is not written to where it expects zeros. */
static void test_older_gpuqd(void **state)
{
	struct fake *fake = start_fake(3);

	end_child(fake, 3, be_killed);
	assert_int_equal(fake->control->hints, 0);
	assert_int_equal(fake->control->unheld, 3);
	fake_destroy(fake);
}

/* Stops until there is another gpuqd; closes one channel then, and dies with the other. */
static void reconnect_and_die(struct fake *fake)
{
	struct gpuq_channel *channels[2];

	open_many(fake, channels, 2);
	raise(SIGSTOP);
	if (gpuq_reconnect(gpuq_channel_gpuq(channels[0]), RIG_LONG_NS) == 0) {
		gpuq_channel_close(channels[0]);
		be_killed(NULL);
	}
	_exit(1);
}

/* Another gpuqd is told as well. */
static void test_after_reconnecting(void **state)
{
	struct fake *fake = start_fake(WIRE_ABI);
	pid_t pid = fork();
	int status;

	if (pid == 0)
		reconnect_and_die(fake);
	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	assert_true(WIFSTOPPED(status));
	fake_kill(fake);
	fake_start(fake);
	assert_int_equal(kill(pid, SIGCONT), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	fake_expect(&fake->control->ended, 2);
	assert_int_equal(fake->control->hints, 1);
	assert_int_equal(fake->control->unheld, 0);
	fake_destroy(fake);
}

/* The child of a client has neither the thread nor the word: its end says nothing. */
static void test_forked_child_ends(void **state)
{
	struct gpuq_channel *ch;
	struct fake *fake = start_fake(WIRE_ABI);

	open_many(fake, &ch, 1);
	struct gpuq *g = gpuq_channel_gpuq(ch);
	for (int kind = 0; kind < 2; kind++) {
		pid_t pid = fork();
		if (pid == 0) {
			if (kind == 1)
				gpuq_disconnect(g);
			_exit(0);
		}
		assert_int_equal(waitpid(pid, NULL, 0), pid);
	}
	gpuq_channel_close(ch);
	assert_int_equal(fake->control->ended, 1);
	assert_int_equal(fake->control->hints, 0);
	gpuq_disconnect(g);
	fake_destroy(fake);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_every_end_is_told),
		HARNESS_TEST(test_closed_channels_are_left_out),
		HARNESS_TEST(test_disconnecting_is_no_death),
		HARNESS_TEST(test_older_gpuqd),
		HARNESS_TEST(test_after_reconnecting),
		HARNESS_TEST(test_forked_child_ends),
	};

	return harness_run("client-notice", tests, sizeof(tests) / sizeof(tests[0]));
}
