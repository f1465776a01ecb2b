/* SPDX-License-Identifier: MIT */
/*
 * test-model-graphs.c: graphs of a model's steps that are asked for ahead, by clients and by `gpuq
 * precapture`: the first step of such a shape is a replay, what no step can have is refused by
 * name, a model that goes takes the wishes with it, and what gpuqd tells of a model's shapes.
 */
#include "tests/integration/tiny-model.h"
#include "tests/models/rig.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WISHES 24u

static struct gpuq_call *make_wish(struct client *c, const struct gpuq_model_shape *shape)
{
	struct gpuq_call *call = NULL;

	if (gpuq_capture_create(c->ch, "tiny", shape, &call) < 0)
		fail_msg("%s", gpuq_error_detail());
	return call;
}

static void expect_wish(struct client *c, struct gpuq_model_shape shape, int status)
{
	struct gpuq_call *call = make_wish(c, &shape);
	const struct gpuq_completion done = tiny_run(c, call);

	tiny_expect_status(call, &done, status);
	gpuq_call_destroy(call);
}

/* The shape whose text has this. */
static struct gpuq_graph_info find_graph(struct client *c, const char *text)
{
	struct gpuq_graph_info infos[64];
	int n = gpuq_graphs(c->g, 0, 0, infos, 64);

	for (int i = 0; i < n; i++) {
		if (strstr(infos[i].shape, text) != NULL)
			return infos[i];
	}
	fail_msg("no shape has '%s'", text);
	return infos[0];
}

static void check_row(const struct gpuq_call *step, const double *want)
{
	struct gpuq_row row;

	assert_int_equal(gpuq_step_row(step, 0, &row), 0);
	for (uint32_t v = 0; v < TINY_VOCAB; v++)
		assert_true(fabs((double)row.logits[v] - want[v]) < 1e-3);
}

static struct gpuq_model_info look(struct client *c)
{
	struct gpuq_model_info m;

	assert_int_equal(gpuq_model_find(c->g, "tiny", &m), 0);
	return m;
}

static void await_steps(struct client *c, uint64_t steps)
{
	for (int i = 0; look(c).steps < steps; i++) {
		assert_true(i < 10000);
		usleep(1000);
	}
}

/* With the graph there before, not even the first step is launched kernel by kernel. */
static void test_captured_ahead(void **state)
{
	const struct gpuq_step_options o = {.max_tokens = 1, .max_rows = 1, .logits = true};
	const int32_t token = 5;
	struct tiny_world w;
	struct client c;

	tiny_start(&w, false, NULL);
	tiny_client_open(&c);
	assert_int_equal(look(&c).shapes, 0);
	expect_wish(&c,
		(struct gpuq_model_shape){.kind = GPUQ_SHAPE_LOGITS, .batch = 1, .context = 1}, 0);
	struct gpuq_graph_info g = find_graph(&c, "tiny tokens[1]i32");
	assert_int_equal(g.state, GPUQ_GRAPH_CAPTURED);
	assert_int_equal(g.uses, 0);
	struct gpuq_model_info m = look(&c);
	assert_int_equal(m.shapes, 1);
	assert_int_equal(m.shapes_captured, 1);
	assert_int_equal(m.captured_batches, 1);
	assert_int_equal(m.bucket_tokens, 64);
	assert_true(m.weight_bytes > 0 && m.cache_bytes > 0);
	assert_true(m.bytes >= m.weight_bytes + m.cache_bytes);

	struct gpuq_call *step = tiny_step_create(tiny_session_open(&c), &o);
	const struct gpuq_completion done = tiny_run_step(&c, step, &token, 1, 1);
	tiny_expect_status(step, &done, 0);
	double *want = reference_logits(w.dir_fd, &token, 1);
	check_row(step, want);
	free(want);
	g = find_graph(&c, "tiny tokens[1]i32");
	assert_int_equal(g.uses, 1);
	assert_int_equal(g.hits, 1);
	await_steps(&c, 1);
	m = look(&c);
	assert_int_equal(m.batches[0], 1);
	assert_true(m.decode_p50_ns > 0 && m.decode_p99_ns >= m.decode_p50_ns);
	assert_int_equal(m.chunk_p50_ns, 0);
	client_close(&c);
	tiny_stop(&w);
}

static void refuse(struct client *c, struct gpuq_model_shape shape, const char *parameter)
{
	struct gpuq_call *call = make_wish(c, &shape);
	const struct gpuq_completion done = tiny_run(c, call);
	char text[256], name[64];

	tiny_expect_status(call, &done, -GPUQ_EPARAM);
	snprintf(name, sizeof(name), "capture: parameter %s: ", parameter);
	gpuq_explain(call, &done, text, sizeof(text));
	if (strncmp(text, name, strlen(name)) != 0)
		fail_msg("'%s' does not begin with '%s'", text, name);
	gpuq_call_destroy(call);
}

static void test_shapes_that_no_step_has(void **state)
{
	const struct gpuq_model_shape one = {.batch = 1, .context = 1};
	struct gpuq_model_shape bad = one;
	struct gpuq_call *call = NULL;
	struct tiny_world w;
	struct client c;

	tiny_start(&w, false, NULL);
	tiny_client_open(&c);
	refuse(&c, (struct gpuq_model_shape){.batch = 1, .context = 1, .kind = 4}, "kind");
	refuse(&c, (struct gpuq_model_shape){.batch = 0, .context = 1, .rows = 1}, "tokens");
	refuse(&c, (struct gpuq_model_shape){.batch = 65, .context = 1}, "batch");
	refuse(&c, (struct gpuq_model_shape){.batch = 2, .context = 1, .tokens = 1}, "batch");
	refuse(&c, (struct gpuq_model_shape){.batch = 1, .context = 9, .tokens = 2, .rows = 3},
		"rows");
	refuse(&c, (struct gpuq_model_shape){.batch = 1, .context = 1, .ids = 257}, "ids");
	bad.kind = GPUQ_SHAPE_GENERATE;
	bad.ids = 1;
	refuse(&c, bad, "ids");
	refuse(&c, (struct gpuq_model_shape){.batch = 1}, "context");
	refuse(&c, (struct gpuq_model_shape){.batch = 1, .context = TINY_CONTEXT + 1}, "context");
	refuse(&c, (struct gpuq_model_shape){.batch = 2, .context = 3, .tokens = 7, .rows = 2},
		"context");
	assert_int_equal(gpuq_capture_create(c.ch, "other", &one, &call), -GPUQ_EMODEL);
	/* The largest ones. */
	expect_wish(
		&c, (struct gpuq_model_shape){.batch = 64, .context = TINY_CONTEXT, .ids = 256}, 0);
	expect_wish(&c,
		(struct gpuq_model_shape){.batch = 1, .context = TINY_CONTEXT, .tokens = 256}, 0);
	/* A wish is no operator's call, nor is a step. */
	call = make_wish(&c, &one);
	assert_int_equal(gpuq_precapture(c.ch, call, 0), -EOPNOTSUPP);
	client_close(&c);
	tiny_stop(&w);
}

/* Each of many wishes ends, with its graph or without the model, which is gone then. */
static void test_unload_takes_wishes_along(void **state)
{
	uint32_t captured = 0, gone = 0;
	struct gpuq_completion done;
	struct tiny_world w;
	struct client c;

	tiny_start(&w, false, NULL);
	tiny_client_open(&c);
	for (uint32_t i = 0; i < WISHES; i++) {
		const struct gpuq_model_shape shape = {.batch = 1 + i, .context = TINY_CONTEXT};
		const struct gpuq_submission s = {.call = make_wish(&c, &shape)};

		assert_int_equal(gpuq_submit(c.ch, &s, 1), 1);
	}
	TINY_GPUQ(0, "", "unload", "tiny");
	for (uint32_t i = 0; i < WISHES; i++) {
		assert_int_equal(gpuq_wait(c.ch, &done, 1, PATIENCE_NS), 1);
		captured += done.status == 0;
		gone += done.status == -GPUQ_EMODEL;
	}
	assert_int_equal(captured + gone, WISHES);
	TINY_GPUQ(0, "0 shapes", "graphs", "--all");
	client_close(&c);
	tiny_stop(&w);
}

/* --- The tools ----------------------------------------------------------------------------- */

static json_int_t number(const json_t *model, const char *part, const char *key)
{
	return json_integer_value(json_object_get(json_object_get(model, part), key));
}

static void check_json(void)
{
	struct harness_output o;

	tiny_gpuq(&o, (const char *const[]){"models", "--json", NULL});
	json_t *document = json_loads(o.out, 0, NULL);
	const json_t *model = json_array_get(json_object_get(document, "models"), 0);
	const json_t *batches =
		json_object_get(json_object_get(model, "graphs"), "captured_batches");
	assert_int_equal(number(model, "graphs", "shapes"), 4);
	assert_int_equal(number(model, "graphs", "captured"), 4);
	assert_int_equal(number(model, "graphs", "wished"), 0);
	assert_int_equal(number(model, "graphs", "bucket_tokens"), 64);
	assert_int_equal(json_array_size(batches), 2);
	assert_int_equal(json_integer_value(json_array_get(batches, 0)), 1);
	assert_int_equal(json_integer_value(json_array_get(batches, 1)), 3);
	json_decref(document);
	harness_output_free(&o);
}

static void test_tools(void **state)
{
	struct tiny_world w;
	struct client c;
	char link[64];

	tiny_start(&w, true, NULL);
	TINY_GPUQ(1, "no model \"tiny\"", "precapture", "-m", "tiny");
	TINY_GPUQ(2, "--model", "precapture");
	TINY_GPUQ(2, "no list", "precapture", "-m", "tiny", "--batch", "1,,2");
	TINY_GPUQ(2, "no list", "precapture", "-m", "tiny", "--context", "8-4");
	TINY_GPUQ(2, "--kind", "precapture", "-m", "tiny", "--kind", "rows");
	/* Not yet loaded: it waits. */
	TINY_GPUQ(0, "", "load", "tiny", w.dir, "--no-wait");
	TINY_GPUQ(0, "4 shapes are ready", "precapture", "-m", "tiny", "--batch", "1,3",
		"--context", "1-128");
	check_json();
	TINY_GPUQ(0, "batch 1, context 64: ready", "precapture", "-m", "tiny", "--context", "2-64");
	TINY_GPUQ(1, "batch 65, context 1: capture: parameter batch", "precapture", "-m", "tiny",
		"--batch", "65");
	TINY_GPUQ(1, "tokens, not 100000", "precapture", "-m", "tiny", "--context", "1-100000");
	TINY_GPUQ(0, "", "graphs", "--stop");
	TINY_GPUQ(1, "batch 1, context 1: ", "precapture", "-m", "tiny", "--kind", "generate");
	TINY_GPUQ(0, "", "graphs", "--resume");
	/* Two of one architecture are told apart. */
	const int other = random_model(&tiny_config, GPUQ_F32, &w.rng);
	snprintf(link, sizeof(link), "/proc/%d/fd/%d", (int)getpid(), other);
	TINY_GPUQ(0, "other is ready", "load", "other", link);
	TINY_GPUQ(0, "1 shapes", "precapture", "-m", "other", "--kind", "generate");
	client_open(&c, NULL);
	assert_non_null(strstr(find_graph(&c, "other tokens[1]i32").shape, "context[64]u8"));
	assert_non_null(strstr(find_graph(&c, "tiny tokens[3]i32").shape, "table[3,4]i32"));
	client_close(&c);
	close(other);
	tiny_stop(&w);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_captured_ahead),
		HARNESS_TEST(test_shapes_that_no_step_has),
		HARNESS_TEST(test_unload_takes_wishes_along),
		HARNESS_TEST(test_tools),
	};

	return harness_run("model-graphs", tests, sizeof(tests) / sizeof(tests[0]));
}
