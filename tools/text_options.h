/* SPDX-License-Identifier: MIT */
/*
 * text_options.h: what `gpuq generate` and `gpuq chat` share: the options of a policy, the model's
 * tokenizer, Ctrl-C, and how an answer's rates are told.
 */
#ifndef GPUQ_TOOLS_TEXT_OPTIONS_H
#define GPUQ_TOOLS_TEXT_OPTIONS_H

#include "client/text/gpuq-text.h"
#include "tools/command.h"

#include <stdio.h>

#define TEXT_LIST_MAX 64u /* biases; stop strings */
#define EXIT_INTERRUPTED 130

struct text_options {
	const char *tokenizer; /* NULL: the model's own */
	uint64_t max_tokens;
	bool verbose;
	struct gpuq_writer_options writer;
	struct gpuq_logit_bias biases[TEXT_LIST_MAX];
	const char *stops[TEXT_LIST_MAX];
};

enum {
	TEXT_SEED = 256,
	TEXT_TEMP,
	TEXT_TOP_K,
	TEXT_TOP_P,
	TEXT_MIN_P,
	TEXT_TYPICAL,
	TEXT_REPEAT,
	TEXT_PRESENCE,
	TEXT_FREQUENCY,
	TEXT_LAST,
	TEXT_BIAS,
	TEXT_STOP,
	TEXT_VERBOSE,
	TEXT_OWN, /* a command's own options are from here on */
};

#define TEXT_SHORTS "m:t:n:" COMMAND_SHORTS
#define TEXT_LONGS                                                                            \
	{"model", required_argument, NULL, 'm'}, {"tokenizer", required_argument, NULL, 't'}, \
		{"tokens", required_argument, NULL, 'n'},                                     \
		{"seed", required_argument, NULL, TEXT_SEED},                                 \
		{"temp", required_argument, NULL, TEXT_TEMP},                                 \
		{"top-k", required_argument, NULL, TEXT_TOP_K},                               \
		{"top-p", required_argument, NULL, TEXT_TOP_P},                               \
		{"min-p", required_argument, NULL, TEXT_MIN_P},                               \
		{"typical", required_argument, NULL, TEXT_TYPICAL},                           \
		{"repeat-penalty", required_argument, NULL, TEXT_REPEAT},                     \
		{"presence-penalty", required_argument, NULL, TEXT_PRESENCE},                 \
		{"frequency-penalty", required_argument, NULL, TEXT_FREQUENCY},               \
		{"penalty-tokens", required_argument, NULL, TEXT_LAST},                       \
		{"bias", required_argument, NULL, TEXT_BIAS},                                 \
		{"stop", required_argument, NULL, TEXT_STOP},                                 \
		{"verbose", no_argument, NULL, TEXT_VERBOSE}, COMMAND_LONGS

#define TEXT_HELP_POLICY                                                          \
	"      --top-k K, --top-p P, --min-p P, --typical P\n"                    \
	"                           which tokens may be drawn; 0: all\n"          \
	"      --repeat-penalty R, --presence-penalty X, --frequency-penalty X\n" \
	"                           against tokens that the text has already\n"   \
	"      --penalty-tokens N   only its last N count (0: all)\n"             \
	"      --bias TOKEN=X       added to a token's logit; -inf forbids it\n"  \
	"      --stop TEXT          ends before this text; may be given again\n"  \
	"      --seed N             of the random numbers (0)\n"

/* Takes one of the shared options; complains about what is wrong with it. */
bool text_option(int option, struct text_options *o);

/* Whether the model was named; complains when not. */
bool text_has_model(const struct text_options *o);

/*
 * From here on Ctrl-C is noted, and cancels the writer; another one before that was forgotten ends
 * the process. A closed pipe is an error.
 */
void text_catch_interrupts(struct text_options *o);
bool text_interrupted(void);
void text_forget_interrupt(void);

/* Waits until standard input has something, or has ended; false after Ctrl-C. */
bool text_await_input(void);

/* A connection, and what it takes to write with a model. */
struct text_session {
	struct gpuq *gpuq;
	struct gpuq_channel *channel;
	struct gpuq_tokenizer *tokenizer;
	struct gpuq_model_info model;
	const char *folder; /* of the tokenizer, or the file itself: -t, else the model's */
};

/* Opens a channel that has room for full rows, fills o->writer; complains when it cannot. */
int text_session_open(struct text_session *s, const struct invocation *v, struct text_options *o);
void text_session_close(struct text_session *s);

/* Writes text that is to be seen at once; errno says why when that fails. */
bool text_give(FILE *to, const char *text, size_t bytes);

/*
 * What becomes of a command whose output failed with this errno, 0: none. EXIT_OK also when who
 * reads a pipe has had enough, else it complains.
 */
int text_output_code(int error);

/* What it cost to write something, by the clock. */
struct text_cost {
	uint64_t n_given, n_written;
	uint64_t start_ns, first_ns, end_ns; /* first_ns: the first token is there */
};

double text_first_s(const struct text_cost *cost);
double text_given_per_s(const struct text_cost *cost);
double text_written_per_s(const struct text_cost *cost);

/* Share of the draws that needed the full row. */
double text_full_row_share(const struct gpuq_sampler_stats *stats);

#endif
