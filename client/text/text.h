/* SPDX-License-Identifier: MIT */
/*
 * text.h: what the files of libgpuq-text share: errors with a sentence, growing arrays, UTF-8.
 * Text inside the library is valid UTF-8, checked where it comes in; it may hold zeros, so its
 * length travels with it.
 */
#ifndef GPUQ_TEXT_TEXT_H
#define GPUQ_TEXT_TEXT_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define NO_ID UINT32_MAX

/* Keeps the sentence for gpuq_error_detail() and returns `error`. */
int text_fail(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* -ENOMEM, with its sentence. */
int text_no_memory(void);

/* A piece of text that somebody else owns. */
struct span {
	const char *data;
	size_t n;
};

static inline struct span span_of(const char *data, size_t n)
{
	return (struct span){.data = data, .n = n};
}

static inline bool span_equal(struct span a, struct span b)
{
	return a.n == b.n && memcmp(a.data, b.data, a.n) == 0;
}

static inline bool span_starts_with(struct span text, struct span prefix)
{
	return text.n >= prefix.n && memcmp(text.data, prefix.data, prefix.n) == 0;
}

/* --- Growing arrays: zeros are empty ones ---------------------------------------------------- */

struct bytes {
	char *data;
	size_t n, capacity;
};

struct ids {
	uint32_t *data;
	size_t n, capacity;
};

/* Makes room for `more` elements of `size` bytes after the n that are there. -ENOMEM. */
int array_grow(void **data, size_t n, size_t *capacity, size_t more, size_t size);

int bytes_reserve(struct bytes *b, size_t more);
int bytes_append(struct bytes *b, const char *data, size_t n);
int ids_reserve(struct ids *ids, size_t more);

static inline int ids_append(struct ids *ids, uint32_t id)
{
	if (ids->n == ids->capacity) {
		int r = ids_reserve(ids, 1);
		if (r < 0)
			return r;
	}
	ids->data[ids->n++] = id;
	return 0;
}

static inline struct span bytes_span(const struct bytes *b)
{
	return span_of(b->data, b->n);
}

/* A copy with memory of its own; a zero follows it. NULL when there is no memory. */
char *span_copy(struct span s);

/* Appends what a file holds. What open() and read() may give; -EFBIG (more than max bytes). */
int text_read_file(const char *path, size_t max, struct bytes *out);

/* --- UTF-8 ----------------------------------------------------------------------------------- */

#define UTF8_MAX 4
#define UTF8_REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

enum utf8_state {
	UTF8_GOOD,  /* a character */
	UTF8_BAD,   /* bytes that never start one; one U+FFFD stands for all of them */
	UTF8_SHORT, /* the beginning of one */
};

/* What stands at s, n > 0 bytes, and its length. */
enum utf8_state utf8_classify(const char *s, size_t n, size_t *ret_length);

/* Length of the longest valid beginning. */
size_t utf8_valid(struct span text);

static inline size_t utf8_length(char lead)
{
	unsigned char c = (unsigned char)lead;

	return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

/* The character at s in valid text. */
uint32_t utf8_decode(const char *s);

/* Writes at most UTF8_MAX bytes; returns how many. */
size_t utf8_encode(uint32_t code_point, char *out);

/* Start of the character that ends before `at` > 0. */
static inline size_t utf8_previous(const char *s, size_t at)
{
	do {
		at--;
	} while (at > 0 && ((unsigned char)s[at] & 0xc0) == 0x80);
	return at;
}

static inline bool is_ascii(struct span s)
{
	size_t i = 0;
	uint64_t word;

	for (; i + sizeof(word) <= s.n; i += sizeof(word)) {
		memcpy(&word, s.data + i, sizeof(word));
		if ((word & 0x8080808080808080ull) != 0)
			return false;
	}
	for (; i < s.n; i++)
		if ((s.data[i] & 0x80) != 0)
			return false;
	return true;
}

/* Bytes of the run of White_Space that `s` starts with, or ends with. */
size_t space_at_start(struct span s);
size_t space_at_end(struct span s);

/* --- The byte alphabet of GPT-2: each byte has a visible character --------------------------- */

/* Appends the characters of all bytes. -ENOMEM. */
int byte_alphabet_append(struct bytes *out, struct span s);

/* The byte of a character of the alphabet, or -1. */
int byte_alphabet_find(uint32_t code_point);

#endif
