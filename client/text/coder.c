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
	struct bytes joined;
	struct literal_part *literal; /* [room] */
	size_t n_literal, room;
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
	free(encoder->joined.data);
	free(encoder->literal);
	free(encoder->ids.data);
	free(encoder);
}

/*
 * Text without tokens that are not normalised: normalise it, find the others, cut and encode. What
 * was literal in it is not known any more afterwards, so all of it is, or nothing.
 */
static int encode_text(struct gpuq_encoder *e, struct span text, bool first, bool literal)
{
	static const struct literal_part all = {0, SIZE_MAX};
	const struct gpuq_tokenizer *t = e->tokenizer;
	bool shifted;
	int r = normalizer_apply(&t->normalizer, &e->normalizer, text, &text, &shifted);

	if (r < 0)
		return r;
	struct added_walk w = {.added = &t->added,
		.set = &t->added.normalized,
		.matcher = e->matcher,
		.text = text,
		.literal = {.parts = &all, .n = literal}};
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
	const struct added *added = &e->tokenizer->added;
	struct added_walk w = {.added = added,
		.set = &added->plain,
		.matcher = e->matcher,
		.text = text,
		.literal = {.parts = e->literal, .n = e->n_literal}};
	int r;

	while ((r = added_next(&w)) > 0) {
		if (w.token != NULL)
			r = ids_append(&e->ids, w.token->id);
		else
			r = encode_text(e, span_of(text.data + w.start, w.end - w.start),
				w.start == 0, literal_touches(&w.literal, w.start, w.end));
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

/* A text whose literal parts are known already. */
static int64_t encode(
	struct gpuq_encoder *e, struct span text, uint32_t flags, const uint32_t **ret_ids)
{
	int r = check_text(text, flags);

	e->ids.n = 0;
	matcher_limit(e->matcher, text.n);
	if (r == 0)
		r = ids_reserve(&e->ids, 1);
	if (r == 0)
		r = encode_all(e, text);
	if (r == 0)
		r = postprocessor_apply(
			&e->tokenizer->postprocessor, (flags & GPUQ_ENCODE_SPECIAL) != 0, &e->ids);
	if (r < 0)
		return r;
	*ret_ids = e->ids.data;
	return (int64_t)e->ids.n;
}

static int reserve_literal(struct gpuq_encoder *e, size_t n)
{
	e->n_literal = 0;
	return n <= e->room ? 0
			    : array_grow((void **)&e->literal, 0, &e->room, n, sizeof(*e->literal));
}

int64_t gpuq_encode(struct gpuq_encoder *encoder, const char *text, size_t bytes, uint32_t flags,
	const uint32_t **ret_ids)
{
	int r = reserve_literal(encoder, 1);

	if (r < 0)
		return r;
	encoder->literal[0] = (struct literal_part){0, bytes};
	encoder->n_literal = (flags & GPUQ_ENCODE_LITERAL) != 0;
	return encode(encoder, span_of(text, bytes), flags, ret_ids);
}

int64_t gpuq_encode_parts(struct gpuq_encoder *encoder, const struct gpuq_text_part *parts,
	uint32_t n, uint32_t flags, const uint32_t **ret_ids)
{
	struct bytes *text = &encoder->joined;
	int r = reserve_literal(encoder, n);

	text->n = 0;
	for (uint32_t i = 0; r == 0 && i < n; i++) {
		const struct literal_part part = {text->n, text->n + parts[i].bytes};

		if (parts[i].literal || (flags & GPUQ_ENCODE_LITERAL) != 0)
			encoder->literal[encoder->n_literal++] = part;
		r = bytes_append(text, parts[i].text, parts[i].bytes);
	}
	return r < 0 ? r : encode(encoder, bytes_span(text), flags, ret_ids);
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
