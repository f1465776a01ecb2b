/* SPDX-License-Identifier: MIT */
/*
 * test-generate.c: texts that a model goes on with, through libgpuq-text's writer and through `gpuq
 * generate`: a small model of random weights, and a tokenizer with as many tokens.
 *
 *	TEST_SEED=N   weights; printed
 */
#include "client/text/gpuq-text.h"
#include "tests/integration/children.h"
#include "tests/integration/client.h"
#include "tests/models/random-model.h"
#include "tests/models/rig.h"

#include "shm/clock.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TOKENIZER "tests/text/data/gpt2.json"
#define LENGTH 24u /* tokens of a text */
#define END_TOKEN 7

static const struct gpuq_channel_options roomy = {.arena_bytes = 8u << 20};

struct world_of {
	struct harness_daemon *daemon;
	struct gpuq_tokenizer *tokenizer;
	struct client client;
	char dir[300];
};

static void copy_tokenizer(int dir_fd)
{
	static char text[4u << 20];
	FILE *f = fopen(harness_source(TOKENIZER), "re");

	assert_non_null(f);
	size_t n = fread(text, 1, sizeof(text), f);
	assert_true(n > 0 && n < sizeof(text));
	fclose(f);
	rig_write(dir_fd, "tokenizer.json", text, n);
}

static void make_folder(struct world_of *w)
{
	struct model_config config = {
		.architecture = MODEL_LLAMA,
		.vocab = gpuq_tokenizer_size(w->tokenizer),
		.hidden = 32,
		.layers = 2,
		.intermediate = 48,
		.heads = 4,
		.kv_heads = 2,
		.head_dim = 8,
		.max_positions = 1024,
		.norm_eps = 1e-5,
		.rope = {.theta = 10000},
	};
	const char *seed = getenv("TEST_SEED");
	struct random rng = {seed != NULL ? strtoull(seed, NULL, 0) : (uint64_t)getpid()};
	const char *end = "{\"eos_token_id\": 7}"; /* END_TOKEN */
	char link[64];

	print_message("TEST_SEED=%llu\n", (unsigned long long)rng.state);
	int dir_fd = random_model(&config, GPUQ_F32, &rng);
	copy_tokenizer(dir_fd);
	rig_write(dir_fd, "generation_config.json", end, strlen(end));
	snprintf(link, sizeof(link), "/proc/self/fd/%d", dir_fd);
	ssize_t n = readlink(link, w->dir, sizeof(w->dir) - 1);
	assert_true(n > 0);
	w->dir[n] = '\0';
	close(dir_fd);
}

static void start(struct world_of *w)
{
	const uint64_t start_ns = clock_monotonic_ns();
	struct gpuq_model_info m;
	char model[340];

	assert_int_equal(gpuq_tokenizer_load(harness_source(TOKENIZER), &w->tokenizer), 0);
	make_folder(w);
	snprintf(model, sizeof(model), "small=%s,deterministic=yes", w->dir);
	const char *const args[] = {"--model", model, NULL};
	w->daemon = harness_daemon_start(args);
	client_open(&w->client, &roomy);
	do {
		assert_int_equal(gpuq_model_find(w->client.g, "small", &m), 0);
		assert_true(clock_monotonic_ns() - start_ns < PATIENCE_NS);
		usleep(2000);
	} while (m.state != GPUQ_MODEL_READY);
	assert_string_equal(m.dir, w->dir);
}

static void stop(struct world_of *w)
{
	client_close(&w->client);
	gpuq_tokenizer_destroy(w->tokenizer);
	harness_daemon_destroy(w->daemon);
}

static struct gpuq_writer *open_writer(struct world_of *w, struct gpuq_writer_options o)
{
	struct gpuq_writer *writer;

	o.model = "small";
	o.tokenizer = w->tokenizer;
	if (gpuq_writer_create(w->client.ch, &o, &writer) < 0)
		fail_msg("%s", gpuq_error_detail());
	return writer;
}

/* A text, and its tokens. */
struct text {
	uint32_t tokens[LENGTH];
	uint32_t n;
	char bytes[4096];
	size_t length;
};

static void add(struct text *t, const char *bytes, size_t n)
{
	assert_true(t->length + n < sizeof(t->bytes));
	memcpy(t->bytes + t->length, bytes, n);
	t->length += n;
	t->bytes[t->length] = '\0';
}

static void write_on(struct gpuq_writer *writer, struct text *t)
{
	struct gpuq_written written;
	const char *rest;
	int r = 1;

	*t = (struct text){0};
	while (t->n < LENGTH && (r = gpuq_writer_next(writer, &written)) > 0) {
		t->tokens[t->n++] = written.token;
		add(t, written.text, written.bytes);
	}
	if (r < 0)
		fail_msg("%s", gpuq_error_detail());
	int64_t n = gpuq_writer_finish(writer, &rest);
	assert_true(n >= 0);
	add(t, rest, (size_t)n);
}

static void write_text(
	struct world_of *w, struct gpuq_writer_options o, const char *prompt, struct text *t)
{
	struct gpuq_writer *writer = open_writer(w, o);

	assert_true(gpuq_writer_read(writer, prompt, strlen(prompt), 0) > 0);
	write_on(writer, t);
	gpuq_writer_destroy(writer);
}

/* What the step itself says is the likeliest, token by token. */
static void test_greedy_is_the_likeliest(void **state)
{
	const struct gpuq_step_options options = {.max_tokens = 64, .max_rows = 1, .top_k = 1};
	struct gpuq_encoder *encoder;
	struct gpuq_session *session;
	struct gpuq_call *step;
	const uint32_t *ids;
	struct world_of w;
	struct text t;

	start(&w);
	write_text(&w, (struct gpuq_writer_options){.ignore_end = true}, "Once upon a time", &t);
	assert_int_equal(t.n, LENGTH);
	assert_int_equal(gpuq_encoder_create(w.tokenizer, &encoder), 0);
	int64_t n = gpuq_encode(encoder, "Once upon a time", 16, 0, &ids);
	assert_int_equal(gpuq_session_open(w.client.ch, "small", &session), 0);
	assert_int_equal(gpuq_step_create(session, &options, &step), 0);
	for (uint32_t i = 0; i < LENGTH; i++) {
		const struct gpuq_submission s = {.call = step};
		struct gpuq_completion done;
		struct gpuq_row row;

		assert_int_equal(gpuq_step_set(step, (const int32_t *)ids, (uint32_t)n, 1), 0);
		assert_int_equal(gpuq_submit(w.client.ch, &s, 1), 1);
		assert_int_equal(gpuq_wait(w.client.ch, &done, 1, PATIENCE_NS), 1);
		assert_int_equal(done.status, 0);
		assert_int_equal(gpuq_step_row(step, 0, &row), 0);
		assert_int_equal(t.tokens[i], row.tokens[0]);
		ids = &t.tokens[i];
		n = 1;
	}
	gpuq_call_destroy(step);
	gpuq_session_close(session);
	gpuq_encoder_destroy(encoder);
	stop(&w);
}

/* Also where each token needs the full row, and where a few do. */
static void test_a_seed_is_a_text(void **state)
{
	static const struct gpuq_sampling policies[] = {
		{.temperature = 1},
		{.temperature = 2, .top_k = 300},
		{.temperature = 0.8f, .top_p = 0.9f, .repetition_penalty = 1.2f},
	};
	struct world_of w;
	struct text a, b, c;

	start(&w);
	for (size_t i = 0; i < sizeof(policies) / sizeof(policies[0]); i++) {
		struct gpuq_writer_options o = {.sampling = policies[i], .ignore_end = true};

		o.sampling.seed = 5;
		write_text(&w, o, "The cat", &a);
		write_text(&w, o, "The cat", &b);
		o.sampling.seed = 6;
		write_text(&w, o, "The cat", &c);
		assert_int_equal(a.n, LENGTH);
		assert_memory_equal(a.tokens, b.tokens, sizeof(a.tokens));
		assert_string_equal(a.bytes, b.bytes);
		assert_memory_not_equal(a.tokens, c.tokens, sizeof(a.tokens));
	}
	stop(&w);
}

/* A prompt of more tokens than one request has, at once and in parts, with and without the row. */
static void test_long_prompts(void **state)
{
	static const uint32_t top_k[] = {0, 400};
	struct gpuq_writer_options o = {.ignore_end = true};
	char prompt[2000] = "";
	struct world_of w;
	struct text a, b;

	for (size_t n = 0; n + 8 < sizeof(prompt); n += strlen(prompt + n))
		snprintf(prompt + n, sizeof(prompt) - n, " %zu", n);
	start(&w);
	for (uint32_t i = 0; i < 2; i++) {
		o.sampling = (struct gpuq_sampling){.temperature = 1, .top_k = top_k[i]};
		struct gpuq_writer *writer = open_writer(&w, o);
		int64_t n = gpuq_writer_read(writer, prompt, 600, 0);
		n += gpuq_writer_read(writer, prompt + 600, 600, 0);
		assert_true(n > 512);
		write_on(writer, &a);
		gpuq_writer_destroy(writer);
		prompt[1200] = '\0';
		write_text(&w, o, prompt, &b);
		assert_memory_equal(a.tokens, b.tokens, sizeof(a.tokens));
	}
	stop(&w);
}

static void test_ends(void **state)
{
	const struct gpuq_logit_bias likely = {END_TOKEN, 1000};
	struct gpuq_writer_options o = {.ignore_end = true};
	struct gpuq_written written;
	struct world_of w;
	struct text whole, t;
	char string[8] = "";

	start(&w);
	write_text(&w, o, "Once", &whole);
	/* A piece from the middle of the text, at whole characters. */
	size_t at = whole.length / 2;
	while (((unsigned char)whole.bytes[at] & 0xc0) == 0x80)
		at++;
	memcpy(string, whole.bytes + at, 4);
	const char *strings[] = {string};
	o.stops = strings;
	o.n_stops = 1;
	write_text(&w, o, "Once", &t);
	assert_int_equal(t.length, (size_t)(strstr(whole.bytes, string) - whole.bytes));
	assert_memory_equal(t.bytes, whole.bytes, t.length);

	o = (struct gpuq_writer_options){.sampling = {.n_biases = 1, .biases = &likely}};
	struct gpuq_writer *writer = open_writer(&w, o);
	assert_int_equal(gpuq_writer_next(writer, &written), -EINVAL);
	assert_int_equal(gpuq_writer_read(writer, "a", 1, 0), 1);
	assert_int_equal(gpuq_writer_next(writer, &written), 1);
	assert_int_equal(written.token, END_TOKEN);
	assert_int_equal(written.bytes, 0);
	assert_int_equal(gpuq_writer_end(writer), GPUQ_WRITER_END_TOKEN);
	assert_int_equal(gpuq_writer_next(writer, &written), 0);
	/* More text, and it goes on. */
	assert_int_equal(gpuq_writer_read(writer, "b", 1, 0), 1);
	assert_int_equal(gpuq_writer_end(writer), GPUQ_WRITER_GOES_ON);
	assert_int_equal(gpuq_writer_next(writer, &written), 1);
	gpuq_writer_destroy(writer);
	stop(&w);
}

static void test_a_text_that_is_too_long(void **state)
{
	struct gpuq_written written;
	struct world_of w;
	int r = 1;

	start(&w);
	struct gpuq_writer *writer =
		open_writer(&w, (struct gpuq_writer_options){.ignore_end = true});
	for (uint32_t i = 0; i < 1000; i++)
		assert_int_equal(gpuq_writer_read(writer, "a", 1, 0), 1);
	for (uint32_t i = 0; i < 100 && r > 0; i++)
		r = gpuq_writer_next(writer, &written);
	assert_int_equal(r, -GPUQ_ECONTEXT);
	gpuq_writer_destroy(writer);
	stop(&w);
}

/* --- Beside others ------------------------------------------------------------------------- */

/* Keeps the lanes full until it is told to stop. */
static void flood_main(struct child *child)
{
	struct random rng = {child->seed};
	struct client c;
	struct load load;

	client_open(&c, &roomy);
	load_create(&load, &c, JOB_SOFTMAX, 2000, LOAD_MAX, &rng);
	do {
		assert_true(load_submit(&load) >= 0);
		assert_true(load_take(&load, PATIENCE_NS) > 0);
		if (load.completed > LOAD_MAX)
			child_say_ready(child);
	} while (!child_should_stop(child));
	assert_int_equal(load_finish(&load), 0);
	load_destroy(&load);
	client_close(&c);
}

/* Operators that others keep queued do not keep a text from going on. */
static void test_beside_operators(void **state)
{
	const struct gpuq_writer_options o = {.ignore_end = true};
	struct child flood = {.run = flood_main, .seed = 1};
	struct text alone, beside;
	struct world_of w;

	start(&w);
	/* Its shapes are captured by then: cold ones have a lane of their own. */
	for (uint32_t i = 0; i < 8; i++)
		write_text(&w, o, "The cat", &alone);
	child_start(&flood);
	child_await_ready(&flood);
	write_text(&w, o, "The cat", &beside);
	child_stop(&flood);
	child_free(&flood);
	assert_memory_equal(beside.tokens, alone.tokens, sizeof(alone.tokens));
	stop(&w);
}

/* --- The command --------------------------------------------------------------------------- */

static void run_generate(const char *const *arguments, struct harness_output *out)
{
	const char *argv[24] = {harness_program("tools/gpuq"), "generate"};
	int n = 2;

	while (*arguments != NULL)
		argv[n++] = *arguments++;
	harness_exec(argv, out);
}

static void expect_failure(int status, const char *why, const char *const *arguments)
{
	struct harness_output out;

	run_generate(arguments, &out);
	if (out.status != status || strstr(out.err, why) == NULL)
		fail_msg("wanted %d '%s', got %d '%s'", status, why, out.status, out.err);
	harness_output_free(&out);
}

#define REFUSED(status, why, ...) \
	expect_failure(status, why, (const char *const[]){__VA_ARGS__, NULL})

static void test_command(void **state)
{
	const char *const plain[] = {
		"-m", "small", "-p", "The cat", "-n", "24", "--ignore-eos", NULL};
	const char *const json[] = {"-m", "small", "-p", "The cat", "-n", "24", "--ignore-eos",
		"--temp", "1", "--seed", "5", "--json", NULL};
	const struct gpuq_writer_options drawn = {
		.ignore_end = true, .sampling = {.temperature = 1, .seed = 5}};
	struct harness_output out;
	struct world_of w;
	struct text t;

	start(&w);
	write_text(&w, (struct gpuq_writer_options){.ignore_end = true}, "The cat", &t);
	run_generate(plain, &out);
	assert_int_equal(out.status, 0);
	assert_memory_equal(out.out, t.bytes, t.length);
	assert_string_equal(out.out + t.length, "\n");
	harness_output_free(&out);

	write_text(&w, drawn, "The cat", &t);
	run_generate(json, &out);
	assert_int_equal(out.status, 0);
	json_error_t error;
	json_t *document = json_loads(out.out, 0, &error);
	assert_non_null(document);
	assert_string_equal(json_string_value(json_object_get(document, "text")), t.bytes);
	const json_t *tokens = json_object_get(document, "tokens");
	assert_int_equal(json_array_size(tokens), LENGTH);
	for (uint32_t i = 0; i < LENGTH; i++)
		assert_int_equal(json_integer_value(json_array_get(tokens, i)), t.tokens[i]);
	json_decref(document);
	harness_output_free(&out);
	stop(&w);
}

static void test_command_refusals(void **state)
{
	char llama3[4096];
	struct world_of w;

	start(&w);
	snprintf(llama3, sizeof(llama3), "%s", harness_source("tests/text/data/llama3.json"));
	REFUSED(2, "which model", "-p", "x");
	REFUSED(2, "not both", "-m", "small", "-p", "x", "-f", "/dev/null");
	REFUSED(2, "--bias", "-m", "small", "-p", "x", "--bias", "7");
	REFUSED(2, "--temp", "-m", "small", "-p", "x", "--temp", "warm");
	REFUSED(1, "no model \"other\"", "-m", "other", "-p", "x");
	REFUSED(1, "no text yet", "-m", "small", "-p", "");
	REFUSED(1, "temperature", "-m", "small", "-p", "x", "--temp", "-1");
	REFUSED(1, "/nowhere", "-m", "small", "-f", "/nowhere");
	REFUSED(1, "is this its tokenizer?", "-m", "small", "-t", llama3, "-p", "<|eot_id|>");
	stop(&w);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_greedy_is_the_likeliest),
		HARNESS_TEST(test_a_seed_is_a_text),
		HARNESS_TEST(test_long_prompts),
		HARNESS_TEST(test_ends),
		HARNESS_TEST(test_a_text_that_is_too_long),
		HARNESS_TEST(test_beside_operators),
		HARNESS_TEST(test_command),
		HARNESS_TEST(test_command_refusals),
	};

	return harness_run("generate", tests, sizeof(tests) / sizeof(tests[0]));
}
