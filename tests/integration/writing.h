/* SPDX-License-Identifier: MIT */
/*
 * writing.h: a real gpuqd with a small model of random weights and a tokenizer that has as many
 * tokens, and texts that libgpuq-text writes with it.
 *
 *	TEST_SEED=N   weights; printed
 */
#ifndef GPUQ_TESTS_INTEGRATION_WRITING_H
#define GPUQ_TESTS_INTEGRATION_WRITING_H

#include "client/text/gpuq-text.h"
#include "tests/integration/client.h"

#define WRITING_LENGTH 24u /* tokens of a text */
#define WRITING_END 7	   /* the token that ends one */

struct writing_model {
	const char *tokenizer; /* in tests/text/data */
	const char *jinja;     /* the folder's chat template, or NULL */
	uint32_t max_tokens;
	bool unwatched; /* a device process that is stopped is left alone */
};

struct writing {
	struct harness_daemon *daemon;
	struct gpuq_tokenizer *tokenizer;
	struct client client;
	char dir[300]; /* of the model, whose name is "small" */
};

extern const struct gpuq_channel_options writing_channel;

void writing_start(struct writing *w, const struct writing_model *model);
void writing_stop(struct writing *w);

/* A writer for the model; o's model and tokenizer are filled in. */
struct gpuq_writer *writing_open(struct writing *w, struct gpuq_writer_options o);

/* Forbids the byte 0, which would end a string of the test's; other chances are as before. */
struct gpuq_logit_bias writing_no_zero(const struct writing *w);

/* A text, and its tokens. */
struct written_text {
	uint32_t tokens[WRITING_LENGTH];
	uint32_t n;
	char bytes[4096];
	size_t length;
};

/* Lets the writer write WRITING_LENGTH tokens, or until the text ends. */
void writing_go_on(struct gpuq_writer *writer, struct written_text *t);

/* How a writer of its own goes on with a prompt. */
void writing_text(struct writing *w, struct gpuq_writer_options o, const char *prompt,
	struct written_text *t);

#endif
