/* SPDX-License-Identifier: MIT */
/*
 * writer.c: goes on with a text, token by token: what is still to be given to the model, the step
 * that the sampler wants, the draw, and the text that has become certain by it.
 */
#include "client/text/gpuq-text.h"
#include "client/text/text.h"

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

int gpuq_writer_create(struct gpuq_channel *channel, const struct gpuq_writer_options *o,
	struct gpuq_writer **ret_writer)
{
	struct gpuq_writer *w = calloc(1, sizeof(*w));
	int r;

	if (w == NULL)
		return text_no_memory();
	w->channel = channel;
	w->goes_on = o->ignore_end;
	r = open_session(w, o->model);
	if (r == 0)
		r = gpuq_sampler_create(&o->sampling, w->model.vocab, &w->sampler);
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
	gpuq_session_close(w->session);
	gpuq_stop_destroy(w->stop);
	gpuq_decoder_destroy(w->decoder);
	gpuq_encoder_destroy(w->encoder);
	gpuq_sampler_destroy(w->sampler);
	free(w->pending.data);
	free(w->text.data);
	free(w);
}

/* --- The prompt ---------------------------------------------------------------------------- */

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

int64_t gpuq_writer_read(struct gpuq_writer *w, const char *text, size_t bytes, uint32_t flags)
{
	const uint32_t *ids;
	int64_t n = gpuq_encode(w->encoder, text, bytes, flags, &ids);
	int r = 0;

	for (int64_t i = 0; i < n && r == 0; i++)
		r = append(w, ids[i]);
	w->end = GPUQ_WRITER_GOES_ON;
	return r < 0 ? r : n;
}

/* --- Steps --------------------------------------------------------------------------------- */

static int run(struct gpuq_writer *w, struct gpuq_call *call, const int32_t *tokens, uint32_t n,
	uint32_t rows)
{
	const struct gpuq_submission s = {.call = call};
	struct gpuq_completion done;
	char why[256];
	int r = gpuq_step_set(call, tokens, n, rows);

	if (r == 0)
		r = gpuq_submit(w->channel, &s, 1);
	if (r >= 0)
		r = gpuq_wait(w->channel, &done, 1, GPUQ_FOREVER);
	if (r < 0)
		return r;
	if (done.status < 0)
		return text_fail(done.status, "%s", gpuq_explain(call, &done, why, sizeof(why)));
	w->length += n;
	return 0;
}

/* Gives the first n of the pending tokens, and asks for what follows the last of them, or not. */
static int give(struct gpuq_writer *w, struct gpuq_call *call, uint32_t n, uint32_t rows)
{
	/* The same numbers: all are below the vocabulary. */
	int r = run(w, call, (const int32_t *)w->pending.data, n, rows);

	if (r < 0)
		return r;
	w->pending.n -= n;
	memmove(w->pending.data, w->pending.data + n, w->pending.n * sizeof(*w->pending.data));
	return 0;
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
		r = run(w, w->full_row, &id, 1, 1);
	return r == 0 ? gpuq_step_row(w->full_row, 0, ret_row) : r;
}

/* What follows the pending tokens, of which this is the last, as the sampler wants it. */
static int take_row(struct gpuq_writer *w, const struct gpuq_sampler_want *want, uint32_t last,
	struct gpuq_row *ret_row)
{
	int r = gpuq_step_set_ids(w->step, want->ids, want->n_ids);

	if (r == 0)
		r = gpuq_step_set_temperature(w->step, want->temperature);
	while (r == 0 && w->pending.n > CHUNK)
		r = give(w, w->step, CHUNK, 0);
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
	r = take_full_row(w, last, &row);
	return r < 0 ? r : gpuq_sampler_draw(w->sampler, &row, ret_logprob);
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

int gpuq_writer_next(struct gpuq_writer *w, struct gpuq_written *ret_written)
{
	double logprob;
	int64_t token;
	int r;

	if (w->end != GPUQ_WRITER_GOES_ON)
		return 0;
	if (w->pending.n == 0)
		return text_fail(-EINVAL, "there is no text yet to go on with");
	token = draw(w, &logprob);
	if (token < 0)
		return (int)token;
	w->text.n = 0;
	r = append(w, (uint32_t)token);
	if (r == 0)
		r = write_token(w, (uint32_t)token);
	if (r < 0)
		return r;
	*ret_written = (struct gpuq_written){.token = (uint32_t)token,
		.logprob = logprob,
		.text = certain_text(w),
		.bytes = w->text.n};
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
