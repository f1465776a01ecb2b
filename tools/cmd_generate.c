/* SPDX-License-Identifier: MIT */
/*
 * gpuq generate: goes on with a text. The model is gpuqd's; tokenizer, policy and text are this
 * process's own.
 */
#include "client/text/gpuq-text.h"
#include "shm/clock.h"
#include "tools/command.h"
#include "tools/input.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LIST 64u /* biases; stop strings */
#define EXIT_INTERRUPTED 130

struct generate_options {
	const char *tokenizer, *prompt, *file;
	uint64_t max_tokens;
	bool json, verbose;
	struct gpuq_writer_options writer;
	struct gpuq_logit_bias biases[MAX_LIST];
	const char *stops[MAX_LIST];
};

/* What came of it. */
struct generated {
	json_t *tokens, *logprobs; /* with --json */
	char *text;		   /* likewise */
	size_t text_bytes;
	FILE *text_file;
	uint64_t n_prompt, n;
	uint64_t start_ns, first_ns, end_ns; /* first_ns: the first token is there */
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
	interrupted = number;
}

/* --- Options ------------------------------------------------------------------------------- */

static bool take_float(const char *option, const char *text, float *ret)
{
	char *end;
	float value = strtof(text, &end);

	if (end == text || *end != '\0' || isnan(value)) {
		complain("--%s: '%s' is not a number", option, text);
		return false;
	}
	*ret = value;
	return true;
}

/* TOKEN=VALUE, of which the value may be -inf. */
static bool take_bias(const char *text, struct generate_options *o)
{
	struct gpuq_logit_bias *bias = &o->biases[o->writer.sampling.n_biases];
	char number[24];
	const char *equals = strchr(text, '=');
	uint64_t id;

	if (o->writer.sampling.n_biases == MAX_LIST) {
		complain("--bias: at most %u of them", MAX_LIST);
		return false;
	}
	if (equals == NULL || equals - text >= (int)sizeof(number)) {
		complain("--bias: '%s' is not TOKEN=VALUE, with the number of a token", text);
		return false;
	}
	snprintf(number, sizeof(number), "%.*s", (int)(equals - text), text);
	if (!parse_count("--bias", number, 0, INT32_MAX, &id) ||
		!take_float("bias", equals + 1, &bias->bias))
		return false;
	bias->id = (uint32_t)id;
	o->writer.sampling.n_biases++;
	return true;
}

static bool take_stop(const char *text, struct generate_options *o)
{
	if (o->writer.n_stops == MAX_LIST) {
		complain("--stop: at most %u of them", MAX_LIST);
		return false;
	}
	o->stops[o->writer.n_stops++] = text;
	return true;
}

enum {
	OPT_SEED = 256,
	OPT_TEMP,
	OPT_TOP_K,
	OPT_TOP_P,
	OPT_MIN_P,
	OPT_TYPICAL,
	OPT_REPEAT,
	OPT_PRESENCE,
	OPT_FREQUENCY,
	OPT_LAST,
	OPT_BIAS,
	OPT_STOP,
	OPT_IGNORE_EOS,
	OPT_VERBOSE,
	OPT_JSON,
};

static const struct option longs[] = {
	{"model", required_argument, NULL, 'm'},
	{"tokenizer", required_argument, NULL, 't'},
	{"prompt", required_argument, NULL, 'p'},
	{"file", required_argument, NULL, 'f'},
	{"tokens", required_argument, NULL, 'n'},
	{"seed", required_argument, NULL, OPT_SEED},
	{"temp", required_argument, NULL, OPT_TEMP},
	{"top-k", required_argument, NULL, OPT_TOP_K},
	{"top-p", required_argument, NULL, OPT_TOP_P},
	{"min-p", required_argument, NULL, OPT_MIN_P},
	{"typical", required_argument, NULL, OPT_TYPICAL},
	{"repeat-penalty", required_argument, NULL, OPT_REPEAT},
	{"presence-penalty", required_argument, NULL, OPT_PRESENCE},
	{"frequency-penalty", required_argument, NULL, OPT_FREQUENCY},
	{"penalty-tokens", required_argument, NULL, OPT_LAST},
	{"bias", required_argument, NULL, OPT_BIAS},
	{"stop", required_argument, NULL, OPT_STOP},
	{"ignore-eos", no_argument, NULL, OPT_IGNORE_EOS},
	{"verbose", no_argument, NULL, OPT_VERBOSE},
	{"json", no_argument, NULL, OPT_JSON},
	COMMAND_LONGS,
	{NULL},
};

/* The options of the policy. */
static bool take_sampling(int option, struct generate_options *o)
{
	struct gpuq_sampling *s = &o->writer.sampling;
	uint64_t number = 0;
	bool fine;

	switch (option) {
	case OPT_SEED:
		return parse_count("--seed", optarg, 0, UINT64_MAX, &s->seed);
	case OPT_TEMP:
		return take_float("temp", optarg, &s->temperature);
	case OPT_TOP_K:
		fine = parse_count("--top-k", optarg, 0, UINT32_MAX, &number);
		s->top_k = (uint32_t)number;
		return fine;
	case OPT_TOP_P:
		return take_float("top-p", optarg, &s->top_p);
	case OPT_MIN_P:
		return take_float("min-p", optarg, &s->min_p);
	case OPT_TYPICAL:
		return take_float("typical", optarg, &s->typical_p);
	case OPT_REPEAT:
		return take_float("repeat-penalty", optarg, &s->repetition_penalty);
	case OPT_PRESENCE:
		return take_float("presence-penalty", optarg, &s->presence_penalty);
	case OPT_FREQUENCY:
		return take_float("frequency-penalty", optarg, &s->frequency_penalty);
	default:
		fine = parse_count("--penalty-tokens", optarg, 0, 1u << 24, &number);
		s->penalty_tokens = (uint32_t)number;
		return fine;
	}
}

static bool take_option(int option, struct generate_options *o)
{
	switch (option) {
	case 'm':
		o->writer.model = optarg;
		return true;
	case 't':
		o->tokenizer = optarg;
		return true;
	case 'p':
		o->prompt = optarg;
		return true;
	case 'f':
		o->file = optarg;
		return true;
	case 'n':
		return parse_count("--tokens", optarg, 0, UINT32_MAX, &o->max_tokens);
	case OPT_BIAS:
		return take_bias(optarg, o);
	case OPT_STOP:
		return take_stop(optarg, o);
	case OPT_IGNORE_EOS:
		o->writer.ignore_end = true;
		return true;
	case OPT_VERBOSE:
		o->verbose = true;
		return true;
	case OPT_JSON:
		o->json = true;
		return true;
	default:
		return take_sampling(option, o);
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
	if (g->n++ == 0)
		g->first_ns = clock_monotonic_ns();
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
	bool given = true;
	int r = 1;

	while (g->n < o->max_tokens && given && interrupted == 0) {
		r = gpuq_writer_next(w, &written);
		if (r <= 0)
			break;
		given = give_token(g, &written);
	}
	g->end_ns = clock_monotonic_ns();
	if (r < 0)
		return command_fail();
	int64_t n = gpuq_writer_finish(w, &rest);
	if (n < 0)
		return command_fail();
	if (given)
		given = give_text(g, rest, (size_t)n);
	if (!given && errno == EPIPE)
		return EXIT_OK;
	return interrupted != 0 ? EXIT_INTERRUPTED : EXIT_OK;
}

/* --- Telling ------------------------------------------------------------------------------- */

static double seconds(uint64_t from_ns, uint64_t to_ns)
{
	return to_ns > from_ns ? 1e-9 * (double)(to_ns - from_ns) : 0;
}

static double rate(uint64_t n, double s)
{
	return s > 0 ? (double)n / s : 0;
}

static const char *end_text(const struct gpuq_writer *w)
{
	switch (gpuq_writer_end(w)) {
	case GPUQ_WRITER_END_TOKEN:
		return "end";
	case GPUQ_WRITER_STOP_STRING:
		return "stop";
	default:
		return interrupted != 0 ? "interrupted" : "length";
	}
}

static void tell_rates(const struct gpuq_writer *w, const struct generated *g)
{
	struct gpuq_sampler_stats stats;
	const double first_s = seconds(g->start_ns, g->first_ns);
	const double rest_s = seconds(g->first_ns, g->end_ns);
	const uint64_t rest = g->n > 0 ? g->n - 1 : 0;

	gpuq_writer_stats(w, &stats);
	fprintf(stderr,
		"prompt: %llu tokens, %.1f tokens/s, first token after %.1f ms\n"
		"text:   %llu tokens, %.1f tokens/s, ended by %s\n"
		"drawn:  %llu of %llu from the full row\n",
		(unsigned long long)g->n_prompt, rate(g->n_prompt, first_s), 1e3 * first_s,
		(unsigned long long)g->n, rate(rest, rest_s), end_text(w),
		(unsigned long long)stats.full_rows, (unsigned long long)stats.draws);
}

static int tell_json(
	const struct gpuq_writer *w, const struct generate_options *o, struct generated *g)
{
	struct gpuq_sampler_stats stats;
	const double first_s = seconds(g->start_ns, g->first_ns);
	const double rest_s = seconds(g->first_ns, g->end_ns);

	gpuq_writer_stats(w, &stats);
	fflush(g->text_file);
	return print_json(
		json_pack("{s:s, s:s%, s:s, s:I, s:O, s:O, s:f, s:f, s:f, s:I, s:I}", "model",
			o->writer.model, "text", g->text, g->text_bytes, "ended_by", end_text(w),
			"prompt_tokens", (json_int_t)g->n_prompt, "tokens", g->tokens, "logprobs",
			g->logprobs, "first_token_s", first_s, "prompt_tokens_per_s",
			rate(g->n_prompt, first_s), "tokens_per_s",
			rate(g->n > 0 ? g->n - 1 : 0, rest_s), "draws", (json_int_t)stats.draws,
			"full_rows", (json_int_t)stats.full_rows),
		false);
}

/* --- From the command line to the text ------------------------------------------------------- */

static int generate(
	struct gpuq_writer *w, const struct generate_options *o, const char *prompt, size_t bytes)
{
	struct generated g = {.start_ns = clock_monotonic_ns()};
	int64_t n = gpuq_writer_read(w, prompt, bytes, GPUQ_ENCODE_SPECIAL);
	int code;

	if (n < 0)
		return command_fail();
	g.n_prompt = (uint64_t)n;
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
	if (code != EXIT_FAIL && o->verbose)
		tell_rates(w, &g);
	if (g.text_file != NULL)
		fclose(g.text_file);
	free(g.text);
	json_decref(g.tokens);
	json_decref(g.logprobs);
	return code;
}

static int open_tokenizer(
	struct gpuq *gpuq, const struct generate_options *o, struct gpuq_tokenizer **ret_tokenizer)
{
	struct gpuq_model_info info;
	const char *path = o->tokenizer;

	if (gpuq_model_find(gpuq, o->writer.model, &info) < 0)
		return command_fail();
	if (path == NULL)
		path = info.dir;
	if (path[0] == '\0') {
		complain("where the tokenizer of model %s lies is not known; give -t FOLDER",
			o->writer.model);
		return EXIT_FAIL;
	}
	return gpuq_tokenizer_load(path, ret_tokenizer) < 0 ? command_fail() : EXIT_OK;
}

static int generate_connected(
	struct gpuq *gpuq, struct generate_options *o, const char *prompt, size_t bytes)
{
	const struct gpuq_channel_options channel = {.arena_bytes = 8u << 20};
	struct gpuq_tokenizer *tokenizer = NULL;
	struct gpuq_writer *w = NULL;
	struct gpuq_channel *ch;
	int code = open_tokenizer(gpuq, o, &tokenizer);

	if (code != EXIT_OK)
		return code;
	o->writer.tokenizer = tokenizer;
	o->writer.sampling.biases = o->biases;
	o->writer.stops = o->stops;
	if (gpuq_channel_open(gpuq, &channel, &ch) < 0 ||
		gpuq_writer_create(ch, &o->writer, &w) < 0)
		code = command_fail();
	else
		code = generate(w, o, prompt, bytes);
	gpuq_writer_destroy(w);
	gpuq_tokenizer_destroy(tokenizer);
	return code;
}

static int run_connected(const struct invocation *v, struct generate_options *o)
{
	const struct sigaction interrupt = {.sa_handler = on_interrupt};
	char *text = NULL;
	size_t bytes = 0;
	struct gpuq *gpuq;

	if (o->prompt == NULL && input_read(o->file, &text, &bytes) != EXIT_OK)
		return EXIT_FAIL;
	if (command_connect(v, false, &gpuq) < 0) {
		free(text);
		return EXIT_FAIL;
	}
	sigaction(SIGINT, &interrupt, NULL);
	signal(SIGPIPE, SIG_IGN);
	int code = generate_connected(gpuq, o, o->prompt != NULL ? o->prompt : text,
		o->prompt != NULL ? strlen(o->prompt) : bytes);
	gpuq_disconnect(gpuq);
	free(text);
	return code;
}

static int run(struct invocation *v, int argc, char **argv)
{
	struct generate_options o = {.max_tokens = 128};
	bool fine = true;
	int c;

	while (fine &&
		(c = command_option(v, argc, argv, "m:t:p:f:n:" COMMAND_SHORTS, longs)) != -1)
		fine = take_option(c, &o);
	if (!fine)
		return EXIT_USAGE;
	if (optind < argc)
		return complain_usage("unexpected argument '%s'", argv[optind]);
	if (o.writer.model == NULL)
		return complain_usage("which model? give -m NAME; see gpuq models");
	if (o.prompt != NULL && o.file != NULL)
		return complain_usage("--prompt or --file, not both");
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
		"      --temp T             temperature; 0: always the most likely token (0)\n"
		"      --top-k K, --top-p P, --min-p P, --typical P\n"
		"                           which tokens may be drawn; 0: all\n"
		"      --repeat-penalty R, --presence-penalty X, --frequency-penalty X\n"
		"                           against tokens that the text has already\n"
		"      --penalty-tokens N   only its last N count (0: all)\n"
		"      --bias TOKEN=X       added to a token's logit; -inf forbids it\n"
		"      --stop TEXT          ends before this text; may be given again\n"
		"      --ignore-eos         go on where the model ends the text\n"
		"      --seed N             of the random numbers (0)\n"
		"      --verbose            rates, on standard error\n"
		"      --json               everything at the end, as JSON\n",
	.run = run,
};
