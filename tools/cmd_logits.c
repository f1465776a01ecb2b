/* SPDX-License-Identifier: MIT */
/* gpuq logits: all logits that a model gives behind each of some tokens, as a NumPy file. */
#include "tools/command.h"
#include "tools/npy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEP_BYTES (64ull << 20) /* of logits that one step gives */

struct logits_options {
	const char *model, *out;
	int32_t *tokens; /* owned */
	uint32_t n;
};

/* One number of the list, up to a comma or the end. */
static const char *take_token(const char *text, int32_t *ret)
{
	char *end;

	errno = 0;
	long value = strtol(text, &end, 10);
	if (end == text || errno != 0 || value < INT32_MIN || value > INT32_MAX ||
		(*end != ',' && *end != '\0'))
		return NULL;
	*ret = (int32_t)value;
	return end;
}

static bool take_tokens(const char *text, struct logits_options *o)
{
	size_t n = 1;

	for (const char *p = text; *p != '\0'; p++)
		n += *p == ',';
	free(o->tokens);
	o->n = 0;
	o->tokens = calloc(n, sizeof(*o->tokens));
	if (o->tokens == NULL) {
		complain("out of memory");
		return false;
	}
	for (const char *p = text; p != NULL; p = *p == ',' ? p + 1 : NULL) {
		const char *at = p;
		p = take_token(at, &o->tokens[o->n]);
		if (p == NULL) {
			complain("--tokens: '%s' is no list of whole numbers", at);
			return false;
		}
		o->n++;
	}
	return true;
}

/* What is behind tokens from `first` on, as many as one step gives. */
static int compute(struct gpuq_channel *ch, struct gpuq_call *step, const struct logits_options *o,
	uint32_t first, uint32_t n, uint32_t vocab, float *to)
{
	const struct gpuq_submission s = {.call = step};
	struct gpuq_completion c;
	struct gpuq_row row;
	char text[256];

	if (gpuq_step_set(step, &o->tokens[first], n, n) < 0 || gpuq_submit(ch, &s, 1) < 0 ||
		gpuq_wait(ch, &c, 1, GPUQ_FOREVER) < 0)
		return command_fail();
	if (c.status < 0) {
		complain("%s", gpuq_explain(step, &c, text, sizeof(text)));
		return EXIT_FAIL;
	}
	for (uint32_t i = 0; i < n; i++) {
		if (gpuq_step_row(step, i, &row) < 0)
			return command_fail();
		memcpy(&to[(uint64_t)i * vocab], row.logits, vocab * sizeof(float));
	}
	return EXIT_OK;
}

static int compute_all(struct gpuq_channel *ch, struct gpuq_session *session,
	const struct logits_options *o, uint32_t at_once, uint32_t vocab)
{
	const struct gpuq_step_options step_options = {
		.max_tokens = at_once, .max_rows = at_once, .logits = true};
	const uint64_t dims[] = {o->n, vocab};
	float *all = calloc(o->n, (size_t)vocab * sizeof(float));
	struct gpuq_call *step;
	char why[512];
	int code = EXIT_OK;

	if (all == NULL) {
		complain("out of memory");
		return EXIT_FAIL;
	}
	if (gpuq_step_create(session, &step_options, &step) < 0) {
		free(all);
		return command_fail();
	}
	for (uint32_t at = 0; code == EXIT_OK && at < o->n; at += at_once) {
		uint32_t n = o->n - at < at_once ? o->n - at : at_once;
		code = compute(ch, step, o, at, n, vocab, &all[(uint64_t)at * vocab]);
	}
	if (code == EXIT_OK && npy_write(o->out, GPUQ_F32, 2, dims, all, why, sizeof(why)) < 0) {
		complain("%s: %s", o->out, why);
		code = EXIT_FAIL;
	}
	free(all);
	return code;
}

static int logits(struct gpuq *gpuq, const struct logits_options *o)
{
	struct gpuq_model_info info;
	struct gpuq_channel *ch;
	struct gpuq_session *session;

	if (gpuq_model_find(gpuq, o->model, &info) < 0)
		return command_fail();
	uint64_t at_once = info.vocab != 0 ? STEP_BYTES / (4ull * info.vocab) : 1;
	at_once = at_once < 1 ? 1 : at_once < o->n ? at_once : o->n;
	const struct gpuq_channel_options options = {
		.arena_bytes = at_once * 4 * (info.vocab + 64ull) + (1u << 16)};
	if (gpuq_channel_open(gpuq, &options, &ch) < 0 ||
		gpuq_session_open(ch, o->model, &session) < 0)
		return command_fail();
	return compute_all(ch, session, o, (uint32_t)at_once, info.vocab);
}

static int run_connected(const struct invocation *v, const struct logits_options *o)
{
	struct gpuq *gpuq;

	if (o->model == NULL || o->tokens == NULL || o->out == NULL)
		return complain_usage("--model, --tokens and --out are needed");
	if (command_connect(v, false, &gpuq) < 0)
		return EXIT_FAIL;
	int code = logits(gpuq, o);
	gpuq_disconnect(gpuq);
	return code;
}

static int run(struct invocation *v, int argc, char **argv)
{
	static const struct option longs[] = {
		{"model", required_argument, NULL, 'm'},
		{"tokens", required_argument, NULL, 't'},
		{"out", required_argument, NULL, 'o'},
		COMMAND_LONGS,
		{NULL},
	};
	struct logits_options o = {0};
	bool fine = true;
	int c;

	while (fine && (c = command_option(v, argc, argv, "m:t:o:" COMMAND_SHORTS, longs)) != -1) {
		if (c == 'm')
			o.model = optarg;
		else if (c == 'o')
			o.out = optarg;
		else
			fine = take_tokens(optarg, &o);
	}
	int code = EXIT_USAGE;
	if (fine && optind < argc)
		code = complain_usage("unexpected argument '%s'", argv[optind]);
	else if (fine)
		code = run_connected(v, &o);
	free(o.tokens);
	return code;
}

const struct command command_logits = {
	.name = "logits",
	.arguments = "-m NAME --tokens 1,2,3 --out FILE.npy",
	.summary = "Save all logits that a model gives behind each token",
	.help = "  -m, --model NAME    the model; see gpuq models\n"
		"  -t, --tokens LIST   numbers of tokens, separated by commas\n"
		"  -o, --out FILE.npy  f32 [tokens, vocabulary]\n",
	.run = run,
};
