/* SPDX-License-Identifier: MIT */
/* text.c: errors, growing arrays, UTF-8 and the byte alphabet, for the rest of the library. */
#include "client/text/text.h"

#include "client/gpuq.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int text_fail(int error, const char *format, ...)
{
	char sentence[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(sentence, sizeof(sentence), format, args);
	va_end(args);
	return gpuq_error_set(error, sentence);
}

int text_no_memory(void)
{
	return text_fail(-ENOMEM, "no memory");
}

int array_grow(void **data, size_t n, size_t *capacity, size_t more, size_t size)
{
	size_t wanted = *capacity < 16 ? 16 : *capacity;

	if (more > SIZE_MAX / 4 / size - n)
		return text_no_memory();
	while (wanted < n + more)
		wanted *= 2;
	if (wanted == *capacity)
		return 0;
	void *larger = realloc(*data, wanted * size);
	if (larger == NULL)
		return text_no_memory();
	*data = larger;
	*capacity = wanted;
	return 0;
}

int bytes_reserve(struct bytes *b, size_t more)
{
	if (more <= b->capacity - b->n)
		return 0;
	return array_grow((void **)&b->data, b->n, &b->capacity, more, 1);
}

int bytes_append(struct bytes *b, const char *data, size_t n)
{
	int r = bytes_reserve(b, n);

	if (r < 0)
		return r;
	if (n > 0)
		memcpy(b->data + b->n, data, n);
	b->n += n;
	return 0;
}

int ids_reserve(struct ids *ids, size_t more)
{
	if (more <= ids->capacity - ids->n)
		return 0;
	return array_grow((void **)&ids->data, ids->n, &ids->capacity, more, sizeof(*ids->data));
}

char *span_copy(struct span s)
{
	char *copy = malloc(s.n + 1);

	if (copy == NULL)
		return NULL;
	memcpy(copy, s.data, s.n);
	copy[s.n] = '\0';
	return copy;
}

/* --- Files ----------------------------------------------------------------------------------- */

static int read_all(int fd, const char *path, size_t max, struct bytes *out)
{
	ssize_t n;

	do {
		if (out->n > max)
			return text_fail(-EFBIG, "%s has more than %zu bytes", path, max);
		int r = bytes_reserve(out, 1u << 16);
		if (r < 0)
			return r;
		n = read(fd, out->data + out->n, out->capacity - out->n);
		if (n > 0)
			out->n += (size_t)n;
	} while (n > 0 || (n < 0 && errno == EINTR));
	return n < 0 ? text_fail(-errno, "%s: %s", path, strerrordesc_np(errno)) : 0;
}

int text_read_file(const char *path, size_t max, struct bytes *out)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return text_fail(-errno, "%s: %s", path, strerrordesc_np(errno));
	int r = read_all(fd, path, max, out);
	close(fd);
	return r;
}

/* --- UTF-8 ----------------------------------------------------------------------------------- */

enum utf8_state utf8_classify(const char *s, size_t n, size_t *ret_length)
{
	unsigned char lead = (unsigned char)s[0];
	size_t length = utf8_length(s[0]);
	/* What the second byte may be: no long forms, no surrogates, nothing above U+10FFFF. */
	unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
	unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;

	*ret_length = 1;
	if (lead < 0x80)
		return UTF8_GOOD;
	if (lead < 0xc2 || lead > 0xf4)
		return UTF8_BAD;
	for (size_t i = 1; i < length; i++) {
		*ret_length = i;
		if (i == n)
			return UTF8_SHORT;
		if ((unsigned char)s[i] < low || (unsigned char)s[i] > high)
			return UTF8_BAD;
		low = 0x80;
		high = 0xbf;
	}
	*ret_length = length;
	return UTF8_GOOD;
}

size_t utf8_valid(struct span text)
{
	size_t at = 0, length;

	while (at < text.n) {
		if (text.n - at >= 32 && is_ascii(span_of(text.data + at, 32)))
			length = 32;
		else if (utf8_classify(text.data + at, text.n - at, &length) != UTF8_GOOD)
			break;
		at += length;
	}
	return at;
}

uint32_t utf8_decode(const char *s)
{
	const unsigned char *u = (const unsigned char *)s;

	switch (utf8_length(s[0])) {
	case 1:
		return u[0];
	case 2:
		return (u[0] & 0x1fu) << 6 | (u[1] & 0x3fu);
	case 3:
		return (u[0] & 0x0fu) << 12 | (u[1] & 0x3fu) << 6 | (u[2] & 0x3fu);
	default:
		return (u[0] & 0x07u) << 18 | (u[1] & 0x3fu) << 12 | (u[2] & 0x3fu) << 6 |
			(u[3] & 0x3fu);
	}
}

size_t utf8_encode(uint32_t code_point, char *out)
{
	size_t n = code_point < 0x80 ? 1 : code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
	static const unsigned char marks[] = {0, 0, 0xc0, 0xe0, 0xf0};

	for (size_t i = n - 1; i > 0; i--) {
		out[i] = (char)(0x80 | (code_point & 0x3f));
		code_point >>= 6;
	}
	out[0] = (char)(marks[n] | code_point);
	return n;
}

static bool is_space(uint32_t c)
{
	return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
		(c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
		c == 0x205f || c == 0x3000;
}

size_t space_at_start(struct span s)
{
	size_t at = 0;

	while (at < s.n && is_space(utf8_decode(s.data + at)))
		at += utf8_length(s.data[at]);
	return at;
}

size_t space_at_end(struct span s)
{
	size_t at = s.n;

	while (at > 0) {
		size_t previous = utf8_previous(s.data, at);

		if (!is_space(utf8_decode(s.data + previous)))
			break;
		at = previous;
	}
	return s.n - at;
}

/* --- The byte alphabet ----------------------------------------------------------------------- */

/*
 * Bytes that are visible in Latin-1 stand for themselves; the others are numbered in their order
 * from U+0100 on: 00-20 -> U+0100.., 7f-a0 -> U+0121.., ad -> U+0143.
 */
static uint32_t byte_character(unsigned char byte)
{
	if (byte <= 0x20)
		return 0x100u + byte;
	if (byte >= 0x7f && byte <= 0xa0)
		return 0x121u + byte - 0x7f;
	return byte == 0xad ? 0x143u : byte;
}

int byte_alphabet_append(struct bytes *out, struct span s)
{
	int r = bytes_reserve(out, 2 * s.n);

	if (r < 0)
		return r;
	for (size_t i = 0; i < s.n; i++)
		out->n += utf8_encode(byte_character((unsigned char)s.data[i]), out->data + out->n);
	return 0;
}

int byte_alphabet_find(uint32_t c)
{
	if (c >= 0x100 && c <= 0x120)
		return (int)c - 0x100;
	if (c >= 0x121 && c <= 0x142)
		return (int)c - 0x121 + 0x7f;
	if (c == 0x143)
		return 0xad;
	return c < 0x100 && byte_character((unsigned char)c) == c ? (int)c : -1;
}
