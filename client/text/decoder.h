/* SPDX-License-Identifier: MIT */
/*
 * decoder.h: the section "decoder" of a tokenizer file, from tokens back to text, token by token.
 *
 * Steps come in two kinds. Those of the first kind look at one token; they are applied in order.
 * The last of these may be what makes bytes of tokens: the byte alphabet, or tokens like <0x0A>.
 * From there on, or from Fuse on, all text is one stream, of which Strip can cut the start.
 */
#ifndef GPUQ_TEXT_DECODER_H
#define GPUQ_TEXT_DECODER_H

#include "client/text/json.h"
#include "client/text/pattern.h"
#include "client/text/pretokenizer.h"

#define DECODER_STEPS_MAX 16

struct decoder_step {
	enum {
		DECODE_REPLACE,
		DECODE_STRIP,
		DECODE_METASPACE,
	} kind;
	struct pattern *pattern; /* of DECODE_REPLACE */
	char *text;		 /* in the place of matches */
	size_t bytes;
	char character[UTF8_MAX]; /* of DECODE_STRIP, and the replacement of DECODE_METASPACE */
	size_t character_bytes;
	uint64_t start, stop; /* of DECODE_STRIP: how many of it at most */
	bool drop_first; /* of DECODE_METASPACE: in the first token, where it was put in front */
};

struct decoder {
	uint32_t n_steps;
	struct decoder_step steps[DECODER_STEPS_MAX];
	bool byte_alphabet, byte_fallback;
	bool fused;
	struct decoder_step strip; /* of the start of the stream; start is 0 for none */
	bool spaces;		   /* there is no decoder: a space between tokens */
};

/* `json` is null for none. Finish it either way. -EINVAL, -ENOTSUP, -EFBIG, -ENOMEM. */
int decoder_load(const json_t *json, struct decoder *ret_decoder);
void decoder_finish(struct decoder *decoder);

/* One decoding: zeros, and a matcher that stays the caller's. */
struct decoding {
	const struct decoder *decoder;
	struct matcher *matcher;
	/*
	 * Characters are given as soon as they are whole, also of bytes that come token by token,
	 * where later tokens might show that the bytes are no text as a whole.
	 */
	bool streams;
	bool any;	   /* there was a token */
	uint64_t stripped; /* characters that DECODE_STRIP has cut from the start */
	bool strip_over;
	struct bytes token[2]; /* on its way through the steps */
	struct bytes pending;  /* bytes that are no character yet */
	struct bytes out;
};

/* Adds a token to `out`. -E2BIG, -ENOMEM. */
int decoding_add(struct decoding *d, struct span token);

/* Adds what was still waiting; the next token begins a new text. */
int decoding_end(struct decoding *d);

void decoding_finish(struct decoding *d);

#endif
