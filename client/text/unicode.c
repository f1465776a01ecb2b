/* SPDX-License-Identifier: MIT */
/*
 * unicode.c: normalisation forms and lower case, with the tables of utf8proc.
 *
 * Its utf8proc_map() sorts combining marks by swapping neighbours, which a text of nothing but
 * marks makes quadratic. So the sorting is ours: characters are decomposed one by one, runs of
 * marks are sorted by counting, and utf8proc composes the result.
 */
#include "client/text/unicode.h"

#include <stdlib.h>
#include <utf8proc.h>

#define DECOMPOSED_MAX 32 /* of one character; the longest in Unicode has 18 */
#define N_CLASSES 256

struct points {
	int32_t *data;
	size_t n, capacity;
};

static int points_reserve(struct points *p, size_t more)
{
	if (more <= p->capacity - p->n)
		return 0;
	return array_grow((void **)&p->data, p->n, &p->capacity, more, sizeof(*p->data));
}

static uint8_t combining_class(int32_t c)
{
	return (uint8_t)utf8proc_get_property(c)->combining_class;
}

static int decompose(enum unicode_form form, struct span in, struct points *out)
{
	int options = UTF8PROC_DECOMPOSE | UTF8PROC_STABLE;

	if (form == UNICODE_NFKC || form == UNICODE_NFKD)
		options |= UTF8PROC_COMPAT;
	for (size_t at = 0; at < in.n; at += utf8_length(in.data[at])) {
		int r = points_reserve(out, DECOMPOSED_MAX);
		if (r < 0)
			return r;
		utf8proc_ssize_t n = utf8proc_decompose_char((int32_t)utf8_decode(in.data + at),
			out->data + out->n, DECOMPOSED_MAX, options, NULL);
		if (n < 0 || n > DECOMPOSED_MAX)
			return text_fail(-EILSEQ, "a character could not be normalised: %s",
				utf8proc_errmsg(n));
		out->n += (size_t)n;
	}
	return 0;
}

/* Sorts a run of marks by their classes; equal ones keep their order. */
static void sort_run(int32_t *run, size_t n, int32_t *scratch)
{
	size_t starts[N_CLASSES + 1] = {0};

	for (size_t i = 0; i < n; i++)
		starts[combining_class(run[i]) + 1]++;
	for (size_t c = 0; c < N_CLASSES; c++)
		starts[c + 1] += starts[c];
	for (size_t i = 0; i < n; i++)
		scratch[starts[combining_class(run[i])]++] = run[i];
	memcpy(run, scratch, n * sizeof(*run));
}

static bool sorted(const int32_t *run, size_t n)
{
	for (size_t i = 1; i < n; i++)
		if (combining_class(run[i]) < combining_class(run[i - 1]))
			return false;
	return true;
}

static int sort_marks(struct points *p)
{
	int32_t *scratch = NULL;

	for (size_t at = 0; at < p->n;) {
		size_t n = 0;

		while (at + n < p->n && combining_class(p->data[at + n]) != 0)
			n++;
		if (n > 1 && !sorted(p->data + at, n)) {
			if (scratch == NULL)
				scratch = malloc(p->n * sizeof(*scratch));
			if (scratch == NULL)
				return text_no_memory();
			sort_run(p->data + at, n, scratch);
		}
		at += n + 1;
	}
	free(scratch);
	return 0;
}

static int append_points(const struct points *p, struct bytes *out)
{
	int r = bytes_reserve(out, p->n * UTF8_MAX);

	for (size_t i = 0; r == 0 && i < p->n; i++)
		out->n += utf8_encode((uint32_t)p->data[i], out->data + out->n);
	return r;
}

/* Normalises a stretch; `p` is scratch. */
static int normalize_stretch(
	enum unicode_form form, struct span in, struct points *p, struct bytes *out)
{
	p->n = 0;
	int r = decompose(form, in, p);
	if (r == 0)
		r = sort_marks(p);
	if (r < 0)
		return r;
	if (form == UNICODE_NFC || form == UNICODE_NFKC)
		p->n = (size_t)utf8proc_normalize_utf32(
			p->data, (utf8proc_ssize_t)p->n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
	return append_points(p, out);
}

/* Length of the beginning that has to be looked at: up to the ASCII character after the next. */
static size_t stretch_length(struct span in)
{
	size_t n = 1;

	while (n < in.n && (in.data[n] & 0x80) != 0)
		n++;
	return n;
}

/*
 * ASCII stays as it is, except that a mark may combine with the ASCII character in front of it.
 * So the text is cut before each ASCII character, and stretches of one are copied.
 */
int unicode_normalize(enum unicode_form form, struct span in, struct bytes *out)
{
	struct points scratch = {0};
	int r = bytes_reserve(out, in.n);

	for (size_t at = 0; r == 0 && at < in.n;) {
		struct span rest = span_of(in.data + at, in.n - at);
		struct span stretch = span_of(rest.data, stretch_length(rest));

		if (stretch.n == 1)
			r = bytes_append(out, stretch.data, 1);
		else
			r = normalize_stretch(form, stretch, &scratch, out);
		at += stretch.n;
	}
	free(scratch.data);
	return r;
}

int unicode_lowercase(struct span in, struct bytes *out)
{
	/* A character becomes at most a half longer (U+023A, 2 bytes, has a lower case of 3). */
	int r = bytes_reserve(out, 2 * in.n);

	if (r < 0)
		return r;
	for (size_t at = 0; at < in.n; at += utf8_length(in.data[at])) {
		uint32_t c = utf8_decode(in.data + at);

		if (c == 0x130) { /* the only one that becomes two characters */
			out->n += utf8_encode('i', out->data + out->n);
			c = 0x307;
		} else {
			c = (uint32_t)utf8proc_tolower((int32_t)c);
		}
		out->n += utf8_encode(c, out->data + out->n);
	}
	return 0;
}
