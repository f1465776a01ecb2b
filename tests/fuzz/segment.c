/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target for a channel's memory: a dispatcher with the CPU device serves a channel whose
 * entries and arena are the input's, while another thread writes over them. Whatever they are, the
 * dispatcher lives, and when the channel is removed nothing of it is in flight.
 *
 * The first byte is the version of the wire, the second how many entries are published, the third
 * what the other thread does; then come entries, and behind them what the arena begins with.
 */
#include "tests/daemon/dispatch-rig.h"

#include "tests/kernels/random.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAD 3u
#define WRITES 200u
#define PATIENCE 2000u
#define SWEEP (16u << 10) /* bytes of the arena that are written over */

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct rig rig;

static void remove_directory(void)
{
	rmdir(harness_tmpdir());
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static char directory[] = "/tmp/gpuq-fuzz-XXXXXX";

	if (mkdtemp(directory) == NULL || setenv("XDG_RUNTIME_DIR", directory, 1) < 0)
		abort();
	atexit(remove_directory);
	rig_start_workers(&rig, 1);
	return 0;
}

struct mutator {
	struct rig_client *client;
	struct random rng;
	bool indices; /* too */
};

static void *mutate(void *arg)
{
	struct mutator *m = arg;
	struct rig_client *c = m->client;
	uint64_t *const words[] = {(void *)c->sqes, (void *)c->arena, &c->sq.ring->prod};
	const uint64_t counts[] = {RIG_ENTRIES * sizeof(struct wire_sqe) / 8, SWEEP / 8,
		2 * sizeof(struct wire_ring) / 8};

	for (uint32_t i = 0; i < WRITES; i++) {
		const uint64_t area = random_below(&m->rng, m->indices && i % 16 == 15 ? 3 : 2);
		uint64_t *word = &words[area][random_below(&m->rng, counts[area])];
		const uint64_t bits = 1ull << random_below(&m->rng, 64);

		/* Most of a word stays: what is almost right gets furthest. */
		shm_store_relaxed(word, shm_load_relaxed(word) ^ bits);
		for (uint32_t k = 0; k < i % 8; k++)
			shm_pause();
	}
	return NULL;
}

/* Entries are of this channel, whatever the input says; one in eight is not. */
static void put_entries(struct rig_client *c, const uint8_t *data, size_t size, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		struct wire_sqe sqe = {0};
		const size_t at = i * sizeof(sqe);

		if (at < size)
			memcpy(&sqe, data + at, size - at < sizeof(sqe) ? size - at : sizeof(sqe));
		if (sqe.generation % 8 != 7)
			sqe.generation = c->generation;
		rig_write(c, &sqe);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct rig_client c;
	struct mutator m = {.client = &c};
	pthread_t thread;

	if (size < HEAD)
		return 0;
	const uint32_t n = data[1] % (RIG_ENTRIES + 1);
	const size_t entries = n * sizeof(struct wire_sqe);
	rig_open(&rig, &c, 1, (uint64_t)data[0] << 56, 1 + data[0] % WIRE_ABI);
	m.rng.state = data[2];
	m.indices = data[2] % 4 == 0;
	data += HEAD;
	size -= HEAD;
	put_entries(&c, data, size, n);
	if (size > entries)
		memcpy(c.arena, data + entries,
			size - entries < RIG_ARENA ? size - entries : RIG_ARENA);
	if (pthread_create(&thread, NULL, mutate, &m) != 0)
		abort();
	rig_publish(&c);
	/* While all goes well it takes them all. */
	for (uint32_t i = 0; i < PATIENCE && shm_load_acquire(&c.sq.ring->cons) != c.sq.prod; i++)
		sched_yield();
	pthread_join(thread, NULL);
	rig_close(&c);
	return 0;
}
