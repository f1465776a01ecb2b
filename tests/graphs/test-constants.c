/* SPDX-License-Identifier: MIT */
/*
 * Pipelines of gpuqd's own: constants keep their addresses in cold and captured launches, nothing
 * of them outlives their registration, and no other process hears of them.
 */
#include "tests/harness.h"

#include "graphs/plan.h"
#include "tests/graphs/rig.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define COLUMNS 128u
#define BYTES (2u * COLUMNS * COLUMNS * sizeof(float))

static struct random rng = {7};

/* Two matrices in memory of their own: a mapping, so that a late reader is killed. */
static float *new_weights(void)
{
	float *w = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(w, MAP_FAILED);
	for (uint32_t i = 0; i < BYTES / sizeof(float); i++)
		w[i] = (float)(random_unit(&rng) - 0.5);
	return w;
}

static void free_weights(float *w)
{
	assert_int_equal(munmap(w, BYTES), 0);
}

/* Tensors of other ranks than definition_tensor() makes. */
static void definition_vector(struct definition *d, const char *name, uint64_t n)
{
	struct wire_pipeline_tensor *t = &d->tensors[definition_tensor(d, name, GPUQ_I32, n, 0)];

	t->rank = 1;
}

static void definition_cache(struct definition *d, const char *name)
{
	static const uint64_t dims[] = {2, 2, 1, 16, 16};
	struct wire_pipeline_tensor *t = &d->tensors[definition_tensor(d, name, GPUQ_F32, 0, 0)];

	t->rank = 5;
	memcpy(t->dims, dims, sizeof(dims));
}

/* x -> gemv with the one matrix -> softmax -> gemv with the other -> y */
static struct definition *weighted_of(uint64_t columns)
{
	struct definition *d = definition_new("weighted", 1, 1);
	const uint16_t x = definition_tensor(d, "x", GPUQ_F32, 4, columns);
	const uint16_t y = definition_tensor(d, "y", GPUQ_F32, 0, 0);
	const uint16_t w1 = definition_tensor(d, "w1", GPUQ_F32, columns, columns);
	const uint16_t w2 = definition_tensor(d, "w2", GPUQ_F32, columns, columns);
	const uint16_t hidden = definition_tensor(d, "hidden", GPUQ_F32, 0, 0);
	const uint16_t gates = definition_tensor(d, "gates", GPUQ_F32, 0, 0);

	definition_step(d, "gemv_batched", x, w1, hidden);
	definition_step(d, "softmax", hidden, WIRE_PIPELINE_NONE, gates);
	definition_step(d, "gemv_batched", gates, w2, y);
	return d;
}

static struct definition *weighted(void)
{
	return weighted_of(COLUMNS);
}

static int create(struct definition *d, float *weights, struct pipeline **ret_pipeline, char *why)
{
	void *constants[] = {weights, weights + COLUMNS * COLUMNS};

	definition_pack(d);
	return pipeline_create_internal(d->blob, d->bytes, constants, 2, ret_pipeline, why);
}

static struct pipeline *registered(struct rig *rig, float *weights)
{
	struct definition *d = weighted();
	char why[PIPELINE_MAX_WHY];
	struct pipeline *p;

	if (create(d, weights, &p, why) != 0)
		fail_msg("%s", why);
	free(d);
	p = graphs_intern(rig->g, p);
	assert_non_null(p);
	return p;
}

static void test_constants_are_no_inputs(void **state)
{
	float *weights = new_weights();
	struct tensor tensors[PIPELINE_MAX_TENSORS];
	struct definition *d = weighted();
	struct pipeline *p, *twin;
	char why[PIPELINE_MAX_WHY];
	uint32_t n;

	assert_int_equal(create(d, weights, &p, why), 0);
	assert_int_equal(create(d, weights, &twin, why), 0);
	assert_int_equal(pipeline_op(p)->n_inputs, 1);
	assert_int_equal(pipeline_op(p)->n_outputs, 1);
	pipeline_tensors(p, tensors, &n);
	assert_int_equal(n, 6);
	assert_ptr_equal(tensors[2].data, weights);
	assert_ptr_equal(tensors[3].data, weights + COLUMNS * COLUMNS);
	assert_int_equal(tensors[3].dims[1], COLUMNS);
	assert_int_equal(tensors[4].rank, UINT32_MAX);
	assert_true(pipeline_has_constants(p));
	assert_false(pipeline_equal(p, twin));
	assert_false(pipeline_equal(p, p));
	pipeline_unref(p);
	pipeline_unref(twin);
	free(d);
	free_weights(weights);
}

/* Kernels may read them and the inputs early. */
static void test_constants_may_be_read_early(void **state)
{
	static char place[256] __attribute__((aligned(256)));
	struct definition *d = weighted_of(512);
	void *constants[] = {place, place + 16};
	struct op_call call = {0};
	const struct plan_kernel *k;
	char why[PIPELINE_MAX_WHY];
	struct pipeline *p;
	struct plan *plan;
	uint32_t blame;

	definition_pack(d);
	assert_int_equal(pipeline_create_internal(d->blob, d->bytes, constants, 2, &p, why), 0);
	call.op = pipeline_op(p);
	call.in[0] = (struct tensor){.dtype = GPUQ_F32, .rank = 2, .dims = {4, 512}};
	call.out[0] = (struct tensor){.dtype = GPUQ_F32, .rank = UINT32_MAX};
	assert_int_equal(plan_create(p, &call, place, NULL, &plan, &blame), 0);
	k = plan->kernels;
	assert_int_equal(k[0].launch.constants, 1u << 0 | 1u << 1);
	assert_int_equal(k[1].launch.constants, 0);
	assert_int_equal(k[2].launch.constants, 1u << 1);
	plan_destroy(plan);
	pipeline_unref(p);
	free(d);
}

/* What a step writes is no constant to those that read it. */
static void test_constants_that_are_written(void **state)
{
	static char place[256] __attribute__((aligned(256)));
	struct definition *d = definition_new("cached", 4, 1);
	void *constants[] = {place};
	struct wire_pipeline_step *step;
	char why[PIPELINE_MAX_WHY];
	struct tensor tensors[PIPELINE_MAX_TENSORS];
	struct op_call call = {0};
	struct pipeline *p;
	struct plan *plan;
	uint32_t n, blame;

	definition_tensor(d, "qkv", GPUQ_F32, 1, 3 * 16);
	definition_vector(d, "positions", 1);
	definition_vector(d, "rows", 1);
	definition_tensor(d, "table", GPUQ_I32, 1, 1);
	definition_tensor(d, "q", GPUQ_F32, 0, 0);
	definition_cache(d, "cache");
	step = definition_step(d, "kv_append", 0, 1, 4);
	step->in[2] = 2;
	step->in[3] = 3;
	step->in[4] = 5;
	definition_pack(d);
	assert_int_equal(pipeline_create_internal(d->blob, d->bytes, constants, 1, &p, why), 0);
	pipeline_tensors(p, tensors, &n);
	call.op = pipeline_op(p);
	memcpy(call.in, tensors, 4 * sizeof(tensors[0]));
	call.out[0] = (struct tensor){.dtype = GPUQ_F32, .rank = UINT32_MAX};
	assert_int_equal(plan_create(p, &call, place, NULL, &plan, &blame), 0);
	assert_int_equal(plan->kernels[0].launch.in[4], OP_FIXED);
	assert_int_equal(plan->kernels[0].launch.constants, 0xf);
	plan_destroy(plan);
	pipeline_unref(p);
	free(d);
}

static void refused(struct definition *d, const char *words)
{
	float *weights = new_weights();
	struct pipeline *p = NULL;
	char why[PIPELINE_MAX_WHY] = "";

	assert_int_equal(create(d, weights, &p, why), -GPUQ_EPIPELINE);
	assert_null(p);
	if (strstr(why, words) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", why, words);
	free(d);
	free_weights(weights);
}

static void test_constants_refusals(void **state)
{
	struct definition *d = weighted();
	const struct wire_pipeline_step first = d->steps[0];

	d->steps[0] = d->steps[1];
	d->steps[1] = first;
	refused(d, "Step 0 (softmax) comes before a step whose result it reads");
	d = weighted();
	d->steps[1].out[0] = 2;
	refused(d, "Step 1 (softmax) writes tensor 2 (w1), a constant");
	d = weighted();
	d->head.n_tensors = 3;
	refused(d, "at least one step");
}

/* Each task compares bit by bit; weights are read when it runs, not when it is captured. */
static void test_constants_cold_and_captured(void **state)
{
	struct rig *rig = rig_new(NULL);
	float *weights[] = {new_weights(), new_weights()};
	struct pipeline *p[] = {registered(rig, weights[0]), registered(rig, weights[1])};
	struct task *tasks[4];

	assert_ptr_not_equal(p[0], p[1]);
	for (uint32_t i = 0; i < 4; i++) {
		tasks[i] = task_pipeline(rig, p[i % 2], 3 + i, COLUMNS);
		task_heat(rig, tasks[i]);
	}
	assert_non_null(strstr(task_record(rig, tasks[0])->shape, "weighted x[3,128]f32 -> y"));
	for (uint32_t i = 0; i < 4; i++) {
		assert_int_equal(task_run(rig, tasks[i]), 0);
		task_free(rig, tasks[i]);
	}
	weights[0][5] += 1;
	tasks[0] = task_pipeline(rig, p[0], 3, COLUMNS);
	assert_int_equal(task_run(rig, tasks[0]), 0);
	assert_true(seen(&task_record(rig, tasks[0])->hits) > 0);
	task_free(rig, tasks[0]);
	for (uint32_t i = 0; i < 2; i++) {
		graphs_release(rig->g, p[i]);
		free_weights(weights[i]);
	}
	rig_free(rig);
}

static void await_forgotten(const struct stats_graph *records)
{
	for (uint32_t i = 0; i < RIG_GRAPHS; i++) {
		while (shm_load_acquire_u32(&records[i].state) != 0)
			sched_yield();
	}
}

/* Captured, pinned, cold: nothing stays. */
static void test_constants_release_forgets(void **state)
{
	struct rig *rig = rig_new(NULL);
	float *weights = new_weights();
	struct pipeline *p = registered(rig, weights);
	struct task *tasks[3];

	for (uint32_t i = 0; i < 3; i++)
		tasks[i] = task_pipeline(rig, p, 1 + i, COLUMNS);
	task_heat(rig, tasks[0]);
	task_heat(rig, tasks[1]);
	assert_int_equal(task_run(rig, tasks[2]), 0);
	assert_int_equal(graphs_pin(rig->g, task_record(rig, tasks[1])->id, true), 0);
	for (uint32_t i = 0; i < 3; i++)
		task_free(rig, tasks[i]);
	graphs_release(rig->g, p);
	free_weights(weights);
	await_forgotten(rig->records);
	/* Executables end a little later than their shapes. */
	while (seen(&rig->stats.graph_bytes) != 0)
		sched_yield();
	rig_free(rig);
}

/* Whatever the capture thread is doing, it does not read weights that are gone. */
static void test_constants_release_during_captures(void **state)
{
	struct rig *rig = rig_new(NULL);

	for (uint32_t round = 0; round < 20; round++) {
		float *weights = new_weights();
		struct pipeline *p = registered(rig, weights);
		/* So large that a warm-up takes some time. */
		struct task *t = task_pipeline(rig, p, 450 + round, COLUMNS);

		assert_int_equal(task_run(rig, t), 0);
		assert_int_equal(task_run(rig, t), 0);
		while (task_state(rig, t) != MSG_GRAPH_CAPTURING &&
			task_state(rig, t) != MSG_GRAPH_CAPTURED)
			sched_yield();
		graphs_release(rig->g, p);
		free_weights(weights);
		task_free(rig, t);
	}
	await_forgotten(rig->records);
	rig_free(rig);
}

/* An operator's shape is kept, the pipeline's is not. */
static void test_constants_are_not_in_the_hot_list(void **state)
{
	struct rig *rig = rig_prepare(NULL);
	float *weights = new_weights();
	struct pipeline *p;
	struct task *t, *softmax;
	char path[256];

	snprintf(path, sizeof(path), "%s/hot.json", harness_tmpdir());
	rig->options.hot_list = path;
	rig_start(rig);
	p = registered(rig, weights);
	t = task_pipeline(rig, p, 4, COLUMNS);
	softmax = task_softmax(rig, 3, 8);
	task_heat(rig, t);
	task_heat(rig, softmax);
	task_free(rig, t);
	graphs_release(rig->g, p);
	p = registered(rig, weights);
	t = task_pipeline(rig, p, 4, COLUMNS);
	task_heat(rig, t);
	rig_restart(rig);
	assert_string_equal(rig->why, "");
	rig_await(&rig->stats.graph_captures, 1);
	assert_string_equal(rig->records[0].shape, "softmax x[3,8]f32 -> y[3,8]f32");
	assert_int_equal(seen(&rig->records[1].id), 0);
	task_free(rig, t);
	task_free(rig, softmax);
	pipeline_unref(p);
	rig_free(rig);
	free_weights(weights);
}

/* --- Constants that steps write ------------------------------------------------------------- */

#define HEAD 8u /* columns of a head; one of queries, one of keys and values */

/* Indices name the second block of a cache of two. */
struct paged {
	float cache[2 * 2 * 16 * HEAD], w[HEAD * HEAD];
	int32_t positions, rows, table;
	uint8_t context[16];
};

static uint16_t constant(struct definition *d, const char *name, uint32_t dtype, uint32_t rank,
	uint64_t rows, uint64_t columns)
{
	const uint16_t number = definition_tensor(d, name, dtype, rows, columns);

	d->tensors[number].rank = rank;
	return number;
}

static uint16_t add_append(struct definition *d, uint16_t qkv, uint16_t cache)
{
	const uint16_t q = definition_tensor(d, "q", GPUQ_F32, 0, 0);
	struct wire_pipeline_step *step = definition_step(d, "kv_append", qkv, 4, q);

	memcpy(&step->in[2], (uint16_t[]){5, 6, cache}, 3 * sizeof(step->in[0]));
	return q;
}

/* What q sees, times a matrix, which makes its rank 2. */
static void add_look(struct definition *d, uint16_t q, uint16_t cache, uint16_t y)
{
	const uint16_t seen_by_q = definition_tensor(d, "seen", GPUQ_F32, 0, 0);
	struct wire_pipeline_step *step =
		definition_step(d, "paged_attention", q, cache, seen_by_q);

	memcpy(&step->in[2], (uint16_t[]){6, 4, 5, 7}, 4 * sizeof(step->in[0]));
	definition_step(d, "linear", seen_by_q, 8, y);
}

/* Two tokens are put into one place, one after the other; each is seen while it is there. */
static struct pipeline *overwriting(struct rig *rig, struct paged *p)
{
	struct definition *d = definition_new("overwriting", 2, 2);
	void *constants[] = {&p->positions, &p->rows, &p->table, p->context, p->w, p->cache};
	const uint64_t cache_dims[] = {2, 2, 1, 16, HEAD};
	char why[PIPELINE_MAX_WHY];
	struct pipeline *made;
	uint16_t cache, q;

	definition_tensor(d, "one", GPUQ_F32, 1, 3 * HEAD);
	definition_tensor(d, "other", GPUQ_F32, 1, 3 * HEAD);
	definition_tensor(d, "y", GPUQ_F32, 0, 0);
	definition_tensor(d, "z", GPUQ_F32, 0, 0);
	constant(d, "positions", GPUQ_I32, 1, 1, 0);
	constant(d, "rows", GPUQ_I32, 1, 1, 0);
	constant(d, "table", GPUQ_I32, 2, 1, 1);
	constant(d, "context", GPUQ_U8, 1, 16, 0);
	constant(d, "w", GPUQ_F32, 2, HEAD, HEAD);
	cache = constant(d, "cache", GPUQ_F32, 5, 0, 0);
	memcpy(d->tensors[cache].dims, cache_dims, sizeof(cache_dims));
	q = add_append(d, 0, cache);
	add_look(d, q, cache, 2);
	q = add_append(d, 1, cache);
	add_look(d, q, cache, 3);
	definition_pack(d);
	if (pipeline_create_internal(d->blob, d->bytes, constants, 6, &made, why) != 0)
		fail_msg("%s", why);
	free(d);
	made = graphs_intern(rig->g, made);
	assert_non_null(made);
	return made;
}

static void test_constants_are_written_in_order(void **state)
{
	struct paged *p = calloc(1, sizeof(*p));
	struct rig *rig = rig_new(NULL);
	struct pipeline *pipeline;
	struct task *t;

	assert_non_null(p);
	p->table = 1;
	for (uint32_t i = 0; i < HEAD; i++)
		p->w[i * HEAD + i] = 1;
	pipeline = overwriting(rig, p);
	t = task_pipeline(rig, pipeline, 1, HEAD);
	/* A token that sees only itself sees its value. */
	assert_memory_equal(t->expected[0], t->data[0] + 2 * HEAD, HEAD * sizeof(float));
	assert_memory_equal(t->expected[1], t->data[1] + 2 * HEAD, HEAD * sizeof(float));
	/* Never beside a capture: what that tries out goes to the same block here. */
	graphs_stop_captures(rig->g);
	assert_int_equal(task_run(rig, t), 0);
	graphs_resume_captures(rig->g);
	assert_int_equal(task_precapture(rig, t), 0);
	assert_int_equal(task_wait(rig, t), 0);
	assert_int_equal(task_run(rig, t), 0);
	assert_int_equal(seen(&task_record(rig, t)->hits), 1);
	assert_memory_equal(&p->cache[3 * 16 * HEAD], t->data[1] + 2 * HEAD, HEAD * sizeof(float));
	task_free(rig, t);
	graphs_release(rig->g, pipeline);
	rig_free(rig);
	free(p);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_constants_are_no_inputs),
		HARNESS_TEST(test_constants_may_be_read_early),
		HARNESS_TEST(test_constants_that_are_written),
		HARNESS_TEST(test_constants_refusals),
		HARNESS_TEST(test_constants_cold_and_captured),
		HARNESS_TEST(test_constants_release_forgets),
		HARNESS_TEST(test_constants_release_during_captures),
		HARNESS_TEST(test_constants_are_not_in_the_hot_list),
		HARNESS_TEST(test_constants_are_written_in_order),
	};

	return harness_run("graphs-constants", tests, sizeof(tests) / sizeof(tests[0]));
}
