/* SPDX-License-Identifier: MIT */
/*
 * children.h: client processes. A child runs a function in a process of its own, with a page that
 * it shares with the test; one that fails an assertion, or ends by a signal that the test did not
 * send, fails the test.
 */
#ifndef GPUQ_TESTS_INTEGRATION_CHILDREN_H
#define GPUQ_TESTS_INTEGRATION_CHILDREN_H

#include "shm/atomics.h"
#include "tests/harness.h"

#define CHILD_SECONDS 16

/* Between one child and the test. */
struct child_page {
	uint32_t ready; /* the child is where the test wants it */
	uint32_t stop;	/* the test asks for an orderly end */
	uint32_t go;	/* the test lets it go on */
	uint32_t channel, generation;
	uint64_t submitted, completed, lost, refused;
	uint64_t second[CHILD_SECONDS]; /* completed within each second of its run */
	uint64_t rescues;
	uint64_t start_ns, noticed_ns; /* on CLOCK_MONOTONIC */
	int32_t status;
};

struct child {
	pid_t pid; /* 0: none */
	uint32_t number;
	uint64_t seed;
	struct child_page *page;
	void (*run)(struct child *child);
};

/* Starts it: `run`, `number` and `seed` are filled in, and `page` when it is used again. */
void child_start(struct child *child);

/* Waits until it has said that it is ready. */
void child_await_ready(const struct child *child);

static inline void child_say_ready(struct child *child)
{
	shm_store_release_u32(&child->page->ready, 1);
}

static inline bool child_should_stop(const struct child *child)
{
	return shm_load_acquire_u32(&child->page->stop) != 0;
}

/* Asks it to end, waits for that, and checks that it was content. */
void child_stop(struct child *child);

/* Waits for its own end, and checks that it was content. */
void child_wait(struct child *child);

/* Kills it, and checks that it died of that and not before. */
void child_kill(struct child *child);

/* Frees the page. */
void child_free(struct child *child);

#endif
