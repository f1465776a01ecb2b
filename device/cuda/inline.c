/* SPDX-License-Identifier: MIT */
/*
 * inline.c: the inline stream of the CUDA device: commands, lives, pauses.
 *
 * Some calls of CUDA wait until the whole device is idle, which a kernel that stays never lets it
 * be. They come between cuda_inline_pause() and cuda_inline_resume(). Dispatch never waits for
 * that: it is refused meanwhile. What it had put by then is served by a life that leaves when the
 * ring is empty.
 */
#include "device/cuda/module.h"

#include <sched.h>
#include <string.h>
#include <time.h>

#define YIELDS 1000u	  /* before the first nap */
#define CHECK_EVERY 2000u /* rounds */

static int make_exec(struct cuda_inline *in)
{
	void *values[] = {&in->ring, &in->ended};
	const struct cudaKernelNodeParams params = {.func = (void *)cuda_resident_kernel(),
		.gridDim = {1, 1, 1},
		.blockDim = {CUDA_RESIDENT_THREADS, 1, 1},
		.kernelParams = values};
	cudaGraphNode_t node;
	int r = cuda_error(cudaGraphCreate(&in->graph, 0));

	if (r == 0)
		r = cuda_error(cudaGraphAddKernelNode(&node, in->graph, NULL, 0, &params));
	if (r == 0)
		r = cuda_error(cudaGraphInstantiate(&in->exec, in->graph, 0));
	if (r == 0)
		r = cuda_error(cudaGraphUpload(in->exec, in->stream));
	return r < 0 ? r : cuda_error(cudaStreamSynchronize(in->stream));
}

int cuda_inline_open(struct cuda_inline *in, struct device *device, struct cuda_ring *ring,
	uint64_t *given, uint64_t *ended)
{
	int lowest, highest, r;

	memset(ring, 0, sizeof(*ring));
	in->device = device;
	in->ring = ring;
	in->given = given;
	in->ended = ended;
	pthread_mutex_init(&in->lock, NULL);
	r = cuda_error(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
	if (r == 0)
		r = cuda_error(
			cudaStreamCreateWithPriority(&in->stream, cudaStreamNonBlocking, highest));
	return r < 0 ? r : make_exec(in);
}

void cuda_inline_close(struct cuda_inline *in)
{
	if (in->ring == NULL)
		return;
	cuda_inline_pause(in);
	if (in->exec != NULL)
		cuda_error(cudaGraphExecDestroy(in->exec));
	if (in->graph != NULL)
		cuda_error(cudaGraphDestroy(in->graph));
	if (in->stream != NULL)
		cuda_error(cudaStreamDestroy(in->stream));
	pthread_mutex_destroy(&in->lock);
}

/* --- Lives -------------------------------------------------------------------------------- */

/* Nobody is there, nor on the way. */
static bool is_empty(const struct cuda_inline *in)
{
	return shm_load_acquire(&in->ring->left) == shm_load_relaxed(&in->lives);
}

/* must: commands wait. -EAGAIN: not during a pause. */
static int start(struct cuda_inline *in, bool must)
{
	int r = 0;

	shm_store_release(&in->lives, in->lives + 1);
	/* Pairs with cuda_inline_pause(): that sees this life, or this the pause. */
	shm_fence();
	if (!must && shm_load_acquire(&in->ring->leave) != 0)
		r = -EAGAIN;
	if (r == 0)
		r = cuda_error(cudaGraphLaunch(in->exec, in->stream));
	if (r < 0)
		shm_store_release(&in->lives, in->lives - 1);
	return r;
}

/* Whether commands are being taken. Starts a life for the second command within its idle time. */
static bool is_ready(struct cuda_inline *in)
{
	uint64_t now_ns, asked_ns = in->asked_ns;

	if (!is_empty(in))
		return shm_load_acquire(&in->ring->arrived) == in->lives;
	now_ns = clock_monotonic_ns();
	in->asked_ns = now_ns;
	if (now_ns - asked_ns < CUDA_RESIDENT_IDLE_NS)
		(void)start(in, false);
	return false;
}

/* --- Commands ----------------------------------------------------------------------------- */

static void write_slot(uint64_t *slot, const struct cuda_command *command, uint64_t number)
{
	uint32_t words[CUDA_COMMAND_WORDS];

	memcpy(words, command, sizeof(words));
	for (uint32_t i = 0; i < CUDA_COMMAND_WORDS; i++)
		shm_store_relaxed(&slot[i], number << 32 | words[i]);
}

int cuda_inline_put(struct cuda_inline *in, const struct cuda_command *command)
{
	const uint64_t number = *in->given + 1;

	if (!is_ready(in))
		return -EAGAIN;
	if ((int64_t)(shm_load_acquire(in->ended) + CUDA_RESIDENT_DEPTH - number) < 0)
		return -EAGAIN;
	shm_store_release(in->given, number);
	write_slot(in->ring->slots[number % CUDA_RESIDENT_DEPTH], command, number);
	/* Pairs with that of the kernel between its `left` and its last look at the ring. */
	shm_fence();
	if (is_empty(in) && start(in, true) < 0)
		return -GPUQ_EDEVICE;
	return 0;
}

/* --- Pauses ------------------------------------------------------------------------------- */

/* Until the kernel has left. It may still wait for a multiprocessor to come; or never will. */
static void wait_for_end(struct cuda_inline *in)
{
	const struct timespec nap = {.tv_nsec = 20000};

	for (uint32_t i = 0; !is_empty(in); i++) {
		if (i % CHECK_EVERY == 0 && cuda_check(in->device) < 0)
			return;
		if (i < YIELDS)
			sched_yield();
		else
			nanosleep(&nap, NULL);
	}
}

void cuda_inline_pause(struct cuda_inline *in)
{
	if (in->ring == NULL)
		return;
	pthread_mutex_lock(&in->lock);
	in->pauses++;
	shm_store_release(&in->ring->leave, 1);
	pthread_mutex_unlock(&in->lock);
	/* Pairs with start(). */
	shm_fence();
	wait_for_end(in);
}

void cuda_inline_resume(struct cuda_inline *in)
{
	if (in->ring == NULL)
		return;
	pthread_mutex_lock(&in->lock);
	if (--in->pauses == 0)
		shm_store_release(&in->ring->leave, 0);
	pthread_mutex_unlock(&in->lock);
}
