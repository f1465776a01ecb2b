/* SPDX-License-Identifier: MIT */
/* text_options.c: see text_options.h. */
#include "tools/text_options.h"
#include "shm/clock.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- Options ------------------------------------------------------------------------------- */

/* From `low` to `high`, or 0, which leaves out what the option is about. */
static bool take_float(const char *option, const char *text, float low, float high, float *ret)
{
	char *end;
	float value = strtof(text, &end);

	if (end == text || *end != '\0' || !(value == 0 || (value >= low && value <= high))) {
		complain("--%s: '%s' is not %sa number from %g to %g", option, text,
			low > 0 ? "0 or " : "", (double)low, (double)high);
		return false;
	}
	*ret = value;
	return true;
}

/* TOKEN=VALUE, of which the value may be -inf. */
static bool take_bias(const char *text, struct text_options *o)
{
	struct gpuq_logit_bias *bias = &o->biases[o->writer.sampling.n_biases];
	char number[24];
	const char *equals = strchr(text, '=');
	uint64_t id;

	if (o->writer.sampling.n_biases == TEXT_LIST_MAX) {
		complain("--bias: at most %u of them", TEXT_LIST_MAX);
		return false;
	}
	if (equals == NULL || equals - text >= (int)sizeof(number)) {
		complain("--bias: '%s' is not TOKEN=VALUE, with the number of a token", text);
		return false;
	}
	snprintf(number, sizeof(number), "%.*s", (int)(equals - text), text);
	if (!parse_count("--bias", number, 0, INT32_MAX, &id) ||
		!take_float("bias", equals + 1, -INFINITY, FLT_MAX, &bias->bias))
		return false;
	bias->id = (uint32_t)id;
	o->writer.sampling.n_biases++;
	return true;
}

static bool take_stop(const char *text, struct text_options *o)
{
	if (o->writer.n_stops == TEXT_LIST_MAX) {
		complain("--stop: at most %u of them", TEXT_LIST_MAX);
		return false;
	}
	if (*text == '\0') {
		complain("--stop: the text is empty");
		return false;
	}
	o->stops[o->writer.n_stops++] = text;
	return true;
}

/* The options of the policy. */
static bool take_sampling(int option, struct text_options *o)
{
	struct gpuq_sampling *s = &o->writer.sampling;
	uint64_t number = 0;
	bool fine;

	switch (option) {
	case TEXT_SEED:
		return parse_count("--seed", optarg, 0, UINT64_MAX, &s->seed);
	case TEXT_TEMP:
		return take_float("temp", optarg, 1e-30f, 1e30f, &s->temperature);
	case TEXT_TOP_K:
		fine = parse_count("--top-k", optarg, 0, UINT32_MAX, &number);
		s->top_k = (uint32_t)number;
		return fine;
	case TEXT_TOP_P:
		return take_float("top-p", optarg, 0, 1, &s->top_p);
	case TEXT_MIN_P:
		return take_float("min-p", optarg, 0, 1, &s->min_p);
	case TEXT_TYPICAL:
		return take_float("typical", optarg, 0, 1, &s->typical_p);
	case TEXT_REPEAT:
		return take_float(
			"repeat-penalty", optarg, FLT_MIN, FLT_MAX, &s->repetition_penalty);
	case TEXT_PRESENCE:
		return take_float(
			"presence-penalty", optarg, -FLT_MAX, FLT_MAX, &s->presence_penalty);
	case TEXT_FREQUENCY:
		return take_float(
			"frequency-penalty", optarg, -FLT_MAX, FLT_MAX, &s->frequency_penalty);
	default:
		fine = parse_count("--penalty-tokens", optarg, 0, 1u << 24, &number);
		s->penalty_tokens = (uint32_t)number;
		return fine;
	}
}

bool text_option(int option, struct text_options *o)
{
	switch (option) {
	case 'm':
		o->writer.model = optarg;
		return true;
	case 't':
		o->tokenizer = optarg;
		return true;
	case 'n':
		return parse_count("--tokens", optarg, 0, UINT32_MAX, &o->max_tokens);
	case TEXT_BIAS:
		return take_bias(optarg, o);
	case TEXT_STOP:
		return take_stop(optarg, o);
	case TEXT_VERBOSE:
		o->verbose = true;
		return true;
	default:
		return take_sampling(option, o);
	}
}

bool text_has_model(const struct text_options *o)
{
	if (o->writer.model == NULL)
		complain_usage("which model? give -m NAME, which gpuq models lists");
	return o->writer.model != NULL;
}

/* --- Ctrl-C -------------------------------------------------------------------------------- */

static volatile sig_atomic_t interrupted;

/* One that was not heard, because what is waited for does not come, is followed by another. */
static void on_interrupt(int number)
{
	if (interrupted != 0) {
		/* It is blocked here, and ends the process when this returns. */
		signal(number, SIG_DFL);
		raise(number);
	}
	interrupted = number;
}

static bool is_interrupted(void *context)
{
	return interrupted != 0;
}

void text_catch_interrupts(struct text_options *o)
{
	/* Output that a reader keeps waiting goes on: it is not to be lost. */
	const struct sigaction interrupt = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};

	sigaction(SIGINT, &interrupt, NULL);
	signal(SIGPIPE, SIG_IGN);
	o->writer.cancelled = is_interrupted;
}

bool text_interrupted(void)
{
	return interrupted != 0;
}

void text_forget_interrupt(void)
{
	interrupted = 0;
}

bool text_await_input(void)
{
	struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
	sigset_t interrupt, before;

	/* It is let in only while poll() sleeps, so it cannot come just before and be missed. */
	sigemptyset(&interrupt);
	sigaddset(&interrupt, SIGINT);
	sigprocmask(SIG_BLOCK, &interrupt, &before);
	while (interrupted == 0 && ppoll(&input, 1, NULL, &before) < 0 && errno == EINTR)
		;
	sigprocmask(SIG_SETMASK, &before, NULL);
	return interrupted == 0;
}

/* --- The model, its tokenizer and a channel ------------------------------------------------- */

static int open_tokenizer(struct text_session *s, const struct text_options *o)
{
	if (gpuq_model_find(s->gpuq, o->writer.model, &s->model) < 0)
		return command_fail();
	s->folder = o->tokenizer != NULL ? o->tokenizer : s->model.dir;
	if (s->folder[0] == '\0') {
		complain("where the tokenizer of model %s lies is not known; give -t FOLDER",
			o->writer.model);
		return EXIT_FAIL;
	}
	return gpuq_tokenizer_load(s->folder, &s->tokenizer) < 0 ? command_fail() : EXIT_OK;
}

int text_session_open(struct text_session *s, const struct invocation *v, struct text_options *o)
{
	const struct gpuq_channel_options channel = {.arena_bytes = 8u << 20};
	int code;

	*s = (struct text_session){0};
	if (command_connect(v, false, &s->gpuq) < 0)
		return EXIT_FAIL;
	code = open_tokenizer(s, o);
	if (code == EXIT_OK && gpuq_channel_open(s->gpuq, &channel, &s->channel) < 0)
		code = command_fail();
	if (code != EXIT_OK) {
		text_session_close(s);
		return code;
	}
	o->writer.tokenizer = s->tokenizer;
	o->writer.sampling.biases = o->biases;
	o->writer.stops = o->stops;
	return EXIT_OK;
}

void text_session_close(struct text_session *s)
{
	gpuq_tokenizer_destroy(s->tokenizer);
	gpuq_disconnect(s->gpuq);
}

/* --- Output -------------------------------------------------------------------------------- */

bool text_give(FILE *to, const char *text, size_t bytes)
{
	return fwrite(text, 1, bytes, to) == bytes && fflush(to) == 0;
}

int text_output_code(int error)
{
	if (error == 0 || error == EPIPE)
		return EXIT_OK;
	complain("standard output: %s", strerror(error));
	return EXIT_FAIL;
}

/* --- Costs --------------------------------------------------------------------------------- */

static double seconds(uint64_t from_ns, uint64_t to_ns)
{
	return to_ns > from_ns ? 1e-9 * (double)(to_ns - from_ns) : 0;
}

static double rate(uint64_t n, double s)
{
	return s > 0 ? (double)n / s : 0;
}

double text_first_s(const struct text_cost *cost)
{
	return seconds(cost->start_ns, cost->first_ns);
}

double text_given_per_s(const struct text_cost *cost)
{
	return rate(cost->n_given, text_first_s(cost));
}

double text_written_per_s(const struct text_cost *cost)
{
	const uint64_t rest = cost->n_written > 0 ? cost->n_written - 1 : 0;

	return rate(rest, seconds(cost->first_ns, cost->end_ns));
}

double text_full_row_share(const struct gpuq_sampler_stats *stats)
{
	return stats->draws > 0 ? (double)stats->full_rows / (double)stats->draws : 0;
}
