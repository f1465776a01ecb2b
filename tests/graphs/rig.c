/* SPDX-License-Identifier: MIT */
/* A graph cache under test, and tasks that know their results. */
#include "tests/harness.h"

#include "kernels/kv.h"
#include "kernels/ops.h"
#include "tests/graphs/rig.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define PATIENCE_S 15u

static struct random rng = {42};

/* --- Rigs ----------------------------------------------------------------------------------- */

struct rig *rig_prepare(const char *faults)
{
	struct rig *rig = calloc(1, sizeof(*rig));
	struct device_options device = {.kind = "cpu", .workers = 2, .faults = faults};
	char why[192];

	assert_non_null(rig);
	rig->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	device.wake_fd = rig->wake_fd;
	rig->options = (struct graphs_options){
		.stats = &rig->stats,
		.records = rig->records,
		.max_graphs = RIG_GRAPHS,
		.captures = rig->captures,
		.max_captures = RIG_CAPTURES,
		.budget_bytes = 64u << 20,
		.scratch_bytes = 1u << 20,
		.lanes = 4,
		.promote_uses = 2,
		.promote_window_ns = 600 * RIG_SECOND_NS,
		.direct_kernels = 0,
		.stage_bytes = UINT64_MAX,
		.wake_fd = rig->wake_fd,
	};
	assert_int_equal(device_open(&device, &rig->options.device, why), 0);
	return rig;
}

void rig_start(struct rig *rig)
{
	assert_int_equal(graphs_create(&rig->options, &rig->g, rig->why), 0);
}

struct rig *rig_new(const char *faults)
{
	struct rig *rig = rig_prepare(faults);

	rig_start(rig);
	assert_string_equal(rig->why, "");
	return rig;
}

void rig_free(struct rig *rig)
{
	graphs_destroy(rig->g);
	device_close(rig->options.device);
	close(rig->wake_fd);
	free(rig);
}

void rig_restart(struct rig *rig)
{
	graphs_destroy(rig->g);
	rig->g = NULL;
	memset(&rig->stats, 0, sizeof(rig->stats));
	rig_start(rig);
}

static void pause_until(uint64_t until_ns)
{
	assert_true(clock_monotonic_ns() < until_ns);
	usleep(200);
}

static uint64_t patience(void)
{
	return clock_monotonic_ns() + PATIENCE_S * harness_slowness() * RIG_SECOND_NS;
}

void rig_await(const uint64_t *word, uint64_t value)
{
	const uint64_t until_ns = patience();

	while (shm_load_acquire(word) < value)
		pause_until(until_ns);
}

/* --- Tasks ---------------------------------------------------------------------------------- */

static float *floats(uint64_t n, bool random)
{
	float *data = aligned_alloc(256, (n * sizeof(float) + 255) / 256 * 256 + 256);

	assert_non_null(data);
	for (uint64_t i = 0; i < n; i++)
		data[i] = random ? (float)(random_unit(&rng) - 0.5) : 0;
	return data;
}

static void run_now(const struct op_call *call)
{
	call->op->cpu(call, 0, call->op->units(call));
}

/* The results of a pipeline, every tensor in memory of its own. */
static void expect_pipeline(struct task *t)
{
	struct tensor tensors[PIPELINE_MAX_TENSORS];
	uint32_t n_tensors, n_steps, arg;
	const struct pipeline_step *steps = pipeline_steps(t->pipeline, &n_steps);
	const uint32_t n_inputs = t->call.op->n_inputs, n_outputs = t->call.op->n_outputs;
	float *inner[PIPELINE_MAX_TENSORS] = {NULL};

	pipeline_tensors(t->pipeline, tensors, &n_tensors);
	memcpy(tensors, t->call.in, n_inputs * sizeof(tensors[0]));
	for (uint32_t i = n_inputs; i < n_tensors; i++)
		inner[i] = floats(1u << 16, false);
	for (uint32_t i = 0; i < n_steps; i++) {
		struct op_call call;

		assert_int_equal(pipeline_check_step(&steps[i], tensors, &call, &arg), 0);
		call.out[0].data = inner[steps[i].out[0]];
		run_now(&call);
		tensors[steps[i].out[0]].data = inner[steps[i].out[0]];
	}
	for (uint32_t i = 0; i < n_outputs; i++)
		memcpy(t->expected[i], inner[n_inputs + i], t->lengths[8 + i] * sizeof(float));
	for (uint32_t i = 0; i < n_tensors; i++)
		free(inner[i]);
}

static void expect(struct task *t)
{
	struct op_call call = t->call;

	if (t->pipeline != NULL) {
		expect_pipeline(t);
		return;
	}
	for (uint32_t i = 0; i < call.op->n_outputs; i++)
		call.out[i].data = t->expected[i];
	run_now(&call);
}

/* The call's shapes are there; gives it memory. */
static struct task *finish_task(struct rig *rig, struct task *t)
{
	void *completion;
	uint64_t bytes;

	for (uint32_t i = 0; i < GPUQ_MAX_TENSORS; i++) {
		struct tensor *x =
			i < GPUQ_MAX_INPUTS ? &t->call.in[i] : &t->call.out[i - GPUQ_MAX_INPUTS];

		if (!tensor_present(x))
			continue;
		/* Integers are 0; both have 4 bytes. */
		assert_int_equal(tensor_size(x, &t->lengths[i], &bytes), 0);
		t->data[i] = floats(t->lengths[i], i < GPUQ_MAX_INPUTS && x->dtype == GPUQ_F32);
		x->data = t->data[i];
		t->w.in_host |= 1u << i;
		if (i >= GPUQ_MAX_INPUTS)
			t->expected[i - GPUQ_MAX_INPUTS] = floats(t->lengths[i], false);
	}
	expect(t);
	assert_int_equal(device_alloc(rig->options.device, DEVICE_PINNED, sizeof(*t->completion),
				 &completion),
		0);
	t->completion = completion;
	memset(t->completion, 0, sizeof(*t->completion));
	op_args(&t->w.args, &t->call);
	t->w.args.completion = t->completion;
	t->w.completion = t->completion;
	t->w.call = &t->call;
	t->w.pipeline = t->pipeline;
	t->w.priority = 1;
	t->w.uid = 1000;
	return t;
}

static struct tensor shape(uint64_t rows, uint64_t columns)
{
	return (struct tensor){.dtype = GPUQ_F32, .rank = 2, .dims = {rows, columns}};
}

static struct task *new_task(const struct op *op)
{
	struct task *t = calloc(1, sizeof(*t));

	assert_non_null(t);
	t->call.op = op;
	return t;
}

struct task *task_softmax(struct rig *rig, uint64_t b, uint64_t d)
{
	struct task *t = new_task(&op_softmax);

	t->call.in[0] = shape(b, d);
	t->call.out[0] = shape(b, d);
	t->call.params[0].f64 = 0.5 + random_unit(&rng);
	return finish_task(rig, t);
}

struct task *task_gemv(struct rig *rig, uint64_t b, uint64_t i, uint64_t o)
{
	struct task *t = new_task(&op_gemv_batched);

	t->call.in[0] = shape(b, i);
	t->call.in[1] = shape(o, i);
	t->call.out[0] = shape(b, o);
	return finish_task(rig, t);
}

struct task *task_kv_append(struct rig *rig)
{
	struct task *t = new_task(&op_kv_append);
	uint32_t arg;

	t->call.in[0] = shape(1, 48);
	t->call.in[1] = t->call.in[2] = (struct tensor){.dtype = GPUQ_I32, .rank = 1, .dims = {1}};
	t->call.in[3] = (struct tensor){.dtype = GPUQ_I32, .rank = 2, .dims = {1, 1}};
	t->call.in[4] =
		(struct tensor){.dtype = GPUQ_F32, .rank = 5, .dims = {2, 2, 1, KV_TOKENS, 16}};
	t->call.out[0] = (struct tensor){.dtype = GPUQ_F32, .rank = UINT32_MAX};
	for (uint32_t i = 0; i < op_kv_append.n_params; i++) {
		if (op_kv_append.params[i].type == GPUQ_PARAM_I64)
			t->call.params[i].i64 = (int64_t)op_kv_append.params[i].preset;
		else
			t->call.params[i].f64 = op_kv_append.params[i].preset;
	}
	assert_int_equal(op_check(&t->call, &arg), 0);
	return finish_task(rig, t);
}

struct task *task_pipeline(struct rig *rig, struct pipeline *p, uint64_t rows, uint64_t out_columns)
{
	struct task *t = new_task(pipeline_op(p));
	struct tensor tensors[PIPELINE_MAX_TENSORS];
	uint32_t n;

	t->pipeline = pipeline_ref(p);
	pipeline_tensors(p, tensors, &n);
	memcpy(t->call.in, tensors, t->call.op->n_inputs * sizeof(tensors[0]));
	t->call.in[0].dims[0] = rows;
	for (uint32_t i = 0; i < t->call.op->n_outputs; i++)
		t->call.out[i] = shape(rows, out_columns);
	return finish_task(rig, t);
}

struct pipeline *rig_pipeline(struct rig *rig, struct definition *d)
{
	char why[PIPELINE_MAX_WHY];
	int err;
	struct pipeline *p = definition_create(d, &err, why);

	assert_non_null(p);
	free(d);
	p = graphs_intern(rig->g, p);
	assert_non_null(p);
	return p;
}

void task_free(struct rig *rig, struct task *t)
{
	for (uint32_t i = 0; i < GPUQ_MAX_TENSORS; i++)
		free(t->data[i]);
	for (uint32_t i = 0; i < GPUQ_MAX_OUTPUTS; i++)
		free(t->expected[i]);
	device_free(rig->options.device, DEVICE_PINNED, t->completion);
	pipeline_unref(t->pipeline);
	free(t);
}

/* --- Running -------------------------------------------------------------------------------- */

int task_launch(struct rig *rig, struct task *t)
{
	for (uint32_t i = 0; i < t->call.op->n_outputs; i++)
		memset(t->data[GPUQ_MAX_INPUTS + i], 0xee, t->lengths[8 + i] * sizeof(float));
	t->w.args.value++;
	t->completion->status = 0;
	/* Some callers know it, others do not: it is the same shape. */
	t->w.key = t->w.args.value % 2 == 0 ? graphs_key(&t->call) : 0;
	return graphs_launch(rig->g, &t->w);
}

int task_precapture(struct rig *rig, struct task *t)
{
	t->w.args.value++;
	return graphs_precapture(rig->g, &t->w);
}

bool task_done(const struct task *t)
{
	return device_done(t->completion, t->w.args.value);
}

int task_wait(struct rig *rig, struct task *t)
{
	const uint64_t until_ns = patience();
	int status;

	while (!task_done(t))
		pause_until(until_ns);
	status = (int)t->completion->status;
	if (status == 0 && !t->w.precapture) {
		for (uint32_t i = 0; i < t->call.op->n_outputs; i++)
			assert_memory_equal(t->data[GPUQ_MAX_INPUTS + i], t->expected[i],
				t->lengths[8 + i] * sizeof(float));
	}
	(void)graphs_finish(rig->g, &t->w, graphs_now_ns(rig->g));
	return status;
}

int task_run(struct rig *rig, struct task *t)
{
	const uint64_t until_ns = patience();
	int err = task_launch(rig, t);

	while (err == -EAGAIN) {
		pause_until(until_ns);
		err = task_launch(rig, t);
	}
	return err == 0 ? task_wait(rig, t) : err;
}

struct stats_graph *task_record(struct rig *rig, const struct task *t)
{
	struct graph_entry *e =
		table_find(rig->g, &t->call, graphs_key(&t->call) & rig->g->hash_mask);

	return e == NULL ? NULL : e->record;
}

uint32_t task_state(struct rig *rig, const struct task *t)
{
	const struct stats_graph *r = task_record(rig, t);

	return r == NULL ? 0 : shm_load_acquire_u32(&r->state);
}

void task_await_state(struct rig *rig, const struct task *t, uint32_t state)
{
	const uint64_t until_ns = patience();

	while (task_state(rig, t) != state)
		pause_until(until_ns);
}

void task_heat(struct rig *rig, struct task *t)
{
	uint64_t hits;

	for (uint32_t i = 0; i < rig->options.promote_uses; i++)
		assert_int_equal(task_run(rig, t), 0);
	task_await_state(rig, t, MSG_GRAPH_CAPTURED);
	hits = seen(&task_record(rig, t)->hits);
	assert_int_equal(task_run(rig, t), 0);
	assert_int_equal(seen(&task_record(rig, t)->hits), hits + 1);
}
