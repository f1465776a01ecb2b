/* SPDX-License-Identifier: MIT */
/* children.c: client processes that a test starts, watches and ends. */
#include "tests/integration/children.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define READY_MS 20000

void child_start(struct child *child)
{
	if (child->page == NULL) {
		child->page = mmap(NULL, sizeof(*child->page), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		assert_true(child->page != MAP_FAILED);
	}
	memset(child->page, 0, sizeof(*child->page));
	child->pid = fork();
	assert_true(child->pid >= 0);
	if (child->pid > 0)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* A failed assertion leaves by way of cmocka, and ends with another status. */
	child->run(child);
	_exit(0);
}

void child_await_ready(const struct child *child)
{
	for (unsigned int ms = 0; shm_load_acquire_u32(&child->page->ready) == 0; ms++) {
		if (ms > READY_MS * harness_slowness())
			fail_msg("child %u is never ready", child->number);
		if (waitpid(child->pid, NULL, WNOHANG) != 0)
			fail_msg("child %u ended before it was ready", child->number);
		poll(NULL, 0, 1);
	}
}

void child_wait(struct child *child)
{
	int status;

	assert_int_equal(waitpid(child->pid, &status, 0), child->pid);
	child->pid = 0;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		fail_msg("child %u ended with status %#x", child->number, (unsigned int)status);
}

void child_stop(struct child *child)
{
	shm_store_release_u32(&child->page->stop, 1);
	child_wait(child);
}

void child_kill(struct child *child)
{
	int status;

	kill(child->pid, SIGKILL);
	assert_int_equal(waitpid(child->pid, &status, 0), child->pid);
	child->pid = 0;
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		fail_msg("child %u ended by itself, with status %#x", child->number,
			(unsigned int)status);
}

void child_free(struct child *child)
{
	munmap(child->page, sizeof(*child->page));
	child->page = NULL;
}
