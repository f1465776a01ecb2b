/* SPDX-License-Identifier: MIT */
/*
 * gpuq generate: goes on with a text. The model is gpuqd's; tokenizer, policy and text are this
 * process's own.
 */
#include "shm/clock.h"
#include "tools/input.h"
#include "tools/text_options.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FUSED_TOKENS 32u /* of one request: text still comes in pieces, and Ctrl-C is heard */

struct generate_options {
	struct text_options text;
	const char *prompt, *file;
	bool json, fused;
};

/* What came of it. */
struct generated {
	json_t *tokens, *logprobs; /* with --json */
	char *text;		   /* likewise */
	size_t text_bytes;
	FILE *text_file;
	struct text_cost cost;
};

enum {
	OPT_IGNORE_EOS = TEXT_OWN,
	OPT_FUSED,
	OPT_JSON,
};

static const struct option longs[] = {
	TEXT_LONGS,
	{"prompt", required_argument, NULL, 'p'},
	{"file", required_argument, NULL, 'f'},
	{"ignore-eos", no_argument, NULL, OPT_IGNORE_EOS},
	{"fused", no_argument, NULL, OPT_FUSED},
	{"json", no_argument, NULL, OPT_JSON},
	{NULL},
};

static bool take_option(int option, struct generate_options *o)
{
	switch (option) {
	case 'p':
		o->prompt = optarg;
		return true;
	case 'f':
		o->file = optarg;
		return true;
	case OPT_IGNORE_EOS:
		o->text.writer.ignore_end = true;
		return true;
	case OPT_FUSED:
		o->fused = true;
		return true;
	case OPT_JSON:
		o->json = true;
		return true;
	default:
		return text_option(option, &o->text);
	}
}

/* --- Writing ------------------------------------------------------------------------------- */

/* Text goes to standard output as it comes, or into the JSON. */
static bool give_text(struct generated *g, const char *text, size_t bytes)
{
	FILE *to = g->text_file != NULL ? g->text_file : stdout;

	return fwrite(text, 1, bytes, to) == bytes && (to != stdout || fflush(stdout) == 0);
}

static bool give_token(struct generated *g, const struct gpuq_written *written)
{
	if (g->cost.n_written++ == 0)
		g->cost.first_ns = clock_monotonic_ns();
	if (g->tokens != NULL) {
		json_array_append_new(g->tokens, json_integer(written->token));
		json_array_append_new(g->logprobs,
			isfinite(written->logprob) ? json_real(written->logprob) : json_null());
	}
	return give_text(g, written->text, written->bytes);
}

/* EXIT_OK also when the reader of a pipe has had enough. */
static int write_text(struct gpuq_writer *w, const struct generate_options *o, struct generated *g)
{
	struct gpuq_written written;
	const char *rest;
	int r = 1, error = 0; /* in writing it down */

	while (g->cost.n_written < o->text.max_tokens && error == 0 && !text_interrupted()) {
		r = gpuq_writer_next(w, &written);
		if (r <= 0)
			break;
		if (!give_token(g, &written))
			error = errno;
	}
	g->cost.end_ns = clock_monotonic_ns();
	if (r < 0 && !(r == -ECANCELED && text_interrupted()))
		return command_fail();
	int64_t n = gpuq_writer_finish(w, &rest);
	if (n < 0)
		return command_fail();
	if (error == 0 && !give_text(g, rest, (size_t)n))
		error = errno;
	if (error == EPIPE)
		return EXIT_OK;
	if (error != 0) {
		complain("standard output: %s", strerror(error));
		return EXIT_FAIL;
	}
	return text_interrupted() ? EXIT_INTERRUPTED : EXIT_OK;
}

/* --- Telling ------------------------------------------------------------------------------- */

static const char *end_text(const struct gpuq_writer *w)
{
	switch (gpuq_writer_end(w)) {
	case GPUQ_WRITER_END_TOKEN:
		return "end";
	case GPUQ_WRITER_STOP_STRING:
		return "stop";
	default:
		return text_interrupted() ? "interrupted" : "length";
	}
}

static void tell_rates(
	const struct gpuq_writer *w, const struct generate_options *o, const struct text_cost *cost)
{
	struct gpuq_sampler_stats stats;

	gpuq_writer_stats(w, &stats);
	fprintf(stderr,
		"prompt: %llu tokens, %.1f tokens/s, first token after %.1f ms\n"
		"text:   %llu tokens, %.1f tokens/s, ended by %s\n",
		(unsigned long long)cost->n_given, text_given_per_s(cost), 1e3 * text_first_s(cost),
		(unsigned long long)cost->n_written, text_written_per_s(cost), end_text(w));
	if (o->fused)
		fprintf(stderr, "drawn:  on the device\n");
	else
		fprintf(stderr, "drawn:  %llu of %llu from the full row, %.1f %%\n",
			(unsigned long long)stats.full_rows, (unsigned long long)stats.draws,
			100 * text_full_row_share(&stats));
}

static int tell_json(
	const struct gpuq_writer *w, const struct generate_options *o, struct generated *g)
{
	struct gpuq_sampler_stats stats;

	gpuq_writer_stats(w, &stats);
	fflush(g->text_file);
	return print_json(
		json_pack("{s:s, s:s%, s:s, s:I, s:O, s:O, s:f, s:f, s:f, s:b, s:I, s:I, s:f}",
			"model", o->text.writer.model, "text", g->text, g->text_bytes, "ended_by",
			end_text(w), "prompt_tokens", (json_int_t)g->cost.n_given, "tokens",
			g->tokens, "logprobs", g->logprobs, "first_token_s", text_first_s(&g->cost),
			"prompt_tokens_per_s", text_given_per_s(&g->cost), "tokens_per_s",
			text_written_per_s(&g->cost), "fused", o->fused, "draws",
			(json_int_t)stats.draws, "full_rows", (json_int_t)stats.full_rows,
			"full_row_share", text_full_row_share(&stats)),
		false);
}

/* --- From the command line to the text ------------------------------------------------------- */

static int generate(
	struct gpuq_writer *w, const struct generate_options *o, const char *prompt, size_t bytes)
{
	struct generated g = {.cost.start_ns = clock_monotonic_ns()};
	int64_t n = gpuq_writer_read(w, prompt, bytes, GPUQ_ENCODE_SPECIAL);
	int code;

	if (n < 0)
		return command_fail();
	g.cost.n_given = (uint64_t)n;
	if (o->json) {
		g.tokens = json_array();
		g.logprobs = json_array();
		g.text_file = open_memstream(&g.text, &g.text_bytes);
	}
	code = write_text(w, o, &g);
	if (code != EXIT_FAIL && o->json)
		code = tell_json(w, o, &g) == EXIT_OK ? code : EXIT_FAIL;
	else if (code != EXIT_FAIL)
		(void)give_text(&g, "\n", 1);
	if (code != EXIT_FAIL && o->text.verbose)
		tell_rates(w, o, &g.cost);
	if (g.text_file != NULL)
		fclose(g.text_file);
	free(g.text);
	json_decref(g.tokens);
	json_decref(g.logprobs);
	return code;
}

static int run_connected(const struct invocation *v, struct generate_options *o)
{
	struct gpuq_writer *w = NULL;
	struct text_session session;
	char *text = NULL;
	size_t bytes = 0;
	int code;

	if (o->prompt == NULL && input_read(o->file, &text, &bytes) != EXIT_OK)
		return EXIT_FAIL;
	text_catch_interrupts(&o->text);
	code = text_session_open(&session, v, &o->text);
	if (code == EXIT_OK) {
		if (gpuq_writer_create(session.channel, &o->text.writer, &w) < 0)
			code = command_fail();
		else
			code = generate(w, o, o->prompt != NULL ? o->prompt : text,
				o->prompt != NULL ? strlen(o->prompt) : bytes);
		gpuq_writer_destroy(w);
		text_session_close(&session);
	}
	free(text);
	return code;
}

static int run(struct invocation *v, int argc, char **argv)
{
	struct generate_options o = {.text.max_tokens = 128};
	bool fine = true;
	int c;

	while (fine && (c = command_option(v, argc, argv, "p:f:" TEXT_SHORTS, longs)) != -1)
		fine = take_option(c, &o);
	if (!fine)
		return EXIT_USAGE;
	if (optind < argc)
		return complain_usage("unexpected argument '%s'", argv[optind]);
	if (!text_has_model(&o.text))
		return EXIT_USAGE;
	if (o.prompt != NULL && o.file != NULL)
		return complain_usage("--prompt or --file, not both");
	if (o.fused && o.text.max_tokens > 0)
		o.text.writer.fused = o.text.max_tokens < FUSED_TOKENS ? (uint32_t)o.text.max_tokens
								       : FUSED_TOKENS;
	return run_connected(v, &o);
}

const struct command command_generate = {
	.name = "generate",
	.arguments = "-m NAME [-p TEXT | -f FILE] [-n N] [--temp T] ...",
	.summary = "Go on with a text",
	.help = "  -m, --model NAME         the model; see gpuq models\n"
		"  -p, --prompt TEXT        the text; else that of -f, or standard input\n"
		"  -f, --file FILE          its text\n"
		"  -n, --tokens N           at most so many more (128)\n"
		"  -t, --tokenizer PATH     tokenizer.json or its folder (that of the model)\n"
		"      --temp T             temperature; 0: always the most likely token "
		"(0)\n" TEXT_HELP_POLICY
		"      --ignore-eos         go on where the model ends the text\n"
		"      --fused              draw on the device, which knows the temperature only\n"
		"      --verbose            rates, on standard error\n"
		"      --json               everything at the end, as JSON\n",
	.run = run,
};
