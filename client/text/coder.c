/* SPDX-License-Identifier: MIT */
/* coder.c: encoders and decoders: the way of a text through a tokenizer, and back. */
#include "client/text/tokenizer.h"

#include <stdlib.h>

#define TEXT_MAX (256u << 20)

struct gpuq_encoder {
	const struct gpuq_tokenizer *tokenizer;
	struct matcher *matcher;
	struct normalizer_scratch normalizer;
	struct cutter cutter;
	struct bpe_scratch bpe;
	bool literal;
	struct ids ids;
};

struct gpuq_decoder {
	const struct gpuq_tokenizer *tokenizer;
	struct matcher *matcher;
	bool skip_special;
	struct decoding decoding;
};

/* --- Encoding -------------------------------------------------------------------------------- */

static int encode_word(void *context, struct span word)
{
	struct gpuq_encoder *e = context;

	return bpe_encode(&e->tokenizer->bpe, &e->bpe, word, &e->ids);
}

int gpuq_encoder_create(const struct gpuq_tokenizer *tokenizer, struct gpuq_encoder **ret_encoder)
{
	struct gpuq_encoder *e = calloc(1, sizeof(*e));

	if (e == NULL)
		return text_no_memory();
	e->tokenizer = tokenizer;
	int r = matcher_create(&e->matcher);
	if (r == 0)
		r = bpe_scratch_init(&e->bpe);
	if (r < 0) {
		gpuq_encoder_destroy(e);
		return r;
	}
	e->normalizer.matcher = e->matcher;
	e->cutter = (struct cutter){.pretokenizer = &tokenizer->pretokenizer,
		.matcher = e->matcher,
		.word = encode_word,
		.context = e};
	*ret_encoder = e;
	return 0;
}

void gpuq_encoder_destroy(struct gpuq_encoder *encoder)
{
	if (encoder == NULL)
		return;
	normalizer_scratch_finish(&encoder->normalizer);
	cutter_finish(&encoder->cutter);
	bpe_scratch_finish(&encoder->bpe);
	matcher_destroy(encoder->matcher);
	free(encoder->ids.data);
	free(encoder);
}

static struct added_walk walk_of(
	const struct gpuq_encoder *e, const struct added_set *set, struct span text)
{
	return (struct added_walk){.added = &e->tokenizer->added,
		.set = set,
		.matcher = e->matcher,
		.text = text,
		.literal = e->literal};
}

/* Text without tokens that are not normalised: normalise it, find the others, cut and encode. */
static int encode_text(struct gpuq_encoder *e, struct span text, bool first)
{
	const struct gpuq_tokenizer *t = e->tokenizer;
	bool shifted;
	int r = normalizer_apply(&t->normalizer, &e->normalizer, text, &text, &shifted);

	if (r < 0)
		return r;
	struct added_walk w = walk_of(e, &t->added.normalized, text);
	while ((r = added_next(&w)) > 0) {
		if (w.token != NULL)
			r = ids_append(&e->ids, w.token->id);
		else
			r = cutter_cut(&e->cutter, span_of(text.data + w.start, w.end - w.start),
				first && !shifted && w.start == 0);
		if (r < 0)
			return r;
	}
	return r;
}

static int encode_all(struct gpuq_encoder *e, struct span text)
{
	struct added_walk w = walk_of(e, &e->tokenizer->added.plain, text);
	int r;

	while ((r = added_next(&w)) > 0) {
		if (w.token != NULL)
			r = ids_append(&e->ids, w.token->id);
		else
			r = encode_text(
				e, span_of(text.data + w.start, w.end - w.start), w.start == 0);
		if (r < 0)
			return r;
	}
	return r;
}

static int check_text(struct span text, uint32_t flags)
{
	if ((flags & ~(uint32_t)(GPUQ_ENCODE_SPECIAL | GPUQ_ENCODE_LITERAL)) != 0)
		return text_fail(-EINVAL, "unknown flags of gpuq_encode(): %#x", flags);
	if (text.n >= TEXT_MAX)
		return text_fail(
			-EFBIG, "a text of %zu bytes is too long; encode it in parts", text.n);
	size_t valid = utf8_valid(text);
	if (valid < text.n)
		return text_fail(-EILSEQ, "the text is not UTF-8 at byte %zu", valid);
	return 0;
}

int64_t gpuq_encode(struct gpuq_encoder *encoder, const char *text, size_t bytes, uint32_t flags,
	const uint32_t **ret_ids)
{
	struct span given = span_of(text, bytes);
	int r = check_text(given, flags);

	encoder->ids.n = 0;
	encoder->literal = (flags & GPUQ_ENCODE_LITERAL) != 0;
	matcher_limit(encoder->matcher, bytes);
	if (r == 0)
		r = ids_reserve(&encoder->ids, 1);
	if (r == 0)
		r = encode_all(encoder, given);
	if (r == 0)
		r = postprocessor_apply(&encoder->tokenizer->postprocessor,
			(flags & GPUQ_ENCODE_SPECIAL) != 0, &encoder->ids);
	if (r < 0)
		return r;
	*ret_ids = encoder->ids.data;
	return (int64_t)encoder->ids.n;
}

/* --- Decoding -------------------------------------------------------------------------------- */

int gpuq_decoder_create(
	const struct gpuq_tokenizer *tokenizer, uint32_t flags, struct gpuq_decoder **ret_decoder)
{
	if ((flags & ~(uint32_t)GPUQ_DECODE_SKIP_SPECIAL) != 0)
		return text_fail(-EINVAL, "unknown flags of gpuq_decoder_create(): %#x", flags);
	struct gpuq_decoder *d = calloc(1, sizeof(*d));
	if (d == NULL)
		return text_no_memory();
	int r = matcher_create(&d->matcher);
	if (r < 0) {
		free(d);
		return r;
	}
	matcher_limit(d->matcher, 0);
	d->tokenizer = tokenizer;
	d->skip_special = (flags & GPUQ_DECODE_SKIP_SPECIAL) != 0;
	d->decoding.decoder = &tokenizer->decoder;
	d->decoding.matcher = d->matcher;
	*ret_decoder = d;
	return 0;
}

void gpuq_decoder_destroy(struct gpuq_decoder *decoder)
{
	if (decoder == NULL)
		return;
	decoding_finish(&decoder->decoding);
	matcher_destroy(decoder->matcher);
	free(decoder);
}

/*
 * A token that was normalised on its way in decodes to what was found, so that the steps find
 * what they expect.
 */
static int add_id(struct gpuq_decoder *d, uint32_t id)
{
	const struct gpuq_tokenizer *t = d->tokenizer;
	const struct added_token *added = added_by_id(&t->added, id);
	struct span text = vocab_text(&t->bpe.vocab, id);

	if (added != NULL)
		text = span_of(added->pattern, added->pattern_bytes);
	if (text.data == NULL)
		return text_fail(-EINVAL, "no token has the id %u", id);
	if (d->skip_special && added != NULL && added->special)
		return 0;
	return decoding_add(&d->decoding, text);
}

/* Ends the text with a zero, which is not counted. */
static int64_t give_text(struct gpuq_decoder *d, const char **ret_text)
{
	struct bytes *out = &d->decoding.out;
	int r = bytes_reserve(out, 1);

	if (r < 0)
		return r;
	out->data[out->n] = '\0';
	*ret_text = out->data;
	return (int64_t)out->n;
}

int64_t gpuq_decoder_push(struct gpuq_decoder *decoder, uint32_t id, const char **ret_text)
{
	decoder->decoding.out.n = 0;
	decoder->decoding.streams = true;
	int r = add_id(decoder, id);
	return r < 0 ? r : give_text(decoder, ret_text);
}

int64_t gpuq_decoder_finish(struct gpuq_decoder *decoder, const char **ret_text)
{
	decoder->decoding.out.n = 0;
	int r = decoding_end(&decoder->decoding);
	return r < 0 ? r : give_text(decoder, ret_text);
}

int64_t gpuq_decode(
	struct gpuq_decoder *decoder, const uint32_t *ids, size_t n, const char **ret_text)
{
	struct decoding *d = &decoder->decoding;
	int r = decoding_end(d); /* of a stream before */

	d->out.n = 0;
	d->streams = false;
	for (size_t i = 0; r == 0 && i < n; i++)
		r = add_id(decoder, ids[i]);
	if (r == 0)
		r = decoding_end(d);
	if (r < 0) {
		d->pending.n = 0;
		return r;
	}
	return give_text(decoder, ret_text);
}
