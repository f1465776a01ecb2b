/* SPDX-License-Identifier: MIT */
/*
 * test-generate-command.c: `gpuq generate` and client/examples/lipogram.c against a real gpuqd:
 * that each option does what libgpuq-text does with it, and that whatever ends a text, what was
 * written until then is there, and said to be what it is.
 *
 *	TEST_SEED=N   weights; printed (writing.c)
 */
#include "shm/clock.h"
#include "tests/integration/running.h"
#include "tests/integration/world.h"
#include "tests/integration/writing.h"

#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define LENGTH WRITING_LENGTH
#define MAX_ARGS 32

static const struct writing_model gpt2 = {.tokenizer = "gpt2", .max_tokens = 1024};
static const struct writing_model tight = {.tokenizer = "gpt2", .max_tokens = 64};
static const struct writing_model unwatched = {
	.tokenizer = "gpt2", .max_tokens = 1024, .unwatched = true};
/* A text of it takes far longer than any test. */
static const struct writing_model endless = {.tokenizer = "gpt2", .max_tokens = 1u << 17};

/* --- Running it ---------------------------------------------------------------------------- */

/* gpuq generate -m small, and more, which ends with NULL. */
static void generate_argv(const char *const *more, const char **argv)
{
	int n = 0;

	argv[n++] = harness_program("tools/gpuq");
	argv[n++] = "generate";
	argv[n++] = "-m";
	argv[n++] = "small";
	while (*more != NULL && n < MAX_ARGS - 1)
		argv[n++] = *more++;
	argv[n] = NULL;
}

static void generate(struct harness_output *out, const char *const *more)
{
	const char *argv[MAX_ARGS];

	generate_argv(more, argv);
	harness_exec(argv, out);
}

static void expect_failure(int status, const char *why, const char *const *more)
{
	struct harness_output out;

	generate(&out, more);
	if (out.status != status || strstr(out.err, why) == NULL)
		fail_msg("wanted %d '%s', got %d '%s'", status, why, out.status, out.err);
	harness_output_free(&out);
}
#define REFUSED(status, why, ...) \
	expect_failure(status, why, (const char *const[]){__VA_ARGS__, NULL})

static json_t *read_document(const char *text)
{
	json_error_t error;
	json_t *document = json_loads(text, JSON_ALLOW_NUL, &error);

	if (document == NULL)
		fail_msg("%s in '%s'", error.text, text);
	return document;
}

/* What --json, which is among the arguments, prints. */
static json_t *generate_json(int status, const char *const *more)
{
	struct harness_output out;

	generate(&out, more);
	if (out.status != status)
		fail_msg("wanted %d, got %d '%s'", status, out.status, out.err);
	json_t *document = read_document(out.out);
	assert_string_equal(
		json_string_value(json_object_get(document, "schema")), "gpuq-generate/1");
	harness_output_free(&out);
	return document;
}
#define JSON_OF(status, ...) \
	generate_json(status, (const char *const[]){__VA_ARGS__, "--json", NULL})

static const char *text_of(const json_t *document, const char *key)
{
	const char *text = json_string_value(json_object_get(document, key));

	return text != NULL ? text : "(none)";
}

static size_t count_of(const json_t *document)
{
	return json_array_size(json_object_get(document, "tokens"));
}

/* The first tokens of the document, or all when it has fewer. */
static bool has_tokens(const json_t *document, const struct written_text *t)
{
	const json_t *tokens = json_object_get(document, "tokens");

	for (uint32_t i = 0; i < t->n && i < json_array_size(tokens); i++)
		if (json_integer_value(json_array_get(tokens, i)) != t->tokens[i])
			return false;
	return true;
}

static void expect_tokens(json_t *document, const struct written_text *t)
{
	assert_int_equal(count_of(document), t->n);
	assert_true(has_tokens(document, t));
	json_decref(document);
}

/* --- Prompts and policies ------------------------------------------------------------------ */

static void test_plain(void **state)
{
	const char *const plain[] = {"-p", "The cat", "-n", "24", "--ignore-eos", NULL};
	const char *const verbose[] = {
		"-p", "The cat", "-n", "24", "--ignore-eos", "--verbose", NULL};
	const char *const fused[] = {
		"-p", "The cat", "-n", "24", "--ignore-eos", "--fused", "--verbose", NULL};
	struct harness_output out;
	struct writing w;
	struct written_text t;

	writing_start(&w, &gpt2);
	writing_text(&w, (struct gpuq_writer_options){.ignore_end = true}, "The cat", &t);
	generate(&out, plain);
	assert_int_equal(out.status, 0);
	assert_memory_equal(out.out, t.bytes, t.length);
	assert_string_equal(out.out + t.length, "\n");
	assert_string_equal(out.err, "");
	harness_output_free(&out);
	/* The likeliest token is a candidate. */
	generate(&out, verbose);
	assert_int_equal(out.status, 0);
	if (strstr(out.err, "drawn:  0 of 24 from the full row, 0.0 %\n") == NULL)
		fail_msg("'%s'", out.err);
	harness_output_free(&out);
	generate(&out, fused);
	assert_int_equal(out.status, 0);
	assert_memory_equal(out.out, t.bytes, t.length);
	assert_non_null(strstr(out.err, "on the device"));
	assert_non_null(strstr(out.err, "first token after"));
	assert_non_null(strstr(out.err, "ended by length"));
	harness_output_free(&out);
	writing_stop(&w);
}

static void test_json(void **state)
{
	const struct gpuq_writer_options drawn = {
		.ignore_end = true, .sampling = {.temperature = 1, .seed = 5}};
	struct writing w;
	struct written_text t;

	writing_start(&w, &gpt2);
	writing_text(&w, drawn, "The cat", &t);
	json_t *document = JSON_OF(
		0, "-p", "The cat", "-n", "24", "--ignore-eos", "--temp", "1", "--seed", "5");
	const json_t *text = json_object_get(document, "text");
	assert_int_equal(json_string_length(text), t.length);
	assert_memory_equal(json_string_value(text), t.bytes, t.length);
	assert_string_equal(text_of(document, "ended_by"), "length");
	assert_null(json_object_get(document, "error"));
	/* Of so flat a row, most draws need all. */
	const double rows = json_number_value(json_object_get(document, "full_rows"));
	assert_true(rows > 0 && rows <= LENGTH);
	const double share = json_number_value(json_object_get(document, "full_row_share"));
	assert_true(fabs(share - rows / LENGTH) < 1e-9);
	expect_tokens(document, &t);
	writing_stop(&w);
}

/* The tokens that the model's file puts around a text are part of the prompt. */
static void test_special_tokens(void **state)
{
	const struct writing_model llama3 = {.tokenizer = "llama3", .max_tokens = 128};
	struct writing w;

	writing_start(&w, &llama3);
	json_t *document = JSON_OF(0, "-p", "a", "-n", "1");
	assert_int_equal(json_integer_value(json_object_get(document, "prompt_tokens")), 2);
	json_decref(document);
	writing_stop(&w);
}

/* A file, standard input, and standard input by name; without the newline at the end. */
static void test_prompts(void **state)
{
	const struct gpuq_writer_options o = {.ignore_end = true};
	static const char *const forms[] = {"-f \"$2\"", "< \"$2\"", "-f - < \"$2\""};
	struct written_text t;
	struct writing w;
	char path[300];

	writing_start(&w, &gpt2);
	writing_text(&w, o, "The cat\nsat\n", &t);
	snprintf(path, sizeof(path), "%s/prompt", harness_tmpdir());
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	assert_true(fputs("The cat\nsat\n\n", f) >= 0 && fclose(f) == 0);
	for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
		struct harness_output out;
		char command[200];
		const char *const argv[] = {
			"sh", "-c", command, "sh", harness_program("tools/gpuq"), path, NULL};

		snprintf(command, sizeof(command),
			"\"$1\" generate -m small -n 24 --ignore-eos --json %s", forms[i]);
		harness_exec(argv, &out);
		if (out.status != 0)
			fail_msg("%s: %d '%s'", forms[i], out.status, out.err);
		expect_tokens(read_document(out.out), &t);
		harness_output_free(&out);
	}
	writing_stop(&w);
}

/* Each does what the library does with it, which is not what is done without it. */
static void test_policies(void **state)
{
	static const struct gpuq_logit_bias bias = {.id = 300, .bias = 1000};
	static const struct {
		struct gpuq_sampling sampling;
		const char *arguments[4];
	} cases[] = {
		{{.seed = 6}, {"--seed", "6"}},
		{{.seed = 5, .top_k = 2}, {"--top-k", "2"}},
		{{.seed = 5, .top_p = 0.05f}, {"--top-p", "0.05"}},
		{{.seed = 5, .min_p = 0.99f}, {"--min-p", "0.99"}},
		{{.seed = 5, .typical_p = 0.05f}, {"--typical", "0.05"}},
		{{.seed = 5, .repetition_penalty = 1e6f}, {"--repeat-penalty", "1e6"}},
		{{.seed = 5, .presence_penalty = 100}, {"--presence-penalty", "100"}},
		{{.seed = 5, .frequency_penalty = 100}, {"--frequency-penalty", "100"}},
		{{.seed = 5, .presence_penalty = 100, .penalty_tokens = 1},
			{"--presence-penalty", "100", "--penalty-tokens", "1"}},
		{{.seed = 5, .n_biases = 1, .biases = &bias}, {"--bias", "300=1000"}},
	};
	struct gpuq_writer_options o = {
		.ignore_end = true, .sampling = {.temperature = 1, .seed = 5}};
	struct written_text t;
	struct writing w;

	setenv("TEST_SEED", "1", 1); /* weights with which each case makes a difference */
	writing_start(&w, &gpt2);
	writing_text(&w, o, "The cat", &t);
	expect_tokens(JSON_OF(0, "-p", "The cat", "-n", "24", "--ignore-eos", "--temp", "1",
			      "--seed", "5"),
		&t);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const char *const *a = cases[i].arguments;
		const char *const more[] = {"-p", "The cat", "-n", "24", "--ignore-eos", "--json",
			"--temp", "1", "--seed", "5", a[0], a[1], a[2], a[3], NULL};
		struct written_text changed;

		o.sampling = cases[i].sampling;
		o.sampling.temperature = 1;
		writing_text(&w, o, "The cat", &changed);
		if (memcmp(changed.tokens, t.tokens, sizeof(t.tokens)) == 0)
			fail_msg("%s makes no difference", a[0]);
		print_message("%s %s\n", a[0], a[1]);
		expect_tokens(generate_json(0, more), &changed);
	}
	writing_stop(&w);
}

static void test_ends(void **state)
{
	struct written_text whole;
	struct writing w;
	char string[8] = "", no_zero_text[32];

	writing_start(&w, &gpt2);
	const struct gpuq_logit_bias no_zero = writing_no_zero(&w);
	snprintf(no_zero_text, sizeof(no_zero_text), "%u=-inf", no_zero.id);
	const struct gpuq_writer_options o = {
		.ignore_end = true, .sampling = {.n_biases = 1, .biases = &no_zero}};
	writing_text(&w, o, "Once", &whole);
	/* A piece from the middle of the text, at whole characters. */
	size_t at = whole.length / 2, end = at + 3;
	while (((unsigned char)whole.bytes[at] & 0xc0) == 0x80)
		at++;
	while (end < at + 4 || ((unsigned char)whole.bytes[end] & 0xc0) == 0x80)
		end++;
	memcpy(string, whole.bytes + at, end - at);
	json_t *document = JSON_OF(0, "-p", "Once", "--ignore-eos", "--bias", no_zero_text,
		"--stop", "never to be seen", "--stop", string);
	assert_string_equal(text_of(document, "ended_by"), "stop");
	*strstr(whole.bytes, string) = '\0';
	assert_string_equal(text_of(document, "text"), whole.bytes);
	json_decref(document);

	document = JSON_OF(0, "-p", "Once", "--bias", "7=1000"); /* WRITING_END */
	assert_string_equal(text_of(document, "ended_by"), "end");
	assert_int_equal(count_of(document), 1);
	json_decref(document);
	document = JSON_OF(0, "-p", "Once", "--bias", "7=1000", "-n", "3", "--ignore-eos");
	assert_string_equal(text_of(document, "ended_by"), "length");
	assert_int_equal(count_of(document), 3);
	json_decref(document);
	writing_stop(&w);
}

/* --- Fused --------------------------------------------------------------------------------- */

/* Through several requests; a rate is one of tokens that were waited for, or none. */
static void test_fused(void **state)
{
	const struct gpuq_writer_options o = {
		.ignore_end = true, .fused = 1, .sampling = {.temperature = 1, .seed = 5}};
	struct written_text t;
	struct writing w;

	writing_start(&w, &gpt2);
	writing_text(&w, o, "The cat", &t);
	struct stats stats = raw_stats(w.daemon);
	const uint64_t before = shm_load_relaxed(&stats.devices[0].completed);
	json_t *document = JSON_OF(0, "-p", "The cat", "-n", "70", "--ignore-eos", "--fused",
		"--temp", "1", "--seed", "5");
	/* 4 requests; some of the 24 before them may have been counted late. */
	raw_await(shm_load_relaxed(&stats.devices[0].completed) - before >= 4);
	assert_in_range(shm_load_relaxed(&stats.devices[0].completed) - before, 4, 28);
	stats_close(&stats);
	assert_int_equal(count_of(document), 70);
	assert_true(has_tokens(document, &t));
	assert_true(json_is_true(json_object_get(document, "fused")));
	assert_true(json_number_value(json_object_get(document, "tokens_per_s")) > 0);
	json_decref(document);
	document = JSON_OF(0, "-p", "The cat", "-n", "1", "--ignore-eos", "--fused");
	assert_int_equal(count_of(document), 1);
	assert_true(json_number_value(json_object_get(document, "first_token_s")) > 0);
	assert_true(json_is_null(json_object_get(document, "tokens_per_s")));
	json_decref(document);
	writing_stop(&w);
}

/* The device knows the temperature only. */
static void test_fused_refusals(void **state)
{
	struct writing w;

	writing_start(&w, &gpt2);
	REFUSED(1, "top_k; draw each token here", "-p", "x", "--fused", "--top-k", "4");
	REFUSED(1, "top_p", "-p", "x", "--fused", "--top-p", "0.5");
	REFUSED(1, "min_p", "-p", "x", "--fused", "--min-p", "0.5");
	REFUSED(1, "typical_p", "-p", "x", "--fused", "--typical", "0.5");
	REFUSED(1, "repetition_penalty", "-p", "x", "--fused", "--repeat-penalty", "2");
	REFUSED(1, "presence_penalty", "-p", "x", "--fused", "--presence-penalty", "1");
	REFUSED(1, "frequency_penalty", "-p", "x", "--fused", "--frequency-penalty", "1");
	REFUSED(1, "penalty_tokens", "-p", "x", "--fused", "--penalty-tokens", "5");
	REFUSED(1, "bias", "-p", "x", "--fused", "--bias", "1=1");
	writing_stop(&w);
}

/* Numbers that no sampler takes are refused by the option's name. */
static void refuse_numbers(void)
{
	static const char *const all[][2] = {
		{"--temp", "warm"},
		{"--temp", "-1"},
		{"--temp", "nan"},
		{"--temp", "1e39"},
		{"--temp", "1e-31"},
		{"--top-p", "1.5"},
		{"--min-p", "-0.1"},
		{"--typical", "2"},
		{"--repeat-penalty", "-1"},
		{"--presence-penalty", "inf"},
		{"--frequency-penalty", "-inf"},
		{"--bias", "3=inf"},
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		REFUSED(2, all[i][0], "-p", "x", all[i][0], all[i][1]);
}

static void test_refusals(void **state)
{
	char llama3[4096];
	struct harness_output out;
	struct writing w;

	writing_start(&w, &gpt2);
	snprintf(llama3, sizeof(llama3), "%s", harness_source("tests/text/data/llama3.json"));
	REFUSED(1, "cannot be a model's name", "-m", "", "-p", "x");
	const char *const no_model[] = {harness_program("tools/gpuq"), "generate", "-p", "x", NULL};
	harness_exec(no_model, &out);
	assert_int_equal(out.status, 2);
	assert_non_null(strstr(out.err,
		"which model? give -m NAME, which gpuq models lists; see gpuq generate --help"));
	harness_output_free(&out);
	REFUSED(2, "not both", "-p", "x", "-f", "/dev/null");
	REFUSED(2, "--bias", "-p", "x", "--bias", "7");
	REFUSED(2, "--stop: the text is empty", "-p", "x", "--stop", "");
	refuse_numbers();
	REFUSED(1, "no model \"other\"", "-m", "other", "-p", "x");
	REFUSED(1, "no text yet", "-p", "");
	REFUSED(1, "/nowhere", "-f", "/nowhere");
	REFUSED(1, "is this its tokenizer?", "-t", llama3, "-p", "<|eot_id|>");
	writing_stop(&w);
}

/* --- Where texts end before their time ------------------------------------------------------ */

static void expect_context(const char *how)
{
	const char *const plain[] = {"-p", "The cat", "-n", "500", "--ignore-eos", how, NULL};
	struct harness_output out;

	generate(&out, plain);
	assert_int_equal(out.status, 0);
	assert_true(strlen(out.err) > 0);
	if (strstr(out.err, "as long as the model allows, 64 tokens\n") == NULL)
		fail_msg("'%s'", out.err);
	json_t *document = JSON_OF(0, "-p", "The cat", "-n", "500", "--ignore-eos", how);
	const json_t *text = json_object_get(document, "text");
	const size_t bytes = json_string_length(text);
	assert_memory_equal(out.out, json_string_value(text), bytes);
	assert_string_equal(out.out + bytes, "\n");
	harness_output_free(&out);
	assert_string_equal(text_of(document, "ended_by"), "context");
	assert_null(json_object_get(document, "error"));
	/* The last one is part of no context. */
	assert_int_equal(json_integer_value(json_object_get(document, "prompt_tokens")) +
			(json_int_t)count_of(document),
		65);
	json_decref(document);
}

/* Full: that is an end as others. A prompt that does not fit is a failure. */
static void test_context(void **state)
{
	struct harness_output out;
	char prompt[600];
	struct writing w;

	writing_start(&w, &tight);
	expect_context("--ignore-eos");
	expect_context("--fused");
	for (size_t i = 0; i < sizeof(prompt); i++)
		prompt[i] = (char)('a' + i % 26);
	prompt[sizeof(prompt) - 1] = '\0';
	const char *const too_long[] = {"-p", prompt, NULL};
	generate(&out, too_long);
	assert_int_equal(out.status, 1);
	assert_string_equal(out.out, "");
	assert_non_null(strstr(out.err, "longer than the model's limit"));
	harness_output_free(&out);
	json_t *document = JSON_OF(1, "-p", prompt);
	assert_string_equal(text_of(document, "error"), "GPUQ_ECONTEXT");
	assert_string_equal(text_of(document, "text"), "");
	assert_true(json_is_null(json_object_get(document, "first_token_s")));
	json_decref(document);
	writing_stop(&w);
}

static const char *const endless_plain[] = {"-p", "x", "-n", "130000", "--ignore-eos", NULL};
static const char *const endless_json[] = {
	"-p", "x", "-n", "130000", "--ignore-eos", "--json", NULL};

static void start(struct running *r, const char *const *more)
{
	const char *argv[MAX_ARGS];

	generate_argv(more, argv);
	running_start(r, argv);
}

/* Each token that was written is given for the next one, and gpuqd counts these. */
static void await_written(struct writing *w)
{
	const uint64_t start_ns = clock_monotonic_ns();
	struct gpuq_model_info m;

	do {
		if (clock_monotonic_ns() - start_ns > PATIENCE_NS)
			fail_msg("nothing is written");
		usleep(2000);
		assert_int_equal(gpuq_model_find(w->client.g, "small", &m), 0);
	} while (m.prompt_tokens <= 5);
}

/* One that keeps its text until the end, then one that prints it: both are in mid-text. */
static void start_two(struct writing *w, struct running *json, struct running *plain)
{
	writing_start(w, &endless);
	start(json, endless_json);
	await_written(w);
	start(plain, endless_plain);
	running_await_output(plain, 1);
}

static void expect_plain(struct running *r, int status, const char *why)
{
	running_expect_end(r, status, why);
	assert_true(r->bytes > 1);
	assert_int_equal(r->text[r->bytes - 1], '\n');
	running_free(r);
}

/* failed: it says why, and by a name. */
static void expect_json(
	struct running *r, int status, const char *why, const char *ended_by, bool failed)
{
	running_expect_end(r, status, why);
	json_t *document = read_document(r->text);
	const char *error = text_of(document, "error");
	assert_string_equal(text_of(document, "ended_by"), ended_by);
	assert_true(json_string_length(json_object_get(document, "text")) > 0);
	assert_true(count_of(document) > 0);
	if (strncmp(error, failed ? "GPUQ_E" : "(none)", 6) != 0 ||
		(failed && strstr(text_of(document, "why"), why) == NULL))
		fail_msg("%s: '%s'", error, text_of(document, "why"));
	json_decref(document);
	running_free(r);
}

static void test_interrupt(void **state)
{
	struct running json, plain;
	struct writing w;

	start_two(&w, &json, &plain);
	assert_int_equal(kill(json.pid, SIGINT), 0);
	assert_int_equal(kill(plain.pid, SIGINT), 0);
	expect_plain(&plain, 130, "");
	expect_json(&json, 130, "", "interrupted", false);
	writing_stop(&w);
}

static uint64_t channels_of(const struct stats *stats, pid_t pid)
{
	for (uint32_t i = 0; i < stats->header->max_clients; i++)
		if (shm_load_acquire_u32(&stats->clients[i].state) == STATS_CLIENT_CONNECTED &&
			stats->clients[i].pid == (uint32_t)pid)
			return shm_load_relaxed(&stats->clients[i].channels);
	return 0;
}

/* Interrupts it until it has ended: the second one may come too soon to be another. */
static bool ends_by_interrupts(struct running *r)
{
	int status;

	assert_int_equal(kill(r->pid, SIGINT), 0);
	if (waitpid(r->pid, &status, WNOHANG) == 0)
		return false;
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGINT)
		fail_msg("wait status %#x", (unsigned int)status);
	return true;
}

/* It waits for a device process that is stopped, and hears no Ctrl-C. */
static void test_interrupt_again(void **state)
{
	struct running r;
	struct writing w;

	writing_start(&w, &unwatched);
	struct stats stats = raw_stats(w.daemon);
	const pid_t device = world_device_pid(w.daemon);
	assert_int_equal(kill(device, SIGSTOP), 0);
	start(&r, endless_plain);
	raw_await(channels_of(&stats, r.pid) == 1);
	raw_await(ends_by_interrupts(&r));
	assert_int_equal(kill(device, SIGCONT), 0);
	close(r.out);
	close(r.err);
	stats_close(&stats);
	writing_stop(&w);
}

static void test_model_is_unloaded(void **state)
{
	struct running json, plain;
	struct harness_output out;
	struct writing w;

	start_two(&w, &json, &plain);
	const char *const argv[] = {
		harness_program("tools/gpuq"), "unload", "small", "--force", NULL};
	harness_exec(argv, &out);
	if (out.status != 0)
		fail_msg("%s", out.err);
	harness_output_free(&out);
	expect_plain(&plain, 1, "step: ");
	expect_json(&json, 1, "step: ", "error", true);
	writing_stop(&w);
}

static void test_device_is_lost(void **state)
{
	struct running json, plain;
	struct writing w;

	start_two(&w, &json, &plain);
	assert_int_equal(kill(world_device_pid(w.daemon), SIGKILL), 0);
	expect_plain(&plain, 1, "step: ");
	expect_json(&json, 1, "step: ", "error", true);
	writing_stop(&w);
}

static void test_gpuqd_is_killed(void **state)
{
	struct running json, plain;
	struct writing w;

	start_two(&w, &json, &plain);
	harness_daemon_kill(w.daemon);
	expect_plain(&plain, 1, "gpuqd");
	expect_json(&json, 1, "gpuqd", "error", true);
	writing_stop(&w);
}

/* --- Where nobody can read it --------------------------------------------------------------- */

/* A reader that has had enough ends it without a word. */
static void expect_quiet_end(const char *const *more)
{
	struct running r;

	start(&r, more);
	close(r.out);
	r.out = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_true(r.out >= 0);
	running_expect_end(&r, 0, "");
	running_free(&r);
}

static void test_closed_pipe(void **state)
{
	const char *const json[] = {"-p", "x", "-n", "9", "--json", NULL};
	struct harness_output out;
	struct writing w;

	writing_start(&w, &gpt2);
	expect_quiet_end(endless_plain);
	expect_quiet_end(json);
	/* The text itself may have zeros. */
	const char *const argv[] = {"sh", "-c",
		"\"$1\" generate -m small -p x -n 900 --ignore-eos | head -c 3 > /dev/null; echo "
		"end",
		"sh", harness_program("tools/gpuq"), NULL};
	harness_exec(argv, &out);
	assert_int_equal(out.status, 0);
	assert_string_equal(out.out, "end\n");
	assert_string_equal(out.err, "");
	harness_output_free(&out);
	writing_stop(&w);
}

/* A full disk, or no standard output at all, does not. */
static void test_no_output(void **state)
{
	static const struct {
		const char *more, *why;
	} cases[] = {
		{"-n 9 > /dev/full", "standard output: No space left on device"},
		{"-n 0 > /dev/full", "standard output: No space left on device"},
		{"-n 9 --json > /dev/full", "standard output: No space left on device"},
		{"-n 9 >&-", "standard output: Bad file descriptor"},
		{"-n 9 --json >&-", "standard output: Bad file descriptor"},
	};
	struct writing w;

	writing_start(&w, &gpt2);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct harness_output out;
		char command[200];
		const char *const argv[] = {
			"sh", "-c", command, "sh", harness_program("tools/gpuq"), NULL};

		snprintf(command, sizeof(command), "\"$1\" generate -m small -p x --ignore-eos %s",
			cases[i].more);
		harness_exec(argv, &out);
		if (out.status != 1 || strstr(out.err, cases[i].why) == NULL)
			fail_msg("%s: %d '%s'", cases[i].more, out.status, out.err);
		harness_output_free(&out);
	}
	writing_stop(&w);
}

/* --- client/examples ------------------------------------------------------------------------ */

static void expect_lipogram(int status, const char *why, const char *model, const char *text)
{
	const char *const argv[] = {harness_program("client/text/lipogram"), model, text, NULL};
	struct harness_output out;

	harness_exec(argv, &out);
	if (out.status != status || strstr(out.err, why) == NULL)
		fail_msg("%d '%s'", out.status, out.err);
	if (status == 0) {
		assert_true(strlen(out.out) > 20);
		assert_null(strchr(out.out, 'e'));
		assert_int_equal(out.out[strlen(out.out) - 1], '\n');
	}
	harness_output_free(&out);
}

/* A policy of one's own. */
static void test_lipogram(void **state)
{
	char prompt[160];
	struct writing w;

	setenv("TEST_SEED", "1", 1); /* weights whose text has no byte 0 */
	writing_start(&w, &gpt2);
	expect_lipogram(0, "", "small", "The cat");
	expect_lipogram(1, "no model \"other\"", "other", "The cat");
	expect_lipogram(2, "usage: lipogram MODEL TEXT", "small", NULL);
	writing_stop(&w);
	writing_start(&w, &tight);
	memset(prompt, 'x', sizeof(prompt) - 1);
	prompt[sizeof(prompt) - 1] = '\0';
	expect_lipogram(1, "longer than the model's limit", "small", prompt);
	writing_stop(&w);
}

int main(void)
{
	/* Many of them start a dozen programs. */
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_plain),
		HARNESS_TEST(test_json),
		HARNESS_TEST(test_special_tokens),
		HARNESS_TEST_LONG(test_prompts, 60),
		HARNESS_TEST_LONG(test_policies, 120),
		HARNESS_TEST(test_ends),
		HARNESS_TEST(test_fused),
		HARNESS_TEST_LONG(test_fused_refusals, 60),
		HARNESS_TEST_LONG(test_refusals, 60),
		HARNESS_TEST_LONG(test_context, 60),
		HARNESS_TEST_LONG(test_interrupt, 60),
		HARNESS_TEST_LONG(test_interrupt_again, 60),
		HARNESS_TEST_LONG(test_model_is_unloaded, 60),
		HARNESS_TEST_LONG(test_device_is_lost, 60),
		HARNESS_TEST_LONG(test_gpuqd_is_killed, 60),
		HARNESS_TEST_LONG(test_closed_pipe, 60),
		HARNESS_TEST_LONG(test_no_output, 60),
		HARNESS_TEST_LONG(test_lipogram, 60),
	};

	return harness_run("generate command", tests, sizeof(tests) / sizeof(tests[0]));
}
