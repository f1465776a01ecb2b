/* SPDX-License-Identifier: MIT */
/*
 * Lanes: where work meets the device. A work is a plan's kernels or an executable's launch, with
 * copies before and after it for tensors that are large and lie in the host's memory: those run
 * in streams of their own, so that they overlap another work's kernels.
 *
 * A call of the device that fails in the middle of this leaves things in the lane that still run.
 * The work is then completed by a signal behind them, with the error as its status, so that
 * nothing is reused too early. Where not even that can be given, nobody will ever know what still
 * reads a client's memory: that counts as the failure of the device.
 */
#include "graphs/impl.h"

#include <time.h>

/* Reading an input in the host's memory so often costs more than copying it, of any size. */
#define STAGE_READERS 8u

/* --- Making and ending ---------------------------------------------------------------------- */

static int slot_create(struct graphs *g, struct graph_lane *lane, uint32_t i)
{
	struct graph_slot *slot = &lane->slots[i];
	int err = device_event_create(g->options.device, &slot->in_done);

	slot->lane = lane;
	if (err == 0)
		err = device_event_create(g->options.device, &slot->work_done);
	if (lane->staging != NULL)
		slot->staging = lane->staging + i * g->options.staging_bytes;
	return err;
}

int lane_create(struct graphs *g, struct graph_lane *lane, uint32_t priority,
	struct device_completion *inner)
{
	struct device *device = g->options.device;
	const uint64_t staging_bytes = GRAPHS_LANE_DEPTH * g->options.staging_bytes;
	void *staging = NULL;
	int err = device_stream_create(device, priority, &lane->stream);

	if (err == 0)
		err = device_stream_create(device, priority, &lane->copy_in);
	if (err == 0)
		err = device_stream_create(device, priority, &lane->copy_out);
	if (err == 0)
		err = device_alloc(device, DEVICE_WORK, g->options.scratch_bytes, &lane->scratch);
	if (err == 0 && staging_bytes > 0)
		err = device_alloc(device, DEVICE_WORK, staging_bytes, &staging);
	lane->staging = staging;
	for (uint32_t i = 0; i < GRAPHS_LANE_DEPTH && err == 0; i++) {
		err = slot_create(g, lane, i);
		lane->slots[i].inner = &inner[i];
	}
	return err;
}

static void stream_end(struct graphs *g, struct device_stream *stream)
{
	if (stream != NULL && shm_load_relaxed(&g->failed) == 0)
		(void)device_stream_wait(stream);
	device_stream_destroy(stream);
}

void lane_destroy(struct graphs *g, struct graph_lane *lane)
{
	stream_end(g, lane->copy_in);
	stream_end(g, lane->stream);
	stream_end(g, lane->copy_out);
	for (uint32_t i = 0; i < GRAPHS_LANE_DEPTH; i++) {
		device_event_destroy(lane->slots[i].in_done);
		device_event_destroy(lane->slots[i].work_done);
	}
	device_free(g->options.device, DEVICE_WORK, lane->staging);
	device_free(g->options.device, DEVICE_WORK, lane->scratch);
}

struct graph_slot *lane_slot(struct graph_lane *lane)
{
	for (uint32_t i = 0; i < GRAPHS_LANE_DEPTH; i++) {
		if (shm_load_acquire(&lane->slots[i].busy) == 0)
			return &lane->slots[i];
	}
	return NULL;
}

/* --- Staging -------------------------------------------------------------------------------- */

/* A launch under way. */
struct giving {
	struct graphs *g;
	struct graph_slot *slot;
	struct graph_work *w;
	const struct device_args *args; /* the work's, or `staged` */
	struct device_args staged;
	uint64_t staging_used;
	uint32_t in, out;	      /* masks of pointers that are staged */
	struct device_stream *behind; /* has or awaits all that was given; NULL: nothing was */
	bool replays, may_wait;
};

static uint64_t bytes_of(const struct giving *v, uint32_t pointer)
{
	const struct tensor *t = pointer < GPUQ_MAX_INPUTS
		? &v->w->call->in[pointer]
		: &v->w->call->out[pointer - GPUQ_MAX_INPUTS];
	uint64_t elements, bytes;

	return tensor_present(t) && tensor_size(t, &elements, &bytes) == 0 ? bytes : 0;
}

/* Whether a tensor in host memory is copied rather than used where it is. */
static bool is_staged(const struct giving *v, uint32_t pointer, uint64_t bytes)
{
	const struct pipeline *p = v->w->pipeline;

	if (v->replays && pointer < GPUQ_MAX_INPUTS && v->w->args.carried[pointer] != 0)
		return false;
	/* A copy would not be written back. */
	if (pointer < GPUQ_MAX_INPUTS && v->w->call->op->inputs[pointer].in_out)
		return false;
	return bytes >= v->g->options.stage_bytes ||
		(p != NULL && pointer < GPUQ_MAX_INPUTS &&
			pipeline_readers(p, pointer) >= STAGE_READERS);
}

/* Chooses what is staged, and where. */
static void choose_staged(struct giving *v)
{
	const struct graphs_options *o = &v->g->options;

	v->args = &v->w->args;
	if (v->w->in_host == 0 || o->stage_bytes == UINT64_MAX)
		return;
	for (uint32_t i = 0; i < GPUQ_MAX_TENSORS; i++) {
		const uint64_t bytes = (v->w->in_host & 1u << i) != 0 ? bytes_of(v, i) : 0;
		const uint64_t room = (bytes + PLAN_ALIGN - 1) / PLAN_ALIGN * PLAN_ALIGN;

		if (bytes == 0 || room > o->staging_bytes - v->staging_used ||
			!is_staged(v, i, bytes))
			continue;
		if ((v->in | v->out) == 0)
			v->staged = v->w->args;
		v->staged.pointers[i] = v->slot->staging + v->staging_used;
		v->staging_used += room;
		if (i < GPUQ_MAX_INPUTS)
			v->in |= 1u << i;
		else
			v->out |= 1u << i;
	}
	if ((v->in | v->out) != 0)
		v->args = &v->staged;
	if (v->out != 0) {
		v->staged.completion = v->slot->inner;
		v->staged.value = shm_load_relaxed(&v->slot->inner->word) + 1;
	}
}

static int copy_in(struct giving *v)
{
	struct graph_lane *lane = v->slot->lane;
	int err = 0;

	for (uint32_t i = 0; i < GPUQ_MAX_INPUTS && err == 0; i++) {
		if ((v->in & 1u << i) == 0)
			continue;
		err = device_copy(lane->copy_in, v->staged.pointers[i], v->w->args.pointers[i],
			bytes_of(v, i));
		if (err == 0)
			v->behind = lane->copy_in;
	}
	if (err == 0 && v->in != 0)
		err = device_event_record(v->slot->in_done, lane->copy_in);
	if (err == 0 && v->in != 0) {
		err = device_event_await(v->slot->in_done, lane->stream);
		if (err == 0)
			v->behind = lane->stream;
	}
	return err;
}

/* Copies results back, behind the kernels, and completes the work. */
static int copy_out(struct giving *v)
{
	struct graph_lane *lane = v->slot->lane;
	int err = device_event_record(v->slot->work_done, lane->stream);

	if (err == 0)
		err = device_event_await(v->slot->work_done, lane->copy_out);
	if (err == 0)
		v->behind = lane->copy_out;
	for (uint32_t i = GPUQ_MAX_INPUTS; i < GPUQ_MAX_TENSORS && err == 0; i++) {
		if ((v->out & 1u << i) != 0)
			err = device_copy(lane->copy_out, v->w->args.pointers[i],
				v->staged.pointers[i], bytes_of(v, i));
	}
	return err == 0 ? device_signal(lane->copy_out, &v->w->args) : err;
}

/* --- Launching ------------------------------------------------------------------------------ */

static int launch_kernel(const struct giving *v, const struct plan_kernel *planned, bool is_last)
{
	const struct device_kernel kernel = plan_device_kernel(planned, is_last);
	const struct timespec nap = {.tv_nsec = 20000};
	int err = device_launch(v->slot->lane->stream, &kernel, v->args);

	while (err == -EAGAIN && v->may_wait) {
		nanosleep(&nap, NULL);
		err = device_launch(v->slot->lane->stream, &kernel, v->args);
	}
	return err;
}

static int launch(struct giving *v, const struct plan *plan, struct graph_exec *exec)
{
	struct device_stream *stream = v->slot->lane->stream;
	int err = 0;

	if (plan == NULL) {
		err = device_exec_launch(exec->exec, stream, v->args);
		if (err == 0)
			v->behind = stream;
	}
	for (uint32_t i = 0; plan != NULL && i < plan->n_kernels && err == 0; i++) {
		err = launch_kernel(v, &plan->kernels[i], i + 1 == plan->n_kernels);
		if (err == 0)
			v->behind = stream;
	}
	return err;
}

/* Something failed: the work ends behind what has been given already. */
static int end_badly(struct giving *v, int err)
{
	if (v->behind == NULL)
		return err;
	v->w->completion->status = err;
	return device_signal(v->behind, &v->w->args) == 0 ? 0 : -GPUQ_EDEVICE;
}

int lane_launch(struct graphs *g, struct graph_slot *slot, struct graph_work *w, struct plan *plan,
	struct graph_exec *exec, bool may_wait)
{
	struct giving v = {
		.g = g, .slot = slot, .w = w, .replays = plan == NULL, .may_wait = may_wait};
	int err = 0;

	/* The end may be seen by another thread before this returns. */
	shm_store_relaxed(&slot->busy, 1);
	w->slot = slot;
	w->completion->status = 0;
	choose_staged(&v);
	if (v.in != 0)
		err = copy_in(&v);
	if (err == 0)
		err = launch(&v, plan, exec);
	if (err == 0 && v.out != 0)
		err = copy_out(&v);
	if (err != 0)
		err = end_badly(&v, err);
	if (err != 0) {
		w->slot = NULL;
		shm_store_release(&slot->busy, 0);
	}
	return graphs_saw(g, err);
}
