/* SPDX-License-Identifier: MIT */
/*
 * cpu.c: the CPU device: worker threads that take pieces of launched work from a small table of
 * cells. Dispatch is the only one to fill a cell, and does so only when all pieces of the cell's
 * last work have ended; workers claim pieces with one compare-and-swap each.
 *
 * A cell's claim word holds the cell's generation above and the next piece below, so a worker
 * that was delayed between reading and claiming cannot take a piece of later work by mistake.
 * A worker that has claimed a piece may read the rest of the cell: it is not refilled before
 * that piece has ended.
 */
#include "device/device.h"
#include "shm/segment.h"
#include "shm/wait.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_WORKERS 256u
#define MAX_CELLS 64u
#define WORKER_SPIN_NS 20000u /* a worker looks for more work this long before it sleeps */
#define PIECE_NS 20000u	      /* work is not cut into pieces predicted to be shorter */

#define CLAIM_BITS 16u
#define CLAIM_CLOSED ((1u << CLAIM_BITS) - 1) /* a piece number that no work reaches */

struct cell {
	uint64_t claim; /* generation << CLAIM_BITS | next piece */
	uint64_t ended; /* pieces that have ended, of this generation */
	uint64_t pieces;
	struct device_work work;
	struct device_completion *completion;
	uint64_t value;
} __attribute__((aligned(WIRE_LINE)));

struct device {
	struct device_options options;
	struct cell cells[MAX_CELLS];
	uint32_t n_cells;
	uint32_t n_workers;
	bool spin; /* workers may spin: they and dispatch fit the CPUs */
	char name[128];
	uint64_t asleep; /* dispatch sleeps */
	uint64_t stop;
	uint32_t launches; /* futex word: changes with every launch */
	uint32_t sleepers;
	pthread_t workers[MAX_WORKERS];
};

static void futex_wait(uint32_t *word, uint32_t value)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake_all(uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* Claims and runs one piece of a cell. False when there is none. */
static bool cell_run_piece(struct device *d, struct cell *cell)
{
	uint64_t claim = shm_load_acquire(&cell->claim);
	uint64_t piece = claim & CLAIM_CLOSED;

	/* `pieces` may be of later work here; then the swap fails. */
	if (piece >= shm_load_relaxed(&cell->pieces) ||
		!shm_compare_swap(&cell->claim, claim, claim + 1))
		return false;
	const struct device_work w = cell->work;
	const uint64_t pieces = cell->pieces, value = cell->value;
	struct device_completion *completion = cell->completion;

	if (piece == 0)
		completion->started_ns = clock_now_ns(&d->options.clock);
	w.run(w.arg, w.units * piece / pieces, w.units * (piece + 1) / pieces);
	/* Once all have ended dispatch may refill the cell: nothing below touches it. */
	if (shm_fetch_add(&cell->ended, 1) + 1 < pieces)
		return true;
	completion->ended_ns = clock_now_ns(&d->options.clock);
	shm_store_release(&completion->word, value);
	/* Pairs with the fence in device_sleep_prepare(). */
	shm_fence();
	if (shm_load_relaxed(&d->asleep) != 0)
		bell_ring_eventfd(d->options.wake_fd);
	return true;
}

static bool run_something(struct device *d)
{
	for (uint32_t i = 0; i < d->n_cells; i++) {
		if (cell_run_piece(d, &d->cells[i]))
			return true;
	}
	return false;
}

static void worker_sleep(struct device *d)
{
	uint32_t seen = shm_load_acquire_u32(&d->launches);

	shm_fetch_add_u32(&d->sleepers, 1);
	/* Pairs with the fence in device_launch(): one of us sees the other. */
	shm_fence();
	if (!run_something(d) && shm_load_acquire(&d->stop) == 0)
		futex_wait(&d->launches, seen);
	shm_fetch_add_u32(&d->sleepers, UINT32_MAX);
}

static void *worker_main(void *arg)
{
	struct device *d = arg;
	struct wait wait = wait_begin(WORKER_SPIN_NS, 0);

	prctl(PR_SET_NAME, "gpuqd-worker");
	while (shm_load_acquire(&d->stop) == 0) {
		if (run_something(d)) {
			wait_done(&wait);
		} else if (!wait_round(&wait, d->spin, &d->options.clock)) {
			worker_sleep(d);
			wait_reset(&wait);
		}
	}
	return NULL;
}

/* The processor's name as the kernel gives it. */
static void cpu_model(char *name, size_t size)
{
	char line[256];
	FILE *f = fopen("/proc/cpuinfo", "re");

	snprintf(name, size, "CPU");
	while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
		char *colon = strchr(line, ':');
		if (strncmp(line, "model name", 10) != 0 || colon == NULL || colon[1] != ' ')
			continue;
		colon[strcspn(colon, "\n")] = '\0';
		snprintf(name, size, "%s", colon + 2);
		break;
	}
	if (f != NULL)
		fclose(f);
}

static int start_workers(struct device *d)
{
	sigset_t all, old;
	int r = 0;

	/* Signals are the main thread's business. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (d->n_workers < d->options.workers && r == 0) {
		r = -pthread_create(&d->workers[d->n_workers], NULL, worker_main, d);
		d->n_workers += r == 0;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r;
}

/* CPUs that this process itself may use. */
static uint32_t own_cpus(void)
{
	uint32_t shared = wait_shared_cpus();
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return shared;
	uint32_t own = (uint32_t)CPU_COUNT(&set);
	return own < shared ? own : shared;
}

int device_open_cpu(const struct device_options *options, struct device **ret_device)
{
	uint32_t own = own_cpus();
	char model[96];
	struct device *d;

	/* calloc() does not align to cache lines. */
	if (posix_memalign((void **)&d, WIRE_LINE, sizeof(*d)) != 0)
		return -ENOMEM;
	memset(d, 0, sizeof(*d));
	d->options = *options;
	if (d->options.workers == 0)
		d->options.workers = own > 1 ? own - 1 : 1;
	if (d->options.workers > MAX_WORKERS)
		d->options.workers = MAX_WORKERS;
	/* Two launches for each worker: one runs, one is at hand when it ends. */
	d->n_cells = d->options.workers * 2 < MAX_CELLS ? d->options.workers * 2 : MAX_CELLS;
	d->spin = d->options.workers < wait_shared_cpus();
	cpu_model(model, sizeof(model));
	snprintf(d->name, sizeof(d->name), "%s, %u worker%s", model, d->options.workers,
		d->options.workers == 1 ? "" : "s");
	int r = start_workers(d);
	if (r < 0) {
		device_close(d);
		return r;
	}
	*ret_device = d;
	return 0;
}

void device_close(struct device *device)
{
	if (device == NULL)
		return;
	while (run_something(device))
		continue;
	shm_store_release(&device->stop, 1);
	shm_fetch_add_u32(&device->launches, 1);
	futex_wake_all(&device->launches);
	for (uint32_t i = 0; i < device->n_workers; i++)
		pthread_join(device->workers[i], NULL);
	free(device);
}

uint32_t device_workers(const struct device *device)
{
	return device->n_workers;
}

const char *device_name(const struct device *device)
{
	return device->name;
}

/* Pieces for work of this predicted length: enough for every worker, none too short. */
static uint64_t pieces_for(const struct device *d, const struct device_work *work)
{
	uint64_t pieces = work->predicted_ns / PIECE_NS;

	if (pieces > 4ull * d->n_workers)
		pieces = 4ull * d->n_workers;
	if (pieces > work->units)
		pieces = work->units;
	return pieces > 0 ? pieces : 1;
}

static bool cell_free(struct cell *cell)
{
	return shm_load_acquire(&cell->ended) == cell->pieces;
}

int device_launch(struct device *d, const struct device_work *work,
	struct device_completion *completion, uint64_t value)
{
	struct cell *cell = NULL;

	for (uint32_t i = 0; i < d->n_cells && cell == NULL; i++) {
		if (cell_free(&d->cells[i]))
			cell = &d->cells[i];
	}
	if (cell == NULL)
		return -EAGAIN;
	uint64_t generation = (shm_load_relaxed(&cell->claim) >> CLAIM_BITS) + 1;
	/* Workers that still look at the cell find nothing to claim while it changes. */
	shm_store_release(&cell->claim, generation << CLAIM_BITS | CLAIM_CLOSED);
	/* Before anything below is seen: a release store alone holds back only what is above. */
	shm_fence();
	cell->work = *work;
	cell->completion = completion;
	cell->value = value;
	shm_store_relaxed(&cell->ended, 0);
	shm_store_relaxed(&cell->pieces, pieces_for(d, work));
	shm_store_release(&cell->claim, generation << CLAIM_BITS);
	shm_fetch_add_u32(&d->launches, 1);
	/* Pairs with the fence in worker_sleep(). */
	shm_fence();
	if (shm_load_relaxed_u32(&d->sleepers) != 0)
		futex_wake_all(&d->launches);
	return 0;
}

void device_sleep_prepare(struct device *d, bool asleep)
{
	shm_store_relaxed(&d->asleep, asleep);
	/* Pairs with the fence in cell_run_piece(). */
	shm_fence();
}
