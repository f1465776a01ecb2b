/* SPDX-License-Identifier: MIT */
/*
 * test-chat.c: chats with a small model of random weights: what the model was given, turn by turn,
 * and `gpuq chat` in a pipe and on a terminal.
 */
#include "shm/clock.h"
#include "tests/integration/running.h"
#include "tests/integration/writing.h"

#include <errno.h>
#include <poll.h>
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define LENGTH WRITING_LENGTH
#define START "<|im_start|>user\n"
#define ASK "<|im_end|>\n<|im_start|>assistant\n"

static const struct writing_model chatml = {
	.tokenizer = "qwen", .jinja = "{{ '<|im_start|>' }}", .max_tokens = 4096};
static const struct writing_model small_chatml = {
	.tokenizer = "qwen", .jinja = "{{ '<|im_start|>' }}", .max_tokens = 128};

static struct gpuq_chat *open_chat(
	struct writing *w, struct gpuq_writer_options o, const char *system)
{
	const struct gpuq_chat_options chat = {.format = GPUQ_CHAT_CHATML, .system = system};
	struct gpuq_chat *c;

	o.model = "small";
	o.tokenizer = w->tokenizer;
	if (gpuq_chat_create(w->client.ch, &o, &chat, &c) < 0)
		fail_msg("%s", gpuq_error_detail());
	return c;
}

static int64_t say(struct gpuq_chat *c, const char *message)
{
	int64_t n = gpuq_chat_say(c, message, strlen(message));

	if (n < 0)
		fail_msg("%s", gpuq_error_detail());
	return n;
}

/* --- Against steps of the test's own ------------------------------------------------------- */

struct reference {
	struct client *client;
	struct gpuq_encoder *encoder;
	struct gpuq_session *session;
	struct gpuq_call *step;
};

static void reference_open(struct reference *r, struct writing *w)
{
	const struct gpuq_step_options options = {.max_tokens = 256, .max_rows = 1, .top_k = 1};

	r->client = &w->client;
	assert_int_equal(gpuq_encoder_create(w->tokenizer, &r->encoder), 0);
	assert_int_equal(gpuq_session_open(w->client.ch, "small", &r->session), 0);
	assert_int_equal(gpuq_step_create(r->session, &options, &r->step), 0);
}

static void reference_close(struct reference *r)
{
	gpuq_call_destroy(r->step);
	gpuq_session_close(r->session);
	gpuq_encoder_destroy(r->encoder);
}

/* The likeliest token after these. */
static uint32_t go_on(struct reference *r, const uint32_t *ids, size_t n)
{
	const struct gpuq_submission s = {.call = r->step};
	struct gpuq_completion done;
	struct gpuq_row row;

	assert_int_equal(gpuq_step_set(r->step, (const int32_t *)ids, (uint32_t)n, 1), 0);
	assert_int_equal(gpuq_submit(r->client->ch, &s, 1), 1);
	assert_int_equal(gpuq_wait(r->client->ch, &done, 1, PATIENCE_NS), 1);
	assert_int_equal(done.status, 0);
	assert_int_equal(gpuq_step_row(r->step, 0, &row), 0);
	return (uint32_t)row.tokens[0];
}

/* The answer to a text whose special tokens count is this one. */
static void expect_answer(struct reference *r, const char *text, const struct written_text *t)
{
	const uint32_t *ids;
	int64_t n = gpuq_encode(r->encoder, text, strlen(text), 0, &ids);
	uint32_t next = go_on(r, ids, (size_t)n);

	for (uint32_t i = 0; i < t->n; i++) {
		assert_int_equal(t->tokens[i], next);
		next = go_on(r, &next, 1);
	}
}

/* gpuqd publishes what it counts now and then. */
static void expect_tokens_given(struct writing *w, uint64_t wanted)
{
	const uint64_t start_ns = clock_monotonic_ns();
	struct gpuq_model_info m;

	do {
		assert_int_equal(gpuq_model_find(w->client.g, "small", &m), 0);
		usleep(1000);
	} while (m.prompt_tokens < wanted && clock_monotonic_ns() - start_ns < PATIENCE_NS);
	assert_int_equal(m.prompt_tokens, wanted);
}

/* Turns of one session: each answer is what the whole conversation says, and costs its turn. */
static void test_turns(void **state)
{
	struct gpuq_writer_options o = {.ignore_end = true};
	struct written_text first, second;
	struct reference r;
	struct writing w;

	writing_start(&w, &chatml);
	struct gpuq_chat *c = open_chat(&w, o, "Be brief.");
	int64_t given = say(c, "Hello! <|im_end|>");
	writing_go_on(gpuq_chat_writer(c), &first);
	given += say(c, "And then?");
	writing_go_on(gpuq_chat_writer(c), &second);
	/* The last token of the second answer waits for what comes. */
	expect_tokens_given(&w, (uint64_t)given + 2 * LENGTH - 1);
	gpuq_chat_destroy(c);

	reference_open(&r, &w);
	const uint32_t *ids;
	int64_t n = gpuq_encode(r.encoder, "Hello! <|im_end|>", 17, GPUQ_ENCODE_LITERAL, &ids);
	uint32_t said[32];
	assert_in_range(n, 1, 32);
	memcpy(said, ids, (size_t)n * sizeof(*said));
	const char *system = "<|im_start|>system\nBe brief.<|im_end|>\n" START;
	n = gpuq_encode(r.encoder, system, strlen(system), 0, &ids);
	go_on(&r, ids, (size_t)n);
	n = gpuq_encode(r.encoder, "Hello! <|im_end|>", 17, GPUQ_ENCODE_LITERAL, &ids);
	go_on(&r, ids, (size_t)n);
	expect_answer(&r, ASK, &first);
	/* That has given all of the first answer; it was cut off, so its end follows. */
	expect_answer(&r, "<|im_end|>\n" START "And then?" ASK, &second);
	reference_close(&r);
	writing_stop(&w);
}

/* The format's token ends an answer, though it ends no text of the model; and is not said twice. */
static void test_answers_end(void **state)
{
	struct gpuq_logit_bias likely = {.bias = 1000};
	struct gpuq_written written;
	struct writing w;

	writing_start(&w, &chatml);
	likely.id = (uint32_t)gpuq_tokenizer_find(w.tokenizer, "<|im_end|>", 10);
	struct gpuq_chat *ends = open_chat(&w,
		(struct gpuq_writer_options){.sampling = {.n_biases = 1, .biases = &likely}}, NULL);
	const int64_t n = say(ends, "a");
	assert_int_equal(gpuq_writer_next(gpuq_chat_writer(ends), &written), 1);
	assert_int_equal(written.token, likely.id);
	assert_int_equal(written.bytes, 0);
	assert_int_equal(gpuq_writer_end(gpuq_chat_writer(ends)), GPUQ_WRITER_END_TOKEN);
	assert_int_equal(gpuq_writer_next(gpuq_chat_writer(ends), &written), 0);
	assert_int_equal(say(ends, "a"), n + 1); /* the line's end */
	gpuq_chat_destroy(ends);

	struct gpuq_chat *open = open_chat(&w, (struct gpuq_writer_options){0}, NULL);
	assert_int_equal(say(open, "a"), n);
	assert_int_equal(gpuq_writer_next(gpuq_chat_writer(open), &written), 1);
	assert_int_equal(say(open, "a"), n + 2);
	gpuq_chat_destroy(open);
	writing_stop(&w);
}

static void test_refusals(void **state)
{
	const struct writing_model gpt2 = {.tokenizer = "gpt2", .max_tokens = 128};
	struct gpuq_chat *c = NULL;
	struct writing w;

	writing_start(&w, &gpt2);
	const struct gpuq_writer_options o = {.model = "small", .tokenizer = w.tokenizer};
	for (enum gpuq_chat_format f = 0; f <= GPUQ_CHAT_CHATML + 1; f++) {
		const struct gpuq_chat_options chat = {.format = f};
		const bool known = gpuq_chat_format_name(f) != NULL;

		assert_int_equal(
			gpuq_chat_create(w.client.ch, &o, &chat, &c), known ? -ENOTSUP : -EINVAL);
		assert_non_null(strstr(gpuq_error_detail(), known ? "lacks" : "no chat format"));
	}
	writing_stop(&w);
}

/* --- The command in a pipe ----------------------------------------------------------------- */

/* Lines into `gpuq chat -m small` with more options. */
static void pipe_chat(const char *lines, const char *options, struct harness_output *out)
{
	char command[600];
	const char *const argv[] = {
		"sh", "-c", command, "sh", harness_program("tools/gpuq"), lines, NULL};

	snprintf(
		command, sizeof(command), "printf '%%b' \"$2\" | \"$1\" chat -m small %s", options);
	harness_exec(argv, out);
}

static void expect_chat(
	const char *lines, const char *options, int status, const char *out, const char *err)
{
	struct harness_output o;

	pipe_chat(lines, options, &o);
	if (o.status != status || (out != NULL && strcmp(o.out, out) != 0) ||
		strstr(o.err, err) == NULL)
		fail_msg("got %d '%s' '%s', wanted %d '%s' '%s'", o.status, o.out, o.err, status,
			out != NULL ? out : "...", err);
	harness_output_free(&o);
}

static void test_pipe(void **state)
{
	struct written_text first, second;
	char expected[2 * sizeof(first.bytes) + 4], options[64], more[128];
	struct writing w;

	writing_start(&w, &chatml);
	const struct gpuq_logit_bias no_zero = writing_no_zero(&w);
	snprintf(options, sizeof(options), "--temp 0 -n 24 --bias %u=-inf", no_zero.id);
	struct gpuq_chat *c = open_chat(&w,
		(struct gpuq_writer_options){.sampling = {.n_biases = 1, .biases = &no_zero}},
		NULL);
	say(c, "Hello!");
	writing_go_on(gpuq_chat_writer(c), &first);
	say(c, "And then?");
	writing_go_on(gpuq_chat_writer(c), &second);
	gpuq_chat_destroy(c);
	snprintf(expected, sizeof(expected), "%s\n%s\n", first.bytes, second.bytes);
	expect_chat("Hello!\\n\\nAnd then?\\n/exit\\nno\\n", options, 0, expected, "");
	snprintf(more, sizeof(more), "%s --format chatml", options);
	expect_chat("Hello!\\r\\nAnd then?", more, 0, expected, "");
	snprintf(expected, sizeof(expected), "%s\n%s\n", first.bytes, first.bytes);
	snprintf(more, sizeof(more), "%s --verbose", options);
	expect_chat("Hello!\\n/clear\\nHello!", more, 0, expected, "answer: ");
	expect_chat("", "", 0, "", "");
	expect_chat("a\\n", "--format alpaca", 2, "", "llama2, llama3 and chatml");
	expect_chat("a\\n", "--format llama3", 1, "", "<|begin_of_text|>");
	expect_chat("a\\n", "-t /tmp", 1, "", "tokenizer.json");
	expect_chat("\\377\\n", "", 1, "", "not UTF-8");
	writing_stop(&w);
}

static void test_no_template(void **state)
{
	const struct writing_model plain = {.tokenizer = "qwen", .max_tokens = 128};
	const struct writing_model other = {
		.tokenizer = "qwen", .jinja = "<start_of_turn>", .max_tokens = 128};
	struct writing w;

	writing_start(&w, &plain);
	expect_chat("a\\n", "", 1, "", "no chat template");
	expect_chat("a\\n", "--format chatml -n 1", 0, NULL, "");
	writing_stop(&w);
	writing_start(&w, &other);
	expect_chat("a\\n", "", 1, "", "Gemma");
	writing_stop(&w);
}

/* Full is said, a new chat is another, and the exit status is that of the last answer. */
static void test_full(void **state)
{
	struct writing w;

	writing_start(&w, &small_chatml);
	expect_chat("a\\nb\\n", "--bias 7=-inf --bias 1202=-inf", 1, NULL,
		"as long as the model allows, 128 tokens");
	expect_chat(
		"a\\n/clear\\nb\\n/exit\\n", "-n 100 --bias 7=-inf --bias 1202=-inf", 0, NULL, "");
	writing_stop(&w);
}

static void expect_no_output(const char *where, const char *why)
{
	struct harness_output o;

	pipe_chat("a\\nb\\n", where, &o);
	if (o.status != 1 || strstr(o.err, why) == NULL)
		fail_msg("%s: %d '%s'", where, o.status, o.err);
	harness_output_free(&o);
}

/* What cannot be written down is not taken for said; a pipe that nobody reads is no failure. */
static void test_no_output(void **state)
{
	struct harness_output o;
	struct writing w;

	writing_start(&w, &chatml);
	expect_no_output("-n 3 > /dev/full", "standard output: No space left on device");
	expect_no_output("-n 3 >&-", "standard output: Bad file descriptor");
	pipe_chat("a\\nb\\n", "-n 4000 --bias 7=-inf --bias 1202=-inf | head -c 3", &o);
	assert_int_equal(o.status, 0);
	assert_string_equal(o.err, "");
	harness_output_free(&o);
	writing_stop(&w);
}

/* What was said until gpuqd ended stands, and a line ends. */
static void test_gpuqd_is_killed(void **state)
{
	const struct writing_model endless = {
		.tokenizer = "qwen", .jinja = chatml.jinja, .max_tokens = 1u << 17};
	struct running r;
	struct writing w;

	writing_start(&w, &endless);
	const char *const argv[] = {"sh", "-c",
		"echo Hello | \"$1\" chat -m small -n 130000 --bias 7=-inf --bias 1202=-inf", "sh",
		harness_program("tools/gpuq"), NULL};
	running_start(&r, argv);
	running_await_output(&r, 1);
	harness_daemon_kill(w.daemon);
	running_expect_end(&r, 1, "gpuqd");
	assert_true(r.bytes > 1);
	assert_int_equal(r.text[r.bytes - 1], '\n');
	running_free(&r);
	writing_stop(&w);
}

/* --- On a terminal ------------------------------------------------------------------------- */

struct terminal {
	int fd;
	pid_t pid;
	char seen[1u << 18];
	size_t n;
};

static void terminal_start(struct terminal *t)
{
	const char *gpuq = harness_program("tools/gpuq");
	const char *const argv[] = {gpuq, "chat", "-m", "small", "-n", "4000", "--bias", "7=-inf",
		"--bias", "1202=-inf", NULL};

	t->n = 0;
	t->pid = forkpty(&t->fd, NULL, NULL, NULL);
	assert_true(t->pid >= 0);
	if (t->pid == 0) {
		execv(gpuq, (char *const *)argv);
		_exit(127);
	}
}

static void terminal_type(const struct terminal *t, const char *text)
{
	assert_int_equal(write(t->fd, text, strlen(text)), strlen(text));
}

/* Reads more of it, as long as that is not too long in coming. */
static void terminal_read(struct terminal *t, const char *what)
{
	struct pollfd p = {.fd = t->fd, .events = POLLIN};
	const int r = poll(&p, 1, (int)(PATIENCE_NS / 1000000));

	ssize_t n = r <= 0 ? 0 : read(t->fd, t->seen + t->n, sizeof(t->seen) - t->n);
	if (n <= 0)
		fail_msg("no '%s' in '%.*s'", what, (int)t->n, t->seen);
	t->n += (size_t)n;
}

/* Waits until something is seen behind `from`; returns where that ends. */
static size_t terminal_await(struct terminal *t, size_t from, const char *what)
{
	const char *at;

	while ((at = memmem(t->seen + from, t->n - from, what, strlen(what))) == NULL)
		terminal_read(t, what);
	return (size_t)(at - t->seen) + strlen(what);
}

static void terminal_expect_exit(struct terminal *t, int code)
{
	int status;

	/* What it still writes has to be read, or it waits. */
	while (read(t->fd, t->seen, sizeof(t->seen)) > 0)
		;
	assert_int_equal(waitpid(t->pid, &status, 0), t->pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), code);
	close(t->fd);
}

/* Ctrl-C stops an answer and not the chat; at a prompt it says how to leave. */
static void test_terminal(void **state)
{
	static struct terminal t;
	struct writing w;

	writing_start(&w, &chatml);
	terminal_start(&t);
	size_t at = terminal_await(&t, 0, "> ");
	for (int i = 0; i < 3; i++) {
		terminal_type(&t, "Hello!\n");
		at = terminal_await(&t, at, "Hello!\r\n");
		while (t.n < at + 20)
			terminal_read(&t, "an answer");
		terminal_type(&t, "\003");
		at = terminal_await(&t, at, "\n> ");
	}
	terminal_type(&t, "\003");
	at = terminal_await(&t, at, "/exit or Ctrl-D ends");
	at = terminal_await(&t, at, "> ");
	terminal_type(&t, "/exit\n");
	terminal_expect_exit(&t, 0);
	writing_stop(&w);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_turns),
		HARNESS_TEST(test_answers_end),
		HARNESS_TEST(test_refusals),
		HARNESS_TEST(test_pipe),
		HARNESS_TEST(test_no_template),
		HARNESS_TEST(test_full),
		HARNESS_TEST_LONG(test_no_output, 60),
		HARNESS_TEST_LONG(test_gpuqd_is_killed, 60),
		HARNESS_TEST(test_terminal),
	};

	return harness_run("chat", tests, sizeof(tests) / sizeof(tests[0]));
}
