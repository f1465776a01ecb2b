/* SPDX-License-Identifier: MIT */
/*
 * Makes an executable of a shape: a warm-up run, a recording, an executable, its upload. Nothing
 * of this touches what serves: the warm-up has scratch memory and tensors of its own, and streams
 * of its own are recorded, which no other thread knows.
 */
#include "graphs/impl.h"

#include <stdlib.h>
#include <string.h>

/*
 * Kernels that run to their end before others; the capture may be given up between steps. Who is
 * served meanwhile may have to wait for each step, but not for all.
 */
#define WARM_UP_STEP 2u
#define WARM_UP_PATIENCE_NS 50000000u /* so long a warm-up gives way to everything */

/*
 * Recorded kernels keep the priority of the stream that they were recorded in, so there is one for
 * each class of lanes; warm-up runs come after everything else, unless they take too long.
 */
int record_init(struct graphs *g)
{
	struct device *device = g->options.device;
	int err = device_stream_create(device, DEVICE_PRIORITY_LOW, &g->warm_streams[0]);

	if (err == 0)
		err = device_stream_create(device, DEVICE_PRIORITY_NORMAL, &g->warm_streams[1]);
	if (err == 0)
		err = device_stream_create(device, DEVICE_PRIORITY_HIGH, &g->capture_streams[0]);
	if (err == 0)
		err = device_stream_create(device, DEVICE_PRIORITY_NORMAL, &g->capture_streams[1]);
	if (err == 0)
		err = device_alloc(device, DEVICE_WORK, g->options.scratch_bytes, &g->warm_scratch);
	if (err == 0)
		err = device_alloc(device, DEVICE_WORK, g->options.scratch_bytes, &g->warm_tensors);
	return err;
}

void record_destroy(struct graphs *g)
{
	for (uint32_t i = 0; i < 2; i++) {
		if (g->warm_streams[i] != NULL && shm_load_relaxed(&g->failed) == 0)
			(void)device_stream_wait(g->warm_streams[i]);
		device_stream_destroy(g->warm_streams[i]);
	}
	while (g->lost != NULL) {
		struct plan *plan = g->lost;

		g->lost = plan->next;
		plan_destroy(plan);
	}
	device_stream_destroy(g->capture_streams[0]);
	device_stream_destroy(g->capture_streams[1]);
	device_free(g->options.device, DEVICE_WORK, g->warm_scratch);
	device_free(g->options.device, DEVICE_WORK, g->warm_tensors);
}

static int launch(struct device_stream *stream, const struct plan_kernel *planned,
	const struct device_args *args, bool signal)
{
	const struct device_kernel kernel = {
		.code = op_code(planned->launch.call.op),
		.shape = &planned->launch,
		.shape_bytes = sizeof(planned->launch),
		.signal = signal,
		.units = planned->units,
		.predicted_ns = planned->predicted_ns,
	};

	return device_launch(stream, &kernel, args);
}

/* --- Warming up ----------------------------------------------------------------------------- */

static uint64_t room_of(const struct tensor *t)
{
	uint64_t elements, bytes;

	if (!tensor_present(t) || tensor_size(t, &elements, &bytes) != 0)
		return 0;
	return bytes > PLAN_MAX_BYTES ? PLAN_MAX_BYTES : (bytes + PLAN_ALIGN - 1) & -PLAN_ALIGN;
}

/*
 * Stand-ins for the tensors of the call: those that are only read share one place, those that are
 * written have one each.
 */
static bool stand_in(
	struct graphs *g, const struct op_call *call, struct device_args *args, uint64_t *ret_bytes)
{
	uint64_t used = 0;

	for (uint32_t i = 0; i < call->op->n_inputs; i++) {
		const uint64_t room = room_of(&call->in[i]);

		args->pointers[i] = room == 0 ? NULL : g->warm_tensors;
		used = room > used ? room : used;
	}
	for (uint32_t i = 0; i < GPUQ_MAX_TENSORS; i++) {
		const bool is_input = i < GPUQ_MAX_INPUTS;
		const uint64_t room =
			room_of(is_input ? &call->in[i] : &call->out[i - GPUQ_MAX_INPUTS]);

		if (room == 0 || (is_input && !call->op->inputs[i].in_out))
			continue;
		args->pointers[i] = (char *)g->warm_tensors + used;
		used += room;
	}
	for (uint32_t i = 0; i < call->op->n_params; i++) {
		const struct op_param *spec = &call->op->params[i];
		const union op_value preset = spec->type == GPUQ_PARAM_I64
			? (union op_value){.i64 = (int64_t)spec->preset}
			: (union op_value){.f64 = spec->preset};

		memcpy(&args->scalars[i], &preset, sizeof(preset));
	}
	*ret_bytes = used;
	return used <= g->options.scratch_bytes;
}

/* Runs some of the kernels, from the first-th on, to their end. *ret_running: they have none. */
static int warm_up_step(struct device_stream *stream, const struct plan *plan, uint32_t first,
	const struct device_args *args, bool *ret_running)
{
	int err = 0, wait_err;

	for (uint32_t i = first; i < plan->n_kernels && i < first + WARM_UP_STEP && err == 0; i++)
		err = launch(stream, &plan->kernels[i], args, false);
	wait_err = device_stream_wait(stream);
	*ret_running = wait_err != 0;
	return err != 0 ? err : wait_err;
}

/*
 * Runs the kernels once, so that whatever a driver does at a first launch is done. Tensors too
 * large for the stand-ins, or for the scratch memory kept for this, are not worth it: their kernels
 * are loaded all the same. It goes in
 * steps, since nobody may want it any more (*why is NULL then); when it takes too long it no longer
 * gives way to all. The plan is being read as long as *ret_running.
 */
static int warm_up(struct graphs *g, const struct graph_entry *e, const struct plan *plan,
	bool *ret_running, const char **why)
{
	const uint64_t begin_ns = graphs_now_ns(g);
	struct device_args args = {0};
	uint64_t bytes;
	int err = 0;

	if (!stand_in(g, &e->call, &args, &bytes) || plan->predicted_ns > g->warm_up_max_ns)
		return 0;
	if (bytes > 0)
		err = device_fill(g->warm_streams[0], g->warm_tensors, 0, bytes);
	for (uint32_t i = 0; i < plan->n_kernels && err == 0; i += WARM_UP_STEP) {
		const bool late = graphs_now_ns(g) - begin_ns > WARM_UP_PATIENCE_NS;

		/* The fill is before all: the first step is never late enough to overtake it. */
		err = warm_up_step(g->warm_streams[i > 0 && late], plan, i, &args, ret_running);
		if (err == 0 && capture_unwanted(g, e)) {
			*why = NULL;
			err = -ECANCELED;
		}
	}
	return err;
}

/* --- Recording ------------------------------------------------------------------------------ */

static int record_plan(
	struct device_stream *stream, const struct plan *plan, struct device_graph **ret_graph)
{
	int err = device_capture_begin(stream), end;

	if (err != 0)
		return err;
	for (uint32_t i = 0; i < plan->n_kernels && err == 0; i++)
		err = launch(stream, &plan->kernels[i], NULL, i + 1 == plan->n_kernels);
	end = device_capture_end(stream, ret_graph);
	if (err != 0 && end == 0)
		device_graph_destroy(*ret_graph);
	return err != 0 ? err : end;
}

static int make_exec(struct graphs *g, const struct device_graph *graph,
	struct device_stream *stream, struct graph_exec *exec, const char **why)
{
	int err;

	*why = "making the executable";
	err = device_exec_create(g->options.device, graph, &exec->exec);
	if (err != 0)
		return err;
	*why = "uploading the executable";
	err = device_exec_upload(exec->exec, stream);
	if (err == 0)
		err = device_stream_wait(stream);
	if (err != 0) {
		device_exec_destroy(exec->exec);
		return err;
	}
	exec->bytes += device_exec_bytes(exec->exec);
	return 0;
}

static int record_exec(struct graphs *g, const struct plan *plan, uint32_t lane,
	struct graph_exec *exec, const char **why)
{
	struct device_stream *stream = g->capture_streams[lane < g->n_high ? 0 : 1];
	struct device_graph *graph;
	int err;

	*why = "recording";
	pthread_rwlock_wrlock(&g->quiet);
	err = record_plan(stream, plan, &graph);
	pthread_rwlock_unlock(&g->quiet);
	if (err != 0)
		return err;
	err = make_exec(g, graph, stream, exec, why);
	device_graph_destroy(graph);
	return err;
}

static bool records_badly(struct graphs *g, const struct plan *plan)
{
	bool badly = false;

	for (uint32_t i = 0; i < plan->n_kernels && !badly; i++) {
		const struct device_kernel kernel = plan_device_kernel(&plan->kernels[i], false);

		badly = device_records_badly(g->options.device, &kernel);
	}
	return badly;
}

int record_make(struct graphs *g, const struct graph_entry *e, uint32_t lane,
	struct graph_exec **ret_exec, uint32_t *ret_kernels, const char **why)
{
	struct graph_exec *exec = NULL;
	bool running = false;
	struct plan *plan;
	uint64_t bytes;
	void *scratch = scratch_of(g, e->pipeline, &g->lanes[lane], &bytes);
	uint32_t blame;
	int err;

	*why = "planning";
	err = plan_create(e->pipeline, &e->call, scratch, g->options.cost, &plan, &blame);
	if (err != 0)
		return err;
	if (plan->scratch_bytes > bytes)
		err = -GPUQ_ELIMIT;
	else if (records_badly(g, plan))
		err = 1;
	if (err == 0) {
		exec = calloc(1, sizeof(*exec));
		err = exec == NULL ? -ENOMEM : 0;
	}
	/* The definition lives as long as the executable, whoever has registered it. */
	if (err == 0 && e->pipeline != NULL)
		(void)pipeline_blob(e->pipeline, &exec->bytes);
	*ret_kernels = plan->n_kernels;
	if (err == 0 && plan->scratch_bytes <= g->options.scratch_bytes) {
		*why = "the warm-up run";
		plan_move(plan, scratch, g->warm_scratch);
		err = warm_up(g, e, plan, &running, why);
		if (err == 0)
			plan_move(plan, g->warm_scratch, scratch);
	}
	if (err == 0) {
		device_range_begin(g->options.device, "capture", e->call.op->name);
		err = record_exec(g, plan, lane, exec, why);
		device_range_end(g->options.device);
	}
	if (running) {
		plan->next = g->lost;
		g->lost = plan;
	} else {
		plan_destroy(plan);
	}
	if (err == 0)
		*ret_exec = exec;
	else
		free(exec);
	return err;
}
