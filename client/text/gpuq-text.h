/* SPDX-License-Identifier: MIT */
/*
 * gpuq-text.h: text for language models, in the process that uses it: a tokenizer that reads the
 * tokenizer.json of a Hugging Face model and gives the ids that the `tokenizers` library gives.
 *
 *	struct gpuq_tokenizer *t;
 *	struct gpuq_encoder *e;
 *	const uint32_t *ids;
 *	gpuq_tokenizer_load("models/tiny", &t);
 *	gpuq_encoder_create(t, &e);
 *	int64_t n = gpuq_encode(e, "Once upon a time", 16, GPUQ_ENCODE_SPECIAL, &ids);
 *
 * What a file may say. Models: BPE, with or without byte_fallback and ignore_merges. Normalizers:
 * NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip, ByteLevel. Pre-tokenizers: ByteLevel,
 * Split, Metaspace, Digits, Punctuation, WhitespaceSplit. Post-processors: ByteLevel,
 * TemplateProcessing. Decoders: ByteLevel, ByteFallback, Fuse, Metaspace, Replace, Strip. All of
 * them in Sequences; truncation and padding of one text. Anything else is refused by name when the
 * file is loaded, never ignored. Characters are classified by the Unicode versions of PCRE2 and
 * utf8proc: those that are newer may be cut elsewhere than by another library.
 *
 * Errors. Functions return 0 or a count, or the negative of an errno value; gpuq_error_detail()
 * has the sentence. ret_ arguments are not touched on failure.
 *
 * Threads. A tokenizer does not change: any number of threads use it. An encoder or a decoder
 * belongs to one thread at a time; a tokenizer outlives its encoders and decoders.
 */
#ifndef GPUQ_TEXT_H
#define GPUQ_TEXT_H

#include "gpuq.h"

#ifdef __cplusplus
extern "C" {
#endif

struct gpuq_tokenizer;
struct gpuq_encoder; /* from text to ids */
struct gpuq_decoder; /* from ids to text */

/* --- Tokenizer ------------------------------------------------------------------------------- */

/*
 * Reads a tokenizer.json, or the one in a model's folder. Errors: -ENOENT, -EACCES and what else
 * opening and reading may give, -EINVAL (not JSON, or not a tokenizer), -ENOTSUP (something that
 * gpuq does not know, which the detail names), -EFBIG (beyond a limit), -ENOMEM.
 */
GPUQ_EXPORT int gpuq_tokenizer_load(const char *path, struct gpuq_tokenizer **ret_tokenizer);

/* The same from memory, which is not needed afterwards. */
GPUQ_EXPORT int gpuq_tokenizer_parse(
	const char *json, size_t bytes, struct gpuq_tokenizer **ret_tokenizer);

/* NULL is fine. */
GPUQ_EXPORT void gpuq_tokenizer_destroy(struct gpuq_tokenizer *tokenizer);

/* One more than the greatest id. There may be ids below it that no token has. */
GPUQ_EXPORT uint32_t gpuq_tokenizer_size(const struct gpuq_tokenizer *tokenizer);

/* The id of a token as the file writes it ("<s>", "\u0120the"), or -ENOENT. */
GPUQ_EXPORT int64_t gpuq_tokenizer_find(
	const struct gpuq_tokenizer *tokenizer, const char *token, size_t bytes);

/*
 * The token with an id, as the file writes it; followed by no zero, valid as long as the
 * tokenizer. Returns its length in bytes, or -ENOENT.
 */
GPUQ_EXPORT int64_t gpuq_tokenizer_token(
	const struct gpuq_tokenizer *tokenizer, uint32_t id, const char **ret_token);

/* Whether the file marks the id's token as special: decoding can leave it out. */
GPUQ_EXPORT bool gpuq_tokenizer_special(const struct gpuq_tokenizer *tokenizer, uint32_t id);

/* --- Encoding -------------------------------------------------------------------------------- */

enum {
	/* With the special tokens that the file puts around a text, such as <s>. */
	GPUQ_ENCODE_SPECIAL = 1 << 0,
	/* The text of a special token is text: for what comes from somebody who is not trusted. */
	GPUQ_ENCODE_LITERAL = 1 << 1,
};

/* Has about 2 MiB of memory of its own. -ENOMEM. */
GPUQ_EXPORT int gpuq_encoder_create(
	const struct gpuq_tokenizer *tokenizer, struct gpuq_encoder **ret_encoder);

/* NULL is fine. */
GPUQ_EXPORT void gpuq_encoder_destroy(struct gpuq_encoder *encoder);

/*
 * Encodes a text of UTF-8, which may hold zeros. flags: GPUQ_ENCODE_*. Returns the number of ids;
 * *ret_ids has them until the next call with this encoder. Time is about linear in the text,
 * whatever it is. Errors: -EILSEQ (not UTF-8; the detail says where), -EFBIG (256 MiB or more),
 * -E2BIG (a pattern of the file takes too long on it), -EINVAL (unknown flags, or a character
 * that the vocabulary lacks and has no unknown token for), -ENOMEM.
 */
GPUQ_EXPORT int64_t gpuq_encode(struct gpuq_encoder *encoder, const char *text, size_t bytes,
	uint32_t flags, const uint32_t **ret_ids);

/* --- Decoding -------------------------------------------------------------------------------- */

enum {
	/* Special tokens are left out. */
	GPUQ_DECODE_SKIP_SPECIAL = 1 << 0,
};

/* flags: GPUQ_DECODE_*. -EINVAL (unknown flags), -ENOMEM. */
GPUQ_EXPORT int gpuq_decoder_create(
	const struct gpuq_tokenizer *tokenizer, uint32_t flags, struct gpuq_decoder **ret_decoder);

/* NULL is fine. */
GPUQ_EXPORT void gpuq_decoder_destroy(struct gpuq_decoder *decoder);

/*
 * Decodes ids to the whole text that they are. Returns its length in bytes; *ret_text has it,
 * valid UTF-8 with U+FFFD for what is none and a zero behind it, until the next call with this
 * decoder. What was pushed before and not finished is forgotten. -EINVAL (an id that no token
 * has), -E2BIG, -ENOMEM.
 */
GPUQ_EXPORT int64_t gpuq_decode(
	struct gpuq_decoder *decoder, const uint32_t *ids, size_t n, const char **ret_text);

/*
 * Decodes the next id of a stream. Returns the length of the text that has become certain, which
 * may be 0: a character is given when all of its bytes are there, never a part of it. Text that
 * was given stays: where a run of byte tokens turns out not to be UTF-8, gpuq_decode() would have
 * replaced all of the run. Otherwise as gpuq_decode().
 */
GPUQ_EXPORT int64_t gpuq_decoder_push(
	struct gpuq_decoder *decoder, uint32_t id, const char **ret_text);

/* Ends a stream: gives what was waiting for more, as U+FFFD. The next id begins a new text. */
GPUQ_EXPORT int64_t gpuq_decoder_finish(struct gpuq_decoder *decoder, const char **ret_text);

#ifdef __cplusplus
}
#endif
#endif
