/* SPDX-License-Identifier: MIT */
/*
 * explore.h: a model checker that runs the shipped shm/ring.h, not a model of it. The atomic
 * helpers are redirected here (explore_atomics.h); two or three simulated threads then run under
 * a scheduler that tries every order of everything the memory model leaves open.
 *
 * How. A thread is a function that runs one round of its loop over a private structure. It is a
 * pure function of that structure and of the values its loads returned, so the explorer never
 * suspends it: it keeps the log of this round's operations, runs the round again from its start,
 * and leaves it at the first operation that is not in the log. A state is then plain data
 * (memory, buffers, private structures, logs) that can be copied and hashed. The search goes
 * depth first through all states and visits each once; `paths` counts the interleavings that
 * lead through them. States are told apart by a 64-bit hash: two of 10^6 states fall together,
 * and hide what follows one of them, with a probability of about 3 * 10^-8.
 *
 * The memory model. Each thread has a window of operations that it has issued and that memory
 * has not performed yet:
 *
 *   relaxed store   performed at any time, also after later ones to other words, also before
 *                   earlier loads (PSO, and load-store reordering)
 *   release store   performed when everything issued before it is performed; later operations
 *                   may overtake it
 *   acquire load    performed when it is issued: nothing later overtakes it, but it may overtake
 *                   whatever the thread's window still holds (so store-load reordering)
 *   relaxed load    performed when it is issued, or later: it then returns a value that it is
 *                   going to read, chosen from the program's `values`, and the thread runs
 *                   ahead. If memory never holds that value, the execution is void
 *   copied words    (shm_copy_in) performed at any time after their issue, in any order; the
 *                   private copy is filled in then. A round must not branch on it
 *   fence           waits until the thread's window is empty
 *
 * Operations on one word stay in program order, and a load sees its own thread's pending store.
 * A bell is a system call: never rung, and never slept on, on the strength of a guessed load;
 * but it orders no memory, which is weaker than any kernel. This is weaker than x86, Armv8 and
 * RISC-V, including load buffering, which C11 allows and hardware shows only without a
 * dependency. litmus.c checks which outcomes the model has and which it must not have.
 *
 * Not covered: stores that reach two other threads at different times (POWER; rings have two
 * sides); tearing of an aligned 64-bit word; a compiler that breaks the named helpers; words of
 * 32 bits and read-modify-write helpers, which ring.h does not use (it would no longer compile
 * here); more entries, words or rounds than the scenarios have.
 *
 * A peer that misbehaves: a load from a `hostile` word returns each of `values`, a different one
 * each time, and stores go nowhere. explore_fetches() tells how often a round loaded a word.
 *
 * What the searches of rings.c and hostile.c cover stands in rings.c.
 */
#ifndef GPUQ_EXPLORE_H
#define GPUQ_EXPLORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EXPLORE_THREADS 3
#define EXPLORE_WORDS 40
#define EXPLORE_BELLS 2
#define EXPLORE_VALUES 32
#define EXPLORE_LOCAL 384 /* bytes of a thread's private structure */

struct explore_word {
	const void *at;
	char name[24];
	uint64_t initial;
	bool hostile;
};

struct explore_thread {
	const char *name;
	/* One round over the private structure. False when the thread has finished. */
	bool (*round)(void *local);
	size_t local_bytes;
	_Alignas(16) uint8_t local[EXPLORE_LOCAL];
};

struct explore_program {
	const char *name;
	uint32_t n_threads, n_words, n_values;
	struct explore_thread threads[EXPLORE_THREADS];
	struct explore_word words[EXPLORE_WORDS];
	uint64_t values[EXPLORE_VALUES];
	/* When all threads have finished: NULL, or what is wrong. */
	const char *(*check)(void *const local[]);
};

struct explore_result {
	uint64_t states, transitions, ends;
	double paths;
	const char *violated; /* NULL, or what went wrong */
};

/* Building a program. Private structures are copied. */
void explore_add_thread(struct explore_program *p, const char *name, bool (*round)(void *),
	const void *local, size_t bytes);
void explore_add_word(struct explore_program *p, const void *at, uint64_t initial, bool hostile,
	const char *name);
void explore_add_value(struct explore_program *p, uint64_t value);

/* Searches until the end or the first violation, whose interleaving it prints. */
struct explore_result explore_run(const struct explore_program *p);

/* For rounds. A bell keeps ringing until it is silenced, and until then nobody sleeps on it. */
void explore_bell(uint32_t bell);
void explore_sleep(uint32_t bell);
void explore_silence(uint32_t bell);
_Noreturn void explore_fail(const char *why);
uint32_t explore_fetches(const void *word);

/* Behind the helpers of explore_atomics.h. */
uint64_t explore_load(const uint64_t *p, bool acquire);
void explore_store(uint64_t *p, uint64_t v, bool release);
void explore_load_into(uint64_t *dst, const uint64_t *src);
void explore_fence(void);
void explore_pause(void);

#endif
