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
 * A long recording is cut into pieces, which are graphs of their own: the driver lets nobody launch
 * while it makes a large one. A launch gives them all to the stream, one behind the other; the
 * first one brings the block, the last one completes.
 */
#include "device/cuda/module.h"
#include "device/cuda/profile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * What the driver takes for one node of an executable, on device and host together. It grows in
 * steps of megabytes, so one executable cannot be measured; this is what hundreds took.
 */
#define BYTES_PER_NODE 7168u

#define ENDED_ROUNDS 128u /* a few microseconds */

struct cuda_recording {
	uint64_t refs;
	struct cuda_device *device;
	cudaGraph_t pieces[CUDA_MAX_PIECES];
	uint32_t n_pieces;
	uint32_t nodes;		   /* of the piece that is being recorded */
	bool recording;		   /* CUDA is */
	bool whole;		   /* this is the last piece */
	const char *first, *final; /* names of kernels; NULL: none yet */
	uint32_t n_kernels;
	char name[80];					 /* of all this, for profilers */
	struct cuda_work *works[DEVICE_CAPTURE_STREAMS]; /* of each stream; the block is [0]'s */
	pthread_mutex_t lock;
	const struct cuda_exec *last; /* that was launched, where and when; NULL: none */
	const struct cuda_stream *last_stream;
	struct cuda_watch last_watch;
};

struct cuda_graph {
	struct device_graph base;
	struct cuda_recording *recording;
};

struct cuda_exec {
	struct device_exec base;
	struct cuda_recording *recording;
	struct cuda_bring bring;
	struct cuda_watch recent[DEVICE_EXEC_DEPTH]; /* the last ones */
	uint64_t launches;
	uint32_t n_pieces;
	struct cuda_shell *pieces[];
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
	for (uint32_t i = 0; i < rec->n_pieces; i++)
		cuda_error(cudaGraphDestroy(rec->pieces[i]));
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

/* Of the capture that the stream takes part in. */
static struct cuda_recording *recording_of(const struct cuda_stream *s)
{
	return cuda_stream(s->base.capture->streams[0])->recording;
}

int cuda_recording_args(struct cuda_stream *s, struct cuda_args *ret_args)
{
	struct cuda_recording *rec = recording_of(s);
	struct cuda_work **work = &rec->works[s->base.place];

	if (*work == NULL)
		*work = cuda_work_get(rec->device);
	if (*work == NULL)
		return -ENOMEM;
	ret_args->block = &rec->works[0]->block.args;
	ret_args->scratch = &(*work)->scratch;
	return 0;
}

static int piece_begin(struct cuda_recording *rec, cudaStream_t stream)
{
	int r = cuda_error(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));

	rec->recording = r == 0;
	rec->nodes = 0;
	return r;
}

static int piece_end(struct cuda_recording *rec, cudaStream_t stream)
{
	cudaGraph_t graph = NULL;
	int r;

	if (!rec->recording)
		return -ECANCELED;
	rec->recording = false;
	r = cuda_error(cudaStreamEndCapture(stream, &graph));
	if (r == 0 && graph == NULL)
		r = -ECANCELED;
	if (r == 0)
		rec->pieces[rec->n_pieces++] = graph;
	return r;
}

int cuda_recording_next(struct cuda_stream *s)
{
	struct cuda_recording *rec = recording_of(s);
	const uint32_t most = rec->n_pieces == 0 ? CUDA_HEAD_NODES : CUDA_PIECE_NODES;
	int r = rec->recording ? 0 : -ECANCELED;

	if (r == 0 && rec->nodes == most && !rec->whole && rec->n_pieces < CUDA_MAX_PIECES - 1) {
		r = piece_end(rec, s->stream);
		if (r == 0)
			r = piece_begin(rec, s->stream);
	}
	rec->nodes++;
	return r;
}

void cuda_recording_count(struct cuda_stream *s, const char *name)
{
	struct cuda_recording *rec = recording_of(s);

	if (rec->first == NULL)
		rec->first = name;
	rec->final = name;
	rec->n_kernels++;
}

static void name_recording(struct cuda_recording *rec)
{
	const char *first = rec->first != NULL ? rec->first : "copies";

	if (rec->n_kernels > 1)
		snprintf(rec->name, sizeof(rec->name), "%.24s .. %.24s (%u kernels)", first,
			rec->final, rec->n_kernels);
	else
		snprintf(rec->name, sizeof(rec->name), "%.24s", first);
}

void cuda_recording_keep_whole(struct cuda_stream *s)
{
	recording_of(s)->whole = true;
}

bool cuda_recording_overlaps(struct cuda_stream *s)
{
	const struct cuda_recording *rec = recording_of(s);

	return rec->device->programmatic && !rec->whole;
}

int cuda_capture_begin(struct device_stream *stream)
{
	struct cuda_stream *s = cuda_stream(stream);
	struct cuda_bring bring = {NULL};
	struct cuda_recording *rec;
	int r;

	cuda_enter(stream->device);
	rec = recording_create(cuda_device(stream->device));
	if (rec == NULL)
		return -ENOMEM;
	r = piece_begin(rec, s->stream);
	if (r == 0) {
		r = cuda_bring(&bring, s->stream);
		rec->nodes = 1;
		if (r < 0)
			(void)piece_end(rec, s->stream);
	}
	if (r < 0)
		recording_unref(rec);
	else
		s->recording = rec;
	return r;
}

int cuda_capture_end(struct device_stream *stream, struct device_graph **ret_graph)
{
	struct cuda_stream *s = cuda_stream(stream);
	struct cuda_recording *rec = s->recording;
	struct cuda_graph *graph = calloc(1, sizeof(*graph));
	int r;

	cuda_enter(stream->device);
	s->recording = NULL;
	r = piece_end(rec, s->stream);
	if (r == 0 && graph == NULL)
		r = -ENOMEM;
	if (r < 0) {
		recording_unref(rec);
		free(graph);
		return r;
	}
	name_recording(rec);
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

/* --- Executables -------------------------------------------------------------------------- */

static uint64_t exec_bytes(const struct cuda_exec *e)
{
	const struct cuda_recording *rec = e->recording;
	uint64_t bytes = sizeof(*e) + sizeof(*rec);

	for (uint32_t i = 0; i < e->n_pieces; i++)
		bytes += e->pieces[i]->nodes * BYTES_PER_NODE;
	for (uint32_t i = 0; i < DEVICE_CAPTURE_STREAMS; i++)
		if (rec->works[i] != NULL)
			bytes += sizeof(struct cuda_work);
	return bytes;
}

static void put_pieces(struct cuda_exec *e)
{
	while (e->n_pieces > 0)
		cuda_shell_put(e->recording->device, e->pieces[--e->n_pieces]);
}

int cuda_exec_create(
	struct device *device, const struct device_graph *graph, struct device_exec **ret_exec)
{
	struct cuda_recording *rec = ((const struct cuda_graph *)graph)->recording;
	struct cuda_exec *e = calloc(1, sizeof(*e) + rec->n_pieces * sizeof(struct cuda_shell *));
	int r = 0;

	if (e == NULL)
		return -ENOMEM;
	cuda_enter(device);
	e->recording = rec;
	profile_begin("instantiate", rec->name);
	while (r == 0 && e->n_pieces < rec->n_pieces) {
		r = cuda_shell_get(rec->device, rec->pieces[e->n_pieces], &e->pieces[e->n_pieces]);
		e->n_pieces += r == 0;
		cuda_pace(rec->device);
	}
	profile_end();
	if (r < 0) {
		put_pieces(e);
		free(e);
		return r;
	}
	shm_fetch_add(&rec->refs, 1);
	e->base.device = device;
	e->base.bytes = exec_bytes(e);
	e->bring.to = &rec->works[0]->block;
	*ret_exec = &e->base;
	return 0;
}

int cuda_exec_upload(struct device_exec *exec, struct device_stream *stream)
{
	const struct cuda_exec *e = (const struct cuda_exec *)exec;
	cudaStream_t on = cuda_stream(stream)->stream;
	int r = 0;

	cuda_enter(stream->device);
	profile_begin("upload", e->recording->name);
	for (uint32_t i = 0; i < e->n_pieces && r == 0; i++) {
		r = cuda_error(cudaGraphUpload(e->pieces[i]->exec, on));
		cuda_pace(e->recording->device);
	}
	if (r == 0)
		r = cuda_error(cudaStreamSynchronize(on));
	profile_end();
	return r;
}

static int launch_pieces(struct cuda_exec *e, cudaStream_t stream)
{
	const struct cuda_shell *head = e->pieces[0];
	struct cudaKernelNodeParams params;
	void *value;
	int r;

	cuda_bring_node(&e->bring, &value, &params);
	r = cuda_error(cudaGraphExecKernelNodeSetParams(head->exec, head->head, &params));
	for (uint32_t i = 0; i < e->n_pieces && r == 0; i++) {
		r = cuda_error(cudaGraphLaunch(e->pieces[i]->exec, stream));
		/*
		 * Hardly ever. What was given can neither be taken back nor be waited for here,
		 * where launches of others would wait too.
		 */
		if (r < 0 && i > 0)
			r = -GPUQ_EDEVICE;
	}
	return r;
}

/*
 * The block is free for the next launch, or will be when that comes to it: launches in one stream
 * run one after another, and so do those of one piece in any streams.
 */
static bool may_follow(
	const struct cuda_recording *rec, const struct cuda_exec *e, const struct cuda_stream *s)
{
	if (rec->last == e && (rec->last_stream == s || e->n_pieces == 1))
		return true;
	return has_just_ended(&rec->last_watch);
}

/* Copies what is carried into the argument; kernels find it behind the block. */
static void carry(struct cuda_exec *e, const struct device_args *args)
{
	struct cuda_bring *bring = &e->bring;
	char *data = (char *)bring->block.carried, *place = (char *)bring->to->carried;
	uint32_t used = 0;

	for (uint32_t i = 0; i < GPUQ_MAX_INPUTS; i++) {
		if (args->carried[i] == 0)
			continue;
		memcpy(data + used, args->pointers[i], args->carried[i]);
		bring->block.args.pointers[i] = place + used;
		used += device_carried_room(args->carried[i]);
	}
	bring->words = CUDA_BLOCK_WORDS + used / sizeof(uint64_t);
}

/* With the recording's lock. */
static int launch_locked(struct cuda_exec *e, struct cuda_stream *s, const struct device_args *args)
{
	struct cuda_recording *rec = e->recording;
	int r;

	if (!may_follow(rec, e, s))
		return -EAGAIN;
	r = cuda_watch_begin(s, e->n_pieces, &e->bring.block.watch);
	if (r < 0)
		return r;
	e->bring.block.args = *args;
	carry(e, args);
	r = launch_pieces(e, s->stream);
	if (r == 0) {
		rec->last = e;
		rec->last_stream = s;
		rec->last_watch = e->bring.block.watch;
	}
	return cuda_watch_done(s, e->n_pieces, r);
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
	profile_begin("launch", e->recording->name);
	/* Held against other executables of the same graph only: hardly ever. */
	pthread_mutex_lock(&e->recording->lock);
	r = launch_locked(e, cuda_stream(stream), args);
	pthread_mutex_unlock(&e->recording->lock);
	profile_end();
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

	put_pieces(e);
	pthread_mutex_lock(&rec->lock);
	if (rec->last == e)
		rec->last = NULL;
	pthread_mutex_unlock(&rec->lock);
	recording_unref(rec);
	cuda_restore(mode);
	free(e);
}
