/* SPDX-License-Identifier: MIT */
/* decoder.c: loads the section "decoder", and turns tokens into text one after the other. */
#include "client/text/decoder.h"

#include "client/text/normalizer.h"

#include <stdlib.h>

#define WHERE "decoder"
#define STRIP_MAX 1024

/* --- Loading --------------------------------------------------------------------------------- */

static int load_replace(const json_t *json, struct decoder_step *step)
{
	struct span content;
	int r = json_get_string(json, WHERE, "content", &content);

	step->kind = DECODE_REPLACE;
	if (r < 0)
		return r;
	step->text = span_copy(content);
	step->bytes = content.n;
	return step->text == NULL ? text_no_memory() : pattern_load(json, WHERE, &step->pattern);
}

static int load_strip(const json_t *json, struct decoder_step *step)
{
	struct span content;
	int r = json_get_string(json, WHERE, "content", &content);

	if (r == 0)
		r = json_get_number(json, WHERE, "start", STRIP_MAX, &step->start);
	if (r == 0)
		r = json_get_number(json, WHERE, "stop", STRIP_MAX, &step->stop);
	if (r < 0)
		return r;
	if (content.n == 0 || utf8_length(content.data[0]) != content.n)
		return text_fail(-EINVAL, WHERE ": content of Strip is not one character");
	step->kind = DECODE_STRIP;
	step->character_bytes = content.n;
	memcpy(step->character, content.data, content.n);
	return 0;
}

static int load_metaspace(const json_t *json, struct decoder_step *step)
{
	struct stage stage = {0};
	int r = metaspace_load(json, WHERE, &stage);

	step->kind = DECODE_METASPACE;
	step->drop_first = stage.prepend != PREPEND_NEVER;
	step->character_bytes = stage.replacement_bytes;
	memcpy(step->character, stage.replacement, stage.replacement_bytes);
	return r;
}

/* What stands behind Fuse or bytes: of steps on the stream there is only this one. */
static int load_stream_step(const json_t *json, const char *type, struct decoder *d)
{
	if (strcmp(type, "Fuse") == 0)
		return 0;
	if (strcmp(type, "Strip") != 0 || d->strip.start > 0)
		return text_fail(-ENOTSUP, "%s: %s in this place is not supported", WHERE, type);
	int r = load_strip(json, &d->strip);
	if (r == 0 && d->strip.stop > 0)
		return text_fail(
			-ENOTSUP, "%s: Strip at the end of the text is not supported", WHERE);
	return r;
}

static int load_step(const json_t *json, const char *type, void *context)
{
	struct decoder *d = context;
	struct decoder_step *step = &d->steps[d->n_steps];

	if (strcmp(type, "ByteLevel") == 0 && !d->byte_fallback) {
		d->byte_alphabet = d->fused = true;
		return 0;
	}
	if (d->fused)
		return load_stream_step(json, type, d);
	if (strcmp(type, "Fuse") == 0) {
		d->fused = true;
		return 0;
	}
	if (d->byte_fallback)
		return text_fail(
			-ENOTSUP, "%s: %s behind ByteFallback is not supported", WHERE, type);
	if (strcmp(type, "ByteFallback") == 0) {
		d->byte_fallback = true;
		return 0;
	}
	if (d->n_steps == DECODER_STEPS_MAX - 1)
		return text_fail(-EFBIG, "the decoder has too many steps");
	d->n_steps++;
	if (strcmp(type, "Replace") == 0)
		return load_replace(json, step);
	if (strcmp(type, "Strip") == 0)
		return load_strip(json, step);
	if (strcmp(type, "Metaspace") == 0)
		return load_metaspace(json, step);
	return text_fail(-ENOTSUP, "the decoder %s is not supported", type);
}

int decoder_load(const json_t *json, struct decoder *ret_decoder)
{
	static const struct json_steps steps = {WHERE, "decoders", DECODER_STEPS_MAX, load_step};

	*ret_decoder = (struct decoder){.spaces = json == NULL || json_is_null(json)};
	return json_each_step(json, &steps, ret_decoder);
}

void decoder_finish(struct decoder *decoder)
{
	for (uint32_t i = 0; i < decoder->n_steps; i++) {
		pattern_destroy(decoder->steps[i].pattern);
		free(decoder->steps[i].text);
	}
}

/* --- The stream ------------------------------------------------------------------------------ */

/* Cuts from the start what Strip wants, then gives the text. */
static int give(struct decoding *d, struct span text)
{
	const struct decoder_step *strip = &d->decoder->strip;
	struct span character = span_of(strip->character, strip->character_bytes);

	while (text.n > 0 && !d->strip_over) {
		if (d->stripped == strip->start || !span_starts_with(text, character)) {
			d->strip_over = true;
			break;
		}
		text = span_of(text.data + character.n, text.n - character.n);
		d->stripped++;
	}
	return bytes_append(&d->out, text.data, text.n);
}

static int give_replacements(struct decoding *d, size_t n)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < n; i++)
		r = give(d, span_of(UTF8_REPLACEMENT, 3));
	return r;
}

static void drop_pending(struct decoding *d, size_t n)
{
	if (n == 0)
		return;
	d->pending.n -= n;
	memmove(d->pending.data, d->pending.data + n, d->pending.n);
}

/*
 * Bytes of the byte alphabet: gives what is whole, with U+FFFD for what is no UTF-8. What may
 * still become a character waits, unless this is the end.
 */
static int drain_alphabet(struct decoding *d, bool end)
{
	size_t at = 0, length;
	int r = 0;

	while (r == 0 && at < d->pending.n) {
		struct span rest = span_of(d->pending.data + at, d->pending.n - at);
		size_t valid = utf8_valid(rest);

		if (valid > 0) {
			r = give(d, span_of(rest.data, valid));
			at += valid;
			continue;
		}
		if (utf8_classify(rest.data, rest.n, &length) == UTF8_SHORT && !end)
			break;
		r = give_replacements(d, 1);
		at += length;
	}
	drop_pending(d, at);
	return r;
}

/* The run of byte tokens is over: it is text as a whole, or each of its bytes is unknown. */
static int end_fallback(struct decoding *d)
{
	struct span run = bytes_span(&d->pending);
	int r = utf8_valid(run) == run.n ? give(d, run) : give_replacements(d, run.n);

	d->pending.n = 0;
	return r;
}

/* In a stream characters are given when they are whole, and bytes that can be none at once. */
static int drain_fallback(struct decoding *d)
{
	size_t length;
	int r = 0;

	while (r == 0 && d->pending.n > 0) {
		struct span run = bytes_span(&d->pending);
		enum utf8_state state = utf8_classify(run.data, run.n, &length);

		if (state == UTF8_SHORT)
			break;
		if (state == UTF8_GOOD)
			r = give(d, span_of(run.data, length));
		else
			r = give_replacements(d, length);
		drop_pending(d, length);
	}
	return r;
}

/* --- Steps on one token ---------------------------------------------------------------------- */

static int replace(
	const struct decoder_step *step, struct matcher *matcher, struct span in, struct bytes *out)
{
	size_t leading;

	return pattern_replace(
		step->pattern, matcher, in, span_of(step->text, step->bytes), out, &leading);
}

static int strip(const struct decoder_step *step, struct span in, struct bytes *out)
{
	struct span character = span_of(step->character, step->character_bytes);
	size_t start = 0, stop = in.n;

	for (uint64_t i = 0; i < step->start; i++) {
		if (!span_starts_with(span_of(in.data + start, in.n - start), character))
			break;
		start += character.n;
	}
	for (uint64_t i = 0; i < step->stop && stop >= start + character.n; i++) {
		if (memcmp(in.data + stop - character.n, character.data, character.n) != 0)
			break;
		stop -= character.n;
	}
	return bytes_append(out, in.data + start, stop - start);
}

/* The replacement becomes a space again; in the first token it was put there, and goes. */
static int metaspace(const struct decoder_step *step, struct span in, bool first, struct bytes *out)
{
	struct span character = span_of(step->character, step->character_bytes);
	size_t at = 0, n;
	int r = 0;

	for (; r == 0 && at < in.n; at += n) {
		n = utf8_length(in.data[at]);
		if (!span_starts_with(span_of(in.data + at, in.n - at), character))
			r = bytes_append(out, in.data + at, n);
		else if (!first || !step->drop_first)
			r = bytes_append(out, " ", 1);
	}
	return r;
}

static int apply_steps(struct decoding *d, struct span *token)
{
	for (uint32_t i = 0; i < d->decoder->n_steps && token->n > 0; i++) {
		const struct decoder_step *step = &d->decoder->steps[i];
		struct bytes *out = &d->token[i % 2];
		int r;

		out->n = 0;
		if (step->kind == DECODE_REPLACE)
			r = replace(step, d->matcher, *token, out);
		else if (step->kind == DECODE_STRIP)
			r = strip(step, *token, out);
		else
			r = metaspace(step, *token, !d->any, out);
		if (r < 0)
			return r;
		*token = bytes_span(out);
	}
	return 0;
}

/* Bytes that the token's characters stand for; a token with a foreign character is itself. */
static int add_alphabet(struct decoding *d, struct span token)
{
	size_t before = d->pending.n;
	int r = bytes_reserve(&d->pending, token.n);

	for (size_t at = 0; r == 0 && at < token.n; at += utf8_length(token.data[at])) {
		int byte = byte_alphabet_find(utf8_decode(token.data + at));

		if (byte < 0) {
			d->pending.n = before;
			r = bytes_append(&d->pending, token.data, token.n);
			break;
		}
		d->pending.data[d->pending.n++] = (char)byte;
	}
	return r < 0 ? r : drain_alphabet(d, false);
}

static int hex_digit(char c)
{
	static const char digits[] = "0123456789abcdef";
	const char *at = c == '\0' ? NULL : strchr(digits, c | 0x20);

	return at == NULL ? -1 : (int)(at - digits);
}

/* The byte of a token like <0x0A>, or -1. A plus is taken for the first digit, as elsewhere. */
static int fallback_byte(struct span token)
{
	if (token.n != 6 || memcmp(token.data, "<0x", 3) != 0 || token.data[5] != '>')
		return -1;
	int high = token.data[3] == '+' ? 0 : hex_digit(token.data[3]);
	int low = hex_digit(token.data[4]);
	return high < 0 || low < 0 ? -1 : high << 4 | low;
}

static int add_fallback(struct decoding *d, struct span token)
{
	int byte = fallback_byte(token);
	char c = (char)byte;
	int r;

	if (byte >= 0) {
		r = bytes_append(&d->pending, &c, 1);
		return r < 0 || !d->streams ? r : drain_fallback(d);
	}
	r = end_fallback(d);
	return r < 0 ? r : give(d, token);
}

int decoding_add(struct decoding *d, struct span token)
{
	int r = apply_steps(d, &token);

	if (r == 0 && d->decoder->spaces && d->any)
		r = give(d, span_of(" ", 1));
	d->any = true;
	if (r < 0)
		return r;
	if (d->decoder->byte_alphabet)
		return add_alphabet(d, token);
	if (d->decoder->byte_fallback)
		return add_fallback(d, token);
	return give(d, token);
}

int decoding_end(struct decoding *d)
{
	int r = d->decoder->byte_alphabet ? drain_alphabet(d, true) : end_fallback(d);

	d->pending.n = 0;
	d->any = d->strip_over = false;
	d->stripped = 0;
	return r;
}

void decoding_finish(struct decoding *d)
{
	free(d->token[0].data);
	free(d->token[1].data);
	free(d->pending.data);
	free(d->out.data);
}
