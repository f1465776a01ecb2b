/* SPDX-License-Identifier: MIT */
/* worker.c: the threads that compute, and how commands of streams run there; see cpu.h. */
#include "device/cpu/cpu.h"
#include "device/fault.h"
#include "shm/segment.h"
#include "shm/wait.h"

#include <assert.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SPIN_NS 20000u	/* a worker looks for more work this long before it sleeps */
#define PIECE_NS 20000u /* work is not cut into pieces predicted to be shorter */
/* It is cut so that they are about as short as this: streams change only between pieces. */
#define LONG_PIECE_NS 500000u
#define TURN_NS 200000u /* a stream's turn ends after so long: one of short work gets on as well */
/* So often a worker serves others before a lower priority goes first: it is slow, not starved. */
#define MAX_PASSED_OVER 15u

#define CLAIM_BITS 16u
#define CLAIM_CLOSED ((1u << CLAIM_BITS) - 1) /* a piece number that no work reaches */
_Static_assert(4 * CPU_MAX_WORKERS < CLAIM_CLOSED, "pieces fit the claim word");

static void futex_wait(uint32_t *word, uint32_t value)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(uint32_t *word, int threads)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, threads, NULL, NULL, 0);
}

static void wake_workers(struct cpu_device *d, int threads)
{
	/* Pairs with the fence in worker_sleep(): one of us sees the other. */
	shm_fence();
	if (shm_load_relaxed_u32(&d->sleepers) == 0)
		return;
	shm_fetch_add_u32(&d->wakes, 1);
	futex_wake(&d->wakes, threads);
}

void cpu_wake_worker(struct cpu_device *d)
{
	wake_workers(d, 1);
}

static bool failed(const struct cpu_device *d)
{
	return shm_load_relaxed(&d->base.failed) != 0;
}

/* --- Nodes -------------------------------------------------------------------------------- */

static void run_node(struct cpu_device *d, const struct cpu_node *node,
	const struct device_args *args, uint64_t begin, uint64_t end)
{
	if (d->base.fault != NULL && fault_check(d->base.fault, FAULT_WORK) < 0)
		shm_store_release(&d->base.failed, 1);
	if (!failed(d))
		node->run(node->shape, args, begin, end);
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/*
 * Pieces for work of this predicted length: enough for every worker, none too short, and none so
 * long that the other streams would notice.
 */
static uint64_t pieces_for(const struct cpu_device *d, const struct cpu_node *node)
{
	const uint64_t enough = least(node->predicted_ns / PIECE_NS, 4ull * d->n_workers);
	const uint64_t polite = least(node->predicted_ns / LONG_PIECE_NS, CLAIM_CLOSED - 1);

	return least(enough > polite ? enough : polite, node->units);
}

/* Offers a node in pieces. The stream's token belongs to who ends the last of them. */
static void cell_fill(struct cpu_device *d, struct cpu_stream *s, const struct cpu_node *node,
	const struct device_args *args, uint64_t pieces)
{
	struct cpu_cell *cell = &s->cell;
	uint64_t generation = (shm_load_relaxed(&cell->claim) >> CLAIM_BITS) + 1;

	/* Workers that still look at the cell find nothing to claim while it changes. */
	shm_store_release(&cell->claim, generation << CLAIM_BITS | CLAIM_CLOSED);
	/* Before anything below is seen: a release store alone holds back only what is above. */
	shm_fence();
	cell->node = node;
	cell->args = args;
	shm_store_relaxed(&cell->ended, 0);
	shm_store_relaxed(&cell->pieces, pieces);
	shm_store_release(&cell->claim, generation << CLAIM_BITS);
	wake_workers(d, INT_MAX);
}

/* Runs the nodes of the command that are left. False: they were given to the workers in pieces. */
static bool run_nodes(struct cpu_device *d, struct cpu_stream *s, const struct cpu_command *c)
{
	const struct cpu_node *nodes = c->replays ? c->exec->nodes : &c->node;

	for (; s->node < c->n_nodes; s->node++) {
		const struct cpu_node *node = &nodes[s->node];
		uint64_t pieces = pieces_for(d, node);
		if (pieces > 1 && !failed(d)) {
			cell_fill(d, s, node, &c->args, pieces);
			return false;
		}
		run_node(d, node, &c->args, 0, node->units);
	}
	return true;
}

/* --- Commands ----------------------------------------------------------------------------- */

static struct cpu_command *command_at(struct cpu_stream *s, uint64_t position)
{
	return &s->commands[position % CPU_STREAM_DEPTH];
}

/* Whether the enqueuing thread has published the command at this place. */
static bool published(struct cpu_stream *s, uint64_t position)
{
	return shm_load_acquire(&command_at(s, position)->number) == position + 1;
}

static bool reached(const struct cpu_stream *s, uint64_t position)
{
	return shm_load_acquire(&s->head) >= position;
}

/*
 * Parks the stream, unless what it awaits has ended meanwhile: then true. After false it may be in
 * the hands of another worker.
 */
static bool park(struct cpu_device *d, struct cpu_stream *s, const struct cpu_command *c)
{
	pthread_mutex_lock(&d->parked_lock);
	TAILQ_INSERT_TAIL(&d->parked, s, parked_link);
	shm_store_relaxed(&d->n_parked, d->n_parked + 1);
	/* Pairs with the fence in end_command(): one of us sees the other. */
	shm_fence();
	bool go_on = reached(c->awaited, c->position);
	if (go_on) {
		TAILQ_REMOVE(&d->parked, s, parked_link);
		shm_store_relaxed(&d->n_parked, d->n_parked - 1);
	}
	pthread_mutex_unlock(&d->parked_lock);
	return go_on;
}

/* Streams whose wait is over may be taken again. */
static void resume_parked(struct cpu_device *d)
{
	struct cpu_stream *s, *next;
	int resumed = 0;

	pthread_mutex_lock(&d->parked_lock);
	for (s = TAILQ_FIRST(&d->parked); s != NULL; s = next) {
		const struct cpu_command *c = command_at(s, s->head);
		next = TAILQ_NEXT(s, parked_link);
		if (!reached(c->awaited, c->position))
			continue;
		TAILQ_REMOVE(&d->parked, s, parked_link);
		shm_store_relaxed(&d->n_parked, d->n_parked - 1);
		shm_store_release(&s->token, CPU_TOKEN_FREE);
		resumed++;
	}
	pthread_mutex_unlock(&d->parked_lock);
	/* This worker looks for work next, but there may be more than it can do. */
	if (resumed > 0)
		wake_workers(d, resumed);
}

/* Writes times and word. A device that has failed writes none. */
static void complete(struct cpu_device *d, struct cpu_stream *s, const struct cpu_command *c)
{
	struct device_completion *completion = c->args.completion;

	if (completion != NULL && !failed(d)) {
		completion->started_ns = s->started_ns;
		completion->ended_ns = clock_now_ns(&d->base.options.clock);
		shm_store_release(&completion->word, c->args.value);
	}
	s->started_ns = 0;
}

/* Takes the command at the head out of the ring and puts the token back. */
static void end_command(struct cpu_device *d, struct cpu_stream *s, const struct cpu_command *c)
{
	const bool completes = c->completes, watched = c->watched;

	/* Who sees the word may launch the executable again, or destroy it. */
	if (c->replays)
		shm_store_release(&c->exec->ended, shm_load_relaxed(&c->exec->ended) + 1);
	if (completes)
		complete(d, s, c);
	s->node = 0;
	/* The enqueuing thread may write over the command from here on. */
	shm_store_release(&s->head, s->head + 1);
	/* Pairs with those in sleep_prepare(), park() and cpu_stream_drain(). */
	shm_fence();
	if (completes && shm_load_relaxed(&d->asleep) != 0)
		bell_ring_eventfd(d->base.options.wake_fd);
	if (watched && shm_load_relaxed(&d->n_parked) != 0)
		resume_parked(d);
	if (shm_load_relaxed(&d->waiting) != 0) {
		shm_fetch_add_u32(&d->ends, 1);
		futex_wake(&d->ends, INT_MAX);
	}
	bool more = published(s, s->head);
	shm_store_release(&s->token, CPU_TOKEN_FREE);
	/* This worker looks for work next and may come to another stream first. */
	if (more && shm_load_relaxed_u32(&d->sleepers) != 0)
		wake_workers(d, 1);
}

/* With the stream's token: goes on with the command at its head. */
static void serve_stream(struct cpu_device *d, struct cpu_stream *s)
{
	const struct cpu_command *c = command_at(s, s->head);

	if (c->awaits && !reached(c->awaited, c->position) && !park(d, s, c))
		return;
	if (s->started_ns == 0 && (c->n_nodes > 0 || c->completes))
		s->started_ns = clock_now_ns(&d->base.options.clock);
	if (run_nodes(d, s, c))
		end_command(d, s, c);
}

/* Claims and runs one piece of the stream's cell. False when there is none. */
static bool take_piece(struct cpu_device *d, struct cpu_stream *s)
{
	struct cpu_cell *cell = &s->cell;
	uint64_t claim = shm_load_acquire(&cell->claim);
	uint64_t piece = claim & CLAIM_CLOSED;

	/* `pieces` may be of later work here; then the swap fails. */
	if (piece >= shm_load_relaxed(&cell->pieces) ||
		!shm_compare_swap(&cell->claim, claim, claim + 1))
		return false;
	const struct cpu_node *node = cell->node;
	const uint64_t pieces = cell->pieces, units = node->units;

	run_node(d, node, cell->args, units * piece / pieces, units * (piece + 1) / pieces);
	/* Unless it was the last one, nothing below touches the stream. */
	if (shm_fetch_add(&cell->ended, 1) + 1 == pieces) {
		s->node++;
		serve_stream(d, s);
	}
	return true;
}

/* Takes the stream's token if there is a command and nobody has it. */
static bool take_stream(struct cpu_device *d, struct cpu_stream *s)
{
	uint64_t head = shm_load_relaxed(&s->head);

	if (!published(s, head) || shm_load_relaxed(&s->token) != CPU_TOKEN_FREE)
		return false;
	__builtin_prefetch(command_at(s, head)->args.pointers);
	__builtin_prefetch(command_at(s, head)->args.scalars);
	if (!shm_compare_swap(&s->token, CPU_TOKEN_FREE, CPU_TOKEN_TAKEN))
		return false;
	/* Another worker may have ended the command meanwhile. */
	if (!published(s, s->head)) {
		shm_store_release(&s->token, CPU_TOKEN_FREE);
		return false;
	}
	serve_stream(d, s);
	return true;
}

/* --- Threads ------------------------------------------------------------------------------ */

/* Whose turn it is, as one worker sees it. */
struct turns {
	uint64_t next[CPU_PRIORITIES];	   /* the stream that is served first */
	uint64_t began_ns[CPU_PRIORITIES]; /* its turn, when the one before was served last */
	uint32_t passed_over[CPU_PRIORITIES];
};

/* The stream at this place was served: its turn goes on, or the next one's begins. */
static void served(const struct cpu_device *d, struct turns *turns, uint32_t p, uint64_t at)
{
	const uint64_t now_ns = clock_now_ns(&d->base.options.clock);
	const bool ends = now_ns - turns->began_ns[p] >= TURN_NS;

	turns->next[p] = at + ends;
	if (ends)
		turns->began_ns[p] = now_ns;
}

/* Serves the first stream of a priority, from its turn on, that has something to do. */
static bool run_of(struct cpu_device *d, uint32_t p, struct turns *turns)
{
	const uint64_t n = shm_load_acquire(&d->n_streams[p]);

	turns->passed_over[p] = 0;
	for (uint64_t i = 0; i < n; i++) {
		const uint64_t sum = turns->next[p] + i, at = sum < n ? sum : sum - n;
		struct cpu_stream *s = d->streams[p][at];

		if (take_stream(d, s) || take_piece(d, s)) {
			served(d, turns, p, at);
			return true;
		}
	}
	return false;
}

/* Looks at all streams once: by priority, but first at those that were passed over too often. */
static bool run_something(struct cpu_device *d, struct turns *turns)
{
	for (uint32_t p = CPU_PRIORITIES; p-- > 1;) {
		if (turns->passed_over[p] >= MAX_PASSED_OVER && run_of(d, p, turns))
			return true;
	}
	for (uint32_t p = 0; p < CPU_PRIORITIES; p++) {
		if (!run_of(d, p, turns))
			continue;
		for (uint32_t lower = p + 1; lower < CPU_PRIORITIES; lower++)
			turns->passed_over[lower]++;
		return true;
	}
	return false;
}

static void worker_sleep(struct cpu_device *d, struct turns *turns)
{
	uint32_t seen = shm_load_acquire_u32(&d->wakes);

	shm_fetch_add_u32(&d->sleepers, 1);
	/* Pairs with the fence in wake_workers(): one of us sees the other. */
	shm_fence();
	if (!run_something(d, turns) && shm_load_acquire(&d->stop) == 0)
		futex_wait(&d->wakes, seen);
	shm_fetch_add_u32(&d->sleepers, UINT32_MAX);
}

static void *worker_main(void *arg)
{
	struct cpu_device *d = arg;
	struct wait wait = wait_begin(SPIN_NS, 0);
	struct turns turns = {0};

	prctl(PR_SET_NAME, "gpuqd-worker");
	while (shm_load_acquire(&d->stop) == 0) {
		if (run_something(d, &turns)) {
			wait_done(&wait);
		} else if (!wait_round(&wait, d->spin, &d->base.options.clock)) {
			worker_sleep(d, &turns);
			wait_reset(&wait);
		}
	}
	return NULL;
}

int cpu_workers_start(struct cpu_device *d, uint32_t n)
{
	sigset_t all, old;
	int r = 0;

	/* Signals are the main thread's business. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (d->n_workers < n && r == 0) {
		r = -pthread_create(&d->workers[d->n_workers], NULL, worker_main, d);
		d->n_workers += r == 0;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r;
}

void cpu_workers_stop(struct cpu_device *d)
{
	shm_store_release(&d->stop, 1);
	wake_workers(d, INT_MAX);
	for (uint32_t i = 0; i < d->n_workers; i++)
		pthread_join(d->workers[i], NULL);
}

void cpu_stream_drain(struct cpu_stream *s, uint64_t position)
{
	struct cpu_device *d = cpu_device(s->base.device);

	shm_fetch_add(&d->waiting, 1);
	for (;;) {
		uint32_t seen = shm_load_acquire_u32(&d->ends);
		/* Pairs with the fence in end_command(): one of us sees the other. */
		shm_fence();
		if (reached(s, position))
			break;
		futex_wait(&d->ends, seen);
	}
	shm_fetch_add(&d->waiting, UINT64_MAX);
}
