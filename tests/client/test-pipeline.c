/* SPDX-License-Identifier: MIT */
/* test-pipeline.c: pipelines and graphs in the client library, against a fake gpuqd. */
#include "tests/client/rig.h"

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

/* Two copies one behind the other, listed in an order that is not the wire's. */
static const struct gpuq_pipeline_tensor tensors[] = {
	{"mid", GPUQ_PIPELINE_INNER, GPUQ_U8},
	{"y", GPUQ_PIPELINE_OUTPUT, GPUQ_U8},
	{"x", GPUQ_PIPELINE_INPUT, GPUQ_U8, 2, {4, 25}},
};
static const struct gpuq_param scale = {"scale", GPUQ_PARAM_F64, {.f64 = 0.5}};
static const struct gpuq_pipeline_step steps[] = {
	{.op = "copy", .inputs = {"mid", "x"}, .outputs = {"y"}},
	{.op = "copy", .inputs = {"x"}, .outputs = {"mid"}, .params = &scale, .n_params = 1},
};

static int create(struct rig *rig, struct gpuq_pipeline **ret)
{
	return gpuq_pipeline_create(rig->g, 0, "twice", tensors, 3, steps, 2, ret);
}

static struct gpuq_call *call_of(struct rig *rig, struct gpuq_pipeline *p)
{
	const struct gpuq_tensor x = {
		.data = rig->x, .dtype = GPUQ_U8, .rank = 1, .dims = {rig->bytes}};
	const struct gpuq_tensor y = {
		.data = rig->y, .dtype = GPUQ_U8, .rank = 1, .dims = {rig->bytes}};
	struct gpuq_call *call = NULL;

	assert_int_equal(gpuq_pipeline_call_create(rig->ch, p, &x, 1, &y, 1, &call), 0);
	return call;
}

static void test_the_definition_on_the_wire(void **state)
{
	struct gpuq_pipeline *p = NULL;
	struct rig rig;
	double half;

	rig_start(&rig, NULL);
	assert_int_equal(create(&rig, &p), 0);
	assert_int_equal(rig.control->pieces, 1);
	const struct wire_pipeline *head = (const void *)rig.control->definition;
	const struct wire_pipeline_tensor *t = (const void *)(head + 1);
	const struct wire_pipeline_step *s = (const void *)(t + 3);
	assert_int_equal(
		rig.control->definition_bytes, sizeof(*head) + 3 * sizeof(*t) + 2 * sizeof(*s));
	assert_string_equal(head->name, "twice");
	assert_int_equal(head->n_inputs, 1);
	assert_int_equal(head->n_outputs, 1);
	assert_int_equal(head->n_tensors, 3);
	assert_int_equal(head->n_steps, 2);
	assert_string_equal(t[0].name, "x");
	assert_string_equal(t[1].name, "y");
	assert_string_equal(t[2].name, "mid");
	assert_int_equal(t[0].rank, 2);
	assert_int_equal(t[0].dims[1], 25);
	assert_int_equal(t[2].rank, 0);
	assert_int_equal(t[2].dtype, GPUQ_U8);
	assert_int_equal(s[0].in[0], 2);
	assert_int_equal(s[0].in[1], 0);
	assert_int_equal(s[0].in[2], WIRE_PIPELINE_NONE);
	assert_int_equal(s[0].out[0], 1);
	assert_int_equal(s[1].in[1], WIRE_PIPELINE_NONE);
	assert_int_equal(s[0].params_given, 0);
	assert_int_equal(s[1].params_given, 1);
	memcpy(&half, &s[1].params[0], sizeof(half));
	assert_true(half == 0.5);
	gpuq_pipeline_destroy(p);
	assert_int_equal(rig.control->pipeline_closes, 1);
	rig_stop(&rig);
}

/* A definition of many pieces arrives whole. */
static void test_a_long_definition(void **state)
{
	enum { N = 200 };
	struct gpuq_pipeline_tensor many[N + 1] = {{"x", GPUQ_PIPELINE_INPUT, GPUQ_U8, 1, {9}}};
	struct gpuq_pipeline_step chain[N] = {{0}};
	struct gpuq_pipeline *p = NULL;
	char names[N + 1][8] = {"x"};
	struct rig rig;

	rig_start(&rig, NULL);
	for (uint32_t i = 0; i < N; i++) {
		snprintf(names[i + 1], sizeof(names[0]), "t%u", i);
		many[i + 1] = (struct gpuq_pipeline_tensor){.name = names[i + 1],
			.role = i + 1 == N ? GPUQ_PIPELINE_OUTPUT : GPUQ_PIPELINE_INNER,
			.dtype = GPUQ_U8};
		chain[i] = (struct gpuq_pipeline_step){
			.op = "copy", .inputs = {names[i]}, .outputs = {names[i + 1]}};
	}
	assert_int_equal(gpuq_pipeline_create(rig.g, 0, "chain", many, N + 1, chain, N, &p), 0);
	const struct wire_pipeline *head = (const void *)rig.control->definition;
	const struct wire_pipeline_tensor *t = (const void *)(head + 1);
	const struct wire_pipeline_step *s = (const void *)(t + N + 1);
	uint64_t bytes = sizeof(*head) + (N + 1) * sizeof(*t) + N * sizeof(*s);
	assert_int_equal(rig.control->definition_bytes, bytes);
	assert_int_equal(
		rig.control->pieces, (bytes + MSG_PIPELINE_PIECE - 1) / MSG_PIPELINE_PIECE);
	assert_int_equal(s[N - 1].out[0], 1);
	assert_int_equal(s[100].in[0], 101);
	assert_string_equal(t[101].name, "t99");
	gpuq_pipeline_destroy(p);
	rig_stop(&rig);
}

struct refusal {
	int status;
	const char *sentence;
	struct gpuq_pipeline_tensor tensor; /* added to the others when it has a role */
	struct gpuq_pipeline_step step;	    /* added to the others when it has an operator */
};

static void expect_refusal(struct rig *rig, const struct refusal *r)
{
	struct gpuq_pipeline_tensor all_tensors[4];
	struct gpuq_pipeline_step all_steps[3];
	struct gpuq_pipeline *p = NULL;
	uint32_t n_tensors = 3, n_steps = 2;

	memcpy(all_tensors, tensors, sizeof(tensors));
	memcpy(all_steps, steps, sizeof(steps));
	if (r->tensor.role != 0)
		all_tensors[n_tensors++] = r->tensor;
	if (r->step.op != NULL)
		all_steps[n_steps++] = r->step;
	int got = gpuq_pipeline_create(
		rig->g, 0, "twice", all_tensors, n_tensors, all_steps, n_steps, &p);
	if (got != r->status)
		fail_msg("%d instead of %d: %s", got, r->status, gpuq_error_detail());
	assert_detail(r->sentence);
	assert_null(p);
}

/* What needs no gpuqd to be seen: nothing is sent. */
static void test_refusals_of_the_library(void **state)
{
	static const struct gpuq_param unknown = {"size", GPUQ_PARAM_I64, {.i64 = 1}};
	static const struct gpuq_param wrong = {"scale", GPUQ_PARAM_I64, {.i64 = 1}};
	static const struct gpuq_param twice[] = {
		{"n", GPUQ_PARAM_I64, {.i64 = 1}}, {"n", GPUQ_PARAM_I64, {.i64 = 2}}};
	static const struct refusal refusals[] = {
		{-EINVAL, "tensor 3 has no name", {NULL, GPUQ_PIPELINE_INNER, GPUQ_U8}, {0}},
		{-EINVAL, "the name of tensor 3 is not printable text",
			{"a\033[2J", GPUQ_PIPELINE_INNER, GPUQ_U8}, {0}},
		{-EINVAL, "the name of tensor 3 is not printable text",
			{"\xff", GPUQ_PIPELINE_INNER, GPUQ_U8}, {0}},
		{-EINVAL, "at most 31 bytes",
			{"a_name_that_is_longer_than_it_may_be", GPUQ_PIPELINE_INNER, GPUQ_U8},
			{0}},
		{-EINVAL, "two tensors are called \"mid\"", {"mid", GPUQ_PIPELINE_INPUT, GPUQ_U8},
			{0}},
		{-EINVAL, "no role", {"z", 77, GPUQ_U8}, {0}},
		{-GPUQ_EDTYPE, "tensor z: 99", {"z", GPUQ_PIPELINE_INNER, 99}, {0}},
		{-GPUQ_ERANK, "tensor z: 9", {"z", GPUQ_PIPELINE_INPUT, GPUQ_U8, 9}, {0}},
		{-GPUQ_EOP, "step 2: gpuqd has no operator \"nothing\"", {0}, {.op = "nothing"}},
		{-GPUQ_EPIPELINE, "step 2 (copy): x: there is no tensor \"foo\"", {0},
			{.op = "copy", .inputs = {"foo"}, .outputs = {"y"}}},
		{-GPUQ_EPIPELINE, "step 2 (copy): y: there is no tensor \"bar\"", {0},
			{.op = "copy", .inputs = {"x"}, .outputs = {"bar"}}},
		{-GPUQ_EARGS, "step 2 (copy): \"mid\" is one tensor too many", {0},
			{.op = "copy", .inputs = {"x"}, .outputs = {"y", "mid"}}},
		{-GPUQ_EPARAM, "step 2 (copy): parameter \"size\"", {0},
			{.op = "copy", .params = &unknown, .n_params = 1}},
		{-GPUQ_EPARAM, "step 2 (copy): parameter \"scale\"", {0},
			{.op = "copy", .params = &wrong, .n_params = 1}},
		{-GPUQ_EPARAM, "step 2 (copy): parameter \"n\"", {0},
			{.op = "copy", .params = twice, .n_params = 2}},
	};
	struct gpuq_pipeline *p = NULL;
	struct rig rig;

	rig_start(&rig, NULL);
	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++)
		expect_refusal(&rig, &refusals[i]);
	assert_int_equal(gpuq_pipeline_create(rig.g, 0, "", tensors, 3, steps, 2, &p), -EINVAL);
	assert_int_equal(
		gpuq_pipeline_create(rig.g, 0, "big", tensors, 3, steps, 6000, &p), -GPUQ_ELIMIT);
	assert_int_equal(rig.control->pieces, 0);
	rig_stop(&rig);
}

static void test_refusals_of_gpuqd(void **state)
{
	struct gpuq_pipeline *p = NULL;
	struct rig rig;

	rig_start(&rig, NULL);
	shm_store_relaxed(&rig.control->fault_at, MSG_PIPELINE);
	shm_store_relaxed(&rig.control->fault_status, (uint64_t)-GPUQ_EPIPELINE);
	shm_store_release(&rig.control->fault, FAKE_REFUSE);
	assert_int_equal(create(&rig, &p), -GPUQ_EPIPELINE);
	assert_detail("the fake refuses; try another");
	shm_store_release(&rig.control->fault, FAKE_WRONG_TYPE);
	assert_int_equal(create(&rig, &p), -GPUQ_EPROTO);
	assert_null(p);
	shm_store_release(&rig.control->fault, FAKE_NO_FAULT);
	assert_int_equal(create(&rig, &p), 0);
	rig_stop(&rig); /* which frees it too */
}

static void test_calls(void **state)
{
	const struct gpuq_tensor none[2] = {{.dtype = 0}};
	struct gpuq_pipeline *p = NULL;
	struct gpuq_call *call = NULL;
	struct rig rig, other;
	char text[128];

	rig_start(&rig, NULL);
	assert_int_equal(create(&rig, &p), 0);
	call = call_of(&rig, p);
	assert_int_equal(rig_submit(&rig, call, 5), 1);
	assert_int_equal(rig_wait(&rig, 5).status, 0);
	assert_memory_equal(rig.x, rig.y, rig.bytes);
	const struct gpuq_completion c = {
		.status = -GPUQ_ESHAPE, .flags = 1u << WIRE_CQE_ARG_SHIFT};
	assert_string_equal(gpuq_explain(call, &c, text, sizeof(text)),
		"twice: input x: a dimension does not fit the other tensors");
	struct gpuq_call *bad = NULL;
	assert_int_equal(gpuq_pipeline_call_create(rig.ch, p, none, 2, none, 1, &bad), -GPUQ_EARGS);
	assert_detail("twice takes 1 inputs; 2 are given");
	rig_start_on(&other, rig.fake, NULL);
	assert_int_equal(gpuq_pipeline_call_create(other.ch, p, none, 1, none, 1, &bad), -EINVAL);
	gpuq_disconnect(other.g);
	/* The call outlives its pipeline; what gpuqd says of it then is gpuqd's affair. */
	gpuq_pipeline_destroy(p);
	assert_int_equal(rig_submit(&rig, call, 6), 1);
	rig_wait(&rig, 6);
	gpuq_explain(call, &c, text, sizeof(text));
	assert_non_null(strstr(text, "input x"));
	gpuq_call_destroy(call);
	rig_stop(&rig);
}

/* Registered for nobody, after all: taken back. */
static void test_a_late_answer(void **state)
{
	const struct gpuq_options options = {.timeout_ns = RIG_SECOND_NS / 5};
	struct fake *fake = fake_new();
	struct gpuq_device_info device;
	struct gpuq_pipeline *p = NULL;
	struct gpuq *g;

	fake_start(fake);
	assert_int_equal(gpuq_connect(&options, &g), 0);
	/* Known already: only the definition is late. */
	struct gpuq_op_info op;
	assert_int_equal(gpuq_op_find(g, "copy", &op), 0);
	shm_store_relaxed(&fake->control->fault_at, MSG_PIPELINE);
	shm_store_release(&fake->control->fault, FAKE_LATE);
	assert_int_equal(gpuq_pipeline_create(g, 0, "twice", tensors, 3, steps, 2, &p), -ETIMEDOUT);
	fake_expect(&fake->control->pipelines, 1);
	assert_int_equal(gpuq_device_info(g, 0, &device), 0);
	fake_expect(&fake->control->pipeline_closes, 1);
	assert_int_equal(gpuq_device_info(g, 0, &device), 0);
	gpuq_disconnect(g);
	fake_destroy(fake);
}

static void test_a_pipeline_in_a_child(void **state)
{
	struct gpuq_pipeline *p = NULL, *q = NULL;
	struct rig rig;
	int status;

	rig_start(&rig, NULL);
	assert_int_equal(create(&rig, &p), 0);
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		bool fine = create(&rig, &q) == -GPUQ_EFORK;
		gpuq_pipeline_destroy(p);
		gpuq_disconnect(rig.g);
		_exit(fine ? 0 : 1);
	}
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
	assert_int_equal(rig.control->pipeline_closes, 0);
	gpuq_pipeline_destroy(p);
	assert_int_equal(rig.control->pipeline_closes, 1);
	rig_stop(&rig);
}

static void test_an_older_gpuqd(void **state)
{
	struct fake *fake = fake_new();
	struct gpuq_present_info present;
	struct gpuq_graph_info graph;
	struct gpuq_pipeline *p = NULL;
	const struct gpuq_model_shape shape = {.batch = 1, .context = 1};
	struct rig rig;

	fake->control->abi = 2;
	fake_start(fake);
	rig_start_on(&rig, fake, NULL);
	struct gpuq_call *call = rig_copy(&rig);
	assert_int_equal(create(&rig, &p), -GPUQ_EABI);
	assert_detail("pipelines need version 3");
	assert_int_equal(gpuq_graphs(rig.g, 0, 0, &graph, 1), -GPUQ_EABI);
	assert_int_equal(gpuq_present_info(rig.g, 0, &present), -GPUQ_EABI);
	assert_int_equal(gpuq_precapture(rig.ch, call, 1), -GPUQ_EABI);
	assert_int_equal(gpuq_capture_create(rig.ch, "model", &shape, &call), -GPUQ_EABI);
	assert_detail("captures of a model's steps need version 4");
	assert_int_equal(gpuq_admin_capture(rig.g, 0, true), -GPUQ_EABI);
	assert_int_equal(gpuq_admin_evict(rig.g, 0, 0), -GPUQ_EABI);
	assert_int_equal(gpuq_in_flight(rig.ch), 0);
	rig_stop(&rig);
}

static void test_precapture(void **state)
{
	struct rig rig, other;

	rig_start(&rig, NULL);
	struct gpuq_call *call = rig_copy(&rig);
	assert_int_equal(gpuq_precapture(rig.ch, call, 77), 0);
	assert_int_equal(rig_wait(&rig, 77).status, 0);
	assert_int_equal(rig.control->last.opcode, WIRE_OP_CAPTURE);
	assert_int_equal(gpuq_precapture(rig.ch, NULL, 78), -EINVAL);
	rig_start_on(&other, rig.fake, NULL);
	assert_int_equal(gpuq_precapture(other.ch, call, 78), -EINVAL);
	gpuq_disconnect(other.g);
	/* The call is freed with the completion. */
	shm_store_release(&rig.control->hold, 1);
	assert_int_equal(gpuq_precapture(rig.ch, call, 79), 0);
	gpuq_call_destroy(call);
	assert_int_equal(gpuq_cancel(rig.ch, 79, 80), 0);
	assert_int_equal(rig_wait(&rig, 79).status, -ECANCELED);
	assert_int_equal(rig_wait(&rig, 80).status, 0);
	rig_stop(&rig);
}

static void test_graphs(void **state)
{
	struct gpuq_graph_info infos[FAKE_GRAPHS + 1];
	struct rig rig;

	rig_start(&rig, NULL);
	assert_int_equal(gpuq_graphs(rig.g, 0, 0, infos, FAKE_GRAPHS + 1), FAKE_GRAPHS);
	for (uint32_t i = 0; i < FAKE_GRAPHS; i++)
		assert_int_equal(infos[i].id, i + 1);
	assert_int_equal(infos[9].hits, 10);
	assert_int_equal(infos[9].uses, 11);
	assert_int_equal(infos[9].state, GPUQ_GRAPH_CAPTURED);
	assert_string_equal(infos[9].shape, "shape 10");
	assert_int_equal(gpuq_graphs(rig.g, 0, 0, infos, 8), 8);
	assert_int_equal(gpuq_graphs(rig.g, 0, 8, infos, 8), FAKE_GRAPHS - 8);
	assert_int_equal(infos[0].id, 9);
	assert_int_equal(gpuq_graphs(rig.g, 0, FAKE_GRAPHS, infos, 8), 0);
	assert_int_equal(gpuq_graphs(rig.g, 0, 0, infos, 0), 0);
	rig_stop(&rig);
}

static void test_devices_that_are_present(void **state)
{
	struct gpuq_present_info info;
	struct rig rig;

	rig_start(&rig, NULL);
	assert_int_equal(gpuq_present_info(rig.g, 0, &info), 0);
	assert_int_equal(info.status, 0);
	assert_int_equal(gpuq_present_info(rig.g, 1, &info), 0);
	assert_int_equal(info.status, -GPUQ_ENODEV);
	assert_string_equal(info.kind, "cuda:0");
	assert_string_equal(info.why, "it is not there; plug one in");
	assert_int_equal(gpuq_present_info(rig.g, 2, &info), -GPUQ_ENODEV);
	rig_stop(&rig);
}

static void test_administration(void **state)
{
	struct rig rig;

	rig_start(&rig, NULL);
	assert_int_equal(gpuq_admin_capture(rig.g, 0, true), 0);
	assert_int_equal(rig.control->capture_stopped, 1);
	assert_int_equal(gpuq_admin_capture(rig.g, 0, false), 0);
	assert_int_equal(rig.control->capture_stopped, 0);
	assert_int_equal(gpuq_admin_evict(rig.g, 0, 12), 0);
	assert_int_equal(rig.control->evicted, 12);
	shm_store_relaxed(&rig.control->fault_at, MSG_ADMIN_EVICT);
	shm_store_relaxed(&rig.control->fault_status, (uint64_t)-EPERM);
	shm_store_release(&rig.control->fault, FAKE_REFUSE);
	assert_int_equal(gpuq_admin_evict(rig.g, 0, 12), -EPERM);
	rig_stop(&rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_the_definition_on_the_wire),
		HARNESS_TEST(test_a_long_definition),
		HARNESS_TEST(test_refusals_of_the_library),
		HARNESS_TEST(test_refusals_of_gpuqd),
		HARNESS_TEST(test_calls),
		HARNESS_TEST(test_a_late_answer),
		HARNESS_TEST(test_a_pipeline_in_a_child),
		HARNESS_TEST(test_an_older_gpuqd),
		HARNESS_TEST(test_precapture),
		HARNESS_TEST(test_graphs),
		HARNESS_TEST(test_devices_that_are_present),
		HARNESS_TEST(test_administration),
	};

	return harness_run("client-pipeline", tests, sizeof(tests) / sizeof(tests[0]));
}
