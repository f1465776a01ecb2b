/* SPDX-License-Identifier: MIT */
/*
 * writer.c: goes on with a text, token by token: what is still to be given to the model, the step
 * that the sampler wants, the draw, and the text that has become certain by it. Fused, the device
 * draws many tokens in one request, and they are given one by one.
 */
#include "client/text/gpuq-text.h"
#include "client/text/sampler.h"
#include "client/text/text.h"
#include "client/text/writer.h"

#include <stdlib.h>

#define CHUNK 256u /* tokens of a prompt in one request */
#define CANDIDATES 64u
#define MAX_IDS 256u

struct gpuq_writer {
	struct gpuq_channel *channel;
	struct gpuq_session *session;
	struct gpuq_call *step;	    /* candidates and named ids */
	struct gpuq_call *full_row; /* of one token; NULL until it is needed */
	struct gpuq_encoder *encoder;
	struct gpuq_decoder *decoder;
	struct gpuq_sampler *sampler;
	struct gpuq_stop *stop;
	struct gpuq_model_info model;
	struct ids pending; /* the text's tokens that the session does not have */
	uint32_t length;    /* of the session's text */
	struct bytes text;  /* what the last token has made certain */
	bool goes_on;	    /* after a token that ends a text */
	uint32_t own_end;   /* NO_ID, or another token that ends a text */
	uint32_t last;	    /* token of the text, NO_ID in an empty one */
	struct {
		uint32_t most; /* tokens that one request makes; 0: not fused */
		struct gpuq_call *call;
		const int32_t *tokens; /* [n], of which `at` were given */
		const float *logprobs;
		uint32_t n, at;
		uint64_t seed;
		bool begun; /* something was made since something was read */
	} fused;
	bool (*cancelled)(void *context);
	void *cancel_context;
	uint64_t executed_ns; /* for the next token */
	enum gpuq_writer_end end;
};

/* --- Making -------------------------------------------------------------------------------- */

static int open_session(struct gpuq_writer *w, const char *model)
{
	const struct gpuq_step_options options = {
		.max_tokens = CHUNK, .max_rows = 1, .top_k = CANDIDATES, .max_ids = MAX_IDS};
	int r = gpuq_model_find(gpuq_channel_gpuq(w->channel), model, &w->model);

	if (r == 0)
		r = gpuq_session_open(w->channel, model, &w->session);
	return r == 0 ? gpuq_step_create(w->session, &options, &w->step) : r;
}

/* What the device's own sampling lacks, by its name in struct gpuq_sampling; NULL: nothing. */
static const char *beyond_device(const struct gpuq_sampling *s)
{
	const struct {
		const char *name;
		bool asked;
	} all[] = {
		{"top_k", s->top_k > 0},
		{"top_p", policy_cuts(s->top_p)},
		{"min_p", s->min_p > 0},
		{"typical_p", policy_cuts(s->typical_p)},
		{"repetition_penalty", s->repetition_penalty != 0 && s->repetition_penalty != 1},
		{"presence_penalty", s->presence_penalty != 0},
		{"frequency_penalty", s->frequency_penalty != 0},
		{"penalty_tokens", s->penalty_tokens > 0},
		{"a logit bias", s->n_biases > 0},
		{"a constraint", s->constraint.rule != NULL || s->constraint.change != NULL},
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (all[i].asked)
			return all[i].name;
	return NULL;
}

static int fuse(struct gpuq_writer *w, const struct gpuq_writer_options *o)
{
	const struct gpuq_generate_options options = {.max_tokens = CHUNK,
		.max_generate = o->fused,
		.temperature = o->sampling.temperature,
		.stop = !o->ignore_end};
	const char *beyond = beyond_device(&o->sampling);

	if (o->fused == 0)
		return 0;
	if (beyond != NULL)
		return text_fail(-ENOTSUP,
			"fused steps draw on the device, which knows the temperature only, and "
			"not %s; draw each token here, or leave that out",
			beyond);
	w->fused.most = o->fused;
	w->fused.seed = o->sampling.seed;
	return gpuq_generate_create(w->session, &options, &w->fused.call);
}

int gpuq_writer_create(struct gpuq_channel *channel, const struct gpuq_writer_options *o,
	struct gpuq_writer **ret_writer)
{
	struct gpuq_writer *w = calloc(1, sizeof(*w));
	int r;

	if (w == NULL)
		return text_no_memory();
	w->channel = channel;
	w->goes_on = o->ignore_end;
	w->own_end = w->last = NO_ID;
	w->cancelled = o->cancelled;
	w->cancel_context = o->cancel_context;
	r = open_session(w, o->model);
	if (r == 0)
		r = gpuq_sampler_create(&o->sampling, w->model.vocab, &w->sampler);
	if (r == 0)
		r = fuse(w, o);
	if (r == 0)
		r = gpuq_encoder_create(o->tokenizer, &w->encoder);
	if (r == 0)
		r = gpuq_decoder_create(o->tokenizer, GPUQ_DECODE_SKIP_SPECIAL, &w->decoder);
	if (r == 0)
		r = gpuq_stop_create(o->stops, o->n_stops, &w->stop);
	if (r < 0) {
		gpuq_writer_destroy(w);
		return r;
	}
	*ret_writer = w;
	return 0;
}

void gpuq_writer_destroy(struct gpuq_writer *w)
{
	if (w == NULL)
		return;
	gpuq_call_destroy(w->step);
	gpuq_call_destroy(w->full_row);
	gpuq_call_destroy(w->fused.call);
	gpuq_session_close(w->session);
	gpuq_stop_destroy(w->stop);
	gpuq_decoder_destroy(w->decoder);
	gpuq_encoder_destroy(w->encoder);
	gpuq_sampler_destroy(w->sampler);
	free(w->pending.data);
	free(w->text.data);
	free(w);
}

/* --- Steps --------------------------------------------------------------------------------- */

/* Returns the completion's status. */
static int run(struct gpuq_writer *w, struct gpuq_call *call)
{
	const struct gpuq_submission s = {.call = call};
	struct gpuq_completion done;
	char why[256];
	int r;

	if (w->cancelled != NULL && w->cancelled(w->cancel_context))
		return text_fail(-ECANCELED, "the text was not gone on with: cancelled");
	r = gpuq_submit(w->channel, &s, 1);
	if (r >= 0)
		r = gpuq_wait(w->channel, &done, 1, GPUQ_FOREVER);
	if (r < 0)
		return r;
	if (done.status < 0)
		return text_fail(done.status, "%s", gpuq_explain(call, &done, why, sizeof(why)));
	w->executed_ns += done.executed_ns;
	return done.status;
}

static int step(struct gpuq_writer *w, struct gpuq_call *call, const int32_t *tokens, uint32_t n,
	uint32_t rows)
{
	int r = gpuq_step_set(call, tokens, n, rows);

	if (r == 0)
		r = run(w, call);
	if (r < 0)
		return r;
	w->length += n;
	return 0;
}

/* The first n of the pending tokens are in the session. */
static void forget(struct gpuq_writer *w, uint32_t n)
{
	w->pending.n -= n;
	memmove(w->pending.data, w->pending.data + n, w->pending.n * sizeof(*w->pending.data));
}

/* Gives the first n of the pending tokens, and asks for what follows the last of them, or not. */
static int give(struct gpuq_writer *w, struct gpuq_call *call, uint32_t n, uint32_t rows)
{
	/* The same numbers: all are below the vocabulary. */
	int r = step(w, call, (const int32_t *)w->pending.data, n, rows);

	if (r == 0)
		forget(w, n);
	return r;
}

/* Gives all but the last CHUNK of the pending tokens. */
static int give_most(struct gpuq_writer *w)
{
	int r = 0;

	while (r == 0 && w->pending.n > CHUNK)
		r = give(w, w->step, CHUNK, 0);
	return r;
}

/* All logits behind the token, which the session has not got. */
static int take_full_row(struct gpuq_writer *w, uint32_t token, struct gpuq_row *ret_row)
{
	const struct gpuq_step_options options = {.max_tokens = 1, .max_rows = 1, .logits = true};
	const int32_t id = (int32_t)token;
	int r = 0;

	if (w->full_row == NULL)
		r = gpuq_step_create(w->session, &options, &w->full_row);
	if (r == 0)
		r = step(w, w->full_row, &id, 1, 1);
	return r == 0 ? gpuq_step_row(w->full_row, 0, ret_row) : r;
}

/* What follows the pending tokens, of which this is the last, as the sampler wants it. */
static int take_row(struct gpuq_writer *w, const struct gpuq_sampler_want *want, uint32_t last,
	struct gpuq_row *ret_row)
{
	int r = gpuq_step_set_ids(w->step, want->ids, want->n_ids);

	if (r == 0)
		r = gpuq_step_set_temperature(w->step, want->temperature);
	if (r == 0)
		r = give_most(w);
	if (r < 0)
		return r;
	if (!want->full_row) {
		r = give(w, w->step, (uint32_t)w->pending.n, 1);
		return r == 0 ? gpuq_step_row(w->step, 0, ret_row) : r;
	}
	if (w->pending.n > 1)
		r = give(w, w->step, (uint32_t)w->pending.n - 1, 0);
	if (r == 0)
		r = take_full_row(w, last, ret_row);
	if (r == 0)
		w->pending.n = 0;
	return r;
}

static int64_t draw(struct gpuq_writer *w, double *ret_logprob)
{
	struct gpuq_sampler_want want;
	const uint32_t last = w->pending.data[w->pending.n - 1];
	struct gpuq_row row;
	int64_t r = gpuq_sampler_want(w->sampler, &want);

	if (r == 0)
		r = take_row(w, &want, last, &row);
	if (r < 0)
		return r;
	r = gpuq_sampler_draw(w->sampler, &row, ret_logprob);
	if (r != -EAGAIN)
		return r;
	/* Once more, for all of the row. */
	r = gpuq_session_truncate(w->session, w->length - 1);
	if (r < 0)
		return r;
	w->length--;
	r = ids_append(&w->pending, last);
	if (r == 0)
		r = take_full_row(w, last, &row);
	if (r < 0)
		return r;
	w->pending.n = 0;
	return gpuq_sampler_draw(w->sampler, &row, ret_logprob);
}

/* --- Fused steps --------------------------------------------------------------------------- */

/*
 * Gives what is pending and lets the device go on; the last token that it makes is pending then.
 * The first one is made alone: somebody waits for it, and it need not wait for those behind it.
 */
static int run_fused(struct gpuq_writer *w)
{
	int r = give_most(w);

	if (r < 0)
		return r;
	const uint32_t given = (uint32_t)w->pending.n, after = w->length + given;
	/* As many as there is room for; where there is none, gpuqd says so. */
	const uint32_t room = after < w->model.max_tokens ? w->model.max_tokens - after + 1 : 1;
	const uint32_t most = w->fused.begun ? w->fused.most : 1;
	const uint32_t n = most < room ? most : room;
	r = gpuq_generate_set(
		w->fused.call, (const int32_t *)w->pending.data, given, n, w->fused.seed);
	if (r == 0)
		r = run(w, w->fused.call);
	if (r < 0)
		return r;
	w->fused.begun = true;
	w->fused.n = (uint32_t)r;
	w->fused.at = 0;
	w->length += given + w->fused.n - 1;
	r = gpuq_generate_result(w->fused.call, &w->fused.tokens, &w->fused.logprobs);
	w->pending.n = 0;
	return r < 0 ? r : ids_append(&w->pending, (uint32_t)w->fused.tokens[w->fused.n - 1]);
}

/* Takes the tokens back that the device made and nobody has asked for. */
static int drop_fused(struct gpuq_writer *w)
{
	const uint32_t more = w->fused.n - w->fused.at;
	int r;

	if (more == 0)
		return 0;
	r = gpuq_session_truncate(w->session, w->length - (more - 1));
	if (r < 0)
		return r;
	w->length -= more - 1;
	w->pending.n = 0;
	w->fused.n = w->fused.at;
	return 0;
}

/* --- The text ------------------------------------------------------------------------------ */

static int push_text(struct gpuq_writer *w, const char *text, size_t bytes)
{
	const char *certain;
	int64_t n = gpuq_stop_push(w->stop, text, bytes, &certain);

	if (n < 0)
		return (int)n;
	if (gpuq_stop_found(w->stop) >= 0)
		w->end = GPUQ_WRITER_STOP_STRING;
	return bytes_append(&w->text, certain, (size_t)n);
}

/* What was held back is certain now. */
static int flush(struct gpuq_writer *w)
{
	const char *text;
	int64_t n = gpuq_decoder_finish(w->decoder, &text);
	int r = n < 0 ? (int)n : push_text(w, text, (size_t)n);

	if (r < 0)
		return r;
	size_t held = gpuq_stop_finish(w->stop, &text);
	return bytes_append(&w->text, text, held);
}

static bool ends_text(const struct gpuq_writer *w, uint32_t token)
{
	if (token == w->own_end)
		return true;
	for (uint32_t i = 0; i < w->model.n_eos; i++) {
		if ((uint32_t)w->model.eos[i] == token)
			return true;
	}
	return false;
}

/* Never NULL: who copies nothing copies it from somewhere. */
static const char *certain_text(const struct gpuq_writer *w)
{
	return w->text.data != NULL ? w->text.data : "";
}

static int write_token(struct gpuq_writer *w, uint32_t token)
{
	const char *text;
	int64_t n;
	int r;

	if (ends_text(w, token) && !w->goes_on) {
		w->end = GPUQ_WRITER_END_TOKEN;
		return flush(w);
	}
	n = gpuq_decoder_push(w->decoder, token, &text);
	r = n < 0 ? (int)n : push_text(w, text, (size_t)n);
	return r;
}

static int append(struct gpuq_writer *w, uint32_t id)
{
	int r;

	if (id >= w->model.vocab)
		return text_fail(-GPUQ_ETOKEN,
			"token %u is outside the vocabulary of %u of model %s; is this its "
			"tokenizer?",
			id, w->model.vocab, w->model.name);
	r = ids_append(&w->pending, id);
	return r == 0 ? gpuq_sampler_accept(w->sampler, id) : r;
}

/* The device made a token. */
static int64_t take_fused(struct gpuq_writer *w, double *ret_logprob)
{
	if (w->fused.at == w->fused.n) {
		int r = run_fused(w);
		if (r < 0)
			return r;
	}
	const uint32_t at = w->fused.at++;
	*ret_logprob = w->fused.logprobs[at];
	return w->fused.tokens[at];
}

int gpuq_writer_next(struct gpuq_writer *w, struct gpuq_written *ret_written)
{
	double logprob;
	int64_t token;
	int r;

	if (w->end != GPUQ_WRITER_GOES_ON)
		return 0;
	if (w->last == NO_ID)
		return text_fail(-EINVAL, "there is no text yet to go on with");
	w->executed_ns = 0;
	token = w->fused.most > 0 ? take_fused(w, &logprob) : draw(w, &logprob);
	if (token < 0)
		return (int)token;
	w->text.n = 0;
	w->last = (uint32_t)token;
	r = w->fused.most > 0 ? 0 : append(w, w->last);
	if (r == 0)
		r = write_token(w, w->last);
	if (r < 0)
		return r;
	*ret_written = (struct gpuq_written){.token = (uint32_t)token,
		.logprob = logprob,
		.text = certain_text(w),
		.bytes = w->text.n,
		.executed_ns = w->executed_ns};
	return 1;
}

int64_t gpuq_writer_finish(struct gpuq_writer *w, const char **ret_text)
{
	int r;

	w->text.n = 0;
	r = w->end == GPUQ_WRITER_GOES_ON ? flush(w) : 0;
	if (r < 0)
		return r;
	*ret_text = certain_text(w);
	return (int64_t)w->text.n;
}

enum gpuq_writer_end gpuq_writer_end(const struct gpuq_writer *w)
{
	return w->end;
}

void gpuq_writer_stats(const struct gpuq_writer *w, struct gpuq_sampler_stats *ret_stats)
{
	gpuq_sampler_stats(w->sampler, ret_stats);
}

/* --- What is read -------------------------------------------------------------------------- */

/* What was held back of the text that ends here is part of no later one. */
static int begin_text(struct gpuq_writer *w)
{
	int r = drop_fused(w);

	if (r == 0)
		r = flush(w);
	w->text.n = 0;
	w->end = GPUQ_WRITER_GOES_ON;
	w->fused.begun = false;
	return r;
}

static int append_all(struct gpuq_writer *w, const uint32_t *ids, int64_t n)
{
	int r = n > 0 ? begin_text(w) : 0;

	for (int64_t i = 0; i < n && r == 0; i++) {
		r = append(w, ids[i]);
		w->last = ids[i];
	}
	return r;
}

int64_t gpuq_writer_read(struct gpuq_writer *w, const char *text, size_t bytes, uint32_t flags)
{
	const uint32_t *ids;
	int64_t n = gpuq_encode(w->encoder, text, bytes, flags, &ids);
	int r = append_all(w, ids, n);

	return r < 0 ? r : n;
}

int64_t writer_read_parts(struct gpuq_writer *w, const struct gpuq_text_part *parts, uint32_t n)
{
	const uint32_t *ids;
	int64_t n_ids = gpuq_encode_parts(w->encoder, parts, n, 0, &ids);
	int r = append_all(w, ids, n_ids);

	return r < 0 ? r : n_ids;
}

void writer_set_end(struct gpuq_writer *w, uint32_t token)
{
	w->own_end = token;
}

bool writer_ends_with(const struct gpuq_writer *w, uint32_t token)
{
	return w->last == token;
}
