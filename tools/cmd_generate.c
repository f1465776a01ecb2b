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

#define FUSED_TOKENS 32u /* of a request at most: text still comes in pieces, and Ctrl-C is heard */

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
	const char *ended_by;
	int status; /* negative: why a token did not come, and in words */
	char why[512];
	int output_error; /* errno of writing it down */
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
static void give_text(struct generated *g, const char *text, size_t bytes)
{
	FILE *to = g->text_file != NULL ? g->text_file : stdout;

	if (g->output_error == 0 && !text_give(to, text, bytes))
		g->output_error = errno;
}

static void give_token(struct generated *g, const struct gpuq_written *written)
{
	if (g->cost.n_written++ == 0)
		g->cost.first_ns = clock_monotonic_ns();
	if (g->tokens != NULL) {
		json_array_append_new(g->tokens, json_integer(written->token));
		json_array_append_new(g->logprobs,
			isfinite(written->logprob) ? json_real(written->logprob) : json_null());
	}
	give_text(g, written->text, written->bytes);
}

/* r: what the writer said last. */
static const char *end_text(const struct gpuq_writer *w, int r)
{
	if (gpuq_writer_end(w) == GPUQ_WRITER_END_TOKEN)
		return "end";
	if (gpuq_writer_end(w) == GPUQ_WRITER_STOP_STRING)
		return "stop";
	if (r == -GPUQ_ECONTEXT)
		return "context";
	if (r < 0 && r != -ECANCELED)
		return "error";
	return text_interrupted() ? "interrupted" : "length";
}

static void note_error(struct generated *g, int status)
{
	g->status = status;
	snprintf(g->why, sizeof(g->why), "%s", gpuq_error_detail());
}

/* Whatever ends it, what was written until then is kept. */
static void write_text(struct gpuq_writer *w, const struct generate_options *o, struct generated *g)
{
	struct gpuq_written written;
	const char *rest;
	int r = 1;

	while (g->cost.n_written < o->text.max_tokens && g->output_error == 0 &&
		!text_interrupted()) {
		r = gpuq_writer_next(w, &written);
		if (r <= 0)
			break;
		give_token(g, &written);
	}
	g->cost.end_ns = clock_monotonic_ns();
	g->ended_by = end_text(w, r);
	/* A text that has come to the model's limit is a text; one that begins there is none. */
	if (r < 0 && r != -ECANCELED && !(r == -GPUQ_ECONTEXT && g->cost.n_written > 0))
		note_error(g, r);
	const int64_t n = gpuq_writer_finish(w, &rest);
	if (n < 0)
		note_error(g, (int)n);
	else
		give_text(g, rest, (size_t)n);
}

/* --- Telling ------------------------------------------------------------------------------- */

static void tell_rates(
	const struct gpuq_writer *w, const struct generate_options *o, const struct generated *g)
{
	const struct text_cost *cost = &g->cost;
	struct gpuq_sampler_stats stats;
	char given[96] = "", written[32] = "";

	gpuq_writer_stats(w, &stats);
	if (cost->n_written > 0)
		snprintf(given, sizeof(given), ", %.1f tokens/s, first token after %.1f ms",
			text_given_per_s(cost), 1e3 * text_first_s(cost));
	if (cost->n_written > 1)
		snprintf(written, sizeof(written), ", %.1f tokens/s", text_written_per_s(cost));
	fprintf(stderr,
		"prompt: %llu tokens%s\n"
		"text:   %llu tokens%s, ended by %s\n",
		(unsigned long long)cost->n_given, given, (unsigned long long)cost->n_written,
		written, g->ended_by);
	if (o->fused)
		fprintf(stderr, "drawn:  on the device\n");
	else
		fprintf(stderr, "drawn:  %llu of %llu from the full row, %.1f %%\n",
			(unsigned long long)stats.full_rows, (unsigned long long)stats.draws,
			100 * text_full_row_share(&stats));
}

/* One that nothing was measured of is null. */
static json_t *rate_json(double value)
{
	return value > 0 ? json_real(value) : json_null();
}

static int print_text_json(
	const struct gpuq_writer *w, const struct generate_options *o, struct generated *g)
{
	struct gpuq_sampler_stats stats;
	json_t *document;

	gpuq_writer_stats(w, &stats);
	fflush(g->text_file);
	document = json_pack("{s:s, s:s, s:s%, s:s, s:I, s:O, s:O, s:o, s:o, s:o, s:b, s:I, s:I, "
			     "s:f}",
		"schema", "gpuq-generate/1", "model", o->text.writer.model, "text", g->text,
		g->text_bytes, "ended_by", g->ended_by, "prompt_tokens",
		(json_int_t)g->cost.n_given, "tokens", g->tokens, "logprobs", g->logprobs,
		"first_token_s", rate_json(text_first_s(&g->cost)), "prompt_tokens_per_s",
		rate_json(text_given_per_s(&g->cost)), "tokens_per_s",
		rate_json(text_written_per_s(&g->cost)), "fused", o->fused, "draws",
		(json_int_t)stats.draws, "full_rows", (json_int_t)stats.full_rows, "full_row_share",
		text_full_row_share(&stats));
	if (g->status < 0 && document != NULL) {
		json_object_set_new(document, "error", json_string(gpuq_error_name(g->status)));
		json_object_set_new(document, "why", json_string(g->why));
	}
	return print_json(document, false);
}

/* The end of a text that has been printed as it came. */
static int end_line(struct generated *g, uint32_t limit)
{
	if (g->cost.n_written > 0 || g->status == 0)
		give_text(g, "\n", 1);
	if (g->status == 0 && strcmp(g->ended_by, "context") == 0)
		complain("the text has become as long as the model allows, %u tokens", limit);
	return text_output_code(g->output_error);
}

/* --- From the command line to the text ------------------------------------------------------- */

static int tell(const struct gpuq_writer *w, const struct generate_options *o, struct generated *g,
	uint32_t limit)
{
	const int code = o->json ? print_text_json(w, o, g) : end_line(g, limit);

	if (o->text.verbose)
		tell_rates(w, o, g);
	if (g->status < 0)
		complain("%s", g->why);
	if (code != EXIT_OK || g->status < 0)
		return EXIT_FAIL;
	return text_interrupted() ? EXIT_INTERRUPTED : EXIT_OK;
}

static int generate(struct gpuq_writer *w, const struct generate_options *o, const char *prompt,
	size_t bytes, uint32_t limit)
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
		if (g.text_file == NULL)
			complain("out of memory");
	}
	if (!o->json || g.text_file != NULL) {
		write_text(w, o, &g);
		code = tell(w, o, &g, limit);
	} else {
		code = EXIT_FAIL;
	}
	if (g.text_file != NULL)
		fclose(g.text_file);
	free(g.text);
	json_decref(g.tokens);
	json_decref(g.logprobs);
	return code;
}

/* Without the newline that ends the last line: a model seldom goes on well behind one. */
static int read_prompt(const char *file, char **ret_text, size_t *ret_bytes)
{
	const int code = input_read(file, ret_text, ret_bytes);

	if (code == EXIT_OK && *ret_bytes > 0 && (*ret_text)[*ret_bytes - 1] == '\n')
		--*ret_bytes;
	return code;
}

static int run_connected(const struct invocation *v, struct generate_options *o)
{
	struct gpuq_writer *w = NULL;
	struct text_session session;
	char *text = NULL;
	size_t bytes = 0;
	int code;

	if (o->prompt == NULL && read_prompt(o->file, &text, &bytes) != EXIT_OK)
		return EXIT_FAIL;
	text_catch_interrupts(&o->text);
	code = text_session_open(&session, v, &o->text);
	if (code == EXIT_OK) {
		if (gpuq_writer_create(session.channel, &o->text.writer, &w) < 0)
			code = command_fail();
		else
			code = generate(w, o, o->prompt != NULL ? o->prompt : text,
				o->prompt != NULL ? strlen(o->prompt) : bytes,
				session.model.max_tokens);
		gpuq_writer_destroy(w);
		text_session_close(&session);
	}
	free(text);
	return code;
}

/* Of each request behind the first token, so that as few as can be are made and not wanted. */
static uint32_t fused_tokens(uint64_t max_tokens)
{
	const uint64_t more = max_tokens > 1 ? max_tokens - 1 : 1;
	const uint64_t requests = (more - 1) / FUSED_TOKENS + 1;

	return (uint32_t)((more - 1) / requests + 1);
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
	if (o.fused)
		o.text.writer.fused = fused_tokens(o.text.max_tokens);
	return run_connected(v, &o);
}

const struct command command_generate = {
	.name = "generate",
	.arguments = "-m NAME [-p TEXT | -f FILE] [-n N] [--temp T] ...",
	.summary = "Go on with a text",
	.help = "  -m, --model NAME         the model; see gpuq models\n"
		"  -p, --prompt TEXT        the text; else that of -f, or standard input\n"
		"  -f, --file FILE          its text; a last newline of either is left out\n"
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
