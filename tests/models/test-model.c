/* SPDX-License-Identifier: MIT */
/*
 * Models on a device: every architecture against a plain forward pass in double, in one step, token
 * by token, beside another sequence, cold and captured; quantised ones against others; and what
 * cannot be loaded.
 */
#include "device/driver.h"
#include "models/model_impl.h"
#include "tests/models/random-model.h"
#include "tests/models/rig.h"
#include "tests/models/stepper.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TEXT 44u /* three blocks, the last one not full */

static struct random rng = {.state = 99};
static struct model_why why;

static const struct model_config llama = {
	.architecture = MODEL_LLAMA,
	.vocab = 131,
	.hidden = 48,
	.layers = 3,
	.intermediate = 80,
	.heads = 6,
	.kv_heads = 2,
	.head_dim = 10,
	.max_positions = 4096,
	.norm_eps = 1e-5,
	.rope = {.theta = 10000, .factor = 1},
};

static struct model_config tied_llama3(void)
{
	struct model_config c = llama;

	c.tied = true;
	c.kv_heads = c.heads;
	c.head_dim = 8;
	c.rope = (struct model_rope){5e5, MODEL_ROPE_LLAMA3, 8, 1, 4, 32};
	return c;
}

static struct model_config linear_mqa(void)
{
	struct model_config c = llama;

	c.kv_heads = 1;
	c.head_dim = 32;
	c.vocab = 40; /* fewer than the candidates of a row */
	c.rope.scaling = MODEL_ROPE_LINEAR;
	c.rope.factor = 4;
	c.q_bias = c.o_bias = c.mlp_bias = true;
	return c;
}

static struct model_config mistral(void)
{
	struct model_config c = llama;

	c.architecture = MODEL_MISTRAL;
	c.window = 19;
	c.windowed[0] = c.windowed[2] = true;
	return c;
}

static struct model_config qwen2(void)
{
	struct model_config c = llama;

	c.architecture = MODEL_QWEN2;
	c.q_bias = true;
	return c;
}

static struct model_config qwen3(void)
{
	struct model_config c = llama;

	c.architecture = MODEL_QWEN3;
	c.qk_norm = true;
	c.head_dim = 16;
	return c;
}

static void random_text(int32_t *tokens, uint32_t vocab)
{
	for (uint32_t i = 0; i < TEXT; i++)
		tokens[i] = (int32_t)random_below(&rng, vocab);
}

static double distance(const float *x, const double *y, uint64_t n)
{
	double difference = 0, size = 0;

	for (uint64_t i = 0; i < n; i++) {
		difference += (x[i] - y[i]) * (x[i] - y[i]);
		size += y[i] * y[i];
	}
	return sqrt(difference / size);
}

/* --- Right ---------------------------------------------------------------------------------- */

/* The text in one step; then its last tokens one by one, over what the step has left. */
static void check_text(
	struct stepper *s, const int32_t *tokens, const double *expected, double bound)
{
	const uint64_t v = model_config(s->model)->vocab;
	struct step whole = {.kind = MODEL_STEP_ROWS};
	double worst;

	step_add(&whole, 0, tokens, 0, TEXT);
	step_heat(s, &whole);
	worst = distance(whole.out[0], expected, TEXT * v);
	for (uint32_t i = TEXT - 6; i < TEXT; i++) {
		struct step one = {.kind = MODEL_STEP_ROWS};
		double d;

		step_add(&one, 0, tokens, i, 1);
		if (i == TEXT - 6)
			step_heat(s, &one);
		else
			step_run(s, &one);
		d = distance(one.out[0], expected + i * v, v);
		worst = d > worst ? d : worst;
		step_free(&one);
	}
	step_free(&whole);
	print_message("# relative L2 %.2g, at most %.2g\n", worst, bound);
	assert_true(worst <= bound);
}

static void check_model(struct model_config c, uint32_t dtype, double bound)
{
	int dir = random_model(&c, dtype, &rng);
	struct stepper s;
	int32_t tokens[TEXT];
	double *expected;

	random_text(tokens, c.vocab);
	expected = reference_logits(dir, tokens, TEXT);
	stepper_open(&s, dir, WEIGHT_AS_IS, false);
	check_text(&s, tokens, expected, bound);
	stepper_close(&s);
	free(expected);
	close(dir);
}

static void test_llama(void **state)
{
	check_model(llama, GPUQ_F32, 1e-5);
}

static void test_llama_tied_and_scaled(void **state)
{
	check_model(tied_llama3(), GPUQ_F32, 1e-5);
}

static void test_llama_with_biases(void **state)
{
	check_model(linear_mqa(), GPUQ_F32, 1e-5);
}

static void test_mistral(void **state)
{
	check_model(mistral(), GPUQ_F32, 1e-5);
}

static void test_qwen2(void **state)
{
	check_model(qwen2(), GPUQ_F32, 1e-5);
}

static void test_qwen3(void **state)
{
	check_model(qwen3(), GPUQ_F32, 1e-5);
}

/* The cache is of the weights' type: what goes through it is rounded. */
static void test_half_types(void **state)
{
	check_model(llama, GPUQ_F16, 2e-3);
	check_model(qwen3(), GPUQ_BF16, 2e-2);
}

/* Two sequences of different lengths in one step, each alone otherwise. */
static void test_sequences_in_one_step(void **state)
{
	int dir = random_model(&llama, GPUQ_F32, &rng);
	int32_t a[TEXT], b[TEXT];
	double *expected_a, *expected_b;
	struct step first = {.kind = MODEL_STEP_ROWS}, second = {.kind = MODEL_STEP_ROWS};
	struct stepper s;

	random_text(a, llama.vocab);
	random_text(b, llama.vocab);
	expected_a = reference_logits(dir, a, TEXT);
	expected_b = reference_logits(dir, b, TEXT);
	stepper_open(&s, dir, WEIGHT_AS_IS, false);
	step_add(&first, 1, b, 0, 5);
	step_add(&first, 0, a, 0, 33);
	step_run(&s, &first);
	assert_true(distance(first.out[0], expected_b, 5 * llama.vocab) < 1e-5);
	assert_true(distance((float *)first.out[0] + 5 * llama.vocab, expected_a,
			    33 * llama.vocab) < 1e-5);
	step_add(&second, 0, a, 33, 1);
	step_add(&second, 1, b, 5, 20);
	step_heat(&s, &second);
	assert_true(distance(second.out[0], expected_a + 33 * llama.vocab, llama.vocab) < 1e-5);
	assert_true(distance((float *)second.out[0] + llama.vocab, expected_b + 5 * llama.vocab,
			    20 * llama.vocab) < 1e-5);
	step_free(&first);
	step_free(&second);
	stepper_close(&s);
	free(expected_a);
	free(expected_b);
	close(dir);
}

/* A chunk that nobody asks about leaves the same keys and values. */
static void test_steps_without_results(void **state)
{
	int dir = random_model(&llama, GPUQ_F32, &rng);
	struct step chunk = {.kind = MODEL_STEP_ROWS}, one = {.kind = MODEL_STEP_ROWS};
	int32_t tokens[TEXT];
	struct stepper s;
	double *expected;

	random_text(tokens, llama.vocab);
	expected = reference_logits(dir, tokens, TEXT);
	stepper_open(&s, dir, WEIGHT_AS_IS, false);
	step_add(&chunk, 0, tokens, 0, TEXT - 1);
	chunk.results = 0;
	step_heat(&s, &chunk);
	step_add(&one, 0, tokens, TEXT - 1, 1);
	step_run(&s, &one);
	assert_true(distance(one.out[0], expected + (TEXT - 1) * llama.vocab, llama.vocab) < 1e-5);
	step_free(&chunk);
	step_free(&one);
	stepper_close(&s);
	free(expected);
	close(dir);
}

/* --- What steps give ------------------------------------------------------------------------ */

static void check_candidates(const struct step *result, const float *logits, uint32_t k, uint32_t v)
{
	for (uint32_t r = 0; r < result->results; r++) {
		const float *values = (float *)result->out[0] + r * k, *row = logits + r * v;
		const int32_t *tokens = (int32_t *)result->out[1] + r * k;
		const float *named = (float *)result->out[3] + r * 2;
		double sum = 0;

		for (uint32_t i = 0; i < k; i++) {
			assert_true(values[i] == row[tokens[i]]);
			assert_true(i == 0 || values[i] <= values[i - 1]);
		}
		for (uint32_t i = 0; i < v; i++) {
			assert_true(row[i] <= values[0]);
			sum += exp(row[i] / result->temperatures[r]);
		}
		assert_true(fabs(log(sum) - ((float *)result->out[2])[r * 2]) < 1e-4);
		assert_true(named[0] == row[r + 3]);
		assert_true(named[1] == -INFINITY);
	}
}

/* Of some of the tokens of a step, in another order than theirs. */
static void ask_for(struct step *step, enum model_step kind)
{
	static const int32_t last[] = {8, 2, 5};

	step->kind = kind;
	step->results = 3;
	step->named = 2;
	for (uint32_t i = 0; i < 3; i++) {
		step->last[i] = last[i];
		step->temperatures[i] = 0.5f + (float)i;
		step->ids[i * 2] = (int32_t)i + 3;
		step->ids[i * 2 + 1] = -1;
		step->seeds[i * 2] = 5;
		step->seeds[i * 2 + 1] = i;
	}
}

static void check_kinds(struct model_config c)
{
	int dir = random_model(&c, GPUQ_F32, &rng);
	struct step rows = {0}, result, sample;
	int32_t tokens[TEXT];
	struct stepper s;

	random_text(tokens, c.vocab);
	stepper_open(&s, dir, WEIGHT_AS_IS, false);
	step_add(&rows, 1, tokens, 0, 9);
	result = sample = rows;
	ask_for(&rows, MODEL_STEP_ROWS);
	ask_for(&result, MODEL_STEP_RESULT);
	ask_for(&sample, MODEL_STEP_SAMPLE);
	step_run(&s, &rows);
	step_heat(&s, &result);
	assert_int_equal(model_top_k(s.model), c.vocab < 64 ? c.vocab : 64);
	check_candidates(&result, rows.out[0], model_top_k(s.model), c.vocab);
	assert_memory_equal(result.out[2], rows.out[1], rows.bytes[1]);
	sample.temperatures[1] = 0;
	step_heat(&s, &sample);
	assert_int_equal(
		((int32_t *)sample.out[0])[1], ((int32_t *)result.out[1])[model_top_k(s.model)]);
	for (uint32_t i = 0; i < 3; i++) {
		const double t = i == 1 ? 1 : sample.temperatures[i];
		const float *row = (float *)rows.out[0] + i * c.vocab;
		double sum = 0;

		for (uint32_t v = 0; v < c.vocab; v++)
			sum += exp(row[v] / t);
		assert_true(fabs(row[((int32_t *)sample.out[0])[i]] / t - log(sum) -
				    ((float *)sample.out[1])[i]) < 1e-4);
	}
	step_free(&rows);
	step_free(&result);
	step_free(&sample);
	stepper_close(&s);
	close(dir);
}

static void test_kinds_of_steps(void **state)
{
	check_kinds(llama);
	check_kinds(linear_mqa());
}

/*
 * Steps far larger than a lane's scratch memory: cold and captured they use the model's own, which
 * has room for what the model was loaded for and for no more.
 */
static void test_steps_larger_than_lanes(void **state)
{
	const struct model_options options = {.kv_blocks = 11, .step_tokens = TEXT, .step_rows = 8};
	int dir = random_model(&llama, GPUQ_F32, &rng);
	struct step step = {.kind = MODEL_STEP_ROWS};
	struct stepper s = {.rig = rig_prepare(NULL)};
	int32_t tokens[TEXT];
	double *expected;

	random_text(tokens, llama.vocab);
	expected = reference_logits(dir, tokens, TEXT);
	s.rig->options.scratch_bytes = 4096;
	rig_start(s.rig);
	assert_int_equal(
		model_load(s.rig->options.device, s.rig->g, dir, &options, NULL, &s.model, &why),
		0);
	step_add(&step, 0, tokens, 0, TEXT);
	step.results = 8;
	step_heat(&s, &step);
	assert_true(distance(step.out[0], expected, 8 * llama.vocab) < 1e-5);
	step_add(&step, 1, tokens, 0, 20);
	step.results = 8;
	step.status = -GPUQ_ELIMIT;
	step_run(&s, &step);
	step_free(&step);
	free(expected);
	stepper_close(&s);
	close(dir);
}

/* --- 8 bits, fixed order -------------------------------------------------------------------- */

/*
 * A weight is off by at most 0.4 % of the greatest of its row, most by much less: over three
 * layers the logits stay within 3 % of those of the weights as they are.
 */
static void test_int8(void **state)
{
	static const uint32_t dtypes[] = {GPUQ_F32, GPUQ_BF16};

	for (uint32_t i = 0; i < 2; i++) {
		const struct model_config c = i == 0 ? linear_mqa() : tied_llama3();
		int dir = random_model(&c, dtypes[i], &rng);
		int32_t tokens[TEXT];
		struct stepper s;
		double *expected;

		random_text(tokens, c.vocab);
		expected = reference_logits(dir, tokens, TEXT);
		stepper_open(&s, dir, WEIGHT_INT8, false);
		check_text(&s, tokens, expected, 3e-2);
		stepper_close(&s);
		free(expected);
		close(dir);
	}
}

/* Whatever the operator makes of it on this machine. */
static void check_orders(const struct model *m, int64_t fixed)
{
	for (uint32_t kind = 0; kind < MODEL_STEPS; kind++) {
		uint32_t n, products = 0;
		const struct pipeline_step *steps = pipeline_steps(model_pipeline(m, kind), &n);

		for (uint32_t i = 0; i < n; i++) {
			if (strcmp(steps[i].op->name, "linear") != 0)
				continue;
			assert_string_equal(steps[i].op->params[0].name, "fixed_order");
			assert_int_equal(steps[i].params[0].i64, fixed);
			products++;
		}
		assert_int_equal(products, 4 * llama.layers + 1);
	}
}

/* Alone, behind others, and in a long step: the same bits. */
static void test_deterministic(void **state)
{
	int dir = random_model(&llama, GPUQ_BF16, &rng);
	const uint64_t row_bytes = llama.vocab * sizeof(float);
	int32_t a[TEXT], b[TEXT];
	struct step whole = {.kind = MODEL_STEP_ROWS}, beside = {.kind = MODEL_STEP_ROWS};
	struct stepper s;

	random_text(a, llama.vocab);
	random_text(b, llama.vocab);
	stepper_open(&s, dir, WEIGHT_AS_IS, false);
	check_orders(s.model, 0);
	stepper_close(&s);
	stepper_open(&s, dir, WEIGHT_AS_IS, true);
	check_orders(s.model, 1);
	step_add(&whole, 0, a, 0, TEXT);
	step_run(&s, &whole);
	step_add(&beside, 1, b, 0, 7);
	step_add(&beside, 0, a, TEXT - 3, 3);
	step_run(&s, &beside);
	assert_memory_equal((char *)whole.out[0] + (TEXT - 3) * row_bytes,
		(char *)beside.out[0] + 7 * row_bytes, 3 * row_bytes);
	for (uint32_t i = 0; i < TEXT; i++) {
		struct step one = {.kind = MODEL_STEP_ROWS};

		step_add(&one, 0, a, i, 1);
		step_run(&s, &one);
		assert_memory_equal((char *)whole.out[0] + i * row_bytes, one.out[0], row_bytes);
		step_free(&one);
	}
	step_free(&whole);
	step_free(&beside);
	stepper_close(&s);
	close(dir);
}

/* --- Loading -------------------------------------------------------------------------------- */

static bool watch_bytes(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
	uint64_t *seen_bytes = context;

	assert_true(done_bytes <= total_bytes);
	seen_bytes[0] = done_bytes;
	return seen_bytes[1]-- > 0;
}

static void test_what_is_loaded(void **state)
{
	struct model_options options = {.kv_blocks = 5, .max_session_tokens = 70};
	uint64_t seen_bytes[] = {0, UINT64_MAX};
	const struct model_watch watch = {watch_bytes, seen_bytes};
	int dir = random_model(&llama, GPUQ_F32, &rng);
	struct rig *rig = rig_new(NULL);
	struct device *device = rig->options.device;
	struct model *m;
	uint64_t bytes;

	assert_int_equal(model_load(device, rig->g, dir, &options, &watch, &m, &why), 0);
	assert_true(seen_bytes[0] > 48 * 131 * 4 * 2);
	assert_int_equal(model_config(m)->head_dim, 10);
	assert_int_equal(model_kv_blocks(m), 5);
	assert_int_equal(model_max_session_tokens(m), 70);
	bytes = model_bytes(m);
	/* A block of a layer: 2 * 2 heads * 16 tokens * 10 f32. */
	assert_true(bytes > seen_bytes[0] + 3 * 6 * 2560);
	model_destroy(m);
	options.max_session_tokens = 0;
	assert_int_equal(model_load(device, rig->g, dir, &options, NULL, &m, &why), 0);
	assert_int_equal(model_max_session_tokens(m), 80);
	model_destroy(m);
	options.kv_blocks = 7;
	assert_int_equal(model_load(device, rig->g, dir, &options, NULL, &m, &why), 0);
	assert_int_equal(model_bytes(m), bytes + 3 * 2 * 2560);
	model_destroy(m);
	options.kv_blocks = 4000;
	assert_int_equal(model_load(device, rig->g, dir, &options, NULL, &m, &why), 0);
	assert_int_equal(model_max_session_tokens(m), 4096);
	model_destroy(m);
	model_destroy(NULL);
	rig_free(rig);
	close(dir);
}

static void refused(struct rig *rig, int dir, const struct model_options *options,
	const struct model_watch *watch, int error, const char *words)
{
	struct model *m = NULL;

	assert_int_equal(
		model_load(rig->options.device, rig->g, dir, options, watch, &m, &why), error);
	assert_null(m);
	if (strstr(why.text, words) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", why.text, words);
}

static void test_refusals(void **state)
{
	struct model_options options = {.kv_blocks = 5};
	uint64_t seen_bytes[] = {0, 0};
	const struct model_watch watch = {watch_bytes, seen_bytes};
	int dir = random_model(&llama, GPUQ_F32, &rng);
	struct rig *rig = rig_new(NULL);

	refused(rig, dir, &options, &watch, -ECANCELED, "cancelled");
	options.kv_blocks = 1u << 30;
	refused(rig, dir, &options, NULL, -ENOMEM, "MiB of memory that are free: lower kv_bytes");
	options.kv_blocks = 5;
	options.quant = 7;
	refused(rig, dir, &options, NULL, -EINVAL, "7 is no way");
	options.quant = WEIGHT_AS_IS;
	rig_write(dir, "config.json", "{\"architectures\":[\"BertModel\"]}", 31);
	refused(rig, dir, &options, NULL, -EOPNOTSUPP, "BertModel");
	unlinkat(dir, "config.json", 0);
	refused(rig, dir, &options, NULL, -ENOENT, "config.json");
	rig_free(rig);
	close(dir);
}

/* Of the device's memory, as it says. */
static uint64_t said_to_be_free;

static void say_free(struct device *device, struct device_info *ret_info)
{
	device_cpu_driver.info(device, ret_info);
	ret_info->free_bytes = shm_load_relaxed(&said_to_be_free);
}

/* A cache of 256 tokens is 17 blocks with block 0, of 3 layers with 2560 bytes each. */
static void test_size_of_the_cache(void **state)
{
	const uint64_t fewest = 17ull * 3 * 2560;
	struct model_options options = {.kv_bytes = fewest - 1};
	struct device_driver driver = device_cpu_driver; /* until the device is closed */
	int dir = random_model(&llama, GPUQ_F32, &rng);
	struct rig *rig = rig_prepare(NULL);
	struct device *device = rig->options.device;
	uint64_t weights;
	struct model *m;

	driver.info = say_free;
	device->driver = &driver;
	shm_store_relaxed(&said_to_be_free, 1ull << 30);
	rig_start(rig);
	refused(rig, dir, &options, NULL, -EINVAL, "kv_bytes is 130559,");
	refused(rig, dir, &options, NULL, -EINVAL, "at least 130560");
	options.kv_bytes = fewest;
	assert_int_equal(model_load(device, rig->g, dir, &options, NULL, &m, &why), 0);
	assert_int_equal(model_kv_blocks(m), 16);
	weights = m->weight_bytes;
	model_destroy(m);
	/* A quarter of what the weights leave, or at least the fewest. */
	options.kv_bytes = 0;
	shm_store_relaxed(&said_to_be_free, weights + 4ull * 100 * 3 * 2560);
	assert_int_equal(model_load(device, rig->g, dir, &options, NULL, &m, &why), 0);
	assert_int_equal(model_kv_blocks(m), 99);
	model_destroy(m);
	shm_store_relaxed(&said_to_be_free, weights + fewest + 3 * 256);
	assert_int_equal(model_load(device, rig->g, dir, &options, NULL, &m, &why), 0);
	assert_int_equal(model_kv_blocks(m), 16);
	model_destroy(m);
	shm_store_relaxed(&said_to_be_free, weights + fewest - 1);
	refused(rig, dir, &options, NULL, -ENOMEM, "quant=int8");
	/* No more than one session can have. */
	shm_store_relaxed(&said_to_be_free, 1ull << 30);
	options.max_sessions = 1;
	options.max_session_tokens = 100;
	assert_int_equal(model_load(device, rig->g, dir, &options, NULL, &m, &why), 0);
	assert_int_equal(model_kv_blocks(m), 7);
	model_destroy(m);
	rig_free(rig);
	close(dir);
}

static void test_too_many_layers(void **state)
{
	const struct model_options options = {.kv_blocks = 5};
	struct model_config c = llama;
	struct rig *rig = rig_new(NULL);
	struct model *m;
	int dir;

	c.hidden = c.intermediate = 8;
	c.heads = c.kv_heads = 1;
	c.head_dim = 4;
	c.vocab = 10;
	c.layers = 180;
	dir = random_model(&c, GPUQ_F32, &rng);
	refused(rig, dir, &options, NULL, -GPUQ_ELIMIT, "180 layers are more steps than the 1024");
	close(dir);
	/* As many as the largest models that are common, with all that a layer may have. */
	c.layers = 80;
	c.q_bias = c.o_bias = c.mlp_bias = true;
	dir = random_model(&c, GPUQ_F32, &rng);
	assert_int_equal(model_load(rig->options.device, rig->g, dir,
				 &(struct model_options){WEIGHT_INT8, false, 5, 0}, NULL, &m, &why),
		0);
	model_destroy(m);
	close(dir);
	rig_free(rig);
}

/* Weights, cache and scratch are one allocation each; those before are the graph cache's. */
static void test_without_memory(void **state)
{
	const struct model_options options = {.kv_blocks = 5};
	int dir = random_model(&llama, GPUQ_F32, &rng);
	uint32_t refusals = 0;

	for (uint32_t i = 1; i <= 14; i++) {
		struct model *m = NULL;
		char faults[64];
		struct rig *rig;

		snprintf(faults, sizeof(faults), "alloc:%u=ENOMEM", i);
		rig = rig_prepare(faults);
		if (graphs_create(&rig->options, &rig->g, rig->why) == 0 &&
			model_load(rig->options.device, rig->g, dir, &options, NULL, &m, &why) !=
				0) {
			assert_non_null(strstr(why.text, "do not fit the"));
			refusals++;
		}
		model_destroy(m);
		rig_free(rig);
	}
	assert_int_equal(refusals, 3);
	close(dir);
}

static void test_device_that_fails(void **state)
{
	const struct model_options options = {.kv_blocks = 5};
	int dir = random_model(&llama, GPUQ_F32, &rng);
	struct rig *rig = rig_new("fill:2=GPUQ_EDEVICE");

	refused(rig, dir, &options, NULL, -GPUQ_EDEVICE, "clearing the KV cache failed");
	rig_free(rig);
	close(dir);
}

/* A model may go while captures of its steps are wished for or made. */
static void test_end_during_captures(void **state)
{
	int dir = random_model(&llama, GPUQ_F32, &rng);
	int32_t tokens[TEXT];

	random_text(tokens, llama.vocab);
	for (uint32_t round = 0; round < 5; round++) {
		struct stepper s;

		stepper_open(&s, dir, WEIGHT_AS_IS, false);
		for (uint32_t i = 0; i < 6; i++) {
			struct step step = {.kind = MODEL_STEP_ROWS};

			step_add(&step, 0, tokens, 0, 20 + i / 2);
			step_run(&s, &step);
			step_free(&step);
		}
		stepper_close(&s);
	}
	close(dir);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_llama),
		HARNESS_TEST(test_llama_tied_and_scaled),
		HARNESS_TEST(test_llama_with_biases),
		HARNESS_TEST(test_mistral),
		HARNESS_TEST(test_qwen2),
		HARNESS_TEST(test_qwen3),
		HARNESS_TEST(test_half_types),
		HARNESS_TEST(test_sequences_in_one_step),
		HARNESS_TEST(test_steps_without_results),
		HARNESS_TEST(test_kinds_of_steps),
		HARNESS_TEST(test_steps_larger_than_lanes),
		HARNESS_TEST(test_int8),
		HARNESS_TEST(test_deterministic),
		HARNESS_TEST(test_what_is_loaded),
		HARNESS_TEST(test_refusals),
		HARNESS_TEST(test_size_of_the_cache),
		HARNESS_TEST(test_too_many_layers),
		HARNESS_TEST(test_without_memory),
		HARNESS_TEST(test_device_that_fails),
		HARNESS_TEST(test_end_during_captures),
	};

	return harness_run("models-model", tests, sizeof(tests) / sizeof(tests[0]));
}
