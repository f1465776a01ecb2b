/* SPDX-License-Identifier: MIT */
/*
 * stop.c: stop strings in a stream of text. Each string has a Knuth-Morris-Pratt automaton that
 * says how much of it the text ends with; the longest such piece is held back. So time is linear,
 * and what is found does not depend on where the stream is cut into pieces.
 */
#include "client/text/gpuq-text.h"
#include "client/text/text.h"

#include <stdlib.h>

struct stop_string {
	char *text;
	size_t n;
	size_t *borders; /* [n]; of the first i + 1 bytes: the longest that is also their end */
	size_t matched;	 /* bytes of it that the text ends with, less than n */
};

struct gpuq_stop {
	uint32_t n;
	struct stop_string *strings;
	int64_t found;
	bool ended;	   /* the next byte begins a new text */
	size_t given;	   /* bytes of `text` that were returned */
	struct bytes text; /* what is not forgotten */
};

/* Bytes of the string that the text ends with after one more byte. */
static size_t advance(const struct stop_string *s, size_t matched, char c)
{
	while (matched > 0 && s->text[matched] != c)
		matched = s->borders[matched - 1];
	return matched + (s->text[matched] == c);
}

static int string_init(struct stop_string *s, const char *text)
{
	s->n = strlen(text);
	if (s->n == 0)
		return text_fail(-EINVAL, "a stop string is empty");
	s->text = span_copy(span_of(text, s->n));
	s->borders = calloc(s->n, sizeof(*s->borders));
	if (s->text == NULL || s->borders == NULL)
		return text_no_memory();
	for (size_t i = 1; i < s->n; i++)
		s->borders[i] = advance(s, s->borders[i - 1], text[i]);
	return 0;
}

int gpuq_stop_create(const char *const *strings, uint32_t n, struct gpuq_stop **ret_stop)
{
	struct gpuq_stop *stop = calloc(1, sizeof(*stop));
	int r = 0;

	if (stop == NULL)
		return text_no_memory();
	stop->found = -1;
	stop->strings = calloc(n > 0 ? n : 1, sizeof(*stop->strings));
	if (stop->strings == NULL)
		r = text_no_memory();
	while (r == 0 && stop->n < n) {
		r = string_init(&stop->strings[stop->n], strings[stop->n]);
		stop->n++;
	}
	if (r < 0) {
		gpuq_stop_destroy(stop);
		return r;
	}
	*ret_stop = stop;
	return 0;
}

void gpuq_stop_destroy(struct gpuq_stop *stop)
{
	if (stop == NULL)
		return;
	for (uint32_t i = 0; i < stop->n; i++) {
		free(stop->strings[i].text);
		free(stop->strings[i].borders);
	}
	free(stop->strings);
	free(stop->text.data);
	free(stop);
}

/* Takes a byte; returns how many at the end of the text are to be held back. */
static size_t take(struct gpuq_stop *stop, char c)
{
	size_t held = 0;

	for (uint32_t i = 0; i < stop->n; i++) {
		struct stop_string *s = &stop->strings[i];
		struct stop_string *found = stop->found < 0 ? NULL : &stop->strings[stop->found];

		s->matched = advance(s, s->matched, c);
		if (s->matched == s->n && (found == NULL || s->n > found->n))
			stop->found = i;
		if (s->matched > held)
			held = s->matched;
	}
	return stop->found < 0 ? held : stop->strings[stop->found].n;
}

static void begin(struct gpuq_stop *stop)
{
	for (uint32_t i = 0; i < stop->n; i++)
		stop->strings[i].matched = 0;
	stop->text.n = stop->given = 0;
	stop->found = -1;
	stop->ended = false;
}

/* Forgets what was given. */
static void shift(struct gpuq_stop *stop)
{
	stop->text.n -= stop->given;
	if (stop->text.n > 0)
		memmove(stop->text.data, stop->text.data + stop->given, stop->text.n);
	stop->given = 0;
}

int64_t gpuq_stop_push(
	struct gpuq_stop *stop, const char *text, size_t bytes, const char **ret_text)
{
	size_t n = 0, held;

	if (stop->ended)
		begin(stop);
	shift(stop);
	held = stop->text.n;
	/* One byte more, so that there is an address even of no text. */
	int r = bytes_reserve(&stop->text, bytes + 1);
	if (r < 0)
		return r;
	while (n < bytes && stop->found < 0)
		held = take(stop, text[n++]);
	r = bytes_append(&stop->text, text, n);
	if (r < 0)
		return r;
	stop->given = stop->text.n - held;
	*ret_text = stop->text.data;
	return (int64_t)stop->given;
}

size_t gpuq_stop_finish(struct gpuq_stop *stop, const char **ret_text)
{
	shift(stop);
	stop->ended = true;
	*ret_text = stop->text.n > 0 ? stop->text.data : "";
	return stop->found < 0 ? stop->text.n : 0;
}

int64_t gpuq_stop_found(const struct gpuq_stop *stop)
{
	return stop->found;
}
