/* SPDX-License-Identifier: MIT */
/*
 * gpuq chat: a conversation with a model. Each line of standard input is said, and answered on
 * standard output; prompts and remarks are for a terminal only, so it works in a pipe.
 */
#include "shm/clock.h"
#include "tools/text_options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	OPT_FORMAT = TEXT_OWN,
	OPT_SYSTEM,
};

struct chat_options {
	struct text_options text;
	const char *format; /* NULL: that of the model's template */
	struct gpuq_chat_options chat;
};

struct conversation {
	struct text_session session;
	const struct chat_options *o;
	struct gpuq_chat *chat;
	bool terminal;	  /* somebody sits there */
	int code;	  /* of the last answer */
	int output_error; /* errno of writing one down */
};

static const struct option longs[] = {
	TEXT_LONGS,
	{"format", required_argument, NULL, OPT_FORMAT},
	{"system", required_argument, NULL, OPT_SYSTEM},
	{NULL},
};

/* --- Answers ------------------------------------------------------------------------------- */

/* For somebody who sits there. */
static void remark(const struct conversation *c, const char *text)
{
	if (c->terminal)
		fprintf(stderr, "%s\n", text);
}

/* Whether somebody can still read it. */
static bool give(struct conversation *c, const char *text, size_t bytes)
{
	if (c->output_error == 0 && !text_give(stdout, text, bytes))
		c->output_error = errno;
	return c->output_error == 0;
}

static void tell_cost(
	const struct text_cost *cost, const struct gpuq_sampler_stats *now, uint64_t full_rows)
{
	fprintf(stderr,
		"[said: %llu tokens, %.1f tokens/s, first token after %.1f ms; "
		"answer: %llu tokens, %.1f tokens/s; %llu from the full row, %.1f %% in all]\n",
		(unsigned long long)cost->n_given, text_given_per_s(cost), 1e3 * text_first_s(cost),
		(unsigned long long)cost->n_written, text_written_per_s(cost),
		(unsigned long long)(now->full_rows - full_rows), 100 * text_full_row_share(now));
}

/*
 * Writes until the answer ends, is stopped or cannot be written down. 0 also then, or an error of
 * the writer: what it had written before is there all the same.
 */
static int write_answer(struct conversation *c, struct text_cost *cost)
{
	struct gpuq_writer *w = gpuq_chat_writer(c->chat);
	struct gpuq_written written;
	const char *rest;
	int r = 1;

	while (cost->n_written < c->o->text.max_tokens && !text_interrupted()) {
		r = gpuq_writer_next(w, &written);
		if (r <= 0)
			break;
		if (cost->n_written++ == 0)
			cost->first_ns = clock_monotonic_ns();
		if (!give(c, written.text, written.bytes))
			return 0;
	}
	cost->end_ns = clock_monotonic_ns();
	if (r == 1 && !text_interrupted())
		remark(c, "\n(cut off at this length; see --tokens)");
	const int64_t n = gpuq_writer_finish(w, &rest);
	if (n < 0)
		return (int)n;
	give(c, rest, (size_t)n);
	give(c, "\n", 1);
	return r == -ECANCELED || r > 0 ? 0 : r;
}

/* Whether the chat can go on after this error of an answer. */
static bool explain_error(struct conversation *c, int error)
{
	c->code = EXIT_FAIL;
	if (error == -GPUQ_ECONTEXT) {
		complain("the chat has become as long as the model allows, %u tokens: /clear "
			 "begins a new one, /exit ends",
			c->session.model.max_tokens);
		return true;
	}
	complain("%s", gpuq_error_detail());
	return error == -GPUQ_EKV || error == -EILSEQ;
}

/* Whether the chat goes on. */
static bool answer(struct conversation *c, const char *message, size_t bytes)
{
	struct text_cost cost = {.start_ns = clock_monotonic_ns()};
	struct gpuq_sampler_stats before, after;
	int64_t n = gpuq_chat_say(c->chat, message, bytes);

	gpuq_writer_stats(gpuq_chat_writer(c->chat), &before);
	c->code = EXIT_OK;
	if (n < 0)
		return explain_error(c, (int)n);
	cost.n_given = (uint64_t)n;
	const int r = write_answer(c, &cost);
	text_forget_interrupt();
	if (c->output_error != 0) {
		c->code = text_output_code(c->output_error);
		return false;
	}
	gpuq_writer_stats(gpuq_chat_writer(c->chat), &after);
	if (c->o->text.verbose)
		tell_cost(&cost, &after, before.full_rows);
	return r == 0 || explain_error(c, r);
}

/* --- The conversation ---------------------------------------------------------------------- */

static int begin(struct conversation *c)
{
	gpuq_chat_destroy(c->chat);
	c->chat = NULL;
	if (gpuq_chat_create(c->session.channel, &c->o->text.writer, &c->o->chat, &c->chat) < 0)
		return command_fail();
	return EXIT_OK;
}

/* A line without its end; its length, or -1 at the end of input and after Ctrl-C. */
static ssize_t read_line(struct conversation *c, char **line, size_t *room)
{
	if (c->terminal)
		give(c, "> ", 2);
	if (!text_await_input())
		return -1;
	ssize_t n = getline(line, room, stdin);
	if (n > 0 && (*line)[n - 1] == '\n')
		n--;
	if (n > 0 && (*line)[n - 1] == '\r')
		n--;
	if (n >= 0)
		(*line)[n] = '\0';
	return n;
}

/* Whether the chat goes on. */
static bool take_line(struct conversation *c, const char *line, size_t n)
{
	if (strcmp(line, "/exit") == 0)
		return false;
	if (strcmp(line, "/clear") == 0) {
		c->code = begin(c);
		return c->code == EXIT_OK;
	}
	return n == 0 || answer(c, line, n);
}

static int converse(struct conversation *c)
{
	char *line = NULL;
	size_t room = 0;
	bool goes_on = true;

	/* Nothing is read ahead of what is waited for. */
	setvbuf(stdin, NULL, _IONBF, 0);
	remark(c, "(/exit or Ctrl-D ends, /clear begins anew, Ctrl-C stops an answer)");
	while (goes_on) {
		const ssize_t n = read_line(c, &line, &room);
		if (n >= 0) {
			goes_on = take_line(c, line, (size_t)n);
			continue;
		}
		if (!text_interrupted() || !c->terminal)
			break;
		text_forget_interrupt();
		remark(c, "\n(/exit or Ctrl-D ends)");
	}
	if (goes_on && c->terminal)
		give(c, "\n", 1);
	free(line);
	return text_interrupted() ? EXIT_INTERRUPTED : c->code;
}

/* --- From the command line to the conversation ----------------------------------------------- */

static bool take_format(struct chat_options *o)
{
	for (enum gpuq_chat_format f = 1; gpuq_chat_format_name(f) != NULL; f++)
		if (o->format != NULL && strcmp(gpuq_chat_format_name(f), o->format) == 0)
			o->chat.format = f;
	if (o->format == NULL || o->chat.format != 0)
		return true;
	complain("--format: there is no '%s'; gpuq knows llama2, llama3 and chatml", o->format);
	return false;
}

static int run_connected(const struct invocation *v, struct chat_options *o)
{
	struct conversation c = {
		.o = o, .terminal = isatty(STDIN_FILENO) == 1 && isatty(STDOUT_FILENO) == 1};
	int code;

	text_catch_interrupts(&o->text);
	code = text_session_open(&c.session, v, &o->text);
	if (code != EXIT_OK)
		return code;
	if (o->format == NULL && gpuq_chat_detect(c.session.folder, &o->chat.format) < 0)
		code = command_fail();
	if (code == EXIT_OK)
		code = begin(&c);
	if (code == EXIT_OK)
		code = converse(&c);
	gpuq_chat_destroy(c.chat);
	text_session_close(&c.session);
	return code;
}

static int run(struct invocation *v, int argc, char **argv)
{
	struct chat_options o = {.text = {.max_tokens = 1024,
					 .writer.sampling = {.temperature = 0.7f, .top_p = 0.95f}}};
	bool fine = true;
	int c;

	while (fine && (c = command_option(v, argc, argv, TEXT_SHORTS, longs)) != -1) {
		if (c == OPT_FORMAT)
			o.format = optarg;
		else if (c == OPT_SYSTEM)
			o.chat.system = optarg;
		else
			fine = text_option(c, &o.text);
	}
	if (!fine || !take_format(&o))
		return EXIT_USAGE;
	if (optind < argc)
		return complain_usage("unexpected argument '%s'", argv[optind]);
	return text_has_model(&o.text) ? run_connected(v, &o) : EXIT_USAGE;
}

const struct command command_chat = {
	.name = "chat",
	.arguments = "-m NAME [--system TEXT] [--temp T] ...",
	.summary = "Talk with a model",
	.help = "  -m, --model NAME         the model; see gpuq models\n"
		"      --system TEXT        what the model is told before all\n"
		"      --format FORMAT      llama2, llama3 or chatml (what the template of the\n"
		"                           model's folder asks for)\n"
		"  -n, --tokens N           at most so many in an answer (1024)\n"
		"  -t, --tokenizer PATH     the folder of tokenizer and template (the model's)\n"
		"      --temp T             temperature; 0: always the most likely token (0.7)\n"
		"                           --top-p is 0.95 unless it is given\n" TEXT_HELP_POLICY
		"      --verbose            rates of each answer, on standard error\n",
	.notes = "Each line is said. /exit, or the end of input, ends; /clear begins anew;\n"
		 "Ctrl-C stops an answer and keeps the chat.\n",
	.run = run,
};
