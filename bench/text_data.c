/* SPDX-License-Identifier: MIT */
/* text_data.c: a tokenizer for models that have random weights, and text for it to cut. */
#include "bench/text.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LETTERS "etaoinshrdlucmfwypvbgkjqxz" /* common ones first */
#define N_LETTERS 26u
#define SPACE "\xc4\xa0" /* as the byte alphabet writes it */
#define LEXICON 30000u

/* --- The tokenizer -------------------------------------------------------------------------- */

/* The visible character of a byte, in GPT-2's alphabet, as JSON has it. */
static void put_byte(FILE *f, uint32_t byte, uint32_t *next)
{
	const bool visible = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
	const uint32_t c = visible ? byte : 256 + (*next)++;

	if (c == '"' || c == '\\')
		fprintf(f, "\\%c", (char)c);
	else if (c < 128)
		fputc((int)c, f);
	else
		fprintf(f, "\\u%04x", c);
}

/*
 * Words with and without a space before them, shorter ones first: word n of a length is word n /
 * N_LETTERS of one letter less, and a letter. Bytes are the first 256 tokens.
 */
struct word {
	uint32_t prefix; /* the token that it begins with, NO_PREFIX for a single letter */
	char letter;
	bool spaced;
};
#define NO_PREFIX UINT32_MAX

static void put_word(FILE *f, const struct word *words, uint32_t n)
{
	const struct word *w = &words[n];

	if (w->prefix != NO_PREFIX)
		put_word(f, words, w->prefix);
	else if (w->spaced)
		fputs(SPACE, f);
	fputc(w->letter, f);
}

/* All words that begin a list of so many: first the letters, then each word's longer ones. */
static uint32_t make_words(struct word *words, uint32_t room)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < 2 * N_LETTERS && n < room; i++)
		words[n++] = (struct word){NO_PREFIX, LETTERS[i % N_LETTERS], i >= N_LETTERS};
	for (uint32_t prefix = 0; n < room; prefix++)
		for (uint32_t i = 0; i < N_LETTERS && n < room; i++)
			words[n++] = (struct word){prefix, LETTERS[i], words[prefix].spaced};
	return n;
}

static void write_model(FILE *f, const struct word *words, uint32_t n)
{
	uint32_t next = 0, id = 256;

	fputs(" \"model\": {\"type\": \"BPE\", \"dropout\": null,\n"
	      "  \"unk_token\": null, \"continuing_subword_prefix\": null,\n"
	      "  \"end_of_word_suffix\": null, \"fuse_unk\": false,\n"
	      "  \"byte_fallback\": false, \"ignore_merges\": true, \"vocab\": {",
		f);
	for (uint32_t byte = 0; byte < 256; byte++) {
		fputs(byte > 0 ? ", \"" : "\"", f);
		put_byte(f, byte, &next);
		fprintf(f, "\": %u", byte);
	}
	for (uint32_t i = 0; i < n; i++) {
		if (words[i].prefix == NO_PREFIX && !words[i].spaced)
			continue;
		fputs(",\n\"", f);
		put_word(f, words, i);
		fprintf(f, "\": %u", id++);
	}
	fputs("},\n \"merges\": [", f);
	for (uint32_t i = 0, written = 0; i < n; i++) {
		if (words[i].prefix == NO_PREFIX && !words[i].spaced)
			continue;
		fputs(written++ > 0 ? ",\n[\"" : "[\"", f);
		if (words[i].prefix != NO_PREFIX)
			put_word(f, words, words[i].prefix);
		else
			fputs(SPACE, f);
		fprintf(f, "\", \"%c\"]", words[i].letter);
	}
	fputs("]}}\n", f);
}

static void write_file(FILE *f, const struct word *words, uint32_t n)
{
	fputs("{\"version\": \"1.0\", \"added_tokens\": [], \"normalizer\": null,\n"
	      " \"post_processor\": null, \"decoder\": {\"type\": \"ByteLevel\",\n"
	      "  \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true},\n"
	      " \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [\n"
	      "  {\"type\": \"Split\", \"behavior\": \"Isolated\", \"invert\": false,\n"
	      "   \"pattern\": {\"Regex\": \"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
	      "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+"
	      "[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}},\n"
	      "  {\"type\": \"ByteLevel\", \"add_prefix_space\": false,\n"
	      "   \"trim_offsets\": true, \"use_regex\": false}]},\n",
		f);
	write_model(f, words, n);
}

int text_write_tokenizer(const struct llm_folder *folder, uint32_t vocab)
{
	const uint32_t n = vocab - 256 + N_LETTERS; /* letters are bytes already */
	struct word *words;
	int fd =
		openat(folder->fd, "tokenizer.json", O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
	FILE *f = fd < 0 ? NULL : fdopen(fd, "w");

	if (f == NULL)
		return errno == EEXIST ? 0 : -errno;
	words = calloc(n, sizeof(*words));
	if (words != NULL)
		write_file(f, words, make_words(words, n));
	free(words);
	return fclose(f) == 0 && words != NULL ? 0 : -EIO;
}

/* --- Text ----------------------------------------------------------------------------------- */

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* The same word for the same number: two to eleven letters, common ones more often. */
static int make_word(char *to, size_t room, uint32_t number)
{
	uint64_t state = number * 0x9e3779b97f4a7c15u + 1;
	const size_t n = 2 + next_random(&state) % 4 + next_random(&state) % 7;

	for (size_t i = 0; i < n && i + 1 < room; i++) {
		const double u = (double)(next_random(&state) >> 11) * 0x1p-53;

		to[i] = LETTERS[(size_t)(u * u * N_LETTERS)];
		to[i + 1] = '\0';
	}
	if (number % 16 == 5)
		to[0] = (char)(to[0] - 'a' + 'A');
	return (int)strlen(to);
}

void text_fill(char *to, size_t bytes, uint64_t seed)
{
	uint64_t state = seed * 2 + 1;

	for (size_t at = 0; at < bytes;) {
		/* Ranks as in a text: the r-th word about 1 / r as often as the first. */
		const double u = (double)(next_random(&state) >> 11) * 0x1p-53;
		const uint32_t rank = (uint32_t)pow(LEXICON, u);
		const uint64_t kind = next_random(&state) % 100;
		char piece[40], word[16];
		int n;

		make_word(word, sizeof(word), rank);
		if (kind < 2)
			n = snprintf(piece, sizeof(piece), " %u", rank);
		else
			n = snprintf(piece, sizeof(piece), "%s%s%s", at > 0 ? " " : "", word,
				kind < 8	    ? ","
					: kind < 14 ? "."
					: kind < 16 ? "\n"
					: kind < 17 ? "'s"
						    : "");
		for (int i = 0; i < n && at < bytes; i++)
			to[at++] = piece[i];
	}
}
