/* SPDX-License-Identifier: MIT */
/*
 * shell.c: executables of the driver, which are kept and made into others. Instantiating one and
 * destroying one hold up launches of other threads, and so does its first upload; updating it to
 * another graph does not (docs/cuda-notes.md). So what is destroyed is kept, up to a limit, and a
 * stock is made when the device is opened. Pieces of graphs are of one length as far as possible
 * (graph.c), so that nearly everything that is kept fits. When memory is short, all of it goes.
 */
#include "device/cuda/module.h"

#include <stdlib.h>

#define KEPT_NODES 16384u /* of those that are kept, together */
/* All together 25 MiB, half of it the host's. */
#define STOCK_HEADS 48u
#define STOCK_PIECES 32u
#define STOCK_ENDS 2u /* of each other length */

static void shell_destroy(struct cuda_device *d, struct cuda_shell *shell)
{
	const uint64_t since_ns = clock_monotonic_ns();

	if (shell->exec != NULL) {
		cuda_error(cudaGraphExecDestroy(shell->exec));
		cuda_pace_held(d, since_ns);
	}
	if (shell->graph != NULL)
		cuda_error(cudaGraphDestroy(shell->graph));
	free(shell);
}

bool cuda_shells_free(struct cuda_device *d)
{
	struct cuda_shell *shells, *shell;
	bool any;

	pthread_mutex_lock(&d->lock);
	shells = d->shells;
	d->shells = NULL;
	d->shell_nodes = 0;
	pthread_mutex_unlock(&d->lock);
	any = shells != NULL;
	while ((shell = shells) != NULL) {
		shells = shell->next;
		shell_destroy(d, shell);
	}
	return any;
}

void cuda_shell_put(struct cuda_device *d, struct cuda_shell *shell)
{
	bool keep;

	pthread_mutex_lock(&d->lock);
	keep = d->shell_nodes + shell->nodes <= KEPT_NODES &&
		shm_load_relaxed(&d->base.failed) == 0;
	if (keep) {
		d->shell_nodes += (uint32_t)shell->nodes;
		shell->next = d->shells;
		d->shells = shell;
	}
	pthread_mutex_unlock(&d->lock);
	if (!keep)
		shell_destroy(d, shell);
}

static struct cuda_shell *shell_find(struct cuda_device *d, size_t nodes)
{
	struct cuda_shell **at, *shell;

	pthread_mutex_lock(&d->lock);
	for (at = &d->shells; (shell = *at) != NULL; at = &shell->next)
		if (shell->nodes == nodes)
			break;
	if (shell != NULL) {
		*at = shell->next;
		d->shell_nodes -= (uint32_t)nodes;
	}
	pthread_mutex_unlock(&d->lock);
	return shell;
}

/* Its first upload is made here, where it is paced together with the rest. */
static int shell_instantiate(struct cuda_device *d, struct cuda_shell *shell)
{
	const uint64_t since_ns = clock_monotonic_ns();
	int r = cuda_error(cudaGraphInstantiate(&shell->exec, shell->graph, 0));

	if (r == 0)
		r = cuda_error(cudaGraphUpload(shell->exec, d->aux));
	if (r == 0)
		r = cuda_error(cudaStreamSynchronize(d->aux));
	cuda_pace_held(d, since_ns);
	return r;
}

static int shell_try(
	struct cuda_device *d, cudaGraph_t graph, size_t nodes, struct cuda_shell **ret_shell)
{
	struct cuda_shell *shell = calloc(1, sizeof(*shell));
	size_t count = 1;
	int r;

	if (shell == NULL)
		return -ENOMEM;
	shell->nodes = nodes;
	r = cuda_error(cudaGraphClone(&shell->graph, graph));
	if (r == 0)
		r = cuda_error(cudaGraphGetRootNodes(shell->graph, &shell->head, &count));
	if (r == 0)
		r = shell_instantiate(d, shell);
	if (r < 0)
		shell_destroy(d, shell);
	else
		*ret_shell = shell;
	return r;
}

static int shell_create(
	struct cuda_device *d, cudaGraph_t graph, size_t nodes, struct cuda_shell **ret_shell)
{
	int r = shell_try(d, graph, nodes, ret_shell);

	return r == -ENOMEM && cuda_shells_free(d) ? shell_try(d, graph, nodes, ret_shell) : r;
}

int cuda_shell_get(struct cuda_device *d, cudaGraph_t graph, struct cuda_shell **ret_shell)
{
	cudaGraphExecUpdateResultInfo info;
	struct cuda_shell *shell;
	size_t nodes = 0;
	int r = cuda_error(cudaGraphGetNodes(graph, NULL, &nodes));

	if (r < 0)
		return r;
	shell = shell_find(d, nodes);
	if (shell == NULL)
		return shell_create(d, graph, nodes, ret_shell);
	r = cuda_error(cudaGraphExecUpdate(shell->exec, graph, &info));
	if (r == 0) {
		*ret_shell = shell;
		return 0;
	}
	/* Its nodes are of other kinds, or lie in another order: it fits something else. */
	cuda_shell_put(d, shell);
	return r == -GPUQ_EDEVICE ? r : shell_create(d, graph, nodes, ret_shell);
}

static int stock(
	struct cuda_device *d, const struct cuda_target *to, uint32_t nodes, uint32_t count)
{
	struct cuda_shell *shell;
	cudaGraphNode_t head;
	cudaGraph_t graph;
	int r = cuda_blank_graph(to, nodes, &graph, &head);

	if (r < 0)
		return r;
	for (uint32_t i = 0; i < count && r == 0; i++) {
		r = shell_create(d, graph, nodes, &shell);
		if (r == 0)
			cuda_shell_put(d, shell);
	}
	cuda_error(cudaGraphDestroy(graph));
	return r;
}

int cuda_shells_stock(struct cuda_device *d)
{
	struct cuda_target to = {.programmatic = d->programmatic};
	int r = cuda_error(cudaStreamCreateWithFlags(&to.stream, cudaStreamNonBlocking));

	if (r < 0)
		return r;
	r = stock(d, &to, CUDA_PIECE_NODES, STOCK_PIECES);
	for (uint32_t nodes = 1; nodes < CUDA_PIECE_NODES && r == 0; nodes++)
		r = stock(d, &to, nodes, nodes == CUDA_HEAD_NODES ? STOCK_HEADS : STOCK_ENDS);
	cuda_error(cudaStreamDestroy(to.stream));
	return r;
}
