/* SPDX-License-Identifier: MIT */
/*
 * graph.c: captures and executables of the CUDA device. Kernels find their arguments in a block in
 * device memory; the graph's first node brings it there, and takes it as its own argument, which
 * is set in the executable before each launch: CUDA copies it then, so launches can be queued.
 *
 * The block's address is fixed when kernels are recorded, so it belongs to the recording, which
 * lives as long as its graph or an executable of it. Executables of one graph share the block:
 * launches of two of them are kept apart.
 *
 * Instantiating an executable holds up launches of other threads, and so does destroying one:
 * 80 us at the 99th percentile with 100 nodes. Updating one to another graph does not. So what is
 * destroyed is kept, up to a limit, and made into what is created next with as many nodes.
 */
#include "device/cuda/module.h"

#include <stdlib.h>
#include <string.h>

/*
 * What the driver takes for one node of an executable, on device and host together. It grows in
 * steps of megabytes, so one executable cannot be measured; this is what hundreds took.
 */
#define BYTES_PER_NODE 7168u

#define ENDED_ROUNDS 128u  /* a few microseconds */
#define SHELL_NODES 16384u /* of executables that are kept for reuse, together */

/* An executable, and the graph of which it was made: its nodes are named by that for ever. */
struct cuda_shell {
	struct cuda_shell *next;
	cudaGraphExec_t exec;
	cudaGraph_t graph;
	cudaGraphNode_t head; /* brings the block */
	uint32_t nodes;
};

struct cuda_recording {
	uint64_t refs;
	struct cuda_device *device;
	cudaGraph_t graph;				 /* NULL: not ended */
	cudaGraphNode_t head;				 /* brings the block */
	struct cuda_work *works[DEVICE_CAPTURE_STREAMS]; /* of each stream; the block is [0]'s */
	pthread_mutex_t lock;
	const struct cuda_exec *last; /* that was launched, and when; NULL: none */
	struct cuda_watch last_watch;
};

struct cuda_graph {
	struct device_graph base;
	struct cuda_recording *recording;
};

struct cuda_exec {
	struct device_exec base;
	struct cuda_shell *shell;
	struct cuda_recording *recording;
	struct cuda_bring bring;
	struct cuda_watch recent[DEVICE_EXEC_DEPTH]; /* the last ones */
	uint64_t launches;
};

static bool has_ended(const struct cuda_watch *watch)
{
	return watch->ended == NULL ||
		cuda_has_ended((const struct cuda_ended *)watch->ended, watch->number);
}

/* The number follows the word, which the caller may have seen already: waits for it a moment. */
static bool has_just_ended(const struct cuda_watch *watch)
{
	for (uint32_t i = 0; i < ENDED_ROUNDS; i++) {
		if (has_ended(watch))
			return true;
		shm_pause();
	}
	return false;
}

static void recording_unref(struct cuda_recording *rec)
{
	if (shm_fetch_add(&rec->refs, (uint64_t)-1) != 1)
		return;
	if (rec->graph != NULL)
		cuda_error(cudaGraphDestroy(rec->graph));
	for (uint32_t i = 0; i < DEVICE_CAPTURE_STREAMS; i++)
		cuda_work_put(rec->device, rec->works[i]);
	pthread_mutex_destroy(&rec->lock);
	free(rec);
}

static struct cuda_recording *recording_create(struct cuda_device *d)
{
	struct cuda_recording *rec = calloc(1, sizeof(*rec));

	if (rec == NULL)
		return NULL;
	rec->refs = 1;
	rec->device = d;
	pthread_mutex_init(&rec->lock, NULL);
	/* Streams that join take theirs when nothing may be allocated any more. */
	if (cuda_work_reserve(d, DEVICE_CAPTURE_STREAMS) == 0)
		rec->works[0] = cuda_work_get(d);
	if (rec->works[0] == NULL) {
		recording_unref(rec);
		return NULL;
	}
	return rec;
}

int cuda_recording_args(struct cuda_stream *s, struct cuda_args *ret_args)
{
	struct cuda_recording *rec = cuda_stream(s->base.capture->streams[0])->recording;
	struct cuda_work **work = &rec->works[s->base.place];

	if (*work == NULL)
		*work = cuda_work_get(rec->device);
	if (*work == NULL)
		return -ENOMEM;
	ret_args->block = &rec->works[0]->block.args;
	ret_args->scratch = &(*work)->scratch;
	return 0;
}

int cuda_capture_begin(struct device_stream *stream)
{
	struct cuda_stream *s = cuda_stream(stream);
	struct cuda_bring bring = {NULL};
	struct cuda_recording *rec;
	cudaGraph_t graph;
	int r;

	cuda_enter(stream->device);
	rec = recording_create(cuda_device(stream->device));
	if (rec == NULL)
		return -ENOMEM;
	r = cuda_error(cudaStreamBeginCapture(s->stream, cudaStreamCaptureModeThreadLocal));
	if (r == 0) {
		r = cuda_bring(&bring, s->stream);
		if (r < 0 && cudaStreamEndCapture(s->stream, &graph) == cudaSuccess)
			cudaGraphDestroy(graph);
	}
	if (r < 0)
		recording_unref(rec);
	else
		s->recording = rec;
	return r;
}

static int recording_end(struct cuda_recording *rec, cudaStream_t stream)
{
	int r = cuda_error(cudaStreamEndCapture(stream, &rec->graph));

	return r == 0 && rec->graph == NULL ? -ECANCELED : r;
}

int cuda_capture_end(struct device_stream *stream, struct device_graph **ret_graph)
{
	struct cuda_stream *s = cuda_stream(stream);
	struct cuda_recording *rec = s->recording;
	struct cuda_graph *graph = calloc(1, sizeof(*graph));
	int r;

	cuda_enter(stream->device);
	s->recording = NULL;
	r = recording_end(rec, s->stream);
	if (r == 0 && graph == NULL)
		r = -ENOMEM;
	if (r < 0) {
		recording_unref(rec);
		free(graph);
		return r;
	}
	graph->base.device = stream->device;
	graph->recording = rec;
	*ret_graph = &graph->base;
	return 0;
}

void cuda_graph_destroy(struct device_graph *graph)
{
	enum cudaStreamCaptureMode mode = cuda_relax(graph->device);

	recording_unref(((struct cuda_graph *)graph)->recording);
	cuda_restore(mode);
	free(graph);
}

/* --- Executables for reuse ---------------------------------------------------------------- */

static void shell_destroy(struct cuda_shell *shell)
{
	if (shell->exec != NULL)
		cuda_error(cudaGraphExecDestroy(shell->exec));
	if (shell->graph != NULL)
		cuda_error(cudaGraphDestroy(shell->graph));
	free(shell);
}

void cuda_shells_free(struct cuda_device *d)
{
	struct cuda_shell *shell;

	while ((shell = d->shells) != NULL) {
		d->shells = shell->next;
		shell_destroy(shell);
	}
}

static void shell_keep(struct cuda_device *d, struct cuda_shell *shell)
{
	bool keep;

	pthread_mutex_lock(&d->lock);
	keep = d->shell_nodes + shell->nodes <= SHELL_NODES &&
		shm_load_relaxed(&d->base.failed) == 0;
	if (keep) {
		d->shell_nodes += shell->nodes;
		shell->next = d->shells;
		d->shells = shell;
	}
	pthread_mutex_unlock(&d->lock);
	if (!keep)
		shell_destroy(shell);
}

static struct cuda_shell *shell_find(struct cuda_device *d, uint32_t nodes)
{
	struct cuda_shell **at, *shell;

	pthread_mutex_lock(&d->lock);
	for (at = &d->shells; (shell = *at) != NULL; at = &shell->next)
		if (shell->nodes == nodes)
			break;
	if (shell != NULL) {
		*at = shell->next;
		d->shell_nodes -= nodes;
	}
	pthread_mutex_unlock(&d->lock);
	return shell;
}

static int shell_create(cudaGraph_t graph, uint32_t nodes, struct cuda_shell **ret_shell)
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
		r = cuda_error(cudaGraphInstantiate(&shell->exec, shell->graph, 0));
	if (r < 0)
		shell_destroy(shell);
	else
		*ret_shell = shell;
	return r;
}

/* One that was kept, made into this graph, or a new one. */
static int shell_get(
	struct cuda_device *d, cudaGraph_t graph, uint32_t nodes, struct cuda_shell **ret_shell)
{
	struct cuda_shell *shell = shell_find(d, nodes);
	cudaGraphExecUpdateResultInfo info;

	if (shell != NULL) {
		if (cuda_error(cudaGraphExecUpdate(shell->exec, graph, &info)) == 0) {
			*ret_shell = shell;
			return 0;
		}
		/* Its nodes are of other kinds, or lie in another order. */
		shell_destroy(shell);
	}
	return shell_create(graph, nodes, ret_shell);
}

/* --- Executables -------------------------------------------------------------------------- */

static uint64_t exec_bytes(const struct cuda_recording *rec, uint32_t nodes)
{
	uint64_t bytes =
		sizeof(struct cuda_exec) + sizeof(*rec) + (uint64_t)(nodes + 1) * BYTES_PER_NODE;

	for (uint32_t i = 0; i < DEVICE_CAPTURE_STREAMS; i++)
		if (rec->works[i] != NULL)
			bytes += sizeof(struct cuda_work);
	return bytes;
}

int cuda_exec_create(
	struct device *device, const struct device_graph *graph, struct device_exec **ret_exec)
{
	struct cuda_recording *rec = ((const struct cuda_graph *)graph)->recording;
	struct cuda_exec *e = calloc(1, sizeof(*e));
	int r;

	if (e == NULL)
		return -ENOMEM;
	cuda_enter(device);
	r = shell_get(cuda_device(device), rec->graph, graph->nodes, &e->shell);
	if (r < 0) {
		free(e);
		return r;
	}
	shm_fetch_add(&rec->refs, 1);
	e->base.device = device;
	e->base.bytes = exec_bytes(rec, graph->nodes);
	e->recording = rec;
	e->bring.to = &rec->works[0]->block;
	*ret_exec = &e->base;
	return 0;
}

int cuda_exec_upload(struct device_exec *exec, struct device_stream *stream)
{
	cudaStream_t on = cuda_stream(stream)->stream;
	int r;

	cuda_enter(stream->device);
	r = cuda_error(cudaGraphUpload(((struct cuda_exec *)exec)->shell->exec, on));
	return r < 0 ? r : cuda_error(cudaStreamSynchronize(on));
}

/* With the recording's lock. */
static int launch_locked(struct cuda_exec *e, struct cuda_stream *s, const struct device_args *args)
{
	struct cuda_recording *rec = e->recording;
	struct cudaKernelNodeParams params;
	void *value;
	int r;

	if (rec->last != e && !has_just_ended(&rec->last_watch))
		return -EAGAIN;
	r = cuda_watch_begin(s, &e->bring.block.watch);
	if (r < 0)
		return r;
	e->bring.block.args = *args;
	cuda_bring_node(&e->bring, &value, &params);
	r = cuda_error(cudaGraphExecKernelNodeSetParams(e->shell->exec, e->shell->head, &params));
	if (r == 0)
		r = cuda_error(cudaGraphLaunch(e->shell->exec, s->stream));
	if (r == 0) {
		rec->last = e;
		rec->last_watch = e->bring.block.watch;
	}
	return cuda_watch_done(s, r);
}

int cuda_exec_launch(
	struct device_exec *exec, struct device_stream *stream, const struct device_args *args)
{
	struct cuda_exec *e = (struct cuda_exec *)exec;
	struct cuda_watch *oldest = &e->recent[e->launches % DEVICE_EXEC_DEPTH];
	int r;

	if (!has_just_ended(oldest))
		return -EAGAIN;
	cuda_enter(stream->device);
	/* Held against other executables of the same graph only: hardly ever. */
	pthread_mutex_lock(&e->recording->lock);
	r = launch_locked(e, cuda_stream(stream), args);
	pthread_mutex_unlock(&e->recording->lock);
	if (r == 0) {
		*oldest = e->bring.block.watch;
		e->launches++;
	}
	return r;
}

void cuda_exec_destroy(struct device_exec *exec)
{
	struct cuda_exec *e = (struct cuda_exec *)exec;
	struct cuda_recording *rec = e->recording;

	enum cudaStreamCaptureMode mode = cuda_relax(exec->device);

	shell_keep(rec->device, e->shell);
	pthread_mutex_lock(&rec->lock);
	if (rec->last == e)
		rec->last = NULL;
	pthread_mutex_unlock(&rec->lock);
	recording_unref(rec);
	cuda_restore(mode);
	free(e);
}
