/* SPDX-License-Identifier: MIT */
/*
 * gpuq-text.h: text for language models, in the process that uses it: a tokenizer that reads the
 * tokenizer.json of a Hugging Face model and gives the ids that the `tokenizers` library gives; a
 * sampler that chooses the next token by the caller's own policy; stop strings.
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
 * Threads. A tokenizer does not change: any number of threads use it. An encoder, a decoder, a
 * sampler or a stop belongs to one thread at a time; a tokenizer outlives its encoders and
 * decoders.
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

/* A piece of a text. In a literal one the text of a special token is text. */
struct gpuq_text_part {
	const char *text;
	size_t bytes;
	bool literal;
};

/*
 * Encodes what the parts make together, as one text: special tokens of the caller's own around
 * words of somebody who is not trusted. A special token that the file wants normalised is found
 * only where no literal part is near. Otherwise as gpuq_encode().
 */
GPUQ_EXPORT int64_t gpuq_encode_parts(struct gpuq_encoder *encoder,
	const struct gpuq_text_part *parts, uint32_t n, uint32_t flags, const uint32_t **ret_ids);

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

/* --- Sampler --------------------------------------------------------------------------------- */

/*
 * A sampler chooses the next token from what a step of a model gives. That need not be the row of
 * all logits: the greatest ones, the log-sum-exp and the entropy of all, and a few logits by name
 * nearly always decide. Where they do not, gpuq_sampler_draw() asks for the full row; so each
 * token has exactly the probability that it has with the full row, and the same random number
 * gives the same token either way.
 *
 *	gpuq_sampler_want(s, &want);
 *	(a step with want.temperature, want.n_candidates and want.ids, or with the full row)
 *	int64_t token = gpuq_sampler_draw(s, &row, NULL);
 *	if (token == -EAGAIN)
 *		(the same step with the full row) token = gpuq_sampler_draw(s, &row, NULL);
 *	gpuq_sampler_accept(s, (uint32_t)token);
 *
 * What is done to the logits l[v], in this order; what is 0 in the policy is not done:
 *
 *   bias               l[v] += bias of v
 *   repetition_penalty l[v] = l[v] > 0 ? l[v] / r : l[v] * r, where the text has v (Keskar 2019)
 *   presence_penalty,  l[v] -= presence + frequency * (how often the text has v), where the text
 *   frequency_penalty    has v (the OpenAI API); the text is the last penalty_tokens accepted ones
 *   constraint         what the caller's own functions say
 *   temperature        p = softmax(l / T)
 *   top_k              keeps the k greatest, of equal ones the least ids (Fan 2018)
 *   top_p              keeps the fewest greatest with sum of p >= top_p (Holtzman 2020)
 *   min_p              keeps those with p >= min_p * the greatest p (Nguyen 2024)
 *   typical_p          keeps, in the order of |log p - mean of log p under p|, the fewest with
 *                        sum of p >= typical_p, and what has the logit of the last of them
 *                        (Meister 2022)
 *
 * p is made to sum to 1 again after each. This is the order of Hugging Face's transformers, whose
 * top_k keeps all that are equal to the last one, though. llama.cpp has the same order but for
 * typical_p before top_p and the temperature at the end. After the penalties, and again after the
 * constraint, a logit is a float. A NaN counts as -inf, which is never drawn; a +inf as the
 * greatest float. Temperature 0 takes the greatest logit, of equal ones the least id, and does
 * nothing below "constraint".
 *
 * Random numbers: draw n (from 0) with seed s has
 *	u = floor(mix(mix(s) + (n + 1) * 0x9e3779b97f4a7c15) / 2^11) / 2^53
 * where mix() is the output function of SplitMix64 (Steele 2014), and takes the first token,
 * greatest logit first and of equal ones least id first, at which the sum of p exceeds u.
 */
struct gpuq_sampler;

struct gpuq_logit_bias {
	uint32_t id;
	float bias; /* -inf forbids the token; several for one id are added */
};

/* What a constraint says of the next token. Zeros: anything goes. */
struct gpuq_sampler_rule {
	/* Everything but these is forbidden, when `restricted`. */
	bool restricted;
	uint32_t n_allowed;
	const uint32_t *allowed;
	/* Those whose logits change() wants to see; forbidden ones are left out. */
	uint32_t n_ids;
	const uint32_t *ids;
};

/*
 * The caller's own policy, such as a grammar. Both functions return 0, or a negative number that
 * ends the call of the sampler and is its result.
 */
struct gpuq_sampler_constraint {
	/*
	 * Fills *rule, which has zeros, for the next token; called once for each. Its arrays stay
	 * as they are until the next call with this sampler. NULL: anything goes.
	 */
	int (*rule)(void *context, struct gpuq_sampler_rule *rule);
	/*
	 * Changes the logits of the ids that rule() named, which come in ascending order, each
	 * once. May be called twice for one token, and then does the same to the same. May be NULL.
	 */
	int (*change)(void *context, const uint32_t *ids, uint32_t n, float *logits);
	void *context;
};

/* A policy. Zeros: the greatest logit. */
struct gpuq_sampling {
	float temperature;	  /* 0, or 1e-30 to 1e30 */
	uint32_t top_k;		  /* 0: all */
	float top_p;		  /* 0 to 1; 0 and 1: all */
	float min_p;		  /* 0 to 1 */
	float typical_p;	  /* 0 to 1; 0 and 1: all */
	float repetition_penalty; /* above 0; 0 and 1: none */
	float presence_penalty, frequency_penalty;
	uint32_t penalty_tokens; /* 0: all that were accepted; at most 2^24 */
	uint32_t n_biases;
	const struct gpuq_logit_bias *biases; /* copied */
	struct gpuq_sampler_constraint constraint;
	uint64_t seed;
};

/* What a sampler wants of the next step. */
struct gpuq_sampler_want {
	bool full_row;	       /* less cannot do, or seldom did of late */
	float temperature;     /* that lse and entropy are of */
	uint32_t n_candidates; /* 0 to 64 */
	uint32_t n_ids;	       /* 0 to 256 */
	const int32_t *ids;    /* until the next call with this sampler */
};

struct gpuq_sampler_stats {
	uint64_t draws;	    /* tokens drawn */
	uint64_t full_rows; /* of these, from the full row */
};

/*
 * vocabulary: number of logits in a row, 1 to 2^31 - 1. Takes 4 bytes for each of them where a
 * constraint restricts, and 36 from the first full row on. -EINVAL (a value outside its range,
 * which the detail names), -ENOMEM.
 */
GPUQ_EXPORT int gpuq_sampler_create(const struct gpuq_sampling *sampling, uint32_t vocabulary,
	struct gpuq_sampler **ret_sampler);

/* NULL is fine. */
GPUQ_EXPORT void gpuq_sampler_destroy(struct gpuq_sampler *sampler);

/*
 * -EINVAL (the constraint names an id outside the vocabulary), -ENOMEM, what the constraint
 * returned.
 */
GPUQ_EXPORT int gpuq_sampler_want(struct gpuq_sampler *sampler, struct gpuq_sampler_want *ret_want);

/*
 * Draws a token and returns it. row: of a step that gave what was wanted, or the full row (only
 * logits is looked at then). More or fewer candidates do: they decide how often that is needed.
 * *ret_logprob (which may be NULL) is the token's log-probability after all of the policy, within
 * 1e-3, or NaN where the row does not tell; at temperature 0, under the softmax of what the
 * constraint left. Errors: -EAGAIN (only the full row tells; the next draw has the same random
 * number), -ENODATA (no token is left), -EINVAL (the row has a token outside the vocabulary, does
 * not descend or lacks what was wanted), -ENOMEM, what the constraint returned.
 */
GPUQ_EXPORT int64_t gpuq_sampler_draw(
	struct gpuq_sampler *sampler, const struct gpuq_row *row, double *ret_logprob);

/*
 * Says which token comes next in the text: one that was drawn, another, or one of the prompt.
 * -EINVAL (outside the vocabulary), -ENOMEM.
 */
GPUQ_EXPORT int gpuq_sampler_accept(struct gpuq_sampler *sampler, uint32_t id);

/* Forgets the text and begins again with the first random number. The statistics stay. */
GPUQ_EXPORT void gpuq_sampler_reset(struct gpuq_sampler *sampler);

GPUQ_EXPORT void gpuq_sampler_stats(
	const struct gpuq_sampler *sampler, struct gpuq_sampler_stats *ret_stats);

/* --- Stop strings ---------------------------------------------------------------------------- */

/*
 * Finds the first of some strings that a stream of text comes to the end of, of several that end
 * together the longest, and never gives a part of it: what may become one is held back.
 */
struct gpuq_stop;

/* strings: n of them, with zeros behind them, copied. -EINVAL (an empty one), -ENOMEM. */
GPUQ_EXPORT int gpuq_stop_create(
	const char *const *strings, uint32_t n, struct gpuq_stop **ret_stop);

/* NULL is fine. */
GPUQ_EXPORT void gpuq_stop_destroy(struct gpuq_stop *stop);

/*
 * Takes more of the text and returns how many bytes of it can be given on; *ret_text has them
 * until the next call. Where strings and pieces are whole characters, so is what comes back. After
 * a stop string nothing more comes. -ENOMEM.
 */
GPUQ_EXPORT int64_t gpuq_stop_push(
	struct gpuq_stop *stop, const char *text, size_t bytes, const char **ret_text);

/*
 * Ends a text: returns the length of what was held back, *ret_text has it; 0 after a stop string.
 * The next push begins a new text.
 */
GPUQ_EXPORT size_t gpuq_stop_finish(struct gpuq_stop *stop, const char **ret_text);

/* Which string the text stopped at, or -1; until the next text begins. */
GPUQ_EXPORT int64_t gpuq_stop_found(const struct gpuq_stop *stop);

/* --- Writer ---------------------------------------------------------------------------------- */

/*
 * A writer goes on with a text: a session of a model, its tokenizer, a sampler and stop strings.
 *
 *	gpuq_writer_create(channel, &options, &w);
 *	gpuq_writer_read(w, "Once upon a time", 16, GPUQ_ENCODE_SPECIAL);
 *	while (n_tokens-- > 0 && gpuq_writer_next(w, &written) > 0)
 *		fwrite(written.text, 1, written.bytes, stdout);
 *
 * It belongs to the channel's thread. While a function of it runs, nothing else may be in flight
 * in the channel, and only one writer's does at a time; each may use a channel of its own.
 */
struct gpuq_writer;

struct gpuq_writer_options {
	const char *model;			/* its name in gpuqd */
	const struct gpuq_tokenizer *tokenizer; /* outlives the writer */
	struct gpuq_sampling sampling;
	uint32_t n_stops;
	const char *const *stops; /* copied */
	bool ignore_end;	  /* a token that ends a text is one like others */
	/*
	 * 0: each token is drawn here. Else the device draws, so many in one request, but the first
	 * behind what was read alone: for throughput. Its policy is the temperature (others are
	 * -ENOTSUP), its random numbers are its own, and what is written is the same for any number
	 * from 1 on.
	 */
	uint32_t fused;
	/* Asked before each request to gpuqd: true ends the call with -ECANCELED. May be NULL. */
	bool (*cancelled)(void *context);
	void *cancel_context;
};

/*
 * Opens a session. Where a row of all logits may be needed, the channel's arena has room for it: 4
 * bytes for each token of the vocabulary. Errors of gpuq_model_find(), gpuq_session_open(),
 * gpuq_step_create(), gpuq_sampler_create(), gpuq_stop_create(); -ENOTSUP (see fused); -ENOMEM.
 */
GPUQ_EXPORT int gpuq_writer_create(struct gpuq_channel *channel,
	const struct gpuq_writer_options *options, struct gpuq_writer **ret_writer);

/* NULL is fine. */
GPUQ_EXPORT void gpuq_writer_destroy(struct gpuq_writer *writer);

/*
 * Appends text that was not written but given: a prompt, an answer. Returns how many tokens it
 * has. Nothing is computed yet. Errors of gpuq_encode(); -GPUQ_ETOKEN (the model has no such
 * token: another tokenizer's).
 */
GPUQ_EXPORT int64_t gpuq_writer_read(
	struct gpuq_writer *writer, const char *text, size_t bytes, uint32_t flags);

/* One token more. */
struct gpuq_written {
	uint32_t token;
	double logprob;	  /* as gpuq_sampler_draw() gives it */
	const char *text; /* what has become certain, until the next call; may be nothing */
	size_t bytes;
	/* What the requests for it took on the device; fused, a request's first token has all. */
	uint64_t executed_ns;
};

/*
 * Writes one token. 1; 0 when the text has ended (see gpuq_writer_end()), until more is read; or
 * an error of a step's completion or of gpuq_sampler_draw(), -EINVAL before anything was read,
 * -ECANCELED (it can be called again). The token that ends a text is written too, without text of
 * its own.
 */
GPUQ_EXPORT int gpuq_writer_next(struct gpuq_writer *writer, struct gpuq_written *ret_written);

/* When no more tokens are wanted: returns the length of what was held back, *ret_text has it. */
GPUQ_EXPORT int64_t gpuq_writer_finish(struct gpuq_writer *writer, const char **ret_text);

enum gpuq_writer_end {
	GPUQ_WRITER_GOES_ON = 0,
	GPUQ_WRITER_END_TOKEN,	 /* the model has ended the text */
	GPUQ_WRITER_STOP_STRING, /* it came to a stop string, which is not given */
};
GPUQ_EXPORT enum gpuq_writer_end gpuq_writer_end(const struct gpuq_writer *writer);

GPUQ_EXPORT void gpuq_writer_stats(
	const struct gpuq_writer *writer, struct gpuq_sampler_stats *ret_stats);

/* --- Chat ------------------------------------------------------------------------------------ */

/*
 * A chat is a writer whose text is a conversation: what somebody says is put into the form that
 * the model was trained with, and the writer then writes the answer, up to its end.
 *
 *	gpuq_chat_create(channel, &writer_options, &chat_options, &c);
 *	gpuq_chat_say(c, "Who are you?", 12);
 *	while (gpuq_writer_next(gpuq_chat_writer(c), &written) > 0)
 *		fwrite(written.text, 1, written.bytes, stdout);
 *
 * The session keeps all turns, so each costs its own tokens only. An answer may be left before its
 * end: what comes next closes it. The tokens are those of transformers' apply_chat_template()
 * with the templates that Llama 2 and Llama 3 came with and with plain ChatML, but for two things:
 * an answer keeps the tokens with which it was written, and the text of a special token in what
 * is said, or in the system prompt, is text. Some later templates add words of their own
 * (Llama 3.1: the date; Qwen: a system prompt); here the system prompt says what the caller says.
 */
struct gpuq_chat;

enum gpuq_chat_format {
	GPUQ_CHAT_LLAMA2 = 1, /* <s>[INST] <<SYS>> .. */
	GPUQ_CHAT_LLAMA3 = 2, /* <|start_header_id|>user<|end_header_id|> .. */
	GPUQ_CHAT_CHATML = 3, /* <|im_start|>user .. */
};

/* "llama2", "llama3", "chatml"; NULL for what is no format. Static. */
GPUQ_EXPORT const char *gpuq_chat_format_name(enum gpuq_chat_format format);

/*
 * The format that a model's folder asks for: its template, chat_template.jinja or else that in
 * tokenizer_config.json, is recognised by what it writes around a turn. A folder's special tokens
 * are no sign: models that never learnt to chat have them too. -ENOENT (there is no template),
 * -ENOTSUP (another format, which the detail names), -EINVAL (not JSON), and what else reading
 * may give.
 */
GPUQ_EXPORT int gpuq_chat_detect(const char *folder, enum gpuq_chat_format *ret_format);

struct gpuq_chat_options {
	enum gpuq_chat_format format;
	const char *system; /* NULL: none; copied */
};

/*
 * Opens a chat with a writer of its own, which ends its texts with the format's token too. Errors
 * of gpuq_writer_create(); -ENOTSUP (the tokenizer lacks a token of the format), -EINVAL (the
 * format).
 */
GPUQ_EXPORT int gpuq_chat_create(struct gpuq_channel *channel,
	const struct gpuq_writer_options *writer, const struct gpuq_chat_options *options,
	struct gpuq_chat **ret_chat);

/* NULL is fine. */
GPUQ_EXPORT void gpuq_chat_destroy(struct gpuq_chat *chat);

/* Belongs to the chat. */
GPUQ_EXPORT struct gpuq_writer *gpuq_chat_writer(const struct gpuq_chat *chat);

/*
 * Says something, so that the writer writes an answer next. Returns how many tokens it makes,
 * with all that goes around it; nothing is computed yet. Errors as gpuq_writer_read().
 */
GPUQ_EXPORT int64_t gpuq_chat_say(struct gpuq_chat *chat, const char *message, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
