/* SPDX-License-Identifier: MIT */
/* llm_captures.c: a client that has shapes of the model's steps captured while others decode. */
#include "bench/llm.h"

#include "client/gpuq.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define CAPTURE_NS 20000000000ull

/* None is rounded to another, wherever it is; see models/engine.h. */
static const uint32_t batches[] = {2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64};
static const uint32_t contexts[] = {256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 1792,
	2048, 2560, 3072, 3584, 4096};

#define N_BATCHES (sizeof(batches) / sizeof(batches[0]))
#define N_SHAPES (N_BATCHES * sizeof(contexts) / sizeof(contexts[0]))

struct llm_captures {
	pid_t pid;
	uint64_t *made; /* shared with the process */
};

static int capture(struct client *c, uint64_t number)
{
	const struct gpuq_model_shape shape = {
		.batch = batches[number % N_BATCHES], .context = contexts[number / N_BATCHES]};
	struct gpuq_submission s = {0};
	struct gpuq_completion done;
	int e = gpuq_capture_create(c->channel, LLM_NAME, &shape, &s.call);

	if (e < 0)
		return e;
	e = gpuq_submit(c->channel, &s, 1);
	if (e >= 0)
		e = gpuq_wait(c->channel, &done, 1, CAPTURE_NS);
	if (e >= 0)
		e = e == 1 ? done.status : -ETIMEDOUT;
	gpuq_call_destroy(s.call);
	return e;
}

static int run(const struct daemon *d, uint64_t *made)
{
	struct client c = {0};
	int e = client_open(d, &c);

	while (e >= 0 && *made < N_SHAPES) {
		e = capture(&c, *made);
		if (e >= 0)
			shm_store_relaxed(made, *made + 1);
	}
	client_close(&c);
	return e;
}

int llm_captures_open(struct llm_captures **ret_captures)
{
	struct llm_captures *c = calloc(1, sizeof(*c));

	if (c == NULL)
		return -ENOMEM;
	c->made = mmap(
		NULL, sizeof(*c->made), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (c->made == MAP_FAILED) {
		free(c);
		return -errno;
	}
	*ret_captures = c;
	return 0;
}

int llm_captures_start(struct llm_captures *c, const struct daemon *d)
{
	c->pid = fork();
	if (c->pid < 0)
		return -errno;
	if (c->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(run(d, c->made) < 0);
	}
	return 0;
}

uint64_t llm_captures_stop(struct llm_captures *c)
{
	kill(c->pid, SIGKILL);
	waitpid(c->pid, NULL, 0);
	c->pid = 0;
	return shm_load_relaxed(c->made);
}

void llm_captures_close(struct llm_captures *c)
{
	if (c == NULL)
		return;
	if (c->pid > 0)
		(void)llm_captures_stop(c);
	munmap(c->made, sizeof(*c->made));
	free(c);
}
